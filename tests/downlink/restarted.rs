//! Gateways that end as they should, and go on after that.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use lastroute::client::Client;
use lastroute::wire::frame::{Level, PacketType};
use serde_json::{Value, json};

use crate::hand::{Down, Hand};
use crate::harness::{ECHO, request_id};
use crate::process::Process;

fn is_echo(down: &Down) -> bool {
    down.call().is_some_and(|(_, command, _)| command == ECHO)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_that_was_accepted_leaves_once_the_device_has_shown_again_that_it_takes_so_much() {
    let directory = tempfile::tempdir().unwrap();
    let first = Process::start(directory.path());
    let mut device = Hand::new(0x0e0b, first.udp).await;
    first.api.register(&[device.identity.clone()], |_| true).await;
    let long = [7; 900];
    device.say(Level::Network, PacketType::TDF, &[0; 1200]).await;
    let device_id = device.identity.id;
    assert!(device.hear().await.is_none(), "it was heard by now");
    let rpc = json!({"commandId": ECHO, "paramsEncoded": STANDARD.encode(long)});
    let id = first.api.call(device_id, rpc, 600_000, json!({})).await;
    first.kill();

    let second = Process::start(directory.path());
    device.turn_to(second.udp).await;
    // An acknowledgement shows that the gateway sends by now: what is too long for the device as it is known waits.
    let nothing = |down: &Down| panic!("{:?} leaves", down.header);
    let is_ack = |down: &Down| down.header.packet_type == PacketType::ACK;
    for _ in 0..2 {
        device.until(Hand::report_and_ask, is_ack, nothing).await;
    }
    let still = second.api.call_now(&id).await;
    assert!(still["status"] == "waiting" && still["note"].is_null(), "{still}");
    let says_much = async |device: &mut Hand| device.say(Level::Network, PacketType::TDF, &[0; 1200]).await;
    let down = device.until(says_much, is_echo, |_| {}).await;
    let (request_id, _, parameters) = down.call().unwrap();
    assert_eq!(parameters, long);
    device.answer(Level::Device, request_id, ECHO, &[]).await;
    second.api.call_once(&id, |call| call["status"] == "completed").await;
}

/// How often each call has come so far.
async fn drain(device: &mut Hand, left: &mut HashMap<u32, usize>) {
    while let Some(down) = device.hear().await {
        if let Some((request_id, ECHO, _)) = down.call() {
            *left.entry(request_id).or_default() += 1;
        }
    }
}

/// Asks for something that never comes, until the gateway ends.
async fn wait_in_vain(client: Client, path: String) {
    let _ = client.get_json::<Value>(&path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_soon_with_all_that_waits_and_what_it_says_afterwards_is_true() {
    let directory = tempfile::tempdir().unwrap();
    let first = Process::start(directory.path());
    let mut device = Hand::new(0x0e0c, first.udp).await;
    let silent = Hand::new(0x0e0d, first.udp).await.identity;
    let identities = [device.identity.clone(), silent.clone()];
    first.api.register(&identities, |_| true).await;
    let device_id = device.identity.id;
    let mut left = HashMap::new();
    device.report().await;
    drain(&mut device, &mut left).await;
    // Those that wait for the silent one, who waits for that, and what is sent at once as it ends.
    let waiting = join_all((0..50).map(|_| first.api.echo(silent.id, "waits", 600_000))).await;
    let client = first.api.client().with_timeout(Duration::from_secs(60));
    let mut waiters = Vec::new();
    for id in &waiting[..10] {
        waiters.push(tokio::spawn(wait_in_vain(client.clone(), format!("/rpc/{id}?timeoutMs=60000"))));
    }
    let path = format!("/device/deviceId/{}/waitForPacket?timeoutMs=60000", silent.id);
    waiters.extend((0..10).map(|_| tokio::spawn(wait_in_vain(client.clone(), path.clone()))));
    let at_once = |_| {
        let client = client.clone();
        let rpc = json!({"commandId": ECHO});
        let body = json!({"deviceId": device_id, "rpc": rpc, "sendWaitTimeoutMs": 0}).to_string();
        async move {
            let made = client.post_json::<Value>("/rpc", body.into()).await.ok()??;
            Some(made["id"].as_str()?.to_owned())
        }
    };
    let mut posts: Vec<_> = (0..200).map(|number| tokio::spawn(at_once(number))).collect();
    // Once the first of them is accepted.
    let mut accepted: Vec<String> = posts.remove(0).await.unwrap().into_iter().collect();
    let begun = Instant::now();
    first.terminate();
    let status = tokio::task::spawn_blocking(|| first.ended()).await.unwrap();
    let took = begun.elapsed();
    assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    for post in posts {
        accepted.extend(post.await.unwrap());
    }
    join_all(waiters).await;
    drain(&mut device, &mut left).await;

    let second = Process::start(directory.path());
    for id in &waiting {
        assert_eq!(second.api.call_now(id).await["status"], "waiting");
    }
    let calls = second.api.get(&format!("/rpc?deviceId={device_id}&limit=1000")).await;
    let calls = calls.as_array().unwrap().iter().map(|call| call["downlinkMessage"].clone());
    let calls: HashMap<u32, Value> = calls.map(|call| (request_id(&call), call)).collect();
    for (request_id, times) in &left {
        assert_eq!((*times, &calls[request_id]["status"]), (1, &json!("sent")), "{}", calls[request_id]);
    }
    for (request_id, call) in &calls {
        assert_eq!(call["status"] == "sent", left.contains_key(request_id), "{call}");
    }
    assert!(!accepted.is_empty() && accepted.len() <= calls.len());
    println!("{} of 200 accepted, {} sent, ended after {took:?}", accepted.len(), left.len());
    // Nor is any of them sent now.
    device.turn_to(second.udp).await;
    let echo = second.api.echo(device_id, "the next", 600_000).await;
    let next = request_id(&second.api.call_now(&echo).await);
    let down = device.until(Hand::report, is_echo, |_| {}).await;
    assert_eq!(down.call().unwrap().0, next);
}
