//! What a gateway says of itself, while devices speak over UDP.

use lastroute::status::GatewayStatus;

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
