//! What outlives the process of a device's record (rule R10): everything but what is remembered for seconds or minutes.
//! How it comes back is in `restore.rs`.
//!
//! The side records, the contests and the windows of sessions go with the process. A window is taken for all seen when it is
//! loaded, so that nothing that counted before counts again by it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};

use super::RouteTable;
use super::record::{Cold, Record, bit};
use super::route::{Application, LastPacket, RelayedRoute, Relaying};
use super::rules::Slot;
use crate::auth::keys::KeyRing;
use crate::id::{DeviceId, KeyId};
use crate::wire::container::BtAddress;
use crate::wire::frame::Level;

/// How a record stood before it was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It had changed.
    pub changed: bool,
    /// It was told of before, or a former record of its device was, and that this one is gone was not.
    pub told: bool,
}

/// The record of one device, as it is stored: plain numbers, times in Unix milliseconds. Fields are only ever added at the end
/// of it, with a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Packets counted in its generation.
    pub count: u64,
    /// The upper half of the epoch it was kept in, and the lower half: its generation.
    pub epoch: u32,
    /// The generation.
    pub generation: u32,
    /// When its first packet was counted.
    pub first_at: u64,
    /// When its last packet was counted.
    pub last_at: u64,
    /// The last packet, if any was counted.
    pub last: Option<KeptPacket>,
    /// Greatest fresh GPS time.
    pub greatest: u32,
    /// The session of the direct slot.
    pub session: Option<KeptSession>,
    /// The direct route.
    pub direct: Option<KeptDirect>,
    /// The relayed slot.
    pub relayed: Option<KeptRelayed>,
    /// The relayed route was set or refreshed last.
    pub last_route_relayed: bool,
    /// Packets counted since the route moved.
    pub since_move: u16,
    /// The last direct packet said that the device listens all the time.
    pub always_rx: bool,
    /// The last direct packet said that nothing follows soon.
    pub single_tx: bool,
    /// Application id, and major, minor, revision and build of its version.
    pub application: Option<(u32, u8, u8, u16, u32)>,
    /// The id of the network that it spoke under last; 0: not known.
    pub network: u32,
    /// The longest datagram of its own, in units of 8 bytes.
    pub largest: u8,
    /// The downlink sequence used last.
    pub down_sequence: u16,
    /// It was told the time since its boot.
    pub spoken_to: bool,
    /// The number of the device's record in the registry when it was told; 0: it had none.
    #[serde(default)]
    pub registration: u32,
}

/// A session without its window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSession {
    /// Greatest GPS time.
    pub high_gps: u32,
    /// GPS time of its first packet.
    pub first_gps: u32,
    /// Greatest sequence.
    pub high_sequence: u16,
}

/// The last packet that was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPacket {
    /// GPS time.
    pub gps_time: u32,
    /// Sequence.
    pub sequence: u16,
    /// The byte of its type.
    pub packet_type: u8,
    /// Time class, in the order of rule R3.
    pub class: u8,
    /// Step of rule R4.
    pub step: u8,
    /// It was of device level.
    pub device_level: bool,
    /// It came over the route of its slot.
    pub on_route: bool,
    /// It came through a relay.
    pub relayed: bool,
    /// Where it came from, unless over the direct route.
    pub source: Option<SocketAddr>,
}

/// The direct route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDirect {
    /// Where it leads.
    pub address: SocketAddr,
    /// When the last packet arrived that set or refreshed it.
    pub at: u64,
    /// Sequence of that packet.
    pub sequence: u16,
    /// 0 network, 1 device, 2 verified.
    pub trust: u8,
    /// A proved packet, or the answer to a challenge, came from there.
    pub proved: bool,
    /// A proved packet that may not move a route came from there.
    #[serde(default)]
    pub borne_out: bool,
}

/// The relayed slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRelayed {
    /// Its session.
    pub session: Option<KeptSession>,
    /// Greatest fresh GPS time of its packets.
    pub greatest: u32,
    /// Its route.
    pub route: Option<KeptWay>,
}

/// The relayed route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptWay {
    /// The id of the relay.
    pub relay: u64,
    /// The last relay's packet was of device level.
    pub device_level: bool,
    /// Where the relay's packet came from.
    pub address: SocketAddr,
    /// Sequence of the relay's packet.
    pub relay_sequence: u16,
    /// The byte of the interface.
    pub interface: u8,
    /// Bluetooth address as on the wire, its kind first.
    pub bt: Option<[u8; 7]>,
    /// Signal strength.
    pub rssi_dbm: i16,
    /// When the last packet arrived that set or refreshed it.
    pub at: u64,
    /// Sequence of that packet.
    pub sequence: u16,
    /// 0 network, 1 device, 2 verified.
    pub trust: u8,
    /// A proved packet, or the answer to a challenge, came that way.
    pub proved: bool,
    /// A proved packet that may not move a route came that way.
    #[serde(default)]
    pub borne_out: bool,
}

impl RouteTable {
    /// Tells `each` of every record that changed since the last call, and of what was forgotten since: `None`. In this order for
    /// one id; the last that is told holds. What changes meanwhile is told now or by the next call. No lock is held while `each`
    /// runs; to find the records, a shard is locked for a look at a few hundred at a time.
    pub fn changed(&self, keys: &KeyRing, mut each: impl FnMut(DeviceId, Option<Kept>)) {
        self.tell(keys, false, |id, kept, _| each(id, kept));
    }

    /// As [`Self::changed`], or, with `all`, of every record, changed or not. How each stood before is told too, for
    /// [`Self::mark_changed`], [`Self::mark_untold`] and [`Self::mark_all_untold`].
    pub fn tell(&self, keys: &KeyRing, all: bool, mut each: impl FnMut(DeviceId, Option<Kept>, Standing)) {
        let forgotten = std::mem::take(&mut *self.forgotten());
        for id in forgotten {
            each(id, None, Standing { changed: true, told: true });
            // One that came again in the meantime may have been told of before it was told that its former record is gone.
            if let Some(record) = self.records.lock(id).find_mut() {
                record.mark(bit::DIRTY, true);
            }
        }
        let wanted = |record: &Record| all || record.is_marked(bit::DIRTY);
        let (mut walk, mut ids) = (self.records.walk(), Vec::new());
        while walk.next(|id, record| ids.extend(wanted(record).then_some(id))) {
            for id in ids.drain(..) {
                let mut place = self.records.lock(id);
                let Some(record) = place.find_mut().filter(|record| wanted(record)) else { continue };
                let told = record.has(bit::TOLD) || self.forgotten().contains(&id);
                let standing = Standing { changed: record.is_marked(bit::DIRTY), told };
                record.mark(bit::DIRTY, false);
                record.set(bit::TOLD, true);
                let registration = self.registration_number(id);
                let kept = Kept { epoch: self.epoch(), registration, ..record.keep(keys) };
                drop(place);
                each(id, Some(kept), standing);
            }
        }
    }

    /// What was told of these could not be written: the next [`Self::changed`] tells it again.
    pub fn mark_changed(&self, ids: impl IntoIterator<Item = DeviceId>) {
        for id in ids {
            match self.records.lock(id).find_mut() {
                Some(record) => {
                    record.mark(bit::DIRTY, true);
                    // Also of one that came again since: what is kept of the former record is to go with it.
                    record.set(bit::TOLD, true);
                }
                None => drop(self.forgotten().insert(id)),
            }
        }
    }

    /// As [`Self::mark_changed`], and to be called before it: of ids that were not told of before. Nothing is kept of them, so
    /// that nobody need be told once they are forgotten.
    pub fn mark_untold(&self, ids: impl IntoIterator<Item = DeviceId>) {
        for id in ids {
            if let Some(record) = self.records.lock(id).find_mut() {
                record.mark(bit::DIRTY, true);
                record.set(bit::TOLD, false);
            }
            self.forgotten().remove(&id);
        }
    }

    /// As [`Self::mark_untold`], of all: nothing is kept of any.
    pub fn mark_all_untold(&self) {
        let (mut walk, mut ids) = (self.records.walk(), Vec::new());
        while walk.next(|id, _| ids.push(id)) {
            self.mark_untold(ids.drain(..));
        }
        self.forgotten().clear();
    }

    /// The number of a device's record in the registry; 0: it has none.
    pub(super) fn registration_number(&self, id: DeviceId) -> u32 {
        self.registration(id).map_or(0, |registration| registration.record)
    }

    /// The generation to go on with in the next process, after a clean stop: [`TableConfig::continues`](super::TableConfig).
    /// Nothing may be recorded after it was asked for.
    pub fn next_generation(&self) -> u32 {
        self.present_generation().wrapping_add(1)
    }

    /// A record is not there any more, and whoever keeps it is to be told if it ever was. Under the lock of the shard: what is made
    /// next is seen after it.
    pub(super) fn forget(&self, id: DeviceId, record: &Record) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.forget_beside(id);
        if record.has(bit::TOLD) {
            self.forgotten().insert(id);
        }
    }

    pub(super) fn epoch(&self) -> u32 {
        (self.epoch_base >> 32) as u32
    }

    fn forgotten(&self) -> MutexGuard<'_, HashSet<DeviceId, RandomState>> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// All but the epoch and the registration, which a record does not know.
    fn keep(&self, keys: &KeyRing) -> Kept {
        let last = self.last_packet();
        let application = self.application();
        Kept {
            epoch: 0,
            count: self.count,
            generation: self.generation,
            first_at: self.first_at.0,
            last_at: self.last_at.0,
            last: last.map(|last| self.keep_packet(&last)),
            greatest: self.greatest,
            session: self.session.keep(),
            direct: self.direct().map(|route| KeptDirect {
                address: route.address,
                at: route.received_at.0,
                sequence: route.sequence,
                trust: route.trust as u8,
                proved: self.is_route_proved(Slot::Direct),
                borne_out: self.is_route_borne_out(Slot::Direct),
            }),
            relayed: self.cold.as_ref().map(|cold| KeptRelayed {
                session: cold.relayed_session.keep(),
                greatest: cold.relayed_greatest,
                route: cold.relayed.map(|route| KeptWay::of(&route, cold)),
            }),
            last_route_relayed: self.has(bit::LAST_ROUTE_RELAYED),
            since_move: self.since_move,
            always_rx: self.has(bit::ALWAYS_RX),
            single_tx: self.has(bit::SINGLE_TX),
            application: application
                .map(|Application { id, version }| (id, version.major, version.minor, version.revision, version.build)),
            network: keys.network_numbered(self.network).map_or(0, KeyId::get),
            largest: self.largest,
            down_sequence: self.down_sequence,
            spoken_to: self.is_spoken_to(),
            registration: 0,
        }
    }

    fn keep_packet(&self, last: &LastPacket) -> KeptPacket {
        let is_relayed = self.has(bit::LAST_RELAYED);
        KeptPacket {
            gps_time: last.gps_time,
            sequence: last.sequence,
            packet_type: last.packet_type.0,
            class: last.class as u8,
            step: last.step.code(),
            device_level: last.level == Level::Device,
            on_route: last.on_route,
            relayed: is_relayed,
            source: (is_relayed || !last.on_route).then_some(last.source),
        }
    }
}

impl KeptWay {
    fn of(route: &RelayedRoute, cold: &Cold) -> Self {
        let Relaying { relay, level, address, sequence, interface, bt, rssi_dbm } = route.through;
        Self {
            relay: relay.0,
            device_level: level == Level::Device,
            address,
            relay_sequence: sequence,
            interface: interface.id(),
            bt: bt.map(BtAddress::to_wire),
            rssi_dbm,
            at: route.received_at.0,
            sequence: route.sequence,
            trust: route.trust as u8,
            proved: cold.relayed_proved,
            borne_out: cold.borne_out[1],
        }
    }
}
