//! Keys between devices and the gateway: who is told which, and what has to be proved first.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lastroute::auth::identity::Identity;
use lastroute::auth::keys::{KeyPair, RootKey, device_key_id};
use lastroute::clock::{Clock, Timestamp};
use lastroute::id::DeviceId;
use lastroute::registry::device_keys::{KeyChange, SecurityState as Answered};
use lastroute::status::Time;
use lastroute::wire::security::{HARDWARE_ID, SecurityState};
use serde_json::{Value, json};

use crate::harness::{CLOUD_PRIVATE, Server, has};
use crate::scopes::{ADMINISTRATOR, Fixture, ask};

/// The hardware id of the device with the mcuId 01.
const HARDWARE: [u8; 16] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CHALLENGE: [u8; 16] = [9; 16];
const ROOT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn pair(private: u8) -> KeyPair {
    KeyPair::from_private([private; 32])
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn shared(device: &KeyPair) -> RootKey {
    KeyPair::from_private(CLOUD_PRIVATE).shared_root(device.public()).unwrap()
}

/// What the device answers, as a client passes it on.
fn answer(device: &KeyPair, id: DeviceId, hardware_id: [u8; 16]) -> Value {
    let cloud_public = KeyPair::from_private(CLOUD_PRIVATE).public();
    let state =
        SecurityState { cloud_public, device_public: device.public(), network: 7, kind: HARDWARE_ID, proof: None };
    let identity = Identity { challenge: CHALLENGE, hardware_id, device: id };
    let proof = identity.prove(&shared(device), state, [3; 12]).proof.unwrap();
    json!({"cloudPublicKey": text(cloud_public), "devicePublicKey": text(device.public()), "networkId": 7,
        "challenge": text(CHALLENGE), "challengeResponseType": 0,
        "challengeResponse": text([&proof.nonce[..], &proof.ciphertext, &proof.tag].concat())})
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

/// What the device with the mcuId 01 answered, of key pair 5.
fn answered(at: u64) -> Answered {
    Answered {
        at: Time(Timestamp(at)),
        cloud_public: KeyPair::from_private(CLOUD_PRIVATE).public(),
        device_public: pair(5).public(),
        network_id: 7,
        challenge: CHALLENGE,
        response_type: 0,
        response: Box::default(),
        hardware_id: Some(HARDWARE),
    }
}

async fn learn(server: &Server, device: &KeyPair, policy: KeyChange, at: u64) {
    let state = Answered { device_public: device.public(), ..answered(at) };
    server.registry.learn_device_key(DeviceId(1), state, shared(device), policy).await.unwrap();
}

#[tokio::test]
async fn the_public_key_is_told_to_all_and_a_secret_to_the_administrator_and_the_devices_owner() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let public = ask(server, &fixture.reader, "GET", "/key/publicKey", &json!({})).await.json();
    assert_eq!(public, json!({"key": text(KeyPair::from_private(CLOUD_PRIVATE).public())}));
    let body = json!({"key": text(pair(5).public())});
    let refused = ask(server, &fixture.writer, "POST", "/key/sharedSecret", &body).await;
    refused.is_error(403, "concerns all");
    let secret = ask(server, ADMINISTRATOR, "POST", "/key/sharedSecret", &body).await.json();
    assert_eq!(secret, json!({"key": text(shared(&pair(5)).bytes())}));
    let weak = json!({"key": text([0; 32])});
    ask(server, ADMINISTRATOR, "POST", "/key/sharedSecret", &weak).await.is_error(422, "protects nothing");
    ask(server, ADMINISTRATOR, "POST", "/key/sharedSecret", &json!({"key": "AAEC"})).await.is_error(400, "32 bytes");
    for path in ["/key/sharedSecret/device", "/key/derived/device"] {
        let asked = async |key: &str, device: &str| {
            ask(server, key, "POST", path, &json!({"deviceId": device, "interface": "udp"})).await
        };
        for device in ["0000000000000002", "0000000000000003"] {
            asked(&fixture.writer, device).await.is_error(404, &format!("there is no device {device}"));
        }
        asked(&fixture.writer, "0000000000000001").await.is_error(422, "no key of device 0000000000000001 is known");
        asked(&fixture.writer, "1").await.is_error(400, "deviceId");
    }
}

#[tokio::test]
async fn a_secret_is_told_for_an_answer_that_is_proved_and_for_no_other() {
    let fixture = Fixture::new().await;
    let asked = async |state: Value, key: &str| {
        let body = json!({"deviceId": "0000000000000001", "securityState": state});
        ask(&fixture.server, key, "POST", "/key/sharedSecret/device", &body).await
    };
    let good = answer(&pair(5), DeviceId(1), HARDWARE);
    assert_eq!(asked(good.clone(), &fixture.writer).await.json(), json!({"key": text(shared(&pair(5)).bytes())}));
    let forged = answer(&pair(6), DeviceId(1), HARDWARE);
    for (state, status, words) in [
        (with(good.clone(), "cloudPublicKey", json!(text(pair(8).public()))), 422, "another cloud"),
        (with(good.clone(), "devicePublicKey", json!(text(pair(6).public()))), 422, "does not open"),
        (with(good.clone(), "challengeResponse", forged["challengeResponse"].clone()), 422, "does not open"),
        (with(good.clone(), "challenge", json!(text([8; 16]))), 422, "another question"),
        (with(good.clone(), "challenge", json!("AAEC")), 422, "16 bytes"),
        (with(good.clone(), "challengeResponseType", json!(1)), 422, "no proof"),
        (with(good.clone(), "challengeResponse", json!("")), 422, "no proof"),
        (with(good.clone(), "challengeResponse", json!("AAEC")), 422, "is cut"),
        (with(good.clone(), "devicePublicKey", json!(text([0; 32]))), 422, "protects anything"),
        (answer(&pair(5), DeviceId(2), HARDWARE), 422, "that of device 0000000000000002"),
        (answer(&pair(5), DeviceId(1), [2; 16]), 422, "other hardware"),
        (with(good.clone(), "challenge", json!("A")), 400, "challenge"),
        (with(good.clone(), "networkId", json!("7")), 400, "networkId"),
        (json!({}), 400, "missing field"),
        (Value::Null, 400, "null"),
    ] {
        asked(state, &fixture.writer).await.is_error(status, words);
    }
    let other_hardware = answer(&pair(5), DeviceId(1), [2; 16]);
    assert_eq!(asked(other_hardware, ADMINISTRATOR).await.status, 200, "who could have any secret anyway");
}

#[tokio::test]
async fn a_derived_key_is_that_of_the_interface_and_of_today() {
    let fixture = Fixture::new().await;
    let root = json!({"deviceRootKey": ROOT});
    let set = ask(&fixture.server, &fixture.writer, "PUT", "/device/deviceId/0000000000000001/key", &root).await;
    assert_eq!(set.status, 204);
    let asked = async |path: &str, interface: &str| {
        let body = json!({"deviceId": "0000000000000001", "interface": interface});
        ask(&fixture.server, &fixture.writer, "POST", path, &body).await
    };
    let root = RootKey::new(STANDARD.decode(ROOT).unwrap().try_into().unwrap());
    assert_eq!(asked("/key/sharedSecret/device", "udp").await.json(), json!({"key": ROOT}));
    for interface in ["bt_adv", "bt_gatt", "serial", "udp"] {
        let today = || Clock::default().now().gps() / 86_400;
        let (before, key, after) = (today(), asked("/key/derived/device", interface).await.json(), today());
        let of = |day: u32| json!({"key": text(root.derive(&day.to_le_bytes(), interface.as_bytes()))});
        assert!(key == of(before) || key == of(after), "{interface}");
    }
    asked("/key/derived/device", "hci").await.is_error(400, "interface");
}

#[tokio::test]
async fn what_is_known_of_keys_is_shown_without_a_key_and_one_that_waits_is_confirmed() {
    let fixture = Fixture::new().await;
    let (server, path) = (&fixture.server, "/device/deviceId/0000000000000001/key");
    let read = async || ask(server, &fixture.reader, "GET", path, &json!({})).await.json();
    assert_eq!(read().await, json!({"deviceId": "0000000000000001"}));
    let confirm = async || ask(server, &fixture.writer, "POST", &format!("{path}/confirm"), &json!({})).await;
    confirm().await.is_error(404, "waits for confirmation");
    let key_id =
        |device: &KeyPair| device_key_id(&KeyPair::from_private(CLOUD_PRIVATE).public(), &device.public()).get();
    learn(server, &pair(5), KeyChange::Hold, 1000).await;
    let primary = json!({"source": "learned", "keyId": key_id(&pair(5))});
    let last_answer = |at: &str| json!({"at": at, "forThisGateway": true, "networkId": 7, "hardwareFits": true});
    let learned = json!({"deviceId": "0000000000000001", "primary": primary,
        "lastAnswer": last_answer("1970-01-01T00:00:01.000Z")});
    assert_eq!(read().await, learned);
    learn(server, &pair(6), KeyChange::Hold, 2000).await;
    let held = read().await;
    assert_eq!((&held["primary"], &held["held"]["keyId"]), (&primary, &json!(key_id(&pair(6)))));
    let public = text(pair(6).public());
    assert_eq!((&held["held"]["reason"], &held["held"]["devicePublicKey"]), (&json!("changed"), &json!(public)));
    assert_eq!(held["held"]["hardwareId"], hex::encode(HARDWARE));
    has(&held, &["deviceId", "lastAnswer"]);
    let secret = async |key: &str| {
        let body = json!({"deviceId": "0000000000000001"});
        ask(server, key, "POST", "/key/sharedSecret/device", &body).await
    };
    assert_eq!(secret(ADMINISTRATOR).await.json(), json!({"key": text(shared(&pair(5)).bytes())}));
    secret(&fixture.writer).await.is_error(422, "has not proved");
    for (meant, id) in [
        (json!({"keyId": key_id(&pair(5))}), 409),
        (json!({"devicePublicKey": text(pair(5).public())}), 409),
        (json!({"keyId": key_id(&pair(6)), "devicePublicKey": text(pair(5).public())}), 409),
        (json!({"keyId": -1}), 400),
        (json!({"keyId": null}), 400),
        (json!({"devicePublicKey": "AAEC"}), 400),
    ] {
        let refused = ask(server, &fixture.writer, "POST", &format!("{path}/confirm"), &meant).await;
        assert_eq!(refused.status, id, "{meant}");
    }
    assert_eq!(read().await, held);
    let meant = json!({"keyId": key_id(&pair(6)), "devicePublicKey": public});
    let confirmed = ask(server, &fixture.writer, "POST", &format!("{path}/confirm"), &meant).await;
    assert_eq!((confirmed.status, &confirmed.json()["primary"]["keyId"]), (200, &json!(key_id(&pair(6)))));
    assert_eq!(confirmed.json().get("held"), None);
    assert_eq!(secret(&fixture.writer).await.json(), json!({"key": text(shared(&pair(6)).bytes())}));
    for pair in [pair(5), pair(6)] {
        let shown = read().await.to_string();
        assert!(!shown.contains(&text(pair.public())) && !shown.contains(&text(shared(&pair).bytes())), "{shown}");
    }
}

#[tokio::test]
async fn the_secret_of_a_public_key_that_was_given_is_told_once_the_device_has_proved_it() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let public = json!({"devicePublicKey": text(pair(5).public())});
    let set = ask(server, &fixture.writer, "PUT", "/device/deviceId/0000000000000001/key", &public).await;
    assert_eq!(set.status, 204);
    let known = ask(server, &fixture.reader, "GET", "/device/deviceId/0000000000000001/key", &json!({})).await;
    assert_eq!(known.json()["primary"]["source"], "publicKey");
    let asked = async |key: &str, path: &str| {
        let body = json!({"deviceId": "0000000000000001", "interface": "udp"});
        ask(server, key, "POST", path, &body).await
    };
    let told = json!({"key": text(shared(&pair(5)).bytes())});
    let refused = async |why: &str| {
        for path in ["/key/sharedSecret/device", "/key/derived/device"] {
            let answer = asked(&fixture.writer, path).await;
            assert_eq!(answer.status, 422, "{why}");
            answer.is_error(422, "device 0000000000000001 has not proved");
        }
    };
    refused("public keys are no secrets, so that this one may be that of anybody's device").await;
    assert_eq!(asked(ADMINISTRATOR, "/key/sharedSecret/device").await.json(), told);
    let by = |public: &KeyPair, hardware: [u8; 16]| Answered {
        device_public: public.public(),
        hardware_id: Some(hardware),
        ..answered(1000)
    };
    let prove = async |state: Answered, root: RootKey| {
        server.registry.learn_device_key(DeviceId(1), state, root, KeyChange::Hold).await.unwrap()
    };
    prove(by(&pair(6), HARDWARE), shared(&pair(6))).await;
    refused("the device has proved another key").await;
    prove(by(&pair(5), [2; 16]), shared(&pair(5))).await;
    refused("other hardware has proved it").await;
    prove(by(&pair(5), HARDWARE), shared(&pair(5))).await;
    assert_eq!(asked(&fixture.writer, "/key/sharedSecret/device").await.json(), told);
}

#[tokio::test]
async fn what_opens_with_a_given_root_key_proves_no_public_key() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let set = async |key: Value| {
        let set = ask(server, &fixture.writer, "PUT", "/device/deviceId/0000000000000001/key", &key).await;
        assert_eq!(set.status, 204, "{set:?}");
    };
    // Whoever made up the root key can name any public key under it.
    set(json!({"deviceRootKey": ROOT})).await;
    let state = Answered { cloud_public: [8; 32], device_public: pair(5).public(), ..answered(1000) };
    let root = RootKey::new(STANDARD.decode(ROOT).unwrap().try_into().unwrap());
    server.registry.learn_device_key(DeviceId(1), state, root, KeyChange::Hold).await.unwrap();
    set(json!({"devicePublicKey": text(pair(5).public())})).await;
    let known = ask(server, &fixture.reader, "GET", "/device/deviceId/0000000000000001/key", &json!({})).await;
    assert_eq!(known.json()["lastAnswer"]["hardwareFits"], true);
    let body = json!({"deviceId": "0000000000000001"});
    let secret = ask(server, &fixture.writer, "POST", "/key/sharedSecret/device", &body).await;
    secret.is_error(422, "has not proved");
}

#[tokio::test]
async fn whichever_key_waits_is_confirmed_by_a_request_without_a_body() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    learn(server, &pair(5), KeyChange::Hold, 1000).await;
    learn(server, &pair(6), KeyChange::Hold, 2000).await;
    let headers = format!("authorization: ApiKey {}\r\n", fixture.writer);
    let path = "/device/deviceId/0000000000000001/key/confirm";
    let confirmed = server.connect().await.request("POST", path, &headers, b"").await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    assert_eq!(confirmed.json().get("held"), None);
}

#[tokio::test]
async fn hardware_that_is_not_the_registered_one_is_shown_only_to_those_who_may_see_all() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let root = json!({"devicePublicKey": text(pair(5).public())});
    let set = ask(server, &fixture.writer, "PUT", "/device/deviceId/0000000000000001/key", &root).await;
    assert_eq!(set.status, 204);
    let state = Answered { device_public: pair(6).public(), hardware_id: Some([2; 16]), ..answered(1000) };
    server.registry.learn_device_key(DeviceId(1), state, shared(&pair(6)), KeyChange::Hold).await.unwrap();
    let held = async |key: &str| {
        let shown = ask(server, key, "GET", "/device/deviceId/0000000000000001/key", &json!({})).await.json();
        assert!(shown["held"]["keyId"].is_u64(), "{shown}");
        shown["held"]["hardwareId"].clone()
    };
    assert_eq!(held(ADMINISTRATOR).await, hex::encode([2; 16]));
    for key in [&fixture.writer, &fixture.reader] {
        assert_eq!(held(key).await, Value::Null, "with it they could register the device as their own");
    }
}
