//! The network between devices and gateway: it gives every address that speaks a port of its own towards the gateway, and loses,
//! copies and holds back, by chance that can be repeated.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tokio::net::UdpSocket;
use tokio::sync::Mutex as Turn;
use tokio::task::JoinSet;

use crate::wire::Seen;

/// What it does to datagrams, each a share of them. Nothing is copied on the way to a device: that would do what a call says
/// twice, since devices keep no replay state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) lost_up: f64,
    pub(crate) lost_down: f64,
    pub(crate) copied_up: f64,
    /// Held back until the next one in the same direction has passed.
    pub(crate) overtaken: f64,
}

/// 20 % of everything.
pub(crate) const TROUBLE: Trouble = Trouble { lost_up: 0.2, lost_down: 0.2, copied_up: 0.2, overtaken: 0.2 };

/// A running network. It ends when it is dropped.
pub(crate) struct Network {
    /// Where devices send to.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    trouble: Trouble,
    /// The gateway, which may be another after a restart; `None` while there is none.
    gateway: Mutex<Option<SocketAddr>>,
    random: Mutex<Rng>,
    seen: Mutex<Seen>,
    inside: UdpSocket,
    /// What is held back in each direction: one datagram at most.
    held_up: Turn<Option<(Arc<UdpSocket>, Vec<u8>)>>,
    held_down: Turn<Option<(SocketAddr, Vec<u8>)>>,
}

impl Network {
    pub(crate) async fn start(seed: u64, trouble: Trouble, seen: Seen) -> Self {
        println!("network seed {seed}, {trouble:?}");
        let inside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket2::SockRef::from(&inside).set_recv_buffer_size(1 << 20).unwrap();
        let address = inside.local_addr().unwrap();
        let shared = Arc::new(Shared {
            trouble,
            gateway: Mutex::default(),
            random: Mutex::new(Rng::with_seed(seed)),
            seen: Mutex::new(seen),
            inside,
            held_up: Turn::default(),
            held_down: Turn::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(carry_up(Arc::clone(&shared)));
        Self { address, shared, _tasks: tasks }
    }

    /// From now on the gateway is there. What is sent before is lost.
    pub(crate) fn lead_to(&self, gateway: Option<SocketAddr>) {
        *self.shared.gateway.lock().unwrap() = gateway;
    }

    /// What passed until now.
    pub(crate) fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.shared.seen.lock().unwrap())
    }
}

impl Shared {
    fn chance(&self, share: f64) -> bool {
        self.random.lock().unwrap().f64() < share
    }
}

/// From devices to the gateway. A new address gets a new port.
async fn carry_up(shared: Arc<Shared>) {
    let (mut ports, mut tasks, mut buffer) = (HashMap::<SocketAddr, Arc<UdpSocket>>::new(), JoinSet::new(), [0; 2048]);
    loop {
        // On loopback a port that was closed is an error of the next call, and nothing to stop for.
        let Ok((len, source)) = shared.inside.recv_from(&mut buffer).await else { continue };
        let port = match ports.entry(source) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(new) => {
                let port = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                tasks.spawn(carry_down(Arc::clone(&shared), Arc::clone(&port), source));
                Arc::clone(new.insert(port))
            }
        };
        let datagram = buffer[..len].to_vec();
        if shared.chance(shared.trouble.lost_up) {
            continue;
        }
        let mut held = shared.held_up.lock().await;
        if held.is_none() && shared.chance(shared.trouble.overtaken) {
            *held = Some((port, datagram));
            continue;
        }
        deliver(&shared, &port, &datagram).await;
        if shared.chance(shared.trouble.copied_up) {
            deliver(&shared, &port, &datagram).await;
        }
        if let Some((port, datagram)) = held.take() {
            deliver(&shared, &port, &datagram).await;
        }
    }
}

async fn deliver(shared: &Shared, port: &UdpSocket, datagram: &[u8]) {
    let Some(gateway) = *shared.gateway.lock().unwrap() else { return };
    // Noted first: the gateway may answer at once.
    shared.seen.lock().unwrap().up(datagram);
    let _ = port.send_to(datagram, gateway).await;
}

/// From the gateway to the device that was behind `port`.
async fn carry_down(shared: Arc<Shared>, port: Arc<UdpSocket>, device: SocketAddr) {
    let mut buffer = [0; 2048];
    loop {
        // Nobody but gateways knows of this port.
        let Ok((len, _)) = port.recv_from(&mut buffer).await else { continue };
        let datagram = buffer[..len].to_vec();
        shared.seen.lock().unwrap().down(&datagram);
        if shared.chance(shared.trouble.lost_down) {
            continue;
        }
        let mut held = shared.held_down.lock().await;
        if held.is_none() && shared.chance(shared.trouble.overtaken) {
            *held = Some((device, datagram));
            continue;
        }
        let _ = shared.inside.send_to(&datagram, device).await;
        if let Some((device, datagram)) = held.take() {
            let _ = shared.inside.send_to(&datagram, device).await;
        }
    }
}
