//! The parts of the guard of instruction counts (`benches/instructions`): how it reads, judges and renews, and that its cases do
//! what they are named for. What counts the instructions is the benchmark itself, as it wants an optimised build.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../benches/instructions/baseline.rs"]
mod baseline;
#[path = "../benches/instructions/callgrind.rs"]
mod callgrind;
#[path = "../benches/instructions/cases.rs"]
mod cases;

use std::collections::BTreeSet;
use std::path::Path;

use baseline::{Baseline, Compiler, Verdict};
use callgrind::Counted;
use cases::CASES;

const COMMITTED: &str = include_str!("../benches/instructions/baseline.toml");

fn compiler(rustc: &str) -> Compiler {
    Compiler { rustc: rustc.to_owned(), host: "x86_64-unknown-linux-gnu".to_owned() }
}

#[test]
fn every_case_does_what_it_is_named_for() {
    CASES.iter().for_each(|case| (case.run)());
}

#[test]
fn the_committed_baseline_has_every_case_and_is_as_it_would_be_written() {
    let baseline = Baseline::read(COMMITTED).unwrap();
    let cases: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
    assert_eq!(baseline.own.keys().map(String::as_str).collect::<BTreeSet<_>>(), cases);
    assert_eq!(baseline.to_string(), COMMITTED);
}

#[test]
fn more_than_a_twentieth_above_the_baseline_is_worse_and_below_it_better() {
    let own = [("record", 200.0), ("parse", 10.0)].map(|(case, count)| (case.to_owned(), count));
    let baseline = Baseline { compiler: compiler("1.95.0"), own: own.into() };
    for (case, count, expected) in [
        ("record", 200.0, Verdict::Within),
        ("record", 210.0, Verdict::Within),
        ("record", 212.0, Verdict::Worse { percent: 6.0 }),
        ("record", 190.0, Verdict::Within),
        ("record", 150.0, Verdict::Better { percent: 25.0 }),
        ("parse", 12.0, Verdict::Within),
        ("parse", 15.0, Verdict::Worse { percent: 50.0 }),
        ("open", 10.0, Verdict::Unknown),
    ] {
        let verdict = baseline.judge(case, count);
        assert_eq!(verdict.to_string(), expected.to_string(), "{case} {count}");
    }
}

#[test]
fn another_compiler_is_not_judged_and_told_how_to_renew() {
    let said = "rustc 1.96.0 (abc 2026-05-28)\nbinary: rustc\nhost: aarch64-unknown-linux-gnu\nrelease: 1.96.0\n";
    let other = Compiler::read(said).unwrap();
    let baseline = Baseline { compiler: compiler("1.95.0"), own: [("parse".to_owned(), 1.0)].into() };
    assert_eq!(baseline.is_of(&compiler("1.95.0")), Ok(()));
    let text = baseline.is_of(&other).unwrap_err();
    assert_eq!(
        text,
        "the baseline is of rustc 1.95.0 for x86_64-unknown-linux-gnu, and this is 1.96.0 for aarch64-unknown-linux-gnu; \
         renew it: cargo bench --locked --no-default-features --bench instructions -- --renew"
    );
}

#[test]
fn a_baseline_that_is_damaged_or_empty_is_refused() {
    for (text, expected) in [
        ("", "it has no counts"),
        ("rustc = \"1.95.0\"\n", "it has no counts"),
        ("\"parse\" = many\n", "no number in \"\\\"parse\\\" = many\""),
        ("parse\n", "no value in \"parse\""),
    ] {
        assert_eq!(Baseline::read(text).unwrap_err(), expected);
    }
}

#[test]
fn counts_are_told_apart_by_whose_code_they_are_of() {
    let text = "version: 1\npositions: line\nevents: Ir\n\nob=/t/bench\nfl=/src/a.rs\nfn=lastroute::wire::parse\n10 7\nfi=/src/b.rs\n\
                12 3\nfe=/src/a.rs\ncob=/lib/libc.so.6\ncfn=memcpy\ncalls=2 0\n13 900\n14 1\n\nfl=/c/ring-0.17.14/pregenerated/chacha.S\nfn=poly_hash\n0 50\n\n\
                fl=/src/auth.rs\nfn=lastroute::auth::open\nfi=/c/ring-0.17.14/src/aead.rs\n5 4\n\nob=/lib/libc.so.6\nfn=memcpy\n0 20\n\ntotals: 85\n";
    let counted = callgrind::read(text, "/t/bench");
    assert_eq!(counted, Counted { own: 11.0, ring: 54.0, elsewhere: 20.0 });
    assert_eq!(counted.each(2), Counted { own: 5.5, ring: 27.0, elsewhere: 10.0 });
}

#[test]
fn without_valgrind_it_is_said_that_nothing_was_counted() {
    let nowhere = Path::new("/nonexistent");
    let why = callgrind::count("valgrind-that-is-not-there", nowhere, nowhere, ("CASE", "parse")).unwrap_err();
    assert_eq!(why, "there is no valgrind here; install it (Debian package valgrind)");
}
