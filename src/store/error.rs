//! Why kept records cannot be read.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store cannot be opened. One line: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file is not what was written.
    #[error(
        "{} is damaged: {what}; put it back from a copy of {}, or start once with --set-aside-routes: the directory is renamed, \
         and every route is learned anew",
        path.display(), directory.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The directory of all of them.
        directory: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file is of a version that this program does not know.
    #[error(
        "{} is of version {version}, and this program knows version 1; start the program that wrote it, or start once with \
         --set-aside-routes: {} is renamed, and every route is learned anew",
        path.display(), directory.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The directory of all of them.
        directory: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A file cannot be read or written at all.
    #[error("cannot use {}: {source}; let this user read and write it and see that there is space, or name another --data-dir", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl OpenError {
    /// What the system answers about `path`.
    pub(super) fn of_file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// Whether the store can be opened without what is there.
    pub(super) const fn is_of_content(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Version { .. })
    }
}

/// What is wrong with a file.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is not what was written.
    Damaged { what: String, at: u64 },
    /// It is of this version.
    Version(u32),
    /// The system does not let it be read.
    Io(io::Error),
}

impl Fault {
    pub(super) fn damaged(what: &str, at: u64) -> Self {
        Self::Damaged { what: what.to_owned(), at }
    }

    /// The same at another byte.
    pub(super) fn at(self, at: u64) -> Self {
        match self {
            Self::Damaged { what, .. } => Self::Damaged { what, at },
            other => other,
        }
    }

    /// The error of whoever opens the store: the fault is in the file `name` of `directory`.
    pub(super) fn of(self, directory: &Path, name: &str) -> OpenError {
        let (path, directory) = (directory.join(name), directory.to_owned());
        match self {
            Self::Damaged { what, at } => OpenError::Damaged { path, directory, what: format!("{what} (byte {at})") },
            Self::Version(version) => OpenError::Version { path, directory, version },
            Self::Io(source) => OpenError::File { path, source },
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // It is there according to the marker.
            io::ErrorKind::NotFound => Self::damaged("it is missing", 0),
            io::ErrorKind::UnexpectedEof => Self::damaged("it ends too early", 0),
            _ => Self::Io(error),
        }
    }
}
