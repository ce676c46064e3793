//! The description that the gateway serves, held against the REST contract (contract.json), and the page that shows it.

use std::collections::BTreeSet;

use lastroute::api::access::Access;
use serde_json::Value;

use crate::harness::{Server, Setup};

/// Parameters that need not be given, though the contract says so.
const LAXER: [&str; 1] = ["get /network: query parameter includePublic"];

/// Parameters of the contract's operations that it does not have.
const MORE: [&str; 3] = [
    "get /device-and-state: query parameter silentForMs",
    "get /device-and-state: query parameter heardWithinMs",
    "get /rpc/{id}: query parameter timeoutMs",
];

/// What the contract has of routes of downlinks and no answer ever has: relays pass on over connections that they open, and by no
/// other way.
const NEVER: [&str; 2] = ["rpcReq.route.btAdv", "rpcReq.route.btPeripheral"];

/// Which way a body goes: what may be stricter depends on it.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Request,
    Answer,
}

/// Two documents, and what the second one does not keep of the first.
struct Comparison<'d> {
    contract: &'d Value,
    served: &'d Value,
    problems: Vec<String>,
    /// Named schemas that are being compared, for those that contain themselves.
    within: Vec<&'d str>,
}

impl<'d> Comparison<'d> {
    fn problem(&mut self, place: &str, said: impl std::fmt::Display) {
        self.problems.push(format!("{place}: {said}"));
    }

    /// That two values are the same, of which the contract need not have the first.
    fn same(&mut self, place: &str, name: &str, contract: &Value, served: &Value) {
        if !contract.is_null() && contract != served {
            self.problem(place, format!("{name} is {served}, in the contract {contract}"));
        }
    }

    fn operation(&mut self, place: &str, contract: &'d Value, served: &'d Value) {
        self.same(place, "operationId", &contract["operationId"], &served["operationId"]);
        self.same(place, "tags", &contract["tags"], &served["tags"]);
        self.parameters(place, contract, served);
        if let Some(body) = contract.get("requestBody") {
            let served = &served["requestBody"];
            self.same(place, "requestBody.required", &body["required"], &served["required"]);
            self.schema(&format!("{place}: request"), json_schema(body), json_schema(served), Way::Request);
        }
        for (status, answer) in object(&contract["responses"]) {
            let place = format!("{place}: {status}");
            let Some(served_answer) = served["responses"].get(status) else {
                self.problem(&place, "is not declared");
                continue;
            };
            let (answer, served_answer) = (resolved(self.contract, answer), resolved(self.served, served_answer));
            self.schema(&place, json_schema(answer), json_schema(served_answer), Way::Answer);
        }
        for status in contract["x-statuses"]["client"].as_array().expect("statuses that the client knows") {
            if served["responses"].get(status.to_string()).is_none() {
                self.problem(place, format!("{status}, which the client knows, is not declared"));
            }
        }
    }

    fn parameters(&mut self, place: &str, contract: &'d Value, served: &'d Value) {
        let mut served = parameters(self.served, served);
        for parameter in parameters(self.contract, contract) {
            let place = parameter_place(place, parameter);
            let same = |served: &&Value| (&served["name"], &served["in"]) == (&parameter["name"], &parameter["in"]);
            let Some(found) = served.iter().position(same).map(|at| served.remove(at)) else {
                self.problem(&place, "is missing");
                continue;
            };
            let (required, laxer) = (parameter["required"] == true, LAXER.contains(&place.as_str()));
            if (found["required"] == true) != (required && !laxer) {
                self.problem(&place, format!("required is {}", found["required"]));
            }
            self.schema(&place, &parameter["schema"], &found["schema"], Way::Request);
        }
        for more in served {
            let place = parameter_place(place, more);
            if !MORE.contains(&place.as_str()) || more["required"] == true {
                self.problem(&place, "is not in the contract");
            }
        }
    }

    fn schema(&mut self, place: &str, contract: &'d Value, served: &'d Value, way: Way) {
        let name = contract["$ref"].as_str().unwrap_or_default();
        if self.within.contains(&name) {
            return;
        }
        if !name.is_empty() {
            self.within.push(name);
        }
        let (contract, served) = (whole(self.contract, contract), whole(self.served, served));
        for key in ["type", "format", "contentEncoding"] {
            self.same(place, key, contract.get(key), served.get(key));
        }
        if way == Way::Request {
            self.same(place, "default", contract.get("default"), served.get("default"));
        }
        self.same(place, "enum", &sorted(contract.get("enum")), &sorted(served.get("enum")));
        self.fields(place, &contract, &served, way);
        for key in ["items", "additionalProperties"] {
            if contract.get(key).is_object() {
                self.schema(&format!("{place}[]"), contract.get(key), served.get(key), way);
            }
        }
        if !name.is_empty() {
            self.within.pop();
        }
    }

    fn fields(&mut self, place: &str, contract: &Whole<'d>, served: &Whole<'d>, way: Way) {
        let kept = match way {
            Way::Request => contract.required == served.required,
            Way::Answer => contract.required.is_subset(&served.required),
        };
        if !kept {
            self.problem(place, format!("requires {:?}, in the contract {:?}", served.required, contract.required));
        }
        for (name, schema) in &contract.properties {
            let place = format!("{place}.{name}");
            match served.properties.iter().find(|(served, _)| served == name) {
                Some((_, served)) => self.schema(&place, schema, served, way),
                None if NEVER.iter().any(|never| place.ends_with(never)) => {}
                None => self.problem(&place, "is missing"),
            }
        }
    }
}

/// A schema with all that it is made of.
#[derive(Default)]
struct Whole<'d> {
    parts: Vec<&'d Value>,
    required: BTreeSet<&'d str>,
    properties: Vec<(&'d str, &'d Value)>,
}

impl<'d> Whole<'d> {
    fn get(&self, key: &str) -> &'d Value {
        self.parts.iter().find_map(|part| part.get(key)).unwrap_or(&Value::Null)
    }
}

fn whole<'d>(document: &'d Value, schema: &'d Value) -> Whole<'d> {
    let schema = resolved(document, schema);
    let mut whole = Whole { parts: vec![schema], ..Whole::default() };
    whole.required.extend(schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str));
    whole.properties.extend(object(&schema["properties"]));
    for part in schema["allOf"].as_array().into_iter().flatten().map(|part| self::whole(document, part)) {
        whole.parts.extend(part.parts);
        whole.required.extend(part.required);
        whole.properties.extend(part.properties);
    }
    whole
}

fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    let Some(reference) = value["$ref"].as_str() else { return value };
    let found = document.pointer(&reference[1..]);
    resolved(document, found.expect(reference))
}

fn object(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn json_schema(body: &Value) -> &Value {
    &body["content"]["application/json"]["schema"]
}

fn parameters<'d>(document: &'d Value, operation: &'d Value) -> Vec<&'d Value> {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters.map(|parameter| resolved(document, parameter)).collect()
}

fn parameter_place(place: &str, parameter: &Value) -> String {
    let text = |key: &str| parameter[key].as_str().unwrap_or_default();
    format!("{place}: {} parameter {}", text("in"), text("name"))
}

fn sorted(values: &Value) -> Value {
    let mut texts: Vec<_> = values.as_array().into_iter().flatten().map(Value::to_string).collect();
    texts.sort();
    if texts.is_empty() { Value::Null } else { texts.into() }
}

fn contract() -> Value {
    serde_json::from_str(include_str!("contract.json")).unwrap()
}

/// Every operation of a document, with its place.
fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    let paths = object(&document["paths"]);
    paths.flat_map(|(path, item)| object(item).map(move |(method, operation)| (format!("{method} {path}"), operation)))
}

/// What a document does not keep of the contract.
fn problems(contract: &Value, served: &Value) -> Vec<String> {
    let mut comparison = Comparison { contract, served, problems: Vec::new(), within: Vec::new() };
    for (place, operation) in operations(contract) {
        let found = operations(served).find(|(served, _)| *served == place);
        match found {
            Some((_, found)) => comparison.operation(&place, operation, found),
            None => comparison.problem(&place, "is missing"),
        }
    }
    for (place, operation) in operations(served) {
        let of_contract = operations(contract).any(|(contract, _)| contract == place);
        if (operation["x-lastroute-extension"] == true) == of_contract {
            comparison.problem(&place, "is marked as an extension, or it is one and is not marked");
        }
    }
    comparison.problems
}

#[tokio::test]
async fn the_description_keeps_the_contract() {
    let server = Server::start(Setup::default()).await;
    let problems = problems(&contract(), &server.get("/openapi.json", "").await.json());
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[tokio::test]
async fn what_is_not_kept_is_found() {
    let server = Server::start(Setup::default()).await;
    let served = server.get("/openapi.json", "").await.json();
    for (pointer, wrong, said) in [
        ("/paths/~1device/get/operationId", "x".into(), "get /device: operationId is \"x\""),
        (
            "/paths/~1device/get/parameters/0/required",
            false.into(),
            "get /device: query parameter organisationId: required",
        ),
        (
            "/paths/~1device/get/parameters/4/schema/default",
            10.into(),
            "get /device: query parameter limit: default is 10",
        ),
        ("/paths/~1device/get/responses/400", Value::Null, "get /device: 400.code"),
        ("/components/schemas/DeviceState/required", Value::Null, "get /device/id/{id}/state: 200: requires {}"),
        ("/components/schemas/Board/properties/soc/type", "integer".into(), "get /board: 200[].soc: type is"),
        ("/components/schemas/NewBoard/required/0", "public".into(), "post /board: request: requires"),
        ("/paths/~1gateway/get/x-lastroute-extension", false.into(), "get /gateway: is marked"),
    ] {
        let mut changed = served.clone();
        *changed.pointer_mut(pointer).expect(pointer) = wrong;
        let found = problems(&contract(), &changed);
        assert!(found.iter().any(|problem| problem.starts_with(said)), "{pointer}: {found:#?}");
    }
}

#[tokio::test]
async fn the_description_and_its_page_are_for_everybody_and_load_nothing_from_elsewhere() {
    let access = Access::of_keys(["ik_test_0123456789"]);
    let server = Server::start(Setup { access, ..Setup::default() }).await;
    server.get("/gateway", "").await.is_error(401, "credentials");
    let described = server.get("/openapi.json", "accept: application/msgpack\r\n").await;
    assert_eq!(described.json()["openapi"], "3.1.0", "JSON whatever is asked for");
    for (path, content_type) in [
        ("/docs", "text/html; charset=utf-8"),
        ("/docs/page.js", "text/javascript; charset=utf-8"),
        ("/docs/page.css", "text/css; charset=utf-8"),
    ] {
        let part = server.get(path, "").await;
        assert_eq!((part.status, part.header("content-type")), (200, Some(content_type)));
        assert!(part.header("content-security-policy").unwrap().starts_with("default-src 'self';"), "{part:?}");
        assert_eq!(part.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(part.header("cache-control"), Some("no-store"));
        let text = String::from_utf8(part.body).unwrap();
        for elsewhere in ["http://", "https://", "//cdn", " style=", " onclick=", "innerHTML", "localStorage"] {
            assert!(!text.contains(elsewhere), "{path} has {elsewhere}");
        }
    }
}
