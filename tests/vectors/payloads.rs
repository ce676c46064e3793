//! What is inside a frame: calls, acknowledgements, forwarded frames.

use lastroute::auth::keys::Interface;
use lastroute::wire::container::{BtAddress, RouteInterface};
use lastroute::wire::frame::{Layout, PacketType};
use lastroute::wire::tdf::Version;
use lastroute::wire::{control, rpc};

use crate::containers::check_container;
use crate::fields::Fields;
use crate::gateway::{Gateway, Opened};

pub(crate) fn check_payload(gateway: &mut Gateway, vector: &mut Fields, opened: &Opened) {
    let payload = &opened.payload;
    match opened.header.packet_type {
        PacketType::RPC_CMD => check_command(vector.object("rpc"), payload),
        PacketType::RPC_RSP => check_response(gateway, vector, payload),
        PacketType::RPC_DATA => {
            let data = rpc::Data::parse(payload).unwrap();
            assert_eq!(encoded(|out| data.encode(out)), *payload);
            if let Some(fields) = vector.optional("rpc_data") {
                let mut fields = Fields::of(&fields);
                fields.is("request_id", data.request_id);
                fields.is("offset", data.offset);
                fields.end();
            }
        }
        PacketType::RPC_DATA_ACK => {
            let ack = rpc::DataAck::parse(payload).unwrap();
            assert_eq!(encoded(|out| ack.encode(out)), *payload);
        }
        PacketType::ACK => {
            let sequence = control::acked_sequence(payload).unwrap();
            assert_eq!(payload[..], control::ack(sequence));
            let mut fields = vector.object("ack");
            fields.is("sequence", sequence);
            fields.end();
        }
        PacketType::KEY_IDS => {
            let key_id = control::named_key_id(payload).unwrap();
            assert_eq!(payload[..], control::key_ids(key_id));
        }
        PacketType::RECEIVED_EPACKET => check_container(gateway, vector, payload),
        PacketType::EPACKET_FORWARD => check_forward(gateway, vector.object("forward"), payload, 3),
        PacketType::EPACKET_FORWARD_AUTO_CONN => {
            let mut fields = vector.object("forward");
            let settings = ["flags", "conn_timeout", "conn_idle_timeout", "conn_absolute_timeout"];
            for (key, setting) in settings.into_iter().zip(&payload[3..7]) {
                fields.is(key, *setting);
            }
            check_forward(gateway, fields, payload, 7);
        }
        _ => {}
    }
}

fn check_command(mut fields: Fields, payload: &[u8]) {
    let data = fields.optional("data_header").map(|data| {
        let mut data = Fields::of(&data);
        let header = rpc::DataHeader { size: data.number("size"), rx_ack_period: data.number("rx_ack_period") };
        data.end();
        header
    });
    let parameters = fields.bytes("params");
    let (request_id, command_id) = (fields.number("request_id"), fields.number("command_id"));
    let expected = rpc::Command { request_id, command_id, data, parameters: &parameters };
    let parse = if data.is_some() { rpc::Command::parse_with_data } else { rpc::Command::parse };
    assert_eq!(parse(payload), Some(expected));
    assert_eq!(encoded(|out| expected.encode(out)), payload);
    fields.end();
}

fn check_response(gateway: &Gateway, vector: &mut Fields, payload: &[u8]) {
    let response = rpc::Response::parse(payload).unwrap();
    assert_eq!(encoded(|out| response.encode(out)), payload);
    if let Some(fields) = vector.optional("rpc") {
        let mut fields = Fields::of(&fields);
        fields.is("request_id", response.request_id);
        fields.is("command_id", response.command_id);
        fields.is("return_code", response.return_code);
        if fields.0.contains_key("fields") {
            check_application_info(fields.object("fields"), response.body);
        }
        fields.end();
    }
    if vector.0.contains_key("security_state") {
        check_security_state(gateway, vector.object("security_state"), response.body);
    }
}

fn check_application_info(mut fields: Fields, body: &[u8]) {
    let u32_at = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
    for (key, at) in [
        ("application_id", 0),
        ("network_id", 12),
        ("uptime", 16),
        ("reboots", 20),
        ("kv_crc", 24),
        ("data_blocks_internal", 28),
        ("data_blocks_external", 32),
    ] {
        fields.is(key, u32_at(at));
    }
    let revision = u16::from_le_bytes([body[6], body[7]]);
    check_version(fields.object("version"), Version { major: body[4], minor: body[5], revision, build: u32_at(8) });
    assert_eq!(body.len(), 36);
    fields.end();
}

pub(crate) fn check_version(mut fields: Fields, version: Version) {
    fields.is("major", version.major);
    fields.is("minor", version.minor);
    fields.is("revision", version.revision);
    fields.is("build_num", version.build);
    fields.end();
}

fn check_security_state(gateway: &Gateway, mut fields: Fields, body: &[u8]) {
    use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

    let device_public = fields.array("device_public");
    let root = gateway.pair.shared_root(device_public).unwrap();
    let (salt, info) = (fields.bytes("sign_salt"), fields.text("sign_info"));
    let sign_key = root.derive(&salt, info.as_bytes());
    fields.is_hex("sign_key", &sign_key);

    let (associated, nonce) = (fields.bytes("aad"), fields.array("nonce"));
    let mut sealed = [fields.bytes("ciphertext"), fields.bytes("tag")].concat();
    assert_eq!(body, [&associated[..], &nonce, &sealed].concat());
    let kind: u8 = fields.number("challenge_response_type");
    let network: u32 = fields.number("network_id");
    let cloud_public: [u8; 32] = fields.array("cloud_public");
    assert_eq!(associated, [&cloud_public[..], &device_public, &network.to_le_bytes(), &[kind]].concat());

    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &sign_key).unwrap());
    let nonce = Nonce::assume_unique_for_key(nonce);
    let answer = key.open_in_place(nonce, Aad::from(&associated), &mut sealed).unwrap();
    let device_id = fields.device_id("device_id").0.to_le_bytes();
    let parts = [fields.bytes("challenge"), fields.bytes("hardware_id"), device_id.to_vec()];
    assert_eq!([&*answer, &parts.concat()], [&fields.bytes("plaintext")[..]; 2]);
    fields.end();
}

/// The parts that both kinds of forwarding share; `settings` bytes come before the address.
fn check_forward(gateway: &mut Gateway, mut fields: Fields, payload: &[u8], settings: usize) {
    assert_eq!(usize::from(u16::from_le_bytes([payload[0], payload[1]])), payload.len());
    fields.is("interface", payload[2]);
    assert_eq!(RouteInterface::from_id(payload[2]), RouteInterface::BtCentral);
    let (address, frame) = payload[settings..].split_at(7);
    fields.is_hex("address", address);
    fields.is_hex("inner_frame", frame);
    let address = BtAddress::from_wire(address.try_into().unwrap());
    fields.is("address_text", address.to_string());
    fields.is("address_type", address.kind_name());
    fields.is("inner_info", "bt_gatt");
    let inner = gateway.open(frame, Layout::Versioned, Interface::BtGatt).unwrap();
    assert_eq!(gateway.seal(&inner, Layout::Versioned, Interface::BtGatt), frame);
    fields.is("inner_auth", inner.header.level().name());
    fields.is("inner_device_id", inner.header.device_id.to_string());
    fields.is_hex("inner_plaintext", &inner.payload);
    fields.end();
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}
