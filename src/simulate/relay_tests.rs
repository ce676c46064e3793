//! Tests of [`super`]: containers are read as a gateway reads them.

use std::collections::BTreeMap;

use super::*;
use crate::auth::Authenticator;
use crate::auth::keys::{DeviceKey, KeyPair, KeyRing};
use crate::id::DeviceId;
use crate::simulate::device::{Device, Reception, Settings, Wake};
use crate::simulate::identity::device_id;
use crate::simulate::keys::{CloudKey, NetworkKeys};
use crate::wire::container;
use crate::wire::frame::Frame;

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
        assert!(matches!(sequences[..], [0, 1, 2] | [0, 1]), "{child}: {sequences:?}");
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
        assert_eq!(u32::from(header.sequence), age / 10, "one in each cadence of 10 s");
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
    assert_eq!(firsts, [4, 4, 3, 3]);
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
