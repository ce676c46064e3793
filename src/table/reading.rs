//! What a record says: its fields as the values that others see.

use std::net::{IpAddr, SocketAddr};

use super::contest::Place;
use super::record::{CLASS, Record, STEP, bit};
use super::route::{Application, DirectRoute, LastPacket, Path, RelayedRoute, Route, Snapshot, Trust, canonical};
use super::rules::{Slot, Step, TimeClass};
use super::sending::{SendRoute, Via};
use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId};
use crate::wire::frame::{Level, PacketType};
use crate::wire::tdf::Version;

impl Record {
    /// Where the route of a slot leads.
    pub(super) fn place(&self, slot: Slot) -> Option<Place> {
        match slot {
            Slot::Direct => self.direct_address().map(Place::Direct),
            Slot::Relayed => self.relayed().map(|route| Path::Relayed(route.through).place()),
        }
    }

    /// Whether the route of the slot leads where a packet came from; `None` without a route.
    pub(super) fn leads_to(&self, path: &Path) -> Option<bool> {
        match path {
            Path::Direct(source) => self.direct_address().map(|address| address == canonical(*source)),
            Path::Relayed(through) => {
                let route = self.cold.as_ref()?.relayed.as_ref()?;
                Some(route.through.same_path(through))
            }
        }
    }

    /// Whether a proved packet that may move a route, or the answer to a challenge, came by the present route of a slot.
    pub(super) fn is_route_proved(&self, slot: Slot) -> bool {
        match slot {
            Slot::Direct => self.is_address_proved(),
            Slot::Relayed => self.cold.as_ref().is_some_and(|cold| cold.relayed_proved),
        }
    }

    /// Whether a proved packet came by the present route of a slot, though the route policy lets it move none.
    pub(super) fn is_route_borne_out(&self, slot: Slot) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.borne_out[slot as usize])
    }

    /// When the route of a slot was set or refreshed last; 0 without one.
    pub(super) fn route_at(&self, slot: Slot) -> Timestamp {
        match slot {
            Slot::Direct => self.direct_at,
            Slot::Relayed => self.relayed().map_or(Timestamp(0), |route| route.received_at),
        }
    }

    pub(super) fn direct_address(&self) -> Option<SocketAddr> {
        if !self.has(bit::HAS_DIRECT) {
            return None;
        }
        let ip = match self.cold.as_ref().and_then(|cold| cold.direct_v6).filter(|_| self.has(bit::DIRECT_V6)) {
            Some(v6) => IpAddr::V6(v6),
            None => IpAddr::V4(self.direct_v4),
        };
        Some(SocketAddr::new(ip, self.direct_port))
    }

    pub(super) fn direct(&self) -> Option<DirectRoute> {
        let trust = if self.has(bit::DIRECT_TRUST_VERIFIED) {
            Trust::Verified
        } else if self.has(bit::DIRECT_TRUST_DEVICE) {
            Trust::Device
        } else {
            Trust::Network
        };
        let address = self.direct_address()?;
        Some(DirectRoute { address, received_at: self.direct_at, sequence: self.direct_sequence, trust })
    }

    pub(super) fn last_packet(&self) -> Option<LastPacket> {
        let elsewhere = self.cold.as_ref().and_then(|cold| cold.last_source);
        let is_elsewhere = self.has(bit::LAST_RELAYED) || !self.has(bit::LAST_ON_ROUTE);
        let source = elsewhere.filter(|_| is_elsewhere).or_else(|| self.direct_address())?;
        let step = Step::from_code(self.last_class >> STEP);
        (self.count > 0).then_some(LastPacket {
            packet_type: PacketType(self.last_type),
            level: if self.has(bit::LAST_DEVICE_LEVEL) { Level::Device } else { Level::Network },
            sequence: self.last_sequence,
            gps_time: self.last_gps,
            received_at: self.last_at,
            class: [TimeClass::Fresh, TimeClass::NoTime, TimeClass::Old, TimeClass::Future]
                [usize::from(self.last_class & CLASS)],
            step,
            proved: step.proved(),
            source,
            relayed: self.has(bit::LAST_RELAYED),
            on_route: self.has(bit::LAST_ON_ROUTE),
            // The interface bits of Bluetooth mean something else (rule R8).
            always_rx: self.has(bit::ALWAYS_RX) && !self.has(bit::LAST_RELAYED),
            single_tx: self.has(bit::SINGLE_TX) && !self.has(bit::LAST_RELAYED),
        })
    }

    pub(super) fn relayed(&self) -> Option<RelayedRoute> {
        self.cold.as_ref().and_then(|cold| cold.relayed)
    }

    pub(super) fn last_route(&self) -> Option<Route> {
        match self.relayed().filter(|_| self.has(bit::LAST_ROUTE_RELAYED)) {
            Some(route) => Some(Route::Relayed(route)),
            None => self.direct().map(Route::Direct),
        }
    }

    /// Rule R5: the way downlinks take at `now`.
    pub(super) fn send_route(&self, now: Timestamp, base: u64) -> Option<SendRoute> {
        let route = match self.is_heard_directly(now) {
            true => self.direct().map(Route::Direct),
            false => self.last_route(),
        }?;
        let (via, proved) = match route {
            Route::Direct(_) => (self.via, self.is_route_proved(Slot::Direct)),
            Route::Relayed(_) => (Via::UNKNOWN, self.is_route_proved(Slot::Relayed)),
        };
        Some(SendRoute {
            route,
            via,
            network: self.network,
            largest: u16::from(self.largest) * 8,
            always_rx: self.has(bit::ALWAYS_RX),
            single_tx: self.has(bit::SINGLE_TX),
            heard_at: self.last_at,
            proved,
            cursor: self.cursor(base),
        })
    }

    /// Whether the route has moved since `cursor`, or may have: that of another epoch or from ahead, and one from before the
    /// last 65 534 packets unless the route moved after them, are not told.
    pub(super) fn moved_since(&self, cursor: Cursor, base: u64) -> bool {
        let present = self.cursor(base);
        let known = present.epoch == cursor.epoch && cursor.n <= present.n;
        !known || cursor.n < (present.n + 1).saturating_sub(self.since_move.into())
    }

    /// The position of the last counted packet, in the process whose epochs begin at `base`.
    pub(super) fn cursor(&self, base: u64) -> Cursor {
        Cursor { epoch: base | u64::from(self.generation), n: self.count }
    }

    /// What the device runs.
    pub(super) fn application(&self) -> Option<Application> {
        self.has(bit::HAS_APPLICATION).then_some(Application {
            id: self.application_id,
            version: Version {
                major: self.version_major,
                minor: self.version_minor,
                revision: self.version_revision,
                build: self.version_build,
            },
        })
    }

    /// Copies everything out.
    pub(super) fn snapshot(&self, device_id: DeviceId, base: u64) -> Snapshot {
        let direct = self.direct();
        let relayed = self.relayed();
        let last_route = self.last_route();
        Snapshot {
            device_id,
            cursor: self.cursor(base),
            registered: self.registered(),
            first_packet_at: (self.count > 0).then_some(self.first_at),
            last_packet: self.last_packet(),
            last_route,
            direct,
            relayed,
            proved: [Slot::Direct, Slot::Relayed].map(|slot| self.is_route_proved(slot)),
            application: self.application(),
        }
    }
}
