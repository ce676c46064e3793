//! Copies of what counted count nowhere, however a device reboots: every history is recorded, and then played again.

use lastroute::clock::Timestamp;
use lastroute::table::route::Outcome;
use lastroute::table::rules::{NO_TIME_START, Step};
use lastroute::table::{RouteTable, TableConfig};

use super::{START, Sent, Way};

/// Half an hour into the history of a device.
const LATER: u32 = START + 1800;

/// A table, and all that one device sent it.
struct History {
    table: RouteTable,
    sent: Vec<Sent>,
}

impl History {
    fn new() -> Self {
        Self { table: RouteTable::new(&TableConfig::default()), sent: Vec::new() }
    }

    /// A new packet arrives when the gateway's clock says `now`. It counts.
    fn packet(&mut self, now: u32, gps_time: u32, sequence: u16) -> Step {
        self.count(now, Sent { sequence, ..self.plain(gps_time) })
    }

    fn boot(&mut self, now: u32, gps_time: u32) -> Step {
        self.count(now, self.plain(gps_time).boot())
    }

    /// A packet with an entropy of its own, as every packet has.
    fn plain(&self, gps_time: u32) -> Sent {
        let way = Way::Direct(([192, 0, 2, 1], 1000).into());
        Sent { entropy: self.sent.len() as u16, ..Sent::new(gps_time, 0, way) }
    }

    fn count(&mut self, now: u32, sent: Sent) -> Step {
        let Outcome::Counted(counted) = sent.record(&self.table, Timestamp::from_gps(now)) else {
            panic!("{sent:?} did not count");
        };
        self.sent.push(sent);
        counted.step
    }

    /// How many of five copies of each packet count, all from another address.
    fn copies_that_count(&self, now: u32) -> usize {
        let way = Way::Direct(([192, 0, 2, 9], 9).into());
        let copies = self.sent.iter().map(|sent| Sent { way, ..*sent });
        let counts = |copy: Sent| matches!(copy.record(&self.table, Timestamp::from_gps(now)), Outcome::Counted(_));
        (0..5).map(|_| copies.clone().filter(|copy| counts(*copy)).count()).sum()
    }
}

#[test]
fn r4_no_copy_counts_after_a_reboot_that_passes_the_old_mark_in_its_own_second() {
    let mut device = History::new();
    for boot in 0..2 {
        let step = device.boot(LATER, LATER);
        assert_eq!(step, if boot == 0 { Step::NewSession } else { Step::Unproven });
        for sequence in 1..4 {
            device.packet(LATER, LATER, sequence);
        }
    }
    for sequence in 4..40 {
        assert_eq!(device.packet(LATER, LATER, sequence), Step::SameSession);
    }
    assert_eq!(device.copies_that_count(LATER), 0);
    assert_eq!(device.packet(LATER + 60, LATER + 60, 40), Step::SameSession);
    assert_eq!(device.copies_that_count(LATER + 60), 0);
}

#[test]
fn r4_no_copy_counts_after_a_reboot_without_time_that_passes_the_mark_of_a_short_session() {
    let mut device = History::new();
    for sequence in 0..4 {
        device.packet(START - 1800, START - 1800, sequence);
    }
    for sequence in 0..6 {
        let now = LATER + u32::from(sequence);
        let gps_time = NO_TIME_START + u32::from(sequence);
        match sequence {
            0 => assert_eq!(device.boot(now, gps_time), Step::Unproven),
            _ => assert_eq!(device.packet(now, gps_time, sequence), Step::Pending),
        }
    }
    for sequence in 6..40 {
        let now = LATER + u32::from(sequence);
        let step = device.packet(now, now, sequence);
        assert_eq!(step, if sequence == 6 { Step::NewSession } else { Step::SameSession });
    }
    device.sent.drain(..4);
    assert_eq!(device.copies_that_count(LATER + 40), 0);
}

#[test]
fn r4_no_copy_counts_after_a_clock_was_set_back_by_a_reboot() {
    let mut device = History::new();
    for sequence in 1..=99 {
        let now = LATER - 100 + u32::from(sequence);
        device.packet(now, now, sequence);
    }
    assert_eq!(device.boot(LATER, LATER - 100), Step::Unproven);
    // The sequence of the new session comes up with the mark of the old one before its time does.
    for sequence in 1..=110 {
        assert_eq!(device.packet(LATER, LATER - 100, sequence), Step::Pending);
    }
    for second in 0..40 {
        let step = device.packet(LATER + 100 + second, LATER + second, 111 + second as u16);
        assert_eq!(step, if second == 0 { Step::NewSession } else { Step::SameSession });
    }
    assert_eq!(device.copies_that_count(LATER + 140), 0);
}

#[test]
fn r4_no_copy_counts_after_a_reboot_with_a_clock_set_back_by_less_than_a_small_step() {
    let mut device = History::new();
    device.boot(LATER, LATER);
    for sequence in 1..4 {
        device.packet(LATER, LATER, sequence);
    }
    assert_eq!(device.boot(LATER, LATER - 3), Step::Unproven);
    for sequence in 1..4 {
        assert_eq!(device.packet(LATER, LATER - 2, sequence), Step::Pending);
    }
    for sequence in 4..40 {
        device.packet(LATER, LATER, sequence);
    }
    assert_eq!(device.copies_that_count(LATER + 1), 0);
}

#[test]
fn r4_no_copy_counts_after_a_boot_that_its_own_session_overtook() {
    for behind in [0, 1, 5] {
        let mut device = History::new();
        assert_eq!(device.packet(LATER, LATER, 1), Step::NewSession);
        assert_eq!(device.boot(LATER, LATER - behind), Step::Late, "{behind} s before");
        assert_eq!(device.copies_that_count(LATER), 0, "{behind} s before");
        for sequence in 2..40 {
            let now = LATER + u32::from(sequence);
            device.packet(now, now, sequence);
        }
        assert_eq!(device.copies_that_count(LATER + 40), 0, "{behind} s before");
    }
}

#[test]
fn r4_no_copy_of_the_running_session_counts_after_a_boot_without_the_time() {
    for gps_time in [NO_TIME_START, 0, LATER - 4000] {
        let mut device = History::new();
        for sequence in 0..40 {
            let now = LATER + u32::from(sequence);
            device.packet(now, now, sequence);
        }
        assert_eq!(device.boot(LATER + 40, gps_time), Step::Unproven);
        assert_eq!(device.copies_that_count(LATER + 40), 0, "a boot at {gps_time}");
        device.packet(LATER + 41, LATER + 41, 1);
        assert_eq!(device.copies_that_count(LATER + 41), 0, "a boot at {gps_time}");
    }
}

#[test]
fn r4_a_device_whose_clock_ran_ahead_counts_after_a_boot_without_time() {
    let mut device = History::new();
    for sequence in 0..40 {
        let now = LATER + u32::from(sequence);
        device.packet(now, now + 100, sequence);
    }
    assert_eq!(device.boot(LATER + 40, NO_TIME_START), Step::Unproven);
    // The acknowledgement of the boot tells it the time, which lies before that of its last packets.
    for sequence in 1..10 {
        assert_eq!(device.packet(LATER + 41, LATER + 40, sequence), Step::Pending);
    }
}
