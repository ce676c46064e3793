//! What an attacker does with what he recorded (rules R2 to R7): all of it again, in any order, from anywhere; what the gateway
//! sent, back to it; little that makes the gateway say much. Random histories with real packets; failures name the seed.

use std::collections::HashSet;

use fastrand::Rng;
use lastroute::ingest::trace::Decision;
use lastroute::table::rules::RouteChange::Kept;

use super::device::{Device, World, address};
use super::downlinks::{intent, open};
use super::*;

/// Histories of each kind. Each is some hundred packets.
const HISTORIES: u64 = 30;

/// A device that roams, sleeps, boots with and without time, is at device level or not, listens or not, and asks for
/// acknowledgements.
fn live(world: &mut World, device: &mut Device, random: &mut Rng, packets: usize) {
    for _ in 0..packets {
        match random.u8(..20) {
            0 => device.source = address(random.u16(..3)),
            1 => {
                device.clock = random.bool().then_some(0);
                world.boot(device);
            }
            2 => device.level = [Level::Network, Level::Device][usize::from(random.bool())],
            3 => device.flags = [0, Flags::ACK_REQUEST, Flags::SINGLE_TX, Flags::ALWAYS_RX][random.usize(..4)],
            4 => world.pass(random.u64(..40)),
            5 => world.gateway.expect(intent(random.i64(1..), &vec![0; random.usize(..200)])),
            6 => _ = world.say_deaf(device),
            _ => {
                world.pass(random.u64(..3));
                world.say(device);
            }
        }
    }
}

#[test]
fn row_2_everything_ever_recorded_again_in_any_order_from_anywhere_moves_and_releases_nothing() {
    for seed in 0..HISTORIES {
        let mut random = Rng::with_seed(seed);
        let (mut world, mut device) = (World::default(), Device::new(Level::Network, home()));
        live(&mut world, &mut device, &mut random, 200);
        // In the end it is somewhere, and is proved to be there.
        device.clock = Some(0);
        device.flags = 0;
        world.pass(1);
        world.say(&mut device);
        world.gateway.expect(intent(-1, b"for the device alone"));
        let (route, cursor) = (world.route(), world.gateway.core.table.cursor(DEVICE).n);
        let moves = world.gateway.pipeline.tally.route_moves;
        let mut recorded = world.uplinks.clone();
        random.shuffle(&mut recorded);
        let mut again = 0;
        for bytes in recorded.iter().chain(&recorded) {
            // From the device's own address what says that nothing follows is answered at once (rule R7).
            let from = [elsewhere(), address(10 + random.u16(..6))][usize::from(random.bool())];
            if random.u8(..20) == 0 {
                world.pass(random.u64(..10));
            }
            let (disposition, sent) = world.arrive(bytes, from);
            assert_eq!((world.route(), world.gateway.pipeline.tally.route_moves), (route, moves), "seed {seed}");
            let may_be_sent = |answer: &Answer| match answer.kind {
                DownlinkKind::Echo => true,
                DownlinkKind::Ack => disposition == Disposition::Accepted,
                _ => false,
            };
            assert!(sent.iter().all(may_be_sent), "seed {seed}: {disposition:?} {sent:?}");
            if disposition == Disposition::Accepted {
                again += 1;
                let decided = world.gateway.core.traces.latest(DEVICE, 1)[0];
                // Of those that cannot be proved 16 are remembered, and more while a session is pending.
                let Decision::Counted { step, change: Kept, .. } = decided.decision else { panic!("{decided:?}") };
                assert!(!step.proved(), "seed {seed}: {decided:?}");
            }
        }
        assert_eq!(world.gateway.core.table.cursor(DEVICE).n, cursor + again, "seed {seed}");
        assert_eq!(world.gateway.core.downlinks.outbox.waiting_for(DEVICE), 1, "seed {seed}");
    }
}

#[test]
fn row_3_everything_that_the_gateway_sent_comes_back_as_reflected_and_changes_nothing() {
    let (mut kinds, mut reflected) = (HashSet::new(), 0);
    for seed in 0..HISTORIES {
        let mut random = Rng::with_seed(seed);
        let (mut world, mut device) = (World::default(), Device::new(Level::Network, home()));
        world.gateway.core.table.register(DEVICE, world.now());
        live(&mut world, &mut device, &mut random, 200);
        let names = lastroute::wire::control::key_ids(KeyId::from_le_bytes([9, 9, 9]));
        let bytes = device.packet(PacketType::KEY_IDS, &names, world.now());
        world.shout(bytes, &device);
        let before = world.gateway.snapshot(DEVICE);
        let sent = std::mem::take(&mut world.downlinks);
        for answer in &sent {
            kinds.insert(answer.kind as usize);
            for from in [answer.to, elsewhere()] {
                let got = world.gateway.replies(&answer.bytes, from);
                assert_eq!(got, (Disposition::Reflected, vec![]), "seed {seed}: {:?}", answer.kind);
                reflected += 1;
            }
        }
        assert_eq!(world.gateway.snapshot(DEVICE), before, "seed {seed}");
    }
    use DownlinkKind::{Ack, Echo, Intent, KeyQuestion};
    assert!([Ack, Echo, KeyQuestion, Intent].iter().all(|kind| kinds.contains(&(*kind as usize))), "{kinds:?}");
    assert!(reflected > 1000);
}

/// [`World::arrive`] keeps the accounts of all addresses.
#[test]
fn row_14_no_address_that_is_not_proved_gets_more_than_three_times_what_came_from_it() {
    let mut unproved = 0;
    for seed in 0..3 * HISTORIES {
        let mut random = Rng::with_seed(seed);
        let policy = [RoutePolicy::Newest, RoutePolicy::Strict][usize::from(random.bool())];
        let (mut world, mut device) = (World::with(policy), Device::new(Level::Network, home()));
        world.gateway.core.table.register(DEVICE, world.now());
        for round in 0..100 {
            live(&mut world, &mut device, &mut random, 3);
            // An attacker is faster now and then, and sends recordings from addresses that nobody else has.
            let bytes = device.packet(PacketType::TDF, &vec![0; random.usize(..9)], world.now());
            let from = address(100 + random.u16(..4));
            if random.bool() {
                world.arrive(&bytes, from);
                world.send(bytes, &mut device);
            } else {
                world.send(bytes, &mut device);
                let recorded = world.uplinks[random.usize(..world.uplinks.len())].clone();
                world.arrive(&recorded, address(1000 + round));
                unproved += 1;
            }
        }
    }
    assert!(unproved > 1000);
}

#[test]
fn row_14_an_acknowledgement_is_hardly_longer_than_the_shortest_report_that_asks_for_one() {
    for len in 1..10 {
        let (mut world, mut device) = (World::default(), Device::new(Level::Network, home()));
        device.flags = Flags::ACK_REQUEST;
        let bytes = device.packet(PacketType::TDF, &vec![0; len], world.now());
        let (_, sent) = world.arrive(&bytes, home());
        let [ack] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!((ack.kind, ack.to), (DownlinkKind::Ack, home()));
        assert!(100 * ack.bytes.len() <= 103 * bytes.len(), "{len}");
    }
}

#[test]
fn row_40_no_nonce_is_used_twice_though_the_gateway_starts_again_in_the_same_second() {
    let mut nonces = HashSet::new();
    let mut device = Device::new(Level::Network, home());
    device.flags = Flags::ACK_REQUEST;
    // Each process begins in the second in which the one before ended, and seals nothing in what that had reserved.
    let (mut now, mut reserved) = (Timestamp::from_gps(NOW), NOW);
    for start in 0..50 {
        let mut world = World::default();
        world.gateway.now = now;
        world.gateway.core.downlinks.allowance.start(reserved);
        for message in 0..20 {
            world.gateway.expect(intent(message, b"x"));
            world.say(&mut device);
            world.pass(u64::from(message % 8 == 7));
        }
        now = world.now();
        reserved = now.gps() + 1;
        for answer in &world.downlinks {
            let header = open(&answer.bytes).0;
            let nonce = (header.level(), header.gps_time, header.sequence, header.entropy);
            assert!(nonces.insert(nonce), "start {start}: {header:?}");
        }
    }
    assert!(nonces.len() > 100, "{}", nonces.len());
}
