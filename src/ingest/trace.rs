//! What was decided of the packets that came in last, for whoever asks why a device is reachable or not.
//!
//! Each ingest thread writes into rings of its own, of a fixed size: authentic packets that did something, authentic ones that
//! did nothing, and what was refused while it named a device. They are apart so that neither a flood of copies nor one of what
//! nobody proved pushes out what counted. Nothing is found by an index: who asks goes through the rings, and that is seldom.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::metrics::Disposition;
use crate::table::accept::Accepted;
use crate::table::route::{Counted, Outcome, Refused};
use crate::table::rules::{RouteChange, Step, TimeClass};
use crate::table::sending::Release;
use crate::wire::frame::{Level, PacketType};

/// Authentic packets that did something and that a thread remembers: a quarter of an hour of a thousand devices that speak twice
/// a minute, a day of ten. They take 2 MiB.
const EFFECTIVE: usize = 32_768;
/// Authentic ones that did nothing: of copies that somebody sends as fast as he can, what came last. They take 512 KiB.
const IDLE: usize = 8_192;
/// Refused ones that a thread remembers: whoever tries a wrong key once a minute is found for days, and a flood leaves what came
/// last. They take 384 KiB, which are there from the start: a flood makes nothing grow.
const REFUSED: usize = 8_192;
/// Entries that are looked at before the thread whose they are gets its turn: it waits for some microseconds.
const LOOKED_AT: usize = 512;

/// What was decided of an authentic packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Its sender.
    pub device: DeviceId,
    /// When it arrived.
    pub at: Timestamp,
    /// The address its datagram came from; the relay's for a relayed packet.
    pub source: SocketAddr,
    /// The relay that passed it on.
    pub relay: Option<DeviceId>,
    /// Its level.
    pub level: Level,
    /// Its type.
    pub packet_type: PacketType,
    /// Its time class at arrival.
    pub class: TimeClass,
    /// Its sequence.
    pub sequence: u16,
    /// Its GPS time.
    pub gps_time: u32,
    /// What was decided.
    pub decision: Decision,
}

/// What was decided of an authentic packet, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It counted.
    Counted {
        /// The step of rule R4 that let it count.
        step: Step,
        /// What it did to the route of its slot.
        change: RouteChange,
        /// It answers a challenge.
        is_answer: bool,
        /// Whether it lets what waits for its device leave.
        release: Release,
    },
    /// It did not count: a duplicate, or too old.
    Refused {
        /// The step of rule R4 that refused it.
        step: Step,
        /// It answers a challenge all the same.
        is_answer: bool,
    },
    /// Rule R2: one of our own downlinks came back.
    Reflected,
    /// Rule R8: the device belongs to another organisation than its relay, or than the network it speaks under.
    Foreign,
    /// Rule R9: only registered devices are served.
    NotRegistered,
}

impl Decision {
    /// What the packet ended in.
    pub const fn disposition(self) -> Disposition {
        match self {
            Self::Counted { .. } => Disposition::Accepted,
            Self::Refused { step: Step::TooOld, .. } => Disposition::TooOld,
            Self::Refused { .. } => Disposition::Duplicate,
            Self::Reflected => Disposition::Reflected,
            Self::Foreign | Self::NotRegistered => Disposition::NotRegistered,
        }
    }

    /// Whether the packet did anything. Nobody can bring that about as often as he likes with what he has recorded.
    const fn is_effective(self) -> bool {
        matches!(self, Self::Counted { .. } | Self::Refused { is_answer: true, .. })
    }

    /// The rule that decided.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Counted { step, .. } | Self::Refused { step, .. } => step.name(),
            Self::Reflected => "R2",
            Self::Foreign => "R8",
            Self::NotRegistered => "R9",
        }
    }
}

impl From<&Accepted> for Decision {
    fn from(accepted: &Accepted) -> Self {
        let outcome = match accepted {
            Accepted::Reflected => return Self::Reflected,
            Accepted::Foreign => return Self::Foreign,
            Accepted::Recorded { outcome, .. } => outcome,
        };
        match *outcome {
            Outcome::Counted(Counted { step, change, is_answer, release, .. }) => {
                Self::Counted { step, change, is_answer, release }
            }
            Outcome::Refused(Refused { step, answered, .. }) => Self::Refused { step, is_answer: answered.is_some() },
            Outcome::NotRegistered => Self::NotRegistered,
        }
    }
}

/// What was refused before anything in it was proved. Anybody may have sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedClaim {
    /// The device that it claims to be from.
    pub device: DeviceId,
    /// When it arrived.
    pub at: Timestamp,
    /// The address its datagram came from; the relay's for an entry of a container.
    pub source: SocketAddr,
    /// The relay in whose container it was.
    pub relay: Option<DeviceId>,
    /// The level that it claims.
    pub level: Level,
    /// The key that it names.
    pub key_id: KeyId,
    /// Why it was refused.
    pub disposition: Disposition,
}

/// What all ingest threads remember.
#[derive(Debug, Default)]
pub struct Traces(Mutex<Vec<Arc<Trace>>>);

impl Traces {
    /// The rings of another thread.
    pub(super) fn add(&self) -> Arc<Trace> {
        let trace = Arc::<Trace>::default();
        lock(&self.0).push(Arc::clone(&trace));
        trace
    }

    /// What was decided of the last authentic packets of a device, the latest first: at most so many of those that counted or
    /// answered, and as many of those that did neither.
    pub fn latest(&self, device: DeviceId, most: usize) -> Vec<Decided> {
        let threads = self.threads();
        let order = |entry: &DecidedEntry| (entry.at, entry.number);
        let is_wanted = |entry: &DecidedEntry| entry.device == device;
        let effective = threads.iter().flat_map(|trace| find(&trace.effective, most, is_wanted));
        let idle = threads.iter().flat_map(|trace| find(&trace.idle, most, is_wanted));
        let both = newest(effective, most, order).into_iter().chain(newest(idle, most, order));
        newest(both, usize::MAX, order).into_iter().map(Decided::from).collect()
    }

    /// What was refused last of all that claimed to be from a device, the latest first, at most so many.
    pub fn latest_refused(&self, device: DeviceId, most: usize) -> Vec<RefusedClaim> {
        let is_wanted = |entry: &RefusedEntry| entry.device == device && entry.disposition != Disposition::Accepted;
        let find = |trace: &Trace| find(&trace.refused, most, is_wanted);
        newest(self.threads().iter().flat_map(|trace| find(trace)).map(RefusedClaim::from), most, |claim| claim.at)
    }

    fn threads(&self) -> Vec<Arc<Trace>> {
        lock(&self.0).clone()
    }
}

/// What one thread remembers. Its locks are those of one writer, who waits only for somebody who asks.
#[derive(Debug)]
pub(super) struct Trace {
    effective: Mutex<Ring<DecidedEntry, EFFECTIVE>>,
    idle: Mutex<Ring<DecidedEntry, IDLE>>,
    /// Entries that were ever written into the two.
    written: AtomicU64,
    refused: Mutex<Ring<RefusedEntry, REFUSED>>,
}

impl Default for Trace {
    fn default() -> Self {
        let refused = Ring { entries: vec![RefusedEntry::NONE; REFUSED], written: REFUSED as u64 };
        Self {
            effective: Mutex::default(),
            idle: Mutex::default(),
            written: AtomicU64::new(0),
            refused: Mutex::new(refused),
        }
    }
}

impl Trace {
    /// Writes down what was decided. Allocates nothing.
    pub(super) fn decided(&self, decided: &Decided) {
        // Nobody else writes.
        let number = self.written.load(Ordering::Relaxed);
        self.written.store(number + 1, Ordering::Relaxed);
        let entry = DecidedEntry::new(decided, number);
        if decided.decision.is_effective() {
            lock(&self.effective).push(entry);
        } else {
            lock(&self.idle).push(entry);
        }
    }

    /// Writes down what was refused. Allocates nothing.
    pub(super) fn refused(&self, claim: &RefusedClaim) {
        lock(&self.refused).push(claim.into());
    }
}

/// The last entries, in the room that was taken for them at the start.
#[derive(Debug)]
struct Ring<T, const ROOM: usize> {
    entries: Vec<T>,
    /// Entries that were ever written. The one with number `n` is at `n % ROOM`.
    written: u64,
}

impl<T, const ROOM: usize> Default for Ring<T, ROOM> {
    fn default() -> Self {
        Self { entries: Vec::with_capacity(ROOM), written: 0 }
    }
}

impl<T, const ROOM: usize> Ring<T, ROOM> {
    fn push(&mut self, entry: T) {
        if self.entries.len() < ROOM {
            self.entries.push(entry);
        } else {
            let index = Self::index(self.written);
            self.entries[index] = entry;
        }
        self.written += 1;
    }

    const fn index(number: u64) -> usize {
        (number % ROOM as u64) as usize
    }

    /// The numbers of the entries that are still there.
    fn oldest(&self) -> u64 {
        self.written - self.entries.len() as u64
    }
}

/// The entries that are looked for, the latest first, at most so many. The lock is given back now and then; what is overwritten
/// meanwhile is not found.
fn find<T: Copy, const ROOM: usize>(
    ring: &Mutex<Ring<T, ROOM>>,
    most: usize,
    is_wanted: impl Fn(&T) -> bool,
) -> Vec<T> {
    let mut found = Vec::new();
    let mut before = lock(ring).written;
    while found.len() < most {
        let ring = lock(ring);
        let from = ring.oldest().max(before.saturating_sub(LOOKED_AT as u64));
        if from >= before {
            break;
        }
        let entries = (from..before).rev().map(|number| &ring.entries[Ring::<T, ROOM>::index(number)]);
        let wanted = entries.filter(|entry| is_wanted(entry));
        found.extend(wanted.take(most - found.len()));
        before = from;
    }
    found
}

/// Those of all threads in one order.
fn newest<T, K: Ord>(found: impl Iterator<Item = T>, most: usize, order: impl Fn(&T) -> K) -> Vec<T> {
    let mut found: Vec<_> = found.collect();
    // Stable: of one millisecond, thread and ring, the later one stays first.
    found.sort_by_key(|entry| std::cmp::Reverse(order(entry)));
    found.truncate(most);
    found
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A [`Decided`] in 64 bytes: an address takes 18 instead of 32.
#[derive(Clone, Copy, Debug)]
struct DecidedEntry {
    /// Tells which of two of the same thread and millisecond came first, whichever ring they are in.
    number: u64,
    device: DeviceId,
    at: Timestamp,
    relay: DeviceId,
    ip: [u8; 16],
    gps_time: u32,
    port: u16,
    sequence: u16,
    packet_type: PacketType,
    level: Level,
    class: TimeClass,
    is_relayed: bool,
    decision: Decision,
}

const _: () = assert!(size_of::<DecidedEntry>() <= 64 && size_of::<RefusedEntry>() <= 48);

impl DecidedEntry {
    fn new(decided: &Decided, number: u64) -> Self {
        let Decided { device, at, source, relay, level, packet_type, class, sequence, gps_time, decision } = *decided;
        Self {
            number,
            device,
            at,
            relay: relay.unwrap_or(DeviceId(0)),
            ip: octets(source),
            gps_time,
            port: source.port(),
            sequence,
            packet_type,
            level,
            class,
            is_relayed: relay.is_some(),
            decision,
        }
    }
}

impl From<DecidedEntry> for Decided {
    fn from(entry: DecidedEntry) -> Self {
        let DecidedEntry { device, at, level, packet_type, class, sequence, gps_time, decision, .. } = entry;
        let (source, relay) = (address(entry.ip, entry.port), entry.is_relayed.then_some(entry.relay));
        Self { device, at, source, relay, level, packet_type, class, sequence, gps_time, decision }
    }
}

/// A [`RefusedClaim`] in 48 bytes.
#[derive(Clone, Copy, Debug)]
struct RefusedEntry {
    device: DeviceId,
    at: Timestamp,
    relay: DeviceId,
    ip: [u8; 16],
    port: u16,
    key_id: [u8; 3],
    level: Level,
    is_relayed: bool,
    disposition: Disposition,
}

impl RefusedEntry {
    /// In place of what is yet to come: nothing that was accepted was refused.
    const NONE: Self = Self {
        device: DeviceId(0),
        at: Timestamp(0),
        relay: DeviceId(0),
        ip: [0; 16],
        port: 0,
        key_id: [0; 3],
        level: Level::Network,
        is_relayed: false,
        disposition: Disposition::Accepted,
    };
}

impl From<&RefusedClaim> for RefusedEntry {
    fn from(claim: &RefusedClaim) -> Self {
        let RefusedClaim { device, at, source, relay, level, key_id, disposition } = *claim;
        Self {
            device,
            at,
            relay: relay.unwrap_or(DeviceId(0)),
            ip: octets(source),
            port: source.port(),
            key_id: key_id.to_le_bytes(),
            level,
            is_relayed: relay.is_some(),
            disposition,
        }
    }
}

impl From<RefusedEntry> for RefusedClaim {
    fn from(entry: RefusedEntry) -> Self {
        let RefusedEntry { device, at, level, disposition, .. } = entry;
        let (source, relay) = (address(entry.ip, entry.port), entry.is_relayed.then_some(entry.relay));
        Self { device, at, source, relay, level, key_id: KeyId::from_le_bytes(entry.key_id), disposition }
    }
}

fn octets(address: SocketAddr) -> [u8; 16] {
    match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// In the form of [`crate::table::route::canonical`].
fn address(octets: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(7);

    fn source(number: u64) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number as u16))
    }

    fn decided(device: DeviceId, number: u64) -> Decided {
        Decided {
            device,
            at: Timestamp(number),
            source: source(number),
            relay: number.is_multiple_of(2).then_some(DeviceId(number)),
            level: Level::Device,
            packet_type: PacketType::TDF,
            class: TimeClass::Fresh,
            sequence: number as u16,
            gps_time: number as u32,
            decision: Decision::Counted {
                step: Step::SameSession,
                change: RouteChange::Moved,
                is_answer: true,
                release: Release::Yes,
            },
        }
    }

    fn claim(device: DeviceId, number: u64) -> RefusedClaim {
        RefusedClaim {
            device,
            at: Timestamp(number),
            source: source(number),
            relay: number.is_multiple_of(2).then_some(DeviceId(number)),
            level: Level::Device,
            key_id: KeyId::from_le_bytes([1, 2, 3]),
            disposition: Disposition::BadTag,
        }
    }

    #[test]
    fn the_latest_of_a_device_are_found_over_all_threads_the_latest_first() {
        let traces = Traces::default();
        let threads = [traces.add(), traces.add()];
        for number in 0..2000 {
            let device = if number % 10 == 0 { DEVICE } else { DeviceId(8) };
            threads[number as usize / 10 % 2].decided(&decided(device, number));
            threads[number as usize / 10 % 2].refused(&claim(device, number));
        }
        let expected = [1990, 1980, 1970];
        assert_eq!(traces.latest(DEVICE, 3), expected.map(|number| decided(DEVICE, number)));
        assert_eq!(traces.latest_refused(DEVICE, 3), expected.map(|number| claim(DEVICE, number)));
        assert_eq!((traces.latest(DEVICE, 1000).len(), traces.latest_refused(DEVICE, 1000).len()), (200, 200));
        assert_eq!((traces.latest(DeviceId(0), 9), traces.latest_refused(DeviceId(0), 9)), (vec![], vec![]));
        assert_eq!(traces.latest(DEVICE, 0), []);
    }

    #[test]
    fn a_full_ring_keeps_the_last_entries_in_the_room_there_was_and_refused_ones_push_out_nothing_authentic() {
        let traces = Traces::default();
        let thread = traces.add();
        let capacities = || (lock(&thread.effective).entries.capacity(), lock(&thread.refused).entries.capacity());
        let before = capacities();
        let more = 1000;
        for number in 0..EFFECTIVE as u64 + more {
            thread.decided(&decided(DEVICE, number));
            thread.refused(&claim(DEVICE, number));
        }
        let (kept, refused) = (traces.latest(DEVICE, usize::MAX), traces.latest_refused(DEVICE, usize::MAX));
        assert_eq!((kept.len(), refused.len(), capacities()), (EFFECTIVE, REFUSED, before));
        assert_eq!(
            (kept.first(), kept.last()),
            (Some(&decided(DEVICE, EFFECTIVE as u64 + more - 1)), Some(&decided(DEVICE, more)))
        );
        for number in 0..2 * EFFECTIVE as u64 {
            thread.refused(&claim(DeviceId(8), number));
        }
        assert_eq!((traces.latest(DEVICE, usize::MAX), traces.latest_refused(DEVICE, 1)), (kept, vec![]));
    }

    #[test]
    fn copies_push_out_nothing_that_counted_or_answered_and_all_are_told_in_the_order_they_came_in() {
        let traces = Traces::default();
        let thread = traces.add();
        let at = Timestamp(7);
        let counted = Decided { at, ..decided(DEVICE, 1) };
        let refused = |is_answer| Decision::Refused { step: Step::BitSet, is_answer };
        let answered = Decided { at, decision: refused(true), ..decided(DEVICE, 2) };
        let copy = Decided { at, decision: refused(false), ..decided(DEVICE, 3) };
        let last = Decided { at, ..decided(DEVICE, 4) };
        [&counted, &answered].into_iter().for_each(|packet| thread.decided(packet));
        (0..2 * EFFECTIVE).for_each(|_| thread.decided(&copy));
        thread.decided(&last);
        assert_eq!(traces.latest(DEVICE, 3), [last, copy, copy, copy, answered, counted]);
        assert_eq!(traces.latest(DEVICE, 1), [last, copy]);
        assert_eq!(traces.latest(DEVICE, usize::MAX).len(), IDLE + 3);
    }

    #[test]
    fn an_entry_says_what_it_was_made_of_in_one_form_of_each_address() {
        let traces = Traces::default();
        let thread = traces.add();
        let mapped = SocketAddr::from((std::net::Ipv4Addr::new(192, 0, 2, 9).to_ipv6_mapped(), 1));
        let sixth = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 2));
        for source in [mapped, sixth] {
            thread.decided(&Decided { source, ..decided(DEVICE, 1) });
        }
        let sources: Vec<_> = traces.latest(DEVICE, 2).iter().map(|decided| decided.source).collect();
        assert_eq!(sources, [sixth, SocketAddr::from(([192, 0, 2, 9], 1))]);
        let refused = |step| Decision::Refused { step, is_answer: false };
        let decisions = [refused(Step::TooOld), refused(Step::BitSet), Decision::Reflected, Decision::Foreign];
        let ends = decisions.map(|decision| (decision.disposition().label(), decision.rule()));
        let expected = [
            ("too_old", Step::TooOld.name()),
            ("duplicate", Step::BitSet.name()),
            ("reflected", "R2"),
            ("not_registered", "R8"),
        ];
        assert_eq!(ends, expected);
    }
}
