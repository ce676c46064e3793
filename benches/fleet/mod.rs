//! A gateway without sockets and a fleet of devices without state: what the benchmarks share.
#![allow(dead_code, unused_imports, reason = "no benchmark needs all of it")]

use std::net::SocketAddr;
use std::ops::Range;

use lastroute::auth::keys::{DeviceKey, Interface, RootKey};
use lastroute::clock::Timestamp;
use lastroute::id::KeyId;
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline};
use lastroute::ingest::replies::Replies;
use lastroute::measure::fleet;
pub(crate) use lastroute::measure::fleet::{NETWORK, ROOT, address, core, device};
use lastroute::table::sending::Via;
use lastroute::wire::frame::Flags;

/// The key id of every device's own key.
const OWN_KEY: KeyId = KeyId::from_le_bytes([1, 2, 3]);

/// Lets a gateway know the own key of a device.
pub(crate) fn know_own_key(core: &Core, index: u64) {
    core.keys.set_device(device(index), DeviceKey { key_id: Some(OWN_KEY), root: own_root(index) }, None);
}

fn own_root(index: u64) -> RootKey {
    let mut bytes = ROOT;
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    RootKey::new(bytes)
}

/// Seals packets of any device, one at a time.
pub(crate) struct Fleet {
    fleet: fleet::Fleet,
    day: u32,
}

impl Fleet {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { fleet: fleet::Fleet::new(now), day: now.gps() / 86_400 }
    }

    /// The packet number `sequence` of device `index`, by the key of the network.
    pub(crate) fn packet(&self, index: u64, sequence: u16, flags: u16, out: &mut Vec<u8>) {
        out.clear();
        self.fleet.packet(index, sequence, flags, out);
    }

    /// The same, by a key with another id that is the network's otherwise.
    pub(crate) fn packet_by(&self, key_id: KeyId, index: u64, sequence: u16, flags: u16, out: &mut Vec<u8>) {
        let key = RootKey::new(ROOT).day_key(Interface::Udp, self.day);
        out.clear();
        self.fleet.sealed_with(&key, key_id, (index, sequence, flags), out);
    }

    /// The same, by the key of the device.
    pub(crate) fn own_packet(&self, index: u64, sequence: u16, out: &mut Vec<u8>) {
        let key = own_root(index).day_key(Interface::Udp, self.day);
        out.clear();
        self.fleet.sealed_with(&key, OWN_KEY, (index, sequence, Flags::DEVICE_KEY), out);
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
