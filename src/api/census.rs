//! How many devices were heard lately: every record is looked at, so seldom, and not on the thread of the API.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use crate::clock::{Clock, Timestamp};
use crate::table::RouteTable;
use crate::table::ages::Ages;

/// Least time between two counts: nobody looks more often.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// How many times longer than a count takes the pause after it is: counting costs at most 1 % of a core, however many
/// devices there are.
const PAUSE_FACTOR: u32 = 100;

/// Counts devices by when they were heard, one count at a time, and remembers the last one.
#[derive(Debug)]
pub(super) struct Census {
    table: Arc<RouteTable>,
    clock: Clock,
    latest: Arc<Mutex<Option<Counted>>>,
    /// When the next count is due; locked while one is made.
    due: Arc<tokio::sync::Mutex<Instant>>,
}

/// A count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// When it began.
    pub(super) at: Timestamp,
    /// What was found.
    pub(super) ages: Ages,
}

impl Census {
    /// Nothing is counted yet, and a count is due.
    pub(super) fn new(table: Arc<RouteTable>, clock: Clock) -> Self {
        let due = Arc::new(tokio::sync::Mutex::new(Instant::now()));
        Self { table, clock, latest: Arc::default(), due }
    }

    /// The last count. Makes a new one first if that is due and nobody is at it; the very first one is waited for by
    /// everybody. `None` if counting failed, which only a defect makes it do.
    pub(super) async fn count(&self) -> Option<Counted> {
        if let Some(count) = self.begin() {
            // What went wrong was reported where it happened.
            let _ = count.await;
        } else if self.latest().is_none() {
            drop(self.due.lock().await);
        }
        self.latest()
    }

    /// As [`Self::count`], but waits for the very first count only: a new one is begun and left to whoever looks next.
    pub(super) async fn look(&self) -> Option<Counted> {
        match self.latest() {
            Some(latest) => {
                drop(self.begin());
                Some(latest)
            }
            None => self.count().await,
        }
    }

    /// The last count, if there is one.
    pub(super) fn latest(&self) -> Option<Counted> {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Option<JoinHandle<()>> {
        let mut due = Arc::clone(&self.due).try_lock_owned().ok().filter(|due| **due <= Instant::now())?;
        let (table, latest, at) = (Arc::clone(&self.table), Arc::clone(&self.latest), self.clock.now());
        Some(spawn_blocking(move || {
            let begun = Instant::now();
            let ages = table.ages(at);
            *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Counted { at, ages });
            let ended = Instant::now();
            *due = ended + pause(ended - begun);
        }))
    }
}

/// The time that passes after a count before the next one begins.
fn pause(took: Duration) -> Duration {
    (took * PAUSE_FACTOR).max(MIN_PAUSE)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tokio::time::advance;

    use super::*;
    use crate::table::TableConfig;

    fn census() -> Census {
        Census::new(Arc::new(RouteTable::new(&TableConfig::default())), Clock::default())
    }

    #[test]
    fn the_pause_is_a_second_or_a_hundred_times_the_count() {
        assert_eq!(pause(Duration::ZERO), Duration::from_secs(1));
        assert_eq!(pause(Duration::from_millis(10)), Duration::from_secs(1));
        assert_eq!(pause(Duration::from_millis(11)), Duration::from_millis(1100));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_counted_once_until_the_pause_is_over() {
        let census = census();
        assert_eq!(census.latest(), None);
        let first = census.count().await.unwrap();
        let due = *census.due.lock().await;
        assert_eq!((census.count().await, *census.due.lock().await), (Some(first), due), "not due");
        advance(due - Instant::now()).await;
        assert_eq!(census.look().await, Some(first), "it is due, and not waited for");
        assert!(*census.due.lock().await > due, "it was begun");
        let second = census.latest().unwrap();
        assert!(second.at >= first.at);
        advance(*census.due.lock().await - Instant::now()).await;
        assert!(census.count().await.unwrap().at >= second.at);
    }

    #[tokio::test]
    async fn while_one_counts_the_others_take_the_last_count_and_wait_for_the_first() {
        let census = census();
        let counting = Arc::clone(&census.due).lock_owned().await;
        let mut waiting = std::pin::pin!(census.count());
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending(), "the first count is not there yet");
        let counted = Counted { at: Timestamp(5), ages: Ages { within_5m: 1, within_1h: 2, within_24h: 3 } };
        *census.latest.lock().unwrap() = Some(counted);
        assert_eq!(census.count().await, Some(counted), "though another one is on the way");
        drop(counting);
        assert_eq!(waiting.await, Some(counted));
    }
}
