//! Messages to devices as a person reads them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::clock::Timestamp;
use crate::definitions::Definitions;
use crate::quote::one_line;
use crate::records::message::MessageStatus;
use crate::records::rpc::{AskedLevel, AskedRetry, RpcMessage};
use crate::status::Time;
use crate::wire::commands::return_code_meaning;

/// A message as the API shows it, and the same as it is understood here.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) json: Value,
    pub(super) message: RpcMessage,
}

impl Shown {
    /// The message in `json`, in which definitions show the fields that the gateway does not know.
    pub(super) fn new(mut json: Value, definitions: Option<&Definitions>) -> Result<Self, serde_json::Error> {
        let id = json["downlinkMessage"]["rpcReq"]["commandId"].as_u64().and_then(|id| u16::try_from(id).ok());
        if let (Some(definitions), Some(id)) = (definitions, id) {
            let downlink = &mut json["downlinkMessage"];
            decode(&mut downlink["rpcReq"], |bytes| definitions.decode_request(id, bytes));
            if let Some(response) = downlink.get_mut("rpcRsp") {
                decode(response, |bytes| definitions.decode(id, bytes));
            }
        }
        let message = serde_json::from_value(json.clone())?;
        Ok(Self { json, message })
    }
}

/// Puts fields in place of bytes, where they can be read.
fn decode(side: &mut Value, read: impl FnOnce(&[u8]) -> Option<Value>) {
    let bytes = side["paramsEncoded"].as_str().and_then(|text| STANDARD.decode(text).ok());
    let Some(params) = bytes.and_then(|bytes| read(&bytes)) else { return };
    if let Some(side) = side.as_object_mut() {
        side.remove("paramsEncoded");
        side.insert("params".to_owned(), params);
    }
}

/// A message in one line.
pub(super) fn line(shown: &Shown, now: Timestamp) -> String {
    let RpcMessage { created, device, .. } = &shown.message;
    let (command, outcome) = (command(shown), outcome(shown, now));
    format!("{}  {}  {}  {command}  {outcome}", created.id, device.device_id, time(created.created_at))
}

/// All of a message, a line for each thing.
pub(super) fn told(shown: &Shown, now: Timestamp) -> String {
    let RpcMessage { created, device, downlink_message: message } = &shown.message;
    let (delivery, downlink) = (&message.delivery, &shown.json["downlinkMessage"]);
    let mut lines = vec![
        ("message", created.id.to_string()),
        ("device", device.device_id.to_string()),
        ("command", command(shown)),
        ("params", fields(&downlink["rpcReq"])),
        ("made", time(created.created_at)),
        ("status", outcome(shown, now)),
    ];
    if let Some(at) = delivery.sent_at {
        let times =
            if delivery.attempts > 1 { format!(", the last of {} times", delivery.attempts) } else { String::new() };
        lines.push(("sent", format!("{}{times}; {}", time(at), sent(shown))));
    } else {
        lines.push(("expires", time(delivery.expires_at)));
        lines.push(("key", level(delivery.level).to_owned()));
    }
    if delivery.retry == AskedRetry::UntilAnswered {
        lines.push(("retry", "each time the device speaks, until it answers".to_owned()));
    }
    lines.extend(delivery.note.as_ref().map(|note| ("note", one_line(note))));
    lines.extend(
        delivery.connection_terminated.map(|code| ("relay", format!("its connection to the device ended: {code}"))),
    );
    lines.extend(
        delivery.received_length.map(|len| ("data", format!("{len} bytes; lastroute rpc data {}", created.id))),
    );
    lines.extend(message.rpc_rsp.as_ref().map(|_| ("result", fields(&downlink["rpcRsp"]))));
    lines.iter().map(|(name, text)| format!("{name:<9}{text}\n")).collect()
}

fn command(shown: &Shown) -> String {
    let request = &shown.message.downlink_message.rpc_req;
    match &request.command_name {
        Some(name) => format!("{} ({})", one_line(name), request.command_id),
        None => request.command_id.to_string(),
    }
}

/// What has become of a message.
fn outcome(shown: &Shown, now: Timestamp) -> String {
    let message = &shown.message.downlink_message;
    let delivery = &message.delivery;
    if let Some(response) = &message.rpc_rsp {
        let took = delivery.sent_at.zip(delivery.completed_at);
        let took = took.map(|(sent, completed)| format!(" after {}", ago(Some(sent), completed.0)));
        return format!("answered {}{}", answer(response.return_code), took.unwrap_or_default());
    }
    match delivery.status {
        MessageStatus::Waiting if delivery.expires_at.0 > now => "waits for the device to speak".to_owned(),
        MessageStatus::Waiting if delivery.note.is_some() => "not sent".to_owned(),
        MessageStatus::Waiting => "expired: the device did not speak in time".to_owned(),
        MessageStatus::Sent | MessageStatus::Completed => "sent, not answered".to_owned(),
    }
}

/// A return code with its meaning, if that is known.
pub(super) fn answer(code: i16) -> String {
    return_code_meaning(code).map_or_else(|| code.to_string(), |meaning| format!("{code} ({meaning})"))
}

/// How a message went: under which key, and where to.
pub(super) fn sent(shown: &Shown) -> String {
    let downlink = &shown.json["downlinkMessage"];
    let level = if downlink["auth"] == 2 { "device" } else { "network" };
    let route = &downlink["rpcReq"]["route"];
    let text = |value: &Value| one_line(value.as_str().unwrap_or("an unknown address"));
    let relay = &route["forwarded"];
    if relay.is_null() {
        return format!("sent at {level} level to {}", text(&route["udp"]["address"]));
    }
    let (relay, address) = (text(&relay["deviceId"]), text(&relay["route"]["udp"]["address"]));
    format!("sent at {level} level through relay {relay} at {address}")
}

const fn level(level: AskedLevel) -> &'static str {
    match level {
        AskedLevel::Best => "the device's if it is known by then, else its network's",
        AskedLevel::Network => "its network's",
        AskedLevel::Device => "the device's: it waits until that is known",
    }
}

/// Parameters or a result, of the side of a call that has them: each field in a line of its own, or the bytes in hex.
fn fields(side: &Value) -> String {
    match &side["params"] {
        Value::Object(params) if !params.is_empty() => {
            let text = serde_json::to_string_pretty(params).unwrap_or_default();
            text.lines().map(one_line).collect::<Vec<_>>().join("\n         ")
        }
        _ => {
            let packed = side["paramsEncoded"].as_str().and_then(|text| STANDARD.decode(text).ok());
            packed.filter(|packed| !packed.is_empty()).map_or_else(|| "none".to_owned(), hex::encode)
        }
    }
}

fn time(time: Time) -> String {
    serde_json::to_value(time).ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The time from one moment to another, in its greatest unit.
pub(super) fn ago(from: Option<Time>, to: Timestamp) -> String {
    let Some(from) = from else { return "some time".to_owned() };
    match to.0.saturating_sub(from.0.0) {
        millis @ ..1_000 => format!("{millis} ms"),
        millis @ ..120_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        millis @ ..7_200_000 => format!("{} min", millis / 60_000),
        millis @ ..172_800_000 => format!("{} h", millis / 3_600_000),
        millis => format!("{} d", millis / 86_400_000),
    }
}
