//! The thread that writes records down: every 10 s, sooner after a failure, and once more at the stop. Packets and requests
//! never wait for it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::checkpoint::{Files, Moment};
use super::{OpenError, Stats, Store};
use crate::auth::keys::KeyRing;
use crate::clock::Clock;
use crate::health::{Health, Part};
use crate::table::RouteTable;

/// Time from one checkpoint to the next: what is lost at most if the process is killed. Devices send every minute or less often,
/// so a shorter one would write nearly as many records more often, and a longer one hardly fewer.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Time from the beginning of a failed checkpoint to the next attempt.
const RETRY: Duration = Duration::from_secs(3);

/// At most one part of the time in so many goes to attempts that fail: a disk that is slow to say so is not kept busy.
const PAUSE: u32 = 4;

/// What is kept, and who is told.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The records.
    pub table: Arc<RouteTable>,
    /// The keys, which know the networks by id.
    pub keys: Arc<KeyRing>,
    /// The gateway's clock.
    pub clock: Clock,
    /// Told while records cannot be written.
    pub health: Arc<Health>,
    /// What the metrics show.
    pub stats: Arc<Stats>,
}

/// Writes down what changes, until it is told to stop. Dropped, it leaves what it has not written yet.
#[derive(Debug)]
pub struct Keeper {
    files: Files,
    parts: Parts,
    interval: Duration,
    orders: Receiver<Order>,
    is_failing: bool,
}

/// What a [`Keeper`] is told. Dropped, the keeper ends, and writes nothing more.
#[derive(Debug)]
pub struct Orders(Sender<Order>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Write,
    Stop,
}

impl Orders {
    /// Write at once what changed so far: the stop is near, and little is to be left for it. Does not wait.
    pub fn hurry(&self) {
        // An error: it has ended.
        let _ = self.0.send(Order::Write);
    }

    /// Write down what changed last, and that the process stopped in order: nothing changes any more. Does not wait.
    pub fn stop(self) {
        // As above.
        let _ = self.0.send(Order::Stop);
    }
}

impl Keeper {
    /// Begins to write what `store` was opened for, every `interval`. The records are loaded, none is changed yet, and the
    /// table has its floor; `epoch` is the upper half of the epochs of this process.
    ///
    /// # Errors
    /// The store cannot be written to.
    pub fn begin(store: Store, epoch: u32, parts: Parts, interval: Duration) -> Result<(Self, Orders), OpenError> {
        let now = parts.clock.now();
        let files = store.go_on(epoch, parts.table.floor(), now)?;
        parts.stats.begun(now);
        let (orders, received) = channel();
        Ok((Self { files, parts, interval, orders: received, is_failing: false }, Orders(orders)))
    }

    /// Writes until it is told to stop. Blocks: it wants a thread of its own.
    pub fn run(mut self) {
        let mut due = Instant::now() + self.interval;
        loop {
            let order = self.orders.recv_timeout(due.saturating_duration_since(Instant::now()));
            let hurried = match order {
                Ok(Order::Stop) => return self.write(true, true),
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(Order::Write) => true,
                Err(RecvTimeoutError::Timeout) => false,
            };
            let began = Instant::now();
            self.write(false, hurried);
            due = began + self.pause(began.elapsed());
        }
    }

    /// Time from the beginning of a checkpoint that took so long to that of the next one.
    fn pause(&self, took: Duration) -> Duration {
        if self.is_failing { self.interval.min(RETRY).max(PAUSE * took) } else { self.interval }
    }

    fn write(&mut self, clean: bool, hurried: bool) {
        let Parts { table, keys, clock, health, stats } = &self.parts;
        let (at, began) = (clock.now(), Instant::now());
        stats.begins(began);
        match self.files.write(&Moment { records: &(&**table, &**keys), at, clean, hurried }) {
            Ok(written) => {
                stats.written(written, at, began.elapsed());
                if std::mem::take(&mut self.is_failing) {
                    health.recover(Part::Records);
                    tracing::info!(records = written.rows, "records are written again");
                }
            }
            Err(error) => {
                stats.failed();
                let why = format!(
                    "records of devices cannot be written: {error}; give the data directory space and rights; until then a \
                     stop forgets what was heard since"
                );
                let is_known = std::mem::replace(&mut self.is_failing, true);
                if clean {
                    let forgotten = at.0.saturating_sub(stats.last().0) / 1000;
                    tracing::error!(
                        %error,
                        "the records cannot be written at the stop: what was heard in the last {forgotten} s is forgotten; the \
                         next start goes on as after a kill"
                    );
                } else if !is_known {
                    tracing::error!(%error, "records of devices cannot be written; tried again every few seconds");
                }
                health.degrade(Part::Records, why);
            }
        }
    }
}
