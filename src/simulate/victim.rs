//! The honest devices of an attack: they report from sockets of their own and wait to be acknowledged, so that there is
//! something to record and something to lose.

use std::time::Duration;

use fastrand::Rng;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

use super::identity::Identity;
use super::{Config, SimulateError, ports, telemetry};
use crate::auth::keys::{Interface, RootKey};
use crate::auth::{open_with, seal_with};
use crate::clock::{Clock, Timestamp};
use crate::id::{DeviceId, KeyId};
use crate::table::rules::NO_TIME_START;
use crate::wire::control;
use crate::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};
use crate::wire::rpc::Command;
use crate::wire::security::SECURITY_STATE;

/// How long a device waits for an acknowledgement: as firmware does.
const ACK_WITHIN: Duration = Duration::from_secs(2);

/// Time from one question for the keys of a device to the next at least: a gateway waits for 10 s, and how long a datagram is
/// under way differs.
const ASKED_EVERY: Duration = Duration::from_secs(9);

/// A device that reports honestly.
#[derive(Debug)]
pub(super) struct Victim {
    identity: Identity,
    network: KeyId,
    network_root: RootKey,
    level: Level,
    /// Without it, it counts from 2020 for ever: nothing that it is told sets its clock.
    has_time: bool,
    clock: Clock,
    booted_at: Timestamp,
    sequence: u16,
    random: Rng,
    /// When it was last asked for its keys.
    asked_at: Option<Instant>,
    socket: UdpSocket,
}

/// Something a device sent or would have sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recording {
    /// Whose.
    pub(super) device: DeviceId,
    /// The datagram.
    pub(super) bytes: Vec<u8>,
    /// Its sender had no time.
    pub(super) no_time: bool,
}

impl Victim {
    /// Device `index` of the fleet, which boots now behind a socket of its own. Some are at device level, if the fleet has
    /// such devices, and some without time. Of `sockets` in all it takes the one with its index.
    pub(super) fn open(config: &Config, index: u32, sockets: usize, clock: Clock) -> Result<Self, SimulateError> {
        let identity = Identity::new(config.seed, index, &config.cloud_public).ok_or(SimulateError::WeakCloudKey)?;
        Ok(Self {
            identity,
            network: config.network,
            network_root: config.network_root.clone(),
            level: if index % 2 == 1 && config.device_level > 0.0 { Level::Device } else { Level::Network },
            has_time: index % 4 < 2 || config.no_time == 0.0,
            booted_at: clock.now(),
            clock,
            sequence: 0,
            random: Rng::with_seed(fastrand::u64(..)),
            asked_at: None,
            socket: ports::open_one(config.gateway, index as usize + 1, sockets)?,
        })
    }

    /// Who it is.
    pub(super) const fn id(&self) -> DeviceId {
        self.identity.id
    }

    /// The key id of its device-level frames.
    pub(super) const fn key_id(&self) -> KeyId {
        self.identity.key_id
    }

    /// Its socket, which is connected to the gateway.
    pub(super) const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The packet it sends first.
    pub(super) fn boot(&mut self) -> Recording {
        let payload = control::key_ids(self.identity.key_id);
        self.seal(PacketType::KEY_IDS, Level::Network, &payload)
    }

    /// Its next report, which asks for an acknowledgement.
    pub(super) fn report(&mut self) -> Recording {
        let mut payload = Vec::new();
        telemetry::measurement(self.gps_time(), self.random.u32(..), &mut payload);
        self.seal(PacketType::TDF, self.level, &payload)
    }

    /// Sends what it has sealed. What the kernel does not take is as good as lost, and shows as not acknowledged.
    pub(super) async fn send(&self, recording: &Recording) {
        let _ = self.socket.send(&recording.bytes).await;
    }

    /// Waits for the acknowledgement of its last packet, and returns its bytes; `None` if it does not come in time.
    pub(super) async fn acknowledgement(&self) -> Option<Vec<u8>> {
        let sequence = self.sequence.wrapping_sub(1);
        let arrives = async {
            let mut buffer = [0; crate::wire::MAX_DATAGRAM];
            loop {
                // An error is somebody who says that nobody listens there: perhaps somebody does soon.
                let Ok(len) = self.socket.recv(&mut buffer).await else { continue };
                let received = buffer[..len].to_vec();
                if self.acknowledged(&mut buffer[..len]) == Some(sequence) {
                    return received;
                }
            }
        };
        timeout(ACK_WITHIN, arrives).await.ok()
    }

    fn acknowledged(&self, datagram: &mut [u8]) -> Option<u16> {
        control::acked_sequence(self.opened(datagram, PacketType::ACK)?)
    }

    /// Whether the datagram asks it for its keys, as a gateway may once in a while.
    pub(super) fn is_asked_for_keys(&mut self, datagram: &mut [u8]) -> bool {
        let call = self.opened(datagram, PacketType::RPC_CMD).and_then(Command::parse);
        if call.is_none_or(|call| call.command_id != SECURITY_STATE) {
            return false;
        }
        let now = Instant::now();
        let before = self.asked_at.replace(now);
        before.is_none_or(|before| now - before >= ASKED_EVERY)
    }

    /// Whether the datagram is a challenge for it, which asks whether it is where the datagram arrives.
    pub(super) fn is_challenged(&self, datagram: &[u8]) -> bool {
        Frame::claimed_device(datagram) == Some(self.id())
            && self.opened(&mut datagram.to_vec(), PacketType::ECHO_REQ).is_some()
    }

    /// The payload of a downlink of this type for it.
    fn opened<'a>(&self, datagram: &'a mut [u8], packet_type: PacketType) -> Option<&'a [u8]> {
        let frame = Frame::parse(datagram, Layout::Unversioned).ok()?;
        let header = *frame.header();
        let key = self.root(header.level()).day_key(Interface::Udp, header.rotation());
        open_with(&key, frame).filter(|_| header.packet_type == packet_type).map(|opened| opened.payload())
    }

    const fn root(&self, level: Level) -> &RootKey {
        match level {
            Level::Network => &self.network_root,
            Level::Device => &self.identity.root,
        }
    }

    fn gps_time(&self) -> u32 {
        let now = self.clock.now();
        let uptime = u32::try_from(now.0.saturating_sub(self.booted_at.0) / 1000).unwrap_or(u32::MAX);
        if self.has_time { now.gps() } else { NO_TIME_START.saturating_add(uptime) }
    }

    fn seal(&mut self, packet_type: PacketType, level: Level, payload: &[u8]) -> Recording {
        let (key_id, level_flag) = match level {
            Level::Network => (self.network, 0),
            Level::Device => (self.identity.key_id, Flags::DEVICE_KEY),
        };
        let header = Header {
            packet_type,
            flags: Flags(level_flag | Flags::ACK_REQUEST | Flags::ALWAYS_RX),
            key_id,
            device_id: self.identity.id,
            gps_time: self.gps_time(),
            sequence: self.sequence,
            entropy: self.random.u16(..),
        };
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let key = self.root(level).day_key(Interface::Udp, header.rotation());
        seal_with(&key, &header, Layout::Unversioned, payload, &mut bytes);
        Recording { device: self.identity.id, bytes, no_time: !self.has_time }
    }
}
