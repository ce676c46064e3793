//! ePacket v0 frames: header fields, the two layouts, lengths (docs/protocol.md, frames).
//!
//! A [`Frame`] is parsed and not trusted: every field is a claim until `auth` has opened it.

use std::fmt;

use crate::id::{DeviceId, KeyId};
use crate::metrics::Disposition;

/// Bytes of the Poly1305 tag that ends every frame.
pub const TAG_LEN: usize = 16;

/// The two forms of a v0 frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// UDP, both directions: starts with the type.
    Unversioned,
    /// Serial and Bluetooth, so inside containers: one leading version byte, always 0, which is authenticated too.
    Versioned,
}

impl Layout {
    const fn version_len(self) -> usize {
        match self {
            Self::Unversioned => 0,
            Self::Versioned => 1,
        }
    }

    /// Bytes before the nonce: the associated data.
    pub const fn associated_len(self) -> usize {
        self.version_len() + 10
    }

    /// Bytes before the ciphertext.
    pub const fn header_len(self) -> usize {
        self.version_len() + 22
    }

    /// Bytes of the smallest frame that can authenticate: header and tag, without payload. 38, or 39 versioned.
    pub const fn min_len(self) -> usize {
        self.header_len() + TAG_LEN
    }
}

/// The type of a packet: any byte (docs/protocol.md, packet types).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PacketType(pub u8);

impl PacketType {
    /// Gateway asks a device to answer with the same payload.
    pub const ECHO_REQ: Self = Self(0);
    /// The answer to an echo request.
    pub const ECHO_RSP: Self = Self(1);
    /// Readings of the sender.
    pub const TDF: Self = Self(2);
    /// Remote procedure call to a device.
    pub const RPC_CMD: Self = Self(3);
    /// Data phase of a call, both directions.
    pub const RPC_DATA: Self = Self(4);
    /// Acknowledgement of the data phase.
    pub const RPC_DATA_ACK: Self = Self(5);
    /// The answer to a call.
    pub const RPC_RSP: Self = Self(6);
    /// Packets of other devices, passed on by a relay.
    pub const RECEIVED_EPACKET: Self = Self(7);
    /// Gateway acknowledges a packet.
    pub const ACK: Self = Self(8);
    /// Gateway asks a relay to pass a packet on.
    pub const EPACKET_FORWARD: Self = Self(9);
    /// Log text, serial and Bluetooth only.
    pub const SERIAL_LOG: Self = Self(10);
    /// Readings of another device.
    pub const TDF_REMOTE: Self = Self(11);
    /// As [`Self::EPACKET_FORWARD`], opening the connection first.
    pub const EPACKET_FORWARD_AUTO_CONN: Self = Self(12);
    /// A relay's connection ended.
    pub const EPACKET_CONN_TERMINATED: Self = Self(13);
    /// A Memfault chunk.
    pub const MEMFAULT_CHUNK: Self = Self(30);
    /// A device's current device key id; with sequence 0 it marks a boot.
    pub const KEY_IDS: Self = Self(127);

    /// The lower-case name used in every text; `customer` from 128, else `unknown`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "echo_req",
            1 => "echo_rsp",
            2 => "tdf",
            3 => "rpc_cmd",
            4 => "rpc_data",
            5 => "rpc_data_ack",
            6 => "rpc_rsp",
            7 => "received_epacket",
            8 => "ack",
            9 => "epacket_forward",
            10 => "serial_log",
            11 => "tdf_remote",
            12 => "epacket_forward_auto_conn",
            13 => "epacket_conn_terminated",
            30 => "memfault_chunk",
            127 => "key_ids",
            128..=255 => "customer",
            _ => "unknown",
        }
    }

    /// Sent by gateways only: as an uplink it is one of our own downlinks come back (rule R2).
    pub const fn is_downlink_only(self) -> bool {
        matches!(
            self,
            Self::ECHO_REQ | Self::RPC_CMD | Self::ACK | Self::EPACKET_FORWARD | Self::EPACKET_FORWARD_AUTO_CONN
        )
    }

    /// Legal in both directions, so that only the nonce tells an uplink from a downlink come back (rule R2).
    pub const fn is_both_ways(self) -> bool {
        matches!(self.0, 4 | 128..)
    }
}

impl fmt::Debug for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

/// The flag bits of a frame. Unassigned bits are kept: they are authenticated, and not interpreted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// Sealed with a device key; without it, with a network key.
    pub const DEVICE_KEY: u16 = 0x8000;
    /// The sender asks for an acknowledgement.
    pub const ACK_REQUEST: u16 = 0x4000;
    /// The device can carry data of others.
    pub const CARRIES: u16 = 0x2000;
    /// The device delivers its own data.
    pub const DELIVERS: u16 = 0x1000;
    /// UDP: the device listens all the time.
    pub const ALWAYS_RX: u16 = 0x0001;
    /// UDP: nothing follows soon, the radio may be released at once.
    pub const SINGLE_TX: u16 = 0x0002;

    /// Whether every bit of `mask` is set.
    pub const fn contains(self, mask: u16) -> bool {
        self.0 & mask == mask
    }

    /// The authentication level these flags name.
    pub const fn level(self) -> Level {
        if self.contains(Self::DEVICE_KEY) { Level::Device } else { Level::Network }
    }
}

/// Which kind of key seals a packet. Ordered: a device key proves more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The key every device of a network holds: the device id is a claim.
    Network,
    /// The key of one device.
    Device,
}

impl Level {
    /// The name in every text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Device => "device",
        }
    }

    /// The firmware's number, used by the REST models.
    pub const fn number(self) -> u8 {
        match self {
            Self::Network => 1,
            Self::Device => 2,
        }
    }
}

/// The clear fields at the front of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub packet_type: PacketType,
    /// Level, ACK request, interface bits.
    pub flags: Flags,
    /// Network id, or device key id.
    pub key_id: KeyId,
    /// The sender of an uplink, the target of a downlink.
    pub device_id: DeviceId,
    /// Seconds since 1980-01-06T00:00:00Z without leap seconds, by the sender's clock.
    pub gps_time: u32,
    /// The sender's packet counter.
    pub sequence: u16,
    /// Random bits of the nonce.
    pub entropy: u16,
}

impl Header {
    /// The level the frame claims.
    pub const fn level(&self) -> Level {
        self.flags.level()
    }

    /// The day index that selects the key: whole days of `gps_time`.
    pub const fn rotation(&self) -> u32 {
        self.gps_time / crate::clock::SECONDS_PER_DAY
    }

    /// Appends the header bytes of `layout`.
    pub fn encode(&self, layout: Layout, out: &mut Vec<u8>) {
        if layout == Layout::Versioned {
            out.push(0);
        }
        out.push(self.packet_type.0);
        out.extend_from_slice(&self.flags.0.to_le_bytes());
        out.extend_from_slice(&self.key_id.to_le_bytes());
        out.extend_from_slice(&((self.device_id.0 >> 32) as u32).to_le_bytes());
        out.extend_from_slice(&(self.device_id.0 as u32).to_le_bytes());
        out.extend_from_slice(&self.gps_time.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.entropy.to_le_bytes());
    }
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than header and tag.
    #[error("{len} bytes, fewer than the {min} of a header and a tag")]
    Short {
        /// Bytes given.
        len: usize,
        /// Bytes needed.
        min: usize,
    },
    /// More than [`super::MAX_DATAGRAM`].
    #[error("{len} bytes, more than {}", super::MAX_DATAGRAM)]
    Oversize {
        /// Bytes given.
        len: usize,
    },
    /// A versioned frame that does not start with 0.
    #[error("frame version {0}, only 0 is known")]
    Version(u8),
}

impl From<FrameError> for Disposition {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Short { .. } => Self::Short,
            FrameError::Oversize { .. } => Self::Oversize,
            FrameError::Version(_) => Self::BadVersion,
        }
    }
}

/// A parsed frame that nobody has authenticated. Holds the bytes mutably, so that it can be opened in place.
#[derive(Debug)]
pub struct Frame<'a> {
    header: Header,
    layout: Layout,
    bytes: &'a mut [u8],
}

impl<'a> Frame<'a> {
    /// Reads the header of `bytes`, which must be one whole frame: there is no length field.
    pub fn parse(bytes: &'a mut [u8], layout: Layout) -> Result<Self, FrameError> {
        let len = bytes.len();
        if len < layout.min_len() {
            return Err(FrameError::Short { len, min: layout.min_len() });
        }
        if len > super::MAX_DATAGRAM {
            return Err(FrameError::Oversize { len });
        }
        if layout == Layout::Versioned && bytes[0] != 0 {
            return Err(FrameError::Version(bytes[0]));
        }
        let short = FrameError::Short { len, min: layout.min_len() };
        let fields: &[u8; 22] = bytes[layout.version_len()..].first_chunk().ok_or(short)?;
        let u32_at = |at: usize| u32::from_le_bytes([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]]);
        let u16_at = |at: usize| u16::from_le_bytes([fields[at], fields[at + 1]]);
        let header = Header {
            packet_type: PacketType(fields[0]),
            flags: Flags(u16_at(1)),
            key_id: KeyId::from_le_bytes([fields[3], fields[4], fields[5]]),
            device_id: DeviceId(u64::from(u32_at(6)) << 32 | u64::from(u32_at(10))),
            gps_time: u32_at(14),
            sequence: u16_at(18),
            entropy: u16_at(20),
        };
        Ok(Self { header, layout, bytes })
    }

    /// The device that unversioned `bytes` claim to be from or for, without looking at anything else.
    pub fn claimed_device(bytes: &[u8]) -> Option<DeviceId> {
        let [a, b, c, d, e, f, g, h] = *bytes.get(6..)?.first_chunk()?;
        let (upper, lower) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        Some(DeviceId(u64::from(upper) << 32 | u64::from(lower)))
    }

    /// The level that unversioned `bytes` claim to be sealed at, without looking at anything else.
    pub fn claimed_level(bytes: &[u8]) -> Option<Level> {
        Some(Flags(u16::from_le_bytes(*bytes.get(1..)?.first_chunk()?)).level())
    }

    /// The key id that unversioned `bytes` claim to be sealed with, without looking at anything else.
    pub fn claimed_key_id(bytes: &[u8]) -> Option<KeyId> {
        Some(KeyId::from_le_bytes(*bytes.get(3..)?.first_chunk()?))
    }

    /// The claimed header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Associated data, nonce, and ciphertext with tag, once: the header alone stays. It is left where it is because whoever copied
    /// it so soon after it was written would wait for that.
    pub(crate) fn take_parts(&mut self) -> (&'a [u8], [u8; 12], &'a mut [u8]) {
        let (head, sealed) = std::mem::take(&mut self.bytes).split_at_mut(self.layout.header_len());
        let (associated, nonce) = head.split_at(self.layout.associated_len());
        let mut copy = [0; 12];
        copy.copy_from_slice(nonce);
        (associated, copy, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(layout: Layout, payload: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        header().encode(layout, &mut bytes);
        bytes.resize(layout.min_len() + payload, 0xab);
        bytes
    }

    fn header() -> Header {
        Header {
            packet_type: PacketType::TDF,
            flags: Flags(0xd003),
            key_id: KeyId::from_le_bytes([1, 2, 3]),
            device_id: DeviceId(0x0123_4567_89ab_cdef),
            gps_time: 0x1122_3344,
            sequence: 0x5566,
            entropy: 0x7788,
        }
    }

    #[test]
    fn both_layouts_round_trip() {
        for layout in [Layout::Unversioned, Layout::Versioned] {
            let mut bytes = bytes(layout, 5);
            let expected = bytes.clone();
            let mut frame = Frame::parse(&mut bytes, layout).unwrap();
            assert_eq!(*frame.header(), header());
            if layout == Layout::Unversioned {
                assert_eq!(Frame::claimed_device(&expected), Some(header().device_id));
                assert_eq!(Frame::claimed_device(&expected[..13]), None);
                assert_eq!(Frame::claimed_level(&expected), Some(header().level()));
                assert_eq!(Frame::claimed_level(&expected[..2]), None);
                assert_eq!(Frame::claimed_key_id(&expected), Some(header().key_id));
                assert_eq!(Frame::claimed_key_id(&expected[..5]), None);
            }
            assert_eq!(frame.header().rotation(), 0x1122_3344 / 86_400);
            let (associated, nonce, sealed) = frame.take_parts();
            assert_eq!([associated, &nonce[..], sealed].concat(), expected);
        }
    }

    #[test]
    fn the_halves_of_the_device_id_are_each_little_endian_upper_half_first() {
        let bytes = bytes(Layout::Unversioned, 0);
        assert_eq!(bytes[6..14], [0x67, 0x45, 0x23, 0x01, 0xef, 0xcd, 0xab, 0x89]);
    }

    #[test]
    fn lengths_are_bounded_on_both_sides() {
        for layout in [Layout::Unversioned, Layout::Versioned] {
            let min = layout.min_len();
            for len in 0..min {
                let short = Frame::parse(&mut vec![0; len], layout).map(|_| ());
                assert_eq!(short, Err(FrameError::Short { len, min }));
            }
            assert!(Frame::parse(&mut vec![0; min], layout).is_ok());
            assert!(Frame::parse(&mut vec![0; 2048], layout).is_ok());
            let long = Frame::parse(&mut vec![0; 2049], layout).map(|_| ());
            assert_eq!(long, Err(FrameError::Oversize { len: 2049 }));
        }
        assert_eq!(Layout::Unversioned.min_len(), 38);
    }

    #[test]
    fn a_versioned_frame_of_another_version_is_refused() {
        let mut bytes = bytes(Layout::Versioned, 1);
        bytes[0] = 1;
        assert_eq!(Frame::parse(&mut bytes, Layout::Versioned).map(|_| ()), Err(FrameError::Version(1)));
    }
}
