//! The body of an answer on its way to the client, and the room that large ones share.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::InFlight;

/// The longest answer that needs no room: what concerns one device is a quarter of it.
const SMALL: usize = 4 * 1024;
/// Bytes that hyper gets at once, and before which the client must have made way for the ones before: the largest frame
/// of a client that does not say otherwise.
const PART: usize = 16 * 1024;

/// Room for the bytes of large bodies, in and out.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

/// Some of a [`Room`]; given back on drop.
#[derive(Debug)]
pub(super) struct Taken {
    _permit: OwnedSemaphorePermit,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// Room for `len` bytes, if there is.
    pub(super) fn take(&self, len: usize) -> Option<Taken> {
        let len = u32::try_from(len).ok()?;
        let permit = Arc::clone(&self.0).try_acquire_many_owned(len).ok()?;
        Some(Taken { _permit: permit })
    }

    /// What an answer of `len` bytes needs: nothing if it is small.
    pub(super) fn take_for_answer(&self, len: usize) -> Option<Option<Taken>> {
        if len <= SMALL { Some(None) } else { self.take(len).map(Some) }
    }
}

/// A body that hyper takes part by part.
#[derive(Debug)]
pub(super) struct Outgoing {
    rest: Bytes,
    in_flight: Option<Arc<InFlight>>,
}

/// Bytes with what is to last until the last of them is with the kernel, or thrown away.
struct Held {
    bytes: Bytes,
    _in_flight: Option<Arc<InFlight>>,
    _room: Option<Taken>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Outgoing {
    /// A body of `bytes`. `in_flight` is the request, if it is to last until the client has taken the answer.
    pub(super) fn new(bytes: Bytes, room: Option<Taken>, in_flight: Option<InFlight>) -> Self {
        if bytes.is_empty() || (room.is_none() && in_flight.is_none()) {
            return Self { rest: bytes, in_flight: None };
        }
        let in_flight = in_flight.map(Arc::new);
        if let Some(in_flight) = &in_flight {
            in_flight.moved();
        }
        let held = Held { bytes, _in_flight: in_flight.clone(), _room: room };
        Self { rest: Bytes::from_owner(held), in_flight }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        if let Some(in_flight) = &this.in_flight {
            in_flight.moved();
        }
        let part = this.rest.split_to(this.rest.len().min(PART));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_large_answer_has_its_room_until_the_last_of_its_bytes_is_gone() {
        let room = Room::new(100_000);
        let bytes = Bytes::from_iter((0..60_000).map(|index| index as u8));
        let taken = room.take_for_answer(bytes.len()).unwrap();
        assert!(taken.is_some() && room.take_for_answer(bytes.len()).is_none());
        let mut body = Outgoing::new(bytes.clone(), taken, None);
        assert_eq!(body.size_hint().exact(), Some(60_000));
        let mut parts = Vec::new();
        while let Some(frame) = body.frame().await {
            parts.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!((parts.len(), parts.concat()), (4, bytes.to_vec()));
        drop((body, parts.drain(1..)));
        assert!(room.take(60_000).is_none());
        drop(parts);
        assert!(room.take(60_000).is_some());
    }

    #[test]
    fn a_small_answer_needs_no_room() {
        assert!(matches!(Room::new(0).take_for_answer(SMALL), Some(None)));
        assert!(Room::new(0).take_for_answer(SMALL + 1).is_none());
        assert!(Room::new(usize::MAX).take(usize::MAX).is_none());
    }
}
