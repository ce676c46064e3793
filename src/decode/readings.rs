//! The readings of TDF packets, one by one (docs/protocol.md, TDF). Those the protocol names are taken apart; of the
//! others id, time and bytes are shown.

use serde_json::Value;

use super::fields::utc;
use super::part::{Part, Walk, count, plain};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::wire::tdf::{self, ANNOUNCE_V1, ANNOUNCE_V2, Array, Reading, TimeKind, Version};

/// Id of the reading in which a relay notes that it heard a device.
const HEARD: u16 = 39;

/// Adds the readings of `payload`, which begins at `at`, to `part`.
pub(super) fn readings(payload: &[u8], at: usize, part: &mut Part) {
    let mut readings = tdf::readings(payload);
    loop {
        let before = readings.rest();
        let start = payload.len() - before.len();
        match readings.next() {
            Some(Ok(read)) => {
                let bytes = &before[..before.len() - readings.rest().len()];
                part.parts.push(reading(&read, bytes, at + start));
            }
            Some(Err(fault)) => part.fault(at + start, format!("{fault}; {} are left", count(before.len(), "byte"))),
            None => break,
        }
    }
    // After a fault nothing is left, and the fault says it.
    let padding = readings.rest().len();
    if padding > 0 {
        part.notes.push(format!("{} at the end are padding", count(padding, "byte")));
    }
}

/// One reading, which is these bytes.
fn reading(reading: &Reading<'_>, bytes: &[u8], at: usize) -> Part {
    let samples = count(reading.count.into(), "sample");
    let mut part = Part::new(format!("reading {}{}, {samples}", reading.id, name(reading.id)), at);
    let mut walk = Walk::new(bytes, at);
    // The reader stepped over these very bytes, so that none of the fields can be missing.
    let _ = front(reading, &mut walk, &mut part);
    let newest = reading.last_sample().filter(|sample| !sample.is_empty());
    match (reading.id, newest) {
        (ANNOUNCE_V1 | ANNOUNCE_V2 | HEARD, Some(sample)) => {
            let older = walk.rest().len() - sample.len();
            if older > 0 {
                walk.bytes(&mut part, "older_samples", older, |bytes| {
                    (hex::encode(bytes).into(), count(older, "byte"))
                });
            }
            let _ = match reading.id {
                HEARD => heard(&mut walk, &mut part),
                id => announce(&mut walk, &mut part, id == ANNOUNCE_V2),
            };
            walk.remainder(&mut part, "later_fields");
        }
        _ => walk.remainder(&mut part, "data"),
    }
    part
}

const fn name(id: u16) -> &'static str {
    match id {
        ANNOUNCE_V1 => " announce (older form)",
        ANNOUNCE_V2 => " announce",
        HEARD => " device heard",
        _ => "",
    }
}

/// Everything before the samples.
fn front(reading: &Reading<'_>, walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    let array = match reading.array {
        Array::Single => "one sample",
        Array::Time => "samples at a period",
        Array::Diff => "a sample and differences",
        Array::Index => "numbered samples",
    };
    let (time_len, time) = match reading.time_kind {
        TimeKind::None => (0, "no time"),
        TimeKind::Absolute => (6, "time in full"),
        TimeKind::Relative => (2, "time after the one before"),
        TimeKind::Extended => (3, "time from the one before"),
    };
    walk.u16(part, "header", |_| format!("id {}, {array}, {time}", reading.id))?;
    walk.u8(part, "length", |length| format!("{} a sample", count(length.into(), "byte")))?;
    if let Some(ticks) = reading.time {
        walk.bytes(part, "time", time_len, |_| (ticks.into(), moment(ticks)))?;
    }
    if reading.array != Array::Single {
        walk.u8(part, "number", |number| match reading.array {
            Array::Diff => format!("{} and {}", count(1, "sample"), count((number & 63).into(), "difference")),
            _ => count(number.into(), "sample"),
        })?;
        let what = if reading.array == Array::Index { "first_index" } else { "period" };
        walk.u16(part, what, |second| if what == "period" { period(second) } else { second.to_string() })?;
    }
    Some(())
}

/// A time in 1/65536 s as a date.
pub(super) fn moment(ticks: i64) -> String {
    let (seconds, fraction) = (ticks >> 16, ticks & 0xffff);
    match u32::try_from(seconds) {
        Ok(seconds) => {
            let time = Timestamp::from_gps(seconds).0 + ((fraction.unsigned_abs() * 1000) >> 16);
            utc(Timestamp(time))
        }
        Err(_) => format!("{seconds} s, outside of the calendar"),
    }
}

/// A period in 1/65536 s, or with bit 15 set in 8192/65536 s.
fn period(field: u16) -> String {
    let ticks = if field & 0x8000 == 0 { u32::from(field) } else { u32::from(field & 0x7fff) * 8192 };
    format!("{:.3} s", f64::from(ticks) / 65_536.0)
}

fn announce(walk: &mut Walk<'_>, part: &mut Part, with_board: bool) -> Option<()> {
    walk.u32(part, "application_id", |id| format!("0x{id:08x}"))?;
    version(walk, part)?;
    if with_board {
        walk.u16(part, "board_crc", |crc| format!("0x{crc:04x}"))?;
    }
    walk.u32(part, "kv_crc", |crc| format!("0x{crc:08x}, of the key-value store"))?;
    walk.u32(part, "blocks", |blocks| match blocks {
        u32::MAX => "the logger is not ready".to_owned(),
        blocks => format!("{blocks} logged"),
    })?;
    walk.u32(part, "uptime", |seconds| format!("{seconds} s"))?;
    walk.u16(part, "reboots", plain)?;
    walk.u8(part, "announce_flags", |flags| {
        let storage = if flags & 1 == 0 { "blocks on fixed storage" } else { "blocks on removable storage" };
        let active = if with_board && flags & 0x80 != 0 { ", application not active" } else { "" };
        format!("0x{flags:02x}: {storage}{active}")
    })?;
    Some(())
}

/// Takes an application's version: major, minor, revision, build.
pub(super) fn version(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    walk.text(part, "version", |[major, minor, low, high, a, b, c, d]| {
        let (revision, build) = (u16::from_le_bytes([low, high]), u32::from_le_bytes([a, b, c, d]));
        Version { major, minor, revision, build }.to_string()
    })?;
    Some(())
}

fn heard(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    walk.array(part, "heard_device_id", |bytes| {
        let id = DeviceId(u64::from_le_bytes(bytes)).to_string();
        (Value::from(id.clone()), id)
    })?;
    walk.array(part, "rssi", |[dbm]| (dbm.cast_signed().into(), format!("{} dBm", dbm.cast_signed())))?;
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn explained(payload: &[u8]) -> Part {
        let mut part = Part::new("readings", 22);
        readings(payload, 22, &mut part);
        part
    }

    fn text<'a>(part: &'a Part, name: &str) -> &'a str {
        &part.fields.iter().find(|field| field.name == name).unwrap_or_else(|| panic!("{name} in {part:?}")).text
    }

    #[test]
    fn an_announcement_is_taken_apart_with_its_offsets() {
        let mut payload = vec![7, 0, 29];
        payload.extend_from_slice(&[0x78, 0x56, 0x34, 0x12, 1, 2, 3, 0, 0x4d, 0, 0, 0, 0xaa, 0x55]);
        payload.extend_from_slice(&[4, 0, 0, 0, 255, 255, 255, 255, 60, 0, 0, 0, 7, 0, 0x81]);
        let part = explained(&[&payload[..], &[0, 0]].concat());
        let announce = &part.parts[0];
        assert_eq!((announce.title.as_str(), announce.at), ("reading 7 announce, 1 sample", 22));
        assert_eq!(text(announce, "version"), "1.2.3+0000004d");
        assert_eq!(text(announce, "blocks"), "the logger is not ready");
        assert_eq!(text(announce, "announce_flags"), "0x81: blocks on removable storage, application not active");
        assert_eq!(announce.fields.last().map(|field| field.at), Some(22 + 31));
        assert_eq!(part.notes, ["2 bytes at the end are padding"]);
    }

    #[test]
    fn times_and_arrays_are_shown_as_the_reader_sees_them() {
        let absolute = [2, 0x40, 1, 0xd2, 0x63, 0x2e, 0x58, 0, 0x80, 9];
        let array = [3, 0x90, 2, 0, 0x80, 2, 0x02, 0x80, 1, 2, 3, 4];
        let part = explained(&[&absolute[..], &array].concat());
        assert_eq!(text(&part.parts[0], "time"), "2026-11-23T02:13:20.500Z");
        let second = &part.parts[1];
        assert_eq!((second.title.as_str(), second.at), ("reading 3, 2 samples", 32));
        assert_eq!(text(second, "time"), "2026-11-23T02:13:21.000Z");
        assert_eq!((text(second, "period"), text(second, "data")), ("0.250 s", "4 bytes"));
    }

    #[test]
    fn a_relay_notes_whom_it_heard() {
        let part = explained(&[39, 0, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0xba]);
        assert_eq!(text(&part.parts[0], "heard_device_id"), "0102030405060708");
        assert_eq!(text(&part.parts[0], "rssi"), "-70 dBm");
    }

    #[test]
    fn a_fault_says_where_the_reading_began_that_does_not_fit() {
        let part = explained(&[2, 0, 1, 9, 3, 0, 200, 1, 2]);
        assert_eq!(part.parts.len(), 1);
        let fault = &part.faults[0];
        assert_eq!((fault.at, &fault.text[..]), (26, "the payload ends inside reading 3; 5 bytes are left"));
    }

    proptest! {
        #[test]
        fn the_readings_cover_the_payload_up_to_padding_or_fault(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let part = explained(&payload);
            let mut at = 22;
            for reading in &part.parts {
                for field in &reading.fields {
                    prop_assert_eq!(field.at, at);
                    at += field.bytes.len();
                }
            }
            prop_assert_eq!(part.parts.len(), tdf::readings(&payload).filter(Result::is_ok).count());
            prop_assert!(part.faults.iter().all(|fault| fault.at == at));
        }
    }
}
