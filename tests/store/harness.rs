//! Gateways as processes of their own, on a data directory that stays, and devices.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lastroute::auth::keys::{Interface, RootKey};
use lastroute::auth::seal_with;
use lastroute::client::Client;
use lastroute::clock::Clock;
use lastroute::id::{DeviceId, KeyId};
use lastroute::wire::frame::{Flags, Header, Layout, PacketType};
use serde_json::Value;

const NETWORK: KeyId = KeyId::from_le_bytes([0x17, 0x0a, 0]);
const NETWORK_KEY: [u8; 32] = [0x42; 32];

/// Longer than anything here takes, so that what never comes fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with the files of a gateway.
pub(crate) struct Site(tempfile::TempDir);

impl Site {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
        file("cloud.key", "11".repeat(32).as_bytes());
        file("network.key", hex::encode(NETWORK_KEY).as_bytes());
        file("lastroute.toml", b"data-dir = \"data\"\n[[network]]\nid = \"000a17\"\nkey-file = \"network.key\"\n");
        Self(directory)
    }

    /// A file with an API key for administrators.
    pub(crate) fn api_key_file(&self, key: &str) -> String {
        let path = self.0.path().join("api.keys");
        std::fs::write(&path, key).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    pub(crate) fn routes(&self) -> PathBuf {
        self.data().join("routes")
    }

    /// `serve` on free ports, by way of `sh` and `before` in it.
    fn command(&self, before: &str, more: &[&str]) -> Command {
        let path = |name: &str| self.0.path().join(name);
        let mut command = Command::new("sh");
        command
            .env_clear()
            .args(["-c", &format!("{before} exec \"$@\""), "sh", env!("CARGO_BIN_EXE_lastroute")])
            .args(["serve", "--udp-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
            .args(["--config", path("lastroute.toml").to_str().unwrap()])
            .args(["--cloud-key-file", path("cloud.key").to_str().unwrap()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(&self, more: &[&str]) -> Gateway {
        Gateway::start(self.command("", more))
    }

    /// As [`Self::start`], for one that is to be told of too long a file by an error.
    pub(crate) fn start_unharmed_by_limits(&self, more: &[&str]) -> Gateway {
        Gateway::start(self.command("trap '' XFSZ;", more))
    }

    /// What it says that does not start.
    pub(crate) fn fails(&self, more: &[&str]) -> Output {
        self.command("", more).output().unwrap()
    }
}

/// A process. Killed when it is dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) udp: SocketAddr,
    client: Client,
}

impl Gateway {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = |message: &str, field: &str| loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "ended before it was {message}");
            let Ok(line) = serde_json::from_str::<Value>(&line) else { panic!("{line}") };
            if line["message"] == message {
                break line[field].as_str().unwrap().to_owned();
            }
        };
        let (udp, http) = (said("receiving", "listen"), said("ready", "http"));
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let client = Client::new(&format!("http://{http}"), None).unwrap().with_limits(PATIENCE, 1 << 20);
        Self { child, udp: udp.parse().unwrap(), client }
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM: an orderly stop.
    pub(crate) fn stop(mut self) {
        let begun = Instant::now();
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    }

    /// Bounds the length of the files that it writes.
    pub(crate) fn limit_files(&self, limit: &str) {
        let pid = self.child.id().to_string();
        let limit = format!("--fsize={limit}:");
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    }

    /// Makes what `body` says, for whoever has this key.
    pub(crate) async fn make(&self, key: &str, path: &str, body: Value) -> Value {
        let client = Client::new(self.client.address(), Some(key)).unwrap();
        client.post_json(path, body.to_string().into()).await.unwrap().unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        self.client.get_json(path).await.unwrap()
    }

    /// Where the route of a device leads.
    pub(crate) async fn route(&self, device: &Device) -> Option<String> {
        let route = self.get(&format!("/device/deviceId/{}/lastRoute", device.id)).await;
        Some(route?["udp"]["address"].as_str().unwrap().to_owned())
    }

    /// The cursor of the last packet of a device, by waiting for what came already.
    pub(crate) async fn cursor(&self, device: &Device) -> String {
        let waited = self.wait(device.id, "after=0-0&timeoutMs=1000").await.expect("an answer");
        waited["cursor"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn wait(&self, id: DeviceId, query: &str) -> Option<Value> {
        self.get(&format!("/device/deviceId/{id}/waitForPacket?{query}")).await
    }

    /// The value of a metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.text("/metrics").await;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name)).unwrap_or_else(|| panic!("{text}"));
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn text(&self, path: &str) -> String {
        let address = self.client.address().trim_start_matches("http://").to_owned();
        let path = path.to_owned();
        let asking = move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            std::io::Write::write_all(
                &mut stream,
                format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        tokio::task::spawn_blocking(asking).await.unwrap()
    }

    /// How many datagrams it has looked at.
    async fn taken(&self) -> usize {
        let text = self.text("/metrics").await;
        let counts = text.lines().filter(|line| line.starts_with("lastroute_udp_datagrams_total"));
        counts.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
    }

    /// Waits until it has looked at so many datagrams.
    pub(crate) async fn takes(&self, datagrams: usize) {
        self.until(async || self.taken().await >= datagrams).await;
    }

    /// A device says something, and it has looked at that.
    pub(crate) async fn hears(&self, device: &mut Device) {
        let before = self.taken().await;
        device.say(self.udp);
        self.takes(before + 1).await;
    }

    /// Waits until everything that was heard so far is written down.
    pub(crate) async fn written(&self) {
        // One that begins after now is the second from now, as one may be under way.
        for _ in 0..2 {
            let before = self.metric("lastroute_checkpoint_seconds_count").await;
            self.until(async || self.metric("lastroute_checkpoint_seconds_count").await > before).await;
        }
    }

    /// Asks until it is so.
    pub(crate) async fn until(&self, so: impl AsyncFn() -> bool) {
        let begun = Instant::now();
        while !so().await {
            assert!(begun.elapsed() < PATIENCE, "it never came true");
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A device, at an address of its own.
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    socket: UdpSocket,
    sequence: u16,
    /// Everything it has sent.
    pub(crate) sent: Vec<Vec<u8>>,
}

impl Device {
    pub(crate) fn new(id: u64) -> Self {
        Self { id: DeviceId(id), socket: socket(), sequence: 0, sent: Vec::new() }
    }

    pub(crate) fn address(&self) -> String {
        self.socket.local_addr().unwrap().to_string()
    }

    /// Goes on at another address.
    pub(crate) fn roam(&mut self) {
        self.socket = socket();
    }

    /// Sends a packet.
    pub(crate) fn say(&mut self, gateway: SocketAddr) {
        self.sequence += 1;
        let header = Header {
            packet_type: PacketType::TDF,
            flags: Flags(0),
            key_id: NETWORK,
            device_id: self.id,
            gps_time: Clock::default().now().gps(),
            sequence: self.sequence,
            entropy: self.sequence,
        };
        let key = RootKey::new(NETWORK_KEY).day_key(Interface::Udp, header.rotation());
        let mut bytes = Vec::new();
        seal_with(&key, &header, Layout::Unversioned, &[], &mut bytes);
        self.socket.send_to(&bytes, gateway).unwrap();
        self.sent.push(bytes);
    }
}

/// Sends what was recorded from an address that is no device's.
pub(crate) fn replay(recorded: &[Vec<u8>], gateway: SocketAddr) {
    let socket = socket();
    for bytes in recorded {
        socket.send_to(bytes, gateway).unwrap();
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The only line a process said.
pub(crate) fn only_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    text
}

/// The files of a directory.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
