//! The `decode` command: what the gateway in question knows, from its configuration and from keys of their own flags.

use super::{Failure, start_logging, warn};
use crate::auth::keys::DeviceKey;
use crate::clock::Clock;
use crate::config::{self, ConfigError, Known};
use crate::decode::{self, DecodeArgs, Key, Knowledge};

pub(super) fn run(arguments: &DecodeArgs) -> Result<(), Failure> {
    start_logging("warn");
    let knowledge = knowledge(arguments).map_err(Failure::configuration)?;
    let now = Clock::default().now();
    let mut warnings = Vec::new();
    let ran = decode::run(arguments, knowledge, now, std::io::stdin(), std::io::stdout().lock(), &mut warnings);
    warn(&warnings);
    Ok(ran?)
}

fn knowledge(arguments: &DecodeArgs) -> Result<Knowledge, ConfigError> {
    let known = Known::read(arguments.config.as_deref(), arguments.cloud_key_file.as_deref())?;
    let mut warnings = known.warnings;
    let mut keys: Vec<Key> = known.networks.into_iter().map(|network| Key::Network(network.id, network.root)).collect();
    keys.extend(known.devices.into_iter().map(|device| Key::Device(device.id, device.key)));
    for file in &arguments.network_key {
        keys.push(Key::Network(file.id, config::key_file(&file.path, "--network-key", &mut warnings)?));
    }
    for file in &arguments.device_key {
        let root = config::key_file(&file.path, "--device-key", &mut warnings)?;
        keys.push(Key::Device(file.id, DeviceKey { key_id: None, root }));
    }
    warn(&warnings);
    let (registered, table, policy, cloud) = (known.registered, known.table, known.route_policy, known.cloud_keys);
    Ok(Knowledge { keys, refuses_factory: arguments.config.is_some(), registered, table, policy, cloud })
}
