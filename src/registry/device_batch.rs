//! Making devices, one or thousands at once.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::admission::Admission;
use super::database::{Change, Connection, from_device_id, from_time, to_json, to_number, unreadable};
use super::device_rows::Query;
use super::live::Known;
use super::open::application;
use super::rules::{self, BoardRules, GivenDeviceKey, given_key};
use super::{DeviceRecord, Imported, Registrar, Registry, RegistryError};
use crate::auth::keys::KeyPair;
use crate::id::DeviceId;
use crate::records::{Device, GivenKey, Metadata, NewDevice};
use crate::status::Time;
use crate::table::Registration;

/// Rows that one statement inserts. More make it hardly faster.
const ROWS: usize = 100;

/// A device that comes in.
struct Fresh<'a> {
    new: &'a NewDevice,
    id: Uuid,
    device_id: DeviceId,
    organisation: i64,
    board: &'a BoardRules,
    key: Option<GivenDeviceKey>,
}

/// What is known of an entry by itself: its key, or what is wrong with it.
type Checked = Result<Option<GivenDeviceKey>, RegistryError>;

impl Registry {
    /// Makes a device. Without a device id it gets a random one that no other has.
    ///
    /// # Errors
    /// A value is taken, something it names is not there, or a rule is broken.
    pub async fn create_device(&self, new: &NewDevice, by: Registrar) -> Result<DeviceRecord, RegistryError> {
        let made = self.create_devices(std::slice::from_ref(new), by).await.map_err(|(_, error)| error)?;
        made.into_iter().next().ok_or(RegistryError::Unavailable("make a device"))
    }

    /// Makes all of them or none, in this order.
    ///
    /// # Errors
    /// As [`Self::create_device`], also where two of them collide, with the place of the entry from 0; the first one if the
    /// registry itself fails.
    pub async fn create_devices(
        &self,
        new: &[NewDevice],
        by: Registrar,
    ) -> Result<Vec<DeviceRecord>, (usize, RegistryError)> {
        let checked = self.check(new, by).await.map_err(|error| (0, error))?;
        let keys = checked.into_iter().enumerate().map(|(at, key)| key.map_err(|error| (at, error)));
        let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
        let failed = |error: sqlx::Error| (0, error.into());
        let mut change = self.database.begin().await.map_err(|error| (0, error))?;
        let mut admission = Admission::load(&mut change, new, false).await.map_err(failed)?;
        let ids = assign(&mut admission, &mut change, new).await.map_err(|error| (0, error))?;
        self.reserve(&mut admission, &ids, by);
        let mut admitted = Vec::with_capacity(new.len());
        for (at, ((new, id), key)) in new.iter().zip(ids).zip(keys).enumerate() {
            admitted.push((new, id, admission.admit(new, id).map_err(|error| (at, error))?, key));
        }
        self.add(change, &admission, admitted, by).await.map_err(|error| (0, error))
    }

    /// Makes each of them for itself, in this order and in one change; tells what came of each. One that is there exactly so
    /// is left alone, see [`Imported::Unchanged`]. With `stop_at_error` nothing is made after one that fails, which is the
    /// last one that is told of.
    ///
    /// # Errors
    /// The registry itself fails; nothing is made then.
    pub async fn import_devices(
        &self,
        new: &[NewDevice],
        by: Registrar,
        stop_at_error: bool,
    ) -> Result<Vec<Result<Imported, RegistryError>>, RegistryError> {
        let checked = self.check(new, by).await?;
        let mut change = self.database.begin().await?;
        let mut admission = Admission::load(&mut change, new, true).await?;
        let ids = assign(&mut admission, &mut change, new).await?;
        self.reserve(&mut admission, &ids, by);
        let (mut admitted, mut results) = (Vec::new(), Vec::with_capacity(new.len()));
        for ((new, id), checked) in new.iter().zip(ids).zip(checked) {
            let result = match checked {
                Ok(key) if admission.is_stored(new, key.as_ref()) => Ok(Imported::Unchanged),
                Ok(key) => admission.admit(new, id).map(|organisation| {
                    admitted.push((new, id, organisation, key));
                    Imported::Created
                }),
                Err(error) => Err(error),
            };
            let failed = result.is_err();
            results.push(result);
            if failed && stop_at_error {
                break;
            }
        }
        self.add(change, &admission, admitted, by).await?;
        Ok(results)
    }

    /// What can be told of each entry without the database.
    async fn check(&self, new: &[NewDevice], by: Registrar) -> Result<Vec<Checked>, RegistryError> {
        let mut checked = self.device_keys(new.iter().map(given_key).collect()).await?;
        for (new, checked) in new.iter().zip(&mut checked) {
            // Who registers for one organisation is told that the id is taken, and no more.
            let configured = new.device_id.filter(|_| by == Registrar::OfAll && matches!(checked, Ok(Some(_))));
            let configured = configured.map_or(Ok(()), |id| self.check_key_is_not_configured(id));
            if let Err(error) = rules::check_bounds(new).and(configured) {
                *checked = Err(error);
            }
        }
        Ok(checked)
    }

    /// Takes the ids of devices that the configuration names from those who register for one organisation.
    fn reserve(&self, admission: &mut Admission, ids: &[DeviceId], by: Registrar) {
        if by == Registrar::OfOne {
            let configured = &self.live.configured.devices;
            admission.reserve(ids.iter().copied().filter(|id| configured.contains(id)));
        }
    }

    /// The keys that are given, as they are stored. Roots of public keys are made on a thread of their own.
    pub(super) async fn device_keys(&self, given: Vec<GivenKey>) -> Result<Vec<Checked>, RegistryError> {
        let cloud_keys = self.live.cloud_keys.clone();
        let slow = given.iter().any(|given| given.device_public_key.is_some());
        let make = move || given.iter().map(|given| GivenDeviceKey::of(given, &cloud_keys)).collect();
        if slow {
            spawn_blocking(make).await.map_err(|_| RegistryError::Unavailable("make the keys of devices"))
        } else {
            Ok(make())
        }
    }

    /// Stores devices that are admitted, with their device ids, the numbers of their organisations and their keys, and puts
    /// them in force.
    async fn add(
        &self,
        mut change: Change,
        admission: &Admission,
        admitted: Vec<(&NewDevice, DeviceId, i64, Option<GivenDeviceKey>)>,
        by: Registrar,
    ) -> Result<Vec<DeviceRecord>, RegistryError> {
        let now = self.clock.now();
        let fresh = admitted.into_iter().filter_map(|(new, device_id, organisation, key)| {
            let board = admission.board(new.board_id)?;
            Some(Fresh { new, id: self.ids.next(now), device_id, organisation, board, key })
        });
        let fresh: Vec<_> = fresh.collect();
        for rows in fresh.chunks(ROWS) {
            insert(&mut change, rows, Time(now), by).await?;
        }
        let numbered: Vec<_> = numbers(&mut change, &fresh).await?.zip(&fresh).collect();
        let metadata: Vec<_> = numbered.iter().map(|(n, row)| (*n, row.board, &row.new.metadata)).collect();
        insert_metadata(&mut change, &metadata).await?;
        let known = numbered.iter().map(|(n, row)| row.known(*n, Time(now), &self.live.cloud_keys));
        let known: Vec<_> = known.collect::<Result<_, _>>()?;
        let records = fresh.iter().map(|fresh| fresh.record(Time(now))).collect();
        let live = self.live.clone();
        change.commit(move || known.into_iter().for_each(|device| live.register(device, by))).await?;
        Ok(records)
    }
}

impl Fresh<'_> {
    fn record(&self, now: Time) -> DeviceRecord {
        let device = Device {
            id: self.id,
            created_at: now,
            updated_at: now,
            mcu_id: self.new.mcu_id.clone(),
            board_id: self.new.board_id,
            organisation_id: self.new.organisation_id,
            device_id: self.device_id,
            metadata: self.new.metadata.clone(),
            initial_device_state: self.new.initial_device_state.clone(),
        };
        let state = self.new.initial_device_state.clone().unwrap_or_default();
        DeviceRecord { device, state_updated_at: now, state }
    }

    fn known(&self, n: i64, now: Time, cloud_keys: &KeyPair) -> Result<Known, sqlx::Error> {
        let (organisation, record) = (to_number(self.organisation)?, to_number(n)?);
        Ok(Known {
            device_id: self.device_id,
            registration: Registration { at: now.0, organisation, record },
            keys: self.key.as_ref().map(|key| key.in_force(cloud_keys)),
            application: self.new.initial_device_state.as_ref().and_then(application),
        })
    }
}

/// The device id of each of a batch: the given one, or a random one that no other has and nobody is given.
async fn assign(
    admission: &mut Admission,
    connection: &mut Connection,
    new: &[NewDevice],
) -> Result<Vec<DeviceId>, RegistryError> {
    let random = SystemRandom::new();
    loop {
        let ids = draw(new, || {
            let mut bytes = [0; 8];
            random.fill(&mut bytes).map_err(|_| RegistryError::Unavailable("get random bytes for a device id"))?;
            Ok(u64::from_le_bytes(bytes))
        })?;
        admission.load_device_ids(connection, &ids).await?;
        if !new.iter().zip(&ids).any(|(new, id)| new.device_id.is_none() && admission.is_taken(*id)) {
            return Ok(ids);
        }
    }
}

/// The given device ids, and a random one for each device without, not 0 and none of the others.
fn draw(
    new: &[NewDevice],
    mut random: impl FnMut() -> Result<u64, RegistryError>,
) -> Result<Vec<DeviceId>, RegistryError> {
    let mut used: HashSet<_> = new.iter().filter_map(|new| new.device_id).collect();
    let mut one = |new: &NewDevice| match new.device_id {
        Some(id) => Ok(id),
        None => loop {
            let id = DeviceId(random()?);
            if id.0 != 0 && used.insert(id) {
                return Ok(id);
            }
        },
    };
    new.iter().map(&mut one).collect()
}

/// Inserts devices, in this order.
async fn insert(connection: &mut Connection, rows: &[Fresh<'_>], now: Time, by: Registrar) -> Result<(), sqlx::Error> {
    let texts = rows
        .iter()
        .map(|row| Ok((to_json(&row.new.metadata)?, row.new.initial_device_state.as_ref().map(to_json).transpose()?)));
    let texts: Vec<_> = texts.collect::<Result<_, sqlx::Error>>()?;
    let mut query = Query::new(
        "INSERT INTO device (id, created_at, updated_at, organisation, board, device_id, soc, mcu_id, metadata, \
         initial_state, state, state_updated_at, key_public, key_root, key_id, \
         second_public, second_root, afresh) ",
    );
    let at = from_time(now.0);
    query.push_values(rows.iter().zip(&texts), |mut row, (fresh, (metadata, state))| {
        row.push_bind(fresh.id).push_bind(at).push_bind(at).push_bind(fresh.organisation).push_bind(fresh.board.n);
        row.push_bind(from_device_id(fresh.device_id)).push_bind(&fresh.board.soc);
        row.push_bind(fresh.new.mcu_id.as_str()).push_bind(metadata).push_bind(state.as_deref());
        row.push_bind(state.as_deref().unwrap_or("{}")).push_bind(at);
        let key = fresh.key.as_ref();
        row.push_bind(key.and_then(|key| key.public).map(Vec::from));
        row.push_bind(key.map(|key| &key.key.root.bytes()[..]));
        row.push_bind(key.and_then(|key| key.key.key_id).map(|id| i64::from(id.get())));
        let second = key.and_then(|key| key.second.as_ref());
        row.push_bind(second.map(|second| &second.public[..])).push_bind(second.map(|second| &second.root.bytes()[..]));
        row.push_bind(by == Registrar::OfOne);
    });
    query.build().execute(connection).await?;
    Ok(())
}

/// The numbers of devices that were just inserted: one after the other, as nobody else inserts any meanwhile. To be told one
/// by one would take longer than the insertion of an index entry.
async fn numbers(connection: &mut Connection, inserted: &[Fresh<'_>]) -> Result<RangeInclusive<i64>, sqlx::Error> {
    let Some(first) = inserted.first() else { return Ok(RangeInclusive::new(1, 0)) };
    // Record ids rise, so no older device has one of these.
    let query = "SELECT count(*), min(n), max(n) FROM device WHERE id >= $1";
    let (count, least, greatest): (i64, i64, i64) = sqlx::query_as(query).bind(first.id).fetch_one(connection).await?;
    let expected = i64::try_from(inserted.len()).is_ok_and(|len| count == len && greatest - least + 1 == len);
    if expected { Ok(least..=greatest) } else { Err(unreadable("numbers of new devices that do not rise by one")) }
}

/// Inserts the metadata of devices, given by their numbers, for filters and uniqueness.
pub(super) async fn insert_metadata(
    connection: &mut Connection,
    devices: &[(i64, &BoardRules, &Metadata)],
) -> Result<(), RegistryError> {
    let pairs = devices.iter().flat_map(|(n, board, metadata)| metadata.iter().map(move |pair| (*n, *board, pair)));
    let pairs: Vec<_> = pairs.collect();
    for pairs in pairs.chunks(ROWS) {
        let mut query = Query::new("INSERT INTO device_metadata (device, board, name, value, is_unique) ");
        query.push_values(pairs, |mut row, (n, board, (name, value))| {
            row.push_bind(n).push_bind(board.n).push_bind(name).push_bind(value).push_bind(board.is_unique(name));
        });
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(device_id: Option<u64>) -> NewDevice {
        NewDevice {
            mcu_id: "00".parse().unwrap(),
            board_id: Uuid::nil(),
            organisation_id: Uuid::nil(),
            device_id: device_id.map(DeviceId),
            metadata: Metadata::new(),
            initial_device_state: None,
            device_public_key: None,
            device_root_key: None,
        }
    }

    #[test]
    fn a_random_id_is_not_0_and_none_of_the_batch_given_before_or_after() {
        let mut random = [0, 5, 5, 7, 3, 8].into_iter();
        let batch = [new(None), new(Some(7)), new(None), new(Some(3))];
        let ids = draw(&batch, || Ok(random.next().unwrap())).unwrap();
        assert_eq!(ids, [5, 7, 8, 3].map(DeviceId));
        let failed = draw(&batch, || Err(RegistryError::Unavailable("get random bytes")));
        assert_eq!(failed, Err(RegistryError::Unavailable("get random bytes")));
    }
}
