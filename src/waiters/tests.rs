use super::*;
use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake};

const DEVICE: DeviceId = DeviceId(7);
const OTHER: DeviceId = DeviceId(8);

/// A waker that writes its number down.
struct Numbered {
    number: usize,
    order: Arc<std::sync::Mutex<Vec<usize>>>,
}

impl Wake for Numbered {
    fn wake(self: Arc<Self>) {
        self.order.lock().unwrap().push(self.number);
    }
}

fn waiters(per_device: usize, total: usize) -> Waiters {
    Waiters::new(&WaitersConfig { per_device, total })
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(waker))
}

fn nothing_is_left(waiters: &Waiters) -> bool {
    waiters.waiting() == 0 && waiters.shards.iter().all(|shard| shard.lock().unwrap().queues.is_empty())
}

#[test]
fn a_waiter_looks_at_once_and_after_each_wake_up_of_its_device() {
    let waiters = waiters(10, 10);
    let (looks, found) = (Cell::new(0), Cell::new(None));
    let mut wait = pin!(waiters.wait(DEVICE, || {
        looks.set(looks.get() + 1);
        found.get()
    }));
    assert_eq!(poll(&mut wait, Waker::noop()), Poll::Pending);
    waiters.wake(OTHER);
    waiters.wake(DEVICE);
    assert_eq!((poll(&mut wait, Waker::noop()), waiters.waiting()), (Poll::Pending, 1));
    found.set(Some(5));
    waiters.wake(DEVICE);
    assert_eq!(poll(&mut wait, Waker::noop()), Poll::Ready(Ok(5)));
    assert_eq!((looks.get(), waiters.woken()), (3, 2));
    assert!(nothing_is_left(&waiters));
}

#[test]
fn waiters_are_woken_in_the_order_they_came_whoever_left_between() {
    let (waiters, order) = (waiters(200, 200), Arc::default());
    let mut waits: Vec<_> = (0..100).map(|_| Some(Box::pin(waiters.wait(DEVICE, || None::<()>)))).collect();
    let waker = |number| Waker::from(Arc::new(Numbered { number, order: Arc::clone(&order) }));
    for (number, wait) in waits.iter_mut().enumerate() {
        assert!(poll(wait.as_mut().unwrap(), &waker(number)).is_pending());
    }
    // Polled again without a wake-up, as by a timer beside it: keeps its place.
    assert!(poll(waits[3].as_mut().unwrap(), &waker(3)).is_pending());
    for gone in (0..100).step_by(7) {
        waits[gone] = None;
    }
    waiters.wake(DEVICE);
    let expected: Vec<usize> = (0..100).filter(|number| number % 7 != 0).collect();
    assert_eq!(*order.lock().unwrap(), expected);
    waiters.wake(DEVICE);
    assert_eq!(waiters.woken(), expected.len() as u64, "nobody sleeps, nobody is woken");
}

#[test]
fn the_bound_of_a_device_and_the_bound_in_all_hold_and_places_come_free() {
    let waiters = waiters(2, 3);
    let mut first = Box::pin(waiters.wait(DEVICE, || None::<()>));
    let mut second = Box::pin(waiters.wait(DEVICE, || None::<()>));
    let mut third = Box::pin(waiters.wait(OTHER, || None::<()>));
    assert!(poll(&mut first, Waker::noop()).is_pending());
    assert!(poll(&mut second, Waker::noop()).is_pending());
    let refused = poll(&mut Box::pin(waiters.wait(DEVICE, || Some(()))), Waker::noop());
    assert_eq!(refused, Poll::Ready(Err(Full::Device.into())));
    assert_eq!(waiters.waiting(), 2);
    assert!(poll(&mut third, Waker::noop()).is_pending());
    let refused = poll(&mut Box::pin(waiters.wait(OTHER, || Some(()))), Waker::noop());
    assert_eq!(refused, Poll::Ready(Err(Full::Total.into())));
    drop(first);
    let admitted = poll(&mut Box::pin(waiters.wait(DEVICE, || Some(()))), Waker::noop());
    assert_eq!(admitted, Poll::Ready(Ok(())));
    drop((second, third));
    assert!(nothing_is_left(&waiters));
}

#[test]
fn who_waits_for_an_organisation_is_woken_by_its_devices_after_who_waits_for_the_device() {
    let waiters = Arc::new(waiters(1, 10));
    let listener = feeds::Listener::new(Arc::clone(&waiters), 7);
    let order = Arc::default();
    let waker = |number| Waker::from(Arc::new(Numbered { number, order: Arc::clone(&order) }));
    let mut organisation = pin!(waiters.wait(Subject::Organisation(7), || None::<()>));
    let mut device = pin!(waiters.wait(DEVICE, || None::<()>));
    assert!(poll(&mut organisation, &waker(1)).is_pending() && poll(&mut device, &waker(2)).is_pending());
    let refused = poll(&mut pin!(waiters.wait(Subject::Organisation(7), || Some(()))), Waker::noop());
    assert_eq!(refused, Poll::Ready(Err(Full::Organisation.into())));
    let cursor = Cursor { epoch: 1, n: 1 };
    waiters.heard(OTHER, cursor, || Some(8));
    assert!(order.lock().unwrap().is_empty());
    waiters.heard(DEVICE, cursor, || Some(7));
    assert_eq!(*order.lock().unwrap(), [2, 1]);
    drop(listener);
    waiters.dismiss(Subject::Organisation(7));
    assert_eq!(poll(&mut organisation, Waker::noop()), Poll::Ready(Err(Ended::Dismissed)));
    assert!(poll(&mut device, Waker::noop()).is_pending());
}

#[test]
fn each_wake_up_of_one_who_sleeps_is_timed_once_when_the_woken_one_runs() {
    let waiters = waiters(10, 10);
    let mut wait = pin!(waiters.wait(DEVICE, || None::<()>));
    let mut gone = Box::pin(waiters.wait(DEVICE, || None::<()>));
    let timed = || waiters.latency().count();
    assert!(poll(&mut wait, Waker::noop()).is_pending() && poll(&mut gone, Waker::noop()).is_pending());
    let begun = Instant::now();
    waiters.wake(DEVICE);
    waiters.wake(DEVICE);
    assert_eq!((timed(), waiters.woken()), (0, 2), "neither has run");
    drop(gone);
    let after = Instant::now();
    while after.elapsed().is_zero() {}
    let least = after.elapsed().as_secs_f64();
    assert!(poll(&mut wait, Waker::noop()).is_pending());
    let (sum, most) = (waiters.latency().sum(), begun.elapsed().as_secs_f64());
    assert!(0.0 < least && least <= sum && sum <= most, "{least} {sum} {most}");
    assert!(poll(&mut wait, Waker::noop()).is_pending());
    assert_eq!((timed(), waiters.woken()), (1, 2), "looked again by itself");
    waiters.wake(DEVICE);
    assert!(poll(&mut wait, Waker::noop()).is_pending());
    assert_eq!((timed(), waiters.woken()), (2, 3));
}

#[test]
fn a_wait_that_is_not_timed_is_woken_as_any_other() {
    let waiters = waiters(1, 10);
    let found = Cell::new(None);
    let mut wait = pin!(waiters.wait_untimed(DEVICE, || found.get()));
    assert_eq!((poll(&mut wait, Waker::noop()), waiters.waiting()), (Poll::Pending, 1));
    waiters.wake(DEVICE);
    assert_eq!(poll(&mut wait, Waker::noop()), Poll::Pending);
    found.set(Some(5));
    waiters.wake(DEVICE);
    let refused = poll(&mut pin!(waiters.wait_untimed(DEVICE, || Some(5))), Waker::noop());
    assert_eq!(refused, Poll::Ready(Err(Full::Device.into())));
    assert_eq!(poll(&mut wait, Waker::noop()), Poll::Ready(Ok(5)));
    assert_eq!((waiters.woken(), waiters.latency().count()), (2, 0));
    assert!(nothing_is_left(&waiters));
}

#[test]
fn whoever_waits_when_the_device_is_deleted_is_dismissed_once_and_nobody_else() {
    let waiters = waiters(200, 200);
    let mut waits: Vec<_> = (0..100).map(|_| Box::pin(waiters.wait(DEVICE, || None::<()>))).collect();
    let mut other = pin!(waiters.wait(OTHER, || None::<()>));
    // Some have been woken and have not run yet, others sleep.
    assert!(waits.iter_mut().step_by(2).all(|wait| poll(wait, Waker::noop()).is_pending()));
    waiters.wake(DEVICE);
    assert!(waits.iter_mut().skip(1).step_by(2).all(|wait| poll(wait, Waker::noop()).is_pending()));
    assert!(poll(&mut other, Waker::noop()).is_pending());
    waiters.dismiss(DEVICE);
    // A packet of whoever has the number next takes nobody back.
    waiters.wake(DEVICE);
    assert!(waits.iter_mut().all(|wait| poll(wait, Waker::noop()) == Poll::Ready(Err(Ended::Dismissed))));
    assert_eq!((waiters.woken(), waiters.waiting()), (100, 1));
    let mut next = pin!(waiters.wait(DEVICE, || None::<()>));
    assert!(poll(&mut next, Waker::noop()).is_pending() && poll(&mut other, Waker::noop()).is_pending());
}

#[test]
fn one_who_has_found_something_is_not_dismissed() {
    let (waiters, found) = (waiters(10, 10), Cell::new(None));
    let mut wait = pin!(waiters.wait(DEVICE, || found.get()));
    assert!(poll(&mut wait, Waker::noop()).is_pending());
    found.set(Some(5));
    assert_eq!(poll(&mut wait, Waker::noop()), Poll::Ready(Ok(5)));
    waiters.dismiss(DEVICE);
    assert!(nothing_is_left(&waiters));
}

#[test]
fn a_waker_that_drops_another_wait_does_not_lock_up() {
    struct Dropping<F>(std::sync::Mutex<Option<F>>);
    impl<F: Send> Wake for Dropping<F> {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().take();
        }
    }
    let waiters = Arc::new(waiters(10, 10));
    let owned = Arc::clone(&waiters);
    let mut dropped = Box::pin(async move { owned.wait(DEVICE, || None::<()>).await });
    assert!(poll(&mut dropped, Waker::noop()).is_pending());
    let waker = Waker::from(Arc::new(Dropping(std::sync::Mutex::new(Some(dropped)))));
    let mut wait = pin!(waiters.wait(DEVICE, || None::<()>));
    assert!(poll(&mut wait, &waker).is_pending());
    drop(waker);
    waiters.wake(DEVICE);
    assert_eq!(waiters.waiting(), 1);
}

#[test]
fn a_waiter_stays_small() {
    assert_eq!(size_of::<Waiter>(), 32);
    assert_eq!(size_of::<(Subject, VecDeque<Waiter>)>(), 48);
}
