//! A gateway and a simulated fleet in one process, on loopback, with everything they keep in a temporary directory.

mod calls;

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, interval_at};

use crate::app::{App, StartError};
use crate::auth::keys::RootKey;
use crate::client::{Client, ClientError};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Flags};
use crate::duration::duration;
use crate::id::{DeviceId, KeyId};
use crate::metrics::Disposition;
use crate::simulate::{self, Count, SimulateError, Stats, args};
use crate::table::route::Snapshot;
use crate::wait::{PacketWaits, Waited};

/// The network of the demonstration.
const NETWORK: KeyId = KeyId::from_le_bytes([0x0d, 0x0e, 0x00]);

/// Devices whose packets are shown one by one; the others only count, so that the screen stays readable.
const SHOWN: usize = 6;

/// Time between two lines of the summary.
const SUMMARY_EVERY: Duration = Duration::from_secs(5);

/// How long one wait lasts before it is renewed.
const WAIT: Duration = Duration::from_secs(60);

/// Arguments of `demo`.
#[derive(clap::Args, Clone, Debug)]
pub struct DemoArgs {
    /// How many devices to simulate, at most 1000
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub devices: u32,
    /// Time from one packet of a device to its next
    #[arg(long, value_name = "TIME", default_value = "8s", value_parser = duration)]
    pub cadence: Duration,
    /// How long to run. Default: until interrupted
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Address and port of the API. Default: 127.0.0.1:8080, or any free port if that is taken
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http_listen: Option<SocketAddr>,
    /// Address and port to receive datagrams on. Default: 127.0.0.1:3001, or any free port if that is taken
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub udp_listen: Option<SocketAddr>,
}

/// Why the demonstration ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The API would be open to others.
    #[error(
        "--http-listen: the API of the demonstration wants no key, so it is served on a loopback address only, and {0} is \
         none; listen on 127.0.0.1 or [::1], or run serve with --api-key-file"
    )]
    Exposed(SocketAddr),
    /// The temporary directory.
    #[error("cannot use a temporary directory: {0}; set TMPDIR to one that can be written")]
    Directory(#[from] io::Error),
    /// The configuration made for it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The gateway.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The fleet.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    /// The files that make the fleet known to the gateway.
    #[error(transparent)]
    Write(#[from] args::WriteError),
    /// The registration of its devices.
    #[error("cannot register the devices of the demonstration: {0}")]
    Register(#[from] ClientError),
    /// The system's source of random numbers.
    #[error("the system gives no random bytes for a key; see that /dev/urandom can be read")]
    Random,
    /// A thread of the gateway ended by itself.
    #[error("thread {0} ended; see the log above")]
    Ended(&'static str),
    /// The gateway panicked while it stopped.
    #[error("the gateway did not stop in order: {0}; this is a defect, please report it")]
    Stop(#[from] JoinError),
}

/// Runs until `interrupted` completes, or for the time given.
///
/// # Errors
/// The gateway or the fleet cannot start, or fails; both say why.
pub async fn run(arguments: &DemoArgs, interrupted: impl Future<Output = ()>) -> Result<(), DemoError> {
    if let Some(address) = arguments.http_listen.filter(|address| !address.ip().to_canonical().is_loopback()) {
        return Err(DemoError::Exposed(address));
    }
    let directory = tempfile::Builder::new().prefix("lastroute-demo-").tempdir()?;
    let clock = Clock::default();
    let mut network_key = [0; 32];
    SystemRandom::new().fill(&mut network_key).map_err(|_| DemoError::Random)?;
    let mut fleet = simulate::Config {
        devices: arguments.devices,
        network: NETWORK,
        network_root: RootKey::new(network_key),
        cadence: arguments.cadence,
        rebind: 0.1,
        device_level: 0.25,
        ack_share: 0.3,
        duration: arguments.duration,
        ..simulate::Config::default()
    };
    fleet.check()?;
    let app = start(arguments, directory.path(), &network_key, &mut fleet)?;
    fleet.gateway = app.udp()[0];
    let shown: Vec<DeviceId> = fleet.identities()?.iter().map(|identity| identity.id).take(SHOWN).collect();
    say(&introduction(&app, &fleet, &shown));

    let stats = Arc::new(Stats::default());
    calls::register(&Client::new(&format!("http://{}", app.http()), None)?, &shown).await?;
    let mut followers = JoinSet::new();
    for id in &shown {
        followers.spawn(follow(app.waits().clone(), *id));
    }
    let sleeping: Vec<_> =
        (0..).zip(shown).filter(|(index, _)| fleet.sleeps(*index)).map(|(_, sleeping)| sleeping).collect();
    let summary = tokio::select! {
        summary = simulate::run(fleet, clock, stats.clone(), interrupted) => summary?,
        never = summarise(&app, &stats) => match never {},
        never = calls::call_now_and_then(app.dispatch(), &sleeping) => match never {},
        thread = app.failed() => return Err(DemoError::Ended(thread)),
    };
    followers.shutdown().await;
    let counted = app.counted().datagrams[Disposition::Accepted as usize];
    tokio::task::spawn_blocking(move || app.stop()).await?;
    say(&format!("\nStopped. The fleet sent {} datagrams, the gateway counted {counted} packets.", summary.sent));
    Ok(())
}

/// Starts a gateway that knows the fleet, from a configuration file as any other.
fn start(
    arguments: &DemoArgs,
    directory: &Path,
    network_key: &[u8; 32],
    fleet: &mut simulate::Config,
) -> Result<App, DemoError> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut flags = Flags {
        data_dir: Some(text(&directory.join("data"))),
        udp_listen: vec![address(arguments.udp_listen, 3001, |address| std::net::UdpSocket::bind(address).is_ok())],
        http_listen: Some(address(arguments.http_listen, 8080, |address| std::net::TcpListener::bind(address).is_ok())),
        ..Flags::default()
    };
    // The first look makes the gateway's key, whose public half the fleet's firmware holds.
    fleet.cloud_public = Config::load(&flags, [])?.cloud_keys.public();
    let key_file = directory.join("network.key");
    std::fs::write(&key_file, STANDARD.encode(network_key))?;
    let file = directory.join("lastroute.toml");
    args::write_gateway_config(&file, fleet, Some(&key_file))?;
    flags.config = Some(text(&file));
    Ok(App::start(Config::load(&flags, [])?)?)
}

/// What was asked for; else the usual port if it is free, else any.
fn address(asked: Option<SocketAddr>, usual: u16, is_free: impl Fn(SocketAddr) -> bool) -> String {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, usual));
    let chosen = asked.unwrap_or(if is_free(usual) { usual } else { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) });
    chosen.to_string()
}

/// What a newcomer can do now.
fn introduction(app: &App, fleet: &simulate::Config, shown: &[DeviceId]) -> String {
    let (udp, http) = (app.udp()[0], app.http());
    let example = shown.first().map_or_else(String::new, DeviceId::to_string);
    let device = format!("http://{http}/device/deviceId/{example}");
    format!(
        "lastroute is listening for devices on udp {udp}, and for you on http://{http}.\n\
         {} simulated devices boot now; each reports about every {:?}. Try, in another terminal:\n\n\
         \x20 curl {device}/lastRoute\n\
         \x20 curl {device}/state\n\
         \x20 curl '{device}/waitForPacket?timeoutMs=30000'\n\
         \x20 curl --json '{{\"deviceId\": \"{example}\", \"rpc\": {{\"commandId\": 3}}, \"sendWaitTimeoutMs\": 60000}}' http://{http}/rpc\n\
         \x20 curl http://{http}/metrics\n\n\
         The packets of the first {} devices, as they are counted, and a call to one that sleeps now and then (stop with \
         Ctrl-C):\n",
        fleet.devices,
        fleet.cadence,
        shown.len(),
    )
}

/// Shows the packets of one device, by waiting for one after the other.
async fn follow(waits: PacketWaits, id: DeviceId) {
    let (mut after, mut route) = (None, None);
    loop {
        match waits.wait_for_packet(id, after, Instant::now() + WAIT).await {
            Ok(Waited::Packet { snapshot, .. }) => {
                say(&packet_line(&snapshot, route));
                (after, route) = (Some(snapshot.cursor), snapshot.direct.map(|direct| direct.address));
            }
            Ok(Waited::Reset { cursor, .. } | Waited::TimedOut { cursor }) => after = Some(cursor),
            // So few waiters are far from any bound.
            Err(error) => return say(&format!("{id}: {error}")),
        }
    }
}

fn packet_line(snapshot: &Snapshot, before: Option<SocketAddr>) -> String {
    let Some(packet) = snapshot.last_packet else { return format!("{}  never heard", snapshot.device_id) };
    let now = snapshot.direct.map(|direct| direct.address);
    let time = jiff::Timestamp::from_millisecond(packet.received_at.0.cast_signed()).unwrap_or_default();
    let note = match before {
        _ if !packet.on_route => "route kept, not proved",
        None => "first heard",
        Some(_) if before != now => "route moved",
        Some(_) => "",
    };
    let line = format!(
        "{}  {}  {:8} {:7} {:6} sequence {:<5} from {:<21} {note}",
        time.strftime("%H:%M:%S"),
        snapshot.device_id,
        packet.packet_type.name(),
        packet.level.name(),
        packet.class.name(),
        packet.sequence,
        packet.source.to_string(),
    );
    line.trim_end().to_owned()
}

/// Shows what both sides have counted, every few seconds, until dropped.
async fn summarise(app: &App, stats: &Stats) -> Infallible {
    let mut ticks = interval_at(Instant::now() + SUMMARY_EVERY, SUMMARY_EVERY);
    loop {
        ticks.tick().await;
        let counted = app.counted();
        say(&format!(
            "-- gateway: {} packets counted, {} routes moved, {} acknowledged; fleet: {} sent, {} of {} acknowledgements, \
             {} rebinds",
            counted.datagrams[Disposition::Accepted as usize],
            counted.route_moves,
            counted.acks_sent(),
            stats.sent(),
            stats.get(Count::Acks),
            stats.get(Count::AcksAsked),
            stats.get(Count::Rebinds),
        ));
    }
}

/// A line for whoever watches. Nobody watching is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
