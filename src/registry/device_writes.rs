//! Changing and deleting devices.

use uuid::Uuid;

use super::admission::board_rules;
use super::database::{Connection, from_time, to_json, to_number};
use super::device_batch::insert_metadata;
use super::device_learning::drop_held;
use super::device_rows::{self, Stored};
use super::error::Conflict;
use super::open::application;
use super::rules::{self, BoardRules, GivenDeviceKey, rule};
use super::{DeviceRecord, Registry, RegistryError};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::records::{DeviceUpdate, GivenKey, Metadata, NewDeviceState};
use crate::status::Time;
use crate::table::RouteTable;
use crate::table::route::Application;

impl Registry {
    /// Changes a device; an update of nothing changes nothing, not even the time of the last change.
    ///
    /// # Errors
    /// There is no such device, the metadata breaks a rule of its board, or a unique value is taken. Nothing is changed
    /// then.
    pub async fn update_device(&self, id: Uuid, update: &DeviceUpdate) -> Result<DeviceRecord, RegistryError> {
        let mut change = self.database.begin().await?;
        let mut stored = find(&mut change, id).await?;
        let Some(update) = &update.metadata else { return Ok(stored.record) };
        let device = &mut stored.record.device;
        device.metadata = rules::updated(&device.metadata, update);
        device.updated_at = Time(self.clock.now()).max(device.updated_at);
        rules::check_metadata(&device.metadata)?;
        let board = board(&mut change, stored.board).await?;
        board.check(stored.organisation, &device.metadata)?;
        check_unique(&mut change, &board, stored.n, &device.metadata).await?;
        sqlx::query("UPDATE device SET metadata = $1, updated_at = $2 WHERE n = $3")
            .bind(to_json(&device.metadata)?)
            .bind(from_time(device.updated_at.0))
            .bind(stored.n)
            .execute(&mut *change)
            .await?;
        delete_metadata(&mut change, stored.n).await?;
        insert_metadata(&mut change, &[(stored.n, &board, &device.metadata)]).await?;
        change.commit(|| ()).await?;
        Ok(stored.record)
    }

    /// Sets the state of a device, as far as it says something; the rest stays as it was last heard or set. What it says
    /// the device runs is in force until the device says otherwise.
    ///
    /// # Errors
    /// There is no such device, or the state is too large.
    pub async fn set_device_state(&self, id: Uuid, state: &NewDeviceState) -> Result<DeviceRecord, RegistryError> {
        rules::check_state(state)?;
        let mut change = self.database.begin().await?;
        let mut record = find(&mut change, id).await?.record;
        record.state_updated_at = Time(self.clock.now()).max(record.state_updated_at);
        let heard = self.live.table.snapshot(record.device.device_id).and_then(|known| known.application);
        record.state = merged(state, heard, &record.state);
        sqlx::query("UPDATE device SET state = $1, state_updated_at = $2 WHERE id = $3")
            .bind(to_json(&record.state)?)
            .bind(from_time(record.state_updated_at.0))
            .bind(id)
            .execute(&mut *change)
            .await?;
        let (device_id, at) = (record.device.device_id, record.state_updated_at.0);
        let (table, said, set) = (self.live.table.clone(), state.clone(), record.state.clone());
        change.commit(move || put_in_force(&table, device_id, &said, &set, at)).await?;
        Ok(record)
    }

    /// Sets the keys of a device in place of those before, and of one that waits for confirmation. They are in force for the
    /// next frame.
    ///
    /// # Errors
    /// There is no such device, no key is given, or the configuration file has the device's key.
    pub async fn set_device_key(&self, id: Uuid, key: &GivenKey) -> Result<(), RegistryError> {
        let mut keys = self.device_keys(vec![key.clone()]).await?;
        let key = keys.pop().transpose()?.flatten();
        let missing = || rule("a key is missing; give devicePublicKey, deviceRootKey or both");
        let key: GivenDeviceKey = key.ok_or_else(missing)?;
        let mut change = self.database.begin().await?;
        let stored = find(&mut change, id).await?;
        let device_id = stored.record.device.device_id;
        self.check_key_is_not_configured(device_id)?;
        let update = "UPDATE device SET key_public = $1, key_root = $2, key_id = $3, key_learned = 0, second_public = $4, \
                      second_root = $5, second_learned = 0, \
                      updated_at = CASE WHEN updated_at < $6 THEN $6 ELSE updated_at END WHERE n = $7";
        sqlx::query(update)
            .bind(key.public.map(Vec::from))
            .bind(&key.key.root.bytes()[..])
            .bind(key.key.key_id.map(|id| i64::from(id.get())))
            .bind(key.second.as_ref().map(|second| &second.public[..]))
            .bind(key.second.as_ref().map(|second| &second.root.bytes()[..]))
            .bind(from_time(self.clock.now()))
            .bind(stored.n)
            .execute(&mut *change)
            .await?;
        drop_held(&mut change, stored.n).await?;
        let (keys, (key, second)) = (self.live.keys.clone(), key.in_force(&self.live.cloud_keys));
        change.commit(move || keys.set_device(device_id, key, second)).await
    }

    /// Deletes a device with all that was heard of it, and ends the waits for it.
    ///
    /// # Errors
    /// There is no such device.
    pub async fn delete_device(&self, id: Uuid) -> Result<(), RegistryError> {
        let mut change = self.database.begin().await?;
        let stored = find(&mut change, id).await?;
        // With its metadata and messages.
        sqlx::query("DELETE FROM device WHERE n = $1").bind(stored.n).execute(&mut *change).await?;
        let (organisation, record) = (to_number(stored.organisation)?, to_number(stored.n)?);
        let (live, heard, now) = (self.live.clone(), self.heard.clone(), self.clock.now());
        change
            .commit(move || {
                live.deregister(stored.record.device.device_id, now);
                heard.forget(organisation, record);
            })
            .await
    }

    /// The key of a device that the configuration file names is the one there, which somebody put there on purpose.
    pub(super) fn check_key_is_not_configured(&self, device_id: DeviceId) -> Result<(), RegistryError> {
        if self.live.configured.devices.contains(&device_id) {
            return Err(rule(format!(
                "the configuration file has the key of device {device_id}, and wins; change it there, or give no key"
            )));
        }
        Ok(())
    }
}

/// A state where `said` says nothing as it was `heard`, or else as it was `set` before.
fn merged(said: &NewDeviceState, heard: Option<Application>, set: &NewDeviceState) -> NewDeviceState {
    let id = heard.map(|application| application.id);
    let version = heard.map(|application| application.version.into());
    NewDeviceState {
        application_id: said.application_id.or(id).or(set.application_id),
        application_version: said.application_version.or(version).or(set.application_version),
        algorithms: said.algorithms.clone().or_else(|| set.algorithms.clone()),
    }
}

/// Tells the table what a device is `said` to run. What it says nothing of is as the device announced it last, which may have
/// been while it was `set`.
fn put_in_force(table: &RouteTable, id: DeviceId, said: &NewDeviceState, set: &NewDeviceState, at: Timestamp) {
    if said.application_id.is_none() && said.application_version.is_none() {
        return;
    }
    let heard = table.snapshot(id).and_then(|known| known.application);
    if let Some(application) = application(&merged(said, heard, set)) {
        table.set_application(id, application, at);
    }
}

async fn find(connection: &mut Connection, id: Uuid) -> Result<Stored, RegistryError> {
    let found = device_rows::find(connection, id).await?;
    found.ok_or_else(|| RegistryError::NotFound { kind: "device", id: id.to_string() })
}

/// The rules of the board with this number, which is there.
async fn board(connection: &mut Connection, n: i64) -> Result<BoardRules, RegistryError> {
    let query = sqlx::query("SELECT n, id, organisation, public, soc, metadata_fields FROM board WHERE n = $1").bind(n);
    let row = query.fetch_one(connection).await?;
    Ok(board_rules(&row)?)
}

/// Checks that no other device of the board has one of the values that no two may have.
async fn check_unique(
    connection: &mut Connection,
    board: &BoardRules,
    device: i64,
    metadata: &Metadata,
) -> Result<(), RegistryError> {
    for (name, value) in metadata.iter().filter(|(name, _)| board.is_unique(name)) {
        let query = "SELECT count(*) FROM device_metadata \
                     WHERE board = $1 AND name = $2 AND value = $3 AND is_unique AND device <> $4";
        let query = sqlx::query_scalar(query).bind(board.n).bind(name).bind(value).bind(device);
        let others: i64 = query.fetch_one(&mut *connection).await?;
        if others > 0 {
            return Err(Conflict::Metadata { name: name.clone(), value: value.clone() }.into());
        }
    }
    Ok(())
}

async fn delete_metadata(connection: &mut Connection, device: i64) -> Result<(), RegistryError> {
    let query = sqlx::query("DELETE FROM device_metadata WHERE device = $1").bind(device);
    query.execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::ApplicationVersion;
    use crate::table::TableConfig;
    use crate::wire::tdf::Version;

    #[test]
    fn what_a_device_announces_while_its_state_is_set_is_not_undone() {
        let table = RouteTable::new(&TableConfig { shards: 2, ..TableConfig::default() });
        let (device, version) = (DeviceId(1), |revision| Version { major: 1, minor: 0, revision, build: 0 });
        table.register(device, Timestamp(1));
        table.set_application(device, Application { id: 5, version: version(1) }, Timestamp(1));
        let said = NewDeviceState { application_id: Some(6), ..NewDeviceState::default() };
        let heard = table.snapshot(device).unwrap().application;
        let set = merged(&said, heard, &NewDeviceState::default());
        assert_eq!(set.application_version, Some(ApplicationVersion::from(version(1))));
        table.set_application(device, Application { id: 5, version: version(2) }, Timestamp(2));
        put_in_force(&table, device, &said, &set, Timestamp(3));
        assert_eq!(table.snapshot(device).unwrap().application, Some(Application { id: 6, version: version(2) }));
        put_in_force(&table, device, &NewDeviceState::default(), &set, Timestamp(3));
        assert_eq!(table.snapshot(device).unwrap().application, Some(Application { id: 6, version: version(2) }));
    }
}
