//! Calls that were sent and are not answered, and the data that belongs to them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;

use super::event::{Received, Through};
use super::intent::{Call, DataPhase, Sealing};
use super::phase::{Receiving, Sending};
use super::room::{DataClaim, DataRoom};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::wire::container::BtAddress;
use crate::wire::frame::Level;
use crate::wire::rpc::{Data, DataAck, Response};

/// Ways through relays of which is remembered who went there last: 20 000 are about 2 MiB, and as many connections as a
/// thousand relays open in a quarter of an hour.
const PASSAGES: usize = 20_000;

/// Why nothing is made of what a device sent for a call.
pub use crate::metrics::RefusedAnswer as Refused;

/// What is to be sent to a device in answer to an RPC_DATA_ACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Under which key: that of the call.
    pub sealing: Sealing,
    /// The payloads of RPC_DATA, in order; none if nothing is left, or nothing new was acknowledged.
    pub payloads: Vec<Vec<u8>>,
}

/// A call that was answered.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) message: i64,
    /// What the device sent before.
    pub(super) data: Option<Received>,
}

/// Calls by device and request id, and each once in the order they were sent.
#[derive(Debug)]
pub(super) struct Exchanges {
    calls: BTreeMap<(DeviceId, u32), Exchange>,
    order: BTreeMap<Turn, (DeviceId, u32)>,
    next_ticket: u64,
    limit: usize,
    remembered: Duration,
    passages: LruCache<(DeviceId, BtAddress), (DeviceId, i64), foldhash::fast::RandomState>,
}

/// When a call was sent, and a number that no other has.
type Turn = (Timestamp, u64);

#[derive(Debug)]
struct Exchange {
    turn: Turn,
    message: i64,
    command_id: u16,
    level: Level,
    phase: Option<Phase>,
    /// When a piece of data came or was sent last.
    data_moved_at: Option<Timestamp>,
}

#[derive(Debug)]
enum Phase {
    Towards(Sending),
    From(Receiving),
}

/// A call that is sent.
#[derive(Debug)]
pub(super) struct Begun<'a> {
    pub(super) device: DeviceId,
    pub(super) message: i64,
    pub(super) call: &'a Call,
    pub(super) level: Level,
    pub(super) at: Timestamp,
}

impl Exchanges {
    pub(super) fn new(limit: usize, remembered: Duration) -> Self {
        let passages = LruCache::unbounded_with_hasher(Default::default());
        Self { calls: BTreeMap::new(), order: BTreeMap::new(), next_ticket: 0, limit, remembered, passages }
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// A call was sent; what was known of an earlier sending is forgotten. `claim` is that of its data; without it the data
    /// takes its room now, whether there is some or not.
    pub(super) fn begin(&mut self, begun: &Begun<'_>, room: &Arc<DataRoom>, claim: Option<Arc<DataClaim>>) {
        let Begun { device, message, call, level, at } = *begun;
        self.expire(at);
        self.remove(device, call.request_id);
        if self.order.len() >= self.limit {
            self.forget_oldest();
        }
        let phase = call.data.as_ref().map(|phase| match phase {
            DataPhase::Towards { data, ack_period } => {
                let claim = claim.unwrap_or_else(|| Arc::new(DataClaim::force(room, device, data.len())));
                Phase::Towards(Sending::new(data.clone(), *ack_period, claim))
            }
            DataPhase::From { limit } => Phase::From(Receiving::new(*limit, DataClaim::none(room, device))),
        });
        let turn = (at, self.next_ticket);
        self.next_ticket += 1;
        let exchange = Exchange { turn, message, command_id: call.command_id, level, phase, data_moved_at: None };
        self.calls.insert((device, call.request_id), exchange);
        self.order.insert(turn, (device, call.request_id));
    }

    /// A call is answered. `None`: it is not remembered.
    pub(super) fn end(
        &mut self,
        device: DeviceId,
        level: Level,
        answer: &Response<'_>,
    ) -> Result<Option<Ended>, Refused> {
        let Entry::Occupied(call) = self.calls.entry((device, answer.request_id)) else { return Ok(None) };
        if level < call.get().level || answer.command_id != call.get().command_id {
            return Err(Refused::Forged);
        }
        let call = call.remove();
        self.order.remove(&call.turn);
        Ok(Some(Ended { message: call.message, data: call.received() }))
    }

    /// A device sends data.
    pub(super) fn take(
        &mut self,
        device: DeviceId,
        level: Level,
        piece: &Data<'_>,
        at: Timestamp,
    ) -> Result<(), Refused> {
        let call = self.calls.get_mut(&(device, piece.request_id)).ok_or(Refused::Unknown)?;
        if level < call.level {
            return Err(Refused::Forged);
        }
        let Some(Phase::From(receiving)) = &mut call.phase else { return Err(Refused::Unknown) };
        if !receiving.take(piece) {
            return Err(Refused::NoRoom);
        }
        call.data_moved_at = Some(at);
        Ok(())
    }

    /// A device asks for data, or acknowledges some, which it does at network level whatever the level of the call.
    pub(super) fn next(
        &mut self,
        device: DeviceId,
        ack: &DataAck,
        room: usize,
        at: Timestamp,
    ) -> Result<Pieces, Refused> {
        let call = self.calls.get_mut(&(device, ack.request_id)).ok_or(Refused::Unknown)?;
        let Some(Phase::Towards(sending)) = &mut call.phase else { return Err(Refused::Unknown) };
        let payloads = sending.next(ack, room);
        if !payloads.is_empty() {
            call.data_moved_at = Some(at);
        }
        Ok(Pieces { sealing: call.level.into(), payloads })
    }

    pub(super) fn received(&self, device: DeviceId, request_id: u32) -> Option<Received> {
        self.calls.get(&(device, request_id))?.received()
    }

    pub(super) fn data_moved_at(&self, device: DeviceId, request_id: u32) -> Option<Timestamp> {
        self.calls.get(&(device, request_id))?.data_moved_at
    }

    /// Something for a device went through a relay.
    pub(super) fn passed(&mut self, through: &Through, device: DeviceId, message: i64) {
        if self.passages.put((through.relay, through.address), (device, message)).is_none()
            && self.passages.len() > PASSAGES
        {
            self.passages.pop_lru();
        }
    }

    /// What went this way last, told once.
    pub(super) fn last_passed(&mut self, relay: DeviceId, address: BtAddress) -> Option<(DeviceId, i64)> {
        self.passages.pop(&(relay, address))
    }

    pub(super) fn forget(&mut self, device: DeviceId) {
        for (_, call) in self.calls.extract_if((device, 0)..=(device, u32::MAX), |_, _| true) {
            self.order.remove(&call.turn);
        }
    }

    /// Forgets the calls that were sent too long ago.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while self.order.first_key_value().is_some_and(|((at, _), _)| at.after(self.remembered) <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, call)) = self.order.pop_first() {
            self.calls.remove(&call);
        }
    }

    fn remove(&mut self, device: DeviceId, request_id: u32) {
        if let Some(call) = self.calls.remove(&(device, request_id)) {
            self.order.remove(&call.turn);
        }
    }
}

impl Exchange {
    /// What the device has sent so far.
    fn received(&self) -> Option<Received> {
        match &self.phase {
            Some(Phase::From(receiving)) => Some(receiving.so_far()),
            Some(Phase::Towards(_)) | None => None,
        }
    }
}
