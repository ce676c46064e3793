//! Keys that devices prove: taken, held until somebody confirms them, or only told of, as rule R12 says.

use tokio::task::spawn_blocking;

use super::database::{Change, Connection, from_time};
use super::device_keys::{
    DeviceKeyState, HeldKey, HeldReason, KeyChange, KeyOutcome, KeySource, SecurityState, StoredKeys, hardware_fits,
    held_key, security_state,
};
use super::rules::{SecondKey, rule};
use super::{Conflict, Registry, RegistryError};
use crate::auth::keys::{DeviceKey, RootKey, device_key_id};
use crate::id::{DeviceId, KeyId};

/// What a device has proved.
struct Proved {
    state: SecurityState,
    /// What opened the answer.
    root: RootKey,
    hardware_id: [u8; 16],
    /// Whether the firmware was built for this gateway.
    is_ours: bool,
    /// The key of this gateway; `None` if the public key makes none that is a secret.
    key: Option<SecondKey>,
}

/// The key in the place that a proved one is for.
#[derive(Clone, Copy, Debug)]
enum Present {
    None,
    Same,
    Other { is_given: bool },
}

/// What becomes of a proved key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Take,
    Hold(HeldReason),
}

impl Registry {
    /// Takes what a device has proved: `state` opened under `root`, which is what this gateway and the device's public key make
    /// if `state` names this gateway's public key, and the device's given root key otherwise. Its hardware id is known then.
    ///
    /// # Errors
    /// The database does not take it.
    pub async fn learn_device_key(
        &self,
        device: DeviceId,
        state: SecurityState,
        root: RootKey,
        policy: KeyChange,
    ) -> Result<KeyOutcome, RegistryError> {
        let Some(hardware_id) = state.hardware_id else { return Ok(KeyOutcome::Unknown) };
        let is_ours = state.cloud_public == self.live.cloud_keys.public();
        let ours = SecondKey { public: state.device_public, root: root.clone() };
        let key = if is_ours { Some(ours) } else { self.shared_key(state.device_public).await? };
        let proved = Proved { state, root, hardware_id, is_ours, key };
        let mut change = self.database.begin().await?;
        let Some(stored) = StoredKeys::find(&mut *change, device).await? else { return Ok(KeyOutcome::Unknown) };
        if self.live.configured.devices.contains(&device) {
            return self.compare_configured(change, device, &stored, &proved).await;
        }
        if !is_ours && !proved.is_opened_by(&stored) {
            return Ok(KeyOutcome::Unknown);
        }
        write_state(&mut change, stored.n, &proved.state).await?;
        self.judge(change, device, &stored, &proved, policy).await
    }

    /// Puts the key in force that waits for confirmation, if it is the one that `is_meant`: another may have come in its place
    /// since somebody looked at it. Where it takes the place of a given key it counts as given.
    ///
    /// # Errors
    /// There is no such device, no key waits, another one does ([`Conflict::OtherKey`]), or the configuration file has the
    /// device's key.
    pub async fn confirm_device_key(
        &self,
        device: DeviceId,
        is_meant: impl FnOnce(&HeldKey) -> bool,
    ) -> Result<DeviceKeyState, RegistryError> {
        self.check_key_is_not_configured(device)?;
        let mut change = self.database.begin().await?;
        let missing = |kind| RegistryError::NotFound { kind, id: device.to_string() };
        let stored = StoredKeys::find(&mut *change, device).await?.ok_or_else(|| missing("device"))?;
        let held = held_key(&mut *change, stored.n).await?;
        let held = held.ok_or_else(|| missing("key that waits for confirmation of device"))?;
        let (device_public, is_second) = (held.device_public, held.is_second);
        let shown = held.shown(|public| device_key_id(&self.live.cloud_keys.public(), public));
        if !is_meant(&shown) {
            return Err(Conflict::OtherKey { device, key_id: shown.key_id }.into());
        }
        let weak = || rule("the key that waits makes the shared key a constant now; make the device another");
        let key = self.shared_key(device_public).await?.ok_or_else(weak)?;
        if is_second {
            set_second(&mut change, stored.n, &key, stored.second.is_none() || stored.is_second_learned).await?;
        } else {
            let is_learned = stored.root.is_none() || stored.is_learned;
            set_primary(&mut change, stored.n, &key, self.key_id(&key), is_learned).await?;
        }
        let touch = "UPDATE device SET updated_at = CASE WHEN updated_at < $1 THEN $1 ELSE updated_at END WHERE n = $2";
        sqlx::query(touch).bind(from_time(self.clock.now())).bind(stored.n).execute(&mut *change).await?;
        self.put_in_force(change, device).await?;
        self.device_key(device).await?.ok_or_else(|| missing("device"))
    }

    /// Keeps an answer that could not be checked, in place of one that could not be checked either: what is proved is not
    /// unsettled by what is not. Whether it was kept, which needs the device to be registered too.
    ///
    /// # Errors
    /// The database does not take it.
    pub async fn keep_security_state(&self, device: DeviceId, state: SecurityState) -> Result<bool, RegistryError> {
        let mut change = self.database.begin().await?;
        let Some(stored) = StoredKeys::find(&mut *change, device).await? else { return Ok(false) };
        match security_state(&mut *change, stored.n).await? {
            Some(known) if known.hardware_id.is_some() => return Ok(false),
            // It is asked again and again. Who has the other key needs one answer.
            Some(known) if known.names_same_keys(&state) => return Ok(true),
            _ => {}
        }
        write_state(&mut change, stored.n, &SecurityState { hardware_id: None, ..state }).await?;
        change.commit(|| ()).await?;
        Ok(true)
    }

    /// The key of this gateway and the owner of a public key, made on a thread for what takes long.
    async fn shared_key(&self, public: [u8; 32]) -> Result<Option<SecondKey>, RegistryError> {
        let cloud_keys = self.live.cloud_keys.clone();
        let root = spawn_blocking(move || cloud_keys.shared_root(public)).await;
        let root = root.map_err(|_| RegistryError::Unavailable("make the key of a device"))?;
        Ok(root.map(|root| SecondKey { public, root }))
    }

    /// The key id of frames under a key of this gateway.
    fn key_id(&self, key: &SecondKey) -> KeyId {
        device_key_id(&self.live.cloud_keys.public(), &key.public)
    }

    /// The key in the configuration file stays, whatever is proved.
    async fn compare_configured(
        &self,
        mut change: Change,
        device: DeviceId,
        stored: &StoredKeys,
        proved: &Proved,
    ) -> Result<KeyOutcome, RegistryError> {
        let told = sqlx::query_scalar("SELECT count(*) FROM security_state WHERE device = $1 AND device_public = $2");
        let told = told.bind(stored.n).bind(&proved.state.device_public[..]);
        let told: i64 = told.fetch_one(&mut *change).await?;
        write_state(&mut change, stored.n, &proved.state).await?;
        change.commit(|| ()).await?;
        if self.live.keys.has_root(device, &proved.root) {
            return Ok(KeyOutcome::Unchanged { other_hardware: proved.is_of_other_hardware(stored) });
        }
        Ok(KeyOutcome::Pinned { by: KeySource::Configured, key_id: proved.key_id(), is_new: told == 0 })
    }

    /// Takes, holds or leaves the key.
    async fn judge(
        &self,
        mut change: Change,
        device: DeviceId,
        stored: &StoredKeys,
        proved: &Proved,
        policy: KeyChange,
    ) -> Result<KeyOutcome, RegistryError> {
        let settles = proved.is_opened_by(stored) && stored.key_id != Some(proved.key_id());
        if settles {
            let update = sqlx::query("UPDATE device SET key_id = $1 WHERE n = $2");
            update.bind(i64::from(proved.key_id().get())).bind(stored.n).execute(&mut *change).await?;
        }
        let other_hardware = proved.is_of_other_hardware(stored);
        let Some(key) = &proved.key else {
            self.finish(change, device, settles).await?;
            return Ok(KeyOutcome::Unchanged { other_hardware });
        };
        let present = proved.present(stored, key);
        let verdict = verdict(present, other_hardware, policy);
        let outcome = match verdict {
            Verdict::Keep => KeyOutcome::Unchanged { other_hardware },
            Verdict::Take => {
                proved.take(&mut change, stored.n, key).await?;
                let is_first = matches!(present, Present::None);
                if is_first { KeyOutcome::Learned { other_hardware } } else { KeyOutcome::Replaced }
            }
            Verdict::Hold(reason) => {
                let is_new = hold(&mut change, stored.n, proved, reason).await?;
                let by = if proved.is_ours { stored.source() } else { stored.second_source() };
                match reason {
                    HeldReason::Given => KeyOutcome::Pinned { by, key_id: self.key_id(key), is_new },
                    HeldReason::Changed | HeldReason::Hardware => KeyOutcome::Held { reason, is_new },
                }
            }
        };
        self.finish(change, device, settles || verdict == Verdict::Take).await?;
        Ok(outcome)
    }

    /// Makes a change last, and puts keys in force if that changed any.
    async fn finish(&self, change: Change, device: DeviceId, changes_keys: bool) -> Result<(), RegistryError> {
        if changes_keys { self.put_in_force(change, device).await } else { change.commit(|| ()).await }
    }

    /// Makes a change of the keys of a device last and tells the packet path of them.
    async fn put_in_force(&self, mut change: Change, device: DeviceId) -> Result<(), RegistryError> {
        let stored = StoredKeys::find(&mut *change, device).await?;
        let (keys, cloud_keys) = (self.live.keys.clone(), self.live.cloud_keys.clone());
        change
            .commit(move || {
                let Some(StoredKeys { root: Some(root), key_id, second, .. }) = stored else { return };
                let second = second.map(|second| second.device_key(&cloud_keys));
                keys.set_device(device, DeviceKey { key_id, root }, second);
            })
            .await
    }
}

impl Proved {
    /// The key id of frames under the first key of the firmware.
    fn key_id(&self) -> KeyId {
        device_key_id(&self.state.cloud_public, &self.state.device_public)
    }

    /// Puts `key` in its place.
    async fn take(&self, connection: &mut Connection, n: i64, key: &SecondKey) -> Result<(), sqlx::Error> {
        if self.is_ours {
            set_primary(connection, n, key, self.key_id(), true).await
        } else {
            set_second(connection, n, key, true).await
        }
    }

    fn is_opened_by(&self, stored: &StoredKeys) -> bool {
        stored.root.as_ref().is_some_and(|root| root.bytes() == self.root.bytes())
    }

    fn is_of_other_hardware(&self, stored: &StoredKeys) -> bool {
        !hardware_fits(&stored.mcu_id, &self.hardware_id)
    }

    /// What is in the place of `key`: the first key of firmware that was built for this gateway, the second of any other.
    fn present(&self, stored: &StoredKeys, key: &SecondKey) -> Present {
        let (known, is_learned) = if self.is_ours {
            (stored.root.as_ref(), stored.is_learned)
        } else {
            (stored.second.as_ref().map(|second| &second.root), stored.is_second_learned)
        };
        match known {
            None => Present::None,
            Some(root) if root.bytes() == key.root.bytes() => Present::Same,
            Some(_) => Present::Other { is_given: !is_learned },
        }
    }
}

/// What becomes of a proved key (rule R12).
const fn verdict(present: Present, other_hardware: bool, policy: KeyChange) -> Verdict {
    let holds = matches!(policy, KeyChange::Hold);
    match present {
        Present::Same => Verdict::Keep,
        Present::Other { is_given: true } => Verdict::Hold(HeldReason::Given),
        // The hardware is what binds a key to the device: anybody in its network could put his in place of it otherwise.
        Present::Other { is_given: false } if other_hardware => Verdict::Hold(HeldReason::Hardware),
        Present::None if holds && other_hardware => Verdict::Hold(HeldReason::Hardware),
        Present::Other { is_given: false } if holds => Verdict::Hold(HeldReason::Changed),
        Present::None | Present::Other { .. } => Verdict::Take,
    }
}

/// Sets the first key of a device to one of this gateway. There is no second one then, and nothing waits any more.
async fn set_primary(
    connection: &mut Connection,
    n: i64,
    key: &SecondKey,
    key_id: KeyId,
    is_learned: bool,
) -> Result<(), sqlx::Error> {
    let update = "UPDATE device SET key_public = $1, key_root = $2, key_id = $3, key_learned = $4, second_public = NULL, \
                  second_root = NULL, second_learned = 0 WHERE n = $5";
    sqlx::query(update)
        .bind(&key.public[..])
        .bind(&key.root.bytes()[..])
        .bind(i64::from(key_id.get()))
        .bind(is_learned)
        .bind(n)
        .execute(&mut *connection)
        .await?;
    drop_held(connection, n).await
}

/// Sets the second key of a device. Nothing waits any more.
async fn set_second(connection: &mut Connection, n: i64, key: &SecondKey, is_learned: bool) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE device SET second_public = $1, second_root = $2, second_learned = $3 WHERE n = $4")
        .bind(&key.public[..])
        .bind(&key.root.bytes()[..])
        .bind(is_learned)
        .bind(n)
        .execute(&mut *connection)
        .await?;
    drop_held(connection, n).await
}

/// Forgets the key of a device that waits.
pub(super) async fn drop_held(connection: &mut Connection, n: i64) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM held_key WHERE device = $1").bind(n).execute(connection).await?;
    Ok(())
}

/// Lets a key wait in place of one that waits; false if this one does already.
async fn hold(connection: &mut Connection, n: i64, proved: &Proved, reason: HeldReason) -> Result<bool, sqlx::Error> {
    let before = held_key(&mut *connection, n).await?;
    let public = proved.state.device_public;
    if before.is_some_and(|held| held.device_public == public && held.is_second != proved.is_ours) {
        return Ok(false);
    }
    drop_held(connection, n).await?;
    let insert = "INSERT INTO held_key (device, device_public, is_second, reason, since, hardware_id) \
                  VALUES ($1, $2, $3, $4, $5, $6)";
    sqlx::query(insert)
        .bind(n)
        .bind(&public[..])
        .bind(i64::from(!proved.is_ours))
        .bind(reason.text())
        .bind(from_time(proved.state.at.0))
        .bind(&proved.hardware_id[..])
        .execute(connection)
        .await?;
    Ok(true)
}

/// Keeps an answer in place of the one before.
async fn write_state(connection: &mut Connection, n: i64, state: &SecurityState) -> Result<(), sqlx::Error> {
    let delete = sqlx::query("DELETE FROM security_state WHERE device = $1").bind(n);
    delete.execute(&mut *connection).await?;
    let insert = "INSERT INTO security_state (device, answered_at, cloud_public, device_public, network_id, challenge, \
                  response_type, response, hardware_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    sqlx::query(insert)
        .bind(n)
        .bind(from_time(state.at.0))
        .bind(&state.cloud_public[..])
        .bind(&state.device_public[..])
        .bind(i64::from(state.network_id))
        .bind(&state.challenge[..])
        .bind(i64::from(state.response_type))
        .bind(&state.response[..])
        .bind(state.hardware_id.as_ref().map(|id| &id[..]))
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_key_stays_a_learned_one_gives_way_to_one_of_the_same_hardware_and_under_hold_what_is_new_or_strange_waits()
     {
        use HeldReason::{Changed, Given, Hardware};
        use KeyChange::{Accept, Hold};
        use Verdict::{Keep, Take};
        let (learned, given) = (Present::Other { is_given: false }, Present::Other { is_given: true });
        for (present, other_hardware, accept, hold) in [
            (Present::None, false, Take, Take),
            (Present::None, true, Take, Verdict::Hold(Hardware)),
            (Present::Same, false, Keep, Keep),
            (Present::Same, true, Keep, Keep),
            (learned, false, Take, Verdict::Hold(Changed)),
            (learned, true, Verdict::Hold(Hardware), Verdict::Hold(Hardware)),
            (given, false, Verdict::Hold(Given), Verdict::Hold(Given)),
            (given, true, Verdict::Hold(Given), Verdict::Hold(Given)),
        ] {
            let case = format!("{present:?} {other_hardware}");
            assert_eq!(verdict(present, other_hardware, Accept), accept, "{case}");
            assert_eq!(verdict(present, other_hardware, Hold), hold, "{case}");
        }
    }
}
