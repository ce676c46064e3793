//! Which unregistered devices are kept: a bounded number, the least recently heard makes room (rule R9).
//!
//! The order is kept lazily, so that a packet of a known device costs nothing here: the heap holds for each device a time
//! at which it was heard, which is at most the true one. Whoever comes out first with its true time is the least recent.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::id::DeviceId;

/// Entries brought up to date for one admission, so that a packet never waits long. After that many the oldest entry at
/// hand goes, whenever it was heard.
const MAX_EXAMINED: usize = 64;

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

    /// Puts a new record in the order. Not to be called with a record locked.
    pub(super) fn queue(&self, id: DeviceId, heard_at: Timestamp) {
        self.by_age.lock().unwrap_or_else(PoisonError::into_inner).push(Reverse((heard_at, id)));
    }

    /// Forgets devices by `forget(id, heard at, whatever)` until one more fits. `whatever`: even if heard since.
    pub(super) fn make_room(&self, forget: impl Fn(DeviceId, Timestamp, bool) -> Examined) {
        if self.count() < self.limit {
            return;
        }
        let mut by_age = self.by_age.lock().unwrap_or_else(PoisonError::into_inner);
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
