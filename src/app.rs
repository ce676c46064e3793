//! The gateway as a whole: binds everything, starts its threads, and stops them in order.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

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
use crate::ingest::pipeline::{Core, Pipeline, RefusalLog};
use crate::ingest::{self, Posts};
use crate::metrics::{Counters, Tally};
use crate::registry::{Configured, Live, OpenError, Registry, RegistryError, StoredKey};
use crate::table::{RouteTable, TableConfig};
use crate::udp::{BindError, BoundSocket, explain_bind};
use crate::wait::PacketWaits;
use crate::waiters::Waiters;

/// How long requests may take to end once the gateway stops. What follows fits in the second that is left of the 5 s an
/// operator waits.
const DRAIN: Duration = Duration::from_secs(4);

/// How long it may take, once nothing more is received, to write down what happened last and to close the registry. What is
/// then still in its write-ahead log is found there at the next start.
const CLOSE: Duration = Duration::from_millis(800);

/// Networks named in the log at the start; of more, only how many.
const NETWORKS_NAMED: usize = 32;

/// A running gateway. It runs until [`Self::stop`]; dropping it stops it without waiting.
#[derive(Debug)]
pub struct App {
    udp: Vec<SocketAddr>,
    http: SocketAddr,
    metrics: Option<SocketAddr>,
    waits: PacketWaits,
    counters: Vec<Arc<Counters>>,
    dispatch: Dispatch,
    stop_api: watch::Sender<bool>,
    /// Told once no request runs any more.
    served: Mutex<mpsc::Receiver<()>>,
    stop_ingest: watch::Sender<bool>,
    stop_dispatch: watch::Sender<bool>,
    api_threads: Vec<JoinHandle<()>>,
    ingest_threads: Vec<JoinHandle<()>>,
    ended: watch::Receiver<Option<&'static str>>,
}

/// Why the gateway cannot start. One line: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A UDP address cannot be listened on.
    #[error(transparent)]
    Udp(#[from] BindError),
    /// A TCP address cannot be listened on.
    #[error("cannot listen on tcp {address}: {}", explain_bind(source, flag))]
    Tcp {
        /// The address asked for.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system answered.
        source: io::Error,
    },
    /// The registry cannot be opened.
    #[error(transparent)]
    Registry(#[from] OpenError),
    /// The messages that wait cannot be read.
    #[error("cannot take up the messages that wait for devices: {0}")]
    Messages(#[from] RegistryError),
    /// The system gives no more threads or file descriptors.
    #[error("cannot start a thread: {0}; raise the limits of the process")]
    Thread(#[from] io::Error),
}

impl App {
    /// Binds every address before anything starts, and loads the registry before the first datagram is looked at: those that
    /// come meanwhile wait in their socket. If a thread cannot be started, those that run are told to stop.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let receive_buffer = config.udp_receive_buffer;
        let sockets = config
            .udp_listen
            .iter()
            .map(|&address| BoundSocket::bind(address, receive_buffer))
            .collect::<Result<Vec<_>, _>>()?;
        let http = listen(config.http_listen, "--http-listen")?;
        let metrics = config.metrics_listen.map(|address| listen(address, "--metrics-listen")).transpose()?;

        let (events, received) = channel();
        let (posts, mailboxes) = Posts::to_threads(sockets.len());
        let core = core(&config, events);
        let sources: Vec<_> = sockets.iter().map(source).collect();
        let udp = sockets.iter().map(BoundSocket::address).collect();
        let (http_address, metrics_address) =
            (http.local_addr()?, metrics.as_ref().map(TcpListener::local_addr).transpose()?);
        let counters: Vec<_> = sources.iter().map(|source| source.counters.clone()).collect();
        let waits = PacketWaits::new(core.table.clone(), core.waiters.clone());
        let (stop_api, api_stop) = watch::channel(false);
        let (stop_ingest, ingest_stop) = watch::channel(false);
        let (stop_dispatch, dispatch_stop) = watch::channel(false);
        let (alive, ended) = watch::channel(None);
        let (clock, of_api) = (config.clock, core.clone());
        let (networks, announced) = (config.networks.clone(), sources.clone());
        let (told, opened) = mpsc::channel();
        let (drained, served) = mpsc::channel();
        let api_thread = spawn("api", alive.clone(), async move || {
            let Opened { registry, keys, dispatch, work } = match open(&config, &of_api, posts, received).await {
                Ok(opened) => opened,
                Err(error) => {
                    // Whoever starts this thread listens until it is told.
                    let _ = told.send(Err(error));
                    return Ok(());
                }
            };
            let _ = told.send(Ok(dispatch.clone()));
            let api = api(&config, &of_api, registry.clone(), dispatch, sources);
            keys.iter().for_each(|key| api.access().add(key));
            let serving = async {
                serve(Arc::new(api), http, metrics, api_stop).await?;
                // Nobody listens where the gateway was dropped.
                let _ = drained.send(());
                Ok(())
            };
            tokio::try_join!(serving, write_until(work, registry, dispatch_stop)).map(|_| ())
        })?;
        let dispatch = opened.recv().unwrap_or(Err(OpenError::Ended.into()))?;
        let mut app = Self {
            udp,
            http: http_address,
            metrics: metrics_address,
            waits,
            counters: counters.clone(),
            dispatch,
            stop_api,
            served: Mutex::new(served),
            stop_ingest,
            stop_dispatch,
            api_threads: vec![api_thread],
            ingest_threads: Vec::new(),
            ended,
        };
        // Not before: a start that fails is one line.
        announced.iter().for_each(|source| announce(source, receive_buffer));
        name_networks(&networks);
        for ((socket, counters), mailbox) in sockets.into_iter().zip(counters).zip(mailboxes) {
            let (core, stop) = (core.clone(), ingest_stop.clone());
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
    /// Blocks, at most about 5 s.
    pub fn stop(mut self) {
        let _ = self.stop_api.send(true);
        // An error: the thread has ended.
        let _ = self.served.get_mut().unwrap_or_else(PoisonError::into_inner).recv();
        let _ = self.stop_ingest.send(true);
        join(&mut self.ingest_threads);
        let _ = self.stop_dispatch.send(true);
        join(&mut self.api_threads);
    }
}

/// What the thread of the API has before it serves.
struct Opened {
    registry: Registry,
    keys: Vec<StoredKey>,
    dispatch: Dispatch,
    work: Work,
}

/// Loads everything that is kept.
async fn open(config: &Config, core: &Core, posts: Posts, events: EventReceiver) -> Result<Opened, StartError> {
    let registry = Registry::open(&config.data_dir, live(config, core), config.clock).await?;
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
        clock: config.clock,
        config: DispatchConfig {
            key_change: config.key_change,
            message_retention: config.message_retention,
            ..DispatchConfig::default()
        },
    };
    let (dispatch, work) = Dispatch::open(parts).await?;
    Ok(Opened { registry, keys, dispatch, work })
}

/// Writes down what happens to messages until told to stop, and closes the registry.
async fn write_until(work: Work, registry: Registry, stop: watch::Receiver<bool>) -> io::Result<()> {
    // An error: whoever would tell is gone.
    let stopped = async |mut stop: watch::Receiver<bool>| drop(stop.wait_for(|stop| *stop).await);
    let late = async {
        stopped(stop.clone()).await;
        sleep(CLOSE).await;
    };
    let closing = async {
        work.run(stopped(stop.clone())).await;
        registry.close().await;
    };
    tokio::select! {
        () = closing => {}
        () = late => {}
    }
    Ok(())
}

fn core(config: &Config, events: Events) -> Arc<Core> {
    let keys = KeyRing::default();
    let table = RouteTable::new(&TableConfig { epoch: random_u32(), ..config.table.clone() });
    let now = config.clock.now();
    for network in &config.networks {
        keys.set_network(network.id, network.root.clone());
    }
    for device in &config.devices {
        keys.set_device(device.id, device.key.clone(), None);
        table.register(device.id, now);
    }
    Arc::new(Core {
        keys: Arc::new(keys),
        table: Arc::new(table),
        waiters: Arc::new(Waiters::new(&config.waiters)),
        downlinks: Arc::new(Downlinks::new(OutboxConfig::default(), events)),
        nonces: Arc::new(OwnNonces::new(&config.cloud_keys, now)),
        policy: config.route_policy,
        refusals: RefusalLog::default(),
        moves: Arc::default(),
    })
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

fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
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
            "the system gives a smaller receive buffer; raise net.core.rmem_max, or grant CAP_NET_ADMIN"
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

fn api(config: &Config, core: &Core, registry: Registry, dispatch: Dispatch, ingest: Vec<IngestSource>) -> Api {
    let administrators = config.api_keys.iter().map(ApiKey::text);
    Api::new(Parts {
        table: core.table.clone(),
        waiters: core.waiters.clone(),
        moves: core.moves.clone(),
        registry,
        dispatch,
        definitions: Arc::new(config.definitions.clone()),
        keys: core.keys.clone(),
        cloud_keys: config.cloud_keys.clone(),
        clock: config.clock,
        access: Access::of_keys(administrators).with_tokens(config.tokens.clone()),
        ingest,
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
        let first = listen(SocketAddr::from(([127, 0, 0, 1], 0)), "--http-listen").unwrap();
        let taken = first.local_addr().unwrap();
        assert_eq!(
            listen(taken, "--http-listen").unwrap_err().to_string(),
            format!(
                "cannot listen on tcp {taken}: address in use; stop the other process or choose another --http-listen"
            )
        );
        let foreign = SocketAddr::from(([192, 0, 2, 1], 8080));
        assert_eq!(
            listen(foreign, "--metrics-listen").unwrap_err().to_string(),
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
