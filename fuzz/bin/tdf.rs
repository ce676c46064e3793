//! `fuzz_targets/tdf.rs` under libFuzzer.
#![no_main]

#[path = "../fuzz_targets/tdf.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
