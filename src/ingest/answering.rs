//! What follows from a counted packet beside its acknowledgement: answers to what was sent get to where they are waited for,
//! and what waits for the device leaves while it is awake (rules R6, R7 and R12).
//!
//! A packet of a device for which nothing waits, and which answers nothing, costs a look at its type and at two fields.

use super::pipeline::{Core, Pipeline};
use super::replies::Replies;
use crate::auth::{Authenticator, Verified};
use crate::clock::Timestamp;
use crate::downlink::cookies::COOKIE_LEN;
use crate::downlink::event::{Event, Listening, Way};
use crate::downlink::exchange::{Pieces, Refused};
use crate::downlink::intent::{Intent, Sealing};
use crate::downlink::outbox::{Decision, Heard};
use crate::downlink::questions::QUESTION_LEN;
use crate::downlink::seal::{NotSealed, Sealer};
use crate::downlink::target::Target;
use crate::id::{DeviceId, KeyId};
use crate::metrics::{DownlinkKind, Tally};
use crate::table::RoutePolicy;
use crate::table::route::{Counted, DirectRoute, Path, RelayedRoute, Route, canonical};
use crate::table::sending::{Receipt, Release};
use crate::udp;
use crate::wire::control;
use crate::wire::frame::{Level, PacketType};

/// Messages that leave on one packet at most: as many as one call of the kernel takes. A thousand at once would be more than the
/// buffers of sockets and devices hold, and others would wait for them.
const MOST_RELEASED: usize = udp::SEND_BATCH;

/// A counted packet.
#[derive(Clone, Copy)]
pub(super) struct Came<'a> {
    pub(super) verified: &'a Verified<'a>,
    pub(super) path: &'a Path,
    pub(super) receipt: Receipt,
}

/// What a packet says that something is to be sent for.
#[derive(Default)]
struct Said {
    /// It answers a challenge, from where it was asked.
    is_there: bool,
    /// It names a key that is not known.
    other_key: Option<KeyId>,
    /// It wants data.
    wants: Option<Pieces>,
}

impl Came<'_> {
    fn device(&self) -> DeviceId {
        self.verified.header().device_id
    }

    /// To where it came from.
    fn back(&self, core: &Core) -> Option<Target> {
        Target::back(&core.table, &core.keys, self.device(), self.path, self.receipt)
    }

    /// What proves what it says: of one that a relay decrypted, anybody who may have made up the relay's packet.
    fn proved_level(&self) -> Level {
        if self.verified.entropy().is_some() { self.verified.level() } else { Level::Network }
    }

    /// The way it came, as a route.
    fn route(&self) -> Route {
        let (received_at, trust) = (self.receipt.at, self.verified.level().into());
        let sequence = self.verified.header().sequence;
        match *self.path {
            Path::Direct(source) => {
                Route::Direct(DirectRoute { address: canonical(source), received_at, sequence, trust })
            }
            Path::Relayed(through) => Route::Relayed(RelayedRoute { through, received_at, sequence, trust }),
        }
    }
}

impl Pipeline {
    /// Takes in what a counted packet says, and then sends what is to be sent. The order is that of what matters most to a
    /// device that is not proved to be where the packet came from, and gets little.
    pub(super) fn answer(&mut self, came: &Came<'_>, counted: &Counted, replies: &mut Replies) {
        let said = self.listen(came, replies);
        if let Some(sequence) = counted.ack_sequence {
            self.acknowledge(came, sequence, replies);
        }
        let is_released = counted.release == Release::Yes || said.is_there;
        let is_expected = counted.expects && (is_released || counted.release == Release::Challenge);
        if let Some(key_id) = said.other_key
            && counted.release != Release::No
        {
            self.core.downlinks.questions.doubt(came.device(), key_id, came.receipt.at);
        }
        if !is_expected && said.other_key.is_none() && said.wants.is_none() {
            return;
        }
        let Some(back) = came.back(&self.core) else {
            if is_expected {
                self.core.expect_again(came.device());
            }
            return;
        };
        let mut sending = Sending { core: &self.core, authenticator: &mut self.authenticator, at: came.receipt.at };
        let doubted = if is_expected { sending.doubted_key(&back) } else { None };
        if is_expected && !is_released {
            let sealing = sending.challenge_key(&back, doubted.is_some());
            sending.challenge(&back, sealing, replies);
        }
        if let Some(key_id) = said.other_key.or(doubted) {
            sending.ask_about(&back, key_id, replies);
        }
        if let Some(pieces) = &said.wants {
            sending.send_data(&back, pieces, replies);
        }
        if is_expected && is_released {
            sending.release(&back, doubted.is_some(), replies);
        }
    }

    /// Takes in what a packet says about what was sent.
    fn listen(&mut self, came: &Came<'_>, replies: &mut Replies) -> Said {
        let (device, level, payload) = (came.device(), came.proved_level(), came.verified.payload());
        let (downlinks, at) = (&self.core.downlinks, came.receipt.at);
        let heard = match came.verified.header().packet_type {
            PacketType::RPC_RSP => downlinks.answer(device, level, payload, at, came.route()),
            PacketType::RPC_DATA => downlinks.outbox.data(device, level, payload, at),
            PacketType::EPACKET_CONN_TERMINATED => downlinks.outbox.terminated(device, level, payload, at),
            PacketType::RPC_DATA_ACK => return self.wanted(came, replies),
            PacketType::ECHO_RSP => return Said { is_there: self.is_there(came, replies), ..Said::default() },
            PacketType::KEY_IDS => return Said { other_key: self.other_key(came), ..Said::default() },
            _ => return Said::default(),
        };
        if let Heard::Refused(refused) = heard {
            count_refused(&mut self.tally, refused);
        }
        Said::default()
    }

    /// What a device asks for is many times as long as its packet, so it is for an address that is proved. What cannot be sealed
    /// it asks for again.
    fn wanted(&mut self, came: &Came<'_>, replies: &Replies) -> Said {
        if replies.is_limited() || !self.core.may_seal(came.receipt.at) {
            return Said::default();
        }
        let Some(back) = came.back(&self.core) else { return Said::default() };
        let room = back.to.room();
        match self.core.downlinks.outbox.data_ack(came.device(), came.verified.payload(), room, came.receipt.at) {
            Ok(pieces) => Said { wants: Some(pieces), ..Said::default() },
            Err(refused) => {
                count_refused(&mut self.tally, refused);
                Said::default()
            }
        }
    }

    /// Whether an echo shows that the device is where it came from. That address is proved then.
    fn is_there(&self, came: &Came<'_>, replies: &mut Replies) -> bool {
        let (device, source) = (came.device(), came.path.source());
        let is_there = self.core.downlinks.cookies.verify(device, source, came.verified.payload(), came.receipt.at);
        if is_there && matches!(came.path, Path::Direct(_)) {
            self.core.table.prove_address(device, source);
            replies.lift_limit();
        }
        is_there
    }

    /// The key id that a registered device names, if it is not known and the device has not answered about it.
    fn other_key(&self, came: &Came<'_>) -> Option<KeyId> {
        let (device, core) = (came.device(), &self.core);
        let key_id = control::named_key_id(came.verified.payload())?;
        let is_other = !core.keys.is_known_key_id(device, key_id) && core.table.registration(device).is_some();
        let is_settled = || core.downlinks.questions.is_settled(device, key_id, came.receipt.at);
        (is_other && !is_settled()).then_some(key_id)
    }

    /// Rule R12: a frame names a key of a registered device that is not known. Nothing proves where it came from, so the
    /// question goes to where the device is, if that is proved.
    pub(super) fn miss_key(&mut self, device: DeviceId, key_id: KeyId, at: Timestamp, replies: &mut Replies) {
        let core = &self.core;
        if core.table.registration(device).is_none() || core.downlinks.questions.is_settled(device, key_id, at) {
            return;
        }
        let Some(back) = Target::along_route(&core.table, &core.keys, device, at).filter(|back| back.route.proved)
        else {
            return;
        };
        let mut sending = Sending { core, authenticator: &mut self.authenticator, at };
        replies.elsewhere(|replies| {
            let ask = || core.downlinks.questions.ask_for_stranger(device, at);
            sending.ask_for_keys(&back, ask, replies);
        });
    }
}

impl Core {
    /// Whether anything can be sealed at all.
    pub(super) fn may_seal(&self, at: Timestamp) -> bool {
        self.downlinks.allowance.allows(at.gps())
    }

    /// After a packet that could send nothing of what may wait: the next one is to look again, if anything does. Whether it
    /// does.
    fn expect_again(&self, device: DeviceId) -> bool {
        let is_waiting = self.downlinks.outbox.waiting_for(device) > 0;
        if is_waiting {
            self.table.expect(device);
        }
        is_waiting
    }
}

fn count_refused(tally: &mut Tally, refused: Refused) {
    tally.answers_refused[refused as usize] += 1;
}

/// Seals what leaves at one moment.
struct Sending<'a> {
    core: &'a Core,
    authenticator: &'a mut Authenticator,
    at: Timestamp,
}

impl Sending<'_> {
    /// Seals a downlink and appends it. False if that cannot be, or the limit allows no more.
    fn send(
        &mut self,
        back: &Target,
        kind: DownlinkKind,
        (packet_type, sealing, payload): (PacketType, Sealing, &[u8]),
        replies: &mut Replies,
    ) -> bool {
        let seal = |sealer: &mut Sealer<'_>, out: &mut _| sealer.seal(&back.to, packet_type, sealing, payload, out);
        matches!(self.push(back, kind, replies, seal), Ok(Some(_)))
    }

    /// As [`Self::send`]: what that comes to for an intent.
    fn send_intent(&mut self, back: &Target, intent: &Intent, is_only: bool, replies: &mut Replies) -> Decision {
        // The answer to a question for keys would end a relay's connection, too.
        let is_only = is_only && replies.iter().all(|reply| reply.kind != DownlinkKind::KeyQuestion);
        let seal = |sealer: &mut Sealer<'_>, out: &mut _| sealer.seal_intent(&back.to, intent, is_only, out);
        match self.push(back, DownlinkKind::Intent, replies, seal) {
            Ok(Some(way)) => Decision::Send(way),
            Ok(None) => Decision::Stay,
            Err(not) => not.decide(intent),
        }
    }

    fn push(
        &mut self,
        back: &Target,
        kind: DownlinkKind,
        replies: &mut Replies,
        seal: impl FnOnce(&mut Sealer<'_>, &mut Vec<u8>) -> Result<Way, NotSealed>,
    ) -> Result<Option<Way>, NotSealed> {
        let Self { core, authenticator, at } = self;
        let mut sealer = Sealer {
            keys: &core.keys,
            authenticator,
            nonces: &core.nonces,
            allowance: &core.downlinks.allowance,
            sequences: &|device| core.table.next_downlink_sequence(device),
            now: *at,
        };
        replies.push(back.to.address, back.via, kind, |out| seal(&mut sealer, out))
    }

    /// Rule R7: what waits leaves in order, until something has to wait on: for keys that are in doubt, or for the next packet,
    /// because this one has released enough.
    fn release(&mut self, back: &Target, is_in_doubt: bool, replies: &mut Replies) {
        let (core, device, at) = (self.core, back.to.device, self.at);
        let listening = Listening { heard_at: at, ..back.listening() };
        let mut left = MOST_RELEASED;
        let decide = |intent: &Intent, is_only| {
            if left == 0 || is_in_doubt && intent.sealing != Sealing::Network {
                return Decision::Stay;
            }
            let decision = match back.refusal(&core.table, intent) {
                Some(why) => Decision::Drop(why),
                None => self.send_intent(back, intent, is_only, replies),
            };
            left -= usize::from(matches!(decision, Decision::Send(_)));
            decision
        };
        if core.downlinks.outbox.take_due(device, listening, at, decide) {
            core.table.expect(device);
        }
    }

    /// The key that only whom the policy trusts can open a challenge with.
    fn challenge_key(&self, back: &Target, is_in_doubt: bool) -> Sealing {
        match self.core.policy {
            RoutePolicy::Strict if self.core.keys.has_device(back.to.device) => Sealing::Device,
            _ if is_in_doubt => Sealing::Network,
            _ => Sealing::Best,
        }
    }

    /// Rule R6: asks whether the device is where something that waits would go.
    fn challenge(&mut self, back: &Target, sealing: Sealing, replies: &mut Replies) {
        let (downlinks, device) = (&self.core.downlinks, back.to.device);
        if !self.core.expect_again(device) || !self.may_send(back, COOKIE_LEN, replies) {
            return;
        }
        if let Some(cookie) = downlinks.cookies.ask(device, back.to.address, self.at) {
            self.send(back, DownlinkKind::Echo, (PacketType::ECHO_REQ, sealing, &cookie), replies);
        }
    }

    /// Rule R12: a device names a key that is not known. That it is another than the known one is told of as often as the
    /// device is asked.
    fn ask_about(&mut self, back: &Target, key_id: KeyId, replies: &mut Replies) {
        let (core, device, at) = (self.core, back.to.device, self.at);
        let ask = || core.downlinks.questions.ask(device, at);
        if self.ask_for_keys(back, ask, replies) && core.keys.downlink_key_id(device).is_some() {
            core.downlinks.events.send(Event::OtherKeyId { device, key_id, at });
        }
    }

    /// Rule R12, at network level: the device's own keys are in doubt. `ask` makes the question if it is time for one. Whether it
    /// leaves.
    fn ask_for_keys(&mut self, back: &Target, ask: impl FnOnce() -> Option<Vec<u8>>, replies: &mut Replies) -> bool {
        if back.to.network.is_none() || !self.may_send(back, QUESTION_LEN, replies) {
            return false;
        }
        let Some(question) = ask() else { return false };
        let what = (PacketType::RPC_CMD, Sealing::Network, &*question);
        self.send(back, DownlinkKind::KeyQuestion, what, replies)
    }

    fn doubted_key(&self, back: &Target) -> Option<KeyId> {
        self.core.downlinks.doubted_key(&self.core.keys, back.to.device, self.at)
    }

    fn send_data(&mut self, back: &Target, pieces: &Pieces, replies: &mut Replies) {
        for payload in &pieces.payloads {
            self.send(back, DownlinkKind::Data, (PacketType::RPC_DATA, pieces.sealing, payload), replies);
        }
    }

    /// Whether so much payload can be sealed and sent at all. Asked before what is done once in 10 s.
    fn may_send(&self, back: &Target, payload_len: usize, replies: &Replies) -> bool {
        self.core.may_seal(self.at) && replies.has_room(back.to.datagram_len(payload_len))
    }
}
