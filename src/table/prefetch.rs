//! Fetching the records of a whole batch into the caches before the first packet of it is judged.
//!
//! A fleet of any size leaves the caches between two packets of a device, so that finding its record waits for memory twice,
//! for the index and for the record. Asked for in advance, the records of a batch arrive together.
#![allow(unsafe_code, reason = "a hint to the processor, and reading the addresses to give it, have no safe form")]

use dashmap::DashMap;
use foldhash::fast::RandomState;

use super::record::Record;
use crate::id::DeviceId;

/// Asks for the records of `ids`. What is not there costs a little and does no harm.
pub(super) fn fetch(records: &DashMap<DeviceId, Record, RandomState>, ids: &[DeviceId]) {
    for &id in ids {
        let hash = records.hash_usize(&id);
        // A shard that is being written is skipped rather than waited for.
        if let Some(shard) = records.shards()[records.determine_shard(hash)].try_read() {
            // The control bytes of the index begin where its entries end.
            let control = shard.data_end().as_ptr().cast::<u8>();
            hint(control.wrapping_add(hash & (shard.buckets() - 1)));
        }
    }
    for &id in ids {
        let hash = records.hash_usize(&id);
        if let Some(shard) = records.shards()[records.determine_shard(hash)].try_read() {
            // SAFETY: the guard keeps the table as it is while the iterator lives.
            if let Some(entry) = unsafe { shard.iter_hash(hash as u64) }.next() {
                let entry = entry.as_ptr().cast::<u8>();
                for line in (0..ENTRY).step_by(LINE) {
                    hint(entry.wrapping_add(line));
                }
            }
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes of an entry.
const ENTRY: usize = size_of::<(DeviceId, Record)>();

/// Asks for the cache line of an address, which need not be valid.
#[inline]
fn hint(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program could see, and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch(address.cast(), _MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_nothing_changes_and_a_shard_in_use_is_not_waited_for() {
        let records = DashMap::with_capacity_and_hasher_and_shard_amount(0, RandomState::default(), 4);
        let ids: Vec<DeviceId> = (0..200).map(DeviceId).collect();
        fetch(&records, &ids);
        for &id in &ids[..100] {
            records.insert(id, Record::new(id.0 as u32, false));
            fetch(&records, &ids);
        }
        let writing = records.get_mut(&ids[0]);
        fetch(&records, &ids);
        drop(writing);
        assert!((0..100).all(|id| records.get(&DeviceId(id)).unwrap().cursor(0).epoch == id));
        assert_eq!(records.len(), 100);
    }
}
