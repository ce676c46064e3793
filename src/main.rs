//! The program. Exit code 2: the configuration is at fault; 1: it failed while running.

use std::process::ExitCode;

use clap::Parser;
use lastroute::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lastroute: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
