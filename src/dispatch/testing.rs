//! Messages for tests.

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::downlink::intent::{Retry, Sealing};
use crate::id::DeviceId;
use crate::records::Device;
use crate::records::message::{Message, MessageCall, MessageStatus};
use crate::status::Time;
use crate::wire::frame::PacketType;

pub(super) const DEVICE: DeviceId = DeviceId(0xd000_0000_0000_1001);

pub(super) fn call() -> MessageCall {
    MessageCall { request_id: 77, command_id: 5, data: None }
}

/// A call that waits.
pub(super) fn message() -> Message {
    let [created_at, expires_at] = [1000, 61_000].map(|ms| Time(Timestamp(ms)));
    Message {
        n: 1,
        id: Uuid::from_u128(1),
        downlink_id: Uuid::from_u128(2),
        created_at,
        updated_at: created_at,
        device: device(),
        organisation: 3,
        packet_type: PacketType::RPC_CMD,
        sealing: Sealing::Best,
        level: None,
        call: Some(call()),
        payload: [].into(),
        data_len: None,
        send_wait_timeout_ms: 60_000,
        retry: Retry::Never,
        if_route: None,
        status: MessageStatus::Waiting,
        expires_at,
        sent_at: None,
        attempts: 0,
        completed_at: None,
        route: None,
        answer: None,
        received_len: None,
        note: None,
        terminated: None,
    }
}

fn device() -> Device {
    let at = Time(Timestamp(0));
    Device {
        id: Uuid::from_u128(4),
        created_at: at,
        updated_at: at,
        mcu_id: "0011223344556677".parse().unwrap(),
        board_id: Uuid::from_u128(5),
        organisation_id: Uuid::from_u128(6),
        device_id: DEVICE,
        metadata: Default::default(),
        initial_device_state: None,
    }
}
