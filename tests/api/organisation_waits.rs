//! Waiting for any device of an organisation, once and as a stream: what counts, who may, and bounds.

use lastroute::id::DeviceId;
use lastroute::waiters::feeds::KEPT;
use serde_json::{Value, json};

use crate::events::{Ask, Events};
use crate::harness::{Answer, Client, Server, Setup, each};
use crate::scopes::{ADMINISTRATOR, Fixture, ask, device};

const MANY: &str = "/device/waitForPacket";
const OWN: DeviceId = DeviceId(1);
const OTHER: DeviceId = DeviceId(2);
const NEW: DeviceId = DeviceId(3);

fn bytes(body: &Value) -> Vec<u8> {
    serde_json::to_vec(body).unwrap()
}

async fn wait(fixture: &Fixture, key: &str, body: &Value) -> Answer {
    ask(&fixture.server, key, "POST", MANY, body).await
}

/// A wait with the key of one who may read for its own organisation, until as many wait at the server.
async fn begin(fixture: &Fixture, body: &Value, waiting: usize) -> Client {
    let mut client = fixture.server.connect().await;
    let (key, body) = (&fixture.reader, bytes(body));
    let headers = format!("x-api-key: {key}\r\ncontent-length: {}\r\n", body.len());
    client.send_head("POST", MANY, &headers).await;
    client.send(&body).await;
    fixture.server.waiting(waiting).await;
    client
}

/// A stream with the same key, after its start.
async fn follow(fixture: &Fixture, body: &str, last_event_id: Option<&str>) -> (Events, String) {
    let ask = Ask { path: MANY, body, last_event_id, key: Some(&fixture.reader), ..Ask::default() };
    let mut events = ask.follow(&fixture.server).await;
    let start = events.start().await;
    (events, start)
}

/// How many waits ended in this way.
async fn ended(fixture: &Fixture, outcome: &str) -> String {
    let answer = ask(&fixture.server, ADMINISTRATOR, "GET", "/metrics", &json!({})).await;
    let text = String::from_utf8(answer.body).unwrap();
    let name = format!("lastroute_waits_total{{outcome=\"{outcome}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap().to_owned()
}

fn cursor(fixture: &Fixture, id: DeviceId) -> String {
    fixture.server.table.cursor(id).to_string()
}

#[tokio::test]
async fn any_device_of_the_organisation_is_an_answer_and_none_of_another() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let mut client = begin(&fixture, &json!({"organisationId": fixture.own}), 1).await;
    let mut upper_case =
        begin(&fixture, &json!({"organisationId": fixture.own.to_uppercase(), "mode": "any"}), 2).await;
    let message = rmp_serde::to_vec_named(&json!({"organisationId": fixture.own})).unwrap();
    let mut packed = server.connect().await;
    let types = "content-type: application/msgpack\r\naccept: application/msgpack\r\n";
    let headers = format!("{types}x-api-key: {}\r\ncontent-length: {}\r\n", fixture.reader, message.len());
    packed.send_head("POST", MANY, &headers).await;
    packed.send(&message).await;
    server.waiting(3).await;
    server.report(OTHER, 1);
    server.report(NEW, 1);
    let new = device(&fixture.own, &fixture.public_board, 3);
    assert_eq!(ask(server, ADMINISTRATOR, "POST", "/device", &new).await.status, 201);
    server.report(NEW, 2);
    server.report(OWN, 7);
    let answer = client.answer(false).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!((&answer["pending"], &answer["timedOut"]), (&json!([]), &json!(false)));
    assert_eq!(
        each(&answer["packets"], "deviceId"),
        ["0000000000000003", "0000000000000001"],
        "in the order they spoke"
    );
    let first = &answer["packets"][0];
    assert_eq!((&first["missed"], &first["packet"]["sequence"]), (&json!(0), &json!(2)));
    assert_eq!((&first["cursor"], &first["lastRoute"]["interface"]), (&json!(cursor(&fixture, NEW)), &json!("udp")));
    assert_eq!(upper_case.answer(false).await.json(), answer);
    assert_eq!(packed.answer(false).await.message_pack(), answer);
    server.waiting(0).await;
    assert_eq!(ended(&fixture, "packet").await, "3");
}

#[tokio::test]
async fn the_end_of_the_time_is_204_and_a_position_behind_is_an_answer() {
    let fixture = Fixture::new().await;
    let body = |after: Value| json!({"organisationId": fixture.own, "timeoutMs": 0, "after": after});
    fixture.server.report(OWN, 1);
    let nothing = wait(&fixture, &fixture.reader, &body(json!({}))).await;
    assert_eq!((nothing.status, nothing.body.len()), (204, 0));
    let present = cursor(&fixture, OWN);
    let one = "0000000000000001";
    assert_eq!(wait(&fixture, &fixture.reader, &body(json!({one: present}))).await.status, 204);
    let reset = wait(&fixture, &fixture.reader, &body(json!({one: "0-0"}))).await.json();
    assert_eq!((&reset["packets"][0]["reset"], &reset["packets"][0]["cursor"]), (&json!(true), &json!(present)));
    fixture.server.report(OWN, 2);
    let behind = wait(&fixture, &fixture.reader, &body(json!({one: present}))).await.json();
    assert_eq!((&behind["packets"][0]["missed"], &behind["pending"]), (&json!(0), &json!([])));
    for (outcome, count) in [("timeout", "2"), ("reset", "1"), ("packet", "1"), ("refused", "0")] {
        assert_eq!(ended(&fixture, outcome).await, count, "{outcome}");
    }
}

#[tokio::test]
async fn who_may_wait_for_whom_and_what_is_wrong_with_a_request_is_named() {
    let fixture = Fixture::new().await;
    let (own, other, reader) = (&fixture.own, &fixture.other, fixture.reader.as_str());
    let unknown = "0198c0de-0000-7000-8000-00000000002a";
    let two = "0000000000000002";
    let ahead = format!("{}-9", fixture.server.table.cursor(OWN).epoch);
    for (key, body, status, words) in [
        (reader, json!({"organisationId": other}), 403, "not for organisation"),
        (reader, json!({"organisationId": unknown}), 403, "not for organisation"),
        (ADMINISTRATOR, json!({"organisationId": unknown}), 404, "there is no organisation 0198c0de"),
        (ADMINISTRATOR, json!({"organisationId": "own"}), 400, "organisationId must be a record id"),
        (reader, json!({"organisationId": own, "deviceIds": [two]}), 400, "either in deviceIds or by organisationId"),
        (reader, json!({"organisationId": own, "mode": "all"}), 400, "mode all needs deviceIds"),
        (
            reader,
            json!({"organisationId": own, "after": {two: "1-1"}}),
            404,
            "0000000000000002 is not registered for this",
        ),
        (ADMINISTRATOR, json!({"organisationId": own, "after": {two: "1-1"}}), 404, "leave it out of after"),
        (reader, json!({"organisationId": own, "after": {"2": "1-1"}}), 400, "after has the key \"2\""),
        (reader, json!({"organisationId": own, "after": {"0000000000000001": ahead}}), 400, "lies ahead"),
    ] {
        wait(&fixture, key, &body).await.is_error(status, words);
        let body = body.to_string();
        let stream = Ask { path: MANY, body: &body, key: Some(key), ..Ask::default() };
        assert_eq!(stream.send(&fixture.server).await.status(), status, "{body}");
    }
    assert_eq!((fixture.server.waiters.waiting(), ended(&fixture, "refused").await), (0, "20".to_owned()));
    assert_eq!(wait(&fixture, ADMINISTRATOR, &json!({"organisationId": other, "timeoutMs": 0})).await.status, 204);
}

#[tokio::test]
async fn a_wait_and_a_stream_take_one_place_each_however_many_devices_there_are() {
    for (per_device, total, per_credential, status, words) in [
        (2, 9, 9, 429, "too many wait for this organisation"),
        (9, 2, 9, 503, "too many wait at this gateway"),
        (9, 9, 2, 429, "too many waits with the same credentials"),
    ] {
        let mut setup = Setup::default();
        (setup.waiters.per_device, setup.waiters.total) = (per_device, total);
        setup.config.waits_per_credential = per_credential;
        let server = Server::start(setup).await;
        let organisation = server.create("/organisation", &json!({"name": "own"})).await;
        let body = json!({"organisationId": organisation["id"]});
        let text = body.to_string();
        let stream = Ask { path: MANY, body: &text, ..Ask::default() };
        let mut events = stream.follow(&server).await;
        events.start().await;
        let mut client = server.connect().await;
        client.send_head("POST", MANY, &format!("content-length: {}\r\n", text.len())).await;
        client.send(text.as_bytes()).await;
        server.waiting(2).await;
        let refused = server.post(MANY, "", &bytes(&body)).await;
        refused.is_error(status, words);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(stream.send(&server).await.status(), status);
        assert_eq!(server.waiters.waiting(), 2);
        drop((client, events));
        server.waiting(0).await;
        stream.follow(&server).await.start().await;
    }
}

#[tokio::test]
async fn a_stream_tells_of_every_device_and_is_reset_after_a_break() {
    let fixture = Fixture::new().await;
    let body = json!({"organisationId": fixture.own}).to_string();
    let (mut events, start) = follow(&fixture, &body, None).await;
    let stream = start.strip_suffix("-0").unwrap();
    fixture.server.report(OTHER, 1);
    for sequence in 1..4 {
        fixture.server.report(OWN, sequence);
        let (name, id, data) = events.event().await;
        assert_eq!((name.as_str(), id), ("packet", format!("{stream}-{sequence}")));
        assert_eq!((&data["missed"], &data["packet"]["sequence"]), (&json!(0), &json!(sequence)));
    }
    fixture.server.report(OWN, 4);
    fixture.server.report(OWN, 5);
    let (_, last, data) = events.event().await;
    assert_eq!((&data["missed"], &data["packet"]["sequence"]), (&json!(1), &json!(5)));
    drop(events);
    fixture.server.waiting(0).await;
    for last_event_id in [last.as_str(), "nonsense"] {
        let (mut events, _) = follow(&fixture, &body, Some(last_event_id)).await;
        let (name, _, data) = events.event().await;
        assert_eq!((name.as_str(), data), ("reset", json!({"organisationId": fixture.own, "reset": true})));
        let sequence = fixture.server.table.cursor(OWN).n + 1;
        fixture.server.report(OWN, sequence as u16);
        assert_eq!(events.told().await, ("packet".to_owned(), "0000000000000001".to_owned(), Some(sequence)));
    }
}

#[tokio::test]
async fn a_stream_that_falls_too_far_behind_is_reset_and_goes_on() {
    let fixture = Fixture::new().await;
    let new = device(&fixture.own, &fixture.public_board, 3);
    assert_eq!(ask(&fixture.server, ADMINISTRATOR, "POST", "/device", &new).await.status, 201);
    let body = json!({"organisationId": fixture.own}).to_string();
    let (mut events, _) = follow(&fixture, &body, None).await;
    // Nothing else runs meanwhile.
    fixture.server.report(NEW, 1);
    (1..=KEPT as u16).for_each(|sequence| fixture.server.report(OWN, sequence));
    let (name, _, data) = events.event().await;
    assert_eq!((name.as_str(), &data["organisationId"]), ("reset", &json!(fixture.own)));
    let (name, _, data) = events.event().await;
    assert_eq!((name.as_str(), &data["missed"]), ("packet", &json!(KEPT - 1)));
    fixture.server.report(NEW, 2);
    assert_eq!(events.told().await, ("packet".to_owned(), "0000000000000003".to_owned(), Some(2)));
}

#[tokio::test]
async fn a_stream_ends_in_time_and_both_end_when_the_organisation_is_deleted() {
    let server = Server::start(Setup::default()).await;
    let organisation = server.create("/organisation", &json!({"name": "own"})).await;
    let id = organisation["id"].as_str().unwrap();
    let short = json!({"organisationId": id, "timeoutMs": 1}).to_string();
    let mut ends = Ask { path: MANY, body: &short, ..Ask::default() }.follow(&server).await;
    ends.start().await;
    assert_eq!(ends.block().await, None);
    let text = json!({"organisationId": id}).to_string();
    let mut events = Ask { path: MANY, body: &text, ..Ask::default() }.follow(&server).await;
    events.start().await;
    let mut client = server.connect().await;
    client.send_head("POST", MANY, &format!("content-length: {}\r\n", text.len())).await;
    client.send(text.as_bytes()).await;
    server.waiting(2).await;
    server.delete(&format!("/organisation/id/{id}")).await;
    assert_eq!(events.block().await, None);
    client.answer(false).await.is_error(404, "the organisation was deleted");
    server.waiting(0).await;
    drop(events);
    for (outcome, count) in [("timeout", 1), ("refused", 2), ("abandoned", 0)] {
        assert_eq!(crate::harness::ended(&server, outcome).await, count, "{outcome}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_or_a_shutdown_ends_a_wait_for_an_organisation() {
    let fixture = Fixture::new().await;
    let body = json!({"organisationId": fixture.own});
    drop(begin(&fixture, &body, 1).await);
    fixture.server.waiting(0).await;
    assert_eq!(ended(&fixture, "abandoned").await, "1");
    let mut client = begin(&fixture, &body, 1).await;
    let (mut events, _) = follow(&fixture, &body.to_string(), None).await;
    fixture.server.shutdown.send(true).unwrap();
    client.answer(false).await.is_error(503, "shutting down");
    assert_eq!(events.block().await, None);
}
