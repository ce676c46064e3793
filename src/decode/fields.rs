//! The clear fields at the front of a frame, one by one (docs/protocol.md, frames).

use jiff::fmt::temporal::DateTimePrinter;
use serde_json::Value;

use super::part::{Part, Walk, count, plain};
use crate::auth::is_unusual_day;
use crate::auth::keys::FACTORY_NETWORK;
use crate::clock::{SECONDS_PER_DAY, Timestamp};
use crate::id::{DeviceId, KeyId};
use crate::table::rules::TimeClass;
use crate::wire::frame::{Flags, Layout, Level, PacketType, TAG_LEN};

/// The title of the part that [`frame`] makes.
pub(super) const HEADER: &str = "header";

/// Explains a whole frame that begins at `at`, up to the ciphertext and the tag. `now` is what its time is measured
/// against. Of one that is too short, what is there.
pub(super) fn frame(bytes: &[u8], layout: Layout, at: usize, now: Timestamp) -> Part {
    let mut part = Part::new(HEADER, at);
    let mut walk = Walk::new(bytes, at);
    if header(&mut walk, &mut part, layout, now).is_some() {
        sealed(&mut walk, &mut part);
    }
    part
}

/// As [`frame`], of a datagram that the capture does not hold to its end, so that its tag is not there.
pub(super) fn cut_frame(bytes: &[u8], now: Timestamp) -> Part {
    let mut part = Part::new(HEADER, 0);
    let mut walk = Walk::new(bytes, 0);
    if header(&mut walk, &mut part, Layout::Unversioned, now).is_some() {
        walk.remainder(&mut part, "sealed");
    }
    part
}

fn header(walk: &mut Walk<'_>, part: &mut Part, layout: Layout, now: Timestamp) -> Option<()> {
    if layout == Layout::Versioned {
        walk.u8(part, "version", |version| match version {
            0 => "0".to_owned(),
            other => format!("{other}; only 0 is known"),
        })?;
    }
    walk.u8(part, "type", |id| packet_type(PacketType(id)))?;
    let flags = Flags(walk.u16(part, "flags", |bits| flags(Flags(bits), layout))?);
    key_id(walk, part, flags.level())?;
    device_id(walk, part)?;
    walk.u32(part, "gps_time", |gps_time| time(gps_time, now))?;
    walk.u16(part, "sequence", plain)?;
    walk.u16(part, "entropy", |entropy| format!("0x{entropy:04x}, the random part of the nonce"))?;
    Some(())
}

/// Two halves, the upper one in front.
fn device_id(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    walk.text(part, "device_id", |[a, b, c, d, e, f, g, h]| {
        let (upper, lower) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        DeviceId(u64::from(upper) << 32 | u64::from(lower)).to_string()
    })?;
    Some(())
}

fn sealed(walk: &mut Walk<'_>, part: &mut Part) {
    let describe = |bytes: &[u8]| (Value::from(hex::encode(bytes)), count(bytes.len(), "byte"));
    match walk.rest().len().checked_sub(TAG_LEN) {
        Some(0) => {}
        Some(len) => drop(walk.bytes(part, "ciphertext", len, describe)),
        None => {
            let left = walk.rest().len();
            part.fault(walk.at(), format!("expected the {TAG_LEN} bytes of a tag, of which {left} are there"));
            return;
        }
    }
    walk.bytes(part, "tag", TAG_LEN, describe);
}

/// Name and meaning of a packet type.
pub(super) fn packet_type(packet_type: PacketType) -> String {
    let about = match packet_type {
        PacketType::ECHO_REQ => "asks the device to answer with the same payload",
        PacketType::ECHO_RSP => "the answer to an echo request",
        PacketType::TDF => "readings of the sender",
        PacketType::RPC_CMD => "a call to the device",
        PacketType::RPC_DATA => "a piece of the data of a call",
        PacketType::RPC_DATA_ACK => "data of a call was received",
        PacketType::RPC_RSP => "the answer to a call",
        PacketType::RECEIVED_EPACKET => "a relay passes on what it heard",
        PacketType::ACK => "acknowledges a packet",
        PacketType::EPACKET_FORWARD => "asks a relay to pass a packet on",
        PacketType::SERIAL_LOG => "log text, never over UDP",
        PacketType::TDF_REMOTE => "readings of another device",
        PacketType::EPACKET_FORWARD_AUTO_CONN => "asks a relay to connect and pass a packet on",
        PacketType::EPACKET_CONN_TERMINATED => "a connection of a relay ended",
        PacketType::MEMFAULT_CHUNK => "a crash report in pieces",
        PacketType::KEY_IDS => "the sender's device key id; with sequence 0 it has just booted",
        PacketType(128..) => "a customer's own",
        _ => "not assigned",
    };
    format!("{} {}: {about}", packet_type.0, packet_type.name())
}

/// Every bit that is set, by its meaning.
pub(super) fn flags(flags: Flags, layout: Layout) -> String {
    let mut names = vec![
        match flags.level() {
            Level::Network => "network key",
            Level::Device => "device key",
        }
        .to_owned(),
    ];
    for (mask, name) in
        [(Flags::ACK_REQUEST, "asks for an ACK"), (0x2000, "carries others' data"), (0x1000, "delivers its own data")]
    {
        if flags.contains(mask) {
            names.push(name.to_owned());
        }
    }
    let mut others = flags.0 & 0x0fff;
    if layout == Layout::Unversioned {
        for (mask, name) in [(Flags::ALWAYS_RX, "ALWAYS_RX"), (Flags::SINGLE_TX, "SINGLE_TX")] {
            if flags.contains(mask) {
                names.push(name.to_owned());
                others &= !mask;
            }
        }
    }
    if others != 0 {
        names.push(format!("0x{others:04x} without a meaning here"));
    }
    format!("0x{:04x}: {}", flags.0, names.join(", "))
}

/// Takes a key id, and says what it names at this level.
pub(super) fn key_id(walk: &mut Walk<'_>, part: &mut Part, level: Level) -> Option<KeyId> {
    let meaning = |key_id: KeyId| match level {
        Level::Network if key_id == FACTORY_NETWORK => "the factory network, whose key is public",
        Level::Network => "the network",
        Level::Device => "the device's key",
    };
    let describe = |key_id: KeyId| (Value::from(key_id.to_string()), format!("{key_id}: {}", meaning(key_id)));
    walk.array(part, "key_id", |bytes| describe(KeyId::from_le_bytes(bytes))).map(KeyId::from_le_bytes)
}

/// A packet's time as a date, its key day, and what rule R3 says of it at `now`.
pub(super) fn time(gps_time: u32, now: Timestamp) -> String {
    let day = gps_time / SECONDS_PER_DAY;
    let class = TimeClass::of(gps_time, now.gps());
    let unusual = if is_unusual_day(day, now) { ", a day whose keys are limited (R0)" } else { "" };
    format!(
        "{gps_time} = {}, day {day}{unusual}; {}",
        utc_seconds(Timestamp::from_gps(gps_time)),
        class_text(class, gps_time, now)
    )
}

/// A time class and how far from the gateway's clock.
pub(super) fn class_text(class: TimeClass, gps_time: u32, now: Timestamp) -> String {
    let (behind, ahead) = (now.gps().saturating_sub(gps_time), gps_time.saturating_sub(now.gps()));
    let name = class.name();
    match class {
        TimeClass::NoTime => format!("{name}: the sender has no clock yet"),
        TimeClass::Fresh | TimeClass::Old | TimeClass::Future => match (behind, ahead) {
            (0, 0) => format!("{name}: the gateway's own second"),
            (0, ahead) => format!("{name}: {} ahead of the gateway", span(ahead)),
            (behind, _) => format!("{name}: {} behind the gateway", span(behind)),
        },
    }
}

/// Seconds in the unit that suits them.
fn span(seconds: u32) -> String {
    match seconds {
        0..=599 => format!("{seconds} s"),
        600..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / SECONDS_PER_DAY),
    }
}

/// The moment as RFC 3339 text in UTC with milliseconds.
pub(super) fn utc(time: Timestamp) -> String {
    rfc3339(time, 3)
}

/// The moment as RFC 3339 text in UTC, in whole seconds.
pub(super) fn utc_seconds(time: Timestamp) -> String {
    rfc3339(time, 0)
}

fn rfc3339(time: Timestamp, digits: u8) -> String {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    // After the year 9999 there is no such text.
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    DateTimePrinter::new().precision(Some(digits)).timestamp_to_string(&time)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frame::{Frame, Header};

    const NOW: Timestamp = Timestamp::from_gps(1_479_435_219);

    fn header() -> Header {
        Header {
            packet_type: PacketType::TDF,
            flags: Flags(0xd003),
            key_id: KeyId::from_le_bytes([1, 2, 3]),
            device_id: DeviceId(0x0123_4567_89ab_cdef),
            gps_time: NOW.gps() - 2,
            sequence: 7,
            entropy: 0x7788,
        }
    }

    fn bytes(layout: Layout, payload: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        header().encode(layout, &mut bytes);
        bytes.resize(layout.min_len() + payload, 0xab);
        bytes
    }

    #[test]
    fn every_field_has_its_place_and_meaning() {
        let part = frame(&bytes(Layout::Unversioned, 5), Layout::Unversioned, 0, NOW);
        let fields: Vec<_> = part.fields.iter().map(|field| (field.at, field.bytes.len(), &field.text[..])).collect();
        assert_eq!(
            fields,
            [
                (0, 1, "2 tdf: readings of the sender"),
                (1, 2, "0xd003: device key, asks for an ACK, delivers its own data, ALWAYS_RX, SINGLE_TX"),
                (3, 3, "0x030201: the device's key"),
                (6, 8, "0123456789abcdef"),
                (14, 4, "1479435217 = 2026-11-23T02:13:19Z, day 17123; fresh: 2 s behind the gateway"),
                (18, 2, "7"),
                (20, 2, "0x7788, the random part of the nonce"),
                (22, 5, "5 bytes"),
                (27, 16, "16 bytes"),
            ]
        );
        assert!(!part.is_faulty());
    }

    #[test]
    fn bits_of_another_interface_and_reserved_ones_are_shown_as_bits() {
        assert_eq!(flags(Flags(0x0103), Layout::Versioned), "0x0103: network key, 0x0103 without a meaning here");
        assert_eq!(
            flags(Flags(0x2104), Layout::Unversioned),
            "0x2104: network key, carries others' data, 0x0104 without a meaning here"
        );
    }

    #[test]
    fn a_time_is_measured_against_the_gateway() {
        let text = |offset: i64| {
            let gps_time = (i64::from(NOW.gps()) + offset) as u32;
            class_text(TimeClass::of(gps_time, NOW.gps()), gps_time, NOW)
        };
        assert_eq!(text(0), "fresh: the gateway's own second");
        assert_eq!(text(120), "fresh: 120 s ahead of the gateway");
        assert_eq!(text(3600), "future: 60 min ahead of the gateway");
        assert_eq!(text(-10_000), "old: 2 h behind the gateway");
        assert_eq!(text(-864_000), "old: 10 days behind the gateway");
        let unusual = time(NOW.gps() - 864_000, NOW);
        assert!(unusual.contains("day 17113, a day whose keys are limited (R0); old"), "{unusual}");
        assert!(
            time(1_261_872_018, NOW).ends_with("2020-01-01T00:00:00Z, day 14605; noTime: the sender has no clock yet")
        );
    }

    #[test]
    fn of_a_short_frame_what_is_there_is_explained() {
        for layout in [Layout::Unversioned, Layout::Versioned] {
            let whole = bytes(layout, 0);
            for len in 0..whole.len() {
                let part = frame(&whole[..len], layout, 3, NOW);
                assert_eq!(part.faults.len(), 1, "{len}");
                assert!(part.faults[0].at <= 3 + len, "{len}");
            }
        }
        let part = frame(&bytes(Layout::Unversioned, 0)[..16], Layout::Unversioned, 0, NOW);
        assert_eq!(part.faults[0].text, "expected the 4 bytes of gps time, of which 2 are there");
    }

    proptest! {
        #[test]
        fn the_fields_are_those_of_the_parser(mut bytes in prop::collection::vec(any::<u8>(), 39..200), versioned: bool) {
            let layout = if versioned { Layout::Versioned } else { Layout::Unversioned };
            if versioned {
                bytes[0] = 0;
            }
            let part = frame(&bytes, layout, 0, NOW);
            let length: usize = part.fields.iter().map(|field| field.bytes.len()).sum();
            prop_assert_eq!(length, bytes.len());
            let header = *Frame::parse(&mut bytes, layout).unwrap().header();
            let value = |name| part.fields.iter().find(|field| field.name == name).unwrap().value.clone();
            prop_assert_eq!(value("type"), Value::from(header.packet_type.0));
            prop_assert_eq!(value("flags"), Value::from(header.flags.0));
            prop_assert_eq!(value("key_id"), Value::from(header.key_id.to_string()));
            prop_assert_eq!(value("device_id"), Value::from(header.device_id.to_string()));
            prop_assert_eq!(value("gps_time"), Value::from(header.gps_time));
            prop_assert_eq!(value("sequence"), Value::from(header.sequence));
            prop_assert_eq!(value("entropy"), Value::from(header.entropy));
        }
    }
}
