//! One datagram from end to end, as a synchronous function: parse, authenticate, record, wake, answer.
//!
//! No socket and no clock: bytes, source and time come in, a [`Disposition`] and what is to be sent in answer go out. Who
//! waits for a packet is woken by [`Pipeline::wake`], once the answers of a batch have left.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::auth::Refusal;
use crate::auth::keys::{Interface, KeyRing};
use crate::auth::nonce::OwnNonces;
use crate::auth::{Authenticator, Verified};
use crate::clock::Timestamp;
use crate::downlink::Downlinks;
use crate::id::{Cursor, DeviceId, KeyId};
use crate::metrics::{Challenge, Disposition, DownlinkKind, Tally};
use crate::table::accept::{Acceptance, Accepted};
use crate::table::claims::Claims;
use crate::table::route::{Outcome, Path, Refused as NotCounted, Relaying, Trust, canonical};
use crate::table::rules::TimeClass;
use crate::table::sending::{Receipt, Via};
use crate::table::{RoutePolicy, RouteTable};
use crate::waiters::Waiters;
use crate::wire::container::{self, Content, Entry};
use crate::wire::control;
use crate::wire::frame::{Flags, Frame, Header, Layout, Level, PacketType};

use super::answering::Came;
use super::moves::{Move, MoveLog};
pub use super::refusals::RefusalLog;
use super::refusals::Unlogged;
use super::replies::Replies;
use super::trace::{Decided, RefusedClaim, Trace, Traces};

/// What all ingest threads share.
#[derive(Debug)]
pub struct Core {
    /// The keys of networks and devices.
    pub keys: Arc<KeyRing>,
    /// Last route and state of every device.
    pub table: Arc<RouteTable>,
    /// Who waits for whom.
    pub waiters: Arc<Waiters>,
    /// What waits to be sent, and what was sent and is not answered.
    pub downlinks: Arc<Downlinks>,
    /// The nonces of our own downlinks.
    pub nonces: Arc<OwnNonces>,
    /// What may move a route.
    pub policy: RoutePolicy,
    /// What was refused, for the log.
    pub refusals: RefusalLog,
    /// The routes that moved last.
    pub moves: Arc<MoveLog>,
    /// What was decided of the packets that came in last.
    pub traces: Arc<Traces>,
}

impl Core {
    /// What authentic packets are judged with.
    fn acceptance(&self) -> Acceptance<'_> {
        let nonces = Some(&*self.nonces);
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
    /// Which way it came in.
    pub via: Via,
    /// When it was read.
    pub at: Timestamp,
}

/// Takes in datagrams, for one thread.
#[derive(Debug)]
pub struct Pipeline {
    pub(super) core: Arc<Core>,
    pub(super) authenticator: Authenticator,
    /// Those of the present batch.
    claims: Claims,
    /// Where sealed entries of containers are opened.
    scratch: Vec<u8>,
    /// What counted since those who wait for it were woken.
    heard: Vec<(DeviceId, Cursor)>,
    /// What this thread remembers of packets.
    trace: Arc<Trace>,
    /// What it refused in the present batch without a line in the log.
    unlogged: Unlogged,
    /// What happened since the thread last published it.
    pub tally: Tally,
}

/// What a datagram ended in.
struct Ended {
    disposition: Disposition,
    /// The rule, or the step of rule R4, that decided, where the disposition does not say.
    rule: Option<&'static str>,
}

impl From<Disposition> for Ended {
    fn from(disposition: Disposition) -> Self {
        Self { disposition, rule: None }
    }
}

/// What a frame says of itself that was not opened.
struct Claim {
    device: DeviceId,
    key_id: KeyId,
    level: Level,
}

impl Claim {
    const fn of(header: &Header) -> Self {
        Self { device: header.device_id, key_id: header.key_id, level: header.level() }
    }
}

impl Pipeline {
    /// A pipeline for one thread.
    pub fn new(core: Arc<Core>) -> Self {
        let trace = core.traces.add();
        Self {
            core,
            trace,
            unlogged: Unlogged::default(),
            authenticator: Authenticator::default(),
            claims: Claims::default(),
            scratch: Vec::with_capacity(crate::wire::MAX_DATAGRAM),
            heard: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Prepares for datagrams that are about to be taken in: what they will ask for is fetched together.
    pub fn prefetch<'a>(&mut self, datagrams: impl Iterator<Item = &'a [u8]>) {
        self.claims.prefetch(&self.core.keys, &self.core.table, datagrams);
    }

    /// Takes in one datagram. What is to be sent now is then in `replies`, and nothing else, in order: mostly to the datagram's
    /// source, the way it came in (rule R7).
    pub fn take(&mut self, datagram: Datagram<'_>, replies: &mut Replies) -> Disposition {
        replies.begin();
        let (source, at, len) = (datagram.source, datagram.at, datagram.bytes.len());
        let Ended { disposition, rule } = self.datagram(datagram, replies);
        self.tally.datagram(disposition);
        if disposition != Disposition::Accepted {
            self.core.refusals.note(&mut self.unlogged, (disposition, rule), source, len, at);
        }
        disposition
    }

    /// Ends a batch: wakes those who wait for what counted since the last time.
    pub fn wake(&mut self) {
        self.core.refusals.settle(&mut self.unlogged);
        for (device, cursor) in self.heard.drain(..) {
            let organisation = || self.core.table.registration(device).map(|registration| registration.organisation);
            self.core.waiters.heard(device, cursor, organisation);
        }
    }

    fn datagram(&mut self, datagram: Datagram<'_>, replies: &mut Replies) -> Ended {
        let Datagram { bytes, truncated, source, via, at } = datagram;
        let path = Path::Direct(source);
        // No datagram is longer: it would not be parsed.
        let len = bytes.len();
        let receipt = Receipt { at, via, len: u16::try_from(len).unwrap_or(u16::MAX) };
        if truncated {
            return Disposition::Oversize.into();
        }
        let frame = match Frame::parse(bytes, Layout::Unversioned) {
            Ok(frame) => frame,
            Err(error) => return Disposition::from(error).into(),
        };
        let claim = Claim::of(frame.header());
        let opened = self.authenticator.open(&self.core.keys, frame, Interface::Udp, at);
        let verified = match &opened {
            Ok(verified) => verified,
            Err(refusal) => return self.not_opened(*refusal, &claim, &path, at, replies).into(),
        };
        let came = Came { verified, path: &path, receipt: &receipt };
        let accepted = self.packet(&came);
        if let Accepted::Recorded { outcome, .. } = &accepted {
            self.answer_datagram(&came, outcome, len, replies);
        }
        Ended { disposition: accepted.disposition(), rule: accepted.rule() }
    }

    /// Answers an authentic packet of a datagram of its own, of `len` bytes.
    fn answer_datagram(&mut self, came: &Came<'_>, outcome: &Outcome, len: usize, replies: &mut Replies) {
        match outcome {
            Outcome::Counted(counted) => {
                if !counted.proved_address {
                    replies.limit(len);
                }
                self.answer(came, counted, replies);
                if came.verified.header().packet_type == PacketType::RECEIVED_EPACKET {
                    self.container(came, replies);
                }
            }
            Outcome::Refused(refused) => {
                // A copy proves nothing of where it came from, unless it answers.
                if refused.answered.is_none() {
                    replies.limit(len);
                }
                self.answer_copy(came, refused, replies);
            }
            Outcome::NotRegistered => {}
        }
    }

    fn not_opened(
        &mut self,
        refusal: Refusal,
        claim: &Claim,
        path: &Path,
        at: Timestamp,
        replies: &mut Replies,
    ) -> Disposition {
        let Claim { device, key_id, level } = *claim;
        let (source, relay, disposition) = (path.source(), path.relay(), refusal.into());
        self.trace.refused(&RefusedClaim { device, at, source, relay, level, key_id, disposition });
        if let Refusal::UnknownDevice(device_id) | Refusal::UnknownKey { device_id, .. } = refusal {
            self.miss_key(device_id, key_id, at, replies);
        }
        disposition
    }

    /// An authentic packet: rules R1 to R5 and R9.
    fn packet(&mut self, came: &Came<'_>) -> Accepted {
        let answers = self.is_answer(came);
        let accepted = self.core.acceptance().accept(came.verified, came.path, *came.receipt, answers);
        self.remember(came, &accepted);
        match &accepted {
            Accepted::Recorded { outcome: Outcome::Counted(counted), malformed } => {
                let header = came.verified.header();
                self.heard.push((header.device_id, counted.cursor));
                self.tally.malformed_tdf += u64::from(*malformed);
                self.follow(came, counted.is_answer, counted.moved_from);
                tracing::debug!(
                    device = %header.device_id, kind = header.packet_type.name(), source = %came.path.source(),
                    rule = counted.step.name(), route = counted.change.name(), answers = counted.is_answer, "packet"
                );
            }
            Accepted::Recorded { outcome: Outcome::Refused(NotCounted { answered: Some(answered), .. }), .. } => {
                self.follow(came, true, answered.moved_from);
            }
            Accepted::Recorded { .. } | Accepted::Foreign | Accepted::Reflected => {}
        }
        accepted
    }

    fn remember(&self, came: &Came<'_>, accepted: &Accepted) {
        let Came { verified, path, receipt } = *came;
        let Header { device_id, gps_time, sequence, packet_type, .. } = *verified.header();
        self.trace.decided(&Decided {
            device: device_id,
            at: receipt.at,
            source: path.source(),
            relay: path.relay(),
            level: verified.level(),
            packet_type,
            class: TimeClass::of(gps_time, receipt.at.gps()),
            sequence,
            gps_time,
            decision: accepted.into(),
        });
    }

    /// Counts what a packet did to the route of its device, and writes down where that led before.
    fn follow(&mut self, came: &Came<'_>, is_answer: bool, moved_from: Option<SocketAddr>) {
        if is_answer {
            self.tally.challenge(Challenge::Answered);
        }
        let Some(from) = moved_from else { return };
        self.tally.route_moves += 1;
        let trust = if is_answer { Trust::Verified } else { came.verified.level().into() };
        let (device_id, at, to) = (came.verified.header().device_id, came.receipt.at, canonical(came.path.source()));
        self.core.moves.push(Move { device_id, at, from, to, trust });
    }

    /// Rule R7: at the level and by the key of the packet that asks, with the gateway's true time.
    pub(super) fn acknowledge(&mut self, came: &Came<'_>, sequence: u16, replies: &mut Replies) {
        let (asking, gps_time) = (came.verified.header(), came.receipt.at.gps());
        if !self.core.may_seal(came.receipt.at) {
            self.tally.acks_held_back += 1;
            return;
        }
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
        let seal = |out: &mut Vec<u8>| self.authenticator.seal(keys, &header, layout, Interface::Udp, &payload, out);
        // The key that just opened a packet seals its answer, unless it was removed in between: then nothing is said.
        let _ = replies.push(came.path.source(), came.receipt.via, DownlinkKind::Ack, seal);
    }

    /// The packets of other devices that a relay passes on. A malformed container stands up to its fault (rule R0).
    fn container(&mut self, outer: &Came<'_>, replies: &mut Replies) {
        for entry in container::entries(outer.verified.payload()) {
            match entry {
                Ok(entry) => {
                    let disposition = self.entry(outer, &entry, replies);
                    self.tally.entry(disposition);
                }
                Err(error) => {
                    self.tally.malformed_containers += 1;
                    tracing::debug!(relay = %outer.verified.header().device_id, %error, "malformed container");
                }
            }
        }
    }

    fn entry(&mut self, outer: &Came<'_>, entry: &Entry<'_>, replies: &mut Replies) -> Disposition {
        let Some(interface) = Interface::heard_on(entry.interface) else { return Disposition::UnknownInterface };
        let (verified, receipt) = (outer.verified, outer.receipt);
        let path = Path::Relayed(Relaying::by(verified, entry, outer.path.source()));
        match entry.content {
            Content::Opened { header, payload } => {
                let verified = &Verified::on_word_of(verified, header, payload);
                self.relayed(&Came { verified, path: &path, receipt }, replies)
            }
            Content::Sealed(bytes) => self.sealed_entry(bytes, interface, &path, receipt, replies),
        }
    }

    fn relayed(&mut self, came: &Came<'_>, replies: &mut Replies) -> Disposition {
        let accepted = self.packet(came);
        match &accepted {
            Accepted::Recorded { outcome: Outcome::Counted(counted), .. } => self.answer(came, counted, replies),
            Accepted::Recorded { outcome: Outcome::Refused(refused), .. } => self.answer_copy(came, refused, replies),
            Accepted::Recorded { .. } | Accepted::Foreign | Accepted::Reflected => {}
        }
        accepted.disposition()
    }

    fn sealed_entry(
        &mut self,
        bytes: &[u8],
        interface: Interface,
        path: &Path,
        receipt: &Receipt,
        replies: &mut Replies,
    ) -> Disposition {
        // Taken out of `self` while the packet borrows it.
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(bytes);
        let disposition = match Frame::parse(&mut scratch, Layout::Versioned) {
            Err(error) => error.into(),
            Ok(frame) => {
                let claim = Claim::of(frame.header());
                match self.authenticator.open(&self.core.keys, frame, interface, receipt.at) {
                    Ok(verified) => self.relayed(&Came { verified: &verified, path, receipt }, replies),
                    Err(refusal) => self.not_opened(refusal, &claim, path, receipt.at, replies),
                }
            }
        };
        self.scratch = scratch;
        disposition
    }
}
