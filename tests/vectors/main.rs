//! Every published vector, through the public interface of the library.
//!
//! A vector is taken apart field by field: a field that nothing looked at fails the test, and so does a vector that was
//! left out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod containers;
mod fields;
mod frames;
mod gateway;
mod keys;
mod payloads;
mod readings;

use std::collections::BTreeMap;

use lastroute::auth::keys::Interface;
use lastroute::clock::Timestamp;
use lastroute::table::route::{Outcome, Path};
use lastroute::table::{Packet, RouteTable, TableConfig};
use lastroute::wire::frame::{Frame, Layout};
use serde_json::Value;

use fields::{Fields, file};
use frames::{check_accepted, check_rejected};
use gateway::{Gateway, NOW};
use keys::{check_hkdf, check_key_id, check_root};

#[test]
fn every_epacket_vector_has_its_outcome() {
    let mut file = file("epacket-v0.json");
    let mut gateway = Gateway::of(file.object("keyring"));
    let vectors = file.list("vectors");
    let mut counts = BTreeMap::<String, usize>::new();
    for vector in &vectors {
        let mut vector = Fields::of(vector);
        let (name, expect) = (vector.text("name"), vector.text("expect"));
        println!("{name}");
        vector.ignore(&["note"]);
        match (vector.text("kind").as_str(), expect.as_str()) {
            ("hkdf", "accept") => check_hkdf(&mut vector),
            ("x25519_root", "accept") => check_root(&mut vector),
            ("device_key_id", "accept") => {
                check_key_id(&mut vector);
            }
            ("time", "accept") => check_time(&mut vector),
            ("udp_frame", "accept" | "edge") => check_accepted(&mut gateway, &mut vector, expect == "edge"),
            ("udp_frame", "reject") => check_rejected(&mut gateway, &mut vector),
            (kind, _) => panic!("{kind} {expect}"),
        }
        vector.end();
        *counts.entry(expect).or_default() += 1;
    }
    let expected = file.object("counts").0;
    assert_eq!(serde_json::to_value(&counts).unwrap(), Value::Object(expected));
    for stream in file.list("streams") {
        check_stream(&mut gateway, Fields::of(&stream), &vectors);
    }
    file.ignore(&["about", "format"]);
    file.end();
}

fn check_time(vector: &mut Fields) {
    let gps_time: u32 = vector.number("gps_time");
    let unix = Timestamp::from_unix_seconds(vector.number("unix_time"));
    assert_eq!((unix, unix.gps()), (Timestamp::from_gps(gps_time), gps_time));
    vector.is("rotation", gps_time / 86_400);
}

/// Every packet of a stream counts once: none is a replay of another, and a copy of each is.
fn check_stream(gateway: &mut Gateway, mut stream: Fields, vectors: &[Value]) {
    println!("{}", stream.text("name"));
    stream.ignore(&["description"]);
    let table = RouteTable::new(&TableConfig::default());
    let path = Path::Direct("192.0.2.1:6200".parse().unwrap());
    let names = stream.list("vectors");
    let datagrams: Vec<_> = names.iter().map(|name| datagram(vectors, name)).collect();
    for (index, bytes) in datagrams.iter().enumerate() {
        let at = datagrams[index..].iter().map(|bytes| sent_at(bytes)).find(|at| *at >= NOW).unwrap_or(NOW);
        for copy in [false, true] {
            let mut bytes = bytes.clone();
            let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
            let verified = &gateway.authenticator.open(&gateway.ring, frame, Interface::Udp, at).unwrap();
            let outcome = table.record(&Packet::new(verified, &path, at));
            assert_eq!(matches!(outcome, Outcome::Refused(_)), copy, "{} {outcome:?}", names[index]);
        }
    }
    stream.end();
}

fn datagram(vectors: &[Value], name: &Value) -> Vec<u8> {
    let vector = vectors.iter().find(|vector| vector["name"] == *name).unwrap();
    Fields::of(vector).bytes("datagram")
}

/// When the sender says it sent the datagram.
fn sent_at(datagram: &[u8]) -> Timestamp {
    Timestamp::from_gps(Frame::parse(&mut datagram.to_vec(), Layout::Unversioned).unwrap().header().gps_time)
}
