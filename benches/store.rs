//! Keeping records: what a checkpoint costs in processor time and in bytes, of all records and of few, and how long a start
//! takes that loads them together with the registry.
//!
//! `cargo bench --bench store [-- [keyed] DEVICES [RUNS]]`, by default a million and 5; `keyed` gives each device a root key of its
//! own. Checkpoints are made in this process, from a
//! table of registered devices that real packets filled. The start is that of a gateway of its own, up to its line "ready".
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fleet::{Fleet, address, core};
use lastroute::client::Client;
use lastroute::clock::{Clock, Timestamp};
use lastroute::health::Health;
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline};
use lastroute::ingest::replies::Replies;
use lastroute::store::{INTERVAL, Keeper, Parts, Stats, Store};
use lastroute::table::sending::Via;
use lastroute::table::{Registration, RouteTable, TableConfig};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

/// Devices that speak between two checkpoints of which few records change.
const FEW: u64 = 1000;
/// Devices in one import.
const BATCH: u64 = 10_000;

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let (devices, runs) = (numbers.next().unwrap_or(1_000_000), numbers.next().unwrap_or(5));
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let keyed = std::env::args().any(|argument| argument == "keyed");
    runtime.block_on(import(data.path(), devices, keyed));
    checkpoints(data.path(), devices);
    load(data.path());
    for _ in 0..runs {
        let begun = Instant::now();
        let gateway = Gateway::start(data.path());
        let (took, cpu) = (begun.elapsed().as_secs_f64(), gateway.cpu());
        println!("{} rows: ready after {took:.2} s, with {cpu:.2} s of processor time", gateway.rows);
        gateway.stop();
    }
}

/// All records change, then few, then few again: each is written down.
fn checkpoints(data: &Path, devices: u64) {
    let now = Clock::default().now();
    let core = core(now);
    // As the registry numbers them.
    for index in 0..devices {
        let registration = Registration { at: now, organisation: 1, record: index as u32 + 1 };
        core.table.register(fleet::device(index), registration);
    }
    let mut sequence = 0;
    for changed in [devices, FEW, FEW, devices, devices, devices] {
        sequence += 1;
        let changed = changed.min(devices);
        speak(&core, changed, sequence, now);
        let stats = Arc::<Stats>::default();
        let parts = Parts {
            table: core.table.clone(),
            keys: core.keys.clone(),
            clock: Clock::default(),
            health: Arc::<Health>::default(),
            stats: stats.clone(),
        };
        let (keeper, orders) = Keeper::begin(Store::open(data, false, now).unwrap(), 0, parts, INTERVAL).unwrap();
        orders.stop();
        let (begun, cpu) = (Instant::now(), cpu());
        keeper.run();
        let (took, cpu) = (begun.elapsed(), self::cpu() - cpu);
        assert_eq!(stats.failures(), 0);
        println!(
            "{changed} of {devices} changed: {} rows in {:.3} s, {:.3} s of processor time, {:.0} bytes a row",
            stats.rows(),
            took.as_secs_f64(),
            cpu.as_secs_f64(),
            stats.bytes() as f64 / stats.rows().max(1) as f64
        );
    }
}

/// Each of the first devices says something.
fn speak(core: &Arc<Core>, devices: u64, sequence: u16, at: Timestamp) {
    let fleet = Fleet::new(at);
    let mut pipeline = Pipeline::new(core.clone());
    let (mut bytes, mut replies) = (Vec::with_capacity(128), Replies::default());
    for index in 0..devices {
        fleet.packet(index, sequence, 0, &mut bytes);
        let datagram = Datagram { bytes: &mut bytes, truncated: false, source: address(index), via: Via::UNKNOWN, at };
        pipeline.take(datagram, &mut replies);
        pipeline.wake();
    }
}

/// Loading by itself.
fn load(data: &Path) {
    let now = Clock::default().now();
    let keys = core(now).keys.clone();
    let table = RouteTable::new(&TableConfig { unregistered_limit: usize::MAX, ..TableConfig::default() });
    let begun = Instant::now();
    let rows = Store::open(data, false, now).unwrap().load(&table, &keys).unwrap();
    println!("{rows} rows of {} devices loaded in {:.2} s", table.devices().0, begun.elapsed().as_secs_f64());
}

/// Registers the devices whose records are to be kept.
async fn import(data: &Path, devices: u64, keyed: bool) {
    let gateway = Gateway::start(data);
    let client = Client::new(&gateway.http, None).unwrap().with_limits(Duration::from_secs(60), 1 << 26);
    let post = async |path: &str, body: Value| {
        client.post_json::<Value>(path, body.to_string().into()).await.unwrap().unwrap()
    };
    let organisation = post("/organisation", json!({"name": "Fleet"})).await["id"].clone();
    let network = json!({"name": "fleet", "description": "", "key": STANDARD.encode(fleet::ROOT),
        "organisationId": organisation, "public": false, "networkId": fleet::NETWORK.get()});
    post("/network", network).await;
    let board = json!({"name": "board", "description": "", "soc": "nRF9151", "organisationId": organisation});
    let board = post("/board", board).await["id"].clone();
    for first in (0..devices).step_by(BATCH as usize) {
        let batch = first..devices.min(first + BATCH);
        let batch = batch.map(|index| {
            let mut device = json!({"mcuId": format!("{index:016x}"), "boardId": board, "organisationId": organisation,
                "deviceId": fleet::device(index)});
            if keyed {
                device["deviceRootKey"] = STANDARD.encode([index.to_le_bytes(); 4].concat()).into();
            }
            device
        });
        let answer = post("/device/import", json!({"devices": batch.collect::<Vec<_>>()})).await;
        assert!(answer["created"].as_u64() > Some(0), "{answer}");
    }
    gateway.stop();
}

struct Gateway {
    child: Child,
    /// Rows of records that it loaded.
    rows: u64,
    http: String,
}

impl Gateway {
    #[allow(
        clippy::zombie_processes,
        reason = "it is waited for when it is stopped; where it never gets ready the benchmark ends"
    )]
    fn start(data: &Path) -> Self {
        let any = "127.0.0.1:0";
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
        command.env_clear().args(["serve", "--udp-listen", any, "--http-listen", any, "--data-dir"]).arg(data);
        command.args(["--unregistered-limit", "10000000"]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut log, mut rows) = (BufReader::new(child.stderr.take().unwrap()), 0);
        loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the gateway ended before it was ready");
            let line: Value = serde_json::from_str(&line).unwrap();
            rows = line["rows"].as_u64().unwrap_or(rows);
            if line["message"] == "ready" {
                std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
                return Self { child, rows, http: format!("http://{}", line["http"].as_str().unwrap()) };
            }
        }
    }

    /// Processor time so far, in seconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<i64> =
            stat.rsplit(") ").next().unwrap().split(' ').filter_map(|field| field.parse().ok()).collect();
        // Fields 14 and 15 of all, of which the first here is the fourth, in hundredths of a second.
        (fields[10] + fields[11]) as f64 / 100.0
    }

    fn stop(mut self) {
        let begun = Instant::now();
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
        println!("stopped after {:.2} s", begun.elapsed().as_secs_f64());
    }
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let time = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec() as u64, 0) + Duration::from_micros(time.tv_usec() as u64)
    };
    time(usage.user_time()) + time(usage.system_time())
}
