//! Datagrams that others hand to the ingest threads, which have the sockets: what is sent without a packet to answer.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::vias::{Namer, Vias};
use crate::metrics::DownlinkKind;
use crate::table::sending::Via;
use crate::udp::LocalAddress;

/// Datagrams that wait for one thread: as many as are accepted in a second, durable, and about 1 MiB. A thread that is behind
/// by more has no time for them.
const WAITING: usize = 1024;

/// No more can be handed over at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway has no room for another datagram at the moment; try again in a second")]
pub struct Busy;

/// A datagram on its way to the thread that sends it.
#[derive(Debug, PartialEq, Eq)]
pub struct Post {
    /// Where it goes.
    pub peer: SocketAddr,
    /// The address it leaves from.
    pub local: LocalAddress,
    /// What it counts as.
    pub kind: DownlinkKind,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The ways to all ingest threads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Posts {
    vias: Arc<Vias>,
    threads: Arc<[mpsc::Sender<Post>]>,
}

/// A place at an ingest thread, see [`Posts::reserve`].
#[derive(Debug)]
pub struct Place {
    permit: mpsc::OwnedPermit<Post>,
    local: LocalAddress,
}

/// What one ingest thread needs of the others and of those who send.
#[derive(Debug)]
pub struct Mailbox {
    /// The names of its ways.
    pub(super) namer: Namer,
    /// What it is to send.
    pub(super) posted: mpsc::Receiver<Post>,
    /// The way to the others.
    pub(super) posts: Posts,
}

impl Posts {
    /// For so many ingest threads, each with a socket: the ways to them, and the mailbox of each, in their order.
    pub fn to_threads(sockets: usize) -> (Self, Vec<Mailbox>) {
        let (threads, posted): (Vec<_>, Vec<_>) = (0..sockets).map(|_| mpsc::channel(WAITING)).unzip();
        let posts = Self { vias: Arc::new(Vias::new(sockets)), threads: threads.into() };
        let mailbox = |(socket, posted)| {
            let namer = Namer::new(Arc::clone(&posts.vias), socket);
            Mailbox { namer, posted, posts: posts.clone() }
        };
        let mailboxes = posted.into_iter().enumerate().map(mailbox).collect();
        (posts, mailboxes)
    }

    /// Hands over a datagram that counts as `kind`, to leave by `via`. Never waits.
    ///
    /// # Errors
    /// The thread has fallen behind, or has ended.
    pub(super) fn post(&self, kind: DownlinkKind, via: Via, peer: SocketAddr, bytes: Vec<u8>) -> Result<(), Busy> {
        let (socket, local) = self.vias.way(via);
        let thread = self.threads.get(socket).ok_or(Busy)?;
        thread.try_send(Post { peer, local, kind, bytes }).map_err(|_| Busy)
    }

    /// A place for a datagram of an intent, to leave by `via`: kept until it is handed over, or dropped. For whoever has to know
    /// that it will be before it is sealed.
    ///
    /// # Errors
    /// The thread has fallen behind, or has ended.
    pub fn reserve(&self, via: Via) -> Result<Place, Busy> {
        let (socket, local) = self.vias.way(via);
        let thread = self.threads.get(socket).ok_or(Busy)?;
        let permit = thread.clone().try_reserve_owned().map_err(|_| Busy)?;
        Ok(Place { permit, local })
    }
}

impl Place {
    /// Hands over the datagram.
    pub fn post(self, peer: SocketAddr, bytes: Vec<u8>) {
        self.permit.send(Post { peer, local: self.local, kind: DownlinkKind::Intent, bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_gets_to_the_thread_and_the_address_that_its_way_names() {
        let (posts, mut mailboxes) = Posts::to_threads(2);
        let peer = SocketAddr::from(([192, 0, 2, 1], 6200));
        let local = LocalAddress::from_ip([127, 0, 0, 9].into());
        let via = mailboxes[1].namer.name(local);
        posts.post(DownlinkKind::Intent, via, peer, vec![1]).unwrap();
        posts.clone().post(DownlinkKind::Intent, Via::UNKNOWN, peer, vec![2]).unwrap();
        let post = |local, bytes| Post { peer, local, kind: DownlinkKind::Intent, bytes };
        assert_eq!(mailboxes[1].posted.try_recv(), Ok(post(local, vec![1])));
        assert_eq!(mailboxes[0].posted.try_recv(), Ok(post(LocalAddress::default(), vec![2])));
        assert!(mailboxes.iter_mut().all(|mailbox| mailbox.posted.try_recv().is_err()));
    }

    #[test]
    fn a_place_is_there_until_it_is_used_or_dropped() {
        let (posts, mut mailboxes) = Posts::to_threads(1);
        let peer = SocketAddr::from(([192, 0, 2, 1], 6200));
        let mut places: Vec<_> = (0..WAITING).map(|_| posts.reserve(Via::UNKNOWN).unwrap()).collect();
        assert_eq!(posts.post(DownlinkKind::Intent, Via::UNKNOWN, peer, vec![]), Err(Busy));
        places.pop().unwrap().post(peer, vec![7]);
        assert_eq!(posts.reserve(Via::UNKNOWN).map(|_| ()), Err(Busy));
        assert_eq!(mailboxes[0].posted.try_recv().unwrap().bytes, [7]);
        drop(places.pop());
        posts.post(DownlinkKind::Intent, Via::UNKNOWN, peer, vec![]).unwrap();
        posts.post(DownlinkKind::Intent, Via::UNKNOWN, peer, vec![]).unwrap();
        assert_eq!(posts.post(DownlinkKind::Intent, Via::UNKNOWN, peer, vec![]), Err(Busy));
    }

    #[test]
    fn whoever_hands_over_more_than_a_thread_takes_is_told() {
        let (posts, mailboxes) = Posts::to_threads(1);
        let peer = SocketAddr::from(([192, 0, 2, 1], 6200));
        for _ in 0..WAITING {
            posts.post(DownlinkKind::Intent, Via::UNKNOWN, peer, vec![]).unwrap();
        }
        assert_eq!(posts.post(DownlinkKind::Intent, Via::UNKNOWN, peer, vec![]), Err(Busy));
        drop(mailboxes);
        assert_eq!(posts.post(DownlinkKind::Intent, Via::UNKNOWN, peer, vec![]), Err(Busy), "the thread has ended");
        let (none, _) = Posts::to_threads(0);
        assert_eq!(none.post(DownlinkKind::Intent, Via::UNKNOWN, peer, vec![]), Err(Busy));
    }
}
