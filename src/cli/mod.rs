//! The command line: what each command does. Where the log goes is in `log.rs`, how it can end in `failure.rs`,
//! completions and man pages in `pages.rs`; what a flag means is decided in `config`.

mod bench;
mod decode;
mod explain;
mod explain_text;
mod failure;
mod key;
mod log;
mod pages;
mod rpc;
mod rpc_follow;
mod rpc_request;
mod rpc_text;
mod serve;
mod simulate;
mod transfer;

use std::io::Write;
use std::path::Path;

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, ApiKey};
use crate::decode::DecodeArgs;
use crate::demo::{self, DemoArgs};
use crate::simulate::args::SimulateArgs;
use crate::top::{self, TopArgs};
use crate::transfer::{ExportArgs, ImportArgs};
pub use bench::BenchArgs;
pub use explain::ExplainArgs;
pub use failure::Failure;
pub use key::{KeyAccess, KeyAction, KeyArgs};
pub use log::start_logging;
pub use pages::{CompletionsArgs, ManArgs};
pub use rpc::{Output, RpcAction, RpcArgs};
pub use rpc_request::SendArgs;
pub use serve::{CheckFormat, ServeArgs};

/// Front door for fleets of ePacket devices.
///
/// Receives their encrypted datagrams, proves who sent them, remembers the last route and state of every device, and lets
/// a sender wait for one that sleeps.
#[derive(Debug, Parser)]
#[command(name = "lastroute", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway until SIGTERM or SIGINT
    Serve(ServeArgs),
    /// Run simulated devices against a gateway
    Simulate(SimulateArgs),
    /// Run a gateway and simulated devices together on this machine, to see what it does
    Demo(DemoArgs),
    /// Watch a running gateway on the terminal
    Top(TopArgs),
    /// Make, list and delete API keys of a running gateway
    Key(KeyArgs),
    /// Call devices through a running gateway, and follow what becomes of the calls
    Rpc(RpcArgs),
    /// Say why a device is reachable or not
    Explain(ExplainArgs),
    /// Explain packets: every field, what is inside, and what a gateway would do with them
    Decode(DecodeArgs),
    /// Measure what receiving costs on this machine, and what limits it
    Bench(BenchArgs),
    /// Register the devices of a file with a running gateway
    Import(ImportArgs),
    /// Write the devices of a running gateway to a file
    Export(ExportArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
    /// Print the man page of lastroute, or write those of all commands
    Man(ManArgs),
}

/// Runs a command to its end.
///
/// # Errors
/// The command could not start, or failed.
pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Demo(arguments) => demo(&arguments),
        Command::Top(arguments) => top(&arguments),
        Command::Key(arguments) => key::run(&arguments),
        Command::Rpc(arguments) => rpc::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Decode(arguments) => decode::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Import(arguments) => transfer::import(&arguments),
        Command::Export(arguments) => transfer::export(&arguments),
        Command::Completions(arguments) => pages::completions(&arguments),
        Command::Man(arguments) => pages::man(&arguments),
    }
}

fn demo(arguments: &DemoArgs) -> Result<(), Failure> {
    start_logging("warn");
    runtime()?.block_on(async {
        let interrupted = interrupted()?;
        let stop = async {
            interrupted.await;
        };
        demo::run(arguments, stop).await.map_err(Failure::from)
    })
}

fn top(arguments: &TopArgs) -> Result<(), Failure> {
    start_logging("warn");
    let key = client_key(arguments.api_key_file.as_deref())?;
    if arguments.once {
        let text = runtime()?.block_on(top::once(arguments, key.as_ref()))?;
        return print(text.as_bytes());
    }
    runtime()?.block_on(async {
        let interrupted = interrupted()?;
        let stop = async {
            interrupted.await;
        };
        top::watch(arguments, key.as_ref(), stop).await.map_err(Failure::from)
    })
}

/// The key of `--api-key-file`, which is shown to a gateway, if there is one.
fn client_key(file: Option<&Path>) -> Result<Option<ApiKey>, Failure> {
    let mut warnings = Vec::new();
    let key = file.map(|path| config::client_key(path, "--api-key-file", &mut warnings)).transpose();
    warn(&warnings);
    key.map_err(Failure::configuration)
}

/// Writes to standard output. Whoever reads only the beginning, as `head` does, is no failure.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Running(format!("cannot write to standard output: {error}; make room or write elsewhere")))
        }
        _ => Ok(()),
    }
}

/// Says a line on standard error. There is nobody to tell that it cannot be written.
fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

fn runtime() -> Result<Runtime, Failure> {
    runtime_of(None)
}

/// A runtime of so many threads, or of one for each core.
fn runtime_of(threads: Option<usize>) -> Result<Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::Running(format!("cannot start a thread: {error}; raise the limits of the process")))
}

/// Completes with the name of the signal that asks the program to end.
fn interrupted() -> Result<impl Future<Output = &'static str>, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::running)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::running)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// Completes with the next signal that asks the program to end, counted from when this is first polled.
async fn interrupted_again() {
    match interrupted() {
        Ok(signal) => drop(signal.await),
        // Then the first signal has to do.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_groups_the_flags_and_tells_of_the_other_sources_but_not_of_test_flags() {
        let mut cli = Cli::command();
        let serve = cli.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        for part in [
            "Files:",
            "Addresses:",
            "Devices:",
            "Waiting:",
            "Logging:",
            "LASTROUTE_UDP_LISTEN",
            "Default: 0.0.0.0:3001",
        ] {
            assert!(serve.contains(part), "{part} is missing in {serve}");
        }
        assert!(!serve.contains("clock-offset"), "{serve}");
    }
}
