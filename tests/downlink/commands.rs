//! `lastroute rpc` against a whole gateway and simulated devices.

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lastroute::simulate::{self, Count, exchange};
use serde_json::Value;

use crate::harness::{Fleet, Gateway, seen, sleepers};
use crate::network::{Network, Trouble};

/// How a run ended.
struct Ended {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ended {
    fn text(&self) -> &str {
        str::from_utf8(&self.stdout).unwrap()
    }

    /// The message that was told, with `--output json`.
    fn message(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_slice(&self.stdout).unwrap()
    }
}

async fn rpc(gateway: &Gateway, arguments: &[&str]) -> Ended {
    let mut program = Command::new(env!("CARGO_BIN_EXE_lastroute"));
    program.arg("rpc").args(arguments).args(["--gateway-api", &format!("http://{}", gateway.app.http())]);
    let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Ended { code: output.status.code(), stdout: output.stdout, stderr }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_called_from_the_command_line_and_its_answers_and_data_are_read() {
    let fleet = simulate::Config {
        cadence: Duration::from_secs(1),
        window: Duration::from_millis(900),
        rebind: 0.0,
        ..sleepers(2)
    };
    let network = Network::start(5, Trouble::default(), seen(&fleet)).await;
    let gateway = Gateway::start(&network);
    let identities = fleet.identities().unwrap();
    gateway.api.register(&identities, |_| true).await;
    let running = Fleet::start(&simulate::Config { devices: 1, ..fleet.clone() }, &network);
    running.until(Count::Booted, 1).await;
    let [device, silent] = [&identities[0], &identities[1]].map(|identity| identity.id.to_string());

    let called = rpc(&gateway, &["send", &device, "application_info", "--wait", "50s"]).await;
    assert_eq!(called.code, Some(0), "{}", called.stderr);
    assert!(called.text().contains("\nstatus   answered 0 (success) after "), "{}", called.text());
    assert!(called.text().contains("\"application_id\": \"1936289141\""), "{}", called.text());
    let id = called.stderr.lines().next().unwrap().strip_prefix("message ").unwrap();
    let shown = rpc(&gateway, &["show", id]).await;
    assert_eq!((shown.code, shown.text()), (Some(0), called.text()));

    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let data: Vec<u8> = (0..3_000_u32).map(|at| (at * 7) as u8).collect();
    std::fs::write(path("data"), &data).unwrap();
    let write = ["send", &device, "file_write_basic", "--params-hex", "0000000000", "--data", &path("data")];
    let written = rpc(&gateway, &[&write[..], &["--wait", "50s", "--output", "json"]].concat()).await.message();
    let answer = &written["downlinkMessage"]["rpcRsp"];
    assert_eq!(answer["paramsEncoded"], STANDARD.encode(exchange::received(&data)), "{answer}");

    let read = ["send", &device, "data_sender", "--receive=3000", "--wait", "50s", "--output", "json"];
    let read = rpc(&gateway, &read).await.message();
    assert_eq!(read["downlinkMessage"]["receivedLength"], 3_000);
    let id = read["id"].as_str().unwrap();
    let received = rpc(&gateway, &["data", id]).await;
    assert!(received.stdout == (0..3_000).map(exchange::sent_byte).collect::<Vec<_>>(), "{}", received.stderr);
    assert_eq!(rpc(&gateway, &["data", id, "-o", &path("received")]).await.code, Some(0));
    assert!(std::fs::read(path("received")).unwrap() == received.stdout);

    let waiting = rpc(&gateway, &["send", &silent, "time_get", "--wait", "1h", "--no-follow"]).await;
    let waiting = waiting.text().trim_end();
    let listed = rpc(&gateway, &["list", "--status", "waiting", "--since", "1h"]).await;
    let line = listed.text().strip_suffix("  time_get (3)  waits for the device to speak\n");
    assert!(line.is_some_and(|line| line.starts_with(&format!("{waiting}  {silent}  "))), "{}", listed.text());
    let took_back = rpc(&gateway, &["cancel", waiting]).await;
    assert_eq!((took_back.code, rpc(&gateway, &["show", waiting]).await.code), (Some(0), Some(1)));
    let refused = rpc(&gateway, &["send", &silent, "time_get"]).await;
    assert_eq!(refused.code, Some(4), "it was never heard: {}", refused.stderr);

    let summary = running.stop().await;
    assert_eq!((summary.get(Count::Executed), summary.get(Count::ExecutedAgain)), (3, 0), "{summary}");
    gateway.stop().await;
}
