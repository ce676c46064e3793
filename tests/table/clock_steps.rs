//! Rule R11: what steps of the gateway's clock do to routes, and what they must not do.

use std::net::SocketAddr;

use lastroute::clock::Timestamp;
use lastroute::id::DeviceId;
use lastroute::table::route::{Counted, Outcome, Route};
use lastroute::table::rules::{NO_TIME_START, RouteChange, Step};
use lastroute::table::{RouteTable, TableConfig};

use super::{START, Sent, Way};

const DAY: u32 = 86_400;

fn table() -> RouteTable {
    RouteTable::new(&TableConfig::default())
}

fn from(port: u16) -> Way {
    Way::Direct(SocketAddr::from(([192, 0, 2, 1], port)))
}

fn at(gps: u32) -> Timestamp {
    Timestamp::from_gps(gps)
}

fn hear(table: &RouteTable, sent: Sent, now: u32) -> (Step, RouteChange) {
    match sent.record(table, at(now)) {
        Outcome::Counted(Counted { step, change, .. }) => (step, change),
        Outcome::Refused(refused) => (refused.step, RouteChange::Kept),
        Outcome::NotRegistered => panic!("{sent:?}"),
    }
}

#[test]
fn r11_recordings_of_yesterday_move_nothing_when_the_clock_is_set_back_a_day() {
    let table = table();
    let yesterday: Vec<_> = (0..50).map(|second| Sent::new(START + second, second as u16, from(1000))).collect();
    for sent in &yesterday {
        hear(&table, *sent, sent.gps_time);
    }
    hear(&table, Sent::new(START + DAY, 60, from(1000)), START + DAY);
    for sent in &yesterday {
        let (step, change) = hear(&table, Sent { way: from(2000), ..*sent }, sent.gps_time);
        assert!(!step.proved() && change == RouteChange::Kept, "{sent:?}: {step:?}");
    }
}

#[test]
fn r11_a_clock_that_was_a_day_ahead_for_a_while_freezes_no_route() {
    let table = table();
    hear(&table, Sent::new(START, 1, from(1000)), START);
    // What the device says now is old, and counts.
    assert_eq!(hear(&table, Sent::new(START + 60, 2, from(1000)), START + 60 + DAY).1, RouteChange::Refreshed);
    let moved = hear(&table, Sent::new(START + 120, 3, from(2000)), START + 120);
    assert_eq!(moved, (Step::SameSession, RouteChange::Moved));
}

#[test]
fn r11_a_device_that_took_its_time_from_a_clock_that_was_a_day_ahead_counts_once_both_are_right() {
    let table = table();
    hear(&table, Sent::new(START + DAY, 1, from(1000)), START + DAY);
    hear(&table, Sent::new(START + DAY + 60, 2, from(1000)), START + DAY + 60);
    let unproven = |change| (Step::Unproven, change);
    for (second, sequence) in [(120, 3), (180, 4), (240, 2000)] {
        let sent = Sent::new(START + second, sequence, from(1000));
        assert_eq!(hear(&table, sent, START + second), unproven(RouteChange::Refreshed), "{second}");
    }
    let roamed = Sent::new(START + 300, 2001, from(2000));
    assert_eq!(hear(&table, roamed, START + 300), unproven(RouteChange::Kept));
    assert!(table.may_ask(DeviceId(1), &roamed.path().place(), at(START + 300)));
    let answer = Sent::new(START + 301, 2002, from(2000)).record_answer(&table, at(START + 301));
    assert!(matches!(answer, Outcome::Counted(Counted { change: RouteChange::Moved, .. })), "{answer:?}");
}

#[test]
fn r11_a_boot_that_was_long_ago_is_not_pending_again_when_the_clock_is_set_back() {
    let table = table();
    let later = START + 2 * DAY;
    hear(&table, Sent::new(NO_TIME_START, 0, from(1000)).boot(), later);
    hear(&table, Sent::new(later + 500, 1, Way::Relayed(90)), later + 500);
    hear(&table, Sent::new(later + 501, 2, from(1000)), later + 501);
    let now = later - DAY;
    let (step, _) = hear(&table, Sent::new(later + 502, 3, from(1000)), now);
    assert_eq!(step, Step::Unproven, "from ahead, and of no boot");
}

#[test]
fn r11_a_device_that_is_silent_is_sent_to_over_its_relay_after_300_s_though_the_clock_is_set_back() {
    let table = table();
    hear(&table, Sent::new(START + DAY, 1, from(1000)), START + DAY);
    hear(&table, Sent::new(START + 10, 1, Way::Relayed(90)), START + 10);
    let route = table.send_route(DeviceId(1), at(START + 10)).unwrap().route;
    assert!(matches!(route, Route::Relayed(_)), "{route:?}");
}

#[test]
fn r11_an_old_packet_is_remembered_though_the_clock_is_set_back_to_its_time() {
    let table = table();
    let old = Sent::new(START, 7, from(1000));
    assert_eq!(hear(&table, old, START + DAY), (Step::Unproven, RouteChange::First));
    assert_eq!(hear(&table, Sent { way: from(2000), ..old }, START), (Step::ExactCopy, RouteChange::Kept));
}

#[test]
fn r11_a_contest_that_is_over_stays_over_when_the_clock_is_set_back() {
    let table = table();
    for (second, port) in [(0, 1000), (1, 2000), (2, 1000)] {
        hear(&table, Sent::new(START + second, second as u16, from(port)), START + second);
    }
    let contested = |now| table.contest(DeviceId(1), at(now)).unwrap().contested;
    assert!(contested(START + 12).is_some());
    hear(&table, Sent::new(START + 13, 13, from(1000)), START + 13);
    assert_eq!(contested(START + 8), None);
}
