//! How [`Event`]s get to whoever keeps the record: never waiting, since packets come in meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::event::Event;

/// Events that a stranger to the outbox can cause wait for their place, at most so many: a second of them at 4 000 a second,
/// about 1 MiB.
pub const SPARE: usize = 4096;

/// The sending end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    sure: mpsc::UnboundedSender<Event>,
    spare: mpsc::Sender<Event>,
    lost: Arc<AtomicU64>,
}

/// The receiving end.
#[derive(Debug)]
pub struct EventReceiver {
    sure: mpsc::UnboundedReceiver<Event>,
    spare: mpsc::Receiver<Event>,
}

/// A channel for events.
pub fn channel() -> (Events, EventReceiver) {
    let (sure, of_intents) = mpsc::unbounded_channel();
    let (spare, others) = mpsc::channel(SPARE);
    (Events { sure, spare, lost: Arc::default() }, EventReceiver { sure: of_intents, spare: others })
}

impl Events {
    /// Sends an event. What happened to an intent always gets through: there are no more of them than intents and sends. Others
    /// are lost, and counted, while [`SPARE`] wait.
    pub fn send(&self, event: Event) {
        let sent = match event {
            Event::Sent { .. } | Event::Dropped { .. } | Event::Answered { .. } => self.sure.send(event).is_ok(),
            Event::LateAnswer { .. }
            | Event::KeyAnswer { .. }
            | Event::OtherKeyId { .. }
            | Event::Terminated { .. } => self.spare.try_send(event).is_ok(),
        };
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were lost, for want of room or since nobody receives any more.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl EventReceiver {
    /// The next event; `None` once all senders are gone and everything was received. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            Some(event) = self.sure.recv() => Some(event),
            Some(event) = self.spare.recv() => Some(event),
            else => None,
        }
    }

    /// The next event, if there is one already.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.sure.try_recv().ok().or_else(|| self.spare.try_recv().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::downlink::event::Dropped;
    use crate::id::{DeviceId, KeyId};

    fn dropped(message: i64) -> Event {
        let why = Dropped::TooLong { len: 2, limit: 1 };
        Event::Dropped { device: DeviceId(1), message, at: Timestamp(0), why }
    }

    fn other_key_id(device: u64) -> Event {
        let key_id = KeyId::from_le_bytes([1, 2, 3]);
        Event::OtherKeyId { device: DeviceId(device), key_id, at: Timestamp(0) }
    }

    #[tokio::test]
    async fn events_of_intents_always_get_through_and_others_while_there_is_room() {
        let (events, mut receiver) = channel();
        for count in 0..SPARE as u64 + 3 {
            events.send(other_key_id(count));
            events.send(dropped(count as i64));
        }
        assert_eq!(events.lost(), 3);
        for count in 0..SPARE as i64 + 3 {
            assert_eq!(receiver.recv().await, Some(dropped(count)));
        }
        for count in 0..SPARE as u64 {
            assert_eq!(receiver.recv().await, Some(other_key_id(count)));
        }
        assert_eq!(receiver.try_recv(), None);
        events.send(dropped(7));
        drop(events);
        assert_eq!((receiver.recv().await, receiver.recv().await), (Some(dropped(7)), None));
    }

    #[test]
    fn what_nobody_receives_is_counted() {
        let (events, receiver) = channel();
        drop(receiver);
        events.send(dropped(1));
        events.send(other_key_id(1));
        assert_eq!(events.lost(), 2);
    }
}
