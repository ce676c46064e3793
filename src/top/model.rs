//! What is known of the gateway and what was typed: pure state, changed by answers and keys, shown by `view`.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::lookup::Found;
use crate::client::ClientError;
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::status::GatewayStatus;

/// Hex digits of a device id.
const ID_DIGITS: usize = 16;

/// The intervals that keys choose from: from what looks like motion to what hardly loads a satellite link.
const INTERVALS: [Duration; 9] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(900),
];

/// Everything the view shows.
///
/// Two clocks are in it. Moments named `at` or `since` are of this machine's clock, moments within a status are of the
/// gateway's; they are never compared but through [`Latest::gateway_clock`].
#[derive(Debug)]
pub(super) struct Model {
    /// The address of the gateway's API.
    pub(super) address: String,
    /// Time from one question to the next.
    pub(super) every: Duration,
    /// Whether nothing is asked until a key is pressed.
    pub(super) paused: bool,
    /// What the gateway said last.
    pub(super) latest: Option<Latest>,
    /// What it said before that, if both can be compared.
    previous: Option<GatewayStatus>,
    /// Why there is no answer at present.
    pub(super) outage: Option<Outage>,
    /// How often the gateway was seen to have started anew.
    pub(super) restarts: u32,
    /// Whether the kernel was seen to drop datagrams since the gateway started.
    pub(super) dropped: bool,
    /// The digits of a device id while they are typed.
    pub(super) typed: Option<String>,
    /// What is wrong with them.
    pub(super) complaint: Option<String>,
    /// The device that is looked up.
    pub(super) lookup: Option<Lookup>,
}

/// A status and when it came.
#[derive(Debug)]
pub(super) struct Latest {
    pub(super) status: GatewayStatus,
    pub(super) at: Timestamp,
}

/// A time without answers.
#[derive(Debug)]
pub(super) struct Outage {
    /// The first question without an answer.
    pub(super) since: Timestamp,
    /// What happened to the last one.
    pub(super) error: ClientError,
}

/// A device that is looked up, with what was found last and when, if it was asked for already.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) id: DeviceId,
    pub(super) found: Option<(Result<Found, ClientError>, Timestamp)>,
}

/// What a key asks of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing but to draw.
    Draw,
    /// To ask how the gateway is, now.
    AskStatus,
    /// To ask for the device, now.
    AskDevice,
    /// To end.
    Quit,
}

impl Latest {
    /// What the gateway's clock shows when this machine's shows `now`, as far as the answer tells.
    pub(super) fn gateway_clock(&self, now: Timestamp) -> Timestamp {
        Timestamp(self.status.now.0.0.saturating_add(now.0.saturating_sub(self.at.0)))
    }
}

impl Model {
    /// Nothing is known yet.
    pub(super) fn new(address: &str, every: Duration) -> Self {
        Self {
            address: address.to_owned(),
            every,
            paused: false,
            latest: None,
            previous: None,
            outage: None,
            restarts: 0,
            dropped: false,
            typed: None,
            complaint: None,
            lookup: None,
        }
    }

    /// The gateway was asked how it is, and answered at `at`.
    pub(super) fn update(&mut self, answer: Result<GatewayStatus, ClientError>, at: Timestamp) {
        let status = match answer {
            Ok(status) => status,
            Err(error) => {
                let since = self.outage.take().map_or(at, |outage| outage.since);
                self.outage = Some(Outage { since, error });
                return;
            }
        };
        self.outage = None;
        let before = self.latest.take().map(|latest| latest.status);
        if before.as_ref().is_some_and(|before| before.started_at != status.started_at) {
            self.restarts += 1;
            self.dropped = false;
        }
        // Over a stepped clock, no rate is true.
        self.previous = before.filter(|before| before.started_at == status.started_at && before.now < status.now);
        self.dropped |= self.previous.as_ref().is_some_and(|before| before.kernel_drops < status.kernel_drops);
        self.latest = Some(Latest { status, at });
    }

    /// A device was asked for. The answer for one that is no longer looked up does not count.
    pub(super) fn update_device(&mut self, id: DeviceId, answer: Result<Found, ClientError>, at: Timestamp) {
        if let Some(lookup) = self.lookup.as_mut().filter(|lookup| lookup.id == id) {
            lookup.found = Some((answer, at));
        }
    }

    /// How fast a counter rose between the last two answers, a second of the gateway's clock, so that a slow link does not
    /// blur it. `None` before there are two of one start, and where either has no such counter.
    pub(super) fn rate(&self, counter: impl Fn(&GatewayStatus) -> Option<u64>) -> Option<f64> {
        let (before, latest) = (self.previous.as_ref()?, &self.latest.as_ref()?.status);
        let more = counter(latest)?.checked_sub(counter(before)?)?;
        let millis = latest.now.0.0.checked_sub(before.now.0.0)?;
        Some(more as f64 * 1000.0 / millis as f64)
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Draw;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Action::Quit } else { Action::Draw };
        }
        match key.code {
            KeyCode::Char('q' | 'Q') => Action::Quit,
            KeyCode::Char('p' | 'P') => self.pause(),
            KeyCode::Char('+') => self.change_interval(INTERVALS.into_iter().find(|longer| *longer > self.every)),
            KeyCode::Char('-') => {
                self.change_interval(INTERVALS.into_iter().rev().find(|shorter| *shorter < self.every))
            }
            _ => self.edit(key.code),
        }
    }

    fn pause(&mut self) -> Action {
        self.paused = !self.paused;
        if self.paused { Action::Draw } else { Action::AskStatus }
    }

    fn change_interval(&mut self, every: Option<Duration>) -> Action {
        self.every = every.unwrap_or(self.every);
        Action::Draw
    }

    fn edit(&mut self, code: KeyCode) -> Action {
        match code {
            KeyCode::Char('/') => {
                self.typed.get_or_insert_default();
            }
            KeyCode::Char(digit) if digit.is_ascii_hexdigit() => {
                let typed = self.typed.get_or_insert_default();
                if typed.len() < ID_DIGITS {
                    typed.push(digit.to_ascii_lowercase());
                }
            }
            KeyCode::Backspace => {
                self.typed.as_mut().and_then(String::pop);
            }
            KeyCode::Enter => return self.enter(),
            KeyCode::Esc if self.typed.is_none() => self.lookup = None,
            KeyCode::Esc => self.typed = None,
            _ => return Action::Draw,
        }
        self.complaint = None;
        Action::Draw
    }

    fn enter(&mut self) -> Action {
        let Some(typed) = &self.typed else { return Action::Draw };
        match typed.parse() {
            Ok(id) => {
                self.lookup = Some(Lookup { id, found: None });
                (self.typed, self.complaint) = (None, None);
                Action::AskDevice
            }
            Err(_) => {
                self.complaint = Some(format!("a device id is {ID_DIGITS} hex digits, this has {}", typed.len()));
                Action::Draw
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{AT, DEVICE, failure, key, press, status};
    use super::*;
    use crate::status::Time;

    fn model() -> Model {
        Model::new("http://gateway", Duration::from_secs(2))
    }

    fn accepted(status: &GatewayStatus) -> Option<u64> {
        status.datagrams.get("accepted").copied()
    }

    /// The gateway's status `millis` after the sample, with so many accepted.
    fn later(millis: u64, count: u64) -> GatewayStatus {
        let mut status = status();
        status.now = Time(Timestamp(status.now.0.0 + millis));
        status.datagrams.insert("accepted".to_owned(), count);
        status
    }

    fn after(millis: u64) -> Timestamp {
        Timestamp(AT.0 + millis)
    }

    #[test]
    fn a_rate_is_by_the_clock_of_the_gateway_whenever_the_answer_came() {
        let mut model = model();
        assert_eq!(model.rate(accepted), None);
        model.update(Ok(later(0, 100)), AT);
        assert_eq!(model.rate(accepted), None);
        model.update(Ok(later(2000, 150)), after(9000));
        assert_eq!(model.rate(accepted), Some(25.0));
        model.update(Ok(later(2500, 150)), after(9001));
        assert_eq!(model.rate(accepted), Some(0.0));
    }

    #[test]
    fn after_a_restart_rates_begin_anew() {
        let mut model = model();
        model.update(Ok(later(0, 100)), AT);
        model.update(Ok(later(1000, 200)), after(1000));
        model.dropped = true;
        let started_at = Time(Timestamp(status().now.0.0 + 1500));
        let restarted = |millis, count| GatewayStatus { started_at, ..later(millis, count) };
        model.update(Ok(restarted(2000, 300)), after(2000));
        assert_eq!((model.rate(accepted), model.restarts, model.dropped), (None, 1, false));
        model.update(Ok(restarted(4000, 310)), after(4000));
        assert_eq!((model.rate(accepted), model.restarts), (Some(5.0), 1));
    }

    #[test]
    fn there_is_no_rate_over_a_clock_that_was_set_back_or_of_a_counter_that_is_missing_or_fell() {
        let mut model = model();
        model.update(Ok(later(5000, 100)), AT);
        model.update(Ok(later(4000, 200)), after(1000));
        assert_eq!(model.rate(accepted), None);
        model.update(Ok(later(4000, 200)), after(2000));
        assert_eq!(model.rate(accepted), None);
        model.update(Ok(later(6000, 190)), after(3000));
        assert_eq!(model.rate(accepted), None);
        let mut without = later(7000, 0);
        without.datagrams.clear();
        model.update(Ok(without), after(4000));
        assert_eq!((model.rate(accepted), model.rate(|status| Some(status.route_moves))), (None, Some(0.0)));
        model.update(Ok(later(8000, 190)), after(5000));
        assert_eq!(model.rate(accepted), None);
    }

    #[test]
    fn an_outage_begins_with_its_first_failure_and_ends_with_an_answer() {
        let mut model = model();
        model.update(Ok(later(0, 100)), AT);
        model.update(Err(failure()), after(2000));
        model.update(Err(ClientError::Key), after(4000));
        let outage = model.outage.as_ref().unwrap();
        assert_eq!((outage.since, &outage.error), (after(2000), &ClientError::Key));
        assert_eq!(model.latest.as_ref().map(|latest| latest.at), Some(AT), "what was known stays");
        model.update(Ok(later(10_000, 200)), after(10_000));
        assert!(model.outage.is_none());
        assert_eq!(model.rate(accepted), Some(10.0), "over the whole outage");
    }

    #[test]
    fn that_the_kernel_dropped_datagrams_while_one_watched_is_remembered() {
        let mut model = model();
        for (millis, drops, seen) in [(0, 5, false), (1000, 5, false), (2000, 6, true), (3000, 6, true)] {
            let status = GatewayStatus { kernel_drops: drops, ..later(millis, 0) };
            model.update(Ok(status), after(millis));
            assert_eq!(model.dropped, seen, "after {millis} ms");
        }
    }

    #[test]
    fn the_clock_of_the_gateway_goes_on_from_its_last_answer() {
        let latest = Latest { status: status(), at: AT };
        let at_answer = status().now.0.0;
        assert_eq!(latest.gateway_clock(after(700)), Timestamp(at_answer + 700));
        assert_eq!(latest.gateway_clock(Timestamp(0)), Timestamp(at_answer), "this machine's clock was set back");
    }

    #[test]
    fn typing_an_id_looks_it_up_and_escape_clears_what_is_typed_then_what_is_shown() {
        let mut model = model();
        assert_eq!(press(&mut model, "/D291d4d66bf0a9555"), Action::Draw);
        assert_eq!(model.typed.as_deref(), Some("d291d4d66bf0a955"), "no 17th digit");
        assert_eq!(model.key(key(KeyCode::Enter)), Action::AskDevice);
        assert_eq!((model.typed.as_deref(), model.lookup.as_ref().map(|lookup| lookup.id)), (None, Some(DEVICE)));
        press(&mut model, "12");
        model.key(key(KeyCode::Esc));
        assert_eq!((model.typed.as_deref(), model.lookup.is_some()), (None, true));
        model.key(key(KeyCode::Esc));
        assert!(model.lookup.is_none());
    }

    #[test]
    fn a_short_id_is_complained_of_until_it_changes() {
        let mut model = model();
        assert_eq!(model.key(key(KeyCode::Enter)), Action::Draw);
        assert_eq!(model.complaint, None, "nothing is typed");
        press(&mut model, "d2gx1");
        assert_eq!(model.typed.as_deref(), Some("d21"), "what is no digit is left out");
        assert_eq!(model.key(key(KeyCode::Enter)), Action::Draw);
        assert_eq!(model.complaint.as_deref(), Some("a device id is 16 hex digits, this has 3"));
        model.key(key(KeyCode::Backspace));
        assert_eq!((model.typed.as_deref(), model.complaint.as_deref()), (Some("d2"), None));
        (0..3).for_each(|_| assert_eq!(model.key(key(KeyCode::Backspace)), Action::Draw));
        assert_eq!(model.typed.as_deref(), Some(""));
    }

    #[test]
    fn the_answer_for_another_device_than_the_one_looked_up_does_not_count() {
        let mut model = model();
        model.update_device(DEVICE, Ok(Found::default()), AT);
        assert!(model.lookup.is_none());
        press(&mut model, "0000000000000001");
        model.key(key(KeyCode::Enter));
        model.update_device(DEVICE, Ok(Found::default()), AT);
        assert!(model.lookup.as_ref().unwrap().found.is_none());
        model.update_device(DeviceId(1), Ok(Found::default()), AT);
        assert!(model.lookup.as_ref().unwrap().found.is_some());
    }

    #[test]
    fn keys_quit_pause_and_change_the_interval() {
        let mut model = model();
        assert_eq!(press(&mut model, "q"), Action::Quit);
        assert_eq!(model.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Action::Quit);
        assert_eq!(model.key(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::CONTROL)), Action::Draw);
        assert_eq!((press(&mut model, "p"), model.paused), (Action::Draw, true));
        assert_eq!((press(&mut model, "p"), model.paused), (Action::AskStatus, false));
        press(&mut model, "+");
        assert_eq!(model.every, Duration::from_secs(5));
        press(&mut model, "--");
        assert_eq!(model.every, Duration::from_secs(1));
        press(&mut model, "--------");
        assert_eq!(model.every, INTERVALS[0]);
        press(&mut model, "++++++++++++");
        assert_eq!(model.every, INTERVALS[INTERVALS.len() - 1]);
        model.every = Duration::from_secs(7);
        press(&mut model, "-");
        assert_eq!(model.every, Duration::from_secs(5), "from an interval that no key gives");
        assert_eq!(model.typed, None);
    }

    #[test]
    fn a_key_that_is_let_go_does_nothing() {
        let mut model = model();
        let released = KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(model.key(released), Action::Draw);
    }
}
