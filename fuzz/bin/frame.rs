//! `fuzz_targets/frame.rs` under libFuzzer.
#![no_main]

#[path = "../fuzz_targets/frame.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
