//! The acceptance rules R3 to R5: a pure state machine over (record, packet, now).
//!
//! [`judge`] names the step that decides a packet, [`Session::advance`] and [`Side`] carry out what follows,
//! [`route_change`] says what becomes of the route. No clock, no lock. README.md explains them, "How it decides".

use crate::clock::Timestamp;

use super::kept::KeptSession;
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
    /// It answers a challenge: it is not too old, however old it is.
    pub answers: bool,
    /// When it arrived.
    pub at: Timestamp,
}

impl Arrival {
    const fn is_exempt(&self) -> bool {
        self.boot || self.answers
    }

    /// The time that others are measured against from now on, if it is one: that of a proved packet, or of a fresh answer.
    pub(super) fn measure(&self, step: Step) -> Option<u32> {
        let measures = step.proved() || self.answers && self.class == TimeClass::Fresh;
        measures.then_some(self.gps_time)
    }
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

    /// A number for each step by which packets count, below 8.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::SameSession => 0,
            Self::NewSession => 1,
            Self::Late => 2,
            Self::Pending => 3,
            Self::Unproven | Self::ExactCopy | Self::BitSet | Self::TooOld => 4,
        }
    }

    /// The step with this number.
    pub(super) const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::SameSession,
            1 => Self::NewSession,
            2 => Self::Late,
            3 => Self::Pending,
            _ => Self::Unproven,
        }
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
    /// What of it is kept: `None` before its first packet.
    pub(super) fn keep(&self) -> Option<KeptSession> {
        let Self { high_gps, first_gps, high_sequence, .. } = *self;
        self.is_open().then_some(KeptSession { high_gps, first_gps, high_sequence })
    }

    /// A session that was kept. Nobody knows any more what was seen of its window: all of it, so that nothing counts twice.
    pub(super) fn restored(kept: Option<KeptSession>) -> Self {
        kept.map_or_else(Self::default, |KeptSession { high_gps, first_gps, high_sequence }| Self {
            window: u64::MAX,
            high_gps,
            first_gps,
            high_sequence,
        })
    }

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
#[inline]
pub fn judge(session: &Session, greatest: u32, side: Option<&Side>, arrival: &Arrival) -> Step {
    if side.is_some_and(|side| side.holds(arrival)) {
        return Step::ExactCopy;
    }
    let pending = side.is_some_and(|side| side.is_pending(arrival));
    if arrival.class == TimeClass::Fresh {
        judge_fresh(session, greatest, pending, arrival)
    } else if pending {
        Step::Pending
    } else if !arrival.is_exempt() && side.is_some_and(|side| !side.is_above_high(arrival)) {
        Step::TooOld
    } else {
        Step::Unproven
    }
}

#[inline]
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
    // Where what it is measured against lies ahead, the clock was set back since, and nobody knows what is old or a copy.
    let is_set_back = session.high_gps.max(greatest) > arrival.at.gps().saturating_add(FRESH_AHEAD);
    if recent {
        let seen = session.window >> distance.unsigned_abs() & 1 == 1;
        // A boot is remembered exactly, so this one is no copy: its session starts where the old one did, in the same
        // second. A packet that fits a pending session may be the new boot's, whatever the old one had in its place.
        if seen && !pending && !arrival.boot && !is_set_back {
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
    let too_old = !is_set_back && (gps_time < session.first_gps || !(ahead || recent));
    if too_old && !arrival.is_exempt() { Step::TooOld } else { Step::Unproven }
}

/// Rule R5: what a counted packet does to the route of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// There was none: the first packet sets it, whatever its class.
    First,
    /// From the current address.
    Refreshed,
    /// From another address, newer than everything before; or an answer; or nobody answers any more (rule R6).
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
