//! What a fleet has done so far, readable while it runs.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use super::count::Count;

/// A datagram that leaves this much after it was due is late.
pub const LATE: Duration = Duration::from_millis(100);

/// The share of a rate that has to be reached. What is late for a moment only makes up for it.
const KEPT_UP: f64 = 0.99;

/// One in so many datagrams may be late before round trips say more of this machine than of the gateway.
const LATE_SHARE: u64 = 100;

/// The counters of a running fleet.
#[derive(Debug)]
pub struct Stats {
    counts: [AtomicU64; Count::ALL.len()],
    round_trips: RoundTrips,
    /// Datagrams a second that were asked for; 0: what comes of the cadence.
    wanted_rate: AtomicU64,
    /// The most that a datagram was late, since the start and since the last look.
    latest_us: AtomicU64,
    behind_us: AtomicU64,
    /// When the last datagram left, from the start on.
    last_sent_us: AtomicU64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; Count::ALL.len()],
            round_trips: RoundTrips::default(),
            wanted_rate: AtomicU64::default(),
            latest_us: AtomicU64::default(),
            behind_us: AtomicU64::default(),
            last_sent_us: AtomicU64::default(),
        }
    }
}

impl Stats {
    /// Counts one more.
    pub fn add(&self, count: Count) {
        self.add_many(count, 1);
    }

    /// Counts several more.
    pub fn add_many(&self, count: Count, more: usize) {
        self.counts[count as usize].fetch_add(more as u64, Ordering::Relaxed);
    }

    /// Counts an acknowledgement that came `after` its packet was sent.
    pub fn acknowledged(&self, after: Duration) {
        self.add(Count::Acks);
        self.round_trips.add(after);
    }

    /// Notes how many datagrams a second the fleet is to send.
    pub fn want_rate(&self, rate: u32) {
        self.wanted_rate.store(rate.into(), Ordering::Relaxed);
    }

    /// Notes that a datagram leaves at `now`, so much after it was `due`; both from the start on.
    pub fn sent_at(&self, due: Duration, now: Duration) {
        let late = now.saturating_sub(due);
        if late > LATE {
            self.add(Count::Late);
        }
        self.latest_us.fetch_max(micros(late), Ordering::Relaxed);
        self.behind_us.fetch_max(micros(late), Ordering::Relaxed);
        self.last_sent_us.fetch_max(micros(now), Ordering::Relaxed);
    }

    /// The most that a datagram was late since this was asked last.
    pub fn behind(&self) -> Duration {
        Duration::from_micros(self.behind_us.swap(0, Ordering::Relaxed))
    }

    /// How many so far.
    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Uplinks that devices sent so far, of all types, lost ones among them.
    pub fn sent(&self) -> u64 {
        Count::UPLINKS.map(|count| self.get(count)).iter().sum()
    }

    /// What was counted until now, for a fleet that ran for `elapsed`.
    pub fn summary(&self, elapsed: Duration) -> Summary {
        let load = |from: &AtomicU64| from.load(Ordering::Relaxed);
        Summary {
            elapsed,
            sending: Duration::from_micros(load(&self.last_sent_us)),
            counts: Count::ALL.map(|count| self.get(count)),
            sent: self.sent(),
            round_trip: self.round_trips.read(self.get(Count::Acks)),
            wanted_rate: load(&self.wanted_rate),
            latest: Duration::from_micros(load(&self.latest_us)),
        }
    }
}

/// Times from packets to their acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// The mean.
    pub mean: Duration,
    /// No more than half were longer; up to an eighth too great.
    pub p50: Duration,
    /// No more than one in a hundred was longer; up to an eighth too great.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
}

/// Buckets of each doubling: a bound is at most an eighth above what lies under it.
const BUCKETS: u32 = 8;
/// Doublings of a microsecond that are told apart: up to an hour.
const DOUBLINGS: u32 = 32;

/// A histogram of durations.
#[derive(Debug)]
struct RoundTrips {
    total_us: AtomicU64,
    longest_us: AtomicU64,
    buckets: [AtomicU64; (BUCKETS * DOUBLINGS) as usize],
}

impl Default for RoundTrips {
    fn default() -> Self {
        let buckets = std::array::from_fn(|_| AtomicU64::default());
        Self { total_us: AtomicU64::default(), longest_us: AtomicU64::default(), buckets }
    }
}

impl RoundTrips {
    fn add(&self, duration: Duration) {
        let micros = micros(duration);
        self.total_us.fetch_add(micros, Ordering::Relaxed);
        self.longest_us.fetch_max(micros, Ordering::Relaxed);
        self.buckets[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }

    /// `None` before the first.
    fn read(&self, count: u64) -> Option<RoundTrip> {
        let mean = self.total_us.load(Ordering::Relaxed).checked_div(count)?;
        let longest = self.longest_us.load(Ordering::Relaxed);
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let at = |share: f64| Duration::from_micros(quantile(&counts, share).min(longest));
        Some(RoundTrip {
            mean: Duration::from_micros(mean),
            p50: at(0.5),
            p99: at(0.99),
            longest: Duration::from_micros(longest),
        })
    }
}

/// Below [`BUCKETS`] microseconds one each; above, [`BUCKETS`] for each doubling.
fn bucket(micros: u64) -> usize {
    let doubling = micros.checked_ilog2().unwrap_or(0).saturating_sub(BUCKETS.ilog2());
    let within = micros >> doubling;
    let index = u64::from(doubling * BUCKETS) + within;
    usize::try_from(index).unwrap_or(usize::MAX).min((BUCKETS * DOUBLINGS) as usize - 1)
}

/// The greatest number of microseconds in a bucket.
fn bound(bucket: u64) -> u64 {
    let buckets = u64::from(BUCKETS);
    let doubling = (bucket / buckets).saturating_sub(1);
    let within = bucket - doubling * buckets;
    ((within + 1) << doubling) - 1
}

fn quantile(counts: &[u64], share: f64) -> u64 {
    let total: u64 = counts.iter().sum();
    let wanted = (total as f64 * share).ceil() as u64;
    let mut below = 0;
    let reached = counts.iter().position(|count| {
        below += count;
        below >= wanted.max(1)
    });
    bound(reached.unwrap_or(counts.len() - 1) as u64)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What a fleet did in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How long it ran.
    pub elapsed: Duration,
    /// From its start to its last datagram.
    pub sending: Duration,
    /// Uplinks of all types that devices sent, lost ones among them.
    pub sent: u64,
    /// Time from a packet to its acknowledgement; `None` without any.
    pub round_trip: Option<RoundTrip>,
    /// Datagrams a second that were asked for; 0: what comes of the cadence.
    pub wanted_rate: u64,
    /// The most that a datagram was late.
    pub latest: Duration,
    counts: [u64; Count::ALL.len()],
}

impl Summary {
    /// How many of a kind.
    pub const fn get(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    /// Whether more than a few datagrams left late: then acknowledgements were read late, too.
    const fn was_behind(&self) -> bool {
        self.get(Count::Late) * LATE_SHARE > self.sent
    }
}

impl fmt::Display for Summary {
    /// A line for each count that is not 0.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.sending.as_secs_f64();
        let rate = if seconds > 0.0 { self.sent as f64 / seconds } else { 0.0 };
        write!(f, "{} datagrams sent in {seconds:.1} s, {rate:.0} a second", self.sent)?;
        for count in Count::ALL.into_iter().filter(|count| self.get(*count) > 0) {
            write!(f, "\n  {:>10}  {}", self.get(count), count.label())?;
        }
        match self.round_trip {
            Some(_) if self.was_behind() => f.write_str(
                "\n  how long acknowledgements took is not told: too much was late, and waiting in this machine is part of it",
            )?,
            Some(RoundTrip { mean, p50, p99, longest }) => write!(
                f,
                "\n  acknowledged after {mean:.1?} on average, {p50:.1?} p50, {p99:.1?} p99, {longest:.1?} at most"
            )?,
            None => {}
        }
        let Self { wanted_rate, latest, .. } = self;
        if self.get(Count::Late) > 0 && rate < KEPT_UP * *wanted_rate as f64 {
            write!(
                f,
                "\n  behind schedule: {rate:.0} a second instead of {wanted_rate}, up to {latest:.1?} late; this machine, \
                 or what the gateway leaves of it, allows no more"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_was_counted_and_leaves_out_what_was_not() {
        let stats = Stats::default();
        assert_eq!(stats.summary(Duration::ZERO).round_trip, None);
        for count in [Count::KeyIds, Count::Telemetry, Count::Telemetry, Count::SendFailures] {
            stats.add(count);
        }
        stats.sent_at(Duration::from_secs(1), Duration::from_secs(1));
        stats.sent_at(Duration::from_millis(1950), Duration::from_secs(2));
        stats.acknowledged(Duration::from_millis(1));
        stats.acknowledged(Duration::from_millis(3));
        let summary = stats.summary(Duration::from_secs(3));
        assert_eq!((summary.sent, summary.get(Count::Telemetry), summary.get(Count::Acks)), (3, 2, 2));
        let round_trip = summary.round_trip.unwrap();
        assert_eq!((round_trip.mean, round_trip.longest), (Duration::from_millis(2), Duration::from_millis(3)));
        let text = summary.to_string();
        assert!(text.starts_with("3 datagrams sent in 2.0 s, 2 a second\n"), "{text}");
        assert!(text.contains("2  telemetry sent") && !text.contains("refused"), "{text}");
        assert!(!text.contains("behind"), "{text}");
    }

    #[test]
    fn a_rate_that_is_not_reached_is_said_with_the_one_that_was() {
        let stats = Stats::default();
        stats.want_rate(1000);
        for tenth in 1..=10 {
            stats.add(Count::Telemetry);
            stats.sent_at(Duration::from_millis(tenth), Duration::from_millis(100 * tenth));
        }
        assert_eq!((stats.behind(), stats.behind()), (Duration::from_millis(990), Duration::ZERO));
        let summary = stats.summary(Duration::from_secs(3));
        assert_eq!(summary.get(Count::Late), 9);
        let text = summary.to_string();
        assert!(text.contains("behind schedule: 10 a second instead of 1000, up to 990.0ms late"), "{text}");
        stats.want_rate(10);
        assert!(!stats.summary(Duration::from_secs(3)).to_string().contains("behind"), "it caught up");
    }

    #[test]
    fn round_trips_are_not_told_of_a_fleet_that_was_behind() {
        let stats = Stats::default();
        let text = |late_too: bool| {
            (0..50).for_each(|_| stats.add(Count::Telemetry));
            stats.acknowledged(Duration::from_millis(1));
            stats.sent_at(Duration::ZERO, if late_too { 2 * LATE } else { LATE });
            stats.summary(Duration::from_secs(3)).to_string()
        };
        let (kept_up, behind) = (text(false), text(true));
        assert!(kept_up.contains("acknowledged after 1.0ms on average"), "{kept_up}");
        assert!(behind.contains("acknowledged after"), "one in a hundred: {behind}");
        let behind = text(true);
        assert!(behind.contains("is not told") && !behind.contains("acknowledged after"), "{behind}");
    }

    #[test]
    fn percentiles_are_at_most_an_eighth_too_great() {
        let round_trips = RoundTrips::default();
        for micros in 1..=10_000 {
            round_trips.add(Duration::from_micros(micros));
        }
        let read = round_trips.read(10_000).unwrap();
        for (found, exact) in [(read.p50, 5000), (read.p99, 9900)] {
            let found = found.as_micros();
            assert!((exact..=exact * 9 / 8).contains(&found), "{found} for {exact}");
        }
        assert_eq!(read.longest, Duration::from_micros(10_000));
    }

    #[test]
    fn every_duration_lies_under_the_bound_of_its_bucket_and_above_the_one_before() {
        for micros in (0..20_000).chain([1 << 20, u64::from(u32::MAX)]) {
            let bucket = bucket(micros) as u64;
            assert!(micros <= bound(bucket), "{micros} in {bucket}");
            assert!(bucket == 0 || micros > bound(bucket - 1), "{micros} in {bucket}");
        }
        assert_eq!(bucket(u64::MAX), (BUCKETS * DOUBLINGS) as usize - 1);
    }
}
