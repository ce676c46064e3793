//! Keys and tokens: who gets in, and what each sees and may do.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lastroute::api::access::Access;
use lastroute::api::tokens::TokenRules;
use lastroute::clock::{Clock, Timestamp};
use lastroute::id::DeviceId;
use lastroute::records::{AccessLevel, ApiKey, NewBoard, NewDevice, NewOrganisation};
use lastroute::registry::{Registrar, StoredKey};
use lastroute::status::Time;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use crate::harness::{Answer, Client, PATIENCE, Server, Setup, each};

const ADMINISTRATOR: &str = "x-api-key: ik_0123456789abcdef\r\n";
const OWN: DeviceId = DeviceId(0xd000_0000_0000_1001);
const FOREIGN: DeviceId = DeviceId(0xd000_0000_0000_1002);
const STRANGE: DeviceId = DeviceId(0xd000_0000_0000_1003);

fn administrators() -> Access {
    Access::of_keys(["ik_0123456789abcdef"])
}

fn with(access: Access) -> Setup {
    Setup { access, ..Setup::default() }
}

/// An organisation with a board and one device, which was heard.
async fn organisation(server: &Server, name: &str, device: DeviceId) -> Uuid {
    let registry = &server.registry;
    let organisation = registry.create_organisation(&NewOrganisation { name: name.to_owned() }).await.unwrap().id;
    let board = NewBoard {
        name: "tag".to_owned(),
        description: String::new(),
        soc: "nRF9151".to_owned(),
        organisation_id: organisation,
        public: false,
        metadata_fields: Vec::new(),
    };
    let board_id = registry.create_board(&board).await.unwrap().id;
    let new = NewDevice {
        mcu_id: format!("{:016x}", device.0).parse().unwrap(),
        board_id,
        organisation_id: organisation,
        device_id: Some(device),
        metadata: Default::default(),
        initial_device_state: None,
        device_public_key: None,
        device_root_key: None,
    };
    registry.create_device(&new, Registrar::OfAll).await.unwrap();
    server.report(device, 1);
    organisation
}

/// Two organisations with a device each, and a device that is not registered; gives the first organisation.
async fn fleet(server: &Server) -> Uuid {
    let own = organisation(server, "own", OWN).await;
    organisation(server, "foreign", FOREIGN).await;
    server.report(STRANGE, 1);
    own
}

/// Makes a key; gives its record id and the header that shows it.
async fn made(server: &Server, new: Value) -> (String, String) {
    let answer = server.post("/apiKey", &format!("{ADMINISTRATOR}{JSON}"), new.to_string().as_bytes()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let (record, key) = (answer.json()["id"].clone(), answer.json()["key"].clone());
    (record.as_str().unwrap().to_owned(), format!("authorization: ApiKey {}\r\n", key.as_str().unwrap()))
}

const JSON: &str = "content-type: application/json\r\n";

async fn delete(server: &Server, id: &str) -> Answer {
    server.connect().await.request("DELETE", &format!("/apiKey/id/{id}"), ADMINISTRATOR, b"").await
}

fn path(device: DeviceId, what: &str) -> String {
    format!("/device/deviceId/{device}/{what}")
}

/// Whoever makes tokens.
struct Issuer(Ed25519KeyPair);

impl Issuer {
    fn new() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    fn rules(&self) -> TokenRules {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref());
        TokenRules::of(&json!({"kty": "OKP", "crv": "Ed25519", "x": x}).to_string(), "lastroute").unwrap()
    }

    /// A token that is good for `seconds` from now on.
    fn token(&self, seconds: i64, claims: Value) -> String {
        let mut claims = claims;
        let now = i64::try_from(Clock::default().now().0 / 1000).unwrap();
        (claims["exp"], claims["aud"]) = ((now + seconds).into(), "lastroute".into());
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({"alg": "EdDSA"})), part(&claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(message.as_bytes())))
    }
}

#[tokio::test]
async fn a_key_is_shown_once_opens_at_once_and_is_refused_once_it_is_deleted() {
    let server = Server::start(with(administrators())).await;
    let own = fleet(&server).await;
    let (id, key) = made(&server, json!({"name": "reports", "organisationId": own, "access": "read"})).await;
    assert_eq!(server.get(&path(OWN, "lastRoute"), &key).await.status, 200);

    let list = server.get("/apiKey", ADMINISTRATOR).await;
    let listed = list.json();
    assert_eq!(
        (&listed[0]["id"], &listed[0]["name"], &listed[0]["access"]),
        (&json!(id), &json!("reports"), &json!("read"))
    );
    assert_eq!((&listed[0]["organisationId"], listed[0].get("expiresAt")), (&json!(own), None));
    let text = String::from_utf8(list.body).unwrap();
    assert!(!text.contains("ik_") && !text.contains("digest"), "{text}");

    let deleted = delete(&server, &id).await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    server.get(&path(OWN, "lastRoute"), &key).await.is_error(401, "credentials are missing or wrong");
    delete(&server, &id).await.is_error(404, &id);
    assert_eq!(server.get("/apiKey", ADMINISTRATOR).await.json(), json!([]));
}

#[tokio::test]
async fn what_a_key_is_for_must_be_said_and_make_sense() {
    let server = Server::start(with(administrators())).await;
    let long = "n".repeat(256);
    for (body, status, words) in [
        (json!({"name": "a"}), 400, "access"),
        (json!({"name": "a", "access": "admin"}), 400, "access"),
        (json!({"name": "a", "access": "read", "organisationId": null}), 400, ""),
        (json!({"name": "a", "access": "read", "organisationId": "own"}), 400, ""),
        (json!({"name": "", "access": "read"}), 422, "name"),
        (json!({"name": long, "access": "read"}), 422, "name"),
        (json!({"name": "a", "access": "read", "organisationId": Uuid::from_u128(7)}), 422, "organisation"),
        (json!({"name": "a", "access": "read", "expiresAt": "2020-01-01T00:00:00Z"}), 422, "expiresAt has passed"),
    ] {
        let answer = server.post("/apiKey", &format!("{ADMINISTRATOR}{JSON}"), body.to_string().as_bytes()).await;
        let error = answer.json();
        assert_eq!((answer.status, &error["code"]), (status, &json!(status)), "{body}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{body}: {error}");
    }
    assert_eq!(server.get("/apiKey", ADMINISTRATOR).await.json(), json!([]));
}

/// What a reader of one organisation may do, whatever it shows.
async fn reads_its_own_and_nothing_else(server: &Server, headers: &str) {
    for what in ["lastRoute", "state", "waitForPacket?timeoutMs=0"] {
        assert!([200, 204].contains(&server.get(&path(OWN, what), headers).await.status), "{what}");
        for device in [FOREIGN, STRANGE, DeviceId(7)] {
            server.get(&path(device, what), headers).await.is_error(404, &format!("has no device {device}"));
        }
    }
    let ids = json!({"deviceIds": [FOREIGN, OWN, STRANGE, DeviceId(7), OWN]}).to_string();
    let routes = server.post("/device/lastRoute", &format!("{headers}{JSON}"), ids.as_bytes()).await.json();
    assert_eq!((routes.as_array().unwrap().len(), &routes[0]["deviceId"]), (1, &json!(OWN)));
    let wait = server.post("/device/waitForPacket", &format!("{headers}{JSON}"), ids.as_bytes()).await;
    wait.is_error(404, &format!("has no device {FOREIGN}"));
    let events = format!("{headers}accept: text/event-stream\r\n");
    server.get(&path(FOREIGN, "waitForPacket"), &events).await.is_error(404, "has no device");
    let answer = server.connect().await.request("HEAD", &path(FOREIGN, "waitForPacket"), &events, b"").await;
    assert_eq!(answer.status, 404);
    for path in ["/gateway", "/metrics", "/apiKey", "/device/unregistered"] {
        server.get(path, headers).await.is_error(403, "for one organisation, and this concerns all");
    }
}

#[tokio::test]
async fn a_key_that_reads_for_one_organisation_reads_its_own_and_nothing_else() {
    let server = Server::start(with(administrators())).await;
    let own = fleet(&server).await;
    let (_, key) = made(&server, json!({"name": "reports", "organisationId": own, "access": "read"})).await;
    reads_its_own_and_nothing_else(&server, &key).await;
    for (method, path) in [
        ("POST", "/board"),
        ("POST", "/device"),
        ("POST", "/organisation"),
        ("POST", "/apiKey"),
        ("DELETE", "/apiKey/id/0198c0de-0000-7000-8000-00000000002a"),
        ("PUT", "/device/deviceId/d000000000001001/key"),
    ] {
        let answer = server.connect().await.request(method, path, &key, b"").await;
        answer.is_error(403, "may only read");
    }
}

#[tokio::test]
async fn a_key_that_writes_for_one_organisation_makes_neither_keys_nor_organisations_nor_anything_of_others() {
    let server = Server::start(with(administrators())).await;
    let own = fleet(&server).await;
    let (_, key) = made(&server, json!({"name": "factory", "organisationId": own, "access": "write"})).await;
    let headers = format!("{key}{JSON}");
    let board = |organisation: Uuid| {
        json!({"name": "sensor", "description": "", "soc": "nRF5340", "organisationId": organisation}).to_string()
    };
    assert_eq!(server.post("/board", &headers, board(own).as_bytes()).await.status, 201);
    let foreign = server.registry.organisation_named("foreign").await.unwrap().unwrap().id;
    server.post("/board", &headers, board(foreign).as_bytes()).await.is_error(403, "not for organisation");
    for (path, body) in [
        ("/organisation", json!({"name": "third"})),
        ("/apiKey", json!({"name": "mine", "access": "write"})),
        ("/apiKey", json!({"name": "mine", "access": "read", "organisationId": own})),
    ] {
        server.post(path, &headers, body.to_string().as_bytes()).await.is_error(403, "for one organisation");
    }
}

#[tokio::test]
async fn a_key_for_all_organisations_that_reads_sees_everything_and_changes_nothing() {
    let server = Server::start(with(administrators())).await;
    fleet(&server).await;
    let (_, key) = made(&server, json!({"name": "monitoring", "access": "read"})).await;
    for device in [OWN, FOREIGN, STRANGE] {
        assert_eq!(server.get(&path(device, "lastRoute"), &key).await.status, 200);
    }
    for path in ["/gateway", "/metrics", "/apiKey"] {
        assert_eq!(server.get(path, &key).await.status, 200, "{path}");
    }
    server.post("/apiKey", &format!("{key}{JSON}"), b"{}").await.is_error(403, "may only read");
}

#[tokio::test]
async fn a_key_is_refused_once_its_time_has_passed() {
    let access = administrators();
    let text = "ik_that_was_made_long_ago";
    let mut digest_of = [0; 32];
    digest_of.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    let key = ApiKey {
        id: Uuid::from_u128(7),
        created_at: Time(Timestamp(0)),
        name: "old".to_owned(),
        organisation_id: None,
        access: AccessLevel::Write,
        expires_at: Some(Time(Timestamp(1))),
    };
    access.add(&StoredKey { key, digest: digest_of, organisation: 0 });
    let server = Server::start(with(access)).await;
    let answer = server.get("/gateway", &format!("x-api-key: {text}\r\n")).await;
    answer.is_error(401, "has expired");
    assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
}

#[tokio::test]
async fn a_wait_is_told_nothing_after_its_key_is_deleted_and_counts_within_the_bound_of_its_key() {
    let mut setup = with(administrators());
    setup.config.waits_per_credential = 1;
    let server = Server::start(setup).await;
    let own = fleet(&server).await;
    let (id, key) = made(&server, json!({"name": "a", "organisationId": own, "access": "read"})).await;
    let (_, other) = made(&server, json!({"name": "b", "organisationId": own, "access": "read"})).await;
    let wait = path(OWN, "waitForPacket?timeoutMs=600000");
    let mut waits = server.connect().await;
    waits.send_head("GET", &wait, &key).await;
    server.waiting(1).await;
    server.get(&wait, &key).await.is_error(429, "too many waits with the same credentials");
    let mut of_other = server.connect().await;
    of_other.send_head("GET", &wait, &other).await;
    server.waiting(2).await;
    assert_eq!(delete(&server, &id).await.status, 204);
    server.report(OWN, 2);
    waits.answer(false).await.is_error(401, "expired, or were taken back, since this wait began");
    assert_eq!(of_other.answer(false).await.status, 200);
    let metrics = String::from_utf8(server.get("/metrics", ADMINISTRATOR).await.body).unwrap();
    for line in ["lastroute_waits_total{outcome=\"packet\"} 1\n", "lastroute_waits_total{outcome=\"refused\"} 2\n"] {
        assert!(metrics.contains(line), "{line}");
    }
    assert_eq!(server.get(&wait, &key).await.status, 401);
}

/// Begins a stream of the first organisation's device; gives its connection, which ends with it.
async fn stream(server: &Server, headers: &str) -> Client {
    let mut client = server.connect().await;
    let headers = format!("{headers}accept: text/event-stream\r\nconnection: close\r\n");
    client.send_head("GET", &path(OWN, "waitForPacket"), &headers).await;
    server.waiting(1).await;
    client
}

/// All that a stream tells before it ends in order.
async fn told(mut client: Client) -> String {
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, client.0.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n0\r\n\r\n"), "{text}");
    text
}

#[tokio::test]
async fn a_stream_ends_when_its_key_is_deleted() {
    let server = Server::start(with(administrators())).await;
    fleet(&server).await;
    let (id, key) = made(&server, json!({"name": "a", "access": "read"})).await;
    let events = stream(&server, &key).await;
    assert_eq!(delete(&server, &id).await.status, 204);
    told(events).await;
    server.waiting(0).await;
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let issuer = Issuer::new();
    let server = Server::start(with(Access::open().with_tokens(Some(issuer.rules())))).await;
    let own = fleet(&server).await;
    // It is good for 30 s after it says, of which 3 are left.
    let token = issuer.token(-27, json!({"organisationId": own}));
    let headers = format!("authorization: Bearer {token}\r\n");
    told(stream(&server, &headers).await).await;
    server.get(&path(OWN, "lastRoute"), &headers).await.is_error(401, "it has expired");
}

#[tokio::test]
async fn a_wait_ends_when_its_token_expires() {
    let issuer = Issuer::new();
    let server = Server::start(with(Access::open().with_tokens(Some(issuer.rules())))).await;
    let own = fleet(&server).await;
    // It is good for 30 s after it says, of which 3 are left.
    let token = issuer.token(-27, json!({"organisationId": own}));
    let headers = format!("authorization: Bearer {token}\r\n{JSON}");
    let ids = json!({"deviceIds": [OWN], "timeoutMs": 600_000}).to_string();
    let all = json!({"organisationId": own, "timeoutMs": 600_000}).to_string();
    let (path, many) = (path(OWN, "waitForPacket?timeoutMs=600000"), "/device/waitForPacket");
    let one = server.get(&path, &headers);
    let (one, of_many, of_all) =
        tokio::join!(one, server.post(many, &headers, ids.as_bytes()), server.post(many, &headers, all.as_bytes()));
    for answer in [one, of_many, of_all] {
        answer.is_error(401, "expired, or were taken back, since this wait began");
        assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_token_for_one_organisation_reads_its_own_and_nothing_else() {
    let issuer = Issuer::new();
    let server = Server::start(with(Access::open().with_tokens(Some(issuer.rules())))).await;
    let own = fleet(&server).await;
    let token = issuer.token(60, json!({"organisationId": own, "sub": "reports"}));
    for header in ["authorization: Bearer ", "x-api-key: Bearer "] {
        reads_its_own_and_nothing_else(&server, &format!("{header}{token}\r\n")).await;
    }
    server.get("/gateway", "").await.is_error(401, "credentials are missing or wrong");
}

#[tokio::test]
async fn a_token_that_is_not_believed_is_401_and_one_for_nothing_403() {
    let issuer = Issuer::new();
    let server = Server::start(with(Access::open().with_tokens(Some(issuer.rules())))).await;
    let organisation = fleet(&server).await;
    let forged = Issuer::new().token(60, json!({"allOrganisations": true, "access": "write"}));
    for (token, status, words) in [
        (issuer.token(60, json!({"allOrganisations": true})), 200, ""),
        (issuer.token(-60, json!({"allOrganisations": true})), 401, "it has expired"),
        (forged, 401, "its signature does not fit"),
        ("ey.ey.ey".to_owned(), 401, "it is malformed"),
        (issuer.token(60, json!({})), 403, "needs the claim organisationId"),
        (issuer.token(60, json!({"organisationId": Uuid::from_u128(7)})), 403, "there is no organisation"),
        (issuer.token(60, json!({"organisationId": organisation})), 403, "for one organisation"),
    ] {
        let answer = server.get("/gateway", &format!("authorization: Bearer {token}\r\n")).await;
        if status == 200 {
            assert_eq!(answer.status, 200);
        } else {
            answer.is_error(status, words);
        }
    }
    let write = issuer.token(60, json!({"allOrganisations": true, "access": "write"}));
    let headers = format!("authorization: Bearer {write}\r\n{JSON}");
    assert_eq!(server.post("/organisation", &headers, br#"{"name":"third"}"#).await.status, 201);
}

/// The time so many milliseconds from now.
fn in_ms(ms: u64) -> Value {
    serde_json::to_value(Time(Timestamp(Clock::default().now().0 + ms))).unwrap()
}

#[tokio::test]
async fn who_expires_makes_no_key_that_expires_later() {
    let issuer = Issuer::new();
    let server = Server::start(with(administrators().with_tokens(Some(issuer.rules())))).await;
    let maker = json!({"name": "maker", "access": "write", "expiresAt": in_ms(600_000)});
    let (id, key) = made(&server, maker).await;
    let token = issuer.token(600, json!({"allOrganisations": true, "access": "write"}));
    let mut last = String::new();
    for shown in [key, format!("authorization: Bearer {token}\r\n")] {
        let make = async |expires_at: Option<Value>| {
            let mut new = json!({"name": "made", "access": "write"});
            expires_at.into_iter().for_each(|at| new["expiresAt"] = at);
            server.post("/apiKey", &format!("{shown}{JSON}"), new.to_string().as_bytes()).await
        };
        make(None).await.is_error(422, "expiresAt is missing, or later than");
        make(Some(in_ms(1_200_000))).await.is_error(422, "expiresAt is missing, or later than");
        let made = make(Some(in_ms(300_000))).await;
        assert_eq!(made.status, 201, "{made:?}");
        last = format!("x-api-key: {}\r\n", made.json()["key"].as_str().unwrap());
    }
    assert_eq!(delete(&server, &id).await.status, 204);
    assert_eq!(server.get("/gateway", &last).await.status, 200, "what it made stays");
}

#[tokio::test]
async fn keys_are_listed_by_pages() {
    let server = Server::start(with(administrators())).await;
    for name in ["a", "b", "c"] {
        made(&server, json!({"name": name, "access": "read"})).await;
    }
    for (query, names) in [
        ("", &["a", "b", "c"][..]),
        ("?limit=2", &["a", "b"]),
        ("?limit=2&offset=2", &["c"]),
        ("?orderDir=desc&limit=1", &["c"]),
    ] {
        let list = server.get(&format!("/apiKey{query}"), ADMINISTRATOR).await.json();
        assert_eq!(each(&list, "name"), names, "{query}");
    }
    server.get("/apiKey?limit=0", ADMINISTRATOR).await.is_error(400, "query parameter limit");
}

#[tokio::test]
async fn on_an_open_gateway_whatever_is_shown_is_ignored() {
    let server = Server::start(Setup::default()).await;
    for headers in ["", "authorization: ApiKey ik_wrong\r\n", "authorization: Bearer ey.ey.ey\r\n"] {
        assert_eq!(server.get("/apiKey", headers).await.status, 200, "{headers}");
    }
    let answer = server.post("/apiKey", JSON, br#"{"name":"a","access":"read"}"#).await;
    let reader = answer.json()["key"].as_str().unwrap().to_owned();
    let headers = format!("x-api-key: {reader}\r\n{JSON}");
    assert_eq!(server.post("/organisation", &headers, br#"{"name":"own"}"#).await.status, 201);
}

#[tokio::test]
async fn the_organisation_of_a_token_is_found_within_the_time_of_a_request() {
    let issuer = Issuer::new();
    let mut setup = with(Access::open().with_tokens(Some(issuer.rules())));
    setup.config.request_timeout = std::time::Duration::ZERO;
    let server = Server::start(setup).await;
    let own = fleet(&server).await;
    let headers = format!("authorization: Bearer {}\r\n", issuer.token(60, json!({"organisationId": own})));
    // Found at once it is 204: the time of a request is none, and ends with the millisecond.
    let late = async {
        loop {
            let answer = server.get(&path(OWN, "waitForPacket?timeoutMs=0"), &headers).await;
            if ![200, 204].contains(&answer.status) {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, late).await.expect("one is late");
    answer.is_error(503, "too busy to answer in time");
}

#[tokio::test]
async fn a_token_of_an_organisation_that_is_deleted_is_refused_at_once() {
    let issuer = Issuer::new();
    let server = Server::start(with(Access::open().with_tokens(Some(issuer.rules())))).await;
    let organisation =
        server.registry.create_organisation(&NewOrganisation { name: "gone".to_owned() }).await.unwrap().id;
    let headers = format!("authorization: Bearer {}\r\n", issuer.token(60, json!({"organisationId": organisation})));
    assert_eq!(server.get("/organisation", &headers).await.status, 200);
    server.registry.delete_organisation(organisation).await.unwrap();
    server.get("/organisation", &headers).await.is_error(403, "there is no organisation");
}

/// The status of a request whose whole head is given.
async fn raw(server: &Server, head: &str) -> Answer {
    let mut client = server.connect().await;
    client.send(head.as_bytes()).await;
    client.answer(false).await
}

#[tokio::test]
async fn an_open_gateway_answers_no_web_page_that_is_not_its_own() {
    let server = Server::start(Setup::default()).await;
    let address = server.address;
    let body = r#"{"name":"page"}"#;
    let post = |host: &str, more: &str| {
        let length = body.len();
        format!("POST /organisation HTTP/1.1\r\nhost: {host}\r\n{JSON}{more}content-length: {length}\r\n\r\n{body}")
    };
    let site = "origin: http://site.example\r\n";
    raw(&server, &post("rebound.example:8080", "")).await.is_error(403, "by its IP address or as localhost");
    raw(&server, &post(&address.to_string(), site)).await.is_error(403, "does not answer web pages of other sites");
    raw(&server, &post(&address.to_string(), "origin: null\r\n")).await.is_error(403, "web pages of other sites");
    raw(&server, "GET /organisation HTTP/1.0\r\n\r\n").await.is_error(403, "by its IP address or as localhost");
    assert_eq!(server.get("/organisation", "").await.json(), json!([]));
    let own = format!("origin: http://{address}\r\n");
    assert_eq!(raw(&server, &post(&address.to_string(), &own)).await.status, 201);
    let get = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    assert_eq!(raw(&server, &get("/organisation", &format!("localhost:{}", address.port()))).await.status, 200);
    assert_eq!(raw(&server, &get("/health", "rebound.example")).await.status, 200, "asks for no credentials ever");
    let mut http2 = server.connect_http2().await;
    for (host, origin, status) in [
        ("rebound.example", None, 403),
        ("127.0.0.1", None, 200),
        ("[::1]:8080", Some("http://[::1]:8080"), 200),
        ("127.0.0.1", Some("http://rebound.example"), 403),
    ] {
        let request = hyper::Request::get(format!("http://{host}/organisation"));
        let request = origin.into_iter().fold(request, |request, origin| request.header("origin", origin));
        let answer = http2.send_request(request.body(Default::default()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{host} {origin:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_asks_for_credentials_is_asked_by_any_name() {
    let server = Server::start(with(administrators())).await;
    let head =
        format!("GET /gateway HTTP/1.1\r\nhost: gateway.example\r\norigin: http://site.example\r\n{ADMINISTRATOR}\r\n");
    assert_eq!(raw(&server, &head).await.status, 200);
}
