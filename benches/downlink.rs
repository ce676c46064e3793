//! Downlinks to sleeping devices: how fast messages are accepted, how long after its packet a device has what waited for it,
//! and what messages that wait cost the packets of other devices.
//!
//! `cargo bench --bench downlink [-- ROUNDS RATE]`, by default 5000 rounds and 300 000 packets a second of other devices for
//! the loaded half. It wants two idle cores and a disk of its own speed: what is accepted is durable.
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fleet::Fleet;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lastroute::app::App;
use lastroute::clock::{Clock, Timestamp};
use lastroute::config::{Config, Flags};
use lastroute::downlink::intent::{Intent, Retry, Sealing};
use lastroute::ingest::pipeline::{Datagram, Pipeline};
use lastroute::ingest::replies::Replies;
use lastroute::table::sending::Via;
use lastroute::wire::frame::PacketType;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::task::JoinSet;

type Http = Client<HttpConnector, Full<Bytes>>;

/// Who asks for messages to be sent, at once: as many as share a commit.
const SENDERS: usize = 64;
/// Intents of other devices, for what they cost.
const WAITING: i64 = 100_000;
/// Devices whose packets are timed beside them.
const SPEAKING: u64 = 10_000;
/// How often each of them speaks, in both cases in turn.
const TURNS: u16 = 101;
const HOUR: Duration = Duration::from_secs(3600);
/// Bytes of a datagram with a call without parameters.
const CALL: usize = 44;
/// Devices that are the load, from this index on, datagrams that the kernel cuts out of one message, and messages made ahead.
const OTHERS: u64 = 100_000;
const TRAIN: u64 = 32;
const TRAINS: u64 = 200_000;

fn main() {
    let mut arguments = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let rounds = arguments.next().unwrap_or(5000);
    let rate = arguments.next().unwrap_or(300_000);
    cost_of_waiting();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(with_gateway(rounds, rate));
}

/// The gateway's own work on packets of devices for which nothing waits, while nothing waits for anybody and while much waits
/// for others, in turns.
fn cost_of_waiting() {
    let now = Clock::default().now();
    let fleet = Fleet::new(now);
    let cores = [fleet::core(now), fleet::core(now)];
    for index in 0..WAITING {
        let device = fleet::device(SPEAKING + index as u64);
        cores[1].downlinks.outbox.add(device, intent(index, now)).unwrap();
        cores[1].table.expect(device);
    }
    let mut pipelines = cores.map(Pipeline::new);
    let mut times = [Vec::new(), Vec::new()];
    for sequence in 0..TURNS {
        for (pipeline, times) in pipelines.iter_mut().zip(&mut times) {
            times.push(round(pipeline, &fleet, sequence, now));
        }
    }
    println!("Packets of {SPEAKING} devices in memory, ns CPU each, median of {TURNS} turns\n");
    println!("| {WAITING} messages wait for other devices | ns |\n| --- | --- |");
    // The first turn makes the records.
    let [without, with] = times.map(|times| median(&times[1..]).as_secs_f64() * 1e9 / SPEAKING as f64);
    println!("| no | {without:.0} |\n| yes | {with:.0} |\n| ratio | {:.3} |", with / without);
}

fn intent(message: i64, now: Timestamp) -> Intent {
    Intent {
        message,
        packet_type: PacketType(200),
        sealing: Sealing::Best,
        payload: Arc::from([0; 16]),
        call: None,
        expires_at: Some(now.after(HOUR)),
        retry: Retry::Never,
        if_route: None,
    }
}

/// One packet of each device, in batches as a socket gives them; the time of this thread.
fn round(pipeline: &mut Pipeline, fleet: &Fleet, sequence: u16, at: Timestamp) -> Duration {
    let mut replies = Replies::default();
    let mut spent = Duration::ZERO;
    let mut batch: Vec<_> = (0..64).map(|_| (0, Vec::with_capacity(128))).collect();
    for first in (0..SPEAKING).step_by(batch.len()) {
        for (place, (index, bytes)) in batch.iter_mut().enumerate() {
            *index = (first + place as u64) % SPEAKING;
            fleet.packet(*index, sequence, 0, bytes);
        }
        let begun = thread_time();
        pipeline.prefetch(batch.iter().map(|(_, bytes)| bytes.as_slice()));
        for (index, bytes) in &mut batch {
            replies.begin();
            let (source, via) = (fleet::address(*index), Via::UNKNOWN);
            pipeline.take(Datagram { bytes, truncated: false, source, via, at }, &mut replies);
            assert_eq!(replies.iter().len(), 0);
        }
        pipeline.wake();
        spent += thread_time() - begun;
    }
    spent
}

async fn with_gateway(rounds: u64, rate: u64) {
    let directory = tempfile::tempdir().unwrap();
    let app = start(directory.path());
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let origin = format!("http://{}", app.http());
    register(&http, &origin, 2 * rounds).await;
    accept(&http, &origin, 2 * rounds).await;

    println!("\nFrom before a device sends to what it gets, microseconds, {rounds} times each\n");
    println!("| what | p50 | p99 | longest |\n| --- | --- | --- | --- |");
    let (mut device, echo, gateway) = (Device::new(), echo(), app.udp()[0]);
    let (mut bare, mut idle) = (Vec::new(), Vec::new());
    for index in 0..rounds {
        bare.push(device.ask(echo, index));
        idle.push(device.ask(gateway, index));
    }
    let beyond = median(&idle).saturating_sub(median(&bare));
    report("bare echo", bare);
    report("message that waited", idle);
    let idle = releases(&http, &origin).await;

    let load = Load::start(gateway, rate);
    let (begun, accepted) = (Instant::now(), app.counted().datagrams[0]);
    let busy_before = ingest_time();
    let busy: Vec<_> = (rounds..2 * rounds).map(|index| device.ask(gateway, index)).collect();
    let elapsed = begun.elapsed().as_secs_f64();
    let share = (ingest_time() - busy_before).as_secs_f64() / elapsed;
    let others = (app.counted().datagrams[0] - accepted) as f64 / elapsed;
    load.stop();
    report("message that waited, loaded", busy);
    println!("\nMedian beyond the bare echo: {:.1} us.", beyond.as_secs_f64() * 1e6);
    println!(
        "The load: {others:.0} packets a second taken in, {:.0} % of the time of the ingest thread.",
        100.0 * share
    );

    let loaded = releases(&http, &origin).await;
    println!("\nFrom the receive call's end to the message handed to the kernel, by the gateway's own histogram\n");
    println!("| | p50 | p99 | beyond 1 ms | of |\n| --- | --- | --- | --- | --- |");
    print_releases("idle", &idle);
    let loaded: Vec<_> = loaded.iter().zip(&idle).map(|(after, before)| (after.0, after.1 - before.1)).collect();
    print_releases("loaded", &loaded);
    app.stop();
}

fn start(directory: &Path) -> App {
    std::fs::write(directory.join("network.key"), STANDARD.encode(fleet::ROOT)).unwrap();
    let file = directory.join("lastroute.toml");
    let listen = "udp-listen = \"127.0.0.1:0\"\nhttp-listen = \"127.0.0.1:0\"\ndata-dir = \"data\"\nunregistered-limit = 1000000\n";
    let network = format!("[[network]]\nid = \"{:06x}\"\nkey-file = \"network.key\"\n", fleet::NETWORK.get());
    std::fs::write(&file, format!("{listen}{network}")).unwrap();
    let flags = Flags { config: Some(file.to_str().unwrap().to_owned()), ..Flags::default() };
    App::start(Config::load(&flags, []).unwrap()).unwrap()
}

async fn ask(http: &Http, method: &str, url: String, body: Value) -> (StatusCode, Bytes) {
    let request = Request::builder().method(method).uri(url).header("content-type", "application/json");
    let answer = http.request(request.body(Full::from(body.to_string())).unwrap()).await.unwrap();
    (answer.status(), answer.into_body().collect().await.unwrap().to_bytes())
}

async fn make(http: &Http, url: String, body: Value) -> Value {
    let (status, answer) = ask(http, "POST", url, body).await;
    assert!(status.is_success(), "{status}: {answer:?}");
    serde_json::from_slice(&answer).unwrap()
}

async fn register(http: &Http, origin: &str, devices: u64) {
    let organisation = make(http, format!("{origin}/organisation"), json!({"name": "bench"})).await["id"].clone();
    let board = json!({"organisationId": organisation, "name": "b", "description": "", "soc": "nRF9151"});
    let board = make(http, format!("{origin}/board"), board).await["id"].clone();
    let all: Vec<Value> = (0..devices)
        .map(|index| {
            let (id, mcu) = (fleet::device(index).to_string(), format!("{index:016x}"));
            json!({"deviceId": id, "mcuId": mcu, "boardId": board, "organisationId": organisation})
        })
        .collect();
    for some in all.chunks(5000) {
        make(http, format!("{origin}/device/batch"), json!({"devices": some})).await;
    }
}

/// One call to each device, that waits until it speaks.
async fn accept(http: &Http, origin: &str, devices: u64) {
    let begun = Instant::now();
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS as u64 {
        let (http, url) = (http.clone(), format!("{origin}/rpc"));
        senders.spawn(async move {
            let mut times = Vec::new();
            for index in (sender..devices).step_by(SENDERS) {
                let call = json!({"commandId": 9, "params": {}});
                let message =
                    json!({"deviceId": fleet::device(index).to_string(), "rpc": call, "sendWaitTimeoutMs": 3_600_000});
                let sent = Instant::now();
                make(&http, url.clone(), message).await;
                times.push(sent.elapsed());
            }
            times
        });
    }
    let times: Vec<_> = senders.join_all().await.into_iter().flatten().collect();
    let rate = devices as f64 / begun.elapsed().as_secs_f64();
    println!("\n{devices} messages accepted with POST /rpc, durable, {SENDERS} requests at once: {rate:.0} a second\n");
    println!("| request, microseconds | p50 | p99 | longest |\n| --- | --- | --- | --- |");
    report("POST /rpc", times);
}

/// The buckets of the gateway's own histogram, from its scrape: bounds in seconds, and how many are at most as long.
async fn releases(http: &Http, origin: &str) -> Vec<(f64, u64)> {
    let (_, text) = ask(http, "GET", format!("{origin}/metrics"), Value::Null).await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let buckets = text.lines().filter_map(|line| line.strip_prefix("lastroute_release_seconds_bucket{le=\""));
    let read = |line: &str| {
        let (bound, count) = line.split_once("\"} ").unwrap();
        (bound.parse().unwrap_or(f64::INFINITY), count.parse().unwrap())
    };
    buckets.map(read).collect()
}

fn print_releases(name: &str, buckets: &[(f64, u64)]) {
    let all = buckets.last().unwrap().1;
    let within = |share: f64| buckets.iter().find(|(_, count)| *count as f64 >= share * all as f64).unwrap().0 * 1e6;
    let millisecond = buckets.iter().find(|(bound, _)| *bound >= 1e-3).unwrap().1;
    println!(
        "| {name} | at most {:.0} us | at most {:.0} us | {} | {all} |",
        within(0.5),
        within(0.99),
        all - millisecond
    );
}

/// One that speaks as any device, and listens.
struct Device {
    socket: UdpSocket,
    packet: Vec<u8>,
}

impl Device {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket, packet: Vec::new() }
    }

    /// The first packet of a device; how long it takes until something comes back.
    fn ask(&mut self, to: SocketAddr, index: u64) -> Duration {
        Fleet::new(Clock::default().now()).packet(index, 1, 0, &mut self.packet);
        let before = Instant::now();
        self.socket.send_to(&self.packet, to).unwrap();
        self.socket.recv(&mut [0; 2048]).unwrap();
        before.elapsed()
    }
}

/// The same sockets with nothing between: a thread that sends back what it receives, cut to the length of a call.
fn echo() -> SocketAddr {
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            echo.set_nonblocking(true).unwrap();
            let echo = tokio::net::UdpSocket::from_std(echo).unwrap();
            let mut bytes = [0; 2048];
            loop {
                let (_, peer) = echo.recv_from(&mut bytes).await.unwrap();
                echo.send_to(&bytes[..CALL], peer).await.unwrap();
            }
        });
    });
    address
}

/// Packets of devices for which nothing waits, at a steady rate, in trains that the kernel cuts on the sender's core.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(to: SocketAddr, rate: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || send(to, rate, &stopped));
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

fn send(to: SocketAddr, rate: u64, stop: &AtomicBool) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    let fleet = Fleet::new(Clock::default().now());
    let (mut packet, mut packets) = (Vec::new(), Vec::new());
    for number in 0..TRAINS * TRAIN {
        fleet.packet(OTHERS + number % OTHERS, 1 + (number / OTHERS) as u16, 0, &mut packet);
        packets.extend_from_slice(&packet);
    }
    let segment = packet.len() as u16;
    let every = Duration::from_secs(TRAIN) / rate as u32;
    let mut due = Instant::now();
    // Enough for 20 seconds at the usual rate; from then on they are duplicates, which cost about as much.
    for train in packets.chunks_exact(packet.len() * TRAIN as usize).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        due += every;
        if let Some(rest) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(rest);
        }
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let flags = MsgFlags::empty();
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(train)], &control, flags, None).unwrap();
    }
}

/// The processor time of the gateway's ingest thread.
fn ingest_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    let is_ingest = |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "ingest\n");
    let path = threads.into_iter().find(is_ingest).unwrap();
    let spent = std::fs::read_to_string(path.join("schedstat")).unwrap();
    Duration::from_nanos(spent.split(' ').next().unwrap().parse().unwrap())
}

/// Time the processor spent on the current thread so far.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e6;
    println!("| {name} | {:.1} | {:.1} | {:.0} |", at(50), at(99), at(100));
}
