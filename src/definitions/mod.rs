//! What the parameters and results of calls mean: the names and numbers of commands, and their fields where definitions are
//! loaded.
//!
//! `layout.rs` is how fields lie in bytes, `encode.rs` and `decode.rs` go between bytes and JSON, `file.rs` reads a file of
//! definitions, `built_in.rs` is what is known without one.

mod built_in;
mod decode;
mod encode;
mod file;
mod layout;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;

use crate::wire::frame::Level;
pub use encode::DefinitionError;
pub use file::DefinitionFileError;
use layout::Layout;

/// The commands that are known, by name and by id. The default knows what the protocol documents.
#[derive(Clone, Debug)]
pub struct Definitions {
    commands: BTreeMap<u16, Command>,
    ids: HashMap<Box<str>, u16>,
}

/// What is known of a command.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its name.
    pub name: Box<str>,
    /// The least level that firmware wants, unless its build changes that; `None` if the file does not say.
    pub level: Option<Level>,
    /// Whether the header of its calls says how much data is to move (docs/protocol.md, RPC).
    pub moves_data: bool,
    /// Of its parameters and its result.
    fields: Option<Fields>,
}

/// The fields of the two sides of a call.
#[derive(Clone, Debug)]
struct Fields {
    request: Layout,
    response: Layout,
}

impl Definitions {
    /// What the protocol documents, and what a file of definitions says: where both name a command, the file holds.
    ///
    /// # Errors
    /// The file cannot be read, or what it says has no meaning: one line with path, place and remedy.
    pub fn read(path: &Path) -> Result<Self, DefinitionFileError> {
        let mut definitions = Self::default();
        for (id, command) in file::read(path)? {
            definitions.insert(id, command);
        }
        Ok(definitions)
    }

    /// The command of an id.
    pub fn command(&self, id: u16) -> Option<&Command> {
        self.commands.get(&id)
    }

    /// The id of the command with this name.
    pub fn id(&self, name: &str) -> Option<u16> {
        self.ids.get(name).copied()
    }

    /// The name of the command of an id.
    pub fn name(&self, id: u16) -> Option<&str> {
        self.commands.get(&id).map(|command| &*command.name)
    }

    /// Every command that is known, by id.
    pub fn commands(&self) -> impl Iterator<Item = (u16, &Command)> {
        self.commands.iter().map(|(id, command)| (*id, command))
    }

    /// The packed parameters of a call. Numbers may be given as JSON numbers or as decimal texts, values of an enumeration
    /// also by their names, single bytes also as hex, and what counts the elements of a list may be left out. No fields at
    /// all (`{}`) are no bytes, for a command without definitions too.
    ///
    /// # Errors
    /// The fields of the command are not known, or a value does not fit its field: names both, and says what is wanted.
    pub fn encode(&self, id: u16, params: &Value) -> Result<Vec<u8>, DefinitionError> {
        let fields = self.commands.get(&id).and_then(|command| command.fields.as_ref());
        match fields {
            Some(fields) => encode::encode(&fields.request, params)
                .map_err(|fault| DefinitionError::Params { command: self.described(id), fault }),
            None if params.as_object().is_some_and(serde_json::Map::is_empty) => Ok(Vec::new()),
            None => Err(DefinitionError::Unknown { command: self.described(id) }),
        }
    }

    /// The fields of a result: numbers are decimal texts, structures are objects, characters are texts, all else lists.
    /// `None` if the command has no definitions, or they do not take up all of the bytes exactly.
    pub fn decode(&self, id: u16, result: &[u8]) -> Option<Value> {
        decode::decode(&self.commands.get(&id)?.fields.as_ref()?.response, result)
    }

    /// The fields of the parameters of a call, as [`Self::decode`] shows those of a result.
    pub fn decode_request(&self, id: u16, params: &[u8]) -> Option<Value> {
        decode::decode(&self.commands.get(&id)?.fields.as_ref()?.request, params)
    }

    /// A command in errors: its id, with its name if it has one.
    fn described(&self, id: u16) -> String {
        self.name(id).map_or_else(|| format!("command {id}"), |name| format!("command {id} ({name})"))
    }

    /// Adds a command, in place of others with its id or name.
    fn insert(&mut self, id: u16, command: Command) {
        if let Some(replaced) = self.commands.remove(&id) {
            self.ids.remove(&replaced.name);
        }
        if let Some(namesake) = self.ids.insert(command.name.clone(), id) {
            self.commands.remove(&namesake);
        }
        self.commands.insert(id, command);
    }
}

impl Default for Definitions {
    fn default() -> Self {
        let mut definitions = Self { commands: BTreeMap::new(), ids: HashMap::new() };
        for (id, command) in built_in::commands() {
            definitions.insert(id, command);
        }
        definitions
    }
}

#[cfg(test)]
mod tests;
