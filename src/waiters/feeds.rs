//! Which devices of an organisation spoke of late, for those who listen to it.
//!
//! There is one feed for each organisation that somebody listens to, as long as somebody does. It keeps the last of what was
//! said, however many listen; each of them reads on from its own position, and is told if it fell too far behind.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

#[cfg(feature = "shuttle")]
use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering, fence},
};
#[cfg(not(feature = "shuttle"))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering, fence},
};

use super::Waiters;
use crate::id::{Cursor, DeviceId};

/// That a packet was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whose packet.
    pub device: DeviceId,
    /// Which of its packets.
    pub cursor: Cursor,
}

/// What a listener reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The next packet, in the order in which packets came into the feed.
    Said(Said),
    /// Packets were dropped before they were read; the next one that is kept follows.
    Lost,
}

/// The feeds of all organisations that somebody listens to.
#[derive(Debug)]
pub(super) struct Feeds {
    listening: AtomicUsize,
    shards: Box<[Mutex<HashMap<u32, Feed>>]>,
}

/// What was said in an organisation.
#[derive(Debug, Default)]
struct Feed {
    listeners: usize,
    /// How much was said since there is a feed.
    end: u64,
    /// The last of it.
    said: VecDeque<Said>,
}

/// Somebody who listens to an organisation: to what is said from now on. Dropping it ends that.
#[derive(Debug)]
pub struct Listener {
    waiters: Arc<Waiters>,
    organisation: u32,
    position: u64,
}

/// What a feed keeps, 24 bytes each. 4096: what an organisation with 10 000 packets a second says in 0.4 s, which is more than
/// the thread of a listener is ever late.
pub const KEPT: usize = 4096;

/// Independent locks, so that packets of different organisations seldom meet.
const SHARDS: usize = 64;

impl Default for Feeds {
    fn default() -> Self {
        Self { listening: AtomicUsize::new(0), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Feeds {
    /// Whether anybody listens to any organisation. To be asked after a packet was written, and a sequentially consistent
    /// fence.
    pub(super) fn is_anyone_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed) > 0
    }

    /// Takes down what was said, if somebody listens to it.
    pub(super) fn add(&self, organisation: u32, said: Said) -> bool {
        let mut shard = self.shard(organisation);
        let Some(feed) = shard.get_mut(&organisation) else { return false };
        if feed.said.len() == KEPT {
            feed.said.pop_front();
        }
        feed.said.push_back(said);
        feed.end += 1;
        true
    }

    /// One more listens; returns its position.
    fn enter(&self, organisation: u32) -> u64 {
        self.listening.fetch_add(1, Ordering::Relaxed);
        // As in `Waiters::enter`. Here: count raised, fence, and later the listener reads the table. Where a packet comes:
        // packet written, fence, count read. If the count reads 0 there, this fence came second, and the packet is in the
        // table for the listener to see. If it does not, the lock decides between that packet and this feed.
        fence(Ordering::SeqCst);
        let mut shard = self.shard(organisation);
        let feed = shard.entry(organisation).or_default();
        feed.listeners += 1;
        feed.end
    }

    fn leave(&self, organisation: u32) {
        let mut shard = self.shard(organisation);
        if let Some(feed) = shard.get_mut(&organisation) {
            feed.listeners -= 1;
            if feed.listeners == 0 {
                shard.remove(&organisation);
            }
        }
        drop(shard);
        self.listening.fetch_sub(1, Ordering::Relaxed);
    }

    /// What is at this position, which moves on.
    fn read(&self, organisation: u32, position: &mut u64) -> Option<Read> {
        let shard = self.shard(organisation);
        let feed = shard.get(&organisation)?;
        let begin = feed.end - feed.said.len() as u64;
        if *position < begin {
            *position = begin;
            return Some(Read::Lost);
        }
        let said = feed.said.get((*position - begin) as usize)?;
        *position += 1;
        Some(Read::Said(*said))
    }

    fn shard(&self, organisation: u32) -> MutexGuard<'_, HashMap<u32, Feed>> {
        let shard = &self.shards[organisation as usize % SHARDS];
        shard.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Listener {
    /// Listens to the organisation from now on: a packet that is not read here is in the table for whoever looks there
    /// afterwards. One that is counted just now may be both.
    pub fn new(waiters: Arc<Waiters>, organisation: u32) -> Self {
        let position = waiters.feeds.enter(organisation);
        Self { waiters, organisation, position }
    }

    /// The organisation.
    pub const fn organisation(&self) -> u32 {
        self.organisation
    }

    /// What comes next, if there is anything yet. Whoever has to wait for it waits with [`Waiters::wait`], and reads here to
    /// look.
    pub fn read(&mut self) -> Option<Read> {
        self.waiters.feeds.read(self.organisation, &mut self.position)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.waiters.feeds.leave(self.organisation);
    }
}

// The locks of the shuttle scheduler work inside its own tests only.
#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::waiters::WaitersConfig;

    fn said(n: u64) -> Said {
        Said { device: DeviceId(n), cursor: Cursor { epoch: 7, n } }
    }

    fn hear(waiters: &Waiters, organisation: u32, n: u64) {
        waiters.heard(said(n).device, said(n).cursor, || Some(organisation));
    }

    fn waiters() -> Arc<Waiters> {
        Arc::new(Waiters::new(&WaitersConfig::default()))
    }

    #[test]
    fn each_listener_reads_what_its_organisation_says_from_when_it_came() {
        let waiters = waiters();
        let mut first = Listener::new(Arc::clone(&waiters), 1);
        hear(&waiters, 1, 1);
        hear(&waiters, 2, 2);
        let mut second = Listener::new(Arc::clone(&waiters), 1);
        hear(&waiters, 1 + SHARDS as u32, 3);
        hear(&waiters, 1, 4);
        let all = |listener: &mut Listener| std::iter::from_fn(|| listener.read()).collect::<Vec<_>>();
        assert_eq!(all(&mut first), [said(1), said(4)].map(Read::Said));
        assert_eq!(all(&mut second), [said(4)].map(Read::Said));
        hear(&waiters, 1, 5);
        assert_eq!((first.read(), first.read()), (Some(Read::Said(said(5))), None));
    }

    #[test]
    fn whoever_falls_behind_is_told_once_and_reads_on_with_what_is_kept() {
        let waiters = waiters();
        let mut listener = Listener::new(Arc::clone(&waiters), 1);
        let kept = KEPT as u64;
        (1..=kept).for_each(|n| hear(&waiters, 1, n));
        assert_eq!(listener.read(), Some(Read::Said(said(1))));
        hear(&waiters, 1, kept + 1);
        assert_eq!(listener.read(), Some(Read::Said(said(2))), "what it has read is no loss");
        (kept + 2..=kept + 4).for_each(|n| hear(&waiters, 1, n));
        assert_eq!(listener.read(), Some(Read::Lost));
        for n in 5..=kept + 4 {
            assert_eq!(listener.read(), Some(Read::Said(said(n))));
        }
        assert_eq!(listener.read(), None);
    }

    #[test]
    fn the_organisation_is_asked_for_only_while_somebody_listens_and_nothing_stays_of_it_afterwards() {
        let waiters = waiters();
        let asked = Cell::new(0);
        let hear = |organisation| {
            waiters.heard(DeviceId(1), said(1).cursor, || {
                asked.set(asked.get() + 1);
                organisation
            });
        };
        hear(Some(1));
        assert_eq!(asked.get(), 0);
        let listeners = [1, 1, 2].map(|organisation| Listener::new(Arc::clone(&waiters), organisation));
        hear(None);
        hear(Some(1));
        assert_eq!(asked.get(), 2);
        drop(listeners);
        hear(Some(1));
        assert_eq!(asked.get(), 2);
        assert!(waiters.feeds.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }
}
