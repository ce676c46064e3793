//! The log of packets that did not count. Strangers can send any number of those, so it is one line a second and reason.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::metrics::Disposition;
use crate::table::rules::Step;

/// Least time between two lines of one reason, in milliseconds.
const INTERVAL_MS: u64 = 1000;

/// When each reason was last logged, and how many went without a line since. Shared by all ingest threads, so that more
/// sockets do not mean more lines.
#[derive(Debug, Default)]
pub struct RefusalLog(Mutex<[Reason; Disposition::ALL.len()]>);

#[derive(Clone, Copy, Debug, Default)]
struct Reason {
    logged_at: Option<Timestamp>,
    unlogged: u64,
}

impl RefusalLog {
    /// Logs a datagram that did not count, unless its reason had a line within the last second.
    pub(super) fn note(
        &self,
        disposition: Disposition,
        step: Option<Step>,
        source: SocketAddr,
        len: usize,
        at: Timestamp,
    ) {
        let due = self.0.lock().unwrap_or_else(PoisonError::into_inner)[disposition as usize].admit(at);
        if let Some(unlogged) = due {
            let rule = step.map(Step::name);
            tracing::info!(reason = disposition.label(), rule, %source, len, unlogged, "datagram not counted");
        }
    }
}

impl Reason {
    /// Whether a line is due, and if so how many were left out before it.
    fn admit(&mut self, at: Timestamp) -> Option<u64> {
        // A clock set back must not silence the log.
        let due = self.logged_at.is_none_or(|logged_at| at.0.abs_diff(logged_at.0) >= INTERVAL_MS);
        if !due {
            self.unlogged += 1;
            return None;
        }
        self.logged_at = Some(at);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_it_says_how_many_had_none() {
        let mut reason = Reason::default();
        let mut admit = |ms| reason.admit(Timestamp(ms));
        assert_eq!(admit(5000), Some(0));
        assert_eq!((admit(5001), admit(5999)), (None, None));
        assert_eq!(admit(6000), Some(2));
        assert_eq!(admit(1000), Some(0), "the clock was set back");
    }
}
