//! The HTTP API: accept loop, limits, time-outs, drain. HTTP/1.1 and HTTP/2 without TLS on one port.
//!
//! A request passes [`router`], [`access`] and its handler; errors become answers in [`error`], bodies are those of
//! [`views`] in the form that [`mod@format`] finds. Nothing here touches a packet. No header that would let a browser
//! script of another origin read an answer is ever sent, and `origin` keeps such scripts from an open API altogether.

pub mod access;
mod boards;
mod census;
mod connection;
mod description;
mod device_keys;
mod devices;
mod endpoint;
pub mod error;
mod events;
mod explain;
pub mod format;
mod gateway;
mod handlers;
mod health_metrics;
mod keys;
mod limits;
mod message_metrics;
pub mod messages;
pub mod metrics_text;
mod networks;
mod organisations;
mod origin;
mod outcomes;
mod outgoing;
mod page;
mod query;
mod record_metrics;
pub mod router;
mod rpc;
mod samples;
mod signatures;
mod states;
mod stored_keys;
mod strict;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod token_keys;
pub mod tokens;
mod transfer;
pub mod understand;
mod unregistered;
pub mod views;
mod waiting;
mod wanted;

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderValue, VARY};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::auth::keys::{KeyPair, KeyRing};
use crate::clock::Clock;
use crate::definitions::Definitions;
use crate::dispatch::Dispatch;
use crate::downlink::Downlinks;
use crate::health::Health;
use crate::ingest::moves::MoveLog;
use crate::ingest::trace::Traces;
use crate::registry::Registry;
use crate::store::Stats;
use crate::table::{RoutePolicy, RouteTable};
use crate::wait::PacketWaits;
use crate::wait::stream::Streams;
use crate::waiters::Waiters;
use access::{Access, Admission, Bearer, Caller};
use census::Census;
use connection::{Guarded, Peer, Preface};
use error::ApiError;
use format::Format;
use handlers::{Call, Reply, encoded};
use metrics_text::{IngestSource, Metrics};
use outgoing::{Content, Outgoing, Room, Taken};
use router::{Endpoint, Matched, Needs, Router, UNMATCHED, Unroutable};

pub use connection::Deadlines;
pub use handlers::{LASTROUTE_CURSOR, LASTROUTE_TRUST};
pub use limits::{ApiConfig, WAITS_PER_CREDENTIAL};

/// Bytes of path and headers that are read at all. What lies between [`ApiConfig::max_head`] and this is answered with a
/// sentence, and more than this, or than 100 headers, by hyper with a bare 431.
const MAX_HEAD_READ: usize = 32 * 1024;
/// Requests at once on one HTTP/2 connection: what clients assume without asking is 100 or more.
const HTTP2_STREAMS: u32 = 250;
/// Bodies are small: the window of a request, and of all requests of a connection.
const HTTP2_WINDOW: u32 = 64 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of one answer, or of one stream of events, that hyper takes over before the client reads. It asks for a part more
/// while there is less, and keeps another one at hand.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;
/// Requests that a client reset before they were looked at; more end the connection (CVE-2023-44487).
const HTTP2_RESETS: usize = 20;
/// A client that left without a word is noticed within both together.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failure to accept, which is mostly a lack of file descriptors: long enough not to spin, short enough not to be
/// felt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Failures to accept are logged this seldom.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What an [`Api`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Last route and state of every device.
    pub table: Arc<RouteTable>,
    /// Those that ingest wakes after it recorded in `table`.
    pub waiters: Arc<Waiters>,
    /// Where ingest writes down which routes moved.
    pub moves: Arc<MoveLog>,
    /// What ingest decided of the packets that came in last.
    pub traces: Arc<Traces>,
    /// What waits for devices, and what they are asked.
    pub downlinks: Arc<Downlinks>,
    /// What may move a route.
    pub policy: RoutePolicy,
    /// The records, which the registry keeps in force in `table` and `keys`.
    pub registry: Registry,
    /// Sends messages and follows them.
    pub dispatch: Dispatch,
    /// What calls mean.
    pub definitions: Arc<Definitions>,
    /// Of which devices keys are known.
    pub keys: Arc<KeyRing>,
    /// The gateway's own.
    pub cloud_keys: KeyPair,
    /// The gateway's clock.
    pub clock: Clock,
    /// What is wrong with the gateway.
    pub health: Arc<Health>,
    /// Who may use the API.
    pub access: Access,
    /// The threads whose counters are shown.
    pub ingest: Vec<IngestSource>,
    /// What the keeping of records counts.
    pub records: Arc<Stats>,
    /// Bounds.
    pub config: ApiConfig,
}

/// What the endpoints need: shared by all listeners.
#[derive(Debug)]
pub struct Api {
    table: Arc<RouteTable>,
    waiters: Arc<Waiters>,
    moves: Arc<MoveLog>,
    traces: Arc<Traces>,
    downlinks: Arc<Downlinks>,
    policy: RoutePolicy,
    registry: Registry,
    dispatch: Dispatch,
    definitions: Arc<Definitions>,
    keys: Arc<KeyRing>,
    cloud_keys: KeyPair,
    clock: Clock,
    health: Arc<Health>,
    waits: PacketWaits,
    streams: Arc<Streams>,
    census: Arc<Census>,
    access: Access,
    metrics: Metrics,
    config: ApiConfig,
}

impl Api {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        let Parts { table, waiters, moves, registry, clock, health, access, ingest, config, .. } = parts;
        let waits = PacketWaits::new(Arc::clone(&table), Arc::clone(&waiters));
        let streams = Arc::new(Streams::new(waits.clone()));
        let census = Arc::new(Census::new(Arc::clone(&table), clock.clone()));
        let (for_metrics, counted) = (Arc::clone(&waiters), Arc::clone(&census));
        let mut metrics = Metrics::new(Arc::clone(&table), for_metrics, counted, ingest, clock.now());
        let Parts { dispatch, definitions, keys, cloud_keys, records, traces, downlinks, policy, .. } = parts;
        metrics.add_messages(dispatch.clone());
        metrics.add_records(records);
        metrics.add_health(Arc::clone(&health), clock.clone());
        Self {
            table,
            waiters,
            moves,
            traces,
            downlinks,
            policy,
            registry,
            dispatch,
            definitions,
            keys,
            cloud_keys,
            clock,
            health,
            waits,
            streams,
            census,
            access,
            metrics,
            config,
        }
    }

    /// Who may use it.
    pub const fn access(&self) -> &Access {
        &self.access
    }
}

/// Serves the API until `shutdown` is true or its sender is gone.
///
/// Then nothing more is accepted, waits end with 503, other requests are finished, and what is still open after `drain` is
/// cut. Whether everybody may reach `listener` is settled by the configuration, before it is bound.
pub async fn serve(listener: TcpListener, api: Arc<Api>, shutdown: watch::Receiver<bool>, drain: Duration) {
    Surface::new(Router::new(), false, api, shutdown).serve(listener, drain).await;
}

/// Serves `GET /metrics` and nothing else, without credentials. Ends like [`serve`].
pub async fn serve_metrics(listener: TcpListener, api: Arc<Api>, shutdown: watch::Receiver<bool>, drain: Duration) {
    Surface::new(Router::metrics_only(), true, api, shutdown).serve(listener, drain).await;
}

/// What hyper gets for a request.
type Outcome = Result<Response<Outgoing>, Infallible>;

/// What one listener serves.
struct Surface {
    router: Router,
    /// Whether no credentials are asked for.
    open: bool,
    /// Of this listener alone, so that strangers at an open one take nothing from the others.
    room: Room,
    api: Arc<Api>,
    shutdown: watch::Receiver<bool>,
}

impl Surface {
    fn new(router: Router, open: bool, api: Arc<Api>, shutdown: watch::Receiver<bool>) -> Self {
        Self { router, open, room: Room::new(api.config.max_outstanding), api, shutdown }
    }

    async fn serve(self, listener: TcpListener, drain: Duration) {
        let mut shutdown = self.shutdown.clone();
        let surface = Arc::new(self);
        let builders = Arc::new(Builders::new());
        let graceful = GracefulShutdown::new();
        let mut acceptor = Acceptor { listener, logged: None };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shut_down(&mut shutdown) => break,
                Some(ended) = connections.join_next() => log_panic(ended),
                stream = acceptor.accept() => {
                    if connections.len() >= surface.api.config.max_connections {
                        surface.turn_away(stream);
                        continue;
                    }
                    connections.spawn(Arc::clone(&surface).connection(stream, Arc::clone(&builders), graceful.watcher()));
                }
            }
        }
        drop(acceptor);
        if timeout(drain, graceful.shutdown()).await.is_err() {
            while let Some(ended) = connections.try_join_next() {
                log_panic(ended);
            }
            tracing::warn!(connections = connections.len(), "connections cut at the end of the drain time");
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, builders: Arc<Builders>, watcher: Watcher) {
        let _counted = Counted::new(self.api.metrics.connections().clone());
        let peer = Peer::new(stream);
        let Some(preface) = self.preface(&peer).await else { return };
        if let Err(error) = self.exchange(&peer, builders.of(preface), watcher).await {
            tracing::debug!(error, "connection ended");
        }
        peer.linger().await;
    }

    /// `None` if the connection ends before it says anything.
    async fn preface(&self, peer: &Peer) -> Option<Preface> {
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            preface = timeout(self.api.config.deadlines.first_byte, peer.preface()) => preface.ok()?.ok(),
            () = shut_down(&mut shutdown) => None,
        }
    }

    /// All requests of a connection. No async function, so that what it is made of is not kept beside it.
    fn exchange<'b>(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        builder: &'b auto::Builder<TokioExecutor>,
        watcher: Watcher,
    ) -> impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + use<'b> {
        let io = TokioIo::new(Guarded::new(Arc::clone(peer), self.api.config.deadlines));
        let (surface, peer) = (Arc::clone(self), Arc::clone(peer));
        let service = service_fn(move |request| Arc::clone(&surface).respond(Arc::clone(&peer), request));
        watcher.watch(builder.serve_connection(io, service))
    }

    /// What waits here may wait by the hundred thousand: the request is boxed, so that its room is free again, and no
    /// future holds another one twice.
    async fn respond(self: Arc<Self>, peer: Arc<Peer>, request: Request<Incoming>) -> Outcome {
        let (in_flight, begun) = (peer.begin(request.version()), Instant::now());
        let Matched { template, needs, endpoint } = self.router.resolve(request.method(), request.uri().path());
        let format = Format::accepted(request.headers());
        let (head, http2) = (request.method() == Method::HEAD, request.version() == Version::HTTP_2);
        let has_body = !request.body().is_end_stream();
        let (answer, held) = match self.admit(needs, endpoint, &request, begun).await {
            Ok((caller, endpoint)) => {
                let (api, shutdown, held) = (&self.api, self.shutdown.clone(), OnceLock::new());
                let caller = Box::new(caller);
                let call =
                    Call { api, room: &self.room, caller, peer: &peer, http2, head, shutdown, format, begun, held };
                let answer = unwound(pin!(call.answer(endpoint, Box::new(request)))).await;
                (answer, call.held.into_inner())
            }
            Err(error) => (Err(error), None),
        };
        if has_body && answer.is_err() {
            peer.refuse_body();
        }
        let with_room = match answer {
            Ok(reply) if needs.changes() => Ok(self.with_room_after_change(reply, held)),
            Err(ApiError::Slow) if needs.changes() => Err(ApiError::SlowChange),
            answer => {
                drop(held);
                answer.and_then(|reply| self.with_room(reply))
            }
        };
        let (mut reply, room) = with_room.unwrap_or_else(|error| (refusal(&error, format, http2), None));
        self.api.metrics.request(template, reply.status());
        finish(&mut reply, head);
        Ok(reply.map(|body| Outgoing::new(body, room, in_flight, http2)))
    }

    fn with_room(&self, reply: Reply) -> Result<(Reply, Option<Taken>), ApiError> {
        let room = self.room.take_for_answer(reply.body().len().unwrap_or(0)).ok_or(ApiError::NoRoom)?;
        Ok((reply, room))
    }

    /// What was done is told in any case: in the room that the body had, if there is no other.
    fn with_room_after_change(&self, reply: Reply, held: Option<Taken>) -> (Reply, Option<Taken>) {
        let room = self.room.take_for_answer(reply.body().len().unwrap_or(0)).unwrap_or(held);
        (reply, room)
    }

    /// Who asks what, if that is all right so far.
    async fn admit(
        &self,
        needs: Needs,
        endpoint: Result<Endpoint, Unroutable>,
        request: &Request<Incoming>,
        begun: Instant,
    ) -> Result<(Caller, Endpoint), ApiError> {
        let (len, max) = (head_len(request), self.api.config.max_head);
        if len > max {
            return Err(ApiError::HeadTooLarge { len, max });
        }
        if self.open || needs == Needs::Nothing {
            return Ok((Caller::anyone(), endpoint?));
        }
        if self.api.access.is_open() {
            origin::check(request)?;
        }
        let caller = match self.api.access.admit(request.headers(), self.api.clock.now())? {
            Admission::Caller(caller) => caller,
            Admission::Token(bearer) => {
                let by = begun + self.api.config.request_timeout;
                Box::pin(timeout_at(by, self.bearer(bearer))).await.unwrap_or(Err(ApiError::Slow))?
            }
        };
        let endpoint = endpoint?;
        caller.meets(needs)?;
        Ok((caller, endpoint))
    }

    async fn bearer(&self, bearer: Bearer) -> Result<Caller, ApiError> {
        let number = self.api.registry.organisation_number(bearer.organisation()).await?;
        bearer.of(number)
    }

    /// Answers a connection too many, as far as that goes without waiting.
    fn turn_away(&self, stream: TcpStream) {
        let status = ApiError::TooManyConnections.status();
        self.api.metrics.request(UNMATCHED, status);
        let Ok(body) = Format::Json.encode(&ApiError::TooManyConnections.view()) else { return };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 1\r\n\
             connection: close\r\n\r\n",
            body.len()
        );
        if let Ok(mut stream) = stream.into_std() {
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    }
}

struct Acceptor {
    listener: TcpListener,
    logged: Option<Instant>,
}

impl Acceptor {
    async fn accept(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                // The client has left already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    let now = Instant::now();
                    if self.logged.is_none_or(|logged| now - logged >= ACCEPT_LOG_INTERVAL) {
                        tracing::warn!(%error, "cannot accept an HTTP connection; is the limit of open files too low?");
                        self.logged = Some(now);
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One in a gauge for as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How hyper serves a connection, by what it speaks.
struct Builders {
    http1: auto::Builder<TokioExecutor>,
    http2: auto::Builder<TokioExecutor>,
    either: auto::Builder<TokioExecutor>,
}

impl Builders {
    fn new() -> Self {
        let either = builder();
        Self { http1: either.clone().http1_only(), http2: either.clone().http2_only(), either }
    }

    fn of(&self, preface: Preface) -> &auto::Builder<TokioExecutor> {
        match preface {
            Preface::Http1 => &self.http1,
            Preface::Http2 => &self.http2,
            Preface::Open => &self.either,
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        // A client that closes its side still gets an answer; waits look after themselves.
        .half_close(true)
        // Kept by `Guarded`, which tells an idle connection from a slow request.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_READ);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_header_list_size(MAX_HEAD_READ as u32)
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_pending_accept_reset_streams(HTTP2_RESETS)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
    builder
}

/// Returns once `shutdown` is true or its sender is gone.
async fn shut_down(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|down| *down).await;
}

/// Bytes of the parts of a request that name things: path and query, header names and values.
fn head_len(request: &Request<Incoming>) -> usize {
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    target + headers.sum::<usize>()
}

fn refusal(error: &ApiError, format: Format, http2: bool) -> Reply {
    let mut reply = encoded(format, &error.view()).unwrap_or_default();
    *reply.status_mut() = error.status();
    error.add_headers(reply.headers_mut());
    if error.ends_connection() && !http2 {
        let (name, value) = error::CLOSE;
        reply.headers_mut().insert(name, value);
    }
    reply
}

/// Headers of every answer, and the empty body of an answer to `HEAD`.
fn finish(reply: &mut Reply, head: bool) {
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    if head && reply.status() != StatusCode::NO_CONTENT {
        if let Some(len) = reply.body().len() {
            reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
        }
        *reply.body_mut() = Content::default();
    }
}

/// Runs a handler; one that panics fails alone.
async fn unwound<T>(mut handler: Pin<&mut impl Future<Output = Result<T, ApiError>>>) -> Result<T, ApiError> {
    std::future::poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx))).unwrap_or_else(|_| {
            tracing::error!("a request handler panicked; the message is on standard error");
            Poll::Ready(Err(ApiError::Internal))
        })
    })
    .await
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection failed");
    }
}
