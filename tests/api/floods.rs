//! Clients that flood a connection of HTTP/2, with frames made by hand: each is told to go, or served, and takes no more room
//! than any other.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{PATIENCE, Server, WAIT, until};
use crate::limits::patient;

// Types of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
// Flags.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// A client that is told to go for what it does to others (RFC 9113, section 7).
const ENHANCE_YOUR_CALM: u32 = 11;

/// More frames than any client sends for a good reason.
const FLOOD: u32 = 20_000;
/// More than the buffers on the way hold: two of the kernel each way, and those of the server.
const BUFFERS: usize = 24 * 1024 * 1024;
/// Turns in which a server that reads would have read.
const TURNS: usize = 20;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The names and values of a request, none of them compressed (RFC 7541, section 6.2.2).
fn fields(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let own = [(":method", method), (":scheme", "http"), (":authority", "127.0.0.1"), (":path", path)];
    for (name, value) in own.iter().chain(more) {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "a length of one byte");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields("GET", path, &[]))
}

/// A connection of HTTP/2 by hand.
struct Connection(TcpStream);

impl Connection {
    async fn open(server: &Server, settings: &[u8]) -> Self {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
        Self(stream)
    }

    /// Sends as much of it as the server takes.
    async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.0.write_all(bytes)).await.expect("the server reads, or ends the connection");
    }

    /// The next frame: type, flags, stream and payload. `None` at the end of the connection.
    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        let read = async {
            self.0.read_exact(&mut head).await.ok()?;
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; len as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
        };
        timeout(PATIENCE, read).await.expect("in time")
    }

    /// The code with which the server says that it ends the connection.
    async fn is_told_to_go(&mut self) -> Option<u32> {
        while let Some((kind, _, _, payload)) = self.next().await {
            if kind == GOAWAY {
                return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        None
    }

    /// Until the head of the answer on a stream.
    async fn is_answered(&mut self, stream: u32) {
        loop {
            let (kind, _, on, _) = self.next().await.expect("an answer");
            assert_ne!(kind, GOAWAY);
            if (kind, on) == (HEADERS, stream) {
                return;
            }
        }
    }
}

/// Nobody else is harmed, and nothing is left of the requests.
async fn is_well(server: &Server) {
    assert_eq!(server.get("/health", "").await.status, 200);
    until(|| server.waiters.waiting() == 0).await;
}

#[tokio::test]
async fn requests_that_are_reset_at_once_end_the_connection() {
    let server = Server::start(patient()).await;
    let mut client = Connection::open(&server, &[]).await;
    let one = |n: u32| [get(2 * n + 1, WAIT), frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes())].concat();
    client.send(&(0..FLOOD).flat_map(one).collect::<Vec<_>>()).await;
    assert_eq!(client.is_told_to_go().await, Some(ENHANCE_YOUR_CALM));
    is_well(&server).await;
}

#[tokio::test]
async fn headers_without_end_end_the_connection() {
    let server = Server::start(patient()).await;
    let mut client = Connection::open(&server, &[]).await;
    client.send(&frame(HEADERS, END_STREAM, 1, &fields("GET", "/health", &[]))).await;
    let more = frame(CONTINUATION, 0, 1, &[b"\0\x06x-more\x40".as_slice(), &[b'x'; 64]].concat());
    client.send(&more.repeat(FLOOD as usize)).await;
    assert_eq!(client.is_told_to_go().await, Some(ENHANCE_YOUR_CALM));
    is_well(&server).await;
}

#[tokio::test]
async fn empty_parts_of_headers_without_end_end_the_connection() {
    let server = Server::start(patient()).await;
    let mut client = Connection::open(&server, &[]).await;
    client.send(&frame(HEADERS, END_STREAM, 1, &fields("GET", "/health", &[]))).await;
    client.send(&frame(CONTINUATION, 0, 1, &[]).repeat(FLOOD as usize)).await;
    assert_eq!(client.is_told_to_go().await, Some(ENHANCE_YOUR_CALM));
    is_well(&server).await;
}

/// What asks for an answer by the protocol itself: while the client takes none, the server reads no more. The answers to all that
/// it took come as the client takes them.
#[tokio::test]
async fn settings_and_pings_are_answered_no_faster_than_the_answers_are_taken() {
    let server = Server::start(patient()).await;
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let ping = frame(PING, 0, 0, &[7; 8]);
    for (flood, answer) in [(settings, frame(SETTINGS, ACK, 0, &[])), (ping, frame(PING, ACK, 0, &[7; 8]))] {
        let Connection(mut client) = Connection::open(&server, &[]).await;
        let taken = fill(&server, &client, &flood.repeat(FLOOD as usize)).await;
        let mut answers = vec![0; taken / flood.len() * answer.len()];
        timeout(PATIENCE, client.read_exact(&mut answers)).await.expect("in time").unwrap();
        assert!(answers.windows(answer.len()).any(|found| found == answer));
    }
    is_well(&server).await;
}

/// Writes `bytes` again and again until no more of it is taken, however often the server had a turn; gives how many were.
async fn fill(server: &Server, client: &TcpStream, bytes: &[u8]) -> usize {
    let (mut taken, mut turns) = (0, 0);
    while turns < TURNS {
        if let Ok(written) = client.try_write(&bytes[taken % bytes.len()..]) {
            (taken, turns) = (taken + written, 0);
            assert!(taken < BUFFERS, "more than the buffers on the way hold");
        } else {
            // The server and this test take turns on one thread.
            assert_eq!(server.get("/health", "").await.status, 200, "meanwhile");
            turns += 1;
        }
    }
    taken
}

#[tokio::test]
async fn a_list_of_headers_too_long_is_answered_431_and_the_connection_goes_on() {
    let server = Server::start(patient()).await;
    let mut client = Connection::open(&server, &[]).await;
    let value = "x".repeat(120);
    let more = vec![("x-more", value.as_str()); 300];
    let block = fields("GET", "/health", &more);
    let mut parts = block.chunks(16_000).peekable();
    client.send(&frame(HEADERS, END_STREAM, 1, parts.next().unwrap())).await;
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
        client.send(&frame(CONTINUATION, flags, 1, part)).await;
    }
    client.is_answered(1).await;
    client.send(&get(3, "/health")).await;
    client.is_answered(3).await;
    is_well(&server).await;
}

#[tokio::test]
async fn more_requests_at_once_than_are_taken_are_refused_one_by_one() {
    let server = Server::start(patient()).await;
    let mut client = Connection::open(&server, &[]).await;
    // The bound holds from the moment that the client has it.
    while client.next().await.expect("its settings").0 != SETTINGS {}
    client.send(&frame(SETTINGS, ACK, 0, &[])).await;
    let streams: Vec<u32> = (0..250).map(|n| 2 * n + 1).collect();
    client.send(&streams.iter().flat_map(|stream| get(*stream, WAIT)).collect::<Vec<_>>()).await;
    server.waiting(250).await;
    client.send(&get(501, WAIT)).await;
    loop {
        let (kind, _, stream, _) = client.next().await.expect("the connection goes on");
        if kind == RST_STREAM {
            assert_eq!(stream, 501);
            break;
        }
    }
    assert_eq!(server.waiters.waiting(), 250);
    drop(client);
    is_well(&server).await;
}

/// A window of nothing: what waits to be sent is bounded, others are served, and the answer comes as the window opens.
#[tokio::test]
async fn an_answer_that_may_not_be_sent_waits() {
    let server = Server::start(patient()).await;
    // SETTINGS_INITIAL_WINDOW_SIZE.
    let mut client = Connection::open(&server, &[0, 4, 0, 0, 0, 0]).await;
    client.send(&get(1, "/openapi.json")).await;
    client.is_answered(1).await;
    client.send(&[frame(HEADERS, END_STREAM | END_HEADERS, 3, &fields("HEAD", "/health", &[]))].concat()).await;
    client.is_answered(3).await;
    client.send(&frame(WINDOW_UPDATE, 0, 1, &100_u32.to_be_bytes())).await;
    loop {
        let (kind, _, stream, payload) = client.next().await.expect("the connection goes on");
        if kind == DATA {
            assert_eq!((stream, payload.len()), (1, 100));
            break;
        }
    }
    is_well(&server).await;
}

#[tokio::test]
async fn frames_that_are_none_end_the_connection() {
    let server = Server::start(patient()).await;
    for (name, bytes) in [
        ("longer than agreed", frame(DATA, 0, 1, &[0; 16_385])),
        ("of a stream that is not there", frame(DATA, 0, 5, b"x")),
        ("headers on the connection itself", frame(HEADERS, END_HEADERS, 0, &fields("GET", "/health", &[]))),
        ("of a stream of the server's", get(2, "/health")),
        ("a window beyond all", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        ("a part of no headers", frame(CONTINUATION, END_HEADERS, 1, b"")),
        ("headers that cannot be unpacked", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 20])),
        ("a ping of another size", frame(PING, 0, 0, b"x")),
    ] {
        let mut client = Connection::open(&server, &[]).await;
        client.send(&bytes).await;
        assert!(client.is_told_to_go().await.is_some_and(|code| code != 0), "{name}");
    }
    is_well(&server).await;
}
