//! Opening and sealing of frames. [`Verified`] is the proof that a packet is authentic, and only this module makes one.
//!
//! The order of checks is that of docs/protocol.md, keys: level, key id, day, AEAD. Nothing here interprets a payload.

mod derive;
pub mod identity;
pub mod keys;
pub mod nonce;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::clock::{SECONDS_PER_DAY, Timestamp};
use crate::id::{DeviceId, KeyId};
use crate::metrics::Disposition;
use crate::wire::frame::{Frame, Header, Layout, Level};
use keys::{Day, DayKey, Interface, KeyRing, NetworkInfo, RootKey};

/// First and last key day of a device that has no time: its clock starts at 2020-01-01 and it may run for 366 days
/// (rule R3).
const NO_TIME_DAYS: std::ops::RangeInclusive<u32> = 14_605..=14_971;

/// Whether frames of this key day are limited (rule R0): neither today or next to it, nor of a device without time.
pub fn is_unusual_day(day: u32, now: Timestamp) -> bool {
    day.abs_diff(now.gps() / SECONDS_PER_DAY) > 1 && !NO_TIME_DAYS.contains(&day)
}

/// Derived keys one thread remembers. A network needs three (yesterday, today, tomorrow) and one for each day its
/// devices without time have been up. They are kept in the form in which they are used, to which it takes longer to bring one than to find
/// it: 37 KiB in all, of which a frame touches one line.
const CACHED_KEYS: usize = 64;

/// Days one thread remembers: yesterday, today and tomorrow, and one without time. Whoever names others that are at the same places
/// makes the work of a day be done again, and nothing else.
const CACHED_DAYS: usize = 4;

/// An authentic packet: whoever sent it held the key. Made by opening a frame, or on the word of an authentic relay
/// ([`Verified::on_word_of`]), and in no other way.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'a> {
    header: Header,
    level: Level,
    entropy: Option<u16>,
    network: Option<(KeyId, NetworkInfo)>,
    payload: &'a [u8],
}

impl<'a> Verified<'a> {
    /// The authenticated header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// What is proved: membership of the network, or the device itself. For a packet that a relay decrypted, at most the
    /// relay's own level.
    pub const fn level(&self) -> Level {
        self.level
    }

    /// The random part of the nonce; absent in a packet that a relay decrypted.
    pub const fn entropy(&self) -> Option<u16> {
        self.entropy
    }

    /// The network whose key opened it, and who may speak under that; of a packet that a relay decrypted, the network whose
    /// key opened the relay's container. Absent where a device key did.
    pub const fn network(&self) -> Option<(KeyId, NetworkInfo)> {
        self.network
    }

    /// The plaintext.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// A packet that `relay` decrypted and vouches for: its header and payload carry the relay's authority and no more, and
    /// come under the network under which the relay speaks (rule R8).
    pub fn on_word_of(relay: &Verified<'_>, header: Header, payload: &'a [u8]) -> Self {
        Self { header, level: header.level().min(relay.level), entropy: None, network: relay.network, payload }
    }
}

/// Why a frame was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key for this network id.
    #[error("no key for network {0}")]
    UnknownNetwork(KeyId),
    /// No key for this device.
    #[error("no device key for device {0}")]
    UnknownDevice(DeviceId),
    /// The device is known, by other keys: the normal sign of a new key pair.
    #[error("device {device_id} is known, but not by key {key_id}")]
    UnknownKey {
        /// The claimed device.
        device_id: DeviceId,
        /// The key id of the frame.
        key_id: KeyId,
    },
    /// The tag does not fit.
    #[error("authentication failed")]
    BadTag,
    /// Over the limit for frames of unusual days (rule R0).
    #[error("too many frames of unusual days")]
    DayLimited,
}

impl From<Refusal> for Disposition {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownNetwork(_) => Self::UnknownNetwork,
            Refusal::UnknownDevice(_) => Self::UnknownDevice,
            Refusal::UnknownKey { .. } => Self::UnknownKey,
            Refusal::BadTag => Self::BadTag,
            Refusal::DayLimited => Self::DayLimited,
        }
    }
}

/// Opens and seals frames for one thread, with a bounded cache of derived keys.
///
/// A key derived for an uplink enters the cache only after a frame opened with it, so that strangers cannot churn it.
#[derive(Debug)]
pub struct Authenticator {
    cache: Box<[Option<Cached>; CACHED_KEYS]>,
    /// No secrets, so that whoever names a day may have it here. The day with number `n` is at `n % CACHED_DAYS`.
    days: [Option<Day>; CACHED_DAYS],
    generation: u64,
}

#[derive(Debug)]
struct Cached {
    name: KeyName,
    key: LessSafeKey,
    network: Option<NetworkInfo>,
}

impl Drop for Cached {
    /// Wipes the key, which `ring` does not.
    fn drop(&mut self) {
        self.key = aead(&DayKey::default());
        // Without somebody who might look at it, nothing would be written.
        std::hint::black_box(&self.key);
    }
}

/// Whose key of which day and interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeyName {
    owner: Owner,
    interface: Interface,
    day: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Network(KeyId),
    Device(DeviceId, KeyId),
}

impl KeyName {
    fn of(header: &Header, interface: Interface) -> Self {
        let owner = match header.level() {
            Level::Network => Owner::Network(header.key_id),
            Level::Device => Owner::Device(header.device_id, header.key_id),
        };
        Self { owner, interface, day: header.rotation() }
    }

    /// Consecutive days of one key lie in consecutive slots.
    fn slot(&self) -> usize {
        let owner = match self.owner {
            Owner::Network(id) => u64::from(id.get()),
            Owner::Device(device, id) => device.0 ^ u64::from(id.get()),
        };
        let mixed = owner.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (mixed as usize).wrapping_add(self.day as usize).wrapping_add((self.interface as usize) << 4) % CACHED_KEYS
    }
}

impl Default for Authenticator {
    fn default() -> Self {
        Self { cache: Box::new([const { None }; CACHED_KEYS]), days: [const { None }; CACHED_DAYS], generation: 0 }
    }
}

impl Authenticator {
    /// Opens `frame` in place with the key its header names, if `ring` has it.
    ///
    /// `now` selects the days that are not limited: today and its neighbours.
    pub fn open<'a>(
        &mut self,
        ring: &KeyRing,
        mut frame: Frame<'a>,
        interface: Interface,
        now: Timestamp,
    ) -> Result<Verified<'a>, Refusal> {
        self.follow(ring);
        let name = KeyName::of(frame.header(), interface);
        let (payload, network) = match self.cached(&name) {
            Some(cached) => (open_in_place(&cached.key, &mut frame)?, cached.network),
            None => self.open_held(ring, &mut frame, &name, now)?,
        };
        let header = *frame.header();
        let network = network.map(|info| (header.key_id, info));
        Ok(Verified { header, level: header.level(), entropy: Some(header.entropy), network, payload })
    }

    /// Opens a frame whose key is not in the cache: returns what is in it, and who may speak under the network whose key it was.
    // By itself, so that frames whose key is there pay for none of it.
    #[inline(never)]
    fn open_held<'a>(
        &mut self,
        ring: &KeyRing,
        frame: &mut Frame<'a>,
        name: &KeyName,
        now: Timestamp,
    ) -> Result<(&'a [u8], Option<NetworkInfo>), Refusal> {
        match ring.held(name, |key| open_in_place(&aead(key), frame))? {
            Held::Key(opened) => Ok((opened?, None)),
            Held::Root(root, network) => {
                if is_unusual_day(name.day, now) && !ring.admit_unusual_day(now) {
                    return Err(Refusal::DayLimited);
                }
                let key = self.derive(&root, name);
                let payload = open_in_place(&aead(&key), frame)?;
                self.keep(ring, *name, key, network);
                Ok((payload, network))
            }
        }
    }

    /// Appends to `out` the frame of `header` and `plaintext`, sealed with the key the header names.
    ///
    /// The caller answers for the nonce: (device id, gps time, sequence, entropy) must never repeat.
    pub fn seal(
        &mut self,
        ring: &KeyRing,
        header: &Header,
        layout: Layout,
        interface: Interface,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        self.follow(ring);
        let name = KeyName::of(header, interface);
        let mut seal = |key: &LessSafeKey| seal_in_place(key, header, layout, plaintext, out);
        if let Some(cached) = self.cached(&name) {
            seal(&cached.key);
            return Ok(());
        }
        match ring.held(&name, |key| seal(&aead(key)))? {
            Held::Key(()) => {}
            Held::Root(root, network) => {
                let key = self.derive(&root, &name);
                seal(&aead(&key));
                // The one UDP key kept for a device is that of its uplinks, which may be of another day than ours.
                let is_uplinks = matches!((name.owner, interface), (Owner::Device(..), Interface::Udp));
                if !is_uplinks {
                    self.keep(ring, name, key, network);
                }
            }
        }
        Ok(())
    }

    /// Forgets everything when a key was added, replaced or removed.
    fn follow(&mut self, ring: &KeyRing) {
        let generation = ring.generation();
        if self.generation != generation {
            self.cache.fill_with(|| None);
            self.generation = generation;
        }
    }

    fn cached(&self, name: &KeyName) -> Option<&Cached> {
        self.cache[name.slot()].as_ref().filter(|cached| cached.name == *name)
    }

    fn derive(&mut self, root: &RootKey, name: &KeyName) -> DayKey {
        let cached = &mut self.days[name.day as usize % CACHED_DAYS];
        if cached.as_ref().is_some_and(|day| day.number() != name.day) {
            *cached = None;
        }
        cached.get_or_insert_with(|| Day::new(name.day)).key(root, name.interface)
    }

    fn keep(&mut self, ring: &KeyRing, name: KeyName, key: DayKey, network: Option<NetworkInfo>) {
        match (name.owner, name.interface) {
            // There may be millions of these: they are kept beside the device's root key.
            (Owner::Device(device, key_id), Interface::Udp) => {
                ring.keep_day_key(device, key_id, name.day, key, self.generation)
            }
            _ => self.cache[name.slot()] = Some(Cached { name, key: aead(&key), network }),
        }
    }
}

/// What a ring has under the name of a key.
enum Held<T> {
    /// The key itself, of which this was made.
    Key(T),
    /// The root that it is to be derived from, and whose network that is.
    Root(RootKey, Option<NetworkInfo>),
}

impl KeyRing {
    /// `with` is called where there is the key itself, with the keys of its device locked: it is copied nowhere that would have to
    /// be wiped.
    fn held<T>(&self, name: &KeyName, with: impl FnOnce(&DayKey) -> T) -> Result<Held<T>, Refusal> {
        match name.owner {
            Owner::Network(id) => {
                let (root, info) = self.network_root(id).ok_or(Refusal::UnknownNetwork(id))?;
                Ok(Held::Root(root, Some(info)))
            }
            Owner::Device(device_id, key_id) => {
                let place = self.device(device_id);
                let keys = place.find().ok_or(Refusal::UnknownDevice(device_id))?;
                let is_udp = name.interface == Interface::Udp;
                match keys.kept_day_key(key_id, name.day).filter(|_| is_udp) {
                    Some(key) => Ok(Held::Key(with(key))),
                    None => {
                        let root = keys.root(key_id).ok_or(Refusal::UnknownKey { device_id, key_id })?;
                        Ok(Held::Root(root.clone(), None))
                    }
                }
            }
        }
    }
}

/// As [`Authenticator::seal`], with a key at hand: what a device does, so what simulators, tests and benchmarks use.
pub fn seal_with(key: &DayKey, header: &Header, layout: Layout, plaintext: &[u8], out: &mut Vec<u8>) {
    seal_in_place(&aead(key), header, layout, plaintext, out);
}

fn seal_in_place(key: &LessSafeKey, header: &Header, layout: Layout, plaintext: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    header.encode(layout, out);
    let body = out.len();
    out.extend_from_slice(plaintext);
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&out[start + layout.associated_len()..body]);
    let (head, sealed) = out.split_at_mut(body);
    let associated = Aad::from(&head[start..start + layout.associated_len()]);
    let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), associated, sealed);
    #[allow(clippy::expect_used, reason = "ring refuses plaintexts above 256 GiB only")]
    out.extend_from_slice(tag.expect("a plaintext that fits memory").as_ref());
}

/// As [`Authenticator::open`], with a key at hand: what a device does with a downlink. `None` if the tag does not fit.
pub fn open_with<'a>(key: &DayKey, mut frame: Frame<'a>) -> Option<Verified<'a>> {
    let payload = open_in_place(&aead(key), &mut frame).ok()?;
    let header = *frame.header();
    Some(Verified { header, level: header.level(), entropy: Some(header.entropy), network: None, payload })
}

fn open_in_place<'a>(key: &LessSafeKey, frame: &mut Frame<'a>) -> Result<&'a [u8], Refusal> {
    let (associated, nonce, sealed) = frame.take_parts();
    let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated), sealed);
    opened.map(|payload| &*payload).map_err(|_| Refusal::BadTag)
}

fn aead(key: &DayKey) -> LessSafeKey {
    #[allow(clippy::expect_used, reason = "the key has the length of the algorithm by its type")]
    let key = UnboundKey::new(&CHACHA20_POLY1305, key.bytes()).expect("32 bytes");
    LessSafeKey::new(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Flags, PacketType};
    use keys::{DeviceKey, RootKey};

    const NETWORK: KeyId = KeyId::from_le_bytes([7, 0, 0]);
    const NOW: Timestamp = Timestamp::from_gps(17_123 * 86_400 + 50);

    fn ring() -> KeyRing {
        let ring = KeyRing::default();
        ring.set_network(NETWORK, RootKey::new([1; 32]));
        ring
    }

    fn header(level: Level, gps_time: u32) -> Header {
        Header {
            packet_type: PacketType::TDF,
            flags: Flags(if level == Level::Device { Flags::DEVICE_KEY } else { 0 }),
            key_id: NETWORK,
            device_id: DeviceId(5),
            gps_time,
            sequence: 3,
            entropy: 4,
        }
    }

    fn sealed(root: &RootKey, header: &Header) -> Vec<u8> {
        let mut out = Vec::new();
        let key = root.day_key(Interface::Udp, header.rotation());
        seal_with(&key, header, Layout::Unversioned, b"hello", &mut out);
        out
    }

    fn open(authenticator: &mut Authenticator, ring: &KeyRing, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        let mut bytes = bytes.to_vec();
        let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
        let verified = authenticator.open(ring, frame, Interface::Udp, NOW)?;
        Ok(verified.payload().to_vec())
    }

    #[test]
    fn a_stranger_cannot_fill_the_cache_and_a_member_can() {
        let (ring, mut authenticator) = (ring(), Authenticator::default());
        let good = sealed(&RootKey::new([1; 32]), &header(Level::Network, NOW.gps()));
        let bad = sealed(&RootKey::new([2; 32]), &header(Level::Network, NOW.gps()));
        assert_eq!(open(&mut authenticator, &ring, &bad), Err(Refusal::BadTag));
        assert!(authenticator.cache.iter().all(Option::is_none));
        assert_eq!(open(&mut authenticator, &ring, &good).unwrap(), b"hello");
        assert_eq!(authenticator.cache.iter().flatten().count(), 1);
        assert_eq!(open(&mut authenticator, &ring, &good).unwrap(), b"hello");
    }

    #[test]
    fn a_replaced_key_is_in_force_for_the_next_frame() {
        let (ring, mut authenticator) = (ring(), Authenticator::default());
        let old = sealed(&RootKey::new([1; 32]), &header(Level::Network, NOW.gps()));
        open(&mut authenticator, &ring, &old).unwrap();
        ring.set_network(NETWORK, RootKey::new([2; 32]));
        assert_eq!(open(&mut authenticator, &ring, &old), Err(Refusal::BadTag));
        let new = sealed(&RootKey::new([2; 32]), &header(Level::Network, NOW.gps()));
        open(&mut authenticator, &ring, &new).unwrap();
    }

    #[test]
    fn r0_unusual_days_are_limited_to_1000_a_second_in_all_and_usual_ones_are_not() {
        let (ring, mut authenticator) = (ring(), Authenticator::default());
        let stranger = RootKey::new([2; 32]);
        let day = |day: u32| sealed(&stranger, &header(Level::Network, day * 86_400));
        let unusual: Vec<_> = (0..1001).map(|day_index| open(&mut authenticator, &ring, &day(day_index))).collect();
        assert!(unusual[..1000].iter().all(|result| *result == Err(Refusal::BadTag)));
        assert_eq!(unusual[1000], Err(Refusal::DayLimited));
        for usual in [17_122, 17_123, 17_124, 14_605, 14_971] {
            assert_eq!(open(&mut authenticator, &ring, &day(usual)), Err(Refusal::BadTag), "{usual}");
        }
    }

    #[test]
    fn a_device_frame_needs_the_device_then_the_key_id_then_the_tag() {
        let (ring, mut authenticator) = (ring(), Authenticator::default());
        let root = RootKey::new([9; 32]);
        let good = sealed(&root, &header(Level::Device, NOW.gps()));
        assert_eq!(open(&mut authenticator, &ring, &good), Err(Refusal::UnknownDevice(DeviceId(5))));
        ring.set_device(DeviceId(5), DeviceKey { key_id: KeyId::new(8), root: root.clone() }, None);
        let refusal = Refusal::UnknownKey { device_id: DeviceId(5), key_id: NETWORK };
        assert_eq!(open(&mut authenticator, &ring, &good), Err(refusal));
        ring.set_device(DeviceId(5), DeviceKey { key_id: Some(NETWORK), root: RootKey::new([1; 32]) }, None);
        assert_eq!(open(&mut authenticator, &ring, &good), Err(Refusal::BadTag));
        ring.set_device(DeviceId(5), DeviceKey { key_id: Some(NETWORK), root }, None);
        for _ in 0..2 {
            assert_eq!(open(&mut authenticator, &ring, &good).unwrap(), b"hello");
        }
        assert!(authenticator.cache.iter().all(Option::is_none), "device keys are kept in the ring");
    }

    #[test]
    fn an_answer_of_another_day_does_not_displace_the_key_of_the_uplinks() {
        let (ring, mut authenticator) = (ring(), Authenticator::default());
        let root = RootKey::new([9; 32]);
        ring.set_device(DeviceId(5), DeviceKey { key_id: Some(NETWORK), root: root.clone() }, None);
        // Without time, so 14 605 days after the epoch.
        let uplink = header(Level::Device, 1_261_872_018);
        open(&mut authenticator, &ring, &sealed(&root, &uplink)).unwrap();
        let answer = header(Level::Device, NOW.gps());
        let mut out = Vec::new();
        let layout = Layout::Unversioned;
        authenticator.seal(&ring, &answer, layout, Interface::Udp, b"hello", &mut out).unwrap();
        assert_eq!(out, sealed(&root, &answer));
        let kept = |day| ring.device(DeviceId(5)).find().unwrap().kept_day_key(NETWORK, day).is_some();
        assert_eq!((kept(14_605), kept(answer.rotation())), (true, false));
    }

    #[test]
    fn what_opened_before_a_key_was_changed_is_not_kept_after() {
        let ring = ring();
        let (old, new) = (RootKey::new([8; 32]), RootKey::new([9; 32]));
        ring.set_device(DeviceId(5), DeviceKey { key_id: None, root: old.clone() }, None);
        let generation = ring.generation();
        ring.set_device(DeviceId(5), DeviceKey { key_id: None, root: new }, None);
        ring.keep_day_key(DeviceId(5), NETWORK, 1, old.day_key(Interface::Udp, 1), generation);
        let place = ring.device(DeviceId(5));
        let keys = place.find().unwrap();
        assert!(keys.kept_day_key(NETWORK, 1).is_none());
        assert!(keys.root(KeyId::from_le_bytes([1, 1, 1])).is_some(), "the key id is still to be learned");
    }

    #[test]
    fn a_root_key_without_key_id_learns_it_from_the_first_frame_it_opens() {
        let (ring, mut authenticator) = (ring(), Authenticator::default());
        let root = RootKey::new([9; 32]);
        ring.set_device(DeviceId(5), DeviceKey { key_id: None, root: root.clone() }, None);
        let good = sealed(&root, &header(Level::Device, NOW.gps()));
        let other = Header { key_id: KeyId::from_le_bytes([9, 9, 9]), ..header(Level::Device, NOW.gps()) };
        let forged = sealed(&RootKey::new([1; 32]), &other);
        assert_eq!(open(&mut authenticator, &ring, &forged), Err(Refusal::BadTag));
        open(&mut authenticator, &ring, &good).unwrap();
        let refusal = Refusal::UnknownKey { device_id: DeviceId(5), key_id: other.key_id };
        assert_eq!(open(&mut authenticator, &ring, &sealed(&root, &other)), Err(refusal));
    }

    #[test]
    fn a_relay_vouches_for_no_more_than_its_own_level() {
        let key = RootKey::new([1; 32]).day_key(Interface::Udp, NOW.gps() / 86_400);
        for (relay, claimed, expected) in [
            (Level::Network, Level::Device, Level::Network),
            (Level::Device, Level::Network, Level::Network),
            (Level::Device, Level::Device, Level::Device),
        ] {
            let mut out = Vec::new();
            seal_with(&key, &header(relay, NOW.gps()), Layout::Unversioned, &[], &mut out);
            let outer = open_with(&key, Frame::parse(&mut out, Layout::Unversioned).unwrap()).unwrap();
            let inner = Verified::on_word_of(&outer, header(claimed, NOW.gps()), &[]);
            assert_eq!((inner.level(), inner.entropy()), (expected, None));
        }
    }
}
