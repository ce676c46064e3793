//! Resident memory per device: the table and its index, filled by real packets, and what it takes that a device is
//! registered, measured in a process that holds nothing else. Of devices that are not registered the order in which they make
//! room is part of the table.
//!
//! `cargo bench --bench memory [-- DEVICES...]`, by default 100 000, 1 million and 10 million.
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;

use fleet::{Fleet, address, core};
use lastroute::clock::Timestamp;
use lastroute::ingest::pipeline::{Datagram, Pipeline};
use lastroute::ingest::replies::Replies;
use lastroute::table::sending::Via;

const NOW: Timestamp = Timestamp::from_gps(1_479_435_219);

/// How a process learns what it is to measure.
const TASK: &str = "LASTROUTE_BENCH_TASK";

fn main() {
    if let Ok(task) = std::env::var(TASK) {
        let (devices, registered) = task.split_once(' ').unwrap();
        return fill(devices.parse().unwrap(), registered == "true");
    }
    let mut counts: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    if counts.is_empty() {
        counts = vec![100_000, 1_000_000, 10_000_000];
    }
    println!("{:>10}  {:>14}  {:>16}  {:>16}", "devices", "registration", "table and index", "seconds to fill");
    for registered in [false, true] {
        for devices in &counts {
            // The allocator keeps what one run freed, so each runs in a process of its own.
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            assert!(child.env(TASK, format!("{devices} {registered}")).status().unwrap().success());
        }
    }
}

fn fill(devices: u64, registered: bool) {
    let core = core(NOW);
    let table = core.table.clone();
    let fleet = Fleet::new(NOW);
    let mut pipeline = Pipeline::new(core);
    let (mut bytes, mut replies) = (Vec::with_capacity(128), Replies::default());
    let empty = resident();
    if registered {
        (0..devices).for_each(|index| table.register(fleet::device(index), NOW));
    }
    let before = resident();
    let start = std::time::Instant::now();
    for index in 0..devices {
        fleet.packet(index, 1, 0, &mut bytes);
        let datagram =
            Datagram { bytes: &mut bytes, truncated: false, source: address(index), via: Via::UNKNOWN, at: NOW };
        pipeline.take(datagram, &mut replies);
        pipeline.wake();
    }
    let seconds = start.elapsed().as_secs_f64();
    let each = |bytes: u64| bytes as f64 / table.devices().0 as f64;
    let (registration, table) = (each(before - empty), each(resident() - before));
    println!("{devices:>10}  {registration:>14.1}  {table:>16.1}  {seconds:>16.1}");
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
