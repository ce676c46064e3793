//! HKDF-SHA256 (RFC 5869) to keys of 32 bytes, which is one block of it (docs/protocol.md, keys).

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A salt, with what depends on it alone already worked out: a quarter of the work.
#[derive(Clone)]
pub(super) struct Salt(Hmac<Sha256>);

impl Salt {
    /// Of any length.
    pub(super) fn new(salt: &[u8]) -> Self {
        Self(keyed(salt))
    }

    /// The key that follows from `secret`, for what `info` names.
    pub(super) fn derive(&self, secret: &[u8], info: &[u8]) -> [u8; 32] {
        let extracted = Zeroizing::new(finish(self.0.clone().chain_update(secret)));
        // Of the one block that is wanted, the number is 1.
        finish(keyed(&*extracted).chain_update(info).chain_update([1]))
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt")
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    #[allow(clippy::expect_used, reason = "HMAC takes keys of every length")]
    Hmac::new_from_slice(key).expect("a key")
}

fn finish(hmac: Hmac<Sha256>) -> [u8; 32] {
    hmac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_examples_a_1_and_a_3_of_the_specification() {
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        for (salt, info, expected) in [
            (&salt[..], &info[..], "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"),
            (&[], &[], "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"),
        ] {
            assert_eq!(hex::encode(Salt::new(salt).derive(&[0x0b; 22], info)), expected);
        }
    }
}
