//! Attacks on one's own gateway, as far as somebody without keys can carry them out: devices of the fleet report honestly,
//! an attacker uses what he recorded of them, and what the gateway let through is told.
//!
//! Everything leaves from ordinary sockets under their own addresses. What is sent is made in `forge`, what it led to is
//! judged in [`verdict`](super::verdict).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::forge::{self, Forged, Known};
use super::verdict::{Came, Kind, Outcome, Position, Seen, View};
use super::victim::{Recording, Victim};
use super::{Config, SimulateError, chance, ports};
use crate::client::{Client, ClientError};
use crate::clock::Clock;
use crate::id::DeviceId;
use crate::status::GatewayStatus;
use crate::wire::frame::Frame;

/// Most datagrams of one kind: they are made before they are sent, so take some 60 MiB then.
pub const MAX_PACKETS: u32 = 100_000;

/// Datagrams of one kind unless told otherwise.
pub const DEFAULT_PACKETS: u32 = 1000;

/// Most devices that report. More would show nothing else, and each is asked about over the API.
const MAX_VICTIMS: u32 = 16;

/// Reports of each: more than the 64 sequences that a gateway tells apart exactly, and than the 16 packets without time
/// that it remembers of a device.
const REPORTS: usize = 80;

/// Reports after which a device that was never acknowledged is given up.
const PATIENCE: usize = 3;

/// Uplinks of each device that are made and never sent, for an attacker to spoil.
const WITHHELD: usize = 4;

/// Forged devices that the API is asked about.
const ASKED_FORGED: usize = 8;

/// Datagrams sent in one go, and the pause after them: 16 000 a second, which does not fill a receive buffer.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_millis(2);

/// How long answers may be under way after the gateway has taken in everything.
const LATE: Duration = Duration::from_millis(200);

/// Counters appear shortly after what they count: how often, and after which time, they are looked at again.
const LOOKS: usize = 40;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What to try.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kinds of attack, in order.
    pub kinds: Vec<Kind>,
    /// Datagrams of each, 1 to [`MAX_PACKETS`].
    pub packets: u32,
    /// The gateway's API. Without it only answers are seen.
    pub api: Option<Client>,
}

/// Why an attack was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum AttackError {
    /// A setting, or no socket.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    /// The API does not answer.
    #[error(transparent)]
    Api(#[from] ClientError),
    /// Honest reports are not acknowledged, so that nothing could be concluded.
    #[error(
        "{silent} of {total} honest devices were not acknowledged by {gateway}; check --gateway, the network and its key, \
         and that the gateway knows these devices (see --write-config) or serves unregistered ones"
    )]
    Silent {
        /// Devices without an acknowledgement.
        silent: usize,
        /// Devices that reported.
        total: usize,
        /// Where to.
        gateway: SocketAddr,
    },
    /// The gateway acknowledges nobody any more.
    #[error("{gateway} no longer acknowledges honest reports after the attack {}; look at the gateway", kind.name())]
    Down {
        /// Where it was.
        gateway: SocketAddr,
        /// What was tried last.
        kind: Kind,
    },
    /// The API knows nothing of what was reported.
    #[error("{api} knows nothing of {device}, which {gateway} has acknowledged: see that both are one gateway")]
    Foreign {
        /// The address of the API.
        api: String,
        /// The device.
        device: DeviceId,
        /// Where it reported.
        gateway: SocketAddr,
    },
}

/// Carries out a plan against the gateway of `config`, with devices of its seed; needs at least 2 of them. Tells what it
/// does in lines, a verdict among them for each kind.
///
/// What is sent follows from the seed, but for the entropy and the times of what devices report.
///
/// # Errors
/// Nothing could be tried, or the gateway was lost over it.
pub async fn run(
    config: &Config,
    plan: &Plan,
    clock: Clock,
    mut tell: impl FnMut(String),
) -> Result<Vec<Outcome>, AttackError> {
    config.check()?;
    if config.devices < 2 {
        let refusal = "an attack needs at least 2 devices: one is attacked, another one looks on";
        return Err(SimulateError::Setting(refusal.to_owned()).into());
    }
    let mut attack = Attack::prepare(config, plan, clock).await?;
    tell(attack.introduction());
    let mut outcomes = Vec::new();
    for &kind in &plan.kinds {
        let outcome = attack.carry_out(kind).await?;
        tell(outcome.to_string());
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// An attack under way.
struct Attack<'a> {
    config: &'a Config,
    plan: &'a Plan,
    clock: Clock,
    victims: Vec<Victim>,
    /// Speaks while the others are silent, so that its acknowledgement shows how far the gateway has come.
    witness: Victim,
    attacker: UdpSocket,
    /// What the attacker recorded.
    uplinks: Vec<Recording>,
    downlinks: Vec<Recording>,
    random: Rng,
}

impl<'a> Attack<'a> {
    /// Opens all sockets, has the devices report, and records what they say and hear.
    async fn prepare(config: &'a Config, plan: &'a Plan, clock: Clock) -> Result<Self, AttackError> {
        let count = (config.devices - 1).min(MAX_VICTIMS);
        // A boot in the very second of a device's last packet, such as one of an earlier attack, cannot be told from a
        // recording, nor can what follows it.
        sleep(Duration::from_millis(1000 - clock.now().0 % 1000)).await;
        // Those of the victims, the witness and the attacker.
        let sockets = count as usize + 2;
        let mut victims = Vec::new();
        for index in 0..count {
            victims.push(Victim::open(config, index, sockets, clock.clone())?);
        }
        let witness = Victim::open(config, count, sockets, clock.clone())?;
        let attacker = ports::open_one(config.gateway, sockets, sockets)?;
        let random = chance(config.seed.into());
        let (uplinks, downlinks) = (Vec::new(), Vec::new());
        let mut attack = Self { config, plan, clock, victims, witness, attacker, uplinks, downlinks, random };
        attack.record().await?;
        attack.look_on().await.ok_or_else(|| attack.silent(1))?;
        attack.find_all().await?;
        Ok(attack)
    }

    /// Every victim boots and reports, until the attacker has recorded enough.
    async fn record(&mut self) -> Result<(), AttackError> {
        for victim in &mut self.victims {
            let boot = victim.boot();
            victim.send(&boot).await;
            self.uplinks.push(boot);
        }
        let mut heard = BTreeSet::new();
        for round in 1..=REPORTS {
            for victim in &mut self.victims {
                let report = victim.report();
                victim.send(&report).await;
                self.uplinks.push(report);
            }
            let acknowledgements = join_all(self.victims.iter().map(Victim::acknowledgement)).await;
            for (victim, bytes) in self.victims.iter().zip(acknowledgements) {
                if let Some(bytes) = bytes {
                    heard.insert(victim.id());
                    self.downlinks.push(Recording { device: victim.id(), bytes, no_time: false });
                }
            }
            if round == PATIENCE && heard.len() < self.victims.len() {
                return Err(self.silent(self.victims.len() - heard.len()));
            }
        }
        Ok(())
    }

    /// Finds every victim over the API, if there is one.
    async fn find_all(&self) -> Result<(), AttackError> {
        let victims = self.victims.iter().map(Victim::id).collect();
        let Some(view) = self.view(&victims, 0).await? else { return Ok(()) };
        match (&self.plan.api, victims.into_iter().find(|id| !view.devices.contains_key(id))) {
            (Some(api), Some(device)) => {
                let (api, gateway) = (api.address().to_owned(), self.config.gateway);
                Err(AttackError::Foreign { api, device, gateway })
            }
            _ => Ok(()),
        }
    }

    fn silent(&self, silent: usize) -> AttackError {
        AttackError::Silent { silent, total: self.victims.len(), gateway: self.config.gateway }
    }

    fn introduction(&self) -> String {
        format!(
            "{} devices have reported {} packets to {}, which were acknowledged; from now on they say nothing",
            self.victims.len(),
            self.uplinks.len(),
            self.config.gateway,
        )
    }

    async fn carry_out(&mut self, kind: Kind) -> Result<Outcome, AttackError> {
        let packets = self.make(kind);
        let (witness, asked) = (self.witness.id(), self.to_be_asked_about(&packets));
        // What is still there was an answer to somebody honest.
        self.take_answers(&mut Came::default());
        let before = self.view(&asked, 0).await?;
        let mut came = Came::default();
        let (sent, unsent, sent_bytes) = self.send(kind, &packets, &mut came).await;
        let witnessed = self.look_on().await;
        let gateway = self.config.gateway;
        let reports = witnessed.ok_or(AttackError::Down { gateway, kind })?;
        sleep(LATE).await;
        self.take_answers(&mut came);
        let expected = before.as_ref().map_or(0, |before| taken(&before.status) + sent + reports);
        let after = self.view(&asked, expected).await?;
        let mut may_count = BTreeMap::<DeviceId, u64>::new();
        for packet in packets.iter().filter(|packet| packet.may_count) {
            *may_count.entry(packet.device).or_default() += 1;
        }
        Ok(Outcome::of(&Seen { kind, sent, unsent, sent_bytes, came, may_count, witness, views: before.zip(after) }))
    }

    fn make(&mut self, kind: Kind) -> Vec<Forged> {
        let (count, random) = (self.plan.packets as usize, &mut self.random);
        match kind {
            Kind::Replay => forge::replays(&self.uplinks, count, random),
            Kind::Reflection => forge::reflections(&self.downlinks, count),
            Kind::BitFlips => {
                let withhold = |victim: &mut Victim| [(); WITHHELD].map(|()| victim.report());
                let withheld: Vec<_> = self.victims.iter_mut().flat_map(withhold).collect();
                forge::bit_flips(&withheld, count, random)
            }
            Kind::UnknownIds => {
                let gps_time = self.clock.now().gps();
                let network = self.config.network;
                let know = |victim: &Victim| Known { network, device: victim.id(), key_id: victim.key_id(), gps_time };
                let known: Vec<_> = self.victims.iter().map(know).collect();
                forge::unknown_ids(&known, count, random)
            }
        }
    }

    /// The devices that report, and some of those that are forged.
    fn to_be_asked_about(&self, packets: &[Forged]) -> BTreeSet<DeviceId> {
        let mut asked: BTreeSet<_> = self.victims.iter().chain([&self.witness]).map(Victim::id).collect();
        let limit = asked.len() + ASKED_FORGED;
        for packet in packets {
            if asked.len() == limit {
                break;
            }
            asked.insert(packet.device);
        }
        asked
    }

    /// Sends all, and takes the answers that come meanwhile; returns how many the kernel took, how many it did not, and the bytes
    /// of those that it took.
    async fn send(&mut self, kind: Kind, packets: &[Forged], came: &mut Came) -> (u64, u64, u64) {
        let (mut sent, mut unsent, mut bytes) = (0, 0, 0);
        for (index, packet) in packets.iter().enumerate() {
            match self.origin(kind, index, packet.device).send(&packet.bytes).await {
                Ok(len) => (sent, bytes) = (sent + 1, bytes + len as u64),
                Err(_) => unsent += 1,
            }
            if index % BURST == BURST - 1 {
                sleep(PAUSE).await;
                self.take_answers(came);
            }
        }
        (sent, unsent, bytes)
    }

    /// The attacker's socket; of what is reflected, half comes from that of the very device it was for, and of some other.
    fn origin(&self, kind: Kind, index: usize, device: DeviceId) -> &UdpSocket {
        let at = self.victims.iter().position(|victim| victim.id() == device).unwrap_or(0);
        match (kind, index % 4) {
            (Kind::Reflection, 1) => self.victims[at].socket(),
            (Kind::Reflection, 3) => self.victims[(at + 1) % self.victims.len()].socket(),
            _ => &self.attacker,
        }
    }

    /// Takes what has come to the attacker, and to those who say nothing. A device that a forged datagram names is asked for its
    /// keys at its own address, now and then (rule R12): that is no answer.
    fn take_answers(&mut self, came: &mut Came) {
        let mut buffer = [0; crate::wire::MAX_DATAGRAM];
        for victim in &mut self.victims {
            while let Some(len) = received(victim.socket(), &mut buffer) {
                let device = Frame::claimed_device(&buffer[..len]);
                if victim.is_challenged(&buffer[..len]) {
                    // It is proved to be there.
                    came.challenge(0);
                } else if !victim.is_asked_for_keys(&mut buffer[..len]) {
                    came.answer(device);
                }
            }
        }
        while let Some(len) = received(&self.attacker, &mut buffer) {
            let datagram = &buffer[..len];
            match self.victims.iter().any(|victim| victim.is_challenged(datagram)) {
                true => came.challenge(len),
                false => came.answer(Frame::claimed_device(datagram)),
            }
        }
    }

    /// Has the witness report until it is acknowledged: then the gateway has taken in what was sent before. Returns how often
    /// it took; `None` if it never was.
    async fn look_on(&mut self) -> Option<u64> {
        for times in 1..=PATIENCE {
            let report = self.witness.report();
            self.witness.send(&report).await;
            if self.witness.acknowledgement().await.is_some() {
                return Some(times as u64);
            }
        }
        None
    }

    /// What the API tells, once the gateway has counted `expected` datagrams, or seems never to. `None` without an API.
    async fn view(&self, asked: &BTreeSet<DeviceId>, expected: u64) -> Result<Option<View>, AttackError> {
        let Some(api) = &self.plan.api else { return Ok(None) };
        let mut status = api.status().await?;
        for _ in 0..LOOKS {
            if taken(&status) >= expected {
                break;
            }
            sleep(LOOK_AGAIN).await;
            status = api.status().await?;
        }
        let mut devices = BTreeMap::new();
        for &id in asked {
            if let Some(known) = api.last_route(id).await? {
                let address = known.route["udp"]["address"].as_str().and_then(|address| address.parse().ok());
                devices.insert(id, Position { address, counted: known.cursor.map_or(0, |cursor| cursor.n) });
            }
        }
        Ok(Some(View { status, devices }))
    }
}

/// Datagrams that the gateway has taken in, or dropped.
fn taken(status: &GatewayStatus) -> u64 {
    status.datagrams.values().sum::<u64>() + status.kernel_drops
}
/// Takes a datagram that has come, if one has.
fn received(socket: &UdpSocket, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match socket.try_recv(buffer) {
            Ok(len) => return Some(len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            // The kernel tells here of a datagram that nobody took.
            Err(_) => {}
        }
    }
}
