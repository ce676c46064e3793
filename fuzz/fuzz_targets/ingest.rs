//! The whole ingest step, on any bytes and on any authentic packets: what a stranger sends changes nothing and is not
//! answered, what counts counts once and is on record, a relay's word touches no direct route, a route moves by a proved packet,
//! the answer to a challenge that was sent there, or a packet after three that nobody answered for; and what waits for a device
//! leaves once, for that device, and for nothing but a packet that counts or answers.
//!
//! An input is a byte of settings and a list of [`Draft`]s.

#[path = "ingest/draft.rs"]
mod draft;
#[path = "ingest/waiting.rs"]
mod waiting;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use draft::{DEVICE_KEY, DEVICES, Draft, NETWORK, open, root};
use lastroute::auth::keys::{DeviceKey, KeyPair, KeyRing};
use lastroute::auth::nonce::OwnNonces;
use lastroute::clock::Timestamp;
use lastroute::downlink::Downlinks;
use lastroute::downlink::channel::channel;
use lastroute::downlink::outbox::OutboxConfig;
use lastroute::id::DeviceId;
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline, RefusalLog};
use lastroute::ingest::replies::Replies;
use lastroute::ingest::trace::Decision;
use lastroute::metrics::{Disposition, DownlinkKind};
use lastroute::table::route::{Snapshot, Trust};
use lastroute::table::sending::Via;
use lastroute::table::{RoutePolicy, RouteTable, TableConfig, Unregistered};
use lastroute::waiters::{Waiters, WaitersConfig};
use lastroute::wire::container::entries;
use lastroute::wire::frame::{Flags, Frame, Header, Level, PacketType};
use waiting::Left;

const START: Timestamp = Timestamp::from_gps(17_123 * 86_400 + 43_200);
/// Deriving its public half for each input would be most of the work.
static PAIR: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::from_private([9; 32]));

struct Gateway {
    core: Arc<Core>,
    pipeline: Pipeline,
    left: Left,
}

/// What the table says of each device, and how many devices and side records it has.
type State = ([Option<Snapshot>; DEVICES], (usize, usize), usize);

impl Gateway {
    fn new(settings: u8) -> Self {
        let keys = KeyRing::default();
        keys.set_network(NETWORK, root(Level::Network, DeviceId(0)));
        for id in 0..3 {
            let key_id = (id < 2).then_some(DEVICE_KEY);
            keys.set_device(DeviceId(id), DeviceKey { key_id, root: root(Level::Device, DeviceId(id)) }, None);
        }
        let unregistered = if settings & 1 == 0 { Unregistered::Allow } else { Unregistered::Deny };
        let bounds = TableConfig { unregistered_limit: 3, side_limit: 2, shards: 2, ..TableConfig::default() };
        let table = RouteTable::new(&TableConfig { unregistered, ..bounds });
        table.register(DeviceId(0), START);
        table.register(DeviceId(4), START);
        let downlinks = Downlinks::new(OutboxConfig::default(), channel().0);
        downlinks.allowance.extend(u32::MAX);
        let core = Arc::new(Core {
            keys: Arc::new(keys),
            table: Arc::new(table),
            waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
            downlinks: Arc::new(downlinks),
            nonces: Arc::new(OwnNonces::new(&PAIR, START)),
            policy: if settings & 2 == 0 { RoutePolicy::Newest } else { RoutePolicy::Strict },
            refusals: RefusalLog::default(),
            moves: Arc::default(),
            traces: Arc::default(),
        });
        if settings & 4 != 0 {
            waiting::fill(&core, START);
        }
        Self { pipeline: Pipeline::new(Arc::clone(&core)), core, left: Left::default() }
    }

    fn state(&self) -> State {
        let table = &self.core.table;
        (std::array::from_fn(|id| table.snapshot(DeviceId(id as u64))), table.devices(), table.sides())
    }

    fn feed(&mut self, bytes: &[u8], truncated: bool, source: SocketAddr, at: Timestamp) -> (Disposition, Vec<u8>) {
        let (mut bytes, mut replies) = (bytes.to_vec(), Replies::default());
        self.pipeline.prefetch(std::iter::once(&bytes[..]));
        let datagram = Datagram { bytes: &mut bytes, truncated, source, via: Via::UNKNOWN, at };
        let disposition = self.pipeline.take(datagram, &mut replies);
        self.pipeline.wake();
        let counts = disposition == Disposition::Accepted || self.answered(&bytes, disposition);
        self.left.check(&replies, counts, at);
        let acks = replies.iter().filter(|reply| reply.kind == DownlinkKind::Ack);
        (disposition, acks.flat_map(|reply| reply.bytes.to_vec()).collect())
    }

    /// Whether a copy answered a challenge all the same.
    fn answered(&self, bytes: &[u8], disposition: Disposition) -> bool {
        let copies = matches!(disposition, Disposition::Duplicate | Disposition::TooOld);
        let device = Frame::claimed_device(bytes).filter(|_| copies);
        let latest = device.and_then(|device| self.core.traces.latest(device, 1).into_iter().next());
        latest.is_some_and(|latest| matches!(latest.decision, Decision::Refused { is_answer: true, .. }))
    }

    /// Takes in a datagram and compares what became of it with what the rules promise whoever sent it.
    fn take(&mut self, bytes: &[u8], truncated: bool, source: SocketAddr, at: Timestamp) {
        use Disposition::{Accepted, DayLimited, Duplicate, NotRegistered, Reflected, TooOld};
        let (before, tally) = (self.state(), self.pipeline.tally.clone());
        let contest = Frame::claimed_device(bytes).and_then(|device| self.core.table.contest(device, at));
        let unanswered = contest.map_or(0, |contest| contest.unanswered[0]);
        let (disposition, reply) = self.feed(bytes, truncated, source, at);
        let after = self.state();
        assert!(after.1.1 <= 3 && after.2 <= 2, "bounds hold");
        let mut expected = tally.datagrams;
        expected[disposition as usize] += 1;
        assert_eq!(self.pipeline.tally.datagrams, expected);
        let entries_taken = self.pipeline.tally.entries.iter().sum::<u64>() - tally.entries.iter().sum::<u64>();
        let canonical = SocketAddr::new(source.ip().to_canonical(), source.port());
        if self.answered(bytes, disposition) {
            let (header, payload) = open(bytes).expect("authentic");
            assert_eq!((reply.len(), entries_taken), (0, 0));
            self.check_answer(&header, &payload, canonical);
            return;
        }
        if disposition != Accepted {
            assert_eq!((&after, reply.len(), entries_taken), (&before, 0, 0), "{disposition:?}");
        }
        let opened = open(bytes).filter(|_| !truncated);
        if !matches!(disposition, Accepted | Duplicate | NotRegistered | Reflected | TooOld) {
            // Device 2 is known by the first key id it uses, and by no other from then on.
            let refusable = |header: Header| header.device_id == DeviceId(2) || disposition == DayLimited;
            assert!(opened.is_none_or(|(header, _)| refusable(header)), "{disposition:?}");
            return;
        }
        let (header, payload) = opened.expect("authentic");
        if disposition != Accepted {
            return;
        }
        assert!(!header.packet_type.is_downlink_only());
        self.check_reply(&header, &reply, source, at);
        for id in (0..DEVICES).filter(|id| *id != header.device_id.0 as usize) {
            let [was, is] = [&before, &after].map(|state| state.0[id].and_then(|device| device.direct));
            assert!(is == was || is.is_none(), "others move no direct route");
        }
        if header.packet_type == PacketType::RECEIVED_EPACKET {
            assert_eq!(entries_taken, entries(&payload).filter(Result::is_ok).count() as u64);
            return;
        }
        assert_eq!(entries_taken, 0);
        let [was, is] = [&before, &after].map(|state| state.0[header.device_id.0 as usize]);
        let is = is.expect("what counts is on record");
        let last = is.last_packet.expect("what counts is the last packet");
        assert_eq!(is.cursor.n, was.map_or(0, |was| was.cursor.n) + 1);
        assert_eq!((last.packet_type, last.level), (header.packet_type, header.level()));
        assert_eq!((last.gps_time, last.sequence), (header.gps_time, header.sequence));
        assert_eq!((last.source, last.received_at), (canonical, at));
        let [from, to] = [was, Some(is)].map(|state| state?.direct.map(|route| route.address));
        // Its acknowledgement may have come back since.
        let mut decided =
            self.core.traces.latest(header.device_id, usize::MAX).into_iter().map(|latest| latest.decision);
        let counted = decided.find(|decision| matches!(decision, Decision::Counted { .. }));
        let is_answer = matches!(counted, Some(Decision::Counted { is_answer: true, .. }));
        if is_answer {
            self.check_answer(&header, &payload, canonical);
        }
        if from != to {
            let device_level = header.level() == Level::Device || !self.core.keys.has_device(header.device_id);
            let may_move = last.proved && (device_level || self.core.policy == RoutePolicy::Newest);
            let silent = was.and_then(|was| was.direct).map_or(0, |route| at.0.abs_diff(route.received_at.0));
            let nobody_answered = unanswered >= 3 && silent >= 60_000;
            assert!(to == Some(canonical) && (from.is_none() || may_move || is_answer || nobody_answered));
        }
        self.check_copy(bytes, at, after);
    }

    /// Rule R6: what answers echoes what was sent to where it comes from, and the route leads there.
    fn check_answer(&self, header: &Header, payload: &[u8], source: SocketAddr) {
        assert_eq!(header.packet_type, PacketType::ECHO_RSP);
        assert!(self.left.was_asked(header.device_id, source, payload), "nobody was asked for that there");
        let direct = self.core.table.snapshot(header.device_id).and_then(|device| device.direct);
        assert_eq!(direct.map(|route| (route.address, route.trust)), Some((source, Trust::Verified)));
    }

    /// Rule R4: a copy counts nowhere, and moves nothing unless it answers.
    fn check_copy(&mut self, bytes: &[u8], at: Timestamp, before: State) {
        let elsewhere = SocketAddr::from(([203, 0, 113, 1], 1));
        let again = self.feed(bytes, false, elsewhere, at).0;
        if self.answered(bytes, again) {
            // It echoes what was sent there, though it came from somewhere else first (rule R6).
            let (header, payload) = open(bytes).expect("authentic");
            return self.check_answer(&header, &payload, elsewhere);
        }
        assert_eq!((again, self.state()), (Disposition::Duplicate, before));
    }

    /// Rule R7: at the level and by the key of the packet that asks; and rule R2 for what comes back.
    fn check_reply(&mut self, asking: &Header, reply: &[u8], source: SocketAddr, at: Timestamp) {
        assert_eq!(reply.is_empty(), !asking.flags.contains(Flags::ACK_REQUEST));
        if reply.is_empty() {
            return;
        }
        let (header, payload) = open(reply).expect("its key is the gateway's");
        assert_eq!((header.packet_type, header.level()), (PacketType::ACK, asking.level()));
        assert_eq!((header.key_id, header.device_id), (asking.key_id, asking.device_id));
        assert_eq!((header.gps_time, payload), (at.gps(), asking.sequence.to_le_bytes().to_vec()));
        assert_eq!(self.feed(reply, false, source, at), (Disposition::Reflected, Vec::new()));
    }
}

/// One input.
pub(crate) fn run(data: &[u8]) {
    let Some((settings, mut input)) = data.split_first() else { return };
    let mut gateway = Gateway::new(*settings);
    let (mut at, mut earlier) = (START, Vec::new());
    while let Some(draft) = Draft::next(&mut input, at.gps()) {
        let [source, wait] = draft.around;
        let truncated = source & 0x80 != 0;
        let ip = match source % 4 {
            3 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            2 => IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201]),
            last => IpAddr::from([192, 0, 2, last + 1]),
        };
        let bytes = draft.datagram(&gateway.core, at.gps(), &earlier, gateway.left.cookie());
        gateway.take(&bytes, truncated, SocketAddr::new(ip, 6200), at);
        earlier.push(bytes);
        at = match wait {
            // The wall clock is set back now and then.
            255 => Timestamp(at.0 - 600_000),
            128.. => at.after(Duration::from_secs(u64::from(wait - 127) * 60)),
            _ => at.after(Duration::from_secs(u64::from(wait))),
        };
    }
}
