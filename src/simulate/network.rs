//! What the network between the devices and the gateway does to a datagram. Pure: chance that can be repeated.
//!
//! What happens to the packet with a given sequence of a given device follows from these and the seed of the fleet alone,
//! not from what other devices do or how fast the machine is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Config;

/// Datagrams of a fleet that are held back at once, so that a slow network costs bounded memory: some 100 MB.
pub(super) const MAX_HELD: usize = 500_000;

/// Room for what is held back. What finds none leaves in its place; which that is does depend on how fast the machine is.
#[derive(Debug)]
pub(super) struct Room(AtomicUsize);

impl Room {
    /// For so many.
    pub(super) const fn new(places: usize) -> Self {
        Self(AtomicUsize::new(places))
    }

    /// Takes a place; false if there is none.
    pub(super) fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |places| places.checked_sub(1)).is_ok()
    }

    /// Gives one back.
    pub(super) fn give_back(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What becomes of one uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    /// The NAT gave its device a new port since that sent last.
    pub(super) rebound: bool,
    /// It never arrives.
    pub(super) lost: bool,
    /// It is held back for this long, so that later ones can overtake it.
    pub(super) held: Option<Duration>,
    /// A copy follows it.
    pub(super) copied: bool,
    /// That copy is held back for this long, from when the first one left.
    pub(super) copy_held: Option<Duration>,
}

impl Fate {
    /// The fate of the packet `sequence` of device `index`.
    pub(super) fn of(config: &Config, index: u32, sequence: u16) -> Self {
        let packet = u64::from(config.seed) << 48 | u64::from(index) << 16 | u64::from(sequence);
        let mut chance = super::chance(packet);
        // All are drawn, so that one share does not change what another one decides.
        let [rebound, lost, held, copied, copy_held] = [(); 5].map(|()| chance.f64());
        let [hold, copy_hold] = [(); 2].map(|()| config.longest_hold().mul_f64(chance.f64()));
        Self {
            rebound: rebound < config.rebind,
            lost: lost < config.loss,
            held: (held < config.reorder).then_some(hold),
            copied: copied < config.duplicate,
            copy_held: (copy_held < config.reorder).then_some(copy_hold),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn troubled() -> Config {
        Config {
            rebind: 0.1,
            loss: 0.2,
            duplicate: 0.3,
            reorder: 0.4,
            delay: Some(Duration::from_secs(1)),
            ..Config::default()
        }
    }

    #[test]
    fn a_packet_has_the_same_fate_each_time_and_another_than_its_neighbours() {
        let config = troubled();
        let fates = |seed| -> Vec<Fate> {
            let config = Config { seed, ..config.clone() };
            (0..8)
                .flat_map(|index| (0..8).map(move |sequence| (index, sequence)))
                .map(|(index, sequence)| Fate::of(&config, index, sequence))
                .collect()
        };
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
        let first = fates(1);
        assert!(first[..8].iter().any(|fate| *fate != first[0]), "sequences differ");
        assert!(first.iter().step_by(8).any(|fate| *fate != first[0]), "devices differ");
    }

    #[test]
    fn shares_are_those_of_the_settings_whether_over_devices_or_over_sequences() {
        let config = troubled();
        let over_devices: Vec<_> = (0..20_000).map(|index| Fate::of(&config, index, 1)).collect();
        let over_sequences: Vec<_> = (0..20_000).map(|sequence| Fate::of(&config, 1, sequence)).collect();
        for fates in [over_devices, over_sequences] {
            let share = |is: fn(&Fate) -> bool| fates.iter().filter(|fate| is(fate)).count() as f64 / 20_000.0;
            for (share, wanted) in [
                (share(|fate| fate.rebound), 0.1),
                (share(|fate| fate.lost), 0.2),
                (share(|fate| fate.copied), 0.3),
                (share(|fate| fate.held.is_some()), 0.4),
                (share(|fate| fate.copy_held.is_some()), 0.4),
                (share(|fate| fate.lost && fate.copied), 0.06),
                (share(|fate| fate.held.is_some_and(|hold| hold < Duration::from_millis(500))), 0.2),
            ] {
                assert!((share - wanted).abs() < 0.015, "{share} is not {wanted}");
            }
        }
    }

    #[test]
    fn nothing_and_everything_are_certain() {
        let calm = Config { rebind: 0.0, ..Config::default() };
        let nothing = Fate { rebound: false, lost: false, held: None, copied: false, copy_held: None };
        let storm = Config { loss: 1.0, duplicate: 1.0, reorder: 1.0, rebind: 1.0, ..Config::default() };
        for index in 0..1000 {
            assert_eq!(Fate::of(&calm, index, 0), nothing);
            let fate = Fate::of(&storm, index, 0);
            assert!(fate.rebound && fate.lost && fate.copied && fate.held.is_some() && fate.copy_held.is_some());
        }
    }
}
