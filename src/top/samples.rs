//! What the tests of this folder share.

use std::collections::BTreeMap;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Action, Model};
use crate::client::ClientError;
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::metrics::Disposition;
use crate::status::{Devices, GatewayStatus, Heard, RouteMove, Time, Waiting};

pub(super) const DEVICE: DeviceId = DeviceId(0xd291_d4d6_6bf0_a955);

/// When the sample came, by this machine's clock, which is an hour behind the gateway's: 2026-11-23T02:00:00Z.
pub(super) const AT: Timestamp = Timestamp(1_795_399_200_000);

/// 2026-11-23T03:00:00.123Z
const NOW: Timestamp = Timestamp(1_795_402_800_123);

fn ago(seconds: u64) -> Time {
    Time(Timestamp(NOW.0 - seconds * 1000))
}

fn counts(dispositions: &[Disposition], some: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let zeros = dispositions.iter().map(|disposition| (disposition.label().to_owned(), 0));
    zeros.chain(some.iter().map(|(label, count)| ((*label).to_owned(), *count))).collect()
}

/// A gateway with some traffic, started 2 h and 3 min ago.
pub(super) fn status() -> GatewayStatus {
    GatewayStatus {
        version: "0.1.0".to_owned(),
        started_at: ago(7380),
        now: Time(NOW),
        datagrams: counts(
            &Disposition::ALL[..Disposition::DATAGRAM],
            &[("accepted", 1_234_567), ("duplicate", 890), ("bad_tag", 3)],
        ),
        entries: counts(&Disposition::ALL, &[("accepted", 4200), ("duplicate", 10), ("bad_version", 1)]),
        kernel_drops: 0,
        route_moves: 1503,
        acks_sent: 45_678,
        acks_failed: 0,
        degraded: BTreeMap::new(),
        devices: Devices {
            total: 20_000,
            unregistered: 12,
            heard: Heard { counted_at: ago(12), within_5m: 12_200, within_1h: 18_400, within_24h: 19_999 },
        },
        waiters: Waiting { now: 10_000, woken: 52_000 },
        connections: 50,
        latest_moves: vec![
            RouteMove {
                device_id: DEVICE,
                at: ago(3),
                from: "203.0.113.7:6200".parse().unwrap(),
                to: "203.0.113.7:6201".parse().unwrap(),
                trust: "network".to_owned(),
            },
            RouteMove {
                device_id: DeviceId(0x51a0_0001_0000_0000),
                at: ago(185),
                from: "127.0.0.1:52622".parse().unwrap(),
                to: "[2001:db8::1]:35871".parse().unwrap(),
                trust: "device".to_owned(),
            },
        ],
    }
}

/// The same gateway 2 s later.
pub(super) fn status_later() -> GatewayStatus {
    let mut status = status();
    status.now = Time(Timestamp(NOW.0 + 2000));
    for (label, more) in [("accepted", 2469), ("duplicate", 1)] {
        *status.datagrams.get_mut(label).unwrap() += more;
    }
    *status.entries.get_mut("accepted").unwrap() += 30;
    status.route_moves += 4;
    status.acks_sent += 90;
    status.waiters.woken += 200;
    status
}

pub(super) fn failure() -> ClientError {
    ClientError::Unreachable { address: "http://127.0.0.1:8080".to_owned(), reason: "Connection refused".to_owned() }
}

pub(super) fn key(code: KeyCode) -> KeyEvent {
    KeyEvent::new(code, KeyModifiers::NONE)
}

/// Presses the keys of a text; what the last one asks for.
pub(super) fn press(model: &mut Model, keys: &str) -> Action {
    keys.chars().map(|char| model.key(key(KeyCode::Char(char)))).last().unwrap()
}
