//! Following messages until nothing more is to be expected of them.

use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::outcomes::Outcome;
use super::{Dispatch, Inner, SendError};
use crate::records::message::{Message, MessageStatus, NewMessage};
use crate::registry::RegistryError;

/// How long after its time a message that waits may have been sent without that being written down.
pub(super) const GRACE: Duration = Duration::from_secs(2);

impl Dispatch {
    /// Accepts a message for the next packet of its device, and waits until it is sent and, if it is a call, answered; at most
    /// for its `send_wait_timeout_ms` and then `answer_within`. [`Message::status`] tells how far it came.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_on_next_packet(&self, new: NewMessage, answer_within: Duration) -> Result<Message, SendError> {
        let wait = Duration::from_millis(new.send_wait_timeout_ms).saturating_add(GRACE);
        let message = self.send(new).await?;
        let deadline = far(Instant::now(), wait.saturating_add(answer_within));
        let followed = self.0.follow(message.n, deadline, Some(answer_within)).await?;
        // Somebody took it back.
        Ok(followed.unwrap_or(message))
    }

    /// The message with this id as it is now, if there is one.
    ///
    /// # Errors
    /// The registry does not answer.
    pub async fn message(&self, id: Uuid) -> Result<Option<Message>, RegistryError> {
        self.0.registry.message(id).await
    }

    /// A message that was just read, as it is once nothing more is to be expected, or at the deadline; `None` if there is none
    /// any more. An answer that comes after a message was sent is to be expected; what expired or was given up expects none.
    ///
    /// # Errors
    /// The registry does not answer.
    pub async fn wait_for_outcome(
        &self,
        message: Message,
        deadline: Instant,
    ) -> Result<Option<Message>, RegistryError> {
        if self.0.is_over(&message) || Instant::now() >= deadline {
            return Ok(Some(message));
        }
        self.0.follow(message.n, deadline, None).await
    }

    /// What happens to messages from now on. One that falls more than 1024 behind misses some; `None` says that something
    /// happened which nobody can tell, as the registry did not answer: who needs to know all looks at the list again.
    pub fn outcomes(&self) -> broadcast::Receiver<Option<Outcome>> {
        self.0.outcomes.subscribe()
    }

    /// Data that the device has sent for a call, so far: with gaps as zeros.
    ///
    /// # Errors
    /// The registry does not answer.
    pub async fn data(&self, id: Uuid) -> Result<Option<Box<[u8]>>, RegistryError> {
        let Some(message) = self.0.registry.message(id).await? else { return Ok(None) };
        let arriving =
            message.call.and_then(|call| self.0.downlinks.outbox.received(message.device.device_id, call.request_id));
        match arriving {
            Some(data) => Ok(Some((*data).into())),
            None => self.0.registry.message_data(id).await,
        }
    }
}

impl Inner {
    /// `answer_within`: not longer than this after it was sent.
    async fn follow(
        &self,
        n: i64,
        mut deadline: Instant,
        mut answer_within: Option<Duration>,
    ) -> Result<Option<Message>, RegistryError> {
        let mut awaited = self.outcomes.of_message(n);
        loop {
            let Some(message) = self.registry.message_numbered(n).await? else { return Ok(None) };
            if message.status != MessageStatus::Waiting
                && let Some(within) = answer_within.take()
            {
                deadline = deadline.min(far(Instant::now(), within));
            }
            if self.is_over(&message) || Instant::now() >= deadline {
                return Ok(Some(message));
            }
            match timeout_at(self.look_again_at(&message, deadline), awaited.next()).await {
                Ok(Some(outcome)) if outcome.is_final => return Ok(Some((*outcome.message).clone())),
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => return Ok(None),
            }
        }
    }

    /// Whether nothing more is to be expected of a message that was read just now.
    fn is_over(&self, message: &Message) -> bool {
        match message.status {
            MessageStatus::Completed => true,
            MessageStatus::Sent => message.call.is_none(),
            MessageStatus::Waiting => {
                !self.is_immediate(message.n) && message.expires_at.0.after(GRACE) <= self.clock.now()
            }
        }
    }

    /// When what waits may have expired without anybody being told.
    fn look_again_at(&self, message: &Message, deadline: Instant) -> Instant {
        if message.status != MessageStatus::Waiting {
            return deadline;
        }
        let left = message.expires_at.0.after(GRACE).0.saturating_sub(self.clock.now().0);
        deadline.min(far(Instant::now(), Duration::from_millis(left).max(Duration::from_millis(100))))
    }
}

/// `instant` and so much later; a year if that is beyond what the system's clock can tell.
fn far(instant: Instant, later: Duration) -> Instant {
    instant.checked_add(later).unwrap_or(instant + Duration::from_secs(365 * 86_400))
}
