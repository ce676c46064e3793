//! `lastroute top`: a terminal view of a running gateway, from its own API. Reads only.
//!
//! `model.rs` is what is known, pure; `view.rs` draws it, with `counters.rs` and `lookup.rs`; `watch.rs` is the loop between
//! the gateway, the keyboard and the screen; `once.rs` says the same as plain text.

mod counters;
mod lookup;
mod model;
mod once;
#[cfg(test)]
mod samples;
mod text;
mod view;
mod watch;

use std::io::{self, IsTerminal as _};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc::{self, Receiver};

use crate::client::{Client, ClientError, DEFAULT_ADDRESS};
use crate::config::ApiKey;
use crate::duration::duration;
use model::Model;

/// Intervals from what the eye can follow to what still is watching.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);

/// Keys that wait to be taken; a reader of the keyboard that is ahead of the screen pauses.
const KEYS: usize = 64;

/// Arguments of `top`.
#[derive(clap::Args, Clone, Debug)]
pub struct TopArgs {
    /// Address of the gateway's API; plain HTTP, so use a tunnel to reach another machine
    #[arg(long, value_name = "URL", default_value = DEFAULT_ADDRESS)]
    pub gateway_api: String,
    /// File with an API key for all organisations; the first in it is used. Default: none
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Time from one question to the next, 100ms to 24h
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub every: Duration,
    /// Print how the gateway is as plain text, and end. Default: watch it on the terminal
    #[arg(long)]
    pub once: bool,
}

/// Why the view ended.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// An address or key that cannot be used.
    #[error(transparent)]
    Setting(ClientError),
    /// The gateway did not tell how it is, which was to be printed.
    #[error(transparent)]
    Gateway(ClientError),
    /// Nothing to draw on.
    #[error("top draws on a terminal, and there is none; add --once, or fetch {0}/gateway")]
    NoTerminal(String),
    /// The terminal failed.
    #[error("cannot use the terminal: {0}; add --once to do without")]
    Terminal(io::Error),
}

/// How a gateway is, as plain text: what `--once` prints.
///
/// # Errors
/// An address or key that cannot be used, or no answer.
pub async fn once(arguments: &TopArgs, key: Option<&ApiKey>) -> Result<String, TopError> {
    let client = client(arguments, key)?;
    let status = client.status().await.map_err(TopError::Gateway)?;
    Ok(once::snapshot(client.address(), &status))
}

/// Shows how a gateway is until a key ends it or `interrupted` completes. One that does not answer is shown as such and
/// asked again.
///
/// # Errors
/// An address or key that cannot be used, or no terminal.
pub async fn watch(
    arguments: &TopArgs,
    key: Option<&ApiKey>,
    interrupted: impl Future<Output = ()>,
) -> Result<(), TopError> {
    let client = client(arguments, key)?;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(TopError::NoTerminal(client.address().to_owned()));
    }
    let mut model = Model::new(client.address(), arguments.every);
    // From here on a panic restores the terminal, too.
    let watched = match ratatui::try_init() {
        Ok(mut terminal) => {
            let draw = |model: &Model, now| terminal.draw(|frame| view::draw(frame, model, now)).map(drop);
            watch::watch(&client, &mut model, keyboard(), interrupted, draw).await
        }
        Err(error) => Err(error),
    };
    watched.and(ratatui::try_restore()).map_err(TopError::Terminal)
}

fn client(arguments: &TopArgs, key: Option<&ApiKey>) -> Result<Client, TopError> {
    Client::new(&arguments.gateway_api, key.map(ApiKey::text)).map_err(TopError::Setting)
}

/// What happens at the terminal, read by a thread of its own, which ends with the process.
fn keyboard() -> Receiver<io::Result<Event>> {
    let (tell, events) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let failed = event.is_err();
            if tell.blocking_send(event).is_err() || failed {
                break;
            }
        }
    });
    events
}

fn interval(text: &str) -> Result<Duration, String> {
    let every = duration(text)?;
    if INTERVALS.contains(&every) { Ok(every) } else { Err("ask every 100ms to 24h".to_owned()) }
}
