//! The side record of a device: exact memory of packets that are authentic and not proved, of boots, and of what counts
//! while a boot is not proved yet (rule R4).
//!
//! Made on demand and bounded in number, least recently used first: forgetting one lets a recording of such a packet
//! count once more, as unproven again, so that it moves nothing. The exception is a packet from ahead of the gateway's
//! clock: once its time has come, a recording of it that nothing remembers looks like the start of a session.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::clock::Timestamp;
use crate::id::DeviceId;

use super::rules::{Arrival, FRESH_BEHIND, Slot, Step, TimeClass};

/// Packets remembered exactly for each device: what may be in flight at once around a reboot.
const REMEMBERED: usize = 16;
/// How long a boot may stay without a proved packet, in seconds: the widest gap between two clocks that both pass for
/// fresh, 120 + 300.
const PENDING_SECONDS: u64 = 420;
/// Sequences after the boot that belong to a pending session.
const PENDING_SEQUENCES: u16 = 1024;

/// Exact memory of those packets of one device that its windows do not tell from copies.
#[derive(Clone, Debug, Default)]
pub struct Side {
    recent: [Option<Seen>; REMEMBERED],
    next: usize,
    slots: [SideSlot; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    gps_time: u32,
    sequence: u16,
    entropy: Option<u16>,
    slot: Slot,
}

#[derive(Clone, Copy, Debug, Default)]
struct SideSlot {
    old_high: Option<(u32, u16)>,
    future_high: Option<(u32, u16)>,
    pending: Option<Pending>,
    /// The last boot, for as long as no other one follows: however many packets come, a copy of it opens nothing.
    boot: Option<Seen>,
}

/// A boot that no proved packet has followed yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    gps_time: u32,
    /// Fresh packets of its session are not before this: a device that boots without the right time learns it later.
    fresh_from: u32,
    sequence: u16,
    until: Timestamp,
}

impl Side {
    /// Whether this very packet is remembered.
    pub fn holds(&self, arrival: &Arrival) -> bool {
        let boots = self.slots.iter().filter_map(|slot| slot.boot.as_ref());
        self.recent.iter().flatten().chain(boots).any(|seen| {
            (seen.gps_time, seen.sequence, seen.slot) == (arrival.gps_time, arrival.sequence, arrival.slot)
                && seen.entropy.zip(arrival.entropy).is_none_or(|(seen, new)| seen == new)
        })
    }

    /// Whether the packet follows a boot that is not proved yet.
    pub fn is_pending(&self, arrival: &Arrival) -> bool {
        self.slots[arrival.slot as usize].pending.is_some_and(|pending| {
            let from = if arrival.class == TimeClass::Fresh { pending.fresh_from } else { pending.gps_time };
            arrival.at < pending.until
                && arrival.gps_time >= from
                && (1..=PENDING_SEQUENCES).contains(&arrival.sequence.wrapping_sub(pending.sequence))
        })
    }

    /// Whether an old or future packet is above all before it of its class. Packets of the other classes have no such mark.
    pub fn is_above_high(&self, arrival: &Arrival) -> bool {
        let slot = &self.slots[arrival.slot as usize];
        let high = match arrival.class {
            TimeClass::Old => slot.old_high,
            TimeClass::Future => slot.future_high,
            TimeClass::Fresh | TimeClass::NoTime => None,
        };
        high.is_none_or(|high| (arrival.gps_time, arrival.sequence) > high)
    }

    /// Takes a packet in, as `step` decided.
    pub fn advance(&mut self, step: Step, arrival: &Arrival) {
        // In the second of the boot no session can be told to be new: the old one goes on with what follows the boot. A
        // packet that is overtaken just then may pass for a copy of what the old one had in its place.
        if step == Step::NewSession || step == Step::SameSession && self.is_pending(arrival) {
            self.close_pending(arrival.slot);
        }
        // While a session is pending the window does not tell copies from new packets (step 4).
        let beside_window = step.counts() && self.is_pending(arrival);
        if !step.remembered(arrival.boot) && !beside_window {
            return;
        }
        let Arrival { gps_time, sequence, entropy, slot, .. } = *arrival;
        let seen = Some(Seen { gps_time, sequence, entropy, slot });
        self.recent[self.next] = seen;
        self.next = (self.next + 1) % REMEMBERED;
        let slot = &mut self.slots[slot as usize];
        if arrival.boot {
            slot.boot = seen;
        }
        match arrival.class {
            TimeClass::Old => slot.old_high = slot.old_high.max(Some((gps_time, sequence))),
            TimeClass::Future => slot.future_high = slot.future_high.max(Some((gps_time, sequence))),
            TimeClass::Fresh | TimeClass::NoTime => {}
        }
        // A late boot is that of the running session.
        if arrival.boot && step == Step::Unproven {
            let until = Timestamp(arrival.at.0 + PENDING_SECONDS * 1000);
            let fresh_from = if arrival.class == TimeClass::Fresh { gps_time } else { gps_time.max(arrival.at.gps()) };
            slot.pending = Some(Pending { gps_time, fresh_from, sequence, until });
        }
    }

    /// Ends the pending session of `slot`.
    pub fn close_pending(&mut self, slot: Slot) {
        self.slots[slot as usize].pending = None;
    }

    /// Whether a fresh packet arriving from `now` on could meet anything here. Packets of other classes and boots
    /// always look.
    pub fn concerns_fresh(&self, now: Timestamp) -> bool {
        let fresh_from = now.gps().saturating_sub(FRESH_BEHIND);
        self.recent.iter().flatten().any(|seen| seen.gps_time >= fresh_from)
            || self.slots.iter().filter_map(|slot| slot.pending).any(|pending| now < pending.until)
    }
}

/// The side records of all devices, at most a fixed number of them.
#[derive(Debug)]
pub struct Sides(Mutex<LruCache<DeviceId, Box<Side>, foldhash::fast::RandomState>>);

impl Sides {
    /// Room for `limit` devices, at least one.
    pub fn new(limit: usize) -> Self {
        let limit = NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN);
        // `with_hasher` would allocate the whole table at once.
        let mut sides = LruCache::unbounded_with_hasher(Default::default());
        sides.resize(limit);
        Self(Mutex::new(sides))
    }

    /// The records, for the time of one packet. Taken inside the lock of a record of the table, never around one.
    pub fn lock(&self) -> SidesGuard<'_> {
        SidesGuard(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Exclusive access to the side records.
#[derive(Debug)]
pub struct SidesGuard<'a>(MutexGuard<'a, LruCache<DeviceId, Box<Side>, foldhash::fast::RandomState>>);

impl SidesGuard<'_> {
    /// The side record of a device, if it has one.
    pub fn find(&mut self, id: DeviceId) -> Option<&mut Side> {
        self.0.get_mut(&id).map(|side| &mut **side)
    }

    /// The side record of a device, made if needed; the least recently used one makes room.
    pub fn make(&mut self, id: DeviceId) -> &mut Side {
        self.0.get_or_insert_mut(id, Box::default)
    }

    /// Forgets a device.
    pub fn remove(&mut self, id: DeviceId) {
        self.0.pop(&id);
    }

    /// How many devices have a side record.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no device has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_device_makes_room() {
        let sides = Sides::new(2);
        let mut sides = sides.lock();
        for id in [1, 2] {
            sides.make(DeviceId(id));
        }
        assert!(sides.find(DeviceId(1)).is_some());
        sides.make(DeviceId(3));
        assert!(sides.find(DeviceId(2)).is_none() && sides.find(DeviceId(1)).is_some());
        assert_eq!(sides.len(), 2);
    }
}
