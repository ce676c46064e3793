//! The configuration file: TOML text to settings, networks and devices, each with its line. Unknown keys are errors.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Spanned, Value};
use zeroize::Zeroizing;

use super::secrets::{Secret, inline_key, key_file, unreadable, warn_if_exposed};
use super::settings::{Name, Origin, Settings, beside};
use super::values::{Fault, key_id, key_id_number, not_a_key_id};
use super::{ConfigError, Network};
use crate::auth::keys::{DeviceKey, FACTORY_NETWORK, FACTORY_NETWORK_KEY, RootKey};
use crate::id::{DeviceId, KeyId};

/// What a configuration file says; without one, nothing.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) settings: Settings,
    pub(super) networks: Vec<Network>,
    pub(super) devices: Vec<Listed>,
    pub(super) warnings: Vec<String>,
}

/// A device as it is listed: what its root key comes from.
pub(super) struct Listed {
    pub(super) id: DeviceId,
    /// How errors name its key.
    pub(super) place: String,
    pub(super) key: ListedKey,
}

pub(super) enum ListedKey {
    /// Its X25519 public key: the root key follows from the gateway's private one.
    Public([u8; 32]),
    Root(DeviceKey),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    data_dir: Option<Spanned<Value>>,
    cloud_key_file: Option<Spanned<Value>>,
    api_key_file: Option<Spanned<Value>>,
    udp_listen: Option<Spanned<Value>>,
    udp_receive_buffer: Option<Spanned<Value>>,
    http_listen: Option<Spanned<Value>>,
    metrics_listen: Option<Spanned<Value>>,
    unregistered: Option<Spanned<Value>>,
    unregistered_limit: Option<Spanned<Value>>,
    route_policy: Option<Spanned<Value>>,
    waiters_per_device: Option<Spanned<Value>>,
    waiters_per_credential: Option<Spanned<Value>>,
    waiters_total: Option<Spanned<Value>>,
    log: Option<Spanned<Value>>,
    #[serde(default)]
    network: Vec<NetworkEntry>,
    #[serde(default)]
    device: Vec<DeviceEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NetworkEntry {
    id: Spanned<Value>,
    name: Option<String>,
    key_file: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct DeviceEntry {
    id: Spanned<String>,
    public_key: Option<Spanned<String>>,
    root_key: Option<Spanned<String>>,
    root_key_file: Option<Spanned<String>>,
    key_id: Option<Spanned<Value>>,
}

/// Reads a configuration file, and the key files it names.
///
/// The outer error says that the file cannot be read: whoever named the file is at fault.
pub(super) fn read(path: &Path) -> Result<Result<Contents, ConfigError>, Fault> {
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?);
    let line_ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
    Ok(Reader { path, text: &text, line_ends, warnings: Vec::new() }.contents())
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    /// Where each line ends, in bytes.
    line_ends: Vec<usize>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn contents(mut self) -> Result<Contents, ConfigError> {
        let mut document: Document = toml::from_str(self.text).map_err(|error| self.misshapen(&error))?;
        let settings = self.settings(&mut document)?;
        let networks = self.networks(document.network)?;
        if document.device.iter().any(|entry| entry.root_key.is_some()) {
            warn_if_exposed(self.path, &mut self.warnings);
        }
        let devices = self.devices(document.device)?;
        Ok(Contents { settings, networks, devices, warnings: self.warnings })
    }

    fn settings(&self, document: &mut Document) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        for (name, value) in [
            (Name::DataDir, document.data_dir.take()),
            (Name::CloudKeyFile, document.cloud_key_file.take()),
            (Name::ApiKeyFile, document.api_key_file.take()),
            (Name::UdpListen, document.udp_listen.take()),
            (Name::UdpReceiveBuffer, document.udp_receive_buffer.take()),
            (Name::HttpListen, document.http_listen.take()),
            (Name::MetricsListen, document.metrics_listen.take()),
            (Name::Unregistered, document.unregistered.take()),
            (Name::UnregisteredLimit, document.unregistered_limit.take()),
            (Name::RoutePolicy, document.route_policy.take()),
            (Name::WaitersPerDevice, document.waiters_per_device.take()),
            (Name::WaitersPerCredential, document.waiters_per_credential.take()),
            (Name::WaitersTotal, document.waiters_total.take()),
            (Name::Log, document.log.take()),
        ] {
            let Some(value) = value else { continue };
            let span = value.span();
            let texts = texts(name, value.into_inner()).map_err(|fault| fault.at(self.place(&span, name.key())))?;
            settings.set(name, texts, Origin::File { path: self.path.to_owned(), line: self.line(&span) });
        }
        Ok(settings)
    }

    fn networks(&mut self, entries: Vec<NetworkEntry>) -> Result<Vec<Network>, ConfigError> {
        let mut seen = HashMap::new();
        let mut networks = Vec::with_capacity(entries.len());
        for entry in entries {
            let span = entry.id.span();
            let place = self.place(&span, "network.id");
            let id = key_id_value(entry.id.into_inner()).map_err(|fault| fault.at(&place))?;
            self.first(&mut seen, id, &span, || format!("network {id}")).map_err(|fault| fault.at(&place))?;
            let root = match entry.key_file {
                Some(key_file) => self.key_file(&key_file, "network.key-file")?,
                None if id == FACTORY_NETWORK => {
                    self.warnings.push(format!(
                        "{place}: network {id} is the public factory network: everyone knows its key and can speak on it"
                    ));
                    Zeroizing::new(FACTORY_NETWORK_KEY)
                }
                None => {
                    let fault = Fault::new(format!("network {id} has no key"), "add key-file");
                    return Err(fault.at(&place));
                }
            };
            let name = entry.name.unwrap_or_else(|| id.to_string());
            networks.push(Network { id, name, root: RootKey::new(*root) });
        }
        Ok(networks)
    }

    fn devices(&mut self, entries: Vec<DeviceEntry>) -> Result<Vec<Listed>, ConfigError> {
        let mut seen = HashMap::with_capacity(entries.len());
        let mut devices = Vec::with_capacity(entries.len());
        for entry in entries {
            let span = entry.id.span();
            let place = self.place(&span, "device.id");
            let id: DeviceId = entry
                .id
                .get_ref()
                .parse()
                .map_err(|error: crate::id::IdError| Fault::new(error.to_string(), "correct it").at(&place))?;
            self.first(&mut seen, id, &span, || format!("device {id}")).map_err(|fault| fault.at(&place))?;
            devices.push(self.device(id, place, entry)?);
        }
        Ok(devices)
    }

    fn device(&mut self, id: DeviceId, place: String, entry: DeviceEntry) -> Result<Listed, ConfigError> {
        let key_id = match entry.key_id {
            Some(key_id) => {
                let place = self.place(&key_id.span(), "device.key-id");
                if entry.public_key.is_some() {
                    let fault = Fault::new("the key id follows from public-key", "remove it");
                    return Err(fault.at(place));
                }
                Some(key_id_value(key_id.into_inner()).map_err(|fault| fault.at(place))?)
            }
            None => None,
        };
        let (place, key) = match (entry.public_key, entry.root_key, entry.root_key_file) {
            (Some(text), None, None) => {
                let public = *self.inline_key(&text, "device.public-key")?;
                (self.place(&text.span(), "device.public-key"), ListedKey::Public(public))
            }
            (None, Some(text), None) => {
                let root = RootKey::new(*self.inline_key(&text, "device.root-key")?);
                drop(Zeroizing::new(text.into_inner()));
                (place, ListedKey::Root(DeviceKey { key_id, root }))
            }
            (None, None, Some(path)) => {
                let root = RootKey::new(*self.key_file(&path, "device.root-key-file")?);
                (place, ListedKey::Root(DeviceKey { key_id, root }))
            }
            keys => {
                let count = if matches!(keys, (None, None, None)) { "no key" } else { "more than one key" };
                let remedy = "give exactly one of public-key, root-key and root-key-file";
                return Err(Fault::new(format!("device {id} has {count}"), remedy).at(place));
            }
        };
        Ok(Listed { id, place, key })
    }

    fn key_file(&mut self, path: &Spanned<String>, key: &str) -> Result<Secret, ConfigError> {
        key_file(&self.resolved(path.get_ref()), &mut self.warnings)
            .map_err(|fault| fault.at(self.place(&path.span(), key)))
    }

    fn inline_key(&self, text: &Spanned<String>, key: &str) -> Result<Secret, ConfigError> {
        inline_key(text.get_ref()).map_err(|fault| fault.at(self.place(&text.span(), key)))
    }

    /// Refuses what was seen before.
    fn first<T: Eq + Hash>(
        &self,
        seen: &mut HashMap<T, Range<usize>>,
        id: T,
        span: &Range<usize>,
        name: impl Fn() -> String,
    ) -> Result<(), Fault> {
        match seen.insert(id, span.clone()) {
            None => Ok(()),
            Some(before) => {
                let problem = format!("{} is already in line {}", name(), self.line(&before));
                Err(Fault::new(problem, "remove one of them"))
            }
        }
    }

    /// The error of a file that is not TOML, or not of the right shape. The message quotes keys and types, but only such
    /// values as are of a wrong type, which a secret in its place never is.
    fn misshapen(&self, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or(0..0);
        let message = error.message().split('\n').collect::<Vec<_>>().join(", ");
        let place = match self.key_before(span.start) {
            Some(key) => self.place(&span, key),
            None => format!("{}:{}", self.path.display(), self.line(&span)),
        };
        Fault::new(message, "correct the file").at(place)
    }

    /// The key of the value that begins at `start`, if it is alone on its line.
    fn key_before(&self, start: usize) -> Option<&str> {
        let before = self.text.get(..start)?;
        let line = before.rsplit('\n').next()?;
        let key = line.trim_end().strip_suffix('=')?.trim();
        key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-').then_some(key)
    }

    fn place(&self, span: &Range<usize>, key: &str) -> String {
        format!("{}:{}: {key}", self.path.display(), self.line(span))
    }

    fn line(&self, span: &Range<usize>) -> usize {
        self.line_ends.partition_point(|end| *end < span.start) + 1
    }

    fn resolved(&self, path: &str) -> PathBuf {
        beside(self.path, path)
    }
}

/// The texts of a value: what a flag or a variable would say.
fn texts(name: Name, value: Value) -> Result<Vec<String>, Fault> {
    let counts = [Name::UnregisteredLimit, Name::WaitersPerDevice, Name::WaitersPerCredential, Name::WaitersTotal];
    if counts.contains(&name) {
        return match value {
            Value::Integer(number) => Ok(vec![number.to_string()]),
            _ => Err(Fault::new("not a number", "write digits without quotes")),
        };
    }
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(values) if name == Name::UdpListen && !values.is_empty() => values.into_iter().map(text).collect(),
        _ if name == Name::UdpListen => Err(Fault::new(
            "neither an address nor a list of some",
            r#"write for example ["0.0.0.0:3001", "[::1]:3001"]"#,
        )),
        _ => Err(Fault::new("not a text", "write it in quotes")),
    }
}

fn text(value: Value) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(Fault::new("not a list of texts", "write each address in quotes")),
    }
}

fn key_id_value(value: Value) -> Result<KeyId, Fault> {
    match value {
        Value::String(text) => key_id(&text),
        Value::Integer(number) => key_id_number(number),
        _ => Err(not_a_key_id()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "731dac97b8878600acde76e23af10e38f022adf37db5d7dc3ad557295f0ab254";
    const DEVICE: &str = "[[device]]\nid = \"d000000000001003\"\n";
    const NETWORK: &str = "[[network]]\nid = \"000a17\"\nkey-file = \"fleet.key\"\n";

    /// What is wrong with this file, beside a good `fleet.key`; paths are shortened to the names of the files.
    fn error(toml: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.toml");
        write(&path, toml).unwrap();
        write(directory.path().join("fleet.key"), KEY).unwrap();
        let Err(error) = read(&path).unwrap() else { panic!("no error in {toml}") };
        error.to_string().replace(&format!("{}/", directory.path().display()), "")
    }

    #[test]
    fn a_value_of_another_type_is_an_error_with_its_line_and_key() {
        for (toml, expected) in [
            ("log = true", "fleet.toml:1: log: not a text; write it in quotes"),
            ("data-dir = [\"a\"]", "fleet.toml:1: data-dir: not a text; write it in quotes"),
            ("\n\nwaiters-total = \"9\"", "fleet.toml:3: waiters-total: not a number; write digits without quotes"),
            ("udp-listen = [3001]", "fleet.toml:1: udp-listen: not a list of texts; write each address in quotes"),
        ] {
            assert_eq!(error(toml), expected);
        }
        for toml in ["udp-listen = 3001", "udp-listen = []"] {
            assert_eq!(
                error(toml),
                "fleet.toml:1: udp-listen: neither an address nor a list of some; \
                 write for example [\"0.0.0.0:3001\", \"[::1]:3001\"]"
            );
        }
    }

    #[test]
    fn a_network_without_id_or_key_or_named_twice_is_an_error() {
        for id in ["\"a17\"", "0x1000000", "-1", "1.5"] {
            assert_eq!(
                error(&format!("[[network]]\nid = {id}\nkey-file = \"fleet.key\"")),
                "fleet.toml:2: network.id: not a 24-bit id; \
                 write six hex digits in quotes, for example \"000a17\", or a number to 0xffffff"
            );
        }
        assert_eq!(
            error("[[network]]\nid = \"000a17\""),
            "fleet.toml:2: network.id: network 0x000a17 has no key; add key-file"
        );
        assert_eq!(
            error("[[network]]\nid = \"000a17\"\nkey-file = \"missing.key\""),
            "fleet.toml:3: network.key-file: cannot read missing.key: No such file or directory; \
             create it or correct the path"
        );
        assert_eq!(
            error(&format!("{NETWORK}[[network]]\nid = 0xa17\nkey-file = \"fleet.key\"")),
            "fleet.toml:5: network.id: network 0x000a17 is already in line 2; remove one of them"
        );
    }

    #[test]
    fn a_device_needs_an_id_of_its_own_and_exactly_one_key() {
        let one_key = "give exactly one of public-key, root-key and root-key-file";
        for (toml, expected) in [
            (
                "[[device]]\nid = \"1003\"\n".to_owned(),
                "2: device.id: a device id is 16 hex digits, for example d291d4d66bf0a955; correct it".to_owned(),
            ),
            (
                format!("{DEVICE}root-key = \"{KEY}\"\n{DEVICE}root-key = \"{KEY}\""),
                "5: device.id: device d000000000001003 is already in line 2; remove one of them".to_owned(),
            ),
            (DEVICE.to_owned(), format!("2: device.id: device d000000000001003 has no key; {one_key}")),
            (
                format!("{DEVICE}root-key-file = \"fleet.key\"\npublic-key = \"{KEY}\""),
                format!("2: device.id: device d000000000001003 has more than one key; {one_key}"),
            ),
            (
                format!("{DEVICE}public-key = \"{KEY}\"\nkey-id = \"62991a\""),
                "4: device.key-id: the key id follows from public-key; remove it".to_owned(),
            ),
            (
                format!("{DEVICE}root-key = \"secret\""),
                "3: device.root-key: not a key: it has 6 bytes; \
                 give 32 bytes as base64 (44 characters) or hex (64 digits)"
                    .to_owned(),
            ),
        ] {
            assert_eq!(error(&toml), format!("fleet.toml:{expected}"), "{toml}");
        }
    }

    #[test]
    fn an_error_of_shape_names_the_line_and_says_what_was_expected() {
        let unknown = error("log = \"info\"\nudp-listne = \"x\"");
        assert!(
            unknown.starts_with("fleet.toml:2: unknown field `udp-listne`, expected one of `data-dir`, "),
            "{unknown}"
        );
        assert_eq!(
            error("[[network]]\nid = \"000a17\"\nkey = \"x\""),
            "fleet.toml:3: unknown field `key`, expected one of `id`, `name`, `key-file`; correct the file"
        );
        assert_eq!(error("\n[[network]]\nname = \"fleet\""), "fleet.toml:2: missing field `id`; correct the file");
        assert_eq!(
            error(&format!("{DEVICE}root-key = 5")),
            "fleet.toml:3: root-key: invalid type: integer `5`, expected a string; correct the file"
        );
        for (toml, line) in
            [("log = \"in", 1), ("log = \"info\"\n\nlog = \"warn\"", 3), ("\n[[network]\n", 2), ("\n= 1", 2)]
        {
            let error = error(toml);
            assert!(error.starts_with(&format!("fleet.toml:{line}: ")), "{toml:?}: {error}");
            assert!(error.ends_with("; correct the file") && error.lines().count() == 1, "{toml:?}: {error}");
        }
    }

    #[test]
    fn no_error_of_shape_quotes_a_key() {
        for toml in [
            format!("{DEVICE}root-key = [\"{KEY}\"]"),
            format!("{DEVICE}root-key = {{ hex = \"{KEY}\" }}"),
            format!("{DEVICE}root-key = \"{KEY}"),
            format!("{DEVICE}root-key = {KEY}"),
            format!("[[device]]\nid = 5\nroot-key = \"{KEY}\""),
            format!("device = [{{ root-key = \"{KEY}\", id = 5 }}]"),
        ] {
            let error = error(&toml);
            assert!(!error.contains(&KEY[..8]), "{error}");
        }
    }

    #[test]
    fn a_file_with_a_root_key_in_it_is_a_file_of_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.toml");
        write(&path, format!("{DEVICE}root-key = \"{KEY}\"")).unwrap();
        for (mode, warnings) in [(0o600, 0), (0o644, 1)] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let contents = read(&path).unwrap().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(contents.warnings.len(), warnings, "{mode:o}");
        }
    }
}
