//! One Bluetooth device that relays hear: what it says by itself, and what it answers to a relay that connects to it.
//!
//! Each packet that it sends by itself has a block of sequences, whose first it takes; what it answers until the next takes the
//! others. So what it sends by itself is the same whatever it was asked, for all relays that hear it.

use std::time::Duration;

use fastrand::Rng;

use super::Config;
use super::calls::{Calls, Turn};
use super::exchange::Packet;
use super::identity::Identity;
use super::relay::child_index;
use super::rpc::{Commands, Facts};
use super::security::Who;
use super::telemetry;
use crate::auth::keys::{Interface, RootKey};
use crate::auth::{open_with, seal_with};
use crate::clock::Timestamp;
use crate::id::KeyId;
use crate::wire::container::{BtAddress, RouteInterface};
use crate::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};

/// Sequences in a block: few enough that a packet that is overtaken by three others of its sender is within reach of a gateway,
/// and so as many answers in a cadence, less one; it has no more to give.
const BLOCK: u64 = 16;

/// Where and when children are.
#[derive(Debug)]
pub(super) struct World {
    pub(super) network: KeyId,
    pub(super) network_root: RootKey,
    pub(super) cloud_public: [u8; 32],
    /// Time from one packet of a child to its next.
    pub(super) cadence: Duration,
    /// What the clock said at the fleet's start.
    pub(super) started: Timestamp,
    /// Different in each run of a fleet.
    pub(super) boot_seed: u64,
}

/// A Bluetooth device.
#[derive(Debug)]
pub(super) struct Child {
    /// Counted over all relays.
    pub(super) number: u32,
    pub(super) identity: Identity,
    pub(super) interface: RouteInterface,
    pub(super) bt: BtAddress,
    /// When in each cadence it sends, 0 to 1.
    phase: f64,
    pub(super) calls: Calls,
    /// The block it last answered in, and the answers there.
    answers: (u64, u64),
}

impl Child {
    pub(super) fn new(config: &Config, number: u32) -> Option<Self> {
        let identity = Identity::new(config.seed, child_index(number), &config.cloud_public)?;
        // Every fourth is connected, so only one relay hears it; the others advertise.
        let interface =
            if number % config.children % 4 == 3 { RouteInterface::BtCentral } else { RouteInterface::BtAdv };
        let mut bytes = [0; 6];
        Rng::with_seed(identity.id.0).fill(&mut bytes);
        // A static random address: its two upper bits are set.
        bytes[5] |= 0xc0;
        let phase = f64::from(number) / f64::from(config.relays * config.children);
        let (bt, calls) = (BtAddress { kind: 1, bytes }, Calls::default());
        Some(Self { number, identity, interface, bt, phase, calls, answers: (0, 0) })
    }

    /// When it sends packet `number`, from the fleet's start on: the same for every relay.
    pub(super) fn sends_at(&self, number: u64, cadence: Duration) -> Duration {
        cadence.mul_f64(number as f64 + self.phase)
    }

    /// Its packets alternate between the levels.
    pub(super) const fn level(&self, number: u64) -> Level {
        if (self.number as u64 + number).is_multiple_of(2) { Level::Network } else { Level::Device }
    }

    /// The sequence of packet `number`.
    pub(super) const fn sequence(number: u64) -> u16 {
        (number * BLOCK) as u16
    }

    /// Chance that is the same for every relay that hears packet `number`.
    pub(super) fn random_of(&self, world: &World, number: u64) -> Rng {
        Rng::with_seed(world.boot_seed ^ u64::from(self.number) << 40 ^ number)
    }

    /// Whether it has sent anything when the fleet has run for `at`.
    pub(super) fn is_on_air(&self, at: Duration, cadence: Duration) -> bool {
        self.sends_at(0, cadence) <= at
    }

    /// The header of a packet of its own.
    pub(super) fn header(
        &self,
        world: &World,
        packet_type: PacketType,
        level: Level,
        gps_time: u32,
        sequence: u16,
        entropy: u16,
    ) -> Header {
        Header {
            packet_type,
            flags: Flags(if level == Level::Device { Flags::DEVICE_KEY } else { 0 }),
            key_id: if level == Level::Device { self.identity.key_id } else { world.network },
            device_id: self.identity.id,
            gps_time,
            sequence,
            entropy,
        }
    }

    /// A device-level frame over `interface`.
    pub(super) fn seal(&self, header: &Header, interface: RouteInterface, payload: &[u8]) -> Vec<u8> {
        let interface = match interface {
            RouteInterface::BtCentral => Interface::BtGatt,
            _ => Interface::BtAdv,
        };
        let mut frame = Vec::new();
        let key = self.identity.root.day_key(interface, header.rotation());
        seal_with(&key, header, Layout::Versioned, payload, &mut frame);
        frame
    }

    /// A frame has reached it over a connection, when the fleet has run for `at`. Returns its answer, if it gives one.
    pub(super) fn hear(&mut self, world: &World, at: Duration, frame: &mut [u8]) -> Option<(Header, Vec<u8>)> {
        let frame = Frame::parse(frame, Layout::Versioned).ok()?;
        let header = *frame.header();
        let root = match header.level() {
            Level::Network if header.key_id == world.network => &world.network_root,
            Level::Device if (header.device_id, header.key_id) == (self.identity.id, self.identity.key_id) => {
                &self.identity.root
            }
            Level::Network | Level::Device => return None,
        };
        let opened = open_with(&root.day_key(Interface::BtGatt, header.rotation()), frame)?;
        let payload = opened.payload();
        let answer = match header.packet_type {
            // Firmware drops what is not longer than header and tag.
            _ if payload.is_empty() => return None,
            PacketType::ECHO_REQ => {
                Packet { packet_type: PacketType::ECHO_RSP, level: header.level(), payload: payload.to_vec() }
            }
            PacketType::RPC_CMD => self.on_call(world, at, header.level(), payload)?,
            _ => return None,
        };
        let sequence = self.next_sequence(at, world.cadence)?;
        // The nonce of an answer differs from those of other runs by this alone, if devices boot again at once.
        let entropy = Rng::new().u16(..);
        let gps_time = world.started.after(at).gps();
        Some((self.header(world, answer.packet_type, answer.level, gps_time, sequence, entropy), answer.payload))
    }

    fn on_call(&mut self, world: &World, at: Duration, level: Level, call: &[u8]) -> Option<Packet> {
        let Identity { id, keys, root, .. } = &self.identity;
        let time = super::timekeeping::Timekeeping::surviving(at, world.started.after(at));
        let facts = Facts {
            application: telemetry::application(world.network, super::device::whole_seconds(at), 1),
            time: time.info(at),
            commands: Commands::Questions,
        };
        let who = Who {
            id: *id,
            cloud_public: world.cloud_public,
            device_public: keys.public(),
            network: world.network,
            root,
        };
        let mut nonce = [0; 12];
        Rng::new().fill(&mut nonce);
        match self.calls.on_call(at, level, call, &facts, |challenge| who.answer(challenge, nonce)) {
            Turn::Answered { answer, .. } => Some(answer),
            Turn::Malformed | Turn::Waits | Turn::Lost | Turn::Begun(_) => None,
        }
    }

    /// The next free sequence of the block of the packet it sent last; `None` if there is none.
    fn next_sequence(&mut self, at: Duration, cadence: Duration) -> Option<u16> {
        let block = (at.as_secs_f64() / cadence.as_secs_f64() - self.phase).max(0.0) as u64;
        let used = if self.answers.0 == block { self.answers.1 } else { 0 };
        if used + 1 == BLOCK {
            return None;
        }
        self.answers = (block, used + 1);
        Some(Self::sequence(block).wrapping_add(used as u16 + 1))
    }
}
