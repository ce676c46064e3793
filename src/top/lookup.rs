//! One device as it is looked up: what is asked, and what is said of the answer.

use serde_json::Value;

use super::text;
use crate::client::{Client, ClientError, LastRoute};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::status::Time;

/// What the gateway knows of a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    /// `None` if it was never heard.
    pub(super) route: Option<LastRoute>,
    /// `None` if it is not registered.
    pub(super) state: Option<Value>,
}

/// Asks for a device: two requests, one after the other.
pub(super) async fn ask(client: &Client, id: DeviceId) -> Result<Found, ClientError> {
    Ok(Found { route: client.last_route(id).await?, state: client.state(id).await? })
}

impl Found {
    /// What there is to say, in at most four lines. `now` is the gateway's clock, if it is known.
    pub(super) fn lines(&self, now: Option<Timestamp>) -> Vec<String> {
        let mut lines = Vec::new();
        match &self.route {
            None => lines.push("never heard".to_owned()),
            Some(found) => {
                lines.push(route_line(found, now));
                lines.extend(relay_line(&found.route));
                lines.extend(found.cursor.map(|cursor| format!("cursor {cursor}")));
            }
        }
        lines.push(self.state.as_ref().map_or_else(|| "not registered".to_owned(), |state| state_line(state, now)));
        lines
    }
}

/// Where and when it was heard last.
fn route_line(found: &LastRoute, now: Option<Timestamp>) -> String {
    let route = &found.route;
    // A relayed device was heard where its relay was.
    let udp = route.pointer("/udp").or_else(|| route.pointer("/forwarded/route/udp"));
    let address = udp.and_then(|udp| udp.get("address")).map(|address| format!(" from {}", plain(address)));
    let interface = route.get("interface").map_or_else(|| "?".to_owned(), plain);
    let heard = udp.and_then(|udp| time(udp.get("time")?));
    let parts = [
        Some(format!("heard on {interface}{}", address.unwrap_or_default())),
        heard.map(|heard| when(heard, now)),
        found.trust.as_ref().map(|trust| format!("proved by {trust}")),
        route.pointer("/interfaceData/sequence").map(|sequence| format!("sequence {sequence}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Through which relay, if it was one.
fn relay_line(route: &Value) -> Option<String> {
    let forwarded = route.get("forwarded")?;
    let bluetooth = ["btAdv", "btPeripheral", "btCentral"].into_iter().find_map(|name| route.get(name));
    let parts = [
        forwarded.get("deviceId").map(|relay| format!("through relay {}", plain(relay))),
        forwarded.get("rssi").map(|rssi| format!("{rssi} dBm")),
        bluetooth.and_then(|part| part.get("address")).map(|address| format!("address {}", plain(address))),
    ];
    Some(parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn state_line(state: &Value, now: Option<Timestamp>) -> String {
    let number = |name: &str| state.get("applicationVersion").and_then(|version| version.get(name)).map(plain);
    let version = ["major", "minor", "revision", "buildNum"].map(|name| number(name).unwrap_or_default());
    let application = state.get("applicationId").and_then(Value::as_u64);
    let parts = [
        Some("registered".to_owned()),
        application.map(|id| format!("application 0x{id:08x}")),
        number("major").map(|_| format!("version {}.{}.{}+{}", version[0], version[1], version[2], version[3])),
        time(state.get("firstPacketTime").unwrap_or(&Value::Null))
            .map(|first| format!("first heard {}", when(first, now))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn when(time: Timestamp, now: Option<Timestamp>) -> String {
    now.map_or_else(|| text::date_and_time(time), |now| format!("{} ago", text::since(time, now)))
}

fn time(value: &Value) -> Option<Timestamp> {
    Some(serde_json::from_value::<Time>(value.clone()).ok()?.0)
}

/// A text without its quotes; anything else as it is written.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::id::Cursor;

    /// 2026-11-23T03:00:00.123Z
    const NOW: Option<Timestamp> = Some(Timestamp(1_795_402_800_123));

    #[test]
    fn a_device_heard_directly_has_a_route_a_cursor_and_perhaps_a_state() {
        let route = json!({"interface": "udp", "interfaceData": {"sequence": 4711},
            "udp": {"address": "203.0.113.7:6200", "time": "2026-11-23T02:59:48.000Z"}});
        let cursor = Some(Cursor { epoch: 7, n: 42 });
        let route = Some(LastRoute { route, cursor, trust: Some("device".to_owned()) });
        let mut found = Found { route, state: None };
        let heard = "heard on udp from 203.0.113.7:6200, 12s ago, proved by device, sequence 4711";
        assert_eq!(found.lines(NOW), [heard, "cursor 7-42", "not registered"]);
        found.state = Some(json!({"applicationId": 0x1234_5678, "firstPacketTime": "2026-11-21T03:00:00.000Z",
            "applicationVersion": {"major": 1, "minor": 2, "revision": 300, "buildNum": 4_000_000_000_u32}}));
        assert_eq!(
            found.lines(NOW)[2],
            "registered, application 0x12345678, version 1.2.300+4000000000, first heard 2d 00h ago"
        );
    }

    #[test]
    fn a_relayed_device_names_its_relay() {
        let route = json!({"interface": "bt_adv", "interfaceData": {"sequence": 12},
            "btAdv": {"address": "c4:0a:11:22:33:44", "type": "random"},
            "forwarded": {"deviceId": "d291d4d66bf0a955", "auth": 2, "rssi": -67, "route": {"interface": "udp",
            "interfaceData": {"sequence": 90}, "udp": {"address": "203.0.113.7:6200", "time": "2026-11-23T02:59:48Z"}}}});
        let found = Found { route: Some(LastRoute { route, cursor: None, trust: None }), state: Some(json!({})) };
        assert_eq!(
            found.lines(None),
            [
                "heard on bt_adv from 203.0.113.7:6200, 2026-11-23 02:59:48 UTC, sequence 12",
                "through relay d291d4d66bf0a955, -67 dBm, address c4:0a:11:22:33:44",
                "registered"
            ]
        );
    }

    #[test]
    fn a_silent_device_and_an_answer_of_another_form_are_told_as_far_as_they_go() {
        assert_eq!(Found::default().lines(NOW), ["never heard", "not registered"]);
        let strange = LastRoute { route: json!([1]), cursor: None, trust: None };
        let found = Found { route: Some(strange), state: Some(json!("on")) };
        assert_eq!(found.lines(NOW), ["heard on ?", "registered"]);
    }
}
