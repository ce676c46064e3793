//! `lastroute import` and `lastroute export`: lists of devices between files and a running gateway, through its API, since
//! the data directory is the gateway's alone.
//!
//! `args.rs` has the flags. Into a gateway: `lines.rs` and `csv.rs` with `columns.rs` read lines, `draft.rs` is what a line
//! says, `names.rs` finds the records that it names, `batch.rs` makes requests of lines, `import.rs` sends them. Out of
//! one: `export.rs` into a `target.rs`. `gateway.rs` is what both ask, `console.rs` what they show.

mod args;
mod batch;
mod columns;
mod console;
mod csv;
mod draft;
mod export;
mod gateway;
mod import;
mod lines;
mod names;
mod target;

use std::io;
use std::path::{Path, PathBuf};

use crate::client::ClientError;
use crate::quote::{one_line, reason};
pub use args::{ExportArgs, Format, ImportArgs, OnError};
pub use export::export;
pub use import::{Ended, Imported, import};

/// Bytes of a line at most, more than any device needs: its metadata has 16 KiB, which escapes in JSON make six times as long.
const MAX_LINE: usize = 1 << 20;

/// Longer texts than this, in characters, are cut where they are shown.
const MAX_SHOWN: usize = 300;

/// Why nothing is imported or exported, or not all. One line: where, what is wrong, what to do. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// An address or API key that cannot be used.
    #[error(transparent)]
    Setting(ClientError),
    /// The form of the file is neither given nor told by its name.
    #[error("the name of {} does not end in .ndjson, .jsonl or .csv; say its form with --format ndjson or --format csv", shown_path(.0, "standard input"))]
    Format(PathBuf),
    /// The file cannot be opened.
    #[error("cannot read {}: {}; create it or correct the path", shown_path(.path, "standard input"), reason(.error))]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The header of a CSV file does not fit.
    #[error("{path}: the header does not fit: {problem}")]
    Header {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file ends before the line to begin with.
    #[error("--from-line {line}: the file has only {lines} lines; see that it is the right one")]
    Beyond {
        /// The line to begin with.
        line: u64,
        /// Lines of the file.
        lines: u64,
    },
    /// An organisation or board of the command line does not exist.
    #[error("{0}")]
    Name(String),
    /// The file broke off.
    #[error("cannot read on: {}; see that the file is whole", reason(.0))]
    Read(io::Error),
    /// The file cannot be written.
    #[error("cannot write to {}: {}; {}", shown_path(.path, "standard output"), reason(.error), remedy(.error))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// More names of metadata than a CSV file may have columns.
    #[error("there are more than {} names of metadata, too many for columns; use --format ndjson", export::MAX_NAMES)]
    Columns,
    /// The gateway does not answer, or refuses.
    #[error(transparent)]
    Gateway(ClientError),
    /// The user ended it.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// The user ended it, and some is written already.
    #[error("interrupted; what was written is not the whole list")]
    Cut,
}

impl TransferError {
    /// Whether the command asks for what cannot be.
    pub const fn is_of_command(&self) -> bool {
        match self {
            Self::Setting(_)
            | Self::Format(_)
            | Self::Open { .. }
            | Self::Header { .. }
            | Self::Beyond { .. }
            | Self::Name(_) => true,
            Self::Read(_) | Self::Write { .. } | Self::Columns | Self::Gateway(_) | Self::Interrupted | Self::Cut => {
                false
            }
        }
    }

    /// Whether what is written is not read: whoever reads only the beginning, as `head` does, is no failure.
    pub fn is_unread(&self) -> bool {
        matches!(self, Self::Write { error, .. } if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// A line of a file, and what it says or what is wrong with it.
#[derive(Debug)]
struct Entry {
    /// Counted from 1.
    line: u64,
    draft: Result<draft::Draft, String>,
}

/// A text from elsewhere in one line of bounded length.
fn quoted(text: &str) -> String {
    one_line(text).chars().take(MAX_SHOWN).collect()
}

/// A name from a file, in quotes, unless it looks like a key in the wrong column.
fn shown(name: &str) -> String {
    if has_key(name) {
        return "(a key, which is not shown)".to_owned();
    }
    format!("{:?}", quoted(name))
}

/// Whether there is something in a text that looks like a key: 32 bytes in hex or base64, an API key or a token.
fn has_key(text: &str) -> bool {
    let part_of_key = |character: char| character.is_ascii_alphanumeric() || "+/-_.".contains(character);
    text.split(|character| !part_of_key(character)).any(|word| {
        let hex = word.len() >= 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let base64 = word.len() == 43 && !word.contains('.');
        let credential = word.len() >= 16 && (word.starts_with("ik") || word.starts_with("ey"));
        hex || base64 || credential
    })
}

fn shown_path(path: impl AsRef<Path>, standard: &str) -> String {
    let path = path.as_ref();
    if args::is_standard(path) { standard.to_owned() } else { one_line(&path.to_string_lossy()) }
}

/// What to do if a file cannot be written.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "make its folder or write elsewhere",
        io::ErrorKind::IsADirectory => "name a file in it",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room or write elsewhere",
        _ => "let this user write there or write elsewhere",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_key_is_not_shown() {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        for key in [
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "__-_AwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            hex,
            &hex.to_uppercase(),
            "ik_0123456789abcdef",
            "eyJhbGciOiJFZERTQSJ9.eyJleHAiOjF9.c2ln",
        ] {
            for text in [key.to_owned(), format!(" {key}\n"), format!("key: \"{key}\",")] {
                assert_eq!(shown(&text), "(a key, which is not shown)");
            }
        }
        for name in ["plant", "eyewear", "ikebana", "0123456789abcdef", "hall \"A\", 2"] {
            assert_eq!(shown(name), format!("{name:?}"));
        }
    }

    #[test]
    fn what_to_do_fits_what_is_wrong_and_a_dash_is_called_by_what_it_means() {
        let write = |path: &str, kind: io::ErrorKind| TransferError::Write { path: path.into(), error: kind.into() };
        let missing = write("a/b", io::ErrorKind::NotFound).to_string();
        assert!(
            missing.starts_with("cannot write to a/b: ") && missing.ends_with("; make its folder or write elsewhere")
        );
        let full = write("-", io::ErrorKind::StorageFull).to_string();
        assert!(
            full.starts_with("cannot write to standard output: ") && full.ends_with("; make room or write elsewhere")
        );
        let error = TransferError::Open { path: "-".into(), error: io::ErrorKind::InvalidData.into() }.to_string();
        assert!(error.starts_with("cannot read standard input: "), "{error}");
    }
}
