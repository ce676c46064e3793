//! The registry at size: how fast devices are imported, what they take in memory, what a read costs the gateway beyond the
//! barest request, and how long pages and long lists take.
//!
//! `cargo bench --bench registry [-- DEVICES]`, by default a million. The gateway is a process of its own with a fresh data
//! directory; its processor time is read from the kernel. Requests go over one HTTP/1.1 connection, one at a time, unless it
//! says otherwise.
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fleet::Fleet;
use lastroute::clock::Clock;
use serde_json::{Value, json};

/// Devices in one import.
const BATCH: u64 = 10_000;
/// Connections over which reads are asked for at once. One at a time every read wakes threads that sleep.
const CONNECTIONS: [u64; 2] = [1, 8];
/// Requests over which the cost of one is taken.
const REQUESTS: u64 = 5000;
/// Requests for each page.
const PAGES: u64 = 5;
/// Devices that have spoken, so that orders by what was heard have something to order.
const SPEAKERS: u64 = 200_000;
/// Datagrams sent before waiting until they are taken in: fewer than a receive buffer holds.
const BURST: u64 = 500;
/// How long the gateway may take for them.
const PATIENCE: Duration = Duration::from_secs(30);
/// From one speaker to the next, a prime above the number of speakers: each gets its turn once.
const STEP: u64 = 15_485_863;
const _: () = assert!(SPEAKERS < STEP);

fn main() {
    let devices: u64 = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let data = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(data.path());
    let empty = gateway.resident();
    let organisation = import(&mut gateway, devices);
    println!("\n{} MB resident after the import", gateway.resident() >> 20);
    drop(gateway);
    let begun = Instant::now();
    let mut gateway = Gateway::start(data.path());
    let registered = gateway.resident().saturating_sub(empty) as f64 / devices as f64;
    println!(
        "started again in {:.1} s; {registered:.0} bytes resident for each device that has not spoken",
        begun.elapsed().as_secs_f64()
    );
    speak(&mut gateway, devices.min(SPEAKERS));
    reads(&mut gateway, devices);
    pages(&mut gateway, &organisation, devices);
    lists(&mut gateway, devices);
}

/// Registers `devices`; the id of their organisation.
fn import(gateway: &mut Gateway, devices: u64) -> String {
    let organisation = gateway.create("/organisation", &json!({"name": "Fleet"}));
    let key = STANDARD.encode(fleet::ROOT);
    let network = json!({"name": "fleet", "description": "", "key": key, "organisationId": organisation, "public": false,
        "networkId": fleet::NETWORK.get()});
    gateway.create("/network", &network);
    let boards: Vec<_> = (0..5)
        .map(|number| {
            let board = json!({"name": format!("board {number}"), "description": "", "soc": "nRF9151",
                "organisationId": organisation});
            gateway.create("/board", &board)
        })
        .collect();
    let (begun, spent) = (Instant::now(), gateway.processor());
    for first in (0..devices).step_by(BATCH as usize) {
        let batch: Vec<_> = (first..devices.min(first + BATCH))
            .map(|index| {
                let device_id = fleet::device(index);
                json!({"mcuId": format!("{:016x}", scattered(index)), "boardId": boards[(scattered(index) % 5) as usize],
                    "organisationId": organisation, "deviceId": device_id, "metadata": {"name": format!("device {index}")}})
            })
            .collect();
        let (status, answer) = gateway.call("POST", "/device/import", Some(&json!({"devices": batch})));
        assert_eq!((status, answer["created"].as_u64()), (200, Some(batch.len() as u64)), "{answer}");
    }
    let took = begun.elapsed().as_secs_f64();
    let spent = (gateway.processor() - spent).as_secs_f64();
    println!(
        "{devices} devices imported in {took:.1} s: {:.0} a second, {:.1} us of the gateway's processor time each",
        devices as f64 / took,
        spent * 1e6 / devices as f64
    );
    organisation
}

/// Each of the first `speakers` devices says something once, in an order that is not that of their registration.
fn speak(gateway: &mut Gateway, speakers: u64) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let fleet = Fleet::new(Clock::default().now());
    let mut packet = Vec::new();
    for first in (0..speakers).step_by(BURST as usize) {
        for turn in first..speakers.min(first + BURST) {
            fleet.packet(speaker(turn, speakers), turn as u16, 0, &mut packet);
            socket.send_to(&packet, gateway.udp).unwrap();
        }
        let sent = speakers.min(first + BURST);
        let begun = Instant::now();
        while gateway.taken_in() < sent {
            assert!(begun.elapsed() < PATIENCE, "{} of {sent} datagrams were taken in", gateway.taken_in());
        }
    }
}

/// What a read of one record costs beyond the barest request.
fn reads(gateway: &mut Gateway, devices: u64) {
    let id = |gateway: &mut Gateway, index: u64| {
        let (_, device) = gateway.call("GET", &format!("/device/deviceId/{}", fleet::device(index)), None);
        device["id"].as_str().unwrap().to_owned()
    };
    let ids: Vec<_> = (0..REQUESTS).map(|turn| id(gateway, scattered(turn) % devices)).collect();
    let bare = CONNECTIONS.map(|connections| gateway.cost(connections, |_| "/health".to_owned()));
    println!(
        "\nprocessor time of a read beyond that of GET /health, which is {:.1} us one at a time and {:.1} us of {} at once\n",
        bare[0] * 1e6,
        bare[1] * 1e6,
        CONNECTIONS[1]
    );
    println!("| read of | one at a time | ratio | {} at once | ratio |", CONNECTIONS[1]);
    println!("| --- | --- | --- | --- | --- |");
    let any = |turn: u64| scattered(turn.wrapping_add(7)) % devices;
    type PathOf<'a> = Box<dyn Fn(u64) -> String + Sync + 'a>;
    let by_id: [(&str, PathOf<'_>); 6] = [
        ("device by record id", Box::new(|turn| format!("/device/id/{}", ids[turn as usize]))),
        ("device by deviceId", Box::new(|turn| format!("/device/deviceId/{}", fleet::device(any(turn))))),
        (
            "device by soc and mcuId",
            Box::new(|turn| format!("/device/soc/nRF9151/mcuId/{:016x}", scattered(any(turn)))),
        ),
        ("state by record id", Box::new(|turn| format!("/device/id/{}/state", ids[turn as usize]))),
        ("state by deviceId", Box::new(|turn| format!("/device/deviceId/{}/state", fleet::device(any(turn))))),
        (
            "lastRoute",
            Box::new(|turn| {
                format!("/device/deviceId/{}/lastRoute", fleet::device(speaker(turn, devices.min(SPEAKERS))))
            }),
        ),
    ];
    for (name, path) in &by_id {
        let cost = CONNECTIONS.map(|connections| gateway.cost(connections, path));
        let cells =
            cost.iter().zip(&bare).map(|(cost, bare)| format!("{:.1} us | {:.2}", (cost - bare) * 1e6, cost / bare));
        println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

/// How long pages of 100 take, from the request to the end of the answer.
fn pages(gateway: &mut Gateway, organisation: &str, devices: u64) {
    const ORDERS: [&str; 9] = [
        "createdAt",
        "updatedAt",
        "deviceId",
        "mcuId",
        "boardId",
        "organisationId",
        "firstPacketTime",
        "lastRouteTime",
        "lastRouteUdpTime",
    ];
    let offsets: Vec<_> = [0, 10_000, 50_000, 99_900].into_iter().filter(|offset| offset + 100 <= devices).collect();
    println!("\npages of 100 of /device-and-state, milliseconds (median of {PAGES}; the first one in brackets)\n");
    println!("| order | {} |", offsets.iter().map(u64::to_string).collect::<Vec<_>>().join(" | "));
    println!("| --- |{}", " --- |".repeat(offsets.len()));
    for order in ORDERS {
        for direction in ["asc", "desc"] {
            let cells = offsets.iter().map(|offset| {
                let path =
                    format!("/device-and-state?organisationId={organisation}&orderBy={order}&orderDir={direction}");
                gateway.page(&path, *offset)
            });
            println!("| {order} {direction} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
    }
    let silent = format!("/device-and-state?organisationId={organisation}&silentForMs=600000");
    println!("| createdAt asc, silent | {} |", gateway.page(&silent, 0));
}

/// How long the last routes of many devices take, each of which is named once if so many have spoken.
fn lists(gateway: &mut Gateway, devices: u64) {
    let ids: Vec<_> = (0..10_000).map(|turn| fleet::device(speaker(turn, devices.min(SPEAKERS)))).collect();
    let body = json!({"deviceIds": ids});
    let mut times: Vec<_> = (0..20)
        .map(|_| {
            let begun = Instant::now();
            let (status, answer) = gateway.raw("POST", "/device/lastRoute", Some(&body));
            let took = begun.elapsed();
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
            took
        })
        .collect();
    times.sort_unstable();
    println!("\n10 000 ids of POST /device/lastRoute: median {:.1} ms, longest {:.1} ms", ms(times[10]), ms(times[19]));
}

/// Which of the first `speakers` devices has this turn: each one in as many turns as there are of them.
fn speaker(turn: u64, speakers: u64) -> u64 {
    turn % speakers * STEP % speakers
}

/// A number without order that belongs to `index` alone.
fn scattered(index: u64) -> u64 {
    let mixed = (index ^ (index >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A gateway as a process of its own, and a connection to it.
struct Gateway {
    child: Child,
    address: String,
    http: Connection,
    udp: SocketAddr,
}

impl Gateway {
    fn start(data: &Path) -> Self {
        let any = "127.0.0.1:0";
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
        command.env_clear().args(["serve", "--udp-listen", any, "--http-listen", any, "--data-dir"]).arg(data);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut udp, mut http) = (None, None);
        while http.is_none() {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the gateway ended before it was ready");
            let line: Value = serde_json::from_str(&line).unwrap();
            udp = udp.or_else(|| line["listen"].as_str()?.parse().ok());
            http = (line["message"] == "ready").then(|| line["http"].as_str().unwrap().to_owned());
        }
        std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        let address = http.unwrap();
        let http = Connection::open(&address);
        Self { child, address, http, udp: udp.unwrap() }
    }

    fn create(&mut self, path: &str, body: &Value) -> String {
        let (status, made) = self.call("POST", path, Some(body));
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let (status, bytes) = self.raw(method, path, body);
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn raw(&mut self, method: &str, path: &str, body: Option<&Value>) -> (u16, Vec<u8>) {
        self.http.raw(method, path, body)
    }

    /// Seconds of the gateway's processor time for one GET of `path`, over so many connections at once.
    fn cost(&mut self, connections: u64, path: impl Fn(u64) -> String + Sync) -> f64 {
        let (spent, path, address) = (self.processor(), &path, &self.address);
        std::thread::scope(|scope| {
            for number in 0..connections {
                scope.spawn(move || {
                    let mut connection = Connection::open(address);
                    (number..REQUESTS).step_by(connections as usize).for_each(|turn| connection.get(&path(turn)));
                });
            }
        });
        (self.processor() - spent).as_secs_f64() / REQUESTS as f64
    }

    /// Milliseconds for a page of 100.
    fn page(&mut self, path: &str, offset: u64) -> String {
        let mut times: Vec<_> = (0..PAGES)
            .map(|_| {
                let begun = Instant::now();
                let (status, answer) = self.raw("GET", &format!("{path}&limit=100&offset={offset}"), None);
                let took = begun.elapsed();
                assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
                took
            })
            .collect();
        let first = times[0];
        times.sort_unstable();
        format!("{:.1} ({:.1})", ms(times[times.len() / 2]), ms(first))
    }

    /// Datagrams taken in.
    fn taken_in(&mut self) -> u64 {
        let (_, status) = self.call("GET", "/gateway", None);
        let datagrams = status["datagrams"].as_object().unwrap();
        datagrams.values().map(|count| count.as_u64().unwrap()).sum()
    }

    /// Processor time of all threads so far.
    fn processor(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanoseconds = tasks.map(|task| {
            let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0)
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Bytes of memory.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes << 10
    }
}

/// A connection to a gateway.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn raw(&mut self, method: &str, path: &str, body: Option<&Value>) -> (u16, Vec<u8>) {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let status = self.line().split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = 0;
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
        }
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        (status, bytes)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn get(&mut self, path: &str) {
        let (status, answer) = self.raw("GET", path, None);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), nix::sys::signal::SIGTERM);
        let _ = self.child.wait();
    }
}
