//! `bench`: what receiving costs on this machine, measured and told.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, value_parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::rpc_follow::INTERRUPTED;
use super::{Failure, interrupted, print, runtime_of, say, start_logging};
use crate::measure::report::Report;
use crate::measure::{self, Config, MeasureError, Measurement, Progress, Receiver};

/// Arguments of `bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// How many devices send in turn, 100 to 1000000; a million take 300 MB
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = value_parser!(u32).range(100..=1_000_000))]
    pub devices: u32,
    /// How often each receiver has its turn, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Datagrams that are measured in each turn, 1000 to 2000000; a million take 150 MB
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = value_parser!(u32).range(1000..=2_000_000))]
    pub datagrams: u32,
    /// Share of the packets that ask for an acknowledgement, in percent, 0 to 100
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = value_parser!(u32).range(0..=100))]
    pub ack_share: u32,
    /// Print the result as JSON in one line
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(arguments: &BenchArgs) -> Result<(), Failure> {
    start_logging("warn");
    let BenchArgs { devices, rounds, datagrams, ack_share: ack_percent, json } = *arguments;
    let config = Config { devices, rounds, datagrams, ack_percent };
    let (measurement, signal) = runtime_of(Some(1))?.block_on(measured(config))?;
    let done = measurement.rounds();
    if done > 0 {
        let report = Report::new(&measurement);
        let text = if json { serde_json::to_string(&report).map_err(Failure::running)? } else { report.to_string() };
        print((text + "\n").as_bytes())?;
    }
    let Some(signal) = signal else { return Ok(()) };
    Err(Failure::Outcome { code: INTERRUPTED, line: format!("ended by {signal} after {done} of {rounds} rounds") })
}

/// Measures, or ends early with the name of the signal that asks for it.
async fn measured(config: Config) -> Result<(Measurement, Option<&'static str>), Failure> {
    let (interrupted, stop) = (interrupted()?, Arc::new(AtomicBool::new(false)));
    let (shown, stopping) = (Shown::new(config), Arc::clone(&stop));
    let mut measuring = tokio::task::spawn_blocking(move || {
        let measured = measure::measure(config, &stopping, |progress| shown.show(progress));
        shown.clear();
        measured
    });
    let (ended, signal) = tokio::select! {
        ended = &mut measuring => (ended, None),
        signal = interrupted => {
            stop.store(true, Ordering::Relaxed);
            (measuring.await, Some(signal))
        }
    };
    Ok((ended.map_err(Failure::running)??, signal))
}

impl From<MeasureError> for Failure {
    fn from(error: MeasureError) -> Self {
        Self::running(error)
    }
}

/// A bar on a terminal; elsewhere a line for each round.
struct Shown {
    bar: Option<ProgressBar>,
    rounds: u32,
}

impl Shown {
    fn new(config: Config) -> Self {
        let steps = u64::from(config.rounds) * STEPS;
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{elapsed_precise} {bar:30} {eta} left  {wide_msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr()).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, rounds: config.rounds }
    }

    fn show(&self, Progress { round, turn }: Progress) {
        let step = turn.map_or(0, |receiver| receiver as u64 + 1);
        let doing = turn.map_or("making packets", Receiver::name);
        match &self.bar {
            Some(bar) => {
                bar.set_position(u64::from(round - 1) * STEPS + step);
                bar.set_message(format!("round {round} of {}: {doing}", self.rounds));
            }
            None if step == 0 => say(&format!("round {round} of {}", self.rounds)),
            None => {}
        }
    }

    fn clear(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// Steps of a round: making packets, and the turns.
const STEPS: u64 = 1 + Receiver::ALL.len() as u64;
