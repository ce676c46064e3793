//! What those who wait over HTTP take of memory, next to requests that hyper holds with nothing behind them, and how soon all of
//! them know when each one's device says something.
//!
//! `cargo bench --bench waiters [-- WAITERS [HTTP1_WAITERS]]`, by default 10 000 over HTTP/2, 200 on a connection, and as many
//! over HTTP/1.1, up to 9000. The servers are processes of their own. Each waiter waits for a device of its own, which sends one
//! packet; the clients run in this process, on two threads beside the one that sends.
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;
mod plain;
mod served;

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fleet::Fleet;
use lastroute::clock::Clock;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use plain::{Plain, Protocol};
use served::{Sample, Server};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Waits on one connection over HTTP/2: what clients assume they may have is 100 or more, and the gateway allows 250.
const STREAMS: u64 = 200;
/// Over HTTP/1.1: the gateway allows 10 000 connections.
const MOST_HTTP1: u64 = 9000;
/// Open files beside those of the connections.
const OTHER_FILES: u64 = 100;
/// Connections that are made at once: few, so that the room for requests on their way counts little.
const AT_ONCE: usize = 10;
/// Bytes of a datagram, and datagrams that the kernel cuts out of one message.
const DATAGRAM: usize = 100;
const TRAIN: usize = 32;
/// Packets beyond those whose waiters were answered: a third of what a receive buffer of 64 MiB holds.
const WINDOW: u64 = 24_576;
/// How long the waiters may take for all the others.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    served::serve_if_asked();
    let files = served::allow_many_files();
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let http2 = numbers.next().unwrap_or(10_000);
    let http1 = numbers.next().unwrap_or(http2.min(MOST_HTTP1)).min(MOST_HTTP1).min(files - OTHER_FILES);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (name, protocol, count) in
        [("HTTP/2, 200 on a connection", Protocol::Http2, http2), ("HTTP/1.1", Protocol::Http1, http1)]
    {
        println!("{count} waiters over {name}");
        let bare = Server::bare(&Sample::default());
        let (held, never_woken) = runtime.block_on(crowd(bare, protocol, count));
        never_woken.waiting.iter().for_each(JoinHandle::abort);
        let (waits, crowd) = runtime.block_on(crowd(Server::gateway(), protocol, count));
        println!("  {waits:.0} bytes resident for each, and {held:.0} in bare hyper: {:.2}", waits / held);
        runtime.block_on(crowd.wake());
    }
}

/// Those who wait.
struct Crowd {
    server: Server,
    count: u64,
    /// How many of them know.
    answered: Arc<AtomicU64>,
    waiting: Vec<JoinHandle<Vec<(u64, Instant)>>>,
}

/// As many wait for a device each; returns the server's bytes for each.
async fn crowd(mut server: Server, protocol: Protocol, count: u64) -> (f64, Crowd) {
    let answered = Arc::<AtomicU64>::default();
    let (address, each) = match protocol {
        Protocol::Http1 => (server.http1, 1),
        Protocol::Http2 => (server.http2, STREAMS),
    };
    let before = server.resident();
    let mut waiting: Vec<JoinHandle<_>> = Vec::new();
    for first in (0..count).step_by(each as usize) {
        let devices = first..count.min(first + each);
        waiting.push(tokio::spawn(wait(address, protocol, devices.clone(), Arc::clone(&answered))));
        if waiting.len().is_multiple_of(AT_ONCE) {
            all_wait(&mut server, devices.end).await;
        }
    }
    all_wait(&mut server, count).await;
    let each = (server.resident() - before) as f64 / count as f64;
    (each, Crowd { server, count, answered, waiting })
}

async fn all_wait(server: &mut Server, count: u64) {
    let begun = Instant::now();
    while (server.waiting() as u64) < count {
        assert!(begun.elapsed() < PATIENCE, "{} of {count} wait", server.waiting());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A connection on which each device is waited for; returns when each was answered.
async fn wait(
    address: SocketAddr,
    protocol: Protocol,
    devices: Range<u64>,
    answered: Arc<AtomicU64>,
) -> Vec<(u64, Instant)> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut plain, mut out) = (Plain::new(protocol), Vec::new());
    plain.greet(&mut out);
    for index in devices.clone() {
        plain.get(&format!("/device/deviceId/{}/waitForPacket?timeoutMs=600000", fleet::device(index)), &mut out);
    }
    stream.write_all(&out).await.unwrap();
    out = Vec::new();
    let mut times = Vec::new();
    while plain.open() > 0 {
        stream.readable().await.unwrap();
        let before = times.len();
        take(&stream, &mut plain, &mut out, |number, now| times.push((devices.start + u64::from(number), now)));
        answered.fetch_add((times.len() - before) as u64, Ordering::Relaxed);
        stream.write_all(&out).await.unwrap();
        out.clear();
    }
    times
}

/// What has arrived. No async function, so that not every wait has room for it.
fn take(stream: &TcpStream, plain: &mut Plain, out: &mut Vec<u8>, mut ended: impl FnMut(u32, Instant)) {
    let mut bytes = [0; 1 << 14];
    let Ok(len) = stream.try_read(&mut bytes) else { return };
    assert_ne!(len, 0, "the server ended the connection");
    let now = Instant::now();
    plain.take(&bytes[..len], out, |number| ended(number, now));
}

impl Crowd {
    /// Each device says something.
    async fn wake(self) {
        let Self { server, count, answered, waiting } = self;
        let (udp, own, spent) = (server.udp, processor(), server.processor());
        let packets = sealed(count);
        let begun = Instant::now();
        let sender = std::thread::spawn(move || send(udp, &packets, &answered));
        let mut times = Vec::with_capacity(count as usize);
        for wait in waiting {
            times.extend(wait.await.unwrap());
        }
        let sent = sender.join().unwrap();
        let last = times.iter().map(|(_, at)| *at).max().unwrap() - begun;
        let mut each: Vec<_> = times.iter().map(|(index, at)| *at - sent[*index as usize / TRAIN]).collect();
        each.sort_unstable();
        let at = |share: f64| each[((each.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "  the last one knows {:.3} s after the first packet was sent; each after its own: {:.2} ms (p50), {:.2} ms \
             (p99), {:.2} ms (longest)",
            last.as_secs_f64(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        println!(
            "  processor time for each: {:.2} us of the gateway, {:.2} us of devices and clients",
            each(server.processor() - spent),
            each(processor() - own)
        );
    }
}

/// A packet of each device, end to end.
fn sealed(count: u64) -> Vec<u8> {
    let fleet = Fleet::new(Clock::default().now());
    let mut packet = Vec::new();
    let mut packets = Vec::with_capacity(count as usize * DATAGRAM);
    for index in 0..count {
        fleet.packet(index, 1, 0, &mut packet);
        packets.extend_from_slice(&packet);
    }
    packets
}

/// Sends them as fast as waiters are answered; returns when each message was sent.
fn send(to: SocketAddr, packets: &[u8], answered: &AtomicU64) -> Vec<Instant> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    let segment = [ControlMessage::UdpGsoSegments(&(DATAGRAM as u16))];
    let mut sent = Vec::new();
    for train in packets.chunks(DATAGRAM * TRAIN) {
        let begun = Instant::now();
        while (sent.len() * TRAIN) as u64 > answered.load(Ordering::Relaxed) + WINDOW {
            assert!(begun.elapsed() < PATIENCE, "packets were dropped: is net.core.rmem_max too low?");
            std::thread::sleep(Duration::from_micros(100));
        }
        sent.push(Instant::now());
        let message = [IoSlice::new(train)];
        sendmsg::<()>(socket.as_raw_fd(), &message, &segment, MsgFlags::empty(), None).unwrap();
    }
    sent
}

/// Processor time of this process so far.
fn processor() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let time =
        |time: nix::sys::time::TimeVal| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64);
    time(usage.user_time()) + time(usage.system_time())
}
