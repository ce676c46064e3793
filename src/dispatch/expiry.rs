//! Messages whose time is up before their device speaks: told of then, not when somebody looks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Inner;
use super::counters::MessageEvent;
use crate::clock::Timestamp;

/// How long at most until the clock is looked at again: it may be set.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When the outbox is looked at next.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    next: AtomicU64,
    sooner: Notify,
}

impl Deadlines {
    /// Something was put into the outbox that expires then.
    pub(super) fn added(&self, expires_at: Timestamp) {
        if expires_at.0 < self.next.load(Ordering::Relaxed) {
            self.sooner.notify_one();
        }
    }
}

impl Inner {
    /// Takes what has expired out of the outbox, on time, and tells of it.
    pub(super) async fn expire(&self) {
        loop {
            let now = self.clock.now();
            for (device, message) in self.downlinks.outbox.expire(now) {
                tracing::debug!(%device, message, "expired");
                self.counters.message(MessageEvent::Expired);
                self.tell(message, true).await;
            }
            // First what is added since wakes, then the outbox is asked: so nothing falls between.
            let latest = now.after(LOOK_EVERY);
            self.deadlines.next.store(latest.0, Ordering::Relaxed);
            let next = self.downlinks.outbox.next_expiry().unwrap_or(latest).min(latest);
            let left = Duration::from_millis(next.0.saturating_sub(self.clock.now().0));
            // Whether it was told or its time has come, what follows is the same.
            let _ = timeout(left, self.deadlines.sooner.notified()).await;
            // Many that expire one after the other are taken together.
            sleep(Duration::from_millis(1)).await;
        }
    }
}
