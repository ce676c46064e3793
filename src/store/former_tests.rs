//! Records of earlier forms are read: bytes that former versions wrote.

use crate::table::kept::{Kept, KeptDirect, KeptPacket, KeptRelayed, KeptSession, KeptWay};

use super::blocks::record;

/// A record as it was stored before routes said what keeps them up.
const STORED: &str = "dc0014cd03e8ce89abcdef02cf000001a200380100cf000001a2062de20099ce582e63d3cd012c020103c2c3c381a2563692dc00102001\
    0dccb8000000000000000000000001cd0fa0ce582e63d393ce582e63d3ce582e62f8cd012c9581a256349294ccc0000201cd1838cf0000\
    01a2062dde18cd012b02c29393ce582e63d3ce582e62f8cd012cce582e63d29bcfffffffffffffffffc381a2563692dc001020010dccb8\
    000000000000000000000001cd0fa0090397010203040506ccffd0b9cf000001a2062de200cd012d01c3c30cc2c3950501020304cd0a17\
    19cd9c40c3ce00011170";

fn stored() -> Kept {
    let session = KeptSession { high_gps: 1_479_435_219, first_gps: 1_479_435_000, high_sequence: 300 };
    let [v4, v6] = ["192.0.2.1:6200", "[2001:db8::1]:4000"].map(|address| address.parse().unwrap());
    let way = KeptWay {
        relay: u64::MAX,
        device_level: true,
        address: v6,
        relay_sequence: 9,
        interface: 3,
        bt: Some([1, 2, 3, 4, 5, 6, 255]),
        rssi_dbm: -71,
        at: 1_795_400_000_000,
        sequence: 301,
        trust: 1,
        proved: true,
        borne_out: false,
    };
    Kept {
        count: 1000,
        epoch: 0x89ab_cdef,
        generation: 2,
        first_at: 1_795_300_000_000,
        last_at: 1_795_400_000_000,
        last: Some(KeptPacket {
            gps_time: 1_479_435_219,
            sequence: 300,
            packet_type: 2,
            class: 1,
            step: 3,
            device_level: false,
            on_route: true,
            relayed: true,
            source: Some(v6),
        }),
        greatest: 1_479_435_219,
        session: Some(session),
        direct: Some(KeptDirect {
            address: v4,
            at: 1_795_399_999_000,
            sequence: 299,
            trust: 2,
            proved: false,
            borne_out: false,
        }),
        relayed: Some(KeptRelayed { session: Some(session), greatest: 1_479_435_218, route: Some(way) }),
        last_route_relayed: true,
        since_move: 12,
        always_rx: false,
        single_tx: true,
        application: Some((5, 1, 2, 3, 4)),
        network: 0x000a17,
        largest: 25,
        down_sequence: 40_000,
        spoken_to: true,
        registration: 70_000,
    }
}

/// The value in a row: its version, and the record.
fn value(record: &[u8]) -> Vec<u8> {
    [&[1], record].concat()
}

#[test]
fn a_record_of_each_earlier_form_is_read() {
    let mut bytes = hex::decode(STORED).unwrap();
    assert_eq!(record(&value(&bytes)).unwrap(), stored());
    // Before that, without the number of its registration, of five bytes.
    bytes[2] = 19;
    bytes.truncate(bytes.len() - 5);
    assert_eq!(record(&value(&bytes)).unwrap(), Kept { registration: 0, ..stored() });
    bytes.pop();
    assert!(record(&value(&bytes)).is_err());
}

#[test]
fn a_record_is_read_as_it_is_written_now() {
    let mut kept = stored();
    kept.direct = kept.direct.map(|direct| KeptDirect { borne_out: true, ..direct });
    assert_eq!(record(&value(&rmp_serde::to_vec(&kept).unwrap())).unwrap(), kept);
}
