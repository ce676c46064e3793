//! A TOML text with the place of everything in it: tables whose keys are known, values of the type that is asked for.
//! What is wrong is told with file, line and key; what the keys mean is decided in `file.rs`.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::ConfigError;
use super::settings::{Name, nearest};
use super::values::Fault;

/// Unknown keys are quoted up to this length: longer than any known one, shorter than any secret of 32 bytes.
const LONGEST_SHOWN: usize = 30;

/// The text of a file and where its lines end.
pub(super) struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    line_ends: Vec<usize>,
}

impl<'a> Document<'a> {
    /// The document of what the file `path` holds.
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Result<Self, ConfigError> {
        let line_ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
        let document = |text| Self { path, text, line_ends };
        match str::from_utf8(bytes) {
            Ok(text) => Ok(document(text)),
            Err(error) => {
                let good = error.valid_up_to();
                let text = str::from_utf8(&bytes[..good]).unwrap_or_default();
                Err(Fault::new("not UTF-8", "save the file as UTF-8 text").at(document(text).position(good)))
            }
        }
    }

    /// The table of the whole document. Errors name a key that is one of `known`, and no other word of the text.
    pub(super) fn root(&self, known: &[&str]) -> Result<Table<'_>, ConfigError> {
        match DeTable::parse(self.text) {
            Ok(table) => Ok(Table { document: self, name: "", line: 1, entries: table.into_inner() }),
            Err(error) => Err(self.malformed(&error, known)),
        }
    }

    fn malformed(&self, error: &toml::de::Error, known: &[&str]) -> ConfigError {
        // What the parser expects, never what it found.
        let message = error.message().split('\n').collect::<Vec<_>>().join(", ");
        let at = error.span().map_or(0, |span| span.start);
        let line = self.text.lines().nth(self.line(&(at..at)) - 1).unwrap_or_default();
        let (key, value) = line.split_once('=').map_or((line, ""), |(key, value)| (key, value.trim_start()));
        let key = known.iter().find(|known| **known == key.trim());
        let place = key.map_or_else(|| self.position(at), |key| format!("{}: {key}", self.position(at)));
        let bare = key.is_some() && !value.is_empty() && !value.starts_with(['"', '\'', '[', '{']);
        let remedy = match message.as_str() {
            "duplicate key" => "remove one of them",
            _ if bare => "write a text in quotes, a number in digits alone",
            _ => "correct the TOML there",
        };
        Fault::new(message, remedy).at(place)
    }

    fn line(&self, span: &Range<usize>) -> usize {
        self.line_ends.partition_point(|end| *end < span.start) + 1
    }

    /// File, line and column of a byte; columns count characters from 1.
    fn position(&self, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or(self.text);
        let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
        format!("{}:{}:{column}", self.path.display(), self.line(&(at..at)))
    }
}

/// A table of a document. Keys are taken out of it.
pub(super) struct Table<'a> {
    document: &'a Document<'a>,
    /// How errors name it; empty for the whole document.
    name: &'static str,
    /// Where it begins.
    pub(super) line: usize,
    entries: DeTable<'a>,
}

impl<'a> Table<'a> {
    /// Refuses keys that are none of `known`.
    pub(super) fn knows(&self, known: &[&str]) -> Result<(), ConfigError> {
        let unknown = self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
        let text = key.get_ref();
        let remedy = match nearest(text, known.iter().copied()) {
            _ if !self.name.is_empty() && Name::ALL.iter().any(|name| name.key() == text) => {
                format!("move it above the first [[{}]], or remove it", self.name)
            }
            Some(near) => format!("write {near}, or remove it"),
            None => format!("use one of {}, or remove it", known.join(", ")),
        };
        // A long one may be a secret that lost its name.
        let shown = if text.len() > LONGEST_SHOWN { "***".to_owned() } else { text.escape_debug().to_string() };
        Err(Fault::new("no such key", remedy).at(self.place(self.document.line(&key.span()), &shown)))
    }

    /// The value of a key, if it is given.
    pub(super) fn take(&mut self, key: &str) -> Option<Entry<'a>> {
        let value = self.entries.remove(key)?;
        let line = self.document.line(&value.span());
        Some(Entry { line, place: self.place(line, key), value: value.into_inner() })
    }

    /// The value of a key that must be given; `example` is what to add.
    pub(super) fn need(&mut self, key: &str, example: &str) -> Result<Entry<'a>, ConfigError> {
        let place = format!("{}:{}: {}", self.document.path.display(), self.line, self.name);
        self.take(key)
            .ok_or_else(|| Fault::new(format!("no {key}"), format!("add one, for example {key} = {example}")).at(place))
    }

    /// The tables `[[name]]`; none if there are none.
    pub(super) fn tables(&mut self, name: &'static str) -> Result<Vec<Self>, ConfigError> {
        let document = self.document;
        let Some(entry) = self.take(name) else { return Ok(Vec::new()) };
        let place = entry.place;
        let table = |value: Spanned<DeValue<'a>>| {
            let line = document.line(&value.span());
            match value.into_inner() {
                DeValue::Table(entries) => Some(Self { document, name, line, entries }),
                _ => None,
            }
        };
        let tables = match entry.value {
            DeValue::Array(values) => values.into_iter().map(table).collect(),
            _ => None,
        };
        tables.ok_or_else(|| {
            let remedy = format!("write [[{name}]] in double brackets above the keys of each {name}");
            Fault::new("not a list of tables", remedy).at(place)
        })
    }

    fn place(&self, line: usize, key: &str) -> String {
        let (path, dot) = (self.document.path.display(), if self.name.is_empty() { "" } else { "." });
        format!("{path}:{line}: {}{dot}{key}", self.name)
    }
}

/// A value and where it stands.
pub(super) struct Entry<'a> {
    pub(super) line: usize,
    /// How errors name it: file, line and key.
    pub(super) place: String,
    pub(super) value: DeValue<'a>,
}

impl Entry<'_> {
    /// A text. It is wiped after use: it may be a key.
    pub(super) fn text(self) -> Result<Text, ConfigError> {
        match self.value {
            DeValue::String(text) => {
                Ok(Text { line: self.line, place: self.place, text: Zeroizing::new(text.into_owned()) })
            }
            _ => Err(not_a_text().at(self.place)),
        }
    }
}

/// A text and where it stands.
pub(super) struct Text {
    pub(super) line: usize,
    pub(super) place: String,
    pub(super) text: Zeroizing<String>,
}

/// The fault of a value that should be a text.
pub(super) fn not_a_text() -> Fault {
    Fault::new("not a text", "write it in quotes")
}

/// The number of a TOML integer, of any base; `None` if it is beyond any use.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}
