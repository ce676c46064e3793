//! One datagram from end to end, as a synchronous function: parse, authenticate, record, wake, answer.
//!
//! No socket and no clock: bytes, source and time come in, a [`Disposition`] and perhaps an acknowledgement go out.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::auth::keys::{Interface, KeyRing};
use crate::auth::nonce::OwnNonces;
use crate::auth::{Authenticator, Verified};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::metrics::{Disposition, Tally};
use crate::table::accept::{Acceptance, Accepted};
use crate::table::route::{Outcome, Path, Relaying, canonical};
use crate::table::{RoutePolicy, RouteTable};
use crate::waiters::Waiters;
use crate::wire::container::{self, Content, Entry};
use crate::wire::control;
use crate::wire::frame::{Flags, Frame, Header, Layout, PacketType};

use super::moves::{Move, MoveLog};
pub use super::refusals::RefusalLog;

/// What all ingest threads share.
#[derive(Debug)]
pub struct Core {
    /// The keys of networks and devices.
    pub keys: Arc<KeyRing>,
    /// Last route and state of every device.
    pub table: Arc<RouteTable>,
    /// Who waits for whom.
    pub waiters: Arc<Waiters>,
    /// The nonces of our own downlinks.
    pub nonces: OwnNonces,
    /// What may move a route.
    pub policy: RoutePolicy,
    /// What was refused, for the log.
    pub refusals: RefusalLog,
    /// The routes that moved last.
    pub moves: Arc<MoveLog>,
}

impl Core {
    /// What authentic packets are judged with.
    fn acceptance(&self) -> Acceptance<'_> {
        let nonces = Some(&self.nonces);
        Acceptance { keys: &self.keys, keyed: None, table: &self.table, nonces, policy: self.policy }
    }
}

/// A datagram as the socket gave it.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Its bytes; an authentic one is decrypted in place.
    pub bytes: &'a mut [u8],
    /// It was longer than the receive buffer.
    pub truncated: bool,
    /// Where it came from.
    pub source: SocketAddr,
    /// When it was read.
    pub at: Timestamp,
}

/// Takes in datagrams, for one thread.
#[derive(Debug)]
pub struct Pipeline {
    core: Arc<Core>,
    authenticator: Authenticator,
    /// Devices that the datagrams of the present batch claim to be from.
    claimed: Vec<DeviceId>,
    /// Where sealed entries of containers are opened.
    scratch: Vec<u8>,
    /// What happened since the thread last published it.
    pub tally: Tally,
}

/// What became of one packet, direct or out of a container.
struct Taken {
    disposition: Disposition,
    /// The rule, or the step of rule R4, that decided, where the disposition does not say.
    rule: Option<&'static str>,
    /// The sequence of the acknowledgement it asks for, if it counted.
    ack_sequence: Option<u16>,
}

impl Taken {
    const fn refused(disposition: Disposition) -> Self {
        Self { disposition, rule: None, ack_sequence: None }
    }
}

impl Pipeline {
    /// A pipeline for one thread.
    pub fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            authenticator: Authenticator::default(),
            claimed: Vec::new(),
            scratch: Vec::with_capacity(crate::wire::MAX_DATAGRAM),
            tally: Tally::default(),
        }
    }

    /// Prepares for datagrams that are about to be taken in: their records are fetched together.
    pub fn prefetch<'a>(&mut self, datagrams: impl Iterator<Item = &'a [u8]>) {
        self.claimed.clear();
        self.claimed.extend(datagrams.filter_map(Frame::claimed_device));
        self.core.table.prefetch(&self.claimed);
    }

    /// Takes in one datagram. If it is to be acknowledged, the acknowledgement is appended to `reply`, to be sent to the
    /// datagram's source from the address it arrived at (rule R7).
    pub fn take(&mut self, datagram: Datagram<'_>, reply: &mut Vec<u8>) -> Disposition {
        let (source, at, len) = (datagram.source, datagram.at, datagram.bytes.len());
        let taken = self.datagram(datagram, reply);
        self.tally.datagram(taken.disposition);
        if taken.disposition != Disposition::Accepted {
            self.core.refusals.note(taken.disposition, taken.rule, source, len, at);
        }
        taken.disposition
    }

    fn datagram(&mut self, datagram: Datagram<'_>, reply: &mut Vec<u8>) -> Taken {
        let Datagram { bytes, truncated, source, at } = datagram;
        if truncated {
            return Taken::refused(Disposition::Oversize);
        }
        let frame = match Frame::parse(bytes, Layout::Unversioned) {
            Ok(frame) => frame,
            Err(error) => return Taken::refused(error.into()),
        };
        let verified = match self.authenticator.open(&self.core.keys, frame, Interface::Udp, at) {
            Ok(verified) => verified,
            Err(refusal) => return Taken::refused(refusal.into()),
        };
        let taken = self.packet(&verified, &Path::Direct(source), at);
        if taken.disposition == Disposition::Accepted {
            if let Some(sequence) = taken.ack_sequence {
                self.acknowledge(&verified, sequence, at, reply);
            }
            if verified.header().packet_type == PacketType::RECEIVED_EPACKET {
                self.container(&verified, source, at);
            }
        }
        taken
    }

    /// An authentic packet: rules R1 to R5 and R9.
    fn packet(&mut self, verified: &Verified<'_>, path: &Path, at: Timestamp) -> Taken {
        let device_id = verified.header().device_id;
        let accepted = self.core.acceptance().accept(verified, path, at);
        let disposition = accepted.disposition();
        match accepted {
            Accepted::Recorded { outcome: Outcome::Counted(counted), malformed } => {
                let organisation =
                    || self.core.table.registration(device_id).map(|registration| registration.organisation);
                self.core.waiters.heard(device_id, counted.cursor, organisation);
                self.tally.malformed_tdf += u64::from(malformed);
                if let Some(from) = counted.moved_from {
                    self.moved(verified, from, path.source(), at);
                }
                tracing::debug!(
                    device = %device_id, kind = verified.header().packet_type.name(), source = %path.source(),
                    rule = counted.step.name(), route = counted.change.name(), "packet"
                );
                Taken { disposition, rule: Some(counted.step.name()), ack_sequence: counted.ack_sequence }
            }
            Accepted::Recorded { outcome: Outcome::Refused(step), .. } => {
                Taken { rule: Some(step.name()), ..Taken::refused(disposition) }
            }
            Accepted::Foreign => Taken { rule: Some("R8"), ..Taken::refused(disposition) },
            Accepted::Recorded { outcome: Outcome::NotRegistered, .. } | Accepted::Reflected => {
                Taken::refused(disposition)
            }
        }
    }

    fn moved(&mut self, verified: &Verified<'_>, from: SocketAddr, to: SocketAddr, at: Timestamp) {
        self.tally.route_moves += 1;
        let (device_id, trust) = (verified.header().device_id, verified.level().into());
        self.core.moves.push(Move { device_id, at, from, to: canonical(to), trust });
    }

    /// Rule R7: at the level and by the key of the packet that asks, with the gateway's true time.
    fn acknowledge(&mut self, verified: &Verified<'_>, sequence: u16, at: Timestamp, reply: &mut Vec<u8>) {
        let asking = verified.header();
        let gps_time = at.gps();
        let header = Header {
            packet_type: PacketType::ACK,
            flags: Flags(asking.flags.0 & Flags::DEVICE_KEY),
            key_id: asking.key_id,
            device_id: asking.device_id,
            gps_time,
            sequence,
            entropy: self.core.nonces.entropy(asking.device_id, gps_time, sequence),
        };
        let payload = control::ack(asking.sequence);
        let (keys, layout) = (&self.core.keys, Layout::Unversioned);
        if let Err(refusal) = self.authenticator.seal(keys, &header, layout, Interface::Udp, &payload, reply) {
            // The key opened the packet a moment ago, so it was removed since.
            tracing::debug!(device = %asking.device_id, %refusal, "not acknowledged");
        }
    }

    /// The packets of other devices that a relay passes on. A malformed container stands up to its fault (rule R0).
    fn container(&mut self, outer: &Verified<'_>, source: SocketAddr, at: Timestamp) {
        for entry in container::entries(outer.payload()) {
            match entry {
                Ok(entry) => {
                    let disposition = self.entry(outer, &entry, source, at);
                    self.tally.entry(disposition);
                }
                Err(error) => {
                    self.tally.malformed_containers += 1;
                    tracing::debug!(relay = %outer.header().device_id, %error, "malformed container");
                }
            }
        }
    }

    fn entry(&mut self, outer: &Verified<'_>, entry: &Entry<'_>, source: SocketAddr, at: Timestamp) -> Disposition {
        let Some(interface) = Interface::heard_on(entry.interface) else { return Disposition::UnknownInterface };
        let path = Path::Relayed(Relaying::by(outer, entry, source));
        match entry.content {
            Content::Opened { header, payload } => {
                self.packet(&Verified::on_word_of(outer, header, payload), &path, at).disposition
            }
            Content::Sealed(bytes) => self.sealed_entry(bytes, interface, &path, at),
        }
    }

    fn sealed_entry(&mut self, bytes: &[u8], interface: Interface, path: &Path, at: Timestamp) -> Disposition {
        // Taken out of `self` while the packet borrows it.
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(bytes);
        let disposition = match Frame::parse(&mut scratch, Layout::Versioned) {
            Err(error) => error.into(),
            Ok(frame) => match self.authenticator.open(&self.core.keys, frame, interface, at) {
                Ok(verified) => self.packet(&verified, path, at).disposition,
                Err(refusal) => refusal.into(),
            },
        };
        self.scratch = scratch;
        disposition
    }
}
