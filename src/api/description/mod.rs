//! The description of the API that `GET /openapi.json` serves: OpenAPI 3.1, made of the types that bodies are read into and
//! written from, and of one table of operations.
//!
//! What the REST contract does not have is marked `x-lastroute-extension`. A test holds the table against the router's rows,
//! another one the document against the contract.

mod devices;
mod gateway;
mod keys;
mod messages;
pub(super) mod names;
mod operation;
mod parameters;
mod registry;

use std::sync::LazyLock;

use hyper::body::Bytes;
use serde_json::{Map, Value, json};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::Tag;
use utoipa::openapi::{Components, Info, License, OpenApi, PathsBuilder};
use utoipa::{PartialSchema, ToSchema};

use super::views;
use operation::{Operation, refusals};

const HEALTH: &str = "health";
const ORGANISATION: &str = "organisation";
const BOARD: &str = "board";
const NETWORK: &str = "network";
const DEVICE: &str = "device";
const WAITING: &str = "waiting";
const GATEWAY: &str = "gateway";
const API_KEY: &str = "apiKey";
const RPC: &str = "rpc";
const DOWNLINK: &str = "downlink";
const KEY: &str = "key";

const TAGS: [(&str, &str); 11] = [
    (HEALTH, "Probes, and what the API is; without credentials."),
    (ORGANISATION, "Owners of boards, networks and devices."),
    (BOARD, "Kinds of devices."),
    (NETWORK, "Keys that devices share."),
    (DEVICE, "Devices, their states and their routes."),
    (WAITING, "Waiting for packets, and following them."),
    (RPC, "Calls to devices, and their answers."),
    (DOWNLINK, "Messages to devices that are no calls."),
    (KEY, "Keys between devices and the gateway."),
    (GATEWAY, "How the gateway is; for callers that may see everything."),
    (API_KEY, "Keys of callers; for callers that may see everything."),
];

const ABOUT: &str = "\
Absent values are left out, and `null` is refused. Fields and query parameters that are not known are ignored. Every error is an \
`Error` with the status as its code. `HEAD` is answered wherever `GET` is. Bodies are JSON, or MessagePack with named fields if \
`Content-Type` and `Accept` say so. A gateway without any configured credentials listens on loopback only and asks for none.

Operations and parameters marked `x-lastroute-extension` are additions of this gateway.";

/// The document, as JSON.
pub(super) fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(value().to_string()));
    DOCUMENT.clone()
}

/// Every operation.
fn operations() -> Vec<Operation> {
    let all = [
        gateway::operations(),
        registry::operations(),
        devices::operations(),
        messages::operations(),
        keys::operations(),
    ];
    all.into_iter().flatten().collect()
}

fn value() -> Value {
    let (mut paths, mut components) = (PathsBuilder::new(), components());
    for mut operation in operations() {
        components.schemas.extend(std::mem::take(&mut operation.schemas));
        paths = paths.path(operation.path, operation.into_item());
    }
    let mut info = Info::new("lastroute", env!("CARGO_PKG_VERSION"));
    info.description = Some(ABOUT.to_owned());
    info.license = Some(License::builder().name("Apache-2.0").identifier(Some("Apache-2.0")).build());
    let mut document = OpenApi::new(info, paths);
    document.components = Some(components);
    document.security = Some(SCHEMES.map(|name| SecurityRequirement::new(name, [""; 0])).into());
    document.tags = Some(TAGS.into_iter().map(tag).collect());
    let mut document = serde_json::to_value(&document).unwrap_or_default();
    forbid_null(&mut document);
    exclude(&mut document["components"]["schemas"]);
    document
}

const SCHEMES: [&str; 3] = ["apiKeyAuthorization", "bearerAuthorization", "jwtInApiKeyHeader"];

fn components() -> Components {
    let in_header =
        |name, meaning| SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(name, meaning)));
    let bearer = Http::builder().scheme(HttpAuthScheme::Bearer).description(Some("A key or a token.")).build();
    let schemes = [
        in_header("Authorization", "`ApiKey`, a space, and the key."),
        SecurityScheme::Http(bearer),
        in_header("x-api-key", "`Bearer`, a space, and a key or token; or the key alone."),
    ];
    let mut components = Components::builder().schema(views::Error::name(), views::Error::schema()).build();
    components.security_schemes.extend(SCHEMES.map(str::to_owned).into_iter().zip(schemes.map(Into::into)));
    components.responses.extend(refusals().map(|(name, response)| (name.to_owned(), response.into())));
    components
}

fn tag((name, meaning): (&str, &str)) -> Tag {
    let mut tag = Tag::new(name);
    tag.description = Some(meaning.to_owned());
    tag
}

/// Says which fields exclude each other, for which derived schemas have no words.
fn exclude(schemas: &mut Value) {
    let either = |one, other| json!([{"required": [one]}, {"required": [other]}]);
    schemas["WaitForPackets"]["oneOf"] = json!([
        {"required": ["deviceIds"], "not": {"required": ["organisationId"]}},
        {"required": ["organisationId"], "not": {"required": ["deviceIds"]}, "properties": {"mode": {"enum": ["any"]}}},
    ]);
    schemas["NewRPCReq"]["anyOf"] = json!([{"required": ["commandId"]}, {"required": ["commandName"]}]);
    schemas["GivenKey"]["anyOf"] = either("devicePublicKey", "deviceRootKey");
}

/// Takes back that optional values may be `null`, which derived schemas say of each `Option`.
fn forbid_null(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = &types[..] {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(only) = only_alternative(object) {
                object.remove("oneOf");
                object.extend(only);
            }
            object.values_mut().for_each(forbid_null);
        }
        Value::Array(values) => values.iter_mut().for_each(forbid_null),
        _ => {}
    }
}

/// The one schema of several alternatives that is not `null`.
fn only_alternative(object: &mut Map<String, Value>) -> Option<Map<String, Value>> {
    let alternatives = object.get_mut("oneOf")?.as_array_mut()?;
    alternatives.retain(|alternative| alternative["type"] != "null");
    match &mut alternatives[..] {
        [only] => only.as_object_mut().map(std::mem::take),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::router::{Needs, ROWS};
    use super::*;

    /// The operations of the document, by path and method.
    fn described() -> BTreeMap<(String, String), Value> {
        let document = value();
        let paths = document["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(move |(method, operation)| ((path.clone(), method.to_uppercase()), operation.clone()))
        });
        operations.collect()
    }

    #[test]
    fn what_is_routed_is_described_and_nothing_else() {
        let described: BTreeSet<_> = described().into_keys().collect();
        let routed = ROWS.iter().map(|row| (row.template.to_owned(), row.method.to_string()));
        assert_eq!(described, routed.collect());
        let distinct: BTreeSet<_> = operations().iter().map(|row| (row.path, row.method.to_string())).collect();
        assert_eq!(distinct.len(), operations().len(), "an operation is described twice");
    }

    #[test]
    fn what_a_row_demands_of_its_caller_shows_in_the_statuses() {
        let described = described();
        for row in ROWS {
            let operation = &described[&(row.template.to_owned(), row.method.to_string())];
            let declares = |status: &str| operation["responses"].get(status).is_some();
            let open = row.needs == Needs::Nothing;
            assert_eq!(operation["security"] == json!([{}]), open, "{row:?}");
            assert_eq!(declares("401"), !open, "{row:?}");
            assert!(declares("403") || row.needs <= Needs::Read, "{row:?}");
        }
    }

    #[test]
    fn every_part_of_a_path_is_a_parameter() {
        for ((path, method), operation) in described() {
            let of_path = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let declared = parameters.iter().filter(|parameter| parameter["in"] == "path");
            let declared: BTreeSet<_> = declared.map(|parameter| parameter["name"].as_str().unwrap()).collect();
            assert_eq!(declared, of_path.collect(), "{method} {path}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_no_value_may_be_null() {
        fn look(value: &Value, document: &Value) {
            match value {
                Value::Object(object) => {
                    if let Some(Value::String(reference)) = object.get("$ref") {
                        assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
                    }
                    assert!(!object.get("type").is_some_and(|kind| kind == "null" || kind.is_array()), "{object:?}");
                    object.values().for_each(|value| look(value, document));
                }
                Value::Array(values) => values.iter().for_each(|value| look(value, document)),
                _ => {}
            }
        }
        let document = value();
        assert_eq!(document["openapi"], "3.1.0");
        look(&document, &document);
    }
}
