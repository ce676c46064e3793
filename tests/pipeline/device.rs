//! A device as it is behind its keys, with a clock, a sequence and an address, and what passes between it and the gateway: all of
//! it is recorded, and what goes to addresses that nothing proves is counted.

use std::collections::HashMap;
use std::time::Duration;

use lastroute::ingest::trace::Decision;
use lastroute::table::rules::{RouteChange, Step};
use lastroute::table::sending::Release;
use lastroute::wire::control;

use super::downlinks::open;
use super::*;

/// A device that speaks over UDP.
pub(super) struct Device {
    pub(super) id: DeviceId,
    pub(super) level: Level,
    pub(super) source: SocketAddr,
    /// Flags of all its packets, the level apart.
    pub(super) flags: u16,
    pub(super) sequence: u16,
    /// Seconds that its clock is ahead; `None`: it has no time.
    pub(super) clock: Option<i64>,
    booted_at: Timestamp,
    entropy: u16,
}

impl Device {
    pub(super) fn new(level: Level, source: SocketAddr) -> Self {
        let booted_at = Timestamp::from_gps(NOW);
        Self { id: DEVICE, level, source, flags: 0, sequence: 1, clock: Some(0), booted_at, entropy: 7 }
    }

    pub(super) fn without_time(source: SocketAddr) -> Self {
        Self { clock: None, ..Self::new(Level::Network, source) }
    }

    /// Another datagram of it.
    pub(super) fn packet(&mut self, packet_type: PacketType, payload: &[u8], now: Timestamp) -> Vec<u8> {
        let uptime = (now.0 - self.booted_at.0) / 1000;
        let gps_time = match self.clock {
            Some(ahead) => (i64::from(now.gps()) + ahead) as u32,
            None => NO_TIME_START + 5 + uptime as u32,
        };
        let entropy = self.entropy;
        let header = Header { gps_time, entropy, ..header(packet_type, self.level, self.id, self.sequence) };
        self.entropy = self.entropy.wrapping_mul(25_173).wrapping_add(13_849);
        self.sequence = self.sequence.wrapping_add(1);
        uplink(&Header { flags: Flags(header.flags.0 | self.flags), ..header }, payload)
    }

    /// It starts again: its sequence does, and its time, if it has none. The first packet, which names its key.
    pub(super) fn boot(&mut self, now: Timestamp) -> Vec<u8> {
        (self.sequence, self.booted_at) = (0, now);
        self.packet(PacketType::KEY_IDS, &control::key_ids(DEVICE_KEY), now)
    }

    /// What it answers to what comes to its address. It takes over the time of what it hears.
    fn hear(&mut self, answers: &[Answer], now: Timestamp) -> Vec<Vec<u8>> {
        let (here, mut replies) = (self.source, Vec::new());
        for answer in answers.iter().filter(|answer| answer.to == here) {
            let (header, payload) = open(&answer.bytes);
            if header.device_id != self.id {
                continue;
            }
            self.clock.get_or_insert(0);
            if header.packet_type == PacketType::ECHO_REQ {
                replies.push(self.packet(PacketType::ECHO_RSP, &payload, now));
            }
        }
        replies
    }
}

/// What came from an address and went there, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    came: usize,
    went: usize,
    is_proved: bool,
}

/// A gateway and what was heard around it.
#[derive(Default)]
pub(super) struct World {
    pub(super) gateway: Gateway,
    pub(super) uplinks: Vec<Vec<u8>>,
    pub(super) downlinks: Vec<Answer>,
    accounts: HashMap<SocketAddr, Account>,
}

impl World {
    pub(super) fn with(policy: RoutePolicy) -> Self {
        Self { gateway: Gateway::new(policy, &TableConfig::default()), ..Self::default() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.gateway.now
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.gateway.now = self.gateway.now.after(Duration::from_secs(seconds));
    }

    /// Whatever arrives from an address. Never does more than three times as much go to one as came from there, unless a proved
    /// packet of the device or its answer did.
    pub(super) fn arrive(&mut self, bytes: &[u8], from: SocketAddr) -> (Disposition, Vec<Answer>) {
        let (disposition, answers) = self.gateway.replies(bytes, from);
        let claimed = Frame::claimed_device(bytes).unwrap();
        let account = self.accounts.entry(from).or_default();
        account.came += bytes.len();
        let last = self.gateway.core.traces.latest(claimed, 1).into_iter().next().map(|decided| decided.decision);
        account.is_proved |= match last {
            Some(Decision::Counted { step, is_answer, .. }) => step.proved() || is_answer,
            Some(Decision::Refused { is_answer, .. }) => is_answer,
            _ => false,
        };
        for answer in &answers {
            let account = self.accounts.entry(answer.to).or_default();
            account.went += answer.bytes.len();
            assert!(account.is_proved || account.went <= 3 * account.came, "{} {account:?} {answers:?}", answer.to);
        }
        self.downlinks.extend(answers.iter().map(Answer::clone));
        (disposition, answers)
    }

    /// A device sends what it has made, and does not listen.
    pub(super) fn shout(&mut self, bytes: Vec<u8>, device: &Device) -> (Decision, Vec<Answer>) {
        let answers = self.arrive(&bytes, device.source).1;
        self.uplinks.push(bytes);
        (self.gateway.core.traces.latest(device.id, 1)[0].decision, answers)
    }

    /// A device sends what it has made, listens, and answers, until nobody says anything more. What became of the first packet.
    pub(super) fn send(&mut self, bytes: Vec<u8>, device: &mut Device) -> Decision {
        let (decision, answers) = self.shout(bytes, device);
        self.listen(&answers, device);
        decision
    }

    /// A device gets what is for its address, and answers, until nobody says anything more.
    pub(super) fn listen(&mut self, answers: &[Answer], device: &mut Device) {
        let mut replies = device.hear(answers, self.now());
        while let Some(reply) = replies.pop() {
            let answers = self.shout(reply, device).1;
            replies.extend(device.hear(&answers, self.now()));
        }
    }

    /// A device reports.
    pub(super) fn say(&mut self, device: &mut Device) -> Decision {
        let bytes = device.packet(PacketType::TDF, &[], self.now());
        self.send(bytes, device)
    }

    /// As [`Self::say`], of one that does not listen afterwards.
    pub(super) fn say_deaf(&mut self, device: &mut Device) -> Decision {
        let bytes = device.packet(PacketType::TDF, &[], self.now());
        self.shout(bytes, device).0
    }

    pub(super) fn boot(&mut self, device: &mut Device) -> Decision {
        let bytes = device.boot(self.now());
        self.send(bytes, device)
    }

    /// Where the direct route of the device leads.
    pub(super) fn route(&self) -> SocketAddr {
        self.gateway.direct(DEVICE).0
    }

    pub(super) fn trust(&self) -> Trust {
        self.gateway.direct(DEVICE).1
    }

    /// Challenges that were sent so far.
    pub(super) fn echoes(&self) -> usize {
        self.downlinks.iter().filter(|answer| answer.kind == DownlinkKind::Echo).count()
    }
}

/// An address that nobody has used before.
pub(super) fn address(number: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 5], 10_000 + number))
}

/// It counted, by this step, did this to the route, and releases what such a packet of a device that listens does.
pub(super) const fn counted(step: Step, change: RouteChange) -> Decision {
    let release = match (step, change) {
        (_, RouteChange::Kept) | (Step::Late, _) => Release::No,
        (Step::SameSession | Step::NewSession, _) => Release::Yes,
        _ => Release::Challenge,
    };
    Decision::Counted { step, change, release, is_answer: false }
}

/// It did not count, by this step.
pub(super) const fn refused(step: Step) -> Decision {
    Decision::Refused { step, is_answer: false }
}
