//! Who waits for the next packet of a device, or of any device of an organisation. Knows ids only: what a woken waiter finds
//! is the table's business.
//!
//! [`Waiters::wait`] registers, then looks, then sleeps until [`Waiters::wake`], and looks again. Whoever takes a packet
//! into the table wakes afterwards, so a packet is either seen by the look or followed by a wake-up: none is lost. Those who
//! wait for what is deleted are dismissed by [`Waiters::dismiss`], and look no more.
//!
//! An organisation has too many devices to look at, so that who waits for it is also told which ones spoke: see [`feeds`].

pub mod feeds;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::BuildHasher;
use std::ops::Range;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
#[cfg(feature = "shuttle")]
use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};
#[cfg(not(feature = "shuttle"))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};

use crate::id::{Cursor, DeviceId};
use crate::metrics::histogram::{Histogram, Reading};
use feeds::{Feeds, Said};

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A packet of this device.
    Device(DeviceId),
    /// A packet of any device of the organisation with this number in the registry.
    Organisation(u32),
}

impl From<DeviceId> for Subject {
    fn from(id: DeviceId) -> Self {
        Self::Device(id)
    }
}

/// How many may wait.
#[derive(Clone, Debug)]
pub struct WaitersConfig {
    /// For one device, and for one organisation, at least 1. Default 1000: all of them are woken by one packet, on the thread
    /// that received it.
    pub per_device: usize,
    /// In all. Default 200 000: twice the goal of 100 000 open requests, which themselves need far more memory than
    /// what is kept here.
    pub total: usize,
}

impl Default for WaitersConfig {
    fn default() -> Self {
        Self { per_device: 1000, total: 200_000 }
    }
}

/// Why nobody more may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// [`WaitersConfig::per_device`] wait already.
    #[error("too many wait for this device; try again once some of them are answered")]
    Device,
    /// As many wait for this organisation.
    #[error("too many wait for this organisation; try again once some of them are answered")]
    Organisation,
    /// [`WaitersConfig::total`] wait already.
    #[error("too many wait at this gateway; try again once some of them are answered")]
    Total,
}

/// Why a wait ends without what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// There was no place for it.
    #[error(transparent)]
    Full(#[from] Full),
    /// The device, or the organisation, was deleted meanwhile.
    #[error("the device was deleted while it was waited for; leave it out, or register it again")]
    Dismissed,
}

/// Everybody who waits, by what they wait for and in the order they came.
#[derive(Debug)]
pub struct Waiters {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    config: WaitersConfig,
    waiting: AtomicUsize,
    woken: AtomicU64,
    feeds: Feeds,
    latency: Histogram<{ LATENCY_BOUNDS.len() }>,
}

/// The waiters for some of it. Queues are never empty.
#[derive(Debug, Default)]
struct Shard {
    queues: HashMap<Subject, VecDeque<Waiter>, RandomState>,
    next_ticket: u64,
}

/// One who waits. Tickets rise along a queue.
#[derive(Debug)]
struct Waiter {
    ticket: u64,
    state: State,
}

/// What a waiter does.
#[derive(Debug)]
enum State {
    /// Is about to look for the first time, so needs no waking.
    Coming,
    /// Sleeps until this is called.
    Asleep(Waker),
    /// Was woken at this moment and is about to look again, so needs no waking.
    Woken(Instant),
    /// Has nothing to wait for any more, whatever comes.
    Dismissed,
}

/// A registered waiter; dropping it ends the registration, however the wait ended.
struct Place<'a> {
    waiters: &'a Waiters,
    subject: Subject,
    ticket: u64,
}

/// Bounds of [`Waiters::latency`]. A waiter in the same process that has nothing else to do runs 10 to 100 microseconds after
/// its packet. From a millisecond on the thread is busy, and after a second a person or a sleeping device notices.
pub const LATENCY_BOUNDS: [Duration; 16] = [
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// Independent locks, so that packets of different devices seldom meet; the ingest threads are far fewer.
const SHARDS: usize = 64;

/// Wakers taken out under the lock at once. They are called outside of it, and an array of them needs no allocation.
const WAKE_BATCH: usize = 32;

impl Waiters {
    /// Nobody waits yet.
    pub fn new(config: &WaitersConfig) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            config: config.clone(),
            waiting: AtomicUsize::new(0),
            woken: AtomicU64::new(0),
            feeds: Feeds::default(),
            latency: Histogram::new(&LATENCY_BOUNDS),
        }
    }

    /// Waits until `look` finds something: looks at once, and again after every [`Self::wake`] of `subject`.
    ///
    /// Cancel-safe: a dropped future leaves nothing behind and takes no wake-up from others. `look` is called without a
    /// lock held, and may be called more often than there are wake-ups.
    ///
    /// # Errors
    /// There is no place, or [`Self::dismiss`] came before anything was found.
    pub fn wait<T>(
        &self,
        subject: impl Into<Subject>,
        look: impl FnMut() -> Option<T>,
    ) -> impl Future<Output = Result<T, Ended>> {
        self.look_until_found(subject.into(), look, |woken| self.latency.observe(woken.elapsed()))
    }

    /// As [`Self::wait`], but none of [`Self::latency`]: for one who runs when it suits somebody else, not once it is woken.
    pub fn wait_untimed<T>(
        &self,
        subject: impl Into<Subject>,
        look: impl FnMut() -> Option<T>,
    ) -> impl Future<Output = Result<T, Ended>> {
        self.look_until_found(subject.into(), look, |_| {})
    }

    /// A packet of `id` was taken into the table, as the one at `cursor`: wakes everyone who waits for the device, then
    /// everyone who waits for its organisation, which is asked for only while somebody does.
    ///
    /// Costs what [`Self::wake`] costs, and another load, while nobody listens to any organisation.
    pub fn heard(&self, id: DeviceId, cursor: Cursor, organisation: impl FnOnce() -> Option<u32>) {
        // Its fence, which comes after the packet was written, is also that of the load that follows: see `Feeds::enter`.
        self.wake(id);
        if !self.feeds.is_anyone_listening() {
            return;
        }
        if let Some(organisation) = organisation()
            && self.feeds.add(organisation, Said { device: id, cursor })
        {
            // Of those who sleep, what was added to the feed is what a packet in the table is to others.
            self.wake(Subject::Organisation(organisation));
        }
    }

    /// Wakes everyone who waits for `subject`, in the order they came. To be called after a packet was taken to where they
    /// look. Costs a fence and a load when nobody waits for anything, reads the clock only for somebody who sleeps, and
    /// allocates nothing.
    pub fn wake(&self, subject: impl Into<Subject>) {
        // Here: packet written, fence, count read. In `enter`: count raised, fence, and later the look reads packets.
        // Of two such sequentially consistent fences one comes first, and what was written before it is seen after the
        // other. So if the count reads 0 here, the fence in `enter` came second, and the look sees the packet. If it
        // does not, the lock of the shard decides in the same way between the waker and the look.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut now = None;
        self.change(subject.into(), |state| state.wake(|| *now.get_or_insert_with(Instant::now)));
    }

    /// Ends every wait for `subject` that has found nothing yet. To be called after it was deleted from wherever waiters look:
    /// who begins to wait meanwhile is dismissed, or looks after the deletion.
    pub fn dismiss(&self, subject: impl Into<Subject>) {
        // As in `wake`, with the deletion in the place of the packet.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.change(subject.into(), State::dismiss);
        }
    }

    /// How many wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many sleeping waiters were woken so far; one that sleeps again counts again.
    pub fn woken(&self) -> u64 {
        self.woken.load(Ordering::Relaxed)
    }

    /// From wake-ups to when the woken of [`Self::wait`] looked again. One that gave up in between is not among them.
    pub fn latency(&self) -> Reading<{ LATENCY_BOUNDS.len() }> {
        self.latency.read()
    }

    #[allow(clippy::manual_async_fn, reason = "an async function keeps its arguments twice")]
    fn look_until_found<T>(
        &self,
        subject: Subject,
        mut look: impl FnMut() -> Option<T>,
        woken: impl Fn(Instant),
    ) -> impl Future<Output = Result<T, Ended>> {
        async move {
            let place = self.enter(subject)?;
            let found = poll_fn(|context| {
                // In this order: a packet that the look misses finds the waker.
                match place.set_waker(context.waker()) {
                    State::Dismissed => return Poll::Ready(Err(Ended::Dismissed)),
                    State::Woken(at) => woken(at),
                    State::Coming | State::Asleep(_) => {}
                }
                look().map_or(Poll::Pending, |found| Poll::Ready(Ok(found)))
            });
            found.await
        }
    }

    fn enter(&self, subject: Subject) -> Result<Place<'_>, Full> {
        let one_more = |waiting| (waiting < self.config.total).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map_err(|_| Full::Total)?;
        // Pairs with the one in `wake`.
        fence(Ordering::SeqCst);
        let mut shard = self.shard(subject);
        if shard.queues.get(&subject).is_some_and(|queue| queue.len() >= self.config.per_device) {
            drop(shard);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(subject.full());
        }
        let ticket = shard.next_ticket;
        shard.next_ticket += 1;
        let queue = shard.queues.entry(subject).or_insert_with(|| VecDeque::with_capacity(1));
        queue.push_back(Waiter { ticket, state: State::Coming });
        Ok(Place { waiters: self, subject, ticket })
    }

    /// Changes the state of everyone who waits for `subject`, in the order they came, and wakes whose wakers come of it.
    fn change(&self, subject: Subject, mut change: impl FnMut(&mut State) -> Option<Waker>) {
        let mut tickets = 0..u64::MAX;
        while !tickets.is_empty() {
            tickets = self.change_batch(subject, tickets, &mut change);
        }
    }

    /// Those first few who hold one of `tickets`; returns the tickets that are left.
    fn change_batch(
        &self,
        subject: Subject,
        tickets: Range<u64>,
        change: &mut impl FnMut(&mut State) -> Option<Waker>,
    ) -> Range<u64> {
        let mut batch = [const { None::<Waker> }; WAKE_BATCH];
        let left = {
            let mut shard = self.shard(subject);
            // Whoever comes from now on sees the packet, or the deletion, so needs no waking; without an end, one who keeps
            // coming back could keep this thread here.
            let end = tickets.end.min(shard.next_ticket);
            let Some(queue) = shard.queues.get_mut(&subject) else { return end..end };
            let first = queue.partition_point(|waiter| waiter.ticket < tickets.start);
            let mut waiting = queue.range_mut(first..).take_while(|waiter| waiter.ticket < end);
            for (slot, waiter) in batch.iter_mut().zip(waiting.by_ref()) {
                *slot = change(&mut waiter.state);
            }
            waiting.next().map_or(end, |waiter| waiter.ticket)..end
        };
        let mut woken = 0;
        for waker in batch.into_iter().flatten() {
            waker.wake();
            woken += 1;
        }
        self.woken.fetch_add(woken, Ordering::Relaxed);
        left
    }

    fn shard(&self, subject: Subject) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(subject) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Subject {
    /// Why one more is too many.
    const fn full(self) -> Full {
        match self {
            Self::Device(_) => Full::Device,
            Self::Organisation(_) => Full::Organisation,
        }
    }
}

impl State {
    /// The waker of one who sleeps, and does not from now on.
    fn wake(&mut self, now: impl FnOnce() -> Instant) -> Option<Waker> {
        let Self::Asleep(_) = self else { return None };
        match std::mem::replace(self, Self::Woken(now())) {
            Self::Asleep(waker) => Some(waker),
            Self::Coming | Self::Woken(_) | Self::Dismissed => None,
        }
    }

    /// The same for good.
    fn dismiss(&mut self) -> Option<Waker> {
        match std::mem::replace(self, Self::Dismissed) {
            Self::Asleep(waker) => Some(waker),
            Self::Coming | Self::Woken(_) | Self::Dismissed => None,
        }
    }
}

impl Place<'_> {
    /// Falls asleep; gives what the waiter did until then. To be called no more by one who was dismissed. Wakers are cloned
    /// and dropped outside of the lock: both may run foreign code.
    fn set_waker(&self, waker: &Waker) -> State {
        let mut state = State::Asleep(waker.clone());
        let mut shard = self.waiters.shard(self.subject);
        if let Some(queue) = shard.queues.get_mut(&self.subject)
            && let Ok(at) = queue.binary_search_by_key(&self.ticket, |waiter| waiter.ticket)
        {
            std::mem::swap(&mut queue[at].state, &mut state);
        }
        drop(shard);
        state
    }

    /// Takes the waiter out of its queue.
    fn leave(&self) -> Option<Waiter> {
        let mut shard = self.waiters.shard(self.subject);
        let queue = shard.queues.get_mut(&self.subject)?;
        let at = queue.binary_search_by_key(&self.ticket, |waiter| waiter.ticket).ok()?;
        let waiter = queue.remove(at);
        if queue.is_empty() {
            shard.queues.remove(&self.subject);
        }
        waiter
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        drop(self.leave());
        self.waiters.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

// The locks of the shuttle scheduler work inside its own tests only.
#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests;
