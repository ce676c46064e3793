//! The keys of a device: where each came from, what the device says of them, and which takes the place of which (rule R12).

use sqlx::Row;

use super::database::{Engine, from_device_id, to_32, to_time, unreadable};
use super::networks::key_id;
use super::open::second_key;
use super::rules::SecondKey;
use super::{Registry, RegistryError};
use crate::auth::keys::{RootKey, device_key_id};
use crate::id::{DeviceId, KeyId};
use crate::records::McuId;
use crate::status::Time;

/// What becomes of a key that was learned when the device proves another one, and of a first one whose hardware is not the
/// registered one. One that would take the place of another, with hardware that is not the registered one, waits in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyChange {
    /// It is in force at once.
    #[default]
    Accept,
    /// It waits until somebody confirms it.
    Hold,
}

/// Where the key of a device came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The configuration file, which wins over what the registry has.
    Configured,
    /// Its root key was given.
    RootKey,
    /// Its public key was given.
    PublicKey,
    /// The device proved it.
    Learned,
}

/// What a device answered to the question for its keys (docs/protocol.md, security_state).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityState {
    /// When the answer arrived.
    pub at: Time,
    /// The public key of the cloud that the firmware was built for.
    pub cloud_public: [u8; 32],
    /// The public key of the device.
    pub device_public: [u8; 32],
    /// The network it is in.
    pub network_id: u32,
    /// What it was asked with.
    pub challenge: [u8; 16],
    /// The kind of the response: 0 is the encrypted hardware id.
    pub response_type: u8,
    /// The response to the challenge, nonce first.
    pub response: Box<[u8]>,
    /// What the opened response says of the hardware; `None` if it could not be checked.
    pub hardware_id: Option<[u8; 16]>,
}

impl SecurityState {
    /// Whether the device says the same of itself in both.
    pub(super) fn names_same_keys(&self, other: &Self) -> bool {
        (self.cloud_public, self.device_public, self.network_id)
            == (other.cloud_public, other.device_public, other.network_id)
    }
}

/// Why a key waits for confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldReason {
    /// It is another one than the one that was learned before.
    Changed,
    /// It is another one than the one that was given.
    Given,
    /// The hardware that proved it is not the registered one.
    Hardware,
}

/// What came of the proved answer of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOutcome {
    /// No such device is registered, or what opened the answer is not its key any more. Nothing was kept.
    Unknown,
    /// The key is known.
    Unchanged {
        /// The hardware is not the registered one.
        other_hardware: bool,
    },
    /// The first key, or the first for this gateway, is known now and in force.
    Learned {
        /// The hardware is not the registered one.
        other_hardware: bool,
    },
    /// Another key was learned before; the new one, of the registered hardware, is in force.
    Replaced,
    /// It waits for confirmation. What was in force still is.
    Held {
        /// Why: [`HeldReason::Changed`] or [`HeldReason::Hardware`].
        reason: HeldReason,
        /// False if this very key waits already.
        is_new: bool,
    },
    /// The key in force was given, and stays. The other one waits, in case somebody confirms it.
    Pinned {
        /// Where the key in force came from.
        by: KeySource,
        /// The key id of the other one.
        key_id: KeyId,
        /// False if this very key waits already.
        is_new: bool,
    },
}

/// A key that waits for confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldKey {
    /// The device's public key.
    pub device_public: [u8; 32],
    /// The key id of its frames.
    pub key_id: KeyId,
    /// Why it waits.
    pub reason: HeldReason,
    /// Since when.
    pub since: Time,
    /// The hardware that proved it.
    pub hardware_id: [u8; 16],
}

/// One of the keys of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// Where it came from.
    pub source: KeySource,
    /// The device's public key, if the root was made of one.
    pub device_public: Option<[u8; 32]>,
    /// The key id of its frames; `None`: the first frame that opens tells.
    pub key_id: Option<KeyId>,
}

/// What is known of the keys of a device. No secret is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceKeyState {
    /// Its key; `None`: none is known. Of [`KeySource::Configured`] the registry knows no more.
    pub primary: Option<KnownKey>,
    /// The key of this gateway, where the first one is of another cloud.
    pub secondary: Option<KnownKey>,
    /// What waits for confirmation.
    pub held: Option<HeldKey>,
    /// Its last answer.
    pub security: Option<SecurityState>,
    /// Whether the hardware of its last answer is the registered one, in whichever order of bytes; `None`: it has not told.
    pub hardware_fits: Option<bool>,
}

/// What is stored of the keys of a device.
#[derive(Debug)]
pub(super) struct StoredKeys {
    pub(super) n: i64,
    pub(super) mcu_id: McuId,
    pub(super) public: Option<[u8; 32]>,
    pub(super) root: Option<RootKey>,
    pub(super) key_id: Option<KeyId>,
    pub(super) is_learned: bool,
    pub(super) second: Option<SecondKey>,
    pub(super) is_second_learned: bool,
}

impl StoredKeys {
    /// Where its key came from.
    pub(super) fn source(&self) -> KeySource {
        match self.public {
            _ if self.is_learned => KeySource::Learned,
            Some(_) => KeySource::PublicKey,
            None => KeySource::RootKey,
        }
    }

    /// Where its second key came from.
    pub(super) fn second_source(&self) -> KeySource {
        if self.is_second_learned { KeySource::Learned } else { KeySource::PublicKey }
    }

    /// The keys of the device with this id, if it is registered.
    pub(super) async fn find(
        executor: impl sqlx::Executor<'_, Database = Engine>,
        device: DeviceId,
    ) -> Result<Option<Self>, sqlx::Error> {
        let query = "SELECT n, mcu_id, key_public, key_root, key_id, key_learned, second_public, second_root, second_learned \
                     FROM device WHERE device_id = $1";
        let row = sqlx::query(query).bind(from_device_id(device)).fetch_optional(executor).await?;
        row.map(|row| Self::read(&row)).transpose()
    }

    fn read(row: &<Engine as sqlx::Database>::Row) -> Result<Self, sqlx::Error> {
        let mcu_id: &str = row.try_get(1)?;
        let (public, root): (Option<&[u8]>, Option<&[u8]>) = (row.try_get(2)?, row.try_get(3)?);
        let id: Option<i64> = row.try_get(4)?;
        Ok(Self {
            n: row.try_get(0)?,
            mcu_id: mcu_id.parse().map_err(|_| unreadable("an MCU id that is none"))?,
            public: public.map(to_32).transpose()?,
            root: root.map(to_32).transpose()?.map(RootKey::new),
            key_id: id.map(key_id).transpose()?,
            is_learned: row.try_get(5)?,
            second: second_key(row.try_get(6)?, row.try_get(7)?)?,
            is_second_learned: row.try_get(8)?,
        })
    }
}

impl Registry {
    /// What is known of the keys of a device; `None` if it is not registered.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn device_key(&self, device: DeviceId) -> Result<Option<DeviceKeyState>, RegistryError> {
        let mut reader = self.database.reader().await?;
        let Some(stored) = self.database.read(StoredKeys::find(&mut reader, device)).await? else { return Ok(None) };
        let security = self.database.read(security_state(&mut reader, stored.n)).await?;
        let held = self.database.read(held_key(&mut reader, stored.n)).await?;
        let our_key_id = |public: &[u8; 32]| device_key_id(&self.live.cloud_keys.public(), public);
        let hardware = security.as_ref().and_then(|state| state.hardware_id);
        let (mut primary, mut secondary) = known(&stored, our_key_id);
        if self.live.configured.devices.contains(&device) {
            primary = Some(KnownKey { source: KeySource::Configured, device_public: None, key_id: None });
            secondary = None;
        }
        Ok(Some(DeviceKeyState {
            primary,
            secondary,
            held: held.map(|held| held.shown(our_key_id)),
            hardware_fits: hardware.map(|hardware| hardware_fits(&stored.mcu_id, &hardware)),
            security,
        }))
    }

    /// The root key that was given for a device, which an answer that names another cloud is checked with; `None` if none was.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn given_root_key(&self, device: DeviceId) -> Result<Option<RootKey>, RegistryError> {
        let mut reader = self.database.reader().await?;
        let stored = self.database.read(StoredKeys::find(&mut reader, device)).await?;
        Ok(stored.filter(|stored| stored.source() == KeySource::RootKey).and_then(|stored| stored.root))
    }
}

/// The first and the second key, as far as they may be told.
fn known(stored: &StoredKeys, our_key_id: impl Fn(&[u8; 32]) -> KeyId) -> (Option<KnownKey>, Option<KnownKey>) {
    let primary = stored.root.as_ref().map(|_| KnownKey {
        source: stored.source(),
        device_public: stored.public,
        key_id: stored.key_id,
    });
    let secondary = stored.second.as_ref().map(|second| KnownKey {
        source: stored.second_source(),
        device_public: Some(second.public),
        key_id: Some(our_key_id(&second.public)),
    });
    (primary, secondary)
}

/// A key that waits, as it is stored.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) device_public: [u8; 32],
    pub(super) is_second: bool,
    reason: HeldReason,
    since: Time,
    hardware_id: [u8; 16],
}

impl Held {
    pub(super) fn shown(self, our_key_id: impl Fn(&[u8; 32]) -> KeyId) -> HeldKey {
        let Self { device_public, reason, since, hardware_id, .. } = self;
        HeldKey { device_public, key_id: our_key_id(&device_public), reason, since, hardware_id }
    }
}

/// The key of the device with this number that waits, if one does.
pub(super) async fn held_key(
    executor: impl sqlx::Executor<'_, Database = Engine>,
    device: i64,
) -> Result<Option<Held>, sqlx::Error> {
    let query = "SELECT device_public, is_second, reason, since, hardware_id FROM held_key WHERE device = $1";
    let row = sqlx::query(query).bind(device).fetch_optional(executor).await?;
    let held = |row: <Engine as sqlx::Database>::Row| {
        Ok(Held {
            device_public: to_32(row.try_get(0)?)?,
            is_second: row.try_get(1)?,
            reason: HeldReason::parse(row.try_get(2)?)?,
            since: Time(to_time(row.try_get(3)?)),
            hardware_id: to_16(row.try_get(4)?)?,
        })
    };
    row.map(held).transpose()
}

/// The last answer of the device with this number, if it gave one.
pub(super) async fn security_state(
    executor: impl sqlx::Executor<'_, Database = Engine>,
    device: i64,
) -> Result<Option<SecurityState>, sqlx::Error> {
    let query = "SELECT answered_at, cloud_public, device_public, network_id, challenge, response_type, response, hardware_id \
                 FROM security_state WHERE device = $1";
    let row = sqlx::query(query).bind(device).fetch_optional(executor).await?;
    let state = |row: <Engine as sqlx::Database>::Row| {
        let number = |column| row.try_get::<i64, _>(column);
        let out_of_range = "a number in an answer of a device that is out of its range";
        let (response, hardware_id): (&[u8], Option<&[u8]>) = (row.try_get(6)?, row.try_get(7)?);
        Ok(SecurityState {
            at: Time(to_time(row.try_get(0)?)),
            cloud_public: to_32(row.try_get(1)?)?,
            device_public: to_32(row.try_get(2)?)?,
            network_id: number(3)?.try_into().map_err(|_| unreadable(out_of_range))?,
            challenge: to_16(row.try_get(4)?)?,
            response_type: number(5)?.try_into().map_err(|_| unreadable(out_of_range))?,
            response: response.into(),
            hardware_id: hardware_id.map(to_16).transpose()?,
        })
    };
    row.map(state).transpose()
}

impl HeldReason {
    /// As it is stored.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Given => "given",
            Self::Hardware => "hardware",
        }
    }

    fn parse(stored: &str) -> Result<Self, sqlx::Error> {
        let known = [Self::Changed, Self::Given, Self::Hardware].into_iter().find(|reason| reason.text() == stored);
        known.ok_or_else(|| unreadable("a reason why a key waits that is none"))
    }
}

fn to_16(stored: &[u8]) -> Result<[u8; 16], sqlx::Error> {
    stored.try_into().map_err(|_| unreadable("16 bytes of an answer of a device that are not 16"))
}

/// Whether the hardware id that a device proves is the registered one. Parts differ in which end they begin with; what is
/// shorter than 16 bytes ends in zeros (docs/protocol.md, security_state).
pub fn hardware_fits(mcu_id: &McuId, hardware_id: &[u8; 16]) -> bool {
    let Ok(mut registered) = hex::decode(mcu_id.as_str()) else { return false };
    let Some((told, rest)) = hardware_id.split_at_checked(registered.len()) else { return false };
    if rest.iter().any(|byte| *byte != 0) {
        return false;
    }
    let same = registered == told;
    registered.reverse();
    same || registered == told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_id_fits_in_either_order_of_bytes_and_padded_with_zeros() {
        let mut told = [0; 16];
        told[..8].copy_from_slice(&[0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        for (registered, fits) in [
            ("0123456789ABCDEF", true),
            ("efcdab8967452301", true),
            ("0123456789abcdee", false),
            ("0123456789abcd", false),
            ("0123456789abcdef00", true),
            ("0123456789abcdef01", false),
            ("0123456789abcdef0000000000000000", true),
            ("0123456789abcdef000000000000000000", false),
        ] {
            assert_eq!(hardware_fits(&registered.parse().unwrap(), &told), fits, "{registered}");
        }
    }
}
