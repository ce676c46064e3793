//! The loops of two sockets: what is handed over leaves by the socket it names, and so does what is for another socket.

use std::time::Duration;

use futures_util::future::join_all;
use lastroute::clock::Clock;
use lastroute::ingest::{self, Posts};
use lastroute::metrics::Counters;
use lastroute::udp::{BoundSocket, Socket};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::downlinks::{kind, open};
use super::*;

/// A failed test gives up after this long.
const PATIENCE: Duration = Duration::from_secs(20);

fn sockets() -> [Arc<Socket>; 2] {
    [(); 2].map(|()| {
        let bound = BoundSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1 << 20).unwrap();
        Arc::new(bound.register().unwrap())
    })
}

/// Runs both loops until `scenario` ends; returns what each has counted.
async fn run(core: &Arc<Core>, sockets: &[Arc<Socket>; 2], scenario: impl AsyncFnOnce(Posts)) -> [Arc<Counters>; 2] {
    let (posts, mailboxes) = Posts::to_threads(sockets.len());
    let (stop, stopped) = watch::channel(false);
    let counters: [Arc<Counters>; 2] = Default::default();
    let threads = sockets.iter().zip(mailboxes).zip(&counters).map(|((socket, mailbox), counters)| {
        let (socket, counters, stopped) = (Arc::clone(socket), Arc::clone(counters), stopped.clone());
        ingest::run(socket, Pipeline::new(Arc::clone(core)), mailbox, counters, Clock::default(), stopped)
    });
    let scenario = async {
        tokio::time::timeout(PATIENCE, scenario(posts)).await.unwrap();
        stop.send(true).unwrap();
    };
    tokio::join!(join_all(threads), scenario);
    counters
}

/// A device with a socket.
struct Device(UdpSocket);

impl Device {
    async fn new() -> Self {
        Self(UdpSocket::bind("127.0.0.1:0").await.unwrap())
    }

    /// Sends a packet of the present.
    async fn send(&self, header: Header, to: SocketAddr) {
        let header = Header { gps_time: Clock::default().now().gps(), ..header };
        self.0.send_to(&uplink(&header, &[]), to).await.unwrap();
    }

    async fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut bytes = vec![0; 2048];
        let (len, from) = self.0.recv_from(&mut bytes).await.unwrap();
        bytes.truncate(len);
        (bytes, from)
    }
}

fn asking(sequence: u16) -> Header {
    let mut header = header(PacketType::TDF, Level::Network, DEVICE, sequence);
    header.flags.0 |= Flags::ACK_REQUEST;
    header
}

#[tokio::test]
async fn what_is_handed_over_leaves_by_the_way_the_device_was_heard() {
    let (gateway, sockets, device) = (Gateway::default(), sockets(), Device::new().await);
    let second = sockets[1].address();
    let counters = run(&gateway.core, &sockets, async |posts| {
        device.send(asking(1), second).await;
        assert_eq!(device.receive().await.1, second);
        let route = gateway.core.table.send_route(DEVICE, Clock::default().now()).unwrap();
        for number in 0..3 {
            posts.reserve(route.via).unwrap().post(route.address(), vec![number]);
        }
        for number in 0..3 {
            assert_eq!(device.receive().await, (vec![number], second));
        }
    })
    .await;
    let sent = counters.map(|counters| counters.read().sent);
    assert_eq!(sent, [[0; 5], [1, 0, 0, 3, 0]]);
}

#[tokio::test]
async fn what_was_handed_over_before_the_stop_leaves_before_the_end() {
    let device = Device::new().await;
    let address = device.0.local_addr().unwrap();
    // Whether the loop looks at the stop or at its mailbox first is left to chance.
    for _ in 0..20 {
        let (gateway, sockets) = (Gateway::default(), sockets());
        let counters = run(&gateway.core, &sockets, async |posts| {
            for number in 0..100 {
                posts.reserve(Via::UNKNOWN).unwrap().post(address, vec![number]);
            }
        })
        .await;
        assert_eq!(counters[0].read().sent[DownlinkKind::Intent as usize], 100);
    }
}

#[tokio::test]
async fn what_waits_leaves_in_the_batch_of_the_packet_behind_its_acknowledgement() {
    let (gateway, sockets, device) = (Gateway::default(), sockets(), Device::new().await);
    let first = sockets[0].address();
    for message in 1..=3 {
        gateway.expect(downlinks::intent(message, &[message as u8]));
    }
    run(&gateway.core, &sockets, async |_| {
        device.send(asking(1), first).await;
        let (ack, from) = device.receive().await;
        assert_eq!((kind(&ack), from), (PacketType::ACK, first));
        for message in 1..=3 {
            let (bytes, from) = device.receive().await;
            assert_eq!((open(&bytes).1, from), (vec![message], first));
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_for_a_device_that_another_socket_hears_leaves_by_that_one() {
    let (gateway, sockets) = (Gateway::default(), sockets());
    let (device, stranger) = (Device::new().await, Device::new().await);
    let [first, second] = [0, 1].map(|index| sockets[index].address());
    gateway.core.table.register(DEVICE, Clock::default().now());
    let counters = run(&gateway.core, &sockets, async |_| {
        device.send(asking(1), second).await;
        device.receive().await;
        let key_id = KeyId::from_le_bytes([9, 9, 9]);
        stranger.send(Header { key_id, ..header(PacketType::TDF, Level::Device, DEVICE, 2) }, first).await;
        let (question, from) = device.receive().await;
        assert_eq!((kind(&question), from), (PacketType::RPC_CMD, second));
    })
    .await;
    let sent = counters.map(|counters| counters.read().sent);
    assert_eq!(sent, [[0; 5], [1, 0, 1, 0, 0]], "counted where it left");
}
