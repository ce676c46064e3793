//! The log of packets that did not count. Strangers can send any number of those, so it is one line a second and reason.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;
use crate::metrics::Disposition;

/// Least time between two lines of one reason, in milliseconds.
const INTERVAL_MS: u64 = 1000;

/// When each reason was last logged, and how many went without a line since. Shared by all ingest threads, so that more
/// sockets do not mean more lines, and without a lock, so that none of them waits for another. What has no line is counted by
/// each thread for itself until the end of its batch (`Unlogged`): a flood over several threads writes nothing here.
#[derive(Debug, Default)]
pub struct RefusalLog([Reason; Disposition::ALL.len()]);

/// What one thread refused without a line and has not added to the log yet, by reason.
#[derive(Debug, Default)]
pub(super) struct Unlogged([u64; Disposition::ALL.len()]);

#[derive(Debug, Default)]
struct Reason {
    /// In milliseconds; 0 before the first line.
    logged_at: AtomicU64,
    unlogged: AtomicU64,
}

impl RefusalLog {
    /// Logs a datagram that did not count, unless its reason had a line within the last second; then it is `unlogged`.
    pub(super) fn note(
        &self,
        unlogged: &mut Unlogged,
        (disposition, rule): (Disposition, Option<&str>),
        source: SocketAddr,
        len: usize,
        at: Timestamp,
    ) {
        if let Some(unlogged) = self.0[disposition as usize].admit(&mut unlogged.0[disposition as usize], at) {
            tracing::info!(reason = disposition.label(), rule, %source, len, unlogged, "datagram not counted");
        }
    }

    /// Takes over what a thread refused without a line.
    pub(super) fn settle(&self, unlogged: &mut Unlogged) {
        for (reason, unlogged) in self.0.iter().zip(&mut unlogged.0).filter(|(_, unlogged)| **unlogged > 0) {
            reason.unlogged.fetch_add(std::mem::take(unlogged), Ordering::Relaxed);
        }
    }
}

impl Reason {
    /// Whether a line is due, and if so how many were left out before it. If not, one more is `unlogged`.
    fn admit(&self, unlogged: &mut u64, at: Timestamp) -> Option<u64> {
        let logged_at = self.logged_at.load(Ordering::Relaxed);
        // A clock set back must not silence the log.
        let due = at.0.abs_diff(logged_at) >= INTERVAL_MS;
        // Of threads that find it due at once, one writes the line.
        let replace = || self.logged_at.compare_exchange(logged_at, at.0, Ordering::Relaxed, Ordering::Relaxed);
        if due && replace().is_ok() {
            return Some(self.unlogged.swap(0, Ordering::Relaxed) + std::mem::take(unlogged));
        }
        *unlogged += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_it_says_how_many_had_none() {
        let (reason, mut unlogged) = (Reason::default(), 0);
        let mut admit = |ms| reason.admit(&mut unlogged, Timestamp(ms));
        assert_eq!(admit(5000), Some(0));
        assert_eq!((admit(5001), admit(5999)), (None, None));
        assert_eq!(admit(6000), Some(2));
        assert_eq!(admit(1000), Some(0), "the clock was set back");
    }

    #[test]
    fn a_line_says_what_all_threads_refused_without_one_up_to_the_ends_of_their_batches() {
        let (log, mut threads) = (RefusalLog::default(), [Unlogged::default(), Unlogged::default()]);
        let reason = Disposition::BadTag as usize;
        let admit = |unlogged: &mut Unlogged, ms| log.0[reason].admit(&mut unlogged.0[reason], Timestamp(ms));
        assert_eq!(admit(&mut threads[0], 5000), Some(0));
        for ms in [5001, 5002, 5003] {
            threads.iter_mut().for_each(|thread| assert_eq!(admit(thread, ms), None));
        }
        log.settle(&mut threads[1]);
        log.settle(&mut threads[1]);
        assert_eq!(admit(&mut threads[1], 5004), None);
        assert_eq!(admit(&mut threads[0], 6000), Some(6));
        log.settle(&mut threads[1]);
        assert_eq!(admit(&mut threads[0], 7000), Some(1));
    }
}
