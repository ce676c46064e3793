//! Server-sent events: the text of what is told to one who follows devices.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use hyper::body::Bytes;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep_until};
use uuid::Uuid;

use crate::id::{DeviceId, EventId};
use crate::wait::Waited;
use crate::wait::organisation::Listening;
use crate::wait::stream::Following;

use super::Counted;
use super::access::WaitPlaces;
use super::format::Format;
use super::messages::{COMPLETED, DROPPED, EXPIRED, SENT, WITHDRAWN};
use super::metrics_text::WaitOutcome;
use super::outcomes::Outcomes;
use super::outgoing::PART;
use super::views;
use super::waiting::{Ending, view};

/// A comment is sent this often, so that whatever lies between knows the connection to be in use.
pub(super) const COMMENT_INTERVAL: Duration = Duration::from_secs(15);
/// The names of the events.
pub(super) const EVENT_NAMES: [&str; 8] = [PACKET, RESET, GONE, SENT, COMPLETED, EXPIRED, DROPPED, WITHDRAWN];
const PACKET: &str = "packet";
pub(super) const RESET: &str = "reset";
const GONE: &str = "gone";

/// A comment: a line that begins with a colon, and the end of its block.
const COMMENT: &[u8] = b": waiting\n\n";
/// Milliseconds after which a browser comes back once the stream has ended: any of these, so that not all come back at once.
const RETRY_MS: std::ops::RangeInclusive<u32> = 1000..=5000;

/// What ends a stream from outside: the gateway shuts down, or the client leaves without hyper noticing.
pub(super) type Interrupted = Pin<Box<dyn Future<Output = WaitOutcome> + Send>>;

/// What a stream tells of.
#[derive(Debug)]
pub(super) enum Followed {
    /// These devices.
    Devices(Following),
    /// The devices of this organisation.
    Organisation(Uuid, Box<Listening>),
    /// What becomes of calls.
    Outcomes(Box<Outcomes>),
}

/// What an event says: its name, and its data, unless that cannot be put into words.
pub(super) type Told = (&'static str, Option<Vec<u8>>);

/// A stream of events as text, made as the client takes it.
pub(super) struct Events {
    followed: Followed,
    interrupted: Interrupted,
    deadline: Option<Pin<Box<Sleep>>>,
    comments: Interval,
    begun: bool,
    over: bool,
    /// How it ends once there is nothing more to tell.
    outcome: WaitOutcome,
    ending: Ending,
    _places: WaitPlaces,
    _counted: Counted,
}

impl Events {
    /// Tells what `followed` brings, until `deadline` if there is one. `ending` counts how it ended.
    pub(super) fn new(
        followed: Followed,
        places: WaitPlaces,
        ending: Ending,
        interrupted: Interrupted,
        deadline: Option<Instant>,
    ) -> Self {
        let mut comments = interval_at(Instant::now() + COMMENT_INTERVAL, COMMENT_INTERVAL);
        comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            followed,
            interrupted,
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            comments,
            begun: false,
            over: false,
            outcome: WaitOutcome::Refused,
            _counted: Counted::new(ending.metrics().streams().clone()),
            ending,
            _places: places,
        }
    }

    /// What there is to send now. `None` at the end.
    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut text = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            write_start(&mut text, self.followed.first_id());
        }
        if !self.over {
            self.poll_text(cx, &mut text);
        }
        match text.is_empty() {
            false => Poll::Ready(Some(text.into())),
            true if self.over => Poll::Ready(None),
            true => Poll::Pending,
        }
    }

    fn poll_text(&mut self, cx: &mut Context<'_>, text: &mut Vec<u8>) {
        if let Poll::Ready(outcome) = self.interrupted.as_mut().poll(cx) {
            return self.end(outcome);
        }
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            self.deadline = None;
            self.outcome = WaitOutcome::TimedOut;
            self.followed.close();
        }
        while self.comments.poll_tick(cx).is_ready() {
            text.extend_from_slice(COMMENT);
        }
        while text.len() < PART {
            match self.followed.poll_told(cx) {
                Poll::Ready(Some((id, told))) => self.write_event(text, id, told),
                Poll::Ready(None) => return self.end(self.outcome),
                Poll::Pending => return,
            }
        }
    }

    fn end(&mut self, outcome: WaitOutcome) {
        self.ending.set(outcome);
        self.over = true;
    }

    fn write_event(&self, text: &mut Vec<u8>, id: EventId, (name, data): Told) {
        let Some(data) = data else { return };
        text.extend_from_slice(format!("event: {name}\nid: {id}\ndata: ").as_bytes());
        // JSON of one line: line ends in texts are escaped.
        text.extend_from_slice(&data);
        text.extend_from_slice(b"\n\n");
        self.ending.metrics().stream_event(name);
    }
}

impl Followed {
    fn first_id(&self) -> EventId {
        match self {
            Self::Devices(following) => following.first_id(),
            Self::Organisation(_, listening) => listening.first_id(),
            Self::Outcomes(outcomes) => outcomes.first_id(),
        }
    }

    fn close(&mut self) {
        match self {
            Self::Devices(following) => following.close(),
            Self::Organisation(_, listening) => listening.close(),
            Self::Outcomes(outcomes) => outcomes.close(),
        }
    }

    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<Option<(EventId, Told)>> {
        match self {
            Self::Devices(following) => following.poll_next_unpin(cx).map(|event| {
                let event = event?;
                Some((event.id, event.waited.map_or_else(|| gone(event.device), |waited| came(event.device, &waited))))
            }),
            Self::Organisation(id, listening) => listening.poll_next_unpin(cx).map(|event| {
                let event = event?;
                Some((event.id, event.said.map_or_else(|| lost(*id), |(device, waited)| came(device, &waited))))
            }),
            Self::Outcomes(outcomes) => outcomes.poll_told(cx),
        }
    }
}

/// What came of a device.
fn came(device: DeviceId, waited: &Waited) -> Told {
    let name = if matches!(waited, Waited::Packet { .. }) { PACKET } else { RESET };
    (name, view(device, waited).and_then(|view| Format::Json.encode(&view).ok()))
}

/// That a device is deleted.
fn gone(device_id: DeviceId) -> Told {
    (GONE, Format::Json.encode(&views::Gone { device_id }).ok())
}

/// That packets of devices of an organisation were lost.
fn lost(organisation_id: Uuid) -> Told {
    (RESET, Format::Json.encode(&views::Lost { organisation_id, reset: true }).ok())
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Events({:?})", self.followed)
    }
}

/// No event, but the id of what is to come, so that a client which has seen no event yet can go on as well.
fn write_start(text: &mut Vec<u8>, id: EventId) {
    let retry = fastrand::u32(RETRY_MS);
    text.extend_from_slice(format!("id: {id}\nretry: {retry}\n\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::api::Api;
    use crate::api::access::Caller;
    use crate::id::{Cursor, DeviceId};
    use crate::wait::many::Devices;
    use crate::wait::stream::Origin;

    const DEVICE: DeviceId = DeviceId(7);

    /// A stream of one device that was never heard and whose position is of another epoch: one reset, and then nothing.
    async fn events(timeout: Option<Duration>, interrupted: Interrupted) -> (Arc<Api>, Events) {
        // Time stands still while there are blocking tasks: a registry is opened in real time.
        let (hold, held) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || held.recv());
        let api = crate::api::tests::api().await;
        drop(hold);
        let devices = Devices::from_iter([(DEVICE, Some(Cursor { epoch: 77, n: 1 }))]);
        let following = api.streams.follow(&devices, Origin::Devices, 0).await.unwrap();
        let places = Caller::anyone().places_to_wait(1, 1).unwrap();
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let ending = Ending::new(Arc::clone(&api), Instant::now());
        (api, Events::new(Followed::Devices(following), places, ending, interrupted, deadline))
    }

    async fn part(events: &mut Events) -> Option<String> {
        let bytes = poll_fn(|cx| events.poll_part(cx)).await?;
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    fn waits(api: &Api, outcome: &str) -> String {
        let text = api.metrics.text().unwrap();
        let name = format!("lastroute_waits_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_begins_with_its_id_and_an_event_is_a_block_of_lines() {
        let (api, mut events) = events(None, Box::pin(pending())).await;
        let text = part(&mut events).await.unwrap();
        let [id, retry, empty, event, next, data, ..] = text.split('\n').collect::<Vec<_>>()[..] else {
            panic!("{text}")
        };
        let stream = id.strip_prefix("id: ").unwrap().strip_suffix("-0").unwrap();
        let retry_ms = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
        assert!(RETRY_MS.contains(&retry_ms), "{text}");
        assert_eq!((empty, event, next), ("", "event: reset", &*format!("id: {stream}-1")));
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        let cursor = api.table.cursor(DEVICE).to_string();
        assert_eq!(data, json!({"deviceId": "0000000000000007", "cursor": cursor, "reset": true}));
        assert!(text.ends_with("}\n\n"), "{text}");
        let metrics = api.metrics.text().unwrap();
        assert!(metrics.contains("\nlastroute_streams 1\n"), "{metrics}");
        assert!(metrics.contains("\nlastroute_stream_events_total{event=\"reset\"} 1\n"), "{metrics}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_device_is_deleted_says_so_and_ends() {
        let (api, mut events) = events(Some(Duration::from_secs(20)), Box::pin(pending())).await;
        assert!(part(&mut events).await.is_some());
        api.waiters.dismiss(DEVICE);
        let text = part(&mut events).await.unwrap();
        let (id, data) = text.strip_prefix("event: gone\nid: ").unwrap().split_once("\ndata: ").unwrap();
        assert!(id.ends_with("-2"), "{text}");
        assert_eq!(data, "{\"deviceId\":\"0000000000000007\"}\n\n");
        assert_eq!(part(&mut events).await, None);
        drop(events);
        assert_eq!((waits(&api, "refused"), waits(&api, "timeout")), ("1".to_owned(), "0".to_owned()));
        assert!(api.metrics.text().unwrap().contains("\nlastroute_stream_events_total{event=\"gone\"} 1\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn every_15_s_there_is_a_comment() {
        let (_, mut events) = events(None, Box::pin(pending())).await;
        assert!(part(&mut events).await.is_some());
        for _ in 0..5 {
            let begun = Instant::now();
            assert_eq!(part(&mut events).await.as_deref(), Some(": waiting\n\n"));
            assert_eq!(begun.elapsed(), Duration::from_secs(15));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_its_deadline_or_when_it_is_interrupted() {
        let (api, mut at_deadline) = events(Some(Duration::from_secs(20)), Box::pin(pending())).await;
        let begun = Instant::now();
        let mut parts = 0;
        while part(&mut at_deadline).await.is_some() {
            parts += 1;
        }
        assert_eq!((parts, begun.elapsed()), (2, Duration::from_secs(20)), "the start and one comment");
        assert_eq!(waits(&api, "timeout"), "0", "it counts when it is dropped");
        drop(at_deadline);
        assert_eq!((waits(&api, "timeout"), waits(&api, "abandoned")), ("1".to_owned(), "0".to_owned()));

        let (api, mut at_once) = events(Some(Duration::ZERO), Box::pin(pending())).await;
        assert!(part(&mut at_once).await.unwrap().contains("event: reset"), "what there is is told");
        assert_eq!(part(&mut at_once).await, None);
        drop((at_once, api));

        let shuts_down = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            WaitOutcome::ShutDown
        };
        let (api, mut shut_down) = events(None, Box::pin(shuts_down)).await;
        assert!(part(&mut shut_down).await.is_some());
        let begun = Instant::now();
        assert_eq!((part(&mut shut_down).await, begun.elapsed()), (None, Duration::from_secs(1)));
        drop(shut_down);
        assert_eq!(waits(&api, "shutdown"), "1");

        let (api, abandoned) = events(None, Box::pin(pending())).await;
        drop(abandoned);
        assert_eq!(waits(&api, "abandoned"), "1");
        assert!(api.metrics.text().unwrap().contains("\nlastroute_streams 0\n"));
    }
}
