//! Containers: packets of other devices that a relay passes on (docs/protocol.md, containers).
//!
//! A container is the plaintext of a RECEIVED_EPACKET. Its entries have a length each, so a reader can step over one it
//! cannot use; what is inside an entry is not looked at here.

use std::fmt;

use super::Reader;
use super::frame::{Flags, Header, PacketType};
use crate::id::{DeviceId, KeyId};

/// Bytes in front of every entry: length, signal strength, interface.
const COMMON_LEN: usize = 4;
/// Type and six address bytes.
const ADDRESS_LEN: usize = 7;
/// The header fields of an entry that the relay decrypted.
const OPENED_LEN: usize = 20;
/// In the length field: the entry is still encrypted.
const SEALED: u16 = 0x8000;
/// The length field has 15 bits.
const MAX_ENTRY: usize = 0x7fff;

/// The interface on which a relay heard a packet (docs/protocol.md, interfaces).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteInterface {
    /// A serial line.
    Serial,
    /// UDP.
    Udp,
    /// Bluetooth advertisements.
    BtAdv,
    /// A Bluetooth connection that the other side opened.
    BtPeripheral,
    /// A Bluetooth connection that the relay opened.
    BtCentral,
    /// Bluetooth controller commands.
    Hci,
    /// Any other id.
    Unknown(u8),
}

impl RouteInterface {
    /// From the byte of the wire. Every byte has exactly one meaning.
    pub const fn from_id(id: u8) -> Self {
        match id {
            0 => Self::Serial,
            1 => Self::Udp,
            2 => Self::BtAdv,
            3 => Self::BtPeripheral,
            4 => Self::BtCentral,
            10 => Self::Hci,
            _ => Self::Unknown(id),
        }
    }

    /// The byte of the wire.
    pub const fn id(self) -> u8 {
        match self {
            Self::Serial => 0,
            Self::Udp => 1,
            Self::BtAdv => 2,
            Self::BtPeripheral => 3,
            Self::BtCentral => 4,
            Self::Hci => 10,
            Self::Unknown(id) => id,
        }
    }

    /// The name in every text: the route names of the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Udp => "udp",
            Self::BtAdv => "bt_adv",
            Self::BtPeripheral => "bt_peripheral",
            Self::BtCentral => "bt_central",
            Self::Hci => "hci",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Whether packets of other devices are heard on it, each with a Bluetooth address. An entry of any other interface
    /// has no address, and there is no key to open it with.
    pub const fn is_bluetooth(self) -> bool {
        matches!(self, Self::BtAdv | Self::BtPeripheral | Self::BtCentral)
    }
}

/// A Bluetooth address. Displays as the text of the API: most significant byte first, `c0:ff:ee:12:34:56`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BtAddress {
    /// 0 public, 1 random; others may appear and have no name.
    pub kind: u8,
    /// The address as on the wire, least significant byte first.
    pub bytes: [u8; 6],
}

impl BtAddress {
    /// Reads type and address.
    pub const fn from_wire(wire: [u8; ADDRESS_LEN]) -> Self {
        let [kind, a, b, c, d, e, f] = wire;
        Self { kind, bytes: [a, b, c, d, e, f] }
    }

    /// The seven bytes of the wire.
    pub const fn to_wire(self) -> [u8; ADDRESS_LEN] {
        let [a, b, c, d, e, f] = self.bytes;
        [self.kind, a, b, c, d, e, f]
    }

    /// The type in every text: `public`, `random`, otherwise `unknown`.
    pub const fn kind_name(self) -> &'static str {
        match self.kind {
            0 => "public",
            1 => "random",
            _ => "unknown",
        }
    }
}

impl fmt::Display for BtAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, last] = self.bytes;
        write!(f, "{last:02x}:{e:02x}:{d:02x}:{c:02x}:{b:02x}:{a:02x}")
    }
}

/// One packet that the relay heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where the relay heard it.
    pub interface: RouteInterface,
    /// The sender's Bluetooth address; present exactly on Bluetooth interfaces.
    pub bt: Option<BtAddress>,
    /// Signal strength in dBm, -255 to 0; 0 also stands for unknown.
    pub rssi_dbm: i16,
    /// The packet.
    pub content: Content<'a>,
}

/// A packet inside a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Still encrypted: all bytes of a versioned frame, of any length and not looked at.
    Sealed(&'a [u8]),
    /// Decrypted by the relay, which is all that vouches for it.
    Opened {
        /// The header. Its entropy was lost on the way and is 0 here.
        header: Header,
        /// The plaintext.
        payload: &'a [u8],
    },
}

/// Why the rest of a container cannot be read. The entries before it stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// Bytes are left, but not the 4 in front of every entry.
    #[error("{left} bytes after the last entry, fewer than the {COMMON_LEN} of another")]
    Trailing {
        /// Bytes left.
        left: usize,
    },
    /// The length of an entry does not even cover its own front.
    #[error("entry of {len} bytes, fewer than {COMMON_LEN}")]
    Length {
        /// The length given.
        len: usize,
    },
    /// An entry is longer than what is left.
    #[error("entry of {len} bytes, but only {left} are left")]
    PastEnd {
        /// The length given.
        len: usize,
        /// Bytes left, the entry's front included.
        left: usize,
    },
    /// An entry of a Bluetooth interface ends inside its address.
    #[error("entry ends inside its Bluetooth address")]
    Address,
    /// An entry that the relay decrypted ends inside its header.
    #[error("decrypted entry ends inside its header")]
    Header,
}

/// Why an entry has no wire form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A Bluetooth interface without an address, or another one with it.
    #[error("an entry has a Bluetooth address exactly if its interface is a Bluetooth one")]
    Address,
    /// More than 15 bits of length.
    #[error("entry of {0} bytes, more than {MAX_ENTRY}")]
    Oversize(usize),
}

impl<'a> Entry<'a> {
    /// Reads what follows the front of an entry.
    fn parse(sealed: bool, rssi: u8, interface: RouteInterface, mut body: Reader<'a>) -> Result<Self, ContainerError> {
        let bt = if interface.is_bluetooth() {
            Some(BtAddress::from_wire(body.array().ok_or(ContainerError::Address)?))
        } else {
            None
        };
        let content = if sealed {
            Content::Sealed(body.0)
        } else {
            let header = opened_header(&mut body).ok_or(ContainerError::Header)?;
            Content::Opened { header, payload: body.0 }
        };
        Ok(Self { interface, bt, rssi_dbm: -i16::from(rssi), content })
    }

    /// Appends the entry, as a relay writes it. Signal strengths out of range are written as the nearest in it.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EntryError> {
        if self.interface.is_bluetooth() != self.bt.is_some() {
            return Err(EntryError::Address);
        }
        let (flag, content_len) = match self.content {
            Content::Sealed(frame) => (SEALED, frame.len()),
            Content::Opened { payload, .. } => (0, OPENED_LEN + payload.len()),
        };
        let len = COMMON_LEN + if self.bt.is_some() { ADDRESS_LEN } else { 0 } + content_len;
        if len > MAX_ENTRY {
            return Err(EntryError::Oversize(len));
        }
        out.extend_from_slice(&(len as u16 | flag).to_le_bytes());
        out.push((-self.rssi_dbm.clamp(-255, 0)) as u8);
        out.push(self.interface.id());
        if let Some(bt) = self.bt {
            out.extend_from_slice(&bt.to_wire());
        }
        match self.content {
            Content::Sealed(frame) => out.extend_from_slice(frame),
            Content::Opened { header, payload } => {
                encode_opened_header(&header, out);
                out.extend_from_slice(payload);
            }
        }
        Ok(())
    }
}

/// A container in the making: entries back to back, as many as fit.
#[derive(Clone, Debug)]
pub struct Packer {
    payload: Vec<u8>,
    limit: usize,
    entries: usize,
}

impl Packer {
    /// An empty container of at most `limit` bytes: what the relay may send, less header and tag.
    pub const fn new(limit: usize) -> Self {
        Self { payload: Vec::new(), limit, entries: 0 }
    }

    /// Appends an entry. False if there is no room for it, and then nothing is appended.
    ///
    /// # Errors
    /// The entry has no wire form.
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<bool, EntryError> {
        let before = self.payload.len();
        entry.encode(&mut self.payload)?;
        let fits = self.payload.len() <= self.limit;
        if fits {
            self.entries += 1;
        } else {
            self.payload.truncate(before);
        }
        Ok(fits)
    }

    /// How many entries were appended.
    pub const fn entries(&self) -> usize {
        self.entries
    }

    /// The plaintext of the RECEIVED_EPACKET.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// The entries of a container, in order. Ends at the end of the payload, or after the first fault.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: Reader<'a>,
}

/// Reads the plaintext of a RECEIVED_EPACKET. Nothing is read ahead; an empty payload has no entries.
pub const fn entries(payload: &[u8]) -> Entries<'_> {
    Entries { rest: Reader(payload) }
}

impl<'a> Entries<'a> {
    /// The bytes not read yet; none after a fault.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest.0
    }

    fn read(&mut self) -> Result<Entry<'a>, ContainerError> {
        let left = self.rest.remaining();
        let [low, high, rssi, interface] = self.rest.array().ok_or(ContainerError::Trailing { left })?;
        let field = u16::from_le_bytes([low, high]);
        let len = usize::from(field & !SEALED);
        let body_len = len.checked_sub(COMMON_LEN).ok_or(ContainerError::Length { len })?;
        let body = self.rest.bytes(body_len).ok_or(ContainerError::PastEnd { len, left })?;
        Entry::parse(field & SEALED != 0, rssi, RouteInterface::from_id(interface), Reader(body))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, ContainerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.remaining() == 0 {
            return None;
        }
        let entry = self.read();
        if entry.is_err() {
            self.rest = Reader(&[]);
        }
        Some(entry)
    }
}

impl std::iter::FusedIterator for Entries<'_> {}

fn opened_header(from: &mut Reader<'_>) -> Option<Header> {
    let device_id = DeviceId(from.u64()?);
    let gps_time = from.u32()?;
    let packet_type = PacketType(from.u8()?);
    let flags = Flags(from.u16()?);
    let sequence = from.u16()?;
    let key_id = KeyId::from_le_bytes(from.array()?);
    Some(Header { packet_type, flags, key_id, device_id, gps_time, sequence, entropy: 0 })
}

fn encode_opened_header(header: &Header, out: &mut Vec<u8>) {
    out.extend_from_slice(&header.device_id.0.to_le_bytes());
    out.extend_from_slice(&header.gps_time.to_le_bytes());
    out.push(header.packet_type.0);
    out.extend_from_slice(&header.flags.0.to_le_bytes());
    out.extend_from_slice(&header.sequence.to_le_bytes());
    out.extend_from_slice(&header.key_id.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const BT: BtAddress = BtAddress { kind: 1, bytes: [0x56, 0x34, 0x12, 0xee, 0xff, 0xc0] };

    fn opened(interface: RouteInterface) -> Entry<'static> {
        let header = Header {
            packet_type: PacketType::TDF,
            flags: Flags(Flags::DEVICE_KEY),
            key_id: KeyId::from_le_bytes([1, 2, 3]),
            device_id: DeviceId(0x0102_0304_0506_0708),
            gps_time: 0x1122_3344,
            sequence: 0x5566,
            entropy: 0,
        };
        let bt = interface.is_bluetooth().then_some(BT);
        Entry { interface, bt, rssi_dbm: -70, content: Content::Opened { header, payload: b"abc" } }
    }

    fn sealed(frame: &[u8]) -> Entry<'_> {
        Entry { content: Content::Sealed(frame), ..opened(RouteInterface::BtAdv) }
    }

    fn encoded(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        for entry in entries {
            entry.encode(&mut out).unwrap();
        }
        out
    }

    fn read(payload: &[u8]) -> Vec<Result<Entry<'_>, ContainerError>> {
        entries(payload).collect()
    }

    #[test]
    fn entries_of_every_interface_round_trip_side_by_side() {
        let all: Vec<_> =
            (0..=255).map(|id| opened(RouteInterface::from_id(id))).chain([sealed(b""), sealed(b"xyz")]).collect();
        let payload = encoded(&all);
        assert_eq!(read(&payload), all.into_iter().map(Ok).collect::<Vec<_>>());
    }

    #[test]
    fn the_fields_of_a_decrypted_entry_lie_where_the_protocol_says() {
        let expected = [
            &[34, 0, 70, 4, 1, 0x56, 0x34, 0x12, 0xee, 0xff, 0xc0, 8, 7, 6, 5, 4, 3, 2, 1][..],
            &[0x44, 0x33, 0x22, 0x11, 2, 0, 0x80, 0x66, 0x55, 1, 2, 3],
            b"abc",
        ];
        assert_eq!(encoded(&[opened(RouteInterface::BtCentral)]), expected.concat());
        assert_eq!(encoded(&[sealed(b"x")])[..2], [12, 0x80]);
    }

    #[test]
    fn every_interface_id_has_one_name_and_comes_back() {
        for id in 0..=255 {
            assert_eq!(RouteInterface::from_id(id).id(), id);
        }
        let names = [0, 1, 2, 3, 4, 5, 10, 255].map(|id| RouteInterface::from_id(id).name());
        assert_eq!(names, ["serial", "udp", "bt_adv", "bt_peripheral", "bt_central", "unknown", "hci", "unknown"]);
    }

    #[test]
    fn what_is_left_begins_at_the_next_entry_and_is_nothing_after_a_fault() {
        let payload = [encoded(&[sealed(b"ab"), sealed(b"cde")]), vec![1]].concat();
        let mut entries = entries(&payload);
        let mut left = vec![entries.rest().len()];
        while entries.next().is_some() {
            left.push(entries.rest().len());
        }
        assert_eq!(left, [28, 15, 1, 0]);
    }

    #[test]
    fn a_bluetooth_address_reads_most_significant_byte_first() {
        assert_eq!(BT.to_string(), "c0:ff:ee:12:34:56");
        let named = |kind| BtAddress { kind, ..BT }.kind_name();
        assert_eq!([0, 1, 2, 255].map(named), ["public", "random", "unknown", "unknown"]);
        assert_eq!(BtAddress::from_wire(BT.to_wire()), BT);
    }

    #[test]
    fn a_fault_ends_the_container_and_what_came_before_stands() {
        use ContainerError::{Address, Header, Length, PastEnd, Trailing};
        let good = sealed(b"frame");
        for (tail, fault) in [
            (&[1][..], Trailing { left: 1 }),
            (&[1, 2, 3], Trailing { left: 3 }),
            (&[0, 0, 0, 2, 9, 9], Length { len: 0 }),
            (&[3, 0x80, 0, 2, 9, 9], Length { len: 3 }),
            (&[7, 0x80, 0, 0, 9, 9], PastEnd { len: 7, left: 6 }),
            (&[0xff, 0x7f, 0, 0], PastEnd { len: 0x7fff, left: 4 }),
            (&[10, 0x80, 0, 2, 1, 2, 3, 4, 5, 6], Address),
            (&[4, 0, 0, 2], Address),
            (&[4, 0, 0, 0], Header),
            (&[11, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7], Header),
        ] {
            let payload = [encoded(&[good]), tail.to_vec()].concat();
            assert_eq!(read(&payload), [Ok(good), Err(fault)], "{tail:?}");
        }
        assert_eq!(read(&[]), []);
    }

    #[test]
    fn signal_strength_is_negated_and_clamped() {
        for (given, read_back) in [(0, 0), (-1, -1), (-255, -255), (-256, -255), (20, 0), (i16::MIN, -255)] {
            let payload = encoded(&[Entry { rssi_dbm: given, ..sealed(b"") }]);
            assert_eq!(read(&payload)[0].unwrap().rssi_dbm, read_back, "{given}");
        }
    }

    #[test]
    fn a_packer_takes_entries_up_to_its_limit_to_the_byte_and_leaves_out_what_does_not_fit() {
        let all = [opened(RouteInterface::BtAdv), sealed(b"frame"), sealed(b"another frame"), sealed(b"")];
        let len = |entries: &[Entry<'_>]| encoded(entries).len();
        let mut packer = Packer::new(len(&[all[0], all[1], all[3]]));
        assert_eq!(all.map(|entry| packer.push(&entry)), [Ok(true), Ok(true), Ok(false), Ok(true)]);
        assert_eq!((packer.entries(), packer.payload().len()), (3, packer.limit));
        assert_eq!(read(packer.payload()), [all[0], all[1], all[3]].map(Ok));
        assert_eq!(packer.push(&Entry { bt: None, ..all[0] }), Err(EntryError::Address));
        assert_eq!(packer.payload().len(), packer.limit, "what has no wire form leaves no trace");
        let mut tight = Packer::new(len(&all[..1]) - 1);
        assert_eq!((tight.push(&all[0]), tight.payload()), (Ok(false), &[][..]));
    }

    #[test]
    fn an_entry_without_wire_form_is_refused_and_writes_nothing() {
        let mut out = Vec::new();
        assert_eq!(Entry { bt: None, ..sealed(b"") }.encode(&mut out), Err(EntryError::Address));
        assert_eq!(Entry { bt: Some(BT), ..opened(RouteInterface::Hci) }.encode(&mut out), Err(EntryError::Address));
        let longest = vec![0; MAX_ENTRY - COMMON_LEN - ADDRESS_LEN];
        assert_eq!(sealed(&[&longest[..], &[0]].concat()).encode(&mut out), Err(EntryError::Oversize(0x8000)));
        assert!(out.is_empty());
        assert_eq!(read(&encoded(&[sealed(&longest)])), [Ok(sealed(&longest))]);
    }
}
