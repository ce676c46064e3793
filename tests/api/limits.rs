//! Slow, silent, greedy and broken clients.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use lastroute::id::DeviceId;
use serde_json::json;
use sqlx::{Connection, SqliteConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{Instant, advance, timeout};

use crate::harness::{Client, LAST_ROUTE, PATIENCE, Server, Setup, WAIT, answer_http2, request_http2, until};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(3600);

/// Every deadline so long that a test that waits for it fails.
pub(crate) fn patient() -> Setup {
    let mut setup = Setup::default();
    let deadlines = &mut setup.config.deadlines;
    (deadlines.first_byte, deadlines.head, deadlines.idle, deadlines.write) = (LONG, LONG, LONG, LONG);
    setup.config.request_timeout = LONG;
    setup
}

/// Has something to tell of as many devices; gives the body that asks for all of them.
fn everything(server: &Server, devices: u64) -> Vec<u8> {
    let ids: Vec<_> = (1..=devices).map(DeviceId).collect();
    for id in &ids {
        server.report(*id, 1);
    }
    serde_json::to_vec(&json!({"deviceIds": ids})).unwrap()
}

fn bulk(body: Vec<u8>) -> Request<Full<Bytes>> {
    Request::post("http://127.0.0.1/device/lastRoute").body(Full::from(body)).unwrap()
}

fn head(path: &str) -> Request<Full<Bytes>> {
    Request::head(format!("http://127.0.0.1{path}")).body(Full::default()).unwrap()
}

#[tokio::test]
async fn the_version_is_found_out_from_any_split_of_the_first_bytes() {
    let server = Server::start(patient()).await;
    let http1 = b"POST /device/lastRoute HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 16\r\n\r\n{\"deviceIds\":[]}";
    // An empty SETTINGS frame; the server's own begins with its length.
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (bytes, answer) in [(&http1[..], &b"HTTP/1.1 200 OK"[..]), (http2, b"\0\0")] {
        for split in 1..5 {
            let mut client = server.connect().await;
            client.0.set_nodelay(true).unwrap();
            client.send(&bytes[..split]).await;
            // Lets the server see the first part alone. Should it not, the answer is the same.
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            client.send(&bytes[split..]).await;
            let mut found = vec![0; answer.len()];
            timeout(PATIENCE, client.0.read_exact(&mut found)).await.expect("in time").unwrap();
            assert_eq!(found, answer, "{split}");
        }
    }
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let mut setup = patient();
    setup.config.deadlines.first_byte = SHORT;
    let server = Server::start(setup).await;
    assert!(server.connect().await.is_closed().await);
    let mut speaks = server.connect().await;
    assert_eq!(speaks.request("GET", "/health", "", b"").await.status, 200);
}

#[tokio::test]
async fn a_head_that_never_ends_is_closed_and_the_next_one_on_a_connection_too() {
    let mut setup = patient();
    setup.config.deadlines.head = SHORT;
    let server = Server::start(setup).await;
    let mut first = server.connect().await;
    first.send(b"GET /health HTTP/1.1\r\nhost:").await;
    assert!(first.is_closed().await);
    let mut second = server.connect().await;
    assert_eq!(second.request("GET", "/health", "", b"").await.status, 200);
    second.send(b"G").await;
    assert!(second.is_closed().await);
    let mut third = server.connect().await;
    third.send_head("GET", &format!("{WAIT}?timeoutMs=100"), "").await;
    server.waiting(1).await;
    third.send(b"G").await;
    assert_eq!(third.answer(false).await.status, 204);
    assert!(third.is_closed().await, "the next one had begun before the answer");
    let mut http2 = server.connect().await;
    http2.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    while !http2.is_closed().await {}
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_byte_by_byte_has_ten_seconds_and_no_more() {
    // While it runs, time moves only as told.
    let (_hold, held) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || held.recv());
    let server = Server::start(Setup::default()).await;
    let (mut in_time, mut too_slow) = (server.connect().await, server.connect().await);
    let bytes = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n";
    for second in 0..9 {
        for client in [&mut in_time, &mut too_slow] {
            client.send(&bytes[second..=second]).await;
        }
        // Lets the server see the byte before the time goes on.
        assert_eq!(server.get("/health", "").await.status, 200);
        advance(Duration::from_secs(1)).await;
    }
    in_time.send(&[&bytes[9..], b"\r\n"].concat()).await;
    assert_eq!(in_time.answer(false).await.status, 200);
    too_slow.send(&bytes[9..10]).await;
    assert_eq!(server.get("/health", "").await.status, 200);
    advance(Duration::from_secs(1)).await;
    assert!(too_slow.is_closed().await, "though it never rested");
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_either_version_and_a_waiting_one_is_not() {
    let mut setup = patient();
    setup.config.deadlines.idle = SHORT;
    let server = Server::start(setup).await;
    let mut client = server.connect().await;
    let wait = format!("{WAIT}?timeoutMs=300");
    assert_eq!(client.request("GET", &wait, "", b"").await.status, 204, "five times the idle time and more");
    assert!(client.is_closed().await);
    let mut http2 = server.connect_http2().await;
    assert_eq!(request_http2(&mut http2, "GET", &wait).await.status, 204);
    until(|| http2.is_closed()).await;
    // An answer with a body is on its way for longer.
    let mut http2 = server.connect_http2().await;
    assert_eq!(request_http2(&mut http2, "GET", "/health").await.status, 200);
    until(|| http2.is_closed()).await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_408() {
    let mut setup = patient();
    setup.config.request_timeout = SHORT;
    let server = Server::start(setup).await;
    let mut client = server.connect().await;
    client.send_head("POST", "/device/lastRoute", "content-length: 100\r\n").await;
    client.send(b"{").await;
    let answer = client.answer(false).await;
    answer.is_error(408, "in time");
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_503_and_a_wait_may_take_longer() {
    let mut setup = patient();
    setup.config.request_timeout = SHORT;
    let server = Server::start(setup).await;
    let wait = format!("{WAIT}?timeoutMs=100");
    assert_eq!(server.get(&wait, "").await.status, 204);
    // Somebody else changes the database, and takes long.
    let path = server.directory.path().join("registry.sqlite3");
    let mut other = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let answer = server.send("POST", "/organisation", &json!({"name": "late"})).await;
    answer.is_error(503, "see whether what was to be changed is");
    assert_eq!(answer.header("retry-after"), None, "it may have happened");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_made_too_late_to_be_told_is_deleted_again() {
    let mut setup = patient();
    setup.config.request_timeout = SHORT;
    let server = Server::start(setup).await;
    let path = server.directory.path().join("registry.sqlite3");
    let mut other = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let answer = server.send("POST", "/apiKey", &json!({"name": "late", "access": "write"})).await;
    answer.is_error(503, "see whether what was to be changed is");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let gone = async {
        // Made after the key, as changes happen one after the other.
        while server.send("POST", "/organisation", &json!({"name": "next"})).await.status == 503 {}
        while server.get("/apiKey", "").await.json() != json!([]) {}
    };
    timeout(PATIENCE, gone).await.expect("nobody has the key");
}

#[tokio::test]
async fn a_body_has_its_room_until_the_answer_and_that_of_a_wait_until_it_is_read() {
    let mut setup = patient();
    setup.config.max_outstanding = 5000;
    let server = Server::start(setup).await;
    let padded = |body: &[u8]| [body, &[b' '; 3000]].concat();
    let mut waits = server.connect().await;
    let body = padded(br#"{"deviceIds": ["0000000000000001"]}"#);
    waits.send_head("POST", "/device/waitForPacket", &format!("content-length: {}\r\n", body.len())).await;
    waits.send(&body).await;
    server.waiting(1).await;
    let lists = async || server.post("/device/lastRoute", "", &padded(br#"{"deviceIds": []}"#)).await.status;
    assert_eq!(lists().await, 200);
    // Somebody else changes the database, and takes long.
    let path = server.directory.path().join("registry.sqlite3");
    let mut other = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let mut changes = server.connect().await;
    let body = padded(br#"{"name": "late"}"#);
    changes.send_head("POST", "/organisation", &format!("content-length: {}\r\n", body.len())).await;
    changes.send(&body).await;
    let held = async { while lists().await != 503 {} };
    timeout(PATIENCE, held).await.expect("the room is taken");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(changes.answer(false).await.status, 201);
    let free = async { while lists().await != 200 {} };
    timeout(PATIENCE, free).await.expect("the room is free again");
}

#[tokio::test]
async fn what_was_done_is_told_also_where_there_is_no_room_for_the_answer() {
    let mut setup = patient();
    setup.config.max_outstanding = 6000;
    let server = Server::start(setup).await;
    let organisation = server.create("/organisation", &json!({"name": "own"})).await["id"].clone();
    let board = json!({"name": "tag", "description": "", "soc": "nRF9151", "organisationId": organisation});
    let board = server.create("/board", &board).await["id"].clone();
    let device = |n: u8| json!({"mcuId": format!("{n:02x}"), "boardId": board, "organisationId": organisation});
    let devices: Vec<_> = (1..=30).map(device).collect();
    let answer = server.send("POST", "/device/batch", &json!({"devices": devices})).await;
    assert_eq!((answer.status, answer.json().as_array().unwrap().len()), (201, 30));
    assert!(answer.body.len() > 6000);
    let list = format!("/device?organisationId={}", organisation.as_str().unwrap());
    server.get(&list, "").await.is_error(503, "on their way");
}

#[tokio::test]
async fn a_body_that_ends_early_is_answered_400() {
    let server = Server::start(patient()).await;
    let mut client = server.connect().await;
    client.send_head("POST", "/device/lastRoute", "content-length: 100\r\n").await;
    client.send(b"{").await;
    client.0.shutdown().await.unwrap();
    client.answer(false).await.is_error(400, "ended early");
}

#[tokio::test]
async fn a_body_too_long_is_refused_before_and_while_it_comes() {
    let mut setup = patient();
    setup.config.max_body = 100_000;
    let server = Server::start(setup).await;
    let mut announced = server.connect().await;
    announced.send_head("POST", "/device/lastRoute", "content-length: 100001\r\nexpect: 100-continue\r\n").await;
    announced.answer(false).await.is_error(413, "100000");
    // A client that sends everything before it looks still gets the answer.
    server.post("/device/lastRoute", "", &vec![b' '; 4_000_000]).await.is_error(413, "100000");
    let mut chunked = server.connect().await;
    chunked.send_head("POST", "/device/lastRoute", "transfer-encoding: chunked\r\n").await;
    let chunk = vec![b' '; 0x1000];
    for _ in 0..25 {
        chunked.send(b"1000\r\n").await;
        chunked.send(&chunk).await;
        chunked.send(b"\r\n").await;
    }
    chunked.answer(false).await.is_error(413, "100000");
    let fits = [br#"{"deviceIds": []}"#, &vec![b' '; 90_000][..]].concat();
    assert_eq!(server.post("/device/lastRoute", "", &fits).await.json(), json!([]));
}

#[tokio::test]
async fn headers_too_long_are_answered_431() {
    let server = Server::start(patient()).await;
    let long = format!("x-long: {}\r\n", "x".repeat(20_000));
    server.get("/health", &long).await.is_error(431, "16384");
    server.get(&format!("/{}", "x".repeat(20_000)), "").await.is_error(431, "16384");
    assert_eq!(server.get("/health", &"x: y\r\n".repeat(90)).await.status, 200);
    assert_eq!(server.get("/health", &"x: y\r\n".repeat(110)).await.status, 431);
    let longer = format!("x-long: {}\r\n", "x".repeat(40_000));
    assert_eq!(server.get("/health", &longer).await.status, 431);
    let mut http2 = server.connect_http2().await;
    let request = Request::get("http://127.0.0.1/health").header("x-long", "x".repeat(20_000));
    let answer = http2.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    answer_http2(answer).await.is_error(431, "16384");
}

#[tokio::test]
async fn what_is_no_http_is_answered_400_and_harms_nobody() {
    let server = Server::start(patient()).await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], b"GET\r\n\r\n", b"\0\0\0\0\r\n\r\n"] {
        let mut client = server.connect().await;
        client.send(garbage).await;
        assert_eq!(client.answer(false).await.status, 400, "{garbage:?}");
    }
    assert_eq!(server.get("/health", "").await.status, 200);
}

#[tokio::test]
async fn a_connection_too_many_is_answered_503() {
    let mut setup = patient();
    setup.config.max_connections = 1;
    let server = Server::start(setup).await;
    let mut first = server.connect().await;
    assert_eq!(first.request("GET", "/health", "", b"").await.status, 200);
    let mut second = server.connect().await;
    let answer = second.answer(false).await;
    answer.is_error(503, "too many connections");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(second.is_closed().await);
    drop(first);
    loop {
        let mut next = server.connect().await;
        if next.0.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok()
            && next.answer(false).await.status == 200
        {
            break;
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let mut setup = patient();
    setup.config.deadlines.write = SHORT;
    let server = Server::start(setup).await;
    let body = everything(&server, 10_000);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = Client(socket.connect(server.address).await.unwrap());
    let head = format!("POST /device/lastRoute HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n", body.len());
    // Answers of 1.6 MB each: the server stops reading when the buffers are full, so that writing here ends only with the
    // connection.
    let request = [head.as_bytes(), &body].concat();
    let cut = async { while client.0.write_all(&request).await.is_ok() {} };
    timeout(PATIENCE, cut).await.expect("the connection is cut");
}

#[tokio::test]
async fn an_http2_client_that_takes_nothing_of_one_answer_is_cut_whatever_else_it_does() {
    let mut setup = patient();
    setup.config.deadlines.write = SHORT;
    let server = Server::start(setup).await;
    let mut client = server.connect_http2_with_window(0).await;
    let unread = client.send_request(bulk(everything(&server, 10_000))).await.unwrap();
    assert_eq!(unread.status(), 200);
    let cut = async {
        // Answers without a body are not held up.
        while client.send_request(head("/health")).await.is_ok() {}
    };
    timeout(PATIENCE, cut).await.expect("the connection is cut");
    assert!(unread.into_body().collect().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_reads_slowly_is_not_cut() {
    // While it runs, time moves only as told.
    let (_hold, held) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || held.recv());
    let mut setup = patient();
    setup.config.deadlines.idle = Duration::from_secs(1);
    setup.config.deadlines.write = Duration::from_secs(12);
    let server = Server::start(setup).await;
    let mut client = server.connect_http2_with_window(16 * 1024).await;
    let answer = client.send_request(bulk(everything(&server, 2_000))).await.unwrap();
    let len: usize = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let (mut body, mut read, begun) = (answer.into_body(), 0, Instant::now());
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().into_data().unwrap().len();
        advance(Duration::from_secs(5)).await;
    }
    assert_eq!(read, len);
    assert!(begun.elapsed() > Duration::from_secs(60), "five times as long as it may stand still");
}

#[tokio::test]
async fn large_answers_nobody_reads_take_a_bounded_room_and_small_ones_need_none() {
    let mut setup = patient();
    setup.config.max_outstanding = 2_000_000;
    let server = Server::start(setup).await;
    let body = everything(&server, 10_000);
    let mut http2 = server.connect_http2_with_window(0).await;
    let unread = http2.send_request(bulk(body.clone())).await.unwrap();
    assert_eq!(unread.status(), 200);
    let refused = server.post("/device/lastRoute", "", &body).await;
    refused.is_error(503, "on their way");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(server.post("/device/lastRoute", "", br#"{"deviceIds": []}"#).await.status, 200);
    assert_eq!(server.get("/device/deviceId/0000000000000001/lastRoute", "").await.status, 200);
    drop(unread);
    let free = async { while server.post("/device/lastRoute", "", &body).await.status != 200 {} };
    timeout(PATIENCE, free).await.expect("what is thrown away makes room");
    // One that is read makes room as well, in either version.
    for _ in 0..3 {
        assert_eq!(server.post("/device/lastRoute", "", &body).await.status, 200);
    }
}

#[tokio::test]
async fn the_connections_open_now_are_counted() {
    let server = Server::start(patient()).await;
    let mut client = server.connect().await;
    let count = |body: Vec<u8>| {
        let text = String::from_utf8(body).unwrap();
        text.lines().find_map(|line| line.strip_prefix("lastroute_http_connections ")).unwrap().to_owned()
    };
    assert_eq!(count(client.request("GET", "/metrics", "", b"").await.body), "1");
    assert_eq!(count(server.get("/metrics", "").await.body), "2");
    assert_eq!(client.request("GET", LAST_ROUTE, "", b"").await.status, 404);
}
