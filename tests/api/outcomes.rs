//! Server-sent events of what becomes of messages.

use serde_json::json;

use crate::events::Ask;
use crate::harness::{DEVICE, Server, Setup, ended, metric};
use crate::messages::{call, site, text};
use crate::scopes::{ADMINISTRATOR, Fixture, ask};

fn following(path: &str) -> Ask<'_> {
    Ask { path, ..Ask::default() }
}

async fn made(server: &Server) -> String {
    text(&server.create("/rpc", &call(9)).await, "id")
}

#[tokio::test]
async fn what_happens_to_a_call_is_told_as_it_is_read() {
    for http2 in [false, true] {
        let server = site().await;
        let mut events = Ask { http2, ..following("/rpc") }.follow(&server).await;
        let start = events.start().await;
        let stream = start.strip_suffix("-0").unwrap();
        let id = made(&server).await;
        server.sent(&id).await;
        let (name, event, sent) = events.event().await;
        assert_eq!((name.as_str(), event, &sent["id"]), ("sent", format!("{stream}-1"), &json!(id)));
        assert_eq!(sent["downlinkMessage"]["status"], "sent");
        server.answered(&id, &[], None).await;
        let (name, event, completed) = events.event().await;
        assert_eq!((name.as_str(), event), ("completed", format!("{stream}-2")));
        assert_eq!(completed, server.read(&format!("/rpc/{id}")).await);
        assert_eq!(metric(&server, "lastroute_stream_events_total{event=\"completed\"} ").await, 1);
        assert_eq!(metric(&server, "lastroute_streams ").await, 1);
    }
}

#[tokio::test]
async fn what_expires_and_what_is_given_up_are_told_apart() {
    let server = site().await;
    server.report(DEVICE, 1);
    let mut events = following("/rpc").follow(&server).await;
    events.start().await;
    let mut short = call(9);
    short["sendWaitTimeoutMs"] = json!(1);
    let expired = text(&server.create("/rpc", &short).await, "id");
    let (name, _, message) = events.event().await;
    assert_eq!((name.as_str(), &message["id"]), ("expired", &json!(expired)));
    assert_eq!(message["downlinkMessage"]["status"], "waiting");
    let dropped = made(&server).await;
    server.given_up(&dropped).await;
    let (name, _, message) = events.event().await;
    assert_eq!((name.as_str(), &message["id"]), ("dropped", &json!(dropped)));
    assert!(message["downlinkMessage"]["note"].is_string(), "{message}");
}

#[tokio::test]
async fn what_is_taken_back_is_told_once_more_as_it_was() {
    let server = site().await;
    let mut events = following("/rpc").follow(&server).await;
    events.start().await;
    let id = made(&server).await;
    let before = server.read(&format!("/rpc/{id}")).await;
    server.delete(&format!("/rpc/{id}")).await;
    let (name, _, message) = events.event().await;
    assert_eq!((name.as_str(), message), ("withdrawn", before));
    assert_eq!(metric(&server, "lastroute_stream_events_total{event=\"withdrawn\"} ").await, 1);
}

#[tokio::test]
async fn nothing_is_told_of_packets_that_are_no_calls() {
    let server = site().await;
    let mut events = following("/rpc").follow(&server).await;
    events.start().await;
    let plain = json!({"packetType": 200, "payload": "AA==", "sendWaitTimeoutMs": 60_000});
    let plain = text(&server.create(&format!("/device/deviceId/{DEVICE}/downlink"), &plain).await, "id");
    server.sent(&plain).await;
    server.becomes(&format!("/downlink/{plain}"), "sent").await;
    let call = made(&server).await;
    server.sent(&call).await;
    assert_eq!(events.event().await.2["id"], json!(call));
}

#[tokio::test]
async fn each_follower_is_told_of_the_messages_of_its_own_devices() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let key = Some(fixture.reader.as_str());
    let mut own = Ask { key, ..following("/rpc") }.follow(server).await;
    let of_own = format!("/rpc?organisationId={}", fixture.own);
    let mut named = Ask { key: Some(ADMINISTRATOR), ..following(&of_own) }.follow(server).await;
    let of_device = "/rpc?deviceId=0000000000000001";
    let mut one = Ask { key: Some(ADMINISTRATOR), ..following(of_device) }.follow(server).await;
    let mut all = Ask { key: Some(ADMINISTRATOR), ..following("/rpc") }.follow(server).await;
    for events in [&mut own, &mut named, &mut one, &mut all] {
        events.start().await;
    }
    let send = async |device: u8| {
        let mut body = call(9);
        body["deviceId"] = json!(format!("{device:016x}"));
        let id = text(&ask(server, ADMINISTRATOR, "POST", "/rpc", &body).await.json(), "id");
        server.sent(&id).await;
        id
    };
    let (foreign, mine) = (send(2).await, send(1).await);
    assert_eq!(all.event().await.2["id"], json!(foreign));
    for events in [&mut own, &mut named, &mut one, &mut all] {
        assert_eq!(events.event().await.2["id"], json!(mine));
    }
    let foreign = format!("/rpc?organisationId={}", fixture.other);
    let refused = Ask { key, ..following(&foreign) }.send(server).await;
    crate::harness::answer_http2(refused).await.is_error(403, "not for organisation");
}

#[tokio::test]
async fn whoever_comes_back_is_told_that_something_may_have_been_missed() {
    let server = site().await;
    let mut events = Ask { last_event_id: Some("7-42"), ..following("/rpc") }.follow(&server).await;
    let start = events.start().await;
    let (name, id, data) = events.event().await;
    assert_eq!((name.as_str(), data), ("reset", json!({"reset": true})));
    assert_eq!(id, format!("{}-1", start.strip_suffix("-0").unwrap()));
    let made = made(&server).await;
    server.sent(&made).await;
    assert_eq!(events.event().await.0, "sent");
}

#[tokio::test]
async fn what_is_wrong_with_a_stream_is_an_answer_and_it_ends_with_the_gateway() {
    let mut setup = Setup::default();
    setup.config.waits_per_credential = 1;
    let server = Server::start(setup).await;
    for (path, status, words) in [
        ("/rpc?status=sent", 400, "it must be left out where events are followed"),
        ("/rpc?deviceId=x", 400, "16 hex digits"),
        ("/rpc?organisationId=0198c0de-0000-7000-8000-00000000002a", 404, "there is no organisation"),
    ] {
        let answer = following(path).send(&server).await;
        crate::harness::answer_http2(answer).await.is_error(status, words);
    }
    let mut client = server.connect().await;
    let head = client.request("HEAD", "/rpc", "accept: text/event-stream\r\n", b"").await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    let mut events = following("/rpc").follow(&server).await;
    events.start().await;
    let full = following("/rpc").send(&server).await;
    crate::harness::answer_http2(full).await.is_error(429, "too many waits");
    assert_eq!(ended(&server, "refused").await, 4);
    server.shutdown.send(true).unwrap();
    assert_eq!(events.block().await, None);
}
