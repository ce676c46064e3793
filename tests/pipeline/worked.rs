//! The cases that must hold (rules R3 to R8, R10): a device with real keys, a clock and an address, and whoever recorded it.

use lastroute::ingest::trace::Decision;
use lastroute::table::rules::{RouteChange, Step};
use lastroute::table::sending::Release;

use super::device::{Device, World, address, counted, refused};
use super::downlinks::{intent, open, payloads};
use super::*;

use RouteChange::{First, Kept, Moved, Refreshed};
use Step::{BitSet, Late, NewSession, Pending, SameSession, TooOld, Unproven};

/// Two of each in turn.
fn at_home() -> Device {
    Device::new(Level::Network, home())
}

/// A world in which the device has spoken `times` times.
fn heard(device: &mut Device, times: usize) -> World {
    let mut world = World::default();
    for _ in 0..times {
        world.say(device);
    }
    world
}

#[test]
fn r4_2_a_session_that_is_an_hour_old_goes_on_wherever_the_device_is() {
    let mut device = at_home();
    let mut world = heard(&mut device, 3);
    world.pass(3600);
    assert_eq!(world.say(&mut device), counted(SameSession, Refreshed));
    world.pass(3600);
    device.source = elsewhere();
    assert_eq!((world.say(&mut device), world.route()), (counted(SameSession, Moved), elsewhere()));
}

#[test]
fn r4_3_a_device_that_boots_with_time_after_three_packets_is_believed_at_once() {
    let mut device = at_home();
    let mut world = heard(&mut device, 3);
    world.pass(2);
    device.source = elsewhere();
    assert_eq!(world.boot(&mut device), counted(NewSession, Moved));
    for _ in 0..5 {
        assert_eq!(world.say(&mut device), counted(SameSession, Refreshed));
    }
    assert_eq!(world.route(), elsewhere());
}

#[test]
fn r4_6_a_device_that_boots_in_the_second_of_its_last_packet_counts_and_is_proved_a_second_later() {
    let (mut world, mut device) = (World::default(), at_home());
    world.boot(&mut device);
    for _ in 0..3 {
        world.say(&mut device);
    }
    assert_eq!(world.boot(&mut device), counted(Unproven, Refreshed));
    for _ in 0..3 {
        assert_eq!(world.say(&mut device), counted(Pending, Refreshed));
    }
    world.pass(1);
    assert_eq!(world.say(&mut device), counted(NewSession, Refreshed));
}

#[test]
fn r4_8_a_clock_set_back_100_s_costs_nothing_but_the_proof() {
    for reboots in [false, true] {
        let (mut world, mut device) = (World::default(), at_home());
        world.boot(&mut device);
        world.pass(200);
        world.say(&mut device);
        device.clock = Some(-100);
        if reboots {
            assert_eq!(world.boot(&mut device), counted(Unproven, Refreshed));
        }
        for _ in 0..3 {
            let decision = world.say(&mut device);
            let Decision::Counted { step: Unproven | Pending, change: Refreshed, .. } = decision else {
                panic!("{decision:?}")
            };
        }
        world.pass(101);
        let step = if reboots { NewSession } else { SameSession };
        assert_eq!(world.say(&mut device), counted(step, Refreshed));
    }
}

#[test]
fn r4_7_a_packet_of_the_former_session_that_arrives_after_the_first_of_the_new_one_is_too_old() {
    let mut device = at_home();
    let mut world = heard(&mut device, 3);
    let delayed = device.packet(PacketType::TDF, &[], world.now());
    world.pass(2);
    assert_eq!(world.boot(&mut device), counted(NewSession, Refreshed));
    assert_eq!(world.shout(delayed, &device).0, refused(TooOld));
}

#[test]
fn r4_8_a_device_that_boots_without_time_ten_times_counts_each_time_at_its_address() {
    let mut device = Device::without_time(home());
    let mut world = World::default();
    for times in 1..=10 {
        let boot = device.boot(world.now());
        let change = if times == 1 { First } else { Refreshed };
        assert_eq!(world.shout(boot, &device).0, counted(Unproven, change), "{times}");
        assert_eq!(world.gateway.core.table.cursor(DEVICE).n, times);
        world.pass(1);
    }
}

#[test]
fn r6_a_device_that_boots_without_time_at_a_new_address_each_time_counts_and_is_challenged_at_each() {
    let mut device = Device::without_time(home());
    let mut world = World::default();
    for number in 0..10 {
        device.source = address(number);
        let boot = device.boot(world.now());
        let change = if number == 0 { First } else { Kept };
        assert_eq!(world.shout(boot, &device).0, counted(Unproven, change), "{number}");
        world.pass(1);
    }
    assert_eq!((world.route(), world.echoes()), (address(0), 7), "once at home, and six in a minute elsewhere");
    // One that listens is there with its second packet, and knows the time from then on.
    world.pass(60);
    device.source = address(20);
    assert_eq!(world.boot(&mut device), counted(Unproven, Kept));
    assert_eq!((world.route(), world.trust(), device.clock), (address(20), Trust::Verified, Some(0)));
    world.pass(1);
    let Decision::Counted { step, change: Refreshed, .. } = world.say(&mut device) else { panic!("it is there") };
    assert!(step.proved());
}

#[test]
fn row_28_a_device_in_a_reboot_loop_knows_the_time_after_two_packets_of_each() {
    let mut device = Device::without_time(home());
    let mut world = World::default();
    for round in 0..10 {
        device.clock = None;
        let Decision::Counted { step: Unproven, .. } = world.boot(&mut device) else { panic!("{round}") };
        assert_eq!(device.clock, Some(0), "it was told the time, {round}");
        world.pass(30);
        let Decision::Counted { step, .. } = world.say(&mut device) else { panic!("{round}") };
        assert!(step.proved(), "{round}: {step:?}");
        world.pass(30);
    }
    assert_eq!((world.route(), world.trust()), (home(), Trust::Verified));
}

#[test]
fn r5_a_sleeper_behind_an_address_that_changes_with_every_wake_is_where_it_spoke_last() {
    let mut device = at_home();
    let mut world = World::default();
    for number in 0..20 {
        device.source = address(number);
        let Decision::Counted { change: First | Moved, .. } = world.say_deaf(&mut device) else { panic!("{number}") };
        assert_eq!(world.route(), device.source);
        world.pass(600);
    }
    assert_eq!(world.echoes(), 0);
}

#[test]
fn r1_under_a_strict_policy_such_a_sleeper_is_asked_with_its_own_key_and_moves_with_its_answer() {
    let mut device = at_home();
    let mut world = World::with(RoutePolicy::Strict);
    world.say(&mut device);
    for number in 0..5 {
        world.pass(600);
        device.source = address(number);
        assert_eq!(world.say(&mut device), counted(SameSession, Kept), "{number}");
        assert_eq!((world.route(), world.trust()), (address(number), Trust::Verified));
        let asked = world.downlinks.iter().rfind(|answer| answer.kind == DownlinkKind::Echo).unwrap();
        assert_eq!((open(&asked.bytes).0.level(), asked.to), (Level::Device, address(number)));
    }
}

#[test]
fn r6_one_that_never_hears_the_challenge_is_believed_after_three_and_an_hour_of_silence() {
    let mut device = Device::new(Level::Device, home());
    let mut world = World::with(RoutePolicy::Strict);
    // At device level, so that the route is proved.
    world.say(&mut device);
    device.level = Level::Network;
    let mut moved_after = None;
    for minutes in (20..=100).step_by(20) {
        world.pass(1200);
        device.source = address(minutes);
        let decision = world.say_deaf(&mut device);
        if matches!(decision, Decision::Counted { step: SameSession, change: Moved, .. }) {
            moved_after = Some(minutes);
            break;
        }
        assert_eq!((decision, world.route()), (counted(SameSession, Kept), home()));
    }
    assert_eq!(moved_after, Some(80), "asked after 20, 40 and 60 minutes");
    assert_eq!((world.trust(), world.echoes()), (Trust::Network, 3));
}

#[test]
fn r6_a_sender_without_time_that_says_one_thing_from_a_new_address_each_time_is_not_asked_and_moves_in_the_end() {
    let mut device = Device::without_time(home());
    device.flags = Flags::SINGLE_TX;
    let mut world = World::default();
    let mut changes = Vec::new();
    for number in 0..5 {
        device.source = address(number);
        let Decision::Counted { change, .. } = world.say(&mut device) else { panic!("{number}") };
        changes.push(change);
        world.pass(20);
    }
    assert_eq!(changes, [First, Kept, Kept, Kept, Moved]);
    assert_eq!((world.route(), world.downlinks.len()), (address(4), 0));
}

#[test]
fn row_4_a_copy_that_arrives_first_has_both_challenged_and_the_answer_decides_within_a_round_trip() {
    let mut device = at_home();
    let mut world = heard(&mut device, 3);
    world.pass(5);
    let original = device.packet(PacketType::TDF, &[1; 4], world.now());
    let (_, sent) = world.arrive(&original, elsewhere());
    assert_eq!((world.route(), sent), (elsewhere(), vec![]), "nobody can tell yet");
    let (decision, sent) = world.shout(original, &device);
    assert_eq!(decision, refused(BitSet));
    let asked: Vec<_> = sent.iter().map(|answer| (answer.kind, answer.to)).collect();
    assert_eq!(asked, [(DownlinkKind::Echo, home()), (DownlinkKind::Echo, elsewhere())]);
    world.gateway.expect(intent(1, b"x"));
    world.listen(&sent, &mut device);
    assert_eq!((world.route(), world.trust()), (home(), Trust::Verified));
    let intents: Vec<_> = world.downlinks.iter().filter(|answer| answer.kind == DownlinkKind::Intent).collect();
    assert_eq!(intents.iter().map(|answer| answer.to).collect::<Vec<_>>(), [home()]);
    let moved = world.gateway.core.moves.latest()[0];
    assert_eq!((moved.from, moved.to, moved.trust), (elsewhere(), home(), Trust::Verified));
}

#[test]
fn row_4_a_copy_of_the_answer_that_arrives_first_from_elsewhere_answers_nothing() {
    let mut device = at_home();
    let mut world = heard(&mut device, 3);
    world.pass(5);
    let original = device.packet(PacketType::TDF, &[], world.now());
    world.arrive(&original, elsewhere());
    let (_, sent) = world.shout(original, &device);
    let (_, cookie) = open(&sent.iter().find(|answer| answer.to == home()).unwrap().bytes);
    let answer = device.packet(PacketType::ECHO_RSP, &cookie, world.now());
    world.arrive(&answer, elsewhere());
    assert_eq!(world.route(), elsewhere(), "the cookie is another one there");
    world.gateway.expect(intent(1, b"x"));
    let (disposition, sent) = world.arrive(&answer, home());
    assert_eq!((disposition, world.route(), world.trust()), (Disposition::Duplicate, home(), Trust::Verified));
    assert_eq!(payloads(&sent), [b"x"]);
    let tally = &world.gateway.pipeline.tally;
    assert_eq!((tally.challenges, tally.route_moves), ([2, 1], 2));
}

#[test]
fn row_5_an_older_packet_from_a_new_address_counts_wakes_and_moves_nothing() {
    let mut device = at_home();
    let mut world = heard(&mut device, 3);
    let delayed = device.packet(PacketType::TDF, &[], world.now());
    world.say(&mut device);
    let before = world.gateway.core.table.cursor(DEVICE).n;
    let (disposition, sent) = world.arrive(&delayed, elsewhere());
    assert_eq!((disposition, world.route()), (Disposition::Accepted, home()));
    assert_eq!(world.gateway.core.table.cursor(DEVICE).n, before + 1);
    assert!(sent.iter().all(|answer| answer.kind == DownlinkKind::Echo && answer.to == elsewhere()));
    let decided = world.gateway.core.traces.latest(DEVICE, 1)[0];
    assert_eq!((decided.decision, decided.source), (counted(Late, Kept), elsewhere()));
}

#[test]
fn row_31_of_a_device_that_is_at_two_addresses_the_newest_packet_wins_and_both_are_named() {
    let mut device = at_home();
    let mut world = World::default();
    for number in 0..6 {
        device.source = [home(), elsewhere()][number % 2];
        world.say_deaf(&mut device);
        assert_eq!(world.route(), device.source, "with the next packet");
        world.pass(1);
    }
    let contest = world.gateway.core.table.contest(DEVICE, world.now()).unwrap();
    let places = contest.contested.unwrap().map(|place| match place {
        lastroute::table::contest::Place::Direct(address) => address,
        other => panic!("{other:?}"),
    });
    assert!(places.contains(&home()) && places.contains(&elsewhere()), "{places:?}");
    assert!(world.echoes() >= 2);
}

#[test]
fn r6_the_other_one_of_two_places_is_asked_in_each_contest_however_often_there_was_one() {
    let mut device = at_home();
    let mut world = heard(&mut device, 1);
    for hour in 0..3 {
        for source in [elsewhere(), home()] {
            world.pass(1);
            device.source = source;
            let before = world.echoes();
            assert_eq!(world.say_deaf(&mut device), counted(SameSession, Moved));
            let asked: Vec<_> = world.downlinks[before..].iter().map(|answer| answer.to).collect();
            let expected: &[_] = if source == home() { &[home(), elsewhere()] } else { &[] };
            assert_eq!(asked, expected, "hour {hour}");
        }
        world.pass(3600);
    }
}

#[test]
fn r12_a_device_that_forgot_its_keys_and_changed_its_address_is_asked_where_it_speaks_from() {
    let other = KeyId::from_le_bytes([9, 9, 9]);
    let mut device = at_home();
    let mut world = heard(&mut device, 3);
    world.gateway.core.table.register(DEVICE, world.now());
    // Frames under a key that nobody knows prove nothing: the question goes to where it was.
    let unknown = uplink(&Header { key_id: other, ..header(PacketType::TDF, Level::Device, DEVICE, 9) }, &[]);
    let (disposition, sent) = world.gateway.replies(&unknown, elsewhere());
    assert_eq!(disposition, Disposition::UnknownKey);
    assert_eq!(
        sent.iter().map(|answer| (answer.kind, answer.to)).collect::<Vec<_>>(),
        [(DownlinkKind::KeyQuestion, home())]
    );
    world.pass(11);
    // Without time, at network level, it names its new key at its new address.
    (device.clock, device.source) = (None, elsewhere());
    device.sequence = 0;
    let names = device.packet(PacketType::KEY_IDS, &lastroute::wire::control::key_ids(other), world.now());
    let (decision, sent) = world.shout(names, &device);
    assert_eq!((decision, world.route()), (counted(Unproven, Kept), home()));
    let asked: Vec<_> = sent.iter().map(|answer| (answer.kind, answer.to, open(&answer.bytes).0.level())).collect();
    assert_eq!(asked[0], (DownlinkKind::Echo, elsewhere(), Level::Network), "its own key is in doubt");
    world.listen(&sent, &mut device);
    assert_eq!((world.route(), world.trust()), (elsewhere(), Trust::Verified));
    let refused = world.gateway.core.traces.latest_refused(DEVICE, 9);
    assert_eq!((refused.len(), refused[0].key_id, refused[0].source), (1, other, elsewhere()));
}

#[test]
fn r12_one_that_forgot_its_keys_and_speaks_under_another_network_at_a_new_address_is_asked_under_that() {
    let (network, other) = (KeyId::from_le_bytes([0x18, 0x0a, 0]), KeyId::from_le_bytes([9, 9, 9]));
    let mut device = at_home();
    let mut world = heard(&mut device, 3);
    let core = &world.gateway.core;
    core.table.register(DEVICE, world.gateway.now);
    core.keys.set_network(network, root(Level::Network));
    let says = |packet_type, sequence, payload: &[u8]| {
        let header = header(packet_type, Level::Network, DEVICE, sequence);
        uplink(&Header { key_id: network, gps_time: NO_TIME_START + 5, ..header }, payload)
    };
    let names = says(PacketType::KEY_IDS, 0, &lastroute::wire::control::key_ids(other));
    let (disposition, sent) = world.arrive(&names, elsewhere());
    assert_eq!((disposition, world.route()), (Disposition::Accepted, home()));
    let under: Vec<_> = sent.iter().map(|answer| (answer.kind, open(&answer.bytes).0.key_id)).collect();
    assert_eq!(under, [(DownlinkKind::Echo, network), (DownlinkKind::KeyQuestion, network)]);
    let (_, cookie) = open(&sent[0].bytes);
    world.arrive(&says(PacketType::ECHO_RSP, 1, &cookie), elsewhere());
    assert_eq!((world.route(), world.trust()), (elsewhere(), Trust::Verified));
}

#[test]
fn r8_what_a_relay_decrypts_makes_no_direct_packet_look_old_and_moves_no_direct_route() {
    let mut device = at_home();
    let mut world = heard(&mut device, 3);
    for number in 0..10u16 {
        // The relay says that the device is far ahead, and repeats what it heard.
        for sequence in [device.sequence + 500, device.sequence] {
            let header = Header {
                gps_time: world.now().gps() + 60,
                ..header(PacketType::TDF, Level::Network, DEVICE, sequence)
            };
            let entries = [entry(Content::Opened { header, payload: &[] })];
            world.gateway.disposition(
                &container(&entries, &[], number * 2 + u16::from(sequence == device.sequence)),
                elsewhere(),
            );
        }
        assert_eq!(world.say(&mut device), counted(SameSession, Refreshed), "{number}");
        assert_eq!(world.route(), home());
        world.pass(1);
    }
    assert!(world.gateway.snapshot(DEVICE).relayed.is_some());
}

/// The gateway is killed and starts again with what it had written down by then.
fn kill(world: &mut World) {
    let mut kept = Vec::new();
    let core = &world.gateway.core;
    core.table.changed(&core.keys, |id, record| kept.extend(record.map(|record| (id, record))));
    let now = world.now();
    world.gateway = Gateway { now, ..Gateway::default() };
    let core = &world.gateway.core;
    for (id, record) in &kept {
        core.table.restore(&core.keys, *id, record);
    }
    core.table.settle();
    core.table.set_floor(now.gps() + 120);
}

#[test]
fn r10_a_slow_device_that_roams_while_the_gateway_is_killed_is_asked_and_answers() {
    let mut device = at_home();
    device.clock = Some(-250);
    let mut world = heard(&mut device, 3);
    kill(&mut world);
    assert_eq!(world.route(), home());
    world.pass(10);
    device.source = elsewhere();
    let Decision::Counted { change: Kept, .. } = world.say(&mut device) else { panic!("it may be a recording") };
    assert_eq!((world.route(), world.trust()), (elsewhere(), Trust::Verified));
}

#[test]
fn row_6_a_recording_of_what_was_forgotten_moves_nothing_after_a_restart() {
    let mut device = at_home();
    let mut world = heard(&mut device, 3);
    let core = &world.gateway.core;
    let mut kept = Vec::new();
    core.table.changed(&core.keys, |id, record| kept.extend(record.map(|record| (id, record))));
    // What comes now is not written down any more.
    let forgotten: Vec<_> = (0..5).map(|_| device.packet(PacketType::TDF, &[], world.now())).collect();
    for bytes in &forgotten {
        world.arrive(bytes, home());
    }
    let now = world.now();
    world.gateway = Gateway { now, ..Gateway::default() };
    let core = &world.gateway.core;
    core.table.restore(&core.keys, kept[0].0, &kept[0].1);
    core.table.settle();
    core.table.set_floor(now.gps() + 120);
    for bytes in &forgotten {
        world.arrive(bytes, elsewhere());
        assert_eq!(world.route(), home());
    }
    // At its address nothing is lost: it is asked once, and what waits leaves with its answer.
    let decision = world.say(&mut device);
    assert_eq!(
        decision,
        Decision::Counted { step: SameSession, change: Refreshed, release: Release::Challenge, is_answer: false }
    );
}
