//! The time in which this process may seal downlinks, reserved ahead in the registry, so that none of their nonces is used
//! again after a restart (rule R2).

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Inner;
use crate::clock::Timestamp;
use crate::registry::RegistryError;
use crate::registry::reservation::Reserved;

/// Seconds reserved ahead. One attempt to reserve more may fail, in [`ATTEMPT`], without anything having to wait: the next one
/// still comes before they are over.
pub(super) const AHEAD: u32 = 6;

/// How often more time is reserved.
const EVERY: Duration = Duration::from_secs(2);

/// How long one attempt may take, and how long after it the next one comes.
const ATTEMPT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_secs(1);

/// A start waits for time that no process before it has used if it comes as soon as this. After an orderly stop it does.
const WAITED_FOR: Duration = Duration::from_secs(2);

/// What sequences are moved by where the clock was set back to time that was used already.
const MOVE_BY: u16 = 1024;

impl Inner {
    /// Reserves the first time. Nothing is sealed in what the last process may have used: it left the second after its last,
    /// which is waited for, or, ended by force, up to [`AHEAD`] more.
    pub(super) async fn begin_reserving(&self) -> Result<(), RegistryError> {
        let Reserved { before, clock_turns } = self.registry.reserved_time().await?.unwrap_or_default();
        self.turn_clock(clock_turns);
        self.downlinks.allowance.start(before);
        // Not reserved yet: it would pass meanwhile.
        if let Some(left) = self.short_time_until(before) {
            sleep(left).await;
        }
        self.reserve().await
    }

    /// How long it is until the GPS second `from`, if that is to come and not worth a start in which packets that ask get no
    /// answer: they wait in their socket instead.
    fn short_time_until(&self, from: u32) -> Option<Duration> {
        let left = Timestamp::from_gps(from).0.checked_sub(self.clock.now().0).map(Duration::from_millis);
        left.filter(|left| *left <= WAITED_FOR)
    }

    /// Reserves more for as long as the gateway runs. Where the registry does not take it nothing is lost: sealing stops by
    /// itself at the end of what is reserved.
    pub(super) async fn keep_reserving(&self) {
        loop {
            sleep(EVERY).await;
            let mut failed = false;
            while let Err(error) = self.reserve_in_time().await {
                if !failed {
                    tracing::error!(
                        %error, "cannot reserve time for downlinks; none is sent until this works again, acknowledgements included"
                    );
                }
                failed = true;
                sleep(PAUSE).await;
            }
            if failed {
                tracing::info!("time for downlinks is reserved again");
            }
        }
    }

    /// Seals nothing more, and gives back what is not used: the next process may begin with the second after the last. Where
    /// the clock was set back since, that lies ahead, and sequences move for the next process instead.
    pub(super) async fn end_reserving(&self) -> Result<(), RegistryError> {
        let allowance = &self.downlinks.allowance;
        let from = allowance.from();
        allowance.start(u32::MAX);
        let (now, used) = (self.clock.now().gps(), allowance.used());
        let clock_turns = self.clock_turns.load(Ordering::Relaxed);
        let reserved = if used > now {
            Reserved { before: now, clock_turns: clock_turns.wrapping_add(1) }
        } else {
            Reserved { before: from.max(used.saturating_add(1)), clock_turns }
        };
        self.registry.reserve_time(reserved).await
    }

    async fn reserve_in_time(&self) -> Result<(), RegistryError> {
        timeout(ATTEMPT, self.reserve()).await.unwrap_or(Err(RegistryError::Unavailable("reserve time")))
    }

    /// Where the clock was set back, so that it takes longer than it could until time is reached that nobody has used, that is
    /// not waited for: sequences are moved instead, which makes other nonces of the same time. It goes on at once.
    pub(super) async fn reserve(&self) -> Result<(), RegistryError> {
        let allowance = &self.downlinks.allowance;
        let now = self.clock.now().gps();
        let (from, until) = (allowance.from(), now.saturating_add(AHEAD));
        let is_set_back = from > until;
        let clock_turns = self.clock_turns.load(Ordering::Relaxed).wrapping_add(u32::from(is_set_back));
        // Nothing that may be sealed is ever given back while this runs.
        self.registry.reserve_time(Reserved { before: until.max(allowance.until()), clock_turns }).await?;
        if is_set_back {
            tracing::warn!(
                seconds = from - until,
                "the clock was set back: downlinks may have been sent in time that is yet to come; their sequences move"
            );
            self.turn_clock(clock_turns);
            allowance.start(now);
        }
        allowance.extend(until);
        Ok(())
    }

    fn turn_clock(&self, clock_turns: u32) {
        self.clock_turns.store(clock_turns, Ordering::Relaxed);
        self.table.move_down_sequences((clock_turns as u16).wrapping_mul(MOVE_BY));
    }
}
