//! Messages to devices: accepted and made to last, held until their device speaks, sent, and followed until they are answered.
//!
//! [`Dispatch`] is what callers hold; [`Work`] is what has to run meanwhile. Packets release what waits without either:
//! ingest takes it from the [`Downlinks`] and tells of it by events, which [`Work`] writes down.
//!
//! A program that has a gateway inside waits for packets and sends messages without HTTP:
//!
//! ```
//! # use std::{net::UdpSocket, time::Duration};
//! # use lastroute::auth::{open_with, seal_with, keys::{Interface, RootKey}};
//! # use lastroute::clock::Clock;
//! # use lastroute::id::{DeviceId, KeyId};
//! # use lastroute::wire::rpc::{Command, Response};
//! # use lastroute::wire::frame::{Flags as FrameFlags, Frame, Header, Layout, PacketType as Type};
//! use lastroute::app::App;
//! use lastroute::client::Client;
//! use lastroute::config::{Config, Flags};
//! use lastroute::downlink::intent::{Retry, Sealing};
//! use lastroute::records::message::{MessageCall, MessageStatus, NewMessage};
//! use lastroute::wait::Waited;
//! use lastroute::wire::frame::PacketType;
//! use serde_json::{Value, json};
//! use tokio::time::Instant;
//!
//! # /// A device with a socket of its own.
//! # struct Device { id: DeviceId, socket: UdpSocket, sequence: u16 }
//! # const NETWORK: [u8; 32] = [0x42; 32];
//! # impl Device {
//! #     fn say(&mut self, packet_type: Type, payload: &[u8]) {
//! #         self.sequence += 1;
//! #         let (key_id, gps_time) = (KeyId::from_le_bytes([7, 0, 0]), Clock::default().now().gps());
//! #         let (flags, sequence, device_id) = (FrameFlags(0), self.sequence, self.id);
//! #         let header = Header { packet_type, flags, key_id, device_id, gps_time, sequence, entropy: 1 };
//! #         let key = RootKey::new(NETWORK).day_key(Interface::Udp, header.rotation());
//! #         let mut bytes = Vec::new();
//! #         seal_with(&key, &header, Layout::Unversioned, payload, &mut bytes);
//! #         self.socket.send(&bytes).unwrap();
//! #     }
//! #     fn hear(&self) -> Vec<u8> {
//! #         let mut bytes = vec![0; 2048];
//! #         let len = self.socket.recv(&mut bytes).unwrap();
//! #         let frame = Frame::parse(&mut bytes[..len], Layout::Unversioned).unwrap();
//! #         let key = RootKey::new(NETWORK).day_key(Interface::Udp, frame.header().rotation());
//! #         open_with(&key, frame).unwrap().payload().to_vec()
//! #     }
//! # }
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let file = directory.path().join("lastroute.toml");
//! # let key: String = NETWORK.iter().map(|byte| format!("{byte:02x}")).collect();
//! # std::fs::write(directory.path().join("fleet.key"), key)?;
//! # std::fs::write(&file, "data-dir = \"data\"\nudp-listen = \"127.0.0.1:0\"\nhttp-listen = \"127.0.0.1:0\"\n\
//! #     [[network]]\nid = 7\nkey-file = \"fleet.key\"\n")?;
//! # let config = Some(file.display().to_string());
//! let app = App::start(Config::load(&Flags { config, ..Flags::default() }, [])?)?;
//!
//! // Messages are for registered devices.
//! let api = Client::new(&format!("http://{}", app.http()), None)?;
//! let made = async |path: &str, body: Value| -> Result<Value, Box<dyn std::error::Error>> {
//!     Ok(api.post_json(path, body.to_string().into()).await?.ok_or("refused")?)
//! };
//! let owner = made("/organisation", json!({"name": "Acme"})).await?["id"].clone();
//! let board = json!({"name": "tag", "description": "", "soc": "nRF9151", "organisationId": owner});
//! let board = made("/board", board).await?["id"].clone();
//! let new = json!({"mcuId": "0011223344556677", "boardId": board, "organisationId": owner, "deviceId": "00000000000003e9"});
//! made("/device", new).await?;
//! let id: DeviceId = "00000000000003e9".parse()?;
//!
//! # let socket = UdpSocket::bind("127.0.0.1:0")?;
//! # socket.connect(app.udp()[0])?;
//! # socket.set_read_timeout(Some(Duration::from_secs(30)))?;
//! # let mut device = Device { id, socket, sequence: 0 };
//! // The device speaks some time. Where it is is known then.
//! let (waits, deadline) = (app.waits().clone(), Instant::now() + Duration::from_secs(60));
//! let after = waits.wait_for_packet(id, None, Instant::now()).await?.cursor();
//! # device.say(Type::TDF, &[]);
//! let Waited::Packet { snapshot, .. } = waits.wait_for_packet(id, Some(after), deadline).await? else { panic!("silent") };
//! assert!(snapshot.last_route.is_some());
//!
//! // A call to it, which leaves in the moment in which it speaks again.
//! let dispatch = app.dispatch().clone();
//! let call = NewMessage {
//!     device: id,
//!     packet_type: PacketType::RPC_CMD,
//!     sealing: Sealing::Best,
//!     call: Some(MessageCall { request_id: dispatch.request_id(), command_id: 9, data: None }),
//!     payload: [].into(),
//!     data: None,
//!     send_wait_timeout_ms: 60_000,
//!     retry: Retry::Never,
//!     if_route: None,
//! };
//! let sending = tokio::spawn({
//!     let dispatch = dispatch.clone();
//!     async move { dispatch.send_on_next_packet(call, Duration::from_secs(10)).await }
//! });
//! # while dispatch.waiting() == 0 {
//! #     tokio::task::yield_now().await;
//! # }
//! # device.say(Type::TDF, &[]);
//! # let payload = device.hear();
//! # let Command { request_id, command_id, .. } = Command::parse(&payload).unwrap();
//! # let mut response = Vec::new();
//! # Response { request_id, command_id, return_code: 0, body: b"fine" }.encode(&mut response);
//! # device.say(Type::RPC_RSP, &response);
//! let message = sending.await??;
//! assert_eq!(message.status, MessageStatus::Completed);
//! assert_eq!(&*message.answer.ok_or("no answer")?.body, b"fine");
//! # tokio::task::spawn_blocking(move || app.stop()).await?;
//! # Ok(())
//! # }
//! ```

pub mod counters;
mod expiry;
mod follow;
mod immediate;
mod intents;
mod keys;
mod notes;
mod outcomes;
mod reservation;
mod send;
#[cfg(test)]
mod testing;
mod work;
mod writer;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::auth::Authenticator;
use crate::auth::keys::{KeyPair, KeyRing};
use crate::auth::nonce::OwnNonces;
use crate::clock::Clock;
use crate::downlink::Downlinks;
use crate::downlink::channel::EventReceiver;
use crate::downlink::outbox::Full;
use crate::id::{Cursor, DeviceId};
use crate::ingest::posts::Posts;
use crate::registry::device_keys::KeyChange;
use crate::registry::{Registry, RegistryError};
use crate::table::RouteTable;
use crate::wire::frame::PacketType;
use counters::MessageCounters;
use expiry::Deadlines;
pub use outcomes::Outcome;
use outcomes::Outcomes;
pub use work::Work;

/// Settings.
#[derive(Clone, Copy, Debug)]
pub struct DispatchConfig {
    /// What becomes of a key that takes the place of another, or comes from other hardware.
    pub key_change: KeyChange,
    /// How long messages are kept. Default 30 days: long enough to look into what a customer asks about.
    pub message_retention: Duration,
    /// Bytes that the registry may have, with all else that is in it, for messages to be accepted. Default 8 GiB: some 10
    /// million messages.
    pub registry_limit: u64,
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self {
            key_change: KeyChange::default(),
            message_retention: Duration::from_secs(30 * 86_400),
            registry_limit: 8 << 30,
        }
    }
}

/// What a [`Dispatch`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where messages are kept.
    pub registry: Registry,
    /// Where devices are, and what packets look at to know whether something waits.
    pub table: Arc<RouteTable>,
    /// What waits, as ingest takes it. Nothing may be sealed before [`Dispatch::open`].
    pub downlinks: Arc<Downlinks>,
    /// The way to the sockets.
    pub posts: Posts,
    /// The keys of networks and devices.
    pub keys: Arc<KeyRing>,
    /// The gateway's own key pair.
    pub cloud_keys: KeyPair,
    /// The nonces of our own downlinks.
    pub nonces: Arc<OwnNonces>,
    /// What happens to downlinks.
    pub events: EventReceiver,
    /// The gateway's clock.
    pub clock: Clock,
    /// Settings.
    pub config: DispatchConfig,
}

/// Sends messages and follows them. Cheap to clone. What is begun here is carried through on the thread that opened it, also
/// where nobody waits for it any more.
#[derive(Clone, Debug)]
pub struct Dispatch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    table: Arc<RouteTable>,
    downlinks: Arc<Downlinks>,
    posts: Posts,
    keys: Arc<KeyRing>,
    cloud_keys: KeyPair,
    nonces: Arc<OwnNonces>,
    clock: Clock,
    config: DispatchConfig,
    counters: MessageCounters,
    outcomes: Outcomes,
    deadlines: Deadlines,
    /// Messages that were sealed at once, until that is written down.
    immediate: Mutex<HashSet<i64>>,
    /// Messages that are taken back, and not yet in the registry.
    withdrawing: Mutex<HashSet<i64>>,
    /// Derived keys for what is sealed here.
    authenticator: Mutex<Authenticator>,
    /// How often the clock was set back to time that was used already.
    clock_turns: AtomicU32,
    /// Bytes that the registry has.
    stored: AtomicU64,
    next_request_id: AtomicU32,
    runtime: Handle,
}

/// Why a message is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The device is not registered.
    #[error(
        "device {0} is not registered; register it with POST /device (a [[device]] in the configuration file alone is not enough)"
    )]
    UnknownDevice(DeviceId),
    /// Reflected, it would count as a packet of the device (rule R2).
    #[error(
        "packet type {0:?} is one that devices send, and not one for them; send echo_req (0), epacket_forward (9), \
         epacket_forward_auto_conn (12) or a customer's (128 to 255)"
    )]
    OfDevices(PacketType),
    /// It is to be sent at once, and nobody knows where the device is.
    #[error(
        "device {0} has no route: it was not heard since the gateway started; give sendWaitTimeoutMs to hold the message until it speaks"
    )]
    NoRoute(DeviceId),
    /// It is to be sent under the device's key, at once, and that is not known.
    #[error(
        "the key of device {0} is not known; send it at network level, or give sendWaitTimeoutMs to wait until the key is"
    )]
    NoKey(DeviceId),
    /// It is to be sent under a network's key, at once, and the device has spoken under none that is known.
    #[error(
        "no network of device {0} is known; send it at device level, or give sendWaitTimeoutMs to hold the message until it speaks"
    )]
    NoNetwork(DeviceId),
    /// It would be longer than what the device can take.
    #[error("the datagram would have {len} bytes, and the device takes {limit}; send less at once")]
    TooLong {
        /// Bytes of the datagram.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The route has moved since the position it was bound to.
    #[error("the route of the device has moved since; look it up again, it is now at {cursor}")]
    RouteMoved {
        /// The present position.
        cursor: Cursor,
    },
    /// The registry has as much as it may.
    #[error(
        "the gateway keeps as many messages as it may; try again later, or have it keep them for a shorter --message-retention"
    )]
    Stored,
    /// As many wait as may.
    #[error(transparent)]
    Full(#[from] Full),
    /// It cannot be handed to the socket at the moment.
    #[error("the gateway cannot send at the moment; try again in a few seconds")]
    Busy,
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

#[cfg(test)]
mod tests;
