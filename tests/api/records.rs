//! Organisations, boards and networks: made, read, listed and deleted.

use serde_json::{Value, json};

use crate::harness::{Server, Setup, each, has};

const ORGANISATION: [&str; 4] = ["id", "createdAt", "updatedAt", "name"];
const BOARD: [&str; 9] =
    ["id", "createdAt", "updatedAt", "name", "description", "soc", "organisationId", "public", "metadataFields"];
const NETWORK: [&str; 9] =
    ["name", "description", "key", "organisationId", "public", "networkId", "id", "createdAt", "updatedAt"];
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NOBODY: &str = "0198c0de-0000-7000-8000-00000000002a";

async fn organisation(server: &Server, name: &str) -> String {
    text(&server.create("/organisation", &json!({"name": name})).await, "id")
}

fn text(record: &Value, name: &str) -> String {
    record[name].as_str().unwrap().to_owned()
}

fn board(organisation: &str, name: &str) -> Value {
    json!({"name": name, "description": "", "soc": "nRF9151", "organisationId": organisation})
}

fn network(organisation: &str, name: &str, id: u32) -> Value {
    json!({"name": name, "description": "all", "key": KEY, "organisationId": organisation, "public": false,
        "networkId": id})
}

#[tokio::test]
async fn an_organisation_is_made_read_by_id_and_name_and_deleted() {
    let server = Server::start(Setup::default()).await;
    let made = server.create("/organisation", &json!({"name": "A/B Groß?", "more": 1})).await;
    has(&made, &ORGANISATION);
    assert_eq!((&made["name"], &made["createdAt"]), (&json!("A/B Groß?"), &made["updatedAt"]));
    let by_id = format!("/organisation/id/{}", text(&made, "id"));
    assert_eq!(server.read(&by_id).await, made);
    assert_eq!(server.read(&by_id.to_uppercase().replace("/ORGANISATION/ID/", "/organisation/id/")).await, made);
    assert_eq!(server.read("/organisation/name/A%2FB%20Gro%C3%9F%3F").await, made);
    assert_eq!(server.read("/organisation").await, json!([made]));
    server.send("POST", "/organisation", &json!({"name": "A/B Groß?"})).await.is_error(409, "is taken");
    server.get("/organisation/name/A%2FB", "").await.is_error(404, "there is no organisation named \"A/B\"");
    server.get("/organisation/name/%ff", "").await.is_error(404, "UTF-8");
    server.get(&format!("/organisation/id/{NOBODY}"), "").await.is_error(404, NOBODY);
    server.get("/organisation/id/1", "").await.is_error(400, "record id");
    server.create("/board", &board(&text(&made, "id"), "tag")).await;
    server.keeps(&by_id, 409, "delete them first").await;
    let boards = server.read(&format!("/board?organisationId={}", text(&made, "id"))).await;
    server.delete(&format!("/board/id/{}", each(&boards, "id")[0])).await;
    server.delete(&by_id).await;
    server.keeps(&by_id, 404, "there is no organisation").await;
    assert_eq!(server.read("/organisation").await, json!([]));
}

#[tokio::test]
async fn a_list_has_every_order_and_its_pages_neither_repeat_nor_lose() {
    let server = Server::start(Setup::default()).await;
    let mut made = Vec::new();
    for n in [3, 1, 7, 5, 2, 6, 4] {
        made.push(organisation(&server, &format!("org {n}")).await);
    }
    for (order, first) in [("createdAt", "org 3"), ("updatedAt", "org 3"), ("name", "org 1")] {
        for direction in ["asc", "desc"] {
            let page = async |offset: usize, limit: usize| {
                let query = format!("orderBy={order}&orderDir={direction}&limit={limit}&offset={offset}");
                each(&server.read(&format!("/organisation?{query}")).await, "name")
            };
            let all = page(0, 100).await;
            let expected = if direction == "asc" { &all[0] } else { &all[6] };
            assert_eq!((all.len(), expected.as_str()), (7, first), "{order} {direction}");
            let mut paged = Vec::new();
            for offset in [0, 3, 6, 9] {
                paged.extend(page(offset, 3).await);
            }
            assert_eq!(paged, all, "{order} {direction}");
        }
    }
    assert_eq!(each(&server.read("/organisation").await, "id"), made, "by default as they were made");
    for (query, words) in [
        ("limit=0", "query parameter limit is \\\"0\\\"; it must be a whole number from 1 to 10000"),
        ("orderBy=public", "it must be createdAt, name or updatedAt"),
        ("offset=1&offset=1", "offset is given more than once"),
    ] {
        server.get(&format!("/organisation?{query}"), "").await.is_error(400, &words.replace('\\', ""));
    }
}

#[tokio::test]
async fn a_board_has_all_its_fields_and_is_listed_for_its_owner_and_for_all_if_it_is_public() {
    let server = Server::start(Setup::default()).await;
    let (own, other) = (organisation(&server, "own").await, organisation(&server, "other").await);
    let private = server.create("/board", &board(&own, "private")).await;
    has(&private, &BOARD);
    assert_eq!((&private["public"], &private["metadataFields"]), (&json!(false), &json!([])));
    let mut new = board(&other, "open");
    new["public"] = json!(true);
    new["metadataFields"] = json!([{"name": "serial", "required": true, "unique": true}]);
    let public = server.create("/board", &new).await;
    assert_eq!((&public["public"], &public["metadataFields"]), (&json!(true), &new["metadataFields"]));
    assert_eq!(server.read(&format!("/board/id/{}", text(&public, "id"))).await, public);
    let list = async |query: &str| server.read(&format!("/board?organisationId={own}{query}")).await;
    for query in ["", "&includePublic=false"] {
        assert_eq!(list(query).await, json!([private]));
    }
    for (order, first) in [("createdAt", &private), ("name", &public), ("public", &private), ("updatedAt", &private)] {
        let (asc, desc) = (format!("&includePublic=true&orderBy={order}"), format!("&orderDir=desc&orderBy={order}"));
        let ascending = list(&asc).await;
        assert_eq!((&ascending[0], ascending.as_array().unwrap().len()), (first, 2), "{order}");
        assert_eq!(list(&format!("&includePublic=true{desc}")).await[1], *first, "{order}");
    }
    server.send("POST", "/board", &board(&own, "private")).await.is_error(409, "is taken");
    server.create("/board", &board(&other, "private")).await;
    server.get("/board", "").await.is_error(400, "query parameter organisationId is missing; give a record id");
    assert_eq!(server.read(&format!("/board?organisationId={NOBODY}")).await, json!([]));
    server.get(&format!("/board/id/{NOBODY}"), "").await.is_error(404, "there is no board");
    server.get(&format!("/board/id/{NOBODY}/devices"), "").await.is_error(404, "there is no board");
    server.delete(&format!("/board/id/{}", text(&public, "id"))).await;
    server.keeps(&format!("/board/id/{}", text(&public, "id")), 404, "there is no board").await;
}

#[tokio::test]
async fn a_network_is_unique_by_name_and_by_number() {
    let server = Server::start(Setup::default()).await;
    let own = organisation(&server, "own").await;
    let made = server.create("/network", &network(&own, "field", 0x00ab_cdef)).await;
    has(&made, &NETWORK);
    assert_eq!((&made["key"], &made["networkId"]), (&json!(KEY), &json!(0x00ab_cdef)));
    let path = format!("/network/id/{}", text(&made, "id"));
    assert_eq!(server.read(&path).await, made);
    server.send("POST", "/network", &network(&own, "field", 1)).await.is_error(409, "field");
    server.send("POST", "/network", &network(&own, "other", 0x00ab_cdef)).await.is_error(409, "networkId");
    let mut public = network(&own, "a public one", 2);
    public["public"] = json!(true);
    let public = server.create("/network", &public).await;
    for (order, first) in [("createdAt", &made), ("name", &public), ("public", &made), ("updatedAt", &made)] {
        for (direction, place) in [("asc", 0), ("desc", 1)] {
            let query = format!("organisationId={own}&orderBy={order}&orderDir={direction}");
            assert_eq!(server.read(&format!("/network?{query}")).await[place], *first, "{query}");
        }
    }
    let other = organisation(&server, "other").await;
    let list = async |query: &str| server.read(&format!("/network?organisationId={other}{query}")).await;
    assert_eq!((list("").await, list("&includePublic=true").await), (json!([]), json!([public])));
    server.get("/network?organisationId=x", "").await.is_error(400, "query parameter organisationId is \"x\"");
    server.delete(&path).await;
    server.get(&path, "").await.is_error(404, "there is no network");
}

#[tokio::test]
async fn a_body_that_does_not_fit_is_400_and_one_that_breaks_a_rule_is_422() {
    let server = Server::start(Setup::default()).await;
    let own = organisation(&server, "own").await;
    let with = |new: Value, name: &str, value: Value| {
        let mut new = new;
        new[name] = value;
        new
    };
    let (board, network) = (board(&own, "b"), network(&own, "n", 1));
    for (path, body, status, words) in [
        ("/organisation", json!({}), 400, "missing field `name`"),
        ("/organisation", json!({"name": null}), 400, "name: invalid type: null"),
        ("/organisation", json!({"name": 1}), 400, "name: invalid type: integer"),
        ("/organisation", json!(["x"]), 400, "sequence"),
        ("/organisation", json!({"name": ""}), 422, "name has 0 bytes"),
        ("/organisation", json!({"name": "a\0b"}), 422, "NUL"),
        ("/organisation", json!({"name": "x".repeat(256)}), 422, "256 bytes"),
        ("/board", with(board.clone(), "organisationId", json!("x")), 400, "organisationId"),
        ("/board", with(board.clone(), "organisationId", json!(NOBODY)), 422, "organisationId"),
        ("/board", with(board.clone(), "public", json!("true")), 400, "public: invalid type: string"),
        ("/board", with(board.clone(), "metadataFields", Value::Null), 400, "metadataFields: invalid type: null"),
        ("/board", with(board.clone(), "metadataFields", json!([["a", true, true]])), 400, "metadataFields[0]"),
        ("/board", with(board.clone(), "metadataFields", json!([{"name": "a", "required": true}])), 400, "`unique`"),
        ("/board", with(board.clone(), "soc", json!("")), 422, "soc"),
        ("/network", with(network.clone(), "key", json!("AAEC")), 400, "key: a key is 32 bytes in base64"),
        ("/network", with(network.clone(), "networkId", json!(1 << 24)), 400, "networkId: a network id is"),
        ("/network", with(network.clone(), "networkId", json!("1")), 400, "networkId"),
        ("/network", with(network.clone(), "organisationId", json!(NOBODY)), 422, "organisationId"),
    ] {
        let answer = server.send("POST", path, &body).await;
        answer.is_error(status, words);
    }
    let twice = br#"{"name": "a", "name": "b"}"#;
    server.post("/organisation", "", twice).await.is_error(400, "\"name\" is given more than once");
    server.post("/organisation", "", b"").await.is_error(400, "EOF");
    server.post("/organisation", "content-type: text/plain\r\n", b"{}").await.is_error(415, "application/json");
    assert_eq!(each(&server.read("/organisation").await, "id"), [own], "nothing of it was stored");
}

#[tokio::test]
async fn records_are_made_and_read_as_message_pack_too() {
    let server = Server::start(Setup::default()).await;
    let own = organisation(&server, "own").await;
    let headers = "content-type: application/msgpack\r\naccept: application/msgpack\r\n";
    let body = rmp_serde::to_vec_named(&network(&own, "n", 7)).unwrap();
    let made = server.post("/network", headers, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.message_pack();
    assert_eq!(server.read(&format!("/network/id/{}", text(&made, "id"))).await, made);
}

#[tokio::test]
async fn a_path_that_is_none_is_404_and_a_method_that_is_none_names_the_others() {
    let server = Server::start(Setup::default()).await;
    for path in [
        "/organisations",
        "/organisation/id/",
        "/device/deviceId/d291d4d66bf0a955/application/state",
        "/device/deviceId/d291d4d66bf0a955/loggerStates",
        "/rpcs",
    ] {
        server.get(path, "").await.is_error(404, "no such path");
    }
    for (method, path, allow) in [
        ("PUT", "/organisation", "GET, HEAD, POST"),
        ("POST", "/device/id/x", "GET, HEAD, PUT, DELETE"),
        ("GET", "/device/batch", "POST"),
        ("OPTIONS", "/network", "GET, HEAD, POST"),
    ] {
        let answer = server.connect().await.request(method, path, "", b"").await;
        answer.is_error(405, allow);
        assert_eq!(answer.header("allow"), Some(allow));
    }
}
