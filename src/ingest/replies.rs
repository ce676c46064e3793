//! What is to be sent in answer to a datagram, in order.

use std::net::SocketAddr;
use std::ops::Range;

use crate::metrics::DownlinkKind;
use crate::table::sending::Via;

/// How many times as many bytes may go to an address that is not proved as came from there.
const AMPLIFICATION: usize = 3;

/// Datagrams to be sent.
#[derive(Debug)]
pub struct Replies {
    bytes: Vec<u8>,
    list: Vec<Queued>,
    /// Bytes that may still go to where the present datagram came from; `None`: any number.
    left: Option<usize>,
}

/// A datagram to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Where it goes.
    pub to: SocketAddr,
    /// How it leaves.
    pub via: Via,
    /// What it is for.
    pub kind: DownlinkKind,
    /// Its bytes.
    pub bytes: &'a [u8],
}

#[derive(Debug)]
struct Queued {
    to: SocketAddr,
    via: Via,
    kind: DownlinkKind,
    bytes: Range<usize>,
}

impl Default for Replies {
    fn default() -> Self {
        Self { bytes: Vec::with_capacity(crate::wire::MAX_DATAGRAM), list: Vec::new(), left: None }
    }
}

impl Replies {
    /// Empties it, for another datagram.
    pub fn begin(&mut self) {
        self.bytes.clear();
        self.list.clear();
        self.left = None;
    }

    /// The present datagram has so many bytes, and the address it came from is not proved: it gets so little that nobody gains by
    /// writing the address of somebody else on his datagrams.
    pub(super) fn limit(&mut self, len: usize) {
        self.left = Some(AMPLIFICATION * len);
    }

    /// Runs `with` where no limit holds: for what goes elsewhere than where the present datagram came from.
    pub(super) fn elsewhere(&mut self, with: impl FnOnce(&mut Self)) {
        let left = self.left.take();
        with(self);
        self.left = left;
    }

    /// Whether the address the present datagram came from is not proved.
    pub(super) const fn is_limited(&self) -> bool {
        self.left.is_some()
    }

    /// Whether a datagram of so many bytes may be sent.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.left.is_none_or(|left| len <= left)
    }

    /// Appends the datagram that `write` writes, and gives what it says. `Ok(None)` if it is longer than what may be sent.
    ///
    /// # Errors
    /// That of `write`, and nothing is appended.
    pub(super) fn push<T, E>(
        &mut self,
        to: SocketAddr,
        via: Via,
        kind: DownlinkKind,
        write: impl FnOnce(&mut Vec<u8>) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let start = self.bytes.len();
        let written = write(&mut self.bytes)?;
        let len = self.bytes.len() - start;
        if let Some(left) = &mut self.left {
            let Some(rest) = left.checked_sub(len) else {
                self.bytes.truncate(start);
                return Ok(None);
            };
            *left = rest;
        }
        self.list.push(Queued { to, via, kind, bytes: start..self.bytes.len() });
        Ok(Some(written))
    }

    /// The datagrams, in the order in which they are to leave.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Reply<'_>> {
        self.list.iter().map(|queued| {
            let Queued { to, via, kind, .. } = *queued;
            Reply { to, via, kind, bytes: &self.bytes[queued.bytes.clone()] }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn push(replies: &mut Replies, len: usize) -> Option<()> {
        let to = SocketAddr::from(([192, 0, 2, 1], 6200));
        let write = |out: &mut Vec<u8>| {
            out.resize(out.len() + len, len as u8);
            Ok::<_, Infallible>(())
        };
        let Ok(pushed) = replies.push(to, Via(3), DownlinkKind::Intent, write);
        pushed
    }

    fn lengths(replies: &Replies) -> Vec<usize> {
        replies
            .iter()
            .inspect(|reply| assert!(reply.bytes.iter().all(|byte| usize::from(*byte) == reply.bytes.len())))
            .map(|reply| reply.bytes.len())
            .collect()
    }

    #[test]
    fn an_address_that_is_not_proved_gets_three_times_what_came_from_it() {
        let mut replies = Replies::default();
        replies.limit(40);
        assert!(replies.is_limited() && replies.has_room(120) && !replies.has_room(121));
        replies.elsewhere(|replies| assert_eq!(push(replies, 200), Some(())));
        assert_eq!([60, 61, 59, 1, 1].map(|len| push(&mut replies, len).is_some()), [true, false, true, true, false]);
        assert_eq!(lengths(&replies), [200, 60, 59, 1]);
        replies.begin();
        assert!(replies.has_room(200));
        assert_eq!((push(&mut replies, 200), lengths(&replies)), (Some(()), vec![200]));
    }

    #[test]
    fn what_is_not_written_is_not_there() {
        let mut replies = Replies::default();
        let to = SocketAddr::from(([192, 0, 2, 1], 6200));
        let refused = replies.push(to, Via(3), DownlinkKind::Ack, |_| Err::<(), _>("no key"));
        assert_eq!((refused, replies.iter().len()), (Err("no key"), 0));
    }
}
