//! Waiting for a packet: how it ends, its bounds, and clients that leave.

use std::net::Shutdown;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use lastroute::api::access::Access;
use lastroute::id::Cursor;
use lastroute::table::Unregistered;
use serde_json::{Value, json};
use tokio::time::advance;

use crate::harness::{AT, DEVICE, Server, Setup, WAIT, answer_http2, ended, request_http2, until};

#[tokio::test]
async fn a_packet_ends_a_wait_in_either_version() {
    let server = Server::start(Setup::default()).await;
    let mut client = server.connect().await;
    client.send_head("GET", WAIT, "").await;
    let mut http2 = server.connect_http2().await;
    let over_http2 = tokio::spawn(async move { request_http2(&mut http2, "GET", WAIT).await });
    server.waiting(2).await;
    server.report(DEVICE, 4711);
    let answer = client.answer(false).await;
    let expected = json!({
        "deviceId": "d291d4d66bf0a955", "cursor": server.table.cursor(DEVICE).to_string(), "missed": 0,
        "packet": {"type": "tdf", "typeId": 2, "level": "network", "sequence": 4711, "gpsTime": AT.gps(),
            "receivedAt": "2026-11-23T03:00:00.123Z", "timeClass": "fresh", "proved": true,
            "source": "203.0.113.7:6200", "onRoute": true, "alwaysRx": true, "singleTx": false},
        "lastRoute": {"interface": "udp", "interfaceData": {"sequence": 4711},
            "udp": {"address": "203.0.113.7:6200", "time": "2026-11-23T03:00:00.123Z"}}
    });
    assert_eq!((answer.status, answer.json()), (200, expected.clone()));
    assert_eq!(over_http2.await.unwrap().json(), expected);
    server.waiting(0).await;
    assert_eq!(ended(&server, "packet").await, 2);
}

#[tokio::test]
async fn a_wait_goes_on_from_a_cursor() {
    let server = Server::start(Setup::default()).await;
    let start = server.table.cursor(DEVICE);
    for sequence in 1..=3 {
        server.report(DEVICE, sequence);
    }
    let wait = |after: Cursor| format!("{WAIT}?timeoutMs=0&after={after}");
    let body = server.get(&wait(start), "").await.json();
    assert_eq!((&body["missed"], &body["packet"]["sequence"]), (&json!(2), &json!(3)));
    let present = server.table.cursor(DEVICE);
    let timed_out = server.get(&wait(present), "").await;
    assert_eq!((timed_out.status, timed_out.body.len()), (204, 0));
    assert_eq!(timed_out.header("lastroute-cursor"), Some(&*present.to_string()));
    assert_eq!((timed_out.header("content-type"), timed_out.header("content-length")), (None, None));
    server.get(&wait(Cursor { n: 4, ..present }), "").await.is_error(400, "ahead");
    let reset = server.get(&wait(Cursor { epoch: 1, n: 9 }), "").await.json();
    assert_eq!((&reset["reset"], &reset["packet"]["sequence"]), (&json!(true), &json!(3)));
    assert_eq!(reset.get("missed"), None);
    let unheard = server.get("/device/deviceId/0000000000000001/waitForPacket?after=1-9", "").await.json();
    let keys: Vec<_> = unheard.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["cursor", "deviceId", "reset"]);
    for (outcome, count) in [("packet", 1), ("timeout", 1), ("reset", 2), ("refused", 1)] {
        assert_eq!(ended(&server, outcome).await, count, "{outcome}");
    }
}

/// Two hundred that ask for the same 10 s, of which half lose more than half a second: the odds for fewer than 50 or more than 150 are nil.
#[tokio::test(start_paused = true)]
async fn waits_that_began_together_end_within_a_tenth_of_their_time_and_not_together() {
    // While it runs, time moves only as told.
    let (_hold, held) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || held.recv());
    let server = Server::start(Setup::default()).await;
    let sender = server.connect_http2().await;
    let waits: Vec<_> = (0..200)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move { request_http2(&mut sender, "GET", &format!("{WAIT}?timeoutMs=10000")).await })
        })
        .collect();
    server.waiting(200).await;
    advance(Duration::from_millis(8_990)).await;
    assert_eq!(server.waiters.waiting(), 200);
    advance(Duration::from_millis(510)).await;
    until(|| (50..150).contains(&server.waiters.waiting())).await;
    advance(Duration::from_millis(510)).await;
    for wait in waits {
        assert_eq!(wait.await.unwrap().status, 204);
    }
}

#[tokio::test]
async fn a_bad_query_is_refused() {
    let server = Server::start(Setup::default()).await;
    for (query, words) in [
        ("timeoutMs=600001", "from 0 to 600000"),
        ("timeoutMs=1&timeoutMs=1", "more than once"),
        ("after=now", "after"),
    ] {
        server.get(&format!("{WAIT}?{query}"), "").await.is_error(400, words);
    }
}

#[tokio::test]
async fn an_unregistered_device_is_not_waited_for_where_none_are_served() {
    let mut setup = Setup::default();
    setup.table.unregistered = Unregistered::Deny;
    let server = Server::start(setup).await;
    server.get(WAIT, "").await.is_error(404, "device d291d4d66bf0a955: device is not registered");
    server.table.register(DEVICE, AT);
    assert_eq!(server.get(&format!("{WAIT}?timeoutMs=0"), "").await.status, 204);
}

#[tokio::test]
async fn each_bound_has_its_status_and_says_when_to_try_again() {
    let other = "/device/deviceId/0000000000000001/waitForPacket";
    let key = "x-api-key: ik_0123456789abcdef\r\n";
    let keys = || Access::of_keys(["ik_0123456789abcdef"]);
    let same = "too many waits with the same credentials";
    for (per_device, total, per_credential, path, status, words, access) in [
        (1, 9, 9, WAIT, 429, "device d291d4d66bf0a955: too many wait for this device", keys()),
        (9, 1, 9, other, 503, "device 0000000000000001: too many wait at this gateway", keys()),
        (9, 9, 1, other, 429, same, keys()),
        (9, 9, 1, other, 429, same, Access::open()),
    ] {
        let mut setup = Setup { access, ..Setup::default() };
        (setup.waiters.per_device, setup.waiters.total) = (per_device, total);
        setup.config.waits_per_credential = per_credential;
        let server = Server::start(setup).await;
        let mut first = server.connect().await;
        first.send_head("GET", WAIT, key).await;
        server.waiting(1).await;
        let refused = server.get(path, key).await;
        refused.is_error(status, words);
        assert_eq!(refused.header("retry-after"), Some("1"));
        let asks = server.get(&format!("{path}?timeoutMs=0"), key).await;
        assert_eq!(asks.status, 204, "who does not wait needs no place");
        server.report(DEVICE, 1);
        assert_eq!(first.answer(false).await.status, 200);
        let free = server.get(&format!("{path}?timeoutMs=1"), key).await;
        assert_eq!(free.status, 204, "the place is free again");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_released_at_once() {
    let server = Server::start(Setup::default()).await;
    let mut client = server.connect().await;
    client.send_head("GET", WAIT, "").await;
    server.waiting(1).await;
    drop(client);
    server.waiting(0).await;
    assert_eq!(ended(&server, "abandoned").await, 1);
}

#[tokio::test]
async fn a_client_that_sent_more_before_it_leaves_is_released_at_once() {
    let server = Server::start(Setup::default()).await;
    let mut client = server.connect().await;
    client.send_head("GET", WAIT, "").await;
    server.waiting(1).await;
    client.send_head("GET", "/health", "").await;
    drop(client);
    server.waiting(0).await;
}

#[tokio::test]
async fn a_client_that_closes_its_side_is_told_that_it_must_not() {
    let server = Server::start(Setup::default()).await;
    let mut client = server.connect().await;
    client.send_head("GET", WAIT, "").await;
    server.waiting(1).await;
    socket2::SockRef::from(&client.0).shutdown(Shutdown::Write).unwrap();
    let answer = client.answer(false).await;
    answer.is_error(400, "keep it open");
    assert!(client.is_closed().await);
    assert_eq!(server.waiters.waiting(), 0);
    // What needs no waiting is answered all the same.
    let mut client = server.connect().await;
    client.send_head("GET", "/health", "").await;
    socket2::SockRef::from(&client.0).shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer(false).await.status, 200);
}

#[tokio::test]
async fn a_stream_that_is_reset_releases_its_wait_and_no_other() {
    let server = Server::start(Setup::default()).await;
    let sender = server.connect_http2().await;
    let wait = || {
        let mut sender = sender.clone();
        let request = Request::get(format!("http://127.0.0.1{WAIT}")).body(Full::default()).unwrap();
        tokio::spawn(async move { answer_http2(sender.send_request(request).await.unwrap()).await })
    };
    let (leaves, stays) = (wait(), wait());
    server.waiting(2).await;
    leaves.abort();
    server.waiting(1).await;
    server.report(DEVICE, 1);
    assert_eq!(stays.await.unwrap().status, 200);
    assert_eq!((ended(&server, "packet").await, ended(&server, "abandoned").await), (1, 1));
}

#[tokio::test]
async fn a_lost_http2_connection_releases_all_its_waits() {
    let server = Server::start(Setup::default()).await;
    let (sender, socket) = server.connect_http2_with_socket().await;
    for _ in 0..3 {
        let mut sender = sender.clone();
        let request = Request::get(format!("http://127.0.0.1{WAIT}")).body(Full::default()).unwrap();
        tokio::spawn(async move { sender.send_request(request).await.map(drop) });
    }
    server.waiting(3).await;
    socket.shutdown(Shutdown::Both).unwrap();
    server.waiting(0).await;
}

#[tokio::test]
async fn a_shutdown_ends_every_wait_with_503() {
    let server = Server::start(Setup::default()).await;
    let mut client = server.connect().await;
    client.send_head("GET", WAIT, "").await;
    let mut http2 = server.connect_http2().await;
    let over_http2 = tokio::spawn(async move { request_http2(&mut http2, "GET", WAIT).await });
    server.waiting(2).await;
    server.shutdown.send(true).unwrap();
    for answer in [client.answer(false).await, over_http2.await.unwrap()] {
        answer.is_error(503, "shutting down");
        let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=5).contains(&retry_after), "{retry_after}");
        assert_eq!(answer.json()["code"], Value::from(503));
    }
    server.serving.await.unwrap();
    assert_eq!(server.waiters.waiting(), 0);
}
