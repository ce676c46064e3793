//! The process is killed, the power goes, or a step fails, at each step of the store: the records of the last checkpoint that
//! lasts are there, or those of the one that was under way, and never some of both.

use super::testing::{Fleet, Image, Memory, Rows, files, logged, open, write};
use super::{Before, Store};

/// What happens in a round of the history: a few devices are heard, now and then one is forgotten.
fn live(fleet: &Fleet, round: u64, random: &mut fastrand::Rng) {
    for _ in 0..random.u64(0..40) {
        fleet.hear(random.u64(0..60));
    }
    if round % 3 == 2 {
        fleet.forget(random.u64(0..60));
    }
}

fn check(image: &Image, allowed: &[&Rows]) -> Store {
    let (store, rows) = open(&Memory::of(image)).unwrap_or_else(|error| panic!("{error}: {:?}", image.keys()));
    assert!(allowed.contains(&&rows), "{rows:?} is neither of {allowed:?}");
    store
}

#[test]
fn a_kill_or_a_loss_of_power_at_any_step_leaves_the_old_or_the_new_records() {
    let (mut starts, mut random) = (0, fastrand::Rng::with_seed(3));
    let (memory, fleet) = (Memory::default(), Fleet::default());
    memory.watch();
    let mut old = Rows::new();
    for process in 0..4 {
        let mut files = files(&memory);
        for image in memory.images() {
            check(&image, &[&old]);
            starts += 1;
        }
        for round in 0..12 {
            live(&fleet, round, &mut random);
            let clean = round == 11 && process % 2 == 0;
            write(&mut files, &fleet, clean).unwrap();
            let new = fleet.rows();
            for image in memory.images() {
                let store = check(&image, &[&old, &new]);
                starts += 1;
                // Nobody may take an earlier moment for the orderly stop.
                let stopped = matches!(store.before(), Before::Stopped { .. });
                assert!(!stopped || clean && open(&Memory::of(&image)).unwrap().1 == new);
            }
            old = new;
        }
    }
    assert!(starts >= 1000, "{starts}");
}

#[test]
fn a_step_that_fails_loses_nothing_and_the_next_checkpoint_makes_up_for_it() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut failures = 0;
    for first in 0..80 {
        for count in [1, 2, 9] {
            let (memory, fleet) = (Memory::default(), Fleet::default());
            let mut files = files(&memory);
            memory.watch();
            memory.fail(memory.steps() + first, count);
            let mut lasting = vec![Rows::new()];
            for round in 0..12 {
                live(&fleet, round, &mut random);
                lasting.push(fleet.rows());
                let failed = write(&mut files, &fleet, false).is_err();
                failures += u32::from(failed);
                let images = memory.images();
                if lasting.len() > 2 || failed {
                    images.iter().for_each(|image| drop(check(image, &lasting.iter().collect::<Vec<_>>())));
                }
                if !failed {
                    lasting = vec![fleet.rows()];
                }
            }
            // Some of the steps that fail may have been left.
            let makes_up = (0..=count).any(|_| write(&mut files, &fleet, false).is_ok());
            assert!(makes_up, "{first} {count}");
            check(&memory.image(), &[&fleet.rows()]);
        }
    }
    assert!(failures >= 100, "{failures}");
}

#[test]
fn an_orderly_stop_is_told_with_its_epoch_and_generation_and_forgotten_when_the_next_process_begins() {
    let (memory, fleet) = (Memory::default(), Fleet::default());
    assert_eq!(open(&memory).unwrap().0.before(), Before::Nothing);
    let mut first = files(&memory);
    assert_eq!(open(&memory).unwrap().0.before(), Before::Forgot, "it may end at any time");
    fleet.hear(1);
    write(&mut first, &fleet, true).unwrap();
    assert_eq!(open(&memory).unwrap().0.before(), Before::Stopped { epoch: 7, generation: 1 });
    drop(files(&memory));
    assert_eq!(open(&memory).unwrap().0.before(), Before::Forgot);
}

#[test]
fn a_long_file_is_begun_anew_and_goes_on_where_there_is_no_space_for_another() {
    let (memory, fleet) = (Memory::default(), Fleet::default());
    let mut files = files(&memory);
    let records = || memory.image().into_iter().filter(|(name, _)| name != "current").collect::<Vec<_>>();
    let round = |files: &mut _| {
        (0..50).for_each(|id| fleet.hear(id));
        write(files, &fleet, false).unwrap();
        let [(name, bytes)] = &records()[..] else { panic!("{:?}", records()) };
        (name.clone(), bytes.len())
    };
    let (_, begun) = round(&mut files);
    let names: Vec<_> = (0..9).map(|_| round(&mut files)).collect();
    assert!(names.iter().all(|(_, length)| *length <= 3 * begun.max(2048)), "{names:?}");
    let (last, _) = names.last().unwrap();
    assert!(["records-3", "records-4", "records-5"].contains(&&last[..]), "{names:?}");
    // No other file can be made, but the present one can become longer.
    memory.refuse_records(true);
    let (_, length) = (0..30).map(|_| round(&mut files)).last().unwrap();
    assert!(length > 10 * begun, "{length}");
    assert_eq!(open(&memory).unwrap().1, fleet.rows());
    memory.refuse_records(false);
    let lengths: Vec<_> = (0..30).map(|_| round(&mut files).1).collect();
    assert!(lengths.iter().any(|length| *length <= 2 * begun), "{lengths:?}");
    assert_eq!(open(&memory).unwrap().1, fleet.rows());
}

#[test]
fn that_there_is_no_space_for_another_file_is_said_once_until_there_was_some() {
    let (memory, fleet) = (Memory::default(), Fleet::default());
    let mut files = files(&memory);
    let mut round = |refuse| {
        memory.refuse_records(refuse);
        logged(|| {
            for _ in 0..30 {
                (0..50).for_each(|id| fleet.hear(id));
                write(&mut files, &fleet, false).unwrap();
            }
        })
    };
    assert_eq!(round(false), [""; 0]);
    for _ in 0..2 {
        let said = round(true);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("WARN") && said[0].contains("no new file of records can be written"), "{said:?}");
        assert_eq!(round(true), [""; 0]);
        assert_eq!(round(false), [""; 0]);
    }
}

#[test]
fn where_there_is_no_space_for_another_file_only_what_changed_is_written_to_the_present_one() {
    let (memory, fleet) = (Memory::default(), Fleet::default());
    let mut files = files(&memory);
    (0..200).for_each(|id| fleet.hear(id));
    write(&mut files, &fleet, false).unwrap();
    memory.refuse_records(true);
    let mut most = 0;
    for round in 0..600 {
        fleet.hear(round % 200);
        most = most.max(write(&mut files, &fleet, false).unwrap().rows);
    }
    assert_eq!(most, 1);
    assert_eq!(open(&memory).unwrap().1, fleet.rows());
}

#[test]
fn a_new_file_whose_marker_cannot_be_put_is_not_written_again_and_again() {
    let (memory, fleet) = (Memory::default(), Fleet::default());
    let mut files = files(&memory);
    let records = || memory.image().into_keys().filter(|name| name.starts_with("records")).count();
    memory.refuse_renames(true);
    for id in 0..20 {
        fleet.hear(id);
        write(&mut files, &fleet, false).unwrap_err();
        assert_eq!(records(), 1);
    }
    memory.refuse_renames(false);
    write(&mut files, &fleet, false).unwrap();
    assert_eq!((records(), open(&memory).unwrap().1), (1, fleet.rows()));
}

#[test]
fn what_only_wants_its_marker_is_not_written_again() {
    let (memory, fleet) = (Memory::default(), Fleet::default());
    let mut files = files(&memory);
    // Of the first file, and of what is appended to it.
    for (round, heard) in [(0, 50), (1, 5), (2, 5)] {
        (0..heard).for_each(|id| fleet.hear(id));
        memory.refuse_renames(true);
        write(&mut files, &fleet, false).unwrap_err();
        memory.refuse_renames(false);
        fleet.hear(round);
        fleet.forget(40 + round);
        assert_eq!(write(&mut files, &fleet, false).unwrap().rows, 2);
        assert_eq!(open(&memory).unwrap().1, fleet.rows());
    }
}

#[test]
fn after_a_first_checkpoint_that_failed_all_is_written_and_nobody_is_told_to_be_forgotten_who_never_was_kept() {
    let (memory, fleet) = (Memory::default(), Fleet::default());
    let mut files = files(&memory);
    (0..50).for_each(|id| fleet.hear(id));
    // In the middle of its rows.
    memory.fail(memory.steps() + 10, 1);
    write(&mut files, &fleet, false).unwrap_err();
    (0..9).for_each(|id| fleet.forget(id));
    assert_eq!(write(&mut files, &fleet, false).unwrap().rows, 41);
    assert_eq!(open(&memory).unwrap().1, fleet.rows());
}

#[test]
fn what_was_never_written_need_not_be_written_down_as_forgotten() {
    let (memory, fleet) = (Memory::default(), Fleet::default());
    let mut files = files(&memory);
    fleet.hear(0);
    write(&mut files, &fleet, false).unwrap();
    for id in 1..50 {
        fleet.hear(id);
        memory.fail(memory.steps(), 1);
        write(&mut files, &fleet, false).unwrap_err();
        fleet.forget(id);
    }
    fleet.hear(0);
    assert_eq!(write(&mut files, &fleet, false).unwrap().rows, 1);
}
