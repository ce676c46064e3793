//! Each situation, its sentence, and what the evidence has besides.

use std::net::SocketAddr;

use serde_json::json;

use super::*;
use crate::health::Part;
use crate::id::Cursor;
use crate::metrics::Disposition;
use crate::table::contest::{Asked, Place};
use crate::table::route::{DirectRoute, Trust};
use crate::table::rules::{RouteChange, Step, TimeClass};
use crate::table::sending::{Release, Via};
use crate::wire::frame::{Level, PacketType};

const DEVICE: DeviceId = DeviceId(0xd291_d4d6_6bf0_a955);
pub(super) const RELAY: DeviceId = DeviceId(0x51a0_0001_0000_0000);
/// 2026-11-23T12:10:00Z
pub(super) const NOW: Timestamp = Timestamp(1_795_435_800_000);

pub(super) fn ago(seconds: u64) -> Timestamp {
    Timestamp(NOW.0 - seconds * 1000)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn here() -> SocketAddr {
    address("203.0.113.7:4433")
}

pub(super) fn elsewhere() -> SocketAddr {
    address("198.51.100.2:9")
}

/// A device of which nothing was ever heard.
pub(super) fn silent() -> Known {
    Known {
        device_id: DEVICE,
        now: NOW,
        registered_since: Some(ago(172_800)),
        policy: RoutePolicy::Newest,
        snapshot: None,
        send: None,
        floor: 0,
        contest: ContestView::default(),
        packets: Vec::new(),
        claims: Vec::new(),
        key: KeyState { is_known: true, ..KeyState::default() },
        waiting: 0,
        troubles: BTreeMap::new(),
        told_relays: None,
    }
}

/// A device that was heard so long ago, so many times, every so many seconds, and all is well with it.
pub(super) fn heard(seconds_ago: u64, count: u64, every: u64) -> Known {
    let (last, first) = (ago(seconds_ago), ago(seconds_ago + (count - 1) * every));
    let direct = DirectRoute { address: here(), received_at: last, sequence: 7, trust: Trust::Device };
    let last_packet = LastPacket {
        packet_type: PacketType::TDF,
        level: Level::Device,
        sequence: 7,
        gps_time: last.gps(),
        received_at: last,
        class: TimeClass::Fresh,
        proved: true,
        step: Step::SameSession,
        source: here(),
        relayed: false,
        on_route: true,
        always_rx: false,
        single_tx: false,
    };
    let snapshot = Snapshot {
        device_id: DEVICE,
        cursor: Cursor { epoch: 1, n: count },
        registered: true,
        first_packet_at: Some(first),
        last_packet: Some(last_packet),
        last_route: Some(Route::Direct(direct)),
        direct: Some(direct),
        relayed: None,
        proved: [true, false],
        application: None,
    };
    Known { snapshot: Some(snapshot), send: Some(sends(Route::Direct(direct))), ..silent() }
}

/// What is sent goes there.
pub(super) fn sends(route: Route) -> SendRoute {
    SendRoute {
        route,
        via: Via::UNKNOWN,
        network: 1,
        largest: 0,
        always_rx: false,
        single_tx: false,
        heard_at: route.received_at(),
        proved: true,
        cursor: Cursor { epoch: 1, n: 1 },
    }
}

pub(super) fn counted(change: RouteChange, release: Release) -> Decision {
    Decision::Counted { step: Step::SameSession, change, is_answer: false, release }
}

impl Known {
    pub(super) fn last(&mut self) -> &mut LastPacket {
        self.snapshot.as_mut().unwrap().last_packet.as_mut().unwrap()
    }

    /// Its last packet came from elsewhere, at network level, and did not move the route, which was heard so long ago.
    pub(super) fn kept(mut self, class: TimeClass, step: Step, route_ago: u64) -> Self {
        let last = self.last();
        *last = LastPacket {
            level: Level::Network,
            class,
            step,
            proved: step.proved(),
            source: elsewhere(),
            on_route: false,
            ..*last
        };
        let direct = DirectRoute { received_at: ago(route_ago), ..self.snapshot.unwrap().direct.unwrap() };
        let snapshot = self.snapshot.as_mut().unwrap();
        (snapshot.direct, snapshot.last_route) = (Some(direct), Some(Route::Direct(direct)));
        self.send = Some(sends(Route::Direct(direct)));
        self
    }

    /// Ingest remembers that it was heard then.
    pub(super) fn heard_before(mut self, seconds_ago: impl IntoIterator<Item = u64>) -> Self {
        for seconds in seconds_ago {
            self = self.decided(counted(RouteChange::Refreshed, Release::Yes), seconds);
        }
        self.packets.sort_by_key(|packet| std::cmp::Reverse(packet.at));
        self
    }

    pub(super) fn claimed(mut self, disposition: Disposition, seconds_ago: &[u64]) -> Self {
        let level = if disposition == Disposition::UnknownNetwork { Level::Network } else { Level::Device };
        self.claims.extend(seconds_ago.iter().map(|seconds| RefusedClaim {
            device: DEVICE,
            at: ago(*seconds),
            source: elsewhere(),
            relay: None,
            level,
            key_id: KeyId::new(0x1234).unwrap(),
            disposition,
        }));
        self
    }

    pub(super) fn decided(mut self, decision: Decision, seconds_ago: u64) -> Self {
        let packet = Decided {
            device: DEVICE,
            at: ago(seconds_ago),
            source: elsewhere(),
            relay: None,
            level: Level::Network,
            packet_type: PacketType::TDF,
            class: TimeClass::Fresh,
            sequence: 8,
            gps_time: 1,
            decision,
        };
        self.packets.insert(0, packet);
        self
    }
}

#[track_caller]
pub(super) fn says(known: &Known, reason: Reason, sentence: &str) {
    let explanation = explain(known);
    assert_eq!(explanation.sentence, sentence);
    assert_eq!((explanation.reason, explanation.reachable), (reason, reason.reachable()));
}

#[test]
fn a_device_that_speaks_as_usual_is_reachable_when_it_wakes_or_at_once() {
    let mut known = heard(40, 100, 60);
    let begin = "Heard 40 s ago from 203.0.113.7:4433 (device level, fresh), about every 60 s on average: reachable";
    says(&known, Reason::Sleeping, &format!("{begin}, wakes again in about 20 s."));
    known.send.as_mut().unwrap().always_rx = true;
    says(&known, Reason::Listening, &format!("{begin}, it listens all the time."));
    assert_eq!(explain(&known).reachable, Reachable::Yes);
    let late = "Heard 100 s ago from 203.0.113.7:4433 (device level, fresh), about every 60 s on average: reachable, due to \
                wake again.";
    says(&heard(100, 100, 60), Reason::Sleeping, late);
}

#[test]
fn an_answered_challenge_and_what_waits_are_told() {
    let mut known = heard(40, 100, 60);
    let direct = DirectRoute { trust: Trust::Verified, ..known.snapshot.unwrap().direct.unwrap() };
    known.snapshot.as_mut().unwrap().last_route = Some(Route::Direct(direct));
    known.waiting = 3;
    let sentence = "Heard 40 s ago from 203.0.113.7:4433 (device level, fresh, verified), about every 60 s on average: reachable, \
                    wakes again in about 20 s; 3 messages wait for it.";
    says(&known, Reason::Sleeping, sentence);
    assert_eq!(explain(&known).messages_waiting, 3);
    known.waiting = 1;
    assert!(explain(&known).sentence.ends_with("; 1 message waits for it."));
}

#[test]
fn a_device_is_overdue_after_three_of_its_usual_silences_and_a_minute() {
    let overdue = "Not heard for 3 h, though it spoke about every 10 min on average, last from 203.0.113.7:4433: probably off or \
                   out of reach.";
    says(&heard(10_800, 100, 600), Reason::Overdue, overdue);
    let reason = |seconds, every| explain(&heard(seconds, 100, every)).reason;
    assert_eq!([reason(1800, 600), reason(1801, 600)], [Reason::Sleeping, Reason::Overdue]);
    assert_eq!([reason(60, 1), reason(61, 1)], [Reason::Sleeping, Reason::Overdue]);
}

#[test]
fn two_packets_say_nothing_of_the_next_and_neither_do_those_of_a_boot() {
    let once = heard(400, 1, 0);
    let little = "Heard 7 min ago from 203.0.113.7:4433 (device level, fresh), and only once: too little to say whether it can be \
                  reached.";
    says(&once, Reason::LittleKnown, little);
    assert_eq!(explain(&once).cadence.unwrap().average_ms, None);
    assert!(explain(&heard(400, 2, 60)).sentence.contains("and only twice"));
    let boot = heard(3000, 3, 2);
    assert!(explain(&boot).sentence.contains("and only in its first 30 s"));
    assert_eq!((explain(&boot).reason, explain(&boot).cadence.unwrap().average_ms), (Reason::LittleKnown, Some(2000)));
    assert_eq!(explain(&heard(3000, 3, 15)).reason, Reason::Overdue, "known for 30 s");
    let just_now = "Heard 5 s ago from 203.0.113.7:4433 (device level, fresh): reachable, once it speaks again: it is known for \
                    too short to say when.";
    says(&heard(5, 2, 2), Reason::Sleeping, just_now);
}

#[test]
fn a_device_that_was_never_heard_is_told_with_whatever_claims_to_be_it() {
    says(
        &Known { registered_since: None, ..silent() },
        Reason::NeverHeard,
        "Never heard, as far as is remembered; nothing claims to be it of late.",
    );
    let never = "Never heard, as far as is remembered, though registered for 2 days; nothing claims to be it of late.";
    says(&silent(), Reason::NeverHeard, never);
    for (disposition, words) in [
        (Disposition::BadTag, "with a bad tag"),
        (Disposition::UnknownNetwork, "under network 0x001234, whose key is not known"),
        (Disposition::UnknownDevice, "under device key 0x001234, and no key is known for it"),
        (Disposition::UnknownKey, "under device key 0x001234, which is not known"),
        (Disposition::DayLimited, "for a day that is neither near today nor that of a device without a clock"),
        (Disposition::BadVersion, "and ended in bad_version"),
    ] {
        let sentence = format!(
            "Never heard, as far as is remembered, though registered for 2 days; 2 packets that claim to be it came from \
             198.51.100.2 since 12:04 UTC {words}."
        );
        says(&silent().claimed(disposition, &[60, 360]), Reason::NeverHeard, &sentence);
    }
}

#[test]
fn what_nobody_has_proved_is_told_and_decides_nothing() {
    let well = heard(40, 100, 60).claimed(Disposition::BadTag, &[10]);
    let words = "; 1 packet that claims to be it came from 198.51.100.2 at 12:09 UTC with a bad tag.";
    assert!(explain(&well).sentence.ends_with(words));
    assert_eq!(explain(&well).reason, Reason::Sleeping);
    let gone = heard(10_800, 100, 600).claimed(Disposition::UnknownKey, &[10, 9000]);
    let told = explain(&gone);
    let words = "; 2 packets that claim to be it came from 198.51.100.2 since 09:40 UTC under device key 0x001234, which is not \
                 known.";
    assert!(told.sentence.ends_with(words), "{}", told.sentence);
    assert_eq!(told.reason, Reason::Overdue);
    let old = heard(40, 100, 60).claimed(Disposition::BadTag, &[4000]);
    let told = explain(&old);
    assert!(!told.sentence.contains("claim"), "no news: {}", told.sentence);
    assert_eq!(told.claims.len(), 1);
    let flood = vec![10; LOOKED_FOR];
    let told = explain(&heard(40, 100, 60).claimed(Disposition::BadTag, &flood)).sentence;
    assert!(told.contains("; at least 256 packets that claim to be it"), "{told}");
}

#[test]
fn claims_are_put_together_by_reason_and_key() {
    let mut known = silent().claimed(Disposition::BadTag, &[10, 20, 30]).claimed(Disposition::UnknownKey, &[15]);
    known.claims[2].source = address("198.51.100.3:1");
    for port in 100..110 {
        known.claims.push(RefusedClaim {
            source: SocketAddr::from(([192, 0, 2, 1], port)),
            at: ago(60),
            ..known.claims[3]
        });
    }
    let told = explain(&known).claims;
    assert_eq!(told.len(), 2);
    let expected = json!({"result": "bad_tag", "level": "device", "keyId": 0x1234, "count": 3,
        "firstTime": "2026-11-23T12:09:30.000Z", "lastTime": "2026-11-23T12:09:50.000Z",
        "isRelayed": false, "sources": ["198.51.100.2:9", "198.51.100.3:1"], "moreSources": 0});
    assert_eq!(serde_json::to_value(&told[0]).unwrap(), expected);
    assert_eq!((told[1].count, told[1].sources.len(), told[1].more_sources), (11, 8, 3));
}

#[test]
fn two_places_in_contest_are_both_named() {
    let mut known = heard(2, 100, 60);
    known.contest.contested = Some([Place::Direct(here()), Place::Direct(elsewhere())]);
    known.contest.asked = vec![Asked { place: Place::Direct(elsewhere()), at: ago(1), answered: false }];
    let sentence = "Heard 2 s ago, but its packets come from two places within seconds, 203.0.113.7:4433 and 198.51.100.2:9: both \
                    are challenged, and the first answer decides.";
    says(&known, Reason::Contested, sentence);
    let told = serde_json::to_value(explain(&known)).unwrap();
    assert_eq!(told["contested"], json!([{"address": "203.0.113.7:4433"}, {"address": "198.51.100.2:9"}]));
    let challenge =
        json!({"place": {"address": "198.51.100.2:9"}, "time": "2026-11-23T12:09:59.000Z", "answered": false});
    assert_eq!(told["challenges"], json!([challenge]));
}

#[test]
fn a_device_that_listens_is_reached_at_once_for_as_long_as_a_nat_stays_open() {
    let listens = |seconds| {
        let mut known = heard(seconds, 100, 600);
        known.send.as_mut().unwrap().always_rx = true;
        known
    };
    assert_eq!((explain(&listens(300)).reason, explain(&listens(300)).reachable), (Reason::Listening, Reachable::Yes));
    let told = "Heard 6 min ago from 203.0.113.7:4433 (device level, fresh), about every 10 min on average: reachable, wakes again \
                in about 4 min, and listens all the time, but a NAT on the way may have closed meanwhile.";
    says(&listens(360), Reason::Sleeping, told);
}

#[test]
fn packets_of_one_wake_are_one_and_a_device_is_overdue_by_its_longest_silence() {
    // Ten packets an hour, within a minute.
    let burst = |hour: u64| (0..10).map(move |packet| 3000 + hour * 3600 + packet * 6);
    let known = heard(3000, 100, 360).heard_before((0..3).flat_map(burst));
    let told = explain(&known);
    assert_eq!(told.reason, Reason::Sleeping, "though silent for far more than three times the average");
    assert!(
        told.sentence.contains(", about every 59 min on average: reachable, wakes again in about 9 min."),
        "{}",
        told.sentence
    );
    let cadence = told.cadence.unwrap();
    assert_eq!(
        [cadence.average_ms, cadence.usual_ms, cadence.longest_ms],
        [Some(360_000), Some(3_546_000), Some(3_546_000)]
    );
    let reason = |known: Known| explain(&known).reason;
    let slower = |seconds| heard(seconds, 10_000, 10).heard_before([seconds, seconds + 3600, seconds + 7200]);
    assert_eq!([10_800, 10_801].map(|seconds| reason(slower(seconds))), [Reason::Sleeping, Reason::Overdue]);
    // Something was lost now and then of what comes every 5 s: that is not how often it speaks.
    let lossy =
        heard(4, 1000, 5).heard_before((0..100).map(|packet| 4 + packet * 5).filter(|seconds| *seconds % 200 != 9));
    assert!(explain(&lossy).sentence.contains(", about every 5 s on average"), "{}", explain(&lossy).sentence);
    // Recordings from elsewhere fill no silence.
    let mut filled = slower(10_000);
    for seconds in (10_000..17_000).step_by(100) {
        filled = filled.decided(counted(RouteChange::Kept, Release::No), seconds);
    }
    filled.packets.sort_by_key(|packet| std::cmp::Reverse(packet.at));
    assert_eq!(reason(filled), Reason::Sleeping);
}

#[test]
fn a_wrong_clock_is_told_with_how_far_it_is_off_and_what_follows() {
    let mut known = heard(40, 100, 60);
    for (class, off, words) in [
        (TimeClass::Old, -7200, "its clock 2 h behind"),
        (TimeClass::Future, 3600, "its clock 60 min ahead"),
        (TimeClass::NoTime, 0, "without a clock yet"),
    ] {
        let last = known.last();
        *last = LastPacket {
            class,
            step: Step::Unproven,
            proved: false,
            gps_time: last.received_at.gps().wrapping_add_signed(off),
            ..*last
        };
        let told = explain(&known).sentence;
        assert!(told.contains(&format!("(device level, {words})")), "{told}");
    }
}

#[test]
fn what_waits_is_told_to_leave_later_where_the_last_packet_could_not_release_it() {
    let released = |release, class| {
        let mut known = heard(40, 100, 60).decided(counted(RouteChange::Refreshed, release), 40);
        (known.packets[0].sequence, known.last().class) = (7, class);
        explain(&known).sentence
    };
    let waits = "; what waits for it leaves once it has answered a challenge, since its";
    assert!(released(Release::Challenge, TimeClass::NoTime).ends_with(&format!("{waits} time proves nothing (R7).")));
    let too_little = released(Release::Challenge, TimeClass::Fresh);
    assert!(too_little.ends_with(&format!("{waits} packet proves too little (R7).")), "{too_little}");
    assert!(!released(Release::Yes, TimeClass::NoTime).contains("challenge"), "SINGLE_TX at the current address");
}

#[test]
fn authentic_packets_that_are_refused_for_whose_they_are_are_the_reason() {
    let foreign = silent().decided(Decision::Foreign, 20);
    let begin = "Nothing of it was counted, as far as is remembered, though registered for 2 days; an authentic packet of it \
                 came from 198.51.100.2:9 20 s ago and was refused: ";
    let why = "it belongs to another organisation than its network or its relay (R8).";
    says(&foreign, Reason::Refused, &format!("{begin}{why}"));
    let denied = heard(3600, 100, 60).decided(Decision::NotRegistered, 20);
    let why = "it is not registered, and this gateway serves registered devices only (R9).";
    assert!(explain(&denied).sentence.ends_with(why));
    assert_eq!(explain(&denied).reason, Reason::Refused);
    let before = heard(10, 100, 60).decided(Decision::Foreign, 20);
    assert_eq!(explain(&before).reason, Reason::Sleeping, "it was counted since");
    assert!(!explain(&before).sentence.contains("R8"));
}

#[test]
fn a_foreign_packet_makes_no_device_unreachable_that_speaks_as_usual() {
    let copy = Decision::Refused { step: Step::BitSet, is_answer: false };
    let known = heard(40, 100, 60).decided(Decision::Foreign, 20).decided(copy, 10);
    let told = explain(&known);
    assert_eq!((told.reason, told.reachable), (Reason::Sleeping, Reachable::Asleep));
    let clause = "; an authentic packet of it came from 198.51.100.2:9 20 s ago and was refused: it belongs to another \
                  organisation than its network or its relay (R8).";
    assert!(told.sentence.ends_with(clause), "{}", told.sentence);
    assert_eq!(explain(&heard(400, 1, 0).decided(Decision::Foreign, 20)).reason, Reason::LittleKnown);
}

#[test]
fn an_overdue_device_whose_packets_look_old_may_have_a_clock_that_went_back() {
    let refused = Decision::Refused { step: Step::TooOld, is_answer: false };
    let known = heard(10_800, 100, 600).decided(refused, 20);
    let words = "; authentic packets of it from 198.51.100.2:9 look older than what was counted (R4.7): its clock went back, or \
                 somebody replays them.";
    assert!(explain(&known).sentence.ends_with(words));
    assert_eq!(explain(&known).reason, Reason::Overdue, "it may be a replay");
    assert!(!explain(&heard(40, 100, 60).decided(refused, 20)).sentence.contains("R4.7"));
}

#[test]
fn a_key_that_is_named_asked_about_or_held_is_told() {
    let mut known = heard(40, 100, 60);
    let key_id = KeyId::new(0x1234);
    let end = |known: &Known| explain(known).sentence.split_once("; ").unwrap().1.to_owned();
    known.key = KeyState { named: key_id.zip(Some(ago(9))), ..known.key };
    assert_eq!(end(&known), "it names device key 0x001234, which is not known, and was not asked for its keys yet.");
    known.waiting = 1;
    let stays = "and was not asked for its keys yet: what waits for it under its own key stays until that is settled (R12); 1 message";
    assert!(end(&known).contains(stays), "{}", end(&known));
    known.waiting = 0;
    known.key.asked_at = Some(ago(8));
    let asked =
        "it names device key 0x001234, which is not known, and was asked for its keys 8 s ago and has not answered.";
    assert_eq!(end(&known), asked);
    known.key.named = None;
    assert_eq!(end(&known), "it was asked for its keys 8 s ago and has not answered.");
    known.key.held = key_id;
    assert_eq!(end(&known), "its new device key 0x001234 waits until somebody confirms it.");
    let told = serde_json::to_value(explain(&known).key).unwrap();
    assert_eq!(
        told,
        json!({"known": true, "askedTime": "2026-11-23T12:09:52.000Z", "answered": false, "heldKeyId": 0x1234})
    );
    known.key = KeyState { asked_at: Some(ago(8)), is_answered: true, ..KeyState::default() };
    assert!(!explain(&known).sentence.contains("asked"));
}

#[test]
fn trouble_of_the_gateway_itself_is_told() {
    let mut known = heard(40, 100, 60);
    known.troubles.insert(Part::Clock, "the system's clock is an hour ahead.".to_owned());
    let told = explain(&known);
    assert!(
        told.sentence.ends_with("; the gateway itself is in trouble (clock: the system's clock is an hour ahead).")
    );
    assert_eq!(told.degraded["clock"], "the system's clock is an hour ahead.");
}

#[test]
fn packets_are_told_with_their_rules_and_the_last_that_counted_is_never_forgotten() {
    let counted = Decision::Counted {
        step: Step::SameSession,
        change: RouteChange::Moved,
        is_answer: true,
        release: Release::Yes,
    };
    let copy = Decision::Refused { step: Step::BitSet, is_answer: false };
    let known = heard(600, 100, 600).decided(counted, 700).decided(copy, 500);
    let told: Vec<_> =
        explain(&known).packets.into_iter().map(|packet| (packet.result, packet.rule, packet.route)).collect();
    let told: Vec<_> =
        told.iter().map(|(result, rule, route)| (result.as_str(), rule.as_str(), route.as_deref())).collect();
    let expected = [
        ("duplicate", "R4.4 bit set", None),
        ("accepted", "R4.2 same session", None),
        ("accepted", "R4.2 same session", Some("moved")),
    ];
    assert_eq!(told, expected);
    let mut remembered = heard(600, 100, 600).decided(counted, 600);
    let last = *remembered.last();
    (remembered.packets[0].sequence, remembered.packets[0].gps_time) = (last.sequence, last.gps_time);
    assert_eq!(explain(&remembered).packets.len(), 1, "told once");
}

#[test]
fn a_flood_of_copies_leaves_room_for_what_was_counted() {
    let counted = counted(RouteChange::Refreshed, Release::Yes);
    let copy = Decision::Refused { step: Step::BitSet, is_answer: false };
    let mut known = heard(3600, 100, 3600);
    for seconds in (0..40).rev() {
        known = known.decided(counted, 1000 + seconds);
    }
    for seconds in (0..100).rev() {
        known = known.decided(copy, seconds);
    }
    let told = explain(&known).packets;
    let accepted = told.iter().filter(|packet| packet.result == "accepted").count();
    assert_eq!((told.len(), accepted), (33, 17));
    assert!(told.is_sorted_by_key(|packet| std::cmp::Reverse(packet.received_at)));
}

#[test]
fn an_explanation_is_read_back_as_it_was_written() {
    let mut known = heard(10, 100, 60).kept(TimeClass::NoTime, Step::Unproven, 50).claimed(Disposition::BadTag, &[10]);
    known.contest.contested = Some([Place::Direct(here()), Place::Direct(elsewhere())]);
    known.key.named = KeyId::new(7).zip(Some(NOW));
    let told = explain(&known);
    let text = serde_json::to_string(&told).unwrap();
    assert!(!text.contains("null"), "{text}");
    assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), told);
}

#[test]
fn what_came_before_a_device_was_registered_is_forgotten_and_what_came_since_is_told() {
    let mut known = heard(40, 100, 60).decided(Decision::Foreign, 30).decided(Decision::Foreign, 20);
    known = known.claimed(Disposition::BadTag, &[20, 30]);
    let asked = |seconds| Asked { place: Place::Direct(elsewhere()), at: ago(seconds), answered: false };
    known.contest.asked = vec![asked(20), asked(30)];
    known.key =
        KeyState { named: KeyId::new(7).zip(Some(ago(20))), asked_at: Some(ago(20)), is_answered: true, ..known.key };
    let counts = |known: &Known| (known.packets.len(), known.claims.len(), known.contest.asked.len());
    known.forget_before(ago(20));
    assert_eq!((counts(&known), known.key.named.is_some(), known.key.asked_at), ((1, 1, 1), true, Some(ago(20))));
    known.forget_before(ago(19));
    assert_eq!(counts(&known), (0, 0, 0));
    assert_eq!(known.key, KeyState { is_known: true, ..KeyState::default() });
}

#[test]
fn nothing_is_known_of_a_device_that_nobody_names() {
    let nobody = Known { registered_since: None, ..silent() };
    assert!(!nobody.is_anything() && silent().is_anything() && heard(1, 1, 1).is_anything());
    assert!(nobody.clone().claimed(Disposition::BadTag, &[1]).is_anything());
    assert!(nobody.decided(Decision::NotRegistered, 1).is_anything());
}
