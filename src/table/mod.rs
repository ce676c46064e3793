//! The route table: last route and state of every device, sharded, in memory.
//!
//! Only authentic packets get in: [`RouteTable::record`] takes a [`Verified`]. The table tells what became of a packet
//! and calls nobody. Lock order: a shard of the records, then the registered ids or the side records; the heap of
//! unregistered devices is taken with no other lock held, and shards may be taken inside it.

pub mod accept;
pub mod ages;
mod prefetch;
mod record;
pub mod route;
pub mod rules;
pub mod side;
mod unregistered;

use std::sync::atomic::{AtomicU32, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;

use crate::auth::Verified;
use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId};
use crate::wire::frame::{Flags, PacketType};
use record::{Counting, Record};
use route::{Application, Counted, Outcome, Path, Snapshot};
use rules::{Arrival, Slot, Step, TimeClass, judge};
use side::Sides;
use unregistered::Admission;

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
    /// Devices with a side record at once, at least 1; the least recently used makes room.
    pub side_limit: usize,
    /// Shards of the map, a power of two and at least 2. With few shards, growing one stalls packets for long.
    pub shards: usize,
    /// The upper half of this process's epochs: another one in each process. Two that share it would take each other's
    /// cursors for their own.
    pub epoch: u32,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            unregistered: Unregistered::Allow,
            unregistered_limit: 100_000,
            side_limit: 100_000,
            shards: 1024,
            epoch: 0,
        }
    }
}

/// An authentic packet on its way into the table.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The packet.
    pub verified: &'a Verified<'a>,
    /// How it came.
    pub path: &'a Path,
    /// Whether the route policy lets it move a route.
    pub may_move: bool,
    /// What it announces about its sender.
    pub application: Option<Application>,
    /// When it arrived.
    pub at: Timestamp,
}

/// Last route and state of every device.
#[derive(Debug)]
pub struct RouteTable {
    records: DashMap<DeviceId, Record, RandomState>,
    /// Registered devices, and since when. The registry proper is elsewhere; this is what the packet path needs of it.
    registered: DashMap<DeviceId, Timestamp, RandomState>,
    sides: Sides,
    admission: Admission,
    unregistered: Unregistered,
    /// Raised when a record is forgotten: a record made later counts in another epoch.
    generation: AtomicU32,
    epoch_base: u64,
}

impl RouteTable {
    /// An empty table.
    pub fn new(config: &TableConfig) -> Self {
        let hasher = RandomState::default;
        Self {
            records: DashMap::with_capacity_and_hasher_and_shard_amount(0, hasher(), config.shards),
            registered: DashMap::with_hasher(hasher()),
            sides: Sides::new(config.side_limit),
            admission: Admission::new(config.unregistered_limit),
            unregistered: config.unregistered,
            generation: AtomicU32::new(1),
            epoch_base: u64::from(config.epoch) << 32,
        }
    }

    /// Registers a device. What was heard of it before is kept.
    pub fn register(&self, id: DeviceId, at: Timestamp) {
        self.registered.entry(id).or_insert(at);
        if let Some(mut record) = self.records.get_mut(&id)
            && !record.registered()
        {
            record.register();
            self.admission.leave();
        }
    }

    /// Since when a device is registered.
    pub fn registered_since(&self, id: DeviceId) -> Option<Timestamp> {
        self.registered.get(&id).map(|at| *at)
    }

    /// Takes in an authentic packet: rules R3 to R5 and R9, in one critical section of its device.
    pub fn record(&self, packet: &Packet<'_>) -> Outcome {
        let id = packet.verified.header().device_id;
        if let Some(mut record) = self.records.get_mut(&id) {
            return self.count(&mut record, packet);
        }
        if self.unregistered == Unregistered::Deny && !self.registered.contains_key(&id) {
            return Outcome::NotRegistered;
        }
        self.with_new_record(id, packet.at, |record| self.count(record, packet))
    }

    /// Sets what a device runs, as another one reported it (TDF_REMOTE). Registered devices only (rule R8): true if it was.
    pub fn set_application(&self, id: DeviceId, application: Application, at: Timestamp) -> bool {
        if !self.registered.contains_key(&id) {
            return false;
        }
        if let Some(mut record) = self.records.get_mut(&id) {
            record.set_application(application);
        } else {
            self.with_new_record(id, at, |record| record.set_application(application));
        }
        true
    }

    /// Fetches the records of a batch of devices into the caches, for [`Self::record`] to find them there. The ids may be
    /// claims that nobody has proved.
    pub fn prefetch(&self, ids: &[DeviceId]) {
        prefetch::fetch(&self.records, ids);
    }

    /// What is known of a device that was heard, or was spoken of.
    pub fn snapshot(&self, id: DeviceId) -> Option<Snapshot> {
        self.records.get(&id).map(|record| record.snapshot(id, self.epoch_base))
    }

    /// The position of a device's last counted packet; position 0 if it was never heard.
    pub fn cursor(&self, id: DeviceId) -> Cursor {
        match self.records.get(&id) {
            Some(record) => record.cursor(self.epoch_base),
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

    /// Runs `with` on the record of a device that had none a moment ago.
    fn with_new_record<T>(&self, id: DeviceId, at: Timestamp, with: impl FnOnce(&mut Record) -> T) -> T {
        if !self.registered.contains_key(&id) {
            self.make_room();
        }
        let (result, unregistered) = match self.records.entry(id) {
            Entry::Occupied(mut record) => (with(record.get_mut()), false),
            Entry::Vacant(vacant) => {
                let registered = self.registered.contains_key(&id);
                let mut record = vacant.insert(Record::new(self.generation_of(id), registered, random_u16()));
                if !registered {
                    self.admission.enter();
                }
                (with(&mut record), !registered)
            }
        };
        if unregistered {
            self.admission.queue(id, at);
        }
        result
    }

    /// Records of registered devices are never forgotten, so they are all of one generation.
    fn generation_of(&self, id: DeviceId) -> u32 {
        // After 2^32 devices were forgotten it starts again, but never with that of registered devices.
        if self.registered.contains_key(&id) { 0 } else { self.generation.load(Ordering::Relaxed).max(1) }
    }

    /// Forgets the least recently heard unregistered devices until there is room for one more.
    fn make_room(&self) {
        self.admission.make_room(|id, heard_at, whatever| {
            let removed = self.records.remove_if(&id, |_, record| {
                let forget = !record.registered() && (whatever || record.last_at() <= heard_at);
                if forget {
                    // Under the lock of the record: whoever makes the next one of this device sees both.
                    self.generation.fetch_add(1, Ordering::Relaxed);
                    self.sides.lock().remove(id);
                }
                forget
            });
            if removed.is_some() {
                return unregistered::Examined::Removed;
            }
            match self.records.get(&id) {
                Some(record) if !record.registered() => unregistered::Examined::HeardAt(record.last_at()),
                _ => unregistered::Examined::Gone,
            }
        });
    }

    fn count(&self, record: &mut Record, packet: &Packet<'_>) -> Outcome {
        let header = packet.verified.header();
        let arrival = arrival(packet);
        let (mut session, greatest) = record.marks(arrival.slot);
        let step = self.judge(record, &session, greatest, header.device_id, &arrival);
        if !step.counts() {
            return Outcome::Refused(step);
        }
        session.advance(step, &arrival);
        let proved_gps = step.proved().then_some(header.gps_time);
        record.set_marks(arrival.slot, session, proved_gps, arrival.entropy.is_none());
        let (change, moved_from) = record.count(&Counting {
            path: packet.path,
            step,
            class: arrival.class,
            level: packet.verified.level(),
            packet_type: header.packet_type,
            flags: header.flags,
            gps_time: header.gps_time,
            sequence: header.sequence,
            newest: step.proved() && header.gps_time >= greatest,
            may_move: packet.may_move,
            application: packet.application,
            at: packet.at,
        });
        let asks = arrival.slot == Slot::Direct && header.flags.contains(Flags::ACK_REQUEST);
        let ack_sequence = asks.then(|| record.next_down_sequence());
        Outcome::Counted(Counted { step, change, moved_from, ack_sequence })
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
        if arrival.class == TimeClass::Fresh && !record.watches_side() {
            let step = judge(session, greatest, None, arrival);
            if !step.remembered(arrival.boot) {
                return step;
            }
        }
        let mut sides = self.sides.lock();
        let step = judge(session, greatest, sides.find(id).as_deref(), arrival);
        let side = if step.remembered(arrival.boot) { Some(sides.make(id)) } else { sides.find(id) };
        if let Some(side) = side {
            side.advance(step, arrival);
            record.watch_side(side.concerns_fresh(arrival.at));
        } else {
            record.watch_side(false);
        }
        step
    }
}

fn arrival(packet: &Packet<'_>) -> Arrival {
    let header = packet.verified.header();
    Arrival {
        slot: match packet.path {
            Path::Direct(_) => Slot::Direct,
            Path::Relayed(_) => Slot::Relayed,
        },
        class: TimeClass::of(header.gps_time, packet.at.gps()),
        gps_time: header.gps_time,
        sequence: header.sequence,
        entropy: packet.verified.entropy(),
        boot: header.packet_type == PacketType::KEY_IDS && header.sequence == 0,
        at: packet.at,
    }
}

/// Downlink sequences start at random: what an earlier process used in this second is not known.
fn random_u16() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) as u16
}
