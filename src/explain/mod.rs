//! Why a device is reachable or not, in one sentence, with the evidence.
//!
//! A pure function over plain values that others collect: what the table, the rings of ingest, the outbox and the keys say of one
//! device. What nobody has proved is told as a claim, and never decides what the explanation comes to.

mod evidence;
mod explanation;
mod rhythm;
mod sentence;
mod stray;
#[cfg(test)]
mod stray_tests;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::health::Part;
use crate::id::{DeviceId, KeyId};
use crate::ingest::trace::{Decided, Decision, RefusedClaim};
use crate::table::RoutePolicy;
use crate::table::contest::{ContestView, Place};
use crate::table::route::{LastPacket, Route, Snapshot};
use crate::table::sending::{DIRECT_FOR, SendRoute};
use rhythm::Rhythm;

pub use explanation::{
    Cadence, Challenged, Claims, DecidedPacket, Explanation, KeyKnown, KeyNamed, PlaceHeld, Reachable, Reason,
    RouteHeld,
};

/// Authentic packets, and refused claims, that are worth being looked for: more than are told, since what was counted and what
/// was not are told apart.
pub const LOOKED_FOR: usize = 256;

/// All that is known of a device, at one moment.
#[derive(Clone, Debug)]
pub struct Known {
    /// The device.
    pub device_id: DeviceId,
    /// The gateway's clock.
    pub now: Timestamp,
    /// Since when it is registered.
    pub registered_since: Option<Timestamp>,
    /// What may move its route.
    pub policy: RoutePolicy,
    /// What the table has of it.
    pub snapshot: Option<Snapshot>,
    /// Where downlinks to it go now.
    pub send: Option<SendRoute>,
    /// The time after which packets must be to move its route after an unclean stop, in GPS seconds; 0: there is none.
    pub floor: u32,
    /// Whether it is in contest, and where it was asked.
    pub contest: ContestView,
    /// The last of its authentic packets, the latest first.
    pub packets: Vec<Decided>,
    /// The last of what was refused and claims to be from it, the latest first.
    pub claims: Vec<RefusedClaim>,
    /// Its keys.
    pub key: KeyState,
    /// Messages that wait for it.
    pub waiting: usize,
    /// What is wrong with the gateway.
    pub troubles: BTreeMap<Part, String>,
    /// The relays that whoever asks may be told of; `None`: all.
    pub told_relays: Option<HashSet<DeviceId>>,
}

/// What is known of the keys of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyState {
    /// A key of its own is known.
    pub is_known: bool,
    /// A key that it named and that is not known, and when.
    pub named: Option<(KeyId, Timestamp)>,
    /// When it was asked for its keys last.
    pub asked_at: Option<Timestamp>,
    /// It has answered that.
    pub is_answered: bool,
    /// A key that waits to be confirmed.
    pub held: Option<KeyId>,
}

/// Explains why a device is reachable or not.
pub fn explain(known: &Known) -> Explanation {
    let reason = reason(known);
    Explanation { sentence: sentence::sentence(known, reason), ..evidence::evidence(known, reason) }
}

impl Known {
    /// Whether anything at all is known of the device: it is registered, was heard, or something claims to be it.
    pub fn is_anything(&self) -> bool {
        self.registered_since.is_some()
            || self.last_packet().is_some()
            || !self.packets.is_empty()
            || !self.claims.is_empty()
    }

    /// The relays that it speaks of.
    pub fn relays(&self) -> HashSet<DeviceId> {
        let of_place = |place: &Place| match place {
            Place::Direct(_) => None,
            Place::Relayed { relay, .. } => Some(*relay),
        };
        let routes = self.snapshot.iter().filter_map(|snapshot| Some(snapshot.relayed?.through.relay));
        let asked = self.contest.asked.iter().map(|asked| &asked.place);
        let places = asked.chain(self.contest.contested.iter().flatten()).filter_map(of_place);
        let packets = self.packets.iter().filter_map(|packet| packet.relay);
        let claims = self.claims.iter().filter_map(|claim| claim.relay);
        routes.chain(places).chain(packets).chain(claims).collect()
    }

    /// Forgets what came before a moment: before the device was registered for the organisation that asks, it may have been
    /// another's. What the table has begins after it was deregistered last.
    pub fn forget_before(&mut self, since: Timestamp) {
        self.packets.retain(|packet| packet.at >= since);
        self.claims.retain(|claim| claim.at >= since);
        self.contest.asked.retain(|asked| asked.at >= since);
        let key = &mut self.key;
        key.named = key.named.filter(|(_, at)| *at >= since);
        if key.asked_at.is_some_and(|at| at < since) {
            (key.asked_at, key.is_answered) = (None, false);
        }
    }

    fn last_packet(&self) -> Option<&LastPacket> {
        self.snapshot.as_ref()?.last_packet.as_ref()
    }

    fn last_route(&self) -> Option<&Route> {
        self.snapshot.as_ref()?.last_route.as_ref()
    }

    fn rhythm(&self) -> Option<Rhythm> {
        Rhythm::of(self)
    }

    /// When it was heard last by one of its routes, or from elsewhere for certain.
    fn heard_at(&self) -> Option<Timestamp> {
        let elsewhere = self.strayed_for_certain().map(|packet| packet.received_at);
        self.last_route().map(Route::received_at).max(elsewhere)
    }

    /// The last authentic packet that was refused for whose it is, if none was counted since.
    fn refused(&self) -> Option<&Decided> {
        let is_refused = |packet: &&Decided| matches!(packet.decision, Decision::Foreign | Decision::NotRegistered);
        let last = self.packets.iter().find(is_refused)?;
        self.last_packet().is_none_or(|counted| counted.received_at < last.at).then_some(last)
    }

    /// Whether the device says that it listens all the time, and is spoken to directly.
    fn listens(&self) -> bool {
        self.send.is_some_and(|send| send.always_rx && matches!(send.route, Route::Direct(_)))
    }

    /// Whether it listens, and a NAT on the way can be taken for open.
    fn is_open(&self) -> bool {
        let is_recent = |route: Route| between(route.received_at(), self.now) <= DIRECT_FOR;
        self.listens() && self.send.is_some_and(|send| is_recent(send.route))
    }

    /// Whether a relay may be told to whoever asks.
    fn tells_of(&self, relay: DeviceId) -> bool {
        self.told_relays.as_ref().is_none_or(|told| told.contains(&relay))
    }
}

/// What it all comes to. Nothing that is unproved has a say, nor has what is authentic and another's of a device that speaks as
/// usual.
fn reason(known: &Known) -> Reason {
    let is_refused = known.refused().is_some();
    let Some(rhythm) = known.rhythm() else {
        return if is_refused { Reason::Refused } else { Reason::NeverHeard };
    };
    if known.contest.contested.is_some() {
        return Reason::Contested;
    }
    match rhythm.is_overdue() {
        Some(true) if is_refused => Reason::Refused,
        Some(true) => Reason::Overdue,
        _ if known.strayed_for_certain().is_some() => Reason::Elsewhere,
        None if known.strayed().is_some() => Reason::Elsewhere,
        None => Reason::LittleKnown,
        Some(false) if known.is_open() => Reason::Listening,
        Some(false) => Reason::Sleeping,
    }
}

/// The time from one moment to another of the same clock; none if that was set back in between.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_millis(to.0.saturating_sub(from.0))
}
