//! Readings and announcements.

use lastroute::wire::frame::PacketType;
use lastroute::wire::tdf::{self, Array, TimeKind};
use serde_json::Value;

use crate::fields::{Fields, file};
use crate::payloads::check_version;

#[test]
fn every_tdf_vector_gives_its_readings_and_its_announcement() {
    let mut file = file("tdf-announce.json");
    let vectors = file.list("vectors");
    assert_eq!(vectors.len(), 34);
    for vector in &vectors {
        let mut vector = Fields::of(vector);
        println!("{}", vector.text("name"));
        vector.ignore(&["note", "decoded_by_package"]);
        let payload = vector.bytes("payload");
        let run = match PacketType(vector.number("type")) {
            PacketType::TDF_REMOTE => {
                let (remote, run) = tdf::split_remote(&payload).unwrap();
                vector.is("remote_device_id", remote.to_string());
                run
            }
            packet_type => {
                assert_eq!(packet_type, PacketType::TDF);
                &payload
            }
        };
        check_readings(run, &vector.list("readings"));
        let scan = tdf::scan(run);
        vector.is("malformed", scan.fault.is_some());
        match vector.optional("announce") {
            Some(fields) => check_announce(Fields::of(&fields), scan.announce.unwrap()),
            None => assert_eq!(scan.announce, None),
        }
        vector.end();
    }
    file.ignore(&["about", "format"]);
    file.end();
}

fn check_readings(run: &[u8], expected: &[Value]) {
    let mut readings = tdf::readings(run);
    for fields in expected {
        let mut fields = Fields::of(fields);
        fields.is("offset", run.len() - readings.rest().len());
        let reading = readings.next().unwrap().unwrap();
        fields.is("id", reading.id);
        let time_kind = match reading.time_kind {
            TimeKind::None => "none",
            TimeKind::Absolute => "absolute",
            TimeKind::Relative => "relative",
            TimeKind::Extended => "extended",
        };
        fields.is("time_mode", time_kind);
        let array = match reading.array {
            Array::Single => "none",
            Array::Time => "time",
            Array::Diff => "diff",
            Array::Index => "idx",
        };
        fields.is("array", array);
        assert_eq!(reading.time, fields.optional("epoch_ticks").and_then(|ticks| ticks.as_i64()));
        fields.is("count", reading.count);
        fields.is("length", reading.sample_len);
        fields.is_hex("data", reading.data);
        fields.end();
    }
    assert!(!matches!(readings.next(), Some(Ok(_))));
}

fn check_announce(mut fields: Fields, announce: tdf::Announce) {
    fields.is("tdf_id", if announce.board_crc.is_some() { 7 } else { 1 });
    fields.is("application_id", announce.application_id);
    check_version(fields.object("version"), announce.version);
    assert_eq!(fields.optional("board_crc"), announce.board_crc.map(Value::from));
    fields.is("kv_crc", announce.kv_crc);
    fields.is("blocks", announce.blocks);
    fields.is("uptime", announce.uptime);
    fields.is("reboots", announce.reboots);
    fields.is("flags", announce.flags);
    fields.end();
}
