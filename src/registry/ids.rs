//! Record ids: UUIDs of version 7, each above all before it.

use std::sync::{Mutex, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;

use crate::clock::Timestamp;

/// Bits of a UUID of version 7 after the time that are free.
const FREE: u32 = 74;

/// Bits of the time, in milliseconds.
const TIME: u32 = 48;

/// Makes record ids. Whatever the clock does, the next one is above all before it.
#[derive(Debug)]
pub(super) struct Ids {
    /// Time and free bits of the greatest id so far.
    last: Mutex<u128>,
    random: SystemRandom,
}

impl Ids {
    /// Ids above `greatest`.
    pub(super) fn above(greatest: Option<Uuid>) -> Self {
        Self { last: Mutex::new(greatest.map_or(0, |id| squeeze(id.as_u128()))), random: SystemRandom::new() }
    }

    /// The next id. Whoever wants ids to rise with the numbers of the records takes it within the transaction.
    pub(super) fn next(&self, now: Timestamp) -> Uuid {
        let time = u128::from(now.0) & ((1 << TIME) - 1);
        let random = self.random();
        let fresh = time << FREE | random >> (u128::BITS - FREE);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // A step of up to 2^32: one id of a millisecond does not tell the next.
        *last = fresh.max(*last + 1 + (random & u128::from(u32::MAX)));
        Uuid::from_u128(spread(*last))
    }

    /// Random bits. Ids are no secrets: without random bytes they still rise.
    fn random(&self) -> u128 {
        let mut bytes = [0; 16];
        let _ = self.random.fill(&mut bytes);
        u128::from_be_bytes(bytes)
    }
}

/// Time and free bits with version and variant between them.
const fn spread(id: u128) -> u128 {
    let (time, first, second) = (id >> FREE, (id >> 62) & 0xfff, id & ((1 << 62) - 1));
    (time << 80) | (7 << 76) | (first << 64) | (0b10 << 62) | second
}

/// Time and free bits alone.
const fn squeeze(id: u128) -> u128 {
    let (time, first, second) = (id >> 80, (id >> 64) & 0xfff, id & ((1 << 62) - 1));
    (time << FREE) | (first << 62) | second
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_402_800_123);

    #[test]
    fn an_id_is_a_uuid_of_version_7_with_the_time_in_front() {
        let id = Ids::above(None).next(NOW);
        assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
        assert_eq!(id.as_u128() >> 80, u128::from(NOW.0));
        assert_eq!(spread(squeeze(id.as_u128())), id.as_u128());
    }

    #[test]
    fn ids_rise_within_a_millisecond_and_when_the_clock_is_set_back() {
        let ids = Ids::above(None);
        let mut last = ids.next(NOW);
        for now in [NOW; 10_000].into_iter().chain([Timestamp(NOW.0 - 60_000), Timestamp(0), NOW]) {
            let next = ids.next(now);
            assert!(next > last, "{next} after {last}");
            last = next;
        }
    }

    #[test]
    fn ids_go_on_above_the_greatest_that_was_stored() {
        let stored = Ids::above(None).next(NOW);
        let ids = Ids::above(Some(stored));
        let next = ids.next(Timestamp(NOW.0 - 86_400_000));
        assert!(next > stored && next.get_version_num() == 7, "{next} after {stored}");
        assert_eq!(ids.next(Timestamp(NOW.0 + 1)).as_u128() >> 80, u128::from(NOW.0 + 1));
    }

    #[test]
    fn the_last_id_of_a_millisecond_is_followed_by_one_of_the_next() {
        let last = Uuid::from_u128(spread((u128::from(NOW.0) << FREE) | ((1 << FREE) - 1)));
        let next = Ids::above(Some(last)).next(NOW);
        assert_eq!((next.as_u128() >> 80, next.get_version_num()), (u128::from(NOW.0 + 1), 7));
    }
}
