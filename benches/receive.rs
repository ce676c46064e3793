//! What receiving one datagram costs the receiving thread, next to a bare sink in the same run.
//!
//! `cargo bench --bench receive [-- ROUNDS DEVICES ACK_PERCENT]`, by default 7 rounds of 100 000 devices without
//! acknowledgements, about 45 seconds. It wants two idle cores: the sender takes the last one for itself. All contenders
//! take turns in each round, so that a noisy minute hits them all. Every datagram is a genuine packet.
//!
//! Only a receiver that always finds a full batch shows what a datagram costs at the limit; one that waits pays for
//! waking up instead. The sender therefore hands the kernel trains of equal datagrams (`UDP_SEGMENT`), which the kernel
//! cuts on the sender's core, and a run counts only if the receive calls brought [`FULL_ENOUGH`] datagrams on average. It
//! stays [`WINDOW`] datagrams ahead and no more: the queue is never empty, nothing is dropped, and each packet arrives
//! once.
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fleet::Fleet;
use lastroute::clock::{Clock, Timestamp};
use lastroute::ingest::pipeline::{Datagram, Pipeline};
use lastroute::ingest::posts::Posts;
use lastroute::ingest::replies::Replies;
use lastroute::metrics::{Counters, Disposition};
use lastroute::table::sending::Via;
use lastroute::udp::{BoundSocket, RECEIVE_BATCH, Receiver};
use lastroute::wire::frame::Flags;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// One way to receive: binds a socket, says where it is ([`Load::start`]), and receives until the meter is full.
type Contender = fn(&Load, &mut Meter);

/// The first is what the others are compared with.
const CONTENDERS: [(&str, Contender); 4] = [
    ("bare recvmmsg, 64 a call", bare_sink),
    ("tokio recv_from, nothing else", tokio_recv_from),
    ("lastroute receiver, nothing else", lastroute_receiver),
    ("lastroute gateway, all rules", lastroute_gateway),
];

/// Datagrams received before the meter starts, and while it runs.
const WARM_UP: u64 = 100_000;
const MEASURED: u64 = 1_000_000;

/// Mean datagrams of a receive call from which a run counts as saturated.
const FULL_ENOUGH: f64 = 30.0;

/// Asked of the kernel by every contender, as by the gateway: [`WINDOW`] datagrams take about a sixth of it. Without the right
/// to administer the network the kernel gives less, and the run says that datagrams were dropped.
const RECEIVE_BUFFER: usize = 64 << 20;

const LISTEN: &str = "127.0.0.1:0";

fn main() {
    let mut arguments = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let rounds = arguments.next().unwrap_or(7);
    let devices = arguments.next().unwrap_or(100_000);
    let ack_percent = arguments.next().unwrap_or(0);
    let cores = std::thread::available_parallelism().unwrap().get();
    println!("{cores} cores, {rounds} rounds of {MEASURED} datagrams of {DATAGRAM} bytes each");
    println!("{devices} devices, {ack_percent} % of the packets ask for an acknowledgement\n");
    pin(0);
    let load = Load::new(devices, ack_percent, cores - 1);
    let mut runs = vec![Vec::new(); CONTENDERS.len()];
    for _ in 0..rounds {
        for (runs, (_, contender)) in runs.iter_mut().zip(CONTENDERS) {
            let mut meter = Meter::default();
            contender(&load, &mut meter);
            runs.push(meter.result());
        }
    }
    report(&runs);
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
fn lastroute_gateway(load: &Load, meter: &mut Meter) {
    let core = fleet::core(load.sealed_at);
    let mut pipeline = Pipeline::new(core);
    let (mut bytes, mut replies) = (Vec::new(), Replies::default());
    for index in 0..load.devices {
        load.fleet.packet(index, 0, 0, &mut bytes);
        let (source, at) = (fleet::address(index), load.sealed_at);
        pipeline.take(Datagram { bytes: &mut bytes, truncated: false, source, via: Via::UNKNOWN, at }, &mut replies);
    }
    pipeline.wake();
    pipeline.tally = Default::default();

    let counters = Arc::new(Counters::default());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let watched = Arc::clone(&counters);
    let accepted = move || watched.read().datagrams[Disposition::Accepted as usize];
    let seen = accepted.clone();
    let watcher = std::thread::spawn(move || {
        while accepted() < MEASURED {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.send(true).unwrap();
    });
    runtime().block_on(async {
        let socket = BoundSocket::bind(LISTEN.parse().unwrap(), RECEIVE_BUFFER).unwrap();
        let sender = load.start(socket.address(), seen);
        let socket = Arc::new(socket.register().unwrap());
        let started = thread_time();
        let mailbox = Posts::to_threads(1).1.remove(0);
        lastroute::ingest::run(socket, pipeline, mailbox, counters.clone(), Clock::default(), stopped).await;
        meter.used = thread_time();
        sender.stop();
        let tally = counters.read();
        meter.datagrams = tally.datagrams.iter().sum();
        meter.calls = tally.receives;
        meter.started = Some((started, 0, 0));
        let accepted = tally.datagrams[Disposition::Accepted as usize];
        assert_eq!(accepted, meter.datagrams, "a packet came twice, or not in order: {tally:?}");
    });
    watcher.join().unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A socket with the receive buffer of the gateway's.
fn plain_socket() -> UdpSocket {
    let socket = UdpSocket::bind(LISTEN).unwrap();
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER).unwrap();
    }
    socket
}

/// Datagrams the kernel cuts out of one message, and messages of one call.
const TRAIN: usize = 32;
const TRAINS: usize = 8;

/// How far the sender is ahead of the receiver: a queue as long as that of an overloaded gateway, whose datagrams have left
/// the caches by the time they are read. A shorter one flatters the bare sink most.
const WINDOW: u64 = 24_576;

/// How long the receiver may stand still before the sender gives up what is missing.
const PATIENCE: Duration = Duration::from_millis(200);

/// Bytes of each datagram.
const DATAGRAM: usize = 100;

/// What is sent to a contender, and from which core.
struct Load {
    /// Datagrams of [`DATAGRAM`] bytes end to end: one of each device, then the next of each.
    packets: Arc<Vec<u8>>,
    devices: u64,
    fleet: Fleet,
    sealed_at: Timestamp,
    core: usize,
}

impl Load {
    fn new(devices: u64, ack_percent: u64, core: usize) -> Self {
        let sealed_at = Clock::default().now();
        let fleet = Fleet::new(sealed_at);
        let count = WARM_UP + MEASURED + 4 * WINDOW;
        let mut packets = Vec::with_capacity(count as usize * DATAGRAM);
        let mut packet = Vec::new();
        for number in 0..count {
            let flags = if number % 100 < ack_percent { Flags::ACK_REQUEST } else { 0 };
            fleet.packet(number % devices, 1 + (number / devices) as u16, flags, &mut packet);
            packets.extend_from_slice(&packet);
        }
        Self { packets: Arc::new(packets), devices, fleet, sealed_at, core }
    }

    /// Sends to `to` from another core, as fast as what is `seen` moves on, until stopped.
    fn start(&self, to: SocketAddr, seen: impl Fn() -> u64 + Send + 'static) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let (packets, core, stopped) = (Arc::clone(&self.packets), self.core, Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            pin(core);
            send(to, &packets, seen, &stopped)
        });
        Running { stop, thread }
    }
}

/// A sender at work.
struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Running {
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let given_up = self.thread.join().unwrap();
        if given_up > 0 {
            eprintln!("the receiver stood still {given_up} datagrams behind: dropped (is net.core.rmem_max below");
            eprintln!("{RECEIVE_BUFFER} and CAP_NET_ADMIN missing?), or the machine is busy; the run is doubtful");
        }
    }
}

/// Returns how many datagrams it gave up.
fn send(to: SocketAddr, packets: &[u8], seen: impl Fn() -> u64, stop: &AtomicBool) -> u64 {
    let socket = UdpSocket::bind(LISTEN).unwrap();
    socket.connect(to).unwrap();
    let segment = DATAGRAM as u16;
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(TRAINS, Some(nix::cmsg_space!(u16)));
    let slices: Vec<_> = packets.chunks_exact(DATAGRAM * TRAIN).map(|train| [IoSlice::new(train)]).collect();
    let (mut sent, mut given_up) = (0u64, 0);
    for trains in slices.chunks(TRAINS).cycle() {
        let since = Instant::now();
        loop {
            let ahead = sent.saturating_sub(given_up + seen());
            if stop.load(Ordering::Relaxed) {
                return given_up;
            }
            if ahead < WINDOW {
                break;
            }
            if since.elapsed() > PATIENCE {
                given_up += ahead;
            }
            std::hint::spin_loop();
        }
        sendmmsg(socket.as_raw_fd(), &mut headers, trains, [None; TRAINS], control, MsgFlags::empty()).unwrap();
        sent += (trains.len() * TRAIN) as u64;
    }
    given_up
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

/// Time the processor spent on the current thread so far.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Keeps the current thread on one core. Where that is not allowed, it wanders.
fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core).unwrap();
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), &cores) {
        eprintln!("cannot keep a thread on core {core}: {error}");
    }
}

/// One contender in one round.
#[derive(Clone)]
struct Run {
    /// Of the receiving thread, for each datagram.
    nanoseconds: f64,
    datagrams_per_call: f64,
}

fn report(runs: &[Vec<Run>]) {
    let spread = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        (values[0], values[values.len() / 2], values[values.len() - 1])
    };
    println!("| receiver | ns CPU/datagram (least..most) | sink / this | datagrams/call | saturated |");
    println!("| --- | --- | --- | --- | --- |");
    for (own, (name, _)) in runs.iter().zip(CONTENDERS) {
        let (least, middle, most) = spread(own.iter().map(|run| run.nanoseconds).collect());
        let ratios = runs[0].iter().zip(own).map(|(sink, run)| sink.nanoseconds / run.nanoseconds);
        let (_, ratio, _) = spread(ratios.collect());
        let (fewest, batch, _) = spread(own.iter().map(|run| run.datagrams_per_call).collect());
        // A call for each datagram says nothing about how full the queue was.
        let saturated = match batch {
            1.0 => "not shown",
            _ if fewest >= FULL_ENOUGH => "yes",
            _ => "NO: not a valid run",
        };
        println!("| {name} | {middle:.0} ({least:.0}..{most:.0}) | {ratio:.2} | {batch:.1} | {saturated} |");
    }
}
