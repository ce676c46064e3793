//! The gateway's clock follows the system's (rule R11), and what keeps it from that is told; and so is a disk that does not
//! answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::clock::{Clock, Observed};
use crate::health::{Health, Part};
use crate::store::Stats;

/// How often the clocks are compared: a clock that is set right by degrees goes half a millisecond meanwhile.
const EVERY: Duration = Duration::from_secs(1);

/// A checkpoint that takes longer hangs: a million records take some seconds on a slow disk.
const HANGS: Duration = Duration::from_secs(60);

/// Compares the clocks for as long as it is polled, and counts how often it did, by which others see that its thread does not
/// hang. Looks after the writing of `records` too, whose thread cannot tell while it waits for the disk.
pub(super) async fn follow(clock: Clock, health: Arc<Health>, records: Arc<Stats>, turns: Arc<AtomicU64>) {
    let mut ticks = interval(EVERY);
    let mut hangs = false;
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tell(&clock, clock.observe(), &health);
        hangs = look_after(&records, &health, hangs, Instant::now());
        turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells of a checkpoint that hangs, and of its end; whether one does. `hung`: whether it did before.
fn look_after(records: &Stats, health: &Health, hung: bool, now: Instant) -> bool {
    let hangs = records.writing_for(now).is_some_and(|time| time > HANGS);
    if hangs && !hung {
        let why = "the disk does not answer: records of devices are being written for more than 60 s; look after the disk of \
                   the data directory; a kill forgets what was heard since";
        tracing::error!("{why}");
        health.degrade(Part::Records, why);
    }
    // That a write failed has its own words.
    if hung && !hangs && !records.is_failing() {
        health.recover(Part::Records);
        tracing::info!("the disk answers again");
    }
    hangs
}

/// Says what is worth it, once.
fn tell(clock: &Clock, observed: Observed, health: &Health) {
    match observed {
        Observed::Agree | Observed::Apart(_) => {}
        Observed::Stepped(ahead) => {
            let why =
                format!("the system's clock is {} the gateway's, {}", apart(ahead), clock.what_becomes_of_a_step());
            tracing::warn!("{why}");
            health.degrade(Part::Clock, why);
        }
        Observed::Adopted(ahead) => {
            health.recover(Part::Clock);
            tracing::warn!(
                "the gateway's clock was set by {:+.3} s, to the system's, which stood still",
                seconds(ahead)
            );
        }
        Observed::Returned => {
            health.recover(Part::Clock);
            tracing::info!("the system's clock came back to the gateway's");
        }
    }
}

fn apart(ahead: i64) -> String {
    let by = seconds(ahead).abs();
    if ahead < 0 { format!("{by:.3} s behind") } else { format!("{by:.3} s ahead of") }
}

fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ClockStep;
    use crate::store::{DIRECTORY, Keeper, Parts, Store};
    use crate::table::{RouteTable, TableConfig};

    const HOUR: i64 = 3_600_000;

    fn trouble(health: &Health) -> Option<String> {
        health.troubles().remove(&Part::Clock)
    }

    #[test]
    fn a_step_is_told_until_it_is_adopted() {
        let (clock, health) = (Clock::default().steered(ClockStep::Follow, Duration::ZERO), Health::default());
        let look = || tell(&clock, clock.observe(), &health);
        look();
        assert_eq!(trouble(&health), None);
        clock.set_system(-HOUR);
        look();
        let said = trouble(&health).unwrap();
        // Both clocks go on while it is told.
        assert!(
            said.starts_with("the system's clock is 3599.9") || said.starts_with("the system's clock is 3600.0"),
            "{said}"
        );
        assert!(said.contains(" s behind the gateway's, which "), "{said}");
        assert!(said.ends_with("follows it once it has stood still for 0 s"), "{said}");
        look();
        assert_eq!(trouble(&health), None);
    }

    #[test]
    fn a_step_that_is_held_is_told_with_the_remedy_until_the_clock_is_back() {
        let (clock, health) = (Clock::default().steered(ClockStep::Hold, Duration::ZERO), Health::default());
        let look = || tell(&clock, clock.observe(), &health);
        clock.set_system(HOUR);
        (0..3).for_each(|_| look());
        let said = trouble(&health).unwrap();
        assert!(said.contains(" s ahead of the gateway's, which holds (--clock-step hold)"), "{said}");
        clock.set_system(-HOUR);
        look();
        assert_eq!(trouble(&health), None);
    }

    #[test]
    fn a_write_that_hangs_is_told_until_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::default();
        let store = Store::open(directory.path(), false, clock.now()).unwrap();
        let (health, stats) = (Arc::new(Health::default()), Arc::new(Stats::default()));
        let parts = Parts {
            table: Arc::new(RouteTable::new(&TableConfig::default())),
            keys: Arc::default(),
            clock,
            health: health.clone(),
            stats: stats.clone(),
        };
        let (keeper, orders) = Keeper::begin(store, 1, parts, HANGS).unwrap();
        // What is opened to be written waits until somebody reads.
        let pipe = directory.path().join(DIRECTORY).join("current.new");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let keeping = std::thread::spawn(|| keeper.run());
        orders.stop();
        while stats.writing_for(Instant::now()).is_none() {
            std::thread::yield_now();
        }
        let trouble = || health.troubles().remove(&Part::Records).unwrap_or_default();
        assert!(!look_after(&stats, &health, false, Instant::now()) && trouble().is_empty());
        assert!(look_after(&stats, &health, false, Instant::now() + 2 * HANGS));
        assert!(trouble().starts_with("the disk does not answer"), "{}", trouble());
        // A pipe cannot be made to last.
        std::fs::read(&pipe).unwrap();
        keeping.join().unwrap();
        assert!(!look_after(&stats, &health, true, Instant::now() + 2 * HANGS));
        assert!(trouble().starts_with("records of devices cannot be written"), "{}", trouble());
        // As after a write that only took long.
        assert!(!look_after(&Stats::default(), &health, true, Instant::now()) && trouble().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_clocks_are_compared_every_second() {
        let (clock, health) = (Clock::default().steered(ClockStep::Hold, Duration::ZERO), Arc::new(Health::default()));
        let turns = Arc::default();
        let following = tokio::spawn(follow(clock.clone(), Arc::clone(&health), Arc::default(), Arc::clone(&turns)));
        clock.set_system(10 * HOUR);
        tokio::time::sleep(EVERY + EVERY / 2).await;
        assert!(trouble(&health).is_some());
        assert_eq!(turns.load(Ordering::Relaxed), 2);
        following.abort();
    }
}
