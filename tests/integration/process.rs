//! The program as an operator meets it: exit codes, messages, signals.

use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn lastroute(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
    command.env_clear().args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code 2 and one line on standard error, which is returned.
fn refused(output: &Output) -> String {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn bad_configuration_is_one_line_with_file_key_and_remedy() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("bad.toml");
    std::fs::write(&file, "\nudp-lisen = \"127.0.0.1:0\"\n").unwrap();
    let error = refused(&lastroute(&["serve", "--config", file.to_str().unwrap()]).output().unwrap());
    assert!(error.contains("bad.toml:2") && error.contains("udp-lisen") && error.contains("udp-listen"), "{error}");
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 1, "nothing was made");
}

#[test]
fn a_port_in_use_is_one_line_with_the_address_and_the_flag() {
    let data = tempfile::tempdir().unwrap();
    let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let free = "127.0.0.1:0".to_owned();
    let (udp_taken, tcp_taken) = (udp.local_addr().unwrap().to_string(), tcp.local_addr().unwrap().to_string());
    for (udp, http, taken, flag) in
        [(&udp_taken, &free, &udp_taken, "--udp-listen"), (&free, &tcp_taken, &tcp_taken, "--http-listen")]
    {
        let mut command = lastroute(&["serve", "--udp-listen", udp, "--http-listen", http, "--data-dir"]);
        let error = refused(&command.arg(data.path()).args(["--log", "error"]).output().unwrap());
        assert!(error.contains(taken.as_str()) && error.contains(flag) && error.contains("in use"), "{error}");
    }
}

#[test]
fn an_open_api_beyond_loopback_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let mut command = lastroute(&["serve", "--http-listen", "0.0.0.0:0", "--data-dir"]);
    let error = refused(&command.arg(data.path()).output().unwrap());
    assert!(error.contains("--api-key-file"), "{error}");
}

#[test]
fn sigterm_ends_it_with_success_within_5_s() {
    let data = tempfile::tempdir().unwrap();
    let mut command =
        lastroute(&["serve", "--udp-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data-dir"]);
    let mut child = command.arg(data.path()).spawn().unwrap();
    // It says so once it listens.
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut log, &mut line).unwrap(), 0, "ended before it was ready");
    }
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait().unwrap()));
    let status = ended.recv_timeout(Duration::from_secs(5)).expect("it ends within 5 s");
    assert_eq!(status.code(), Some(0));
}
