//! Packet captures: the files are made here, byte by byte.

use etherparse::PacketBuilder;
use lastroute::decode::DecodeArgs;
use lastroute::decode::args::Port;
use proptest::prelude::*;

use crate::{brief, decoded};

/// The first datagram of a recorded device: KEY_IDS of network 0x000a17 at network level.
const DATAGRAM: &str = "7f0000170a00000000d00110000092a3364b00002fc31fca2eff4c14d75bfcc4e214c9ca51dd6bd241";
/// When it was captured.
const SECONDS: u32 = 1_795_404_183;

fn datagram() -> Vec<u8> {
    hex::decode(DATAGRAM).unwrap()
}

fn ipv4(from_port: u16, to_port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(from_port, to_port);
    builder.write(&mut packet, &datagram()).unwrap();
    packet
}

fn ethernet(vlan: bool, ip: &[u8]) -> Vec<u8> {
    let tag: &[u8] = if vlan { &[0x81, 0, 0, 7] } else { &[] };
    let ether_type = if ip[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
    [&[2; 12][..], tag, &ether_type, ip].concat()
}

/// Writes numbers in one byte order.
#[derive(Clone, Copy, Debug)]
struct Order {
    big: bool,
}

const BOTH: [Order; 2] = [Order { big: false }, Order { big: true }];

impl Order {
    fn u16(self, number: u16) -> Vec<u8> {
        if self.big { number.to_be_bytes() } else { number.to_le_bytes() }.to_vec()
    }

    fn u32(self, number: u32) -> Vec<u8> {
        if self.big { number.to_be_bytes() } else { number.to_le_bytes() }.to_vec()
    }

    fn pcap_header(self, nanoseconds: bool, link_type: u32) -> Vec<u8> {
        let magic = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        let version = [self.u16(2), self.u16(4)].concat();
        [self.u32(magic), version, self.u32(0), self.u32(0), self.u32(65_535), self.u32(link_type)].concat()
    }

    fn pcap_packet(self, fraction: u32, frame: &[u8], sent: usize) -> Vec<u8> {
        let lengths = [self.u32(frame.len() as u32), self.u32(sent as u32)].concat();
        [self.u32(SECONDS), self.u32(fraction), lengths, frame.to_vec()].concat()
    }

    /// A block of pcapng with its length at both ends.
    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
        let length = self.u32((body.len() + padding.len() + 12) as u32);
        [self.u32(kind), length.clone(), body.to_vec(), padding, length].concat()
    }

    fn section(self) -> Vec<u8> {
        // A comment makes the block longer than what a reader looks at first.
        let comment = [self.u16(1), self.u16(40), vec![b'x'; 40], self.u16(0), self.u16(0)].concat();
        let versions = [self.u32(0x1a2b_3c4d), self.u16(1), self.u16(0), vec![0xff; 8]].concat();
        self.block(0x0a0d_0d0a, &[versions, comment].concat())
    }

    fn interface(self, link_type: u16, options: &[u8]) -> Vec<u8> {
        self.block(1, &[&self.u16(link_type), &self.u16(0), &self.u32(0)[..], options].concat())
    }

    /// The option that says how many units of time a second has.
    fn resolution(self, resolution: u8) -> Vec<u8> {
        [self.u16(9), self.u16(1), vec![resolution, 0, 0, 0], self.u16(0), self.u16(0)].concat()
    }

    fn packet(self, interface: u32, units: u64, frame: &[u8]) -> Vec<u8> {
        let time = [self.u32((units >> 32) as u32), self.u32(units as u32)].concat();
        let length = self.u32(frame.len() as u32);
        self.block(6, &[self.u32(interface), time, length.clone(), length, frame.to_vec()].concat())
    }
}

fn capture(order: Order, link_type: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let packets = frames.iter().map(|frame| order.pcap_packet(222_000, frame, frame.len()));
    [order.pcap_header(false, link_type)].into_iter().chain(packets).collect::<Vec<_>>().concat()
}

#[test]
fn pcap_files_of_either_order_and_precision_give_datagram_source_and_time() {
    for order in BOTH {
        for (nanoseconds, fraction) in [(false, 222_000), (true, 222_000_000)] {
            let frame = ethernet(false, &ipv4(6200, 3001));
            let packet = order.pcap_packet(fraction, &frame, frame.len());
            let ran = decoded(&[order.pcap_header(nanoseconds, 1), packet].concat(), DecodeArgs::default());
            assert_eq!((ran.error, ran.warnings), (None, vec![]), "{order:?}");
            let said = "datagram 1, input: packet 1, 2026-11-23T03:23:03.222Z, up from 192.0.2.1:6200 to 192.0.2.2:3001, 41 bytes";
            assert_eq!(ran.out.lines().next(), Some(said), "{order:?}");
            assert!(ran.out.contains("noTime: the sender has no clock yet"), "{}", ran.out);
        }
    }
}

#[test]
fn pcapng_files_of_either_order_with_several_interfaces_and_sections_are_read() {
    for order in BOTH {
        let first = [
            order.section(),
            order.interface(1, &[]),
            order.interface(101, &order.resolution(9)),
            // A kind of block that nobody knows, and a packet without time.
            order.block(0x7777, &[1, 2, 3, 4]),
            order.packet(0, u64::from(SECONDS) * 1_000_000 + 222_000, &ethernet(true, &ipv4(6200, 3001))),
            order.packet(1, u64::from(SECONDS) * 1_000_000_000 + 222_000_000, &ipv4(3001, 6200)),
            order.block(3, &[order.u32(83), ethernet(false, &ipv4(6200, 3001))].concat()),
        ];
        let other = Order { big: !order.big };
        let units = (u64::from(SECONDS) << 10) + 512;
        let second =
            [other.section(), other.interface(101, &other.resolution(0x8a)), other.packet(0, units, &ipv4(7, 3001))];
        let ran = decoded(&[first.concat(), second.concat()].concat(), brief());
        assert_eq!((ran.error.as_deref(), ran.warnings.len()), (None, 0), "{order:?}");
        let words: Vec<Vec<_>> =
            ran.lines().iter().map(|line| line.split_whitespace().skip(1).take(3).collect()).collect();
        assert_eq!(words[0], ["2026-11-23T03:23:03.222Z", "up", "192.0.2.1:6200"], "{order:?}");
        assert_eq!(words[1], ["2026-11-23T03:23:03.222Z", "down", "192.0.2.1:3001"], "{order:?}");
        assert_eq!(words[2], ["2026-11-23T02:13:21.000Z", "up", "192.0.2.1:6200"], "judged now, {order:?}");
        assert_eq!(words[3], ["2026-11-23T03:23:03.500Z", "up", "192.0.2.1:7"], "{order:?}");
    }
}

#[test]
fn ipv6_and_linux_cooked_captures_are_read() {
    let mut ipv6 = Vec::new();
    PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(6200, 3001).write(&mut ipv6, &datagram()).unwrap();
    let cooked = [&[0; 14][..], &[0x86, 0xdd], &ipv6].concat();
    for (link_type, frame) in [(1, ethernet(false, &ipv6)), (113, cooked)] {
        let ran = decoded(&capture(BOTH[0], link_type, &[frame]), DecodeArgs::default());
        assert!(ran.out.contains("up from [101:101:101:101:101:101:101:101]:6200 to [202:"), "{}", ran.out);
    }
}

#[test]
fn the_port_selects_and_says_the_direction() {
    let frames = [ipv4(6200, 3001), ipv4(3001, 6200), ipv4(1, 2)];
    let bytes = capture(BOTH[0], 101, &frames);
    let directions = |port| {
        let ran = decoded(&bytes, DecodeArgs { port, ..brief() });
        ran.lines().iter().map(|line| line.split_whitespace().nth(2).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(directions(None), ["up", "down"]);
    assert_eq!(directions(Some(Port::Only(2))), ["up"]);
    assert_eq!(directions(Some(Port::Any)), ["up", "down", "up"]);
    let none = decoded(&bytes, DecodeArgs { port: Some(Port::Only(9)), ..brief() });
    assert_eq!(none.out, "");
    assert_eq!(none.warnings, ["input: none of 3 packets is a datagram from or to port 9; --port any takes all"]);
}

#[test]
fn a_datagram_that_was_not_captured_whole_is_explained_as_far_as_it_goes() {
    let frame = ethernet(false, &ipv4(6200, 3001));
    let kept = &frame[..frame.len() - 10];
    let bytes = [BOTH[0].pcap_header(false, 1), BOTH[0].pcap_packet(0, kept, frame.len())].concat();
    let ran = decoded(&bytes, DecodeArgs::default());
    assert!(ran.out.contains("31 bytes of 41"), "{}", ran.out);
    assert!(ran.out.contains("device_id          d000000000001001"), "{}", ran.out);
    assert!(ran.out.contains("verdict: not decided\n    The capture holds 31 of its 41 bytes"), "{}", ran.out);
}

#[test]
fn fragments_are_said_to_be_fragments() {
    let (mut first, mut later) = (ipv4(6200, 3001), ipv4(6200, 3001));
    first[6] = 0x20;
    later[7] = 10;
    let ran = decoded(&capture(BOTH[0], 101, &[first, later]), brief());
    assert_eq!(
        ran.lines(),
        [
            "input: packet 1: a datagram from 192.0.2.1:6200 to 192.0.2.2:3001 in several fragments, which are not put together"
        ]
    );
    assert_eq!(ran.warnings, ["input: later fragments, which name no port and are left out: 1"]);
}

#[test]
fn a_capture_that_ends_early_is_explained_up_to_there() {
    let bytes = capture(BOTH[0], 101, &[ipv4(6200, 3001), ipv4(6200, 3001)]);
    let whole = bytes.len();
    let packet = 16 + ipv4(6200, 3001).len();
    for cut in [1, 10, packet - 1] {
        let ran = decoded(&bytes[..whole - cut], brief());
        assert_eq!(ran.lines().len(), 1, "{cut}");
        let at = 24 + packet;
        let error = format!(
            "input: packet 2, at byte {at} of the file: it is cut off by the end of the file; capture again, or mend it (for \
             example with editcap)"
        );
        assert_eq!(ran.error, Some(error), "{cut}");
    }
    assert_eq!(decoded(&bytes[..whole - packet], brief()).error, None, "between two packets");
    let error =
        "input: the header of the capture is damaged or cut; capture again, or mend it (for example with editcap)";
    assert_eq!(decoded(&bytes[..20], brief()).error.as_deref(), Some(error));
}

#[test]
fn damage_is_named_by_its_place() {
    let order = BOTH[0];
    let good = [order.section(), order.interface(101, &[]), order.packet(0, 0, &ipv4(6200, 3001))].concat();
    let at = good.len();
    let bad_length = [order.u32(6), order.u32(13), vec![0; 40]].concat();
    let ran = decoded(&[good, bad_length].concat(), brief());
    assert_eq!(ran.lines().len(), 1);
    let error = ran.error.unwrap();
    assert!(error.starts_with(&format!("input: packet 2, at byte {at} of the file: it is damaged; ")), "{error}");

    let huge = [order.pcap_header(false, 101), order.u32(0), order.u32(0), order.u32(u32::MAX), order.u32(1)].concat();
    let filled = [huge, vec![0; 5 << 20]].concat();
    let error = decoded(&filled, brief()).error.unwrap();
    assert!(error.starts_with("input: packet 1, at byte 24 of the file: it is longer than any packet; "), "{error}");
}

#[test]
fn packets_longer_than_the_first_buffer_are_read() {
    let long = vec![0; 200_000];
    let bytes = capture(BOTH[0], 101, &[long, ipv4(6200, 3001)]);
    let ran = decoded(&bytes, brief());
    assert_eq!((ran.error.as_deref(), ran.lines().len()), (None, 1));
}

#[test]
fn a_link_type_that_is_not_read_is_said() {
    let ran = decoded(&capture(BOTH[0], 147, &[ipv4(6200, 3001)]), brief());
    assert_eq!(ran.out, "");
    assert!(ran.warnings.iter().any(|text| text.starts_with("input: packets of link types that are not read: 1; ")));
}

#[test]
fn a_sequence_of_packets_is_judged_as_a_whole() {
    // The same recorded boot twice, the second time from elsewhere.
    let mut elsewhere = Vec::new();
    let builder = PacketBuilder::ipv4([198, 51, 100, 9], [192, 0, 2, 2], 64).udp(7, 3001);
    builder.write(&mut elsewhere, &datagram()).unwrap();
    let bytes = capture(BOTH[0], 101, &[ipv4(6200, 3001), elsewhere]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("two.pcap");
    std::fs::write(&path, bytes).unwrap();
    let root = hex::decode("a05c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c0f").unwrap();
    let root = lastroute::auth::keys::RootKey::new(root.try_into().unwrap());
    let key = lastroute::decode::Key::Network("000a17".parse().unwrap(), root);
    let knowledge = lastroute::decode::Knowledge { keys: vec![key], ..Default::default() };
    let ran = crate::run(&DecodeArgs { file: vec![path], ..brief() }, knowledge);
    assert!(ran.lines()[0].ends_with("accepted, rule R4.8 unproven, noTime, route first"), "{}", ran.out);
    assert!(ran.lines()[1].ends_with("duplicate, rule R4.1 exact copy, noTime"), "{}", ran.out);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_capture_with_any_byte_changed_never_panics(at in 0..400_usize, byte: u8, big: bool, ng: bool) {
        let order = Order { big };
        let frames = [ethernet(true, &ipv4(6200, 3001)), ethernet(false, &ipv4(3001, 6200))];
        let mut bytes = if ng {
            let packets = frames.iter().flat_map(|frame| order.packet(0, 5, frame)).collect();
            [order.section(), order.interface(1, &order.resolution(9)), packets].concat()
        } else {
            capture(order, 1, &frames)
        };
        let at = at % bytes.len();
        bytes[at] = byte;
        let ran = decoded(&bytes, brief());
        prop_assert!(ran.error.is_none_or(|error| error.starts_with("input")));
    }
}
