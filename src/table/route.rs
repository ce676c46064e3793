//! What the table says of a device: routes, the last packet, the state. Plain values, copied out of the table.

use std::net::SocketAddr;

use crate::auth::Verified;
use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId};
use crate::wire::container::{BtAddress, Entry, RouteInterface};
use crate::wire::frame::{Level, PacketType};
use crate::wire::tdf::Version;

use super::contest::{Challenges, Place};
use super::rules::{RouteChange, Step, TimeClass};
use super::sending::Release;

/// How a route was proved (rule R1). Ordered: a later one proves more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trust {
    /// By a packet any member of the network could have made.
    Network,
    /// By a packet only the device could have made.
    Device,
    /// By the answer to a challenge (rule R6).
    Verified,
}

impl Trust {
    /// The one with this number in kept records.
    pub(super) const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Network,
            1 => Self::Device,
            _ => Self::Verified,
        }
    }

    /// The name in every text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Device => "device",
            Self::Verified => "verified",
        }
    }
}

impl From<Level> for Trust {
    fn from(level: Level) -> Self {
        match level {
            Level::Network => Self::Network,
            Level::Device => Self::Device,
        }
    }
}

/// Where a device was heard over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectRoute {
    /// Address and port its packets come from.
    pub address: SocketAddr,
    /// When the last packet that set or refreshed the route arrived.
    pub received_at: Timestamp,
    /// Sequence of that packet.
    pub sequence: u16,
    /// How the route was proved.
    pub trust: Trust,
}

/// How a packet reached the gateway through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relaying {
    /// The relay.
    pub relay: DeviceId,
    /// Level of the relay's own packet.
    pub level: Level,
    /// Address the relay's packet came from.
    pub address: SocketAddr,
    /// Sequence of the relay's packet.
    pub sequence: u16,
    /// Interface on which the relay heard the device.
    pub interface: RouteInterface,
    /// Bluetooth address of the device, on interfaces that have one.
    pub bt: Option<BtAddress>,
    /// Signal strength at the relay in dBm; 0 also stands for unknown.
    pub rssi_dbm: i16,
}

impl Relaying {
    /// How `entry` of the container `outer` came, whose datagram came from `address`.
    pub const fn by(outer: &Verified<'_>, entry: &Entry<'_>, address: SocketAddr) -> Self {
        Self {
            relay: outer.header().device_id,
            level: outer.level(),
            address,
            sequence: outer.header().sequence,
            interface: entry.interface,
            bt: entry.bt,
            rssi_dbm: entry.rssi_dbm,
        }
    }

    /// Whether both lead to the device over the same relay and Bluetooth address, as in [`Place`]. The rest may differ: it
    /// does not move the device.
    pub fn same_path(&self, other: &Self) -> bool {
        (self.relay, self.bt) == (other.relay, other.bt)
    }
}

/// Where a device was heard through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayedRoute {
    /// The way through the relay.
    pub through: Relaying,
    /// When the last packet that set or refreshed the route arrived.
    pub received_at: Timestamp,
    /// Sequence of that packet.
    pub sequence: u16,
    /// How the route was proved: at most the relay's level if the relay decrypted the packet.
    pub trust: Trust,
}

/// The way one packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// In a datagram of its own, from this address.
    Direct(SocketAddr),
    /// Inside a relay's container.
    Relayed(Relaying),
}

impl Path {
    /// The relay it came through.
    pub const fn relay(&self) -> Option<DeviceId> {
        match self {
            Self::Direct(_) => None,
            Self::Relayed(through) => Some(through.relay),
        }
    }

    /// Where it leads.
    pub fn place(&self) -> Place {
        match self {
            Self::Direct(source) => Place::Direct(canonical(*source)),
            Self::Relayed(through) => Place::Relayed { relay: through.relay, bt: through.bt },
        }
    }

    /// The address the datagram came from: the device's, or the relay's.
    pub const fn source(&self) -> SocketAddr {
        match self {
            Self::Direct(source) => *source,
            Self::Relayed(through) => through.address,
        }
    }
}

/// One form for each address: an IPv4 one that came through an IPv6 socket is an IPv4 one.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The route of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Over UDP.
    Direct(DirectRoute),
    /// Through a relay.
    Relayed(RelayedRoute),
}

impl Route {
    /// When the last packet that set or refreshed it arrived.
    pub const fn received_at(&self) -> Timestamp {
        match self {
            Self::Direct(route) => route.received_at,
            Self::Relayed(route) => route.received_at,
        }
    }

    /// How the route was proved.
    pub const fn trust(&self) -> Trust {
        match self {
            Self::Direct(route) => route.trust,
            Self::Relayed(route) => route.trust,
        }
    }
}

/// The last packet of a device that was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastPacket {
    /// Its type.
    pub packet_type: PacketType,
    /// Its level.
    pub level: Level,
    /// Its sequence.
    pub sequence: u16,
    /// Its GPS time.
    pub gps_time: u32,
    /// When it arrived.
    pub received_at: Timestamp,
    /// Its time class at arrival.
    pub class: TimeClass,
    /// The step of rule R4 that let it count.
    pub step: Step,
    /// Whether it cannot be a replay (rule R4).
    pub proved: bool,
    /// The address its datagram came from; the relay's for a relayed packet.
    pub source: SocketAddr,
    /// Whether it came through a relay.
    pub relayed: bool,
    /// Whether it came over the route that is now its slot's.
    pub on_route: bool,
    /// The device says it listens all the time.
    pub always_rx: bool,
    /// The device says nothing follows soon.
    pub single_tx: bool,
}

/// What a device runs, by its announcements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Application {
    /// Application id.
    pub id: u32,
    /// Application version.
    pub version: Version,
}

/// Everything the table knows of one device, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The device.
    pub device_id: DeviceId,
    /// The position of its last counted packet.
    pub cursor: Cursor,
    /// Whether it is registered.
    pub registered: bool,
    /// When its first packet was counted.
    pub first_packet_at: Option<Timestamp>,
    /// The last packet that was counted.
    pub last_packet: Option<LastPacket>,
    /// The slot that was set or refreshed last.
    pub last_route: Option<Route>,
    /// The direct slot.
    pub direct: Option<DirectRoute>,
    /// The relayed slot.
    pub relayed: Option<RelayedRoute>,
    /// Whether a proved packet that may move a route, or the answer to a challenge, came by the present route of each slot:
    /// direct, relayed.
    pub proved: [bool; 2],
    /// What it runs.
    pub application: Option<Application>,
}

/// What became of a packet in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It counted.
    Counted(Counted),
    /// It did not: a duplicate, or too old.
    Refused(Refused),
    /// Its device is not registered, and only registered ones are served.
    NotRegistered,
}

/// A packet that did not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The step of rule R4 that refused it.
    pub step: Step,
    /// It answers a challenge all the same: a copy of it came from elsewhere before (rule R6).
    pub answered: Option<Answered>,
    /// Whom to challenge: a copy of a packet that moved the route came from elsewhere.
    pub challenges: Challenges,
}

impl From<Step> for Refused {
    /// Refused, and nothing else.
    fn from(step: Step) -> Self {
        Self { step, answered: None, challenges: Challenges::default() }
    }
}

/// What an answered challenge did that a counted packet does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Where the route of its slot led before it moved. Absent if it led there already.
    pub moved_from: Option<SocketAddr>,
    /// There may be something for the device in the outbox, as in [`Counted::expects`].
    pub expects: bool,
}

/// What a counted packet did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The step of rule R4 that let it count.
    pub step: Step,
    /// What it did to the route of its slot.
    pub change: RouteChange,
    /// Where the route of its slot led before it moved; for a relayed one, the relay's address. Absent unless it moved.
    pub moved_from: Option<SocketAddr>,
    /// The sequence for a downlink in answer, if the packet asks for an acknowledgement.
    pub ack_sequence: Option<u16>,
    /// The position of the packet.
    pub cursor: Cursor,
    /// Whether it lets downlinks leave to its source.
    pub release: Release,
    /// There may be something for the device in the outbox. Unless the packet releases nothing at all, whoever looks there has
    /// to call [`super::RouteTable::expect`] again if anything stays.
    pub expects: bool,
    /// A proved packet of the device, or the answer to a challenge, came from the address of this one.
    pub proved_address: bool,
    /// It answers a challenge that was sent to where it came from, which is now the verified route of its slot.
    pub is_answer: bool,
    /// Whom to challenge.
    pub challenges: Challenges,
}
