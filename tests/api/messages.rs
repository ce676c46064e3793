//! Messages to devices: accepted, listed, read, waited for and taken back, by those whose devices they are for.

use std::net::SocketAddr;

use lastroute::clock::{Clock, Timestamp};
use lastroute::downlink::event::{Answer, Dropped, Event, Listening, Way};
use lastroute::downlink::intent::{Intent, Retry, Sealing};
use lastroute::table::route::{DirectRoute, Route, Trust};
use lastroute::wire::frame::{Level, PacketType};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{DEVICE, Server, Setup, each, ended, has};
use crate::scopes::{ADMINISTRATOR, Fixture, ask};

const NOBODY: &str = "0198c0de-0000-7000-8000-00000000002a";
const MINUTE_MS: u64 = 60_000;

/// A server with a registered device that was never heard.
pub(crate) async fn site() -> Server {
    let server = Server::start(Setup::default()).await;
    register(&server).await;
    server
}

async fn register(server: &Server) {
    let organisation = text(&server.create("/organisation", &json!({"name": "own"})).await, "id");
    let board = json!({"name": "tag", "description": "", "soc": "nRF9151", "organisationId": organisation});
    let board = text(&server.create("/board", &board).await, "id");
    let device = json!({"mcuId": "0011223344556677", "boardId": board, "organisationId": organisation,
        "deviceId": DEVICE.to_string()});
    server.create("/device", &device).await;
}

pub(crate) fn text(record: &Value, name: &str) -> String {
    record[name].as_str().unwrap().to_owned()
}

/// A request for a call that waits for a minute.
pub(crate) fn call(command_id: u16) -> Value {
    json!({"deviceId": DEVICE.to_string(), "sendWaitTimeoutMs": MINUTE_MS, "rpc": {"commandId": command_id}})
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

impl Server {
    /// As if ingest had sent a message just now.
    pub(crate) async fn sent(&self, id: &str) {
        let message = self.registry.message(id.parse().unwrap()).await.unwrap().unwrap();
        let at = Clock::default().now();
        let address: SocketAddr = "203.0.113.7:6200".parse().unwrap();
        self.downlinks.events.send(Event::Sent {
            device: message.device.device_id,
            message: message.n,
            at,
            way: Way { sequence: 40_000, level: Level::Network, address, relay: None },
            listening: Listening { always_rx: true, single_tx: false, heard_at: at },
        });
    }

    /// As if its device had answered, after this data.
    pub(crate) async fn answered(&self, id: &str, body: &[u8], data: Option<&[u8]>) {
        let message = self.registry.message(id.parse().unwrap()).await.unwrap().unwrap();
        let call = message.call.unwrap();
        let at = Clock::default().now();
        let address = "203.0.113.7:6200".parse().unwrap();
        self.downlinks.events.send(Event::Answered {
            device: message.device.device_id,
            message: message.n,
            answer: Answer {
                request_id: call.request_id,
                command_id: call.command_id,
                return_code: -13,
                body: body.into(),
                level: Level::Network,
                at,
                route: Route::Direct(DirectRoute { address, received_at: at, sequence: 4711, trust: Trust::Network }),
            },
            data: data.map(|data| data.to_vec().into()),
        });
    }

    /// As if the route of its device had moved before it was sent.
    pub(crate) async fn given_up(&self, id: &str) {
        let message = self.registry.message(id.parse().unwrap()).await.unwrap().unwrap();
        let (device, at) = (message.device.device_id, Clock::default().now());
        let why = Dropped::RouteMoved { cursor: self.table.cursor(device) };
        self.downlinks.events.send(Event::Dropped { device, message: message.n, at, why });
    }

    /// Reads a message until it has come so far.
    pub(crate) async fn becomes(&self, path: &str, status: &str) -> Value {
        loop {
            let message = self.read(path).await;
            if message["downlinkMessage"]["status"] == status {
                return message;
            }
        }
    }
}

#[tokio::test]
async fn a_call_waits_is_sent_and_is_completed_and_shows_what_the_contract_says() {
    let server = site().await;
    let created = server.create("/rpc", &with(call(9), "level", json!("network"))).await;
    has(&created, &["createdAt", "id", "downlinkMessageId"]);
    assert_eq!(created.as_object().unwrap().len(), 3);
    assert_ne!(created["id"], created["downlinkMessageId"]);
    let path = format!("/rpc/{}", text(&created, "id"));
    let waiting = server.read(&path).await;
    has(&waiting, &["createdAt", "id", "downlinkMessageId", "device", "downlinkMessage"]);
    let device = server.read(&format!("/device/deviceId/{DEVICE}")).await;
    assert_eq!((&waiting["device"], &waiting["id"]), (&device, &created["id"]));
    let message = &waiting["downlinkMessage"];
    assert_eq!((&message["id"], &message["deviceId"]), (&created["downlinkMessageId"], &device["id"]));
    for (name, value) in [
        ("status", json!("waiting")),
        ("payloadType", json!(3)),
        ("auth", json!(1)),
        ("sendWaitTimeoutMs", json!(MINUTE_MS)),
        ("level", json!("network")),
        ("retry", json!("never")),
        ("attempts", json!(0)),
    ] {
        assert_eq!(message[name], value, "{name}");
    }
    let request = &message["rpcReq"];
    assert_eq!((&request["commandId"], &request["commandName"]), (&json!(9), &json!("application_info")));
    assert!(request["requestId"].is_u64() && message.get("sentAt").is_none() && request.get("route").is_none());
    server.sent(&text(&created, "id")).await;
    let sent = server.becomes(&path, "sent").await;
    has(&sent["downlinkMessage"], &["sentAt", "expiresAt"]);
    let route =
        json!({"interface": "udp", "interfaceData": {"sequence": 40_000}, "udp": {"address": "203.0.113.7:6200"}});
    assert_eq!(sent["downlinkMessage"]["rpcReq"]["route"], route);
    assert_eq!((&sent["downlinkMessage"]["attempts"], &sent["downlinkMessage"]["auth"]), (&json!(1), &json!(1)));
    server.keeps(&path, 409, "was sent already").await;
    server.answered(&text(&created, "id"), &[1, 2, 3], Some(b"\x00data")).await;
    let completed = server.becomes(&path, "completed").await;
    has(&completed["downlinkMessage"], &["sentAt", "completedAt"]);
    let answer = &completed["downlinkMessage"]["rpcRsp"];
    assert_eq!((&answer["returnCode"], &answer["paramsEncoded"]), (&json!(-13), &json!("AQID")));
    assert_eq!(answer["route"]["interfaceData"]["sequence"], 4711);
    assert_eq!(completed["downlinkMessage"]["receivedLength"], 5);
    let data = server.get(&format!("{path}/data"), "").await;
    assert_eq!((data.status, data.header("content-type")), (200, Some("application/octet-stream")));
    assert_eq!(data.body, b"\x00data");
    let packed = server.get(&path, "accept: application/msgpack\r\n").await;
    assert_eq!(packed.message_pack(), completed);
}

#[tokio::test]
async fn parameters_are_shown_decoded_where_the_command_is_known_and_packed_otherwise() {
    let server = site().await;
    for (rpc, params, encoded) in [
        (json!({"commandId": 40_000}), Value::Null, Value::Null),
        (json!({"commandId": 40_000, "paramsEncoded": "AAEC"}), Value::Null, json!("AAEC")),
        (json!({"commandId": 40_000, "params": {"a": "1"}, "paramsEncoded": "AAEC"}), Value::Null, json!("AAEC")),
    ] {
        let created = server.create("/rpc", &with(call(9), "rpc", rpc.clone())).await;
        let message = server.read(&format!("/rpc/{}", text(&created, "id"))).await;
        let request = &message["downlinkMessage"]["rpcReq"];
        assert_eq!((&request["params"], &request["paramsEncoded"]), (&params, &encoded), "{rpc}");
        assert!(!message.to_string().contains("null"), "{message}");
    }
    let update = json!({"commandId": 30_001, "paramsEncoded": "AAEC"});
    let created = server.create("/rpc", &with(call(9), "rpc", update)).await;
    let message = server.read(&format!("/rpc/{}", text(&created, "id"))).await;
    let request = &message["downlinkMessage"]["rpcReq"];
    assert_eq!(request["commandName"], "security_key_update");
    assert!(request.get("params").is_none() && request.get("paramsEncoded").is_none(), "a key is in them: {request}");
    let headers = "content-type: application/msgpack\r\naccept: application/msgpack\r\n";
    let packed = server.post("/rpc", headers, &rmp_serde::to_vec_named(&call(9)).unwrap()).await;
    assert_eq!(packed.status, 201, "{packed:?}");
    has(&packed.message_pack(), &["createdAt", "id", "downlinkMessageId"]);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_with_a_sentence_and_nothing_stays_of_it() {
    let server = site().await;
    let now = with(call(9), "sendWaitTimeoutMs", json!(0));
    for (body, words) in [
        (json!({}), "missing field `deviceId`"),
        (with(call(9), "deviceId", json!("d2")), "deviceId"),
        (with(call(9), "deviceId", json!("0000000000000009")), "device 0000000000000009 is not registered"),
        (with(call(9), "rpc", json!({})), "rpc names no command"),
        (with(call(9), "rpc", json!({"commandName": "reboot_all"})), "there is no command \"reboot_all\""),
        (with(call(9), "rpc", json!({"commandId": 40_000, "params": {"a": "1"}})), "command 40000"),
        (with(call(9), "rpc", json!({"commandId": 9, "paramsEncoded": "A"})), "standard base64"),
        (with(call(9), "rpc", json!({"commandId": -1})), "commandId"),
        (with(call(9), "rpc", json!({"commandId": 9, "params": null})), "null"),
        (with(call(9), "sendWaitTimeoutMs", json!(-1)), "sendWaitTimeoutMs"),
        (with(call(9), "sendWaitTimeoutMs", json!(40_000_000_000_u64)), "sendWaitTimeoutMs must be"),
        (with(call(9), "level", json!("secret")), "level"),
        (with(call(9), "retry", json!("always")), "retry"),
        (with(call(9), "ifRoute", json!("here")), "ifRoute"),
        (with(call(9), "data", json!("A")), "data"),
        (with(call(9), "data", json!("AAEC")), "moves no data"),
        (with(call(9), "rpc", json!({"commandId": 44})), "command 44 (file_write) moves data"),
        (with(call(9), "rpc", json!({"commandId": 44, "dataHeader": {"size": 3, "rxAckPeriod": 9}})), "rxAckPeriod"),
        (with(now.clone(), "retry", json!("untilAnswered")), "needs sendWaitTimeoutMs"),
        (now.clone(), "has no route"),
    ] {
        server.send("POST", "/rpc", &body).await.is_error(400, words);
    }
    let long = with(call(9), "rpc", json!({"commandId": 9, "paramsEncoded": "A".repeat(4000)}));
    server.send("POST", "/rpc", &long).await.is_error(400, "the device takes");
    server.post("/rpc", "", &vec![b' '; 2_500_001]).await.is_error(413, "longer than 2500000 bytes");
    server.report(DEVICE, 1);
    server.send("POST", "/rpc", &with(now.clone(), "level", json!("device"))).await.is_error(400, "is not known");
    assert_eq!(server.read("/rpc").await, json!([]));
    for (method, path) in [("GET", "/rpc/9"), ("DELETE", "/rpc/9"), ("GET", "/rpc/9/data"), ("GET", "/downlink/9")] {
        server.send(method, path, &json!({})).await.is_error(400, "no record id");
    }
    let created = server.create("/rpc", &now).await;
    let message = server.becomes(&format!("/rpc/{}", text(&created, "id")), "sent").await;
    assert_eq!(message["downlinkMessage"]["sendWaitTimeoutMs"], 0);
}

#[tokio::test]
async fn a_message_that_is_bound_to_a_route_is_refused_with_the_present_one_once_it_has_moved() {
    let server = site().await;
    server.report(DEVICE, 1);
    let cursor = server.table.cursor(DEVICE).to_string();
    server.create("/rpc", &with(call(9), "ifRoute", json!(cursor))).await;
    for path in ["/rpc".to_owned(), format!("/device/deviceId/{DEVICE}/downlink")] {
        let mut body = with(call(9), "ifRoute", json!("1-1"));
        (body["packetType"], body["payload"]) = (json!(200), json!("AA=="));
        let moved = server.send("POST", &path, &body).await;
        moved.is_error(409, &cursor);
        let route = server.read(&format!("/device/deviceId/{DEVICE}/lastRoute")).await;
        assert_eq!((&moved.json()["cursor"], &moved.json()["lastRoute"]), (&json!(cursor), &route));
    }
}

#[tokio::test]
async fn what_waits_is_taken_back_and_gone() {
    let server = site().await;
    let path = format!("/rpc/{}", text(&server.create("/rpc", &call(9)).await, "id"));
    assert_eq!(server.downlinks.outbox.waiting_for(DEVICE), 1);
    server.get(&format!("{path}/data"), "").await.is_error(404, "there is no data of RPC");
    server.delete(&path).await;
    assert_eq!(server.downlinks.outbox.waiting_for(DEVICE), 0);
    for path in [path.as_str(), &format!("{path}/data"), &format!("/rpc/{NOBODY}"), &format!("/downlink/{NOBODY}")] {
        server.get(path, "").await.is_error(404, "there is no");
    }
    server.keeps(&path, 404, "there is no RPC").await;
    server.get("/rpc/1", "").await.is_error(400, "record id");
    let expired = server.create("/rpc", &with(call(9), "sendWaitTimeoutMs", json!(1))).await;
    let path = format!("/rpc/{}", text(&expired, "id"));
    server.get(&format!("{path}?timeoutMs=60000"), "").await;
    server.delete(&path).await;
    server.keeps(&path, 404, "there is no RPC").await;
}

#[tokio::test]
async fn a_packet_that_is_no_call_has_a_path_of_its_own() {
    let server = site().await;
    let send = format!("/device/deviceId/{DEVICE}/downlink");
    let body = json!({"packetType": 200, "payload": "AAEC", "sendWaitTimeoutMs": MINUTE_MS, "level": "network"});
    let created = server.create(&send, &body).await;
    let id = text(&created, "id");
    let message = server.read(&format!("/downlink/{id}")).await;
    has(&message, &["createdAt", "id", "downlinkMessageId", "device", "downlinkMessage"]);
    let downlink = &message["downlinkMessage"];
    for (name, value) in [
        ("payload", json!("AAEC")),
        ("payloadType", json!(200)),
        ("status", json!("waiting")),
        ("level", json!("network")),
    ] {
        assert_eq!(downlink[name], value, "{name}");
    }
    server.get(&format!("/rpc/{id}"), "").await.is_error(404, "there is no RPC");
    server.keeps(&format!("/rpc/{id}"), 404, "there is no RPC").await;
    let call = text(&server.create("/rpc", &call(9)).await, "id");
    server.get(&format!("/downlink/{call}"), "").await.is_error(404, "there is no downlink");
    assert_eq!(each(&server.read("/rpc").await, "id"), [call], "lists have calls only");
    server.delete(&format!("/downlink/{id}")).await;
    for (body, status, words) in [
        (with(body.clone(), "packetType", json!(3)), 400, "POST /rpc"),
        (with(body.clone(), "packetType", json!(4)), 400, "POST /rpc"),
        (with(body.clone(), "packetType", json!(8)), 400, "the gateway does by itself"),
        (with(body.clone(), "packetType", json!(256)), 400, "packetType"),
        (json!({"packetType": 200}), 400, "payload"),
        (with(body.clone(), "payload", json!("")), 400, "payload is empty"),
        (with(body.clone(), "payload", json!("A")), 400, "payload"),
        (with(body.clone(), "payload", json!("A".repeat(4000))), 400, "the device takes"),
        (with(body.clone(), "level", json!("both")), 400, "level"),
        (with(body.clone(), "retry", json!("untilAnswered")), 400, "is for calls"),
        (with(body.clone(), "sendWaitTimeoutMs", json!(0)), 400, "has no route"),
    ] {
        server.send("POST", &send, &body).await.is_error(status, words);
    }
    let before = server.downlinks.outbox.waiting_for(DEVICE);
    for packet_type in
        (0..=255_u8).filter(|packet_type| ![0, 3, 4, 8, 9, 12].contains(packet_type) && *packet_type < 128)
    {
        let refused = server.send("POST", &send, &with(body.clone(), "packetType", json!(packet_type))).await;
        refused.is_error(400, "is one that devices send");
    }
    assert_eq!(server.downlinks.outbox.waiting_for(DEVICE), before);
    for packet_type in [0, 9, 12, 128, 255] {
        server.create(&send, &with(body.clone(), "packetType", json!(packet_type))).await;
    }
    let unknown = "/device/deviceId/0000000000000009/downlink";
    server.send("POST", unknown, &body).await.is_error(404, "there is no device 0000000000000009");
}

#[tokio::test]
async fn the_types_of_packets_are_described_as_they_are_taken() {
    let server = site().await;
    let described = server.read("/openapi.json").await;
    let parts = described["components"]["schemas"]["NewDownlink"]["allOf"].as_array().unwrap();
    let fits = parts.iter().find_map(|part| part["properties"]["packetType"]["oneOf"].as_array()).unwrap();
    let send = format!("/device/deviceId/{DEVICE}/downlink");
    for packet_type in 0..=256_u64 {
        let body = json!({"packetType": packet_type, "payload": "AAEC", "sendWaitTimeoutMs": MINUTE_MS});
        let answer = server.send("POST", &send, &body).await;
        if answer.status == 201 {
            server.delete(&format!("/downlink/{}", text(&answer.json(), "id"))).await;
        }
        let is_described = fits.iter().any(|one| match &one["enum"] {
            Value::Array(values) => values.contains(&json!(packet_type)),
            _ => (one["minimum"].as_u64().unwrap()..=one["maximum"].as_u64().unwrap()).contains(&packet_type),
        });
        assert_eq!(answer.status, if is_described { 201 } else { 400 }, "{packet_type}");
    }
}

#[tokio::test]
async fn a_list_has_every_filter_and_order_and_the_latest_first() {
    let server = site().await;
    let mut made = Vec::new();
    for command_id in [40_005, 40_004, 40_006] {
        made.push(server.create("/rpc", &call(command_id)).await);
    }
    let short = with(call(40_007), "sendWaitTimeoutMs", json!(1));
    made.push(server.create("/rpc", &short).await);
    let ids: Vec<_> = made.iter().map(|made| text(made, "id")).collect();
    let is_expired = async || {
        let message = server.registry.message(ids[3].parse::<Uuid>().unwrap()).await.unwrap().unwrap();
        message.expires_at.0 < Clock::default().now()
    };
    while !is_expired().await {}
    server.sent(&ids[1]).await;
    server.becomes(&format!("/rpc/{}", ids[1]), "sent").await;
    let list = async |query: &str| {
        let listed = each(&server.read(&format!("/rpc?{query}")).await, "id");
        listed.iter().map(|id| ids.iter().position(|made| made == id).unwrap()).collect::<Vec<_>>()
    };
    let second = text(&made[1], "createdAt");
    for (query, expected) in [
        (String::new(), vec![3, 2, 1, 0]),
        ("orderDir=asc".to_owned(), vec![0, 1, 2, 3]),
        ("limit=2&offset=1".to_owned(), vec![2, 1]),
        ("orderBy=commandId&orderDir=asc".to_owned(), vec![1, 0, 2, 3]),
        ("status=sent".to_owned(), vec![1]),
        ("status=waiting".to_owned(), vec![3, 2, 0]),
        ("status=completed".to_owned(), vec![]),
        ("showExpired=false".to_owned(), vec![2, 1, 0]),
        ("showExpired=true".to_owned(), vec![3, 2, 1, 0]),
        ("rpcCommandId=40006".to_owned(), vec![2]),
        (format!("deviceId={DEVICE}&rpcCommandId=40005"), vec![0]),
        ("deviceId=0000000000000009".to_owned(), vec![]),
        (format!("organisationId={NOBODY}"), vec![]),
        (
            format!("startTime={second}&orderDir=asc&limit=1"),
            vec![if created_before(&made[0], &made[1]) { 1 } else { 0 }],
        ),
        ("endTime=2020-01-01T00%3A00%3A00%2B00%3A00".to_owned(), vec![]),
    ] {
        assert_eq!(list(&query).await, expected, "{query}");
    }
    for order in ["commandId", "completedAt", "createdAt", "deviceId", "expiresAt", "sentAt", "status", "updatedAt"] {
        for direction in ["asc", "desc"] {
            let mut listed = list(&format!("orderBy={order}&orderDir={direction}")).await;
            listed.sort_unstable();
            assert_eq!(listed, [0, 1, 2, 3], "{order} {direction}");
        }
    }
    for (query, words) in [
        ("status=expired", "completed, sent or waiting"),
        ("startTime=now", "a time with its zone"),
        ("startTime=2026-11-23T03:00:00", "a time with its zone"),
        ("endTime=2026-11-23T03:00:00+00:00", "encode a + as %2B"),
        ("deviceId=d2", "16 hex digits"),
        ("rpcCommandId=65536", "from 0 to 65535"),
        ("showExpired=no", "true or false"),
        ("orderBy=name", "commandId, completedAt, createdAt"),
        ("organisationId=x", "a record id"),
    ] {
        server.get(&format!("/rpc?{query}"), "").await.is_error(400, words);
    }
}

fn created_before(one: &Value, other: &Value) -> bool {
    text(one, "createdAt") < text(other, "createdAt")
}

#[tokio::test]
async fn messages_of_others_are_as_those_that_are_not_there() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let send = async |key: &str, device: u8| {
        let body = with(call(9), "deviceId", json!(format!("{device:016x}")));
        ask(server, key, "POST", "/rpc", &body).await
    };
    let own = text(&send(&fixture.writer, 1).await.json(), "id");
    let foreign = text(&send(ADMINISTRATOR, 2).await.json(), "id");
    let (absent, refused) = (send(&fixture.writer, 3).await, send(&fixture.writer, 2).await);
    absent.is_error(400, "device 0000000000000003 is not registered");
    refused.is_error(400, "device 0000000000000002 is not registered");
    for (id, status) in [(&own, 200), (&foreign, 404)] {
        let read = ask(server, &fixture.reader, "GET", &format!("/rpc/{id}"), &json!({})).await;
        assert_eq!(read.status, status, "{read:?}");
        let waited = ask(server, &fixture.reader, "GET", &format!("/rpc/{id}?timeoutMs=0"), &json!({})).await;
        assert_eq!(waited.status, status, "{waited:?}");
    }
    for path in [format!("/rpc/{foreign}"), format!("/downlink/{foreign}")] {
        assert_eq!(ask(server, &fixture.writer, "DELETE", &path, &json!({})).await.status, 404);
    }
    let foreign_data = ask(server, &fixture.reader, "GET", &format!("/rpc/{foreign}/data"), &json!({})).await;
    foreign_data.is_error(404, "there is no RPC");
    let list = async |key: &str, query: &str| ask(server, key, "GET", &format!("/rpc{query}"), &json!({})).await;
    assert_eq!(each(&list(&fixture.reader, "").await.json(), "id"), [own.as_str()]);
    assert_eq!(each(&list(&fixture.reader, "?deviceId=0000000000000002").await.json(), "id"), [""; 0]);
    list(&fixture.reader, &format!("?organisationId={}", fixture.other)).await.is_error(403, "not for organisation");
    assert_eq!(each(&list(ADMINISTRATOR, "").await.json(), "id"), [foreign.as_str(), own.as_str()]);
    let of_own = list(ADMINISTRATOR, &format!("?organisationId={}", fixture.own)).await;
    assert_eq!(each(&of_own.json(), "id"), [own.as_str()]);
    assert_eq!(ask(server, &fixture.writer, "DELETE", &format!("/rpc/{own}"), &json!({})).await.status, 204);
}

#[tokio::test]
async fn a_wait_ends_with_what_became_of_the_message_or_at_its_time() {
    let server = site().await;
    let id = text(&server.create("/rpc", &call(9)).await, "id");
    let path = format!("/rpc/{id}?timeoutMs=60000");
    let (waited, ()) = tokio::join!(server.get(&path, ""), async {
        server.sent(&id).await;
        server.becomes(&format!("/rpc/{id}"), "sent").await;
        server.answered(&id, &[], None).await;
    });
    assert_eq!(waited.json()["downlinkMessage"]["status"], "completed");
    let again = server.get(&path, "").await;
    assert_eq!(again.json(), waited.json(), "it is over already");
    assert_eq!(ended(&server, "outcome").await, 2);
    let waiting = text(&server.create("/rpc", &call(9)).await, "id");
    for (path, headers) in [(format!("/rpc/{waiting}?timeoutMs=1"), ""), (format!("/rpc/{waiting}?timeoutMs=0"), "")] {
        assert_eq!(server.get(&path, headers).await.json()["downlinkMessage"]["status"], "waiting");
    }
    assert_eq!(ended(&server, "timeout").await, 2);
    let mut client = server.connect().await;
    assert_eq!(client.request("HEAD", &format!("/rpc/{waiting}?timeoutMs=60000"), "", b"").await.status, 200);
    server.get(&format!("/rpc/{waiting}?timeoutMs=600001"), "").await.is_error(400, "timeoutMs");
    server.get(&format!("/rpc/{NOBODY}?timeoutMs=1"), "").await.is_error(404, "there is no RPC");
    let plain = json!({"packetType": 200, "payload": "AA==", "sendWaitTimeoutMs": MINUTE_MS});
    let plain = text(&server.create(&format!("/device/deviceId/{DEVICE}/downlink"), &plain).await, "id");
    let path = format!("/downlink/{plain}?timeoutMs=60000");
    let (waited, ()) = tokio::join!(server.get(&path, ""), server.sent(&plain));
    assert_eq!(waited.json()["downlinkMessage"]["status"], "sent", "it expects no answer");
}

#[tokio::test]
async fn waits_for_outcomes_are_bounded_like_all_others_and_end_with_the_gateway() {
    let mut setup = Setup::default();
    setup.config.waits_per_credential = 0;
    let server = Server::start(setup).await;
    register(&server).await;
    let id = text(&server.create("/rpc", &call(9)).await, "id");
    server.get(&format!("/rpc/{id}?timeoutMs=1000"), "").await.is_error(429, "too many waits");
    assert_eq!(ended(&server, "refused").await, 1);
    let server = site().await;
    let id = text(&server.create("/rpc", &call(9)).await, "id");
    let mut client = server.connect().await;
    client.send_head("GET", &format!("/rpc/{id}?timeoutMs=600000"), "").await;
    // One connection after the other is served: this one is waited on by now.
    server.read("/rpc").await;
    server.shutdown.send(true).unwrap();
    client.answer(false).await.is_error(503, "shutting down");
}

#[tokio::test]
async fn what_waits_for_a_device_goes_with_it() {
    let server = site().await;
    let id = text(&server.create("/rpc", &call(9)).await, "id");
    let device = text(&server.read(&format!("/device/deviceId/{DEVICE}")).await, "id");
    server.delete(&format!("/device/id/{device}")).await;
    assert_eq!(server.downlinks.outbox.waiting_for(DEVICE), 0);
    server.get(&format!("/rpc/{id}"), "").await.is_error(404, "there is no RPC");
}

#[tokio::test]
async fn so_many_wait_for_a_device_and_no_more() {
    let server = site().await;
    for message in 1_000_000..1_001_000 {
        let intent = Intent {
            message,
            packet_type: PacketType::RPC_CMD,
            sealing: Sealing::Best,
            payload: [].into(),
            call: None,
            expires_at: Some(Timestamp(u64::MAX)),
            retry: Retry::Never,
            if_route: None,
        };
        server.downlinks.outbox.add(DEVICE, intent).unwrap();
    }
    let refused = server.send("POST", "/rpc", &call(9)).await;
    refused.is_error(429, "too many messages wait for this device");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(server.read("/rpc").await, json!([]));
}
