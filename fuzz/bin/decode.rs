//! `fuzz_targets/decode.rs` under libFuzzer.
#![no_main]

#[path = "../fuzz_targets/decode.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
