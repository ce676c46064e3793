//! What the `simulate` command shows while it runs.

use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, interval};

use super::stats::{Count, Stats};

/// Time between two looks at the counters on a terminal.
const TERMINAL_EVERY: Duration = Duration::from_millis(250);
/// Time between two lines elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Reports on standard error until dropped: a line that changes on a terminal, a new line every 10 s elsewhere.
pub async fn report(stats: Arc<Stats>) -> Infallible {
    if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
        let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let bar = ClearedOnDrop(bar);
        watch(&stats, TERMINAL_EVERY, |line| {
            bar.0.set_message(line);
            bar.0.tick();
        })
        .await
    } else {
        watch(&stats, LINE_EVERY, |line| eprintln!("{line}")).await
    }
}

/// Leaves the terminal to what is printed next.
struct ClearedOnDrop(ProgressBar);

impl Drop for ClearedOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

async fn watch(stats: &Stats, every: Duration, show: impl Fn(String)) -> Infallible {
    let mut ticks = interval(every);
    ticks.tick().await;
    let (mut last_sent, mut last_at) = (stats.sent(), Instant::now());
    loop {
        let now = ticks.tick().await;
        let sent = stats.sent();
        let seconds = (now - last_at).as_secs_f64();
        show(line(stats, (sent - last_sent) as f64 / seconds.max(0.001)));
        (last_sent, last_at) = (sent, now);
    }
}

fn line(stats: &Stats, rate: f64) -> String {
    let count = |count| stats.get(count);
    format!(
        "{} devices, {} sent, {rate:.0}/s, {} of {} acknowledgements, {} echoes, {} missed asleep, {} rebinds, {} unreachable",
        count(Count::Booted),
        stats.sent(),
        count(Count::Acks),
        count(Count::AcksAsked),
        count(Count::EchoAnswers),
        count(Count::Missed),
        count(Count::Rebinds) + count(Count::Reopened),
        count(Count::Unreachable),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_line_shows_the_rate_since_the_line_before() {
        let stats = Stats::default();
        let (lines, mut shown) = tokio::sync::mpsc::unbounded_channel();
        let watching = watch(&stats, LINE_EVERY, |line| lines.send(line).unwrap());
        let reading = async {
            tokio::task::yield_now().await;
            (0..50).for_each(|_| stats.add(Count::Telemetry));
            stats.add(Count::AcksAsked);
            let first = shown.recv().await.unwrap();
            (0..20).for_each(|_| stats.add(Count::Telemetry));
            (first, shown.recv().await.unwrap())
        };
        let (first, second) = tokio::select! {
            biased;
            never = watching => match never {},
            lines = reading => lines,
        };
        assert!(first.starts_with("0 devices, 50 sent, 5/s, 0 of 1 acknowledgements"), "{first}");
        assert!(second.starts_with("0 devices, 70 sent, 2/s"), "{second}");
    }
}
