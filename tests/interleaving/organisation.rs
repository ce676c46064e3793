//! Who listens to all devices of an organisation.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Tally;

use lastroute::id::{Cursor, DeviceId};
use lastroute::waiters::feeds::{Listener, Read, Said};
use lastroute::waiters::{Subject, Waiters, WaitersConfig};
use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

use super::explore;

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
