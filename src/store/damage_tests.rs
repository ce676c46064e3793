//! Files that were changed: whatever is changed is noticed, and refused with what to do, or all records are there.
//!
//! `LASTROUTE_MUTATIONS` says how many; the default is a part of them, for every run of the tests.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use super::checkpoint::{Files, Moment};
use super::disk::Directory;
use super::marker::Marker;
use super::testing::{Fleet, Rows};
use super::{Before, OpenError, Store};
use crate::clock::Timestamp;

const NOW: Timestamp = Timestamp(1_795_402_800_000);

/// Writes several checkpoints into a directory, as processes do that follow one another; the records then.
fn fill(data_dir: &Path) -> Rows {
    let fleet = Fleet::default();
    for process in 0..3 {
        let disk = Directory::make(&data_dir.join(super::DIRECTORY)).unwrap();
        let marker = Marker::read(&disk).unwrap().unwrap_or_default();
        let mut files = Files::go_on(Box::new(disk), marker, 1024).unwrap();
        for round in 0..5 {
            (0..30).for_each(|id| fleet.hear(id * (round + 1)));
            fleet.forget(round);
            let clean = process < 2 && round == 4;
            files.write(&Moment { records: &fleet, at: NOW, clean, hurried: clean }).unwrap();
        }
    }
    fleet.rows()
}

fn load(data_dir: &Path, set_aside: bool) -> Result<(Store, Rows), OpenError> {
    let store = Store::open(data_dir, set_aside, NOW)?;
    let rows = RefCell::new(Rows::new());
    store.load_by(
        |_| {},
        |id| rows.borrow().contains_key(&id.0),
        |id, kept| {
            rows.borrow_mut().insert(id.0, kept.count);
        },
    )?;
    Ok((store, rows.into_inner()))
}

fn names(data_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data_dir.join(super::DIRECTORY)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A flipped bit, a cut, bytes of zeros, or a missing file.
fn mutate(path: &Path, random: &mut fastrand::Rng) {
    let mut bytes = fs::read(path).unwrap();
    let at = random.usize(..bytes.len());
    match random.u8(..8) {
        0..4 => bytes[at] ^= 1 << random.u8(..8),
        4 | 5 => bytes.truncate(at),
        6 => bytes[at..].iter_mut().take(512).for_each(|byte| *byte = 0),
        _ => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn no_change_of_a_file_goes_unnoticed() {
    let mutations = std::env::var("LASTROUTE_MUTATIONS").map_or(2000, |count| count.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let rows = fill(directory.path());
    let whole: Vec<_> = names(directory.path()).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    let (mut random, mut refused) = (fastrand::Rng::with_seed(11), 0);
    for _ in 0..mutations {
        whole.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
        mutate(&whole[random.usize(..whole.len())].1, &mut random);
        match load(directory.path(), false) {
            Ok((store, loaded)) => {
                assert_eq!(loaded, rows);
                assert_eq!(store.before(), Before::Forgot);
            }
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(error.is_of_content() && text.contains("routes/") && !text.contains('\n'), "{text}");
                assert!(text.contains("--set-aside-routes"), "{text}");
            }
        }
    }
    println!("{refused} of {mutations} refused, all others whole");
    assert!(refused > mutations * 9 / 10, "{refused} of {mutations}");
}

#[test]
fn bytes_behind_the_last_checkpoint_are_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let rows = fill(directory.path());
    for path in names(directory.path()).iter().filter(|path| !path.ends_with("current")) {
        let mut bytes = fs::read(path).unwrap();
        bytes.extend(b"what was never made to last");
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(load(directory.path(), false).unwrap().1, rows);
}

#[test]
fn what_cannot_be_read_is_set_aside_when_that_is_asked_for_and_only_then() {
    let directory = tempfile::tempdir().unwrap();
    let rows = fill(directory.path());
    assert_eq!(load(directory.path(), true).unwrap().1, rows, "it can be read");
    let records = names(directory.path()).remove(1);
    let mut bytes = fs::read(&records).unwrap();
    bytes[1000] ^= 1;
    fs::write(&records, &bytes).unwrap();
    let shown = directory.path().join("routes").display().to_string();
    let error = load(directory.path(), false).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{shown}/records-5 is damaged: a checksum is wrong (byte 20); put it back from a copy of {shown}, or start once with \
             --set-aside-routes: the directory is renamed, and every route is learned anew"
        )
    );
    assert_eq!(load(directory.path(), false).unwrap_err().to_string(), error, "it stays so");
    let (store, loaded) = load(directory.path(), true).unwrap();
    assert_eq!((store.before(), loaded.len()), (Before::Forgot, 0));
    let aside = directory.path().join("routes.bad-1795402800").join(records.file_name().unwrap());
    assert_eq!(fs::read(aside).unwrap(), bytes, "nothing is lost");
    assert_eq!(load(directory.path(), false).unwrap().1.len(), 0);
}

#[test]
fn a_file_of_a_later_version_is_refused_as_such() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let records = names(directory.path()).remove(1);
    let mut bytes = fs::read(&records).unwrap();
    bytes[8] = 2;
    fs::write(&records, bytes).unwrap();
    let error = load(directory.path(), false).unwrap_err();
    assert!(matches!(error, OpenError::Version { version: 2, .. }), "{error}");
    assert!(error.to_string().contains("--set-aside-routes"), "{error}");
}

/// Starts, hears something and stops; what was found at the start, and how often something was lost by then.
fn run(data_dir: &Path, clean: bool) -> (Before, u32) {
    let store = Store::open(data_dir, false, NOW).unwrap();
    let found = (store.before(), store.losses());
    let fleet = Fleet::default();
    fleet.hear(1);
    store.go_on(7, 0, NOW).unwrap().write(&Moment { records: &fleet, at: NOW, clean, hurried: clean }).unwrap();
    found
}

#[test]
fn what_was_put_back_from_a_copy_or_taken_away_is_no_orderly_stop_and_counts_as_a_loss() {
    let directory = tempfile::tempdir().unwrap();
    let run = |clean| run(directory.path(), clean);
    let stopped = Before::Stopped { epoch: 7, generation: 1 };
    assert_eq!(run(true), (Before::Nothing, 0));
    assert_eq!(run(true), (stopped, 0));
    let routes = directory.path().join(super::DIRECTORY);
    let copy: Vec<_> = names(directory.path()).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    let put_back = || {
        fs::remove_dir_all(&routes).unwrap();
        fs::create_dir(&routes).unwrap();
        copy.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    };
    put_back();
    assert_eq!(run(true), (stopped, 0), "nothing ran since it was copied");
    put_back();
    assert_eq!(run(false), (Before::Forgot, 1));
    assert_eq!(run(true), (Before::Forgot, 2), "killed");
    assert_eq!(run(true), (stopped, 2));
    put_back();
    assert_eq!(run(true), (Before::Forgot, 3));
    fs::remove_dir_all(&routes).unwrap();
    assert_eq!(run(true), (Before::Forgot, 4), "taken away");
    assert_eq!(run(true), (stopped, 4));
    fs::write(directory.path().join("starts"), "?").unwrap();
    assert_eq!(run(true), (Before::Forgot, 1));
    assert_eq!(run(true), (stopped, 1));
}

#[test]
fn a_start_that_cannot_write_leaves_the_orderly_stop_before_it_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    run(directory.path(), true);
    // Whatever it is that cannot be written first.
    for name in ["starts.new", "routes/current.new"] {
        let path = directory.path().join(name);
        fs::create_dir(&path).unwrap();
        let failed = Store::open(directory.path(), false, NOW).unwrap().go_on(8, 0, NOW);
        assert!(failed.unwrap_err().to_string().starts_with("cannot use "));
        fs::remove_dir(&path).unwrap();
    }
    assert_eq!(run(directory.path(), true), (Before::Stopped { epoch: 7, generation: 1 }, 0));
}
