//! What a simulated device knows of the time: nothing at first, then what a downlink or a call told it (docs/protocol.md, time).

use std::time::Duration;

use crate::clock::Timestamp;
use crate::table::rules::NO_TIME_START;
use crate::wire::calls::{TimeInfo, TimeSource};

/// The clock of a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timekeeping {
    /// What it showed, and at which uptime.
    shown: (Timestamp, Duration),
    source: TimeSource,
    /// Whether the time survives a reboot.
    survives: bool,
}

impl Timekeeping {
    /// Without time at uptime `now`: it counts from 2020.
    pub(super) const fn without_time(now: Duration) -> Self {
        Self { shown: (Timestamp::from_gps(NO_TIME_START), now), source: TimeSource::NONE, survives: false }
    }

    /// One that survived a reboot: at uptime `now` it shows `time`.
    pub(super) const fn surviving(now: Duration, time: Timestamp) -> Self {
        // Where it had the time from before the reboot, nobody remembers: as likely as not from a gateway.
        Self { shown: (time, now), source: TimeSource::EPACKET.recovered(), survives: true }
    }

    /// The time it shows.
    pub(super) fn time(&self, now: Duration) -> Timestamp {
        let (time, at) = self.shown;
        time.after(now.saturating_sub(at))
    }

    /// The first downlink with a time sets it; no later one does.
    pub(super) fn adopt(&mut self, now: Duration, gps_time: u32) {
        if self.source == TimeSource::NONE && gps_time != 0 {
            (self.shown, self.source) = ((Timestamp::from_gps(gps_time), now), TimeSource::EPACKET);
        }
    }

    /// A call sets it, in 1/65536 s of GPS time.
    pub(super) fn set(&mut self, now: Duration, fine: u64) {
        let seconds = u32::try_from(fine >> 16).unwrap_or(u32::MAX);
        let time = Timestamp::from_gps(seconds).after(Duration::from_millis((fine & 0xffff) * 1000 / 65_536));
        (self.shown, self.source) = ((time, now), TimeSource::RPC);
    }

    /// The device boots anew.
    pub(super) fn reboot(&mut self, now: Duration) {
        let has_time = self.source != TimeSource::NONE;
        *self = match self.survives && has_time {
            true => Self { shown: (self.time(now), now), source: self.source.recovered(), survives: true },
            false => Self { survives: self.survives, ..Self::without_time(now) },
        };
    }

    /// The result of time_get.
    pub(super) fn info(&self, now: Duration) -> TimeInfo {
        let was_set = matches!(self.source, TimeSource::EPACKET | TimeSource::RPC);
        let age = was_set.then(|| super::device::whole_seconds(now.saturating_sub(self.shown.1)));
        TimeInfo { source: self.source, time: fine(self.time(now)), age }
    }
}

/// GPS time in 1/65536 s.
fn fine(time: Timestamp) -> u64 {
    (u64::from(time.gps()) << 16) + time.0 % 1000 * 65_536 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const GPS: u32 = 1_479_435_219;

    #[test]
    fn a_call_sets_the_time_over_what_a_downlink_told_and_no_downlink_sets_it_again() {
        let mut clock = Timekeeping::without_time(Duration::ZERO);
        clock.adopt(SECOND, GPS);
        clock.set(2 * SECOND, u64::from(GPS + 50) << 16 | 0x8000);
        clock.adopt(3 * SECOND, GPS);
        let info = clock.info(4 * SECOND);
        assert_eq!(info, TimeInfo { source: TimeSource::RPC, time: u64::from(GPS + 52) << 16 | 0x8000, age: Some(2) });
    }

    #[test]
    fn time_survives_a_reboot_only_where_it_did_before() {
        let mut survives = Timekeeping::surviving(Duration::ZERO, Timestamp::from_gps(GPS));
        survives.set(SECOND, u64::from(GPS) << 16);
        let mut forgets = Timekeeping::without_time(Duration::ZERO);
        forgets.adopt(SECOND, GPS);
        for clock in [&mut survives, &mut forgets] {
            clock.reboot(3 * SECOND);
        }
        assert_eq!(survives.info(4 * SECOND).source, TimeSource::RPC.recovered());
        assert_eq!((survives.time(4 * SECOND).gps(), survives.info(4 * SECOND).age), (GPS + 3, None));
        assert_eq!(forgets.time(4 * SECOND).gps(), NO_TIME_START + 1);
        forgets.adopt(5 * SECOND, GPS);
        assert_eq!(forgets.time(5 * SECOND).gps(), GPS, "it takes the next one it hears");
    }
}
