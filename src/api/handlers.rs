//! One function per endpoint: typed input, a call of the core, a typed answer.

use std::collections::HashSet;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Version};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::id::{Cursor, DeviceId};
use crate::wait::Waited;

use super::access::Caller;
use super::connection::Peer;
use super::error::ApiError;
use super::format::Format;
use super::metrics_text::{self, WaitOutcome};
use super::outgoing::Room;
use super::router::Endpoint;
use super::{Api, views};

/// The position of the device's last packet.
pub const LASTROUTE_CURSOR: HeaderName = HeaderName::from_static("lastroute-cursor");
/// How the route was proved.
pub const LASTROUTE_TRUST: HeaderName = HeaderName::from_static("lastroute-trust");

/// The longest wait: longer ones end at every proxy in between.
const MAX_WAIT_MS: u64 = 600_000;
/// The wait of a request that does not say.
const DEFAULT_WAIT_MS: u64 = 60_000;

/// What goes out.
pub(super) type Reply = Response<Bytes>;

/// What comes of a request.
pub(super) type Answer = Result<Reply, ApiError>;

/// A request that is routed and admitted, with what its answer depends on.
pub(super) struct Call<'a> {
    pub(super) api: &'a Api,
    pub(super) room: &'a Room,
    pub(super) caller: Caller<'a>,
    pub(super) peer: &'a Peer,
    pub(super) shutdown: watch::Receiver<bool>,
    pub(super) format: Format,
    pub(super) begun: Instant,
}

impl Call<'_> {
    /// Answers `request` as `endpoint`.
    pub(super) async fn answer(&self, endpoint: Endpoint, request: Box<Request<Incoming>>) -> Answer {
        match endpoint {
            Endpoint::Health => self.ok(&views::Health { health: "ok" }),
            Endpoint::Ready => self.ready(),
            Endpoint::Metrics => self.metrics().await,
            Endpoint::Gateway => self.ok(&Box::pin(self.api.status()).await?),
            Endpoint::LastRoute(id) => self.last_route(id),
            // Boxed, so that waits do not take up as much.
            Endpoint::LastRoutes => Box::pin(self.last_routes(request)).await,
            Endpoint::State(id) => self.state(id),
            Endpoint::WaitForPacket(id) => {
                let query = WaitQuery::parse(request.uri().query().unwrap_or_default());
                let http2 = request.version() == Version::HTTP_2;
                drop(request);
                self.wait_for_packet(id, query, http2).await
            }
        }
    }

    fn ready(&self) -> Answer {
        if *self.shutdown.borrow() { Err(ApiError::ShuttingDown) } else { self.ok(&views::Ready { ready: true }) }
    }

    async fn metrics(&self) -> Answer {
        self.api.census.look().await;
        let text = self.api.metrics.text().map_err(|_| ApiError::Internal)?;
        let mut response = Response::new(Bytes::from(text));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics_text::CONTENT_TYPE));
        Ok(response)
    }

    fn last_route(&self, id: DeviceId) -> Answer {
        let snapshot = self.api.table.snapshot(id).ok_or(ApiError::NeverHeard(id))?;
        let route = snapshot.last_route.ok_or(ApiError::NeverHeard(id))?;
        let mut response = self.ok(&views::UplinkRoute::from(&route))?;
        add_cursor(response.headers_mut(), snapshot.cursor)?;
        response.headers_mut().insert(LASTROUTE_TRUST, HeaderValue::from_static(route.trust().name()));
        Ok(response)
    }

    async fn last_routes(&self, request: Box<Request<Incoming>>) -> Answer {
        let names: views::LastRoutes = self.body(request).await?;
        let max = self.api.config.max_devices_per_request;
        if names.device_ids.len() > max {
            return Err(ApiError::TooManyDevices { len: names.device_ids.len(), max });
        }
        let mut seen = HashSet::with_capacity(names.device_ids.len());
        let mut routes = Vec::new();
        for (index, name) in names.device_ids.iter().enumerate() {
            let id: DeviceId = name.parse().map_err(|error| ApiError::BodyDevice { index, error })?;
            if !seen.insert(id) {
                continue;
            }
            if let Some(route) = self.api.table.snapshot(id).and_then(|snapshot| snapshot.last_route) {
                routes.push(views::RouteOfDevice { device_id: id, last_route: views::UplinkRoute::from(&route) });
            }
        }
        self.ok(&routes)
    }

    fn state(&self, id: DeviceId) -> Answer {
        let registered = self.api.table.registered_since(id).ok_or(ApiError::NotRegistered(id))?;
        self.ok(&views::DeviceState::new(registered, self.api.table.snapshot(id).as_ref()))
    }

    async fn wait_for_packet(&self, id: DeviceId, query: Result<WaitQuery, ApiError>, http2: bool) -> Answer {
        let mut ending = Ending { api: self.api, outcome: WaitOutcome::Abandoned, begun: self.begun };
        let answer = self.wait(id, query, http2, &mut ending).await;
        if ending.outcome == WaitOutcome::Abandoned && !matches!(answer, Err(ApiError::HalfClosed)) {
            ending.outcome = WaitOutcome::Refused;
        }
        answer
    }

    async fn wait(
        &self,
        id: DeviceId,
        query: Result<WaitQuery, ApiError>,
        http2: bool,
        ending: &mut Ending<'_>,
    ) -> Answer {
        let query = query?;
        let limit = self.api.config.waits_per_credential;
        let _place = self.caller.place_to_wait(limit).ok_or(ApiError::CredentialFull)?;
        let mut shutdown = self.shutdown.clone();
        let gone = async {
            // HTTP/2 ends the request itself when the client resets it or leaves.
            if http2 { std::future::pending().await } else { self.peer.gone().await }
        };
        let waited = tokio::select! {
            biased;
            waited = self.api.waits.wait_for_packet(id, query.after, self.begun + query.timeout) => waited?,
            _ = shutdown.wait_for(|down| *down) => {
                ending.outcome = WaitOutcome::ShutDown;
                return Err(ApiError::ShuttingDown);
            }
            () = gone => return Err(ApiError::HalfClosed),
        };
        let (outcome, view) = match &waited {
            Waited::TimedOut { cursor } => {
                ending.outcome = WaitOutcome::TimedOut;
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::NO_CONTENT;
                add_cursor(response.headers_mut(), *cursor)?;
                return Ok(response);
            }
            Waited::Packet { snapshot, missed } => (WaitOutcome::Packet, views::Waited::packet(snapshot, *missed)),
            Waited::Reset { cursor, snapshot } => {
                (WaitOutcome::Reset, views::Waited::reset(id, *cursor, snapshot.as_ref()))
            }
        };
        ending.outcome = outcome;
        self.ok(&view)
    }

    /// Reads a body within its bounds of size and time.
    async fn body<T: serde::de::DeserializeOwned>(&self, request: Box<Request<Incoming>>) -> Result<T, ApiError> {
        let format = Format::of_body(request.headers()).ok_or(ApiError::MediaType)?;
        let max = self.api.config.max_body;
        if request.body().size_hint().lower() > max as u64 {
            return Err(ApiError::BodyTooLarge { max });
        }
        let announced = request.body().size_hint().exact().and_then(|len| usize::try_from(len).ok());
        let _room = self.room.take(announced.unwrap_or(max)).ok_or(ApiError::NoRoom)?;
        let body = Limited::new(request.into_body(), max).collect();
        let body = timeout_at(self.begun + self.api.config.request_timeout, body).await;
        let bytes = match body.map_err(|_| ApiError::BodyTimeout)? {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(ApiError::BodyTooLarge { max }),
            Err(_) => return Err(ApiError::BodyBroken),
        };
        format.decode(&bytes).map_err(ApiError::body)
    }

    fn ok(&self, value: &impl Serialize) -> Answer {
        encoded(self.format, value)
    }
}

/// Counts a wait when it ends: a client that leaves drops it at any moment.
struct Ending<'a> {
    api: &'a Api,
    outcome: WaitOutcome,
    begun: Instant,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.api.metrics.wait(self.outcome, self.begun.elapsed());
    }
}

/// The query of a wait. Parameters this gateway does not know are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WaitQuery {
    timeout: Duration,
    after: Option<Cursor>,
}

impl WaitQuery {
    fn parse(query: &str) -> Result<Self, ApiError> {
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
        Ok(Self { timeout: Duration::from_millis(timeout_ms.unwrap_or(DEFAULT_WAIT_MS)), after })
    }
}

fn once<T>(name: &'static str, to: &mut Option<T>, value: T) -> Result<(), ApiError> {
    if to.replace(value).is_some() { Err(ApiError::QueryTwice { name }) } else { Ok(()) }
}

fn wait_ms(text: &str) -> Result<u64, ApiError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|value| digits && *value <= MAX_WAIT_MS);
    value.ok_or(ApiError::QueryTimeout { max: MAX_WAIT_MS })
}

/// A response with `value` as its body.
pub(super) fn encoded(format: Format, value: &impl Serialize) -> Answer {
    let bytes = format.encode(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be encoded");
        ApiError::Internal
    })?;
    let mut response = Response::new(Bytes::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    Ok(response)
}

fn add_cursor(headers: &mut HeaderMap, cursor: Cursor) -> Result<(), ApiError> {
    let value = HeaderValue::try_from(cursor.to_string()).map_err(|_| ApiError::Internal)?;
    headers.insert(LASTROUTE_CURSOR, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IdError;

    fn parsed(query: &str) -> Result<(u128, Option<Cursor>), ApiError> {
        WaitQuery::parse(query).map(|query| (query.timeout.as_millis(), query.after))
    }

    #[test]
    fn a_wait_takes_60_s_unless_it_says_otherwise() {
        let cursor = Some(Cursor { epoch: 7, n: 42 });
        for (query, expected) in [
            ("", (60_000, None)),
            ("&&", (60_000, None)),
            ("timeoutMs=0", (0, None)),
            ("timeoutMs=600000&after=7-42", (600_000, cursor)),
            ("after=7%2D42&timeout%4ds=5", (5, cursor)),
            ("unknown=1&unknown=2&timeoutms=x", (60_000, None)),
        ] {
            assert_eq!(parsed(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn a_bad_query_is_refused_by_name() {
        for bad in ["timeoutMs", "timeoutMs=", "timeoutMs=-1", "timeoutMs=+1", "timeoutMs=600001", "timeoutMs=1.5"] {
            assert_eq!(parsed(bad), Err(ApiError::QueryTimeout { max: MAX_WAIT_MS }), "{bad}");
        }
        for bad in ["after", "after=", "after=7", "after=%ff"] {
            assert_eq!(parsed(bad), Err(ApiError::QueryCursor(IdError::Cursor)), "{bad}");
        }
        assert_eq!(parsed("timeoutMs=1&timeoutMs=1"), Err(ApiError::QueryTwice { name: "timeoutMs" }));
        assert_eq!(parsed("after=1-1&after=1-1"), Err(ApiError::QueryTwice { name: "after" }));
    }
}
