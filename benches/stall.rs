//! The longest that a batch of datagrams takes: at rest, while the table grows, and while another thread goes through all of it or
//! registers devices.
//!
//! `cargo bench --bench stall [-- DEVICES]`, by default 10 million, which takes minutes and 3 GB. The binary needs nothing
//! beside itself. Each run is a process of its own, in which one thread takes in batches of 64 datagrams as an ingest thread does,
//! without sockets; datagrams are made between the batches. Of each batch the time is taken, and the processor time of the
//! thread: on a busy machine the thread is sent to sleep now and then, which only the former shows; and where it waits for a
//! lock, only the former shows that too. "At rest" is what the machine itself does to either.
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet::{Fleet, address, core, device};
use lastroute::clock::Timestamp;
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline};
use lastroute::ingest::replies::Replies;
use lastroute::table::sending::Via;
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};

const NOW: Timestamp = Timestamp::from_gps(1_479_435_219);

/// Datagrams of a batch, as the socket gives them.
const BATCH: usize = 64;

/// How a process learns what it is to measure.
const TASK: &str = "LASTROUTE_BENCH_TASK";

/// What happens meanwhile.
type Run = fn(&Arc<Core>, &mut Meter, u64);

const RUNS: [(&str, Run); 7] = [
    ("at rest", at_rest),
    ("grows, none registered", grows),
    ("grows, all registered before", grows_registered),
    ("grows, registered meanwhile", grows_while_registering),
    ("registered afterwards", registered_afterwards),
    ("written down meanwhile", written_down),
    ("counted by age meanwhile", counted),
];

fn main() {
    if let Ok(task) = std::env::var(TASK) {
        let (run, devices) = task.split_once(' ').unwrap();
        let (name, run) = RUNS[run.parse::<usize>().unwrap()];
        return measure(name, run, devices.parse().unwrap());
    }
    let devices: u64 = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(10_000_000);
    println!(
        "{devices} devices, batches of {BATCH} datagrams; us a batch, the processor time of the thread after the slash\n"
    );
    println!(
        "{:<30} {:>8} {:>15} {:>15} {:>17} {:>12} {:>10}",
        "what happens meanwhile", "batches", "p50", "p99.9", "longest", "page faults", "in a batch"
    );
    for run in 0..RUNS.len() {
        // What one run did to the allocator is nothing to the next.
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        assert!(child.env(TASK, format!("{run} {devices}")).status().unwrap().success());
    }
}

fn measure(name: &str, run: Run, devices: u64) {
    let core = core(NOW);
    let mut meter = Meter::new(core.clone());
    run(&core, &mut meter, devices);
    meter.report(name);
}

fn at_rest(_: &Arc<Core>, meter: &mut Meter, devices: u64) {
    meter.fill(devices);
    for _ in 0..devices / BATCH as u64 {
        meter.next(devices);
    }
}

fn grows(_: &Arc<Core>, meter: &mut Meter, devices: u64) {
    (0..devices).step_by(BATCH).for_each(|first| meter.batch(1, |at| first + at));
}

fn grows_registered(core: &Arc<Core>, meter: &mut Meter, devices: u64) {
    (0..devices).for_each(|index| core.table.register(device(index), NOW));
    grows(core, meter, devices);
}

fn grows_while_registering(core: &Arc<Core>, meter: &mut Meter, devices: u64) {
    std::thread::scope(|scope| {
        // From the last to the first: each second one is heard before it is registered.
        let registering = scope.spawn(|| (0..devices).rev().for_each(|index| core.table.register(device(index), NOW)));
        grows(core, meter, devices);
        registering.join().unwrap();
    });
}

fn registered_afterwards(core: &Arc<Core>, meter: &mut Meter, devices: u64) {
    meter.fill(devices / 2);
    meanwhile(meter, devices / 2, || (0..devices / 2).for_each(|index| core.table.register(device(index), NOW)));
    // A few more that are not.
    (devices / 2..devices / 2 + 100_000).step_by(BATCH).for_each(|first| meter.batch(1, |at| first + at));
}

fn written_down(core: &Arc<Core>, meter: &mut Meter, devices: u64) {
    meter.fill(devices);
    meanwhile(meter, devices, || core.table.changed(&core.keys, |id, kept| _ = black_box((id, kept))));
}

fn counted(core: &Arc<Core>, meter: &mut Meter, devices: u64) {
    meter.fill(devices);
    meanwhile(meter, devices, || {
        for _ in 0..20 {
            black_box(core.table.ages(NOW));
        }
    });
}

/// The devices speak in turn until `work` is done.
fn meanwhile(meter: &mut Meter, devices: u64, work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let working = scope.spawn(work);
        while !working.is_finished() {
            meter.next(devices);
        }
    });
}

/// Takes in batches, and notes how long each took.
struct Meter {
    fleet: Fleet,
    pipeline: Pipeline,
    replies: Replies,
    datagrams: Vec<(u64, Vec<u8>)>,
    index: u64,
    sequence: u16,
    batches: Vec<Spent>,
}

/// What a batch took, and the page faults in it.
#[derive(Clone, Copy)]
struct Spent {
    wall: Duration,
    cpu: Duration,
    faults: i64,
}

impl Meter {
    fn new(core: Arc<Core>) -> Self {
        Self {
            fleet: Fleet::new(NOW),
            pipeline: Pipeline::new(core),
            replies: Replies::default(),
            datagrams: (0..BATCH as u64).map(|_| (0, Vec::with_capacity(128))).collect(),
            index: 0,
            sequence: 2,
            batches: Vec::new(),
        }
    }

    /// Every device says something, which is not measured.
    fn fill(&mut self, devices: u64) {
        for first in (0..devices).step_by(BATCH) {
            self.make(1, |at| first + at);
            self.take();
        }
    }

    /// The next devices in turn say something. Their ids lie far from each other.
    fn next(&mut self, devices: u64) {
        let first = self.index;
        self.batch(self.sequence, |at| (first + at) % devices);
        self.index += BATCH as u64;
        if self.index >= devices {
            self.index = 0;
            self.sequence += 1;
        }
    }

    /// Device `index(0)` to `index(63)` say something.
    fn batch(&mut self, sequence: u16, index: impl Fn(u64) -> u64) {
        self.make(sequence, index);
        let (faults, cpu, start) = (faults(), cpu(), Instant::now());
        self.take();
        let (wall, cpu) = (start.elapsed(), self::cpu() - cpu);
        self.batches.push(Spent { wall, cpu, faults: self::faults() - faults });
    }

    fn make(&mut self, sequence: u16, index: impl Fn(u64) -> u64) {
        for (at, (device, bytes)) in (0..).zip(&mut self.datagrams) {
            *device = index(at);
            self.fleet.packet(*device, sequence, 0, bytes);
        }
    }

    fn take(&mut self) {
        self.pipeline.prefetch(self.datagrams.iter().map(|(_, bytes)| bytes.as_slice()));
        for (index, bytes) in &mut self.datagrams {
            let (source, via) = (address(*index), Via::UNKNOWN);
            let datagram = Datagram { bytes, truncated: false, source, via, at: NOW };
            black_box(self.pipeline.take(datagram, &mut self.replies));
        }
        self.pipeline.wake();
    }

    fn report(&self, name: &str) {
        let sorted = |of: fn(&Spent) -> Duration| {
            let mut times: Vec<_> = self.batches.iter().map(of).collect();
            times.sort_unstable();
            times
        };
        let (wall, cpu) = (sorted(|spent| spent.wall), sorted(|spent| spent.cpu));
        let both = |at: usize| format!("{:.1} / {:.1}", micros(wall[at]), micros(cpu[at]));
        let last = self.batches.len() - 1;
        let faults = self.batches.iter().map(|spent| spent.faults);
        println!(
            "{name:<30} {:>8} {:>15} {:>15} {:>17} {:>12} {:>10}",
            self.batches.len(),
            both(last / 2),
            both(last - last / 1000),
            both(last),
            faults.clone().sum::<i64>(),
            faults.max().unwrap(),
        );
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Processor time of this thread so far.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Page faults of this thread so far that needed no disk.
fn faults() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).unwrap().minor_page_faults()
}
