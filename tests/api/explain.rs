//! Why a device is reachable or not, as the API tells it.

use lastroute::clock::{Clock, Timestamp};
use lastroute::health::Part;
use lastroute::id::{DeviceId, KeyId};
use lastroute::table::route::{Path, Relaying};
use lastroute::wire::container::RouteInterface;
use lastroute::wire::frame::Level;
use serde_json::{Value, json};

use crate::harness::{AT, DEVICE, Server, Setup, has};
use crate::scopes::{ADMINISTRATOR, Fixture, ask};

const EXPLAIN: &str = "/device/deviceId/d291d4d66bf0a955/explain";

/// What is wrong with an answer, held against what the description says of it.
fn problems(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    let schema = schema["$ref"].as_str().map_or(schema, |name| document.pointer(&name[1..]).expect(name));
    let mut problems = Vec::new();
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            problems.push(format!("{place} has no {name}"));
        }
    }
    if let (Some(fields), Some(described)) = (value.as_object(), schema["properties"].as_object()) {
        for (name, field) in fields {
            match described.get(name) {
                Some(schema) => problems.extend(self::problems(document, schema, field, &format!("{place}.{name}"))),
                None => problems.push(format!("{place}.{name} is not described")),
            }
        }
    }
    for entry in value.as_array().into_iter().flatten() {
        problems.extend(self::problems(document, &schema["items"], entry, &format!("{place}[]")));
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        problems.push(format!("{place} is {value}"));
    }
    problems
}

#[tokio::test]
async fn a_device_is_explained_in_either_form_as_it_is_described() {
    let server = Server::start(Setup::default()).await;
    server.report(DEVICE, 1);
    server.health.degrade(Part::Records, "no space left");
    server.downlinks.questions.doubt(DEVICE, KeyId::new(0x1234).unwrap(), Clock::default().now());
    let told = server.read(EXPLAIN).await;
    has(
        &told,
        &["deviceId", "at", "sentence", "reachable", "reason", "routes", "packets", "claims", "key", "degraded"],
    );
    assert_eq!((&told["deviceId"], told.get("registeredSince")), (&json!(DEVICE), None));
    let packet = json!([{"receivedAt": "2026-11-23T03:00:00.123Z", "result": "accepted", "rule": "R4.3 new session",
        "isAnswer": false, "isRelayed": false, "source": "203.0.113.7:6200", "type": "tdf", "level": "network", "timeClass": "fresh",
        "sequence": 1, "gpsTime": AT.gps()}]);
    assert_eq!(told["packets"], packet, "of the record: ingest has nothing");
    let route = json!([{"place": {"address": "203.0.113.7:6200"}, "time": "2026-11-23T03:00:00.123Z", "trust": "network",
        "proved": true, "unanswered": 0}]);
    assert_eq!((&told["routes"], &told["key"]["named"]["keyId"]), (&route, &json!(0x1234)));
    assert_eq!(told["degraded"], json!({"records": "no space left"}));
    assert!(told["sentence"].as_str().unwrap().contains("from 203.0.113.7:6200"), "{told}");
    let packed = server.get(EXPLAIN, "accept: application/msgpack\r\n").await.message_pack();
    assert_eq!(packed["packets"], told["packets"]);
    let document = server.read("/openapi.json").await;
    let described = &document["paths"]["/device/deviceId/{deviceId}/explain"]["get"];
    assert_eq!(described["x-lastroute-extension"], true);
    let schema = &described["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(problems(&document, schema, &told, "explanation"), [""; 0]);
    let mut wrong = told;
    wrong["reachable"] = "perhaps".into();
    wrong["more"] = 1.into();
    assert_eq!(problems(&document, schema, &wrong, "explanation").len(), 2);
}

#[tokio::test]
async fn a_registered_device_that_was_never_heard_is_explained_and_an_unknown_id_is_not() {
    let server = Server::start(Setup::default()).await;
    let nothing = "is not registered, was never heard, and nothing claims to be it; check the id";
    server.get(EXPLAIN, "").await.is_error(404, nothing);
    server.get("/device/deviceId/xyz/explain", "").await.is_error(400, "16 hex digits");
    server.table.register(DEVICE, Clock::default().now());
    let told = server.read(EXPLAIN).await;
    assert_eq!((&told["reachable"], &told["reason"]), (&json!("no"), &json!("neverHeard")));
    let sentence =
        "Never heard, as far as is remembered, though registered for less than 1 s; nothing claims to be it of late.";
    assert_eq!(told["sentence"], sentence);
    assert_eq!((&told["packets"], told.get("cadence")), (&json!([]), None));
}

#[tokio::test]
async fn a_caller_of_one_organisation_has_its_own_devices_explained_and_no_others() {
    let fixture = Fixture::new().await;
    let explain = async |key: &str, id: u64| {
        ask(&fixture.server, key, "GET", &format!("/device/deviceId/{id:016x}/explain"), &json!({})).await
    };
    fixture.server.report(DeviceId(2), 1);
    fixture.server.report(DeviceId(3), 1);
    assert_eq!(explain(&fixture.reader, 1).await.json()["reason"], "neverHeard");
    for other in [2, 3, 4] {
        let refused = explain(&fixture.reader, other).await;
        refused.is_error(404, "the organisation of these credentials has no device");
    }
    for (id, status) in [(1, 200), (2, 200), (3, 200), (4, 404)] {
        assert_eq!(explain(ADMINISTRATOR, id).await.status, status, "{id}");
    }
    let call = json!({"deviceId": DeviceId(1), "rpc": {"commandId": 3}, "sendWaitTimeoutMs": 600_000});
    assert_eq!(ask(&fixture.server, &fixture.writer, "POST", "/rpc", &call).await.status, 201);
    let told = explain(&fixture.reader, 1).await.json();
    assert_eq!(told["messagesWaiting"], 1);
    assert!(told["sentence"].as_str().unwrap().ends_with("; 1 message waits for it."), "{told}");
}

#[tokio::test]
async fn what_came_before_a_device_was_registered_is_told_to_callers_of_all_organisations_only() {
    let fixture = Fixture::new().await;
    let now = Clock::default().now();
    let questions = &fixture.server.downlinks.questions;
    questions.doubt(DeviceId(1), KeyId::new(0x1234).unwrap(), Timestamp(now.0 - 60_000));
    let named = async |key: &str| {
        let told =
            ask(&fixture.server, key, "GET", "/device/deviceId/0000000000000001/explain", &json!({})).await.json();
        (told["key"]["named"].is_object(), told["sentence"].as_str().unwrap().contains("0x001234"))
    };
    assert_eq!(named(ADMINISTRATOR).await, (true, true));
    assert_eq!(named(&fixture.reader).await, (false, false), "it may have been another's");
    questions.doubt(DeviceId(1), KeyId::new(0x1235).unwrap(), Timestamp(now.0 + 1));
    let told =
        ask(&fixture.server, &fixture.reader, "GET", "/device/deviceId/0000000000000001/explain", &json!({})).await;
    assert_eq!(told.json()["key"]["named"]["keyId"], 0x1235);
}

#[tokio::test]
async fn a_relay_of_another_organisation_is_told_to_callers_of_all_organisations_only() {
    let fixture = Fixture::new().await;
    let through = Relaying {
        relay: DeviceId(2),
        level: Level::Device,
        address: "198.51.100.9:77".parse().unwrap(),
        sequence: 1,
        interface: RouteInterface::BtAdv,
        bt: None,
        rssi_dbm: -67,
    };
    fixture.server.report_by(DeviceId(1), 1, &Path::Relayed(through));
    let told = async |key: &str| {
        let told =
            ask(&fixture.server, key, "GET", "/device/deviceId/0000000000000001/explain", &json!({})).await.json();
        let text = told.to_string();
        (
            text.contains("0000000000000002"),
            text.contains("198.51.100.9"),
            text.contains("a relay of another organisation"),
        )
    };
    assert_eq!(told(ADMINISTRATOR).await, (true, true, false));
    assert_eq!(told(&fixture.reader).await, (false, false, true));
}
