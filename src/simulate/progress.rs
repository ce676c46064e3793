//! What the `simulate` command shows while it runs.

use std::convert::Infallible;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, interval};

use super::stats::{Count, LATE, Stats};
use crate::client::Client;

/// Time between two looks at the counters on a terminal.
const TERMINAL_EVERY: Duration = Duration::from_millis(250);
/// Time between two lines elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Time between two looks at the counters of the gateway.
const GATEWAY_EVERY: Duration = Duration::from_secs(1);

/// Reports on standard error until dropped: a line that changes on a terminal, a new line every 10 s elsewhere. With
/// `gateway` it says how many packets a second that accepts.
pub async fn report(stats: Arc<Stats>, gateway: Option<Client>) -> Infallible {
    let accepting = Accepting::default();
    tokio::select! {
        never = show(&stats, &accepting) => match never {},
        never = accepting.follow(gateway, GATEWAY_EVERY) => match never {},
    }
}

async fn show(stats: &Stats, accepting: &Accepting) -> Infallible {
    if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
        let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let bar = ClearedOnDrop(bar);
        watch(stats, accepting, TERMINAL_EVERY, |line| {
            bar.0.set_message(line);
            bar.0.tick();
        })
        .await
    } else {
        watch(stats, accepting, LINE_EVERY, |line| drop(writeln!(std::io::stderr(), "{line}"))).await
    }
}

/// Leaves the terminal to what is printed next.
struct ClearedOnDrop(ProgressBar);

impl Drop for ClearedOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Packets a second that the gateway accepts, plus 1; 0 if it does not say.
#[derive(Debug, Default)]
struct Accepting(AtomicU64);

impl Accepting {
    async fn follow(&self, gateway: Option<Client>, every: Duration) -> Infallible {
        let Some(gateway) = gateway else { return std::future::pending().await };
        let (mut ticks, mut last) = (interval(every), None);
        loop {
            ticks.tick().await;
            let status = gateway.status().await.ok();
            let now = status.and_then(|status| Some((*status.datagrams.get("accepted")?, Instant::now())));
            self.0.store(now.zip(last).map_or(0, |(now, last)| 1 + per_second(now, last)), Ordering::Relaxed);
            last = now;
        }
    }

    fn get(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

fn per_second((now, at): (u64, Instant), (before, since): (u64, Instant)) -> u64 {
    let seconds = (at - since).as_secs_f64().max(0.001);
    (now.saturating_sub(before) as f64 / seconds).round() as u64
}

async fn watch(stats: &Stats, accepting: &Accepting, every: Duration, show: impl Fn(String)) -> Infallible {
    let mut ticks = interval(every);
    let now = ticks.tick().await;
    let mut last = [(stats.sent(), now), (stats.get(Count::Acks), now)];
    loop {
        let now = ticks.tick().await;
        let counts = [(stats.sent(), now), (stats.get(Count::Acks), now)];
        let [sent, acks] = [0, 1].map(|of| per_second(counts[of], last[of]));
        show(line(stats, sent, acks, accepting.get()));
        last = counts;
    }
}

fn line(stats: &Stats, sent_rate: u64, ack_rate: u64, accepted_rate: Option<u64>) -> String {
    let count = |count| stats.get(count);
    let mut line = format!(
        "{} devices, {} sent, {sent_rate}/s, {} of {} acknowledgements, {ack_rate}/s, {} echoes, {} missed asleep, \
         {} rebinds, {} unreachable",
        count(Count::Booted),
        stats.sent(),
        count(Count::Acks),
        count(Count::AcksAsked),
        count(Count::EchoAnswers),
        count(Count::Missed),
        count(Count::Rebinds) + count(Count::NatExpired) + count(Count::Reopened),
        count(Count::Unreachable),
    );
    let lost = count(Count::Lost);
    if lost > 0 {
        line += &format!(", {lost} lost on the way");
    }
    if let Some(rate) = accepted_rate {
        line += &format!(", gateway accepts {rate}/s");
    }
    let behind = stats.behind();
    if behind > LATE {
        line += &format!(", {behind:.1?} behind schedule");
    }
    line
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_line_shows_the_rate_since_the_line_before() {
        let stats = Stats::default();
        let (lines, mut shown) = tokio::sync::mpsc::unbounded_channel();
        let accepting = Accepting::default();
        let watching = watch(&stats, &accepting, LINE_EVERY, |line| lines.send(line).unwrap());
        let reading = async {
            tokio::task::yield_now().await;
            (0..50).for_each(|_| stats.add(Count::Telemetry));
            stats.add(Count::AcksAsked);
            let first = shown.recv().await.unwrap();
            (0..20).for_each(|_| stats.add(Count::Telemetry));
            stats.acknowledged(Duration::from_millis(1));
            stats.sent_at(Duration::ZERO, Duration::from_millis(2500));
            accepting.0.store(3, Ordering::Relaxed);
            (first, shown.recv().await.unwrap())
        };
        let (first, second) = tokio::select! {
            biased;
            never = watching => match never {},
            lines = reading => lines,
        };
        assert!(first.starts_with("0 devices, 50 sent, 5/s, 0 of 1 acknowledgements"), "{first}");
        assert!(!first.contains("gateway accepts") && !first.contains("behind"), "{first}");
        assert!(second.starts_with("0 devices, 70 sent, 2/s, 1 of 1 acknowledgements, 0/s"), "{second}");
        assert!(second.ends_with(", gateway accepts 2/s, 2.5s behind schedule"), "{second}");
    }

    #[tokio::test]
    async fn what_the_gateway_accepts_is_followed_and_forgotten_when_it_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
        let accepting = Accepting::default();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut accepted = 0;
            while accepting.get().is_none_or(|rate| rate == 0) {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                accepted += 1000;
                let body = STATUS.replace("ACCEPTED", &accepted.to_string());
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            drop((stream, listener));
            while accepting.get().is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            never = accepting.follow(Some(client), Duration::from_millis(1)) => match never {},
            () = serving => {}
        }
    }

    const STATUS: &str = r#"{"version":"1","startedAt":"2026-11-25T00:00:00Z","now":"2026-11-25T00:00:00Z",
        "datagrams":{"accepted":ACCEPTED},"entries":{},"kernelDrops":0,"routeMoves":0,"acksSent":0,"acksFailed":0,
        "devices":{"total":0,"unregistered":0,"heard":{"countedAt":"2026-11-25T00:00:00Z","within5m":0,"within1h":0,
        "within24h":0}},"waiters":{"now":0,"woken":0},"connections":0,"latestMoves":[]}"#;
}
