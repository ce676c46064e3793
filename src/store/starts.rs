//! How often processes began to keep records in a data directory. That is written down beside the directory of the records, not in
//! it: so records that were put back from a copy, or taken away, are known for what they are, and a number that must never fall
//! does not fall with them.

use std::io::{self, Read, Write};

use super::disk::Disk;

/// The name of the file, and that of the next one until it is whole.
pub(super) const NAME: &str = "starts";
const NEXT: &str = "starts.new";

/// The longest that is read: two numbers are shorter.
const LONGEST: u64 = 64;

/// What is counted. One line of text: both numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Starts {
    /// Processes that began so far: the number of the last one. 0 where there was none, or nothing that can be read is left of it.
    pub(super) last: u64,
    /// How many of them found less than what was known before them.
    pub(super) losses: u32,
}

impl Starts {
    /// Reads it.
    ///
    /// # Errors
    /// The system does not let it be read.
    pub(super) fn read(disk: &dyn Disk) -> io::Result<Self> {
        let mut bytes = Vec::new();
        match disk.read(NAME) {
            Ok(file) => drop(file.take(LONGEST).read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Self::parse(&bytes).unwrap_or_default())
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let line = str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        let (last, losses) = line.split_once(' ')?;
        Some(Self { last: last.parse().ok()?, losses: losses.parse().ok()? })
    }

    /// Writes the next file, which does not hold before [`Self::put`].
    ///
    /// # Errors
    /// It cannot be written. The present one holds on.
    pub(super) fn prepare(self, disk: &mut dyn Disk) -> io::Result<()> {
        let mut file = disk.create(NEXT)?;
        file.write_all(format!("{} {}\n", self.last, self.losses).as_bytes())?;
        file.sync()
    }

    /// Puts the file that was prepared in the place of the present one.
    ///
    /// # Errors
    /// Either of the two may hold.
    pub(super) fn put(disk: &mut dyn Disk) -> io::Result<()> {
        disk.rename(NEXT, NAME)?;
        disk.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Memory;
    use super::*;

    #[test]
    fn it_is_read_as_it_was_put_and_not_before_that() {
        let mut disk = Memory::default();
        assert_eq!(Starts::read(&disk).unwrap(), Starts::default());
        let starts = Starts { last: u64::MAX, losses: 3 };
        starts.prepare(&mut disk).unwrap();
        assert_eq!(Starts::read(&disk).unwrap(), Starts::default());
        Starts::put(&mut disk).unwrap();
        assert_eq!(Starts::read(&disk).unwrap(), starts);
    }

    #[test]
    fn what_is_no_two_numbers_counts_nothing() {
        for bytes in ["", "1", "1 2", "1 -2\n", "1 2 3\n", "\u{1}\n"] {
            assert_eq!(Starts::parse(bytes.as_bytes()), None, "{bytes:?}");
        }
    }
}
