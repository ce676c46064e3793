//! The record of one device: what is held for each of millions, so laid out small.
//!
//! Fields that few devices need (relayed slot, IPv6 addresses, packets from elsewhere) live in a box beside it. What
//! it says is read in [`super::reading`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::clock::Timestamp;
use crate::wire::frame::{Flags, Level, PacketType};

use super::route::{Application, Path, RelayedRoute, Relaying, Trust, canonical};
use super::rules::{Arrival, RouteChange, Session, Slot, Step, TimeClass};
use super::sending::{DIRECT_FOR, Receipt, Via};

/// The state of one device. 104 bytes, 112 with its id; what that comes to with the index is in docs/performance.md.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) session: Session,
    /// Packets counted in this record's generation.
    pub(super) count: u64,
    pub(super) last_at: Timestamp,
    pub(super) first_at: Timestamp,
    pub(super) direct_at: Timestamp,
    pub(super) cold: Option<Box<Cold>>,
    /// Greatest fresh GPS time over both slots, packets decrypted by a relay excepted; 0 before any.
    pub(super) greatest: u32,
    pub(super) generation: u32,
    pub(super) last_gps: u32,
    pub(super) direct_v4: Ipv4Addr,
    pub(super) application_id: u32,
    pub(super) version_build: u32,
    pub(super) version_revision: u16,
    pub(super) version_major: u8,
    pub(super) version_minor: u8,
    pub(super) last_sequence: u16,
    pub(super) direct_sequence: u16,
    pub(super) direct_port: u16,
    pub(super) down_sequence: u16,
    /// Packets counted since the route moved, with the one that moved it; 0 if an answer moved it that did not count. Stays at
    /// its end.
    pub(super) since_move: u16,
    /// As in [`NetworkInfo`](crate::auth::keys::NetworkInfo); 0: not known.
    pub(super) network: u16,
    pub(super) bits: u16,
    pub(super) last_type: u8,
    /// Of the last packet, the class in the lowest two bits and the step in the highest three; and between them
    /// [`bit::PROVED_ADDRESS`], [`bit::CONTESTED`] and [`bit::DIRTY`].
    pub(super) last_class: u8,
    /// Where the last packet of the direct route came in.
    pub(super) via: Via,
    /// The longest datagram of its own, in units of 8 bytes, rounded down.
    pub(super) largest: u8,
}

#[derive(Debug, Default)]
pub(super) struct Cold {
    pub(super) direct_v6: Option<Ipv6Addr>,
    /// Address of the last counted packet, where it did not come over the direct route.
    pub(super) last_source: Option<SocketAddr>,
    pub(super) relayed: Option<RelayedRoute>,
    /// A proved packet that may move a route came by the present relayed route.
    pub(super) relayed_proved: bool,
    /// A proved packet that may not move a route came by the present route of each slot: direct, relayed.
    pub(super) borne_out: [bool; 2],
    pub(super) relayed_session: Session,
    pub(super) relayed_greatest: u32,
}

/// One bit each in [`Record::bits`].
pub(super) mod bit {
    pub(in crate::table) const REGISTERED: u16 = 1 << 0;
    pub(in crate::table) const WATCH_SIDE: u16 = 1 << 1;
    pub(in crate::table) const HAS_APPLICATION: u16 = 1 << 2;
    pub(in crate::table) const HAS_DIRECT: u16 = 1 << 3;
    pub(in crate::table) const DIRECT_V6: u16 = 1 << 4;
    pub(in crate::table) const LAST_ROUTE_RELAYED: u16 = 1 << 5;
    pub(in crate::table) const ALWAYS_RX: u16 = 1 << 6;
    pub(in crate::table) const SINGLE_TX: u16 = 1 << 7;
    pub(in crate::table) const LAST_DEVICE_LEVEL: u16 = 1 << 8;
    /// The device was told the time where it is since it booted.
    pub(in crate::table) const SPOKEN_TO: u16 = 1 << 9;
    pub(in crate::table) const LAST_ON_ROUTE: u16 = 1 << 10;
    /// Whoever keeps records was told of this one.
    pub(in crate::table) const TOLD: u16 = 1 << 11;
    pub(in crate::table) const DIRECT_TRUST_DEVICE: u16 = 1 << 12;
    pub(in crate::table) const DIRECT_TRUST_VERIFIED: u16 = 1 << 13;
    pub(in crate::table) const LAST_RELAYED: u16 = 1 << 14;
    /// There may be something for the device in the outbox.
    pub(in crate::table) const EXPECTS: u16 = 1 << 15;
    /// Of [`super::Record::last_class`]: a proved packet that may move a route, or the answer to a challenge, came from the
    /// present direct address.
    pub(in crate::table) const PROVED_ADDRESS: u8 = 1 << 2;
    /// Of [`super::Record::last_class`]: two places may be in contest, which the contests know.
    pub(in crate::table) const CONTESTED: u8 = 1 << 3;
    /// Of [`super::Record::last_class`]: it has changed since whoever keeps records was told.
    pub(in crate::table) const DIRTY: u8 = 1 << 4;
}

/// The class in [`Record::last_class`].
pub(super) const CLASS: u8 = 0b11;
/// Where the step begins in [`Record::last_class`].
pub(super) const STEP: u32 = 5;

const DIRECT_FOR_MS: u64 = DIRECT_FOR.as_secs() * 1000;

/// How far apart generations begin their downlink sequences. Losses and turns of the clock move them by multiples of 1 024, which
/// no fewer than 16 generations come to.
const SPREAD_BY: u16 = 1024 + 64;

/// A counted packet, as the record takes it in.
pub(super) struct Counting<'a> {
    pub(super) path: &'a Path,
    pub(super) step: Step,
    /// It cannot be a replay.
    pub(super) proves: bool,
    pub(super) class: TimeClass,
    pub(super) level: Level,
    pub(super) packet_type: PacketType,
    pub(super) flags: Flags,
    pub(super) gps_time: u32,
    pub(super) sequence: u16,
    /// What it does to the route of its slot.
    pub(super) change: RouteChange,
    /// Its sender has just booted.
    pub(super) boot: bool,
    /// It answers a challenge.
    pub(super) answers: bool,
    /// Whether the route policy lets this packet move a route.
    pub(super) may_move: bool,
    /// What the packet announces.
    pub(super) application: Option<Application>,
    /// The network it comes under; 0: none that is known.
    pub(super) network: u16,
    pub(super) receipt: Receipt,
}

impl Counting<'_> {
    /// Whether it proves that the device is where it came from.
    const fn proves_place(&self) -> bool {
        self.answers || self.proves && self.may_move
    }

    /// What it makes of the trust in the way it came.
    fn trust(&self) -> Trust {
        if self.answers { Trust::Verified } else { self.level.into() }
    }
}

/// What a packet did to the route of its slot.
pub(super) struct Routed {
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
            since_move: 1,
            network: 0,
            // Something may have been put into the outbox before.
            bits: bit::EXPECTS | if registered { bit::REGISTERED } else { 0 },
            last_type: 0,
            last_class: 0,
            via: Via::UNKNOWN,
            largest: 0,
        }
    }

    pub(super) fn has(&self, bit: u16) -> bool {
        self.bits & bit != 0
    }

    pub(super) fn set(&mut self, bit: u16, on: bool) {
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

    /// Takes a packet into the session of its slot, as `step` decided, and measures others against its time from now on, if that
    /// is to be. It counts for the direct slot too unless it is a relay's word, which must never make a direct packet look old.
    pub(super) fn advance(&mut self, step: Step, arrival: &Arrival) {
        let gps_time = arrival.measure(step).unwrap_or(0);
        match arrival.slot {
            Slot::Direct => self.session.advance(step, arrival),
            Slot::Relayed => {
                let cold = self.cold.get_or_insert_default();
                cold.relayed_session.advance(step, arrival);
                cold.relayed_greatest = cold.relayed_greatest.max(gps_time);
            }
        }
        let is_relays_word = arrival.entropy.is_none();
        if !is_relays_word {
            self.greatest = self.greatest.max(gps_time);
        }
    }

    /// Whether two places may be in contest.
    pub(super) fn is_contested(&self) -> bool {
        self.is_marked(bit::CONTESTED)
    }

    pub(super) fn set_contested(&mut self, on: bool) {
        self.mark(bit::CONTESTED, on);
    }

    /// Whether something was sent since the device booted that tells it the time: an acknowledgement of a packet from where its
    /// route leads, or a challenge there. What goes elsewhere may go to somebody else, who would keep the time from it.
    pub(super) fn is_spoken_to(&self) -> bool {
        self.has(bit::SPOKEN_TO)
    }

    /// Such a one is sent.
    pub(super) fn speak_to(&mut self) {
        self.set(bit::SPOKEN_TO, true);
        self.mark(bit::DIRTY, true);
    }

    /// Whether a bit of [`Self::last_class`] is set.
    pub(super) fn is_marked(&self, bit: u8) -> bool {
        self.last_class & bit != 0
    }

    /// Sets a bit of [`Self::last_class`].
    pub(super) fn mark(&mut self, bit: u8, on: bool) {
        self.last_class = if on { self.last_class | bit } else { self.last_class & !bit };
    }

    /// The next downlink sequence.
    pub(super) fn next_down_sequence(&mut self) -> u16 {
        self.mark(bit::DIRTY, true);
        self.down_sequence = self.down_sequence.wrapping_add(1);
        self.down_sequence
    }

    /// Half of all sequences beyond the first of the device, so that it takes the two long to meet. A record that follows one
    /// that was forgotten begins elsewhere: the former one's may have been used in the same second.
    fn begin_down_sequence(&mut self, first: u16) {
        let spread = (self.generation as u16).wrapping_mul(SPREAD_BY);
        self.down_sequence = first.wrapping_add(1 << 15).wrapping_add(spread).wrapping_sub(1);
    }

    /// Whether a packet of the device itself set or refreshed its direct route at most 300 s before `now`; or, where the clock
    /// was set back since, at most 300 s after it.
    pub(super) fn is_heard_directly(&self, now: Timestamp) -> bool {
        self.has(bit::HAS_DIRECT) && now.0.abs_diff(self.direct_at.0) <= DIRECT_FOR_MS
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
        if self.count == 0 {
            self.first_at = packet.receipt.at;
            self.begin_down_sequence(packet.sequence);
        }
        let routed = self.route(packet);
        self.since_move = self.since_move.saturating_add(1);
        self.count += 1;
        if packet.boot || packet.class == TimeClass::NoTime && self.last_class & CLASS != TimeClass::NoTime as u8 {
            self.set(bit::SPOKEN_TO, false);
        }
        self.remember(packet);
        let on_route = packet.change != RouteChange::Kept;
        if packet.step.proved() || on_route {
            self.take_state(packet);
        }
        routed
    }

    /// Takes in an answer that does not count: where the route of its slot leads.
    pub(super) fn answer(&mut self, packet: &Counting<'_>) -> Routed {
        let is_relayed = matches!(packet.path, Path::Relayed(_));
        // The last packet that counted came from where the route led before.
        if packet.change == RouteChange::Moved
            && self.has(bit::LAST_ON_ROUTE)
            && self.has(bit::LAST_RELAYED) == is_relayed
        {
            if !is_relayed {
                self.cold.get_or_insert_default().last_source = self.direct_address();
            }
            self.set(bit::LAST_ON_ROUTE, false);
        }
        self.route(packet)
    }

    /// The route of the packet's slot.
    fn route(&mut self, packet: &Counting<'_>) -> Routed {
        self.mark(bit::DIRTY, true);
        let was_relayed = self.has(bit::LAST_ROUTE_RELAYED);
        let routed = match packet.path {
            Path::Direct(source) => self.route_directly(*source, packet),
            Path::Relayed(through) => self.route_through(*through, packet),
        };
        let is_switched = self.has(bit::LAST_ROUTE_RELAYED) != was_relayed;
        if is_switched || matches!(packet.change, RouteChange::First | RouteChange::Moved) {
            self.since_move = 0;
        }
        routed
    }

    /// What is told of the last packet.
    fn remember(&mut self, packet: &Counting<'_>) {
        self.last_at = packet.receipt.at;
        self.last_gps = packet.gps_time;
        self.last_sequence = packet.sequence;
        self.last_type = packet.packet_type.0;
        let marks = bit::PROVED_ADDRESS | bit::CONTESTED | bit::DIRTY;
        self.last_class = self.last_class & marks | packet.class as u8 | packet.step.code() << STEP;
        let (is_relayed, is_kept) = (matches!(packet.path, Path::Relayed(_)), packet.change == RouteChange::Kept);
        self.set(bit::LAST_DEVICE_LEVEL, packet.level == Level::Device);
        self.set(bit::LAST_ON_ROUTE, !is_kept);
        self.set(bit::LAST_RELAYED, is_relayed);
        if is_relayed || is_kept {
            self.cold.get_or_insert_default().last_source = Some(canonical(packet.path.source()));
        }
        if !is_relayed {
            self.set(bit::ALWAYS_RX, packet.flags.contains(Flags::ALWAYS_RX));
            self.set(bit::SINGLE_TX, packet.flags.contains(Flags::SINGLE_TX));
            let units = u8::try_from(packet.receipt.len / 8).unwrap_or(u8::MAX);
            self.largest = self.largest.max(units);
        }
    }

    fn take_state(&mut self, packet: &Counting<'_>) {
        if let Some(application) = packet.application {
            self.set_application(application);
        }
        if packet.network != 0 {
            self.network = packet.network;
        }
    }

    /// Sets what the device runs.
    pub(super) fn set_application(&mut self, application: Application) {
        self.application_id = application.id;
        self.version_major = application.version.major;
        self.version_minor = application.version.minor;
        self.version_revision = application.version.revision;
        self.version_build = application.version.build;
        self.set(bit::HAS_APPLICATION, true);
        self.mark(bit::DIRTY, true);
    }

    fn route_directly(&mut self, source: SocketAddr, packet: &Counting<'_>) -> Routed {
        let (current, change) = (self.direct_address(), packet.change);
        if change != RouteChange::Kept {
            self.set_direct(canonical(source), packet);
        }
        let is_proved = self.is_address_proved() && change != RouteChange::Kept;
        Routed {
            moved_from: current.filter(|_| change == RouteChange::Moved),
            proved_address: is_proved || packet.proves,
            is_trusted: is_proved || packet.may_move,
        }
    }

    pub(super) fn is_address_proved(&self) -> bool {
        self.is_marked(bit::PROVED_ADDRESS)
    }

    pub(super) fn set_direct_address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(v4) => self.direct_v4 = v4,
            IpAddr::V6(v6) => self.cold.get_or_insert_default().direct_v6 = Some(v6),
        }
        self.set(bit::DIRECT_V6, address.is_ipv6());
        self.set(bit::HAS_DIRECT, true);
        self.direct_port = address.port();
    }

    fn set_direct(&mut self, source: SocketAddr, packet: &Counting<'_>) {
        if packet.change != RouteChange::Refreshed {
            self.set_direct_address(source);
            self.set(bit::DIRECT_TRUST_DEVICE | bit::DIRECT_TRUST_VERIFIED, false);
            self.mark(bit::PROVED_ADDRESS, false);
            if let Some(cold) = &mut self.cold {
                cold.borne_out[0] = false;
            }
        }
        if packet.proves_place() {
            self.mark(bit::PROVED_ADDRESS, true);
        } else if packet.proves {
            self.bear_out();
        }
        // A refresh never lowers trust; a new route starts without any.
        match packet.trust() {
            Trust::Network => {}
            Trust::Device => self.set(bit::DIRECT_TRUST_DEVICE, true),
            Trust::Verified => self.set(bit::DIRECT_TRUST_VERIFIED, true),
        }
        self.direct_at = packet.receipt.at;
        self.via = packet.receipt.via;
        self.direct_sequence = packet.sequence;
        self.set(bit::LAST_ROUTE_RELAYED, false);
    }

    /// A proved packet came from the direct address that may not move the route.
    // By itself: few packets are such, and the others need no room for making the box.
    #[cold]
    pub(super) fn bear_out(&mut self) {
        self.cold.get_or_insert_default().borne_out[0] = true;
    }

    fn route_through(&mut self, through: Relaying, packet: &Counting<'_>) -> Routed {
        let through = Relaying { address: canonical(through.address), ..through };
        let change = packet.change;
        let cold = self.cold.get_or_insert_default();
        let former = cold.relayed;
        if change != RouteChange::Kept {
            let refreshed = former.filter(|_| change == RouteChange::Refreshed);
            cold.relayed = Some(RelayedRoute {
                through,
                received_at: packet.receipt.at,
                sequence: packet.sequence,
                trust: refreshed.map_or(packet.trust(), |route| route.trust.max(packet.trust())),
            });
            let is_refreshed = refreshed.is_some();
            cold.relayed_proved = packet.proves_place() || cold.relayed_proved && is_refreshed;
            cold.borne_out[1] = packet.proves && !packet.proves_place() || cold.borne_out[1] && is_refreshed;
        }
        let is_proved = cold.relayed_proved && change != RouteChange::Kept;
        if change != RouteChange::Kept {
            self.set(bit::LAST_ROUTE_RELAYED, true);
        }
        Routed {
            moved_from: former.filter(|_| change == RouteChange::Moved).map(|route| route.through.address),
            proved_address: is_proved || packet.proves,
            is_trusted: is_proved || packet.may_move,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Cursor;

    #[test]
    fn a_record_stays_small() {
        assert_eq!(size_of::<Record>(), 104);
    }

    #[test]
    fn what_was_before_the_last_65_534_packets_may_have_moved() {
        let mut record = Record::new(0, true);
        let count = |record: &mut Record, port: u16| {
            record.count(&Counting {
                path: &Path::Direct(SocketAddr::from(([192, 0, 2, 1], port))),
                step: Step::SameSession,
                proves: true,
                class: TimeClass::Fresh,
                level: Level::Network,
                packet_type: PacketType::TDF,
                flags: Flags(0),
                gps_time: 1,
                sequence: 1,
                change: match record.direct_address() {
                    None => RouteChange::First,
                    Some(present) if present.port() == port => RouteChange::Refreshed,
                    Some(_) => RouteChange::Moved,
                },
                boot: false,
                answers: false,
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
        for _ in 0..65_534 {
            count(&mut record, 2);
        }
        assert_eq!([2, 3].map(|n| moved_since(&record, n)), [true, false]);
        count(&mut record, 2);
        assert_eq!([3, 4].map(|n| moved_since(&record, n)), [true, false], "out of reach");
        count(&mut record, 1);
        assert_eq!([65_538, 65_539].map(|n| moved_since(&record, n)), [true, false]);
    }
}
