//! A gateway without sockets, and a fleet of devices without state whose packets it counts.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::auth::keys::{DayKey, Interface, KeyPair, KeyRing, RootKey};
use crate::auth::nonce::OwnNonces;
use crate::auth::seal_with;
use crate::clock::{SECONDS_PER_DAY, Timestamp};
use crate::downlink::Downlinks;
use crate::downlink::channel::channel;
use crate::downlink::outbox::OutboxConfig;
use crate::id::{DeviceId, KeyId};
use crate::ingest::pipeline::{Core, RefusalLog};
use crate::table::{RoutePolicy, RouteTable, TableConfig};
use crate::waiters::{Waiters, WaitersConfig};
use crate::wire::frame::{Flags, Header, Layout, PacketType};

/// The network of the fleet.
pub const NETWORK: KeyId = KeyId::from_le_bytes([0x17, 0x0a, 0x00]);

/// Bytes of payload that make a datagram of 100 bytes.
const PAYLOAD: usize = 62;

/// A gateway that knows the network, and remembers any number of devices. It may seal as much as it likes.
pub fn core(now: Timestamp) -> Arc<Core> {
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

/// The root key of the network. It protects nothing: no gateway but those that are measured knows it.
pub const ROOT: [u8; 32] = [0x42; 32];

fn root() -> RootKey {
    RootKey::new(ROOT)
}

/// Seals packets of any device of the network.
#[derive(Debug)]
pub struct Fleet {
    key: DayKey,
    gps_time: u32,
}

impl Fleet {
    /// Whose packets are all of this moment.
    pub fn new(now: Timestamp) -> Self {
        let gps_time = now.gps();
        Self { key: root().day_key(Interface::Udp, gps_time / SECONDS_PER_DAY), gps_time }
    }

    /// Appends the packet number `sequence` of device `index`: a TDF of 62 bytes that is one reading of unknown meaning.
    pub fn packet(&self, index: u64, sequence: u16, flags: u16, out: &mut Vec<u8>) {
        self.sealed_with(&self.key, NETWORK, (index, sequence, flags), out);
    }

    /// The same, sealed with another key, whose id this is; device, sequence and flags.
    pub fn sealed_with(&self, key: &DayKey, key_id: KeyId, what: (u64, u16, u16), out: &mut Vec<u8>) {
        let (index, sequence, flags) = what;
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
        seal_with(key, &header, Layout::Unversioned, &payload, out);
    }
}

/// Device ids as factories give them: a common upper half, scattered lower bits.
pub fn device(index: u64) -> DeviceId {
    DeviceId(0xd291_d4d6_0000_0000 | (index.wrapping_mul(0x9e37_79b9) & 0xffff_ffff))
}

/// The address device `index` speaks from.
pub fn address(index: u64) -> SocketAddr {
    let ip = Ipv4Addr::from_bits(0x0a00_0000 | (index as u32 & 0x00ff_ffff));
    SocketAddr::from((ip, 6200))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::pipeline::{Datagram, Pipeline};
    use crate::ingest::replies::Replies;
    use crate::measure::DATAGRAM;
    use crate::metrics::Disposition;
    use crate::table::sending::Via;

    #[test]
    fn the_gateway_counts_and_acknowledges_the_packets_of_the_fleet() {
        let now = Timestamp::from_gps(1_479_435_219);
        let (fleet, mut pipeline) = (Fleet::new(now), Pipeline::new(core(now)));
        let mut replies = Replies::default();
        for (index, sequence, flags) in [(0, 0, 0), (0, 1, Flags::ACK_REQUEST), (1, 0, 0)] {
            let mut bytes = Vec::new();
            fleet.packet(index, sequence, flags, &mut bytes);
            assert_eq!(bytes.len(), DATAGRAM);
            let (source, via) = (address(index), Via::UNKNOWN);
            let datagram = Datagram { bytes: &mut bytes, truncated: false, source, via, at: now };
            assert_eq!(pipeline.take(datagram, &mut replies), Disposition::Accepted);
            assert_eq!(replies.iter().len(), usize::from(flags != 0));
        }
    }
}
