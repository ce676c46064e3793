//! Gateways as processes of their own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::harness::{Api, files};

/// A gateway as a process of its own, on a data directory that stays. Killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) udp: SocketAddr,
    pub(crate) api: Api,
}

impl Process {
    pub(crate) fn start(directory: &Path) -> Self {
        let flags = files(directory);
        let mut child = Command::new(env!("CARGO_BIN_EXE_lastroute"))
            .env_clear()
            .args(["serve", "--udp-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
            .args(["--config", &flags.config.unwrap(), "--data-dir", &flags.data_dir.unwrap()])
            .args(["--cloud-key-file", &flags.cloud_key_file.unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = |message: &str, field: &str| loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "ended before it was {message}");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == message {
                break line[field].as_str().unwrap().to_owned();
            }
        };
        let (udp, http) = (said("receiving", "listen"), said("ready", "http"));
        // The rest of its log goes with it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, udp: udp.parse().unwrap(), api: Api::of(&http) }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits until it has ended. Blocks.
    pub(crate) fn ended(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
