//! `serve`: the gateway until a signal, or a look at its configuration.

use std::pin::pin;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use tokio::sync::oneshot;

use super::{Failure, interrupted, print, runtime, start_logging, warn};
use crate::app::App;
use crate::config::{Config, Flags, Report};
use crate::service::{Passed, Told, attend, load};

/// Arguments of `serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The settings of the gateway.
    #[command(flatten)]
    pub flags: Flags,
    /// Check the configuration, print what it comes to and where each value is from, and start nothing: no socket is
    /// opened and no file made. As text, or with =json as JSON. Default: off
    #[arg(
        long,
        value_name = "FORMAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text",
        hide_possible_values = true
    )]
    pub check: Option<CheckFormat>,
}

/// How a checked configuration is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

pub(super) fn run(arguments: &ServeArgs) -> Result<(), Failure> {
    match arguments.check {
        Some(format) => check(&arguments.flags, format),
        None => serve(&arguments.flags),
    }
}

fn check(flags: &Flags, format: CheckFormat) -> Result<(), Failure> {
    let report = Report::of(flags, std::env::vars_os()).map_err(Failure::configuration)?;
    let text = match format {
        CheckFormat::Text => report.to_string(),
        CheckFormat::Json => serde_json::to_string_pretty(&report).map_err(Failure::running)?,
    };
    print((text + "\n").as_bytes())
}

fn serve(flags: &Flags) -> Result<(), Failure> {
    let config = Config::load(flags, std::env::vars_os()).map_err(Failure::configuration)?;
    start_logging(&config.log);
    // Before there are other threads.
    let passed = Passed::take().map_err(Failure::configuration)?;
    let warnings = config.warnings.clone();
    let (networks, devices) = (config.networks.len(), config.devices.len());
    let public_key = STANDARD.encode(config.cloud_keys.public());
    let runtime = runtime()?;
    // Before anything is loaded: from then on a signal means an orderly end.
    let mut interrupted = pin!(runtime.block_on(async { interrupted() })?);
    let Some(app) = runtime.block_on(start(config, passed, interrupted.as_mut()))? else { return Ok(()) };
    // Not before: a start that fails is one line.
    warn(&warnings);
    let version = env!("CARGO_PKG_VERSION");
    let metrics = app.metrics().map(tracing::field::display);
    tracing::info!(version, http = %app.http(), metrics, networks, devices, public_key, "ready");
    let status = status(&app);
    Told::Ready(&status).tell();
    let attending = attend(app.turns(), app.health().clone(), status);
    runtime.block_on(async {
        tokio::select! {
            signal = &mut interrupted => {
                tracing::info!(signal, "stopping");
                Ok(())
            }
            never = attending => match never {},
            thread = app.failed() => Err(Failure::Running(format!("thread {thread} ended; see the log above"))),
        }
    })?;
    Told::Stopping.tell();
    app.stop();
    tracing::info!("stopped");
    Ok(())
}

/// Starts the gateway, on a thread of its own, as that may take minutes. `None`: it was interrupted, and nothing was changed that
/// the next start does not put right, as after a kill.
async fn start(
    config: Config,
    passed: Passed,
    interrupted: impl Future<Output = &'static str>,
) -> Result<Option<App>, Failure> {
    let (told, started) = oneshot::channel();
    // An error: nobody waits for it any more.
    std::thread::spawn(move || drop(told.send(App::start_on(config, passed))));
    tokio::select! {
        started = started => {
            let app = started.map_err(|_| Failure::Running("the start ended by a defect; see above".to_owned()))?;
            Ok(Some(app?))
        }
        signal = interrupted => {
            Told::Stopping.tell();
            tracing::info!(signal, "stopped before it was ready");
            Ok(None)
        }
        never = load() => match never {},
    }
}

/// One line for the service manager.
fn status(app: &App) -> String {
    let udp: Vec<_> = app.udp().iter().map(ToString::to_string).collect();
    format!("receiving on {}, API on {}", udp.join(", "), app.http())
}
