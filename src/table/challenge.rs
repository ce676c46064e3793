//! Rule R6 in the table: which packets have their sender challenged, and what an answer does. Under the lock of the record; the
//! contests are locked inside it, and only for packets that have to do with them: the ordinary one, from where the device is,
//! does not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::contest::{Challenges, ContestView, Place};
use super::record::{Record, Routed};
use super::route::{Answered, Refused};
use super::rules::{Arrival, RouteChange, Step, TimeClass, route_change};
use super::sending::Release;
use super::{Packet, RouteTable};
use crate::clock::Timestamp;
use crate::id::DeviceId;

/// How long a route must have been silent for a packet from elsewhere to move it without an answer.
const SILENT: Duration = Duration::from_secs(3600);
/// The same for one that was never proved itself.
const SILENT_UNPROVED: Duration = Duration::from_secs(60);

impl RouteTable {
    /// Takes a place in the limits of rule R6: whether a device may be asked at `place` now. At most once in 10 s for each
    /// place, and six times in 60 s for each device at all places together but where its routes lead, where they led before their
    /// last moves, and where the last packet of the slot came from that was no copy and moved nothing. Never one without a
    /// record. To be called just before the challenge is sealed:
    /// what is asked here counts as asked and, unless the route of the slot leads there, as unanswered.
    pub fn may_ask(&self, id: DeviceId, place: &Place, at: Timestamp) -> bool {
        let mut place_of_record = self.records.lock(id);
        let Some(record) = place_of_record.find_mut() else { return false };
        let is_present = record.place(place.slot()).as_ref() == Some(place);
        let may = self.contests.lock().make(id).ask(place, is_present, at);
        if may && is_present {
            record.speak_to();
        }
        may
    }

    /// The other of the two places that are in contest for a device now, if `place` is one of them: where
    /// [`Challenges::other`] goes.
    pub fn contested_with(&self, id: DeviceId, place: &Place, now: Timestamp) -> Option<Place> {
        self.contests.lock().find(id)?.contested_with(place, now)
    }

    /// What is known of the places of a device; `None`: nothing that is remembered.
    pub fn contest(&self, id: DeviceId, now: Timestamp) -> Option<ContestView> {
        self.contests.lock().find(id).map(|contest| contest.view(now))
    }

    /// Whether a packet answers a challenge.
    pub(super) fn is_answer(&self, packet: &Packet<'_>, arrival: &Arrival) -> bool {
        packet.answers
            && self
                .contests
                .lock()
                .find(packet.device_id())
                .is_some_and(|contest| contest.is_answered_by(&packet.path.place(), arrival))
    }

    /// Whether a packet cannot be a replay: neither of what the table knows, nor of what an unclean stop has made it forget.
    pub(super) fn proves(&self, step: Step, gps_time: u32) -> bool {
        step.proved() && gps_time > self.floor.load(Ordering::Relaxed)
    }

    /// Whether a packet below the floor proves enough for what goes back to where the route leads: its device has answered since
    /// the start, from wherever, and it is no older than all before. `greatest`: the greatest time before it.
    pub(super) fn is_alive(&self, id: DeviceId, step: Step, arrival: &Arrival, greatest: u32) -> bool {
        step.proved()
            && arrival.gps_time >= greatest
            && self.contests.lock().find(id).is_some_and(|contest| contest.is_alive(arrival.slot))
    }

    /// Rules R5 and R6: what a counted packet does to the route of its slot. `newest`: it proves, and is newer than every packet
    /// before.
    pub(super) fn change(
        &self,
        record: &Record,
        packet: &Packet<'_>,
        arrival: &Arrival,
        step: Step,
        newest: bool,
    ) -> RouteChange {
        let change = route_change(record.leads_to(packet.path), newest, packet.may_move);
        let may_move_still = || arrival.answers || step != Step::Late && self.lets_move(record, packet, arrival, step);
        if change == RouteChange::Kept && may_move_still() { RouteChange::Moved } else { change }
    }

    /// Whether nobody answers, and nothing comes from where the route leads. What may be a recording waits as long for a route that
    /// new packets keep up, though they may move none, as for a proved one: it must not be let in between two of them.
    // By itself: packets from where the device is pay for none of it.
    #[inline(never)]
    fn lets_move(&self, record: &Record, packet: &Packet<'_>, arrival: &Arrival, step: Step) -> bool {
        let may_be_recorded = !self.proves(step, arrival.gps_time);
        let holds_long =
            record.is_route_proved(arrival.slot) || may_be_recorded && record.is_route_borne_out(arrival.slot);
        let silent = if holds_long { SILENT } else { SILENT_UNPROVED };
        let set_at = record.route_at(arrival.slot);
        // Of a route that was set in the future, before the clock was set back, nobody knows how silent it is.
        set_at.after(silent) <= arrival.at
            && self
                .contests
                .lock()
                .find(packet.device_id())
                .is_some_and(|contest| contest.lets_move(arrival.slot, arrival.at))
    }

    /// Takes in what a counted packet did: whom to challenge. `proves`: it is no copy. `from`: where the route
    /// led before, if the packet set it.
    pub(super) fn settle_places(
        &self,
        record: &mut Record,
        packet: &Packet<'_>,
        arrival: &Arrival,
        (proves, change): (bool, RouteChange),
        from: Option<Place>,
    ) -> Challenges {
        let is_set = matches!(change, RouteChange::First | RouteChange::Moved);
        let is_deaf = packet.is_deaf();
        let is_forbidden = change == RouteChange::Kept;
        let needs_time =
            !is_forbidden && arrival.class == TimeClass::NoTime && !packet.asks() && !record.is_spoken_to();
        let source = (is_forbidden || needs_time) && !is_deaf;
        if !(is_set || arrival.answers || is_forbidden && (proves || is_deaf) || record.is_contested()) {
            return Challenges { source, other: false };
        }
        let mut contests = self.contests.lock();
        let contest = contests.make(packet.device_id());
        let place = packet.path.place();
        if is_set {
            contest.moved(from, place, arrival);
        }
        if arrival.answers {
            contest.answer(&place, arrival);
        }
        if is_forbidden && proves {
            contest.proved_at(&place);
        }
        if is_forbidden && is_deaf {
            contest.leave_unanswered(arrival.slot, arrival.at);
        }
        record.set_contested(contest.stays_contested(arrival.at));
        let other = contest.contested_with(&place, arrival.at).is_some();
        Challenges { source: source || other && !is_deaf, other }
    }

    /// A packet that does not count: its answer does, and so does what a copy of it shows.
    pub(super) fn refuse(&self, record: &mut Record, packet: &Packet<'_>, arrival: &Arrival, step: Step) -> Refused {
        if arrival.answers {
            let answered = Some(self.answer_uncounted(record, packet, arrival, step));
            return Refused { answered, ..step.into() };
        }
        let is_elsewhere = || record.leads_to(packet.path) == Some(false);
        if step == Step::TooOld || !(record.is_contested() || is_elsewhere()) {
            return step.into();
        }
        let mut contests = self.contests.lock();
        let Some(contest) = contests.find(packet.device_id()) else {
            record.set_contested(false);
            return step.into();
        };
        let place = packet.path.place();
        contest.copied(&place, arrival);
        record.set_contested(contest.stays_contested(arrival.at));
        let other = contest.contested_with(&place, arrival.at).is_some();
        Refused { challenges: Challenges { source: other && !packet.is_deaf(), other }, ..step.into() }
    }

    /// An answer that does not count, since a copy of it did: the original moves the route all the same.
    fn answer_uncounted(&self, record: &mut Record, packet: &Packet<'_>, arrival: &Arrival, step: Step) -> Answered {
        record.advance(step, arrival);
        let change = self.change(record, packet, arrival, step, false);
        let from = record.place(arrival.slot);
        let Routed { moved_from, .. } = record.answer(&packet.counting(arrival, step, false, change));
        self.settle_places(record, packet, arrival, (false, change), from);
        let release = Release::of_answer(arrival.slot, record.is_heard_directly(arrival.at));
        let expects = release == Release::Yes && record.expects();
        if expects {
            record.expect(false);
        }
        Answered { moved_from, expects }
    }
}
