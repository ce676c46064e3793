//! The routes that moved last, for whoever watches the gateway.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::route::Trust;

/// Moves kept: more than a screen shows, and few enough that copying them delays no packet.
const KEPT: usize = 64;

/// A route that moved.
///
/// A relayed route leads over a relay, and its addresses are those the relays' datagrams came from: a device that is heard
/// through another Bluetooth address by the same relay moves without a change of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Whose route.
    pub device_id: DeviceId,
    /// When the packet that moved it arrived.
    pub at: Timestamp,
    /// Where it led before.
    pub from: SocketAddr,
    /// Where it leads since.
    pub to: SocketAddr,
    /// What the packet that moved it proved.
    pub trust: Trust,
}

/// The last 64 moves, of all ingest threads together.
///
/// Shared by a lock that is held for no longer than it takes to write one move or to copy all of them.
#[derive(Debug)]
pub struct MoveLog(Mutex<VecDeque<Move>>);

impl Default for MoveLog {
    fn default() -> Self {
        Self(Mutex::new(VecDeque::with_capacity(KEPT)))
    }
}

impl MoveLog {
    /// Writes a move down. Allocates nothing.
    pub fn push(&self, moved: Move) {
        let mut moves = self.lock();
        if moves.len() == KEPT {
            moves.pop_back();
        }
        moves.push_front(moved);
    }

    /// The moves, the latest first.
    pub fn latest(&self) -> Vec<Move> {
        // Allocated before the lock is taken.
        let mut copy = Vec::with_capacity(KEPT);
        let moves = self.lock();
        let (first, second) = moves.as_slices();
        copy.extend_from_slice(first);
        copy.extend_from_slice(second);
        copy
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Move>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_64_moves_are_kept_the_latest_first_in_the_room_there_is() {
        let log = MoveLog::default();
        assert_eq!(log.latest(), []);
        let capacity = log.lock().capacity();
        let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let moved = |number: u16| Move {
            device_id: DeviceId(7),
            at: Timestamp(number.into()),
            from: address(number),
            to: address(number + 1),
            trust: Trust::Network,
        };
        for number in 0..100 {
            log.push(moved(number));
        }
        assert_eq!(log.latest(), (36..100).rev().map(moved).collect::<Vec<_>>());
        assert_eq!(log.lock().capacity(), capacity);
    }
}
