//! The route table from outside: named examples, and random histories against an oracle that forgets nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests are plain functions")]

mod clock_steps;
mod contests;
mod copies;
mod examples;
mod fleet;
mod histories;
mod kept;
mod listing;
mod oracle;
mod oracle_challenges;
mod pair;
mod random;
mod removal;
mod sending;
mod sent;

use std::net::SocketAddr;

use lastroute::auth::keys::{Interface, RootKey};
use lastroute::auth::{Verified, open_with, seal_with};
use lastroute::clock::Timestamp;
use lastroute::id::{DeviceId, KeyId};
use lastroute::table::route::{Application, Outcome, Path, Relaying};
use lastroute::table::sending::{Receipt, Via};
use lastroute::table::{Packet, RouteTable};
use lastroute::wire::container::{BtAddress, RouteInterface};
use lastroute::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};
use lastroute::wire::tdf::Version;

/// GPS time at which the tests begin: a day like any other.
const START: u32 = 1_479_435_219;

/// A packet as the tests write it down: sealed, opened and recorded by [`Sent::record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    device: u64,
    gps_time: u32,
    sequence: u16,
    entropy: u16,
    level: Level,
    packet_type: PacketType,
    /// Interface bits and ACK request.
    flags: u16,
    way: Way,
    may_move: bool,
    application: Option<u32>,
    network: u16,
    via: Via,
    /// Bytes of its datagram.
    len: u16,
}

/// How a packet comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct(SocketAddr),
    /// Still encrypted, through this relay.
    Relayed(u64),
    /// Decrypted by this relay, which speaks at this level.
    OnWordOf(u64, Level),
}

impl Sent {
    /// A plain packet of device 1 over UDP.
    fn new(gps_time: u32, sequence: u16, way: Way) -> Self {
        Self {
            device: 1,
            gps_time,
            sequence,
            entropy: 7,
            level: Level::Network,
            packet_type: PacketType::TDF,
            flags: 0,
            way,
            may_move: true,
            application: None,
            network: 0,
            via: Via::UNKNOWN,
            len: 0,
        }
    }

    fn boot(self) -> Self {
        Self { packet_type: PacketType::KEY_IDS, sequence: 0, ..self }
    }

    fn is_boot(&self) -> bool {
        self.packet_type == PacketType::KEY_IDS && self.sequence == 0
    }

    fn record(&self, table: &RouteTable, at: Timestamp) -> Outcome {
        self.take(table, false, at)
    }

    /// As [`Self::record`], with the cookie that was sent to where it comes from.
    fn record_answer(&self, table: &RouteTable, at: Timestamp) -> Outcome {
        self.take(table, true, at)
    }

    fn take(&self, table: &RouteTable, answers: bool, at: Timestamp) -> Outcome {
        let header = self.header();
        let path = self.path();
        let record = |verified: &Verified<'_>| {
            let application = self.application.map(application);
            let (may_move, network) = (self.may_move, self.network);
            let receipt = Receipt { at, via: self.via, len: self.len };
            table.record(&Packet { verified, path: &path, may_move, answers, application, network, receipt })
        };
        match self.way {
            Way::Direct(_) => open(&header, Interface::Udp, |verified| record(verified)),
            Way::Relayed(_) => open(&header, Interface::BtGatt, |verified| record(verified)),
            Way::OnWordOf(relay, level) => {
                let own = Self { device: relay, level, ..*self }.header();
                open(&own, Interface::Udp, |relay| record(&Verified::on_word_of(relay, header, &[])))
            }
        }
    }

    fn path(&self) -> Path {
        match self.way {
            Way::Direct(source) => Path::Direct(source),
            Way::Relayed(relay) => Path::Relayed(self.through(relay, Level::Device)),
            Way::OnWordOf(relay, level) => Path::Relayed(self.through(relay, level)),
        }
    }

    /// The relay hears every second packet over a connection.
    fn through(&self, relay: u64, level: Level) -> Relaying {
        let interface = if self.sequence.is_multiple_of(2) { RouteInterface::BtCentral } else { RouteInterface::BtAdv };
        Relaying { interface, ..through(relay, level) }
    }

    fn header(&self) -> Header {
        let level = if self.level == Level::Device { Flags::DEVICE_KEY } else { 0 };
        Header {
            packet_type: self.packet_type,
            flags: Flags(self.flags | level),
            key_id: KeyId::from_le_bytes([7, 0, 0]),
            device_id: DeviceId(self.device),
            gps_time: self.gps_time,
            sequence: self.sequence,
            entropy: self.entropy,
        }
    }
}

fn open<T>(header: &Header, interface: Interface, with: impl FnOnce(&Verified<'_>) -> T) -> T {
    let key = RootKey::new([1; 32]).day_key(interface, header.rotation());
    let mut bytes = Vec::new();
    seal_with(&key, header, Layout::Unversioned, &[], &mut bytes);
    let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
    with(&open_with(&key, frame).unwrap())
}

fn through(relay: u64, level: Level) -> Relaying {
    Relaying {
        relay: DeviceId(relay),
        level,
        address: SocketAddr::from(([198, 51, 100, 1], 2000 + relay as u16)),
        sequence: 40,
        interface: RouteInterface::BtAdv,
        bt: Some(BtAddress { kind: 1, bytes: [2; 6] }),
        rssi_dbm: -70,
    }
}

fn application(id: u32) -> Application {
    Application { id, version: Version { major: 1, minor: 2, revision: 3, build: id } }
}
