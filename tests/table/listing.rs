//! Which unregistered devices are listed.

use std::time::Duration;

use lastroute::clock::Timestamp;
use lastroute::id::DeviceId;
use lastroute::table::{RouteTable, TableConfig};

use super::{START, Sent, Way};

const AT: Timestamp = Timestamp::from_gps(START);

fn hear(table: &RouteTable, device: u64, second: u32) {
    let source = Way::Direct(([192, 0, 2, 1], 4000).into());
    let sent = Sent { device, ..Sent::new(START + second, second as u16, source) };
    sent.record(table, AT.after(Duration::from_secs(second.into())));
}

/// Ids and counts of a page.
fn page(table: &RouteTable, limit: usize, offset: usize) -> Vec<(u64, u64)> {
    let page = table.unregistered_devices(limit, offset);
    page.iter().map(|snapshot| (snapshot.device_id.0, snapshot.cursor.n)).collect()
}

#[test]
fn the_unregistered_are_listed_from_the_one_heard_last_and_ties_go_by_id() {
    let table = RouteTable::new(&TableConfig { unregistered_limit: 4, ..TableConfig::default() });
    assert_eq!(page(&table, 10, 0), []);
    for (device, second) in [(9, 1), (1, 2), (5, 3), (3, 3), (7, 3), (1, 4), (8, 5)] {
        hear(&table, device, second);
    }
    assert_eq!(page(&table, 10, 0), [(8, 1), (1, 2), (5, 1), (7, 1)], "there is room for four");
    assert_eq!(page(&table, 2, 1), [(1, 2), (5, 1)]);
    assert_eq!((page(&table, 0, 0), page(&table, 10, 4), page(&table, 1, usize::MAX)), (vec![], vec![], vec![]));
}

#[test]
fn a_device_is_listed_once_and_only_while_it_is_not_registered() {
    let table = RouteTable::new(&TableConfig::default());
    for second in 1..5 {
        hear(&table, 1, second);
        hear(&table, 2, second);
        assert_eq!(page(&table, 10, 0), [(1, 1), (2, second.into())]);
        table.register(DeviceId(1), AT);
        assert_eq!(page(&table, 10, 0), [(2, second.into())]);
        table.deregister(DeviceId(1));
        assert_eq!(page(&table, 10, 0), [(2, second.into())], "nothing is known of it");
    }
}
