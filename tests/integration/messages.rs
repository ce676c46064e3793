//! Messages to devices, without HTTP but for the registration: over real sockets, as a program that has the gateway inside
//! sends them.

use std::time::Duration;

use lastroute::auth::identity::Identity;
use lastroute::auth::keys::{Interface, KeyPair, device_key_id};
use lastroute::auth::open_with;
use lastroute::dispatch::SendError;
use lastroute::downlink::intent::{Retry, Sealing};
use lastroute::records::message::{Message, MessageCall, MessageStatus, NewMessage};
use lastroute::wire::control;
use lastroute::wire::frame::{Flags, Frame, Layout, Level, PacketType};
use lastroute::wire::rpc::{Command, Response};
use lastroute::wire::security::{self, SECURITY_STATE, SecurityState};
use tokio::time::{Instant, timeout};

use crate::harness::{Client, Device, Gateway, PATIENCE, eventually};
use crate::registering::Owner;

const HOUR_MS: u64 = 3_600_000;
const COMMAND: u16 = 5;

/// A gateway, and a device registered there that has not spoken.
async fn start() -> (Gateway, Device) {
    let gateway = Gateway::start("");
    let device = Device::new(7, &gateway).await;
    Owner::new(&Client::http1(&gateway), "Acme").await.register(&device).await;
    (gateway, device)
}

fn call(gateway: &Gateway, device: &Device, send_wait_timeout_ms: u64) -> NewMessage {
    NewMessage {
        device: device.id,
        packet_type: PacketType::RPC_CMD,
        sealing: Sealing::Best,
        call: Some(MessageCall { request_id: gateway.dispatch().request_id(), command_id: COMMAND, data: None }),
        payload: b"parameters".as_slice().into(),
        data: None,
        send_wait_timeout_ms,
        retry: Retry::Never,
        if_route: None,
    }
}

async fn send(gateway: &Gateway, new: NewMessage) -> Message {
    gateway.dispatch().send(new).await.unwrap()
}

/// How far the message has come once it is of this status.
async fn comes_to(gateway: &Gateway, message: &Message, status: MessageStatus) -> Message {
    let mut present = None;
    eventually(async || {
        present = gateway.dispatch().message(message.id).await.unwrap();
        present.as_ref().is_some_and(|message| message.status == status)
    })
    .await;
    present.unwrap()
}

/// The request id of the call that arrives next.
async fn called(device: &Device) -> u32 {
    let (header, payload) = loop {
        let received = device.receive().await;
        if received.0.packet_type != PacketType::ACK {
            break received;
        }
    };
    assert_eq!(header.packet_type, PacketType::RPC_CMD);
    let command = Command::parse(&payload).unwrap();
    assert_eq!((command.command_id, command.parameters), (COMMAND, &b"parameters"[..]));
    command.request_id
}

async fn answer(device: &mut Device, message: &Message, return_code: i16) {
    let request_id = message.call.unwrap().request_id;
    let mut payload = Vec::new();
    Response { request_id, command_id: COMMAND, return_code, body: b"result" }.encode(&mut payload);
    device.say(PacketType::RPC_RSP, 0, &payload).await;
}

/// Reports twice with a request to be acknowledged: nothing comes but the acknowledgements.
async fn reports_and_gets_nothing(device: &mut Device) {
    for _ in 0..2 {
        device.report(Flags::ACK_REQUEST).await;
        assert_eq!(device.receive().await.0.packet_type, PacketType::ACK);
    }
    assert!(device.nothing_came());
}

#[tokio::test(flavor = "multi_thread")]
async fn held_calls_leave_in_order_to_where_the_next_packet_came_from_and_are_answered() {
    let (gateway, mut device) = start().await;
    // Whatever is held before this is counted would leave for where it came from.
    device.report(Flags::ACK_REQUEST).await;
    assert_eq!(device.receive().await.0.packet_type, PacketType::ACK);
    let mut messages = Vec::new();
    for _ in 0..3 {
        messages.push(send(&gateway, call(&gateway, &device, HOUR_MS)).await);
    }
    let withdrawn = send(&gateway, call(&gateway, &device, HOUR_MS)).await;
    assert_eq!(gateway.dispatch().withdraw(withdrawn.id).await, Ok(Some(true)));
    device.rebind(gateway.udp[0]).await;
    device.report(0).await;
    for message in &messages {
        assert_eq!(called(&device).await, message.call.unwrap().request_id);
    }
    reports_and_gets_nothing(&mut device).await;
    for (return_code, message) in messages.iter().enumerate() {
        let sent = comes_to(&gateway, message, MessageStatus::Sent).await;
        assert_eq!((sent.attempts, sent.level), (1, Some(Level::Network)));
        let route = serde_json::to_value(&sent.route).unwrap();
        assert_eq!(route["udp"]["address"], device.address().to_string());
        answer(&mut device, message, -(return_code as i16)).await;
        let outcome = gateway.dispatch().wait_for_outcome(sent, Instant::now() + PATIENCE).await.unwrap().unwrap();
        let answered = outcome.answer.unwrap();
        assert_eq!((answered.return_code, &*answered.body), (-(return_code as i16), &b"result"[..]));
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_once_it_goes_by_the_last_route_or_not_at_all() {
    let (gateway, mut device) = start().await;
    let refused = gateway.dispatch().send(call(&gateway, &device, 0)).await.unwrap_err();
    assert_eq!(refused, SendError::NoRoute(device.id));
    device.report(Flags::ACK_REQUEST).await;
    device.receive().await;
    let message = send(&gateway, call(&gateway, &device, 0)).await;
    assert_eq!(called(&device).await, message.call.unwrap().request_id);
    // The answer comes before anybody is told that it was sent, perhaps.
    answer(&mut device, &message, 0).await;
    let completed = comes_to(&gateway, &message, MessageStatus::Completed).await;
    assert!(completed.sent_at.is_some() && completed.note.unwrap().contains("sent at once"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_bound_to_a_route_is_refused_once_that_has_moved_and_given_up_when_it_moves() {
    let (gateway, mut device) = start().await;
    device.report(Flags::ACK_REQUEST).await;
    device.receive().await;
    let client = Client::http1(&gateway);
    let position = async || client.cursor(device.id).await.parse().unwrap();
    let before = position().await;
    let message = send(&gateway, NewMessage { if_route: Some(before), ..call(&gateway, &device, HOUR_MS) }).await;
    device.rebind(gateway.udp[0]).await;
    reports_and_gets_nothing(&mut device).await;
    let now = client.cursor(device.id).await.parse().unwrap();
    let bound = NewMessage { if_route: Some(before), ..call(&gateway, &device, HOUR_MS) };
    assert_eq!(gateway.dispatch().send(bound).await.unwrap_err(), SendError::RouteMoved { cursor: now });
    let deadline = Instant::now() + PATIENCE;
    let given_up = gateway.dispatch().wait_for_outcome(message, deadline).await.unwrap().unwrap();
    assert_eq!(given_up.status, MessageStatus::Waiting);
    assert!(given_up.note.unwrap().contains("the route has moved"), "before the deadline");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn until_it_is_answered_a_call_waits_on_but_is_not_sent_again_at_once() {
    let (gateway, mut device) = start().await;
    let message = send(&gateway, NewMessage { retry: Retry::UntilAnswered, ..call(&gateway, &device, HOUR_MS) }).await;
    device.report(0).await;
    assert_eq!(called(&device).await, message.call.unwrap().request_id);
    reports_and_gets_nothing(&mut device).await;
    assert_eq!(gateway.dispatch().waiting(), 1);
    answer(&mut device, &message, 0).await;
    let completed = comes_to(&gateway, &message, MessageStatus::Completed).await;
    assert_eq!((completed.attempts, gateway.dispatch().waiting()), (1, 0));
    reports_and_gets_nothing(&mut device).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_what_waits_is_sent_and_what_was_sent_may_still_be_answered() {
    let (mut gateway, mut device) = start().await;
    let sent = send(&gateway, call(&gateway, &device, HOUR_MS)).await;
    device.report(0).await;
    called(&device).await;
    let waits = send(&gateway, call(&gateway, &device, HOUR_MS)).await;
    gateway.restart().await;
    device.rebind(gateway.udp[0]).await;
    // The second in which the last process may have sent something has to pass.
    eventually(async || {
        device.report(Flags::ACK_REQUEST).await;
        let acknowledged = timeout(Duration::from_millis(200), device.receive());
        acknowledged.await.is_ok_and(|(header, _)| header.packet_type == PacketType::ACK)
    })
    .await;
    assert_eq!(called(&device).await, waits.call.unwrap().request_id);
    answer(&mut device, &sent, 3).await;
    let completed = comes_to(&gateway, &sent, MessageStatus::Completed).await;
    assert_eq!((completed.attempts, completed.answer.unwrap().return_code), (1, 3));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_learned_by_asking_and_what_waited_for_it_leaves_at_once() {
    let (gateway, mut device) = start().await;
    let public = Client::http1(&gateway).get("/key/publicKey").await.json();
    let own = KeyPair::from_private([3; 32]);
    let cloud_public = public_key(&public);
    let (root, key_id) = (own.shared_root(cloud_public).unwrap(), device_key_id(&cloud_public, &own.public()));
    let message = send(&gateway, NewMessage { sealing: Sealing::Device, ..call(&gateway, &device, HOUR_MS) }).await;
    reports_and_gets_nothing(&mut device).await;

    device.say(PacketType::KEY_IDS, 0, &control::key_ids(key_id)).await;
    let (header, payload) = device.receive().await;
    let asked = Command::parse(&payload).unwrap();
    assert_eq!((header.packet_type, asked.command_id), (PacketType::RPC_CMD, SECURITY_STATE));
    let identity =
        Identity { challenge: asked.parameters.try_into().unwrap(), hardware_id: [9; 16], device: device.id };
    let (kind, device_public) = (security::HARDWARE_ID, own.public());
    let state = SecurityState { cloud_public, device_public, network: 0xa17, kind, proof: None };
    let mut body = Vec::new();
    identity.prove(&root, state, [1; 12]).encode(&mut body);
    let mut response = Vec::new();
    let (request_id, command_id) = (asked.request_id, SECURITY_STATE);
    Response { request_id, command_id, return_code: 0, body: &body }.encode(&mut response);
    device.say(PacketType::RPC_RSP, 0, &response).await;

    // Not a packet of the device, but the key releases it.
    let mut bytes = device.receive_bytes().await;
    let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
    assert_eq!((frame.header().level(), frame.header().key_id), (Level::Device, key_id));
    let day = root.day_key(Interface::Udp, frame.header().rotation());
    let opened = open_with(&day, frame).expect("sealed by the device's key");
    assert_eq!(Command::parse(opened.payload()).unwrap().request_id, message.call.unwrap().request_id);
    assert_eq!(comes_to(&gateway, &message, MessageStatus::Sent).await.level, Some(Level::Device));
    // At the level of a network, which others have too, nobody answers a call under the device's key.
    answer(&mut device, &message, 0).await;
    reports_and_gets_nothing(&mut device).await;
    let still = gateway.dispatch().message(message.id).await.unwrap().unwrap();
    assert_eq!(still.status, MessageStatus::Sent);
    gateway.stop().await;
}

fn public_key(answer: &serde_json::Value) -> [u8; 32] {
    use base64::Engine;
    let text = answer["key"].as_str().unwrap();
    base64::engine::general_purpose::STANDARD.decode(text).unwrap().try_into().unwrap()
}
