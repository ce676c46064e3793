//! Devices that are heard and not registered.

use lastroute::id::DeviceId;
use serde_json::{Value, json};

use crate::harness::{AT, DEVICE, Server, Setup};

const LIST: &str = "/device/unregistered";

async fn ids(server: &Server, query: &str) -> Vec<String> {
    let list = server.get(&format!("{LIST}{query}"), "").await.json();
    let ids = list.as_array().unwrap().iter().map(|device| device["deviceId"].as_str().unwrap().to_owned());
    ids.collect()
}

#[tokio::test]
async fn a_stranger_is_listed_with_what_it_takes_to_adopt_it_until_it_is_registered() {
    let server = Server::start(Setup::default()).await;
    assert_eq!(server.get(LIST, "").await.json(), json!([]));
    server.report(DEVICE, 1);
    server.report(DEVICE, 2);
    let route = json!({"interface": "udp", "interfaceData": {"sequence": 2},
        "udp": {"address": "203.0.113.7:6200", "time": "2026-11-23T03:00:00.123Z"}});
    let stranger = json!({"deviceId": DEVICE, "firstPacketTime": "2026-11-23T03:00:00.123Z",
        "lastPacketTime": "2026-11-23T03:00:00.123Z", "source": "203.0.113.7:6200", "level": "network", "proved": true,
        "trust": "network", "type": "tdf", "packets": 2, "lastRoute": route});
    assert_eq!(server.get(LIST, "").await.json(), json!([stranger]));
    let packed: Value = server.get(LIST, "accept: application/msgpack\r\n").await.message_pack();
    assert_eq!(packed, json!([stranger]));
    server.table.register(DEVICE, AT);
    assert_eq!(server.get(LIST, "").await.json(), json!([]));
}

#[tokio::test]
async fn a_page_is_a_part_of_the_list_within_bounds() {
    let server = Server::start(Setup::default()).await;
    for id in 1..=150 {
        server.report(DeviceId(id), 1);
    }
    assert_eq!(ids(&server, "").await.len(), 100);
    let page = ["0000000000000003", "0000000000000004"];
    assert_eq!(ids(&server, "?limit=2&offset=2").await, page);
    assert_eq!(ids(&server, "?offset=149&unknown=1").await, [format!("{:016x}", 150)]);
    assert_eq!(ids(&server, "?offset=9223372036854775807").await.len(), 0);
    for bad in ["?limit=0", "?limit=10001", "?offset=-1", "?limit=2&limit=2"] {
        assert_eq!(server.get(&format!("{LIST}{bad}"), "").await.status, 400, "{bad}");
    }
}
