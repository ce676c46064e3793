//! Any bytes as readings: they lie in the payload one after the other, the announcement is one of theirs and encodes to
//! itself, and a payload cut after a sound reading has the same readings before the cut.

use lastroute::wire::tdf::{Announce, Scan, readings, scan, split_remote};

/// One input.
pub(crate) fn run(payload: &[u8]) {
    if let Some((device_id, run)) = split_remote(payload) {
        assert_eq!([&device_id.0.to_le_bytes()[..], run].concat(), payload);
    }
    let mut expected = Scan::default();
    let mut run = readings(payload);
    let mut left = payload.len();
    while let Some(reading) = run.next() {
        assert_eq!(expected.fault, None, "a fault is the end");
        match reading {
            Ok(reading) => {
                assert!((1..4095).contains(&reading.id));
                assert!(reading.data.len() + 3 <= left - run.rest().len());
                left = run.rest().len();
                expected.announce = Announce::from_reading(&reading).or(expected.announce);
                assert_eq!(scan(&payload[..payload.len() - left]), expected);
            }
            Err(fault) => expected.fault = Some(fault),
        }
    }
    assert_eq!(scan(payload), expected);
    if let Some(announce) = expected.announce {
        let mut encoded = Vec::new();
        announce.append(&mut encoded);
        let again = Announce { board_crc: Some(announce.board_crc.unwrap_or(0)), ..announce };
        assert_eq!(scan(&encoded), Scan { announce: Some(again), fault: None });
    }
}
