//! What the tests of this folder share.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, yield_now};
use tokio::time::Instant;

use super::{PacketWaits, WaitError, Waited};
use crate::auth::keys::{Interface, RootKey};
use crate::auth::{open_with, seal_with};
use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId, KeyId};
use crate::table::route::{Outcome, Path};
use crate::table::{Packet, RouteTable, TableConfig};
use crate::waiters::{Waiters, WaitersConfig};
use crate::wire::frame::{Flags, Frame, Header, Layout, PacketType};

pub(super) const DEVICE: DeviceId = DeviceId(7);
pub(super) const OTHER: DeviceId = DeviceId(8);
pub(super) const START: Timestamp = Timestamp::from_gps(1_479_435_219);
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// A table and its waiters, with devices that are heard as told.
pub(super) struct Gateway {
    pub(super) table: Arc<RouteTable>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) waits: PacketWaits,
}

impl Gateway {
    pub(super) fn new(config: &TableConfig, per_device: usize) -> Self {
        let table = Arc::new(RouteTable::new(config));
        let waiters = Arc::new(Waiters::new(&WaitersConfig { per_device, total: 1000 }));
        let waits = PacketWaits::new(Arc::clone(&table), Arc::clone(&waiters));
        Self { table, waiters, waits }
    }

    /// A packet of `id` with this sequence, and whoever waits for it is woken.
    pub(super) fn hear(&self, id: DeviceId, sequence: u16) {
        let cursor = self.record(id, sequence);
        self.wake(id, cursor);
    }

    /// As the ingest does it once the packet at `cursor` is recorded.
    pub(super) fn wake(&self, id: DeviceId, cursor: Cursor) {
        self.waiters.heard(id, cursor, || self.table.registration(id).map(|registration| registration.organisation));
    }

    /// Deletes the device as the registry does.
    pub(super) fn delete(&self, id: DeviceId) {
        assert!(self.table.deregister(id));
        self.waiters.dismiss(id);
    }

    /// A packet of `id` with this sequence, as many seconds after the start, sealed and opened; returns its position. Nobody
    /// is woken yet.
    pub(super) fn record(&self, id: DeviceId, sequence: u16) -> Cursor {
        let at = START.after(Duration::from_secs(sequence.into()));
        let header = Header {
            packet_type: PacketType::TDF,
            flags: Flags(0),
            key_id: KeyId::from_le_bytes([7, 0, 0]),
            device_id: id,
            gps_time: at.gps(),
            sequence,
            entropy: 4,
        };
        let key = RootKey::new([1; 32]).day_key(Interface::Udp, header.rotation());
        let mut bytes = Vec::new();
        seal_with(&key, &header, Layout::Unversioned, &[], &mut bytes);
        let verified = open_with(&key, Frame::parse(&mut bytes, Layout::Unversioned).unwrap()).unwrap();
        let path = &Path::Direct(([192, 0, 2, 1], 4000).into());
        let packet = Packet::new(&verified, path, at);
        let Outcome::Counted(counted) = self.table.record(&packet) else { panic!("{sequence}") };
        counted.cursor
    }

    /// A wait of a minute, begun.
    pub(super) async fn begin(&self, id: DeviceId, after: Option<Cursor>) -> JoinHandle<Result<Waited, WaitError>> {
        let waits = self.waits.clone();
        let wait = async move { waits.wait_for_packet(id, after, Instant::now() + MINUTE).await };
        let begun = tokio::spawn(wait);
        yield_now().await;
        begun
    }

    /// The answer of a wait that must not sleep.
    pub(super) async fn at_once(&self, id: DeviceId, after: Option<Cursor>) -> Result<Waited, WaitError> {
        let begun = Instant::now();
        let answer = self.waits.wait_for_packet(id, after, begun + MINUTE).await;
        assert_eq!(Instant::now(), begun, "{answer:?}");
        answer
    }
}
