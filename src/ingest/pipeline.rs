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
use crate::metrics::{Disposition, DownlinkKind, Tally};
use crate::table::accept::{Acceptance, Accepted};
use crate::table::route::{Counted, Outcome, Path, Relaying, canonical};
use crate::table::sending::{Receipt, Via};
use crate::table::{RoutePolicy, RouteTable};
use crate::waiters::Waiters;
use crate::wire::container::{self, Content, Entry};
use crate::wire::control;
use crate::wire::frame::{Flags, Frame, Header, Layout, PacketType};

use super::answering::Came;
use super::moves::{Move, MoveLog};
pub use super::refusals::RefusalLog;
use super::replies::Replies;

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
    /// Devices that the datagrams of the present batch claim to be from.
    claimed: Vec<DeviceId>,
    /// Where sealed entries of containers are opened.
    scratch: Vec<u8>,
    /// What counted since those who wait for it were woken.
    heard: Vec<(DeviceId, Cursor)>,
    /// What happened since the thread last published it.
    pub tally: Tally,
}

/// What became of one packet, direct or out of a container.
struct Taken {
    disposition: Disposition,
    /// The rule, or the step of rule R4, that decided, where the disposition does not say.
    rule: Option<&'static str>,
    /// Of one that counted.
    counted: Option<Counted>,
}

impl Taken {
    const fn refused(disposition: Disposition) -> Self {
        Self { disposition, rule: None, counted: None }
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
            heard: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Prepares for datagrams that are about to be taken in: their records are fetched together.
    pub fn prefetch<'a>(&mut self, datagrams: impl Iterator<Item = &'a [u8]>) {
        self.claimed.clear();
        self.claimed.extend(datagrams.filter_map(Frame::claimed_device));
        self.core.table.prefetch(&self.claimed);
    }

    /// Takes in one datagram. What is to be sent now is then in `replies`, and nothing else, in order: mostly to the datagram's
    /// source, the way it came in (rule R7).
    pub fn take(&mut self, datagram: Datagram<'_>, replies: &mut Replies) -> Disposition {
        replies.begin();
        let (source, at, len) = (datagram.source, datagram.at, datagram.bytes.len());
        let taken = self.datagram(datagram, replies);
        self.tally.datagram(taken.disposition);
        if taken.disposition != Disposition::Accepted {
            self.core.refusals.note(taken.disposition, taken.rule, source, len, at);
        }
        taken.disposition
    }

    /// Wakes those who wait for what counted since the last time.
    pub fn wake(&mut self) {
        for (device, cursor) in self.heard.drain(..) {
            let organisation = || self.core.table.registration(device).map(|registration| registration.organisation);
            self.core.waiters.heard(device, cursor, organisation);
        }
    }

    fn datagram(&mut self, datagram: Datagram<'_>, replies: &mut Replies) -> Taken {
        let Datagram { bytes, truncated, source, via, at } = datagram;
        let len = bytes.len();
        if truncated {
            return Taken::refused(Disposition::Oversize);
        }
        let frame = match Frame::parse(bytes, Layout::Unversioned) {
            Ok(frame) => frame,
            Err(error) => return Taken::refused(error.into()),
        };
        let key_id = frame.header().key_id;
        let verified = match self.authenticator.open(&self.core.keys, frame, Interface::Udp, at) {
            Ok(verified) => verified,
            Err(refusal) => return self.not_opened(refusal, key_id, at, replies),
        };
        // No datagram is longer: it would not have been parsed.
        let receipt = Receipt { at, via, len: u16::try_from(len).unwrap_or(u16::MAX) };
        let came = Came { verified: &verified, path: &Path::Direct(source), receipt };
        let taken = self.packet(&came);
        if let Some(counted) = &taken.counted {
            if !counted.proved_address {
                replies.limit(len);
            }
            self.answer(&came, counted, replies);
            if verified.header().packet_type == PacketType::RECEIVED_EPACKET {
                self.container(&came, replies);
            }
        }
        taken
    }

    fn not_opened(&mut self, refusal: Refusal, key_id: KeyId, at: Timestamp, replies: &mut Replies) -> Taken {
        if let Refusal::UnknownDevice(device_id) | Refusal::UnknownKey { device_id, .. } = refusal {
            self.miss_key(device_id, key_id, at, replies);
        }
        Taken::refused(refusal.into())
    }

    /// An authentic packet: rules R1 to R5 and R9.
    fn packet(&mut self, came: &Came<'_>) -> Taken {
        let Came { verified, path, receipt } = *came;
        let device_id = verified.header().device_id;
        let accepted = self.core.acceptance().accept(verified, path, receipt);
        let disposition = accepted.disposition();
        match accepted {
            Accepted::Recorded { outcome: Outcome::Counted(counted), malformed } => {
                self.heard.push((device_id, counted.cursor));
                self.tally.malformed_tdf += u64::from(malformed);
                if let Some(from) = counted.moved_from {
                    self.moved(verified, from, path.source(), receipt.at);
                }
                tracing::debug!(
                    device = %device_id, kind = verified.header().packet_type.name(), source = %path.source(),
                    rule = counted.step.name(), route = counted.change.name(), "packet"
                );
                Taken { disposition, rule: Some(counted.step.name()), counted: Some(counted) }
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
        let taken = self.packet(came);
        if let Some(counted) = &taken.counted {
            self.answer(came, counted, replies);
        }
        taken.disposition
    }

    fn sealed_entry(
        &mut self,
        bytes: &[u8],
        interface: Interface,
        path: &Path,
        receipt: Receipt,
        replies: &mut Replies,
    ) -> Disposition {
        // Taken out of `self` while the packet borrows it.
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(bytes);
        let disposition = match Frame::parse(&mut scratch, Layout::Versioned) {
            Err(error) => error.into(),
            Ok(frame) => {
                let key_id = frame.header().key_id;
                match self.authenticator.open(&self.core.keys, frame, interface, receipt.at) {
                    Ok(verified) => self.relayed(&Came { verified: &verified, path, receipt }, replies),
                    Err(refusal) => self.not_opened(refusal, key_id, receipt.at, replies).disposition,
                }
            }
        };
        self.scratch = scratch;
        disposition
    }
}
