//! A fleet as a whole: deals the devices out to links, starts them, and ends them in order.
//!
//! A task for each device would be a socket for each device, and a process may open too few files for a large fleet. A
//! single task for all would use one core. So each link is a task, with a share of the sockets and of the devices.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::device::{Device, Reception, Settings};
use super::keys::{CloudKey, NetworkKeys};
use super::link::Link;
use super::network::{MAX_HELD, Room};
use super::ports::{self, Ports};
use super::relay::Children;
use super::schedule::Deal;
use super::{Config, Count, SimulateError, Stats, Summary, identity};
use crate::clock::{Clock, Timestamp};
use crate::wire::frame::Level;

/// Links that many sockets are shared among at least, so that every core has work.
const LINKS: usize = 64;
/// Sockets of a link at most: each is looked at whenever one of them has received something.
const PORTS: usize = 8;
/// How long links may take to send what they hold back, once the fleet ends. The kernel takes it in a moment or never.
const ENDING: Duration = Duration::from_secs(2);

/// Runs the fleet of a checked `config`.
pub(super) async fn run(
    config: Config,
    clock: Clock,
    stats: Arc<Stats>,
    shutdown: impl Future<Output = ()>,
) -> Result<Summary, SimulateError> {
    let duration = config.duration;
    let world = Arc::new(World::new(config, clock, stats)?);
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for link in open_links(&world)? {
        tasks.spawn(link.live(stopped.clone()));
    }
    let over = async {
        match duration {
            Some(duration) => sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = shutdown => {}
        () = over => {}
        ended = ended(&mut tasks) => ended?,
    }
    let _ = stop.send(true);
    // Links that take longer are cut off with the tasks.
    timeout(ENDING, ended(&mut tasks)).await.unwrap_or(Ok(()))?;
    Ok(world.stats.summary(world.start.elapsed()))
}

/// Completes when all tasks have ended, or one has panicked.
async fn ended(tasks: &mut JoinSet<()>) -> Result<(), JoinError> {
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

/// What all links share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) stats: Arc<Stats>,
    pub(super) start: Instant,
    /// What the clock said at the start: from then on the children of relays are on the air.
    started: Timestamp,
    /// Different in each run: devices without time repeat all of their nonces but this.
    boot_seed: u64,
    /// For what the network holds back.
    pub(super) room: Room,
    /// The settings of devices, by whether they sleep and by whether they report at device level.
    settings: [[Arc<Settings>; 2]; 2],
}

impl World {
    fn new(config: Config, clock: Clock, stats: Arc<Stats>) -> Result<Self, SimulateError> {
        let cloud = CloudKey::new(config.cloud_public).ok_or(SimulateError::WeakCloudKey)?;
        let settings = |sleeping, device_level| {
            Arc::new(Settings {
                network: config.network,
                network_keys: NetworkKeys::new(config.network_root.clone()),
                cloud,
                telemetry: if device_level { Level::Device } else { Level::Network },
                reception: if sleeping { Reception::AfterSending(config.window) } else { Reception::Always },
                cadence: config.cadence,
                jitter: config.jitter,
                ack_after: config.ack_after,
                ack_limit: config.ack_limit,
                ack_share: config.ack_share,
                announce_every: config.announce_every,
                reboots: 1,
            })
        };
        let settings = [false, true].map(|sleeping| [false, true].map(|device_level| settings(sleeping, device_level)));
        stats.want_rate(config.rate.unwrap_or(0));
        let (start, started, boot_seed) = (Instant::now(), clock.now(), fastrand::u64(..));
        let room = Room::new(MAX_HELD);
        Ok(Self { config, clock, stats, start, started, boot_seed, room, settings })
    }

    /// Boots device `index`, due `booted_after` the start and now at uptime `now`. What it is and does follows from the seed,
    /// its entropy does not.
    pub(super) fn boot(&self, index: u32, booted_after: Duration, now: Duration) -> Device {
        let config = &self.config;
        let mut kind = config.chance_of(index);
        let relays = index < config.relays;
        let sleeping = kind.f64() < config.sleeping && !relays;
        let kept_time = kind.f64() >= config.no_time;
        let device_level = kind.f64() < config.device_level;
        let settings = Arc::clone(&self.settings[usize::from(sleeping)][usize::from(device_level)]);
        let entropy = Rng::with_seed(self.boot_seed.wrapping_add(index.into()));
        let device = Device::new(identity::device_id(config.seed, index), settings, entropy);
        self.stats.add(Count::Booted);
        let device = if kept_time { device.with_clock(now, self.clock.now()) } else { device };
        let hears = || Children::new(config, index, self.boot_seed, self.started, booted_after);
        // A CloudKey was made of the public key, so there are children.
        match relays.then(hears).flatten() {
            Some(children) => device.with_children(children),
            None => device,
        }
    }
}

/// How many links share so many sockets and devices. Each device has a link and a socket for itself where there are as many
/// sockets; else links of several sockets carry several devices, so that a NAT can give one of them another port.
const fn links(sockets: usize, devices: usize) -> usize {
    if sockets == devices {
        return devices;
    }
    let ports = match sockets / LINKS {
        0..2 => 2,
        many if many > PORTS => PORTS,
        ports => ports,
    };
    if sockets < ports { 1 } else { sockets / ports }
}

/// Opens all sockets, and deals them and the devices out to links.
fn open_links(world: &Arc<World>) -> Result<Vec<Link>, SimulateError> {
    let (devices, gateway) = (world.config.devices, world.config.gateway);
    let total = world.config.sockets.min(devices as usize);
    let links = links(total, devices as usize);
    let mut opened = 0;
    let mut open = || {
        opened += 1;
        ports::open_one(gateway, opened, total)
    };
    (0..links)
        .map(|link| {
            let sockets = (link..total).step_by(links).map(|_| open()).collect::<Result<_, _>>()?;
            Ok(Link::new(Arc::clone(world), Deal::new(link as u32, links as u32, devices), Ports::new(sockets)))
        })
        .collect()
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "fleet_calls_tests.rs"]
mod calls_tests;
