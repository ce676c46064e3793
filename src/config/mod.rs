//! Configuration: file, environment and flags (low) become one checked [`Config`] (high), before any socket opens.
//!
//! `settings.rs` lays the sources over each other, `flags.rs` and `file.rs` are sources (`document.rs` knows where things
//! stand in the file), `values.rs` says what a text means, `secrets.rs` reads and makes what is secret, `check.rs` says
//! what settings mean together, `report.rs` tells the outcome and `probe.rs` what would be made, `known.rs` reads what
//! tools need. Every error is one line: where, what is wrong, what to do.

mod check;
mod document;
mod file;
mod flags;
mod known;
mod probe;
mod report;
mod secrets;
mod settings;
mod values;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::WAITS_PER_CREDENTIAL;
use crate::api::tokens::TokenRules;
use crate::auth::keys::{DeviceKey, KeyPair, RootKey};
use crate::clock::{Clock, ClockStep, STANDING_STILL};
use crate::definitions::Definitions;
use crate::id::{DeviceId, KeyId};
use crate::quote::one_line;
use crate::registry::device_keys::KeyChange;
use crate::store;
use crate::table::{RoutePolicy, TableConfig};
use crate::waiters::WaitersConfig;
use check::Kept;
use file::{Listed, ListedNetwork};
pub use flags::Flags;
pub use known::Known;
pub use report::{Report, ReportedDevice, ReportedNetwork, Setting};
pub use secrets::ApiKey;
use settings::{Name, Settings};
use values::Fault;

/// Everything `serve` needs to know, checked. Prints no secret.
#[derive(Debug)]
pub struct Config {
    /// Directory of everything the gateway keeps. It exists.
    pub data_dir: PathBuf,
    /// Whether routes that are kept there are set aside if they cannot be read. Said with a flag, for one start.
    pub set_aside_routes: bool,
    /// Time from one write of what changed to the next.
    pub checkpoint_interval: Duration,
    /// Where datagrams are received; at least one address, none twice. Port 0: any free one.
    pub udp_listen: Vec<SocketAddr>,
    /// Receive buffer to ask for at each UDP socket, in bytes. Systems may give less.
    pub udp_receive_buffer: usize,
    /// Ingest threads of each address that is not passed, 1 to 16.
    pub udp_threads: usize,
    /// Where the API is served. A loopback address unless there are API keys or keys of tokens.
    pub http_listen: SocketAddr,
    /// Where `/metrics` is served without credentials. `None`: only as part of the API.
    pub metrics_listen: Option<SocketAddr>,
    /// Settings of the route table.
    pub table: TableConfig,
    /// What may move a route.
    pub route_policy: RoutePolicy,
    /// What becomes of a key that takes the place of another, or comes from other hardware.
    pub key_change: KeyChange,
    /// How long messages to devices are kept.
    pub message_retention: Duration,
    /// Bounds of waiting.
    pub waiters: WaitersConfig,
    /// How many may wait under one API key or subject of tokens at once; without either, in this process.
    pub waiters_per_credential: usize,
    /// Networks whose packets are opened; no id twice.
    pub networks: Vec<Network>,
    /// Devices whose device key is known; no id twice.
    pub devices: Vec<Device>,
    /// The gateway's own key pair.
    pub cloud_keys: KeyPair,
    /// Keys of the API's administrators. Empty, and no tokens: everyone who reaches it may use it.
    pub api_keys: Vec<ApiKey>,
    /// Which tokens of the API's clients are believed. `None`: none.
    pub tokens: Option<TokenRules>,
    /// The calls whose names and fields are known.
    pub definitions: Definitions,
    /// What becomes of a step of the system's clock.
    pub clock_step: ClockStep,
    /// The gateway's clock, which has begun and follows the system's as [`Self::clock_step`] says.
    pub clock: Clock,
    /// What to log, in the language of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// What the operator should know, each a sentence for the log.
    pub warnings: Vec<String>,
}

/// How long messages are kept by default: long enough to look into what a customer asks about.
const MESSAGE_RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// A network and its root key.
#[derive(Clone, Debug)]
pub struct Network {
    /// The network id.
    pub id: KeyId,
    /// Its name in the log: by default the id.
    pub name: String,
    /// The root key of all its members.
    pub root: RootKey,
}

/// A device and its root key.
#[derive(Clone, Debug)]
pub struct Device {
    /// The device.
    pub id: DeviceId,
    /// Its root key.
    pub key: DeviceKey,
}

/// A setting that cannot be used: where it was given, what is wrong, and what to do. One line, without secrets.
#[derive(Debug, thiserror::Error)]
#[error("{}", one_line(&format!("{place}: {fault}")))]
pub struct ConfigError {
    place: String,
    fault: Fault,
}

/// Reads a key file as `[[network]]` does, for tools beside the gateway. Warns of one that others may read; `place` is
/// what names the file, for errors.
///
/// # Errors
/// The file cannot be read or is no key file.
pub fn key_file(path: &Path, place: &str, warnings: &mut Vec<String>) -> Result<RootKey, ConfigError> {
    let key = secrets::key_file(path, warnings).map_err(|fault| fault.at(place))?;
    Ok(RootKey::new(*key))
}

/// Reads the API key that a tool shows a gateway: the first of a file as `api-key-file` names one. Warns of a file that
/// others may read; `place` is what names the file, for errors.
///
/// # Errors
/// The file cannot be read, or a line of it is no API key.
pub fn client_key(path: &Path, place: &str, warnings: &mut Vec<String>) -> Result<ApiKey, ConfigError> {
    let keys = secrets::api_keys(path, warnings).map_err(|fault| fault.at(place))?;
    keys.into_iter().next().ok_or_else(|| secrets::no_api_key(path).at(place))
}

impl Config {
    /// Settles the configuration: file < `environment` < `flags`.
    ///
    /// Everything that is given is checked first. Then the data directory is made if it is missing, and on the first
    /// start the gateway's key in it; only what needs that key, the root keys of devices, follows. [`Report::of`] does
    /// the same and makes nothing.
    ///
    /// # Errors
    /// The first that is found: one line that says where, what is wrong and what to do.
    pub fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        settle(flags, environment, Missing::Make).map(|settled| settled.config)
    }
}

/// What to do about a data directory and a gateway's key that are missing.
#[derive(Clone, Copy, Debug)]
enum Missing {
    Make,
    Leave,
}

/// A configuration, and where it comes from.
struct Settled {
    config: Config,
    settings: Settings,
    networks: Vec<ListedNetwork>,
    devices: Vec<Listed>,
    kept: Kept,
}

fn settle(
    flags: &Flags,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    missing: Missing,
) -> Result<Settled, ConfigError> {
    let given = Settings::from_environment(environment)?.overridden_by(flags.settings());
    let file = match given.path(Name::Config)? {
        Some(path) => file::read(&path).map_err(|fault| fault.at(given.place(Name::Config)))??,
        None => file::Contents::default(),
    };
    let settings = file.settings.overridden_by(given);
    let mut warnings = file.warnings;
    if file.networks.is_empty() && file.devices.is_empty() {
        warnings.push("no network and no device is configured, so only those made over the API are known: make them there, or add [[network]]".to_owned());
    }

    let log = settings.value(Name::Log, values::log_filter)?.unwrap_or_else(|| "info".to_owned());
    let udp_listen = check::udp_addresses(&settings)?;
    let udp_receive_buffer = check::udp_receive_buffer(&settings)?;
    let udp_threads = settings.value(Name::UdpThreads, values::threads)?.unwrap_or(1);
    let table = check::table(&settings)?;
    let route_policy = settings.value(Name::RoutePolicy, values::route_policy)?.unwrap_or_default();
    let key_change = settings.value(Name::KeyChange, values::key_change)?.unwrap_or_default();
    let message_retention = settings.value(Name::MessageRetention, values::retention)?.unwrap_or(MESSAGE_RETENTION);
    let clock_step = settings.value(Name::ClockStep, values::clock_step)?.unwrap_or_default();
    let waiters = check::waiters(&settings)?;
    let waiters_per_credential =
        settings.value(Name::WaitersPerCredential, values::count)?.unwrap_or(WAITS_PER_CREDENTIAL);
    let api_keys = check::api_keys(&settings, &mut warnings)?;
    let tokens = check::tokens(&settings)?;
    let definitions = check::definitions(&settings)?;
    let credentials = !api_keys.is_empty() || tokens.is_some();
    let (http_listen, metrics_listen) = check::http_addresses(&settings, credentials)?;
    let kept = check::kept(&settings, missing, &mut warnings)?;
    let devices = file.devices.iter().map(|listed| check::device(listed, &kept.cloud_keys));
    let devices = devices.collect::<Result<_, _>>()?;

    let config = Config {
        data_dir: kept.data_dir.clone(),
        set_aside_routes: flags.set_aside_routes,
        checkpoint_interval: flags.checkpoint_ms.map_or(store::INTERVAL, Duration::from_millis),
        udp_listen,
        udp_receive_buffer,
        udp_threads,
        http_listen,
        metrics_listen,
        table,
        route_policy,
        key_change,
        message_retention,
        waiters,
        waiters_per_credential,
        networks: file.networks.iter().map(|listed| listed.network.clone()).collect(),
        devices,
        cloud_keys: kept.cloud_keys.clone(),
        api_keys,
        tokens,
        definitions,
        clock_step,
        clock: Clock::with_offset_seconds(flags.clock_offset).steered(clock_step, STANDING_STILL),
        log,
        warnings,
    };
    Ok(Settled { config, settings, networks: file.networks, devices: file.devices, kept })
}

#[cfg(test)]
mod error_tests;
#[cfg(test)]
mod tests;
