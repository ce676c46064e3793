//! Containers, and the frames inside them.

use lastroute::auth::Refusal;
use lastroute::auth::keys::Interface;
use lastroute::wire::container::{self, BtAddress, Content, Entry, Packer, RouteInterface};
use lastroute::wire::frame::{FrameError, Header, Layout};

use crate::fields::Fields;
use crate::gateway::{Gateway, Rejected, check_derivation, type_name};

pub(crate) fn check_container(gateway: &mut Gateway, vector: &mut Fields, payload: &[u8]) {
    vector.ignore(&["container_decoded_by_package"]);
    let entries: Vec<_> = container::entries(payload).map(Result::unwrap).collect();
    let expected = vector.list("container");
    assert_eq!(entries.len(), expected.len());
    let mut at = 0;
    for (entry, fields) in entries.iter().zip(&expected) {
        let mut fields = Fields::of(fields);
        let mut bytes = Vec::new();
        entry.encode(&mut bytes).unwrap();
        assert_eq!(payload[at..at + bytes.len()], bytes);
        fields.is("offset", at);
        fields.is("len", bytes.len());
        fields.is("len_field", u16::from_le_bytes([bytes[0], bytes[1]]));
        fields.is("rssi_byte", bytes[2]);
        at += bytes.len();
        check_entry(gateway, entry, &mut fields);
        fields.end();
    }
    assert_eq!(at, payload.len());
    check_packing(&entries, payload);
}

/// All entries fit into the length they had, and one byte less leaves out the last.
fn check_packing(entries: &[Entry<'_>], payload: &[u8]) {
    let mut packer = Packer::new(payload.len());
    assert!(entries.iter().all(|entry| packer.push(entry).unwrap()));
    assert_eq!((packer.payload(), packer.entries()), (payload, entries.len()));
    let mut tight = Packer::new(payload.len().saturating_sub(1));
    let fitted = entries.iter().filter(|entry| tight.push(entry).unwrap()).count();
    assert_eq!(fitted, entries.len().saturating_sub(1));
}

fn check_entry(gateway: &mut Gateway, entry: &Entry<'_>, fields: &mut Fields) {
    fields.is("interface", entry.interface.id());
    fields.is("interface_name", entry.interface.name());
    fields.is("rssi_dbm", entry.rssi_dbm);
    let address = fields.optional("address").map(|address| {
        let mut address = Fields::of(&address);
        let bt = BtAddress::from_wire(address.array("bytes"));
        address.is("type", bt.kind);
        address.is("type_name", bt.kind_name());
        address.is("text", bt.to_string());
        address.end();
        bt
    });
    assert_eq!(entry.bt, address);
    let status = fields.text("status");
    if !entry.interface.is_bluetooth() {
        assert_eq!(status, "unknown_interface");
        fields.is("encrypted", false);
        return;
    }
    match entry.content {
        Content::Opened { header, payload } => {
            assert_eq!((status.as_str(), header.entropy), ("ok", 0));
            fields.is("encrypted", false);
            check_inner(fields, &header, payload);
        }
        Content::Sealed(frame) => {
            fields.is("encrypted", true);
            fields.is_hex("frame", frame);
            check_sealed(gateway, entry.interface, frame, &status, fields);
        }
    }
}

fn check_sealed(gateway: &mut Gateway, heard_on: RouteInterface, frame: &[u8], status: &str, fields: &mut Fields) {
    let (interface, info) = match heard_on {
        RouteInterface::BtAdv => (Interface::BtAdv, "bt_adv"),
        _ => (Interface::BtGatt, "bt_gatt"),
    };
    let opened = match gateway.open(frame, Layout::Versioned, interface) {
        Ok(opened) => opened,
        Err(rejected) => {
            let reason = match rejected {
                Rejected::Frame(FrameError::Short { .. }) => "too_short",
                Rejected::Frame(FrameError::Version(_)) => "bad_version",
                Rejected::Refused(Refusal::UnknownNetwork(_)) => "unknown_network",
                Rejected::Refused(Refusal::UnknownDevice(_)) => "unknown_device",
                Rejected::Refused(Refusal::UnknownKey { .. }) => "key_id",
                Rejected::Refused(Refusal::BadTag) => "bad_tag",
                other => panic!("{other:?}"),
            };
            assert_eq!(reason, status);
            return;
        }
    };
    assert_eq!(status, "ok");
    assert_eq!(gateway.seal(&opened, Layout::Versioned, interface), frame);
    check_derivation(fields, opened.header.gps_time, info);
    fields.is("entropy", opened.header.entropy);
    check_inner(fields, &opened.header, &opened.payload);
}

fn check_inner(fields: &mut Fields, header: &Header, payload: &[u8]) {
    fields.is("type", header.packet_type.0);
    fields.is("type_name", type_name(header.packet_type));
    fields.is("device_id", header.device_id.to_string());
    fields.is("auth", header.level().name());
    fields.is("key_id", header.key_id.get());
    fields.is("flags", header.flags.0);
    fields.is("gps_time", header.gps_time);
    fields.is("sequence", header.sequence);
    fields.is_hex("payload", payload);
}
