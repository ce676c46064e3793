//! Which unregistered devices are kept: a bounded number, the least recently heard makes room (rule R9).
//!
//! The order is kept lazily, so that a packet of a known device costs nothing here: the heap holds for each device a time
//! at which it was heard, which is at most the true one. Whoever comes out first with its true time is the least recent.
//! The heap also knows whom to list, without a look at all records.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::id::DeviceId;

use super::RouteTable;
use super::route::Snapshot;

/// Entries brought up to date for one admission, so that a packet never waits long. After that many the oldest entry at
/// hand goes, whenever it was heard.
const MAX_EXAMINED: usize = 64;

/// Entries that may stay in the order beyond two for each unregistered device.
const SPARE: usize = 1024;

/// Order and number of the unregistered devices.
#[derive(Debug)]
pub(super) struct Admission {
    limit: usize,
    count: AtomicUsize,
    by_age: Mutex<BinaryHeap<Reverse<(Timestamp, DeviceId)>>>,
}

/// What an attempt to forget a device found.
pub(super) enum Examined {
    /// It is forgotten.
    Removed,
    /// It was heard since, at this time.
    HeardAt(Timestamp),
    /// It is not there any more, or is registered now.
    Gone,
}

impl Admission {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), count: AtomicUsize::new(0), by_age: Mutex::default() }
    }

    /// How many may be kept.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// Begins with the order of those that were restored. Not to be called with a record locked.
    pub(super) fn settle(&self, heard: impl IntoIterator<Item = (Timestamp, DeviceId)>) {
        *self.lock() = heard.into_iter().map(Reverse).collect();
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// A record was made.
    pub(super) fn enter(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// A record was forgotten or registered.
    pub(super) fn leave(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Puts a new record in the order. Not to be called with a record locked. Those that are not unregistered any more come
    /// out of the order now and then.
    pub(super) fn queue(&self, id: DeviceId, heard_at: Timestamp, is_unregistered: impl Fn(DeviceId) -> bool) {
        let mut by_age = self.lock();
        by_age.push(Reverse((heard_at, id)));
        if by_age.len() > 2 * self.count() + SPARE {
            let mut entries = std::mem::take(&mut *by_age).into_vec();
            entries.sort_unstable_by_key(|Reverse((heard_at, id))| (*id, *heard_at));
            entries.dedup_by_key(|Reverse((_, id))| *id);
            entries.retain(|Reverse((_, id))| is_unregistered(*id));
            entries.shrink_to_fit();
            *by_age = entries.into();
        }
    }

    /// Devices that were put in the order and have not come out of it, by id. Some are registered by now, or gone.
    fn queued(&self) -> Vec<DeviceId> {
        // Packets wait for the lock: no more than a copy is made under it.
        let mut ids: Vec<DeviceId> = self.lock().iter().map(|Reverse((_, id))| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn lock(&self) -> MutexGuard<'_, BinaryHeap<Reverse<(Timestamp, DeviceId)>>> {
        self.by_age.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets devices by `forget(id, heard at, whatever)` until one more fits. `whatever`: even if heard since.
    pub(super) fn make_room(&self, forget: impl Fn(DeviceId, Timestamp, bool) -> Examined) {
        if self.count() < self.limit {
            return;
        }
        let mut by_age = self.lock();
        let mut examined = 0;
        while self.count() >= self.limit {
            let Some(Reverse((heard_at, id))) = by_age.pop() else { return };
            match forget(id, heard_at, examined >= MAX_EXAMINED) {
                Examined::Removed => self.leave(),
                Examined::HeardAt(heard_at) => by_age.push(Reverse((heard_at, id))),
                Examined::Gone => {}
            }
            examined += 1;
        }
    }
}

impl RouteTable {
    /// What was heard of devices that are not registered: of those heard last first, and of those heard in the same
    /// millisecond in the order of their ids, `limit` at most after the first `offset`. Takes time in proportion to the
    /// number of unregistered devices, some 20 ms for 100 000.
    pub fn unregistered_devices(&self, limit: usize, offset: usize) -> Vec<Snapshot> {
        let heard_at = |id| {
            let place = self.records.lock(id);
            let record = place.find()?;
            (!record.registered()).then(|| (Reverse(record.last_at()), id))
        };
        let mut devices: Vec<_> = self.admission.queued().into_iter().filter_map(heard_at).collect();
        devices.sort_unstable();
        // Whoever was registered or forgotten meanwhile takes no place on the page.
        let snapshots = devices.into_iter().skip(offset).filter_map(|(_, id)| self.snapshot(id));
        snapshots.filter(|snapshot| !snapshot.registered).take(limit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_grow_with_devices_that_are_not_unregistered_any_more() {
        let admission = Admission::new(10);
        let is_unregistered = |id| id == DeviceId(1);
        admission.enter();
        for time in 0..10_000 {
            // One that is forgotten and heard again all the time, and many that are registered.
            admission.queue(DeviceId(1), Timestamp(time), is_unregistered);
            admission.queue(DeviceId(2 + time), Timestamp(time), is_unregistered);
            assert!(admission.lock().len() <= 2 + SPARE);
        }
        assert!(admission.queued().is_sorted() && admission.queued().contains(&DeviceId(1)));
    }
}
