//! Traffic of real firmware, replayed packet by packet through the whole pipeline with the clock of the capture.
#![cfg(feature = "server")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use lastroute::auth::keys::{DayKey, DeviceKey, Interface, KeyPair, KeyRing, RootKey};
use lastroute::auth::nonce::OwnNonces;
use lastroute::auth::{Authenticator, Verified, open_with};
use lastroute::clock::Timestamp;
use lastroute::downlink::Downlinks;
use lastroute::downlink::channel::{EventReceiver, channel};
use lastroute::downlink::event::{Event, Listening, Way};
use lastroute::downlink::intent::{Call, DataPhase, Intent, Retry, Sealing};
use lastroute::downlink::outbox::OutboxConfig;
use lastroute::id::{DeviceId, KeyId};
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline, RefusalLog};
use lastroute::ingest::replies::Replies;
use lastroute::metrics::Disposition;
use lastroute::table::route::{Application, Route};
use lastroute::table::rules::TimeClass;
use lastroute::table::sending::Via;
use lastroute::table::{RoutePolicy, RouteTable, TableConfig};
use lastroute::waiters::{Waiters, WaitersConfig};
use lastroute::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};
use lastroute::wire::rpc::{Command, Response};
use lastroute::wire::tdf::Version;
use serde::Deserialize;

#[derive(Deserialize)]
struct Capture {
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    name: String,
    started_unix: f64,
    device_id: DeviceId,
    keys: Keys,
    datagrams: Vec<Captured>,
}

#[derive(Deserialize)]
struct Keys {
    network_id: u32,
    network_root_key: String,
    cloud_private_key: String,
    device_public_key: String,
    device_root_key: String,
    device_key_id: u32,
}

#[derive(Clone, Deserialize)]
struct Captured {
    time: f64,
    dir: String,
    addr: SocketAddr,
    hex: String,
    #[serde(rename = "timeClass")]
    time_class: Option<String>,
}

fn runs() -> Vec<Run> {
    serde_json::from_str::<Capture>(include_str!("vectors/firmware-capture.json")).unwrap().runs
}

fn key(text: &str) -> [u8; 32] {
    hex::decode(text).unwrap().try_into().unwrap()
}

impl Run {
    fn network(&self) -> (KeyId, RootKey) {
        (KeyId::new(self.keys.network_id).unwrap(), RootKey::new(key(&self.keys.network_root_key)))
    }

    fn gateway(&self) -> Gateway {
        let cloud = KeyPair::from_private(key(&self.keys.cloud_private_key));
        let keys = KeyRing::default();
        let (network, root) = self.network();
        keys.set_network(network, root);
        let root = cloud.shared_root(key(&self.keys.device_public_key)).unwrap();
        let device_key = DeviceKey { key_id: KeyId::new(self.keys.device_key_id), root };
        keys.set_device(self.device_id, device_key, None);
        let started = Timestamp((self.started_unix * 1000.0) as u64);
        let table = Arc::new(RouteTable::new(&TableConfig::default()));
        table.register(self.device_id, started);
        let (sender, events) = channel();
        let downlinks = Downlinks::new(OutboxConfig::default(), sender);
        downlinks.allowance.extend(u32::MAX);
        let core = Arc::new(Core {
            keys: Arc::new(keys),
            table: table.clone(),
            waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
            downlinks: Arc::new(downlinks),
            nonces: Arc::new(OwnNonces::new(&cloud, started)),
            policy: RoutePolicy::Newest,
            refusals: RefusalLog::default(),
            moves: Arc::default(),
            traces: Arc::default(),
        });
        Gateway { table, pipeline: Pipeline::new(core.clone()), core, events }
    }

    /// The root key of a frame with these flags.
    fn root(&self, level: Level) -> RootKey {
        match level {
            Level::Network => self.network().1,
            Level::Device => RootKey::new(key(&self.keys.device_root_key)),
        }
    }
}

struct Gateway {
    core: Arc<Core>,
    table: Arc<RouteTable>,
    pipeline: Pipeline,
    events: EventReceiver,
}

impl Gateway {
    fn take(&mut self, captured: &Captured, at: Timestamp) -> (Disposition, Vec<u8>) {
        let mut bytes = hex::decode(&captured.hex).unwrap();
        let mut replies = Replies::default();
        let datagram = Datagram { bytes: &mut bytes, truncated: false, source: captured.addr, via: Via::UNKNOWN, at };
        let disposition = self.pipeline.take(datagram, &mut replies);
        assert!(replies.iter().len() <= 1);
        (disposition, replies.iter().flat_map(|reply| reply.bytes.to_vec()).collect())
    }
}

impl Gateway {
    /// Whether an uplink is the response to one of these calls, by request id. If it is, it has to be told of as that.
    fn check_answer(&mut self, run: &Run, captured: &Captured, calls: &HashMap<u32, (i64, u16)>) -> usize {
        let mut copy = hex::decode(&captured.hex).unwrap();
        let packet = opened(run, &mut copy);
        self.take(captured, captured.at());
        let events: Vec<_> = std::iter::from_fn(|| self.events.try_recv()).collect();
        if packet.header().packet_type != PacketType::RPC_RSP {
            assert_eq!(events, [], "{}", run.name);
            return 0;
        }
        let response = Response::parse(packet.payload()).unwrap();
        let Some(&(call, command_id)) = calls.get(&response.request_id) else {
            // The capture cut a call short, and the firmware made up the rest of its header.
            assert!(matches!(&events[..], [Event::LateAnswer { .. }]), "{events:?}");
            return 0;
        };
        let [Event::Answered { device, message, answer, .. }] = &events[..] else { panic!("{}: {events:?}", run.name) };
        assert_eq!((*device, *message, answer.level), (run.device_id, call, packet.level()));
        assert_eq!((answer.request_id, answer.command_id), (response.request_id, command_id));
        assert_eq!((answer.return_code, &*answer.body), (response.return_code, response.body));
        1
    }

    /// As if it had sent this call itself.
    fn send(&mut self, run: &Run, header: &Header, message: i64, command: Command<'_>, captured: &Captured) {
        let (request_id, command_id) = (command.request_id, command.command_id);
        let intent = Intent {
            message,
            packet_type: PacketType::RPC_CMD,
            sealing: Sealing::Best,
            payload: [].into(),
            call: Some(Call { request_id, command_id, data: Some(DataPhase::From { limit: 1 << 20 }) }),
            expires_at: None,
            retry: Retry::Never,
            if_route: None,
        };
        let way = Way { sequence: header.sequence, level: header.level(), address: captured.addr, relay: None };
        let listening = Listening { always_rx: false, single_tx: false, heard_at: captured.at() };
        self.core.downlinks.outbox.sent(run.device_id, &intent, captured.at(), way, listening);
        let sent = self.events.try_recv();
        assert!(matches!(sent, Some(Event::Sent { message: told, .. }) if told == message));
    }
}

impl Captured {
    fn at(&self) -> Timestamp {
        Timestamp((self.time * 1000.0) as u64)
    }

    fn is_up(&self) -> bool {
        self.dir == "up"
    }
}

fn opened<'a>(run: &Run, bytes: &'a mut [u8]) -> Verified<'a> {
    let header = *Frame::parse(bytes, Layout::Unversioned).unwrap().header();
    let day_key: DayKey = run.root(header.level()).day_key(Interface::Udp, header.rotation());
    open_with(&day_key, Frame::parse(bytes, Layout::Unversioned).unwrap()).unwrap()
}

/// Every uplink counts once, with the class the capture names, moves or refreshes the route, and is acknowledged if it
/// asks.
fn replay(run: &Run, gateway: &mut Gateway) -> usize {
    let (mut uplinks, mut challenges) = (0, 0);
    let counted_before = gateway.table.cursor(run.device_id).n;
    for captured in run.datagrams.iter().filter(|captured| captured.is_up()) {
        let at = captured.at();
        let place = format!("{} at {}: {}", run.name, captured.time, captured.hex);
        let mut copy = hex::decode(&captured.hex).unwrap();
        let packet = opened(run, &mut copy);
        let route_before = gateway.table.snapshot(run.device_id).and_then(|snapshot| snapshot.direct);
        let moves = route_before.is_none_or(|route| route.address != captured.addr);
        let (disposition, mut reply) = gateway.take(captured, at);
        uplinks += 1;
        assert_eq!(disposition, Disposition::Accepted, "{place}");
        let snapshot = gateway.table.snapshot(run.device_id).unwrap();
        let last = snapshot.last_packet.unwrap();
        assert_eq!(snapshot.cursor.n, counted_before + uplinks, "{place}");
        assert_eq!(Some(last.class.name()), captured.time_class.as_deref(), "{place}");
        assert_eq!((last.packet_type, last.level), (packet.header().packet_type, packet.level()), "{place}");
        assert_eq!((last.sequence, last.gps_time), (packet.header().sequence, packet.header().gps_time), "{place}");
        assert_eq!((last.source, last.on_route, last.received_at), (captured.addr, true, at), "{place}");
        let Some(Route::Direct(route)) = snapshot.last_route else { panic!("{place}: {snapshot:?}") };
        assert_eq!((route.address, route.received_at), (captured.addr, at), "{place}");

        let asks = packet.header().flags.contains(Flags::ACK_REQUEST);
        assert!(!asks || !reply.is_empty(), "{place}");
        if !asks && !reply.is_empty() {
            // A device without time is told it once after its boot, by a challenge (rule R6).
            assert_eq!(
                (last.class, opened(run, &mut reply).header().packet_type),
                (TimeClass::NoTime, PacketType::ECHO_REQ),
                "{place}"
            );
            challenges += 1;
        } else if asks {
            assert_eq!(reply.len(), 40, "{place}");
            let ack = opened(run, &mut reply);
            assert_eq!(ack.header().packet_type, PacketType::ACK, "{place}");
            assert_eq!((ack.level(), ack.header().key_id), (packet.level(), packet.header().key_id), "{place}");
            assert_eq!((ack.header().device_id, ack.header().gps_time), (run.device_id, at.gps()), "{place}");
            assert_eq!(ack.payload(), packet.header().sequence.to_le_bytes(), "{place}");
        }
        // The same bytes again, from anywhere, change nothing.
        let elsewhere = Captured { addr: SocketAddr::from(([198, 51, 100, 9], 7)), ..captured.clone() };
        let (disposition, reply) = gateway.take(&elsewhere, at);
        assert!(matches!(disposition, Disposition::Duplicate | Disposition::TooOld), "{place}: {disposition:?}");
        // Only the packet that has just set the route is asked about, since its copy may be the original (rule R6).
        assert!(reply.is_empty() || moves, "{place}");
        assert_eq!(gateway.table.snapshot(run.device_id).unwrap(), snapshot, "{place}");
    }
    assert!(challenges <= 1, "{}: one boot", run.name);
    uplinks as usize
}

#[test]
fn every_uplink_of_every_run_counts_exactly_once() {
    let uplinks: usize = runs().iter().map(|run| replay(run, &mut run.gateway())).sum();
    let captured: usize = runs().iter().map(|run| run.datagrams.iter().filter(|one| one.is_up()).count()).sum();
    assert_eq!((uplinks, captured), (164, 164));
}

#[test]
fn the_second_boot_of_a_device_counts_on_where_the_first_ended() {
    let runs = runs();
    let run = |name: &str| runs.iter().find(|run| run.name == name).unwrap();
    let mut gateway = run("sync").gateway();
    let first = replay(run("sync"), &mut gateway);
    let second = replay(run("reboot"), &mut gateway);
    assert_eq!(gateway.table.cursor(run("sync").device_id).n as usize, first + second);
}

#[test]
fn what_the_firmware_announces_is_known_afterwards() {
    for run in runs() {
        let mut gateway = run.gateway();
        replay(&run, &mut gateway);
        let announced = run.datagrams.iter().filter(|captured| captured.is_up()).any(|captured| {
            let mut bytes = hex::decode(&captured.hex).unwrap();
            let packet = opened(&run, &mut bytes);
            // This firmware sends ANNOUNCE_V2 without a timestamp, first or behind other readings.
            packet.header().packet_type == PacketType::TDF
                && packet.payload().windows(3).any(|front| front == [7, 0, 29])
        });
        let application = gateway.table.snapshot(run.device_id).unwrap().application;
        // Sample applications of the firmware: no id, no version.
        let sample = Application { id: 0, version: Version::default() };
        assert_eq!(application, announced.then_some(sample), "{}", run.name);
    }
}

#[test]
fn no_downlink_counts_when_it_comes_back() {
    for run in runs() {
        let mut gateway = run.gateway();
        for captured in run.datagrams.iter().filter(|captured| !captured.is_up()) {
            let (disposition, reply) = gateway.take(captured, captured.at());
            let kind = hex::decode(&captured.hex).unwrap().first().copied().map(PacketType);
            // The capture tried a few types on the device that a device sends itself. Their nonces are not ours.
            let of_a_device = matches!(kind, Some(PacketType::TDF | PacketType::KEY_IDS | PacketType(200)));
            assert_eq!(disposition == Disposition::Accepted, of_a_device, "{}: {}", run.name, captured.hex);
            // It names a key that nobody has, so the device is asked.
            assert_eq!(reply.is_empty(), kind != Some(PacketType::KEY_IDS), "{}: {}", run.name, captured.hex);
        }
    }
}

/// A downlink of the capture that the device could open.
fn opened_downlink(run: &Run, captured: &Captured) -> Option<(Header, Vec<u8>)> {
    let mut bytes = hex::decode(&captured.hex).unwrap();
    let header = *Frame::parse(&mut bytes, Layout::Unversioned).ok()?.header();
    let day_key = run.root(header.level()).day_key(Interface::Udp, header.rotation());
    let verified = open_with(&day_key, Frame::parse(&mut bytes, Layout::Unversioned).unwrap())?;
    // At network level a device minds no device id.
    let is_known = match header.level() {
        Level::Network => header.key_id == run.network().0,
        Level::Device => header.key_id.get() == run.keys.device_key_id && header.device_id == run.device_id,
    };
    is_known.then(|| (header, verified.payload().to_vec()))
}

#[test]
fn every_downlink_is_sealed_to_the_bytes_that_the_firmware_took() {
    let mut sealed = BTreeMap::<_, u32>::new();
    for run in runs() {
        let gateway = run.gateway();
        let mut authenticator = Authenticator::default();
        for captured in run.datagrams.iter().filter(|captured| !captured.is_up()) {
            let Some((header, plaintext)) = opened_downlink(&run, captured) else { continue };
            let mut out = Vec::new();
            let (keys, layout) = (&gateway.core.keys, Layout::Unversioned);
            authenticator.seal(keys, &header, layout, Interface::Udp, &plaintext, &mut out).unwrap();
            assert_eq!(hex::encode(&out), captured.hex, "{}", run.name);
            *sealed.entry(header.packet_type.name()).or_default() += 1;
        }
    }
    let expected = [("ack", 8), ("customer", 1), ("echo_req", 55), ("key_ids", 1), ("rpc_cmd", 21), ("tdf", 1)];
    assert_eq!(sealed, BTreeMap::from(expected));
}

#[test]
fn every_response_of_the_firmware_completes_its_call() {
    let (mut calls, mut answers) = (0, 0);
    for run in runs() {
        let mut gateway = run.gateway();
        let mut present = HashMap::new();
        for captured in &run.datagrams {
            if let Some((header, plaintext)) = opened_downlink(&run, captured).filter(|_| !captured.is_up())
                && header.packet_type == PacketType::RPC_CMD
                && let Some(command) = Command::parse(&plaintext)
            {
                calls += 1;
                present.insert(command.request_id, (calls, command.command_id));
                gateway.send(&run, &header, calls, command, captured);
            }
            if captured.is_up() {
                answers += gateway.check_answer(&run, captured, &present);
            }
        }
    }
    assert_eq!((calls, answers), (20, 20));
}
