//! What leaves while a device is awake, and what is made of its answers (rules R6 to R8), with real sealed packets.

use lastroute::clock::Timestamp;
use lastroute::downlink::event::{Dropped, Event, Listening};
use lastroute::downlink::intent::{Call, DataPhase, Intent, Retry, Sealing};
use lastroute::metrics::RefusedAnswer;
use lastroute::wire::control;
use lastroute::wire::forward::{AutoConnect, Terminated};
use lastroute::wire::rpc::{Data, DataAck, Response};

use super::*;

const COMMAND: u16 = 7;

/// A message of a type that customers may use.
pub(super) fn intent(message: i64, payload: &[u8]) -> Intent {
    Intent {
        message,
        packet_type: PacketType(200),
        sealing: Sealing::Best,
        payload: payload.into(),
        call: None,
        expires_at: Some(Timestamp(u64::MAX)),
        retry: Retry::Never,
        if_route: None,
    }
}

/// A call whose request id is the number of its message.
fn call(message: i64, data: Option<DataPhase>) -> Intent {
    let call = Call { request_id: message as u32, command_id: COMMAND, data };
    Intent { packet_type: PacketType::RPC_CMD, call: Some(call), ..intent(message, b"call") }
}

impl Gateway {
    /// As whoever accepts a message does.
    pub(super) fn expect(&self, intent: Intent) {
        self.core.downlinks.outbox.add(DEVICE, intent).unwrap();
        self.core.table.expect(DEVICE);
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv()).collect()
    }

    /// What is sent for a packet that counts.
    pub(super) fn sent(&mut self, bytes: &[u8], source: SocketAddr) -> Vec<Answer> {
        let (disposition, replies) = self.replies(bytes, source);
        assert_eq!(disposition, Disposition::Accepted);
        replies
    }

    fn refused(&self, reason: RefusedAnswer) -> u64 {
        self.pipeline.tally.answers_refused[reason as usize]
    }
}

/// Header and plaintext of a downlink.
pub(super) fn open(bytes: &[u8]) -> (Header, Vec<u8>) {
    open_as(bytes, Layout::Unversioned, Interface::Udp)
}

fn open_as(bytes: &[u8], layout: Layout, interface: Interface) -> (Header, Vec<u8>) {
    let mut bytes = bytes.to_vec();
    let frame = Frame::parse(&mut bytes, layout).unwrap();
    let header = *frame.header();
    let key = root(header.level()).day_key(interface, header.rotation());
    (header, open_with(&key, frame).unwrap().payload().to_vec())
}

/// The type of a downlink.
pub(super) fn kind(bytes: &[u8]) -> PacketType {
    open(bytes).0.packet_type
}

pub(super) fn kinds(answers: &[Answer]) -> Vec<DownlinkKind> {
    answers.iter().map(|answer| answer.kind).collect()
}

pub(super) fn payloads(answers: &[Answer]) -> Vec<Vec<u8>> {
    answers.iter().map(|answer| open(&answer.bytes).1).collect()
}

/// A packet of a device that does not know the time, so one that might be a recording.
pub(super) fn without_time(packet_type: PacketType, sequence: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = header(packet_type, Level::Network, DEVICE, sequence);
    header.gps_time = NO_TIME_START + u32::from(sequence);
    header.flags.0 |= flags;
    uplink(&header, payload)
}

fn response(level: Level, sequence: u16, request_id: u32, command_id: u16, body: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    Response { request_id, command_id, return_code: -5, body }.encode(&mut payload);
    uplink(&header(PacketType::RPC_RSP, level, DEVICE, sequence), &payload)
}

#[test]
fn what_waits_leaves_to_the_packets_source_in_order_behind_its_acknowledgement() {
    let mut gateway = Gateway::default();
    for (message, payload) in [(1, b"a".as_slice()), (2, b"bb"), (3, b"ccc")] {
        gateway.core.downlinks.outbox.add(DEVICE, intent(message, payload)).unwrap();
    }
    let mut asking = header(PacketType::TDF, Level::Network, DEVICE, 9);
    asking.flags.0 |= Flags::ACK_REQUEST | Flags::ALWAYS_RX;
    let sent = gateway.sent(&uplink(&asking, &[]), home());
    assert_eq!(kinds(&sent), [DownlinkKind::Ack, DownlinkKind::Intent, DownlinkKind::Intent, DownlinkKind::Intent]);
    assert!(sent.iter().all(|answer| (answer.to, answer.via) == (home(), VIA)));
    let acked = open(&sent[0].bytes);
    assert_eq!(control::acked_sequence(&acked.1), Some(9));
    assert_eq!(payloads(&sent[1..]), [b"a".to_vec(), b"bb".to_vec(), b"ccc".to_vec()]);
    let events = gateway.events();
    for (index, (answer, event)) in sent[1..].iter().zip(events).enumerate() {
        let (header, _) = open(&answer.bytes);
        assert_eq!((header.packet_type, header.device_id, header.gps_time), (PacketType(200), DEVICE, NOW));
        assert_eq!((header.level(), header.key_id), (Level::Device, DEVICE_KEY));
        assert_eq!(header.sequence, acked.0.sequence.wrapping_add(1 + index as u16));
        let Event::Sent { device: DEVICE, message, at, way, listening } = event else { panic!("{event:?}") };
        assert_eq!((message, at), (index as i64 + 1, gateway.now));
        assert_eq!((way.sequence, way.level, way.address, way.relay), (header.sequence, Level::Device, home(), None));
        assert_eq!(listening, Listening { always_rx: true, single_tx: false, heard_at: gateway.now });
    }
    assert_eq!(gateway.sent(&tdf(10), home()), [], "each once");
    gateway.expect(intent(4, b"later"));
    assert_eq!(payloads(&gateway.sent(&tdf(11), elsewhere())), [b"later"], "the newest packet, from a new address");
}

#[test]
fn what_is_late_from_elsewhere_or_a_copy_releases_nothing() {
    let mut gateway = Gateway::default();
    gateway.disposition(&tdf(10), home());
    gateway.expect(intent(1, b"x"));
    assert_eq!(gateway.sent(&tdf(9), home()), [], "late");
    assert_eq!(gateway.replies(&tdf(10), home()), (Disposition::Duplicate, vec![]));
    let recorded = without_time(PacketType::TDF, 3, 0, &[]);
    let sent = gateway.sent(&recorded, elsewhere());
    assert_eq!(kinds(&sent), [DownlinkKind::Echo], "may be a recording, and from elsewhere");
    assert!(gateway.events().is_empty());
    assert_eq!(payloads(&gateway.sent(&tdf(11), home())), [b"x"]);
}

#[test]
fn r1_under_a_strict_policy_a_packet_that_may_not_move_the_route_releases_nothing() {
    let mut gateway = Gateway::new(RoutePolicy::Strict, &TableConfig::default());
    gateway.disposition(&tdf(10), home());
    gateway.expect(intent(1, b"x"));
    assert_eq!(kinds(&gateway.sent(&tdf(11), elsewhere())), [DownlinkKind::Echo]);
    assert_eq!(kinds(&gateway.sent(&tdf(12), home())), [DownlinkKind::Echo], "anybody in the network can have sent it");
}

#[test]
fn r1_under_a_strict_policy_what_opens_a_route_is_challenged_with_the_devices_key_and_its_answer_proves_it() {
    let mut gateway = Gateway::new(RoutePolicy::Strict, &TableConfig::default());
    gateway.expect(intent(1, b"x"));
    let sent = gateway.sent(&tdf(1), elsewhere());
    assert_eq!(kinds(&sent), [DownlinkKind::Echo], "anybody in the network can have sent it");
    let (asked, cookie) = open(&sent[0].bytes);
    assert_eq!(asked.level(), Level::Device);
    assert_eq!(gateway.sent(&tdf(2), elsewhere()), []);
    let answer = uplink(&header(PacketType::ECHO_RSP, Level::Network, DEVICE, 3), &cookie);
    assert_eq!(payloads(&gateway.sent(&answer, elsewhere())), [b"x"]);
    gateway.expect(intent(2, b"y"));
    assert_eq!(payloads(&gateway.sent(&tdf(4), elsewhere())), [b"y"]);
}

#[test]
fn r1_under_a_strict_policy_a_container_of_network_level_releases_nothing_of_a_device_whose_key_is_known() {
    for (level, expected) in [(Level::Network, DownlinkKind::Echo), (Level::Device, DownlinkKind::Intent)] {
        let mut gateway = Gateway::new(RoutePolicy::Strict, &TableConfig::default());
        gateway.expect(intent(1, b"x"));
        let mut entries = Vec::new();
        entry(Content::Sealed(&relayed(Level::Device, DEVICE, 1, &[]))).encode(&mut entries).unwrap();
        let outer = header(PacketType::RECEIVED_EPACKET, level, RELAY, 1);
        assert_eq!(kinds(&gateway.sent(&uplink(&outer, &entries), elsewhere())), [expected], "{level:?}");
    }
}

#[test]
fn what_may_be_a_recording_releases_once_the_device_has_answered_from_there() {
    let mut gateway = Gateway::default();
    gateway.core.downlinks.outbox.add(DEVICE, intent(1, b"x")).unwrap();
    let sent = gateway.sent(&without_time(PacketType::TDF, 1, 0, &[0; 20]), home());
    assert_eq!(kinds(&sent), [DownlinkKind::Echo]);
    let (header, cookie) = open(&sent[0].bytes);
    assert_eq!((header.packet_type, header.gps_time, cookie.len()), (PacketType::ECHO_REQ, NOW, 8));
    assert_eq!(gateway.sent(&without_time(PacketType::TDF, 2, 0, &[]), home()), [], "asked less than 10 s ago");
    let forged = without_time(PacketType::ECHO_RSP, 3, 0, &[7; 8]);
    assert_eq!(gateway.sent(&forged, home()), []);
    let from_elsewhere = without_time(PacketType::ECHO_RSP, 4, 0, &cookie);
    assert_eq!(kinds(&gateway.sent(&from_elsewhere, elsewhere())), [DownlinkKind::Echo], "with another cookie");
    assert!(gateway.events().is_empty() && !gateway.core.table.send_route(DEVICE, gateway.now).unwrap().proved);
    let answer = without_time(PacketType::ECHO_RSP, 5, 0, &cookie);
    assert_eq!(payloads(&gateway.sent(&answer, home())), [b"x"]);
    assert!(gateway.core.table.send_route(DEVICE, gateway.now).unwrap().proved);
}

#[test]
fn r6_a_device_without_time_is_challenged_once_where_it_is_and_again_while_something_waits() {
    let mut gateway = Gateway::default();
    let sent = |gateway: &mut Gateway, sequence| {
        gateway.now = gateway.now.after(std::time::Duration::from_secs(10));
        kinds(&gateway.sent(&without_time(PacketType::TDF, sequence, 0, &[]), home()))
    };
    assert_eq!(sent(&mut gateway, 1), [DownlinkKind::Echo], "it needs the time");
    assert_eq!((sent(&mut gateway, 2), sent(&mut gateway, 3)), (vec![], vec![]));
    gateway.expect(intent(1, b"x"));
    for sequence in 4..6 {
        assert_eq!(sent(&mut gateway, sequence), [DownlinkKind::Echo]);
    }
}

/// An acknowledgement of 40 bytes, a challenge of 46, a question of 60, messages of 138: as far as three times its length goes.
#[test]
fn an_address_that_is_not_proved_gets_what_matters_most_of_all_that_one_packet_triggers() {
    use DownlinkKind::{Ack, Echo, Intent, KeyQuestion};
    let answers = |payload_len: usize, is_single: bool| {
        let mut gateway = Gateway::default();
        gateway.core.table.register(DEVICE, gateway.now);
        // The keys of the device are in doubt, and it could not be asked.
        gateway.core.downlinks.allowance.start(NOW + 1);
        let key_ids = control::key_ids(KeyId::from_le_bytes([9, 9, 9]));
        gateway.sent(&without_time(PacketType::KEY_IDS, 0, 0, &key_ids), home());
        gateway.core.downlinks.allowance.start(NOW);
        for message in 1..=9 {
            gateway.expect(self::Intent { sealing: Sealing::Network, ..intent(message, &[0; 100]) });
        }
        let flags = Flags::ACK_REQUEST | if is_single { Flags::SINGLE_TX } else { 0 };
        let bytes = without_time(PacketType(200), 1, flags, &vec![0; payload_len]);
        let sent = gateway.sent(&bytes, home());
        assert!(sent.iter().map(|answer| answer.bytes.len()).sum::<usize>() <= 3 * bytes.len(), "{sent:?}");
        kinds(&sent)
    };
    assert_eq!(answers(10, false), [Ack, Echo]);
    assert_eq!(answers(11, false), [Ack, Echo, KeyQuestion]);
    assert_eq!(answers(41, true), [Ack, KeyQuestion]);
    assert_eq!(answers(42, true), [Ack, KeyQuestion, Intent]);
    assert_eq!(answers(133, true), [Ack, KeyQuestion, Intent, Intent]);
    assert_eq!(answers(134, true), [Ack, KeyQuestion, Intent, Intent, Intent]);
}

#[test]
fn an_address_that_is_not_proved_gets_at_most_three_times_what_came_from_it() {
    let mut gateway = Gateway::default();
    gateway.sent(&without_time(PacketType::TDF, 0, 0, &[]), home());
    for message in 1..=20 {
        gateway.expect(intent(message, &[message as u8; 100]));
    }
    let mut next = 1;
    for sequence in 1..=5u16 {
        let asking = Flags::SINGLE_TX | Flags::ACK_REQUEST;
        let bytes = without_time(PacketType::TDF, sequence, asking, &[0; 122]);
        let sent = gateway.sent(&bytes, home());
        let total: usize = sent.iter().map(|answer| answer.bytes.len()).sum();
        // An acknowledgement of 40 bytes and three times 138; another would be more than 3 times 160.
        assert_eq!((total, total <= 3 * bytes.len()), (40 + 3 * 138, true));
        for answer in &sent[1..] {
            assert_eq!(open(&answer.bytes).1, [next; 100], "in order");
            next += 1;
        }
    }
    let sent = gateway.sent(&tdf(100), home());
    assert_eq!(sent.len(), 5, "it is proved now");
}

#[test]
fn r8_a_relays_container_releases_through_the_relay_while_the_device_is_not_heard_directly() {
    let mut gateway = Gateway::default();
    gateway.expect(intent(1, b"inside"));
    let heard = |sequence: u16| {
        container(&[entry(Content::Sealed(&relayed(Level::Network, DEVICE, sequence, &[])))], &[], sequence)
    };
    let sent = gateway.sent(&heard(5), home());
    assert_eq!(kinds(&sent), [DownlinkKind::Intent]);
    assert_eq!((sent[0].to, sent[0].via), (home(), VIA));
    let (outer, forwarded) = open(&sent[0].bytes);
    assert_eq!((outer.packet_type, outer.device_id), (PacketType::EPACKET_FORWARD_AUTO_CONN, RELAY));
    let forward = AutoConnect::parse(&forwarded).unwrap();
    assert_eq!(forward.address.to_string(), "c4:0a:11:22:33:44");
    let (inner, payload) = open_as(forward.frame, Layout::Versioned, Interface::BtGatt);
    assert_eq!((inner.device_id, inner.packet_type, payload), (DEVICE, PacketType(200), b"inside".to_vec()));
    let events = gateway.events();
    let [Event::Sent { message: 1, way, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((way.relay.map(|through| through.relay), way.address), (Some(RELAY), home()));
    // Heard directly, it is spoken to directly for 300 s.
    let later = |sequence| Header { gps_time: NOW + 1, ..header(PacketType::TDF, Level::Network, DEVICE, sequence) };
    gateway.now = Timestamp::from_gps(NOW + 1);
    gateway.disposition(&uplink(&later(1), &[]), elsewhere());
    gateway.expect(intent(2, b"direct"));
    assert_eq!(gateway.sent(&heard(6), home()), []);
    assert_eq!(payloads(&gateway.sent(&uplink(&later(2), &[]), elsewhere())), [b"direct"]);
}

#[test]
fn an_answer_completes_its_call_and_what_only_looks_like_one_is_counted() {
    let mut gateway = Gateway::default();
    gateway.expect(call(42, None));
    assert_eq!(gateway.sent(&tdf(1), home()).len(), 1);
    gateway.events();
    gateway.disposition(&response(Level::Network, 2, 42, COMMAND, b"no"), home());
    gateway.disposition(&response(Level::Device, 3, 42, COMMAND + 1, b"no"), home());
    assert_eq!(gateway.refused(RefusedAnswer::Forged), 2, "at a lower level than the call, or of another command");
    let cut = uplink(&header(PacketType::RPC_RSP, Level::Device, DEVICE, 4), &[42, 0, 0, 0, 7, 0, 0]);
    gateway.disposition(&cut, home());
    assert_eq!(gateway.refused(RefusedAnswer::Truncated), 1);
    assert!(gateway.events().is_empty());
    gateway.disposition(&response(Level::Device, 5, 42, COMMAND, b"yes"), elsewhere());
    let events = gateway.events();
    let [Event::Answered { device: DEVICE, message: 42, answer, data: None }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((answer.return_code, &*answer.body, answer.level), (-5, b"yes".as_slice(), Level::Device));
    let Route::Direct(route) = answer.route else { panic!("{answer:?}") };
    assert_eq!((route.address, route.sequence, route.received_at), (elsewhere(), 5, gateway.now));
    // The record may know one that memory does not.
    gateway.disposition(&response(Level::Device, 6, 43, COMMAND, b"late"), elsewhere());
    let events = gateway.events();
    assert!(
        matches!(&events[..], [Event::LateAnswer { device: DEVICE, answer }] if answer.request_id == 43),
        "{events:?}"
    );
}

#[test]
fn what_a_relay_says_to_have_decrypted_answers_no_call_of_device_level() {
    let mut gateway = Gateway::default();
    gateway.expect(call(42, None));
    assert_eq!(gateway.sent(&tdf(1), home()).len(), 1);
    gateway.events();
    let mut payload = Vec::new();
    Response { request_id: 42, command_id: COMMAND, return_code: 0, body: b"" }.encode(&mut payload);
    let answer = header(PacketType::RPC_RSP, Level::Device, DEVICE, 2);
    let mut ended = Vec::new();
    let bt = BtAddress { kind: 1, bytes: [1; 6] };
    Terminated { interface: RouteInterface::BtCentral, reason: -116, address: bt }.encode(&mut ended);
    let of_relay = header(PacketType::EPACKET_CONN_TERMINATED, Level::Device, DEVICE, 3);
    let entries =
        [(answer, &payload), (of_relay, &ended)].map(|(header, payload)| entry(Content::Opened { header, payload }));
    gateway.sent(&container(&entries, &[], 1), home());
    assert_eq!((gateway.entries(Disposition::Accepted), gateway.refused(RefusedAnswer::Forged)), (2, 2));
    assert!(gateway.events().is_empty());
    // It does for one of network level.
    gateway.expect(Intent { sealing: Sealing::Network, ..call(43, None) });
    assert_eq!(gateway.sent(&tdf(4), home()).len(), 1);
    payload[0] = 43;
    let answer = header(PacketType::RPC_RSP, Level::Device, DEVICE, 5);
    gateway.sent(&container(&[entry(Content::Opened { header: answer, payload: &payload })], &[], 2), home());
    assert!(gateway.events().iter().any(|event| matches!(event, Event::Answered { message: 43, .. })));
}

#[test]
fn one_packet_releases_64_messages_and_the_next_one_what_is_left() {
    let mut gateway = Gateway::default();
    for message in 1..=100u8 {
        gateway.expect(intent(message.into(), &[message]));
    }
    let sent = [1, 2, 3].map(|sequence| payloads(&gateway.sent(&tdf(sequence), home())));
    assert_eq!(sent.each_ref().map(Vec::len), [64, 36, 0]);
    assert!(sent.concat().into_iter().eq((1..=100).map(|message| vec![message])), "in order");
}

#[test]
fn an_answer_inside_a_container_completes_its_call_by_the_way_it_came() {
    let mut gateway = Gateway::default();
    gateway.expect(call(42, None));
    gateway.sent(&container(&[entry(Content::Sealed(&relayed(Level::Device, DEVICE, 1, &[])))], &[], 1), home());
    gateway.events();
    let mut payload = Vec::new();
    Response { request_id: 42, command_id: COMMAND, return_code: 0, body: b"" }.encode(&mut payload);
    let inner = header(PacketType::RPC_RSP, Level::Device, DEVICE, 2);
    let sealed = seal(&inner, Layout::Versioned, Interface::BtAdv, &payload);
    gateway.sent(&container(&[entry(Content::Sealed(&sealed))], &[], 2), home());
    let events = gateway.events();
    let [Event::Answered { message: 42, answer, .. }] = &events[..] else { panic!("{events:?}") };
    let Route::Relayed(route) = answer.route else { panic!("{answer:?}") };
    assert_eq!((route.through.relay, route.sequence), (RELAY, 2));
}

#[test]
fn the_end_of_a_relays_connection_is_told_of_if_the_relay_itself_says_so() {
    let mut gateway = Gateway::default();
    let bt = BtAddress { kind: 1, bytes: [0x44, 0x33, 0x22, 0x11, 0x0a, 0xc4] };
    let mut payload = Vec::new();
    Terminated { interface: RouteInterface::BtCentral, reason: -116, address: bt }.encode(&mut payload);
    for (level, sequence) in [(Level::Network, 1), (Level::Device, 2)] {
        let ended = header(PacketType::EPACKET_CONN_TERMINATED, level, RELAY, sequence);
        gateway.disposition(&uplink(&ended, &payload), home());
    }
    assert_eq!(gateway.refused(RefusedAnswer::Forged), 1);
    let events = gateway.events();
    assert!(
        matches!(&events[..], [Event::Terminated { relay: RELAY, reason: -116, address, .. }] if *address == bt),
        "{events:?}"
    );
}

#[test]
fn what_is_sent_until_it_is_answered_is_sent_again_after_10_s_and_not_for_what_answers_another() {
    let mut gateway = Gateway::default();
    for message in [42, 43] {
        gateway.expect(Intent { retry: Retry::UntilAnswered, ..call(message, None) });
    }
    assert_eq!(gateway.sent(&tdf(1), home()).len(), 2);
    assert_eq!(gateway.sent(&tdf(2), home()), []);
    assert_eq!(gateway.sent(&response(Level::Device, 3, 42, COMMAND, &[]), home()), []);
    gateway.now = gateway.now.after(std::time::Duration::from_secs(10));
    assert_eq!(gateway.sent(&tdf(4), home()).len(), 1);
    assert_eq!(gateway.sent(&response(Level::Device, 5, 43, COMMAND, &[]), home()), []);
    gateway.now = gateway.now.after(std::time::Duration::from_secs(10));
    assert_eq!(gateway.sent(&tdf(6), home()), []);
}

#[test]
fn a_relay_keeps_the_connection_for_the_answers_to_all_calls_that_leave_together() {
    let mut gateway = Gateway::default();
    (1..=3).for_each(|message| gateway.expect(call(message, None)));
    let mut heard = |sequence: u16| {
        let inner = relayed(Level::Network, DEVICE, sequence, &[]);
        let sent = gateway.sent(&container(&[entry(Content::Sealed(&inner))], &[], sequence), home());
        gateway.expect(call(4 + i64::from(sequence), None));
        sent.iter().map(|answer| AutoConnect::parse(&open(&answer.bytes).1).unwrap().flags).collect::<Vec<_>>()
    };
    assert_eq!(heard(1), [AutoConnect::TELL_END; 3]);
    assert_eq!(heard(2), [AutoConnect::TELL_END | AutoConnect::UNTIL_ANSWER]);
}

#[test]
fn what_is_bound_to_a_route_that_moved_is_given_up() {
    let mut gateway = Gateway::default();
    gateway.disposition(&tdf(1), home());
    let bound = |message| Intent { if_route: Some(gateway.core.table.cursor(DEVICE)), ..intent(message, b"x") };
    let [first, second] = [1, 2].map(bound);
    gateway.expect(first);
    assert_eq!(gateway.sent(&tdf(2), home()).len(), 1);
    gateway.events();
    gateway.expect(second);
    gateway.expect(intent(3, b"anywhere"));
    assert_eq!(payloads(&gateway.sent(&tdf(3), elsewhere())), [b"anywhere"]);
    let cursor = gateway.core.table.cursor(DEVICE);
    let at = gateway.now;
    let dropped = Event::Dropped { device: DEVICE, message: 2, at, why: Dropped::RouteMoved { cursor } };
    assert!(gateway.events().contains(&dropped));
}

#[test]
fn what_is_longer_than_the_device_takes_waits_until_it_sends_longer_itself_and_what_fits_no_way_is_given_up() {
    let mut gateway = Gateway::default();
    gateway.expect(intent(1, &[0; 511]));
    gateway.expect(intent(2, &[0; 2011]));
    assert_eq!(gateway.sent(&tdf(1), home()), []);
    assert!(gateway.events().is_empty());
    let long = uplink(&header(PacketType(130), Level::Network, DEVICE, 2), &[0; 522]);
    assert_eq!(gateway.sent(&long, home()).len(), 1);
    let events = gateway.events();
    let [Event::Sent { message: 1, .. }, Event::Dropped { message: 2, why, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert!(matches!(why, Dropped::TooLong { len: 2049, .. }), "{why:?}");
}

#[test]
fn a_device_that_asks_for_data_gets_it_where_it_is_proved_to_be() {
    let mut gateway = Gateway::default();
    let data: std::sync::Arc<[u8]> = (0..100).collect();
    gateway.expect(call(42, Some(DataPhase::Towards { data: data.clone(), ack_period: 1 })));
    gateway.sent(&tdf(1), home());
    let mut ready = Vec::new();
    DataAck { request_id: 42, offsets: vec![] }.encode(&mut ready);
    let recorded = without_time(PacketType::RPC_DATA_ACK, 1, 0, &ready);
    assert_eq!(kinds(&gateway.sent(&recorded, elsewhere())), [DownlinkKind::Echo]);
    let asking = |sequence| uplink(&header(PacketType::RPC_DATA_ACK, Level::Network, DEVICE, sequence), &ready);
    gateway.core.downlinks.allowance.start(NOW + 1);
    assert_eq!(gateway.sent(&asking(2), home()), [], "nothing may be sealed, so it asks again");
    gateway.core.downlinks.allowance.start(NOW);
    let sent = gateway.sent(&asking(3), home());
    assert_eq!(kinds(&sent), [DownlinkKind::Data]);
    let (header, payload) = open(&sent[0].bytes);
    assert_eq!((header.packet_type, header.level()), (PacketType::RPC_DATA, Level::Device));
    assert_eq!(Data::parse(&payload), Some(Data { request_id: 42, offset: 0, data: &data }));
    // Types that are legal both ways are known by their nonce when they come back.
    assert_eq!(gateway.disposition(&sent[0].bytes, elsewhere()), Disposition::Reflected);
}

#[test]
fn r1_under_a_strict_policy_data_is_not_for_another_member_of_the_network_that_asks_for_it_from_elsewhere() {
    let mut gateway = Gateway::new(RoutePolicy::Strict, &TableConfig::default());
    gateway.expect(call(42, Some(DataPhase::Towards { data: (0..100).collect(), ack_period: 1 })));
    let of_device = uplink(&header(PacketType::TDF, Level::Device, DEVICE, 1), &[]);
    assert_eq!(kinds(&gateway.sent(&of_device, home())), [DownlinkKind::Intent]);
    let mut ready = Vec::new();
    DataAck { request_id: 42, offsets: vec![] }.encode(&mut ready);
    let asking = |level, sequence| uplink(&header(PacketType::RPC_DATA_ACK, level, DEVICE, sequence), &ready);
    assert_eq!(kinds(&gateway.sent(&asking(Level::Network, 2), elsewhere())), [DownlinkKind::Echo]);
    assert_eq!(gateway.sent(&asking(Level::Network, 3), elsewhere()), []);
    assert_eq!(kinds(&gateway.sent(&asking(Level::Device, 4), home())), [DownlinkKind::Data]);
}

#[test]
fn a_device_without_time_gets_the_data_it_asks_for_once_it_is_proved_to_be_there() {
    let mut gateway = Gateway::default();
    gateway.sent(&tdf(1), home());
    gateway.expect(call(42, Some(DataPhase::Towards { data: (0..100).collect(), ack_period: 1 })));
    gateway.sent(&tdf(2), home());
    let mut ready = Vec::new();
    DataAck { request_id: 42, offsets: vec![] }.encode(&mut ready);
    let asking = |sequence| without_time(PacketType::RPC_DATA_ACK, sequence, 0, &ready);
    assert!(kinds(&gateway.sent(&asking(3), home())).contains(&DownlinkKind::Data));
    assert_eq!(kinds(&gateway.sent(&asking(4), elsewhere())), [DownlinkKind::Echo]);
}

#[test]
fn without_time_to_seal_in_nothing_leaves_and_nothing_is_lost() {
    let mut gateway = Gateway::default();
    // Another process may have used the seconds before.
    gateway.core.downlinks.allowance.start(NOW + 1);
    gateway.expect(intent(1, b"x"));
    let mut asking = header(PacketType::TDF, Level::Network, DEVICE, 1);
    asking.flags.0 |= Flags::ACK_REQUEST;
    assert_eq!(gateway.sent(&uplink(&asking, &[]), home()), []);
    assert_eq!(gateway.pipeline.tally.acks_held_back, 1);
    assert!(gateway.events().is_empty());
    gateway.now = Timestamp::from_gps(NOW + 1);
    asking.sequence = 2;
    let sent = gateway.sent(&uplink(&asking, &[]), home());
    assert_eq!(kinds(&sent), [DownlinkKind::Ack, DownlinkKind::Intent]);
}

#[test]
fn waiters_are_woken_once_what_was_waiting_for_the_device_has_left() {
    let mut gateway = Gateway::default();
    gateway.expect(intent(1, b"x"));
    let core = gateway.core.clone();
    let heard = || (core.table.cursor(DEVICE).n > 0).then_some(());
    let mut wait = std::pin::pin!(core.waiters.wait(DEVICE, heard));
    assert!(wait.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
    let (mut bytes, mut replies) = (tdf(1), Replies::default());
    let datagram = Datagram { bytes: &mut bytes, truncated: false, source: home(), via: VIA, at: gateway.now };
    gateway.pipeline.take(datagram, &mut replies);
    assert_eq!((replies.iter().len(), gateway.core.waiters.woken()), (1, 0));
    gateway.pipeline.wake();
    assert_eq!(gateway.core.waiters.woken(), 1);
}
