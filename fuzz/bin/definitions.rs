//! `fuzz_targets/definitions.rs` under libFuzzer.
#![no_main]

#[path = "../fuzz_targets/definitions.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
