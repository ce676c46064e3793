//! Bodies that are small and would become large, or take long: each is refused with a sentence before it does.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::harness::{Answer, Server};
use crate::limits::patient;

const MESSAGE_PACK: &str = "content-type: application/msgpack\r\n";
/// Far longer than any refusal takes.
const SOON: Duration = Duration::from_secs(10);

async fn post(server: &Server, path: &str, headers: &str, body: &[u8]) -> Answer {
    timeout(SOON, server.post(path, headers, body)).await.expect("soon")
}

#[tokio::test]
async fn what_lies_too_deep_is_refused() {
    let server = Server::start(patient()).await;
    let deep = 500_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = deep / open.len();
        let json = format!(r#"{{"rpc":{{"params":{{"a":{}1{}"#, open.repeat(depth), close.repeat(depth));
        post(&server, "/rpc", "", json.as_bytes()).await.is_error(400, "recursion limit");
        post(&server, "/rpc", "", open.repeat(depth).as_bytes()).await.is_error(400, "the body does not fit");
    }
    for level in [&b"\x91"[..], b"\x81\xa1a"] {
        let packed = [&b"\x81\xa3rpc\x81\xa6params\x81\xa1a"[..], &level.repeat(deep / level.len())].concat();
        post(&server, "/rpc", MESSAGE_PACK, &packed).await.is_error(400, "depth");
    }
}

#[tokio::test]
async fn what_claims_to_be_long_takes_no_room() {
    let server = Server::start(patient()).await;
    for (path, packed) in [
        ("/device/lastRoute", &b"\x81\xa9deviceIds\xdd\xff\xff\xff\xff"[..]),
        ("/device/batch", b"\x81\xa7devices\xdd\xff\xff\xff\xff"),
        ("/device/import", b"\x81\xa7devices\xdd\xff\xff\xff\xff\x01"),
        ("/device/waitForPacket", b"\x81\xa5after\xdf\xff\xff\xff\xff"),
        ("/organisation", b"\x81\xa4name\xdb\xff\xff\xff\xff"),
        ("/organisation", b"\x81\xa4name\xc6\xff\xff\xff\xff"),
        ("/organisation", b"\xdf\xff\xff\xff\xff"),
        ("/rpc", b"\x81\xa4data\xc6\xff\xff\xff\xff"),
        ("/rpc", b"\x81\xa4data\xc9\xff\xff\xff\xff\x01"),
    ] {
        post(&server, path, MESSAGE_PACK, packed).await.is_error(400, "the body does not fit");
    }
}

#[tokio::test]
async fn what_has_too_many_is_refused_where_it_has_too_many() {
    let server = Server::start(patient()).await;
    let ids: Vec<_> = (0..10_001).map(|n| format!("{n:016x}")).collect();
    for path in ["/device/waitForPacket", "/device/lastRoute"] {
        let body = serde_json::to_vec(&json!({"deviceIds": ids})).unwrap();
        post(&server, path, "", &body).await.is_error(422, "deviceIds has more than 10000 entries");
    }
    let after: serde_json::Map<_, _> = ids.iter().map(|id| (id.clone(), json!("7-1"))).collect();
    let body = serde_json::to_vec(&json!({"deviceIds": [ids[0]], "after": after})).unwrap();
    post(&server, "/device/waitForPacket", "", &body).await.is_error(422, "after has more than 10000 entries");
    // One device, as often as one may be named, is one device.
    let body = serde_json::to_vec(&json!({"deviceIds": vec![&ids[0]; 10_000], "timeoutMs": 0})).unwrap();
    assert_eq!(post(&server, "/device/waitForPacket", "", &body).await.status, 204);
    let names: String = (0..20_000).map(|n| format!("\"{n}\":0,")).collect();
    let body = format!("{{{names}\"name\":\"x\"}}");
    post(&server, "/organisation", "", body.as_bytes()).await.is_error(422, "the body has more than 10000 entries");
}

#[tokio::test]
async fn numbers_without_end_are_refused() {
    let server = Server::start(patient()).await;
    for number in ["9".repeat(900_000), format!("0.{}", "1".repeat(900_000)), format!("1e{}", "9".repeat(900_000))] {
        let body = format!(r#"{{"deviceIds":["0000000000000001"],"timeoutMs":{number}}}"#);
        assert_eq!(post(&server, "/device/waitForPacket", "", body.as_bytes()).await.status, 400);
    }
}

#[tokio::test]
async fn what_is_packed_is_not_unpacked() {
    let server = Server::start(patient()).await;
    let answer = post(&server, "/device/lastRoute", "content-encoding: gzip\r\n", b"\x1f\x8b\x08\0\0\0\0\0").await;
    answer.is_error(400, "the body does not fit");
}
