//! One simulated device: what it sends, and how it answers. Pure: time is an argument, and bytes go in and out.
//!
//! It behaves like the captured firmware (docs/protocol.md, seen on real firmware). `now` is its uptime.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::keys::{CloudKey, NetworkKeys, OwnKeys};
use super::relay::Children;
use super::rpc::{self, Facts};
use super::telemetry;
use crate::auth::keys::DayKey;
use crate::auth::{open_with, seal_with};
use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::table::rules::NO_TIME_START;
use crate::wire::calls::{ApplicationInfo, TimeInfo, TimeSource};
use crate::wire::control;
use crate::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};

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

/// A datagram for the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The sealed frame.
    pub bytes: Vec<u8>,
    /// Its type.
    pub packet_type: PacketType,
    /// Whether it asks for an acknowledgement.
    pub asks: bool,
    /// Packets of other devices in it.
    pub entries: usize,
}

/// What a device does when its time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// It sends.
    Send(Uplink),
    /// It asked in vain too often: it drops this packet and opens a new socket.
    Reopen,
}

/// What a datagram was to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing: the device was asleep.
    Asleep,
    /// Too short for a frame.
    Short,
    /// For somebody else, or not authentic.
    Refused,
    /// The question for its key id.
    KeyQuestion,
    /// A device-level frame for it, under a key id it does not have.
    UnknownKey,
    /// An echo request.
    Echo,
    /// An acknowledgement; of a packet that asked, with the time since that was sent.
    Ack(Option<Duration>),
    /// A call, answered with this return code.
    Call(i16),
    /// Authentic, of a type the simulator does not act on.
    Other(PacketType),
}

/// What a datagram led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaction {
    /// What it was.
    pub heard: Heard,
    /// The answer, to be sent at once.
    pub reply: Option<Uplink>,
}

/// A device, from one boot to the next. One that speaks at network level and waits for no acknowledgement holds nothing
/// on the heap.
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
    /// What its clock said, and at which uptime.
    clock: (Timestamp, Duration),
    time_source: TimeSource,
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
    awaited: VecDeque<(u16, Duration)>,
    /// Whom it hears, if it is a relay.
    children: Option<Box<Children>>,
}

impl Device {
    /// The simulated device `id` (see [`super::identity`]), which boots now, at uptime 0, without time. What it does
    /// follows from its id and what it hears; two boots need different `entropy`, as they need it in the real world:
    /// without time they repeat everything else of their nonces.
    pub fn new(id: DeviceId, settings: impl Into<Arc<Settings>>, entropy: Rng) -> Self {
        Self {
            time_source: TimeSource::NONE,
            clock: (Timestamp::from_gps(NO_TIME_START), Duration::ZERO),
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
            awaited: VecDeque::new(),
            children: None,
        }
    }

    /// The same with a clock that survived the reboot: at uptime `now` it shows `time`.
    pub fn with_clock(self, now: Duration, time: Timestamp) -> Self {
        // Where it had the time from before the reboot, nobody remembers: as likely as not from a gateway.
        Self { time_source: TimeSource::EPACKET.recovered(), clock: (time, now), ..self }
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
        self.time(now).gps()
    }

    fn time(&self, now: Duration) -> Timestamp {
        let (time, at) = self.clock;
        time.after(now.saturating_sub(at))
    }

    /// Its time has come: KEY_IDS right after boot, telemetry from then on, and what a relay has heard. The uptime at which
    /// it should have come is `due`: what it decides follows from that, so that a late machine makes no difference.
    pub fn on_timer(&mut self, due: Duration, now: Duration) -> Wake {
        let relays = self.relays_next();
        if !relays {
            self.next_send_at = due + self.interval();
        }
        if !self.booted {
            self.booted = true;
            return Wake::Send(self.key_ids(now));
        }
        if self.is_unheard(now) && self.unanswered >= self.settings.ack_limit {
            self.unanswered = 0;
            return Wake::Reopen;
        }
        if relays && let Some(container) = self.children.as_mut().and_then(|children| children.container(due)) {
            let uplink = self.seal(now, PacketType::RECEIVED_EPACKET, Level::Device, container.payload(), false);
            return Wake::Send(Uplink { entries: container.entries(), ..uplink });
        }
        let payload = self.readings(due, now);
        let asks = self.choices.f64() < self.settings.ack_share;
        Wake::Send(self.seal(now, PacketType::TDF, self.settings.telemetry, &payload, asks))
    }

    /// A datagram has arrived. It is decrypted in place.
    pub fn on_datagram(&mut self, now: Duration, datagram: &mut [u8]) -> Reaction {
        if !self.listens(now) {
            return Reaction { heard: Heard::Asleep, reply: None };
        }
        let len = datagram.len().min(MAX_DOWNLINK);
        let datagram = &mut datagram[..len];
        if *datagram == KEY_QUESTION {
            return Reaction { heard: Heard::KeyQuestion, reply: self.answer_key_question(now) };
        }
        let Ok(frame) = Frame::parse(datagram, Layout::Unversioned) else {
            return Reaction { heard: Heard::Short, reply: None };
        };
        // Both of these happen before authentication, so a forged datagram does them too.
        self.last_heard_at = now;
        self.unanswered = 0;
        self.adopt_time(now, frame.header().gps_time);
        self.on_frame(now, frame)
    }

    fn on_frame(&mut self, now: Duration, frame: Frame<'_>) -> Reaction {
        let refused = Reaction { heard: Heard::Refused, reply: None };
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
            PacketType::ACK => Reaction { heard: self.on_ack(now, payload), reply: None },
            PacketType::RPC_CMD => self.on_call(now, header.level(), payload),
            other => Reaction { heard: Heard::Other(other), reply: None },
        }
    }

    fn on_ack(&mut self, now: Duration, payload: &[u8]) -> Heard {
        let Some(sequence) = control::acked_sequence(payload) else { return Heard::Refused };
        let awaited = self.awaited.iter().position(|(asked, _)| *asked == sequence);
        let sent_at = awaited.and_then(|at| self.awaited.remove(at)).map(|(_, sent_at)| sent_at);
        if self.awaited.is_empty() {
            self.awaited = VecDeque::new();
        }
        Heard::Ack(sent_at.map(|sent_at| now.saturating_sub(sent_at)))
    }

    fn on_call(&mut self, now: Duration, level: Level, call: &[u8]) -> Reaction {
        match rpc::answer(call, &self.facts(now)) {
            Some((payload, return_code)) => {
                let answer = self.seal(now, PacketType::RPC_RSP, level, &payload, false);
                Reaction { heard: Heard::Call(return_code), reply: Some(answer) }
            }
            None => Reaction { heard: Heard::Refused, reply: None },
        }
    }

    fn facts(&self, now: Duration) -> Facts {
        let application = ApplicationInfo {
            application_id: telemetry::APPLICATION_ID,
            version: telemetry::VERSION,
            network: self.settings.network.get(),
            uptime: uptime(now),
            reboots: self.settings.reboots.into(),
            // No key-value store, no logger.
            kv_crc: 0,
            internal_blocks: 0,
            external_blocks: 0,
        };
        let set_at = (self.time_source == TimeSource::EPACKET).then_some(self.clock.1);
        let age = set_at.map(|set_at| uptime(now.saturating_sub(set_at)));
        Facts { application, time: TimeInfo { source: self.time_source, time: fine(self.time(now)), age } }
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

    /// The first downlink with a time sets the clock; no later one does.
    fn adopt_time(&mut self, now: Duration, gps_time: u32) {
        if self.time_source == TimeSource::NONE && gps_time != 0 {
            self.clock = (Timestamp::from_gps(gps_time), now);
            self.time_source = TimeSource::EPACKET;
        }
    }

    fn listens(&self, now: Duration) -> bool {
        match (self.settings.reception, self.last_sent_at) {
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
            telemetry::announce(uptime(now), self.settings.reboots, &mut payload);
        }
        telemetry::measurement(self.gps_time(now), self.choices.u32(..), &mut payload);
        payload
    }

    fn key_ids(&mut self, now: Duration) -> Uplink {
        let payload = control::key_ids(self.key_id());
        self.seal(now, PacketType::KEY_IDS, Level::Network, &payload, false)
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
            self.awaited.push_back((header.sequence, now));
            if self.awaited.len() > AWAITED {
                self.awaited.pop_front();
            }
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

/// In whole seconds.
fn uptime(now: Duration) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

/// GPS time in 1/65536 s.
fn fine(time: Timestamp) -> u64 {
    (u64::from(time.gps()) << 16) + time.0 % 1000 * 65_536 / 1000
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
