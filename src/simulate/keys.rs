//! Keys that a fleet makes when they are first needed: for a million devices, making all of them first would take minutes,
//! and keeping all of them hundreds of bytes each.

use std::sync::OnceLock;

use super::identity::{self, Identity};
use crate::auth::keys::{DayKey, Interface, KeyPair, RootKey};
use crate::id::{DeviceId, KeyId};

/// Days whose network key is kept: today, the first day of devices without time, and those that a long run sees begin.
/// What comes later is derived for each packet, 0.5 us.
const DAYS: usize = 16;

/// The key of a network, for all devices of a fleet. `Debug` prints no key byte.
#[derive(Clone, Debug)]
pub struct NetworkKeys {
    root: RootKey,
    /// Filled from the front, never emptied: looked up without a lock.
    days: [OnceLock<(u32, DayKey)>; DAYS],
}

impl NetworkKeys {
    /// The keys that follow from the root key of the network.
    pub fn new(root: RootKey) -> Self {
        Self { root, days: Default::default() }
    }

    /// Does `work` with the key of `day`. Only the days of packets that a device seals itself should be kept: those of
    /// what it receives are anybody's claim.
    pub(super) fn with_day<T>(&self, day: u32, keep: bool, work: impl FnOnce(&DayKey) -> T) -> T {
        let derive = || (day, self.root.day_key(Interface::Udp, day));
        for slot in &self.days {
            let kept = match slot.get() {
                None if keep => slot.get_or_init(derive),
                None => break,
                Some(kept) => kept,
            };
            if kept.0 == day {
                return work(&kept.1);
            }
        }
        work(&derive().1)
    }
}

/// A cloud public key that makes a secret with every device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloudKey([u8; 32]);

impl CloudKey {
    /// `None` for the few public keys that make every shared secret a constant.
    pub fn new(public: [u8; 32]) -> Option<Self> {
        // Whether it does depends on the public key alone.
        let any = KeyPair::from_private([1; 32]);
        any.shared_root(public).map(|_| Self(public))
    }

    /// Its 32 bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A device's own keys. Its key id takes one X25519 operation, its root key two, about 0.1 ms.
#[derive(Debug, Default)]
pub(super) struct OwnKeys {
    key_id: Option<KeyId>,
    /// In a box, since few devices of a large fleet speak at device level.
    secrets: Option<Box<Secrets>>,
}

#[derive(Debug)]
struct Secrets {
    root: RootKey,
    /// The key of the day last used.
    day: Option<(u32, DayKey)>,
}

impl OwnKeys {
    /// Keys that do not follow from an id.
    #[cfg(test)]
    pub(super) fn of(key_id: KeyId, root: RootKey) -> Self {
        Self { key_id: Some(key_id), secrets: Some(Box::new(Secrets { root, day: None })) }
    }

    /// The key id of the device's frames at device level.
    pub(super) fn key_id(&mut self, id: DeviceId, cloud: &CloudKey) -> KeyId {
        *self.key_id.get_or_insert_with(|| identity::key_id(id, cloud.bytes()))
    }

    /// Whether the root key was made yet.
    pub(super) fn used(&self) -> bool {
        self.secrets.is_some()
    }

    /// The key of `day`.
    pub(super) fn day(&mut self, id: DeviceId, cloud: &CloudKey, day: u32) -> &DayKey {
        let secrets = self.secrets.get_or_insert_with(|| {
            #[allow(clippy::expect_used, reason = "a CloudKey makes a secret with every device")]
            let Identity { root, .. } = Identity::of(id, cloud.bytes()).expect("a key that protects something");
            Box::new(Secrets { root, day: None })
        });
        let Secrets { root, day: kept } = &mut **secrets;
        if kept.as_ref().is_some_and(|(of, _)| *of != day) {
            *kept = None;
        }
        &kept.get_or_insert_with(|| (day, root.day_key(Interface::Udp, day))).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{open_with, seal_with};
    use crate::wire::frame::{Flags, Frame, Header, Layout, PacketType};

    fn sealed_by(key: &DayKey) -> Vec<u8> {
        let (packet_type, flags, key_id) = (PacketType::TDF, Flags(0), KeyId::from_le_bytes([1, 0, 0]));
        let header =
            Header { packet_type, flags, key_id, device_id: DeviceId(7), gps_time: 9, sequence: 1, entropy: 2 };
        let mut bytes = Vec::new();
        seal_with(key, &header, Layout::Unversioned, b"payload", &mut bytes);
        bytes
    }

    fn opens(key: &DayKey, mut bytes: Vec<u8>) -> bool {
        open_with(key, Frame::parse(&mut bytes, Layout::Unversioned).unwrap()).is_some()
    }

    #[test]
    fn the_key_of_every_day_is_right_however_many_days_there_were() {
        let root = RootKey::new([3; 32]);
        let keys = NetworkKeys::new(root.clone());
        for day in (0..40).chain(0..40) {
            let bytes = sealed_by(&root.day_key(Interface::Udp, day));
            assert!(keys.with_day(day, true, |key| opens(key, bytes)), "day {day}");
        }
    }

    #[test]
    fn a_day_that_is_only_claimed_takes_no_place() {
        let keys = NetworkKeys::new(RootKey::new([3; 32]));
        keys.with_day(1, true, |_| ());
        (2..100).for_each(|day| keys.with_day(day, false, |_| ()));
        assert_eq!(keys.days.iter().filter(|slot| slot.get().is_some()).count(), 1);
    }

    #[test]
    fn own_keys_are_those_of_the_identity_and_made_on_first_use() {
        let public = KeyPair::from_private([0x11; 32]).public();
        let (cloud, identity) = (CloudKey::new(public).unwrap(), Identity::new(1, 7, &public).unwrap());
        let mut keys = OwnKeys::default();
        assert_eq!(keys.key_id(identity.id, &cloud), identity.key_id);
        assert!(!keys.used(), "the key id needs no root key");
        for day in [5, 6, 5] {
            let bytes = sealed_by(&identity.root.day_key(Interface::Udp, day));
            assert!(opens(keys.day(identity.id, &cloud, day), bytes));
        }
        assert!(keys.used());
    }

    #[test]
    fn a_cloud_key_of_small_order_is_none() {
        assert_eq!(CloudKey::new([0; 32]), None);
    }
}
