//! The datagrams of an attacker, made from what he recorded or from nothing. Pure: what they do to a gateway shows elsewhere.
//!
//! None of them may count, but for one: see [`Forged::may_count`].

use fastrand::Rng;

use super::victim::Recording;
use crate::auth::keys::{Interface, RootKey};
use crate::auth::seal_with;
use crate::id::{DeviceId, KeyId};
use crate::wire::MAX_DATAGRAM;
use crate::wire::frame::{Flags, Header, Layout, PacketType, TAG_LEN};

/// The longest datagram that UDP over IPv4 carries.
const MAX_UDP: usize = 65_507;

/// The upper 16 bits of every forged device id, which no simulated device has.
const FORGED: u64 = 0xbad0;

/// A datagram of an attacker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forged {
    /// What is sent.
    pub(super) bytes: Vec<u8>,
    /// A device that would have moved or counted if it was believed.
    pub(super) device: DeviceId,
    /// It may count again without moving anything: a recording of a packet without time, of which a gateway remembers
    /// few. Not where it is the newest of its device.
    pub(super) may_count: bool,
}

/// What an attacker without keys knows of a gateway's devices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Their network.
    pub(super) network: KeyId,
    /// One of them.
    pub(super) device: DeviceId,
    /// Its device key id.
    pub(super) key_id: KeyId,
    /// The time.
    pub(super) gps_time: u32,
}

/// Recorded uplinks again: first the newest of each device, at once; then all from the oldest on, now that newer ones were
/// counted; from then on any, out of order. `recordings` are in the order they were sent.
pub(super) fn replays(recordings: &[Recording], count: usize, random: &mut Rng) -> Vec<Forged> {
    let again = |recording: &Recording, may_count| Forged {
        bytes: recording.bytes.clone(),
        device: recording.device,
        may_count,
    };
    let mut newest: Vec<&Recording> = Vec::new();
    for recording in recordings.iter().rev() {
        if newest.iter().all(|known| known.device != recording.device) {
            newest.push(recording);
        }
    }
    let any = std::iter::from_fn(|| random.choice(recordings));
    // Nothing came after the newest, so a gateway remembers it, with or without time.
    let at_once = newest.into_iter().map(|recording| again(recording, false));
    let later = recordings.iter().chain(any).map(|recording| again(recording, recording.no_time));
    at_once.chain(later).take(count).collect()
}

/// Recorded downlinks, each in turn.
pub(super) fn reflections(downlinks: &[Recording], count: usize) -> Vec<Forged> {
    let back =
        |downlink: &Recording| Forged { bytes: downlink.bytes.clone(), device: downlink.device, may_count: false };
    downlinks.iter().cycle().take(count).map(back).collect()
}

/// Uplinks that were never sent, each with one bit turned over: in turn one of the header, of the ciphertext, of the tag.
pub(super) fn bit_flips(withheld: &[Recording], count: usize, random: &mut Rng) -> Vec<Forged> {
    let flip = |(index, recording): (usize, &Recording)| {
        let mut bytes = recording.bytes.clone();
        let (header, tag) = (Layout::Unversioned.header_len(), bytes.len() - TAG_LEN);
        let part = [0..header, header..tag, tag..bytes.len()][index % 3].clone();
        bytes[random.usize(part)] ^= 1 << random.u32(0..8);
        Forged { bytes, device: recording.device, may_count: false }
    };
    withheld.iter().cycle().take(count).enumerate().map(flip).collect()
}

/// Frames of devices, networks and keys that do not exist or are not the sender's, and what is no frame at all: each form
/// against each of `known` in turn.
pub(super) fn unknown_ids(known: &[Known], count: usize, random: &mut Rng) -> Vec<Forged> {
    let forms: [fn(&Known, &mut Rng) -> Forged; 9] = [
        forged_device,
        wrong_network_key,
        unknown_network,
        unknown_device_key,
        wrong_key_id,
        wrong_device_key,
        noise,
        too_short,
        too_long,
    ];
    let everybody = known.iter().flat_map(|known| forms.map(|form| (form, known)));
    everybody.cycle().take(count).map(|(form, known)| form(known, random)).collect()
}

/// A report of nobody, sealed with a key that the forger made up.
fn forged_device(known: &Known, random: &mut Rng) -> Forged {
    let device_id = DeviceId(FORGED << 48 | u64::from(random.u32(..)));
    sealed(Header { device_id, ..header(known, random) }, random)
}

/// A report of a device that exists, with the wrong network key.
fn wrong_network_key(known: &Known, random: &mut Rng) -> Forged {
    sealed(header(known, random), random)
}

/// The same from a network that is none.
fn unknown_network(known: &Known, random: &mut Rng) -> Forged {
    let [low, high, _, _] = random.u32(..).to_le_bytes();
    // Networks of real fleets are small numbers.
    sealed(Header { key_id: KeyId::from_le_bytes([low, high, 0xfb]), ..header(known, random) }, random)
}

/// A device-level report of nobody.
fn unknown_device_key(known: &Known, random: &mut Rng) -> Forged {
    let device_id = DeviceId(FORGED << 48 | u64::from(random.u32(..)));
    sealed(Header { device_id, ..device_header(known, random) }, random)
}

/// A device-level report of a device that exists, under a key id that it does not have.
fn wrong_key_id(known: &Known, random: &mut Rng) -> Forged {
    let [a, b, c] = known.key_id.to_le_bytes();
    sealed(Header { key_id: KeyId::from_le_bytes([a ^ 1, b, c]), ..device_header(known, random) }, random)
}

/// A device-level report under its own key id, with another key.
fn wrong_device_key(known: &Known, random: &mut Rng) -> Forged {
    sealed(device_header(known, random), random)
}

/// Random bytes as long as a frame.
fn noise(known: &Known, random: &mut Rng) -> Forged {
    let len = random.usize(Layout::Unversioned.min_len()..600);
    bytes(known, len, random)
}

/// Fewer bytes than a frame, down to none.
fn too_short(known: &Known, random: &mut Rng) -> Forged {
    let len = random.usize(0..Layout::Unversioned.min_len());
    bytes(known, len, random)
}

/// More bytes than a gateway takes.
fn too_long(known: &Known, random: &mut Rng) -> Forged {
    let longest = if random.u8(..) == 0 { MAX_UDP } else { 2 * MAX_DATAGRAM };
    let len = random.usize(MAX_DATAGRAM + 1..=longest);
    bytes(known, len, random)
}

/// Telemetry of the known device at network level, which asks for an acknowledgement.
fn header(known: &Known, random: &mut Rng) -> Header {
    Header {
        packet_type: PacketType::TDF,
        flags: Flags(Flags::ACK_REQUEST),
        key_id: known.network,
        device_id: known.device,
        gps_time: known.gps_time,
        sequence: random.u16(..),
        entropy: random.u16(..),
    }
}

fn device_header(known: &Known, random: &mut Rng) -> Header {
    let flags = Flags(Flags::ACK_REQUEST | Flags::DEVICE_KEY);
    Header { flags, key_id: known.key_id, ..header(known, random) }
}

/// Seals with a key that nobody has.
fn sealed(header: Header, random: &mut Rng) -> Forged {
    let mut key = [0; 32];
    random.fill(&mut key);
    let mut bytes = Vec::new();
    let key = RootKey::new(key).day_key(Interface::Udp, header.rotation());
    seal_with(&key, &header, Layout::Unversioned, b"forged", &mut bytes);
    Forged { bytes, device: header.device_id, may_count: false }
}

fn bytes(known: &Known, len: usize, random: &mut Rng) -> Forged {
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    Forged { bytes, device: known.device, may_count: false }
}

#[cfg(test)]
#[path = "forge_tests.rs"]
mod tests;
