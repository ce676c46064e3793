//! Root keys, the keys derived from them, and the ring that holds them. No `Debug` here prints a key byte.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::derive::Salt;
use crate::clock::Timestamp;
use crate::devices::{Devices, Place};
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

/// The key of one root, interface and day. The default is none, but zeros.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct DayKey([u8; 32]);

/// A day, with what the keys of all roots on it have in common already worked out.
#[derive(Clone, Debug)]
pub(super) struct Day {
    number: u32,
    salt: Salt,
}

impl Day {
    /// The day with this number, as in [`Header::rotation`](crate::wire::frame::Header::rotation).
    pub(super) fn new(number: u32) -> Self {
        Self { number, salt: Salt::new(&number.to_le_bytes()) }
    }

    /// Its number.
    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// The key of `root` on this day (docs/protocol.md, keys).
    pub(super) fn key(&self, root: &RootKey, interface: Interface) -> DayKey {
        DayKey(self.salt.derive(&root.0, interface.info()))
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
        Day::new(day).key(self, interface)
    }

    /// HKDF-SHA256 of this key, 32 bytes.
    pub fn derive(&self, salt: &[u8], info: &[u8]) -> [u8; 32] {
        Salt::new(salt).derive(&self.0, info)
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
        self.all().find(known).or_else(|| self.all().find(open)).map(|key| &key.root)
    }

    /// Those of no device.
    const fn wiped() -> Self {
        let primary = DeviceKey { key_id: None, root: RootKey([0; 32]) };
        Self { primary, secondary: None, kept: None }
    }

    fn all(&self) -> impl Iterator<Item = &DeviceKey> {
        std::iter::once(&self.primary).chain(self.secondary.as_deref())
    }

    pub(super) fn kept_day_key(&self, key_id: KeyId, day: u32) -> Option<&DayKey> {
        self.kept.as_ref().filter(|(id, kept_day, _)| (*id, *kept_day) == (key_id, day)).map(|(_, _, key)| key)
    }
}

/// Who may speak under the key of a network (rule R8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Whose it is: the number of an organisation in the registry.
    pub organisation: u32,
    /// Devices of any organisation may.
    pub public: bool,
    /// A short name for it, given by the ring: see [`KeyRing::network_numbered`]. 0 before, and for networks beyond the
    /// 65 535th.
    pub number: u16,
}

impl NetworkInfo {
    /// Of a network that the configuration names, which belongs to no organisation.
    pub const CONFIGURED: Self = Self::new(0, true);

    /// Of a network of this organisation.
    pub const fn new(organisation: u32, public: bool) -> Self {
        Self { organisation, public, number: 0 }
    }
}

/// The networks of a ring.
#[derive(Debug, Default)]
struct Networks {
    keys: HashMap<KeyId, (RootKey, NetworkInfo), foldhash::fast::RandomState>,
    /// Numbers once given, also those of networks that were removed. At most 65 535.
    numbers: HashMap<KeyId, u16, foldhash::fast::RandomState>,
    /// Network 1 first.
    numbered: Vec<KeyId>,
}

impl Networks {
    fn number(&mut self, id: KeyId) -> u16 {
        if let Some(number) = self.numbers.get(&id) {
            return *number;
        }
        let Ok(number) = u16::try_from(self.numbered.len() + 1) else { return 0 };
        self.numbered.push(id);
        self.numbers.insert(id, number);
        number
    }
}

/// All keys the gateway holds. Shared by the ingest threads; changes are in force for the next frame.
#[derive(Debug)]
pub struct KeyRing {
    networks: RwLock<Networks>,
    devices: Devices<DeviceKeys>,
    /// Changes when a network's key is set or a key is replaced or removed, so that caches know to forget. Not with a
    /// device's first key: no cache knows anything of a device that has none, and fleets come in while packets do.
    generation: AtomicU64,
    /// Second in the upper half, frames of unusual days in it in the lower.
    unusual_days: AtomicU64,
}

/// Shards of the keys of devices: as many as the table has, since making the index of one anew stalls packets.
const SHARDS: usize = 1024;

impl Default for KeyRing {
    fn default() -> Self {
        Self {
            networks: RwLock::default(),
            devices: Devices::new(SHARDS),
            generation: AtomicU64::default(),
            unusual_days: AtomicU64::default(),
        }
    }
}

impl KeyRing {
    /// Adds or replaces the root key of a network that the configuration names.
    pub fn set_network(&self, id: KeyId, root: RootKey) {
        self.set_network_of(id, root, NetworkInfo::CONFIGURED);
    }

    /// Adds or replaces the root key of a network, and who may speak under it.
    pub fn set_network_of(&self, id: KeyId, root: RootKey, info: NetworkInfo) {
        let mut networks = self.networks.write().unwrap_or_else(PoisonError::into_inner);
        let number = networks.number(id);
        networks.keys.insert(id, (root, NetworkInfo { number, ..info }));
        drop(networks);
        self.changed();
    }

    /// Who may speak under the key of a network.
    pub fn network(&self, id: KeyId) -> Option<NetworkInfo> {
        self.networks().keys.get(&id).map(|(_, info)| *info)
    }

    /// Tells of which networks the key is known. As long as this lasts, none is added or removed.
    pub(crate) fn known_networks(&self) -> impl Fn(KeyId) -> bool {
        let networks = self.networks();
        move |id| networks.keys.contains_key(&id)
    }

    /// The network with this number: they are numbered from 1 on in the order in which they are first set, and keep their
    /// number until the process ends, removed or not.
    pub fn network_numbered(&self, number: u16) -> Option<KeyId> {
        let index = usize::from(number).checked_sub(1)?;
        self.networks().numbered.get(index).copied()
    }

    /// The number of a network, which it gets by this if it was never set: a record that names it may be there before its key.
    pub fn number_network(&self, id: KeyId) -> u16 {
        let known = self.networks().numbers.get(&id).copied();
        known.unwrap_or_else(|| self.networks.write().unwrap_or_else(PoisonError::into_inner).number(id))
    }

    /// Removes the root key of a network.
    pub fn remove_network(&self, id: KeyId) {
        self.networks.write().unwrap_or_else(PoisonError::into_inner).keys.remove(&id);
        self.changed();
    }

    /// Adds or replaces the keys of a device.
    pub fn set_device(&self, id: DeviceId, primary: DeviceKey, secondary: Option<DeviceKey>) {
        let keys = DeviceKeys { primary, secondary: secondary.map(Box::new), kept: None };
        let mut place = self.devices.lock(id);
        match place.find_mut() {
            None => _ = place.insert(keys),
            Some(present) => {
                *present = keys;
                // Under the lock, so that `keep_day_key` sees the new keys and the new generation together.
                self.changed();
            }
        }
    }

    /// Fetches the keys of a batch of devices into the caches, for [`Self::set_device`].
    pub fn prefetch(&self, ids: &[DeviceId]) {
        self.devices.prefetch(ids);
    }

    /// As [`Self::prefetch`], to open frames with. The ids may be claims that nobody has proved: those of devices without keys are
    /// taken out, as far as that can be told without waiting.
    pub(crate) fn prefetch_present(&self, ids: &mut Vec<DeviceId>) {
        self.devices.prefetch_present(ids);
    }

    /// Forgets the keys of a device.
    pub fn remove_device(&self, id: DeviceId) {
        let mut place = self.devices.lock(id);
        if let Some(present) = place.find_mut() {
            // Wiped where they are: what is taken out would be a copy.
            *present = DeviceKeys::wiped();
            place.remove();
            // Under the lock here too: the device may be back, with another key, at once.
            self.changed();
        }
    }

    /// Whether a device key is known for the device.
    pub fn has_device(&self, id: DeviceId) -> bool {
        self.devices.has(id)
    }

    /// Whether this is one of the root keys of the device.
    pub fn has_root(&self, device: DeviceId, root: &RootKey) -> bool {
        self.devices.lock(device).find().is_some_and(|keys| keys.all().any(|key| key.root.bytes() == root.bytes()))
    }

    /// Whether a device is known to have a key with this id.
    pub fn is_known_key_id(&self, device: DeviceId, key_id: KeyId) -> bool {
        self.devices.lock(device).find().is_some_and(|keys| keys.all().any(|key| key.key_id == Some(key_id)))
    }

    /// The key id to seal a downlink with at device level: the primary one, else the secondary one. `None` if no key of the
    /// device is known, or no key id: those that are not given are learned from the first frame that opens.
    pub fn downlink_key_id(&self, device: DeviceId) -> Option<KeyId> {
        self.devices.lock(device).find().and_then(|keys| keys.all().find_map(|key| key.key_id))
    }

    fn networks(&self) -> RwLockReadGuard<'_, Networks> {
        self.networks.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn network_root(&self, id: KeyId) -> Option<(RootKey, NetworkInfo)> {
        self.networks().keys.get(&id).cloned()
    }

    /// Where the keys of a device are, locked meanwhile.
    pub(super) fn device(&self, id: DeviceId) -> Place<'_, DeviceKeys> {
        self.devices.lock(id)
    }

    /// Remembers the UDP key of the day, after a frame opened with it; settles a key id that was not known yet. Nothing of
    /// it if a key was changed since `generation`.
    pub(super) fn keep_day_key(&self, device: DeviceId, key_id: KeyId, day: u32, key: DayKey, generation: u64) {
        let mut place = self.devices.lock(device);
        let Some(keys) = place.find_mut().filter(|_| self.generation() == generation) else { return };
        let mut all = std::iter::once(&mut keys.primary).chain(keys.secondary.as_deref_mut());
        if !all.by_ref().any(|key| key.key_id == Some(key_id)) {
            let mut all = std::iter::once(&mut keys.primary).chain(keys.secondary.as_deref_mut());
            // Another frame may have told another id meanwhile: then this one is of no key (rule R12).
            let Some(learned) = all.find(|key| key.key_id.is_none()) else { return };
            learned.key_id = Some(key_id);
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
        let place = ring.device(DeviceId(1));
        let text = format!("{pair:?} {root:?} {:?} {ring:?} {:?}", root.day_key(Interface::Udp, 1), place.find());
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
    fn networks_keep_the_number_they_got_first() {
        let ring = KeyRing::default();
        let (one, two) = (KeyId::from_le_bytes([9, 0, 0]), KeyId::from_le_bytes([1, 0, 0]));
        let number = |id| ring.network(id).map(|info| info.number);
        ring.set_network(one, RootKey::new([1; 32]));
        ring.set_network_of(two, RootKey::new([2; 32]), NetworkInfo::new(5, false));
        ring.set_network(one, RootKey::new([3; 32]));
        assert_eq!((number(one), number(two)), (Some(1), Some(2)));
        ring.remove_network(one);
        assert_eq!((number(one), ring.network_numbered(1)), (None, Some(one)));
        ring.set_network(one, RootKey::new([1; 32]));
        assert_eq!(number(one), Some(1));
        assert_eq!([0, 2, 3].map(|number| ring.network_numbered(number)), [None, Some(two), None]);
    }

    #[test]
    fn networks_beyond_the_65_535th_have_no_number() {
        let ring = KeyRing::default();
        for id in 1..=65_537 {
            ring.set_network(KeyId::new(id).unwrap(), RootKey::new([1; 32]));
        }
        let number = |id| ring.network(KeyId::new(id).unwrap()).unwrap().number;
        assert_eq!([1, 65_535, 65_536, 65_537].map(number), [1, 65_535, 0, 0]);
    }

    #[test]
    fn a_downlink_is_sealed_with_the_first_key_whose_id_is_known() {
        let ring = KeyRing::default();
        let key = |key_id| DeviceKey { key_id, root: RootKey::new([1; 32]) };
        let [one, two] = [7, 8].map(KeyId::new);
        let device = DeviceId(1);
        assert_eq!((ring.downlink_key_id(device), ring.is_known_key_id(device, one.unwrap())), (None, false));
        for (primary, secondary, expected) in [
            (None, None, None),
            (one, None, one),
            (one, Some(two), one),
            (None, Some(two), two),
            (None, Some(None), None),
        ] {
            ring.set_device(device, key(primary), secondary.map(key));
            assert_eq!(ring.downlink_key_id(device), expected);
            let known = [one, two].map(|id| ring.is_known_key_id(device, id.unwrap()));
            assert_eq!(known, [primary == one, secondary.flatten() == two], "{primary:?} {secondary:?}");
        }
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
