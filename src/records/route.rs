//! How a device was heard and spoken to, as answers tell it.

use std::borrow::Cow;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::downlink::event::Way;
use crate::id::DeviceId;
use crate::status::Time;
use crate::table::route::{self, DirectRoute, Relaying, Route};
use crate::text::Text;
use crate::wire::container::{BtAddress, RouteInterface};

use super::described;

/// How a device was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UplinkRoute {
    #[schema(schema_with = described::route_type)]
    /// The medium of the device's own packet.
    pub interface: Cow<'static, str>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
struct InterfaceData {
    /// Sequence number of the packet on this interface.
    #[schema(maximum = 65535)]
    sequence: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = UdpUplinkRoute)]
struct Udp {
    /// `ip:port` that the packet came from.
    #[schema(value_type = String)]
    address: SocketAddr,
    /// When it was received, by the gateway's clock.
    time: Time,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = BtLeRoute)]
struct BtLe {
    /// Six bytes in hex, joined by colons.
    address: String,
    #[schema(schema_with = described::bt_address_type)]
    r#type: Cow<'static, str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ForwardedUplinkRoute)]
#[serde(rename_all = "camelCase")]
struct Forwarded {
    /// The relay.
    device_id: DeviceId,
    /// What proved the relay's own packet: 1 the network key, 2 its device key.
    auth: u8,
    /// Signal strength in dBm, normally negative.
    rssi: i16,
    /// The route of the relay's packet.
    #[schema(no_recursion)]
    route: UplinkRoute,
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
            interface: interface.name().into(),
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

/// Bytes of the longest JSON of a direct route: the one with the longest of all addresses.
pub const DIRECT_JSON: usize = 184;

/// The JSON of an [`UplinkRoute`] without a relay. It is asked for most, and this takes an eighth of the time.
pub fn direct_json(route: &DirectRoute) -> Text<DIRECT_JSON> {
    let mut json = Text::new();
    json.add(r#"{"interface":"udp","interfaceData":{"sequence":"#).decimal(route.sequence.into());
    json.add(r#"},"udp":{"address":""#).address(route.address).add(r#"","time":""#);
    Time(route.received_at).add_to(&mut json);
    json.add(r#""}}"#);
    json
}

/// How a device was spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DownlinkRoute {
    #[schema(schema_with = described::route_type)]
    interface: Cow<'static, str>,
    interface_data: DownlinkInterfaceData,
    #[serde(skip_serializing_if = "Option::is_none")]
    udp: Option<UdpDownlink>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bt_central: Option<BtLe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded: Option<Box<ForwardedDownlink>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
struct DownlinkInterfaceData {
    /// Sequence number of the packet on this interface.
    #[schema(maximum = 65535)]
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = UdpDownlinkRoute)]
struct UdpDownlink {
    /// `ip:port` that the packet went to.
    #[schema(value_type = String)]
    address: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ForwardedDownlinkRoute)]
#[serde(rename_all = "camelCase")]
struct ForwardedDownlink {
    /// The relay.
    device_id: DeviceId,
    /// The key of the packet to the relay: 1 its network's, 2 its own.
    auth: u8,
    /// The route of the packet to the relay.
    #[schema(no_recursion)]
    route: DownlinkRoute,
}

impl From<&Way> for DownlinkRoute {
    fn from(way: &Way) -> Self {
        match way.relay {
            None => Self::udp(way.address, Some(way.sequence)),
            Some(through) => Self {
                interface: RouteInterface::BtCentral.name().into(),
                interface_data: DownlinkInterfaceData { sequence: Some(way.sequence) },
                udp: None,
                bt_central: Some(BtLe::from(&through.address)),
                forwarded: Some(Box::new(ForwardedDownlink {
                    device_id: through.relay,
                    auth: through.level.number(),
                    route: Self::udp(way.address, None),
                })),
            },
        }
    }
}

impl DownlinkRoute {
    fn udp(address: SocketAddr, sequence: Option<u16>) -> Self {
        Self {
            interface: RouteInterface::Udp.name().into(),
            interface_data: DownlinkInterfaceData { sequence },
            udp: Some(UdpDownlink { address }),
            bt_central: None,
            forwarded: None,
        }
    }
}

impl From<&BtAddress> for BtLe {
    fn from(address: &BtAddress) -> Self {
        Self { address: address.to_string(), r#type: address.kind_name().into() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::table::route::{DirectRoute, RelayedRoute, Trust};
    use crate::wire::frame::Level;

    const RELAY: DeviceId = DeviceId(0xd291_d4d6_6bf0_a955);
    /// 2026-11-23T03:00:00.123Z
    const AT: Timestamp = Timestamp(1_795_402_800_123);

    pub(crate) fn direct() -> DirectRoute {
        let address = "203.0.113.7:6200".parse().unwrap();
        DirectRoute { address, received_at: AT, sequence: 4711, trust: Trust::Device }
    }

    pub(crate) fn relayed(interface: RouteInterface, bt: Option<BtAddress>) -> RelayedRoute {
        RelayedRoute {
            through: Relaying {
                relay: RELAY,
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

    pub(crate) fn bt(kind: u8) -> Option<BtAddress> {
        Some(BtAddress { kind, bytes: [0x44, 0x33, 0x22, 0x11, 0x0a, 0xc4] })
    }

    pub(crate) fn udp(sequence: u16) -> Value {
        json!({"interface": "udp", "interfaceData": {"sequence": sequence},
            "udp": {"address": "203.0.113.7:6200", "time": "2026-11-23T03:00:00.123Z"}})
    }

    fn json(value: impl Serialize) -> Value {
        serde_json::to_value(value).unwrap()
    }

    #[test]
    fn a_direct_route_is_that_of_the_contract() {
        assert_eq!(json(UplinkRoute::from(&Route::Direct(direct()))), udp(4711));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_json_of_a_direct_route_is_the_same_either_way(ip: IpAddr, port: u16, sequence: u16, at in 0..1_u64 << 49) {
            let address = SocketAddr::new(ip, port);
            let route = DirectRoute { address, received_at: Timestamp(at), sequence, trust: Trust::Network };
            let json = serde_json::to_vec(&UplinkRoute::from(&Route::Direct(route))).unwrap();
            let written = direct_json(&route);
            prop_assert_eq!(written.as_bytes(), json);
        }
    }

    #[test]
    fn the_longest_of_all_direct_routes_has_room_in_its_json() {
        let ip = Ipv6Addr::from_bits(u128::MAX);
        for address in [SocketAddrV6::new(ip, u16::MAX, 0, u32::MAX), SocketAddrV6::new(ip, u16::MAX, 0, 0)] {
            let route = DirectRoute {
                address: address.into(),
                received_at: Timestamp(u64::MAX),
                sequence: u16::MAX,
                ..direct()
            };
            let json = serde_json::to_vec(&UplinkRoute::from(&Route::Direct(route))).unwrap();
            assert_eq!(direct_json(&route).as_bytes(), json);
            assert!(json.len() <= DIRECT_JSON);
        }
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
}
