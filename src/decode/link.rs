//! The UDP datagram in a captured link-layer frame, if there is one.

use std::net::{IpAddr, SocketAddr};

use etherparse::err::ip::LaxHeaderSliceError;
use etherparse::{EtherType, IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice, UdpHeader, UdpHeaderSlice};

/// What a captured frame holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A datagram.
    Udp {
        from: SocketAddr,
        to: SocketAddr,
        payload: &'a [u8],
        /// How long the payload was, where the capture holds less.
        cut_from: Option<usize>,
    },
    /// The first piece of a datagram that was sent in several.
    FirstFragment { from: SocketAddr, to: SocketAddr },
    /// Another piece, which names no ports.
    LaterFragment,
    /// Something else.
    Other,
    /// A frame of a kind that is not read.
    UnknownLink,
}

/// Link types as in <https://www.tcpdump.org/linktypes.html>.
mod link_type {
    pub(super) const NULL: u32 = 0;
    pub(super) const ETHERNET: u32 = 1;
    /// Raw IP, as some systems number it.
    pub(super) const RAW_BSD: [u32; 2] = [12, 14];
    pub(super) const RAW: u32 = 101;
    pub(super) const LOOP: u32 = 108;
    pub(super) const LINUX_SLL: u32 = 113;
    pub(super) const IPV4: u32 = 228;
    pub(super) const IPV6: u32 = 229;
    pub(super) const LINUX_SLL2: u32 = 276;
}

/// Takes a frame of a link type apart.
pub(super) fn datagram(link_type: u32, frame: &[u8]) -> Found<'_> {
    let ip = |bytes| LaxSlicedPacket::from_ip(bytes).map_err(|_: LaxHeaderSliceError| ());
    let ether = |bytes: Option<(u16, usize)>| {
        let (ether_type, at) = bytes.ok_or(())?;
        Ok(LaxSlicedPacket::from_ether_type(EtherType(ether_type), frame.get(at..).ok_or(())?))
    };
    let packet = match link_type {
        link_type::ETHERNET => LaxSlicedPacket::from_ethernet(frame).map_err(|_| ()),
        // The address family in front is told from the version of IP behind it.
        link_type::NULL | link_type::LOOP => frame.get(4..).ok_or(()).and_then(ip),
        link_type::RAW | link_type::IPV4 | link_type::IPV6 => ip(frame),
        raw if link_type::RAW_BSD.contains(&raw) => ip(frame),
        link_type::LINUX_SLL => ether(u16_at(frame, 14).map(|ether_type| (ether_type, 16))),
        link_type::LINUX_SLL2 => ether(u16_at(frame, 0).map(|ether_type| (ether_type, 20))),
        _ => return Found::UnknownLink,
    };
    packet.map_or(Found::Other, |packet| of_packet(&packet))
}

fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn of_packet<'a>(packet: &LaxSlicedPacket<'a>) -> Found<'a> {
    let Some((from, to)) = addresses(packet) else { return Found::Other };
    if let Some(TransportSlice::Udp(udp)) = &packet.transport {
        let (from, to) = (SocketAddr::new(from, udp.source_port()), SocketAddr::new(to, udp.destination_port()));
        let payload = udp.payload();
        // A length of 0 means: as long as the packet.
        let sent = usize::from(udp.length()).saturating_sub(UdpHeader::LEN);
        return Found::Udp { from, to, payload, cut_from: (sent > payload.len()).then_some(sent) };
    }
    match packet.ip_payload().filter(|payload| payload.fragmented && payload.ip_number == IpNumber::UDP) {
        None => Found::Other,
        Some(payload) if is_first(packet) => match UdpHeaderSlice::from_slice(payload.payload) {
            Ok(udp) => Found::FirstFragment {
                from: SocketAddr::new(from, udp.source_port()),
                to: SocketAddr::new(to, udp.destination_port()),
            },
            Err(_) => Found::LaterFragment,
        },
        Some(_) => Found::LaterFragment,
    }
}

fn addresses(packet: &LaxSlicedPacket<'_>) -> Option<(IpAddr, IpAddr)> {
    match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        LaxNetSlice::Ipv6(ip) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        LaxNetSlice::Arp(_) => None,
    }
}

/// Whether a fragment is the one with the ports.
fn is_first(packet: &LaxSlicedPacket<'_>) -> bool {
    match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => ip.header().fragments_offset().value() == 0,
        Some(LaxNetSlice::Ipv6(ip)) => ip.extensions().clone().into_iter().any(|extension| {
            matches!(extension, etherparse::Ipv6ExtensionSlice::Fragment(slice) if slice.fragment_offset().value() == 0)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    const PAYLOAD: &[u8] = b"datagram";

    fn ipv4() -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(6200, 3001).write(&mut packet, PAYLOAD).unwrap();
        packet
    }

    fn ipv6() -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(6200, 3001).write(&mut packet, PAYLOAD).unwrap();
        packet
    }

    fn payload(link_type: u32, frame: &[u8]) -> Option<(&[u8], Option<usize>)> {
        match datagram(link_type, frame) {
            Found::Udp { payload, cut_from, from, to } => {
                assert_eq!((from.port(), to.port()), (6200, 3001));
                Some((payload, cut_from))
            }
            _ => None,
        }
    }

    #[test]
    fn every_link_type_leads_to_the_datagram() {
        let sll = |ether_type: [u8; 2]| [&[0; 14][..], &ether_type].concat();
        let sll2 = |ether_type: [u8; 2]| [&ether_type[..], &[0; 18]].concat();
        for (ether_type, ip) in [([0x08, 0x00], ipv4()), ([0x86, 0xdd], ipv6())] {
            let ethernet = [&[2; 12][..], &ether_type].concat();
            let vlan = [&[2; 12][..], &[0x81, 0, 0, 5], &ether_type].concat();
            for (link_type, front) in [
                (1, ethernet),
                (1, vlan),
                (113, sll(ether_type)),
                (276, sll2(ether_type)),
                (0, vec![2, 0, 0, 0]),
                (108, vec![0, 0, 0, 24]),
                (101, vec![]),
                (12, vec![]),
                (228, vec![]),
                (229, vec![]),
            ] {
                let frame = [front, ip.clone()].concat();
                assert_eq!(payload(link_type, &frame), Some((PAYLOAD, None)), "{link_type}");
                let padded = [frame.clone(), vec![0; 10]].concat();
                assert_eq!(payload(link_type, &padded), Some((PAYLOAD, None)), "{link_type} padded");
                let cut = &frame[..frame.len() - 3];
                assert_eq!(payload(link_type, cut), Some((&PAYLOAD[..5], Some(8))), "{link_type} cut");
            }
        }
        assert_eq!(datagram(147, &ipv4()), Found::UnknownLink);
    }

    #[test]
    fn fragments_are_told_apart_and_not_put_together() {
        let (from, to) = ("192.0.2.1:6200".parse().unwrap(), "192.0.2.2:3001".parse().unwrap());
        let mut first = ipv4();
        first[6] = 0x20;
        assert_eq!(datagram(101, &first), Found::FirstFragment { from, to });
        let mut later = ipv4();
        later[7] = 10;
        assert_eq!(datagram(101, &later), Found::LaterFragment);
        // The fragment header of IPv6 goes between the header and the datagram.
        let whole = ipv6();
        for (offset, is_first) in [(0_u8, true), (8, false)] {
            let extension = [17, 0, 0, offset | u8::from(is_first), 0, 0, 0, 1];
            let mut fragment = [&whole[..40], &extension, &whole[40..]].concat();
            fragment[5] += 8;
            fragment[6] = 44;
            let found = datagram(101, &fragment);
            assert_eq!(matches!(found, Found::FirstFragment { .. }), is_first, "{found:?}");
            assert_eq!(found == Found::LaterFragment, !is_first);
        }
    }

    #[test]
    fn what_is_no_udp_is_something_else() {
        let mut tcp = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).tcp(3001, 80, 1, 1).write(&mut tcp, b"x").unwrap();
        assert_eq!(datagram(101, &tcp), Found::Other);
        assert_eq!(datagram(1, &[&[2; 12][..], &[8, 6], &[0; 28]].concat()), Found::Other);
        for link_type in [0, 1, 101, 113, 276] {
            assert_eq!(datagram(link_type, &[]), Found::Other);
        }
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(link_type in 0..300_u32, frame in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = datagram(link_type, &frame);
        }
    }
}
