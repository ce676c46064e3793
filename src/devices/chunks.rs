//! A list that moves nothing when it grows: it grows by a chunk, and nobody waits for a copy of what is there.
//!
//! What is taken out leaves a gap in its own chunk only, so that whoever goes through the chunks one by one, while others add
//! and take out, meets everything that stays exactly once.

/// About so many bytes are a chunk: what is left over in the last one is little, and the list of chunks stays short.
const BYTES: usize = 32 << 10;

/// Values in chunks, each at a position.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    len: u32,
    /// All chunks before this one are full.
    full: u32,
}

impl<T> Chunks<T> {
    /// Values in a full chunk, a power of two.
    pub(crate) const EACH: usize = 1 << (BYTES / size_of::<T>()).ilog2();

    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0, full: 0 }
    }

    /// How many values there are.
    pub(crate) const fn len(&self) -> usize {
        self.len as usize
    }

    /// The value at a position.
    pub(crate) fn at(&self, position: usize) -> &T {
        &self.chunks[position / Self::EACH][position % Self::EACH]
    }

    /// As [`Self::at`].
    pub(crate) fn at_mut(&mut self, position: usize) -> &mut T {
        &mut self.chunks[position / Self::EACH][position % Self::EACH]
    }

    /// Adds a value, and returns its position: no greater than the greatest number of values that there ever were before.
    pub(crate) fn add(&mut self, value: T) -> usize {
        let mut number = self.full as usize;
        while self.chunks.get(number).is_some_and(|chunk| chunk.len() == Self::EACH) {
            number += 1;
        }
        if number == self.chunks.len() {
            self.chunks.push(Vec::new());
        }
        let chunk = &mut self.chunks[number];
        // The first one grows as it is filled, so that a short list takes little.
        if chunk.is_empty() && number > 0 {
            chunk.reserve_exact(Self::EACH);
        }
        chunk.push(value);
        (self.full, self.len) = (number as u32, self.len + 1);
        number * Self::EACH + chunk.len() - 1
    }

    /// The position of the value that takes the place of another one if that is taken out.
    pub(crate) fn behind(&self, position: usize) -> usize {
        let number = position / Self::EACH;
        number * Self::EACH + self.chunks[number].len() - 1
    }

    /// Takes a value out.
    pub(crate) fn take(&mut self, position: usize) -> T {
        let number = position / Self::EACH;
        (self.full, self.len) = (self.full.min(number as u32), self.len - 1);
        let chunk = &mut self.chunks[number];
        let last = chunk.len() - 1;
        // Swapped, so that no copy of the one that moves stays behind the end.
        chunk.swap(position % Self::EACH, last);
        let taken = chunk.swap_remove(last);
        if chunk.is_empty() {
            *chunk = Vec::new();
        }
        taken
    }

    /// The values of a chunk; `None` behind the last one.
    pub(crate) fn chunk(&self, number: usize) -> Option<&[T]> {
        self.chunks.get(number).map(Vec::as_slice)
    }

    /// All values, each with its position.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.chunks.iter().zip((0..).step_by(Self::EACH)).flat_map(|(chunk, first)| (first..).zip(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of which a chunk holds eight.
    type Large = [u64; 512];

    impl Chunks<Large> {
        fn extend(&mut self, values: std::ops::Range<u64>) {
            for value in values {
                self.add([value; 512]);
            }
        }
    }

    #[test]
    fn what_is_added_is_where_it_was_said_to_be_and_fills_the_gaps_first() {
        assert_eq!((Chunks::<Large>::EACH, Chunks::<[u64; 14]>::EACH), (8, 256));
        let (mut chunks, mut model) = (Chunks::<Large>::new(), Vec::new());
        let (mut value, mut most) = (0, 0);
        for round in 1..300_usize {
            for _ in 0..round % 23 {
                let position = chunks.add([value; 512]);
                assert!(position <= most);
                model.push((position, value));
                most = most.max(model.len());
                value += 1;
            }
            for _ in 0..round * 7 % 22 {
                if !model.is_empty() {
                    let (position, value) = model.swap_remove(round * 31 % model.len());
                    let moves = chunks.behind(position);
                    assert_eq!(chunks.take(position)[511], value);
                    model.iter_mut().filter(|(at, _)| *at == moves).for_each(|(at, _)| *at = position);
                }
            }
            model.sort_unstable();
            assert!(chunks.iter().map(|(position, value)| (position, value[0])).eq(model.iter().copied()));
            assert!(model.iter().all(|(position, value)| chunks.at(*position)[0] == *value));
            assert_eq!(chunks.len(), model.len());
        }
        assert!(model.len() > 100);
    }

    #[test]
    fn nothing_moves_while_a_list_grows_beyond_its_first_chunk() {
        let mut chunks = Chunks::<Large>::new();
        chunks.extend(0..20);
        let places = |chunks: &Chunks<Large>| [0, 7, 8, 19].map(|position| std::ptr::from_ref(chunks.at(position)));
        let before = places(&chunks);
        chunks.extend(20..1000);
        assert_eq!(places(&chunks), before);
    }
}
