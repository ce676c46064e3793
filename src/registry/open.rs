//! Opening the registry: what it keeps is put in force. And closing it.

use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;
use zeroize::Zeroizing;

use super::database::{Connection, Database, from_device_id, to_32, to_device_id, to_number};
use super::device_rows::{CHUNK, Query, push_list};
use super::error::OpenError;
use super::ids::Ids;
use super::loading::{Devices, load_devices};
use super::lock::Lock;
use super::networks::key_id;
use super::rules::SecondKey;
use super::{Live, Registry};
use crate::auth::keys::{NetworkInfo, RootKey, device_key_id};
use crate::clock::Clock;
use crate::id::DeviceId;
use crate::records::NewDeviceState;
use crate::table::route::Application;
use crate::wire::tdf::Version;

/// The name of the setting that has the gateway's public key, of which root keys of devices are made.
const PUBLIC_KEY: &str = "gateway-public-key";

/// Devices whose root keys are made anew in one change. A thousand take about 80 ms.
const BATCH: i64 = 1000;

/// Number, public key of the key, public key of the second key.
type PublicKeys = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

impl Registry {
    /// Opens or makes the database in `data_dir`, locks the directory against other processes, and tells `live` of every
    /// network and device. What the configuration names stays as it is.
    ///
    /// # Errors
    /// The directory is in use, or the database cannot be opened or is from a later version; one line that says what to do.
    pub async fn open(data_dir: &Path, live: Live, clock: Clock) -> Result<Self, OpenError> {
        Ok(Self::begin(Lock::take(data_dir)?, live, clock).await?.load_devices().await?.finish())
    }

    /// Opens or makes the database in the locked directory, and tells `live` of every network. The devices follow.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn begin(lock: Lock, live: Live, clock: Clock) -> Result<Opening, OpenError> {
        let database = Database::open(lock).await?;
        let networks = async {
            follow_public_key(&database, &live).await?;
            load_networks(&database, &live).await
        };
        let networks = networks.await.map_err(|error| database.explain(error))?;
        Ok(Opening { database, live, clock, networks })
    }

    /// Closes the database and lets go of the data directory. Whatever is asked of the registry afterwards fails.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

/// A registry whose networks are in force, and no device yet.
#[derive(Debug)]
pub struct Opening {
    database: Database,
    live: Live,
    clock: Clock,
    networks: usize,
}

impl Opening {
    /// Tells `live` of every device.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn load_devices(self) -> Result<Loaded, OpenError> {
        let Self { database, live, clock, networks } = self;
        let load = async {
            let devices = load_devices(&database, &live).await?;
            Ok((devices, greatest_id(&database).await?))
        };
        let (devices, greatest_id) = load.await.map_err(|error| database.explain(error))?;
        let ids = Arc::new(Ids::above(greatest_id));
        let registry = Registry { database, live, clock, ids, heard: Arc::default(), incoming: Arc::default() };
        Ok(Loaded { registry, networks, devices })
    }
}

/// A registry that is in force, but for what was said of the states of devices.
#[derive(Debug)]
pub struct Loaded {
    registry: Registry,
    networks: usize,
    devices: Devices,
}

impl Loaded {
    /// Which of these devices were registered afresh: what was heard of them before is not theirs.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn afresh(&self, ids: &[DeviceId]) -> Result<Vec<DeviceId>, OpenError> {
        let database = &self.registry.database;
        find_afresh(database, ids).await.map_err(|error| database.explain(error))
    }

    /// Tells the table of the states of devices, unless it knows them: from the devices themselves, as it kept them.
    pub fn finish(self) -> Registry {
        let Self { registry, networks, devices } = self;
        // Not before: a start that fails is one line.
        tracing::info!(networks, devices = devices.count, "registry");
        let (table, now) = (&registry.live.table, registry.clock.now());
        for (id, application) in devices.states {
            if table.snapshot(id).is_none_or(|snapshot| snapshot.application.is_none()) {
                table.set_application(id, application, now);
            }
        }
        registry
    }
}

async fn load_networks(database: &Database, live: &Live) -> Result<usize, sqlx::Error> {
    let query = sqlx::query_as("SELECT network_id, key, organisation, public FROM network ORDER BY n");
    let rows: Vec<(i64, Vec<u8>, i64, bool)> = query.fetch_all(&mut database.loader().await?).await?;
    let (count, mut hidden) = (rows.len(), 0);
    for (network_id, key, organisation, public) in rows {
        let (network_id, key) = (key_id(network_id)?, Zeroizing::new(key));
        if live.configured.networks.contains(&network_id) {
            hidden += 1;
        } else {
            let info = NetworkInfo::new(to_number(organisation)?, public);
            live.keys.set_network_of(network_id, RootKey::new(to_32(&key)?), info);
        }
    }
    warn_of_hidden(hidden, "networks");
    Ok(count)
}

/// See [`Loaded::afresh`].
async fn find_afresh(database: &Database, ids: &[DeviceId]) -> Result<Vec<DeviceId>, sqlx::Error> {
    let (mut connection, mut found) = (database.loader().await?, Vec::new());
    for ids in ids.chunks(CHUNK) {
        let mut query = Query::new("SELECT device_id FROM device WHERE afresh AND device_id IN ");
        push_list(&mut query, ids.iter().map(|id| from_device_id(*id)));
        let rows: Vec<i64> = query.build_query_scalar().fetch_all(&mut connection).await?;
        found.extend(rows.into_iter().map(to_device_id));
    }
    Ok(found)
}

/// Says of how many records the configuration file has another key, or the same.
pub(super) fn warn_of_hidden(count: u64, kind: &str) {
    if count > 0 {
        tracing::warn!(
            count,
            kind,
            "the registry has keys of what is in the configuration file too, whose keys are in force"
        );
    }
}

/// The second key of a device, if it has one.
pub(super) fn second_key(public: Option<&[u8]>, root: Option<&[u8]>) -> Result<Option<SecondKey>, sqlx::Error> {
    let Some((public, root)) = public.zip(root) else { return Ok(None) };
    Ok(Some(SecondKey { public: to_32(public)?, root: RootKey::new(to_32(root)?) }))
}

/// What a device runs, by what was said of its state; only whole.
pub(super) fn application(state: &NewDeviceState) -> Option<Application> {
    let version = state.application_version?;
    let version =
        Version { major: version.major, minor: version.minor, revision: version.revision, build: version.build_num };
    Some(Application { id: state.application_id?, version })
}

/// Makes the root keys of devices anew if the gateway's key pair is another one than before: a root key is shared by the
/// gateway and the device. What is done is written down batch by batch, and a start that was broken off is gone on with.
async fn follow_public_key(database: &Database, live: &Live) -> Result<(), sqlx::Error> {
    let present = live.cloud_keys.public();
    let stored = sqlx::query_scalar("SELECT value FROM setting WHERE name = $1").bind(PUBLIC_KEY);
    let stored: Option<Vec<u8>> = stored.fetch_optional(&mut database.loader().await?).await?;
    if stored.as_ref().is_some_and(|stored| stored[..] == present) {
        return Ok(());
    }
    let mut last = stored.as_ref().and_then(|stored| done_up_to(stored, &present)).unwrap_or(0);
    let devices = sqlx::query_scalar(
        "SELECT count(*) FROM device WHERE (key_public IS NOT NULL OR second_public IS NOT NULL) AND n > $1",
    )
    .bind(last);
    let devices: i64 = devices.fetch_one(&mut database.loader().await?).await?;
    if stored.is_some() {
        tracing::warn!(
            devices,
            "the gateway's key pair is another one than before; root keys of devices are made anew, some 10 000 a second"
        );
    }
    loop {
        let mut change = database.change().await?;
        let batch = renew(&mut change, live, last).await?;
        let value = batch.map_or_else(|| present.to_vec(), |last| [&present[..], &last.to_le_bytes()].concat());
        let set =
            "INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(set).bind(PUBLIC_KEY).bind(value).execute(&mut *change).await?;
        change.finish(|| ()).await?;
        match batch {
            Some(end) => last = end,
            None => return Ok(()),
        }
    }
}

/// Makes the root keys of the next devices after number `last` anew; the number of the last of them, if there are any.
async fn renew(connection: &mut Connection, live: &Live, last: i64) -> Result<Option<i64>, sqlx::Error> {
    let query = "SELECT n, key_public, second_public FROM device \
                 WHERE (key_public IS NOT NULL OR second_public IS NOT NULL) AND n > $1 ORDER BY n LIMIT $2";
    let query = sqlx::query_as(query).bind(last).bind(BATCH);
    let rows: Vec<PublicKeys> = query.fetch_all(&mut *connection).await?;
    let present = live.cloud_keys.public();
    // None for keys that are never stored.
    let root = |public| live.cloud_keys.shared_root(public).map(|root| root.bytes().to_vec());
    for (n, public, second) in &rows {
        if let Some(public) = public.as_deref().map(to_32).transpose()? {
            sqlx::query("UPDATE device SET key_root = $1, key_id = $2 WHERE n = $3")
                .bind(root(public))
                .bind(i64::from(device_key_id(&present, &public).get()))
                .bind(n)
                .execute(&mut *connection)
                .await?;
        }
        if let Some(public) = second.as_deref().map(to_32).transpose()? {
            let update = sqlx::query("UPDATE device SET second_root = $1 WHERE n = $2").bind(root(public)).bind(n);
            update.execute(&mut *connection).await?;
        }
    }
    Ok(rows.last().map(|(n, ..)| *n))
}

/// Up to which device the root keys are of the `present` public key, if the setting says that they are made anew for that:
/// the number follows the key. Of the key before, nothing is known then.
fn done_up_to(stored: &[u8], present: &[u8; 32]) -> Option<i64> {
    Some(i64::from_le_bytes(stored.strip_prefix(present)?.try_into().ok()?))
}

/// The greatest record id of all.
async fn greatest_id(database: &Database) -> Result<Option<Uuid>, sqlx::Error> {
    let mut greatest = None;
    for query in [
        "SELECT id FROM organisation ORDER BY id DESC LIMIT 1",
        "SELECT id FROM board ORDER BY id DESC LIMIT 1",
        "SELECT id FROM network ORDER BY id DESC LIMIT 1",
        "SELECT id FROM device ORDER BY id DESC LIMIT 1",
        "SELECT id FROM api_key ORDER BY id DESC LIMIT 1",
        "SELECT id FROM message ORDER BY id DESC LIMIT 1",
    ] {
        let found: Option<Uuid> = sqlx::query_scalar(query).fetch_optional(&mut database.loader().await?).await?;
        greatest = greatest.max(found);
    }
    Ok(greatest)
}

#[cfg(test)]
mod tests {
    use super::super::Configured;
    use super::super::testing::{BARE, Site, Stored, live, opens_device};
    use super::*;
    use crate::auth::Refusal;
    use crate::auth::keys::{DeviceKey, KeyPair};
    use crate::id::{DeviceId, KeyId};

    const STATE: &str = r#"{"applicationId":5,"applicationVersion":{"major":1,"minor":2,"revision":3,"buildNum":4}}"#;
    const KEY_ID: KeyId = KeyId::from_le_bytes([1, 2, 3]);
    /// One whose first bit is set.
    const DEVICE: DeviceId = DeviceId(0xd291_d4d6_6bf0_a955);

    async fn with_device(stored: Stored) -> Site {
        let site = Site::new().await;
        let (_, acme) = (site.organisation("first").await, site.organisation("acme").await);
        let board = site.board(&acme, "board", false).await;
        site.device(&board, DEVICE, stored).await;
        site
    }

    #[tokio::test]
    async fn devices_are_in_force_from_the_start() {
        let stored = Stored { state: STATE, root: Some([5; 32]), key_id: Some(KEY_ID), ..BARE };
        let site = with_device(stored).await.restart(live(1, Configured::default()), 0).await;
        let registration = site.live.table.registration(DEVICE).unwrap();
        assert_eq!((registration.organisation, registration.record), (2, 1));
        let application = site.live.table.snapshot(DEVICE).unwrap().application.unwrap();
        assert_eq!((application.id, application.version.to_string().as_str()), (5, "1.2.3+00000004"));
        assert_eq!(opens_device(&site.live, DEVICE, KEY_ID, &RootKey::new([5; 32])), Ok(()));
        assert_eq!(opens_device(&site.live, DEVICE, KEY_ID, &RootKey::new([6; 32])), Err(Refusal::BadTag));
    }

    #[tokio::test]
    async fn a_device_without_key_and_state_is_registered_and_no_more() {
        let site = with_device(BARE).await.restart(live(1, Configured::default()), 0).await;
        assert!(site.live.table.registered_since(DEVICE).is_some());
        assert_eq!(site.live.table.snapshot(DEVICE), None);
        assert!(!site.live.keys.has_device(DEVICE));
    }

    #[tokio::test]
    async fn a_key_in_the_configuration_wins() {
        let site = with_device(Stored { root: Some([5; 32]), ..BARE }).await;
        let live = live(1, Configured { devices: [DEVICE].into(), ..Configured::default() });
        let key = DeviceKey { key_id: None, root: RootKey::new([50; 32]) };
        live.keys.set_device(DEVICE, key, None);
        let site = site.restart(live, 0).await;
        assert_eq!(opens_device(&site.live, DEVICE, KEY_ID, &RootKey::new([50; 32])), Ok(()));
        assert_eq!(site.live.table.registration(DEVICE).unwrap().organisation, 2);
    }

    #[tokio::test]
    async fn another_key_pair_of_the_gateway_makes_the_root_keys_of_public_keys_anew_and_leaves_the_others() {
        let device = KeyPair::from_private([40; 32]);
        let gateways = [1, 2].map(|private| KeyPair::from_private([private; 32]));
        let [old, new] = gateways.map(|gateway| {
            (device_key_id(&gateway.public(), &device.public()), device.shared_root(gateway.public()).unwrap())
        });
        let (public, root) = (Some(device.public()), Some(*old.1.bytes()));
        let site = with_device(Stored { public, root, key_id: Some(old.0), ..BARE }).await;
        let board = site.registry.boards(
            site.registry.organisation_named("acme").await.unwrap().unwrap().id,
            false,
            Default::default(),
            super::super::testing::ALL,
        );
        let board = board.await.unwrap().remove(0);
        site.device(&board, DeviceId(2), Stored { root: Some([5; 32]), ..BARE }).await;

        let site = site.restart(live(1, Configured::default()), 0).await;
        assert_eq!(opens_device(&site.live, DEVICE, old.0, &old.1), Ok(()));
        let site = site.restart(live(2, Configured::default()), 0).await;
        // And it lasts.
        let site = site.restart(live(2, Configured::default()), 0).await;
        assert_eq!(opens_device(&site.live, DEVICE, new.0, &new.1), Ok(()));
        assert_eq!(
            opens_device(&site.live, DEVICE, old.0, &old.1),
            Err(Refusal::UnknownKey { device_id: DEVICE, key_id: old.0 })
        );
        assert_eq!(opens_device(&site.live, DeviceId(2), KEY_ID, &RootKey::new([5; 32])), Ok(()));
    }

    #[tokio::test]
    async fn a_change_of_the_key_pair_that_was_broken_off_is_gone_on_with_or_begun_again() {
        let device = KeyPair::from_private([40; 32]);
        let [old, new] = [1, 2].map(|private| KeyPair::from_private([private; 32]));
        let key_id = |gateway: &KeyPair| device_key_id(&gateway.public(), &device.public());
        let stored = Stored { public: Some(device.public()), root: Some([9; 32]), key_id: Some(key_id(&old)), ..BARE };
        let site = with_device(stored).await;
        // As if the first device had its key of the new pair, and there were one more.
        let begun = [&new.public()[..], &1_i64.to_le_bytes()].concat();
        let mut change = site.registry.database.change().await.unwrap();
        sqlx::query("UPDATE setting SET value = $1").bind(begun).execute(&mut *change).await.unwrap();
        change.commit(|| ()).await.unwrap();
        let site = site.restart(live(2, Configured::default()), 0).await;
        assert_eq!(opens_device(&site.live, DEVICE, key_id(&old), &RootKey::new([9; 32])), Ok(()), "not again");

        let mut change = site.registry.database.change().await.unwrap();
        let begun = [&new.public()[..], &1_i64.to_le_bytes()].concat();
        sqlx::query("UPDATE setting SET value = $1").bind(begun).execute(&mut *change).await.unwrap();
        change.commit(|| ()).await.unwrap();
        let site = site.restart(live(1, Configured::default()), 0).await;
        let root = device.shared_root(old.public()).unwrap();
        assert_eq!(opens_device(&site.live, DEVICE, key_id(&old), &root), Ok(()), "back to the key before");
    }

    #[tokio::test]
    async fn what_nothing_here_has_written_is_damage_and_no_value_of_it_is_told() {
        let site = with_device(Stored { root: Some([171; 32]), state: "secret", ..BARE }).await;
        site.registry.close().await;
        let opened = Registry::open(site.directory.path(), live(1, Configured::default()), Clock::default()).await;
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("registry.sqlite3 is damaged") && error.contains("JSON"), "{error}");
        assert!(!error.contains("secret") && !error.contains("171"), "{error}");
    }

    #[tokio::test]
    async fn a_file_of_which_a_part_is_overwritten_is_damage() {
        let site = with_device(BARE).await;
        site.registry.close().await;
        let path = site.directory.path().join("registry.sqlite3");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4096..].fill(0x55);
        std::fs::write(&path, &bytes).unwrap();
        let opened = Registry::open(site.directory.path(), live(1, Configured::default()), Clock::default()).await;
        let error = opened.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{} is damaged: database disk image is malformed", path.display())),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
