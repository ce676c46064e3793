//! What few devices need beside their record, for a bounded number of them at once: made on demand, the least recently used
//! makes room.
//!
//! There is room for all of them from the start, which takes memory only as it is used: nobody waits while it grows.

use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use crate::devices::index::{Found, Index};
use crate::id::DeviceId;

/// One `T` for each of at most so many devices.
#[derive(Debug)]
pub struct Bounded<T>(Mutex<Ring<T>>);

impl<T: Default> Bounded<T> {
    /// Room for `limit` devices, at least one.
    pub fn new(limit: usize) -> Self {
        Self(Mutex::new(Ring::new(limit.max(1))))
    }

    /// All of them, for the time of one packet. Taken inside the lock of a record of the table, never around one, and never
    /// together with another of its kind.
    pub fn lock(&self) -> BoundedGuard<'_, T> {
        BoundedGuard(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Exclusive access to all of them.
#[derive(Debug)]
pub struct BoundedGuard<'a, T>(MutexGuard<'a, Ring<T>>);

impl<T: Default> BoundedGuard<'_, T> {
    /// That of a device, if it has one.
    pub fn find(&mut self, id: DeviceId) -> Option<&mut T> {
        let position = self.0.found(id)?.position;
        self.0.unlink(position);
        Some(self.0.link(position))
    }

    /// That of a device, made if needed; the least recently used one makes room.
    pub fn make(&mut self, id: DeviceId) -> &mut T {
        let position = match self.0.found(id) {
            Some(found) => {
                self.0.unlink(found.position);
                found.position
            }
            None => self.0.begin(id),
        };
        self.0.link(position)
    }

    /// Forgets a device.
    pub fn remove(&mut self, id: DeviceId) {
        self.0.remove(id);
    }

    /// How many devices have one.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no device has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Entries in a ring, in the order in which they were used.
#[derive(Debug)]
struct Ring<T> {
    limit: usize,
    hasher: RandomState,
    index: Index,
    /// The first is nobody's: the one used last comes behind it, the one used least recently before it.
    entries: Vec<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    id: DeviceId,
    /// Positions in the ring.
    before: u32,
    behind: u32,
    value: Box<T>,
}

impl<T: Default> Ring<T> {
    fn new(limit: usize) -> Self {
        let mut entries = Vec::with_capacity(limit + 1);
        entries.push(Entry { id: DeviceId(0), before: 0, behind: 0, value: Box::default() });
        Self { limit, hasher: RandomState::default(), index: Index::of(limit, std::iter::empty()), entries }
    }

    fn len(&self) -> usize {
        self.entries.len() - 1
    }

    fn found(&self, id: DeviceId) -> Option<Found> {
        self.index.find(self.hasher.hash_one(id), |position| self.entries[position].id == id)
    }

    /// An entry for a device that has none, not yet in the ring.
    fn begin(&mut self, id: DeviceId) -> usize {
        let position = if self.len() < self.limit {
            self.entries.push(Entry { id, before: 0, behind: 0, value: Box::default() });
            self.len()
        } else {
            self.reuse(id)
        };
        self.index.insert(self.hasher.hash_one(id), position);
        position
    }

    /// Takes the entry that was used least recently from its device.
    fn reuse(&mut self, id: DeviceId) -> usize {
        let position = self.entries[0].before as usize;
        self.unlink(position);
        self.unfind(self.entries[position].id);
        self.entries[position].id = id;
        *self.entries[position].value = T::default();
        position
    }

    fn remove(&mut self, id: DeviceId) {
        let Some(Found { position, .. }) = self.found(id) else { return };
        self.unlink(position);
        self.unfind(id);
        let last = self.len();
        self.entries.swap_remove(position);
        if position == last {
            return;
        }
        // The last one has taken its place.
        let Entry { id, before, behind, .. } = self.entries[position];
        self.index.change(self.hasher.hash_one(id), last, position);
        self.entries[before as usize].behind = position as u32;
        self.entries[behind as usize].before = position as u32;
    }

    /// Takes a device out of the index.
    fn unfind(&mut self, id: DeviceId) {
        if let Some(found) = self.found(id) {
            self.index.remove(found, |position| self.hasher.hash_one(self.entries[position].id));
        }
    }

    fn unlink(&mut self, position: usize) {
        let Entry { before, behind, .. } = self.entries[position];
        self.entries[before as usize].behind = behind;
        self.entries[behind as usize].before = before;
    }

    /// Makes an entry the one that was used last.
    fn link(&mut self, position: usize) -> &mut T {
        let behind = self.entries[0].behind;
        self.entries[0].behind = position as u32;
        self.entries[behind as usize].before = position as u32;
        let entry = &mut self.entries[position];
        (entry.before, entry.behind) = (0, behind);
        &mut entry.value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_recently_used_device_makes_room() {
        let bounded = Bounded::<u8>::new(2);
        let mut bounded = bounded.lock();
        for id in [1, 2] {
            *bounded.make(DeviceId(id)) = 7;
        }
        assert_eq!(bounded.find(DeviceId(1)), Some(&mut 7));
        assert_eq!(*bounded.make(DeviceId(3)), 0);
        assert!(bounded.find(DeviceId(2)).is_none() && bounded.find(DeviceId(1)).is_some());
        assert_eq!(bounded.len(), 2);
        bounded.remove(DeviceId(1));
        assert_eq!(bounded.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_done_the_order_is_that_of_a_list(
            limit in 0..20_usize,
            history in prop::collection::vec((0..3_u8, 0..30_u64), 1..300),
        ) {
            let bounded = Bounded::<usize>::new(limit);
            let mut bounded = bounded.lock();
            // The one used last at the end.
            let mut model = Vec::<(u64, usize)>::new();
            for (value, (what, id)) in (1..).zip(history) {
                let known = model.iter().position(|(known, _)| *known == id).map(|at| model.remove(at));
                match what {
                    0 => {
                        let made = bounded.make(DeviceId(id));
                        prop_assert_eq!(*made, known.map_or(0, |(_, value)| value));
                        *made = value;
                        model.push((id, value));
                        if model.len() > limit.max(1) {
                            model.remove(0);
                        }
                    }
                    1 => {
                        prop_assert_eq!(bounded.find(DeviceId(id)).copied(), known.map(|(_, value)| value));
                        model.extend(known);
                    }
                    _ => bounded.remove(DeviceId(id)),
                }
                prop_assert_eq!((bounded.len(), bounded.is_empty()), (model.len(), model.is_empty()));
            }
            for (id, value) in model {
                prop_assert_eq!(bounded.find(DeviceId(id)).copied(), Some(value));
            }
        }
    }
}
