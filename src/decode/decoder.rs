//! One datagram after the other, opened and judged as a gateway does: the same parsing, keys and table, and every step
//! told.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::fields;
use super::part::{Part, Walk, count};
use super::payload::{self, payload};
use super::verdict::{Arrived, Verdict};
use super::{Datagram, Direction, Expected, Explained, Key, Knowledge, Readings};
use crate::auth::keys::{FACTORY_NETWORK, FACTORY_NETWORK_KEY, Interface, KeyRing, RootKey};
use crate::auth::nonce::OwnNonces;
use crate::auth::{Authenticator, Refusal, Verified};
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::accept::Acceptance;
use crate::table::route::{Path, Relaying};
use crate::table::{RoutePolicy, RouteTable};
use crate::wire::container::{self, Content, Entry};
use crate::wire::frame::{Frame, FrameError, Header, Layout, Level, PacketType};

/// Explains datagrams. What it has seen decides about what comes next, as in a gateway that started empty.
#[derive(Debug)]
pub struct Decoder {
    keys: KeyRing,
    /// All of them have keys, of which some may be missing here.
    registered: HashSet<DeviceId>,
    authenticator: Authenticator,
    table: RouteTable,
    policy: RoutePolicy,
    nonces: Option<OwnNonces>,
    refuses_factory: bool,
    now: Timestamp,
    /// Whether `now` goes before the time of a datagram.
    fixed: bool,
    number: u64,
}

/// Why a frame was not opened.
enum Unopened {
    NoFrame(FrameError),
    Refused { refusal: Refusal, header: Header },
}

impl Unopened {
    fn verdict(self) -> Verdict {
        match self {
            Self::NoFrame(error) => Verdict::no_frame(error),
            Self::Refused { refusal, .. } => Verdict::refused(refusal),
        }
    }
}

/// Where a datagram came from and when, and whether the rules decide about it.
#[derive(Clone, Copy)]
struct Arrival {
    source: SocketAddr,
    at: Timestamp,
    judged: bool,
}

impl Decoder {
    /// A gateway that has heard nothing yet. Datagrams without a time of their own arrive at `now`, and with `fixed` the
    /// others too.
    pub fn new(knowledge: Knowledge, now: Timestamp, fixed: bool) -> Self {
        let keys = KeyRing::default();
        keys.set_network(FACTORY_NETWORK, RootKey::new(FACTORY_NETWORK_KEY));
        let table = RouteTable::new(&knowledge.table);
        let registered: HashSet<_> = knowledge.registered.into_iter().collect();
        for id in &registered {
            table.register(*id, now);
        }
        // Of what other processes sent nothing is known but the nonces, so the match decides for all times.
        let nonces = knowledge.cloud.map(|pair| OwnNonces::new(&pair, Timestamp(u64::MAX)));
        let authenticator = Authenticator::default();
        let (policy, refuses_factory) = (knowledge.policy, knowledge.refuses_factory);
        let mut decoder =
            Self { keys, registered, authenticator, table, policy, nonces, refuses_factory, now, fixed, number: 0 };
        decoder.learn(knowledge.keys);
        decoder
    }

    /// Adds keys, or replaces those of the same network or device. With a key of the factory network that is served, too.
    pub fn learn(&mut self, keys: Vec<Key>) {
        for key in keys {
            match key {
                Key::Network(id, root) => {
                    self.refuses_factory &= id != FACTORY_NETWORK;
                    self.keys.set_network(id, root);
                }
                Key::Device(id, key) => self.keys.set_device(id, key, None),
            }
        }
    }

    /// Explains a datagram, and takes it in if it is an uplink.
    pub fn explain(&mut self, datagram: Datagram) -> Explained {
        let at = datagram.at.filter(|_| !self.fixed).unwrap_or(self.now);
        let source = datagram.from.unwrap_or(super::NOWHERE);
        let judged = datagram.direction == Direction::Up;
        let (parts, verdict) = match datagram.cut_from {
            Some(sent) => (vec![fields::cut_frame(&datagram.bytes, at)], Verdict::cut(datagram.bytes.len(), sent)),
            None => self.whole(datagram.bytes.clone(), Arrival { source, at, judged }),
        };
        self.explained(datagram, at, parts, Some(verdict))
    }

    /// Explains readings that came without a frame.
    pub fn explain_readings(&mut self, readings: Readings) -> Explained {
        let mut part = payload(readings.kind, &readings.bytes, 0);
        part.title = format!("payload of {}", readings.kind.name());
        let datagram = Datagram { expected: Some(readings.expected), ..Datagram::new(readings.origin, readings.bytes) };
        let at = self.now;
        self.explained(datagram, at, vec![part], None)
    }

    fn explained(
        &mut self,
        datagram: Datagram,
        at: Timestamp,
        parts: Vec<Part>,
        verdict: Option<Verdict>,
    ) -> Explained {
        self.number += 1;
        let mut explained = Explained { number: self.number, datagram, at, parts, verdict, met: None };
        // At another time than that of the file another class is right.
        if self.fixed && matches!(explained.datagram.expected, Some(Expected::Counted(_))) {
            explained.datagram.expected = None;
        }
        explained.met = explained.datagram.expected.as_ref().map(|expected| expected.is_met_by(&explained));
        explained
    }

    fn whole(&mut self, mut bytes: Vec<u8>, arrival: Arrival) -> (Vec<Part>, Verdict) {
        if let Some(clear) = payload::clear(&bytes) {
            let short = FrameError::Short { len: bytes.len(), min: Layout::Unversioned.min_len() };
            let verdict = if arrival.judged { Verdict::no_frame(short) } else { Verdict::downlink(None) };
            return (vec![clear], verdict);
        }
        let mut parts = vec![fields::frame(&bytes, Layout::Unversioned, 0, arrival.at)];
        let verdict = match self.open(&mut bytes, Layout::Unversioned, Interface::Udp, arrival.at) {
            Err(unopened) if arrival.judged => self.refuse(unopened),
            Err(unopened) => Verdict::downlink(Some(Err(unopened.verdict()))),
            Ok(verified) => {
                let path = Path::Direct(arrival.source);
                let verdict = if arrival.judged {
                    self.judge(&verified, &path, arrival.at)
                } else {
                    Verdict::downlink(Some(Ok(verified.header())))
                };
                let counts = verdict.route.is_some();
                parts.push(self.plaintext(&verified, Layout::Unversioned.header_len(), arrival, counts));
                verdict
            }
        };
        (parts, verdict)
    }

    fn open<'b>(
        &mut self,
        bytes: &'b mut [u8],
        layout: Layout,
        interface: Interface,
        at: Timestamp,
    ) -> Result<Verified<'b>, Unopened> {
        let frame = Frame::parse(bytes, layout).map_err(Unopened::NoFrame)?;
        let header = *frame.header();
        let opened = self.authenticator.open(&self.keys, frame, interface, at);
        opened.map_err(|refusal| Unopened::Refused { refusal, header })
    }

    /// What a gateway does with a frame that did not open here.
    fn refuse(&self, unopened: Unopened) -> Verdict {
        match unopened {
            Unopened::Refused { refusal, header } if self.is_not_served(&header) => {
                let mut verdict = Verdict::not_served();
                verdict.why.extend(Verdict::refused(refusal).why);
                verdict
            }
            unopened => unopened.verdict(),
        }
    }

    /// Whether the gateway has no key of the network, which everybody else has.
    fn is_not_served(&self, header: &Header) -> bool {
        self.refuses_factory && header.level() == Level::Network && header.key_id == FACTORY_NETWORK
    }

    /// Takes an authentic packet in.
    fn judge(&self, verified: &Verified<'_>, path: &Path, at: Timestamp) -> Verdict {
        let header = verified.header();
        // What a relay decrypted, it decrypted with its own keys.
        if self.is_not_served(header) && verified.entropy().is_some() {
            return Verdict::not_served();
        }
        let before = self.table.snapshot(header.device_id);
        let acceptance = Acceptance {
            keys: &self.keys,
            keyed: Some(&self.registered),
            table: &self.table,
            nonces: self.nonces.as_ref(),
            policy: self.policy,
        };
        let accepted = acceptance.accept(verified, path, at, false);
        Verdict::of(&accepted, &Arrived { header: *header, path, at, before })
    }

    /// The payload of an opened datagram. `counts`: a gateway would look at the packets inside it.
    fn plaintext(&mut self, verified: &Verified<'_>, start: usize, arrival: Arrival, counts: bool) -> Part {
        let kind = verified.header().packet_type;
        let mut part = payload(kind, verified.payload(), start);
        part.title = opened_by(verified.header());
        let mut walk = Walk::new(verified.payload(), start);
        match kind {
            PacketType::RECEIVED_EPACKET => {
                if arrival.judged && !counts {
                    let note = "a gateway does not look at the entries, because the packet itself does not count";
                    part.notes.push(note.to_owned());
                }
                self.container(verified, start, Arrival { judged: counts, ..arrival }, &mut part);
            }
            PacketType::EPACKET_FORWARD | PacketType::EPACKET_FORWARD_AUTO_CONN => {
                let connects = kind == PacketType::EPACKET_FORWARD_AUTO_CONN;
                if payload::forward(&mut walk, &mut part, connects).is_some() {
                    let mut inner = Part::new("packet to pass on", walk.at());
                    self.forwarded(&walk, arrival.at, &mut inner);
                    part.parts.push(inner);
                }
            }
            _ => {}
        }
        part
    }

    /// The frame inside a forward: for another device, so no rule decides it.
    fn forwarded(&mut self, walk: &Walk<'_>, at: Timestamp, part: &mut Part) {
        part.parts.push(fields::frame(walk.rest(), Layout::Versioned, walk.at(), at));
        let mut bytes = walk.rest().to_vec();
        match self.open(&mut bytes, Layout::Versioned, Interface::BtGatt, at) {
            Ok(verified) => part.parts.push(inner_payload(&verified, walk.at())),
            Err(unopened) => part.notes.extend(unopened.verdict().why),
        }
    }

    fn container(&mut self, outer: &Verified<'_>, start: usize, arrival: Arrival, part: &mut Part) {
        let mut entries = container::entries(outer.payload());
        loop {
            let before = entries.rest();
            let at = start + outer.payload().len() - before.len();
            match entries.next() {
                Some(Ok(entry)) => {
                    let bytes = &before[..before.len() - entries.rest().len()];
                    part.parts.push(self.entry(outer, &entry, bytes, at, arrival));
                }
                Some(Err(error)) => part.fault(at, error.to_string()),
                None => break,
            }
        }
    }

    /// One packet that a relay heard: `entry`, which is these bytes.
    fn entry(&mut self, outer: &Verified<'_>, entry: &Entry<'_>, bytes: &[u8], at: usize, arrival: Arrival) -> Part {
        let mut part = Part::new(format!("entry of {}", count(bytes.len(), "byte")), at);
        let mut walk = Walk::new(bytes, at);
        // The reader stepped over these very bytes, so that none of the fields can be missing.
        let _ = payload::entry_front(&mut walk, &mut part);
        let path = Path::Relayed(Relaying::by(outer, entry, arrival.source));
        part.verdict = match (entry.content, Interface::heard_on(entry.interface)) {
            (Content::Opened { header, payload: inside }, interface) => {
                decrypted(&mut walk, &mut part, header.packet_type, inside, arrival.at);
                let judge = || self.judge(&Verified::on_word_of(outer, header, inside), &path, arrival.at);
                match interface {
                    Some(_) => arrival.judged.then(judge),
                    None => refusal(Verdict::unknown_interface(), arrival.judged, &mut part),
                }
            }
            (Content::Sealed(frame), Some(interface)) => {
                self.sealed(frame, interface, walk.at(), &path, arrival, &mut part)
            }
            (Content::Sealed(_), None) => {
                walk.remainder(&mut part, "frame");
                refusal(Verdict::unknown_interface(), arrival.judged, &mut part)
            }
        };
        part
    }

    /// The frame of an entry that is still encrypted; it begins at `at`.
    fn sealed(
        &mut self,
        frame: &[u8],
        interface: Interface,
        at: usize,
        path: &Path,
        arrival: Arrival,
        part: &mut Part,
    ) -> Option<Verdict> {
        part.parts.push(fields::frame(frame, Layout::Versioned, at, arrival.at));
        let mut copy = frame.to_vec();
        match self.open(&mut copy, Layout::Versioned, interface, arrival.at) {
            Err(unopened) => refusal(self.refuse(unopened), arrival.judged, part),
            Ok(verified) => {
                part.parts.push(inner_payload(&verified, at));
                arrival.judged.then(|| self.judge(&verified, path, arrival.at))
            }
        }
    }
}

/// The verdict on an entry that is refused; its reasons are left as notes where a gateway does not get so far.
fn refusal(verdict: Verdict, judged: bool, part: &mut Part) -> Option<Verdict> {
    if judged {
        return Some(verdict);
    }
    part.notes.extend(verdict.why);
    None
}

/// Header and payload of an entry that the relay decrypted.
fn decrypted(walk: &mut Walk<'_>, part: &mut Part, kind: PacketType, inside: &[u8], at: Timestamp) {
    // As in front of it, none of the fields can be missing.
    let _ = payload::entry_header(walk, part, at);
    part.notes.push("its header and content are the relay's word".to_owned());
    let mut inner = payload(kind, inside, walk.at());
    inner.title = "payload, decrypted by the relay".to_owned();
    part.parts.push(inner);
}

/// The payload of an opened versioned frame that begins at `at`.
fn inner_payload(verified: &Verified<'_>, at: usize) -> Part {
    let mut part = payload(verified.header().packet_type, verified.payload(), at + Layout::Versioned.header_len());
    part.title = opened_by(verified.header());
    part
}

fn opened_by(header: &Header) -> String {
    match header.level() {
        Level::Network => format!("payload, opened with the key of network {}", header.key_id),
        Level::Device => format!("payload, opened with the device key {}", header.key_id),
    }
}
