//! Timestamps, and the only call that reads the clock. Every rule below the sockets takes `now` as an argument.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Unix time of GPS time 0, less the 18 leap seconds that all implementations treat as constant
/// (docs/protocol.md, time): `unix = gps + 315964800 - 18`.
pub const GPS_EPOCH_UNIX: u64 = 315_964_800 - 18;

/// Seconds in a key rotation.
pub const SECONDS_PER_DAY: u32 = 86_400;

/// A moment of the gateway's clock, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// From whole Unix seconds.
    pub const fn from_unix_seconds(seconds: u64) -> Self {
        Self(seconds * 1000)
    }

    /// The same moment in whole seconds since 1980-01-06T00:00:00Z without leap seconds; 0 before that, `u32::MAX` after
    /// 2116.
    pub const fn gps(self) -> u32 {
        let seconds = (self.0 / 1000).saturating_sub(GPS_EPOCH_UNIX);
        if seconds > u32::MAX as u64 { u32::MAX } else { seconds as u32 }
    }

    /// The first millisecond of a GPS second.
    pub const fn from_gps(gps: u32) -> Self {
        Self::from_unix_seconds(gps as u64 + GPS_EPOCH_UNIX)
    }

    /// This moment plus `duration`, in whole milliseconds.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Differences that are followed at once, in microseconds: what a time service sets right (rule R11).
const FOLLOWED: i64 = 5_000_000;

/// How long the system's clock must stand still after a step before the gateway adopts it (rule R11).
pub const STANDING_STILL: Duration = Duration::from_secs(60);

/// What becomes of a step of the system's clock by more than 5 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockStep {
    /// It is adopted once the system's clock has stood still.
    #[default]
    Follow,
    /// The gateway keeps its own time until the system's comes back to it.
    Hold,
}

/// What an observation of the system's clock came to. Differences are the system's time less the gateway's, in
/// milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// They agree: what was between them, at most 5 s, is followed.
    Agree,
    /// The system's clock stepped, also if it was apart before.
    Stepped(i64),
    /// It stands still, apart.
    Apart(i64),
    /// It has stood still long enough: the gateway went this far.
    Adopted(i64),
    /// It came back.
    Returned,
}

/// How the gateway's time follows the system's: wall clock at the start plus monotonic time, and after that rule R11. Pure:
/// both clocks are arguments, as time since 1970 and since any moment.
#[derive(Clone, Debug)]
pub struct Steering {
    step: ClockStep,
    standing_still: Duration,
    /// The gateway's time less the monotonic, in microseconds.
    offset: i64,
    apart: Option<Apart>,
}

/// A step that is not adopted.
#[derive(Clone, Copy, Debug)]
struct Apart {
    /// Where it went: the system's time less the monotonic.
    offset: i64,
    /// The monotonic time when it was seen first.
    since: Duration,
}

impl Steering {
    /// Begins with the system's time.
    pub fn new(step: ClockStep, standing_still: Duration, wall: Duration, monotonic: Duration) -> Self {
        Self { step, standing_still, offset: between(wall, monotonic), apart: None }
    }

    /// Compares the clocks. The gateway's time moves at [`Observed::Agree`] and [`Observed::Adopted`] only.
    pub fn observe(&mut self, wall: Duration, monotonic: Duration) -> Observed {
        let offset = between(wall, monotonic);
        let ahead = offset.saturating_sub(self.offset);
        if ahead.abs() <= FOLLOWED {
            self.offset = offset;
            return if self.apart.take().is_some() { Observed::Returned } else { Observed::Agree };
        }
        // Measured from where it stepped to, so that a clock that creeps on does not stand still.
        let stands = self.apart.filter(|apart| offset.saturating_sub(apart.offset).abs() <= FOLLOWED);
        let Some(apart) = stands else {
            self.apart = Some(Apart { offset, since: monotonic });
            return Observed::Stepped(ahead / 1000);
        };
        let stood = monotonic.saturating_sub(apart.since);
        if self.step == ClockStep::Hold || stood < self.standing_still {
            return Observed::Apart(ahead / 1000);
        }
        (self.offset, self.apart) = (offset, None);
        Observed::Adopted(ahead / 1000)
    }

    /// The gateway's time at this monotonic time. Never before 1970.
    pub fn time(&self, monotonic: Duration) -> Timestamp {
        time(monotonic, self.offset)
    }
}

/// `wall` less `monotonic` in microseconds.
fn between(wall: Duration, monotonic: Duration) -> i64 {
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    micros(wall) - micros(monotonic)
}

fn time(monotonic: Duration, offset: i64) -> Timestamp {
    let micros = u64::try_from(monotonic.as_micros()).unwrap_or(u64::MAX);
    Timestamp(micros.saturating_add_signed(offset) / 1000)
}

/// A clock, shared by all its clones: the system's, or [`Self::steered`] as the gateway's is.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// What is added to the system's clock, in milliseconds: for tests.
    moved_by: AtomicI64,
    steered: Option<Steered>,
}

/// What makes a clock the gateway's. Reading it costs one reading of the monotonic clock and one of `offset`.
#[derive(Debug)]
struct Steered {
    /// The moment monotonic time is counted from.
    begun: Instant,
    /// [`Steering::offset`], for readers.
    offset: AtomicI64,
    /// The last difference seen, in milliseconds.
    ahead: AtomicI64,
    steering: Mutex<Steering>,
}

impl Clock {
    /// The system clock plus `offset_seconds`.
    pub fn with_offset_seconds(offset_seconds: i64) -> Self {
        let moved_by = AtomicI64::new(offset_seconds.saturating_mul(1000));
        Self(Arc::new(Shared { moved_by, steered: None }))
    }

    /// A clock that begins where this one is and follows it as rule R11 says, whenever [`Self::observe`] is called.
    #[must_use]
    pub fn steered(&self, step: ClockStep, standing_still: Duration) -> Self {
        let moved_by = self.0.moved_by.load(Ordering::Relaxed);
        let begun = Instant::now();
        // An error here would be taken back at the first look, and time would run backwards by it.
        let (wall, monotonic) = self.read_both(begun);
        let steering = Steering::new(step, standing_still, wall, monotonic);
        let steered = Steered {
            begun,
            offset: AtomicI64::new(steering.offset),
            ahead: AtomicI64::new(0),
            steering: Mutex::new(steering),
        };
        Self(Arc::new(Shared { moved_by: AtomicI64::new(moved_by), steered: Some(steered) }))
    }

    /// Reads the clock. A system clock before 1970 reads as 1970.
    pub fn now(&self) -> Timestamp {
        match &self.0.steered {
            Some(steered) => time(steered.begun.elapsed(), steered.offset.load(Ordering::Relaxed)),
            None => time(wall(self.0.moved_by.load(Ordering::Relaxed)), 0),
        }
    }

    /// Lets a steered clock follow the system's, which should be done once a second. Any other agrees with it always.
    pub fn observe(&self) -> Observed {
        let Some(steered) = &self.0.steered else { return Observed::Agree };
        let (wall, monotonic) = self.read_both(steered.begun);
        let mut steering = lock(&steered.steering);
        let observed = steering.observe(wall, monotonic);
        steered.offset.store(steering.offset, Ordering::Relaxed);
        let ahead = match observed {
            Observed::Stepped(ahead) | Observed::Apart(ahead) => ahead,
            Observed::Agree | Observed::Adopted(_) | Observed::Returned => 0,
        };
        steered.ahead.store(ahead, Ordering::Relaxed);
        observed
    }

    /// What follows from a step, to be said of this clock.
    pub fn what_becomes_of_a_step(&self) -> String {
        let steering = self.0.steered.as_ref().map(|steered| lock(&steered.steering).clone());
        match steering {
            Some(Steering { step: ClockStep::Hold, .. }) => {
                "which holds (--clock-step hold); set the system's clock right, or start the gateway again".to_owned()
            }
            Some(Steering { standing_still, .. }) => {
                format!("which follows it once it has stood still for {} s", standing_still.as_secs())
            }
            None => "which follows it".to_owned(),
        }
    }

    /// How far the system's clock was ahead of this one when they were last compared and it was not followed, in
    /// milliseconds; negative: behind.
    pub fn system_ahead(&self) -> i64 {
        self.0.steered.as_ref().map_or(0, |steered| steered.ahead.load(Ordering::Relaxed))
    }

    /// Moves what this clock and its clones take for the system's clock, as if somebody had set it: for tests.
    pub fn set_system(&self, by_milliseconds: i64) {
        self.0.moved_by.fetch_add(by_milliseconds, Ordering::Relaxed);
    }

    /// Both clocks at about the same moment: if this thread was made to wait between the readings, they are read again.
    fn read_both(&self, begun: Instant) -> (Duration, Duration) {
        let moved_by = self.0.moved_by.load(Ordering::Relaxed);
        let read = || {
            let before = begun.elapsed();
            let wall = wall(moved_by);
            let took = begun.elapsed().saturating_sub(before);
            (took, wall, before + took / 2)
        };
        let mut best = read();
        for _ in 0..READINGS {
            if best.0 <= CLOSE {
                break;
            }
            let next = read();
            if next.0 < best.0 {
                best = next;
            }
        }
        (best.1, best.2)
    }
}

fn lock(steering: &Mutex<Steering>) -> MutexGuard<'_, Steering> {
    steering.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Readings of both clocks that took no longer are of the same moment; each takes some ten nanoseconds.
const CLOSE: Duration = Duration::from_micros(5);

/// How often it is tried again.
const READINGS: usize = 8;

/// The system's clock moved by some milliseconds, since 1970; not before.
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
fn wall(moved_by: i64) -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let by = Duration::from_millis(moved_by.unsigned_abs());
    if moved_by < 0 { since.saturating_sub(by) } else { since.saturating_add(by) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gps_time_is_unix_time_less_the_epoch_plus_18_leap_seconds() {
        assert_eq!(Timestamp::from_unix_seconds(1_795_400_001).gps(), 1_479_435_219);
        assert_eq!(Timestamp::from_gps(1_479_435_219), Timestamp::from_unix_seconds(1_795_400_001));
        assert_eq!(Timestamp(0).gps(), 0);
        assert_eq!(Timestamp(u64::MAX).gps(), u32::MAX);
    }

    #[test]
    fn an_offset_moves_the_clock() {
        let [before, ahead, after] = [0, 3600, 0].map(|offset| Clock::with_offset_seconds(offset).now().0);
        assert!((before + 3_600_000..=after + 3_600_000).contains(&ahead), "{before} {ahead} {after}");
    }

    const HOUR: i64 = 3600;
    const DAY: i64 = 86_400;

    /// A steered clock whose two inputs are set by hand: seconds of the system's clock, and of the monotonic one.
    struct Bench {
        steering: Steering,
        wall: i64,
        monotonic: u64,
    }

    impl Bench {
        fn new(step: ClockStep) -> Self {
            let (wall, monotonic) = (1_795_400_000, 777);
            let steering = Steering::new(step, STANDING_STILL, seconds(wall), Duration::from_secs(monotonic));
            Self { steering, wall, monotonic }
        }

        /// So much time goes by, and somebody sets the system's clock by so much.
        fn after(&mut self, passed: u64, set: i64) -> Observed {
            self.monotonic += passed;
            self.wall += passed as i64 + set;
            self.steering.observe(seconds(self.wall), Duration::from_secs(self.monotonic))
        }

        /// A look every second that finds the same each time.
        fn for_seconds(&mut self, count: u64, found: Observed) {
            for second in 0..count {
                assert_eq!(self.after(1, 0), found, "second {second}");
            }
        }

        /// The gateway's time less the system's, in seconds.
        fn behind(&self) -> i64 {
            let now = self.steering.time(Duration::from_secs(self.monotonic));
            i64::try_from(now.0).unwrap() / 1000 - self.wall
        }
    }

    fn seconds(wall: i64) -> Duration {
        Duration::from_secs(wall.try_into().unwrap())
    }

    #[test]
    fn differences_of_up_to_5_s_are_followed_at_once_in_both_directions() {
        for step in [ClockStep::Follow, ClockStep::Hold] {
            let mut bench = Bench::new(step);
            for set in [0, 1, -1, 5, -5, 5, 5, 5] {
                assert_eq!(bench.after(1, set), Observed::Agree, "{set}");
                assert_eq!(bench.behind(), 0, "{set}");
            }
        }
    }

    #[test]
    fn a_larger_step_is_told_at_once_and_adopted_after_60_s_of_standing_still() {
        for set in [6, -6, HOUR, -HOUR, DAY, -DAY] {
            let mut bench = Bench::new(ClockStep::Follow);
            bench.for_seconds(10, Observed::Agree);
            assert_eq!(bench.after(1, set), Observed::Stepped(set * 1000));
            bench.for_seconds(59, Observed::Apart(set * 1000));
            assert_eq!(bench.behind(), -set, "the gateway's time goes on as before");
            assert_eq!(bench.after(1, 0), Observed::Adopted(set * 1000));
            assert_eq!(bench.behind(), 0);
            bench.for_seconds(100, Observed::Agree);
        }
    }

    #[test]
    fn a_step_is_held_until_the_clock_comes_back() {
        let mut bench = Bench::new(ClockStep::Hold);
        assert_eq!(bench.after(1, -DAY), Observed::Stepped(-DAY * 1000));
        bench.for_seconds(1000, Observed::Apart(-DAY * 1000));
        assert_eq!(bench.behind(), DAY);
        assert_eq!(bench.after(1, DAY + 3), Observed::Returned);
        assert_eq!(bench.behind(), 0);
        assert_eq!(bench.after(1, 0), Observed::Agree);
    }

    #[test]
    fn the_60_s_begin_anew_with_a_second_step() {
        let mut bench = Bench::new(ClockStep::Follow);
        assert_eq!(bench.after(1, HOUR), Observed::Stepped(HOUR * 1000));
        bench.for_seconds(59, Observed::Apart(HOUR * 1000));
        assert_eq!(bench.after(1, HOUR), Observed::Stepped(2 * HOUR * 1000));
        bench.for_seconds(59, Observed::Apart(2 * HOUR * 1000));
        assert_eq!(bench.after(1, 0), Observed::Adopted(2 * HOUR * 1000));
        assert_eq!(bench.behind(), 0);
    }

    #[test]
    fn a_step_back_to_where_it_was_changes_nothing() {
        let mut bench = Bench::new(ClockStep::Follow);
        assert_eq!(bench.after(1, -HOUR), Observed::Stepped(-HOUR * 1000));
        bench.for_seconds(30, Observed::Apart(-HOUR * 1000));
        assert_eq!(bench.after(1, HOUR), Observed::Returned);
        assert_eq!(bench.behind(), 0);
        // What stood still then does not count for the next step.
        assert_eq!(bench.after(1, -HOUR), Observed::Stepped(-HOUR * 1000));
        bench.for_seconds(59, Observed::Apart(-HOUR * 1000));
    }

    #[test]
    fn a_clock_that_is_set_by_degrees_while_apart_stands_still_within_5_s_and_no_further() {
        let mut bench = Bench::new(ClockStep::Follow);
        assert_eq!(bench.after(1, HOUR), Observed::Stepped(HOUR * 1000));
        for degrees in 1..=5 {
            assert_eq!(bench.after(1, 1), Observed::Apart((HOUR + degrees) * 1000));
        }
        assert_eq!(bench.after(1, 1), Observed::Stepped((HOUR + 6) * 1000));
        bench.for_seconds(59, Observed::Apart((HOUR + 6) * 1000));
        assert_eq!(bench.after(1, 0), Observed::Adopted((HOUR + 6) * 1000));
    }

    #[test]
    fn after_a_suspension_the_system_is_ahead_and_adopted() {
        // Monotonic time stands still meanwhile, and nobody looks.
        let mut bench = Bench::new(ClockStep::Follow);
        assert_eq!(bench.after(0, 8 * HOUR), Observed::Stepped(8 * HOUR * 1000));
        bench.for_seconds(59, Observed::Apart(8 * HOUR * 1000));
        assert_eq!(bench.after(1, 0), Observed::Adopted(8 * HOUR * 1000));
        // A process that was stopped missed looks, not time.
        assert_eq!(bench.after(10_000, 0), Observed::Agree);
    }

    #[test]
    fn a_clock_before_or_long_after_our_time_breaks_nothing() {
        let mut steering = Steering::new(ClockStep::Follow, STANDING_STILL, Duration::ZERO, Duration::MAX);
        assert_eq!(steering.time(Duration::ZERO), Timestamp(0));
        assert!(matches!(steering.observe(Duration::MAX, Duration::ZERO), Observed::Stepped(1..)));
        assert!(matches!(steering.observe(Duration::ZERO, Duration::MAX), Observed::Returned));
    }

    #[test]
    fn clones_of_a_steered_clock_go_on_together_whatever_is_done_to_the_systems() {
        let clock = Clock::with_offset_seconds(7).steered(ClockStep::Follow, Duration::ZERO);
        let clone = clock.clone();
        let by_hand = Clock::with_offset_seconds(7);
        let apart = |ahead: u64| clone.now().0.abs_diff(by_hand.now().0 + ahead);
        clock.set_system(HOUR * 1000);
        assert!(apart(0) < 1000, "{}", apart(0));
        assert!(matches!(clone.observe(), Observed::Stepped(_)));
        assert!(clock.system_ahead().abs_diff(HOUR * 1000) < 1000, "{}", clock.system_ahead());
        assert!(matches!(clone.observe(), Observed::Adopted(_)));
        assert_eq!(clock.system_ahead(), 0);
        assert!(apart(3_600_000) < 1000, "{}", apart(3_600_000));
        assert_eq!(clock.observe(), Observed::Agree);
    }
}
