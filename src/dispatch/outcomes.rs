//! Who is told what happened to messages: everybody who listens to all of them, and those who wait for one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, watch};

use crate::records::message::{Message, MessageStatus};

/// Outcomes that a listener may be behind before it misses some: a second of 1 000 messages.
const BEHIND: usize = 1024;

/// Something happened to a message.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The number of the organisation of its device.
    pub organisation: u32,
    /// The message as it is now.
    pub message: Arc<Message>,
    /// Whether nothing more will happen, unless the device answers late: it is completed, expired or given up, or it was sent
    /// and is no call.
    pub is_final: bool,
    /// Whether somebody took it back: there is no such message any more.
    pub is_withdrawn: bool,
}

impl Outcome {
    /// Of a message that was read just now. `is_over`: it is not sent any more.
    pub(super) fn of(message: Message, is_over: bool) -> Self {
        let is_final = match message.status {
            MessageStatus::Completed => true,
            MessageStatus::Sent => is_over || message.call.is_none(),
            MessageStatus::Waiting => is_over,
        };
        Self { organisation: message.organisation, message: Arc::new(message), is_final, is_withdrawn: false }
    }

    /// Of a message that was taken back, as it was before.
    fn withdrawn(message: Message) -> Self {
        Self { organisation: message.organisation, message: Arc::new(message), is_final: true, is_withdrawn: true }
    }
}

/// Those who are told.
#[derive(Debug)]
pub(super) struct Outcomes {
    all: broadcast::Sender<Option<Outcome>>,
    awaited: Mutex<HashMap<i64, watch::Sender<Option<Outcome>>>>,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self { all: broadcast::Sender::new(BEHIND), awaited: Mutex::default() }
    }
}

impl Outcomes {
    /// What happens to all messages from now on; `None`: something that nobody can tell.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Option<Outcome>> {
        self.all.subscribe()
    }

    /// Whether anybody would be told of the message with this number.
    pub(super) fn concerns_anyone(&self, n: i64) -> bool {
        self.all.receiver_count() > 0 || self.is_awaited(n)
    }

    /// Whether somebody waits for the message with this number.
    pub(super) fn is_awaited(&self, n: i64) -> bool {
        self.lock().contains_key(&n)
    }

    /// Tells whoever listens. Never waits for them.
    pub(super) fn tell(&self, outcome: Outcome) {
        if let Some(awaited) = self.lock().get(&outcome.message.n) {
            awaited.send_replace(Some(outcome.clone()));
        }
        // Nobody need listen.
        let _ = self.all.send(Some(outcome));
    }

    /// Tells that a message was taken back, and those who wait for it that there is none any more.
    pub(super) fn tell_withdrawn(&self, message: Message) {
        if let Some(awaited) = self.lock().get(&message.n) {
            awaited.send_replace(None);
        }
        let _ = self.all.send(Some(Outcome::withdrawn(message)));
    }

    /// Tells those who listen to all messages that they miss something.
    pub(super) fn tell_missed(&self) {
        let _ = self.all.send(None);
    }

    /// What happens to the message with this number from now on.
    pub(super) fn of_message(&self, n: i64) -> Awaited<'_> {
        let told = self.lock().entry(n).or_insert_with(|| watch::Sender::new(None)).subscribe();
        Awaited { outcomes: self, n, told: Some(told) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, watch::Sender<Option<Outcome>>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for a message. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Awaited<'a> {
    outcomes: &'a Outcomes,
    n: i64,
    told: Option<watch::Receiver<Option<Outcome>>>,
}

impl Awaited<'_> {
    /// The latest of what has happened since the last call; waits until there is something. `None`: the message is gone.
    pub(super) async fn next(&mut self) -> Option<Outcome> {
        let told = self.told.as_mut()?;
        told.changed().await.ok()?;
        told.borrow_and_update().clone()
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut awaited = self.outcomes.lock();
        self.told = None;
        if awaited.get(&self.n).is_some_and(|told| told.receiver_count() == 0) {
            awaited.remove(&self.n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::testing::message;

    fn outcome(n: i64, status: MessageStatus) -> Outcome {
        Outcome::of(Message { n, status, ..message() }, false)
    }

    #[tokio::test]
    async fn those_who_wait_for_a_message_hear_the_latest_of_it_and_of_no_other() {
        let outcomes = Outcomes::default();
        let mut awaited = outcomes.of_message(7);
        outcomes.tell(outcome(8, MessageStatus::Sent));
        outcomes.tell(outcome(7, MessageStatus::Sent));
        outcomes.tell(outcome(7, MessageStatus::Completed));
        let told = awaited.next().await.unwrap();
        assert_eq!((told.message.n, told.message.status, told.is_final), (7, MessageStatus::Completed, true));
        outcomes.tell_withdrawn(Message { n: 7, ..message() });
        assert!(awaited.next().await.is_none());
    }

    #[tokio::test]
    async fn nothing_stays_of_those_who_wait_no_more() {
        let outcomes = Outcomes::default();
        assert!(!outcomes.concerns_anyone(7));
        let awaited = [outcomes.of_message(7), outcomes.of_message(7)];
        assert!(outcomes.concerns_anyone(7) && !outcomes.concerns_anyone(8));
        let [first, second] = awaited;
        drop(first);
        assert!(outcomes.concerns_anyone(7));
        drop(second);
        assert!(outcomes.lock().is_empty());
        let all = outcomes.subscribe();
        assert!(outcomes.concerns_anyone(8));
        drop(all);
        outcomes.tell(outcome(7, MessageStatus::Sent));
    }

    #[test]
    fn what_is_no_call_is_over_once_it_is_sent() {
        let call = crate::dispatch::testing::call();
        let is_final = |status, call, is_over| Outcome::of(Message { status, call, ..message() }, is_over).is_final;
        assert!(is_final(MessageStatus::Sent, None, false));
        assert!(!is_final(MessageStatus::Sent, Some(call), false));
        assert!(!is_final(MessageStatus::Waiting, None, false));
        assert!(is_final(MessageStatus::Waiting, Some(call), true) && is_final(MessageStatus::Completed, None, false));
    }
}
