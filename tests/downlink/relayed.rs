//! Calls to devices that only a relay hears.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lastroute::simulate::connect::ENDED_HERE;
use lastroute::simulate::{self, Count};
use lastroute::wire::frame::Level;

use crate::harness::{Fleet, Gateway, eventually, request_id, seen, sleepers};
use crate::network::{Network, Trouble};

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_reached_through_its_relay_and_the_end_of_the_connection_is_told() {
    let cadence = std::time::Duration::from_millis(500);
    let fleet = simulate::Config { relays: 1, children: 4, rebind: 0.0, cadence, ..sleepers(1) };
    let network = Network::start(4, Trouble::default(), seen(&fleet)).await;
    let gateway = Gateway::start(&network);
    let (relay, children) = (fleet.identities().unwrap().remove(0), fleet.child_identities().unwrap());
    let all = [&[relay.clone()][..], &children].concat();
    // The relay needs its key, since containers are at device level. Two of the children have one.
    gateway.api.register(&all, |number| number < 3).await;
    let running = Fleet::start(&fleet, &network);

    for (number, child) in children.iter().enumerate() {
        let text = format!("for child {number}");
        let id = gateway.api.echo(child.id, &text, 60_000).await;
        let call = gateway
            .api
            .call_once(&id, |call| call["status"] == "completed" && !call["connectionTerminated"].is_null())
            .await;
        assert_eq!(call["rpcRsp"]["paramsEncoded"], STANDARD.encode(&text), "{call}");
        assert_eq!(call["rpcRsp"]["route"]["forwarded"]["deviceId"], relay.id.to_string(), "{call}");
        assert_eq!(call["rpcRsp"]["route"]["interface"], "bt_central", "{call}");
        assert_eq!(call["connectionTerminated"], ENDED_HERE, "{call}");
        let sent = network.seen(|seen| seen.calls[&request_id(&call)].clone());
        assert_eq!((sent.len(), sent[0].device), (1, child.id));
        if number < 2 {
            assert_eq!(sent[0].level, Level::Device, "its key is known");
        }
    }
    // At once, over the route that is known.
    let id = gateway.api.echo(children[0].id, "at once", 0).await;
    gateway.api.call_once(&id, |call| call["status"] == "completed").await;
    // Those without a key were asked for it, through their relay.
    eventually("questions are answered", async || running.stats.get(Count::Executed) >= 5).await;
    let summary = running.stop().await;
    assert_eq!(summary.get(Count::ExecutedAgain), 0, "{summary}");
    assert!(summary.get(Count::Forwarded) >= 5 && summary.get(Count::Terminations) >= 5, "{summary}");
    network.seen(|seen| assert_eq!(seen.repeated, [], "nonces"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_one_child_go_over_one_connection_and_all_are_answered() {
    let cadence = std::time::Duration::from_millis(500);
    let fleet = simulate::Config { relays: 1, children: 1, rebind: 0.0, cadence, ..sleepers(1) };
    let network = Network::start(6, Trouble::default(), seen(&fleet)).await;
    let gateway = Gateway::start(&network);
    let (relay, child) = (fleet.identities().unwrap().remove(0), fleet.child_identities().unwrap().remove(0));
    gateway.api.register(&[relay, child.clone()], |_| true).await;
    let mut calls = Vec::new();
    for number in 0..3 {
        calls.push(gateway.api.echo(child.id, &format!("call {number}"), 60_000).await);
    }
    let running = Fleet::start(&fleet, &network);
    for (number, id) in calls.iter().enumerate() {
        let call = gateway.api.call_once(id, |call| call["status"] == "completed").await;
        assert_eq!(call["rpcRsp"]["paramsEncoded"], STANDARD.encode(format!("call {number}")), "{call}");
        assert_eq!(call["attempts"], 1, "{call}");
    }
    eventually("the connection ends", async || running.stats.get(Count::Terminations) >= 1).await;
    let summary = running.stop().await;
    assert_eq!((summary.get(Count::Executed), summary.get(Count::ExecutedAgain)), (3, 0), "{summary}");
    assert_eq!(summary.get(Count::Terminations), 1, "{summary}");
    network.seen(|seen| assert_eq!(seen.repeated, [], "nonces"));
    gateway.stop().await;
}
