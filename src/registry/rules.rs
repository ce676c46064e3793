//! What must hold of a device before it is stored, as far as it can be told without looking at other devices.

use std::ops::RangeInclusive;

use uuid::Uuid;

use super::bounds;
use super::error::RegistryError;
use crate::auth::keys::{DeviceKey, KeyPair, RootKey, device_key_id};
use crate::records::{
    GivenKey, McuId, Metadata, MetadataField, MetadataOperation, MetadataUpdate, NewDevice, NewDeviceState,
};

/// Bytes of a metadata value.
const VALUE: RangeInclusive<usize> = 0..=4096;

/// Bytes of all names and values in metadata: a page of devices has all of theirs.
const METADATA: usize = 16 * 1024;

/// Digits of an MCU id.
const MCU_ID: RangeInclusive<usize> = 2..=McuId::MAX_LEN;

/// Algorithms in a state: firmware runs a few beside the application.
const MAX_ALGORITHMS: usize = 256;

/// What a board wants of its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BoardRules {
    /// Its number.
    pub(super) n: i64,
    /// Its record.
    pub(super) id: Uuid,
    /// The number of its owner.
    pub(super) organisation: i64,
    /// Whether devices of other organisations may be of it.
    pub(super) public: bool,
    /// Its system on chip.
    pub(super) soc: String,
    /// Its metadata fields.
    pub(super) fields: Vec<MetadataField>,
}

impl BoardRules {
    /// Checks a device of `organisation` with `metadata`, but not whether its values are taken.
    ///
    /// # Errors
    /// The board is another organisation's and not public, or a field that it requires is missing.
    pub(super) fn check(&self, organisation: i64, metadata: &Metadata) -> Result<(), RegistryError> {
        if !self.public && self.organisation != organisation {
            return Err(no_board(self.id));
        }
        match self.fields.iter().find(|field| field.required && !metadata.contains_key(&field.name)) {
            Some(field) => Err(rule(format!("metadata {:?} is missing, which the board requires", field.name))),
            None => Ok(()),
        }
    }

    /// Whether no two devices of the board may have the same value of this field.
    pub(super) fn is_unique(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.unique && field.name == name)
    }
}

/// The key of a device as it is stored.
#[derive(Clone, Debug)]
pub(super) struct GivenDeviceKey {
    /// What it was made of, if that was a public key.
    pub(super) public: Option<[u8; 32]>,
    /// What opens the frames of the device.
    pub(super) key: DeviceKey,
    /// The key of this gateway, where the first one is of another cloud.
    pub(super) second: Option<SecondKey>,
}

/// A key that the firmware of a device has beside that of another cloud: made of its public key and this gateway's.
#[derive(Clone, Debug)]
pub(super) struct SecondKey {
    /// The device's public key.
    pub(super) public: [u8; 32],
    /// What was made of it.
    pub(super) root: RootKey,
}

impl SecondKey {
    /// As the packet path has it.
    pub(super) fn device_key(&self, cloud_keys: &KeyPair) -> DeviceKey {
        DeviceKey { key_id: Some(device_key_id(&cloud_keys.public(), &self.public)), root: self.root.clone() }
    }
}

impl GivenDeviceKey {
    /// The key that is given, if one is; of a public key the root takes about 80 us. The key id that belongs to a root key
    /// is learned from the first frame that opens. Beside a root key, the public key makes the second one.
    ///
    /// # Errors
    /// The public key makes a root that everybody knows.
    pub(super) fn of(given: &GivenKey, cloud_keys: &KeyPair) -> Result<Option<Self>, RegistryError> {
        let shared =
            given.device_public_key.as_ref().map(|public| shared_root(*public.bytes(), cloud_keys)).transpose()?;
        let Some(root) = &given.device_root_key else {
            return Ok(shared.map(|SecondKey { public, root }| {
                let key_id = Some(device_key_id(&cloud_keys.public(), &public));
                Self { public: Some(public), key: DeviceKey { key_id, root }, second: None }
            }));
        };
        let key = DeviceKey { key_id: None, root: RootKey::new(*root.bytes()) };
        Ok(Some(Self { public: None, key, second: shared }))
    }

    /// As the packet path has them: the key and the second one.
    pub(super) fn in_force(&self, cloud_keys: &KeyPair) -> (DeviceKey, Option<DeviceKey>) {
        (self.key.clone(), self.second.as_ref().map(|second| second.device_key(cloud_keys)))
    }
}

/// What this gateway and the owner of a public key share.
fn shared_root(public: [u8; 32], cloud_keys: &KeyPair) -> Result<SecondKey, RegistryError> {
    let weak = "devicePublicKey is one of the few that make the shared key a constant; make the device another";
    let root = cloud_keys.shared_root(public).ok_or_else(|| rule(weak))?;
    Ok(SecondKey { public, root })
}

/// The keys that the request for a new device gives.
pub(super) fn given_key(new: &NewDevice) -> GivenKey {
    GivenKey { device_public_key: new.device_public_key.clone(), device_root_key: new.device_root_key.clone() }
}

/// Checks the bounds of a new device.
///
/// # Errors
/// The MCU id is too long, metadata or a state is too large, or a text has a NUL.
pub(super) fn check_bounds(new: &NewDevice) -> Result<(), RegistryError> {
    bounds::check("mcuId", new.mcu_id.as_str(), MCU_ID)?;
    check_metadata(&new.metadata)?;
    new.initial_device_state.as_ref().map_or(Ok(()), check_state)
}

/// Checks the bounds of metadata.
///
/// # Errors
/// There is too much of it, or a text has a NUL.
pub(super) fn check_metadata(metadata: &Metadata) -> Result<(), RegistryError> {
    if metadata.len() > bounds::FIELDS {
        let most = bounds::FIELDS;
        return Err(rule(format!("metadata has {} fields; it may have up to {most}", metadata.len())));
    }
    for (name, value) in metadata {
        bounds::check("a name in metadata", name, bounds::NAME)?;
        bounds::check(&format!("metadata {name:?}"), value, VALUE)?;
    }
    let len: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if len > METADATA {
        return Err(rule(format!("metadata has {len} bytes in its names and values; it may have up to {METADATA}")));
    }
    Ok(())
}

/// Checks the bounds of a state.
///
/// # Errors
/// There are too many algorithms.
pub(super) fn check_state(state: &NewDeviceState) -> Result<(), RegistryError> {
    match state.algorithms.as_ref().map(Vec::len) {
        Some(len) if len > MAX_ALGORITHMS => {
            Err(rule(format!("algorithms has {len} entries; it may have up to {MAX_ALGORITHMS}")))
        }
        _ => Ok(()),
    }
}

/// What becomes of `metadata`.
pub(super) fn updated(metadata: &Metadata, update: &MetadataUpdate) -> Metadata {
    let mut updated = match update.operation {
        MetadataOperation::Patch => metadata.clone(),
        MetadataOperation::Replace => Metadata::new(),
    };
    updated.extend(update.value.clone());
    updated
}

/// A board that is not there, or is none of the device's organisation: who may not know of it is not told which.
pub(super) fn no_board(id: Uuid) -> RegistryError {
    rule(format!("boardId: there is no board {id}, or it is private to another organisation"))
}

/// A rule that is broken, in a sentence.
pub(super) fn rule(text: impl Into<String>) -> RegistryError {
    RegistryError::Rule(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Algorithm, Key32};

    fn board(public: bool) -> BoardRules {
        let field = |name: &str, required, unique| MetadataField { name: name.to_owned(), required, unique };
        let fields = vec![field("serial", true, true), field("colour", false, false)];
        BoardRules { n: 1, id: Uuid::nil(), organisation: 1, public, soc: "nRF9151".to_owned(), fields }
    }

    fn metadata(pairs: &[(&str, &str)]) -> Metadata {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn said<T>(result: Result<T, RegistryError>) -> String {
        result.err().unwrap().to_string()
    }

    #[test]
    fn a_device_sits_on_a_board_of_its_organisation_or_on_a_public_one() {
        let serial = metadata(&[("serial", "1")]);
        assert_eq!([board(false).check(1, &serial), board(true).check(2, &serial)], [Ok(()), Ok(())]);
        assert_eq!(
            said(board(false).check(2, &serial)),
            "boardId: there is no board 00000000-0000-0000-0000-000000000000, or it is private to another organisation"
        );
    }

    #[test]
    fn a_required_field_is_there_and_names_that_the_board_does_not_list_are_allowed() {
        assert_eq!(board(false).check(1, &metadata(&[("serial", ""), ("site", "north")])), Ok(()));
        assert_eq!(
            said(board(false).check(1, &metadata(&[("colour", "red")]))),
            "metadata \"serial\" is missing, which the board requires"
        );
        assert!(board(false).is_unique("serial") && !board(false).is_unique("colour") && !board(false).is_unique("x"));
    }

    #[test]
    fn metadata_is_bounded_and_has_no_nul() {
        let many: Metadata = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(said(check_metadata(&many)), "metadata has 65 fields; it may have up to 64");
        assert_eq!(check_metadata(&many.into_iter().skip(1).collect()), Ok(()));
        let full: Metadata = (0..4).map(|n| (n.to_string(), "x".repeat(4095))).collect();
        assert_eq!(check_metadata(&full), Ok(()));
        let over = full.into_iter().chain([("4".to_owned(), String::new())]).collect();
        assert_eq!(
            said(check_metadata(&over)),
            "metadata has 16385 bytes in its names and values; it may have up to 16384"
        );
        let long = "x".repeat(4097);
        for (name, value, expected) in [
            ("", "", "a name in metadata has 0 bytes; it may have 1 to 255"),
            ("serial", &long, "metadata \"serial\" has 4097 bytes; it may have 0 to 4096"),
            ("serial", "1\0", "metadata \"serial\" has a NUL in it; leave that out"),
            ("a\0", "1", "a name in metadata has a NUL in it; leave that out"),
        ] {
            assert_eq!(said(check_metadata(&metadata(&[(name, value)]))), expected);
        }
    }

    #[test]
    fn a_state_has_so_many_algorithms() {
        let state =
            |len| NewDeviceState { algorithms: Some(vec![Algorithm { id: 1, version: 1 }; len]), ..Default::default() };
        assert_eq!(check_state(&state(256)), Ok(()));
        assert_eq!(said(check_state(&state(257))), "algorithms has 257 entries; it may have up to 256");
    }

    #[test]
    fn a_patch_keeps_what_is_not_given_and_a_replacement_does_not() {
        let old = metadata(&[("a", "1"), ("b", "2")]);
        let update =
            |operation| updated(&old, &MetadataUpdate { operation, value: metadata(&[("b", "3"), ("c", "4")]) });
        assert_eq!(update(MetadataOperation::Patch), metadata(&[("a", "1"), ("b", "3"), ("c", "4")]));
        assert_eq!(update(MetadataOperation::Replace), metadata(&[("b", "3"), ("c", "4")]));
    }

    #[test]
    fn a_public_key_makes_the_root_that_the_device_makes_too_and_a_root_key_is_taken_as_it_is() {
        let (cloud, device) = (KeyPair::from_private([7; 32]), KeyPair::from_private([9; 32]));
        let given = GivenKey { device_public_key: Some(Key32::new(device.public())), device_root_key: None };
        let key = GivenDeviceKey::of(&given, &cloud).unwrap().unwrap();
        assert_eq!(key.public, Some(device.public()));
        assert_eq!(key.key.root.bytes(), device.shared_root(cloud.public()).unwrap().bytes());
        assert_eq!(key.key.key_id, Some(device_key_id(&cloud.public(), &device.public())));
        let given = GivenKey { device_public_key: None, device_root_key: Some(Key32::new([3; 32])) };
        let key = GivenDeviceKey::of(&given, &cloud).unwrap().unwrap();
        assert_eq!((key.public, key.key.key_id, key.key.root.bytes()), (None, None, &[3; 32]));
        assert!(key.second.is_none() && GivenDeviceKey::of(&GivenKey::default(), &cloud).unwrap().is_none());
    }

    #[test]
    fn beside_a_root_key_the_public_key_makes_the_second_one() {
        let (cloud, device) = (KeyPair::from_private([7; 32]), KeyPair::from_private([9; 32]));
        let (public, root) = (Key32::new(device.public()), Key32::new([3; 32]));
        let given = GivenKey { device_public_key: Some(public), device_root_key: Some(root) };
        let key = GivenDeviceKey::of(&given, &cloud).unwrap().unwrap();
        assert_eq!((key.public, key.key.key_id, key.key.root.bytes()), (None, None, &[3; 32]));
        let second = key.second.unwrap();
        assert_eq!(second.public, device.public());
        let second = second.device_key(&cloud);
        assert_eq!(second.root.bytes(), device.shared_root(cloud.public()).unwrap().bytes());
        assert_eq!(second.key_id, Some(device_key_id(&cloud.public(), &device.public())));
    }

    #[test]
    fn a_public_key_of_small_order_is_refused() {
        let cloud = KeyPair::from_private([7; 32]);
        let weak = GivenKey { device_public_key: Some(Key32::new([0; 32])), device_root_key: None };
        let both = GivenKey { device_root_key: Some(Key32::new([1; 32])), ..weak.clone() };
        for given in [weak, both] {
            assert!(said(GivenDeviceKey::of(&given, &cloud)).contains("make the device another"));
        }
    }
}
