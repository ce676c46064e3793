//! Why the registry does not do what it was asked to, or cannot be opened.

use std::io;
use std::path::PathBuf;

use uuid::Uuid;

use crate::id::{DeviceId, KeyId};

/// Why the registry does not do what it was asked to. No text here has a key in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// There is no such record.
    #[error("there is no {kind} {id}")]
    NotFound {
        /// What was looked for: `organisation`, `board`, `network`, `device`, `API key`.
        kind: &'static str,
        /// Its record id or device id.
        id: String,
    },
    /// A value is taken, or something depends on what is to be deleted.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The request breaks a rule, or names a record that is not there.
    #[error("{0}")]
    Rule(String),
    /// The records of a page have too many bytes.
    #[error("the records of this page are too long to be listed at once; ask for a smaller limit")]
    PageTooLong,
    /// The database does not answer in time or cannot write. The log says more.
    #[error("the registry cannot {0} at the moment; try again later")]
    Unavailable(&'static str),
}

/// What stands against a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A unique value is taken.
    #[error("{what} {value:?} is taken; choose another")]
    Taken {
        /// What it is, in the words of the request: `organisation name`, `deviceId`, ...
        what: &'static str,
        /// The value, unless it is a secret.
        value: String,
    },
    /// Another device of the board has a value that no two of its devices may have. The text does not tell the value: a key
    /// may stand in the wrong place.
    #[error("metadata {name:?}: its value is taken by another device of the board; choose another")]
    Metadata {
        /// The field.
        name: String,
        /// The value.
        value: String,
    },
    /// Something depends on the record.
    #[error("{kind} {id} has {dependents}; delete them first")]
    InUse {
        /// What is to be deleted.
        kind: &'static str,
        /// Its record id.
        id: Uuid,
        /// What depends on it, with how many.
        dependents: String,
    },
    /// Devices of others depend on the board, whom its owner cannot make give them up.
    #[error("board {0} has devices of other organisations; it stays as long as they do")]
    UsedByOthers(Uuid),
    /// The configuration file has it, and wins.
    #[error("networkId {0} is that of a network in the configuration file; choose another, or take it out there")]
    Configured(u32),
    /// Another key waits for confirmation than the one that was meant.
    #[error(
        "the key of device {device} that waits has the id {key_id} now; look at it with GET .../key before you confirm it"
    )]
    OtherKey {
        /// Whose.
        device: DeviceId,
        /// The one that waits.
        key_id: KeyId,
    },
}

impl Conflict {
    /// Nothing if none of the counted kinds, named in the singular, depends on a record.
    ///
    /// # Errors
    /// What does, with how many.
    pub(super) fn unless_free(kind: &'static str, id: Uuid, counts: &[(i64, &str)]) -> Result<(), Self> {
        let counted = |(count, name): &(i64, &str)| format!("{count} {name}{}", if *count == 1 { "" } else { "s" });
        let dependents: Vec<String> = counts.iter().filter(|(count, _)| *count > 0).map(counted).collect();
        let dependents = dependents.join(", ");
        if dependents.is_empty() { Ok(()) } else { Err(Self::InUse { kind, id, dependents }) }
    }
}

/// Why the database cannot be opened. One line: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory.
    #[error("{} is in use by another process{}; stop it, or name another --data-dir", directory.display(), named(*holder))]
    InUse {
        /// The data directory.
        directory: PathBuf,
        /// The process, if it wrote itself down.
        holder: Option<u32>,
    },
    /// A file cannot be made or opened.
    #[error("cannot use {}: {source}; let this user read and write it, or name another --data-dir", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A later version of this program made the database.
    #[error(
        "{} was made by a later version of lastroute: it has the form {found}, this version knows up to {known}; start that \
         version, or name another --data-dir",
        path.display()
    )]
    Later {
        /// The database.
        path: PathBuf,
        /// The form it has.
        found: i64,
        /// The last form that is known.
        known: i64,
    },
    /// What is in the file cannot be right.
    #[error("{} is damaged: {reason}; put a copy of it back, or move it away to start with an empty registry", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong, as the engine puts it.
        reason: String,
    },
    /// The database does not work.
    #[error("cannot open the registry {}: {reason}; see that its directory can be written and has space", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What is wrong, as the engine puts it.
        reason: String,
    },
    /// The thread that opens it has panicked.
    #[error("opening the registry failed by a defect of lastroute; report what is said above")]
    Ended,
}

fn named(holder: Option<u32>) -> String {
    holder.map(|process| format!(" ({process})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_is_taken_is_told_by_its_name_alone() {
        let taken = Conflict::Metadata { name: "serial".to_owned(), value: "s3cret".to_owned() };
        let text = RegistryError::from(taken).to_string();
        assert_eq!(text, "metadata \"serial\": its value is taken by another device of the board; choose another");
    }
}
