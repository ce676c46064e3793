//! Captures: pcap and pcapng files, read packet by packet. What is in a packet is taken apart by `link`.

use std::io::{Cursor, Read};
use std::net::SocketAddr;

use pcap_parser::pcapng::Block;
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{LegacyPcapBlock, PcapBlockOwned, PcapError, create_reader};

use super::args::{GATEWAY_PORT, Port};
use super::input::Sink;
use super::link::{Found, datagram};
use super::{Datagram, DecodeError, Direction, Item};
use crate::clock::Timestamp;

/// Bytes held at first: more than any usual packet.
const BUFFER: usize = 1 << 16;

/// Bytes held at most. The longest packet that capturing tools write is 256 KiB; the rest is for blocks of pcapng that
/// hold no packet.
const LONGEST_BLOCK: usize = 4 << 20;

/// Interfaces that one section of a pcapng file may have. Real ones have a handful.
const MOST_INTERFACES: usize = 1 << 16;

const REMEDY: &str = "capture again, or mend it (for example with editcap)";

/// Whether a file that begins so is a capture.
pub(super) fn is_capture(head: &[u8]) -> bool {
    const PCAP: [u32; 3] = [0xa1b2_c3d4, 0xa1b2_3c4d, 0xa1b2_cd34];
    let Some(magic) = head.first_chunk() else { return false };
    let (little, big) = (u32::from_le_bytes(*magic), u32::from_be_bytes(*magic));
    is_pcapng(head) || PCAP.contains(&little) || PCAP.contains(&big)
}

fn is_pcapng(head: &[u8]) -> bool {
    head.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a])
}

/// Reads a capture to its end.
pub(super) fn read(
    name: &str,
    mut source: impl Read + Send,
    port: Port,
    warnings: &mut Vec<String>,
    sink: &mut Sink<'_>,
) -> Result<(), DecodeError> {
    let front = front(&mut source).map_err(|source| DecodeError::Read { place: name.to_owned(), source })?;
    let mut reader = create_reader(BUFFER, Cursor::new(front).chain(source))
        .map_err(|_| DecodeError::input(name, "the header of the capture is damaged or cut", REMEDY))?;
    let mut packets = Packets { name, port, sink, interfaces: Vec::new(), big_endian: false, tally: Tally::default() };
    let mut capacity = BUFFER;
    loop {
        let held = reader.data().len();
        match step(reader.as_mut(), &mut packets)? {
            Step::Taken(len) => reader.consume(len),
            Step::End => break,
            Step::More => {
                if reader.refill().is_err() {
                    let place = format!("{name}: packet {}", packets.tally.packets + 1);
                    return Err(DecodeError::Read {
                        place,
                        source: std::io::Error::other("the system does not say why"),
                    });
                }
                if reader.data().len() == held && !reader.reader_exhausted() && !grow(reader.as_mut(), &mut capacity) {
                    return Err(packets.damaged(reader.consumed(), "is longer than any packet"));
                }
            }
            Step::Grow => {
                if !grow(reader.as_mut(), &mut capacity) {
                    return Err(packets.damaged(reader.consumed(), "is longer than any packet"));
                }
            }
            Step::Cut => return Err(packets.damaged(reader.consumed(), "is cut off by the end of the file")),
            Step::Damaged => return Err(packets.damaged(reader.consumed(), "is damaged")),
        }
    }
    warnings.extend(packets.tally.warnings(name, port));
    Ok(())
}

/// The bytes that the reader wants to see at once: the header of a pcap file, or the first block of a pcapng file.
fn front(source: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut front = Vec::new();
    source.by_ref().take(24).read_to_end(&mut front)?;
    if let (true, [_, _, _, _, a, b, c, d, order @ ..]) = (is_pcapng(&front), &front[..]) {
        let len = [*a, *b, *c, *d];
        let big_endian = order.starts_with(&[0x1a, 0x2b, 0x3c, 0x4d]);
        let len = if big_endian { u32::from_be_bytes(len) } else { u32::from_le_bytes(len) };
        let more = u64::from(len).saturating_sub(front.len() as u64).min(BUFFER as u64 - 24);
        source.by_ref().take(more).read_to_end(&mut front)?;
    }
    Ok(front)
}

/// What comes next in the file.
enum Step {
    Taken(usize),
    End,
    More,
    Grow,
    Cut,
    Damaged,
}

fn step(reader: &mut dyn PcapReaderIterator, packets: &mut Packets<'_, '_>) -> Result<Step, DecodeError> {
    Ok(match reader.next() {
        Ok((len, block)) => {
            packets.block(&block)?;
            Step::Taken(len)
        }
        Err(PcapError::Eof) => Step::End,
        Err(PcapError::Incomplete(_)) => Step::More,
        Err(PcapError::BufferTooSmall) => Step::Grow,
        Err(PcapError::UnexpectedEof) => Step::Cut,
        Err(_) => Step::Damaged,
    })
}

fn grow(reader: &mut dyn PcapReaderIterator, capacity: &mut usize) -> bool {
    *capacity *= 2;
    *capacity <= LONGEST_BLOCK && reader.grow(*capacity)
}

/// An interface of the file: what its frames and times look like.
#[derive(Clone, Copy)]
struct Interface {
    link_type: u32,
    /// Bytes kept of a packet; 0 for all.
    snap_len: u32,
    /// Units of time in a second; 0 if they are beyond reason.
    resolution: u64,
    /// Seconds to add.
    offset: i64,
}

impl Interface {
    /// The moment of so many units, in milliseconds.
    fn time(&self, units: u64) -> Option<Timestamp> {
        let millis = (u128::from(units) * 1000).checked_div(self.resolution.into())?;
        let millis = i128::try_from(millis).ok()? + i128::from(self.offset) * 1000;
        u64::try_from(millis).ok().map(Timestamp)
    }
}

/// Units in a second by the option of pcapng: a power of ten, or with bit 7 of two.
fn resolution(option: u8) -> u64 {
    let exponent = u32::from(option & 0x7f);
    let base: u64 = if option & 0x80 == 0 { 10 } else { 2 };
    base.checked_pow(exponent).unwrap_or(0)
}

/// The packets of one file.
struct Packets<'a, 'b> {
    name: &'a str,
    port: Port,
    sink: &'a mut Sink<'b>,
    interfaces: Vec<Interface>,
    big_endian: bool,
    tally: Tally,
}

/// What was found in a file.
#[derive(Default)]
struct Tally {
    packets: u64,
    selected: u64,
    later_fragments: u64,
    unknown_links: u64,
}

impl Packets<'_, '_> {
    fn block(&mut self, block: &PcapBlockOwned<'_>) -> Result<(), DecodeError> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let resolution = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
                // The upper bits say whether frames end in a checksum.
                let link_type = header.network.0.cast_unsigned() & 0xffff;
                self.interfaces = vec![Interface { link_type, snap_len: 0, resolution, offset: 0 }];
                Ok(())
            }
            PcapBlockOwned::Legacy(packet) => self.legacy(packet),
            PcapBlockOwned::NG(block) => self.block_of_pcapng(block),
        }
    }

    fn legacy(&mut self, packet: &LegacyPcapBlock<'_>) -> Result<(), DecodeError> {
        let interface = self.interfaces.first().copied();
        let at = interface.and_then(|interface| {
            let units = u64::from(packet.ts_sec).checked_mul(interface.resolution)?;
            interface.time(units.checked_add(packet.ts_usec.into())?)
        });
        self.packet(interface, at, packet.data)
    }

    fn block_of_pcapng(&mut self, block: &Block<'_>) -> Result<(), DecodeError> {
        match block {
            Block::SectionHeader(section) => {
                self.interfaces.clear();
                self.big_endian = section.big_endian();
                Ok(())
            }
            Block::InterfaceDescription(described) if self.interfaces.len() < MOST_INTERFACES => {
                // The parser reads this option as if every file were little-endian.
                let offset = described.if_tsoffset;
                self.interfaces.push(Interface {
                    link_type: described.linktype.0.cast_unsigned() & 0xffff,
                    snap_len: described.snaplen,
                    resolution: resolution(described.if_tsresol),
                    offset: if self.big_endian { offset.swap_bytes() } else { offset },
                });
                Ok(())
            }
            Block::EnhancedPacket(packet) => {
                let interface = usize::try_from(packet.if_id).ok().and_then(|id| self.interfaces.get(id)).copied();
                let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                self.packet(interface, interface.and_then(|interface| interface.time(units)), packet.packet_data())
            }
            Block::SimplePacket(packet) => {
                let interface = self.interfaces.first().copied();
                let snap_len = interface.map_or(0, |interface| interface.snap_len);
                let kept = if snap_len == 0 { packet.origlen } else { packet.origlen.min(snap_len) };
                let data = packet.data.get(..kept as usize).unwrap_or(packet.data);
                self.packet(interface, None, data)
            }
            _ => Ok(()),
        }
    }

    fn packet(&mut self, interface: Option<Interface>, at: Option<Timestamp>, frame: &[u8]) -> Result<(), DecodeError> {
        self.tally.packets += 1;
        let found = interface.map_or(Found::UnknownLink, |interface| datagram(interface.link_type, frame));
        let origin = format!("{}: packet {}", self.name, self.tally.packets);
        match found {
            Found::Udp { from, to, payload, cut_from } => {
                let Some(direction) = self.direction(from, to) else { return Ok(()) };
                self.tally.selected += 1;
                let (from, to) = (Some(from), Some(to));
                let datagram =
                    Datagram { cut_from, direction, from, to, at, ..Datagram::new(origin, payload.to_vec()) };
                (self.sink)(Item::Datagram(Box::new(datagram)))
            }
            Found::FirstFragment { from, to } => {
                if self.direction(from, to).is_none() {
                    return Ok(());
                }
                self.tally.selected += 1;
                let why = format!("a datagram from {from} to {to} in several fragments, which are not put together");
                (self.sink)(Item::Unusable { origin, why })
            }
            Found::LaterFragment => {
                self.tally.later_fragments += 1;
                Ok(())
            }
            Found::UnknownLink => {
                self.tally.unknown_links += 1;
                Ok(())
            }
            Found::Other => Ok(()),
        }
    }

    /// Which way a datagram travels; `None` if it is not wanted.
    fn direction(&self, from: SocketAddr, to: SocketAddr) -> Option<Direction> {
        let (gateway, any) = match self.port {
            Port::Only(port) => (port, false),
            Port::Any => (GATEWAY_PORT, true),
        };
        if to.port() == gateway {
            Some(Direction::Up)
        } else if from.port() == gateway {
            Some(Direction::Down)
        } else {
            any.then_some(Direction::Up)
        }
    }

    fn damaged(&self, at: usize, how: &str) -> DecodeError {
        let place = format!("{}: packet {}, at byte {at} of the file", self.name, self.tally.packets + 1);
        DecodeError::input(place, format!("it {how}"), REMEDY)
    }
}

impl Tally {
    /// What was left out that a reader might look for.
    fn warnings(&self, name: &str, port: Port) -> Vec<String> {
        let Self { packets, selected, later_fragments, unknown_links } = self;
        let mut warnings = Vec::new();
        if let (0, Port::Only(port)) = (*selected, port) {
            let text = format!("{name}: none of {packets} packets is a datagram from or to port {port}");
            warnings.push(format!("{text}; --port any takes all"));
        }
        if *unknown_links > 0 {
            let text = format!("{name}: packets of link types that are not read: {unknown_links}");
            warnings.push(format!("{text}; capture on Ethernet, Linux `any`, loopback or raw IP"));
        }
        if *later_fragments > 0 {
            warnings.push(format!("{name}: later fragments, which name no port and are left out: {later_fragments}"));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_every_resolution_are_milliseconds() {
        let time = |option, offset, units| {
            Interface { link_type: 1, snap_len: 0, resolution: resolution(option), offset }.time(units)
        };
        assert_eq!(time(6, 0, 1_795_400_001_234_567), Some(Timestamp(1_795_400_001_234)));
        assert_eq!(time(9, 10, 1_500_000_000), Some(Timestamp(11_500)));
        assert_eq!(time(0x80 | 10, -1, 3 * 1024 + 512), Some(Timestamp(2500)));
        assert_eq!(time(0, -10, 5), None);
        assert_eq!((time(20, 0, 5), time(0xff, 0, 5)), (None, None));
    }
}
