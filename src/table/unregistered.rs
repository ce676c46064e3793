//! Which unregistered devices are kept: a bounded number, the least recently heard makes room (rule R9).
//!
//! The order is kept lazily, so that a packet of a known device costs nothing here: the queue holds for each device a time
//! at which it was heard, which is at most the true one. Whoever comes out first with its true time is the least recent.
//! The queue also knows whom to list, without a look at all records. Those that are registered by now, or gone, are taken out
//! of it a few at a time.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::id::DeviceId;

use super::RouteTable;
use super::queue::Queue;
use super::record::Record;
use super::route::Snapshot;

/// Entries brought up to date for one admission, so that a packet never waits long. After that many the oldest entry at
/// hand goes, whenever it was heard. Where nothing but entries without a device is found in twice as many, one more is let in: the
/// next one has as many more taken out, so that the bound is passed by a hundredth at most, and not for long.
const MAX_EXAMINED: usize = 64;

/// Entries that may stay in the order beyond two for each unregistered device.
const SPARE: usize = 1024;

/// Entries that are looked at for each new one once there are more than that: most of them are to be taken out.
const SWEPT: usize = 3;

/// Order and number of the unregistered devices.
#[derive(Debug)]
pub(super) struct Admission {
    limit: usize,
    count: AtomicUsize,
    order: Mutex<Order>,
}

#[derive(Debug)]
struct Order {
    queue: Queue<Queued>,
    /// The entry that is to be looked at next.
    next: usize,
}

/// A device in the order: by the time, then by the id. There may be millions, so that it is laid out small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    pub(super) id: DeviceId,
    /// The time, and in the lowest bits those of the generation.
    when: u64,
}

/// Bits of [`Queued::when`] that are of the generation. The others last for another 500 years.
const GENERATION: u32 = 20;

impl Queued {
    /// The device of a record of this generation, which was heard at this time.
    pub(super) fn new(heard_at: Timestamp, id: DeviceId, generation: u32) -> Self {
        let time = heard_at.0.min(u64::MAX >> GENERATION);
        Self { id, when: time << GENERATION | u64::from(generation) & ((1 << GENERATION) - 1) }
    }

    /// A time at which it was heard.
    pub(super) const fn heard_at(&self) -> Timestamp {
        Timestamp(self.when >> GENERATION)
    }

    /// Whether the record of its device is the one that was meant, and not registered.
    pub(super) fn is_of(&self, record: &Record) -> bool {
        !record.registered() && *self == Self::new(self.heard_at(), self.id, record.generation)
    }

    /// The same device, heard at another time.
    fn heard_again(self, at: Timestamp) -> Self {
        Self::new(at, self.id, self.when as u32)
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |queued: &Self| (queued.heard_at(), queued.id, queued.when);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
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
        let order = Order { queue: Queue::new(), next: 0 };
        Self { limit: limit.max(1), count: AtomicUsize::new(0), order: Mutex::new(order) }
    }

    /// How many may be kept.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// Begins with the order of those that were restored. Not to be called with a record locked.
    pub(super) fn settle(&self, heard: impl IntoIterator<Item = Queued>) {
        let mut order = self.lock();
        order.queue = Queue::new();
        heard.into_iter().for_each(|queued| order.queue.push(queued));
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

    /// Puts a new record in the order. Not to be called with a record locked. `is_there`: whether an entry is that of a record
    /// that is there, of a device that is not registered.
    pub(super) fn queue(&self, new: Queued, is_there: impl Fn(&Queued) -> bool) {
        let mut order = self.lock();
        order.queue.push(new);
        for _ in 0..SWEPT {
            if order.queue.len() <= 2 * self.count() + SPARE {
                return;
            }
            order.sweep(&is_there);
        }
    }

    /// Devices that were put in the order and have not come out of it, by id. Some are registered by now, or gone.
    fn queued(&self) -> Vec<DeviceId> {
        // Packets wait for the lock: no more than a copy is made under it.
        let mut ids: Vec<DeviceId> = self.lock().queue.iter().map(|queued| queued.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets devices by `forget(queued, whatever)` until one more fits. `whatever`: even if heard since.
    pub(super) fn make_room(&self, forget: impl Fn(&Queued, bool) -> Examined) {
        if self.count() < self.limit {
            return;
        }
        let mut order = self.lock();
        let mut examined = 0;
        while self.count() >= self.limit && examined < 2 * MAX_EXAMINED {
            let Some(queued) = order.queue.pop() else { return };
            match forget(&queued, examined >= MAX_EXAMINED) {
                Examined::Removed => self.leave(),
                Examined::HeardAt(at) => order.queue.push(queued.heard_again(at)),
                Examined::Gone => {}
            }
            examined += 1;
        }
    }
}

impl Order {
    /// Looks at the next entry, and takes it out if it is not there any more.
    fn sweep(&mut self, is_there: impl Fn(&Queued) -> bool) {
        match self.queue.at(self.next) {
            None => self.next = 0,
            Some(queued) if is_there(&queued) => self.next += 1,
            Some(_) => _ = self.queue.take(self.next),
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
    fn an_entry_is_small_and_goes_by_time_then_by_id() {
        assert_eq!(size_of::<Queued>(), 16);
        let queued = |time, id, generation| Queued::new(Timestamp(time), DeviceId(id), generation);
        assert!(queued(1, 9, 9) < queued(2, 1, 1) && queued(2, 1, 9) < queued(2, 2, 1));
        let far = queued(u64::MAX, 1, u32::MAX);
        assert!(far.heard_at() > Timestamp(1 << 43));
        let again = far.heard_again(Timestamp(7));
        assert_eq!((again.heard_at(), again), (Timestamp(7), queued(7, 1, u32::MAX)));
    }

    #[test]
    fn a_record_is_that_of_an_entry_if_it_is_of_its_generation_and_not_registered() {
        let queued = Queued::new(Timestamp(5), DeviceId(1), 1 << 30 | 7);
        let is_of = |generation, registered| queued.is_of(&Record::new(generation, registered));
        assert!(is_of(1 << 30 | 7, false) && !is_of(1 << 30 | 7, true) && !is_of(1 << 30 | 6, false));
    }

    #[test]
    fn the_order_does_not_grow_with_devices_that_are_not_unregistered_any_more() {
        let admission = Admission::new(10);
        admission.enter();
        for time in 0..10_000 {
            // One that is forgotten and heard again all the time, and many that are registered.
            let present = Queued::new(Timestamp(time), DeviceId(1), time as u32);
            admission.queue(present, |queued| *queued == present);
            admission.queue(Queued::new(Timestamp(time), DeviceId(2 + time), 0), |queued| *queued == present);
            assert!(admission.lock().queue.len() <= 2 + SPARE);
        }
        assert!(admission.queued().is_sorted() && admission.queued().contains(&DeviceId(1)));
    }

    #[test]
    fn one_that_is_let_in_waits_for_no_more_than_a_few_entries_of_devices_that_are_gone() {
        let admission = Admission::new(1000);
        for id in 0..1000 {
            admission.enter();
            admission.queue(Queued::new(Timestamp(id), DeviceId(id), 0), |_| true);
        }
        let (looked, mut most, mut over) = (AtomicUsize::new(0), 0, 0);
        for id in 1000..1100 {
            admission.make_room(|queued, _| {
                looked.fetch_add(1, Ordering::Relaxed);
                if queued.id.0 < 900 { Examined::Gone } else { Examined::Removed }
            });
            most = most.max(looked.swap(0, Ordering::Relaxed));
            admission.enter();
            admission.queue(Queued::new(Timestamp(id), DeviceId(id), 0), |_| true);
            over = over.max(admission.count().saturating_sub(admission.limit()));
        }
        assert_eq!((most, over, admission.count()), (2 * MAX_EXAMINED, 900 / (2 * MAX_EXAMINED), admission.limit()));
    }

    #[test]
    fn whoever_is_registered_comes_out_of_the_order_a_few_at_a_time() {
        let admission = Admission::new(usize::MAX);
        for id in 0..10_000 {
            admission.enter();
            admission.queue(Queued::new(Timestamp(id), DeviceId(id), 0), |_| panic!("there are not too many"));
        }
        (0..10_000).for_each(|_| admission.leave());
        let (looked, mut most) = (AtomicUsize::new(0), 0);
        for id in 10_000..14_000 {
            admission.enter();
            admission.queue(Queued::new(Timestamp(id), DeviceId(id), 0), |queued| {
                looked.fetch_add(1, Ordering::Relaxed);
                queued.id.0 >= 10_000
            });
            most = most.max(looked.swap(0, Ordering::Relaxed));
        }
        assert_eq!(most, SWEPT);
        let ids = admission.queued();
        assert!(ids.len() <= 2 * 4000 + SPARE && (10_000..14_000).all(|id| ids.contains(&DeviceId(id))));
    }
}
