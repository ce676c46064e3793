//! What a whole configuration comes to.

use std::fs::write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::table::Unregistered;

// Keys of a recorded device (tests/vectors/firmware-capture.json).
pub(super) const NETWORK_KEY: &str = "a05c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c0f";
pub(super) const CLOUD_PRIVATE: &str = "1111111111111111111111111111111111111111111111111111111111111151";
pub(super) const DEVICE_PUBLIC: &str = "shBuBAI/STG3byHCFfI7QoT+SMinpzd6+gdyB0EJzFw=";
pub(super) const DEVICE_ROOT: &str = "731dac97b8878600acde76e23af10e38f022adf37db5d7dc3ad557295f0ab254";
/// A public key of RFC 8037, Appendix A.2.
pub(super) const JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const DEVICE_KEY_ID: Option<KeyId> = KeyId::new(6_461_874);

/// A directory with a configuration file and the keys that tests name.
pub(super) struct Site(pub(super) TempDir);

impl Site {
    pub(super) fn new(toml: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        site.write("fleet.toml", toml);
        site.write("fleet.key", NETWORK_KEY);
        site.write("cloud.key", CLOUD_PRIVATE);
        site.write("device.key", DEVICE_ROOT);
        site.write("api.keys", "ik_0123456789abcdef");
        site.write("jwt.json", JWK);
        site.write("rpc.json", "{\"commands\": {}}");
        site
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    pub(super) fn write(&self, name: &str, content: &str) {
        write(self.0.path().join(name), content).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.0.path().join(name), private).unwrap();
    }

    pub(super) fn flags(&self) -> Flags {
        Flags { config: Some(self.path("fleet.toml")), data_dir: Some(self.path("data")), ..Flags::default() }
    }

    pub(super) fn load(&self) -> Config {
        Config::load(&self.flags(), []).unwrap()
    }

    /// The error of this configuration, its paths shortened to the names of the files.
    pub(super) fn error(&self) -> String {
        self.error_of(&self.flags(), &[])
    }

    pub(super) fn error_of(&self, flags: &Flags, environment: &[(&str, &str)]) -> String {
        let checked = Report::of(flags, variables(environment)).unwrap_err().to_string();
        let error = Config::load(flags, variables(environment)).unwrap_err().to_string();
        assert_eq!(checked, error, "a check ends as a start does");
        assert_eq!(error.lines().count(), 1, "{error}");
        error.replace(&format!("{}/", self.0.path().display()), "")
    }
}

pub(super) fn variables(environment: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    environment.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn root_bytes(key: &RootKey) -> [u8; 32] {
    key.derive(b"", b"")
}

fn root_of_hex(hex: &str) -> [u8; 32] {
    root_bytes(&RootKey::new(hex::decode(hex).unwrap().try_into().unwrap()))
}

#[test]
fn without_any_source_the_defaults_hold() {
    let site = Site::new("");
    let config = site.load();
    assert_eq!(config.udp_listen, ["0.0.0.0:3001".parse().unwrap()]);
    assert_eq!(config.http_listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!((config.metrics_listen, config.udp_receive_buffer, config.udp_threads), (None, 64 << 20, 1));
    assert_eq!((config.table.unregistered, config.table.unregistered_limit), (Unregistered::Allow, 100_000));
    assert_eq!(config.route_policy, RoutePolicy::Newest);
    assert_eq!((config.key_change, config.message_retention), (KeyChange::Accept, Duration::from_secs(30 * 86_400)));
    assert_eq!(config.clock_step, ClockStep::Follow);
    assert_eq!((config.waiters.per_device, config.waiters.total), (1000, 200_000));
    assert_eq!((config.waiters_per_credential, config.log.as_str()), (200_000, "info"));
    assert!(config.networks.is_empty() && config.devices.is_empty() && config.api_keys.is_empty());
    assert_eq!(
        config.warnings,
        [
            "no network and no device is configured, so only those made over the API are known: make them there, or add [[network]]"
        ]
    );
}

#[test]
fn a_tool_shows_the_first_key_of_the_file_that_the_gateway_reads() {
    let site = Site::new("");
    site.write("api.keys", "# clients\nik_first_0123456789\nik_second_0123456789\n");
    let mut warnings = Vec::new();
    let key = client_key(Path::new(&site.path("api.keys")), "--api-key-file", &mut warnings).unwrap();
    assert_eq!((key.text(), warnings), ("ik_first_0123456789", vec![]));
    site.write("api.keys", "secret0123456789");
    let error = client_key(Path::new(&site.path("api.keys")), "--api-key-file", &mut Vec::new()).unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("--api-key-file: ") && !error.contains("secret0123"), "{error}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let site = Site::new(
        "log = \"warn\"\nunregistered-limit = 5\nroute-policy = \"strict\"\nudp-listen = [\"127.0.0.1:1\", \"[::1]:1\"]\n\
         waiters-total = 9\nudp-threads = 4\nclock-step = \"hold\"\nkey-change = \"hold\"\nmessage-retention = \"2h\"",
    );
    let environment = [
        ("LASTROUTE_LOG", "debug"),
        ("LASTROUTE_UNREGISTERED_LIMIT", "6"),
        ("LASTROUTE_UDP_LISTEN", "127.0.0.1:2,[::1]:2"),
        ("LASTROUTE_HTTP_LISTEN", "[::1]:80"),
    ];
    let flags = Flags {
        log: Some("error".to_owned()),
        udp_listen: vec!["127.0.0.1:3".to_owned(), "[::]:3".to_owned()],
        clock_offset: 60,
        ..site.flags()
    };
    let config = Config::load(&flags, variables(&environment)).unwrap();
    assert_eq!((config.log.as_str(), config.table.unregistered_limit, config.waiters.total), ("error", 6, 9));
    assert_eq!(config.route_policy, RoutePolicy::Strict);
    assert_eq!((config.key_change, config.message_retention), (KeyChange::Hold, Duration::from_secs(7200)));
    assert_eq!((config.clock_step, config.udp_threads), (ClockStep::Hold, 4));
    assert_eq!(config.udp_listen, ["127.0.0.1:3".parse().unwrap(), "[::]:3".parse().unwrap()]);
    assert_eq!(config.http_listen, "[::1]:80".parse().unwrap());
    let without_flags = Config::load(&site.flags(), variables(&environment)).unwrap();
    assert_eq!(without_flags.udp_listen, ["127.0.0.1:2".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert_eq!(site.load().udp_listen, ["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()]);
}

#[test]
fn the_environment_can_name_the_file() {
    let site = Site::new("log = \"warn\"\ndata-dir = \"kept\"");
    let environment = [("LASTROUTE_CONFIG".into(), site.path("fleet.toml").into())];
    let config = Config::load(&Flags::default(), environment).unwrap();
    assert_eq!((config.log.as_str(), config.data_dir.as_path()), ("warn", Path::new(&site.path("kept"))));
    assert!(config.data_dir.join("cloud-key").is_file());
}

#[test]
fn networks_and_devices_have_the_keys_of_their_files() {
    let site = Site::new(&format!(
        "cloud-key-file = \"cloud.key\"\n[[network]]\nid = \"000a17\"\nname = \"fleet\"\nkey-file = \"fleet.key\"\n\
         [[network]]\nid = 0xb\nkey-file = \"fleet.key\"\n\
         [[device]]\nid = \"d000000000001001\"\npublic-key = \"{DEVICE_PUBLIC}\"\n\
         [[device]]\nid = \"d000000000001002\"\nroot-key-file = \"device.key\"\nkey-id = \"62991a\"\n\
         [[device]]\nid = \"d000000000001003\"\nroot-key = \"{DEVICE_ROOT}\"\n"
    ));
    let config = site.load();
    let names: Vec<_> = config.networks.iter().map(|network| (network.id.get(), network.name.as_str())).collect();
    assert_eq!(names, [(0xa17, "fleet"), (0xb, "0x00000b")]);
    assert!(config.networks.iter().all(|network| root_bytes(&network.root) == root_of_hex(NETWORK_KEY)));
    // The public key and the gateway's private one make the root key and key id that the recorded firmware uses.
    assert!(config.devices.iter().all(|device| root_bytes(&device.key.root) == root_of_hex(DEVICE_ROOT)));
    let ids: Vec<_> = config.devices.iter().map(|device| (device.id.0 & 0xf, device.key.key_id)).collect();
    assert_eq!(ids, [(1, DEVICE_KEY_ID), (2, KeyId::new(0x62_991a)), (3, None)]);
    // A given key needs none in the data directory.
    assert_eq!(std::fs::read_dir(&config.data_dir).unwrap().count(), 0);
}

#[test]
fn the_factory_network_is_served_when_named_and_warned_of() {
    let site = Site::new("\n[[network]]\nid = \"000000\"");
    let config = site.load();
    assert_eq!(root_bytes(&config.networks[0].root), root_bytes(&RootKey::new(crate::auth::keys::FACTORY_NETWORK_KEY)));
    let place = format!("{}:3: network.id", site.path("fleet.toml"));
    assert_eq!(
        config.warnings,
        [format!(
            "{place}: network 0x000000 is the public factory network: everyone knows its key and can speak on it"
        )]
    );
    let own_key = Site::new("[[network]]\nid = 0\nkey-file = \"fleet.key\"").load();
    assert_eq!(root_bytes(&own_key.networks[0].root), root_of_hex(NETWORK_KEY));
    assert!(own_key.warnings.is_empty());
}

#[test]
fn without_credentials_only_loopback_addresses_serve_the_api() {
    let site = Site::new("http-listen = \"0.0.0.0:8080\"");
    assert_eq!(
        site.error(),
        "fleet.toml:1: http-listen: without credentials the API is served on a loopback address only, and 0.0.0.0:8080 \
         is none; name keys with --api-key-file or --jwt-key-file, or listen on 127.0.0.1 or [::1]"
    );
    let with_keys = Flags { api_key_file: Some(site.path("api.keys")), ..site.flags() };
    let config = Config::load(&with_keys, []).unwrap();
    assert_eq!(config.api_keys.iter().map(ApiKey::text).collect::<Vec<_>>(), ["ik_0123456789abcdef"]);
    for (address, allowed) in [
        ("127.9.9.9:1", true),
        ("[::1]:1", true),
        ("[::ffff:127.0.0.1]:1", true),
        ("[::]:1", false),
        ("10.0.0.1:1", false),
    ] {
        let flags = Flags { http_listen: Some(address.to_owned()), ..site.flags() };
        assert_eq!(Config::load(&flags, []).is_ok(), allowed, "{address}");
    }
}

#[test]
fn definitions_of_calls_are_those_of_the_file_over_the_built_in_ones() {
    let site = Site::new("rpc-definitions = \"rpc.json\"");
    site.write(
        "rpc.json",
        "{\"commands\": {\"9\": {\"name\": \"info\", \"request_params\": [], \"response_params\": []}}}",
    );
    let definitions = site.load().definitions;
    assert_eq!(
        [definitions.id("info"), definitions.id("reboot"), definitions.id("application_info")],
        [Some(9), Some(1), None]
    );
    site.write("rpc.json", "{\"commands\": {\"9\": {}}}");
    let error = site.error();
    assert!(error.starts_with("fleet.toml:1: rpc-definitions: "), "{error}");
    assert!(error.ends_with("column 21; name a file of the form of the device SDK's rpc.json"), "{error}");
}

#[test]
fn keys_of_tokens_are_credentials_and_need_an_audience() {
    let site = Site::new("http-listen = \"0.0.0.0:8080\"\njwt-key-file = \"jwt.json\"\njwt-audience = \"lastroute\"");
    let config = site.load();
    assert_eq!((config.tokens.map(|tokens| tokens.keys()), config.api_keys.len()), (Some(1), 0));
    let others = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(site.path("jwt.json"), others).unwrap();
    assert_eq!(site.load().warnings.len(), 1, "public keys are no secrets");
    assert_eq!(
        Site::new("jwt-key-file = \"jwt.json\"").error(),
        "fleet.toml:1: jwt-key-file: tokens need an audience, or one made for another service would open this one; \
         say with --jwt-audience what tokens for this gateway have as aud"
    );
    assert_eq!(
        Site::new("jwt-audience = \"lastroute\"").error(),
        "fleet.toml:1: jwt-audience: there are no keys of tokens; name them with --jwt-key-file, or leave it out"
    );
    assert_eq!(
        Site::new("jwt-key-file = \"jwt.json\"\njwt-audience = \"\"").error(),
        "fleet.toml:2: jwt-audience: the name is empty; name one, or leave the setting out"
    );
    site.write("jwt.json", &JWK.replace('}', ",\"d\":\"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\"}"));
    assert_eq!(
        site.error(),
        "fleet.toml:2: jwt-key-file: jwt.json: key 1 is private or symmetric; give its public half alone, or sign tokens \
         with an asymmetric key; give public keys as a JWK or a JWK set (RFC 7517) in JSON"
    );
}

#[test]
fn a_wrong_setting_leaves_no_trace() {
    let site = Site::new("waiters-total = 0");
    site.error();
    assert!(!Path::new(&site.path("data")).exists());
}

#[test]
fn no_secret_is_printed() {
    let site = Site::new(&format!(
        "cloud-key-file = \"cloud.key\"\napi-key-file = \"api.keys\"\n\
         [[network]]\nid = \"000a17\"\nkey-file = \"fleet.key\"\n\
         [[device]]\nid = \"d000000000001003\"\nroot-key = \"{DEVICE_ROOT}\"\n"
    ));
    let text = format!("{:?}", site.load());
    // As text, and as a list of decimal bytes.
    for secret in ["ik_", "0123456789", &NETWORK_KEY[..8], "92, 92", "17, 17", &DEVICE_ROOT[..8], "115, 29"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert!(text.contains("api_keys: [***]"), "{text}");
}

#[test]
fn the_example_is_valid_as_it_is_and_with_every_key_in_use() {
    let example = include_str!("../../lastroute.example.toml");
    assert!(Site::new(example).load().networks.is_empty());
    // A '#' with no space after it stands before a key.
    let used = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|first: char| first != ' ') => key.to_owned(),
        _ => line.to_owned(),
    };
    let in_use = example.lines().map(used).collect::<Vec<_>>().join("\n");
    for name in Name::ALL.into_iter().filter(|name| *name != Name::Config) {
        assert!(in_use.contains(&format!("\n{} = ", name.key())), "{}", name.key());
    }
    let config = Site::new(&in_use).load();
    assert_eq!((config.networks.len(), config.devices.len(), config.udp_listen.len()), (2, 3, 2));
    assert_eq!((config.udp_receive_buffer, config.warnings.len()), (64 << 20, 1));
}
