use std::cell::RefCell;
use std::collections::HashMap;

use super::*;
use crate::auth::keys::{DeviceKey, KeyPair, RootKey};
use crate::downlink::testing::{BT, DEVICE, NOW, RELAY, call, intent, towards};
use crate::id::Cursor;
use crate::table::route::{DirectRoute, RelayedRoute, Trust};
use crate::table::sending::Via;
use crate::wire::frame::Frame;

const NETWORK: KeyId = KeyId::from_le_bytes([7, 0, 0]);
const RELAY_NETWORK: KeyId = KeyId::from_le_bytes([8, 0, 0]);
const KEY: KeyId = KeyId::from_le_bytes([1, 2, 3]);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A gateway with the keys of two networks, and the sequences of all devices but 99.
struct Gateway {
    keys: KeyRing,
    authenticator: Authenticator,
    nonces: OwnNonces,
    allowance: Allowance,
    sequences: RefCell<HashMap<DeviceId, u16>>,
}

impl Gateway {
    fn new() -> Self {
        let keys = KeyRing::default();
        keys.set_network(NETWORK, RootKey::new([1; 32]));
        keys.set_network(RELAY_NETWORK, RootKey::new([2; 32]));
        Self {
            keys,
            authenticator: Authenticator::default(),
            nonces: OwnNonces::new(&KeyPair::from_private([5; 32]), NOW),
            allowance: Allowance::always(),
            sequences: RefCell::default(),
        }
    }

    fn know(&self, device: DeviceId, key_id: Option<KeyId>) {
        self.keys.set_device(device, DeviceKey { key_id, root: RootKey::new([device.0 as u8; 32]) }, None);
    }

    fn seal_at(
        &mut self,
        to: &Destination,
        packet_type: PacketType,
        sealing: Sealing,
        payload: &[u8],
        now: Timestamp,
    ) -> Result<(Way, Vec<u8>), NotSealed> {
        let sequences = &self.sequences;
        let next = |device: DeviceId| {
            let mut sequences = sequences.borrow_mut();
            let sequence = sequences.entry(device).or_insert(32_768);
            *sequence = sequence.wrapping_add(1);
            (device.0 != 99).then_some(*sequence)
        };
        let (keys, nonces, allowance) = (&self.keys, &self.nonces, &self.allowance);
        let authenticator = &mut self.authenticator;
        let mut sealer = Sealer { keys, authenticator, nonces, allowance, sequences: &next, now };
        let mut out = b"before".to_vec();
        let sealed = sealer.seal(to, packet_type, sealing, payload, &mut out);
        assert_eq!(&out[..6], b"before");
        assert!(sealed.is_ok() || out.len() == 6, "nothing is left of what failed");
        sealed.map(|way| (way, out.split_off(6)))
    }

    fn seal(&mut self, to: &Destination, sealing: Sealing, payload: &[u8]) -> Result<(Way, Vec<u8>), NotSealed> {
        self.seal_at(to, PacketType::RPC_CMD, sealing, payload, NOW)
    }

    /// Header and payload of a frame that is sealed.
    fn open(&mut self, frame: &[u8], layout: Layout, interface: Interface) -> (Header, Vec<u8>) {
        let mut bytes = frame.to_vec();
        let frame = Frame::parse(&mut bytes, layout).unwrap();
        let verified = self.authenticator.open(&self.keys, frame, interface, NOW).unwrap();
        (*verified.header(), verified.payload().to_vec())
    }
}

fn direct() -> Destination {
    Destination {
        device: DEVICE,
        network: Some(NETWORK),
        address: address("203.0.113.7:6200"),
        largest: 0,
        relay: None,
    }
}

fn relayed() -> Destination {
    Destination { relay: Some(Relay { device: RELAY, network: Some(RELAY_NETWORK), address: BT }), ..direct() }
}

#[test]
fn a_direct_downlink_carries_the_true_time_a_fresh_sequence_and_our_own_nonce() {
    let mut gateway = Gateway::new();
    let (way, datagram) = gateway.seal(&direct(), Sealing::Best, b"call").unwrap();
    let expected = Way { sequence: 32_769, level: Level::Network, address: direct().address, relay: None };
    assert_eq!((way, datagram.len()), (expected, 42));
    let (header, payload) = gateway.open(&datagram, Layout::Unversioned, Interface::Udp);
    let entropy = gateway.nonces.entropy(DEVICE, NOW.gps(), 32_769);
    let (packet_type, flags) = (PacketType::RPC_CMD, Flags(0));
    let gps_time = NOW.gps();
    let expected =
        Header { packet_type, flags, key_id: NETWORK, device_id: DEVICE, gps_time, sequence: 32_769, entropy };
    assert_eq!((header, &payload[..]), (expected, &b"call"[..]));
}

#[test]
fn the_best_key_is_the_device_s_once_its_id_is_known() {
    let mut gateway = Gateway::new();
    let level = |gateway: &mut Gateway, sealing| gateway.seal(&direct(), sealing, b"x").map(|(way, _)| way.level);
    assert_eq!(level(&mut gateway, Sealing::Device), Err(NotSealed::NoKey(DEVICE)));
    gateway.know(DEVICE, None);
    assert_eq!(level(&mut gateway, Sealing::Best), Ok(Level::Network));
    assert_eq!(level(&mut gateway, Sealing::Device), Err(NotSealed::NoKey(DEVICE)));
    gateway.know(DEVICE, Some(KEY));
    for (sealing, expected) in
        [(Sealing::Best, Level::Device), (Sealing::Device, Level::Device), (Sealing::Network, Level::Network)]
    {
        let (way, datagram) = gateway.seal(&direct(), sealing, b"x").unwrap();
        let (header, _) = gateway.open(&datagram, Layout::Unversioned, Interface::Udp);
        let key_id = if expected == Level::Device { KEY } else { NETWORK };
        assert_eq!((way.level, header.level(), header.key_id), (expected, expected, key_id));
    }
}

#[test]
fn without_a_network_only_the_device_s_key_will_do() {
    let mut gateway = Gateway::new();
    let lost = Destination { network: None, ..direct() };
    let removed = Destination { network: Some(KEY), ..direct() };
    for to in [lost, removed] {
        assert_eq!(gateway.seal(&to, Sealing::Best, b"x").unwrap_err(), NotSealed::NoNetwork(DEVICE));
    }
    gateway.know(DEVICE, Some(KEY));
    assert!(gateway.seal(&lost, Sealing::Best, b"x").is_ok());
}

#[test]
fn through_a_relay_the_frame_is_the_device_s_and_the_datagram_the_relay_s() {
    for (relay_key, device_key) in [(None, None), (Some(KEY), None), (None, Some(KEY))] {
        let mut gateway = Gateway::new();
        relay_key.inspect(|id| gateway.know(RELAY, Some(*id)));
        device_key.inspect(|id| gateway.know(DEVICE, Some(*id)));
        let level = |key: Option<KeyId>| if key.is_some() { Level::Device } else { Level::Network };
        let (way, datagram) = gateway.seal(&relayed(), Sealing::Best, b"call").unwrap();
        let through = Through { relay: RELAY, level: level(relay_key), address: BT };
        assert_eq!((way.level, way.relay, way.address), (level(device_key), Some(through), relayed().address));

        let (outer, forward) = gateway.open(&datagram, Layout::Unversioned, Interface::Udp);
        assert_eq!((outer.packet_type, outer.device_id), (PacketType::EPACKET_FORWARD_AUTO_CONN, RELAY));
        assert_eq!((outer.level(), outer.key_id), (level(relay_key), relay_key.unwrap_or(RELAY_NETWORK)));
        let auto = AutoConnect::parse(&forward).unwrap();
        assert_eq!((auto.interface, auto.address, auto.flags), (RouteInterface::BtCentral, BT, AutoConnect::TELL_END));

        let (inner, payload) = gateway.open(auto.frame, Layout::Versioned, Interface::BtGatt);
        assert_eq!((inner.packet_type, inner.device_id, &payload[..]), (PacketType::RPC_CMD, DEVICE, &b"call"[..]));
        assert_eq!((inner.sequence, inner.key_id), (way.sequence, device_key.unwrap_or(NETWORK)));
        assert_eq!(inner.gps_time, NOW.gps());
    }
}

#[test]
fn a_relay_that_nothing_is_known_of_cannot_be_used() {
    let mut gateway = Gateway::new();
    let through = |device, network| Destination { relay: Some(Relay { device, network, address: BT }), ..direct() };
    let sealed = gateway.seal(&through(RELAY, None), Sealing::Best, b"x");
    assert_eq!(sealed.unwrap_err(), NotSealed::NoNetwork(RELAY));
    let unheard = DeviceId(99);
    let sealed = gateway.seal(&through(unheard, Some(NETWORK)), Sealing::Best, b"x");
    assert_eq!(sealed.unwrap_err(), NotSealed::NotHeard(unheard));
    let sealed = gateway.seal(&Destination { device: unheard, ..direct() }, Sealing::Best, b"x");
    assert_eq!(sealed.unwrap_err(), NotSealed::NotHeard(unheard));
}

#[test]
fn a_downlink_is_no_longer_than_what_the_device_takes() {
    let mut gateway = Gateway::new();
    for (to, room, limit) in [
        (direct(), 510, 548),
        (Destination { largest: 544, ..direct() }, 510, 548),
        (Destination { largest: 1360, ..direct() }, 1322, 1360),
        (Destination { largest: u16::MAX, ..direct() }, 2010, 2048),
        (Destination { largest: 1360, ..relayed() }, 205, 244),
    ] {
        assert_eq!((to.room(), to.fit(room)), (room, Ok(limit)));
        let too_long = NotSealed::TooLong { len: limit + 1, limit };
        assert_eq!(to.fit(room + 1), Err(too_long));
        assert!(gateway.seal(&to, Sealing::Best, &vec![0; room]).is_ok());
        let before = gateway.sequences.borrow().clone();
        assert_eq!(gateway.seal(&to, Sealing::Best, &vec![0; room + 1]).unwrap_err(), too_long);
        assert_eq!(*gateway.sequences.borrow(), before, "no sequence is used for it");
    }
}

#[test]
fn what_is_too_long_waits_for_a_way_that_it_fits_if_there_can_be_one() {
    let mut gateway = Gateway::new();
    for to in [direct(), relayed(), Destination { largest: 1360, ..direct() }] {
        for (len, fits) in [(2010, true), (2011, false)] {
            let not = gateway.seal(&to, Sealing::Best, &vec![0; len]).unwrap_err();
            let NotSealed::TooLong { len: whole, limit } = not else { panic!("{not:?}") };
            let dropped = Decision::Drop(Dropped::TooLong { len: whole, limit });
            let decision = not.decide(&Intent { payload: vec![0; len].into(), ..intent(1) });
            assert_eq!(decision, if fits { Decision::Stay } else { dropped });
        }
    }
}

#[test]
fn a_relay_ends_the_connection_with_the_answer_to_the_only_call_and_subscribes_where_data_moves() {
    let mut gateway = Gateway::new();
    let mut flags = |intent: &Intent, is_only| {
        let Gateway { keys, authenticator, nonces, allowance, .. } = &mut gateway;
        let sequences = &|_| Some(7);
        let mut sealer = Sealer { keys, authenticator, nonces, allowance, sequences, now: NOW };
        let mut datagram = Vec::new();
        sealer.seal_intent(&relayed(), intent, is_only, &mut datagram).unwrap();
        let (_, forward) = gateway.open(&datagram, Layout::Unversioned, Interface::Udp);
        AutoConnect::parse(&forward).unwrap().flags
    };
    assert_eq!(
        [(call(1, None), true), (call(1, None), false), (intent(1), true)]
            .map(|(intent, is_only)| flags(&intent, is_only)),
        [5, 4, 4]
    );
    assert_eq!([true, false].map(|is_only| flags(&call(1, towards(9)), is_only)), [7, 6]);
    let (_, datagram) = gateway.seal_at(&relayed(), PacketType::RPC_DATA, Sealing::Best, b"x", NOW).unwrap();
    let (_, forward) = gateway.open(&datagram, Layout::Unversioned, Interface::Udp);
    assert_eq!(AutoConnect::parse(&forward).unwrap().flags, 6);
}

#[test]
fn nothing_is_sealed_outside_the_time_that_is_reserved() {
    let mut gateway = Gateway::new();
    gateway.allowance = Allowance::default();
    gateway.allowance.start(NOW.gps());
    assert_eq!(gateway.seal(&direct(), Sealing::Best, b"x").unwrap_err(), NotSealed::NotYet);
    gateway.allowance.extend(NOW.gps() + 1);
    assert!(gateway.seal(&direct(), Sealing::Best, b"x").is_ok());
    let second_later = Timestamp(NOW.0 + 1000);
    let sealed = gateway.seal_at(&direct(), PacketType::RPC_CMD, Sealing::Best, b"x", second_later);
    assert_eq!(sealed.unwrap_err(), NotSealed::NotYet);
    assert_eq!(NotSealed::NotYet.decide(&intent(1)), Decision::Stay);
}

#[test]
fn downlinks_of_types_that_are_legal_both_ways_are_known_when_they_come_back() {
    for to in [direct(), relayed()] {
        let mut gateway = Gateway::new();
        let own = |gateway: &Gateway, way: Way| {
            let entropy = gateway.nonces.entropy(DEVICE, NOW.gps(), way.sequence);
            gateway.nonces.is_own(DEVICE, NOW.gps(), way.sequence, entropy)
        };
        for (packet_type, expected) in
            [(PacketType::RPC_DATA, true), (PacketType(200), true), (PacketType::RPC_CMD, false)]
        {
            let (way, _) = gateway.seal_at(&to, packet_type, Sealing::Best, b"x", NOW).unwrap();
            assert_eq!(own(&gateway, way), expected, "{packet_type:?}");
        }
    }
}

#[test]
fn a_packet_is_answered_where_it_came_from_and_a_device_is_sent_to_along_its_route() {
    let keys = KeyRing::default();
    keys.set_network(NETWORK, RootKey::new([1; 32]));
    keys.set_network(RELAY_NETWORK, RootKey::new([1; 32]));
    let (here, there) = (address("203.0.113.7:6200"), address("203.0.113.8:6200"));
    let direct_route =
        Route::Direct(DirectRoute { address: there, received_at: NOW, sequence: 1, trust: Trust::Network });
    let through = Relaying {
        relay: RELAY,
        level: Level::Device,
        address: here,
        sequence: 2,
        interface: RouteInterface::BtAdv,
        bt: Some(BT),
        rssi_dbm: -60,
    };
    let relayed_route = Route::Relayed(RelayedRoute { through, received_at: NOW, sequence: 1, trust: Trust::Network });
    let send_route = |route, network| SendRoute {
        route,
        via: Via(0),
        network,
        largest: 600,
        always_rx: false,
        single_tx: false,
        heard_at: NOW,
        proved: true,
        cursor: Cursor { epoch: 1, n: 1 },
    };
    let relay = |network| Some(Relay { device: RELAY, network, address: BT });
    let to = Destination { device: DEVICE, network: Some(NETWORK), address: here, largest: 600, relay: None };
    let back = |path| Destination::back(DEVICE, &path, Some(NETWORK), Some(RELAY_NETWORK), 600);
    assert_eq!(back(Path::Direct(here)), Some(to));
    assert_eq!(back(Path::Relayed(through)), Some(Destination { relay: relay(Some(RELAY_NETWORK)), ..to }));
    assert_eq!(back(Path::Relayed(Relaying { bt: None, ..through })), None);

    let along = |route, relay: Option<&SendRoute>| Destination::along(&keys, DEVICE, &send_route(route, 1), relay);
    assert_eq!(along(direct_route, None), Some(Destination { address: there, ..to }));
    assert_eq!(along(relayed_route, None), Some(Destination { relay: relay(None), ..to }));
    let moved = Destination { address: there, relay: relay(Some(RELAY_NETWORK)), ..to };
    assert_eq!(along(relayed_route, Some(&send_route(direct_route, 2))), Some(moved), "where the relay is now");
    assert_eq!(along(relayed_route, Some(&send_route(relayed_route, 2))), None, "itself behind a relay");
}
