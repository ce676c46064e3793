//! A heap out of which any entry can be taken, and which moves nothing when it grows.

use crate::devices::chunks::Chunks;

/// The least entry first.
#[derive(Debug)]
pub(super) struct Queue<T>(Chunks<T>);

impl<T: Copy + Ord> Queue<T> {
    pub(super) const fn new() -> Self {
        Self(Chunks::new())
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// All entries, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, entry)| entry)
    }

    /// Adds an entry: at once where it is the greatest.
    pub(super) fn push(&mut self, entry: T) {
        let position = self.0.add(entry);
        self.rise(position);
    }

    /// The entry at a position below the number of entries. Those at others may be elsewhere after any change.
    pub(super) fn at(&self, position: usize) -> Option<T> {
        (position < self.len()).then(|| *self.0.at(position))
    }

    /// Takes the least entry out.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.take(0)
    }

    /// Takes the entry at a position out. Another one is there then.
    pub(super) fn take(&mut self, position: usize) -> Option<T> {
        let taken = self.at(position)?;
        // The last one of all is that of the last chunk, so that no gap is left.
        let last = self.0.take(self.len() - 1);
        if position < self.len() {
            *self.0.at_mut(position) = last;
            self.sink(position);
            self.rise(position);
        }
        Some(taken)
    }

    fn rise(&mut self, mut position: usize) {
        while position > 0 {
            let above = (position - 1) / 2;
            if self.0.at(above) <= self.0.at(position) {
                return;
            }
            self.swap(above, position);
            position = above;
        }
    }

    fn sink(&mut self, mut position: usize) {
        loop {
            let below = (2 * position + 1..2 * position + 3).filter(|below| *below < self.len());
            let Some(least) = below.min_by_key(|below| *self.0.at(*below)) else { return };
            if self.0.at(position) <= self.0.at(least) {
                return;
            }
            self.swap(position, least);
            position = least;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        let (first, second) = (*self.0.at(one), *self.0.at(other));
        (*self.0.at_mut(one), *self.0.at_mut(other)) = (second, first);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_least_comes_out_first_whatever_was_taken_out_elsewhere(
            history in prop::collection::vec((0..4_u8, 0..50_u32), 1..300),
        ) {
            let (mut queue, mut model) = (Queue::new(), Vec::<u32>::new());
            for (what, value) in history {
                match what {
                    0 => {
                        model.sort_unstable_by(|one, other| other.cmp(one));
                        prop_assert_eq!(queue.pop(), model.pop());
                    }
                    1 => {
                        let taken = queue.take(value as usize);
                        prop_assert_eq!(taken.is_some(), (value as usize) < model.len());
                        if let Some(taken) = taken {
                            let at = model.iter().position(|present| *present == taken).unwrap();
                            model.swap_remove(at);
                        }
                    }
                    _ => {
                        queue.push(value);
                        model.push(value);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
            }
            model.sort_unstable();
            let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            prop_assert_eq!(rest, model);
        }
    }
}
