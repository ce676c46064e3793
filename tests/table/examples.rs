//! What the table does with routes, state and unregistered devices, case by case.

use std::net::SocketAddr;
use std::time::Duration;

use lastroute::clock::Timestamp;
use lastroute::id::DeviceId;
use lastroute::table::ages::Ages;
use lastroute::table::route::{Counted, Outcome, Path, Route, Snapshot, Trust};
use lastroute::table::rules::{NO_TIME_START, RouteChange, Step};
use lastroute::table::{Packet, RouteTable, TableConfig, Unregistered};
use lastroute::wire::frame::{Flags, Level};

use super::{START, Sent, Way, application, open, through};

const ID: DeviceId = DeviceId(1);

fn allowing(unregistered_limit: usize) -> RouteTable {
    RouteTable::new(&TableConfig { unregistered_limit, ..TableConfig::default() })
}

fn from(port: u16) -> Way {
    Way::Direct(SocketAddr::from(([192, 0, 2, 1], port)))
}

/// A fresh packet, this many seconds after the start, with the seconds as sequence.
fn fresh(second: u16, way: Way) -> Sent {
    Sent::new(START + u32::from(second), second, way)
}

fn at(second: u32) -> Timestamp {
    Timestamp::from_gps(START + second)
}

/// Records a fresh packet the moment it was sent.
fn hear(table: &RouteTable, sent: Sent) -> Outcome {
    sent.record(table, Timestamp::from_gps(sent.gps_time))
}

fn counted(outcome: Outcome) -> (Step, RouteChange) {
    let Outcome::Counted(Counted { step, change, .. }) = outcome else { panic!("{outcome:?}") };
    (step, change)
}

fn snapshot(table: &RouteTable) -> Snapshot {
    table.snapshot(ID).unwrap()
}

fn port(table: &RouteTable) -> u16 {
    snapshot(table).direct.unwrap().address.port()
}

#[test]
fn r9_registration_adopts_route_state_and_count() {
    let table = allowing(10);
    hear(&table, Sent { application: Some(5), ..fresh(1, from(1000)) });
    let before = snapshot(&table);
    assert!(!before.registered && table.devices() == (1, 1) && table.registered_since(ID).is_none());
    table.register(ID, at(2));
    table.register(ID, at(3));
    assert_eq!(snapshot(&table), Snapshot { registered: true, ..before });
    assert_eq!((table.devices(), table.registered_since(ID)), ((1, 0), Some(at(2))));
    hear(&table, fresh(4, from(1000)));
    assert_eq!((snapshot(&table).cursor.epoch, snapshot(&table).cursor.n), (before.cursor.epoch, 2));
}

#[test]
fn r9_deny_drops_the_unregistered_without_a_trace() {
    let table = RouteTable::new(&TableConfig { unregistered: Unregistered::Deny, ..TableConfig::default() });
    assert_eq!(hear(&table, fresh(1, from(1000))), Outcome::NotRegistered);
    assert_eq!(hear(&table, fresh(2, from(1000)).boot()), Outcome::NotRegistered);
    assert_eq!((table.snapshot(ID), table.devices(), table.sides()), (None, (0, 0), 0));
    table.register(ID, at(3));
    assert_eq!(counted(hear(&table, fresh(4, from(1000)))), (Step::NewSession, RouteChange::First));
}

#[test]
fn r9_the_least_recently_heard_makes_room_and_counts_anew_in_another_epoch() {
    let table = allowing(2);
    let device = |device, second| hear(&table, Sent { device, ..fresh(second, from(1000)) });
    device(1, 1);
    device(2, 2);
    let former = table.cursor(DeviceId(2));
    device(1, 3);
    device(3, 4);
    assert!(table.snapshot(DeviceId(2)).is_none() && table.snapshot(ID).is_some());
    assert_eq!(table.devices(), (2, 2));
    device(2, 5);
    let cursor = table.cursor(DeviceId(2));
    assert_eq!(cursor.n, 1);
    assert_ne!(cursor.epoch, former.epoch);
}

#[test]
fn r9_a_flood_of_strangers_pushes_out_no_registered_device() {
    let table = allowing(2);
    hear(&table, fresh(1, from(1000)));
    table.register(ID, at(1));
    let before = snapshot(&table);
    for device in 100..1000 {
        hear(&table, Sent { device, ..fresh(2, from(1000)) });
        assert!(table.devices().1 <= 2);
    }
    assert_eq!((snapshot(&table), table.devices()), (before, (3, 2)));
}

#[test]
fn r9_threads_that_hear_forget_and_register_at_once_leave_exact_counts() {
    const DEVICES: u64 = 40;
    let table = allowing(8);
    std::thread::scope(|scope| {
        for thread in 0..4u16 {
            let table = &table;
            scope.spawn(move || {
                for second in 1..2000 {
                    let device = u64::from(second) * (2 * u64::from(thread) + 1) % DEVICES;
                    hear(table, Sent { device, ..fresh(second, from(1000 + thread)) });
                    if second % 200 == 0 {
                        table.register(DeviceId(device + u64::from(thread)), at(second.into()));
                    }
                }
            });
        }
    });
    hear(&table, Sent { device: DEVICES, ..fresh(3000, from(1000)) });
    let known: Vec<_> = (0..=DEVICES).filter_map(|device| table.snapshot(DeviceId(device))).collect();
    let unregistered = known.iter().filter(|snapshot| !snapshot.registered).count();
    assert_eq!(table.devices(), (known.len(), unregistered));
    assert!(unregistered <= 8 && known.len() > unregistered, "{:?}", table.devices());
    for snapshot in known {
        assert_eq!(snapshot.registered, table.registered_since(snapshot.device_id).is_some());
    }
}

#[test]
fn r7_a_sequence_for_the_answer_is_taken_only_by_counted_direct_packets_that_ask() {
    let table = allowing(10);
    let asking = |sent: Sent| Sent { flags: Flags::ACK_REQUEST, ..sent };
    let ack = |outcome| match outcome {
        Outcome::Counted(counted) => counted.ack_sequence,
        _ => None,
    };
    let first = ack(hear(&table, asking(fresh(1, from(1000))))).unwrap();
    assert_eq!(ack(hear(&table, fresh(2, from(1000)))), None);
    assert_eq!(ack(hear(&table, asking(fresh(1, from(1000))))), None, "a duplicate");
    assert_eq!(ack(hear(&table, asking(fresh(3, Way::Relayed(90))))), None);
    assert_eq!(ack(hear(&table, asking(fresh(4, from(1000))))), Some(first.wrapping_add(1)));
}

#[test]
fn r1_a_refresh_never_lowers_trust_and_a_move_sets_it() {
    let table = allowing(10);
    let mut trusts = Vec::new();
    for (second, port, level) in [
        (1, 1000, Level::Network),
        (2, 1000, Level::Device),
        (3, 1000, Level::Network),
        (4, 2000, Level::Network),
        (5, 3000, Level::Device),
    ] {
        hear(&table, Sent { level, ..fresh(second, from(port)) });
        trusts.push(snapshot(&table).direct.unwrap().trust);
    }
    assert_eq!(trusts, [Trust::Network, Trust::Device, Trust::Device, Trust::Network, Trust::Device]);
}

#[test]
fn r5_an_unproven_packet_sets_the_state_only_at_the_current_address_or_without_a_route() {
    let table = allowing(10);
    let unproven = |id, sequence, way| {
        let sent = Sent { application: Some(id), ..Sent::new(NO_TIME_START, sequence, way) };
        counted(sent.record(&table, at(u32::from(sequence))));
        snapshot(&table).application.unwrap().id
    };
    assert_eq!(unproven(1, 1, from(1000)), 1, "no route yet");
    assert_eq!(unproven(2, 2, from(2000)), 1, "from elsewhere");
    assert_eq!(unproven(3, 3, from(1000)), 3);
    hear(&table, Sent { application: Some(4), may_move: false, ..fresh(4, from(2000)) });
    assert_eq!((snapshot(&table).application.unwrap().id, port(&table)), (4, 1000), "proved, so from anywhere");
}

#[test]
fn r8_what_another_device_reports_is_state_of_registered_devices_and_no_packet() {
    let table = allowing(10);
    assert!(!table.set_application(ID, application(1), at(1)));
    assert_eq!(table.devices(), (0, 0));
    table.register(ID, at(1));
    assert!(table.set_application(ID, application(1), at(1)));
    let snapshot = snapshot(&table);
    assert_eq!((snapshot.cursor.n, snapshot.last_packet, snapshot.last_route), (0, None, None));
    assert_eq!(snapshot.application, Some(application(1)));
}

#[test]
fn r5_a_late_packet_from_a_new_address_counts_and_moves_nothing() {
    let table = allowing(10);
    for second in [1, 3] {
        hear(&table, fresh(second, from(1000)));
    }
    assert_eq!(counted(fresh(2, from(2000)).record(&table, at(3))), (Step::Late, RouteChange::Kept));
    let snapshot = snapshot(&table);
    let last = snapshot.last_packet.unwrap();
    assert_eq!((snapshot.cursor.n, port(&table)), (3, 1000));
    assert_eq!((last.source.port(), last.on_route, last.proved), (2000, false, false));
}

#[test]
fn r4_a_duplicate_changes_nothing() {
    let table = allowing(10);
    hear_now(&table, fresh(1, from(1000)), 1);
    hear_now(&table, Sent::new(NO_TIME_START, 9, from(1000)), 1);
    let before = snapshot(&table);
    for (sent, step) in [
        (fresh(1, from(2000)), Step::BitSet),
        (fresh(1, from(1000)), Step::BitSet),
        (Sent::new(NO_TIME_START, 9, from(2000)), Step::ExactCopy),
    ] {
        assert_eq!(sent.record(&table, at(12)), Outcome::Refused(step.into()));
        assert_eq!(snapshot(&table), before);
    }
}

#[test]
fn r4_an_unproven_packet_counts_again_after_16_others_and_moves_nothing() {
    let table = allowing(10);
    let unproven = |number: u16, way| Sent::new(NO_TIME_START + u32::from(number), number, way);
    for number in 0..16 {
        hear_now(&table, unproven(number, from(1000)), 1);
    }
    assert_eq!(unproven(0, from(2000)).record(&table, at(12)), Outcome::Refused(Step::ExactCopy.into()));
    hear_now(&table, unproven(16, from(1000)), 1);
    assert_eq!(counted(unproven(0, from(2000)).record(&table, at(1))), (Step::Unproven, RouteChange::Kept));
}

#[test]
fn r4_an_unproven_packet_is_remembered_as_long_as_it_is_fresh() {
    let table = allowing(10);
    let newest = |second: u16| fresh(second, from(1000));
    for second in [100, 200] {
        hear_now(&table, newest(second), second);
    }
    // Ahead in the session, and more than 5 s behind its newest packet.
    let unproven = Sent { sequence: 300, ..fresh(150, from(1000)) };
    assert_eq!(counted(unproven.record(&table, at(200))).0, Step::Unproven);
    for second in [400, 449, 450] {
        hear_now(&table, Sent { sequence: second - 200, ..newest(second) }, second);
        assert_eq!(unproven.record(&table, at(second.into())), Outcome::Refused(Step::ExactCopy.into()), "{second}");
    }
}

#[test]
fn r4_small_backward_steps_of_a_clock_do_not_add_up() {
    let table = allowing(10);
    let sent = |sequence, behind| Sent { sequence, gps_time: START + 100 - behind, ..fresh(0, from(1000)) };
    let step = |sent: Sent| counted(sent.record(&table, at(100))).0;
    assert_eq!([sent(1, 20), sent(2, 0), sent(3, 5), sent(4, 5)].map(step)[1..], [Step::SameSession; 3]);
    assert_eq!([sent(5, 6), sent(6, 10)].map(step), [Step::Unproven; 2]);
}

#[test]
fn r4_boots_without_time_count_each_time_and_move_nothing_from_elsewhere() {
    for new_address in [false, true] {
        let table = allowing(10);
        for boot in 0..10 {
            let way = from(if new_address { 1000 + boot } else { 1000 });
            let sent = Sent { entropy: boot, ..Sent::new(NO_TIME_START, 0, way).boot() };
            let change = counted(sent.record(&table, at(60 * u32::from(boot)))).1;
            let elsewhere = if new_address { RouteChange::Kept } else { RouteChange::Refreshed };
            assert_eq!(change, if boot == 0 { RouteChange::First } else { elsewhere });
        }
        assert_eq!((snapshot(&table).cursor.n, port(&table)), (10, 1000));
    }
}

#[test]
fn r1_a_sleeping_sender_behind_a_changing_nat_moves_unless_the_policy_forbids_it() {
    for (may_move, expected) in [(true, RouteChange::Moved), (false, RouteChange::Kept)] {
        let table = allowing(10);
        hear(&table, Sent { may_move, ..fresh(0, from(1000)) });
        for wake in 1..20 {
            let sent = Sent { may_move, sequence: wake, ..fresh(wake * 600, from(1000 + wake)) };
            assert_eq!(counted(hear(&table, sent)), (Step::SameSession, expected));
        }
        assert_eq!(port(&table), if may_move { 1019 } else { 1000 });
    }
}

#[test]
fn r8_the_word_of_a_relay_makes_no_direct_packet_look_old() {
    let table = allowing(10);
    hear(&table, fresh(1, from(1000)));
    for second in 2..10 {
        let copy = fresh(100 + second, Way::OnWordOf(90, Level::Device));
        copy.record(&table, at(u32::from(second)));
        let moved = counted(hear(&table, fresh(second, from(1000 + second))));
        assert_eq!(moved, (Step::SameSession, RouteChange::Moved));
    }
    assert!(matches!(snapshot(&table).last_route, Some(Route::Direct(_))));
}

#[test]
fn r8_relayed_trust_is_at_most_the_relays() {
    for (level, relay, expected) in [
        (Level::Device, Level::Network, Trust::Network),
        (Level::Device, Level::Device, Trust::Device),
        (Level::Network, Level::Device, Trust::Network),
    ] {
        let table = allowing(10);
        hear(&table, Sent { level, ..fresh(1, Way::OnWordOf(90, relay)) });
        assert_eq!(snapshot(&table).relayed.unwrap().trust, expected);
    }
}

#[test]
fn r5_a_relay_that_moves_does_not_move_its_devices() {
    let table = allowing(10);
    let mut through = through(90, Level::Device);
    for (second, address, rssi_dbm) in [(1, "[::ffff:192.0.2.5]:9", -60), (2, "[2001:db8::5]:9", -90)] {
        through.address = address.parse().unwrap();
        through.rssi_dbm = rssi_dbm;
        let sent = fresh(second, Way::Relayed(90));
        let outcome = open(&sent.header(), lastroute::auth::keys::Interface::BtGatt, |verified| {
            let (path, at) = (&Path::Relayed(through), at(u32::from(second)));
            table.record(&Packet { may_move: false, ..Packet::new(verified, path, at) })
        });
        let expected = if second == 1 { RouteChange::First } else { RouteChange::Refreshed };
        assert_eq!(counted(outcome).1, expected);
        let known = snapshot(&table).relayed.unwrap().through;
        assert_eq!((known.address.ip(), known.rssi_dbm), (through.address.ip().to_canonical(), rssi_dbm));
        assert_eq!(snapshot(&table).last_packet.unwrap().source, known.address);
    }
}

#[test]
fn r5_the_last_route_is_the_slot_set_or_refreshed_last() {
    let table = allowing(10);
    let direct = |route| matches!(route, Some(Route::Direct(_)));
    hear(&table, fresh(1, from(1000)));
    hear(&table, fresh(2, Way::Relayed(90)));
    assert!(!direct(snapshot(&table).last_route));
    hear(&table, Sent { may_move: false, ..fresh(3, from(2000)) });
    assert!(!direct(snapshot(&table).last_route), "a packet that moves nothing makes no last route");
    hear(&table, fresh(4, from(1000)));
    let now = snapshot(&table);
    assert!(direct(now.last_route) && now.relayed.is_some());
}

#[test]
fn an_ipv4_address_is_the_same_through_an_ipv6_socket() {
    let table = allowing(10);
    hear(&table, fresh(1, Way::Direct("[::ffff:192.0.2.1]:1000".parse().unwrap())));
    assert_eq!(snapshot(&table).direct.unwrap().address, "192.0.2.1:1000".parse().unwrap());
    assert_eq!(counted(hear(&table, fresh(2, from(1000)))).1, RouteChange::Refreshed);
}

#[test]
fn replaying_everything_ever_recorded_proves_and_moves_nothing() {
    let table = allowing(10);
    let mut recorded = Vec::new();
    for second in 0..250 {
        let sent = match second % 50 {
            0 => fresh(second, from(1000)).boot(),
            17 => Sent { entropy: second, ..Sent::new(NO_TIME_START, 0, from(1000)).boot() },
            _ => Sent { sequence: second % 50, ..fresh(second, from(1000)) },
        };
        hear_now(&table, sent, second);
        recorded.push(sent);
    }
    for round in 0..3 {
        for step in [1, 7, 101] {
            for index in 0..recorded.len() {
                let sent = Sent { way: from(2000 + round), ..recorded[index * step % recorded.len()] };
                let now = at(250).after(Duration::from_millis(index as u64));
                match sent.record(&table, now) {
                    Outcome::Counted(counted) => {
                        assert_eq!((counted.step.proved(), counted.change), (false, RouteChange::Kept), "{sent:?}");
                    }
                    outcome => assert!(matches!(outcome, Outcome::Refused(_))),
                }
            }
        }
    }
    assert_eq!(port(&table), 1000);
}

fn hear_now(table: &RouteTable, sent: Sent, second: u16) {
    assert!(matches!(sent.record(table, at(u32::from(second))), Outcome::Counted(_)), "{sent:?}");
}

#[test]
fn devices_are_counted_by_when_they_were_heard() {
    let table = allowing(1000);
    for device in 0..100 {
        hear(&table, Sent { device, ..fresh(if device < 70 { 3600 } else { 0 }, from(1000)) });
    }
    // Spoken of, and not heard.
    table.register(DeviceId(100), at(0));
    table.set_application(DeviceId(100), application(1), at(3600));
    assert_eq!(table.ages(at(3900)), Ages { within_5m: 70, within_1h: 70, within_24h: 100 });
    assert_eq!(table.ages(at(3901)), Ages { within_5m: 0, within_1h: 70, within_24h: 100 });
}

#[test]
fn a_packet_that_does_not_count_is_not_heard() {
    let table = allowing(10);
    hear(&table, fresh(0, from(1000)));
    assert_eq!(fresh(0, from(1000)).record(&table, at(200)), Outcome::Refused(Step::BitSet.into()));
    assert_eq!(table.ages(at(400)), Ages { within_5m: 0, within_1h: 1, within_24h: 1 });
}
