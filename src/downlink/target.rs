//! The way to a device, as far as the table knows it, and whether an intent may take it.

use super::event::{Dropped, Listening};
use super::intent::Intent;
use super::seal::Destination;
use crate::auth::keys::KeyRing;
use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId};
use crate::table::RouteTable;
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
    /// To where a packet of `device` came from by `path`. `None` where nothing can get there.
    pub fn back(table: &RouteTable, keys: &KeyRing, device: DeviceId, path: &Path, receipt: Receipt) -> Option<Self> {
        let route = table.send_route(device, receipt.at)?;
        let network = keys.network_numbered(route.network);
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
