//! What the user sees on standard error while devices are carried: a bar on a terminal, a line every 10 s elsewhere, and
//! what cannot wait for the end.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Time between two pictures of what turns on a terminal.
const TURN_EVERY: Duration = Duration::from_millis(250);

/// Standard error. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Console {
    bar: Option<ProgressBar>,
    silent: bool,
}

impl Console {
    /// With a bar if standard error is a terminal.
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {wide_msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style);
            bar.enable_steady_tick(TURN_EVERY);
            bar
        });
        Self { bar, silent: false }
    }

    /// Says nothing.
    #[cfg(test)]
    pub(super) const fn silent() -> Self {
        Self { bar: None, silent: true }
    }

    /// Says a line above the bar, if there is one.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None if self.silent => {}
            // There is nobody to tell that standard error cannot be written.
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }

    /// Leaves the terminal to what is printed next.
    pub(super) fn clear(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// How far it is, and how fast it goes.
#[derive(Debug)]
pub(super) struct Progress {
    console: Console,
    /// Bytes of the whole file, if it is one.
    total: Option<u64>,
    begun: Instant,
    said: Instant,
    /// Where the first batch began, in bytes: what is skipped takes no time.
    from: Option<u64>,
}

/// What was done at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Devices carried.
    pub(super) devices: u64,
    /// Lines that failed.
    pub(super) failed: u64,
    /// Bytes of the file.
    pub(super) bytes: u64,
}

impl Progress {
    /// It begins now, with a file of `total` bytes if that is known.
    pub(super) fn new(console: Console, total: Option<u64>) -> Self {
        let now = Instant::now();
        Self { console, total, begun: now, said: now, from: None }
    }

    /// Shows what was done, as far as it is time to.
    pub(super) fn show(&mut self, done: Done) {
        let now = Instant::now();
        let from = *self.from.get_or_insert(done.bytes);
        let line = || text(done, from, self.total, now - self.begun);
        if let Some(bar) = &self.console.bar {
            bar.set_message(line());
        } else if now - self.said >= LINE_EVERY {
            self.console.say(&line());
            self.said = now;
        }
    }
}

fn text(done: Done, from: u64, total: Option<u64>, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = (done.devices + done.failed) as f64 / seconds;
    let mut text = format!("{} devices, {rate:.0}/s", done.devices);
    if done.failed > 0 {
        text += &format!(", {} failed", done.failed);
    }
    if let Some(total) = total.filter(|total| *total > 0) {
        let speed = done.bytes.saturating_sub(from) as f64 / seconds;
        text += &format!(", {:.0} %", 100.0 * done.bytes as f64 / total as f64);
        if speed > 0.0 {
            let left = Duration::from_secs_f64(total.saturating_sub(done.bytes) as f64 / speed);
            text += &format!(", {} left", HumanDuration(left));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_the_rate_and_the_time_left_by_what_was_not_skipped() {
        let at = |devices, failed, bytes| Done { devices, failed, bytes };
        let ten = Duration::from_secs(10);
        assert_eq!(text(at(200_000, 0, 0), 0, None, ten), "200000 devices, 20000/s");
        assert_eq!(text(at(99, 1, 600), 500, Some(1000), ten), "99 devices, 10/s, 1 failed, 60 %, 40 seconds left");
        assert_eq!(text(at(0, 0, 500), 500, Some(1000), Duration::ZERO), "0 devices, 0/s, 50 %");
    }
}
