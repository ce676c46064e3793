//! What the service manager is told: ready, stopping, what is wrong, and that every thread still goes round its loop.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::health::Health;

/// How often what is wrong is looked at, and the manager is told that all is alive unless it wants that more often.
const EVERY: Duration = Duration::from_secs(1);

/// Every thread goes round at least once a second, also when it has nothing to do. One that did not for this long, or for half
/// of what the manager waits if that is longer, hangs.
const HANGS: Duration = Duration::from_secs(2);

/// How long the manager is asked to wait at a time for a start that takes longer than it would, and how often.
const LOADS: Duration = Duration::from_secs(60);
const ASKED_EVERY: Duration = Duration::from_secs(10);

/// What the manager can be told at once. Without a manager nobody is told, and that is no failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// Everything is served, and how.
    Ready(&'a str),
    /// Nothing more is taken in.
    Stopping,
}

impl Told<'_> {
    /// Tells it.
    pub fn tell(self) {
        match self {
            Self::Ready(status) => send(&[NotifyState::Ready, NotifyState::Status(status)]),
            Self::Stopping => send(&[NotifyState::Stopping, NotifyState::Status("stopping")]),
        }
    }
}

/// Tells the manager for as long as it is polled that the start goes on: millions of devices take minutes on a slow disk.
pub async fn load() -> Infallible {
    let mut ticks = interval(ASKED_EVERY);
    loop {
        ticks.tick().await;
        send(&[NotifyState::ExtendTimeoutUsec(LOADS.as_micros() as u32), NotifyState::Status("loading")]);
    }
}

/// Keeps the manager informed for as long as it is polled: what is wrong, and by its watchdog that the threads are alive.
/// `turns` says how often each thread has gone round; `status` is said while nothing is wrong.
pub async fn attend(turns: impl Fn() -> Vec<u64>, health: Arc<Health>, status: String) -> Infallible {
    let patience = sd_notify::watchdog_enabled();
    let mut ticks = interval(patience.map_or(EVERY, |patience| EVERY.min(patience / 2)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lively = Lively::new(patience);
    let mut said = status.clone();
    loop {
        ticks.tick().await;
        let now_said = status_line(&status, &health);
        if said != now_said {
            send(&[NotifyState::Status(&now_said)]);
            said = now_said;
        }
        if lively.are_all(&turns(), Instant::now()) && patience.is_some() {
            send(&[NotifyState::Watchdog]);
        }
    }
}

fn status_line(status: &str, health: &Health) -> String {
    let troubles = health.troubles();
    if troubles.is_empty() {
        return status.to_owned();
    }
    let troubles: Vec<_> = troubles.into_iter().map(|(part, why)| format!("{}: {why}", part.name())).collect();
    format!("{status}; degraded: {}", troubles.join("; "))
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Which threads moved when.
#[derive(Debug)]
struct Lively {
    hangs: Duration,
    /// Of each thread how often it had gone round, and when that was new.
    seen: Vec<(u64, Instant)>,
    /// Whether it was said that one hangs.
    warned: bool,
}

impl Lively {
    fn new(patience: Option<Duration>) -> Self {
        Self { hangs: HANGS.max(patience.unwrap_or_default() / 2), seen: Vec::new(), warned: false }
    }

    /// Whether every thread has moved lately.
    fn are_all(&mut self, turns: &[u64], now: Instant) -> bool {
        self.seen.resize(turns.len(), (u64::MAX, now));
        for (seen, turns) in self.seen.iter_mut().zip(turns) {
            if seen.0 != *turns {
                *seen = (*turns, now);
            }
        }
        let hanging = self.seen.iter().filter(|(_, moved)| now.duration_since(*moved) > self.hangs).count();
        if hanging > 0 && !self.warned {
            tracing::error!(
                hanging,
                "threads hang; the service manager's watchdog, if there is one, will end the process"
            );
        }
        self.warned = hanging > 0;
        hanging == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Part;

    #[test]
    fn all_are_alive_until_one_stands_still_for_too_long() {
        let begun = Instant::now();
        let after = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut lively = Lively::new(Some(Duration::from_secs(30)));
        assert!(lively.are_all(&[0, 7], begun));
        assert!(lively.are_all(&[1, 7], after(15)), "half of the manager's patience is not over");
        assert!(!lively.are_all(&[2, 7], after(16)));
        assert!(!lively.are_all(&[3, 7], after(17)));
        assert!(lively.are_all(&[4, 8], after(18)), "it was slow and did not hang");
    }

    #[test]
    fn a_thread_that_has_nothing_to_do_for_a_second_does_not_hang_however_impatient_the_manager_is() {
        let begun = Instant::now();
        let mut lively = Lively::new(Some(Duration::from_millis(100)));
        assert!(lively.are_all(&[5], begun));
        assert!(lively.are_all(&[5], begun + HANGS));
        assert!(!lively.are_all(&[5], begun + HANGS + Duration::from_millis(1)));
    }

    #[test]
    fn the_status_names_what_is_wrong() {
        let health = Health::default();
        assert_eq!(status_line("serving", &health), "serving");
        health.degrade(Part::Records, "no space");
        assert_eq!(status_line("serving", &health), "serving; degraded: records: no space");
    }
}
