//! What few devices need beside their record, for a bounded number of them at once: made on demand, the least recently used
//! makes room.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use lru::LruCache;

use crate::id::DeviceId;

type Cache<T> = LruCache<DeviceId, Box<T>, RandomState>;

/// One `T` for each of at most so many devices.
#[derive(Debug)]
pub struct Bounded<T>(Mutex<Cache<T>>);

impl<T: Default> Bounded<T> {
    /// Room for `limit` devices, at least one.
    pub fn new(limit: usize) -> Self {
        let limit = NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN);
        // `with_hasher` would allocate the whole table at once.
        let mut cache = LruCache::unbounded_with_hasher(RandomState::default());
        cache.resize(limit);
        Self(Mutex::new(cache))
    }

    /// All of them, for the time of one packet. Taken inside the lock of a record of the table, never around one, and never
    /// together with another of its kind.
    pub fn lock(&self) -> BoundedGuard<'_, T> {
        BoundedGuard(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Exclusive access to all of them.
#[derive(Debug)]
pub struct BoundedGuard<'a, T>(MutexGuard<'a, Cache<T>>);

impl<T: Default> BoundedGuard<'_, T> {
    /// That of a device, if it has one.
    pub fn find(&mut self, id: DeviceId) -> Option<&mut T> {
        self.0.get_mut(&id).map(|value| &mut **value)
    }

    /// That of a device, made if needed; the least recently used one makes room.
    pub fn make(&mut self, id: DeviceId) -> &mut T {
        self.0.get_or_insert_mut(id, Box::default)
    }

    /// Forgets a device.
    pub fn remove(&mut self, id: DeviceId) {
        self.0.pop(&id);
    }

    /// How many devices have one.
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
}
