//! The two smallest payloads: acknowledgements and KEY_IDS (docs/protocol.md, acknowledgements and boot).

use crate::id::KeyId;

/// The payload of an ACK: the sequence of the packet that asked for it. Devices accept no other length.
pub const fn ack(sequence: u16) -> [u8; 2] {
    sequence.to_le_bytes()
}

/// The sequence that an ACK acknowledges; `None` for a payload of another length.
pub fn acked_sequence(payload: &[u8]) -> Option<u16> {
    payload.try_into().ok().map(u16::from_le_bytes)
}

/// The payload of a KEY_IDS: the key id of the sender's device key.
pub const fn key_ids(device_key_id: KeyId) -> [u8; 3] {
    device_key_id.to_le_bytes()
}

/// The device key id that a KEY_IDS names; `None` for a payload of another length.
pub fn named_key_id(payload: &[u8]) -> Option<KeyId> {
    payload.try_into().ok().map(KeyId::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_round_trip_and_have_one_length() {
        let key_id = KeyId::from_le_bytes([1, 2, 3]);
        assert_eq!((ack(0x0201), acked_sequence(&[1, 2])), ([1, 2], Some(0x0201)));
        assert_eq!((key_ids(key_id), named_key_id(&[1, 2, 3])), ([1, 2, 3], Some(key_id)));
        assert!((0..6).all(|len| acked_sequence(&vec![0; len]).is_some() == (len == 2)));
        assert!((0..6).all(|len| named_key_id(&vec![0; len]).is_some() == (len == 3)));
    }
}
