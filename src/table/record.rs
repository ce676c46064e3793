//! The record of one device: what is held for each of millions, so laid out small.
//!
//! Fields that few devices need (relayed slot, IPv6 addresses, packets from elsewhere) live in a box beside it. What
//! downlinks need of it is read in [`super::sending`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId};
use crate::wire::frame::{Flags, Level, PacketType};
use crate::wire::tdf::Version;

use super::route::{
    Application, DirectRoute, LastPacket, Path, RelayedRoute, Relaying, Route, Snapshot, Trust, canonical,
};
use super::rules::{RouteChange, Session, Slot, Step, TimeClass, route_change};
use super::sending::{DIRECT_FOR, Receipt, SendRoute, Via};

/// The state of one device. 104 bytes, an entry of the map 112; what that comes to with the slack of the map is in
/// docs/performance.md.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) session: Session,
    /// Packets counted in this record's generation.
    count: u64,
    last_at: Timestamp,
    first_at: Timestamp,
    direct_at: Timestamp,
    cold: Option<Box<Cold>>,
    /// Greatest fresh GPS time over both slots, packets decrypted by a relay excepted; 0 before any.
    pub(super) greatest: u32,
    generation: u32,
    last_gps: u32,
    direct_v4: Ipv4Addr,
    application_id: u32,
    version_build: u32,
    version_revision: u16,
    version_major: u8,
    version_minor: u8,
    last_sequence: u16,
    direct_sequence: u16,
    direct_port: u16,
    down_sequence: u16,
    /// Packets counted since the route moved, the one that moved it not among them. Stays at its end.
    since_move: u16,
    /// As in [`NetworkInfo`](crate::auth::keys::NetworkInfo); 0: not known.
    pub(super) network: u16,
    bits: u16,
    last_type: u8,
    /// The class of the last packet in the lowest two bits, and [`bit::PROVED_ADDRESS`].
    last_class: u8,
    /// Where the last packet of the direct route came in.
    via: Via,
    /// The longest datagram of its own, in units of 8 bytes, rounded down.
    largest: u8,
}

#[derive(Debug, Default)]
struct Cold {
    direct_v6: Option<Ipv6Addr>,
    /// Address of the last counted packet, where it is not the direct route's.
    last_source: Option<SocketAddr>,
    relayed: Option<RelayedRoute>,
    /// A proved packet that may move a route came by the present relayed route.
    relayed_proved: bool,
    relayed_session: Session,
    relayed_greatest: u32,
}

/// One bit each in [`Record::bits`].
mod bit {
    pub(super) const REGISTERED: u16 = 1 << 0;
    pub(super) const WATCH_SIDE: u16 = 1 << 1;
    pub(super) const HAS_APPLICATION: u16 = 1 << 2;
    pub(super) const HAS_DIRECT: u16 = 1 << 3;
    pub(super) const DIRECT_V6: u16 = 1 << 4;
    pub(super) const LAST_ROUTE_RELAYED: u16 = 1 << 5;
    pub(super) const ALWAYS_RX: u16 = 1 << 6;
    pub(super) const SINGLE_TX: u16 = 1 << 7;
    pub(super) const LAST_DEVICE_LEVEL: u16 = 1 << 8;
    pub(super) const LAST_PROVED: u16 = 1 << 9;
    pub(super) const LAST_ON_ROUTE: u16 = 1 << 10;
    pub(super) const LAST_SOURCE_COLD: u16 = 1 << 11;
    pub(super) const DIRECT_TRUST_DEVICE: u16 = 1 << 12;
    pub(super) const DIRECT_TRUST_VERIFIED: u16 = 1 << 13;
    pub(super) const LAST_RELAYED: u16 = 1 << 14;
    /// There may be something for the device in the outbox.
    pub(super) const EXPECTS: u16 = 1 << 15;
    /// Of [`super::Record::last_class`]: a proved packet that may move a route, or the answer to a challenge, came from the
    /// present direct address.
    pub(super) const PROVED_ADDRESS: u8 = 1 << 2;
}

/// The class in [`Record::last_class`].
const CLASS: u8 = 0b11;

/// Generations that begin their downlink sequences apart from each other, and how far apart.
const SPREAD: u32 = 16;
const SPREAD_BY: u16 = 1024;

/// A counted packet, as the record takes it in.
pub(super) struct Counting<'a> {
    pub(super) path: &'a Path,
    pub(super) step: Step,
    pub(super) class: TimeClass,
    pub(super) level: Level,
    pub(super) packet_type: PacketType,
    pub(super) flags: Flags,
    pub(super) gps_time: u32,
    pub(super) sequence: u16,
    /// Proved, and newer than every packet before.
    pub(super) newest: bool,
    /// Whether the route policy lets this packet move a route.
    pub(super) may_move: bool,
    /// What the packet announces.
    pub(super) application: Option<Application>,
    /// The network it comes under; 0: none that is known.
    pub(super) network: u16,
    pub(super) receipt: Receipt,
}

/// What a counted packet did to the route of its slot.
pub(super) struct Routed {
    pub(super) change: RouteChange,
    /// Where the route led before, if it moved.
    pub(super) moved_from: Option<SocketAddr>,
    /// Whether the address it came from is proved for the device.
    pub(super) proved_address: bool,
    /// Whether the route policy trusts the way it came.
    pub(super) is_trusted: bool,
}

impl Record {
    /// A record before its first packet.
    pub(super) fn new(generation: u32, registered: bool) -> Self {
        Self {
            session: Session::default(),
            count: 0,
            last_at: Timestamp(0),
            first_at: Timestamp(0),
            direct_at: Timestamp(0),
            cold: None,
            greatest: 0,
            generation,
            last_gps: 0,
            direct_v4: Ipv4Addr::UNSPECIFIED,
            application_id: 0,
            version_build: 0,
            version_revision: 0,
            version_major: 0,
            version_minor: 0,
            last_sequence: 0,
            direct_sequence: 0,
            direct_port: 0,
            down_sequence: 0,
            since_move: 0,
            network: 0,
            // Something may have been put into the outbox before.
            bits: bit::EXPECTS | if registered { bit::REGISTERED } else { 0 },
            last_type: 0,
            last_class: 0,
            via: Via::UNKNOWN,
            largest: 0,
        }
    }

    fn has(&self, bit: u16) -> bool {
        self.bits & bit != 0
    }

    fn set(&mut self, bit: u16, on: bool) {
        self.bits = if on { self.bits | bit } else { self.bits & !bit };
    }

    pub(super) fn registered(&self) -> bool {
        self.has(bit::REGISTERED)
    }

    pub(super) fn register(&mut self) {
        self.set(bit::REGISTERED, true);
    }

    /// Whether fresh packets have to be compared with the side record.
    pub(super) fn watches_side(&self) -> bool {
        self.has(bit::WATCH_SIDE)
    }

    pub(super) fn watch_side(&mut self, on: bool) {
        self.set(bit::WATCH_SIDE, on);
    }

    /// When the last packet was counted; 0 before any.
    pub(super) fn last_at(&self) -> Timestamp {
        self.last_at
    }

    /// When the first and the last packet were counted, and the last one that set or refreshed the direct route; 0: none.
    pub(super) fn times(&self) -> [Timestamp; 3] {
        [self.first_at, self.last_at, self.direct_at]
    }

    /// The session of a slot and the greatest time its packets are measured against. The relayed slot has a greatest time
    /// of its own: a relay delivers later than the device's own datagrams arrive, so that next to them its packets would
    /// never look new; and no packet of one slot opens in the other, whose keys are others.
    pub(super) fn marks(&self, slot: Slot) -> (Session, u32) {
        match (slot, &self.cold) {
            (Slot::Direct, _) => (self.session, self.greatest),
            (Slot::Relayed, Some(cold)) => (cold.relayed_session, cold.relayed_greatest),
            (Slot::Relayed, None) => (Session::default(), 0),
        }
    }

    /// Stores the session of a slot. `proved_gps`: the time of a proved packet. It counts for the direct slot too unless it
    /// is a relay's word, which must never make a direct packet look old.
    pub(super) fn set_marks(&mut self, slot: Slot, session: Session, proved_gps: Option<u32>, relays_word: bool) {
        let gps_time = proved_gps.unwrap_or(0);
        match slot {
            Slot::Direct => self.session = session,
            Slot::Relayed => {
                let cold = self.cold.get_or_insert_default();
                cold.relayed_session = session;
                cold.relayed_greatest = cold.relayed_greatest.max(gps_time);
            }
        }
        if !relays_word {
            self.greatest = self.greatest.max(gps_time);
        }
    }

    /// The next downlink sequence.
    pub(super) fn next_down_sequence(&mut self) -> u16 {
        self.down_sequence = self.down_sequence.wrapping_add(1);
        self.down_sequence
    }

    /// Half of all sequences beyond the first of the device, so that it takes the two long to meet. A record that follows one
    /// that was forgotten begins elsewhere: the former one's may have been used in the same second.
    fn begin_down_sequence(&mut self, first: u16) {
        let spread = (self.generation.saturating_sub(1) % SPREAD) as u16 * SPREAD_BY;
        self.down_sequence = first.wrapping_add(1 << 15).wrapping_add(spread).wrapping_sub(1);
    }

    /// Whether a packet of the device itself set or refreshed its direct route at most 300 s before `now`.
    pub(super) fn is_heard_directly(&self, now: Timestamp) -> bool {
        self.has(bit::HAS_DIRECT) && self.direct_at.after(DIRECT_FOR) >= now
    }

    /// Whether a packet was counted.
    pub(super) fn is_heard(&self) -> bool {
        self.count > 0
    }

    /// Whether there may be something in the outbox.
    pub(super) fn expects(&self) -> bool {
        self.has(bit::EXPECTS)
    }

    pub(super) fn expect(&mut self, on: bool) {
        self.set(bit::EXPECTS, on);
    }

    /// Takes in a packet that counts: cursor, route, last packet, state.
    pub(super) fn count(&mut self, packet: &Counting<'_>) -> Routed {
        let at = packet.receipt.at;
        if self.count == 0 {
            self.first_at = at;
            self.begin_down_sequence(packet.sequence);
        }
        let was_relayed = self.has(bit::LAST_ROUTE_RELAYED);
        let routed = match packet.path {
            Path::Direct(source) => self.count_direct(*source, packet),
            Path::Relayed(through) => self.count_relayed(*through, packet),
        };
        let change = routed.change;
        let is_switched = self.has(bit::LAST_ROUTE_RELAYED) != was_relayed;
        let is_moved = is_switched || matches!(change, RouteChange::First | RouteChange::Moved);
        self.since_move = if is_moved { 0 } else { self.since_move.saturating_add(1) };
        self.count += 1;
        self.last_at = at;
        self.last_gps = packet.gps_time;
        self.last_sequence = packet.sequence;
        self.last_type = packet.packet_type.0;
        self.last_class = self.last_class & !CLASS | packet.class as u8;
        self.set(bit::LAST_DEVICE_LEVEL, packet.level == Level::Device);
        self.set(bit::LAST_PROVED, packet.step.proved());
        let on_route = change != RouteChange::Kept;
        self.set(bit::LAST_ON_ROUTE, on_route);
        self.set(bit::LAST_RELAYED, matches!(packet.path, Path::Relayed(_)));
        if let Some(application) = packet.application
            && (packet.step.proved() || on_route)
        {
            self.set_application(application);
        }
        if packet.network != 0 && (packet.step.proved() || on_route) {
            self.network = packet.network;
        }
        routed
    }

    /// Sets what the device runs.
    pub(super) fn set_application(&mut self, application: Application) {
        self.application_id = application.id;
        self.version_major = application.version.major;
        self.version_minor = application.version.minor;
        self.version_revision = application.version.revision;
        self.version_build = application.version.build;
        self.set(bit::HAS_APPLICATION, true);
    }

    fn count_direct(&mut self, source: SocketAddr, packet: &Counting<'_>) -> Routed {
        let source = canonical(source);
        let current = self.direct_address();
        let change = route_change(current.map(|current| current == source), packet.newest, packet.may_move);
        if change != RouteChange::Kept {
            self.set_direct(source, packet, change);
        }
        self.set(bit::ALWAYS_RX, packet.flags.contains(Flags::ALWAYS_RX));
        self.set(bit::SINGLE_TX, packet.flags.contains(Flags::SINGLE_TX));
        self.remember_source(change == RouteChange::Kept, source);
        let units = u8::try_from(packet.receipt.len / 8).unwrap_or(u8::MAX);
        self.largest = self.largest.max(units);
        let is_proved = self.is_address_proved() && change != RouteChange::Kept;
        Routed {
            change,
            moved_from: current.filter(|_| change == RouteChange::Moved),
            proved_address: is_proved || packet.step.proved(),
            is_trusted: is_proved || packet.may_move,
        }
    }

    fn is_address_proved(&self) -> bool {
        self.last_class & bit::PROVED_ADDRESS != 0
    }

    /// A challenge to `address` was answered from there. True if the direct route leads there.
    pub(super) fn prove_address(&mut self, address: SocketAddr) -> bool {
        let is_present = self.direct_address() == Some(canonical(address));
        if is_present {
            self.last_class |= bit::PROVED_ADDRESS;
        }
        is_present
    }

    fn set_direct(&mut self, source: SocketAddr, packet: &Counting<'_>, change: RouteChange) {
        if change != RouteChange::Refreshed {
            match source.ip() {
                IpAddr::V4(v4) => self.direct_v4 = v4,
                IpAddr::V6(v6) => self.cold.get_or_insert_default().direct_v6 = Some(v6),
            }
            self.set(bit::DIRECT_V6, source.is_ipv6());
            self.set(bit::HAS_DIRECT, true);
            self.direct_port = source.port();
            self.set(bit::DIRECT_TRUST_DEVICE | bit::DIRECT_TRUST_VERIFIED, false);
            self.last_class &= !bit::PROVED_ADDRESS;
        }
        if packet.step.proved() && packet.may_move {
            self.last_class |= bit::PROVED_ADDRESS;
        }
        // A refresh never lowers trust; a new route starts without any.
        if packet.level == Level::Device {
            self.set(bit::DIRECT_TRUST_DEVICE, true);
        }
        self.direct_at = packet.receipt.at;
        self.via = packet.receipt.via;
        self.direct_sequence = packet.sequence;
        self.set(bit::LAST_ROUTE_RELAYED, false);
    }

    fn count_relayed(&mut self, through: Relaying, packet: &Counting<'_>) -> Routed {
        let through = Relaying { address: canonical(through.address), ..through };
        let cold = self.cold.get_or_insert_default();
        let same = cold.relayed.as_ref().map(|route| route.through.same_path(&through));
        let change = route_change(same, packet.newest, packet.may_move);
        let moved_from =
            cold.relayed.as_ref().filter(|_| change == RouteChange::Moved).map(|route| route.through.address);
        let proved = packet.step.proved();
        if change != RouteChange::Kept {
            let trust = Trust::from(packet.level);
            let kept = cold.relayed.as_ref().filter(|_| change == RouteChange::Refreshed).map(|route| route.trust);
            cold.relayed = Some(RelayedRoute {
                through,
                received_at: packet.receipt.at,
                sequence: packet.sequence,
                trust: kept.map_or(trust, |kept| kept.max(trust)),
            });
            let is_kept = cold.relayed_proved && change == RouteChange::Refreshed;
            cold.relayed_proved = proved && packet.may_move || is_kept;
        }
        let is_proved = cold.relayed_proved && change != RouteChange::Kept;
        if change != RouteChange::Kept {
            self.set(bit::LAST_ROUTE_RELAYED, true);
        }
        self.remember_source(true, through.address);
        let is_trusted = is_proved || packet.may_move;
        Routed { change, moved_from, proved_address: is_proved || proved, is_trusted }
    }

    fn remember_source(&mut self, elsewhere: bool, source: SocketAddr) {
        if elsewhere {
            self.cold.get_or_insert_default().last_source = Some(source);
        }
        self.set(bit::LAST_SOURCE_COLD, elsewhere);
    }

    fn direct_address(&self) -> Option<SocketAddr> {
        if !self.has(bit::HAS_DIRECT) {
            return None;
        }
        let ip = match self.cold.as_ref().and_then(|cold| cold.direct_v6).filter(|_| self.has(bit::DIRECT_V6)) {
            Some(v6) => IpAddr::V6(v6),
            None => IpAddr::V4(self.direct_v4),
        };
        Some(SocketAddr::new(ip, self.direct_port))
    }

    fn direct(&self) -> Option<DirectRoute> {
        let trust = if self.has(bit::DIRECT_TRUST_VERIFIED) {
            Trust::Verified
        } else if self.has(bit::DIRECT_TRUST_DEVICE) {
            Trust::Device
        } else {
            Trust::Network
        };
        let address = self.direct_address()?;
        Some(DirectRoute { address, received_at: self.direct_at, sequence: self.direct_sequence, trust })
    }

    fn last_packet(&self) -> Option<LastPacket> {
        let elsewhere = self.cold.as_ref().and_then(|cold| cold.last_source);
        let source = elsewhere.filter(|_| self.has(bit::LAST_SOURCE_COLD)).or_else(|| self.direct_address())?;
        (self.count > 0).then_some(LastPacket {
            packet_type: PacketType(self.last_type),
            level: if self.has(bit::LAST_DEVICE_LEVEL) { Level::Device } else { Level::Network },
            sequence: self.last_sequence,
            gps_time: self.last_gps,
            received_at: self.last_at,
            class: [TimeClass::Fresh, TimeClass::NoTime, TimeClass::Old, TimeClass::Future]
                [usize::from(self.last_class & CLASS)],
            proved: self.has(bit::LAST_PROVED),
            source,
            on_route: self.has(bit::LAST_ON_ROUTE),
            // The interface bits of Bluetooth mean something else (rule R8).
            always_rx: self.has(bit::ALWAYS_RX) && !self.has(bit::LAST_RELAYED),
            single_tx: self.has(bit::SINGLE_TX) && !self.has(bit::LAST_RELAYED),
        })
    }

    fn relayed(&self) -> Option<RelayedRoute> {
        self.cold.as_ref().and_then(|cold| cold.relayed)
    }

    fn last_route(&self) -> Option<Route> {
        match self.relayed().filter(|_| self.has(bit::LAST_ROUTE_RELAYED)) {
            Some(route) => Some(Route::Relayed(route)),
            None => self.direct().map(Route::Direct),
        }
    }

    /// Rule R5: the way downlinks take at `now`.
    pub(super) fn send_route(&self, now: Timestamp, base: u64) -> Option<SendRoute> {
        let route = match self.is_heard_directly(now) {
            true => self.direct().map(Route::Direct),
            false => self.last_route(),
        }?;
        let (via, proved) = match route {
            Route::Direct(_) => (self.via, self.is_address_proved()),
            Route::Relayed(_) => (Via::UNKNOWN, self.cold.as_ref().is_some_and(|cold| cold.relayed_proved)),
        };
        Some(SendRoute {
            route,
            via,
            network: self.network,
            largest: u16::from(self.largest) * 8,
            always_rx: self.has(bit::ALWAYS_RX),
            single_tx: self.has(bit::SINGLE_TX),
            heard_at: self.last_at,
            proved,
            cursor: self.cursor(base),
        })
    }

    /// Whether the route has moved since `cursor`, or may have: that of another epoch or from ahead, and one from before the
    /// last 65 535 packets unless the route moved after them, are not told.
    pub(super) fn moved_since(&self, cursor: Cursor, base: u64) -> bool {
        let present = self.cursor(base);
        let known = present.epoch == cursor.epoch && cursor.n <= present.n;
        !known || cursor.n < present.n.saturating_sub(self.since_move.into())
    }

    /// The position of the last counted packet, in the process whose epochs begin at `base`.
    pub(super) fn cursor(&self, base: u64) -> Cursor {
        Cursor { epoch: base | u64::from(self.generation), n: self.count }
    }

    /// Copies everything out.
    pub(super) fn snapshot(&self, device_id: DeviceId, base: u64) -> Snapshot {
        let direct = self.direct();
        let relayed = self.relayed();
        let last_route = self.last_route();
        Snapshot {
            device_id,
            cursor: self.cursor(base),
            registered: self.registered(),
            first_packet_at: (self.count > 0).then_some(self.first_at),
            last_packet: self.last_packet(),
            last_route,
            direct,
            relayed,
            application: self.has(bit::HAS_APPLICATION).then_some(Application {
                id: self.application_id,
                version: Version {
                    major: self.version_major,
                    minor: self.version_minor,
                    revision: self.version_revision,
                    build: self.version_build,
                },
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_stays_small() {
        assert_eq!(size_of::<Record>(), 104);
    }

    #[test]
    fn what_was_before_the_last_65_535_packets_may_have_moved() {
        let mut record = Record::new(0, true);
        let count = |record: &mut Record, port: u16| {
            record.count(&Counting {
                path: &Path::Direct(SocketAddr::from(([192, 0, 2, 1], port))),
                step: Step::SameSession,
                class: TimeClass::Fresh,
                level: Level::Network,
                packet_type: PacketType::TDF,
                flags: Flags(0),
                gps_time: 1,
                sequence: 1,
                newest: true,
                may_move: true,
                application: None,
                network: 0,
                receipt: Timestamp(1).into(),
            });
        };
        let moved_since = |record: &Record, n| record.moved_since(Cursor { epoch: 0, n }, 0);
        for port in [1, 1, 2] {
            count(&mut record, port);
        }
        for _ in 0..65_535 {
            count(&mut record, 2);
        }
        assert_eq!([2, 3].map(|n| moved_since(&record, n)), [true, false]);
        count(&mut record, 2);
        assert_eq!([3, 4].map(|n| moved_since(&record, n)), [true, false], "out of reach");
        count(&mut record, 1);
        assert_eq!([65_539, 65_540].map(|n| moved_since(&record, n)), [true, false]);
    }
}
