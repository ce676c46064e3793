//! The sentence of an explanation, for somebody who was woken by an alarm: what was heard, what that means, and what else there is
//! to know, each after a semicolon.

use std::net::SocketAddr;
use std::time::Duration;

use super::evidence::{Group, groups};
use super::explanation::Reason;
use super::rhythm::Rhythm;
use super::words::{count, moment, often, place, route, sources, span};
use super::{Decided, Decision, Known, LOOKED_FOR, between, stray};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::metrics::Disposition;
use crate::table::route::{LastPacket, Route, Trust};
use crate::table::rules::{RouteChange, TimeClass};
use crate::table::sending::Release;
use crate::wire::frame::Level;

/// Claims that are older than this are no news of a device that was heard since.
const NEWS: Duration = Duration::from_secs(3600);

/// All of it in one sentence.
pub(super) fn sentence(known: &Known, reason: Reason) -> String {
    let told = match known.rhythm() {
        Some(rhythm) => heard(known, reason, &rhythm),
        None => never_heard(known, reason),
    };
    let strayed = stray::beside(known).filter(|_| !matches!(reason, Reason::Elsewhere | Reason::Contested));
    let more = [strayed, other_slot(known), refused(known), unproved(known, reason), too_old(known, reason)];
    let rest = [claims(known), key(known), waiting(known), degraded(known)];
    let clauses = std::iter::once(told).chain(more.into_iter().chain(rest).flatten());
    clauses.collect::<Vec<_>>().join("; ") + "."
}

/// Nothing was ever counted, for all that is remembered: a record that was lost, or forgotten with a former registration, is not.
fn never_heard(known: &Known, reason: Reason) -> String {
    let since = known.registered_since.map(|at| format!(", though registered for {}", age(at, known)));
    let nobody = known.claims.is_empty() && reason == Reason::NeverHeard;
    let nobody = if nobody { "; nothing claims to be it of late" } else { "" };
    let never = if reason == Reason::Refused { "Nothing of it was counted" } else { "Never heard" };
    format!("{never}, as far as is remembered{}{nobody}", since.unwrap_or_default())
}

fn heard(known: &Known, reason: Reason, rhythm: &Rhythm) -> String {
    let (ago, from, how) = (span(rhythm.age), came_from(known), described(known));
    let usual = rhythm.usual.map(often);
    let comma = |text: &Option<String>| text.as_ref().map(|text| format!(", {text}")).unwrap_or_default();
    match (reason, known.strayed()) {
        (Reason::Elsewhere, Some(packet)) => stray::elsewhere(known, packet, &comma(&usual)),
        (Reason::Overdue, _) => {
            let usual = usual.map(|usual| format!(", though it spoke {usual}")).unwrap_or_default();
            format!("Not heard for {ago}{usual}, last {from}: probably off or out of reach")
        }
        (Reason::Contested, _) => contested(known),
        (Reason::LittleKnown, _) => {
            format!("Heard {ago} ago {from} ({how}), {}: too little to say whether it can be reached", times(known))
        }
        (Reason::Listening, _) => {
            format!("Heard {ago} ago {from} ({how}){}: reachable, it listens all the time", comma(&usual))
        }
        (Reason::Sleeping, _) => {
            let (usual, wakes) = (comma(&usual), wakes(rhythm));
            let closed = match known.listens() {
                true => ", and listens all the time, but a NAT on the way may have closed meanwhile",
                false => "",
            };
            format!("Heard {ago} ago {from} ({how}){usual}: reachable, {wakes}{closed}")
        }
        (Reason::Refused | Reason::NeverHeard | Reason::Elsewhere, _) => {
            format!("Not heard for {ago}, last {from} ({how})")
        }
    }
}

/// Where the route leads that was set or refreshed last.
fn came_from(known: &Known) -> String {
    match known.last_route() {
        Some(relayed @ Route::Relayed(_)) => {
            let is_only = known.snapshot.as_ref().is_some_and(|snapshot| snapshot.direct.is_none());
            format!("{}through {}", if is_only { "only " } else { "" }, route(known, relayed))
        }
        Some(direct) => format!("from {}", route(known, direct)),
        None => "from nowhere".to_owned(),
    }
}

/// The packet that set or refreshed that route, as far as it is remembered.
fn described(known: &Known) -> String {
    let Some(last) = known.last_route() else { return String::new() };
    let verified = if last.trust() == Trust::Verified { ", verified" } else { "" };
    match known.spoke_by(last) {
        Some(spoke) => format!("{} level, {}{verified}", spoke.level.name(), clock(spoke)),
        None => format!("trust {}", last.trust().name()),
    }
}

impl Known {
    fn spoke_by(&self, route: &Route) -> Option<Spoke> {
        let (at, is_relayed) = (route.received_at(), matches!(route, Route::Relayed(_)));
        let last = self.last_packet().filter(|packet| packet.on_route && packet.relayed == is_relayed);
        let is_it = |packet: &&Decided| {
            let is_on_route =
                matches!(packet.decision, Decision::Counted { change, .. } if change != RouteChange::Kept);
            is_on_route && packet.at == at && packet.relay.is_some() == is_relayed
        };
        last.map(Spoke::from).or_else(|| self.packets.iter().find(is_it).map(Spoke::from))
    }
}

/// What a packet says of its sender.
#[derive(Clone, Copy)]
pub(super) struct Spoke {
    level: Level,
    class: TimeClass,
    gps_time: u32,
    at: Timestamp,
}

impl From<&LastPacket> for Spoke {
    fn from(packet: &LastPacket) -> Self {
        let LastPacket { level, class, gps_time, received_at: at, .. } = *packet;
        Self { level, class, gps_time, at }
    }
}

impl From<&Decided> for Spoke {
    fn from(packet: &Decided) -> Self {
        let Decided { level, class, gps_time, at, .. } = *packet;
        Self { level, class, gps_time, at }
    }
}

pub(super) fn clock(spoke: Spoke) -> String {
    let off = || span(Duration::from_secs(spoke.at.gps().abs_diff(spoke.gps_time).into()));
    match spoke.class {
        TimeClass::Fresh => "fresh".to_owned(),
        TimeClass::NoTime => "without a clock yet".to_owned(),
        TimeClass::Old => format!("its clock {} behind", off()),
        TimeClass::Future => format!("its clock {} ahead", off()),
    }
}

fn times(known: &Known) -> String {
    match known.snapshot.as_ref().map_or(0, |snapshot| snapshot.cursor.n) {
        0 | 1 => "and only once".to_owned(),
        2 => "and only twice".to_owned(),
        _ => "and only in its first 30 s".to_owned(),
    }
}

/// When a device that sleeps can be expected.
fn wakes(rhythm: &Rhythm) -> String {
    match rhythm.usual {
        None => "once it speaks again: it is known for too short to say when".to_owned(),
        Some(usual) if usual < Duration::from_secs(1) => "it speaks all the time".to_owned(),
        Some(usual) => match usual.checked_sub(rhythm.age) {
            Some(left) => format!("wakes again in about {}", span(left)),
            None => "due to wake again".to_owned(),
        },
    }
}

fn contested(known: &Known) -> String {
    let ago = known.last_packet().map(|packet| age(packet.received_at, known)).unwrap_or_default();
    let two = known.contest.contested.iter().flatten().map(|one| place(known, one)).collect::<Vec<_>>().join(" and ");
    format!(
        "Heard {ago} ago, but its packets come from two places within seconds, {two}: both are challenged, and the first \
         answer decides"
    )
}

/// Rule R8: a relay hears it, and what is sent to it still goes to its own address.
fn other_slot(known: &Known) -> Option<String> {
    let (Route::Direct(direct), Some(Route::Relayed(_))) = (known.send?.route, known.last_route()) else { return None };
    let at = age(direct.received_at, known);
    Some(format!("what is sent goes to its own address, {}, where it was heard {at} ago", direct.address))
}

/// What was heard is authentic and refused for whose it is.
fn refused(known: &Known) -> Option<String> {
    let Decided { source, relay, at, decision, .. } = known.refused()?;
    let why = match decision {
        Decision::Foreign => "it belongs to another organisation than its network or its relay (R8)",
        _ => "it is not registered, and this gateway serves registered devices only (R9)",
    };
    let from = origin(known, *source, relay.is_some(), *relay);
    Some(format!("an authentic packet of it came {from} {} ago and was refused: {why}", age(*at, known)))
}

/// Rule R7: what waits leaves later than usual, since the last packet could not release it.
fn unproved(known: &Known, reason: Reason) -> Option<String> {
    let packet = known.last_packet().filter(|packet| packet.on_route)?;
    let is_it = |decided: &&Decided| (decided.at, decided.sequence) == (packet.received_at, packet.sequence);
    let is_fine = matches!(reason, Reason::Listening | Reason::Sleeping);
    let decided = known.packets.iter().find(is_it).filter(|_| is_fine)?;
    matches!(decided.decision, Decision::Counted { release: Release::Challenge, .. }).then(|| {
        let why = match packet.class {
            TimeClass::Fresh => "its packet proves too little (R7)",
            _ => "its time proves nothing (R7)",
        };
        format!("what waits for it leaves once it has answered a challenge, since {why}")
    })
}

/// It may still be there, with a clock that was set back.
fn too_old(known: &Known, reason: Reason) -> Option<String> {
    let last = known.packets.first().filter(|_| reason == Reason::Overdue)?;
    let is_later = known.last_packet().is_some_and(|counted| counted.received_at < last.at);
    let from = || origin(known, last.source, last.relay.is_some(), last.relay);
    (is_later && last.decision.disposition() == Disposition::TooOld).then(|| {
        format!(
            "authentic packets of it {} look older than what was counted (R4.7): its clock went back, or somebody replays them",
            from()
        )
    })
}

fn claims(known: &Known) -> Option<String> {
    let heard_at = known.last_packet().map(|packet| packet.received_at);
    let is_news = |group: &Group<'_>| {
        let at = group.last().at;
        heard_at.is_none_or(|heard| at > heard) || between(at, known.now) <= NEWS
    };
    let group = groups(&known.claims).into_iter().find(is_news)?;
    let (last, number) = (group.last(), group.0.len());
    let at_least = if known.claims.len() >= LOOKED_FOR { "at least " } else { "" };
    let when = moment(group.first_at(), known.now);
    let (packets, when) = match number {
        1 => ("1 packet that claims to be it".to_owned(), format!("at {when}")),
        _ => (format!("{number} packets that claim to be it"), format!("since {when}")),
    };
    let why = match last.disposition {
        Disposition::BadTag => "with a bad tag".to_owned(),
        Disposition::UnknownNetwork => format!("under network {}, whose key is not known", last.key_id),
        Disposition::UnknownDevice => format!("under device key {}, and no key is known for it", last.key_id),
        Disposition::UnknownKey => format!("under device key {}, which is not known", last.key_id),
        Disposition::DayLimited => {
            "for a day that is neither near today nor that of a device without a clock".to_owned()
        }
        other => format!("and ended in {}", other.label()),
    };
    let from = match last.relay {
        Some(_) => origin(known, last.source, true, last.relay),
        None => format!("from {}", sources(&group.sources())),
    };
    Some(format!("{at_least}{packets} came {from} {when} {why}"))
}

fn key(known: &Known) -> Option<String> {
    let key = &known.key;
    let asked = key.asked_at.map(|at| {
        let answered = if key.is_answered { "" } else { " and has not answered" };
        format!("asked for its keys {} ago{answered}", age(at, known))
    });
    match (key.named, key.held) {
        (Some((named, _)), _) => {
            let asked = asked.unwrap_or_else(|| "not asked for its keys yet".to_owned());
            let stays = if known.waiting > 0 {
                ": what waits for it under its own key stays until that is settled (R12)"
            } else {
                ""
            };
            Some(format!("it names device key {named}, which is not known, and was {asked}{stays}"))
        }
        (None, Some(held)) => Some(format!("its new device key {held} waits until somebody confirms it")),
        (None, None) => {
            let is_recent = key.asked_at.is_some_and(|at| between(at, known.now) <= NEWS);
            asked.filter(|_| is_recent && !key.is_answered).map(|asked| format!("it was {asked}"))
        }
    }
}

fn waiting(known: &Known) -> Option<String> {
    let verb = if known.waiting == 1 { "waits" } else { "wait" };
    (known.waiting > 0).then(|| format!("{} {verb} for it", count(known.waiting, "message")))
}

fn degraded(known: &Known) -> Option<String> {
    let parts = known.troubles.iter().map(|(part, why)| format!("{}: {}", part.name(), why.trim_end_matches('.')));
    let parts = parts.collect::<Vec<_>>().join(", ");
    (!parts.is_empty()).then(|| format!("the gateway itself is in trouble ({parts})"))
}

/// The way by which a packet came, as far as it may be told.
pub(super) fn origin(known: &Known, source: SocketAddr, is_relayed: bool, relay: Option<DeviceId>) -> String {
    match relay {
        _ if !is_relayed => format!("from {source}"),
        Some(relay) if known.tells_of(relay) => format!("through relay {relay}"),
        None if known.told_relays.is_none() => format!("through a relay at {source}"),
        Some(_) => "through a relay of another organisation".to_owned(),
        None => "through a relay".to_owned(),
    }
}

pub(super) fn age(at: Timestamp, known: &Known) -> String {
    span(between(at, known.now))
}
