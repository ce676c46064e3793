//! The side record of a device: exact memory of packets that are authentic and not proved, of boots, and of what counts
//! while a boot is not proved yet (rule R4).
//!
//! Bounded in number ([`super::bounded`]): forgetting one lets a recording of such a packet count once more, as unproven again,
//! so that it moves nothing. The exception is a packet from ahead of the gateway's
//! clock: once its time has come, a recording of it that nothing remembers looks like the start of a session.

use crate::clock::Timestamp;

use super::rules::{Arrival, FRESH_BEHIND, Slot, Step, TimeClass};

/// Packets remembered exactly for each device: what may be in flight at once around a reboot.
const REMEMBERED: usize = 16;
/// How long a boot may stay without a proved packet, in seconds: the widest gap between two clocks that both pass for
/// fresh, 120 + 300.
const PENDING_SECONDS: u64 = 420;
/// Sequences after the boot that belong to a pending session.
const PENDING_SEQUENCES: u16 = 1024;

/// Exact memory of those packets of one device that its windows do not tell from copies.
#[derive(Clone, Debug, Default)]
pub struct Side {
    recent: [Option<Seen>; REMEMBERED],
    next: usize,
    slots: [SideSlot; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    gps_time: u32,
    sequence: u16,
    entropy: Option<u16>,
    slot: Slot,
}

#[derive(Clone, Copy, Debug, Default)]
struct SideSlot {
    old_high: Option<(u32, u16)>,
    future_high: Option<(u32, u16)>,
    pending: Option<Pending>,
    /// The last boot, for as long as no other one follows: however many packets come, a copy of it opens nothing.
    boot: Option<Seen>,
}

/// A boot, or an answer, that no proved packet has followed yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    gps_time: u32,
    /// Fresh packets of its session are not before this: a device that boots without the right time learns it later.
    fresh_from: u32,
    sequence: u16,
    since: Timestamp,
}

impl Pending {
    /// Whether it may still be: not after so long, nor before it, once the clock was set back.
    const fn is_open(&self, now: Timestamp) -> bool {
        now.0.abs_diff(self.since.0) < PENDING_SECONDS * 1000
    }
}

impl Side {
    /// Whether this very packet is remembered.
    pub fn holds(&self, arrival: &Arrival) -> bool {
        let boots = self.slots.iter().filter_map(|slot| slot.boot.as_ref());
        self.recent.iter().flatten().chain(boots).any(|seen| {
            (seen.gps_time, seen.sequence, seen.slot) == (arrival.gps_time, arrival.sequence, arrival.slot)
                && seen.entropy.zip(arrival.entropy).is_none_or(|(seen, new)| seen == new)
        })
    }

    /// Whether the packet follows a boot or an answer that is not proved yet.
    pub fn is_pending(&self, arrival: &Arrival) -> bool {
        self.slots[arrival.slot as usize].pending.is_some_and(|pending| {
            let from = if arrival.class == TimeClass::Fresh { pending.fresh_from } else { pending.gps_time };
            pending.is_open(arrival.at)
                && arrival.gps_time >= from
                && (1..=PENDING_SEQUENCES).contains(&arrival.sequence.wrapping_sub(pending.sequence))
        })
    }

    /// Whether an old or future packet is above all before it of its class. Packets of the other classes have no such mark.
    pub fn is_above_high(&self, arrival: &Arrival) -> bool {
        let slot = &self.slots[arrival.slot as usize];
        let high = match arrival.class {
            TimeClass::Old => slot.old_high,
            TimeClass::Future => slot.future_high,
            TimeClass::Fresh | TimeClass::NoTime => None,
        };
        high.is_none_or(|high| (arrival.gps_time, arrival.sequence) > high)
    }

    /// Takes a packet in, as `step` decided.
    pub fn advance(&mut self, step: Step, arrival: &Arrival) {
        // What is over stays over, though the clock may be set back.
        for slot in &mut self.slots {
            slot.pending = slot.pending.filter(|pending| pending.is_open(arrival.at));
        }
        self.remember(step, arrival);
        // A late boot is that of the running session.
        let begins = arrival.boot && step == Step::Unproven;
        // What an answer says of its sender holds now, whatever the window has seen, and whether it counts or not.
        if begins || arrival.answers && !step.proved() {
            self.open_pending(arrival);
        }
    }

    fn remember(&mut self, step: Step, arrival: &Arrival) {
        // In the second of the boot no session can be told to be new: the old one goes on with what follows the boot. A
        // packet that is overtaken just then may pass for a copy of what the old one had in its place.
        if step == Step::NewSession || step == Step::SameSession && self.is_pending(arrival) {
            self.close_pending(arrival.slot);
        }
        // While a session is pending the window does not tell copies from new packets (step 4).
        let beside_window = step.counts() && self.is_pending(arrival);
        if !step.remembered(arrival.boot) && !beside_window {
            return;
        }
        let Arrival { gps_time, sequence, entropy, slot, .. } = *arrival;
        let seen = Some(Seen { gps_time, sequence, entropy, slot });
        self.recent[self.next] = seen;
        self.next = (self.next + 1) % REMEMBERED;
        let slot = &mut self.slots[slot as usize];
        if arrival.boot {
            slot.boot = seen;
        }
        match arrival.class {
            TimeClass::Old => slot.old_high = slot.old_high.max(Some((gps_time, sequence))),
            TimeClass::Future => slot.future_high = slot.future_high.max(Some((gps_time, sequence))),
            TimeClass::Fresh | TimeClass::NoTime => {}
        }
    }

    fn open_pending(&mut self, arrival: &Arrival) {
        let Arrival { gps_time, sequence, slot, .. } = *arrival;
        let fresh_from = if arrival.class == TimeClass::Fresh { gps_time } else { gps_time.max(arrival.at.gps()) };
        self.slots[slot as usize].pending = Some(Pending { gps_time, fresh_from, sequence, since: arrival.at });
    }

    /// Ends the pending session of `slot`.
    pub fn close_pending(&mut self, slot: Slot) {
        self.slots[slot as usize].pending = None;
    }

    /// Whether a fresh packet arriving from `now` on could meet anything here. Packets of other classes and boots
    /// always look.
    pub fn concerns_fresh(&self, now: Timestamp) -> bool {
        let fresh_from = now.gps().saturating_sub(FRESH_BEHIND);
        self.recent.iter().flatten().any(|seen| seen.gps_time >= fresh_from)
            || self.slots.iter().filter_map(|slot| slot.pending).any(|pending| pending.is_open(now))
    }
}
