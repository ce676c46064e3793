//! Waiting for packets of one device, of many or of an organisation's, and following them: the table and the waiters
//! together.
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use lastroute::auth::{open_with, seal_with, keys::{Interface, RootKey}};
//! # use lastroute::clock::Timestamp;
//! # use lastroute::id::{DeviceId, KeyId};
//! # use lastroute::table::{Packet, RouteTable, TableConfig, route::Path};
//! # use lastroute::wire::frame::{Flags, Frame, Header, Layout, PacketType};
//! # fn report_in(table: &RouteTable, device_id: DeviceId) {
//! #     let at = Timestamp::from_unix_seconds(1_795_400_001);
//! #     let (key_id, gps_time) = (KeyId::from_le_bytes([7, 0, 0]), at.gps());
//! #     let (packet_type, flags, sequence, entropy) = (PacketType::TDF, Flags(0), 1, 2);
//! #     let header = Header { packet_type, flags, key_id, device_id, gps_time, sequence, entropy };
//! #     let key = RootKey::new([1; 32]).day_key(Interface::Udp, header.rotation());
//! #     let mut bytes = Vec::new();
//! #     seal_with(&key, &header, Layout::Unversioned, &[], &mut bytes);
//! #     let verified = open_with(&key, Frame::parse(&mut bytes, Layout::Unversioned).unwrap()).unwrap();
//! #     let path = &Path::Direct(([127, 0, 0, 1], 4000).into());
//! #     table.record(&Packet::new(&verified, path, at));
//! # }
//! use lastroute::wait::{PacketWaits, Waited};
//! use lastroute::waiters::{Waiters, WaitersConfig};
//! use tokio::time::Instant;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let table = Arc::new(RouteTable::new(&TableConfig::default()));
//! let waiters = Arc::new(Waiters::new(&WaitersConfig::default()));
//! let waits = PacketWaits::new(Arc::clone(&table), Arc::clone(&waiters));
//! let device = DeviceId(0xd291_d4d6_6bf0_a955);
//!
//! let waiting = tokio::spawn(async move {
//!     let deadline = Instant::now() + Duration::from_secs(60);
//!     waits.wait_for_packet(device, None, deadline).await
//! });
//! # tokio::task::yield_now().await;
//! // Whoever takes a packet into the table wakes afterwards.
//! report_in(&table, device);
//! waiters.wake(device);
//!
//! let Ok(Waited::Packet { snapshot, missed }) = waiting.await.unwrap() else { panic!() };
//! assert_eq!((snapshot.cursor.n, missed), (1, 0));
//! assert!(snapshot.last_route.is_some());
//! # }
//! ```

mod history;
pub mod many;
pub mod organisation;
pub mod stream;

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use crate::id::{Cursor, DeviceId};
use crate::table::RouteTable;
use crate::table::route::Snapshot;
use crate::waiters::{Ended, Full, Waiters};

/// Waits for packets. Cheap to clone; whoever records packets in the same table has to wake the same waiters.
#[derive(Clone, Debug)]
pub struct PacketWaits {
    table: Arc<RouteTable>,
    waiters: Arc<Waiters>,
}

/// How waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// A packet newer than the cursor was counted.
    Packet {
        /// The device with its latest packet. The next wait goes on after this cursor.
        snapshot: Snapshot,
        /// Packets between the cursor and the latest one.
        missed: u64,
    },
    /// The cursor is of a former epoch: how many packets lie between is not known. The epoch may change during the wait
    /// too: of a device that is forgotten, and of one never heard when it is registered or others are forgotten.
    Reset {
        /// The device's present position. The next wait goes on after it.
        cursor: Cursor,
        /// Absent if nothing is known of the device.
        snapshot: Option<Snapshot>,
    },
    /// The deadline passed.
    TimedOut {
        /// Nothing newer than this position was counted. The next wait goes on after it.
        cursor: Cursor,
    },
}

/// Why there is nothing to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// Only registered devices are served.
    #[error("device is not registered, and packets of unregistered devices are dropped; register it first")]
    NotRegistered,
    /// No gateway gave this cursor for this device.
    #[error("the cursor lies ahead of {present}, the last packet; wait after a cursor returned for this device")]
    AheadOfPresent {
        /// The position of the device's last counted packet.
        present: Cursor,
    },
    /// As [`Ended::Full`] or [`Ended::Dismissed`].
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl From<Full> for WaitError {
    fn from(full: Full) -> Self {
        Self::Ended(full.into())
    }
}

impl Waited {
    /// The position after which the next wait goes on.
    pub const fn cursor(&self) -> Cursor {
        match self {
            Self::Packet { snapshot, .. } => snapshot.cursor,
            Self::Reset { cursor, .. } | Self::TimedOut { cursor } => *cursor,
        }
    }
}

impl PacketWaits {
    /// Waits for what is recorded in `table` by whoever wakes `waiters`.
    pub fn new(table: Arc<RouteTable>, waiters: Arc<Waiters>) -> Self {
        Self { table, waiters }
    }

    /// How many wait now, for any device.
    pub fn waiting(&self) -> usize {
        self.waiters.waiting()
    }

    /// Waits until a packet of the device newer than `after`, or else newer than this call, is counted. Answers at once
    /// if that has happened already, if `after` is of a former epoch, or if the deadline has passed. Ends with an error as
    /// soon as the device is deleted.
    ///
    /// Cancel-safe: a dropped future leaves nothing behind.
    #[allow(clippy::manual_async_fn, reason = "an async function keeps its arguments twice")]
    pub fn wait_for_packet(
        &self,
        id: DeviceId,
        after: Option<Cursor>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Waited, WaitError>> {
        async move {
            let base = match self.begin(id, after)? {
                Ok(found) => return Ok(found),
                Err(base) => base,
            };
            if deadline <= Instant::now() {
                return Ok(Waited::TimedOut { cursor: base });
            }
            match timeout_at(deadline, self.sleep(id, base)).await {
                Ok(found) => found?,
                // What was forgotten meanwhile woke nobody.
                Err(_) => Ok(self.look(id, base).unwrap_or_else(|cursor| Waited::TimedOut { cursor })),
            }
        }
    }

    /// What is there without waiting. `Ok(Err)`: nothing newer than this position, after which to wait.
    fn begin(&self, id: DeviceId, after: Option<Cursor>) -> Result<Result<Waited, Cursor>, WaitError> {
        if !self.is_served(id) {
            return Err(WaitError::NotRegistered);
        }
        let (present, snapshot) = self.present(id);
        let base = after.unwrap_or(present);
        if base.epoch != present.epoch {
            return Ok(Ok(Waited::Reset { cursor: present, snapshot }));
        }
        if base.n > present.n {
            return Err(WaitError::AheadOfPresent { present });
        }
        Ok(since(base, present, snapshot))
    }

    /// Waits for what happens after `base`, with a place among the waiters. No `async` of its own, which would make every
    /// wait larger.
    fn sleep(&self, id: DeviceId, base: Cursor) -> impl Future<Output = Result<Result<Waited, WaitError>, Ended>> {
        self.waiters.wait(id, move || match self.is_served(id) {
            true => self.look(id, base).ok().map(Ok),
            // Deleted after the first look and before there was a place: nobody dismisses this one.
            false => Some(Err(WaitError::NotRegistered)),
        })
    }

    /// Whether packets of the device are counted.
    fn is_served(&self, id: DeviceId) -> bool {
        self.table.serves_unregistered() || self.table.registered_since(id).is_some()
    }

    /// What happened since `base`, a position this device had during the wait. `Err`: nothing newer than this position.
    fn look(&self, id: DeviceId, base: Cursor) -> Result<Waited, Cursor> {
        let (present, snapshot) = self.present(id);
        since(base, present, snapshot)
    }

    /// The position of the device, and what is known of it. Never a position beyond what the snapshot shows.
    fn present(&self, id: DeviceId) -> (Cursor, Option<Snapshot>) {
        let cursor = self.table.cursor(id);
        let snapshot = self.table.snapshot(id);
        (snapshot.map_or(cursor, |snapshot| snapshot.cursor), snapshot)
    }
}

/// As [`PacketWaits::look`]. A device that was unknown and still is has nothing to reset, whatever its epoch is called.
fn since(base: Cursor, present: Cursor, snapshot: Option<Snapshot>) -> Result<Waited, Cursor> {
    if base.epoch != present.epoch {
        let unknown = base.n == 0 && present.n == 0;
        return if unknown { Err(present) } else { Ok(Waited::Reset { cursor: present, snapshot }) };
    }
    match snapshot.filter(|_| present.n > base.n) {
        Some(snapshot) => Ok(Waited::Packet { snapshot, missed: present.n - base.n - 1 }),
        None => Err(present),
    }
}

#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod testing;

#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests {
    use super::testing::{DEVICE, Gateway, MINUTE, OTHER, START};
    use super::*;
    use crate::table::{TableConfig, Unregistered};
    use tokio::task::yield_now;

    fn gateway() -> Gateway {
        Gateway::new(&TableConfig { epoch: 9, ..TableConfig::default() }, 10)
    }

    fn packet(answer: Result<Waited, WaitError>) -> (u64, u16, u64) {
        let Ok(Waited::Packet { snapshot, missed }) = answer else { panic!("{answer:?}") };
        (snapshot.cursor.n, snapshot.last_packet.unwrap().sequence, missed)
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_cursor_only_packets_after_the_call_count() {
        let gateway = gateway();
        gateway.hear(DEVICE, 1);
        gateway.hear(DEVICE, 2);
        let wait = gateway.begin(DEVICE, None).await;
        assert_eq!(gateway.waiters.waiting(), 1);
        gateway.hear(OTHER, 1);
        yield_now().await;
        assert!(!wait.is_finished());
        gateway.hear(DEVICE, 3);
        assert_eq!(packet(wait.await.unwrap()), (3, 3, 0));
        assert_eq!(gateway.waiters.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn packets_that_come_before_the_waiter_runs_again_are_missed_ones() {
        let gateway = gateway();
        let wait = gateway.begin(DEVICE, None).await;
        for sequence in 1..=4 {
            gateway.hear(DEVICE, sequence);
        }
        assert_eq!(packet(wait.await.unwrap()), (4, 4, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn behind_the_present_the_latest_packet_is_there_at_once() {
        let gateway = gateway();
        gateway.hear(DEVICE, 1);
        let after = gateway.table.cursor(DEVICE);
        for sequence in 2..=5 {
            gateway.hear(DEVICE, sequence);
        }
        assert_eq!(packet(gateway.at_once(DEVICE, Some(after)).await), (5, 5, 3));
        let before_the_first = Cursor { n: 0, ..after };
        assert_eq!(packet(gateway.at_once(DEVICE, Some(before_the_first)).await), (5, 5, 4));
        let wait = gateway.begin(DEVICE, Some(gateway.table.cursor(DEVICE))).await;
        gateway.hear(DEVICE, 6);
        assert_eq!(packet(wait.await.unwrap()), (6, 6, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cursor_of_another_epoch_is_reset_at_once() {
        let gateway = gateway();
        let after = Some(Cursor { epoch: 1, n: 700 });
        let unknown = gateway.at_once(DEVICE, after).await;
        assert_eq!(unknown, Ok(Waited::Reset { cursor: gateway.table.cursor(DEVICE), snapshot: None }));
        gateway.hear(DEVICE, 1);
        let snapshot = gateway.table.snapshot(DEVICE);
        let cursor = snapshot.unwrap().cursor;
        assert_eq!(gateway.at_once(DEVICE, after).await, Ok(Waited::Reset { cursor, snapshot }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cursor_ahead_of_the_present_is_an_error() {
        let gateway = gateway();
        for present in 0..3 {
            let cursor = gateway.table.cursor(DEVICE);
            assert_eq!(cursor.n, u64::from(present));
            let answer = gateway.at_once(DEVICE, Some(Cursor { n: cursor.n + 1, ..cursor })).await;
            assert_eq!(answer, Err(WaitError::AheadOfPresent { present: cursor }));
            gateway.hear(DEVICE, present + 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_a_wait_with_the_position_to_go_on_from() {
        let gateway = gateway();
        gateway.hear(DEVICE, 1);
        for id in [DEVICE, OTHER] {
            let begun = Instant::now();
            let cursor = gateway.table.cursor(id);
            let answer = gateway.begin(id, None).await.await.unwrap();
            assert_eq!(answer, Ok(Waited::TimedOut { cursor }));
            assert_eq!(Instant::now() - begun, MINUTE);
            assert_eq!(gateway.waiters.waiting(), 0);
            let passed = gateway.waits.wait_for_packet(id, None, begun).await;
            assert_eq!(passed, Ok(Waited::TimedOut { cursor }), "a deadline that has passed is no error");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_never_heard_is_waited_for_unless_only_registered_ones_are_served() {
        let wait = |gateway: Gateway, sequence| async move {
            let wait = gateway.begin(DEVICE, None).await;
            gateway.hear(DEVICE, sequence);
            packet(wait.await.unwrap())
        };
        assert_eq!(wait(gateway(), 1).await, (1, 1, 0));
        let deny = Gateway::new(&TableConfig { unregistered: Unregistered::Deny, ..TableConfig::default() }, 10);
        for after in [None, Some(Cursor { epoch: 1, n: 1 })] {
            assert_eq!(deny.at_once(DEVICE, after).await, Err(WaitError::NotRegistered));
        }
        deny.table.register(DEVICE, START);
        assert_eq!(wait(deny, 1).await, (1, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_forgotten_during_the_wait_is_reset_when_it_speaks_again_or_at_the_deadline() {
        let gateway = Gateway::new(&TableConfig { unregistered_limit: 1, ..TableConfig::default() }, 10);
        gateway.hear(DEVICE, 1);
        let first = gateway.begin(DEVICE, None).await;
        gateway.hear(OTHER, 2);
        assert_eq!(gateway.table.snapshot(DEVICE), None, "it made room");
        assert!(!first.is_finished());
        gateway.hear(DEVICE, 3);
        let snapshot = gateway.table.snapshot(DEVICE);
        let cursor = snapshot.unwrap().cursor;
        assert_eq!(cursor.n, 1);
        assert_eq!(first.await.unwrap(), Ok(Waited::Reset { cursor, snapshot }));

        let second = gateway.begin(DEVICE, None).await;
        gateway.hear(OTHER, 4);
        let answer = second.await.unwrap();
        assert_eq!(answer, Ok(Waited::Reset { cursor: gateway.table.cursor(DEVICE), snapshot: None }));
    }

    #[tokio::test(start_paused = true)]
    async fn forgetting_others_resets_nobody_who_was_never_heard() {
        let gateway = Gateway::new(&TableConfig { unregistered_limit: 1, ..TableConfig::default() }, 10);
        gateway.hear(OTHER, 1);
        let before = gateway.table.cursor(DEVICE);
        let wait = gateway.begin(DEVICE, None).await;
        gateway.hear(DeviceId(9), 2);
        let cursor = gateway.table.cursor(DEVICE);
        assert_ne!(cursor, before, "the epoch has changed");
        assert_eq!(wait.await.unwrap(), Ok(Waited::TimedOut { cursor }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_wait_leaves_nothing_and_its_place_is_free() {
        let gateway = Gateway::new(&TableConfig::default(), 1);
        let first = gateway.begin(DEVICE, None).await;
        assert_eq!(gateway.at_once(DEVICE, None).await, Err(Full::Device.into()));
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(gateway.waiters.waiting(), 0);
        let second = gateway.begin(DEVICE, None).await;
        gateway.hear(DEVICE, 1);
        assert_eq!(packet(second.await.unwrap()), (1, 1, 0));
        let behind = Cursor { n: 0, ..gateway.table.cursor(DEVICE) };
        let third = gateway.begin(DEVICE, None).await;
        assert_eq!(packet(gateway.at_once(DEVICE, Some(behind)).await), (1, 1, 0), "needs no place");
        let passed = gateway.waits.wait_for_packet(DEVICE, None, Instant::now()).await;
        assert_eq!(passed, Ok(Waited::TimedOut { cursor: gateway.table.cursor(DEVICE) }), "nor does this");
        third.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_is_deleted_ends_its_waits_at_once_whoever_else_is_served() {
        for unregistered in [Unregistered::Allow, Unregistered::Deny] {
            let gateway = Gateway::new(&TableConfig { unregistered, ..TableConfig::default() }, 10);
            for heard in [false, true] {
                gateway.table.register(DEVICE, START);
                gateway.table.register(OTHER, START);
                if heard {
                    gateway.hear(DEVICE, 1);
                }
                let begun = Instant::now();
                let (wait, other) = (gateway.begin(DEVICE, None).await, gateway.begin(OTHER, None).await);
                gateway.delete(DEVICE);
                assert_eq!(wait.await.unwrap(), Err(Ended::Dismissed.into()));
                assert_eq!((Instant::now(), gateway.waiters.waiting()), (begun, 1));
                other.abort();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_takes_its_place_after_its_device_was_deleted_does_not_sleep_where_nothing_can_come() {
        let deny = TableConfig { unregistered: Unregistered::Deny, ..TableConfig::default() };
        let gateway = Gateway::new(&deny, 10);
        gateway.table.register(DEVICE, START);
        let base = gateway.table.cursor(DEVICE);
        gateway.delete(DEVICE);
        assert_eq!(gateway.waits.sleep(DEVICE, base).await, Ok(Err(WaitError::NotRegistered)));
    }

    #[test]
    fn a_wait_is_small_and_can_be_sent_to_another_thread() {
        fn sendable<T: Send>(value: T) -> T {
            value
        }
        let gateway = gateway();
        let wait = sendable(gateway.waits.wait_for_packet(DEVICE, None, Instant::now()));
        assert!(size_of_val(&wait) <= 1024, "{}", size_of_val(&wait));
    }
}
