//! Instructions that the pure core takes for one packet, counted by callgrind and held against `baseline.toml`.
//!
//! `cargo bench --locked --no-default-features --bench instructions`, a step of the gate; with `-- --renew` it writes the
//! baseline. Times on a machine that is shared say little, instructions say the same every time: they tell what our own code
//! does, not what memory and caches make of it, for which `hot_path` and `receive` are.
//!
//! A case counts what happens inside [`cases::counted`] and nothing else. Only instructions of our own code are held against
//! the baseline. Those of `ring`, whose code is chosen by what the processor can do, and those of the system's libraries are
//! shown. Without valgrind, or with another compiler than the baseline's, that is said and nothing is judged.
#![allow(missing_docs, clippy::unwrap_used)]

mod baseline;
mod callgrind;
mod cases;

use std::path::Path;
use std::process::{Command, ExitCode};

use baseline::{Baseline, Compiler, Verdict};
use callgrind::Counted;
use cases::{CASES, Case, PACKETS};

/// How a process that is counted learns which case it is to run.
const CASE: &str = "LASTROUTE_BENCH_CASE";

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/baseline.toml");

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(CASE) {
        let case = CASES.iter().find(|case| case.name == name).unwrap();
        (case.run)();
        return ExitCode::SUCCESS;
    }
    let renew = std::env::args().any(|argument| argument == "--renew");
    match judge(renew) {
        Ok(code) => code,
        Err(why) => {
            println!("{}: {why}", if renew { "NOT RENEWED" } else { "NOT JUDGED" });
            if renew { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}

/// `Err`: why nothing can be said.
fn judge(renew: bool) -> Result<ExitCode, String> {
    if cfg!(debug_assertions) || cfg!(feature = "server") {
        return Err(format!("this is another build than the one that is counted; run {}", baseline::COMMAND));
    }
    let compiler = compiler();
    let old = Baseline::read(&std::fs::read_to_string(FILE).unwrap_or_default());
    if !renew {
        old.as_ref().map_err(|fault| format!("baseline.toml: {fault}"))?.is_of(&compiler)?;
    }
    let counted: Vec<_> = CASES.iter().map(|case| Ok((case, count(case)?))).collect::<Result<_, String>>()?;
    if renew {
        let own = counted.iter().map(|(case, counted)| (case.name.to_owned(), counted.own)).collect();
        std::fs::write(FILE, Baseline { compiler, own }.to_string()).unwrap();
        println!("written: {FILE}");
    }
    let old = old.unwrap_or_default();
    let verdicts = report(&counted, &old);
    if !renew && verdicts.iter().any(|verdict| *verdict != Verdict::Within) {
        println!("If that is meant, renew the baseline: {} -- --renew", baseline::COMMAND);
    }
    let is_good = |verdict: &Verdict| matches!(verdict, Verdict::Within | Verdict::Better { .. });
    Ok(if renew || verdicts.iter().all(is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says what was counted, and gives what it is to the baseline.
fn report(counted: &[(&Case, Counted)], old: &Baseline) -> Vec<Verdict> {
    println!("{:24}{:>10}{:>10}{:>8}{:>11}", "instructions a packet", "own code", "baseline", "ring", "libraries");
    let row = |(case, Counted { own, ring, elsewhere }): &(&Case, Counted)| {
        let verdict = old.judge(case.name, *own);
        let before = old.own.get(case.name).map_or_else(|| "-".to_owned(), |before| format!("{before:.1}"));
        println!("{:24}{own:>10.1}{before:>10}{ring:>8.1}{elsewhere:>11.1}  {verdict}", case.name);
        verdict
    };
    counted.iter().map(row).collect()
}

fn count(case: &Case) -> Result<Counted, String> {
    let executable = std::env::current_exe().unwrap();
    let directory = std::env::temp_dir().join(format!("lastroute-instructions-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let counted = callgrind::count("valgrind", &executable, &directory.join("callgrind.out"), (CASE, case.name));
    std::fs::remove_dir_all(&directory).unwrap();
    let counted = counted?.each(PACKETS);
    assert!(counted.own > 0.0, "{}: no code of ours was counted; does the pattern still name the function?", case.name);
    Ok(counted)
}

/// The compiler that builds here.
fn compiler() -> Compiler {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(Path::new(&rustc)).arg("-vV").output().unwrap();
    Compiler::read(&String::from_utf8(output.stdout).unwrap()).unwrap()
}
