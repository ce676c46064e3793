//! Where each stream was after each of its last events: what it takes for a listener who was cut off to go on.
//!
//! Of each stream its positions now, and for each of its last events the position of a device before it, which leads back
//! from now to an earlier event. Of streams that have ended as many are remembered as fit.

use std::collections::{HashMap, VecDeque};

use lru::LruCache;

use crate::id::{Cursor, DeviceId, EventId};

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Events of one stream that can be undone. 1024: what a fleet of 10 000 that reports every 10 minutes sends in a
    /// minute, which is long for a connection to be made again.
    pub(super) events: usize,
    /// Positions in all, 24 bytes each: those of ended streams and those before the events of all. A million: five times
    /// what may be followed at once.
    pub(super) positions: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { events: 1024, positions: 1_000_000 }
    }
}

/// Live streams, and those that ended not long ago.
#[derive(Debug)]
pub(super) struct Histories {
    live: HashMap<u64, History>,
    /// The one that ended first goes first.
    ended: LruCache<u64, History>,
    bounds: Bounds,
    /// Positions that count against the bound.
    held: usize,
}

/// One stream.
#[derive(Debug)]
struct History {
    owner: u64,
    devices: Vec<(DeviceId, Cursor)>,
    /// Events so far.
    last: u64,
    /// For each of the last events, the oldest first: which device, and its position before.
    before: VecDeque<(u32, Cursor)>,
}

impl Histories {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { live: HashMap::new(), ended: LruCache::unbounded(), bounds, held: 0 }
    }

    /// A stream of `owner` begins at these positions; returns its number.
    pub(super) fn begin(&mut self, owner: u64, devices: Vec<(DeviceId, Cursor)>) -> u64 {
        let number = fastrand::u64(..);
        self.live.insert(number, History { owner, devices, last: 0, before: VecDeque::new() });
        number
    }

    /// How many streams are live.
    pub(super) fn live(&self) -> usize {
        self.live.len()
    }

    /// The device at this place of a live stream, and where the stream is with it.
    pub(super) fn position(&self, stream: u64, index: u32) -> Option<(DeviceId, Cursor)> {
        self.live.get(&stream)?.devices.get(index as usize).copied()
    }

    /// A live stream tells an event of the device at this place, and is at `to` with it from now on.
    pub(super) fn advance(&mut self, stream: u64, index: u32, to: Cursor) -> Option<EventId> {
        let history = self.live.get_mut(&stream)?;
        let position = &mut history.devices.get_mut(index as usize)?.1;
        let before = std::mem::replace(position, to);
        history.last += 1;
        let n = history.last;
        if history.before.len() >= self.bounds.events {
            self.held -= usize::from(history.before.pop_front().is_some());
        }
        self.remember(stream, (index, before));
        Some(EventId { stream, n })
    }

    /// Where there is no room, ended streams make it, and else the oldest event of the stream itself.
    fn remember(&mut self, stream: u64, before: (u32, Cursor)) {
        self.make_room(1);
        let Some(history) = self.live.get_mut(&stream) else { return };
        if self.held >= self.bounds.positions {
            self.held -= usize::from(history.before.pop_front().is_some());
        }
        if self.held < self.bounds.positions {
            history.before.push_back(before);
            self.held += 1;
        }
    }

    /// Nobody listens to the stream any more.
    pub(super) fn end(&mut self, stream: u64) {
        let Some(mut history) = self.live.remove(&stream) else { return };
        history.before.shrink_to_fit();
        self.held += history.devices.len();
        self.ended.put(stream, history);
        self.make_room(0);
    }

    fn make_room(&mut self, positions: usize) {
        while self.held + positions > self.bounds.positions {
            let Some((_, forgotten)) = self.ended.pop_lru() else { return };
            self.held -= forgotten.devices.len() + forgotten.before.len();
        }
    }

    /// The positions of a stream as they were after this event. `None` if the stream is not known, or not `owner`'s, or the
    /// event is none of its last ones.
    pub(super) fn as_of(&self, event: EventId, owner: u64) -> Option<HashMap<DeviceId, Cursor>> {
        let history = self.live.get(&event.stream).or_else(|| self.ended.peek(&event.stream))?;
        let undone = usize::try_from(history.last.checked_sub(event.n)?).ok()?;
        if history.owner != owner || undone > history.before.len() {
            return None;
        }
        let mut devices = history.devices.clone();
        for (index, before) in history.before.iter().rev().take(undone) {
            devices[*index as usize].1 = *before;
        }
        Some(devices.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: u64 = 1;

    fn histories(events: usize, positions: usize) -> Histories {
        Histories::new(Bounds { events, positions })
    }

    fn at(n: u64) -> Cursor {
        Cursor { epoch: 7, n }
    }

    fn devices(count: u64) -> Vec<(DeviceId, Cursor)> {
        (0..count).map(|id| (DeviceId(id), at(0))).collect()
    }

    #[test]
    fn a_stream_goes_back_to_any_of_its_last_events_and_no_further() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..50 {
            let mut histories = histories(20, 1000);
            let stream = histories.begin(OWNER, devices(5));
            let mut true_positions = vec![devices(5).into_iter().collect::<HashMap<_, _>>()];
            for n in 1..=random.u64(0..60) {
                let index = random.u32(0..5);
                let mut positions = true_positions.last().unwrap().clone();
                positions.insert(DeviceId(index.into()), at(n));
                true_positions.push(positions);
                assert_eq!(histories.advance(stream, index, at(n)), Some(EventId { stream, n }));
                assert_eq!(histories.position(stream, index), Some((DeviceId(index.into()), at(n))));
            }
            let check = |histories: &Histories| {
                for (n, positions) in true_positions.iter().enumerate() {
                    let remembered = (true_positions.len() - n <= 21).then_some(positions);
                    let event = EventId { stream, n: n as u64 };
                    assert_eq!(histories.as_of(event, OWNER).as_ref(), remembered, "{n}");
                    assert_eq!(histories.as_of(event, OWNER + 1), None, "of somebody else");
                }
                assert_eq!(histories.as_of(EventId { stream, n: true_positions.len() as u64 }, OWNER), None);
                assert_eq!(histories.as_of(EventId { stream: stream ^ 1, n: 0 }, OWNER), None);
            };
            check(&histories);
            histories.end(stream);
            check(&histories);
            assert_eq!((histories.live(), histories.position(stream, 0)), (0, None));
        }
    }

    #[test]
    fn the_stream_that_ended_first_makes_room() {
        let mut histories = histories(20, 30);
        let streams = [8, 8, 8, 8].map(|count| histories.begin(OWNER, devices(count)));
        let known =
            |histories: &Histories| streams.map(|stream| histories.as_of(EventId { stream, n: 0 }, OWNER).is_some());
        let [first, second, third, fourth] = streams;
        for ended in [second, first, third] {
            histories.end(ended);
            assert_eq!(known(&histories), [true; 4], "24 fit");
        }
        for n in 1..=7 {
            histories.advance(fourth, 0, at(n));
        }
        assert_eq!(known(&histories), [true, false, true, true], "events of those alive count");
        histories.end(fourth);
        assert_eq!(known(&histories), [false, false, true, true], "so do the devices of those that ended");
        assert_eq!(histories.held, 23);
        let large = histories.begin(OWNER, devices(31));
        assert_eq!(known(&histories), [false, false, true, true], "a stream that lives has its positions anyway");
        histories.end(large);
        assert_eq!((known(&histories), histories.held), ([false; 4], 0), "nothing that is too large is remembered");
    }

    #[test]
    fn where_only_live_streams_are_left_one_forgets_its_own_oldest_event() {
        let mut histories = histories(20, 3);
        let [first, second] = [1, 1].map(|count| histories.begin(OWNER, devices(count)));
        for n in 1..=5 {
            histories.advance(first, 0, at(n));
        }
        histories.advance(second, 0, at(1));
        let known = |stream, n| histories.as_of(EventId { stream, n }, OWNER).map(|positions| positions[&DeviceId(0)]);
        assert_eq!(
            [1, 2, 3, 4, 5].map(|n| known(first, n)),
            [None, Some(at(2)), Some(at(3)), Some(at(4)), Some(at(5))]
        );
        assert_eq!([0, 1].map(|n| known(second, n)), [None, Some(at(1))]);
    }
}
