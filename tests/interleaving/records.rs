//! What is written down of records while devices speak, are deleted and registered, and a write fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Tally;

use lastroute::id::DeviceId;
use lastroute::table::kept::Kept;
use shuttle::sync::atomic::Ordering;
use shuttle::thread;

use super::awake::{Awake, NOW};
use super::{DEVICE, explore};

type Disk = BTreeMap<DeviceId, Kept>;

impl Awake {
    /// What changed, in order. Others get their turn wherever the table holds no lock.
    fn changes(&self) -> Vec<(DeviceId, Option<Kept>)> {
        let mut changes = Vec::new();
        self.core.table.changed(&self.core.keys, |id, kept| {
            thread::yield_now();
            changes.push((id, kept));
        });
        thread::yield_now();
        changes
    }

    /// As the store does it where the disk works.
    fn write(&self, disk: &mut Disk) {
        for (id, kept) in self.changes() {
            match kept {
                Some(kept) => _ = disk.insert(id, kept),
                None => _ = disk.remove(&id),
            }
        }
    }

    /// As the store does it where the disk is full.
    fn fail_to_write(&self) {
        let ids: Vec<_> = self.changes().into_iter().map(|(id, _)| id).collect();
        self.core.table.mark_changed(ids);
    }
}

#[test]
fn what_is_written_down_in_the_end_is_what_there_is_though_a_write_failed() {
    let (there, gone) = (Arc::new(Tally::new(0)), Arc::new(Tally::new(0)));
    let (for_there, for_gone) = (Arc::clone(&there), Arc::clone(&gone));
    explore(move || {
        let (awake, mut disk) = (Awake::new(), Disk::new());
        awake.core.table.register(DEVICE, NOW);
        awake.hear(NOW.gps(), 1);
        awake.write(&mut disk);
        assert_eq!(disk.len(), 1);
        let speaker = thread::spawn({
            let awake = Arc::clone(&awake);
            move || [2, 3].map(|sequence| awake.hear(NOW.gps(), sequence))
        });
        let registry = thread::spawn({
            let awake = Arc::clone(&awake);
            move || {
                for _ in 0..2 {
                    awake.core.table.deregister(DEVICE);
                    thread::yield_now();
                    awake.core.table.register(DEVICE, NOW);
                    thread::yield_now();
                }
                awake.core.table.deregister(DEVICE);
            }
        });
        awake.fail_to_write();
        awake.write(&mut disk);
        speaker.join().unwrap();
        registry.join().unwrap();
        awake.write(&mut disk);
        let mut all = Disk::new();
        awake.core.table.tell(&awake.core.keys, true, |id, kept, _| {
            all.extend(kept.map(|kept| (id, kept)));
        });
        assert_eq!(disk, all);
        let tally = if all.is_empty() { &for_gone } else { &for_there };
        tally.fetch_add(1, Ordering::Relaxed);
    });
    assert!(there.load(Ordering::Relaxed) > 100 && gone.load(Ordering::Relaxed) > 100, "either happens");
}
