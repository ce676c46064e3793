//! Explanations as JSON, one object a datagram. Names are stable; what has no value is left out.

use serde_json::{Map, Value, json};

use super::Explained;
use super::fields::{HEADER, utc};
use super::part::{Field, Part};
use super::verdict::Verdict;

/// Everything about a datagram.
pub fn json(explained: &Explained) -> Value {
    let datagram = &explained.datagram;
    let mut object = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(name.to_owned(), value);
        }
    };
    put("number", Some(explained.number.into()));
    put("origin", Some(datagram.origin.clone().into()));
    put("direction", Some(datagram.direction.name().into()));
    put("capturedAt", datagram.at.map(|at| utc(at).into()));
    put("judgedAt", Some(utc(explained.at).into()));
    put("from", datagram.from.map(|from| from.to_string().into()));
    put("to", datagram.to.map(|to| to.to_string().into()));
    put("length", Some(datagram.bytes.len().into()));
    put("cutFrom", datagram.cut_from.map(Value::from));
    put("note", datagram.note.clone().map(Value::from));
    // Of what did not open there is no payload, of a plaintext alone no header.
    put("header", explained.parts.iter().find(|part| part.title == HEADER).map(part));
    put("payload", explained.parts.iter().find(|part| part.title != HEADER).map(part));
    put("verdict", explained.verdict.as_ref().map(verdict));
    put("expected", datagram.expected.as_ref().map(|expected| expected.text().into()));
    put("asExpected", explained.met.map(Value::from));
    Value::Object(object)
}

fn part(part: &Part) -> Value {
    let mut object = Map::new();
    object.insert("title".to_owned(), part.title.clone().into());
    object.insert("offset".to_owned(), part.at.into());
    if !part.dump.is_empty() {
        object.insert("hex".to_owned(), hex::encode(&part.dump).into());
    }
    let fields = part.fields.iter().map(|one| (one.name.to_owned(), field(one))).collect();
    object.insert("fields".to_owned(), Value::Object(fields));
    if !part.notes.is_empty() {
        object.insert("notes".to_owned(), part.notes.clone().into());
    }
    if !part.parts.is_empty() {
        object.insert("parts".to_owned(), part.parts.iter().map(self::part).collect());
    }
    if !part.faults.is_empty() {
        let fault = |fault: &super::part::Fault| json!({ "offset": fault.at, "text": fault.text });
        object.insert("faults".to_owned(), part.faults.iter().map(fault).collect());
    }
    if let Some(given) = &part.verdict {
        object.insert("verdict".to_owned(), verdict(given));
    }
    Value::Object(object)
}

fn field(field: &Field) -> Value {
    json!({ "offset": field.at, "length": field.bytes.len(), "value": field.value, "text": field.text })
}

fn verdict(verdict: &Verdict) -> Value {
    let mut object = json!({ "acknowledged": verdict.acknowledged, "why": verdict.why });
    let parts = [
        ("disposition", verdict.disposition.map(|disposition| disposition.label())),
        ("rule", Some(verdict.rule).filter(|rule| !rule.is_empty())),
        ("timeClass", verdict.class.map(|class| class.name())),
        ("route", verdict.route.map(|route| route.name())),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            object[name] = value.into();
        }
    }
    object
}
