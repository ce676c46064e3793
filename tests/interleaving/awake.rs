//! What leaves with the packets of a device, and who hears of them, with real packets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Tally;
use std::task::Waker;

use futures_util::future::{Either, select};
use lastroute::auth::keys::{DeviceKey, Interface, KeyPair, KeyRing, RootKey};
use lastroute::auth::nonce::OwnNonces;
use lastroute::auth::{open_with, seal_with};
use lastroute::clock::Timestamp;
use lastroute::downlink::Downlinks;
use lastroute::downlink::channel::channel;
use lastroute::downlink::intent::{Intent, Retry, Sealing};
use lastroute::downlink::outbox::OutboxConfig;
use lastroute::id::KeyId;
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline, RefusalLog};
use lastroute::ingest::replies::Replies;
use lastroute::metrics::{Disposition, DownlinkKind};
use lastroute::table::rules::NO_TIME_START;
use lastroute::table::sending::Via;
use lastroute::table::{RoutePolicy, RouteTable, TableConfig};
use lastroute::waiters::{Waiters, WaitersConfig};
use lastroute::wire::frame::{Flags, Frame, Header, Layout, PacketType};
use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread;

use super::{DEVICE, explore};

pub(super) const NOW: Timestamp = Timestamp::from_gps(1_479_435_219);
const NETWORK: KeyId = KeyId::from_le_bytes([7, 0, 0]);

/// A gateway without sockets, and a device for which something may wait.
pub(super) struct Awake {
    pub(super) core: Arc<Core>,
    sent: std::sync::Mutex<Vec<i64>>,
    /// Those that no thread uses now: making one takes as long as some packets.
    pipelines: std::sync::Mutex<Vec<Pipeline>>,
}

impl Awake {
    pub(super) fn new() -> Arc<Self> {
        let keys = KeyRing::default();
        keys.set_network(NETWORK, root());
        let downlinks = Downlinks::new(OutboxConfig::default(), channel().0);
        downlinks.allowance.extend(u32::MAX);
        let core = Core {
            keys: Arc::new(keys),
            // Of few shards: a table is made for every schedule.
            table: Arc::new(RouteTable::new(&TableConfig { shards: 4, ..TableConfig::default() })),
            waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
            downlinks: Arc::new(downlinks),
            nonces: Arc::new(OwnNonces::new(&KeyPair::from_private([3; 32]), NOW)),
            policy: RoutePolicy::Newest,
            refusals: RefusalLog::default(),
            moves: Arc::default(),
            traces: Arc::default(),
        };
        Arc::new(Self {
            core: Arc::new(core),
            sent: std::sync::Mutex::default(),
            pipelines: std::sync::Mutex::default(),
        })
    }

    /// As whoever accepts messages does it: first the outbox, then the mark.
    fn accept(&self, message: i64, sealing: Sealing) {
        let intent = Intent {
            message,
            packet_type: PacketType(200),
            sealing,
            payload: [message as u8].into(),
            call: None,
            expires_at: Some(NOW.after(std::time::Duration::from_secs(60))),
            retry: Retry::Never,
            if_route: None,
        };
        self.core.downlinks.outbox.add(DEVICE, intent).unwrap();
        self.core.table.expect(DEVICE);
    }

    /// A packet comes in, which releases unless it may be a recording; what leaves is written down.
    pub(super) fn hear(&self, gps_time: u32, sequence: u16) {
        self.take(PacketType::TDF, gps_time, sequence, &[], home());
    }

    /// A packet comes in. What is to be echoed, if anything is.
    fn take(
        &self,
        packet_type: PacketType,
        gps_time: u32,
        sequence: u16,
        payload: &[u8],
        source: SocketAddr,
    ) -> Option<Vec<u8>> {
        let header = Header {
            packet_type,
            flags: Flags(0),
            key_id: NETWORK,
            device_id: DEVICE,
            gps_time,
            sequence,
            entropy: sequence,
        };
        let mut bytes = Vec::new();
        let key = root().day_key(Interface::Udp, header.rotation());
        seal_with(&key, &header, Layout::Unversioned, payload, &mut bytes);
        let datagram = Datagram { bytes: &mut bytes, truncated: false, source, via: Via::UNKNOWN, at: NOW };
        let mut replies = Replies::default();
        let idle = self.pipelines.lock().unwrap().pop();
        let mut pipeline = idle.unwrap_or_else(|| Pipeline::new(Arc::clone(&self.core)));
        assert_eq!(pipeline.take(datagram, &mut replies), Disposition::Accepted);
        let intents = replies.iter().filter(|reply| reply.kind == DownlinkKind::Intent);
        let intents = intents.map(|reply| {
            assert_eq!(reply.to, source, "to where the packet came from");
            assert_eq!(reply.to, home(), "which is where the device is");
            i64::from(opened(reply.bytes)[0])
        });
        self.sent.lock().unwrap().extend(intents);
        pipeline.wake();
        self.pipelines.lock().unwrap().push(pipeline);
        replies.iter().find(|reply| reply.kind == DownlinkKind::Echo).map(|reply| opened(reply.bytes))
    }
}

fn home() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 6200))
}

fn root() -> RootKey {
    RootKey::new([1; 32])
}

/// What a downlink says.
fn opened(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
    let key = root().day_key(Interface::Udp, frame.header().rotation());
    open_with(&key, frame).unwrap().payload().to_vec()
}

#[test]
fn what_is_accepted_while_a_device_speaks_leaves_once_and_in_order_with_this_packet_or_the_next() {
    let (early, late) = (Arc::new(Tally::new(0)), Arc::new(Tally::new(0)));
    let (for_early, for_late) = (Arc::clone(&early), Arc::clone(&late));
    explore(move || {
        let awake = Awake::new();
        let now = NOW.gps();
        // The first is challenged, since it does not know the time.
        let speakers = [NO_TIME_START, now].map(|gps_time| {
            let awake = Arc::clone(&awake);
            thread::spawn(move || awake.hear(gps_time, 1))
        });
        awake.accept(1, Sealing::Best);
        awake.accept(2, Sealing::Best);
        awake.accept(3, Sealing::Device);
        for speaker in speakers {
            speaker.join().unwrap();
        }
        let tally = if awake.sent.lock().unwrap().is_empty() { &for_late } else { &for_early };
        tally.fetch_add(1, Ordering::Relaxed);
        awake.hear(now, 2);
        assert_eq!(*awake.sent.lock().unwrap(), [1, 2], "the third waits for a key");
        awake.core.keys.set_device(DEVICE, DeviceKey { key_id: Some(NETWORK), root: root() }, None);
        awake.hear(now, 3);
        assert_eq!(*awake.sent.lock().unwrap(), [1, 2, 3]);
        assert_eq!(awake.core.downlinks.outbox.waiting(), 0);
    });
    assert!(early.load(Ordering::Relaxed) > 100 && late.load(Ordering::Relaxed) > 100, "either happens");
}

#[test]
fn what_waits_leaves_once_to_where_a_challenge_was_answered_while_others_send_recordings() {
    let (with_answer, later) = (Arc::new(Tally::new(0)), Arc::new(Tally::new(0)));
    let (for_answer, for_later) = (Arc::clone(&with_answer), Arc::clone(&later));
    explore(move || {
        let awake = Awake::new();
        awake.accept(1, Sealing::Best);
        let cookie = awake.take(PacketType::TDF, NO_TIME_START, 1, &[], home()).unwrap();
        let answerer = thread::spawn({
            let awake = Arc::clone(&awake);
            move || awake.take(PacketType::ECHO_RSP, NO_TIME_START, 2, &cookie, home())
        });
        let attacker = thread::spawn({
            let awake = Arc::clone(&awake);
            let elsewhere = SocketAddr::from(([198, 51, 100, 2], 41_000));
            move || awake.take(PacketType::TDF, NO_TIME_START, 3, &[], elsewhere)
        });
        awake.accept(2, Sealing::Best);
        answerer.join().unwrap();
        attacker.join().unwrap();
        let tally = match awake.sent.lock().unwrap()[..] {
            [1, 2] => &for_answer,
            [1] => &for_later,
            ref other => panic!("{other:?}"),
        };
        tally.fetch_add(1, Ordering::Relaxed);
        awake.hear(NOW.gps(), 4);
        assert_eq!(*awake.sent.lock().unwrap(), [1, 2]);
        assert_eq!(awake.core.downlinks.outbox.waiting(), 0);
    });
    assert!(with_answer.load(Ordering::Relaxed) > 100 && later.load(Ordering::Relaxed) > 100, "either happens");
}

/// What tells everybody that it is over: to the waiters it is one more thing that a wait is raced against.
#[derive(Default)]
struct End {
    has_come: AtomicBool,
    waiting: shuttle::sync::Mutex<Vec<Waker>>,
}

impl End {
    fn come(&self) {
        self.has_come.store(true, Ordering::SeqCst);
        for waker in self.waiting.lock().unwrap().drain(..) {
            waker.wake();
        }
    }

    async fn comes(&self) {
        std::future::poll_fn(|context| {
            self.waiting.lock().unwrap().push(context.waker().clone());
            if self.has_come.load(Ordering::SeqCst) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

#[test]
fn of_waits_that_are_raced_against_an_end_each_has_heard_or_is_told_and_nobody_is_left() {
    let (heard, told) = (Arc::new(Tally::new(0)), Arc::new(Tally::new(0)));
    let (for_heard, for_told) = (Arc::clone(&heard), Arc::clone(&told));
    explore(move || {
        let (awake, end) = (Awake::new(), Arc::new(End::default()));
        let waiters = [(); 2].map(|()| {
            let (awake, end) = (Arc::clone(&awake), Arc::clone(&end));
            thread::spawn(move || {
                let look = || Some(awake.core.table.cursor(DEVICE).n).filter(|n| *n > 0);
                let wait = std::pin::pin!(awake.core.waiters.wait(DEVICE, look));
                let ended = std::pin::pin!(end.comes());
                match block_on(select(wait, ended)) {
                    Either::Left((heard, _)) => Some(heard.unwrap()),
                    Either::Right(((), _)) => None,
                }
            })
        });
        // A batch that was begun is taken to its end.
        let ingest = thread::spawn({
            let (awake, end) = (Arc::clone(&awake), Arc::clone(&end));
            move || {
                for sequence in 1..=2 {
                    if end.has_come.load(Ordering::SeqCst) {
                        break;
                    }
                    awake.hear(NOW.gps(), sequence);
                }
            }
        });
        end.come();
        let heard = waiters.map(|waiter| waiter.join().unwrap());
        ingest.join().unwrap();
        let counted = awake.core.table.cursor(DEVICE).n;
        for heard in heard {
            assert!(heard.is_none_or(|n| n <= counted));
            let tally = if heard.is_some() { &for_heard } else { &for_told };
            tally.fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(awake.core.waiters.waiting(), 0);
    });
    assert!(heard.load(Ordering::Relaxed) > 100 && told.load(Ordering::Relaxed) > 100, "either happens");
}
