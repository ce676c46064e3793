//! Accepting messages and taking them back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::counters::{MessageCounters, MessageEvent};
use super::follow::GRACE;
use super::outcomes::Awaited;
use super::{Dispatch, Inner, SendError, intents};
use crate::clock::Timestamp;
use crate::downlink::intent::{Intent, Sealing};
use crate::downlink::seal::{NotSealed, SAFE_DATAGRAM};
use crate::downlink::target::Target;
use crate::id::{Cursor, DeviceId};
use crate::records::message::{Message, MessageStatus, NewMessage};
use crate::registry::RegistryError;
use crate::wire::MAX_DATAGRAM;
use crate::wire::frame::Layout;

/// How long somebody who takes a message back waits for the registry.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two attempts to take a message back.
const PAUSE: Duration = Duration::from_secs(1);

impl Dispatch {
    /// Accepts a message: durable when this returns, and sent if it is to be sent at once. It is carried through also where the
    /// caller waits no more.
    ///
    /// # Errors
    /// It is not accepted, and nothing stays of it.
    pub async fn send(&self, new: NewMessage) -> Result<Message, SendError> {
        let inner = Arc::clone(&self.0);
        // Ends otherwise only where the gateway does.
        self.0.runtime.spawn(async move { inner.accept(new).await }).await.unwrap_or(Err(SendError::Busy))
    }

    /// The next request id for a call: 31 bits, at random from the start on and then one by one.
    pub fn request_id(&self) -> u32 {
        self.0.next_request_id.fetch_add(1, Ordering::Relaxed) & (u32::MAX >> 1)
    }

    /// Takes a message back that waits, or has expired: `None` if there is none, `Some(false)` if it was sent.
    ///
    /// # Errors
    /// The registry does not answer. Then the message is not sent any more, and taken back as soon as it does.
    pub async fn withdraw(&self, id: Uuid) -> Result<Option<bool>, RegistryError> {
        let inner = Arc::clone(&self.0);
        let withdrawing = self.0.runtime.spawn(async move { inner.withdraw(id).await });
        let unavailable = || Err(RegistryError::Unavailable("take the message back"));
        timeout(PATIENCE, withdrawing)
            .await
            .map_or_else(|_| unavailable(), |ended| ended.unwrap_or_else(|_| unavailable()))
    }

    /// What happened so far.
    pub fn counters(&self) -> &MessageCounters {
        &self.0.counters
    }

    /// Events that were lost for want of room, see [`crate::downlink::channel::Events::lost`].
    pub fn lost(&self) -> u64 {
        self.0.downlinks.events.lost()
    }

    /// Messages that wait for their devices.
    pub fn waiting(&self) -> usize {
        self.0.downlinks.outbox.waiting()
    }

    /// Calls that were sent and are not answered, as far as they are remembered.
    pub fn calls(&self) -> usize {
        self.0.downlinks.outbox.calls()
    }
}

impl Inner {
    async fn accept(&self, new: NewMessage) -> Result<Message, SendError> {
        self.check(&new)?;
        let (device, data) = (new.device, new.data.clone());
        let unknown = |error| match error {
            RegistryError::NotFound { .. } => SendError::UnknownDevice(device),
            error => error.into(),
        };
        let message = self.registry.add_message(new).await.map_err(unknown)?;
        let intent = intents::of(&message, data);
        let mut awaited = self.outcomes.of_message(message.n);
        let placed = match intent.expires_at {
            None => self.send_now(device, &intent),
            Some(expires_at) => self.let_wait(&message, intent, expires_at),
        };
        match placed {
            Ok(()) => {
                self.counters.message(MessageEvent::Accepted);
                let is_waiting = message.send_wait_timeout_ms > 0;
                Ok(if is_waiting { message } else { written(message, &mut awaited).await })
            }
            Err(error) => {
                // It stays in the list otherwise, as one that expired or waits for the next start: so say so.
                if let Err(failed) = self.registry.withdraw_message(message.id).await {
                    tracing::warn!(message = %message.id, %failed, "a message that was refused is still in the registry");
                }
                Err(error)
            }
        }
    }

    fn let_wait(&self, message: &Message, intent: Intent, expires_at: Timestamp) -> Result<(), SendError> {
        let device = message.device.device_id;
        self.downlinks.outbox.add(device, intent)?;
        // One that was deleted meanwhile was forgotten before this was added.
        if self.table.registration(device).is_none_or(|present| present.organisation != message.organisation) {
            self.downlinks.outbox.forget(device);
            return Err(SendError::UnknownDevice(device));
        }
        self.table.expect(device);
        self.deadlines.added(expires_at);
        Ok(())
    }

    /// Whether a message can be sent, or wait, as things are.
    fn check(&self, new: &NewMessage) -> Result<(), SendError> {
        let device = new.device;
        self.table.registration(device).ok_or(SendError::UnknownDevice(device))?;
        if !new.packet_type.is_downlink_only() && !new.packet_type.is_both_ways() {
            return Err(SendError::OfDevices(new.packet_type));
        }
        if self.stored.load(Ordering::Relaxed) >= self.config.registry_limit {
            return Err(SendError::Stored);
        }
        let at_once = new.send_wait_timeout_ms == 0;
        let now = self.clock.now();
        let target = self.target(device, now);
        if at_once {
            if target.is_none() {
                return Err(SendError::NoRoute(device));
            }
            if new.sealing == Sealing::Device && self.keys.downlink_key_id(device).is_none() {
                return Err(SendError::NoKey(device));
            }
        } else {
            self.downlinks.outbox.has_place(device, new.data.as_ref().map_or(0, |data| data.len()))?;
        }
        check_len(intents::len(new), target.as_ref(), at_once)?;
        if let Some(cursor) = new.if_route
            && self.has_moved(device, cursor)
        {
            return Err(SendError::RouteMoved { cursor: self.table.cursor(device) });
        }
        if at_once && !self.downlinks.allowance.allows(now.gps()) {
            return Err(SendError::Busy);
        }
        Ok(())
    }

    /// Whether the route has moved since; also where nobody knows.
    pub(super) fn has_moved(&self, device: DeviceId, since: Cursor) -> bool {
        self.table.moved_since(device, since).unwrap_or(true)
    }

    async fn withdraw(&self, id: Uuid) -> Result<Option<bool>, RegistryError> {
        let Some(message) = self.registry.message(id).await? else { return Ok(None) };
        if message.status != MessageStatus::Waiting || self.is_immediate(message.n) || !self.take_back(&message).await {
            return Ok(Some(false));
        }
        loop {
            match self.registry.withdraw_message(id).await {
                Ok(withdrawn) => {
                    self.withdrawing.lock().unwrap_or_else(PoisonError::into_inner).remove(&message.n);
                    if withdrawn {
                        self.counters.message(MessageEvent::Withdrawn);
                        self.outcomes.tell_withdrawn(message);
                    }
                    return Ok(Some(withdrawn));
                }
                Err(error) => tracing::warn!(message = %id, %error, "cannot take a message back; trying again"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Makes sure that a message which waits is not sent any more. False if it was.
    async fn take_back(&self, message: &Message) -> bool {
        let waited = self.downlinks.outbox.withdraw(message.device.device_id, message.n);
        let known = waited || self.withdrawing.lock().unwrap_or_else(PoisonError::into_inner).contains(&message.n);
        // It has expired, there was no room for it when the gateway started, or it was sent and that is not written down yet.
        if !known && self.is_found_sent(message).await {
            return false;
        }
        self.withdrawing.lock().unwrap_or_else(PoisonError::into_inner).insert(message.n);
        true
    }

    /// Whether a message that waits by what is written, and not in memory, is written down as sent within [`GRACE`].
    async fn is_found_sent(&self, message: &Message) -> bool {
        let mut awaited = self.outcomes.of_message(message.n);
        let may_be_sent_until = self.clock.now().min(message.expires_at.0).after(GRACE);
        let wait = Duration::from_millis(may_be_sent_until.0.saturating_sub(self.clock.now().0));
        let sent = async {
            while let Some(outcome) = awaited.next().await {
                if outcome.message.status != MessageStatus::Waiting {
                    return;
                }
            }
        };
        timeout(wait, sent).await.is_ok()
    }
}

/// The message that was sent at once, as soon as that is written down: whoever looks for it then finds it sent.
async fn written(message: Message, awaited: &mut Awaited<'_>) -> Message {
    match timeout(GRACE, awaited.next()).await {
        Ok(Some(outcome)) => Arc::unwrap_or_clone(outcome.message),
        // The registry is slow, or the device was deleted.
        Ok(None) | Err(_) => message,
    }
}

/// Whether a message fits by the way it would go. One that may wait may still go directly, if its device has ever done so.
fn check_len(payload_len: usize, target: Option<&Target>, at_once: bool) -> Result<(), NotSealed> {
    let largest = target.map_or(0, |target| target.route.largest);
    match target {
        Some(target) if at_once || largest == 0 => target.to.fit(payload_len).map(|_| ()),
        _ => {
            let len = Layout::Unversioned.min_len() + payload_len;
            let limit = SAFE_DATAGRAM.max(largest.into()).min(MAX_DATAGRAM);
            if len <= limit { Ok(()) } else { Err(NotSealed::TooLong { len, limit }) }
        }
    }
}
