//! Datagrams from the bytes of an input. They are sealed with keys the gateway knows, so that the fuzzer gets past
//! authentication; so are the entries of containers.

use lastroute::auth::keys::{DayKey, Interface, RootKey};
use lastroute::auth::{open_with, seal_with};
use lastroute::id::{DeviceId, KeyId};
use lastroute::ingest::pipeline::Core;
use lastroute::table::rules::NO_TIME_START;
use lastroute::wire::container::{BtAddress, Content, Entry, RouteInterface};
use lastroute::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};

pub(super) const NETWORK: KeyId = KeyId::from_le_bytes([1, 0, 0]);
pub(super) const DEVICE_KEY: KeyId = KeyId::from_le_bytes([2, 0, 0]);
const STRANGE: KeyId = KeyId::from_le_bytes([3, 0, 0]);
/// Devices 0 to 7. Registered: 0 and 4. With a device key: 0 to 2, where the key id of 2 is not known at first.
pub(super) const DEVICES: usize = 8;

/// A packet as the input describes it: 12 bytes, of which the last two are the length of the body, then the body. An ECHO_RSP
/// without one echoes the last challenge.
pub(super) struct Draft<'a> {
    /// Of a datagram: source, and time since the one before. Of a container's entry: interface and signal strength.
    pub(super) around: [u8; 2],
    /// Bits 0 and 1: how the body is made a datagram or an entry. Bit 2: with the entropy of an own downlink.
    how: u8,
    header: Header,
    body: &'a [u8],
}

impl<'a> Draft<'a> {
    pub(super) fn next(input: &mut &'a [u8], now: u32) -> Option<Self> {
        let (front, rest) = input.split_first_chunk()?;
        let [a, b, how, packet_type, flags, device, time, offset, low, high, len_low, len_high] = *front;
        let (body, rest) = rest.split_at(usize::from(u16::from_le_bytes([len_low, len_high])).min(rest.len()));
        *input = rest;
        let flags = Flags(u16::from(flags & 0xfc) << 8 | u16::from(flags & 3));
        let header = Header {
            packet_type: PacketType(packet_type),
            flags,
            key_id: match flags.level() {
                _ if device & 0x80 != 0 => STRANGE,
                Level::Network => NETWORK,
                Level::Device => DEVICE_KEY,
            },
            device_id: DeviceId(u64::from(device) % DEVICES as u64),
            gps_time: match time % 8 {
                0 => 0,
                1 => NO_TIME_START + u32::from(offset),
                2 => now - 43_200 + u32::from(offset),
                3 => now + 43_200 + u32::from(offset),
                4 => u32::from(offset) << 24,
                5 => now - 301 + u32::from(offset),
                6 => now + 121 - u32::from(offset),
                _ => now,
            },
            sequence: u16::from_le_bytes([low, high]),
            entropy: u16::from(how >> 3),
        };
        Some(Self { around: [a, b], how, header, body })
    }

    pub(super) fn datagram(self, core: &Core, now: u32, earlier: &[Vec<u8>], cookie: &[u8]) -> Vec<u8> {
        let Self { how, mut header, body, .. } = self;
        let Header { device_id, gps_time, sequence, .. } = header;
        if how & 4 != 0 {
            header.entropy = core.nonces.entropy(device_id, gps_time, sequence);
            core.nonces.remember(device_id, gps_time, sequence);
        }
        let body = echoing(&header, body, cookie);
        let mut bytes = Vec::new();
        match how % 4 {
            0 => bytes.extend_from_slice(body),
            1 => seal(&header, Layout::Unversioned, Interface::Udp, body, &mut bytes),
            2 => {
                header.packet_type = PacketType::RECEIVED_EPACKET;
                seal(&header, Layout::Unversioned, Interface::Udp, &container(body, now, cookie), &mut bytes);
            }
            _ => bytes.extend(earlier.get(usize::from(sequence) % earlier.len().max(1)).into_iter().flatten()),
        }
        bytes
    }
}

/// Any bytes as drafts of entries.
fn container(mut input: &[u8], now: u32, cookie: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(Draft { around: [interface, rssi], how, header, body }) = Draft::next(&mut input, now) {
        let interface = RouteInterface::from_id(interface);
        let bt = interface.is_bluetooth().then_some(BtAddress { kind: 0, bytes: [1; 6] });
        let key = if interface == RouteInterface::BtAdv { Interface::BtAdv } else { Interface::BtGatt };
        let body = echoing(&header, body, cookie);
        let mut frame = Vec::new();
        let content = match how % 4 {
            0 => {
                out.extend_from_slice(body);
                continue;
            }
            1 => Content::Opened { header, payload: body },
            2 => {
                seal(&header, Layout::Versioned, key, body, &mut frame);
                Content::Sealed(&frame)
            }
            _ => Content::Sealed(body),
        };
        Entry { interface, bt, rssi_dbm: -i16::from(rssi), content }.encode(&mut out).expect("an entry of a wire form");
    }
    out
}

const fn echoing<'a>(header: &Header, body: &'a [u8], cookie: &'a [u8]) -> &'a [u8] {
    if header.packet_type.0 == PacketType::ECHO_RSP.0 && body.is_empty() { cookie } else { body }
}

fn day_key(header: &Header, interface: Interface) -> DayKey {
    root(header.level(), header.device_id).day_key(interface, header.rotation())
}

pub(super) fn root(level: Level, device_id: DeviceId) -> RootKey {
    RootKey::new([if level == Level::Network { 0xff } else { device_id.0 as u8 }; 32])
}

fn seal(header: &Header, layout: Layout, interface: Interface, payload: &[u8], out: &mut Vec<u8>) {
    seal_with(&day_key(header, interface), header, layout, payload, out);
}

/// Header and payload of what was sealed with the key that the gateway knows by the key id in it, or may know.
pub(super) fn open(bytes: &[u8]) -> Option<(Header, Vec<u8>)> {
    open_from(bytes, Layout::Unversioned, Interface::Udp)
}

/// The same of what went another way.
pub(super) fn open_from(bytes: &[u8], layout: Layout, interface: Interface) -> Option<(Header, Vec<u8>)> {
    let mut copy = bytes.to_vec();
    let frame = Frame::parse(&mut copy, layout).ok()?;
    let Header { key_id, device_id, .. } = *frame.header();
    let known = match frame.header().level() {
        Level::Network => key_id == NETWORK,
        Level::Device => device_id.0 < 2 && key_id == DEVICE_KEY || device_id.0 == 2,
    };
    let opened = open_with(&day_key(frame.header(), interface), frame).filter(|_| known)?;
    Some((*opened.header(), opened.payload().to_vec()))
}
