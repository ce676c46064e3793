//! Gateways that stop in order.

use serde_json::json;

use crate::harness::{Device, Site};

#[tokio::test(flavor = "multi_thread")]
async fn after_an_orderly_stop_routes_are_there_at_once_and_cursors_go_on() {
    let site = Site::new();
    let first = site.start(&[]);
    let mut devices: Vec<_> = (1..=20).map(Device::new).collect();
    for device in &mut devices {
        (0..3).for_each(|_| device.say(first.udp));
    }
    first.takes(60).await;
    let cursor = first.cursor(&devices[0]).await;
    assert!(cursor.ends_with("-3"), "{cursor}");
    first.stop();

    let second = site.start(&[]);
    for device in &devices {
        assert_eq!(second.route(device).await, Some(device.address()));
    }
    assert_eq!(second.cursor(&devices[0]).await, cursor);
    // A listener goes on as if nothing had been.
    let mut device = devices.swap_remove(0);
    let id = device.id;
    let query = format!("after={cursor}&timeoutMs=60000");
    let (waited, ()) = tokio::join!(second.wait(id, &query), second.hears(&mut device));
    let waited = waited.expect("a packet");
    assert_eq!((&waited["missed"], waited.get("reset")), (&json!(0), None), "{waited}");
    assert_eq!(waited["cursor"], cursor.replace("-3", "-4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_answer_does_not_keep_the_gateway_from_ending_within_5_s() {
    let site = Site::new();
    let first = site.start(&[]);
    first.hears(&mut Device::new(7)).await;
    // What is opened to be written waits until somebody reads.
    let pipe = site.routes().join("current.new");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    first.stop();
    std::fs::remove_file(&pipe).unwrap();
    site.start(&[]).stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_moved_while_the_gateway_was_stopped_is_found_at_once() {
    let site = Site::new();
    let first = site.start(&[]);
    let mut device = Device::new(7);
    first.hears(&mut device).await;
    first.stop();
    let second = site.start(&[]);
    device.roam();
    second.hears(&mut device).await;
    assert_eq!(second.route(&device).await, Some(device.address()));
    second.stop();
    assert_eq!(site.start(&[]).route(&device).await, Some(device.address()));
}
