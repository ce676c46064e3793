//! What real firmware, and the published vectors, say of keys and of forwarding. The rest of the capture is for tests/capture.rs.
#![allow(clippy::unwrap_used, reason = "a test whose vectors cannot be read fails")]

use std::collections::BTreeMap;

use serde_json::Value;

use crate::auth::identity::{Checked, KeyAnswerError, check_key_answer};
use crate::auth::keys::{DeviceKey, Interface, KeyPair, KeyRing, RootKey, device_key_id};
use crate::auth::{Authenticator, Refusal};
use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::wire::forward::AutoConnect;
use crate::wire::frame::{Frame, Header, Layout, Level, PacketType};
use crate::wire::rpc::{Command, Response};
use crate::wire::security::SECURITY_STATE;

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn key(value: &Value) -> [u8; 32] {
    bytes(value).try_into().unwrap()
}

fn key_id(value: &Value) -> KeyId {
    KeyId::new(value.as_u64().unwrap() as u32).unwrap()
}

/// One run of a device, with the keys of both sides.
struct Run {
    keys: Value,
    device: DeviceId,
    ring: KeyRing,
    authenticator: Authenticator,
    datagrams: Vec<Vec<u8>>,
}

/// A packet that opened.
struct Opened {
    header: Header,
    payload: Vec<u8>,
}

impl Run {
    fn of(run: &Value) -> Self {
        let keys = run["keys"].clone();
        let device: DeviceId = run["device_id"].as_str().unwrap().parse().unwrap();
        let ring = KeyRing::default();
        ring.set_network(key_id(&keys["network_id"]), RootKey::new(key(&keys["network_root_key"])));
        let root = RootKey::new(key(&keys["device_root_key"]));
        ring.set_device(device, DeviceKey { key_id: Some(key_id(&keys["device_key_id"])), root }, None);
        let datagrams = run["datagrams"].as_array().unwrap().iter().map(|datagram| bytes(&datagram["hex"])).collect();
        Self { keys, device, ring, authenticator: Authenticator::default(), datagrams }
    }

    fn open(&mut self, datagram: &[u8]) -> Result<Opened, Refusal> {
        let mut copy = datagram.to_vec();
        let Ok(frame) = Frame::parse(&mut copy, Layout::Unversioned) else { return Err(Refusal::BadTag) };
        let now = Timestamp::from_gps(frame.header().gps_time);
        let verified = self.authenticator.open(&self.ring, frame, Interface::Udp, now)?;
        Ok(Opened { header: *verified.header(), payload: verified.payload().to_vec() })
    }
}

fn runs() -> Vec<Run> {
    let capture: Value = serde_json::from_str(include_str!("../../tests/vectors/firmware-capture.json")).unwrap();
    capture["runs"].as_array().unwrap().iter().map(Run::of).collect()
}

#[test]
fn the_firmware_s_answers_to_security_state_prove_its_keys() {
    let mut checked_answers = 0;
    for mut run in runs() {
        let mut challenges = BTreeMap::<u32, [u8; 16]>::new();
        let cloud = KeyPair::from_private(key(&run.keys["cloud_private_key"]));
        let root = RootKey::new(key(&run.keys["device_root_key"]));
        let device_public = key(&run.keys["device_public_key"]);
        for datagram in run.datagrams.clone() {
            let Ok(Opened { header, payload }) = run.open(&datagram) else { continue };
            if let (PacketType::RPC_CMD, Some(command)) = (header.packet_type, Command::parse(&payload))
                && command.command_id == SECURITY_STATE
            {
                challenges.insert(command.request_id, command.parameters.try_into().unwrap());
            }
            let (PacketType::RPC_RSP, Some(response)) = (header.packet_type, Response::parse(&payload)) else {
                continue;
            };
            let Some(challenge) = challenges.get(&response.request_id) else { continue };
            let check = |pair: &KeyPair, given: Option<&RootKey>, challenge: &[u8; 16]| {
                check_key_answer(pair, given, response.body, challenge, run.device)
            };
            let proved = |checked: &Checked| {
                assert_eq!(checked.root.bytes(), root.bytes());
                assert_eq!((checked.device_public, checked.cloud_public), (device_public, cloud.public()));
                assert_eq!(checked.key_id, key_id(&run.keys["device_key_id"]));
                assert_eq!(u64::from(checked.network), run.keys["network_id"].as_u64().unwrap());
                assert_eq!(checked.hardware_id[8..], [0; 8]);
            };
            let ours = check(&cloud, None, challenge).unwrap();
            proved(&ours);
            assert!(ours.secondary.is_none());
            let stranger = KeyPair::from_private([3; 32]);
            let given = check(&stranger, Some(&root), challenge).unwrap();
            proved(&given);
            let secondary = given.secondary.unwrap();
            assert_eq!(secondary.key_id, Some(device_key_id(&stranger.public(), &device_public)));
            assert_eq!(check(&stranger, None, challenge).unwrap_err(), KeyAnswerError::OtherCloud);
            assert_eq!(check(&cloud, None, &[0; 16]).unwrap_err(), KeyAnswerError::Challenge);
            checked_answers += 1;
        }
    }
    assert_eq!(checked_answers, 2);
}

fn vector(name: &str) -> (Value, Value) {
    let file: Value = serde_json::from_str(include_str!("../../tests/vectors/epacket-v0.json")).unwrap();
    let vector = file["vectors"].as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap();
    (file["keyring"].clone(), vector.clone())
}

#[test]
fn the_published_answer_to_security_state_proves_its_keys() {
    let (keyring, vector) = vector("up-rsp-security-state");
    let cloud = KeyPair::from_private(key(&keyring["cloud"]["private"]));
    let device: DeviceId = vector["device_id"].as_str().unwrap().parse().unwrap();
    let state = &vector["security_state"];
    let payload = bytes(&vector["plaintext"]);
    let response = Response::parse(&payload).unwrap();
    let challenge: [u8; 16] = bytes(&state["challenge"]).try_into().unwrap();
    let checked = check_key_answer(&cloud, None, response.body, &challenge, device).unwrap();
    assert_eq!(checked.hardware_id[..], bytes(&state["hardware_id"]));
    assert_eq!(checked.device_public, key(&state["device_public"]));
    assert_eq!(u64::from(checked.network), state["network_id"].as_u64().unwrap());
    assert_eq!(checked.root.bytes(), &key(&keyring["devices"][0]["root_key"]));
    assert_eq!(checked.key_id, key_id(&keyring["devices"][0]["device_key_id"]));
}

#[test]
fn the_published_forward_is_read_and_made_again() {
    let (_, vector) = vector("down-forward-auto-conn");
    let (plaintext, forward) = (bytes(&vector["plaintext"]), &vector["forward"]);
    let auto = AutoConnect::parse(&plaintext).unwrap();
    assert_eq!(auto.frame, bytes(&forward["inner_frame"]));
    assert_eq!(auto.address.to_string(), forward["address_text"].as_str().unwrap());
    assert_eq!(u64::from(auto.interface.id()), forward["interface"].as_u64().unwrap());
    let numbers = [auto.flags, auto.connect_timeout, auto.idle_timeout, auto.absolute_timeout].map(u64::from);
    let names = ["flags", "conn_timeout", "conn_idle_timeout", "conn_absolute_timeout"];
    assert_eq!(numbers, names.map(|name| forward[name].as_u64().unwrap()));
    let mut again = Vec::new();
    auto.encode(&mut again);
    assert_eq!(again, plaintext);
    assert_eq!(Level::Device.name(), vector["auth"].as_str().unwrap());
}
