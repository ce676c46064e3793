//! What the keeping of records counts, for the metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::checkpoint::Written;
use crate::clock::Timestamp;
use crate::metrics::histogram::Histogram;

/// Bounds of the time of a checkpoint: a sync of an idle disk, of a busy one, a million records, and what eats into the
/// interval of 10 s.
pub const CHECKPOINT_BOUNDS: [Duration; 6] = [
    Duration::from_millis(3),
    Duration::from_millis(30),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// What was written so far.
#[derive(Debug)]
pub struct Stats {
    times: Histogram<{ CHECKPOINT_BOUNDS.len() }>,
    rows: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    last: AtomicU64,
    /// When the one that is under way began.
    writing: Mutex<Option<Instant>>,
    /// The last one failed.
    is_failing: AtomicBool,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            times: Histogram::new(&CHECKPOINT_BOUNDS),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last: AtomicU64::new(0),
            writing: Mutex::default(),
            is_failing: AtomicBool::new(false),
        }
    }
}

impl Stats {
    /// Times of checkpoints that succeeded.
    pub const fn times(&self) -> &Histogram<{ CHECKPOINT_BOUNDS.len() }> {
        &self.times
    }

    /// Records that were written, and devices written down as forgotten.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes of records that were written.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Checkpoints that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// When the last checkpoint began that succeeded; the start before the first one.
    pub fn last(&self) -> Timestamp {
        Timestamp(self.last.load(Ordering::Relaxed))
    }

    /// For how long a checkpoint is under way; `None`: none is.
    pub fn writing_for(&self, now: Instant) -> Option<Duration> {
        self.writing().map(|began| now.saturating_duration_since(began))
    }

    /// Whether the last checkpoint that ended failed.
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    pub(super) fn begins(&self, now: Instant) {
        *self.writing() = Some(now);
    }

    fn ends(&self, failed: bool) {
        self.is_failing.store(failed, Ordering::Relaxed);
        *self.writing() = None;
    }

    fn writing(&self) -> MutexGuard<'_, Option<Instant>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begun(&self, at: Timestamp) {
        self.last.store(at.0, Ordering::Relaxed);
    }

    pub(super) fn written(&self, written: Written, began: Timestamp, took: Duration) {
        self.times.observe(took);
        self.rows.fetch_add(written.rows, Ordering::Relaxed);
        self.bytes.fetch_add(written.bytes, Ordering::Relaxed);
        self.begun(began);
        self.ends(false);
    }

    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.ends(true);
    }
}
