//! The arguments of the `simulate` command, and the configuration a gateway needs to know the simulated devices.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::attack::MAX_PACKETS;
use super::identity::{device_blocks, network_block};
use super::relay::{MAX_CHILDREN, MAX_RELAYS};
use super::verdict::Kinds;
use super::{Config, LONGEST_EXPECTED_DELAY, MAX_DEVICES, MAX_RATE, SimulateError};
use crate::auth::keys::RootKey;
use crate::duration::duration;
use crate::id::KeyId;

/// Share of device-level devices where the gateway's key is given and no share is: the rest is as stock firmware does.
const DEVICE_LEVEL: f64 = 0.25;

/// Simulate devices that report to a gateway
///
/// The same flags make the same devices do the same, and the network between lose and copy the same packets, as far as
/// that does not follow from what the gateway does. Only the entropy of frames is another in each run.
#[derive(Clone, Debug, clap::Args)]
pub struct SimulateArgs {
    /// Address and port of the gateway. Default: 127.0.0.1:3001
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Option<SocketAddr>,
    /// How many devices, 1 to 1000000. Default: 10
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DEVICES)))]
    pub devices: Option<u32>,
    /// Which devices, 0 to 65535: ids and keys follow from it, and what happens to their packets. Default: 1
    #[arg(long, value_name = "N")]
    pub seed: Option<u16>,
    /// Their network, six hex digits. Default: 000000, the factory network, whose key is public
    #[arg(long, value_name = "ID", requires = "network_key_file")]
    pub network: Option<KeyId>,
    /// The root key of their network, the file the gateway reads. Default: none, for the factory network
    #[arg(long, value_name = "FILE", requires = "network")]
    pub network_key_file: Option<PathBuf>,
    /// The gateway's public key, 32 bytes as base64. Default: none, and all traffic is network level
    #[arg(long, value_name = "BASE64", value_parser = public_key)]
    pub cloud_public_key: Option<PublicKey>,
    /// Devices that sleep between packets; the others listen all the time. Default: 70
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub sleeping: Option<f64>,
    /// How long a sleeping device listens after a packet. Default: 2s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub window: Option<Duration>,
    /// Devices without time until the first downlink. Default: 50
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub no_time: Option<f64>,
    /// Devices whose telemetry is at device level. Default: 25 with the gateway's public key, else 0
    #[arg(long, value_name = "PERCENT", value_parser = percent, requires = "cloud_public_key")]
    pub device_level: Option<f64>,
    /// Packets that ask for an acknowledgement. Default: 10
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub ack: Option<f64>,
    /// Silence of the gateway after which every packet asks for an acknowledgement. Default: 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub ack_after: Option<Duration>,
    /// How many of the devices are relays, which pass on packets of Bluetooth devices. At most 1000. Default: 0
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_RELAYS)))]
    #[arg(requires = "cloud_public_key", help_heading = RELAYS)]
    pub relays: Option<u32>,
    /// Bluetooth devices of each relay, 1 to 1000. Default: 10
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CHILDREN)))]
    #[arg(requires = "relays", help_heading = RELAYS)]
    pub children: Option<u32>,
    /// Time from one packet of a device to its next. Default: 10s
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = LOAD)]
    pub cadence: Option<Duration>,
    /// How much each of these times may differ from the cadence. Default: 10
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = LOAD)]
    pub jitter: Option<f64>,
    /// Packets a second of all devices together, one after the other, whatever the gateway does. Default: none, the cadence decides
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
    #[arg(conflicts_with_all = ["cadence", "jitter", "relays"], help_heading = LOAD)]
    pub rate: Option<u32>,
    /// Packets after which to stop, those among them in whose place a device that is not answered opens a new socket; answers to the
    /// gateway come on top. Default: no limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = LOAD)]
    pub packets: Option<u64>,
    /// How long to run. Default: until interrupted
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = LOAD)]
    pub duration: Option<Duration>,
    /// Sockets to send from, and so ports the gateway sees; with more devices than that, several share one. Default: 512
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000), help_heading = LOAD)]
    pub sockets: Option<u32>,
    /// Threads that send, 1 to 1024. Default: one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = LOAD)]
    pub workers: Option<u16>,
    /// Packets that come from a new port, because the NAT forgot the old one. Default: 1
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = TROUBLE)]
    pub rebind: Option<f64>,
    /// Silence of a device after which the NAT forgets its port, so that it hears nothing until it speaks, from a new one. Default: never
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = TROUBLE)]
    pub nat_timeout: Option<Duration>,
    /// Datagrams lost on the way to the gateway. Default: 0
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = TROUBLE)]
    pub loss: Option<f64>,
    /// Datagrams lost on the way to a device. Default: 0
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = TROUBLE)]
    pub downlink_loss: Option<f64>,
    /// Datagrams that reach the gateway twice. Default: 0
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = TROUBLE)]
    pub duplicate: Option<f64>,
    /// Datagrams held back on the way to the gateway, so that later ones can overtake them. Default: 0
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = TROUBLE)]
    pub reorder: Option<f64>,
    /// The longest that one is held back, at most 5m with --expect-all. Default: twice the time from one packet of a device to
    /// its next, at most 2m
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = TROUBLE)]
    pub delay: Option<Duration>,
    /// Compare what was sent with what the gateway counted, which has its API here; it should serve no other devices. An
    /// attack asks there what it did. Default: none
    #[arg(long, value_name = "URL", help_heading = COMPARISON)]
    pub gateway_api: Option<String>,
    /// A key of that API, the file the gateway reads. Default: none, for an open API
    #[arg(long, value_name = "FILE", requires = "gateway_api", help_heading = COMPARISON)]
    pub api_key_file: Option<PathBuf>,
    /// End with exit code 1 unless the gateway counted everything that reached it
    #[arg(long, requires = "gateway_api", help_heading = COMPARISON)]
    pub expect_all: bool,
    /// Attack the gateway, and tell what got through: replay, reflection, bit-flips, unknown-ids, several with commas
    /// between them, or all. Exit code 1 if anything did, or if too little arrived to tell. Default: no attack
    #[arg(long, value_name = "KINDS", conflicts_with_all = OF_A_FLEET, help_heading = ATTACK)]
    pub attack: Option<Kinds>,
    /// Datagrams of each kind of attack, 1 to 100000. Default: 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PACKETS)))]
    #[arg(requires = "attack", help_heading = ATTACK)]
    pub attack_packets: Option<u32>,
    /// Write the gateway's configuration of these devices to a new file, and end. Default: none
    #[arg(long, value_name = "FILE", requires = "cloud_public_key")]
    pub write_config: Option<PathBuf>,
}

/// Headings of the help.
const LOAD: &str = "Load";
const TROUBLE: &str = "Trouble on the way";
const COMPARISON: &str = "Comparison with the gateway";
const RELAYS: &str = "Relays";
const ATTACK: &str = "Attacks";

/// What an attack, which has its own devices and its own pace, would not heed.
const OF_A_FLEET: [&str; 22] = [
    "write_config",
    "expect_all",
    "sleeping",
    "window",
    "ack",
    "ack_after",
    "relays",
    "children",
    "cadence",
    "jitter",
    "rate",
    "packets",
    "duration",
    "sockets",
    "workers",
    "rebind",
    "nat_timeout",
    "loss",
    "downlink_loss",
    "duplicate",
    "reorder",
    "delay",
];

/// 32 bytes of an X25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

impl SimulateArgs {
    /// The configuration these arguments describe. `network_root` is what `network_key_file` holds, if it is given.
    ///
    /// # Errors
    /// A setting out of its range, with its value and range.
    pub fn config(&self, network_root: Option<RootKey>) -> Result<Config, SimulateError> {
        let default = Config::default();
        let device_level = if self.cloud_public_key.is_some() { DEVICE_LEVEL } else { default.device_level };
        let config = Config {
            gateway: self.gateway.unwrap_or(default.gateway),
            devices: self.devices.unwrap_or(default.devices),
            seed: self.seed.unwrap_or(default.seed),
            network: self.network.unwrap_or(default.network),
            network_root: network_root.unwrap_or(default.network_root),
            cloud_public: self.cloud_public_key.map_or(default.cloud_public, |key| key.0),
            cadence: self.cadence.unwrap_or(default.cadence),
            sleeping: self.sleeping.unwrap_or(default.sleeping),
            window: self.window.unwrap_or(default.window),
            rebind: self.rebind.unwrap_or(default.rebind),
            no_time: self.no_time.unwrap_or(default.no_time),
            device_level: self.device_level.unwrap_or(device_level),
            ack_share: self.ack.unwrap_or(default.ack_share),
            ack_after: self.ack_after.unwrap_or(default.ack_after),
            sockets: self.sockets.map_or(default.sockets, |sockets| sockets as usize),
            jitter: self.jitter.unwrap_or(default.jitter),
            rate: self.rate,
            packets: self.packets,
            loss: self.loss.unwrap_or(default.loss),
            downlink_loss: self.downlink_loss.unwrap_or(default.downlink_loss),
            duplicate: self.duplicate.unwrap_or(default.duplicate),
            reorder: self.reorder.unwrap_or(default.reorder),
            delay: self.delay,
            nat_timeout: self.nat_timeout,
            relays: self.relays.unwrap_or(default.relays),
            children: self.children.unwrap_or(default.children),
            duration: self.duration,
            ack_limit: default.ack_limit,
            announce_every: default.announce_every,
        };
        config.check()?;
        let delay = self.delay.unwrap_or_default();
        if self.expect_all && delay > LONGEST_EXPECTED_DELAY {
            let refusal = format!(
                "a delay of {delay:?} with --expect-all: at most {LONGEST_EXPECTED_DELAY:?}, after which a gateway takes packets \
                 for those of a wrong clock"
            );
            return Err(SimulateError::Setting(refusal));
        }
        Ok(config)
    }
}

/// Writes the `[[network]]` and `[[device]]` blocks of a gateway's configuration to the new file `path`.
/// `network_key_file` is where the gateway finds the key of their network, unless that is the factory network.
///
/// # Errors
/// A file that exists already or cannot be written, named; a public key that protects nothing.
pub fn write_gateway_config(path: &Path, config: &Config, network_key_file: Option<&Path>) -> Result<(), WriteError> {
    let file_error = |path: &Path| {
        let path = path.to_owned();
        |source| WriteError::File { path, source }
    };
    // A relative path would be taken from the directory of the new file.
    let key_file = network_key_file.map(|file| std::path::absolute(file).map_err(file_error(file))).transpose()?;
    let network = network_block(config.network, "simulated", key_file.as_deref())?;
    let text = network + &device_blocks(&config.identities()?) + &device_blocks(&config.child_identities()?);
    // Never over what is there.
    let write = || OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes());
    write().map_err(file_error(path))
}

/// Why the gateway's configuration was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The devices cannot be made.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    /// The path of the network key file is no text.
    #[error("the path of the network key file cannot be written in a configuration: {0}; give it a name that is UTF-8")]
    Path(#[from] toml::ser::Error),
    /// A file.
    #[error("cannot write {}: {source}; {}", path.display(), remedy(source))]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AlreadyExists => "name another: nothing is written over",
        io::ErrorKind::NotFound => "make its directory or correct the path",
        _ => "name a file in a directory that this user can write to",
    }
}

fn public_key(text: &str) -> Result<PublicKey, String> {
    let bytes = STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(PublicKey).ok_or_else(|| "a public key is 32 bytes as base64: 44 characters".to_owned())
}

/// A share, given in percent.
fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
    let share = number.filter(|number| (0.0..=100.0).contains(number)).map(|number| number / 100.0);
    share.ok_or_else(|| "a share is a number from 0 to 100".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::keys::KeyPair;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn parse(flags: &[&str]) -> Result<SimulateArgs, clap::Error> {
        Command::try_parse_from([&["simulate"], flags].concat()).map(|command| command.args)
    }

    fn cloud() -> (KeyPair, String) {
        let keys = KeyPair::from_private([0x11; 32]);
        let text = STANDARD.encode(keys.public());
        (keys, text)
    }

    #[test]
    fn without_flags_everything_is_the_default() {
        let config = parse(&[]).unwrap().config(None).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn flags_carry_their_units() {
        let (_, cloud) = cloud();
        let flags =
            ["--devices", "7", "--seed", "9", "--cadence", "500ms", "--window", "0s", "--sleeping", "30", "--rebind"];
        let more =
            ["2.5%", "--no-time", "100", "--ack", "0", "--ack-after", "2m", "--duration", "1h", "--gateway", "[::1]:9"];
        let config =
            parse(&[&flags[..], &more, &["--cloud-public-key", &cloud]].concat()).unwrap().config(None).unwrap();
        assert_eq!((config.devices, config.seed, config.gateway.to_string()), (7, 9, "[::1]:9".to_owned()));
        assert_eq!((config.sleeping, config.rebind, config.no_time, config.ack_share), (0.3, 0.025, 1.0, 0.0));
        assert_eq!((config.cadence, config.window), (Duration::from_millis(500), Duration::ZERO));
        assert_eq!((config.ack_after, config.duration), (Duration::from_secs(120), Some(Duration::from_secs(3600))));
        assert_eq!(config.device_level, DEVICE_LEVEL, "with the gateway's key some traffic is at device level");
    }

    #[test]
    fn load_and_trouble_have_their_flags() {
        let load = ["--rate", "5000", "--packets", "9", "--sockets", "3", "--seed", "0"];
        let trouble = ["--loss", "1", "--downlink-loss", "2", "--duplicate", "3", "--reorder", "4", "--delay", "5s"];
        let config = parse(&[&load[..], &trouble, &["--nat-timeout", "30s"]].concat()).unwrap().config(None).unwrap();
        assert_eq!((config.rate, config.packets, config.sockets), (Some(5000), Some(9), 3));
        assert_eq!([config.loss, config.downlink_loss, config.duplicate, config.reorder], [0.01, 0.02, 0.03, 0.04]);
        let [delay, nat_timeout] = [5, 30].map(|seconds| Some(Duration::from_secs(seconds)));
        assert_eq!((config.delay, config.nat_timeout), (delay, nat_timeout));
        let jitter = parse(&["--cadence", "1s", "--jitter", "25"]).unwrap().config(None).unwrap().jitter;
        assert_eq!(jitter, 0.25);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for flags in [
            &["--devices", "0"][..],
            &["--devices", "1000001"],
            &["--seed", "65536"],
            &["--cadence", "10"],
            &["--cadence", "-1s"],
            &["--sleeping", "101"],
            &["--sleeping", "NaN"],
            &["--network", "a17", "--network-key-file", "key"],
            &["--network", "000a17"],
            &["--network-key-file", "key"],
            &["--device-level", "10"],
            &["--rate", "0"],
            &["--rate", "1000", "--cadence", "1s"],
            &["--rate", "1000", "--jitter", "1"],
            &["--packets", "0"],
            &["--sockets", "0"],
            &["--workers", "0"],
            &["--loss", "101"],
            &["--api-key-file", "file"],
            &["--expect-all"],
            &["--write-config", "file"],
            &["--relays", "1"],
            &["--children", "1"],
            &["--attack", "everything"],
            &["--attack", "replay,,bit-flips"],
            &["--attack", "all", "--attack-packets", "0"],
            &["--attack", "all", "--write-config", "file", "--cloud-public-key", &cloud().1],
            &["--attack", "all", "--loss", "5"],
            &["--attack", "all", "--rate", "5"],
            &["--attack", "all", "--duration", "5s"],
            &["--attack", "all", "--relays", "1", "--cloud-public-key", &cloud().1],
            &["--attack", "all", "--workers", "1"],
            &["--rate", "5", "--relays", "1", "--cloud-public-key", &cloud().1],
            &["--attack-packets", "5"],
            &["--attack", "all", "--gateway-api", "http://127.0.0.1:1", "--expect-all"],
            &["--cloud-public-key", "AAAA"],
        ] {
            assert!(parse(flags).is_err(), "{flags:?}");
        }
        let refusal = parse(&["--cadence", "0s"]).unwrap().config(None).unwrap_err();
        assert_eq!(refusal.to_string(), "a cadence of 0ns: at least 1 ms is needed");
    }

    #[test]
    fn a_delay_of_which_nothing_can_be_expected_is_refused_where_all_is() {
        let all = ["--gateway-api", "http://127.0.0.1:1", "--expect-all"];
        let config = |delay: &[&str], all: &[&str]| parse(&[delay, all].concat()).unwrap().config(None);
        assert!(config(&["--delay", "5m"], &all).is_ok() && config(&["--delay", "301s"], &[]).is_ok());
        let refusal = config(&["--delay", "301s"], &all).unwrap_err().to_string();
        assert!(refusal.starts_with("a delay of 301s with --expect-all: at most 300s"), "{refusal}");
        // Without the flag it is never that long.
        let slow = config(&["--cadence", "1h"], &all).unwrap();
        assert_eq!(slow.longest_hold(), Duration::from_secs(120));
    }

    #[test]
    fn the_gateway_configuration_names_every_device_and_is_never_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let (path, key_file) = (directory.path().join("fleet.toml"), directory.path().join("network.key"));
        let config =
            Config { devices: 3, cloud_public: cloud().0.public(), relays: 2, children: 4, ..Config::default() };
        write_gateway_config(&path, &config, Some(&key_file)).unwrap();
        let table: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        assert_eq!(table["network"][0]["key-file"].as_str().map(PathBuf::from), Some(key_file));
        let devices = table["device"].as_array().unwrap();
        assert_eq!(devices.len(), 3 + 2 * 4, "the children of the relays, too");
        assert_eq!(devices[10]["id"].as_str(), Some("51a0000180000007"));

        let again = write_gateway_config(&path, &config, None).unwrap_err();
        let shown = path.display();
        assert_eq!(
            again.to_string(),
            format!("cannot write {shown}: File exists (os error 17); name another: nothing is written over")
        );
        let other = directory.path().join("factory.toml");
        write_gateway_config(&other, &config, None).unwrap();
        let table: toml::Table = std::fs::read_to_string(&other).unwrap().parse().unwrap();
        assert!(table["network"][0].get("key-file").is_none(), "the key of the factory network is known");
    }
}
