//! The program. Exit code 2: the configuration is at fault; 1: it failed while running; others are of `lastroute rpc` and `lastroute explain`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use lastroute::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // There is nobody to tell that standard error cannot be written.
            drop(writeln!(std::io::stderr(), "lastroute: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}
