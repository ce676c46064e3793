//! What was seen on the wire, opened with the keys of both sides.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use lastroute::auth::keys::{Interface, RootKey};
use lastroute::auth::{Verified, open_with};
use lastroute::id::{DeviceId, KeyId};
use lastroute::simulate::identity::Identity;
use lastroute::wire::container::{self, Content};
use lastroute::wire::forward::AutoConnect;
use lastroute::wire::frame::{Frame, Header, Layout, Level, PacketType};
use lastroute::wire::rpc::{Command, Response};

/// Under which key, and the nonce itself.
type Nonce = (KeyId, DeviceId, u32, u16, u16);

fn nonce(of: &Header) -> Nonce {
    (of.key_id, of.device_id, of.gps_time, of.sequence, of.entropy)
}

/// A call as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenCall {
    pub(crate) device: DeviceId,
    pub(crate) level: Level,
    /// When it left the gateway.
    pub(crate) at: Instant,
}

/// Everything that passed. What is counted of the way up is what reached the gateway.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    keys: HashMap<(Level, KeyId), RootKey>,
    /// Downlinks by request id: one for each datagram that left the gateway.
    pub(crate) calls: HashMap<u32, Vec<SeenCall>>,
    /// Request ids whose answer reached the gateway.
    pub(crate) answered: HashSet<u32>,
    /// Acknowledgements that left the gateway.
    pub(crate) acks: usize,
    /// Challenges that left the gateway.
    pub(crate) challenges: usize,
    nonces: HashSet<Nonce>,
    /// Those of devices.
    nonces_up: HashSet<Nonce>,
    /// Nonces that were used twice, in whichever direction: but for copies of one packet of a device.
    pub(crate) repeated: Vec<Nonce>,
}

impl Seen {
    /// Opens what is sealed with the key of the network or of one of these devices.
    pub(crate) fn with_keys<'a>(
        network: KeyId,
        network_root: &RootKey,
        identities: impl IntoIterator<Item = &'a Identity>,
    ) -> Self {
        let mut keys = HashMap::from([((Level::Network, network), network_root.clone())]);
        keys.extend(identities.into_iter().map(|of| ((Level::Device, of.key_id), of.root.clone())));
        Self { keys, ..Self::default() }
    }

    /// Downlinks of every kind with a nonce of their own.
    pub(crate) fn nonces(&self) -> usize {
        self.nonces.len()
    }

    /// A datagram left the gateway.
    pub(crate) fn down(&mut self, datagram: &[u8]) {
        let (header, payload) = self.open(datagram, Layout::Unversioned, Interface::Udp);
        self.note_down(&header, &payload);
        if header.packet_type == PacketType::EPACKET_FORWARD_AUTO_CONN {
            let forward = AutoConnect::parse(&payload).unwrap();
            let (header, payload) = self.open(forward.frame, Layout::Versioned, Interface::BtGatt);
            self.note_down(&header, &payload);
        }
    }

    fn note_down(&mut self, header: &Header, payload: &[u8]) {
        let nonce = nonce(header);
        if !self.nonces.insert(nonce) || self.nonces_up.contains(&nonce) {
            self.repeated.push(nonce);
        }
        match header.packet_type {
            PacketType::ACK => self.acks += 1,
            PacketType::ECHO_REQ => self.challenges += 1,
            PacketType::RPC_CMD => {
                let request_id = Command::parse(payload).unwrap().request_id;
                let seen = SeenCall { device: header.device_id, level: header.level(), at: Instant::now() };
                self.calls.entry(request_id).or_default().push(seen);
            }
            _ => {}
        }
    }

    /// A datagram reached the gateway.
    pub(crate) fn up(&mut self, datagram: &[u8]) {
        let (header, payload) = self.open(datagram, Layout::Unversioned, Interface::Udp);
        self.note_up(&header, &payload);
        if header.packet_type == PacketType::RECEIVED_EPACKET {
            for entry in container::entries(&payload).map(Result::unwrap) {
                match entry.content {
                    Content::Opened { header, payload } => self.note_up(&header, payload),
                    Content::Sealed(frame) => {
                        let interface = Interface::heard_on(entry.interface).unwrap();
                        let (header, payload) = self.open(frame, Layout::Versioned, interface);
                        self.note_up(&header, &payload);
                    }
                }
            }
        }
    }

    fn note_up(&mut self, header: &Header, payload: &[u8]) {
        let nonce = nonce(header);
        self.nonces_up.insert(nonce);
        if self.nonces.contains(&nonce) {
            self.repeated.push(nonce);
        }
        if header.packet_type == PacketType::RPC_RSP {
            self.answered.insert(Response::parse(payload).unwrap().request_id);
        }
    }

    fn open(&self, datagram: &[u8], layout: Layout, interface: Interface) -> (Header, Vec<u8>) {
        let mut bytes = datagram.to_vec();
        let frame = Frame::parse(&mut bytes, layout).expect("a frame");
        let header = *frame.header();
        let root = self.keys.get(&(header.level(), header.key_id)).expect("a key that is known");
        let opened: Verified<'_> = open_with(&root.day_key(interface, header.rotation()), frame).expect("authentic");
        (*opened.header(), opened.payload().to_vec())
    }
}
