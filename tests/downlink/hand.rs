//! A device that says what a test has it say, packet by packet, without a network between.

use std::net::SocketAddr;
use std::time::Duration;

use lastroute::auth::identity::Identity as Proved;
use lastroute::auth::keys::{Interface, KeyPair, RootKey, device_key_id};
use lastroute::auth::{open_with, seal_with};
use lastroute::clock::Clock;
use lastroute::id::DeviceId;
use lastroute::simulate::identity::Identity;
use lastroute::wire::control;
use lastroute::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};
use lastroute::wire::rpc::{Command, Response};
use lastroute::wire::security::{HARDWARE_ID, SECURITY_STATE, SecurityState};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::harness::{CLOUD_KEY, NETWORK, NETWORK_KEY, PATIENCE};

/// Time from one packet of such a device to its next, in which it listens.
const WINDOW: Duration = Duration::from_millis(150);

/// A device with a socket of its own.
pub(crate) struct Hand {
    pub(crate) identity: Identity,
    /// What it says of its processor, padded with zeros at the end.
    pub(crate) hardware_id: [u8; 16],
    socket: UdpSocket,
    clock: Clock,
    sequence: u16,
}

/// A downlink.
pub(crate) struct Down {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

impl Down {
    /// Request id, command and parameters, if it is a call.
    pub(crate) fn call(&self) -> Option<(u32, u16, &[u8])> {
        let is_call = self.header.packet_type == PacketType::RPC_CMD;
        let command = Command::parse(&self.payload).filter(|_| is_call)?;
        Some((command.request_id, command.command_id, command.parameters))
    }

    /// The same of a question for keys.
    pub(crate) fn question(&self) -> Option<(u32, [u8; 16])> {
        let (request_id, command, parameters) = self.call()?;
        (command == SECURITY_STATE).then(|| (request_id, parameters.try_into().unwrap()))
    }
}

/// A device with the key pair of this number.
fn identity(id: DeviceId, keys: u8) -> Identity {
    let (keys, cloud) = (KeyPair::from_private([keys; 32]), cloud_public());
    let (root, key_id) = (keys.shared_root(cloud).unwrap(), device_key_id(&cloud, &keys.public()));
    Identity { id, keys, root, key_id }
}

fn cloud_public() -> [u8; 32] {
    KeyPair::from_private(CLOUD_KEY).public()
}

impl Hand {
    /// Device `id`, with a key pair and a processor of its own.
    pub(crate) async fn new(id: u64, gateway: SocketAddr) -> Self {
        let mut hardware_id = [0; 16];
        hardware_id[..8].copy_from_slice(&id.to_be_bytes());
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(gateway).await.unwrap();
        let identity = identity(DeviceId(id), id as u8);
        Self { identity, hardware_id, socket, clock: Clock::default(), sequence: 0 }
    }

    /// It makes a key pair anew, and forgets the one before.
    pub(crate) fn renew(&mut self, keys: u8) {
        self.identity = identity(self.identity.id, keys);
    }

    /// Speaks to another gateway from now on, from another address.
    pub(crate) async fn turn_to(&mut self, gateway: SocketAddr) {
        self.socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        self.socket.connect(gateway).await.unwrap();
    }

    /// What is said from here on is later than what a device said that has sent so many packets.
    pub(crate) fn skip(&mut self, packets: u16) {
        self.sequence += packets;
    }

    pub(crate) async fn say(&mut self, level: Level, packet_type: PacketType, payload: &[u8]) {
        self.say_with(0, level, packet_type, payload).await;
    }

    async fn say_with(&mut self, more_flags: u16, level: Level, packet_type: PacketType, payload: &[u8]) {
        self.sequence += 1;
        let (flags, key_id) = match level {
            Level::Network => (more_flags, NETWORK),
            Level::Device => (more_flags | Flags::DEVICE_KEY, self.identity.key_id),
        };
        let header = Header {
            packet_type,
            flags: Flags(flags),
            key_id,
            device_id: self.identity.id,
            gps_time: self.clock.now().gps(),
            sequence: self.sequence,
            entropy: self.sequence,
        };
        let (key, mut bytes) = (self.root(level).day_key(Interface::Udp, header.rotation()), Vec::new());
        seal_with(&key, &header, Layout::Unversioned, payload, &mut bytes);
        self.socket.send(&bytes).await.unwrap();
    }

    fn root(&self, level: Level) -> RootKey {
        match level {
            Level::Network => RootKey::new(NETWORK_KEY),
            Level::Device => self.identity.root.clone(),
        }
    }

    /// A report at network level.
    pub(crate) async fn report(&mut self) {
        self.say(Level::Network, PacketType::TDF, &[]).await;
    }

    /// A report that asks to be acknowledged.
    pub(crate) async fn report_and_ask(&mut self) {
        self.say_with(Flags::ACK_REQUEST, Level::Network, PacketType::TDF, &[]).await;
    }

    /// Says which key it has, as devices do once they have booted.
    pub(crate) async fn name_key(&mut self) {
        let payload = control::key_ids(self.identity.key_id);
        self.say(Level::Network, PacketType::KEY_IDS, &payload).await;
    }

    pub(crate) async fn answer(&mut self, level: Level, request_id: u32, command_id: u16, body: &[u8]) {
        let mut payload = Vec::new();
        Response { request_id, command_id, return_code: 0, body }.encode(&mut payload);
        self.say(level, PacketType::RPC_RSP, &payload).await;
    }

    /// Says who it is, to whoever asked with this request id and challenge.
    pub(crate) async fn prove(&mut self, request_id: u32, challenge: [u8; 16]) {
        let Identity { id, keys, root, .. } = &self.identity;
        let (kind, network) = (HARDWARE_ID, NETWORK.get());
        let state =
            SecurityState { cloud_public: cloud_public(), device_public: keys.public(), network, kind, proof: None };
        let mut body = Vec::new();
        let proved = Proved { challenge, hardware_id: self.hardware_id, device: *id };
        proved.prove(root, state, [7; 12]).encode(&mut body);
        self.answer(Level::Network, request_id, SECURITY_STATE, &body).await;
    }

    /// The next downlink, if one comes while it listens; challenges for its address are answered by the way.
    ///
    /// # Panics
    /// For one that this device cannot open.
    pub(crate) async fn hear(&mut self) -> Option<Down> {
        loop {
            let mut bytes = [0; 2048];
            let len = timeout(WINDOW, self.socket.recv(&mut bytes)).await.ok()?.unwrap();
            let frame = Frame::parse(&mut bytes[..len], Layout::Unversioned).unwrap();
            let header = *frame.header();
            let (level, key_id) = (header.level(), header.key_id);
            assert!(level == Level::Network || key_id == self.identity.key_id, "sealed under the dead key {key_id}");
            let key = self.root(level).day_key(Interface::Udp, header.rotation());
            let payload = open_with(&key, frame).expect("authentic").payload().to_vec();
            if header.packet_type != PacketType::ECHO_REQ {
                return Some(Down { header, payload });
            }
            self.say(level, PacketType::ECHO_RSP, &payload).await;
        }
    }

    /// Speaks, as `what` says, until it hears a downlink that is `wanted`; what else it hears is given to `others`.
    pub(crate) async fn until(
        &mut self,
        mut what: impl AsyncFnMut(&mut Self),
        wanted: impl Fn(&Down) -> bool,
        mut others: impl FnMut(&Down),
    ) -> Down {
        let speaking = async {
            loop {
                what(self).await;
                while let Some(down) = self.hear().await {
                    if wanted(&down) {
                        return down;
                    }
                    others(&down);
                }
            }
        };
        timeout(PATIENCE, speaking).await.expect("what is wanted comes")
    }
}
