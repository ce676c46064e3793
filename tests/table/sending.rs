//! What the table tells those who send downlinks, case by case.

use std::net::SocketAddr;
use std::time::Duration;

use lastroute::clock::Timestamp;
use lastroute::id::{Cursor, DeviceId};
use lastroute::table::route::{Counted, Outcome, Route};
use lastroute::table::rules::NO_TIME_START;
use lastroute::table::sending::{Release, SendRoute, Via};
use lastroute::table::{RouteTable, TableConfig};
use lastroute::wire::frame::Flags;

use super::{START, Sent, Way};

const ID: DeviceId = DeviceId(1);

fn table() -> RouteTable {
    RouteTable::new(&TableConfig { epoch: 3, ..TableConfig::default() })
}

fn from(port: u16) -> Way {
    Way::Direct(SocketAddr::from(([192, 0, 2, 1], port)))
}

/// A fresh packet, this many seconds after the start, with the seconds as sequence.
fn fresh(second: u16, way: Way) -> Sent {
    Sent::new(START + u32::from(second), second, way)
}

/// A packet of a device without time.
fn without_time(second: u16, way: Way) -> Sent {
    Sent::new(NO_TIME_START + u32::from(second), second, way)
}

fn at(second: u16) -> Timestamp {
    Timestamp::from_gps(START + u32::from(second))
}

/// Records what came so many seconds after the start, as the sequence says.
fn hear(table: &RouteTable, sent: Sent) -> Counted {
    let outcome = sent.record(table, at(sent.sequence));
    let Outcome::Counted(counted) = outcome else { panic!("{outcome:?}") };
    counted
}

/// The same for the answer to a challenge, which is sent first.
fn answer(table: &RouteTable, sent: Sent) -> Counted {
    assert!(table.may_ask(ID, &sent.path().place(), at(sent.sequence)));
    let outcome = sent.record_answer(table, at(sent.sequence));
    let Outcome::Counted(counted) = outcome else { panic!("{outcome:?}") };
    assert!(counted.is_answer);
    counted
}

fn route(table: &RouteTable, second: u16) -> SendRoute {
    table.send_route(ID, at(second)).unwrap()
}

fn is_direct(route: &SendRoute) -> bool {
    matches!(route.route, Route::Direct(_))
}

#[test]
fn r7_a_device_releases_from_where_it_is_and_not_with_what_is_late_or_from_elsewhere() {
    let table = table();
    let release = |sent| hear(&table, sent).release;
    assert_eq!(release(fresh(1, from(1000))), Release::Yes);
    assert_eq!(release(fresh(3, from(1000))), Release::Yes);
    let late = Sent { sequence: 2, gps_time: START + 2, ..fresh(3, from(1000)) };
    assert_eq!(release(late), Release::No);
    assert_eq!(release(fresh(4, from(2000))), Release::Yes, "newer, so the route moves");
    assert_eq!(release(without_time(5, from(1000))), Release::No, "a recording, maybe");
    assert_eq!(release(without_time(6, from(2000))), Release::Challenge);
    let single = Sent { flags: Flags::SINGLE_TX, ..without_time(7, from(2000)) };
    assert_eq!(release(single), Release::Yes, "it hears no challenge");
    let forbidden = Sent { may_move: false, ..fresh(8, from(3000)) };
    assert_eq!(release(forbidden), Release::No, "the policy keeps the route where it is");
}

#[test]
fn r7_who_says_that_nothing_follows_releases_from_where_the_device_is_and_from_no_new_address() {
    let table = table();
    let single = |second| Sent { flags: Flags::SINGLE_TX, ..without_time(second, from(1000)) };
    assert_eq!(hear(&table, single(1)).release, Release::Challenge, "the first may be a recording");
    assert_eq!(hear(&table, single(2)).release, Release::Yes);
}

#[test]
fn r1_a_route_that_the_policy_does_not_trust_releases_once_it_is_proved() {
    let table = table();
    let doubtful = |second, way| Sent { may_move: false, ..fresh(second, way) };
    let release = |sent| hear(&table, sent).release;
    assert_eq!(release(doubtful(1, from(1000))), Release::Challenge, "the first may be anybody's");
    assert_eq!(release(doubtful(2, from(1000))), Release::Challenge, "and what follows it");
    assert!(!route(&table, 2).proved);
    assert_eq!(answer(&table, doubtful(3, from(1000))).release, Release::Yes);
    assert_eq!(release(doubtful(4, from(1000))), Release::Yes, "a challenge was answered from there");
    assert_eq!(release(doubtful(400, Way::Relayed(90))), Release::Challenge);
    assert_eq!(release(fresh(401, Way::Relayed(90))), Release::Yes);
    assert_eq!(release(doubtful(402, Way::Relayed(90))), Release::Yes);
}

#[test]
fn r8_a_relay_releases_once_its_device_was_not_heard_directly_for_300_s() {
    let table = table();
    hear(&table, fresh(0, from(1000)));
    assert_eq!(hear(&table, fresh(300, Way::Relayed(90))).release, Release::No);
    assert!(is_direct(&route(&table, 300)));
    assert_eq!(hear(&table, fresh(301, Way::Relayed(90))).release, Release::Yes);
    assert!(!is_direct(&route(&table, 301)));
}

#[test]
fn a_packet_that_releases_tells_once_that_something_is_expected() {
    let table = table();
    let told = |sent| hear(&table, sent).expects;
    assert!(told(fresh(1, from(1000))), "something may have been there before the record");
    assert!(!told(fresh(2, from(1000))));
    table.expect(ID);
    assert!(told(without_time(3, from(1000))) && !told(without_time(4, from(1000))), "one that has it challenged too");
    table.expect(ID);
    assert!(told(without_time(5, from(2000))), "what releases nothing leaves it");
    assert!(told(fresh(6, from(1000))));
    assert!(!told(fresh(7, from(1000))));
    // Nothing happens to a device without a record.
    table.expect(DeviceId(2));
    assert_eq!(table.devices(), (1, 1));
}

/// However the two meet: what is put into the outbox is found there, or its mark is.
#[test]
fn nothing_that_is_expected_while_packets_come_is_forgotten() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (table, waiting, taken) = (table(), AtomicUsize::new(0), AtomicUsize::new(0));
    let take = || {
        taken.fetch_add(waiting.swap(0, Ordering::SeqCst), Ordering::SeqCst);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                waiting.fetch_add(1, Ordering::SeqCst);
                table.expect(ID);
            }
        });
        for second in 1..2000 {
            if hear(&table, fresh(second, from(1000))).expects {
                take();
            }
        }
    });
    if hear(&table, fresh(2000, from(1000))).expects {
        take();
    }
    assert_eq!(taken.load(Ordering::SeqCst), 2000);
}

#[test]
fn downlinks_begin_half_of_all_sequences_beyond_the_first_of_the_device() {
    let table = table();
    table.register(ID, at(0));
    assert_eq!(table.next_downlink_sequence(ID), None, "never heard");
    table.set_application(ID, super::application(1), at(0));
    assert_eq!(table.next_downlink_sequence(ID), None, "spoken of");
    let asking = Sent { sequence: 40_000, flags: Flags::ACK_REQUEST, ..fresh(1, from(1000)) };
    let Outcome::Counted(counted) = asking.record(&table, at(1)) else { panic!("it counts") };
    assert_eq!(counted.ack_sequence, Some(40_000 - 32_768));
    hear(&table, fresh(2, from(1000)));
    assert_eq!([(); 2].map(|()| table.next_downlink_sequence(ID)), [Some(7233), Some(7234)]);
}

#[test]
fn downlinks_begin_further_where_the_time_may_have_been_used_before() {
    let table = table();
    table.register(ID, at(0));
    table.move_down_sequences(2048);
    hear(&table, fresh(1, from(1000)));
    assert_eq!(table.next_downlink_sequence(ID), Some(1 + 32_768 + 2048));
}

#[test]
fn what_moves_sequences_never_moves_them_to_those_of_another_generation() {
    let mut begun = std::collections::HashSet::new();
    for (losses, turns) in [(0, 0), (1, 0), (1, 1), (2, 1), (5, 1)] {
        let table = RouteTable::new(&TableConfig { losses, ..TableConfig::default() });
        table.move_down_sequences(1024 * turns);
        for generation in 0..8 {
            hear(&table, fresh(1, from(1000)));
            for _ in 0..60 {
                let sequence = table.next_downlink_sequence(ID).unwrap();
                assert!(begun.insert(sequence), "{sequence} again: {losses}, {turns}, {generation}");
            }
            table.register(ID, at(1));
            assert!(table.deregister(ID));
        }
    }
}

#[test]
fn a_record_that_follows_a_forgotten_one_uses_none_of_its_sequences_in_the_same_second() {
    let table = table();
    let mut used = std::collections::HashSet::new();
    for sequence in 1..40 {
        table.register(ID, at(1));
        hear(&table, Sent { sequence, ..fresh(1, from(1000)) });
        for _ in 0..100 {
            assert!(used.insert(table.next_downlink_sequence(ID).unwrap()), "after {} others", used.len());
        }
        assert!(table.deregister(ID));
    }
}

#[test]
fn a_device_that_was_forgotten_and_is_registered_then_uses_none_of_its_sequences_in_the_same_second() {
    let table = RouteTable::new(&TableConfig { unregistered_limit: 1, ..TableConfig::default() });
    let mut used = std::collections::HashSet::new();
    let mut speak = || {
        hear(&table, fresh(1, from(1000)));
        assert!((0..100).all(|_| used.insert(table.next_downlink_sequence(ID).unwrap())));
    };
    speak();
    hear(&table, Sent { device: 2, ..fresh(1, from(2000)) });
    assert!(table.snapshot(ID).is_none(), "made room");
    table.register(ID, at(1));
    speak();
}

#[test]
fn the_longest_datagram_is_that_of_the_device_itself_in_units_of_8() {
    let table = table();
    let largest = |sent, len| {
        hear(&table, Sent { len, ..sent });
        route(&table, sent.sequence).largest
    };
    assert_eq!(largest(fresh(1, from(1000)), 7), 0);
    assert_eq!(largest(fresh(2, from(1000)), 559), 552);
    assert_eq!(largest(fresh(3, Way::Relayed(90)), 1400), 552, "the relay's");
    assert_eq!(largest(fresh(4, from(1000)), 60), 552);
    assert_eq!(largest(fresh(5, from(1000)), 2048), 2040);
}

#[test]
fn a_way_back_leads_where_the_last_datagram_of_the_route_came_in() {
    let table = table();
    let via = |sent, via| {
        hear(&table, Sent { via: Via(via), ..sent });
        route(&table, sent.sequence).via
    };
    assert_eq!(via(fresh(1, from(1000)), 4), Via(4));
    assert_eq!(via(without_time(2, from(2000)), 5), Via(4), "from elsewhere");
    assert_eq!(via(fresh(3, from(1000)), 6), Via(6));
    assert_eq!(via(fresh(400, Way::Relayed(90)), 7), Via::UNKNOWN, "that of the relay, which has a record of its own");
}

#[test]
fn an_address_is_proved_by_a_packet_that_is_or_by_an_answer_from_there() {
    let table = table();
    assert!(!hear(&table, without_time(1, from(1000))).proved_address && !route(&table, 1).proved);
    assert!(answer(&table, without_time(2, from(1000))).proved_address && route(&table, 2).proved);
    assert!(hear(&table, without_time(3, from(1000))).proved_address);
    assert!(!hear(&table, without_time(4, from(2000))).proved_address);
    assert!(hear(&table, fresh(5, from(2000))).proved_address && route(&table, 5).proved);
}

#[test]
fn a_route_has_moved_since_a_position_before_its_last_move() {
    let table = table();
    let mut positions = vec![table.cursor(ID)];
    assert_eq!(table.moved_since(ID, positions[0]), None, "never heard");
    let mut moved = |sent| {
        positions.push(hear(&table, sent).cursor);
        positions.iter().map(|cursor| u8::from(table.moved_since(ID, *cursor).unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(moved(fresh(1, from(1000)))[1..], [0]);
    assert_eq!(moved(fresh(2, from(1000)))[1..], [0, 0]);
    assert_eq!(moved(without_time(3, from(2000)))[1..], [0, 0, 0], "kept");
    assert_eq!(moved(fresh(4, from(2000)))[1..], [1, 1, 1, 0], "moved");
    assert_eq!(moved(fresh(5, Way::Relayed(90)))[1..], [1, 1, 1, 1, 0], "the first relayed one");
    assert_eq!(moved(fresh(6, Way::Relayed(90)))[1..], [1, 1, 1, 1, 0, 0]);
    assert_eq!(moved(fresh(7, from(2000)))[1..], [1, 1, 1, 1, 1, 1, 0], "direct again");
    let present = table.cursor(ID);
    assert_eq!(table.moved_since(ID, Cursor { epoch: 0, ..present }), Some(true), "another process");
}

#[test]
fn without_a_route_nothing_is_sent() {
    let table = table();
    assert_eq!(table.send_route(ID, at(0)), None);
    table.register(ID, at(0));
    table.set_application(ID, super::application(1), at(0));
    assert_eq!(table.send_route(ID, at(0)), None);
    hear(&table, fresh(1, from(1000)));
    let long_after = at(1).after(Duration::from_secs(86_400));
    assert!(is_direct(&table.send_route(ID, long_after).unwrap()), "the one heard last, however long ago");
}
