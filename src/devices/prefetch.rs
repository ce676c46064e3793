//! Fetching the values of a whole batch of devices into the caches before the first packet of it is looked at.
//!
//! A fleet of any size leaves the caches between two packets of a device, so that finding its value waits for memory twice,
//! for the index and for the value. Asked for in advance, the values of a batch arrive together.
#![allow(unsafe_code, reason = "a hint to the processor, and reading the addresses to give it, have no safe form")]

use super::Devices;
use crate::id::DeviceId;

/// Asks for what there is of `ids`. What is not there costs a little and does no harm.
pub(super) fn fetch<T>(devices: &Devices<T>, ids: &[DeviceId]) {
    for &id in ids {
        devices.aim(id, hint);
    }
    for &id in ids {
        devices.entry(id, |entry, bytes| {
            (0..bytes).step_by(LINE).for_each(|line| hint(entry.wrapping_add(line)));
            // Where it begins within a line, it may reach into one more.
            hint(entry.wrapping_add(bytes - 1));
        });
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

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
        let devices = Devices::new(4);
        let ids: Vec<DeviceId> = (0..200).map(DeviceId).collect();
        fetch(&devices, &ids);
        for &id in &ids[..100] {
            devices.lock(id).insert(id.0);
            fetch(&devices, &ids);
        }
        let writing = devices.lock(ids[0]);
        fetch(&devices, &ids);
        drop(writing);
        assert!((0..100).all(|id| devices.copy(DeviceId(id)) == Some(id)));
        assert_eq!(devices.len(), 100);
    }
}
