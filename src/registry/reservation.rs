//! The time that is reserved for downlinks: what this process sends carries seconds that no process before it has used (rule
//! R2).

use super::database::unreadable;
use super::{Registry, RegistryError};
use crate::wire::Reader;

/// The name of the setting that has both numbers, each as four bytes, least significant first.
const RESERVED: &str = "downlinks-before-gps-second";

/// The time in which downlinks of this data directory may have been sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// The GPS second before which they were.
    pub before: u32,
    /// How often the clock was set back to time that was used already.
    pub clock_turns: u32,
}

impl Reserved {
    fn bytes(self) -> Vec<u8> {
        [self.before.to_le_bytes(), self.clock_turns.to_le_bytes()].concat()
    }

    fn read(stored: &[u8]) -> Result<Self, sqlx::Error> {
        let mut from = Reader(stored);
        let reserved = from.u32().zip(from.u32()).map(|(before, clock_turns)| Self { before, clock_turns });
        reserved.ok_or_else(|| unreadable("a reserved second that has not 8 bytes"))
    }
}

impl Registry {
    /// What was reserved last; `None` if nothing ever was.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn reserved_time(&self) -> Result<Option<Reserved>, RegistryError> {
        let query = sqlx::query_scalar("SELECT value FROM setting WHERE name = $1").bind(RESERVED);
        let mut reader = self.database.reader().await?;
        let stored: Option<Vec<u8>> = self.database.read(query.fetch_optional(&mut reader)).await?;
        Ok(stored.map(|stored| Reserved::read(&stored)).transpose()?)
    }

    /// Reserves time for downlinks of this process.
    ///
    /// # Errors
    /// The database does not take it.
    pub async fn reserve_time(&self, reserved: Reserved) -> Result<(), RegistryError> {
        let mut change = self.database.begin().await?;
        let set =
            "INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(set).bind(RESERVED).bind(reserved.bytes()).execute(&mut *change).await?;
        change.commit(|| ()).await
    }
}
