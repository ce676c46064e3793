//! Tests of [`super`]: calls that captured firmware answered, answered again.

use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::auth::keys::{Interface, RootKey};
use crate::auth::{open_with, seal_with};
use crate::clock::Timestamp;
use crate::id::KeyId;
use crate::simulate::calls::{Calls, Turn};
use crate::simulate::device::{Device, Heard, Reception, Settings, Wake};
use crate::simulate::keys::{CloudKey, NetworkKeys};
use crate::wire::calls::TimeSource;
use crate::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};
use crate::wire::rpc::Response;
use crate::wire::tdf::Version;

/// Of the commands that the capture tried: those it has, and two that it does not.
const COMMANDS: [u16; 4] = [TIME_GET, APPLICATION_INFO, 12_345, 8];

pub(in crate::simulate) fn runs() -> Vec<Value> {
    let text = include_str!("../../tests/vectors/firmware-capture.json");
    let mut capture: Value = serde_json::from_str(text).unwrap();
    capture["runs"].as_array_mut().unwrap().drain(..).collect()
}

pub(in crate::simulate) fn key(run: &Value, name: &str) -> [u8; 32] {
    hex::decode(run["keys"][name].as_str().unwrap()).unwrap().try_into().unwrap()
}

fn key_id(run: &Value, name: &str) -> KeyId {
    KeyId::new(u32::try_from(run["keys"][name].as_u64().unwrap()).unwrap()).unwrap()
}

pub(in crate::simulate) fn opened(run: &Value, bytes: &[u8]) -> Option<(Header, Vec<u8>)> {
    let mut bytes = bytes.to_vec();
    let frame = Frame::parse(&mut bytes, Layout::Unversioned).ok()?;
    let name = if frame.header().level() == Level::Device { "device_root_key" } else { "network_root_key" };
    let day_key = RootKey::new(key(run, name)).day_key(Interface::Udp, frame.header().rotation());
    open_with(&day_key, frame).map(|packet| (*packet.header(), packet.payload().to_vec()))
}

/// A datagram of the capture: whether it went up, when in the life of the device, and its bytes.
struct Captured {
    up: bool,
    at: Duration,
    bytes: Vec<u8>,
}

fn datagrams(run: &Value) -> Vec<Captured> {
    let captured = |datagram: &Value| Captured {
        up: datagram["dir"] == "up",
        at: Duration::from_secs_f64(datagram["t"].as_f64().unwrap()),
        bytes: hex::decode(datagram["hex"].as_str().unwrap()).unwrap(),
    };
    run["datagrams"].as_array().unwrap().iter().map(captured).collect()
}

/// The calls of a run to [`COMMANDS`], each with its answer: payload of the call, header and payload of the answer, and
/// when that was sent.
fn calls(run: &Value) -> Vec<(Vec<u8>, Header, Vec<u8>, Duration)> {
    let mut found = Vec::new();
    let mut asked: Option<Vec<u8>> = None;
    for Captured { up, at, bytes } in datagrams(run) {
        match opened(run, &bytes) {
            Some((header, payload)) if header.packet_type == PacketType::RPC_CMD && !up => asked = Some(payload),
            Some((header, payload)) if header.packet_type == PacketType::RPC_RSP && up => {
                let call = asked.take().unwrap();
                if Command::parse(&call).is_some_and(|command| COMMANDS.contains(&command.command_id)) {
                    found.push((call, header, payload, at));
                }
            }
            _ => {}
        }
    }
    found
}

/// What the firmware must have known of itself when it sent `payload`. What cannot be told from outside is taken from there.
fn facts(run: &Value, header: &Header, payload: &[u8], at: Duration) -> Facts {
    let body = Response::parse(payload).unwrap().body;
    let reboots = if run["name"] == "reboot" { 2 } else { 1 };
    let kv_crc = ApplicationInfo::parse(body).map_or(0, |info| info.kv_crc);
    let application = ApplicationInfo {
        // Sample applications of the firmware: no id, no version.
        application_id: 0,
        version: Version::default(),
        network: key_id(run, "network_id").get(),
        uptime: u32::try_from(at.as_secs()).unwrap(),
        reboots,
        kv_crc,
        internal_blocks: 0,
        external_blocks: 0,
    };
    let time = TimeInfo::parse(body);
    let fraction = time.map_or(0, |time| time.time & 0xffff);
    let age = time.and_then(|time| time.age);
    let time = TimeInfo { source: TimeSource::EPACKET, time: u64::from(header.gps_time) << 16 | fraction, age };
    Facts { application, time, commands: Commands::All }
}

/// The payload of the answer to a call, and its return code; `None` without an answer.
fn answer(call: &[u8], level: Level, facts: &Facts) -> Option<(Vec<u8>, i16)> {
    match Calls::default().on_call(Duration::ZERO, level, call, facts, |_| Vec::new()) {
        Turn::Answered { answer, return_code, .. } => Some((answer.payload, return_code)),
        Turn::Malformed => None,
        turn => panic!("{turn:?}"),
    }
}

#[test]
fn every_captured_call_is_answered_with_the_bytes_of_the_firmware() {
    let mut answered = 0;
    for run in runs() {
        for (call, header, payload, at) in calls(&run) {
            let (bytes, return_code) = answer(&call, header.level(), &facts(&run, &header, &payload, at)).unwrap();
            assert_eq!(hex::encode(&bytes), hex::encode(&payload), "{} at {at:?}", run["name"]);
            assert_eq!(return_code, Response::parse(&payload).unwrap().return_code);
            answered += 1;
        }
    }
    assert_eq!(answered, 15);
}

/// The firmware of a run, simulated from its boot.
fn device(run: &Value) -> Device {
    let settings = Settings {
        network: key_id(run, "network_id"),
        network_keys: NetworkKeys::new(RootKey::new(key(run, "network_root_key"))),
        cloud: CloudKey::new(key(run, "cloud_public_key")).unwrap(),
        telemetry: Level::Network,
        reception: Reception::Always,
        cadence: Duration::from_secs(10),
        jitter: 0.0,
        ack_after: Duration::from_secs(3600),
        ack_limit: 10,
        ack_share: 0.0,
        announce_every: Duration::from_secs(60),
        reboots: if run["name"] == "reboot" { 2 } else { 1 },
    };
    let id = run["device_id"].as_str().unwrap().parse().unwrap();
    let root = RootKey::new(key(run, "device_root_key"));
    Device::new(id, settings, fastrand::Rng::with_seed(1)).with_root(key_id(run, "device_key_id"), root)
}

#[test]
fn a_device_that_hears_a_captured_run_answers_its_calls_when_and_as_the_firmware_did() {
    let mut answered = 0;
    for run in runs() {
        let mut device = device(&run);
        let mut answers = calls(&run).into_iter();
        for mut downlink in datagrams(&run).into_iter().filter(|captured| !captured.up) {
            let Some((_, call)) = opened(&run, &downlink.bytes) else {
                device.on_datagram(downlink.at, &mut downlink.bytes);
                continue;
            };
            let reaction = device.on_datagram(downlink.at, &mut downlink.bytes);
            let known = Command::parse(&call).is_some_and(|command| COMMANDS.contains(&command.command_id));
            if !matches!(reaction.heard, Heard::Call(_)) || !known {
                continue;
            }
            let place = format!("{} at {:?}", run["name"], downlink.at);
            let (_, theirs, expected, _) = answers.next().expect(&place);
            let (ours, payload) = opened(&run, &reaction.reply.unwrap().bytes).unwrap();
            let (ours_said, theirs_said) = (Response::parse(&payload).unwrap(), Response::parse(&expected).unwrap());
            assert_eq!(
                (ours.packet_type, ours.level(), ours.key_id),
                (PacketType::RPC_RSP, theirs.level(), theirs.key_id)
            );
            assert_eq!(Response { body: &[], ..ours_said }, Response { body: &[], ..theirs_said }, "{place}");
            match (TimeInfo::parse(ours_said.body), TimeInfo::parse(theirs_said.body)) {
                (Some(ours), Some(theirs)) if ours_said.command_id == TIME_GET => {
                    assert_eq!((ours.source, ours.age), (theirs.source, theirs.age), "{place}");
                    // The firmware noticed each datagram a few milliseconds after the capture did.
                    let apart = ours.time.abs_diff(theirs.time);
                    assert!(apart < 65_536 / 50, "{place}: {apart} / 65536 s apart");
                }
                _ if ours_said.command_id == APPLICATION_INFO => {
                    let ours = ApplicationInfo::parse(ours_said.body).unwrap();
                    let theirs = ApplicationInfo::parse(theirs_said.body).unwrap();
                    assert_eq!((ours.network, ours.reboots), (theirs.network, theirs.reboots), "{place}");
                    assert_eq!(ours.uptime, theirs.uptime, "{place}");
                }
                _ => assert_eq!(ours_said.body, theirs_said.body, "{place}"),
            }
            answered += 1;
        }
        assert!(answers.next().is_none(), "{}", run["name"]);
    }
    assert_eq!(answered, 15);
}

/// Asks a device that booted 9.5 s ago, and has heard no time since.
fn time_of(clock_at_boot: Option<Timestamp>) -> TimeInfo {
    let run = &runs()[0];
    let device = device(run);
    let mut device = match clock_at_boot {
        Some(time) => device.with_clock(Duration::ZERO, time),
        None => device,
    };
    // Time 0 alone sets no clock; its key can be derived once a key of the level was in use.
    assert!(matches!(device.on_timer(Duration::ZERO, Duration::ZERO), Wake::Send(_)));
    let header = Header {
        packet_type: PacketType::RPC_CMD,
        flags: Flags(0),
        key_id: key_id(run, "network_id"),
        device_id: device.id(),
        gps_time: 0,
        sequence: 1,
        entropy: 2,
    };
    let day_key = RootKey::new(key(run, "network_root_key")).day_key(Interface::Udp, 0);
    let mut bytes = Vec::new();
    seal_with(&day_key, &header, Layout::Unversioned, &[1, 0, 0, 0, 3, 0], &mut bytes);
    let reply = device.on_datagram(Duration::from_millis(9500), &mut bytes).reply.unwrap();
    let (_, payload) = opened(run, &reply.bytes).unwrap();
    TimeInfo::parse(Response::parse(&payload).unwrap().body).unwrap()
}

#[test]
fn a_device_without_time_says_so_and_one_that_kept_it_says_that() {
    let counting = u64::from(crate::table::rules::NO_TIME_START + 9) << 16 | 0x8000;
    assert_eq!(time_of(None), TimeInfo { source: TimeSource::NONE, time: counting, age: None });
    let kept = Timestamp::from_gps(1_479_435_219);
    let expected = TimeInfo { source: TimeSource(0x84), time: (1_479_435_219 + 9) << 16 | 0x8000, age: None };
    assert_eq!(time_of(Some(kept)), expected);
}

#[test]
fn a_call_without_a_whole_header_is_not_answered() {
    let run = &runs()[0];
    let header = Header {
        packet_type: PacketType::RPC_RSP,
        flags: Flags(0),
        key_id: key_id(run, "network_id"),
        device_id: "d000000000001001".parse().unwrap(),
        gps_time: 7,
        sequence: 0,
        entropy: 0,
    };
    let facts = facts(run, &header, &[0; 8], Duration::ZERO);
    assert!((0..6).all(|len| answer(&[9; 6][..len], Level::Device, &facts).is_none()));
    assert_eq!(answer(&[9; 6], Level::Device, &facts).unwrap().1, NOT_SUPPORTED);
}

#[test]
fn commands_are_refused_below_their_level_and_with_parameters_missing() {
    let code = |command: u16, level, parameters: &[u8], commands| {
        let call = [&[1, 0, 0, 0][..], &command.to_le_bytes(), parameters].concat();
        match read(&call, level, commands).unwrap().1 {
            Action::Refuse(code) => code,
            _ => 0,
        }
    };
    let enough = [1; 16];
    for (command, minimal) in [
        (REBOOT, Level::Device),
        (TIME_GET, Level::Network),
        (TIME_SET, Level::Device),
        (APPLICATION_INFO, Level::Network),
        (FILE_WRITE_BASIC, Level::Network),
        (FILE_WRITE, Level::Network),
        (SECURITY_STATE, Level::Network),
        (DATA_SENDER, Level::Device),
        (DATA_RECEIVER, Level::Device),
        (ECHO, Level::Network),
    ] {
        let at_network = if minimal == Level::Device { DENIED } else { 0 };
        assert_eq!(code(command, Level::Network, &enough, Commands::All), at_network, "{command}");
        let time = [&enough[..4], &[0; 4]].concat();
        assert_eq!(code(command, Level::Device, &[&time[..], &enough].concat(), Commands::All), 0, "{command}");
        let asks = [TIME_GET, APPLICATION_INFO, SECURITY_STATE, ECHO].contains(&command);
        let of_child = code(command, Level::Device, &enough, Commands::Questions);
        assert_eq!(of_child, if asks { 0 } else { NOT_SUPPORTED }, "{command}");
    }
    for (command, parameters) in [
        (TIME_SET, &[0; 8][..]),
        (TIME_SET, &[1; 7]),
        (TIME_SET, &[1; 8]),
        (SECURITY_STATE, &[1; 15]),
        (FILE_WRITE, &[1; 4]),
        (DATA_SENDER, &[1; 4]),
    ] {
        assert_eq!(code(command, Level::Device, parameters, Commands::All), INVALID, "{command} {parameters:?}");
    }
    assert_eq!(code(12_345, Level::Network, &[], Commands::All), NOT_SUPPORTED);
}
