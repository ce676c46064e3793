//! Waiting for packets: what a request asks for, and how its wait ends.

use std::collections::{BTreeMap, HashMap};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use crate::id::{Cursor, DeviceId};
use crate::wait::Waited;
use crate::wait::many::{Devices, ManyWaited, Mode};
use crate::wait::stream::Origin;

use super::access::WaitPlaces;
use super::connection::Peer;
use super::error::ApiError;
use super::events::{Events, Interrupted};
use super::format::{EVENTS, Format};
use super::handlers::{Answer, Call, Reply, add_cursor};
use super::metrics_text::{Metrics, WaitOutcome};
use super::outgoing::Content;
use super::{Api, views};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The longest wait: longer ones end at every proxy in between.
const MAX_WAIT_MS: u64 = 600_000;
/// The wait of a request that does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// The greatest part of a time-out that is taken off, so that clients which began together do not come back together.
const JITTER: f64 = 0.1;

/// Whether a client waits for one answer, or for events and where they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Answer,
    Events(Origin),
}

impl Kind {
    /// By the headers `Accept` and `Last-Event-ID`. A client does not choose the latter: one that makes no sense is like one
    /// that is not remembered, from which it can go on.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if !Format::events_accepted(headers) {
            return Self::Answer;
        }
        Self::Events(match headers.get(LAST_EVENT_ID) {
            None => Origin::Devices,
            Some(id) if id.is_empty() => Origin::Devices,
            Some(id) => id.to_str().ok().and_then(|id| id.parse().ok()).map_or(Origin::Lost, Origin::Event),
        })
    }
}

impl Call<'_> {
    pub(super) async fn wait_for_packet(&self, id: DeviceId, query: Result<WaitQuery, ApiError>, kind: Kind) -> Answer {
        let mut ending = Ending::new(Arc::clone(self.api), self.begun);
        let answer = match kind {
            Kind::Answer => self.wait(id, query, &mut ending).await,
            Kind::Events(origin) => query.and_then(|query| {
                let devices = Devices::from_iter([(id, query.after)]);
                self.follow(&devices, query.timeout, origin, &mut ending)
            }),
        };
        ending.settle(answer)
    }

    pub(super) async fn wait_for_packets(&self, request: Box<Request<Incoming>>) -> Answer {
        let mut ending = Ending::new(Arc::clone(self.api), self.begun);
        let answer = self.wait_for_many(request, &mut ending).await;
        ending.settle(answer)
    }

    async fn wait(&self, id: DeviceId, query: Result<WaitQuery, ApiError>, ending: &mut Ending) -> Answer {
        let query = query?;
        let _place = self.places(1)?;
        let deadline = self.deadline(query.timeout.unwrap_or(DEFAULT_WAIT));
        let wait = pin!(self.api.waits.wait_for_packet(id, query.after, deadline));
        let waited = self.unless_interrupted(wait, ending).await??;
        ending.set(outcome(&waited));
        match view(id, &waited) {
            Some(view) => self.ok(&view),
            None => {
                let mut response = nothing();
                add_cursor(response.headers_mut(), waited.cursor())?;
                Ok(response)
            }
        }
    }

    async fn wait_for_many(&self, request: Box<Request<Incoming>>, ending: &mut Ending) -> Answer {
        let kind = Kind::of(request.headers());
        let body = self.body(request).await?;
        let wanted = Wanted::of(body, self.api.config.max_devices_per_request)?;
        if let Kind::Events(origin) = kind {
            return self.follow(&wanted.devices, wanted.timeout, origin, ending);
        }
        let _places = self.places(wanted.devices.len())?;
        let deadline = self.deadline(wanted.timeout.unwrap_or(DEFAULT_WAIT));
        let wait = pin!(self.api.waits.wait_for_packets(&wanted.devices, wanted.mode, deadline));
        let waited = self.unless_interrupted(wait, ending).await??;
        ending.set(outcome_of_many(&waited));
        if waited.packets.is_empty() {
            return Ok(nothing());
        }
        let packets = waited.packets.iter().filter_map(|(id, waited)| view(*id, waited)).collect();
        self.ok(&views::ManyWaited { packets, pending: waited.pending, timed_out: waited.timed_out })
    }

    /// Begins a stream of events.
    fn follow(&self, devices: &Devices, timeout: Option<Duration>, origin: Origin, ending: &mut Ending) -> Answer {
        let places = self.places(devices.len())?;
        let following = self.api.streams.follow(devices, origin, self.caller.number() as u64)?;
        if *self.shutdown.borrow() {
            ending.set(WaitOutcome::ShutDown);
            return Err(ApiError::ShuttingDown);
        }
        let deadline = timeout.map(|timeout| self.deadline(timeout));
        let events = Events::new(following, places, ending.hand_over(), self.interruption(), deadline);
        let mut response = Response::new(Content::Events(Box::new(events)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(EVENTS));
        Ok(response)
    }

    fn places(&self, count: usize) -> Result<WaitPlaces, ApiError> {
        let limit = self.api.config.waits_per_credential;
        self.caller.places_to_wait(count, limit).ok_or(ApiError::CredentialFull)
    }

    fn deadline(&self, timeout: Duration) -> Instant {
        self.begun + shortened(timeout, fastrand::f64())
    }

    /// Waits unless the gateway shuts down, or the client leaves, before. The wait is borrowed, so that it is not kept twice.
    async fn unless_interrupted<T>(
        &self,
        wait: Pin<&mut impl Future<Output = T>>,
        ending: &mut Ending,
    ) -> Result<T, ApiError> {
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            biased;
            waited = wait => Ok(waited),
            _ = shutdown.wait_for(|down| *down) => {
                ending.set(WaitOutcome::ShutDown);
                Err(ApiError::ShuttingDown)
            }
            () = gone(self.peer, self.http2) => Err(ApiError::HalfClosed),
        }
    }

    /// The same for a stream, which outlives this call.
    fn interruption(&self) -> Interrupted {
        let (mut shutdown, peer, http2) = (self.shutdown.clone(), Arc::clone(self.peer), self.http2);
        Box::pin(async move {
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|down| *down) => WaitOutcome::ShutDown,
                () = gone(&peer, http2) => WaitOutcome::Abandoned,
            }
        })
    }
}

/// Returns once the client has left, where hyper does not notice: HTTP/2 ends the request itself when the client resets it or
/// leaves.
async fn gone(peer: &Peer, http2: bool) {
    if http2 { std::future::pending().await } else { peer.gone().await }
}

/// Counts a wait when it ends: a client that leaves drops it at any moment.
pub(super) struct Ending {
    api: Arc<Api>,
    begun: Instant,
    /// `None` once another one counts it.
    outcome: Option<WaitOutcome>,
}

impl Ending {
    pub(super) fn new(api: Arc<Api>, begun: Instant) -> Self {
        Self { api, begun, outcome: Some(WaitOutcome::Abandoned) }
    }

    /// How the wait ends.
    pub(super) fn set(&mut self, outcome: WaitOutcome) {
        self.outcome = Some(outcome);
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.api.metrics
    }

    /// The wait goes on beyond its request: whoever has what is returned counts it.
    fn hand_over(&mut self) -> Self {
        Self { api: Arc::clone(&self.api), begun: self.begun, outcome: self.outcome.take() }
    }

    /// The wait ended with `answer`: whatever else it is, it was not abandoned.
    fn settle(mut self, answer: Answer) -> Answer {
        if self.outcome == Some(WaitOutcome::Abandoned) && !matches!(answer, Err(ApiError::HalfClosed)) {
            self.set(WaitOutcome::Refused);
        }
        answer
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            self.api.metrics.wait(outcome, self.begun.elapsed());
        }
    }
}

/// A time-out less a tenth of it at most: `share` of that, from 0 to 1.
fn shortened(timeout: Duration, share: f64) -> Duration {
    timeout.mul_f64(1.0 - JITTER * share)
}

const fn outcome(waited: &Waited) -> WaitOutcome {
    match waited {
        Waited::Packet { .. } => WaitOutcome::Packet,
        Waited::Reset { .. } => WaitOutcome::Reset,
        Waited::TimedOut { .. } => WaitOutcome::TimedOut,
    }
}

/// A wait for all that got some is one that timed out, as its answer says.
fn outcome_of_many(waited: &ManyWaited) -> WaitOutcome {
    let mut outcomes = waited.packets.iter().map(|(_, waited)| outcome(waited));
    if waited.timed_out {
        WaitOutcome::TimedOut
    } else if outcomes.any(|outcome| outcome == WaitOutcome::Packet) {
        WaitOutcome::Packet
    } else {
        WaitOutcome::Reset
    }
}

/// What is told of a device; `None` if nothing came.
pub(super) fn view(id: DeviceId, waited: &Waited) -> Option<views::Waited> {
    match waited {
        Waited::Packet { snapshot, missed } => Some(views::Waited::packet(snapshot, *missed)),
        Waited::Reset { cursor, snapshot } => Some(views::Waited::reset(id, *cursor, snapshot.as_ref())),
        Waited::TimedOut { .. } => None,
    }
}

fn nothing() -> Reply {
    let mut response = Reply::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// What a request for many devices asks for.
#[derive(Debug)]
struct Wanted {
    devices: Devices,
    mode: Mode,
    timeout: Option<Duration>,
}

impl Wanted {
    fn of(body: views::WaitForPackets, max_devices: usize) -> Result<Self, ApiError> {
        let names = match (body.device_ids, body.organisation_id) {
            (Some(names), None) => names,
            (None, Some(_)) => return Err(ApiError::NoOrganisations),
            _ => return Err(ApiError::DevicesOrOrganisation),
        };
        let timeout = body.timeout_ms.map(timeout_ms).transpose()?;
        let mode = match body.mode.as_deref() {
            None | Some("any") => Mode::Any,
            Some("all") => Mode::All,
            Some(other) => return Err(ApiError::mode(other.to_owned())),
        };
        Ok(Self { devices: devices(&names, &body.after, max_devices)?, mode, timeout })
    }
}

/// The devices of a list, which has at least one and at most `max`, with their positions.
fn devices(names: &[String], after: &BTreeMap<String, String>, max: usize) -> Result<Devices, ApiError> {
    if names.is_empty() {
        return Err(ApiError::NoDevices);
    }
    if names.len() > max {
        return Err(ApiError::TooManyDevices { len: names.len(), max });
    }
    let mut named: HashMap<DeviceId, Option<Cursor>> = HashMap::with_capacity(names.len());
    let mut ids = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let id = name.parse().map_err(|error| ApiError::BodyDevice { index, error })?;
        named.insert(id, None);
        ids.push(id);
    }
    for (name, text) in after {
        let id: DeviceId = name.parse().map_err(|error| ApiError::after_device(name.clone(), error))?;
        let cursor = text.parse().map_err(|error| ApiError::AfterCursor { device: id, error })?;
        *named.get_mut(&id).ok_or(ApiError::AfterUnnamed(id))? = Some(cursor);
    }
    Ok(ids.into_iter().map(|id| (id, named.get(&id).copied().flatten())).collect())
}

fn timeout_ms(value: f64) -> Result<Duration, ApiError> {
    let whole = value.fract() == 0.0 && (0.0..=MAX_WAIT_MS as f64).contains(&value);
    if whole { Ok(Duration::from_millis(value as u64)) } else { Err(ApiError::TimeoutMs { max: MAX_WAIT_MS }) }
}

/// The query of a wait. Parameters this gateway does not know are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WaitQuery {
    timeout: Option<Duration>,
    after: Option<Cursor>,
}

impl WaitQuery {
    pub(super) fn parse(query: &str) -> Result<Self, ApiError> {
        let (mut timeout_ms, mut after) = (None, None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = || percent_decode_str(value).decode_utf8_lossy();
            match &*percent_decode_str(name).decode_utf8_lossy() {
                "timeoutMs" => once("timeoutMs", &mut timeout_ms, wait_ms(&value())?)?,
                "after" => once("after", &mut after, value().parse().map_err(ApiError::QueryCursor)?)?,
                _ => {}
            }
        }
        Ok(Self { timeout: timeout_ms.map(Duration::from_millis), after })
    }
}

fn once<T>(name: &'static str, to: &mut Option<T>, value: T) -> Result<(), ApiError> {
    if to.replace(value).is_some() { Err(ApiError::QueryTwice { name }) } else { Ok(()) }
}

fn wait_ms(text: &str) -> Result<u64, ApiError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|value| digits && *value <= MAX_WAIT_MS);
    value.ok_or(ApiError::TimeoutMs { max: MAX_WAIT_MS })
}

#[cfg(test)]
mod tests {
    use hyper::header::ACCEPT;
    use serde_json::json;

    use super::*;
    use crate::id::{EventId, IdError};

    fn parsed(query: &str) -> Result<(Option<u128>, Option<Cursor>), ApiError> {
        WaitQuery::parse(query).map(|query| (query.timeout.map(|timeout| timeout.as_millis()), query.after))
    }

    #[test]
    fn a_query_says_how_long_and_after_which_position() {
        let cursor = Some(Cursor { epoch: 7, n: 42 });
        for (query, expected) in [
            ("", (None, None)),
            ("&&", (None, None)),
            ("timeoutMs=0", (Some(0), None)),
            ("timeoutMs=600000&after=7-42", (Some(600_000), cursor)),
            ("after=7%2D42&timeout%4ds=5", (Some(5), cursor)),
            ("unknown=1&unknown=2&timeoutms=x", (None, None)),
        ] {
            assert_eq!(parsed(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn a_bad_query_is_refused_by_name() {
        for bad in ["timeoutMs", "timeoutMs=", "timeoutMs=-1", "timeoutMs=+1", "timeoutMs=600001", "timeoutMs=1.5"] {
            assert_eq!(parsed(bad), Err(ApiError::TimeoutMs { max: MAX_WAIT_MS }), "{bad}");
        }
        for bad in ["after", "after=", "after=7", "after=%ff"] {
            assert_eq!(parsed(bad), Err(ApiError::QueryCursor(IdError::Cursor)), "{bad}");
        }
        assert_eq!(parsed("timeoutMs=1&timeoutMs=1"), Err(ApiError::QueryTwice { name: "timeoutMs" }));
        assert_eq!(parsed("after=1-1&after=1-1"), Err(ApiError::QueryTwice { name: "after" }));
    }

    #[test]
    fn a_stream_begins_after_the_last_event_that_the_client_has_seen() {
        let kind = |last_event_id: Option<&'static [u8]>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(EVENTS));
            last_event_id.map(|id| headers.insert(LAST_EVENT_ID, HeaderValue::from_bytes(id).unwrap()));
            Kind::of(&headers)
        };
        for (last_event_id, expected) in [
            (None, Origin::Devices),
            (Some(&b""[..]), Origin::Devices),
            (Some(b"7-42"), Origin::Event(EventId { stream: 7, n: 42 })),
            (Some(b"7"), Origin::Lost),
            (Some(b"7-42 "), Origin::Lost),
            (Some(b"\xff"), Origin::Lost),
        ] {
            assert_eq!(kind(last_event_id), Kind::Events(expected), "{last_event_id:?}");
        }
        let mut only_id = HeaderMap::new();
        only_id.insert(LAST_EVENT_ID, HeaderValue::from_static("7-42"));
        assert_eq!(Kind::of(&only_id), Kind::Answer);
    }

    #[test]
    fn a_time_out_is_shortened_by_a_tenth_at_most_and_never_lengthened() {
        let minute = Duration::from_secs(60);
        assert_eq!((shortened(minute, 0.0), shortened(Duration::ZERO, 0.7)), (minute, Duration::ZERO));
        let mut random = fastrand::Rng::with_seed(7);
        let waits: Vec<_> = (0..1000).map(|_| shortened(minute, random.f64())).collect();
        assert!(waits.iter().all(|wait| (Duration::from_secs(54)..=minute).contains(wait)), "{waits:?}");
        for second in 54..60 {
            let within = Duration::from_secs(second)..Duration::from_secs(second + 1);
            let share = waits.iter().filter(|wait| within.contains(wait)).count();
            assert!((100..250).contains(&share), "{share} of 1000 in second {second}, a sixth is even");
        }
    }

    fn wanted(body: serde_json::Value) -> Result<Wanted, ApiError> {
        Wanted::of(serde_json::from_value(body).unwrap(), 3)
    }

    #[test]
    fn a_list_of_devices_brings_their_positions_along() {
        let body = json!({"deviceIds": ["0000000000000002", "000000000000000A", "000000000000000a"],
            "after": {"000000000000000A": "7-42"}, "timeoutMs": 1e3, "mode": "all"});
        let wanted = wanted(body).unwrap();
        let devices: Vec<_> = wanted.devices.iter().collect();
        assert_eq!(devices, [(DeviceId(2), None), (DeviceId(10), Some(Cursor { epoch: 7, n: 42 }))]);
        assert_eq!((wanted.mode, wanted.timeout), (Mode::All, Some(Duration::from_secs(1))));
        let short =
            Wanted::of(views::WaitForPackets { device_ids: Some(vec!["0".repeat(16)]), ..Default::default() }, 1);
        assert!(matches!(short, Ok(Wanted { mode: Mode::Any, timeout: None, .. })), "{short:?}");
    }

    #[test]
    fn what_is_wrong_with_a_list_is_named() {
        let one = json!(["0000000000000001"]);
        for (body, expected) in [
            (json!({}), ApiError::DevicesOrOrganisation),
            (json!({"deviceIds": one, "organisationId": "x"}), ApiError::DevicesOrOrganisation),
            (json!({"organisationId": "x"}), ApiError::NoOrganisations),
            (json!({"deviceIds": []}), ApiError::NoDevices),
            (json!({"deviceIds": ["", "", "", ""]}), ApiError::TooManyDevices { len: 4, max: 3 }),
            (
                json!({"deviceIds": ["0000000000000001", "1"]}),
                ApiError::BodyDevice { index: 1, error: IdError::Device },
            ),
            (
                json!({"deviceIds": one, "after": {"1": "7-42"}}),
                ApiError::AfterDevice { name: "1".to_owned(), error: IdError::Device },
            ),
            (json!({"deviceIds": one, "after": {"0000000000000002": "7-42"}}), ApiError::AfterUnnamed(DeviceId(2))),
            (
                json!({"deviceIds": one, "after": {"0000000000000001": "now"}}),
                ApiError::AfterCursor { device: DeviceId(1), error: IdError::Cursor },
            ),
            (json!({"deviceIds": one, "mode": "some"}), ApiError::Mode("some".to_owned())),
            (json!({"deviceIds": one, "timeoutMs": 600_001}), ApiError::TimeoutMs { max: MAX_WAIT_MS }),
            (json!({"deviceIds": one, "timeoutMs": -1}), ApiError::TimeoutMs { max: MAX_WAIT_MS }),
            (json!({"deviceIds": one, "timeoutMs": 0.5}), ApiError::TimeoutMs { max: MAX_WAIT_MS }),
        ] {
            assert_eq!(wanted(body.clone()).unwrap_err(), expected, "{body}");
        }
    }
}
