//! What waits for which device, in the order in which it was accepted, and what was sent and is not answered.
//!
//! Of one device's intents the first goes first: one that cannot go yet holds back all behind it, and one that never will
//! vanishes. Nothing here is durable: the registry has the record of it all, and fills this at the start.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError};
#[cfg(not(feature = "shuttle"))]
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use foldhash::fast::RandomState;
#[cfg(feature = "shuttle")]
use shuttle::sync::{Mutex, MutexGuard};

use super::channel::Events;
use super::event::{Answer, Dropped, Event, Listening, Received, Way};
use super::exchange::{Begun, Ended, Exchanges, Pieces, Refused};
use super::intent::{Call, Intent, Retry};
use super::room::{DataClaim, DataRoom, Place, Places};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::route::Route;
use crate::wire::forward::Terminated;
use crate::wire::frame::Level;
use crate::wire::rpc::{Data, DataAck, Response};

/// How much is kept.
#[derive(Clone, Debug)]
pub struct OutboxConfig {
    /// Intents that wait for one device. Default 1000: all of them may leave on one packet, on the thread that received it.
    pub per_device: usize,
    /// Intents that wait in all. Default 1 000 000, some 300 MB with short payloads.
    pub total: usize,
    /// Bytes of data of calls, towards devices and from them, in all. Default 64 MiB.
    pub data: usize,
    /// The same, of one device. Default 8 MiB, so that no device has all of it.
    pub device_data: usize,
    /// Calls that were sent and are not answered. Default 200 000, some 30 MB; the oldest makes room.
    pub calls: usize,
    /// How long a call is remembered after it was sent. Default 10 minutes.
    pub remembered: Duration,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        let remembered = Duration::from_secs(600);
        Self { per_device: 1000, total: 1_000_000, data: 64 << 20, device_data: 8 << 20, calls: 200_000, remembered }
    }
}

/// Why nothing more may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// [`OutboxConfig::per_device`] wait already.
    #[error("too many messages wait for this device; try again once some of them are sent")]
    Device,
    /// [`OutboxConfig::total`] wait already.
    #[error("too many messages wait at this gateway; try again once some of them are sent")]
    Total,
    /// [`OutboxConfig::data`] or [`OutboxConfig::device_data`] is used up.
    #[error("too much data is on its way to this device, or to all of them; try again once some of it has arrived")]
    Data,
}

/// What becomes of an intent whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It was sealed and leaves.
    Send(Way),
    /// It waits on, and with it all behind it.
    Stay,
    /// It is given up.
    Drop(Dropped),
}

/// What became of something that a device sent for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It belongs to a call that is remembered.
    Taken,
    /// An answer to a call that is not remembered: the record may know it.
    Late,
    /// Nothing was made of it.
    Refused(Refused),
}

/// Intents that wait, and calls that are not answered. Shared by everybody who sends and receives.
///
/// Lock order: a shard, then the exchanges; and below a shard the records of the table, since [`Self::take_due`] seals.
#[derive(Debug)]
pub struct Outbox {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    config: OutboxConfig,
    places: Arc<Places>,
    exchanges: Mutex<Exchanges>,
    room: Arc<DataRoom>,
    events: Events,
}

/// The intents for some of the devices.
#[derive(Debug, Default)]
struct Shard {
    waiting: BTreeMap<(DeviceId, i64), Waiting>,
    deadlines: BTreeSet<Deadline>,
}

#[derive(Debug)]
struct Waiting {
    intent: Intent,
    /// When it was sent last, of one that is sent until it is answered.
    sent: Option<Sent>,
    claim: Option<Arc<DataClaim>>,
    _place: Place,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Timestamp,
    level: Level,
}

/// How long the answer to a call, or the next piece of its data, is waited for before it is sent again. The answer to another
/// call lets go what waits, too: without this each would have all others sent again.
const SENT_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A power of two, so that threads rarely meet; the locks are short.
const SHARDS: usize = 64;

impl Outbox {
    /// An empty one, which tells `events` what happens.
    pub fn new(config: OutboxConfig, events: Events) -> Self {
        let exchanges = Mutex::new(Exchanges::new(config.calls, config.remembered));
        let places = Arc::new(Places::new(config.total));
        let room = Arc::new(DataRoom::new(config.data, config.device_data));
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::default(), config, places, exchanges, room, events }
    }

    /// Lets an intent wait for its device, behind those with a lesser message number. Whoever adds one tells the table
    /// afterwards ([`crate::table::RouteTable::expect`]), so that the next packet looks here.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn add(&self, device: DeviceId, intent: Intent) -> Result<(), Full> {
        self.wait(device, intent, None)
    }

    /// Takes up what an earlier process has sent, at `at` and under such a key, and what may be answered yet: its call is
    /// remembered for what is left of its time, and it waits on if it is sent until it is answered. Data that was moving is
    /// not taken up, since nobody knows how far it was.
    ///
    /// # Errors
    /// There is no room for it to wait on. Its call is remembered all the same.
    pub fn resume(&self, device: DeviceId, intent: Intent, level: Level, at: Timestamp) -> Result<(), Full> {
        if let Some(call) = &intent.call {
            let call = Call { data: None, ..call.clone() };
            self.exchanges().begin(
                &Begun { device, message: intent.message, call: &call, level, at },
                &self.room,
                None,
            );
        }
        match intent.retry {
            Retry::Never => Ok(()),
            Retry::UntilAnswered => self.wait(device, intent, Some(Sent { at, level })),
        }
    }

    fn wait(&self, device: DeviceId, intent: Intent, sent: Option<Sent>) -> Result<(), Full> {
        let mut guard = self.shard(device);
        let Shard { waiting, deadlines } = &mut *guard;
        if waiting.range(all_of(device)).count() >= self.config.per_device {
            return Err(Full::Device);
        }
        let place = Place::take(&self.places).ok_or(Full::Total)?;
        let claim = match intent.data_len() {
            0 => None,
            bytes => Some(Arc::new(DataClaim::take(&self.room, device, bytes).ok_or(Full::Data)?)),
        };
        let message = intent.message;
        deadlines.extend(deadline(device, &intent));
        waiting.insert((device, message), Waiting { intent, sent, claim, _place: place });
        Ok(())
    }

    /// Whether one more intent with so many bytes of data may wait for a device, as things are. Others may be faster.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn has_place(&self, device: DeviceId, data_len: usize) -> Result<(), Full> {
        match () {
            () if self.waiting_for(device) >= self.config.per_device => Err(Full::Device),
            () if !self.places.has_one() => Err(Full::Total),
            () if data_len > 0 && !self.room.has(device, data_len) => Err(Full::Data),
            () => Ok(()),
        }
    }

    /// Whether there is room for the data of an intent that is to be sent at once.
    ///
    /// # Errors
    /// [`Full::Data`].
    pub fn has_room(&self, device: DeviceId, intent: &Intent) -> Result<(), Full> {
        let bytes = intent.data_len();
        if bytes == 0 || self.room.has(device, bytes) { Ok(()) } else { Err(Full::Data) }
    }

    /// Takes an intent back. False if it was sent, be it that it waits to be sent again, has expired, or never was here.
    pub fn withdraw(&self, device: DeviceId, message: i64) -> bool {
        let mut shard = self.shard(device);
        let is_unsent = shard.waiting.get(&(device, message)).is_some_and(|waiting| waiting.sent.is_none());
        is_unsent && shard.remove(device, message)
    }

    /// Offers what waits for `device` and is due to `decide`, in order, until one stays. Returns whether something is left that
    /// its next packet must look for. Due is what is not expired, and was not sent in the last 10 s nor has moved data in them.
    ///
    /// `decide` runs under the lock of a shard: it seals, and does nothing slower. It is told whether the intent is the only
    /// one that is due.
    pub fn take_due(
        &self,
        device: DeviceId,
        listening: Listening,
        at: Timestamp,
        mut decide: impl FnMut(&Intent, bool) -> Decision,
    ) -> bool {
        let mut guard = self.shard(device);
        let Shard { waiting, deadlines } = &mut *guard;
        let mut due = waiting.range(all_of(device)).filter(|(_, waiting)| self.is_due(device, waiting, at));
        let is_only = due.next().is_some() && due.next().is_none();
        let (mut is_held, mut is_left) = (false, false);
        let taken = waiting.extract_if(all_of(device), |(_, message), waiting| {
            if !self.is_due(device, waiting, at) {
                is_left |= !waiting.intent.is_expired(at);
                return false;
            }
            let Waiting { intent, sent, claim, .. } = waiting;
            let goes = !is_held
                && match decide(intent, is_only) {
                    Decision::Send(way) => {
                        self.note_sent(device, intent, claim.clone(), at, way, listening);
                        *sent = Some(Sent { at, level: way.level });
                        intent.retry == Retry::Never
                    }
                    Decision::Drop(why) => {
                        self.events.send(Event::Dropped { device, message: *message, at, why });
                        true
                    }
                    Decision::Stay => {
                        is_held = true;
                        false
                    }
                };
            is_left |= !goes;
            goes
        });
        taken.for_each(|(_, gone)| forget_deadline(deadlines, device, &gone.intent));
        is_left
    }

    fn is_due(&self, device: DeviceId, waiting: &Waiting, at: Timestamp) -> bool {
        let Waiting { intent, sent, .. } = waiting;
        let is_recent = |moment: Timestamp| at.0.abs_diff(moment.0) < SENT_AGAIN_AFTER.as_millis() as u64;
        let data_moved = || self.exchanges().data_moved_at(device, intent.call.as_ref()?.request_id);
        !intent.is_expired(at) && !sent.is_some_and(|sent| is_recent(sent.at) || data_moved().is_some_and(is_recent))
    }

    /// An intent that did not wait was sealed and leaves: tells so, and remembers its call. Before the datagram is handed to a
    /// socket, so that no answer comes first.
    pub fn sent(&self, device: DeviceId, intent: &Intent, at: Timestamp, way: Way, listening: Listening) {
        self.note_sent(device, intent, None, at, way, listening);
    }

    fn note_sent(
        &self,
        device: DeviceId,
        intent: &Intent,
        claim: Option<Arc<DataClaim>>,
        at: Timestamp,
        way: Way,
        listening: Listening,
    ) {
        let message = intent.message;
        if intent.call.is_some() || way.relay.is_some() {
            let mut exchanges = self.exchanges();
            if let Some(call) = &intent.call {
                exchanges.begin(&Begun { device, message, call, level: way.level, at }, &self.room, claim);
            }
            if let Some(through) = &way.relay {
                exchanges.passed(through, device, message);
            }
        }
        self.events.send(Event::Sent { device, message, at, way, listening });
    }

    /// Takes in an RPC_RSP of `device`, whose packet came by `route`.
    pub fn answer(&self, device: DeviceId, level: Level, payload: &[u8], at: Timestamp, route: Route) -> Heard {
        let Some(response) = Response::parse(payload) else { return Heard::Refused(Refused::Truncated) };
        // Both at once, so that what is sent meanwhile is either not sent or remembered.
        let mut shard = self.shard(device);
        let ended = match self.exchanges().end(device, level, &response) {
            Ok(None) => shard.end(device, level, &response),
            ended => ended,
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(refused) => return Heard::Refused(refused),
        };
        let Response { request_id, command_id, return_code, body } = response;
        let answer = Answer { request_id, command_id, return_code, body: body.into(), level, at, route };
        let Some(Ended { message, data }) = ended else {
            self.events.send(Event::LateAnswer { device, answer });
            return Heard::Late;
        };
        // One that is sent until it is answered still waits.
        shard.remove(device, message);
        self.events.send(Event::Answered { device, message, answer, data });
        Heard::Taken
    }

    /// Takes in an RPC_DATA of `device`.
    pub fn data(&self, device: DeviceId, level: Level, payload: &[u8], at: Timestamp) -> Heard {
        let Some(piece) = Data::parse(payload) else { return Heard::Refused(Refused::Truncated) };
        match self.exchanges().take(device, level, &piece, at) {
            Ok(()) => Heard::Taken,
            Err(refused) => Heard::Refused(refused),
        }
    }

    /// Takes in an RPC_DATA_ACK of `device`: what it may be sent next, each at most `room` bytes of payload
    /// ([`super::seal::Destination::room`]) and at most 8 of them. They count as sent. Anybody in its network can have made
    /// the acknowledgement, and what it asks for is many times as long: only for one from an address that is proved.
    ///
    /// # Errors
    /// It belongs to no call that has data for the device.
    pub fn data_ack(&self, device: DeviceId, payload: &[u8], room: usize, at: Timestamp) -> Result<Pieces, Refused> {
        let ack = DataAck::parse(payload).ok_or(Refused::Truncated)?;
        self.exchanges().next(device, &ack, room, at)
    }

    /// Takes in an EPACKET_CONN_TERMINATED of `relay`, which is sent at device level.
    pub fn terminated(&self, relay: DeviceId, level: Level, payload: &[u8], at: Timestamp) -> Heard {
        if level != Level::Device {
            return Heard::Refused(Refused::Forged);
        }
        let Some(Terminated { reason, address, .. }) = Terminated::parse(payload) else {
            return Heard::Refused(Refused::Truncated);
        };
        let last = self.exchanges().last_passed(relay, address);
        self.events.send(Event::Terminated { relay, address, reason, last, at });
        Heard::Taken
    }

    /// Data that a device has sent so far for a call that is not answered. `None` for a call that gives none or is not
    /// remembered.
    pub fn received(&self, device: DeviceId, request_id: u32) -> Option<Received> {
        self.exchanges().received(device, request_id)
    }

    /// Forgets all that waits for a device and all its calls: it was deleted.
    pub fn forget(&self, device: DeviceId) {
        let mut guard = self.shard(device);
        let Shard { waiting, deadlines } = &mut *guard;
        let all = waiting.extract_if(all_of(device), |_, _| true);
        all.for_each(|(_, gone)| forget_deadline(deadlines, device, &gone.intent));
        drop(guard);
        self.exchanges().forget(device);
    }

    /// Removes what has expired by `now`: device and message of each, in the order of expiry within a shard. Whoever keeps the
    /// record calls this often, since expired intents take room until then.
    pub fn expire(&self, now: Timestamp) -> Vec<(DeviceId, i64)> {
        self.exchanges().expire(now);
        let mut expired = Vec::new();
        for shard in &self.shards {
            let Shard { waiting, deadlines } = &mut *lock(shard);
            while let Some((_, device, message)) = deadlines.first().copied().filter(|(at, ..)| *at <= now) {
                deadlines.pop_first();
                waiting.remove(&(device, message));
                expired.push((device, message));
            }
        }
        expired
    }

    /// When the next intent expires.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.shards.iter().filter_map(|shard| lock(shard).deadlines.first().map(|(at, ..)| *at)).min()
    }

    /// Intents that wait.
    pub fn waiting(&self) -> usize {
        self.places.used()
    }

    /// Intents that wait for one device.
    pub fn waiting_for(&self, device: DeviceId) -> usize {
        self.shard(device).waiting.range(all_of(device)).count()
    }

    /// Calls that are remembered.
    pub fn calls(&self) -> usize {
        self.exchanges().len()
    }

    fn shard(&self, device: DeviceId) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(device) as usize % SHARDS])
    }

    fn exchanges(&self) -> MutexGuard<'_, Exchanges> {
        lock(&self.exchanges)
    }
}

impl Shard {
    fn remove(&mut self, device: DeviceId, message: i64) -> bool {
        let Some(Waiting { intent, .. }) = self.waiting.remove(&(device, message)) else { return false };
        forget_deadline(&mut self.deadlines, device, &intent);
        true
    }

    /// A call that waits is answered, and is not remembered as sent. Nobody can answer what was never sent.
    fn end(&self, device: DeviceId, level: Level, answer: &Response<'_>) -> Result<Option<Ended>, Refused> {
        let asked =
            |waiting: &&Waiting| waiting.intent.call.as_ref().is_some_and(|call| call.request_id == answer.request_id);
        let Some(waiting) = self.waiting.range(all_of(device)).map(|(_, waiting)| waiting).find(asked) else {
            return Ok(None);
        };
        let is_command = waiting.intent.call.as_ref().is_some_and(|call| call.command_id == answer.command_id);
        match waiting.sent {
            Some(sent) if is_command && level >= sent.level => {
                Ok(Some(Ended { message: waiting.intent.message, data: None }))
            }
            _ => Err(Refused::Forged),
        }
    }
}

type Deadline = (Timestamp, DeviceId, i64);

fn deadline(device: DeviceId, intent: &Intent) -> Option<Deadline> {
    intent.expires_at.map(|at| (at, device, intent.message))
}

fn forget_deadline(deadlines: &mut BTreeSet<Deadline>, device: DeviceId, intent: &Intent) {
    if let Some(deadline) = deadline(device, intent) {
        deadlines.remove(&deadline);
    }
}

fn all_of(device: DeviceId) -> RangeInclusive<(DeviceId, i64)> {
    (device, i64::MIN)..=(device, i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// The locks of the shuttle scheduler work inside its own tests only.
#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
#[path = "outbox_tests.rs"]
mod tests;
