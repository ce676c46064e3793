//! Datagrams a second of several ingest threads, next to one, each with a core of its own and a socket of those among which the
//! kernel divides what arrives, as in the gateway.
//!
//! Senders have the other cores. Each has sockets for every thread, as many for each as for any other: with the many ports of a
//! fleet the kernel's choice evens out, with the few of a sender it would not. A device always sends from the same one.

use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lastroute::clock::{Clock, Timestamp};
use lastroute::ingest;
use lastroute::ingest::pipeline::{Core, Pipeline};
use lastroute::ingest::posts::Posts;
use lastroute::metrics::{Counters, Disposition, Tally};
use lastroute::udp::BoundSocket;
use tokio::sync::watch;

use super::{
    BLOCK, Blocks, DATAGRAM, Datagrams, FULL_ENOUGH, LISTEN, RECEIVE_BUFFER, WINDOW, cores, datagrams, pause, pin,
    spread, thread_time, window,
};
use crate::fleet::{self, Fleet};

/// Datagrams of each thread before the time is taken, and until it is taken again.
const WARM_UP: u64 = 100_000;
const MEASURED: u64 = 1_000_000;

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sockets that each sender has for each thread.
const SOCKETS: usize = 8;

/// Compares so many threads with one, and says so if the machine is too small for it.
pub(crate) fn compare(threads: usize, rounds: u64, devices: u64) {
    let Some(places) = Places::find(threads) else {
        println!(
            "{} cores, of which {} are whole: too few for {threads} ingest threads and as many senders.",
            cores().len(),
            whole_cores().len()
        );
        println!("Nothing was measured.");
        return;
    };
    println!("{} cores, {rounds} rounds of {MEASURED} datagrams of {DATAGRAM} bytes for each thread", cores().len());
    println!("{devices} devices, ingest threads on cores {:?}, senders on {:?}\n", places.ingest, places.senders);
    let window = window(places.senders.len());
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (runs, count) in runs.iter_mut().zip([1, threads]) {
            runs.push(run(&places, count, devices, window));
        }
    }
    println!("| ingest threads | datagrams/s (least..most) | to one | ns CPU/datagram | datagrams/call | saturated |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (own, count) in runs.iter().zip([1, threads]) {
        let (least, middle, most) = spread(own.iter().map(|run| run.per_second).collect());
        let ratios = own.iter().zip(&runs[0]).map(|(own, one)| own.per_second / one.per_second);
        let (_, ratio, _) = spread(ratios.collect());
        let (_, nanoseconds, _) = spread(own.iter().map(|run| run.nanoseconds).collect());
        let (fewest, batch, _) = spread(own.iter().map(|run| run.datagrams_per_call).collect());
        let saturated = if fewest >= FULL_ENOUGH { "yes" } else { "NO: not a valid run" };
        println!(
            "| {count} | {middle:.0} ({least:.0}..{most:.0}) | {ratio:.2} | {nanoseconds:.0} | {batch:.1} | {saturated} |"
        );
    }
}

/// Which cores do what.
struct Places {
    ingest: Vec<usize>,
    senders: Vec<usize>,
}

impl Places {
    /// Each ingest thread has a whole core; senders have at least as many, and at most twice as many.
    fn find(threads: usize) -> Option<Self> {
        let whole = whole_cores();
        let (ingest, rest) = whole.split_at_checked(threads).filter(|_| threads > 0)?;
        let senders = &rest[..rest.len().min(2 * threads)];
        let place = Self { ingest: ingest.to_vec(), senders: senders.to_vec() };
        (senders.len() >= threads).then_some(place)
    }
}

/// The first of those that share the parts of one core.
fn whole_cores() -> Vec<usize> {
    let mut seen = Vec::new();
    let is_first = |core: &usize| {
        let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        // Where the system does not say, all are taken to be whole.
        let siblings = std::fs::read_to_string(path).unwrap_or_else(|_| core.to_string());
        let is_new = !seen.contains(&siblings);
        seen.push(siblings);
        is_new
    };
    cores().into_iter().filter(is_first).collect()
}

/// What came of one run.
struct Run {
    /// Of all threads together.
    per_second: f64,
    /// Processor time of the ingest threads for each datagram.
    nanoseconds: f64,
    /// Of the thread with the fewest.
    datagrams_per_call: f64,
}

fn run(places: &Places, threads: usize, devices: u64, window: u64) -> Run {
    let at = Clock::default().now();
    let core = fleet::core(at);
    let gateway = Gateway::start(&core, &places.ingest[..threads]);
    let mut lines = gateway.lines(places.senders.len() * SOCKETS);
    let each = devices / lines.len() as u64;
    lines.iter_mut().zip(0..).for_each(|(line, number)| line.devices = number * each..(number + 1) * each);
    let packets = (WARM_UP + MEASURED + 2 * WINDOW) * threads as u64 / lines.len() as u64;

    let sent = Arc::new(Sent { to: (0..threads).map(|_| AtomicU64::new(0)).collect(), stop: AtomicBool::new(false) });
    let ready = Arc::new(Barrier::new(places.senders.len() + 1));
    let mut senders = Vec::new();
    for place in places.senders.clone() {
        // The lines are sorted by thread: each sender has some of each.
        let lines: Vec<_> = (0..threads).flat_map(|thread| take(&mut lines, thread, SOCKETS)).collect();
        let (core, counters) = (Arc::clone(&core), gateway.counters.clone());
        let (sent, ready) = (Arc::clone(&sent), Arc::clone(&ready));
        senders.push(std::thread::spawn(move || {
            pin(place);
            let lines = lines.into_iter().map(|line| line.load(&core, packets, at)).collect();
            ready.wait();
            send(lines, window, &sent, &counters);
        }));
    }
    ready.wait();
    let (before, begun) = gateway.when(|each| each.iter().all(|count| *count >= WARM_UP));
    let (after, ended) = gateway.when(|each| each.iter().any(|count| *count >= WARM_UP + MEASURED));
    sent.stop.store(true, Ordering::Relaxed);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    gateway.stop((after - before) as f64 / (ended - begun).as_secs_f64())
}

/// Takes so many of those that lead to a thread.
fn take(lines: &mut Vec<Line>, thread: usize, count: usize) -> Vec<Line> {
    lines.extract_if(.., |line| line.thread == thread).take(count).collect()
}

/// The ingest threads of a gateway, all at one address.
struct Gateway {
    address: SocketAddr,
    counters: Vec<Arc<Counters>>,
    stop: watch::Sender<bool>,
    /// Each ends with the processor time that it took.
    threads: Vec<JoinHandle<Duration>>,
}

impl Gateway {
    fn start(core: &Arc<Core>, places: &[usize]) -> Self {
        let sockets = BoundSocket::bind_several(LISTEN.parse().unwrap(), RECEIVE_BUFFER, places.len()).unwrap();
        let address = sockets[0].address();
        let counters: Vec<_> = places.iter().map(|_| Arc::<Counters>::default()).collect();
        let (stop, stopped) = watch::channel(false);
        let mailboxes = Posts::to_threads(places.len()).1;
        let mut threads = Vec::new();
        for (((socket, mailbox), counters), place) in sockets.into_iter().zip(mailboxes).zip(&counters).zip(places) {
            let (core, counters, stopped, place) = (Arc::clone(core), Arc::clone(counters), stopped.clone(), *place);
            threads.push(std::thread::spawn(move || {
                pin(place);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (socket, clock) = (Arc::new(socket.register().unwrap()), Clock::default());
                    ingest::run(socket, Pipeline::new(core), mailbox, counters, clock, stopped).await;
                });
                thread_time()
            }));
        }
        Self { address, counters, stop, threads }
    }

    /// As many ways from a sender to each thread. The kernel chooses the thread by the port; what is too short to be a packet
    /// tells which it chose.
    fn lines(&self, for_each: usize) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        let threads = self.counters.len();
        while lines.len() < threads * for_each {
            let before = self.counted(Disposition::Short);
            let socket = UdpSocket::bind(LISTEN).unwrap();
            socket.connect(self.address).unwrap();
            socket.send(&[0]).unwrap();
            let thread = loop {
                let now = self.counted(Disposition::Short);
                if let Some(thread) = (0..threads).find(|thread| now[*thread] != before[*thread]) {
                    break thread;
                }
                std::thread::yield_now();
            };
            if lines.iter().filter(|line| line.thread == thread).count() < for_each {
                lines.push(Line { socket, thread, devices: 0..0 });
            }
        }
        lines
    }

    fn counted(&self, becomes: Disposition) -> Vec<u64> {
        self.counters.iter().map(|counters| counters.read().datagrams[becomes as usize]).collect()
    }

    /// Waits for a moment by what each thread has counted; returns the sum of it, and when that was.
    fn when(&self, is_there: impl Fn(&[u64]) -> bool) -> (u64, Instant) {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "the threads stand still: the kernel drops what they should receive");
            let counted = self.counted(Disposition::Accepted);
            if is_there(&counted) {
                return (counted.iter().sum(), Instant::now());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(self, per_second: f64) -> Run {
        self.stop.send(true).unwrap();
        let times: Duration = self.threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        let tallies: Vec<_> = self.counters.iter().map(|counters| counters.read()).collect();
        let total = |tally: &Tally| tally.datagrams.iter().sum::<u64>();
        for tally in &tallies {
            let [accepted, probes] = [Disposition::Accepted, Disposition::Short].map(|it| tally.datagrams[it as usize]);
            assert_eq!(accepted + probes, total(tally), "a packet came twice, or not in order: {tally:?}");
        }
        let per_call = tallies.iter().map(|tally| total(tally) as f64 / tally.receives as f64);
        Run {
            per_second,
            nanoseconds: times.as_nanos() as f64 / tallies.iter().map(total).sum::<u64>() as f64,
            datagrams_per_call: per_call.fold(f64::INFINITY, f64::min),
        }
    }
}

/// A way from one address to one thread, and the devices that speak from there.
struct Line {
    socket: UdpSocket,
    thread: usize,
    devices: Range<u64>,
}

/// A line with what goes over it.
struct Loaded {
    blocks: Blocks,
    thread: usize,
    datagrams: Datagrams,
    sent: usize,
}

impl Line {
    /// So many packets, one of each device and then the next of each. The gateway has heard each of them from there before.
    fn load(self, core: &Arc<Core>, packets: u64, at: Timestamp) -> Loaded {
        let Self { socket, thread, devices } = self;
        let fleet = Fleet::new(at);
        let source = socket.local_addr().unwrap();
        fleet::hear(&mut Pipeline::new(Arc::clone(core)), &fleet, devices.clone(), 0, source, at);
        let count = devices.end - devices.start;
        let datagrams = datagrams(packets, |number, out| {
            fleet.packet(devices.start + number % count, 1 + (number / count) as u16, 0, out);
        });
        Loaded { blocks: Blocks::new(socket), thread, datagrams, sent: 0 }
    }
}

/// How much was sent to each thread, by all senders.
struct Sent {
    to: Vec<AtomicU64>,
    stop: AtomicBool,
}

/// Sends over all lines in turn, so that each thread has its queue, until stopped or there is no more.
fn send(mut lines: Vec<Loaded>, window: u64, sent: &Sent, counters: &[Arc<Counters>]) {
    while !sent.stop.load(Ordering::Relaxed) {
        let seen: Vec<_> = counters.iter().map(|it| it.read().datagrams[Disposition::Accepted as usize]).collect();
        for Loaded { blocks, thread, datagrams, sent: at } in &mut lines {
            let Some(block) = datagrams.get(*at..*at + BLOCK * DATAGRAM) else { continue };
            if sent.to[*thread].load(Ordering::Relaxed).saturating_sub(seen[*thread]) < window {
                blocks.send(block);
                *at += BLOCK * DATAGRAM;
                sent.to[*thread].fetch_add(BLOCK as u64, Ordering::Relaxed);
            }
        }
        pause();
    }
}
