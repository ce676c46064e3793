//! How a downlink becomes a datagram: which key, which sequence, which address, how long, and whether at all
//! (docs/protocol.md, downlinks and forwarding).

use std::net::SocketAddr;

use super::allowance::Allowance;
use super::event::{Dropped, Through, Way};
use super::intent::{Intent, Sealing};
use super::outbox::Decision;
use crate::auth::Authenticator;
use crate::auth::keys::{Interface, KeyRing};
use crate::auth::nonce::OwnNonces;
use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::table::route::{Path, Relaying, Route};
use crate::table::sending::SendRoute;
use crate::wire::MAX_DATAGRAM;
use crate::wire::container::{BtAddress, RouteInterface};
use crate::wire::forward::{AutoConnect, FRONT_LEN, MAX_FORWARDED};
use crate::wire::frame::{Flags, Header, Layout, Level, PacketType};

/// The longest datagram that every device can take (docs/protocol.md, lengths).
pub const SAFE_DATAGRAM: usize = 548;

/// How long a relay tries to connect, in seconds. Sleeping devices advertise every few seconds.
pub const CONNECT_TIMEOUT: u8 = 20;
/// How long a relay keeps a connection without traffic, in seconds: as long as callers usually wait for an answer.
pub const IDLE_TIMEOUT: u8 = 10;
/// How long a relay keeps a connection at most, in seconds: it has few of them.
pub const ABSOLUTE_TIMEOUT: u8 = 60;

/// Where a downlink goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The device.
    pub device: DeviceId,
    /// The network the device spoke under last, if it ever did.
    pub network: Option<KeyId>,
    /// Where the datagram goes: to the device or its relay.
    pub address: SocketAddr,
    /// The longest datagram that the device has sent itself, in bytes; 0 if it has sent none.
    pub largest: u16,
    /// Of a device that is not reached directly.
    pub relay: Option<Relay>,
}

/// The relay on the way to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay {
    /// The relay.
    pub device: DeviceId,
    /// The network the relay spoke under last, if it ever did.
    pub network: Option<KeyId>,
    /// The device, as the relay reaches it.
    pub address: BtAddress,
}

/// Why a downlink cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSealed {
    /// It is for the device's key, and that or its id is not known.
    #[error("the key of device {0} is not known")]
    NoKey(DeviceId),
    /// It is for a network's key, and the device has spoken under no network whose key is known.
    #[error("no network of device {0} is known")]
    NoNetwork(DeviceId),
    /// It is longer than what the device can take that way.
    #[error("the datagram would have {len} bytes, and the device takes {limit}")]
    TooLong {
        /// Bytes of the datagram, or of the frame that the relay passes on.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// No time is reserved for it (see [`Allowance`]).
    #[error("the gateway may not seal anything yet")]
    NotYet,
    /// The table knows nothing of the device or its relay, so that there is no sequence.
    #[error("nothing is known of device {0}")]
    NotHeard(DeviceId),
}

impl NotSealed {
    /// What becomes of an intent that cannot be sealed. Most may be different when the device speaks next: one that has sent
    /// longer datagrams takes longer ones, and one behind a relay may be heard directly. What is too long for any way is given
    /// up.
    pub fn decide(self, intent: &Intent) -> Decision {
        let fits_no_way = Layout::Unversioned.min_len() + intent.payload.len() > MAX_DATAGRAM;
        match self {
            Self::TooLong { len, limit } if fits_no_way => Decision::Drop(Dropped::TooLong { len, limit }),
            _ => Decision::Stay,
        }
    }
}

impl Destination {
    /// The way back to where a packet came from by `path`. `None` if that is a relay which gives no Bluetooth address.
    pub fn back(
        device: DeviceId,
        path: &Path,
        network: Option<KeyId>,
        relay_network: Option<KeyId>,
        largest: u16,
    ) -> Option<Self> {
        let relay = match path {
            Path::Direct(_) => None,
            Path::Relayed(through) => Some(Relay::on(through, relay_network)?),
        };
        Some(Self { device, network, address: path.source(), largest, relay })
    }

    /// The way to a device by its route; for a relayed one, by the route of its relay, if that is known, since the relay may
    /// have moved. `None` if that is a relay which gives no Bluetooth address, or which is itself behind a relay.
    pub fn along(keys: &KeyRing, device: DeviceId, route: &SendRoute, relay: Option<&SendRoute>) -> Option<Self> {
        let network = keys.network_numbered(route.network);
        let relayed = match route.route {
            Route::Direct(direct) => {
                return Self::back(device, &Path::Direct(direct.address), network, None, route.largest);
            }
            Route::Relayed(relayed) => relayed.through,
        };
        let mut through = relayed;
        if let Some(relay) = relay {
            let Route::Direct(direct) = relay.route else { return None };
            through.address = direct.address;
        }
        let relay_network = relay.and_then(|relay| keys.network_numbered(relay.network));
        Self::back(device, &Path::Relayed(through), network, relay_network, route.largest)
    }

    /// The bytes of payload that fit.
    pub fn room(&self) -> usize {
        self.limit() - self.layout().min_len()
    }

    /// The bytes that a downlink with so much payload takes on its last way.
    ///
    /// # Errors
    /// [`NotSealed::TooLong`].
    pub fn fit(&self, payload_len: usize) -> Result<usize, NotSealed> {
        let (len, limit) = (self.layout().min_len() + payload_len, self.limit());
        if len <= limit { Ok(len) } else { Err(NotSealed::TooLong { len, limit }) }
    }

    /// The bytes of the datagram of a downlink with so much payload.
    pub fn datagram_len(&self, payload_len: usize) -> usize {
        let len = self.layout().min_len() + payload_len;
        if self.relay.is_some() { Layout::Unversioned.min_len() + FRONT_LEN + len } else { len }
    }

    fn limit(&self) -> usize {
        match self.relay {
            Some(_) => MAX_FORWARDED,
            None => SAFE_DATAGRAM.max(self.largest.into()).min(MAX_DATAGRAM),
        }
    }

    const fn layout(&self) -> Layout {
        if self.relay.is_some() { Layout::Versioned } else { Layout::Unversioned }
    }
}

impl Relay {
    fn on(through: &Relaying, network: Option<KeyId>) -> Option<Self> {
        through.bt.map(|address| Self { device: through.relay, network, address })
    }
}

/// Seals downlinks at one moment.
pub struct Sealer<'a> {
    /// The keys of networks and devices.
    pub keys: &'a KeyRing,
    /// The derived keys of this thread.
    pub authenticator: &'a mut Authenticator,
    /// Our own nonces.
    pub nonces: &'a OwnNonces,
    /// Whether anything may be sealed now.
    pub allowance: &'a Allowance,
    /// Takes the next downlink sequence of a device; `None` for one that the table knows nothing of.
    pub sequences: &'a dyn Fn(DeviceId) -> Option<u16>,
    /// The gateway's true time.
    pub now: Timestamp,
}

impl std::fmt::Debug for Sealer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Sealer<'_> {
    /// Appends a datagram to `out`, for [`Destination::address`].
    ///
    /// # Errors
    /// Why it cannot be; `out` is as it was.
    pub fn seal(
        &mut self,
        to: &Destination,
        packet_type: PacketType,
        sealing: Sealing,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Way, NotSealed> {
        let subscribes = if packet_type == PacketType::RPC_DATA { AutoConnect::SUBSCRIBE } else { 0 };
        self.seal_with(to, packet_type, sealing, payload, AutoConnect::TELL_END | subscribes, out)
    }

    /// As [`Self::seal`], for an intent. `is_only`: no other leaves with it. Only then may a relay end the connection with the
    /// first answer, since it may end it before the others come.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn seal_intent(
        &mut self,
        to: &Destination,
        intent: &Intent,
        is_only: bool,
        out: &mut Vec<u8>,
    ) -> Result<Way, NotSealed> {
        let Intent { packet_type, sealing, payload, call, .. } = intent;
        let ends = if is_only && call.is_some() { AutoConnect::UNTIL_ANSWER } else { 0 };
        let moves_data = call.as_ref().is_some_and(|call| call.data.is_some());
        let subscribes = if moves_data { AutoConnect::SUBSCRIBE } else { 0 };
        let flags = AutoConnect::TELL_END | ends | subscribes;
        self.seal_with(to, *packet_type, *sealing, payload, flags, out)
    }

    /// `flags`: of the relay's connection, if it goes through one.
    fn seal_with(
        &mut self,
        to: &Destination,
        packet_type: PacketType,
        sealing: Sealing,
        payload: &[u8],
        flags: u8,
        out: &mut Vec<u8>,
    ) -> Result<Way, NotSealed> {
        let keys = self.keys_for(to, sealing, payload.len())?;
        let key = keys.own;
        let Some((relay, relay_key)) = to.relay.zip(keys.relay) else {
            let packet = Packet { device: to.device, key, packet_type, payload };
            let sequence = self.frame(&packet, Layout::Unversioned, Interface::Udp, out)?;
            return Ok(Way { sequence, level: key.level, address: to.address, relay: None });
        };
        let mut frame = Vec::with_capacity(MAX_FORWARDED);
        let packet = Packet { device: to.device, key, packet_type, payload };
        let sequence = self.frame(&packet, Layout::Versioned, Interface::BtGatt, &mut frame)?;
        let mut forward = Vec::with_capacity(FRONT_LEN + frame.len());
        connect(relay.address, flags, &frame).encode(&mut forward);
        let packet_type = PacketType::EPACKET_FORWARD_AUTO_CONN;
        let packet = Packet { device: relay.device, key: relay_key, packet_type, payload: &forward };
        self.frame(&packet, Layout::Unversioned, Interface::Udp, out)?;
        let through = Through { relay: relay.device, level: relay_key.level, address: relay.address };
        Ok(Way { sequence, level: key.level, address: to.address, relay: Some(through) })
    }

    /// The level at which a downlink with so much payload would be sealed.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn level(&self, to: &Destination, sealing: Sealing, payload_len: usize) -> Result<Level, NotSealed> {
        self.keys_for(to, sealing, payload_len).map(|keys| keys.own.level)
    }

    /// The keys of a downlink with so much payload.
    fn keys_for(&self, to: &Destination, sealing: Sealing, payload_len: usize) -> Result<Keys, NotSealed> {
        to.fit(payload_len)?;
        if !self.allowance.allows(self.now.gps()) {
            return Err(NotSealed::NotYet);
        }
        let own = self.key(to.device, to.network, sealing)?;
        let relay = to.relay.map(|relay| self.key(relay.device, relay.network, Sealing::Best)).transpose()?;
        Ok(Keys { own, relay })
    }

    fn key(&self, device: DeviceId, network: Option<KeyId>, sealing: Sealing) -> Result<Key, NotSealed> {
        let own = match sealing {
            Sealing::Best | Sealing::Device => self.keys.downlink_key_id(device),
            Sealing::Network => None,
        };
        match (own, sealing) {
            (Some(id), _) => Ok(Key { level: Level::Device, id }),
            (None, Sealing::Device) => Err(NotSealed::NoKey(device)),
            (None, Sealing::Best | Sealing::Network) => {
                network.map(|id| Key { level: Level::Network, id }).ok_or(NotSealed::NoNetwork(device))
            }
        }
    }

    /// Appends one frame, with a sequence and a nonce of its own.
    fn frame(
        &mut self,
        packet: &Packet<'_>,
        layout: Layout,
        interface: Interface,
        out: &mut Vec<u8>,
    ) -> Result<u16, NotSealed> {
        let &Packet { device, key, packet_type, payload } = packet;
        let sequence = (self.sequences)(device).ok_or(NotSealed::NotHeard(device))?;
        let gps_time = self.now.gps();
        let header = Header {
            packet_type,
            flags: Flags(if key.level == Level::Device { Flags::DEVICE_KEY } else { 0 }),
            key_id: key.id,
            device_id: device,
            gps_time,
            sequence,
            entropy: self.nonces.entropy(device, gps_time, sequence),
        };
        // What refuses is a key that was removed a moment ago.
        self.authenticator.seal(self.keys, &header, layout, interface, payload, out).map_err(|_| match key.level {
            Level::Network => NotSealed::NoNetwork(device),
            Level::Device => NotSealed::NoKey(device),
        })?;
        if packet_type.is_both_ways() {
            self.nonces.remember(device, gps_time, sequence);
        }
        Ok(sequence)
    }
}

/// Under which key a frame is sealed.
#[derive(Clone, Copy)]
struct Key {
    level: Level,
    id: KeyId,
}

/// The key of a downlink, and that of what its relay passes on.
struct Keys {
    own: Key,
    relay: Option<Key>,
}

/// What is in a frame, and for whom.
struct Packet<'a> {
    device: DeviceId,
    key: Key,
    packet_type: PacketType,
    payload: &'a [u8],
}

/// What a relay is asked to do with `frame`.
const fn connect(address: BtAddress, flags: u8, frame: &[u8]) -> AutoConnect<'_> {
    AutoConnect {
        interface: RouteInterface::BtCentral,
        flags,
        connect_timeout: CONNECT_TIMEOUT,
        idle_timeout: IDLE_TIMEOUT,
        absolute_timeout: ABSOLUTE_TIMEOUT,
        address,
        frame,
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
