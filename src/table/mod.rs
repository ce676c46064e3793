//! The route table: last route and state of every device, sharded, in memory.
//!
//! Only authentic packets get in: [`RouteTable::record`] takes a [`Verified`](crate::auth::Verified). The table tells what
//! became of a packet and calls nobody. Lock order: a shard of the records, then a shard of the registered ids (and inside it one
//! of those that were registered late), the side records, the contests, or the ids that were forgotten or restored; the order
//! of unregistered devices is taken with no other lock held, and shards may be taken inside it. Whether a device is registered
//! changes under the lock of its shard of the records only.

pub mod accept;
pub mod ages;
pub mod bounded;
mod challenge;
pub mod claims;
pub mod contest;
pub mod heard;
pub mod kept;
mod packet;
mod queue;
mod reading;
mod record;
mod restore;
pub mod route;
pub mod rules;
#[cfg(test)]
mod rules_tests;
pub mod sending;
pub mod side;
mod unregistered;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

use foldhash::fast::RandomState;

use crate::clock::Timestamp;
use crate::devices::Devices;
use crate::id::{Cursor, DeviceId};
use crate::wire::frame::Flags;
use bounded::Bounded;
use contest::Contest;
pub use packet::Packet;
use record::{Record, Routed, bit};
use route::{Application, Counted, Outcome, Route, Snapshot};
use rules::{Arrival, RouteChange, Step, TimeClass, judge};
use sending::Release;
use side::Side;
use unregistered::{Admission, Queued};

/// What may move a route, of what authenticates (rule R1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoutePolicy {
    /// The newest proved packet, at either level.
    #[default]
    Newest,
    /// As `Newest`, but a network-level packet never moves the route of a device whose device key is known.
    Strict,
}

/// What becomes of authentic packets of devices that are not registered (rule R9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unregistered {
    /// Served like any other, in a bounded number of records.
    #[default]
    Allow,
    /// Dropped.
    Deny,
}

/// Settings of the table.
#[derive(Clone, Debug)]
pub struct TableConfig {
    /// Whether unregistered devices are served.
    pub unregistered: Unregistered,
    /// Records of unregistered devices kept at once, at least 1; the least recently heard makes room.
    pub unregistered_limit: usize,
    /// Devices with a side record at once, at least 1, and as many whose places are remembered for rule R6; the least recently
    /// used makes room.
    pub side_limit: usize,
    /// Shards of the records, a power of two and at least 2, and as many of the registered ids. While the index of a shard is
    /// made anew the packets of its devices wait: with few shards, for long.
    pub shards: usize,
    /// The upper half of this process's epochs: another one in each process. Two that share it would take each other's
    /// cursors for their own.
    pub epoch: u32,
    /// After a clean stop, and with the epoch of the process before: what [`RouteTable::next_generation`] said there. `None`: a
    /// new epoch.
    pub continues: Option<u32>,
    /// How often so far a process began without knowing all downlink sequences that were used before: those of all devices are
    /// moved on by 1 024 for each time. Must never fall.
    pub losses: u32,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            unregistered: Unregistered::Allow,
            unregistered_limit: 100_000,
            side_limit: 100_000,
            shards: 1024,
            epoch: 0,
            continues: None,
            losses: 0,
        }
    }
}

/// What the packet path needs to know of a registered device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Since when it is registered.
    pub at: Timestamp,
    /// Whose it is: the number of an organisation in the registry; 0 for one that only the configuration names.
    pub organisation: u32,
    /// The number of its record in the registry, which rises from device to device; 0 if it has none.
    pub record: u32,
}

impl From<Timestamp> for Registration {
    /// Registered by the configuration alone.
    fn from(at: Timestamp) -> Self {
        Self { at, organisation: 0, record: 0 }
    }
}

/// No organisation has this number: they are given in the order in which organisations are made.
const SEVERAL: u32 = u32::MAX;

/// Last route and state of every device.
#[derive(Debug)]
pub struct RouteTable {
    records: Devices<Record>,
    /// Registered devices. The registry proper is elsewhere; this is what the packet path needs of it.
    registered: Devices<Registration>,
    /// The generations of registered devices that may have counted in the first one before: of all that were registered
    /// after some device was deregistered, until the process ends. They take some 22 bytes each, and those that were registered at
    /// the start none.
    late: Devices<u32>,
    deregistered: AtomicBool,
    /// The organisation of all devices that were ever registered for one: 0 before the first, [`SEVERAL`] if they are not
    /// of the same.
    organisation: AtomicU32,
    sides: Bounded<Side>,
    contests: Bounded<Contest>,
    admission: Admission,
    unregistered: Unregistered,
    /// Raised when a record is forgotten: a record made later counts in another epoch.
    generation: AtomicU32,
    /// The generation of registered devices that were never heard.
    first_generation: u32,
    /// Records that are gone, and were told to whoever keeps them: no more than there were records when it was told last.
    forgotten: Mutex<HashSet<DeviceId, RandomState>>,
    /// Until all are loaded: restored records that may not be of the present registration of their devices, and the number of
    /// the one they are of; 0: they were kept before any.
    restored: Mutex<Vec<(DeviceId, u32)>>,
    epoch_base: u64,
    /// Added to the sequences of downlinks, both: for losses, and for turns of the clock.
    down_lost: u16,
    down_moved: AtomicU16,
    /// No packet that is not after this moves a route.
    floor: AtomicU32,
}

impl RouteTable {
    /// An empty table.
    pub fn new(config: &TableConfig) -> Self {
        let first_generation = config.continues.unwrap_or(0);
        Self {
            records: Devices::new(config.shards),
            registered: Devices::new(config.shards),
            late: Devices::new(config.shards),
            deregistered: AtomicBool::new(false),
            organisation: AtomicU32::new(0),
            sides: Bounded::new(config.side_limit),
            contests: Bounded::new(config.side_limit),
            admission: Admission::new(config.unregistered_limit),
            unregistered: config.unregistered,
            generation: AtomicU32::new(first_generation.wrapping_add(1)),
            first_generation,
            forgotten: Mutex::default(),
            restored: Mutex::default(),
            epoch_base: u64::from(config.epoch) << 32,
            down_lost: (config.losses as u16).wrapping_mul(sending::LOST),
            down_moved: AtomicU16::new(0),
            floor: AtomicU32::new(0),
        }
    }

    /// Registers a device. What was heard of it before is kept. One that is registered stays so since when it was, and is
    /// the registry's once that names it.
    pub fn register(&self, id: DeviceId, registration: impl Into<Registration>) {
        let registration = registration.into();
        self.note_organisation(registration.organisation);
        // Locked whether there is a record or not.
        let mut record = self.records.lock(id);
        let mut known = self.registered.lock(id);
        match known.find_mut() {
            Some(known) => *known = Registration { at: known.at, ..registration },
            None => {
                known.insert(registration);
                if self.deregistered.load(Ordering::Relaxed) {
                    self.late.set(id, self.present_generation());
                }
            }
        }
        drop(known);
        if let Some(record) = record.find_mut().filter(|record| !record.registered()) {
            record.register();
            if registration.record != 0 {
                // Whoever keeps it is to know for which registration.
                record.mark(bit::DIRTY, true);
            }
            self.admission.leave();
        }
    }

    /// Registers a device that is not registered, and forgets all that was heard of it before: what it sends from now on is
    /// counted in another epoch. One that is registered stays as with [`Self::register`].
    pub fn register_afresh(&self, id: DeviceId, registration: impl Into<Registration>) {
        let registration = registration.into();
        let mut place = self.records.lock(id);
        if let Some(record) = place.find().filter(|record| !record.registered()) {
            self.note_organisation(registration.organisation);
            // Under the lock of the shard, as in `deregister`.
            self.deregistered.store(true, Ordering::Relaxed);
            self.forget(id, record);
            self.late.set(id, self.present_generation());
            self.registered.set(id, registration);
            place.remove();
            self.admission.leave();
            return;
        }
        drop(place);
        self.register(id, registration);
    }

    /// Makes a registered device one that is not, and forgets all that was heard of it. What it sends from now on is
    /// counted in another epoch, registered again or not. True if it was registered.
    ///
    /// A packet that is recorded at the same moment either counts before, and is forgotten with the rest, or is that of an
    /// unregistered device: both happen under the lock of the shard.
    pub fn deregister(&self, id: DeviceId) -> bool {
        let mut record = self.records.lock(id);
        if self.registered.lock(id).remove().is_none() {
            return false;
        }
        self.late.lock(id).remove();
        // Under the lock of the shard: whoever registers this device next, or makes its next record, sees both.
        self.deregistered.store(true, Ordering::Relaxed);
        match record.remove() {
            Some(record) => self.forget(id, &record),
            // It may have been told a position all the same.
            None => drop(self.generation.fetch_add(1, Ordering::Relaxed)),
        }
        true
    }

    /// Since when a device is registered.
    pub fn registered_since(&self, id: DeviceId) -> Option<Timestamp> {
        self.registration(id).map(|registration| registration.at)
    }

    /// What is known of a registered device.
    pub fn registration(&self, id: DeviceId) -> Option<Registration> {
        self.registered.copy(id)
    }

    /// Whether a device is registered for an organisation, and for another than this one. Costs a load where all devices
    /// are of one organisation.
    pub fn belongs_to_another(&self, id: DeviceId, organisation: u32) -> bool {
        let is_another = |of| of != 0 && of != organisation;
        is_another(self.organisation.load(Ordering::Relaxed))
            && self.registration(id).is_some_and(|registration| is_another(registration.organisation))
    }

    /// Whether two devices are registered for two organisations. Costs the same.
    pub fn are_of_two_organisations(&self, one: DeviceId, other: DeviceId) -> bool {
        self.organisation.load(Ordering::Relaxed) == SEVERAL
            && self.registration(one).is_some_and(|registration| {
                registration.organisation != 0 && self.belongs_to_another(other, registration.organisation)
            })
    }

    /// Takes in an authentic packet: rules R3 to R5 and R9, in one critical section of its device.
    pub fn record(&self, packet: &Packet<'_>) -> Outcome {
        let id = packet.verified.header().device_id;
        if let Some(record) = self.records.lock(id).find_mut() {
            return self.count(record, packet);
        }
        let counted =
            self.with_new_record(id, packet.receipt.at, self.unregistered, |record| self.count(record, packet));
        counted.unwrap_or(Outcome::NotRegistered)
    }

    /// Sets what a device runs, as another one reported it (TDF_REMOTE). Registered devices only (rule R8): true if it was.
    pub fn set_application(&self, id: DeviceId, application: Application, at: Timestamp) -> bool {
        let set = |record: &mut Record| {
            let registered = record.registered();
            if registered {
                record.set_application(application);
            }
            registered
        };
        if let Some(record) = self.records.lock(id).find_mut() {
            return set(record);
        }
        self.with_new_record(id, at, Unregistered::Deny, set).unwrap_or(false)
    }

    /// Fetches the records of a batch of devices into the caches, for [`Self::record`] to find them there, and whose they are if
    /// that is not the same of all. The ids may be claims that nobody has proved.
    pub fn prefetch(&self, ids: &[DeviceId]) {
        self.records.prefetch(ids);
        if self.organisation.load(Ordering::Relaxed) == SEVERAL {
            // Whose a device is will be asked of each packet (rule R8).
            self.registered.prefetch(ids);
        }
    }

    /// The first step of fetching the record of one device into the caches, for [`Self::last_route`] to find it there.
    pub fn aim(&self, id: DeviceId) {
        self.records.aim(id);
    }

    /// The second step, best some time after the first one.
    pub fn fetch(&self, id: DeviceId) {
        self.records.fetch(id);
    }

    /// As [`Self::prefetch`], for [`Self::register`] and [`Self::restore`].
    pub fn prefetch_all(&self, ids: &[DeviceId]) {
        self.records.prefetch(ids);
        self.registered.prefetch(ids);
    }

    /// Rule R5 after an unclean stop: from now on a packet moves a route, proves an address and releases downlinks by its time
    /// and sequence only with a time after `gps`, in GPS seconds, so that a recording of what was forgotten does none of it. 0:
    /// no such bound.
    pub fn set_floor(&self, gps: u32) {
        self.floor.store(gps, Ordering::Relaxed);
    }

    /// What [`Self::set_floor`] set last.
    pub fn floor(&self) -> u32 {
        self.floor.load(Ordering::Relaxed)
    }

    /// What is known of a device that was heard, or was spoken of.
    pub fn snapshot(&self, id: DeviceId) -> Option<Snapshot> {
        self.records.lock(id).find().map(|record| record.snapshot(id, self.epoch_base))
    }

    /// The last route of a device that was heard, and the position of its last counted packet.
    pub fn last_route(&self, id: DeviceId) -> Option<(Route, Cursor)> {
        let place = self.records.lock(id);
        let record = place.find()?;
        Some((record.last_route()?, record.cursor(self.epoch_base)))
    }

    /// Whether anything is known of a device.
    pub fn has_record(&self, id: DeviceId) -> bool {
        self.records.has(id)
    }

    /// The position of a device's last counted packet; position 0 if it was never heard.
    pub fn cursor(&self, id: DeviceId) -> Cursor {
        let cursor = self.records.lock(id).find().map(|record| record.cursor(self.epoch_base));
        match cursor {
            Some(cursor) => cursor,
            None => Cursor { epoch: self.epoch_base | u64::from(self.generation_of(id)), n: 0 },
        }
    }

    /// Whether packets of unregistered devices are served.
    pub fn serves_unregistered(&self) -> bool {
        self.unregistered == Unregistered::Allow
    }

    /// Devices with a record: all, and the unregistered among them.
    pub fn devices(&self) -> (usize, usize) {
        (self.records.len(), self.admission.count())
    }

    /// Devices with a side record.
    pub fn sides(&self) -> usize {
        self.sides.lock().len()
    }

    fn note_organisation(&self, organisation: u32) {
        let together = |known| match known {
            0 => Some(organisation),
            known if known == organisation || known == SEVERAL => None,
            _ => Some(SEVERAL),
        };
        if organisation != 0 {
            // Nothing to change is no error.
            let _ = self.organisation.fetch_update(Ordering::Relaxed, Ordering::Relaxed, together);
        }
    }

    /// Runs `with` on the record of a device that had none a moment ago. `None` if it has none still, because it is not
    /// registered and `unregistered` gives such devices no record.
    fn with_new_record<T>(
        &self,
        id: DeviceId,
        at: Timestamp,
        unregistered: Unregistered,
        with: impl FnOnce(&mut Record) -> T,
    ) -> Option<T> {
        if !self.registered.has(id) {
            if unregistered == Unregistered::Deny {
                return None;
            }
            // One that is deregistered just now goes without: the next one makes room for both.
            self.make_room();
        }
        let mut place = self.records.lock(id);
        let (result, stranger) = match place.find_mut() {
            Some(record) => (with(record), None),
            None => {
                // Once more, now that nobody can change it.
                let registered = self.registered.has(id);
                if !registered && unregistered == Unregistered::Deny {
                    return None;
                }
                let record = place.insert(Record::new(self.generation_of(id), registered));
                if !registered {
                    self.admission.enter();
                }
                let stranger = (!registered).then(|| Queued::new(at, id, record.generation));
                (with(record), stranger)
            }
        };
        drop(place);
        if let Some(stranger) = stranger {
            let is_it =
                |queued: &Queued| self.records.lock(queued.id).find().is_some_and(|record| queued.is_of(record));
            self.admission.queue(stranger, is_it);
        }
        Some(result)
    }

    /// The generation of a device that has no record. That of a registered one stays as it is for as long as it is
    /// registered.
    fn generation_of(&self, id: DeviceId) -> u32 {
        match self.registered.has(id) {
            true => self.late.copy(id).unwrap_or(self.first_generation),
            false => self.present_generation(),
        }
    }

    /// The generation of whatever begins to count now, and may have counted before.
    fn present_generation(&self) -> u32 {
        // After 2^32 devices were forgotten it starts again, but never with that of registered devices.
        match self.generation.load(Ordering::Relaxed) {
            generation if generation == self.first_generation => generation.wrapping_add(1),
            generation => generation,
        }
    }

    /// Forgets the least recently heard unregistered devices until there is room for one more.
    fn make_room(&self) {
        self.admission.make_room(|queued, whatever| {
            let mut place = self.records.lock(queued.id);
            match place.find().filter(|record| queued.is_of(record)) {
                Some(record) if whatever || record.last_at() <= queued.heard_at() => {
                    // Under the lock of the record: whoever makes the next one of this device sees it.
                    self.forget(queued.id, record);
                    place.remove();
                    unregistered::Examined::Removed
                }
                Some(record) => unregistered::Examined::HeardAt(record.last_at()),
                None => unregistered::Examined::Gone,
            }
        });
    }

    fn forget_beside(&self, id: DeviceId) {
        self.sides.lock().remove(id);
        self.contests.lock().remove(id);
    }

    fn count(&self, record: &mut Record, packet: &Packet<'_>) -> Outcome {
        let header = packet.verified.header();
        let mut arrival = packet.arrival();
        arrival.answers = self.is_answer(packet, &arrival);
        let (session, greatest) = record.marks(arrival.slot);
        let step = self.judge(record, &session, greatest, header.device_id, &arrival);
        if !step.counts() {
            return Outcome::Refused(self.refuse(record, packet, &arrival, step));
        }
        record.advance(step, &arrival);
        let proves = self.proves(step, arrival.gps_time);
        let newest = proves && arrival.gps_time >= greatest;
        let change = self.change(record, packet, &arrival, step, newest);
        let former = matches!(change, RouteChange::Moved).then(|| record.place(arrival.slot)).flatten();
        let Routed { moved_from, proved_address, is_trusted } =
            record.count(&packet.counting(&arrival, step, proves, change));
        let heard_directly = record.is_heard_directly(packet.receipt.at);
        let single_tx = header.flags.contains(Flags::SINGLE_TX);
        let release = match arrival.answers {
            true => Release::of_answer(arrival.slot, heard_directly),
            false => {
                let is_home = change == RouteChange::Refreshed;
                let proves = proves || is_home && self.is_alive(header.device_id, step, &arrival, greatest);
                Release::of(step, proves, change, arrival.slot, is_trusted, single_tx, heard_directly)
            }
        };
        let expects = record.expects();
        if release != Release::No && expects {
            record.expect(false);
        }
        let asks = packet.asks();
        let ack_sequence = asks.then(|| self.moved_down(record.next_down_sequence()));
        if asks && change != RouteChange::Kept {
            record.speak_to();
        }
        let challenges = self.settle_places(record, packet, &arrival, (proves, change), former);
        let cursor = record.cursor(self.epoch_base);
        Outcome::Counted(Counted {
            step,
            change,
            moved_from,
            ack_sequence,
            cursor,
            release,
            expects,
            proved_address,
            is_answer: arrival.answers,
            challenges,
        })
    }

    /// Rule R4, with the side record where it matters: fresh packets rarely need it.
    fn judge(
        &self,
        record: &mut Record,
        session: &rules::Session,
        greatest: u32,
        id: DeviceId,
        arrival: &Arrival,
    ) -> Step {
        // An answer opens a session there, unless it is proved.
        let remembers = |step: Step| step.remembered(arrival.boot) || arrival.answers && !step.proved();
        // Where the clock was set back, what is remembered may be fresh once more.
        let is_set_back = arrival.at < record.last_at();
        if arrival.class == TimeClass::Fresh && !record.watches_side() && !is_set_back {
            let step = judge(session, greatest, None, arrival);
            if !remembers(step) {
                return step;
            }
        }
        let mut sides = self.sides.lock();
        let step = judge(session, greatest, sides.find(id).as_deref(), arrival);
        let side = if remembers(step) { Some(sides.make(id)) } else { sides.find(id) };
        let concerns_fresh = side.is_some_and(|side| {
            side.advance(step, arrival);
            side.concerns_fresh(arrival.at)
        });
        // Of one that does not count the record keeps no time to tell by whether the clock is set back after it.
        record.watch_side(concerns_fresh || record.watches_side() && !step.counts());
        step
    }
}
