//! What the gateway says of itself.

use lastroute::api::access::Access;
use lastroute::clock::Clock;
use lastroute::id::DeviceId;
use lastroute::ingest::moves::Move;
use lastroute::metrics::{Disposition, Tally};
use lastroute::status::{GatewayStatus, RouteMove, Time};
use lastroute::table::route::Trust;

use crate::harness::{AT, DEVICE, Server, Setup, WAIT, request_http2};

fn status(body: &[u8]) -> GatewayStatus {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test]
async fn a_gateway_that_has_just_started_tells_of_every_counter() {
    let server = Server::start(Setup::default()).await;
    let answer = server.get("/gateway", "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let status = status(&answer.body);
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    let times = [status.started_at, status.devices.heard.counted_at, status.now, Time(Clock::default().now())];
    assert!(times.is_sorted(), "{times:?}");
    let labels = |count| Disposition::ALL[..count].iter().map(|disposition| (disposition.label().to_owned(), 0));
    assert_eq!(status.datagrams, labels(Disposition::DATAGRAM).collect());
    assert_eq!(status.entries, labels(Disposition::ALL.len()).collect());
    assert_eq!((status.devices.total, status.devices.heard.within_24h), (0, 0));
    assert_eq!((status.waiters.now, status.waiters.woken, status.connections), (0, 0, 1));
    assert_eq!(status.latest_moves, []);
}

#[tokio::test]
async fn what_was_counted_heard_moved_and_woken_is_told_in_either_form_and_version() {
    let server = Server::start(Setup::default()).await;
    let mut tally = Tally {
        kernel_drops: 1,
        route_moves: 2,
        sent: [3, 9, 9, 9, 9],
        send_failed: [4, 9, 9, 9, 9],
        ..Tally::default()
    };
    tally.datagram(Disposition::BadTag);
    tally.entry(Disposition::BadVersion);
    server.counters.publish(&mut tally);
    let mut client = server.connect().await;
    client.send_head("GET", WAIT, "").await;
    server.waiting(1).await;
    server.report(DEVICE, 1);
    assert_eq!(client.answer(false).await.status, 200);
    server.report(DeviceId(1), 1);
    server.table.register(DeviceId(1), AT);
    let [from, to] = ["203.0.113.7:6200", "[2001:db8::1]:6201"].map(|address| address.parse().unwrap());
    server.moves.push(Move { device_id: DEVICE, at: AT, from, to, trust: Trust::Device });
    server.moves.push(Move { device_id: DeviceId(1), at: AT, from: to, to: from, trust: Trust::Network });

    let status = status(&server.get("/gateway", "").await.body);
    assert_eq!((status.datagrams["bad_tag"], status.entries["bad_version"]), (1, 1));
    assert_eq!((status.kernel_drops, status.route_moves), (1, 2));
    assert_eq!((status.acks_sent, status.acks_failed), (3, 4));
    assert_eq!((status.devices.total, status.devices.unregistered), (2, 1));
    assert_eq!((status.waiters.now, status.waiters.woken, status.connections), (0, 1, 2));
    let moved = RouteMove { device_id: DEVICE, at: Time(AT), from, to, trust: "device".to_owned() };
    let other = RouteMove { device_id: DeviceId(1), from: to, to: from, trust: "network".to_owned(), ..moved.clone() };
    assert_eq!(status.latest_moves, [other, moved]);

    let packed = server.get("/gateway", "accept: application/msgpack\r\n").await;
    let packed: GatewayStatus = serde_json::from_value(packed.message_pack()).unwrap();
    let mut http2 = server.connect_http2().await;
    let over_http2 = self::status(&request_http2(&mut http2, "GET", "/gateway").await.body);
    for other in [packed, over_http2] {
        assert_eq!((other.latest_moves, other.datagrams), (status.latest_moves.clone(), status.datagrams.clone()));
    }
}

#[tokio::test]
async fn it_is_told_to_those_with_a_key_only() {
    let access = Access::of_keys(["ik_0123456789abcdef"]);
    let server = Server::start(Setup { access, ..Setup::default() }).await;
    server.get("/gateway", "").await.is_error(401, "x-api-key");
    let answer = server.get("/gateway", "x-api-key: ik_0123456789abcdef\r\n").await;
    assert_eq!((answer.status, status(&answer.body).devices.total), (200, 0));
}
