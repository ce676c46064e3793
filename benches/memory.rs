//! Resident memory per device: the table and its index, filled by real packets, what it takes that a device is registered, and
//! that it has a key of its own, measured in a process that holds nothing else. Of devices that are not registered the order in
//! which they make room is part of the table.
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
        let (devices, kind) = task.split_once(' ').unwrap();
        return fill(devices.parse().unwrap(), kind);
    }
    let mut counts: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    if counts.is_empty() {
        counts = vec![100_000, 1_000_000, 10_000_000];
    }
    println!("   devices  registration  own key  table and index  seconds to fill");
    for kind in [UNREGISTERED, REGISTERED, KEYED] {
        for devices in &counts {
            // The allocator keeps what one run freed, so each runs in a process of its own.
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            assert!(child.env(TASK, format!("{devices} {kind}")).status().unwrap().success());
        }
    }
}

const UNREGISTERED: &str = "unregistered";
const REGISTERED: &str = "registered";
const KEYED: &str = "registered, with keys";

fn fill(devices: u64, kind: &str) {
    let core = core(NOW);
    let table = &core.table;
    let fleet = Fleet::new(NOW);
    let mut pipeline = Pipeline::new(core.clone());
    let (mut bytes, mut replies) = (Vec::with_capacity(128), Replies::default());
    let empty = resident();
    if kind != UNREGISTERED {
        (0..devices).for_each(|index| table.register(fleet::device(index), NOW));
    }
    let registered = resident();
    if kind == KEYED {
        (0..devices).for_each(|index| fleet::know_own_key(&core, index));
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
    let (registration, key) = (each(registered - empty), each(before - registered));
    println!("{devices:>10}  {registration:>12.1}  {key:>7.1}  {:>15.1}  {seconds:>15.1}", each(resident() - before));
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
