//! Datagrams over real sockets: what the API says of them, and what comes back.

use std::net::SocketAddr;

use hyper::StatusCode;
use lastroute::wire::frame::{Flags, PacketType};
use serde_json::{Value, json};

use crate::harness::{Client, Device, Gateway, NETWORK, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_makes_a_route_and_its_sender_is_acknowledged() {
    let gateway = Gateway::start("");
    let client = Client::http1(&gateway);
    let mut device = Device::new(0xd291_d4d6_6bf0_a955, &gateway).await;
    let path = "/device/deviceId/d291d4d66bf0a955/lastRoute";
    let unknown = client.get(path).await;
    assert_eq!((unknown.status, &unknown.json()["code"]), (StatusCode::NOT_FOUND, &json!(404)));

    let sequence = device.report(Flags::ACK_REQUEST).await;
    let (ack, payload) = device.receive().await;
    assert_eq!((ack.packet_type, ack.key_id, ack.device_id), (PacketType::ACK, NETWORK, device.id));
    assert_eq!(payload, sequence.to_le_bytes());

    let answer = client.get(path).await;
    let route = answer.json();
    let address = device.address().to_string();
    let time = route["udp"]["time"].clone();
    let expected = json!({
        "interface": "udp", "interfaceData": {"sequence": 1}, "udp": {"address": address, "time": time}
    });
    assert_eq!((answer.status, route), (StatusCode::OK, expected));
    assert_eq!(answer.header("lastroute-trust"), "network");
    assert!(answer.header("lastroute-cursor").ends_with("-1"), "{answer:?}");

    let many = client.post("/device/lastRoute", &json!({"deviceIds": ["d291d4d66bf0a955", "00000000000000aa"]})).await;
    let entries = many.json();
    assert_eq!((many.status, entries.as_array().unwrap().len()), (StatusCode::OK, 1));
    assert_eq!(entries[0]["lastRoute"]["udp"]["address"], json!(address));

    let metrics = client.get("/metrics").await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(text.contains("lastroute_udp_datagrams_total{result=\"accepted\"} 1\n"), "{text}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_threads_at_one_address_serve_whoever_sends_to_it() {
    let gateway = Gateway::start("udp-threads = 3");
    assert_eq!(gateway.udp.len(), 1);
    // So many ports that no thread is left out.
    for id in 1..=100 {
        let mut device = Device::new(id, &gateway).await;
        let sequence = device.report(Flags::ACK_REQUEST).await;
        let (ack, payload) = device.receive().await;
        assert_eq!((ack.device_id, payload), (device.id, sequence.to_le_bytes().to_vec()));
    }
    let client = Client::http1(&gateway);
    let metrics = client.get("/metrics").await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(text.contains("lastroute_udp_datagrams_total{result=\"accepted\"} 100\n"), "{text}");
    let buffer = |text: &[u8]| {
        let text = String::from_utf8_lossy(text).into_owned();
        let mut lines = text.lines().filter(|line| line.starts_with("lastroute_udp_receive_buffer_bytes"));
        lines.next().and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap()
    };
    let alone = Gateway::start("");
    let one = Client::http1(&alone).get("/metrics").await;
    assert_eq!(buffer(&metrics.body), 3.0 * buffer(&one.body), "a socket for each thread");
    alone.stop().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_roams_is_found_at_its_new_address() {
    let gateway = Gateway::start("");
    let client = Client::http1(&gateway);
    let mut device = Device::new(7, &gateway).await;
    let mut cursor = None;
    for _ in 0..3 {
        device.rebind(gateway.udp[0]).await;
        device.report(Flags::ACK_REQUEST).await;
        device.receive().await;
        let answer = client.get("/device/deviceId/0000000000000007/lastRoute").await;
        assert_eq!(answer.json()["udp"]["address"], json!(device.address().to_string()));
        let now = answer.header("lastroute-cursor").to_owned();
        assert_ne!(Some(&now), cursor.as_ref());
        cursor = Some(now);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reply_leaves_from_the_address_the_datagram_arrived_at() {
    let gateway = Gateway::start("udp-listen = \"0.0.0.0:0\"");
    let mut device = Device::new(7, &gateway).await;
    for local in ["127.0.0.1", "127.0.0.2", "127.9.9.9"] {
        // A connected socket takes datagrams from that address only.
        device.rebind(SocketAddr::new(local.parse().unwrap(), gateway.udp[0].port())).await;
        device.report(Flags::ACK_REQUEST).await;
        device.receive().await;
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_addresses_of_both_families_are_served_alike() {
    let gateway = Gateway::start("udp-listen = [\"127.0.0.1:0\", \"[::1]:0\"]");
    let client = Client::http1(&gateway);
    let mut device = Device::new(7, &gateway).await;
    device.report(Flags::ACK_REQUEST).await;
    device.receive().await;
    device.rebind(gateway.udp[1]).await;
    device.report(Flags::ACK_REQUEST).await;
    device.receive().await;
    let route = client.get("/device/deviceId/0000000000000007/lastRoute").await.json();
    assert_eq!(route["udp"]["address"], json!(device.address().to_string()));
    assert!(device.address().is_ipv6());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_datagrams_are_counted_by_reason_and_never_answered() {
    let gateway = Gateway::start("unregistered = \"deny\"");
    let client = Client::http1(&gateway);
    let mut device = Device::new(7, &gateway).await;
    for bytes in [&[][..], &[0x4d], &[0; 37], &[0xff; 60], &[0; 2049], &[0; 9000]] {
        device.send(bytes).await;
    }
    device.report(Flags::ACK_REQUEST).await;
    let expected = [("short", 3), ("unknown_device", 1), ("oversize", 2), ("not_registered", 1), ("accepted", 0)];
    let line = |(result, count): (&str, u32)| format!("lastroute_udp_datagrams_total{{result=\"{result}\"}} {count}\n");
    eventually(async || {
        let text = String::from_utf8(client.get("/metrics").await.body.to_vec()).unwrap();
        expected.into_iter().all(|result| text.contains(&line(result)))
    })
    .await;
    assert!(device.nothing_came());
    gateway.stop().await;
}

/// The traffic of real firmware through the real socket: the clock is that of the capture, only faster.
#[tokio::test(flavor = "multi_thread")]
async fn captured_firmware_traffic_comes_out_right() {
    let capture: Value = serde_json::from_str(include_str!("../vectors/firmware-capture.json")).unwrap();
    for run in capture["runs"].as_array().unwrap() {
        let keys = &run["keys"];
        let id = run["device_id"].as_str().unwrap();
        let ups: Vec<&Value> =
            run["datagrams"].as_array().unwrap().iter().filter(|datagram| datagram["dir"] == "up").collect();
        // All classes stay what they were if the gateway lives at the end of the run: no run lasts 120 s.
        let end = ups.last().unwrap()["time"].as_f64().unwrap() as i64;
        let offset = end - lastroute::clock::Clock::default().now().0 as i64 / 1000;
        let network = keys["network_id"].as_u64().unwrap();
        let tables = format!(
            "[[network]]\nid = \"{network:06x}\"\nkey-file = \"network.key\"\n\
             [[device]]\nid = \"{id}\"\nroot-key = \"{}\"\nkey-id = \"{:06x}\"\n",
            keys["device_root_key"].as_str().unwrap(),
            keys["device_key_id"].as_u64().unwrap(),
        );
        let gateway = Gateway::start_with("", &tables, keys["network_root_key"].as_str().unwrap(), offset);
        let client = Client::http1(&gateway);
        let device = Device::new(0, &gateway).await;
        let mut after = client.cursor(id.parse().unwrap()).await;
        for (index, up) in ups.iter().enumerate() {
            let bytes = hex::decode(up["hex"].as_str().unwrap()).unwrap();
            device.send(&bytes).await;
            let seen = client.wait(id.parse().unwrap(), &after).await;
            let place = format!("{}: {up}", run["name"]);
            after = seen["cursor"].as_str().unwrap().to_owned();
            assert!(after.ends_with(&format!("-{}", index + 1)), "{place}: {seen}");
            assert_eq!(seen["packet"]["typeId"], json!(bytes[0]), "{place}");
            assert_eq!(seen["packet"]["timeClass"], up["timeClass"], "{place}");
            let (device_key, asks) = (bytes[2] & 0x80 != 0, bytes[2] & 0x40 != 0);
            assert_eq!(seen["packet"]["level"], json!(if device_key { "device" } else { "network" }), "{place}");
            if asks {
                let mut ack = device.receive_bytes().await;
                // A device without time is told it once after its boot, by a challenge (rule R6).
                if ack[0] == PacketType::ECHO_REQ.0 {
                    ack = device.receive_bytes().await;
                }
                assert_eq!((ack.len(), ack[0], ack[2]), (40, PacketType::ACK.0, bytes[2] & 0x80), "{place}");
            }
            assert_eq!(seen["lastRoute"]["udp"]["address"], json!(device.address().to_string()), "{place}");
        }
        let state = client.get(&format!("/device/deviceId/{id}/state")).await;
        assert_eq!(state.status, StatusCode::OK, "{state:?}");
        assert_eq!(state.json()["lastRouteUdpAddress"], json!(device.address().to_string()));
        assert!(device.arrived() <= 1, "{}: nothing came but a challenge to a device without time", run["name"]);
        gateway.stop().await;
    }
}
