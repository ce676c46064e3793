//! One value for each of millions of devices, in shards that are locked each by itself.
//!
//! In a shard the values lie in chunks ([`chunks`]), each with its id, and an index beside them says where
//! ([`index`]). So a device that is added moves nothing: a chunk is begun now and then, and the index, of a few bytes a
//! device, is made anew each time that there are half as many again. Nobody may remember where a value is: when one is removed,
//! another one takes its place.

pub(crate) mod chunks;
pub(crate) mod index;
mod prefetch;

use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use foldhash::fast::RandomState;

use crate::id::DeviceId;
use chunks::Chunks;
use index::{Found, Index};

/// A `T` for each of any number of devices.
pub(crate) struct Devices<T> {
    hasher: RandomState,
    shards: Box<[Shard<T>]>,
    /// Where the index of each shard is.
    aims: Box<[Aim]>,
}

/// A cache line of its own, so that threads that look at two shards do not disturb each other.
#[derive(Debug)]
#[repr(align(64))]
struct Shard<T>(Mutex<Contents<T>>);

/// What a shard holds.
#[derive(Debug)]
struct Contents<T> {
    index: Index,
    entries: Chunks<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    id: DeviceId,
    value: T,
}

/// Where the index of a shard begins, or did a moment ago, and of how many places it is: to fetch it without the lock.
#[derive(Debug, Default)]
struct Aim {
    index: AtomicPtr<u32>,
    places: AtomicUsize,
}

impl<T> Devices<T> {
    /// Nothing yet, in so many shards: a power of two, and at least 2.
    pub(crate) fn new(shards: usize) -> Self {
        let shards = 0..shards.next_power_of_two().max(2);
        let aims = shards.clone().map(|_| Aim::default()).collect();
        Self { hasher: RandomState::default(), shards: shards.map(|_| Shard::new()).collect(), aims }
    }

    /// Locks the shard of a device, whether there is anything of it or not.
    #[inline]
    pub(crate) fn lock(&self, id: DeviceId) -> Place<'_, T> {
        let hash = self.hash(id);
        Place { id, hash, devices: self, contents: self.shards[self.shard(hash)].lock() }
    }

    /// A copy of the value of a device.
    pub(crate) fn copy(&self, id: DeviceId) -> Option<T>
    where
        T: Copy,
    {
        self.lock(id).find().copied()
    }

    /// Whether there is a value of a device.
    pub(crate) fn has(&self, id: DeviceId) -> bool {
        self.lock(id).find().is_some()
    }

    /// Gives a device a value, whether it has one or not.
    pub(crate) fn set(&self, id: DeviceId, value: T) {
        let mut place = self.lock(id);
        match place.find_mut() {
            Some(present) => *present = value,
            None => _ = place.insert(value),
        }
    }

    /// How many values there are. Locks all shards, one after the other.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().entries.len()).sum()
    }

    /// A look at all values, a piece at a time.
    pub(crate) const fn walk(&self) -> Walk<'_, T> {
        Walk { shards: &self.shards, shard: 0, chunk: 0 }
    }

    /// Fetches the values of a batch of devices into the caches, for them to be found there. What is not there costs a little and
    /// does no harm.
    pub(crate) fn prefetch(&self, ids: &[DeviceId]) {
        ids.iter().for_each(|&id| self.aim(id));
        ids.iter().for_each(|&id| _ = self.fetch(id));
    }

    /// As [`Self::prefetch`], and takes out of `ids` those of devices that have no value, as far as that can be told without waiting.
    pub(crate) fn prefetch_present(&self, ids: &mut Vec<DeviceId>) {
        ids.iter().for_each(|&id| self.aim(id));
        ids.retain(|&id| self.fetch(id));
    }

    /// The first step of fetching the value of a device: where the search for it begins, its shard and a place of the index there.
    /// Locks nothing; nothing need be there any more.
    #[inline]
    pub(crate) fn aim(&self, id: DeviceId) {
        let hash = self.hash(id);
        let shard = self.shard(hash);
        prefetch::fetch(&raw const self.shards[shard]);
        let aim = &self.aims[shard];
        let home = Index::home_among(hash, aim.places.load(Ordering::Relaxed));
        prefetch::fetch(aim.index.load(Ordering::Relaxed).wrapping_add(home));
    }

    /// The second step, best some time after the first one: the value; once in thousands of times that of another device. False if
    /// there is none. A shard that is in use is skipped rather than waited for, as if there were one.
    #[inline]
    pub(crate) fn fetch(&self, id: DeviceId) -> bool {
        let hash = self.hash(id);
        let Some(contents) = self.shards[self.shard(hash)].try_lock() else { return true };
        let found = contents.index.find(hash, |_| true);
        if let Some(found) = found {
            prefetch::fetch(contents.entries.at(found.position));
        }
        found.is_some()
    }

    fn hash(&self, id: DeviceId) -> u64 {
        self.hasher.hash_one(id)
    }

    fn shard(&self, hash: u64) -> usize {
        // The index goes by the lower half.
        (hash >> 32) as usize & (self.shards.len() - 1)
    }
}

impl<T> fmt::Debug for Devices<T> {
    /// None of them: there may be millions, and secrets among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices").finish_non_exhaustive()
    }
}

impl<T> Shard<T> {
    fn new() -> Self {
        Self(Mutex::new(Contents { index: Index::new(), entries: Chunks::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Contents<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Contents<T>>> {
        match self.0.try_lock() {
            Ok(contents) => Some(contents),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T> Contents<T> {
    #[inline]
    fn find(&self, hash: u64, id: DeviceId) -> Option<Found> {
        self.index.find(hash, |position| self.entries.at(position).id == id)
    }
}

/// The place of one device, whether there is a value or not. While it is held, its shard is locked.
#[derive(Debug)]
pub(crate) struct Place<'a, T> {
    id: DeviceId,
    hash: u64,
    devices: &'a Devices<T>,
    contents: MutexGuard<'a, Contents<T>>,
}

impl<T> Place<'_, T> {
    /// The value.
    #[inline]
    pub(crate) fn find(&self) -> Option<&T> {
        let found = self.contents.find(self.hash, self.id)?;
        Some(&self.contents.entries.at(found.position).value)
    }

    /// The value, to change it.
    #[inline]
    pub(crate) fn find_mut(&mut self) -> Option<&mut T> {
        let found = self.contents.find(self.hash, self.id)?;
        Some(&mut self.contents.entries.at_mut(found.position).value)
    }

    /// Puts a value where none is.
    pub(crate) fn insert(&mut self, value: T) -> &mut T {
        self.make_room();
        let Contents { index, entries } = &mut *self.contents;
        let position = entries.add(Entry { id: self.id, value });
        index.insert(self.hash, position);
        &mut entries.at_mut(position).value
    }

    /// Takes the value away.
    pub(crate) fn remove(&mut self) -> Option<T> {
        let found = self.contents.find(self.hash, self.id)?;
        let Contents { index, entries } = &mut *self.contents;
        let hash_of = |position| self.devices.hash(entries.at(position).id);
        index.remove(found, hash_of);
        let moves = entries.behind(found.position);
        if moves != found.position {
            index.change(hash_of(moves), moves, found.position);
        }
        Some(entries.take(found.position).value)
    }

    /// Lets the index hold one more.
    fn make_room(&mut self) {
        let Contents { index, entries } = &mut *self.contents;
        if index.has_room(entries.len()) {
            return;
        }
        let hashes = entries.iter().map(|(position, entry)| (self.devices.hash(entry.id), position));
        *index = Index::of(entries.len(), hashes);
        let aim = &self.devices.aims[self.devices.shard(self.hash)];
        aim.index.store(index.places().as_ptr().cast_mut(), Ordering::Relaxed);
        aim.places.store(index.places().len(), Ordering::Relaxed);
    }
}

/// A look at all values. Those that are there all the while are seen once.
#[derive(Debug)]
pub(crate) struct Walk<'a, T> {
    shards: &'a [Shard<T>],
    shard: usize,
    chunk: usize,
}

impl<T> Walk<'_, T> {
    /// Shows the next piece, a chunk of one shard, which is locked meanwhile; false at the end.
    pub(crate) fn next(&mut self, mut each: impl FnMut(DeviceId, &T)) -> bool {
        while let Some(shard) = self.shards.get(self.shard) {
            if let Some(entries) = shard.lock().entries.chunk(self.chunk) {
                self.chunk += 1;
                entries.iter().for_each(|entry| each(entry.id, &entry.value));
                return true;
            }
            (self.shard, self.chunk) = (self.shard + 1, 0);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    /// Of which a chunk holds four, so that a few dozen are many chunks.
    type Large = [u64; 512];

    /// What is done to one of a few devices, and how many pieces are looked at then.
    #[derive(Clone, Copy, Debug)]
    enum Done {
        Set(u64),
        Remove(u64),
        Look(u64),
    }

    fn anything() -> impl Strategy<Value = Done> {
        let id = 0..200_u64;
        prop_oneof![
            5 => id.clone().prop_map(Done::Set),
            3 => id.clone().prop_map(Done::Remove),
            2 => id.prop_map(Done::Look),
        ]
    }

    /// All that a walk sees, whatever else it does in between.
    fn seen<T>(walk: &mut Walk<'_, T>, seen: &mut Vec<DeviceId>) -> bool {
        walk.next(|id, _| seen.push(id))
    }

    fn check(devices: &Devices<Large>, model: &HashMap<u64, u64>) {
        for id in 0..200 {
            let place = devices.lock(DeviceId(id));
            assert_eq!(place.find().map(|value| value[511]), model.get(&id).copied(), "device {id}");
        }
        let (mut ids, mut walk) = (Vec::new(), devices.walk());
        while seen(&mut walk, &mut ids) {}
        ids.sort_unstable();
        let mut known: Vec<_> = model.keys().map(|id| DeviceId(*id)).collect();
        known.sort_unstable();
        assert_eq!((ids, devices.len()), (known, model.len()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_done_it_holds_what_a_map_would(history in prop::collection::vec(anything(), 1..600)) {
            let (devices, mut model) = (Devices::<Large>::new(2), HashMap::new());
            for (value, done) in (0..).zip(history) {
                match done {
                    Done::Set(id) => {
                        devices.set(DeviceId(id), [value; 512]);
                        model.insert(id, value);
                    }
                    Done::Remove(id) => {
                        let removed = devices.lock(DeviceId(id)).remove();
                        prop_assert_eq!(removed.map(|value| value[0]), model.remove(&id));
                    }
                    Done::Look(id) => {
                        let mut place = devices.lock(DeviceId(id));
                        if let Some(present) = place.find_mut() {
                            present[511] = value;
                            present[0] = value;
                            model.insert(id, value);
                        }
                    }
                }
            }
            check(&devices, &model);
        }

        #[test]
        fn a_walk_meets_once_what_is_there_all_the_while(
            before in prop::collection::vec(0..200_u64, 0..300),
            history in prop::collection::vec(anything(), 1..200),
        ) {
            let devices = Devices::<Large>::new(2);
            before.iter().for_each(|id| devices.set(DeviceId(*id), [0; 512]));
            let mut always: HashSet<_> = before.iter().map(|id| DeviceId(*id)).collect();
            let mut ever = always.clone();
            let (mut ids, mut walk) = (Vec::new(), devices.walk());
            for done in history {
                match done {
                    Done::Set(id) => {
                        devices.set(DeviceId(id), [1; 512]);
                        ever.insert(DeviceId(id));
                    }
                    Done::Remove(id) => {
                        devices.lock(DeviceId(id)).remove();
                        always.remove(&DeviceId(id));
                    }
                    Done::Look(_) => _ = seen(&mut walk, &mut ids),
                }
            }
            while seen(&mut walk, &mut ids) {}
            prop_assert!(!seen(&mut walk, &mut ids));
            prop_assert!(ids.iter().all(|id| ever.contains(id)));
            for id in always {
                prop_assert_eq!(ids.iter().filter(|seen| **seen == id).count(), 1);
            }
        }
    }

    #[test]
    fn many_devices_are_found_as_their_number_grows_and_falls() {
        let devices = Devices::new(2);
        for id in 0..100_000 {
            devices.lock(DeviceId(id)).insert(id);
        }
        for id in (0..100_000).filter(|id| id % 3 > 0) {
            assert_eq!(devices.lock(DeviceId(id)).remove(), Some(id));
        }
        for id in 0..100_000 {
            assert_eq!(devices.copy(DeviceId(id)), (id % 3 == 0).then_some(id));
        }
        assert_eq!(devices.len(), 33_334);
    }

    #[test]
    fn threads_that_add_remove_and_fetch_leave_what_they_should_while_others_look() {
        let devices = Devices::new(4);
        (0..1000).for_each(|id| devices.set(DeviceId(id), id));
        std::thread::scope(|scope| {
            for first in [1000, 2000] {
                let devices = &devices;
                scope.spawn(move || {
                    for round in 0..20 {
                        let ids: Vec<_> = (first..first + 1000).map(DeviceId).collect();
                        devices.prefetch(&ids);
                        ids.iter().for_each(|id| _ = devices.lock(*id).insert(round));
                        for id in ids {
                            assert_eq!(devices.lock(id).remove(), Some(round));
                        }
                    }
                });
            }
            for _ in 0..50 {
                let (mut ids, mut walk) = (Vec::new(), devices.walk());
                while walk.next(|id, _| ids.push(id.0)) {}
                ids.retain(|id| *id < 1000);
                ids.sort_unstable();
                assert!(ids.iter().copied().eq(0..1000));
            }
        });
        assert_eq!(devices.len(), 1000);
    }

    #[test]
    fn whatever_is_fetched_nothing_changes_and_a_shard_in_use_is_not_waited_for() {
        let devices = Devices::new(4);
        let ids: Vec<DeviceId> = (0..200).map(DeviceId).collect();
        let present = || {
            let mut present = ids.clone();
            devices.prefetch_present(&mut present);
            present
        };
        for number in 0..100 {
            devices.prefetch(&ids);
            assert_eq!(present(), ids[..number]);
            devices.lock(ids[number]).insert(number as u64);
        }
        let writing = devices.lock(ids[0]);
        devices.prefetch(&ids);
        assert!(ids[..100].iter().all(|id| present().contains(id)));
        drop(writing);
        assert!((0..100).all(|id| devices.copy(DeviceId(id)) == Some(id)));
        assert_eq!(devices.len(), 100);
    }

    #[test]
    fn a_shard_is_one_cache_line_and_an_entry_holds_nothing_but_the_id_and_the_value() {
        assert_eq!(size_of::<Shard<Large>>(), 64);
        assert_eq!(size_of::<Entry<Large>>(), size_of::<DeviceId>() + size_of::<Large>());
    }
}
