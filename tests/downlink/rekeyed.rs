//! Devices that make a new key pair, and those who would have others believe that one did.

use serde_json::{Value, json};

use crate::hand::{Down, Hand};
use crate::harness::{ECHO, Gateway, eventually};

/// Whether it is the echo of this call.
fn is_echo(down: &Down) -> bool {
    down.call().is_some_and(|(_, command, _)| command == ECHO)
}

async fn keys(gateway: &Gateway, device: &Hand) -> Value {
    gateway.api.get(&format!("/device/deviceId/{}/key", device.identity.id)).await
}

/// A registered device whose key the gateway has learned by asking.
async fn learned(id: u64, with_key: bool) -> (Gateway, Hand) {
    let gateway = Gateway::alone();
    let mut device = gateway.hand(id).await;
    gateway.api.register(&[device.identity.clone()], |_| with_key).await;
    answer_a_question(&mut device).await;
    // Counted on the thread that answers here, right before what waited for the key is sent.
    let learned = "lastroute_key_answers_total{result=\"learned\"} 1";
    let metrics = async || String::from_utf8(gateway.api.bytes("/metrics").await).unwrap();
    eventually("the key is learned", async || metrics().await.lines().any(|line| line == learned)).await;
    assert_eq!(keys(&gateway, &device).await["primary"]["keyId"], json!(device.identity.key_id.get()));
    (gateway, device)
}

/// Names its key until it is asked for it, and answers.
async fn answer_a_question(device: &mut Hand) {
    let unwanted = |down: &Down| panic!("{:?} before its key is known", down.header);
    let asked = device.until(Hand::name_key, |down| down.question().is_some(), unwanted).await;
    let (request_id, challenge) = asked.question().unwrap();
    device.prove(request_id, challenge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_while_a_device_makes_a_new_key_pair_is_never_sealed_with_the_dead_key() {
    let (gateway, mut device) = learned(0x0e04, false).await;
    let mut calls = Vec::new();
    for level in ["best", "device"] {
        let more = json!({"level": level});
        calls.push(gateway.api.call(device.identity.id, json!({"commandId": ECHO}), 600_000, more).await);
    }
    // From here on the device fails at whatever is sealed with the key that it no longer has.
    device.renew(99);
    answer_a_question(&mut device).await;
    let mut delivered = Vec::new();
    while delivered.len() < calls.len() {
        let down = device.until(Hand::report, is_echo, |_| {}).await;
        let (request_id, ..) = down.call().unwrap();
        assert_eq!(down.header.key_id, device.identity.key_id, "under the new key");
        device.answer(down.header.level(), request_id, ECHO, &[]).await;
        delivered.push(request_id);
    }
    for id in &calls {
        let call = gateway.api.call_once(id, |call| call["status"] == "completed").await;
        assert_eq!((&call["attempts"], &call["auth"]), (&json!(1), &json!(2)), "{call}");
    }
    assert_eq!(keys(&gateway, &device).await["primary"]["keyId"], device.identity.key_id.get());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_member_of_its_network_cannot_put_a_key_of_its_own_in_place_of_a_known_one() {
    let (gateway, mut device) = learned(0x0e05, false).await;
    let known = keys(&gateway, &device).await["primary"].clone();
    // The other one knows the network's key and says to be the device: what it cannot know is the hardware id.
    let mut other = gateway.hand(0x0e05).await;
    other.renew(66);
    other.hardware_id = [6; 16];
    other.skip(1000);
    answer_a_question(&mut other).await;
    eventually("it is held", async || !keys(&gateway, &device).await["held"].is_null()).await;
    let now = keys(&gateway, &device).await;
    assert_eq!((&now["primary"], &now["held"]["keyId"]), (&known, &json!(other.identity.key_id.get())));

    // Which still is the key that the device is spoken to with.
    device.skip(2000);
    let id =
        gateway.api.call(device.identity.id, json!({"commandId": ECHO}), 600_000, json!({"level": "device"})).await;
    let down = device.until(Hand::report, is_echo, |_| {}).await;
    device.answer(down.header.level(), down.call().unwrap().0, ECHO, &[]).await;
    gateway.api.call_once(&id, |call| call["status"] == "completed").await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_proves_nothing_of_another_device_nor_for_another_question() {
    let gateway = Gateway::alone();
    let (mut one, mut other) = (gateway.hand(0x0e06).await, gateway.hand(0x0e07).await);
    gateway.api.register(&[one.identity.clone(), other.identity.clone()], |_| false).await;
    let asked = async |device: &mut Hand| {
        let down = device.until(Hand::name_key, |down| down.question().is_some(), |_| {}).await;
        down.question().unwrap()
    };
    let (of_one, of_other) = (asked(&mut one).await, asked(&mut other).await);
    assert!(of_one.0 != of_other.0 && of_one.1 != of_other.1);
    // With the other's request id; with the challenge of the other; and the other's proof in the name of the one.
    one.prove(of_other.0, of_other.1).await;
    one.prove(of_one.0, of_other.1).await;
    let own = one.identity.clone();
    one.identity.keys = other.identity.keys.clone();
    one.identity.root = other.identity.root.clone();
    one.hardware_id = other.hardware_id;
    other.skip(10);
    other.prove(of_one.0, of_one.1).await;
    // The other one's own question is still open; once its key is there, all that came before has been looked at.
    other.prove(of_other.0, of_other.1).await;
    let key_id = json!(other.identity.key_id.get());
    eventually("its key is learned", async || keys(&gateway, &other).await["primary"]["keyId"] == key_id).await;
    one.identity = own;
    let nothing = keys(&gateway, &one).await;
    assert!(nothing["primary"].is_null() && nothing["held"].is_null(), "{nothing}");
    gateway.stop().await;
}
