//! A gateway on free ports, devices that speak to it over real sockets, and an HTTP client.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lastroute::app::App;
use lastroute::auth::keys::{Interface, RootKey};
use lastroute::auth::{open_with, seal_with};
use lastroute::clock::Clock;
use lastroute::config::{Config, Flags};
use lastroute::dispatch::Dispatch;
use lastroute::id::{DeviceId, KeyId};
use lastroute::metrics::Tally;
use lastroute::wire::frame::{Flags as FrameFlags, Frame, Header, Layout, PacketType};
use serde_json::Value;
use tokio::net::UdpSocket;

pub(crate) const NETWORK: KeyId = KeyId::from_le_bytes([0x17, 0x0a, 0]);

/// Longer than anything here takes, so that what never comes fails the test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const NETWORK_KEY: [u8; 32] = [0x42; 32];

pub(crate) struct Gateway {
    app: Option<App>,
    pub(crate) udp: Vec<SocketAddr>,
    pub(crate) http: SocketAddr,
    flags: Flags,
    _data: tempfile::TempDir,
}

impl Gateway {
    /// A gateway that knows one network, with `more` settings in its configuration file.
    pub(crate) fn start(more: &str) -> Self {
        let key = base64::engine::general_purpose::STANDARD.encode(NETWORK_KEY);
        Self::start_with(more, "[[network]]\nid = \"000a17\"\nkey-file = \"network.key\"\n", &key, 0)
    }

    /// A gateway with the networks and devices of `tables`, `network_key` in the file network.key, and its clock moved by
    /// `offset` seconds. It listens on free ports of loopback unless `more` says otherwise.
    pub(crate) fn start_with(more: &str, tables: &str, network_key: &str, offset: i64) -> Self {
        Self::start_changed(more, tables, network_key, offset, |_| {})
    }

    /// As [`Self::start`], with this clock.
    pub(crate) fn start_at(clock: Clock) -> Self {
        let key = base64::engine::general_purpose::STANDARD.encode(NETWORK_KEY);
        let network = "[[network]]\nid = \"000a17\"\nkey-file = \"network.key\"\n";
        Self::start_changed("", network, &key, 0, |config| config.clock = clock)
    }

    fn start_changed(
        more: &str,
        tables: &str,
        network_key: &str,
        offset: i64,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("network.key"), network_key).unwrap();
        let udp = if more.contains("udp-listen") { "" } else { "udp-listen = \"127.0.0.1:0\"\n" };
        let http = if more.contains("http-listen") { "" } else { "http-listen = \"127.0.0.1:0\"\n" };
        let text = format!("{udp}{http}data-dir = \"data\"\n{more}\n{tables}");
        let file = data.path().join("lastroute.toml");
        std::fs::write(&file, text).unwrap();
        let config = Some(file.to_str().unwrap().to_owned());
        let flags = Flags { config, clock_offset: offset, ..Flags::default() };
        let mut config = Config::load(&flags, []).unwrap();
        change(&mut config);
        let app = App::start(config).unwrap();
        Self { udp: app.udp().to_vec(), http: app.http(), app: Some(app), flags, _data: data }
    }

    /// Stops it, as SIGTERM does, and starts it again with the same data, on other ports.
    pub(crate) async fn restart(&mut self) {
        let app = self.app.take().unwrap();
        tokio::task::spawn_blocking(move || app.stop()).await.unwrap();
        let app = App::start(Config::load(&self.flags, []).unwrap()).unwrap();
        (self.udp, self.http) = (app.udp().to_vec(), app.http());
        self.app = Some(app);
    }

    /// Messages to its devices.
    pub(crate) fn dispatch(&self) -> &Dispatch {
        self.app.as_ref().unwrap().dispatch()
    }

    /// What its ingest threads have counted.
    pub(crate) fn counted(&self) -> Tally {
        self.app.as_ref().unwrap().counted()
    }

    /// Stops it, as SIGTERM does.
    pub(crate) async fn stop(mut self) {
        let app = self.app.take().unwrap();
        tokio::task::spawn_blocking(move || app.stop()).await.unwrap();
    }
}

/// A device with a socket of its own.
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    socket: UdpSocket,
    clock: Clock,
    sequence: u16,
}

impl Device {
    pub(crate) async fn new(id: u64, gateway: &Gateway) -> Self {
        Self::towards(gateway.udp[0], id).await
    }

    /// One that speaks to a gateway at this address.
    pub(crate) async fn towards(gateway: SocketAddr, id: u64) -> Self {
        Self { id: DeviceId(id), socket: connected(gateway).await, clock: Clock::default(), sequence: 0 }
    }

    /// Goes on from another port, and speaks to and hears from `gateway` only.
    pub(crate) async fn rebind(&mut self, gateway: SocketAddr) {
        self.socket = connected(gateway).await;
    }

    /// Has this clock.
    pub(crate) fn at(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// So many milliseconds go by for it.
    pub(crate) fn pass(&self, milliseconds: i64) {
        self.clock.set_system(milliseconds);
    }

    /// Has sent as many packets already.
    pub(crate) fn skip(&mut self, packets: u16) {
        self.sequence += packets;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Sends an empty TDF at network level; returns its sequence.
    pub(crate) async fn report(&mut self, flags: u16) -> u16 {
        self.say(PacketType::TDF, flags, &[]).await
    }

    /// Sends a packet at network level; returns its sequence.
    pub(crate) async fn say(&mut self, packet_type: PacketType, flags: u16, payload: &[u8]) -> u16 {
        self.sequence += 1;
        let header = Header {
            packet_type,
            flags: FrameFlags(flags),
            key_id: NETWORK,
            device_id: self.id,
            gps_time: self.clock.now().gps(),
            sequence: self.sequence,
            entropy: self.sequence,
        };
        let key = RootKey::new(NETWORK_KEY).day_key(Interface::Udp, header.rotation());
        let mut bytes = Vec::new();
        seal_with(&key, &header, Layout::Unversioned, payload, &mut bytes);
        self.send(&bytes).await;
        self.sequence
    }

    pub(crate) async fn send(&self, bytes: &[u8]) {
        self.socket.send(bytes).await.unwrap();
    }

    /// How many downlinks have arrived and nobody received.
    pub(crate) fn arrived(&self) -> u64 {
        std::iter::repeat_with(|| self.socket.try_recv(&mut [0; 2048])).take_while(Result::is_ok).count() as u64
    }

    /// Whether no downlink has arrived.
    pub(crate) fn nothing_came(&self) -> bool {
        let error = self.socket.try_recv(&mut [0]).unwrap_err();
        error.kind() == std::io::ErrorKind::WouldBlock
    }

    /// Waits for a downlink.
    pub(crate) async fn receive_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 2048];
        let len = tokio::time::timeout(PATIENCE, self.socket.recv(&mut bytes)).await.expect("a downlink").unwrap();
        bytes.truncate(len);
        bytes
    }

    /// Waits for a downlink; returns its header and payload.
    pub(crate) async fn receive(&self) -> (Header, Vec<u8>) {
        let mut bytes = self.receive_bytes().await;
        let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
        let key = RootKey::new(NETWORK_KEY).day_key(Interface::Udp, frame.header().rotation());
        let opened = open_with(&key, frame).expect("sealed by the network key");
        (*opened.header(), opened.payload().to_vec())
    }
}

async fn connected(gateway: SocketAddr) -> UdpSocket {
    // Loopback takes what is sent to all its addresses, so a gateway that listens everywhere is met there.
    let any: SocketAddr = if gateway.is_ipv4() { ([127, 0, 0, 1], 0).into() } else { (Ipv6Addr::LOCALHOST, 0).into() };
    let socket = UdpSocket::bind(any).await.unwrap();
    let ip = if gateway.ip().is_unspecified() { any.ip() } else { gateway.ip() };
    socket.connect((ip, gateway.port())).await.unwrap();
    socket
}

/// Asks until it is so.
pub(crate) async fn eventually(mut so: impl AsyncFnMut() -> bool) {
    let asking = async { while !so().await {} };
    tokio::time::timeout(PATIENCE, asking).await.expect("it to come true");
}

/// An HTTP client of one gateway.
#[derive(Clone)]
pub(crate) struct Client {
    hyper: HyperClient<HttpConnector, Full<Bytes>>,
    base: String,
}

/// An answer with its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) fn http1(gateway: &Gateway) -> Self {
        Self::new(gateway, false)
    }

    /// HTTP/2 without TLS: all requests share one connection.
    pub(crate) fn h2c(gateway: &Gateway) -> Self {
        Self::new(gateway, true)
    }

    fn new(gateway: &Gateway, h2c: bool) -> Self {
        let hyper = HyperClient::builder(TokioExecutor::new()).http2_only(h2c).build_http();
        Self { hyper, base: format!("http://{}", gateway.http) }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(format!("{}{path}", self.base)).body(Full::default()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = Request::post(format!("{}{path}", self.base)).header("content-type", "application/json");
        self.send(request.body(Full::from(body.to_string())).unwrap()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(format!("{}{path}", self.base)).body(Full::default()).unwrap()).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let answer = async {
            let response = self.hyper.request(request).await.unwrap();
            let (head, body) = response.into_parts();
            Answer { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
        };
        tokio::time::timeout(PATIENCE * 2, answer).await.expect("an answer")
    }

    /// Follows a device, from the last event that arrived if there is one.
    pub(crate) async fn follow(&self, id: DeviceId, last_event_id: Option<&str>) -> Events {
        let uri = format!("{}/device/deviceId/{id}/waitForPacket", self.base);
        let mut request = Request::get(uri).header("accept", "text/event-stream");
        if let Some(last_event_id) = last_event_id {
            request = request.header("last-event-id", last_event_id);
        }
        let response = self.hyper.request(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(
            (response.status(), response.headers()["content-type"].as_bytes()),
            (StatusCode::OK, &b"text/event-stream"[..])
        );
        let mut events = Events { body: response.into_body(), text: String::new(), last_id: None };
        assert!(events.next().await.is_some(), "it begins with an id");
        events
    }

    /// The position of a device's last packet, heard or not.
    pub(crate) async fn cursor(&self, id: DeviceId) -> String {
        let answer = self.get(&format!("/device/deviceId/{id}/waitForPacket?timeoutMs=0")).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
        answer.header("lastroute-cursor").to_owned()
    }

    /// The value of the sample of the metrics whose line begins so.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(self.get("/metrics").await.body.to_vec()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        value.trim().parse().unwrap()
    }

    /// Waits for a packet after `after`, and gives the answer's body.
    pub(crate) async fn wait(&self, id: DeviceId, after: &str) -> Value {
        let timeout = PATIENCE.as_millis();
        let path = format!("/device/deviceId/{id}/waitForPacket?timeoutMs={timeout}&after={after}");
        let answer = self.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    }
}

/// A stream of events.
pub(crate) struct Events {
    body: Incoming,
    text: String,
    pub(crate) last_id: Option<String>,
}

impl Events {
    /// The next block that is no comment, as the values of its fields; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<HashMap<String, String>> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let fields = block.split('\n').map(|line| line.split_once(": ").unwrap());
                let mut fields: HashMap<_, _> = fields.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
                self.text = rest.to_owned();
                self.last_id = fields.get("id").cloned().or(self.last_id.take());
                if fields.remove("").is_none() {
                    return Some(fields);
                }
            } else {
                let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("in time")?;
                self.text += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
            }
        }
    }

    /// Name and data of the next event.
    pub(crate) async fn event(&mut self) -> (String, Value) {
        let block = self.next().await.expect("it goes on");
        (block["event"].clone(), serde_json::from_str(&block["data"]).unwrap())
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}
