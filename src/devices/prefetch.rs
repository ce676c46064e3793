//! Asking for memory that will be looked at soon.
//!
//! A fleet of any size leaves the caches between two packets of a device, so that finding its value waits for memory twice,
//! for the index and for the value. Asked for in advance, the values of a whole batch arrive together.
#![allow(unsafe_code, reason = "a hint to the processor has no safe form")]

/// Asks for the `T` at an address, where nothing need be.
#[inline]
pub(super) fn fetch<T>(at: *const T) {
    let first = at.cast::<u8>();
    (0..size_of::<T>()).step_by(LINE).for_each(|byte| hint(first.wrapping_add(byte)));
    // Where it begins within a line, it may reach into one more.
    if size_of::<T>() > align_of::<T>() {
        hint(first.wrapping_add(size_of::<T>() - 1));
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
