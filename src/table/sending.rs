//! What downlinks need to know of a device: when one may leave, and where to (rules R5 and R7).
//!
//! So that devices nobody has anything for cost nothing, a record has a mark that says: look into the outbox. Whoever puts
//! something there calls [`RouteTable::expect`] afterwards, a record begins with the mark, and a packet that releases, or that
//! would once a challenge is answered, takes it away under the lock of the record. So what is put into the outbox is there when
//! the packet's taker looks, or the mark is there when the next packet comes.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::RouteTable;
use super::route::Route;
use super::rules::{RouteChange, Slot, Step};
use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId};

/// How long after a packet of its own a device is spoken to directly, whatever comes through relays.
pub const DIRECT_FOR: Duration = Duration::from_secs(300);

/// Downlink sequences left out after a loss: more than are used for a device between two writes of its record.
pub(super) const LOST: u16 = 1024;

/// The socket and the local address a datagram came in by, as a small number that whoever holds the sockets gives out. Its
/// answer leaves by the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Via(pub u8);

impl Via {
    /// Not known: the first socket, from whatever address the system chooses.
    pub const UNKNOWN: Self = Self(u8::MAX);
}

/// How and when the datagram of a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// When it was read.
    pub at: Timestamp,
    /// Where.
    pub via: Via,
    /// Its length in bytes; 0 if it is not known.
    pub len: u16,
}

impl From<Timestamp> for Receipt {
    /// Of a datagram that nobody answers.
    fn from(at: Timestamp) -> Self {
        Self { at, via: Via::UNKNOWN, len: 0 }
    }
}

/// Whether a counted packet lets downlinks that wait for its device leave to its source (rule R7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// No: it is late, or from elsewhere than the route.
    No,
    /// Not before a challenge is answered from there: it may be a replay, or of another member of the network.
    Challenge,
    /// Yes.
    Yes,
}

impl Release {
    /// Rule R7. `proves`: the packet cannot be a replay. `is_trusted`: the packet may move the route, or the route was proved
    /// before. `single_tx`: the sender says that nothing follows soon, so that it could not answer a challenge. `is_heard_directly`: within [`DIRECT_FOR`], which bars
    /// the way through relays.
    pub(super) const fn of(
        step: Step,
        proves: bool,
        change: RouteChange,
        slot: Slot,
        is_trusted: bool,
        single_tx: bool,
        is_heard_directly: bool,
    ) -> Self {
        let barred = Self::is_barred(slot, is_heard_directly);
        if barred || matches!(change, RouteChange::Kept) || matches!(step, Step::Late) || !step.counts() {
            return Self::No;
        }
        let is_last_word = single_tx && matches!((slot, change), (Slot::Direct, RouteChange::Refreshed));
        if is_trusted && (proves || is_last_word) { Self::Yes } else { Self::Challenge }
    }

    /// The answer to a challenge releases whatever rule R8 does not bar.
    pub(super) const fn of_answer(slot: Slot, is_heard_directly: bool) -> Self {
        if Self::is_barred(slot, is_heard_directly) { Self::No } else { Self::Yes }
    }

    /// Rule R8: nothing goes through a relay to a device that was heard directly.
    const fn is_barred(slot: Slot, is_heard_directly: bool) -> bool {
        matches!(slot, Slot::Relayed) && is_heard_directly
    }
}

/// Where downlinks to a device go (rule R5): its direct route while it was heard directly within 300 s, else the one heard
/// last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendRoute {
    /// The way.
    pub route: Route,
    /// By which socket, for a direct route. A relayed one goes the way of its relay.
    pub via: Via,
    /// The network the device spoke under last, as [`crate::auth::keys::KeyRing::network_numbered`] knows it; 0 if it never did.
    pub network: u16,
    /// The longest datagram it has sent itself, in bytes, rounded down to a multiple of 8; 0 if it has sent none.
    pub largest: u16,
    /// Its last direct packet said that it listens all the time.
    pub always_rx: bool,
    /// Its last direct packet said that nothing follows soon.
    pub single_tx: bool,
    /// When it was last heard, in any way.
    pub heard_at: Timestamp,
    /// Whether a proved packet, or the answer to a challenge, came from there.
    pub proved: bool,
    /// The position of its last counted packet.
    pub cursor: Cursor,
}

impl SendRoute {
    /// The address datagrams go to: the device's, or its relay's.
    pub const fn address(&self) -> SocketAddr {
        match &self.route {
            Route::Direct(route) => route.address,
            Route::Relayed(route) => route.through.address,
        }
    }
}

impl RouteTable {
    /// Something for the device is in the outbox: the next packet of it that releases, or has it challenged, says so. To be
    /// called after it was put there. A device without a record needs none: its record begins so.
    pub fn expect(&self, id: DeviceId) {
        if let Some(record) = self.records.lock(id).find_mut() {
            record.expect(true);
        }
    }

    /// The sequence of the next downlink to a device, which is thereby used; `None` for one that was never heard.
    pub fn next_downlink_sequence(&self, id: DeviceId) -> Option<u16> {
        let mut place = self.records.lock(id);
        let record = place.find_mut().filter(|record| record.is_heard())?;
        Some(self.moved_down(record.next_down_sequence()))
    }

    /// Moves the sequences of all downlinks from now on by so many from where they would be otherwise. To be called where time
    /// may be used again for downlinks.
    pub fn move_down_sequences(&self, by: u16) {
        self.down_moved.store(by, Ordering::Relaxed);
    }

    pub(super) fn moved_down(&self, sequence: u16) -> u16 {
        sequence.wrapping_add(self.down_lost).wrapping_add(self.down_moved.load(Ordering::Relaxed))
    }

    /// Where downlinks to a device go at `now`; `None` for one that was never heard.
    pub fn send_route(&self, id: DeviceId, now: Timestamp) -> Option<SendRoute> {
        self.records.lock(id).find()?.send_route(now, self.epoch_base)
    }

    /// Whether the route of a device has moved since the position `cursor`: its first route, a move of either slot, and a
    /// change from direct to relayed or back are moves. True where that is not known: for a position of another epoch, one
    /// that is yet to come, and one more than 65 534 packets ago. `None` for a device without a record.
    pub fn moved_since(&self, id: DeviceId, cursor: Cursor) -> Option<bool> {
        Some(self.records.lock(id).find()?.moved_since(cursor, self.epoch_base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r7_what_releases_and_what_does_not() {
        use RouteChange::{First, Kept, Moved, Refreshed};
        use Slot::{Direct, Relayed};
        let of = |step: Step, change, slot, is_trusted, single_tx, is_heard_directly| {
            Release::of(step, step.proved(), change, slot, is_trusted, single_tx, is_heard_directly)
        };
        let release = |step, change| of(step, change, Direct, true, false, true);
        for change in [First, Refreshed, Moved] {
            for step in [Step::SameSession, Step::NewSession] {
                assert_eq!(release(step, change), Release::Yes);
                let below = Release::of(step, false, change, Direct, true, false, true);
                assert_eq!(below, Release::Challenge, "of what may have been forgotten");
                assert_eq!(of(step, change, Relayed, true, false, false), Release::Yes);
                assert_eq!(of(step, change, Relayed, true, false, true), Release::No, "heard directly");
                for slot in [Direct, Relayed] {
                    assert_eq!(of(step, change, slot, false, true, false), Release::Challenge, "anybody's");
                }
            }
            for step in [Step::Unproven, Step::Pending] {
                assert_eq!(release(step, change), Release::Challenge);
                let single = if change == Refreshed { Release::Yes } else { Release::Challenge };
                assert_eq!(of(step, change, Direct, true, true, true), single, "cannot answer one");
                assert_eq!(of(step, change, Relayed, true, true, false), Release::Challenge, "means another thing");
            }
            for step in [Step::Late, Step::ExactCopy, Step::BitSet, Step::TooOld] {
                assert_eq!(of(step, change, Direct, true, true, false), Release::No);
            }
        }
        for step in [Step::SameSession, Step::NewSession, Step::Unproven, Step::Pending, Step::Late] {
            assert_eq!(of(step, Kept, Direct, true, true, false), Release::No, "from elsewhere");
        }
    }
}
