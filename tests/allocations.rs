//! A packet takes nothing from the heap: once every device is known, whatever comes in is judged, written down, traced and
//! acknowledged in memory that is there. And keeping records takes no more for many devices. A test binary of its own, because its allocator counts.
#![cfg(feature = "server")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use allocation_counter::measure;
use lastroute::auth::keys::{DayKey, DeviceKey, Interface, KeyPair, KeyRing, RootKey};
use lastroute::auth::nonce::OwnNonces;
use lastroute::auth::seal_with;
use lastroute::clock::{Clock, Timestamp};
use lastroute::downlink::Downlinks;
use lastroute::downlink::channel::channel;
use lastroute::downlink::outbox::OutboxConfig;
use lastroute::id::{DeviceId, KeyId};
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline, RefusalLog};
use lastroute::ingest::replies::Replies;
use lastroute::metrics::Disposition;
use lastroute::store::{INTERVAL, Keeper, Parts, Stats, Store};
use lastroute::table::route::Application;
use lastroute::table::sending::Via;
use lastroute::table::{Registration, RoutePolicy, RouteTable, TableConfig};
use lastroute::waiters::{Waiters, WaitersConfig};
use lastroute::wire::frame::{Flags, Header, Layout, Level, PacketType};
use lastroute::wire::tdf::Version;

const NOW: Timestamp = Timestamp::from_gps(1_479_435_219);
const NETWORK: KeyId = KeyId::from_le_bytes([0x17, 0x0a, 0]);
const DEVICE_KEY: KeyId = KeyId::from_le_bytes([0x33, 0x44, 0x55]);
const DEVICES: usize = 1000;
const BATCH: usize = 64;

/// Packets of each device before anything is counted: what is kept of a device has its size then.
const WARM_UP: usize = 20;

fn root(level: Level) -> RootKey {
    RootKey::new(if level == Level::Network { [1; 32] } else { [2; 32] })
}

fn device(index: usize) -> DeviceId {
    DeviceId(0xd000_0000_0000_0000 | (index as u64).wrapping_mul(0x9e37_79b9))
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 | index as u32), 6200))
}

/// Every second device reports at device level. All have a key, and every third one is registered with an organisation.
fn level(index: usize) -> Level {
    if index.is_multiple_of(2) { Level::Network } else { Level::Device }
}

fn core() -> Arc<Core> {
    let keys = KeyRing::default();
    keys.set_network(NETWORK, root(Level::Network));
    let table = RouteTable::new(&TableConfig::default());
    for index in 0..DEVICES {
        keys.set_device(device(index), DeviceKey { key_id: Some(DEVICE_KEY), root: root(Level::Device) }, None);
        if index.is_multiple_of(3) {
            table.register(device(index), Registration { at: NOW, organisation: 5, record: index as u32 + 1 });
        }
    }
    let downlinks = Downlinks::new(OutboxConfig::default(), channel().0);
    downlinks.allowance.extend(u32::MAX);
    Arc::new(Core {
        keys: Arc::new(keys),
        table: Arc::new(table),
        waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
        downlinks: Arc::new(downlinks),
        nonces: Arc::new(OwnNonces::new(&KeyPair::from_private([3; 32]), NOW)),
        policy: RoutePolicy::Newest,
        refusals: RefusalLog::default(),
        moves: Arc::default(),
        traces: Arc::default(),
    })
}

/// A datagram and the address it comes from.
type Packet = (Vec<u8>, SocketAddr);

/// Seals what the devices say, one after the other.
struct Fleet {
    keys: [DayKey; 2],
    packets: usize,
}

impl Fleet {
    fn new() -> Self {
        let key = |level| root(level).day_key(Interface::Udp, NOW.gps() / 86_400);
        Self { keys: [Level::Network, Level::Device].map(key), packets: 0 }
    }

    fn packet(&mut self, flags: u16) -> Packet {
        let (index, sequence) = (self.packets % DEVICES, self.packets / DEVICES + 1);
        self.packets += 1;
        let (key, key_id, of_level) = match level(index) {
            Level::Network => (&self.keys[0], NETWORK, 0),
            Level::Device => (&self.keys[1], DEVICE_KEY, Flags::DEVICE_KEY),
        };
        let header = Header {
            packet_type: PacketType::TDF,
            flags: Flags(flags | of_level),
            key_id,
            device_id: device(index),
            gps_time: NOW.gps(),
            sequence: sequence as u16,
            entropy: sequence as u16 ^ 0x5aa5,
        };
        // One reading of unknown meaning, of 20 bytes.
        let mut payload = [0x11; 23];
        payload[..3].copy_from_slice(&[0x20, 0x00, 20]);
        let mut bytes = Vec::new();
        seal_with(key, &header, Layout::Unversioned, &payload, &mut bytes);
        (bytes, address(index))
    }

    fn packets(&mut self, count: usize, flags: u16) -> Vec<Packet> {
        (0..count).map(|_| self.packet(flags)).collect()
    }
}

/// A gateway that has heard every device [`WARM_UP`] times, and whoever sends to it.
struct Site {
    fleet: Fleet,
    pipeline: Pipeline,
    replies: Replies,
}

impl Site {
    fn new() -> Self {
        let mut site = Self { fleet: Fleet::new(), pipeline: Pipeline::new(core()), replies: Replies::default() };
        let asking = Flags::ACK_REQUEST;
        for flags in [0, asking] {
            let packets = site.fleet.packets(DEVICES * WARM_UP / 2, flags);
            assert_eq!(
                site.take(packets).datagrams[Disposition::Accepted as usize],
                DEVICES as u64 * WARM_UP as u64 / 2
            );
        }
        site
    }

    /// Takes datagrams in as the loop of a socket does, and returns what came of them.
    fn take(&mut self, mut packets: Vec<Packet>) -> Came {
        let (mut replies, mut datagrams) = (0, [0; Disposition::ALL.len()]);
        let heap = measure(|| {
            for batch in packets.chunks_mut(BATCH) {
                self.pipeline.prefetch(batch.iter().map(|(bytes, _)| bytes.as_slice()));
                for (bytes, source) in batch {
                    let datagram = Datagram { bytes, truncated: false, source: *source, via: Via::UNKNOWN, at: NOW };
                    datagrams[self.pipeline.take(datagram, &mut self.replies) as usize] += 1;
                    replies += self.replies.iter().len() as u64;
                }
                self.pipeline.wake();
            }
        });
        Came { datagrams, replies, allocations: heap.count_total }
    }
}

/// What came of datagrams.
struct Came {
    datagrams: [u64; Disposition::ALL.len()],
    replies: u64,
    allocations: u64,
}

impl Came {
    /// How many ended so, how many were answered, and what they took from the heap.
    fn ended_in(&self, disposition: Disposition) -> (u64, u64, u64) {
        (self.datagrams[disposition as usize], self.replies, self.allocations)
    }
}

#[test]
fn ten_thousand_packets_of_known_devices_allocate_nothing() {
    let mut site = Site::new();
    let packets = site.fleet.packets(10_000, 0);
    assert_eq!(site.take(packets).ended_in(Disposition::Accepted), (10_000, 0, 0));
}

#[test]
fn their_acknowledgements_allocate_nothing() {
    let mut site = Site::new();
    let packets = site.fleet.packets(10_000, Flags::ACK_REQUEST);
    assert_eq!(site.take(packets).ended_in(Disposition::Accepted), (10_000, 10_000, 0));
}

#[test]
fn copies_and_what_is_refused_allocate_nothing() {
    let mut site = Site::new();
    let packets = site.fleet.packets(10_000, 0);
    site.take(packets.clone());
    assert_eq!(site.take(packets.clone()).ended_in(Disposition::Duplicate), (10_000, 0, 0));
    let changed = |change: fn(&mut Vec<u8>)| -> Vec<Packet> {
        let mut packets = packets.clone();
        packets.iter_mut().for_each(|(bytes, _)| change(bytes));
        packets
    };
    let spoilt = changed(|bytes| *bytes.last_mut().unwrap() ^= 1);
    assert_eq!(site.take(spoilt).ended_in(Disposition::BadTag), (10_000, 0, 0));
    let short = changed(|bytes| bytes.truncate(37));
    assert_eq!(site.take(short).ended_in(Disposition::Short), (10_000, 0, 0));
    // Of networks and devices that nobody knows: docs/protocol.md, frames.
    let unknown = changed(|bytes| bytes[5] ^= 0xff);
    let came = site.take(unknown);
    assert_eq!(came.ended_in(Disposition::UnknownNetwork), (5_000, 0, 0));
    assert_eq!(came.ended_in(Disposition::UnknownKey), (5_000, 0, 0));
}

/// The most bytes of the heap that are in use at once while the records of so many devices are written down for the first time.
fn first_checkpoint(devices: usize) -> u64 {
    let core = core();
    let application = Application { id: 5, version: Version { major: 1, minor: 2, revision: 3, build: 4 } };
    for index in 0..devices {
        core.table.register(device(index), NOW);
        core.table.set_application(device(index), application, NOW);
    }
    let (data, stats) = (tempfile::tempdir().unwrap(), Arc::<Stats>::default());
    let parts = Parts {
        table: core.table.clone(),
        keys: core.keys.clone(),
        clock: Clock::default(),
        health: Arc::default(),
        stats: stats.clone(),
    };
    let store = Store::open(data.path(), false, NOW).unwrap();
    let (keeper, orders) = Keeper::begin(store, 1, parts, INTERVAL).unwrap();
    orders.stop();
    let heap = measure(|| keeper.run());
    assert_eq!(stats.rows(), devices as u64);
    heap.bytes_max
}

#[test]
fn to_write_down_the_records_of_many_devices_for_the_first_time_takes_no_more_memory_than_of_few() {
    let [few, many] = [5_000, 50_000].map(first_checkpoint);
    assert!(many < few + 10_000 && few < 300_000, "{few} and {many} bytes");
}

#[test]
fn what_allocates_is_seen() {
    assert_eq!(measure(|| drop(std::hint::black_box(vec![1_u8; 100]))).count_total, 1);
    let mut site = Site { fleet: Fleet::new(), pipeline: Pipeline::new(core()), replies: Replies::default() };
    let packets = site.fleet.packets(DEVICES, 0);
    let (accepted, _, allocations) = site.take(packets).ended_in(Disposition::Accepted);
    assert!(accepted == DEVICES as u64 && allocations > 0, "the table grows with its first devices");
}
