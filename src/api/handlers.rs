//! One function per endpoint: typed input, a call of the core, a typed answer.

use std::collections::HashSet;
use std::future::ready;

use futures_util::future::{BoxFuture, FutureExt};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

use crate::id::{Cursor, DeviceId};
use crate::text::Text;

use super::Api;
use super::access::{Caller, Scope};
use super::call::Call;
use super::error::ApiError;
use super::format::Format;
use super::metrics_text;
use super::outgoing::{Content, Taken};
use super::query::Query;
use super::router::Endpoint;
use super::rpc::Sort;
use super::strict::Bounds;
use super::waiting::wait_of;
use super::wanted::Kind;
use super::{description, page, views};

/// The position of the device's last packet.
pub const LASTROUTE_CURSOR: HeaderName = HeaderName::from_static("lastroute-cursor");
/// How the route was proved.
pub const LASTROUTE_TRUST: HeaderName = HeaderName::from_static("lastroute-trust");

/// What goes out.
pub(super) type Reply = Response<Content>;

/// What comes of a request.
pub(super) type Answer = Result<Reply, ApiError>;

/// Bytes of a body from which on it is decoded apart.
const LONG_BODY: usize = 64 * 1024;
/// The longest text of a position: two numbers of twenty digits and what joins them.
const CURSOR: usize = 41;
/// Records of an answer from which on it is encoded apart.
const LONG_LIST: usize = 1000;

impl Api {
    /// Whether a caller may know of a device: one for one organisation of those registered for it, and else of all.
    pub(super) fn sees(&self, caller: &Caller, id: DeviceId) -> bool {
        let registered_for = || self.table.registration(id).map(|registration| registration.organisation);
        caller.scope() == Scope::All || caller.sees_device(registered_for())
    }
}

impl Call {
    /// Answers `request` as `endpoint`.
    pub(super) fn answer(&self, endpoint: Endpoint, request: Box<Request<Incoming>>) -> BoxFuture<'_, Answer> {
        let answer: BoxFuture<'_, Answer> = match endpoint {
            Endpoint::Health => return at_once(self.ok(&views::Health { health: "ok" })),
            Endpoint::Ready => return at_once(self.ready()),
            Endpoint::Metrics => Box::pin(self.metrics()),
            Endpoint::Gateway => Box::pin(self.gateway()),
            Endpoint::Description => return at_once(Ok(described())),
            Endpoint::Page => return at_once(Ok(page::document())),
            Endpoint::PageScript => return at_once(Ok(page::script())),
            Endpoint::PageStyle => return at_once(Ok(page::style())),
            Endpoint::Organisations => Box::pin(self.organisations(request)),
            Endpoint::CreateOrganisation => Box::pin(self.create_organisation(request)),
            Endpoint::Organisation(id) => Box::pin(self.organisation(id)),
            Endpoint::DeleteOrganisation(id) => Box::pin(self.delete_organisation(id)),
            Endpoint::OrganisationNamed(name) => Box::pin(self.organisation_named(name)),
            Endpoint::Boards => Box::pin(self.boards(request)),
            Endpoint::CreateBoard => Box::pin(self.create_board(request)),
            Endpoint::Board(id) => Box::pin(self.board(id)),
            Endpoint::DeleteBoard(id) => Box::pin(self.delete_board(id)),
            Endpoint::DevicesOfBoard(id) => Box::pin(self.devices_of_board(id, request)),
            Endpoint::Networks => Box::pin(self.networks(request)),
            Endpoint::CreateNetwork => Box::pin(self.create_network(request)),
            Endpoint::Network(id) => Box::pin(self.network(id)),
            Endpoint::DeleteNetwork(id) => Box::pin(self.delete_network(id)),
            Endpoint::Devices => Box::pin(self.devices(request)),
            Endpoint::CreateDevice => Box::pin(self.create_device(request)),
            Endpoint::CreateDevices => Box::pin(self.create_devices(request)),
            Endpoint::ImportDevices => Box::pin(self.import_devices(request)),
            Endpoint::ExportDevices => Box::pin(self.export_devices(request)),
            Endpoint::Device(id) => Box::pin(self.device(id)),
            Endpoint::DeviceWithId(id) => Box::pin(self.device_with_id(id)),
            Endpoint::DeviceWithHardware(hardware) => Box::pin(self.device_with_hardware(hardware)),
            Endpoint::UpdateDevice(id) => Box::pin(self.update_device(id, request)),
            Endpoint::DeleteDevice(id) => Box::pin(self.delete_device(id)),
            Endpoint::DeviceKey(id) => Box::pin(self.device_key(id)),
            Endpoint::ConfirmDeviceKey(id) => Box::pin(self.confirm_device_key(id, request)),
            Endpoint::SendDownlink(id) => Box::pin(self.send_downlink(id, request)),
            Endpoint::SetDeviceKey(id) => Box::pin(self.set_device_key(id, request)),
            Endpoint::StateOfRecord(id) => Box::pin(self.state_of_record(id)),
            Endpoint::SetState(id) => Box::pin(self.set_state(id, request)),
            Endpoint::State(id) => Box::pin(self.state(id)),
            Endpoint::DevicesAndStates => Box::pin(self.devices_and_states(request)),
            Endpoint::UnregisteredDevices => Box::pin(self.unregistered_devices(request)),
            Endpoint::LastRoute(id) => return at_once(self.last_route(id)),
            Endpoint::Explain(id) => Box::pin(self.explain(id)),
            Endpoint::LastRoutes => Box::pin(self.last_routes(request)),
            Endpoint::WaitForPacket(id) => return self.wait_for_packet(id, wait_of(&request)),
            Endpoint::WaitForPackets => return Box::pin(self.wait_for_packets(request)),
            Endpoint::Rpcs => match Kind::of(request.headers()) {
                Kind::Answer => Box::pin(self.calls(request)),
                Kind::Events(_) => return Box::pin(self.follow_outcomes(request)),
            },
            Endpoint::SendRpc => Box::pin(self.send_call(request)),
            Endpoint::Rpc(id) => match query(&request).timeout() {
                Ok(None) => Box::pin(self.message(Sort::Call, id)),
                Ok(Some(timeout)) => return Box::pin(self.wait_for_outcome(Sort::Call, id, timeout)),
                Err(error) => return at_once(Err(error)),
            },
            Endpoint::WithdrawRpc(id) => Box::pin(self.withdraw(Sort::Call, id)),
            Endpoint::RpcData(id) => Box::pin(self.call_data(id)),
            Endpoint::Downlink(id) => match query(&request).timeout() {
                Ok(None) => Box::pin(self.message(Sort::Plain, id)),
                Ok(Some(timeout)) => return Box::pin(self.wait_for_outcome(Sort::Plain, id, timeout)),
                Err(error) => return at_once(Err(error)),
            },
            Endpoint::WithdrawDownlink(id) => Box::pin(self.withdraw(Sort::Plain, id)),
            Endpoint::PublicKey => return at_once(self.public_key()),
            Endpoint::SharedSecret => Box::pin(self.shared_secret(request)),
            Endpoint::DeviceSharedSecret => Box::pin(self.device_shared_secret(request)),
            Endpoint::DerivedKey => Box::pin(self.derived_key(request)),
            Endpoint::CreateApiKey => Box::pin(self.create_key(request)),
            Endpoint::ApiKeys => Box::pin(self.keys(request)),
            Endpoint::DeleteApiKey(id) => Box::pin(self.delete_key(id)),
        };
        let by = self.begun + self.api.config.request_timeout;
        Box::pin(timeout_at(by, answer).map(|answer| answer.unwrap_or(Err(ApiError::Slow))))
    }

    fn ready(&self) -> Answer {
        if *self.shutdown().borrow() {
            return Err(ApiError::ShuttingDown);
        }
        self.ok(&views::Ready { ready: true, degraded: self.api.health.by_name() })
    }

    async fn metrics(&self) -> Answer {
        self.api.census.look().await;
        let text = self.api.metrics.text().map_err(|_| ApiError::Internal)?;
        let mut response = whole(text);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics_text::CONTENT_TYPE));
        Ok(response)
    }

    async fn gateway(&self) -> Answer {
        self.ok(&self.api.status().await?)
    }

    /// Whether the caller may know of a device.
    pub(super) fn sees(&self, id: DeviceId) -> bool {
        self.api.sees(&self.caller, id)
    }

    /// That the caller may know of a device.
    pub(super) fn seen(&self, id: DeviceId) -> Result<(), ApiError> {
        if self.sees(id) { Ok(()) } else { Err(ApiError::UnseenDevice(id)) }
    }

    pub(super) fn last_route(&self, id: DeviceId) -> Answer {
        self.seen(id)?;
        let (route, cursor) = self.api.table.last_route(id).ok_or(ApiError::NeverHeard(id))?;
        let mut response = self.ok(&views::UplinkRoute::from(&route))?;
        add_cursor(response.headers_mut(), cursor)?;
        response.headers_mut().insert(LASTROUTE_TRUST, HeaderValue::from_static(route.trust().name()));
        Ok(response)
    }

    async fn last_routes(&self, request: Box<Request<Incoming>>) -> Answer {
        let names: views::LastRoutes = self.body(request).await?;
        let ids = names.ids()?;
        let mut seen = HashSet::with_capacity(ids.len());
        let mut routes = Vec::new();
        for id in ids {
            if !seen.insert(id) || !self.sees(id) {
                continue;
            }
            if let Some(route) = self.api.table.snapshot(id).and_then(|snapshot| snapshot.last_route) {
                routes.push(views::RouteOfDevice { device_id: id, last_route: views::UplinkRoute::from(&route) });
            }
        }
        self.list(routes.len(), || routes).await
    }

    /// Reads a body within its bounds of size and time.
    pub(super) async fn body<T: DeserializeOwned + Send + 'static>(
        &self,
        request: Box<Request<Incoming>>,
    ) -> Result<T, ApiError> {
        let (body, room) = self.body_of_wait(request).await?;
        self.hold(room);
        Ok(body)
    }

    /// The same for a request that goes on longer than its body is of use, with the room that this takes up.
    pub(super) async fn body_of_wait<T: DeserializeOwned + Send + 'static>(
        &self,
        request: Box<Request<Incoming>>,
    ) -> Result<(T, Taken), ApiError> {
        self.decoded(self.api.config.max_body, request, self.decoder()).await
    }

    /// The same with a bound of its own for its size.
    pub(super) async fn bounded_body<T: DeserializeOwned + Send + 'static>(
        &self,
        max: usize,
        request: Box<Request<Incoming>>,
    ) -> Result<T, ApiError> {
        let (body, room) = self.decoded(max, request, self.decoder()).await?;
        self.hold(room);
        Ok(body)
    }

    /// The same for one that brings many devices.
    pub(super) async fn batch_body<T: DeserializeOwned + Send + 'static>(
        &self,
        request: Box<Request<Incoming>>,
    ) -> Result<T, ApiError> {
        self.batch(request, self.decoder()).await
    }

    /// The same with a decoder of its own.
    pub(super) async fn batch<T: Send + 'static>(
        &self,
        request: Box<Request<Incoming>>,
        decode: impl FnOnce(Format, &[u8]) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (body, room) = self.decoded(self.api.config.max_batch_body, request, decode).await?;
        self.hold(room);
        Ok(body)
    }

    fn decoder<T: DeserializeOwned>(&self) -> impl FnOnce(Format, &[u8]) -> Result<T, ApiError> + Send + use<T> {
        let bounds = Bounds::of_lists(self.api.config.max_devices_per_request);
        move |format, bytes| Ok(format.decode(bytes, bounds)?)
    }

    fn hold(&self, room: Taken) {
        // A request has one body.
        let _ = self.held.set(room);
    }

    async fn decoded<T: Send + 'static>(
        &self,
        max: usize,
        request: Box<Request<Incoming>>,
        decode: impl FnOnce(Format, &[u8]) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<(T, Taken), ApiError> {
        let (bytes, format, room) = self.bytes(max, request).await?;
        let len = bytes.len();
        // The room goes along: nobody stops a thread that is at it.
        apart(len > LONG_BODY, move || Ok((decode(format, &bytes)?, room.shrunk(len)))).await
    }

    /// The bytes of a body, their form, and the room that they take up.
    async fn bytes(&self, max: usize, request: Box<Request<Incoming>>) -> Result<(Bytes, Format, Taken), ApiError> {
        let format = Format::of_body(request.headers()).ok_or(ApiError::MediaType)?;
        if request.body().size_hint().lower() > max as u64 {
            return Err(ApiError::BodyTooLarge { max });
        }
        let announced = request.body().size_hint().exact().and_then(|len| usize::try_from(len).ok());
        let room = self.room().take(announced.unwrap_or(max)).ok_or(ApiError::NoRoom)?;
        let body = Limited::new(request.into_body(), max).collect();
        let body = timeout_at(self.begun + self.api.config.request_timeout, body).await;
        match body.map_err(|_| ApiError::BodyTimeout)? {
            Ok(body) => Ok((body.to_bytes(), format, room)),
            Err(error) if error.is::<LengthLimitError>() => Err(ApiError::BodyTooLarge { max }),
            Err(_) => Err(ApiError::BodyBroken),
        }
    }

    pub(super) fn ok(&self, value: &impl Serialize) -> Answer {
        encoded(self.format, value)
    }

    /// A list of `len` records, or something of that size, which `make` makes.
    pub(super) async fn list<T: Serialize>(&self, len: usize, make: impl FnOnce() -> T + Send + 'static) -> Answer {
        let format = self.format;
        apart(len > LONG_LIST, move || encoded(format, &make())).await
    }

    /// `value` is stored from now on.
    pub(super) fn created(&self, value: &impl Serialize) -> Answer {
        self.ok(value).map(created)
    }
}

/// An answer for which nothing has to be waited for.
pub(super) fn at_once<'a>(answer: Answer) -> BoxFuture<'a, Answer> {
    Box::pin(ready(answer))
}

/// Does what takes long, where it does, on a thread of its own: every wait needs the one of the API.
pub(super) async fn apart<T: Send + 'static>(
    long: bool,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if long { spawn_blocking(work).await.unwrap_or(Err(ApiError::Internal)) } else { work() }
}

/// What is told is stored from now on.
pub(super) fn created(mut response: Reply) -> Reply {
    *response.status_mut() = StatusCode::CREATED;
    response
}

/// A response with `value` as its body.
pub(super) fn encoded(format: Format, value: &impl Serialize) -> Answer {
    let mut response = whole(bytes(format, value)?);
    response.headers_mut().insert(CONTENT_TYPE, format.content_type_header());
    Ok(response)
}

fn bytes(format: Format, value: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    format.encode(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be encoded");
        ApiError::Internal
    })
}

/// The JSON of `value`.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    bytes(Format::Json, value)
}

/// What was asked for is done, and there is nothing to tell.
pub(super) fn no_content() -> Reply {
    let mut response = Reply::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// The query of a request.
pub(super) fn query(request: &Request<Incoming>) -> Query<'_> {
    Query::parse(request.uri().query().unwrap_or_default())
}

/// Always JSON.
fn described() -> Reply {
    typed(Format::Json.content_type(), description::document())
}

/// A response with these bytes as its body.
pub(super) fn typed(content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut response = whole(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn whole(body: impl Into<Bytes>) -> Reply {
    Response::new(Content::Whole(body.into()))
}

pub(super) fn add_cursor(headers: &mut HeaderMap, cursor: Cursor) -> Result<(), ApiError> {
    headers.insert(LASTROUTE_CURSOR, cursor_header(cursor)?);
    Ok(())
}

/// A cursor as the value of a header.
pub(super) fn cursor_header(cursor: Cursor) -> Result<HeaderValue, ApiError> {
    let mut text = Text::<CURSOR>::new();
    // As its `Display`.
    text.decimal(cursor.epoch).add("-").decimal(cursor.n);
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| ApiError::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_told_as_it_is_written_elsewhere() {
        for cursor in [Cursor { epoch: 0, n: 0 }, Cursor { epoch: 7, n: 42 }, Cursor { epoch: u64::MAX, n: u64::MAX }] {
            assert_eq!(cursor_header(cursor).unwrap(), cursor.to_string());
        }
    }

    #[tokio::test]
    async fn what_takes_long_is_done_on_another_thread_and_what_does_not_on_this_one() {
        let thread = async |long| apart(long, || Ok(std::thread::current().id())).await.unwrap();
        let this = std::thread::current().id();
        assert_eq!((thread(false).await == this, thread(true).await == this), (true, false));
        let panicked = apart(true, || if std::hint::black_box(true) { panic!("as intended") } else { Ok(()) }).await;
        assert_eq!(panicked, Err(ApiError::Internal));
    }
}
