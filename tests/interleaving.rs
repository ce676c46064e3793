//! The waiters and the outbox under every order of steps that the shuttle scheduler comes up with: a packet that falls between
//! the look and the sleep is never lost, a wait that is given up leaves nothing, nobody goes on waiting for a deleted device,
//! who listens to an organisation hears of every packet or sees it, and what is put into the outbox leaves with a packet.
//!
//! `cargo test --locked --features shuttle --test interleaving`. A waiter that nobody wakes is a deadlock, which the
//! scheduler reports. It runs all atomic operations as sequentially consistent ones: what the fences are for is argued in
//! `Waiters::wake`.
#![allow(clippy::unwrap_used, reason = "scenarios are plain functions, and all of them are tests")]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Tally;
use std::task::{Context, Wake, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lastroute::auth::keys::{DeviceKey, Interface, KeyPair, KeyRing, RootKey};
use lastroute::auth::nonce::OwnNonces;
use lastroute::auth::{open_with, seal_with};
use lastroute::clock::Timestamp;
use lastroute::downlink::Downlinks;
use lastroute::downlink::channel::channel;
use lastroute::downlink::intent::{Intent, Retry, Sealing};
use lastroute::downlink::outbox::OutboxConfig;
use lastroute::id::{Cursor, DeviceId, KeyId};
use lastroute::ingest::pipeline::{Core, Datagram, Pipeline, RefusalLog};
use lastroute::ingest::replies::Replies;
use lastroute::metrics::{Disposition, DownlinkKind};
use lastroute::table::rules::NO_TIME_START;
use lastroute::table::sending::Via;
use lastroute::table::{RoutePolicy, RouteTable, TableConfig};
use lastroute::waiters::feeds::{Listener, Read, Said};
use lastroute::waiters::{Ended, Full, Subject, Waiters, WaitersConfig};
use lastroute::wire::frame::{Flags, Frame, Header, Layout, PacketType};
use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use shuttle::thread;

const DEVICE: DeviceId = DeviceId(7);

/// Random schedules find what needs many steps apart, those of PCT what needs few steps at the wrong moment.
const SCHEDULES: usize = 5000;
const PCT_DEPTH: usize = 3;

/// A device whose packets are merely counted, and those who wait for it.
struct Gateway {
    packets: AtomicU64,
    /// Nothing more can come.
    deleted: AtomicBool,
    waiters: Waiters,
}

/// What one finds who waits for a device that may be deleted.
#[derive(Debug, PartialEq, Eq)]
enum Served {
    Heard,
    NoMore,
}

type Wait = Pin<Box<dyn Future<Output = Result<u64, Ended>> + Send>>;

impl Gateway {
    fn new(per_device: usize) -> Arc<Self> {
        let waiters = Waiters::new(&WaitersConfig { per_device, total: 100 });
        Arc::new(Self { packets: AtomicU64::new(0), deleted: AtomicBool::new(false), waiters })
    }

    /// As the ingest does it: first the packet, then the wake-up.
    fn hear(&self) {
        self.packets.fetch_add(1, Ordering::SeqCst);
        self.waiters.wake(DEVICE);
    }

    /// As the registry does it: first the deletion, then the dismissal.
    fn delete(&self) {
        self.deleted.store(true, Ordering::SeqCst);
        self.waiters.dismiss(DEVICE);
    }

    /// Waits for a packet, or until the device is found to be deleted.
    fn wait_while_served(self: &Arc<Self>) -> Result<Served, Ended> {
        let look = || {
            let heard = self.packets.load(Ordering::SeqCst) > 0;
            let deleted = self.deleted.load(Ordering::SeqCst);
            if deleted { Some(Served::NoMore) } else { heard.then_some(Served::Heard) }
        };
        block_on(self.waiters.wait(DEVICE, look))
    }

    /// Waits for a packet after the first `after`.
    fn wait(self: &Arc<Self>, after: u64) -> Wait {
        let gateway = Arc::clone(self);
        Box::pin(async move {
            let look = || Some(gateway.packets.load(Ordering::SeqCst)).filter(|packets| *packets > after);
            gateway.waiters.wait(DEVICE, look).await
        })
    }

    /// Whoever was left behind in the queue would take one of the places.
    fn assert_nothing_left(self: &Arc<Self>, places: usize) {
        assert_eq!(self.waiters.waiting(), 0);
        let mut waits: Vec<_> = (0..places).map(|_| self.wait(u64::MAX)).collect();
        assert!(waits.iter_mut().all(|wait| poll(wait, Waker::noop()).is_pending()));
        assert_eq!(poll(&mut self.wait(0), Waker::noop()), std::task::Poll::Ready(Err(Full::Device.into())));
    }
}

fn poll(wait: &mut Wait, waker: &Waker) -> std::task::Poll<Result<u64, Ended>> {
    wait.as_mut().poll(&mut Context::from_waker(waker))
}

fn explore(scenario: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(scenario.clone(), SCHEDULES);
    shuttle::check_pct(scenario, SCHEDULES, PCT_DEPTH);
}

#[test]
fn a_waiter_and_one_packet_come_out_right_in_every_order_there_is() {
    let schedules = Arc::new(Tally::new(0));
    let seen = Arc::clone(&schedules);
    let scenario = move || {
        seen.fetch_add(1, Ordering::Relaxed);
        let gateway = Gateway::new(1);
        let waiter = thread::spawn({
            let gateway = Arc::clone(&gateway);
            move || block_on(gateway.wait(0))
        });
        gateway.hear();
        assert_eq!(waiter.join().unwrap(), Ok(1));
        assert_eq!(gateway.waiters.waiting(), 0);
    };
    shuttle::check_dfs(scenario, None);
    assert!(schedules.load(Ordering::Relaxed) > 1000, "too few for all orders of about 6 and 7 steps");
}

#[test]
fn a_waiter_and_a_deletion_come_out_right_in_every_order_there_is() {
    let (dismissed, looked) = (Arc::new(Tally::new(0)), Arc::new(Tally::new(0)));
    let (seen_dismissed, seen_looked) = (Arc::clone(&dismissed), Arc::clone(&looked));
    let scenario = move || {
        let gateway = Gateway::new(1);
        let waiter = thread::spawn({
            let gateway = Arc::clone(&gateway);
            move || gateway.wait_while_served()
        });
        gateway.delete();
        let seen = match waiter.join().unwrap() {
            Err(Ended::Dismissed) => &seen_dismissed,
            Ok(Served::NoMore) => &seen_looked,
            other => panic!("{other:?}"),
        };
        seen.fetch_add(1, Ordering::Relaxed);
        gateway.assert_nothing_left(1);
    };
    shuttle::check_dfs(scenario, None);
    assert!(dismissed.load(Ordering::Relaxed) > 100 && looked.load(Ordering::Relaxed) > 100, "either can come first");
}

#[test]
fn whoever_waits_while_a_device_speaks_and_is_deleted_ends() {
    explore(|| {
        let gateway = Gateway::new(2);
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let gateway = Arc::clone(&gateway);
                thread::spawn(move || gateway.wait_while_served())
            })
            .collect();
        let speaker = thread::spawn({
            let gateway = Arc::clone(&gateway);
            move || gateway.hear()
        });
        gateway.delete();
        for waiter in waiters {
            assert_ne!(waiter.join().unwrap(), Err(Full::Device.into()));
        }
        speaker.join().unwrap();
        gateway.assert_nothing_left(2);
    });
}

fn waiter_recorder_and_canceller() {
    let gateway = Gateway::new(2);
    let waiter = thread::spawn({
        let gateway = Arc::clone(&gateway);
        move || block_on(gateway.wait(0))
    });
    let canceller = thread::spawn({
        let gateway = Arc::clone(&gateway);
        move || _ = poll(&mut gateway.wait(0), Waker::noop())
    });
    gateway.hear();
    assert_eq!(waiter.join().unwrap(), Ok(1));
    canceller.join().unwrap();
    gateway.assert_nothing_left(2);
}

#[test]
fn a_packet_between_the_look_and_the_sleep_is_not_lost() {
    explore(waiter_recorder_and_canceller);
}

/// As many are waited for at once: each by a wait of its own, all under one task.
#[test]
fn one_who_waits_for_two_devices_hears_of_both_in_every_order() {
    explore(|| {
        let gateways = [Gateway::new(1), Gateway::new(1)];
        let waiter = thread::spawn({
            let mut waits: FuturesUnordered<_> = gateways.iter().map(|gateway| gateway.wait(0)).collect();
            move || {
                block_on(async {
                    while let Some(heard) = waits.next().await {
                        assert_eq!(heard, Ok(1));
                    }
                });
            }
        });
        let speakers = gateways.clone().map(|gateway| thread::spawn(move || gateway.hear()));
        for speaker in speakers {
            speaker.join().unwrap();
        }
        waiter.join().unwrap();
        for gateway in &gateways {
            gateway.assert_nothing_left(1);
        }
    });
}

#[test]
fn two_waiters_that_go_on_waiting_see_every_packet_or_a_later_one() {
    explore(|| {
        let gateway = Gateway::new(2);
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let gateway = Arc::clone(&gateway);
                thread::spawn(move || {
                    let first = block_on(gateway.wait(0)).unwrap();
                    if first < 2 { block_on(gateway.wait(first)).unwrap() } else { first }
                })
            })
            .collect();
        gateway.hear();
        gateway.hear();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), 2);
        }
        gateway.assert_nothing_left(2);
    });
}

/// A waker that writes down whose it is.
struct Named(char, Arc<std::sync::Mutex<String>>);

impl Wake for Named {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

#[test]
fn one_packet_wakes_in_the_order_of_arrival_while_others_come_and_go() {
    explore(|| {
        let gateway = Gateway::new(3);
        let order = Arc::<std::sync::Mutex<String>>::default();
        let waker = |name| Waker::from(Arc::new(Named(name, Arc::clone(&order))));
        let [mut first, mut second, mut third] = [9, 9, 9].map(|after| gateway.wait(after));
        assert!(poll(&mut first, &waker('a')).is_pending());
        assert!(poll(&mut second, &waker('b')).is_pending());
        let canceller = thread::spawn(move || drop(first));
        let newcomer = {
            let waker = waker('c');
            thread::spawn(move || {
                assert!(poll(&mut third, &waker).is_pending());
                third
            })
        };
        gateway.hear();
        canceller.join().unwrap();
        let third = newcomer.join().unwrap();
        let woken = order.lock().unwrap().clone();
        assert!(["b", "ab", "bc", "abc"].contains(&woken.as_str()), "{woken}");
        assert_eq!(gateway.waiters.woken(), woken.len() as u64);
        drop((second, third));
        gateway.assert_nothing_left(3);
    });
}

#[test]
fn no_more_than_the_bound_wait_at_once() {
    let refused = Arc::new(Tally::new(0));
    let seen = Arc::clone(&refused);
    explore(move || {
        let gateway = Gateway::new(2);
        let inside = Arc::new(AtomicUsize::new(0));
        let crowd: Vec<_> = (0..3)
            .map(|_| {
                let (gateway, inside) = (Arc::clone(&gateway), Arc::clone(&inside));
                thread::spawn(move || {
                    let look = || {
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        Some(())
                    };
                    block_on(gateway.waiters.wait(DEVICE, look))
                })
            })
            .collect();
        let results = crowd.into_iter().map(|waiter| waiter.join().unwrap());
        let full = results.filter(|result| *result == Err(Full::Device.into())).count();
        assert!(full <= 1, "two places were free");
        seen.fetch_add(full, Ordering::Relaxed);
        gateway.assert_nothing_left(2);
    });
    assert!(refused.load(Ordering::Relaxed) > 0, "no schedule filled the places");
}

const ORGANISATION: u32 = 3;

/// Devices of an organisation whose packets are merely counted, and those who wait for any of them.
struct Organisation {
    packets: [AtomicU64; 2],
    waiters: Arc<Waiters>,
}

impl Organisation {
    fn new() -> Arc<Self> {
        let waiters = Arc::new(Waiters::new(&WaitersConfig { per_device: 2, total: 100 }));
        Arc::new(Self { packets: [AtomicU64::new(0), AtomicU64::new(0)], waiters })
    }

    /// As the ingest does it.
    fn hear(&self, device: usize) {
        let n = self.packets[device].fetch_add(1, Ordering::SeqCst) + 1;
        let cursor = Cursor { epoch: 1, n };
        self.waiters.heard(DeviceId(device as u64), cursor, || Some(ORGANISATION));
    }

    fn heard(&self) -> [u64; 2] {
        [0, 1].map(|device| self.packets[device].load(Ordering::SeqCst))
    }

    /// Listens until each device has got this far, by what was seen at the beginning or read afterwards; returns how much was
    /// read.
    fn listen_until(self: &Arc<Self>, expected: [u64; 2]) -> usize {
        let mut listener = Listener::new(Arc::clone(&self.waiters), ORGANISATION);
        let (mut known, mut reads) = (self.heard(), 0);
        while known != expected {
            let Ok(read) = block_on(self.waiters.wait(Subject::Organisation(ORGANISATION), || listener.read())) else {
                panic!("there is room")
            };
            let Read::Said(Said { device, cursor }) = read else { panic!("little is said") };
            let known = &mut known[device.0 as usize];
            assert!(cursor.n <= *known + 1, "{cursor:?} after {known}");
            *known = cursor.n.max(*known);
            reads += 1;
        }
        reads
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.waiters.waiting(), 0);
        self.waiters.heard(DeviceId(0), Cursor { epoch: 1, n: 1 }, || panic!("nobody listens"));
    }
}

// Not all orders: whether two subjects share a lock is chance, and to go through all orders each run has to do the same.
#[test]
fn one_who_listens_sees_or_hears_of_a_packet_in_every_order() {
    let (seen, read) = (Arc::new(Tally::new(0)), Arc::new(Tally::new(0)));
    let (for_seen, for_read) = (Arc::clone(&seen), Arc::clone(&read));
    explore(move || {
        let organisation = Organisation::new();
        let listener = thread::spawn({
            let organisation = Arc::clone(&organisation);
            move || organisation.listen_until([1, 0])
        });
        organisation.hear(0);
        let reads = listener.join().unwrap();
        let tally = if reads == 0 { &for_seen } else { &for_read };
        tally.fetch_add(1, Ordering::Relaxed);
        organisation.assert_nothing_left();
    });
    assert!(seen.load(Ordering::Relaxed) > 100 && read.load(Ordering::Relaxed) > 100, "either happens");
}

#[test]
fn two_who_listen_hear_every_packet_of_two_devices_in_every_order() {
    explore(|| {
        let organisation = Organisation::new();
        let listeners: Vec<_> = (0..2)
            .map(|_| {
                let organisation = Arc::clone(&organisation);
                thread::spawn(move || organisation.listen_until([2, 1]))
            })
            .collect();
        let speaker = thread::spawn({
            let organisation = Arc::clone(&organisation);
            move || organisation.hear(1)
        });
        organisation.hear(0);
        organisation.hear(0);
        speaker.join().unwrap();
        for listener in listeners {
            listener.join().unwrap();
        }
        organisation.assert_nothing_left();
    });
}

const NOW: Timestamp = Timestamp::from_gps(1_479_435_219);
const NETWORK: KeyId = KeyId::from_le_bytes([7, 0, 0]);

/// A gateway without sockets, and a device for which something may wait.
struct Awake {
    core: Arc<Core>,
    sent: std::sync::Mutex<Vec<i64>>,
}

impl Awake {
    fn new() -> Arc<Self> {
        let keys = KeyRing::default();
        keys.set_network(NETWORK, root());
        let downlinks = Downlinks::new(OutboxConfig::default(), channel().0);
        downlinks.allowance.extend(u32::MAX);
        let core = Core {
            keys: Arc::new(keys),
            table: Arc::new(RouteTable::new(&TableConfig::default())),
            waiters: Arc::new(Waiters::new(&WaitersConfig::default())),
            downlinks: Arc::new(downlinks),
            nonces: Arc::new(OwnNonces::new(&KeyPair::from_private([3; 32]), NOW)),
            policy: RoutePolicy::Newest,
            refusals: RefusalLog::default(),
            moves: Arc::default(),
        };
        Arc::new(Self { core: Arc::new(core), sent: std::sync::Mutex::default() })
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
    fn hear(&self, gps_time: u32, sequence: u16) {
        let header = Header {
            packet_type: PacketType::TDF,
            flags: Flags(0),
            key_id: NETWORK,
            device_id: DEVICE,
            gps_time,
            sequence,
            entropy: sequence,
        };
        let mut bytes = Vec::new();
        let key = root().day_key(Interface::Udp, header.rotation());
        seal_with(&key, &header, Layout::Unversioned, &[], &mut bytes);
        let source = std::net::SocketAddr::from(([192, 0, 2, 1], 6200));
        let datagram = Datagram { bytes: &mut bytes, truncated: false, source, via: Via::UNKNOWN, at: NOW };
        let mut replies = Replies::default();
        assert_eq!(Pipeline::new(Arc::clone(&self.core)).take(datagram, &mut replies), Disposition::Accepted);
        let intents = replies.iter().filter(|reply| reply.kind == DownlinkKind::Intent);
        self.sent.lock().unwrap().extend(intents.map(|reply| message(reply.bytes)));
    }
}

fn root() -> RootKey {
    RootKey::new([1; 32])
}

/// The message that a downlink is of.
fn message(bytes: &[u8]) -> i64 {
    let mut bytes = bytes.to_vec();
    let frame = Frame::parse(&mut bytes, Layout::Unversioned).unwrap();
    let key = root().day_key(Interface::Udp, frame.header().rotation());
    open_with(&key, frame).unwrap().payload()[0].into()
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
