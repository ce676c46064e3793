//! The flags of `serve`. They carry text; the meaning is the same from every source.

use clap::{Args, ValueHint};

use super::settings::{Name, Origin, Settings};

/// Settings given on the command line. The default has none of them.
#[derive(Args, Clone, Debug, Default)]
#[command(
    after_help = "Every setting can also be given as an environment variable, --udp-listen as LASTROUTE_UDP_LISTEN, \
    and, but for --config, in the configuration file, as udp-listen. Flags win over the environment, and that wins over \
    the file. Networks and devices stand in the file only; lastroute.example.toml explains it."
)]
pub struct Flags {
    /// Configuration file (TOML). Default: none, no file is looked for
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Files")]
    pub config: Option<String>,
    /// Directory of everything the gateway keeps; made if it is missing. Default: lastroute-data
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Files")]
    pub data_dir: Option<String>,
    /// The gateway's private X25519 key: 32 bytes as base64, hex or raw. Default: cloud-key in the data directory, made
    /// on first start
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Files")]
    pub cloud_key_file: Option<String>,
    /// Keys of the API's administrators, one `ik...` a line. Default: none, and without jwt-key-file the API is open, on
    /// loopback only
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Files")]
    pub api_key_file: Option<String>,
    /// Public keys that tokens of the API's clients are signed for: a JWK or a JWK set in JSON. Default: none, tokens are
    /// not accepted
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Files")]
    pub jwt_key_file: Option<String>,
    /// What tokens name as their audience if they are meant for this gateway. Default: none, jwt-key-file needs one
    #[arg(long, value_name = "NAME", help_heading = "Files")]
    pub jwt_audience: Option<String>,
    /// Definitions of the calls that devices answer: the rpc.json of their firmware. Default: none, only the fields of
    /// a few calls are known
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Files")]
    pub rpc_definitions: Option<String>,
    /// Address and port to receive datagrams on; may be repeated. Default: 0.0.0.0:3001
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Addresses")]
    pub udp_listen: Vec<String>,
    /// Receive buffer of each UDP socket, with unit (KiB, MiB), 4KiB to below 1GiB. Default: 64MiB, or what the system
    /// gives
    #[arg(long, value_name = "SIZE", help_heading = "Addresses")]
    pub udp_receive_buffer: Option<String>,
    /// Threads that receive at each UDP address, 1 to 16, each with a socket and a receive buffer of its own; all that comes
    /// from one address and port gets to one of them. Sockets that a service manager passes have one each. Default: 1
    #[arg(long, value_name = "N", help_heading = "Addresses")]
    pub udp_threads: Option<String>,
    /// Address and port of the API. Default: 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Addresses")]
    pub http_listen: Option<String>,
    /// Address and port to serve /metrics on, without credentials. Default: none, /metrics is part of the API
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Addresses")]
    pub metrics_listen: Option<String>,
    /// Whether authentic packets of devices that are not registered are served. Default: allow
    #[arg(long, value_name = "allow|deny", help_heading = "Devices")]
    pub unregistered: Option<String>,
    /// How many unregistered devices are remembered; the one heard least recently makes room. Default: 100000
    #[arg(long, value_name = "N", help_heading = "Devices")]
    pub unregistered_limit: Option<String>,
    /// What may move a route: the newest packet that proves itself (newest); or the same, except that a packet under the
    /// network key moves no device whose own key is known (strict). Default: newest
    #[arg(long, value_name = "newest|strict", help_heading = "Devices")]
    pub route_policy: Option<String>,
    /// What becomes of a key that a device proves in place of the one it proved before, or from hardware that is not the
    /// registered one: it is in force at once (accept), or waits until somebody confirms it (hold). One that does both waits
    /// in any case. Default: accept
    #[arg(long, value_name = "accept|hold", help_heading = "Devices")]
    pub key_change: Option<String>,
    /// How long messages to devices are kept, with unit, 1m to 3650d; those that wait to be sent are kept until they expire.
    /// Default: 30d
    #[arg(long, value_name = "TIME", help_heading = "Devices")]
    pub message_retention: Option<String>,
    /// What becomes of a step of the system's clock by more than 5 s: it is adopted once that clock has stood still for 60 s
    /// (follow), or the gateway keeps its own time until that clock comes back (hold). Default: follow
    #[arg(long, value_name = "follow|hold", help_heading = "Devices")]
    pub clock_step: Option<String>,
    /// How many may wait for one device at once, or for one organisation. Default: 1000
    #[arg(long, value_name = "N", help_heading = "Waiting")]
    pub waiters_per_device: Option<String>,
    /// How many may wait under one API key or subject of tokens at once; without either, in this process. Default: 200000
    #[arg(long, value_name = "N", help_heading = "Waiting")]
    pub waiters_per_credential: Option<String>,
    /// How many may wait at once in all. Default: 200000
    #[arg(long, value_name = "N", help_heading = "Waiting")]
    pub waiters_total: Option<String>,
    /// What to log on standard error: error, warn, info, debug, trace or off, or levels by module such as
    /// info,lastroute=debug. Text on a terminal, JSON elsewhere. Default: info
    #[arg(long, value_name = "FILTER", help_heading = "Logging")]
    pub log: Option<String>,
    /// If the routes that are kept cannot be read, rename their directory to routes.bad- and the time, and learn every route
    /// anew; without it such a start fails. This is for one start, so no other source can say it. Default: off
    #[arg(long, help_heading = "Files")]
    pub set_aside_routes: bool,
    /// For tests: seconds added to the system clock
    #[arg(long, value_name = "SECONDS", hide = true, default_value_t = 0, allow_negative_numbers = true)]
    pub clock_offset: i64,
    /// For tests: milliseconds between two writes of what changed
    #[arg(long, value_name = "MILLISECONDS", hide = true)]
    pub checkpoint_ms: Option<u64>,
}

impl Flags {
    pub(super) fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.set(Name::UdpListen, self.udp_listen.clone(), Origin::Flag);
        for (name, text) in [
            (Name::Config, &self.config),
            (Name::DataDir, &self.data_dir),
            (Name::CloudKeyFile, &self.cloud_key_file),
            (Name::ApiKeyFile, &self.api_key_file),
            (Name::JwtKeyFile, &self.jwt_key_file),
            (Name::JwtAudience, &self.jwt_audience),
            (Name::RpcDefinitions, &self.rpc_definitions),
            (Name::UdpReceiveBuffer, &self.udp_receive_buffer),
            (Name::UdpThreads, &self.udp_threads),
            (Name::HttpListen, &self.http_listen),
            (Name::MetricsListen, &self.metrics_listen),
            (Name::Unregistered, &self.unregistered),
            (Name::UnregisteredLimit, &self.unregistered_limit),
            (Name::RoutePolicy, &self.route_policy),
            (Name::KeyChange, &self.key_change),
            (Name::MessageRetention, &self.message_retention),
            (Name::ClockStep, &self.clock_step),
            (Name::WaitersPerDevice, &self.waiters_per_device),
            (Name::WaitersPerCredential, &self.waiters_per_credential),
            (Name::WaitersTotal, &self.waiters_total),
            (Name::Log, &self.log),
        ] {
            settings.set(name, text.iter().cloned().collect(), Origin::Flag);
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn every_setting_has_a_flag_of_its_name() {
        for name in Name::ALL {
            let flag = format!("--{}", name.key());
            let flags = Alone::try_parse_from(["serve", &flag, "some text"]).map(|alone| alone.flags).unwrap();
            let text = flags.settings().value(name, |text| Ok(text.to_owned())).unwrap();
            assert_eq!(text.as_deref(), Some("some text"), "{flag}");
        }
    }

    #[test]
    fn the_clock_can_be_set_back() {
        let flags = Alone::try_parse_from(["serve", "--clock-offset", "-60"]).map(|alone| alone.flags).unwrap();
        assert_eq!(flags.clock_offset, -60);
    }
}
