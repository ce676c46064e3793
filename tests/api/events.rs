//! Server-sent events: their text, going on after a break, how a stream ends, and clients that do not read.

use std::net::Shutdown;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lastroute::api::access::Access;
use lastroute::id::DeviceId;
use lastroute::table::Unregistered;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{advance, timeout};

use crate::harness::{AT, Client, DEVICE, PATIENCE, Server, Setup, WAIT, answer_http2, ended, metric};

const MANY: &str = "/device/waitForPacket";
const FIRST: &str = "0000000000000001";
const SECOND: &str = "0000000000000002";
const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(3600);

/// What a request asks for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) http2: bool,
    pub(crate) path: &'a str,
    /// A request with a body is a POST.
    pub(crate) body: &'a str,
    pub(crate) last_event_id: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
}

impl Ask<'_> {
    fn request(&self) -> Request<Full<Bytes>> {
        let method = if self.body.is_empty() { "GET" } else { "POST" };
        let mut request = Request::builder().method(method).uri(format!("http://127.0.0.1{}", self.path));
        request = request.header("host", "127.0.0.1").header("accept", "text/event-stream");
        for (name, value) in [("last-event-id", self.last_event_id), ("x-api-key", self.key)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.body(Full::from(self.body.to_owned())).unwrap()
    }

    /// The answer, over a connection of its own.
    pub(crate) async fn send(&self, server: &Server) -> Response<Incoming> {
        let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
        if self.http2 {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(self.request()).await.unwrap()
        } else {
            let (mut sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(self.request()).await.unwrap()
        }
    }

    pub(crate) async fn follow(&self, server: &Server) -> Events {
        let response = self.send(server).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Events { body: response.into_body(), text: String::new() }
    }
}

/// A stream as a client reads it.
pub(crate) struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    /// The lines of the next block; `None` at the end.
    pub(crate) async fn block(&mut self) -> Option<Vec<String>> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let lines = block.split('\n').map(str::to_owned).collect();
                self.text = rest.to_owned();
                return Some(lines);
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("in time")?;
            self.text += std::str::from_utf8(&frame.expect("an orderly end").into_data().unwrap()).unwrap();
        }
    }

    /// The id that the stream begins with.
    pub(crate) async fn start(&mut self) -> String {
        let block = self.block().await.unwrap();
        assert!(block.len() == 2 && block[1].starts_with("retry: "), "{block:?}");
        block[0].strip_prefix("id: ").unwrap().to_owned()
    }

    /// Name, id and data of the next event.
    pub(crate) async fn event(&mut self) -> (String, String, Value) {
        let block = self.block().await.unwrap();
        assert_eq!(block.len(), 3, "{block:?}");
        let line = |at: usize, name: &str| block[at].strip_prefix(name).unwrap().to_owned();
        (line(0, "event: "), line(1, "id: "), serde_json::from_str(&line(2, "data: ")).unwrap())
    }

    /// Name, device and sequence of the next event; a device that was never heard has none.
    pub(crate) async fn told(&mut self) -> (String, String, Option<u64>) {
        let (name, _, data) = self.event().await;
        (name, data["deviceId"].as_str().unwrap().to_owned(), data["packet"]["sequence"].as_u64())
    }
}

fn of(name: &str, device: &str, sequence: Option<u64>) -> (String, String, Option<u64>) {
    (name.to_owned(), device.to_owned(), sequence)
}

fn both(path: &str) -> [Ask<'_>; 2] {
    [false, true].map(|http2| Ask { http2, path, ..Ask::default() })
}

#[tokio::test]
async fn one_device_is_followed_in_either_version() {
    for ask in both(WAIT) {
        let server = Server::start(Setup::default()).await;
        let mut events = ask.follow(&server).await;
        let start = events.start().await;
        let stream = start.strip_suffix("-0").unwrap();
        for sequence in 1..4 {
            server.report(DEVICE, sequence);
            let (name, id, data) = events.event().await;
            assert_eq!((name.as_str(), id), ("packet", format!("{stream}-{sequence}")));
            let path = format!("{WAIT}?after={}-{}", server.table.cursor(DEVICE).epoch, sequence - 1);
            assert_eq!(data, server.get(&path, "").await.json(), "the same as the answer of a wait");
        }
        assert_eq!(metric(&server, "lastroute_streams ").await, 1);
        assert_eq!(metric(&server, "lastroute_stream_events_total{event=\"packet\"} ").await, 3);
        drop(events);
        server.waiting(0).await;
        assert_eq!((ended(&server, "abandoned").await, metric(&server, "lastroute_streams ").await), (1, 0));
    }
}

#[tokio::test]
async fn many_devices_are_followed_each_after_its_own_position() {
    let server = Server::start(Setup::default()).await;
    for sequence in 1..=3 {
        server.report(DeviceId(2), sequence);
    }
    let after = format!("{}-1", server.table.cursor(DeviceId(2)).epoch);
    let body = json!({"deviceIds": [FIRST, SECOND, FIRST], "after": {SECOND: after}, "mode": "all"}).to_string();
    for http2 in [false, true] {
        let mut events = Ask { http2, path: MANY, body: &body, ..Ask::default() }.follow(&server).await;
        events.start().await;
        let (name, _, data) = events.event().await;
        assert_eq!((name.as_str(), &data["missed"], &data["packet"]["sequence"]), ("packet", &json!(1), &json!(3)));
        server.waiting(2).await;
        let sequence = server.table.cursor(DeviceId(1)).n as u16 + 1;
        server.report(DeviceId(1), sequence);
        assert_eq!(events.told().await, of("packet", FIRST, Some(sequence.into())));
        drop(events);
        server.waiting(0).await;
    }
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_event_that_arrived() {
    let server = Server::start(Setup::default()).await;
    let mut events = Ask { path: WAIT, ..Ask::default() }.follow(&server).await;
    let start = events.start().await;
    server.report(DEVICE, 1);
    let (_, first, _) = events.event().await;
    server.report(DEVICE, 2);
    drop(events);
    server.waiting(0).await;
    server.report(DEVICE, 3);
    for (last_event_id, missed) in [(&first, 1), (&start, 2)] {
        let ask = Ask { path: WAIT, last_event_id: Some(last_event_id), ..Ask::default() };
        let mut events = ask.follow(&server).await;
        assert_ne!(&events.start().await, last_event_id);
        let (name, _, data) = events.event().await;
        assert_eq!((name.as_str(), &data["missed"]), ("packet", &json!(missed)), "{data}");
    }
    // Other devices begin as they would without.
    let body = json!({"deviceIds": [FIRST, DEVICE], "after": {FIRST: "1-1"}}).to_string();
    let ask = Ask { path: MANY, body: &body, last_event_id: Some(&first), ..Ask::default() };
    let mut events = ask.follow(&server).await;
    events.start().await;
    assert_eq!(events.told().await, of("reset", FIRST, None));
    assert_eq!(events.told().await, of("packet", "d291d4d66bf0a955", Some(3)));
}

#[tokio::test]
async fn a_stream_that_is_not_known_here_or_to_the_caller_is_reset_and_goes_on() {
    let (key, other) = (Some("ik_0123456789abcdef"), Some("ik_fedcba9876543210"));
    let access = Access::of_keys([key, other].map(Option::unwrap));
    let server = Server::start(Setup { access, ..Setup::default() }).await;
    server.report(DeviceId(1), 1);
    let body = json!({"deviceIds": [FIRST, SECOND]}).to_string();
    let ask = Ask { path: MANY, body: &body, key, ..Ask::default() };
    let mut events = ask.follow(&server).await;
    let start = events.start().await;
    let ahead = start.replace("-0", "-99");
    let known = Ask { last_event_id: Some(&start), ..ask };
    for ask in [
        Ask { key: other, ..known },
        Ask { last_event_id: Some(&ahead), ..ask },
        Ask { last_event_id: Some("1-0"), ..ask },
        Ask { last_event_id: Some("what is this"), ..ask },
        Ask { last_event_id: Some("1-0"), http2: true, ..ask },
    ] {
        let heard = Some(server.table.cursor(DeviceId(2)).n).filter(|heard| *heard > 0);
        let mut events = ask.follow(&server).await;
        events.start().await;
        assert_eq!(events.told().await, of("reset", FIRST, Some(1)), "{:?}", ask.last_event_id);
        assert_eq!(events.told().await, of("reset", SECOND, heard));
        let sequence = heard.unwrap_or(0) + 1;
        server.report(DeviceId(2), sequence as u16);
        assert_eq!(events.told().await, of("packet", SECOND, Some(sequence)));
    }
}

#[tokio::test]
async fn a_stream_ends_in_order_when_its_time_is_over() {
    let server = Server::start(Setup::default()).await;
    server.report(DEVICE, 1);
    for ask in both(&format!("{WAIT}?timeoutMs=0&after=1-1")) {
        let mut events = ask.follow(&server).await;
        events.start().await;
        assert_eq!(events.told().await, of("reset", "d291d4d66bf0a955", Some(1)));
        assert_eq!(events.block().await, None);
    }
    server.waiting(0).await;
    assert_eq!(ended(&server, "timeout").await, 2);
}

#[tokio::test]
async fn a_shutdown_ends_every_stream_in_order_and_at_once() {
    let server = Server::start(Setup { drain: LONG, ..Setup::default() }).await;
    let [first, second] = both(WAIT);
    let mut streams = [first.follow(&server).await, second.follow(&server).await];
    for events in &mut streams {
        events.start().await;
    }
    server.shutdown.send(true).unwrap();
    for events in &mut streams {
        assert_eq!(events.block().await, None);
    }
    timeout(PATIENCE, server.serving).await.expect("well before the end of the drain time").unwrap();
    assert_eq!(server.waiters.waiting(), 0);
}

#[tokio::test]
async fn what_is_wrong_with_a_stream_is_an_answer_and_its_bounds_are_those_of_waits() {
    let mut setup = Setup::default();
    setup.waiters.per_device = 1;
    setup.table.unregistered = Unregistered::Deny;
    let server = Server::start(setup).await;
    server.table.register(DEVICE, AT);
    server.table.register(DeviceId(1), AT);
    let mut first = Ask { path: WAIT, ..Ask::default() }.follow(&server).await;
    first.start().await;
    let both = json!({"deviceIds": [FIRST, DEVICE]}).to_string();
    let unregistered = json!({"deviceIds": [SECOND]}).to_string();
    for (path, body, status, words) in [
        (WAIT, "", 429, "device d291d4d66bf0a955: too many"),
        (MANY, both.as_str(), 429, "device d291d4d66bf0a955: too many"),
        (MANY, unregistered.as_str(), 404, "device 0000000000000002: device is not registered"),
        (MANY, "{}", 400, "either in deviceIds"),
        (&*format!("{WAIT}?timeoutMs=x"), "", 400, "timeoutMs"),
        (&*format!("{WAIT}?after={}-9", server.table.cursor(DEVICE).epoch), "", 400, "ahead"),
    ] {
        for http2 in [false, true] {
            let answer = Ask { path, body, http2, ..Ask::default() }.send(&server).await;
            answer_http2(answer).await.is_error(status, words);
        }
    }
    assert_eq!(server.waiters.waiting(), 1);
    assert_eq!(ended(&server, "refused").await, 12);
}

const ACCEPT: &str = "accept: text/event-stream\r\n";

#[tokio::test]
async fn who_asks_for_the_headers_only_follows_nothing_and_waits_for_nothing() {
    let mut setup = Setup::default();
    setup.waiters.per_device = 1;
    let server = Server::start(setup).await;
    let mut first = Ask { path: WAIT, ..Ask::default() }.follow(&server).await;
    first.start().await;
    let mut client = server.connect().await;
    let stream = client.request("HEAD", WAIT, ACCEPT, b"").await;
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("text/event-stream")), "needs no place");
    assert_eq!(stream.header("content-length"), None);
    assert_eq!(client.request("HEAD", &format!("{WAIT}?timeoutMs=x"), ACCEPT, b"").await.status, 400);
    let wait = client.request("HEAD", WAIT, "", b"").await;
    let present = server.table.cursor(DEVICE).to_string();
    assert_eq!((wait.status, wait.header("lastroute-cursor")), (204, Some(&*present)));
    for (outcome, count) in [("abandoned", 0), ("refused", 0), ("timeout", 1)] {
        assert_eq!(ended(&server, outcome).await, count, "{outcome}");
    }
}

#[tokio::test]
async fn a_client_that_closes_its_side_ends_its_stream() {
    let server = Server::start(Setup::default()).await;
    let mut client = server.connect().await;
    client.send_head("GET", WAIT, ACCEPT).await;
    server.waiting(1).await;
    socket2::SockRef::from(&client.0).shutdown(Shutdown::Write).unwrap();
    server.waiting(0).await;
    assert_eq!(client.answer(false).await.status, 200);
    assert_eq!(ended(&server, "abandoned").await, 1);
}

/// No deadline but that of a client that takes nothing.
fn patient(write: Duration) -> Setup {
    let mut setup = Setup::default();
    let deadlines = &mut setup.config.deadlines;
    (deadlines.first_byte, deadlines.head, deadlines.idle, deadlines.write) = (LONG, LONG, LONG, write);
    setup
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_events_is_not_cut_in_either_version() {
    // While it runs, time moves only as told.
    let (_hold, held) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || held.recv());
    let mut setup = patient(Duration::from_secs(5));
    setup.config.deadlines.idle = Duration::from_secs(5);
    let server = Server::start(setup).await;
    let mut streams = Vec::new();
    for ask in both(WAIT) {
        let mut events = ask.follow(&server).await;
        events.start().await;
        streams.push(events);
    }
    for second in 1..=100 {
        advance(Duration::from_secs(1)).await;
        if second % 15 == 0 {
            for events in &mut streams {
                assert_eq!(events.block().await, Some(vec![": waiting".to_owned()]), "{second}");
            }
        }
        // Pings and their answers have to travel as well.
        server.get("/health", "").await;
    }
    server.report(DEVICE, 1);
    for events in &mut streams {
        assert_eq!(events.told().await, of("packet", "d291d4d66bf0a955", Some(1)));
    }
}

#[tokio::test]
async fn an_http1_client_that_does_not_read_its_stream_is_cut_and_nothing_is_queued_for_it() {
    let server = Server::start(patient(SHORT)).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = Client(socket.connect(server.address).await.unwrap());
    client.send_head("GET", WAIT, ACCEPT).await;
    server.waiting(1).await;
    let speak = async {
        for sequence in 1..u16::MAX {
            server.report(DEVICE, sequence);
            tokio::task::yield_now().await;
            if server.waiters.waiting() == 0 {
                return u64::from(sequence);
            }
        }
        panic!("the buffers between take less");
    };
    let reported = timeout(PATIENCE, speak).await.expect("the connection is cut");
    let written = metric(&server, "lastroute_stream_events_total{event=\"packet\"} ").await;
    assert!(written < reported, "{written} of {reported}");
}

#[tokio::test]
async fn an_http2_client_that_takes_nothing_of_its_stream_is_cut() {
    for window in [0, 20] {
        let server = Server::start(patient(SHORT)).await;
        let mut client = server.connect_http2_with_window(window).await;
        let answer = client.send_request(Ask { path: WAIT, ..Ask::default() }.request()).await.unwrap();
        assert_eq!(answer.status(), 200);
        server.waiting(1).await;
        server.report(DEVICE, 1);
        let cut = async {
            // Answers without a body are not held up.
            let health = || Request::head("http://127.0.0.1/health").body(Full::default()).unwrap();
            while client.send_request(health()).await.is_ok() {}
        };
        timeout(PATIENCE, cut).await.expect("the connection is cut");
        server.waiting(0).await;
        let collected = answer.into_body().collect().await;
        assert!(collected.is_err(), "{collected:?}");
    }
}
