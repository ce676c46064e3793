//! Room: bounds over all intents, and over all bytes of data. What takes some gives it back when it is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use crate::id::DeviceId;

/// Places for intents that wait.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    used: AtomicUsize,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Place(Arc<Places>);

impl Places {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn has_one(&self) -> bool {
        self.used() < self.limit
    }
}

impl Place {
    /// `None` if all are taken.
    pub(super) fn take(places: &Arc<Places>) -> Option<Self> {
        let take = |used| (used < places.limit).then_some(used + 1);
        places.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Self(Arc::clone(places)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes for the data of calls: so many in all, and so many for each device.
#[derive(Debug)]
pub(super) struct DataRoom {
    limit: usize,
    share: usize,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    all: usize,
    /// Of those devices that use some.
    devices: HashMap<DeviceId, usize, RandomState>,
}

/// What some data of a device takes.
#[derive(Debug)]
pub(super) struct DataClaim {
    device: DeviceId,
    bytes: AtomicUsize,
    room: Arc<DataRoom>,
}

impl DataRoom {
    pub(super) fn new(limit: usize, share: usize) -> Self {
        Self { limit, share, used: Mutex::default() }
    }

    pub(super) fn has(&self, device: DeviceId, bytes: usize) -> bool {
        self.used().is_below(self.limit, self.share, device, bytes)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    fn is_below(&self, limit: usize, share: usize, device: DeviceId, more: usize) -> bool {
        let of_device = self.devices.get(&device).copied().unwrap_or_default();
        self.all.saturating_add(more) <= limit && of_device.saturating_add(more) <= share
    }

    fn add(&mut self, device: DeviceId, bytes: usize) {
        self.all += bytes;
        *self.devices.entry(device).or_default() += bytes;
    }

    fn remove(&mut self, device: DeviceId, bytes: usize) {
        self.all -= bytes;
        if let Some(of_device) = self.devices.get_mut(&device) {
            *of_device -= bytes;
            if *of_device == 0 {
                self.devices.remove(&device);
            }
        }
    }
}

impl DataClaim {
    /// Nothing, so far.
    pub(super) fn none(room: &Arc<DataRoom>, device: DeviceId) -> Self {
        Self { device, bytes: AtomicUsize::new(0), room: Arc::clone(room) }
    }

    /// So many; `None` if that is too much.
    pub(super) fn take(room: &Arc<DataRoom>, device: DeviceId, bytes: usize) -> Option<Self> {
        let claim = Self::none(room, device);
        claim.grow(bytes).then_some(claim)
    }

    /// So many, whether there is room or not.
    pub(super) fn force(room: &Arc<DataRoom>, device: DeviceId, bytes: usize) -> Self {
        room.used().add(device, bytes);
        Self { device, bytes: AtomicUsize::new(bytes), room: Arc::clone(room) }
    }

    /// Takes more; false, and nothing is taken, if that is too much.
    pub(super) fn grow(&self, more: usize) -> bool {
        if more == 0 {
            return true;
        }
        let mut used = self.room.used();
        let fits = used.is_below(self.room.limit, self.room.share, self.device, more);
        if fits {
            used.add(self.device, more);
            self.bytes.fetch_add(more, Ordering::Relaxed);
        }
        fits
    }
}

impl Drop for DataClaim {
    fn drop(&mut self) {
        self.room.used().remove(self.device, *self.bytes.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(1);
    const OTHER: DeviceId = DeviceId(2);

    #[test]
    fn places_are_taken_while_there_are_any_and_given_back() {
        let places = Arc::new(Places::new(2));
        let [first, second] = [(); 2].map(|()| Place::take(&places));
        assert!(first.is_some() && second.is_some() && Place::take(&places).is_none());
        drop(first);
        assert!(Place::take(&places).is_some());
        assert_eq!(places.used(), 1);
    }

    #[test]
    fn data_takes_room_of_all_and_of_its_device_and_gives_it_back() {
        let room = Arc::new(DataRoom::new(10, 6));
        let first = DataClaim::take(&room, DEVICE, 4).unwrap();
        assert!(first.grow(2) && !first.grow(1), "the share of the device");
        assert!(DataClaim::take(&room, OTHER, 5).is_none(), "all there is");
        assert!(room.has(OTHER, 4) && !room.has(OTHER, 5) && !room.has(DEVICE, 1));
        let forced = DataClaim::force(&room, OTHER, 7);
        assert!(!room.has(OTHER, 0) && first.grow(0));
        drop(forced);
        drop(first);
        assert!(room.has(DEVICE, 6) && !room.has(DEVICE, 7) && DataClaim::take(&room, OTHER, usize::MAX).is_none());
        let used = room.used();
        assert_eq!((used.all, used.devices.len()), (0, 0), "nothing is kept of devices that use none");
    }
}
