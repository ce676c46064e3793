//! Devices that are registered no more, and again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use lastroute::clock::Timestamp;
use lastroute::id::{Cursor, DeviceId};
use lastroute::table::route::Outcome;
use lastroute::table::{RouteTable, TableConfig, Unregistered};

use super::{START, Sent, Way, application};

const DEVICE: DeviceId = DeviceId(1);
const AT: Timestamp = Timestamp::from_gps(START);

fn table(unregistered: Unregistered) -> RouteTable {
    RouteTable::new(&TableConfig { unregistered, unregistered_limit: 1, epoch: 3, ..TableConfig::default() })
}

/// A packet of device 1, so many seconds after the start.
fn hear(table: &RouteTable, second: u32) -> Outcome {
    let source = SocketAddr::from(([192, 0, 2, 1], 4000));
    let sent = Sent::new(START + second, second as u16, Way::Direct(source));
    sent.record(table, AT.after(Duration::from_secs(second.into())))
}

#[test]
fn a_device_that_is_deregistered_is_as_if_it_had_never_been_heard() {
    for unregistered in [Unregistered::Allow, Unregistered::Deny] {
        let table = table(unregistered);
        assert!(!table.deregister(DEVICE), "it is not registered");
        table.register(DEVICE, AT);
        assert!(matches!(hear(&table, 1), Outcome::Counted(_)));
        let boot = Sent::new(START - 90_000, 0, Way::Direct(([192, 0, 2, 1], 4000).into())).boot();
        assert!(matches!(boot.record(&table, AT), Outcome::Counted(_)));
        assert_eq!((table.devices(), table.sides()), ((1, 0), 1));
        assert!(table.deregister(DEVICE) && !table.deregister(DEVICE));
        assert_eq!((table.snapshot(DEVICE), table.registration(DEVICE)), (None, None));
        assert_eq!((table.devices(), table.sides()), ((0, 0), 0));
        assert!(!table.set_application(DEVICE, application(5), AT));
        match unregistered {
            Unregistered::Allow => assert!(matches!(hear(&table, 1), Outcome::Counted(_)), "nobody remembers it"),
            Unregistered::Deny => assert_eq!(hear(&table, 1), Outcome::NotRegistered),
        }
    }
}

#[test]
fn a_device_that_is_registered_afresh_is_as_if_it_had_never_been_heard_but_not_one_that_is_registered() {
    let table = table(Unregistered::Allow);
    hear(&table, 1);
    let boot = Sent::new(START - 90_000, 0, Way::Direct(([192, 0, 2, 1], 4000).into())).boot();
    assert!(matches!(boot.record(&table, AT), Outcome::Counted(_)));
    let (heard, others) = (table.cursor(DEVICE), table.cursor(DeviceId(2)));
    table.register_afresh(DEVICE, AT);
    assert_eq!((table.snapshot(DEVICE), table.registered_since(DEVICE)), (None, Some(AT)));
    assert_eq!((table.devices(), table.sides()), ((0, 0), 0));
    let afresh = table.cursor(DEVICE);
    assert!(afresh.n == 0 && afresh.epoch != heard.epoch && afresh.epoch != others.epoch, "{afresh}");
    assert!(matches!(hear(&table, 1), Outcome::Counted(_)), "nobody remembers it");
    assert_eq!((table.cursor(DEVICE), table.devices()), (Cursor { n: 1, ..afresh }, (1, 0)));
    table.register_afresh(DEVICE, AT.after(Duration::from_secs(9)));
    assert_eq!((table.cursor(DEVICE), table.registered_since(DEVICE)), (Cursor { n: 1, ..afresh }, Some(AT)));
    // Never heard: as with any other registration.
    table.register_afresh(DeviceId(2), AT);
    assert_eq!((table.registered_since(DeviceId(2)), table.devices()), (Some(AT), (1, 0)));
}

#[test]
fn what_is_heard_of_a_deregistered_device_makes_room_as_that_of_any_unregistered_one() {
    let table = table(Unregistered::Allow);
    table.register(DEVICE, AT);
    hear(&table, 1);
    table.deregister(DEVICE);
    hear(&table, 2);
    assert_eq!(table.devices(), (1, 1));
    let other = Sent { device: 2, ..Sent::new(START, 1, Way::Direct(([192, 0, 2, 2], 4000).into())) };
    other.record(&table, AT.after(Duration::from_secs(3)));
    assert_eq!((table.devices(), table.snapshot(DEVICE)), ((1, 1), None));
}

#[test]
fn a_registered_device_keeps_its_cursor_until_it_is_heard_and_no_cursor_comes_again() {
    let table = table(Unregistered::Allow);
    let (source, mut former) = (Way::Direct(([192, 0, 2, 2], 4000).into()), Vec::new());
    for round in 0..5 {
        table.register(DEVICE, AT);
        let cursor = table.cursor(DEVICE);
        assert_eq!(cursor.n, 0);
        assert!(!former.contains(&cursor.epoch), "{round}: {cursor} counts again");
        // Others come, go and are registered meanwhile.
        for device in [2, 3] {
            table.register(DeviceId(device), AT);
            table.deregister(DeviceId(device));
        }
        table.register(DEVICE, AT.after(Duration::from_secs(9)));
        assert_eq!((table.cursor(DEVICE), table.registered_since(DEVICE)), (cursor, Some(AT)));
        hear(&table, round);
        assert_eq!(table.cursor(DEVICE), Cursor { n: 1, ..cursor });
        former.push(cursor.epoch);
        table.deregister(DEVICE);
        hear(&table, round);
        former.push(table.cursor(DEVICE).epoch);
        let other = Sent { device: 9, ..Sent::new(START + round, round as u16, source) };
        other.record(&table, AT.after(Duration::from_secs(round.into())));
        assert_eq!(table.snapshot(DEVICE), None, "it made room");
    }
}

/// The device speaks and is spoken of by others, while it is registered and deregistered all the time.
#[test]
fn packets_at_the_moment_of_a_change_are_of_one_side_of_it() {
    const PACKETS: u32 = 2000;
    for unregistered in [Unregistered::Allow, Unregistered::Deny] {
        let (table, heard) = (table(unregistered), AtomicU32::new(0));
        thread::scope(|scope| {
            let speaker = scope.spawn(|| {
                let mut told = HashMap::new();
                for second in 1..=PACKETS {
                    hear(&table, second);
                    let Cursor { epoch, n } = table.cursor(DEVICE);
                    let before = told.insert(epoch, n);
                    assert!(before <= Some(n), "{epoch}: {before:?}, then {n}");
                    heard.store(second, Ordering::Relaxed);
                }
                told.len()
            });
            scope.spawn(|| {
                while heard.load(Ordering::Relaxed) < PACKETS {
                    table.set_application(DEVICE, application(5), AT);
                }
            });
            while heard.load(Ordering::Relaxed) < PACKETS {
                table.register(DEVICE, AT);
                assert!(table.snapshot(DEVICE).is_none_or(|snapshot| snapshot.registered));
                assert!(table.deregister(DEVICE));
                let served = table.snapshot(DEVICE).is_some_and(|snapshot| snapshot.last_packet.is_some());
                assert!(unregistered == Unregistered::Allow || !served);
                assert!(
                    table
                        .snapshot(DEVICE)
                        .is_none_or(|snapshot| !snapshot.registered && snapshot.application.is_none())
                );
            }
            assert!(speaker.join().unwrap() > 1, "it was never heard between two changes");
        });
        let (records, strangers) = table.devices();
        assert_eq!(records, strangers);
        table.register(DEVICE, AT);
        table.deregister(DEVICE);
        assert_eq!(table.devices(), (0, 0));
    }
}
