//! Answers that others forge.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lastroute::wire::frame::Level;
use serde_json::json;

use crate::hand::{Down, Hand};
use crate::harness::{ECHO, Gateway, eventually, request_id};

fn is_echo(down: &Down) -> bool {
    down.call().is_some_and(|(_, command, _)| command == ECHO)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_the_network_s_key_alone_cannot_answer_for_a_device() {
    let gateway = Gateway::alone();
    let mut device = gateway.hand(0x0e08).await;
    gateway.api.register(&[device.identity.clone()], |_| true).await;
    let echo = json!({"commandId": ECHO});
    let id = gateway.api.call(device.identity.id, echo, 600_000, json!({"level": "device"})).await;
    let down = device.until(Hand::report, is_echo, |_| {}).await;
    assert_eq!(down.header.level(), Level::Device);
    let (request_id, ..) = down.call().unwrap();

    let mut forger = gateway.hand(0x0e08).await;
    forger.skip(1000);
    forger.answer(Level::Network, request_id, ECHO, b"forged").await;
    device.skip(2000);
    device.answer(Level::Network, request_id, ECHO, b"too weak a proof").await;
    device.answer(Level::Device, request_id, ECHO, b"its own").await;
    let call = gateway.api.call_once(&id, |call| call["status"] != "sent" && call["status"] != "waiting").await;
    assert_eq!(call["status"], "completed");
    assert_eq!(call["rpcRsp"]["paramsEncoded"], STANDARD.encode(b"its own"), "{call}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_has_not_left_cannot_be_answered() {
    let gateway = Gateway::alone();
    let (mut device, mut forger) = (gateway.hand(0x0e09).await, gateway.hand(0x0e09).await);
    let stranger = gateway.hand(0x0e0a).await.identity;
    gateway.api.register(&[device.identity.clone(), stranger.clone()], |number| number == 0).await;
    let mut forged = Vec::new();
    for level in ["best", "network", "device"] {
        for to in [device.identity.id, stranger.id] {
            let id = gateway.api.call(to, json!({"commandId": ECHO}), 600_000, json!({"level": level})).await;
            let request_id = request_id(&gateway.api.call_now(&id).await);
            // In the name of the device, whoever is called.
            forger.answer(Level::Network, request_id, ECHO, b"forged").await;
            forged.push(id);
            // Before the next call: this packet of the device must not take that with it.
            eventually("the answer is looked at", async || {
                gateway.api.get("/gateway").await["datagrams"]["accepted"].as_u64() >= Some(forged.len() as u64)
            })
            .await;
        }
    }
    // What came before is written down by the time that two calls after it are answered.
    device.skip(1000);
    for _ in 0..2 {
        let id = gateway.api.echo(device.identity.id, "marks the end", 600_000).await;
        let last = request_id(&gateway.api.call_now(&id).await);
        device.until(Hand::report, |down| down.call().is_some_and(|(of, ..)| of == last), |_| {}).await;
        device.answer(Level::Device, last, ECHO, &[]).await;
        gateway.api.call_once(&id, |call| call["status"] == "completed").await;
    }
    for id in forged {
        let call = gateway.api.call_now(&id).await;
        assert!(call["status"] != "completed" && call["rpcRsp"].is_null(), "{call}");
    }
    gateway.stop().await;
}
