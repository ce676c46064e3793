//! Devices: made, found, listed, changed and deleted, alone and many at once.

use serde_json::{Value, json};

use crate::harness::{Server, Setup, each, has};

const DEVICE: [&str; 8] =
    ["id", "createdAt", "updatedAt", "mcuId", "boardId", "organisationId", "deviceId", "metadata"];
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NOBODY: &str = "0198c0de-0000-7000-8000-00000000002a";

/// A server with an organisation and a board that wants a serial number, no two the same.
struct Fixture {
    server: Server,
    organisation: String,
    board: String,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    async fn with(setup: Setup) -> Self {
        let server = Server::start(setup).await;
        let organisation = text(&server.create("/organisation", &json!({"name": "own"})).await, "id");
        let fields = json!([{"name": "serial", "required": true, "unique": true}]);
        let new = json!({"name": "tag", "description": "", "soc": "nRF/9151", "organisationId": organisation,
            "metadataFields": fields});
        let board = text(&server.create("/board", &new).await, "id");
        Self { server, organisation, board }
    }

    async fn free_board(&self, name: &str, organisation: &str) -> String {
        let new = json!({"name": name, "description": "", "soc": "STM32", "organisationId": organisation});
        text(&self.server.create("/board", &new).await, "id")
    }

    /// The request for a device with this number in everything.
    fn new_device(&self, n: u8) -> Value {
        json!({"mcuId": format!("00aa{n:02X}"), "boardId": self.board, "organisationId": self.organisation,
            "deviceId": format!("d2000000000000{n:02x}"), "metadata": {"serial": n.to_string()}})
    }

    async fn list(&self, query: &str) -> Value {
        self.server.read(&format!("/device?organisationId={}{query}", self.organisation)).await
    }
}

fn text(record: &Value, name: &str) -> String {
    record[name].as_str().unwrap().to_owned()
}

fn with(mut new: Value, name: &str, value: Value) -> Value {
    new[name] = value;
    new
}

fn without(mut new: Value, name: &str) -> Value {
    new.as_object_mut().unwrap().remove(name);
    new
}

#[tokio::test]
async fn a_device_is_found_by_record_number_and_hardware() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let made = server.create("/device", &fixture.new_device(1)).await;
    has(&made, &DEVICE);
    assert_eq!((&made["mcuId"], &made["metadata"]), (&json!("00aa01"), &json!({"serial": "1"})));
    assert_eq!(made.get("initialDeviceState"), None);
    for path in [
        format!("/device/id/{}", text(&made, "id")),
        "/device/deviceId/D200000000000001".to_owned(),
        "/device/soc/nRF%2F9151/mcuId/00AA01".to_owned(),
        "/device/soc/nRF%2F9151/mcuId/00aa01".to_owned(),
    ] {
        assert_eq!(server.read(&path).await, made, "{path}");
    }
    for path in [
        format!("/device/id/{NOBODY}"),
        "/device/deviceId/d200000000000002".to_owned(),
        "/device/soc/nrf%2F9151/mcuId/00aa01".to_owned(),
        "/device/soc/nRF%2F9151/mcuId/00aa02".to_owned(),
        "/device/soc/nRF%2F9151/mcuId/no%20hex".to_owned(),
    ] {
        server.get(&path, "").await.is_error(404, "there is no device");
    }
    server.get("/device/soc/nRF/9151/mcuId/00aa01", "").await.is_error(404, "no such path");
    server.get("/device/soc/x/mcuId/%ff", "").await.is_error(404, "UTF-8");
    server.get("/device/id/d200000000000001", "").await.is_error(400, "record id");
    server.get("/device/deviceId/1", "").await.is_error(400, "device id");
}

#[tokio::test]
async fn a_device_without_a_number_is_given_one_and_keeps_what_is_said_of_it() {
    let fixture = Fixture::new().await;
    let state = json!({"applicationId": 7, "algorithms": [{"id": 1, "version": 2}],
        "applicationVersion": {"major": 1, "minor": 2, "revision": 3, "buildNum": 4}});
    let new = with(without(fixture.new_device(1), "deviceId"), "initialDeviceState", state.clone());
    let made = fixture.server.create("/device", &new).await;
    let id = text(&made, "deviceId");
    assert!(id.len() == 16 && id != "0".repeat(16), "{id}");
    assert_eq!(made["initialDeviceState"], state);
    assert_eq!(fixture.server.read(&format!("/device/deviceId/{id}")).await, made);
    let board = fixture.free_board("free", &fixture.organisation).await;
    let bare = json!({"mcuId": "00", "boardId": board, "organisationId": fixture.organisation});
    assert_eq!(fixture.server.create("/device", &bare).await["metadata"], json!({}), "always there");
}

#[tokio::test]
async fn what_is_taken_is_409_what_breaks_a_rule_422_and_what_does_not_fit_400() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    server.create("/device", &fixture.new_device(1)).await;
    let other = text(&server.create("/organisation", &json!({"name": "other"})).await, "id");
    let private = fixture.free_board("private", &other).await;
    let new = fixture.new_device(2);
    // The public key of a pair that shares the same with everybody.
    let weak = with(
        with(new.clone(), "devicePublicKey", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
        "deviceRootKey",
        json!(KEY),
    );
    for (body, status, words) in [
        (with(new.clone(), "deviceId", json!("D200000000000001")), 409, "deviceId"),
        (with(new.clone(), "mcuId", json!("00aA01")), 409, "mcuId"),
        (with(new.clone(), "metadata", json!({"serial": "1"})), 409, "serial"),
        (with(new.clone(), "boardId", json!(NOBODY)), 422, "board"),
        (with(new.clone(), "boardId", json!(private)), 422, "private"),
        (with(new.clone(), "organisationId", json!(NOBODY)), 422, "organisation"),
        (without(new.clone(), "metadata"), 422, "serial"),
        (weak, 422, "devicePublicKey is one of the few"),
        (with(new.clone(), "mcuId", json!("00".repeat(33))), 422, "mcuId has 66 bytes"),
        (without(new.clone(), "mcuId"), 400, "missing field `mcuId`"),
        (with(new.clone(), "mcuId", json!("xyz")), 400, "mcuId: an MCU id is pairs of hex digits"),
        (with(new.clone(), "deviceId", Value::Null), 400, "deviceId: invalid type: null"),
        (with(new.clone(), "deviceId", json!("1")), 400, "deviceId: a device id is 16 hex digits"),
        (with(new.clone(), "boardId", json!("tag")), 400, "boardId"),
        (with(new.clone(), "metadata", Value::Null), 400, "metadata: invalid type: null"),
        (with(new.clone(), "metadata", json!({"serial": 1})), 400, "metadata.serial: invalid type: integer"),
        (with(new.clone(), "deviceRootKey", json!("AA==")), 400, "deviceRootKey: a key is 32 bytes"),
        (
            with(new.clone(), "initialDeviceState", json!({"applicationId": -1})),
            400,
            "initialDeviceState.applicationId",
        ),
    ] {
        server.send("POST", "/device", &body).await.is_error(status, words);
    }
    assert_eq!(each(&fixture.list("").await, "deviceId"), ["d200000000000001"], "nothing of it was stored");
}

#[tokio::test]
async fn metadata_is_patched_or_replaced_and_a_refused_change_changes_nothing() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let made = server.create("/device", &fixture.new_device(1)).await;
    server.create("/device", &fixture.new_device(2)).await;
    let path = format!("/device/id/{}", text(&made, "id"));
    let update = async |operation: &str, value: Value| {
        server.send("PUT", &path, &json!({"metadata": {"operation": operation, "value": value}})).await
    };
    let patched = update("patch", json!({"place": "roof"})).await;
    assert_eq!((patched.status, &patched.json()["metadata"]), (200, &json!({"place": "roof", "serial": "1"})));
    has(&patched.json(), &DEVICE);
    assert_eq!(server.send("PUT", &path, &json!({})).await.json()["metadata"], patched.json()["metadata"]);
    let replaced = update("replace", json!({"serial": "9"})).await;
    assert_eq!(replaced.json()["metadata"], json!({"serial": "9"}));
    update("replace", json!({"place": "roof"})).await.is_error(422, "serial");
    update("patch", json!({"serial": "2"})).await.is_error(409, "serial");
    update("drop", json!({})).await.is_error(400, "metadata.operation: unknown variant `drop`");
    update("patch", json!({"serial": null})).await.is_error(400, "metadata.value.serial: invalid type: null");
    server.send("PUT", &path, &json!({"metadata": null})).await.is_error(400, "null");
    assert_eq!(server.read(&path).await["metadata"], json!({"serial": "9"}));
    server.send("PUT", &format!("/device/id/{NOBODY}"), &json!({})).await.is_error(404, "there is no device");
}

#[tokio::test]
async fn a_key_is_set_and_is_never_told() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    server.create("/device", &fixture.new_device(1)).await;
    let path = "/device/deviceId/d200000000000001/key";
    let set = server.send("PUT", path, &json!({"deviceRootKey": KEY})).await;
    assert_eq!((set.status, set.body.len()), (204, 0), "{set:?}");
    assert!(!fixture.list("").await.to_string().contains(KEY));
    server.send("PUT", path, &json!({})).await.is_error(422, "devicePublicKey");
    let both = json!({"deviceRootKey": KEY, "devicePublicKey": KEY});
    assert_eq!(server.send("PUT", path, &both).await.status, 204);
    server.send("PUT", path, &json!({"deviceRootKey": 1})).await.is_error(400, "deviceRootKey");
    let nobody = "/device/deviceId/d200000000000002/key";
    server.send("PUT", nobody, &json!({"deviceRootKey": KEY})).await.is_error(404, "there is no device");
}

#[tokio::test]
async fn a_deleted_device_is_gone_and_its_board_can_go_too() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let made = server.create("/device", &fixture.new_device(1)).await;
    let board = format!("/board/id/{}", fixture.board);
    server.keeps(&board, 409, "delete them first").await;
    let path = format!("/device/id/{}", text(&made, "id"));
    server.delete(&path).await;
    server.keeps(&path, 404, "there is no device").await;
    server.get("/device/deviceId/d200000000000001/state", "").await.is_error(404, "not registered");
    server.create("/device", &fixture.new_device(1)).await;
    server.keeps(&board, 409, "delete them first").await;
}

#[tokio::test]
async fn a_list_is_limited_by_boards_and_metadata() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let free = fixture.free_board("free", &fixture.organisation).await;
    for n in 1..=4 {
        let mut new = fixture.new_device(n);
        new["metadata"]["place"] = json!(if n % 2 == 0 { "the roof & more" } else { "" });
        if n > 2 {
            new["boardId"] = json!(free);
        }
        server.create("/device", &new).await;
    }
    let tagged = fixture.board.as_str();
    let ids = async |query: &str| {
        let ids = each(&fixture.list(query).await, "deviceId");
        ids.iter().map(|id| id[15..].to_owned()).collect::<String>()
    };
    assert_eq!(ids("").await, "1234");
    assert_eq!(ids(&format!("&boardIds={tagged}")).await, "12");
    assert_eq!(ids(&format!("&boardIds={tagged}&boardIds={free}")).await, "1234");
    assert_eq!(ids(&format!("&boardIds={NOBODY}")).await, "");
    assert_eq!(ids("&metadataName=place&metadataValue=the%20roof+%26%20more").await, "24");
    assert_eq!(ids("&metadataName=place&metadataValue=").await, "13");
    assert_eq!(ids(&format!("&metadataName=place&metadataValue=&boardIds={free}")).await, "3");
    for (query, words) in [
        ("&metadataName=place", "query parameter metadataValue is missing"),
        ("&metadataValue=place", "query parameter metadataName is missing"),
        ("&boardIds=1", "query parameter boardIds is \"1\""),
        ("&orderBy=name", "boardId, createdAt, deviceId, mcuId, organisationId or updatedAt"),
        ("&limit=10001", "from 1 to 10000"),
    ] {
        let path = format!("/device?organisationId={}{query}", fixture.organisation);
        server.get(&path, "").await.is_error(400, words);
    }
    server.get("/device", "").await.is_error(400, "query parameter organisationId is missing");
    let of_board = server.read(&format!("/board/id/{free}/devices?metadataName=place&metadataValue=&limit=5")).await;
    assert_eq!(each(&of_board, "deviceId"), ["d200000000000003"]);
    has(&of_board[0], &DEVICE);
}

#[tokio::test]
async fn every_order_and_direction_is_kept_from_page_to_page() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let free = fixture.free_board("free", &fixture.organisation).await;
    for (n, id) in [(5, "8000000000000000"), (3, "0000000000000001"), (4, "7fffffffffffffff"), (1, "ffffffffffffffff")]
    {
        let new = with(fixture.new_device(n), "deviceId", json!(id));
        server.create("/device", &if n > 3 { with(new, "boardId", json!(free)) } else { new }).await;
    }
    for order in ["boardId", "createdAt", "deviceId", "mcuId", "organisationId", "updatedAt"] {
        let all = fixture.list(&format!("&orderBy={order}")).await;
        let values = each(&all, order);
        assert!(values.is_sorted() && values.len() == 4, "{order} {values:?}");
        for path in ["/device", "/device-and-state"] {
            for direction in ["asc", "desc"] {
                let mut paged = Vec::new();
                for offset in 0..4 {
                    let organisation = &fixture.organisation;
                    let query = format!("orderBy={order}&orderDir={direction}&limit=1&offset={offset}");
                    let page = server.read(&format!("{path}?organisationId={organisation}&{query}")).await;
                    paged.extend(each(&page, "id"));
                }
                let mut expected = each(&all, "id");
                if direction == "desc" {
                    expected.reverse();
                }
                assert_eq!(paged, expected, "{path} {order} {direction}");
            }
        }
    }
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all_and_an_error_names_the_entry() {
    let mut setup = Setup::default();
    setup.config.max_devices_per_request = 20;
    let fixture = Fixture::with(setup).await;
    let server = &fixture.server;
    let batch = async |devices: &[Value]| server.send("POST", "/device/batch", &json!({"devices": devices})).await;
    let news: Vec<_> = (1..=18).map(|n| fixture.new_device(n)).collect();
    let broken = |index: usize, name: &str, value: Value| {
        let mut news = news.clone();
        news[index][name] = value;
        news
    };
    batch(&broken(17, "boardId", json!(NOBODY))).await.is_error(422, "devices[17]: ");
    batch(&broken(17, "deviceId", json!("d200000000000003"))).await.is_error(409, "devices[17]: deviceId");
    batch(&broken(5, "metadata", json!({"serial": "1"}))).await.is_error(409, "devices[5]: ");
    batch(&broken(2, "mcuId", json!("x"))).await.is_error(400, "devices[2].mcuId: an MCU id");
    batch(&broken(2, "mcuId", json!(1))).await.is_error(400, "devices[2].mcuId: invalid type: integer");
    batch(&vec![news[0].clone(); 21]).await.is_error(422, "devices has more than 20 entries; send at most 20");
    server.send("POST", "/device/batch", &json!(news)).await.is_error(400, "sequence");
    assert_eq!(fixture.list("").await, json!([]), "nothing of it was stored");
    let stored = batch(&news).await;
    assert_eq!(stored.status, 201, "{stored:?}");
    assert_eq!(stored.json(), fixture.list("").await);
    assert_eq!(stored.json().as_array().unwrap().len(), 18);
    let none = batch(&[]).await;
    assert_eq!((none.status, none.json()), (201, json!([])));
    batch(&news[..1]).await.is_error(409, "devices[0]: ");
}

#[tokio::test]
async fn a_batch_may_be_longer_than_other_bodies() {
    let mut setup = Setup::default();
    (setup.config.max_body, setup.config.max_batch_body) = (2000, 20_000);
    let fixture = Fixture::with(setup).await;
    let padded = |len: usize| {
        let mut body = serde_json::to_vec(&json!({"devices": [fixture.new_device(1)]})).unwrap();
        body.resize(len, b' ');
        body
    };
    fixture.server.post("/device", "", &padded(2001)).await.is_error(413, "2000 bytes");
    fixture.server.post("/device/batch", "", &padded(20_001)).await.is_error(413, "20000 bytes");
    assert_eq!(fixture.server.post("/device/batch", "", &padded(20_000)).await.status, 201);
}

#[tokio::test]
async fn of_those_who_want_the_same_number_at_once_exactly_one_gets_it() {
    let fixture = Fixture::new().await;
    let tries = (1..=16).map(|n| {
        let new = with(fixture.new_device(n), "deviceId", json!("d2000000000000ff"));
        let server = &fixture.server;
        async move { server.send("POST", "/device", &new).await.status }
    });
    let mut statuses = futures_util::future::join_all(tries).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [&[201][..], &[409; 15]].concat());
}
