//! The way to a device, as far as the table knows it, and whether an intent may take it.

use super::event::{Dropped, Listening};
use super::intent::Intent;
use super::seal::{Destination, Relay};
use crate::auth::keys::KeyRing;
use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId, KeyId};
use crate::table::RouteTable;
use crate::table::contest::Place;
use crate::table::route::{Path, Route};
use crate::table::sending::{Receipt, SendRoute, Via};

/// The way to a device at some moment.
#[derive(Debug)]
pub struct Target {
    /// Where datagrams go.
    pub to: Destination,
    /// How they leave.
    pub via: Via,
    /// What the table says of the device.
    pub route: SendRoute,
}

impl Target {
    /// To where a packet of `device` came from by `path`. `network`: the one whose key opened it, if any did; that is its
    /// sender's, whatever the table remembers of the device. `None` where nothing can get there.
    pub fn back(
        table: &RouteTable,
        keys: &KeyRing,
        device: DeviceId,
        path: &Path,
        network: Option<KeyId>,
        receipt: Receipt,
    ) -> Option<Self> {
        let route = table.send_route(device, receipt.at)?;
        let network = network.or_else(|| keys.network_numbered(route.network));
        let relay = path.relay().and_then(|relay| table.send_route(relay, receipt.at));
        let relay_network = relay.and_then(|relay| keys.network_numbered(relay.network));
        let to = Destination::back(device, path, network, relay_network, route.largest)?;
        Some(Self { to, via: receipt.via, route })
    }

    /// To where `device` is at `now`. `None` if it has no route, or nothing can get there.
    pub fn along_route(table: &RouteTable, keys: &KeyRing, device: DeviceId, now: Timestamp) -> Option<Self> {
        let route = table.send_route(device, now)?;
        let relay = match route.route {
            Route::Direct(_) => None,
            Route::Relayed(relayed) => table.send_route(relayed.through.relay, now),
        };
        let to = Destination::along(keys, device, &route, relay.as_ref())?;
        Some(Self { to, via: relay.map_or(route.via, |relay| relay.via), route })
    }

    /// To one of the places of `device`, and whether that leads to an address which is proved, the device's or its relay's. `receipt`:
    /// of a packet of the device, whose way leads to an address where its route does not. `None` as for [`Self::along_route`].
    pub fn at_place(
        table: &RouteTable,
        keys: &KeyRing,
        device: DeviceId,
        place: &Place,
        receipt: Receipt,
    ) -> Option<(Self, bool)> {
        let route = table.send_route(device, receipt.at)?;
        let network = keys.network_numbered(route.network);
        let to = |address, relay| Destination { device, network, address, largest: route.largest, relay };
        match *place {
            Place::Direct(address) => {
                let is_route = matches!(route.route, Route::Direct(direct) if direct.address == address);
                let via = if is_route { route.via } else { receipt.via };
                Some((Self { to: to(address, None), via, route }, is_route && route.proved))
            }
            Place::Relayed { relay, bt } => {
                let by = table.send_route(relay, receipt.at)?;
                let Route::Direct(direct) = by.route else { return None };
                let relay = Relay { device: relay, network: keys.network_numbered(by.network), address: bt? };
                Some((Self { to: to(direct.address, Some(relay)), via: by.via, route }, by.proved))
            }
        }
    }

    /// What the device has said of when it listens.
    pub const fn listening(&self) -> Listening {
        let SendRoute { always_rx, single_tx, heard_at, .. } = self.route;
        Listening { always_rx, single_tx, heard_at }
    }

    /// Why an intent is given up rather than sent this way: the route has moved since the position it is bound to.
    pub fn refusal(&self, table: &RouteTable, intent: &Intent) -> Option<Dropped> {
        let has_moved = |since: Cursor| table.moved_since(self.to.device, since).unwrap_or(true);
        let dropped = Dropped::RouteMoved { cursor: self.route.cursor };
        intent.if_route.filter(|since| has_moved(*since)).map(|_| dropped)
    }
}
