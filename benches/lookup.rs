//! What looking up the last route of a device costs over HTTP, next to hyper that answers every request with the same bytes and
//! headers and looks at nothing, in the same run and in turns.
//!
//! `cargo bench --bench lookup [-- ROUNDS REQUESTS DEVICES]`, by default 9 rounds of 40 000 requests about 1000 devices. Both
//! servers are processes of their own, with one thread for HTTP; what counts is the processor time of all their threads.
#![allow(missing_docs, clippy::unwrap_used)]

mod fleet;
mod plain;
mod served;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use fleet::Fleet;
use lastroute::clock::Clock;
use plain::{Plain, Protocol};
use served::{Sample, Server};

/// Datagrams sent before waiting until they are taken in: fewer than any receive buffer holds.
const BURST: u64 = 100;
/// How long the gateway may take for them.
const PATIENCE: Duration = Duration::from_secs(10);

/// How requests come.
struct Way {
    name: &'static str,
    protocol: Protocol,
    connections: usize,
    /// Requests at once on each connection.
    at_once: usize,
}

const WAYS: [Way; 3] = [
    Way { name: "HTTP/2, 4 connections with 32 at once", protocol: Protocol::Http2, connections: 4, at_once: 32 },
    Way { name: "HTTP/2, 32 connections with one at a time", protocol: Protocol::Http2, connections: 32, at_once: 1 },
    Way { name: "HTTP/1.1, 32 connections", protocol: Protocol::Http1, connections: 32, at_once: 1 },
];

fn main() {
    served::serve_if_asked();
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<usize>().ok());
    let (rounds, requests) = (numbers.next().unwrap_or(9), numbers.next().unwrap_or(40_000));
    let devices = numbers.next().unwrap_or(1000) as u64;
    let gateway = Server::gateway();
    speak(&gateway, devices);
    let sample = sample(&gateway, &path(0));
    let bare = Server::bare(&sample);
    println!("every answer like this one, but for the numbers: {sample:?}\n");
    println!("| way | gateway, requests a second of processor time | bare hyper | ratio (least..most) |");
    println!("| --- | --- | --- | --- |");
    for way in &WAYS {
        let mut loads = [&gateway, &bare].map(|server| Load::new(server, way));
        loads.iter_mut().for_each(|load| load.ask(requests / 4, devices));
        let mut runs: Vec<[f64; 2]> =
            (0..rounds).map(|_| loads.each_mut().map(|load| load.cost(requests, devices))).collect();
        report(way, &mut runs);
    }
}

fn path(index: u64) -> String {
    format!("/device/deviceId/{}/lastRoute", fleet::device(index))
}

/// Each device says something.
fn speak(gateway: &Server, devices: u64) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let fleet = Fleet::new(Clock::default().now());
    let mut packet = Vec::new();
    for first in (0..devices).step_by(BURST as usize) {
        let end = devices.min(first + BURST);
        for index in first..end {
            fleet.packet(index, 4711, 0, &mut packet);
            socket.send_to(&packet, gateway.udp).unwrap();
        }
        let begun = Instant::now();
        while !is_known(gateway, &path(end - 1)) {
            assert!(begun.elapsed() < PATIENCE, "the gateway does not take in what devices say");
        }
    }
}

fn is_known(gateway: &Server, path: &str) -> bool {
    raw(gateway, path).starts_with("HTTP/1.1 200 ")
}

/// A whole answer, over a connection of its own.
fn raw(server: &Server, path: &str) -> String {
    let mut stream = TcpStream::connect(server.http1).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// What the gateway answers, without what hyper adds to every answer.
fn sample(gateway: &Server, path: &str) -> Sample {
    let answer = raw(gateway, path);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let headers = head.lines().skip(1).map(|line| line.split_once(": ").unwrap());
    let own = headers.filter(|(name, _)| !["date", "content-length", "connection"].contains(name));
    let headers = own.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Sample { headers, body: body.to_owned() }
}

/// Connections to a server, over which it is asked.
struct Load<'a> {
    server: &'a Server,
    connections: Vec<Connection>,
    at_once: usize,
    /// Requests so far.
    asked: u64,
}

struct Connection {
    stream: TcpStream,
    plain: Plain,
    out: Vec<u8>,
}

impl<'a> Load<'a> {
    fn new(server: &'a Server, way: &Way) -> Self {
        let address = if way.protocol == Protocol::Http2 { server.http2 } else { server.http1 };
        let connections = (0..way.connections).map(|_| Connection::new(address, way.protocol)).collect();
        Self { server, connections, at_once: way.at_once, asked: 0 }
    }

    /// Processor time of the server for each request.
    fn cost(&mut self, requests: usize, devices: u64) -> f64 {
        let (before, asked) = (self.server.processor(), self.asked);
        self.ask(requests, devices);
        (self.server.processor() - before).as_secs_f64() / (self.asked - asked) as f64
    }

    /// Asks on all connections, then waits for all answers, and again.
    fn ask(&mut self, requests: usize, devices: u64) {
        let end = self.asked + requests as u64;
        while self.asked < end {
            for connection in &mut self.connections {
                for _ in 0..self.at_once {
                    self.asked += 1;
                    connection.plain.get(&path(self.asked % devices), &mut connection.out);
                }
                connection.send();
            }
            self.connections.iter_mut().for_each(Connection::wait);
        }
    }
}

impl Connection {
    fn new(address: SocketAddr, protocol: Protocol) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let (plain, mut out) = (Plain::new(protocol), Vec::new());
        plain.greet(&mut out);
        Self { stream, plain, out }
    }

    fn send(&mut self) {
        self.stream.write_all(&self.out).unwrap();
        self.out.clear();
    }

    fn wait(&mut self) {
        let mut bytes = [0; 1 << 14];
        while self.plain.open() > 0 {
            let len = self.stream.read(&mut bytes).unwrap();
            assert_ne!(len, 0, "the server ended the connection");
            self.plain.take(&bytes[..len], &mut self.out, |_| {});
        }
    }
}

fn report(way: &Way, runs: &mut [[f64; 2]]) {
    let mut ratios: Vec<f64> = runs.iter().map(|[gateway, bare]| bare / gateway).collect();
    ratios.sort_by(f64::total_cmp);
    let mut rate = |server: usize| {
        runs.sort_by(|one, other| one[server].total_cmp(&other[server]));
        1.0 / runs[runs.len() / 2][server]
    };
    let (gateway, bare) = (rate(0), rate(1));
    let (least, middle, most) = (ratios[0], ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
    println!("| {} | {gateway:.0} | {bare:.0} | {middle:.2} ({least:.2}..{most:.2}) |", way.name);
}
