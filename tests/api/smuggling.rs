//! Requests that two servers in a row may read differently: each is refused or read in one way, and what could be a request
//! within another one is never answered.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::harness::{PATIENCE, Server};
use crate::limits::patient;

/// What is hidden in the others. Nothing else is answered with [`READY`].
const HIDDEN: &str = "GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
const READY: &str = "\"ready\":";
/// The line and some headers of a request whose body is [`LIST`].
const POST: &str = "POST /device/lastRoute HTTP/1.1\r\nhost: 127.0.0.1\r\n";
/// 16 bytes.
const LIST: &str = "{\"deviceIds\":[]}";
const CHUNKS: &str = "10\r\n{\"deviceIds\":[]}\r\n0\r\n\r\n";
const GET: &str = "GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n";

/// What becomes of the connection after the answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// The server ends it, whatever the client still says.
    Closed,
    /// The server waits for the next request.
    Open,
}

use Then::{Closed, Open};

/// Sends `request` and gives the statuses of the answers, how many of them are to [`HIDDEN`], and what comes then.
async fn exchange(server: &Server, request: &[u8]) -> (Vec<u16>, usize, Then) {
    let mut stream = server.connect().await.0;
    stream.write_all(request).await.unwrap();
    // Something that nothing else is answered like, if it is read as the next request.
    let _ = stream.write_all(b"PATCH /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await;
    let _ = stream.shutdown().await;
    let mut read = Vec::new();
    // The answer comes before the reset that unread bytes cause, if there is one.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut read)).await.expect("the server ends the connection");
    let text = String::from_utf8(read).unwrap();
    let statuses = text.split("HTTP/1.").skip(1).map(|answer| answer[2..5].parse().unwrap());
    let mut statuses: Vec<u16> = statuses.filter(|status| *status != 100).collect();
    let then = if statuses.pop_if(|status| *status == 405).is_some() { Open } else { Closed };
    (statuses, text.matches(READY).count(), then)
}

/// That each request is answered with these statuses, and nothing within it by itself.
async fn all_are(cases: Vec<(&str, String, &[u16], Then)>) {
    let server = Server::start(patient()).await;
    let mut wrong = Vec::new();
    for (name, request, statuses, then) in cases {
        let found = exchange(&server, request.as_bytes()).await;
        if found != (statuses.to_vec(), 0, then) {
            wrong.push(format!("{name}: {found:?}, not {statuses:?} {then:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(server.get("/health", "").await.status, 200, "nobody else is harmed");
}

#[tokio::test]
async fn what_has_two_lengths_is_refused_or_the_last_of_its_connection() {
    let with = |headers: &str, body: &str| format!("{POST}{headers}\r\n{body}{HIDDEN}");
    all_are(vec![
        ("length, then chunks", with("content-length: 16\r\ntransfer-encoding: chunked\r\n", CHUNKS), &[200], Closed),
        ("chunks, then length", with("transfer-encoding: chunked\r\ncontent-length: 16\r\n", CHUNKS), &[200], Closed),
        ("no length and chunks", with("content-length: 0\r\ntransfer-encoding: chunked\r\n", CHUNKS), &[200], Closed),
        ("bad length and chunks", with("transfer-encoding: chunked\r\ncontent-length: x\r\n", CHUNKS), &[200], Closed),
        ("two lengths", with("content-length: 16\r\ncontent-length: 17\r\n", LIST), &[400], Closed),
        ("two lengths in one", with("content-length: 16, 17\r\n", LIST), &[400], Closed),
        ("one length twice in one", with("content-length: 16, 16\r\n", LIST), &[400], Closed),
        ("a sign", with("content-length: +16\r\n", LIST), &[400], Closed),
        ("less than nothing", with("content-length: -1\r\n", LIST), &[400], Closed),
        ("hex", with("content-length: 0x10\r\n", LIST), &[400], Closed),
        ("a gap", with("content-length: 1 6\r\n", LIST), &[400], Closed),
        ("no digits", with("content-length:\r\n", LIST), &[400], Closed),
        ("beyond 64 bits", with("content-length: 18446744073709551632\r\n", LIST), &[400], Closed),
        ("as long as it can be", with("content-length: 9223372036854775807\r\n", LIST), &[413], Closed),
        ("another coding", with("content-length: 16\r\ntransfer-encoding: identity\r\n", LIST), &[400], Closed),
        ("no coding", with("content-length: 16\r\ntransfer-encoding:\r\n", LIST), &[400], Closed),
        ("nearly chunked", with("content-length: 16\r\ntransfer-encoding: xchunked\r\n", LIST), &[400], Closed),
        ("chunked and more", with("transfer-encoding: chunked, identity\r\n", CHUNKS), &[400], Closed),
        (
            "chunked, then another",
            with("transfer-encoding: chunked\r\ntransfer-encoding: x\r\n", CHUNKS),
            &[400],
            Closed,
        ),
        ("chunked with a parameter", with("transfer-encoding: chunked;q=1\r\n", CHUNKS), &[400], Closed),
        ("chunked in quotes", with("transfer-encoding: \"chunked\"\r\n", CHUNKS), &[400], Closed),
        ("HTTP/1.0", with("transfer-encoding: chunked\r\n", CHUNKS).replacen("1.1", "1.0", 1), &[400], Closed),
        (
            "HTTP/1.0 that is kept",
            with("connection: keep-alive\r\ntransfer-encoding: chunked\r\n", CHUNKS).replacen("1.1", "1.0", 1),
            &[400],
            Closed,
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_header_is_refused() {
    let with = |headers: &str| format!("{POST}{headers}\r\n{LIST}{HIDDEN}");
    all_are(vec![
        ("a space before the colon", with("content-length : 16\r\n"), &[400], Closed),
        ("a tab before the colon", with("transfer-encoding\t: chunked\r\n"), &[400], Closed),
        ("a space before the name", with(" content-length: 16\r\n"), &[400], Closed),
        ("folded", with("content-length:\r\n 16\r\n"), &[400], Closed),
        ("folded coding", with("transfer-encoding:\r\n\tchunked\r\n"), &[400], Closed),
        ("no colon", with("content-length 16\r\n"), &[400], Closed),
        ("no name", with(": 16\r\n"), &[400], Closed),
        ("NUL in a name", with("content-length\0: 16\r\n"), &[400], Closed),
        ("NUL in a value", with("content-length: 16\0\r\n"), &[400], Closed),
        ("a control character", with("transfer-encoding: \x0bchunked\r\n"), &[400], Closed),
        ("CR alone", with("x: a\rcontent-length: 16\r\n"), &[400], Closed),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_request_line_is_refused() {
    let line = |line: &str| format!("{line}\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n{HIDDEN}", HIDDEN.len());
    all_are(vec![
        ("HTTP/0.9", format!("GET /health\r\n\r\n{HIDDEN}"), &[400], Closed),
        ("two spaces", line("GET  /health HTTP/1.1"), &[400], Closed),
        ("tabs", line("GET\t/health\tHTTP/1.1"), &[400], Closed),
        ("NUL in the path", line("GET /hea\0lth HTTP/1.1"), &[400], Closed),
        ("a space in the path", line("GET /health x HTTP/1.1"), &[400], Closed),
        ("another version", line("GET /health HTTP/1.2"), &[400], Closed),
        ("HTTP/2 without its preface", line("GET /health HTTP/2.0"), &[400], Closed),
        ("no version", line("GET /health HTTP/"), &[400], Closed),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_chunk_is_refused_or_cut() {
    let with = |chunks: &str| format!("{POST}transfer-encoding: chunked\r\n\r\n{chunks}{HIDDEN}");
    all_are(vec![
        ("hex with its prefix", with("0x10\r\n{\"deviceIds\":[]}\r\n0\r\n\r\n"), &[400], Closed),
        ("a sign", with("+10\r\n{\"deviceIds\":[]}\r\n0\r\n\r\n"), &[400], Closed),
        ("no size", with("\r\n{\"deviceIds\":[]}\r\n0\r\n\r\n"), &[400], Closed),
        ("beyond 64 bits", with("fffffffffffffffff\r\n{\"deviceIds\":[]}\r\n0\r\n\r\n"), &[400], Closed),
        ("beyond all bodies", with("fffffffffffffff0\r\n{\"deviceIds\":[]}\r\n0\r\n\r\n"), &[400], Closed),
        ("longer than it says", with("0f\r\n{\"deviceIds\":[]}\r\n0\r\n\r\n"), &[400], Closed),
        ("LF alone", with("10\n{\"deviceIds\":[]}\r\n0\r\n\r\n"), &[400], Closed),
        ("LF in an extension", with("10;a\n\r\n{\"deviceIds\":[]}\r\n0\r\n\r\n"), &[400], Closed),
        ("a request for trailers", with("10\r\n{\"deviceIds\":[]}\r\n0\r\n"), &[400], Closed),
        ("no end", with("10\r\n{\"deviceIds\":[]}\r\n"), &[400], Closed),
    ])
    .await;
}

#[tokio::test]
async fn what_can_be_read_in_one_way_is_read_in_that_and_no_body_is_a_request() {
    let with = |headers: &str, body: &str| format!("{POST}{headers}\r\n{body}");
    let hidden = format!("content-length: {}\r\n\r\n{HIDDEN}", HIDDEN.len());
    all_are(vec![
        ("one length twice", with("content-length: 16\r\ncontent-length: 16\r\n", LIST), &[200], Open),
        ("chunks", with("transfer-encoding: Chunked\r\n", CHUNKS), &[200], Open),
        ("an extension", with("transfer-encoding: chunked\r\n", &CHUNKS.replace("10\r", "10;a=\"b\"\r")), &[200], Open),
        (
            "a trailer",
            with("transfer-encoding: chunked\r\n", &CHUNKS.replace("0\r\n\r", "0\r\na: b\r\n\r")),
            &[200],
            Open,
        ),
        ("LF for CRLF", "GET /health HTTP/1.1\nhost: 127.0.0.1\n\n".to_owned(), &[200], Open),
        (
            "LF that hides chunks",
            with("x: y\ntransfer-encoding: chunked\r\ncontent-length: 16\r\n", CHUNKS),
            &[200],
            Closed,
        ),
        ("lines before", format!("\r\n\r\n{GET}\r\n"), &[200], Open),
        ("absolute", "GET http://other/health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".to_owned(), &[200], Open),
        ("of another kind", "GET 127.0.0.1:80 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".to_owned(), &[404], Open),
        ("of the whole server", "OPTIONS * HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".to_owned(), &[404], Open),
        ("HTTP/1.0", format!("GET /health HTTP/1.0\r\n\r\n{HIDDEN}"), &[200], Closed),
        ("HTTP/1.0 that is kept", "GET /health HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".to_owned(), &[200], Open),
        ("the last one", format!("{GET}connection: close\r\n\r\n{HIDDEN}"), &[200], Closed),
        ("a body where none belongs", format!("{GET}{hidden}"), &[200], Open),
        ("of a path that is none", format!("GET /nothing HTTP/1.1\r\nhost: 127.0.0.1\r\n{hidden}"), &[404], Open),
        ("of what is refused", format!("POST /nothing HTTP/1.1\r\nhost: 127.0.0.1\r\n{hidden}"), &[404], Open),
        ("of HEAD", format!("HEAD /health HTTP/1.1\r\nhost: 127.0.0.1\r\n{hidden}"), &[200], Open),
        ("of what is no JSON", format!("{POST}{hidden}"), &[400], Open),
        ("that is asked for", format!("{POST}expect: 100-continue\r\n{hidden}"), &[400], Open),
        ("of a tunnel", format!("CONNECT 127.0.0.1:1 HTTP/1.1\r\nhost: 127.0.0.1\r\n{hidden}"), &[404], Open),
        ("garbage after", format!("{GET}\r\ngarbage\r\n\r\n{HIDDEN}"), &[200, 400], Closed),
        ("several at once", format!("{GET}\r\n{GET}\r\n{GET}\r\n"), &[200, 200, 200], Open),
    ])
    .await;
}
