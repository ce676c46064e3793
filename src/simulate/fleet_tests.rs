//! Tests of [`super`]: fleets on real sockets, before a gateway that is a plain socket.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use super::super::{LONGEST_TIME, MAX_DEVICES};
use super::*;
use crate::auth::keys::{DeviceKey, FACTORY_NETWORK, Interface, KeyPair, KeyRing};
use crate::auth::{Authenticator, Verified};
use crate::id::{DeviceId, KeyId};
use crate::wire::control;
use crate::wire::frame::{Flags, Frame, Header, Layout, PacketType};

/// A gateway of a plain socket, which knows the network's key and can answer.
pub(super) struct Gateway {
    socket: UdpSocket,
    pub(super) ring: KeyRing,
    authenticator: Authenticator,
    sequence: u16,
    heard: HashMap<DeviceId, Vec<(SocketAddr, Header)>>,
}

impl Gateway {
    pub(super) async fn open() -> Self {
        let ring = KeyRing::default();
        ring.set_network(Config::default().network, Config::default().network_root);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // As much as the system gives: a fleet that was stalled sends in bursts. Tests that must see every datagram send no
        // more than the usual buffer holds, 277.
        socket2::SockRef::from(&socket).set_recv_buffer_size(1 << 20).unwrap();
        Self { socket, ring, authenticator: Authenticator::default(), sequence: 0, heard: HashMap::new() }
    }

    /// Receives one uplink, which must be authentic.
    pub(super) async fn receive(&mut self) -> (SocketAddr, Header) {
        let mut buffer = [0; 2048];
        let (len, source) = self.socket.recv_from(&mut buffer).await.unwrap();
        let frame = Frame::parse(&mut buffer[..len], Layout::Unversioned).unwrap();
        let opened = self.authenticator.open(&self.ring, frame, Interface::Udp, Clock::default().now());
        let header = opened.as_ref().map(Verified::header).copied().unwrap();
        self.heard.entry(header.device_id).or_default().push((source, header));
        (source, header)
    }

    pub(super) async fn send(&mut self, to: SocketAddr, device_id: DeviceId, packet_type: PacketType, payload: &[u8]) {
        self.send_under(to, (FACTORY_NETWORK, Flags(0)), device_id, packet_type, payload).await;
    }

    pub(super) async fn send_under(
        &mut self,
        to: SocketAddr,
        (key_id, flags): (KeyId, Flags),
        device_id: DeviceId,
        packet_type: PacketType,
        payload: &[u8],
    ) {
        let gps_time = Clock::default().now().gps();
        self.sequence += 1;
        let sequence = self.sequence;
        let header = Header { packet_type, flags, key_id, device_id, gps_time, sequence, entropy: 0 };
        let mut bytes = Vec::new();
        let sealed =
            self.authenticator.seal(&self.ring, &header, Layout::Unversioned, Interface::Udp, payload, &mut bytes);
        sealed.unwrap();
        self.socket.send_to(&bytes, to).await.unwrap();
    }

    /// Receives until `enough` of what was heard, acknowledging what asks.
    async fn serve(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let (source, header) = self.receive().await;
            if header.flags.contains(Flags::ACK_REQUEST) {
                self.send(source, header.device_id, PacketType::ACK, &control::ack(header.sequence)).await;
            }
        }
    }

    fn ports(&self) -> HashSet<u16> {
        self.heard.values().flatten().map(|(source, _)| source.port()).collect()
    }
}

/// A lively fleet: everybody listens, asks, and reports every 20 ms.
pub(super) fn lively(gateway: &Gateway) -> Config {
    Config {
        gateway: gateway.socket.local_addr().unwrap(),
        cadence: Duration::from_millis(20),
        sleeping: 0.0,
        rebind: 0.0,
        ack_share: 1.0,
        ..Config::default()
    }
}

/// Runs a fleet while `script` lasts.
pub(super) async fn during(config: Config, script: impl Future<Output = ()>) -> Summary {
    let (over, shutdown) = oneshot::channel();
    let shutdown = async { shutdown.await.unwrap() };
    let fleet = super::super::run(config, Clock::default(), Arc::default(), shutdown);
    let script = async {
        script.await;
        over.send(()).unwrap();
    };
    tokio::join!(fleet, script).0.unwrap()
}

#[test]
fn links_have_a_socket_for_each_device_or_at_least_two_to_choose_from() {
    for devices in [1, 10, 512] {
        assert_eq!(links(devices, devices), devices);
    }
    for (sockets, expected) in [(1, 1), (2, 1), (3, 1), (16, 8), (127, 63), (512, 64), (4096, 512)] {
        assert_eq!(links(sockets, 1_000_000), expected);
    }
    for sockets in 2..60_000_usize {
        let ports = sockets.div_ceil(links(sockets, 1_000_000));
        assert!((2..=255).contains(&ports), "{sockets} sockets, {ports} each");
    }
}

#[tokio::test]
async fn every_device_boots_with_key_ids_reports_and_is_acknowledged() {
    let mut gateway = Gateway::open().await;
    let config = lively(&gateway);
    let identities = config.identities().unwrap();
    let summary = during(config, async {
        gateway.serve(|gateway| gateway.heard.len() == 10 && gateway.heard.values().all(|all| all.len() > 3)).await;
    })
    .await;
    let known: HashSet<_> = identities.iter().map(|identity| identity.id).collect();
    assert_eq!(gateway.heard.keys().copied().collect::<HashSet<_>>(), known);
    for packets in gateway.heard.values() {
        let sequences: Vec<u16> = packets.iter().map(|(_, header)| header.sequence).collect();
        assert_eq!(packets[0].1.packet_type, PacketType::KEY_IDS);
        assert_eq!(sequences, (0..packets.len() as u16).collect::<Vec<_>>());
    }
    assert_eq!(gateway.ports().len(), 10, "a socket each");
    assert_eq!((summary.get(Count::Booted), summary.get(Count::KeyIds)), (10, 10));
    assert!(summary.get(Count::Acks) > 0 && summary.get(Count::Acks) <= summary.get(Count::AcksAsked));
    assert_eq!((summary.get(Count::Refused), summary.get(Count::AcksUnmatched)), (0, 0));
    assert!(summary.round_trip.is_some());
}

#[tokio::test]
async fn more_devices_than_sockets_share_them_and_each_hears_what_is_its_own() {
    let mut gateway = Gateway::open().await;
    let config = Config { sockets: 3, ..lively(&gateway) };
    let summary = during(config, async {
        gateway.serve(|gateway| gateway.heard.values().map(Vec::len).sum::<usize>() > 100).await;
    })
    .await;
    assert_eq!((gateway.heard.len(), gateway.ports().len()), (10, 3));
    assert_eq!(summary.get(Count::AcksUnmatched), 0);
    assert!(summary.get(Count::Acks) > 50, "{summary}");
}

#[tokio::test]
async fn a_rebinding_nat_gives_every_packet_another_port() {
    let mut gateway = Gateway::open().await;
    let config = Config { devices: 1, rebind: 1.0, ..lively(&gateway) };
    let summary = during(config, async {
        gateway.serve(|gateway| gateway.heard.values().any(|all| all.len() == 5)).await;
    })
    .await;
    let packets = gateway.heard.values().next().unwrap();
    assert!(packets.windows(2).all(|pair| pair[0].0.port() != pair[1].0.port()), "{packets:?}");
    assert!(summary.get(Count::Rebinds) >= 5);
}

#[tokio::test]
async fn an_unanswered_device_opens_a_new_socket() {
    let mut gateway = Gateway::open().await;
    let (ack_after, ack_limit) = (Duration::ZERO, 2);
    let config = Config { devices: 1, ack_after, ack_limit, ..lively(&gateway) };
    let summary = during(config, async {
        while gateway.ports().len() < 2 {
            gateway.receive().await;
        }
    })
    .await;
    assert!(summary.get(Count::Reopened) >= 1);
    assert_eq!(summary.get(Count::Rebinds), 0);
}

#[tokio::test]
async fn a_device_that_is_awake_answers_an_echo_and_a_sleeping_one_misses_it() {
    for sleeping in [0.0, 1.0] {
        let mut gateway = Gateway::open().await;
        let config = Config { devices: 1, sleeping, window: Duration::ZERO, ack_share: 0.0, ..lively(&gateway) };
        let stats = Arc::new(Stats::default());
        let script = async {
            let (source, header) = gateway.receive().await;
            gateway.send(source, header.device_id, PacketType::ECHO_REQ, b"hello").await;
            while stats.get(Count::Missed) == 0 && gateway.receive().await.1.packet_type != PacketType::ECHO_RSP {}
        };
        let summary = super::super::run(config, Clock::default(), Arc::clone(&stats), script).await.unwrap();
        let (missed, answered) = (summary.get(Count::Missed), summary.get(Count::EchoAnswers));
        assert_eq!((missed, answered), if sleeping == 1.0 { (1, 0) } else { (0, 1) });
    }
}

#[tokio::test]
async fn a_fleet_that_is_behind_hears_everything_all_the_same() {
    let mut gateway = Gateway::open().await;
    // It is behind from the start, and has far more to send than is sent while it hears.
    let config = Config { devices: 1, rate: Some(super::super::MAX_RATE), ..lively(&gateway) };
    let stats = Arc::new(Stats::default());
    let script = async {
        let (source, _) = gateway.receive().await;
        for _ in 0..250 {
            gateway.socket.send_to(&[1], source).await.unwrap();
        }
        let before = stats.sent();
        while stats.get(Count::Short) < 250 {
            tokio::task::yield_now().await;
        }
        assert!(stats.sent() - before < 64 * 50, "{} sent meanwhile", stats.sent() - before);
    };
    super::super::run(config, Clock::default(), Arc::clone(&stats), script).await.unwrap();
}

#[tokio::test]
async fn devices_without_time_take_the_gateways_and_the_others_have_it_from_the_start() {
    for (no_time, first) in [(1.0, "noTime"), (0.0, "fresh")] {
        let mut gateway = Gateway::open().await;
        let config = Config { devices: 1, no_time, ..lively(&gateway) };
        during(config, gateway.serve(|gateway| gateway.heard.values().any(|all| all.len() == 20))).await;
        let packets = gateway.heard.values().next().unwrap();
        let class =
            |header: &Header| crate::table::rules::TimeClass::of(header.gps_time, Clock::default().now().gps()).name();
        assert_eq!((class(&packets[0].1), class(&packets[19].1)), (first, "fresh"));
    }
}

#[tokio::test]
async fn the_fleet_goes_on_without_a_gateway_until_its_duration_is_over() {
    let gateway = Gateway::open().await;
    let config = Config { devices: 3, duration: Some(Duration::from_millis(200)), ..lively(&gateway) };
    drop(gateway);
    let never = std::future::pending();
    let summary = super::super::run(config, Clock::default(), Arc::default(), never).await.unwrap();
    assert!(summary.elapsed >= Duration::from_millis(200));
    assert!(summary.get(Count::Unreachable) + summary.get(Count::SendFailures) > 0, "{summary}");
}

#[tokio::test]
async fn two_runs_of_one_fleet_send_different_frames() {
    let mut entropies = HashSet::new();
    for _ in 0..2 {
        let mut gateway = Gateway::open().await;
        let config = Config { devices: 1, no_time: 1.0, ..lively(&gateway) };
        during(config, gateway.serve(|gateway| gateway.heard.values().any(|all| all.len() == 4))).await;
        let packets = gateway.heard.values().next().unwrap();
        entropies.insert(packets[..4].iter().map(|(_, header)| header.entropy).collect::<Vec<_>>());
    }
    assert_eq!(entropies.len(), 2);
}

#[tokio::test]
async fn the_longest_times_add_up() {
    let gateway = Gateway::open().await;
    let (window, ack_after, announce_every) = (LONGEST_TIME, LONGEST_TIME, LONGEST_TIME);
    let duration = Some(Duration::from_millis(100));
    let patient = Config { window, ack_after, announce_every, duration, ..lively(&gateway) };
    let cadence_too = Config { cadence: LONGEST_TIME, sleeping: 1.0, ..patient.clone() };
    for config in [patient, cadence_too] {
        let never = std::future::pending();
        let summary = super::super::run(config, Clock::default(), Arc::default(), never).await.unwrap();
        assert!(summary.sent > 0, "{summary}");
    }
}

#[tokio::test]
async fn a_panic_of_a_task_ends_the_fleet_with_an_error() {
    let gateway = Gateway::open().await;
    // Checked by the caller, so that it overflows here, in the first telemetry.
    let config = Config { announce_every: Duration::MAX, duration: Some(Duration::from_secs(10)), ..lively(&gateway) };
    let ended = run(config, Clock::default(), Arc::default(), std::future::pending()).await.unwrap_err();
    let text = ended.to_string();
    assert!(text.starts_with("some simulated devices ended: ") && text.contains("overflow"), "{text}");
}

#[tokio::test]
async fn a_setting_out_of_its_range_and_a_weak_key_stop_it_before_it_starts() {
    let too_long = LONGEST_TIME + Duration::from_secs(1);
    for (config, expected) in [
        (Config { devices: 0, ..Config::default() }, "0 devices: between 1 and 1000000 can be simulated"),
        (Config { relays: 11, ..Config::default() }, "11 relays among 10 devices: at most 10 can be"),
        (Config { devices: 2000, relays: 1001, ..Config::default() }, "1001 relays among 2000 devices: at most 1000"),
        (Config { children: 0, ..Config::default() }, "0 children: a relay can have between 1 and 1000"),
        (Config { jitter: 1.5, ..Config::default() }, "jitter is 1.5: a share lies between 0 and 1"),
        (Config { loss: f64::NAN, ..Config::default() }, "loss is NaN: a share lies between 0 and 1"),
        (Config { rate: Some(0), ..Config::default() }, "0 packets a second: between 1 and 10000000 can be sent"),
        (Config { rate: Some(5), relays: 1, ..Config::default() }, "relays cannot have a rate"),
        (Config { packets: Some(0), ..Config::default() }, "0 packets: at least 1 is needed"),
        (Config { delay: Some(too_long), ..Config::default() }, "delay is 31622401s: at most"),
        (Config { nat_timeout: Some(too_long), ..Config::default() }, "nat-timeout is 31622401s: at most"),
        (Config { cadence: too_long, ..Config::default() }, "cadence is 31622401s: at most 31622400s, 366 days"),
        (Config { window: too_long, ..Config::default() }, "window is 31622401s: at most"),
        (Config { ack_after: too_long, ..Config::default() }, "ack-after is 31622401s: at most"),
        (Config { announce_every: too_long, ..Config::default() }, "announce-every is 31622401s: at most"),
        (Config { duration: Some(too_long), ..Config::default() }, "duration is 31622401s: at most"),
        (Config { cloud_public: [0; 32], ..Config::default() }, "the cloud public key is one of the few"),
    ] {
        let refused = super::super::run(config, Clock::default(), Arc::default(), std::future::pending()).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn no_socket_is_explained_with_a_remedy() {
    for (code, remedy) in [
        (nix::libc::EMFILE, "too many open files; raise ulimit -n"),
        (nix::libc::EADDRINUSE, "no free port; widen net.ipv4.ip_local_port_range or lower --sockets"),
        (nix::libc::EADDRNOTAVAIL, "no free port; widen net.ipv4.ip_local_port_range or lower --sockets"),
        (nix::libc::ENETUNREACH, "check the address of the gateway"),
    ] {
        let (gateway, source) = (Config::default().gateway, std::io::Error::from_raw_os_error(code));
        let text = SimulateError::Socket { number: 3, total: 4, gateway, source }.to_string();
        assert!(text.starts_with("cannot open UDP socket 3 of 4 towards 127.0.0.1:3001: "), "{text}");
        assert!(text.ends_with(remedy), "{text}");
    }
}

/// Every datagram of a whole fleet with what its gateway, which never answers, got of each device in order.
async fn recorded(config: Config) -> (Summary, BTreeMap<DeviceId, Vec<Header>>) {
    let mut gateway = Gateway::open().await;
    let config = Config { gateway: gateway.socket.local_addr().unwrap(), ..config };
    for relay in config.identities().unwrap().into_iter().take(config.relays as usize) {
        gateway.ring.set_device(relay.id, DeviceKey { key_id: Some(relay.key_id), root: relay.root }, None);
    }
    let never = std::future::pending();
    let mut fleet = std::pin::pin!(super::super::run(config, Clock::default(), Arc::default(), never));
    let summary = loop {
        tokio::select! {
            summary = &mut fleet => break summary.unwrap(),
            _ = gateway.receive() => {}
        }
    };
    let left = |count| summary.get(count);
    let arriving = left(Count::ToAccept) + left(Count::ToDuplicate) + left(Count::TooLate);
    while gateway.heard.values().map(Vec::len).sum::<usize>() < arriving as usize {
        gateway.receive().await;
    }
    let headers = |packets: Vec<(SocketAddr, Header)>| packets.into_iter().map(|(_, header)| header).collect();
    (summary, gateway.heard.into_iter().map(|(id, packets)| (id, headers(packets))).collect())
}

/// What does not follow from the clock or the run.
fn decided(header: &Header) -> (u16, u8, u16) {
    (header.sequence, header.packet_type.0, header.flags.0)
}

#[tokio::test]
async fn the_same_seed_makes_the_same_losses_copies_questions_and_order_of_each_device() {
    let troubled = |seed, reorder| Config {
        seed,
        devices: 9,
        sockets: 4,
        packets: Some(200),
        cadence: Duration::from_millis(5),
        jitter: 0.5,
        ack_share: 0.5,
        loss: 0.2,
        duplicate: 0.2,
        reorder,
        ..Config::default()
    };
    let decisions = async |config| -> Vec<(u64, Vec<_>)> {
        let (summary, heard) = recorded(config).await;
        assert_eq!(summary.sent, 200);
        let one = |(id, headers): (DeviceId, Vec<Header>)| {
            (id.0 & 0xffff_ffff, headers.iter().map(decided).collect::<Vec<_>>())
        };
        heard.into_iter().map(one).collect()
    };
    let first = decisions(troubled(1, 0.0)).await;
    assert_eq!(first, decisions(troubled(1, 0.0)).await);
    assert_ne!(first, decisions(troubled(2, 0.0)).await);
    let sorted = |mut decisions: Vec<(u64, Vec<_>)>| {
        decisions.iter_mut().for_each(|(_, packets)| packets.sort_unstable());
        decisions
    };
    let reordered = decisions(troubled(1, 0.5)).await;
    assert_eq!(reordered, decisions(troubled(1, 0.5)).await);
    assert_ne!(first, reordered);
    assert_eq!(first, sorted(reordered), "holding back changes nothing else");
}

#[tokio::test]
async fn the_same_seed_makes_relays_pass_on_the_same_however_late_they_are_woken() {
    let cloud_public = KeyPair::from_private([0x11; 32]).public();
    let relays = || Config {
        devices: 3,
        relays: 3,
        children: 5,
        cloud_public,
        packets: Some(150),
        cadence: Duration::from_millis(7),
        ..Config::default()
    };
    let passed_on = async || -> (u64, Vec<Vec<_>>) {
        let (summary, heard) = recorded(relays()).await;
        let packets = heard.into_values().map(|packets| packets.iter().map(decided).collect::<Vec<_>>()).collect();
        (summary.get(Count::Entries), packets)
    };
    let (entries, packets) = passed_on().await;
    assert!(entries > 100 && packets.iter().flatten().any(|(_, kind, _)| *kind == PacketType::RECEIVED_EPACKET.0));
    assert_eq!((entries, packets), passed_on().await);
}

#[tokio::test]
async fn what_is_lost_never_arrives_and_what_is_copied_arrives_twice() {
    let config = Config { devices: 3, packets: Some(60), cadence: Duration::from_millis(5), ..Config::default() };
    let (summary, heard) = recorded(Config { loss: 1.0, ..config.clone() }).await;
    assert_eq!((summary.sent, summary.get(Count::Lost), heard.len()), (60, 60, 0));
    let (summary, heard) = recorded(Config { duplicate: 1.0, ..config }).await;
    assert_eq!((summary.sent, summary.get(Count::ToAccept), summary.get(Count::ToDuplicate)), (60, 60, 60));
    for packets in heard.values() {
        assert_eq!(packets.len(), 40);
        assert!(packets.chunks(2).all(|pair| pair[0] == pair[1]), "a copy is the same in every byte");
    }
}

#[tokio::test]
async fn what_is_held_back_is_overtaken_and_leaves_at_last_when_the_fleet_is_stopped() {
    let mut gateway = Gateway::open().await;
    let delay = Some(Duration::from_secs(3600));
    let config = Config { devices: 2, reorder: 0.5, delay, ..lively(&gateway) };
    let stats = Arc::new(Stats::default());
    let script = async {
        while stats.get(Count::HeldBack) < 10 {
            gateway.receive().await;
        }
    };
    let summary = super::super::run(config, Clock::default(), Arc::clone(&stats), script).await.unwrap();
    while gateway.heard.values().map(Vec::len).sum::<usize>() < summary.sent as usize {
        gateway.receive().await;
    }
    for packets in gateway.heard.values() {
        let mut sequences: Vec<u16> = packets.iter().map(|(_, header)| header.sequence).collect();
        assert_eq!(sequences[0], 0, "the boot is not held back");
        assert!(!sequences.is_sorted());
        sequences.sort_unstable();
        assert_eq!(sequences, (0..packets.len() as u16).collect::<Vec<_>>(), "nothing is missing");
    }
}

#[tokio::test]
async fn what_finds_no_room_to_be_held_back_leaves_at_once_and_is_counted() {
    let gateway = Gateway::open().await;
    let delay = Some(Duration::from_secs(3600));
    let config = Config { devices: 2, packets: Some(20), reorder: 1.0, delay, ..lively(&gateway) };
    let mut world = World::new(config, Clock::default(), Arc::default()).unwrap();
    world.room = Room::new(7);
    let (world, (stop, stopped)) = (Arc::new(world), watch::channel(false));
    let mut links = JoinSet::new();
    for link in open_links(&world).unwrap() {
        links.spawn(link.live(stopped.clone()));
    }
    // All but the two boots are to be held back.
    while world.stats.get(Count::NotHeld) < 11 {
        tokio::task::yield_now().await;
    }
    stop.send(true).unwrap();
    ended(&mut links).await.unwrap();
    assert_eq!([Count::HeldBack, Count::NotHeld, Count::ToAccept].map(|count| world.stats.get(count)), [7, 11, 20]);
    assert!((0..7).all(|_| world.room.take()) && !world.room.take(), "all is given back");
}

#[tokio::test]
async fn lost_downlinks_are_not_heard() {
    let mut gateway = Gateway::open().await;
    let config = Config { devices: 1, downlink_loss: 1.0, ..lively(&gateway) };
    let stats = Arc::new(Stats::default());
    let script = gateway.serve(|_| stats.get(Count::LostDownlinks) > 3);
    let summary = super::super::run(config, Clock::default(), Arc::clone(&stats), script).await.unwrap();
    assert_eq!(summary.get(Count::Acks), 0);
}

#[tokio::test]
async fn behind_shared_ports_a_rebind_moves_one_device_and_its_former_port_is_deaf() {
    let mut gateway = Gateway::open().await;
    let config = Config { devices: 6, sockets: 2, rebind: 0.3, ..lively(&gateway) };
    let stats = Arc::new(Stats::default());
    let script = async {
        let mut homes = HashMap::new();
        while stats.get(Count::NatMissed) == 0 {
            let (source, header) = gateway.receive().await;
            // To where each was heard first.
            let home = *homes.entry(header.device_id).or_insert(source);
            gateway.send(home, header.device_id, PacketType::ACK, &control::ack(header.sequence)).await;
        }
    };
    let summary = super::super::run(config, Clock::default(), Arc::clone(&stats), script).await.unwrap();
    assert!(summary.get(Count::Rebinds) > 0 && summary.get(Count::Acks) > 0, "{summary}");
    assert_eq!(gateway.ports().len(), 2, "no socket is opened for it");
}

#[tokio::test]
async fn a_mapping_that_was_silent_too_long_is_gone_in_both_directions() {
    let mut gateway = Gateway::open().await;
    // Too long is at once, so that no answer is fast enough.
    let nat_timeout = Some(Duration::ZERO);
    let config = Config { devices: 1, nat_timeout, ..lively(&gateway) };
    let stats = Arc::new(Stats::default());
    let script = async {
        while stats.get(Count::NatMissed) == 0 {
            let (source, header) = gateway.receive().await;
            gateway.send(source, header.device_id, PacketType::ACK, &control::ack(header.sequence)).await;
        }
    };
    let summary = super::super::run(config, Clock::default(), Arc::clone(&stats), script).await.unwrap();
    let packets = gateway.heard.values().next().unwrap();
    assert!(packets.windows(2).all(|pair| pair[0].0.port() != pair[1].0.port()), "{packets:?}");
    assert!(summary.get(Count::NatExpired) + 1 >= packets.len() as u64, "{summary}");
    assert_eq!((summary.get(Count::Acks), summary.get(Count::Rebinds)), (0, 0));
}

#[tokio::test]
async fn at_a_rate_every_device_is_heard_equally_often_and_the_packets_end_it() {
    let rate = Config { devices: 50, sockets: 6, rate: Some(2500), packets: Some(250), ..Config::default() };
    let (summary, heard) = recorded(rate).await;
    assert_eq!((summary.sent, heard.len()), (250, 50));
    assert!(heard.values().all(|packets| packets.len() == 5));
    assert!(summary.sending >= Duration::from_millis(99), "the last is due after 99.6 ms: {:?}", summary.sending);
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_a_fleet_has_as_many_packets_as_cadence_or_rate_say() {
    let gateway = Gateway::open().await;
    let hour = Config { duration: Some(Duration::from_secs(3600)), ack_limit: 10_000, ..lively(&gateway) };
    let by_cadence = Config { cadence: Duration::from_secs(10), jitter: 0.5, ..hour.clone() };
    let at_a_rate = Config { rate: Some(2), ..hour };
    for (config, expected) in [(by_cadence, 3600), (at_a_rate, 7200)] {
        let never = std::future::pending();
        let summary = super::super::run(config, Clock::default(), Arc::default(), never).await.unwrap();
        let share = summary.sent as f64 / f64::from(expected);
        assert!((0.97..=1.03).contains(&share), "{summary}");
        assert_eq!(summary.get(Count::Late), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_million_devices_are_scheduled_at_once() {
    let gateway = Gateway::open().await;
    let million = Config { devices: MAX_DEVICES, packets: Some(300), ..lively(&gateway) };
    for config in [Config { rate: Some(100_000), ..million.clone() }, million] {
        let never = std::future::pending();
        let summary = super::super::run(config, Clock::default(), Arc::default(), never).await.unwrap();
        assert_eq!((summary.get(Count::Booted), summary.sent), (300, 300));
        assert!(summary.sending < Duration::from_millis(10), "{summary}");
    }
}
