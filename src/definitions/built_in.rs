//! What is known without a file: the commands that the protocol names, and the fields of those whose layout it documents
//! (docs/protocol.md, RPC).

use std::sync::Arc;

use super::layout::{Count, Field, Integer, Kind, Layout};
use super::{Command, Fields};
use crate::wire::commands::{NAMED, NamedCommand};

/// The commands that have names.
pub(super) fn commands() -> impl Iterator<Item = (u16, Command)> {
    NAMED.iter().map(|named| (named.id, command(named)))
}

fn command(named: &NamedCommand) -> Command {
    Command {
        name: named.name.into(),
        level: Some(named.level),
        moves_data: named.moves_data,
        fields: fields(named.name),
    }
}

fn fields(name: &str) -> Option<Fields> {
    let (request, response) = match name {
        "time_get" => (vec![], vec![u8("time_source"), u64("epoch_time"), u32("sync_age")]),
        "time_set" => (vec![u64("epoch_time")], vec![]),
        "application_info" => (vec![], application_info()),
        "security_state" => (vec![bytes("challenge", 16)], security_state()),
        "security_public_keys" => (vec![u8("skip")], security_public_keys()),
        _ => return None,
    };
    Some(Fields { request: layout(request), response: layout(response) })
}

fn application_info() -> Vec<Field> {
    let version = vec![u8("major"), u8("minor"), u16("revision"), u32("build_num")];
    let version = Kind::Structure(Arc::new(layout(version)));
    let rest = ["network_id", "uptime", "reboots", "kv_crc", "data_blocks_internal", "data_blocks_external"];
    [u32("application_id"), field("version", version, Count::One)].into_iter().chain(rest.map(u32)).collect()
}

fn security_state() -> Vec<Field> {
    vec![
        bytes("cloud_public_key", 32),
        bytes("device_public_key", 32),
        u32("network_id"),
        u8("challenge_response_type"),
        field("challenge_response", Kind::Integer(Integer::U8), Count::Rest),
    ]
}

fn security_public_keys() -> Vec<Field> {
    let key = Kind::Structure(Arc::new(layout(vec![u8("id"), bytes("key", 32)])));
    vec![u8("keys_total"), u8("keys_included"), field("public_keys", key, Count::By(1))]
}

#[allow(clippy::expect_used, reason = "the layouts above are constants, and a test makes them all")]
fn layout(fields: Vec<Field>) -> Layout {
    Layout::new(fields).expect("a layout that can be packed")
}

fn field(name: &str, kind: Kind, count: Count) -> Field {
    Field { name: name.into(), kind, count }
}

fn u8(name: &str) -> Field {
    field(name, Kind::Integer(Integer::U8), Count::One)
}

fn u16(name: &str) -> Field {
    field(name, Kind::Integer(Integer { bytes: 2, signed: false }), Count::One)
}

fn u32(name: &str) -> Field {
    field(name, Kind::Integer(Integer { bytes: 4, signed: false }), Count::One)
}

fn u64(name: &str) -> Field {
    field(name, Kind::Integer(Integer { bytes: 8, signed: false }), Count::One)
}

fn bytes(name: &str, len: usize) -> Field {
    field(name, Kind::Integer(Integer::U8), Count::Fixed(len))
}
