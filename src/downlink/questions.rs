//! Questions for the keys of devices (rule R12): which device was asked what, so that its answer can be told from others, and
//! which other keys devices name than the known ones.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use lru::LruCache;
use ring::rand::{SecureRandom, SystemRandom};

use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::wire::rpc::Command;
use crate::wire::security::{CHALLENGE_LEN, SECURITY_STATE};

/// A device is asked at most once in this time.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long the known key is in doubt once another was named, unless the device answers before.
const IN_DOUBT: Duration = ASKED_AGAIN_AFTER;
/// For this long a key id that was named is no news again, and one that the device has proved is no reason to ask.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Devices that are remembered: 100 000 are about 15 MiB. The one asked first makes room, and is then asked anew.
const DEVICES: usize = 100_000;
/// Questions for which nothing authentic is the reason, in any one second, in all. It keeps whoever makes up device ids from
/// having a whole fleet speak at once; a fleet whose keys are lost is asked in its turn.
const FOR_STRANGERS: u32 = 100;
/// Bytes of the payload of a question: request id, command id, challenge.
pub const QUESTION_LEN: usize = 4 + 2 + CHALLENGE_LEN;
/// Set in the request ids of questions. Those of other calls have 31 bits, so that none is taken for the other.
const QUESTION: u32 = 1 << 31;

/// What is remembered of the keys of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// When it was asked for them last.
    pub asked_at: Option<Timestamp>,
    /// Whether it has answered that.
    pub is_answered: bool,
    /// Another key than the known one that it has named in the last hour and has not answered about, and when it could be asked,
    /// or else was named.
    pub named: Option<(KeyId, Timestamp)>,
}

/// What was asked of whom.
#[derive(Debug)]
pub struct Questions {
    known: Mutex<Known>,
    random: SystemRandom,
}

#[derive(Debug)]
struct Known {
    devices: LruCache<DeviceId, Device, RandomState>,
    /// The second in which one was asked last because of what a stranger sent, and how many were in it.
    strangers: (u64, u32),
}

#[derive(Debug, Default)]
struct Device {
    asked: Option<Asked>,
    other: Option<Other>,
}

#[derive(Debug)]
struct Asked {
    at: Timestamp,
    request_id: u32,
    challenge: Option<[u8; CHALLENGE_LEN]>,
}

/// A key that a device named.
#[derive(Debug)]
struct Other {
    key_id: KeyId,
    at: Timestamp,
    /// The device was asked since.
    is_asked: bool,
    /// The device has answered since: what it says of its keys is known.
    is_settled: bool,
}

impl Default for Questions {
    fn default() -> Self {
        let devices = LruCache::unbounded_with_hasher(RandomState::default());
        Self { known: Mutex::new(Known { devices, strangers: (0, 0) }), random: SystemRandom::new() }
    }
}

impl Questions {
    /// The payload of an RPC_CMD that asks `device` for its keys, to be sealed with the key of its network; `None` if it was
    /// asked less than 10 s ago, or if the system has no random bytes.
    pub fn ask(&self, device: DeviceId, now: Timestamp) -> Option<Vec<u8>> {
        self.ask_if(device, now, |_| true)
    }

    /// As [`Self::ask`], where the reason is a frame that nobody could open: for at most 100 devices a second.
    pub fn ask_for_stranger(&self, device: DeviceId, now: Timestamp) -> Option<Vec<u8>> {
        self.ask_if(device, now, |known| known.admit_stranger(now))
    }

    fn ask_if(&self, device: DeviceId, now: Timestamp, admit: impl FnOnce(&mut Known) -> bool) -> Option<Vec<u8>> {
        let mut known = self.known();
        let asked = known.devices.peek(&device).and_then(|device| device.asked.as_ref());
        if asked.is_some_and(|asked| is_within(ASKED_AGAIN_AFTER, asked.at, now)) || !admit(&mut known) {
            return None;
        }
        let (mut challenge, mut id) = ([0; CHALLENGE_LEN], [0; 4]);
        self.random.fill(&mut challenge).ok()?;
        self.random.fill(&mut id).ok()?;
        let request_id = u32::from_le_bytes(id) | QUESTION;
        let entry = known.device(device);
        entry.asked = Some(Asked { at: now, request_id, challenge: Some(challenge) });
        // The time of a doubt that had to wait for its question begins with that; only with the first one, since a device may
        // never answer.
        if let Some(other) = entry.other.as_mut().filter(|other| !other.is_asked) {
            other.is_asked = true;
            other.at = now;
        }
        let mut payload = Vec::new();
        Command { request_id, command_id: SECURITY_STATE, data: None, parameters: &challenge }.encode(&mut payload);
        Some(payload)
    }

    /// The challenge of the question that `device` answers with this request id, once.
    pub fn answered(&self, device: DeviceId, request_id: u32) -> Option<[u8; CHALLENGE_LEN]> {
        let mut known = self.known();
        let asked = known.devices.peek_mut(&device)?.asked.as_mut();
        asked.filter(|asked| asked.request_id == request_id)?.challenge.take()
    }

    /// A device names a key that is not known: its keys are in doubt until 10 s after it was asked, or for 20 s if it is not;
    /// unless it named this one in the hour before.
    pub fn doubt(&self, device: DeviceId, key_id: KeyId, now: Timestamp) {
        let mut known = self.known();
        let other = &mut known.device(device).other;
        if !other.as_ref().is_some_and(|other| other.key_id == key_id && is_within(REMEMBERED, other.at, now)) {
            *other = Some(Other { key_id, at: now, is_asked: false, is_settled: false });
        }
    }

    /// The key that a device has named of late and has not answered about.
    pub fn doubted(&self, device: DeviceId, now: Timestamp) -> Option<KeyId> {
        let known = self.known();
        let other = known.devices.peek(&device)?.other.as_ref()?;
        // Its question may have to wait for as long, and then for the device to speak.
        let time = if other.is_asked { IN_DOUBT } else { 2 * IN_DOUBT };
        (!other.is_settled && is_within(time, other.at, now)).then_some(other.key_id)
    }

    /// What a device answered `at` that time was looked into: it has the key `key_id`, or, where that is `None`, it cannot say.
    /// Its keys are not in doubt any more, unless it has named another one since, and this one is no reason to ask for an hour,
    /// usable or not.
    pub fn settle(&self, device: DeviceId, key_id: Option<KeyId>, at: Timestamp) {
        let mut known = self.known();
        let other = &mut known.device(device).other;
        let Some(key_id) = key_id.or_else(|| other.as_ref().map(|other| other.key_id)) else { return };
        if !other.as_ref().is_some_and(|other| other.key_id != key_id && other.at > at) {
            *other = Some(Other { key_id, at, is_asked: true, is_settled: true });
        }
    }

    /// Whether the device has answered about this key in the last hour.
    pub fn is_settled(&self, device: DeviceId, key_id: KeyId, now: Timestamp) -> bool {
        let known = self.known();
        let other = known.devices.peek(&device).and_then(|device| device.other.as_ref());
        other.is_some_and(|other| other.is_settled && other.key_id == key_id && is_within(REMEMBERED, other.at, now))
    }

    /// What is remembered of the keys of a device, for whoever explains how it is.
    pub fn about(&self, device: DeviceId, now: Timestamp) -> About {
        let known = self.known();
        let Some(Device { asked, other }) = known.devices.peek(&device) else { return About::default() };
        let named = other.as_ref().filter(|other| !other.is_settled && is_within(REMEMBERED, other.at, now));
        About {
            asked_at: asked.as_ref().map(|asked| asked.at),
            is_answered: asked.as_ref().is_some_and(|asked| asked.challenge.is_none()),
            named: named.map(|other| (other.key_id, other.at)),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// What is known of a device, which is then the last to make room.
    fn device(&mut self, device: DeviceId) -> &mut Device {
        if self.devices.len() >= DEVICES && !self.devices.contains(&device) {
            self.devices.pop_lru();
        }
        self.devices.get_or_insert_mut(device, Device::default)
    }

    /// Takes one of the places of the present second; false when they are used up.
    fn admit_stranger(&mut self, now: Timestamp) -> bool {
        let second = now.0 / 1000;
        let used = if self.strangers.0 == second { self.strangers.1 } else { 0 };
        self.strangers = (second, used.saturating_add(1));
        used < FOR_STRANGERS
    }
}

/// Whether this is the request id of a question, answered or not.
pub(super) const fn is_question(request_id: u32) -> bool {
    request_id & QUESTION != 0
}

/// Whether `at` is so near. After the clock was set back nothing of what was before is for long.
fn is_within(time: Duration, at: Timestamp, now: Timestamp) -> bool {
    now.0.abs_diff(at.0) < time.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(42);
    const NOW: Timestamp = Timestamp(1_795_402_800_000);

    fn later(ms: u64) -> Timestamp {
        Timestamp(NOW.0 + ms)
    }

    fn challenge(command: &Command<'_>) -> [u8; 16] {
        command.parameters.try_into().unwrap()
    }

    #[test]
    fn an_answer_fits_its_device_and_its_request_id_and_counts_once() {
        let questions = Questions::default();
        let payload = questions.ask(DEVICE, NOW).unwrap();
        let command = Command::parse(&payload).unwrap();
        assert_eq!((command.command_id, payload.len()), (SECURITY_STATE, QUESTION_LEN));
        assert_eq!(questions.answered(DEVICE, command.request_id ^ 1), None);
        assert_eq!(questions.answered(DeviceId(43), command.request_id), None);
        assert_eq!(questions.answered(DEVICE, command.request_id), Some(challenge(&command)));
        assert_eq!(questions.answered(DEVICE, command.request_id), None);
    }

    #[test]
    fn a_device_is_asked_once_in_10_s_and_each_question_is_another() {
        let questions = Questions::default();
        let first = questions.ask(DEVICE, NOW).unwrap();
        let first = Command::parse(&first).unwrap();
        assert!(questions.answered(DEVICE, first.request_id).is_some(), "an answer does not open the way for another");
        assert_eq!([0, 9_999].map(|ms| questions.ask(DEVICE, later(ms))), [None, None]);
        assert!(questions.ask(DeviceId(43), NOW).is_some());
        let second = questions.ask(DEVICE, later(10_000)).unwrap();
        let second = Command::parse(&second).unwrap();
        assert!(first.request_id != second.request_id && challenge(&first) != challenge(&second));
        assert!([first, second].iter().all(|command| command.request_id >= QUESTION));
        assert_eq!(questions.answered(DEVICE, first.request_id), None, "only the last question is open");
        assert!(questions.ask(DEVICE, NOW).is_some(), "the clock was set back");
    }

    #[test]
    fn a_doubt_lasts_until_10_s_after_the_first_question_about_it() {
        let questions = Questions::default();
        let key_id = KeyId::new(7).unwrap();
        questions.ask(DEVICE, NOW).unwrap();
        questions.doubt(DEVICE, key_id, later(500));
        assert!(questions.ask(DEVICE, later(9_999)).is_none());
        assert_eq!(questions.doubted(DEVICE, later(11_000)), Some(key_id), "it has not spoken since it could be asked");
        questions.ask(DEVICE, later(11_000)).unwrap();
        assert_eq!(questions.doubted(DEVICE, later(20_999)), Some(key_id));
        // It does not answer, and is asked again: that is not waited for.
        questions.ask(DEVICE, later(21_000)).unwrap();
        questions.doubt(DEVICE, key_id, later(21_000));
        assert_eq!(questions.doubted(DEVICE, later(21_000)), None);
    }

    #[test]
    fn an_answer_about_one_key_settles_nothing_about_another_that_was_named_after_it() {
        let questions = Questions::default();
        let [one, two] = [7, 8].map(|id| KeyId::new(id).unwrap());
        questions.doubt(DEVICE, one, NOW);
        questions.doubt(DEVICE, two, later(2));
        questions.settle(DEVICE, Some(one), later(1));
        assert_eq!(questions.doubted(DEVICE, later(3)), Some(two));
        questions.settle(DEVICE, Some(two), later(4));
        assert_eq!(questions.doubted(DEVICE, later(5)), None);
    }

    #[test]
    fn what_is_remembered_of_a_device_is_told_until_it_has_answered() {
        let (questions, key_id) = (Questions::default(), KeyId::new(7).unwrap());
        assert_eq!(questions.about(DEVICE, NOW), About::default());
        questions.doubt(DEVICE, key_id, NOW);
        let named = About { named: Some((key_id, NOW)), ..About::default() };
        assert_eq!(questions.about(DEVICE, later(1000)), named);
        let payload = questions.ask(DEVICE, later(1000)).unwrap();
        let asked = About { asked_at: Some(later(1000)), is_answered: false, named: Some((key_id, later(1000))) };
        assert_eq!(questions.about(DEVICE, later(2000)), asked);
        assert_eq!(questions.about(DEVICE, later(3_601_000)).named, None, "an hour later it is no news");
        questions.answered(DEVICE, Command::parse(&payload).unwrap().request_id).unwrap();
        questions.settle(DEVICE, Some(key_id), later(3000));
        assert_eq!(questions.about(DEVICE, later(3000)), About { is_answered: true, named: None, ..asked });
    }

    #[test]
    fn the_device_asked_first_makes_room() {
        let questions = Questions::default();
        for id in 0..=DEVICES as u64 {
            questions.ask(DeviceId(id), NOW).unwrap();
        }
        assert_eq!(questions.known().devices.len(), DEVICES);
        assert!(questions.ask(DeviceId(1), NOW).is_none() && questions.ask(DeviceId(0), NOW).is_some());
    }

    #[test]
    fn what_nobody_has_proved_has_at_most_100_devices_asked_in_a_second() {
        let questions = Questions::default();
        let asked = |from: u64, at: Timestamp| {
            (from..from + 300).filter(|id| questions.ask_for_stranger(DeviceId(*id), at).is_some()).count()
        };
        assert_eq!([asked(0, NOW), asked(300, later(999)), asked(600, later(1000))], [100, 0, 100]);
        assert!(questions.ask(DeviceId(5000), NOW).is_some(), "what is authentic does not wait for them");
    }

    #[test]
    fn a_key_that_is_named_is_a_doubt_for_20_s_in_an_hour_or_until_the_device_has_answered() {
        let (questions, key, another) = (Questions::default(), KeyId::new(7).unwrap(), KeyId::new(8).unwrap());
        let doubted = |ms| questions.doubted(DEVICE, later(ms));
        assert_eq!(doubted(0), None);
        questions.doubt(DEVICE, key, NOW);
        questions.doubt(DEVICE, key, later(9_000));
        assert_eq!([0, 19_999, 20_000].map(doubted), [Some(key), Some(key), None]);
        questions.doubt(DEVICE, another, later(20_000));
        assert_eq!(doubted(20_000), Some(another));
        questions.settle(DEVICE, Some(another), later(21_000));
        assert_eq!(doubted(21_000), None);
        questions.doubt(DEVICE, another, later(22_000));
        assert_eq!(doubted(22_000), None, "it has answered about that");
        let is_settled = |key, ms| questions.is_settled(DEVICE, key, later(ms));
        assert_eq!(
            [(another, 22_000), (key, 22_000), (another, 3_621_000)].map(|(key, ms)| is_settled(key, ms)),
            [true, false, false]
        );
        questions.doubt(DEVICE, another, later(3_621_000));
        assert_eq!(doubted(3_621_000), Some(another));
        questions.settle(DEVICE, None, later(3_622_000));
        assert!(is_settled(another, 3_622_000), "it cannot say");
    }
}
