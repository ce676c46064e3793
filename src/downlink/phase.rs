//! Data that moves between an RPC_CMD and its RPC_RSP (docs/protocol.md, RPC). Nothing is ever sent again: the protocol has no
//! way to, and a device gives up 500 ms after the last piece.

use std::ops::Range;
use std::sync::Arc;

use super::event::Received;
use super::room::DataClaim;
use crate::wire::rpc::{Data, DataAck};

/// Bytes in front of the data of an RPC_DATA.
const DATA_HEADER: usize = 8;
/// Devices that acknowledge do so after this many pieces at the latest.
const MAX_WINDOW: u8 = 8;

/// Data on its way to a device: a window of pieces for each acknowledgement.
#[derive(Debug)]
pub(super) struct Sending {
    data: Arc<[u8]>,
    window: usize,
    /// What was sent last and is not acknowledged.
    open: Range<usize>,
    begun: bool,
    /// Of the data. Shared with the intent, which may be sent again.
    _claim: Arc<DataClaim>,
}

impl Sending {
    pub(super) fn new(data: Arc<[u8]>, ack_period: u8, claim: Arc<DataClaim>) -> Self {
        let window = ack_period.clamp(1, MAX_WINDOW).into();
        Self { data, window, open: 0..0, begun: false, _claim: claim }
    }

    /// The payloads of the next window, each at most `room` bytes long: the first when the device says that it is ready, others
    /// when it acknowledges something of the last.
    pub(super) fn next(&mut self, ack: &DataAck, room: usize) -> Vec<Vec<u8>> {
        let mut acknowledged = ack.offsets.iter().map(|offset| *offset as usize);
        let is_due = if self.begun { acknowledged.any(|offset| self.open.contains(&offset)) } else { true };
        // Offsets must be multiples of 4.
        let piece = room.saturating_sub(DATA_HEADER) & !3;
        if !is_due || piece == 0 {
            return Vec::new();
        }
        self.begun = true;
        let start = self.open.end;
        let end = self.data.len().min(start + self.window * piece);
        self.open = start..end;
        let payload = |(index, data)| {
            let offset = (start + index * piece) as u32;
            let mut out = Vec::with_capacity(room);
            Data { request_id: ack.request_id, offset, data }.encode(&mut out);
            out
        };
        self.data[start..end].chunks(piece).enumerate().map(payload).collect()
    }
}

/// Data on its way from a device, with gaps as zeros.
#[derive(Debug)]
pub(super) struct Receiving {
    /// Shared with those who look at it meanwhile.
    data: Arc<Vec<u8>>,
    limit: usize,
    claim: Arc<DataClaim>,
}

impl Receiving {
    pub(super) fn new(limit: usize, claim: DataClaim) -> Self {
        Self { data: Arc::default(), limit, claim: Arc::new(claim) }
    }

    /// Keeps a piece where it belongs. False if it lies beyond the limit, or there is no room for it.
    pub(super) fn take(&mut self, piece: &Data<'_>) -> bool {
        let start = piece.offset as usize;
        let Some(end) = start.checked_add(piece.data.len()).filter(|end| *end <= self.limit) else { return false };
        if !self.claim.grow(end.saturating_sub(self.data.len())) {
            return false;
        }
        let data = Arc::make_mut(&mut self.data);
        data.resize(end.max(data.len()), 0);
        data[start..end].copy_from_slice(piece.data);
        true
    }

    pub(super) fn so_far(&self) -> Received {
        Received::new(Arc::clone(&self.data), Arc::clone(&self.claim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downlink::room::DataRoom;
    use crate::id::DeviceId;

    const ROOM: usize = 28;

    fn ack(offsets: &[u32]) -> DataAck {
        DataAck { request_id: 7, offsets: offsets.to_vec() }
    }

    /// Offsets and lengths of pieces of at most 20 bytes.
    fn next(sending: &mut Sending, offsets: &[u32]) -> Vec<(u32, usize)> {
        let payloads = sending.next(&ack(offsets), ROOM);
        let piece = |payload: &Vec<u8>| {
            let data = Data::parse(payload).unwrap();
            assert_eq!((data.request_id, data.data[0]), (7, data.offset as u8));
            (data.offset, data.data.len())
        };
        payloads.iter().map(piece).collect()
    }

    fn sending(len: u8, ack_period: u8) -> Sending {
        Sending::new((0..len).collect(), ack_period, Arc::new(claim(0)))
    }

    #[test]
    fn a_window_of_pieces_follows_each_acknowledgement_until_all_is_sent() {
        let mut sending = sending(107, 2);
        assert_eq!(next(&mut sending, &[]), [(0, 20), (20, 20)]);
        assert_eq!(next(&mut sending, &[0, 20]), [(40, 20), (60, 20)]);
        assert_eq!(next(&mut sending, &[40, 60]), [(80, 20), (100, 7)]);
        assert_eq!(next(&mut sending, &[80, 100]), []);
        assert_eq!(next(&mut sending, &[80, 100]), []);
    }

    #[test]
    fn what_acknowledges_nothing_new_is_answered_with_nothing() {
        let mut sending = sending(107, 1);
        assert_eq!(next(&mut sending, &[]), [(0, 20)]);
        for stale in [&[][..], &[20], &[100], &[u32::MAX]] {
            assert_eq!(next(&mut sending, stale), [], "{stale:?}");
        }
        assert_eq!(next(&mut sending, &[0]), [(20, 20)]);
        assert_eq!(next(&mut sending, &[0]), []);
    }

    #[test]
    fn a_device_may_acknowledge_in_part_and_pieces_may_change_their_length() {
        let mut sending = sending(200, 2);
        assert_eq!(next(&mut sending, &[]), [(0, 20), (20, 20)]);
        let longer = sending.next(&ack(&[20]), 8 + 43);
        let lengths: Vec<_> = longer.iter().map(|payload| payload.len()).collect();
        assert_eq!(lengths, [48, 48], "multiples of 4");
        assert_eq!(next(&mut sending, &[80]), [(120, 20), (140, 20)]);
    }

    #[test]
    fn windows_have_one_to_eight_pieces_and_pieces_some_bytes() {
        assert_eq!(next(&mut sending(255, 0), &[]).len(), 1);
        assert_eq!(next(&mut sending(255, 200), &[]).len(), 8);
        assert_eq!(next(&mut sending(0, 8), &[]), []);
        for room in 0..12 {
            assert_eq!(sending(255, 8).next(&ack(&[]), room), Vec::<Vec<u8>>::new());
        }
        assert_eq!(sending(255, 8).next(&ack(&[]), 12)[0].len(), 12);
    }

    fn receiving(limit: usize, room: usize) -> Receiving {
        Receiving::new(limit, claim(room))
    }

    fn claim(room: usize) -> DataClaim {
        DataClaim::none(&Arc::new(DataRoom::new(room, room)), DeviceId(1))
    }

    fn take(receiving: &mut Receiving, offset: u32, data: &[u8]) -> bool {
        receiving.take(&Data { request_id: 7, offset, data })
    }

    #[test]
    fn pieces_are_kept_where_they_belong_with_gaps_as_zeros() {
        let mut receiving = receiving(16, 100);
        assert!(take(&mut receiving, 4, b"efgh") && take(&mut receiving, 12, b"mn") && take(&mut receiving, 0, b"ab"));
        let so_far = receiving.so_far();
        assert!(take(&mut receiving, 2, b"cd"));
        assert_eq!(&*so_far, b"ab\0\0efgh\0\0\0\0mn", "as it was when somebody looked");
        assert_eq!(&*receiving.so_far(), b"abcdefgh\0\0\0\0mn");
    }

    #[test]
    fn what_lies_beyond_the_limit_or_finds_no_room_changes_nothing() {
        let mut limited = receiving(16, 100);
        for offset in [13, 16, u32::MAX] {
            assert!(!take(&mut limited, offset, b"abcd"));
        }
        assert_eq!((&*limited.so_far(), limited.data.capacity()), (&[][..], 0));
        let mut crowded = receiving(1000, 6);
        assert!(take(&mut crowded, 0, b"abcd") && !take(&mut crowded, 4, b"efgh") && take(&mut crowded, 2, b"CDEF"));
        assert_eq!(&*crowded.so_far(), b"abCDEF");
    }
}
