//! Whether the keys that a device names are its own: the proof inside the answer to security_state (docs/protocol.md, RPC).

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::keys::{DeviceKey, KeyPair, RootKey, device_key_id};
use crate::id::{DeviceId, KeyId};
use crate::wire::Reader;
use crate::wire::security::{CHALLENGE_LEN, HARDWARE_ID, IDENTITY_LEN, Proof, SecurityState};

/// What a device says of itself under its root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of the question it answers.
    pub challenge: [u8; CHALLENGE_LEN],
    /// Of its processor, padded with zeros at the end.
    pub hardware_id: [u8; 16],
    /// Itself.
    pub device: DeviceId,
}

impl Identity {
    /// The answer of a device with these keys. `state` has its keys and network; `nonce` is random.
    ///
    /// What a device does, so what simulators and tests use.
    pub fn prove(&self, root: &RootKey, state: SecurityState, nonce: [u8; 12]) -> SecurityState {
        let state = SecurityState { kind: HARDWARE_ID, ..state };
        let mut ciphertext = self.bytes();
        let aad = Aad::from(state.proved());
        let sealed =
            sign_key(root).seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut ciphertext);
        let mut tag = [0; 16];
        #[allow(clippy::expect_used, reason = "ring refuses plaintexts above 256 GiB only")]
        tag.copy_from_slice(sealed.expect("40 bytes").as_ref());
        SecurityState { proof: Some(Proof { nonce, ciphertext, tag }), ..state }
    }

    /// Opens the proof in `state`. `None` if it has none, or not one of this root key.
    pub fn open(root: &RootKey, state: &SecurityState) -> Option<Self> {
        let proof = state.proof?;
        let mut sealed = [0; IDENTITY_LEN + 16];
        sealed[..IDENTITY_LEN].copy_from_slice(&proof.ciphertext);
        sealed[IDENTITY_LEN..].copy_from_slice(&proof.tag);
        let nonce = Nonce::assume_unique_for_key(proof.nonce);
        let opened = sign_key(root).open_in_place(nonce, Aad::from(state.proved()), &mut sealed);
        Self::from_bytes(opened.ok()?)
    }

    fn bytes(&self) -> [u8; IDENTITY_LEN] {
        let mut bytes = [0; IDENTITY_LEN];
        bytes[..16].copy_from_slice(&self.challenge);
        bytes[16..32].copy_from_slice(&self.hardware_id);
        bytes[32..].copy_from_slice(&self.device.0.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let (challenge, hardware_id, device) = (from.array()?, from.array()?, DeviceId(from.u64()?));
        Some(Self { challenge, hardware_id, device })
    }
}

fn sign_key(root: &RootKey) -> LessSafeKey {
    let key = Zeroizing::new(root.derive(&[0x34, 0x12, 0, 0], b"sign"));
    #[allow(clippy::expect_used, reason = "the key has the length of the algorithm by its type")]
    let key = UnboundKey::new(&CHACHA20_POLY1305, &*key).expect("32 bytes");
    LessSafeKey::new(key)
}

/// The keys of a device, proved by its answer.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The public key of the cloud that its firmware was built for.
    pub cloud_public: [u8; 32],
    /// The device's own public key.
    pub device_public: [u8; 32],
    /// Its primary root key.
    pub root: RootKey,
    /// The id of that.
    pub key_id: KeyId,
    /// Firmware built for another cloud has this key if the gateway is its secondary remote: whether it is, nothing in the
    /// answer says.
    pub secondary: Option<DeviceKey>,
    /// Its primary network.
    pub network: u32,
    /// Of its processor, padded with zeros at the end.
    pub hardware_id: [u8; 16],
}

/// Why nothing is learned from an answer to security_state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyAnswerError {
    /// Cut, or no answer to it at all.
    #[error("the answer to security_state is cut: {0} bytes")]
    Cut(usize),
    /// Its firmware was built for another cloud, and no root key was given.
    #[error(
        "the firmware was built for another cloud, and the answer cannot be checked without the root key of the device"
    )]
    OtherCloud,
    /// The device made no proof, or one that nobody here can read.
    #[error("the answer has no proof by hardware id")]
    NoProof,
    /// The public key of the device makes every shared secret a constant.
    #[error("the public key of the device is none that protects anything")]
    WeakKey,
    /// The proof is not of the root key.
    #[error("the proof does not open with the root key: whoever answered has not the private key of the device")]
    Forged,
    /// The proof is of another question.
    #[error("the proof answers to another question: it is a recording")]
    Challenge,
    /// The proof is of another device.
    #[error("the proof is that of device {0}")]
    Device(DeviceId),
}

/// Checks the body of an answer to security_state of `device`, which was asked with `challenge` (rule R12).
///
/// Opens it with the secret that `pair`, the gateway's, shares with the device if its firmware was built for that, else with
/// `given`, the root key that somebody handed out. Takes about 80 us, twice that with `given`.
///
/// # Errors
/// Nothing can be learned from it.
pub fn check_key_answer(
    pair: &KeyPair,
    given: Option<&RootKey>,
    body: &[u8],
    challenge: &[u8; CHALLENGE_LEN],
    device: DeviceId,
) -> Result<Checked, KeyAnswerError> {
    let state = SecurityState::parse(body).ok_or(KeyAnswerError::Cut(body.len()))?;
    let SecurityState { cloud_public, device_public, network, .. } = state;
    let ours = cloud_public == pair.public();
    let given = if ours { None } else { Some(given.ok_or(KeyAnswerError::OtherCloud)?) };
    if state.proof.is_none() {
        return Err(KeyAnswerError::NoProof);
    }
    let shared = pair.shared_root(device_public).ok_or(KeyAnswerError::WeakKey)?;
    let identity = Identity::open(given.unwrap_or(&shared), &state).ok_or(KeyAnswerError::Forged)?;
    if identity.challenge != *challenge {
        return Err(KeyAnswerError::Challenge);
    }
    if identity.device != device {
        return Err(KeyAnswerError::Device(identity.device));
    }
    let (root, secondary) = match given {
        None => (shared, None),
        Some(root) => {
            let key_id = Some(device_key_id(&pair.public(), &device_public));
            (root.clone(), Some(DeviceKey { key_id, root: shared }))
        }
    };
    let key_id = device_key_id(&cloud_public, &device_public);
    Ok(Checked { cloud_public, device_public, root, key_id, secondary, network, hardware_id: identity.hardware_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(0xd000_0000_0000_1002);
    const CHALLENGE: [u8; 16] = [7; 16];

    struct Made {
        gateway: KeyPair,
        cloud: KeyPair,
        device: KeyPair,
    }

    fn made() -> Made {
        let [gateway, cloud, device] = [1, 2, 3].map(|byte| KeyPair::from_private([byte; 32]));
        Made { gateway, cloud, device }
    }

    fn identity() -> Identity {
        Identity { challenge: CHALLENGE, hardware_id: [9; 16], device: DEVICE }
    }

    /// The answer of a device whose firmware was built for `cloud`.
    fn answer(cloud: &KeyPair, device: &KeyPair, identity: &Identity) -> Vec<u8> {
        let (cloud_public, device_public) = (cloud.public(), device.public());
        let state = SecurityState { cloud_public, device_public, network: 0xa17, kind: HARDWARE_ID, proof: None };
        let root = device.shared_root(cloud_public).unwrap();
        let mut body = Vec::new();
        identity.prove(&root, state, [5; 12]).encode(&mut body);
        body
    }

    fn check(pair: &KeyPair, given: Option<&RootKey>, body: &[u8]) -> Result<Checked, KeyAnswerError> {
        check_key_answer(pair, given, body, &CHALLENGE, DEVICE)
    }

    #[test]
    fn firmware_built_for_the_gateway_needs_no_given_key() {
        let Made { gateway, device, .. } = made();
        let body = answer(&gateway, &device, &identity());
        let shared = gateway.shared_root(device.public()).unwrap();
        for given in [None, Some(RootKey::new([8; 32]))] {
            let checked = check(&gateway, given.as_ref(), &body).unwrap();
            assert_eq!(checked.root.bytes(), shared.bytes());
            assert_eq!((checked.device_public, checked.cloud_public), (device.public(), gateway.public()));
            assert_eq!(checked.key_id, device_key_id(&gateway.public(), &device.public()));
            assert_eq!((checked.network, checked.hardware_id), (0xa17, [9; 16]));
            assert!(checked.secondary.is_none());
        }
    }

    #[test]
    fn firmware_built_for_another_cloud_is_checked_with_the_given_key_and_tells_the_secondary_one() {
        let Made { gateway, cloud, device } = made();
        let body = answer(&cloud, &device, &identity());
        let given = cloud.shared_root(device.public()).unwrap();
        let checked = check(&gateway, Some(&given), &body).unwrap();
        assert_eq!(checked.root.bytes(), given.bytes());
        assert_eq!(checked.key_id, device_key_id(&cloud.public(), &device.public()));
        let secondary = checked.secondary.unwrap();
        assert_eq!(secondary.root.bytes(), device.shared_root(gateway.public()).unwrap().bytes());
        assert_eq!(secondary.key_id, Some(device_key_id(&gateway.public(), &device.public())));
        assert_eq!(check(&gateway, None, &body).unwrap_err(), KeyAnswerError::OtherCloud);
        assert_eq!(check(&gateway, Some(&RootKey::new([8; 32])), &body).unwrap_err(), KeyAnswerError::Forged);
    }

    #[test]
    fn recordings_and_answers_of_others_teach_nothing() {
        let Made { gateway, cloud, device } = made();
        let recorded = answer(&gateway, &device, &Identity { challenge: [6; 16], ..identity() });
        let other = DeviceId(5);
        let of_other = answer(&gateway, &device, &Identity { device: other, ..identity() });
        // Somebody names the gateway's key and a device's, and has neither private half.
        let mut stolen = answer(&gateway, &device, &identity());
        stolen[32..64].copy_from_slice(&cloud.public());
        let mut weak = answer(&gateway, &device, &identity());
        weak[32..64].fill(0);
        let whole = answer(&gateway, &device, &identity());
        for (body, expected) in [
            (&recorded[..], KeyAnswerError::Challenge),
            (&of_other, KeyAnswerError::Device(other)),
            (&stolen, KeyAnswerError::Forged),
            (&weak, KeyAnswerError::WeakKey),
            (&whole[..69], KeyAnswerError::NoProof),
            (&whole[..68], KeyAnswerError::Cut(68)),
            (&whole[..136], KeyAnswerError::Cut(136)),
        ] {
            assert_eq!(check(&gateway, None, body).unwrap_err(), expected);
        }
    }

    #[test]
    fn every_changed_bit_of_an_answer_is_noticed() {
        let Made { gateway, device, .. } = made();
        let whole = answer(&gateway, &device, &identity());
        for bit in (0..whole.len() * 8).step_by(5) {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // The top bit of a public key means nothing, and the proof covers it all the same.
            assert!(check(&gateway, None, &changed).is_err(), "bit {bit}");
        }
    }
}
