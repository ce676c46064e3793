//! Packets that come through relays, and who may speak for whom (rule R8).

use lastroute::auth::keys::NetworkInfo;

use super::*;

#[test]
fn packets_inside_a_container_have_routes_through_the_relay() {
    let mut gateway = Gateway::default();
    let opened = header(PacketType::TDF, Level::Device, DeviceId(5), 12);
    let sealed = relayed(Level::Device, DEVICE, 3, &announce(9));
    let payload = announce(8);
    let entries = [entry(Content::Opened { header: opened, payload: &payload }), entry(Content::Sealed(&sealed))];
    assert_eq!(gateway.disposition(&container(&entries, &[], 90), home()), Disposition::Accepted);
    assert_eq!(gateway.entries(Disposition::Accepted), 2);
    for (device, sequence, application) in [(DeviceId(5), 12, 8), (DEVICE, 3, 9)] {
        let snapshot = gateway.snapshot(device);
        let Some(Route::Relayed(route)) = snapshot.last_route else { panic!("{snapshot:?}") };
        assert_eq!((route.sequence, route.received_at, route.trust), (sequence, gateway.now, Trust::Device));
        let through = route.through;
        assert_eq!(
            (through.relay, through.level, through.address, through.sequence),
            (RELAY, Level::Device, home(), 90)
        );
        assert_eq!((through.interface, through.rssi_dbm), (RouteInterface::BtAdv, -67));
        assert_eq!(through.bt.unwrap().to_string(), "c4:0a:11:22:33:44");
        assert_eq!(snapshot.application.unwrap().id, application);
        assert_eq!(snapshot.direct, None);
    }
    assert_eq!(gateway.direct(RELAY).0, home());
}

/// A gateway with the network, the device and the relay of these organisations; 0 for the network is the configuration's.
fn owned(network: u32, public: bool, device: u32, relay: u32) -> Gateway {
    let gateway = Gateway::default();
    if network != 0 {
        let info = NetworkInfo::new(network, public);
        gateway.core.keys.set_network_of(NETWORK, root(Level::Network), info);
    }
    for (id, organisation) in [(DEVICE, device), (RELAY, relay)] {
        gateway.core.table.register(id, Registration { at: gateway.now, organisation, record: 0 });
    }
    gateway
}

#[test]
fn r8_a_private_network_speaks_for_devices_of_its_own_organisation_and_of_none() {
    for (network, public, device, accepted) in
        [(0, true, 2, true), (1, true, 2, true), (1, false, 1, true), (1, false, 0, true), (1, false, 2, false)]
    {
        let mut gateway = owned(network, public, device, 1);
        let expected = if accepted { Disposition::Accepted } else { Disposition::NotRegistered };
        assert_eq!(gateway.disposition(&tdf(1), home()), expected, "network of {network}, device of {device}");
        assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), accepted);
        let device_level = uplink(&header(PacketType::TDF, Level::Device, DEVICE, 2), &[]);
        assert_eq!(gateway.disposition(&device_level, home()), Disposition::Accepted, "it speaks for itself");
        let stranger = uplink(&header(PacketType::TDF, Level::Network, DeviceId(5), 1), &[]);
        assert_eq!(gateway.disposition(&stranger, home()), Disposition::Accepted, "nobody's");
    }
}

#[test]
fn r8_a_network_that_becomes_public_is_so_for_the_next_datagram() {
    let mut gateway = owned(1, false, 2, 1);
    assert_eq!(gateway.disposition(&tdf(1), home()), Disposition::NotRegistered);
    let info = NetworkInfo::new(1, true);
    gateway.core.keys.set_network_of(NETWORK, root(Level::Network), info);
    assert_eq!(gateway.disposition(&tdf(1), home()), Disposition::Accepted);
}

#[test]
fn r8_relay_and_device_share_an_organisation_or_the_network_is_public() {
    // Whether packets of network level pass that are still encrypted, such that the relay decrypted, and any of device level.
    for (network, public, device, relay, [sealed, on_word, of_device]) in [
        (1, false, 1, 1, [true, true, true]),
        (1, false, 1, 2, [false, false, false]),
        // The relay may make up that they came under a public network.
        (1, true, 1, 2, [true, false, false]),
        (0, true, 1, 2, [true, false, false]),
        (2, false, 1, 2, [false, false, false]),
        (1, false, 1, 0, [true, true, true]),
        (1, false, 0, 2, [true, true, true]),
    ] {
        for (level, opened, passes) in [
            (Level::Network, false, sealed),
            (Level::Network, true, on_word),
            (Level::Device, false, of_device),
            (Level::Device, true, of_device),
        ] {
            let mut gateway = owned(network, public, device, relay);
            let sealed = relayed(level, DEVICE, 3, &[]);
            let content = match opened {
                true => Content::Opened { header: header(PacketType::TDF, level, DEVICE, 3), payload: &[] },
                false => Content::Sealed(&sealed),
            };
            gateway.disposition(&container(&[entry(content)], &[], 90), home());
            let expected = if passes { Disposition::Accepted } else { Disposition::NotRegistered };
            let case = format!("{network} {public} {device} {relay} {level:?} {opened}");
            assert_eq!(gateway.entries(expected), 1, "{case}");
            assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), passes, "{case}");
        }
    }
}

/// A packet that whoever has the network's key says to have decrypted, as a relay that nobody knows.
fn by_unknown_relay(gateway: &mut Gateway, inner: Header, payload: &[u8]) {
    let mut entries = Vec::new();
    entry(Content::Opened { header: inner, payload }).encode(&mut entries).unwrap();
    let outer = header(PacketType::RECEIVED_EPACKET, Level::Network, DeviceId(404), 1);
    assert_eq!(gateway.disposition(&uplink(&outer, &entries), home()), Disposition::Accepted);
}

#[test]
fn r8_what_a_relay_decrypted_passes_only_where_the_network_of_its_container_does() {
    let other = KeyId::from_le_bytes([9, 9, 9]);
    for (public, device, key_id, level, passes) in [
        (false, 2, DEVICE_KEY, Level::Device, false),
        (false, 2, other, Level::Network, false),
        (false, 2, KeyId::from_le_bytes([8, 0, 0]), Level::Network, false),
        (false, 2, NETWORK, Level::Network, false),
        (false, 1, DEVICE_KEY, Level::Device, true),
        (false, 0, other, Level::Network, true),
        (true, 2, NETWORK, Level::Network, true),
    ] {
        let mut gateway = owned(1, public, device, 1);
        // Of the configuration, so public; and not the one that the container came under.
        gateway.core.keys.set_network(other, RootKey::new([7; 32]));
        by_unknown_relay(&mut gateway, Header { key_id, ..header(PacketType::TDF, level, DEVICE, 3) }, &[]);
        let expected = if passes { Disposition::Accepted } else { Disposition::NotRegistered };
        assert_eq!(gateway.entries(expected), 1, "{public} {device} {key_id} {level:?}");
        assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), passes);
    }
}

#[test]
fn r8_a_report_that_a_relay_decrypted_sets_nothing_of_another_organisation() {
    let report = [&DEVICE.0.to_le_bytes()[..], &announce(9)].concat();
    let from = header(PacketType::TDF_REMOTE, Level::Network, DeviceId(5), 1);
    for (device, set) in [(1, true), (2, false)] {
        let mut gateway = owned(1, false, device, 1);
        let inner = Header { key_id: KeyId::from_le_bytes([8, 0, 0]), ..from };
        by_unknown_relay(&mut gateway, inner, &report);
        assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), set, "by the network of the container");
        let mut gateway = owned(0, true, device, 1);
        gateway.disposition(&container(&[entry(Content::Opened { header: from, payload: &report })], &[], 90), home());
        assert_eq!(gateway.entries(Disposition::Accepted), 1);
        assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), set, "by the relay");
    }
}

#[test]
fn r8_a_report_of_a_device_of_another_organisation_sets_nothing() {
    for (relay, set) in [(1, true), (2, false)] {
        let mut gateway = owned(1, false, 1, relay);
        let mut payload = DEVICE.0.to_le_bytes().to_vec();
        payload.extend(announce(9));
        let report = uplink(&header(PacketType::TDF_REMOTE, Level::Device, RELAY, 1), &payload);
        assert_eq!(gateway.disposition(&report, home()), Disposition::Accepted);
        assert_eq!(gateway.core.table.snapshot(DEVICE).is_some(), set);
    }
}

#[test]
fn the_two_slots_move_apart_and_the_last_route_is_the_one_set_last() {
    let mut gateway = Gateway::default();
    gateway.disposition(&tdf(1), elsewhere());
    let sealed = relayed(Level::Network, DEVICE, 3, &[]);
    gateway.disposition(&container(&[entry(Content::Sealed(&sealed))], &[], 90), home());
    let snapshot = gateway.snapshot(DEVICE);
    assert!(matches!(snapshot.last_route, Some(Route::Relayed(_))), "{snapshot:?}");
    assert_eq!(snapshot.direct.unwrap().address, elsewhere());
    gateway.disposition(&tdf(2), elsewhere());
    let snapshot = gateway.snapshot(DEVICE);
    assert_eq!((snapshot.last_route, snapshot.cursor.n), (snapshot.direct.map(Route::Direct), 3));
    assert!(snapshot.relayed.is_some());
}

#[test]
fn a_relayed_move_has_the_addresses_of_the_relays() {
    let mut gateway = Gateway::default();
    let [first, second] = [3, 4].map(|sequence| relayed(Level::Network, DEVICE, sequence, &[]));
    let other = Some(BtAddress { kind: 1, bytes: [9; 6] });
    gateway.disposition(&container(&[entry(Content::Sealed(&first))], &[], 90), home());
    let entries = [Entry { bt: other, ..entry(Content::Sealed(&second)) }];
    gateway.disposition(&container(&entries, &[], 91), elsewhere());
    let of_relay = Move { device_id: RELAY, at: gateway.now, from: home(), to: elsewhere(), trust: Trust::Device };
    let of_device = Move { device_id: DEVICE, trust: Trust::Network, ..of_relay };
    assert_eq!(gateway.core.moves.latest(), [of_device, of_relay]);
}

#[test]
fn a_relays_word_never_makes_a_direct_packet_look_old() {
    let mut gateway = Gateway::default();
    gateway.disposition(&tdf(1), home());
    let mut ahead = header(PacketType::TDF, Level::Network, DEVICE, 5000);
    ahead.gps_time += 100;
    gateway.disposition(&container(&[entry(Content::Opened { header: ahead, payload: &[] })], &[], 90), home());
    gateway.now = Timestamp::from_gps(NOW + 1);
    let mut next = header(PacketType::TDF, Level::Network, DEVICE, 2);
    next.gps_time += 1;
    assert_eq!(gateway.disposition(&uplink(&next, &[]), elsewhere()), Disposition::Accepted);
    assert_eq!(gateway.direct(DEVICE).0, elsewhere(), "and it moves the route");
}

#[test]
fn faults_of_entries_have_names_and_a_malformed_container_stands_up_to_its_fault() {
    let mut gateway = Gateway::default();
    let good = relayed(Level::Network, DEVICE, 1, &[]);
    let mut bad_tag = relayed(Level::Network, DEVICE, 2, &[]);
    *bad_tag.last_mut().unwrap() ^= 1;
    let mut version = relayed(Level::Network, DEVICE, 3, &[]);
    version[0] = 1;
    let unknown = relayed(Level::Device, DeviceId(404), 4, &[]);
    let reflected = header(PacketType::RPC_CMD, Level::Network, DEVICE, 5);
    let entries = [
        entry(Content::Sealed(&good)),
        entry(Content::Sealed(&good)),
        entry(Content::Sealed(&bad_tag)),
        entry(Content::Sealed(&version)),
        entry(Content::Sealed(&unknown)),
        entry(Content::Sealed(&good[..38])),
        entry(Content::Opened { header: reflected, payload: &[] }),
        Entry { interface: RouteInterface::Unknown(77), bt: None, ..entry(Content::Sealed(&good)) },
    ];
    assert_eq!(gateway.disposition(&container(&entries, &[9, 0], 90), home()), Disposition::Accepted);
    for disposition in [
        Disposition::Accepted,
        Disposition::Duplicate,
        Disposition::BadTag,
        Disposition::BadVersion,
        Disposition::UnknownDevice,
        Disposition::Short,
        Disposition::Reflected,
        Disposition::UnknownInterface,
    ] {
        assert_eq!(gateway.entries(disposition), 1, "{disposition:?}");
    }
    assert_eq!((gateway.pipeline.tally.malformed_containers, gateway.snapshot(RELAY).cursor.n), (1, 1));
}

#[test]
fn a_copied_container_counts_nothing_again() {
    let mut gateway = Gateway::default();
    let sealed = relayed(Level::Network, DEVICE, 1, &[]);
    let bytes = container(&[entry(Content::Sealed(&sealed))], &[], 90);
    gateway.disposition(&bytes, home());
    assert_eq!(gateway.disposition(&bytes, home()), Disposition::Duplicate);
    assert_eq!((gateway.entries(Disposition::Accepted), gateway.entries(Disposition::Duplicate)), (1, 0));
}

#[test]
fn r8_readings_of_another_device_set_its_application_if_it_is_registered_and_give_no_route() {
    let mut gateway = Gateway::default();
    let (registered, stranger) = (DeviceId(41), DeviceId(42));
    gateway.core.table.register(registered, gateway.now);
    for (sequence, remote) in [(1, registered), (2, stranger)] {
        let payload = [&remote.0.to_le_bytes()[..], &announce(6)].concat();
        let bytes = uplink(&header(PacketType::TDF_REMOTE, Level::Network, DEVICE, sequence), &payload);
        assert_eq!(gateway.disposition(&bytes, home()), Disposition::Accepted);
    }
    let snapshot = gateway.snapshot(registered);
    assert_eq!((snapshot.application.unwrap().id, snapshot.last_route, snapshot.cursor.n), (6, None, 0));
    assert_eq!(gateway.core.table.snapshot(stranger), None);
    assert_eq!(gateway.snapshot(DEVICE).application, None);
}

#[test]
fn r1_under_a_strict_policy_the_word_of_a_relay_moves_no_route_of_a_device_whose_key_is_known() {
    for (policy, is_moved) in [(RoutePolicy::Newest, true), (RoutePolicy::Strict, false)] {
        let mut gateway = Gateway::new(policy, &TableConfig::default());
        for sequence in [1, 2] {
            let opened = header(PacketType::TDF, Level::Device, DEVICE, sequence);
            let bt = BtAddress { kind: 1, bytes: [sequence as u8; 6] };
            let entry = Entry { bt: Some(bt), ..entry(Content::Opened { header: opened, payload: &[] }) };
            assert_eq!(gateway.disposition(&container(&[entry], &[], sequence), home()), Disposition::Accepted);
            assert_eq!(gateway.entries(Disposition::Accepted), u64::from(sequence));
        }
        let route = gateway.snapshot(DEVICE).relayed.unwrap();
        assert_eq!((route.through.bt.unwrap().bytes[0] == 2, route.trust), (is_moved, Trust::Device));
    }
}
