//! What the rules ask of a packet, for the oracle and for those who make packets.

use std::net::SocketAddr;

use lastroute::table::contest::Place;
use lastroute::wire::frame::{Flags, Level};

use super::{Sent, Way, through};

impl Sent {
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.way, Way::Direct(_))
    }

    pub(super) fn is_on_word(&self) -> bool {
        matches!(self.way, Way::OnWordOf(..))
    }

    pub(super) fn place(&self) -> Place {
        self.path().place()
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        Flags(self.flags).contains(flag)
    }

    /// It asks for an acknowledgement.
    pub(super) fn asks(&self) -> bool {
        self.is_direct() && self.has(Flags::ACK_REQUEST)
    }

    /// Nothing can be asked of it: it does not listen.
    pub(super) fn is_deaf(&self) -> bool {
        self.is_direct() && self.has(Flags::SINGLE_TX)
    }

    pub(super) fn proved_level(&self) -> Level {
        match self.way {
            Way::OnWordOf(_, relay) => self.level.min(relay),
            _ => self.level,
        }
    }

    pub(super) fn source(&self) -> SocketAddr {
        match self.way {
            Way::Direct(source) => SocketAddr::new(source.ip().to_canonical(), source.port()),
            Way::Relayed(relay) | Way::OnWordOf(relay, _) => through(relay, Level::Network).address,
        }
    }
}
