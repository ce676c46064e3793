//! Tests of [`super`]: containers are read as a gateway reads them.

use std::collections::BTreeMap;

use super::*;
use crate::auth::keys::{DeviceKey, Interface, KeyPair, KeyRing};
use crate::auth::{Authenticator, seal_with};
use crate::simulate::connect::{ENDED_HERE, NOBODY_THERE};
use crate::simulate::device::{Device, Reception, Settings, Wake};
use crate::simulate::identity::device_id;
use crate::simulate::keys::{CloudKey, NetworkKeys};
use crate::wire::container;
use crate::wire::container::BtAddress;
use crate::wire::frame::{Flags, Frame, Header};
use crate::wire::rpc::{Command, Response};

const STARTED: Timestamp = Timestamp::from_gps(17_123 * 86_400 + 50);
const SECOND: Duration = Duration::from_secs(1);

fn cloud() -> KeyPair {
    KeyPair::from_private([0x11; 32])
}

fn config(relays: u32, children: u32) -> Config {
    Config { relays, children, cloud_public: cloud().public(), ..Config::default() }
}

/// What relay `relay` hears when it boots `after` the start.
fn children(config: &Config, relay: u32, after: Duration) -> Children {
    Children::new(config, relay, 7, STARTED, after).unwrap()
}

/// One packet of a child as the gateway gets it: header, payload, interface, still encrypted or not.
type Passed = (Header, Vec<u8>, RouteInterface, bool);

/// Opens what children of a fleet seal.
struct Gateway {
    ring: KeyRing,
    authenticator: Authenticator,
}

impl Gateway {
    /// With the keys made from the public halves.
    fn of(config: &Config) -> Self {
        let ring = KeyRing::default();
        for identity in config.child_identities().unwrap() {
            let root = cloud().shared_root(identity.keys.public()).unwrap();
            ring.set_device(identity.id, DeviceKey { key_id: Some(identity.key_id), root }, None);
        }
        Self { ring, authenticator: Authenticator::default() }
    }

    fn read(&mut self, entry: &Entry<'_>) -> Passed {
        match entry.content {
            Content::Opened { header, payload } => (header, payload.to_vec(), entry.interface, false),
            Content::Sealed(bytes) => {
                let interface = match entry.interface {
                    RouteInterface::BtAdv => Interface::BtAdv,
                    _ => Interface::BtGatt,
                };
                let mut bytes = bytes.to_vec();
                let frame = Frame::parse(&mut bytes, Layout::Versioned).unwrap();
                let opened = self.authenticator.open(&self.ring, frame, interface, STARTED).unwrap();
                (*opened.header(), opened.payload().to_vec(), entry.interface, true)
            }
        }
    }
}

/// Everything passed on until `until`, when asked as soon as it is due.
fn passed_on(config: &Config, relay: &mut Children, until: Duration) -> Vec<Passed> {
    let (mut gateway, mut all) = (Gateway::of(config), Vec::new());
    while let Some(due) = relay.due_at().filter(|due| *due <= until) {
        let container = relay.container(due).unwrap();
        assert!(container.payload().len() <= 1322, "what fits a datagram of 1360 bytes");
        let before = all.len();
        all.extend(container::entries(container.payload()).map(|entry| gateway.read(&entry.unwrap())));
        assert_eq!(all.len() - before, container.entries());
    }
    all
}

fn sequences(packets: &[Passed]) -> BTreeMap<DeviceId, Vec<u16>> {
    let mut by_child = BTreeMap::<_, Vec<_>>::new();
    for (header, ..) in packets {
        by_child.entry(header.device_id).or_default().push(header.sequence);
    }
    by_child
}

#[test]
fn each_packet_of_each_child_is_passed_on_once_however_many_containers_it_takes() {
    let config = config(1, 80);
    let packets = passed_on(&config, &mut children(&config, 0, Duration::ZERO), 30 * SECOND);
    let by_child = sequences(&packets);
    assert_eq!(by_child.len(), 80);
    assert!(by_child.keys().eq(config.child_identities().unwrap().iter().map(|identity| &identity.id)));
    for (child, sequences) in by_child {
        // The last may be on the air still.
        assert!(matches!(sequences[..], [0, 16, 32] | [0, 16]), "{child}: {sequences:?}");
    }
}

#[test]
fn half_is_still_encrypted_over_both_kinds_of_bluetooth_and_all_is_telemetry_with_the_time_it_was_sent() {
    let config = config(1, 8);
    let packets = passed_on(&config, &mut children(&config, 0, Duration::ZERO), 40 * SECOND);
    for sealed in [false, true] {
        for interface in [RouteInterface::BtAdv, RouteInterface::BtCentral] {
            let some = packets.iter().filter(|packet| (packet.3, packet.2) == (sealed, interface)).count();
            assert!(some >= 3, "{sealed} {interface:?}: {some}");
        }
    }
    assert_eq!(packets.iter().filter(|packet| packet.3).count() * 2, packets.len());
    for (header, payload, _, sealed) in &packets {
        let age = header.gps_time - STARTED.gps();
        assert_eq!((header.packet_type, header.level() == Level::Device), (PacketType::TDF, *sealed));
        assert_eq!(u32::from(header.sequence), 16 * (age / 10), "one in each cadence of 10 s, and room for 15 answers");
        assert_eq!(crate::wire::tdf::scan(payload).announce.is_some(), header.sequence == 0);
    }
}

#[test]
fn addresses_are_static_random_ones_and_signal_strengths_plausible() {
    let config = config(1, 50);
    let packed = children(&config, 0, Duration::ZERO).container(11 * SECOND).unwrap();
    for entry in container::entries(packed.payload()).map(Result::unwrap) {
        let bt = entry.bt.unwrap();
        assert_eq!((bt.kind_name(), bt.bytes[5] & 0xc0), ("random", 0xc0));
        assert!((-95..=-45).contains(&entry.rssi_dbm), "{entry:?}");
    }
}

#[test]
fn every_fourth_child_is_heard_by_the_next_relay_too_which_passes_on_the_same_packets() {
    let config = config(3, 8);
    let heard: Vec<_> =
        (0..3).map(|relay| passed_on(&config, &mut children(&config, relay, Duration::ZERO), 60 * SECOND)).collect();
    for (relay, packets) in heard.iter().enumerate() {
        let own: Vec<_> = (0..8).map(|child| child_index(relay as u32 * 8 + child)).collect();
        let mut indexes: Vec<_> = sequences(packets).into_keys().map(|id| id.0 as u32).collect();
        let before = (relay as u32 + 2) % 3 * 8;
        assert!(own.iter().all(|index| indexes.contains(index)));
        indexes.retain(|index| !own.contains(index));
        assert_eq!(indexes, [child_index(before), child_index(before + 4)]);
        for packet in packets.iter().filter(|packet| indexes.contains(&(packet.0.device_id.0 as u32))) {
            assert!(heard[(relay + 2) % 3].contains(packet), "{packet:?}");
        }
    }
}

#[test]
fn a_relay_that_boots_later_hears_what_is_sent_from_then_on() {
    let config = config(1, 4);
    let packets = passed_on(&config, &mut children(&config, 0, 35 * SECOND), 20 * SECOND);
    let firsts: Vec<_> = sequences(&packets).into_values().map(|sequences| sequences[0]).collect();
    // They send at 0, 2.5, 5 and 7.5 s of each 10 s.
    assert_eq!(firsts, [64, 64, 48, 48]);
}

#[test]
fn what_is_heard_is_collected_for_a_second_at_most_and_nothing_heard_is_nothing_sent() {
    let mut relay = children(&config(1, 4), 0, Duration::ZERO);
    assert_eq!(relay.due_at(), Some(SECOND));
    assert_eq!(relay.container(SECOND).unwrap().entries(), 1);
    assert_eq!(relay.due_at(), Some(Duration::from_millis(3500)));
    assert!(relay.container(2 * SECOND).is_none());
    let quick = Config { cadence: Duration::from_millis(40), ..config(1, 4) };
    assert_eq!(children(&quick, 0, Duration::ZERO).due_at(), Some(quick.cadence));
}

/// A gateway's call to the child at `bt`, as its relay gets it.
fn forwarded(config: &Config, level: Level, bt: BtAddress, call: &Command<'_>, flags: u8) -> Vec<u8> {
    let child = &config.child_identities().unwrap()[0];
    let (key_id, root, flag) = match level {
        Level::Network => (config.network, &config.network_root, 0),
        Level::Device => (child.key_id, &child.root, Flags::DEVICE_KEY),
    };
    let header = Header {
        packet_type: PacketType::RPC_CMD,
        flags: Flags(flag),
        key_id,
        device_id: child.id,
        gps_time: STARTED.gps(),
        sequence: 40_000,
        entropy: 1,
    };
    let (mut payload, mut frame, mut out) = (Vec::new(), Vec::new(), Vec::new());
    call.encode(&mut payload);
    seal_with(&root.day_key(Interface::BtGatt, header.rotation()), &header, Layout::Versioned, &payload, &mut frame);
    let (interface, address) = (RouteInterface::BtCentral, bt);
    let (connect_timeout, idle_timeout, absolute_timeout) = (3, 5, 60);
    AutoConnect { interface, flags, connect_timeout, idle_timeout, absolute_timeout, address, frame: &frame }
        .encode(&mut out);
    out
}

const ECHO: Command<'static> = Command { request_id: 7, command_id: 32_767, data: None, parameters: b"hello" };

#[test]
fn a_child_answers_what_its_relay_passes_on_at_the_level_of_the_call_and_the_connection_ends() {
    let config = config(1, 4);
    let mut relay = children(&config, 0, Duration::ZERO);
    let first = relay.container(SECOND).unwrap();
    let bt = container::entries(first.payload()).next().unwrap().unwrap().bt.unwrap();
    let child = config.child_identities().unwrap()[0].id;
    let flags = AutoConnect::UNTIL_ANSWER | AutoConnect::TELL_END;
    for (number, level) in [(1, Level::Network), (2, Level::Device)] {
        let answer = relay.forward(2 * SECOND, &forwarded(&config, level, bt, &ECHO, flags)).unwrap();
        let entry = container::entries(answer.payload()).next().unwrap().unwrap();
        assert_eq!((entry.interface, entry.bt, answer.entries()), (RouteInterface::BtCentral, Some(bt), 1));
        let (header, payload, _, sealed) = Gateway::of(&config).read(&entry);
        assert_eq!((header.device_id, header.level(), sealed), (child, level, level == Level::Device));
        assert_eq!((header.sequence, header.gps_time), (number, STARTED.gps() + 2));
        let response = Response::parse(&payload).unwrap();
        assert_eq!((response.request_id, response.return_code, response.body), (7, 0, &b"hello"[..]));
        let end = Terminated { interface: RouteInterface::BtCentral, reason: ENDED_HERE, address: bt };
        assert_eq!((relay.on_time(2 * SECOND), relay.connections_due_at()), (Some(end), None));
    }
    assert_eq!(relay.times_executed(child, 7), 2);
    assert_eq!(relay.executed(), Executed { calls: 2, again: 1 });
}

#[test]
fn a_child_has_as_many_answers_as_sequences_until_its_next_packet() {
    let config = config(1, 1);
    let mut relay = children(&config, 0, Duration::ZERO);
    let bt = container::entries(relay.container(SECOND).unwrap().payload()).next().unwrap().unwrap().bt.unwrap();
    let mut sequence = |at| {
        let answer = relay.forward(at, &forwarded(&config, Level::Device, bt, &ECHO, 0))?;
        let entry = container::entries(answer.payload()).next().unwrap().unwrap();
        Some(Gateway::of(&config).read(&entry).0.sequence)
    };
    let first: Vec<_> = (0..16).map(|_| sequence(2 * SECOND)).collect();
    assert_eq!(first[..15], (1..16).map(Some).collect::<Vec<_>>());
    assert_eq!((first[15], sequence(10 * SECOND)), (None, Some(17)));
}

#[test]
fn what_no_child_hears_is_not_answered_and_the_relay_tells_when_it_gives_up() {
    let config = config(1, 1);
    let mut relay = children(&config, 0, Duration::ZERO);
    let bt = container::entries(relay.container(SECOND).unwrap().payload()).next().unwrap().unwrap().bt.unwrap();
    let flags = AutoConnect::TELL_END;
    let spoiled = |at: usize, to: u8| {
        let mut payload = forwarded(&config, Level::Device, bt, &ECHO, flags);
        payload[at] = to;
        payload
    };
    for (what, payload) in [
        ("cut", forwarded(&config, Level::Device, bt, &ECHO, flags)[..30].to_vec()),
        ("another interface", spoiled(2, 2)),
        ("another key id", spoiled(14 + 4, 0)),
        ("a bad tag", spoiled(60, 0)),
    ] {
        assert!(relay.forward(2 * SECOND, &payload).is_none(), "{what}");
    }
    assert_eq!(relay.on_time(7 * SECOND).map(|end| end.reason), Some(ENDED_HERE), "it was connected, for 5 s");
    let nobody = BtAddress { bytes: [1; 6], ..bt };
    assert!(relay.forward(8 * SECOND, &forwarded(&config, Level::Device, nobody, &ECHO, flags)).is_none());
    assert_eq!((relay.on_time(10 * SECOND), relay.connections_due_at()), (None, Some(11 * SECOND)));
    let end = relay.on_time(11 * SECOND).unwrap();
    assert_eq!((end.reason, end.address), (NOBODY_THERE, nobody));
}

#[test]
fn a_relay_boots_as_every_device_and_sends_containers_under_its_own_key_beside_its_telemetry() {
    let config = config(1, 4);
    let settings = Settings {
        network: config.network,
        network_keys: NetworkKeys::new(config.network_root.clone()),
        cloud: CloudKey::new(config.cloud_public).unwrap(),
        telemetry: Level::Network,
        reception: Reception::Always,
        cadence: config.cadence,
        jitter: 0.0,
        ack_after: 3600 * SECOND,
        ack_limit: 10,
        ack_share: 0.0,
        announce_every: 60 * SECOND,
        reboots: 1,
    };
    let mut relay = Device::new(device_id(1, 0), settings, Rng::with_seed(1))
        .with_clock(Duration::ZERO, STARTED)
        .with_children(children(&config, 0, Duration::ZERO));
    let mut sent = Vec::new();
    while relay.next_send_at() <= 12 * SECOND {
        let now = relay.next_send_at();
        let Wake::Send(mut uplink) = relay.on_timer(now, now) else { panic!("nothing asks") };
        let header = *Frame::parse(&mut uplink.bytes, Layout::Unversioned).unwrap().header();
        assert_eq!((header.packet_type, header.sequence), (uplink.packet_type, sent.len() as u16));
        assert_eq!(header.flags.0 & 0x7fff, 0x3001, "carries, delivers and listens, as stock relays say");
        sent.push((now.as_millis(), header.packet_type.0, header.level(), uplink.entries));
    }
    use Level::{Device as Own, Network};
    let expected = [
        (0, 127, Network, 0),
        (1000, 7, Own, 1),
        (3500, 7, Own, 1),
        (6000, 7, Own, 1),
        (8500, 7, Own, 1),
        (10_000, 2, Network, 0),
        (11_000, 7, Own, 1),
    ];
    assert_eq!(sent, expected);
}
