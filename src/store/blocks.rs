//! The file of the records: blocks of rows, each with a checksum over everything before it, so that no byte can change, go or
//! come in the middle without being noticed. Where the file ends is said elsewhere: see [`super::marker`].
//!
//! ```text
//! file    "LRRECORD", version (u32), then blocks
//! block   length of the rows (u32), checksum (u32), rows
//! row     device id (u64), length of the value (u16), value; no value: the device was forgotten
//! value   version (u8), then the record as a MessagePack array
//! ```
//!
//! Numbers are little-endian. The checksum is the CRC-32 of length and rows, which goes on from that of the block before.

use std::io::{self, SeekFrom};

use crate::id::DeviceId;
use crate::table::kept::Kept;

use super::disk::{Sink, Source};
use super::error::Fault;

/// What a file begins with, version included.
const HEAD: [u8; 12] = *b"LRRECORD\x01\0\0\0";

/// The version of values.
const VALUE: u8 = 1;

/// Bytes before the rows of a block.
const BLOCK_HEAD: usize = 8;

/// Bytes before the value of a row.
const ROW_HEAD: usize = 10;

/// Rows are written once they have so many bytes: few calls, and little to hold.
const FULL: usize = 64 << 10;

/// The most bytes of rows in a block: what is full, and the longest row more. A length above this is damage, and no memory is
/// taken for it.
const LONGEST: usize = FULL + ROW_HEAD + u16::MAX as usize;

/// Rows whose devices are told of together before they are read.
const AHEAD: usize = 64;

/// Up to where a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    /// Bytes.
    pub(super) length: u64,
    /// The checksum of the last block, 0 before any.
    pub(super) checksum: u32,
}

/// Writes blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    file: Box<dyn Sink>,
    end: End,
    /// The head and the rows of the next block.
    block: Vec<u8>,
    rows: u64,
}

impl Blocks {
    /// Goes on in a file that ends at `end`; in an empty one if that is 0.
    ///
    /// # Errors
    /// An empty file cannot be written to.
    pub(super) fn at(mut file: Box<dyn Sink>, mut end: End) -> io::Result<Self> {
        if end.length == 0 {
            file.write_all(&HEAD)?;
            end.length = HEAD.len() as u64;
        }
        Ok(Self { file, end, block: vec![0; BLOCK_HEAD], rows: 0 })
    }

    /// Writes a record, or that its device was forgotten.
    ///
    /// # Errors
    /// The file cannot be written to. What was written since [`Self::end`] was asked for last is to be cut off.
    pub(super) fn write(&mut self, id: DeviceId, kept: Option<&Kept>) -> io::Result<()> {
        self.block.extend(id.0.to_le_bytes());
        let row = self.block.len();
        self.block.extend([0; 2]);
        if let Some(kept) = kept {
            self.block.push(VALUE);
            rmp_serde::encode::write(&mut self.block, kept).map_err(io::Error::other)?;
            let length = self.block.len() - row - 2;
            let length = u16::try_from(length).map_err(|_| io::Error::other("a record is too long"))?;
            self.block[row..row + 2].copy_from_slice(&length.to_le_bytes());
        }
        self.rows += 1;
        if self.block.len() >= FULL { self.end_block() } else { Ok(()) }
    }

    /// Makes everything last that was written; where the file ends then, and how many rows were written to it here.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(super) fn end_rows(&mut self) -> io::Result<(End, u64)> {
        self.end_block()?;
        Ok((self.end, std::mem::take(&mut self.rows)))
    }

    /// Makes what was written last.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    /// Takes back what was written behind `end`.
    pub(super) fn cut(&mut self, end: End) -> io::Result<()> {
        self.block.truncate(BLOCK_HEAD);
        self.rows = 0;
        self.end = end;
        self.file.cut(end.length)
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.block.len() == BLOCK_HEAD {
            return Ok(());
        }
        let length = (self.block.len() - BLOCK_HEAD) as u32;
        let checksum = checksum(self.end.checksum, length, &self.block[BLOCK_HEAD..]);
        self.block[..4].copy_from_slice(&length.to_le_bytes());
        self.block[4..BLOCK_HEAD].copy_from_slice(&checksum.to_le_bytes());
        self.file.write_all(&self.block)?;
        self.end = End { length: self.end.length + self.block.len() as u64, checksum };
        self.block.truncate(BLOCK_HEAD);
        Ok(())
    }
}

fn checksum(before: u32, length: u32, rows: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(&length.to_le_bytes());
    hasher.update(rows);
    hasher.finalize()
}

/// A block in a file.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Where its rows begin.
    at: u64,
    length: u32,
    checksum: u32,
    /// The checksum of the block before.
    before: u32,
}

/// Reads a file up to `end`, the last row first, so that of each device the present record comes first: `each` is told the
/// values, `None` for what was forgotten. Which devices they are of, `ahead` is told before: of a few at a time.
///
/// # Errors
/// What is wrong with the file, and at which byte.
pub(super) fn read_back(
    file: &mut dyn Source,
    end: End,
    ahead: impl Fn(&[DeviceId]),
    mut each: impl FnMut(DeviceId, Option<&[u8]>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let (mut rows, mut ids, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for place in places(file, end)?.into_iter().rev() {
        file.seek(SeekFrom::Start(place.at))?;
        rows.resize(place.length as usize, 0);
        file.read_exact(&mut rows)?;
        if checksum(place.before, place.length, &rows) != place.checksum {
            return Err(Fault::damaged("a checksum is wrong", place.at));
        }
        ids.clear();
        values.clear();
        let mut at = 0;
        while at < rows.len() {
            let (id, value) = row(&rows[at..]).ok_or_else(|| Fault::damaged("a row has no end", place.at))?;
            ids.push(id);
            let begin = at + ROW_HEAD;
            at = begin + value.len();
            values.push(begin..at);
        }
        for (ids, values) in ids.rchunks(AHEAD).zip(values.rchunks(AHEAD)) {
            ahead(ids);
            for (&id, value) in ids.iter().zip(values).rev() {
                let begin = place.at + (value.start - ROW_HEAD) as u64;
                let value = &rows[value.clone()];
                each(id, (!value.is_empty()).then_some(value)).map_err(|fault| fault.at(begin))?;
            }
        }
    }
    Ok(())
}

/// Where the blocks are.
fn places(file: &mut dyn Source, end: End) -> Result<Vec<Place>, Fault> {
    let length = file.length()?;
    if length < end.length {
        return Err(Fault::damaged("the file is shorter than what was written to it", length));
    }
    let mut head = [0; HEAD.len()];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut head)?;
    check_head(&head)?;
    let (mut places, mut at, mut before) = (Vec::new(), HEAD.len() as u64, 0);
    while at < end.length {
        let mut head = [0; BLOCK_HEAD];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut head)?;
        let [length, checksum] = [0, 4].map(|from| u32::from_le_bytes([0, 1, 2, 3].map(|byte| head[from + byte])));
        let next = at + BLOCK_HEAD as u64 + u64::from(length);
        if length as usize > LONGEST || next > end.length {
            return Err(Fault::damaged("a length is wrong", at));
        }
        places.push(Place { at: at + BLOCK_HEAD as u64, length, checksum, before });
        (at, before) = (next, checksum);
    }
    if before != end.checksum {
        return Err(Fault::damaged("the last checksum is not the one that was written", at));
    }
    Ok(places)
}

fn check_head(head: &[u8; HEAD.len()]) -> Result<(), Fault> {
    if head[..8] != HEAD[..8] {
        return Err(Fault::damaged("this is no file of records", 0));
    }
    if head[8..] != HEAD[8..] {
        return Err(Fault::Version(u32::from_le_bytes([8, 9, 10, 11].map(|at| head[at]))));
    }
    Ok(())
}

/// The first row of `rows`.
fn row(rows: &[u8]) -> Option<(DeviceId, &[u8])> {
    let (id, rest) = rows.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let value = rest.get(..usize::from(u16::from_le_bytes(*length)))?;
    Some((DeviceId(u64::from_le_bytes(*id)), value))
}

/// The record in a value.
///
/// # Errors
/// It is of another version, or no record.
pub(super) fn record(value: &[u8]) -> Result<Kept, Fault> {
    match value.split_first() {
        Some((&VALUE, record)) => {
            rmp_serde::from_slice(record).map_err(|error| Fault::damaged(&format!("no record: {error}"), 0))
        }
        Some((version, _)) => Err(Fault::Version(u32::from(*version))),
        None => Err(Fault::damaged("a value is empty", 0)),
    }
}
