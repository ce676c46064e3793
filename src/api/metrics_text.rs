//! The metrics as Prometheus text. What the ingest threads count is summed at each scrape; what the API counts lives here.
//!
//! The text is that of Prometheus 0.0.4, which every scraper and `promtool check metrics` read. No label holds a device
//! id, a path or anything else a stranger chooses.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, prometheus_text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::clock::{Clock, Timestamp};
use crate::dispatch::Dispatch;
use crate::health::Health;
use crate::metrics::histogram::{Histogram, Reading};
use crate::metrics::{BATCH_BOUNDS, Challenge, Counters, Disposition, DownlinkKind, RefusedAnswer, Tally};
use crate::store::Stats;
use crate::table::RouteTable;
use crate::waiters::Waiters;

use super::census::{Census, Counted};
use super::events::EVENT_NAMES;
use super::health_metrics::HealthMetrics;
use super::message_metrics::MessageMetrics;
use super::record_metrics::RecordMetrics;
use super::router::LAST_ROUTE;
use super::samples::Samples;

/// The value of `Content-Type`.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// One ingest thread, as a scrape reads it.
#[derive(Clone, Debug)]
pub struct IngestSource {
    /// The address its socket is bound to.
    pub listen: SocketAddr,
    /// Receive buffer the kernel gave the socket, in bytes.
    pub receive_buffer: usize,
    /// What it counts.
    pub counters: Arc<Counters>,
}

/// How a wait ended: the `outcome` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitOutcome {
    /// With a packet.
    Packet,
    /// With what became of a message.
    Outcome,
    /// With nothing, at its deadline.
    TimedOut,
    /// At once, since its cursor is of a former epoch.
    Reset,
    /// At once, by an error of the request or a bound, or when a device of it or its API key is deleted.
    Refused,
    /// The client left.
    Abandoned,
    /// The gateway is shutting down.
    ShutDown,
}

impl WaitOutcome {
    const ALL: [Self; 7] =
        [Self::Packet, Self::Outcome, Self::TimedOut, Self::Reset, Self::Refused, Self::Abandoned, Self::ShutDown];

    const fn label(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Outcome => "outcome",
            Self::TimedOut => "timeout",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
            Self::ShutDown => "shutdown",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: &'static str,
    status: u16,
}

/// Bounds of a wait. Answers at once take less than a millisecond; the others say how long clients are willing to wait: the
/// limits they name and ours, 60 s and 600 s, each with a second more, so that what ends by its limit counts there.
const WAIT_BOUNDS: [Duration; 11] = [
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(11),
    Duration::from_secs(31),
    Duration::from_secs(61),
    Duration::from_secs(121),
    Duration::from_secs(301),
    Duration::from_secs(601),
];

/// Buckets of the times of batches.
const BATCHES: usize = BATCH_BOUNDS.len();

/// Waits that ended in one way.
type Waits = Histogram<{ WAIT_BOUNDS.len() }>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    event: &'static str,
}

/// All metrics of the process.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    scrape: Arc<Scrape>,
    requests: Family<RequestLabels, Counter>,
    /// The one of `requests` that counts most: last routes that were told.
    last_routes: OnceLock<Counter>,
    streams: Gauge,
    stream_events: Family<EventLabels, Counter>,
    connections: Gauge,
}

impl Metrics {
    pub(super) fn new(
        table: Arc<RouteTable>,
        waiters: Arc<Waiters>,
        census: Arc<Census>,
        ingest: Vec<IngestSource>,
        started: Timestamp,
    ) -> Self {
        let mut registry = Registry::with_prefix("lastroute");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("http_requests", "Requests answered, by path template and status", requests.clone());
        let streams = Gauge::default();
        registry.register("streams", "Streams of events open now", streams.clone());
        let stream_events = Family::<EventLabels, Counter>::default();
        for event in EVENT_NAMES {
            drop(stream_events.get_or_create(&EventLabels { event }));
        }
        registry.register("stream_events", "Events sent to those who follow devices", stream_events.clone());
        let connections = Gauge::default();
        registry.register("http_connections", "HTTP connections open now", connections.clone());
        let waits = WaitOutcome::ALL.map(|_| Waits::new(&WAIT_BOUNDS));
        let scrape = Arc::new(Scrape { table, waiters, census, ingest, waits, started });
        registry.register_collector(Box::new(Arc::clone(&scrape)));
        Self { registry, scrape, requests, last_routes: OnceLock::new(), streams, stream_events, connections }
    }

    /// Adds those of messages.
    pub(super) fn add_messages(&mut self, dispatch: Dispatch) {
        self.registry.register_collector(Box::new(MessageMetrics(dispatch)));
    }

    /// Adds those of the keeping of records.
    pub(super) fn add_records(&mut self, stats: Arc<Stats>) {
        self.registry.register_collector(Box::new(RecordMetrics(stats)));
    }

    /// Adds those of what is wrong.
    pub(super) fn add_health(&mut self, health: Arc<Health>, clock: Clock) {
        self.registry.register_collector(Box::new(HealthMetrics { health, clock }));
    }

    /// What the ingest threads have counted so far.
    pub(super) fn ingest(&self) -> Tally {
        self.scrape.sum()
    }

    /// When the gateway started.
    pub(super) fn started(&self) -> Timestamp {
        self.scrape.started
    }

    /// A request to a path of this template was answered.
    pub(super) fn request(&self, endpoint: &'static str, status: StatusCode) {
        self.requests.get_or_create(&RequestLabels { endpoint, status: status.as_u16() }).inc();
    }

    /// The last route of a device was told: what is counted most, without a search.
    pub(super) fn last_route_told(&self) {
        let labels = RequestLabels { endpoint: LAST_ROUTE, status: StatusCode::OK.as_u16() };
        self.last_routes.get_or_init(|| self.requests.get_or_create_owned(&labels)).inc();
    }

    /// A wait ended, this long after it was asked for.
    pub(super) fn wait(&self, outcome: WaitOutcome, took: Duration) {
        self.scrape.waits[outcome as usize].observe(took);
    }

    /// Streams of events open now.
    pub(super) fn streams(&self) -> &Gauge {
        &self.streams
    }

    /// An event of this name was sent.
    pub(super) fn stream_event(&self, event: &'static str) {
        self.stream_events.get_or_create(&EventLabels { event }).inc();
    }

    /// HTTP connections open now.
    pub(super) fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// The text.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(8192);
        prometheus_text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What is read elsewhere at the moment of a scrape.
#[derive(Debug)]
struct Scrape {
    table: Arc<RouteTable>,
    waiters: Arc<Waiters>,
    census: Arc<Census>,
    ingest: Vec<IngestSource>,
    waits: [Waits; WaitOutcome::ALL.len()],
    started: Timestamp,
}

impl Scrape {
    fn sum(&self) -> Tally {
        self.ingest.iter().map(|source| source.counters.read()).sum()
    }

    fn times(&self, of: impl Fn(&Counters) -> &Histogram<BATCHES>) -> Reading<BATCHES> {
        let readings = self.ingest.iter().map(|source| of(&source.counters).read());
        readings.fold(Reading::empty(&BATCH_BOUNDS), |sum, more| sum.plus(&more))
    }

    fn receive_buffers(&self) -> BTreeMap<SocketAddr, u64> {
        let mut buffers = BTreeMap::new();
        for source in &self.ingest {
            *buffers.entry(source.listen).or_default() += source.receive_buffer as u64;
        }
        buffers
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut samples = Samples(encoder);
        self.encode_ingest(&mut samples)?;
        self.encode_devices(&mut samples)?;
        self.encode_waits(&mut samples)?;
        self.encode_process(&mut samples)
    }
}

impl Scrape {
    fn encode_ingest(&self, samples: &mut Samples<'_>) -> fmt::Result {
        let sum = self.sum();
        let by_result = |counts: [u64; Disposition::ALL.len()]| {
            Disposition::ALL.into_iter().map(|disposition| disposition.label()).zip(counts.map(ConstCounter::new))
        };
        let datagrams = by_result(sum.datagrams).take(Disposition::DATAGRAM);
        samples.family("udp_datagrams", "Datagrams received, by what became of them.", "result", datagrams)?;
        let entries = by_result(sum.entries);
        let help = "Packets inside containers of relays, by what became of them.";
        samples.family("container_entries", help, "result", entries)?;
        for (name, help, value) in [
            ("udp_receives", "Receive calls that brought at least one datagram.", sum.receives),
            ("udp_kernel_drops", "Datagrams the kernel dropped because a receive buffer was full.", sum.kernel_drops),
            ("route_moves", "Routes that moved to another address.", sum.route_moves),
            ("acks_sent", "Acknowledgements handed to the kernel.", sum.acks_sent()),
            ("acks_failed", "Acknowledgements the kernel did not take.", sum.acks_failed()),
            ("acks_held_back", "Acknowledgements asked for while none may be sealed.", sum.acks_held_back),
            ("malformed_containers", "Authentic containers that end in a fault.", sum.malformed_containers),
            ("malformed_tdf", "Authentic TDF packets that end in a fault.", sum.malformed_tdf),
        ] {
            samples.one(name, help, ConstCounter::new(value))?;
        }
        self.encode_downlinks(&sum, samples)?;
        let help = "Time from the end of a receive call to the last answer to what it brought.";
        samples.one("ingest_batch_seconds", help, self.times(|counters| &counters.batches))?;
        let help =
            "Time from the end of the receive call that brought a packet until what waited for its device was sent.";
        samples.one("release_seconds", help, self.times(|counters| &counters.releases))?;
        let buffers = self.receive_buffers().into_iter();
        let buffers = buffers.map(|(listen, bytes)| (listen.to_string(), ConstGauge::new(bytes as f64)));
        samples.family("udp_receive_buffer_bytes", "Receive buffer the kernel gave, by address.", "listen", buffers)
    }

    fn encode_downlinks(&self, sum: &Tally, samples: &mut Samples<'_>) -> fmt::Result {
        let others = |counts: [u64; DownlinkKind::ALL.len()]| {
            let all = DownlinkKind::ALL.into_iter().zip(counts);
            // Those are counted by names of their own.
            all.filter(|(kind, _)| *kind != DownlinkKind::Ack)
                .map(|(kind, count)| (kind.label(), ConstCounter::new(count)))
        };
        let help = "Downlinks other than acknowledgements handed to the kernel, by what they are for.";
        samples.family("downlinks_sent", help, "kind", others(sum.sent))?;
        let help = "Downlinks other than acknowledgements the kernel did not take, by what they are for.";
        samples.family("downlinks_failed", help, "kind", others(sum.send_failed))?;
        let refused = RefusedAnswer::ALL.into_iter().zip(sum.answers_refused);
        let refused = refused.map(|(reason, count)| (reason.label(), ConstCounter::new(count)));
        let help = "Packets for calls that nothing was made of, by why.";
        samples.family("answers_refused", help, "reason", refused)?;
        let challenges = Challenge::ALL.into_iter().zip(sum.challenges);
        let challenges = challenges.map(|(result, count)| (result.label(), ConstCounter::new(count)));
        let help = "Challenges that ask whether a device is where a packet came from, by what became of them.";
        samples.family("challenges", help, "result", challenges)
    }

    fn encode_devices(&self, samples: &mut Samples<'_>) -> fmt::Result {
        let (devices, unregistered) = self.table.devices();
        for (name, help, value) in [
            ("devices", "Devices with a record.", devices),
            ("devices_unregistered", "Devices with a record that are not registered.", unregistered),
            ("side_records", "Devices of which unproven packets are remembered.", self.table.sides()),
        ] {
            samples.one(name, help, ConstGauge::new(value as f64))?;
        }
        let Some(Counted { at, ages }) = self.census.latest() else { return Ok(()) };
        let heard = [("5m", ages.within_5m), ("1h", ages.within_1h), ("24h", ages.within_24h)];
        let heard = heard.map(|(within, count)| (within, ConstGauge::new(count as f64)));
        samples.family("devices_heard", "Devices by how long ago they were heard.", "within", heard)?;
        let help = "Unix time at which the devices heard were counted.";
        samples.one("devices_heard_timestamp_seconds", help, ConstGauge::new(seconds(at)))
    }

    fn encode_waits(&self, samples: &mut Samples<'_>) -> fmt::Result {
        let waiting = ConstGauge::new(self.waiters.waiting() as f64);
        samples.one("waiters", "Waits for a packet that have not ended.", waiting)?;
        samples.one("wakes", "Waiters woken by a packet.", ConstCounter::new(self.waiters.woken()))?;
        let help = "Time from a packet's wake-up to when the woken waiter ran; streams apart.";
        samples.one("wake_latency_seconds", help, self.waiters.latency())?;
        let waits = WaitOutcome::ALL.map(|outcome| (outcome.label(), self.waits[outcome as usize].read()));
        let counts = waits.iter().map(|(outcome, waits)| (outcome, ConstCounter::new(waits.count())));
        samples.family("waits", "Waits for a packet that ended, by how.", "outcome", counts)?;
        samples.family("wait_seconds", "Time from a request to wait to its end, by how.", "outcome", waits)
    }

    fn encode_process(&self, samples: &mut Samples<'_>) -> fmt::Result {
        let version = [(env!("CARGO_PKG_VERSION"), ConstGauge::new(1.0))];
        samples.family("build_info", "Always 1; the label says which version runs.", "version", version)?;
        let started = ConstGauge::new(seconds(self.started));
        samples.one("start_time_seconds", "Unix time at which the gateway started.", started)
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableConfig;
    use crate::waiters::WaitersConfig;

    fn metrics(ingest: Vec<IngestSource>) -> Metrics {
        let table = Arc::new(RouteTable::new(&TableConfig::default()));
        let waiters = Arc::new(Waiters::new(&WaitersConfig::default()));
        let census = Arc::new(Census::new(Arc::clone(&table), Clock::default()));
        Metrics::new(table, waiters, census, ingest, Timestamp(1_795_402_800_123))
    }

    fn source(listen: &str, tally: &Tally) -> IngestSource {
        let counters = Arc::new(Counters::default());
        counters.publish(&mut tally.clone());
        counters.batches.observe(Duration::from_micros(30));
        IngestSource { listen: listen.parse().unwrap(), receive_buffer: 4096, counters }
    }

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "{line}\nnot in\n{text}");
    }

    #[test]
    fn every_result_of_a_datagram_is_there_before_the_first_one() {
        let text = metrics(Vec::new()).text().unwrap();
        for disposition in &Disposition::ALL[..Disposition::DATAGRAM] {
            has(&text, &format!("lastroute_udp_datagrams_total{{result=\"{}\"}} 0", disposition.label()));
        }
        assert!(!text.contains("udp_datagrams_total{result=\"bad_version\"}"));
        has(&text, "lastroute_container_entries_total{result=\"bad_version\"} 0");
        has(&text, "lastroute_waits_total{outcome=\"packet\"} 0");
        has(&text, "lastroute_stream_events_total{event=\"reset\"} 0");
        has(&text, concat!("lastroute_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1.0"));
        has(&text, "lastroute_start_time_seconds 1795402800.123");
    }

    #[test]
    fn threads_are_summed_and_buffers_named_by_listener() {
        let mut tally = Tally { route_moves: 2, kernel_drops: 5, ..Tally::default() };
        tally.datagram(Disposition::BadTag);
        let ingest = ["127.0.0.1:1", "127.0.0.1:1", "[::1]:2"].map(|listen| source(listen, &tally));
        let text = metrics(ingest.to_vec()).text().unwrap();
        has(&text, "lastroute_udp_datagrams_total{result=\"bad_tag\"} 3");
        has(&text, "lastroute_route_moves_total 6");
        has(&text, "lastroute_udp_kernel_drops_total 15");
        has(&text, "lastroute_udp_receive_buffer_bytes{listen=\"127.0.0.1:1\"} 8192.0");
        has(&text, "lastroute_udp_receive_buffer_bytes{listen=\"[::1]:2\"} 4096.0");
        has(&text, "lastroute_ingest_batch_seconds_bucket{le=\"2.5e-05\"} 0");
        has(&text, "lastroute_ingest_batch_seconds_bucket{le=\"5e-05\"} 3");
        has(&text, "lastroute_ingest_batch_seconds_bucket{le=\"+Inf\"} 3");
        has(&text, "lastroute_ingest_batch_seconds_count 3");
    }

    #[test]
    fn a_wait_counts_under_its_own_outcome() {
        let metrics = metrics(Vec::new());
        for (count, outcome) in WaitOutcome::ALL.into_iter().enumerate() {
            (0..count).for_each(|_| metrics.wait(outcome, Duration::from_secs(3)));
        }
        let text = metrics.text().unwrap();
        for (count, outcome) in WaitOutcome::ALL.into_iter().enumerate() {
            has(&text, &format!("lastroute_waits_total{{outcome=\"{}\"}} {count}", outcome.label()));
            has(&text, &format!("lastroute_wait_seconds_count{{outcome=\"{}\"}} {count}", outcome.label()));
        }
    }

    #[test]
    fn every_family_has_help_and_a_type_and_occurs_once() {
        let metrics = metrics(vec![source("127.0.0.1:1", &Tally::default())]);
        metrics.request("/health", StatusCode::OK);
        metrics.wait(WaitOutcome::Reset, Duration::from_millis(60_001));
        let text = metrics.text().unwrap();
        let types: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert_eq!(types.len(), text.lines().filter(|line| line.starts_with("# HELP ")).count());
        for line in &types {
            let (name, kind) = line.split_once(' ').unwrap();
            assert!(name.starts_with("lastroute_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert_eq!(types.iter().filter(|other| other.starts_with(&format!("{name} "))).count(), 1);
        }
        has(&text, "lastroute_http_requests_total{endpoint=\"/health\",status=\"200\"} 1");
        has(&text, "lastroute_waits_total{outcome=\"reset\"} 1");
        has(&text, "lastroute_wait_seconds_bucket{outcome=\"reset\",le=\"31\"} 0");
        has(&text, "lastroute_wait_seconds_bucket{outcome=\"reset\",le=\"61\"} 1");
        has(&text, "lastroute_wait_seconds_sum{outcome=\"reset\"} 60.001");
    }
}
