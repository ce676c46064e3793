//! How many devices were heard lately: every record is looked at.

use std::time::Duration;

use crate::clock::Timestamp;

use super::RouteTable;

/// Devices by how long ago their last packet was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// At most 5 minutes ago: the way back is most likely still open, since NATs keep an idle UDP mapping for 30 s to 5
    /// minutes.
    pub within_5m: u64,
    /// At most an hour ago.
    pub within_1h: u64,
    /// At most 24 hours ago.
    pub within_24h: u64,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Ages {
    /// Takes in a device that was last heard at `heard`, a moment of the same clock as `now`.
    fn add(&mut self, now: Timestamp, heard: Timestamp) {
        let within = |span| u64::from(heard.after(span) >= now);
        self.within_5m += within(5 * MINUTE);
        self.within_1h += within(60 * MINUTE);
        self.within_24h += within(24 * 60 * MINUTE);
    }
}

impl RouteTable {
    /// Counts the devices that were heard lately. Takes time in proportion to the number of records, and locks a shard of
    /// them for a few hundred at a time: a packet waits for no more.
    pub fn ages(&self, now: Timestamp) -> Ages {
        let mut ages = Ages::default();
        let mut walk = self.records.walk();
        while walk.next(|_, record| ages.add(now, record.last_at())) {}
        ages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_counts_up_to_the_full_span_and_not_a_millisecond_longer() {
        let now = Timestamp::from_unix_seconds(1_795_400_001);
        let ages = |ago: u64| {
            let mut ages = Ages::default();
            ages.add(now, Timestamp(now.0 - ago));
            (ages.within_5m, ages.within_1h, ages.within_24h)
        };
        assert_eq!((ages(0), ages(300_000)), ((1, 1, 1), (1, 1, 1)));
        assert_eq!((ages(300_001), ages(3_600_000)), ((0, 1, 1), (0, 1, 1)));
        assert_eq!((ages(3_600_001), ages(86_400_000)), ((0, 0, 1), (0, 0, 1)));
        assert_eq!((ages(86_400_001), ages(now.0)), ((0, 0, 0), (0, 0, 0)), "too long ago, and never heard");
    }

    #[test]
    fn a_device_heard_after_the_clock_was_set_back_counts() {
        let mut ages = Ages::default();
        ages.add(Timestamp(1000), Timestamp(5000));
        assert_eq!(ages, Ages { within_5m: 1, within_1h: 1, within_24h: 1 });
    }
}
