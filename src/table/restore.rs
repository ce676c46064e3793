//! Kept records that come back at the start (rule R10): while devices are registered, before any packet is looked at. What is
//! kept of a record, and how it is told, is in `kept.rs`.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::RouteTable;
use super::kept::{Kept, KeptPacket, KeptWay};
use super::record::{CLASS, Record, STEP, bit};
use super::route::{Application, RelayedRoute, Relaying, Trust, canonical};
use super::rules::{Session, Step};
use super::unregistered::Queued;
use crate::auth::keys::KeyRing;
use crate::clock::Timestamp;
use crate::devices::Place;
use crate::id::{DeviceId, KeyId};
use crate::wire::container::{BtAddress, RouteInterface};
use crate::wire::frame::Level;
use crate::wire::tdf::Version;

/// The least generation of records that were kept in another epoch: registered devices that were never heard are in 0.
const OF_FORMER_EPOCHS: u32 = 1;

impl RouteTable {
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
        if kept.registration == 0 || kept.registration != present {
            self.restored().push((id, kept.registration));
        }
        place.insert(record);
    }

    /// Devices in the registry whose restored records were kept while they were not in it. Whether those are theirs the registry
    /// knows: [`Self::disinherit`]. To be called once all are restored and registered, and before [`Self::settle`].
    pub fn heirs(&self) -> Vec<DeviceId> {
        let mut ids: Vec<_> = self.restored().iter().filter(|(_, kept)| *kept == 0).map(|(id, _)| *id).collect();
        ids.retain(|id| self.registration_number(*id) != 0);
        ids
    }

    /// Forgets the restored record of one of [`Self::heirs`]: it was registered afresh, which may not have been written down. Before
    /// [`Self::settle`].
    pub fn disinherit(&self, id: DeviceId) {
        self.forget_restored(self.records.lock(id), id);
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

    /// That a device was registered or deregistered may not have been written down.
    fn settle_registrations(&self) {
        let restored = std::mem::take(&mut *self.restored());
        for (id, registration) in restored {
            let mut place = self.records.lock(id);
            let Some(record) = place.find_mut() else { continue };
            match (registration, self.registration_number(id)) {
                (0, 0) => {}
                // It is kept so from now on: whoever is registered after it is another one.
                (0, _) => record.mark(bit::DIRTY, true),
                // It was registered after it was restored, and is kept so already.
                (kept, present) if kept == present => record.mark(bit::DIRTY, false),
                _ => self.forget_restored(place, id),
            }
        }
    }

    fn forget_restored(&self, mut place: Place<'_, Record>, id: DeviceId) {
        let Some(record) = place.remove() else { return };
        self.forget(id, &record);
        if !record.registered() {
            self.admission.leave();
        }
    }

    fn restored(&self) -> MutexGuard<'_, Vec<(DeviceId, u32)>> {
        self.restored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
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
            if direct.borne_out {
                self.bear_out();
            }
        }
        let Some(relayed) = &kept.relayed else { return };
        let cold = self.cold.get_or_insert_default();
        cold.relayed_session = Session::restored(relayed.session);
        cold.relayed_greatest = relayed.greatest;
        cold.relayed = relayed.route.as_ref().map(KeptWay::route);
        cold.relayed_proved = relayed.route.is_some_and(|route| route.proved);
        cold.borne_out[1] = relayed.route.is_some_and(|route| route.borne_out);
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
