//! Who waits for one device.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Tally;
use std::task::{Context, Wake, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lastroute::waiters::{Ended, Full, Waiters, WaitersConfig};
use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use shuttle::thread;

use super::{DEVICE, explore};

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
