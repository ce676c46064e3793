//! The acceptance rules R3 to R5: a pure state machine over (record, packet, now).
//!
//! [`judge`] names the step that decides a packet, [`Session::advance`] and [`Side`] carry out what follows,
//! [`route_change`] says what becomes of the route. No clock, no lock. README.md explains them, "How it decides".

use crate::clock::Timestamp;

use super::side::Side;

/// A packet whose time lies at most this far ahead of the gateway's is still fresh, in seconds.
pub const FRESH_AHEAD: u32 = 120;
/// A packet whose time lies at most this far behind the gateway's is still fresh, in seconds.
pub const FRESH_BEHIND: u32 = 300;
/// GPS time at which a device without a clock starts to count: 2020-01-01T00:00:00Z.
pub const NO_TIME_START: u32 = 1_261_872_018;
/// Seconds after [`NO_TIME_START`] in which a device is taken for one without a clock: 366 days.
const NO_TIME_SPAN: u32 = 31_622_400;
/// Sequence numbers a session may skip: more than that is a new session.
const MAX_SKIP: i16 = 1024;
/// How far back the window reaches.
const WINDOW: i16 = 63;
/// Backward step of a device's clock that a session survives, in seconds.
const SMALL_STEP: u32 = 5;
/// A late packet older than this against the newest of its session may be a recording from before a wrap of the
/// sequence: 65 536 packets take this long at 546 packets a second.
const MAX_LATE: u32 = 120;

/// Rule R3: what the time of a packet says, against the gateway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeClass {
    /// Between 120 s ahead and 300 s behind.
    Fresh,
    /// The sender has no time yet: it counts up from 2020-01-01, or says 0.
    NoTime,
    /// Behind, and not without time.
    Old,
    /// Ahead.
    Future,
}

impl TimeClass {
    /// Classifies `gps_time` at the gateway's `now`, both in GPS seconds.
    pub const fn of(gps_time: u32, now: u32) -> Self {
        if gps_time <= now && now - gps_time <= FRESH_BEHIND || gps_time > now && gps_time - now <= FRESH_AHEAD {
            Self::Fresh
        } else if gps_time == 0 || gps_time >= NO_TIME_START && gps_time - NO_TIME_START < NO_TIME_SPAN {
            Self::NoTime
        } else if gps_time > now {
            Self::Future
        } else {
            Self::Old
        }
    }

    /// The name in every text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::NoTime => "noTime",
            Self::Old => "old",
            Self::Future => "future",
        }
    }
}

/// The two places a route is kept, each with its own session: a device counts UDP and Bluetooth packets apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The device's own UDP packets.
    Direct,
    /// Packets passed on by a relay.
    Relayed,
}

/// What the rules know of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Where it came in.
    pub slot: Slot,
    /// Its time class at the moment of arrival.
    pub class: TimeClass,
    /// Its time.
    pub gps_time: u32,
    /// Its sequence.
    pub sequence: u16,
    /// Its entropy; a relay that decrypts a packet loses it, and an absent one matches any.
    pub entropy: Option<u16>,
    /// A KEY_IDS packet with sequence 0: the sender has just booted.
    pub boot: bool,
    /// When it arrived.
    pub at: Timestamp,
}

/// The step of rule R4 that decided a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Remembered exactly: a duplicate.
    ExactCopy,
    /// The next of its session: proved.
    SameSession,
    /// Newer than everything, with a sequence of its own: proved, the first of a session.
    NewSession,
    /// Its place in the window is taken: a duplicate.
    BitSet,
    /// Behind the newest of its session, and not seen before: counts, and moves nothing.
    Late,
    /// Follows a boot whose session is not proved yet: unproven.
    Pending,
    /// Cannot be told from a replay.
    TooOld,
    /// Everything else authentic: counts once, and moves nothing by itself.
    Unproven,
}

impl Step {
    /// Whether the packet counts.
    pub const fn counts(self) -> bool {
        !matches!(self, Self::ExactCopy | Self::BitSet | Self::TooOld)
    }

    /// Whether the packet cannot be a replay, so may move a route.
    pub const fn proved(self) -> bool {
        matches!(self, Self::SameSession | Self::NewSession)
    }

    /// Whether the packet has to be remembered exactly: the unproven ones, and every boot that counts, since boots are
    /// exempt from [`Self::TooOld`], once.
    pub const fn remembered(self, boot: bool) -> bool {
        matches!(self, Self::Pending | Self::Unproven) || boot && self.counts()
    }

    /// The name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExactCopy => "R4.1 exact copy",
            Self::SameSession => "R4.2 same session",
            Self::NewSession => "R4.3 new session",
            Self::BitSet => "R4.4 bit set",
            Self::Late => "R4.5 late",
            Self::Pending => "R4.6 pending session",
            Self::TooOld => "R4.7 too old",
            Self::Unproven => "R4.8 unproven",
        }
    }
}

/// The session of one slot: its high-water mark, where it began, and which of the last 64 sequences were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(Rust, packed(2))] // Records are many, and have a use for what would be padding.
pub struct Session {
    /// Bit k: sequence `high_sequence - k` was seen. 0: no session yet.
    window: u64,
    high_gps: u32,
    first_gps: u32,
    high_sequence: u16,
}

impl Session {
    fn is_open(&self) -> bool {
        self.window != 0
    }

    fn distance(&self, sequence: u16) -> i16 {
        sequence.wrapping_sub(self.high_sequence).cast_signed()
    }

    /// Takes a packet in, as `step` decided.
    pub fn advance(&mut self, step: Step, arrival: &Arrival) {
        let distance = self.distance(arrival.sequence);
        match step {
            Step::SameSession => {
                self.window = self.window.checked_shl(u32::from(distance.unsigned_abs())).unwrap_or(0) | 1;
                self.high_sequence = arrival.sequence;
                self.high_gps = self.high_gps.max(arrival.gps_time);
            }
            Step::NewSession => {
                *self = Self {
                    window: 1,
                    high_gps: arrival.gps_time,
                    first_gps: arrival.gps_time,
                    high_sequence: arrival.sequence,
                };
            }
            Step::Late => self.window |= 1 << distance.unsigned_abs(),
            _ => {}
        }
    }
}

/// Rule R4: decides a packet. `greatest` is the greatest fresh GPS time of the device, 0 before any.
pub fn judge(session: &Session, greatest: u32, side: Option<&Side>, arrival: &Arrival) -> Step {
    if side.is_some_and(|side| side.holds(arrival)) {
        return Step::ExactCopy;
    }
    let pending = side.is_some_and(|side| side.is_pending(arrival));
    if arrival.class == TimeClass::Fresh {
        judge_fresh(session, greatest, pending, arrival)
    } else if pending {
        Step::Pending
    } else if !arrival.boot && side.is_some_and(|side| !side.is_above_high(arrival)) {
        Step::TooOld
    } else {
        Step::Unproven
    }
}

fn judge_fresh(session: &Session, greatest: u32, pending: bool, arrival: &Arrival) -> Step {
    let gps_time = arrival.gps_time;
    if !session.is_open() {
        return if gps_time > greatest { Step::NewSession } else { Step::Unproven };
    }
    let distance = session.distance(arrival.sequence);
    let ahead = (1..=MAX_SKIP).contains(&distance);
    let recent = (-WINDOW..=0).contains(&distance);
    let not_before = |seconds| session.first_gps.max(session.high_gps.saturating_sub(seconds));
    // What follows a boot and is newer than everything begins the session of that boot, however far the old one had come.
    if gps_time > greatest && (pending || !ahead) {
        return Step::NewSession;
    }
    if ahead && gps_time >= not_before(SMALL_STEP) {
        return Step::SameSession;
    }
    if recent {
        let seen = session.window >> distance.unsigned_abs() & 1 == 1;
        // A boot is remembered exactly, so this one is no copy: its session starts where the old one did, in the same
        // second. A packet that fits a pending session may be the new boot's, whatever the old one had in its place.
        if seen && !pending && !arrival.boot {
            return Step::BitSet;
        }
        // The boot of this very session, overtaken, is no newer than the first packet of it. A newer boot is another one.
        let in_time = if arrival.boot {
            session.first_gps.saturating_sub(SMALL_STEP)..=session.first_gps
        } else {
            not_before(MAX_LATE)..=u32::MAX
        };
        if !seen && in_time.contains(&gps_time) {
            return Step::Late;
        }
    }
    if pending {
        return Step::Pending;
    }
    let too_old = gps_time < session.first_gps || !(ahead || recent);
    if too_old && !arrival.boot { Step::TooOld } else { Step::Unproven }
}

/// Rule R5: what a counted packet does to the route of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// There was none: the first packet sets it, whatever its class.
    First,
    /// From the current address.
    Refreshed,
    /// From another address, newer than everything before.
    Moved,
    /// From another address, and not entitled to move it.
    Kept,
}

impl RouteChange {
    /// The name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Refreshed => "refreshed",
            Self::Moved => "moved",
            Self::Kept => "kept",
        }
    }
}

/// Rule R5. `same_address`: `None` without a route. `newest`: proved, and newer than every packet before.
/// `may_move`: false where the route policy forbids it.
pub const fn route_change(same_address: Option<bool>, newest: bool, may_move: bool) -> RouteChange {
    match same_address {
        None => RouteChange::First,
        Some(true) => RouteChange::Refreshed,
        Some(false) if newest && may_move => RouteChange::Moved,
        Some(false) => RouteChange::Kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
