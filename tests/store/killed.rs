//! Gateways that are killed, and what attackers make of it. `LASTROUTE_RESTARTS` says how often they are; the default is for
//! every run of the tests.

use serde_json::json;

use crate::harness::{Device, Site, replay};

/// So often that a test need not wait long for a checkpoint.
const OFTEN: [&str; 2] = ["--checkpoint-ms", "50"];
/// Never, as far as a test is concerned.
const NEVER: [&str; 2] = ["--checkpoint-ms", "100000000"];

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_a_kill_is_there_and_what_came_after_is_not() {
    let site = Site::new();
    let first = site.start(&OFTEN);
    let mut device = Device::new(7);
    first.hears(&mut device).await;
    let cursor = first.cursor(&device).await;
    first.written().await;
    first.kill();
    let written = device.address();

    let second = site.start(&NEVER);
    assert_eq!(second.route(&device).await, Some(written.clone()));
    let now = second.cursor(&device).await;
    assert_ne!(now.split('-').next(), cursor.split('-').next(), "an epoch of its own");
    Device::new(8).say(second.udp);
    second.takes(1).await;
    assert!(second.route(&Device::new(8)).await.is_some());
    second.kill();
    let third = site.start(&NEVER);
    assert_eq!(third.route(&device).await, Some(written));
    assert_eq!(third.route(&Device::new(8)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_registers_for_one_organisation_takes_over_nothing_that_was_written_before_though_it_is_killed_at_once() {
    let site = Site::new();
    let first = site.start(&OFTEN);
    let mut devices = [7, 8, 9].map(Device::new);
    for device in &mut devices {
        first.hears(device).await;
    }
    first.written().await;
    first.kill();

    let administrator = "ik_0123456789abcdef0123456789abcdef";
    let second = site.start(&[&NEVER[..], &["--api-key-file", &site.api_key_file(administrator)]].concat());
    let organisation = second.make(administrator, "/organisation", json!({"name": "acme"})).await["id"].clone();
    let board = json!({"name": "b", "description": "", "soc": "nRF9151", "organisationId": organisation});
    let board = second.make(administrator, "/board", board).await["id"].clone();
    let key = json!({"name": "own", "organisationId": organisation, "access": "write"});
    let key = second.make(administrator, "/apiKey", key).await["key"].clone();
    for (device, key) in devices.iter().zip([administrator, key.as_str().unwrap()]) {
        let new = json!({"mcuId": format!("{}", device.id), "boardId": board, "organisationId": organisation,
            "deviceId": device.id});
        second.make(key, "/device", new).await;
    }
    second.kill();

    let [of_all, of_one, unregistered] = devices;
    for options in [NEVER, OFTEN] {
        let gateway = site.start(&options);
        assert_eq!(gateway.route(&of_all).await, Some(of_all.address()));
        assert_eq!(gateway.route(&of_one).await, None);
        assert_eq!(gateway.route(&unregistered).await, Some(unregistered.address()));
        if options == OFTEN {
            gateway.written().await;
        }
        gateway.kill();
    }
    assert_eq!(site.start(&NEVER).route(&of_one).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_made_the_gateway_forget_moves_no_route_after_an_orderly_stop_either() {
    let site = Site::new();
    let first = site.start(&NEVER);
    let mut device = Device::new(7);
    first.hears(&mut device).await;
    first.stop();
    let second = site.start(&NEVER);
    second.hears(&mut device).await;
    second.kill();
    site.start(&NEVER).stop();
    let fourth = site.start(&NEVER);
    replay(&device.sent[1..], fourth.udp);
    fourth.takes(1).await;
    assert_eq!(fourth.route(&device).await, Some(device.address()));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_nothing_that_was_recorded_moves_a_route() {
    let restarts = std::env::var("LASTROUTE_RESTARTS").map_or(10, |count| count.parse().unwrap());
    let site = Site::new();
    let mut device = Device::new(7);
    let mut gateway = site.start(&OFTEN);
    gateway.hears(&mut device).await;
    gateway.written().await;
    let address = device.address();
    for restart in 0..restarts {
        gateway.kill();
        gateway = site.start(&OFTEN);
        // What was recorded of late, of which some was forgotten.
        let recent = device.sent.len().saturating_sub(30);
        replay(&device.sent[recent..], gateway.udp);
        gateway.takes(device.sent.len() - recent).await;
        assert_eq!(gateway.route(&device).await.as_ref(), Some(&address), "after restart {restart}");
        // And the device goes on where it is. Written down or not, that is forgotten or not.
        let said = 1 + restart % 3;
        (0..said).for_each(|_| device.say(gateway.udp));
        gateway.takes(device.sent.len() - recent).await;
        assert_eq!(gateway.route(&device).await.as_ref(), Some(&address));
    }
}
