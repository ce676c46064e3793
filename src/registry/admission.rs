//! Which of a batch of new devices come in: what is stored that they may collide with is read at once, and then each one is
//! judged against that and those before it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;

use sqlx::Row;
use uuid::Uuid;

use super::database::{Connection, Engine, from_device_id, from_json, to_32, to_device_id};
use super::device_rows::{CHUNK, Query, push_list};
use super::error::{Conflict, RegistryError};
use super::rules::{BoardRules, GivenDeviceKey, SecondKey, no_board, rule};
use crate::auth::keys::RootKey;
use crate::id::DeviceId;
use crate::records::{Metadata, NewDevice, NewDeviceState};

/// A device that is stored and may be one of the batch.
#[derive(Debug)]
struct Stored {
    organisation: i64,
    board: i64,
    mcu_id: String,
    metadata: Metadata,
    initial_state: Option<NewDeviceState>,
    key_public: Option<Vec<u8>>,
    key_root: Option<RootKey>,
    second_public: Option<Vec<u8>>,
}

/// What a batch of new devices is judged by.
#[derive(Debug, Default)]
pub(super) struct Admission {
    organisations: HashMap<Uuid, i64>,
    boards: HashMap<Uuid, BoardRules>,
    /// Whether devices that are stored are read, to compare with: they may be long.
    compares: bool,
    stored: Vec<Stored>,
    /// Ids that are taken, with the place of the device in `stored` if it was read.
    device_ids: HashMap<DeviceId, Option<usize>>,
    /// Systems on chip and MCU ids that are taken, likewise.
    hardware: HashMap<(String, String), Option<usize>>,
    /// Boards, names and values of metadata that are taken.
    metadata: HashSet<(i64, String, String)>,
}

impl Admission {
    /// Reads what bears on the batch `new`, but for device ids. Without `compares` no device is found to be stored already.
    pub(super) async fn load(
        connection: &mut Connection,
        new: &[NewDevice],
        compares: bool,
    ) -> Result<Self, sqlx::Error> {
        let mut admission = Self { compares, ..Self::default() };
        admission.load_organisations(connection, new).await?;
        admission.load_boards(connection, new).await?;
        admission.load_hardware(connection, new).await?;
        admission.load_metadata(connection, new).await?;
        Ok(admission)
    }

    /// Reads which of `device_ids` are taken.
    pub(super) async fn load_device_ids(
        &mut self,
        connection: &mut Connection,
        device_ids: &[DeviceId],
    ) -> Result<(), sqlx::Error> {
        for device_ids in device_ids.chunks(CHUNK) {
            let mut query = self.select();
            query.push("device_id IN ");
            push_list(&mut query, device_ids.iter().map(|id| from_device_id(*id)));
            self.add_stored(query, connection).await?;
        }
        Ok(())
    }

    /// Whether a device has this id, stored or come in before.
    pub(super) fn is_taken(&self, device_id: DeviceId) -> bool {
        self.device_ids.contains_key(&device_id)
    }

    /// Makes ids taken that no device of the registry need have.
    pub(super) fn reserve(&mut self, device_ids: impl IntoIterator<Item = DeviceId>) {
        for device_id in device_ids {
            self.device_ids.entry(device_id).or_default();
        }
    }

    /// The rules of a board, if it is there.
    pub(super) fn board(&self, id: Uuid) -> Option<&BoardRules> {
        self.boards.get(&id)
    }

    /// Whether exactly this device is stored: all that is given is as it is there. Without a device id it is told by its
    /// hardware.
    pub(super) fn is_stored(&self, new: &NewDevice, key: Option<&GivenDeviceKey>) -> bool {
        let place = match (new.device_id, self.boards.get(&new.board_id)) {
            (Some(device_id), _) => self.device_ids.get(&device_id),
            (None, Some(board)) => self.hardware.get(&(board.soc.clone(), new.mcu_id.as_str().to_owned())),
            (None, None) => None,
        };
        let Some(stored) = place.copied().flatten().and_then(|at| self.stored.get(at)) else { return false };
        self.organisations.get(&new.organisation_id) == Some(&stored.organisation)
            && self.boards.get(&new.board_id).is_some_and(|board| board.n == stored.board)
            && stored.mcu_id == new.mcu_id.as_str()
            && stored.metadata == new.metadata
            && (new.initial_device_state.is_none() || stored.initial_state == new.initial_device_state)
            && key.is_none_or(|key| stored.has_key(key))
    }

    /// Lets a device in under `device_id`, so that no later one of the batch gets what it has. Gives the number of its
    /// organisation.
    ///
    /// # Errors
    /// It names what is not there, breaks a rule of its board, or has a value that is taken.
    pub(super) fn admit(&mut self, new: &NewDevice, device_id: DeviceId) -> Result<i64, RegistryError> {
        let organisation = self.organisations.get(&new.organisation_id).copied();
        let organisation = organisation
            .ok_or_else(|| rule(format!("organisationId: there is no organisation {}", new.organisation_id)))?;
        let board = self.boards.get(&new.board_id);
        let board = board.ok_or_else(|| no_board(new.board_id))?;
        board.check(organisation, &new.metadata)?;
        if self.device_ids.contains_key(&device_id) {
            return Err(Conflict::Taken { what: "deviceId", value: device_id.to_string() }.into());
        }
        let hardware = (board.soc.clone(), new.mcu_id.as_str().to_owned());
        if self.hardware.contains_key(&hardware) {
            return Err(Conflict::Taken { what: "mcuId", value: hardware.1 }.into());
        }
        let unique = new.metadata.iter().filter(|(name, _)| board.is_unique(name));
        let unique: Vec<_> = unique.map(|(name, value)| (board.n, name.clone(), value.clone())).collect();
        if let Some((_, name, value)) = unique.iter().find(|unique| self.metadata.contains(unique)) {
            return Err(Conflict::Metadata { name: name.clone(), value: value.clone() }.into());
        }
        self.device_ids.insert(device_id, None);
        self.hardware.insert(hardware, None);
        self.metadata.extend(unique);
        Ok(organisation)
    }

    async fn load_organisations(&mut self, connection: &mut Connection, new: &[NewDevice]) -> Result<(), sqlx::Error> {
        for ids in distinct(new.iter().map(|device| device.organisation_id)).chunks(CHUNK) {
            let mut query = Query::new("SELECT id, n FROM organisation WHERE id IN ");
            push_list(&mut query, ids);
            let rows: Vec<(Uuid, i64)> = query.build_query_as().fetch_all(&mut *connection).await?;
            self.organisations.extend(rows);
        }
        Ok(())
    }

    async fn load_boards(&mut self, connection: &mut Connection, new: &[NewDevice]) -> Result<(), sqlx::Error> {
        for ids in distinct(new.iter().map(|device| device.board_id)).chunks(CHUNK) {
            let mut query =
                Query::new("SELECT n, id, organisation, public, soc, metadata_fields FROM board WHERE id IN ");
            push_list(&mut query, ids);
            for row in query.build().fetch_all(&mut *connection).await? {
                let board = board_rules(&row)?;
                self.boards.insert(board.id, board);
            }
        }
        Ok(())
    }

    async fn load_hardware(&mut self, connection: &mut Connection, new: &[NewDevice]) -> Result<(), sqlx::Error> {
        let mut wanted = BTreeMap::<String, BTreeSet<&str>>::new();
        for device in new {
            if let Some(board) = self.boards.get(&device.board_id) {
                wanted.entry(board.soc.clone()).or_default().insert(device.mcu_id.as_str());
            }
        }
        for (soc, mcu_ids) in wanted {
            for mcu_ids in mcu_ids.into_iter().collect::<Vec<_>>().chunks(CHUNK) {
                let mut query = self.select();
                query.push("soc = ").push_bind(&soc).push(" AND mcu_id IN ");
                push_list(&mut query, mcu_ids.iter().copied());
                self.add_stored(query, connection).await?;
            }
        }
        Ok(())
    }

    async fn load_metadata(&mut self, connection: &mut Connection, new: &[NewDevice]) -> Result<(), sqlx::Error> {
        let mut wanted = BTreeMap::<(i64, &str), BTreeSet<&str>>::new();
        for device in new {
            let Some(board) = self.boards.get(&device.board_id) else { continue };
            for (name, value) in device.metadata.iter().filter(|(name, _)| board.is_unique(name)) {
                wanted.entry((board.n, name)).or_default().insert(value);
            }
        }
        for ((board, name), values) in wanted {
            for values in values.into_iter().collect::<Vec<_>>().chunks(CHUNK) {
                let mut query = Query::new("SELECT value FROM device_metadata WHERE is_unique AND board = ");
                query.push_bind(board).push(" AND name = ").push_bind(name).push(" AND value IN ");
                push_list(&mut query, values.iter().copied());
                let taken: Vec<String> = query.build_query_scalar().fetch_all(&mut *connection).await?;
                self.metadata.extend(taken.into_iter().map(|value| (board, name.to_owned(), value)));
            }
        }
        Ok(())
    }

    async fn add_stored(&mut self, mut query: Query, connection: &mut Connection) -> Result<(), sqlx::Error> {
        for row in query.build().fetch_all(&mut *connection).await? {
            let place = self.compares.then_some(self.stored.len());
            self.device_ids.insert(to_device_id(row.try_get(0)?), place);
            self.hardware.insert((row.try_get(1)?, row.try_get(2)?), place);
            if self.compares {
                self.stored.push(Stored::read(&row)?);
            }
        }
        Ok(())
    }

    /// A query for devices that are stored, without its condition.
    fn select(&self) -> Query {
        let mut query = Query::new("SELECT device_id, soc, mcu_id");
        if self.compares {
            query.push(STORED);
        }
        query.push(" FROM device WHERE ");
        query
    }
}

/// What [`Stored::read`] reads after the id and the hardware.
const STORED: &str = ", organisation, board, metadata, initial_state, key_public, key_root, \
                      second_public";

impl Stored {
    fn read(row: &<Engine as sqlx::Database>::Row) -> Result<Self, sqlx::Error> {
        let initial_state: Option<&str> = row.try_get(6)?;
        let key_root: Option<&[u8]> = row.try_get(8)?;
        Ok(Self {
            mcu_id: row.try_get(2)?,
            organisation: row.try_get(3)?,
            board: row.try_get(4)?,
            metadata: from_json(row.try_get(5)?)?,
            initial_state: initial_state.map(from_json).transpose()?,
            key_public: row.try_get(7)?,
            key_root: key_root.map(to_32).transpose()?.map(RootKey::new),
            second_public: row.try_get(9)?,
        })
    }

    /// Whether the keys that are given are the same ones, given in the same way.
    fn has_key(&self, key: &GivenDeviceKey) -> bool {
        let has_second = |second: &SecondKey| self.second_public.as_deref() == Some(second.public.as_slice());
        self.key_public.as_deref() == key.public.as_ref().map(<[u8; 32]>::as_slice)
            && self.key_root.as_ref().map(RootKey::bytes) == Some(key.key.root.bytes())
            && key.second.as_ref().is_none_or(has_second)
    }
}

/// A board's `n, id, organisation, public, soc, metadata_fields`.
pub(super) fn board_rules(row: &<Engine as sqlx::Database>::Row) -> Result<BoardRules, sqlx::Error> {
    Ok(BoardRules {
        n: row.try_get(0)?,
        id: row.try_get(1)?,
        organisation: row.try_get(2)?,
        public: row.try_get(3)?,
        soc: row.try_get(4)?,
        fields: from_json(row.try_get(5)?)?,
    })
}

/// Every value once.
fn distinct<T: Copy + Eq + Hash>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.collect::<HashSet<T>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BARE, Site, Stored};
    use super::*;

    #[tokio::test]
    async fn nothing_prints_a_key() {
        let site = Site::new().await;
        let owner = site.organisation("acme").await;
        let board = site.board(&owner, "board", false).await;
        site.device(&board, DeviceId(2), Stored { root: Some([0xab; 32]), ..BARE }).await;
        let mut change = site.registry.database.change().await.unwrap();
        let mut admission = Admission { compares: true, ..Admission::default() };
        admission.load_device_ids(&mut change, &[DeviceId(2)]).await.unwrap();
        let text = format!("{admission:?} {:?}", site.registry);
        assert!(
            !text.contains("171, 171") && !text.contains("ab, ab") && text.contains("key_root: Some(***)"),
            "{text}"
        );
    }
}
