//! A line of a list: a device whose organisation and board may go by their names.

use serde::Deserialize;
use serde::de::IgnoredAny;
use uuid::Uuid;

use super::{quoted, shown};
use crate::id::DeviceId;
use crate::records::{Key32, McuId, Metadata, NewDeviceState, present};

/// What a line says. Fields that it does not have are refused, since a misspelt one would be lost without a word.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Draft {
    /// Every device has one; that it is there is seen to with the names.
    #[serde(default, deserialize_with = "present")]
    pub(super) mcu_id: Option<McuId>,
    #[serde(default, deserialize_with = "present")]
    pub(super) device_id: Option<DeviceId>,
    /// The organisation by its name or record id.
    #[serde(default, deserialize_with = "present")]
    pub(super) organisation: Option<String>,
    #[serde(default, deserialize_with = "present")]
    pub(super) organisation_id: Option<Uuid>,
    /// The board by its name or record id.
    #[serde(default, deserialize_with = "present")]
    pub(super) board: Option<String>,
    #[serde(default, deserialize_with = "present")]
    pub(super) board_id: Option<Uuid>,
    /// The system on chip of the board.
    #[serde(default, deserialize_with = "present")]
    pub(super) soc: Option<String>,
    #[serde(default)]
    pub(super) metadata: Metadata,
    #[serde(default, deserialize_with = "present")]
    pub(super) initial_device_state: Option<NewDeviceState>,
    #[serde(default, deserialize_with = "present")]
    pub(super) device_public_key: Option<Key32>,
    #[serde(default, deserialize_with = "present")]
    pub(super) device_root_key: Option<Key32>,
    /// What a record has beside that, and another gateway makes itself.
    #[serde(default, rename = "id")]
    pub(super) _id: Option<IgnoredAny>,
    #[serde(default, rename = "createdAt")]
    pub(super) _created_at: Option<IgnoredAny>,
    #[serde(default, rename = "updatedAt")]
    pub(super) _updated_at: Option<IgnoredAny>,
}

impl Draft {
    /// What a line of JSON says, or why it says nothing. No value is quoted, as it may be a key.
    pub(super) fn of_json(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| {
            let text = error.to_string();
            let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
            match error.column() {
                0 => unquoted(reason),
                column => format!("{} (column {column})", unquoted(reason)),
            }
        })
    }
}

/// The message of a parser without the value that it complains of, and of bounded length: a line has room for a long name.
fn unquoted(message: &str) -> String {
    if let Some((name, known)) =
        message.strip_prefix("unknown field `").and_then(|rest| rest.rsplit_once("`, expected one of "))
    {
        return format!("unknown field {}, expected one of {known}", shown(name));
    }
    let found = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((found, expected)) = found.and_then(|found| found.rsplit_once(", expected ")) else {
        return quoted(message);
    };
    let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
    format!("{kind} in the place of {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_organisation_and_board_in_any_way_and_may_be_a_record() {
        let line = br#"{"id":"x","createdAt":1,"updatedAt":{},"mcuId":"00AA","deviceId":"d291d4d66bf0a955",
            "organisation":"plant","board":"b","soc":"nRF9151","metadata":{"serial":"7"},
            "initialDeviceState":{"applicationId":5},"deviceRootKey":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}"#;
        let draft = Draft::of_json(line).unwrap();
        let hardware = draft.mcu_id.unwrap();
        assert_eq!((hardware.as_str(), draft.device_id), ("00aa", Some(DeviceId(0xd291_d4d6_6bf0_a955))));
        let named = [draft.organisation, draft.board, draft.soc].map(Option::unwrap);
        assert_eq!(named, ["plant", "b", "nRF9151"]);
        assert_eq!((draft.metadata["serial"].as_str(), draft.device_root_key.is_some()), ("7", true));
        assert_eq!(Draft::of_json(b"{}"), Ok(Draft::default()));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told_without_its_values() {
        for (line, expected) in [
            ("", "EOF while parsing a value"),
            ("{", "EOF while parsing an object (column 1)"),
            ("{\"mcuId\":\"0\"}", "an MCU id is pairs of hex digits"),
            ("{\"mcuId\":\"00\"} x", "trailing characters (column 16)"),
            ("{\"mcuId\":\"00\",\"mcuId\":\"00\"}", "duplicate field `mcuId` (column 21)"),
            (
                "{\"mcuId\":\"00\",\"deviceID\":\"1\"}",
                "unknown field \"deviceID\", expected one of `mcuId`, `deviceId`",
            ),
            ("{\"mcuId\":\"00\",\"deviceId\":\"secret\"}", "a device id is 16 hex digits"),
            ("{\"mcuId\":\"00\",\"deviceRootKey\":12345}", "integer in the place of a key of 32 bytes in base64 (col"),
            ("{\"mcuId\":\"00\",\"deviceRootKey\":\"secret\"}", "a key is 32 bytes in base64"),
            ("{\"mcuId\":\"00\",\"deviceRootKey\":null}", "null in the place of a key of 32 bytes"),
            ("{\"mcuId\":\"00\",\"metadata\":\"secret\"}", "string in the place of a map (column"),
            ("{\"mcuId\":\"00\",\"metadata\":{\"a\":1}}", "integer in the place of a string (column"),
            ("{\"mcuId\":\"00\",\"organisationId\":\"secret\"}", "UUID parsing failed"),
            ("\"secret\"", "string in the place of struct Draft"),
        ] {
            let error = Draft::of_json(line.as_bytes()).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("secret"), "{line}: {error}");
            assert!(!error.contains("12345"), "{error}");
        }
        for (name, shown) in [
            ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "(a key, which is not shown)".to_owned()),
            (&"x".repeat(1 << 20), format!("\"{}\"", "x".repeat(300))),
        ] {
            let error = Draft::of_json(format!("{{\"{name}\":1}}").as_bytes()).unwrap_err();
            assert!(error.starts_with(&format!("unknown field {shown}, expected one of `mcuId`")), "{error}");
        }
        assert!(Draft::of_json(b"{\"mcuId\":\"\xff\"}").unwrap_err().contains("unicode"));
    }
}
