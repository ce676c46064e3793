//! Routes, state, errors, access, metrics.

use std::time::Duration;

use lastroute::api::access::Access;
use lastroute::health::Part;
use lastroute::id::DeviceId;
use serde_json::{Value, json};

use crate::harness::{AT, DEVICE, LAST_ROUTE, STATE, Server, Setup, WAIT, request_http2};

const MESSAGE_PACK: &str = "accept: application/msgpack\r\n";
const JSON_BODY: &str = "content-type: application/json\r\n";

fn route(sequence: u16) -> Value {
    json!({"interface": "udp", "interfaceData": {"sequence": sequence},
        "udp": {"address": "203.0.113.7:6200", "time": "2026-11-23T03:00:00.123Z"}})
}

#[tokio::test]
async fn both_probes_answer() {
    let server = Server::start(Setup::default()).await;
    assert_eq!(server.get("/health", "").await.json(), json!({"health": "ok"}));
    assert_eq!(server.get("/readyz", "").await.json(), json!({"ready": true}));
}

#[tokio::test]
async fn what_is_wrong_is_told_in_every_place_for_as_long_as_it_lasts() {
    let server = Server::start(Setup::default()).await;
    server.health.degrade(Part::Records, "no space");
    let degraded = json!({"records": "no space"});
    assert_eq!(server.get("/readyz", "").await.json(), json!({"ready": true, "degraded": degraded}));
    let packed = server.get("/readyz", MESSAGE_PACK).await;
    assert_eq!((packed.status, packed.header("content-type")), (200, Some("application/msgpack")));
    assert_eq!(rmp_serde::from_slice::<Value>(&packed.body).unwrap(), json!({"ready": true, "degraded": degraded}));
    assert_eq!(server.get("/gateway", "").await.json()["degraded"], degraded);
    let metrics = async || String::from_utf8(server.get("/metrics", "").await.body).unwrap();
    let of = |part: &str, value: &str| format!("\nlastroute_degraded{{part=\"{part}\"}} {value}\n");
    let text = metrics().await;
    assert!(text.contains(&of("records", "1")) && text.contains(&of("clock", "0")), "{text}");
    assert!(server.health.recover(Part::Records));
    assert_eq!(server.get("/readyz", "").await.json(), json!({"ready": true}));
    assert_eq!(server.get("/gateway", "").await.json()["degraded"], json!({}));
    assert!(metrics().await.contains(&of("records", "0")));
}

#[tokio::test]
async fn the_last_route_comes_with_cursor_and_trust() {
    let server = Server::start(Setup::default()).await;
    server.get(LAST_ROUTE, "").await.is_error(404, "d291d4d66bf0a955");
    server.report(DEVICE, 4711);
    let answer = server.get(LAST_ROUTE, "").await;
    assert_eq!((answer.status, answer.json()), (200, route(4711)));
    assert_eq!(answer.header("lastroute-cursor"), Some(&*server.table.cursor(DEVICE).to_string()));
    assert_eq!(answer.header("lastroute-trust"), Some("network"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(server.get(LAST_ROUTE, MESSAGE_PACK).await.message_pack(), route(4711));
}

#[tokio::test]
async fn only_registered_devices_have_a_state() {
    let server = Server::start(Setup::default()).await;
    server.report(DEVICE, 1);
    server.get(STATE, "").await.is_error(404, "not registered; register it with POST /device");
    server.table.register(DEVICE, AT);
    let state = server.get(STATE, "").await.json();
    assert_eq!((&state["lastRoute"], &state["createdAt"]), (&route(1), &json!("2026-11-23T03:00:00.123Z")));
    server.table.register(DeviceId(1), AT);
    let silent = server.get("/device/deviceId/0000000000000001/state", "").await.json();
    assert_eq!(silent, json!({"createdAt": "2026-11-23T03:00:00.123Z", "updatedAt": "2026-11-23T03:00:00.123Z"}));
    server
        .get("/device/deviceId/0000000000000001/lastRoute", "")
        .await
        .is_error(404, "can be waited for with waitForPacket");
}

#[tokio::test]
async fn many_routes_are_read_at_once_and_silent_devices_left_out() {
    let server = Server::start(Setup::default()).await;
    server.report(DEVICE, 1);
    server.report(DeviceId(1), 2);
    let ids = json!({"deviceIds": ["0000000000000001", "d291d4d66bf0a955", "D291D4D66BF0A955", "0000000000000002"],
        "more": [1, 2]});
    let expected = json!([{"deviceId": "0000000000000001", "lastRoute": route(2)},
        {"deviceId": "d291d4d66bf0a955", "lastRoute": route(1)}]);
    let body = serde_json::to_vec(&ids).unwrap();
    for headers in ["", JSON_BODY] {
        let answer = server.post("/device/lastRoute", headers, &body).await;
        assert_eq!((answer.status, answer.json()), (200, expected.clone()));
    }
    let packed = rmp_serde::to_vec_named(&ids).unwrap();
    for name in ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"] {
        let headers = format!("content-type: {name}\r\naccept: application/msgpack\r\n");
        assert_eq!(server.post("/device/lastRoute", &headers, &packed).await.message_pack(), expected);
    }
    let none = server.post("/device/lastRoute", JSON_BODY, br#"{"deviceIds": []}"#).await;
    assert_eq!((none.status, none.json()), (200, json!([])));
}

#[tokio::test]
async fn a_list_that_does_not_fit_is_refused_with_the_reason() {
    let mut setup = Setup::default();
    setup.config.max_devices_per_request = 2;
    let server = Server::start(setup).await;
    for (body, status, words) in [
        (&b""[..], 400, "EOF"),
        (b"{", 400, "EOF"),
        (b"[]", 400, "LastRoutes"),
        (b"{}", 400, "deviceIds"),
        (br#"{"deviceIds": null}"#, 400, "null"),
        (br#"{"deviceIds": [1]}"#, 400, "expected a string"),
        (br#"{"deviceIds": ["0000000000000001", "x"]}"#, 400, "deviceIds[1]: a device id is 16 hex digits"),
        (br#"{"deviceIds": ["", "", ""]}"#, 422, "at most 2"),
    ] {
        server.post("/device/lastRoute", JSON_BODY, body).await.is_error(status, words);
    }
    for other in ["text/plain", "application/x-www-form-urlencoded"] {
        let headers = format!("content-type: {other}\r\n");
        server.post("/device/lastRoute", &headers, b"{}").await.is_error(415, "application/json");
    }
    let packed = "content-type: application/msgpack\r\n";
    server.post("/device/lastRoute", packed, b"\xc1").await.is_error(400, "does not fit");
}

#[tokio::test]
async fn every_error_has_the_same_body_in_either_form_and_version() {
    let server = Server::start(Setup::default()).await;
    let mut http2 = server.connect_http2().await;
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/health/", 404),
        ("PATCH", "/no/such/path", 404),
        ("DELETE", "/health", 405),
        ("GET", "/device/lastRoute", 405),
        ("GET", "/device/deviceId/xyz/state", 400),
        ("GET", LAST_ROUTE, 404),
    ] {
        let mut client = server.connect().await;
        let json = client.request(method, path, "", b"").await;
        json.is_error(status, " ");
        let packed = client.request(method, path, MESSAGE_PACK, b"").await;
        assert_eq!((packed.status, packed.message_pack()), (status, json.json()), "{method} {path}");
        let over_http2 = request_http2(&mut http2, method, path).await;
        assert_eq!((over_http2.status, over_http2.json()), (status, json.json()), "{method} {path}");
        let allow = match (status, path) {
            (405, "/health") => Some("GET, HEAD"),
            (405, _) => Some("POST"),
            _ => None,
        };
        assert_eq!((json.header("allow"), over_http2.header("allow")), (allow, allow));
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = Server::start(Setup::default()).await;
    server.report(DEVICE, 1);
    let mut http2 = server.connect_http2().await;
    for path in ["/health", LAST_ROUTE, "/nowhere"] {
        let mut client = server.connect().await;
        let get = client.request("GET", path, "", b"").await;
        let head = client.request("HEAD", path, "", b"").await;
        let head_http2 = request_http2(&mut http2, "HEAD", path).await;
        for head in [head, head_http2] {
            assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
            for name in ["content-length", "content-type", "lastroute-cursor"] {
                assert_eq!(head.header(name), get.header(name), "{path} {name}");
            }
        }
        assert_eq!(client.request("GET", path, "", b"").await.body, get.body, "the connection stays in step");
    }
}

#[tokio::test]
async fn no_header_lets_scripts_of_other_origins_in() {
    let server = Server::start(Setup::default()).await;
    let answer = server.get("/health", "origin: http://elsewhere\r\n").await;
    assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("access-control")));
    let options = server.connect().await.request("OPTIONS", "/health", "origin: http://elsewhere\r\n", b"").await;
    options.is_error(405, "GET, HEAD");
}

#[tokio::test]
async fn a_key_is_asked_for_everything_but_the_probes() {
    let access = Access::of_keys(["ik_0123456789abcdef"]);
    let server = Server::start(Setup { access, ..Setup::default() }).await;
    server.report(DEVICE, 1);
    for path in [LAST_ROUTE, STATE, WAIT, "/metrics", "/gateway", "/nowhere", "/device/deviceId/xyz/state"] {
        let answer = server.get(path, "authorization: ApiKey ik_0123456789abcdee\r\n").await;
        answer.is_error(401, "x-api-key");
        assert!(answer.header("www-authenticate").unwrap().starts_with("ApiKey"), "{answer:?}");
        let text = String::from_utf8(answer.body).unwrap();
        assert!(!text.contains("ik_"), "{text}");
    }
    server.post("/device/lastRoute", "", b"{}").await.is_error(401, "credentials");
    for path in ["/health", "/readyz"] {
        assert_eq!(server.get(path, "").await.status, 200);
    }
    for header in ["authorization: ApiKey ", "authorization: Bearer ", "x-api-key: Bearer ", "x-api-key: "] {
        let answer = server.get(LAST_ROUTE, &format!("{header}ik_0123456789abcdef\r\n")).await;
        assert_eq!(answer.status, 200, "{header}");
    }
}

#[tokio::test]
async fn metrics_are_text_with_templates_and_have_a_listener_of_their_own() {
    let access = Access::of_keys(["ik_0123456789abcdef"]);
    let mut server = Server::start(Setup { access, ..Setup::default() }).await;
    let key = "x-api-key: ik_0123456789abcdef\r\n";
    server.get(LAST_ROUTE, key).await.is_error(404, "");
    let answer = server.get("/metrics", key).await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = String::from_utf8(answer.body).unwrap();
    let template = r#"{endpoint="/device/deviceId/{deviceId}/lastRoute",status="404"} 1"#;
    assert!(text.contains(&format!("\nlastroute_http_requests_total{template}\n")), "{text}");
    assert!(!text.contains("d291d4d66bf0a955"));
    server.address = server.metrics_address;
    let open = server.get("/metrics", "").await;
    assert!(String::from_utf8(open.body).unwrap().contains("\nlastroute_udp_datagrams_total{result=\"accepted\"} 0\n"));
    server.get("/health", "").await.is_error(404, "no such path");
}

#[tokio::test]
async fn requests_are_finished_and_then_nothing_is_accepted_any_more() {
    let server = Server::start(Setup::default()).await;
    let (mut busy, mut idle) = (server.connect().await, server.connect().await);
    assert_eq!(idle.request("GET", "/health", "", b"").await.status, 200);
    busy.send_head("POST", "/device/lastRoute", "content-length: 16\r\nexpect: 100-continue\r\n").await;
    assert_eq!(busy.answer(false).await.status, 100);
    server.shutdown.send(true).unwrap();
    assert!(idle.is_closed().await);
    busy.send(br#"{"deviceIds":[]}"#).await;
    let answer = busy.answer(false).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(busy.is_closed().await);
    server.serving.await.unwrap();
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn what_is_still_open_after_the_drain_time_is_cut() {
    let drain = Duration::from_millis(20);
    let server = Server::start(Setup { drain, ..Setup::default() }).await;
    let mut busy = server.connect().await;
    busy.send_head("POST", "/device/lastRoute", "content-length: 16\r\nexpect: 100-continue\r\n").await;
    assert_eq!(busy.answer(false).await.status, 100);
    drop(server.shutdown);
    server.serving.await.unwrap();
    assert!(busy.is_closed().await);
}
