//! Row 34 of docs/faults.md: no file descriptor is left.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lastroute::auth::keys::{FACTORY_NETWORK, FACTORY_NETWORK_KEY, Interface, RootKey};
use lastroute::auth::seal_with;
use lastroute::clock::Clock;
use lastroute::id::DeviceId;
use lastroute::wire::frame::{Flags, Header, Layout, PacketType};
use serde_json::Value;

/// Files that the gateway may have open, and connections that are made to it.
const FILES: &str = "96";
const CONNECTIONS: usize = 150;
const PATIENCE: Duration = Duration::from_secs(20);

/// Killed when it is dropped.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway of the factory network that may open few files, and its addresses for datagrams and for the API.
fn start(directory: &std::path::Path) -> (Gateway, SocketAddr, SocketAddr) {
    let config = directory.join("config.toml");
    std::fs::write(&config, "[[network]]\nid = \"000000\"\n").unwrap();
    let limited = "ulimit -n \"$1\" && exec \"$0\" serve --udp-listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --config \"$2\" \
                   --data-dir \"$3\"";
    let mut command = Command::new("sh");
    command.env_clear().args(["-c", limited, env!("CARGO_BIN_EXE_lastroute"), FILES]);
    command.arg(&config).arg(directory.join("data")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let gateway = Gateway(child);
    let mut said = |message: &str, field: &str| {
        let mut lines = log.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let line = lines.find(|line| line["message"] == message).unwrap();
        line[field].as_str().unwrap().parse().unwrap()
    };
    let (udp, http) = (said("receiving", "listen"), said("ready", "http"));
    // What it logs from then on must not stop it.
    std::thread::spawn(move || log.for_each(drop));
    (gateway, udp, http)
}

/// A packet that asks for an acknowledgement.
fn packet(sequence: u16) -> Vec<u8> {
    let gps_time = Clock::default().now().gps();
    let header = Header {
        packet_type: PacketType::TDF,
        flags: Flags(Flags::ACK_REQUEST),
        key_id: FACTORY_NETWORK,
        device_id: DeviceId(0xd000_0000_0000_0034),
        gps_time,
        sequence,
        entropy: 7,
    };
    let mut bytes = Vec::new();
    let key = RootKey::new(FACTORY_NETWORK_KEY).day_key(Interface::Udp, header.rotation());
    seal_with(&key, &header, Layout::Unversioned, b"report", &mut bytes);
    bytes
}

fn is_healthy(http: SocketAddr) -> bool {
    let mut answer = String::new();
    let asked = TcpStream::connect(http).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    asked.is_ok() && answer.starts_with("HTTP/1.1 200 ")
}

#[test]
fn row_34_without_a_file_descriptor_every_packet_counts_and_the_api_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let (_gateway, udp, http) = start(directory.path());
    // Whoever is not accepted waits in the queue of the listener.
    let connections: Vec<_> = (0..CONNECTIONS).map(|_| TcpStream::connect(http).unwrap()).collect();
    assert!(!is_healthy(http), "nobody else is accepted");
    let device = UdpSocket::bind("127.0.0.1:0").unwrap();
    device.connect(udp).unwrap();
    device.set_read_timeout(Some(PATIENCE)).unwrap();
    for sequence in 0..100 {
        device.send(&packet(sequence)).unwrap();
        let acknowledgement = device.recv(&mut [0; 64]).unwrap();
        assert_eq!(acknowledgement, 40);
    }
    drop(connections);
    let start = Instant::now();
    while !is_healthy(http) {
        assert!(start.elapsed() < PATIENCE, "the API does not come back");
    }
}
