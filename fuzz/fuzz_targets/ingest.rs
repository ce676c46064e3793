//! The whole ingest step, on any bytes and on any authentic packet: no panic, exactly one disposition, an answer only to
//! whoever authenticated and asked, and nothing kept of anybody else.
//!
//! An input is a list of datagrams. Each begins with a byte that says how it is made: as it stands, or sealed by a key
//! that the gateway knows, so that the fuzzer gets past authentication.
#![no_main]

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use lastroute::auth::keys::{DayKey, DeviceKey, Interface, KeyPair, KeyRing, RootKey};
use lastroute::auth::nonce::OwnNonces;
use lastroute::auth::seal_with;
use lastroute::clock::Timestamp;
use lastroute::id::{DeviceId, KeyId};
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline, RefusalLog};
use lastroute::metrics::Disposition;
use lastroute::table::{RoutePolicy, RouteTable, TableConfig};
use lastroute::waiters::{Waiters, WaitersConfig};
use lastroute::wire::frame::{Flags, Header, Layout, PacketType};
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp::from_gps(17_123 * 86_400 + 43_200);
const NETWORK: KeyId = KeyId::from_le_bytes([1, 0, 0]);
const DEVICE_KEY: KeyId = KeyId::from_le_bytes([2, 0, 0]);

/// Bytes of a chunk in front of the payload: how it is made, type, flags, device, age, sequence, entropy, length.
const FRONT: usize = 12;

fn root() -> RootKey {
    RootKey::new([7; 32])
}

/// Deriving it for each packet would be most of the work.
fn day_key() -> &'static DayKey {
    static KEY: OnceLock<DayKey> = OnceLock::new();
    KEY.get_or_init(|| root().day_key(Interface::Udp, NOW.gps() / 86_400))
}

fn core() -> Core {
    let keys = KeyRing::default();
    keys.set_network(NETWORK, root());
    for device in 0..4 {
        keys.set_device(DeviceId(device), DeviceKey { key_id: Some(DEVICE_KEY), root: root() }, None);
    }
    let config = TableConfig { unregistered_limit: 3, side_limit: 2, shards: 2, ..TableConfig::default() };
    Core {
        keys: Arc::new(keys),
        table: Arc::new(RouteTable::new(&config)),
        waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
        nonces: OwnNonces::new(&KeyPair::from_private([3; 32]), NOW),
        policy: RoutePolicy::Newest,
        refusals: RefusalLog::default(),
    }
}

/// Takes one datagram off the front of `data`: its bytes, and whether they are authentic.
fn next_datagram(data: &mut &[u8]) -> Option<(Vec<u8>, bool)> {
    let (front, rest) = data.split_first_chunk::<FRONT>()?;
    let [how, packet_type, flags, device, age_low, age_high, seq_low, seq_high, entropy, _, len_low, len_high] = *front;
    let len = usize::from(u16::from_le_bytes([len_low, len_high])).min(rest.len());
    let (payload, rest) = rest.split_at(len);
    *data = rest;
    if how % 4 == 0 {
        return Some((payload.to_vec(), false));
    }
    let flags = u16::from(flags) << 8 | u16::from(how >> 6);
    let key_id = if Flags(flags).contains(Flags::DEVICE_KEY) { DEVICE_KEY } else { NETWORK };
    let header = Header {
        packet_type: PacketType(packet_type),
        flags: Flags(flags),
        key_id,
        device_id: DeviceId(u64::from(device % 8)),
        // Within the day, so that one key fits: from half a day behind to half a day ahead.
        gps_time: NOW.gps() - 43_200 + u32::from(u16::from_le_bytes([age_low, age_high])),
        sequence: u16::from_le_bytes([seq_low, seq_high]),
        entropy: u16::from(entropy),
    };
    let mut bytes = Vec::new();
    let payload = &payload[..payload.len().min(2010)];
    seal_with(day_key(), &header, Layout::Unversioned, payload, &mut bytes);
    Some((bytes, header.device_id.0 < 4 || key_id == NETWORK))
}

fuzz_target!(|data: &[u8]| {
    let core = Arc::new(core());
    let mut pipeline = Pipeline::new(Arc::clone(&core));
    let (mut data, mut taken, mut reply) = (data, 0, Vec::new());
    while let Some((mut bytes, authentic)) = next_datagram(&mut data) {
        taken += 1;
        reply.clear();
        let source = SocketAddr::from(([192, 0, 2, bytes.len() as u8 % 3], 6200));
        let asks = bytes.get(2).is_some_and(|flags| flags & 0x40 != 0);
        let before = core.table.devices();
        let datagram = Datagram { bytes: &mut bytes, truncated: false, source, at: NOW };
        let disposition = pipeline.take(datagram, &mut reply);
        assert_eq!(pipeline.tally.datagrams.iter().sum::<u64>(), taken);
        assert!(!reply.is_empty() == (disposition == Disposition::Accepted && asks), "{disposition:?}");
        assert!(reply.is_empty() || reply.len() == 40);
        if !authentic {
            assert_ne!(disposition, Disposition::Accepted);
            assert_eq!(core.table.devices(), before);
        }
    }
    assert!(core.table.devices().1 <= 3 && core.table.sides() <= 2);
});
