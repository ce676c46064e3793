//! Whom the datagrams of a batch claim to be from, for what is known of those devices to be in the caches before the first one is
//! judged: see `devices`.

use super::RouteTable;
use crate::auth::keys::KeyRing;
use crate::id::{DeviceId, KeyId};
use crate::wire::frame::{Frame, Level};

/// The claims of a batch. They need not be true: then something is fetched in vain.
#[derive(Debug, Default)]
pub struct Claims {
    /// Devices whose records will be asked for.
    devices: Vec<DeviceId>,
    /// Of datagrams that are to be opened by keys of the devices' own.
    keyed: Vec<DeviceId>,
}

impl Claims {
    /// Fetches what judging `datagrams` will ask for: the records of their devices, and the keys where they are to open them. No
    /// records for those that no key will open: a flood of what nobody knows has nothing fetched for it.
    pub fn prefetch<'a>(&mut self, keys: &KeyRing, table: &RouteTable, datagrams: impl Iterator<Item = &'a [u8]>) {
        self.read(datagrams, keys.known_networks());
        keys.prefetch_present(&mut self.keyed);
        self.devices.append(&mut self.keyed);
        table.prefetch(&self.devices);
    }

    fn read<'a>(&mut self, datagrams: impl Iterator<Item = &'a [u8]>, is_known: impl Fn(KeyId) -> bool) {
        self.devices.clear();
        // Mostly it is the same of all.
        let mut known = None;
        for bytes in datagrams {
            let claimed = (Frame::claimed_level(bytes), Frame::claimed_key_id(bytes), Frame::claimed_device(bytes));
            match claimed {
                (Some(Level::Device), _, Some(device)) => self.keyed.push(device),
                (_, Some(network), Some(device)) if known == Some(network) || is_known(network) => {
                    known = Some(network);
                    self.devices.push(device);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::keys::{DeviceKey, RootKey};
    use crate::table::TableConfig;

    const NETWORK: KeyId = KeyId::from_le_bytes([1, 2, 3]);

    /// The beginning of a frame (docs/protocol.md, frames).
    fn datagram(level: Level, key_id: KeyId, device: u8) -> Vec<u8> {
        let mut bytes = vec![0; 38];
        bytes[2] = if level == Level::Device { 0x80 } else { 0 };
        bytes[3..6].copy_from_slice(&key_id.to_le_bytes());
        bytes[10] = device;
        bytes
    }

    #[test]
    fn records_are_fetched_of_those_whose_datagrams_a_key_may_open() {
        let (keys, table) = (KeyRing::default(), RouteTable::new(&TableConfig::default()));
        keys.set_network(NETWORK, RootKey::new([1; 32]));
        keys.set_device(DeviceId(3), DeviceKey { key_id: None, root: RootKey::new([1; 32]) }, None);
        let another = KeyId::from_le_bytes([1, 2, 4]);
        let datagrams = [
            datagram(Level::Network, NETWORK, 1),
            datagram(Level::Network, another, 2),
            datagram(Level::Device, another, 3),
            datagram(Level::Device, NETWORK, 4),
            datagram(Level::Network, NETWORK, 5)[..13].to_vec(),
            Vec::new(),
            datagram(Level::Network, NETWORK, 6),
        ];
        let mut claims = Claims::default();
        for _ in 0..2 {
            claims.prefetch(&keys, &table, datagrams.iter().map(Vec::as_slice));
            assert_eq!(claims.devices, [1, 6, 3].map(DeviceId));
        }
    }
}
