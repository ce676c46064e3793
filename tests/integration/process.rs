//! The program as an operator meets it: exit codes, messages, signals, and what its commands do together.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lastroute::auth::keys::KeyPair;
use serde_json::Value;

use crate::harness::PATIENCE;

pub(crate) const ANY_PORT: &str = "127.0.0.1:0";

pub(crate) fn lastroute(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
    command.env_clear().args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code 2, nothing on standard output, and what is on standard error, which is returned.
fn misused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(output.stdout.is_empty(), "{:?}", output.stdout);
    error
}

/// As [`misused`], in one line.
pub(crate) fn refused(command: &mut Command) -> String {
    let error = misused(command);
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

/// Exit code 0; what is on standard output is returned.
fn succeeded(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A gateway as a process of its own; killed when it is dropped.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) log: BufReader<ChildStderr>,
}

impl Served {
    /// Starts it with `--data-dir` and more `arguments`.
    pub(crate) fn start(data: &Path, arguments: &[&str]) -> Self {
        let mut command = lastroute(&["serve", "--udp-listen", ANY_PORT, "--http-listen", ANY_PORT, "--data-dir"]);
        let mut child = command.arg(data).args(arguments).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// What it logs until it says it is ready, and that line itself at the end.
    pub(crate) fn until_ready(&mut self) -> Vec<Value> {
        let mut lines: Vec<Value> = Vec::new();
        while lines.last().is_none_or(|line| line["message"] != "ready") {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "ended before it was ready: {lines:?}");
            lines.push(serde_json::from_str(&line).unwrap());
        }
        lines
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status and body of an answer to a request without credentials.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The value of a sample in the text of the metrics.
pub(crate) fn sample(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.trim().parse().unwrap()
}

/// A file that no other user may read.
pub(crate) fn write_secret(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn the_version_is_that_of_the_package() {
    let text = succeeded(&lastroute(&["--version"]).output().unwrap());
    assert_eq!(text, format!("lastroute {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_unknown_flag_is_exit_code_2_and_no_secret_can_be_a_flag() {
    for flag in ["--udp-listne=1", "--api-key=ik_0123456789abcdef", "--cloud-key=x"] {
        let error = misused(&mut lastroute(&["serve", flag]));
        assert!(error.contains("unexpected argument"), "{error}");
    }
}

#[test]
fn a_bad_configuration_is_one_line_and_exit_code_2() {
    assert_eq!(
        refused(&mut lastroute(&["serve", "--config", "missing.toml"])),
        "lastroute: --config: cannot read missing.toml: No such file or directory; create it or correct the path\n"
    );
    assert_eq!(
        refused(lastroute(&["serve"]).env("LASTROUTE_ROUTE_POLICY", "old")),
        "lastroute: LASTROUTE_ROUTE_POLICY: \"old\" is none of its values; write newest or strict\n"
    );
    let key_file = ["simulate", "--network", "000a17", "--network-key-file", "missing.key"];
    assert_eq!(
        refused(&mut lastroute(&key_file)),
        "lastroute: --network-key-file: cannot read missing.key: No such file or directory; \
         create it or correct the path\n"
    );
    let key = "731dac97b8878600acde76e23af10e38f022adf37db5d7dc3ad557295f0ab254";
    for (command, flag) in [
        (&["serve", "--check"][..], "--cloud-key-file"),
        (&["simulate", "--network", "000a17"], "--network-key-file"),
        (&["top", "--once"], "--api-key-file"),
    ] {
        assert_eq!(
            refused(lastroute(command).args([flag, key])),
            format!(
                "lastroute: {flag}: this is a key, not the name of a file; write the key to a file that only this user \
                 can read, and name that file\n"
            )
        );
    }
    let no_key = STANDARD.encode([0; 32]);
    let error = refused(&mut lastroute(&["simulate", "--cloud-public-key", &no_key]));
    assert!(error.contains("take the one the gateway prints"), "{error}");
    for command in ["simulate", "demo"] {
        let error = refused(&mut lastroute(&[command, "--cadence", "631107417600s"]));
        assert!(error.contains("cadence is 631107417600s: at most"), "{error}");
    }
}

#[test]
fn bad_configuration_is_one_line_with_file_key_and_remedy() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("bad.toml");
    std::fs::write(&file, "\nudp-lisen = \"127.0.0.1:0\"\n").unwrap();
    let error = refused(lastroute(&["serve", "--config"]).arg(&file));
    assert!(error.contains("bad.toml:2") && error.contains("udp-lisen") && error.contains("udp-listen"), "{error}");
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 1, "nothing was made");
}

#[test]
fn a_check_tells_the_configuration_and_starts_and_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let taken = UdpSocket::bind(ANY_PORT).unwrap().local_addr().unwrap().to_string();
    let check = |format: &str| {
        let mut command = lastroute(&["serve", format, "--udp-listen", &taken, "--http-listen", ANY_PORT]);
        let output = command.env("LASTROUTE_LOG", "debug").arg("--data-dir").arg(&data).output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        succeeded(&output)
    };
    let text = check("--check");
    for part in [&taken, "flag --udp-listen", "environment LASTROUTE_LOG", "would be made", "None was started"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let json: Value = serde_json::from_str(&check("--check=json")).unwrap();
    let mut settings = json["settings"].as_array().unwrap().iter();
    let listen = settings.find(|setting| setting["name"] == "udp-listen").unwrap();
    assert_eq!(listen["value"], taken.as_str());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
    let error = refused(lastroute(&["serve", "--check"]).env("LASTROUTE_ROUTE_POLICY", "old"));
    assert!(error.starts_with("lastroute: LASTROUTE_ROUTE_POLICY: "), "{error}");
    let error = refused(lastroute(&["serve"]).env("LASTROUTE_CHECK", "text"));
    assert!(error.starts_with("lastroute: LASTROUTE_CHECK: no such setting"), "{error}");
}

#[test]
fn a_port_in_use_is_one_line_with_the_address_and_the_flag() {
    let data = tempfile::tempdir().unwrap();
    let (udp, tcp) = (UdpSocket::bind(ANY_PORT).unwrap(), TcpListener::bind(ANY_PORT).unwrap());
    let (udp_taken, tcp_taken) = (udp.local_addr().unwrap().to_string(), tcp.local_addr().unwrap().to_string());
    for (udp, http, taken, flag) in [
        (udp_taken.as_str(), ANY_PORT, &udp_taken, "--udp-listen"),
        (ANY_PORT, &tcp_taken, &tcp_taken, "--http-listen"),
    ] {
        for command in ["serve", "demo"] {
            let mut command = lastroute(&[command, "--udp-listen", udp, "--http-listen", http]);
            let error = refused(command.env("LASTROUTE_DATA_DIR", data.path()));
            assert!(error.contains(taken.as_str()) && error.contains(flag) && error.contains("in use"), "{error}");
        }
    }
}

#[test]
fn a_data_directory_in_use_is_one_line_and_free_again_once_its_process_is_killed() {
    let data = tempfile::tempdir().unwrap();
    let mut first = Served::start(data.path(), &[]);
    first.until_ready();
    let mut second = lastroute(&["serve", "--udp-listen", ANY_PORT, "--http-listen", ANY_PORT, "--data-dir"]);
    let said = refused(second.arg(data.path()));
    let holder = format!("{} is in use by another process ({})", data.path().display(), first.child.id());
    assert!(said.contains(&holder) && said.contains("--data-dir"), "{said}");
    drop(first);
    Served::start(data.path(), &[]).until_ready();
}

#[test]
fn an_open_api_beyond_loopback_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let error = refused(lastroute(&["serve", "--http-listen", "0.0.0.0:0", "--data-dir"]).arg(data.path()));
    assert!(error.contains("--api-key-file"), "{error}");
    let error = refused(&mut lastroute(&["demo", "--http-listen", "0.0.0.0:0"]));
    assert!(error.contains("the demonstration wants no key") && error.contains("0.0.0.0:0 is none"), "{error}");
}

#[test]
fn sigterm_ends_it_with_success_within_5_s_and_leaves_the_registry_in_one_file() {
    let data = tempfile::tempdir().unwrap();
    let mut gateway = Served::start(data.path(), &[]);
    gateway.until_ready();
    assert!(Command::new("kill").args(["-TERM", &gateway.child.id().to_string()]).status().unwrap().success());
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(gateway.child.wait().unwrap()));
    let status = ended.recv_timeout(Duration::from_secs(5)).expect("it ends within 5 s");
    assert_eq!(status.code(), Some(0));
    let there = |name: &str| data.path().join(name).exists();
    assert_eq!(["registry.sqlite3", "registry.sqlite3-wal", "registry.sqlite3-shm"].map(there), [true, false, false]);
}

#[test]
fn the_simulated_devices_of_a_written_configuration_are_heard_at_device_level() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let [network_key, cloud_key, api_keys, config] = ["network.key", "cloud.key", "api.keys", "fleet.toml"].map(path);
    write_secret(Path::new(&network_key), &STANDARD.encode([0x42; 32]));
    write_secret(Path::new(&cloud_key), &STANDARD.encode([0x11; 32]));
    write_secret(Path::new(&api_keys), "ik_0123456789abcdef");
    let cloud_public = STANDARD.encode(KeyPair::from_private([0x11; 32]).public());
    let fleet = ["simulate", "--devices", "4", "--network", "000a17", "--network-key-file", &network_key];
    let fleet = [&fleet[..], &["--cloud-public-key", &cloud_public, "--device-level", "100", "--rebind", "0"]].concat();
    let written = lastroute(&fleet).args(["--write-config", &config]).output().unwrap();
    assert_eq!((succeeded(&written), written.stderr.len()), (String::new(), 0));
    let error = refused(lastroute(&fleet).args(["--write-config", &config]));
    assert!(error.contains("fleet.toml: File exists") && error.contains("name another"), "{error}");

    let flags = ["--config", &config, "--cloud-key-file", &cloud_key, "--api-key-file", &api_keys];
    let mut gateway =
        Served::start(&directory.path().join("data"), &[&flags[..], &["--metrics-listen", ANY_PORT]].concat());
    let log = gateway.until_ready();
    let line = |message: &str| log.iter().find(|line| line["message"] == message).unwrap();
    let text = |message: &str, field: &str| line(message)[field].as_str().unwrap().to_owned();
    assert_eq!((text("network", "id"), text("network", "name")), ("0x000a17".to_owned(), "simulated".to_owned()));
    assert_eq!((&line("ready")["networks"], &line("ready")["devices"]), (&1.into(), &4.into()));
    assert_eq!(text("ready", "public_key"), cloud_public);

    let to_gateway = ["--gateway", &text("receiving", "listen"), "--cadence", "100ms", "--duration", "1s"];
    let summary = succeeded(&lastroute(&fleet).args(to_gateway).output().unwrap());
    let sent: u64 = summary.split(' ').next().unwrap().parse().unwrap();
    assert!(sent > 4, "more than the 4 KEY_IDS, which alone are at network level: {summary}");

    // The metrics want no key where they are served alone, and do where the API is.
    let (http, metrics) = (text("ready", "http"), text("ready", "metrics"));
    assert_eq!((get(&http, "/metrics").0, get(&metrics, "/health").0), (401, 404));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, text) = get(&metrics, "/metrics");
        assert_eq!(status, 200);
        if sample(&text, "lastroute_udp_datagrams_total{result=\"accepted\"}") == sent {
            break;
        }
        assert!(Instant::now() < deadline, "not all {sent} are accepted: {text}");
    }
}

#[test]
fn a_fleet_says_whether_the_gateway_counted_what_reached_it_and_ends_with_1_if_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let [network_key, api_keys, config] = ["network.key", "api.keys", "lastroute.toml"].map(path);
    write_secret(Path::new(&network_key), &STANDARD.encode([0x42; 32]));
    write_secret(Path::new(&api_keys), "ik_0123456789abcdef");
    std::fs::write(&config, "[[network]]\nid = \"000000\"\n").unwrap();
    let flags = ["--config", &config, "--api-key-file", &api_keys];
    let mut gateway = Served::start(&directory.path().join("data"), &flags);
    let log = gateway.until_ready();
    let receiving = log.iter().find(|line| line["message"] == "receiving").unwrap();
    let udp = receiving["listen"].as_str().unwrap();
    let api = format!("http://{}", log.last().unwrap()["http"].as_str().unwrap());

    let load = ["simulate", "--gateway", udp, "--devices", "20", "--rate", "600", "--packets", "120", "--workers", "1"];
    let trouble = ["--loss", "20", "--duplicate", "20", "--reorder", "20", "--gateway-api", &api, "--expect-all"];
    let fleet = [&load[..], &trouble].concat();
    let failed = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (summary, error) = failed(&mut lastroute(&fleet));
    assert!(summary.is_empty() && error.contains("asks for an API key; give one with --api-key-file"), "{error}");

    let with_key = [&fleet[..], &["--api-key-file", &api_keys]].concat();
    let summary = succeeded(&lastroute(&with_key).output().unwrap());
    assert!(summary.contains(" 20  key ids sent\n") && summary.contains(" 100  telemetry sent\n"), "{summary}");
    assert!(summary.contains(&format!("\ncompared with the gateway at {api}")), "{summary}");

    let other_network = ["--seed", "2", "--network", "000a17", "--network-key-file", &network_key];
    let (summary, error) = failed(lastroute(&with_key).args(other_network));
    assert!(summary.lines().any(|line| line.trim_start().starts_with("unknown_network ")), "{summary}");
    assert!(error.contains("did not count what was sent") && error.contains("does not know the network"), "{error}");
}

#[test]
fn an_attack_whose_reader_leaves_goes_on_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("lastroute.toml");
    std::fs::write(&config, "[[network]]\nid = \"000000\"\n").unwrap();
    let mut gateway = Served::start(&directory.path().join("data"), &["--config", config.to_str().unwrap()]);
    let log = gateway.until_ready();
    let receiving = log.iter().find(|line| line["message"] == "receiving").unwrap();
    let udp = receiving["listen"].as_str().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let attack = ["simulate", "--gateway", udp, "--attack", "unknown-ids", "--attack-packets", "1"];
    let output = lastroute(&attack).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = lastroute(&attack).stdout(full).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.contains("No space left on device"), "{error}");
}

#[test]
fn a_key_file_that_others_may_read_is_warned_of_by_the_simulator_too() {
    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("network.key");
    write_secret(&key_file, &STANDARD.encode([0x42; 32]));
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let gateway = UdpSocket::bind(ANY_PORT).unwrap();
    let address = gateway.local_addr().unwrap().to_string();
    let mut command = lastroute(&["simulate", "--gateway", &address, "--duration", "0s", "--network", "000a17"]);
    let output = command.arg("--network-key-file").arg(&key_file).output().unwrap();
    succeeded(&output);
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("network.key holds secrets") && log.contains("chmod 600"), "{log}");
}

#[test]
fn a_fleet_that_needs_more_sockets_than_the_process_may_open_says_what_to_raise() {
    let limited = "ulimit -n 40 && exec \"$0\" simulate --devices 100";
    let output = Command::new("sh").args(["-c", limited, env!("CARGO_BIN_EXE_lastroute")]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    assert!(
        error.contains(" of 100 towards ") && error.ends_with(": too many open files; raise ulimit -n\n"),
        "{error}"
    );
}

#[test]
fn the_demonstration_tells_what_to_type_and_shows_packets() {
    let mut command = lastroute(&["demo", "--devices", "3", "--cadence", "200ms", "--duration", "2s"]);
    let output = command.args(["--udp-listen", ANY_PORT, "--http-listen", ANY_PORT]).output().unwrap();
    let text = succeeded(&output);
    let device = "51a0000100000000";
    for command in ["lastRoute", "state", "waitForPacket?timeoutMs=30000"] {
        let path = format!("/device/deviceId/{device}/{command}");
        assert!(text.lines().any(|line| line.starts_with("  curl ") && line.contains(&path)), "{path} in {text}");
    }
    assert!(text.lines().any(|line| line.contains(device) && line.contains(" from 127.0.0.1:")), "{text}");
    let called =
        |line: &str| line.starts_with("called  51a00001") && line.contains("while it was awake; answered after");
    assert!(text.lines().any(called), "{text}");
    assert!(text.lines().any(|line| line.starts_with("Stopped. The fleet sent ")), "{text}");
}

/// A request with a JSON body and without credentials: the status and body of its answer.
fn post(address: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json");
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn without_space_for_the_registry_the_gateway_reads_on_and_says_so_and_writes_again_when_there_is_some() {
    let data = tempfile::tempdir().unwrap();
    // A file of this process grows to 1024 blocks at most, and a write beyond that fails as on a full disk.
    let limited = "trap '' XFSZ && ulimit -S -f 1024 && exec \"$0\" serve --udp-listen 127.0.0.1:0 \
                   --http-listen 127.0.0.1:0 --data-dir \"$1\"";
    let mut command = Command::new("sh");
    command.env_clear().args(["-c", limited, env!("CARGO_BIN_EXE_lastroute")]).arg(data.path());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut served = Served { child, log };
    let ready = served.until_ready();
    let address = ready.last().unwrap()["http"].as_str().unwrap().to_owned();
    let create = |name: usize| post(&address, "/organisation", &format!("{{\"name\":\"{name}\"}}"));
    let made = (0..5000).take_while(|name| create(*name).0 == 201).count();
    assert!((1..5000).contains(&made), "{made}");
    for name in [5000, 5001] {
        let (status, body) = create(name);
        assert_eq!((status, body.contains("database")), (503, true), "{body}");
    }
    let names = || {
        let (status, body) = get(&address, "/organisation?limit=10000");
        assert_eq!(status, 200);
        serde_json::from_str::<Value>(&body).unwrap().as_array().unwrap().len()
    };
    assert_eq!(names(), made);
    let raised = Command::new("prlimit").args(["--fsize=unlimited", "--pid", &served.child.id().to_string()]).status();
    assert!(raised.unwrap().success());
    assert_eq!(create(5002).0, 201);
    assert_eq!(names(), made + 1);
}
