//! Derivations, key pairs, key ids.

use lastroute::auth::Authenticator;
use lastroute::auth::keys::{DeviceKey, FACTORY_NETWORK_KEY, KeyPair, KeyRing, RootKey, device_key_id};
use lastroute::id::KeyId;

use crate::fields::{Fields, file};
use crate::gateway::{Gateway, assert_same_root};

pub(crate) fn check_hkdf(vector: &mut Fields) {
    vector.is("length", 32);
    let (salt, info) = (vector.bytes("salt"), vector.text("info"));
    let derived = vector.root("ikm").derive(&salt, info.as_bytes());
    vector.is_hex("okm", &derived);
}

pub(crate) fn check_root(vector: &mut Fields) {
    let cloud = KeyPair::from_private(vector.array("cloud_private"));
    let device = KeyPair::from_private(vector.array("device_private"));
    let root = vector.root("root_key");
    assert_same_root(&cloud.shared_root(device.public()).unwrap(), &root);
    assert_same_root(&device.shared_root(cloud.public()).unwrap(), &root);
    vector.ignore(&["device_id"]);
    let publics = check_key_id(vector);
    assert_eq!(publics, [cloud.public(), device.public()]);
}

/// Returns the gateway's and the device's public key.
pub(crate) fn check_key_id(vector: &mut Fields) -> [[u8; 32]; 2] {
    let publics = ["cloud_public", "device_public"].map(|key| vector.array(key));
    let key_id = device_key_id(&publics[0], &publics[1]);
    vector.is("device_key_id", key_id.get());
    vector.is_hex("device_key_id_bytes", &key_id.to_le_bytes());
    publics
}

#[test]
fn the_keys_of_every_captured_device_are_derived_and_open_what_it_sent() {
    let mut days = 0;
    for run in file("firmware-capture.json").list("runs") {
        let mut run = Fields::of(&run);
        println!("{}", run.text("name"));
        let mut keys = run.object("keys");
        let gateway_pair = KeyPair::from_private(keys.array("cloud_private_key"));
        let device_pair = KeyPair::from_private(keys.array("device_private_key"));
        keys.is_hex("cloud_public_key", &gateway_pair.public());
        keys.is_hex("device_public_key", &device_pair.public());
        let key_id = device_key_id(&gateway_pair.public(), &device_pair.public());
        keys.is("device_key_id", key_id.get());
        let root = gateway_pair.shared_root(device_pair.public()).unwrap();
        assert_same_root(&root, &keys.root("device_root_key"));
        keys.is_hex("device_sign_key", &root.derive(&[0x34, 0x12, 0, 0], b"sign"));
        let network = keys.root("network_root_key");
        for (day, derived) in &keys.object("derived").0 {
            let (salt, mut derived) = (day.parse::<u32>().unwrap().to_le_bytes(), Fields::of(derived));
            derived.is_hex("udp_network", &network.derive(&salt, b"udp"));
            derived.is_hex("udp_device", &root.derive(&salt, b"udp"));
            derived.end();
            days += 1;
        }
        let ring = KeyRing::default();
        ring.set_network(keys.key_id("network_id"), network);
        ring.set_network(KeyId::from_le_bytes([0; 3]), RootKey::new(FACTORY_NETWORK_KEY));
        ring.set_device(run.device_id("device_id"), DeviceKey { key_id: Some(key_id), root }, None);
        keys.end();
        let mut gateway = Gateway { pair: gateway_pair, ring, authenticator: Authenticator::default() };
        for datagram in run.list("datagrams").iter().filter(|datagram| datagram["dir"] == "up") {
            let opened = gateway.open_udp(&Fields::of(datagram).bytes("hex")).unwrap();
            assert!(!opened.header.packet_type.is_downlink_only());
        }
    }
    assert_eq!(days, 25);
}
