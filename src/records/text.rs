//! Values of records that have a text form with rules of their own.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::id::KeyId;

/// Why a text is no such value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not pairs of hex digits.
    #[error("an MCU id is pairs of hex digits, for example 0011223344556677")]
    McuId,
    /// Not 32 bytes in base64.
    #[error("a key is 32 bytes in base64: 44 characters, the last one =")]
    Key,
    /// Not base64.
    #[error("bytes are standard base64 with padding, for example AAEC")]
    Base64,
    /// Not a 24-bit number.
    #[error("a network id is a whole number from 0 to {}", KeyId::MAX)]
    NetworkId,
}

/// The hardware id of a microcontroller in lower-case hex: 16 digits for nRF parts, 24 for STM32 parts. How many digits it may
/// have, see [`McuId::MAX_LEN`], is for who stores it to check.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct McuId(String);

impl McuId {
    /// The most digits: more than twice those of any part known.
    pub const MAX_LEN: usize = 64;

    /// The digits, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for McuId {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let pairs = !text.is_empty() && text.len().is_multiple_of(2);
        if pairs && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(TextError::McuId)
        }
    }
}

impl fmt::Display for McuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 32 bytes that may be secret: wiped on drop, and printed as `***`. Their text is standard base64 with padding.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Key32([u8; 32]);

impl Key32 {
    /// Takes the bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Key32 {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| TextError::Key)?);
        bytes.as_slice().try_into().map(Self).map_err(|_| TextError::Key)
    }
}

impl FromStr for Base64 {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        STANDARD.decode(text).map(Self).map_err(|_| TextError::Base64)
    }
}

impl fmt::Debug for Key32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Bytes, whose text is standard base64 with padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

/// What the packets of a network carry as their key id, a number in the REST contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub KeyId);

impl Serialize for NetworkId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0.get())
    }
}

impl<'de> Deserialize<'de> for NetworkId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let id = u32::try_from(number).ok().and_then(KeyId::new);
        id.map(Self).ok_or_else(|| de::Error::custom(TextError::NetworkId))
    }
}

impl Serialize for McuId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Serialize for Key32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(self.0)))
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for McuId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "an MCU id")
    }
}

impl<'de> Deserialize<'de> for Key32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "a key of 32 bytes in base64")
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "bytes in base64")
    }
}

/// A value from its text, which no error quotes: it may be a secret.
fn parsed<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = TextError>,
{
    struct Visitor<T>(&'static str, std::marker::PhantomData<T>);

    impl<T: FromStr<Err = TextError>> de::Visitor<'_> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Visitor(expected, std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mcu_id_is_pairs_of_hex_digits_without_regard_to_case() {
        let id: McuId = "00AAbb3344556677".parse().unwrap();
        assert_eq!(
            (id.as_str(), serde_json::to_string(&id).unwrap().as_str()),
            ("00aabb3344556677", "\"00aabb3344556677\"")
        );
        for bad in ["", "0", "0g", "001", " 00"] {
            assert_eq!(bad.parse::<McuId>(), Err(TextError::McuId), "{bad}");
        }
    }

    #[test]
    fn a_key_is_32_bytes_in_base64_and_no_error_quotes_one() {
        let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let key: Key32 = text.parse().unwrap();
        assert_eq!((key.bytes()[31], format!("{key:?}").as_str()), (31, "***"));
        assert_eq!(serde_json::to_string(&key).unwrap(), format!("\"{text}\""));
        for bad in ["", "AAEC", &text[..43], &format!("{text}="), &text.replace('A', "-")] {
            let error = serde_json::from_str::<Key32>(&format!("\"{bad}\"")).unwrap_err().to_string();
            assert!(error.starts_with("a key is 32 bytes in base64"), "{error}");
        }
    }

    #[test]
    fn bytes_are_base64_with_padding() {
        for (text, bytes) in [("", &b""[..]), ("AAEC", &[0, 1, 2]), ("+/8=", &[0xfb, 0xff])] {
            assert_eq!(text.parse(), Ok(Base64(bytes.to_vec())));
            assert_eq!(serde_json::to_string(&Base64(bytes.to_vec())).unwrap(), format!("\"{text}\""));
        }
        for bad in ["A", "AA", "-_8=", "AAEC\n", " AAEC"] {
            assert_eq!(bad.parse::<Base64>(), Err(TextError::Base64), "{bad}");
        }
    }

    #[test]
    fn a_network_id_is_a_number_of_24_bits() {
        assert_eq!(serde_json::from_str::<NetworkId>("16777215").unwrap().0.get(), KeyId::MAX);
        for bad in ["16777216", "-1", "1.5", "\"1\"", "null"] {
            assert!(serde_json::from_str::<NetworkId>(bad).is_err(), "{bad}");
        }
    }
}
