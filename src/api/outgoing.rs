//! The body of an answer on its way to the client, and the room that large ones share.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Buf, Bytes, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::InFlight;
use super::events::{self, Events};
use crate::records::route::DIRECT_JSON;
use crate::text::Text;

/// The longest answer that needs no room: what concerns one device is a quarter of it.
const SMALL: usize = 4 * 1024;
/// Bytes that hyper gets at once, and before which the client must have made way for the ones before: the largest frame
/// of a client that does not say otherwise.
pub(super) const PART: usize = 16 * 1024;

/// Room for the bytes of large bodies, in and out.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

/// Some of a [`Room`]; given back on drop.
#[derive(Debug)]
pub(super) struct Taken {
    permit: OwnedSemaphorePermit,
}

impl Taken {
    /// As much of it as `len` bytes need.
    pub(super) fn shrunk(mut self, len: usize) -> Self {
        drop(self.permit.split(self.permit.num_permits().saturating_sub(len)));
        self
    }
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// Room for `len` bytes, if there is.
    pub(super) fn take(&self, len: usize) -> Option<Taken> {
        let len = u32::try_from(len).ok()?;
        let permit = Arc::clone(&self.0).try_acquire_many_owned(len).ok()?;
        Some(Taken { permit })
    }

    /// What an answer of `len` bytes needs: nothing if it is small.
    pub(super) fn take_for_answer(&self, len: usize) -> Option<Option<Taken>> {
        if len <= SMALL { Some(None) } else { self.take(len).map(Some) }
    }
}

/// The body of an answer, as its handler makes it.
#[derive(Debug)]
pub(super) enum Content {
    /// All of it.
    Whole(Bytes),
    /// Events as they happen.
    Events(Box<Events>),
    /// Nothing, in place of events, to who asks for the headers only.
    NoEvents,
}

/// A body that hyper takes part by part.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// What is left of one whose length is known.
    Whole(Part),
    /// One that goes on.
    Events { events: Box<Events>, in_flight: InFlight },
}

/// All bytes of a body.
#[derive(Debug)]
pub(super) enum Whole {
    /// Of whatever length.
    Bytes(Bytes),
    /// Few, with nothing of their own on the heap.
    Short(Text<DIRECT_JSON>),
}

/// A body, and what is to last until the last of it is with the kernel, or thrown away.
#[derive(Debug)]
struct Held {
    bytes: Whole,
    in_flight: Option<InFlight>,
    _room: Option<Taken>,
}

/// Some of a body, in few bytes: every request that waits has room for one.
#[derive(Debug)]
pub(super) struct Part {
    /// `None`: an empty one.
    of: Option<Arc<Held>>,
    from: usize,
    to: usize,
}

impl Whole {
    fn get(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Short(text) => text.as_bytes(),
        }
    }
}

impl From<Bytes> for Whole {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl Part {
    fn whole(bytes: Whole, room: Option<Taken>, in_flight: Option<InFlight>) -> Self {
        let to = bytes.get().len();
        let of = (to > 0).then(|| Arc::new(Held { bytes, in_flight, _room: room }));
        Self { of, from: 0, to }
    }

    /// Takes up to so many bytes off its beginning; `None` if there are none.
    fn take(&mut self, most: usize) -> Option<Self> {
        let (from, to) = (self.from, self.to.min(self.from + most));
        self.from = to;
        let of = if to == self.to { self.of.take() } else { self.of.clone() };
        of.map(|of| Self { of: Some(of), from, to })
    }

    /// hyper takes some of the body.
    fn moved(&self) {
        if let Some(in_flight) = self.of.as_ref().and_then(|held| held.in_flight.as_ref()) {
            in_flight.moved(Duration::ZERO);
        }
    }
}

impl Buf for Part {
    fn remaining(&self) -> usize {
        self.to - self.from
    }

    fn chunk(&self) -> &[u8] {
        self.of.as_ref().map_or(&[], |held| &held.bytes.get()[self.from..self.to])
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "no more than there is");
        self.from += count;
    }
}

impl Content {
    /// Bytes, as far as that is known.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::Whole(bytes) => Some(bytes.len()),
            Self::Events(_) | Self::NoEvents => None,
        }
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::Whole(Bytes::new())
    }
}

impl Outgoing {
    /// The body of an answer to the request `in_flight`. Over HTTP/1.1 the answers leave in order, and how fast is looked at
    /// while they are written; over HTTP/2 the request lasts until the client has taken its answer. One that is followed by
    /// events lasts as long as they do.
    pub(super) fn new(content: Content, room: Option<Taken>, in_flight: InFlight, http2: bool) -> Self {
        match content {
            Content::Whole(bytes) => Self::whole(bytes.into(), room, in_flight, http2),
            Content::NoEvents => Self::Whole(Part::whole(Bytes::new().into(), None, None)),
            Content::Events(events) => {
                in_flight.moved(Duration::ZERO);
                Self::Events { events, in_flight }
            }
        }
    }

    /// The same, where all of it is there.
    pub(super) fn whole(bytes: Whole, room: Option<Taken>, in_flight: InFlight, http2: bool) -> Self {
        Self::Whole(Part::whole(bytes, room, http2.then_some(in_flight)))
    }
}

impl Body for Outgoing {
    type Data = Part;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Part>, Infallible>>> {
        let part = match self.get_mut() {
            Self::Whole(rest) => {
                rest.moved();
                Poll::Ready(rest.take(PART))
            }
            Self::Events { events, in_flight } => {
                let part = events.poll_part(cx);
                // hyper takes one part more than the client makes way for, and asks no more. If it does not ask when the
                // next comment is due, the client takes nothing.
                in_flight.moved(if part.is_pending() { events::COMMENT_INTERVAL } else { Duration::ZERO });
                part.map(|part| part.map(|bytes| Part::whole(bytes.into(), None, None)))
            }
        };
        part.map(|part| part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(rest) if !rest.has_remaining())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(rest) => SizeHint::with_exact(rest.remaining() as u64),
            Self::Events { .. } => SizeHint::default(),
        }
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
        let mut body = Outgoing::Whole(Part::whole(bytes.clone().into(), taken, None));
        assert_eq!(body.size_hint().exact(), Some(60_000));
        let mut parts = Vec::new();
        while let Some(frame) = body.frame().await {
            parts.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!((parts.len(), parts.iter().map(Buf::chunk).collect::<Vec<_>>().concat()), (4, bytes.to_vec()));
        drop((body, parts.drain(1..)));
        assert!(room.take(60_000).is_none());
        drop(parts);
        assert!(room.take(60_000).is_some());
    }

    #[test]
    fn room_that_was_not_needed_is_free_again() {
        let room = Room::new(100);
        let taken = room.take(100).unwrap().shrunk(30);
        assert!(room.take(71).is_none() && room.take(70).is_some());
        drop((taken.shrunk(31), room.take(70)));
        assert!(room.take(100).is_some());
    }

    #[test]
    fn a_small_answer_needs_no_room() {
        assert!(matches!(Room::new(0).take_for_answer(SMALL), Some(None)));
        assert!(Room::new(0).take_for_answer(SMALL + 1).is_none());
        assert!(Room::new(usize::MAX).take(usize::MAX).is_none());
    }
}
