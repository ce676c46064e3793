//! Frames that must open, and frames that must not.

use lastroute::auth::Refusal;
use lastroute::auth::keys::Interface;
use lastroute::clock::Timestamp;
use lastroute::metrics::Disposition;
use lastroute::wire::container::{self, ContainerError};
use lastroute::wire::frame::{Frame, FrameError, Header, Layout, PacketType};

use crate::fields::Fields;
use crate::gateway::{Gateway, Opened, Rejected, check_derivation, type_name};
use crate::payloads::check_payload;

pub(crate) fn check_accepted(gateway: &mut Gateway, vector: &mut Fields, edge: bool) {
    let datagram = vector.bytes("datagram");
    vector.is("datagram_len", datagram.len());
    assert_eq!(
        datagram.len() == Layout::Unversioned.min_len(),
        edge,
        "only a frame without payload is a matter of policy"
    );
    let opened = gateway.open_udp(&datagram).unwrap();
    let header = &opened.header;
    assert_eq!(gateway.seal(&opened, Layout::Unversioned, Interface::Udp), datagram);

    let (associated, rest) = datagram.split_at(Layout::Unversioned.associated_len());
    let (nonce, rest) = rest.split_at(12);
    let (ciphertext, tag) = rest.split_at(opened.payload.len());
    for (key, bytes) in [("aad", associated), ("nonce", nonce), ("ciphertext", ciphertext), ("tag", tag)] {
        vector.is_hex(key, bytes);
    }
    vector.is_hex("plaintext", &opened.payload);

    check_header(vector.object("header"), header);
    assert_eq!(opened.entropy, Some(header.entropy));
    vector.is("device_id", header.device_id.to_string());
    vector.is("auth", header.level().name());
    vector.is("key_id", header.key_id.get());
    vector.is("rotation", header.rotation());
    check_derivation(vector, header.gps_time, "udp");

    match vector.text("direction").as_str() {
        "uplink" => assert!(!header.packet_type.is_downlink_only()),
        _ => assert!(header.packet_type.is_downlink_only() || header.packet_type.is_both_ways()),
    }
    check_payload(gateway, vector, &opened);
}

fn check_header(mut fields: Fields, header: &Header) {
    fields.is("type", header.packet_type.0);
    fields.is("type_name", type_name(header.packet_type));
    fields.is("flags", header.flags.0);
    fields.is_hex("key_id_bytes", &header.key_id.to_le_bytes());
    fields.is("device_id_upper", header.device_id.0 >> 32);
    fields.is("device_id_lower", header.device_id.0 as u32);
    fields.is("gps_time", header.gps_time);
    fields.is("unix_time", Timestamp::from_gps(header.gps_time).0 / 1000);
    fields.is("sequence", header.sequence);
    fields.is("entropy", header.entropy);
    fields.end();
}

pub(crate) fn check_rejected(gateway: &mut Gateway, vector: &mut Fields) {
    let datagram = vector.bytes("datagram");
    vector.is("datagram_len", datagram.len());
    vector.is("direction", "uplink");
    let reason = vector.text("reason");
    let result = gateway.open_udp(&datagram);
    match vector.text("stage").as_str() {
        "length" => {
            let short = FrameError::Short { len: datagram.len(), min: 38 };
            assert_eq!(result.err(), Some(Rejected::Frame(short)));
        }
        "direction" => assert!(result.unwrap().header.packet_type.is_downlink_only()),
        "container" => check_faulty_container(&result.unwrap(), &reason, vector.number("entries_ok")),
        stage => {
            let Err(Rejected::Refused(refusal)) = result else { panic!("not refused") };
            let expected = match stage {
                "network_unknown" => Disposition::UnknownNetwork,
                "device_unknown" => Disposition::UnknownDevice,
                "key_id" => Disposition::UnknownKey,
                "tag" => Disposition::BadTag,
                _ => panic!("{stage}"),
            };
            assert_eq!(Disposition::from(refusal), expected);
            check_named_key(refusal, datagram);
        }
    }
}

/// A refusal names the device and the key id of the frame.
fn check_named_key(refusal: Refusal, mut datagram: Vec<u8>) {
    let header = *Frame::parse(&mut datagram, Layout::Unversioned).unwrap().header();
    match refusal {
        Refusal::UnknownNetwork(id) => assert_eq!(id, header.key_id),
        Refusal::UnknownDevice(id) => assert_eq!(id, header.device_id),
        Refusal::UnknownKey { device_id, key_id } => assert_eq!((device_id, key_id), (header.device_id, header.key_id)),
        Refusal::BadTag | Refusal::DayLimited => {}
    }
}

fn check_faulty_container(outer: &Opened, reason: &str, sound: usize) {
    assert_eq!(outer.header.packet_type, PacketType::RECEIVED_EPACKET);
    let mut entries: Vec<_> = container::entries(&outer.payload).collect();
    let fault = entries.pop().unwrap().unwrap_err();
    assert_eq!(entries.len(), sound);
    assert!(entries.iter().all(Result::is_ok));
    let fits = match reason {
        "length field 0" | "second entry has length 0" => fault == ContainerError::Length { len: 0 },
        "length shorter than the common header" => fault == ContainerError::Length { len: 3 },
        "length leaves no room for the address" => fault == ContainerError::Address,
        "length leaves no room for the decrypted header" => fault == ContainerError::Header,
        "1 trailing byte" | "payload shorter than a common header" => fault == ContainerError::Trailing { left: 1 },
        "3 trailing bytes" => fault == ContainerError::Trailing { left: 3 },
        "length far beyond the payload" => matches!(fault, ContainerError::PastEnd { len: 0x7fff, .. }),
        "last entry longer than the remaining payload" | "second entry longer than the remaining payload" => {
            matches!(fault, ContainerError::PastEnd { .. })
        }
        _ => false,
    };
    assert!(fits, "{reason}: {fault}");
}
