//! The devices of one organisation by when they were heard, as it was at one moment.

use std::collections::HashSet;
use std::sync::OnceLock;

use super::{HeardFilter, HeardOrder, Page};
use crate::clock::Timestamp;
use crate::table::RouteTable;
use crate::table::heard::Heard;

/// The devices of an organisation, each with when it was heard. 32 bytes a device, and 4 more for each order that is asked
/// for.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By number.
    devices: Vec<Entry>,
    /// The greatest number there was: devices above it are not in here.
    greatest: u32,
    /// Places in `devices`, in each of the orders.
    orders: [OnceLock<Vec<u32>>; ORDERS.len()],
}

/// A device. A time of 0: never.
#[derive(Clone, Copy, Debug)]
struct Entry {
    record: u32,
    first: Timestamp,
    last: Timestamp,
    direct: Timestamp,
}

const ORDERS: [HeardOrder; 3] = [HeardOrder::FirstPacketTime, HeardOrder::LastRouteTime, HeardOrder::LastRouteUdpTime];

impl Listing {
    /// Looks at every registered device. All devices up to the number `greatest` are known to the table.
    pub(super) fn make(table: &RouteTable, organisation: u32, greatest: u32) -> Self {
        let mut devices = Vec::new();
        let wanted = 1..=greatest;
        table.heard(
            |device| device.organisation == organisation && wanted.contains(&device.record),
            |Heard { registration, first_packet_at, last_packet_at, last_direct_at, .. }| {
                let record = registration.record;
                devices.push(Entry { record, first: first_packet_at, last: last_packet_at, direct: last_direct_at });
            },
        );
        devices.sort_unstable_by_key(|device| device.record);
        Self { devices, greatest, orders: Default::default() }
    }

    /// Devices above this number are not in here.
    pub(super) fn greatest(&self) -> u32 {
        self.greatest
    }

    /// Sorts what somebody has asked `other` for.
    pub(super) fn sort_as(&self, other: &Self) {
        for order in ORDERS.into_iter().filter(|order| other.orders[*order as usize].get().is_some()) {
            self.sorted(order);
        }
    }

    /// The numbers of a part of the list. `newer` devices, by number, were never heard as far as this list goes; those that
    /// are `gone` since are left out.
    pub(super) fn page(
        &self,
        order: HeardOrder,
        newer: &[u32],
        gone: &HashSet<u32>,
        passes: impl Fn(Timestamp) -> bool,
        page: Page,
    ) -> Vec<i64> {
        let sorted = self.sorted(order);
        let silent = sorted.partition_point(|at| self.devices[*at as usize].heard(order) == Timestamp(0));
        let listed = |at: &u32| {
            let device = self.devices[*at as usize];
            (passes(device.last) && !gone.contains(&device.record)).then_some(device.record)
        };
        let (silent, heard) = sorted.split_at(silent);
        let newer = newer.iter().copied().filter(|record| passes(Timestamp(0)) && !gone.contains(record));
        let all = silent.iter().filter_map(listed).chain(newer).chain(heard.iter().filter_map(listed));
        if page.descending { part(all.rev(), page) } else { part(all, page) }
    }

    /// Those never heard first; ties by number.
    fn sorted(&self, order: HeardOrder) -> &[u32] {
        self.orders[order as usize].get_or_init(|| {
            let keys = (0..).zip(&self.devices).map(|(at, device)| (device.heard(order), at));
            let mut keys: Vec<(Timestamp, u32)> = keys.collect();
            keys.sort_unstable();
            keys.into_iter().map(|(_, at)| at).collect()
        })
    }
}

impl Entry {
    fn heard(&self, order: HeardOrder) -> Timestamp {
        match order {
            HeardOrder::FirstPacketTime => self.first,
            HeardOrder::LastRouteTime => self.last,
            HeardOrder::LastRouteUdpTime => self.direct,
        }
    }
}

/// Whether a device passes whose last packet was counted at `last`, 0 for never.
pub(super) fn passes(filter: HeardFilter, now: Timestamp, last: Timestamp) -> bool {
    let (never, ago) = (last == Timestamp(0), now.0.saturating_sub(last.0));
    filter.silent_for_ms.is_none_or(|span| never || ago >= span)
        && filter.heard_within_ms.is_none_or(|span| !never && ago <= span)
}

/// A part of a list of numbers.
pub(super) fn part(all: impl Iterator<Item = u32>, page: Page) -> Vec<i64> {
    let offset = usize::try_from(page.offset).unwrap_or(usize::MAX);
    all.skip(offset).take(page.limit as usize).map(i64::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Devices with a number and the time of their last packet.
    fn listing(devices: &[(u32, u64)]) -> Listing {
        let entry =
            |&(record, last)| Entry { record, first: Timestamp(0), last: Timestamp(last), direct: Timestamp(0) };
        Listing { devices: devices.iter().map(entry).collect(), greatest: 100, orders: Default::default() }
    }

    fn page(limit: u32, offset: u64, descending: bool) -> Page {
        Page { limit, offset, descending }
    }

    #[test]
    fn those_never_heard_come_first_then_by_time_and_ties_by_number() {
        let listing = listing(&[(1, 30), (2, 0), (3, 10), (4, 30), (5, 0)]);
        let list = |descending| {
            listing.page(HeardOrder::LastRouteTime, &[], &HashSet::new(), |_| true, page(9, 0, descending))
        };
        assert_eq!(list(false), [2, 5, 3, 1, 4]);
        assert_eq!(list(true), [4, 1, 3, 5, 2]);
        let first = listing.page(HeardOrder::FirstPacketTime, &[], &HashSet::new(), |_| true, page(9, 0, false));
        assert_eq!(first, [1, 2, 3, 4, 5], "none has a first packet");
    }

    #[test]
    fn newer_devices_are_the_last_of_those_never_heard_and_gone_ones_are_left_out() {
        let listing = listing(&[(1, 30), (2, 0), (3, 10)]);
        let (newer, gone) = ([101, 103], HashSet::from([3, 103]));
        let list = |page| listing.page(HeardOrder::LastRouteTime, &newer, &gone, |_| true, page);
        assert_eq!((list(page(9, 0, false)), list(page(9, 0, true))), (vec![2, 101, 1], vec![1, 101, 2]));
        assert_eq!((list(page(1, 1, false)), list(page(1, 3, false))), (vec![101], vec![]));
        let heard = listing.page(HeardOrder::LastRouteTime, &newer, &gone, |last| last.0 > 0, page(9, 0, false));
        assert_eq!(heard, [1]);
    }

    #[test]
    fn a_device_is_silent_from_the_span_on_and_heard_up_to_it() {
        let filter = |silent_for_ms, heard_within_ms| HeardFilter { silent_for_ms, heard_within_ms };
        let now = Timestamp(1000);
        let pass = |filter, lasts: [u64; 4]| lasts.map(|last| passes(filter, now, Timestamp(last)));
        let lasts = [0, 899, 900, 901];
        assert_eq!(pass(filter(None, None), lasts), [true; 4]);
        assert_eq!(pass(filter(Some(100), None), lasts), [true, true, true, false]);
        assert_eq!(pass(filter(None, Some(100)), lasts), [false, false, true, true]);
        assert_eq!(pass(filter(Some(100), Some(100)), lasts), [false, false, true, false]);
        assert!(passes(filter(None, Some(0)), now, Timestamp(2000)), "heard before the clock was set back");
    }

    #[test]
    fn what_was_sorted_before_is_sorted_again() {
        let (old, new) = (listing(&[(1, 30)]), listing(&[(1, 40)]));
        old.sorted(HeardOrder::LastRouteTime);
        new.sort_as(&old);
        let sorted = ORDERS.map(|order| new.orders[order as usize].get().is_some());
        assert_eq!(sorted, [false, true, false]);
    }
}
