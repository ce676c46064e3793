//! One simulated device: what it sends, and how it answers. Pure: time is an argument, and bytes go in and out.
//!
//! It behaves like the captured firmware (docs/protocol.md, seen on real firmware). `now` is its uptime.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

pub use super::calls::Executed;
use super::calls::{Calls, Effect, Turn};
pub use super::events::{Heard, Reaction, Uplink, Wake};
use super::exchange::Packet;
use super::identity::Identity;
use super::keys::{CloudKey, NetworkKeys, OwnKeys};
use super::relay::Children;
use super::rpc::{Commands, Facts};
use super::security::Who;
use super::telemetry;
use super::timekeeping::Timekeeping;
use crate::auth::keys::DayKey;
use crate::auth::{open_with, seal_with};
use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::wire::container::Packer;
use crate::wire::control;
use crate::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};
use crate::wire::rpc::Data;

/// The largest datagram a device can receive, in bytes: what is longer loses its end, and so its tag.
pub const MAX_DOWNLINK: usize = 548;

/// The datagram that asks for KEY_IDS (docs/protocol.md, magic datagrams).
const KEY_QUESTION: [u8; 1] = [0x4d];

/// Packets whose acknowledgement a device still recognises; of more, the oldest is forgotten. Acknowledgements come
/// within a round trip, so that few are ever out.
const AWAITED: usize = 16;

/// When a device listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// All the time; its flags say so.
    Always,
    /// For this long after each packet it sends. Zero: not even then, and its flags announce a single transmission.
    AfterSending(Duration),
}

/// How a device behaves. Shared by all devices that behave alike.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its primary network.
    pub network: KeyId,
    /// The keys of that network.
    pub network_keys: NetworkKeys,
    /// The public key in its firmware.
    pub cloud: CloudKey,
    /// The level of its telemetry. Firmware uses the network key, unless its application decides otherwise.
    pub telemetry: Level,
    /// When it listens.
    pub reception: Reception,
    /// Time from one telemetry packet to the next.
    pub cadence: Duration,
    /// How much each interval may differ, as a share of the cadence, 0 to 1.
    pub jitter: f64,
    /// Silence after which every packet asks for an acknowledgement.
    pub ack_after: Duration,
    /// Packets that ask in vain before the socket is reopened, at least 1.
    pub ack_limit: u32,
    /// Share of telemetry that asks for an acknowledgement whatever was heard, 0 to 1.
    pub ack_share: f64,
    /// Time from one announce to the next.
    pub announce_every: Duration,
    /// Reboots it announces.
    pub reboots: u16,
}

/// How long a reboot takes. The device hears nothing meanwhile.
const REBOOT: Duration = Duration::from_millis(500);

/// Packets that wait for their acknowledgement, with the time they were sent.
#[derive(Debug, Default)]
struct Awaited(VecDeque<(u16, Duration)>);

impl Awaited {
    fn add(&mut self, sequence: u16, now: Duration) {
        if self.0.len() == AWAITED {
            self.0.pop_front();
        }
        self.0.push_back((sequence, now));
    }

    fn take(&mut self, sequence: u16) -> Option<Duration> {
        let at = self.0.iter().position(|(asked, _)| *asked == sequence)?;
        self.0.remove(at).map(|(_, sent_at)| sent_at)
    }
}

/// A device. One that speaks at network level, waits for no acknowledgement and was never called holds nothing on the heap.
#[derive(Debug)]
pub struct Device {
    id: DeviceId,
    settings: Arc<Settings>,
    keys: OwnKeys,
    /// Decides what it does: the same in each run.
    choices: Rng,
    /// Draws the entropy of its frames: different in each run.
    entropy: Rng,
    /// Whether it has sealed anything at network level.
    network_used: bool,
    clock: Timekeeping,
    sequence: u16,
    booted: bool,
    next_send_at: Duration,
    next_announce_at: Duration,
    last_sent_at: Option<Duration>,
    last_heard_at: Duration,
    /// Packets that asked since the last datagram was heard.
    unanswered: u32,
    /// The second of uptime in which the last key question was answered.
    answered_key_question_in: Option<u32>,
    /// Takes memory for the first packet that asks, and gives it back with the last acknowledgement.
    awaited: Option<Box<Awaited>>,
    /// Takes memory for the first call.
    calls: Option<Box<Calls>>,
    /// Whom it hears, if it is a relay.
    children: Option<Box<Children>>,
}

impl Device {
    /// The simulated device `id` (see [`super::identity`]), which boots now, at uptime 0, without time. What it does
    /// follows from its id and what it hears; two boots need different `entropy`, as they need it in the real world:
    /// without time they repeat everything else of their nonces.
    pub fn new(id: DeviceId, settings: impl Into<Arc<Settings>>, entropy: Rng) -> Self {
        Self {
            clock: Timekeeping::without_time(Duration::ZERO),
            id,
            settings: settings.into(),
            keys: OwnKeys::default(),
            choices: super::chance(id.0),
            entropy,
            network_used: false,
            sequence: 0,
            booted: false,
            next_send_at: Duration::ZERO,
            next_announce_at: Duration::ZERO,
            last_sent_at: None,
            last_heard_at: Duration::ZERO,
            unanswered: 0,
            answered_key_question_in: None,
            awaited: None,
            calls: None,
            children: None,
        }
    }

    /// The same with a clock that survives reboots: at uptime `now` it shows `time`.
    pub fn with_clock(self, now: Duration, time: Timestamp) -> Self {
        Self { clock: Timekeeping::surviving(now, time), ..self }
    }

    /// The same with keys that do not follow from its id.
    #[cfg(test)]
    pub(super) fn with_root(self, key_id: KeyId, root: crate::auth::keys::RootKey) -> Self {
        Self { keys: OwnKeys::of(key_id, root), ..self }
    }

    /// Makes it a relay, which passes on what it hears from `children` from its boot on.
    #[must_use]
    pub fn with_children(self, children: Children) -> Self {
        Self { children: Some(Box::new(children)), ..self }
    }

    /// Who it is.
    pub const fn id(&self) -> DeviceId {
        self.id
    }

    /// The uptime at which it sent last.
    pub const fn last_sent_at(&self) -> Option<Duration> {
        self.last_sent_at
    }

    /// The uptime at which [`Self::on_timer`] is to be called next.
    pub fn next_send_at(&self) -> Duration {
        self.relaying_at().map_or(self.next_send_at, |relaying_at| relaying_at.min(self.next_send_at))
    }

    /// When it next passes on what it hears, if it is a relay that has booted.
    fn relaying_at(&self) -> Option<Duration> {
        self.children.as_ref().filter(|_| self.booted)?.due_at()
    }

    /// Whether that comes before its own telemetry.
    fn relays_next(&self) -> bool {
        self.relaying_at().is_some_and(|relaying_at| relaying_at <= self.next_send_at)
    }

    /// The device's own time, in GPS seconds.
    pub fn gps_time(&self, now: Duration) -> u32 {
        self.clock.time(now).gps()
    }

    /// How often it has carried out the call with this request id, of the last 1 024 calls. Calls that it refused are not
    /// among them.
    pub fn times_executed(&self, request_id: u32) -> u32 {
        self.calls.as_ref().map_or(0, |calls| calls.times(request_id))
    }

    /// The same of a device that it hears, if it is a relay.
    pub fn times_executed_by(&self, child: DeviceId, request_id: u32) -> u32 {
        self.children.as_ref().map_or(0, |children| children.times_executed(child, request_id))
    }

    /// What it and those that it hears have carried out.
    pub fn executed(&self) -> Executed {
        let own = self.calls.as_ref().map_or_else(Executed::default, |calls| calls.executed());
        self.children.as_ref().map_or(own, |children| own.plus(children.executed()))
    }

    /// Its time has come: KEY_IDS right after boot, telemetry from then on, and what a relay has heard. The uptime at which
    /// it should have come is `due`: what it decides follows from that, so that a late machine makes no difference.
    pub fn on_timer(&mut self, due: Duration, now: Duration) -> Wake {
        let relays = self.relays_next();
        if !relays {
            self.next_send_at = due + self.interval();
        }
        if !self.booted {
            return Wake::Send(self.boot(now));
        }
        if self.is_unheard(now) && self.unanswered >= self.settings.ack_limit {
            self.unanswered = 0;
            return Wake::Reopen;
        }
        if relays && let Some(container) = self.children.as_mut().and_then(|children| children.container(due)) {
            return Wake::Send(self.seal_container(now, &container));
        }
        let payload = self.readings(due, now);
        let asks = self.choices.f64() < self.settings.ack_share;
        Wake::Send(self.seal(now, PacketType::TDF, self.settings.telemetry, &payload, asks))
    }

    /// The uptime at which [`Self::on_errand`] is to be called next, if it is: a call moves data, a connection of a relay ends, or
    /// it boots anew.
    pub fn errand_at(&self) -> Option<Duration> {
        let calls = self.calls.as_ref().and_then(|calls| calls.due_at());
        let connections = self.children.as_ref().and_then(|children| children.connections_due_at());
        self.down_until().into_iter().chain(calls).chain(connections).min()
    }

    /// Its time for that has come. There may be more to do at once.
    pub fn on_errand(&mut self, now: Duration) -> Option<Uplink> {
        if let Some(until) = self.down_until() {
            return (until <= now).then(|| self.boot(now));
        }
        if let Some(packet) = self.calls.as_mut().and_then(|calls| calls.on_time(now)) {
            return Some(self.seal_packet(now, &packet));
        }
        if let Some((level, call)) = self.calls.as_mut().and_then(|calls| calls.next_waiting()) {
            return self.on_call(now, level, &call).reply;
        }
        let end = self.children.as_mut().and_then(|children| children.on_time(now))?;
        let mut payload = Vec::new();
        end.encode(&mut payload);
        Some(self.seal(now, PacketType::EPACKET_CONN_TERMINATED, Level::Device, &payload, false))
    }

    /// A datagram has arrived. It is decrypted in place.
    pub fn on_datagram(&mut self, now: Duration, datagram: &mut [u8]) -> Reaction {
        if !self.listens(now) {
            return Reaction::silent(Heard::Asleep);
        }
        let len = datagram.len().min(MAX_DOWNLINK);
        let datagram = &mut datagram[..len];
        if *datagram == KEY_QUESTION {
            return Reaction { heard: Heard::KeyQuestion, reply: self.answer_key_question(now) };
        }
        let Ok(frame) = Frame::parse(datagram, Layout::Unversioned) else {
            return Reaction::silent(Heard::Short);
        };
        // Both of these happen before authentication, so a forged datagram does them too.
        self.last_heard_at = now;
        self.unanswered = 0;
        self.clock.adopt(now, frame.header().gps_time);
        self.on_frame(now, frame)
    }

    fn on_frame(&mut self, now: Duration, frame: Frame<'_>) -> Reaction {
        let refused = Reaction::silent(Heard::Refused);
        let header = *frame.header();
        match header.level() {
            Level::Network if header.key_id != self.settings.network => return refused,
            Level::Device if header.device_id != self.id => return refused,
            Level::Device if header.key_id != self.key_id() => {
                return Reaction { heard: Heard::UnknownKey, reply: Some(self.key_ids(now)) };
            }
            Level::Network | Level::Device => {}
        }
        // Firmware cannot derive the key of day 0 at a level it has not used yet.
        if header.rotation() == 0 && !self.has_used(header.level()) {
            return refused;
        }
        let opened = self.with_key(header.level(), header.rotation(), false, |key| open_with(key, frame));
        let Some(packet) = opened else { return refused };
        let payload = packet.payload();
        match header.packet_type {
            // Firmware drops what is not longer than header and tag.
            _ if payload.is_empty() => refused,
            PacketType::ECHO_REQ => {
                let answer = self.seal(now, PacketType::ECHO_RSP, header.level(), payload, false);
                Reaction { heard: Heard::Echo, reply: Some(answer) }
            }
            PacketType::ACK => Reaction::silent(self.on_ack(now, payload)),
            PacketType::RPC_CMD => self.on_call(now, header.level(), payload),
            PacketType::RPC_DATA => self.on_data(now, header.level(), payload),
            PacketType::EPACKET_FORWARD_AUTO_CONN if self.children.is_some() => self.on_forward(now, payload),
            other => Reaction::silent(Heard::Other(other)),
        }
    }

    fn on_ack(&mut self, now: Duration, payload: &[u8]) -> Heard {
        let Some(sequence) = control::acked_sequence(payload) else { return Heard::Refused };
        let sent_at = self.awaited.as_mut().and_then(|awaited| awaited.take(sequence));
        self.awaited.take_if(|awaited| awaited.0.is_empty());
        Heard::Ack(sent_at.map(|sent_at| now.saturating_sub(sent_at)))
    }

    fn on_call(&mut self, now: Duration, level: Level, call: &[u8]) -> Reaction {
        let facts = self.facts(now);
        let (id, cloud, network) = (self.id, self.settings.cloud, self.settings.network);
        let mut nonce = [0; 12];
        self.entropy.fill(&mut nonce);
        let security_state = |challenge: &_| {
            #[allow(clippy::expect_used, reason = "a CloudKey makes a secret with every device")]
            let Identity { keys, root, .. } = Identity::of(id, cloud.bytes()).expect("a key that protects something");
            let (cloud_public, device_public) = (*cloud.bytes(), keys.public());
            Who { id, cloud_public, device_public, network, root: &root }.answer(challenge, nonce)
        };
        let turn = self.calls.get_or_insert_default().on_call(now, level, call, &facts, security_state);
        let (heard, packet, effect) = match turn {
            Turn::Malformed => (Heard::Refused, None, None),
            Turn::Lost => (Heard::CallLost, None, None),
            Turn::Waits => (Heard::CallBegun, None, None),
            Turn::Begun(packet) => (Heard::CallBegun, packet, None),
            Turn::Answered { answer, return_code, effect } => (Heard::Call(return_code), Some(answer), effect),
        };
        let reply = packet.map(|packet| self.seal_packet(now, &packet));
        match effect {
            Some(Effect::TimeSet(time)) => self.clock.set(now, time),
            Some(Effect::Reboot) => self.reboot(now),
            None => {}
        }
        Reaction { heard, reply }
    }

    fn on_data(&mut self, now: Duration, level: Level, payload: &[u8]) -> Reaction {
        let Some(piece) = Data::parse(payload) else { return Reaction::silent(Heard::Refused) };
        let answer = self.calls.as_mut().and_then(|calls| calls.on_data(now, level, &piece));
        let reply = answer.map(|packet| self.seal_packet(now, &packet));
        Reaction { heard: Heard::CallData, reply }
    }

    /// A relay passes on what it is given, and what comes back.
    fn on_forward(&mut self, now: Duration, payload: &[u8]) -> Reaction {
        let container = self.children.as_mut().and_then(|children| children.forward(now, payload));
        let reply = container.map(|container| self.seal_container(now, &container));
        Reaction { heard: Heard::Forward, reply }
    }

    fn facts(&self, now: Duration) -> Facts {
        let application = telemetry::application(self.settings.network, self.uptime(now), self.reboots().into());
        Facts { application, time: self.clock.info(now), commands: Commands::All }
    }

    /// It has booted: this is the first packet.
    fn boot(&mut self, now: Duration) -> Uplink {
        self.booted = true;
        if let Some(calls) = &mut self.calls {
            calls.reboots.down_until = None;
        }
        self.key_ids(now)
    }

    /// It boots anew, and knows what a device knows then.
    fn reboot(&mut self, now: Duration) {
        self.calls.get_or_insert_default().reboot(now, now + REBOOT);
        if let Some(children) = &mut self.children {
            children.interrupt();
        }
        self.clock.reboot(now);
        (self.sequence, self.booted, self.network_used) = (0, false, false);
        (self.last_heard_at, self.last_sent_at, self.next_announce_at) = (now, None, Duration::ZERO);
        (self.unanswered, self.answered_key_question_in) = (0, None);
        self.awaited = None;
    }

    /// Until when it boots anew, if it does.
    fn down_until(&self) -> Option<Duration> {
        self.calls.as_ref()?.reboots.down_until
    }

    fn reboots(&self) -> u16 {
        let more = self.calls.as_ref().map_or(0, |calls| calls.reboots.count);
        self.settings.reboots.wrapping_add(more)
    }

    /// Seconds since it last booted.
    fn uptime(&self, now: Duration) -> u32 {
        let booted_at = self.calls.as_ref().map_or(Duration::ZERO, |calls| calls.reboots.at);
        whole_seconds(now.saturating_sub(booted_at))
    }

    /// At most once in a second of uptime.
    fn answer_key_question(&mut self, now: Duration) -> Option<Uplink> {
        let second = u32::try_from(now.as_secs()).ok();
        if self.answered_key_question_in == second {
            return None;
        }
        self.answered_key_question_in = second;
        Some(self.key_ids(now))
    }

    fn listens(&self, now: Duration) -> bool {
        match (self.settings.reception, self.last_sent_at) {
            _ if self.down_until().is_some() => false,
            (Reception::Always, _) => true,
            (Reception::AfterSending(window), Some(sent_at)) => now.saturating_sub(sent_at) < window,
            (Reception::AfterSending(_), None) => false,
        }
    }

    fn is_unheard(&self, now: Duration) -> bool {
        now.saturating_sub(self.last_heard_at) >= self.settings.ack_after
    }

    fn interval(&mut self) -> Duration {
        let swing = self.settings.jitter * (2.0 * self.choices.f64() - 1.0);
        self.settings.cadence.mul_f64(1.0 + swing)
    }

    fn readings(&mut self, due: Duration, now: Duration) -> Vec<u8> {
        let mut payload = Vec::new();
        if due >= self.next_announce_at {
            self.next_announce_at = due + self.settings.announce_every;
            telemetry::announce(self.uptime(now), self.reboots(), &mut payload);
        }
        telemetry::measurement(self.gps_time(now), self.choices.u32(..), &mut payload);
        payload
    }

    fn key_ids(&mut self, now: Duration) -> Uplink {
        let payload = control::key_ids(self.key_id());
        self.seal(now, PacketType::KEY_IDS, Level::Network, &payload, false)
    }

    fn seal_packet(&mut self, now: Duration, packet: &Packet) -> Uplink {
        self.seal(now, packet.packet_type, packet.level, &packet.payload, false)
    }

    fn seal_container(&mut self, now: Duration, container: &Packer) -> Uplink {
        let uplink = self.seal(now, PacketType::RECEIVED_EPACKET, Level::Device, container.payload(), false);
        Uplink { entries: container.entries(), ..uplink }
    }

    fn seal(&mut self, now: Duration, packet_type: PacketType, level: Level, payload: &[u8], asks: bool) -> Uplink {
        let unheard = self.is_unheard(now);
        self.unanswered += u32::from(unheard);
        let asks = asks || unheard;
        let header = Header {
            packet_type,
            flags: self.flags(level, asks),
            key_id: match level {
                Level::Network => self.settings.network,
                Level::Device => self.key_id(),
            },
            device_id: self.id,
            gps_time: self.gps_time(now),
            sequence: self.sequence,
            entropy: self.entropy.u16(..),
        };
        self.sequence = self.sequence.wrapping_add(1);
        self.last_sent_at = Some(now);
        if asks {
            self.awaited.get_or_insert_default().add(header.sequence, now);
        }
        let mut bytes = Vec::with_capacity(Layout::Unversioned.min_len() + payload.len());
        self.with_key(level, header.rotation(), true, |key| {
            seal_with(key, &header, Layout::Unversioned, payload, &mut bytes);
        });
        self.network_used |= level == Level::Network;
        Uplink { bytes, packet_type, asks, entries: 0 }
    }

    fn flags(&self, level: Level, asks: bool) -> Flags {
        let mut flags = 0;
        if level == Level::Device {
            flags |= Flags::DEVICE_KEY;
        }
        if asks {
            flags |= Flags::ACK_REQUEST;
        }
        if self.children.is_some() {
            flags |= Flags::CARRIES | Flags::DELIVERS;
        }
        match self.settings.reception {
            Reception::Always => flags |= Flags::ALWAYS_RX,
            Reception::AfterSending(Duration::ZERO) => flags |= Flags::SINGLE_TX,
            Reception::AfterSending(_) => {}
        }
        Flags(flags)
    }

    fn key_id(&mut self) -> KeyId {
        self.keys.key_id(self.id, &self.settings.cloud)
    }

    fn has_used(&self, level: Level) -> bool {
        match level {
            Level::Network => self.network_used,
            Level::Device => self.keys.used(),
        }
    }

    /// Does `work` with the key of `day`; `own` says that it is the day of the device's own clock.
    fn with_key<T>(&mut self, level: Level, day: u32, own: bool, work: impl FnOnce(&DayKey) -> T) -> T {
        match level {
            Level::Network => self.settings.network_keys.with_day(day, own, work),
            Level::Device => work(self.keys.day(self.id, &self.settings.cloud, day)),
        }
    }
}

/// In whole seconds, as devices count.
pub(super) fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
