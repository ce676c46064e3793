//! Short names for the ways datagrams come in: which socket, and which address of this machine. A record of the table has a
//! byte for one.

use std::sync::{Arc, PoisonError, RwLock};

use crate::table::sending::Via;
use crate::udp::LocalAddress;

/// Ways that have a name. [`Via::UNKNOWN`] is none of them.
const LIMIT: usize = Via::UNKNOWN.0 as usize;

/// The ways that were seen, by name. They are few: a machine has few addresses.
#[derive(Debug)]
pub struct Vias(RwLock<Vec<Way>>);

/// The place of a socket among those of the gateway, and an address of this machine.
type Way = (usize, LocalAddress);

impl Vias {
    /// For so many sockets. Each has a name without an address, which stands for those that find no room.
    pub fn new(sockets: usize) -> Self {
        Self(RwLock::new((0..sockets.min(LIMIT)).map(|socket| (socket, LocalAddress::default())).collect()))
    }

    /// The socket and the address that a name stands for; the first socket and an address of the system's choice for one that
    /// was never given.
    pub fn way(&self, via: Via) -> (usize, LocalAddress) {
        let ways = self.0.read().unwrap_or_else(PoisonError::into_inner);
        ways.get(usize::from(via.0)).copied().unwrap_or_default()
    }

    fn name(&self, way: Way) -> Via {
        let find = |ways: &[Way]| ways.iter().position(|known| *known == way);
        // Found first without waiting for anybody.
        let known = find(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        known.map_or_else(|| self.add(way), |index| Via(index as u8))
    }

    fn add(&self, way: Way) -> Via {
        let mut ways = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been here.
        let index = match ways.iter().position(|known| *known == way) {
            Some(index) => index,
            None if ways.len() < LIMIT => {
                ways.push(way);
                ways.len() - 1
            }
            None => way.0.min(LIMIT),
        };
        Via(index as u8)
    }
}

/// Ways that a thread knows without asking. A machine with more addresses than that in use at a time is rare.
const KNOWN: usize = 8;

/// Names the ways of one socket.
#[derive(Debug)]
pub struct Namer {
    vias: Arc<Vias>,
    socket: usize,
    /// Ways that were named lately, at most [`KNOWN`], so that threads do not meet in [`Vias`] for each datagram.
    known: Vec<(LocalAddress, Via)>,
    /// The place of the last one.
    last: usize,
}

impl Namer {
    /// For the socket at this place.
    pub const fn new(vias: Arc<Vias>, socket: usize) -> Self {
        Self { vias, socket, known: Vec::new(), last: 0 }
    }

    /// The name of the way by which a datagram came in at `local`. Costs a comparison for each of the few ways that are in use.
    pub fn name(&mut self, local: LocalAddress) -> Via {
        if let Some(at) = self.known.iter().position(|(known, _)| *known == local) {
            self.last = at;
            return self.known[at].1;
        }
        let via = self.vias.name((self.socket, local));
        if self.known.len() < KNOWN {
            self.last = self.known.len();
            self.known.push((local, via));
        } else {
            self.last = (self.last + 1) % KNOWN;
            self.known[self.last] = (local, via);
        }
        via
    }

    /// The address that a name stands for, if it is one of this socket. Of those that share a name, the last one.
    pub fn local(&self, via: Via) -> Option<LocalAddress> {
        if let Some((local, last)) = self.known.get(self.last)
            && *last == via
        {
            return Some(*local);
        }
        let (socket, local) = self.vias.way(via);
        (socket == self.socket).then_some(local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(number: u16) -> LocalAddress {
        LocalAddress::from_ip(std::net::Ipv4Addr::from(0x7f00_0000 | u32::from(number)).into())
    }

    #[test]
    fn a_way_has_one_name_whichever_thread_asks() {
        let vias = Arc::new(Vias::new(2));
        let mut namers = [0, 1].map(|socket| Namer::new(Arc::clone(&vias), socket));
        let first = namers[0].name(local(1));
        let other = namers[0].name(local(2));
        assert_eq!((namers[0].name(local(1)), namers[0].name(local(1))), (first, first));
        let of_second = namers[1].name(local(1));
        assert!(first != other && of_second != first && of_second != other);
        assert_eq!([first, other, of_second].map(|via| vias.way(via)), [(0, local(1)), (0, local(2)), (1, local(1))]);
        assert_eq!((namers[0].local(other), namers[0].local(of_second)), (Some(local(2)), None));
        assert_eq!(vias.way(Via::UNKNOWN), (0, LocalAddress::default()));
        assert_eq!(namers[0].local(Via::UNKNOWN), Some(LocalAddress::default()));
    }

    #[test]
    fn ways_in_turns_keep_their_names_whether_all_are_known_or_not() {
        let vias = Arc::new(Vias::new(1));
        let mut namer = Namer::new(vias, 0);
        for count in [2, KNOWN as u16, KNOWN as u16 + 1] {
            let names: Vec<_> = (0..count).map(|number| namer.name(local(number))).collect();
            for number in (0..count).chain((0..count).rev()) {
                let via = namer.name(local(number));
                assert_eq!((via, namer.local(via)), (names[usize::from(number)], Some(local(number))));
            }
        }
    }

    #[test]
    fn ways_beyond_the_255th_keep_their_socket() {
        let vias = Arc::new(Vias::new(2));
        let mut namer = Namer::new(Arc::clone(&vias), 1);
        let names: Vec<_> = (0..300).map(|number| namer.name(local(number))).collect();
        assert_eq!(vias.way(names[252]), (1, local(252)));
        assert!(names[253..].iter().all(|via| vias.way(*via) == (1, LocalAddress::default())));
        // An answer leaves from where the datagram arrived all the same.
        for number in [298, 253, 299, 3] {
            let via = namer.name(local(number));
            assert_eq!((via, namer.local(via)), (names[usize::from(number)], Some(local(number))));
        }
        assert!(!names.contains(&Via::UNKNOWN));
    }
}
