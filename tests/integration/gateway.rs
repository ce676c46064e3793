//! What a gateway says of itself, while devices speak over UDP.

use std::time::Instant;

use lastroute::status::GatewayStatus;
use tokio::task::JoinSet;

use crate::harness::{Client, Device, Gateway, eventually};

async fn status(client: &Client) -> GatewayStatus {
    serde_json::from_slice(&client.get("/gateway").await.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_back_from_another_port_is_heard_and_its_move_is_shown() {
    let gateway = Gateway::start("");
    let client = Client::http1(&gateway);
    let mut device = Device::new(7, &gateway).await;
    device.report(0).await;
    let from = device.address();
    device.rebind(gateway.udp[0]).await;
    device.report(0).await;
    Device::new(8, &gateway).await.report(0).await;
    // Devices are counted at most once a second, and counters appear after the packets they count.
    eventually(async || {
        let status = status(&client).await;
        status.devices.heard.within_5m == 2 && status.datagrams["accepted"] == 3
    })
    .await;
    let status = status(&client).await;
    assert_eq!(status.route_moves, 1);
    let heard = &status.devices.heard;
    assert_eq!((status.devices.total, heard.within_1h, heard.within_24h), (2, 2, 2));
    assert!(status.started_at <= heard.counted_at && heard.counted_at <= status.now);
    let [moved] = &status.latest_moves[..] else { panic!("{status:?}") };
    assert_eq!((moved.device_id, moved.from, moved.to), (device.id, from, device.address()));
    assert_eq!(moved.trust, "network");
    assert!(status.started_at <= moved.at && moved.at <= status.now);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wake_up_wait_and_batch_is_timed() {
    const WAITERS: usize = 40;
    let gateway = Gateway::start("");
    let (client, waiting) = (Client::http1(&gateway), Client::h2c(&gateway));
    let mut device = Device::new(7, &gateway).await;
    let mut waits = JoinSet::new();
    for _ in 0..WAITERS {
        let client = waiting.clone();
        waits.spawn(async move { client.get("/device/deviceId/0000000000000007/waitForPacket").await.status });
    }
    eventually(async || client.metric("lastroute_waiters ").await == WAITERS as f64).await;
    let begun = Instant::now();
    device.report(0).await;
    assert!(waits.join_all().await.iter().all(|status| status.is_success()));
    let waited = begun.elapsed().as_secs_f64();
    let timed = client.metric("lastroute_wake_latency_seconds_count").await;
    assert_eq!(timed, WAITERS as f64);
    eventually(async || client.metric("lastroute_wakes_total").await == timed).await;
    let latency = client.metric("lastroute_wake_latency_seconds_sum").await;
    assert!(0.0 < latency && latency < waited * timed, "{latency} {waited}");
    assert_eq!(client.metric("lastroute_wait_seconds_count{outcome=\"packet\"}").await, timed);
    eventually(async || client.metric("lastroute_udp_receives_total").await == 1.0).await;
    assert_eq!(client.metric("lastroute_ingest_batch_seconds_count").await, 1.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_bring_the_count_of_devices_up_to_date() {
    let gateway = Gateway::start("");
    let client = Client::http1(&gateway);
    let heard = async || client.metric("lastroute_devices_heard{within=\"5m\"}").await;
    assert_eq!(heard().await, 0.0);
    let counted_at = client.metric("lastroute_devices_heard_timestamp_seconds").await;
    Device::new(7, &gateway).await.report(0).await;
    eventually(async || heard().await == 1.0).await;
    assert!(client.metric("lastroute_devices_heard_timestamp_seconds").await > counted_at);
    gateway.stop().await;
}
