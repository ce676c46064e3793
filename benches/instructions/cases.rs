//! What is counted: the steps of a packet by themselves, and all of them together.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

use lastroute::auth::keys::{DayKey, DeviceKey, Interface, KeyPair, KeyRing, RootKey};
use lastroute::auth::nonce::OwnNonces;
use lastroute::auth::{Authenticator, Verified, seal_with};
use lastroute::clock::Timestamp;
use lastroute::id::{DeviceId, KeyId};
use lastroute::metrics::Disposition;
use lastroute::table::accept::Acceptance;
use lastroute::table::claims::Claims;
use lastroute::table::route::{Outcome, Path};
use lastroute::table::{Packet, RoutePolicy, RouteTable, TableConfig};
use lastroute::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};

/// A thing to count.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Does it with [`PACKETS`].
    pub(crate) run: fn(),
}

pub(crate) const CASES: [Case; 9] = [
    Case { name: "parse", run: parse },
    Case { name: "open", run: || open(Level::Network) },
    Case { name: "open device level", run: || open(Level::Device) },
    Case { name: "record", run: record },
    Case { name: "whole packet", run: || whole(Level::Network) },
    Case { name: "whole device level", run: || whole(Level::Device) },
    Case { name: "acknowledgement", run: acknowledge },
    Case { name: "copy", run: copy },
    Case { name: "bad tag", run: bad_tag },
];

/// In here instructions are counted. Nothing else calls it, and it is never made part of its caller.
#[inline(never)]
pub(crate) fn counted(run: &mut dyn FnMut()) {
    run();
}

const NOW: Timestamp = Timestamp::from_gps(1_479_435_219);
const NETWORK: KeyId = KeyId::from_le_bytes([0x17, 0x0a, 0]);
const DEVICE_KEY: KeyId = KeyId::from_le_bytes([0x33, 0x44, 0x55]);
const DEVICES: u64 = 1000;

/// As a socket gives them.
const BATCH: usize = 64;

/// Packets of a run: each device twice, and a little more.
pub(crate) const PACKETS: u64 = 32 * BATCH as u64;

/// A gateway without sockets, which has heard all of its devices.
struct Gateway {
    keys: KeyRing,
    authenticator: Authenticator,
    table: RouteTable,
    nonces: OwnNonces,
    claims: Claims,
}

impl Gateway {
    /// Whose devices speak at this level.
    fn new(level: Level) -> Self {
        let keys = KeyRing::default();
        keys.set_network(NETWORK, root(Level::Network));
        for index in 0..DEVICES {
            keys.set_device(device(index), DeviceKey { key_id: Some(DEVICE_KEY), root: root(Level::Device) }, None);
        }
        let mut gateway = Self {
            keys,
            authenticator: Authenticator::default(),
            table: RouteTable::new(&TableConfig::default()),
            nonces: OwnNonces::new(&KeyPair::from_private([3; 32]), NOW),
            claims: Claims::default(),
        };
        for round in 0..2 {
            let mut packets = packets(level, round * DEVICES, DEVICES);
            assert_eq!(gateway.take(&mut packets), DEVICES);
        }
        gateway
    }

    /// Takes packets in, in batches; returns how many counted.
    fn take(&mut self, packets: &mut [Vec<u8>]) -> u64 {
        let mut accepted = 0;
        for (number, batch) in packets.chunks_mut(BATCH).enumerate() {
            self.claims.prefetch(&self.keys, &self.table, batch.iter().map(Vec::as_slice));
            for (index, bytes) in (number * BATCH..).zip(batch) {
                accepted +=
                    u64::from(self.packet(bytes, &Path::Direct(address(index as u64))) == Disposition::Accepted);
            }
        }
        accepted
    }

    fn packet(&mut self, bytes: &mut [u8], path: &Path) -> Disposition {
        let frame = match Frame::parse(bytes, Layout::Unversioned) {
            Ok(frame) => frame,
            Err(error) => return error.into(),
        };
        let verified = match self.authenticator.open(&self.keys, frame, Interface::Udp, NOW) {
            Ok(verified) => verified,
            Err(refusal) => return refusal.into(),
        };
        let (keys, table, nonces) = (&self.keys, &self.table, Some(&self.nonces));
        let acceptance = Acceptance { keys, keyed: None, table, nonces, policy: RoutePolicy::Newest };
        acceptance.accept(&verified, path, NOW, false).disposition()
    }
}

fn root(level: Level) -> RootKey {
    RootKey::new(if level == Level::Network { [1; 32] } else { [2; 32] })
}

/// Scattered, so that neighbours share nothing.
fn device(index: u64) -> DeviceId {
    DeviceId(0xd291_d4d6_0000_0000 | (index.wrapping_mul(0x9e37_79b9) & 0xffff_ffff))
}

fn address(index: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 | (index % DEVICES) as u32), 6200))
}

/// So many packets of 100 bytes, one of each device and then the next of each, of which `sent` were sent before.
fn packets(level: Level, sent: u64, count: u64) -> Vec<Vec<u8>> {
    let key = root(level).day_key(Interface::Udp, NOW.gps() / 86_400);
    (0..count).map(|number| packet(&key, level, number % DEVICES, ((sent + number) / DEVICES) as u16)).collect()
}

fn packet(key: &DayKey, level: Level, index: u64, sequence: u16) -> Vec<u8> {
    let (flags, key_id) = match level {
        Level::Network => (0, NETWORK),
        Level::Device => (Flags::DEVICE_KEY, DEVICE_KEY),
    };
    let header = Header {
        packet_type: PacketType::TDF,
        flags: Flags(flags),
        key_id,
        device_id: device(index),
        gps_time: NOW.gps(),
        sequence,
        entropy: sequence ^ 0x5aa5,
    };
    // One reading of unknown meaning.
    let mut payload = [0x11; 62];
    payload[..3].copy_from_slice(&[0x20, 0x00, 59]);
    let mut out = Vec::new();
    seal_with(key, &header, Layout::Unversioned, &payload, &mut out);
    out
}

/// What is sent to a gateway that has heard all devices.
fn next_packets(level: Level) -> Vec<Vec<u8>> {
    packets(level, 2 * DEVICES, PACKETS)
}

fn parse() {
    let mut packets = next_packets(Level::Network);
    counted(&mut || {
        for bytes in &mut packets {
            black_box(Frame::parse(bytes, Layout::Unversioned).unwrap().header());
        }
    });
}

fn frames(packets: &mut [Vec<u8>]) -> impl Iterator<Item = Frame<'_>> {
    packets.iter_mut().map(|bytes| Frame::parse(bytes, Layout::Unversioned).unwrap())
}

fn open(level: Level) {
    let (mut gateway, mut packets) = (Gateway::new(level), next_packets(level));
    let mut frames: Vec<_> = frames(&mut packets).map(Some).collect();
    let mut opened = 0;
    counted(&mut || {
        for frame in frames.iter_mut().filter_map(Option::take) {
            let verified = gateway.authenticator.open(&gateway.keys, frame, Interface::Udp, NOW);
            opened += u64::from(black_box(&verified).is_ok());
        }
    });
    assert_eq!(opened, PACKETS);
}

fn record() {
    let (mut gateway, mut packets) = (Gateway::new(Level::Network), next_packets(Level::Network));
    let Gateway { authenticator, keys, table, .. } = &mut gateway;
    let verified: Vec<Verified<'_>> =
        frames(&mut packets).map(|frame| authenticator.open(keys, frame, Interface::Udp, NOW).unwrap()).collect();
    let paths: Vec<_> = (0..PACKETS).map(|number| Path::Direct(address(number))).collect();
    let mut recorded = 0;
    counted(&mut || {
        for (verified, path) in verified.iter().zip(&paths) {
            let outcome = table.record(&Packet::new(verified, path, NOW));
            recorded += u64::from(matches!(outcome, Outcome::Counted(_)));
        }
    });
    assert_eq!(recorded, PACKETS);
}

fn whole(level: Level) {
    let (mut gateway, mut packets) = (Gateway::new(level), next_packets(level));
    let mut accepted = 0;
    counted(&mut || accepted = gateway.take(&mut packets));
    assert_eq!(accepted, PACKETS);
}

fn copy() {
    let (mut gateway, mut packets) = (Gateway::new(Level::Network), next_packets(Level::Network));
    let mut copies = packets.clone();
    assert_eq!(gateway.take(&mut packets), PACKETS);
    let mut accepted = PACKETS;
    counted(&mut || accepted = gateway.take(&mut copies));
    assert_eq!(accepted, 0);
}

fn bad_tag() {
    let (mut gateway, mut packets) = (Gateway::new(Level::Network), next_packets(Level::Network));
    packets.iter_mut().for_each(|bytes| *bytes.last_mut().unwrap() ^= 1);
    let mut accepted = PACKETS;
    counted(&mut || accepted = gateway.take(&mut packets));
    assert_eq!(accepted, 0);
}

/// Sealing only: that a packet asks is seen when it is recorded.
fn acknowledge() {
    let mut gateway = Gateway::new(Level::Network);
    let mut out = Vec::with_capacity(64);
    let header = |number: u64| Header {
        packet_type: PacketType::ACK,
        flags: Flags(0),
        key_id: NETWORK,
        device_id: device(number % DEVICES),
        gps_time: NOW.gps(),
        sequence: number as u16,
        entropy: gateway.nonces.entropy(device(number % DEVICES), NOW.gps(), number as u16),
    };
    let headers: Vec<_> = (0..PACKETS).map(header).collect();
    let mut sealed = 0;
    counted(&mut || {
        for header in &headers {
            out.clear();
            let (keys, layout) = (&gateway.keys, Layout::Unversioned);
            let seal = gateway.authenticator.seal(keys, header, layout, Interface::Udp, &[1, 2], &mut out);
            sealed += u64::from(black_box(seal).is_ok());
        }
    });
    assert_eq!(sealed, PACKETS);
}
