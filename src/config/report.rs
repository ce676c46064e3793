//! The configuration that a start would use, told to a person or a program: each setting, what it is and who says so.
//! Nothing here is secret.

use std::ffi::OsString;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::settings::Name;
use super::{Config, ConfigError, Flags, Missing, Settled, values};
use crate::api::tokens::TokenRules;
use crate::quote::one_line;

/// Devices that the text names; of more, only how many. The serialised form names all.
const DEVICES_NAMED: usize = 20;

/// Values longer than this do not widen their column of the text.
const WIDEST_VALUE: usize = 40;

/// The configuration as a start would use it. Prints as text; serialises with all devices.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Every setting, in the order of the help.
    pub settings: Vec<Setting>,
    /// Networks in the order of the file.
    pub networks: Vec<ReportedNetwork>,
    /// Devices in the order of the file.
    pub devices: Vec<ReportedDevice>,
    /// The gateway's public key as base64. `None`: its key is not made yet.
    pub public_key: Option<String>,
    /// What a start would warn of.
    pub warnings: Vec<String>,
}

/// A setting, its value, and where that comes from.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// Its key in the file.
    pub name: &'static str,
    /// As it could be given: paths as they are resolved, several addresses with commas. `None`: there is none.
    pub value: Option<String>,
    /// `flag --log`, `environment LASTROUTE_LOG`, `fleet.toml:12` or `default`.
    pub from: String,
    /// Other sources that give the setting in vain, the strongest first.
    pub overrides: Vec<String>,
    /// What else is to be said of the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A network and the file of its key.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportedNetwork {
    /// Its id, as the log writes it.
    pub id: String,
    /// Its name in the log.
    pub name: String,
    /// The file of its root key. `None`: the public key of the factory network.
    pub key_file: Option<String>,
    /// File and line.
    pub from: String,
}

/// A device and where its key comes from.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportedDevice {
    /// Its id.
    pub id: String,
    /// `public-key`, `root-key ***` or `root-key-file` and the file.
    pub key: String,
    /// File and line.
    pub from: String,
}

impl Report {
    /// Checks the configuration as [`Config::load`] does, but makes nothing.
    ///
    /// # Errors
    /// What a start would end with.
    pub fn of(flags: &Flags, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        super::settle(flags, environment, Missing::Leave).map(|settled| Self::new(&settled))
    }

    fn new(settled: &Settled) -> Self {
        let Settled { config, settings, .. } = settled;
        // Networks and devices stand in the file only.
        let file = settings.path(Name::Config).ok().flatten().unwrap_or_default();
        let from = |line: usize| format!("{}:{line}", file.display());
        let networks = settled.networks.iter().map(|listed| ReportedNetwork {
            id: listed.network.id.to_string(),
            name: listed.network.name.clone(),
            key_file: listed.key_file.as_ref().map(|path| path.display().to_string()),
            from: from(listed.line),
        });
        let devices = settled.devices.iter().map(|listed| ReportedDevice {
            id: listed.id.to_string(),
            key: listed.shown.clone(),
            from: from(listed.line),
        });
        Self {
            settings: Name::ALL.map(|name| setting(name, settled)).into(),
            networks: networks.collect(),
            devices: devices.collect(),
            public_key: (!settled.kept.key_missing).then(|| STANDARD.encode(config.cloud_keys.public())),
            warnings: config.warnings.clone(),
        }
    }
}

fn setting(name: Name, settled: &Settled) -> Setting {
    let mut sources = settled.settings.sources(name).into_iter();
    Setting {
        name: name.key(),
        value: value(name, &settled.config, settled),
        from: sources.next().unwrap_or_else(|| "default".to_owned()),
        overrides: sources.collect(),
        note: note(name, settled),
    }
}

/// The value of a setting in the configuration that came out.
fn value(name: Name, config: &Config, settled: &Settled) -> Option<String> {
    match name {
        Name::Config | Name::ApiKeyFile | Name::JwtKeyFile | Name::RpcDefinitions => {
            settled.settings.path(name).ok().flatten().map(|path| path.display().to_string())
        }
        Name::JwtAudience => settled.settings.value(name, values::name).ok().flatten(),
        Name::DataDir => Some(config.data_dir.display().to_string()),
        Name::CloudKeyFile => Some(settled.kept.key_file.display().to_string()),
        Name::UdpListen => Some(config.udp_listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        Name::UdpReceiveBuffer => Some(values::size_text(config.udp_receive_buffer)),
        Name::UdpThreads => Some(config.udp_threads.to_string()),
        Name::HttpListen => Some(config.http_listen.to_string()),
        Name::MetricsListen => config.metrics_listen.map(|address| address.to_string()),
        Name::Unregistered => Some(values::unregistered_text(config.table.unregistered).to_owned()),
        Name::UnregisteredLimit => Some(config.table.unregistered_limit.to_string()),
        Name::RoutePolicy => Some(values::route_policy_text(config.route_policy).to_owned()),
        Name::KeyChange => Some(values::key_change_text(config.key_change).to_owned()),
        Name::MessageRetention => Some(values::retention_text(config.message_retention)),
        Name::ClockStep => Some(values::clock_step_text(config.clock_step).to_owned()),
        Name::WaitersPerDevice => Some(config.waiters.per_device.to_string()),
        Name::WaitersPerCredential => Some(config.waiters_per_credential.to_string()),
        Name::WaitersTotal => Some(config.waiters.total.to_string()),
        Name::Log => Some(config.log.clone()),
    }
}

fn note(name: Name, settled: &Settled) -> Option<String> {
    match name {
        Name::DataDir if settled.kept.directory_missing => Some("would be made".to_owned()),
        Name::CloudKeyFile if settled.kept.key_missing => Some("would be made".to_owned()),
        Name::ApiKeyFile if !settled.config.api_keys.is_empty() => {
            Some(format!("API keys: {}", settled.config.api_keys.len()))
        }
        Name::JwtKeyFile => settled.config.tokens.as_ref().map(keys_of_tokens),
        Name::RpcDefinitions => {
            let of_file = settled.settings.path(name).ok().flatten();
            of_file.map(|_| format!("commands: {}", settled.config.definitions.commands().count()))
        }
        _ => None,
    }
}

fn keys_of_tokens(rules: &TokenRules) -> String {
    match rules.passed_over() {
        0 => format!("keys of tokens: {}", rules.keys()),
        others => format!("keys of tokens: {}, and {others} not understood", rules.keys()),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Settings")?;
        columns(f, self.settings.iter().map(Setting::columns).collect())?;
        writeln!(f, "\nNetworks: {}", self.networks.len())?;
        columns(f, self.networks.iter().map(ReportedNetwork::columns).collect())?;
        writeln!(f, "\nDevices: {}", self.devices.len())?;
        columns(f, self.devices.iter().take(DEVICES_NAMED).map(ReportedDevice::columns).collect())?;
        match self.devices.len().saturating_sub(DEVICES_NAMED) {
            0 => {}
            more => writeln!(f, "  and {more} more")?,
        }
        let key = self.public_key.as_deref().unwrap_or("none yet: the gateway's key would be made");
        writeln!(f, "\nPublic key of the gateway\n  {key}")?;
        if !self.warnings.is_empty() {
            writeln!(f, "\nWarnings")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  {}", one_line(warning))?;
        }
        write!(f, "\nA gateway can start with this if its addresses are free. None was started, and nothing was made.")
    }
}

impl Setting {
    fn columns(&self) -> [String; 3] {
        let mut said = self.from.clone();
        if !self.overrides.is_empty() {
            said = format!("{said}; overrides {}", self.overrides.join(", "));
        }
        if let Some(note) = &self.note {
            said = format!("{said}; {note}");
        }
        [self.name.to_owned(), self.value.clone().unwrap_or_else(|| "none".to_owned()), said]
    }
}

impl ReportedNetwork {
    fn columns(&self) -> [String; 3] {
        let key = self
            .key_file
            .as_ref()
            .map_or_else(|| "the public factory key".to_owned(), |file| format!("key-file {file}"));
        [format!("{} {}", self.id, self.name), key, self.from.clone()]
    }
}

impl ReportedDevice {
    fn columns(&self) -> [String; 3] {
        [self.id.clone(), self.key.clone(), self.from.clone()]
    }
}

/// Writes lines of three columns, the first two as wide as what stands in them.
fn columns(f: &mut fmt::Formatter<'_>, rows: Vec<[String; 3]>) -> fmt::Result {
    let rows: Vec<_> = rows.into_iter().map(|row| row.map(|text| one_line(&text))).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1).min(WIDEST_VALUE));
    for [name, value, said] in &rows {
        writeln!(f, "  {name:first$}  {value:second$}  {said}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Args;

    use super::super::tests::{CLOUD_PRIVATE, DEVICE_PUBLIC, DEVICE_ROOT, NETWORK_KEY, Site, variables};
    use super::*;

    /// The report as text and as JSON, paths shortened to the names of the files.
    fn told(site: &Site, flags: &Flags, environment: &[(&str, &str)]) -> (String, serde_json::Value) {
        let mut report = Report::of(flags, variables(environment)).unwrap();
        let settings = report
            .settings
            .iter_mut()
            .flat_map(|setting| setting.value.iter_mut().chain([&mut setting.from]).chain(&mut setting.overrides));
        let networks =
            report.networks.iter_mut().flat_map(|network| network.key_file.iter_mut().chain([&mut network.from]));
        let devices = report.devices.iter_mut().flat_map(|device| [&mut device.key, &mut device.from]);
        for text in settings.chain(networks).chain(devices).chain(&mut report.warnings) {
            *text = text.replace(&format!("{}/", site.0.path().display()), "");
        }
        (report.to_string(), serde_json::to_value(&report).unwrap())
    }

    fn fleet() -> Site {
        let site = Site::new(&format!(
            "udp-listen = [\"[::1]:1\", \"[::1]:2\"]\nunregistered-limit = 0x10\nlog = \"warn\"\n\
             cloud-key-file = \"cloud.key\"\napi-key-file = \"api.keys\"\nroute-policy = \"strict\"\n\
             jwt-key-file = \"jwt.json\"\njwt-audience = \"lastroute\"\n\
             [[network]]\nid = \"000a17\"\nname = \"fleet\"\nkey-file = \"fleet.key\"\n\
             [[network]]\nid = 0\n\
             [[device]]\nid = \"d000000000001001\"\npublic-key = \"{DEVICE_PUBLIC}\"\n\
             [[device]]\nid = \"d000000000001002\"\nroot-key-file = \"device.key\"\n\
             [[device]]\nid = \"d000000000001003\"\nroot-key = \"{DEVICE_ROOT}\"\n"
        ));
        std::fs::create_dir(site.path("data")).unwrap();
        site
    }

    #[test]
    fn every_setting_is_told_with_its_value_and_who_says_so() {
        let site = fleet();
        let environment = [("LASTROUTE_LOG", "debug"), ("LASTROUTE_UDP_RECEIVE_BUFFER", "512 KiB")];
        let flags = Flags { log: Some("error".to_owned()), udp_listen: vec!["[::]:3".to_owned()], ..site.flags() };
        let (text, _) = told(&site, &flags, &environment);
        let expected = "\
Settings
  config                  fleet.toml      flag --config
  data-dir                data            flag --data-dir
  cloud-key-file          cloud.key       fleet.toml:4
  api-key-file            api.keys        fleet.toml:5; API keys: 1
  jwt-key-file            jwt.json        fleet.toml:7; keys of tokens: 1
  jwt-audience            lastroute       fleet.toml:8
  rpc-definitions         none            default
  udp-listen              [::]:3          flag --udp-listen; overrides fleet.toml:1
  udp-receive-buffer      512KiB          environment LASTROUTE_UDP_RECEIVE_BUFFER
  udp-threads             1               default
  http-listen             127.0.0.1:8080  default
  metrics-listen          none            default
  unregistered            allow           default
  unregistered-limit      16              fleet.toml:2
  route-policy            strict          fleet.toml:6
  key-change              accept          default
  message-retention       30d             default
  clock-step              follow          default
  waiters-per-device      1000            default
  waiters-per-credential  200000          default
  waiters-total           200000          default
  log                     error           flag --log; overrides environment LASTROUTE_LOG, fleet.toml:3

Networks: 2
  0x000a17 fleet     key-file fleet.key      fleet.toml:10
  0x000000 0x000000  the public factory key  fleet.toml:14

Devices: 3
  d000000000001001  public-key                fleet.toml:16
  d000000000001002  root-key-file device.key  fleet.toml:19
  d000000000001003  root-key ***              fleet.toml:22

Public key of the gateway
  PUBLIC

Warnings
  fleet.toml:14: network.id: network 0x000000 is the public factory network: everyone knows its key and can speak on it

A gateway can start with this if its addresses are free. None was started, and nothing was made.";
        let public = STANDARD.encode(Config::load(&flags, []).unwrap().cloud_keys.public());
        assert_eq!(text, expected.replace("PUBLIC", &public));
    }

    #[test]
    fn programs_are_told_the_same_and_of_every_device() {
        let many: String = (0..25)
            .map(|at| format!("[[device]]\nid = \"d0000000000010{at:02x}\"\nroot-key-file = \"device.key\"\n"))
            .collect();
        let site = Site::new(&many);
        let (text, json) = told(&site, &site.flags(), &[("LASTROUTE_DATA_DIR", "elsewhere")]);
        assert!(text.contains("Devices: 25\n") && text.contains("fleet.toml:59\n  and 5 more\n"), "{text}");
        assert_eq!(json["devices"].as_array().map(Vec::len), Some(25));
        let device = serde_json::json!({
            "id": "d000000000001018", "key": "root-key-file device.key", "from": "fleet.toml:74",
        });
        assert_eq!(json["devices"][24], device);
        let data_dir = serde_json::json!({
            "name": "data-dir", "value": "data", "from": "flag --data-dir",
            "overrides": ["environment LASTROUTE_DATA_DIR"], "note": "would be made",
        });
        assert_eq!(json["settings"][1], data_dir);
        assert_eq!((&json["settings"][3]["value"], &json["publicKey"]), (&().into(), &().into()));
    }

    #[test]
    fn a_check_makes_nothing_and_checks_keys_that_only_a_start_would_make() {
        let site = Site::new(&format!("[[device]]\nid = \"d000000000001001\"\npublic-key = \"{DEVICE_PUBLIC}\""));
        let before = std::fs::read_dir(site.0.path()).unwrap().count();
        let (text, _) = told(&site, &site.flags(), &[]);
        assert_eq!(std::fs::read_dir(site.0.path()).unwrap().count(), before);
        assert!(text.contains("data/cloud-key  default; would be made\n"), "{text}");
        assert!(text.contains("\n  none yet: the gateway's key would be made\n"), "{text}");
        let started = Config::load(&site.flags(), []).unwrap();
        let (text, _) = told(&site, &site.flags(), &[]);
        assert!(!text.contains("would be made"), "{text}");
        assert!(text.contains(&STANDARD.encode(started.cloud_keys.public())), "{text}");
    }

    #[test]
    fn no_name_or_path_steers_the_terminal() {
        let site = Site::new(
            "cloud-key-file = \"cloud\\u001b[2J.key\"\nlog = \"warn\"\n\
             [[network]]\nid = \"000a17\"\nname = \"fleet\\u001b]0;x\\u0007\\n\\u009bm\"\nkey-file = \"fleet.key\"\n",
        );
        site.write("cloud\u{1b}[2J.key", CLOUD_PRIVATE);
        std::fs::set_permissions(site.path("cloud\u{1b}[2J.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
        let (text, json) = told(&site, &site.flags(), &[]);
        assert!(text.contains("\n  0x000a17 fleet]0;xm  key-file fleet.key  fleet.toml:4\n"), "{text}");
        assert!(text.contains("cloud[2J.key") && text.contains("run chmod 600"), "{text}");
        assert!(text.lines().all(|line| !line.contains(char::is_control)), "{text}");
        assert_eq!(json["networks"][0]["name"], "fleet\u{1b}]0;x\u{7}\n\u{9b}m");
    }

    #[test]
    fn no_secret_is_told() {
        let site = fleet();
        let (text, json) = told(&site, &site.flags(), &[]);
        let told = text + &json.to_string();
        for secret in
            ["ik_", "0123456789", &NETWORK_KEY[..8], &CLOUD_PRIVATE[..8], &DEVICE_ROOT[..8], &DEVICE_PUBLIC[..8]]
        {
            assert!(!told.contains(secret), "{secret} in {told}");
        }
    }

    #[test]
    fn the_help_says_the_defaults_that_hold() {
        let command = Flags::augment_args(clap::Command::new("serve"));
        let report = Report::of(&Flags::default(), []).unwrap();
        for setting in report.settings {
            let flag = command.get_arguments().find(|flag| flag.get_long() == Some(setting.name)).unwrap();
            let help = flag.get_help().unwrap().to_string();
            let default = help.split("Default: ").nth(1).unwrap();
            let holds = match setting.name {
                // In the data directory.
                "cloud-key-file" => "cloud-key",
                _ => setting.value.as_deref().unwrap_or("none"),
            };
            assert_eq!(default.split([',', ' ']).next(), Some(holds), "{help}");
            assert_eq!((setting.from.as_str(), setting.overrides.len()), ("default", 0));
        }
    }
}
