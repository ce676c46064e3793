//! Sockets and time for simulated devices: one task for each socket, with the devices behind it in a heap of wake-ups.
//!
//! A task for each device would be a socket for each device, and a process may open too few files for a large fleet. A
//! single task for all would have to watch every socket by itself, which is what the runtime does well.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use fastrand::Rng;
use tokio::net::UdpSocket;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::device::{Device, Heard, MAX_DOWNLINK, Reception, Settings, Uplink, Wake};
use super::identity::Identity;
use super::{Config, Count, SimulateError, Stats, Summary};
use crate::clock::Clock;
use crate::id::DeviceId;
use crate::wire::frame::{Frame, Layout, Level, PacketType};

/// Wake-ups served before the socket is looked at again, so that a busy link still receives.
const WAKES_AT_ONCE: usize = 32;

/// Runs the fleet of a checked `config`.
pub(super) async fn run(
    config: Config,
    clock: Clock,
    stats: Arc<Stats>,
    shutdown: impl Future<Output = ()>,
) -> Result<Summary, SimulateError> {
    // Settles that no identity can fail later.
    Identity::new(config.seed, 0, &config.cloud_public).ok_or(SimulateError::WeakCloudKey)?;
    let start = Instant::now();
    let duration = config.duration;
    let world = Arc::new(World { config, clock, stats, boot_seed: fastrand::u64(..) });
    let mut tasks = JoinSet::new();
    for link in open_links(&world, start).await? {
        tasks.spawn(link.live());
    }
    let over = async {
        match duration {
            Some(duration) => sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = shutdown => {}
        () = over => {}
        panic = panicked(&mut tasks) => return Err(panic.into()),
    }
    tasks.shutdown().await;
    Ok(world.stats.summary(start.elapsed()))
}

/// Completes when a task panics.
async fn panicked(tasks: &mut JoinSet<()>) -> JoinError {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) => return error,
            Some(Ok(())) => {}
            None => std::future::pending().await,
        }
    }
}

/// What all links share.
#[derive(Debug)]
struct World {
    config: Config,
    clock: Clock,
    stats: Arc<Stats>,
    /// Different in each run: devices without time repeat all of their nonces but this.
    boot_seed: u64,
}

impl World {
    /// Boots device `index`. What it is follows from the seed, what it draws does not.
    fn boot(&self, index: u32) -> Option<Device> {
        let config = &self.config;
        let identity = Identity::new(config.seed, index, &config.cloud_public)?;
        let mut kind = Rng::with_seed(u64::from(config.seed) << 32 | u64::from(index));
        let sleeping = kind.f64() < config.sleeping;
        let kept_time = kind.f64() >= config.no_time;
        let device_level = kind.f64() < config.device_level;
        let settings = Settings {
            network: config.network,
            network_root: config.network_root.clone(),
            telemetry: if device_level { Level::Device } else { Level::Network },
            reception: if sleeping { Reception::AfterSending(config.window) } else { Reception::Always },
            clock_at_boot: kept_time.then(|| self.clock.now()),
            cadence: config.cadence,
            jitter: config.jitter,
            ack_after: config.ack_after,
            ack_limit: config.ack_limit,
            ack_share: config.ack_share,
            announce_every: config.announce_every,
            reboots: 1,
        };
        self.stats.add(Count::Booted);
        Some(Device::new(identity, settings, Rng::with_seed(self.boot_seed.wrapping_add(index.into()))))
    }

    async fn open_socket(&self) -> io::Result<UdpSocket> {
        let any: IpAddr = match self.config.gateway {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(self.config.gateway).await?;
        Ok(socket)
    }
}

/// A socket and the devices behind it.
#[derive(Debug)]
struct Link {
    world: Arc<World>,
    socket: UdpSocket,
    members: Vec<Member>,
    /// When which of `members` is to be woken.
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Which of `members` hears a datagram that names none of them: the last to have sent, as a NAT would have it.
    last_sender: usize,
    random: Rng,
}

#[derive(Debug)]
struct Member {
    index: u32,
    boot_at: Instant,
    /// None until it boots.
    device: Option<Device>,
}

/// Deals the devices out to sockets, and their boots over the first cadence.
async fn open_links(world: &Arc<World>, start: Instant) -> Result<Vec<Link>, SimulateError> {
    let config = &world.config;
    let total = config.sockets.min(config.devices as usize);
    let mut links = Vec::with_capacity(total);
    for first in 0..total {
        let socket = world.open_socket().await.map_err(|source| SimulateError::Socket {
            number: first + 1,
            total,
            gateway: config.gateway,
            source,
        })?;
        let members: Vec<_> = (first as u32..config.devices)
            .step_by(total)
            .map(|index| {
                let boot_at = start + config.cadence.mul_f64(f64::from(index) / f64::from(config.devices));
                Member { index, boot_at, device: None }
            })
            .collect();
        let wakes = members.iter().enumerate().map(|(at, member)| Reverse((member.boot_at, at))).collect();
        // Below the seeds of the devices.
        let random = Rng::with_seed(world.boot_seed.wrapping_sub(1 + first as u64));
        links.push(Link { world: Arc::clone(world), socket, members, wakes, last_sender: 0, random });
    }
    Ok(links)
}

impl Link {
    /// Wakes devices and hands datagrams to them, for ever.
    async fn live(mut self) {
        // One more byte than a device takes, so that what is longer shows.
        let mut buffer = [0; MAX_DOWNLINK + 1];
        while let Some(&Reverse((due, _))) = self.wakes.peek() {
            tokio::select! {
                () = sleep_until(due) => self.wake_due().await,
                received = self.socket.recv(&mut buffer) => match received {
                    Ok(len) => self.receive(&mut buffer[..len]).await,
                    Err(_) => self.world.stats.add(Count::Unreachable),
                },
            }
        }
    }

    async fn wake_due(&mut self) {
        for _ in 0..WAKES_AT_ONCE {
            let now = Instant::now();
            let Some(&Reverse((due, at))) = self.wakes.peek() else { return };
            if due > now {
                return;
            }
            self.wakes.pop();
            self.wake(at, now).await;
        }
    }

    async fn wake(&mut self, at: usize, now: Instant) {
        let Some(member) = self.members.get_mut(at) else { return };
        if member.device.is_none() {
            member.device = self.world.boot(member.index);
        }
        let Some(device) = &mut member.device else { return };
        let wake = device.on_timer(now - member.boot_at);
        self.wakes.push(Reverse((member.boot_at + device.next_send_at(), at)));
        match wake {
            Wake::Send(uplink) => {
                if self.random.f64() < self.world.config.rebind {
                    self.replace_socket(Count::Rebinds).await;
                }
                self.send(at, uplink).await;
            }
            Wake::Reopen => self.replace_socket(Count::Reopened).await,
        }
    }

    /// The old socket stays open until there is a new one, so the port is another.
    async fn replace_socket(&mut self, reason: Count) {
        match self.world.open_socket().await {
            Ok(socket) => {
                self.socket = socket;
                self.world.stats.add(reason);
            }
            Err(error) => tracing::warn!(%error, "no new socket for a simulated device, it keeps the old one"),
        }
    }

    async fn receive(&mut self, datagram: &mut [u8]) {
        let at = self.addressee(datagram).unwrap_or(self.last_sender);
        let Some(member) = self.members.get_mut(at) else { return };
        let Some(device) = &mut member.device else { return };
        let reaction = device.on_datagram(member.boot_at.elapsed(), datagram);
        let stats = &self.world.stats;
        match reaction.heard {
            Heard::Asleep => stats.add(Count::Missed),
            Heard::Short => stats.add(Count::Short),
            Heard::Refused => stats.add(Count::Refused),
            Heard::KeyQuestion => stats.add(Count::KeyQuestions),
            Heard::UnknownKey => stats.add(Count::UnknownKeys),
            Heard::Ack(Some(after)) => stats.acknowledged(after),
            Heard::Ack(None) => stats.add(Count::AcksUnmatched),
            Heard::Other(_) => stats.add(Count::Unsupported),
            // Counted as its answer.
            Heard::Echo => {}
        }
        if let Some(reply) = reaction.reply {
            self.send(at, reply).await;
        }
    }

    /// Which of the members a datagram names.
    fn addressee(&self, datagram: &mut [u8]) -> Option<usize> {
        let id: DeviceId = Frame::parse(datagram, Layout::Unversioned).ok()?.header().device_id;
        self.members.iter().position(|member| member.device.as_ref().is_some_and(|device| device.identity().id == id))
    }

    async fn send(&mut self, at: usize, uplink: Uplink) {
        self.last_sender = at;
        let stats = &self.world.stats;
        if self.socket.send(&uplink.bytes).await.is_err() {
            return stats.add(Count::SendFailures);
        }
        stats.add(match uplink.packet_type {
            PacketType::KEY_IDS => Count::KeyIds,
            PacketType::ECHO_RSP => Count::EchoAnswers,
            _ => Count::Telemetry,
        });
        if uplink.asks {
            stats.add(Count::AcksAsked);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::super::LONGEST_TIME;
    use super::*;
    use crate::auth::keys::{FACTORY_NETWORK, Interface, KeyRing};
    use crate::auth::{Authenticator, Verified};
    use crate::wire::control;
    use crate::wire::frame::{Flags, Header};

    /// A gateway of a plain socket, which knows the network's key and can answer.
    struct Gateway {
        socket: UdpSocket,
        ring: KeyRing,
        authenticator: Authenticator,
        sequence: u16,
        heard: HashMap<DeviceId, Vec<(SocketAddr, Header)>>,
    }

    impl Gateway {
        async fn open() -> Self {
            let ring = KeyRing::default();
            ring.set_network(Config::default().network, Config::default().network_root);
            Self {
                socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
                ring,
                authenticator: Authenticator::default(),
                sequence: 0,
                heard: HashMap::new(),
            }
        }

        /// Receives one uplink, which must be authentic.
        async fn receive(&mut self) -> (SocketAddr, Header) {
            let mut buffer = [0; 2048];
            let (len, source) = self.socket.recv_from(&mut buffer).await.unwrap();
            let frame = Frame::parse(&mut buffer[..len], Layout::Unversioned).unwrap();
            let opened = self.authenticator.open(&self.ring, frame, Interface::Udp, Clock::default().now());
            let header = opened.as_ref().map(Verified::header).copied().unwrap();
            self.heard.entry(header.device_id).or_default().push((source, header));
            (source, header)
        }

        async fn send(&mut self, to: SocketAddr, device_id: DeviceId, packet_type: PacketType, payload: &[u8]) {
            let (key_id, gps_time) = (FACTORY_NETWORK, Clock::default().now().gps());
            self.sequence += 1;
            let (flags, sequence) = (Flags(0), self.sequence);
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
    fn lively(gateway: &Gateway) -> Config {
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
    async fn during(config: Config, script: impl Future<Output = ()>) -> Summary {
        let (over, shutdown) = oneshot::channel();
        let shutdown = async { shutdown.await.unwrap() };
        let fleet = super::super::run(config, Clock::default(), Arc::default(), shutdown);
        let script = async {
            script.await;
            over.send(()).unwrap();
        };
        tokio::join!(fleet, script).0.unwrap()
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
    async fn devices_without_time_take_the_gateways_and_the_others_have_it_from_the_start() {
        for (no_time, first) in [(1.0, "noTime"), (0.0, "fresh")] {
            let mut gateway = Gateway::open().await;
            let config = Config { devices: 1, no_time, ..lively(&gateway) };
            during(config, gateway.serve(|gateway| gateway.heard.values().any(|all| all.len() == 20))).await;
            let packets = gateway.heard.values().next().unwrap();
            let class = |header: &Header| {
                crate::table::rules::TimeClass::of(header.gps_time, Clock::default().now().gps()).name()
            };
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
        let config =
            Config { announce_every: Duration::MAX, duration: Some(Duration::from_secs(10)), ..lively(&gateway) };
        let ended = run(config, Clock::default(), Arc::default(), std::future::pending()).await.unwrap_err();
        let text = ended.to_string();
        assert!(text.starts_with("some simulated devices ended: ") && text.contains("overflow"), "{text}");
    }

    #[tokio::test]
    async fn a_setting_out_of_its_range_and_a_weak_key_stop_it_before_it_starts() {
        let too_long = LONGEST_TIME + Duration::from_secs(1);
        for (config, expected) in [
            (Config { devices: 0, ..Config::default() }, "0 devices: between 1 and 50000 can be simulated"),
            (Config { jitter: 1.5, ..Config::default() }, "jitter is 1.5: a share lies between 0 and 1"),
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
}
