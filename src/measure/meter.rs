//! Processor time of a thread, and what it received meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::udp::RECEIVE_BATCH;

/// Whether somebody wants it to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(pub(super) Arc<AtomicBool>);

impl Stop {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// One receiver in one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Processor time of the receiving thread for each datagram, in nanoseconds.
    pub nanoseconds: f64,
    /// Datagrams that a receive call brought on average.
    pub datagrams_per_call: f64,
    /// The share of the time in which the thread ran, up to 1.
    pub running: f64,
    /// Datagrams that were sent to it.
    pub sent: u64,
    /// Those of them that the kernel dropped.
    pub dropped: u64,
}

/// How far a thread was at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    used: Duration,
    at: Instant,
    datagrams: u64,
    calls: u64,
}

impl Mark {
    /// Of the current thread, now.
    pub(super) fn now(datagrams: u64, calls: u64) -> Self {
        Self { used: thread_time(), at: Instant::now(), datagrams, calls }
    }

    /// What was received until then.
    pub(super) const fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// What came about since `start`.
    pub(super) fn since(&self, start: &Self, sent: u64, dropped: u64) -> Run {
        let (used, datagrams) = (self.used.saturating_sub(start.used).as_secs_f64(), self.datagrams - start.datagrams);
        Run {
            nanoseconds: used * 1e9 / datagrams as f64,
            datagrams_per_call: datagrams as f64 / (self.calls - start.calls) as f64,
            running: (used / (self.at - start.at).as_secs_f64()).min(1.0),
            sent,
            dropped,
        }
    }
}

/// Time the processor spent on the current thread so far; nothing where the system does not say.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// Datagrams of a turn: those before the measurement, and with those that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Goal {
    pub(super) warm_up: u64,
    pub(super) all: u64,
}

/// Counts what a loop receives.
#[derive(Debug)]
pub(super) struct Meter {
    goal: Goal,
    datagrams: u64,
    calls: u64,
    /// What others know of `datagrams`: told once a batch.
    seen: Arc<AtomicU64>,
    start: Option<Mark>,
}

impl Meter {
    pub(super) fn new(goal: Goal) -> Self {
        Self { goal, datagrams: 0, calls: 0, seen: Arc::default(), start: None }
    }

    /// How far the receiver is, for the sender and for whoever watches.
    pub(super) fn seen(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.seen)
    }

    /// What was received so far.
    pub(super) const fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// One receive call brought `datagrams`. Once it is full it gives start and end.
    pub(super) fn received(&mut self, datagrams: usize) -> Option<(Mark, Mark)> {
        let before = self.datagrams;
        self.datagrams += datagrams as u64;
        self.calls += 1;
        if self.datagrams / RECEIVE_BATCH as u64 != before / RECEIVE_BATCH as u64 {
            self.seen.store(self.datagrams, Ordering::Relaxed);
        }
        if self.datagrams < self.goal.warm_up {
            return None;
        }
        let start = *self.start.get_or_insert_with(|| Mark::now(self.datagrams, self.calls));
        (self.datagrams >= self.goal.all).then(|| (start, Mark::now(self.datagrams, self.calls)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_the_measurement_does_not_count() {
        let mut meter = Meter::new(Goal { warm_up: 100, all: 1000 });
        let seen = meter.seen();
        assert!((0..3).all(|_| meter.received(40).is_none()));
        assert_eq!(seen.load(Ordering::Relaxed), 80, "told when another batch is full");
        assert!((0..10).all(|_| meter.received(80).is_none()));
        let (start, end) = meter.received(80).unwrap();
        let start = Mark { used: Duration::from_micros(5), at: Instant::now(), ..start };
        let end = Mark { used: Duration::from_micros(93), at: start.at + Duration::from_micros(110), ..end };
        let run = end.since(&start, 1003, 3);
        assert!((run.nanoseconds - 100.0).abs() < 1e-6 && (run.running - 0.8).abs() < 1e-6, "{run:?}");
        assert!((run.datagrams_per_call - 80.0).abs() < 1e-6 && (run.sent, run.dropped) == (1003, 3), "{run:?}");
    }

    #[test]
    fn the_time_of_a_thread_goes_on_while_it_runs() {
        let begun = Mark::now(0, 0);
        let mut sum = 0_u64;
        while thread_time() < begun.used + Duration::from_millis(2) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(sum > 0);
    }
}
