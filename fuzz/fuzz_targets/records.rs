//! Any bytes as what the store left: a marker and a file of records, or a single record in files that are whole around it.
//! What cannot be read is refused in one line that says what to do; what is read, and put into a table, is written as it was
//! read.
//!
//! An input is a byte, by which the kind is chosen, and the bytes: of both files, the first of which is as long as the next byte
//! says, or of the record.

use std::path::Path;

use lastroute::auth::keys::KeyRing;
use lastroute::clock::Timestamp;
use lastroute::id::DeviceId;
use lastroute::store::{DIRECTORY, OpenError, Store};
use lastroute::table::kept::Kept;
use lastroute::table::{RouteTable, TableConfig, Unregistered};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_400_001);
const DEVICE: DeviceId = DeviceId(7);

/// One input.
pub(crate) fn run(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    if kind % 2 == 0 {
        only_row(bytes);
        record(bytes);
    } else {
        files(bytes);
    }
}

/// What the files hold is restored, or refused by name.
fn files(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first() else { return };
    let (marker, records) = bytes.split_at(bytes.len().min(usize::from(*length)));
    if let Err(error) = load(marker, records) {
        let text = error.to_string();
        assert!(text.len() > 10 && !text.contains(['\n', '\r']) && text.contains(DIRECTORY), "{text:?}");
    }
}

/// Restores what a marker and a file of records hold; gives how many rows were read.
fn load(marker: &[u8], records: &[u8]) -> Result<u64, OpenError> {
    let directory = tempfile::tempdir().expect("room for files");
    let path = directory.path().join(DIRECTORY);
    std::fs::create_dir(&path).expect("room for files");
    write(&path, "current", marker);
    write(&path, "records-1", records);
    Store::open(directory.path(), false, NOW).and_then(|store| store.load(&table(), &KeyRing::default()))
}

fn write(path: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(path.join(name), bytes).expect("room for files");
}

/// A record as the only one of files that are whole: it is restored if it is one, and else refused.
fn only_row(record: &[u8]) {
    let Ok(length) = u16::try_from(record.len() + 1) else { return };
    let row = [&DEVICE.0.to_le_bytes()[..], &length.to_le_bytes(), &[1], record].concat();
    let rows = u32::try_from(row.len()).expect("a short row").to_le_bytes();
    let checksum = crc32fast::hash(&[&rows[..], &row].concat());
    let records = [&b"LRRECORD\x01\0\0\0"[..], &rows, &checksum.to_le_bytes(), &row].concat();
    // The file, its length, the checksum of its last block, its first length, whether it is clean, epoch, generation and time.
    let marker = (1, records.len(), checksum, records.len(), true, 7, 1, NOW.0);
    let packed = rmp_serde::to_vec(&marker).expect("a marker has a form");
    let mut marker = [&b"LRMARKER\x01\0\0\0"[..], &packed].concat();
    marker.extend(crc32fast::hash(&marker).to_le_bytes());
    let is_one = rmp_serde::from_slice::<Kept>(record).is_ok();
    let loaded = load(&marker, &records);
    assert!(if is_one { matches!(loaded, Ok(1)) } else { loaded.is_err() }, "{loaded:?}");
}

/// What a table takes of a record it gives as it took it, and takes that the same again.
fn record(bytes: &[u8]) {
    let Ok(kept) = rmp_serde::from_slice::<Kept>(bytes) else { return };
    let packed = rmp_serde::to_vec(&kept).expect("what was read has a form");
    assert_eq!(rmp_serde::from_slice::<Kept>(&packed).as_ref().ok(), Some(&kept));
    let once = through(&kept);
    let Some(once) = once else { return };
    assert_eq!(through(&once).as_ref(), Some(&once));
}

/// A record after it was in a table.
fn through(kept: &Kept) -> Option<Kept> {
    let (table, keys) = (table(), KeyRing::default());
    table.restore(&keys, DEVICE, kept);
    table.settle();
    let snapshot = table.snapshot(DEVICE);
    table.mark_changed([DEVICE]);
    let mut found = None;
    table.changed(&keys, |id, kept| {
        assert_eq!(id, DEVICE);
        found = kept;
    });
    assert_eq!(snapshot.is_some(), found.is_some());
    found
}

fn table() -> RouteTable {
    RouteTable::new(&TableConfig { unregistered: Unregistered::Allow, shards: 2, ..TableConfig::default() })
}
