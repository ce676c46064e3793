//! Root keys, the keys derived from them, and the ring that holds them. No `Debug` here prints a key byte.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use ring::hkdf;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::wire::container::RouteInterface;

/// Frames of unusual days admitted to key derivation in any one second, in all (rule R0).
pub const UNUSUAL_DAYS_PER_SECOND: u64 = 1000;

/// The network that every device belongs to when it leaves the factory.
pub const FACTORY_NETWORK: KeyId = KeyId::from_le_bytes([0; 3]);

/// The key of [`FACTORY_NETWORK`], which every device holds when it leaves the factory. It is public.
pub const FACTORY_NETWORK_KEY: [u8; 32] = {
    let mut key = [0; 32];
    let mut at = 0;
    while at < 32 {
        key[at] = at as u8;
        at += 1;
    }
    key
};

/// The interface a frame was sealed for; part of the key derivation (docs/protocol.md, keys).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// UDP.
    Udp,
    /// Bluetooth advertising.
    BtAdv,
    /// Bluetooth GATT, and frames that are forwarded.
    BtGatt,
}

impl Interface {
    /// What a frame that a relay heard on `interface` was sealed for. A relay hears others over Bluetooth only
    /// (docs/protocol.md, containers).
    pub const fn heard_on(interface: RouteInterface) -> Option<Self> {
        match interface {
            RouteInterface::BtAdv => Some(Self::BtAdv),
            RouteInterface::BtPeripheral | RouteInterface::BtCentral => Some(Self::BtGatt),
            _ => None,
        }
    }

    const fn info(self) -> &'static [u8] {
        match self {
            Self::Udp => b"udp",
            Self::BtAdv => b"bt_adv",
            Self::BtGatt => b"bt_gatt",
        }
    }
}

/// 32 secret bytes from which the keys of every day and interface are derived.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RootKey([u8; 32]);

/// The key of one root, interface and day.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DayKey([u8; 32]);

/// HKDF output length for `ring`.
struct Len32;

impl hkdf::KeyType for Len32 {
    fn len(&self) -> usize {
        32
    }
}

impl RootKey {
    /// Takes 32 secret bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for who keeps them.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// HKDF-SHA256 with the day as salt and the interface as info (docs/protocol.md, keys).
    pub fn day_key(&self, interface: Interface, day: u32) -> DayKey {
        DayKey(self.derive(&day.to_le_bytes(), interface.info()))
    }

    /// HKDF-SHA256 of this key, 32 bytes.
    pub fn derive(&self, salt: &[u8], info: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        #[allow(clippy::expect_used, reason = "32 bytes is one block, far below the limit of 255")]
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(&self.0)
            .expand(&[info], Len32)
            .and_then(|okm| okm.fill(&mut out))
            .expect("32 bytes");
        out
    }
}

impl DayKey {
    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for DayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An X25519 key pair: the gateway's own, or a simulated device's.
#[derive(Clone)]
pub struct KeyPair {
    secret: StaticSecret,
    public: PublicKey,
}

impl KeyPair {
    /// From the 32 private bytes.
    pub fn from_private(bytes: [u8; 32]) -> Self {
        let secret = StaticSecret::from(bytes);
        let public = PublicKey::from(&secret);
        Self { secret, public }
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.public.to_bytes()
    }

    /// The private half.
    pub fn private(&self) -> &[u8; 32] {
        self.secret.as_bytes()
    }

    /// The secret shared with the owner of `public`: a device root key. About 80 us, so never on anything
    /// unauthenticated. `None` for the few public keys that make it a constant.
    pub fn shared_root(&self, public: [u8; 32]) -> Option<RootKey> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(public));
        shared.was_contributory().then(|| RootKey::new(shared.to_bytes()))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The key id of a device whose firmware holds `cloud_public` (docs/protocol.md, keys).
pub fn device_key_id(cloud_public: &[u8; 32], device_public: &[u8; 32]) -> KeyId {
    let mut crc = crc32fast::Hasher::new();
    crc.update(cloud_public);
    crc.update(device_public);
    let [a, b, c, _] = crc.finalize().to_le_bytes();
    KeyId::from_le_bytes([a, b, c])
}

/// A root key of one device.
#[derive(Clone, Debug)]
pub struct DeviceKey {
    /// The key id its frames carry. `None`: not known yet, learned from the first frame that opens.
    pub key_id: Option<KeyId>,
    /// The root key.
    pub root: RootKey,
}

/// The keys of one device.
#[derive(Debug)]
pub struct DeviceKeys {
    primary: DeviceKey,
    secondary: Option<Box<DeviceKey>>,
    /// The UDP key of the day and key id last used.
    kept: Option<(KeyId, u32, DayKey)>,
}

impl DeviceKeys {
    /// The root key that frames with `key_id` are sealed under.
    pub fn root(&self, key_id: KeyId) -> Option<&RootKey> {
        let known = |key: &&DeviceKey| key.key_id == Some(key_id);
        let open = |key: &&DeviceKey| key.key_id.is_none();
        let keys = || std::iter::once(&self.primary).chain(self.secondary.as_deref());
        keys().find(known).or_else(|| keys().find(open)).map(|key| &key.root)
    }

    pub(super) fn kept_day_key(&self, key_id: KeyId, day: u32) -> Option<DayKey> {
        self.kept.as_ref().filter(|(id, kept_day, _)| (*id, *kept_day) == (key_id, day)).map(|(_, _, key)| key.clone())
    }
}

/// Who may speak under the key of a network (rule R8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Whose it is: the number of an organisation in the registry.
    pub organisation: u32,
    /// Devices of any organisation may.
    pub public: bool,
}

impl NetworkInfo {
    /// Of a network that the configuration names, which belongs to no organisation.
    pub const CONFIGURED: Self = Self { organisation: 0, public: true };
}

/// All keys the gateway holds. Shared by the ingest threads; changes are in force for the next frame.
#[derive(Debug, Default)]
pub struct KeyRing {
    networks: RwLock<std::collections::HashMap<KeyId, (RootKey, NetworkInfo), foldhash::fast::RandomState>>,
    devices: DashMap<DeviceId, DeviceKeys, foldhash::fast::RandomState>,
    /// Changes when a network's key is set or a key is replaced or removed, so that caches know to forget. Not with a
    /// device's first key: no cache knows anything of a device that has none, and fleets come in while packets do.
    generation: AtomicU64,
    /// Second in the upper half, frames of unusual days in it in the lower.
    unusual_days: AtomicU64,
}

impl KeyRing {
    /// Adds or replaces the root key of a network that the configuration names.
    pub fn set_network(&self, id: KeyId, root: RootKey) {
        self.set_network_of(id, root, NetworkInfo::CONFIGURED);
    }

    /// Adds or replaces the root key of a network, and who may speak under it.
    pub fn set_network_of(&self, id: KeyId, root: RootKey, info: NetworkInfo) {
        self.networks.write().unwrap_or_else(PoisonError::into_inner).insert(id, (root, info));
        self.changed();
    }

    /// Who may speak under the key of a network.
    pub fn network(&self, id: KeyId) -> Option<NetworkInfo> {
        let networks = self.networks.read().unwrap_or_else(PoisonError::into_inner);
        networks.get(&id).map(|(_, info)| *info)
    }

    /// Removes the root key of a network.
    pub fn remove_network(&self, id: KeyId) {
        self.networks.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.changed();
    }

    /// Adds or replaces the keys of a device.
    pub fn set_device(&self, id: DeviceId, primary: DeviceKey, secondary: Option<DeviceKey>) {
        let keys = DeviceKeys { primary, secondary: secondary.map(Box::new), kept: None };
        match self.devices.entry(id) {
            Entry::Vacant(vacant) => drop(vacant.insert(keys)),
            Entry::Occupied(mut occupied) => {
                occupied.insert(keys);
                // Under the lock, so that `keep_day_key` sees the new keys and the new generation together.
                self.changed();
            }
        }
    }

    /// Forgets the keys of a device.
    pub fn remove_device(&self, id: DeviceId) {
        // Under the lock here too: the device may be back, with another key, at once.
        self.devices.remove_if(&id, |_, _| {
            self.changed();
            true
        });
    }

    /// Whether a device key is known for the device.
    pub fn has_device(&self, id: DeviceId) -> bool {
        self.devices.contains_key(&id)
    }

    pub(super) fn network_day_key(&self, id: KeyId, interface: Interface, day: u32) -> Option<(DayKey, NetworkInfo)> {
        let networks = self.networks.read().unwrap_or_else(PoisonError::into_inner);
        networks.get(&id).map(|(root, info)| (root.day_key(interface, day), *info))
    }

    pub(super) fn device(&self, id: DeviceId) -> Option<dashmap::mapref::one::Ref<'_, DeviceId, DeviceKeys>> {
        self.devices.get(&id)
    }

    /// Remembers the UDP key of the day, after a frame opened with it; settles a key id that was not known yet. Nothing of
    /// it if a key was changed since `generation`.
    pub(super) fn keep_day_key(&self, device: DeviceId, key_id: KeyId, day: u32, key: DayKey, generation: u64) {
        let Some(mut keys) = self.devices.get_mut(&device) else { return };
        if self.generation() != generation {
            return;
        }
        let keys = &mut *keys;
        let mut all = std::iter::once(&mut keys.primary).chain(keys.secondary.as_deref_mut());
        if !all.by_ref().any(|key| key.key_id == Some(key_id)) {
            let mut all = std::iter::once(&mut keys.primary).chain(keys.secondary.as_deref_mut());
            if let Some(learned) = all.find(|key| key.key_id.is_none()) {
                learned.key_id = Some(key_id);
            }
        }
        keys.kept = Some((key_id, day, key));
    }

    /// Takes one of the places for frames of unusual days in the second of `now`; false when they are used up.
    pub(super) fn admit_unusual_day(&self, now: Timestamp) -> bool {
        let second = (now.0 / 1000) << 32;
        let take = |state: u64| {
            let used = if state & !0xffff_ffff == second { state & 0xffff_ffff } else { 0 };
            (used < UNUSUAL_DAYS_PER_SECOND).then_some(second | (used + 1))
        };
        self.unusual_days.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_prints_a_key() {
        let pair = KeyPair::from_private([0xab; 32]);
        let root = RootKey::new([0xab; 32]);
        let ring = KeyRing::default();
        ring.set_network(KeyId::from_le_bytes([1, 0, 0]), root.clone());
        ring.set_device(DeviceId(1), DeviceKey { key_id: None, root: root.clone() }, None);
        let text = format!("{pair:?} {root:?} {:?} {ring:?}", root.day_key(Interface::Udp, 1));
        assert!(!text.contains("171") && !text.contains("ab, ab") && text.contains("***"), "{text}");
    }

    #[test]
    fn caches_forget_when_a_device_key_is_replaced_or_removed_but_not_for_a_new_one() {
        let ring = KeyRing::default();
        let key = |root: u8| DeviceKey { key_id: None, root: RootKey::new([root; 32]) };
        ring.set_network(KeyId::from_le_bytes([1, 0, 0]), RootKey::new([1; 32]));
        let before = ring.generation();
        ring.set_device(DeviceId(1), key(1), None);
        ring.set_device(DeviceId(2), key(1), None);
        ring.remove_device(DeviceId(3));
        assert_eq!(ring.generation(), before);
        ring.set_device(DeviceId(1), key(2), None);
        assert_eq!(ring.generation(), before + 1);
        ring.remove_device(DeviceId(1));
        assert_eq!(ring.generation(), before + 2);
    }

    #[test]
    fn a_public_key_of_small_order_is_refused() {
        assert!(KeyPair::from_private([7; 32]).shared_root([0; 32]).is_none());
    }

    #[test]
    fn the_limit_of_unusual_days_starts_afresh_each_second() {
        let ring = KeyRing::default();
        for second in [5, 6] {
            let now = Timestamp::from_unix_seconds(second);
            assert!((0..UNUSUAL_DAYS_PER_SECOND).all(|_| ring.admit_unusual_day(now)));
            assert!(!ring.admit_unusual_day(now));
        }
    }
}
