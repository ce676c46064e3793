//! What is sealed here rather than on the thread of a packet: messages that are to be sent at once, and those whose device has
//! spoken a moment ago.

use std::sync::PoisonError;
use std::time::Duration;

use super::{Inner, SendError};
use crate::clock::Timestamp;
use crate::downlink::event::Way;
use crate::downlink::intent::{Intent, Sealing};
use crate::downlink::outbox::Decision;
use crate::downlink::seal::{NotSealed, Sealer};
use crate::downlink::target::Target;
use crate::id::DeviceId;
use crate::ingest::posts::Busy;

/// How long after its packet a device is believed to listen still. Firmware listens for some seconds after what it sends.
const STILL_LISTENS: Duration = Duration::from_secs(5);

impl Inner {
    /// The way to a device; `None` if there is none.
    pub(super) fn target(&self, device: DeviceId, now: Timestamp) -> Option<Target> {
        Target::along_route(&self.table, &self.keys, device, now)
    }

    /// Seals an intent and hands it to the socket. It counts as sent from then on.
    ///
    /// # Errors
    /// It cannot be sent; nothing happened.
    pub(super) fn send_now(&self, device: DeviceId, intent: &Intent) -> Result<(), SendError> {
        let now = self.clock.now();
        let target = self.target(device, now).ok_or(SendError::NoRoute(device))?;
        if intent.if_route.is_some_and(|cursor| self.has_moved(device, cursor)) {
            return Err(SendError::RouteMoved { cursor: target.route.cursor });
        }
        self.downlinks.outbox.has_room(device, intent)?;
        let place = self.posts.reserve(target.via).map_err(|Busy| SendError::Busy)?;
        let mut bytes = Vec::new();
        let is_only = self.downlinks.outbox.waiting_for(device) == 0;
        let way = self.seal(&target, intent, is_only, now, &mut bytes)?;
        self.immediate.lock().unwrap_or_else(PoisonError::into_inner).insert(intent.message);
        self.downlinks.outbox.sent(device, intent, now, way, target.listening());
        place.post(way.address, bytes);
        Ok(())
    }

    /// Sends what waits for a device that has spoken a moment ago, by its route, if that is proved to be its own.
    pub(super) fn release(&self, device: DeviceId) {
        let now = self.clock.now();
        let target = self.target(device, now).filter(|target| target.route.proved);
        let Some(target) = target.filter(|target| now <= target.route.heard_at.after(STILL_LISTENS)) else { return };
        let mut posts = Vec::new();
        let is_in_doubt = self.downlinks.doubted_key(&self.keys, device, now).is_some();
        let left = self.downlinks.outbox.take_due(device, target.listening(), now, |intent, is_only| {
            if is_in_doubt && intent.sealing != Sealing::Network {
                return Decision::Stay;
            }
            if let Some(why) = target.refusal(&self.table, intent) {
                return Decision::Drop(why);
            }
            let Ok(place) = self.posts.reserve(target.via) else { return Decision::Stay };
            let mut bytes = Vec::new();
            match self.seal(&target, intent, is_only, now, &mut bytes) {
                Ok(way) => {
                    posts.push((place, way.address, bytes));
                    Decision::Send(way)
                }
                Err(not) => not.decide(intent),
            }
        });
        for (place, address, bytes) in posts {
            place.post(address, bytes);
        }
        if left {
            self.table.expect(device);
        }
    }

    /// Whether a message was sealed here, which is not written down yet.
    pub(super) fn is_immediate(&self, message: i64) -> bool {
        self.immediate.lock().unwrap_or_else(PoisonError::into_inner).contains(&message)
    }

    /// As [`Self::is_immediate`]; not any more.
    pub(super) fn take_immediate(&self, message: i64) -> bool {
        self.immediate.lock().unwrap_or_else(PoisonError::into_inner).remove(&message)
    }

    fn seal(
        &self,
        target: &Target,
        intent: &Intent,
        is_only: bool,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<Way, NotSealed> {
        let mut authenticator = self.authenticator.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sealer = Sealer {
            keys: &self.keys,
            authenticator: &mut authenticator,
            nonces: &self.nonces,
            allowance: &self.downlinks.allowance,
            sequences: &|device| self.table.next_downlink_sequence(device),
            now,
        };
        sealer.seal_intent(&target.to, intent, is_only, out)
    }
}

impl From<NotSealed> for SendError {
    fn from(not: NotSealed) -> Self {
        match not {
            NotSealed::NoKey(device) => Self::NoKey(device),
            NotSealed::NoNetwork(device) => Self::NoNetwork(device),
            NotSealed::TooLong { len, limit } => Self::TooLong { len, limit },
            NotSealed::NotYet => Self::Busy,
            NotSealed::NotHeard(device) => Self::NoRoute(device),
        }
    }
}
