//! The rules again, by other means: everything that ever came is kept, and every question is answered from the whole of
//! it. Slow, and without any of the shortcuts of the table. What becomes of challenges is in [`super::oracle_challenges`].

use std::collections::HashMap;

use lastroute::clock::Timestamp;
use lastroute::id::Cursor;
use lastroute::table::contest::{Challenges, Place};
use lastroute::table::route::{Application, DirectRoute, LastPacket, Path, RelayedRoute, Route, Trust};
use lastroute::table::rules::{RouteChange, Step, TimeClass};
use lastroute::table::sending::{Release, SendRoute, Via};
use lastroute::wire::frame::Flags;

use super::{Sent, application};

#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) deny: bool,
    pub(super) limit: usize,
    pub(super) registered: Vec<u64>,
    /// Rule R5 after an unclean stop: what is not newer than this moves nothing.
    pub(super) floor: u32,
    /// Devices with a record, with all that came.
    pub(super) devices: HashMap<u64, History>,
    /// The same at the last checkpoint.
    pub(super) kept: HashMap<u64, History>,
}

/// Everything that came of one device since its record was made.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) events: Vec<Event>,
    /// Set by another device's report, after so many packets.
    reported: Option<(usize, u32)>,
    /// How often something was expected for it, and how often that was told.
    expected: usize,
    told: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Packet(Taken),
    /// A challenge was sent. `is_beside`: to a place where their number is not limited.
    Asked {
        place: Place,
        at: Timestamp,
        is_beside: bool,
    },
    /// The gateway stopped here, and went on from what it had kept.
    Restarted,
}

/// An authentic packet and what became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) sent: Sent,
    pub(super) at: Timestamp,
    pub(super) class: TimeClass,
    pub(super) step: Step,
    /// It is no replay, whatever was forgotten.
    pub(super) proves: bool,
    /// Its device has answered since the start, and it is no older than all before.
    is_alive: bool,
    /// Of one that did not count: what its answer did, else [`RouteChange::Kept`].
    pub(super) change: RouteChange,
    /// It answered a challenge.
    pub(super) answered: bool,
    /// Position in its session, without wrap.
    position: i64,
    /// It counted while a session was pending that it fits.
    beside_window: bool,
}

/// What the table should have said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Counted {
        step: Step,
        change: RouteChange,
        release: Release,
        expects: bool,
        proved_address: bool,
        is_answer: bool,
        challenges: Challenges,
    },
    Refused {
        step: Step,
        /// Of an answer: whether the route moved, and whether something may wait for the device.
        answered: Option<(bool, bool)>,
        challenges: Challenges,
    },
    NotRegistered,
}

impl Oracle {
    /// `answers`: it carries the cookie for where it comes from.
    pub(super) fn record(&mut self, sent: &Sent, answers: bool, at: Timestamp) -> Expected {
        let registered = self.registered.contains(&sent.device);
        if self.deny && !registered {
            return Expected::NotRegistered;
        }
        if !registered && !self.devices.contains_key(&sent.device) {
            self.make_room(self.limit - 1);
        }
        self.devices.entry(sent.device).or_default().take(sent, answers, self.floor, at)
    }

    pub(super) fn expect(&mut self, device: u64) {
        if let Some(history) = self.devices.get_mut(&device) {
            history.expected += 1;
        }
    }

    /// Whether it was registered.
    pub(super) fn deregister(&mut self, device: u64) -> bool {
        let Some(at) = self.registered.iter().position(|id| *id == device) else { return false };
        self.registered.remove(at);
        self.devices.remove(&device);
        true
    }

    pub(super) fn report(&mut self, device: u64, application: u32) -> bool {
        if !self.registered.contains(&device) {
            return false;
        }
        let history = self.devices.entry(device).or_default();
        history.reported = Some((history.count(), application));
        true
    }

    pub(super) fn unregistered(&self) -> usize {
        self.devices.keys().filter(|id| !self.registered.contains(id)).count()
    }

    /// Rule R9: the least recently heard of the unregistered go until so many are left.
    fn make_room(&mut self, left: usize) {
        while self.unregistered() > left {
            let unregistered = self.devices.iter().filter(|(id, _)| !self.registered.contains(id));
            let oldest = unregistered.min_by_key(|(id, history)| (history.last().map(|last| last.at), **id));
            let oldest = *oldest.unwrap().0;
            self.devices.remove(&oldest);
        }
    }

    /// What would be known after a stop in this moment.
    pub(super) fn keep(&mut self) {
        self.kept = self.devices.clone();
    }

    /// Rule R10: what was kept last is what is known.
    pub(super) fn restart(&mut self) {
        self.devices = self.kept.clone();
        if self.deny {
            self.devices.retain(|id, _| self.registered.contains(id));
        }
        self.make_room(self.limit);
        for history in self.devices.values_mut() {
            history.events.push(Event::Restarted);
            // Something may be in the outbox that was stored.
            history.expected = history.told.max(history.expected) + 1;
            history.told = history.expected;
        }
    }
}

impl Taken {
    pub(super) fn counts(&self) -> bool {
        !is_refused(self.step)
    }

    fn place(&self) -> Place {
        self.sent.place()
    }

    /// It set or refreshed the route of its slot.
    fn is_on_route(&self) -> bool {
        self.change != RouteChange::Kept
    }

    /// An answer that proves nothing by its time and sequence begins a session.
    fn begins_by_answer(&self) -> bool {
        self.answered && !proved(self.step)
    }

    fn is_unproven(&self) -> bool {
        matches!(self.step, Step::Unproven | Step::Pending)
    }
}

impl History {
    pub(super) fn packets(&self) -> impl DoubleEndedIterator<Item = &Taken> {
        self.events.iter().filter_map(|event| match event {
            Event::Packet(taken) => Some(taken),
            _ => None,
        })
    }

    fn counted(&self) -> impl DoubleEndedIterator<Item = &Taken> {
        self.packets().filter(|one| one.counts())
    }

    fn last(&self) -> Option<&Taken> {
        self.counted().last()
    }

    pub(super) fn count(&self) -> usize {
        self.counted().count()
    }

    /// What happened since the gateway started.
    pub(super) fn remembered(&self) -> &[Event] {
        let restarted = self.events.iter().rposition(|event| matches!(event, Event::Restarted));
        &self.events[restarted.map_or(0, |at| at + 1)..]
    }

    /// The packets that counted since the gateway started.
    fn heard(&self) -> impl DoubleEndedIterator<Item = &Taken> {
        let packets = self.remembered().iter().filter_map(|event| match event {
            Event::Packet(taken) => Some(taken),
            _ => None,
        });
        packets.filter(|one| one.counts())
    }

    /// Whether a fresh answer came by its slot since the start.
    fn has_answered(&self, sent: &Sent) -> bool {
        let is_such = |one: &Taken| one.class == TimeClass::Fresh && one.sent.is_direct() == sent.is_direct();
        self.answers_since(0).any(is_such)
    }

    fn take(&mut self, sent: &Sent, answers: bool, floor: u32, at: Timestamp) -> Expected {
        let class = class(sent.gps_time, at.gps());
        let answered = answers && self.is_awaited(sent, at);
        let step = match self.step(sent, class, at) {
            Step::TooOld if answered => Step::Unproven,
            step => step,
        };
        let proves = proved(step) && sent.gps_time > floor;
        let is_alive = proved(step) && sent.gps_time >= self.greatest(sent) && self.has_answered(sent);
        let change = match is_refused(step) && !answered {
            true => RouteChange::Kept,
            false => self.change(sent, step, proves, answered, at),
        };
        let position = match step {
            Step::SameSession | Step::Late => self.high(sent).map_or(0, |high| high.position + distance(high, sent)),
            _ => 0,
        };
        let beside_window = !is_refused(step) && !proved(step) && self.is_pending(sent, at);
        let taken = Taken { sent: *sent, at, class, step, proves, is_alive, change, answered, position, beside_window };
        self.events.push(Event::Packet(taken));
        let challenges = self.challenges(&taken);
        // Each record begins with something to look for.
        let expects = self.expected + 1 > self.told;
        if is_refused(step) {
            // Rule R8.
            let is_barred = !sent.is_direct() && self.is_heard_directly(at);
            if answered && !is_barred {
                self.told = self.expected + 1;
            }
            let answered = answered.then_some((change == RouteChange::Moved, expects && !is_barred));
            return Expected::Refused { step, answered, challenges };
        }
        let release = self.release(&taken);
        if release != Release::No {
            self.told = self.expected + 1;
        }
        let proved_address = proves || taken.is_on_route() && self.is_proved(sent.is_direct());
        Expected::Counted { step, change, release, expects, proved_address, is_answer: answered, challenges }
    }

    /// Rule R7.
    fn release(&self, last: &Taken) -> Release {
        let is_same = last.change == RouteChange::Refreshed;
        let is_trusted = last.sent.may_move || self.is_proved(last.sent.is_direct());
        match last.step {
            _ if last.change == RouteChange::Kept => Release::No,
            _ if !last.sent.is_direct() && self.is_heard_directly(last.at) => Release::No,
            _ if last.answered => Release::Yes,
            Step::Late | Step::ExactCopy | Step::BitSet | Step::TooOld => Release::No,
            _ if !is_trusted => Release::Challenge,
            _ if last.proves || is_same && (last.sent.is_deaf() || last.is_alive) => Release::Yes,
            _ => Release::Challenge,
        }
    }

    fn is_heard_directly(&self, now: Timestamp) -> bool {
        self.on_route(true).last().is_some_and(|one| one.at.0.abs_diff(now.0) <= 300_000)
    }

    /// The packets since a slot's route leads where it does.
    fn on_present_route(&self, direct: bool) -> impl Iterator<Item = &Taken> {
        let route: Vec<_> = self.on_route(direct).collect();
        let start = route.iter().rposition(|one| one.change != RouteChange::Refreshed).unwrap_or(0);
        route.into_iter().skip(start)
    }

    /// Whether a proved packet that may move a route, or an answer, came by the present one of a slot.
    pub(super) fn is_proved(&self, direct: bool) -> bool {
        self.on_present_route(direct).any(|one| one.proves && one.sent.may_move || one.answered)
    }

    /// Whether a proved packet that may not move a route came by the present one of a slot.
    pub(super) fn is_borne_out(&self, direct: bool) -> bool {
        self.on_present_route(direct).any(|one| one.proves && !one.sent.may_move && !one.answered)
    }

    /// Whether the route moved after the first `n` counted packets.
    pub(super) fn moved_since(&self, n: usize) -> bool {
        let mut counted = 0;
        let mut was_direct = None;
        for one in self.packets() {
            counted += usize::from(one.counts());
            // An answer that does not count comes after the packet that counted last.
            let is_after = if one.counts() { counted > n } else { counted >= n };
            let is_direct = if one.is_on_route() { Some(one.sent.is_direct()) } else { was_direct };
            let is_set = matches!(one.change, RouteChange::First | RouteChange::Moved);
            if is_after && (is_set || is_direct != was_direct) {
                return true;
            }
            was_direct = is_direct;
        }
        false
    }

    pub(super) fn send_route(&self, now: Timestamp, cursor: Cursor) -> Option<SendRoute> {
        let direct = self.direct().map(Route::Direct).filter(|_| self.is_heard_directly(now));
        let route = direct.or_else(|| self.last_route())?;
        let is_direct = matches!(route, Route::Direct(_));
        let own = || self.counted().filter(|one| one.sent.is_direct());
        let flag = |mask| own().next_back().is_some_and(|one| one.sent.has(mask));
        let networks = self.counted().filter(|one| proved(one.step) || one.is_on_route()).map(|one| one.sent.network);
        Some(SendRoute {
            route,
            via: if is_direct { self.via() } else { Via::UNKNOWN },
            network: networks.rev().find(|network| *network != 0).unwrap_or(0),
            largest: own().map(|one| one.sent.len / 8 * 8).max().unwrap_or(0).min(2040),
            always_rx: flag(Flags::ALWAYS_RX),
            single_tx: flag(Flags::SINGLE_TX),
            heard_at: self.last()?.at,
            proved: self.is_proved(is_direct),
            cursor,
        })
    }

    /// The socket of the direct route, of this process.
    fn via(&self) -> Via {
        let mut via = Via::UNKNOWN;
        for event in self.remembered() {
            if let Event::Packet(one) = event
                && one.sent.is_direct()
                && one.is_on_route()
            {
                via = one.sent.via;
            }
        }
        via
    }

    /// The steps of rule R4 in their order.
    fn step(&self, sent: &Sent, class: TimeClass, at: Timestamp) -> Step {
        if self.is_remembered(sent) {
            return Step::ExactCopy;
        }
        let pending = self.is_pending(sent, at);
        let greatest = self.greatest(sent);
        if class != TimeClass::Fresh {
            return match pending {
                true => Step::Pending,
                false if !sent.is_boot() && self.is_below(sent, class) => Step::TooOld,
                false => Step::Unproven,
            };
        }
        let Some(high) = self.high(sent) else {
            return if sent.gps_time > greatest { Step::NewSession } else { Step::Unproven };
        };
        let session: Vec<_> = self.session(sent).collect();
        let first_gps = session[0].sent.gps_time;
        let high_gps = session.iter().filter(|one| proved(one.step)).map(|one| one.sent.gps_time).max().unwrap();
        let d = distance(high, sent);
        if sent.gps_time > greatest && (pending || d <= 0 || d > 1024) {
            return Step::NewSession;
        }
        if (1..=1024).contains(&d) && sent.gps_time >= first_gps && sent.gps_time + 5 >= high_gps {
            return Step::SameSession;
        }
        // After the clock was set back nobody knows what is old or a copy.
        let is_measured = high_gps.max(greatest) <= at.gps() + 120;
        let bit_set = self.is_seen(sent, high.position + d);
        if (-63..=0).contains(&d) && bit_set && !pending && !sent.is_boot() && is_measured {
            return Step::BitSet;
        }
        let late = match sent.is_boot() {
            true => sent.gps_time <= first_gps && sent.gps_time + 5 >= first_gps,
            false => sent.gps_time >= first_gps && sent.gps_time + 120 >= high_gps,
        };
        if (-63..=0).contains(&d) && !bit_set && late {
            return Step::Late;
        }
        if pending {
            return Step::Pending;
        }
        let too_old = is_measured && (sent.gps_time < first_gps || d < -63 || d > 1024 && sent.gps_time <= greatest);
        if too_old && !sent.is_boot() { Step::TooOld } else { Step::Unproven }
    }

    /// Rules R5 and R6, from all that came before.
    fn change(&self, sent: &Sent, step: Step, proves: bool, answered: bool, at: Timestamp) -> RouteChange {
        let Some(route) = self.on_route(sent.is_direct()).last() else { return RouteChange::First };
        if route.sent.place() == sent.place() {
            return RouteChange::Refreshed;
        }
        let is_entitled = proves && sent.may_move && sent.gps_time >= self.greatest(sent);
        if answered || is_entitled || self.is_let_in(sent, (step, proves), at) {
            RouteChange::Moved
        } else {
            RouteChange::Kept
        }
    }

    /// Packets that set or refreshed the route of a slot.
    pub(super) fn on_route(&self, direct: bool) -> impl DoubleEndedIterator<Item = &Taken> {
        self.packets().filter(move |one| one.sent.is_direct() == direct && one.is_on_route())
    }

    /// The packets of the running session of the slot that `sent` came in by.
    fn session(&self, sent: &Sent) -> impl Iterator<Item = &Taken> {
        let direct = sent.is_direct();
        let slot: Vec<_> = self.counted().filter(|one| one.sent.is_direct() == direct).collect();
        let start = slot.iter().rposition(|one| one.step == Step::NewSession).unwrap_or(slot.len());
        slot.into_iter().skip(start).filter(|one| proved(one.step) || one.step == Step::Late)
    }

    /// The high-water mark: the newest of the session by sequence.
    fn high(&self, sent: &Sent) -> Option<&Taken> {
        self.session(sent).max_by_key(|one| one.position)
    }

    /// Whether a position of the running session was seen, or was in the window when the gateway stopped last.
    fn is_seen(&self, sent: &Sent, position: i64) -> bool {
        let restarted = self.events.len() - self.remembered().len();
        let before = Self { events: self.events[..restarted].to_vec(), ..Self::default() };
        let began_since =
            self.heard().any(|one| one.step == Step::NewSession && one.sent.is_direct() == sent.is_direct());
        let stopped_at = before.high(sent).map(|high| high.position).filter(|_| !began_since);
        let was_loaded = stopped_at.is_some_and(|high| (high - 63..=high).contains(&position));
        was_loaded || self.session(sent).any(|one| one.position == position)
    }

    /// Greatest fresh time of all proved packets and answers; a relay's word is no measure for direct ones, and the relayed
    /// slot goes by its own.
    fn greatest(&self, sent: &Sent) -> u32 {
        let raises = |one: &&Taken| proved(one.step) || one.answered && one.class == TimeClass::Fresh;
        let concerns = |one: &&Taken| if sent.is_direct() { !one.sent.is_on_word() } else { !one.sent.is_direct() };
        self.packets().filter(raises).filter(concerns).map(|one| one.sent.gps_time).max().unwrap_or(0)
    }

    /// The last 16 that the rules remember exactly, and the last boot of each slot.
    fn is_remembered(&self, sent: &Sent) -> bool {
        let exactly = self.heard().filter(|one| one.is_unproven() || one.sent.is_boot() || one.beside_window);
        let boot = |slot| self.heard().rfind(|one| one.sent.is_direct() == slot && one.sent.is_boot());
        exactly.rev().take(16).chain([true, false].into_iter().filter_map(boot)).any(|one| {
            let seen = &one.sent;
            (seen.gps_time, seen.sequence, seen.is_direct()) == (sent.gps_time, sent.sequence, sent.is_direct())
                && (seen.is_on_word() || sent.is_on_word() || seen.entropy == sent.entropy)
        })
    }

    /// Whether the packet follows a boot that was not proved, or an answer, and that no proved packet has followed yet.
    fn is_pending(&self, sent: &Sent, at: Timestamp) -> bool {
        let mut open = None::<&Taken>;
        for event in self.remembered() {
            let Event::Packet(one) = event else { continue };
            open = open.filter(|begin| is_young(begin, one.at));
            if one.sent.is_direct() != sent.is_direct() {
                continue;
            }
            let ends = one.step == Step::NewSession
                || proved(one.step) && open.is_some_and(|begin| follows(begin, &one.sent, one.at));
            if ends {
                open = None;
            } else if one.sent.is_boot() && one.step == Step::Unproven || one.begins_by_answer() {
                open = Some(one);
            }
        }
        open.is_some_and(|begin| follows(begin, sent, at))
    }

    /// Whether an old or future packet is not above all unproven ones of its class.
    fn is_below(&self, sent: &Sent, class: TimeClass) -> bool {
        let side = self.heard().filter(|one| one.is_unproven() || one.sent.is_boot());
        let same_class = side.filter(|one| one.class == class && one.sent.is_direct() == sent.is_direct());
        let high = same_class.map(|one| (one.sent.gps_time, one.sent.sequence)).max();
        class != TimeClass::NoTime && high.is_some_and(|high| (sent.gps_time, sent.sequence) <= high)
    }

    fn trust(&self, direct: bool) -> Option<Trust> {
        let trust = |one: &Taken| match one.answered {
            true => Trust::Verified,
            false => Trust::from(one.sent.proved_level()),
        };
        self.on_present_route(direct).map(trust).max()
    }

    pub(super) fn direct(&self) -> Option<DirectRoute> {
        let last = self.on_route(true).last()?;
        let trust = self.trust(true)?;
        let address = last.sent.source();
        Some(DirectRoute { address, received_at: last.at, sequence: last.sent.sequence, trust })
    }

    pub(super) fn relayed(&self) -> Option<RelayedRoute> {
        let last = self.on_route(false).last()?;
        let trust = self.trust(false)?;
        let Path::Relayed(through) = last.sent.path() else { return None };
        Some(RelayedRoute { through, received_at: last.at, sequence: last.sent.sequence, trust })
    }

    pub(super) fn last_route(&self) -> Option<Route> {
        let last = self.packets().rfind(|one| one.is_on_route())?;
        if last.sent.is_direct() { self.direct().map(Route::Direct) } else { self.relayed().map(Route::Relayed) }
    }

    pub(super) fn first_packet_at(&self) -> Option<Timestamp> {
        self.counted().next().map(|first| first.at)
    }

    pub(super) fn last_packet(&self) -> Option<LastPacket> {
        let last = self.last()?;
        let sent = &last.sent;
        let flag = |mask| sent.is_direct() && sent.has(mask);
        Some(LastPacket {
            packet_type: sent.packet_type,
            level: sent.proved_level(),
            sequence: sent.sequence,
            gps_time: sent.gps_time,
            received_at: last.at,
            class: last.class,
            proved: proved(last.step),
            step: last.step,
            source: sent.source(),
            relayed: !sent.is_direct(),
            // Since then an answer that did not count may have moved it.
            on_route: last.is_on_route()
                && self.on_route(sent.is_direct()).last().map(Taken::place) == Some(sent.place()),
            always_rx: flag(Flags::ALWAYS_RX),
            single_tx: flag(Flags::SINGLE_TX),
        })
    }

    pub(super) fn application(&self) -> Option<Application> {
        let takes = |one: &Taken| proved(one.step) || one.is_on_route();
        let counted: Vec<_> = self.counted().collect();
        let own = counted.into_iter().enumerate().rev().filter(|(_, one)| takes(one));
        let own = own.filter_map(|(at, one)| one.sent.application.map(|id| (at, id))).next();
        let newest = match (own, self.reported) {
            (Some((at, _)), Some((before, id))) if at < before => Some(id),
            (Some((_, id)), _) | (None, Some((_, id))) => Some(id),
            (None, None) => None,
        };
        newest.map(application)
    }
}

fn class(gps_time: u32, now: u32) -> TimeClass {
    let age = i64::from(now) - i64::from(gps_time);
    let up = i64::from(gps_time) - 1_261_872_018;
    match age {
        -120..=300 => TimeClass::Fresh,
        _ if gps_time == 0 || (0..31_622_400).contains(&up) => TimeClass::NoTime,
        ..-120 => TimeClass::Future,
        _ => TimeClass::Old,
    }
}

/// Whether a packet may be of the session that `begin` announced.
fn follows(begin: &Taken, sent: &Sent, at: Timestamp) -> bool {
    let began = begin.sent.gps_time;
    // Of a session that begins without the right time, what has it comes after its beginning came.
    let learned = begin.class != TimeClass::Fresh && class(sent.gps_time, at.gps()) == TimeClass::Fresh;
    let in_time = sent.gps_time >= began && (!learned || sent.gps_time >= begin.at.gps());
    let after = (i64::from(sent.sequence) - i64::from(begin.sent.sequence)).rem_euclid(65_536);
    is_young(begin, at) && in_time && (1..=1024).contains(&after)
}

/// Whether a session may still be pending.
fn is_young(begin: &Taken, at: Timestamp) -> bool {
    begin.at.0.abs_diff(at.0) < 420_000
}

pub(super) fn proved(step: Step) -> bool {
    matches!(step, Step::SameSession | Step::NewSession)
}

pub(super) fn is_refused(step: Step) -> bool {
    matches!(step, Step::ExactCopy | Step::BitSet | Step::TooOld)
}

/// From the high-water sequence to this one, as a signed 16-bit number.
fn distance(high: &Taken, sent: &Sent) -> i64 {
    let ahead = (i64::from(sent.sequence) - i64::from(high.sent.sequence)).rem_euclid(65_536);
    if ahead >= 32_768 { ahead - 65_536 } else { ahead }
}
