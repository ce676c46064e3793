//! Tests of [`super`]: what is forged is given to a gateway's authentication, which must refuse it.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::auth::Authenticator;
use crate::auth::keys::{DeviceKey, KeyRing};
use crate::clock::Timestamp;
use crate::metrics::Disposition;
use crate::wire::frame::{Frame, FrameError};

const NETWORK: KeyId = KeyId::from_le_bytes([0x17, 0x0a, 0]);
const KEY_ID: KeyId = KeyId::from_le_bytes([1, 2, 3]);
const NOW: Timestamp = Timestamp::from_gps(17_123 * 86_400 + 50);

fn known(device: u64) -> Known {
    Known { network: NETWORK, device: DeviceId(device), key_id: KEY_ID, gps_time: NOW.gps() }
}

/// Reports of devices 1 and 2 in turn; 2 has no time.
fn recordings(count: u8) -> Vec<Recording> {
    let key = RootKey::new([1; 32]).day_key(Interface::Udp, NOW.gps() / 86_400);
    let recording = |index: u8| {
        let device = DeviceId(1 + u64::from(index % 2));
        let header = Header { sequence: index.into(), ..header(&known(device.0), &mut Rng::with_seed(1)) };
        let mut bytes = Vec::new();
        seal_with(&key, &header, Layout::Unversioned, b"report", &mut bytes);
        Recording { device, bytes, no_time: index % 2 == 1 }
    };
    (0..count).map(recording).collect()
}

/// What a gateway that has the keys of the network and of device 1 makes of a datagram.
fn taken_as(bytes: &[u8]) -> Result<DeviceId, Disposition> {
    let ring = KeyRing::default();
    ring.set_network(NETWORK, RootKey::new([1; 32]));
    ring.set_device(DeviceId(1), DeviceKey { key_id: Some(KEY_ID), root: RootKey::new([2; 32]) }, None);
    let mut bytes = bytes.to_vec();
    let frame = Frame::parse(&mut bytes, Layout::Unversioned).map_err(|error| match error {
        FrameError::Short { .. } => Disposition::Short,
        FrameError::Oversize { .. } | FrameError::Version(_) => Disposition::Oversize,
    })?;
    let opened = Authenticator::default().open(&ring, frame, Interface::Udp, NOW)?;
    Ok(opened.header().device_id)
}

#[test]
fn replays_are_the_newest_of_each_device_then_all_from_the_oldest_on_then_any() {
    let recorded = recordings(6);
    let replayed = replays(&recorded, 500, &mut Rng::with_seed(1));
    let order: Vec<_> = replayed
        .iter()
        .map(|replay| recorded.iter().position(|recording| recording.bytes == replay.bytes).unwrap())
        .collect();
    assert_eq!(order[..8], [5, 4, 0, 1, 2, 3, 4, 5]);
    assert_eq!((order.len(), order.iter().copied().collect::<BTreeSet<_>>().len()), (500, 6));
    assert!(order[8..].windows(2).any(|pair| pair[1] < pair[0]), "out of order");
    assert!(replayed[..2].iter().all(|newest| !newest.may_count), "a gateway remembers them");
    assert!(replayed[2..].iter().all(|replay| replay.may_count == (replay.device == DeviceId(2))));
    assert_eq!(replays(&[], 5, &mut Rng::with_seed(1)), []);
}

#[test]
fn reflections_are_the_downlinks_in_turn() {
    let downlinks = recordings(2);
    let bytes: Vec<_> = reflections(&downlinks, 3).into_iter().map(|reflection| reflection.bytes).collect();
    assert_eq!(bytes, [0, 1, 0].map(|index: usize| downlinks[index].bytes.clone()));
    assert_eq!(reflections(&[], 3), []);
}

#[test]
fn bit_flips_are_one_bit_each_in_header_ciphertext_and_tag_by_turns_and_none_is_authentic() {
    let withheld = recordings(4);
    assert_eq!(taken_as(&withheld[0].bytes), Ok(DeviceId(1)), "as it was made");
    let mut flipped = BTreeSet::new();
    for (index, flip) in bit_flips(&withheld, 600, &mut Rng::with_seed(1)).into_iter().enumerate() {
        let original = &withheld[index % 4].bytes;
        let bits: Vec<_> = original.iter().zip(&flip.bytes).map(|(a, b)| (a ^ b).count_ones()).collect();
        assert_eq!((bits.iter().sum::<u32>(), flip.bytes.len()), (1, original.len()));
        let at = bits.iter().position(|bits| *bits == 1).unwrap();
        assert!([0..22, 22..28, 28..44][index % 3].contains(&at), "{index}: byte {at}");
        flipped.insert(at);
        assert!(taken_as(&flip.bytes).is_err());
    }
    assert_eq!(flipped.len(), 44, "every byte was hit");
}

#[test]
fn unknown_ids_are_refused_for_every_reason_there_is() {
    let mut reasons = BTreeMap::<&str, usize>::new();
    for forged in unknown_ids(&[known(1), known(2)], 900, &mut Rng::with_seed(1)) {
        *reasons.entry(taken_as(&forged.bytes).unwrap_err().label()).or_default() += 1;
        assert!(!forged.may_count);
    }
    let expected = ["bad_tag", "oversize", "short", "unknown_device", "unknown_key", "unknown_network"];
    assert!(reasons.keys().eq(&expected), "{reasons:?}");
    assert!(reasons.values().all(|count| *count >= 40), "{reasons:?}");
}

#[test]
fn a_seed_makes_the_same_again() {
    let forge = |seed| {
        let random = &mut Rng::with_seed(seed);
        let (recorded, known) = (recordings(6), [known(1)]);
        [replays(&recorded, 50, random), bit_flips(&recorded, 50, random), unknown_ids(&known, 50, random)]
    };
    assert_eq!(forge(3), forge(3));
    assert!(forge(3).iter().zip(forge(4)).all(|(one, other)| *one != other));
}
