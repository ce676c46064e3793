//! Timestamps, and the only call that reads the clock. Every rule below the sockets takes `now` as an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// The gateway's clock: the system's, moved by a constant for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    offset_ms: i64,
}

impl Clock {
    /// The system clock plus `offset_seconds`.
    pub const fn with_offset_seconds(offset_seconds: i64) -> Self {
        Self { offset_ms: offset_seconds.saturating_mul(1000) }
    }

    /// Reads the clock. A system clock before 1970 reads as 1970.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    pub fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Timestamp(millis.saturating_add_signed(self.offset_ms))
    }
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
}
