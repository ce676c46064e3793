//! Durations counted in buckets. The bounds are fixed where the histogram is made, so that counting is two atomic additions
//! and no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many durations fell between each two of `N` bounds, and how long they were together.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [Duration; N],
    within: [AtomicU64; N],
    beyond: AtomicU64,
    /// In seconds, as the bits of an `f64`: as nanoseconds, 200 000 who wait would fill an integer within a day.
    sum: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading<const N: usize> {
    bounds: &'static [Duration; N],
    within: [u64; N],
    beyond: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    /// An empty histogram. `bounds` rise; a duration counts at the first one that is not shorter.
    pub const fn new(bounds: &'static [Duration; N]) -> Self {
        Self { bounds, within: [const { AtomicU64::new(0) }; N], beyond: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let place = self.bounds.partition_point(|bound| *bound < duration);
        self.within.get(place).unwrap_or(&self.beyond).fetch_add(1, Ordering::Relaxed);
        let add = |sum| Some((f64::from_bits(sum) + duration.as_secs_f64()).to_bits());
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// What was counted so far. A duration that is counted meanwhile may be missing from the sum.
    pub fn read(&self) -> Reading<N> {
        Reading {
            bounds: self.bounds,
            within: self.within.each_ref().map(|count| count.load(Ordering::Relaxed)),
            beyond: self.beyond.load(Ordering::Relaxed),
            sum: f64::from_bits(self.sum.load(Ordering::Relaxed)),
        }
    }
}

impl<const N: usize> Reading<N> {
    /// Nothing counted.
    pub const fn empty(bounds: &'static [Duration; N]) -> Self {
        Self { bounds, within: [0; N], beyond: 0, sum: 0.0 }
    }

    /// Both together. They have the same bounds.
    pub fn plus(mut self, other: &Self) -> Self {
        self.within.iter_mut().zip(other.within).for_each(|(to, more)| *to += more);
        self.beyond += other.beyond;
        self.sum += other.sum;
        self
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.within.iter().sum::<u64>() + self.beyond
    }

    /// All durations together, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Upper bounds in seconds, the last one infinite, each with how many durations are above the bound before and not
    /// above it.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounded = self.bounds.iter().map(Duration::as_secs_f64).zip(self.within);
        bounded.chain([(f64::INFINITY, self.beyond)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [Duration; 3] = [Duration::from_micros(10), Duration::from_millis(1), Duration::from_secs(600)];

    /// Counts by looking at each duration once for each bucket.
    fn naive(durations: &[Duration]) -> Vec<(f64, u64)> {
        let upper = [1e-5, 1e-3, 600.0, f64::INFINITY];
        let lower = [-1.0, 1e-5, 1e-3, 600.0];
        let count = |low: f64, high: f64| {
            let inside = |duration: &&Duration| low < duration.as_secs_f64() && duration.as_secs_f64() <= high;
            durations.iter().filter(inside).count() as u64
        };
        lower.into_iter().zip(upper).map(|(low, high)| (high, count(low, high))).collect()
    }

    #[test]
    fn durations_are_counted_as_by_hand_also_at_the_bounds() {
        let histogram = Histogram::new(&BOUNDS);
        assert_eq!(histogram.read(), Reading::empty(&BOUNDS));
        let mut durations = vec![Duration::ZERO, Duration::from_secs(1_000_000)];
        for bound in BOUNDS {
            let nanosecond = Duration::from_nanos(1);
            durations.extend([bound - nanosecond, bound, bound + nanosecond, bound]);
        }
        for duration in &durations {
            histogram.observe(*duration);
        }
        let reading = histogram.read();
        assert_eq!(reading.buckets().collect::<Vec<_>>(), naive(&durations));
        assert_eq!(reading.count(), 14);
        let sum = durations.iter().map(Duration::as_secs_f64).sum::<f64>();
        assert!((reading.sum() - sum).abs() < 1e-6, "{} {sum}", reading.sum());
    }

    #[test]
    fn nothing_is_lost_when_threads_count_at_once() {
        let histogram = Histogram::new(&BOUNDS);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| histogram.observe(Duration::from_millis(500))));
            }
        });
        let reading = histogram.read();
        assert_eq!((reading.count(), reading.sum()), (4000, 2000.0));
    }

    #[test]
    fn readings_add_up() {
        let [first, second] = [1, 2].map(|count| {
            let histogram = Histogram::new(&BOUNDS);
            (0..count).for_each(|_| histogram.observe(Duration::from_secs(700)));
            histogram.observe(Duration::from_micros(1));
            histogram.read()
        });
        let both = [first, second].iter().fold(Reading::empty(&BOUNDS), Reading::plus);
        let counts: Vec<_> = both.buckets().map(|(_, count)| count).collect();
        assert_eq!((counts, both.count()), (vec![2, 0, 0, 3], 5));
        assert!((both.sum() - 2_100.000_002).abs() < 1e-6);
    }
}
