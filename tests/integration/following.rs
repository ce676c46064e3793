//! Following devices over HTTP while they speak over UDP.

use lastroute::id::DeviceId;
use serde_json::json;

use crate::harness::{Client, Device, Gateway};

const ID: DeviceId = DeviceId(7);

#[tokio::test(flavor = "multi_thread")]
async fn every_packet_is_followed_in_either_version_and_after_a_break() {
    const PACKETS: u64 = 100;
    let gateway = Gateway::start("");
    for client in [Client::http1(&gateway), Client::h2c(&gateway)] {
        let mut events = client.follow(ID, None).await;
        let mut device = Device::new(7, &gateway).await;
        // A device that goes on where another one was: its sequences continue in a session that is known.
        let begun: u64 = client.cursor(ID).await.split_once('-').unwrap().1.parse().unwrap();
        device.skip(begun as u16);
        let mut heard = 0;
        for number in 1..=PACKETS {
            device.report(0).await;
            // Every tenth packet is not waited for, so that it may be missed; the last one is.
            if number % 10 == 5 {
                continue;
            }
            while heard < number {
                let (name, data) = events.event().await;
                assert_eq!(name, "packet", "{data}");
                heard += 1 + data["missed"].as_u64().unwrap();
            }
            // Cut off every now and then: what comes meanwhile is told afterwards.
            if number % 30 == 0 {
                let last_id = events.last_id.clone().unwrap();
                drop(events);
                events = client.follow(ID, Some(&last_id)).await;
            }
        }
        assert_eq!(heard, PACKETS);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_followed_across_a_restart_of_the_gateway_is_reset() {
    let first = Gateway::start("");
    let (udp, http) = (first.udp[0], first.http);
    let client = Client::http1(&first);
    let mut events = client.follow(ID, None).await;
    let mut device = Device::new(7, &first).await;
    device.report(0).await;
    assert_eq!(events.event().await.0, "packet");
    first.stop().await;
    assert_eq!(events.next().await, None, "it ends in order");

    let second = Gateway::start(&format!("udp-listen = \"{udp}\"\nhttp-listen = \"{http}\""));
    assert_eq!(second.http, http);
    let mut events = client.follow(ID, events.last_id.as_deref()).await;
    let (name, data) = events.event().await;
    assert_eq!((name.as_str(), &data["reset"], data.get("packet")), ("reset", &json!(true), None));
    device.report(0).await;
    let (name, data) = events.event().await;
    assert_eq!((name.as_str(), &data["packet"]["sequence"], &data["missed"]), ("packet", &json!(2), &json!(0)));
    second.stop().await;
    assert_eq!(events.next().await, None);
}
