//! One function per endpoint: typed input, a call of the core, a typed answer.

use std::collections::HashSet;
use std::sync::Arc;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::id::{Cursor, DeviceId};

use super::access::Caller;
use super::connection::Peer;
use super::error::ApiError;
use super::format::Format;
use super::metrics_text;
use super::outgoing::{Content, Room};
use super::router::Endpoint;
use super::wanted::{Kind, WaitQuery};
use super::{Api, views};

/// The position of the device's last packet.
pub const LASTROUTE_CURSOR: HeaderName = HeaderName::from_static("lastroute-cursor");
/// How the route was proved.
pub const LASTROUTE_TRUST: HeaderName = HeaderName::from_static("lastroute-trust");

/// What goes out.
pub(super) type Reply = Response<Content>;

/// What comes of a request.
pub(super) type Answer = Result<Reply, ApiError>;

/// A request that is routed and admitted, with what its answer depends on.
pub(super) struct Call<'a> {
    pub(super) api: &'a Arc<Api>,
    pub(super) room: &'a Room,
    pub(super) caller: Caller<'a>,
    pub(super) peer: &'a Arc<Peer>,
    pub(super) http2: bool,
    /// Whether only the headers are asked for, by `HEAD`.
    pub(super) head: bool,
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
                let kind = Kind::of(request.headers());
                drop(request);
                self.wait_for_packet(id, query, kind).await
            }
            Endpoint::WaitForPackets => Box::pin(self.wait_for_packets(request)).await,
        }
    }

    fn ready(&self) -> Answer {
        if *self.shutdown.borrow() { Err(ApiError::ShuttingDown) } else { self.ok(&views::Ready { ready: true }) }
    }

    async fn metrics(&self) -> Answer {
        self.api.census.look().await;
        let text = self.api.metrics.text().map_err(|_| ApiError::Internal)?;
        let mut response = whole(text);
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

    /// Reads a body within its bounds of size and time.
    pub(super) async fn body<T: serde::de::DeserializeOwned>(
        &self,
        request: Box<Request<Incoming>>,
    ) -> Result<T, ApiError> {
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

    pub(super) fn ok(&self, value: &impl Serialize) -> Answer {
        encoded(self.format, value)
    }
}

/// A response with `value` as its body.
pub(super) fn encoded(format: Format, value: &impl Serialize) -> Answer {
    let bytes = format.encode(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be encoded");
        ApiError::Internal
    })?;
    let mut response = whole(bytes);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    Ok(response)
}

fn whole(body: impl Into<Bytes>) -> Reply {
    Response::new(Content::Whole(body.into()))
}

pub(super) fn add_cursor(headers: &mut HeaderMap, cursor: Cursor) -> Result<(), ApiError> {
    let value = HeaderValue::try_from(cursor.to_string()).map_err(|_| ApiError::Internal)?;
    headers.insert(LASTROUTE_CURSOR, value);
    Ok(())
}
