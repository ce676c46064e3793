//! A fleet of simulated devices that speak to a gateway over real sockets.
//!
//! [`device`] is one device, pure, [`relay`] what makes a relay of it, `child` what that hears; [`identity`] is who it is. `rpc`
//! knows the commands of a device, `calls` carries them out, [`exchange`] moves the data of some. `fleet` deals devices out to links; a `link` gives them ports
//! and time, as its `schedule` says, over a `network` that may lose and copy what they send. `expect` reckons what a gateway
//! should make of it, [`compare`] asks what it made. For the `simulate` command, for `demo`, and for tests. Devices know
//! nothing of the gateway: they meet it as firmware does.

pub mod args;
pub mod attack;
mod calls;
mod child;
pub mod compare;
pub mod connect;
mod count;
pub mod device;
mod events;
pub mod exchange;
mod expect;
mod fleet;
mod forge;
pub mod identity;
pub mod keys;
mod link;
mod network;
mod ports;
mod progress;
pub mod relay;
mod rpc;
mod schedule;
pub mod security;
pub mod stats;
mod telemetry;
mod timekeeping;
pub mod verdict;
mod victim;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use nix::errno::Errno;

use crate::auth::keys::{FACTORY_NETWORK, FACTORY_NETWORK_KEY, RootKey};
use crate::clock::Clock;
use crate::id::KeyId;
pub use progress::report;
pub use stats::{Count, RoundTrip, Stats, Summary};

/// Most devices of one fleet: the most it was tried with.
pub const MAX_DEVICES: u32 = 1_000_000;

/// Most packets a second: more than a machine sends.
pub const MAX_RATE: u32 = 10_000_000;

/// The longest a time of a fleet may be, far below what no longer adds up: a year.
pub const LONGEST_TIME: Duration = Duration::from_secs(366 * 86_400);

/// Sockets a fleet opens by default: half of the 1 024 files that a process may usually open, so that a gateway in the
/// same process has the other half, and a socket that replaces another has room beside it.
pub const DEFAULT_SOCKETS: usize = 512;

/// The longest a datagram is held back unless told otherwise: well within the 300 s after which a gateway takes it for one of
/// a device with a wrong clock.
pub const DEFAULT_DELAY: Duration = Duration::from_secs(120);

/// The longest that a datagram may be held back where a gateway has to count as expected.
pub const LONGEST_EXPECTED_DELAY: Duration = Duration::from_secs(300);

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
    /// Sockets at most, at least 1; with more devices than that, several share one, as behind a NAT that gives one port to
    /// several. Default [`DEFAULT_SOCKETS`].
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
    /// Probability that the NAT has given a device another port since it last sent. Where devices share sockets it is that of
    /// another one of them, and only where there is a single socket does it move all. Default 0.01.
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
    /// Packets a second of the whole fleet, 1 to [`MAX_RATE`], whatever the gateway does: device after device, in place
    /// of cadence and jitter. Default: none.
    pub rate: Option<u32>,
    /// Ends the fleet when devices have made so many packets by themselves, at least 1; answers to the gateway come on top.
    /// One in whose place a device opens a new socket is among them. Default: none.
    pub packets: Option<u64>,
    /// Probability that a datagram to the gateway is lost. Default 0.
    pub loss: f64,
    /// Probability that a datagram to a device is lost. Default 0.
    pub downlink_loss: f64,
    /// Probability that a datagram to the gateway that is not lost arrives twice. Default 0.
    pub duplicate: f64,
    /// Probability that a datagram to the gateway is held back, so that later ones can overtake it. The first packet of a
    /// boot never is. Default 0.
    pub reorder: f64,
    /// The longest a datagram is held back. Default: twice the time from one packet of a device to its next, at most
    /// [`DEFAULT_DELAY`].
    pub delay: Option<Duration>,
    /// Silence of a device after which the NAT forgets its port: its next packet comes from another. Default: never.
    pub nat_timeout: Option<Duration>,
    /// How many of the devices, from the first, are relays (see [`relay`]), at most [`relay::MAX_RELAYS`]. Default 0.
    pub relays: u32,
    /// Bluetooth devices of each relay, 1 to [`relay::MAX_CHILDREN`]. Default 10.
    pub children: u32,
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
            rate: None,
            packets: None,
            loss: 0.0,
            downlink_loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            delay: None,
            nat_timeout: None,
            relays: 0,
            children: 10,
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

/// Random numbers that follow from `seed`. Numbers of neighbouring seeds have nothing in common, which they would have if
/// the generator were begun with them.
pub(crate) fn chance(seed: u64) -> Rng {
    // The finalizer of SplitMix64: every bit of the seed changes half of all bits.
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    Rng::with_seed(mixed ^ mixed >> 31)
}

fn explain_socket(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE) => "too many open files; raise ulimit -n".to_owned(),
        Some(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL) => {
            "no free port; widen net.ipv4.ip_local_port_range or lower --sockets".to_owned()
        }
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
        let most = relay::MAX_RELAYS.min(self.devices);
        if self.relays > most {
            return refuse(format!("{} relays among {} devices: at most {most} can be", self.relays, self.devices));
        }
        if !(1..=relay::MAX_CHILDREN).contains(&self.children) {
            let (children, most) = (self.children, relay::MAX_CHILDREN);
            return refuse(format!("{children} children: a relay can have between 1 and {most}"));
        }
        if self.sockets == 0 {
            return refuse("0 sockets: at least 1 is needed".to_owned());
        }
        if self.cadence < Duration::from_millis(1) {
            return refuse(format!("a cadence of {:?}: at least 1 ms is needed", self.cadence));
        }
        if let Some(rate) = self.rate.filter(|rate| !(1..=MAX_RATE).contains(rate)) {
            return refuse(format!("{rate} packets a second: between 1 and {MAX_RATE} can be sent"));
        }
        if self.rate.is_some() && self.relays > 0 {
            let refusal = "relays cannot have a rate: what they hear would pile up; give the fleet a cadence";
            return refuse(refusal.to_owned());
        }
        if self.packets == Some(0) {
            return refuse("0 packets: at least 1 is needed".to_owned());
        }
        if self.ack_limit == 0 {
            return refuse("an acknowledgement limit of 0: at least 1 is needed".to_owned());
        }
        if let Some((name, time)) = self.times().into_iter().find(|(_, time)| *time > LONGEST_TIME) {
            return refuse(format!("{name} is {time:?}: at most {LONGEST_TIME:?}, 366 days, can be simulated"));
        }
        if let Some((name, share)) = self.shares().into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return refuse(format!("{name} is {share}: a share lies between 0 and 1"));
        }
        Ok(())
    }

    /// Whether device `index` sleeps between packets.
    pub fn sleeps(&self, index: u32) -> bool {
        index >= self.relays && self.chance_of(index).f64() < self.sleeping
    }

    /// Decides of which kind device `index` is; the first number drawn, whether it sleeps.
    fn chance_of(&self, index: u32) -> Rng {
        chance(u64::from(self.seed) << 32 | u64::from(index))
    }

    fn times(&self) -> [(&'static str, Duration); 7] {
        [
            ("cadence", self.cadence),
            ("window", self.window),
            ("ack-after", self.ack_after),
            ("announce-every", self.announce_every),
            ("delay", self.delay.unwrap_or_default()),
            ("nat-timeout", self.nat_timeout.unwrap_or_default()),
            ("duration", self.duration.unwrap_or_default()),
        ]
    }

    const fn shares(&self) -> [(&'static str, f64); 10] {
        [
            ("jitter", self.jitter),
            ("sleeping", self.sleeping),
            ("rebind", self.rebind),
            ("no-time", self.no_time),
            ("device-level", self.device_level),
            ("ack-share", self.ack_share),
            ("loss", self.loss),
            ("downlink-loss", self.downlink_loss),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
        ]
    }

    /// The longest a datagram is held back.
    pub(crate) fn longest_hold(&self) -> Duration {
        let interval = match self.rate {
            Some(rate) => Duration::from_secs_f64(f64::from(self.devices) / f64::from(rate)),
            None => self.cadence,
        };
        self.delay.unwrap_or_else(|| DEFAULT_DELAY.min(2 * interval))
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

    /// Makes the identities of all children of relays, for a gateway's configuration. About 0.1 ms each.
    ///
    /// # Errors
    /// A cloud public key that protects nothing.
    pub fn child_identities(&self) -> Result<Vec<identity::Identity>, SimulateError> {
        let total = self.relays * self.children;
        let child = |child| identity::Identity::new(self.seed, relay::child_index(child), &self.cloud_public);
        (0..total).map(child).collect::<Option<_>>().ok_or(SimulateError::WeakCloudKey)
    }
}

/// Runs a fleet until `shutdown` completes, its duration is over or its packets are sent; counts into `stats` as it goes.
///
/// Devices boot spread over the first cadence, or at the rate. `clock` is what devices that kept their time show. What
/// devices and network do is the same in each run of the same configuration, as far as it does not follow from what the
/// gateway does; the entropy of frames is another in each, so that the fleet of one seed can be run again at once. Runs on
/// the runtime it is called on, in at most as many tasks as there are sockets; uses more than one core only on a
/// multi-threaded one.
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
