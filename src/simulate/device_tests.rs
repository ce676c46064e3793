//! Tests of [`super`]: its datagrams are opened with the gateway's keys, and compared with captured firmware.

use super::super::identity::Identity;
use super::*;
use crate::auth::keys::{DeviceKey, Interface, KeyPair, KeyRing, RootKey};
use crate::auth::{Authenticator, Verified};
use crate::table::route::{Outcome, Path};
use crate::table::rules::NO_TIME_START;
use crate::table::{Packet, RouteTable, TableConfig};
use crate::wire::rpc::{DataAck, Response};
use crate::wire::tdf;

const NETWORK: KeyId = KeyId::from_le_bytes([0x17, 0x0a, 0]);
/// The gateway's time in most tests: 2026-11, 50 s into a key day.
const GPS: u32 = 17_123 * 86_400 + 50;
const SECOND: Duration = Duration::from_secs(1);

fn network_root() -> RootKey {
    RootKey::new([3; 32])
}

fn identity() -> Identity {
    Identity::new(1, 7, &KeyPair::from_private([0x11; 32]).public()).unwrap()
}

/// Settings of the captured runs "ack_dev" and "reconnect": every 2 s, acknowledgement after 5 s, 3 in vain.
fn settings() -> Settings {
    Settings {
        network: NETWORK,
        network_keys: NetworkKeys::new(network_root()),
        cloud: CloudKey::new(KeyPair::from_private([0x11; 32]).public()).unwrap(),
        telemetry: Level::Network,
        reception: Reception::Always,
        cadence: 2 * SECOND,
        jitter: 0.0,
        ack_after: 5 * SECOND,
        ack_limit: 3,
        ack_share: 0.0,
        announce_every: 60 * SECOND,
        reboots: 1,
    }
}

fn device(settings: Settings) -> Device {
    Device::new(identity().id, settings, Rng::with_seed(5))
}

/// A device that has sent its KEY_IDS at uptime 0.
fn booted(settings: Settings) -> Device {
    started(device(settings))
}

fn started(mut device: Device) -> Device {
    sent(device.on_timer(Duration::ZERO, Duration::ZERO));
    device
}

fn sent(wake: Wake) -> Uplink {
    match wake {
        Wake::Send(uplink) => uplink,
        Wake::Reopen => panic!("reopened"),
    }
}

/// Opens an uplink as a gateway does, with the network's key and the root key made from the device's public half.
fn open<T>(uplink: &Uplink, with: impl FnOnce(&Verified<'_>) -> T) -> T {
    let (ring, identity) = (KeyRing::default(), identity());
    ring.set_network(NETWORK, network_root());
    let root = KeyPair::from_private([0x11; 32]).shared_root(identity.keys.public()).unwrap();
    ring.set_device(identity.id, DeviceKey { key_id: Some(identity.key_id), root }, None);
    let mut bytes = uplink.bytes.clone();
    let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
    let now = Timestamp::from_gps(GPS);
    with(&Authenticator::default().open(&ring, frame, Interface::Udp, now).unwrap())
}

fn header(uplink: &Uplink) -> Header {
    open(uplink, |packet| *packet.header())
}

fn payload(uplink: &Uplink) -> Vec<u8> {
    open(uplink, |packet| packet.payload().to_vec())
}

/// A downlink to the device, as the gateway seals it; `change` spoils its header first.
fn downlink(packet_type: PacketType, level: Level, payload: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let identity = identity();
    let (key_id, flags, root) = match level {
        Level::Network => (NETWORK, 0, network_root()),
        Level::Device => (identity.key_id, Flags::DEVICE_KEY, identity.root.clone()),
    };
    let flags = Flags(flags);
    let device_id = identity.id;
    let mut header = Header { packet_type, flags, key_id, device_id, gps_time: GPS, sequence: 0, entropy: 0 };
    change(&mut header);
    let mut bytes = Vec::new();
    seal_with(&root.day_key(Interface::Udp, header.rotation()), &header, Layout::Unversioned, payload, &mut bytes);
    bytes
}

fn plain(packet_type: PacketType, level: Level, payload: &[u8]) -> Vec<u8> {
    downlink(packet_type, level, payload, |_| {})
}

/// (uptime in seconds, type, ACK flag, gps time, sequence) of each uplink up to `until`; nothing is heard.
fn silence(device: &mut Device, until: Duration) -> Vec<(u64, u8, bool, u32, u16)> {
    let mut seen = Vec::new();
    while device.next_send_at() <= until {
        let now = device.next_send_at();
        if let Wake::Send(uplink) = device.on_timer(now, now) {
            let header = header(&uplink);
            assert_eq!(uplink.asks, header.flags.contains(Flags::ACK_REQUEST));
            seen.push((now.as_secs(), header.packet_type.0, uplink.asks, header.gps_time, header.sequence));
        }
    }
    seen
}

/// The uplinks of a captured run, in the form of [`silence`], up to its first downlink.
fn captured(name: &str) -> Vec<(u64, u8, bool, u32, u16)> {
    let text = include_str!("../../tests/vectors/firmware-capture.json");
    let capture: serde_json::Value = serde_json::from_str(text).unwrap();
    let run = capture["runs"].as_array().unwrap().iter().find(|run| run["name"] == name).unwrap();
    let datagrams = run["datagrams"].as_array().unwrap();
    let uplink = |datagram: &serde_json::Value| {
        let mut bytes = hex::decode(datagram["hex"].as_str().unwrap()).unwrap();
        let header = *Frame::parse(&mut bytes, Layout::Unversioned).unwrap().header();
        let seconds = datagram["t"].as_f64().unwrap() as u64;
        let asks = header.flags.contains(Flags::ACK_REQUEST);
        (seconds, header.packet_type.0, asks, header.gps_time, header.sequence)
    };
    datagrams.iter().take_while(|datagram| datagram["dir"] == "up").map(uplink).collect()
}

#[test]
fn the_first_packet_is_that_of_captured_firmware() {
    let uplink = sent(
        device(Settings { reception: Reception::AfterSending(SECOND), ..settings() })
            .on_timer(Duration::ZERO, Duration::ZERO),
    );
    assert_eq!(uplink.bytes.len(), 41);
    let header = header(&uplink);
    assert_eq!((header.packet_type.0, header.flags.0, header.key_id, header.sequence), (127, 0, NETWORK, 0));
    assert_eq!(header.gps_time, 1_261_872_018);
    assert_eq!(payload(&uplink), identity().key_id.to_le_bytes());
}

#[test]
fn without_an_answer_it_sends_what_captured_firmware_sent_second_by_second() {
    let seen = silence(&mut device(settings()), 32 * SECOND);
    assert_eq!(seen, captured("reconnect"));
    let at_10_seconds = Settings { cadence: 10 * SECOND, ack_after: 3600 * SECOND, ..settings() };
    assert_eq!(silence(&mut device(at_10_seconds), 25 * SECOND), captured("boot"));
}

#[test]
fn after_asking_in_vain_it_reopens_and_the_packet_takes_no_sequence() {
    let mut device = device(settings());
    silence(&mut device, 10 * SECOND);
    assert_eq!(device.next_send_at(), 12 * SECOND);
    assert_eq!(device.on_timer(12 * SECOND, 12 * SECOND), Wake::Reopen);
    assert_eq!(header(&sent(device.on_timer(14 * SECOND, 14 * SECOND))).sequence, 6);
}

#[test]
fn an_acknowledgement_ends_the_asking_and_tells_the_round_trip() {
    for level in [Level::Network, Level::Device] {
        let mut device = device(settings());
        let seen = silence(&mut device, 6 * SECOND);
        assert_eq!(seen.last(), Some(&(6, 2, true, NO_TIME_START + 6, 3)));
        let mut ack = plain(PacketType::ACK, level, &3_u16.to_le_bytes());
        let reaction = device.on_datagram(6 * SECOND + Duration::from_millis(20), &mut ack.clone());
        assert_eq!(reaction, Reaction { heard: Heard::Ack(Some(Duration::from_millis(20))), reply: None });
        assert_eq!(device.on_datagram(7 * SECOND, &mut ack).heard, Heard::Ack(None), "a second one finds nothing");
        let asks: Vec<bool> =
            (4..7).map(|half| sent(device.on_timer(2 * half * SECOND, 2 * half * SECOND)).asks).collect();
        assert_eq!(asks, [false, false, true]);
    }
}

#[test]
fn an_acknowledgement_of_any_other_length_is_none() {
    let mut device = booted(settings());
    for payload in [&[3][..], &[3, 0, 0]] {
        let mut datagram = plain(PacketType::ACK, Level::Network, payload);
        assert_eq!(device.on_datagram(SECOND, &mut datagram).heard, Heard::Refused);
    }
}

#[test]
fn telemetry_asks_on_its_own_account_in_the_configured_share() {
    let mut device = booted(Settings { ack_share: 1.0, ..settings() });
    assert!(sent(device.on_timer(2 * SECOND, 2 * SECOND)).asks);
    let mut ack = plain(PacketType::ACK, Level::Network, &1_u16.to_le_bytes());
    assert_eq!(device.on_datagram(3 * SECOND, &mut ack).heard, Heard::Ack(Some(SECOND)));
}

#[test]
fn the_first_downlink_sets_the_clock_even_if_it_does_not_decrypt_and_no_later_one_does() {
    let mut device = booted(settings());
    let mut garbage = [0xe8; 60];
    garbage[14..18].copy_from_slice(&1_500_000_000_u32.to_le_bytes());
    assert_eq!(device.on_datagram(SECOND, &mut garbage).heard, Heard::Refused);
    // Run "garbage" of the capture: 3.96 s later the clock shows 3 more seconds.
    assert_eq!(device.gps_time(Duration::from_millis(4956)), 1_500_000_003);
    device.on_datagram(5 * SECOND, &mut plain(PacketType::ACK, Level::Network, &[0, 0]));
    assert_eq!(device.gps_time(8 * SECOND), 1_500_000_007);
}

#[test]
fn neither_a_short_datagram_nor_time_0_sets_the_clock() {
    let mut device = booted(settings());
    assert_eq!(device.on_datagram(SECOND, &mut [0xe8; 37]).heard, Heard::Short);
    device.on_datagram(SECOND, &mut downlink(PacketType::ACK, Level::Network, &[0, 0], |header| header.gps_time = 0));
    assert_eq!(device.gps_time(5 * SECOND), NO_TIME_START + 5);
    device.on_datagram(5 * SECOND, &mut plain(PacketType::ACK, Level::Network, &[0, 0]));
    assert_eq!(device.gps_time(5 * SECOND), GPS);
}

#[test]
fn a_clock_that_survived_the_reboot_is_kept() {
    let mut device = started(device(settings()).with_clock(Duration::ZERO, Timestamp::from_gps(GPS)));
    device.on_datagram(SECOND, &mut downlink(PacketType::ACK, Level::Network, &[0, 0], |header| header.gps_time += 9));
    assert_eq!(device.gps_time(SECOND), GPS + 1);
}

#[test]
fn two_boots_without_time_repeat_time_and_sequence_but_no_frame_and_a_gateway_counts_both() {
    let table = RouteTable::new(&TableConfig::default());
    let path = Path::Direct("192.0.2.1:6200".parse().unwrap());
    let mut boots = Vec::new();
    for entropy in [1, 2] {
        let mut device = Device::new(identity().id, settings(), Rng::with_seed(entropy));
        let uplinks: Vec<_> = (0..3).map(|step| sent(device.on_timer(2 * step * SECOND, 2 * step * SECOND))).collect();
        for uplink in &uplinks {
            let record = |verified: &Verified<'_>| {
                let at = Timestamp::from_gps(GPS);
                table.record(&Packet::new(verified, &path, at))
            };
            assert!(matches!(open(uplink, record), Outcome::Counted(_)));
        }
        boots.push(uplinks);
    }
    for (first, second) in boots[0].iter().zip(&boots[1]) {
        let nonce = |uplink: &Uplink| (header(uplink).gps_time, header(uplink).sequence);
        assert_eq!(nonce(first), nonce(second));
        assert_ne!(header(first).entropy, header(second).entropy);
    }
    assert_eq!(table.cursor(identity().id).n, 6);
}

#[test]
fn an_echo_request_is_answered_with_its_payload_at_its_level() {
    for level in [Level::Network, Level::Device] {
        let mut device = booted(settings());
        let reaction = device.on_datagram(SECOND, &mut plain(PacketType::ECHO_REQ, level, b"cookie 8"));
        assert_eq!(reaction.heard, Heard::Echo);
        let reply = reaction.reply.unwrap();
        assert_eq!(payload(&reply), b"cookie 8");
        let header = header(&reply);
        assert_eq!((header.packet_type, header.level(), header.sequence), (PacketType::ECHO_RSP, level, 1));
        assert_eq!(header.gps_time, GPS, "the request gave it the time");
    }
}

#[test]
fn an_echo_request_without_payload_is_not_answered_and_what_is_too_long_loses_its_tag() {
    let mut device = booted(settings());
    let empty = plain(PacketType::ECHO_REQ, Level::Device, &[]);
    let longest = plain(PacketType::ECHO_REQ, Level::Device, &[1; 510]);
    let too_long = plain(PacketType::ECHO_REQ, Level::Device, &[1; 511]);
    assert_eq!(longest.len(), MAX_DOWNLINK);
    let heard = [empty, longest, too_long].map(|mut bytes| device.on_datagram(SECOND, &mut bytes).heard);
    assert_eq!(heard, [Heard::Refused, Heard::Echo, Heard::Refused]);
}

#[test]
fn an_unknown_device_key_id_is_answered_with_the_right_one() {
    let mut device = booted(settings());
    let mut datagram = downlink(PacketType::ECHO_REQ, Level::Device, &[1], |header| {
        header.key_id = KeyId::from_le_bytes([1, 2, 3]);
    });
    let reaction = device.on_datagram(SECOND, &mut datagram);
    assert_eq!(reaction.heard, Heard::UnknownKey);
    let reply = reaction.reply.unwrap();
    assert_eq!(header(&reply).packet_type, PacketType::KEY_IDS);
    assert_eq!(payload(&reply), identity().key_id.to_le_bytes());
}

#[test]
fn the_device_id_matters_at_device_level_only() {
    for (level, expected) in [(Level::Network, Heard::Echo), (Level::Device, Heard::Refused)] {
        let mut device = booted(settings());
        let mut datagram = downlink(PacketType::ECHO_REQ, level, &[1], |header| header.device_id = DeviceId(0));
        assert_eq!(device.on_datagram(SECOND, &mut datagram).heard, expected);
    }
}

#[test]
fn an_unknown_network_and_a_bad_tag_are_met_with_silence() {
    let mut device = booted(settings());
    let mut other = downlink(PacketType::ECHO_REQ, Level::Network, &[1], |header| {
        header.key_id = KeyId::from_le_bytes([1, 2, 3]);
    });
    let mut spoiled = plain(PacketType::ECHO_REQ, Level::Device, &[1]);
    *spoiled.last_mut().unwrap() ^= 1;
    for datagram in [&mut other, &mut spoiled] {
        let silence = Reaction { heard: Heard::Refused, reply: None };
        assert_eq!(device.on_datagram(SECOND, datagram), silence);
    }
}

#[test]
fn a_downlink_of_another_day_is_opened_with_the_key_of_its_day() {
    let mut device = booted(settings());
    for days in [-10_i64, 10, 0] {
        let mut datagram = downlink(PacketType::ECHO_REQ, Level::Device, &[1], |header| {
            header.gps_time = (i64::from(header.gps_time) + days * 86_400) as u32;
        });
        assert_eq!(device.on_datagram(SECOND, &mut datagram).heard, Heard::Echo);
    }
    let day_0 = |level| downlink(PacketType::ECHO_REQ, level, &[1], |header| header.gps_time = 0);
    assert_eq!(device.on_datagram(SECOND, &mut day_0(Level::Device)).heard, Heard::Echo);
    let mut fresh = booted(settings());
    assert_eq!(fresh.on_datagram(SECOND, &mut day_0(Level::Device)).heard, Heard::Refused, "no key at this level yet");
}

#[test]
fn a_key_question_is_answered_once_in_a_second_and_is_no_sign_of_life() {
    let mut device = booted(settings());
    let mut ask = |millis| device.on_datagram(Duration::from_millis(millis), &mut [0x4d]);
    assert_eq!(header(&ask(1000).reply.unwrap()).packet_type, PacketType::KEY_IDS);
    assert_eq!(ask(1999), Reaction { heard: Heard::KeyQuestion, reply: None });
    assert!(ask(2000).reply.is_some());
    assert!(sent(device.on_timer(5 * SECOND, 5 * SECOND)).asks, "still nothing was heard");
}

#[test]
fn a_sleeping_device_hears_for_a_while_after_it_sent_and_nothing_later() {
    let window = Reception::AfterSending(SECOND);
    let mut device = booted(Settings { reception: window, cadence: 10 * SECOND, ..settings() });
    let echo = || plain(PacketType::ECHO_REQ, Level::Network, &[1]);
    let at = Duration::from_millis;
    assert_eq!(device.on_datagram(at(900), &mut echo()).heard, Heard::Echo);
    assert_eq!(device.on_datagram(at(1800), &mut echo()).heard, Heard::Echo, "its answer kept it awake");
    assert_eq!(device.on_datagram(at(2800), &mut echo()), Reaction { heard: Heard::Asleep, reply: None });
    assert!(sent(device.on_timer(at(10_000), at(10_000))).asks, "what it missed is no sign of life");
}

#[test]
fn the_interface_flags_tell_how_it_listens() {
    for (reception, flags) in [
        (Reception::Always, Flags::ALWAYS_RX),
        (Reception::AfterSending(SECOND), 0),
        (Reception::AfterSending(Duration::ZERO), Flags::SINGLE_TX),
    ] {
        let uplink = sent(device(Settings { reception, ..settings() }).on_timer(Duration::ZERO, Duration::ZERO));
        assert_eq!(header(&uplink).flags.0, flags);
    }
}

#[test]
fn the_sequence_runs_over_all_types_and_both_levels_and_wraps() {
    let mut device = booted(Settings { telemetry: Level::Device, ..settings() });
    assert_eq!(header(&sent(device.on_timer(2 * SECOND, 2 * SECOND))).sequence, 1);
    let echo = plain(PacketType::ECHO_REQ, Level::Network, &[1]);
    for expected in 2..=u16::MAX {
        let reply = device.on_datagram(3 * SECOND, &mut echo.clone()).reply.unwrap();
        assert_eq!(reply.bytes[18..20], expected.to_le_bytes());
    }
    let wrapped = header(&sent(device.on_timer(4 * SECOND, 4 * SECOND)));
    assert_eq!((wrapped.sequence, wrapped.level()), (0, Level::Device));
}

#[test]
fn the_key_follows_the_day_of_its_own_clock() {
    let midnight = Timestamp::from_gps(17_124 * 86_400);
    for telemetry in [Level::Network, Level::Device] {
        let device = device(Settings { telemetry, ..settings() });
        let mut device = started(device.with_clock(Duration::ZERO, Timestamp(midnight.0 - 3000)));
        let days =
            [1, 2, 3].map(|half| header(&sent(device.on_timer(2 * half * SECOND, 2 * half * SECOND))).rotation());
        assert_eq!(days, [17_123, 17_124, 17_124], "each of them opened");
    }
}

#[test]
fn the_first_telemetry_announces_and_then_one_each_period() {
    let mut device = booted(Settings { ack_after: 3600 * SECOND, ..settings() });
    let with_announce = [20_u32, 40, 60, 80, 100, 140].map(|now| {
        let scan = tdf::scan(&payload(&sent(device.on_timer(now * SECOND, now * SECOND))));
        assert_eq!(scan.fault, None);
        scan.announce.map(|announce| (announce.uptime == now, announce.reboots))
    });
    assert_eq!(with_announce, [Some((true, 1)), None, None, Some((true, 1)), None, Some((true, 1))]);
}

#[test]
fn intervals_stay_within_the_jitter_and_differ() {
    let mut device = booted(Settings { jitter: 0.25, ..settings() });
    let mut intervals = Vec::new();
    for _ in 0..100 {
        let now = device.next_send_at();
        device.on_timer(now, now);
        intervals.push(device.next_send_at() - now);
    }
    assert!(intervals.iter().all(|interval| (1500..=2500).contains(&interval.as_millis())), "{intervals:?}");
    assert!(intervals.iter().max() > intervals.iter().min());
}

#[test]
fn two_boots_do_the_same_at_the_same_times_and_differ_in_entropy_alone() {
    let lively = || Settings { jitter: 0.5, ack_share: 0.5, ..settings() };
    let run = |entropy| {
        let mut device = Device::new(identity().id, lively(), Rng::with_seed(entropy));
        let mut told = Vec::new();
        for _ in 0..40 {
            let now = device.next_send_at();
            if let Wake::Send(uplink) = device.on_timer(now, now) {
                told.push((now, uplink.asks, payload(&uplink), header(&uplink)));
            }
        }
        told
    };
    let (first, second) = (run(1), run(2));
    assert_ne!(first, second);
    let without_entropy = |told: Vec<(Duration, bool, Vec<u8>, Header)>| -> Vec<_> {
        told.into_iter()
            .map(|(at, asks, payload, header)| (at, asks, payload, Header { entropy: 0, ..header }))
            .collect()
    };
    assert_eq!(without_entropy(first), without_entropy(second));
}

/// The RPC_CMD with this request id, command and rest.
fn call(level: Level, request_id: u32, command: u16, rest: &[u8]) -> Vec<u8> {
    let payload = [&request_id.to_le_bytes()[..], &command.to_le_bytes(), rest].concat();
    plain(PacketType::RPC_CMD, level, &payload)
}

#[test]
fn security_state_is_answered_at_either_level_with_what_only_the_cloud_can_check() {
    for level in [Level::Network, Level::Device] {
        let mut device = booted(settings());
        let reaction = device.on_datagram(SECOND, &mut call(level, 7, 30_000, &[9; 16]));
        assert_eq!(reaction.heard, Heard::Call(0));
        let answer = payload(&reaction.reply.unwrap());
        let pair = KeyPair::from_private([0x11; 32]);
        let checked =
            crate::auth::identity::check_key_answer(&pair, None, &answer[8..], &[9; 16], identity().id).unwrap();
        assert_eq!((checked.key_id, checked.network), (identity().key_id, NETWORK.get()));
        assert_eq!(checked.hardware_id[..8], super::super::security::hardware_id(identity().id));
    }
}

#[test]
fn a_reboot_is_answered_and_then_begins_as_every_boot() {
    let mut device = started(device(settings()).with_clock(Duration::ZERO, Timestamp::from_gps(GPS)));
    sent(device.on_timer(2 * SECOND, 2 * SECOND));
    let reaction = device.on_datagram(3 * SECOND, &mut call(Level::Device, 7, 1, &[]));
    assert_eq!((reaction.heard, header(&reaction.reply.unwrap()).sequence), (Heard::Call(0), 2));
    assert_eq!(device.on_datagram(3 * SECOND, &mut call(Level::Device, 8, 3, &[])).heard, Heard::Asleep);
    let back_at = device.errand_at().unwrap();
    assert_eq!(device.on_errand(back_at - Duration::from_millis(1)), None);
    let first = device.on_errand(back_at).unwrap();
    let first = header(&first);
    assert_eq!((first.packet_type, first.sequence, first.gps_time), (PacketType::KEY_IDS, 0, GPS + 3));
    assert_eq!(device.errand_at(), None);
    let scan = tdf::scan(&payload(&sent(device.on_timer(5 * SECOND, 5 * SECOND))));
    assert_eq!(scan.announce.map(|announce| (announce.uptime, announce.reboots)), Some((2, 2)));
    assert_eq!((device.times_executed(7), device.times_executed(8)), (1, 0), "what it did it did");
}

#[test]
fn a_wake_up_while_it_boots_is_the_boot() {
    let mut device = booted(settings());
    device.on_datagram(SECOND, &mut call(Level::Device, 7, 1, &[]));
    let boot = header(&sent(device.on_timer(2 * SECOND, 2 * SECOND)));
    assert_eq!((boot.packet_type, boot.sequence, device.errand_at()), (PacketType::KEY_IDS, 0, None));
}

#[test]
fn time_set_sets_the_clock() {
    let mut device = booted(settings());
    let time = (u64::from(GPS) + 1000) << 16;
    assert_eq!(device.on_datagram(SECOND, &mut call(Level::Device, 7, 4, &time.to_le_bytes())).heard, Heard::Call(0));
    assert_eq!(device.gps_time(3 * SECOND), GPS + 1002);
}

#[test]
fn data_is_acknowledged_at_network_level_and_answered_at_the_level_of_the_call() {
    let mut device = booted(settings());
    let reaction = device.on_datagram(SECOND, &mut call(Level::Device, 7, 44, &[8, 0, 0, 0, 1]));
    let said = |uplink: &Uplink| (header(uplink).packet_type, header(uplink).level());
    let ready = reaction.reply.unwrap();
    assert_eq!((reaction.heard, said(&ready)), (Heard::CallBegun, (PacketType::RPC_DATA_ACK, Level::Network)));
    for offset in [0, 4_u32] {
        let piece = [&7_u32.to_le_bytes()[..], &offset.to_le_bytes(), b"data"].concat();
        let ack = device.on_datagram(SECOND, &mut plain(PacketType::RPC_DATA, Level::Device, &piece)).reply.unwrap();
        assert_eq!(said(&ack), (PacketType::RPC_DATA_ACK, Level::Network));
        assert_eq!(DataAck::parse(&payload(&ack)).unwrap(), DataAck { request_id: 7, offsets: vec![offset] });
    }
    let answer = device.on_errand(SECOND).unwrap();
    assert_eq!(said(&answer), (PacketType::RPC_RSP, Level::Device));
    assert_eq!(Response::parse(&payload(&answer)).unwrap().body, super::super::exchange::received(b"datadata"));
    assert_eq!((device.errand_at(), device.executed()), (None, Executed { calls: 1, again: 0 }));
}

#[test]
fn a_call_that_waited_for_data_is_answered_after_it() {
    let mut device = booted(settings());
    device.on_datagram(SECOND, &mut call(Level::Device, 7, 32_765, &[4, 0, 0, 0, 0]));
    assert_eq!(device.on_datagram(SECOND, &mut call(Level::Network, 8, 3, &[])), Reaction::silent(Heard::CallBegun));
    let mut said = Vec::new();
    while let Some(at) = device.errand_at() {
        let uplink = device.on_errand(SECOND.max(at)).unwrap();
        said.push((header(&uplink).packet_type, header(&uplink).level(), payload(&uplink)[0]));
    }
    use PacketType as Type;
    let expected =
        [(Type::RPC_DATA, Level::Device, 7), (Type::RPC_RSP, Level::Device, 7), (Type::RPC_RSP, Level::Network, 8)];
    assert_eq!(said, expected);
}

#[test]
fn what_is_to_be_passed_on_means_nothing_to_a_device_that_is_no_relay() {
    let mut device = booted(settings());
    let mut datagram = plain(PacketType::EPACKET_FORWARD_AUTO_CONN, Level::Device, &[1; 14]);
    assert_eq!(
        device.on_datagram(SECOND, &mut datagram),
        Reaction::silent(Heard::Other(PacketType::EPACKET_FORWARD_AUTO_CONN))
    );
}

#[test]
fn a_device_is_small_and_an_acknowledged_one_holds_nothing_beside() {
    assert!(size_of::<Device>() <= 200, "{} bytes", size_of::<Device>());
    let mut device = booted(Settings { ack_share: 1.0, ..settings() });
    sent(device.on_timer(2 * SECOND, 2 * SECOND));
    assert!(device.awaited.is_some());
    device.on_datagram(2 * SECOND, &mut plain(PacketType::ACK, Level::Network, &1_u16.to_le_bytes()));
    assert!(device.awaited.is_none() && device.calls.is_none());
}
