//! Tests of [`super`]: calls to a fleet on real sockets.

use std::net::SocketAddr;

use super::tests::{Gateway, during, lively};
use super::*;
use crate::auth::keys::{DeviceKey, KeyPair};
use crate::wire::frame::{Flags, Header, PacketType};

/// Receives until a packet of this type.
async fn until(gateway: &mut Gateway, packet_type: PacketType) -> (SocketAddr, Header) {
    loop {
        let (source, header) = gateway.receive().await;
        if header.packet_type == packet_type {
            return (source, header);
        }
    }
}

#[tokio::test]
async fn calls_are_carried_out_as_often_as_they_come_and_data_moves_without_waiting_for_telemetry() {
    let mut gateway = Gateway::open().await;
    let config = Config { devices: 1, cadence: Duration::from_secs(3600), ack_share: 0.0, ..lively(&gateway) };
    let script = async {
        let (source, Header { device_id, .. }) = gateway.receive().await;
        // An echo, twice the same request; then file_write_basic of 4 bytes, and then one without its data.
        for call in [&b"\x07\0\0\0\xff\x7fhello"[..], b"\x07\0\0\0\xff\x7fhello"] {
            gateway.send(source, device_id, PacketType::RPC_CMD, call).await;
            until(&mut gateway, PacketType::RPC_RSP).await;
        }
        let write = |request_id: u8| [request_id, 0, 0, 0, 40, 0, 4, 0, 0, 0, 1];
        gateway.send(source, device_id, PacketType::RPC_CMD, &write(8)).await;
        until(&mut gateway, PacketType::RPC_DATA_ACK).await;
        gateway.send(source, device_id, PacketType::RPC_DATA, b"\x08\0\0\0\0\0\0\0data").await;
        until(&mut gateway, PacketType::RPC_RSP).await;
        gateway.send(source, device_id, PacketType::RPC_CMD, &write(9)).await;
        until(&mut gateway, PacketType::RPC_RSP).await;
    };
    let summary = during(config, script).await;
    let counts = [Count::Executed, Count::ExecutedAgain, Count::CallAnswers, Count::CallData, Count::CallsLost];
    assert_eq!(counts.map(|count| summary.get(count)), [4, 1, 4, 3, 0], "{summary}");
}

#[tokio::test]
async fn a_device_that_was_called_to_boots_anew_and_is_expected_to_count() {
    let mut gateway = Gateway::open().await;
    let cloud_public = KeyPair::from_private([0x11; 32]).public();
    let config = Config { devices: 1, cloud_public, ack_share: 0.0, no_time: 0.0, ..lively(&gateway) };
    let device = config.identities().unwrap().remove(0);
    gateway.ring.set_device(device.id, DeviceKey { key_id: Some(device.key_id), root: device.root }, None);
    let script = async {
        let (source, _) = gateway.receive().await;
        for _ in 0..3 {
            until(&mut gateway, PacketType::TDF).await;
        }
        let under = (device.key_id, Flags(Flags::DEVICE_KEY));
        gateway.send_under(source, under, device.id, PacketType::RPC_CMD, b"\x07\0\0\0\x01\0").await;
        until(&mut gateway, PacketType::RPC_RSP).await;
        let (_, boot) = until(&mut gateway, PacketType::KEY_IDS).await;
        assert_eq!(boot.sequence, 0);
        until(&mut gateway, PacketType::TDF).await;
    };
    let summary = during(config, script).await;
    assert_eq!((summary.get(Count::KeyIds), summary.get(Count::TooLate)), (2, 0), "{summary}");
    assert_eq!(summary.get(Count::ToAccept), summary.sent);
}
