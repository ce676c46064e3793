//! Following many devices for as long as somebody listens: an event whenever one has spoken, with how many packets it stands
//! for.
//!
//! Nothing is queued for a listener who is slow: events are made when they are asked for, and what came meanwhile is told
//! as missed. A listener who was cut off goes on after the last event that arrived, as long as it is remembered. Of a device
//! that is deleted one last event is told.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use tokio::task::yield_now;

use crate::id::{Cursor, DeviceId, EventId};
use crate::waiters::{Ended, Waiters};

use super::history::{Bounds, Histories};
use super::many::{DeviceError, Devices};
use super::{PacketWaits, WaitError, Waited};

/// All who follow devices, with what is remembered for those who come back.
#[derive(Debug)]
pub struct Streams {
    waits: PacketWaits,
    histories: Mutex<Histories>,
}

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// At the positions that the devices come with, or else at present.
    Devices,
    /// After this event of an earlier stream. Devices which that one did not have begin as in [`Self::Devices`]. If it is
    /// not remembered, as in [`Self::Lost`].
    Event(EventId),
    /// At a position that nobody knows: every device is reset.
    Lost,
}

/// What a listener is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where in the stream it is.
    pub id: EventId,
    /// The device.
    pub device: DeviceId,
    /// What came of it; never [`Waited::TimedOut`]. `None`: it is deleted, and followed no more, also if it is registered
    /// again.
    pub waited: Option<Waited>,
}

/// Somebody who follows devices: a stream of [`Event`]s that ends after [`Self::close`], and when all of the devices are
/// deleted. Holds one place among the waiters for each device; a drop gives them back.
pub struct Following {
    streams: Arc<Streams>,
    number: u64,
    watches: Watches,
    spoke: Arc<Mutex<Spoke>>,
}

/// One for each device that is not deleted, which gives its place in the stream once it is.
type Watches = FuturesUnordered<BoxFuture<'static, (u32, Ended)>>;

/// Devices of a stream that may have something to tell, by their place in it: the one that spoke first is first.
#[derive(Debug)]
struct Spoke {
    queue: VecDeque<u32>,
    turns: Vec<Turn>,
}

/// Whether a device has something to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    No,
    Queued,
    /// It has nothing to tell any more, whether it is in the queue or not.
    Over,
}

/// A position in no stream of packets: whoever goes on after it is reset.
const NOWHERE: Cursor = Cursor { epoch: u64::MAX, n: 1 };

/// Devices after which others may run: some hundred microseconds of work.
const TURN: usize = 256;

impl Streams {
    /// Nobody follows anything yet.
    pub fn new(waits: PacketWaits) -> Self {
        Self::bounded(waits, Bounds::default())
    }

    fn bounded(waits: PacketWaits, bounds: Bounds) -> Self {
        Self { waits, histories: Mutex::new(Histories::new(bounds)) }
    }

    /// How many follow now.
    pub fn live(&self) -> usize {
        self.histories().live()
    }

    /// Begins to follow `devices`, of which a packet that is counted from now on is not lost. Only the same `owner` can go
    /// on after an event of the stream. Others run in between where there are many devices. Cancel-safe: a dropped future
    /// leaves nothing behind.
    pub async fn follow(
        self: &Arc<Self>,
        devices: &Devices,
        origin: Origin,
        owner: u64,
    ) -> Result<Following, DeviceError> {
        let positions = self.positions(devices, origin, owner).await?;
        let spoke = Arc::new(Mutex::new(Spoke { queue: VecDeque::new(), turns: vec![Turn::No; positions.len()] }));
        let watches = self.watches(&positions, &spoke).await?;
        let number = self.histories().begin(owner, positions);
        Ok(Following { streams: Arc::clone(self), number, watches, spoke })
    }

    async fn positions(
        &self,
        devices: &Devices,
        origin: Origin,
        owner: u64,
    ) -> Result<Vec<(DeviceId, Cursor)>, DeviceError> {
        let earlier = match origin {
            Origin::Devices => Some(HashMap::new()),
            Origin::Event(event) => self.histories().as_of(event, owner),
            Origin::Lost => None,
        };
        let mut positions = Vec::with_capacity(devices.len());
        for (id, after) in devices.iter() {
            let position = match &earlier {
                None => self.first_position(id, None).map(|_| NOWHERE),
                Some(earlier) => match earlier.get(&id) {
                    Some(position) => self.first_position(id, None).map(|_| *position),
                    None => self.first_position(id, after),
                },
            };
            positions.push((id, position.map_err(|error| DeviceError { device: id, error })?));
            let_others_run(positions.len()).await;
        }
        Ok(positions)
    }

    /// A watch for each device, with its place taken.
    async fn watches(&self, devices: &[(DeviceId, Cursor)], spoke: &Arc<Mutex<Spoke>>) -> Result<Watches, DeviceError> {
        let watches = Watches::new();
        for (index, (id, _)) in (0..).zip(devices) {
            let mut watch: BoxFuture<'static, (u32, Ended)> =
                Box::pin(watch(Arc::clone(&self.waits.waiters), *id, index, Arc::clone(spoke)));
            // Takes its place now, so that it is known whether there is one.
            if let Poll::Ready((_, ended)) = watch.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return Err(DeviceError { device: *id, error: ended.into() });
            }
            watches.push(watch);
            let_others_run(watches.len()).await;
        }
        Ok(watches)
    }

    fn first_position(&self, id: DeviceId, after: Option<Cursor>) -> Result<Cursor, WaitError> {
        Ok(match self.waits.begin(id, after)? {
            Ok(Waited::Reset { .. }) => NOWHERE,
            Ok(found) => after.unwrap_or(found.cursor()),
            Err(base) => base,
        })
    }

    /// The next event of the device at this place of a stream, if there is one.
    fn next(&self, stream: u64, index: u32) -> Option<Event> {
        let (device, position) = self.histories().position(stream, index)?;
        if !self.waits.is_served(device) {
            // Perhaps deleted before it had a watch: nobody dismisses that one.
            return self.gone(stream, index);
        }
        let waited = self.waits.look(device, position).ok()?;
        let id = self.histories().advance(stream, index, waited.cursor())?;
        Some(Event { id, device, waited: Some(waited) })
    }

    /// That the device at this place of a stream is deleted. Who goes on after it with a device of this number is reset.
    fn gone(&self, stream: u64, index: u32) -> Option<Event> {
        let mut histories = self.histories();
        let (device, _) = histories.position(stream, index)?;
        Some(Event { id: histories.advance(stream, index, NOWHERE)?, device, waited: None })
    }

    fn histories(&self) -> MutexGuard<'_, Histories> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Following {
    /// The id after which one goes on who has heard no event yet.
    pub fn first_id(&self) -> EventId {
        EventId { stream: self.number, n: 0 }
    }

    /// Takes no more notice of packets: of each device what there is to tell is told once more, then the stream ends.
    pub fn close(&mut self) {
        self.watches.clear();
        // Of each of them, since one that was counted just now may not have woken its watch yet.
        lock(&self.spoke).add_all();
    }
}

impl Stream for Following {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = self.get_mut();
        // Those that were woken put their device into the queue; ready are those of deleted devices only.
        let closed = loop {
            match this.watches.poll_next_unpin(cx) {
                Poll::Ready(Some((index, _))) if lock(&this.spoke).end(index) => {
                    return Poll::Ready(this.streams.gone(this.number, index));
                }
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => break true,
                Poll::Pending => break false,
            }
        };
        loop {
            // A line of its own: nothing else is locked under it.
            let index = lock(&this.spoke).next();
            match index {
                Some(index) => {
                    if let Some(event) = this.streams.next(this.number, index) {
                        if event.waited.is_none() {
                            lock(&this.spoke).end(index);
                        }
                        return Poll::Ready(Some(event));
                    }
                }
                None if closed => return Poll::Ready(None),
                None => return Poll::Pending,
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.streams.histories().end(self.number);
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Following({}, {} devices)", self.number, self.watches.len())
    }
}

impl Spoke {
    fn add(&mut self, index: u32) {
        if let Some(turn @ Turn::No) = self.turns.get_mut(index as usize) {
            *turn = Turn::Queued;
            self.queue.push_back(index);
        }
    }

    /// Whether it had not ended already.
    fn end(&mut self, index: u32) -> bool {
        std::mem::replace(&mut self.turns[index as usize], Turn::Over) != Turn::Over
    }

    fn add_all(&mut self) {
        (0..).take(self.turns.len()).for_each(|index| self.add(index));
    }

    fn next(&mut self) -> Option<u32> {
        loop {
            let index = self.queue.pop_front()?;
            if let turn @ Turn::Queued = &mut self.turns[index as usize] {
                *turn = Turn::No;
                return Some(index);
            }
        }
    }
}

/// Waits for every packet of a device until it is deleted. Its place is kept from one packet to the next, so that no other
/// waiter can take it. Not timed: it looks when the listener takes more, which a slow one does late.
async fn watch(waiters: Arc<Waiters>, id: DeviceId, index: u32, spoke: Arc<Mutex<Spoke>>) -> (u32, Ended) {
    let look = || {
        lock(&spoke).add(index);
        None::<Infallible>
    };
    match waiters.wait_untimed(id, look).await {
        Err(ended) => (index, ended),
        Ok(never) => match never {},
    }
}

/// Lets them after each [`TURN`] of what is `done`.
async fn let_others_run(done: usize) {
    if done.is_multiple_of(TURN) {
        yield_now().await;
    }
}

fn lock(spoke: &Mutex<Spoke>) -> MutexGuard<'_, Spoke> {
    spoke.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
#[path = "stream_tests.rs"]
mod tests;
