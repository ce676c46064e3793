//! What a simulated device answers to security_state: who it is, in a way that only who shares its root key can read
//! (docs/protocol.md, RPC).

use crate::auth::identity::Identity as Proved;
use crate::auth::keys::RootKey;
use crate::id::{DeviceId, KeyId};
use crate::wire::security::{CHALLENGE_LEN, HARDWARE_ID, SecurityState};

/// A device and its keys.
pub(super) struct Who<'a> {
    pub(super) id: DeviceId,
    pub(super) cloud_public: [u8; 32],
    pub(super) device_public: [u8; 32],
    pub(super) network: KeyId,
    /// The root key that follows from the two public ones.
    pub(super) root: &'a RootKey,
}

/// The hardware id of a simulated device: its id, the most significant byte first. So its `mcuId` is the text of its id.
pub const fn hardware_id(id: DeviceId) -> [u8; 8] {
    id.0.to_be_bytes()
}

impl Who<'_> {
    /// The body of the answer to a challenge. `nonce` must not repeat.
    pub(super) fn answer(&self, challenge: &[u8; CHALLENGE_LEN], nonce: [u8; 12]) -> Vec<u8> {
        let Self { id, cloud_public, device_public, network, root } = *self;
        let mut padded = [0; 16];
        padded[..8].copy_from_slice(&hardware_id(id));
        let state =
            SecurityState { cloud_public, device_public, network: network.get(), kind: HARDWARE_ID, proof: None };
        let mut body = Vec::new();
        Proved { challenge: *challenge, hardware_id: padded, device: id }.prove(root, state, nonce).encode(&mut body);
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::rpc::tests::{key, opened, runs};

    #[test]
    fn the_answer_is_that_of_captured_firmware_but_for_its_hardware_id() {
        let run = runs().into_iter().find(|run| run["name"] == "main").unwrap();
        let datagrams = run["datagrams"].as_array().unwrap();
        let note =
            |datagram: &serde_json::Value| datagram["note"].as_str().unwrap_or_default().starts_with("RPC 30000");
        let asked = datagrams.iter().position(note).unwrap();
        let payload =
            |at: usize| opened(&run, &hex::decode(datagrams[at]["hex"].as_str().unwrap()).unwrap()).unwrap().1;
        let (challenge, theirs) = (payload(asked)[6..].try_into().unwrap(), payload(asked + 1)[8..].to_vec());
        let root = RootKey::new(key(&run, "device_root_key"));
        let who = Who {
            id: run["device_id"].as_str().unwrap().parse().unwrap(),
            cloud_public: key(&run, "cloud_public_key"),
            device_public: key(&run, "device_public_key"),
            network: KeyId::new(2583).unwrap(),
            root: &root,
        };
        let ours = who.answer(&challenge, theirs[69..81].try_into().unwrap());
        assert_eq!((ours.len(), &ours[..81]), (theirs.len(), &theirs[..81]));
        let open = |body: &[u8]| Proved::open(&root, &SecurityState::parse(body).unwrap()).unwrap();
        assert_eq!(Proved { hardware_id: open(&theirs).hardware_id, ..open(&ours) }, open(&theirs));
        assert_eq!(open(&ours).hardware_id, *b"\xd0\0\0\0\0\0\x10\x02\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn the_text_of_the_id_is_that_of_the_hardware_id() {
        let id = DeviceId(0x51a0_0001_0000_0007);
        assert_eq!(hex::encode(hardware_id(id)), id.to_string());
    }
}
