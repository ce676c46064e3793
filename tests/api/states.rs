//! States of registered devices, alone and in lists.

use lastroute::id::DeviceId;
use serde_json::{Value, json};

use crate::harness::{AT, Server, Setup, each, has};

const STATE_1: &str = "/device/deviceId/0000000000000001/state";

/// An organisation with as many devices, numbered from 1.
async fn fleet(server: &Server, devices: u64) -> (String, Vec<Value>) {
    let organisation = server.create("/organisation", &json!({"name": "own"})).await["id"].clone();
    let new = json!({"name": "tag", "description": "", "soc": "nRF9151", "organisationId": organisation});
    let board = server.create("/board", &new).await["id"].clone();
    let mut made = Vec::new();
    for n in 1..=devices {
        let new = json!({"mcuId": format!("{n:02x}"), "boardId": board, "organisationId": organisation,
            "deviceId": DeviceId(n)});
        made.push(server.create("/device", &new).await);
    }
    (organisation.as_str().unwrap().to_owned(), made)
}

fn by_record(device: &Value) -> String {
    format!("/device/id/{}/state", device["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_state_is_there_from_registration_on_and_grows_with_what_is_heard() {
    let server = Server::start(Setup::default()).await;
    let (_, devices) = fleet(&server, 1).await;
    let (device, path) = (&devices[0], by_record(&devices[0]));
    let bare = json!({"createdAt": device["createdAt"], "updatedAt": device["createdAt"]});
    assert_eq!((server.read(&path).await, server.read(STATE_1).await), (bare.clone(), bare));
    server.report(DeviceId(1), 4711);
    let heard = server.read(&path).await;
    let names = ["lastRouteInterface", "lastRouteUdpAddress", "lastRouteUdpTime", "lastRoute", "lastRouteTime"];
    has(&heard, &names);
    has(&heard, &["createdAt", "updatedAt", "firstPacketTime"]);
    assert_eq!(heard["lastRoute"], server.read("/device/deviceId/0000000000000001/lastRoute").await);
    assert_eq!(server.read(STATE_1).await, heard);
    server.get("/device/id/0198c0de-0000-7000-8000-00000000002a/state", "").await.is_error(404, "there is no device");
    server.get("/device/id/1/state", "").await.is_error(400, "record id");
}

#[tokio::test]
async fn a_state_is_set_and_what_is_wrong_with_one_is_named() {
    let server = Server::start(Setup::default()).await;
    let (_, devices) = fleet(&server, 1).await;
    let path = by_record(&devices[0]);
    let version = json!({"major": 1, "minor": 2, "revision": 3, "buildNum": 4_000_000_000_u32});
    let state = json!({"applicationId": 4_000_000_000_u32, "applicationVersion": version,
        "algorithms": [{"id": 1, "version": 0}]});
    let set = server.send("PUT", &path, &state).await;
    assert_eq!(set.status, 200, "{set:?}");
    for (name, value) in state.as_object().unwrap() {
        assert_eq!(set.json()[name], *value);
    }
    has(&set.json(), &["createdAt", "updatedAt"]);
    assert_eq!((server.read(&path).await, server.read(STATE_1).await), (set.json(), set.json()));
    for (body, words) in [
        (json!({"applicationId": null}), "applicationId: invalid type: null"),
        (json!({"applicationId": 1.5}), "applicationId: invalid type: floating point"),
        (json!({"applicationVersion": [1, 2, 3, 4]}), "applicationVersion: invalid type: sequence"),
        (json!({"applicationVersion": {"major": 1, "minor": 1, "revision": 1}}), "missing field `buildNum`"),
        (json!({"applicationVersion": {"major": 256, "minor": 1, "revision": 1, "buildNum": 1}}), "major"),
        (json!({"algorithms": {}}), "algorithms: invalid type: map"),
        (json!({"algorithms": [{"id": 1}]}), "algorithms[0]: missing field `version`"),
    ] {
        server.send("PUT", &path, &body).await.is_error(400, words);
    }
    assert_eq!(server.read(&path).await, set.json(), "a refused change changes nothing");
    let nobody = "/device/id/0198c0de-0000-7000-8000-00000000002a/state";
    server.send("PUT", nobody, &json!({})).await.is_error(404, "there is no device");
}

#[tokio::test]
async fn what_was_heard_before_a_device_was_registered_stays() {
    let server = Server::start(Setup::default()).await;
    server.report(DeviceId(1), 7);
    let route = server.read("/device/deviceId/0000000000000001/lastRoute").await;
    server.get(STATE_1, "").await.is_error(404, "not registered; register it with POST /device");
    fleet(&server, 1).await;
    assert_eq!(server.read(STATE_1).await["lastRoute"], route);
}

#[tokio::test]
async fn a_device_that_only_the_configuration_names_has_a_bare_state_and_no_record() {
    let server = Server::start(Setup::default()).await;
    server.table.register(DeviceId(1), AT);
    let at = "2026-11-23T03:00:00.123Z";
    assert_eq!(server.read(STATE_1).await, json!({"createdAt": at, "updatedAt": at}));
    server.get("/device/deviceId/0000000000000001", "").await.is_error(404, "there is no device");
}

#[tokio::test]
async fn devices_are_listed_with_their_states_in_every_order() {
    let server = Server::start(Setup::default()).await;
    let (organisation, devices) = fleet(&server, 5).await;
    let list =
        async |query: &str| server.read(&format!("/device-and-state?organisationId={organisation}{query}")).await;
    for id in [4, 2] {
        server.report(DeviceId(id), 1);
    }
    let all = list("").await;
    for (listed, device) in all.as_array().unwrap().iter().zip(&devices) {
        has(listed, &["id", "createdAt", "updatedAt", "mcuId", "boardId", "organisationId", "deviceId", "metadata"]);
        assert_eq!(listed["state"], server.read(&by_record(device)).await);
        let mut record = listed.clone();
        record.as_object_mut().unwrap().remove("state");
        assert_eq!(record, *device);
    }
    // Those without a value come first; of those with the same one, the one that was made first.
    for order in ["firstPacketTime", "lastRouteTime", "lastRouteUdpTime"] {
        let numbers = async |query: &str| {
            let ids = each(&list(&format!("&orderBy={order}{query}")).await, "deviceId");
            ids.iter().map(|id| id[15..].to_owned()).collect::<String>()
        };
        assert_eq!(numbers("").await, "13524", "{order}");
        assert_eq!(numbers("&orderDir=desc").await, "42531", "{order}");
        let pages = [numbers("&limit=2").await, numbers("&limit=2&offset=2").await, numbers("&limit=2&offset=4").await];
        assert_eq!(pages.concat(), "13524", "{order}");
    }
    let path = format!("/device-and-state?organisationId={organisation}&orderBy=name");
    server.get(&path, "").await.is_error(400, "lastRouteUdpTime, mcuId, organisationId or updatedAt");
    server.get("/device-and-state", "").await.is_error(400, "query parameter organisationId is missing");
}

#[tokio::test]
async fn a_list_is_limited_to_those_who_are_silent_or_were_heard_lately() {
    let server = Server::start(Setup::default()).await;
    let (organisation, _) = fleet(&server, 3).await;
    server.report(DeviceId(2), 1);
    let ids = async |query: &str| {
        let listed = server.read(&format!("/device-and-state?organisationId={organisation}&{query}")).await;
        each(&listed, "deviceId").iter().map(|id| id[15..].to_owned()).collect::<String>()
    };
    // It is either long ago or yet to come, as the clock goes: 100 years are enough for both.
    let long = 100_u64 * 365 * 86_400_000;
    for order in ["createdAt", "lastRouteTime"] {
        assert_eq!(ids(&format!("orderBy={order}&heardWithinMs={long}")).await, "2");
        assert_eq!(ids(&format!("orderBy={order}&silentForMs={long}")).await, "13");
    }
    let path = format!("/device-and-state?organisationId={organisation}&silentForMs=1h");
    server.get(&path, "").await.is_error(400, "query parameter silentForMs is \"1h\"; it must be a whole number");
}
