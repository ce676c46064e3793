//! A file of definitions, in the JSON form that the SDK of the devices keeps its own in: structures, enumerations and
//! commands, each with its fields. What else stands in it, such as descriptions, is passed over.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::layout::{Count, Enumeration, Field, Integer, Kind, Layout, MAX_DEPTH};
use super::{Command, Fields};
use crate::quote::{one_line, reason};
use crate::wire::frame::Level;

/// Bytes of a file at most, fifty times that of the SDK.
const MAX_FILE: u64 = 4 << 20;

/// Longer texts from a file than this, in characters, are cut in errors.
const MAX_QUOTE: usize = 200;

/// Why a file of definitions is of no use. One line: which file, where in it, what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionFileError {
    /// It cannot be read.
    #[error("cannot read {}: {}; create it or correct the path", .path.display(), reason(.error))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It is far too large.
    #[error("{} has more than {MAX_FILE} bytes; name the rpc.json of your firmware", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is no JSON, or JSON of another form.
    #[error("{}: {reason}; name a file of the form of the device SDK's rpc.json", .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// Something in it has no meaning.
    #[error("{}: {place}: {problem}", .path.display())]
    Meaning {
        /// The file.
        path: PathBuf,
        /// The names on the way to it.
        place: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

/// The commands of a file, by id.
pub(super) fn read(path: &Path) -> Result<Vec<(u16, Command)>, DefinitionFileError> {
    let failed = |error| DefinitionFileError::Read { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(DefinitionFileError::TooLong { path: path.to_owned() });
    }
    let contents: Contents = serde_json::from_slice(&bytes).map_err(|error| {
        let reason = one_line(&error.to_string()).chars().take(MAX_QUOTE).collect();
        DefinitionFileError::Form { path: path.to_owned(), reason }
    })?;
    let maker = Maker { contents: &contents, structs: BTreeMap::new() };
    maker.commands().map_err(|Fault { place, problem }| {
        let place = one_line(&place).chars().take(MAX_QUOTE).collect();
        DefinitionFileError::Meaning { path: path.to_owned(), place, problem: one_line(&problem) }
    })
}

#[derive(Deserialize)]
struct Contents {
    #[serde(default)]
    structs: Named<Structure>,
    #[serde(default)]
    enums: Named<Values>,
    commands: Named<Definition>,
}

/// What has names, none of which stands twice.
struct Named<T>(BTreeMap<String, T>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}

struct NamedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
    type Value = Named<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
        let mut named = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            match named.entry(name) {
                Entry::Vacant(place) => place.insert(map.next_value()?),
                Entry::Occupied(taken) => {
                    return Err(A::Error::custom(format!("{:?} stands there twice", taken.key())));
                }
            };
        }
        Ok(Named(named))
    }
}

#[derive(Deserialize)]
struct Structure {
    fields: Vec<Member>,
}

#[derive(Deserialize)]
struct Values {
    r#type: String,
    values: Vec<NamedValue>,
}

#[derive(Deserialize)]
struct NamedValue {
    name: String,
    value: i64,
}

#[derive(Deserialize)]
struct Definition {
    name: String,
    default_auth: Option<String>,
    #[serde(default)]
    rpc_data: bool,
    request_params: Vec<Member>,
    response_params: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    name: String,
    r#type: String,
    /// Elements of a list, 0 for as many as there are; without it there is one element, and no list.
    num: Option<usize>,
    /// The field that says how many.
    counted_by: Option<String>,
}

/// What has no meaning, and where.
struct Fault {
    place: String,
    problem: String,
}

/// Makes layouts of what a file says, each structure once.
struct Maker<'a> {
    contents: &'a Contents,
    /// `None` while it is being made.
    structs: BTreeMap<&'a str, Option<Arc<Layout>>>,
}

impl<'a> Maker<'a> {
    fn commands(mut self) -> Result<Vec<(u16, Command)>, Fault> {
        let mut names = BTreeMap::new();
        let mut commands = Vec::with_capacity(self.contents.commands.0.len());
        for (id, definition) in &self.contents.commands.0 {
            let place = format!("commands.{id}");
            let fault = |problem| Fault { place: place.clone(), problem };
            // A number has one form, so that none can stand here twice.
            let number = id.parse().ok().filter(|number: &u16| number.to_string() == *id);
            let number = number.ok_or_else(|| {
                fault("not a number from 0 to 65535 as it is usually written; name commands by their ids".to_owned())
            })?;
            if let Some(before) = names.insert(&definition.name, id) {
                let name = &definition.name;
                return Err(fault(format!("command {before} is called {name:?} too; give one another name")));
            }
            commands.push((number, self.command(definition, &place)?));
        }
        Ok(commands)
    }

    fn command(&mut self, definition: &'a Definition, place: &str) -> Result<Command, Fault> {
        let level = match definition.default_auth.as_deref() {
            None => None,
            Some("EPACKET_AUTH_NETWORK") => Some(Level::Network),
            Some("EPACKET_AUTH_DEVICE") => Some(Level::Device),
            Some(other) => {
                let problem = format!("{other:?} is no level; write EPACKET_AUTH_NETWORK or EPACKET_AUTH_DEVICE");
                return Err(Fault { place: format!("{place}.default_auth"), problem });
            }
        };
        Ok(Command {
            name: definition.name.as_str().into(),
            level,
            moves_data: definition.rpc_data,
            fields: Some(Fields {
                request: self.layout(&definition.request_params, &format!("{place}.request_params"))?,
                response: self.layout(&definition.response_params, &format!("{place}.response_params"))?,
            }),
        })
    }

    fn layout(&mut self, members: &'a [Member], place: &str) -> Result<Layout, Fault> {
        let mut fields: Vec<Field> = Vec::with_capacity(members.len());
        for member in members {
            let place = format!("{place}.{}", member.name);
            let count = count(member, &fields).map_err(|problem| Fault { place: place.clone(), problem })?;
            let kind = self.kind(&member.r#type, &place)?;
            fields.push(Field { name: member.name.as_str().into(), kind, count });
        }
        Layout::new(fields).map_err(|problem| Fault { place: place.to_owned(), problem })
    }

    fn kind(&mut self, name: &'a str, place: &str) -> Result<Kind, Fault> {
        let fault = |problem| Fault { place: place.to_owned(), problem };
        if let Some(name) = name.strip_prefix("struct ") {
            return self.structure(name, place).map(Kind::Structure);
        }
        if let Some(name) = name.strip_prefix("enum ") {
            let values = self.contents.enums.0.get(name);
            let values = values.ok_or_else(|| fault(format!("there is no enum {name:?}; define it in this file")))?;
            return enumeration(values).map(|values| Kind::Enumeration(Arc::new(values))).map_err(fault);
        }
        plain(name).ok_or_else(|| fault(format!("{name:?} is no type; {TYPES}")))
    }

    fn structure(&mut self, name: &'a str, place: &str) -> Result<Arc<Layout>, Fault> {
        let fault = |problem| Fault { place: place.to_owned(), problem };
        match self.structs.get(name) {
            Some(Some(layout)) => return Ok(layout.clone()),
            Some(None) => return Err(fault(format!("struct {name:?} holds itself; take it out"))),
            None => {}
        }
        let structure = self.contents.structs.0.get(name);
        let structure =
            structure.ok_or_else(|| fault(format!("there is no struct {name:?}; define it in this file")))?;
        if structure.fields.is_empty() {
            return Err(fault(format!("struct {name:?} has no fields; leave it out")));
        }
        if self.structs.values().filter(|layout| layout.is_none()).count() >= MAX_DEPTH {
            return Err(fault(format!("structs lie more than {MAX_DEPTH} deep in one another; make it flatter")));
        }
        self.structs.insert(name, None);
        let layout = Arc::new(self.layout(&structure.fields, place)?);
        self.structs.insert(name, Some(layout.clone()));
        Ok(layout)
    }
}

/// What can be written for the type of a field.
const TYPES: &str = "write int8_t to int64_t, uint8_t to uint64_t, float, double, char, struct NAME or enum NAME";

fn plain(name: &str) -> Option<Kind> {
    match name {
        "float" => Some(Kind::Float),
        "double" => Some(Kind::Double),
        "char" => Some(Kind::Character),
        _ => integer(name).map(Kind::Integer),
    }
}

fn integer(name: &str) -> Option<Integer> {
    let (signed, bits) = match name.strip_prefix('u') {
        Some(signed) => (false, signed),
        None => (true, name),
    };
    let bytes = match bits {
        "int8_t" => 1,
        "int16_t" => 2,
        "int32_t" => 4,
        "int64_t" => 8,
        _ => return None,
    };
    Some(Integer { bytes, signed })
}

fn enumeration(values: &Values) -> Result<Enumeration, String> {
    let name = &values.r#type;
    let integer = integer(name).ok_or_else(|| format!("{name:?} is no integer; write for example uint8_t"))?;
    let values = values.values.iter().map(|value| (value.name.as_str().into(), i128::from(value.value))).collect();
    Ok(Enumeration { integer, values })
}

/// How many elements a field has, which one of those before it may say.
fn count(member: &Member, before: &[Field]) -> Result<Count, String> {
    match (member.num, &member.counted_by) {
        (None, None) => Ok(Count::One),
        (None | Some(0), Some(counter)) => {
            let place = before.iter().position(|field| *field.name == **counter && is_counter(field));
            place
                .map(Count::By)
                .ok_or_else(|| format!("no integer before it is called {counter:?}; correct counted_by"))
        }
        (Some(0), None) => Ok(Count::Rest),
        (Some(elements), _) => Ok(Count::Fixed(elements)),
    }
}

const fn is_counter(field: &Field) -> bool {
    matches!((&field.kind, field.count), (Kind::Integer(_), Count::One))
}
