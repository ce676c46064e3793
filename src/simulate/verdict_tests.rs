//! Tests of [`super`]: one thing is wrong in each case, and the report says so.

use super::*;
use crate::clock::Timestamp;
use crate::status::{Devices, Heard, Time, Waiting};

const DEVICE: DeviceId = DeviceId(1);
const OTHER: DeviceId = DeviceId(2);
const WITNESS: DeviceId = DeviceId(9);

/// What a gateway tells that has counted 1000 datagrams of three devices.
fn view() -> View {
    let time = Time(Timestamp(1_795_402_800_000));
    let status = GatewayStatus {
        version: "0.1.0".to_owned(),
        started_at: time,
        now: time,
        datagrams: [("accepted", 1000), ("duplicate", 7), ("bad_tag", 3)]
            .map(|(name, count)| (name.to_owned(), count))
            .into(),
        entries: BTreeMap::new(),
        kernel_drops: 5,
        route_moves: 0,
        acks_sent: 0,
        acks_failed: 0,
        degraded: BTreeMap::new(),
        devices: Devices {
            total: 3,
            unregistered: 0,
            heard: Heard { counted_at: time, within_5m: 3, within_1h: 3, within_24h: 3 },
        },
        waiters: Waiting { now: 0, woken: 0 },
        connections: 1,
        latest_moves: Vec::new(),
    };
    let position = |port| Position { address: Some(SocketAddr::from(([192, 0, 2, 1], port))), counted: 100 };
    View { status, devices: [(DEVICE, position(1)), (OTHER, position(2)), (WITNESS, position(9))].into() }
}

/// A replay of 10, all seen through, while the witness said one thing.
fn held() -> Seen {
    let mut after = view();
    *after.status.datagrams.get_mut("duplicate").unwrap() += 10;
    *after.status.datagrams.get_mut("accepted").unwrap() += 1;
    after.devices.get_mut(&WITNESS).unwrap().counted += 1;
    Seen {
        kind: Kind::Replay,
        sent: 10,
        unsent: 0,
        sent_bytes: 400,
        came: Came::default(),
        may_count: BTreeMap::new(),
        witness: WITNESS,
        views: Some((view(), after)),
    }
}

/// The report of what was seen, if `change` was seen, too.
fn report(change: impl FnOnce(&mut Seen)) -> String {
    let mut seen = held();
    change(&mut seen);
    let outcome = Outcome::of(&seen);
    let text = outcome.to_string();
    assert_eq!(outcome.held(), text.ends_with("\n  held"), "{text}");
    text
}

fn after(seen: &mut Seen) -> &mut View {
    &mut seen.views.as_mut().unwrap().1
}

fn count(seen: &mut Seen, name: &str, more: u64) {
    *after(seen).status.datagrams.entry(name.to_owned()).or_default() += more;
}

fn advance(seen: &mut Seen, device: DeviceId, more: u64) {
    after(seen).devices.get_mut(&device).unwrap().counted += more;
}

#[test]
fn what_was_seen_through_is_told_by_disposition_without_what_the_witness_said() {
    assert_eq!(report(|_| {}), "replay: 10 sent\n  counted as duplicate 10\n  held");
}

#[test]
fn a_recording_may_have_its_device_challenged_and_nothing_else_may() {
    let challenged = |seen: &mut Seen, count| (0..count).for_each(|_| seen.came.challenge(46));
    let expected =
        "replay: 10 sent\n  counted as duplicate 10\n  26 challenges, which only the devices could answer\n  held";
    assert_eq!(report(|seen| challenged(seen, 26)), expected);
    let text = report(|seen| challenged(seen, 27));
    assert!(text.contains("challenges of 1242 bytes came for the 400 that were sent"), "{text}");
    let at_home = report(|seen| (0..100).for_each(|_| seen.came.challenge(0)));
    assert!(at_home.contains("100 challenges, which only the devices could answer"), "{at_home}");
    for kind in [Kind::Reflection, Kind::BitFlips, Kind::UnknownIds] {
        let text = report(|seen| {
            seen.kind = kind;
            challenged(seen, 1);
        });
        assert!(text.contains("GOT THROUGH: 1 challenges came for what no device has sent"), "{text}");
    }
}

#[test]
fn everything_that_must_not_be_is_found() {
    for (change, finding) in [
        ((|seen| *seen.came.answers.entry(None).or_default() += 3) as fn(&mut Seen), "3 answers came back"),
        (|seen| *seen.came.answers.entry(Some(DEVICE)).or_default() += 1, "1 answers came back"),
        (
            |seen| after(seen).devices.get_mut(&DEVICE).unwrap().address = "192.0.2.7:7".parse().ok(),
            "the route of 0000000000000001 moved from 192.0.2.1:1 to 192.0.2.7:7",
        ),
        (
            |seen| after(seen).devices.get_mut(&DEVICE).unwrap().address = None,
            "the route of 0000000000000001 moved from 192.0.2.1:1 to a relay",
        ),
        (
            |seen| {
                after(seen).devices.insert(DeviceId(0xbad), Position { address: None, counted: 1 });
            },
            "forged device 0000000000000bad has a route",
        ),
        (|seen| advance(seen, DEVICE, 2), "0000000000000001 counted 2 packets though it said nothing"),
        (
            |seen| {
                after(seen).devices.remove(&OTHER);
            },
            "0000000000000002 was forgotten",
        ),
        (
            |seen| {
                count(seen, "duplicate", 0);
                *after(seen).status.datagrams.get_mut("duplicate").unwrap() -= 4;
                count(seen, "accepted", 4);
            },
            "4 datagrams were accepted",
        ),
        (
            |seen| after(seen).status.started_at = Time(Timestamp(1_795_402_800_001)),
            "the gateway was started again meanwhile",
        ),
    ] {
        let text = report(change);
        assert!(text.ends_with(&format!("\n  GOT THROUGH: {finding}")), "{finding}: {text}");
    }
}

#[test]
fn recordings_without_time_may_count_and_be_acknowledged_but_not_more_often_than_they_were_sent() {
    let again = |times: u64| {
        report(|seen| {
            seen.may_count.insert(DEVICE, 2);
            seen.came.answers.insert(Some(DEVICE), times);
            *after(seen).status.datagrams.get_mut("duplicate").unwrap() -= times;
            count(seen, "accepted", times);
            advance(seen, DEVICE, times);
        })
    };
    assert_eq!(
        again(2),
        "replay: 10 sent\n  counted as accepted 2, duplicate 8\n  2 recordings of packets without time counted again, \
         which moves nothing\n  2 answers to recordings of packets without time, which may count again\n  held"
    );
    let text = again(3);
    let findings =
        "0000000000000001 counted 1 packets though it said nothing; 1 answers came back; 1 datagrams were accepted";
    assert!(text.ends_with(findings), "{text}");
    // What was not counted again is not acknowledged either.
    let text = report(|seen| {
        seen.may_count.insert(DEVICE, 2);
        seen.came.answers.insert(Some(DEVICE), 1);
    });
    assert!(text.ends_with("GOT THROUGH: 1 answers came back"), "{text}");
}

#[test]
fn what_others_say_meanwhile_and_what_is_lost_is_told_and_is_no_finding() {
    let text = report(|seen| count(seen, "accepted", 20));
    assert!(text.contains("others spoke, too: 20 datagrams more than were sent") && text.ends_with("held"), "{text}");
    let text = report(|seen| {
        *after(seen).status.datagrams.get_mut("duplicate").unwrap() -= 4;
        after(seen).status.kernel_drops += 2;
        seen.unsent = 1;
    });
    assert!(text.contains("4 did not arrive, 2 of them dropped by a full receive buffer"), "{text}");
    assert!(text.contains("1 more could not be sent") && text.ends_with("held"), "{text}");
}

#[test]
fn what_was_accepted_while_something_was_lost_may_be_of_others() {
    let text = report(|seen| {
        *after(seen).status.datagrams.get_mut("duplicate").unwrap() -= 5;
        count(seen, "accepted", 3);
    });
    let told = "2 did not arrive, 0 of them dropped by a full receive buffer\n  3 datagrams were accepted, which may be \
                those of others\n  held";
    assert!(text.ends_with(told), "{text}");
}

#[test]
fn of_what_did_not_arrive_nothing_can_be_concluded() {
    let inconclusive = "INCONCLUSIVE: fewer than half of what was to be sent arrived";
    let arrived = |count: u64| report(|seen| *after(seen).status.datagrams.get_mut("duplicate").unwrap() -= 10 - count);
    assert!(arrived(5).ends_with("held"));
    assert!(arrived(4).ends_with(inconclusive));
    let blind = |sent, unsent| {
        report(|seen| {
            (seen.views, seen.sent, seen.unsent) = (None, sent, unsent);
        })
    };
    assert!(blind(5, 5).ends_with("held"));
    assert!(blind(4, 6).ends_with(inconclusive));
    assert!(blind(0, 0).ends_with(inconclusive));
    let found = report(|seen| {
        (seen.views, seen.unsent) = (None, 90);
        seen.came.answers.insert(None, 1);
    });
    assert!(found.ends_with("GOT THROUGH: 1 answers came back"), "{found}");
}

#[test]
fn without_an_api_answers_alone_decide() {
    let blind = |answers: u64, may: u64| {
        report(|seen| {
            seen.views = None;
            seen.came.answers.insert(Some(DEVICE), answers);
            seen.may_count.insert(DEVICE, may);
        })
    };
    let text = blind(0, 0);
    assert_eq!(text, "replay: 10 sent\n  without --gateway-api only answers are seen\n  held");
    assert!(blind(2, 2).ends_with("held"));
    assert!(blind(2, 1).ends_with("GOT THROUGH: 1 answers came back"));
}

#[test]
fn of_many_findings_a_few_are_named() {
    let text = report(|seen| {
        for id in 10..20 {
            after(seen).devices.insert(DeviceId(id), Position { address: None, counted: 1 });
        }
    });
    let named = "forged device 000000000000000c has a route; so for 7 more routes";
    assert!(text.ends_with(named), "{text}");
}

#[test]
fn kinds_are_named_each_once_and_in_their_order() {
    let kinds = |text: &str| text.parse::<Kinds>().map(|kinds| kinds.0);
    assert_eq!(kinds("all"), Ok(Kind::ALL.to_vec()));
    assert_eq!(kinds("unknown-ids,replay,unknown-ids"), Ok(vec![Kind::Replay, Kind::UnknownIds]));
    let error = kinds("replay,echo").unwrap_err();
    assert!(error.contains("replay, reflection, bit-flips, unknown-ids"), "{error}");
}
