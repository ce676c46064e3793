//! What an explanation is made of, as the API tells it and the tools read it. An absent value is left out.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::DeviceId;
use crate::records::{one_of, route_type};
use crate::status::Time;
use crate::table::route::Trust;

/// Whether something that is sent to a device arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Reachable {
    /// It listens all the time, and was heard directly in the last 300 s: what is sent now arrives.
    Yes,
    /// It listens for a moment after it has spoken, or nothing can be said to reach it before: what is sent waits for that.
    Asleep,
    /// It was never heard, or not for much longer than it is used to be silent.
    No,
    /// Nobody knows.
    Unknown,
}

/// What an explanation comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// It speaks as often as it is used to, and listens all the time at an address where it was heard in the last 300 s.
    Listening,
    /// It speaks as often as it is used to, and sleeps in between, or the way to it may be closed until it speaks again.
    Sleeping,
    /// Nothing of it was ever counted.
    NeverHeard,
    /// Nothing of it counts, or not for much longer than it is used to be silent, and what came since is authentic and refused:
    /// it is not registered, or belongs to another organisation than its network or relay.
    Refused,
    /// It was not heard for much longer than it is used to be silent. Packets from elsewhere that may be recordings do not count.
    Overdue,
    /// Its packets come from two places within seconds.
    Contested,
    /// Its packets come from elsewhere than its route leads, and may not move it. If they may be recordings, only of a device that
    /// was heard too seldom to be overdue.
    Elsewhere,
    /// It was heard too seldom to say when it speaks again.
    LittleKnown,
}

impl Reason {
    /// What it means for whoever wants to reach the device.
    pub const fn reachable(self) -> Reachable {
        match self {
            Self::Listening => Reachable::Yes,
            Self::Sleeping => Reachable::Asleep,
            Self::NeverHeard | Self::Refused | Self::Overdue => Reachable::No,
            Self::Contested | Self::Elsewhere | Self::LittleKnown => Reachable::Unknown,
        }
    }
}

/// Why a device is reachable or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceExplanation)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The device.
    pub device_id: DeviceId,
    /// The gateway's clock: ages are those of this moment.
    pub at: Time,
    /// All of it in one sentence, for a person.
    pub sentence: String,
    /// Whether what is sent to the device arrives.
    pub reachable: Reachable,
    /// Why.
    pub reason: Reason,
    /// Since when it is registered; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_since: Option<Time>,
    /// How often it speaks; absent if it was never heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cadence: Option<Cadence>,
    /// Its routes, the one that was set or refreshed last first: at most a direct and a relayed one.
    pub routes: Vec<RouteHeld>,
    /// The last of its authentic packets, the latest first, with the rule that decided each: some that were counted, and some
    /// that were not. The last that was counted is among them however long ago it was; else they are from this start of the
    /// gateway.
    pub packets: Vec<DecidedPacket>,
    /// What was refused of late before anything in it was proved, and claims to be from this device: anybody may have sent it.
    pub claims: Vec<Claims>,
    /// The two places that it speaks from by turns, while that is not settled.
    pub contested: Vec<PlaceHeld>,
    /// Where it was asked of late whether it is there, the latest first.
    pub challenges: Vec<Challenged>,
    /// What is known of its keys.
    pub key: KeyKnown,
    /// Messages that wait for it.
    pub messages_waiting: u64,
    /// What is wrong with the gateway itself while it goes on serving: a sentence for each part in trouble.
    pub degraded: BTreeMap<String, String>,
}

/// How often a device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cadence {
    /// When its first packet was counted.
    pub first_packet_time: Time,
    /// When its last packet was counted.
    pub last_packet_time: Time,
    /// How many were counted.
    pub packets: u64,
    /// Milliseconds since it was heard last: by its route, or from elsewhere by a packet that cannot be a recording.
    pub age_ms: u64,
    /// Milliseconds from one to the next, on average over all of them. Absent for fewer than three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_ms: Option<u64>,
    /// Milliseconds from one time that it speaks to the next, by its last packets, or else that average. Absent while too little
    /// is known to say when it speaks again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual_ms: Option<u64>,
    /// Its longest silence between its last packets, of those of 10 s and more, in milliseconds. It is overdue after three times
    /// as long, or three times its average if that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_ms: Option<u64>,
}

/// Where a device is, or seems to be: at an address, or behind a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DevicePlace)]
#[serde(rename_all = "camelCase")]
pub struct PlaceHeld {
    /// `ip:port` of the device itself.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// The relay that hears it, unless it is another organisation's than the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<DeviceId>,
    /// The medium on which the relay heard it last; only where a route leads.
    #[schema(schema_with = route_type)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its Bluetooth address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bluetooth_address: Option<String>,
}

/// A route of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceRouteHeld)]
#[serde(rename_all = "camelCase")]
pub struct RouteHeld {
    /// Where it leads.
    pub place: PlaceHeld,
    /// When a packet set or refreshed it last.
    pub time: Time,
    /// By what it was set or refreshed: a packet at that level, or the answer to a challenge.
    #[schema(schema_with = trust)]
    pub trust: String,
    /// Whether a packet that cannot be a recording and may move a route, or the answer to a challenge, came from there.
    pub proved: bool,
    /// Times that packets came from elsewhere, and whoever sent them was asked and did not answer, or cannot be asked. After
    /// three the route moves, once it was silent for long enough.
    pub unanswered: u8,
    /// Signal strength at the relay in dBm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rssi: Option<i16>,
}

/// An authentic packet, and what was decided of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DecidedPacket {
    /// When it was received.
    pub received_at: Time,
    /// What it ended in: `accepted` if it was counted.
    pub result: String,
    /// The rule that decided, and the step of rule R4.
    pub rule: String,
    /// What it did to the route: `first`, `refreshed`, `moved` or `kept` where it was. Absent if it was not counted, or if that
    /// is not known any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Whether it answered a challenge.
    pub is_answer: bool,
    /// `ip:port` that its datagram came from: the device's or a relay's. Absent for a relay of another organisation than the
    /// caller's.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    /// Whether a relay passed it on.
    pub is_relayed: bool,
    /// That relay, as far as it is known, and not another organisation's than the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<DeviceId>,
    /// The name of its type.
    pub r#type: String,
    /// Whose key it was sealed with: `network` or `device`.
    pub level: String,
    /// What its time says against the gateway's: `fresh`, `noTime`, `old` or `future`.
    pub time_class: String,
    /// Its number, by the device's count.
    pub sequence: u16,
    /// When it was sealed, by the device's clock, in seconds of GPS time.
    pub gps_time: u32,
}

/// Packets that claim to be from a device, came the same way, and were refused for the same reason before anything in them was
/// proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = RefusedClaims)]
#[serde(rename_all = "camelCase")]
pub struct Claims {
    /// Why they were refused.
    pub result: String,
    /// Whose key they name: `network` or `device`.
    pub level: String,
    /// The key they name: a network's or a device's.
    #[schema(maximum = 16_777_215)]
    pub key_id: u32,
    /// How many are remembered.
    pub count: u64,
    /// When the first of these came.
    pub first_time: Time,
    /// When the last one came.
    pub last_time: Time,
    /// Whether they came in containers of a relay.
    pub is_relayed: bool,
    /// That relay, unless it is another organisation's than the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<DeviceId>,
    /// `ip:port` that the last of them came from, the relay's if there is one, the latest first: at most 8. Empty where the
    /// relay is not told.
    #[schema(value_type = Vec<String>)]
    pub sources: Vec<SocketAddr>,
    /// How many other sources they had.
    pub more_sources: u64,
}

/// A question whether a device is at a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceChallenged)]
#[serde(rename_all = "camelCase")]
pub struct Challenged {
    /// Where.
    pub place: PlaceHeld,
    /// When.
    pub time: Time,
    /// Whether it answered from there.
    pub answered: bool,
}

/// What is known of the keys of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceKeyKnown)]
#[serde(rename_all = "camelCase")]
pub struct KeyKnown {
    /// Whether a key of its own is known.
    pub known: bool,
    /// A key that it named of late and that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<KeyNamed>,
    /// When it was asked for its keys last, since the gateway started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_time: Option<Time>,
    /// Whether it has answered that.
    pub answered: bool,
    /// The id of a key that waits for somebody to confirm it.
    #[schema(maximum = 16_777_215)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_key_id: Option<u32>,
}

/// A key that a device named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceKeyNamed)]
#[serde(rename_all = "camelCase")]
pub struct KeyNamed {
    /// Its id.
    #[schema(maximum = 16_777_215)]
    pub key_id: u32,
    /// When.
    pub time: Time,
}

/// How a route was proved.
fn trust() -> utoipa::openapi::Object {
    one_of(&[Trust::Network, Trust::Device, Trust::Verified].map(Trust::name)).build()
}
