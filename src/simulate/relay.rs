//! What a relay hears: Bluetooth devices, its children, whose packets it passes on in containers (docs/protocol.md,
//! containers).
//!
//! What a child sends, and when, follows from the fleet's start and the child alone. So two relays that hear the same child
//! pass on the same packet, without knowing of each other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;

use super::Config;
use super::identity::Identity;
use super::telemetry;
use crate::auth::keys::Interface;
use crate::auth::seal_with;
use crate::clock::Timestamp;
use crate::id::KeyId;
use crate::wire::container::{BtAddress, Content, Entry, Packer, RouteInterface};
use crate::wire::frame::{Flags, Header, Layout, Level, PacketType};

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

/// The index of a child, counted over the children of all relays, for [`Identity::new`].
pub const fn child_index(child: u32) -> u32 {
    FIRST_CHILD + child
}

/// The children that one relay hears.
#[derive(Debug)]
pub struct Children {
    all: Vec<Child>,
    /// The next packet of each, by the time since the fleet's start: number, and which of `all`.
    next: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    network: KeyId,
    cadence: Duration,
    started: Timestamp,
    /// Time from the fleet's start to the relay's boot.
    booted_after: Duration,
    /// Different in each run of a fleet.
    boot_seed: u64,
    relay: u32,
}

#[derive(Debug)]
struct Child {
    /// Counted over all relays.
    number: u32,
    identity: Identity,
    interface: RouteInterface,
    bt: BtAddress,
    /// When in each cadence it sends, 0 to 1.
    phase: f64,
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
        let network = config.network;
        Some(Self { all, next, network, cadence, started, booted_after, boot_seed, relay })
    }

    /// The uptime of the relay at which it next has something to pass on.
    pub fn due_at(&self) -> Option<Duration> {
        let Reverse((heard, _, _)) = self.next.peek()?;
        Some((*heard + HOLD.min(self.cadence)).saturating_sub(self.booted_after))
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
            self.next.push(Reverse((self.all[at].sends_at(number + 1, self.cadence), number + 1, at)));
        }
        (packer.entries() > 0).then_some(packer)
    }

    /// Packs packet `number` of a child; false if there is no room for it.
    fn pass_on(&self, child: &Child, heard: Duration, number: u64, packer: &mut Packer) -> bool {
        let mut random = Rng::with_seed(self.boot_seed ^ u64::from(child.number) << 40 ^ number);
        let gps_time = self.started.after(heard).gps();
        let mut payload = Vec::new();
        if number.is_multiple_of(ANNOUNCE_EVERY) {
            telemetry::announce(u32::try_from(heard.as_secs()).unwrap_or(u32::MAX), 1, &mut payload);
        }
        telemetry::measurement(gps_time, random.u32(..), &mut payload);
        let level = child.level(number);
        let header = Header {
            packet_type: PacketType::TDF,
            flags: Flags(if level == Level::Device { Flags::DEVICE_KEY } else { 0 }),
            key_id: if level == Level::Device { child.identity.key_id } else { self.network },
            device_id: child.identity.id,
            gps_time,
            sequence: number as u16,
            entropy: random.u16(..),
        };
        let sealed;
        // A relay opens what it has the key for, which is that of its network.
        let content = match level {
            Level::Network => Content::Opened { header, payload: &payload },
            Level::Device => {
                sealed = child.seal(&header, &payload);
                Content::Sealed(&sealed)
            }
        };
        // The distance to each relay is another.
        let mut distance = Rng::with_seed(u64::from(self.relay) << 32 | u64::from(child.number));
        let rssi_dbm = -distance.i16(45..85) - random.i16(0..10);
        let entry = Entry { interface: child.interface, bt: Some(child.bt), rssi_dbm, content };
        #[allow(clippy::expect_used, reason = "its interface is a Bluetooth one, and it is far shorter than the limit")]
        packer.push(&entry).expect("an entry with a wire form")
    }
}

impl Child {
    fn new(config: &Config, number: u32) -> Option<Self> {
        let identity = Identity::new(config.seed, child_index(number), &config.cloud_public)?;
        // Every fourth is connected, so only one relay hears it; the others advertise.
        let interface =
            if number % config.children % 4 == 3 { RouteInterface::BtCentral } else { RouteInterface::BtAdv };
        let mut bytes = [0; 6];
        Rng::with_seed(identity.id.0).fill(&mut bytes);
        // A static random address: its two upper bits are set.
        bytes[5] |= 0xc0;
        let phase = f64::from(number) / f64::from(config.relays * config.children);
        Some(Self { number, identity, interface, bt: BtAddress { kind: 1, bytes }, phase })
    }

    /// When it sends packet `number`, from the fleet's start on: the same for every relay.
    fn sends_at(&self, number: u64, cadence: Duration) -> Duration {
        cadence.mul_f64(number as f64 + self.phase)
    }

    /// Its packets alternate between the levels.
    const fn level(&self, number: u64) -> Level {
        if (self.number as u64 + number).is_multiple_of(2) { Level::Network } else { Level::Device }
    }

    /// A device-level frame of its interface.
    fn seal(&self, header: &Header, payload: &[u8]) -> Vec<u8> {
        let interface = match self.interface {
            RouteInterface::BtCentral => Interface::BtGatt,
            _ => Interface::BtAdv,
        };
        let mut frame = Vec::new();
        let key = self.identity.root.day_key(interface, header.rotation());
        seal_with(&key, header, Layout::Versioned, payload, &mut frame);
        frame
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
