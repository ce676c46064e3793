//! Where each stream was after each of its last events: what it takes for a listener who was cut off to go on.
//!
//! Of each stream its positions now, and for each of its last events the position of a device before it, which leads back
//! from now to an earlier event. Of streams that have ended as many are remembered as fit, and the owner of most of them is the
//! first to lose one.

use std::collections::{HashMap, VecDeque};

use crate::id::{Cursor, DeviceId, EventId};

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Events of one stream that can be undone. 1024: what a fleet of 10 000 that reports every 10 minutes sends in a
    /// minute, which is long for a connection to be made again.
    pub(super) events: usize,
    /// Positions before events, 24 bytes each, of all live streams. 2^20: all that 1024 of them may have.
    pub(super) live: usize,
    /// Positions of all ended streams: where they were, those before their events, and [`OVERHEAD`] for each stream. 2^21:
    /// those of all live streams, so that all may be cut off at once, and as many again.
    pub(super) ended: usize,
}

/// What an ended stream takes beside its positions, in positions: itself, its place in a map that may be half empty, and what
/// the allocator adds to its two lists: less than 240 bytes.
const OVERHEAD: usize = 10;

impl Default for Bounds {
    fn default() -> Self {
        Self { events: 1024, live: 1 << 20, ended: 1 << 21 }
    }
}

/// Live streams, and those that ended not long ago. Neither takes room from the other.
#[derive(Debug)]
pub(super) struct Histories {
    live: HashMap<u64, History>,
    /// Events that a live stream may keep now, at least one.
    share: usize,
    ended: HashMap<u64, History>,
    /// Owners of streams that have ended.
    owners: HashMap<u64, Owned>,
    /// What those streams cost.
    held: usize,
    bounds: Bounds,
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

/// What an owner has of the streams that have ended.
#[derive(Debug, Default)]
struct Owned {
    /// The one that ended first is first.
    streams: VecDeque<u64>,
    /// What they cost.
    held: usize,
}

impl Histories {
    pub(super) fn new(bounds: Bounds) -> Self {
        let (live, ended, owners) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { live, share: bounds.events, ended, owners, held: 0, bounds }
    }

    /// A stream of `owner` begins at these positions; returns its number.
    pub(super) fn begin(&mut self, owner: u64, devices: Vec<(DeviceId, Cursor)>) -> u64 {
        let number = fastrand::u64(..);
        self.live.insert(number, History { owner, devices, last: 0, before: VecDeque::new() });
        self.narrow();
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
        if history.before.len() >= self.share {
            history.before.pop_front();
        }
        history.before.push_back((index, before));
        Some(EventId { stream, n: history.last })
    }

    /// Nobody listens to the stream any more.
    pub(super) fn end(&mut self, stream: u64) {
        let Some(mut history) = self.live.remove(&stream) else { return };
        self.widen();
        history.before.shrink_to_fit();
        history.devices.shrink_to_fit();
        if history.cost() <= self.bounds.ended {
            self.remember(stream, history);
        }
    }

    fn remember(&mut self, stream: u64, history: History) {
        let owned = self.owners.entry(history.owner).or_default();
        owned.streams.push_back(stream);
        owned.held += history.cost();
        self.held += history.cost();
        self.ended.insert(stream, history);
        while self.held > self.bounds.ended {
            self.forget_one();
        }
    }

    /// Forgets the stream that ended first of the owner who has most, so that nobody loses streams to one who has more.
    fn forget_one(&mut self) {
        let Some((owner, owned)) = self.owners.iter_mut().max_by_key(|(_, owned)| owned.held) else { return };
        let owner = *owner;
        let forgotten = owned.streams.pop_front().and_then(|stream| self.ended.remove(&stream));
        let cost = forgotten.map_or(0, |history| history.cost());
        owned.held -= cost;
        self.held -= cost;
        if owned.streams.is_empty() {
            self.owners.remove(&owner);
        }
    }

    /// Halves the share until the live streams fit. They are all looked at then, which is seldom: not before as many have
    /// come as there were when it changed last.
    fn narrow(&mut self) {
        let before = self.share;
        while self.share > 1 && self.share * self.live.len() > self.bounds.live {
            self.share /= 2;
        }
        if self.share < before {
            self.live.values_mut().for_each(|history| history.keep_last(self.share));
        }
    }

    /// Doubles the share once there is room for twice that.
    fn widen(&mut self) {
        while self.share < self.bounds.events && 4 * self.share * self.live.len() <= self.bounds.live {
            self.share = self.bounds.events.min(2 * self.share);
        }
    }

    /// The positions of a stream as they were after this event. `None` if the stream is not known, or not `owner`'s, or the
    /// event is none of its last ones.
    pub(super) fn as_of(&self, event: EventId, owner: u64) -> Option<HashMap<DeviceId, Cursor>> {
        let history = self.live.get(&event.stream).or_else(|| self.ended.get(&event.stream))?;
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

impl History {
    /// What it takes to remember it, in positions.
    fn cost(&self) -> usize {
        OVERHEAD + self.devices.len() + self.before.len()
    }

    /// Forgets all events but these.
    fn keep_last(&mut self, events: usize) {
        self.before.drain(..self.before.len().saturating_sub(events));
        self.before.shrink_to(events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: u64 = 1;

    fn histories(events: usize, live: usize, ended: usize) -> Histories {
        Histories::new(Bounds { events, live, ended })
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
            let mut histories = histories(20, 1000, 1000);
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
    fn the_stream_that_ended_first_makes_room_and_live_ones_do_not_take_it() {
        let mut histories = histories(20, 100, 30 + 3 * OVERHEAD);
        let streams = [8, 8, 8, 8].map(|count| histories.begin(OWNER, devices(count)));
        let known =
            |histories: &Histories| streams.map(|stream| histories.as_of(EventId { stream, n: 0 }, OWNER).is_some());
        let [first, second, third, fourth] = streams;
        for ended in [second, first, third] {
            histories.end(ended);
            assert_eq!(known(&histories), [true; 4], "24 fit");
        }
        for n in 1..=20 {
            histories.advance(fourth, 0, at(n));
        }
        assert_eq!((known(&histories), histories.held), ([true; 4], 24 + 3 * OVERHEAD));
        histories.end(fourth);
        assert_eq!(
            (known(&histories), histories.held),
            ([false, false, true, true], 36 + 2 * OVERHEAD),
            "their events count"
        );
        let large = histories.begin(OWNER, devices(31 + 2 * OVERHEAD as u64));
        histories.end(large);
        assert_eq!(
            (known(&histories), histories.held),
            ([false, false, true, true], 36 + 2 * OVERHEAD),
            "one that is too large takes nobody's room"
        );
    }

    #[test]
    fn one_who_ends_many_streams_forgets_their_own_only() {
        let mut histories = histories(20, 100, 100 * (OVERHEAD + 1));
        let end_one = |histories: &mut Histories, owner| {
            let stream = histories.begin(owner, devices(1));
            histories.end(stream);
            stream
        };
        let known = |histories: &Histories, streams: &[u64], owner| {
            streams.iter().filter(|stream| histories.as_of(EventId { stream: **stream, n: 0 }, owner).is_some()).count()
        };
        let first: Vec<_> = (0..20).map(|_| end_one(&mut histories, 1)).collect();
        let many: Vec<_> = (0..1000).map(|_| end_one(&mut histories, 2)).collect();
        assert_eq!((known(&histories, &first, 1), known(&histories, &many[920..], 2)), (20, 80));
        // Others get as much as anybody has.
        let third: Vec<_> = (0..1000).map(|_| end_one(&mut histories, 3)).collect();
        assert_eq!((known(&histories, &first, 1), known(&histories, &third[960..], 3)), (20, 40));
        assert_eq!(known(&histories, &many[960..], 2), 40);
        let last: Vec<_> = (0..1000).map(|_| end_one(&mut histories, 4)).collect();
        assert_eq!((known(&histories, &first, 1), histories.ended.len(), histories.owners.len()), (20, 100, 4));
        assert!((26..=27).contains(&known(&histories, &last[970..], 4)));
        let large = histories.begin(5, devices(99 * (OVERHEAD as u64 + 1)));
        histories.end(large);
        assert_eq!((histories.ended.len(), histories.owners.len()), (100, 4), "alone more than all others have");
    }

    #[test]
    fn a_stream_that_ended_takes_no_more_memory_than_it_counts_for() {
        let position = size_of::<(DeviceId, Cursor)>();
        assert_eq!((position, size_of::<(u32, Cursor)>()), (24, 24));
        // Entries and a byte for each, in a map that has just doubled at seven eighths; a place in a list; two lists of its own.
        let entry = (size_of::<(u64, History)>() + 1) * 16 / 7;
        let order = 2 * size_of::<u64>();
        assert!(entry + order + 2 * 16 <= OVERHEAD * position, "{entry}");
        let mut histories = histories(20, 100, 1000 * OVERHEAD);
        for _ in 0..1000 {
            let stream = histories.begin(OWNER, devices(0));
            histories.end(stream);
        }
        assert_eq!((histories.ended.len(), histories.held), (1000, 1000 * OVERHEAD));
        let stream = histories.begin(OWNER, devices(1));
        histories.end(stream);
        assert_eq!((histories.ended.len(), histories.held), (999, 1 + 999 * OVERHEAD));
    }

    #[test]
    fn busy_live_streams_leave_room_for_the_one_that_just_ended() {
        let mut histories = histories(20, 100, 100);
        let busy: Vec<u64> = (0..6).map(|_| histories.begin(OWNER, devices(1))).collect();
        let cut = histories.begin(OWNER, devices(1));
        for n in 1..=20 {
            for stream in busy.iter().chain([&cut]) {
                histories.advance(*stream, 0, at(n));
            }
        }
        histories.end(cut);
        let positions = histories.as_of(EventId { stream: cut, n: 15 }, OWNER);
        assert_eq!(positions.unwrap()[&DeviceId(0)], at(15));
    }

    /// How many of its last events a stream of one device can undo.
    fn undone(histories: &Histories, stream: u64) -> u64 {
        let last = histories.live[&stream].last;
        (0..=last).take_while(|back| histories.as_of(EventId { stream, n: last - back }, OWNER).is_some()).count()
            as u64
            - 1
    }

    #[test]
    fn live_streams_share_what_there_is_evenly_and_never_exceed_it() {
        let mut histories = histories(16, 64, 0);
        let mut streams = Vec::new();
        let mut shares = Vec::new();
        let tell = |histories: &mut Histories, stream| (1..=16).for_each(|n| _ = histories.advance(stream, 0, at(n)));
        for _ in 0..70 {
            streams.push(histories.begin(OWNER, devices(1)));
            tell(&mut histories, *streams.last().unwrap());
            let share = undone(&histories, streams[0]);
            assert!(streams.iter().all(|stream| undone(&histories, *stream) == share), "{}", streams.len());
            let memory: usize = histories.live.values().map(|history| history.before.capacity()).sum();
            assert!(memory <= 64.max(4 * streams.len()), "{memory}: at least 4 are allocated");
            shares.push(share);
        }
        assert_eq!([4, 5, 8, 9, 16, 17, 32, 33, 70].map(|live| shares[live - 1]), [16, 8, 8, 4, 4, 2, 2, 1, 1]);
        shares.clear();
        while let Some(stream) = streams.pop() {
            histories.end(stream);
            if let Some(first) = streams.first() {
                tell(&mut histories, *first);
                shares.insert(0, undone(&histories, *first));
            }
        }
        assert_eq!([2, 3, 4, 5, 8, 9, 16, 17].map(|live| shares[live - 1]), [16, 8, 8, 4, 4, 2, 2, 1]);
    }
}
