//! A gateway without sockets and a fleet of devices without state: what the benchmarks share.
#![allow(dead_code, reason = "no benchmark needs all of it")]

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use lastroute::auth::keys::{DayKey, DeviceKey, Interface, KeyPair, KeyRing, RootKey};
use lastroute::auth::nonce::OwnNonces;
use lastroute::auth::seal_with;
use lastroute::clock::Timestamp;
use lastroute::downlink::Downlinks;
use lastroute::downlink::channel::channel;
use lastroute::downlink::outbox::OutboxConfig;
use lastroute::id::{DeviceId, KeyId};
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline, RefusalLog};
use lastroute::ingest::replies::Replies;
use lastroute::table::sending::Via;
use lastroute::table::{RoutePolicy, RouteTable, TableConfig};
use lastroute::waiters::{Waiters, WaitersConfig};
use lastroute::wire::frame::{Flags, Header, Layout, PacketType};

pub(crate) const NETWORK: KeyId = KeyId::from_le_bytes([0x17, 0x0a, 0x00]);

/// The root key of that network.
pub(crate) const ROOT: [u8; 32] = [0x42; 32];

/// Bytes of payload that make a datagram of 100 bytes.
pub(crate) const PAYLOAD: usize = 62;

/// A gateway that knows one network.
pub(crate) fn core(now: Timestamp) -> Arc<Core> {
    let keys = KeyRing::default();
    keys.set_network(NETWORK, root());
    let downlinks = Downlinks::new(OutboxConfig::default(), channel().0);
    downlinks.allowance.extend(u32::MAX);
    Arc::new(Core {
        keys: Arc::new(keys),
        table: Arc::new(RouteTable::new(&TableConfig { unregistered_limit: usize::MAX, ..TableConfig::default() })),
        waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
        downlinks: Arc::new(downlinks),
        nonces: Arc::new(OwnNonces::new(&KeyPair::from_private([3; 32]), now)),
        policy: RoutePolicy::Newest,
        refusals: RefusalLog::default(),
        moves: Arc::default(),
        traces: Arc::default(),
    })
}

/// The key id of every device's own key.
const OWN_KEY: KeyId = KeyId::from_le_bytes([1, 2, 3]);

/// Lets a gateway know the own key of a device.
pub(crate) fn know_own_key(core: &Core, index: u64) {
    core.keys.set_device(device(index), DeviceKey { key_id: Some(OWN_KEY), root: own_root(index) }, None);
}

fn root() -> RootKey {
    RootKey::new(ROOT)
}

fn own_root(index: u64) -> RootKey {
    let mut bytes = ROOT;
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    RootKey::new(bytes)
}

/// Seals packets of any device of the network.
pub(crate) struct Fleet {
    key: DayKey,
    gps_time: u32,
}

impl Fleet {
    pub(crate) fn new(now: Timestamp) -> Self {
        let gps_time = now.gps();
        Self { key: root().day_key(Interface::Udp, gps_time / 86_400), gps_time }
    }

    /// The packet number `sequence` of device `index`, a TDF of 62 bytes that is one reading of unknown meaning.
    pub(crate) fn packet(&self, index: u64, sequence: u16, flags: u16, out: &mut Vec<u8>) {
        self.seal(&self.key, NETWORK, (index, sequence, flags), out);
    }

    /// The same, sealed with the key of the device.
    pub(crate) fn own_packet(&self, index: u64, sequence: u16, out: &mut Vec<u8>) {
        let key = own_root(index).day_key(Interface::Udp, self.gps_time / 86_400);
        self.seal(&key, OWN_KEY, (index, sequence, Flags::DEVICE_KEY), out);
    }

    fn seal(&self, key: &DayKey, key_id: KeyId, (index, sequence, flags): (u64, u16, u16), out: &mut Vec<u8>) {
        let header = Header {
            packet_type: PacketType::TDF,
            flags: Flags(flags),
            key_id,
            device_id: device(index),
            gps_time: self.gps_time,
            sequence,
            entropy: sequence ^ 0x5aa5,
        };
        let mut payload = [0x11; PAYLOAD];
        payload[..3].copy_from_slice(&[0x20, 0x00, (PAYLOAD - 3) as u8]);
        out.clear();
        seal_with(key, &header, Layout::Unversioned, &payload, out);
    }
}

/// Has the pipeline take in the first packet of each of these devices, from `source`. It has counted nothing afterwards.
pub(crate) fn hear(
    pipeline: &mut Pipeline,
    fleet: &Fleet,
    devices: Range<u64>,
    flags: u16,
    source: SocketAddr,
    at: Timestamp,
) {
    let (mut bytes, mut replies) = (Vec::new(), Replies::default());
    for index in devices {
        fleet.packet(index, 0, flags, &mut bytes);
        pipeline.take(Datagram { bytes: &mut bytes, truncated: false, source, via: Via::UNKNOWN, at }, &mut replies);
    }
    pipeline.wake();
    pipeline.tally = Default::default();
}

/// Device ids as factories give them: a common upper half, scattered lower bits.
pub(crate) fn device(index: u64) -> DeviceId {
    DeviceId(0xd291_d4d6_0000_0000 | (index.wrapping_mul(0x9e37_79b9) & 0xffff_ffff))
}

/// The address device `index` speaks from.
pub(crate) fn address(index: u64) -> SocketAddr {
    let ip = Ipv4Addr::from_bits(0x0a00_0000 | (index as u32 & 0x00ff_ffff));
    SocketAddr::from((ip, 6200))
}
