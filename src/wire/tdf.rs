//! TDF: runs of readings, and the announcement of a device's application among them (docs/protocol.md, TDF).
//!
//! Every reading can be stepped over without knowing its id. Only the announcements are interpreted; what the other
//! readings mean is the business of whoever collects them.

use std::fmt;

use super::Reader;
use crate::id::DeviceId;

/// Bytes that can hold no further reading: the smallest is a header, a length and one byte.
const MAX_TRAILING: usize = 3;
/// Greatest id of a reading; 0 and 4095 are padding.
const MAX_ID: u16 = 4094;
/// Id of the older announcement.
pub const ANNOUNCE_V1: u16 = 1;
/// Id of the announcement with board name.
pub const ANNOUNCE_V2: u16 = 7;
/// Bytes of the announcement with board name.
const ANNOUNCE_V2_LEN: usize = 29;

/// How the samples of one reading are laid out. The array header's second field, a period or an index, is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Array {
    /// One sample.
    Single,
    /// Samples at a fixed period.
    Time,
    /// A sample, then differences from sample to sample.
    Diff,
    /// Samples numbered from a first index.
    Index,
}

/// How a reading tells its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeKind {
    /// Not at all.
    None,
    /// In full.
    Absolute,
    /// As 16 bits after the time before it.
    Relative,
    /// As 24 signed bits from the time before it.
    Extended,
}

/// One reading: one or more samples of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// What was read, 1 to 4094.
    pub id: u16,
    /// How the time was written.
    pub time_kind: TimeKind,
    /// Time of the first sample in 1/65536 s since 1980-01-06T00:00:00Z without leap seconds. An extended time may reach
    /// back before that.
    pub time: Option<i64>,
    /// How the samples are laid out.
    pub array: Array,
    /// Bytes of one sample.
    pub sample_len: u8,
    /// Samples; 0 only in arrays that say so.
    pub count: u8,
    /// All samples. For [`Array::Diff`] the first one and the differences.
    pub data: &'a [u8],
}

impl<'a> Reading<'a> {
    /// The newest sample. `None` if there is none, and for the differences of [`Array::Diff`], which would have to be
    /// added up by fields.
    pub fn last_sample(&self) -> Option<&'a [u8]> {
        let whole = self.array != Array::Diff && self.count > 0;
        self.data.len().checked_sub(usize::from(self.sample_len)).filter(|_| whole).map(|at| &self.data[at..])
    }
}

/// Why the rest of a payload cannot be read. The readings before it stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TdfError {
    /// The payload ends inside a reading.
    #[error("the payload ends inside reading {id}")]
    Cut {
        /// The reading.
        id: u16,
    },
    /// A time relative to one before it, and there is none.
    #[error("reading {id} counts from the time before it, and there is none")]
    NoBase {
        /// The reading.
        id: u16,
    },
    /// Differences of no known size, or samples that are not whole fields.
    #[error("reading {id} has differences of no known form")]
    Differences {
        /// The reading.
        id: u16,
    },
}

/// The readings of a payload, in order. Ends at the end, at padding, or after the first fault.
#[derive(Clone, Debug)]
pub struct Readings<'a> {
    rest: Reader<'a>,
    /// The time that relative times count from.
    base: Option<i64>,
}

/// Reads the plaintext of a TDF packet, or what [`split_remote`] left of a TDF_REMOTE. Nothing is read ahead.
pub const fn readings(payload: &[u8]) -> Readings<'_> {
    Readings { rest: Reader(payload), base: None }
}

/// Takes the id of the device that made the readings off the front of a TDF_REMOTE payload; `None` if it has no room
/// for one.
pub fn split_remote(payload: &[u8]) -> Option<(DeviceId, &[u8])> {
    let mut rest = Reader(payload);
    let device_id = DeviceId(rest.u64()?);
    Some((device_id, rest.0))
}

impl<'a> Readings<'a> {
    /// The bytes not read yet; padding stays unread.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest.0
    }

    /// What follows the two bytes of a reading's header.
    #[inline(always)]
    fn read(&mut self, header: u16) -> Result<Reading<'a>, TdfError> {
        let id = header & 0x0fff;
        let cut = TdfError::Cut { id };
        let sample_len = self.rest.u8().ok_or(cut)?;
        let (time_kind, time) = self.time(id, header >> 14)?;
        let array = [Array::Single, Array::Time, Array::Diff, Array::Index][usize::from(header >> 12 & 3)];
        let number = if array == Array::Single {
            1
        } else {
            let [number, _, _] = self.rest.array().ok_or(cut)?;
            number
        };
        let (count, data_len) = if array == Array::Diff {
            differences(sample_len, number).ok_or(TdfError::Differences { id })?
        } else {
            (number, usize::from(sample_len) * usize::from(number))
        };
        let data = self.rest.bytes(data_len).ok_or(cut)?;
        Ok(Reading { id, time_kind, time, array, sample_len, count, data })
    }

    /// The time of a reading. Every time but none moves the base.
    #[inline(always)]
    fn time(&mut self, id: u16, kind: u16) -> Result<(TimeKind, Option<i64>), TdfError> {
        let cut = TdfError::Cut { id };
        let base = self.base.ok_or(TdfError::NoBase { id });
        let (kind, time) = match kind {
            0 => return Ok((TimeKind::None, None)),
            1 => {
                let seconds = self.rest.u32().ok_or(cut)?;
                let fraction = self.rest.u16().ok_or(cut)?;
                (TimeKind::Absolute, i64::from(seconds) << 16 | i64::from(fraction))
            }
            2 => (TimeKind::Relative, base? + i64::from(self.rest.u16().ok_or(cut)?)),
            _ => {
                let [low, middle, high] = self.rest.array().ok_or(cut)?;
                (TimeKind::Extended, base? + i64::from(i32::from_le_bytes([0, low, middle, high]) >> 8))
            }
        };
        self.base = Some(time);
        Ok((kind, Some(time)))
    }
}

/// Samples and bytes of an array of differences. Sizes are chosen by the upper bits of `number`.
fn differences(sample_len: u8, number: u8) -> Option<(u8, usize)> {
    let (field_len, difference_len) = match number >> 6 {
        1 => (2, 1),
        2 => (4, 1),
        3 => (4, 2),
        _ => return None,
    };
    let differences = number & 63;
    let sample_len = usize::from(sample_len);
    let bytes = sample_len + usize::from(differences) * (sample_len / field_len) * difference_len;
    sample_len.is_multiple_of(field_len).then_some((1 + differences, bytes))
}

impl<'a> Iterator for Readings<'a> {
    type Item = Result<Reading<'a>, TdfError>;

    // Whoever goes through readings wants little of each: where this is part of him, the rest is never put together.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let mut ahead = self.rest;
        let header = ahead.u16().filter(|_| self.rest.remaining() > MAX_TRAILING)?;
        if !(1..=MAX_ID).contains(&(header & 0x0fff)) {
            return None;
        }
        self.rest = ahead;
        let reading = self.read(header);
        if reading.is_err() {
            self.rest = Reader(&[]);
        }
        Some(reading)
    }
}

impl std::iter::FusedIterator for Readings<'_> {}

/// The version of an application. Displays as `1.2.3+0000004d`, the build number in hex.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Version {
    /// Incompatible changes.
    pub major: u8,
    /// Additions.
    pub minor: u8,
    /// Corrections.
    pub revision: u16,
    /// Build number.
    pub build: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}+{:08x}", self.major, self.minor, self.revision, self.build)
    }
}

/// What a device says of itself (docs/protocol.md, announcements).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Which application it runs.
    pub application_id: u32,
    /// The application's version.
    pub version: Version,
    /// CRC of the board's name; absent in the older form.
    pub board_crc: Option<u16>,
    /// CRC of its key-value store.
    pub kv_crc: u32,
    /// Blocks logged; `u32::MAX` while the logger is not ready.
    pub blocks: u32,
    /// Seconds since boot.
    pub uptime: u32,
    /// Reboots so far.
    pub reboots: u16,
    /// Bit 0: the blocks are on removable storage. Bit 7, not in the older form: the application is not active.
    pub flags: u8,
}

impl Announce {
    /// The announcement in a reading, if it is one: the newest sample of a known form, or of a longer one that begins
    /// with it.
    pub fn from_reading(reading: &Reading<'_>) -> Option<Self> {
        let with_board = match reading.id {
            ANNOUNCE_V1 => false,
            ANNOUNCE_V2 => true,
            _ => return None,
        };
        Self::parse(with_board, Reader(reading.last_sample()?))
    }

    fn parse(with_board: bool, mut from: Reader<'_>) -> Option<Self> {
        let application_id = from.u32()?;
        let version = Version { major: from.u8()?, minor: from.u8()?, revision: from.u16()?, build: from.u32()? };
        let board_crc = if with_board { Some(from.u16()?) } else { None };
        Some(Self {
            application_id,
            version,
            board_crc,
            kv_crc: from.u32()?,
            blocks: from.u32()?,
            uptime: from.u32()?,
            reboots: from.u16()?,
            flags: from.u8()?,
        })
    }

    /// Appends the reading that current firmware sends: the form with board name, without time. An absent board CRC is
    /// written as 0.
    pub fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&ANNOUNCE_V2.to_le_bytes());
        out.push(ANNOUNCE_V2_LEN as u8);
        out.extend_from_slice(&self.application_id.to_le_bytes());
        out.extend_from_slice(&[self.version.major, self.version.minor]);
        out.extend_from_slice(&self.version.revision.to_le_bytes());
        out.extend_from_slice(&self.version.build.to_le_bytes());
        out.extend_from_slice(&self.board_crc.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.kv_crc.to_le_bytes());
        out.extend_from_slice(&self.blocks.to_le_bytes());
        out.extend_from_slice(&self.uptime.to_le_bytes());
        out.extend_from_slice(&self.reboots.to_le_bytes());
        out.push(self.flags);
    }
}

/// What a whole payload said of its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The last usable announcement before the end or the fault.
    pub announce: Option<Announce>,
    /// The fault that ended the payload early.
    pub fault: Option<TdfError>,
}

/// Goes through all readings and keeps the last usable announcement.
pub fn scan(payload: &[u8]) -> Scan {
    let mut scan = Scan::default();
    for reading in readings(payload) {
        match reading {
            Ok(reading) => {
                if let Some(announce) = Announce::from_reading(&reading) {
                    scan.announce = Some(announce);
                }
            }
            Err(fault) => scan.fault = Some(fault),
        }
    }
    scan
}

/// Why a reading has no wire form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadingError {
    /// An id that means padding, or needs more than 12 bits.
    #[error("reading id {0}, only 1 to {MAX_ID} are readings")]
    Id(u16),
    /// More than the length byte can say, or nothing, which a reader would take for the end.
    #[error("sample of {0} bytes, only 1 to 255 make a reading")]
    Length(usize),
}

/// Appends a reading of one sample, with the GPS second it was made at or without time.
pub fn append(id: u16, gps_time: Option<u32>, sample: &[u8], out: &mut Vec<u8>) -> Result<(), ReadingError> {
    if !(1..=MAX_ID).contains(&id) {
        return Err(ReadingError::Id(id));
    }
    let len = u8::try_from(sample.len()).ok().filter(|len| *len > 0).ok_or(ReadingError::Length(sample.len()))?;
    let time_kind = if gps_time.is_some() { 1 << 14 } else { 0 };
    out.extend_from_slice(&(id | time_kind).to_le_bytes());
    out.push(len);
    if let Some(gps_time) = gps_time {
        out.extend_from_slice(&gps_time.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
    }
    out.extend_from_slice(sample);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNOUNCE: Announce = Announce {
        application_id: 0x1234_5678,
        version: Version { major: 1, minor: 2, revision: 3, build: 0x4d },
        board_crc: Some(0x55aa),
        kv_crc: 4,
        blocks: 5,
        uptime: 6,
        reboots: 7,
        flags: 0x81,
    };

    fn announce(announce: &Announce) -> Vec<u8> {
        let mut out = Vec::new();
        announce.append(&mut out);
        out
    }

    fn read(payload: &[u8]) -> Vec<Result<Reading<'_>, TdfError>> {
        readings(payload).collect()
    }

    fn times(payload: &[u8]) -> Vec<Option<i64>> {
        readings(payload).map(|reading| reading.unwrap().time).collect()
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let mut payload = announce(&ANNOUNCE);
        append(MAX_ID, Some(100), &[9; 255], &mut payload).unwrap();
        append(2, None, &[8], &mut payload).unwrap();
        let all: Vec<_> = readings(&payload).map(Result::unwrap).collect();
        assert_eq!(Announce::from_reading(&all[0]), Some(ANNOUNCE));
        assert_eq!((all[1].id, all[1].time, all[1].data), (MAX_ID, Some(100 << 16), &[9; 255][..]));
        assert_eq!((all[2].id, all[2].time_kind, all[2].data), (2, TimeKind::None, &[8][..]));
    }

    #[test]
    fn what_has_no_wire_form_is_refused_and_writes_nothing() {
        let mut out = Vec::new();
        for id in [0, 4095, 4096] {
            assert_eq!(append(id, None, &[1], &mut out), Err(ReadingError::Id(id)));
        }
        for len in [0, 256] {
            assert_eq!(append(1, None, &vec![0; len], &mut out), Err(ReadingError::Length(len)));
        }
        assert!(out.is_empty());
    }

    #[test]
    fn relative_times_move_the_base_and_readings_without_time_do_not() {
        let absolute = [2, 0x40, 1, 10, 0, 0, 0, 1, 0, 9];
        let none = [2, 0, 1, 9];
        let relative = [2, 0x80, 1, 0xff, 0xff, 9];
        let back = [2, 0xc0, 1, 0, 0, 0x80, 9];
        let base = 10 << 16 | 1;
        let payload = [&absolute[..], &none, &relative, &back, &relative].concat();
        let moved = base + 0xffff;
        let expected = [Some(base), None, Some(moved), Some(moved - 0x80_0000), Some(moved - 0x80_0000 + 0xffff)];
        assert_eq!(times(&payload), expected);
        assert_eq!(read(&relative), [Err(TdfError::NoBase { id: 2 })]);
        assert_eq!(read(&back), [Err(TdfError::NoBase { id: 2 })]);
    }

    #[test]
    fn arrays_are_as_long_as_their_header_says() {
        for (kind, number, sample_len, count, data_len) in [
            (0x10, 5, 6, 5, 30),
            (0x10, 0, 6, 0, 0),
            (0x20, 0x40 | 4, 6, 5, 6 + 4 * 3),
            (0x20, 0x80 | 2, 8, 3, 8 + 2 * 2),
            (0x20, 0xc0 | 63, 12, 64, 12 + 63 * 6),
            (0x20, 0x40, 6, 1, 6),
            (0x30, 255, 255, 255, 255 * 255),
        ] {
            let mut payload = vec![9, kind, sample_len, number, 1, 0];
            payload.resize(6 + data_len, 7);
            append(8, None, &[1], &mut payload).unwrap();
            let all: Vec<_> = readings(&payload).map(Result::unwrap).collect();
            assert_eq!((all[0].count, all[0].data.len(), all[1].id), (count, data_len, 8), "{kind} {number}");
        }
    }

    #[test]
    fn differences_of_no_known_form_are_a_fault() {
        for (number, sample_len) in [(4, 6), (0x41, 5), (0x81, 6), (0xc1, 6)] {
            let payload = [9, 0x20, sample_len, number, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(read(&payload), [Err(TdfError::Differences { id: 9 })], "{number} {sample_len}");
        }
    }

    #[test]
    fn padding_and_three_bytes_or_fewer_end_a_payload_without_fault() {
        for tail in [&[][..], &[7], &[7, 0, 29], &[0, 0, 0, 0], &[0, 0x50, 1, 1], &[0xff; 4], &[0xff, 0x0f, 1, 1]] {
            let payload = [announce(&ANNOUNCE), tail.to_vec()].concat();
            let mut readings = readings(&payload);
            assert!(readings.next().unwrap().is_ok());
            assert_eq!((readings.next(), readings.rest()), (None, tail));
        }
    }

    #[test]
    fn every_cut_inside_the_last_reading_is_a_fault_and_the_first_stands() {
        let mut payload = announce(&ANNOUNCE);
        let first = payload.len();
        payload.extend_from_slice(&[2, 0x50, 2, 10, 0, 0, 0, 0, 0, 2, 1, 0, 1, 2, 3, 4]);
        for len in first..payload.len() {
            let scan = scan(&payload[..len]);
            assert_eq!(scan.announce, Some(ANNOUNCE));
            assert_eq!(scan.fault, (len > first + MAX_TRAILING).then_some(TdfError::Cut { id: 2 }), "{len}");
        }
        assert_eq!(scan(&payload), Scan { announce: Some(ANNOUNCE), fault: None });
    }

    #[test]
    fn the_last_usable_announcement_wins_in_either_form() {
        let mut older = vec![1, 0, 27];
        older.extend_from_slice(&announce(&ANNOUNCE)[3..15]);
        older.extend_from_slice(&announce(&ANNOUNCE)[17..]);
        let mut longer = announce(&Announce { uptime: 60, ..ANNOUNCE });
        longer[2] += 2;
        longer.extend_from_slice(&[1, 2]);
        let mut shorter = announce(&ANNOUNCE);
        shorter[2] -= 1;
        shorter.pop();
        let of = |parts: &[&[u8]]| scan(&parts.concat()).announce;
        assert_eq!(of(&[&longer, &older, &shorter]), Some(Announce { board_crc: None, ..ANNOUNCE }));
        assert_eq!(of(&[&older, &longer]), Some(Announce { uptime: 60, ..ANNOUNCE }));
        assert_eq!(of(&[&shorter]), None);
    }

    #[test]
    fn of_an_array_the_last_sample_counts_and_differences_are_not_usable() {
        let sample = |uptime| announce(&Announce { uptime, ..ANNOUNCE })[3..].to_vec();
        let array = [vec![7, 0x10, 29, 2, 1, 0], sample(1), sample(2)].concat();
        assert_eq!(scan(&array).announce.map(|announce| announce.uptime), Some(2));
        let none = [7, 0x10, 29, 0, 1, 0];
        assert_eq!(scan(&none), Scan::default());
        let differences = [vec![7, 0x20, 30, 0x41, 1, 0], sample(1), vec![0; 1 + 15]].concat();
        assert_eq!(scan(&differences), Scan::default());
    }

    #[test]
    fn a_version_is_written_with_its_build_in_hex() {
        assert_eq!(ANNOUNCE.version.to_string(), "1.2.3+0000004d");
        let greatest = Version { major: 255, minor: 255, revision: 65_535, build: u32::MAX };
        assert_eq!(greatest.to_string(), "255.255.65535+ffffffff");
    }

    #[test]
    fn readings_of_another_device_begin_with_its_id() {
        let payload = [&0x0123_4567_89ab_cdef_u64.to_le_bytes()[..], &[1, 2]].concat();
        assert_eq!(split_remote(&payload), Some((DeviceId(0x0123_4567_89ab_cdef), &[1, 2][..])));
        assert_eq!(split_remote(&payload[..7]), None);
    }
}
