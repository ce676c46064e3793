//! Waiting over HTTP while devices speak over UDP.

use hyper::StatusCode;
use lastroute::id::{Cursor, DeviceId};
use lastroute::wire::frame::Flags;
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{Client, Device, Gateway, eventually};

async fn waiters(client: &Client) -> f64 {
    client.metric("lastroute_waiters ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_waits_for_a_device_is_woken_by_its_next_packet() {
    let gateway = Gateway::start("");
    let (http1, h2c) = (Client::http1(&gateway), Client::h2c(&gateway));
    let mut device = Device::new(7, &gateway).await;
    let path = "/device/deviceId/0000000000000007/waitForPacket";
    let mut waits = JoinSet::new();
    for number in 0..40 {
        let client = if number % 2 == 0 { http1.clone() } else { h2c.clone() };
        waits.spawn(async move { client.get(path).await });
    }
    eventually(async || waiters(&http1).await == 40.0).await;
    let sequence = device.report(0).await;
    while let Some(answer) = waits.join_next().await {
        let answer = answer.unwrap();
        let body = answer.json();
        assert_eq!((answer.status, &body["missed"]), (StatusCode::OK, &json!(0)), "{body}");
        assert_eq!((&body["packet"]["sequence"], &body["packet"]["type"]), (&json!(sequence), &json!("tdf")));
        assert_eq!(body["packet"]["source"], json!(device.address().to_string()));
    }
    assert_eq!(waiters(&http1).await, 0.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_devices_are_waited_for_in_one_request_for_any_and_for_all() {
    let gateway = Gateway::start("");
    let (http1, h2c) = (Client::http1(&gateway), Client::h2c(&gateway));
    let [mut first, mut second] = [Device::new(1, &gateway).await, Device::new(2, &gateway).await];
    let ids = ["0000000000000001", "0000000000000002"];
    let ask = |client: &Client, mode: &str| {
        let (client, body) = (client.clone(), json!({"deviceIds": ids, "mode": mode}));
        tokio::spawn(async move { client.post("/device/waitForPacket", &body).await })
    };
    let (any, all) = (ask(&http1, "any"), ask(&h2c, "all"));
    eventually(async || waiters(&http1).await == 4.0).await;
    second.report(0).await;
    let answer = any.await.unwrap().json();
    assert_eq!((&answer["pending"], &answer["timedOut"]), (&json!([ids[0]]), &json!(false)), "{answer}");
    assert_eq!(answer["packets"][0]["packet"]["source"], json!(second.address().to_string()));
    first.report(0).await;
    let answer = all.await.unwrap().json();
    assert_eq!((&answer["pending"], &answer["timedOut"]), (&json!([]), &json!(false)), "{answer}");
    let devices: Vec<_> = answer["packets"].as_array().unwrap().iter().map(|packet| &packet["deviceId"]).collect();
    assert_eq!(devices, ids);
    assert_eq!(waiters(&http1).await, 0.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_who_wait_over_50_connections_are_each_woken_by_the_one_packet_of_their_device() {
    const CONNECTIONS: u64 = 50;
    const WAITS: u64 = 200;
    let gateway = Gateway::start("");
    let mut waits = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let client = Client::h2c(&gateway);
        // Opens the connection that the waits share.
        assert_eq!(client.get("/health").await.status, StatusCode::OK);
        for id in connection * WAITS..(connection + 1) * WAITS {
            let client = client.clone();
            waits.spawn(async move {
                let answer = client.get(&format!("/device/deviceId/{}/waitForPacket", DeviceId(id))).await;
                (id, answer)
            });
        }
    }
    let client = Client::h2c(&gateway);
    eventually(async || waiters(&client).await == (CONNECTIONS * WAITS) as f64).await;
    let connections = client.metric("lastroute_http_connections ").await;
    assert_eq!(connections, (CONNECTIONS + 1) as f64, "and the one that asks");
    let mut device = Device::new(0, &gateway).await;
    for id in 0..CONNECTIONS * WAITS {
        device.id = DeviceId(id);
        // Every hundredth is waited for, so that what is on the way fits the smallest receive buffer in use.
        let flags = if id % 100 == 99 { Flags::ACK_REQUEST } else { 0 };
        device.report(flags).await;
        if flags != 0 {
            device.receive().await;
        }
    }
    while let Some(ended) = waits.join_next().await {
        let (id, answer) = ended.unwrap();
        let body = answer.json();
        assert_eq!((answer.status, &body["deviceId"]), (StatusCode::OK, &json!(DeviceId(id))), "{body}");
        assert_eq!(body["missed"], json!(0));
    }
    assert_eq!(waiters(&client).await, 0.0);
    gateway.stop().await;
}

/// Devices speak as fast as they can while their listeners ask again and again. A lost wake-up would leave a listener
/// waiting for a packet that was its device's last; a lost or invented packet would break the sum.
#[tokio::test(flavor = "multi_thread")]
async fn no_packet_is_lost_between_two_waits() {
    const DEVICES: u64 = 32;
    const PACKETS: u64 = 150;
    let gateway = Gateway::start("");
    let clients = [Client::http1(&gateway), Client::h2c(&gateway)];
    let mut listeners = JoinSet::new();
    let mut devices = Vec::new();
    for id in 1..=DEVICES {
        devices.push(Device::new(id, &gateway).await);
        for client in &clients {
            let client = client.clone();
            let mut after = client.cursor(DeviceId(id)).await;
            listeners.spawn(async move {
                let mut heard = 0;
                while heard < PACKETS {
                    let seen = client.wait(DeviceId(id), &after).await;
                    heard += 1 + seen["missed"].as_u64().unwrap();
                    after = seen["cursor"].as_str().unwrap().to_owned();
                    assert_eq!(after.parse::<Cursor>().unwrap().n, heard);
                }
                assert_eq!(heard, PACKETS);
            });
        }
    }
    let mut speakers = JoinSet::new();
    for mut device in devices {
        speakers.spawn(async move {
            for number in 0..PACKETS {
                // Every fourth is waited for, so that what is on the way fits the smallest receive buffer in use.
                let flags = if number % 4 == 0 { Flags::ACK_REQUEST } else { 0 };
                device.report(flags).await;
                if flags != 0 {
                    device.receive().await;
                }
            }
            device
        });
    }
    // Kept alive: a closed socket would make the kernel refuse replies, which is another test.
    let devices = speakers.join_all().await;
    while let Some(listener) = listeners.join_next().await {
        listener.unwrap();
    }
    drop(devices);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_process_is_reset() {
    let first = Gateway::start("");
    let old = Client::http1(&first).cursor(DeviceId(7)).await;
    first.stop().await;
    let gateway = Gateway::start("");
    let client = Client::http1(&gateway);
    let unheard = client.wait(DeviceId(7), &old).await;
    assert_eq!((&unheard["reset"], unheard.get("packet"), unheard.get("lastRoute")), (&json!(true), None, None));
    Device::new(7, &gateway).await.report(0).await;
    let fresh = unheard["cursor"].as_str().unwrap();
    assert_eq!(client.wait(DeviceId(7), fresh).await["packet"]["sequence"], json!(1));
    let heard = client.wait(DeviceId(7), &old).await;
    assert_eq!((&heard["reset"], &heard["packet"]["sequence"]), (&json!(true), &json!(1)));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_when_the_gateway_stops_are_told_to_come_back() {
    let gateway = Gateway::start("");
    let client = Client::http1(&gateway);
    let waiting = client.clone();
    let wait = tokio::spawn(async move { waiting.get("/device/deviceId/0000000000000007/waitForPacket").await });
    eventually(async || waiters(&client).await == 1.0).await;
    gateway.stop().await;
    let answer = wait.await.unwrap();
    assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(503)));
    assert!(answer.header("retry-after").parse::<u32>().unwrap() > 0);
}
