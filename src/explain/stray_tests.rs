//! Devices that are heard from elsewhere than their route leads, and through relays.

use serde_json::json;

use super::tests::{NOW, RELAY, ago, counted, elsewhere, heard, here, says, sends};
use super::*;
use crate::metrics::Disposition;
use crate::table::contest::Asked;
use crate::table::route::{RelayedRoute, Relaying, Trust};
use crate::table::rules::{RouteChange, Step, TimeClass};
use crate::table::sending::Release;
use crate::wire::container::RouteInterface;
use crate::wire::frame::Level;

#[test]
fn a_route_that_is_kept_is_told_with_why_and_whom_was_asked() {
    let mut known = heard(10, 2, 60).kept(TimeClass::NoTime, Step::Unproven, 7200);
    known.contest.unanswered = [2, 0];
    known.contest.asked = vec![Asked { place: Place::Direct(elsewhere()), at: ago(5), answered: false }];
    let begin = "Heard 10 s ago from 198.51.100.2:9 (network level, without a clock yet), while its route leads to \
                 203.0.113.7:4433, heard 2 h ago: ";
    let why = "without a clock its packet may be a replay (R4.8)";
    let asked = ", and it was challenged 5 s ago without an answer (2 unanswered).";
    says(&known, Reason::Elsewhere, &format!("{begin}{why}{asked}"));
    assert_eq!(explain(&known).routes[0].unanswered, 2);
    known.contest.asked[0].answered = true;
    assert!(explain(&known).sentence.ends_with(", and it has answered a challenge (2 unanswered)."));
    known.contest = ContestView::default();
    assert!(explain(&known).sentence.ends_with("(R4.8), and it was not challenged of late."));
    known.last().single_tx = true;
    let cannot = "(R4.8), and it cannot be challenged, since it says that nothing follows.";
    assert!(explain(&known).sentence.ends_with(cannot));
}

#[test]
fn a_recording_from_elsewhere_keeps_no_dead_device_alive_and_makes_no_other_one_doubtful() {
    let recording = |known: Known, route_ago| known.kept(TimeClass::NoTime, Step::Unproven, route_ago);
    let clause = "; a packet of it came from 198.51.100.2:9 10 s ago (network level, without a clock yet) and moved nothing: \
                  without a clock its packet may be a replay (R4.8), and it was not challenged of late.";
    let dead = recording(heard(10, 1000, 60), 7200);
    let begin = "Not heard for 2 h, though it spoke about every ";
    let told = explain(&dead);
    assert_eq!((told.reason, told.cadence.unwrap().age_ms), (Reason::Overdue, 7_200_000));
    assert!(told.sentence.starts_with(begin) && told.sentence.ends_with(clause), "{}", told.sentence);
    let well = recording(heard(10, 100, 60), 50);
    let begin = "Heard 50 s ago from 203.0.113.7:4433 (trust device), about every 60 s on average: reachable, wakes again in \
                 about 10 s";
    says(&well, Reason::Sleeping, &format!("{begin}{clause}"));
    let remembered = well.heard_before([50]);
    assert!(
        explain(&remembered).sentence.contains("from 203.0.113.7:4433 (network level, fresh)"),
        "of its own packet"
    );
    let mut answered = heard(10, 100, 60).kept(TimeClass::Fresh, Step::SameSession, 5);
    assert_eq!(explain(&answered).reason, Reason::Sleeping, "an answer of a copy has moved the route since");
    answered.snapshot.as_mut().unwrap().direct = None;
    assert_eq!(explain(&answered).reason, Reason::Elsewhere);
}

#[test]
fn a_new_packet_from_elsewhere_is_the_device_unless_the_policy_or_a_crash_lets_it_prove_nothing() {
    let kept = heard(10, 1000, 60).kept(TimeClass::Fresh, Step::SameSession, 7200);
    assert_eq!((explain(&kept).reason, explain(&kept).cadence.unwrap().age_ms), (Reason::Elsewhere, 10_000));
    let strict = Known { policy: RoutePolicy::Strict, ..kept.clone() };
    assert_eq!(explain(&strict).reason, Reason::Overdue, "any member of the network can make it");
    let crashed = Known { floor: NOW.gps() + 60, ..kept.clone() };
    assert_eq!(explain(&crashed).reason, Reason::Overdue, "it may be a recording of what was forgotten");
    let long_ago = heard(10_800, 1000, 60).kept(TimeClass::Fresh, Step::SameSession, 20_000);
    assert_eq!(explain(&long_ago).reason, Reason::Overdue);
}

#[test]
fn why_a_route_is_kept_depends_on_the_packet_the_policy_and_a_crash() {
    let why = |known: &Known| {
        explain(known).sentence.split(": ").last().unwrap().split(", and it was").next().unwrap().to_owned()
    };
    let kept = |class, step| heard(10, 100, 60).kept(class, step, 7200);
    assert_eq!(why(&kept(TimeClass::Old, Step::Unproven)), "with a wrong clock its packet may be a replay (R4.8)");
    assert_eq!(why(&kept(TimeClass::Fresh, Step::Pending)), "nothing proves that its packet is no replay (R4)");
    let proved = kept(TimeClass::Fresh, Step::SameSession);
    assert_eq!(why(&proved), "its packet is no newer than what was counted before (R5)");
    let crashed = Known { floor: NOW.gps(), ..proved.clone() };
    assert_eq!(why(&crashed), "its packet may be one that the gateway has forgotten in a crash (R5)");
    let strict = Known { policy: RoutePolicy::Strict, ..proved };
    assert_eq!(why(&strict), "the policy is strict, so that a packet at network level moves nothing (R1)");
    let late = kept(TimeClass::Fresh, Step::Late);
    assert!(!explain(&late).sentence.contains("198.51.100.2"), "a late packet says nothing of where it is");
}

#[test]
fn a_late_packet_from_elsewhere_is_not_told_with_the_address_of_the_route() {
    let late = heard(10, 100, 60).kept(TimeClass::Fresh, Step::Late, 50);
    let told = "Heard 50 s ago from 203.0.113.7:4433 (trust device), about every 60 s on average: reachable, wakes again in about \
                10 s.";
    says(&late, Reason::Sleeping, told);
}

#[test]
fn a_device_that_only_a_relay_hears_is_told_with_it() {
    let mut known = heard(40, 100, 60);
    let through = Relaying {
        relay: RELAY,
        level: Level::Device,
        address: here(),
        sequence: 1,
        interface: RouteInterface::BtAdv,
        bt: None,
        rssi_dbm: -67,
    };
    let relayed = RelayedRoute { through, received_at: ago(40), sequence: 7, trust: Trust::Device };
    let snapshot = known.snapshot.as_mut().unwrap();
    (snapshot.relayed, snapshot.last_route) = (Some(relayed), Some(Route::Relayed(relayed)));
    snapshot.last_packet.as_mut().unwrap().relayed = true;
    let both = explain(&known);
    assert!(
        both.sentence
            .starts_with("Heard 40 s ago through relay 51a0000100000000 (bt_adv, -67 dBm) (device level, fresh)")
    );
    let relays: Vec<_> = both.routes.iter().map(|route| route.place.relay).collect();
    assert_eq!(relays, [Some(RELAY), None]);
    let own = "; what is sent goes to its own address, 203.0.113.7:4433, where it was heard 40 s ago.";
    assert!(both.sentence.ends_with(own), "{}", both.sentence);
    known.snapshot.as_mut().unwrap().direct = None;
    known.send = Some(sends(Route::Relayed(relayed)));
    let only = explain(&known);
    assert!(only.sentence.starts_with("Heard 40 s ago only through relay 51a0000100000000 (bt_adv, -67 dBm)"));
    let place = json!({"relay": "51a0000100000000", "interface": "bt_adv"});
    assert_eq!(serde_json::to_value(&only.routes[0].place).unwrap(), place);
    assert_eq!(only.routes[0].rssi, Some(-67));
    let proved: Vec<_> = both.routes.iter().map(|route| route.proved).collect();
    assert_eq!(proved, [false, true]);
    known.told_relays = Some(HashSet::from([RELAY]));
    assert_eq!(explain(&known), only, "of the organisation that asks");
    known.told_relays = Some(HashSet::new());
    let told = explain(&known);
    assert!(told.sentence.starts_with("Heard 40 s ago only through a relay of another organisation (bt_adv, -67 dBm)"));
    assert_eq!((told.routes[0].place.relay, &told.packets[0].source), (None, &None));
    assert!(told.packets[0].is_relayed && !serde_json::to_string(&told).unwrap().contains(&RELAY.to_string()));
}

#[test]
fn nothing_of_another_organisations_relay_is_told() {
    let mut known = heard(40, 100, 60).kept(TimeClass::NoTime, Step::Unproven, 50);
    known.last().relayed = true;
    known = known.decided(Decision::Foreign, 5).decided(counted(RouteChange::Kept, Release::No), 40);
    known = known.claimed(Disposition::BadTag, &[10]);
    (known.packets[0].sequence, known.packets[0].gps_time) = (7, known.last().gps_time);
    for packet in &mut known.packets {
        packet.relay = Some(RELAY);
    }
    known.claims[0].relay = Some(RELAY);
    let place = Place::Relayed { relay: RELAY, bt: None };
    known.contest.asked = vec![Asked { place, at: ago(5), answered: false }];
    assert_eq!(known.relays(), HashSet::from([RELAY]));
    let all = explain(&known);
    let sentence = "Heard 50 s ago from 203.0.113.7:4433 (trust device), about every 60 s on average: reachable, wakes again in \
                    about 10 s; a packet of it came through relay 51a0000100000000 40 s ago (network level, without a clock yet) \
                    and moved nothing: without a clock its packet may be a replay (R4.8), and it was challenged 5 s ago without \
                    an answer; an authentic packet of it came through relay 51a0000100000000 5 s ago and was refused: it belongs \
                    to another organisation than its network or its relay (R8); 1 packet that claims to be it came through relay \
                    51a0000100000000 at 12:09 UTC with a bad tag.";
    assert_eq!(all.sentence, sentence);
    assert_eq!((all.claims[0].relay, all.claims[0].is_relayed, all.claims[0].sources.len()), (Some(RELAY), true, 1));
    known.told_relays = Some(HashSet::new());
    let told = serde_json::to_string(&explain(&known)).unwrap();
    assert!(!told.contains(&RELAY.to_string()) && !told.contains("198.51.100.2"), "{told}");
    assert_eq!(told.matches("through a relay of another organisation").count(), 3);
    known.packets.clear();
    assert!(explain(&known).sentence.contains("; a packet of it came through a relay 40 s ago"), "after a restart");
    known.told_relays = None;
    assert!(explain(&known).sentence.contains("; a packet of it came through a relay at 198.51.100.2:9 40 s ago"));
}
