//! Any bytes as a file, as a datagram, and as the plaintext of a packet of any type: explained without a panic, and every
//! field where its bytes are.
//!
//! An input is a byte, the type of packet, and the bytes.

use std::io::Cursor;

use lastroute::auth::keys::{FACTORY_NETWORK, FACTORY_NETWORK_KEY, Interface, RootKey};
use lastroute::auth::seal_with;
use lastroute::clock::Timestamp;
use lastroute::decode::part::Part;
use lastroute::decode::{Datagram, DecodeArgs, Decoder, Knowledge, brief, json, text};
use lastroute::id::DeviceId;
use lastroute::wire::frame::{Flags, Header, Layout, PacketType};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_400_001);

/// One input.
pub(crate) fn run(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let arguments = DecodeArgs { file: vec!["-".into()], brief: true, ..DecodeArgs::default() };
    let (knowledge, stdin) = (Knowledge::default(), Cursor::new(bytes.to_vec()));
    let _ = lastroute::decode::run(&arguments, knowledge, NOW, stdin, std::io::sink(), &mut Vec::new());
    explain(bytes.to_vec());
    explain(sealed(PacketType(*kind), bytes));
}

fn sealed(packet_type: PacketType, plaintext: &[u8]) -> Vec<u8> {
    let gps_time = NOW.gps();
    let (key_id, device_id) = (FACTORY_NETWORK, DeviceId(1));
    let header = Header { packet_type, flags: Flags(0), key_id, device_id, gps_time, sequence: 0, entropy: 0 };
    let key = RootKey::new(FACTORY_NETWORK_KEY).day_key(Interface::Udp, header.rotation());
    let mut datagram = Vec::new();
    seal_with(&key, &header, Layout::Unversioned, plaintext, &mut datagram);
    datagram
}

fn explain(bytes: Vec<u8>) {
    let len = bytes.len();
    let mut decoder = Decoder::new(Knowledge::default(), NOW, false);
    let explained = decoder.explain(Datagram::new("fuzz".to_owned(), bytes));
    explained.parts.iter().for_each(|part| check(part, len));
    let _ = (text(&explained), brief(&explained), json(&explained));
}

fn check(part: &Part, len: usize) {
    assert!(part.fields.iter().all(|field| field.at + field.bytes.len() <= len));
    assert!(part.faults.iter().all(|fault| fault.at <= len));
    part.parts.iter().for_each(|part| check(part, len));
}
