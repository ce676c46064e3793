//! The gateway that holds the keys of the vectors, and what several of them are compared by.

use lastroute::auth::keys::{DeviceKey, Interface, KeyPair, KeyRing, RootKey, device_key_id};
use lastroute::auth::{Authenticator, Refusal};
use lastroute::clock::Timestamp;
use lastroute::wire::frame::{Frame, FrameError, Header, Layout, PacketType};

use crate::fields::Fields;

/// When the vectors were made.
pub(crate) const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_400_001);

/// An authentic packet, copied out.
pub(crate) struct Opened {
    pub(crate) header: Header,
    pub(crate) entropy: Option<u16>,
    pub(crate) payload: Vec<u8>,
}

/// Why bytes are no authentic packet.
#[derive(Debug, PartialEq)]
pub(crate) enum Rejected {
    Frame(FrameError),
    Refused(Refusal),
}

/// The gateway that holds the keys of the vectors.
pub(crate) struct Gateway {
    pub(crate) pair: KeyPair,
    pub(crate) ring: KeyRing,
    pub(crate) authenticator: Authenticator,
}

impl Gateway {
    /// Checks every key of the ring on the way.
    pub(crate) fn of(mut keyring: Fields) -> Self {
        let ring = KeyRing::default();
        let mut cloud = keyring.object("cloud");
        let pair = KeyPair::from_private(cloud.array("private"));
        cloud.is_hex("public", &pair.public());
        cloud.end();
        for network in keyring.list("networks") {
            let mut network = Fields::of(&network);
            let id = network.key_id("id");
            network.is("id_hex", format!("{:06x}", id.get()));
            ring.set_network(id, network.root("key"));
            network.end();
        }
        for device in keyring.list("devices") {
            let mut device = Fields::of(&device);
            let public = device.array("device_public");
            let key_id = device.key_id("device_key_id");
            assert_eq!(device_key_id(&pair.public(), &public), key_id);
            let root = pair.shared_root(public).unwrap();
            assert_same_root(&root, &device.root("root_key"));
            ring.set_device(device.device_id("device_id"), DeviceKey { key_id: Some(key_id), root }, None);
            device.ignore(&["network_id"]);
            device.end();
        }
        keyring.end();
        Self { pair, ring, authenticator: Authenticator::default() }
    }

    pub(crate) fn open(&mut self, bytes: &[u8], layout: Layout, interface: Interface) -> Result<Opened, Rejected> {
        let mut bytes = bytes.to_vec();
        let frame = Frame::parse(&mut bytes, layout).map_err(Rejected::Frame)?;
        let verified = self.authenticator.open(&self.ring, frame, interface, NOW).map_err(Rejected::Refused)?;
        let (header, entropy, payload) = (*verified.header(), verified.entropy(), verified.payload().to_vec());
        assert_eq!(verified.level(), header.level());
        Ok(Opened { header, entropy, payload })
    }

    pub(crate) fn open_udp(&mut self, bytes: &[u8]) -> Result<Opened, Rejected> {
        self.open(bytes, Layout::Unversioned, Interface::Udp)
    }

    pub(crate) fn seal(&mut self, opened: &Opened, layout: Layout, interface: Interface) -> Vec<u8> {
        let mut out = Vec::new();
        self.authenticator.seal(&self.ring, &opened.header, layout, interface, &opened.payload, &mut out).unwrap();
        out
    }
}

/// Keys show nothing of themselves, so they are compared by what they derive.
pub(crate) fn assert_same_root(one: &RootKey, other: &RootKey) {
    assert_eq!(one.derive(b"salt", b"info"), other.derive(b"salt", b"info"));
}

pub(crate) fn type_name(packet_type: PacketType) -> String {
    match packet_type.name() {
        "customer" => format!("CUSTOMER_{}", packet_type.0),
        name => name.to_uppercase(),
    }
}

/// Salt, info and derived key of a packet of `gps_time`.
pub(crate) fn check_derivation(vector: &mut Fields, gps_time: u32, info: &str) {
    let salt = vector.bytes("salt");
    assert_eq!(salt, (gps_time / 86_400).to_le_bytes());
    vector.is("info", info);
    let derived = vector.root("root_key").derive(&salt, info.as_bytes());
    vector.is_hex("derived_key", &derived);
}
