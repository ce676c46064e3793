//! What a relay hears: Bluetooth devices, its children, whose packets it passes on in containers (docs/protocol.md,
//! containers).
//!
//! What a child sends by itself, and when, follows from the fleet's start and the child alone. So two relays that hear the same child
//! pass on the same packet, without knowing of each other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;

use super::Config;
use super::calls::Executed;
use super::child::{Child, World};
use super::connect::Connections;
use super::telemetry;
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::wire::container::{Content, Entry, Packer, RouteInterface};
use crate::wire::forward::{AutoConnect, MAX_FORWARDED, Terminated};
use crate::wire::frame::{Layout, Level, PacketType};

/// Most relays of a fleet.
pub const MAX_RELAYS: u32 = 1000;
/// Most children of a relay. Their keys are made when it boots, which takes 0.1 ms each.
pub const MAX_CHILDREN: u32 = 1000;

/// The largest datagram of a relay, in bytes, as stock LTE and Wi-Fi relays are set.
pub const MAX_UPLINK: usize = 1360;

/// How long a relay collects what it hears, as stock LTE relays do; a shorter cadence is taken instead.
const HOLD: Duration = Duration::from_secs(1);

/// A child announces itself in its first packet, and in each after so many.
const ANNOUNCE_EVERY: u64 = 16;

/// The index of the first child, in the terms of [`Identity::new`]: ids of children have an 8 in their middle.
const FIRST_CHILD: u32 = 0x8000_0000;

/// The index of a child, counted over the children of all relays, for [`Identity::new`](super::identity::Identity::new).
pub const fn child_index(child: u32) -> u32 {
    FIRST_CHILD + child
}

/// The children that one relay hears.
#[derive(Debug)]
pub struct Children {
    all: Vec<Child>,
    /// The next packet of each, by the time since the fleet's start: number, and which of `all`.
    next: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    air: World,
    /// Time from the fleet's start to the relay's boot.
    booted_after: Duration,
    relay: u32,
    connections: Connections,
}

impl Children {
    /// What relay `relay` of the fleet `config` hears: its own children, and every fourth of those of the relay before it. It
    /// boots when the fleet, which began at `started`, has run for `booted_after`. All relays of a run have the same
    /// `boot_seed`. `None` if the cloud public key protects nothing.
    pub fn new(
        config: &Config,
        relay: u32,
        boot_seed: u64,
        started: Timestamp,
        booted_after: Duration,
    ) -> Option<Self> {
        let own = relay * config.children..(relay + 1) * config.children;
        let before = (relay + config.relays - 1) % config.relays;
        let shared = (before * config.children..(before + 1) * config.children).step_by(4);
        let numbers = own.chain(shared.filter(|_| before != relay));
        let all: Vec<_> = numbers.map(|number| Child::new(config, number)).collect::<Option<_>>()?;
        let cadence = config.cadence;
        let next = all.iter().enumerate().map(|(at, child)| {
            let missed =
                booted_after.saturating_sub(child.sends_at(0, cadence)).as_nanos().div_ceil(cadence.as_nanos());
            let number = u64::try_from(missed).unwrap_or(u64::MAX);
            Reverse((child.sends_at(number, cadence), number, at))
        });
        let next = next.collect();
        let air = World {
            network: config.network,
            network_root: config.network_root.clone(),
            cloud_public: config.cloud_public,
            cadence,
            started,
            boot_seed,
        };
        Some(Self { all, next, air, booted_after, relay, connections: Connections::default() })
    }

    /// The uptime of the relay at which it next has something to pass on.
    pub fn due_at(&self) -> Option<Duration> {
        let Reverse((heard, _, _)) = self.next.peek()?;
        Some((*heard + HOLD.min(self.air.cadence)).saturating_sub(self.booted_after))
    }

    /// What the relay has heard by `now`, its uptime, as far as it fits one datagram; the rest is left for the next.
    /// `None` if that is nothing.
    pub fn container(&mut self, now: Duration) -> Option<Packer> {
        let mut packer = Packer::new(MAX_UPLINK - Layout::Unversioned.min_len());
        while let Some(&Reverse((heard, number, at))) = self.next.peek()
            && heard <= self.booted_after + now
            && self.pass_on(&self.all[at], heard, number, &mut packer)
        {
            self.next.pop();
            self.next.push(Reverse((self.all[at].sends_at(number + 1, self.air.cadence), number + 1, at)));
        }
        (packer.entries() > 0).then_some(packer)
    }

    /// Packs packet `number` of a child; false if there is no room for it.
    fn pass_on(&self, child: &Child, heard: Duration, number: u64, packer: &mut Packer) -> bool {
        let mut random = child.random_of(&self.air, number);
        let gps_time = self.air.started.after(heard).gps();
        let mut payload = Vec::new();
        if number.is_multiple_of(ANNOUNCE_EVERY) {
            telemetry::announce(u32::try_from(heard.as_secs()).unwrap_or(u32::MAX), 1, &mut payload);
        }
        telemetry::measurement(gps_time, random.u32(..), &mut payload);
        let entropy = random.u16(..);
        let header =
            child.header(&self.air, PacketType::TDF, child.level(number), gps_time, Child::sequence(number), entropy);
        let sealed;
        // A relay opens what it has the key for, which is that of its network.
        let content = match header.level() {
            Level::Network => Content::Opened { header, payload: &payload },
            Level::Device => {
                sealed = child.seal(&header, child.interface, &payload);
                Content::Sealed(&sealed)
            }
        };
        // The distance to each relay is another.
        let mut distance = Rng::with_seed(u64::from(self.relay) << 32 | u64::from(child.number));
        let rssi_dbm = -distance.i16(45..85) - random.i16(0..10);
        push(&Entry { interface: child.interface, bt: Some(child.bt), rssi_dbm, content }, packer)
    }

    /// Passes on what a gateway has for a device; `now` is the relay's uptime. The answer is passed back at once. `None` if there
    /// is none.
    pub(super) fn forward(&mut self, now: Duration, payload: &[u8]) -> Option<Packer> {
        let request = AutoConnect::parse(payload)
            .filter(|request| request.interface == RouteInterface::BtCentral && request.frame.len() <= MAX_FORWARDED)?;
        let at = self.booted_after + now;
        let Self { all, air, connections, .. } = self;
        let child = all.iter_mut().find(|child| child.bt == request.address && child.is_on_air(at, air.cadence));
        let gets_through = connections.connect(now, &request, child.is_some());
        let child = child.filter(|_| gets_through)?;
        let (header, answer) = child.hear(air, at, &mut request.frame.to_vec())?;
        if header.packet_type == PacketType::RPC_RSP {
            connections.answered(now, child.bt);
        }
        let sealed;
        let content = match header.level() {
            Level::Network => Content::Opened { header, payload: &answer },
            Level::Device => {
                sealed = child.seal(&header, RouteInterface::BtCentral, &answer);
                Content::Sealed(&sealed)
            }
        };
        let mut packer = Packer::new(MAX_UPLINK - Layout::Unversioned.min_len());
        let entry = Entry { interface: RouteInterface::BtCentral, bt: Some(child.bt), rssi_dbm: -50, content };
        push(&entry, &mut packer).then_some(packer)
    }

    /// When [`Self::on_time`] is to be called next, if it is: the relay's uptime.
    pub(super) fn connections_due_at(&self) -> Option<Duration> {
        self.connections.due_at()
    }

    /// Ends the connections whose time is up; what is to be told of, one after the other.
    pub(super) fn on_time(&mut self, now: Duration) -> Option<Terminated> {
        self.connections.on_time(now)
    }

    /// The relay boots anew: its connections are gone.
    pub(super) fn interrupt(&mut self) {
        self.connections = Connections::default();
    }

    /// How often `child` has carried out the call with this request id.
    pub(super) fn times_executed(&self, child: DeviceId, request_id: u32) -> u32 {
        self.all.iter().filter(|known| known.identity.id == child).map(|known| known.calls.times(request_id)).sum()
    }

    /// What all of them have carried out.
    pub(super) fn executed(&self) -> Executed {
        self.all.iter().map(|child| child.calls.executed()).fold(Executed::default(), Executed::plus)
    }
}

/// Packs an entry; false if there is no room for it.
fn push(entry: &Entry<'_>, packer: &mut Packer) -> bool {
    #[allow(clippy::expect_used, reason = "its interface is a Bluetooth one, and it is far shorter than the limit")]
    packer.push(entry).expect("an entry with a wire form")
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
