//! Where an export goes: a file that appears whole or not at all, or a stream that takes the bytes as they come.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::args::is_standard;

/// Links that are followed from one to the next, as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// What is at the path of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Standard output.
    Standard,
    /// A pipe or device, which is written to as it is.
    Stream(PathBuf),
    /// A file, or nothing yet. Links are followed, so that what they lead to is replaced and not they.
    File(PathBuf),
}

impl Place {
    /// Looks, and opens nothing.
    ///
    /// # Errors
    /// A folder; a path that cannot be looked at.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        if is_standard(path) {
            return Ok(Self::Standard);
        }
        match path.metadata() {
            Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if found.is_file() => path.canonicalize().map(Self::File),
            Ok(_) => Ok(Self::Stream(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => end_of_links(path).map(Self::File),
            Err(error) => Err(error),
        }
    }

    /// The folder of the file.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(folder(path)),
            Self::Standard | Self::Stream(_) => None,
        }
    }
}

/// Where a path leads at which nothing is.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match path.read_link() {
            Ok(to) => path = folder(&path).join(to),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many links lead from one to the next"))
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An open place.
#[derive(Debug)]
pub(super) enum Target {
    Standard(BufWriter<io::Stdout>),
    Stream(BufWriter<File>),
    /// Beside the file that it becomes, and for this user alone.
    File(BufWriter<NamedTempFile>, PathBuf),
}

impl Target {
    /// Waits at a pipe until somebody reads it.
    pub(super) fn open(place: &Place) -> io::Result<Self> {
        Ok(match place {
            Place::Standard => Self::Standard(BufWriter::new(io::stdout())),
            Place::Stream(path) => Self::Stream(BufWriter::new(OpenOptions::new().write(true).open(path)?)),
            Place::File(path) => Self::File(BufWriter::new(NamedTempFile::new_in(folder(path))?), path.clone()),
        })
    }

    /// Makes the file appear, once it is on the disk.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        let Self::File(file, path) = self else { return Ok(()) };
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        File::open(folder(&path))?.sync_all()
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(output) => output.write(bytes),
            Self::Stream(stream) => stream.write(bytes),
            Self::File(file, _) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(output) => output.flush(),
            Self::Stream(stream) => stream.flush(),
            Self::File(file, _) => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    use super::*;

    fn write(path: &Path, text: &str) -> io::Result<()> {
        let mut target = Target::open(&Place::of(path)?)?;
        target.write_all(text.as_bytes())?;
        target.finish()
    }

    #[test]
    fn a_file_appears_once_it_is_whole_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.ndjson");
        std::fs::write(&path, "before").unwrap();
        let mut target = Target::open(&Place::of(&path).unwrap()).unwrap();
        target.write_all(b"after").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
        target.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(Target::open(&Place::of(&path).unwrap()).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of one that is not finished");
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced_or_made() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("data")).unwrap();
        symlink("second", at("first")).unwrap();
        symlink("data/devices", at("second")).unwrap();
        for text in ["made", "replaced"] {
            write(&at("first"), text).unwrap();
            assert_eq!(std::fs::read_to_string(at("data/devices")).unwrap(), text);
            assert!(at("first").is_symlink() && at("second").is_symlink());
        }
        symlink("b", at("a")).unwrap();
        symlink("a", at("b")).unwrap();
        assert!(Place::of(&at("a")).is_err());
    }

    #[test]
    fn a_pipe_or_device_is_written_to_and_stays_and_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read_to_string(pipe).unwrap()
        });
        write(&pipe, "devices").unwrap();
        assert_eq!(reader.join().unwrap(), "devices");
        assert!(pipe.metadata().unwrap().file_type().is_fifo());
        assert_eq!(write(Path::new("/dev/full"), "devices").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(Place::of(folder.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
