//! Every input that the fuzzer once found worth keeping, again, by the same functions that it calls (fuzz/fuzz_targets).
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target that fails is a test that fails")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// Declares a test for each target, which runs it over the corpus of its name.
macro_rules! replay {
    ($($target:ident: $path:literal),* $(,)?) => {
        $(
            #[path = $path]
            mod $target;

            #[test]
            fn $target() {
                replay(stringify!($target), $target::run);
            }
        )*

        /// Their names.
        const TARGETS: &[&str] = &[$(stringify!($target)),*];
    };
}

replay! {
    config: "../fuzz/fuzz_targets/config.rs",
    container: "../fuzz/fuzz_targets/container.rs",
    decode: "../fuzz/fuzz_targets/decode.rs",
    definitions: "../fuzz/fuzz_targets/definitions.rs",
    frame: "../fuzz/fuzz_targets/frame.rs",
    ingest: "../fuzz/fuzz_targets/ingest.rs",
    records: "../fuzz/fuzz_targets/records.rs",
    requests: "../fuzz/fuzz_targets/requests.rs",
    router: "../fuzz/fuzz_targets/router.rs",
    tdf: "../fuzz/fuzz_targets/tdf.rs",
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// The names of what is in a folder, without what follows the first dot, in order.
fn names(folder: PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.map(|name| name.split('.').next().unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = folder("corpus").join(target);
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(inputs.len() >= 5, "{target} has {} inputs", inputs.len());
    for path in inputs {
        let input = std::fs::read(&path).unwrap();
        let ran = catch_unwind(AssertUnwindSafe(|| run(&input)));
        assert!(ran.is_ok(), "{target} fails on {}", path.display());
    }
}

#[test]
fn every_target_has_its_corpus_and_is_replayed() {
    assert_eq!(names(folder("corpus")), TARGETS);
    assert_eq!(names(folder("bin")), TARGETS);
}

/// Fields are added to records, and a seed of former ones is refused before anything is tried.
#[test]
fn there_is_a_record_among_the_records() {
    let input = std::fs::read(folder("corpus").join("records").join("full")).unwrap();
    rmp_serde::from_slice::<lastroute::table::kept::Kept>(&input[1..]).unwrap();
}
