//! From bytes to JSON.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::layout::{Count, Field, Integer, Kind, Layout};
use crate::wire::Reader;

/// The fields in these bytes; `None` if they do not take up all of them exactly, or where one ends cannot be told.
pub(super) fn decode(layout: &Layout, bytes: &[u8]) -> Option<Value> {
    let mut from = Reader(bytes);
    let fields = structure(layout, &mut from)?;
    (from.remaining() == 0).then_some(fields)
}

fn structure(layout: &Layout, from: &mut Reader<'_>) -> Option<Value> {
    let mut fields = Map::new();
    let mut counts = Vec::with_capacity(layout.fields().len());
    for field in layout.fields() {
        let begin = *from;
        let value = match field.count {
            Count::One => element(&field.kind, from)?,
            Count::Fixed(elements) => list(field, Some(elements), from)?,
            Count::By(place) => list(field, Some(usize::try_from(*counts.get(place)?).unwrap_or(0)), from)?,
            Count::Rest => list(field, None, from)?,
        };
        let integer = match (&field.kind, field.count) {
            (Kind::Integer(integer), Count::One) => integer.read(&begin.0[..integer.bytes]),
            _ => 0,
        };
        counts.push(integer);
        fields.insert(field.name.to_string(), value);
    }
    Some(Value::Object(fields))
}

/// So many elements, or all that follow.
fn list(field: &Field, elements: Option<usize>, from: &mut Reader<'_>) -> Option<Value> {
    match &field.kind {
        Kind::Character => {
            let bytes = from.bytes(elements.unwrap_or(from.remaining()))?;
            text(bytes, matches!(field.count, Count::Fixed(_)))
        }
        // Each would take all that is there, and nothing says where the next begins.
        Kind::Structure(layout) if layout.is_open() => None,
        kind => {
            let mut values = Vec::new();
            while elements.map_or(from.remaining() > 0, |elements| values.len() < elements) {
                values.push(element(kind, from)?);
            }
            Some(Value::Array(values))
        }
    }
}

fn element(kind: &Kind, from: &mut Reader<'_>) -> Option<Value> {
    let number = |integer: Integer, from: &mut Reader<'_>| {
        from.bytes(integer.bytes).map(|bytes| Value::String(integer.read(bytes).to_string()))
    };
    match kind {
        Kind::Integer(integer) => number(*integer, from),
        Kind::Enumeration(enumeration) => number(enumeration.integer, from),
        Kind::Float => from.array().map(|bytes| Value::String(f32::from_le_bytes(bytes).to_string())),
        Kind::Double => from.array().map(|bytes| Value::String(f64::from_le_bytes(bytes).to_string())),
        Kind::Character => text(from.bytes(1)?, true),
        Kind::Structure(layout) => structure(layout, from),
    }
}

/// A text. In a field of `fixed` length zeros may fill it up, and nothing else follows them: such bytes have no text that
/// could be packed to the same again.
fn text(bytes: &[u8], fixed: bool) -> Option<Value> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let text = if fixed { &bytes[..end] } else { bytes };
    if fixed && text.contains(&0) {
        return None;
    }
    Some(Value::from(Cow::Borrowed(str::from_utf8(text).ok()?)))
}
