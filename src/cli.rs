//! The command line: what each command does, and where the log goes. What a flag means is decided in `config`.

use std::fmt::Display;
use std::io::IsTerminal;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::app::App;
use crate::clock::Clock;
use crate::config::{self, Config, Flags};
use crate::demo::{self, DemoArgs, DemoError};
use crate::simulate::args::{self, SimulateArgs, WriteError};
use crate::simulate::{self, SimulateError, Stats};

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

/// Why the program ends early. One line: where, what is wrong, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was asked for cannot be done: a setting, an address in use.
    #[error("{0}")]
    Configuration(String),
    /// It went wrong while running.
    #[error("{0}")]
    Running(String),
}

impl Failure {
    /// 2 for a fault of the configuration, as for the command line itself; else 1.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) => 2,
            Self::Running(_) => 1,
        }
    }

    fn configuration(error: impl Display) -> Self {
        Self::Configuration(error.to_string())
    }

    fn running(error: impl Display) -> Self {
        Self::Running(error.to_string())
    }
}

impl From<SimulateError> for Failure {
    fn from(error: SimulateError) -> Self {
        match error {
            SimulateError::Setting(_) | SimulateError::WeakCloudKey => Self::configuration(error),
            SimulateError::Socket { .. } | SimulateError::Panicked(_) => Self::running(error),
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Simulate(error) => error.into(),
            WriteError::Path(_) | WriteError::File { .. } => Self::configuration(error),
        }
    }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        match error {
            DemoError::Simulate(error) => error.into(),
            DemoError::Write(error) => error.into(),
            DemoError::Exposed(_) | DemoError::Directory(_) | DemoError::Config(_) | DemoError::Start(_) => {
                Self::configuration(error)
            }
            DemoError::Random | DemoError::Ended(_) | DemoError::Stop(_) => Self::running(error),
        }
    }
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

/// Sends the log to standard error: as text if that is a terminal, else as one JSON object a line.
///
/// `filter` is `Config::log`. Panics if called twice.
pub fn start_logging(filter: &str) {
    let terminal = std::io::stderr().is_terminal();
    #[allow(clippy::expect_used, reason = "called once, at the start of the program")]
    tracing::subscriber::set_global_default(log(filter, terminal, std::io::stderr)).expect("no log yet");
}

fn log<W>(filter: &str, terminal: bool, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(writer);
    if terminal { Box::new(log.finish()) } else { Box::new(log.json().flatten_event(true).finish()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use clap::CommandFactory;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, terminal: bool) -> String {
        let written = Written::default();
        let writer = written.clone();
        tracing::subscriber::with_default(log(filter, terminal, move || writer.clone()), || {
            tracing::info!(devices = 3, "ready");
            tracing::debug!("detail");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_was_asked_for_wrongly_ends_with_2_and_what_failed_with_1() {
        let setting = || SimulateError::Setting("0 devices".to_owned());
        let code = |failure: Failure| failure.exit_code();
        assert_eq!([code(setting().into()), code(DemoError::from(setting()).into())], [2, 2]);
        assert_eq!(code(DemoError::Write(setting().into()).into()), 2);
        assert_eq!([code(DemoError::Ended("api").into()), code(DemoError::Random.into())], [1, 1]);
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

    #[test]
    fn elsewhere_than_on_a_terminal_the_log_is_one_json_object_a_line() {
        let text = logged("info", false);
        let object: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(
            (&object["level"], &object["message"], &object["devices"]),
            (&"INFO".into(), &"ready".into(), &3.into())
        );
    }

    #[test]
    fn on_a_terminal_the_log_is_text_and_the_filter_decides_what_is_in_it() {
        let text = logged("info", true);
        assert!(text.contains("ready") && !text.contains("detail") && !text.contains('{'), "{text}");
        assert_eq!(logged("debug", true).lines().count(), 2);
        assert_eq!(logged("off", true), "");
    }
}
