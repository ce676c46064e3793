//! Waiting for many devices at once: answers in both forms, errors, bounds, and clients that leave.

use std::net::Shutdown;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use lastroute::api::access::Access;
use lastroute::id::DeviceId;
use lastroute::table::Unregistered;
use serde_json::{Value, json};

use crate::harness::{AT, Answer, Client, DEVICE, Server, Setup, answer_http2, ended};

const MANY: &str = "/device/waitForPacket";
const FIRST: &str = "0000000000000001";
const SECOND: &str = "0000000000000002";

fn bytes(body: &Value) -> Vec<u8> {
    serde_json::to_vec(body).unwrap()
}

async fn ask(server: &Server, body: &Value) -> Answer {
    server.post(MANY, "", &bytes(body)).await
}

/// A request over a connection of its own, until as many wait at the server.
async fn begin(server: &Server, body: &Value, headers: &str, waiting: usize) -> Client {
    let mut client = server.connect().await;
    let body = bytes(body);
    client.send_head("POST", MANY, &format!("{headers}content-length: {}\r\n", body.len())).await;
    client.send(&body).await;
    server.waiting(waiting).await;
    client
}

fn of(server: &Server, id: DeviceId, sequence: u16, missed: u64) -> Value {
    json!({
        "deviceId": id, "cursor": server.table.cursor(id), "missed": missed,
        "packet": {"type": "tdf", "typeId": 2, "level": "network", "sequence": sequence, "gpsTime": AT.gps(),
            "receivedAt": "2026-11-23T03:00:00.123Z", "timeClass": "fresh", "proved": true,
            "source": "203.0.113.7:6200", "onRoute": true, "alwaysRx": true, "singleTx": false},
        "lastRoute": {"interface": "udp", "interfaceData": {"sequence": sequence},
            "udp": {"address": "203.0.113.7:6200", "time": "2026-11-23T03:00:00.123Z"}}
    })
}

#[tokio::test]
async fn any_is_answered_by_the_first_packet_in_either_version_and_form() {
    let server = Server::start(Setup::default()).await;
    let body = json!({"deviceIds": [FIRST, "d291d4d66bf0a955", FIRST, SECOND]});
    let mut client = begin(&server, &body, "", 3).await;
    let mut packed = server.connect().await;
    let message = rmp_serde::to_vec_named(&body).unwrap();
    let types = "content-type: application/msgpack\r\naccept: application/msgpack\r\n";
    packed.send_head("POST", MANY, &format!("{types}content-length: {}\r\n", message.len())).await;
    packed.send(&message).await;
    let mut http2 = server.connect_http2().await;
    let request = Request::post(format!("http://127.0.0.1{MANY}")).body(Full::from(bytes(&body))).unwrap();
    let over_http2 = tokio::spawn(async move { answer_http2(http2.send_request(request).await.unwrap()).await });
    server.waiting(9).await;
    server.report(DEVICE, 4711);
    let expected = json!({"packets": [of(&server, DEVICE, 4711, 0)], "pending": [FIRST, SECOND], "timedOut": false});
    let answer = client.answer(false).await;
    assert_eq!((answer.status, answer.json()), (200, expected.clone()));
    assert_eq!(over_http2.await.unwrap().json(), expected);
    assert_eq!(packed.answer(false).await.message_pack(), expected);
    server.waiting(0).await;
    assert_eq!(ended(&server, "packet").await, 3);
}

#[tokio::test]
async fn all_is_answered_by_the_last_device() {
    let server = Server::start(Setup::default()).await;
    let body = json!({"deviceIds": [FIRST, SECOND], "mode": "all"});
    let mut client = begin(&server, &body, "", 2).await;
    server.report(DeviceId(2), 1);
    server.waiting(1).await;
    server.report(DeviceId(2), 2);
    server.report(DeviceId(1), 3);
    let expected = json!({"packets": [of(&server, DeviceId(1), 3, 0), of(&server, DeviceId(2), 2, 1)],
        "pending": [], "timedOut": false});
    assert_eq!(client.answer(false).await.json(), expected);
}

#[tokio::test]
async fn the_end_of_the_time_tells_what_came_or_nothing() {
    let server = Server::start(Setup::default()).await;
    server.report(DeviceId(2), 1);
    let start = format!("{}-0", server.table.cursor(DeviceId(2)).epoch);
    let body = |mode| json!({"deviceIds": [FIRST, SECOND], "timeoutMs": 0, "mode": mode});
    for mode in ["any", "all"] {
        let nothing = ask(&server, &body(mode)).await;
        assert_eq!((nothing.status, nothing.body.len(), nothing.header("content-type")), (204, 0, None));
    }
    for (mode, timed_out) in [("any", false), ("all", true)] {
        let mut body = body(mode);
        body["after"] = json!({SECOND: start});
        let expected = json!({"packets": [of(&server, DeviceId(2), 1, 0)], "pending": [FIRST], "timedOut": timed_out});
        assert_eq!(ask(&server, &body).await.json(), expected);
    }
    for (outcome, count) in [("packet", 1), ("timeout", 3)] {
        assert_eq!(ended(&server, outcome).await, count, "{outcome}");
    }
}

#[tokio::test]
async fn a_position_of_no_device_gives_the_present_positions_of_all() {
    let server = Server::start(Setup::default()).await;
    server.report(DeviceId(2), 1);
    let body = json!({"deviceIds": [FIRST, SECOND], "after": {FIRST: "0-0", SECOND: "0-0"}, "mode": "all"});
    let answer = ask(&server, &body).await.json();
    assert_eq!((&answer["pending"], &answer["timedOut"]), (&json!([]), &json!(false)));
    let cursor = |id| server.table.cursor(id).to_string();
    assert_eq!(answer["packets"][0], json!({"deviceId": FIRST, "cursor": cursor(DeviceId(1)), "reset": true}));
    assert_eq!(answer["packets"][1]["cursor"], json!(cursor(DeviceId(2))));
    assert_eq!(answer["packets"][1]["packet"]["sequence"], json!(1));
    assert_eq!(ended(&server, "reset").await, 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() {
    let mut setup = Setup::default();
    setup.config.max_devices_per_request = 2;
    setup.table.unregistered = Unregistered::Deny;
    let server = Server::start(setup).await;
    server.table.register(DeviceId(1), AT);
    let present = server.table.cursor(DeviceId(1));
    for (body, status, words) in [
        (json!({}), 400, "either in deviceIds or by organisationId"),
        (json!({"deviceIds": [FIRST], "organisationId": "a"}), 400, "either in deviceIds or by organisationId"),
        (json!({"organisationId": "a"}), 400, "organisationId must be a record id"),
        (json!({"deviceIds": []}), 400, "deviceIds is empty"),
        (json!({"deviceIds": FIRST}), 400, "does not fit"),
        (json!({"deviceIds": [FIRST, "x"]}), 400, "deviceIds[1]: a device id is 16 hex digits"),
        (json!({"deviceIds": [FIRST, FIRST, FIRST]}), 422, "deviceIds has more than 2 entries; send at most 2"),
        (json!({"deviceIds": [FIRST], "after": {"x": "1-1"}}), 400, "after has the key \"x\""),
        (
            json!({"deviceIds": [FIRST], "after": {SECOND: "1-1"}}),
            400,
            "key 0000000000000002, which deviceIds does not",
        ),
        (json!({"deviceIds": [FIRST], "after": {FIRST: "now"}}), 400, "after of device 0000000000000001: a cursor is"),
        (
            json!({"deviceIds": [FIRST], "after": {FIRST: format!("{}-9", present.epoch)}}),
            400,
            "device 0000000000000001: the cursor lies ahead",
        ),
        (json!({"deviceIds": [FIRST], "timeoutMs": 600_001}), 400, "timeoutMs must be a whole number"),
        (json!({"deviceIds": [FIRST], "mode": "some"}), 400, "mode is \"some\"; write any or all"),
        (json!({"deviceIds": [FIRST, SECOND]}), 404, "device 0000000000000002: device is not registered"),
    ] {
        ask(&server, &body).await.is_error(status, words);
        let packed = rmp_serde::to_vec_named(&body).unwrap();
        server.post(MANY, "content-type: application/msgpack\r\n", &packed).await.is_error(status, words);
    }
    server.post(MANY, "content-type: text/plain\r\n", b"x").await.is_error(415, "Content-Type");
    server.post(MANY, "", b"{").await.is_error(400, "does not fit");
    assert_eq!(server.waiters.waiting(), 0);
    assert_eq!(ended(&server, "refused").await, 30);
}

#[tokio::test]
async fn a_request_counts_once_for_each_device_it_names() {
    let key = "x-api-key: ik_0123456789abcdef\r\n";
    let keys = || Access::of_keys(["ik_0123456789abcdef"]);
    let body = json!({"deviceIds": [FIRST, SECOND]});
    for (per_device, total, per_credential, status, words, access) in [
        (1, 9, 9, 429, "device 0000000000000001: too many", keys()),
        (9, 3, 9, 503, "too many wait at this gateway", keys()),
        (9, 9, 3, 429, "too many waits with the same credentials", keys()),
        (9, 9, 3, 429, "too many waits with the same credentials", Access::open()),
    ] {
        let mut setup = Setup { access, ..Setup::default() };
        (setup.waiters.per_device, setup.waiters.total) = (per_device, total);
        setup.config.waits_per_credential = per_credential;
        let server = Server::start(setup).await;
        let mut first = begin(&server, &body, key, 2).await;
        let refused = server.post(MANY, key, &bytes(&body)).await;
        refused.is_error(status, words);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(server.waiters.waiting(), 2, "nothing is left of it");
        let asks = bytes(&json!({"deviceIds": [FIRST, SECOND], "timeoutMs": 0}));
        assert_eq!(server.post(MANY, key, &asks).await.status, 204, "who does not wait needs no place");
        server.report(DeviceId(1), 1);
        assert_eq!(first.answer(false).await.status, 200);
        let body = json!({"deviceIds": [FIRST, SECOND], "timeoutMs": 1});
        assert_eq!(server.post(MANY, key, &bytes(&body)).await.status, 204, "the places are free again");
    }
}

#[tokio::test]
async fn a_client_that_leaves_or_closes_its_side_gives_all_its_places_back() {
    let server = Server::start(Setup::default()).await;
    let body = json!({"deviceIds": [FIRST, SECOND]});
    drop(begin(&server, &body, "", 2).await);
    server.waiting(0).await;
    assert_eq!(ended(&server, "abandoned").await, 1);
    let mut client = begin(&server, &body, "", 2).await;
    socket2::SockRef::from(&client.0).shutdown(Shutdown::Write).unwrap();
    client.answer(false).await.is_error(400, "keep it open");
    assert_eq!(server.waiters.waiting(), 0);
    let mut http2 = server.connect_http2().await;
    let request = Request::post(format!("http://127.0.0.1{MANY}")).body(Full::<Bytes>::from(bytes(&body))).unwrap();
    let reset = tokio::spawn(async move { http2.send_request(request).await.map(drop) });
    server.waiting(2).await;
    reset.abort();
    server.waiting(0).await;
    assert_eq!(ended(&server, "abandoned").await, 3);
}

#[tokio::test]
async fn a_shutdown_ends_a_wait_for_many_with_503() {
    let server = Server::start(Setup::default()).await;
    let mut client = begin(&server, &json!({"deviceIds": [FIRST, SECOND], "mode": "all"}), "", 2).await;
    server.shutdown.send(true).unwrap();
    client.answer(false).await.is_error(503, "shutting down");
    server.serving.await.unwrap();
    assert_eq!(server.waiters.waiting(), 0);
}
