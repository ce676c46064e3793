//! A fleet of simulated devices that speak to a gateway over real sockets.
//!
//! [`device`] is one device, pure; `fleet` gives devices sockets and time; [`identity`] is who they are. For the
//! `simulate` command, for `demo`, and for tests. Nothing here knows the gateway: it meets devices as firmware does.

pub mod args;
pub mod device;
mod fleet;
pub mod identity;
mod progress;
pub mod stats;
mod telemetry;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::auth::keys::{FACTORY_NETWORK, FACTORY_NETWORK_KEY, RootKey};
use crate::clock::Clock;
use crate::id::KeyId;
pub use progress::report;
pub use stats::{Count, Stats, Summary};

/// Most devices of one fleet: the most it was tried with.
pub const MAX_DEVICES: u32 = 50_000;

/// The longest a time of a fleet may be, far below what no longer adds up: a year.
pub const LONGEST_TIME: Duration = Duration::from_secs(366 * 86_400);

/// Sockets a fleet opens by default: half of the 1 024 files that a process may usually open, so that a gateway in the
/// same process has the other half, and a socket that replaces another has room beside it.
pub const DEFAULT_SOCKETS: usize = 512;

/// What a fleet is and does. Shares lie between 0, none, and 1, all; no time is above [`LONGEST_TIME`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the gateway listens. Default: port 3001 of this machine.
    pub gateway: SocketAddr,
    /// How many devices, 1 to [`MAX_DEVICES`]. Default 10.
    pub devices: u32,
    /// Which devices: their ids and keys follow from it (see [`identity::Identity`]). Default 1.
    pub seed: u16,
    /// Their network. Default: the factory network, 0x000000.
    pub network: KeyId,
    /// The root key of that network. Default: that of the factory network, which is public.
    pub network_root: RootKey,
    /// The public key in their firmware. Default: that of stock firmware, so that a gateway without its private half
    /// reads network-level packets only.
    pub cloud_public: [u8; 32],
    /// Sockets at most, at least 1; with more devices than that, several share one, as behind one address of a NAT.
    /// Default [`DEFAULT_SOCKETS`].
    pub sockets: usize,
    /// Time from one telemetry packet of a device to its next, at least 1 ms. Default 10 s.
    pub cadence: Duration,
    /// How much each interval may differ, as a share of the cadence. Default 0.1.
    pub jitter: f64,
    /// Share of devices that sleep between packets; the others listen all the time. Default 0.7.
    pub sleeping: f64,
    /// How long a sleeping device listens after each packet. Default 2 s, which is what firmware waits for an
    /// acknowledgement. Zero: its packets are single transmissions.
    pub window: Duration,
    /// Probability that the NAT has given a socket a new port since a device last sent. Default 0.01.
    pub rebind: f64,
    /// Share of devices whose clock did not survive the reboot: they have no time until the first downlink. Default 0.5.
    pub no_time: f64,
    /// Share of devices whose telemetry is at device level. Default 0.
    pub device_level: f64,
    /// Share of telemetry that asks for an acknowledgement whatever was heard. Default 0.1.
    pub ack_share: f64,
    /// Silence of the gateway after which every packet asks for an acknowledgement. Default 300 s, as in stock relays.
    pub ack_after: Duration,
    /// Packets that ask in vain before a device opens a new socket, at least 1. Default 10, as in firmware.
    pub ack_limit: u32,
    /// Time from one announce of a device to its next. Default 1 h.
    pub announce_every: Duration,
    /// How long the fleet runs. Default: until it is stopped.
    pub duration: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            gateway: SocketAddr::from(([127, 0, 0, 1], 3001)),
            devices: 10,
            seed: 1,
            network: FACTORY_NETWORK,
            network_root: RootKey::new(FACTORY_NETWORK_KEY),
            cloud_public: identity::STOCK_CLOUD_PUBLIC,
            sockets: DEFAULT_SOCKETS,
            cadence: Duration::from_secs(10),
            jitter: 0.1,
            sleeping: 0.7,
            window: Duration::from_secs(2),
            rebind: 0.01,
            no_time: 0.5,
            device_level: 0.0,
            ack_share: 0.1,
            ack_after: Duration::from_secs(300),
            ack_limit: 10,
            announce_every: Duration::from_secs(3600),
            duration: None,
        }
    }
}

/// Why a fleet did not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// A setting out of its range.
    #[error("{0}")]
    Setting(String),
    /// A public key that makes every shared secret a constant.
    #[error("the cloud public key is one of the few that protect nothing: take the one the gateway prints")]
    WeakCloudKey,
    /// No socket.
    #[error("cannot open UDP socket {number} of {total} towards {gateway}: {}", explain_socket(source))]
    Socket {
        /// Which one, from 1.
        number: usize,
        /// How many are needed.
        total: usize,
        /// The gateway's address.
        gateway: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A task of the fleet panicked.
    #[error("some simulated devices ended: {0}; this is a defect, please report it")]
    Panicked(#[from] tokio::task::JoinError),
}

fn explain_socket(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE) => "too many open files; raise ulimit -n".to_owned(),
        _ => format!("{error}; check the address of the gateway"),
    }
}

impl Config {
    /// Checks every range.
    ///
    /// # Errors
    /// Names the setting, its value and its range.
    pub fn check(&self) -> Result<(), SimulateError> {
        let refuse = |text: String| Err(SimulateError::Setting(text));
        if !(1..=MAX_DEVICES).contains(&self.devices) {
            return refuse(format!("{} devices: between 1 and {MAX_DEVICES} can be simulated", self.devices));
        }
        if self.sockets == 0 {
            return refuse("0 sockets: at least 1 is needed".to_owned());
        }
        if self.cadence < Duration::from_millis(1) {
            return refuse(format!("a cadence of {:?}: at least 1 ms is needed", self.cadence));
        }
        for (name, time) in [
            ("cadence", self.cadence),
            ("window", self.window),
            ("ack-after", self.ack_after),
            ("announce-every", self.announce_every),
            ("duration", self.duration.unwrap_or_default()),
        ] {
            if time > LONGEST_TIME {
                return refuse(format!("{name} is {time:?}: at most {LONGEST_TIME:?}, 366 days, can be simulated"));
            }
        }
        if self.ack_limit == 0 {
            return refuse("an acknowledgement limit of 0: at least 1 is needed".to_owned());
        }
        for (name, share) in [
            ("jitter", self.jitter),
            ("sleeping", self.sleeping),
            ("rebind", self.rebind),
            ("no-time", self.no_time),
            ("device-level", self.device_level),
            ("ack-share", self.ack_share),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return refuse(format!("{name} is {share}: a share lies between 0 and 1"));
            }
        }
        Ok(())
    }

    /// Makes the identities of all devices, for a gateway's configuration. About 0.1 ms each.
    ///
    /// # Errors
    /// A cloud public key that protects nothing.
    pub fn identities(&self) -> Result<Vec<identity::Identity>, SimulateError> {
        (0..self.devices)
            .map(|index| identity::Identity::new(self.seed, index, &self.cloud_public))
            .collect::<Option<_>>()
            .ok_or(SimulateError::WeakCloudKey)
    }
}

/// Runs a fleet until `shutdown` completes or its duration is over; counts into `stats` as it goes.
///
/// Devices boot spread over the first cadence. `clock` is what devices that kept their time show. Each run makes other
/// entropy, so that the fleet of one seed can be run again at once. Runs on the runtime it is called on, one task for
/// each socket; uses more than one core only on a multi-threaded one.
///
/// # Errors
/// A setting out of its range, no socket, or a panic, which only a defect makes. A gateway that does not answer is no error: devices go on, as firmware does.
pub async fn run(
    config: Config,
    clock: Clock,
    stats: Arc<Stats>,
    shutdown: impl Future<Output = ()>,
) -> Result<Summary, SimulateError> {
    config.check()?;
    fleet::run(config, clock, stats, shutdown).await
}
