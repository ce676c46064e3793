//! The program as a shell sees it: exit codes and what it says.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that cannot run the program has failed")]

use std::process::{Command, Output};

fn lastroute(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
    command.args(arguments).env_clear().envs(environment.iter().copied()).output().unwrap()
}

fn error(output: &Output) -> (Option<i32>, String) {
    assert!(output.stdout.is_empty(), "{output:?}");
    (output.status.code(), String::from_utf8(output.stderr.clone()).unwrap())
}

#[test]
fn a_bad_configuration_is_one_line_and_exit_code_2() {
    let output = lastroute(&["serve", "--config", "missing.toml"], &[]);
    let line =
        "lastroute: --config: cannot read missing.toml: No such file or directory; create it or correct the path\n";
    assert_eq!(error(&output), (Some(2), line.to_owned()));
    let output = lastroute(&["serve"], &[("LASTROUTE_ROUTE_POLICY", "old")]);
    let line = "lastroute: LASTROUTE_ROUTE_POLICY: \"old\" is none of its values; write newest or strict\n";
    assert_eq!(error(&output), (Some(2), line.to_owned()));
}

#[test]
fn an_unknown_flag_is_exit_code_2_and_no_secret_can_be_a_flag() {
    for flag in ["--udp-listne=1", "--api-key=ik_0123456789abcdef", "--cloud-key=x"] {
        let (code, text) = error(&lastroute(&["serve", flag], &[]));
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("unexpected argument"), "{text}");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let output = lastroute(&["--version"], &[]);
    assert!(output.status.success());
    assert_eq!(output.stdout, format!("lastroute {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
}
