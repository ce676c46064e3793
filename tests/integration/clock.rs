//! Rule R11: the system's clock steps and days turn, and no route freezes.

use std::time::Duration;

use futures_util::future::join_all;
use lastroute::clock::{Clock, ClockStep, Timestamp};
use lastroute::metrics::Disposition;
use lastroute::status::{GatewayStatus, Time};
use serde_json::{Value, json};

use crate::harness::{Client, Device, Gateway, eventually};

const HOUR: i64 = 3_600_000;

/// A gateway whose system's clock is set by hand and has stood still after a second.
fn gateway(step: ClockStep) -> (Gateway, Client, Clock) {
    let clock = Clock::default().steered(step, Duration::from_secs(1));
    let gateway = Gateway::start_at(clock.clone());
    let client = Client::http1(&gateway);
    (gateway, client, clock)
}

async fn trouble(client: &Client) -> Option<String> {
    let ready = client.get("/readyz").await.json();
    assert_eq!(ready["ready"], json!(true));
    ready["degraded"]["clock"].as_str().map(str::to_owned)
}

/// How far the gateway is ahead of the devices, in whole seconds.
async fn ahead(client: &Client) -> i64 {
    let status: GatewayStatus = serde_json::from_slice(&client.get("/gateway").await.body).unwrap();
    let (Time(Timestamp(gateway)), Timestamp(device)) = (status.now, Clock::default().now());
    (i64::try_from(gateway).unwrap() - i64::try_from(device).unwrap() + 500).div_euclid(1000)
}

/// The next packet is counted; what is known of it and of the route.
async fn report(client: &Client, device: &mut Device) -> Value {
    let path = format!("/device/deviceId/{}/waitForPacket?timeoutMs=0", device.id);
    let after = client.get(&path).await.header("lastroute-cursor").to_owned();
    device.report(0).await;
    client.wait(device.id, &after).await
}

/// Goes on from elsewhere, and the route with it.
async fn moves(client: &Client, gateway: &Gateway, device: &mut Device) {
    device.rebind(gateway.udp[0]).await;
    let seen = report(client, device).await;
    assert_eq!(seen["packet"]["timeClass"], "fresh", "{seen}");
    assert_eq!(seen["lastRoute"]["udp"]["address"], json!(device.address().to_string()), "{seen}");
}

/// Devices keep the right time; the gateway's system does not, and is set right again.
async fn steps_and_returns(by: i64, class: &str) {
    let (gateway, client, clock) = gateway(ClockStep::Follow);
    let mut device = Device::new(7, &gateway).await;
    moves(&client, &gateway, &mut device).await;

    clock.set_system(by);
    moves(&client, &gateway, &mut device).await;
    assert_eq!(ahead(&client).await, 0, "not before it has stood still");
    eventually(async || ahead(&client).await == by / 1000).await;
    // Wrong, as it was told: what cannot be proved counts and refreshes.
    let seen = report(&client, &mut device).await;
    assert_eq!(seen["packet"]["timeClass"], class, "{seen}");
    assert_eq!(seen["lastRoute"]["udp"]["address"], json!(device.address().to_string()), "{seen}");

    clock.set_system(-by);
    eventually(async || trouble(&client).await.is_some()).await;
    eventually(async || trouble(&client).await.is_none()).await;
    assert_eq!(ahead(&client).await, 0);
    moves(&client, &gateway, &mut device).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_step_of_the_clock_by_an_hour_or_a_day_and_back_freezes_no_route() {
    let steps = [(HOUR, "old"), (-HOUR, "future"), (24 * HOUR, "old"), (-24 * HOUR, "future")];
    join_all(steps.map(|(by, class)| steps_and_returns(by, class))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_clock_that_is_5_s_behind_is_followed_without_a_word() {
    let (gateway, client, clock) = gateway(ClockStep::Follow);
    let mut device = Device::new(7, &gateway).await;
    moves(&client, &gateway, &mut device).await;
    clock.set_system(-4_900);
    eventually(async || ahead(&client).await == -5).await;
    assert_eq!(trouble(&client).await, None);
    moves(&client, &gateway, &mut device).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_step_that_is_held_is_told_until_the_clock_is_back() {
    let (gateway, client, clock) = gateway(ClockStep::Hold);
    let mut device = Device::new(7, &gateway).await;
    clock.set_system(HOUR);
    eventually(async || trouble(&client).await.is_some()).await;
    assert!(trouble(&client).await.unwrap().contains("--clock-step hold"));
    eventually(async || client.metric("lastroute_system_clock_ahead_seconds ").await.round() == 3600.0).await;
    assert_eq!(client.metric("lastroute_degraded{part=\"clock\"} ").await, 1.0);
    assert_eq!(ahead(&client).await, 0);
    moves(&client, &gateway, &mut device).await;
    clock.set_system(-HOUR);
    eventually(async || trouble(&client).await.is_none()).await;
    assert_eq!(client.metric("lastroute_degraded{part=\"clock\"} ").await, 0.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_day_turns_frames_of_both_days_are_valid() {
    let now = i64::from(Clock::default().now().gps());
    let to_midnight = 86_400 - now.rem_euclid(86_400) - 2;
    let clock = Clock::with_offset_seconds(to_midnight);
    let gateway = Gateway::start_at(clock.clone());
    let day = || clock.now().gps() / 86_400;
    let before = day();
    // Some are ahead of the gateway, and others behind.
    let skews = [-250, -90, -2, -1, 0, 1, 2, 90];
    let mut devices = Vec::new();
    for (number, skew) in (1..).zip(skews) {
        devices.push(Device::new(number, &gateway).await.at(Clock::with_offset_seconds(to_midnight + skew)));
    }
    for round in 0..3 {
        for device in &mut devices {
            for _ in 0..5 {
                device.report(0).await;
            }
            device.pass(4_000);
        }
        let sent = (round + 1) * 5 * skews.len() as u64;
        eventually(async || gateway.counted().datagrams.iter().sum::<u64>() == sent).await;
        assert_eq!(gateway.counted().datagrams[Disposition::Accepted as usize], sent, "round {round}");
        clock.set_system(4_000);
    }
    assert_eq!(day(), before + 1);
    gateway.stop().await;
}
