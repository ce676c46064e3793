//! What the table says of a device: routes, the last packet, the state. Plain values, copied out of the table.

use std::net::SocketAddr;

use crate::auth::Verified;
use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId};
use crate::wire::container::{BtAddress, Entry, RouteInterface};
use crate::wire::frame::{Level, PacketType};
use crate::wire::tdf::Version;

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

    /// Whether both lead to the device over the same relay, interface and Bluetooth address. The relay's own address and
    /// the signal strength may differ: they do not move the device.
    pub fn same_path(&self, other: &Self) -> bool {
        (self.relay, self.interface, self.bt) == (other.relay, other.interface, other.bt)
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
    /// Whether it cannot be a replay (rule R4).
    pub proved: bool,
    /// The address its datagram came from; the relay's for a relayed packet.
    pub source: SocketAddr,
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
    /// What it runs.
    pub application: Option<Application>,
}

/// What became of a packet in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It counted.
    Counted(Counted),
    /// It did not: a duplicate, or too old.
    Refused(Step),
    /// Its device is not registered, and only registered ones are served.
    NotRegistered,
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
}
