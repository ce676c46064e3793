//! A server on a port of its own, two clients, and packets for the table.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lastroute::api::access::Access;
use lastroute::api::metrics_text::IngestSource;
use lastroute::api::{Api, ApiConfig, Parts, serve, serve_metrics};
use lastroute::auth::keys::{Interface, KeyPair, KeyRing, RootKey};
use lastroute::auth::nonce::OwnNonces;
use lastroute::auth::{open_with, seal_with};
use lastroute::clock::{Clock, Timestamp};
use lastroute::dispatch::{self, Dispatch, DispatchConfig};
use lastroute::downlink::Downlinks;
use lastroute::downlink::channel::channel;
use lastroute::downlink::outbox::OutboxConfig;
use lastroute::health::Health;
use lastroute::id::{DeviceId, KeyId};
use lastroute::ingest::Posts;
use lastroute::ingest::moves::MoveLog;
use lastroute::ingest::posts::Mailbox;
use lastroute::metrics::Counters;
use lastroute::registry::{Live, Registry};
use lastroute::table::route::{Outcome, Path};
use lastroute::table::{Packet, RoutePolicy, RouteTable, TableConfig};
use lastroute::waiters::{Waiters, WaitersConfig};
use lastroute::wire::frame::{Flags, Frame, Header, Layout, PacketType};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const DEVICE: DeviceId = DeviceId(0xd291_d4d6_6bf0_a955);
pub(crate) const LAST_ROUTE: &str = "/device/deviceId/d291d4d66bf0a955/lastRoute";
pub(crate) const STATE: &str = "/device/deviceId/d291d4d66bf0a955/state";
pub(crate) const WAIT: &str = "/device/deviceId/d291d4d66bf0a955/waitForPacket";
const NETWORK: KeyId = KeyId::from_le_bytes([7, 0, 0]);
const NETWORK_ROOT: [u8; 32] = [1; 32];
/// The private half of the gateway's own key pair.
pub(crate) const CLOUD_PRIVATE: [u8; 32] = [7; 32];
/// 2026-11-23T03:00:00.123Z
pub(crate) const AT: Timestamp = Timestamp(1_795_402_800_123);
/// Longer than anything here takes on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a test may change before the server starts.
pub(crate) struct Setup {
    pub(crate) config: ApiConfig,
    pub(crate) table: TableConfig,
    pub(crate) waiters: WaitersConfig,
    pub(crate) access: Access,
    pub(crate) drain: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: ApiConfig::default(),
            table: TableConfig { epoch: 7, shards: 4, ..TableConfig::default() },
            waiters: WaitersConfig::default(),
            access: Access::open(),
            drain: PATIENCE,
        }
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) metrics_address: SocketAddr,
    pub(crate) table: Arc<RouteTable>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) moves: Arc<MoveLog>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) health: Arc<Health>,
    pub(crate) registry: Registry,
    pub(crate) keys: Arc<KeyRing>,
    /// What waits for devices, as ingest has it.
    pub(crate) downlinks: Arc<Downlinks>,
    /// The way to a socket that nobody reads.
    _mailboxes: Vec<Mailbox>,
    /// That of the registry, which goes with the server.
    pub(crate) directory: TempDir,
    pub(crate) shutdown: watch::Sender<bool>,
    pub(crate) serving: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(setup: Setup) -> Self {
        let table = Arc::new(RouteTable::new(&setup.table));
        let waiters = Arc::new(Waiters::new(&setup.waiters));
        let (moves, counters) = (Arc::new(MoveLog::default()), Arc::new(Counters::default()));
        let source = IngestSource {
            listen: "127.0.0.1:3001".parse().unwrap(),
            receive_buffer: 4096,
            counters: Arc::clone(&counters),
        };
        let directory = tempfile::tempdir().unwrap();
        let (clock, health) = (Clock::default(), Arc::new(Health::default()));
        let (events, received) = channel();
        let downlinks = Arc::new(Downlinks::new(OutboxConfig::default(), events));
        let live = Live {
            keys: Arc::default(),
            table: Arc::clone(&table),
            waiters: Arc::clone(&waiters),
            downlinks: Arc::clone(&downlinks),
            cloud_keys: KeyPair::from_private(CLOUD_PRIVATE),
            configured: Arc::default(),
        };
        live.keys.set_network(NETWORK, RootKey::new(NETWORK_ROOT));
        let (keys, cloud_keys) = (Arc::clone(&live.keys), live.cloud_keys.clone());
        let registry = Registry::open(directory.path(), live, clock.clone()).await.unwrap();
        let (posts, mailboxes) = Posts::to_threads(1);
        let parts = dispatch::Parts {
            registry: registry.clone(),
            table: Arc::clone(&table),
            downlinks: Arc::clone(&downlinks),
            posts,
            keys: Arc::clone(&keys),
            nonces: Arc::new(OwnNonces::new(&cloud_keys, clock.now())),
            cloud_keys: cloud_keys.clone(),
            events: received,
            clock: clock.clone(),
            config: DispatchConfig::default(),
        };
        let (dispatch, work) = Dispatch::open(parts).await.unwrap();
        tokio::spawn(work.run(std::future::pending()));
        let api = Arc::new(Api::new(Parts {
            table: Arc::clone(&table),
            waiters: Arc::clone(&waiters),
            moves: Arc::clone(&moves),
            traces: Arc::default(),
            downlinks: Arc::clone(&downlinks),
            policy: RoutePolicy::default(),
            registry: registry.clone(),
            dispatch,
            definitions: Arc::default(),
            keys: Arc::clone(&keys),
            cloud_keys,
            clock,
            health: Arc::clone(&health),
            access: setup.access,
            ingest: vec![source],
            records: Arc::default(),
            config: setup.config,
        }));
        let (shutdown, stop) = watch::channel(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, metrics_address) = (listener.local_addr().unwrap(), metrics_listener.local_addr().unwrap());
        let serving = tokio::spawn(serve(listener, Arc::clone(&api), stop.clone(), setup.drain));
        tokio::spawn(serve_metrics(metrics_listener, api, stop, setup.drain));
        Self {
            address,
            metrics_address,
            table,
            waiters,
            moves,
            counters,
            health,
            registry,
            keys,
            downlinks,
            _mailboxes: mailboxes,
            directory,
            shutdown,
            serving,
        }
    }

    /// A packet of `id` as ingest takes it in.
    pub(crate) fn report(&self, id: DeviceId, sequence: u16) {
        self.report_by(id, sequence, &Path::Direct("203.0.113.7:6200".parse().unwrap()));
    }

    /// The same, come by another way.
    pub(crate) fn report_by(&self, id: DeviceId, sequence: u16, path: &Path) {
        let header = Header {
            packet_type: PacketType::TDF,
            flags: Flags(Flags::ALWAYS_RX),
            key_id: NETWORK,
            device_id: id,
            gps_time: AT.gps(),
            sequence,
            entropy: 4,
        };
        let key = RootKey::new(NETWORK_ROOT).day_key(Interface::Udp, header.rotation());
        let mut bytes = Vec::new();
        seal_with(&key, &header, Layout::Unversioned, &[], &mut bytes);
        let verified = open_with(&key, Frame::parse(&mut bytes, Layout::Unversioned).unwrap()).unwrap();
        let network = self.keys.network(NETWORK).unwrap().number;
        let packet = Packet { network, ..Packet::new(&verified, path, AT) };
        let Outcome::Counted(counted) = self.table.record(&packet) else { return };
        let organisation = || self.table.registration(id).map(|registration| registration.organisation);
        self.waiters.heard(id, counted.cursor, organisation);
    }

    /// Until as many wait.
    pub(crate) async fn waiting(&self, count: usize) {
        until(|| self.waiters.waiting() == count).await;
    }

    pub(crate) async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    pub(crate) async fn connect_http2(&self) -> http2::SendRequest<Full<Bytes>> {
        self.connect_http2_with_socket().await.0
    }

    /// A client that reads no more than `window` bytes of an answer ahead.
    pub(crate) async fn connect_http2_with_window(&self, window: u32) -> http2::SendRequest<Full<Bytes>> {
        let io = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.initial_stream_window_size(window).handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Also gives the socket, to break the connection with.
    pub(crate) async fn connect_http2_with_socket(&self) -> (http2::SendRequest<Full<Bytes>>, std::net::TcpStream) {
        let stream = TcpStream::connect(self.address).await.unwrap().into_std().unwrap();
        let socket = stream.try_clone().unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        (sender, socket)
    }

    /// One request over HTTP/1.1 on a connection of its own.
    pub(crate) async fn get(&self, path: &str, headers: &str) -> Answer {
        self.connect().await.request("GET", path, headers, b"").await
    }

    /// One request with a body in JSON.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let bytes = serde_json::to_vec(body).unwrap();
        self.connect().await.request(method, path, "content-type: application/json\r\n", &bytes).await
    }

    /// The record that a request to make one is answered with.
    pub(crate) async fn create(&self, path: &str, body: &Value) -> Value {
        let answer = self.send("POST", path, body).await;
        assert_eq!(answer.status, 201, "{body} {answer:?}");
        answer.json()
    }

    /// What a request to read is answered with.
    pub(crate) async fn read(&self, path: &str) -> Value {
        let answer = self.get(path, "").await;
        assert_eq!(answer.status, 200, "{path} {answer:?}");
        answer.json()
    }

    /// A request to delete, which is answered with nothing.
    pub(crate) async fn delete(&self, path: &str) {
        let answer = self.connect().await.request("DELETE", path, "", b"").await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{path} {answer:?}");
    }

    /// That a request to delete is refused.
    pub(crate) async fn keeps(&self, path: &str, status: u16, words: &str) {
        self.connect().await.request("DELETE", path, "", b"").await.is_error(status, words);
    }

    pub(crate) async fn post(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.connect().await.request("POST", path, headers, body).await
    }
}

/// That a record has these values and no `null` anywhere.
pub(crate) fn has(record: &Value, names: &[&str]) {
    for name in names {
        assert!(record.get(name).is_some(), "no {name} in {record}");
    }
    assert!(!record.to_string().contains("null"), "{record}");
}

/// The ids of records, or whatever is called `name` in them.
pub(crate) fn each(records: &Value, name: &str) -> Vec<String> {
    let text = |record: &Value| record[name].as_str().unwrap().to_owned();
    records.as_array().unwrap().iter().map(text).collect()
}

/// How many waits ended in this way.
pub(crate) async fn ended(server: &Server, outcome: &str) -> u64 {
    metric(server, &format!("lastroute_waits_total{{outcome=\"{outcome}\"}} ")).await
}

/// The value of the sample whose line begins so.
pub(crate) async fn metric(server: &Server, name: &str) -> u64 {
    let text = String::from_utf8(server.get("/metrics", "").await.body).unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)).expect(name).parse().unwrap()
}

/// Until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.expect("in time");
}

/// An HTTP/1.1 connection, byte by byte.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn send_head(&mut self, method: &str, path: &str, headers: &str) {
        self.send(format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n").as_bytes()).await;
    }

    /// `headers` are whole lines.
    pub(crate) async fn request(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        self.send_head(method, path, &format!("{headers}{length}")).await;
        self.send(body).await;
        self.answer(method == "HEAD").await
    }

    pub(crate) async fn answer(&mut self, head: bool) -> Answer {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(timeout(PATIENCE, self.0.read_u8()).await.expect("in time").expect("an answer"));
        }
        let text = String::from_utf8(bytes).unwrap();
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned()));
        let mut answer = Answer { status, headers: headers.collect(), body: Vec::new() };
        if !head {
            let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
            answer.body = vec![0; length];
            timeout(PATIENCE, self.0.read_exact(&mut answer.body)).await.expect("in time").unwrap();
        }
        answer
    }

    /// Whether the server ends the connection, having sent nothing more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let read = timeout(PATIENCE, self.0.read_u8()).await.expect("in time");
        read.is_err()
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn message_pack(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/msgpack"), "{self:?}");
        rmp_serde::from_slice(&self.body).unwrap()
    }

    /// That this is an error of this status, with a sentence that contains `words`.
    pub(crate) fn is_error(&self, status: u16, words: &str) {
        let body = self.json();
        assert_eq!((self.status, &body["code"]), (status, &Value::from(status)), "{body}");
        assert!(body["message"].as_str().unwrap().contains(words), "{body}");
    }
}

/// One request over HTTP/2.
pub(crate) async fn request_http2(sender: &mut http2::SendRequest<Full<Bytes>>, method: &str, path: &str) -> Answer {
    let request =
        Request::builder().method(method).uri(format!("http://127.0.0.1{path}")).body(Full::default()).unwrap();
    answer_http2(timeout(PATIENCE, sender.send_request(request)).await.expect("in time").unwrap()).await
}

pub(crate) async fn answer_http2(response: Response<hyper::body::Incoming>) -> Answer {
    let status = response.status().as_u16();
    let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap().to_owned();
    let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let body = timeout(PATIENCE, response.into_body().collect()).await.expect("in time").unwrap();
    Answer { status, headers, body: body.to_bytes().to_vec() }
}
