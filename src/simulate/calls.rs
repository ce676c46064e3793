//! The calls of one simulated device: carried out one after the other, in the order they came, as firmware does. Pure.
//!
//! It keeps no replay state, as firmware keeps none: what comes twice is done twice. How often it was is counted, for who wants
//! to know whether a gateway sends anything twice.

use std::collections::VecDeque;
use std::time::Duration;

use super::exchange::{Exchange, Packet};
use super::rpc::{self, Action, Facts};
use crate::wire::frame::Level;
use crate::wire::rpc::Data;

/// Calls that wait while one moves data, as many as firmware has buffers for; of more, the last is lost.
const WAITING: usize = 8;

/// Calls whose executions are remembered, the latest: far more than a gateway has out at once to one device.
const REMEMBERED: usize = 1024;

/// Calls that were carried out, refused ones not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// All of them.
    pub calls: u64,
    /// Those among them whose request id had been carried out before.
    pub again: u64,
}

impl Executed {
    /// Both together.
    pub(super) const fn plus(self, other: Self) -> Self {
        Self { calls: self.calls + other.calls, again: self.again + other.again }
    }
}

/// What calls led to so far, and what is still to come of them.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// By request id, the latest last.
    executions: VecDeque<(u32, u32)>,
    executed: Executed,
    exchange: Option<Exchange>,
    waiting: VecDeque<(Level, Box<[u8]>)>,
    /// A device boots anew when it is called to, and for no other reason.
    pub(super) reboots: Reboots,
}

/// Reboots of a device.
#[derive(Debug, Default)]
pub(super) struct Reboots {
    pub(super) count: u16,
    /// When the last began.
    pub(super) at: Duration,
    /// Until when it lasts, while it does.
    pub(super) down_until: Option<Duration>,
}

/// What a call does to the device that carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It boots anew, once it has answered.
    Reboot,
    /// Its clock shows this GPS time, in 1/65536 s.
    TimeSet(u64),
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is none.
    Malformed,
    /// It waits for the one that moves data.
    Waits,
    /// It is lost: too many wait.
    Lost,
    /// It moves data first; the device says this, if anything.
    Begun(Option<Packet>),
    /// It is answered.
    Answered { answer: Packet, return_code: i16, effect: Option<Effect> },
}

impl Calls {
    /// How often the call with this request id was carried out, of the last 1 024 calls.
    pub(super) fn times(&self, request_id: u32) -> u32 {
        self.executions.iter().find(|(of, _)| *of == request_id).map_or(0, |(_, times)| *times)
    }

    /// All that were carried out.
    pub(super) const fn executed(&self) -> Executed {
        self.executed
    }

    /// A call has arrived. `security_state` makes the answer to a challenge.
    pub(super) fn on_call(
        &mut self,
        now: Duration,
        level: Level,
        payload: &[u8],
        facts: &Facts,
        security_state: impl FnOnce(&[u8; 16]) -> Vec<u8>,
    ) -> Turn {
        if self.exchange.is_none() {
            return self.carry_out(now, level, payload, facts, security_state);
        }
        if self.waiting.len() == WAITING {
            return Turn::Lost;
        }
        self.waiting.push_back((level, payload.into()));
        Turn::Waits
    }

    fn carry_out(
        &mut self,
        now: Duration,
        level: Level,
        payload: &[u8],
        facts: &Facts,
        security_state: impl FnOnce(&[u8; 16]) -> Vec<u8>,
    ) -> Turn {
        let Some((call, action)) = rpc::read(payload, level, facts.commands) else { return Turn::Malformed };
        if !matches!(action, Action::Refuse(_)) {
            self.note(call.request_id);
        }
        let (return_code, body, effect) = match action {
            Action::Receive(header) => {
                let (exchange, says) = Exchange::receive(call, header, now);
                return self.begin(exchange, Some(says));
            }
            Action::Send(size) => return self.begin(Exchange::send(call, size, now), None),
            Action::Refuse(return_code) => (return_code, Vec::new(), None),
            Action::ApplicationInfo => (0, facts.application(), None),
            Action::TimeGet => (0, facts.time(), None),
            Action::SecurityState(challenge) => (0, security_state(challenge), None),
            Action::Echo(parameters) => (0, parameters.to_vec(), None),
            Action::TimeSet(time) => (0, Vec::new(), Some(Effect::TimeSet(time))),
            Action::Reboot => (0, Vec::new(), Some(Effect::Reboot)),
        };
        Turn::Answered { answer: call.answer(return_code, &body), return_code, effect }
    }

    fn begin(&mut self, exchange: Exchange, says: Option<Packet>) -> Turn {
        self.exchange = exchange.due_at().is_some().then_some(exchange);
        Turn::Begun(says)
    }

    fn note(&mut self, request_id: u32) {
        self.executed.calls += 1;
        if let Some((_, times)) = self.executions.iter_mut().find(|(of, _)| *of == request_id) {
            self.executed.again += 1;
            *times += 1;
            return;
        }
        if self.executions.len() == REMEMBERED {
            self.executions.pop_front();
        }
        self.executions.push_back((request_id, 1));
    }

    /// A piece of data has arrived; `None` if the device says nothing to it.
    pub(super) fn on_data(&mut self, now: Duration, level: Level, piece: &Data<'_>) -> Option<Packet> {
        self.exchange.as_mut()?.on_data(now, level, piece)
    }

    /// When [`Self::on_time`] is to be called next, if it is.
    pub(super) fn due_at(&self) -> Option<Duration> {
        match &self.exchange {
            Some(exchange) => exchange.due_at(),
            None => (!self.waiting.is_empty()).then_some(Duration::ZERO),
        }
    }

    /// Time has passed: what the call that moves data says next, if that is due.
    pub(super) fn on_time(&mut self, now: Duration) -> Option<Packet> {
        let packet = self.exchange.as_mut()?.on_time(now);
        self.exchange.take_if(|exchange| exchange.due_at().is_none());
        packet
    }

    /// The next call that waited, once nothing is before it.
    pub(super) fn next_waiting(&mut self) -> Option<(Level, Box<[u8]>)> {
        if self.exchange.is_some() { None } else { self.waiting.pop_front() }
    }

    /// The device boots anew, and forgets what it was at. What it has done stays done.
    pub(super) fn reboot(&mut self, now: Duration, until: Duration) {
        self.exchange = None;
        self.waiting.clear();
        let count = self.reboots.count.wrapping_add(1);
        self.reboots = Reboots { count, at: now, down_until: Some(until) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KeyId;
    use crate::simulate::rpc::Commands;
    use crate::simulate::telemetry;
    use crate::simulate::timekeeping::Timekeeping;
    use crate::wire::frame::PacketType;

    fn call(request_id: u32, command: u16, parameters: &[u8]) -> Vec<u8> {
        [&request_id.to_le_bytes()[..], &command.to_le_bytes(), parameters].concat()
    }

    fn ask(calls: &mut Calls, payload: &[u8]) -> Turn {
        let network = KeyId::from_le_bytes([1, 0, 0]);
        let facts = Facts {
            application: telemetry::application(network, 1, 1),
            time: Timekeeping::without_time(Duration::ZERO).info(Duration::ZERO),
            commands: Commands::All,
        };
        calls.on_call(Duration::ZERO, Level::Device, payload, &facts, |challenge| challenge.to_vec())
    }

    #[test]
    fn what_comes_twice_is_done_twice_and_counted_and_what_is_refused_is_not_done() {
        let mut calls = Calls::default();
        for _ in 0..2 {
            let Turn::Answered { answer, return_code: 0, effect: None } = ask(&mut calls, &call(7, 32_767, b"hello"))
            else {
                panic!("an echo is answered");
            };
            assert_eq!(answer.payload[6..], *b"\0\0hello");
        }
        ask(&mut calls, &call(8, 12_345, b""));
        assert_eq!((calls.times(7), calls.times(8)), (2, 0));
        assert_eq!(calls.executed(), Executed { calls: 2, again: 1 });
    }

    #[test]
    fn only_so_many_calls_are_remembered_and_the_latest_are() {
        let mut calls = Calls::default();
        (0..=REMEMBERED as u32).for_each(|number| drop(ask(&mut calls, &call(number, 32_767, b""))));
        assert_eq!([0, 1, REMEMBERED as u32].map(|number| calls.times(number)), [0, 1, 1]);
    }

    #[test]
    fn calls_wait_for_the_one_that_moves_data_up_to_a_bound_and_are_then_done_in_order() {
        let mut calls = Calls::default();
        assert!(matches!(ask(&mut calls, &call(1, 40, &[4, 0, 0, 0, 1])), Turn::Begun(Some(_))));
        for number in 0..WAITING as u32 {
            assert_eq!(ask(&mut calls, &call(2 + number, 3, b"")), Turn::Waits);
        }
        assert_eq!(ask(&mut calls, &call(99, 3, b"")), Turn::Lost);
        assert_eq!((calls.next_waiting(), calls.times(2)), (None, 0), "not before the data has come");
        let piece = Data { request_id: 1, offset: 0, data: b"data" };
        assert!(calls.on_data(Duration::ZERO, Level::Device, &piece).is_some());
        assert_eq!(calls.on_time(Duration::ZERO).unwrap().packet_type, PacketType::RPC_RSP);
        for number in 0..WAITING as u32 {
            assert_eq!(calls.due_at(), Some(Duration::ZERO));
            let (_, next) = calls.next_waiting().unwrap();
            assert_eq!(next[..4], (2 + number).to_le_bytes());
        }
        assert_eq!((calls.due_at(), calls.next_waiting()), (None, None));
    }

    #[test]
    fn a_reboot_ends_what_it_was_at_and_forgets_what_waits() {
        let mut calls = Calls::default();
        ask(&mut calls, &call(1, 32_765, &[9, 0, 0, 0, 0]));
        ask(&mut calls, &call(2, 3, b""));
        calls.reboot(Duration::ZERO, Duration::ZERO);
        assert_eq!((calls.due_at(), calls.next_waiting(), calls.times(1)), (None, None, 1));
    }
}
