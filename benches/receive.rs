//! What receiving one datagram costs the receiving thread, next to a bare sink in the same run. One command each for
//!
//! - counting, next to sinks that do nothing: `cargo bench --bench receive [-- ROUNDS DEVICES ACK_PERCENT]`, by default 7
//!   rounds of 100 000 devices without acknowledgements, about a minute;
//! - refusing, next to counting: `cargo bench --bench receive -- refused [ROUNDS DEVICES]`, about two minutes;
//! - several ingest threads, next to one: `cargo bench --bench receive -- threads [N ROUNDS DEVICES]`, by default 2 threads. It
//!   wants two whole cores for each thread, and measures nothing where there are fewer.
//!
//! The first two want two idle cores: the sender takes the last one for itself. All contenders take turns in each round, so that
//! a noisy minute hits them all. Every datagram that counts is a genuine packet of a device that was heard before, from where
//! it is sent. A run counts only if the receive calls brought [`FULL_ENOUGH`] datagrams on average: see `load`.
//!
//! The built program needs no files: it may be copied to a larger machine.
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;
mod load;

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fleet::{Fleet, NETWORK, ROOT};
use lastroute::auth::keys::{DeviceKey, RootKey};
use lastroute::clock::{Clock, Timestamp};
use lastroute::id::KeyId;
use lastroute::ingest::pipeline::{Core, Pipeline};
use lastroute::ingest::posts::Posts;
use lastroute::metrics::{Counters, Disposition};
use lastroute::udp::{BoundSocket, RECEIVE_BATCH, Receiver};
use lastroute::wire::frame::Flags;
use load::{
    DATAGRAM, Datagrams, FULL_ENOUGH, LISTEN, RECEIVE_BUFFER, Sender, WINDOW, cores, pin, plain_socket, spread,
    thread_time,
};
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg};

/// One way to receive: binds a socket, says where it is ([`Load::start`]), and receives until the meter is full.
type Contender = fn(&Load, &mut Meter);

/// The first is what the others are compared with.
const CONTENDERS: [(&str, Contender); 5] = [
    ("bare recvmmsg, 64 a call", bare_sink),
    ("tokio recv_from, nothing else", tokio_recv_from),
    ("lastroute receiver, nothing else", lastroute_receiver),
    ("lastroute gateway, all rules", |load, meter| lastroute_gateway(load, meter, LISTEN)),
    ("the same, on all addresses", |load, meter| lastroute_gateway(load, meter, "0.0.0.0:0")),
];

/// Datagrams received before the meter starts, and while it runs.
const WARM_UP: u64 = 100_000;
const MEASURED: u64 = 1_000_000;

/// Packets that are enough for a run in which each counts: one of each device, then the next of each.
const COUNTED: u64 = WARM_UP + MEASURED + 4 * WINDOW;

fn main() {
    // Cargo adds a flag of its own.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).peekable();
    let mode = arguments.next_if(|argument| argument.parse::<u64>().is_err());
    let mut numbers = arguments.map(|argument| argument.parse::<u64>().unwrap());
    let mut number = |otherwise| numbers.next().unwrap_or(otherwise);
    match mode.as_deref() {
        None => count(number(7), number(100_000), number(0)),
        Some("refused") => refuse(number(5), number(100_000)),
        Some("threads") => load::threads::compare(number(2) as usize, number(5), number(100_000)),
        Some(other) => panic!("{other}: write refused or threads, or numbers alone"),
    }
}

/// What counting costs.
fn count(rounds: u64, devices: u64, ack_percent: u64) {
    announce(rounds, devices);
    println!("{ack_percent} % of the packets ask for an acknowledgement\n");
    let sender = Sender::new(split());
    let fleet = Fleet::new(Clock::default().now());
    let flags = |number| if number % 100 < ack_percent { Flags::ACK_REQUEST } else { 0 };
    let datagrams = load::datagrams(COUNTED, |number, out| {
        fleet.packet(number % devices, 1 + (number / devices) as u16, flags(number), out);
    });
    let load = Load::new(&fleet, &sender, devices, datagrams);
    let mut runs = vec![Vec::new(); CONTENDERS.len()];
    for _ in 0..rounds {
        for (runs, (_, contender)) in runs.iter_mut().zip(CONTENDERS) {
            let mut meter = Meter::default();
            contender(&load, &mut meter);
            runs.push(meter.result());
        }
    }
    println!("| receiver | ns CPU/datagram (least..most) | sink / this | datagrams/call | saturated |");
    println!("| --- | --- | --- | --- | --- |");
    for (own, (name, _)) in runs.iter().zip(CONTENDERS) {
        report(name, own, |own| ratio(&runs[0], own));
    }
    println!("\ngateway / tokio loop: {:.2}", ratio(&runs[3], &runs[1]));
}

/// A kind of datagram, and what the gateway makes of it.
struct Kind {
    name: &'static str,
    /// Those of the device level are compared with each other, and so are the others.
    level: u16,
    /// The device's own keys are known, this many.
    keys: usize,
    /// The devices were heard today.
    is_heard: bool,
    /// What makes a genuine packet one of this kind.
    change: fn(&mut [u8]),
    becomes: Disposition,
    /// Its place among [`KINDS`] is that of what it is compared with.
    against: usize,
}

fn unchanged(_: &mut [u8]) {}

fn spoil(bytes: &mut [u8]) {
    *bytes.last_mut().unwrap() ^= 1;
}

/// Another network than the one that is known. Where the field lies: docs/protocol.md, frames.
fn rename(bytes: &mut [u8]) {
    bytes[3..6].copy_from_slice(&[1, 2, 3]);
}

const DEVICE: u16 = Flags::DEVICE_KEY;

/// The second key of devices that have two.
const SECOND: KeyId = KeyId::from_le_bytes([0x18, 0x0a, 0x00]);

/// The first three are what the others are compared with. An unknown device is compared with a packet of the network level, which
/// is the stricter way; a bad tag whose key is to be derived with a packet whose key is: devices that speak by two keys in turn have
/// each derived each time, for the one that is kept is the other one.
const KINDS: [Kind; 8] = [
    kind("counted, network level", 0, unchanged, Disposition::Accepted),
    Kind { keys: 1, against: 1, ..kind("counted, device level", DEVICE, unchanged, Disposition::Accepted) },
    Kind {
        keys: 2,
        against: 2,
        ..kind("counted, device level, key derived", DEVICE, unchanged, Disposition::Accepted)
    },
    kind("unknown network", 0, rename, Disposition::UnknownNetwork),
    kind("unknown device", DEVICE, unchanged, Disposition::UnknownDevice),
    kind("bad tag, network level", 0, spoil, Disposition::BadTag),
    Kind { keys: 1, against: 1, ..kind("bad tag, device level, heard today", DEVICE, spoil, Disposition::BadTag) },
    Kind {
        keys: 1,
        is_heard: false,
        against: 2,
        ..kind("bad tag, device level, key derived", DEVICE, spoil, Disposition::BadTag)
    },
];

const fn kind(name: &'static str, level: u16, change: fn(&mut [u8]), becomes: Disposition) -> Kind {
    Kind { name, level, keys: 0, is_heard: true, change, becomes, against: 0 }
}

impl Kind {
    /// The next packet of each device, and again.
    fn write(&self, fleet: &Fleet, devices: u64, number: u64, out: &mut Vec<u8>) {
        let (index, round) = (number % devices, number / devices);
        // The first one of all, which was before, was by the first key.
        let key_id = if self.keys == 2 && round.is_multiple_of(2) { SECOND } else { NETWORK };
        fleet.packet_by(key_id, index, 1 + round as u16, self.level, out);
        (self.change)(out);
    }

    /// Lets a gateway know the keys of a device.
    fn know(&self, core: &Core, index: u64) {
        let key = |key_id| DeviceKey { key_id: Some(key_id), root: RootKey::new(ROOT) };
        if self.keys > 0 {
            core.keys.set_device(fleet::device(index), key(NETWORK), (self.keys == 2).then(|| key(SECOND)));
        }
    }
}

/// What refusing costs, with the socket and all.
fn refuse(rounds: u64, devices: u64) {
    announce(rounds, devices);
    println!();
    let sender = Sender::new(split());
    let fleet = Fleet::new(Clock::default().now());
    let loads = KINDS.map(|kind| {
        // What is refused may come again and again: nothing is remembered of it.
        let count = if kind.becomes == Disposition::Accepted { COUNTED } else { 4 * WINDOW };
        let write = |number, out: &mut Vec<u8>| kind.write(&fleet, devices, number, out);
        Load::new(&fleet, &sender, devices, load::datagrams(count, write))
    });
    let mut runs = vec![Vec::new(); KINDS.len()];
    for _ in 0..rounds {
        for ((runs, kind), load) in runs.iter_mut().zip(&KINDS).zip(&loads) {
            let mut meter = Meter::default();
            receive_kind(kind, load, &mut meter);
            runs.push(meter.result());
        }
    }
    println!("| datagram | ns CPU/datagram (least..most) | this / counted | datagrams/call | saturated |");
    println!("| --- | --- | --- | --- | --- |");
    for (own, kind) in runs.iter().zip(&KINDS) {
        report(kind.name, own, |own| ratio(own, &runs[kind.against]));
    }
}

fn receive_kind(kind: &Kind, load: &Load, meter: &mut Meter) {
    let core = fleet::core(load.sealed_at);
    (0..load.devices).for_each(|index| kind.know(&core, index));
    let mut pipeline = Pipeline::new(core);
    if kind.is_heard {
        let level = if kind.keys > 0 { kind.level } else { 0 };
        load.hear(&mut pipeline, level);
    }
    run_gateway(load, pipeline, (LISTEN, kind.becomes), meter);
}

fn announce(rounds: u64, devices: u64) {
    println!("{} cores, {rounds} rounds of {MEASURED} datagrams of {DATAGRAM} bytes each", cores().len());
    println!("{devices} devices");
}

/// Keeps this thread on the first core; returns the last one, for the sender.
fn split() -> usize {
    let cores = cores();
    pin(cores[0]);
    cores[cores.len() - 1]
}

/// A sink that does nothing but receive: no addresses, no control messages, no runtime.
fn bare_sink(load: &Load, meter: &mut Meter) {
    let socket = plain_socket();
    let sender = load.start(socket.local_addr().unwrap(), meter.seen());
    let mut headers = MultiHeaders::<()>::preallocate(RECEIVE_BATCH, None);
    let mut buffers = Box::new([[0; 2048]; RECEIVE_BATCH]);
    while meter.goes_on() {
        let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None).unwrap();
        meter.received(received.count());
    }
    sender.stop();
}

/// What a first draft of a server does: one call of the runtime for each datagram.
fn tokio_recv_from(load: &Load, meter: &mut Meter) {
    runtime().block_on(async {
        let socket = plain_socket();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        let sender = load.start(socket.local_addr().unwrap(), meter.seen());
        let mut buffer = [0; 2048];
        while meter.goes_on() {
            socket.recv_from(&mut buffer).await.unwrap();
            meter.received(1);
        }
        sender.stop();
    });
}

/// The gateway's own receive loop, which looks at nothing.
fn lastroute_receiver(load: &Load, meter: &mut Meter) {
    runtime().block_on(async {
        let socket = BoundSocket::bind(LISTEN.parse().unwrap(), RECEIVE_BUFFER).unwrap();
        let sender = load.start(socket.address(), meter.seen());
        let mut receiver = Receiver::new(Arc::new(socket.register().unwrap()));
        while meter.goes_on() {
            let received = receiver.receive().await.unwrap();
            meter.received(received);
        }
        sender.stop();
    });
}

/// The gateway: its own loop, with every device known from an earlier packet.
fn lastroute_gateway(load: &Load, meter: &mut Meter, listen: &str) {
    let mut pipeline = Pipeline::new(fleet::core(load.sealed_at));
    load.hear(&mut pipeline, 0);
    run_gateway(load, pipeline, (listen, Disposition::Accepted), meter);
}

/// Receives at an address until enough has become what it should. Nothing else may come of anything.
fn run_gateway(load: &Load, pipeline: Pipeline, (listen, becomes): (&str, Disposition), meter: &mut Meter) {
    let counters = Arc::new(Counters::default());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let watched = Arc::clone(&counters);
    let ended = move || watched.read().datagrams[becomes as usize];
    let seen = ended.clone();
    let watcher = std::thread::spawn(move || {
        while ended() < WARM_UP + MEASURED {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.send(true).unwrap();
    });
    runtime().block_on(async {
        let socket = BoundSocket::bind(listen.parse().unwrap(), RECEIVE_BUFFER).unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], socket.address().port()));
        let sender = load.start(to, seen);
        let socket = Arc::new(socket.register().unwrap());
        let mailbox = Posts::to_threads(1).1.remove(0);
        // On the same thread, whose time it reads.
        let warm = async {
            loop {
                let tally = counters.read();
                let datagrams: u64 = tally.datagrams.iter().sum();
                if datagrams >= WARM_UP {
                    return (thread_time(), datagrams, tally.receives);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let receiving = lastroute::ingest::run(socket, pipeline, mailbox, counters.clone(), Clock::default(), stopped);
        let (started, ()) = tokio::join!(warm, receiving);
        meter.used = thread_time();
        sender.stop();
        let tally = counters.read();
        meter.datagrams = tally.datagrams.iter().sum();
        meter.calls = tally.receives;
        meter.started = Some(started);
        let expected = tally.datagrams[becomes as usize];
        assert_eq!(expected, meter.datagrams, "a packet came twice, or not in order: {tally:?}");
    });
    watcher.join().unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What is sent to a contender, and from where.
struct Load<'a> {
    fleet: &'a Fleet,
    sender: &'a Sender,
    devices: u64,
    sealed_at: Timestamp,
    datagrams: Datagrams,
}

impl<'a> Load<'a> {
    fn new(fleet: &'a Fleet, sender: &'a Sender, devices: u64, datagrams: Datagrams) -> Self {
        Self { fleet, sender, devices, sealed_at: Clock::default().now(), datagrams }
    }

    /// Every device is heard once, from where it will be heard again.
    fn hear(&self, pipeline: &mut Pipeline, flags: u16) {
        fleet::hear(pipeline, self.fleet, 0..self.devices, flags, self.sender.address(), self.sealed_at);
    }

    fn start(&self, to: SocketAddr, seen: impl Fn() -> u64 + Send + 'static) -> load::Running {
        self.sender.start(to, &self.datagrams, seen)
    }
}

/// Counts what one run received, and the time the processor spent on it in this thread, from the end of the warm-up on.
#[derive(Default)]
struct Meter {
    datagrams: u64,
    calls: u64,
    /// What the sender knows of `datagrams`: told once a batch.
    seen: Arc<AtomicU64>,
    started: Option<(Duration, u64, u64)>,
    used: Duration,
}

impl Meter {
    /// How far the receiver is, for the sender.
    fn seen(&self) -> impl Fn() -> u64 + use<> {
        let seen = Arc::clone(&self.seen);
        move || seen.load(Ordering::Relaxed)
    }

    fn goes_on(&self) -> bool {
        self.datagrams < WARM_UP + MEASURED
    }

    /// One receive call brought `datagrams`.
    fn received(&mut self, datagrams: usize) {
        let before = self.datagrams;
        self.datagrams += datagrams as u64;
        self.calls += 1;
        if self.datagrams / RECEIVE_BATCH as u64 != before / RECEIVE_BATCH as u64 {
            self.seen.store(self.datagrams, Ordering::Relaxed);
        }
        if self.started.is_none() && self.datagrams >= WARM_UP {
            self.started = Some((thread_time(), self.datagrams, self.calls));
        }
        if !self.goes_on() {
            self.used = thread_time();
        }
    }

    fn result(&self) -> Run {
        let (time, datagrams, calls) = self.started.unwrap();
        let datagrams = (self.datagrams - datagrams) as f64;
        Run {
            nanoseconds: (self.used - time).as_nanos() as f64 / datagrams,
            datagrams_per_call: datagrams / (self.calls - calls) as f64,
        }
    }
}

/// One contender in one round.
#[derive(Clone)]
struct Run {
    /// Of the receiving thread, for each datagram.
    nanoseconds: f64,
    datagrams_per_call: f64,
}

/// The middle of the ratios of each round.
fn ratio(of: &[Run], to: &[Run]) -> f64 {
    spread(of.iter().zip(to).map(|(of, to)| of.nanoseconds / to.nanoseconds).collect()).1
}

fn report(name: &str, runs: &[Run], ratio: impl Fn(&[Run]) -> f64) {
    let (least, middle, most) = spread(runs.iter().map(|run| run.nanoseconds).collect());
    let (fewest, batch, _) = spread(runs.iter().map(|run| run.datagrams_per_call).collect());
    // A call for each datagram says nothing about how full the queue was.
    let saturated = match batch {
        1.0 => "not shown",
        _ if fewest >= FULL_ENOUGH => "yes",
        _ => "NO: not a valid run",
    };
    let ratio = ratio(runs);
    println!("| {name} | {middle:.0} ({least:.0}..{most:.0}) | {ratio:.2} | {batch:.1} | {saturated} |");
}
