//! What is registered over the API is in force for the next datagram, and what is deleted is not.

use base64::Engine;
use hyper::StatusCode;
use lastroute::wire::frame::Flags;
use serde_json::{Value, json};

use crate::harness::{Client, Device, Gateway, NETWORK, NETWORK_KEY, PATIENCE, eventually};

/// An organisation with a board for its devices.
pub(crate) struct Owner<'a> {
    client: &'a Client,
    organisation: Value,
    board: Value,
}

impl<'a> Owner<'a> {
    pub(crate) async fn new(client: &'a Client, name: &str) -> Self {
        let organisation = created(client, "/organisation", json!({"name": name})).await["id"].clone();
        let board = json!({"name": "tag", "description": "a tag", "soc": "nrf52840", "organisationId": organisation});
        let board = created(client, "/board", board).await["id"].clone();
        Self { client, organisation, board }
    }

    /// Registers a device; returns its record id.
    pub(crate) async fn register(&self, device: &Device) -> String {
        let id = device.id.to_string();
        let new = json!({"mcuId": id, "boardId": self.board, "organisationId": self.organisation, "deviceId": id});
        created(self.client, "/device", new).await["id"].as_str().unwrap().to_owned()
    }
}

async fn created(client: &Client, path: &str, body: Value) -> Value {
    let answer = client.post(path, &body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()
}

/// Sends a packet that is not served; until it is counted so.
async fn is_refused(client: &Client, device: &mut Device, result: &str) {
    let sample = format!("lastroute_udp_datagrams_total{{result=\"{result}\"}} ");
    let before = client.metric(&sample).await;
    device.report(Flags::ACK_REQUEST).await;
    eventually(async || client.metric(&sample).await > before).await;
}

/// Sends a packet, which is acknowledged.
async fn is_served(device: &mut Device) {
    let sequence = device.report(Flags::ACK_REQUEST).await;
    assert_eq!(device.receive().await.1, sequence.to_le_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_others_are_denied_a_device_is_served_from_its_registration_to_its_deletion() {
    let gateway = Gateway::start("unregistered = \"deny\"");
    let client = Client::http1(&gateway);
    let mut device = Device::new(7, &gateway).await;
    is_refused(&client, &mut device, "not_registered").await;
    let owner = Owner::new(&client, "Acme").await;
    let mut former = None;
    for _ in 0..2 {
        let record = owner.register(&device).await;
        let cursor = client.cursor(device.id).await;
        is_served(&mut device).await;
        let packet = client.wait(device.id, &cursor).await;
        assert_eq!((&packet["missed"], &packet["packet"]["type"]), (&json!(0), &json!("tdf")));
        assert_ne!(former.replace(packet["cursor"].clone()), Some(packet["cursor"].clone()), "counts again");

        let mut events = client.follow(device.id, None).await;
        let waiting = tokio::spawn({
            let (client, id) = (client.clone(), device.id);
            let path = format!("/device/deviceId/{id}/waitForPacket?timeoutMs={}", PATIENCE.as_millis());
            async move { client.get(&path).await }
        });
        eventually(async || client.metric("lastroute_waiters ").await == 2.0).await;
        assert_eq!(client.delete(&format!("/device/id/{record}")).await.status, StatusCode::NO_CONTENT);
        let answer = waiting.await.unwrap();
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{answer:?}");
        assert!(answer.json()["message"].as_str().unwrap().contains("deleted"), "{answer:?}");
        assert_eq!(events.event().await, ("gone".to_owned(), json!({"deviceId": device.id})));
        assert!(events.next().await.is_none(), "nothing more can come");
        is_refused(&client, &mut device, "not_registered").await;
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_opened_once_it_is_made_and_speaks_for_its_own_devices_unless_it_is_public() {
    let gateway = Gateway::start_with("", "", "", 0);
    let client = Client::http1(&gateway);
    let (acme, zenith) = (Owner::new(&client, "Acme").await, Owner::new(&client, "Zenith").await);
    let (mut own, mut foreign) = (Device::new(7, &gateway).await, Device::new(8, &gateway).await);
    acme.register(&own).await;
    zenith.register(&foreign).await;
    is_refused(&client, &mut own, "unknown_network").await;
    let key = base64::engine::general_purpose::STANDARD.encode(NETWORK_KEY);
    for public in [false, true] {
        let network = json!({"name": "fleet", "description": "of Acme", "key": key, "organisationId": acme.organisation,
            "public": public, "networkId": NETWORK.get()});
        let id = created(&client, "/network", network).await["id"].as_str().unwrap().to_owned();
        is_served(&mut own).await;
        match public {
            true => is_served(&mut foreign).await,
            false => is_refused(&client, &mut foreign, "not_registered").await,
        }
        assert_eq!(client.delete(&format!("/network/id/{id}")).await.status, StatusCode::NO_CONTENT);
        is_refused(&client, &mut own, "unknown_network").await;
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_listed_until_it_is_adopted_with_its_route() {
    let gateway = Gateway::start("");
    let client = Client::http1(&gateway);
    let mut device = Device::new(7, &gateway).await;
    is_served(&mut device).await;
    let strangers = client.get("/device/unregistered").await.json();
    assert_eq!((&strangers[0]["deviceId"], &strangers[0]["packets"]), (&json!(device.id), &json!(1)));
    assert_eq!(strangers[0]["source"], json!(device.address()));
    let cursor = client.cursor(device.id).await;
    Owner::new(&client, "Acme").await.register(&device).await;
    assert_eq!(client.get("/device/unregistered").await.json(), json!([]));
    let state = client.get(&format!("/device/deviceId/{}/state", device.id)).await.json();
    assert_eq!(state["lastRoute"], strangers[0]["lastRoute"]);
    assert_eq!(client.cursor(device.id).await, cursor);
    gateway.stop().await;
}
