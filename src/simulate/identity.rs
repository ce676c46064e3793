//! Who a simulated device is: its id and keys, made from a seed and an index so that they can be made again.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::auth::keys::{KeyPair, RootKey, device_key_id};
use crate::id::{DeviceId, KeyId};

/// The cloud public key that stock firmware is built with (docs/protocol.md, keys). Simulated devices hold it where no
/// gateway's key is given; nobody but its owner can then read their device-level packets.
pub const STOCK_CLOUD_PUBLIC: [u8; 32] = [
    0xca, 0x66, 0x32, 0xab, 0x03, 0x81, 0x72, 0xb6, 0xef, 0x6a, 0x05, 0x40, 0xd0, 0x8b, 0xc7, 0x2e, 0x9c, 0xce, 0x29,
    0x36, 0x68, 0xdf, 0xa8, 0x7c, 0xd5, 0x1d, 0x64, 0x74, 0x1c, 0x53, 0xe0, 0x0a,
];

/// The upper 16 bits of every simulated device id.
const ID_PREFIX: u64 = 0x51a0;

/// One simulated device. `Debug` prints no key byte.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `51a0`, then the seed in 4 digits and the index in 8: device 7 of seed 1 is `51a0000100000007`.
    pub id: DeviceId,
    /// The device's own key pair.
    pub keys: KeyPair,
    /// The root key it shares with the cloud.
    pub root: RootKey,
    /// The key id its device-level frames carry.
    pub key_id: KeyId,
}

impl Identity {
    /// Device `index` of the fleet `seed`, whose firmware holds `cloud_public`. Takes about 0.1 ms.
    ///
    /// The keys follow from the seed alone, so anybody can make them: they protect nothing. `None` for the few public
    /// keys that make every shared secret a constant.
    pub fn new(seed: u16, index: u32, cloud_public: &[u8; 32]) -> Option<Self> {
        Self::of(device_id(seed, index), cloud_public)
    }

    /// The simulated device `id`, as [`Self::new`] makes it.
    pub fn of(id: DeviceId, cloud_public: &[u8; 32]) -> Option<Self> {
        let keys = key_pair(id);
        let root = keys.shared_root(*cloud_public)?;
        let key_id = device_key_id(cloud_public, &keys.public());
        Some(Self { id, keys, root, key_id })
    }
}

/// The id of device `index` of the fleet `seed`. Costs nothing, unlike the keys.
pub const fn device_id(seed: u16, index: u32) -> DeviceId {
    DeviceId(ID_PREFIX << 48 | (seed as u64) << 32 | index as u64)
}

/// The index of a device of the fleet `seed`; `None` for the id of any other.
pub(super) const fn device_index(seed: u16, id: DeviceId) -> Option<u32> {
    let index = id.0 as u32;
    if device_id(seed, index).0 == id.0 { Some(index) } else { None }
}

/// [`Identity::key_id`] of the simulated device `id`, for half the time.
pub(super) fn key_id(id: DeviceId, cloud_public: &[u8; 32]) -> KeyId {
    device_key_id(cloud_public, &key_pair(id).public())
}

fn key_pair(id: DeviceId) -> KeyPair {
    let fleet = RootKey::new(*b"lastroute simulate: not a secret");
    KeyPair::from_private(fleet.derive(&id.0.to_le_bytes(), b"device"))
}

/// The `[[network]]` block that lets a gateway open the packets of network `id`. Without `key_file` only the factory
/// network has a key.
///
/// # Errors
/// A `key_file` whose path is no text.
pub fn network_block(id: KeyId, name: &str, key_file: Option<&Path>) -> Result<String, toml::ser::Error> {
    let name = toml::Value::try_from(name)?;
    let mut text = format!("[[network]]\nid = \"{id}\"\nname = {name}\n");
    if let Some(key_file) = key_file {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "key-file = {}", toml::Value::try_from(key_file)?);
    }
    Ok(text)
}

/// The `[[device]]` blocks that let a gateway open the device-level packets of these devices.
pub fn device_blocks<'a>(identities: impl IntoIterator<Item = &'a Identity>) -> String {
    let mut text = String::new();
    for Identity { id, keys, .. } in identities {
        let public = STANDARD.encode(keys.public());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n[[device]]\nid = \"{id}\"\npublic-key = \"{public}\"");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud() -> KeyPair {
        KeyPair::from_private([0x11; 32])
    }

    #[test]
    fn seed_and_index_make_the_same_device_again_and_no_other() {
        let device = |seed, index| Identity::new(seed, index, &cloud().public()).unwrap();
        let (first, again) = (device(1, 7), device(1, 7));
        assert_eq!(first.id.to_string(), "51a0000100000007");
        assert_eq!((first.id, first.keys.public(), first.key_id), (again.id, again.keys.public(), again.key_id));
        for other in [device(1, 8), device(2, 7)] {
            assert!(first.id != other.id && first.keys.public() != other.keys.public());
        }
        assert_eq!(key_id(first.id, &cloud().public()), first.key_id);
    }

    #[test]
    fn an_id_tells_its_index_to_its_own_fleet_only() {
        let id = device_id(1, u32::MAX);
        assert_eq!((device_index(1, id), device_index(2, id)), (Some(u32::MAX), None));
        assert_eq!(device_index(0, DeviceId(7)), None);
    }

    #[test]
    fn the_cloud_makes_the_same_root_key_from_the_public_half() {
        let device = Identity::new(1, 7, &cloud().public()).unwrap();
        let at_cloud = cloud().shared_root(device.keys.public()).unwrap();
        assert_eq!(device.root.derive(b"salt", b"info"), at_cloud.derive(b"salt", b"info"));
    }

    #[test]
    fn a_cloud_key_of_small_order_makes_no_device() {
        assert!(Identity::new(1, 7, &[0; 32]).is_none());
    }

    #[test]
    fn the_configuration_text_is_toml_with_the_public_key_in_base64() {
        let devices: Vec<_> = (0..2).map(|index| Identity::new(3, index, &cloud().public()).unwrap()).collect();
        let network = KeyId::new(0xa17).unwrap();
        let text = network_block(network, "a \"quoted\" name", Some(Path::new("keys/a17.key"))).unwrap()
            + &device_blocks(&devices);
        let parsed: toml::Table = text.parse().unwrap();
        let network = &parsed["network"][0];
        assert_eq!(network["id"].as_str(), Some("0x000a17"));
        assert_eq!(network["name"].as_str(), Some("a \"quoted\" name"));
        assert_eq!(network["key-file"].as_str(), Some("keys/a17.key"));
        for (index, device) in devices.iter().enumerate() {
            let block = &parsed["device"][index];
            assert_eq!(block["id"].as_str(), Some(device.id.to_string().as_str()));
            let public = STANDARD.decode(block["public-key"].as_str().unwrap()).unwrap();
            assert_eq!(public, device.keys.public());
        }
    }
}
