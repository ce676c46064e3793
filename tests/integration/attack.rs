//! The attack mode of the simulator: against a whole gateway, which holds, and against weak ones, which do not.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use lastroute::auth::keys::{FACTORY_NETWORK, FACTORY_NETWORK_KEY, Interface, RootKey};
use lastroute::auth::{open_with, seal_with};
use lastroute::client::Client;
use lastroute::clock::{Clock, Timestamp};
use lastroute::id::DeviceId;
use lastroute::metrics::Disposition;
use lastroute::simulate::attack::{self, Plan};
use lastroute::simulate::verdict::{Kind, Outcome};
use lastroute::simulate::{self, SimulateError};
use lastroute::status::{Devices, GatewayStatus, Heard, Time, Waiting};
use lastroute::table::rules::TimeClass;
use lastroute::wire::control;
use lastroute::wire::frame::{Flags, Frame, Header, Layout, PacketType};

use crate::simulate::Known;

fn plan(api: Option<SocketAddr>, kinds: &[Kind]) -> Plan {
    let api = api.map(|address| Client::new(&format!("http://{address}"), None).unwrap());
    Plan { kinds: kinds.to_vec(), packets: 450, api }
}

async fn attacked(fleet: &simulate::Config, plan: &Plan) -> Vec<Outcome> {
    attack::run(fleet, plan, Clock::default(), |line| println!("{line}")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_gateway_holds_against_everything_with_and_without_its_api() {
    let mut fleet = simulate::Config { device_level: 0.5, ..simulate::Config::default() };
    let gateway = Known::start(&mut fleet);
    let blind = attacked(&fleet, &plan(None, &[Kind::UnknownIds])).await;
    assert!(blind[0].held() && blind[0].to_string().contains("only answers are seen"), "{}", blind[0]);
    // The same devices boot again at once, which must not make copies of what they say count.
    let outcomes = attacked(&fleet, &plan(Some(gateway.app.http()), &Kind::ALL)).await;
    let kinds: Vec<_> = outcomes.iter().map(|outcome| (outcome.kind, outcome.sent, outcome.held())).collect();
    assert_eq!(kinds, Kind::ALL.map(|kind| (kind, 450, true)), "{outcomes:?}");
    let counted = gateway.app.counted().datagrams;
    // Every reason was met: the attack is not refused for the same one again and again.
    for disposition in [
        Disposition::Duplicate,
        Disposition::TooOld,
        Disposition::Reflected,
        Disposition::Short,
        Disposition::Oversize,
        Disposition::UnknownNetwork,
        Disposition::UnknownDevice,
        Disposition::UnknownKey,
        Disposition::BadTag,
    ] {
        assert!(counted[disposition as usize] > 0, "{}: {counted:?}", disposition.label());
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_devices_without_time_said_may_count_again_and_moves_nothing() {
    let mut fleet = simulate::Config { devices: 5, no_time: 1.0, ..simulate::Config::default() };
    let gateway = Known::start(&mut fleet);
    let outcomes = attacked(&fleet, &plan(Some(gateway.app.http()), &[Kind::Replay])).await;
    let text = outcomes[0].to_string();
    assert!(outcomes[0].held() && text.contains("recordings of packets without time counted again"), "{text}");
    assert_eq!(gateway.app.counted().route_moves, 0);
    gateway.stop().await;
}

/// What a gateway does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weakness {
    /// Nothing.
    Sound,
    /// Takes every copy for new.
    Forgets,
    /// Takes its own acknowledgements for uplinks.
    BelievesItself,
    /// Looks at no tag.
    BelievesAll,
    /// Answers what is no frame.
    Answers,
    /// Counts copies silently.
    CountsCopies,
    /// Takes every copy of a packet without time for new.
    ForgetsUntimed,
    /// Forgets a device over a forged packet of it.
    ForgetsDevices,
    /// None: it acknowledges twice, so that the second one is still there when an attack begins.
    RepeatsItself,
}

/// A gateway of a few lines, which knows the factory network.
#[derive(Clone)]
struct Weak {
    weakness: Weakness,
    udp: SocketAddr,
    http: SocketAddr,
    known: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    seen: HashSet<Vec<u8>>,
    devices: BTreeMap<DeviceId, (SocketAddr, u64)>,
    datagrams: BTreeMap<String, u64>,
}

impl Weak {
    /// Serves until the test ends.
    fn start(weakness: Weakness) -> Self {
        let (udp, http) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (udp_address, http_address) = (udp.local_addr().unwrap(), http.local_addr().unwrap());
        let gateway = Self { weakness, udp: udp_address, http: http_address, known: Arc::default() };
        let (receiving, serving) = (gateway.clone(), gateway.clone());
        std::thread::spawn(move || receiving.receive(&udp));
        std::thread::spawn(move || serving.serve(&http));
        gateway
    }

    fn receive(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        while let Ok((len, source)) = socket.recv_from(&mut buffer) {
            let mut table = self.known.lock().unwrap();
            let (disposition, answer) = self.take(&mut table, &mut buffer[..len], source);
            *table.datagrams.entry(disposition.to_owned()).or_default() += 1;
            if !answer.is_empty() {
                let times = if self.weakness == Weakness::RepeatsItself { 2 } else { 1 };
                for _ in 0..times {
                    socket.send_to(&answer, source).unwrap();
                }
            }
        }
    }

    fn take(&self, table: &mut Table, bytes: &mut [u8], source: SocketAddr) -> (&'static str, Vec<u8>) {
        let copy = !table.seen.insert(bytes.to_vec());
        let Ok(frame) = Frame::parse(bytes, Layout::Unversioned) else {
            let answer = if self.weakness == Weakness::Answers { vec![0x4d] } else { Vec::new() };
            return ("short", answer);
        };
        let header = *frame.header();
        let key = RootKey::new(FACTORY_NETWORK_KEY).day_key(Interface::Udp, header.rotation());
        let authentic = header.key_id == FACTORY_NETWORK && open_with(&key, frame).is_some();
        if !authentic && self.weakness != Weakness::BelievesAll {
            if self.weakness == Weakness::ForgetsDevices {
                table.devices.remove(&header.device_id);
            }
            return ("bad_tag", Vec::new());
        }
        if header.packet_type == PacketType::ACK && self.weakness != Weakness::BelievesItself {
            return ("reflected", Vec::new());
        }
        let untimed = TimeClass::of(header.gps_time, Clock::default().now().gps()) == TimeClass::NoTime;
        let counts = match self.weakness {
            Weakness::Forgets | Weakness::CountsCopies => true,
            Weakness::ForgetsUntimed => untimed,
            _ => false,
        };
        if copy && !counts {
            return ("duplicate", Vec::new());
        }
        let (address, count) = table.devices.entry(header.device_id).or_insert((source, 0));
        *count += 1;
        if copy && untimed {
            return ("accepted", acknowledgement(&header));
        }
        if copy && self.weakness == Weakness::CountsCopies {
            return ("duplicate", Vec::new());
        }
        *address = source;
        ("accepted", acknowledgement(&header))
    }

    fn serve(&self, listener: &TcpListener) {
        for mut stream in listener.incoming().map(Result::unwrap) {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            // A client that has ended meanwhile asks nothing.
            let Some(path) = head.split(' ').nth(1) else { continue };
            let (status, cursor, body) = self.answer(path);
            let len = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {len}\r\nlastroute-cursor: 7-{cursor}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    }

    fn answer(&self, path: &str) -> (&'static str, u64, String) {
        let table = self.known.lock().unwrap();
        if path == "/gateway" {
            return ("200 OK", 0, serde_json::to_string(&status(&table)).unwrap());
        }
        let id: DeviceId = path.split('/').nth(3).unwrap().parse().unwrap();
        match table.devices.get(&id) {
            Some((address, count)) => ("200 OK", *count, format!(r#"{{"udp": {{"address": "{address}"}}}}"#)),
            None => ("404 Not Found", 0, "{}".to_owned()),
        }
    }
}

fn acknowledgement(asking: &Header) -> Vec<u8> {
    let mut bytes = Vec::new();
    if asking.flags.contains(Flags::ACK_REQUEST) {
        let header = Header { packet_type: PacketType::ACK, flags: Flags(0), key_id: FACTORY_NETWORK, ..*asking };
        let key = RootKey::new(FACTORY_NETWORK_KEY).day_key(Interface::Udp, header.rotation());
        seal_with(&key, &header, Layout::Unversioned, &control::ack(asking.sequence), &mut bytes);
    }
    bytes
}

fn status(table: &Table) -> GatewayStatus {
    let time = Time(Timestamp(1_795_402_800_000));
    GatewayStatus {
        version: "0.0.0".to_owned(),
        started_at: time,
        now: time,
        datagrams: table.datagrams.clone(),
        entries: BTreeMap::new(),
        kernel_drops: 0,
        route_moves: 0,
        acks_sent: 0,
        acks_failed: 0,
        degraded: BTreeMap::new(),
        devices: Devices {
            total: table.devices.len() as u64,
            unregistered: 0,
            heard: Heard { counted_at: time, within_5m: 0, within_1h: 0, within_24h: 0 },
        },
        waiters: Waiting { now: 0, woken: 0 },
        connections: 1,
        latest_moves: Vec::new(),
    }
}

/// What each weakness must be found by, and no other attack may find anything.
const FINDINGS: [(Weakness, &[(Kind, &str)]); 9] = [
    (Weakness::Sound, &[]),
    (Weakness::RepeatsItself, &[]),
    (Weakness::Forgets, &[(Kind::Replay, "answers came back"), (Kind::Replay, "the route of 51a0")]),
    (Weakness::CountsCopies, &[(Kind::Replay, "though it said nothing")]),
    (Weakness::BelievesItself, &[(Kind::Reflection, "datagrams were accepted")]),
    (Weakness::BelievesAll, &[(Kind::BitFlips, "moved from"), (Kind::UnknownIds, "forged device bad0")]),
    (Weakness::Answers, &[(Kind::UnknownIds, "answers came back")]),
    (Weakness::ForgetsUntimed, &[(Kind::Replay, "counted 1 packets though it said nothing")]),
    (Weakness::ForgetsDevices, &[(Kind::BitFlips, "was forgotten")]),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_weakness_shows_in_the_attacks_it_lets_through_and_in_no_other() {
    let attack = async |(weakness, through): (Weakness, &[(Kind, &str)])| {
        let gateway = Weak::start(weakness);
        let no_time = if weakness == Weakness::ForgetsUntimed { 1.0 } else { 0.0 };
        let fleet = simulate::Config { gateway: gateway.udp, devices: 4, no_time, ..simulate::Config::default() };
        for outcome in attacked(&fleet, &plan(Some(gateway.http), &Kind::ALL)).await {
            let expected: Vec<_> = through.iter().filter(|(kind, _)| *kind == outcome.kind).collect();
            assert_eq!(outcome.held(), expected.is_empty(), "{weakness:?}: {outcome}");
            for (_, finding) in expected {
                assert!(outcome.findings.iter().any(|found| found.contains(finding)), "{weakness:?}: {outcome}");
            }
        }
    };
    // Most of each is waiting.
    join_all(FINDINGS.map(attack)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attack_that_could_show_nothing_is_not_begun() {
    let gateway = Weak::start(Weakness::Sound);
    let other = Weak::start(Weakness::Sound);
    let fleet = simulate::Config { gateway: gateway.udp, devices: 3, ..simulate::Config::default() };
    let refused = async |fleet: &simulate::Config, plan: &Plan| {
        attack::run(fleet, plan, Clock::default(), |_| {}).await.unwrap_err().to_string()
    };
    let alone = refused(&simulate::Config { devices: 1, ..fleet.clone() }, &plan(None, &Kind::ALL)).await;
    assert!(alone.starts_with("an attack needs at least 2 devices"), "{alone}");
    let two_gateways = refused(&fleet, &plan(Some(other.http), &Kind::ALL)).await;
    assert!(two_gateways.contains("knows nothing of 51a0000100000000"), "{two_gateways}");
    let weak_key = simulate::Config { cloud_public: [0; 32], ..simulate::Config::default() };
    let weak_key = attack::run(&weak_key, &plan(None, &Kind::ALL), Clock::default(), |_| {}).await.unwrap_err();
    assert!(matches!(weak_key, attack::AttackError::Simulate(SimulateError::WeakCloudKey)));
}

#[tokio::test(start_paused = true)]
async fn devices_that_nobody_acknowledges_are_no_basis_for_an_attack() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gateway = silent.local_addr().unwrap();
    let fleet = simulate::Config { gateway, devices: 3, ..simulate::Config::default() };
    let error = attack::run(&fleet, &plan(None, &Kind::ALL), Clock::default(), |_| {}).await.unwrap_err();
    let expected = format!("2 of 2 honest devices were not acknowledged by {gateway}; check --gateway");
    assert!(error.to_string().starts_with(&expected), "{error}");
}

/// Exit code, standard output, standard error.
fn run(gateway: SocketAddr, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
    command.env_clear().args(["simulate", "--gateway", &gateway.to_string(), "--devices", "4", "--no-time", "0"]);
    let output = command.args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn what_a_gateway_counted_otherwise_is_told_whether_or_not_it_is_expected() {
    let weak = Weak::start(Weakness::Forgets);
    let fleet = ["--packets", "8", "--cadence", "1ms", "--duplicate", "100", "--gateway-api"];
    let api = format!("http://{}", weak.http);
    let (code, told, complaint) = run(weak.udp, &[&fleet[..], &[&api]].concat());
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{told}");
    let difference = "the gateway did not count what was sent: accepted +8, duplicate -8";
    assert!(told.lines().last().unwrap().trim_start().starts_with(difference), "{told}");
}

#[test]
fn the_exit_code_tells_whether_anything_got_through() {
    let (sound, weak) = (Weak::start(Weakness::Sound), Weak::start(Weakness::Forgets));
    let attack = |gateway: &Weak| {
        let api = format!("http://{}", gateway.http);
        run(gateway.udp, &["--attack", "replay,bit-flips", "--attack-packets", "50", "--gateway-api", &api])
    };
    let (code, told, complaint) = attack(&sound);
    assert_eq!((code, complaint.as_str(), told.matches("\n  held\n").count()), (Some(0), "", 2), "{told}");
    let (code, told, complaint) = attack(&weak);
    assert_eq!((code, complaint.as_str()), (Some(1), "lastroute: got through: replay\n"));
    assert!(told.contains("\n  GOT THROUGH: the route of ") && told.ends_with("\n  held\n"), "{told}");
}
