//! Headers of remote procedure calls (docs/protocol.md, RPC). What parameters and results mean is not known here:
//! [`super::calls`] knows a few.

use super::Reader;

/// A call to a device, the payload of an RPC_CMD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Chosen by the caller, repeated in all that belongs to the call.
    pub request_id: u32,
    /// What to do.
    pub command_id: u16,
    /// Of commands that move data, and of no others.
    pub data: Option<DataHeader>,
    /// The command's own.
    pub parameters: &'a [u8],
}

/// How a command moves data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// Bytes to move; `u32::MAX` if the caller does not know how many it will get.
    pub size: u32,
    /// The device acknowledges after this many RPC_DATA, 1 to 8; otherwise not at all.
    pub rx_ack_period: u8,
}

impl<'a> Command<'a> {
    /// Reads a command that moves no data. Nothing in the bytes tells the two forms apart: the command id does.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut from = Reader(payload);
        Some(Self { request_id: from.u32()?, command_id: from.u16()?, data: None, parameters: from.0 })
    }

    /// Reads a command that moves data.
    pub fn parse_with_data(payload: &'a [u8]) -> Option<Self> {
        let plain = Self::parse(payload)?;
        let mut from = Reader(plain.parameters);
        let data = DataHeader { size: from.u32()?, rx_ack_period: from.u8()? };
        Some(Self { data: Some(data), parameters: from.0, ..plain })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request_id.to_le_bytes());
        out.extend_from_slice(&self.command_id.to_le_bytes());
        if let Some(data) = self.data {
            out.extend_from_slice(&data.size.to_le_bytes());
            out.push(data.rx_ack_period);
        }
        out.extend_from_slice(self.parameters);
    }
}

/// A piece of the data of a call, the payload of an RPC_DATA in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// The call.
    pub request_id: u32,
    /// Where the piece belongs.
    pub offset: u32,
    /// The piece.
    pub data: &'a [u8],
}

impl<'a> Data<'a> {
    /// `None` for a payload shorter than its header.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut from = Reader(payload);
        Some(Self { request_id: from.u32()?, offset: from.u32()?, data: from.0 })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request_id.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(self.data);
    }
}

/// A device has received data, the payload of an RPC_DATA_ACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataAck {
    /// The call.
    pub request_id: u32,
    /// Offsets of the pieces received; none when the device says that it is ready.
    pub offsets: Vec<u32>,
}

impl DataAck {
    /// `None` for a payload shorter than its header, or with part of an offset.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut from = Reader(payload);
        let request_id = from.u32()?;
        let (offsets, part) = from.0.as_chunks();
        part.is_empty()
            .then(|| Self { request_id, offsets: offsets.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect() })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request_id.to_le_bytes());
        for offset in &self.offsets {
            out.extend_from_slice(&offset.to_le_bytes());
        }
    }
}

/// The answer to a call, the payload of an RPC_RSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The call.
    pub request_id: u32,
    /// What was to be done.
    pub command_id: u16,
    /// 0 for success, else negative: an errno, or a number of the protocol's own from -1000 down.
    pub return_code: i16,
    /// The command's own.
    pub body: &'a [u8],
}

impl<'a> Response<'a> {
    /// `None` for a payload shorter than its header.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut from = Reader(payload);
        Some(Self { request_id: from.u32()?, command_id: from.u16()?, return_code: from.i16()?, body: from.0 })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request_id.to_le_bytes());
        out.extend_from_slice(&self.command_id.to_le_bytes());
        out.extend_from_slice(&self.return_code.to_le_bytes());
        out.extend_from_slice(self.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(encode: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }

    #[test]
    fn a_command_round_trips_with_and_without_data() {
        let plain = Command { request_id: 0x0403_0201, command_id: 0x0605, data: None, parameters: b"xy" };
        let payload = bytes(|out| plain.encode(out));
        assert_eq!(payload, [&[1, 2, 3, 4, 5, 6][..], b"xy"].concat());
        assert_eq!(Command::parse(&payload), Some(plain));

        let moving = Command { data: Some(DataHeader { size: u32::MAX, rx_ack_period: 8 }), ..plain };
        let payload = bytes(|out| moving.encode(out));
        assert_eq!(payload, [&[1, 2, 3, 4, 5, 6, 255, 255, 255, 255, 8][..], b"xy"].concat());
        assert_eq!(Command::parse_with_data(&payload), Some(moving));
    }

    #[test]
    fn data_its_acknowledgement_and_the_response_round_trip() {
        let data = Data { request_id: 1, offset: 0x0403_0201, data: b"xy" };
        let payload = bytes(|out| data.encode(out));
        assert_eq!(payload, [&[1, 0, 0, 0, 1, 2, 3, 4][..], b"xy"].concat());
        assert_eq!(Data::parse(&payload), Some(data));

        for offsets in [vec![], vec![4], vec![0, u32::MAX]] {
            let ack = DataAck { request_id: 7, offsets };
            assert_eq!(DataAck::parse(&bytes(|out| ack.encode(out))), Some(ack));
        }

        let response = Response { request_id: 1, command_id: 9, return_code: -1180, body: b"" };
        let payload = bytes(|out| response.encode(out));
        assert_eq!(payload, [1, 0, 0, 0, 9, 0, 0x64, 0xfb]);
        assert_eq!(Response::parse(&payload), Some(response));
    }

    #[test]
    fn what_is_shorter_than_its_header_is_none() {
        let zeros = [0; 16];
        assert!((0..6).all(|len| Command::parse(&zeros[..len]).is_none()) && Command::parse(&zeros[..6]).is_some());
        assert!((0..11).all(|len| Command::parse_with_data(&zeros[..len]).is_none()));
        assert!(Command::parse_with_data(&zeros[..11]).is_some());
        assert!((0..8).all(|len| Data::parse(&zeros[..len]).is_none()) && Data::parse(&zeros[..8]).is_some());
        assert!((0..8).all(|len| Response::parse(&zeros[..len]).is_none()) && Response::parse(&zeros[..8]).is_some());
        let whole = |len: usize| DataAck::parse(&zeros[..len]).is_some();
        assert_eq!([0, 3, 4, 5, 6, 7, 8, 9].map(whole), [false, false, true, false, false, false, true, false]);
    }
}
