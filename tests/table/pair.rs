//! The table and the oracle side by side: whatever is done is done to both, and what they say is compared. Beside that, what
//! has to hold whatever the rules are: nothing counts twice as new, no position and no sequence of a downlink comes again, and
//! a route moves by nothing but what is newer than all before, an answer, or when nobody answers for long.
//!
//! Nothing here panics: a difference is an error, so that a history that ends in one can be made shorter.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use lastroute::auth::keys::{DayKey, Interface, KeyRing, RootKey};
use lastroute::auth::{Verified, open_with, seal_with};
use lastroute::clock::Timestamp;
use lastroute::id::{Cursor, DeviceId, KeyId};
use lastroute::table::contest::{Challenges, Place};
use lastroute::table::kept::Kept;
use lastroute::table::route::{Counted, Outcome, Refused, Snapshot};
use lastroute::table::rules::{RouteChange, Step, TimeClass};
use lastroute::table::sending::{Receipt, Release};
use lastroute::table::{Packet, RouteTable, TableConfig, Unregistered};
use lastroute::wire::frame::{Frame, Header, Layout};

use super::oracle::{Expected, History, Oracle, is_refused, proved};
use super::oracle_challenges::is_direct;
use super::{Sent, Way, application};

/// Of an unclean stop: how far ahead of the gateway's clock what was forgotten may be, in seconds.
const FRESH_AHEAD: u32 = 120;
/// How long that may be replayed as fresh, in milliseconds: while its time, ahead by as much, passes for fresh.
const FLOOR_MS: u64 = 421_000;

/// What tells packets apart, however they come.
type Key = (bool, u32, u16, u16);

pub(super) struct Pair {
    table: RouteTable,
    pub(super) oracle: Oracle,
    pub(super) now: Timestamp,
    config: TableConfig,
    keys: KeyRing,
    stored: HashMap<DeviceId, Kept>,
    /// When what was stored was.
    stored_at: Timestamp,
    /// Milliseconds that the floor holds still, whatever the clock says.
    floor_ms: u64,
    /// How often the clock was set back: sequences of downlinks move, as [`RouteTable::move_down_sequences`] says.
    turns: u16,
    /// Rule R2: no downlink is sealed before this GPS second, since one that was killed may have used it.
    reserved: u32,
    seen: Seen,
    /// Names of the decisions that were come to.
    pub(super) reached: HashSet<String>,
}

/// What must never come again.
#[derive(Default)]
struct Seen {
    cursors: HashSet<(u64, Cursor)>,
    /// Device, second and sequence of every downlink.
    downlinks: HashSet<(u64, u32, u16)>,
    devices: HashMap<u64, Proofs>,
    /// The clock was set back since the last checkpoint.
    set_back: bool,
}

/// What a device has proved, over restarts.
#[derive(Default)]
struct Proofs {
    /// All of it, with what a stop has made forgotten.
    ever: Proved,
    /// Without that, and as it was written last.
    known: Proved,
    written: Proved,
    /// Packets that were fresh when they counted, in this process.
    settled: HashSet<Key>,
    /// When places were asked.
    asked: HashMap<Place, Timestamp>,
    /// Challenges since the route of each slot moved or one was answered: direct, relayed. Those that could not be sent count.
    tries: [usize; 2],
    kept_greatest: u32,
}

/// Packets that were proved, and the greatest time of them in each slot.
#[derive(Clone, Default)]
struct Proved {
    packets: HashSet<Key>,
    greatest: [u32; 2],
}

/// What follows from a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Follows {
    pub(super) challenges: Challenges,
    /// What waits leaves once a challenge is answered.
    pub(super) is_held: bool,
}

impl Pair {
    pub(super) fn new(deny: bool, limit: usize, start: Timestamp) -> Self {
        let unregistered = if deny { Unregistered::Deny } else { Unregistered::Allow };
        let config = TableConfig { unregistered, unregistered_limit: limit, shards: 4, epoch: 3, ..Default::default() };
        let keys = KeyRing::default();
        for network in 1..3 {
            keys.set_network(KeyId::from_le_bytes([network, 0, 0]), RootKey::new([network; 32]));
        }
        Self {
            table: RouteTable::new(&config),
            oracle: Oracle { deny, limit, ..Default::default() },
            now: start,
            config,
            keys,
            stored: HashMap::new(),
            stored_at: start,
            floor_ms: 0,
            turns: 0,
            reserved: 0,
            seen: Seen::default(),
            reached: HashSet::new(),
        }
    }

    /// Time passes.
    pub(super) fn pass(&mut self, ms: u64) {
        self.now = Timestamp(self.now.0 + ms);
        self.floor_ms = self.floor_ms.saturating_sub(ms);
        if self.floor_ms == 0 {
            self.set_floor(0);
        }
    }

    /// Sets the gateway's clock.
    pub(super) fn step_clock(&mut self, ms: i64) {
        self.now = Timestamp(self.now.0.saturating_add_signed(ms));
        if ms < 0 {
            self.turns += 1;
            self.reserved = 0;
            self.table.move_down_sequences(self.turns.wrapping_mul(1024));
            // What was forgotten may be fresh again, after the floor.
            self.seen.set_back = true;
            self.forget_proofs();
        }
    }

    fn set_floor(&mut self, gps: u32) {
        self.oracle.floor = gps;
        self.table.set_floor(gps);
    }

    /// Nothing is promised any more of what the table has forgotten.
    fn forget_proofs(&mut self) {
        for proofs in self.seen.devices.values_mut() {
            proofs.ever = proofs.known.clone();
        }
    }

    /// Takes in a packet. `answers`: it carries the right cookie.
    pub(super) fn take(&mut self, sent: &Sent, answers: bool) -> Result<Follows, String> {
        let before = self.table.snapshot(DeviceId(sent.device));
        let cursor = self.table.cursor(DeviceId(sent.device));
        let expected = self.oracle.record(sent, answers, self.now);
        self.forget_the_forgotten();
        let outcome = record(sent, answers, &self.table, self.now);
        self.same("outcome", &summary(&outcome), &expected, sent)?;
        self.note(&outcome);
        let follows = match &outcome {
            Outcome::Counted(counted) => {
                self.check_counted(sent, counted, cursor)?;
                self.check_move(sent, counted.step, counted.change, counted.is_answer, before.as_ref())?;
                let is_held = counted.release == Release::Challenge && counted.expects;
                Follows { challenges: counted.challenges, is_held }
            }
            Outcome::Refused(refused) => {
                let moved = refused.answered.is_some_and(|answered| answered.moved_from.is_some());
                let change = if moved { RouteChange::Moved } else { RouteChange::Refreshed };
                self.check_move(sent, refused.step, change, refused.answered.is_some(), before.as_ref())?;
                Follows { challenges: refused.challenges, is_held: false }
            }
            Outcome::NotRegistered => Follows::default(),
        };
        self.compare(sent.device)?;
        Ok(follows)
    }

    /// Asks a device at a place, if the limits allow it. A challenge takes a sequence.
    pub(super) fn ask(&mut self, device: u64, place: &Place) -> Result<bool, String> {
        let expected = self.oracle.devices.get_mut(&device).is_some_and(|history| history.may_ask(place, self.now));
        let may = self.table.may_ask(DeviceId(device), place, self.now);
        self.same("may_ask", &may, &expected, place)?;
        if may {
            let proofs = self.seen.devices.entry(device).or_default();
            proofs.asked.insert(*place, self.now);
            proofs.tries[usize::from(!is_direct(place))] += 1;
            self.downlink(device)?;
        }
        Ok(may)
    }

    /// Where the other one of two places in contest is.
    pub(super) fn contested_with(&mut self, device: u64, place: &Place) -> Result<Option<Place>, String> {
        let direct = is_direct(place);
        let pair = self.oracle.devices.get(&device).and_then(|history| history.contested(direct, self.now));
        let other = pair.filter(|pair| pair.contains(place)).map(|pair| pair[usize::from(pair[0] == *place)]);
        let said = self.table.contested_with(DeviceId(device), place, self.now);
        self.same("contested_with", &said, &other, place)?;
        Ok(other)
    }

    /// Uses a sequence for a downlink.
    pub(super) fn downlink(&mut self, device: u64) -> Result<(), String> {
        let sequence = self.table.next_downlink_sequence(DeviceId(device));
        let is_heard = self.oracle.devices.get(&device).is_some_and(|history| history.count() > 0);
        self.same("has a sequence", &sequence.is_some(), &is_heard, &device)?;
        sequence.map_or(Ok(()), |sequence| self.check_downlink(device, sequence))
    }

    /// Where the direct route of a device leads.
    pub(super) fn direct_route(&self, device: u64) -> Option<SocketAddr> {
        Some(self.table.snapshot(DeviceId(device))?.direct?.address)
    }

    pub(super) fn register(&mut self, device: u64) {
        self.table.register(DeviceId(device), self.now);
        if !self.oracle.registered.contains(&device) {
            self.oracle.registered.push(device);
        }
    }

    pub(super) fn deregister(&mut self, device: u64) -> Result<(), String> {
        let was = self.oracle.deregister(device);
        if was {
            self.seen.devices.remove(&device);
        }
        self.same("deregister", &self.table.deregister(DeviceId(device)), &was, &device)?;
        self.compare(device)
    }

    pub(super) fn report(&mut self, device: u64, id: u32) -> Result<(), String> {
        let done = self.table.set_application(DeviceId(device), application(id), self.now);
        let expected = self.oracle.report(device, id);
        self.same("report", &done, &expected, &device)?;
        self.compare(device)
    }

    pub(super) fn expect(&mut self, device: u64) {
        self.table.expect(DeviceId(device));
        self.oracle.expect(device);
    }

    /// Writes down what changed.
    pub(super) fn checkpoint(&mut self) -> Result<(), String> {
        let mut changed = Vec::new();
        self.table.changed(&self.keys, |id, kept| changed.push((id, kept)));
        for (id, kept) in changed {
            let Some(kept) = kept else {
                self.stored.remove(&id);
                continue;
            };
            let proofs = self.seen.devices.entry(id.0).or_default();
            if kept.greatest < proofs.kept_greatest {
                return Err(format!("{id}: the greatest time fell from {} to {kept:?}", proofs.kept_greatest));
            }
            proofs.kept_greatest = kept.greatest;
            self.stored.insert(id, kept);
        }
        for proofs in self.seen.devices.values_mut() {
            proofs.written = proofs.known.clone();
        }
        self.stored_at = self.now;
        self.oracle.keep();
        self.seen.set_back = false;
        Ok(())
    }

    /// Rule R10: stops and starts. `registered_first`: whether the registry is loaded before the records.
    pub(super) fn restart(&mut self, clean: bool, registered_first: bool) -> Result<(), String> {
        if clean {
            self.checkpoint()?;
            self.config.continues = Some(self.table.next_generation());
        } else {
            self.config.continues = None;
            self.config.epoch += 1;
            self.config.losses += 1;
            self.reserved = self.now.gps() + 1;
            let known_at = self.now.max(self.stored_at);
            (self.oracle.floor, self.floor_ms) = (self.oracle.floor.max(known_at.gps() + FRESH_AHEAD), FLOOR_MS);
        }
        self.table = RouteTable::new(&self.config);
        self.table.move_down_sequences(self.turns.wrapping_mul(1024));
        self.table.set_floor(self.oracle.floor);
        let registered: Vec<_> = self.oracle.registered.iter().map(|id| DeviceId(*id)).collect();
        let register = |table: &RouteTable| registered.iter().for_each(|id| table.register(*id, self.now));
        if registered_first {
            register(&self.table);
        }
        for (id, kept) in &self.stored {
            self.table.restore(&self.keys, *id, kept);
        }
        if !registered_first {
            register(&self.table);
        }
        self.table.settle();
        self.oracle.restart();
        self.forget_the_forgotten();
        for proofs in self.seen.devices.values_mut() {
            proofs.settled.clear();
            proofs.asked.clear();
            proofs.tries = [0; 2];
            proofs.kept_greatest = 0;
            proofs.known = proofs.written.clone();
        }
        // What was forgotten may be ahead of the floor.
        if std::mem::take(&mut self.seen.set_back) {
            self.forget_proofs();
        }
        self.compare_all()
    }

    /// Compares all that can be asked of a device.
    pub(super) fn compare(&self, device: u64) -> Result<(), String> {
        let (id, history) = (DeviceId(device), self.oracle.devices.get(&device));
        let (snapshot, cursor) = (self.table.snapshot(id), self.table.cursor(id));
        self.same("is known", &snapshot.is_some(), &history.is_some(), &id)?;
        self.same("position", &(cursor.n as usize), &history.map_or(0, History::count), &id)?;
        let registered = self.oracle.registered.contains(&device);
        self.same("is registered", &self.table.registered_since(id).is_some(), &registered, &id)?;
        let (Some(snapshot), Some(history)) = (snapshot, history) else { return Ok(()) };
        let expected = Snapshot {
            device_id: id,
            cursor,
            registered,
            first_packet_at: history.first_packet_at(),
            last_packet: history.last_packet(),
            last_route: history.last_route(),
            direct: history.direct(),
            relayed: history.relayed(),
            proved: [true, false].map(|direct| history.is_proved(direct)),
            application: history.application(),
        };
        self.same("snapshot", &snapshot, &expected, &id)?;
        let route = (self.table.send_route(id, self.now), history.send_route(self.now, cursor));
        self.same("send route", &route.0, &route.1, &id)?;
        self.compare_contest(id, history)?;
        self.compare_moves(cursor, id, history)
    }

    /// Compares all devices that were ever heard, and how many there are.
    pub(super) fn compare_all(&self) -> Result<(), String> {
        let counts = (self.oracle.devices.len(), self.oracle.unregistered());
        self.same("devices", &self.table.devices(), &counts, &())?;
        let ids: HashSet<_> = self.seen.devices.keys().chain(self.oracle.devices.keys()).collect();
        ids.into_iter().try_for_each(|device| self.compare(*device))
    }

    fn compare_contest(&self, id: DeviceId, history: &History) -> Result<(), String> {
        let view = self.table.contest(id, self.now).unwrap_or_default();
        let unanswered = [true, false].map(|direct| history.unanswered(direct).0.min(3));
        self.same("unanswered", &view.unanswered.map(|count| usize::from(count).min(3)), &unanswered, &id)?;
        let pairs = [true, false].map(|direct| history.contested(direct, self.now));
        let is_one = match view.contested {
            None => pairs == [None, None],
            Some([one, other]) => pairs.iter().flatten().any(|pair| pair.contains(&one) && pair.contains(&other)),
        };
        if is_one {
            Ok(())
        } else {
            Err(format!("{id}: contested: the table says {:?}, not {pairs:?}", view.contested))
        }
    }

    fn compare_moves(&self, present: Cursor, id: DeviceId, history: &History) -> Result<(), String> {
        for n in [0].into_iter().chain(present.n.saturating_sub(3)..=present.n) {
            let said = self.table.moved_since(id, Cursor { n, ..present });
            self.same("moved since", &said, &Some(history.moved_since(n as usize)), &(id, n))?;
        }
        for cursor in [Cursor { n: present.n + 1, ..present }, Cursor { epoch: present.epoch ^ 1, ..present }] {
            self.same("moved since", &self.table.moved_since(id, cursor), &Some(true), &cursor)?;
        }
        Ok(())
    }

    fn check_counted(&mut self, sent: &Sent, counted: &Counted, before: Cursor) -> Result<(), String> {
        self.same("is acknowledged", &counted.ack_sequence.is_some(), &sent.asks(), sent)?;
        if let Some(sequence) = counted.ack_sequence {
            self.check_downlink(sent.device, sequence)?;
        }
        let is_next = counted.cursor.epoch != before.epoch || counted.cursor.n == before.n + 1;
        if !is_next || !self.seen.cursors.insert((sent.device, counted.cursor)) {
            return Err(format!("{} comes after {before}, or came before", counted.cursor));
        }
        let proofs = self.seen.devices.entry(sent.device).or_default();
        let key = key(sent);
        if proved(counted.step) && proofs.settled.contains(&key) {
            return Err(format!("{sent:?} was fresh and counted before, and is taken for new: {counted:?}"));
        }
        if TimeClass::of(sent.gps_time, self.now.gps()) == TimeClass::Fresh {
            proofs.settled.insert(key);
        }
        let is_last_word = counted.is_answer || sent.is_deaf();
        if counted.release == Release::Yes && !is_last_word && proofs.ever.packets.contains(&key) {
            return Err(format!("{sent:?} is a recording and has what waits for its device released: {counted:?}"));
        }
        Ok(())
    }

    /// 0 route moves by anything but the device's newest fresh packet, an answer, or after three that nobody gave and silence.
    fn check_move(
        &mut self,
        sent: &Sent,
        step: Step,
        change: RouteChange,
        is_answer: bool,
        before: Option<&Snapshot>,
    ) -> Result<(), String> {
        let now = self.now;
        let proofs = self.seen.devices.entry(sent.device).or_default();
        let (key, slot) = (key(sent), usize::from(!sent.is_direct()));
        let is_newest = proved(step)
            && TimeClass::of(sent.gps_time, now.gps()) == TimeClass::Fresh
            && sent.gps_time >= proofs.ever.greatest[slot]
            && !proofs.ever.packets.contains(&key);
        let was_asked = proofs.asked.get(&sent.place()).is_some_and(|at| at.0.abs_diff(now.0) <= 20_000);
        if proved(step) {
            for proved in [&mut proofs.ever, &mut proofs.known] {
                proved.packets.insert(key);
                if !sent.is_on_word() {
                    proved.greatest[0] = proved.greatest[0].max(sent.gps_time);
                }
                if slot == 1 {
                    proved.greatest[1] = proved.greatest[1].max(sent.gps_time);
                }
            }
        }
        let route_at = before.and_then(|before| match slot {
            0 => before.direct.map(|route| route.received_at),
            _ => before.relayed.map(|route| route.received_at),
        });
        let silence = if before.is_some_and(|before| before.proved[slot]) { 3_600_000 } else { 60_000 };
        let is_silent = route_at.is_some_and(|at| now.0.saturating_sub(at.0) >= silence) && step != Step::Late;
        let is_let_in = !is_refused(step) && is_silent && proofs.tries[slot] >= 3;
        match change {
            RouteChange::First | RouteChange::Moved => proofs.tries[slot] = 0,
            _ if is_answer => proofs.tries[slot] = 0,
            RouteChange::Kept if sent.is_deaf() => proofs.tries[slot] += 1,
            _ => {}
        }
        let may = if is_answer { was_asked } else { is_newest && sent.may_move || is_let_in };
        if may || change != RouteChange::Moved {
            return Ok(());
        }
        Err(format!("{sent:?} moved the route ({step:?}, answer: {is_answer}) and is neither newest nor asked for"))
    }

    fn check_downlink(&mut self, device: u64, sequence: u16) -> Result<(), String> {
        let downlink = (device, self.now.gps(), sequence);
        if self.now.gps() < self.reserved {
            return Ok(());
        }
        match self.seen.downlinks.insert(downlink) {
            true => Ok(()),
            false => Err(format!("a downlink was sent before with device, second and sequence {downlink:?}")),
        }
    }

    /// A device without a record begins anew.
    fn forget_the_forgotten(&mut self) {
        self.seen.devices.retain(|id, _| self.oracle.devices.contains_key(id));
    }

    fn note(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Counted(counted) => {
                let Counted { step, change, release, expects, is_answer, challenges, .. } = counted;
                self.reached.insert(format!("{step:?} {change:?}"));
                self.reached.insert(format!("{release:?} {expects}"));
                self.reached.insert(format!("{challenges:?}"));
                if *is_answer {
                    self.reached.insert(format!("answer {change:?}"));
                } else if *change == RouteChange::Moved && !proved(*step) {
                    self.reached.insert("let in".to_owned());
                }
            }
            Outcome::Refused(Refused { step, answered, challenges }) => {
                self.reached.insert(format!("{step:?}"));
                if challenges.other {
                    self.reached.insert("copy in contest".to_owned());
                }
                if answered.is_some() {
                    self.reached.insert("copy answers".to_owned());
                }
            }
            Outcome::NotRegistered => {}
        }
    }

    fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        said: &T,
        expected: &T,
        of: &dyn std::fmt::Debug,
    ) -> Result<(), String> {
        if said == expected {
            return Ok(());
        }
        Err(format!("{what} of {of:?} at {:?}:\n   table: {said:?}\n  oracle: {expected:?}", self.now))
    }
}

fn key(sent: &Sent) -> Key {
    (sent.is_direct(), sent.gps_time, sent.sequence, sent.entropy)
}

/// What the oracle can tell of an outcome.
fn summary(outcome: &Outcome) -> Expected {
    match *outcome {
        Outcome::Counted(Counted { step, change, release, expects, proved_address, is_answer, challenges, .. }) => {
            Expected::Counted { step, change, release, expects, proved_address, is_answer, challenges }
        }
        Outcome::Refused(Refused { step, answered, challenges }) => {
            let answered = answered.map(|answered| (answered.moved_from.is_some(), answered.expects));
            Expected::Refused { step, answered, challenges }
        }
        Outcome::NotRegistered => Expected::NotRegistered,
    }
}

/// Seals, opens and records a packet.
fn record(sent: &Sent, answers: bool, table: &RouteTable, at: Timestamp) -> Outcome {
    let (header, path) = (sent.header(), sent.path());
    let record = |verified: &Verified<'_>| {
        let receipt = Receipt { at, via: sent.via, len: sent.len };
        table.record(&Packet {
            verified,
            path: &path,
            may_move: sent.may_move,
            answers,
            application: sent.application.map(application),
            network: sent.network,
            receipt,
        })
    };
    match sent.way {
        Way::Direct(_) => open(&header, Interface::Udp, record),
        Way::Relayed(_) => open(&header, Interface::BtGatt, record),
        Way::OnWordOf(relay, level) => {
            let own = Sent { device: relay, level, ..*sent }.header();
            open(&own, Interface::Udp, |relay| record(&Verified::on_word_of(relay, header, &[])))
        }
    }
}

/// As [`super::open`], with the keys of days made once.
fn open<T>(header: &Header, interface: Interface, with: impl FnOnce(&Verified<'_>) -> T) -> T {
    thread_local! {
        static KEYS: RefCell<HashMap<(bool, u32), DayKey>> = RefCell::default();
    }
    let day = header.rotation();
    let mut bytes = Vec::new();
    KEYS.with_borrow_mut(|keys| {
        let made = || RootKey::new([1; 32]).day_key(interface, day);
        let key = keys.entry((matches!(interface, Interface::Udp), day)).or_insert_with(made);
        seal_with(key, header, Layout::Unversioned, &[], &mut bytes);
        let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
        with(&open_with(key, frame).unwrap())
    })
}
