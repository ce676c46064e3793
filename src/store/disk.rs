//! The directory of the records, as far as the store needs one: a seam, so that tests can fail any step, or keep of a
//! directory what a loss of power would leave.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A directory of files.
pub(super) trait Disk: Debug + Send {
    /// The names of all files. None where the directory is missing.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file to read it.
    fn read(&self, name: &str) -> io::Result<Box<dyn Source>>;

    /// Makes an empty file, in place of one of the same name. The name lasts once [`Self::sync`] has succeeded.
    fn create(&mut self, name: &str) -> io::Result<Box<dyn Sink>>;

    /// Opens a file, cut to `length` bytes, to go on behind them.
    fn append(&mut self, name: &str, length: u64) -> io::Result<Box<dyn Sink>>;

    /// Gives a file the name of another one, which goes: at once, or not at all.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Makes every name last.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is read.
pub(super) trait Source: Read + Seek {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// A file that is written.
pub(super) trait Sink: Debug + Send + Write {
    /// Makes everything that was written last.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts it to `length` bytes, and goes on there.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

/// A directory of this machine, for this user alone.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    /// The directory `path`, which is made if it is missing.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => sync(path.parent().unwrap_or(Path::new(".")))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(Self(path.to_owned()))
    }
}

/// Makes the names in the directory `path` last.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Disk for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.0)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Source>> {
        Ok(Box::new(File::open(self.0.join(name))?))
    }

    fn create(&mut self, name: &str) -> io::Result<Box<dyn Sink>> {
        let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.0.join(name));
        Ok(Box::new(options?))
    }

    fn append(&mut self, name: &str, length: u64) -> io::Result<Box<dyn Sink>> {
        let mut file = OpenOptions::new().write(true).open(self.0.join(name))?;
        file.cut(length)?;
        Ok(Box::new(file))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync(&mut self) -> io::Result<()> {
        sync(&self.0)
    }
}

impl Source for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Sink for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.seek(SeekFrom::Start(length)).map(drop)
    }
}
