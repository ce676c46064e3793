//! Reading all devices at the start, for the packet path.
//!
//! Devices that are handed over one by one take ten times what the engine takes to read them: each value is copied by itself, and
//! each row goes from one thread to another. So the engine makes a line of text of each device, and hands over many lines at
//! once.

use sqlx::{AssertSqlSafe, Row, SqlSafeStr, SqlStr};
use zeroize::Zeroizing;

use super::Live;
use super::database::{Database, from_json, hexadecimal, to_device_id, to_number, to_time, unreadable};
use super::live::Known;
use super::networks::key_id;
use super::open::{application, warn_of_hidden};
use super::rules::SecondKey;
use crate::auth::keys::{DeviceKey, KeyPair, RootKey};
use crate::id::DeviceId;
use crate::table::Registration;
use crate::table::route::Application;

/// Devices read at once: so many that asking for them costs nothing next to reading them. They take 60 to 300 KB.
const CHUNK: i64 = 1000;

/// Devices whose places in the table are fetched into the caches together.
const AHEAD: usize = 64;

/// Values in the line of a device.
const VALUES: usize = 9;

/// Stands for a value that a device has not.
const NONE: &str = "-";

/// What was loaded.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// How many there are.
    pub(super) count: u64,
    /// What those run of whose state enough is said.
    pub(super) states: Vec<(DeviceId, Application)>,
    /// Those with a key that is not in force, as the configuration has one.
    hidden: u64,
}

/// Tells `live` of every device. What is on its way is held twice, a fleet is not.
///
/// # Errors
/// The database cannot be read, or a value in it is none that was written here.
pub(super) async fn load_devices(database: &Database, live: &Live) -> Result<Devices, sqlx::Error> {
    let (query, mut devices, mut last) = (chunk(), Devices::default(), i64::MIN);
    let mut reader = database.loader().await?;
    loop {
        let row = sqlx::query(query.clone()).bind(last).bind(CHUNK).fetch_one(&mut reader).await?;
        let Some(greatest) = row.try_get(0)? else { break };
        devices.load(row.try_get(1)?, live)?;
        last = greatest;
    }
    warn_of_hidden(devices.hidden, "devices");
    Ok(devices)
}

/// The query for at most `$2` devices after number `$1`: the greatest of their numbers, and a line for each of them. There are no
/// ends of lines in a line, as there are none in JSON that was written here.
fn chunk() -> SqlStr {
    let [root, public, second] = ["key_root", "second_public", "second_root"].map(|column| {
        let text = hexadecimal(column);
        format!("CASE WHEN {column} IS NULL THEN '{NONE}' ELSE {text} END")
    });
    let key_id = format!("coalesce(CAST(key_id AS TEXT), '{NONE}')");
    let line =
        format!("concat_ws(' ', n, device_id, organisation, created_at, {root}, {key_id}, {public}, {second}, state)");
    let devices = format!("SELECT n, {line} AS line FROM device WHERE n > $1 ORDER BY n LIMIT $2");
    AssertSqlSafe(format!("SELECT max(n), string_agg(line, '\n') FROM ({devices}) AS chunk")).into_sql_str()
}

impl Devices {
    /// Takes in what [`chunk`] found.
    fn load(&mut self, lines: &str, live: &Live) -> Result<(), sqlx::Error> {
        let mut lines = lines.split('\n');
        loop {
            let known = lines.by_ref().take(AHEAD).map(|line| known(line, &live.cloud_keys));
            let known = known.collect::<Result<Vec<_>, _>>()?;
            if known.is_empty() {
                return Ok(());
            }
            let ids: Vec<_> = known.iter().map(|known| known.device_id).collect();
            live.table.prefetch_all(&ids);
            let keyed = known.iter().filter(|known| known.keys.is_some());
            live.keys.prefetch(&keyed.map(|known| known.device_id).collect::<Vec<_>>());
            known.into_iter().for_each(|known| self.enter(known, live));
        }
    }

    fn enter(&mut self, known: Known, live: &Live) {
        let Known { device_id, registration, keys, application } = known;
        live.table.register(device_id, registration);
        self.count += 1;
        if let Some((key, second)) = keys {
            if live.configured.devices.contains(&device_id) {
                self.hidden += 1;
            } else {
                live.keys.set_device(device_id, key, second);
            }
        }
        self.states.extend(application.map(|application| (device_id, application)));
    }
}

/// The device of a line.
fn known(line: &str, cloud_keys: &KeyPair) -> Result<Known, sqlx::Error> {
    let mut values = line.splitn(VALUES, ' ');
    let mut value = || values.next().ok_or_else(|| unreadable("a device of fewer values than it has"));
    let (record, device_id, organisation) = (number(value()?)?, number(value()?)?, number(value()?)?);
    let at = to_time(number(value()?)?);
    let (root, id) = (key(value()?)?, value()?);
    let (second, second_root) = (key(value()?)?, key(value()?)?);
    let state = value()?;

    let registration = Registration { at, organisation: to_number(organisation)?, record: to_number(record)? };
    let keys = root.map(|root| {
        let key_id = if id == NONE { None } else { Some(key_id(number(id)?)?) };
        let second = second.as_deref().zip(second_root.as_deref());
        let second = second.map(|(public, root)| SecondKey { public: *public, root: RootKey::new(*root) });
        let second = second.map(|second| second.device_key(cloud_keys));
        Ok::<_, sqlx::Error>((DeviceKey { key_id, root: RootKey::new(*root) }, second))
    });
    let application = if state == "{}" { None } else { application(&from_json(state)?) };
    Ok(Known { device_id: to_device_id(device_id), registration, keys: keys.transpose()?, application })
}

fn number(text: &str) -> Result<i64, sqlx::Error> {
    text.parse().map_err(|_| unreadable("a number that is none"))
}

/// A key, or none. The line it is read from is the engine's, and is not wiped.
fn key(text: &str) -> Result<Option<Zeroizing<[u8; 32]>>, sqlx::Error> {
    if text == NONE {
        return Ok(None);
    }
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text, &mut key[..]).map_err(|_| unreadable("a key that has not 32 bytes"))?;
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::super::Configured;
    use super::super::testing::{Site, live, opens_device};
    use super::*;
    use crate::auth::keys::device_key_id;
    use crate::id::KeyId;

    const DEVICES: i64 = 2 * CHUNK + 1;

    /// Changes what is stored.
    async fn change(site: &Site, query: &str) {
        let mut change = site.registry.database.change().await.unwrap();
        sqlx::query(AssertSqlSafe(query)).execute(&mut *change).await.unwrap();
        change.commit(|| ()).await.unwrap();
    }

    /// So many devices that they come in three chunks, of which device `k` has number and device id `k` and was made at `k`.
    async fn fleet() -> Site {
        let site = Site::new().await;
        let acme = site.organisation("acme").await;
        site.board(&acme, "board", false).await;
        let made = format!(
            "WITH RECURSIVE c(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM c WHERE k < {DEVICES}) \
             INSERT INTO device (id, created_at, updated_at, organisation, board, device_id, soc, mcu_id, metadata, state, \
             state_updated_at) SELECT randomblob(16), k, k, 1, 1, k + (-9223372036854775807 - 1), 'nRF9151', k, '{{}}', '{{}}', 1 FROM c"
        );
        change(&site, &made).await;
        site
    }

    fn registration(site: &Site, device: i64) -> Option<Registration> {
        site.live.table.registration(DeviceId(device.cast_unsigned()))
    }

    #[tokio::test]
    async fn every_device_of_every_chunk_is_registered_and_no_other() {
        let site = fleet().await;
        change(&site, &format!("DELETE FROM device WHERE n = {CHUNK} OR n = {CHUNK} + 7")).await;
        let site = site.restart(live(1, Configured::default()), 0).await;
        for device in 0..DEVICES + 2 {
            let at = to_time(device);
            let expected = Registration { at, organisation: 1, record: device as u32 };
            let is_there = (1..=DEVICES).contains(&device) && ![CHUNK, CHUNK + 7].contains(&device);
            assert_eq!(registration(&site, device), is_there.then_some(expected));
        }
    }

    #[tokio::test]
    async fn what_few_devices_have_is_that_of_these_devices() {
        let site = fleet().await;
        let (gateway, device) = (KeyPair::from_private([1; 32]), KeyPair::from_private([40; 32]));
        let [public, root] = [device.public(), *device.shared_root(gateway.public()).unwrap().bytes()].map(hex::encode);
        let first = hex::encode([5; 32]);
        change(&site, &format!("UPDATE device SET key_root = x'{first}' WHERE n = {CHUNK}")).await;
        let two = format!("key_id = 7, second_public = x'{public}', second_root = x'{root}'");
        change(&site, &format!("UPDATE device SET key_root = x'{first}', {two} WHERE n = {CHUNK} + 1")).await;
        let state = r#"{"applicationId":5,"applicationVersion":{"major":1,"minor":2,"revision":3,"buildNum":4}}"#;
        change(&site, &format!("UPDATE device SET state = '{state}' WHERE n = {DEVICES}")).await;

        let site = site.restart(live(1, Configured::default()), 0).await;
        let opens = |device: i64, id, root: [u8; 32]| {
            let id = KeyId::new(id).unwrap();
            opens_device(&site.live, DeviceId(device.cast_unsigned()), id, &RootKey::new(root)).is_ok()
        };
        let second = device_key_id(&gateway.public(), &device.public()).get();
        let shared = *device.shared_root(gateway.public()).unwrap().bytes();
        assert!(opens(CHUNK, 9, [5; 32]), "whatever its key id");
        assert!(opens(CHUNK + 1, 7, [5; 32]) && opens(CHUNK + 1, second, shared));
        assert!(!opens(CHUNK + 1, 9, [5; 32]) && !opens(CHUNK + 2, 7, [5; 32]));
        let keyed = (0..DEVICES + 2).filter(|device| site.live.keys.has_device(DeviceId(device.cast_unsigned())));
        assert_eq!(keyed.collect::<Vec<_>>(), [CHUNK, CHUNK + 1]);
        assert_eq!(site.live.table.devices().0, 1);
        let snapshot = site.live.table.snapshot(DeviceId(DEVICES.cast_unsigned())).unwrap();
        assert_eq!(snapshot.application.unwrap().version.to_string(), "1.2.3+00000004");
    }
}
