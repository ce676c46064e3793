//! What time it is at a gateway, as far as its answers tell.

use std::sync::{Mutex, PoisonError};

use hyper::header::HeaderValue;
use tokio::time::Instant;

use crate::clock::{Clock, Timestamp};

/// What the clock of a gateway has passed.
#[derive(Debug, Default)]
pub(super) struct GatewayTime(Mutex<Option<Known>>);

/// What it had passed at a moment of this machine.
#[derive(Clone, Copy, Debug)]
struct Known {
    passed: Timestamp,
    at: Instant,
}

impl GatewayTime {
    /// What it has passed by now; the time of this machine if nothing was learned.
    pub(super) fn now(&self) -> Timestamp {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.map_or_else(|| Clock::default().now(), |Known { passed, at }| passed.after(at.elapsed()))
    }

    /// Takes note that it has passed this time.
    pub(super) fn learn(&self, passed: Timestamp) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        if known.is_none_or(|known| known.passed.after(at - known.at) < passed) {
            *known = Some(Known { passed, at });
        }
    }
}

/// The time of a `Date` header.
pub(super) fn date(value: &HeaderValue) -> Option<Timestamp> {
    let time = jiff::fmt::rfc2822::parse(value.to_str().ok()?).ok()?;
    u64::try_from(time.timestamp().as_millisecond()).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_and_what_is_none_is_not() {
        let read = |text| date(&HeaderValue::from_static(text));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Timestamp(784_111_777_000)));
        assert_eq!(read("yesterday"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_time_that_was_told_goes_on_with_the_time_that_passes_here() {
        let time = GatewayTime::default();
        time.learn(Timestamp(5_000));
        tokio::time::advance(std::time::Duration::from_millis(700)).await;
        time.learn(Timestamp(5_000));
        assert_eq!(time.now(), Timestamp(5_700));
        time.learn(Timestamp(6_000));
        assert_eq!(time.now(), Timestamp(6_000));
    }
}
