//! The log of packets that did not count. Strangers can send any number of those, so it is one line a second and reason.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;
use crate::metrics::Disposition;

/// Least time between two lines of one reason, in milliseconds.
const INTERVAL_MS: u64 = 1000;

/// When each reason was last logged, and how many went without a line since. Shared by all ingest threads, so that more
/// sockets do not mean more lines, and without a lock, so that none of them waits for another.
#[derive(Debug, Default)]
pub struct RefusalLog([Reason; Disposition::ALL.len()]);

#[derive(Debug, Default)]
struct Reason {
    /// In milliseconds; 0 before the first line.
    logged_at: AtomicU64,
    unlogged: AtomicU64,
}

impl RefusalLog {
    /// Logs a datagram that did not count, unless its reason had a line within the last second.
    pub(super) fn note(
        &self,
        disposition: Disposition,
        rule: Option<&str>,
        source: SocketAddr,
        len: usize,
        at: Timestamp,
    ) {
        if let Some(unlogged) = self.0[disposition as usize].admit(at) {
            tracing::info!(reason = disposition.label(), rule, %source, len, unlogged, "datagram not counted");
        }
    }
}

impl Reason {
    /// Whether a line is due, and if so how many were left out before it.
    fn admit(&self, at: Timestamp) -> Option<u64> {
        let logged_at = self.logged_at.load(Ordering::Relaxed);
        // A clock set back must not silence the log.
        let due = at.0.abs_diff(logged_at) >= INTERVAL_MS;
        // Of threads that find it due at once, one writes the line.
        let replace = || self.logged_at.compare_exchange(logged_at, at.0, Ordering::Relaxed, Ordering::Relaxed);
        if due && replace().is_ok() {
            return Some(self.unlogged.swap(0, Ordering::Relaxed));
        }
        self.unlogged.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_it_says_how_many_had_none() {
        let reason = Reason::default();
        let admit = |ms| reason.admit(Timestamp(ms));
        assert_eq!(admit(5000), Some(0));
        assert_eq!((admit(5001), admit(5999)), (None, None));
        assert_eq!(admit(6000), Some(2));
        assert_eq!(admit(1000), Some(0), "the clock was set back");
    }
}
