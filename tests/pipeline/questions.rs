//! When a device is asked for its keys, where the question goes, and what is made of the answer (rule R12).

use std::time::Duration;

use lastroute::downlink::event::Event;
use lastroute::metrics::RefusedAnswer;
use lastroute::wire::control;
use lastroute::wire::rpc::{Command, Response};
use lastroute::wire::security::SECURITY_STATE;

use lastroute::downlink::intent::{Intent, Sealing};

use super::downlinks::{intent, kinds, open, payloads, without_time};
use super::*;

/// A key id that no key is known for.
const OTHER: KeyId = KeyId::from_le_bytes([9, 9, 9]);

fn names(device: DeviceId, sequence: u16, key_id: KeyId) -> Vec<u8> {
    uplink(&header(PacketType::KEY_IDS, Level::Network, device, sequence), &control::key_ids(key_id))
}

/// A datagram that says to be under a key that nobody here knows.
fn under_unknown_key(device: DeviceId, key_id: KeyId) -> Vec<u8> {
    uplink(&Header { key_id, ..header(PacketType::TDF, Level::Device, device, 77) }, &[])
}

/// A gateway that has a route of a registered device.
fn registered() -> Gateway {
    let mut gateway = Gateway::default();
    gateway.core.table.register(DEVICE, gateway.now);
    assert_eq!(gateway.sent(&tdf(10), home()), []);
    gateway
}

/// The request id and the challenge of a question.
fn question(answer: &Answer) -> (u32, Vec<u8>) {
    let (header, payload) = open(&answer.bytes);
    assert_eq!((header.packet_type, header.level(), header.key_id), (PacketType::RPC_CMD, Level::Network, NETWORK));
    let command = Command::parse(&payload).unwrap();
    assert_eq!((command.command_id, command.parameters.len()), (SECURITY_STATE, 16));
    (command.request_id, command.parameters.to_vec())
}

#[test]
fn a_registered_device_that_names_another_key_is_asked_where_it_says_so() {
    let mut gateway = registered();
    assert_eq!(gateway.sent(&names(DEVICE, 11, DEVICE_KEY), home()), [], "the known one");
    let sent = gateway.sent(&names(DEVICE, 12, OTHER), elsewhere());
    assert_eq!(kinds(&sent), [DownlinkKind::KeyQuestion]);
    assert_eq!((sent[0].to, sent[0].via), (elsewhere(), VIA));
    question(&sent[0]);
    let at = gateway.now;
    assert_eq!(gateway.events(), [Event::OtherKeyId { device: DEVICE, key_id: OTHER, at }]);
    gateway.now = gateway.now.after(Duration::from_millis(9999));
    assert_eq!(gateway.sent(&names(DEVICE, 13, OTHER), elsewhere()), [], "once in 10 s");
    assert!(gateway.events().is_empty());
    gateway.now = gateway.now.after(Duration::from_millis(1));
    assert_eq!(kinds(&gateway.sent(&names(DEVICE, 14, OTHER), elsewhere())), [DownlinkKind::KeyQuestion]);
}

#[test]
fn a_device_that_is_not_registered_is_not_asked() {
    let mut gateway = Gateway::default();
    assert_eq!(gateway.sent(&names(DeviceId(5), 1, OTHER), home()), []);
    assert_eq!(gateway.replies(&under_unknown_key(DeviceId(5), OTHER), home()), (Disposition::UnknownDevice, vec![]));
    assert!(gateway.events().is_empty());
}

#[test]
fn nothing_is_sealed_with_a_key_that_is_in_doubt_until_the_device_has_had_time_to_answer() {
    let mut gateway = registered();
    gateway.expect(intent(1, b"x"));
    assert_eq!(kinds(&gateway.sent(&names(DEVICE, 12, OTHER), home())), [DownlinkKind::KeyQuestion]);
    assert_eq!(gateway.sent(&tdf(13), home()), []);
    gateway.now = gateway.now.after(Duration::from_secs(10));
    let sent = gateway.sent(&names(DEVICE, 14, OTHER), home());
    assert_eq!(
        kinds(&sent),
        [DownlinkKind::KeyQuestion, DownlinkKind::Intent],
        "it is asked again, and nothing waits for it"
    );
    assert_eq!((open(&sent[1].bytes).0.key_id, open(&sent[1].bytes).1), (DEVICE_KEY, b"x".to_vec()));
}

#[test]
fn what_is_for_the_key_of_the_network_does_not_wait_for_the_devices() {
    let mut gateway = registered();
    gateway.expect(Intent { sealing: Sealing::Network, ..intent(1, b"net") });
    gateway.expect(Intent { sealing: Sealing::Device, ..intent(2, b"own") });
    let sent = gateway.sent(&names(DEVICE, 12, OTHER), home());
    assert_eq!(kinds(&sent), [DownlinkKind::KeyQuestion, DownlinkKind::Intent]);
    assert_eq!(open(&sent[1].bytes).1, b"net");
}

#[test]
fn a_key_that_is_learned_or_of_no_use_is_in_doubt_no_more() {
    for (learned, expected) in [(true, OTHER), (false, DEVICE_KEY)] {
        let mut gateway = registered();
        gateway.expect(intent(1, b"x"));
        gateway.sent(&names(DEVICE, 12, OTHER), home());
        gateway.events();
        match learned {
            true => {
                let key = DeviceKey { key_id: Some(OTHER), root: root(Level::Device) };
                gateway.core.keys.set_device(DEVICE, key, None);
            }
            false => gateway.core.downlinks.questions.settle(DEVICE, Some(OTHER), gateway.now),
        }
        let sent = gateway.sent(&tdf(13), home());
        assert_eq!((kinds(&sent), open(&sent[0].bytes).0.key_id), (vec![DownlinkKind::Intent], expected));
        gateway.now = gateway.now.after(Duration::from_secs(60));
        gateway.expect(intent(2, b"y"));
        gateway.events();
        let sent = gateway.sent(&names(DEVICE, 14, OTHER), home());
        assert_eq!(kinds(&sent), [DownlinkKind::Intent], "it has answered: nobody asks or tells again");
        assert!(matches!(gateway.events()[..], [Event::Sent { message: 2, .. }]));
        if !learned {
            assert_eq!(gateway.replies(&under_unknown_key(DEVICE, OTHER), elsewhere()).1, []);
        }
    }
}

#[test]
fn a_device_that_has_booted_with_a_new_key_is_challenged_with_the_networks() {
    let mut gateway = registered();
    gateway.expect(intent(1, b"x"));
    let boot = without_time(PacketType::KEY_IDS, 0, 0, &control::key_ids(OTHER));
    let sent = gateway.sent(&boot, home());
    assert_eq!(kinds(&sent), [DownlinkKind::Echo, DownlinkKind::KeyQuestion]);
    let (asked, cookie) = open(&sent[0].bytes);
    assert_eq!((asked.packet_type, asked.level()), (PacketType::ECHO_REQ, Level::Network));
    let answer = without_time(PacketType::ECHO_RSP, 1, 0, &cookie);
    assert_eq!(gateway.sent(&answer, home()), [], "it is there, and its key is not known yet");
    gateway.core.downlinks.questions.settle(DEVICE, Some(OTHER), gateway.now);
    assert_eq!(payloads(&gateway.sent(&tdf(11), home())), [b"x"]);
}

#[test]
fn r1_under_a_strict_policy_a_doubt_lets_nobody_else_answer_the_challenge() {
    let mut gateway = Gateway::new(RoutePolicy::Strict, &TableConfig::default());
    gateway.core.table.register(DEVICE, gateway.now);
    gateway.expect(intent(1, b"x"));
    let sent = gateway.sent(&names(DEVICE, 1, OTHER), elsewhere());
    assert_eq!(kinds(&sent), [DownlinkKind::Echo, DownlinkKind::KeyQuestion]);
    assert_eq!(open(&sent[0].bytes).0.level(), Level::Device);
}

#[test]
fn a_question_for_which_there_is_no_room_or_no_time_is_asked_with_the_next_packet() {
    let mut gateway = Gateway::default();
    gateway.core.table.register(DEVICE, gateway.now);
    // Three times 41 bytes are less than an acknowledgement, a challenge and a question.
    gateway.expect(intent(1, b"x"));
    let boot = without_time(PacketType::KEY_IDS, 0, Flags::ACK_REQUEST, &control::key_ids(OTHER));
    assert_eq!(kinds(&gateway.sent(&boot, home())), [DownlinkKind::Ack, DownlinkKind::Echo]);
    assert!(gateway.events().is_empty());
    let sent = gateway.sent(&without_time(PacketType::TDF, 1, 0, &[]), home());
    assert_eq!(kinds(&sent), [DownlinkKind::KeyQuestion], "its key is in doubt still");

    let mut gateway = registered();
    gateway.core.downlinks.allowance.start(NOW + 1);
    assert_eq!(gateway.sent(&names(DEVICE, 12, OTHER), home()), []);
    assert!(gateway.events().is_empty());
    gateway.now = Timestamp::from_gps(NOW + 1);
    assert_eq!(kinds(&gateway.sent(&names(DEVICE, 13, OTHER), home())), [DownlinkKind::KeyQuestion]);
}

#[test]
fn what_nobody_can_open_has_100_devices_asked_in_a_second_at_most() {
    let mut gateway = Gateway::default();
    let mut asked = 0;
    for id in 1..=110 {
        let device = DeviceId(id);
        gateway.core.table.register(device, gateway.now);
        gateway.disposition(&uplink(&header(PacketType::TDF, Level::Network, device, 1), &[]), home());
        asked += gateway.replies(&under_unknown_key(device, OTHER), elsewhere()).1.len();
    }
    assert_eq!(asked, 100);
}

#[test]
fn a_registered_device_without_a_key_is_asked_and_no_key_is_another() {
    let mut gateway = Gateway::default();
    gateway.core.table.register(DeviceId(5), gateway.now);
    assert_eq!(kinds(&gateway.sent(&names(DeviceId(5), 1, OTHER), home())), [DownlinkKind::KeyQuestion]);
    assert!(gateway.events().is_empty());
}

#[test]
fn a_key_that_cannot_be_used_is_asked_for_where_the_device_is_and_never_where_it_was_named() {
    for (device, key_id, disposition) in
        [(DEVICE, OTHER, Disposition::UnknownKey), (DeviceId(5), DEVICE_KEY, Disposition::UnknownDevice)]
    {
        let mut gateway = Gateway::default();
        gateway.core.table.register(device, gateway.now);
        let stranger = under_unknown_key(device, key_id);
        assert_eq!(gateway.replies(&stranger, elsewhere()), (disposition, vec![]), "nobody knows where it is");
        let mut without_time = header(PacketType::TDF, Level::Network, device, 1);
        without_time.gps_time = NO_TIME_START;
        gateway.disposition(&uplink(&without_time, &[]), home());
        assert_eq!(gateway.replies(&stranger, elsewhere()), (disposition, vec![]), "it may be a recording");
        gateway.disposition(&uplink(&header(PacketType::TDF, Level::Network, device, 10), &[]), home());
        let (refused, sent) = gateway.replies(&stranger, elsewhere());
        assert_eq!((refused, kinds(&sent)), (disposition, vec![DownlinkKind::KeyQuestion]));
        assert_eq!((sent[0].to, sent[0].via), (home(), VIA));
        question(&sent[0]);
        assert_eq!(gateway.replies(&stranger, elsewhere()), (disposition, vec![]), "once in 10 s");
    }
}

#[test]
fn a_device_behind_a_relay_is_asked_through_it() {
    let mut gateway = Gateway::default();
    gateway.core.table.register(DEVICE, gateway.now);
    let speaks = relayed(Level::Network, DEVICE, 1, &[]);
    assert_eq!(gateway.sent(&container(&[entry(Content::Sealed(&speaks))], &[], 1), home()), []);
    let unknown = Header { key_id: OTHER, ..header(PacketType::TDF, Level::Device, DEVICE, 2) };
    let unknown = seal(&unknown, Layout::Versioned, Interface::BtAdv, &[]);
    let sent = gateway.sent(&container(&[entry(Content::Sealed(&unknown))], &[], 2), home());
    assert_eq!(kinds(&sent), [DownlinkKind::KeyQuestion]);
    let (outer, _) = open(&sent[0].bytes);
    assert_eq!((outer.packet_type, outer.device_id), (PacketType::EPACKET_FORWARD_AUTO_CONN, RELAY));
    assert_eq!((sent[0].to, gateway.entries(Disposition::UnknownKey)), (home(), 1));
}

#[test]
fn the_answer_is_passed_on_with_the_challenge_once() {
    let mut gateway = registered();
    let sent = gateway.sent(&names(DEVICE, 12, OTHER), home());
    let (request_id, asked) = question(&sent[0]);
    gateway.events();
    let answer = |sequence, command_id, return_code| {
        let mut payload = Vec::new();
        Response { request_id, command_id, return_code, body: b"keys" }.encode(&mut payload);
        uplink(&header(PacketType::RPC_RSP, Level::Network, DEVICE, sequence), &payload)
    };
    gateway.disposition(&answer(13, SECURITY_STATE, 0), home());
    let events = gateway.events();
    let [Event::KeyAnswer { device: DEVICE, challenge, body, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((challenge.to_vec(), &**body), (asked, b"keys".as_slice()));
    gateway.disposition(&answer(14, SECURITY_STATE, 0), home());
    assert!(!gateway.events().iter().any(|event| matches!(event, Event::KeyAnswer { .. })));
    // One that cannot answer says so.
    gateway.now = gateway.now.after(Duration::from_secs(10));
    let sent = gateway.sent(&names(DEVICE, 15, OTHER), home());
    let (request_id, _) = question(&sent[0]);
    let mut payload = Vec::new();
    Response { request_id, command_id: SECURITY_STATE, return_code: -134, body: &[] }.encode(&mut payload);
    gateway.disposition(&uplink(&header(PacketType::RPC_RSP, Level::Network, DEVICE, 16), &payload), home());
    assert_eq!(gateway.pipeline.tally.answers_refused[RefusedAnswer::Declined as usize], 1);
}
