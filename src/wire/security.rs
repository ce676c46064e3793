//! The call security_state: the keys a device has, and a proof that they are its own (docs/protocol.md, RPC). What opens the
//! proof is in `auth::identity`.

use super::Reader;
use super::frame::TAG_LEN;

/// The command id of security_state.
pub const SECURITY_STATE: u16 = 30_000;
/// Has a device write or delete a key, which is one of its parameters.
pub const SECURITY_KEY_UPDATE: u16 = 30_001;
/// Bytes of the challenge, which are all the parameters.
pub const CHALLENGE_LEN: usize = 16;
/// Bytes of a sealed identity: challenge, hardware id, device id.
pub const IDENTITY_LEN: usize = 40;
/// [`SecurityState::kind`] of a proof by hardware id, the only one that firmware makes.
pub const HARDWARE_ID: u8 = 0;
/// Bytes in front of the proof, all of which it covers.
pub const PROVED_LEN: usize = 69;

/// The result of security_state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurityState {
    /// The public key of the cloud that its firmware was built for.
    pub cloud_public: [u8; 32],
    /// The device's own public key.
    pub device_public: [u8; 32],
    /// Its primary network.
    pub network: u32,
    /// What the proof is made of: [`HARDWARE_ID`], or something nobody here can read.
    pub kind: u8,
    /// The proof; absent if the device cannot encrypt, or if it is of another kind.
    pub proof: Option<Proof>,
}

/// The identity of a device, sealed with a key that only the device and its cloud can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Random.
    pub nonce: [u8; 12],
    /// The identity.
    pub ciphertext: [u8; IDENTITY_LEN],
    /// What shows that it was not changed.
    pub tag: [u8; TAG_LEN],
}

impl SecurityState {
    /// `None` for fewer than 69 bytes, and for a proof by hardware id that is cut; of more than a whole one, the first.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut from = Reader(body);
        let (cloud_public, device_public) = (from.array()?, from.array()?);
        let (network, kind) = (from.u32()?, from.u8()?);
        let proof = if kind != HARDWARE_ID || from.remaining() == 0 {
            None
        } else {
            Some(Proof { nonce: from.array()?, ciphertext: from.array()?, tag: from.array()? })
        };
        Some(Self { cloud_public, device_public, network, kind, proof })
    }

    /// What the proof covers: the body up to it.
    pub fn proved(&self) -> [u8; PROVED_LEN] {
        let mut bytes = [0; PROVED_LEN];
        bytes[..32].copy_from_slice(&self.cloud_public);
        bytes[32..64].copy_from_slice(&self.device_public);
        bytes[64..68].copy_from_slice(&self.network.to_le_bytes());
        bytes[68] = self.kind;
        bytes
    }

    /// Appends the body of the response.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.proved());
        if let Some(proof) = self.proof {
            out.extend_from_slice(&proof.nonce);
            out.extend_from_slice(&proof.ciphertext);
            out.extend_from_slice(&proof.tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(state: &SecurityState) -> Vec<u8> {
        let mut out = Vec::new();
        state.encode(&mut out);
        out
    }

    fn state(proof: Option<Proof>) -> SecurityState {
        SecurityState { cloud_public: [1; 32], device_public: [2; 32], network: 0xa17, kind: HARDWARE_ID, proof }
    }

    const PROOF: Proof = Proof { nonce: [3; 12], ciphertext: [4; 40], tag: [5; 16] };

    #[test]
    fn the_fields_lie_where_the_protocol_says_and_round_trip() {
        let body = bytes(&state(Some(PROOF)));
        let expected =
            [&[1; 32][..], &[2; 32], &[0x17, 0x0a, 0, 0], &[0], &[3; 12], &[4; IDENTITY_LEN], &[5; 16]].concat();
        assert_eq!(body, expected);
        assert_eq!(SecurityState::parse(&body), Some(state(Some(PROOF))));
        assert_eq!(state(Some(PROOF)).proved(), body[..PROVED_LEN]);
        assert_eq!(SecurityState::parse(&[body, vec![9]].concat()), Some(state(Some(PROOF))));
    }

    #[test]
    fn a_device_that_cannot_encrypt_sends_no_proof_and_a_cut_one_is_no_answer() {
        let whole = bytes(&state(Some(PROOF)));
        for len in 0..whole.len() {
            let expected = (len == PROVED_LEN).then_some(state(None));
            assert_eq!(SecurityState::parse(&whole[..len]), expected, "{len}");
        }
        assert_eq!(bytes(&state(None)).len(), PROVED_LEN);
    }

    #[test]
    fn a_proof_of_another_kind_is_not_looked_at() {
        let other = [&bytes(&state(None))[..68], &[1, 7, 7]].concat();
        assert_eq!(SecurityState::parse(&other), Some(SecurityState { kind: 1, ..state(None) }));
    }
}
