//! The steps of a datagram one by one, in memory: parse, open, record, look up, and all of them together.
//!
//! `cargo bench --bench hot_path`. The figures are per datagram or look-up, but for "count all by age", which is one pass
//! over all devices; `docs/performance.md` has the ratios.
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fleet::{Fleet, address, core, device, know_own_key};
use lastroute::auth::keys::Interface;
use lastroute::auth::{Authenticator, Verified};
use lastroute::clock::Timestamp;
use lastroute::ingest::pipeline::{Datagram, Pipeline};
use lastroute::ingest::replies::Replies;
use lastroute::table::route::Path;
use lastroute::table::sending::Via;
use lastroute::table::{Packet, RouteTable};
use lastroute::wire::frame::{Frame, Layout};

const NOW: Timestamp = Timestamp::from_gps(1_479_435_219);
const DEVICES: [u64; 3] = [1000, 100_000, 1_000_000];

fn parse_and_open(criterion: &mut Criterion) {
    let core = core(NOW);
    let mut packet = Vec::new();
    Fleet::new(NOW).packet(1, 1, 0, &mut packet);
    let mut group = criterion.benchmark_group("one packet");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse", |bencher| {
        bencher
            .iter(|| black_box(Frame::parse(black_box(&mut packet), Layout::Unversioned).unwrap().header().sequence));
    });
    let mut authenticator = Authenticator::default();
    group.bench_function("parse and open", |bencher| {
        bencher.iter_batched_ref(
            || packet.clone(),
            |packet| {
                let frame = Frame::parse(packet, Layout::Unversioned).unwrap();
                black_box(authenticator.open(&core.keys, frame, Interface::Udp, NOW).unwrap().payload().len())
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Every device sends in turn; the sequence goes up by one each round.
struct Rounds {
    devices: u64,
    index: u64,
    sequence: u16,
}

impl Rounds {
    fn next(&mut self) -> (u64, u16) {
        self.index += 1;
        if self.index == self.devices {
            self.index = 0;
            self.sequence = self.sequence.wrapping_add(1);
        }
        (self.index, self.sequence)
    }
}

fn record_and_look_up(criterion: &mut Criterion) {
    for devices in DEVICES {
        let core = core(NOW);
        let fleet = Fleet::new(NOW);
        let mut rounds = Rounds { devices, index: 0, sequence: 0 };
        let mut authenticator = Authenticator::default();
        // Sealing and opening are not timed: they make the `Verified` that the table wants.
        let mut record = |table: &RouteTable, (index, sequence): (u64, u16)| {
            let mut bytes = Vec::with_capacity(128);
            fleet.packet(index, sequence, 0, &mut bytes);
            let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
            let verified: Verified<'_> = authenticator.open(&core.keys, frame, Interface::Udp, NOW).unwrap();
            let path = Path::Direct(address(index));
            let packet = Packet::new(&verified, &path, NOW);
            let start = Instant::now();
            black_box(table.record(black_box(&packet)));
            start.elapsed()
        };
        for _ in 0..devices {
            record(&core.table, rounds.next());
        }
        let mut group = criterion.benchmark_group(format!("{devices} devices"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("record", |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| record(&core.table, rounds.next())).sum());
        });
        group.bench_function("count all by age", |bencher| bencher.iter(|| black_box(core.table.ages(NOW))));
        let mut at = 0_u64;
        group.bench_function("look up", |bencher| {
            bencher.iter(|| {
                at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                black_box(core.table.snapshot(device((at >> 33) % devices)))
            });
        });
        group.finish();
    }
}

/// Which key seals the packets.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Network,
    Device,
}

fn whole_datagram(criterion: &mut Criterion) {
    for devices in DEVICES {
        take_whole(criterion, "whole datagram", By::Network, devices);
    }
    for devices in DEVICES {
        take_whole(criterion, "whole datagram by a key of each device's own", By::Device, devices);
    }
}

fn take_whole(criterion: &mut Criterion, name: &str, by: By, devices: u64) {
    let core = core(NOW);
    if by == By::Device {
        (0..devices).for_each(|index| know_own_key(&core, index));
    }
    let fleet = Fleet::new(NOW);
    let mut pipeline = Pipeline::new(core);
    let mut rounds = Rounds { devices, index: 0, sequence: 0 };
    let mut replies = Replies::default();
    let mut take = |count: u64| -> Duration {
        // In batches of 64, as the socket gives them.
        let mut batch: Vec<_> = (0..64).map(|_| (0, Vec::with_capacity(128))).collect();
        let mut spent = Duration::ZERO;
        for _ in 0..count.div_ceil(64) {
            for (index, bytes) in &mut batch {
                let (device, sequence) = rounds.next();
                *index = device;
                match by {
                    By::Network => fleet.packet(device, sequence, 0, bytes),
                    By::Device => fleet.own_packet(device, sequence, bytes),
                }
            }
            let start = Instant::now();
            pipeline.prefetch(batch.iter().map(|(_, bytes)| bytes.as_slice()));
            for (index, bytes) in &mut batch {
                let (source, via) = (address(*index), Via::UNKNOWN);
                let datagram = Datagram { bytes, truncated: false, source, via, at: NOW };
                black_box(pipeline.take(datagram, &mut replies));
            }
            pipeline.wake();
            spent += start.elapsed();
        }
        spent.mul_f64(count as f64 / (count.div_ceil(64) * 64) as f64)
    };
    take(devices);
    let mut group = criterion.benchmark_group(format!("{devices} devices"));
    group.throughput(Throughput::Elements(1));
    group.bench_function(name, |bencher| bencher.iter_custom(&mut take));
    group.finish();
}

/// Datagrams of a kind that is refused, 64 of them, and their name.
type Refused = (&'static str, Vec<Vec<u8>>);

/// What is refused as in a flood on a gateway that hears its fleet: the key is at hand since a genuine packet was opened with it.
const KEPT: &str = "bad tag of today, whose key is kept";

/// What strangers can send, and as the measure for it what counts. Nothing of all this is the same datagram again, but for what
/// is a copy.
fn refused(fleet: &Fleet) -> Vec<Refused> {
    let genuine = |index: u64| {
        let mut bytes = Vec::new();
        fleet.packet(index, 1, 0, &mut bytes);
        bytes
    };
    let changed = |change: &dyn Fn(u64, &mut Vec<u8>)| -> Vec<Vec<u8>> {
        let each = |index| {
            let mut bytes = genuine(index);
            change(index, &mut bytes);
            bytes
        };
        (0..64).map(each).collect()
    };
    // Where the fields lie: docs/protocol.md, frames.
    let any_day =
        |index: u64, bytes: &mut Vec<u8>| bytes[14..18].copy_from_slice(&(index as u32 * 66_000_001).to_le_bytes());
    let spoilt = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    vec![
        ("short", changed(&|_, bytes| bytes.truncate(37))),
        ("unknown network", changed(&|index, bytes| bytes[3..6].copy_from_slice(&[index as u8, 1, 2]))),
        ("unknown device", changed(&|_, bytes| bytes[2] |= 0x80)),
        (KEPT, changed(&|_, bytes| spoilt(bytes))),
        ("bad tag of today, whose key is not kept", changed(&|_, bytes| spoilt(bytes))),
        (
            "bad tag of yesterday, whose key is not kept",
            changed(&|_, bytes| {
                let yesterday = NOW.gps() - 86_400;
                bytes[14..18].copy_from_slice(&yesterday.to_le_bytes());
            }),
        ),
        ("bad tag of any day", changed(&any_day)),
        ("copy", changed(&|_, _| ())),
    ]
}

/// What is refused costs less than what counts, or a stranger could keep devices out by little.
fn rejects(criterion: &mut Criterion) {
    let fleet = Fleet::new(NOW);
    let mut group = criterion.benchmark_group("refused");
    group.throughput(Throughput::Elements(1));
    for (name, datagrams) in refused(&fleet) {
        let mut pipeline = Pipeline::new(core(NOW));
        let mut replies = Replies::default();
        if name == KEPT {
            let mut bytes = Vec::new();
            fleet.packet(64, 1, 0, &mut bytes);
            let (source, via) = (address(64), Via::UNKNOWN);
            pipeline.take(Datagram { bytes: &mut bytes, truncated: false, source, via, at: NOW }, &mut replies);
        }
        let mut batch = datagrams.clone();
        let mut take = |count: u64| -> Duration {
            let mut spent = Duration::ZERO;
            for round in 0..count.div_ceil(64) {
                for (bytes, datagram) in batch.iter_mut().zip(&datagrams) {
                    bytes.clone_from(datagram);
                }
                // A million a second, so that what is limited by the second is refused as in a flood.
                let at = Timestamp(NOW.0 + round * 64 / 1000);
                let start = Instant::now();
                pipeline.prefetch(batch.iter().map(Vec::as_slice));
                for (index, bytes) in (0..).zip(&mut batch) {
                    let (source, via) = (address(index), Via::UNKNOWN);
                    let datagram = Datagram { bytes, truncated: false, source, via, at };
                    black_box(pipeline.take(datagram, &mut replies));
                }
                pipeline.wake();
                spent += start.elapsed();
            }
            spent.mul_f64(count as f64 / (count.div_ceil(64) * 64) as f64)
        };
        group.bench_function(name, |bencher| bencher.iter_custom(&mut take));
    }
    group.finish();
}

criterion_group!(benches, parse_and_open, rejects, record_and_look_up, whole_datagram);
criterion_main!(benches);
