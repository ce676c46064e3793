//! When which device of a link is due. Pure: times are durations since the fleet started.
//!
//! By cadence every device has its own time, and a heap of 16 bytes a device finds the next. At a rate devices follow one
//! another over the whole fleet, so the time of each packet follows from its number alone and nothing is kept.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::Config;

/// The devices of one link: every `links`th of the fleet, from `link` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deal {
    link: u32,
    links: u32,
    devices: u32,
}

impl Deal {
    /// Link `link` of `links` that share `devices`.
    pub(super) const fn new(link: u32, links: u32, devices: u32) -> Self {
        Self { link, links, devices }
    }

    /// How many they are.
    pub(super) const fn len(self) -> usize {
        (self.devices - self.link).div_ceil(self.links) as usize
    }

    /// Which of the fleet the device at place `at` is.
    pub(super) const fn index(self, at: usize) -> u32 {
        self.link + at as u32 * self.links
    }

    /// At which place device `index` of the fleet is, if it is one of these.
    pub(super) const fn place(self, index: u32) -> Option<usize> {
        if index < self.devices && index % self.links == self.link { Some((index / self.links) as usize) } else { None }
    }

    /// How many of `packets` these devices make, so that all links together make that many.
    fn share(self, packets: u64) -> u64 {
        // Devices dealt to the links before this one and to this one, in turn.
        let before: u64 = (0..self.link).map(|link| Self { link, ..self }.len() as u64).sum();
        let up_to = |devices: u64| (u128::from(packets) * u128::from(devices) / u128::from(self.devices)) as u64;
        up_to(before + self.len() as u64) - up_to(before)
    }
}

/// A device whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// When.
    pub(super) time: Duration,
    /// Its place. Devices boot in the order of their places.
    pub(super) at: usize,
}

/// The wake-ups of the devices of a link.
#[derive(Debug)]
pub(super) struct Schedule {
    deal: Deal,
    pace: Pace,
}

#[derive(Debug)]
enum Pace {
    Cadence {
        cadence: Duration,
        booted: usize,
        /// In microseconds, and at which place.
        wakes: BinaryHeap<Reverse<(u64, u32)>>,
        /// Packets that may still be made.
        left: u64,
    },
    Rate {
        rate: f64,
        /// Packets of the whole fleet.
        packets: u64,
        /// How often each device was due, and whose turn it is.
        turn: u64,
        next: usize,
    },
}

impl Schedule {
    /// The schedule of the devices `deal` in a fleet of `config`.
    pub(super) fn new(config: &Config, deal: Deal) -> Self {
        let pace = match config.rate {
            Some(rate) => {
                let packets = config.packets.unwrap_or(u64::MAX);
                Pace::Rate { rate: rate.into(), packets, turn: 0, next: 0 }
            }
            None => {
                let left = config.packets.map_or(u64::MAX, |packets| deal.share(packets));
                Pace::Cadence { cadence: config.cadence, booted: 0, wakes: BinaryHeap::with_capacity(deal.len()), left }
            }
        };
        Self { deal, pace }
    }

    /// When the device at place `at` boots.
    pub(super) fn boot_at(&self, at: usize) -> Duration {
        let index = self.deal.index(at);
        match &self.pace {
            Pace::Cadence { cadence, .. } => cadence.mul_f64(f64::from(index) / f64::from(self.deal.devices)),
            Pace::Rate { rate, .. } => Duration::from_secs_f64(f64::from(index) / rate),
        }
    }

    /// Who is due next, and when; `None` when all packets are made.
    pub(super) fn next(&self) -> Option<Due> {
        match &self.pace {
            Pace::Cadence { left: 0, .. } => None,
            Pace::Cadence { booted, wakes, .. } => {
                let wake = wakes
                    .peek()
                    .map(|Reverse((micros, at))| Due { time: Duration::from_micros(*micros), at: *at as usize });
                let boot = (*booted < self.deal.len()).then(|| Due { time: self.boot_at(*booted), at: *booted });
                match (wake, boot) {
                    (Some(wake), Some(boot)) => Some(if boot.time <= wake.time { boot } else { wake }),
                    (wake, boot) => wake.or(boot),
                }
            }
            Pace::Rate { rate, packets, turn, next } => {
                let number = turn * u64::from(self.deal.devices) + u64::from(self.deal.index(*next));
                let time = Duration::from_secs_f64(number as f64 / rate);
                (number < *packets).then_some(Due { time, at: *next })
            }
        }
    }

    /// Takes who is due by `now`.
    pub(super) fn take(&mut self, now: Duration) -> Option<Due> {
        let due = self.next().filter(|due| due.time <= now)?;
        match &mut self.pace {
            Pace::Cadence { booted, wakes, left, .. } => {
                if due.at == *booted {
                    *booted += 1;
                } else {
                    wakes.pop();
                }
                *left -= 1;
            }
            Pace::Rate { turn, next, .. } => {
                *next += 1;
                if *next == self.deal.len() {
                    *next = 0;
                    *turn += 1;
                }
            }
        }
        Some(due)
    }

    /// The device at place `at`, which was taken, wants to be woken at `time`. At a rate it waits for its turn instead.
    pub(super) fn again(&mut self, at: usize, time: Duration) {
        if let Pace::Cadence { wakes, .. } = &mut self.pace {
            wakes.push(Reverse((u64::try_from(time.as_micros()).unwrap_or(u64::MAX), at as u32)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// (place in the fleet, milliseconds) of what is due until `now`.
    fn taken(schedule: &mut Schedule, deal: Deal, now: Duration) -> Vec<(u32, u128)> {
        std::iter::from_fn(|| schedule.take(now)).map(|due| (deal.index(due.at), due.time.as_millis())).collect()
    }

    #[test]
    fn every_device_is_dealt_once() {
        for (links, devices) in [(1, 1), (3, 10), (7, 7), (64, 1_000_000)] {
            let deals: Vec<_> = (0..links).map(|link| Deal::new(link, links, devices)).collect();
            assert_eq!(deals.iter().map(|deal| deal.len()).sum::<usize>(), devices as usize);
            for index in [0, devices / 2, devices - 1] {
                let places: Vec<_> =
                    deals.iter().filter_map(|deal| deal.place(index).map(|at| deal.index(at))).collect();
                assert_eq!(places, [index]);
            }
            assert!(deals.iter().all(|deal| deal.place(devices).is_none()));
        }
    }

    #[test]
    fn by_cadence_devices_boot_over_the_first_one_and_then_come_when_they_want() {
        let config = Config { devices: 4, cadence: 40 * MILLI, ..Config::default() };
        let deal = Deal::new(1, 2, 4);
        let mut schedule = Schedule::new(&config, deal);
        assert_eq!(schedule.next(), Some(Due { time: 10 * MILLI, at: 0 }));
        assert_eq!(taken(&mut schedule, deal, 9 * MILLI), []);
        assert_eq!(taken(&mut schedule, deal, 20 * MILLI), [(1, 10)]);
        schedule.again(0, 35 * MILLI);
        assert_eq!(taken(&mut schedule, deal, 100 * MILLI), [(3, 30), (1, 35)]);
        assert_eq!(schedule.next(), None, "nobody wants to be woken");
    }

    #[test]
    fn at_a_rate_devices_follow_one_another_over_all_links() {
        let config = Config { devices: 5, rate: Some(1000), packets: Some(12), ..Config::default() };
        let mut all = Vec::new();
        for link in 0..2 {
            let deal = Deal::new(link, 2, 5);
            let mut schedule = Schedule::new(&config, deal);
            let taken = taken(&mut schedule, deal, Duration::from_secs(1));
            assert_eq!(schedule.next(), None);
            all.extend(taken.into_iter().map(|(index, millis)| (millis, index)));
        }
        all.sort_unstable();
        assert_eq!(
            all,
            [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
                .into_iter()
                .enumerate()
                .map(|(at, index)| (at as u128, index))
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn all_links_together_make_the_packets_asked_for() {
        for (packets, devices, links) in [(1, 10, 3), (100, 10, 3), (1_000_003, 1000, 64), (5, 1, 1)] {
            let config = Config { devices, packets: Some(packets), cadence: MILLI, ..Config::default() };
            let mut made = 0;
            for link in 0..links {
                let mut schedule = Schedule::new(&config, Deal::new(link, links, devices));
                while let Some(due) = schedule.take(Duration::from_secs(1)) {
                    schedule.again(due.at, due.time);
                    made += 1;
                }
            }
            assert_eq!(made, packets);
        }
    }
}
