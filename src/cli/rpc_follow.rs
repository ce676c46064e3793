//! Follows a message until nothing more is to be expected, and tells on the way how far it is.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::rpc::{Desk, Stop, no_message, refusal};
use super::rpc_text::{Shown, ago, answer, sent};
use super::{Failure, say};
use crate::client::{Client, ClientError, TIMEOUT};
use crate::clock::Timestamp;
use crate::records::message::MessageStatus;
use crate::records::rpc::AskedRetry;
use crate::status::Time;

/// The device answered with an error.
const FAILED: u8 = 3;
/// It was not sent: it expired, or was given up.
const NOT_SENT: u8 = 5;
/// It was sent, and the device did not answer in time.
const UNANSWERED: u8 = 6;
/// The user ended it, as shells say it of SIGINT.
pub(super) const INTERRUPTED: u8 = 130;

/// Time between two looks at a message, on a terminal, where somebody watches, and elsewhere.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// A gateway writes down within a second that a message was sent: until then one that expires with it seems to wait.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

/// Time between two looks at least, where the gateway answers at once.
const PACE: Duration = Duration::from_millis(100);

/// How long a gateway may not answer, for example while it is started anew, before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time from one question that fails to the next.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What is followed, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Following {
    pub(super) id: Uuid,
    /// From when it is seen that it was sent.
    pub(super) answer_within: Duration,
}

/// How following ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Answered(i16),
    Expired,
    GivenUp(String),
    Unanswered,
}

/// Follows a message, prints it at its end, and says with its failure how it ended unless it is answered with success.
pub(super) async fn follow(desk: &Desk, following: Following, stop: impl Stop) -> Result<(), Failure> {
    let progress = Progress::new();
    let (shown, ending) = tokio::select! {
        followed = followed(desk, following, &progress) => followed?,
        _ = stop => {
            progress.clear();
            let id = following.id;
            let line = format!(
                "interrupted; the message stays: lastroute rpc wait {id} goes on, and lastroute rpc cancel {id} takes it \
                 back as long as it waits"
            );
            return Err(Failure::Outcome { code: INTERRUPTED, line });
        }
    };
    progress.clear();
    desk.tell(&shown)?;
    outcome(&shown, &ending, following)
}

fn outcome(shown: &Shown, ending: &Ending, Following { id, answer_within }: Following) -> Result<(), Failure> {
    let device = shown.message.device.device_id;
    let (code, line) = match ending {
        Ending::Answered(0) => return Ok(()),
        Ending::Answered(code) => (FAILED, format!("device {device} answered {}", answer(*code))),
        Ending::Expired => (NOT_SENT, format!("message {id} expired: device {device} did not speak in time")),
        Ending::GivenUp(note) => (NOT_SENT, format!("message {id} was not sent: {note}")),
        Ending::Unanswered => {
            let late = format!("if it does later, lastroute rpc show {id} has the answer");
            (UNANSWERED, format!("device {device} did not answer within {answer_within:?}; {late}"))
        }
    };
    Err(Failure::Outcome { code, line })
}

async fn followed(desk: &Desk, following: Following, progress: &Progress) -> Result<(Shown, Ending), Failure> {
    let every = progress.look_every();
    let client = desk.client.clone().with_timeout(TIMEOUT + every);
    let mut wait = Duration::ZERO;
    let mut sent = None;
    loop {
        let shown = desk.shown(look(&client, following.id, wait).await?)?;
        let since = seen(&mut sent, &shown, Instant::now());
        let left = left(&shown, client.now(), following.answer_within.saturating_sub(since));
        if let Some(ending) = ending(&shown, left) {
            return Ok((shown, ending));
        }
        progress.show(&state(&client, &shown).await);
        wait = every.min(left);
        tokio::time::sleep(PACE).await;
    }
}

/// The time since it was first seen that a message was sent, the last time that it was. Times of the gateway's clock only
/// tell one time from another: nobody knows how that clock goes.
fn seen(sent: &mut Option<(Time, Instant)>, shown: &Shown, now: Instant) -> Duration {
    let Some(at) = shown.message.downlink_message.delivery.sent_at else { return Duration::ZERO };
    let (_, first) = sent.filter(|(known, _)| *known == at).unwrap_or((at, now));
    *sent = Some((at, first));
    now - first
}

/// The message once something is decided, or after `wait`. One gateway after another may answer meanwhile.
async fn look(client: &Client, id: Uuid, wait: Duration) -> Result<Value, Failure> {
    let path = format!("/rpc/{id}?timeoutMs={}", wait.as_millis());
    let begun = Instant::now();
    loop {
        match client.get_json(&path).await {
            Ok(message) => return message.ok_or_else(|| no_message(id)),
            Err(error) if is_passing(&error) && begun.elapsed() < PATIENCE => tokio::time::sleep(RETRY_EVERY).await,
            Err(error) => return Err(refusal(error)),
        }
    }
}

/// Whether a gateway that is started anew, or has much to do, would say so.
const fn is_passing(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Unreachable { .. }
            | ClientError::Broken { .. }
            | ClientError::TimedOut { .. }
            | ClientError::Status { status: 429 | 503, .. }
    )
}

/// How a message ends, if nothing more is to be expected of it in the time that is `left`.
fn ending(shown: &Shown, left: Duration) -> Option<Ending> {
    let message = &shown.message.downlink_message;
    if let Some(response) = &message.rpc_rsp {
        return Some(Ending::Answered(response.return_code));
    }
    if left > Duration::ZERO {
        return None;
    }
    Some(match (message.delivery.status, &message.delivery.note) {
        (MessageStatus::Waiting, Some(note)) => Ending::GivenUp(note.clone()),
        (MessageStatus::Waiting, None) => Ending::Expired,
        _ => Ending::Unanswered,
    })
}

/// How long something may still happen to a message that is not answered, at `now` of the gateway's clock. Once it is sent
/// its answer is waited for so long as `answer_left` says.
fn left(shown: &Shown, now: Timestamp, answer_left: Duration) -> Duration {
    let delivery = &shown.message.downlink_message.delivery;
    let until = |end: Timestamp| Duration::from_millis(end.0.saturating_sub(now.0));
    let expires_at = delivery.expires_at.0;
    match (delivery.status, delivery.retry) {
        (MessageStatus::Waiting, _) if delivery.note.is_some() => until(expires_at),
        (MessageStatus::Waiting, _) => until(expires_at.after(WRITTEN_WITHIN)),
        (_, AskedRetry::UntilAnswered) => answer_left.max(until(expires_at)),
        (_, AskedRetry::Never) => answer_left,
    }
}

/// How far a message is, in a line that begins with a word that changes with its state only.
async fn state(client: &Client, shown: &Shown) -> [String; 2] {
    let now = client.now();
    let delivery = &shown.message.downlink_message.delivery;
    let device = shown.message.device.device_id;
    if delivery.status != MessageStatus::Waiting {
        return [sent(shown), format!("{} ago; waits for the answer", ago(delivery.sent_at, now))];
    }
    if delivery.send_wait_timeout_ms == 0 {
        return [format!("goes at once to device {device}"), "over its last route".to_owned()];
    }
    let heard = match client.last_route(device).await {
        Ok(Some(last)) => format!("last heard {} ago", ago(heard_at(&last.route), now)),
        Ok(None) => "never heard".to_owned(),
        // Following goes on without it.
        Err(_) => "last heard at some time".to_owned(),
    };
    let left = ago(Some(Time(now)), delivery.expires_at.0);
    [format!("waits for device {device} to speak"), format!("({heard}); expires in {left}")]
}

/// When a route was last used: its own time, or that of the relay's.
fn heard_at(route: &Value) -> Option<Time> {
    let own = &route["udp"]["time"];
    let time = if own.is_null() { &route["forwarded"]["route"]["udp"]["time"] } else { own };
    serde_json::from_value(time.clone()).ok()
}

/// A line that changes in place on a terminal; elsewhere a line for each state.
struct Progress {
    bar: Option<ProgressBar>,
    said: std::cell::RefCell<String>,
}

impl Progress {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {wide_msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, said: std::cell::RefCell::default() }
    }

    const fn look_every(&self) -> Duration {
        if self.bar.is_some() { LOOK_EVERY.0 } else { LOOK_EVERY.1 }
    }

    /// Shows a state and its details, which alone are no reason for another line.
    fn show(&self, [state, details]: &[String; 2]) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{state} {details}")),
            None if *self.said.borrow() != *state => {
                say(&format!("{state} {details}"));
                self.said.replace(state.clone());
            }
            None => {}
        }
    }

    fn clear(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}
