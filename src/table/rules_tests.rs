//! The rules R3 to R5 packet by packet, without a table.

use super::rules::{Arrival, NO_TIME_START, RouteChange, Session, Slot, Step, TimeClass, judge, route_change};
use super::side::Side;
use crate::clock::Timestamp;

const NOW: u32 = 1_479_435_219;

/// A device's rules with everything in memory, fed one packet at a time.
#[derive(Default)]
struct State {
    session: Session,
    greatest: u32,
    side: Side,
}

impl State {
    /// A packet with time `gps` arrives when the gateway's clock says `now`.
    fn packet(&mut self, now: u32, gps_time: u32, sequence: u16) -> Step {
        self.arrive(now, gps_time, sequence, false, u32::from(sequence))
    }

    fn boot(&mut self, now: u32, gps_time: u32, entropy: u32) -> Step {
        self.arrive(now, gps_time, 0, true, entropy)
    }

    fn arrive(&mut self, now: u32, gps_time: u32, sequence: u16, boot: bool, entropy: u32) -> Step {
        let arrival = Arrival {
            slot: Slot::Direct,
            class: TimeClass::of(gps_time, now),
            gps_time,
            sequence,
            entropy: Some(entropy as u16),
            boot,
            answers: false,
            at: Timestamp::from_gps(now),
        };
        let step = judge(&self.session, self.greatest, Some(&self.side), &arrival);
        self.session.advance(step, &arrival);
        if step.proved() {
            self.greatest = self.greatest.max(gps_time);
        }
        self.side.advance(step, &arrival);
        step
    }
}

#[test]
fn classes_have_exact_bounds() {
    let class = |gps_time| TimeClass::of(gps_time, NOW);
    assert_eq!((class(NOW - 300), class(NOW - 301)), (TimeClass::Fresh, TimeClass::Old));
    assert_eq!((class(NOW + 120), class(NOW + 121)), (TimeClass::Fresh, TimeClass::Future));
    assert_eq!((class(NO_TIME_START), class(NO_TIME_START - 1)), (TimeClass::NoTime, TimeClass::Old));
    assert_eq!(class(NO_TIME_START + 31_622_399), TimeClass::NoTime);
    assert_eq!(class(NO_TIME_START + 31_622_400), TimeClass::Old);
    assert_eq!((class(0), class(1), class(u32::MAX)), (TimeClass::NoTime, TimeClass::Old, TimeClass::Future));
}

#[test]
fn r4_a_session_goes_on_over_gaps_and_the_wrap_of_the_sequence() {
    let mut state = State::default();
    assert_eq!(state.packet(NOW, NOW, 65_533), Step::NewSession);
    for (gap, sequence) in [(0, 65_534), (1, 0), (2, 1), (3, 1 + 1024)] {
        assert_eq!(state.packet(NOW + gap, NOW + gap, sequence), Step::SameSession);
    }
    assert_eq!(state.packet(NOW + 3, NOW + 3, 1025 + 1025), Step::TooOld, "too far ahead in the same second");
    assert_eq!(state.packet(NOW + 4, NOW + 4, 1025 + 1025), Step::NewSession);
}

#[test]
fn r4_duplicates_and_late_packets_are_told_apart_by_the_window() {
    let mut state = State::default();
    for sequence in [10, 12, 80] {
        state.packet(NOW, NOW, sequence);
    }
    assert_eq!(state.packet(NOW, NOW, 80), Step::BitSet);
    assert_eq!(state.packet(NOW, NOW, 17), Step::Late, "63 behind");
    assert_eq!(state.packet(NOW, NOW, 17), Step::BitSet);
    assert_eq!(state.packet(NOW, NOW, 16), Step::TooOld, "64 behind");
}

#[test]
fn r4_a_late_packet_is_at_most_120_s_behind_the_newest() {
    let mut state = State::default();
    for (gps, sequence) in [(0, 1), (200, 3), (200, 5)] {
        state.packet(NOW + gps, NOW + gps, sequence);
    }
    assert_eq!(state.packet(NOW + 200, NOW + 80, 4), Step::Late);
    assert_eq!(state.packet(NOW + 200, NOW + 79, 2), Step::Unproven);
    assert_eq!(state.packet(NOW + 200, NOW + 79, 2), Step::ExactCopy);
}

#[test]
fn r4_reboot_with_time_after_an_hour_and_three_packets_is_a_new_session_at_once() {
    let mut state = State::default();
    for sequence in 0..3 {
        state.packet(NOW, NOW, sequence);
    }
    // Steps 3 before 4: sequence 0 has its bit set, and a greater time.
    assert_eq!(state.boot(NOW + 3600, NOW + 3600, 77), Step::NewSession);
    assert_eq!(state.packet(NOW + 3601, NOW + 3601, 1), Step::SameSession);
    assert_eq!(state.packet(NOW + 3601, NOW + 3601, 1), Step::BitSet);
}

#[test]
fn r4_a_packet_of_the_former_session_after_the_first_of_the_new_one_is_too_old() {
    let mut state = State::default();
    for sequence in 100..104 {
        state.packet(NOW, NOW, sequence);
    }
    assert_eq!(state.boot(NOW + 10, NOW + 10, 1), Step::NewSession);
    assert_eq!(state.packet(NOW + 10, NOW, 104), Step::TooOld);
}

#[test]
fn r4_reboot_in_the_same_second_is_pending_until_time_passes() {
    let mut state = State::default();
    for sequence in 0..200 {
        state.packet(NOW, NOW, sequence);
    }
    assert_eq!(state.boot(NOW, NOW, 999), Step::Unproven, "exempt from too old");
    assert_eq!(state.boot(NOW, NOW, 999), Step::ExactCopy);
    assert_eq!(state.arrive(NOW, NOW, 1, false, 998), Step::Pending);
    assert_eq!(state.arrive(NOW, NOW, 1, false, 998), Step::ExactCopy);
    assert_eq!(state.packet(NOW + 1, NOW + 1, 2), Step::NewSession);
    assert_eq!(state.packet(NOW + 1, NOW + 1, 3), Step::SameSession);
}

#[test]
fn r4_reboot_in_the_same_second_within_the_window_is_no_duplicate() {
    let mut state = State::default();
    assert_eq!(state.boot(NOW, NOW, 1), Step::NewSession);
    for sequence in 1..4 {
        state.packet(NOW, NOW, sequence);
    }
    assert_eq!(state.boot(NOW, NOW, 2), Step::Unproven);
    for sequence in 1..4 {
        assert_eq!(state.arrive(NOW, NOW, sequence, false, 900), Step::Pending);
    }
    assert_eq!(state.boot(NOW, NOW, 1), Step::ExactCopy, "the first boot again");
    assert_eq!(state.packet(NOW + 1, NOW + 1, 4), Step::NewSession);
}

#[test]
fn r4_a_copy_counts_nowhere_while_a_session_is_pending() {
    let mut state = State::default();
    state.boot(NOW, NOW, 899);
    for sequence in [1, 4] {
        state.packet(NOW, NOW, sequence);
    }
    assert_eq!(state.boot(NOW, NOW, 900), Step::Unproven);
    assert_eq!((state.packet(NOW, NOW, 2), state.packet(NOW, NOW, 2)), (Step::Late, Step::ExactCopy));
    // What continues the old session ends the pending one, so that the window tells again what is a copy.
    assert_eq!((state.packet(NOW, NOW, 5), state.packet(NOW, NOW, 5)), (Step::SameSession, Step::BitSet));
    assert_eq!((state.packet(NOW, NOW, 3), state.packet(NOW, NOW, 3)), (Step::Late, Step::BitSet));
    // However many follow, the boot itself stays known.
    for sequence in 6..40 {
        state.packet(NOW, NOW, sequence);
    }
    assert_eq!(state.boot(NOW, NOW, 900), Step::ExactCopy);
}

#[test]
fn r4_a_boot_is_exempt_from_too_old_once_however_it_counted() {
    let mut state = State::default();
    assert_eq!(state.boot(NOW, NOW, 1), Step::NewSession);
    for sequence in 1..200 {
        state.packet(NOW, NOW, sequence);
    }
    assert_eq!(state.boot(NOW + 1, NOW, 1), Step::ExactCopy, "its place in the window is long gone");
    assert_eq!(state.packet(NOW + 1, NOW, 1), Step::TooOld, "a copy opens no session for others");
    assert_eq!(state.boot(NOW + 1, NOW, 2), Step::Unproven, "another boot in the same second");
}

#[test]
fn r4_a_boot_is_late_only_if_the_running_session_can_be_its_own() {
    for (behind, step) in [(0, Step::Late), (5, Step::Late), (6, Step::Unproven)] {
        let mut state = State::default();
        for sequence in 20..=30 {
            state.packet(NOW, NOW, sequence);
        }
        assert_eq!(state.boot(NOW, NOW - behind, 1), step, "not seen, 30 behind, and {behind} s before the first");
        let copy = if step == Step::Late { Step::BitSet } else { Step::Pending };
        assert_eq!(state.packet(NOW, NOW, 20), copy, "only another boot opens a session");
    }
    let mut state = State::default();
    for sequence in 20..=30 {
        state.packet(NOW + u32::from(sequence), NOW + u32::from(sequence), sequence);
    }
    assert_eq!(state.boot(NOW + 30, NOW + 21, 1), Step::Unproven, "newer than the first of the session");
    assert_eq!(state.arrive(NOW + 30, NOW + 21, 19, false, 2), Step::Late);
    assert_eq!(state.arrive(NOW + 30, NOW + 21, 20, false, 3), Step::Pending, "the former boot had this one too");
}

#[test]
fn r4_a_pending_session_does_not_let_copies_of_the_running_one_count() {
    let mut state = State::default();
    for sequence in 300..400 {
        state.packet(NOW, NOW, sequence);
    }
    assert_eq!(state.packet(NOW + 5, NOW + 5, 400), Step::SameSession);
    assert_eq!(state.boot(NOW + 10, NOW + 5, 2), Step::Unproven);
    // Sequence 399 fits the pending session, but its time lies before the boot.
    assert_eq!(state.packet(NOW + 10, NOW, 399), Step::BitSet);
}

#[test]
fn r4_clock_set_back_100_s_in_an_hour_old_session_counts_and_recovers() {
    let mut state = State::default();
    state.packet(NOW, NOW, 1);
    state.packet(NOW + 3600, NOW + 3600, 2);
    for second in 0..95 {
        let now = NOW + 3601 + second;
        assert_eq!(state.packet(now, now - 101, 3 + second as u16), Step::Unproven, "{second}");
    }
    let now = NOW + 3601 + 95;
    assert_eq!(state.packet(now, now - 101, 98), Step::SameSession, "5 s behind the high-water mark");
}

#[test]
fn r4_clock_set_back_100_s_with_a_reboot_counts_and_recovers() {
    let mut state = State::default();
    for sequence in 0..100 {
        state.packet(NOW, NOW - 100 + u32::from(sequence), sequence);
    }
    let greatest = NOW - 1;
    assert_eq!(state.boot(NOW, NOW - 100, 5), Step::Unproven);
    for second in 1..=99 {
        let gps = NOW - 100 + second;
        let step = state.arrive(NOW + second, gps, second as u16, false, 10_000 + second);
        assert!(matches!(step, Step::Pending | Step::Late), "{second}: {step:?}");
        assert!(gps <= greatest);
    }
    assert_eq!(state.packet(NOW + 100, NOW, 101), Step::NewSession, "whatever the old session had come to");
}

#[test]
fn r4_a_boot_without_time_repeats_time_and_sequence_and_counts_each_time() {
    let mut state = State::default();
    for boot in 0..10 {
        let now = NOW + boot * 60;
        assert_eq!(state.boot(now, NO_TIME_START, boot), Step::Unproven);
        let first = state.arrive(now + 1, NO_TIME_START + 1, 1, false, 100 + boot);
        assert_eq!(first, Step::Pending);
        assert_eq!(state.arrive(now + 1, NO_TIME_START + 1, 1, false, 100 + boot), Step::ExactCopy);
    }
}

#[test]
fn r4_old_and_future_packets_count_once_each_and_only_upwards() {
    for (gps, label) in [(NOW - 100_000, "old"), (NOW + 100_000, "future")] {
        let mut state = State::default();
        for step in 1..40u16 {
            assert_eq!(state.packet(NOW, gps + u32::from(step), step), Step::Unproven, "{label}");
        }
        assert_eq!(state.packet(NOW, gps + 39, 39), Step::ExactCopy);
        assert_eq!(state.packet(NOW, gps + 1, 1), Step::TooOld, "forgotten, and below the high-water mark");
        assert_eq!(state.boot(NOW, gps, 3), Step::Unproven, "a boot is exempt");
        assert_eq!(state.arrive(NOW, gps, 1, false, 4), Step::Pending, "and so is what follows it");
    }
}

#[test]
fn r3_a_wrong_clock_never_raises_the_ordinary_mark() {
    let mut state = State::default();
    state.packet(NOW, NOW, 1);
    assert_eq!(state.packet(NOW, NOW + 100_000, 2), Step::Unproven);
    assert_eq!(state.greatest, NOW);
    assert_eq!(state.packet(NOW + 1, NOW + 1, 3), Step::SameSession);
}

#[test]
fn r4_a_recorded_future_packet_does_not_count_again_when_its_time_has_come() {
    let mut state = State::default();
    state.packet(NOW, NOW, 1);
    assert_eq!(state.packet(NOW, NOW + 1000, 2), Step::Unproven);
    assert_eq!(state.packet(NOW + 1000, NOW + 1000, 2), Step::ExactCopy);
}

#[test]
fn r4_a_pending_session_ends_after_420_s() {
    let mut state = State::default();
    state.packet(NOW, NOW, 200);
    state.boot(NOW, NOW - 200, 1);
    assert_eq!(state.packet(NOW + 80, NOW - 190, 1), Step::Pending);
    let mut state = State::default();
    state.boot(NOW, NOW - 100_000, 1);
    state.packet(NOW, NOW - 90_000, 2);
    assert_eq!(state.packet(NOW + 419, NOW - 99_000, 3), Step::Pending);
    assert_eq!(state.packet(NOW + 420, NOW - 98_000, 4), Step::TooOld);
}

#[test]
fn r4_an_absent_entropy_matches_any() {
    for (first, second) in [(None, Some(7)), (Some(7), None)] {
        let mut side = Side::default();
        let arrival = |entropy| Arrival {
            slot: Slot::Relayed,
            class: TimeClass::NoTime,
            gps_time: NO_TIME_START,
            sequence: 4,
            entropy,
            boot: false,
            answers: false,
            at: Timestamp::from_gps(NOW),
        };
        side.advance(Step::Unproven, &arrival(first));
        assert!(side.holds(&arrival(second)));
        assert!(!side.holds(&Arrival { slot: Slot::Direct, ..arrival(second) }), "the slots count apart");
    }
}

#[test]
fn r5_only_a_newest_packet_moves_a_route() {
    assert_eq!(route_change(None, false, false), RouteChange::First);
    assert_eq!(route_change(Some(true), false, false), RouteChange::Refreshed);
    assert_eq!(route_change(Some(false), true, true), RouteChange::Moved);
    assert_eq!(route_change(Some(false), false, true), RouteChange::Kept);
    assert_eq!(route_change(Some(false), true, false), RouteChange::Kept);
}
