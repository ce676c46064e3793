//! An authentic packet, as the table takes it in.

use super::record::Counting;
use super::route::{Application, Path};
use super::rules::{Arrival, RouteChange, Slot, Step, TimeClass};
use super::sending::Receipt;
use crate::auth::Verified;
use crate::id::DeviceId;
use crate::wire::frame::{Flags, PacketType};

/// An authentic packet on its way into the table.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The packet.
    pub verified: &'a Verified<'a>,
    /// How it came.
    pub path: &'a Path,
    /// Whether the route policy lets it move a route. One that may not proves none either.
    pub may_move: bool,
    /// Whether it answers a challenge that was sent to where it came from (rule R6).
    pub answers: bool,
    /// What it announces about its sender.
    pub application: Option<Application>,
    /// The network it comes under, as in [`NetworkInfo`](crate::auth::keys::NetworkInfo); 0: none that is known.
    pub network: u16,
    /// How and when its datagram came in.
    pub receipt: Receipt,
}

impl<'a> Packet<'a> {
    /// A packet that may move a route, answers nothing, announces nothing, and comes under no network that is known.
    pub fn new(verified: &'a Verified<'a>, path: &'a Path, receipt: impl Into<Receipt>) -> Self {
        let receipt = receipt.into();
        Self { verified, path, may_move: true, answers: false, application: None, network: 0, receipt }
    }
}

impl Packet<'_> {
    pub(super) fn device_id(&self) -> DeviceId {
        self.verified.header().device_id
    }

    fn has(&self, flag: u16) -> bool {
        self.verified.header().flags.contains(flag)
    }

    /// Whether it asks for an acknowledgement. The flag means another thing in packets that come through relays.
    pub(super) fn asks(&self) -> bool {
        matches!(self.path, Path::Direct(_)) && self.has(Flags::ACK_REQUEST)
    }

    /// Whether its sender says that it does not listen. The flag means another thing in packets that come through relays.
    pub(super) fn is_deaf(&self) -> bool {
        matches!(self.path, Path::Direct(_)) && self.has(Flags::SINGLE_TX)
    }

    pub(super) fn arrival(&self) -> Arrival {
        let header = self.verified.header();
        Arrival {
            slot: match self.path {
                Path::Direct(_) => Slot::Direct,
                Path::Relayed(_) => Slot::Relayed,
            },
            class: TimeClass::of(header.gps_time, self.receipt.at.gps()),
            gps_time: header.gps_time,
            sequence: header.sequence,
            entropy: self.verified.entropy(),
            boot: header.packet_type == PacketType::KEY_IDS && header.sequence == 0,
            answers: false,
            at: self.receipt.at,
        }
    }

    pub(super) fn counting(&self, arrival: &Arrival, step: Step, proves: bool, change: RouteChange) -> Counting<'_> {
        let header = self.verified.header();
        Counting {
            path: self.path,
            step,
            proves,
            class: arrival.class,
            level: self.verified.level(),
            packet_type: header.packet_type,
            flags: header.flags,
            gps_time: header.gps_time,
            sequence: header.sequence,
            change,
            boot: arrival.boot,
            answers: arrival.answers,
            may_move: self.may_move,
            application: self.application,
            network: self.network,
            receipt: self.receipt,
        }
    }
}
