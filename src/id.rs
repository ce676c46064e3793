//! Identifiers and their text forms. Nothing else converts them to or from text, but that the API writes the cursors of last
//! routes itself, in the same form.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

/// A device: 64 bits, written as 16 lower-case hex digits (docs/protocol.md, frames).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u64);

/// A 24-bit key identifier: the network id at network level, the device key id at device level (docs/protocol.md, keys).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(u32);

/// A position in one device's stream of counted packets, written `<epoch>-<n>` in decimal.
///
/// Positions of different epochs cannot be compared: the count was or could have been lost between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Which count `n` belongs to; never repeated, over restarts either.
    pub epoch: u64,
    /// Packets counted in this epoch; 0 before the first.
    pub n: u64,
}

/// An event of a stream that somebody follows, written `<stream>-<n>` in decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId {
    /// The stream: another one for each that is begun, over restarts too.
    pub stream: u64,
    /// Events told so far, this one included; 0 before the first.
    pub n: u64,
}

/// Why a text is not an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 16 hex digits.
    #[error("a device id is 16 hex digits, for example d291d4d66bf0a955")]
    Device,
    /// Not 6 hex digits.
    #[error("a key id is 6 hex digits, for example 000a17")]
    Key,
    /// Not `<epoch>-<n>`.
    #[error("a cursor is two decimal numbers joined by '-', as the gateway returned it")]
    Cursor,
    /// Not `<stream>-<n>`.
    #[error("an event id is two decimal numbers joined by '-', as the gateway sent it")]
    Event,
}

impl KeyId {
    /// The greatest key id: 24 bits.
    pub const MAX: u32 = 0xff_ffff;

    /// `None` above 24 bits.
    pub const fn new(value: u32) -> Option<Self> {
        if value <= Self::MAX { Some(Self(value)) } else { None }
    }

    /// The three bytes of the wire, least significant first.
    pub const fn from_le_bytes(bytes: [u8; 3]) -> Self {
        Self(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]))
    }

    /// The three bytes of the wire, least significant first.
    pub const fn to_le_bytes(self) -> [u8; 3] {
        let bytes = self.0.to_le_bytes();
        [bytes[0], bytes[1], bytes[2]]
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DeviceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        hex(text, 16).map(Self).ok_or(IdError::Device)
    }
}

/// The number of exactly `digits` hex digits, at most 16.
fn hex(text: &str, digits: usize) -> Option<u64> {
    let mut bytes = (text.len() == digits).then(|| text.bytes())?;
    bytes.try_fold(0, |number, byte| Some(number << 4 | u64::from(char::from(byte).to_digit(16)?)))
}

impl Serialize for DeviceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:06x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = IdError;

    /// Takes six hex digits, `0x` before them or not.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        hex(digits, 6).and_then(|number| u32::try_from(number).ok()).and_then(Self::new).ok_or(IdError::Key)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.n)
    }
}

impl FromStr for Cursor {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (epoch, n) = two_numbers(text).ok_or(IdError::Cursor)?;
        Ok(Self { epoch, n })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stream, self.n)
    }
}

impl FromStr for EventId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (stream, n) = two_numbers(text).ok_or(IdError::Event)?;
        Ok(Self { stream, n })
    }
}

/// Two decimal numbers joined by `-`, and nothing else.
fn two_numbers(text: &str) -> Option<(u64, u64)> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    let (first, second) = text.split_once('-')?;
    Some((number(first)?, number(second)?))
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_id_text_is_16_lower_case_hex_digits() {
        assert_eq!(DeviceId(0x1001).to_string(), "0000000000001001");
        assert_eq!("D291D4D66BF0A955".parse(), Ok(DeviceId(0xd291_d4d6_6bf0_a955)));
        for bad in ["", "1001", "+000000000001001", "00000000000010010", "000000000000100g", "00000000000010é"] {
            assert_eq!(bad.parse::<DeviceId>(), Err(IdError::Device), "{bad}");
        }
    }

    #[test]
    fn cursor_and_event_text_round_trips_and_refuses_everything_else() {
        let cursor = Cursor { epoch: u64::MAX, n: 7 };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        let event = EventId { stream: 7, n: u64::MAX };
        assert_eq!(event.to_string().parse(), Ok(event));
        for bad in ["", "-", "1-", "-1", "1", "1-2-3", "+1-2", "1- 2", "18446744073709551616-0"] {
            assert_eq!(bad.parse::<Cursor>(), Err(IdError::Cursor), "{bad}");
            assert_eq!(bad.parse::<EventId>(), Err(IdError::Event), "{bad}");
        }
    }

    #[test]
    fn key_ids_have_24_bits() {
        assert_eq!(KeyId::new(0x100_0000), None);
        let id = KeyId::from_le_bytes([0x3c, 0x2b, 0x1a]);
        assert_eq!(
            (id.get(), id.to_le_bytes(), id.to_string()),
            (1_715_004, [0x3c, 0x2b, 0x1a], "0x1a2b3c".to_owned())
        );
    }

    #[test]
    fn key_id_text_is_six_hex_digits_with_or_without_0x() {
        let fleet = KeyId(0xa17);
        assert_eq!(["000a17", "0x000A17", &fleet.to_string()].map(str::parse), [Ok(fleet); 3]);
        for bad in ["", "0x", "a17", "0000a17", "0x0a17", "0X000a17", "00 a17", "+00a17", "00a17é"] {
            assert_eq!(bad.parse::<KeyId>(), Err(IdError::Key), "{bad}");
        }
    }
}
