//! The API as a whole, without ingest.

use futures_util::FutureExt;
use hyper::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::call::Call;
use super::router::Needs;
use super::wanted::{Kind, WaitQuery};

use super::*;
use crate::auth::keys::KeyPair;
use crate::auth::nonce::OwnNonces;
use crate::downlink::Downlinks;
use crate::downlink::channel::{EventReceiver, channel};
use crate::downlink::outbox::OutboxConfig;
use crate::id::DeviceId;
use crate::ingest::Posts;
use crate::registry::Live;
use crate::table::TableConfig;
use crate::waiters::WaitersConfig;

/// A dispatch that nothing comes of: nobody does its work.
async fn dispatch(registry: &Registry, live: &Live, events: EventReceiver, clock: Clock) -> Dispatch {
    let parts = crate::dispatch::Parts {
        registry: registry.clone(),
        table: Arc::clone(&live.table),
        downlinks: Arc::clone(&live.downlinks),
        posts: Posts::to_threads(1).0,
        keys: Arc::clone(&live.keys),
        cloud_keys: live.cloud_keys.clone(),
        nonces: Arc::new(OwnNonces::new(&live.cloud_keys, clock.now())),
        events,
        clock,
        config: crate::dispatch::DispatchConfig::default(),
    };
    Dispatch::open(parts).await.unwrap().0
}

/// An API without ingest that everybody may use. It goes on without the directory of its registry.
pub(super) async fn api() -> Arc<Api> {
    let directory = tempfile::tempdir().unwrap();
    let table = Arc::new(RouteTable::new(&TableConfig::default()));
    let waiters = Arc::new(Waiters::new(&WaitersConfig::default()));
    let (events, received) = channel();
    let live = Live {
        keys: Arc::default(),
        table: Arc::clone(&table),
        waiters: Arc::clone(&waiters),
        downlinks: Arc::new(Downlinks::new(OutboxConfig::default(), events)),
        cloud_keys: KeyPair::from_private([7; 32]),
        configured: Arc::default(),
    };
    let clock = Clock::default();
    let (keys, cloud_keys) = (Arc::clone(&live.keys), live.cloud_keys.clone());
    let registry = Registry::open(directory.path(), live.clone(), clock.clone()).await.unwrap();
    Arc::new(Api::new(Parts {
        table,
        waiters,
        moves: Arc::default(),
        traces: Arc::default(),
        downlinks: Arc::clone(&live.downlinks),
        policy: RoutePolicy::default(),
        dispatch: dispatch(&registry, &live, received, clock.clone()).await,
        registry,
        definitions: Arc::default(),
        keys,
        cloud_keys,
        clock,
        health: Arc::default(),
        access: Access::open(),
        ingest: Vec::new(),
        records: Arc::default(),
        config: ApiConfig::default(),
    }))
}

async fn surface(shutting_down: bool) -> (watch::Sender<bool>, Arc<Surface>) {
    let (shut_down, shutdown) = watch::channel(shutting_down);
    (shut_down, Arc::new(Surface::new(Router::new(), false, api().await, shutdown)))
}

#[tokio::test]
async fn a_wait_for_a_device_takes_little() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let peer = Peer::new(listener.accept().await.unwrap().0);
    let request = Request::new(String::new());
    let (_shut_down, surface) = surface(false).await;
    let call = Call::new(surface, &peer, UNMATCHED, Needs::Read, &request);
    let wait = call.wait_for_packet(DeviceId(1), (WaitQuery::parse(""), Kind::Answer));
    assert!(size_of_val(&*wait) <= 720, "{}", size_of_val(&*wait));
    assert!(wait.now_or_never().is_none(), "it waits");
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
        let (_shut_down, surface) = surface(shutting_down).await;
        let (peer, builders) = (Peer::new(stream), Builders::new());
        let connection = surface.exchange(&peer, &builders, Preface::Http1, graceful.watcher());
        let exchange = async {
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
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
async fn a_request_that_cannot_be_routed_fails_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (graceful, builders) = (GracefulShutdown::new(), Builders::new());
    let (_shut_down, shutdown) = watch::channel(false);
    let surface = Arc::new(Surface::new(Router::that_panics(), false, api().await, shutdown));
    let connection = surface.exchange(&Peer::new(stream), &builders, Preface::Http1, graceful.watcher());
    let exchange = async {
        let head = "HTTP/1.1\r\nhost: 127.0.0.1\r\n";
        let requests = format!("GET /panic {head}\r\nGET /health {head}connection: close\r\n\r\n");
        client.write_all(requests.as_bytes()).await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        answers
    };
    let (served, answers) = tokio::join!(connection, exchange);
    served.unwrap();
    let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["500", "200"], "{answers}");
}
