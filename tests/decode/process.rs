//! The program itself: keys from files, exit codes, and a reader that leaves.

use std::fs::write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::vectors;

/// Key files of the recorded run `main`, and its uplinks, one a line.
struct Site {
    directory: TempDir,
    keys: Value,
    device: String,
}

impl Site {
    fn new() -> Self {
        let file: Value = serde_json::from_slice(&std::fs::read(vectors("firmware-capture.json")).unwrap()).unwrap();
        let run = file["runs"].as_array().unwrap().iter().find(|run| run["name"] == "main").unwrap();
        let uplinks: Vec<_> = run["datagrams"].as_array().unwrap().iter().filter(|one| one["dir"] == "up").collect();
        let lines: Vec<_> = uplinks.iter().map(|one| one["hex"].as_str().unwrap()).collect();
        let site = Self {
            directory: tempfile::tempdir().unwrap(),
            keys: run["keys"].clone(),
            device: run["device_id"].as_str().unwrap().to_owned(),
        };
        site.write("uplinks.txt", &lines.join("\n"));
        for (name, key) in
            [("fleet.key", "network_root_key"), ("device.key", "device_root_key"), ("cloud.key", "cloud_private_key")]
        {
            site.write(name, site.keys[key].as_str().unwrap());
        }
        let public = hex::decode(site.keys["device_public_key"].as_str().unwrap()).unwrap();
        let config = format!(
            "[[network]]\nid = \"000a17\"\nkey-file = \"fleet.key\"\n[[device]]\nid = \"{}\"\npublic-key = \"{}\"\n",
            site.device,
            hex::encode(public)
        );
        site.write("lastroute.toml", &config);
        site
    }

    fn write(&self, name: &str, text: &str) {
        write(self.directory.path().join(name), text).unwrap();
    }

    fn decode(&self, flags: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastroute"));
        command.current_dir(&self.directory).arg("decode").args(flags).output().unwrap()
    }

    /// How many of the uplinks were accepted, and what was said besides.
    fn accepted(&self, flags: &[&str]) -> (usize, String) {
        let at = ["--file", "uplinks.txt", "--brief", "--at", "2026-11-23T03:19:10Z"];
        let output = self.decode(&[&at, flags].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let out = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        for key in ["network_root_key", "device_root_key", "cloud_private_key"] {
            let key = self.keys[key].as_str().unwrap();
            assert!(!out.contains(&key[..16]) && !said.contains(&key[..16]), "{key} is shown");
        }
        (out.lines().filter(|line| line.contains(" accepted, ")).count(), said)
    }
}

#[test]
fn keys_come_from_files_of_their_own_or_from_a_configuration() {
    let site = Site::new();
    let device_key = format!("{}=device.key", site.device);
    let (nothing, _) = site.accepted(&[]);
    let (network, _) = site.accepted(&["--network-key", "000a17=fleet.key"]);
    let (all, _) = site.accepted(&["--network-key", "000a17=fleet.key", "--device-key", &device_key]);
    assert!(nothing == 0 && 0 < network && network < all, "{nothing} {network} {all}");

    let (half, said) = site.accepted(&["--config", "lastroute.toml"]);
    assert_eq!(half, network);
    assert!(said.contains("private key: 1; name it with --cloud-key-file"), "{said}");
    assert_eq!(site.accepted(&["--config", "lastroute.toml", "--cloud-key-file", "cloud.key"]).0, all);
    assert!(!site.directory.path().join("lastroute-data").exists());
}

#[test]
fn a_device_whose_key_cannot_be_derived_is_registered_all_the_same() {
    let site = Site::new();
    let config = std::fs::read_to_string(site.directory.path().join("lastroute.toml")).unwrap();
    site.write("deny.toml", &format!("unregistered = \"deny\"\n{config}"));
    let (allowed, _) = site.accepted(&["--config", "lastroute.toml"]);
    assert!(allowed > 0);
    assert_eq!(site.accepted(&["--config", "deny.toml"]).0, allowed);
}

#[test]
fn the_factory_network_is_served_if_the_configuration_or_a_flag_names_it() {
    let site = Site::new();
    site.write("factory.key", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
    let factory = "7f0000000000000000d00810000092a3364b0000eba32d5dc8c57b29b04b0ab7c19cbb87da5b0c0fa9";
    let said = |flags: &[&str]| {
        let output = site.decode(&[&[factory, "--brief", "--at", "2026-11-23T03:20:42Z"], flags].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let config = ["--config", "lastroute.toml"];
    assert!(said(&[]).contains(" accepted, "));
    assert!(said(&config).contains(" unknown_network, "));
    assert!(said(&[&config[..], &["--network-key", "000000=factory.key"]].concat()).contains(" accepted, "));
}

#[test]
fn the_exit_code_is_2_for_what_cannot_be_read() {
    let site = Site::new();
    for (flags, said) in [
        (&["zz"][..], "lastroute: argument 1: character 1 is 'z'"),
        (&["--file", "missing.pcap"], "lastroute: cannot read missing.pcap: No such file or directory; "),
        (&["--file", "."], "lastroute: cannot read .: Is a directory; "),
        (&["00", "--network-key", "000a17=missing.key"], "lastroute: --network-key: cannot read missing.key"),
        (&["00", "--config", "fleet.key"], "lastroute: fleet.key:1:65: key with no value"),
    ] {
        let output = site.decode(flags);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
        assert!(error.starts_with(said), "{error}");
    }
    assert_eq!(site.decode(&["00"]).status.code(), Some(0), "what a gateway would refuse is explained");
}

#[test]
fn what_is_said_of_one_file_is_said_even_if_the_next_cannot_be_read() {
    let site = Site::new();
    // One packet of a link type that nobody has.
    let header = [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 999];
    let packet = [1_795_404_183_u32, 0, 4, 4, 0];
    let bytes: Vec<u8> = header.into_iter().chain(packet).flat_map(u32::to_le_bytes).collect();
    write(site.directory.path().join("strange.pcap"), bytes).unwrap();
    let output = site.decode(&["--file", "strange.pcap", "--file", "missing.pcap"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((output.status.code(), lines.len()), (Some(2), 3), "{said}");
    assert!(lines[1].contains("strange.pcap: packets of link types that are not read: 1; "), "{said}");
    assert!(lines[2].starts_with("lastroute: cannot read missing.pcap: "), "{said}");
}

#[test]
fn a_reader_that_leaves_early_ends_it_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lastroute"))
        .args(["decode", "--file"])
        .arg(Path::new(&vectors("firmware-capture.json")))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
