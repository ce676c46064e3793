//! When the registered devices were heard: every one of them is looked at.

use crate::clock::Timestamp;
use crate::id::DeviceId;

use super::{Registration, RouteTable};

/// When a registered device was heard. A time of 0: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The device.
    pub device_id: DeviceId,
    /// Whose it is, and which record it has.
    pub registration: Registration,
    /// When its first packet was counted.
    pub first_packet_at: Timestamp,
    /// When its last packet was counted.
    pub last_packet_at: Timestamp,
    /// When the last packet was counted that set or refreshed its direct route.
    pub last_direct_at: Timestamp,
}

impl RouteTable {
    /// Tells `each` of the registered devices that are `wanted`, those never heard among them, in no order. Takes time in
    /// proportion to the number of registered devices, and never holds more than one lock. One that is registered or
    /// deregistered in the meantime may be told of or not.
    pub fn heard(&self, wanted: impl Fn(&Registration) -> bool, mut each: impl FnMut(Heard)) {
        let (mut walk, mut devices) = (self.registered.walk(), Vec::new());
        // Of each piece first the ids alone: a record is never locked inside the registered ids.
        while walk.next(|id, registration| devices.extend(wanted(registration).then_some((id, *registration)))) {
            for (device_id, registration) in devices.drain(..) {
                let times = self.records.lock(device_id).find().map(|record| record.times());
                let [first_packet_at, last_packet_at, last_direct_at] = times.unwrap_or_default();
                each(Heard { device_id, registration, first_packet_at, last_packet_at, last_direct_at });
            }
        }
    }
}
