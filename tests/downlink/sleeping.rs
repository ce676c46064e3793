//! Calls to sleeping devices, which have another address each time they wake, over a bad network.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lastroute::simulate::identity::Identity;
use lastroute::simulate::{self, Count};
use lastroute::wire::frame::Level;
use serde_json::{Value, json};

use crate::harness::{ECHO, Fleet, Gateway, eventually, request_id, seen, sleepers};
use crate::network::{Network, TROUBLE};

const DEVICES: u32 = 12;
/// Calls to each device.
const CALLS: u32 = 6;

/// Checks what the API says of each call against what was on the wire.
async fn check_against_the_wire(gateway: &Gateway, network: &Network, calls: &[String]) -> Vec<Value> {
    let mut told = Vec::new();
    for id in calls {
        let now = gateway.api.call_now(id).await;
        let (request_id, status) = (request_id(&now), now["status"].as_str().unwrap());
        let (sent, answered) = network.seen(|seen| {
            let sent = seen.calls.get(&request_id).map_or(0, Vec::len);
            (sent, seen.answered.contains(&request_id))
        });
        let expected = match (sent, answered) {
            (0, false) => "waiting",
            (1, false) => "sent",
            (1, true) => "completed",
            other => panic!("datagrams and answer: {other:?} of {now}"),
        };
        assert_eq!(status, expected, "{now}");
        assert_eq!(now["attempts"].as_u64(), Some(sent as u64), "{now}");
        assert_eq!(now.get("sentAt").is_some(), sent > 0, "{now}");
        assert_eq!(now.get("rpcRsp").is_some(), answered, "{now}");
        told.push(now);
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_leaves_once_while_its_device_is_awake_and_every_status_is_true() {
    let fleet = sleepers(DEVICES);
    let network = Network::start(20_261_126, TROUBLE, seen(&fleet)).await;
    let gateway = Gateway::start(&network);
    // One more is registered that never speaks.
    let identities = sleepers(DEVICES + 1).identities().unwrap();
    gateway.api.register(&identities, |number| number % 3 != 0).await;

    let silent = identities.last().unwrap().id;
    let never = [gateway.api.echo(silent, "expires at once", 1).await, gateway.api.echo(silent, "waits", 60_000).await];
    let calls = (0..CALLS).flat_map(|number| identities[..DEVICES as usize].iter().map(move |of| (number, of.id)));
    let accepted = join_all(
        calls.map(async |(number, device)| gateway.api.echo(device, &format!("{number} for {device}"), 60_000).await),
    )
    .await;
    let running = Fleet::start(&fleet, &network);
    for id in &accepted {
        gateway.api.call_once(id, |call| call["status"] != "waiting").await;
    }
    // Once more while all are known: what is accepted now leaves with the next packet.
    let more = join_all(identities[..DEVICES as usize].iter().map(|of| gateway.api.echo(of.id, "more", 60_000))).await;
    for id in &more {
        gateway.api.call_once(id, |call| call["status"] != "waiting").await;
    }
    let summary = running.stop().await;
    let accepted = [accepted, more].concat();

    // What reached the gateway is written down within a second.
    eventually("all answers are in", async || {
        for id in &accepted {
            let now = gateway.api.call_now(id).await;
            let answered = network.seen(|seen| seen.answered.contains(&request_id(&now)));
            if answered && now["status"] != "completed" {
                return false;
            }
        }
        true
    })
    .await;
    let told = check_against_the_wire(&gateway, &network, &accepted).await;
    let unsent = check_against_the_wire(&gateway, &network, &never).await;
    assert!(unsent.iter().all(|call| call["status"] == "waiting"));

    let completed = told.iter().filter(|call| call["status"] == "completed").count();
    println!("{completed} of {} completed; fleet: {summary}", told.len());
    assert!(completed > told.len() / 3 && completed < told.len(), "{completed} of {}", told.len());
    // Devices do what they hear each time they hear it.
    assert_eq!(summary.get(Count::ExecutedAgain), 0);
    let executed = summary.get(Count::Executed) as usize;
    // Questions for keys are calls, too.
    let left = network.seen(|seen| seen.calls.len());
    assert!(executed >= completed && executed <= left, "{executed} of {left}");
    network.seen(|seen| {
        assert_eq!(seen.repeated, [], "nonces");
        assert_eq!(seen.calls.values().map(Vec::len).max(), Some(1));
        assert!(seen.nonces() > told.len());
        // Each to its own device, in both levels: keys were given for some, and not for the others.
        let by_id: HashMap<u32, _> = told.iter().map(|call| (request_id(call), call)).collect();
        for (request_id, sent) in &seen.calls {
            let level = by_id.get(request_id).map(|call| call["auth"].as_u64().unwrap());
            if let Some(level) = level {
                assert_eq!(u64::from(sent[0].level.number()), level);
            }
        }
        let levels = |level| seen.calls.values().filter(|sent| sent[0].level == level).count();
        assert!(levels(Level::Network) > 0 && levels(Level::Device) > 0);
    });
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_expired_never_leaves_though_its_device_speaks_later() {
    let fleet = sleepers(3);
    let network = Network::start(1, crate::network::Trouble::default(), seen(&fleet)).await;
    let gateway = Gateway::start(&network);
    let identities = fleet.identities().unwrap();
    gateway.api.register(&identities, |_| true).await;
    let device = identities[0].id;
    let expired = gateway.api.echo(device, "too late", 1).await;
    let wanted = gateway.api.echo(device, "in time", 60_000).await;
    let withdrawn = gateway.api.echo(device, "taken back", 60_000).await;
    assert!(gateway.api.delete(&format!("/rpc/{withdrawn}")).await);
    let of_expired = gateway.api.call_once(&expired, |call| call["expiresAt"].as_str() < now().as_deref()).await;
    let running = Fleet::start(&fleet, &network);
    gateway.api.call_once(&wanted, |call| call["status"] == "completed").await;
    running.stop().await;
    assert_eq!(gateway.api.call_now(&expired).await["status"], "waiting");
    let sent: Vec<u32> = network.seen(|seen| seen.calls.keys().copied().collect());
    assert_eq!(sent.len(), 1, "neither the expired one nor the one that was taken back");
    assert!(!sent.contains(&request_id(&of_expired)));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_devices_without_time_are_learned_and_what_waits_for_them_leaves() {
    let fleet = simulate::Config { no_time: 1.0, ..sleepers(3) };
    let network = Network::start(7, crate::network::Trouble::default(), seen(&fleet)).await;
    let gateway = Gateway::start(&network);
    let identities = fleet.identities().unwrap();
    gateway.api.register(&identities, |_| false).await;
    let device_level = json!({"level": "device"});
    let call = async |identity: &Identity| {
        gateway.api.call(identity.id, json!({"commandId": ECHO}), 60_000, device_level.clone()).await
    };
    let calls = join_all(identities.iter().map(call)).await;
    let running = Fleet::start(&fleet, &network);
    for id in &calls {
        let call = gateway.api.call_once(id, |call| call["status"] == "completed").await;
        assert_eq!((&call["auth"], &call["attempts"]), (&json!(2), &json!(1)), "{call}");
    }
    let summary = running.stop().await;
    assert_eq!(summary.get(Count::ExecutedAgain), 0, "{summary}");
    network.seen(|seen| assert_eq!(seen.repeated, [], "nonces"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_call_is_told_of_its_end_as_soon_as_its_time_is_over() {
    let gateway = Gateway::alone();
    let silent = sleepers(1).identities().unwrap();
    gateway.api.register(&silent, |_| true).await;
    let accepted = Instant::now();
    let id = gateway.api.echo(silent[0].id, "nobody listens", 700).await;
    let call = gateway.api.get(&format!("/rpc/{id}?timeoutMs=30000")).await["downlinkMessage"].clone();
    let took = accepted.elapsed();
    assert!(call["status"] == "waiting" && call["expiresAt"].as_str() <= now().as_deref(), "{call}");
    assert!((Duration::from_millis(700)..Duration::from_secs(2)).contains(&took), "{took:?}");
    gateway.stop().await;
}

/// The time as the API writes it.
fn now() -> Option<String> {
    let now = lastroute::clock::Clock::default().now();
    serde_json::to_value(lastroute::status::Time(now)).unwrap().as_str().map(str::to_owned)
}
