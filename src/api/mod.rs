//! The HTTP API: accept loop, limits, time-outs, drain. HTTP/1.1 and HTTP/2 without TLS on one port.
//!
//! A request passes [`router`], [`access`] and its handler; errors become answers in [`error`], bodies are those of
//! [`views`] in the form that [`mod@format`] finds. Nothing here touches a packet. No header that would let a browser
//! script of another origin read an answer is ever sent.

pub mod access;
mod census;
mod connection;
pub mod error;
mod events;
pub mod format;
mod gateway;
mod handlers;
pub mod metrics_text;
mod outgoing;
pub mod router;
mod samples;
pub mod views;
mod waiting;
mod wanted;

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
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
use tokio::time::{Instant, sleep, timeout};

use crate::clock::Clock;
use crate::ingest::moves::MoveLog;
use crate::table::RouteTable;
use crate::wait::PacketWaits;
use crate::wait::stream::Streams;
use crate::waiters::Waiters;
use access::{Access, Caller};
use census::Census;
use connection::{Guarded, Peer, Preface};
use error::ApiError;
use format::Format;
use handlers::{Call, Reply, encoded};
use metrics_text::{IngestSource, Metrics};
use outgoing::{Content, Outgoing, Room, Taken};
use router::{Endpoint, Matched, Router, UNMATCHED};

pub use connection::Deadlines;
pub use handlers::{LASTROUTE_CURSOR, LASTROUTE_TRUST};

/// Bounds of the API.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Time limits of a connection.
    pub deadlines: Deadlines,
    /// From the end of the headers to the end of the body.
    pub request_timeout: Duration,
    /// Connections at once on one listener; more are answered 503 and closed.
    pub max_connections: usize,
    /// Bytes of path and headers; more are answered 431.
    pub max_head: usize,
    /// Bytes of a body; more are answered 413.
    pub max_body: usize,
    /// Bytes of bodies being read, and of answers above 4 KiB that wait to be sent, at once on one listener; more are
    /// answered 503.
    pub max_outstanding: usize,
    /// Devices one request may name.
    pub max_devices_per_request: usize,
    /// Waits at once with one API key, each device of a request counted; without keys, of everybody together.
    pub waits_per_credential: usize,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            deadlines: Deadlines {
                // A client that connects has something to say: three tries of a lost segment fit.
                first_byte: Duration::from_secs(10),
                head: Duration::from_secs(10),
                // Above the 60 s for which most proxies and client pools keep an unused connection: they end it first, so
                // that no request meets a connection that is just being closed.
                idle: Duration::from_secs(75),
                // A client that takes nothing at all for so long is stuck.
                write: Duration::from_secs(30),
            },
            // A full body at 35 kB/s.
            request_timeout: Duration::from_secs(30),
            // Large bodies and answers apart, which have `max_outstanding`, each holds over HTTP/1.1 at worst an unread head of
            // 32 KiB, and a small answer (360 MiB in all) or events (`MAX_HEAD_READ` and a part of 17 KB: 800 MB in all). Over
            // HTTP/2 it is 250 streams of 3 KB, each with an unread answer of up to 4 KB, and a window of unread bodies: 2 MB,
            // or 20 GB if every client is out for it. They carry 2.5 million waits. A stream of events that is read no faster
            // than it must be holds `HTTP2_SEND_BUFFER` and two parts, 100 KB. Each has a place among the waiters: 20 GB for
            // all 200 000, or 25 MB for one connection.
            max_connections: 10_000,
            // What proxies in front allow by default.
            max_head: 16 * 1024,
            // Five times the longest list of devices.
            max_body: 1024 * 1024,
            // 60 of the longest answers.
            max_outstanding: 256 * 1024 * 1024,
            // An answer of about 4 MB.
            max_devices_per_request: 10_000,
            waits_per_credential: WAITS_PER_CREDENTIAL,
        }
    }
}

/// [`ApiConfig::waits_per_credential`] unless the configuration says otherwise: as many as may wait in all, so that a single
/// client of everything is not held up by it.
pub const WAITS_PER_CREDENTIAL: usize = 200_000;
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

/// What the endpoints need: shared by all listeners.
#[derive(Debug)]
pub struct Api {
    table: Arc<RouteTable>,
    waiters: Arc<Waiters>,
    moves: Arc<MoveLog>,
    clock: Clock,
    waits: PacketWaits,
    streams: Arc<Streams>,
    census: Arc<Census>,
    access: Access,
    metrics: Metrics,
    config: ApiConfig,
}

impl Api {
    /// Puts the parts together. `waiters` are those that ingest wakes after it recorded in `table`, and `moves` is where it
    /// writes down which routes that moved.
    pub fn new(
        table: Arc<RouteTable>,
        waiters: Arc<Waiters>,
        moves: Arc<MoveLog>,
        clock: Clock,
        access: Access,
        ingest: Vec<IngestSource>,
        config: ApiConfig,
    ) -> Self {
        let waits = PacketWaits::new(Arc::clone(&table), Arc::clone(&waiters));
        let streams = Arc::new(Streams::new(waits.clone()));
        let census = Arc::new(Census::new(Arc::clone(&table), clock));
        let (for_metrics, counted) = (Arc::clone(&waiters), Arc::clone(&census));
        let metrics = Metrics::new(Arc::clone(&table), for_metrics, counted, ingest, clock.now());
        Self { table, waiters, moves, clock, waits, streams, census, access, metrics, config }
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
        let in_flight = peer.begin(request.version());
        let matched = self.router.resolve(request.method(), request.uri().path());
        let format = Format::accepted(request.headers());
        let (head, http2) = (request.method() == Method::HEAD, request.version() == Version::HTTP_2);
        let has_body = !request.body().is_end_stream();
        let answer = match self.admit(&matched, &request) {
            Ok((caller, endpoint)) => {
                let (api, shutdown, begun) = (&self.api, self.shutdown.clone(), Instant::now());
                let call = Call { api, room: &self.room, caller, peer: &peer, http2, head, shutdown, format, begun };
                unwound(pin!(call.answer(endpoint, Box::new(request)))).await
            }
            Err(error) => Err(error),
        };
        if has_body && answer.is_err() {
            peer.refuse_body();
        }
        let with_room = answer.and_then(|reply| self.with_room(reply));
        let (mut reply, room) = with_room.unwrap_or_else(|error| (refusal(&error, format, http2), None));
        self.api.metrics.request(matched.template, reply.status());
        finish(&mut reply, head);
        Ok(reply.map(|body| Outgoing::new(body, room, in_flight, http2)))
    }

    fn with_room(&self, reply: Reply) -> Result<(Reply, Option<Taken>), ApiError> {
        let room = self.room.take_for_answer(reply.body().len().unwrap_or(0)).ok_or(ApiError::NoRoom)?;
        Ok((reply, room))
    }

    /// Who asks what, if that is all right so far.
    fn admit(&self, matched: &Matched, request: &Request<Incoming>) -> Result<(Caller<'_>, Endpoint), ApiError> {
        let (len, max) = (head_len(request), self.api.config.max_head);
        if len > max {
            return Err(ApiError::HeadTooLarge { len, max });
        }
        let caller = if self.open || matched.open {
            Caller::anyone()
        } else {
            self.api.access.admit(request.headers()).ok_or(ApiError::Unauthorized)?
        };
        Ok((caller, matched.endpoint?))
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::table::TableConfig;
    use crate::waiters::WaitersConfig;

    #[test]
    fn a_request_that_waits_takes_little() {
        fn size<F: Future>(_: impl Fn(Arc<Surface>, Arc<Peer>, Request<Incoming>) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(Surface::respond);
        assert!(size <= 2048, "{size} bytes, of 3 KB that a wait over HTTP/2 may take in all");
    }

    fn surface(shutting_down: bool) -> Arc<Surface> {
        let table = Arc::new(RouteTable::new(&TableConfig::default()));
        let waiters = Arc::new(Waiters::new(&WaitersConfig::default()));
        let config = ApiConfig::default();
        let api =
            Arc::new(Api::new(table, waiters, Arc::default(), Clock::default(), Access::open(), Vec::new(), config));
        let (_, shutdown) = watch::channel(shutting_down);
        Arc::new(Surface::new(Router::new(), false, api, shutdown))
    }

    #[tokio::test]
    async fn a_connection_that_outlives_the_start_of_a_shutdown_is_told_so() {
        let wait = "/device/deviceId/0000000000000001/waitForPacket";
        for (path, accept, shutting_down, expected) in [
            ("/readyz", "*/*", false, "HTTP/1.1 200 OK\r\n"),
            ("/readyz", "*/*", true, "HTTP/1.1 503 Service Unavailable\r\n"),
            ("/health", "*/*", true, "HTTP/1.1 200 OK\r\n"),
            (wait, "*/*", true, "HTTP/1.1 503 Service Unavailable\r\n"),
            (wait, "text/event-stream", true, "HTTP/1.1 503 Service Unavailable\r\n"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let graceful = GracefulShutdown::new();
            let (surface, peer, builders) = (surface(shutting_down), Peer::new(stream), Builders::new());
            let connection = surface.exchange(&peer, builders.of(Preface::Http1), graceful.watcher());
            let exchange = async {
                let request =
                    format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
                client.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                answer
            };
            let (served, answer) = tokio::join!(connection, exchange);
            served.unwrap();
            assert!(answer.starts_with(expected), "{path} {answer}");
        }
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_an_internal_failure() {
        let panics = async {
            tokio::task::yield_now().await;
            assert!(std::hint::black_box(false), "as intended");
            Ok(())
        };
        assert_eq!(unwound(pin!(panics)).await, Err(ApiError::Internal));
        assert_eq!(unwound(pin!(async { Ok(7) })).await, Ok(7));
    }
}
