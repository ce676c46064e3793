//! An explanation as a person reads it: the sentence first, and below it the evidence.

use std::net::SocketAddr;

use super::rpc_text::ago;
use crate::clock::Timestamp;
use crate::explain::{Cadence, Challenged, Claims, DecidedPacket, Explanation, KeyKnown, PlaceHeld, RouteHeld};
use crate::id::DeviceId;
use crate::quote::one_line;
use crate::status::Time;

/// All of it. Whatever the gateway says, no line steers a terminal.
pub(super) fn told(explanation: &Explanation) -> String {
    let Explanation { at: Time(now), device_id, .. } = *explanation;
    let mut lines = vec![explanation.sentence.clone(), String::new(), format!("device     {device_id}")];
    lines.push(match explanation.registered_since {
        Some(since) => format!("registered {} ago", ago(Some(since), now)),
        None => "registered no".to_owned(),
    });
    lines.extend(explanation.cadence.map(|cadence| format!("heard      {}", heard(&cadence, now))));
    lines.extend(explanation.routes.iter().map(|held| format!("route      {}", route(held, now))));
    lines.push(format!("keys       {}", keys(&explanation.key, now)));
    lines.push(format!("messages   {} waiting", explanation.messages_waiting));
    lines.extend(explanation.contested.iter().map(|contested| format!("contested  {}", place(contested))));
    lines.extend(explanation.challenges.iter().map(|challenge| format!("challenged {}", challenged(challenge, now))));
    lines.extend(explanation.degraded.iter().map(|(part, why)| format!("gateway    {part}: {why}")));
    section(&mut lines, "Packets of it, the latest first", explanation.packets.iter().map(|one| packet(one, now)));
    let unproved = "Refused packets that claim to be it; anybody may have sent them";
    section(&mut lines, unproved, explanation.claims.iter().map(|one| claims(one, now)));
    lines.iter().map(|line| one_line(line) + "\n").collect()
}

fn section(lines: &mut Vec<String>, title: &str, of: impl ExactSizeIterator<Item = String>) {
    if of.len() > 0 {
        lines.extend([String::new(), title.to_owned()]);
        lines.extend(of.map(|line| format!("  {line}")));
    }
}

fn heard(cadence: &Cadence, now: Timestamp) -> String {
    let Cadence { first_packet_time, last_packet_time, packets, average_ms, .. } = *cadence;
    let average = average_ms.map(|ms| format!(", every {} on average", ago(Some(Time(Timestamp(0))), Timestamp(ms))));
    let (last, first) = (ago(Some(last_packet_time), now), ago(Some(first_packet_time), now));
    format!("{last} ago, first {first} ago, {packets} packets{}", average.unwrap_or_default())
}

fn route(held: &RouteHeld, now: Timestamp) -> String {
    let RouteHeld { place: leads, time, trust, proved, unanswered, rssi } = held;
    let proved = if *proved { "proved" } else { "not proved" };
    let rssi = rssi.map(|rssi| format!(", {rssi} dBm")).unwrap_or_default();
    let unanswered = if *unanswered > 0 { format!(", {unanswered} unanswered elsewhere") } else { String::new() };
    format!("{}{rssi}, {} ago, trust {trust}, {proved}{unanswered}", place(leads), ago(Some(*time), now))
}

fn place(held: &PlaceHeld) -> String {
    let PlaceHeld { address, relay, interface, bluetooth_address } = held;
    let parts = [
        address.map(|address| address.to_string()),
        relay.map(|relay| format!("relay {relay}")).or_else(|| address.is_none().then(|| "a relay".to_owned())),
        interface.as_ref().map(|interface| format!("on {interface}")),
        bluetooth_address.as_ref().map(|bluetooth| format!("at {bluetooth}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn keys(key: &KeyKnown, now: Timestamp) -> String {
    let own = if key.known { "its own is known" } else { "none of its own is known" };
    let asked = key.asked_time.map(|at| {
        let answered = if key.answered { "answered" } else { "not answered" };
        format!("asked {} ago, {answered}", ago(Some(at), now))
    });
    let parts = [
        Some(own.to_owned()),
        key.named.map(|named| format!("it names 0x{:06x}, which is not known", named.key_id)),
        asked,
        key.held_key_id.map(|held| format!("0x{held:06x} waits to be confirmed")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn challenged(challenge: &Challenged, now: Timestamp) -> String {
    let answered = if challenge.answered { "answered" } else { "not answered" };
    format!("{} {} ago, {answered}", place(&challenge.place), ago(Some(challenge.time), now))
}

/// Columns, so that rules and sources stand below each other.
fn packet(packet: &DecidedPacket, now: Timestamp) -> String {
    let DecidedPacket { result, rule, source, r#type, level, time_class, sequence, .. } = packet;
    let age = format!("{} ago", ago(Some(packet.received_at), now));
    let route = packet.route.as_ref().map(|route| format!(", route {route}")).unwrap_or_default();
    let answer = if packet.is_answer { ", answers a challenge" } else { "" };
    let from = from(source.map(|source| source.to_string()), packet.is_relayed, packet.relay);
    format!("{age:<12} {type:<10} {level:<7} {time_class:<6} {sequence:>5}  {result}, {rule}{route}{answer}, {from}")
}

/// Where a datagram came from, as far as that is told.
fn from(source: Option<String>, is_relayed: bool, relay: Option<DeviceId>) -> String {
    let relay = match relay {
        Some(relay) => format!("through relay {relay}"),
        None if is_relayed => "through a relay".to_owned(),
        None => String::new(),
    };
    let source = source.map(|source| format!("from {source}"));
    source.into_iter().chain(is_relayed.then_some(relay)).collect::<Vec<_>>().join(" ")
}

fn claims(claims: &Claims, now: Timestamp) -> String {
    let Claims { result, level, key_id, count, first_time, last_time, is_relayed, relay, sources, more_sources } =
        claims;
    let more = if *more_sources > 0 { format!(" and {more_sources} more") } else { String::new() };
    let sources = sources.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    let from = from((!sources.is_empty()).then(|| sources + &more), *is_relayed, *relay);
    let (first, last) = (ago(Some(*first_time), now), ago(Some(*last_time), now));
    format!("{count} x {result}, {level} key 0x{key_id:06x}, last {last} ago, first {first} ago, {from}")
}
