//! Downlinks in memory: what waits for which device, what was sent and is not answered, data on its way in either direction,
//! questions for keys, and how each becomes a datagram. No socket, no database: datagrams and [`event::Event`]s come out.

pub mod allowance;
#[cfg(all(test, not(feature = "shuttle")))]
mod capture_tests;
pub mod channel;
pub mod cookies;
pub mod event;
pub mod exchange;
pub mod intent;
#[cfg(all(test, not(feature = "shuttle")))]
mod nonce_tests;
pub mod outbox;
mod phase;
pub mod questions;
mod room;
pub mod seal;
pub mod target;
#[cfg(test)]
mod testing;

use allowance::Allowance;
use channel::Events;
use cookies::Cookies;
use event::Event;
use exchange::Refused;
use outbox::{Heard, Outbox, OutboxConfig};
use questions::Questions;

use crate::auth::keys::KeyRing;
use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::table::route::Route;
use crate::wire::frame::Level;
use crate::wire::rpc::Response;
use crate::wire::security::SECURITY_STATE;

/// All that ingest and those who send share of downlinks.
#[derive(Debug)]
pub struct Downlinks {
    /// What waits, and what is not answered.
    pub outbox: Outbox,
    /// Which devices were asked for their keys.
    pub questions: Questions,
    /// Which addresses were challenged.
    pub cookies: Cookies,
    /// When anything may be sealed.
    pub allowance: Allowance,
    /// Where what happens is told.
    pub events: Events,
}

impl Downlinks {
    /// With nothing in it, and without time to seal in.
    pub fn new(config: OutboxConfig, events: Events) -> Self {
        Self {
            outbox: Outbox::new(config, events.clone()),
            questions: Questions::default(),
            cookies: Cookies::default(),
            allowance: Allowance::default(),
            events,
        }
    }

    /// Another key than the known one that the device has named a moment ago, and about which it has not answered: until then,
    /// and for 30 s at most, nothing is to be sealed with its key (rule R12).
    pub fn doubted_key(&self, keys: &KeyRing, device: DeviceId, now: Timestamp) -> Option<KeyId> {
        keys.downlink_key_id(device)?;
        self.questions.doubted(device, now).filter(|key_id| !keys.is_known_key_id(device, *key_id))
    }

    /// Takes in an RPC_RSP of `device`, whose packet came by `route`: an answer to the question for its keys, or to a call.
    pub fn answer(&self, device: DeviceId, level: Level, payload: &[u8], at: Timestamp, route: Route) -> Heard {
        let Some(response) = Response::parse(payload) else { return Heard::Refused(Refused::Truncated) };
        match self.questions.answered(device, response.request_id) {
            None if questions::is_question(response.request_id) => Heard::Refused(Refused::Unknown),
            None => self.outbox.answer(device, level, payload, at, route),
            Some(_) if response.command_id != SECURITY_STATE => Heard::Refused(Refused::Forged),
            Some(_) if response.return_code != 0 => {
                self.questions.settle(device, None, at);
                Heard::Refused(Refused::Declined)
            }
            Some(challenge) => {
                self.events.send(Event::KeyAnswer { device, challenge, body: response.body.into(), at });
                Heard::Taken
            }
        }
    }
}

// The locks of the shuttle scheduler work inside its own tests only.
#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests {
    use super::channel::channel;
    use super::testing::{DEVICE, LISTENING, NOW, call, events, response, route, way};
    use super::*;
    use crate::wire::rpc::Command;

    #[test]
    fn the_answer_to_a_question_for_keys_is_told_with_its_challenge_and_calls_go_to_the_outbox() {
        let (events_in, mut receiver) = channel();
        let downlinks = Downlinks::new(OutboxConfig::default(), events_in);
        downlinks.outbox.sent(DEVICE, &call(1, None), NOW, way(Level::Network), LISTENING);
        let question = downlinks.questions.ask(DEVICE, NOW).unwrap();
        let command = Command::parse(&question).unwrap();
        let challenge: [u8; 16] = command.parameters.try_into().unwrap();
        events(&mut receiver);

        let answer = |payload: &[u8]| downlinks.answer(DEVICE, Level::Network, payload, NOW, route());
        assert_eq!(answer(&response(1)), Heard::Taken);
        assert!(matches!(events(&mut receiver)[..], [Event::Answered { message: 1, .. }]));
        let keys = payload(command.request_id, SECURITY_STATE, 0);
        assert_eq!(answer(&keys), Heard::Taken);
        let expected = Event::KeyAnswer { device: DEVICE, challenge, body: (*b"keys").into(), at: NOW };
        assert_eq!(events(&mut receiver), [expected]);
        assert_eq!(answer(&keys), Heard::Refused(Refused::Unknown), "answered already");
        assert_eq!(events(&mut receiver), []);
    }

    #[test]
    fn what_answers_a_question_with_no_keys_teaches_nothing() {
        for (command_id, return_code, expected) in [(SECURITY_STATE, -95, Refused::Declined), (9, 0, Refused::Forged)] {
            let (events_in, mut receiver) = channel();
            let downlinks = Downlinks::new(OutboxConfig::default(), events_in);
            let question = downlinks.questions.ask(DEVICE, NOW).unwrap();
            let request_id = Command::parse(&question).unwrap().request_id;
            let answer = |payload: &[u8]| downlinks.answer(DEVICE, Level::Device, payload, NOW, route());
            assert_eq!(answer(&payload(request_id, 0, 0)[..7]), Heard::Refused(Refused::Truncated));
            assert_eq!(answer(&payload(request_id, command_id, return_code)), Heard::Refused(expected));
            assert_eq!(events(&mut receiver), []);
        }
    }

    fn payload(request_id: u32, command_id: u16, return_code: i16) -> Vec<u8> {
        let mut payload = Vec::new();
        Response { request_id, command_id, return_code, body: b"keys" }.encode(&mut payload);
        payload
    }
}
