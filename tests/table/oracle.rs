//! The rules again, by other means: everything that counted is kept, and every question is answered from the whole of
//! it. Slow, and without any of the shortcuts of the table.

use std::collections::HashMap;
use std::net::SocketAddr;

use lastroute::clock::Timestamp;
use lastroute::id::Cursor;
use lastroute::table::route::{Application, DirectRoute, LastPacket, Path, RelayedRoute, Route, Trust};
use lastroute::table::rules::{RouteChange, Step, TimeClass};
use lastroute::table::sending::{Release, SendRoute, Via};
use lastroute::wire::frame::{Flags, Level};

use super::{Sent, Way, application, through};

#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) deny: bool,
    pub(super) limit: usize,
    pub(super) registered: Vec<u64>,
    /// Devices with a record, with all that counted.
    pub(super) devices: HashMap<u64, History>,
}

/// Everything that counted of one device since its record was made.
#[derive(Debug, Default)]
pub(super) struct History {
    counted: Vec<Counted>,
    /// Set by another device's report, after so many packets.
    reported: Option<(usize, u32)>,
    /// How often something was expected for it, and how often that was told.
    expected: usize,
    told: usize,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    sent: Sent,
    at: Timestamp,
    class: TimeClass,
    step: Step,
    change: RouteChange,
    /// Position in its session, without wrap.
    position: i64,
    /// It counted while a session was pending that it fits.
    beside_window: bool,
}

/// What the table should have said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Counted { step: Step, change: RouteChange, release: Release, expects: bool, proved_address: bool },
    Refused(Step),
    NotRegistered,
}

impl Oracle {
    pub(super) fn record(&mut self, sent: &Sent, at: Timestamp) -> Expected {
        let registered = self.registered.contains(&sent.device);
        if self.deny && !registered {
            return Expected::NotRegistered;
        }
        if !registered && !self.devices.contains_key(&sent.device) {
            self.make_room();
        }
        self.devices.entry(sent.device).or_default().take(sent, at)
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
        history.reported = Some((history.counted.len(), application));
        true
    }

    pub(super) fn unregistered(&self) -> usize {
        self.devices.keys().filter(|id| !self.registered.contains(id)).count()
    }

    /// Rule R9: the least recently heard of the unregistered goes.
    fn make_room(&mut self) {
        while self.unregistered() >= self.limit {
            let unregistered = self.devices.iter().filter(|(id, _)| !self.registered.contains(id));
            let oldest = unregistered.min_by_key(|(_, history)| history.counted.last().map(|last| last.at));
            let oldest = *oldest.unwrap().0;
            self.devices.remove(&oldest);
        }
    }
}

impl Sent {
    fn is_direct(&self) -> bool {
        matches!(self.way, Way::Direct(_))
    }

    fn is_on_word(&self) -> bool {
        matches!(self.way, Way::OnWordOf(..))
    }

    fn proved_level(&self) -> Level {
        match self.way {
            Way::OnWordOf(_, relay) => self.level.min(relay),
            _ => self.level,
        }
    }

    fn source(&self) -> SocketAddr {
        match self.way {
            Way::Direct(source) => SocketAddr::new(source.ip().to_canonical(), source.port()),
            Way::Relayed(relay) | Way::OnWordOf(relay, _) => through(relay, Level::Network).address,
        }
    }

    /// Whether both came over what counts as one route.
    fn same_address(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

impl History {
    pub(super) fn count(&self) -> u64 {
        self.counted.len() as u64
    }

    fn take(&mut self, sent: &Sent, at: Timestamp) -> Expected {
        let class = class(sent.gps_time, at.gps());
        let step = self.step(sent, class, at);
        if matches!(step, Step::ExactCopy | Step::BitSet | Step::TooOld) {
            return Expected::Refused(step);
        }
        let change = self.change(sent, step);
        let position = match step {
            Step::SameSession | Step::Late => self.high(sent).map_or(0, |high| high.position + distance(high, sent)),
            _ => 0,
        };
        let beside_window = !proved(step) && self.is_pending(sent, at);
        self.counted.push(Counted { sent: *sent, at, class, step, change, position, beside_window });
        // Each record begins with something to look for.
        let (release, expects) = (self.release(), self.expected + 1 > self.told);
        if release != Release::No {
            self.told = self.expected + 1;
        }
        let on_route = change != RouteChange::Kept;
        let proved_address = proved(step) || on_route && self.is_proved(sent.is_direct());
        Expected::Counted { step, change, release, expects, proved_address }
    }

    /// Rule R7, for the packet that counted last.
    fn release(&self) -> Release {
        let Some(last) = self.counted.last() else { return Release::No };
        let is_same = last.change == RouteChange::Refreshed;
        let single_tx = is_same && last.sent.is_direct() && Flags(last.sent.flags).contains(Flags::SINGLE_TX);
        let is_trusted = last.sent.may_move || self.is_proved(last.sent.is_direct());
        match last.step {
            _ if last.change == RouteChange::Kept => Release::No,
            _ if !last.sent.is_direct() && self.is_heard_directly(last.at) => Release::No,
            Step::Late | Step::ExactCopy | Step::BitSet | Step::TooOld => Release::No,
            _ if !is_trusted => Release::Challenge,
            Step::SameSession | Step::NewSession => Release::Yes,
            Step::Unproven | Step::Pending if single_tx => Release::Yes,
            Step::Unproven | Step::Pending => Release::Challenge,
        }
    }

    fn is_heard_directly(&self, now: Timestamp) -> bool {
        self.on_route(true).any(|one| one.at.0 + 300_000 >= now.0)
    }

    /// Whether a proved packet that may move a route came by the present one of a slot.
    fn is_proved(&self, direct: bool) -> bool {
        let route: Vec<_> = self.on_route(direct).collect();
        let start = route.iter().rposition(|one| one.change != RouteChange::Refreshed).unwrap_or(0);
        route[start..].iter().any(|one| proved(one.step) && one.sent.may_move)
    }

    /// Whether any packet after the first `n` moved the route.
    pub(super) fn moved_since(&self, n: usize) -> bool {
        let leads_directly = |before: usize| {
            let last = self.counted[..before].iter().rfind(|one| one.change != RouteChange::Kept);
            last.map(|one| one.sent.is_direct())
        };
        (n..self.counted.len()).any(|index| {
            let is_set = matches!(self.counted[index].change, RouteChange::First | RouteChange::Moved);
            is_set || leads_directly(index) != leads_directly(index + 1)
        })
    }

    pub(super) fn send_route(&self, now: Timestamp, cursor: Cursor) -> Option<SendRoute> {
        let direct = self.direct().map(Route::Direct).filter(|_| self.is_heard_directly(now));
        let route = direct.or_else(|| self.last_route())?;
        let is_direct = matches!(route, Route::Direct(_));
        let own = || self.slot(true);
        let flag = |mask| own().last().is_some_and(|one| Flags(one.sent.flags).contains(mask));
        let settles = |one: &&Counted| proved(one.step) || one.change != RouteChange::Kept;
        let networks = self.counted.iter().filter(settles).map(|one| one.sent.network);
        Some(SendRoute {
            route,
            via: if is_direct { self.on_route(true).last()?.sent.via } else { Via::UNKNOWN },
            network: networks.rev().find(|network| *network != 0).unwrap_or(0),
            largest: own().map(|one| one.sent.len / 8 * 8).max().unwrap_or(0).min(2040),
            always_rx: flag(Flags::ALWAYS_RX),
            single_tx: flag(Flags::SINGLE_TX),
            heard_at: self.counted.last()?.at,
            proved: self.is_proved(is_direct),
            cursor,
        })
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
        let bit_set = session.iter().any(|one| one.position == high.position + d);
        if (-63..=0).contains(&d) && bit_set && !pending && !sent.is_boot() {
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
        let too_old = sent.gps_time < first_gps || d < -63 || d > 1024 && sent.gps_time <= greatest;
        if too_old && !sent.is_boot() { Step::TooOld } else { Step::Unproven }
    }

    /// Rule R5, from all that came before.
    fn change(&self, sent: &Sent, step: Step) -> RouteChange {
        let Some(route) = self.on_route(sent.is_direct()).last() else { return RouteChange::First };
        if route.sent.same_address(sent) {
            return RouteChange::Refreshed;
        }
        let newest = proved(step) && sent.gps_time >= self.greatest(sent);
        if newest && sent.may_move { RouteChange::Moved } else { RouteChange::Kept }
    }

    fn slot(&self, direct: bool) -> impl DoubleEndedIterator<Item = &Counted> {
        self.counted.iter().filter(move |one| one.sent.is_direct() == direct)
    }

    /// Packets that set or refreshed the route of a slot.
    fn on_route(&self, direct: bool) -> impl DoubleEndedIterator<Item = &Counted> {
        self.slot(direct).filter(|one| one.change != RouteChange::Kept)
    }

    /// The packets of the running session of the slot that `sent` came in by.
    fn session(&self, sent: &Sent) -> impl Iterator<Item = &Counted> {
        let slot: Vec<_> = self.slot(sent.is_direct()).collect();
        let start = slot.iter().rposition(|one| one.step == Step::NewSession).unwrap_or(slot.len());
        slot.into_iter().skip(start).filter(|one| proved(one.step) || one.step == Step::Late)
    }

    /// The high-water mark: the newest of the session by sequence.
    fn high(&self, sent: &Sent) -> Option<&Counted> {
        self.session(sent).max_by_key(|one| one.position)
    }

    /// Greatest fresh time of all proved packets; a relay's word is no measure for direct ones, and the relayed slot
    /// goes by its own.
    fn greatest(&self, sent: &Sent) -> u32 {
        let proved = self.counted.iter().filter(|one| proved(one.step));
        let counts = |one: &&Counted| if sent.is_direct() { !one.sent.is_on_word() } else { !one.sent.is_direct() };
        proved.filter(counts).map(|one| one.sent.gps_time).max().unwrap_or(0)
    }

    /// Unproven packets and boots.
    fn unproven(&self) -> impl DoubleEndedIterator<Item = &Counted> {
        self.counted.iter().filter(|one| matches!(one.step, Step::Unproven | Step::Pending) || one.sent.is_boot())
    }

    /// The last 16 that the rules remember exactly, and the last boot of each slot.
    fn is_remembered(&self, sent: &Sent) -> bool {
        let unproven = |one: &&Counted| matches!(one.step, Step::Unproven | Step::Pending);
        let exactly = self.counted.iter().filter(|one| unproven(one) || one.sent.is_boot() || one.beside_window);
        let boots = [true, false].into_iter().filter_map(|slot| self.slot(slot).rfind(|one| one.sent.is_boot()));
        exactly.rev().take(16).chain(boots).any(|one| {
            let seen = &one.sent;
            (seen.gps_time, seen.sequence, seen.is_direct()) == (sent.gps_time, sent.sequence, sent.is_direct())
                && (seen.is_on_word() || sent.is_on_word() || seen.entropy == sent.entropy)
        })
    }

    /// Whether the packet follows a boot that was not proved, and that no proved packet has followed yet.
    fn is_pending(&self, sent: &Sent, at: Timestamp) -> bool {
        let mut open = None;
        for one in self.slot(sent.is_direct()) {
            let ends = one.step == Step::NewSession
                || proved(one.step) && open.is_some_and(|boot| follows(boot, &one.sent, one.at));
            if ends {
                open = None;
            } else if one.sent.is_boot() && one.step == Step::Unproven {
                open = Some(one);
            }
        }
        open.is_some_and(|boot| follows(boot, sent, at))
    }

    /// Whether an old or future packet is not above all unproven ones of its class.
    fn is_below(&self, sent: &Sent, class: TimeClass) -> bool {
        let same_class = self.unproven().filter(|one| one.class == class && one.sent.is_direct() == sent.is_direct());
        let high = same_class.map(|one| (one.sent.gps_time, one.sent.sequence)).max();
        class != TimeClass::NoTime && high.is_some_and(|high| (sent.gps_time, sent.sequence) <= high)
    }

    fn trust(&self, direct: bool) -> Option<Trust> {
        let route: Vec<_> = self.on_route(direct).collect();
        let start = route.iter().rposition(|one| one.change != RouteChange::Refreshed)?;
        route[start..].iter().map(|one| Trust::from(one.sent.proved_level())).max()
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
        let last = self.counted.iter().rfind(|one| one.change != RouteChange::Kept)?;
        if last.sent.is_direct() { self.direct().map(Route::Direct) } else { self.relayed().map(Route::Relayed) }
    }

    pub(super) fn first_packet_at(&self) -> Option<Timestamp> {
        self.counted.first().map(|first| first.at)
    }

    pub(super) fn last_packet(&self) -> Option<LastPacket> {
        let last = self.counted.last()?;
        let sent = &last.sent;
        let flag = |mask| sent.is_direct() && Flags(sent.flags).contains(mask);
        Some(LastPacket {
            packet_type: sent.packet_type,
            level: sent.proved_level(),
            sequence: sent.sequence,
            gps_time: sent.gps_time,
            received_at: last.at,
            class: last.class,
            proved: proved(last.step),
            source: sent.source(),
            on_route: last.change != RouteChange::Kept,
            always_rx: flag(Flags::ALWAYS_RX),
            single_tx: flag(Flags::SINGLE_TX),
        })
    }

    pub(super) fn application(&self) -> Option<Application> {
        let takes = |one: &Counted| proved(one.step) || one.change != RouteChange::Kept;
        let own = self.counted.iter().enumerate().rev().filter(|(_, one)| takes(one));
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

/// Whether a packet may be of the session that `boot` announced.
fn follows(boot: &Counted, sent: &Sent, at: Timestamp) -> bool {
    let began = boot.sent.gps_time;
    // Of a session that begins without the right time, what has it comes after the boot came.
    let learned = boot.class != TimeClass::Fresh && class(sent.gps_time, at.gps()) == TimeClass::Fresh;
    let in_time = sent.gps_time >= began && (!learned || sent.gps_time >= boot.at.gps());
    at.0 < boot.at.0 + 420_000 && in_time && (1..=1024).contains(&sent.sequence)
}

fn proved(step: Step) -> bool {
    matches!(step, Step::SameSession | Step::NewSession)
}

/// From the high-water sequence to this one, as a signed 16-bit number.
fn distance(high: &Counted, sent: &Sent) -> i64 {
    let ahead = (i64::from(sent.sequence) - i64::from(high.sent.sequence)).rem_euclid(65_536);
    if ahead >= 32_768 { ahead - 65_536 } else { ahead }
}
