//! The HTTP API: accept loop, limits, time-outs, drain. HTTP/1.1 and HTTP/2 without TLS on one port.
//!
//! A request passes [`router`], [`access`] and its handler; errors become answers in [`error`], bodies are those of
//! [`views`] in the form that [`mod@format`] finds. Nothing here touches a packet. No header that would let a browser
//! script of another origin read an answer is ever sent, and `origin` keeps such scripts from an open API altogether.

pub mod access;
mod boards;
mod call;
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
mod look_up;
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
mod together;
mod token_keys;
pub mod tokens;
mod transfer;
pub mod understand;
mod unregistered;
pub mod views;
mod waiting;
mod wanted;

use std::error::Error;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryFutureExt;
use futures_util::future::BoxFuture;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

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
use access::Access;
use census::Census;
use connection::{Guarded, Peer, Preface};
use error::ApiError;
use format::Format;
use metrics_text::{IngestSource, Metrics};
use outgoing::Room;
use router::{Router, UNMATCHED};
use together::Together;

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
        if let Err(error) = self.exchange(&peer, &builders, preface, watcher).await {
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

    /// All requests of a connection. Boxed, so that one over HTTP/1.1 keeps no room for what HTTP/2 needs.
    fn exchange<'b>(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        builders: &'b Builders,
        preface: Preface,
        watcher: Watcher,
    ) -> BoxFuture<'b, Result<(), Box<dyn Error + Send + Sync>>> {
        let io = TokioIo::new(Guarded::new(Arc::clone(peer), self.api.config.deadlines));
        let (surface, peer) = (Arc::clone(self), Arc::clone(peer));
        let service = service_fn(move |request| Arc::clone(&surface).respond(&peer, request));
        match preface {
            Preface::Http1 => Box::pin(watcher.watch(builders.http1.serve_connection(io, service)).err_into()),
            Preface::Http2 => Box::pin(watcher.watch(builders.http2.serve_connection(io, service)).err_into()),
            Preface::Open => Box::pin(watcher.watch(builders.either.serve_connection(io, service))),
        }
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
    http1: http1::Builder,
    http2: http2::Builder<Together>,
    /// Of one that has not said yet.
    either: auto::Builder<TokioExecutor>,
}

/// Applies to a builder of hyper, or to the same one inside another, what this gateway serves HTTP/1.1 with.
macro_rules! http1 {
    ($builder:expr) => {
        $builder
            // A client that closes its side still gets an answer; waits look after themselves.
            .half_close(true)
            // Kept by `Guarded`, which tells an idle connection from a slow request.
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD_READ)
    };
}

/// The same for HTTP/2.
macro_rules! http2 {
    ($builder:expr) => {
        $builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_header_list_size(MAX_HEAD_READ as u32)
            .initial_stream_window_size(HTTP2_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .max_send_buf_size(HTTP2_SEND_BUFFER)
            .max_pending_accept_reset_streams(HTTP2_RESETS)
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .keep_alive_timeout(HTTP2_PING_TIMEOUT)
    };
}

impl Builders {
    fn new() -> Self {
        let mut http1 = http1::Builder::new();
        http1!(http1);
        let mut http2 = http2::Builder::new(Together::default());
        http2!(http2);
        let mut either = auto::Builder::new(TokioExecutor::new());
        http1!(either.http1());
        http2!(either.http2());
        Self { http1, http2, either }
    }
}

/// Returns once `shutdown` is true or its sender is gone.
async fn shut_down(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|down| *down).await;
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection failed");
    }
}
