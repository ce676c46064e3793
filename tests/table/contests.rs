//! Rule R6, case by case: who is challenged, what an answer does, and what follows when nobody answers. Also rule R5 after an
//! unclean stop.

use std::net::SocketAddr;

use lastroute::clock::Timestamp;
use lastroute::id::DeviceId;
use lastroute::table::contest::{Challenges, Place};
use lastroute::table::route::{Counted, Outcome, Refused, Snapshot, Trust};
use lastroute::table::rules::{NO_TIME_START, RouteChange, Step};
use lastroute::table::sending::Release;
use lastroute::table::{RouteTable, TableConfig};
use lastroute::wire::frame::{Flags, Level};

use super::{START, Sent, Way};

const ID: DeviceId = DeviceId(1);
const NOBODY: Challenges = Challenges { source: false, other: false };
const SOURCE: Challenges = Challenges { source: true, other: false };
const BOTH: Challenges = Challenges { source: true, other: true };
const HOUR: u32 = 3600;

fn table() -> RouteTable {
    RouteTable::new(&TableConfig::default())
}

fn from(port: u16) -> Way {
    Way::Direct(SocketAddr::from(([192, 0, 2, 1], port)))
}

fn place(way: Way) -> Place {
    Sent::new(0, 0, way).path().place()
}

/// A fresh packet, this many seconds after the start.
fn fresh(second: u32, sequence: u16, way: Way) -> Sent {
    Sent::new(START + second, sequence, way)
}

/// A boot without time, each with an entropy of its own.
fn boot_without_time(entropy: u16, way: Way) -> Sent {
    Sent { entropy, ..Sent::new(NO_TIME_START, 0, way).boot() }
}

fn at(second: u32) -> Timestamp {
    Timestamp::from_gps(START + second)
}

fn counted(outcome: Outcome) -> Counted {
    let Outcome::Counted(counted) = outcome else { panic!("{outcome:?}") };
    counted
}

fn refused(outcome: Outcome) -> Refused {
    let Outcome::Refused(refused) = outcome else { panic!("{outcome:?}") };
    refused
}

fn hear(table: &RouteTable, sent: Sent, second: u32) -> Counted {
    counted(sent.record(table, at(second)))
}

fn answer(table: &RouteTable, sent: Sent, second: u32) -> Counted {
    counted(sent.record_answer(table, at(second)))
}

fn ask(table: &RouteTable, way: Way, second: u32) -> bool {
    let may = table.may_ask(ID, &place(way), at(second));
    if may {
        table.next_downlink_sequence(ID).unwrap();
    }
    may
}

fn snapshot(table: &RouteTable) -> Snapshot {
    table.snapshot(ID).unwrap()
}

fn port(table: &RouteTable) -> u16 {
    snapshot(table).direct.unwrap().address.port()
}

fn trust(table: &RouteTable) -> Trust {
    snapshot(table).direct.unwrap().trust
}

fn unanswered(table: &RouteTable, second: u32) -> u8 {
    table.contest(ID, at(second)).map_or(0, |contest| contest.unanswered[0])
}

#[test]
fn r6_a_boot_without_time_repeated_ten_times_at_the_same_address_is_asked_once_for_each() {
    let table = table();
    for boot in 0..10 {
        let second = u32::from(boot) * 60;
        let sent = boot_without_time(boot, from(1000));
        assert_eq!(hear(&table, sent, second).challenges, SOURCE, "{boot}: it needs the time");
        assert!(ask(&table, from(1000), second));
        let next = Sent { entropy: 100 + boot, ..Sent::new(NO_TIME_START + 1, 1, from(1000)) };
        assert_eq!(hear(&table, next, second + 1).challenges, NOBODY, "{boot}: it was given the time");
    }
    assert_eq!((snapshot(&table).cursor.n, port(&table), unanswered(&table, 600)), (20, 1000, 0));
}

#[test]
fn r6_a_device_without_time_is_not_asked_for_what_its_acknowledgement_tells_it() {
    let table = table();
    let asking = |sent: Sent| Sent { flags: Flags::ACK_REQUEST, ..sent };
    assert_eq!(hear(&table, asking(boot_without_time(1, from(1000))), 0).challenges, NOBODY);
    let next = |entropy| Sent { entropy, ..Sent::new(NO_TIME_START + 1, 1, from(1000)) };
    assert_eq!(hear(&table, next(2), 1).challenges, NOBODY, "acknowledged since its boot");
    assert_eq!(hear(&table, boot_without_time(3, from(1000)), 60).challenges, SOURCE, "it has booted since");
    let single = Sent { flags: Flags::SINGLE_TX, ..boot_without_time(4, from(1000)) };
    assert_eq!(hear(&table, single, 120).challenges, NOBODY, "it does not listen");
    hear(&table, fresh(180, 2, from(1000)), 180);
    table.next_downlink_sequence(ID).unwrap();
    assert_eq!(hear(&table, next(5), 240).challenges, SOURCE, "it has lost its time, and its boot packet was lost");
}

#[test]
fn r6_what_goes_elsewhere_tells_a_device_without_time_nothing() {
    let table = table();
    let sent = |entropy, way| Sent { entropy, ..Sent::new(NO_TIME_START + u32::from(entropy), entropy, way) };
    assert_eq!(hear(&table, boot_without_time(0, from(1000)), 0).challenges, SOURCE);
    // Copies from elsewhere have somebody else asked, or acknowledged.
    assert_eq!(hear(&table, sent(1, from(6666)), 1).change, RouteChange::Kept);
    assert!(ask(&table, from(6666), 1));
    let asking = Sent { flags: Flags::ACK_REQUEST, ..sent(2, from(6666)) };
    assert!(hear(&table, asking, 2).ack_sequence.is_some());
    assert_eq!(hear(&table, sent(3, from(1000)), 3).challenges, SOURCE, "it still needs the time");
    assert!(ask(&table, from(1000), 3));
    assert_eq!(hear(&table, sent(4, from(1000)), 4).challenges, NOBODY);
    // Of a packet that came through a relay the flag does not ask.
    let relayed = Sent { flags: Flags::ACK_REQUEST, ..boot_without_time(9, Way::Relayed(90)) };
    assert_eq!(hear(&table, relayed, 60).challenges, SOURCE);
}

#[test]
fn r6_a_boot_without_time_from_a_new_address_each_time_is_asked_there_and_moves_by_its_answer() {
    let table = table();
    hear(&table, fresh(0, 1, from(1000)), 0);
    for boot in 1..=10 {
        let (second, way) = (u32::from(boot) * 60, from(1000 + boot));
        let heard = hear(&table, boot_without_time(boot, way), second);
        assert_eq!((heard.step, heard.change, heard.challenges), (Step::Unproven, RouteChange::Kept, SOURCE));
        assert_eq!(heard.release, Release::No);
        assert!(ask(&table, way, second));
        let sent = Sent { entropy: 100 + boot, ..Sent::new(NO_TIME_START + 1, 1, way) };
        let answered = answer(&table, sent, second + 1);
        assert!(answered.is_answer && answered.proved_address);
        assert_eq!((answered.change, answered.release), (RouteChange::Moved, Release::Yes));
        assert_eq!(answered.moved_from.unwrap().port(), 999 + boot);
        assert_eq!((port(&table), trust(&table), unanswered(&table, second + 1)), (1000 + boot, Trust::Verified, 0));
    }
    assert_eq!(snapshot(&table).cursor.n, 21);
}

#[test]
fn r6_a_single_tx_sender_without_time_moves_after_three_that_could_not_be_asked() {
    for (is_proved, silence) in [(true, HOUR), (false, 60)] {
        let table = table();
        let first = if is_proved { fresh(0, 1, from(1000)) } else { boot_without_time(0, from(1000)) };
        hear(&table, first, 0);
        let start = silence - 25;
        for (number, offset, expected) in [(1, 0, 1), (2, 9, 1), (3, 10, 2), (4, 20, 3), (5, 24, 3), (6, 29, 3)] {
            let sent = Sent { flags: Flags::SINGLE_TX, ..boot_without_time(number, from(1000 + number)) };
            let heard = hear(&table, sent, start + offset);
            assert_eq!((heard.change, heard.challenges), (RouteChange::Kept, NOBODY), "{number}");
            assert_eq!(unanswered(&table, start + offset), expected, "{number}");
        }
        let sent = Sent { flags: Flags::SINGLE_TX, ..boot_without_time(7, from(1007)) };
        let heard = hear(&table, sent, start + 30);
        assert_eq!((heard.change, heard.proved_address), (RouteChange::Moved, false));
        assert_eq!((port(&table), trust(&table), unanswered(&table, start + 30)), (1007, Trust::Network, 0));
        assert!(!table.send_route(ID, at(start + 30)).unwrap().proved);
    }
}

#[test]
fn r6_a_route_that_is_not_silent_is_moved_by_no_number_of_unanswered_challenges() {
    let table = table();
    hear(&table, fresh(0, 1, from(1000)), 0);
    for number in 1..100 {
        let second = u32::from(number) * 60;
        hear(&table, fresh(second, number + 1, from(1000)), second);
        let single = Sent { flags: Flags::SINGLE_TX, ..boot_without_time(number, from(2000)) };
        assert_eq!(hear(&table, single, second + 30).change, RouteChange::Kept);
    }
    assert_eq!((port(&table), unanswered(&table, 6000)), (1000, 99));
}

#[test]
fn r6_between_two_packets_that_may_move_no_route_no_recording_is_let_in() {
    for (present, elsewhere) in [(from(1000), from(2000)), (Way::Relayed(90), Way::Relayed(91))] {
        let table = table();
        let doubtful = |second, sequence| Sent { may_move: false, ..fresh(second, sequence, present) };
        let recording = |number, way, second| {
            let sent = match number % 2 {
                0 => boot_without_time(number, way),
                _ => Sent { gps_time: START - 1000, ..fresh(0, 5000 + number, way) },
            };
            let heard = hear(&table, sent, second);
            assert_eq!(heard.step, Step::Unproven);
            ask(&table, way, second);
            heard.change
        };
        for number in 0..50 {
            let second = u32::from(number) * 90;
            hear(&table, doubtful(second, number), second);
            assert!(!table.send_route(ID, at(second)).unwrap().proved);
            for (count, later) in [(0, 65), (1, 80)] {
                assert_eq!(recording(2 * number + count, elsewhere, second + later), RouteChange::Kept, "{number}");
            }
        }
        let silent = 49 * 90 + HOUR;
        assert_eq!(recording(200, elsewhere, silent - 11), RouteChange::Kept);
        assert_eq!(recording(201, elsewhere, silent), RouteChange::Moved, "as if it was proved");
        // What moved it that way bears nothing out.
        for (number, later) in [(202, 30), (203, 40), (204, 50)] {
            assert_eq!(recording(number, present, silent + later), RouteChange::Kept, "{number}");
        }
        assert_eq!(recording(205, present, silent + 60), RouteChange::Moved);
    }
}

#[test]
fn r6_a_late_packet_moves_no_silent_route() {
    let table = table();
    hear(&table, fresh(0, 1, from(1000)), 0);
    for number in 1..=3 {
        let single = Sent { flags: Flags::SINGLE_TX, ..Sent::new(NO_TIME_START, number, from(2000)) };
        hear(&table, single, HOUR + u32::from(number) * 10);
    }
    // The newest of the session comes through no address that may move the route, and what it overtook after it.
    let doubtful = |second, sequence| Sent { may_move: false, ..fresh(second, sequence, from(3000)) };
    assert_eq!(hear(&table, doubtful(HOUR + 31, 3), HOUR + 31).change, RouteChange::Kept);
    let late = hear(&table, doubtful(HOUR + 30, 2), HOUR + 45);
    assert_eq!((late.step, late.change), (Step::Late, RouteChange::Kept));
    assert_eq!(hear(&table, doubtful(HOUR + 46, 4), HOUR + 46).change, RouteChange::Moved, "under strict, too");
}

#[test]
fn r1_a_sleeping_sender_behind_a_changing_nat_under_newest_and_under_strict() {
    for may_move in [true, false] {
        let table = table();
        for wake in 0..20_u16 {
            let (second, way) = (u32::from(wake) * 600, from(1000 + wake));
            let sent = Sent { may_move, ..fresh(second, wake, way) };
            let heard = hear(&table, sent, second);
            if may_move || wake % 4 == 0 {
                assert_eq!((heard.challenges, port(&table)), (NOBODY, 1000 + wake), "three did not answer");
                continue;
            }
            assert_eq!((heard.change, heard.challenges), (RouteChange::Kept, SOURCE), "{wake}");
            assert_eq!(port(&table), 1000 + wake / 4 * 4);
            assert!(ask(&table, way, second));
            // It sleeps again. What would answer now comes too late.
            assert_eq!(refused(sent.record_answer(&table, at(second + 30))).answered, None);
        }
        assert_eq!(trust(&table), Trust::Network);
    }
}

#[test]
fn r10_after_an_unclean_stop_a_slow_device_that_roams_is_asked_before_its_route_moves() {
    let table = table();
    // 120 s after the start of the gateway. The device's clock is 250 s behind.
    table.set_floor(START + 120);
    let slow = |second: u32, sequence, way| fresh(second - 250, sequence, way);
    hear(&table, slow(250, 1, from(1000)), 250);
    let roamed = hear(&table, slow(310, 2, from(2000)), 310);
    assert_eq!((roamed.step, roamed.change), (Step::SameSession, RouteChange::Kept));
    assert_eq!(roamed.challenges, SOURCE);
    assert!(ask(&table, from(2000), 310));
    assert_eq!(answer(&table, slow(311, 3, from(2000)), 311).change, RouteChange::Moved);
    assert_eq!((port(&table), trust(&table)), (2000, Trust::Verified));
    assert_eq!(hear(&table, slow(370, 4, from(3000)), 370).change, RouteChange::Kept, "not after the floor");
    assert_eq!(hear(&table, slow(371, 5, from(3000)), 371).change, RouteChange::Moved);
}

#[test]
fn r10_after_an_unclean_stop_a_recording_of_what_was_forgotten_proves_no_address_and_releases_nothing() {
    let below = |table: &RouteTable, sent, second| {
        let heard = hear(table, sent, second);
        assert!(heard.step.proved() && !heard.proved_address, "{heard:?}");
        (heard.change, heard.release)
    };
    let is_proved = |table: &RouteTable, second| table.send_route(ID, at(second)).unwrap().proved;
    let table = table();
    table.set_floor(START + 120);
    // The record of the device is lost, or its first one was never written.
    assert_eq!(below(&table, fresh(1, 1, from(6666)), 5), (RouteChange::First, Release::Challenge));
    assert_eq!(below(&table, fresh(2, 2, from(6666)), 6), (RouteChange::Refreshed, Release::Challenge));
    assert!(!is_proved(&table, 6));
    // Silent routes move, but prove as little.
    for (sequence, second) in [(3, 70), (4, 80), (5, 90)] {
        assert_eq!(below(&table, fresh(second, sequence, from(7777)), second), (RouteChange::Kept, Release::No));
        assert!(ask(&table, from(7777), second));
    }
    assert_eq!(below(&table, fresh(100, 6, from(7777)), 100), (RouteChange::Moved, Release::Challenge));
    assert!(!is_proved(&table, 100));
    let answered = answer(&table, fresh(101, 7, from(7777)), 101);
    assert!(answered.proved_address && answered.release == Release::Yes && is_proved(&table, 101));
    let later = hear(&table, fresh(121, 8, from(1000)), 121);
    assert_eq!((later.change, later.release, later.proved_address), (RouteChange::Moved, Release::Yes, true));
}

#[test]
fn r10_after_an_unclean_stop_what_waits_goes_home_once_the_device_has_answered_and_moves_no_sooner() {
    let table = table();
    table.set_floor(START + 120);
    let release = |second, sequence, way| {
        let heard = hear(&table, fresh(second, sequence, way), second);
        (heard.change, heard.release)
    };
    assert_eq!(release(1, 1, from(1000)), (RouteChange::First, Release::Challenge));
    assert!(ask(&table, from(1000), 1));
    assert_eq!(answer(&table, fresh(2, 2, from(1000)), 2).release, Release::Yes);
    assert_eq!(release(3, 3, from(1000)), (RouteChange::Refreshed, Release::Yes));
    assert_eq!(release(4, 4, from(2000)), (RouteChange::Kept, Release::No), "it may be forgotten still");
    // Older than what it has said since.
    assert_eq!(release(3, 5, from(1000)), (RouteChange::Refreshed, Release::Challenge));
}

#[test]
fn r6_there_and_back_within_10_s_has_both_places_asked_until_one_answers() {
    let table = table();
    let moves = [(0, 1000), (5, 2000), (15, 1000)];
    for (second, port) in moves {
        let heard = hear(&table, fresh(second, second as u16, from(port)), second);
        assert_eq!(heard.challenges, if second == 15 { BOTH } else { NOBODY }, "{second}");
    }
    assert_eq!(table.contested_with(ID, &place(from(1000)), at(15)), Some(place(from(2000))));
    assert_eq!(table.contest(ID, at(15)).unwrap().contested, Some([place(from(2000)), place(from(1000))]));
    // The newest goes on to win, from wherever it comes.
    let heard = hear(&table, fresh(16, 16, from(2000)), 16);
    assert_eq!((heard.change, heard.challenges), (RouteChange::Moved, BOTH));
    assert!([1000, 2000].iter().all(|port| ask(&table, from(*port), 16)));
    assert_eq!(unanswered(&table, 16), 1, "one of them is where the route leads");
    let answered = answer(&table, fresh(17, 17, from(1000)), 17);
    assert_eq!((answered.change, answered.challenges), (RouteChange::Moved, NOBODY));
    assert_eq!((port(&table), trust(&table), unanswered(&table, 17)), (1000, Trust::Verified, 0));
    assert_eq!(table.contested_with(ID, &place(from(1000)), at(17)), None);
    assert_eq!(hear(&table, fresh(18, 18, from(1000)), 18).challenges, NOBODY);
}

#[test]
fn r6_there_and_back_after_more_than_10_s_is_no_contest() {
    let table = table();
    for (ms, port) in [(0, 1000), (1_000, 2000), (11_001, 1000)] {
        let second = ms / 1000;
        let sent = fresh(second, second as u16, from(port));
        let heard = counted(sent.record(&table, Timestamp(at(0).0 + u64::from(ms))));
        assert_eq!(heard.challenges, NOBODY, "{ms}");
    }
}

#[test]
fn r6_a_contest_ends_by_itself_after_10_s() {
    let table = table();
    for (second, port) in [(0, 1000), (1, 2000), (2, 1000)] {
        hear(&table, fresh(second, second as u16, from(port)), second);
    }
    assert_eq!(hear(&table, fresh(12, 12, from(1000)), 12).challenges, BOTH);
    assert_eq!(hear(&table, fresh(13, 13, from(1000)), 13).challenges, NOBODY);
    assert_eq!(hear(&table, fresh(14, 14, from(1000)), 14).challenges, NOBODY);
    assert_eq!(table.contest(ID, at(14)).unwrap().contested, None);
}

#[test]
fn r6_a_copy_that_comes_first_moves_the_route_and_the_original_has_both_asked() {
    let table = table();
    hear(&table, fresh(0, 1, from(1000)), 0);
    assert_eq!(hear(&table, fresh(1, 2, from(6666)), 1).change, RouteChange::Moved, "the attacker is faster");
    let original = refused(fresh(1, 2, from(1000)).record(&table, at(1)));
    assert_eq!((original.step, original.challenges), (Step::BitSet, BOTH));
    assert!([1000, 6666].iter().all(|port| ask(&table, from(*port), 1)));
    assert_eq!(answer(&table, fresh(2, 3, from(1000)), 2).change, RouteChange::Moved);
    assert_eq!((port(&table), trust(&table)), (1000, Trust::Verified));
}

#[test]
fn r6_a_copy_of_the_first_packet_ever_is_contested_too_and_one_after_10_s_is_not() {
    let table = table();
    hear(&table, fresh(0, 1, from(1000)), 0);
    let copy = |way, second| refused(fresh(0, 1, way).record(&table, at(second)));
    assert_eq!(copy(from(1000), 1).challenges, NOBODY, "from where the route leads");
    assert_eq!(copy(from(2000), 10).challenges, BOTH);
    assert_eq!(copy(from(3000), 11).challenges, NOBODY, "the move was more than 10 s ago");
    assert_eq!(copy(from(1000), 11).challenges, BOTH, "of the two places, even what does not count");
    assert_eq!(hear(&table, fresh(20, 2, from(2000)), 20).challenges, BOTH);
}

#[test]
fn r6_an_answer_that_a_copy_overtook_does_not_count_and_does_all_the_rest() {
    let table = table();
    hear(&table, fresh(0, 1, from(1000)), 0);
    let challenged = hear(&table, boot_without_time(1, from(2000)), 1);
    assert_eq!(challenged.challenges, SOURCE);
    assert!(ask(&table, from(2000), 1));
    let answer = |way| fresh(2, 1, way);
    // The attacker's copy has the cookie of another place.
    assert_eq!(hear(&table, answer(from(6666)), 2).change, RouteChange::Moved);
    table.expect(ID);
    let original = refused(answer(from(2000)).record_answer(&table, at(2)));
    let answered = original.answered.unwrap();
    assert_eq!((original.step, answered.moved_from.unwrap().port(), answered.expects), (Step::BitSet, 6666, true));
    assert_eq!(original.challenges, NOBODY);
    let now = snapshot(&table);
    assert_eq!((port(&table), trust(&table), now.cursor.n), (2000, Trust::Verified, 3));
    let last = now.last_packet.unwrap();
    assert_eq!((last.source.port(), last.on_route), (6666, false), "what counted last came from elsewhere");
    assert_eq!(table.moved_since(ID, now.cursor), Some(true), "since the packet that counted last");
    assert!(refused(answer(from(2000)).record_answer(&table, at(3))).answered.is_none(), "nobody waits for it");
}

#[test]
fn r6_the_first_answer_decides_and_the_second_loses() {
    let table = table();
    for (second, port) in [(0, 1000), (1, 2000), (2, 1000)] {
        hear(&table, fresh(second, second as u16, from(port)), second);
    }
    assert!([1000, 2000].iter().all(|port| ask(&table, from(*port), 3)));
    assert!(answer(&table, fresh(4, 4, from(2000)), 4).is_answer);
    let second = answer(&table, fresh(5, 5, from(1000)), 5);
    assert!(!second.is_answer);
    assert_eq!((second.change, port(&table)), (RouteChange::Moved, 1000), "it is newer, and that is all");
    assert_eq!(trust(&table), Trust::Network);
}

#[test]
fn r6_an_answer_is_waited_for_20_s_and_only_where_it_was_asked_for() {
    let asked = |second, way| {
        let table = table();
        hear(&table, fresh(0, 1, from(1000)), 0);
        hear(&table, boot_without_time(1, from(2000)), 1);
        assert!(ask(&table, from(2000), 1));
        answer(&table, Sent { may_move: false, ..fresh(second, 2, way) }, second).is_answer
    };
    assert!(asked(21, from(2000)));
    assert!(!asked(22, from(2000)) && !asked(2, from(2001)) && !asked(2, from(1000)));
}

#[test]
fn r6_a_packet_that_has_answered_answers_no_later_challenge() {
    let table = table();
    hear(&table, fresh(0, 1, from(1000)), 0);
    assert!(ask(&table, from(1000), 9));
    assert!(answer(&table, fresh(10, 2, from(1000)), 10).is_answer);
    hear(&table, fresh(15, 3, from(2000)), 15);
    assert!(ask(&table, from(1000), 19), "for whatever reason");
    let recorded = refused(fresh(10, 2, from(1000)).record_answer(&table, at(19)));
    assert_eq!((recorded.answered, port(&table)), (None, 2000));
}

#[test]
fn r6_an_answer_is_not_too_old_and_opens_a_session_and_the_greatest_time_stays() {
    let table = table();
    hear(&table, fresh(200, 5000, from(1000)), 200);
    assert!(ask(&table, from(1000), 200));
    // Its clock was set back by 100 s in a reboot, and the packet of the boot was lost.
    let rebooted = |second: u32, sequence| fresh(second - 100, sequence, from(1000));
    assert_eq!(refused(rebooted(201, 1).record(&table, at(201))).step, Step::TooOld);
    let answered = answer(&table, rebooted(202, 2), 202);
    assert_eq!((answered.step, answered.is_answer), (Step::Unproven, true));
    for sequence in 3..10 {
        let second = 200 + u32::from(sequence);
        assert_eq!(hear(&table, rebooted(second, sequence), second).step, Step::Pending);
    }
    assert_eq!(hear(&table, rebooted(300, 10), 300).step, Step::Pending, "no newer than the greatest");
    assert_eq!(hear(&table, rebooted(301, 11), 301).step, Step::NewSession);
}

#[test]
fn r6_one_place_is_asked_once_in_10_s_and_a_device_six_times_a_minute_over_both_slots() {
    let table = table();
    assert!(!table.may_ask(ID, &place(from(1000)), at(0)), "never heard");
    hear(&table, fresh(0, 1, from(1000)), 0);
    assert!(ask(&table, from(1), 0) && !ask(&table, from(1), 9));
    assert!(ask(&table, Way::Relayed(90), 1));
    assert!(ask(&table, from(1), 10));
    assert!((2..5).all(|port| ask(&table, from(port), 11)));
    assert!(!ask(&table, from(5), 59));
    assert!(ask(&table, from(5), 60), "the first was 60 s ago");
    assert!(!ask(&table, from(6), 60));
    // The clock is set back by an hour: what was asked in the future limits nothing.
    let before = Timestamp(at(0).0 - 3_600_000);
    assert!(table.may_ask(ID, &place(from(5)), before));
    let view = table.contest(ID, at(60)).unwrap();
    assert_eq!((view.asked.len(), view.asked[0].at, view.asked[1].place), (6, before, place(from(5))));
}

#[test]
fn r6_copies_from_many_places_leave_the_device_to_be_asked_where_it_is_was_or_has_proved_to_be() {
    let table = table();
    hear(&table, fresh(0, 1, from(1000)), 0);
    assert_eq!(hear(&table, fresh(1, 2, from(2000)), 1).change, RouteChange::Moved);
    assert!((1..=6).all(|port| ask(&table, from(port), 2)) && !ask(&table, from(7), 2));
    assert!([1000, 2000].iter().all(|port| ask(&table, from(*port), 2)), "before and now");
    assert!([1000, 2000].iter().all(|port| !ask(&table, from(*port), 11)), "in 10 s");
    let doubtful = |second, sequence, way| Sent { may_move: false, ..fresh(second, sequence, way) };
    assert!(!ask(&table, from(3000), 12));
    let kept = hear(&table, doubtful(12, 3, from(3000)), 12);
    assert_eq!((kept.change, kept.challenges), (RouteChange::Kept, SOURCE));
    assert!(ask(&table, from(3000), 12), "no copy");
    assert!(answer(&table, fresh(13, 4, from(3000)), 13).is_answer);
    table.set_floor(START + 100);
    let kept = hear(&table, fresh(14, 5, from(4000)), 14);
    assert_eq!((kept.change, kept.challenges), (RouteChange::Kept, SOURCE));
    assert!(!ask(&table, from(4000), 14), "it may be a copy of what was forgotten");
}

#[test]
fn r8_the_two_slots_are_asked_and_move_apart() {
    let table = table();
    hear(&table, fresh(0, 1, from(1000)), 0);
    hear(&table, fresh(400, 1, Way::Relayed(90)), 400);
    let doubtful = Sent { may_move: false, ..fresh(410, 2, Way::Relayed(91)) };
    let heard = hear(&table, doubtful, 410);
    assert_eq!((heard.change, heard.challenges), (RouteChange::Kept, SOURCE));
    assert!(ask(&table, Way::Relayed(91), 410));
    assert_eq!(table.contest(ID, at(410)).unwrap().unanswered, [0, 1]);
    let answered = answer(&table, fresh(411, 3, Way::Relayed(91)), 411);
    assert_eq!((answered.is_answer, answered.change, answered.release), (true, RouteChange::Moved, Release::Yes));
    let now = snapshot(&table);
    let relayed = now.relayed.unwrap();
    assert_eq!((relayed.through.relay, relayed.trust), (DeviceId(91), Trust::Verified));
    assert_eq!((port(&table), trust(&table)), (1000, Trust::Network), "the direct slot stays as it was");
    hear(&table, fresh(420, 4, from(1000)), 420);
    assert!(ask(&table, Way::Relayed(91), 425));
    let answered = answer(&table, fresh(426, 5, Way::Relayed(91)), 426);
    assert_eq!((answered.is_answer, answered.release), (true, Release::No), "it was heard directly");
}

#[test]
fn r5_a_device_that_its_relay_hears_advertise_answers_over_a_connection_from_where_it_is() {
    let table = table();
    let (advertised, connected) = (fresh(0, 1, Way::Relayed(90)), fresh(2, 2, Way::Relayed(90)));
    assert_ne!(advertised.path(), connected.path(), "two interfaces");
    hear(&table, advertised, 0);
    assert!(ask(&table, advertised.way, 1));
    assert_eq!(table.contest(ID, at(1)).unwrap().unanswered, [0, 0], "its route leads there");
    let cursor = snapshot(&table).cursor;
    let answered = answer(&table, connected, 2);
    assert_eq!((answered.is_answer, answered.change), (true, RouteChange::Refreshed));
    assert_eq!(table.moved_since(ID, cursor), Some(false));
}

#[test]
fn r6_single_tx_through_a_relay_means_another_thing() {
    let table = table();
    hear(&table, fresh(0, 1, Way::Relayed(90)), 0);
    let single = Sent { flags: Flags::SINGLE_TX, may_move: false, ..fresh(1, 2, Way::Relayed(91)) };
    assert_eq!(hear(&table, single, 1).challenges, SOURCE);
}

#[test]
fn r6_a_reboot_in_the_same_second_and_a_clock_set_back_are_asked_at_a_new_address() {
    for (behind, boots) in [(0, true), (100, false), (100, true)] {
        let table = table();
        for sequence in 100..=200 {
            hear(&table, fresh(u32::from(sequence), sequence, from(1000)), sequence.into());
        }
        let next = if boots { fresh(200 - behind, 0, from(2000)).boot() } else { fresh(201 - behind, 201, from(2000)) };
        let heard = hear(&table, next, 201);
        assert_eq!((heard.step, heard.change), (Step::Unproven, RouteChange::Kept), "{behind} s, {boots}");
        assert_eq!(heard.challenges, SOURCE);
        assert!(ask(&table, from(2000), 201));
        let sent = fresh(202 - behind, if boots { 1 } else { 202 }, from(2000));
        let answered = answer(&table, sent, 202);
        assert!(answered.is_answer && port(&table) == 2000, "{behind} s, {boots}");
    }
}

#[test]
fn r6_an_answer_at_network_level_verifies_where_the_policy_forbids_a_move() {
    let table = table();
    hear(&table, Sent { level: Level::Device, ..fresh(0, 1, from(1000)) }, 0);
    let doubtful = |second, sequence| Sent { may_move: false, ..fresh(second, sequence, from(2000)) };
    assert_eq!(hear(&table, doubtful(1, 2), 1).challenges, SOURCE);
    assert!(ask(&table, from(2000), 1));
    let answered = answer(&table, doubtful(2, 3), 2);
    assert_eq!((answered.change, answered.release), (RouteChange::Moved, Release::Yes));
    assert_eq!(hear(&table, doubtful(3, 4), 3).release, Release::Yes, "from the verified place");
}

#[test]
fn what_is_remembered_of_places_is_bounded_and_goes_with_the_device() {
    let table = RouteTable::new(&TableConfig { side_limit: 2, ..TableConfig::default() });
    for device in 1..4 {
        hear(&table, Sent { device, ..fresh(0, 1, from(1000)) }, 0);
    }
    let is_known = |device| table.contest(DeviceId(device), at(0)).is_some();
    assert_eq!([1, 2, 3].map(is_known), [false, true, true]);
    table.register(DeviceId(3), at(1));
    table.deregister(DeviceId(3));
    assert!(!is_known(3));
}
