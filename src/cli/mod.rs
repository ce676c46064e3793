//! The command line: what each command does. Where the log goes is in `log.rs`, how it can end in `failure.rs`; what a
//! flag means is decided in `config`.

mod failure;
mod log;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::clock::Clock;
use crate::config::{self, Config, Flags};
use crate::demo::{self, DemoArgs};
use crate::simulate::args::{self, SimulateArgs};
use crate::simulate::{self, Stats};
pub use failure::Failure;
pub use log::start_logging;

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
    Serve(Flags),
    /// Run simulated devices against a gateway
    Simulate(SimulateArgs),
    /// Run a gateway and simulated devices together on this machine, to see what it does
    Demo(DemoArgs),
}

/// Runs a command to its end.
///
/// # Errors
/// The command could not start, or failed.
pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(flags) => serve(&flags),
        Command::Simulate(arguments) => simulate(&arguments),
        Command::Demo(arguments) => demo(&arguments),
    }
}

fn serve(flags: &Flags) -> Result<(), Failure> {
    let config = Config::load(flags, std::env::vars_os()).map_err(Failure::configuration)?;
    start_logging(&config.log);
    let warnings = config.warnings.clone();
    let (networks, devices) = (config.networks.len(), config.devices.len());
    let public_key = STANDARD.encode(config.cloud_keys.public());
    let runtime = runtime()?;
    // Before anything is said to be ready: from then on a signal means an orderly end.
    let interrupted = runtime.block_on(async { interrupted() })?;
    let app = App::start(config).map_err(Failure::configuration)?;
    // Not before: a start that fails is one line.
    warn(&warnings);
    let version = env!("CARGO_PKG_VERSION");
    let metrics = app.metrics().map(tracing::field::display);
    tracing::info!(version, http = %app.http(), metrics, networks, devices, public_key, "ready");
    runtime.block_on(async {
        tokio::select! {
            signal = interrupted => {
                tracing::info!(signal, "stopping");
                Ok(())
            }
            thread = app.failed() => Err(Failure::Running(format!("thread {thread} ended; see the log above"))),
        }
    })?;
    app.stop();
    tracing::info!("stopped");
    Ok(())
}

fn simulate(arguments: &SimulateArgs) -> Result<(), Failure> {
    start_logging("warn");
    let mut warnings = Vec::new();
    let key_file = arguments.network_key_file.as_deref();
    let network_key = key_file.map(|path| config::key_file(path, "--network-key-file", &mut warnings)).transpose();
    let config = arguments.config(network_key.map_err(Failure::configuration)?)?;
    if let Some(path) = &arguments.write_config {
        args::write_gateway_config(path, &config, key_file)?;
        warn(&warnings);
        return Ok(());
    }
    warn(&warnings);
    let stats = Arc::new(Stats::default());
    let summary = runtime()?.block_on(async {
        let interrupted = interrupted()?;
        let stop = async {
            interrupted.await;
        };
        tokio::select! {
            summary = simulate::run(config, Clock::default(), stats.clone(), stop) => summary.map_err(Failure::from),
            never = simulate::report(stats.clone()) => match never {},
        }
    })?;
    println!("{summary}");
    Ok(())
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

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

fn runtime() -> Result<Runtime, Failure> {
    Runtime::new()
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
