//! What a gateway asks a relay to pass on, and what a relay tells of its connections (docs/protocol.md, forwarding).

use super::Reader;
use super::container::{BtAddress, RouteInterface};

/// The longest frame that a relay can pass on.
pub const MAX_FORWARDED: usize = 244;
/// Bytes in front of the frame.
pub const FRONT_LEN: usize = 14;

/// A frame for a device that the relay is to connect to, the payload of an EPACKET_FORWARD_AUTO_CONN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoConnect<'a> {
    /// How it is to reach the device. Firmware knows [`RouteInterface::BtCentral`] only.
    pub interface: RouteInterface,
    /// What it does with the connection: a sum of the constants of this type.
    pub flags: u8,
    /// Seconds until it gives up connecting.
    pub connect_timeout: u8,
    /// Seconds without traffic until it ends the connection.
    pub idle_timeout: u8,
    /// Seconds until it ends the connection in any case.
    pub absolute_timeout: u8,
    /// The device.
    pub address: BtAddress,
    /// A whole versioned frame.
    pub frame: &'a [u8],
}

impl<'a> AutoConnect<'a> {
    /// The connection ends after the first RPC_RSP.
    pub const UNTIL_ANSWER: u8 = 0x01;
    /// The relay passes on the data that the device offers, too.
    pub const SUBSCRIBE: u8 = 0x02;
    /// The relay sends an EPACKET_CONN_TERMINATED when the connection ends.
    pub const TELL_END: u8 = 0x04;
    /// The connection is made for traffic from the device.
    pub const FAVOUR_UPLINK: u8 = 0x08;

    /// `None` if the front is cut, or the length in it is not that of all.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut from = Reader(payload);
        let whole = usize::from(from.u16()?) == payload.len();
        let (interface, flags) = (RouteInterface::from_id(from.u8()?), from.u8()?);
        let (connect_timeout, idle_timeout, absolute_timeout) = (from.u8()?, from.u8()?, from.u8()?);
        let address = BtAddress::from_wire(from.array()?);
        let frame = from.0;
        whole.then_some(Self { interface, flags, connect_timeout, idle_timeout, absolute_timeout, address, frame })
    }

    /// Appends the payload. The frame is at most [`MAX_FORWARDED`] long.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&((FRONT_LEN + self.frame.len()) as u16).to_le_bytes());
        out.extend_from_slice(&[self.interface.id(), self.flags]);
        out.extend_from_slice(&[self.connect_timeout, self.idle_timeout, self.absolute_timeout]);
        out.extend_from_slice(&self.address.to_wire());
        out.extend_from_slice(self.frame);
    }
}

/// The end of a connection of a relay, the payload of an EPACKET_CONN_TERMINATED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminated {
    /// What the relay reached the device by.
    pub interface: RouteInterface,
    /// A code of the Bluetooth link after there was a connection, else why there was none.
    pub reason: i16,
    /// The device.
    pub address: BtAddress,
}

impl Terminated {
    /// `None` for a payload of another length.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut from = Reader(payload);
        let (interface, reason) = (RouteInterface::from_id(from.u8()?), from.i16()?);
        let address = BtAddress::from_wire(from.array()?);
        (from.remaining() == 0).then_some(Self { interface, reason, address })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.interface.id());
        out.extend_from_slice(&self.reason.to_le_bytes());
        out.extend_from_slice(&self.address.to_wire());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: BtAddress = BtAddress { kind: 1, bytes: [0x56, 0x34, 0x12, 0xee, 0xff, 0xc0] };

    fn bytes(encode: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }

    #[test]
    fn what_is_to_be_passed_on_round_trips_and_must_be_as_long_as_it_says() {
        let auto = AutoConnect {
            interface: RouteInterface::BtCentral,
            flags: AutoConnect::UNTIL_ANSWER | AutoConnect::TELL_END,
            connect_timeout: 10,
            idle_timeout: 5,
            absolute_timeout: 60,
            address: ADDRESS,
            frame: b"frame",
        };
        let payload = bytes(|out| auto.encode(out));
        let expected = [&[19, 0, 4, 5, 10, 5, 60, 1, 0x56, 0x34, 0x12, 0xee, 0xff, 0xc0][..], b"frame"].concat();
        assert_eq!(payload, expected);
        assert_eq!(AutoConnect::parse(&payload), Some(auto));
        assert!((0..payload.len()).all(|len| AutoConnect::parse(&payload[..len]).is_none()));
        assert!(AutoConnect::parse(&[payload, vec![0]].concat()).is_none());
    }

    #[test]
    fn the_end_of_a_connection_round_trips_and_has_one_length() {
        let end = Terminated { interface: RouteInterface::BtCentral, reason: -116, address: ADDRESS };
        let payload = bytes(|out| end.encode(out));
        assert_eq!(payload, [4, 0x8c, 0xff, 1, 0x56, 0x34, 0x12, 0xee, 0xff, 0xc0]);
        assert_eq!(Terminated::parse(&payload), Some(end));
        assert!((0..20).all(|len| Terminated::parse(&vec![0; len]).is_some() == (len == 10)));
    }
}
