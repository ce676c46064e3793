//! `lastroute decode` from its arguments to what it prints.

#![cfg(feature = "server")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod captures;
mod inputs;
mod process;
mod snapshots;

use std::path::{Path, PathBuf};

use lastroute::clock::Timestamp;
use lastroute::decode::{self, DecodeArgs, Knowledge};

/// When the vectors were made.
const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_400_001);

/// What a run prints, what it says besides, and the error it ends with.
struct Ran {
    out: String,
    warnings: Vec<String>,
    error: Option<String>,
}

impl Ran {
    fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }
}

fn run(arguments: &DecodeArgs, knowledge: Knowledge) -> Ran {
    run_with(arguments, knowledge, &[])
}

fn run_with(arguments: &DecodeArgs, knowledge: Knowledge, stdin: &'static [u8]) -> Ran {
    let (mut out, mut warnings) = (Vec::new(), Vec::new());
    let result = decode::run(arguments, knowledge, NOW, stdin, &mut out, &mut warnings);
    let error = result.err().map(|error| error.to_string());
    let ran = Ran { out: String::from_utf8(out).unwrap(), warnings, error };
    for said in ran.lines().into_iter().chain(ran.warnings.iter().chain(&ran.error).map(String::as_str)) {
        assert!(!said.contains(char::is_control), "{said:?}");
    }
    ran
}

/// A file of tests/vectors.
fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

/// Writes a file and explains it, one line a datagram. Its directory is left out of what is said.
fn decoded(content: &[u8], arguments: DecodeArgs) -> Ran {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("input");
    std::fs::write(&path, content).unwrap();
    let ran = run(&DecodeArgs { file: vec![path], ..arguments }, Knowledge::default());
    let shown = format!("{}/", directory.path().display());
    let short = |text: String| text.replace(&shown, "");
    Ran { out: short(ran.out), warnings: ran.warnings.into_iter().map(short).collect(), error: ran.error.map(short) }
}

/// Arguments for one line a datagram.
fn brief() -> DecodeArgs {
    DecodeArgs { brief: true, ..DecodeArgs::default() }
}
