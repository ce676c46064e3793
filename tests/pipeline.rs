//! One datagram from end to end, without sockets: what it ends in, what it changes, what is answered.
#![cfg(feature = "server")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use lastroute::auth::keys::{DeviceKey, Interface, KeyPair, KeyRing, NetworkInfo, RootKey};
use lastroute::auth::nonce::OwnNonces;
use lastroute::auth::{open_with, seal_with};
use lastroute::clock::Timestamp;
use lastroute::id::{DeviceId, KeyId};
use lastroute::ingest::moves::Move;
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline, RefusalLog};
use lastroute::metrics::Disposition;
use lastroute::table::route::{Route, Snapshot, Trust};
use lastroute::table::rules::NO_TIME_START;
use lastroute::table::{Registration, RoutePolicy, RouteTable, TableConfig, Unregistered};
use lastroute::waiters::feeds::{Listener, Read, Said};
use lastroute::waiters::{Waiters, WaitersConfig};
use lastroute::wire::container::{BtAddress, Content, Entry, RouteInterface};
use lastroute::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};
use lastroute::wire::tdf::{Announce, Version};

const NOW: u32 = 1_479_435_219;
const NETWORK: KeyId = KeyId::from_le_bytes([0x17, 0x0a, 0]);
const DEVICE_KEY: KeyId = KeyId::from_le_bytes([0x33, 0x44, 0x55]);
const DEVICE: DeviceId = DeviceId(0xd000_0000_0000_1001);
const RELAY: DeviceId = DeviceId(0xd000_0000_0000_2002);

fn root(level: Level) -> RootKey {
    RootKey::new(if level == Level::Network { [1; 32] } else { [2; 32] })
}

fn home() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 6200))
}

fn elsewhere() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 2], 41_000))
}

struct Gateway {
    core: Arc<Core>,
    pipeline: Pipeline,
    now: Timestamp,
}

impl Gateway {
    fn new(policy: RoutePolicy, table: &TableConfig) -> Self {
        let keys = KeyRing::default();
        keys.set_network(NETWORK, root(Level::Network));
        for device in [DEVICE, RELAY] {
            keys.set_device(device, DeviceKey { key_id: Some(DEVICE_KEY), root: root(Level::Device) }, None);
        }
        let now = Timestamp::from_gps(NOW);
        let core = Arc::new(Core {
            keys: Arc::new(keys),
            table: Arc::new(RouteTable::new(table)),
            waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
            nonces: OwnNonces::new(&KeyPair::from_private([3; 32]), now),
            policy,
            refusals: RefusalLog::default(),
            moves: Arc::default(),
        });
        Self { pipeline: Pipeline::new(core.clone()), core, now }
    }

    fn take(&mut self, bytes: &[u8], source: SocketAddr) -> (Disposition, Vec<u8>) {
        let (mut bytes, mut reply) = (bytes.to_vec(), Vec::new());
        let datagram = Datagram { bytes: &mut bytes, truncated: false, source, at: self.now };
        (self.pipeline.take(datagram, &mut reply), reply)
    }

    fn disposition(&mut self, bytes: &[u8], source: SocketAddr) -> Disposition {
        self.take(bytes, source).0
    }

    fn snapshot(&self, id: DeviceId) -> Snapshot {
        self.core.table.snapshot(id).unwrap()
    }

    fn direct(&self, id: DeviceId) -> (SocketAddr, Trust) {
        let direct = self.snapshot(id).direct.unwrap();
        (direct.address, direct.trust)
    }

    /// Container entries that ended in `disposition`.
    fn entries(&self, disposition: Disposition) -> u64 {
        self.pipeline.tally.entries[disposition as usize]
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self::new(RoutePolicy::Newest, &TableConfig::default())
    }
}

fn header(packet_type: PacketType, level: Level, device_id: DeviceId, sequence: u16) -> Header {
    let (flags, key_id) = match level {
        Level::Network => (0, NETWORK),
        Level::Device => (Flags::DEVICE_KEY, DEVICE_KEY),
    };
    Header { packet_type, flags: Flags(flags), key_id, device_id, gps_time: NOW, sequence, entropy: sequence ^ 0x5a5a }
}

fn seal(header: &Header, layout: Layout, interface: Interface, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let key = root(header.level()).day_key(interface, header.rotation());
    seal_with(&key, header, layout, payload, &mut out);
    out
}

fn uplink(header: &Header, payload: &[u8]) -> Vec<u8> {
    seal(header, Layout::Unversioned, Interface::Udp, payload)
}

fn tdf(sequence: u16) -> Vec<u8> {
    uplink(&header(PacketType::TDF, Level::Network, DEVICE, sequence), &[])
}

fn announce(id: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let version = Version { major: 1, minor: 2, revision: 3, build: 4 };
    let (board_crc, kv_crc, blocks, uptime, reboots, flags) = (None, 0, 0, 20, 1, 0);
    Announce { application_id: id, version, board_crc, kv_crc, blocks, uptime, reboots, flags }.append(&mut out);
    out
}

#[test]
fn who_listens_to_an_organisation_hears_of_what_its_devices_count() {
    let mut gateway = Gateway::default();
    let mut listener = Listener::new(Arc::clone(&gateway.core.waiters), 5);
    assert_eq!(gateway.disposition(&tdf(1), home()), Disposition::Accepted);
    let registration = Registration { at: gateway.now, organisation: 5, record: 1 };
    gateway.core.table.register(DEVICE, registration);
    assert_eq!(listener.read(), None, "it was nobody's then");
    assert_eq!(gateway.disposition(&tdf(2), home()), Disposition::Accepted);
    let said = Said { device: DEVICE, cursor: gateway.core.table.cursor(DEVICE) };
    assert_eq!(gateway.disposition(&tdf(2), home()), Disposition::Duplicate);
    assert_eq!((listener.read(), listener.read(), said.cursor.n), (Some(Read::Said(said)), None, 2));
}

#[test]
fn every_flipped_bit_is_refused_by_name_and_never_answered() {
    for level in [Level::Network, Level::Device] {
        let mut gateway = Gateway::default();
        let mut asking = header(PacketType::TDF, level, DEVICE, 1);
        asking.flags.0 |= Flags::ACK_REQUEST;
        let good = uplink(&asking, b"payload");
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (disposition, reply) = gateway.take(&bytes, home());
            // Of the header, key id and device id select the key, and bit 15 of the flags the kind of key.
            let expected: &[Disposition] = match (bit / 8, level) {
                (2, _) if bit % 8 == 7 => &[Disposition::UnknownKey, Disposition::UnknownNetwork],
                (3..=5, Level::Network) => &[Disposition::UnknownNetwork],
                (3..=5, Level::Device) => &[Disposition::UnknownKey],
                (6..=13, Level::Device) => &[Disposition::UnknownDevice],
                _ => &[Disposition::BadTag],
            };
            assert!(expected.contains(&disposition), "{level:?} bit {bit}: {disposition:?}");
            assert!(reply.is_empty());
        }
        assert_eq!(gateway.take(&good, home()).1.len(), 40, "the packet itself is good");
    }
}

#[test]
fn short_and_oversize_datagrams_are_refused_by_name() {
    let mut gateway = Gateway::default();
    for len in 0..38 {
        assert_eq!(gateway.disposition(&vec![0x7f; len], home()), Disposition::Short, "{len}");
    }
    assert_eq!(gateway.disposition(&[0; 38], home()), Disposition::UnknownNetwork);
    assert_eq!(gateway.disposition(&vec![0; 2048], home()), Disposition::UnknownNetwork);
    assert_eq!(gateway.disposition(&vec![0; 2049], home()), Disposition::Oversize);
    let (mut bytes, mut reply) = (tdf(1), Vec::new());
    let datagram = Datagram { bytes: &mut bytes, truncated: true, source: home(), at: gateway.now };
    assert_eq!(gateway.pipeline.take(datagram, &mut reply), Disposition::Oversize);
    assert_eq!(gateway.core.table.devices(), (0, 0), "nothing of all that is kept");
}

#[test]
fn a_packet_that_asks_is_acknowledged_once_in_kind_with_the_gateways_time() {
    for level in [Level::Network, Level::Device] {
        let mut gateway = Gateway::default();
        let mut asking = header(PacketType::TDF, level, DEVICE, 0x1234);
        asking.flags.0 |= Flags::ACK_REQUEST | Flags::ALWAYS_RX;
        // A device without time still gets the true one.
        asking.gps_time = NO_TIME_START + 20;
        let bytes = uplink(&asking, &[]);
        let (_, mut reply) = gateway.take(&bytes, home());
        let ack = Frame::parse(&mut reply, Layout::Unversioned).unwrap();
        let key = root(level).day_key(Interface::Udp, ack.header().rotation());
        let ack = open_with(&key, ack).unwrap();
        assert_eq!(ack.payload(), [0x34, 0x12]);
        let expected = (PacketType::ACK, Flags(asking.flags.0 & Flags::DEVICE_KEY), asking.key_id, DEVICE, NOW);
        let ack = ack.header();
        assert_eq!((ack.packet_type, ack.flags, ack.key_id, ack.device_id, ack.gps_time), expected);
        assert_eq!(gateway.take(&bytes, home()), (Disposition::Duplicate, vec![]));
        let quiet = uplink(&header(PacketType::TDF, level, DEVICE, 0x1235), &[]);
        assert_eq!(gateway.take(&quiet, home()), (Disposition::Accepted, vec![]));
    }
}

#[test]
fn r2_our_own_downlinks_come_back_as_reflections() {
    let mut gateway = Gateway::default();
    let mut asking = header(PacketType::TDF, Level::Network, DEVICE, 1);
    asking.flags.0 |= Flags::ACK_REQUEST;
    let (_, ack) = gateway.take(&uplink(&asking, &[]), home());
    let before = gateway.snapshot(DEVICE);
    assert_eq!(gateway.disposition(&ack, elsewhere()), Disposition::Reflected);
    for kind in [PacketType::ECHO_REQ, PacketType::RPC_CMD, PacketType::EPACKET_FORWARD, PacketType(12)] {
        let bytes = uplink(&header(kind, Level::Device, DEVICE, 9), &[0; 8]);
        assert_eq!(gateway.disposition(&bytes, elsewhere()), Disposition::Reflected, "{kind:?}");
    }
    // Legal both ways: the nonce decides.
    for kind in [PacketType::RPC_DATA, PacketType(200)] {
        let mut own = header(kind, Level::Device, DEVICE, 700);
        own.entropy = gateway.core.nonces.entropy(DEVICE, NOW, 700);
        gateway.core.nonces.remember(DEVICE, NOW, 700);
        assert_eq!(gateway.disposition(&uplink(&own, &[0; 8]), elsewhere()), Disposition::Reflected, "{kind:?}");
    }
    assert_eq!(gateway.snapshot(DEVICE), before);
    let theirs = uplink(&header(PacketType::RPC_DATA, Level::Device, DEVICE, 2), &[0; 8]);
    assert_eq!(gateway.disposition(&theirs, home()), Disposition::Accepted);
}

#[test]
fn r5_a_newer_packet_moves_the_route_and_an_older_one_does_not() {
    let mut gateway = Gateway::default();
    assert_eq!(gateway.disposition(&tdf(10), home()), Disposition::Accepted);
    assert_eq!(gateway.disposition(&tdf(9), elsewhere()), Disposition::Accepted, "late, and counts");
    assert_eq!(gateway.direct(DEVICE).0, home());
    assert_eq!(gateway.disposition(&tdf(11), elsewhere()), Disposition::Accepted);
    assert_eq!((gateway.direct(DEVICE).0, gateway.pipeline.tally.route_moves), (elsewhere(), 1));
    assert_eq!(gateway.disposition(&tdf(11), home()), Disposition::Duplicate);
    assert_eq!(gateway.direct(DEVICE).0, elsewhere());
}

#[test]
fn r1_strict_keeps_network_level_packets_from_moving_a_device_whose_key_is_known() {
    let unknown = DeviceId(77);
    for (policy, moved) in [(RoutePolicy::Newest, elsewhere()), (RoutePolicy::Strict, home())] {
        let mut gateway = Gateway::new(policy, &TableConfig::default());
        for (sequence, source) in [(1, home()), (2, elsewhere())] {
            for device in [DEVICE, unknown] {
                let bytes = uplink(&header(PacketType::TDF, Level::Network, device, sequence), &[]);
                assert_eq!(gateway.disposition(&bytes, source), Disposition::Accepted);
            }
        }
        assert_eq!(gateway.direct(DEVICE), (moved, Trust::Network));
        assert_eq!(gateway.direct(unknown).0, elsewhere());
        let device_level = uplink(&header(PacketType::TDF, Level::Device, DEVICE, 3), &[]);
        gateway.disposition(&device_level, elsewhere());
        assert_eq!(gateway.direct(DEVICE), (elsewhere(), Trust::Device));
    }
}

#[test]
fn r9_deny_drops_what_is_not_registered() {
    let config = TableConfig { unregistered: Unregistered::Deny, ..TableConfig::default() };
    let mut gateway = Gateway::new(RoutePolicy::Newest, &config);
    assert_eq!(gateway.disposition(&tdf(1), home()), Disposition::NotRegistered);
    gateway.core.table.register(DEVICE, gateway.now);
    assert_eq!(gateway.disposition(&tdf(1), home()), Disposition::Accepted);
}

fn entry(content: Content<'_>) -> Entry<'_> {
    let bt = BtAddress { kind: 1, bytes: [0x44, 0x33, 0x22, 0x11, 0x0a, 0xc4] };
    Entry { interface: RouteInterface::BtAdv, bt: Some(bt), rssi_dbm: -67, content }
}

fn container(entries: &[Entry<'_>], tail: &[u8], sequence: u16) -> Vec<u8> {
    let mut payload = Vec::new();
    for entry in entries {
        entry.encode(&mut payload).unwrap();
    }
    payload.extend_from_slice(tail);
    uplink(&header(PacketType::RECEIVED_EPACKET, Level::Device, RELAY, sequence), &payload)
}

fn relayed(level: Level, device: DeviceId, sequence: u16, payload: &[u8]) -> Vec<u8> {
    seal(&header(PacketType::TDF, level, device, sequence), Layout::Versioned, Interface::BtAdv, payload)
}

#[test]
fn packets_inside_a_container_have_routes_through_the_relay() {
    let mut gateway = Gateway::default();
    let opened = header(PacketType::TDF, Level::Device, DeviceId(5), 12);
    let sealed = relayed(Level::Device, DEVICE, 3, &announce(9));
    let payload = announce(8);
    let entries = [entry(Content::Opened { header: opened, payload: &payload }), entry(Content::Sealed(&sealed))];
    assert_eq!(gateway.disposition(&container(&entries, &[], 90), home()), Disposition::Accepted);
    assert_eq!(gateway.entries(Disposition::Accepted), 2);
    for (device, sequence, application) in [(DeviceId(5), 12, 8), (DEVICE, 3, 9)] {
        let snapshot = gateway.snapshot(device);
        let Some(Route::Relayed(route)) = snapshot.last_route else { panic!("{snapshot:?}") };
        assert_eq!((route.sequence, route.received_at, route.trust), (sequence, gateway.now, Trust::Device));
        let through = route.through;
        assert_eq!(
            (through.relay, through.level, through.address, through.sequence),
            (RELAY, Level::Device, home(), 90)
        );
        assert_eq!((through.interface, through.rssi_dbm), (RouteInterface::BtAdv, -67));
        assert_eq!(through.bt.unwrap().to_string(), "c4:0a:11:22:33:44");
        assert_eq!(snapshot.application.unwrap().id, application);
        assert_eq!(snapshot.direct, None);
    }
    assert_eq!(gateway.direct(RELAY).0, home());
}

/// A gateway with the network, the device and the relay of these organisations; 0 for the network is the configuration's.
fn owned(network: u32, public: bool, device: u32, relay: u32) -> Gateway {
    let gateway = Gateway::default();
    if network != 0 {
        let info = NetworkInfo { organisation: network, public };
        gateway.core.keys.set_network_of(NETWORK, root(Level::Network), info);
    }
    for (id, organisation) in [(DEVICE, device), (RELAY, relay)] {
        gateway.core.table.register(id, Registration { at: gateway.now, organisation, record: 0 });
    }
    gateway
}

#[test]
fn r8_a_private_network_speaks_for_devices_of_its_own_organisation_and_of_none() {
    for (network, public, device, accepted) in
        [(0, true, 2, true), (1, true, 2, true), (1, false, 1, true), (1, false, 0, true), (1, false, 2, false)]
    {
        let mut gateway = owned(network, public, device, 1);
        let expected = if accepted { Disposition::Accepted } else { Disposition::NotRegistered };
        assert_eq!(gateway.disposition(&tdf(1), home()), expected, "network of {network}, device of {device}");
        assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), accepted);
        let device_level = uplink(&header(PacketType::TDF, Level::Device, DEVICE, 2), &[]);
        assert_eq!(gateway.disposition(&device_level, home()), Disposition::Accepted, "it speaks for itself");
        let stranger = uplink(&header(PacketType::TDF, Level::Network, DeviceId(5), 1), &[]);
        assert_eq!(gateway.disposition(&stranger, home()), Disposition::Accepted, "nobody's");
    }
}

#[test]
fn r8_a_network_that_becomes_public_is_so_for_the_next_datagram() {
    let mut gateway = owned(1, false, 2, 1);
    assert_eq!(gateway.disposition(&tdf(1), home()), Disposition::NotRegistered);
    let info = NetworkInfo { organisation: 1, public: true };
    gateway.core.keys.set_network_of(NETWORK, root(Level::Network), info);
    assert_eq!(gateway.disposition(&tdf(1), home()), Disposition::Accepted);
}

#[test]
fn r8_relay_and_device_share_an_organisation_or_the_network_is_public() {
    // Whether packets of network level pass that are still encrypted, such that the relay decrypted, and any of device level.
    for (network, public, device, relay, [sealed, on_word, of_device]) in [
        (1, false, 1, 1, [true, true, true]),
        (1, false, 1, 2, [false, false, false]),
        // The relay may make up that they came under a public network.
        (1, true, 1, 2, [true, false, false]),
        (0, true, 1, 2, [true, false, false]),
        (2, false, 1, 2, [false, false, false]),
        (1, false, 1, 0, [true, true, true]),
        (1, false, 0, 2, [true, true, true]),
    ] {
        for (level, opened, passes) in [
            (Level::Network, false, sealed),
            (Level::Network, true, on_word),
            (Level::Device, false, of_device),
            (Level::Device, true, of_device),
        ] {
            let mut gateway = owned(network, public, device, relay);
            let sealed = relayed(level, DEVICE, 3, &[]);
            let content = match opened {
                true => Content::Opened { header: header(PacketType::TDF, level, DEVICE, 3), payload: &[] },
                false => Content::Sealed(&sealed),
            };
            gateway.disposition(&container(&[entry(content)], &[], 90), home());
            let expected = if passes { Disposition::Accepted } else { Disposition::NotRegistered };
            let case = format!("{network} {public} {device} {relay} {level:?} {opened}");
            assert_eq!(gateway.entries(expected), 1, "{case}");
            assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), passes, "{case}");
        }
    }
}

/// A packet that whoever has the network's key says to have decrypted, as a relay that nobody knows.
fn by_unknown_relay(gateway: &mut Gateway, inner: Header, payload: &[u8]) {
    let mut entries = Vec::new();
    entry(Content::Opened { header: inner, payload }).encode(&mut entries).unwrap();
    let outer = header(PacketType::RECEIVED_EPACKET, Level::Network, DeviceId(404), 1);
    assert_eq!(gateway.disposition(&uplink(&outer, &entries), home()), Disposition::Accepted);
}

#[test]
fn r8_what_a_relay_decrypted_passes_only_where_the_network_of_its_container_does() {
    let other = KeyId::from_le_bytes([9, 9, 9]);
    for (public, device, key_id, level, passes) in [
        (false, 2, DEVICE_KEY, Level::Device, false),
        (false, 2, other, Level::Network, false),
        (false, 2, KeyId::from_le_bytes([8, 0, 0]), Level::Network, false),
        (false, 2, NETWORK, Level::Network, false),
        (false, 1, DEVICE_KEY, Level::Device, true),
        (false, 0, other, Level::Network, true),
        (true, 2, NETWORK, Level::Network, true),
    ] {
        let mut gateway = owned(1, public, device, 1);
        // Of the configuration, so public; and not the one that the container came under.
        gateway.core.keys.set_network(other, RootKey::new([7; 32]));
        by_unknown_relay(&mut gateway, Header { key_id, ..header(PacketType::TDF, level, DEVICE, 3) }, &[]);
        let expected = if passes { Disposition::Accepted } else { Disposition::NotRegistered };
        assert_eq!(gateway.entries(expected), 1, "{public} {device} {key_id} {level:?}");
        assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), passes);
    }
}

#[test]
fn r8_a_report_that_a_relay_decrypted_sets_nothing_of_another_organisation() {
    let report = [&DEVICE.0.to_le_bytes()[..], &announce(9)].concat();
    let from = header(PacketType::TDF_REMOTE, Level::Network, DeviceId(5), 1);
    for (device, set) in [(1, true), (2, false)] {
        let mut gateway = owned(1, false, device, 1);
        let inner = Header { key_id: KeyId::from_le_bytes([8, 0, 0]), ..from };
        by_unknown_relay(&mut gateway, inner, &report);
        assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), set, "by the network of the container");
        let mut gateway = owned(0, true, device, 1);
        gateway.disposition(&container(&[entry(Content::Opened { header: from, payload: &report })], &[], 90), home());
        assert_eq!(gateway.entries(Disposition::Accepted), 1);
        assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), set, "by the relay");
    }
}

#[test]
fn r8_a_report_of_a_device_of_another_organisation_sets_nothing() {
    for (relay, set) in [(1, true), (2, false)] {
        let mut gateway = owned(1, false, 1, relay);
        let mut payload = DEVICE.0.to_le_bytes().to_vec();
        payload.extend(announce(9));
        let report = uplink(&header(PacketType::TDF_REMOTE, Level::Device, RELAY, 1), &payload);
        assert_eq!(gateway.disposition(&report, home()), Disposition::Accepted);
        assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), set);
    }
}

#[test]
fn the_two_slots_move_apart_and_the_last_route_is_the_one_set_last() {
    let mut gateway = Gateway::default();
    gateway.disposition(&tdf(1), elsewhere());
    let sealed = relayed(Level::Network, DEVICE, 3, &[]);
    gateway.disposition(&container(&[entry(Content::Sealed(&sealed))], &[], 90), home());
    let snapshot = gateway.snapshot(DEVICE);
    assert!(matches!(snapshot.last_route, Some(Route::Relayed(_))), "{snapshot:?}");
    assert_eq!(snapshot.direct.unwrap().address, elsewhere());
    gateway.disposition(&tdf(2), elsewhere());
    let snapshot = gateway.snapshot(DEVICE);
    assert_eq!((snapshot.last_route, snapshot.cursor.n), (snapshot.direct.map(Route::Direct), 3));
    assert!(snapshot.relayed.is_some());
}

#[test]
fn a_move_is_written_down_with_both_addresses_and_what_proved_it() {
    let mut gateway = Gateway::default();
    let mapped = SocketAddr::from((std::net::Ipv4Addr::new(198, 51, 100, 2).to_ipv6_mapped(), 41_000));
    gateway.disposition(&tdf(10), home());
    gateway.disposition(&tdf(9), elsewhere());
    assert_eq!(gateway.core.moves.latest(), [], "set and kept, not moved");
    gateway.disposition(&tdf(11), mapped);
    let at = gateway.now;
    let moved = Move { device_id: DEVICE, at, from: home(), to: elsewhere(), trust: Trust::Network };
    assert_eq!(gateway.core.moves.latest(), [moved]);
    gateway.disposition(&tdf(12), elsewhere());
    gateway.disposition(&uplink(&header(PacketType::TDF, Level::Device, DEVICE, 13), &[]), home());
    let back = Move { from: elsewhere(), to: home(), trust: Trust::Device, ..moved };
    assert_eq!(gateway.core.moves.latest(), [back, moved]);
}

#[test]
fn a_relayed_move_has_the_addresses_of_the_relays() {
    let mut gateway = Gateway::default();
    let [first, second] = [3, 4].map(|sequence| relayed(Level::Network, DEVICE, sequence, &[]));
    let other = Some(BtAddress { kind: 1, bytes: [9; 6] });
    gateway.disposition(&container(&[entry(Content::Sealed(&first))], &[], 90), home());
    let entries = [Entry { bt: other, ..entry(Content::Sealed(&second)) }];
    gateway.disposition(&container(&entries, &[], 91), elsewhere());
    let of_relay = Move { device_id: RELAY, at: gateway.now, from: home(), to: elsewhere(), trust: Trust::Device };
    let of_device = Move { device_id: DEVICE, trust: Trust::Network, ..of_relay };
    assert_eq!(gateway.core.moves.latest(), [of_device, of_relay]);
}

#[test]
fn a_relays_word_never_makes_a_direct_packet_look_old() {
    let mut gateway = Gateway::default();
    gateway.disposition(&tdf(1), home());
    let mut ahead = header(PacketType::TDF, Level::Network, DEVICE, 5000);
    ahead.gps_time += 100;
    gateway.disposition(&container(&[entry(Content::Opened { header: ahead, payload: &[] })], &[], 90), home());
    gateway.now = Timestamp::from_gps(NOW + 1);
    let mut next = header(PacketType::TDF, Level::Network, DEVICE, 2);
    next.gps_time += 1;
    assert_eq!(gateway.disposition(&uplink(&next, &[]), elsewhere()), Disposition::Accepted);
    assert_eq!(gateway.direct(DEVICE).0, elsewhere(), "and it moves the route");
}

#[test]
fn faults_of_entries_have_names_and_a_malformed_container_stands_up_to_its_fault() {
    let mut gateway = Gateway::default();
    let good = relayed(Level::Network, DEVICE, 1, &[]);
    let mut bad_tag = relayed(Level::Network, DEVICE, 2, &[]);
    *bad_tag.last_mut().unwrap() ^= 1;
    let mut version = relayed(Level::Network, DEVICE, 3, &[]);
    version[0] = 1;
    let unknown = relayed(Level::Device, DeviceId(404), 4, &[]);
    let reflected = header(PacketType::RPC_CMD, Level::Network, DEVICE, 5);
    let entries = [
        entry(Content::Sealed(&good)),
        entry(Content::Sealed(&good)),
        entry(Content::Sealed(&bad_tag)),
        entry(Content::Sealed(&version)),
        entry(Content::Sealed(&unknown)),
        entry(Content::Sealed(&good[..38])),
        entry(Content::Opened { header: reflected, payload: &[] }),
        Entry { interface: RouteInterface::Unknown(77), bt: None, ..entry(Content::Sealed(&good)) },
    ];
    assert_eq!(gateway.disposition(&container(&entries, &[9, 0], 90), home()), Disposition::Accepted);
    for disposition in [
        Disposition::Accepted,
        Disposition::Duplicate,
        Disposition::BadTag,
        Disposition::BadVersion,
        Disposition::UnknownDevice,
        Disposition::Short,
        Disposition::Reflected,
        Disposition::UnknownInterface,
    ] {
        assert_eq!(gateway.entries(disposition), 1, "{disposition:?}");
    }
    assert_eq!((gateway.pipeline.tally.malformed_containers, gateway.snapshot(RELAY).cursor.n), (1, 1));
}

#[test]
fn a_copied_container_counts_nothing_again() {
    let mut gateway = Gateway::default();
    let sealed = relayed(Level::Network, DEVICE, 1, &[]);
    let bytes = container(&[entry(Content::Sealed(&sealed))], &[], 90);
    gateway.disposition(&bytes, home());
    assert_eq!(gateway.disposition(&bytes, home()), Disposition::Duplicate);
    assert_eq!((gateway.entries(Disposition::Accepted), gateway.entries(Disposition::Duplicate)), (1, 0));
}

#[test]
fn r8_readings_of_another_device_set_its_application_if_it_is_registered_and_give_no_route() {
    let mut gateway = Gateway::default();
    let (registered, stranger) = (DeviceId(41), DeviceId(42));
    gateway.core.table.register(registered, gateway.now);
    for (sequence, remote) in [(1, registered), (2, stranger)] {
        let payload = [&remote.0.to_le_bytes()[..], &announce(6)].concat();
        let bytes = uplink(&header(PacketType::TDF_REMOTE, Level::Network, DEVICE, sequence), &payload);
        assert_eq!(gateway.disposition(&bytes, home()), Disposition::Accepted);
    }
    let snapshot = gateway.snapshot(registered);
    assert_eq!((snapshot.application.unwrap().id, snapshot.last_route, snapshot.cursor.n), (6, None, 0));
    assert_eq!(gateway.core.table.snapshot(stranger), None);
    assert_eq!(gateway.snapshot(DEVICE).application, None);
}

#[test]
fn a_counted_packet_wakes_its_waiters_and_others_do_not() {
    let mut gateway = Gateway::default();
    let core = gateway.core.clone();
    let cursor = || core.table.cursor(DEVICE).n;
    let mut wait = std::pin::pin!(core.waiters.wait(DEVICE, || (cursor() > 1).then(cursor)));
    let mut poll = || wait.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(poll().is_pending());
    let woken = |gateway: &Gateway| gateway.core.waiters.woken();
    gateway.disposition(&tdf(1), home());
    assert_eq!((woken(&gateway), poll().is_pending()), (1, true));
    gateway.disposition(&tdf(1), elsewhere());
    gateway.disposition(&uplink(&header(PacketType::TDF, Level::Network, RELAY, 1), &[]), home());
    assert_eq!(woken(&gateway), 1);
    gateway.disposition(&tdf(2), home());
    assert_eq!((woken(&gateway), poll()), (2, std::task::Poll::Ready(Ok(2))));
}
