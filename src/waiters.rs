//! Who waits for the next packet of a device. Knows ids only: what a woken waiter finds is the table's business.
//!
//! [`Waiters::wait`] registers, then looks, then sleeps until [`Waiters::wake`], and looks again. Whoever takes a packet
//! into the table wakes afterwards, so a packet is either seen by the look or followed by a wake-up: none is lost.

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

use crate::id::DeviceId;
use crate::metrics::histogram::{Histogram, Reading};

/// How many may wait.
#[derive(Clone, Debug)]
pub struct WaitersConfig {
    /// For one device, at least 1. Default 1000: all of them are woken by one packet, on the thread that received it.
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
    /// [`WaitersConfig::total`] wait already.
    #[error("too many wait at this gateway; try again once some of them are answered")]
    Total,
}

/// Everybody who waits, by device and in the order they came.
#[derive(Debug)]
pub struct Waiters {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    config: WaitersConfig,
    waiting: AtomicUsize,
    woken: AtomicU64,
    latency: Histogram<{ LATENCY_BOUNDS.len() }>,
}

/// The waiters of some devices. Queues are never empty.
#[derive(Debug, Default)]
struct Shard {
    queues: HashMap<DeviceId, VecDeque<Waiter>, RandomState>,
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
}

/// A registered waiter; dropping it ends the registration, however the wait ended.
struct Place<'a> {
    waiters: &'a Waiters,
    id: DeviceId,
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
            latency: Histogram::new(&LATENCY_BOUNDS),
        }
    }

    /// Waits until `look` finds something: looks at once, and again after every [`Self::wake`] of `id`.
    ///
    /// Cancel-safe: a dropped future leaves nothing behind and takes no wake-up from others. `look` is called without a
    /// lock held, and may be called more often than there are wake-ups.
    pub async fn wait<T>(&self, id: DeviceId, mut look: impl FnMut() -> Option<T>) -> Result<T, Full> {
        let place = self.enter(id)?;
        let found = poll_fn(|context| {
            // In this order: a packet that the look misses finds the waker.
            if let Some(woken) = place.set_waker(context.waker()) {
                self.latency.observe(woken.elapsed());
            }
            look().map_or(Poll::Pending, Poll::Ready)
        });
        Ok(found.await)
    }

    /// As [`Self::wait`], but none of [`Self::latency`]: for one who runs when it suits somebody else, not once it is woken.
    pub async fn wait_untimed<T>(&self, id: DeviceId, mut look: impl FnMut() -> Option<T>) -> Result<T, Full> {
        let place = self.enter(id)?;
        let found = poll_fn(|context| {
            // In this order, as above.
            place.set_waker(context.waker());
            look().map_or(Poll::Pending, Poll::Ready)
        });
        Ok(found.await)
    }

    /// Wakes everyone who waits for `id`, in the order they came. To be called after a packet of `id` was taken into the
    /// table. Costs a fence and a load when nobody waits for any device, reads the clock only for somebody who sleeps, and
    /// allocates nothing.
    pub fn wake(&self, id: DeviceId) {
        // Here: packet written, fence, count read. In `enter`: count raised, fence, and later the look reads packets.
        // Of two such sequentially consistent fences one comes first, and what was written before it is seen after the
        // other. So if the count reads 0 here, the fence in `enter` came second, and the look sees the packet. If it
        // does not, the lock of the shard decides in the same way between the waker and the look.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut tickets = 0..u64::MAX;
        while !tickets.is_empty() {
            tickets = self.wake_batch(id, tickets);
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

    fn enter(&self, id: DeviceId) -> Result<Place<'_>, Full> {
        let one_more = |waiting| (waiting < self.config.total).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map_err(|_| Full::Total)?;
        // Pairs with the one in `wake`.
        fence(Ordering::SeqCst);
        let mut shard = self.shard(id);
        if shard.queues.get(&id).is_some_and(|queue| queue.len() >= self.config.per_device) {
            drop(shard);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Device);
        }
        let ticket = shard.next_ticket;
        shard.next_ticket += 1;
        let queue = shard.queues.entry(id).or_insert_with(|| VecDeque::with_capacity(1));
        queue.push_back(Waiter { ticket, state: State::Coming });
        Ok(Place { waiters: self, id, ticket })
    }

    /// Wakes the first few of those who hold one of `tickets`; returns the tickets that are left.
    fn wake_batch(&self, id: DeviceId, tickets: Range<u64>) -> Range<u64> {
        let (mut batch, mut now) = ([const { None::<Waker> }; WAKE_BATCH], None);
        let left = {
            let mut shard = self.shard(id);
            // Whoever comes from now on sees the packet, so needs no waking; without an end, one who keeps coming back
            // could keep this thread here.
            let end = tickets.end.min(shard.next_ticket);
            let Some(queue) = shard.queues.get_mut(&id) else { return end..end };
            let first = queue.partition_point(|waiter| waiter.ticket < tickets.start);
            let mut sleeping = queue.range_mut(first..).take_while(|waiter| waiter.ticket < end);
            for (slot, waiter) in batch.iter_mut().zip(sleeping.by_ref()) {
                *slot = waiter.state.wake(|| *now.get_or_insert_with(Instant::now));
            }
            sleeping.next().map_or(end, |waiter| waiter.ticket)..end
        };
        let mut woken = 0;
        for waker in batch.into_iter().flatten() {
            waker.wake();
            woken += 1;
        }
        self.woken.fetch_add(woken, Ordering::Relaxed);
        left
    }

    fn shard(&self, id: DeviceId) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(id) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    /// The waker of one who sleeps, and does not from now on.
    fn wake(&mut self, now: impl FnOnce() -> Instant) -> Option<Waker> {
        let Self::Asleep(_) = self else { return None };
        match std::mem::replace(self, Self::Woken(now())) {
            Self::Asleep(waker) => Some(waker),
            Self::Coming | Self::Woken(_) => None,
        }
    }
}

impl Place<'_> {
    /// Falls asleep; gives when the waiter was woken, if it was since it last fell asleep. Wakers are cloned and dropped
    /// outside of the lock: both may run foreign code.
    fn set_waker(&self, waker: &Waker) -> Option<Instant> {
        let mut state = State::Asleep(waker.clone());
        let mut shard = self.waiters.shard(self.id);
        if let Some(queue) = shard.queues.get_mut(&self.id)
            && let Ok(at) = queue.binary_search_by_key(&self.ticket, |waiter| waiter.ticket)
        {
            std::mem::swap(&mut queue[at].state, &mut state);
        }
        drop(shard);
        if let State::Woken(at) = state { Some(at) } else { None }
    }

    /// Takes the waiter out of its queue.
    fn leave(&self) -> Option<Waiter> {
        let mut shard = self.waiters.shard(self.id);
        let queue = shard.queues.get_mut(&self.id)?;
        let at = queue.binary_search_by_key(&self.ticket, |waiter| waiter.ticket).ok()?;
        let waiter = queue.remove(at);
        if queue.is_empty() {
            shard.queues.remove(&self.id);
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
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Wake};

    const DEVICE: DeviceId = DeviceId(7);
    const OTHER: DeviceId = DeviceId(8);

    /// A waker that writes its number down.
    struct Numbered {
        number: usize,
        order: Arc<std::sync::Mutex<Vec<usize>>>,
    }

    impl Wake for Numbered {
        fn wake(self: Arc<Self>) {
            self.order.lock().unwrap().push(self.number);
        }
    }

    fn waiters(per_device: usize, total: usize) -> Waiters {
        Waiters::new(&WaitersConfig { per_device, total })
    }

    fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
        std::pin::Pin::new(future).poll(&mut Context::from_waker(waker))
    }

    fn nothing_is_left(waiters: &Waiters) -> bool {
        waiters.waiting() == 0 && waiters.shards.iter().all(|shard| shard.lock().unwrap().queues.is_empty())
    }

    #[test]
    fn a_waiter_looks_at_once_and_after_each_wake_up_of_its_device() {
        let waiters = waiters(10, 10);
        let (looks, found) = (Cell::new(0), Cell::new(None));
        let mut wait = pin!(waiters.wait(DEVICE, || {
            looks.set(looks.get() + 1);
            found.get()
        }));
        assert_eq!(poll(&mut wait, Waker::noop()), Poll::Pending);
        waiters.wake(OTHER);
        waiters.wake(DEVICE);
        assert_eq!((poll(&mut wait, Waker::noop()), waiters.waiting()), (Poll::Pending, 1));
        found.set(Some(5));
        waiters.wake(DEVICE);
        assert_eq!(poll(&mut wait, Waker::noop()), Poll::Ready(Ok(5)));
        assert_eq!((looks.get(), waiters.woken()), (3, 2));
        assert!(nothing_is_left(&waiters));
    }

    #[test]
    fn waiters_are_woken_in_the_order_they_came_whoever_left_between() {
        let (waiters, order) = (waiters(200, 200), Arc::default());
        let mut waits: Vec<_> = (0..100).map(|_| Some(Box::pin(waiters.wait(DEVICE, || None::<()>)))).collect();
        let waker = |number| Waker::from(Arc::new(Numbered { number, order: Arc::clone(&order) }));
        for (number, wait) in waits.iter_mut().enumerate() {
            assert!(poll(wait.as_mut().unwrap(), &waker(number)).is_pending());
        }
        // Polled again without a wake-up, as by a timer beside it: keeps its place.
        assert!(poll(waits[3].as_mut().unwrap(), &waker(3)).is_pending());
        for gone in (0..100).step_by(7) {
            waits[gone] = None;
        }
        waiters.wake(DEVICE);
        let expected: Vec<usize> = (0..100).filter(|number| number % 7 != 0).collect();
        assert_eq!(*order.lock().unwrap(), expected);
        waiters.wake(DEVICE);
        assert_eq!(waiters.woken(), expected.len() as u64, "nobody sleeps, nobody is woken");
    }

    #[test]
    fn the_bound_of_a_device_and_the_bound_in_all_hold_and_places_come_free() {
        let waiters = waiters(2, 3);
        let mut first = Box::pin(waiters.wait(DEVICE, || None::<()>));
        let mut second = Box::pin(waiters.wait(DEVICE, || None::<()>));
        let mut third = Box::pin(waiters.wait(OTHER, || None::<()>));
        assert!(poll(&mut first, Waker::noop()).is_pending());
        assert!(poll(&mut second, Waker::noop()).is_pending());
        let refused = poll(&mut Box::pin(waiters.wait(DEVICE, || Some(()))), Waker::noop());
        assert_eq!(refused, Poll::Ready(Err(Full::Device)));
        assert_eq!(waiters.waiting(), 2);
        assert!(poll(&mut third, Waker::noop()).is_pending());
        let refused = poll(&mut Box::pin(waiters.wait(OTHER, || Some(()))), Waker::noop());
        assert_eq!(refused, Poll::Ready(Err(Full::Total)));
        drop(first);
        let admitted = poll(&mut Box::pin(waiters.wait(DEVICE, || Some(()))), Waker::noop());
        assert_eq!(admitted, Poll::Ready(Ok(())));
        drop((second, third));
        assert!(nothing_is_left(&waiters));
    }

    #[test]
    fn each_wake_up_of_one_who_sleeps_is_timed_once_when_the_woken_one_runs() {
        let waiters = waiters(10, 10);
        let mut wait = pin!(waiters.wait(DEVICE, || None::<()>));
        let mut gone = Box::pin(waiters.wait(DEVICE, || None::<()>));
        let timed = || waiters.latency().count();
        assert!(poll(&mut wait, Waker::noop()).is_pending() && poll(&mut gone, Waker::noop()).is_pending());
        let begun = Instant::now();
        waiters.wake(DEVICE);
        waiters.wake(DEVICE);
        assert_eq!((timed(), waiters.woken()), (0, 2), "neither has run");
        drop(gone);
        let after = Instant::now();
        while after.elapsed().is_zero() {}
        let least = after.elapsed().as_secs_f64();
        assert!(poll(&mut wait, Waker::noop()).is_pending());
        let (sum, most) = (waiters.latency().sum(), begun.elapsed().as_secs_f64());
        assert!(0.0 < least && least <= sum && sum <= most, "{least} {sum} {most}");
        assert!(poll(&mut wait, Waker::noop()).is_pending());
        assert_eq!((timed(), waiters.woken()), (1, 2), "looked again by itself");
        waiters.wake(DEVICE);
        assert!(poll(&mut wait, Waker::noop()).is_pending());
        assert_eq!((timed(), waiters.woken()), (2, 3));
    }

    #[test]
    fn a_wait_that_is_not_timed_is_woken_as_any_other() {
        let waiters = waiters(1, 10);
        let found = Cell::new(None);
        let mut wait = pin!(waiters.wait_untimed(DEVICE, || found.get()));
        assert_eq!((poll(&mut wait, Waker::noop()), waiters.waiting()), (Poll::Pending, 1));
        waiters.wake(DEVICE);
        assert_eq!(poll(&mut wait, Waker::noop()), Poll::Pending);
        found.set(Some(5));
        waiters.wake(DEVICE);
        let refused = poll(&mut pin!(waiters.wait_untimed(DEVICE, || Some(5))), Waker::noop());
        assert_eq!(refused, Poll::Ready(Err(Full::Device)));
        assert_eq!(poll(&mut wait, Waker::noop()), Poll::Ready(Ok(5)));
        assert_eq!((waiters.woken(), waiters.latency().count()), (2, 0));
        assert!(nothing_is_left(&waiters));
    }

    #[test]
    fn a_waker_that_drops_another_wait_does_not_lock_up() {
        struct Dropping<F>(std::sync::Mutex<Option<F>>);
        impl<F: Send> Wake for Dropping<F> {
            fn wake(self: Arc<Self>) {
                self.0.lock().unwrap().take();
            }
        }
        let waiters = Arc::new(waiters(10, 10));
        let owned = Arc::clone(&waiters);
        let mut dropped = Box::pin(async move { owned.wait(DEVICE, || None::<()>).await });
        assert!(poll(&mut dropped, Waker::noop()).is_pending());
        let waker = Waker::from(Arc::new(Dropping(std::sync::Mutex::new(Some(dropped)))));
        let mut wait = pin!(waiters.wait(DEVICE, || None::<()>));
        assert!(poll(&mut wait, &waker).is_pending());
        drop(waker);
        waiters.wake(DEVICE);
        assert_eq!(waiters.waiting(), 1);
    }

    #[test]
    fn a_waiter_stays_small() {
        assert_eq!(size_of::<Waiter>(), 32);
        assert_eq!(size_of::<(DeviceId, VecDeque<Waiter>)>(), 40);
    }
}
