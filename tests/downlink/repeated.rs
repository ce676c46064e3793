//! Calls that are repeated until they are answered.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::hand::Hand;
use crate::harness::{ECHO, Gateway};

/// A call that is not answered leaves no more often.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn calls_until_answered_are_repeated_after_a_while_and_not_with_each_packet_nor_for_each_other_s_answers() {
    let gateway = Gateway::alone();
    let mut device = gateway.hand(0x0e03).await;
    gateway.api.register(&[device.identity.clone()], |_| true).await;
    device.report().await;
    let rpc = json!({"commandId": ECHO});
    let until_answered = json!({"retry": "untilAnswered"});
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(gateway.api.call(device.identity.id, rpc.clone(), 600_000, until_answered.clone()).await);
    }

    // The first is answered as it comes, the others not until they have come twice.
    let mut left = HashMap::<u32, Vec<Instant>>::new();
    let mut first = None;
    while left.len() < calls.len() || left.iter().any(|(of, at)| Some(*of) != first && at.len() < 2) {
        Hand::report(&mut device).await;
        while let Some(down) = device.hear().await {
            let Some((request_id, ECHO, _)) = down.call() else { continue };
            let times = left.entry(request_id).or_default();
            times.push(Instant::now());
            first = first.or(Some(request_id));
            if first == Some(request_id) || times.len() == 2 {
                device.answer(down.header.level(), request_id, ECHO, &[]).await;
            }
        }
    }
    for (of, times) in &left {
        assert_eq!(times.len(), if Some(*of) == first { 1 } else { 2 }, "{left:?}");
        let apart = times.last().unwrap().duration_since(times[0]);
        assert!(times.len() == 1 || apart > AT_MOST_EVERY - Duration::from_millis(500), "{left:?}");
    }
    for id in &calls {
        let call = gateway.api.call_once(id, |call| call["status"] == "completed").await;
        let times = left[&crate::harness::request_id(&call)].len();
        assert_eq!(call["attempts"].as_u64(), Some(times as u64), "{call}");
    }
    for _ in 0..3 {
        device.report().await;
        assert!(device.hear().await.is_none(), "all are answered");
    }
    gateway.stop().await;
}
