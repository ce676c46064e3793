//! Telling the packet path what became of devices.

use super::{Live, Registrar};
use crate::auth::keys::DeviceKey;
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::Registration;
use crate::table::route::Application;

/// A device of the registry, as the packet path needs to know of it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) device_id: DeviceId,
    pub(super) registration: Registration,
    /// Its key, and a second one.
    pub(super) keys: Option<(DeviceKey, Option<DeviceKey>)>,
    pub(super) application: Option<Application>,
}

impl Live {
    /// Registers a new device, see [`Registrar`]. Where what was heard of it is kept, what it said it runs is too.
    pub(super) fn register(&self, device: Known, registrar: Registrar) {
        let Known { device_id, registration, keys, application } = device;
        match registrar {
            Registrar::OfAll => self.table.register(device_id, registration),
            Registrar::OfOne => self.table.register_afresh(device_id, registration),
        }
        if let Some((key, second)) = keys {
            self.keys.set_device(device_id, key, second);
        }
        if let Some(application) = application
            && self.table.snapshot(device_id).is_none_or(|snapshot| snapshot.application.is_none())
        {
            self.table.set_application(device_id, application, registration.at);
        }
    }

    /// Forgets a device with what waits for it, and ends the waits for it. One that the configuration names too stays registered as its own, as if
    /// from `now` on, and keeps the key that it has there.
    pub(super) fn deregister(&self, device_id: DeviceId, now: Timestamp) {
        self.table.deregister(device_id);
        if self.configured.devices.contains(&device_id) {
            self.table.register(device_id, now);
        } else {
            self.keys.remove_device(device_id);
        }
        self.downlinks.outbox.forget(device_id);
        self.waiters.dismiss(device_id);
    }
}
