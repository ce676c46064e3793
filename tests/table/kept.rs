//! Rule R10: what is kept of records, and what comes back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use lastroute::auth::keys::{KeyRing, RootKey};
use lastroute::clock::Timestamp;
use lastroute::id::{DeviceId, KeyId};
use lastroute::table::kept::Kept;
use lastroute::table::route::{Counted, Outcome, Snapshot};
use lastroute::table::rules::{NO_TIME_START, RouteChange, Step};
use lastroute::table::{Registration, RouteTable, TableConfig, Unregistered};
use lastroute::wire::frame::{Flags, Level};

use super::{START, Sent, Way};

const ID: DeviceId = DeviceId(1);

type Store = BTreeMap<DeviceId, Kept>;

fn table(epoch: u32, continues: Option<u32>) -> RouteTable {
    RouteTable::new(&TableConfig { epoch, continues, unregistered_limit: 3, shards: 4, ..TableConfig::default() })
}

/// A ring in which network 7 has this number.
fn ring(number: u16) -> KeyRing {
    let keys = KeyRing::default();
    for other in 1..number {
        keys.set_network(KeyId::new(100 + u32::from(other)).unwrap(), RootKey::new([1; 32]));
    }
    keys.set_network(KeyId::new(7).unwrap(), RootKey::new([1; 32]));
    keys
}

fn from(text: &str) -> Way {
    Way::Direct(text.parse::<SocketAddr>().unwrap())
}

fn fresh(second: u32, sequence: u16, way: Way) -> Sent {
    Sent { len: 200, ..Sent::new(START + second, sequence, way) }
}

fn at(second: u32) -> Timestamp {
    Timestamp::from_gps(START + second)
}

fn hear(table: &RouteTable, sent: Sent, second: u32) -> Counted {
    let outcome = sent.record(table, at(second));
    let Outcome::Counted(counted) = outcome else { panic!("{outcome:?}") };
    counted
}

fn write(table: &RouteTable, keys: &KeyRing, store: &mut Store) -> Vec<DeviceId> {
    let mut told = Vec::new();
    table.changed(keys, |id, kept| {
        told.push(id);
        match kept {
            Some(kept) => drop(store.insert(id, kept)),
            None => drop(store.remove(&id)),
        }
    });
    told
}

/// Devices in every state that a record can be in.
fn populate(table: &RouteTable) {
    let v6 = "[2001:db8::1]:4000";
    for device in 1..7 {
        table.register(DeviceId(device), at(0));
    }
    let of = |device, sent: Sent| Sent { device, ..sent };
    hear(table, Sent { application: Some(5), network: 1, ..fresh(0, 1, from("192.0.2.1:1000")) }, 0);
    hear(table, Sent { level: Level::Device, ..fresh(1, 3, from("192.0.2.1:2000")) }, 1);
    hear(table, of(2, Sent { flags: Flags::ALWAYS_RX | Flags::ACK_REQUEST, ..fresh(2, 9, from(v6)) }), 2);
    hear(table, of(2, Sent::new(NO_TIME_START, 1, from("192.0.2.9:9"))), 3);
    hear(table, of(3, fresh(3, 1, Way::Relayed(90))), 3);
    hear(table, of(3, fresh(4, 1, from(v6))), 4);
    hear(table, of(3, fresh(5, 2, Way::OnWordOf(90, Level::Network))), 5);
    hear(table, of(4, Sent { flags: Flags::SINGLE_TX, ..Sent::new(NO_TIME_START, 0, from(v6)).boot() }), 5);
    // One that was only spoken of.
    assert!(table.set_application(DeviceId(5), super::application(9), at(6)));
    // Verified, by an answer.
    hear(table, of(6, fresh(5, 1, from(v6))), 5);
    assert!(table.may_ask(DeviceId(6), &fresh(0, 0, from("192.0.2.1:7")).path().place(), at(5)));
    let answer = of(6, fresh(6, 2, from("192.0.2.1:7")));
    assert!(matches!(answer.record_answer(table, at(6)), Outcome::Counted(_)));
    hear(table, of(7, fresh(6, 1, from(v6))), 6);
}

fn restored(store: &Store, keys: &KeyRing, epoch: u32, continues: Option<u32>) -> RouteTable {
    load(table(epoch, continues), store, keys)
}

/// In epoch 4, after so many unclean stops.
fn restored_after_losses(store: &Store, keys: &KeyRing, losses: u32) -> RouteTable {
    load(RouteTable::new(&TableConfig { epoch: 4, losses, ..TableConfig::default() }), store, keys)
}

fn load(table: RouteTable, store: &Store, keys: &KeyRing) -> RouteTable {
    for (id, kept) in store {
        table.restore(keys, *id, kept);
    }
    for device in 1..7 {
        table.register(DeviceId(device), at(0));
    }
    table.settle();
    table
}

/// In epoch 4, before it settles. Devices are registered before their records are restored, or afterwards.
fn after_a_kill(store: &Store, keys: &KeyRing, now: &[(u64, Registration)], registered_first: bool) -> RouteTable {
    let table = table(4, None);
    let register = || now.iter().for_each(|(id, registration)| table.register(DeviceId(*id), *registration));
    if registered_first {
        register();
    }
    store.iter().for_each(|(id, kept)| table.restore(keys, *id, kept));
    if !registered_first {
        register();
    }
    table
}

fn snapshots(table: &RouteTable) -> Vec<Option<Snapshot>> {
    (1..9).map(|device| table.snapshot(DeviceId(device))).collect()
}

#[test]
fn r10_a_table_comes_back_as_it_was_and_judges_the_next_packets_as_the_first_would() {
    let (first, keys) = (table(3, None), ring(1));
    populate(&first);
    let mut store = Store::new();
    assert_eq!(write(&first, &keys, &mut store).len(), 7);
    let keys = ring(2);
    let second = restored(&store, &keys, 3, Some(first.next_generation()));
    assert_eq!(snapshots(&second), snapshots(&first));
    assert_eq!(second.devices(), first.devices());
    for device in 1..8 {
        let route = |table: &RouteTable, number| {
            let mut route = table.send_route(DeviceId(device), at(9))?;
            // The network has another number, and nobody knows any more by which socket it came.
            assert!(route.network == if device == 1 { number } else { 0 });
            (route.network, route.via) = (0, lastroute::table::sending::Via::UNKNOWN);
            Some(route)
        };
        assert_eq!(route(&second, 2), route(&first, 1), "{device}");
        let moved = |table: &RouteTable, n| {
            let cursor = table.cursor(DeviceId(device));
            table.moved_since(DeviceId(device), lastroute::id::Cursor { n, ..cursor })
        };
        assert_eq!([0, 1, 2].map(|n| moved(&second, n)), [0, 1, 2].map(|n| moved(&first, n)), "{device}");
        // Something may be in the outbox of any process.
        first.expect(DeviceId(device));
        for sequence in [14, 20, 15, 300] {
            for way in [from("192.0.2.1:2000"), from("192.0.2.1:3000"), Way::Relayed(91)] {
                let sent = Sent { device, entropy: sequence, ..fresh(10 + u32::from(sequence), sequence, way) };
                let [one, other] = [&first, &second].map(|table| sent.record(table, at(200)));
                assert_eq!(one, other, "{sent:?}");
            }
        }
        let next = [&first, &second].map(|table| table.next_downlink_sequence(DeviceId(device)));
        assert_eq!(next[0], next[1], "{device}");
    }
    assert_eq!(snapshots(&second), snapshots(&first));
}

#[test]
fn r10_a_route_that_packets_keep_up_which_may_move_none_stays_so() {
    for (present, elsewhere) in [("192.0.2.1:1", "192.0.2.1:2"), ("[2001:db8::1]:1", "[2001:db8::1]:2")] {
        let keeps_up = Sent { may_move: false, ..fresh(0, 1, from(present)) };
        let is_a_boot = Sent::new(NO_TIME_START, 0, from(present)).boot();
        for (sent, expected) in [(keeps_up, RouteChange::Kept), (is_a_boot, RouteChange::Moved)] {
            let (first, keys) = (table(3, None), ring(1));
            hear(&first, sent, 0);
            let mut store = Store::new();
            write(&first, &keys, &mut store);
            let second = restored(&store, &keys, 3, Some(first.next_generation()));
            let recording = |number| {
                let deaf = Sent::new(NO_TIME_START, number, from(elsewhere));
                Sent { flags: Flags::SINGLE_TX, entropy: number, ..deaf }
            };
            for number in 1..4 {
                hear(&second, recording(number), 30 + u32::from(number) * 10);
            }
            assert_eq!(hear(&second, recording(4), 90).change, expected, "{present}");
        }
    }
}

#[test]
fn r10_a_window_comes_back_as_all_seen() {
    let (first, keys) = (table(3, None), ring(1));
    hear(&first, fresh(0, 1, from("192.0.2.1:1")), 0);
    hear(&first, fresh(5, 5, from("192.0.2.1:1")), 5);
    let mut store = Store::new();
    write(&first, &keys, &mut store);
    let second = restored(&store, &keys, 3, Some(first.next_generation()));
    let missed = fresh(4, 4, from("192.0.2.1:1"));
    assert_eq!(missed.record(&second, at(6)), Outcome::Refused(Step::BitSet.into()));
    assert_eq!(hear(&first, missed, 6).step, Step::Late);
    assert_eq!(hear(&second, fresh(6, 6, from("192.0.2.1:1")), 6).step, Step::SameSession);
}

#[test]
fn r10_after_an_unclean_stop_positions_are_of_another_epoch_and_downlink_sequences_far_ahead() {
    let (first, keys) = (table(3, None), ring(1));
    populate(&first);
    let mut store = Store::new();
    write(&first, &keys, &mut store);
    let used = first.next_downlink_sequence(ID).unwrap();
    // Twice from the same stored record.
    for losses in [2, 1] {
        let after = restored_after_losses(&store, &keys, losses);
        assert_eq!(after.next_downlink_sequence(ID), Some(used.wrapping_add(1024 * losses as u16)));
    }
    let second = restored_after_losses(&store, &keys, 1);
    second.next_downlink_sequence(ID).unwrap();
    for device in 1..8 {
        let [before, after] = [&first, &second].map(|table| table.cursor(DeviceId(device)));
        assert_eq!((after.epoch >> 32, after.n), (4, before.n));
    }
    // Nothing was heard in that process, and it stops cleanly: the positions of the next are those it told.
    let told = write(&second, &keys, &mut store);
    assert_eq!(told, [ID], "only the one that was sent to");
    let third = restored(&store, &keys, 4, Some(second.next_generation()));
    assert_eq!(snapshots(&third), snapshots(&second));
    assert!(third.cursor(DeviceId(8)).epoch > second.cursor(DeviceId(8)).epoch);
}

#[test]
fn r10_after_an_unclean_stop_what_follows_a_record_uses_none_of_its_downlink_sequences_in_the_same_second() {
    let (first, keys) = (table(3, None), ring(1));
    for sequence in 1..4 {
        first.deregister(ID);
        first.register(ID, at(0));
        hear(&first, fresh(0, sequence, from("192.0.2.1:1")), 0);
    }
    let mut store = Store::new();
    write(&first, &keys, &mut store);
    let second = restored_after_losses(&store, &keys, 1);
    let mut used = HashSet::new();
    for sequence in 4..10 {
        assert!((0..50).all(|_| used.insert(second.next_downlink_sequence(ID).unwrap())));
        second.deregister(ID);
        second.register(ID, at(9));
        hear(&second, fresh(9, sequence, from("192.0.2.1:1")), 9);
    }
}

#[test]
fn r10_no_position_comes_again_after_a_clean_stop() {
    let (first, keys) = (table(3, None), ring(1));
    let mut used: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut table_now = first;
    let mut store = Store::new();
    for round in 0..5 {
        for device in 1..9 {
            let id = DeviceId(device);
            if device % 2 == 0 {
                table_now.register(id, at(0));
            }
            let epoch = table_now.cursor(id).epoch;
            assert!(!used.entry(device).or_default().contains(&epoch), "{round}: {device} counts again");
            hear(&table_now, Sent { device, ..fresh(round * 10, 1, from("192.0.2.1:1")) }, round * 10);
            used.get_mut(&device).unwrap().push(table_now.cursor(id).epoch);
            if device % 2 == 0 {
                table_now.deregister(id);
            }
        }
        // Three of the unregistered stay, and are not there at the next start: their lines are lost.
        write(&table_now, &keys, &mut store);
        store.clear();
        table_now = restored(&store, &keys, 3, Some(table_now.next_generation()));
    }
}

#[test]
fn what_changes_is_told_once_and_what_is_forgotten_too() {
    let (table, keys, mut store) = (table(3, None), ring(1), Store::new());
    populate(&table);
    write(&table, &keys, &mut store);
    assert_eq!(write(&table, &keys, &mut store), []);
    assert!(matches!(fresh(1, 3, from("192.0.2.1:1")).record(&table, at(7)), Outcome::Refused(_)));
    assert_eq!(write(&table, &keys, &mut store), [], "a duplicate changes nothing");
    hear(&table, fresh(8, 8, from("192.0.2.1:1")), 8);
    table.next_downlink_sequence(DeviceId(2)).unwrap();
    table.set_application(DeviceId(5), super::application(1), at(8));
    table.deregister(DeviceId(3));
    table.register_afresh(DeviceId(7), at(8));
    let mut told = write(&table, &keys, &mut store);
    told.sort_unstable();
    assert_eq!(told, [1, 2, 3, 5, 7].map(DeviceId));
    assert_eq!(store.keys().map(|id| id.0).collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
    // It was never told of.
    hear(&table, Sent { device: 8, ..fresh(8, 8, from("192.0.2.1:1")) }, 8);
    table.register_afresh(DeviceId(8), at(8));
    assert_eq!(write(&table, &keys, &mut store), []);
    table.mark_changed([ID, DeviceId(3), DeviceId(4)]);
    let mut told = write(&table, &keys, &mut store);
    told.sort_unstable();
    assert_eq!(told, [1, 3, 4].map(DeviceId), "what could not be written");
}

#[test]
fn where_nothing_is_kept_all_are_told_again_and_of_none_that_it_is_gone() {
    let (table, keys, mut store) = (table(3, None), ring(1), Store::new());
    populate(&table);
    // The disk is full; one is forgotten before that is said, and one afterwards.
    table.changed(&keys, |_, _| ());
    table.deregister(DeviceId(1));
    table.mark_all_untold();
    table.deregister(DeviceId(2));
    let mut told = write(&table, &keys, &mut store);
    told.sort_unstable();
    assert_eq!(told, [3, 4, 5, 6, 7].map(DeviceId));
    table.deregister(DeviceId(3));
    assert_eq!(write(&table, &keys, &mut store), [DeviceId(3)]);
}

#[test]
fn of_one_that_is_forgotten_and_comes_again_the_last_that_is_told_holds() {
    let (table, keys, mut store) = (table(3, None), ring(1), Store::new());
    for round in 0..3 {
        table.register(ID, at(0));
        hear(&table, fresh(round, 1, from("192.0.2.1:1")), round);
        write(&table, &keys, &mut store);
        assert_eq!(store[&ID].count, 1);
        table.deregister(ID);
    }
    hear(&table, fresh(9, 1, from("192.0.2.1:1")), 9);
    let mut told = Vec::new();
    table.changed(&keys, |id, kept| {
        told.push((id, kept.is_some()));
        // While it is told that the former record is gone.
        hear(&table, fresh(10, 10 + told.len() as u16, from("192.0.2.1:1")), 10);
    });
    assert_eq!(told, [(ID, false), (ID, true)]);
    assert_eq!(write(&table, &keys, &mut store), [ID], "it changed while it was told");
    assert_eq!(store[&ID].count, 3);
}

#[test]
fn a_removal_that_could_not_be_written_is_told_though_the_device_came_and_went_in_the_meantime() {
    let (table, keys, mut store) = (table(3, None), ring(1), Store::new());
    let come = |second| {
        table.register(ID, at(0));
        hear(&table, fresh(second, 1, from("192.0.2.1:1")), second);
    };
    come(0);
    write(&table, &keys, &mut store);
    table.deregister(ID);
    // The disk is full.
    table.changed(&keys, |id, kept| assert_eq!((id, kept), (ID, None)));
    come(1);
    table.mark_changed([ID]);
    table.deregister(ID);
    assert_eq!(write(&table, &keys, &mut store), [ID]);
    assert!(store.is_empty());
}

#[test]
fn a_removal_is_told_though_the_device_came_again_while_others_were_told_and_none_of_that_could_be_written() {
    let (table, keys, mut store) = (table(3, None), ring(1), Store::new());
    let other = DeviceId(2);
    let come = |id: DeviceId, second| {
        table.register(id, at(0));
        hear(&table, Sent { device: id.0, ..fresh(second, 1, from("192.0.2.1:1")) }, second);
    };
    come(ID, 0);
    come(other, 0);
    write(&table, &keys, &mut store);
    table.deregister(other);
    let (mut untold, mut changed) = (Vec::new(), Vec::new());
    table.tell(&keys, false, |id, _, standing| {
        if id == other {
            // It is not among those that are told to be gone, and will be among those that changed.
            table.deregister(ID);
            come(ID, 1);
        }
        if standing.told { &mut changed } else { &mut untold }.push(id);
    });
    // The disk is full.
    table.mark_untold(untold);
    table.mark_changed(changed);
    table.deregister(ID);
    let mut told = write(&table, &keys, &mut store);
    told.sort_unstable();
    assert_eq!((told, store.len()), (vec![ID, other], 0));
}

#[test]
fn r10_a_record_is_not_that_of_another_registration_though_the_deletion_was_never_written() {
    let of = |organisation, record| Registration { at: at(0), organisation, record };
    let (first, keys, mut store) = (table(3, None), ring(1), Store::new());
    for device in 1..7 {
        hear(&first, Sent { device, ..fresh(0, 1, from("192.0.2.1:1")) }, 0);
        if device != 6 {
            first.register(DeviceId(device), of(1, device as u32));
        }
    }
    write(&first, &keys, &mut store);
    // 1 is deleted and another organisation's then, 2 is deleted, 3 is only in the configuration now; 6 is registered.
    let now = [(1, of(2, 7)), (3, at(0).into()), (4, of(1, 4)), (5, of(1, 5)), (6, of(1, 8))];
    for registered_first in [true, false] {
        let second = after_a_kill(&store, &keys, &now, registered_first);
        second.settle();
        let known: Vec<_> = (1..8).filter(|device| second.snapshot(DeviceId(*device)).is_some()).collect();
        assert_eq!((known, second.devices()), (vec![4, 5, 6], (3, 0)));
        let mut store = store.clone();
        let mut told = write(&second, &keys, &mut store);
        told.sort_unstable();
        told.retain(|id| id.0 != 6);
        assert_eq!(told, [1, 2, 3].map(DeviceId), "that they are gone, and nothing of the others");
    }
}

#[test]
fn r9_a_record_that_was_kept_before_its_device_was_registered_is_its_own_unless_it_was_registered_afresh() {
    let of = |record| Registration { at: at(0), organisation: 1, record };
    let (first, keys, mut store) = (table(3, None), ring(1), Store::new());
    for device in 1..4 {
        hear(&first, Sent { device, ..fresh(0, 1, from("192.0.2.1:1")) }, 0);
    }
    first.register(DeviceId(4), at(0));
    hear(&first, Sent { device: 4, ..fresh(0, 1, from("192.0.2.1:1")) }, 0);
    write(&first, &keys, &mut store);
    // 1 and 2 are registered then, 4 is in the configuration, and the process is killed before any of it is written.
    let now = [(1, of(7)), (2, of(8)), (4, at(0).into())];
    for registered_first in [true, false] {
        let second = after_a_kill(&store, &keys, &now, registered_first);
        assert_eq!(second.heirs(), [1, 2].map(DeviceId));
        second.disinherit(ID);
        second.settle();
        let known: Vec<_> = (1..8).filter(|device| second.snapshot(DeviceId(*device)).is_some()).collect();
        assert_eq!((known, second.devices()), (vec![2, 3, 4], (3, 1)));
        let mut store = store.clone();
        assert_eq!(write(&second, &keys, &mut store), [1, 2].map(DeviceId), "that it is gone, and whose it is");
        assert_eq!(store.values().map(|kept| kept.registration).collect::<Vec<_>>(), [8, 0, 0]);
        // What is written of either from now on is its own.
        let third = table(5, None);
        now.iter().for_each(|(id, registration)| third.register(DeviceId(*id), *registration));
        hear(&second, fresh(9, 2, from("192.0.2.1:1")), 9);
        write(&second, &keys, &mut store);
        store.iter().for_each(|(id, kept)| third.restore(&keys, *id, kept));
        assert_eq!(third.heirs(), []);
    }
}

#[test]
fn nothing_that_changes_while_changes_are_told_is_lost() {
    let (table, keys, mut store) = (table(3, None), ring(1), Store::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (table, stop) = (&table, &stop);
            scope.spawn(move || {
                for second in 0..2000u16 {
                    let device = 1 + u64::from(second) % 7 * 2 + thread;
                    let sent = Sent { device, ..fresh(second.into(), second, from("192.0.2.1:1")) };
                    sent.record(table, at(second.into()));
                    if second % 50 == 0 {
                        table.register(DeviceId(device), at(0));
                    }
                    if second % 170 == 0 {
                        table.deregister(DeviceId(device));
                    }
                }
                stop.store(true, Ordering::Relaxed);
            });
        }
        while !stop.load(Ordering::Relaxed) {
            write(&table, &keys, &mut store);
        }
    });
    write(&table, &keys, &mut store);
    for device in 0..20 {
        let id = DeviceId(device);
        let kept = store.get(&id).map(|kept| (kept.count, kept.generation, kept.last_at));
        let known = table.snapshot(id).filter(|snapshot| snapshot.cursor.n > 0);
        let known =
            known.map(|known| (known.cursor.n, known.cursor.epoch as u32, known.last_packet.unwrap().received_at.0));
        assert_eq!(kept, known, "{id}");
    }
}

#[test]
fn r9_of_restored_records_no_more_unregistered_ones_stay_than_are_allowed() {
    for (unregistered, expected) in [(Unregistered::Allow, vec![1, 5, 6, 7]), (Unregistered::Deny, vec![1])] {
        let (first, keys, mut store) = (RouteTable::new(&TableConfig::default()), ring(1), Store::new());
        for device in 1..8 {
            hear(&first, Sent { device, ..fresh(device as u32, 1, from("192.0.2.1:1")) }, device as u32);
        }
        write(&first, &keys, &mut store);
        let config = TableConfig { unregistered, unregistered_limit: 3, shards: 4, epoch: 4, ..TableConfig::default() };
        let second = RouteTable::new(&config);
        for (id, kept) in &store {
            second.restore(&keys, *id, kept);
        }
        second.register(ID, at(0));
        second.settle();
        let known = || (1..9).filter(|device| second.snapshot(DeviceId(*device)).is_some()).collect::<Vec<_>>();
        assert_eq!(known(), expected);
        assert_eq!(second.devices(), (expected.len(), expected.len() - 1));
        let told = write(&second, &keys, &mut store);
        assert_eq!((told.len(), store.len()), (7 - expected.len(), expected.len()));
        if unregistered == Unregistered::Allow {
            hear(&second, Sent { device: 8, ..fresh(20, 1, from("192.0.2.1:1")) }, 20);
            assert_eq!(known(), [1, 6, 7, 8], "the one heard longest ago makes room");
        }
    }
}

#[test]
fn records_come_back_while_devices_are_registered_in_any_order() {
    let (first, keys, mut store) = (table(3, None), ring(1), Store::new());
    for device in 1..7 {
        first.register(DeviceId(device), at(0));
        hear(&first, Sent { device, ..fresh(0, 1, from("192.0.2.1:1")) }, 0);
    }
    write(&first, &keys, &mut store);
    let second = table(3, Some(first.next_generation()));
    std::thread::scope(|scope| {
        scope.spawn(|| store.iter().for_each(|(id, kept)| second.restore(&keys, *id, kept)));
        scope.spawn(|| (1..7).rev().for_each(|device| second.register(DeviceId(device), at(0))));
    });
    second.settle();
    assert_eq!((snapshots(&second), second.devices()), (snapshots(&first), (6, 0)));
    // What is there is newer than what was kept.
    let heard = hear(&second, fresh(1, 2, from("192.0.2.1:1")), 1);
    second.restore(&keys, ID, &store[&ID]);
    assert_eq!((second.cursor(ID), heard.change), (heard.cursor, RouteChange::Refreshed));
}
