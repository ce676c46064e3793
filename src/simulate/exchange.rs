//! Data that moves between a call and its answer: the device's part of it (docs/protocol.md, RPC). Pure.
//!
//! A device that receives says when it is ready, acknowledges as it was asked to, takes pieces in any order and each as often
//! as it comes, and gives up after 500 ms without one. One that sends does so piece by piece, and hears nothing back.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::wire::frame::{Layout, Level, PacketType};
use crate::wire::rpc::{Data, DataAck, DataHeader, Response};

/// Bytes of data in each piece that a device sends: what a datagram of 548 bytes has room for, as a multiple of 4.
pub const PIECE: u32 = {
    let room = super::device::MAX_DOWNLINK - Layout::Unversioned.min_len() - 8;
    (room / 4 * 4) as u32
};

/// Most bytes that a device takes in one call, as a flash partition for an application has: more is refused with `ENOSPC`.
pub const MOST_RECEIVED: u32 = 1 << 20;

/// Most bytes that a device sends in one call: ten times what a gateway keeps, so that it can be seen to keep no more.
pub const MOST_SENT: u32 = 10 << 20;

/// How long a device waits for the next piece.
const PATIENCE: Duration = Duration::from_millis(500);

/// Time from one piece to the next: 500 KB a second, which is more than a cellular modem carries.
const PACE: Duration = Duration::from_millis(1);

/// Acknowledgement periods that are one; any other is none.
const PERIODS: std::ops::RangeInclusive<u8> = 1..=8;

/// Errno values that a call is answered with.
const INVALID: i16 = -22;
const NO_SPACE: i16 = -28;
const TIMED_OUT: i16 = -110;

/// The byte at offset `at` of what data_sender sends: no two pieces are alike.
pub const fn sent_byte(at: u32) -> u8 {
    (at ^ at >> 8) as u8
}

/// The body of the answer to a call that carried data to the device: how many bytes it has got, and their CRC-32.
pub fn received(data: &[u8]) -> Vec<u8> {
    let mut body = (data.len() as u32).to_le_bytes().to_vec();
    body.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    body
}

/// The call that data belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) request_id: u32,
    pub(super) command_id: u16,
    pub(super) level: Level,
}

impl Call {
    /// The answer to it, at its level.
    pub(super) fn answer(&self, return_code: i16, body: &[u8]) -> Packet {
        let Self { request_id, command_id, level } = *self;
        let mut payload = Vec::new();
        Response { request_id, command_id, return_code, body }.encode(&mut payload);
        Packet { packet_type: PacketType::RPC_RSP, level, payload }
    }
}

/// A packet that the device is to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) packet_type: PacketType,
    pub(super) level: Level,
    pub(super) payload: Vec<u8>,
}

/// A call between its command and its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    call: Call,
    moves: Moves,
}

#[derive(Debug)]
enum Moves {
    Towards(Receiver),
    From {
        size: u32,
        sent: u32,
        next_at: Duration,
    },
    /// It is to be answered so.
    Done {
        return_code: i16,
        body: Vec<u8>,
    },
    /// It is answered.
    Over,
}

#[derive(Debug)]
struct Receiver {
    size: u32,
    ack_period: Option<u8>,
    pieces: BTreeMap<u32, Box<[u8]>>,
    received: u32,
    unacknowledged: Vec<u32>,
    heard_at: Duration,
}

impl Exchange {
    /// Begins to receive what `header` announces. Also returns what the device says first: that it is ready, or that this
    /// is more than it has room for.
    pub(super) fn receive(call: Call, header: DataHeader, now: Duration) -> (Self, Packet) {
        let DataHeader { size, rx_ack_period } = header;
        if size > MOST_RECEIVED {
            return (Self { call, moves: Moves::Over }, call.answer(NO_SPACE, &[]));
        }
        let receiver = Receiver {
            size,
            ack_period: PERIODS.contains(&rx_ack_period).then_some(rx_ack_period),
            pieces: BTreeMap::new(),
            received: 0,
            unacknowledged: Vec::new(),
            heard_at: now,
        };
        let mut exchange = Self { call, moves: Moves::Towards(receiver) };
        exchange.settle();
        (exchange, acknowledgement(call.request_id, Vec::new()))
    }

    /// Begins to send `size` bytes; the first piece is due at once.
    pub(super) fn send(call: Call, size: u32, now: Duration) -> Self {
        let moves = match size {
            0..=MOST_SENT => Moves::From { size, sent: 0, next_at: now },
            _ => Moves::Done { return_code: INVALID, body: Vec::new() },
        };
        Self { call, moves }
    }

    /// A piece has arrived at `level`. `None` if the device says nothing to it.
    pub(super) fn on_data(&mut self, now: Duration, level: Level, piece: &Data<'_>) -> Option<Packet> {
        let Moves::Towards(receiver) = &mut self.moves else { return None };
        if piece.request_id != self.call.request_id || level < self.call.level {
            return None;
        }
        let offsets = match receiver.take(now, piece) {
            Ok(offsets) => offsets,
            Err(return_code) => {
                self.moves = Moves::Done { return_code, body: Vec::new() };
                return None;
            }
        };
        self.settle();
        offsets.map(|offsets| acknowledgement(self.call.request_id, offsets))
    }

    /// Answers once all is there.
    fn settle(&mut self) {
        let Moves::Towards(receiver) = &self.moves else { return };
        if receiver.received < receiver.size {
            return;
        }
        self.moves = match receiver.whole() {
            Some(data) => Moves::Done { return_code: 0, body: received(&data) },
            None => Moves::Done { return_code: INVALID, body: Vec::new() },
        };
    }

    /// When [`Self::on_time`] is to be called next; `None` once it is over.
    pub(super) fn due_at(&self) -> Option<Duration> {
        match &self.moves {
            Moves::Towards(receiver) => Some(receiver.heard_at + PATIENCE),
            Moves::From { next_at, .. } => Some(*next_at),
            Moves::Done { .. } => Some(Duration::ZERO),
            Moves::Over => None,
        }
    }

    /// Its time has come: the next piece, or the answer. `None` if it has not.
    pub(super) fn on_time(&mut self, now: Duration) -> Option<Packet> {
        self.due_at().filter(|due| *due <= now)?;
        let Self { call, moves } = self;
        match moves {
            Moves::From { size, sent, next_at } if *sent < *size => {
                let end = (*size).min(*sent + PIECE);
                let packet = piece(call, *sent, end);
                (*sent, *next_at) = (end, now + PACE);
                Some(packet)
            }
            Moves::From { .. } => Some(self.end(0, &[])),
            Moves::Towards(_) => Some(self.end(TIMED_OUT, &[])),
            Moves::Done { return_code, body } => {
                let (return_code, body) = (*return_code, std::mem::take(body));
                Some(self.end(return_code, &body))
            }
            Moves::Over => None,
        }
    }

    fn end(&mut self, return_code: i16, body: &[u8]) -> Packet {
        self.moves = Moves::Over;
        self.call.answer(return_code, body)
    }
}

impl Receiver {
    /// Keeps a piece. Returns the offsets that are to be acknowledged now, if any are; an error ends the call with it.
    fn take(&mut self, now: Duration, piece: &Data<'_>) -> Result<Option<Vec<u32>>, i16> {
        let Data { offset, data, .. } = *piece;
        let fits = u64::from(offset) + data.len() as u64 <= u64::from(self.size);
        if !fits || !offset.is_multiple_of(4) || data.is_empty() {
            return Err(INVALID);
        }
        self.heard_at = now;
        if self.pieces.insert(offset, data.into()).is_none() {
            self.received += data.len() as u32;
        }
        self.unacknowledged.push(offset);
        let due = self.ack_period.is_some_and(|period| self.unacknowledged.len() >= usize::from(period));
        if self.ack_period.is_none() {
            self.unacknowledged.clear();
        }
        Ok(due.then(|| std::mem::take(&mut self.unacknowledged)))
    }

    /// All of it; `None` if pieces overlap.
    fn whole(&self) -> Option<Vec<u8>> {
        let mut data = Vec::new();
        for (offset, piece) in &self.pieces {
            if *offset as usize != data.len() {
                return None;
            }
            data.extend_from_slice(piece);
        }
        Some(data)
    }
}

/// Firmware says this under the key of the network, whatever the level of the call.
fn acknowledgement(request_id: u32, offsets: Vec<u32>) -> Packet {
    let mut payload = Vec::new();
    DataAck { request_id, offsets }.encode(&mut payload);
    Packet { packet_type: PacketType::RPC_DATA_ACK, level: Level::Network, payload }
}

fn piece(call: &Call, from: u32, to: u32) -> Packet {
    let data: Vec<u8> = (from..to).map(sent_byte).collect();
    let mut payload = Vec::new();
    Data { request_id: call.request_id, offset: from, data: &data }.encode(&mut payload);
    Packet { packet_type: PacketType::RPC_DATA, level: call.level, payload }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call = Call { request_id: 7, command_id: 40, level: Level::Device };
    const MILLI: Duration = Duration::from_millis(1);

    fn receiving(size: u32, rx_ack_period: u8) -> Exchange {
        let (exchange, ready) = Exchange::receive(CALL, DataHeader { size, rx_ack_period }, Duration::ZERO);
        assert_eq!(ready, acknowledgement(7, Vec::new()));
        exchange
    }

    fn give(exchange: &mut Exchange, now: Duration, offset: u32, data: &[u8]) -> Option<Vec<u32>> {
        let packet = exchange.on_data(now, Level::Device, &Data { request_id: 7, offset, data })?;
        assert_eq!((packet.packet_type, packet.level), (PacketType::RPC_DATA_ACK, Level::Network));
        Some(DataAck::parse(&packet.payload).unwrap().offsets)
    }

    /// Return code and body of the answer, which is due.
    fn answer(exchange: &mut Exchange, now: Duration) -> (i16, Vec<u8>) {
        let packet = exchange.on_time(now).unwrap();
        assert_eq!((packet.packet_type, packet.level), (PacketType::RPC_RSP, Level::Device));
        assert_eq!(exchange.due_at(), None);
        let response = Response::parse(&packet.payload).unwrap();
        assert_eq!((response.request_id, response.command_id), (7, 40));
        (response.return_code, response.body.to_vec())
    }

    #[test]
    fn data_is_acknowledged_in_windows_and_answered_with_its_length_and_crc() {
        let mut exchange = receiving(20, 2);
        let acknowledged =
            [(0, 8), (8, 8), (16, 4)].map(|(offset, len)| give(&mut exchange, MILLI, offset, &vec![offset as u8; len]));
        assert_eq!(
            acknowledged,
            [None, Some(vec![0, 8]), None],
            "what is left at the end is answered, not acknowledged"
        );
        let data = [&[0; 8][..], &[8; 8], &[16; 4]].concat();
        assert_eq!(answer(&mut exchange, MILLI), (0, received(&data)));
        assert_eq!(received(b"123456789"), [9, 0, 0, 0, 0x26, 0x39, 0xf4, 0xcb]);
    }

    #[test]
    fn pieces_come_in_any_order_and_more_than_once() {
        let mut exchange = receiving(12, 1);
        for offset in [8, 0, 8, 4] {
            assert_eq!(give(&mut exchange, MILLI, offset, &[offset as u8; 4]), Some(vec![offset]));
        }
        assert_eq!(answer(&mut exchange, MILLI), (0, received(&[0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8])));
    }

    #[test]
    fn half_a_second_without_a_piece_ends_it() {
        let mut exchange = receiving(12, 0);
        assert_eq!(give(&mut exchange, 400 * MILLI, 0, &[0; 4]), None, "it was not asked to acknowledge");
        assert_eq!(exchange.due_at(), Some(900 * MILLI));
        assert_eq!(exchange.on_time(899 * MILLI), None);
        assert_eq!(answer(&mut exchange, 900 * MILLI), (TIMED_OUT, Vec::new()));
        assert_eq!(give(&mut exchange, 901 * MILLI, 4, &[0; 8]), None, "it is over");
    }

    #[test]
    fn what_is_not_of_the_call_changes_nothing_and_what_does_not_fit_ends_it() {
        for (offset, data) in [(2, &[0; 4][..]), (12, &[0; 8]), (u32::MAX - 3, &[0; 8]), (0, &[])] {
            let mut exchange = receiving(16, 1);
            let other = Data { request_id: 8, offset, data };
            assert_eq!(exchange.on_data(MILLI, Level::Device, &other), None);
            assert_eq!(exchange.on_data(MILLI, Level::Network, &Data { request_id: 7, ..other }), None);
            assert_eq!(exchange.due_at(), Some(PATIENCE), "waits as before");
            assert_eq!(give(&mut exchange, MILLI, offset, data), None);
            assert_eq!(answer(&mut exchange, MILLI), (INVALID, Vec::new()), "{offset}");
        }
        let mut overlapping = receiving(16, 0);
        for offset in [0, 4] {
            give(&mut overlapping, MILLI, offset, &[0; 8]);
        }
        assert_eq!(answer(&mut overlapping, MILLI).0, INVALID);
    }

    #[test]
    fn nothing_is_ready_at_once_and_too_much_is_refused_at_once() {
        assert_eq!(answer(&mut receiving(0, 1), Duration::ZERO), (0, received(&[])));
        let header = DataHeader { size: MOST_RECEIVED + 1, rx_ack_period: 1 };
        let (exchange, answer) = Exchange::receive(CALL, header, Duration::ZERO);
        assert_eq!((answer, exchange.due_at()), (CALL.answer(NO_SPACE, &[]), None));
        let mut sending = Exchange::send(CALL, u32::MAX, Duration::ZERO);
        assert_eq!(sending.on_time(Duration::ZERO), Some(CALL.answer(INVALID, &[])));
    }

    #[test]
    fn what_it_sends_comes_in_order_at_its_pace_and_fits_a_datagram() {
        let size = 2 * PIECE + 7;
        let mut exchange = Exchange::send(CALL, size, Duration::ZERO);
        let (mut data, mut last) = (Vec::new(), Duration::ZERO);
        for number in 0..3 {
            last = exchange.due_at().unwrap();
            assert_eq!(last, number * PACE);
            let packet = exchange.on_time(last).unwrap();
            assert_eq!((packet.packet_type, packet.level), (PacketType::RPC_DATA, Level::Device));
            assert!(packet.payload.len() <= 510);
            let piece = Data::parse(&packet.payload).unwrap();
            assert_eq!((piece.request_id, piece.offset as usize), (7, data.len()));
            data.extend_from_slice(piece.data);
            assert_eq!(exchange.on_time(last), None, "not before its time");
        }
        assert_eq!(data, (0..size).map(sent_byte).collect::<Vec<_>>());
        assert_eq!(answer(&mut exchange, last + PACE), (0, Vec::new()));
    }
}
