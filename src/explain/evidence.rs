//! The evidence of an explanation: what is known, as it is told.

use std::net::SocketAddr;
use std::time::Duration;

use super::Known;
use super::explanation::{
    Cadence, Challenged, Claims, DecidedPacket, Explanation, KeyKnown, KeyNamed, PlaceHeld, Reason, RouteHeld,
};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::ingest::trace::{Decided, Decision, RefusedClaim};
use crate::metrics::Disposition;
use crate::status::Time;
use crate::table::contest::Place;
use crate::table::route::{LastPacket, Path, Route};
use crate::table::rules::RouteChange;

/// Packets that are told, of those that were counted and of those that were not.
const TOLD: usize = 16;
/// Sources that are told of claims that are refused for the same reason.
const SOURCES: usize = 8;

/// All but the sentence.
pub(super) fn evidence(known: &Known, reason: Reason) -> Explanation {
    Explanation {
        device_id: known.device_id,
        at: Time(known.now),
        sentence: String::new(),
        reachable: reason.reachable(),
        reason,
        registered_since: known.registered_since.map(Time),
        cadence: cadence(known),
        routes: routes(known),
        packets: packets(known),
        claims: groups(&known.claims).iter().map(|group| group.told(known)).collect(),
        contested: known.contest.contested.iter().flatten().map(|place| place_held(known, place)).collect(),
        challenges: known
            .contest
            .asked
            .iter()
            .map(|asked| Challenged {
                place: place_held(known, &asked.place),
                time: Time(asked.at),
                answered: asked.answered,
            })
            .collect(),
        key: key(known),
        messages_waiting: known.waiting as u64,
        degraded: known.troubles.iter().map(|(part, why)| (part.name().to_owned(), why.clone())).collect(),
    }
}

fn cadence(known: &Known) -> Option<Cadence> {
    let (snapshot, rhythm) = (known.snapshot.as_ref()?, known.rhythm()?);
    Some(Cadence {
        first_packet_time: Time(snapshot.first_packet_at?),
        last_packet_time: Time(snapshot.last_packet.as_ref()?.received_at),
        packets: snapshot.cursor.n,
        age_ms: milliseconds(rhythm.age),
        average_ms: rhythm.average.map(milliseconds),
        usual_ms: rhythm.usual.map(milliseconds),
        longest_ms: rhythm.longest.map(milliseconds),
    })
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis() as u64
}

fn routes(known: &Known) -> Vec<RouteHeld> {
    let Some(snapshot) = &known.snapshot else { return Vec::new() };
    let slots = [snapshot.direct.map(Route::Direct), snapshot.relayed.map(Route::Relayed)];
    let told = |(slot, route): (usize, Route)| RouteHeld {
        proved: snapshot.proved[slot],
        unanswered: known.contest.unanswered[slot],
        ..held(known, &route)
    };
    let mut routes: Vec<_> =
        slots.into_iter().enumerate().filter_map(|(slot, route)| Some((slot, route?))).map(told).collect();
    if matches!(snapshot.last_route, Some(Route::Relayed(_))) {
        routes.reverse();
    }
    routes
}

/// All but what is kept for its slot.
fn held(known: &Known, route: &Route) -> RouteHeld {
    let (path, through) = match route {
        Route::Direct(direct) => (Path::Direct(direct.address), None),
        Route::Relayed(relayed) => (Path::Relayed(relayed.through), Some(relayed.through)),
    };
    let interface = through.map(|through| through.interface.name().to_owned());
    RouteHeld {
        place: PlaceHeld { interface, ..place_held(known, &path.place()) },
        time: Time(route.received_at()),
        trust: route.trust().name().to_owned(),
        proved: false,
        unanswered: 0,
        rssi: through.map(|through| through.rssi_dbm),
    }
}

fn place_held(known: &Known, place: &Place) -> PlaceHeld {
    match place {
        Place::Direct(address) => {
            PlaceHeld { address: Some(*address), relay: None, interface: None, bluetooth_address: None }
        }
        Place::Relayed { relay, bt } => PlaceHeld {
            address: None,
            relay: told_relay(known, Some(*relay)),
            interface: None,
            bluetooth_address: bt.as_ref().map(ToString::to_string),
        },
    }
}

/// A relay, if it may be told.
fn told_relay(known: &Known, relay: Option<DeviceId>) -> Option<DeviceId> {
    relay.filter(|relay| known.tells_of(*relay))
}

/// The address of a datagram, if that is the device's own or that of a relay that may be told.
fn told_source(known: &Known, source: SocketAddr, is_relayed: bool, relay: Option<DeviceId>) -> Option<SocketAddr> {
    let is_told = !is_relayed || known.told_relays.is_none() || told_relay(known, relay).is_some();
    is_told.then_some(source)
}

/// The latest that were counted and the latest that were not, in one order.
fn packets(known: &Known) -> Vec<DecidedPacket> {
    let is_counted = |packet: &&Decided| packet.decision.disposition() == Disposition::Accepted;
    let counted = known.packets.iter().filter(is_counted).take(TOLD);
    let others = known.packets.iter().filter(|packet| !is_counted(packet)).take(TOLD);
    let mut told: Vec<_> = counted.chain(others).map(|packet| decided_packet(known, packet)).collect();
    told.extend(known.last_packet().filter(|last| !is_remembered(known, last)).map(|last| last_packet(known, last)));
    // Stable: of the same millisecond the later one stays first.
    told.sort_by_key(|packet| std::cmp::Reverse(packet.received_at));
    told
}

/// Whether ingest has not forgotten a packet that was counted.
fn is_remembered(known: &Known, last: &LastPacket) -> bool {
    known.packets.iter().any(|packet| {
        packet.decision.disposition() == Disposition::Accepted
            && (packet.at, packet.sequence, packet.gps_time) == (last.received_at, last.sequence, last.gps_time)
    })
}

fn decided_packet(known: &Known, packet: &Decided) -> DecidedPacket {
    let (route, is_answer) = match packet.decision {
        Decision::Counted { change, is_answer, .. } => (Some(change.name().to_owned()), is_answer),
        Decision::Refused { is_answer, .. } => (None, is_answer),
        Decision::Reflected | Decision::Foreign | Decision::NotRegistered => (None, false),
    };
    let is_relayed = packet.relay.is_some();
    DecidedPacket {
        received_at: Time(packet.at),
        result: packet.decision.disposition().label().to_owned(),
        rule: packet.decision.rule().to_owned(),
        route,
        is_answer,
        source: told_source(known, packet.source, is_relayed, packet.relay),
        is_relayed,
        relay: told_relay(known, packet.relay),
        r#type: packet.packet_type.name().to_owned(),
        level: packet.level.name().to_owned(),
        time_class: packet.class.name().to_owned(),
        sequence: packet.sequence,
        gps_time: packet.gps_time,
    }
}

/// As far as a record remembers: not what it did to a route that it came by, and of its relay no more than that of its route.
fn last_packet(known: &Known, packet: &LastPacket) -> DecidedPacket {
    let relayed = known.snapshot.as_ref().and_then(|snapshot| snapshot.relayed);
    let relay = relayed.filter(|_| packet.relayed && packet.on_route).map(|route| route.through.relay);
    DecidedPacket {
        received_at: Time(packet.received_at),
        result: Disposition::Accepted.label().to_owned(),
        rule: packet.step.name().to_owned(),
        route: (!packet.on_route).then(|| RouteChange::Kept.name().to_owned()),
        is_answer: false,
        source: told_source(known, packet.source, packet.relayed, relay),
        is_relayed: packet.relayed,
        relay: told_relay(known, relay),
        r#type: packet.packet_type.name().to_owned(),
        level: packet.level.name().to_owned(),
        time_class: packet.class.name().to_owned(),
        sequence: packet.sequence,
        gps_time: packet.gps_time,
    }
}

/// Claims that were refused for the same reason and came the same way, the latest first; never empty.
pub(super) struct Group<'a>(pub(super) Vec<&'a RefusedClaim>);

/// The claims by reason, those that came last first.
pub(super) fn groups(claims: &[RefusedClaim]) -> Vec<Group<'_>> {
    let reason = |claim: &RefusedClaim| (claim.disposition, claim.level, claim.key_id, claim.relay);
    let mut groups: Vec<Group<'_>> = Vec::new();
    for claim in claims {
        match groups.iter_mut().find(|group| reason(group.0[0]) == reason(claim)) {
            Some(group) => group.0.push(claim),
            None => groups.push(Group(vec![claim])),
        }
    }
    groups
}

impl Group<'_> {
    /// The last one.
    pub(super) fn last(&self) -> &RefusedClaim {
        self.0[0]
    }

    /// When the first one came.
    pub(super) fn first_at(&self) -> Timestamp {
        self.0.iter().map(|claim| claim.at).min().unwrap_or_default()
    }

    /// Where they came from, the latest first, each once.
    pub(super) fn sources(&self) -> Vec<SocketAddr> {
        let mut sources = Vec::new();
        for claim in &self.0 {
            if !sources.contains(&claim.source) {
                sources.push(claim.source);
            }
        }
        sources
    }

    fn told(&self, known: &Known) -> Claims {
        let (last, mut sources) = (self.last(), self.sources());
        sources.retain(|source| told_source(known, *source, last.relay.is_some(), last.relay).is_some());
        let more_sources = sources.len().saturating_sub(SOURCES) as u64;
        sources.truncate(SOURCES);
        Claims {
            result: last.disposition.label().to_owned(),
            level: last.level.name().to_owned(),
            key_id: last.key_id.get(),
            count: self.0.len() as u64,
            first_time: Time(self.first_at()),
            last_time: Time(last.at),
            is_relayed: last.relay.is_some(),
            relay: told_relay(known, last.relay),
            sources,
            more_sources,
        }
    }
}

fn key(known: &Known) -> KeyKnown {
    let key = &known.key;
    KeyKnown {
        known: key.is_known,
        named: key.named.map(|(key_id, at)| KeyNamed { key_id: key_id.get(), time: Time(at) }),
        asked_time: key.asked_at.map(Time),
        answered: key.is_answered,
        held_key_id: key.held.map(crate::id::KeyId::get),
    }
}
