//! The marker: a small file that says which file of records holds, up to where, and how the process before this one ended.
//! It is replaced as a whole, after what it speaks of was made to last. So everything it speaks of must be there, and what is
//! there beyond it never counted.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::blocks::End;
use super::disk::Disk;
use super::error::Fault;

/// Its name, and that of the next one until it is whole.
pub(super) const NAME: &str = "current";
pub(super) const NEXT: &str = "current.new";

/// What it begins with, and its version.
const HEAD: [u8; 8] = *b"LRMARKER";
const VERSION: u32 = 1;

/// The longest that is read: more than any is.
const LONGEST: u64 = 4096;

/// What the marker says. An array of plain values on disk; fields are only ever added at its end, with a default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The number of the file of records. 0: there is none yet.
    pub(super) file: u64,
    /// Up to where it counts, in bytes.
    pub(super) length: u64,
    /// The checksum of its last block.
    pub(super) checksum: u32,
    /// Its length when it was begun with all records, in bytes.
    pub(super) begun: u64,
    /// The process that wrote it stopped in order: nothing was counted since.
    pub(super) clean: bool,
    /// The upper half of its epochs.
    pub(super) epoch: u32,
    /// The generation to go on with.
    pub(super) generation: u32,
    /// When it was written, in Unix milliseconds.
    pub(super) at: u64,
    /// The number of the process that wrote it, as [`Starts`](super::starts::Starts) counts them; 0: of none.
    #[serde(default)]
    pub(super) start: u64,
    /// The floor of rule R5 while it holds, in GPS seconds; else 0.
    #[serde(default)]
    pub(super) floor: u32,
}

impl Marker {
    /// Where the file of records ends.
    pub(super) const fn end(&self) -> End {
        End { length: self.length, checksum: self.checksum }
    }

    /// The name of the file of records.
    pub(super) fn records(&self) -> String {
        records(self.file)
    }

    /// Reads it; `None` where there is nothing at all.
    ///
    /// # Errors
    /// It is damaged, of another version, or missing where there are records.
    pub(super) fn read(disk: &dyn Disk) -> Result<Option<Self>, Fault> {
        let names = disk.names()?;
        if !names.iter().any(|name| name == NAME) {
            let orphan = names.iter().any(|name| number(name).is_some());
            return if orphan { Err(Fault::damaged("it is missing, and there are records", 0)) } else { Ok(None) };
        }
        let mut bytes = Vec::new();
        disk.read(NAME)?.take(LONGEST).read_to_end(&mut bytes)?;
        Self::parse(&bytes).map(Some)
    }

    fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let damaged = |what: &str| Fault::damaged(what, 0);
        let (rest, checksum) = bytes.split_last_chunk().ok_or_else(|| damaged("it is too short"))?;
        let body = rest.strip_prefix(&HEAD).ok_or_else(|| damaged("this is no marker of records"))?;
        if crc32fast::hash(rest) != u32::from_le_bytes(*checksum) {
            return Err(damaged("its checksum is wrong"));
        }
        let (version, body) = body.split_first_chunk().ok_or_else(|| damaged("it is too short"))?;
        match u32::from_le_bytes(*version) {
            VERSION => rmp_serde::from_slice(body).map_err(|error| damaged(&format!("it is no marker: {error}"))),
            version => Err(Fault::Version(version)),
        }
    }

    /// Writes the next marker, which does not hold before [`put`].
    ///
    /// # Errors
    /// It cannot be written. The present one holds on.
    pub(super) fn prepare(&self, disk: &mut dyn Disk) -> io::Result<()> {
        let mut bytes = [&HEAD[..], &VERSION.to_le_bytes()].concat();
        rmp_serde::encode::write(&mut bytes, self).map_err(io::Error::other)?;
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let mut file = disk.create(NEXT)?;
        file.write_all(&bytes)?;
        file.sync()
    }
}

/// Puts the marker that was prepared in the place of the present one.
///
/// # Errors
/// Either of the two may hold.
pub(super) fn put(disk: &mut dyn Disk) -> io::Result<()> {
    disk.rename(NEXT, NAME)?;
    disk.sync()
}

/// The name of a file of records.
pub(super) fn records(number: u64) -> String {
    format!("records-{number}")
}

/// The number in the name of a file of records.
pub(super) fn number(name: &str) -> Option<u64> {
    name.strip_prefix("records-")?.parse().ok()
}
