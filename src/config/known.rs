//! What a gateway of a configuration knows and how it decides, for tools beside it. Nothing is made and nothing listens;
//! settings that such a tool does not need may even be wrong.

use std::path::Path;

use super::file::{self, Listed, ListedKey};
use super::settings::Name;
use super::{ConfigError, Device, Network, check, secrets, values};
use crate::auth::keys::KeyPair;
use crate::id::DeviceId;
use crate::table::{RoutePolicy, TableConfig};

/// What a gateway knows. Prints no secret.
#[derive(Debug, Default)]
pub struct Known {
    /// Its networks.
    pub networks: Vec<Network>,
    /// Its devices whose root keys can be told.
    pub devices: Vec<Device>,
    /// All its devices, those too whose root keys follow from a key of the gateway that is not there.
    pub registered: Vec<DeviceId>,
    /// Settings of its table.
    pub table: TableConfig,
    /// What moves a route there.
    pub route_policy: RoutePolicy,
    /// Its own key pair, if it is there.
    pub cloud_keys: Option<KeyPair>,
    /// What the user should know, each a sentence.
    pub warnings: Vec<String>,
}

impl Known {
    /// Reads the configuration file `config`, and the gateway's private key: from `cloud_key_file`, else from where the
    /// configuration says, else from its data directory, if that has one.
    ///
    /// # Errors
    /// A file that cannot be read, or one of them says something wrong.
    pub fn read(config: Option<&Path>, cloud_key_file: Option<&Path>) -> Result<Self, ConfigError> {
        let file = match config {
            Some(path) => file::read(path).map_err(|fault| fault.at("--config"))??,
            None => file::Contents::default(),
        };
        let mut warnings = file.warnings;
        let given = cloud_key_file.map(|path| (path.to_owned(), "--cloud-key-file".to_owned()));
        let settings = file.settings;
        let named = || settings.path(Name::CloudKeyFile).map(|path| Some((path?, settings.place(Name::CloudKeyFile))));
        let cloud_keys = match given.map_or_else(named, |given| Ok(Some(given)))? {
            Some((path, place)) => {
                let key = secrets::key_file(&path, &mut warnings).map_err(|fault| fault.at(place))?;
                Some(KeyPair::from_private(*key))
            }
            None if config.is_some() => {
                let data_dir = check::data_dir(&settings)?;
                secrets::kept_cloud_key(&data_dir, &mut warnings)
                    .map_err(|fault| fault.at(settings.place(Name::DataDir)))?
            }
            None => None,
        };
        let table = check::table(&settings)?;
        let route_policy = settings.value(Name::RoutePolicy, values::route_policy)?.unwrap_or_default();
        let networks = file.networks.into_iter().map(|listed| listed.network).collect();
        let registered = file.devices.iter().map(|listed| listed.id).collect();
        let devices = devices(file.devices, cloud_keys.as_ref(), &mut warnings)?;
        Ok(Self { networks, devices, registered, table, route_policy, cloud_keys, warnings })
    }
}

/// The devices whose root keys can be told: without the gateway's key those listed by public key are left out.
fn devices(
    listed: Vec<Listed>,
    cloud_keys: Option<&KeyPair>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Device>, ConfigError> {
    let (mut devices, mut left_out) = (Vec::with_capacity(listed.len()), 0);
    for listed in listed {
        match (cloud_keys, listed) {
            (Some(keys), listed) => devices.push(check::device(&listed, keys)?),
            (None, Listed { id, key: ListedKey::Root(key), .. }) => devices.push(Device { id, key }),
            (None, _) => left_out += 1,
        }
    }
    if left_out > 0 {
        warnings.push(format!(
            "devices listed by public key, whose packets cannot be opened without the gateway's private key: {left_out}; \
             name it with --cloud-key-file"
        ));
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use std::fs::write;

    use super::*;
    use crate::table::Unregistered;

    const KEY: &str = "1111111111111111111111111111111111111111111111111111111111111151";
    const DEVICE: &str =
        "[[device]]\nid = \"d000000000001001\"\npublic-key = \"shBuBAI/STG3byHCFfI7QoT+SMinpzd6+gdyB0EJzFw=\"";

    #[test]
    fn a_configuration_is_read_without_making_anything() {
        let directory = tempfile::tempdir().unwrap();
        let (config, key) = (directory.path().join("fleet.toml"), directory.path().join("cloud.key"));
        let text = format!("unregistered = \"deny\"\nroute-policy = \"strict\"\ndata-dir = \"data\"\n{DEVICE}");
        write(&config, text).unwrap();
        write(&key, KEY).unwrap();

        let without = Known::read(Some(&config), None).unwrap();
        assert_eq!((without.table.unregistered, without.route_policy), (Unregistered::Deny, RoutePolicy::Strict));
        assert!(without.devices.is_empty() && without.cloud_keys.is_none());
        assert_eq!(without.registered, [DeviceId(0xd000_0000_0000_1001)]);
        assert!(without.warnings[0].ends_with(": 1; name it with --cloud-key-file"), "{:?}", without.warnings);
        assert!(!directory.path().join("data").exists());

        let with = Known::read(Some(&config), Some(&key)).unwrap();
        assert_eq!(with.devices[0].key.key_id.map(|id| id.get()), Some(6_461_874));

        std::fs::create_dir(directory.path().join("data")).unwrap();
        std::fs::copy(&key, directory.path().join("data/cloud-key")).unwrap();
        assert_eq!(Known::read(Some(&config), None).unwrap().devices.len(), 1, "the key of the data directory");
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_flag() {
        let missing = Path::new("missing");
        let error = |config, key| Known::read(config, key).unwrap_err().to_string();
        let said = ": cannot read missing: No such file or directory; create it or correct the path";
        assert_eq!(error(Some(missing), None), format!("--config{said}"));
        assert_eq!(error(None, Some(missing)), format!("--cloud-key-file{said}"));
        assert!(Known::read(None, None).unwrap().networks.is_empty());
    }
}
