//! One datagram from end to end, without sockets: what it ends in, what it changes, what is answered.
#![cfg(feature = "server")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod attacks;
mod device;
mod downlinks;
mod flips;
mod questions;
mod relays;
mod threads;
mod worked;

use std::net::SocketAddr;
use std::sync::Arc;

use lastroute::auth::keys::{DeviceKey, Interface, KeyPair, KeyRing, RootKey};
use lastroute::auth::nonce::OwnNonces;
use lastroute::auth::{open_with, seal_with};
use lastroute::clock::Timestamp;
use lastroute::downlink::Downlinks;
use lastroute::downlink::channel::{EventReceiver, channel};
use lastroute::downlink::outbox::OutboxConfig;
use lastroute::id::{DeviceId, KeyId};
use lastroute::ingest::moves::Move;
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline, RefusalLog};
use lastroute::ingest::replies::{Replies, Reply};
use lastroute::metrics::{Disposition, DownlinkKind};
use lastroute::table::route::{Route, Snapshot, Trust};
use lastroute::table::rules::NO_TIME_START;
use lastroute::table::sending::Via;
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

/// The way all datagrams come in.
const VIA: Via = Via(3);

struct Gateway {
    core: Arc<Core>,
    pipeline: Pipeline,
    now: Timestamp,
    events: EventReceiver,
}

/// What the gateway sends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    to: SocketAddr,
    via: Via,
    kind: DownlinkKind,
    bytes: Vec<u8>,
}

impl Gateway {
    fn new(policy: RoutePolicy, table: &TableConfig) -> Self {
        let keys = KeyRing::default();
        keys.set_network(NETWORK, root(Level::Network));
        for device in [DEVICE, RELAY] {
            keys.set_device(device, DeviceKey { key_id: Some(DEVICE_KEY), root: root(Level::Device) }, None);
        }
        let now = Timestamp::from_gps(NOW);
        let (sender, events) = channel();
        let downlinks = Downlinks::new(OutboxConfig::default(), sender);
        downlinks.allowance.extend(u32::MAX);
        let core = Arc::new(Core {
            keys: Arc::new(keys),
            table: Arc::new(RouteTable::new(table)),
            waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
            downlinks: Arc::new(downlinks),
            nonces: Arc::new(OwnNonces::new(&KeyPair::from_private([3; 32]), now)),
            policy,
            refusals: RefusalLog::default(),
            moves: Arc::default(),
            traces: Arc::default(),
        });
        Self { pipeline: Pipeline::new(core.clone()), core, now, events }
    }

    fn take(&mut self, bytes: &[u8], source: SocketAddr) -> (Disposition, Vec<u8>) {
        let (disposition, replies) = self.replies(bytes, source);
        assert!(replies.len() <= 1 && replies.iter().all(|reply| (reply.to, reply.via) == (source, VIA)));
        (disposition, replies.into_iter().flat_map(|reply| reply.bytes).collect())
    }

    /// Takes a datagram in, and wakes those who wait for it.
    fn replies(&mut self, bytes: &[u8], source: SocketAddr) -> (Disposition, Vec<Answer>) {
        let (mut bytes, mut replies) = (bytes.to_vec(), Replies::default());
        let datagram = Datagram { bytes: &mut bytes, truncated: false, source, via: VIA, at: self.now };
        let disposition = self.pipeline.take(datagram, &mut replies);
        self.pipeline.wake();
        let owned =
            |reply: Reply<'_>| Answer { to: reply.to, via: reply.via, kind: reply.kind, bytes: reply.bytes.to_vec() };
        (disposition, replies.iter().map(owned).collect())
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
fn r0_every_flipped_bit_is_refused_by_name_and_never_answered() {
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
fn r0_short_and_oversize_datagrams_are_refused_by_name() {
    let mut gateway = Gateway::default();
    for len in 0..38 {
        assert_eq!(gateway.disposition(&vec![0x7f; len], home()), Disposition::Short, "{len}");
    }
    assert_eq!(gateway.disposition(&[0; 38], home()), Disposition::UnknownNetwork);
    assert_eq!(gateway.disposition(&vec![0; 2048], home()), Disposition::UnknownNetwork);
    assert_eq!(gateway.disposition(&vec![0; 2049], home()), Disposition::Oversize);
    let (mut bytes, mut replies) = (tdf(1), Replies::default());
    let datagram = Datagram { bytes: &mut bytes, truncated: true, source: home(), via: VIA, at: gateway.now };
    assert_eq!(gateway.pipeline.take(datagram, &mut replies), Disposition::Oversize);
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
    let (copy, sent) = gateway.replies(&tdf(1), elsewhere());
    assert_eq!(copy, Disposition::Duplicate);
    assert!(sent.iter().all(|answer| answer.kind == DownlinkKind::Echo), "both are asked");
    gateway.disposition(&uplink(&header(PacketType::TDF, Level::Network, RELAY, 1), &[]), home());
    assert_eq!(woken(&gateway), 1);
    gateway.disposition(&tdf(2), home());
    assert_eq!((woken(&gateway), poll()), (2, std::task::Poll::Ready(Ok(2))));
}
