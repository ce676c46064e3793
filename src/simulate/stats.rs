//! What a fleet has done so far, readable while it runs.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Devices that have booted.
    Booted,
    /// KEY_IDS sent: at boot, or because somebody asked.
    KeyIds,
    /// Telemetry sent.
    Telemetry,
    /// Echo requests answered.
    EchoAnswers,
    /// Datagrams the kernel did not take. Counted nowhere else.
    SendFailures,
    /// Datagrams sent that asked for an acknowledgement.
    AcksAsked,
    /// Acknowledgements of a packet that had asked.
    Acks,
    /// Acknowledgements of nothing that was asked, or too late to tell.
    AcksUnmatched,
    /// Requests for KEY_IDS.
    KeyQuestions,
    /// Downlinks with a device key id that is not the device's.
    UnknownKeys,
    /// Authentic downlinks the simulator has no answer for, such as calls.
    Unsupported,
    /// Downlinks that arrived while the device was asleep.
    Missed,
    /// Downlinks that did not authenticate or were for somebody else.
    Refused,
    /// Datagrams too short to be a downlink.
    Short,
    /// Sockets replaced because the NAT in front changed its mapping.
    Rebinds,
    /// Sockets reopened by a device that was not answered.
    Reopened,
    /// Reports of the network that nobody listens at the gateway's address.
    Unreachable,
}

impl Count {
    /// Every count, in the order of the summary.
    pub const ALL: [Self; 17] = [
        Self::Booted,
        Self::KeyIds,
        Self::Telemetry,
        Self::EchoAnswers,
        Self::SendFailures,
        Self::AcksAsked,
        Self::Acks,
        Self::AcksUnmatched,
        Self::KeyQuestions,
        Self::UnknownKeys,
        Self::Unsupported,
        Self::Missed,
        Self::Refused,
        Self::Short,
        Self::Rebinds,
        Self::Reopened,
        Self::Unreachable,
    ];

    /// The words of the summary.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Booted => "devices booted",
            Self::KeyIds => "key ids sent",
            Self::Telemetry => "telemetry sent",
            Self::EchoAnswers => "echo requests answered",
            Self::SendFailures => "sends failed",
            Self::AcksAsked => "acknowledgements asked for",
            Self::Acks => "acknowledgements received",
            Self::AcksUnmatched => "acknowledgements of nothing asked",
            Self::KeyQuestions => "requests for key ids",
            Self::UnknownKeys => "downlinks with an unknown key id",
            Self::Unsupported => "downlinks of other types",
            Self::Missed => "downlinks missed asleep",
            Self::Refused => "downlinks refused",
            Self::Short => "downlinks too short",
            Self::Rebinds => "NAT rebinds",
            Self::Reopened => "sockets reopened",
            Self::Unreachable => "gateway unreachable",
        }
    }
}

/// The counters of a running fleet.
#[derive(Debug, Default)]
pub struct Stats {
    counts: [AtomicU64; Count::ALL.len()],
    round_trips_us: AtomicU64,
    longest_round_trip_us: AtomicU64,
}

impl Stats {
    /// Counts one more.
    pub fn add(&self, count: Count) {
        self.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an acknowledgement that came `after` its packet was sent.
    pub fn acknowledged(&self, after: Duration) {
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.add(Count::Acks);
        self.round_trips_us.fetch_add(micros, Ordering::Relaxed);
        self.longest_round_trip_us.fetch_max(micros, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Uplinks so far, of all types.
    pub fn sent(&self) -> u64 {
        self.get(Count::KeyIds) + self.get(Count::Telemetry) + self.get(Count::EchoAnswers)
    }

    /// Time from a packet to its acknowledgement, mean and longest; `None` before the first.
    pub fn round_trip(&self) -> Option<(Duration, Duration)> {
        let mean = self.round_trips_us.load(Ordering::Relaxed).checked_div(self.get(Count::Acks))?;
        let longest = self.longest_round_trip_us.load(Ordering::Relaxed);
        Some((Duration::from_micros(mean), Duration::from_micros(longest)))
    }

    /// What was counted until now, for a fleet that ran for `elapsed`.
    pub fn summary(&self, elapsed: Duration) -> Summary {
        let counts = Count::ALL.map(|count| self.get(count));
        Summary { elapsed, counts, sent: self.sent(), round_trip: self.round_trip() }
    }
}

/// What a fleet did in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How long it ran.
    pub elapsed: Duration,
    /// Uplinks of all types.
    pub sent: u64,
    /// Time from a packet to its acknowledgement, mean and longest.
    pub round_trip: Option<(Duration, Duration)>,
    counts: [u64; Count::ALL.len()],
}

impl Summary {
    /// How many of a kind.
    pub const fn get(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }
}

impl fmt::Display for Summary {
    /// A line for each count that is not 0.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        let rate = if seconds > 0.0 { self.sent as f64 / seconds } else { 0.0 };
        write!(f, "{} datagrams sent in {seconds:.1} s, {rate:.0} a second", self.sent)?;
        for count in Count::ALL.into_iter().filter(|count| self.get(*count) > 0) {
            write!(f, "\n  {:>10}  {}", self.get(count), count.label())?;
        }
        if let Some((mean, longest)) = self.round_trip {
            write!(f, "\n  acknowledged after {mean:.1?} on average, {longest:.1?} at most")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_indexed_by_position_and_their_words_differ() {
        for (index, count) in Count::ALL.into_iter().enumerate() {
            assert_eq!(count as usize, index);
            assert!(Count::ALL[..index].iter().all(|other| other.label() != count.label()));
        }
    }

    #[test]
    fn the_summary_says_what_was_counted_and_leaves_out_what_was_not() {
        let stats = Stats::default();
        assert_eq!(stats.round_trip(), None);
        for count in [Count::KeyIds, Count::Telemetry, Count::Telemetry, Count::SendFailures] {
            stats.add(count);
        }
        stats.acknowledged(Duration::from_millis(1));
        stats.acknowledged(Duration::from_millis(3));
        let summary = stats.summary(Duration::from_secs(2));
        assert_eq!((summary.sent, summary.get(Count::Telemetry), summary.get(Count::Acks)), (3, 2, 2));
        assert_eq!(summary.round_trip, Some((Duration::from_millis(2), Duration::from_millis(3))));
        let text = summary.to_string();
        assert!(text.starts_with("3 datagrams sent in 2.0 s, 2 a second\n"), "{text}");
        assert!(text.contains("2  telemetry sent") && !text.contains("refused"), "{text}");
    }
}
