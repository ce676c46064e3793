//! Where in a list the value of a device is: places that are tried one after the other from the one that the hash of its id
//! names, 32 bits each.
//!
//! A place holds a position and, in the bits that positions of this index do not need, a part of the hash. So what is found is
//! nearly always what is looked for, and the list need not be looked at for what is not; and sixteen places share a cache
//! line, which nearly every search begins and ends in.

/// Places of which nobody knows the list they lead to. Free places are 0.
#[derive(Debug)]
pub(crate) struct Index(Box<[u32]>);

/// An entry that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    place: usize,
    /// The position that it holds.
    pub(crate) position: usize,
}

impl Index {
    pub(crate) fn new() -> Self {
        Self(Box::default())
    }

    /// An index of `len` hashes and positions, with room for half as many again and a few.
    pub(crate) fn of(len: usize, entries: impl Iterator<Item = (u64, usize)>) -> Self {
        let mut index = Self(vec![0; len / 8 * 15 + 15].into());
        entries.for_each(|(hash, position)| index.insert(hash, position));
        index
    }

    /// Whether there is room for one more beside `len` entries: at most four of five places are taken, or searches would get long.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        len < self.0.len() / 5 * 4
    }

    /// The entry with this hash whose position `is_it`. Other positions are asked for in vain once in a thousand times or less.
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(usize) -> bool) -> Option<Found> {
        let (layout, mut place) = (self.layout(), self.home(hash));
        loop {
            match *self.0.get(place)? {
                0 => return None,
                entry if entry >> layout.bits == layout.tag(hash) && is_it(layout.position(entry)) => {
                    return Some(Found { place, position: layout.position(entry) });
                }
                _ => place = self.after(place),
            }
        }
    }

    /// Adds an entry. There must be room, also for as many entries as its position says.
    pub(crate) fn insert(&mut self, hash: u64, position: usize) {
        let mut place = self.home(hash);
        while self.0[place] != 0 {
            place = self.after(place);
        }
        self.0[place] = self.layout().entry(hash, position);
    }

    /// Gives the entry with this hash and position another position.
    pub(crate) fn change(&mut self, hash: u64, from: usize, to: usize) {
        if let Some(found) = self.find(hash, |position| position == from) {
            self.0[found.place] = self.layout().entry(hash, to);
        }
    }

    /// Takes an entry out. What was placed behind it for want of room moves up: `hash_of` tells the hash of a position.
    pub(crate) fn remove(&mut self, found: Found, hash_of: impl Fn(usize) -> u64) {
        let (layout, mut free) = (self.layout(), found.place);
        let mut place = self.after(free);
        while self.0[place] != 0 {
            let home = self.home(hash_of(layout.position(self.0[place])));
            if self.distance(home, free) < self.distance(home, place) {
                self.0[free] = self.0[place];
                free = place;
            }
            place = self.after(place);
        }
        self.0[free] = 0;
    }

    /// How many places there are.
    pub(crate) fn places(&self) -> &[u32] {
        &self.0
    }

    /// The place where a search begins in an index of so many.
    pub(crate) const fn home_among(hash: u64, places: usize) -> usize {
        // The upper half of the hash chooses the shard.
        ((hash as u32 as u64 * places as u64) >> 32) as usize
    }

    fn home(&self, hash: u64) -> usize {
        Self::home_among(hash, self.0.len())
    }

    fn after(&self, place: usize) -> usize {
        if place + 1 == self.0.len() { 0 } else { place + 1 }
    }

    /// How many places a search takes from one place to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.0.len() - from }
    }

    const fn layout(&self) -> Layout {
        Layout { bits: usize::BITS - self.0.len().leading_zeros() }
    }
}

/// How an entry is divided: a position and one in the lowest bits, so that it is never 0, and a part of the hash above.
#[derive(Clone, Copy)]
struct Layout {
    bits: u32,
}

impl Layout {
    /// The lowest bits of the hash: the highest of its lower half say where the search begins.
    const fn tag(self, hash: u64) -> u32 {
        (hash as u32) << self.bits >> self.bits
    }

    const fn entry(self, hash: u64, position: usize) -> u32 {
        self.tag(hash) << self.bits | (position as u32 + 1)
    }

    const fn position(self, entry: u32) -> usize {
        (entry & ((1 << self.bits) - 1)) as usize - 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hashes that begin in few places, among them the last ones, so that searches go on at the first place.
    fn hash() -> impl Strategy<Value = u64> {
        let home = prop_oneof![Just(0_u64), Just(0x8000_0000), Just(0xf000_0000), Just(0xffff_f000)];
        // Some differ in nothing but the position.
        (home, 0..8_u64).prop_map(|(home, tag)| home | tag)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_in_it_is_found_and_nothing_else(history in prop::collection::vec((any::<bool>(), hash()), 1..300)) {
            // The hash of each position.
            let (mut index, mut model) = (Index::new(), Vec::<u64>::new());
            for (adds, hash) in history {
                if adds {
                    if !index.has_room(model.len()) {
                        index = Index::of(model.len(), model.iter().copied().zip(0..));
                    }
                    index.insert(hash, model.len());
                    model.push(hash);
                } else if let Some(position) = model.iter().position(|present| *present == hash) {
                    let found = index.find(hash, |at| at == position).unwrap();
                    prop_assert_eq!(found.position, position);
                    index.remove(found, |position| model[position]);
                    let last = model.len() - 1;
                    if last > position {
                        index.change(model[last], last, position);
                    }
                    model.swap_remove(position);
                } else {
                    prop_assert_eq!(index.find(hash, |position| model[position] == hash), None);
                }
                for (position, hash) in model.iter().enumerate() {
                    prop_assert!(index.find(*hash, |at| at == position).is_some());
                }
                let taken = index.places().iter().filter(|place| **place != 0).count();
                prop_assert_eq!(taken, model.len());
            }
        }
    }

    #[test]
    fn a_search_looks_at_hardly_any_other_position() {
        let hash = |position: usize| (position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let index = Index::of(10_000, (0..10_000).map(|position| (hash(position), position)));
        let (mut asked, mut found) = (0, 0);
        for position in 0..20_000 {
            let is_it = |at| {
                asked += 1;
                at == position
            };
            found += u32::from(index.find(hash(position), is_it).is_some());
        }
        assert_eq!(found, 10_000);
        assert!(asked < 10_100, "{asked}");
    }
}
