//! Rule R6: who is asked whether a device is where a packet came from, how often, and what follows when nobody answers.
//!
//! Pure state of one device, made on demand and bounded in number ([`super::bounded`]): some 300 bytes for one whose route
//! moves. The cookie itself is made and checked elsewhere: here it is known only that a packet carries the right one. What the
//! table does with it is in `challenge.rs`.

use std::net::SocketAddr;

use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::wire::container::BtAddress;

use super::rules::{Arrival, Slot, TimeClass};

/// Challenges that are remembered for each device, and may be sent in [`ASKED_IN_MS`].
const ASKED: usize = 6;
const ASKED_IN_MS: u64 = 60_000;
/// Challenges beside those, to places that nobody can make up, that are remembered for each device: for three places in each
/// slot, those that may still be answered.
const ASKED_BESIDE: usize = 12;
/// From one challenge to the next at one place, and from one that counts as unanswered to the next. As long, a move may turn
/// out to be contested, and a contest lasts.
const APART_MS: u64 = 10_000;
/// How long an answer is waited for.
const ANSWER_MS: u64 = 20_000;
/// So many challenges without an answer let a packet from elsewhere move a route that has been silent.
const UNANSWERED: u8 = 3;

/// Where a route leads: what a challenge is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// To this address, in the form of [`super::route::canonical`].
    Direct(SocketAddr),
    /// Over a relay. Neither the relay's own address nor the signal strength belongs to it, nor the interface: a relay answers a
    /// device that it heard advertise over a connection, and hears it by that then.
    Relayed {
        /// The relay.
        relay: DeviceId,
        /// The device's Bluetooth address there.
        bt: Option<BtAddress>,
    },
}

impl Place {
    /// The slot of routes that lead there.
    pub const fn slot(&self) -> Slot {
        match self {
            Self::Direct(_) => Slot::Direct,
            Self::Relayed { .. } => Slot::Relayed,
        }
    }
}

/// Whom to challenge after a packet, before limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Challenges {
    /// Where the packet came from.
    pub source: bool,
    /// The other one of two places that a device seems to be at: [`super::RouteTable::contested_with`] tells which.
    pub other: bool,
}

/// What is known of a device whose packets come from more than one place, for whoever looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContestView {
    /// Places that were asked of late, the latest first, with when and whether the answer has come.
    pub asked: Vec<Asked>,
    /// Challenges that nobody has answered since the route moved or was proved last, per slot: direct, relayed.
    pub unanswered: [u8; 2],
    /// The two places that are in contest now.
    pub contested: Option<[Place; 2]>,
}

/// A challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where.
    pub place: Place,
    /// When.
    pub at: Timestamp,
    /// Whether the answer came from there.
    pub answered: bool,
}

/// What is remembered of the places of one device.
#[derive(Debug, Default)]
pub struct Contest {
    /// The last challenges, the latest at the end.
    asked: Vec<Question>,
    slots: [Option<Box<SlotContest>>; 2],
    /// A fresh answer came through the slot since the start.
    alive: [bool; 2],
}

#[derive(Clone, Copy, Debug)]
struct Question {
    place: Place,
    at: Timestamp,
    /// No place of the slot has answered since.
    is_open: bool,
    /// The packet that answered.
    answer: Option<Identity>,
    /// It is none of those that are limited in number.
    is_beside: bool,
}

#[derive(Debug, Default)]
struct SlotContest {
    unanswered: u8,
    /// When the last one counted as unanswered.
    counted_at: Option<Timestamp>,
    moved: Option<Move>,
    contested: Option<Contested>,
    /// Where the last packet came from that was no copy and yet might not move the route.
    proved: Option<Place>,
}

/// How the route came to lead where it does.
#[derive(Clone, Copy, Debug)]
struct Move {
    from: Option<Place>,
    to: Place,
    at: Timestamp,
    by: Identity,
}

#[derive(Clone, Copy, Debug)]
struct Contested {
    places: [Place; 2],
    /// When it showed last.
    at: Timestamp,
}

/// What tells a packet from every other one of its device and slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    gps_time: u32,
    sequence: u16,
    /// Absent from a packet that a relay decrypted: it matches any.
    entropy: Option<u16>,
}

impl Identity {
    const fn of(arrival: &Arrival) -> Self {
        Self { gps_time: arrival.gps_time, sequence: arrival.sequence, entropy: arrival.entropy }
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.gps_time, self.sequence) == (other.gps_time, other.sequence)
            && self.entropy.zip(other.entropy).is_none_or(|(one, other)| one == other)
    }
}

/// The clock may have been set back in between: what lies ahead is as far away as what lies behind.
const fn is_within(one: Timestamp, other: Timestamp, span_ms: u64) -> bool {
    one.0.abs_diff(other.0) <= span_ms
}

impl Contest {
    /// Rule R6, limits: whether `place` may be asked. It is asked then, which counts as unanswered until an answer comes, unless
    /// the device's route leads there (`is_present`): what is not answered there says nothing of any other place. The number of
    /// challenges is limited only for places that whoever sends copies can choose: there may be so many that the device itself
    /// would be asked no more.
    pub fn ask(&mut self, place: &Place, is_present: bool, at: Timestamp) -> bool {
        let is_recent = |asked: &&Question, span_ms| asked.at.0.abs_diff(at.0) < span_ms;
        let is_asked = self.asked.iter().any(|asked| asked.place == *place && is_recent(&asked, APART_MS));
        let is_beside = is_present || self.is_known(place);
        let alike = || self.asked.iter().filter(|asked| asked.is_beside == is_beside);
        let is_full = !is_beside && alike().filter(|asked| is_recent(asked, ASKED_IN_MS)).count() >= ASKED;
        if is_asked || is_full {
            return false;
        }
        if alike().count() == if is_beside { ASKED_BESIDE } else { ASKED } {
            let oldest = self.asked.iter().position(|asked| asked.is_beside == is_beside);
            oldest.map(|oldest| self.asked.remove(oldest));
        }
        self.asked.push(Question { place: *place, at, is_open: true, answer: None, is_beside });
        if !is_present {
            self.leave_unanswered(place.slot(), at);
        }
        true
    }

    /// Whether the route of the slot led there before its last move, or the last packet that was no copy and might not move it
    /// came from there.
    fn is_known(&self, place: &Place) -> bool {
        self.slots[place.slot() as usize].as_ref().is_some_and(|slot| {
            let before = slot.moved.and_then(|moved| moved.from);
            [before, slot.proved].contains(&Some(*place))
        })
    }

    /// A packet that is no copy came from `place`, and might not move the route.
    pub fn proved_at(&mut self, place: &Place) {
        self.slot(place.slot()).proved = Some(*place);
    }

    /// Whether a packet with the right cookie that came from `place` answers: it is waited for there, and answers nothing for
    /// the second time. The first answer of a slot decides.
    pub fn is_answered_by(&self, place: &Place, arrival: &Arrival) -> bool {
        let packet = Identity::of(arrival);
        let is_open = |asked: &Question| asked.is_open && is_within(asked.at, arrival.at, ANSWER_MS);
        self.asked.iter().rfind(|asked| asked.place == *place).is_some_and(is_open)
            && !self.asked.iter().filter_map(|asked| asked.answer).any(|answer| answer.is_same(&packet))
    }

    /// A packet answers from `place`. Ends whatever is open in its slot.
    pub fn answer(&mut self, place: &Place, arrival: &Arrival) {
        let slot = place.slot();
        self.alive[slot as usize] |= arrival.class == TimeClass::Fresh;
        for asked in self.asked.iter_mut().filter(|asked| asked.place.slot() == slot) {
            asked.is_open = false;
        }
        if let Some(asked) = self.asked.iter_mut().rfind(|asked| asked.place == *place) {
            asked.answer = Some(Identity::of(arrival));
        }
        if let Some(slot) = &mut self.slots[slot as usize] {
            slot.unanswered = 0;
            slot.contested = None;
        }
    }

    /// Whether a fresh answer came through a slot since the start.
    pub fn is_alive(&self, slot: Slot) -> bool {
        self.alive[slot as usize]
    }

    /// A challenge nobody answers: one that was sent, or one that could not be heard.
    pub fn leave_unanswered(&mut self, slot: Slot, at: Timestamp) {
        let slot = self.slot(slot);
        if slot.counted_at.is_none_or(|last| last.0.abs_diff(at.0) >= APART_MS) {
            slot.unanswered = slot.unanswered.saturating_add(1);
            slot.counted_at = Some(at);
        }
    }

    /// Whether so many challenges were not answered that a packet from elsewhere may move a silent route.
    pub fn lets_move(&self, slot: Slot, at: Timestamp) -> bool {
        self.slots[slot as usize].as_ref().is_some_and(|slot| {
            slot.unanswered >= UNANSWERED && slot.counted_at.is_some_and(|last| last.0.abs_diff(at.0) >= APART_MS)
        })
    }

    /// A packet moved the route, or set the first one. Back to where it came from just now makes it contested.
    pub fn moved(&mut self, from: Option<Place>, to: Place, arrival: &Arrival) {
        let at = arrival.at;
        let slot = self.slot(to.slot());
        let is_back = |last: &Move| last.from == Some(to) && Some(last.to) == from && is_within(last.at, at, APART_MS);
        if let Some(last) = slot.moved.filter(is_back) {
            slot.contested = Some(Contested { places: [last.to, to], at });
        }
        slot.moved = Some(Move { from, to, at, by: Identity::of(arrival) });
        slot.unanswered = 0;
    }

    /// A copy that counts nowhere came from `place`: if it is one of the packet that moved the route just now, to elsewhere, the
    /// two places are in contest.
    pub fn copied(&mut self, place: &Place, arrival: &Arrival) {
        let Some(slot) = &mut self.slots[place.slot() as usize] else { return };
        let packet = Identity::of(arrival);
        let moved = slot.moved.filter(|moved| moved.to != *place && is_within(moved.at, arrival.at, APART_MS));
        if let Some(moved) = moved.filter(|moved| moved.by.is_same(&packet)) {
            slot.contested = Some(Contested { places: [moved.to, *place], at: arrival.at });
        }
    }

    /// The place that `place` is in contest with.
    pub fn contested_with(&self, place: &Place, now: Timestamp) -> Option<Place> {
        let [one, other] = self.contested(place.slot(), now)?;
        match place {
            _ if *place == one => Some(other),
            _ if *place == other => Some(one),
            _ => None,
        }
    }

    /// Whether any two places are in contest still, at the moment of a packet. What is over then stays over, though the clock may
    /// be set back.
    pub fn stays_contested(&mut self, at: Timestamp) -> bool {
        let slots = self.slots.iter_mut().flatten();
        for slot in slots {
            slot.contested = slot.contested.filter(|contested| is_within(contested.at, at, APART_MS));
        }
        self.any_contested(at).is_some()
    }

    /// What there is to see.
    pub fn view(&self, now: Timestamp) -> ContestView {
        let asked = self.asked.iter().rev();
        ContestView {
            asked: asked
                .map(|asked| Asked { place: asked.place, at: asked.at, answered: asked.answer.is_some() })
                .collect(),
            unanswered: self.slots.each_ref().map(|slot| slot.as_ref().map_or(0, |slot| slot.unanswered)),
            contested: self.any_contested(now),
        }
    }

    fn any_contested(&self, now: Timestamp) -> Option<[Place; 2]> {
        [Slot::Direct, Slot::Relayed].into_iter().find_map(|slot| self.contested(slot, now))
    }

    fn contested(&self, slot: Slot, now: Timestamp) -> Option<[Place; 2]> {
        let contested = self.slots[slot as usize].as_ref()?.contested?;
        is_within(contested.at, now, APART_MS).then_some(contested.places)
    }

    fn slot(&mut self, slot: Slot) -> &mut SlotContest {
        self.slots[slot as usize].get_or_insert_default()
    }
}
