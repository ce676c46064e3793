//! One task of a fleet: some devices, the ports they send from, and their time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::device::{Device, Heard, MAX_DOWNLINK, Uplink, Wake};
use super::expect::{Expectation, Leaving, Refused};
use super::fleet::World;
use super::identity;
use super::network::Fate;
use super::ports::Ports;
use super::schedule::{Deal, Due, Schedule};
use super::{Count, Stats, chance};
use crate::table::rules::TimeClass;
use crate::wire::frame::{Frame, Header, Layout, PacketType};

/// Wake-ups served before the sockets are looked at again, so that a busy link still receives. As many as leave at once.
const WAKES_AT_ONCE: usize = 64;

/// Datagrams taken from the sockets in one go: no fewer than can be asked for in one, so that a link that is behind loses no
/// answers.
const ARRIVALS_AT_ONCE: usize = WAKES_AT_ONCE;

/// How long a fleet listens for the last answers, once all packets are made: far longer than a round trip.
const LINGER: Duration = Duration::from_secs(1);

/// Some devices, and the ports they send from.
#[derive(Debug)]
pub(super) struct Link {
    world: Arc<World>,
    deal: Deal,
    schedule: Schedule,
    ports: Ports<Sent>,
    /// Which device hears a datagram at a port that names none: the last to have sent from there, as a NAT would have it.
    last_senders: Vec<usize>,
    /// Those that have booted, in the order of their places.
    members: Vec<Member>,
    held: Held,
    /// When which of them has something to do beside its telemetry.
    errands: BTreeSet<(Duration, usize)>,
    refused: Refused,
    /// Decides what happens to downlinks.
    random: Rng,
}

#[derive(Debug)]
struct Member {
    device: Device,
    expectation: Expectation,
    /// Which of the ports its NAT has given it.
    port: u8,
    /// When it is among the errands.
    errand_at: Option<Duration>,
}

/// A datagram that has been sent by a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// The place of the device, and the port it left from.
    at: u32,
    port: u8,
    gps_time: u32,
    sequence: u16,
    /// Packets of other devices in it.
    entries: u16,
    /// A copy of it is to come.
    copied: bool,
    /// Made by the network.
    copy: bool,
    /// The first of a boot.
    boots: bool,
}

/// How long the copy of a datagram that is copied is held back, from when that leaves.
type CopyHeld = Option<Duration>;

/// What is on its way for longer, by when it goes on and the order in which it was held back.
#[derive(Debug, Default)]
struct Held {
    waiting: BTreeMap<(Duration, u64), (Sent, Vec<u8>, CopyHeld)>,
    count: u64,
}

impl Link {
    /// The devices `deal`, none of which has booted. At least one port, and at most 255.
    pub(super) fn new(world: Arc<World>, deal: Deal, ports: Ports<Sent>) -> Self {
        let schedule = Schedule::new(&world.config, deal);
        let seed = u64::from(world.config.seed) << 32 | u64::from(deal.index(0));
        Self {
            deal,
            schedule,
            last_senders: vec![0; ports.len()],
            ports,
            // Pages that no device has booted into yet are not resident.
            members: Vec::with_capacity(deal.len()),
            held: Held::default(),
            errands: BTreeSet::new(),
            refused: Refused::default(),
            random: chance(!seed),
            world,
        }
    }

    /// Wakes devices and hands datagrams to them, until all packets are made and answered, or `stop` says so.
    pub(super) async fn live(mut self, mut stop: watch::Receiver<bool>) {
        // One more byte than a device takes, so that what is longer shows.
        let mut buffer = [0; MAX_DOWNLINK + 1];
        let mut over = None;
        loop {
            let due = self.next_due();
            let wake_at = match due {
                Some(due) => self.world.start + due,
                None => *over.get_or_insert_with(|| Instant::now() + LINGER),
            };
            tokio::select! {
                _ = stop.changed() => break,
                () = sleep_until(wake_at) => match due {
                    Some(_) => self.serve_due().await,
                    None => break,
                },
                (port, received) = self.ports.arrival(&mut buffer) => self.receive(port, received, &mut buffer),
            }
            self.receive_all(&mut buffer);
            self.flush().await;
            if self.is_behind() {
                // Else a link that never waits would not learn what has arrived.
                yield_now().await;
            }
        }
        while self.release(Duration::MAX) {}
        self.flush().await;
    }

    fn next_due(&self) -> Option<Duration> {
        let held = self.held.waiting.first_key_value().map(|((due, _), _)| *due);
        held.into_iter().chain(self.schedule.next().map(|due| due.time)).chain(self.next_errand()).min()
    }

    fn next_errand(&self) -> Option<Duration> {
        self.errands.first().map(|(time, _)| *time)
    }

    /// Does what is due in the order in which it is, so that a machine that is late changes nothing of what happens.
    async fn serve_due(&mut self) {
        for _ in 0..WAKES_AT_ONCE {
            let now = self.world.start.elapsed();
            let wake = self.schedule.next().map_or(now, |due| due.time);
            let errand = self.next_errand().unwrap_or(now);
            if self.release(now.min(wake).min(errand)) || self.do_errand(now.min(wake)) {
                continue;
            }
            let Some(due) = self.schedule.take(now) else { break };
            self.wake(due, now).await;
        }
    }

    fn is_behind(&self) -> bool {
        self.next_due().is_some_and(|due| due <= self.world.start.elapsed())
    }

    async fn wake(&mut self, due: Due, now: Duration) {
        let Due { time, at } = due;
        let boot_at = self.schedule.boot_at(at);
        let uptime = now.saturating_sub(boot_at);
        // They boot in the order of their places.
        if at == self.members.len() {
            let (device, expectation) = (self.world.boot(self.deal.index(at), boot_at, uptime), Expectation::default());
            // Neighbours share a port: they are due one after the other, and so leave together.
            let port = (at * self.ports.len() / self.deal.len()) as u8;
            self.members.push(Member { device, expectation, port, errand_at: None });
        }
        let device = &mut self.members[at].device;
        let forgotten = is_forgotten(device, uptime, self.world.config.nat_timeout);
        let wake = device.on_timer(time.saturating_sub(boot_at), uptime);
        // What is left of what a relay has heard is due at once.
        self.schedule.again(at, time.max(boot_at + device.next_send_at()));
        self.note_errand(at);
        match wake {
            Wake::Send(mut uplink) => {
                let fate = self.fate(at, &mut uplink);
                if forgotten {
                    self.change_port(at, Count::NatExpired).await;
                } else if fate.rebound {
                    self.change_port(at, Count::Rebinds).await;
                }
                self.world.stats.sent_at(time, now);
                self.send(at, uplink, fate, time);
            }
            Wake::Reopen => self.change_port(at, Count::Reopened).await,
        }
    }

    /// Does what a device has to do beside its telemetry, if one has until `now`.
    fn do_errand(&mut self, now: Duration) -> bool {
        let Some(&(due, at)) = self.errands.first().filter(|(time, _)| *time <= now) else { return false };
        let uptime = self.world.start.elapsed().saturating_sub(self.schedule.boot_at(at));
        let uplink = self.with_device(at, |device| device.on_errand(uptime));
        if let Some(mut uplink) = uplink {
            let fate = self.fate(at, &mut uplink);
            self.send(at, uplink, fate, due);
        }
        true
    }

    /// Lets a device act upon calls, counts what it carries out, and notes what it has to do next.
    fn with_device<T>(&mut self, at: usize, act: impl FnOnce(&mut Device) -> T) -> T {
        let device = &mut self.members[at].device;
        let before = device.executed();
        let done = act(device);
        let after = device.executed();
        self.world.stats.add_many(Count::Executed, (after.calls - before.calls) as usize);
        self.world.stats.add_many(Count::ExecutedAgain, (after.again - before.again) as usize);
        self.note_errand(at);
        done
    }

    fn note_errand(&mut self, at: usize) {
        let member = &mut self.members[at];
        let errand_at = member.device.errand_at().map(|uptime| self.schedule.boot_at(at) + uptime);
        if member.errand_at == errand_at {
            return;
        }
        if let Some(before) = std::mem::replace(&mut member.errand_at, errand_at) {
            self.errands.remove(&(before, at));
        }
        self.errands.extend(errand_at.map(|time| (time, at)));
    }

    fn fate(&self, at: usize, uplink: &mut Uplink) -> Fate {
        let sequence = header(&mut uplink.bytes).map_or(0, |header| header.sequence);
        Fate::of(&self.world.config, self.deal.index(at), sequence)
    }

    /// From now on the device at place `at` sends from another port. A link with one port opens another socket, and so
    /// moves all devices behind it.
    async fn change_port(&mut self, at: usize, reason: Count) {
        if self.ports.len() > 1 {
            let port = &mut self.members[at].port;
            *port = ((usize::from(*port) + 1) % self.ports.len()) as u8;
        } else {
            // What was sent before still leaves from the old one.
            self.flush().await;
            if let Err(error) = self.ports.reopen(0, self.world.config.gateway) {
                return tracing::warn!(%error, "no new socket for a simulated device, it keeps the old one");
            }
        }
        self.world.stats.add(reason);
    }

    /// A device sends, and the network does as `fate` says.
    fn send(&mut self, at: usize, mut uplink: Uplink, fate: Fate, now: Duration) {
        let stats = &self.world.stats;
        stats.add(match uplink.packet_type {
            PacketType::KEY_IDS => Count::KeyIds,
            PacketType::ECHO_RSP => Count::EchoAnswers,
            PacketType::RPC_RSP => Count::CallAnswers,
            PacketType::RPC_DATA | PacketType::RPC_DATA_ACK => Count::CallData,
            PacketType::EPACKET_CONN_TERMINATED => Count::Terminations,
            PacketType::RECEIVED_EPACKET => Count::Containers,
            _ => Count::Telemetry,
        });
        if uplink.asks {
            stats.add(Count::AcksAsked);
        }
        if fate.lost {
            return stats.add(Count::Lost);
        }
        let Some(Header { packet_type, gps_time, sequence, .. }) = header(&mut uplink.bytes) else { return };
        let boots = packet_type == PacketType::KEY_IDS && sequence == 0;
        let port = self.members[at].port;
        let (entries, copied) = (uplink.entries as u16, fate.copied);
        let sent = Sent { at: at as u32, port, gps_time, sequence, entries, copied, copy: false, boots };
        // A boot that its own telemetry overtakes is judged by rules of which no simple reckoning can be made; and so is the answer
        // to a challenge, which counts however late it is.
        let is_prompt = boots || packet_type == PacketType::ECHO_RSP;
        let [held, copy_held] = [fate.held, fate.copy_held].map(|hold| hold.filter(|_| !is_prompt));
        self.travel(sent, uplink.bytes, copy_held, held, now);
    }

    /// Lets a datagram go on, at once or when it was `held` long enough.
    fn travel(&mut self, sent: Sent, bytes: Vec<u8>, copy_held: CopyHeld, held: Option<Duration>, now: Duration) {
        match held {
            Some(_) if !self.world.room.take() => {
                self.world.stats.add(Count::NotHeld);
                self.leave(sent, bytes, copy_held, now);
            }
            Some(hold) => {
                self.world.stats.add(Count::HeldBack);
                self.held.count += 1;
                self.held.waiting.insert((now.saturating_add(hold), self.held.count), (sent, bytes, copy_held));
            }
            None => self.leave(sent, bytes, copy_held, now),
        }
    }

    /// Lets go of the first that was held back until `now`, if there is one.
    fn release(&mut self, now: Duration) -> bool {
        let first = self.held.waiting.first_entry().filter(|first| first.key().0 <= now);
        let Some(first) = first else { return false };
        let ((due, _), (sent, bytes, copy_held)) = first.remove_entry();
        self.world.room.give_back();
        self.leave(sent, bytes, copy_held, due);
        true
    }

    /// Hands a datagram to its port. A copy of it comes behind it, so that it is the copy for the gateway, too.
    fn leave(&mut self, sent: Sent, bytes: Vec<u8>, copy_held: CopyHeld, now: Duration) {
        let port = usize::from(sent.port);
        self.ports.push(port, &bytes, sent);
        self.last_senders[port] = sent.at as usize;
        if sent.copied {
            self.world.stats.add(Count::Copies);
            self.travel(Sent { copied: false, copy: true, ..sent }, bytes, None, copy_held, now);
        }
    }

    /// Sends what has left the devices, and reckons what the gateway should make of it.
    async fn flush(&mut self) {
        let Self { ports, members, refused, world, .. } = self;
        let now = world.clock.now().gps();
        let left = |sent: &Sent, taken: bool| {
            let copy = sent.copy && !refused.take(sent.at, sent.sequence);
            if !taken {
                if sent.copied {
                    refused.note(sent.at, sent.sequence);
                }
                return world.stats.add(Count::SendFailures);
            }
            let expectation = &mut members[sent.at as usize].expectation;
            if sent.boots && !copy {
                *expectation = Expectation::default();
            }
            let expected = expectation.of(&Leaving { copy, ..sent.leaving(now) });
            if expected == Count::ToAccept {
                world.stats.add_many(Count::Entries, sent.entries.into());
            }
            world.stats.add(expected);
        };
        ports.flush(left).await;
    }

    /// Takes what has arrived at the ports.
    fn receive_all(&mut self, buffer: &mut [u8]) {
        for _ in 0..ARRIVALS_AT_ONCE {
            let Some((port, received)) = self.ports.arrived(buffer) else { break };
            self.receive(port, received, buffer);
        }
    }

    fn receive(&mut self, port: usize, received: io::Result<usize>, buffer: &mut [u8]) {
        match received {
            Ok(len) => self.hear(port, &mut buffer[..len]),
            Err(_) => self.world.stats.add(Count::Unreachable),
        }
    }

    /// A datagram has arrived at a port of the NAT.
    fn hear(&mut self, port: usize, datagram: &mut [u8]) {
        let now = self.world.start.elapsed();
        let at = self.addressee(datagram).unwrap_or(self.last_senders[port]);
        let Some(member) = self.members.get(at) else { return };
        let uptime = now.saturating_sub(self.schedule.boot_at(at));
        let (config, stats) = (&self.world.config, &self.world.stats);
        if self.random.f64() < config.downlink_loss {
            return stats.add(Count::LostDownlinks);
        }
        if usize::from(member.port) != port || is_forgotten(&member.device, uptime, config.nat_timeout) {
            return stats.add(Count::NatMissed);
        }
        let reaction = self.with_device(at, |device| device.on_datagram(uptime, datagram));
        count_heard(&self.world.stats, reaction.heard);
        if let Some(mut reply) = reaction.reply {
            let fate = self.fate(at, &mut reply);
            self.send(at, reply, fate, now);
        }
    }

    /// At which place the device is that a datagram names, if it is one of these and has booted.
    fn addressee(&self, datagram: &mut [u8]) -> Option<usize> {
        let index = identity::device_index(self.world.config.seed, header(datagram)?.device_id)?;
        self.deal.place(index).filter(|at| *at < self.members.len())
    }
}

impl Sent {
    fn leaving(&self, now: u32) -> Leaving {
        let fresh = TimeClass::of(self.gps_time, now) == TimeClass::Fresh;
        Leaving { fresh, gps_time: self.gps_time, sequence: self.sequence, copy: self.copy }
    }
}

/// Whether the NAT no longer keeps a port for the device, after `limit` of silence.
fn is_forgotten(device: &Device, uptime: Duration, limit: Option<Duration>) -> bool {
    let silence = device.last_sent_at().map(|sent_at| uptime.saturating_sub(sent_at));
    silence.zip(limit).is_some_and(|(silence, limit)| silence >= limit)
}

fn header(datagram: &mut [u8]) -> Option<Header> {
    Frame::parse(datagram, Layout::Unversioned).ok().map(|frame| *frame.header())
}

fn count_heard(stats: &Stats, heard: Heard) {
    match heard {
        Heard::Asleep => stats.add(Count::Missed),
        Heard::Short => stats.add(Count::Short),
        Heard::Refused => stats.add(Count::Refused),
        Heard::KeyQuestion => stats.add(Count::KeyQuestions),
        Heard::UnknownKey => stats.add(Count::UnknownKeys),
        Heard::Ack(Some(after)) => stats.acknowledged(after),
        Heard::Ack(None) => stats.add(Count::AcksUnmatched),
        Heard::CallLost => stats.add(Count::CallsLost),
        Heard::Forward => stats.add(Count::Forwarded),
        Heard::Other(_) => stats.add(Count::Unsupported),
        // Counted as their answers.
        Heard::Echo | Heard::Call(_) | Heard::CallBegun | Heard::CallData => {}
    }
}
