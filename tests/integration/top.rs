//! The client of the API and `top`, against a real gateway and as an operator meets them.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use lastroute::client::{Client, ClientError};
use lastroute::id::DeviceId;
use lastroute::metrics::Disposition;

use crate::harness::{Client as Waiter, Device, Gateway, eventually};

fn client(gateway: &Gateway, key: Option<&str>) -> Client {
    Client::new(&format!("http://{}", gateway.http), key).unwrap()
}

fn top(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
    command.env_clear().arg("top").args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The exit code and what is on standard output and standard error.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A server that answers one request with this JSON; gives the lines of the request's head.
fn answering(body: &'static str) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        let head = lines.take_while(|line| !line.is_empty()).collect();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        head
    });
    (address, serving)
}

const STATUS: &str = r#"{"version":"0.1.0","startedAt":"2026-11-25T16:00:00.000Z","now":"2026-11-25T16:00:02.500Z",
    "datagrams":{"accepted":7},"entries":{},"kernelDrops":0,"routeMoves":0,"acksSent":2,"acksFailed":0,
    "devices":{"total":3,"unregistered":1,
    "heard":{"countedAt":"2026-11-25T16:00:02.000Z","within5m":3,"within1h":3,"within24h":3}},
    "waiters":{"now":4,"woken":5},"connections":6,"latestMoves":[]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_client_reads_what_a_gateway_knows_of_a_device() {
    let gateway = Gateway::start("");
    let client = client(&gateway, None);
    let mut device = Device::new(0xd000_0000_0000_1001, &gateway).await;
    assert_eq!((client.last_route(device.id).await, client.state(device.id).await), (Ok(None), Ok(None)));

    let waiter = Waiter::http1(&gateway);
    let before = waiter.cursor(device.id).await;
    let sequence = device.report(0).await;
    let waited = waiter.wait(device.id, &before).await;
    let found = client.last_route(device.id).await.unwrap().unwrap();
    assert_eq!(found.route["udp"]["address"], device.address().to_string());
    assert_eq!(found.route["interfaceData"]["sequence"], sequence);
    assert_eq!(found.cursor.unwrap().to_string(), waited["cursor"].as_str().unwrap());
    assert_eq!(found.trust.as_deref(), Some("network"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_says_of_itself_is_what_the_client_reads_and_top_prints() {
    let gateway = Gateway::start("");
    let (client, waiter) = (client(&gateway, None), Waiter::http1(&gateway));
    let mut device = Device::new(0xd000_0000_0000_1001, &gateway).await;
    let first = device.address();
    let before = waiter.cursor(device.id).await;
    device.report(0).await;
    let cursor = waiter.wait(device.id, &before).await["cursor"].as_str().unwrap().to_owned();
    device.rebind(gateway.udp[0]).await;
    device.report(0).await;
    waiter.wait(device.id, &cursor).await;
    // Counters are published a moment after the waiters are woken.
    eventually(async || client.status().await.unwrap().route_moves == 1).await;

    let status = client.status().await.unwrap();
    assert_eq!((status.datagrams["accepted"], status.devices.total, status.devices.unregistered), (2, 1, 1));
    assert_eq!(status.datagrams.len(), Disposition::DATAGRAM);
    let moved = &status.latest_moves[0];
    assert_eq!((moved.device_id, moved.from, moved.to), (device.id, first, device.address()));
    let url = client.address().to_owned();
    let printed = tokio::task::spawn_blocking(move || top(&["--once", "--gateway-api", &url])).await.unwrap();
    let (code, text, errors) = told(&printed);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let line = format!(" d000000000001001 network {first} > {}\n", device.address());
    assert!(text.contains("\ndatagrams accepted         2\n") && text.ends_with(&line), "{text}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_needs_the_key_of_a_gateway_that_has_keys() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "ik_0123456789abcdef\n").unwrap();
    let gateway = Gateway::start(&format!("api-key-file = {:?}\n", keys.path()));
    let refused = |reason: Option<&str>| {
        let (address, refusal) = (format!("http://{}", gateway.http), reason.map(str::to_owned));
        Err(ClientError::Unauthorized { address, refusal })
    };
    let ask = async |key| client(&gateway, key).state(DeviceId(1)).await;
    assert_eq!(ask(None).await, refused(None));
    assert_eq!(ask(Some("ik_0123456789abcdeX")).await, refused(Some("credentials are missing or wrong")));
    assert_eq!(ask(Some("ik_0123456789abcdef")).await, Ok(None));
    gateway.stop().await;
}

#[test]
fn top_prints_once_for_scripts_and_shows_the_first_key_of_the_file() {
    let (address, serving) = answering(STATUS);
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "# clients\nik_0123456789abcdef\nik_another_client\n").unwrap();
    let url = format!("http://{address}");
    let flags = ["--once", "--gateway-api", &url, "--api-key-file", keys.path().to_str().unwrap()];
    let (code, text, errors) = told(&top(&flags));
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(
        text.starts_with(&format!("gateway                    {url}\nversion                    0.1.0\n")),
        "{text}"
    );
    assert!(text.contains("\ndatagrams accepted         7\n"), "{text}");
    let head = serving.join().unwrap();
    assert_eq!(head[0], "GET /gateway HTTP/1.1");
    assert!(head.contains(&"authorization: ApiKey ik_0123456789abcdef".to_owned()), "{head:?}");
}

#[test]
fn a_reader_that_leaves_is_no_failure_of_top_and_a_full_disk_is() {
    let printing_to = |output: Stdio| {
        let (address, serving) = answering(STATUS);
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
        command.env_clear().args(["top", "--once", "--gateway-api", &format!("http://{address}")]);
        let output = command.stdin(Stdio::null()).stdout(output).stderr(Stdio::piped()).output().unwrap();
        serving.join().unwrap();
        told(&output)
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(printing_to(writer.into()), (Some(0), String::new(), String::new()));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (code, _, errors) = printing_to(full.into());
    assert_eq!((code, errors.lines().count()), (Some(1), 1), "{errors}");
    assert!(errors.starts_with("lastroute: cannot write to standard output: No space left"), "{errors}");
}

#[test]
fn what_top_cannot_do_is_one_line_that_says_what_to_do() {
    let (code, text, errors) = told(&top(&[]));
    assert_eq!(
        (code, text.as_str(), errors.as_str()),
        (
            Some(2),
            "",
            "lastroute: top draws on a terminal, and there is none; add --once, or fetch \
             http://127.0.0.1:8080/gateway\n"
        )
    );
    let (code, _, errors) = told(&top(&["--gateway-api", "https://gateway.example"]));
    assert!(code == Some(2) && errors.contains("TLS is not supported") && errors.lines().count() == 1, "{errors}");
    for address in ["http://127.0.0.1:99999", "http://:8080"] {
        let (code, _, errors) = told(&top(&["--once", "--gateway-api", address]));
        assert!(code == Some(2) && errors.contains("write for example http://127.0.0.1:8080"), "{errors}");
    }
    let (code, _, errors) = told(&top(&["--once", "--api-key-file", "missing.keys"]));
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.starts_with("lastroute: --api-key-file: cannot read missing.keys"), "{errors}");
    for interval in ["10ms", "25h", "631107417600s"] {
        let (code, _, errors) = told(&top(&["--every", interval]));
        assert!(code == Some(2) && errors.contains("ask every 100ms to 24h"), "{errors}");
    }

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (code, text, errors) = told(&top(&["--once", "--gateway-api", &url]));
    assert_eq!((code, text.as_str()), (Some(1), ""));
    assert!(errors.starts_with(&format!("lastroute: cannot reach {url}: Connection refused; ")), "{errors}");
}
