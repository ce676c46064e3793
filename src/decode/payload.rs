//! Plaintexts by packet type, but for the packets inside them: those are opened in `decoder`.

use serde_json::Value;

use super::calls;
use super::fields;
use super::part::{Part, Walk, count, plain};
use super::readings::readings;
use crate::id::{DeviceId, KeyId};
use crate::wire::container::{BtAddress, RouteInterface};
use crate::wire::frame::{Flags, Layout, PacketType};

/// Explains a plaintext that begins at `at`. Containers and forwarded packets stay a dump here.
pub(super) fn payload(kind: PacketType, bytes: &[u8], at: usize) -> Part {
    let mut part = Part::new("payload", at);
    part.dump = bytes.to_vec();
    if bytes.is_empty() {
        part.notes.push("empty".to_owned());
    }
    let mut walk = Walk::new(bytes, at);
    // What is missing is a fault of the part.
    let _ = by_type(kind, &mut walk, &mut part);
    part
}

fn by_type(kind: PacketType, walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    match kind {
        PacketType::TDF => readings(walk.rest(), walk.at(), part),
        PacketType::TDF_REMOTE => {
            device_id(walk, part, "remote_device_id")?;
            readings(walk.rest(), walk.at(), part);
        }
        PacketType::RPC_CMD => calls::command(walk, part)?,
        PacketType::RPC_DATA => calls::data(walk, part)?,
        PacketType::RPC_DATA_ACK => calls::data_ack(walk, part)?,
        PacketType::RPC_RSP => calls::response(walk, part)?,
        PacketType::ACK => {
            walk.u16(part, "acknowledged_sequence", plain)?;
            end(walk, part, "devices take an ACK of any other length than 2 for an error");
        }
        PacketType::KEY_IDS => {
            let text = |id: KeyId| (Value::from(id.to_string()), id.to_string());
            walk.array(part, "device_key_id", |bytes| text(KeyId::from_le_bytes(bytes)))?;
            end(walk, part, "KEY_IDS has 3 bytes");
        }
        PacketType::EPACKET_CONN_TERMINATED => {
            interface(walk, part)?;
            walk.i16(part, "reason", plain)?;
            bluetooth_address(walk, part)?;
            end(walk, part, "EPACKET_CONN_TERMINATED has 10 bytes");
        }
        PacketType::ECHO_REQ | PacketType::ECHO_RSP if !walk.rest().is_empty() => {
            part.notes.push("what is to be echoed".to_owned());
        }
        _ => {}
    }
    Some(())
}

/// Nothing more is expected.
fn end(walk: &Walk<'_>, part: &mut Part, rule: &str) {
    if !walk.rest().is_empty() {
        let more = count(walk.rest().len(), "byte");
        part.fault(walk.at(), format!("expected the end, found {more} more; {rule}"));
    }
}

/// Explains a datagram in the clear, which only devices take (docs/protocol.md, acknowledgements and boot).
pub(super) fn clear(bytes: &[u8]) -> Option<Part> {
    let about = match *bytes {
        [0x4d] => "asks for KEY_IDS".to_owned(),
        [0x4e, delay] => format!("pauses bulk sending for {delay} ms"),
        [0x4e, 0, 0] => "lifts the limit of bulk sending".to_owned(),
        [0x4e, low, high] => format!("limits bulk sending to {} kbit/s", u16::from_le_bytes([low, high])),
        _ => return None,
    };
    let mut part = Part::new("in the clear, for devices only", 0);
    part.dump = bytes.to_vec();
    part.notes.push(about);
    Some(part)
}

/// What is in front of the frame in an EPACKET_FORWARD, or in an EPACKET_FORWARD_AUTO_CONN.
pub(super) fn forward(walk: &mut Walk<'_>, part: &mut Part, connects: bool) -> Option<()> {
    let there = walk.rest().len();
    let length = walk.u16(part, "total_length", plain)?;
    if usize::from(length) != there {
        part.fault(walk.at() - 2, format!("expected the length of all, {there}, found {length}"));
    }
    interface(walk, part)?;
    if connects {
        walk.u8(part, "connection_flags", connection_flags)?;
        for name in ["connect_timeout", "idle_timeout", "absolute_timeout"] {
            walk.u8(part, name, |seconds| format!("{seconds} s"))?;
        }
    }
    bluetooth_address(walk, part)
}

fn connection_flags(bits: u8) -> String {
    let names =
        [(1, "disconnects after the answer"), (2, "takes data"), (4, "tells of the end"), (8, "favours uplinks")];
    let set: Vec<_> = names.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| name).collect();
    format!("0x{bits:02x}: {}", if set.is_empty() { "none".to_owned() } else { set.join(", ") })
}

/// The front of a container's entry: length, signal strength, interface, and the address where there is one.
pub(super) fn entry_front(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    walk.array(part, "length", |bytes| {
        let field = u16::from_le_bytes(bytes);
        let length = field & 0x7fff;
        let state = if field == length { "decrypted by the relay" } else { "still encrypted" };
        (length.into(), format!("{}, {state}", count(length.into(), "byte")))
    })?;
    walk.array(part, "rssi", |[value]| match value {
        0 => (Value::Null, "0: not known".to_owned()),
        value => ((-i16::from(value)).into(), format!("-{value} dBm")),
    })?;
    if interface(walk, part)?.is_bluetooth() {
        bluetooth_address(walk, part)?;
    }
    Some(())
}

/// The header of an entry that the relay decrypted.
pub(super) fn entry_header(walk: &mut Walk<'_>, part: &mut Part, now: crate::clock::Timestamp) -> Option<()> {
    device_id(walk, part, "device_id")?;
    walk.u32(part, "gps_time", |gps_time| fields::time(gps_time, now))?;
    walk.u8(part, "type", |id| fields::packet_type(PacketType(id)))?;
    let flags = Flags(walk.u16(part, "flags", |bits| fields::flags(Flags(bits), Layout::Versioned))?);
    walk.u16(part, "sequence", plain)?;
    fields::key_id(walk, part, flags.level())?;
    Some(())
}

/// A device id in one piece.
fn device_id(walk: &mut Walk<'_>, part: &mut Part, name: &'static str) -> Option<()> {
    walk.text(part, name, |bytes| DeviceId(u64::from_le_bytes(bytes)).to_string())?;
    Some(())
}

fn interface(walk: &mut Walk<'_>, part: &mut Part) -> Option<RouteInterface> {
    let text = |id| format!("{id} {}", RouteInterface::from_id(id).name());
    walk.u8(part, "interface", text).map(RouteInterface::from_id)
}

fn bluetooth_address(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    walk.array(part, "bluetooth_address", |bytes| {
        let address = BtAddress::from_wire(bytes);
        (address.to_string().into(), format!("{address}, {}", address.kind_name()))
    })?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(part: &Part) -> Vec<String> {
        part.fields.iter().map(|field| format!("{} {}={}", field.at, field.name, field.text)).collect()
    }

    #[test]
    fn the_small_payloads_have_one_length() {
        let ack = payload(PacketType::ACK, &[1, 2], 22);
        assert_eq!((texts(&ack), ack.is_faulty()), (vec!["22 acknowledged_sequence=513".to_owned()], false));
        let long = payload(PacketType::ACK, &[1, 2, 3], 22);
        assert_eq!(long.faults[0].at, 24);
        assert!(long.faults[0].text.starts_with("expected the end, found 1 byte more; "), "{long:?}");
        let key_ids = payload(PacketType::KEY_IDS, &[1, 2, 3], 22);
        assert_eq!(texts(&key_ids), ["22 device_key_id=0x030201"]);
        assert!(payload(PacketType::KEY_IDS, &[1, 2], 22).is_faulty());
    }

    #[test]
    fn an_ended_connection_names_interface_reason_and_address() {
        let part =
            payload(PacketType::EPACKET_CONN_TERMINATED, &[4, 0x13, 0, 1, 0x56, 0x34, 0x12, 0xee, 0xff, 0xc0], 22);
        assert_eq!(
            texts(&part),
            ["22 interface=4 bt_central", "23 reason=19", "25 bluetooth_address=c0:ff:ee:12:34:56, random"]
        );
    }

    #[test]
    fn readings_of_another_device_begin_with_its_id() {
        let part = payload(PacketType::TDF_REMOTE, &[8, 7, 6, 5, 4, 3, 2, 1, 5, 0, 1, 9], 22);
        assert_eq!(texts(&part), ["22 remote_device_id=0102030405060708"]);
        assert_eq!(part.parts[0].at, 30);
        assert_eq!(payload(PacketType::TDF_REMOTE, &[8, 7], 22).faults[0].at, 22);
    }

    #[test]
    fn a_forward_says_how_long_it_is_and_a_wrong_length_is_a_fault() {
        let mut part = Part::new("payload", 22);
        let bytes = [20, 0, 4, 5, 10, 5, 60, 1, 1, 2, 3, 4, 5, 6, 0xaa];
        let mut walk = Walk::new(&bytes, 22);
        assert_eq!(forward(&mut walk, &mut part, true), Some(()));
        assert_eq!(walk.rest(), [0xaa]);
        assert_eq!(part.faults[0].text, "expected the length of all, 15, found 20");
        assert!(
            texts(&part)
                .contains(&"25 connection_flags=0x05: disconnects after the answer, tells of the end".to_owned())
        );
    }
}
