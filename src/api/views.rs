//! The bodies of requests and answers. An absent value is left out: `null` breaks clients.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId};
use crate::records::{Algorithm, ApplicationVersion, Device, NewDevice, present, route_type};
use crate::registry::DeviceRecord;
use crate::status::Time;
use crate::table::route::{self, Snapshot};

use super::description::names;
use super::error::ApiError;
pub use crate::records::route::UplinkRoute;

/// An error, whatever the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Error {
    /// The HTTP status.
    pub code: u16,
    /// What was wrong, and what to do.
    pub message: String,
    /// Where the route of the device is now, if a message was bound to a position from before it moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
    /// The route as it is now, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_route: Option<UplinkRoute>,
}

/// `GET /health`.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = HealthCheck)]
pub struct Health {
    /// Always `ok`.
    pub health: &'static str,
}

/// `GET /readyz`, while ready.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// What is wrong while it goes on, by the part of the gateway: `clock` or `records`. Left out while nothing is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    pub degraded: BTreeMap<String, String>,
}

/// An entry of `POST /device/lastRoute`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = UplinkRouteAndDeviceId)]
#[serde(rename_all = "camelCase")]
pub struct RouteOfDevice {
    /// The device.
    pub device_id: DeviceId,
    /// Its route.
    pub last_route: UplinkRoute,
}

/// The request of `POST /device/lastRoute`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = GetLastRoutesForDevicesBody)]
#[serde(rename_all = "camelCase")]
pub struct LastRoutes {
    /// Texts that should be device ids.
    #[schema(value_type = Vec<DeviceId>, max_items = 10000)]
    pub device_ids: Vec<String>,
}

impl LastRoutes {
    /// The ids, as often as they are named.
    ///
    /// # Errors
    /// One of the texts is no device id.
    pub fn ids(&self) -> Result<Vec<DeviceId>, ApiError> {
        let texts = self.device_ids.iter().enumerate();
        texts.map(|(index, text)| text.parse().map_err(|error| ApiError::BodyDevice { index, error })).collect()
    }
}

/// `GET /device/deviceId/{deviceId}/state`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceState {
    created_at: Time,
    updated_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_version: Option<ApplicationVersion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithms: Option<Vec<Algorithm>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = route_type)]
    last_route_interface: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
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

/// An entry of `GET /device-and-state`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeviceAndState {
    /// The record.
    #[serde(flatten)]
    pub device: Device,
    /// What is known of it.
    pub state: DeviceState,
}

/// The request of `POST /device/batch`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct NewDevices {
    /// The devices.
    #[schema(max_items = 10000)]
    pub devices: Vec<NewDevice>,
}

/// `GET /device/deviceId/{deviceId}/waitForPacket`, when there is something to tell.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waited {
    /// Whose packet.
    device_id: DeviceId,
    /// Its position, to wait after.
    cursor: Cursor,
    /// How many packets were counted before it since the position that was asked after.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
    /// Always true, where the position that was asked after is of another count.
    #[serde(skip_serializing_if = "Option::is_none")]
    reset: Option<bool>,
    /// The latest packet, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    packet: Option<Packet>,
    /// The route as it is now, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_route: Option<UplinkRoute>,
}

/// An entry of `GET /device/unregistered`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unregistered {
    /// Which one.
    device_id: DeviceId,
    /// When it was first heard.
    first_packet_time: Time,
    /// When it was last heard.
    last_packet_time: Time,
    /// `ip:port` that its last datagram came from: its own or a relay's.
    #[schema(value_type = String)]
    source: SocketAddr,
    /// Whose key its last packet was sealed with: `network` or `device`.
    level: &'static str,
    /// Whether its last packet cannot be a replay.
    proved: bool,
    /// How its route was proved, if it has one.
    #[schema(schema_with = names::trust)]
    #[serde(skip_serializing_if = "Option::is_none")]
    trust: Option<&'static str>,
    /// The name of the type of its last packet.
    r#type: &'static str,
    /// How many were counted.
    packets: u64,
    /// Its route, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_route: Option<UplinkRoute>,
}

/// That a device which is followed is deleted.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gone {
    /// The device.
    pub device_id: DeviceId,
}

/// That packets of devices of an organisation were lost.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// The organisation.
    pub organisation_id: Uuid,
    /// Always true.
    pub reset: bool,
}

/// That events of messages were missed.
#[derive(Clone, Debug, Serialize)]
pub struct Missed {
    /// Always true.
    pub reset: bool,
}

/// The body of a request to `POST /device/waitForPacket`. One of `device_ids` and `organisation_id` is there.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct WaitForPackets {
    /// Device ids.
    #[schema(value_type = Option<Vec<DeviceId>>, min_items = 1, max_items = 10000)]
    #[serde(deserialize_with = "present")]
    pub device_ids: Option<Vec<String>>,
    /// In place of `device_ids`: all devices of this organisation.
    #[schema(format = Uuid)]
    #[serde(deserialize_with = "present")]
    pub organisation_id: Option<String>,
    /// Cursors by device id.
    #[schema(schema_with = names::positions)]
    pub after: BTreeMap<String, String>,
    /// Milliseconds. Any number, so that one out of range can be named.
    #[schema(schema_with = names::timeout_ms)]
    #[serde(deserialize_with = "present")]
    pub timeout_ms: Option<f64>,
    /// `any` or `all`.
    #[schema(schema_with = names::wait_mode)]
    #[serde(deserialize_with = "present")]
    pub mode: Option<String>,
}

/// `POST /device/waitForPacket`, when there is something to tell.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManyWaited {
    /// What there is, by device.
    pub packets: Vec<Waited>,
    /// The other devices.
    pub pending: Vec<DeviceId>,
    /// Whether the time was over first.
    pub timed_out: bool,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Packet {
    /// The name of its type.
    r#type: &'static str,
    /// The number of its type.
    type_id: u8,
    /// Whose key it was sealed with: `network` or `device`.
    level: &'static str,
    /// Its number, by the device's count.
    sequence: u16,
    /// When it was sealed, by the device's clock, in seconds of GPS time.
    gps_time: u32,
    /// When it was received, by the gateway's clock.
    received_at: Time,
    /// What its time says against the gateway's: `fresh`, `noTime`, `old` or `future`.
    time_class: &'static str,
    /// Whether it cannot be a replay.
    proved: bool,
    /// `ip:port` that its datagram came from: the device's or a relay's.
    #[schema(value_type = String)]
    source: SocketAddr,
    /// Whether it came over the route that is kept for its way, direct or relayed.
    on_route: bool,
    /// Whether the device says it listens all the time.
    always_rx: bool,
    /// Whether the device says nothing follows soon.
    single_tx: bool,
}

impl DeviceState {
    /// The state of a device that only the configuration names, of which something or nothing may be known.
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
            algorithms: None,
            last_route_interface: last_route.as_ref().map(|route| route.interface.clone()),
            last_route_udp_address: direct.map(|direct| direct.address),
            last_route_udp_time: direct.map(|direct| Time(direct.received_at)),
            last_route,
            last_route_time: heard_at.map(Time),
            first_packet_time: known.and_then(|known| known.first_packet_at).map(Time),
        }
    }

    /// The state of a device in the registry. What it announced itself goes before what was said of it.
    pub fn of_record(record: &DeviceRecord, known: Option<&Snapshot>) -> Self {
        let (said, heard) = (&record.state, Self::new(record.state_updated_at.0, known));
        Self {
            created_at: record.device.created_at,
            application_id: heard.application_id.or(said.application_id),
            application_version: heard.application_version.or(said.application_version),
            algorithms: said.algorithms.clone(),
            ..heard
        }
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

impl Unregistered {
    /// `None` if nothing was heard of the device.
    pub fn of(known: &Snapshot) -> Option<Self> {
        let (packet, route) = (known.last_packet.as_ref()?, known.last_route.as_ref());
        Some(Self {
            device_id: known.device_id,
            first_packet_time: Time(known.first_packet_at?),
            last_packet_time: Time(packet.received_at),
            source: packet.source,
            level: packet.level.name(),
            proved: packet.proved,
            trust: route.map(|route| route.trust().name()),
            r#type: packet.packet_type.name(),
            packets: known.cursor.n,
            last_route: route.map(UplinkRoute::from),
        })
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
    use crate::records::route::tests::{bt, direct, relayed, udp};
    use crate::table::route::{Application, LastPacket, Route};
    use crate::table::rules::{Step, TimeClass};
    use crate::wire::container::RouteInterface;
    use crate::wire::frame::{Level, PacketType};
    use crate::wire::tdf::Version;

    const DEVICE: DeviceId = DeviceId(0xd291_d4d6_6bf0_a955);
    /// 2026-11-23T03:00:00.123Z
    const AT: Timestamp = Timestamp(1_795_402_800_123);
    const CURSOR: Cursor = Cursor { epoch: 7, n: 42 };

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
                step: Step::Unproven,
                source: "[2001:db8::1]:9".parse().unwrap(),
                relayed: false,
                on_route: true,
                always_rx: false,
                single_tx: true,
            }),
            last_route: Some(Route::Direct(direct())),
            direct: Some(direct()),
            relayed: None,
            proved: [false; 2],
            application: Some(Application {
                id: 0x1234_5678,
                version: Version { major: 1, minor: 2, revision: 300, build: 4_000_000_000 },
            }),
        }
    }

    fn json(value: impl Serialize) -> Value {
        serde_json::to_value(value).unwrap()
    }

    #[test]
    fn an_unregistered_device_is_told_with_how_it_proved_itself() {
        let view = Unregistered::of(&snapshot()).unwrap();
        let expected = json!({"deviceId": "d291d4d66bf0a955", "firstPacketTime": "2026-11-23T02:59:55.123Z",
            "lastPacketTime": "2026-11-23T03:00:00.123Z", "source": "[2001:db8::1]:9", "level": "network",
            "proved": false, "trust": "device", "type": "key_ids", "packets": 42, "lastRoute": udp(4711)});
        assert_eq!(json(view), expected);
        assert!(Unregistered::of(&Snapshot { last_packet: None, ..snapshot() }).is_none());
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
    fn what_a_device_announced_goes_before_what_was_said_of_it() {
        let device = json!({"id": "0198c0de-0000-7000-8000-00000000002a", "createdAt": "2026-11-23T02:00:00Z",
            "updatedAt": "2026-11-23T02:30:00Z", "mcuId": "00", "boardId": "0198c0de-0000-7000-8000-00000000002b",
            "organisationId": "0198c0de-0000-7000-8000-00000000002c", "deviceId": DEVICE, "metadata": {}});
        let said = json!({"applicationId": 7, "algorithms": [{"id": 1, "version": 2}]});
        let record = DeviceRecord {
            device: serde_json::from_value(device).unwrap(),
            state_updated_at: Time(Timestamp(AT.0 - 1)),
            state: serde_json::from_value(said.clone()).unwrap(),
        };
        let silent = json!({"createdAt": "2026-11-23T02:00:00.000Z", "updatedAt": "2026-11-23T03:00:00.122Z",
            "applicationId": 7, "algorithms": said["algorithms"]});
        assert_eq!(json(DeviceState::of_record(&record, None)), silent);
        let heard = json(DeviceState::of_record(&record, Some(&snapshot())));
        assert_eq!((&heard["applicationId"], &heard["algorithms"]), (&json!(0x1234_5678), &said["algorithms"]));
        assert_eq!((&heard["createdAt"], &heard["updatedAt"]), (&silent["createdAt"], &heard["lastRouteTime"]));
        let set_later = DeviceRecord { state_updated_at: Time(Timestamp(AT.0 + 1)), ..record };
        let heard = json(DeviceState::of_record(&set_later, Some(&snapshot())));
        assert_eq!(heard["updatedAt"], "2026-11-23T03:00:00.124Z");
        let entry = json(DeviceAndState { state: DeviceState::of_record(&set_later, None), device: set_later.device });
        assert_eq!((&entry["state"]["applicationId"], &entry["metadata"]), (&json!(7), &json!({})));
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
        assert_eq!(format.decode::<Value>(&packed, crate::api::strict::Bounds::of_lists(100)).unwrap(), json(body));
    }
}
