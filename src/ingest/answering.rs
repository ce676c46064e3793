//! What follows from a packet beside its acknowledgement: answers to what was sent get to where they are waited for, the device
//! is asked whether it is where the packet came from, and what waits for it leaves while it is awake (rules R6, R7 and R12).
//!
//! A packet of a device for which nothing waits, and which answers nothing, costs a look at its type and at a few fields; a copy
//! of one costs less.

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
use crate::metrics::{Challenge, DownlinkKind, Tally};
use crate::table::RoutePolicy;
use crate::table::contest::{Asked, Challenges, Place};
use crate::table::route::{
    Answered, Counted, DirectRoute, Path, Refused as NotCounted, RelayedRoute, Route, canonical,
};
use crate::table::sending::{Receipt, Release};
use crate::udp;
use crate::wire::control;
use crate::wire::frame::{Flags, Level, PacketType};

/// Messages that leave on one packet at most: as many as one call of the kernel takes. A thousand at once would be more than the
/// buffers of sockets and devices hold, and others would wait for them.
const MOST_RELEASED: usize = udp::SEND_BATCH;

/// In so many milliseconds, a place from which nothing came just now and which is not proved is asked once whether the device is
/// there.
const ASKED_IN_MS: u64 = 60_000;

/// An authentic packet.
#[derive(Clone, Copy)]
pub(super) struct Came<'a> {
    pub(super) verified: &'a Verified<'a>,
    pub(super) path: &'a Path,
    pub(super) receipt: &'a Receipt,
}

/// What a packet says that something is to be sent for.
#[derive(Default)]
struct Said {
    /// It names a key that is not known.
    other_key: Option<KeyId>,
    /// It wants data.
    wants: Option<Pieces>,
}

/// What is to be sent for a packet, its acknowledgement apart.
struct Due<'a> {
    challenges: Challenges,
    /// There may be something in the outbox, and the packet releases it, or would once a challenge is answered.
    is_expected: bool,
    is_released: bool,
    said: &'a Said,
}

impl Due<'_> {
    const fn is_nothing(&self) -> bool {
        let Self { challenges, is_expected, said, .. } = self;
        !*is_expected && !challenges.source && !challenges.other && said.other_key.is_none() && said.wants.is_none()
    }
}

impl Came<'_> {
    fn device(&self) -> DeviceId {
        self.verified.header().device_id
    }

    /// To where it came from.
    fn back(&self, core: &Core) -> Option<Target> {
        Target::back(&core.table, &core.keys, self.device(), self.path, self.network(), *self.receipt)
    }

    /// The network whose key opened it. That of a packet which a relay decrypted is only named by the relay.
    fn network(&self) -> Option<KeyId> {
        let opened = self.verified.network().filter(|_| !self.is_on_word());
        opened.map(|(id, _)| id)
    }

    /// A relay decrypted it, so that it has no more than the relay's word.
    const fn is_on_word(&self) -> bool {
        self.verified.entropy().is_none()
    }

    /// Its sender says that nothing follows soon, so it would not hear a challenge.
    fn is_last_word(&self) -> bool {
        matches!(self.path, Path::Direct(_)) && self.verified.header().flags.contains(Flags::SINGLE_TX)
    }

    /// What proves what it says: of one that a relay decrypted, anybody who may have made up the relay's packet.
    fn proved_level(&self) -> Level {
        if self.is_on_word() { Level::Network } else { self.verified.level() }
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
        let said = self.listen(came, counted, replies);
        if let Some(sequence) = counted.ack_sequence {
            self.acknowledge(came, sequence, replies);
        }
        if let Some(key_id) = said.other_key
            && counted.release != Release::No
        {
            self.core.downlinks.questions.doubt(came.device(), key_id, came.receipt.at);
        }
        let is_expected = counted.expects && counted.release != Release::No;
        let is_released = counted.release == Release::Yes;
        let due = Due { challenges: counted.challenges, is_expected, is_released, said: &said };
        if !due.is_nothing() {
            self.send_due(came, &due, replies);
        }
    }

    /// What follows from a copy: challenges, where the first one came from elsewhere, and what waits, if it answers one.
    pub(super) fn answer_copy(&mut self, came: &Came<'_>, refused: &NotCounted, replies: &mut Replies) {
        let is_expected = refused.answered.is_some_and(|Answered { expects, .. }| expects);
        let due = Due { challenges: refused.challenges, is_expected, is_released: true, said: &Said::default() };
        if !due.is_nothing() {
            self.send_due(came, &due, replies);
        }
    }

    fn send_due(&mut self, came: &Came<'_>, due: &Due<'_>, replies: &mut Replies) {
        let Due { challenges, is_expected, is_released, said } = *due;
        // Where something waits for an answer, the next packet is to look for it again.
        let is_waiting = is_expected && !is_released && self.core.expect_again(came.device());
        let Some(back) = came.back(&self.core) else {
            if is_expected {
                self.core.expect_again(came.device());
            }
            return;
        };
        let Self { core, authenticator, tally, .. } = self;
        let mut sending = Sending { core, authenticator, tally, at: came.receipt.at };
        let doubted = sending.doubted_key(&back);
        // Whoever names another key may have lost the known one, whether that is in doubt for others or not.
        let sealing = sending.challenge_key(&back, doubted.or(said.other_key).is_some());
        if challenges.source || is_waiting && !came.is_last_word() {
            sending.challenge(&back, &came.path.place(), sealing, replies);
        }
        if challenges.other {
            sending.challenge_other(came, sealing, replies);
        }
        if let Some(key_id) = said.other_key.or(doubted.filter(|_| is_expected)) {
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
    fn listen(&mut self, came: &Came<'_>, counted: &Counted, replies: &mut Replies) -> Said {
        let (device, level, payload) = (came.device(), came.proved_level(), came.verified.payload());
        let (downlinks, at) = (&self.core.downlinks, came.receipt.at);
        let heard = match came.verified.header().packet_type {
            PacketType::RPC_RSP => downlinks.answer(device, level, payload, at, came.route()),
            PacketType::RPC_DATA => downlinks.outbox.data(device, level, payload, at),
            PacketType::EPACKET_CONN_TERMINATED => downlinks.outbox.terminated(device, level, payload, at),
            PacketType::RPC_DATA_ACK => return self.wanted(came, counted, replies),
            PacketType::KEY_IDS => return Said { other_key: self.other_key(came), ..Said::default() },
            _ => return Said::default(),
        };
        if let Heard::Refused(refused) = heard {
            count_refused(&mut self.tally, refused);
        }
        Said::default()
    }

    /// What a device asks for is many times as long as its packet, and no less meant for the device alone than what waits for
    /// it: it goes where the route leads, if that is proved. What cannot be sealed it asks for again.
    fn wanted(&mut self, came: &Came<'_>, counted: &Counted, replies: &Replies) -> Said {
        let is_barred = counted.release == Release::No || replies.is_limited();
        if is_barred || !self.core.may_seal(came.receipt.at) {
            return Said::default();
        }
        let Some(back) = came.back(&self.core).filter(|back| back.route.proved) else { return Said::default() };
        let room = back.to.room();
        match self.core.downlinks.outbox.data_ack(came.device(), came.verified.payload(), room, came.receipt.at) {
            Ok(pieces) => Said { wants: Some(pieces), ..Said::default() },
            Err(refused) => {
                count_refused(&mut self.tally, refused);
                Said::default()
            }
        }
    }

    /// Whether a packet answers a challenge with the cookie that was sent to where it came from (rule R6). Whoever knows the
    /// cookie has opened the challenge, so one that was sealed with the device's key is answered by the device, whatever its
    /// answer is sealed with. Where it was not, the answer has to prove as much as a packet that may move the route: a relay's
    /// word does not, since the relay may have read the cookie itself.
    pub(super) fn is_answer(&self, came: &Came<'_>) -> bool {
        if came.verified.header().packet_type != PacketType::ECHO_RSP {
            return false;
        }
        let (device, core) = (came.device(), &self.core);
        let cookies = &core.downlinks.cookies;
        match cookies.verify(device, &came.path.place(), came.verified.payload(), came.receipt.at) {
            Some(Level::Device) => true,
            Some(Level::Network) if came.is_on_word() => false,
            Some(Level::Network) => {
                let needs_key = core.policy == RoutePolicy::Strict && core.keys.has_device(device);
                !needs_key || came.verified.level() == Level::Device
            }
            None => false,
        }
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
        let mut sending = Sending { core, authenticator: &mut self.authenticator, tally: &mut self.tally, at };
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
    tally: &'a mut Tally,
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
        replies.push(back.to.address, back.via, kind, |out| self.with_sealer(|sealer| seal(sealer, out)))
    }

    fn with_sealer<T>(&mut self, with: impl FnOnce(&mut Sealer<'_>) -> T) -> T {
        let core = self.core;
        with(&mut Sealer {
            keys: &core.keys,
            authenticator: self.authenticator,
            nonces: &core.nonces,
            allowance: &core.downlinks.allowance,
            sequences: &|device| core.table.next_downlink_sequence(device),
            now: self.at,
        })
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

    /// Rule R6: asks whether the device is at a place. Only what leaves counts in the limits of that.
    fn challenge(&mut self, to: &Target, place: &Place, sealing: Sealing, replies: &mut Replies) {
        let (core, device, at) = (self.core, to.to.device, self.at);
        let Ok(level) = self.with_sealer(|sealer| sealer.level(&to.to, sealing, COOKIE_LEN)) else { return };
        if !replies.has_room(to.to.datagram_len(COOKIE_LEN)) || !core.table.may_ask(device, place, at) {
            return;
        }
        let cookie = core.downlinks.cookies.make(device, place, level, at);
        if self.send(to, DownlinkKind::Echo, (PacketType::ECHO_REQ, level.into(), &cookie), replies) {
            self.tally.challenge(Challenge::Asked);
        }
    }

    /// Rule R6: the same of the other one of two places that are in contest. What goes there is no answer to what came from
    /// there: where the address is not proved, it is asked once in a minute, which is less than what it sent for that allows.
    fn challenge_other(&mut self, came: &Came<'_>, sealing: Sealing, replies: &mut Replies) {
        let (core, device, at) = (self.core, came.device(), self.at);
        let Some(place) = core.table.contested_with(device, &came.path.place(), at) else { return };
        let target = Target::at_place(&core.table, &core.keys, device, &place, *came.receipt);
        let Some((target, is_proved)) = target else { return };
        let was_asked = || {
            let contest = core.table.contest(device, at);
            let is_same = |asked: &Asked| asked.place == place && asked.at.0.abs_diff(at.0) < ASKED_IN_MS;
            contest.is_some_and(|contest| contest.asked.iter().any(is_same))
        };
        if is_proved || !was_asked() {
            replies.elsewhere(|replies| self.challenge(&target, &place, sealing, replies));
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
