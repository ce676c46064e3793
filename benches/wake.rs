//! How long after its packet was sent somebody who waits for a device knows: through the library, over HTTP/1.1 and over
//! HTTP/2, next to a bare echo over the same loopback in the same run. Then with 10 000 who wait over 50 connections, each
//! for a device of its own.
//!
//! `cargo bench --bench wake [-- ROUNDS]`, by default 5000 packets each. One packet at a time, everything idle between: what
//! is measured is the way through the gateway, its threads' wake-ups included, and not a queue. The last row has a queue:
//! 100 packets at once.
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;
mod served;

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use fleet::Fleet;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use lastroute::clock::Clock;
use lastroute::wait::{PacketWaits, Waited};
use tokio::net::UdpSocket;

const MINUTE: Duration = Duration::from_secs(60);
/// Those who wait at once; twice the rounds if that is fewer.
const CROWD: u64 = 10_000;
/// Waits on one connection: what clients assume they may have is 100 or more, and the gateway allows 250.
const STREAMS: usize = 200;

/// The device that speaks.
struct Device {
    socket: UdpSocket,
    fleet: Fleet,
    sequence: u16,
    packet: Vec<u8>,
}

impl Device {
    async fn new(gateway: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(gateway).await.unwrap();
        Self { socket, fleet: Fleet::new(Clock::default().now()), sequence: 0, packet: Vec::new() }
    }

    /// Sends the next packet; returns the moment before.
    async fn speak(&mut self) -> Instant {
        self.speak_as(0).await
    }

    /// The same as another device.
    async fn speak_as(&mut self, index: u64) -> Instant {
        self.sequence = self.sequence.wrapping_add(1);
        self.fleet.packet(index, self.sequence, 0, &mut self.packet);
        let before = Instant::now();
        self.socket.send(&self.packet).await.unwrap();
        before
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(5000);
    let directory = tempfile::tempdir().unwrap();
    let app = served::gateway(directory.path());
    let mut device = Device::new(app.udp()[0]).await;
    let base = format!("http://{}/device/deviceId/{}/waitForPacket", app.http(), fleet::device(0));

    println!("{rounds} packets each, microseconds from before the send to the answer\n");
    println!("| way | p50 | p99 | longest |");
    println!("| --- | --- | --- | --- |");
    report("bare echo", echo(rounds).await);
    report("library", library(rounds, &mut device, app.waits()).await);
    for (name, http2) in [("HTTP/1.1", false), ("HTTP/2, one stream", true)] {
        report(name, http(rounds, &mut device, app.waits(), &base, http2).await);
    }
    let crowd = CROWD.min(2 * rounds as u64);
    let origin = format!("http://{}", app.http());
    for (turn, how, burst) in [(0, "one packet at a time", 1), (1, "100 packets at once", 100)] {
        let name = format!("HTTP/2, {crowd} waits over {} connections, {how}", crowd.div_ceil(STREAMS as u64));
        // Other devices each time: their one packet begins a session.
        let indices = turn * crowd + 1..(turn + 1) * crowd + 1;
        report(&name, woken_crowd(indices, burst, &mut device, app.waits(), &origin).await);
    }
    app.stop();
}

/// The same sockets with nothing between: a thread that sends back what it receives.
async fn echo(rounds: usize) -> Vec<Duration> {
    let echo = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut device = Device::new(echo.local_addr().unwrap()).await;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            echo.set_nonblocking(true).unwrap();
            let echo = UdpSocket::from_std(echo).unwrap();
            let mut bytes = [0; 2048];
            loop {
                let (len, peer) = echo.recv_from(&mut bytes).await.unwrap();
                echo.send_to(&bytes[..len], peer).await.unwrap();
            }
        });
    });
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let sent = device.speak().await;
        device.socket.recv(&mut [0; 2048]).await.unwrap();
        times.push(sent.elapsed());
    }
    times
}

async fn library(rounds: usize, device: &mut Device, waits: &PacketWaits) -> Vec<Duration> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let waiting = waits.clone();
        let wait = tokio::spawn(async move {
            let deadline = tokio::time::Instant::now() + MINUTE;
            let waited = waiting.wait_for_packet(fleet::device(0), None, deadline).await.unwrap();
            assert!(matches!(waited, Waited::Packet { missed: 0, .. }), "{waited:?}");
            Instant::now()
        });
        somebody_waits(waits).await;
        let sent = device.speak().await;
        times.push(wait.await.unwrap() - sent);
    }
    times
}

async fn http(rounds: usize, device: &mut Device, waits: &PacketWaits, url: &str, http2: bool) -> Vec<Duration> {
    let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http::<Full<Bytes>>();
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let (client, request) = (client.clone(), Request::get(url).body(Full::default()).unwrap());
        let wait = tokio::spawn(async move {
            let answer = client.request(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            answer.into_body().collect().await.unwrap();
            Instant::now()
        });
        somebody_waits(waits).await;
        let sent = device.speak().await;
        times.push(wait.await.unwrap() - sent);
    }
    times
}

/// As many wait as there are `indices`, each for that device, and are woken by its one packet, `burst` packets at once. Ends
/// only if each of them is.
async fn woken_crowd(
    indices: Range<u64>,
    burst: usize,
    device: &mut Device,
    waits: &PacketWaits,
    origin: &str,
) -> Vec<Duration> {
    let crowd = (indices.end - indices.start) as usize;
    let mut crowded = Vec::new();
    for (number, index) in indices.enumerate() {
        if number % STREAMS == 0 {
            let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
            // Opens the connection that the waits share.
            let health = Request::get(format!("{origin}/health")).body(Full::default()).unwrap();
            client.request(health).await.unwrap().into_body().collect().await.unwrap();
            crowded.push((client, Vec::new()));
        }
        let Some((client, waiting)) = crowded.last_mut() else { unreachable!() };
        let url = format!("{origin}/device/deviceId/{}/waitForPacket?timeoutMs=600000", fleet::device(index));
        let request = client.request(Request::get(url).body(Full::default()).unwrap());
        let wait = tokio::spawn(async move {
            let answer = request.await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            answer.into_body().collect().await.unwrap();
            Instant::now()
        });
        waiting.push((index, wait));
    }
    all_wait(waits, crowd).await;
    let mut times = Vec::with_capacity(crowd);
    let mut all = crowded.iter_mut().flat_map(|(_, waiting)| waiting);
    loop {
        let mut sent = Vec::with_capacity(burst);
        for (index, wait) in all.by_ref().take(burst) {
            sent.push((device.speak_as(*index).await, wait));
        }
        if sent.is_empty() {
            return times;
        }
        for (sent, wait) in sent {
            times.push(wait.await.unwrap() - sent);
        }
    }
}

async fn somebody_waits(waits: &PacketWaits) {
    all_wait(waits, 1).await;
}

async fn all_wait(waits: &PacketWaits, count: usize) {
    while waits.waiting() < count {
        tokio::task::yield_now().await;
    }
    // Until it sleeps and its thread does too.
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1000.0;
    println!("| {name} | {:.0} | {:.0} | {:.0} |", at(0.5), at(0.99), at(1.0));
}
