//! Remote procedure calls: headers, names of commands, and the results that the protocol describes (docs/protocol.md, RPC).

use serde_json::Value;

use super::part::{Part, Walk, count, plain};
use super::readings::version;
use crate::id::KeyId;
use crate::wire::commands::{named, return_code_meaning};

/// A call.
pub(super) fn command(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    request_id(walk, part)?;
    let command = walk.u16(part, "command_id", command_text)?;
    if named(command).is_some_and(|command| command.moves_data) {
        walk.u32(part, "size", |size| match size {
            u32::MAX => "all there is".to_owned(),
            size => format!("{size} bytes to move"),
        })?;
        walk.u8(part, "rx_ack_period", |period| match period {
            1..=8 => format!("acknowledged every {}", count(period.into(), "packet")),
            period => format!("{period}: no acknowledgements"),
        })?;
    }
    walk.remainder(part, "parameters");
    Some(())
}

/// A piece of data.
pub(super) fn data(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    request_id(walk, part)?;
    walk.u32(part, "offset", plain)?;
    walk.remainder(part, "data");
    Some(())
}

/// Received offsets, any number of them.
pub(super) fn data_ack(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    request_id(walk, part)?;
    if walk.rest().is_empty() {
        part.notes.push("no offsets: ready to receive".to_owned());
    }
    while !walk.rest().is_empty() {
        let mut offset = Part::new("received", walk.at());
        let taken = walk.u32(&mut offset, "offset", plain);
        part.parts.push(offset);
        taken?;
    }
    Some(())
}

/// An answer.
pub(super) fn response(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    request_id(walk, part)?;
    let command = walk.u16(part, "command_id", command_text)?;
    walk.i16(part, "return_code", return_code)?;
    if walk.rest().is_empty() {
        return Some(());
    }
    match command {
        3 => time_get(walk, part)?,
        9 => application_info(walk, part)?,
        30_000 => security_state(walk, part)?,
        _ => {}
    }
    walk.remainder(part, "result");
    Some(())
}

fn request_id(walk: &mut Walk<'_>, part: &mut Part) -> Option<u32> {
    walk.u32(part, "request_id", |id| format!("{id} (0x{id:08x})"))
}

fn command_text(id: u16) -> String {
    format!("{id} {}", named(id).map_or("(no name known)", |command| command.name))
}

fn return_code(code: i16) -> String {
    return_code_meaning(code).map_or_else(|| code.to_string(), |meaning| format!("{code}: {meaning}"))
}

fn time_get(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    walk.u8(part, "time_source", |source| {
        let name = match source & 0x7f {
            0 => "none",
            1 => "GNSS",
            2 => "NTP",
            3 => "RPC",
            4 => "ePacket",
            5 => "invalid",
            _ => "not known",
        };
        let kept = if source & 0x80 == 0 { "" } else { ", kept over a reboot" };
        format!("{source}: {name}{kept}")
    })?;
    walk.u64(part, "time", |ticks| i64::try_from(ticks).map_or_else(|_| plain(ticks), super::readings::moment))?;
    walk.u32(part, "set_ago", |seconds| match seconds {
        u32::MAX => "never set".to_owned(),
        seconds => format!("{seconds} s ago"),
    })?;
    Some(())
}

fn application_info(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    walk.u32(part, "application_id", |id| format!("0x{id:08x}"))?;
    version(walk, part)?;
    walk.u32(part, "network_id", |id| KeyId::new(id).map_or_else(|| format!("{id}, more than 24 bits"), plain))?;
    walk.u32(part, "uptime", |seconds| format!("{seconds} s"))?;
    walk.u32(part, "reboots", plain)?;
    walk.u32(part, "kv_crc", |crc| format!("0x{crc:08x}, of the key-value store"))?;
    walk.u32(part, "blocks_internal", plain)?;
    walk.u32(part, "blocks_external", plain)?;
    Some(())
}

fn security_state(walk: &mut Walk<'_>, part: &mut Part) -> Option<()> {
    for name in ["cloud_public_key", "device_public_key"] {
        bytes(walk, part, name, 32)?;
    }
    walk.u32(part, "network_id", |id| KeyId::new(id).map_or_else(|| format!("{id}, more than 24 bits"), plain))?;
    walk.u8(part, "answer_kind", |kind| match kind {
        0 => "0: hardware id".to_owned(),
        kind => format!("{kind}: not in use"),
    })?;
    if walk.rest().is_empty() {
        part.notes.push("no answer to the challenge: the device cannot encrypt it".to_owned());
        return Some(());
    }
    for (name, len) in [("answer_nonce", 12), ("answer_ciphertext", 40), ("answer_tag", 16)] {
        bytes(walk, part, name, len)?;
    }
    Some(())
}

fn bytes(walk: &mut Walk<'_>, part: &mut Part, name: &'static str, len: usize) -> Option<()> {
    walk.bytes(part, name, len, |bytes| (Value::from(hex::encode(bytes)), count(len, "byte"))).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Explain = fn(&mut Walk<'_>, &mut Part) -> Option<()>;

    fn explained(explain: Explain, payload: &[u8]) -> (Part, Vec<String>) {
        let mut part = Part::new("call", 22);
        let _ = explain(&mut Walk::new(payload, 22), &mut part);
        let texts = part.fields.iter().map(|field| format!("{}={}", field.name, field.text)).collect();
        (part, texts)
    }

    #[test]
    fn a_call_that_moves_data_has_two_fields_more() {
        let (_, plain) = explained(command, &[1, 0, 0, 0, 1, 0, 9]);
        assert_eq!(plain, ["request_id=1 (0x00000001)", "command_id=1 reboot", "parameters=1 byte"]);
        let (_, moving) = explained(command, &[1, 0, 0, 0, 40, 0, 0xe8, 3, 0, 0, 2]);
        assert_eq!(moving[2..], ["size=1000 bytes to move", "rx_ack_period=acknowledged every 2 packets"]);
        let (_, unknown) = explained(command, &[1, 0, 0, 0, 99, 0]);
        assert_eq!(unknown[1], "command_id=99 (no name known)");
    }

    #[test]
    fn an_answer_says_its_code_and_what_the_protocol_knows_of_the_result() {
        let (_, failed) = explained(response, &[1, 0, 0, 0, 1, 0, 0x64, 0xfb]);
        assert_eq!(failed[2], "return_code=-1180: the level is too low");
        let time = [&[1, 0, 0, 0, 3, 0, 0, 0, 0x82][..], &[0, 0, 0xd2, 0x63, 0x2e, 0x58, 0, 0], &[255; 4]].concat();
        let (_, time) = explained(response, &time);
        assert_eq!(
            time[3..],
            ["time_source=130: NTP, kept over a reboot", "time=2026-11-23T02:13:20.000Z", "set_ago=never set"]
        );
    }

    #[test]
    fn offsets_are_listed_and_half_an_offset_is_a_fault() {
        assert_eq!(explained(data_ack, &[1, 0, 0, 0]).0.notes, ["no offsets: ready to receive"]);
        let (part, _) = explained(data_ack, &[1, 0, 0, 0, 4, 0, 0, 0, 8, 0]);
        assert_eq!(part.parts.len(), 2);
        assert_eq!(part.parts[1].faults[0].at, 30);
        assert!(part.is_faulty());
    }

    #[test]
    fn a_payload_shorter_than_its_header_says_which_field_is_missing() {
        let all: [Explain; 4] = [command, data, data_ack, response];
        for explain in all {
            let (part, _) = explained(explain, &[1, 2, 3]);
            assert_eq!(part.faults[0].text, "expected the 4 bytes of request id, of which 3 are there");
        }
    }
}
