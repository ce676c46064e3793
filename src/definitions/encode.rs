//! From JSON to bytes.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::layout::{Count, Enumeration, Field, Integer, Kind, Layout, MAX_LEN};
use crate::quote::one_line;

/// Longer names than this, in characters, are cut in errors.
const MAX_QUOTE: usize = 60;

/// Why parameters cannot be packed. One line: which command, which field, what is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// Its fields are not known.
    #[error(
        "the fields of {command} are not known; give the packed parameters (paramsEncoded), or load the definitions of \
         your firmware into the gateway with --rpc-definitions"
    )]
    Unknown {
        /// The command.
        command: String,
    },
    /// A value does not fit its field.
    #[error("the params of {command} do not fit: {fault}")]
    Params {
        /// The command.
        command: String,
        /// Which field, and what is wanted.
        fault: FieldFault,
    },
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldFault {
    /// Names and indices from the outside in; empty for all of them together.
    path: String,
    problem: String,
}

impl fmt::Display for FieldFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, problem } = self;
        if path.is_empty() { f.write_str(problem) } else { write!(f, "{path}: {problem}") }
    }
}

/// Packs the fields.
pub(super) fn encode(layout: &Layout, params: &Value) -> Result<Vec<u8>, FieldFault> {
    let mut encoder = Encoder { out: Vec::new(), path: String::new() };
    encoder.structure(layout, params)?;
    Ok(encoder.out)
}

struct Encoder {
    out: Vec<u8>,
    path: String,
}

impl Encoder {
    fn structure(&mut self, layout: &Layout, value: &Value) -> Result<(), FieldFault> {
        let Value::Object(values) = value else {
            return Err(self.fault("an object with its fields is wanted"));
        };
        let unknown = values.keys().find(|key| layout.fields().iter().all(|field| *field.name != ***key));
        if let Some(unknown) = unknown {
            return self.inside(unknown, |encoder| Err(encoder.fault(&no_such_field(layout))));
        }
        for (place, field) in layout.fields().iter().enumerate() {
            self.inside(&field.name, |encoder| encoder.field(layout, place, values))?;
        }
        Ok(())
    }

    /// The field at this place of a layout, out of the values of them all.
    fn field(&mut self, layout: &Layout, place: usize, values: &Map<String, Value>) -> Result<(), FieldFault> {
        let field = &layout.fields()[place];
        match (values.get(&*field.name), counted(layout, place, values)) {
            (Some(value), _) => match field.count {
                Count::One => self.element(&field.kind, value),
                Count::Fixed(len) if matches!(field.kind, Kind::Character) => match value {
                    Value::String(text) => self.filled(text, len),
                    _ => Err(self.fault("a text is wanted")),
                },
                Count::Fixed(elements) => self.list(&field.kind, value, Some(elements)),
                Count::By(counter) => {
                    let given = values.get(&*layout.fields()[counter].name).and_then(whole_number);
                    let given = given.map(|count| usize::try_from(count).unwrap_or(0));
                    self.list(&field.kind, value, given.or_else(|| counted(layout, counter, values)))
                }
                Count::Rest => self.list(&field.kind, value, None),
            },
            (None, Some(elements)) => self.element(&field.kind, &Value::from(elements)),
            (None, None) => Err(self.fault(&format!("{} is wanted, and nothing is given", wanted(field)))),
        }
    }

    /// A list, of so many elements if that is said.
    fn list(&mut self, kind: &Kind, value: &Value, elements: Option<usize>) -> Result<(), FieldFault> {
        match (kind, value) {
            (Kind::Character, Value::String(text)) => {
                self.count(text.len(), elements)?;
                self.append(text.as_bytes())
            }
            (Kind::Character, _) => Err(self.fault("a text is wanted")),
            (Kind::Integer(Integer::U8), Value::String(text)) => match hex::decode(text) {
                Ok(bytes) => {
                    self.count(bytes.len(), elements)?;
                    self.append(&bytes)
                }
                Err(_) => Err(self.fault("a list of numbers is wanted, or bytes in hex")),
            },
            (_, Value::Array(values)) => {
                self.count(values.len(), elements)?;
                for (index, value) in values.iter().enumerate() {
                    self.at(index, |encoder| encoder.element(kind, value))?;
                }
                Ok(())
            }
            _ => Err(self.fault("a list is wanted, in brackets")),
        }
    }

    /// A text in a field of fixed length, which zeros fill up.
    fn filled(&mut self, text: &str, len: usize) -> Result<(), FieldFault> {
        let zeros = len.checked_sub(text.len()).ok_or_else(|| {
            self.fault(&format!("a text of at most {len} bytes is wanted, and this one has {}", text.len()))
        })?;
        self.append(text.as_bytes())?;
        self.append(&vec![0; zeros])
    }

    fn element(&mut self, kind: &Kind, value: &Value) -> Result<(), FieldFault> {
        match kind {
            Kind::Integer(integer) => self.integer(*integer, whole_number(value)),
            Kind::Enumeration(enumeration) => self.enumeration(enumeration, value),
            Kind::Float => match number::<f32>(value) {
                Some(number) => self.append(&number.to_le_bytes()),
                None => Err(self.fault("a number is wanted")),
            },
            Kind::Double => match number::<f64>(value) {
                Some(number) => self.append(&number.to_le_bytes()),
                None => Err(self.fault("a number is wanted")),
            },
            Kind::Character => match value {
                Value::String(text) => self.filled(text, 1),
                _ => Err(self.fault("a text of one character is wanted")),
            },
            Kind::Structure(layout) => self.structure(layout, value),
        }
    }

    fn integer(&mut self, integer: Integer, value: Option<i128>) -> Result<(), FieldFault> {
        let (least, greatest) = integer.range();
        match value.filter(|value| (least..=greatest).contains(value)) {
            Some(value) => self.append(&value.to_le_bytes()[..integer.bytes]),
            None => Err(self.fault(&format!("a whole number from {least} to {greatest} is wanted"))),
        }
    }

    fn enumeration(&mut self, enumeration: &Enumeration, value: &Value) -> Result<(), FieldFault> {
        let named = value.as_str().and_then(|name| enumeration.values.iter().find(|(known, _)| **known == *name));
        let value = named.map(|(_, value)| *value).or_else(|| whole_number(value));
        let (least, greatest) = enumeration.integer.range();
        match value.filter(|value| (least..=greatest).contains(value)) {
            Some(value) => self.append(&value.to_le_bytes()[..enumeration.integer.bytes]),
            None => {
                let names = list_of(enumeration.values.iter().map(|(name, _)| &**name));
                Err(self.fault(&format!("one of {names} is wanted, or a number from {least} to {greatest}")))
            }
        }
    }

    fn count(&self, given: usize, wanted: Option<usize>) -> Result<(), FieldFault> {
        match wanted.filter(|wanted| *wanted != given) {
            Some(wanted) => Err(self.fault(&format!("{wanted} elements are wanted, and {given} are given"))),
            None => Ok(()),
        }
    }

    /// Appends bytes, within bounds.
    fn append(&mut self, bytes: &[u8]) -> Result<(), FieldFault> {
        if self.out.len() + bytes.len() > MAX_LEN {
            return Err(self.fault(&format!("with it there are more than {MAX_LEN} bytes; give less")));
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Does something inside of the field `name`.
    fn inside<T>(&mut self, name: &str, act: impl FnOnce(&mut Self) -> Result<T, FieldFault>) -> Result<T, FieldFault> {
        let len = self.path.len();
        if len > 0 {
            self.path.push('.');
        }
        self.path.extend(one_line(name).chars().take(MAX_QUOTE));
        let done = act(self);
        self.path.truncate(len);
        done
    }

    /// Does something at an element of the list.
    fn at<T>(&mut self, index: usize, act: impl FnOnce(&mut Self) -> Result<T, FieldFault>) -> Result<T, FieldFault> {
        let len = self.path.len();
        self.path.push_str(&format!("[{index}]"));
        let done = act(self);
        self.path.truncate(len);
        done
    }

    fn fault(&self, problem: &str) -> FieldFault {
        FieldFault { path: self.path.clone(), problem: problem.to_owned() }
    }
}

/// A whole number, given as such, as decimal text, or as a truth value.
fn whole_number(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)),
        Value::Bool(truth) => Some(i128::from(*truth)),
        _ => None,
    }
}

/// A number, given as such or as decimal text.
fn number<T: FromStr>(value: &Value) -> Option<T> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// How many elements the first list has that the field at this place counts, if it counts one that is given.
fn counted(layout: &Layout, place: usize, values: &Map<String, Value>) -> Option<usize> {
    let list = layout.fields().iter().find(|field| field.count == Count::By(place))?;
    values.get(&*list.name).map(|value| elements(&list.kind, value))
}

/// How many elements a value comes to in a list of this kind.
fn elements(kind: &Kind, value: &Value) -> usize {
    match (kind, value) {
        (Kind::Character, Value::String(text)) => text.len(),
        (_, Value::String(text)) => text.len() / 2,
        (_, Value::Array(values)) => values.len(),
        _ => 0,
    }
}

/// What a field that is missing would be.
fn wanted(field: &Field) -> &'static str {
    match (&field.kind, field.count) {
        (Kind::Character, _) => "a text",
        (_, Count::Fixed(_) | Count::By(_) | Count::Rest) => "a list",
        (Kind::Structure(_), Count::One) => "an object",
        (_, Count::One) => "a number",
    }
}

fn no_such_field(layout: &Layout) -> String {
    match layout.fields() {
        [] => "no such field; there are none, leave it out".to_owned(),
        fields => format!("no such field; use {}", list_of(fields.iter().map(|field| &*field.name))),
    }
}

fn list_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
