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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::testing::{Memory, logged};
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::DeviceId;
    use crate::table::TableConfig;
    use crate::table::route::Application;
    use crate::wire::tdf::Version;

    fn keeper(memory: &Memory) -> (Keeper, Orders) {
        let store = Store::on(Path::new("routes"), Box::new(memory.clone()), Box::<Memory>::default()).unwrap();
        let parts = Parts {
            table: Arc::new(RouteTable::new(&TableConfig { shards: 4, ..TableConfig::default() })),
            keys: Arc::default(),
            clock: Clock::default(),
            health: Arc::default(),
            stats: Arc::default(),
        };
        Keeper::begin(store, 1, parts, INTERVAL).unwrap()
    }

    /// Something is to be written.
    fn change(keeper: &Keeper) {
        let Parts { table, clock, .. } = &keeper.parts;
        let version = Version { major: 1, minor: 2, revision: 3, build: 4 };
        table.register(DeviceId(1), clock.now());
        assert!(table.set_application(DeviceId(1), Application { id: 5, version }, clock.now()));
    }

    #[test]
    fn a_checkpoint_is_due_an_interval_after_the_beginning_of_the_one_before_and_sooner_after_a_failure() {
        let (mut keeper, _orders) = keeper(&Memory::default());
        let second = Duration::from_secs(1);
        assert_eq!([0, 4, 30].map(|took| keeper.pause(took * second)), [INTERVAL; 3]);
        keeper.is_failing = true;
        assert_eq!([0, 1, 20].map(|took| keeper.pause(took * second)), [3, 4, 80].map(|seconds| seconds * second));
    }

    #[test]
    fn that_nothing_can_be_written_is_said_once_and_that_it_is_over_too() {
        let memory = Memory::default();
        let (mut keeper, _orders) = keeper(&memory);
        change(&keeper);
        memory.refuse_records(true);
        let said = logged(|| (0..3).for_each(|_| keeper.write(false, false)));
        assert!(said.len() == 1 && said[0].contains("ERROR") && said[0].contains("tried again"), "{said:?}");
        let why = &keeper.parts.health.troubles()[&Part::Records];
        assert!(why.contains("give the data directory space and rights"), "{why}");
        memory.refuse_records(false);
        let said = logged(|| (0..3).for_each(|_| keeper.write(false, false)));
        assert!(said.len() == 1 && said[0].contains("records are written again records=1"), "{said:?}");
        assert_eq!((keeper.parts.stats.failures(), keeper.parts.health.troubles().len()), (3, 0));
    }

    #[test]
    fn a_stop_that_cannot_write_says_how_much_is_forgotten_also_where_it_was_known_that_nothing_can_be_written() {
        for is_known in [false, true] {
            let memory = Memory::default();
            let (mut keeper, orders) = keeper(&memory);
            change(&keeper);
            memory.refuse_records(true);
            if is_known {
                keeper.write(false, false);
            }
            let written_at = keeper.parts.clock.now().0 - 100_000;
            keeper.parts.stats.begun(Timestamp(written_at));
            orders.stop();
            let said = logged(|| keeper.run());
            assert!(said.len() == 1 && said[0].contains("ERROR"), "{said:?}");
            assert!(said[0].contains("the next start goes on as after a kill"), "{said:?}");
            let seconds = said[0].split("what was heard in the last ").nth(1).and_then(|rest| rest.split(' ').next());
            let seconds: u64 = seconds.unwrap().parse().unwrap();
            assert!((100..200).contains(&seconds), "{seconds}");
        }
    }
}
