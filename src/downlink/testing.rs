//! What tests of downlinks have in common.

use std::sync::Arc;

use super::channel::{EventReceiver, Events, channel};
use super::event::{Event, Listening, Through, Way};
use super::intent::{Call, DataPhase, Intent, Retry, Sealing};
use super::outbox::{Decision, Outbox, OutboxConfig};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::route::{DirectRoute, Route, Trust};
use crate::wire::container::BtAddress;
use crate::wire::frame::{Level, PacketType};
use crate::wire::rpc::Response;

pub(super) const DEVICE: DeviceId = DeviceId(42);
pub(super) const RELAY: DeviceId = DeviceId(7);
pub(super) const BT: BtAddress = BtAddress { kind: 1, bytes: [1, 2, 3, 4, 5, 0xc6] };
/// 2026-11-23T03:00:00Z
pub(super) const NOW: Timestamp = Timestamp(1_795_402_800_000);
pub(super) const LISTENING: Listening = Listening { always_rx: true, single_tx: false, heard_at: NOW };

pub(super) fn later(ms: u64) -> Timestamp {
    Timestamp(NOW.0 + ms)
}

/// One that waits for a minute.
pub(super) fn intent(message: i64) -> Intent {
    Intent {
        message,
        packet_type: PacketType::ECHO_REQ,
        sealing: Sealing::Best,
        payload: Arc::from([1, 2, 3]),
        call: None,
        expires_at: Some(later(60_000)),
        retry: Retry::Never,
        if_route: None,
    }
}

/// A call of command 9, whose request id is the number of its message.
pub(super) fn call(message: i64, data: Option<DataPhase>) -> Intent {
    let call = Some(Call { request_id: message as u32, command_id: 9, data });
    Intent { packet_type: PacketType::RPC_CMD, call, ..intent(message) }
}

pub(super) fn towards(len: usize) -> Option<DataPhase> {
    Some(DataPhase::Towards { data: vec![7; len].into(), ack_period: 1 })
}

pub(super) fn way(level: Level) -> Way {
    Way { sequence: 5, level, address: "203.0.113.7:6200".parse().unwrap(), relay: None }
}

pub(super) fn through_relay() -> Way {
    let relay = Some(Through { relay: RELAY, level: Level::Device, address: BT });
    Way { relay, ..way(Level::Network) }
}

pub(super) fn route() -> Route {
    let address = "203.0.113.7:6200".parse().unwrap();
    Route::Direct(DirectRoute { address, received_at: NOW, sequence: 9, trust: Trust::Network })
}

/// The payload of an RPC_RSP of command 9.
pub(super) fn response(request_id: u32) -> Vec<u8> {
    let mut payload = Vec::new();
    Response { request_id, command_id: 9, return_code: -22, body: b"body" }.encode(&mut payload);
    payload
}

pub(super) fn outbox(config: OutboxConfig) -> (Outbox, EventReceiver) {
    let (events, receiver): (Events, _) = channel();
    (Outbox::new(config, events), receiver)
}

/// The messages that leave, all of them sealed at this level.
pub(super) fn take(outbox: &Outbox, at: Timestamp, level: Level) -> Vec<i64> {
    let mut taken = Vec::new();
    outbox.take_due(DEVICE, LISTENING, at, |intent, _| {
        taken.push(intent.message);
        Decision::Send(way(level))
    });
    taken
}

pub(super) fn events(receiver: &mut EventReceiver) -> Vec<Event> {
    std::iter::from_fn(|| receiver.try_recv()).collect()
}
