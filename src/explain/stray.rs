//! The last packet of a device where it came from elsewhere than its route leads: why the route stays, and what is done.

use super::Known;
use super::sentence::{age, clock, origin};
use super::words::route;
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::RoutePolicy;
use crate::table::contest::Place;
use crate::table::route::{LastPacket, Route, canonical};
use crate::table::rules::{Slot, Step, TimeClass};
use crate::wire::frame::Level;

impl Known {
    /// The last counted packet, if it came from elsewhere than the route of its slot, which was not heard since, and was no late
    /// one: that says nothing of where its device is now.
    pub(super) fn strayed(&self) -> Option<&LastPacket> {
        let snapshot = self.snapshot.as_ref()?;
        let packet = self.last_packet().filter(|packet| !packet.on_route && packet.step != Step::Late)?;
        let route = match packet.relayed {
            true => snapshot.relayed.map(Route::Relayed),
            false => snapshot.direct.map(Route::Direct),
        };
        route.is_none_or(|route| route.received_at() <= packet.received_at).then_some(packet)
    }

    /// The same, if it is no recording, and whom the policy trusts has sent it.
    pub(super) fn strayed_for_certain(&self) -> Option<&LastPacket> {
        let is_certain =
            |packet: &&LastPacket| packet.proved && !self.is_strict_with(packet) && !self.is_forgotten(packet);
        self.strayed().filter(is_certain)
    }

    /// Rule R1.
    fn is_strict_with(&self, packet: &LastPacket) -> bool {
        self.policy == RoutePolicy::Strict && self.key.is_known && packet.level == Level::Network
    }

    /// Rule R5 after an unclean stop: it may be what was forgotten.
    fn is_forgotten(&self, packet: &LastPacket) -> bool {
        packet.gps_time <= self.floor
    }
}

/// What comes from elsewhere of a device that is told with its route.
pub(super) fn beside(known: &Known) -> Option<String> {
    let packet = known.strayed()?;
    let (level, clock, at) = (packet.level.name(), clock(packet.into()), age(packet.received_at, known));
    let from = origin(known, packet.source, packet.relayed, relay_of(known, packet));
    Some(format!(
        "a packet of it came {from} {at} ago ({level} level, {clock}) and moved nothing: {}",
        why(known, packet)
    ))
}

/// What is told first of a device that is elsewhere.
pub(super) fn elsewhere(known: &Known, packet: &LastPacket, usual: &str) -> String {
    let (level, clock, at) = (packet.level.name(), clock(packet.into()), age(packet.received_at, known));
    let from = origin(known, packet.source, packet.relayed, relay_of(known, packet));
    let leads = known.last_route().map(|last| {
        format!(", while its route leads to {}, heard {} ago", route(known, last), age(last.received_at(), known))
    });
    let leads = leads.unwrap_or_default();
    format!("Heard {at} ago {from} ({level} level, {clock}){usual}{leads}: {}", why(known, packet))
}

/// Why the route stays, and what came of asking.
fn why(known: &Known, packet: &LastPacket) -> String {
    let slot = if packet.relayed { Slot::Relayed } else { Slot::Direct };
    let unanswered = match known.contest.unanswered[slot as usize] {
        0 => String::new(),
        number => format!(" ({number} unanswered)"),
    };
    format!("{}{}{unanswered}", why_kept(known, packet), asked(known, packet))
}

fn asked(known: &Known, packet: &LastPacket) -> String {
    let relay = relay_of(known, packet);
    let is_there = |place: &Place| match place {
        Place::Direct(address) => !packet.relayed && *address == canonical(packet.source),
        Place::Relayed { relay: through, .. } => relay == Some(*through),
    };
    match known.contest.asked.iter().find(|asked| is_there(&asked.place)) {
        _ if packet.single_tx => ", and it cannot be challenged, since it says that nothing follows".to_owned(),
        Some(asked) if asked.answered => ", and it has answered a challenge".to_owned(),
        Some(asked) => format!(", and it was challenged {} ago without an answer", age(asked.at, known)),
        None => ", and it was not challenged of late".to_owned(),
    }
}

fn why_kept(known: &Known, packet: &LastPacket) -> &'static str {
    match (packet.class, packet.step) {
        _ if packet.proved && known.is_strict_with(packet) => {
            "the policy is strict, so that a packet at network level moves nothing (R1)"
        }
        _ if packet.proved && known.is_forgotten(packet) => {
            "its packet may be one that the gateway has forgotten in a crash (R5)"
        }
        (_, Step::SameSession | Step::NewSession) => "its packet is no newer than what was counted before (R5)",
        (TimeClass::NoTime, _) => "without a clock its packet may be a replay (R4.8)",
        (TimeClass::Old | TimeClass::Future, _) => "with a wrong clock its packet may be a replay (R4.8)",
        (TimeClass::Fresh, _) => "nothing proves that its packet is no replay (R4)",
    }
}

/// The relay that passed the last packet on, as far as ingest remembers it.
pub(super) fn relay_of(known: &Known, packet: &LastPacket) -> Option<DeviceId> {
    let is_it = |at: Timestamp, sequence| (at, sequence) == (packet.received_at, packet.sequence);
    known.packets.iter().find(|decided| is_it(decided.at, decided.sequence))?.relay
}
