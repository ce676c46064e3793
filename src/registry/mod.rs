//! The registry: organisations, boards, networks, devices, API keys and messages to devices, kept in SQL and in force at once.
//!
//! What is written is durable before the call returns, and what the packet path needs of it (keys of networks and devices,
//! which devices are registered and whose they are) is told to the key ring and the route table right after.

mod admission;
mod boards;
mod bounds;
mod database;
mod device_batch;
pub mod device_keys;
mod device_learning;
mod device_rows;
mod device_writes;
mod devices;
mod error;
mod file;
mod forms;
mod heard;
mod ids;
mod keys;
mod listing;
mod live;
mod loading;
mod lock;
mod message_batch;
mod message_rows;
pub mod messages;
mod networks;
mod open;
mod organisations;
mod pages;
mod readers;
pub mod reservation;
mod rules;
#[cfg(test)]
mod testing;

use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;

use crate::auth::keys::{KeyPair, KeyRing};
use crate::clock::Clock;
use crate::downlink::Downlinks;
use crate::id::{DeviceId, KeyId};
use crate::records::{ApiKey, Device, NewDeviceState};
use crate::status::Time;
use crate::table::RouteTable;
use crate::waiters::Waiters;
pub use error::{Conflict, OpenError, RegistryError};
pub use lock::Lock;
pub use open::{Loaded, Opening};

/// What the registry keeps up to date.
#[derive(Clone, Debug)]
pub struct Live {
    /// Keys of networks and devices.
    pub keys: Arc<KeyRing>,
    /// Which devices are registered.
    pub table: Arc<RouteTable>,
    /// Who waits for a device that may be deleted.
    pub waiters: Arc<Waiters>,
    /// What waits for a device that may be deleted.
    pub downlinks: Arc<Downlinks>,
    /// What makes root keys of public keys.
    pub cloud_keys: KeyPair,
    /// What the configuration names.
    pub configured: Arc<Configured>,
}

/// Networks and devices of the configuration. Their keys win over what the registry has.
#[derive(Clone, Debug, Default)]
pub struct Configured {
    /// Network ids.
    pub networks: HashSet<KeyId>,
    /// Devices.
    pub devices: HashSet<DeviceId>,
}

/// A part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Records at most.
    pub limit: u32,
    /// Records left out before them.
    pub offset: u64,
    /// Whether the greatest comes first.
    pub descending: bool,
}

/// Orders of organisations. Ties go by creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OrganisationOrder {
    /// When they were made.
    #[default]
    CreatedAt,
    /// By name.
    Name,
    /// When they were last changed.
    UpdatedAt,
}

/// Orders of boards and of networks. Ties go by creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KindOrder {
    /// When they were made.
    #[default]
    CreatedAt,
    /// By name.
    Name,
    /// The private ones before the public ones.
    Public,
    /// When they were last changed.
    UpdatedAt,
}

/// Orders of devices by what is in their records. Ties go by creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceOrder {
    /// By the board's record id.
    BoardId,
    /// When they were made.
    #[default]
    CreatedAt,
    /// By number.
    DeviceId,
    /// As text.
    McuId,
    /// By the organisation's record id.
    OrganisationId,
    /// When they were last changed.
    UpdatedAt,
}

/// Orders of devices by what was heard of them. Those without a value come before all others, in descending order after
/// them. Ties go by creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeardOrder {
    /// When the first packet was counted.
    FirstPacketTime,
    /// When the last packet was counted.
    LastRouteTime,
    /// When the last packet that the device sent over UDP itself was counted.
    LastRouteUdpTime,
}

/// Which devices a list has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFilter {
    /// Those of this organisation; `None`: of all.
    pub organisation: Option<Uuid>,
    /// Those of one of these boards; empty: of any.
    pub boards: Vec<Uuid>,
    /// Those whose metadata has this value under this name.
    pub metadata: Option<(String, String)>,
}

/// Which devices of an organisation a list with states has, by when their last packet was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeardFilter {
    /// Those not heard for so long, or never.
    pub silent_for_ms: Option<u64>,
    /// Those heard within so long.
    pub heard_within_ms: Option<u64>,
}

/// A device with what only the registry knows of its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// The record.
    pub device: Device,
    /// When the state was last set through the registry: at first when the device was registered.
    pub state_updated_at: Time,
    /// The state as it was last set, which announcements of the device override in the route table.
    pub state: NewDeviceState,
}

/// For whom somebody registers devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registrar {
    /// For all organisations: what was heard of a device before is kept, and the configuration may name it too.
    OfAll,
    /// For one organisation, which is to learn nothing of what is not its own: what was heard of a device before is
    /// forgotten, and the id of one that the configuration names is taken.
    OfOne,
}

/// What came of one entry of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// The device is new.
    Created,
    /// It is registered already, exactly so.
    Unchanged,
}

/// A stored API key with the digest of its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The record.
    pub key: ApiKey,
    /// SHA-256 of the whole key text.
    pub digest: [u8; 32],
    /// The organisation's number in [`crate::table::Registration`]; 0 for all.
    pub organisation: u32,
}

/// The registry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    database: database::Database,
    live: Live,
    clock: Clock,
    ids: Arc<ids::Ids>,
    heard: Arc<heard::Lists>,
    incoming: Arc<message_batch::Incoming>,
}

impl Registry {
    /// Id and time of a record that is made now, within a change.
    fn stamp(&self) -> (Uuid, Time) {
        let now = self.clock.now();
        (self.ids.next(now), Time(now))
    }
}

impl Page {
    fn limit(self) -> i64 {
        self.limit.into()
    }

    fn offset(self) -> i64 {
        // So many records there are nowhere.
        i64::try_from(self.offset).unwrap_or(i64::MAX)
    }

    /// Of every column that a list is ordered by.
    const fn direction(self) -> &'static str {
        if self.descending { "DESC" } else { "ASC" }
    }
}

impl KindOrder {
    const fn column(self) -> &'static str {
        match self {
            Self::CreatedAt => "created_at",
            Self::Name => "name",
            Self::Public => "public",
            Self::UpdatedAt => "updated_at",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// What one engine has and another has not.
    const OF_ONE_ENGINE: [&str; 19] = [
        "sqlite",
        "pragma",
        "json_each",
        "json_extract",
        "datetime(",
        "strftime",
        "unixepoch",
        "insert or",
        "replace into",
        "ifnull",
        "rowid",
        " glob ",
        "randomblob",
        "typeof(",
        "group_concat",
        "last_insert",
        "ilike",
        "::text",
        "indexed by",
    ];

    /// Everything in a source text that is not portable, without its tests.
    fn not_portable(text: &str) -> Vec<String> {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let mut found = Vec::new();
        for line in code.lines() {
            let line = line.split("//").next().unwrap().to_lowercase();
            let named = OF_ONE_ENGINE.iter().any(|name| line.contains(name));
            // The operator of Rust never stands after one of these.
            let placeholder = ["(?", " ?", ",?", "=?"].iter().any(|sign| line.contains(sign));
            if named || placeholder {
                found.push(line);
            }
        }
        found
    }

    #[test]
    fn queries_are_of_no_one_engine() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/registry");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "rs")).collect();
        assert!(files.len() > 8, "{files:?}");
        for file in files.iter().filter(|path| !path.ends_with("database.rs")) {
            assert_eq!(not_portable(&fs::read_to_string(file).unwrap()), Vec::<String>::new(), "{}", file.display());
        }
    }

    #[test]
    fn what_is_of_one_engine_is_caught() {
        for text in ["WHERE id = ?", "VALUES (?, ?)", "= ?1", "INSERT OR IGNORE INTO a", "use sqlx::Sqlite;"] {
            assert_eq!(not_portable(text).len(), 1, "{text}");
        }
        for text in ["WHERE id = $1", "f(a).await?;", "{a:?}", "// SQLite", "x\n#[cfg(test)]\nmod tests { SQLite }"] {
            assert_eq!(not_portable(text), Vec::<String>::new(), "{text}");
        }
    }
}
