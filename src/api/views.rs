//! The bodies of requests and answers. An absent value is left out: `null` breaks clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId};
use crate::status::Time;
use crate::table::route::{self, Relaying, Route, Snapshot};
use crate::wire::container::{BtAddress, RouteInterface};
use crate::wire::tdf::Version;

/// An error, whatever the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// The HTTP status.
    pub code: u16,
    /// What was wrong, and what to do.
    pub message: String,
}

/// `GET /health`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Health {
    /// Always `ok`.
    pub health: &'static str,
}

/// `GET /readyz`, while ready.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
}

/// How a device was heard.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UplinkRoute {
    interface: &'static str,
    interface_data: InterfaceData,
    #[serde(skip_serializing_if = "Option::is_none")]
    udp: Option<Udp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bt_adv: Option<BtLe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bt_peripheral: Option<BtLe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bt_central: Option<BtLe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded: Option<Box<Forwarded>>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct InterfaceData {
    sequence: u16,
}

#[derive(Clone, Debug, Serialize)]
struct Udp {
    address: SocketAddr,
    time: Time,
}

#[derive(Clone, Debug, Serialize)]
struct BtLe {
    address: String,
    r#type: &'static str,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Forwarded {
    device_id: DeviceId,
    auth: u8,
    rssi: i16,
    route: UplinkRoute,
}

/// An entry of `POST /device/lastRoute`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteOfDevice {
    /// The device.
    pub device_id: DeviceId,
    /// Its route.
    pub last_route: UplinkRoute,
}

/// The request of `POST /device/lastRoute`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRoutes {
    /// Texts that should be device ids.
    pub device_ids: Vec<String>,
}

/// `GET /device/deviceId/{deviceId}/state`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceState {
    created_at: Time,
    updated_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_version: Option<ApplicationVersion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_route_interface: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_route_udp_address: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_route_udp_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_route: Option<UplinkRoute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_route_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_packet_time: Option<Time>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ApplicationVersion {
    major: u8,
    minor: u8,
    revision: u16,
    build_num: u32,
}

/// `GET /device/deviceId/{deviceId}/waitForPacket`, when there is something to tell.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waited {
    device_id: DeviceId,
    cursor: Cursor,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packet: Option<Packet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_route: Option<UplinkRoute>,
}

/// The body of a request to `POST /device/waitForPacket`. One of `device_ids` and `organisation_id` is there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WaitForPackets {
    /// Device ids.
    pub device_ids: Option<Vec<String>>,
    /// All devices of this organisation.
    pub organisation_id: Option<String>,
    /// Cursors by device id.
    pub after: BTreeMap<String, String>,
    /// Milliseconds. Any number, so that one out of range can be named.
    pub timeout_ms: Option<f64>,
    /// `any` or `all`.
    pub mode: Option<String>,
}

/// `POST /device/waitForPacket`, when there is something to tell.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManyWaited {
    /// What there is, by device.
    pub packets: Vec<Waited>,
    /// The other devices.
    pub pending: Vec<DeviceId>,
    /// Whether the time was over first.
    pub timed_out: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Packet {
    r#type: &'static str,
    type_id: u8,
    level: &'static str,
    sequence: u16,
    gps_time: u32,
    received_at: Time,
    time_class: &'static str,
    proved: bool,
    source: SocketAddr,
    on_route: bool,
    always_rx: bool,
    single_tx: bool,
}

impl From<&Route> for UplinkRoute {
    fn from(route: &Route) -> Self {
        match route {
            Route::Direct(route) => Self::udp(route.address, route.received_at, route.sequence),
            Route::Relayed(route) => Self::relayed(route),
        }
    }
}

impl UplinkRoute {
    fn on(interface: RouteInterface, sequence: u16) -> Self {
        Self {
            interface: interface.name(),
            interface_data: InterfaceData { sequence },
            udp: None,
            bt_adv: None,
            bt_peripheral: None,
            bt_central: None,
            forwarded: None,
        }
    }

    fn udp(address: SocketAddr, time: Timestamp, sequence: u16) -> Self {
        Self { udp: Some(Udp { address, time: Time(time) }), ..Self::on(RouteInterface::Udp, sequence) }
    }

    fn relayed(route: &route::RelayedRoute) -> Self {
        let through: &Relaying = &route.through;
        let mut view = Self::on(through.interface, route.sequence);
        let bt = through.bt.as_ref().map(BtLe::from);
        match through.interface {
            RouteInterface::BtAdv => view.bt_adv = bt,
            RouteInterface::BtPeripheral => view.bt_peripheral = bt,
            RouteInterface::BtCentral => view.bt_central = bt,
            RouteInterface::Serial | RouteInterface::Udp | RouteInterface::Hci | RouteInterface::Unknown(_) => {}
        }
        view.forwarded = Some(Box::new(Forwarded {
            device_id: through.relay,
            auth: through.level.number(),
            rssi: through.rssi_dbm,
            route: Self::udp(through.address, route.received_at, through.sequence),
        }));
        view
    }
}

impl From<&BtAddress> for BtLe {
    fn from(address: &BtAddress) -> Self {
        Self { address: address.to_string(), r#type: address.kind_name() }
    }
}

impl DeviceState {
    /// The state of a registered device, of which something or nothing may be known.
    pub fn new(registered: Timestamp, known: Option<&Snapshot>) -> Self {
        let last_packet = known.and_then(|known| known.last_packet);
        let last_route = known.and_then(|known| known.last_route);
        let last_route = last_route.as_ref().map(UplinkRoute::from);
        let direct = known.and_then(|known| known.direct);
        let application = known.and_then(|known| known.application);
        let heard_at = last_packet.map(|packet| packet.received_at);
        Self {
            created_at: Time(registered),
            // The later of registration and last packet, which may be older. What another device reports of this one's
            // application (TDF_REMOTE) is no packet of its own and leaves it.
            updated_at: Time(heard_at.unwrap_or(registered).max(registered)),
            application_id: application.map(|application| application.id),
            application_version: application.map(|application| ApplicationVersion::from(application.version)),
            last_route_interface: last_route.as_ref().map(|route| route.interface),
            last_route_udp_address: direct.map(|direct| direct.address),
            last_route_udp_time: direct.map(|direct| Time(direct.received_at)),
            last_route,
            last_route_time: heard_at.map(Time),
            first_packet_time: known.and_then(|known| known.first_packet_at).map(Time),
        }
    }
}

impl From<Version> for ApplicationVersion {
    fn from(version: Version) -> Self {
        let Version { major, minor, revision, build } = version;
        Self { major, minor, revision, build_num: build }
    }
}

impl Waited {
    /// A packet was counted, and `missed` before it since the cursor asked after.
    pub fn packet(snapshot: &Snapshot, missed: u64) -> Self {
        Self { missed: Some(missed), ..Self::known(snapshot.device_id, snapshot.cursor, Some(snapshot)) }
    }

    /// The cursor asked after belongs to a former count.
    pub fn reset(device_id: DeviceId, cursor: Cursor, known: Option<&Snapshot>) -> Self {
        Self { reset: Some(true), ..Self::known(device_id, cursor, known) }
    }

    fn known(device_id: DeviceId, cursor: Cursor, known: Option<&Snapshot>) -> Self {
        Self {
            device_id,
            cursor,
            missed: None,
            reset: None,
            packet: known.and_then(|known| known.last_packet.as_ref()).map(Packet::from),
            last_route: known.and_then(|known| known.last_route.as_ref()).map(UplinkRoute::from),
        }
    }
}

impl From<&route::LastPacket> for Packet {
    fn from(packet: &route::LastPacket) -> Self {
        Self {
            r#type: packet.packet_type.name(),
            type_id: packet.packet_type.0,
            level: packet.level.name(),
            sequence: packet.sequence,
            gps_time: packet.gps_time,
            received_at: Time(packet.received_at),
            time_class: packet.class.name(),
            proved: packet.proved,
            source: packet.source,
            on_route: packet.on_route,
            always_rx: packet.always_rx,
            single_tx: packet.single_tx,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::format::Format;
    use super::*;
    use crate::table::route::{Application, DirectRoute, LastPacket, RelayedRoute, Trust};
    use crate::table::rules::TimeClass;
    use crate::wire::frame::{Level, PacketType};

    const DEVICE: DeviceId = DeviceId(0xd291_d4d6_6bf0_a955);
    /// 2026-11-23T03:00:00.123Z
    const AT: Timestamp = Timestamp(1_795_402_800_123);
    const CURSOR: Cursor = Cursor { epoch: 7, n: 42 };

    fn direct() -> DirectRoute {
        let address = "203.0.113.7:6200".parse().unwrap();
        DirectRoute { address, received_at: AT, sequence: 4711, trust: Trust::Device }
    }

    fn relayed(interface: RouteInterface, bt: Option<BtAddress>) -> RelayedRoute {
        RelayedRoute {
            through: Relaying {
                relay: DEVICE,
                level: Level::Device,
                address: "203.0.113.7:6200".parse().unwrap(),
                sequence: 90,
                interface,
                bt,
                rssi_dbm: -67,
            },
            received_at: AT,
            sequence: 12,
            trust: Trust::Network,
        }
    }

    fn bt(kind: u8) -> Option<BtAddress> {
        Some(BtAddress { kind, bytes: [0x44, 0x33, 0x22, 0x11, 0x0a, 0xc4] })
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            device_id: DEVICE,
            cursor: CURSOR,
            registered: true,
            first_packet_at: Some(Timestamp(AT.0 - 5000)),
            last_packet: Some(LastPacket {
                packet_type: PacketType::KEY_IDS,
                level: Level::Network,
                sequence: 4711,
                gps_time: 1_479_438_018,
                received_at: AT,
                class: TimeClass::NoTime,
                proved: false,
                source: "[2001:db8::1]:9".parse().unwrap(),
                on_route: true,
                always_rx: false,
                single_tx: true,
            }),
            last_route: Some(Route::Direct(direct())),
            direct: Some(direct()),
            relayed: None,
            application: Some(Application {
                id: 0x1234_5678,
                version: Version { major: 1, minor: 2, revision: 300, build: 4_000_000_000 },
            }),
        }
    }

    fn json(value: impl Serialize) -> Value {
        serde_json::to_value(value).unwrap()
    }

    fn udp(sequence: u16) -> Value {
        json!({"interface": "udp", "interfaceData": {"sequence": sequence},
            "udp": {"address": "203.0.113.7:6200", "time": "2026-11-23T03:00:00.123Z"}})
    }

    #[test]
    fn a_direct_route_is_that_of_the_contract() {
        assert_eq!(json(UplinkRoute::from(&Route::Direct(direct()))), udp(4711));
    }

    #[test]
    fn a_forwarded_route_is_that_of_the_contract() {
        let route = Route::Relayed(relayed(RouteInterface::BtAdv, bt(1)));
        let expected = json!({"interface": "bt_adv", "interfaceData": {"sequence": 12},
            "btAdv": {"address": "c4:0a:11:22:33:44", "type": "random"},
            "forwarded": {"deviceId": "d291d4d66bf0a955", "auth": 2, "rssi": -67, "route": udp(90)}});
        assert_eq!(json(UplinkRoute::from(&route)), expected);
    }

    #[test]
    fn the_part_of_the_interface_holds_the_address_and_is_left_out_where_there_is_none() {
        for (interface, name, part) in [
            (RouteInterface::BtAdv, "bt_adv", Some("btAdv")),
            (RouteInterface::BtPeripheral, "bt_peripheral", Some("btPeripheral")),
            (RouteInterface::BtCentral, "bt_central", Some("btCentral")),
            (RouteInterface::Serial, "serial", None),
            (RouteInterface::Udp, "udp", None),
            (RouteInterface::Hci, "hci", None),
            (RouteInterface::Unknown(77), "unknown", None),
        ] {
            let address = part.and(bt(0));
            let view = json(UplinkRoute::from(&Route::Relayed(relayed(interface, address))));
            assert_eq!(view["interface"], name);
            let mut keys = vec!["interface", "interfaceData", "forwarded"];
            keys.extend(part);
            keys.sort_unstable();
            let mut found: Vec<_> = view.as_object().unwrap().keys().collect();
            found.sort_unstable();
            assert_eq!(found, keys, "{name}");
            if let Some(part) = part {
                assert_eq!(view[part], json!({"address": "c4:0a:11:22:33:44", "type": "public"}));
            }
        }
        let other = relayed(RouteInterface::BtCentral, bt(2));
        assert_eq!(json(UplinkRoute::from(&Route::Relayed(other)))["btCentral"]["type"], "unknown");
    }

    #[test]
    fn a_silent_device_has_two_times_and_nothing_else() {
        let expected = json!({"createdAt": "2026-11-23T03:00:00.123Z", "updatedAt": "2026-11-23T03:00:00.123Z"});
        assert_eq!(json(DeviceState::new(AT, None)), expected);
    }

    #[test]
    fn the_state_is_that_of_the_contract() {
        let registered = Timestamp(AT.0 - 60_000);
        let expected = json!({
            "createdAt": "2026-11-23T02:59:00.123Z",
            "updatedAt": "2026-11-23T03:00:00.123Z",
            "applicationId": 0x1234_5678,
            "applicationVersion": {"major": 1, "minor": 2, "revision": 300, "buildNum": 4_000_000_000_u32},
            "lastRouteInterface": "udp",
            "lastRouteUdpAddress": "203.0.113.7:6200",
            "lastRouteUdpTime": "2026-11-23T03:00:00.123Z",
            "lastRoute": udp(4711),
            "lastRouteTime": "2026-11-23T03:00:00.123Z",
            "firstPacketTime": "2026-11-23T02:59:55.123Z"
        });
        assert_eq!(json(DeviceState::new(registered, Some(&snapshot()))), expected);
        let later = Timestamp(AT.0 + 1000);
        let registered_later = json(DeviceState::new(later, Some(&snapshot())));
        assert_eq!(registered_later["updatedAt"], registered_later["createdAt"]);
    }

    #[test]
    fn the_udp_address_stays_when_a_relayed_packet_is_last() {
        let mut snapshot = snapshot();
        snapshot.last_route = Some(Route::Relayed(relayed(RouteInterface::BtAdv, bt(1))));
        let state = json(DeviceState::new(AT, Some(&snapshot)));
        assert_eq!(state["lastRouteInterface"], "bt_adv");
        assert_eq!(state["lastRouteUdpAddress"], "203.0.113.7:6200");
    }

    #[test]
    fn a_wait_tells_the_packet() {
        let expected = json!({
            "deviceId": "d291d4d66bf0a955", "cursor": "7-42", "missed": 3, "lastRoute": udp(4711),
            "packet": {"type": "key_ids", "typeId": 127, "level": "network", "sequence": 4711,
                "gpsTime": 1_479_438_018, "receivedAt": "2026-11-23T03:00:00.123Z", "timeClass": "noTime",
                "proved": false, "source": "[2001:db8::1]:9", "onRoute": true, "alwaysRx": false, "singleTx": true}
        });
        assert_eq!(json(Waited::packet(&snapshot(), 3)), expected);
    }

    #[test]
    fn a_reset_tells_what_is_known() {
        let nothing = json!({"deviceId": "d291d4d66bf0a955", "cursor": "7-42", "reset": true});
        assert_eq!(json(Waited::reset(DEVICE, CURSOR, None)), nothing);
        let known = json(Waited::reset(DEVICE, CURSOR, Some(&snapshot())));
        assert_eq!(known["lastRoute"], udp(4711));
        assert_eq!((&known["packet"]["type"], known.get("missed")), (&json!("key_ids"), None));
    }

    #[test]
    fn message_pack_has_the_same_names_and_values() {
        let route = UplinkRoute::from(&Route::Relayed(relayed(RouteInterface::BtAdv, bt(1))));
        let body = Waited { last_route: Some(route), ..Waited::packet(&snapshot(), 0) };
        let format = Format::MessagePack("application/msgpack");
        let packed = format.encode(&body).unwrap();
        assert_eq!(format.decode::<Value>(&packed).unwrap(), json(body));
    }
}
