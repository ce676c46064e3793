//! `fuzz_targets/container.rs` under libFuzzer.
#![no_main]

#[path = "../fuzz_targets/container.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
