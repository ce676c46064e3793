//! The gateway as a whole: binds everything, starts its threads, and stops them in order.

mod ending;
mod error;
mod floor;
mod follow;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::api::access::Access;
use crate::api::metrics_text::IngestSource;
use crate::api::{self, Api, ApiConfig, Parts};
use crate::auth::keys::KeyRing;
use crate::auth::nonce::OwnNonces;
use crate::config::{ApiKey, Config, Network};
use crate::dispatch::{self, Dispatch, DispatchConfig, Work};
use crate::downlink::Downlinks;
use crate::downlink::channel::{EventReceiver, Events, channel};
use crate::downlink::outbox::OutboxConfig;
use crate::health::Health;
use crate::ingest::pipeline::{Core, Pipeline, RefusalLog};
use crate::ingest::{self, Posts};
use crate::metrics::{Counters, Tally};
use crate::registry::{Configured, Live, Lock, OpenError, Registry, StoredKey};
use crate::service::Passed;
use crate::store::{self, Before, Keeper, Orders, Store};
use crate::table::{RouteTable, TableConfig};
use crate::udp::{BindError, BoundSocket};
use crate::wait::PacketWaits;
use crate::waiters::Waiters;
use ending::Ending;
pub use error::StartError;

/// How long requests may take to end once the gateway stops. What follows fits in the second that is left of the 5 s an
/// operator waits.
const DRAIN: Duration = Duration::from_secs(4);

/// How long after that the records may take to be written down. On a disk that does not answer they are forgotten.
const WRITE: Duration = Duration::from_millis(300);

/// Connections that wait to be accepted, as in the socket unit: with fewer, many clients who connect at once wait for a second, until
/// the system asks again. It takes less if the system's bound is lower.
const BACKLOG: i32 = 1024;

/// Networks named in the log at the start; of more, only how many.
const NETWORKS_NAMED: usize = 32;

/// A running gateway. It runs until [`Self::stop`]; dropping it stops it without waiting.
#[derive(Debug)]
pub struct App {
    udp: Vec<SocketAddr>,
    http: SocketAddr,
    metrics: Option<SocketAddr>,
    waits: PacketWaits,
    health: Arc<Health>,
    counters: Vec<Arc<Counters>>,
    api_turns: Arc<AtomicU64>,
    dispatch: Dispatch,
    records: Option<Orders>,
    stop_api: watch::Sender<bool>,
    /// Told once no request runs any more.
    served: Mutex<mpsc::Receiver<()>>,
    stop_ingest: watch::Sender<bool>,
    ending: watch::Sender<Ending>,
    /// Ends with the thread that writes records.
    written: Mutex<mpsc::Receiver<()>>,
    api_threads: Vec<JoinHandle<()>>,
    ingest_threads: Vec<JoinHandle<()>>,
    records_threads: Vec<JoinHandle<()>>,
    ended: watch::Receiver<Option<&'static str>>,
}

impl App {
    /// Binds every address before anything starts, and loads registry and records before the first datagram is looked at: those
    /// that come meanwhile wait in their socket. If a thread cannot be started, those that run are told to stop.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_on(config, Passed::default())
    }

    /// As [`Self::start`], on sockets that were bound before where there are such for an address. What has arrived at them is
    /// not lost.
    pub fn start_on(config: Config, mut passed: Passed) -> Result<Self, StartError> {
        let receive_buffer = config.udp_receive_buffer;
        let mut sockets = Vec::new();
        for &address in &config.udp_listen {
            sockets.append(&mut receive_on(address, &mut passed, &config)?);
        }
        let mut listen = |address, flag| listen(address, passed.tcp(address), flag);
        let http = listen(config.http_listen, "--http-listen")?;
        let metrics = config.metrics_listen.map(|address| listen(address, "--metrics-listen")).transpose()?;
        passed.nothing_left()?;

        let (events, received) = channel();
        let (posts, mailboxes) = Posts::to_threads(sockets.len());
        let lock = Lock::take(&config.data_dir)?;
        let store = Store::open(&config.data_dir, config.set_aside_routes, config.clock.now())?;
        let (core, epoch) = core(&config, &store, events);
        let sources: Vec<_> = sockets.iter().map(source).collect();
        let mut udp: Vec<_> = sockets.iter().map(BoundSocket::address).collect();
        udp.dedup();
        let (http_address, metrics_address) =
            (http.local_addr()?, metrics.as_ref().map(TcpListener::local_addr).transpose()?);
        let counters: Vec<_> = sources.iter().map(|source| source.counters.clone()).collect();
        let waits = PacketWaits::new(core.table.clone(), core.waiters.clone());
        let (stop_api, api_stop) = watch::channel(false);
        let (stop_ingest, ingest_stop) = watch::channel(false);
        let (ending, end) = watch::channel(Ending::NotYet);
        let (writing, written) = mpsc::channel();
        let (alive, ended) = watch::channel(None);
        let (clock, of_api) = (config.clock.clone(), core.clone());
        let stats = Arc::<store::Stats>::default();
        let health = Arc::<Health>::default();
        let shown = health.clone();
        let kept = store::Parts {
            table: core.table.clone(),
            keys: core.keys.clone(),
            clock: clock.clone(),
            health: health.clone(),
            stats: stats.clone(),
        };
        let api_turns = Arc::new(AtomicU64::new(0));
        let turns = api_turns.clone();
        let (networks, mut announced) = (config.networks.clone(), sources.clone());
        announced.dedup_by_key(|source| source.listen);
        let (told, opened) = mpsc::channel();
        let (drained, served) = mpsc::channel();
        let api_thread = spawn("api", alive.clone(), async move || {
            // Ends with the runtime of this thread.
            tokio::spawn(follow::follow(config.clock.clone(), shown.clone(), stats.clone(), turns));
            let parts = OpenParts { lock, store, posts, events: received, epoch, kept };
            let Opened { registry, keys, dispatch, work, keeper, records } = match open(&config, &of_api, parts).await {
                Ok(opened) => opened,
                Err(error) => {
                    // Whoever starts this thread listens until it is told.
                    let _ = told.send(Err(error));
                    return Ok(());
                }
            };
            let _ = told.send(Ok((dispatch.clone(), keeper, records)));
            let api = api(&config, &of_api, registry.clone(), dispatch, shown, sources, stats);
            keys.iter().for_each(|key| api.access().add(key));
            let serving = async {
                serve(Arc::new(api), http, metrics, api_stop).await?;
                // Nobody listens where the gateway was dropped.
                let _ = drained.send(());
                Ok(())
            };
            tokio::try_join!(serving, ending::write_until(work, registry, end)).map(|_| ())
        })?;
        let (dispatch, keeper, records) = opened.recv().unwrap_or(Err(OpenError::Ended.into()))?;
        let mut app = Self {
            udp,
            http: http_address,
            metrics: metrics_address,
            waits,
            health,
            counters: counters.clone(),
            api_turns,
            dispatch,
            records: Some(records),
            stop_api,
            served: Mutex::new(served),
            stop_ingest,
            ending,
            written: Mutex::new(written),
            api_threads: vec![api_thread],
            ingest_threads: Vec::new(),
            records_threads: Vec::new(),
            ended,
        };
        app.records_threads.push(spawn("records", alive.clone(), async move || {
            keeper.run();
            drop::<mpsc::Sender<()>>(writing);
            Ok(())
        })?);
        // Not before: a start that fails is one line.
        announced.iter().for_each(|source| announce(source, receive_buffer));
        name_networks(&networks);
        for ((socket, counters), mailbox) in sockets.into_iter().zip(counters).zip(mailboxes) {
            let (core, clock, stop) = (core.clone(), clock.clone(), ingest_stop.clone());
            app.ingest_threads.push(spawn("ingest", alive.clone(), async move || {
                ingest::run(Arc::new(socket.register()?), Pipeline::new(core), mailbox, counters, clock, stop).await;
                Ok(())
            })?);
        }
        Ok(app)
    }

    /// Where datagrams are received.
    pub fn udp(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// Where the API is served.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where the metrics are served without credentials.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Waiting for packets, without HTTP.
    pub fn waits(&self) -> &PacketWaits {
        &self.waits
    }

    /// What is wrong with it.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Reads how often each of its threads that serve has gone round its loop so far: at least once a second, unless it hangs.
    pub fn turns(&self) -> impl Fn() -> Vec<u64> + use<> {
        let (counters, api) = (self.counters.clone(), self.api_turns.clone());
        let of_api = move || api.load(Ordering::Relaxed);
        move || counters.iter().map(|counters| counters.turns()).chain([of_api()]).collect()
    }

    /// Sending messages, without HTTP.
    pub fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }

    /// What the ingest threads have counted so far.
    pub fn counted(&self) -> Tally {
        self.counters.iter().map(|counters| counters.read()).sum()
    }

    /// Waits until a thread of the gateway ends by itself, which only a defect makes it do; says which.
    pub async fn failed(&self) -> &'static str {
        let mut ended = self.ended.clone();
        let first = ended.wait_for(Option::is_some).await;
        first.ok().and_then(|name| *name).unwrap_or("unknown")
    }

    /// Stops in order: no more requests, waiters answered, then no more datagrams, and what happened last is written down.
    /// Blocks, at most about 5 s: on a disk that does not answer the process should end then, as a thread still waits for it.
    pub fn stop(mut self) {
        let by = Instant::now() + DRAIN + WRITE;
        let records = self.records.take();
        records.iter().for_each(Orders::hurry);
        let _ = self.stop_api.send(true);
        // An error: the thread has ended.
        let _ = self.served.get_mut().unwrap_or_else(PoisonError::into_inner).recv();
        let _ = self.stop_ingest.send(true);
        join(&mut self.ingest_threads);
        records.into_iter().for_each(Orders::stop);
        let _ = self.ending.send(Ending::WriteDown);
        let written = self.written.get_mut().unwrap_or_else(PoisonError::into_inner);
        if written.recv_timeout(by.saturating_duration_since(Instant::now())) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the disk does not take what was heard last: it is forgotten");
            self.records_threads.clear();
        }
        join(&mut self.records_threads);
        // Not before: with it the directory is unlocked.
        let _ = self.ending.send(Ending::Close);
        join(&mut self.api_threads);
    }
}

/// What the thread of the API has before it serves.
struct Opened {
    registry: Registry,
    keys: Vec<StoredKey>,
    dispatch: Dispatch,
    work: Work,
    keeper: Keeper,
    records: Orders,
}

/// What [`open`] uses up.
struct OpenParts {
    lock: Lock,
    store: Store,
    posts: Posts,
    events: EventReceiver,
    /// The upper half of the epochs.
    epoch: u32,
    kept: store::Parts,
}

/// Loads everything that is kept: records and registered devices at once, once the networks are known. Last, it begins to write:
/// a start that fails leaves the records as they are.
async fn open(config: &Config, core: &Core, parts: OpenParts) -> Result<Opened, StartError> {
    let OpenParts { lock, store, posts, events, epoch, kept } = parts;
    let opening = Registry::begin(lock, live(config, core), config.clock.clone()).await?;
    let (table, keys) = (core.table.clone(), core.keys.clone());
    let loading = tokio::task::spawn_blocking(move || store.load(&table, &keys).map(|rows| (store, rows)));
    let loaded = opening.load_devices().await?;
    // It ends early only by a panic, which has been reported.
    let (store, rows) = loading.await.map_err(io::Error::other)??;
    let afresh = loaded.afresh(&core.table.heirs()).await?;
    afresh.into_iter().for_each(|id| core.table.disinherit(id));
    core.table.settle();
    let registry = loaded.finish();
    tracing::info!(devices = core.table.devices().0, rows, before = ?store.before(), "records");
    let reserved = registry.reserved_time().await?.unwrap_or_default();
    core.table.set_floor(floor::of(&store, reserved.before, config.clock.now()));
    if core.table.floor() != 0 {
        let table = core.table.clone();
        tokio::spawn(async move { floor::end(&table).await });
    }
    let keys = registry.api_keys_in_force().await?;
    let parts = dispatch::Parts {
        registry: registry.clone(),
        table: core.table.clone(),
        downlinks: core.downlinks.clone(),
        posts,
        keys: core.keys.clone(),
        cloud_keys: config.cloud_keys.clone(),
        nonces: core.nonces.clone(),
        events,
        clock: config.clock.clone(),
        config: DispatchConfig {
            key_change: config.key_change,
            message_retention: config.message_retention,
            ..DispatchConfig::default()
        },
    };
    let (dispatch, work) = Dispatch::open(parts).await?;
    let (keeper, records) = Keeper::begin(store, epoch, kept, config.checkpoint_interval)?;
    Ok(Opened { registry, keys, dispatch, work, keeper, records })
}

/// What the packet path needs, and the upper half of its epochs.
fn core(config: &Config, store: &Store, events: Events) -> (Arc<Core>, u32) {
    let keys = KeyRing::default();
    let before = store.before();
    let (epoch, continues) = match before {
        Before::Stopped { epoch, generation } => (epoch, Some(generation)),
        Before::Nothing | Before::Forgot => (random_u32(), None),
    };
    let table = RouteTable::new(&TableConfig { epoch, continues, losses: store.losses(), ..config.table.clone() });
    let now = config.clock.now();
    for network in &config.networks {
        keys.set_network(network.id, network.root.clone());
    }
    for device in &config.devices {
        keys.set_device(device.id, device.key.clone(), None);
        table.register(device.id, now);
    }
    let core = Core {
        keys: Arc::new(keys),
        table: Arc::new(table),
        waiters: Arc::new(Waiters::new(&config.waiters)),
        downlinks: Arc::new(Downlinks::new(OutboxConfig::default(), events)),
        nonces: Arc::new(OwnNonces::new(&config.cloud_keys, now)),
        policy: config.route_policy,
        refusals: RefusalLog::default(),
        moves: Arc::default(),
        traces: Arc::default(),
    };
    (Arc::new(core), epoch)
}

/// Serves the API, and the metrics where they are served apart, until told to stop.
async fn serve(
    api: Arc<Api>,
    http: TcpListener,
    metrics: Option<TcpListener>,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let serving = api::serve(http.try_into()?, api.clone(), stop.clone(), DRAIN);
    match metrics {
        Some(metrics) => {
            tokio::join!(serving, api::serve_metrics(metrics.try_into()?, api, stop, DRAIN));
        }
        None => serving.await,
    }
    Ok(())
}

/// What the registry keeps up to date, and what it leaves to the configuration.
fn live(config: &Config, core: &Core) -> Live {
    let configured = Configured {
        networks: config.networks.iter().map(|network| network.id).collect(),
        devices: config.devices.iter().map(|device| device.id).collect(),
    };
    Live {
        keys: core.keys.clone(),
        table: core.table.clone(),
        waiters: core.waiters.clone(),
        downlinks: core.downlinks.clone(),
        cloud_keys: config.cloud_keys.clone(),
        configured: Arc::new(configured),
    }
}

/// What makes the epochs of this process differ from those of any other. Random rather than a time: clocks are set back.
fn random_u32() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) as u32
}

/// The sockets of an address, each of which gets a thread: those that were passed, or new ones.
fn receive_on(address: SocketAddr, passed: &mut Passed, config: &Config) -> Result<Vec<BoundSocket>, BindError> {
    let receive_buffer = config.udp_receive_buffer;
    let adopt = |socket| BoundSocket::adopt(socket, receive_buffer).map_err(|source| BindError { address, source });
    let passed: Vec<_> = std::iter::from_fn(|| passed.udp(address)).collect();
    if passed.is_empty() {
        return BoundSocket::bind_several(address, receive_buffer, config.udp_threads);
    }
    if config.udp_threads > passed.len() {
        let (threads, sockets) = (config.udp_threads, passed.len());
        tracing::warn!(
            %address, threads, sockets,
            "fewer threads than udp-threads says: each socket that is handed over has one; hand over more of this address, with ReusePort=yes"
        );
    }
    passed.into_iter().map(adopt).collect()
}

fn listen(address: SocketAddr, passed: Option<TcpListener>, flag: &'static str) -> Result<TcpListener, StartError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        // Once more, for a longer queue than the 128 of the standard library.
        socket2::SockRef::from(&listener).listen(BACKLOG)?;
        Ok(listener)
    };
    let bound = passed.map_or_else(bind, Ok).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| StartError::Tcp { address, flag, source })
}

fn source(socket: &BoundSocket) -> IngestSource {
    let (listen, receive_buffer) = (socket.address(), socket.receive_buffer());
    IngestSource { listen, receive_buffer, counters: Arc::new(Counters::default()) }
}

fn announce(source: &IngestSource, wanted: usize) {
    let IngestSource { listen, receive_buffer, .. } = *source;
    tracing::info!(%listen, receive_buffer, "receiving");
    if receive_buffer < wanted {
        tracing::warn!(
            %listen, receive_buffer, wanted,
            "the system gives a smaller receive buffer; raise net.core.rmem_max, or grant CAP_NET_ADMIN, or set ReceiveBuffer= \
             where a service manager holds the socket"
        );
    }
}

fn name_networks(networks: &[Network]) {
    for network in networks.iter().take(NETWORKS_NAMED) {
        tracing::info!(id = %network.id, name = network.name, "network");
    }
    let more = networks.len().saturating_sub(NETWORKS_NAMED);
    if more > 0 {
        tracing::info!(more, "networks not named here");
    }
}

/// Runs `work` on a thread of its own with a runtime of its own: what happens on one thread delays no other. `alive` tells
/// when it ends.
fn spawn<F>(name: &'static str, alive: watch::Sender<Option<&'static str>>, work: F) -> io::Result<JoinHandle<()>>
where
    F: AsyncFnOnce() -> io::Result<()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _ended = Ended { name, told: alive };
        if let Err(error) = runtime.block_on(work()) {
            tracing::error!(thread = name, %error, "ended");
        }
    })
}

/// Tells that a thread has ended, also by a panic.
struct Ended {
    name: &'static str,
    told: watch::Sender<Option<&'static str>>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        // The first is the cause.
        self.told.send_modify(|first| {
            first.get_or_insert(self.name);
        });
    }
}

fn join(threads: &mut Vec<JoinHandle<()>>) {
    for thread in threads.drain(..) {
        // Its panic was reported where it happened.
        let _ = thread.join();
    }
}

fn api(
    config: &Config,
    core: &Core,
    registry: Registry,
    dispatch: Dispatch,
    health: Arc<Health>,
    ingest: Vec<IngestSource>,
    records: Arc<store::Stats>,
) -> Api {
    let administrators = config.api_keys.iter().map(ApiKey::text);
    Api::new(Parts {
        table: core.table.clone(),
        waiters: core.waiters.clone(),
        moves: core.moves.clone(),
        traces: core.traces.clone(),
        downlinks: core.downlinks.clone(),
        policy: core.policy,
        registry,
        dispatch,
        definitions: Arc::new(config.definitions.clone()),
        keys: core.keys.clone(),
        cloud_keys: config.cloud_keys.clone(),
        clock: config.clock.clone(),
        health,
        access: Access::of_keys(administrators).with_tokens(config.tokens.clone()),
        ingest,
        records,
        config: ApiConfig { waits_per_credential: config.waiters_per_credential, ..ApiConfig::default() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thread_that_ends_by_itself_is_told_of_also_after_a_panic() {
        let (alive, ended) = watch::channel(None);
        let panicking = spawn("first", alive.clone(), async || panic!("on purpose")).unwrap();
        assert!(panicking.join().is_err());
        assert_eq!(*ended.borrow(), Some("first"));
        spawn("second", alive, async || Ok(())).unwrap().join().unwrap();
        assert_eq!(*ended.borrow(), Some("first"));
    }

    #[test]
    fn a_tcp_address_that_cannot_be_listened_on_is_named_with_the_reason_and_the_flag() {
        let first = listen(SocketAddr::from(([127, 0, 0, 1], 0)), None, "--http-listen").unwrap();
        let taken = first.local_addr().unwrap();
        assert_eq!(
            listen(taken, None, "--http-listen").unwrap_err().to_string(),
            format!(
                "cannot listen on tcp {taken}: address in use; stop the other process or choose another --http-listen"
            )
        );
        let foreign = SocketAddr::from(([192, 0, 2, 1], 8080));
        assert_eq!(
            listen(foreign, None, "--metrics-listen").unwrap_err().to_string(),
            "cannot listen on tcp 192.0.2.1:8080: this machine does not have that address; \
             choose another --metrics-listen"
        );
        // 13 is EACCES: a test that runs as root may listen on every port.
        let source = io::Error::from_raw_os_error(13);
        let refused = StartError::Tcp { address: foreign, flag: "--http-listen", source };
        assert_eq!(
            refused.to_string(),
            "cannot listen on tcp 192.0.2.1:8080: permission denied; \
             choose a port above 1023 for --http-listen or grant CAP_NET_BIND_SERVICE"
        );
    }
}
