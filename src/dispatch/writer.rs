//! Writes down what happened to messages: in order, many in one commit, again and again while the registry does not take it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Inner;
use super::counters::{KeyAnswer, LateAnswer, MessageEvent};
use super::keys::ToCheck;
use super::notes;
use super::outcomes::Outcome;
use crate::downlink::channel::EventReceiver;
use crate::downlink::event::{Answer, Event, Received};
use crate::id::DeviceId;
use crate::records::message::{Message, MessageAnswer, MessageChange, MessageStatus};
use crate::records::route::{DownlinkRoute, UplinkRoute};
use crate::registry::RegistryError;
use crate::status::Time;

/// Changes in one commit: what 1 000 messages a second come to in half a second.
const BATCH: usize = 512;

/// Bytes of data of devices in one commit.
const BATCH_DATA: usize = 8 << 20;

/// How long the first change of a batch waits for others: a commit takes a few milliseconds, and somebody may be waiting.
const GATHER: Duration = Duration::from_millis(10);

/// Pauses while the registry does not answer: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Late answers that wait for their call to be looked for. More are dropped: anybody who has a network's key can send them.
const LATE: usize = 1024;

/// Least time between two lines about devices that say their key is another one.
const LOG_DOUBTS_EVERY: Duration = Duration::from_secs(1);

/// Changes that wait for the registry before repeated sendings of one message are thinned to the last of them.
const THINNED_FROM: usize = 65_536;

/// Takes events in and writes them down.
#[derive(Debug)]
pub(super) struct Writer {
    inner: Arc<Inner>,
    events: EventReceiver,
    keys: mpsc::Sender<ToCheck>,
    pending: VecDeque<MessageChange>,
    /// How many of them are looked at for what can be left out.
    thin_at: usize,
    late: VecDeque<(DeviceId, Answer)>,
    /// Whether the call of the first of them could not be read once.
    late_failed: bool,
    doubts_logged: Option<Instant>,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, events: EventReceiver, keys: mpsc::Sender<ToCheck>) -> Self {
        let (pending, late) = (VecDeque::new(), VecDeque::new());
        Self { inner, events, keys, pending, thin_at: THINNED_FROM, late, late_failed: false, doubts_logged: None }
    }

    /// Until told to stop. What has not been written then is left to [`Self::finish`].
    pub(super) async fn run(&mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                () = &mut stop => return,
            }
            self.gather(Instant::now() + GATHER, BATCH).await;
            let mut pause = PAUSE;
            while let Err(error) = self.write().await {
                if pause == PAUSE {
                    let waiting = self.pending.len();
                    tracing::error!(%error, waiting, "cannot write down what happened to messages; trying again");
                }
                let until = Instant::now() + pause;
                tokio::select! {
                    // What comes meanwhile must not pile up where there is no bound.
                    () = async { self.gather(until, usize::MAX).await; sleep_until(until).await } => {}
                    () = &mut stop => return,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Writes down everything that has happened until now.
    ///
    /// # Errors
    /// The registry does not take it.
    pub(super) async fn finish(&mut self) -> Result<(), RegistryError> {
        while let Some(event) = self.events.try_recv() {
            self.take(event);
        }
        self.write().await
    }

    /// Takes in more events until then, or until so many changes wait.
    async fn gather(&mut self, until: Instant, enough: usize) {
        while self.pending.len() < enough {
            match timeout_at(until, self.events.recv()).await {
                Ok(Some(event)) => self.take(event),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn take(&mut self, event: Event) {
        if self.pending.len() >= self.thin_at {
            thin(&mut self.pending);
            self.thin_at = THINNED_FROM.max(2 * self.pending.len());
        }
        let counters = &self.inner.counters;
        match event {
            Event::Sent { message, at, way, listening, .. } => {
                counters.message(MessageEvent::Sent);
                let at_once = self.inner.take_immediate(message);
                let (level, route) = (way.level, DownlinkRoute::from(&way));
                let note = notes::sent(&listening, at, at_once);
                self.pending.push_back(MessageChange::Sent { n: message, at: Time(at), level, route, note });
            }
            Event::Dropped { message, at, why, .. } => {
                counters.message(MessageEvent::Dropped);
                let note = notes::dropped(&why);
                self.pending.push_back(MessageChange::Dropped { n: message, at: Time(at), note });
            }
            Event::Answered { message, answer, data, .. } => self.answered(message, answer, data),
            Event::LateAnswer { device, answer } if self.late.len() < LATE => self.late.push_back((device, answer)),
            Event::LateAnswer { .. } => counters.late_answer(LateAnswer::Dropped),
            Event::KeyAnswer { device, challenge, body, at } => {
                if self.keys.try_send(ToCheck { device, challenge, body, at }).is_err() {
                    counters.key_answer(KeyAnswer::Dropped);
                }
            }
            Event::OtherKeyId { device, key_id, .. } => {
                // Whoever has a network's key can say so for any device.
                if self.doubts_logged.is_none_or(|logged| logged.elapsed() >= LOG_DOUBTS_EVERY) {
                    self.doubts_logged = Some(Instant::now());
                    tracing::warn!(%device, %key_id, "the device says that its key is another than the known one; asking it");
                }
            }
            Event::Terminated { last: Some((_, n)), reason, at, .. } => {
                self.pending.push_back(MessageChange::Terminated { n, at: Time(at), reason });
            }
            Event::Terminated { relay, address, reason, last: None, .. } => {
                tracing::debug!(%relay, %address, reason, "a connection ended that no message went through");
            }
        }
    }

    fn answered(&mut self, n: i64, answer: Answer, data: Option<Received>) {
        self.inner.counters.message(MessageEvent::Completed);
        let Answer { return_code, body, at, route, .. } = answer;
        let answer = MessageAnswer { route: UplinkRoute::from(&route), return_code, body };
        self.pending.push_back(MessageChange::Answered { n, at: Time(at), answer, data });
    }

    /// Writes down all there is and tells those who wait for it.
    ///
    /// # Errors
    /// The registry does not take it at the moment. What is not written stays.
    async fn write(&mut self) -> Result<(), RegistryError> {
        // Whether a call was sent is to be known when its answer is judged.
        self.write_changes().await?;
        self.look_for_calls().await?;
        self.write_changes().await
    }

    async fn write_changes(&mut self) -> Result<(), RegistryError> {
        while !self.pending.is_empty() {
            let batch: Vec<_> = self.pending.iter().take(batch_len(&self.pending)).cloned().collect();
            let numbers = numbers(&batch);
            let count = batch.len();
            match self.inner.registry.change_messages(batch).await {
                Err(error @ RegistryError::Unavailable(_)) => return Err(error),
                // To try again would stop everything behind it.
                Err(error) => {
                    tracing::error!(%error, count, "changes of messages are lost");
                    self.inner.outcomes.tell_missed();
                    self.pending.drain(..count);
                }
                Ok(changed) => {
                    self.pending.drain(..count);
                    for (n, is_over) in numbers.into_iter().filter(|(n, _)| changed.contains(n)) {
                        self.inner.tell(n, is_over).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks for the calls of late answers. One whose call cannot be read is given up the second time: the record of that call
    /// may be the reason, and all others would wait behind it.
    async fn look_for_calls(&mut self) -> Result<(), RegistryError> {
        while let Some((device, answer)) = self.late.pop_front() {
            let message = match self.inner.registry.message_of_call(device, answer.request_id).await {
                Err(_) if std::mem::take(&mut self.late_failed) => {
                    self.inner.counters.late_answer(LateAnswer::Dropped);
                    continue;
                }
                Err(error) => {
                    self.late_failed = true;
                    self.late.push_front((device, answer));
                    return Err(error);
                }
                Ok(message) => message,
            };
            self.late_failed = false;
            let result = message.as_ref().map_or(LateAnswer::Unknown, |message| judge(message, &answer));
            self.inner.counters.late_answer(result);
            if let (LateAnswer::Recorded, Some(message)) = (result, message) {
                self.answered(message.n, answer, None);
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Tells whoever listens how a message is now. `is_over`: it is not sent any more.
    pub(super) async fn tell(&self, n: i64, is_over: bool) {
        if !self.outcomes.concerns_anyone(n) {
            return;
        }
        match self.registry.message_numbered(n).await {
            Ok(Some(message)) => self.outcomes.tell(Outcome::of(message, is_over)),
            Ok(None) => {}
            // Those who wait look again at their deadline.
            Err(error) => {
                tracing::debug!(%error, "nobody is told what happened to a message");
                self.outcomes.tell_missed();
            }
        }
    }
}

/// Whether an answer is what the call of the message waits for.
fn judge(message: &Message, answer: &Answer) -> LateAnswer {
    let is_command = message.call.is_some_and(|call| call.command_id == answer.command_id);
    let fits = is_command && message.level.is_some_and(|level| answer.level >= level);
    match message.status {
        MessageStatus::Completed => LateAnswer::Unknown,
        MessageStatus::Sent if fits => LateAnswer::Recorded,
        // Nobody can answer what was never sent, and what was sent is written down before this.
        MessageStatus::Waiting | MessageStatus::Sent => LateAnswer::Forged,
    }
}

/// How many changes, from the front, make one commit.
fn batch_len(pending: &VecDeque<MessageChange>) -> usize {
    let mut data_len = 0;
    let fits = |change: &&MessageChange| {
        if let MessageChange::Answered { data: Some(data), .. } = change {
            data_len += data.len();
        }
        data_len <= BATCH_DATA
    };
    pending.iter().take(BATCH).take_while(fits).count().max(1)
}

/// The messages that are changed, each with whether it is given up.
fn numbers(changes: &[MessageChange]) -> BTreeSet<(i64, bool)> {
    let mut numbers = BTreeSet::new();
    for change in changes {
        numbers.insert((change.message(), matches!(change, MessageChange::Dropped { .. })));
    }
    numbers
}

/// Keeps of messages that were sent again and again the last time only.
fn thin(pending: &mut VecDeque<MessageChange>) {
    let mut seen = std::collections::HashSet::new();
    let mut kept: VecDeque<_> = std::mem::take(pending)
        .into_iter()
        .rev()
        .filter(|change| !matches!(change, MessageChange::Sent { n, .. } if !seen.insert(*n)))
        .collect();
    kept.make_contiguous().reverse();
    *pending = kept;
}
