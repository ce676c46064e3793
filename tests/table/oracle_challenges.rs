//! Rule R6 by the oracle: who is asked, who may answer, and what follows when nobody does. All of it is forgotten when the
//! gateway stops.

use std::collections::HashMap;

use lastroute::clock::Timestamp;
use lastroute::table::contest::{Challenges, Place};
use lastroute::table::rules::{RouteChange, Step, TimeClass};

use super::Sent;
use super::oracle::{Event, History, Taken};

/// Two places a device seems to be at, since this moment.
#[derive(Clone, Copy, Debug)]
struct Contest {
    pair: [Place; 2],
    at: Timestamp,
}

/// A route that was set: by which packet, and where it led before.
#[derive(Clone, Copy, Debug)]
struct Set {
    by: Taken,
    from: Option<Place>,
}

pub(super) fn is_direct(place: &Place) -> bool {
    matches!(place, Place::Direct(_))
}

fn within(one: Timestamp, other: Timestamp, ms: u64) -> bool {
    one.0.abs_diff(other.0) <= ms
}

impl History {
    /// The last six challenges that are limited in number, and the last twelve others: more are not remembered.
    fn asked(&self) -> impl DoubleEndedIterator<Item = (usize, &Place, Timestamp)> {
        let mut asked: Vec<_> = [(false, 6), (true, 12)]
            .into_iter()
            .flat_map(|(is_beside, most)| {
                let asked = self.remembered().iter().enumerate().filter_map(move |(index, event)| match event {
                    Event::Asked { place, at, is_beside: is } if *is == is_beside => Some((index, place, *at)),
                    _ => None,
                });
                asked.rev().take(most)
            })
            .collect();
        asked.sort_unstable_by_key(|(index, ..)| *index);
        asked.into_iter()
    }

    /// R6f: whether `place` may be asked. It is then.
    pub(super) fn may_ask(&mut self, place: &Place, now: Timestamp) -> bool {
        let is_recent = |at: Timestamp, ms| at.0.abs_diff(now.0) < ms;
        let is_asked = self.asked().any(|(_, asked, at)| asked == place && is_recent(at, 10_000));
        let is_beside = self.is_beside_limit(place);
        let limited = self.remembered().iter().filter_map(|event| match event {
            Event::Asked { at, is_beside: false, .. } => Some(*at),
            _ => None,
        });
        let limited = limited.rev().take(6).filter(|at| is_recent(*at, 60_000));
        let may = !is_asked && (is_beside || limited.count() < 6);
        if may {
            self.events.push(Event::Asked { place: *place, at: now, is_beside });
        }
        may
    }

    /// Places that no copies lead to: where the route leads, where it led before, and where what is no copy came from.
    fn is_beside_limit(&self, place: &Place) -> bool {
        let direct = is_direct(place);
        let restarted = self.events.len() - self.remembered().len();
        let (mut present, mut before, mut proved) = (None, None, None);
        for (index, event) in self.events.iter().enumerate() {
            let Event::Packet(one) = event else { continue };
            if one.sent.is_direct() != direct {
                continue;
            }
            if matches!(one.change, RouteChange::First | RouteChange::Moved) {
                before = present.filter(|_| index >= restarted);
                present = Some(one.sent.place());
            } else if one.change == RouteChange::Kept && one.proves && index >= restarted {
                proved = Some(one.sent.place());
            }
        }
        [present, before, proved].contains(&Some(*place))
    }

    /// R6e: whether this packet is the answer that is waited for: its place was asked at most 20 s ago, and no place of its slot
    /// has answered since. Nor has it answered before: then it is a recording.
    pub(super) fn is_awaited(&self, sent: &Sent, now: Timestamp) -> bool {
        let place = sent.place();
        let asked = self.asked().rfind(|(_, asked, _)| **asked == place);
        asked.is_some_and(|(index, _, at)| {
            let mut since = self.answers_since(index);
            within(at, now, 20_000) && !since.any(|one| one.sent.is_direct() == sent.is_direct())
        }) && !self
            .asked()
            .any(|(index, asked, _)| self.answer_to(index, asked).is_some_and(|one| is_copy(&one.sent, sent)))
    }

    /// The answers after an event.
    pub(super) fn answers_since(&self, index: usize) -> impl Iterator<Item = &Taken> {
        self.remembered()[index..].iter().filter_map(|event| match event {
            Event::Packet(one) if one.answered => Some(one),
            _ => None,
        })
    }

    /// The answer to the challenge that was sent to `place` at this event.
    fn answer_to(&self, index: usize, place: &Place) -> Option<&Taken> {
        let is_asked_again = |event: &Event| matches!(event, Event::Asked { place: asked, .. } if asked == place);
        let again = self.remembered()[index + 1..].iter().position(is_asked_again);
        let until = again.map_or(self.remembered().len(), |again| index + 1 + again);
        self.remembered()[index..until].iter().find_map(|event| match event {
            Event::Packet(one) if one.answered && one.sent.place() == *place => Some(one),
            _ => None,
        })
    }

    /// R6a: the challenges of a slot that nobody answered, to where its route does not lead, and when the last was counted.
    pub(super) fn unanswered(&self, direct: bool) -> (usize, Option<Timestamp>) {
        let (mut count, mut last, mut present) = (0, None::<Timestamp>, None);
        for event in &self.events {
            let at = match event {
                Event::Restarted => {
                    (count, last) = (0, None);
                    continue;
                }
                Event::Packet(one) if one.sent.is_direct() == direct => {
                    if matches!(one.change, RouteChange::First | RouteChange::Moved) {
                        present = Some(one.sent.place());
                    }
                    if one.answered || matches!(one.change, RouteChange::First | RouteChange::Moved) {
                        count = 0;
                    }
                    let is_forbidden = one.counts() && one.change == RouteChange::Kept;
                    if !is_forbidden || !one.sent.is_deaf() {
                        continue;
                    }
                    one.at
                }
                Event::Asked { place, at, .. } if is_direct(place) == direct && present != Some(*place) => *at,
                _ => continue,
            };
            if last.is_none_or(|last| last.0.abs_diff(at.0) >= 10_000) {
                count += 1;
                last = Some(at);
            }
        }
        (count, last)
    }

    /// R6b: whether a packet from elsewhere moves the route because nobody answers.
    pub(super) fn is_let_in(&self, sent: &Sent, (step, proves): (Step, bool), now: Timestamp) -> bool {
        let direct = sent.is_direct();
        let Some(route) = self.on_route(direct).last() else { return false };
        let (count, last) = self.unanswered(direct);
        let holds_long = self.is_proved(direct) || !proves && self.is_borne_out(direct);
        let silence = if holds_long { 3_600_000 } else { 60_000 };
        step != Step::Late
            && count >= 3
            && last.is_some_and(|last| last.0.abs_diff(now.0) >= 10_000)
            && now.0.saturating_sub(route.at.0) >= silence
    }

    /// R6c: the two places of a slot that are in contest.
    pub(super) fn contested(&self, direct: bool, now: Timestamp) -> Option<[Place; 2]> {
        let (mut contest, mut set) = (None::<Contest>, None::<Set>);
        let mut present = None;
        for event in &self.events {
            match event {
                Event::Restarted => (contest, set) = (None, None),
                // What is over stays over, though the clock may be set back.
                Event::Packet(one) if one.step != Step::TooOld => {
                    contest = contest.filter(|contest| within(contest.at, one.at, 10_000));
                    if one.sent.is_direct() != direct {
                        continue;
                    }
                    let evidence = self.evidence(one, set.as_ref(), present);
                    if one.answered {
                        contest = None;
                    } else if let Some(other) = evidence {
                        contest = Some(Contest { pair: [other, one.sent.place()], at: one.at });
                    }
                    if matches!(one.change, RouteChange::First | RouteChange::Moved) {
                        set = Some(Set { by: *one, from: present });
                        present = Some(one.sent.place());
                    }
                }
                _ => {}
            }
        }
        contest.filter(|contest| within(contest.at, now, 10_000)).map(|contest| contest.pair)
    }

    /// The other place that a packet shows to be in contest with its own. `set`: how the route came to lead where it did.
    fn evidence(&self, one: &Taken, set: Option<&Set>, present: Option<Place>) -> Option<Place> {
        let set = set.filter(|set| within(set.by.at, one.at, 10_000))?;
        let place = one.sent.place();
        let is_back = one.change == RouteChange::Moved && set.from == Some(place);
        let is_copy = matches!(one.step, Step::ExactCopy | Step::BitSet) && is_copy(&set.by.sent, &one.sent);
        present.filter(|present| *present != place && (is_back || is_copy))
    }

    /// Whom the packet that came last has challenged.
    pub(super) fn challenges(&self, last: &Taken) -> Challenges {
        let sent = &last.sent;
        let contested = self.contested(sent.is_direct(), last.at);
        let is_contested = last.step != Step::TooOld && contested.is_some_and(|pair| pair.contains(&sent.place()));
        let is_forbidden = last.counts() && last.change == RouteChange::Kept;
        let is_asked = is_contested || is_forbidden || self.needs_time(last);
        Challenges { source: is_asked && !sent.is_deaf(), other: is_contested }
    }

    /// R6d: a device without time at its place, where nothing was sent since its boot that tells it.
    fn needs_time(&self, last: &Taken) -> bool {
        let is_there = last.counts() && last.change != RouteChange::Kept;
        if !is_there || last.class != TimeClass::NoTime || last.sent.asks() {
            return false;
        }
        let mut before = None;
        let mut sent_since_boot = false;
        let mut present = HashMap::new();
        for event in &self.events {
            if let Event::Packet(one) = event
                && one.change != RouteChange::Kept
            {
                present.insert(one.sent.is_direct(), one.sent.place());
            }
            match event {
                Event::Packet(one) if one.counts() => {
                    let is_first = one.class == TimeClass::NoTime && before != Some(TimeClass::NoTime);
                    if one.sent.is_boot() || is_first {
                        sent_since_boot = false;
                    }
                    before = Some(one.class);
                    sent_since_boot |= one.sent.asks() && one.change != RouteChange::Kept;
                }
                Event::Asked { place, .. } => sent_since_boot |= present.get(&is_direct(place)) == Some(place),
                _ => {}
            }
        }
        !sent_since_boot
    }
}

/// Whether both are the same packet.
fn is_copy(one: &Sent, other: &Sent) -> bool {
    let is_same = (one.gps_time, one.sequence) == (other.gps_time, other.sequence);
    is_same && (one.is_on_word() || other.is_on_word() || one.entropy == other.entropy)
}
