//! The `bench` command: what it prints, how it ends, and that it is told when something limits it.

use std::io::{BufRead, BufReader, Read};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process::lastroute;

/// Small enough to take no time, also where other tests run beside it.
const SMALL: [&str; 5] = ["bench", "--devices", "100", "--datagrams", "1000"];

#[test]
fn a_measurement_prints_a_table_of_its_receivers_and_what_limits_it() {
    let output = lastroute(&SMALL).args(["--rounds", "2", "--ack-share", "10"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "round 1 of 2\nround 2 of 2\n");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("lastroute {} on ", env!("CARGO_PKG_VERSION"))), "{text}");
    assert!(text.contains("1 000 datagrams of 100 bytes from 100 devices, 10 % ask for an acknowledgement"), "{text}");
    let rows: Vec<_> = text.lines().skip_while(|line| !line.starts_with("  receiver ")).skip(1).take(3).collect();
    for (row, name) in rows.iter().zip(["bare loop (recvmmsg)", "tokio loop (recv_from)", "gateway, all rules on"]) {
        let figures = row.trim_start().strip_prefix(name).unwrap_or_else(|| panic!("{text}"));
        let cost: f64 = figures.split_whitespace().next().unwrap().parse().unwrap();
        assert!(cost > 0.0, "{text}");
    }
    // The tests are no build for speed.
    assert!(text.contains("\nWhat limits these figures:\n  Build: "), "{text}");
}

#[test]
fn programs_get_one_line_of_json() {
    let output = lastroute(&SMALL).args(["--rounds", "1", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let receivers: Vec<_> = report["receivers"].as_array().unwrap().iter().map(|row| &row["receiver"]).collect();
    assert_eq!(receivers, ["bare", "tokio", "gateway"]);
    assert!(report["receivers"][2]["nanoseconds"]["median"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["limits"][0].as_str().unwrap().starts_with("Build: "), "{report}");
}

#[test]
fn an_interrupt_ends_it_with_the_rounds_that_are_finished() {
    let mut child = lastroute(&SMALL).args(["--rounds", "1000"]).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while line != "round 2 of 1000\n" {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended by itself");
    }
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest}");
    let last = rest.lines().last().unwrap();
    assert!(last.starts_with("lastroute: ended by SIGINT after ") && last.ends_with(" of 1000 rounds"), "{rest}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("\n  gateway, all rules on "), "{rest}");
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is() {
    for (flag, value) in [("--devices", "99"), ("--rounds", "0"), ("--datagrams", "999"), ("--ack-share", "101")] {
        let output = lastroute(&["bench", flag, value]).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{flag}: {output:?}");
    }
}
