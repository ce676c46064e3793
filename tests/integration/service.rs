//! The program as a service: sockets that its manager holds, what it tells the manager, and its ends.

use std::cell::Cell;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lastroute::wire::frame::Flags;
use socket2::{Domain, Socket, Type};

use crate::harness::{Device, NETWORK_KEY, PATIENCE, eventually};
use crate::process::{ANY_PORT, Served, get, lastroute, refused, sample, write_secret};

/// A shell that hands its standard input and output on as the first two passed sockets, and becomes the program.
fn passing(udp: &UdpSocket, tcp: &TcpListener) -> Command {
    let script = "export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null";
    let mut command = Command::new("sh");
    command.env_clear().args(["-c", script, env!("CARGO_BIN_EXE_lastroute"), "serve", "--log", "info"]);
    let [udp, tcp] = [OwnedFd::from(udp.try_clone().unwrap()), OwnedFd::from(tcp.try_clone().unwrap())];
    command.stdin(Stdio::from(udp)).stdout(Stdio::from(tcp)).stderr(Stdio::piped());
    command
}

fn serve_on(udp: &UdpSocket, tcp: &TcpListener, data: &Path) -> Served {
    serve_with(udp, tcp, &["--data-dir", data.to_str().unwrap()])
}

fn serve_with(udp: &UdpSocket, tcp: &TcpListener, more: &[&str]) -> Served {
    let [listen, http] = [udp.local_addr(), tcp.local_addr()].map(|address| address.unwrap().to_string());
    let flags = ["--udp-listen", &listen, "--http-listen", &http];
    let mut child = passing(udp, tcp).args(flags).args(more).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut served = Served { child, log };
    served.until_ready();
    served
}

/// Starts the program with two passed UDP sockets and a listener, as [`passing`] does with one, and waits until it is ready.
fn serve_on_two(udp: &[UdpSocket; 2], tcp: &TcpListener, directory: &Path) -> Child {
    let (notify, config) = (directory.join("notify"), with_network(directory));
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let script = "export LISTEN_PID=$$ LISTEN_FDS=3; exec \"$0\" \"$@\" 3<&0 4<&1 5<&2 0</dev/null 1>/dev/null 2>&1";
    let mut command = Command::new("sh");
    command.env_clear().args(["-c", script, env!("CARGO_BIN_EXE_lastroute"), "serve", "--config", &config]);
    let mut listen = udp.each_ref().map(|socket| socket.local_addr().unwrap().to_string()).to_vec();
    listen.dedup();
    // In another order than they are passed.
    command.args(listen.iter().rev().flat_map(|address| ["--udp-listen", address]));
    command.args(["--http-listen", &tcp.local_addr().unwrap().to_string()]).env("NOTIFY_SOCKET", &notify);
    let [first, second] = udp.each_ref().map(|socket| Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    command.stdin(first).stdout(second).stderr(Stdio::from(OwnedFd::from(tcp.try_clone().unwrap())));
    let child = command.spawn().unwrap();
    let mut bytes = [0; 4096];
    while !bytes.starts_with(b"READY=1\n") {
        manager.recv(&mut bytes).expect("it gets ready");
    }
    child
}

/// A configuration file that knows the network of the devices.
fn with_network(directory: &Path) -> String {
    let config = directory.join("lastroute.toml");
    write_secret(&directory.join("network.key"), &STANDARD.encode(NETWORK_KEY));
    std::fs::write(&config, "data-dir = \"data\"\n[[network]]\nid = \"000a17\"\nkey-file = \"network.key\"\n").unwrap();
    config.to_str().unwrap().to_owned()
}

fn terminate(child: &Child) {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
}

fn short(http: SocketAddr) -> u64 {
    let (status, text) = get(&http.to_string(), "/metrics");
    assert_eq!(status, 200);
    sample(&text, "lastroute_udp_datagrams_total{result=\"short\"}")
}

#[test]
fn sockets_that_the_manager_holds_lose_nothing_while_the_gateway_is_away() {
    let data = tempfile::tempdir().unwrap();
    let (udp, tcp) = (UdpSocket::bind(ANY_PORT).unwrap(), TcpListener::bind(ANY_PORT).unwrap());
    let (listen, http) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let device = UdpSocket::bind(ANY_PORT).unwrap();
    let send = |count: u64| (0..count).for_each(|_| assert_eq!(device.send_to(b"short", listen).unwrap(), 5));
    let until = |count: u64| while short(http) < count {};
    send(50);
    for _ in 0..2 {
        let mut gateway = serve_on(&udp, &tcp, data.path());
        until(50);
        assert_eq!(short(http), 50);
        terminate(&gateway.child);
        assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
        send(50);
        // A request that is asked meanwhile is answered by the next process.
        assert!(TcpStream::connect(http).is_ok());
    }
    serve_on(&udp, &tcp, data.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_packet_that_is_sent_during_a_restart_is_counted_and_acknowledged_by_one_of_the_two_processes() {
    let directory = tempfile::tempdir().unwrap();
    let config = with_network(directory.path());
    let (udp, tcp) = (UdpSocket::bind(ANY_PORT).unwrap(), TcpListener::bind(ANY_PORT).unwrap());
    let start = || serve_with(&udp, &tcp, &["--config", &config]);
    let mut device = Device::towards(udp.local_addr().unwrap(), 7).await;
    let mut first = start();
    for _ in 0..40 {
        device.report(Flags::ACK_REQUEST).await;
    }
    terminate(&first.child);
    for _ in 0..40 {
        device.report(Flags::ACK_REQUEST).await;
    }
    assert_eq!(first.child.wait().unwrap().code(), Some(0));
    let of_first = device.arrived();
    for _ in 0..40 {
        device.report(Flags::ACK_REQUEST).await;
    }
    let _second = start();
    let accepted = || {
        let (_, text) = get(&tcp.local_addr().unwrap().to_string(), "/metrics");
        sample(&text, "lastroute_udp_datagrams_total{result=\"accepted\"}")
    };
    eventually(async || of_first + accepted() >= 120).await;
    assert_eq!(of_first + accepted(), 120, "{of_first} by the first");
    // Those that waited in the socket ask too, and it is never too early for an answer.
    let acknowledged = Cell::new(of_first);
    eventually(async || {
        acknowledged.set(acknowledged.get() + device.arrived());
        acknowledged.get() >= 120
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passed_sockets_of_two_addresses_are_both_read_and_each_device_is_answered_from_the_one_it_spoke_to() {
    let directory = tempfile::tempdir().unwrap();
    let udp = [ANY_PORT, "127.0.0.2:0"].map(|address| UdpSocket::bind(address).unwrap());
    let tcp = TcpListener::bind(ANY_PORT).unwrap();
    let [first, second] = udp.each_ref().map(|socket| socket.local_addr().unwrap());
    // They hear from the address they speak to, and from no other.
    let mut devices = [Device::towards(first, 7).await, Device::towards(second, 8).await];
    // What waits in a socket is answered from there too.
    for device in &mut devices {
        device.report(Flags::ACK_REQUEST).await;
    }
    let mut child = serve_on_two(&udp, &tcp, directory.path());
    for device in &mut devices {
        device.receive().await;
        device.report(Flags::ACK_REQUEST).await;
        device.receive().await;
    }
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn passed_sockets_of_one_address_are_both_read_and_every_device_is_answered_from_it() {
    let directory = tempfile::tempdir().unwrap();
    let (udp, tcp) = (sharing_an_address(), TcpListener::bind(ANY_PORT).unwrap());
    let listen = udp[0].local_addr().unwrap();
    // The kernel divides the devices by their addresses.
    let mut devices = Vec::new();
    while !udp.iter().all(|socket| socket.peek(&mut [0]).is_ok()) {
        let mut device = Device::towards(listen, devices.len() as u64 + 1).await;
        device.report(Flags::ACK_REQUEST).await;
        devices.push(device);
    }
    let mut child = serve_on_two(&udp, &tcp, directory.path());
    for device in &mut devices {
        device.receive().await;
        device.report(Flags::ACK_REQUEST).await;
        device.receive().await;
    }
    let (_, text) = get(&tcp.local_addr().unwrap().to_string(), "/metrics");
    assert_eq!(sample(&text, "lastroute_udp_datagrams_total{result=\"accepted\"}"), 2 * devices.len() as u64);
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Two sockets of one address, as ReusePort=yes makes them; to look at them does not wait.
fn sharing_an_address() -> [UdpSocket; 2] {
    let bind = |address: SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&address.into()).unwrap();
        UdpSocket::from(socket)
    };
    let first = bind(ANY_PORT.parse().unwrap());
    let second = bind(first.local_addr().unwrap());
    [first, second]
}

#[test]
fn a_passed_socket_that_no_setting_names_is_one_line() {
    let data = tempfile::tempdir().unwrap();
    let (udp, tcp) = (UdpSocket::bind(ANY_PORT).unwrap(), TcpListener::bind(ANY_PORT).unwrap());
    let http = tcp.local_addr().unwrap().to_string();
    let flags = ["--udp-listen", ANY_PORT, "--http-listen", &http, "--data-dir"];
    let output = passing(&udp, &tcp).args(flags).arg(data.path()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
    let listen = udp.local_addr().unwrap().to_string();
    assert!(
        error.contains("passed a udp socket on") && error.contains(&listen) && error.contains("--udp-listen"),
        "{error}"
    );
}

#[test]
fn a_start_that_takes_long_is_told_to_the_manager_and_ended_at_once_by_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let (path, data) = (directory.path().join("notify"), directory.path().join("data"));
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    // A file that is opened waits until somebody writes.
    let routes = data.join("routes");
    std::fs::create_dir_all(&routes).unwrap();
    nix::unistd::mkfifo(&routes.join("current"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut command = lastroute(&["serve", "--udp-listen", ANY_PORT, "--http-listen", ANY_PORT, "--data-dir"]);
    command.arg(&data).env("NOTIFY_SOCKET", &path).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut bytes = [0; 4096];
    let length = manager.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"EXTEND_TIMEOUT_USEC=60000000\nSTATUS=loading\n");
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_manager_is_told_of_readiness_life_and_the_end() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let mut command = lastroute(&["serve", "--udp-listen", ANY_PORT, "--http-listen", ANY_PORT, "--data-dir"]);
    command.arg(data.path().join("data")).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let ready = std::iter::repeat_with(told).find(|told| told.contains("READY=1")).unwrap();
    assert!(ready.contains("READY=1\n") && ready.contains("STATUS=receiving on 127.0.0.1:"), "{ready}");
    // Twice as long as a thread may stand still: those that have nothing to do are alive too.
    for _ in 0..9 {
        assert_eq!(told().trim(), "WATCHDOG=1");
    }
    terminate(&child);
    let last = std::iter::repeat_with(told).find(|told| told.trim() != "WATCHDOG=1").unwrap();
    assert!(last.starts_with("STOPPING=1\n"), "{last}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn sigterm_sends_those_who_wait_away_to_come_back_and_ends_within_5_s() {
    let data = tempfile::tempdir().unwrap();
    let mut gateway = Served::start(data.path(), &[]);
    let http = gateway.until_ready().last().unwrap()["http"].as_str().unwrap().to_owned();
    let mut waiting: Vec<_> = (0..20).map(|_| TcpStream::connect(&http).unwrap()).collect();
    for stream in &mut waiting {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /device/deviceId/0000000000000007/waitForPacket HTTP/1.1\r\nhost: {http}\r\n\r\n").unwrap();
    }
    while !get(&http, "/metrics").1.contains("\nlastroute_waiters 20.0\n") {}
    let begun = std::time::Instant::now();
    terminate(&gateway.child);
    for stream in &mut waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let head = answer.split_once("\r\n\r\n").unwrap().0.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 503 ") && head.contains("\r\nretry-after: "), "{answer}");
    }
    assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_data_directory_that_cannot_be_made_is_one_line_with_the_remedy() {
    // Nobody has the right to make a directory there, not even root.
    let mut command =
        lastroute(&["serve", "--udp-listen", ANY_PORT, "--http-listen", ANY_PORT, "--data-dir", "/proc/lastroute"]);
    let error = refused(&mut command);
    assert!(error.contains("cannot make the directory /proc/lastroute") && error.contains("--data-dir"), "{error}");
}
