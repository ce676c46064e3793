//! A status as plain text, for those who have no terminal or want to keep it.

use std::collections::BTreeMap;

use super::counters;
use super::text::date_and_time;
use crate::status::{GatewayStatus, RouteMove};

/// Room of a name: that of the longest and two spaces.
const NAME: usize = 27;

/// Everything a status tells, one value a line after its name, numbers without gaps. Whatever the gateway says, no line
/// holds a control character.
pub(super) fn snapshot(address: &str, status: &GatewayStatus) -> String {
    let line = |(name, value): (String, String)| {
        let line = format!("{name:<NAME$}{value}").replace(char::is_control, "");
        line + "\n"
    };
    let all = general(address, status)
        .into_iter()
        .chain(wrong(status))
        .chain(counts(status))
        .chain(moves(&status.latest_moves));
    all.map(line).collect()
}

fn general(address: &str, status: &GatewayStatus) -> [(String, String); 4] {
    [
        ("gateway".to_owned(), address.to_owned()),
        ("version".to_owned(), status.version.clone()),
        ("started".to_owned(), date_and_time(status.started_at.0)),
        ("now".to_owned(), date_and_time(status.now.0)),
    ]
}

/// What is wrong, by part; nothing, mostly.
fn wrong(status: &GatewayStatus) -> impl Iterator<Item = (String, String)> {
    status.degraded.iter().map(|(part, why)| (format!("degraded {part}"), why.clone()))
}

fn counts(status: &GatewayStatus) -> Vec<(String, String)> {
    let labelled = |kind: &'static str, counts: &BTreeMap<String, u64>| {
        let row = |label: &str| (format!("{kind} {label}"), counts[label].to_string());
        counters::labels(counts).map(row).collect::<Vec<_>>()
    };
    let heard = &status.devices.heard;
    let mut lines = labelled("datagrams", &status.datagrams);
    lines.extend(labelled("relayed", &status.entries));
    let plain = [
        ("kernel drops", status.kernel_drops.to_string()),
        ("acks sent", status.acks_sent.to_string()),
        ("acks failed", status.acks_failed.to_string()),
        ("route moves", status.route_moves.to_string()),
        ("devices", status.devices.total.to_string()),
        ("devices not registered", status.devices.unregistered.to_string()),
        ("devices heard in 5 min", heard.within_5m.to_string()),
        ("devices heard in 1 h", heard.within_1h.to_string()),
        ("devices heard in 24 h", heard.within_24h.to_string()),
        ("devices heard, counted at", date_and_time(heard.counted_at.0)),
        ("waiting", status.waiters.now.to_string()),
        ("wake-ups", status.waiters.woken.to_string()),
        ("connections", status.connections.to_string()),
    ];
    lines.extend(plain.map(|(name, value)| (name.to_owned(), value)));
    lines
}

fn moves(moves: &[RouteMove]) -> impl Iterator<Item = (String, String)> {
    moves.iter().map(|moved| {
        let RouteMove { device_id, at, from, to, trust } = moved;
        ("route moved".to_owned(), format!("{} {device_id} {trust} {from} > {to}", date_and_time(at.0)))
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples::status;
    use super::*;

    #[test]
    fn every_value_is_a_line() {
        let text = snapshot("http://127.0.0.1:8080", &status());
        assert_eq!(
            text,
            "\
gateway                    http://127.0.0.1:8080
version                    0.1.0
started                    2026-11-23 00:57:00 UTC
now                        2026-11-23 03:00:00 UTC
datagrams accepted         1234567
datagrams duplicate        890
datagrams too_old          0
datagrams reflected        0
datagrams short            0
datagrams oversize         0
datagrams unknown_network  0
datagrams unknown_device   0
datagrams unknown_key      0
datagrams bad_tag          3
datagrams not_registered   0
datagrams day_limited      0
relayed accepted           4200
relayed duplicate          10
relayed too_old            0
relayed reflected          0
relayed short              0
relayed oversize           0
relayed unknown_network    0
relayed unknown_device     0
relayed unknown_key        0
relayed bad_tag            0
relayed not_registered     0
relayed day_limited        0
relayed bad_version        1
relayed unknown_interface  0
kernel drops               0
acks sent                  45678
acks failed                0
route moves                1503
devices                    20000
devices not registered     12
devices heard in 5 min     12200
devices heard in 1 h       18400
devices heard in 24 h      19999
devices heard, counted at  2026-11-23 02:59:48 UTC
waiting                    10000
wake-ups                   52000
connections                50
route moved                2026-11-23 02:59:57 UTC d291d4d66bf0a955 network 203.0.113.7:6200 > 203.0.113.7:6201
route moved                2026-11-23 02:56:55 UTC 51a0000100000000 device 127.0.0.1:52622 > [2001:db8::1]:35871
"
        );
    }

    #[test]
    fn no_text_of_a_gateway_steers_the_terminal() {
        let mut status = status();
        status.version = "0.1\u{1b}[2J\n".to_owned();
        status.datagrams.insert("new\u{7}".to_owned(), 1);
        let text = snapshot("http://127.0.0.1:8080", &status);
        assert!(text.contains("version                    0.1[2J\n"), "{text}");
        assert!(text.lines().all(|line| !line.contains(char::is_control)), "{text}");
    }
}
