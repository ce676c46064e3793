//! Rule R5 after packets were forgotten: what was recorded of them must not move a route.

use std::time::Duration;

use tokio::time::sleep;

use crate::clock::Timestamp;
use crate::store::{Before, Store};
use crate::table::RouteTable;

/// How far ahead of the gateway's clock a packet may be, in seconds: what was forgotten may have been.
const AHEAD: u32 = 120;

/// How long the floor holds: after that nothing that was forgotten is fresh, as it would be 300 s old if it had been as far
/// ahead as may be.
const HOLDS: Duration = Duration::from_secs(300 + AHEAD as u64 + 1);

/// Where the floor lies for a process that begins `now`, in GPS seconds; 0: there is none. What the process before left in
/// `store` counts also where that stopped in order before its own floor ended. `reserved`: the GPS second before which
/// downlinks may have been sent. The clock may have been set back since what was forgotten came.
pub(super) fn of(store: &Store, reserved: u32, now: Timestamp) -> u32 {
    let latest = now.gps().max(store.last_at().gps()).max(reserved);
    let forgot = if store.before() == Before::Forgot { latest.saturating_add(AHEAD) } else { 0 };
    forgot.max(store.floor())
}

/// Takes the floor away once it has held for as long as it must, by monotonic time: whatever becomes of the clock.
pub(super) async fn end(table: &RouteTable) {
    sleep(HOLDS).await;
    table.set_floor(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableConfig;

    #[tokio::test(start_paused = true)]
    async fn the_floor_holds_until_nothing_that_was_forgotten_is_fresh_and_no_longer() {
        let table = RouteTable::new(&TableConfig::default());
        table.set_floor(u32::MAX);
        let second = Duration::from_secs(1);
        assert!(tokio::time::timeout(HOLDS - second, end(&table)).await.is_err());
        assert_eq!(table.floor(), u32::MAX);
        end(&table).await;
        assert_eq!((table.floor(), HOLDS), (0, 421 * second));
    }

    #[test]
    fn there_is_no_floor_where_nothing_was_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::from_gps(1_479_435_219);
        let store = Store::open(directory.path(), false, now).unwrap();
        assert_eq!(of(&store, now.gps() + 3600, now), 0);
    }
}
