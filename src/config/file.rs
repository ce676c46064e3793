//! The configuration file: what its keys say of settings, networks and devices, each with its line. Unknown keys are
//! errors.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use toml::de::DeValue;
use zeroize::Zeroizing;

use super::document::{Document, Entry, Table, Text, integer, not_a_text};
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
    pub(super) networks: Vec<ListedNetwork>,
    pub(super) devices: Vec<Listed>,
    pub(super) warnings: Vec<String>,
}

/// A network, where it is listed, and the file of its key.
pub(super) struct ListedNetwork {
    pub(super) network: Network,
    pub(super) line: usize,
    /// `None`: the public key of the factory network.
    pub(super) key_file: Option<PathBuf>,
}

/// A device as it is listed: what its root key comes from.
pub(super) struct Listed {
    pub(super) id: DeviceId,
    pub(super) line: usize,
    /// The key that gives its root key, without the key itself.
    pub(super) shown: String,
    /// How errors name its key.
    pub(super) place: String,
    pub(super) key: ListedKey,
}

/// How a root key that stands in the file itself is shown.
const ROOT_KEY: &str = "root-key ***";

pub(super) enum ListedKey {
    /// Its X25519 public key: the root key follows from the gateway's private one.
    Public([u8; 32]),
    Root(DeviceKey),
}

const NETWORK_KEYS: [&str; 3] = ["id", "name", "key-file"];
const DEVICE_KEYS: [&str; 5] = ["id", "public-key", "root-key", "root-key-file", "key-id"];

/// Reads a configuration file, and the key files it names.
///
/// The outer error says that the file cannot be read: whoever named the file is at fault.
pub(super) fn read(path: &Path) -> Result<Result<Contents, ConfigError>, Fault> {
    let bytes = Zeroizing::new(std::fs::read(path).map_err(|error| unreadable(path, &error))?);
    Ok(contents(path, &bytes))
}

fn contents(path: &Path, bytes: &[u8]) -> Result<Contents, ConfigError> {
    let document = Document::new(path, bytes)?;
    let names = Name::ALL.into_iter().filter(|name| *name != Name::Config);
    let keys: Vec<_> = names.clone().map(Name::key).chain(["network", "device"]).collect();
    let mut root = document.root(&[&keys[..], &NETWORK_KEYS, &DEVICE_KEYS].concat())?;
    root.knows(&keys)?;
    let mut settings = Settings::default();
    for name in names {
        let Some(entry) = root.take(name.key()) else { continue };
        let origin = Origin::File { path: path.to_owned(), line: entry.line };
        settings.set(name, texts(name, entry.value).map_err(|fault| fault.at(entry.place))?, origin);
    }
    let mut reader = Reader { path, warnings: Vec::new() };
    let networks = reader.networks(root.tables("network")?)?;
    let devices = reader.devices(root.tables("device")?)?;
    if devices.iter().any(|device| device.shown == ROOT_KEY) {
        warn_if_exposed(path, &mut reader.warnings);
    }
    Ok(Contents { settings, networks, devices, warnings: reader.warnings })
}

struct Reader<'a> {
    path: &'a Path,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn networks(&mut self, tables: Vec<Table<'_>>) -> Result<Vec<ListedNetwork>, ConfigError> {
        let mut seen = HashMap::new();
        tables.into_iter().map(|table| self.network(table, &mut seen)).collect()
    }

    fn network(&mut self, mut table: Table<'_>, seen: &mut Seen<KeyId>) -> Result<ListedNetwork, ConfigError> {
        table.knows(&NETWORK_KEYS)?;
        let Entry { line, place, value } = table.need("id", "\"000a17\"")?;
        let id = key_id_value(&value).map_err(|fault| fault.at(&place))?;
        first(seen, id, line, || format!("network {id}")).map_err(|fault| fault.at(&place))?;
        let name = table.take("name").map(Entry::text).transpose()?.map(|name| name.text.to_string());
        let (root, key_file) = match table.take("key-file").map(Entry::text).transpose()? {
            Some(text) => {
                let (root, path) = self.key_file(&text)?;
                (root, Some(path))
            }
            None if id == FACTORY_NETWORK => {
                self.warnings.push(format!(
                    "{place}: network {id} is the public factory network: everyone knows its key and can speak on it"
                ));
                (Zeroizing::new(FACTORY_NETWORK_KEY), None)
            }
            None => {
                let fault = Fault::new(format!("network {id} has no key"), "add key-file");
                return Err(fault.at(place));
            }
        };
        let network = Network { id, name: name.unwrap_or_else(|| id.to_string()), root: RootKey::new(*root) };
        Ok(ListedNetwork { network, line, key_file })
    }

    fn devices(&mut self, tables: Vec<Table<'_>>) -> Result<Vec<Listed>, ConfigError> {
        let mut seen = HashMap::with_capacity(tables.len());
        tables.into_iter().map(|table| self.device(table, &mut seen)).collect()
    }

    fn device(&mut self, mut table: Table<'_>, seen: &mut Seen<DeviceId>) -> Result<Listed, ConfigError> {
        table.knows(&DEVICE_KEYS)?;
        let Text { line, place, text } = table.need("id", "\"d000000000001003\"")?.text()?;
        let id: DeviceId =
            text.parse().map_err(|error: crate::id::IdError| Fault::new(error.to_string(), "correct it").at(&place))?;
        first(seen, id, line, || format!("device {id}")).map_err(|fault| fault.at(&place))?;
        let mut text = |key| table.take(key).map(Entry::text).transpose();
        let keys = (text("public-key")?, text("root-key")?, text("root-key-file")?);
        let key_id = match table.take("key-id") {
            Some(entry) if keys.0.is_some() => {
                let fault = Fault::new("the key id follows from public-key", "remove it");
                return Err(fault.at(entry.place));
            }
            Some(entry) => Some(key_id_value(&entry.value).map_err(|fault| fault.at(entry.place))?),
            None => None,
        };
        let (place, key, shown) = match keys {
            (Some(text), None, None) => {
                let public = *inline(&text)?;
                (text.place, ListedKey::Public(public), "public-key".to_owned())
            }
            (None, Some(text), None) => {
                let root = RootKey::new(*inline(&text)?);
                (place, ListedKey::Root(DeviceKey { key_id, root }), ROOT_KEY.to_owned())
            }
            (None, None, Some(text)) => {
                let (root, path) = self.key_file(&text)?;
                let key = ListedKey::Root(DeviceKey { key_id, root: RootKey::new(*root) });
                (place, key, format!("root-key-file {}", path.display()))
            }
            keys => {
                let count = if matches!(keys, (None, None, None)) { "no key" } else { "more than one key" };
                let remedy = "give exactly one of public-key, root-key and root-key-file";
                return Err(Fault::new(format!("device {id} has {count}"), remedy).at(place));
            }
        };
        Ok(Listed { id, line, place, key, shown })
    }

    /// The key in a file, and the path of that file.
    fn key_file(&mut self, name: &Text) -> Result<(Secret, PathBuf), ConfigError> {
        let path = beside(self.path, &name.text);
        let key = key_file(&path, &mut self.warnings).map_err(|fault| fault.at(&name.place))?;
        Ok((key, path))
    }
}

fn inline(text: &Text) -> Result<Secret, ConfigError> {
    inline_key(&text.text).map_err(|fault| fault.at(&text.place))
}

/// In which line each id was first.
type Seen<T> = HashMap<T, usize>;

/// Refuses what was seen before.
fn first<T: Eq + Hash>(seen: &mut Seen<T>, id: T, line: usize, name: impl Fn() -> String) -> Result<(), Fault> {
    match seen.insert(id, line) {
        None => Ok(()),
        Some(before) => Err(Fault::new(format!("{} is already in line {before}", name()), "remove one of them")),
    }
}

/// The texts of a value: what a flag or a variable would say.
fn texts(name: Name, value: DeValue<'_>) -> Result<Vec<String>, Fault> {
    let counts = [
        Name::UdpThreads,
        Name::UnregisteredLimit,
        Name::WaitersPerDevice,
        Name::WaitersPerCredential,
        Name::WaitersTotal,
    ];
    if counts.contains(&name) {
        let number = integer(&value).map(|number| vec![number.to_string()]);
        return number.ok_or_else(|| Fault::new("not a number", "write digits without quotes"));
    }
    match value {
        DeValue::String(text) => Ok(vec![text.into_owned()]),
        DeValue::Array(values) if name == Name::UdpListen && !values.is_empty() => {
            values.into_iter().map(|value| text(value.into_inner())).collect()
        }
        _ if name == Name::UdpListen => Err(Fault::new(
            "neither an address nor a list of some",
            r#"write for example ["0.0.0.0:3001", "[::1]:3001"]"#,
        )),
        _ => Err(not_a_text()),
    }
}

fn text(value: DeValue<'_>) -> Result<String, Fault> {
    match value {
        DeValue::String(text) => Ok(text.into_owned()),
        _ => Err(Fault::new("not a list of texts", "write each address in quotes")),
    }
}

fn key_id_value(value: &DeValue<'_>) -> Result<KeyId, Fault> {
    match value {
        DeValue::String(text) => key_id(text),
        number => integer(number).ok_or_else(not_a_key_id).and_then(key_id_number),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "731dac97b8878600acde76e23af10e38f022adf37db5d7dc3ad557295f0ab254";
    const DEVICE: &str = "[[device]]\nid = \"d000000000001003\"\n";

    /// What is wrong with this file.
    fn error(toml: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.toml");
        write(&path, toml).unwrap();
        let Err(error) = read(&path).unwrap() else { panic!("no error in {toml}") };
        error.to_string()
    }

    #[test]
    fn no_error_of_shape_quotes_a_key() {
        for toml in [
            format!("{DEVICE}root-key = [\"{KEY}\"]"),
            format!("{DEVICE}root-key = {{ hex = \"{KEY}\" }}"),
            format!("{DEVICE}root-key = \"{KEY}"),
            format!("{DEVICE}root-key = {KEY}"),
            format!("[[device]]\nid = 5\nroot-key = \"{KEY}\""),
            format!("{DEVICE}{KEY} = 1"),
            format!("{KEY} = 1"),
            format!("{KEY} = "),
            format!("{DEVICE}root-key = \"\"\"\n{KEY}="),
            format!("device = [{{ root-key = \"{KEY}\", id = 5 }}]"),
            format!("[[network]]\nid = 5\nkey-file = \"{KEY}\""),
            format!("{DEVICE}root-key-file = \"{KEY}\""),
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
