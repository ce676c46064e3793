//! What outlives the process of a device's record (rule R10): everything but what is remembered for seconds or minutes.
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
use super::record::{CLASS, Record, STEP, bit};
use super::route::{Application, LastPacket, RelayedRoute, Relaying, Trust, canonical};
use super::rules::{Session, Slot, Step};
use super::unregistered::Queued;
use crate::auth::keys::KeyRing;
use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::wire::container::{BtAddress, RouteInterface};
use crate::wire::frame::Level;
use crate::wire::tdf::Version;

/// The least generation of records that were kept in another epoch: registered devices that were never heard are in 0.
const OF_FORMER_EPOCHS: u32 = 1;

/// How a record stood before it was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It had changed.
    pub changed: bool,
    /// It was told of before.
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
}

impl RouteTable {
    /// Tells `each` of every record that changed since the last call, and of what was forgotten since: `None`. In this order for
    /// one id; the last that is told holds. What changes meanwhile is told now or by the next call. No lock is held while `each`
    /// runs; to find the records, a shard is locked for a look at a few hundred at a time.
    pub fn changed(&self, keys: &KeyRing, mut each: impl FnMut(DeviceId, Option<Kept>)) {
        self.tell(keys, false, |id, kept, _| each(id, kept));
    }

    /// As [`Self::changed`], or, with `all`, of every record, changed or not. How each stood before is told too, for
    /// [`Self::mark_changed`] and [`Self::mark_untold`].
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
                let standing = Standing { changed: record.is_marked(bit::DIRTY), told: record.has(bit::TOLD) };
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

    /// Puts back a record as it was told by [`Self::changed`], at the start: before any packet is looked at, and before, while or
    /// after devices are registered. Of one that has a record nothing changes. One of a former epoch counts on in this one.
    pub fn restore(&self, keys: &KeyRing, id: DeviceId, kept: &Kept) {
        let mut place = self.records.lock(id);
        if place.find().is_some() {
            return;
        }
        let registration = self.registration(id);
        let mut record = Record::restored(kept, keys, registration.is_some());
        if kept.epoch != self.epoch() {
            // Whatever follows a record that is forgotten begins in a later one, and so with other downlink sequences.
            record.generation = kept.generation.max(OF_FORMER_EPOCHS);
            self.generation.fetch_max(record.generation.wrapping_add(1), Ordering::Relaxed);
        }
        if !record.registered() {
            self.admission.enter();
        }
        let present = registration.map_or(0, |registration| registration.record);
        if kept.registration != 0 && kept.registration != present {
            self.restored().push((id, kept.registration));
        }
        place.insert(record);
    }

    /// To be called once all kept records are restored and all devices registered, before any packet is looked at. Records of
    /// devices that were deregistered since, whoever registered them again, are forgotten. Of the unregistered ones no more
    /// stay than are allowed, those heard last.
    pub fn settle(&self) {
        self.settle_registrations();
        let (mut walk, mut unregistered) = (self.records.walk(), Vec::new());
        let heard =
            |id, record: &Record| (!record.registered()).then(|| Queued::new(record.last_at(), id, record.generation));
        while walk.next(|id, record| unregistered.extend(heard(id, record))) {}
        unregistered.sort_unstable();
        let allowed = if self.serves_unregistered() { self.admission.limit() } else { 0 };
        let stay = unregistered.split_off(unregistered.len().saturating_sub(allowed));
        for queued in unregistered {
            let mut place = self.records.lock(queued.id);
            if let Some(record) = place.find().filter(|record| queued.is_of(record)) {
                self.forget(queued.id, record);
                place.remove();
                self.admission.leave();
            }
        }
        self.admission.settle(stay);
    }

    /// That a device was deregistered may not have been written down: its record is not that of the one it is registered for now.
    fn settle_registrations(&self) {
        let restored = std::mem::take(&mut *self.restored());
        for (id, registration) in restored {
            let mut place = self.records.lock(id);
            let Some(record) = place.find_mut() else { continue };
            if self.registration_number(id) == registration {
                // It was registered after it was restored, and is kept so already.
                record.mark(bit::DIRTY, false);
                continue;
            }
            self.forget(id, record);
            if !record.registered() {
                self.admission.leave();
            }
            place.remove();
        }
    }

    /// The number of a device's record in the registry; 0: it has none.
    fn registration_number(&self, id: DeviceId) -> u32 {
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

    fn epoch(&self) -> u32 {
        (self.epoch_base >> 32) as u32
    }

    fn restored(&self) -> MutexGuard<'_, Vec<(DeviceId, u32)>> {
        self.restored.lock().unwrap_or_else(PoisonError::into_inner)
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
            }),
            relayed: self.cold.as_ref().map(|cold| KeptRelayed {
                session: cold.relayed_session.keep(),
                greatest: cold.relayed_greatest,
                route: cold.relayed.map(|route| KeptWay::of(&route, cold.relayed_proved)),
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

    fn restored(kept: &Kept, keys: &KeyRing, registered: bool) -> Self {
        let mut record = Self::new(kept.generation, registered);
        record.count = kept.count;
        (record.first_at, record.last_at) = (Timestamp(kept.first_at), Timestamp(kept.last_at));
        record.greatest = kept.greatest;
        record.session = Session::restored(kept.session);
        record.since_move = kept.since_move;
        record.network = KeyId::new(kept.network).filter(|_| kept.network != 0).map_or(0, |id| keys.number_network(id));
        (record.largest, record.down_sequence) = (kept.largest, kept.down_sequence);
        if let Some((id, major, minor, revision, build)) = kept.application {
            record.set_application(Application { id, version: Version { major, minor, revision, build } });
        }
        record.set(bit::LAST_ROUTE_RELAYED, kept.last_route_relayed);
        record.set(bit::ALWAYS_RX, kept.always_rx);
        record.set(bit::SINGLE_TX, kept.single_tx);
        record.set(bit::SPOKEN_TO, kept.spoken_to);
        record.restore_routes(kept);
        if let Some(last) = &kept.last {
            record.restore_packet(last);
        }
        record.set(bit::TOLD, true);
        record.mark(bit::DIRTY, false);
        record
    }

    fn restore_routes(&mut self, kept: &Kept) {
        if let Some(direct) = &kept.direct {
            self.set_direct_address(canonical(direct.address));
            self.direct_at = Timestamp(direct.at);
            self.direct_sequence = direct.sequence;
            let trust = Trust::from_code(direct.trust);
            self.set(bit::DIRECT_TRUST_DEVICE, trust == Trust::Device);
            self.set(bit::DIRECT_TRUST_VERIFIED, trust == Trust::Verified);
            self.mark(bit::PROVED_ADDRESS, direct.proved);
        }
        let Some(relayed) = &kept.relayed else { return };
        let cold = self.cold.get_or_insert_default();
        cold.relayed_session = Session::restored(relayed.session);
        cold.relayed_greatest = relayed.greatest;
        cold.relayed = relayed.route.as_ref().map(KeptWay::route);
        cold.relayed_proved = relayed.route.is_some_and(|route| route.proved);
    }

    fn restore_packet(&mut self, last: &KeptPacket) {
        self.last_gps = last.gps_time;
        self.last_sequence = last.sequence;
        self.last_type = last.packet_type;
        self.last_class |= last.class & CLASS | Step::from_code(last.step).code() << STEP;
        self.set(bit::LAST_DEVICE_LEVEL, last.device_level);
        self.set(bit::LAST_ON_ROUTE, last.on_route);
        self.set(bit::LAST_RELAYED, last.relayed);
        if let Some(source) = last.source {
            self.cold.get_or_insert_default().last_source = Some(source);
        }
    }
}

impl KeptWay {
    fn of(route: &RelayedRoute, proved: bool) -> Self {
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
            proved,
        }
    }

    fn route(&self) -> RelayedRoute {
        let through = Relaying {
            relay: DeviceId(self.relay),
            level: if self.device_level { Level::Device } else { Level::Network },
            address: canonical(self.address),
            sequence: self.relay_sequence,
            interface: RouteInterface::from_id(self.interface),
            bt: self.bt.map(BtAddress::from_wire),
            rssi_dbm: self.rssi_dbm,
        };
        let (received_at, trust) = (Timestamp(self.at), Trust::from_code(self.trust));
        RelayedRoute { through, received_at, sequence: self.sequence, trust }
    }
}
