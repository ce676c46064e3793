//! The files of tests/vectors: recorded traffic with its keys, frames with what should become of them, TDF payloads.

use std::net::SocketAddr;

use serde::Deserialize;

use super::input::Sink;
use super::{Datagram, DecodeError, Direction, Expected, Item, Key, Readings};
use crate::auth::keys::{DeviceKey, RootKey};
use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::metrics::Disposition;
use crate::wire::MAX_DATAGRAM;
use crate::wire::frame::PacketType;

/// Reads a file of any of the kinds. They tell themselves apart by what is at their top.
pub(super) fn read(name: &str, text: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    let misshapen = |error: serde_json::Error| {
        let place = format!("{name}:{}:{}", error.line(), error.column());
        // The message ends with the place, which is said already; it quotes no value of a right type.
        let text = error.to_string();
        let problem = text.split(" at line ").next().unwrap_or(&text).to_owned();
        DecodeError::input(place, problem, "give a file with the shape of those in tests/vectors")
    };
    let top: Top = serde_json::from_slice(text).map_err(misshapen)?;
    match (top.runs, top.keyring, top.vectors) {
        (Some(_), _, _) => {
            let capture: Capture = serde_json::from_slice(text).map_err(misshapen)?;
            capture.runs.into_iter().try_for_each(|run| run.read(name, sink))
        }
        (None, Some(_), Some(_)) => {
            let vectors: Vectors = serde_json::from_slice(text).map_err(misshapen)?;
            vectors.read(name, sink)
        }
        (None, None, Some(_)) => {
            let payloads: Payloads = serde_json::from_slice(text).map_err(misshapen)?;
            payloads.vectors.into_iter().try_for_each(|payload| payload.read(name, sink))
        }
        _ => Err(DecodeError::input(
            name,
            "JSON without `runs`, `keyring` or `vectors`",
            "give a file with the shape of those in tests/vectors",
        )),
    }
}

/// Which of the kinds it is.
#[derive(Deserialize)]
struct Top {
    runs: Option<serde::de::IgnoredAny>,
    keyring: Option<serde::de::IgnoredAny>,
    vectors: Option<serde::de::IgnoredAny>,
}

/// A root key, in hex.
struct Root([u8; 32]);

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|_| serde::de::Error::custom("a key that is not 64 hex digits"))?;
        Ok(Self(bytes))
    }
}

/// Bytes in hex.
struct Hex(Vec<u8>);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

fn key_id<E: serde::de::Error>(number: u32) -> Result<KeyId, E> {
    KeyId::new(number).ok_or_else(|| E::custom("a key id of more than 24 bits"))
}

struct Id(KeyId);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        key_id(u32::deserialize(deserializer)?).map(Self)
    }
}

fn network_key(id: &Id, root: &Root) -> Key {
    Key::Network(id.0, RootKey::new(root.0))
}

fn device_key(device: DeviceId, key_id: &Id, root: &Root) -> Key {
    Key::Device(device, DeviceKey { key_id: Some(key_id.0), root: RootKey::new(root.0) })
}

/// Recorded traffic of devices.
#[derive(Deserialize)]
struct Capture {
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    name: String,
    device_id: DeviceId,
    keys: RunKeys,
    datagrams: Vec<Captured>,
}

#[derive(Deserialize)]
struct RunKeys {
    network_id: Id,
    network_root_key: Root,
    device_root_key: Root,
    device_key_id: Id,
}

#[derive(Deserialize)]
struct Captured {
    time: f64,
    dir: Dir,
    addr: SocketAddr,
    hex: Hex,
    #[serde(rename = "timeClass")]
    time_class: Option<String>,
    note: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Dir {
    #[serde(alias = "uplink")]
    Up,
    #[serde(alias = "downlink")]
    Down,
}

impl From<Dir> for Direction {
    fn from(dir: Dir) -> Self {
        match dir {
            Dir::Up => Self::Up,
            Dir::Down => Self::Down,
        }
    }
}

impl Run {
    fn read(self, file: &str, sink: &mut Sink<'_>) -> Result<(), DecodeError> {
        let keys = &self.keys;
        sink(Item::Keys(vec![
            network_key(&keys.network_id, &keys.network_root_key),
            device_key(self.device_id, &keys.device_key_id, &keys.device_root_key),
        ]))?;
        for (index, captured) in self.datagrams.into_iter().enumerate() {
            let origin = format!("{file}: run {} datagram {}", self.name, index + 1);
            sink(Item::Datagram(Box::new(captured.datagram(origin))))?;
        }
        Ok(())
    }
}

impl Captured {
    fn datagram(self, origin: String) -> Datagram {
        let direction = Direction::from(self.dir);
        let (from, to) = match direction {
            Direction::Up => (Some(self.addr), None),
            Direction::Down => (None, Some(self.addr)),
        };
        Datagram {
            direction,
            from,
            to,
            at: Some(Timestamp((self.time * 1000.0) as u64)),
            note: self.note,
            expected: self.time_class.map(Expected::Counted),
            ..Datagram::new(origin, self.hex.0)
        }
    }
}

/// Frames with the keys of a gateway.
#[derive(Deserialize)]
struct Vectors {
    keyring: Keyring,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Keyring {
    networks: Vec<NetworkKey>,
    devices: Vec<RingDevice>,
}

#[derive(Deserialize)]
struct NetworkKey {
    id: Id,
    key: Root,
}

#[derive(Deserialize)]
struct RingDevice {
    device_id: DeviceId,
    device_key_id: Id,
    root_key: Root,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    expect: String,
    direction: Option<Dir>,
    stage: Option<String>,
    entries_ok: Option<usize>,
    reason: Option<String>,
    note: Option<String>,
    /// Only frames have one.
    datagram: Option<Hex>,
}

impl Vectors {
    fn read(self, file: &str, sink: &mut Sink<'_>) -> Result<(), DecodeError> {
        let Keyring { networks, devices } = &self.keyring;
        let networks = networks.iter().map(|network| network_key(&network.id, &network.key));
        let devices =
            devices.iter().map(|device| device_key(device.device_id, &device.device_key_id, &device.root_key));
        sink(Item::Keys(networks.chain(devices).collect()))?;
        self.vectors
            .into_iter()
            .filter_map(|vector| vector.datagram(file))
            .try_for_each(|datagram| sink(Item::Datagram(Box::new(datagram))))
    }
}

impl Vector {
    fn datagram(self, file: &str) -> Option<Datagram> {
        let expected = self.expected();
        let origin = format!("{file}: {}", self.name);
        Some(Datagram {
            direction: self.direction.unwrap_or(Dir::Up).into(),
            note: self.note.or(self.reason),
            expected,
            ..Datagram::new(origin, self.datagram?.0)
        })
    }

    fn expected(&self) -> Option<Expected> {
        if self.expect != "reject" {
            return Some(Expected::Authentic);
        }
        Some(match self.stage.as_deref()? {
            "length" => Expected::Refused(Disposition::Short),
            "network_unknown" => Expected::Refused(Disposition::UnknownNetwork),
            "device_unknown" => Expected::Refused(Disposition::UnknownDevice),
            "key_id" => Expected::Refused(Disposition::UnknownKey),
            "tag" => Expected::Refused(Disposition::BadTag),
            "direction" => Expected::Refused(Disposition::Reflected),
            "container" => Expected::Entries(self.entries_ok?),
            _ => return None,
        })
    }
}

/// TDF payloads without frames.
#[derive(Deserialize)]
struct Payloads {
    vectors: Vec<Payload>,
}

#[derive(Deserialize)]
struct Payload {
    name: String,
    #[serde(rename = "type")]
    kind: u8,
    malformed: bool,
    payload: Hex,
}

impl Payload {
    /// The tree of an explanation is many times as long as its bytes; frames have their bound in the parser.
    fn read(self, file: &str, sink: &mut Sink<'_>) -> Result<(), DecodeError> {
        let origin = format!("{file}: {}", self.name);
        let len = self.payload.0.len();
        if len > MAX_DATAGRAM {
            let problem = format!("a payload of {len} bytes, more than the {MAX_DATAGRAM} of the longest datagram");
            return Err(DecodeError::input(origin, problem, "give the plaintext of one packet"));
        }
        sink(Item::Readings(Readings {
            origin,
            kind: PacketType(self.kind),
            bytes: self.payload.0,
            expected: Expected::Malformed(self.malformed),
        }))
    }
}
