//! What callers of one organisation see of the others' records, and may do with them: nothing but what is public.

use lastroute::api::access::Access;
use lastroute::id::DeviceId;
use serde_json::{Value, json};

use crate::harness::{Answer, Server, Setup, each};

pub(crate) const ADMINISTRATOR: &str = "ik_0123456789abcdef0123456789abcdef";
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Two organisations, each with a device, and of the other one a private and a public board and network.
pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) own: String,
    pub(crate) other: String,
    private_board: String,
    pub(crate) public_board: String,
    private_network: String,
    public_network: String,
    pub(crate) own_device: String,
    pub(crate) other_device: String,
    pub(crate) reader: String,
    pub(crate) writer: String,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let access = Access::of_keys([ADMINISTRATOR]);
        let server = Server::start(Setup { access, ..Setup::default() }).await;
        let make = async |path: &str, body: Value| {
            let answer = ask(&server, ADMINISTRATOR, "POST", path, &body).await;
            assert_eq!(answer.status, 201, "{answer:?}");
            answer.json()
        };
        let id = async |path: &str, body: Value| make(path, body).await["id"].as_str().unwrap().to_owned();
        let own = id("/organisation", json!({"name": "own"})).await;
        let other = id("/organisation", json!({"name": "other"})).await;
        let private_board = id("/board", board(&other, "private", false)).await;
        let public_board = id("/board", board(&other, "public", true)).await;
        let key = async |access: &str| {
            let new = json!({"name": access, "organisationId": own, "access": access});
            make("/apiKey", new).await["key"].as_str().unwrap().to_owned()
        };
        Self {
            private_network: id("/network", network(&other, 1, false)).await,
            public_network: id("/network", network(&other, 2, true)).await,
            own_device: id("/device", device(&own, &public_board, 1)).await,
            other_device: id("/device", device(&other, &public_board, 2)).await,
            reader: key("read").await,
            writer: key("write").await,
            server,
            own,
            other,
            private_board,
            public_board,
        }
    }

    async fn write(&self, method: &str, path: &str, body: Value) -> Answer {
        ask(&self.server, &self.writer, method, path, &body).await
    }

    /// Both may read the same.
    async fn read(&self, path: &str) -> Answer {
        let answer = ask(&self.server, &self.reader, "GET", path, &json!({})).await;
        let to_writer = ask(&self.server, &self.writer, "GET", path, &json!({})).await;
        assert_eq!((answer.status, &answer.body), (to_writer.status, &to_writer.body), "{path}");
        answer
    }
}

pub(crate) async fn ask(server: &Server, key: &str, method: &str, path: &str, body: &Value) -> Answer {
    let headers = format!("authorization: ApiKey {key}\r\n");
    let body = if method == "GET" || method == "DELETE" { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    server.connect().await.request(method, path, &headers, &body).await
}

fn board(organisation: &str, name: &str, public: bool) -> Value {
    json!({"name": name, "description": "", "soc": "nRF9151", "organisationId": organisation, "public": public})
}

fn network(organisation: &str, n: u32, public: bool) -> Value {
    json!({"name": n.to_string(), "description": "", "key": KEY, "organisationId": organisation, "public": public,
        "networkId": n})
}

pub(crate) fn device(organisation: &str, board: &str, n: u8) -> Value {
    json!({"mcuId": format!("{n:02x}"), "boardId": board, "organisationId": organisation,
        "deviceId": format!("{n:016x}")})
}

/// That an answer is this error and says no more.
fn is_exactly(answer: &Answer, status: u16, message: &str) {
    assert_eq!((answer.status, answer.json()), (status, json!({"code": status, "message": message})));
}

/// What an answer has but the time it was given.
fn without_date(answer: &Answer) -> Vec<&(String, String)> {
    answer.headers.iter().filter(|(name, _)| name != "date").collect()
}

const NO_SUCH_RECORD: &str = "0198c0de-0000-7000-8000-00000000002a";
const NONE_OF_ONES_OWN: &str = "the organisation of these credentials has no device {}; register it, or name another";

#[tokio::test]
async fn what_is_private_to_another_organisation_cannot_be_told_from_what_is_not_there() {
    let fixture = Fixture::new().await;
    let Fixture { other, private_board, private_network, other_device, .. } = &fixture;
    let (none, no_organisation) = ("there is no device {}", "there is no organisation {}");
    let (device, absent) = ("0000000000000002", "0000000000000003");
    let root = json!({"deviceRootKey": KEY});
    for (method, path, message, foreign, absent, body) in [
        ("GET", "/organisation/id/{}", no_organisation, other.as_str(), NO_SUCH_RECORD, json!({})),
        ("GET", "/organisation/name/{}", "there is no organisation named \"{}\"", "other", "third", json!({})),
        ("GET", "/board/id/{}", "there is no board {}", private_board, NO_SUCH_RECORD, json!({})),
        ("GET", "/board/id/{}/devices", "there is no board {}", private_board, NO_SUCH_RECORD, json!({})),
        ("GET", "/network/id/{}", "there is no network {}", private_network, NO_SUCH_RECORD, json!({})),
        ("GET", "/device/id/{}", none, other_device, NO_SUCH_RECORD, json!({})),
        ("GET", "/device/id/{}/state", none, other_device, NO_SUCH_RECORD, json!({})),
        ("GET", "/device/deviceId/{}", none, device, absent, json!({})),
        ("GET", "/device/deviceId/{}/state", NONE_OF_ONES_OWN, device, absent, json!({})),
        ("GET", "/device/deviceId/{}/lastRoute", NONE_OF_ONES_OWN, device, absent, json!({})),
        ("GET", "/device/deviceId/{}/waitForPacket", NONE_OF_ONES_OWN, device, absent, json!({})),
        (
            "GET",
            "/device/soc/nRF9151/mcuId/{}",
            "there is no device with the mcuId \"{}\" and the SoC \"nRF9151\"",
            "02",
            "03",
            json!({}),
        ),
        ("DELETE", "/board/id/{}", "there is no board {}", private_board, NO_SUCH_RECORD, json!({})),
        ("DELETE", "/network/id/{}", "there is no network {}", private_network, NO_SUCH_RECORD, json!({})),
        ("DELETE", "/device/id/{}", none, other_device, NO_SUCH_RECORD, json!({})),
        ("PUT", "/device/id/{}", none, other_device, NO_SUCH_RECORD, json!({})),
        ("PUT", "/device/id/{}/state", none, other_device, NO_SUCH_RECORD, json!({})),
        ("PUT", "/device/deviceId/{}/key", none, device, absent, root),
        ("GET", "/device/deviceId/{}/key", none, device, absent, json!({})),
        ("POST", "/device/deviceId/{}/key/confirm", none, device, absent, json!({})),
        (
            "POST",
            "/device/deviceId/{}/downlink",
            none,
            device,
            absent,
            json!({"packetType": 200, "payload": "AA==", "sendWaitTimeoutMs": 1}),
        ),
    ] {
        let asked = async |id: &str| {
            let answer = match method {
                "GET" => fixture.read(&path.replace("{}", id)).await,
                _ => fixture.write(method, &path.replace("{}", id), body.clone()).await,
            };
            is_exactly(&answer, 404, &message.replace("{}", id));
            answer
        };
        let (foreign_answer, absent_answer) = (asked(foreign).await, asked(absent).await);
        if foreign.len() == absent.len() {
            assert_eq!(without_date(&foreign_answer), without_date(&absent_answer), "{method} {path}");
        }
    }
    assert_eq!(
        ask(&fixture.server, ADMINISTRATOR, "GET", &format!("/device/id/{other_device}"), &json!({})).await.status,
        200
    );
}

#[tokio::test]
async fn to_name_another_organisation_is_forbidden() {
    let fixture = Fixture::new().await;
    let other = &fixture.other;
    for path in ["/board", "/network", "/device", "/device-and-state"] {
        let answer = fixture.read(&format!("{path}?organisationId={other}")).await;
        answer.is_error(403, &format!("not for organisation {other}"));
    }
    let foreign = device(other, &fixture.public_board, 3);
    for (path, body) in
        [("/board", board(other, "new", false)), ("/network", network(other, 3, false)), ("/device", foreign.clone())]
    {
        fixture.write("POST", path, body).await.is_error(403, "not for organisation");
    }
    let batch = json!({"devices": [device(&fixture.own, &fixture.public_board, 4), foreign]});
    fixture.write("POST", "/device/batch", batch).await.is_error(403, "devices[1]: these credentials are not for");
    for path in [format!("/board/id/{}", fixture.public_board), format!("/network/id/{}", fixture.public_network)] {
        fixture.write("DELETE", &path, json!({})).await.is_error(403, "not for organisation");
    }
    for (method, path) in [
        ("GET", "/gateway".to_owned()),
        ("GET", "/metrics".to_owned()),
        ("GET", "/device/unregistered".to_owned()),
        ("GET", "/apiKey".to_owned()),
        ("POST", "/organisation".to_owned()),
        ("DELETE", format!("/organisation/id/{}", fixture.own)),
    ] {
        let refused = fixture.write(method, &path, json!({"name": "x"})).await;
        let message = "these credentials are for one organisation, and this concerns all; use some that are for all";
        is_exactly(&refused, 403, message);
    }
}

#[tokio::test]
async fn ones_own_and_what_is_public_is_there() {
    let fixture = Fixture::new().await;
    let Fixture { own, public_board, public_network, own_device, .. } = &fixture;
    let ids = async |path: String| each(&fixture.read(&path).await.json(), "id");
    assert_eq!(ids("/organisation".to_owned()).await, [own.as_str()]);
    assert_eq!(ids(format!("/board?organisationId={own}")).await, [""; 0]);
    assert_eq!(ids(format!("/board?organisationId={own}&includePublic=true")).await, [public_board.as_str()]);
    assert_eq!(ids(format!("/network?organisationId={own}&includePublic=true")).await, [public_network.as_str()]);
    assert_eq!(ids(format!("/device?organisationId={own}")).await, [own_device.as_str()]);
    assert_eq!(ids(format!("/device-and-state?organisationId={own}")).await, [own_device.as_str()]);
    let of_board = ids(format!("/board/id/{public_board}/devices")).await;
    assert_eq!(of_board, [own_device.as_str()], "of the devices on a public board each sees its own");
    for path in [
        format!("/organisation/id/{own}"),
        format!("/board/id/{public_board}"),
        format!("/network/id/{public_network}"),
        format!("/device/id/{own_device}"),
        format!("/device/id/{own_device}/state"),
        "/device/deviceId/0000000000000001/state".to_owned(),
        "/device/soc/nRF9151/mcuId/01".to_owned(),
    ] {
        assert_eq!(fixture.read(&path).await.status, 200, "{path}");
    }
    let made = fixture.write("POST", "/board", board(own, "new", false)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let new = device(own, made.json()["id"].as_str().unwrap(), 5);
    assert_eq!(fixture.write("POST", "/device", new).await.status, 201);
    let root = json!({"deviceRootKey": KEY});
    assert_eq!(fixture.write("PUT", "/device/deviceId/0000000000000001/key", root).await.status, 204);
    assert_eq!(fixture.write("DELETE", &format!("/device/id/{own_device}"), json!({})).await.status, 204);
}

#[tokio::test]
async fn a_public_network_takes_credentials_for_all() {
    let fixture = Fixture::new().await;
    let refused = fixture.write("POST", "/network", network(&fixture.own, 3, true)).await;
    refused.is_error(403, "a public network speaks for the devices of all organisations");
    let refused = fixture.write("POST", "/network", network(&fixture.other, 3, true)).await;
    refused.is_error(403, "not for organisation");
    assert_eq!(fixture.write("POST", "/network", network(&fixture.own, 3, false)).await.status, 201);
    let public = network(&fixture.own, 4, true);
    assert_eq!(ask(&fixture.server, ADMINISTRATOR, "POST", "/network", &public).await.status, 201);
}

#[tokio::test]
async fn to_register_a_device_tells_nothing_of_what_was_heard_before_unless_it_is_for_all() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    let heard = |n: u64| format!("/device/deviceId/{n:016x}/lastRoute");
    for n in 0x11..=0x14 {
        server.report(DeviceId(n), 1);
    }
    let new = |n: u8| device(&fixture.own, &fixture.public_board, n);
    assert_eq!(fixture.write("POST", "/device", new(0x11)).await.status, 201);
    assert_eq!(fixture.write("POST", "/device/batch", json!({"devices": [new(0x12)]})).await.status, 201);
    let imported = fixture.write("POST", "/device/import", json!({"devices": [new(0x13)]})).await;
    assert_eq!(imported.json()["created"], 1);
    for n in 0x11..=0x13 {
        fixture.read(&heard(n)).await.is_error(404, "nothing was heard of device");
        let state = fixture.read(&format!("/device/deviceId/{n:016x}/state")).await.json();
        assert_eq!(state.get("lastRoute"), None, "{state}");
    }
    assert_eq!(ask(server, ADMINISTRATOR, "POST", "/device", &new(0x14)).await.status, 201);
    assert_eq!(fixture.read(&heard(0x14)).await.status, 200);
}

#[tokio::test]
async fn a_state_is_shown_of_the_record_that_was_read() {
    let fixture = Fixture::new().await;
    let (id, table) = (DeviceId(2), &fixture.server.table);
    let own = table.registration(DeviceId(1)).unwrap();
    // As if it had become one's own just after the other's record was read.
    table.deregister(id);
    table.register(id, own);
    let path = format!("/device/deviceId/{id}/state");
    fixture.read(&path).await.is_error(404, &format!("has no device {id}"));
}

#[tokio::test]
async fn who_may_only_read_changes_nothing() {
    let fixture = Fixture::new().await;
    let own_device = format!("/device/id/{}", fixture.own_device);
    for (method, path, body) in [
        ("POST", "/board".to_owned(), board(&fixture.own, "new", false)),
        ("POST", "/network".to_owned(), network(&fixture.own, 3, false)),
        ("POST", "/device".to_owned(), device(&fixture.own, &fixture.public_board, 3)),
        ("POST", "/device/batch".to_owned(), json!({"devices": []})),
        ("POST", "/device/import".to_owned(), json!({"devices": []})),
        ("PUT", own_device.clone(), json!({})),
        ("PUT", format!("{own_device}/state"), json!({})),
        ("DELETE", own_device.clone(), json!({})),
        ("PUT", "/device/deviceId/0000000000000001/key".to_owned(), json!({"deviceRootKey": KEY})),
        ("POST", "/device/deviceId/0000000000000001/key/confirm".to_owned(), json!({})),
        (
            "POST",
            "/device/deviceId/0000000000000001/downlink".to_owned(),
            json!({"packetType": 200, "payload": "AA=="}),
        ),
        ("POST", "/rpc".to_owned(), json!({"deviceId": "0000000000000001", "rpc": {"commandId": 9}})),
        ("DELETE", format!("/rpc/{NO_SUCH_RECORD}"), json!({})),
        ("DELETE", format!("/downlink/{NO_SUCH_RECORD}"), json!({})),
        ("POST", "/key/sharedSecret".to_owned(), json!({"key": KEY})),
        ("POST", "/key/sharedSecret/device".to_owned(), json!({"deviceId": "0000000000000001"})),
        ("POST", "/key/derived/device".to_owned(), json!({"deviceId": "0000000000000001", "interface": "udp"})),
    ] {
        let refused = ask(&fixture.server, &fixture.reader, method, &path, &body).await;
        is_exactly(&refused, 403, "these credentials may only read; ask an administrator for some that may write");
    }
    assert_eq!(fixture.read(&own_device).await.status, 200);
}

#[tokio::test]
async fn an_import_makes_ones_own_devices_and_refuses_those_of_others_one_by_one() {
    let fixture = Fixture::new().await;
    let Fixture { own, other, public_board, private_board, .. } = &fixture;
    let devices = [
        device(own, public_board, 3),
        device(other, public_board, 4),
        device(own, private_board, 5),
        device(own, public_board, 2),
        device(own, public_board, 1),
    ];
    let outcome = fixture.write("POST", "/device/import", json!({"devices": devices})).await.json();
    let failed = json!([
        {"index": 1, "code": 403,
            "message": format!("these credentials are not for organisation {other}; name the organisation they are for")},
        {"index": 2, "code": 422, "message": format!("boardId: there is no board {private_board}, or it is private to another organisation")},
        {"index": 3, "code": 409, "message": outcome["failed"][2]["message"]},
    ]);
    assert_eq!(outcome, json!({"created": 1, "unchanged": 1, "failed": failed}));
    let all = ask(&fixture.server, ADMINISTRATOR, "GET", &format!("/device?organisationId={other}"), &json!({})).await;
    assert_eq!(each(&all.json(), "deviceId"), ["0000000000000002"]);
}

#[tokio::test]
async fn an_export_has_ones_own_devices_and_none_of_others() {
    let fixture = Fixture::new().await;
    let Fixture { own, other, own_device, other_device, .. } = &fixture;
    for query in [String::new(), format!("?organisationId={own}"), "?limit=1".to_owned()] {
        let exported = fixture.read(&format!("/device/export{query}")).await.json();
        assert_eq!(each(&exported, "id"), [own_device.as_str()], "{query}");
        assert_eq!(each(&exported, "organisation"), ["own"], "{query}");
    }
    let after = format!("/device/export?after={own_device}");
    assert_eq!(fixture.read(&after).await.json(), json!([]), "not even behind one's own");
    let message = format!("these credentials are not for organisation {other}; name the organisation they are for");
    is_exactly(&fixture.read(&format!("/device/export?organisationId={other}")).await, 403, &message);
    let all = ask(&fixture.server, ADMINISTRATOR, "GET", "/device/export", &json!({})).await.json();
    assert_eq!(each(&all, "id"), [own_device.as_str(), other_device.as_str()]);
}

#[tokio::test]
async fn an_import_brings_10_000_entries_and_16_mib_at_most() {
    let server = Server::start(Setup::default()).await;
    let entries = |count: usize| format!("{{\"devices\":[{}]}}", vec!["7"; count].join(","));
    let most = server.post("/device/import", "", entries(10_000).as_bytes()).await.json();
    assert_eq!((most["failed"].as_array().unwrap().len(), &most["failed"][9999]["code"]), (10_000, &json!(400)));
    let more = server.post("/device/import", "", entries(10_001).as_bytes()).await;
    is_exactly(&more, 422, "devices has more than 10000 entries; send at most 10000 at once");
    let mut body = entries(0).into_bytes();
    body.resize(16 << 20, b' ');
    assert_eq!(
        server.post("/device/import", "", &body).await.json(),
        json!({"created": 0, "unchanged": 0, "failed": []})
    );
    let mut client = server.connect().await;
    client.send_head("POST", "/device/import", "content-length: 16777217\r\nexpect: 100-continue\r\n").await;
    client.answer(false).await.is_error(413, "longer than 16777216 bytes");
}
