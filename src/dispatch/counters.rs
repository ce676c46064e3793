//! What is counted of messages. It is rendered by the API.

use std::sync::atomic::{AtomicU64, Ordering};

/// What happened to a message: the `event` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageEvent {
    /// It was accepted.
    Accepted,
    /// It was handed to the socket; each time counts.
    Sent,
    /// Its device answered.
    Completed,
    /// Its time was up before its device spoke.
    Expired,
    /// It was given up: its route moved, or it is too long.
    Dropped,
    /// Somebody took it back.
    Withdrawn,
}

impl MessageEvent {
    /// Every event, in the order of the counters.
    pub const ALL: [Self; 6] =
        [Self::Accepted, Self::Sent, Self::Completed, Self::Expired, Self::Dropped, Self::Withdrawn];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Sent => "sent",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// What came of an answer that nobody waited for in memory: the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateAnswer {
    /// It completed a message.
    Recorded,
    /// There is no such call, or it is answered already.
    Unknown,
    /// It is not as the call's answer would be: of another command, or under a lesser key.
    Forged,
    /// There was no room to look for its call.
    Dropped,
}

impl LateAnswer {
    /// Every result, in the order of the counters.
    pub const ALL: [Self; 4] = [Self::Recorded, Self::Unknown, Self::Forged, Self::Dropped];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Unknown => "unknown",
            Self::Forged => "forged",
            Self::Dropped => "dropped",
        }
    }
}

/// What came of a device's answer to the question for its keys: the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAnswer {
    /// The key was known.
    Unchanged,
    /// It is the first one.
    Learned,
    /// It took the place of another.
    Replaced,
    /// It waits for confirmation.
    Held,
    /// The key that was given stays.
    Pinned,
    /// There is nothing to check it with: it was kept for whoever has the other key.
    Unchecked,
    /// It does not prove itself, or has another form.
    Refused,
    /// The device is not registered any more.
    Unregistered,
    /// There was no room to check it, or the registry did not answer. The device is asked again.
    Dropped,
}

impl KeyAnswer {
    /// Every result, in the order of the counters.
    pub const ALL: [Self; 9] = [
        Self::Unchanged,
        Self::Learned,
        Self::Replaced,
        Self::Held,
        Self::Pinned,
        Self::Unchecked,
        Self::Refused,
        Self::Unregistered,
        Self::Dropped,
    ];

    /// Whether it is known now which key the device has, be it of use here or not.
    pub(super) const fn tells_key(self) -> bool {
        !matches!(self, Self::Refused | Self::Unregistered | Self::Dropped)
    }

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Learned => "learned",
            Self::Replaced => "replaced",
            Self::Held => "held",
            Self::Pinned => "pinned",
            Self::Unchecked => "unchecked",
            Self::Refused => "refused",
            Self::Unregistered => "unregistered",
            Self::Dropped => "dropped",
        }
    }
}

/// The counters, since the start.
#[derive(Debug, Default)]
pub struct MessageCounters {
    messages: [AtomicU64; MessageEvent::ALL.len()],
    late_answers: [AtomicU64; LateAnswer::ALL.len()],
    key_answers: [AtomicU64; KeyAnswer::ALL.len()],
}

impl MessageCounters {
    /// How often each event happened.
    pub fn messages(&self) -> impl Iterator<Item = (&'static str, u64)> {
        MessageEvent::ALL.iter().map(|event| event.label()).zip(read(&self.messages))
    }

    /// How many late answers came to each result.
    pub fn late_answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        LateAnswer::ALL.iter().map(|result| result.label()).zip(read(&self.late_answers))
    }

    /// How many answers to the question for keys came to each result.
    pub fn key_answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KeyAnswer::ALL.iter().map(|result| result.label()).zip(read(&self.key_answers))
    }

    pub(super) fn message(&self, event: MessageEvent) {
        self.messages[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn late_answer(&self, result: LateAnswer) {
        self.late_answers[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn key_answer(&self, result: KeyAnswer) {
        self.key_answers[result as usize].fetch_add(1, Ordering::Relaxed);
    }
}

fn read(counters: &[AtomicU64]) -> impl Iterator<Item = u64> {
    counters.iter().map(|counter| counter.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everything_counts_under_a_label_of_its_own() {
        let counters = MessageCounters::default();
        MessageEvent::ALL.into_iter().for_each(|event| counters.message(event));
        LateAnswer::ALL.into_iter().for_each(|result| counters.late_answer(result));
        KeyAnswer::ALL.into_iter().for_each(|result| counters.key_answer(result));
        for counted in [
            counters.messages().collect::<Vec<_>>(),
            counters.late_answers().collect(),
            counters.key_answers().collect(),
        ] {
            assert!(counted.iter().all(|(_, count)| *count == 1), "{counted:?}");
            assert_eq!(counted.iter().map(|(label, _)| label).collect::<BTreeSet<_>>().len(), counted.len());
        }
    }
}
