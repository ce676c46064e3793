//! `explain` against a real gateway, as an operator meets it.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use lastroute::auth::keys::{Interface, RootKey};
use lastroute::auth::seal_with;
use lastroute::clock::Clock;
use lastroute::explain::{Explanation, Reachable};
use lastroute::id::DeviceId;
use lastroute::wire::frame::{Flags, Header, Layout, PacketType};

use crate::harness::{Client, Device, Gateway, NETWORK, NETWORK_KEY, eventually};

const ID: u64 = 0xd291_d4d6_6bf0_a955;
const PATH: &str = "/device/deviceId/d291d4d66bf0a955/explain";

/// The exit code and what is on standard output and standard error.
fn explain(http: SocketAddr, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
    command.env_clear().arg("explain").args(arguments).stdin(Stdio::null());
    let output = command.arg("--gateway-api").arg(format!("http://{http}")).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A frame that says to be from the device, sealed so many seconds ago under a key that has these bytes.
fn sealed(key: [u8; 32], seconds_ago: u32) -> Vec<u8> {
    let header = Header {
        packet_type: PacketType::TDF,
        flags: Flags(0),
        key_id: NETWORK,
        device_id: DeviceId(ID),
        gps_time: Clock::default().now().gps() - seconds_ago,
        sequence: 1,
        entropy: 1,
    };
    let key = RootKey::new(key).day_key(Interface::Udp, header.rotation());
    let mut bytes = Vec::new();
    seal_with(&key, &header, Layout::Unversioned, &[], &mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_explained_from_before_its_first_packet_on_and_with_what_claims_to_be_it() {
    let gateway = Gateway::start("");
    let id = DeviceId(ID).to_string();
    let (code, text, errors) = explain(gateway.http, &[&id]);
    assert_eq!((code, text.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains(&format!("can tell nothing of device {id}")) && errors.lines().count() == 1, "{errors}");

    let stranger = Device::new(ID, &gateway).await;
    stranger.send(&sealed([9; 32], 0)).await;
    let client = Client::http1(&gateway);
    eventually(async || client.get(PATH).await.status.is_success()).await;
    let (code, text, errors) = explain(gateway.http, &[&id]);
    assert_eq!((code, errors.as_str()), (Some(3), format!("lastroute: device {id} is not reachable\n").as_str()));
    assert!(
        text.starts_with("Never heard, as far as is remembered; 1 packet that claims to be it came from 127.0.0.1 at "),
        "{text}"
    );
    let claim = format!(
        "\nRefused packets that claim to be it; anybody may have sent them\n  1 x bad_tag, network key {NETWORK}"
    );
    assert!(text.contains(&claim), "{text}");
    assert!(text.contains(&format!("from {}\n", stranger.address())), "{text}");

    let mut device = Device::new(ID, &gateway).await;
    let before = client.cursor(device.id).await;
    device.report(Flags::ALWAYS_RX).await;
    client.wait(device.id, &before).await;
    let (code, text, errors) = explain(gateway.http, &[&id]);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
    let source = device.address();
    assert!(
        text.contains(&format!("ago from {source} (network level, fresh): reachable, it listens all the time;")),
        "{text}"
    );
    assert!(text.contains(&format!("accepted, R4.3 new session, route first, from {source}\n")), "{text}");
    let (code, json, _) = explain(gateway.http, &[&id, "--json"]);
    let told: Explanation = serde_json::from_str(&json).unwrap();
    assert_eq!((code, told.reachable, told.packets.len(), json.lines().count()), (Some(0), Reachable::Yes, 1, 1));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_from_elsewhere_is_challenged_and_explained_until_the_device_speaks_again() {
    let gateway = Gateway::start("");
    let client = Client::http1(&gateway);
    let (mut device, attacker) = (Device::new(ID, &gateway).await, Device::new(ID, &gateway).await);
    let before = client.cursor(device.id).await;
    device.report(0).await;
    client.wait(device.id, &before).await;
    let before = client.cursor(device.id).await;
    attacker.send(&sealed(NETWORK_KEY, 3600)).await;
    client.wait(device.id, &before).await;
    attacker.receive_bytes().await;
    let id = device.id.to_string();
    let (code, text, errors) = explain(gateway.http, &[&id]);
    // It may be a recording, so the device is where it was.
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
    let (here, there) = (device.address(), attacker.address());
    assert!(
        text.contains(&format!(" ago from {here} (network level, fresh): "))
            && text.contains(&format!("; a packet of it came from {there} "))
            && text.contains(" ago (network level, its clock 60 min behind) and moved nothing: "),
        "{text}"
    );
    assert!(text.contains(" with a wrong clock its packet may be a replay (R4.8), and it was challenged "), "{text}");
    assert!(
        text.contains(&format!("\nchallenged {there} ")) && text.contains(" without an answer (1 unanswered)."),
        "{text}"
    );
    assert!(text.contains(&format!("accepted, R4.8 unproven, route kept, from {there}\n")), "{text}");
    let before = client.cursor(device.id).await;
    device.report(0).await;
    client.wait(device.id, &before).await;
    assert_eq!(explain(gateway.http, &[&id]).0, Some(0));
    gateway.stop().await;
}

#[test]
fn what_cannot_be_asked_for_is_a_fault_of_the_command_line() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let (code, _, errors) = explain(nobody, &["d291"]);
    assert!(code == Some(2) && errors.contains("16 hex digits"), "{errors}");
    let (code, text, errors) = explain(nobody, &["d291d4d66bf0a955"]);
    assert_eq!((code, text.as_str(), errors.lines().count()), (Some(1), "", 1), "{errors}");
}
