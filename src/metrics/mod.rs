//! Names and counters of what happens on the packet path. They are rendered by the API.

pub mod histogram;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use histogram::Histogram;

/// What became of a datagram or of an entry of a container: exactly one of these. The names are the `result` labels of
/// the metrics and appear in logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Authentic and counted.
    Accepted,
    /// Authentic and counted before.
    Duplicate,
    /// Authentic, but older than what can still be told from a replay.
    TooOld,
    /// Authentic, but something only a gateway sends: our own downlink came back.
    Reflected,
    /// Too few bytes to authenticate.
    Short,
    /// More than 2048 bytes, or cut by the receive buffer.
    Oversize,
    /// Network level, of a network whose key is not known.
    UnknownNetwork,
    /// Device level, of a device whose key is not known.
    UnknownDevice,
    /// Device level, with a key id that is none of the device's.
    UnknownKey,
    /// Failed authentication.
    BadTag,
    /// Authentic, of a device that is not registered, while only registered ones are served.
    NotRegistered,
    /// Key day neither near today nor of a device without time, not in use, and over the limit for such frames.
    DayLimited,
    /// Container entry only: an inner frame of another version.
    BadVersion,
    /// Container entry only: heard on an interface other than Bluetooth.
    UnknownInterface,
}

impl Disposition {
    /// Every disposition, in the order of the counters.
    pub const ALL: [Self; 14] = [
        Self::Accepted,
        Self::Duplicate,
        Self::TooOld,
        Self::Reflected,
        Self::Short,
        Self::Oversize,
        Self::UnknownNetwork,
        Self::UnknownDevice,
        Self::UnknownKey,
        Self::BadTag,
        Self::NotRegistered,
        Self::DayLimited,
        Self::BadVersion,
        Self::UnknownInterface,
    ];
    /// How many of [`Self::ALL`], from the front, a datagram can end in.
    pub const DATAGRAM: usize = 12;

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::TooOld => "too_old",
            Self::Reflected => "reflected",
            Self::Short => "short",
            Self::Oversize => "oversize",
            Self::UnknownNetwork => "unknown_network",
            Self::UnknownDevice => "unknown_device",
            Self::UnknownKey => "unknown_key",
            Self::BadTag => "bad_tag",
            Self::NotRegistered => "not_registered",
            Self::DayLimited => "day_limited",
            Self::BadVersion => "bad_version",
            Self::UnknownInterface => "unknown_interface",
        }
    }
}

/// What a downlink is for: the `kind` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DownlinkKind {
    /// Acknowledges a packet.
    Ack,
    /// Asks whether a device is reached at an address.
    Echo,
    /// Asks a device for its keys.
    KeyQuestion,
    /// A message.
    Intent,
    /// Data of a call.
    Data,
}

impl DownlinkKind {
    /// Every kind, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::Ack, Self::Echo, Self::KeyQuestion, Self::Intent, Self::Data];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Echo => "echo",
            Self::KeyQuestion => "key_question",
            Self::Intent => "intent",
            Self::Data => "data",
        }
    }
}

/// Why nothing was made of what a device sent for a call: the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedAnswer {
    /// Cut inside its header.
    Truncated,
    /// It belongs to no call that is remembered.
    Unknown,
    /// It is at a lower level than its call, or answers to another command: whoever made it did not see the call.
    Forged,
    /// There is no room for its data, or it lies beyond what is wanted.
    NoRoom,
    /// The device cannot answer the question for its keys.
    Declined,
}

impl RefusedAnswer {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::Truncated, Self::Unknown, Self::Forged, Self::NoRoom, Self::Declined];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Unknown => "unknown",
            Self::Forged => "forged",
            Self::NoRoom => "no_room",
            Self::Declined => "declined",
        }
    }
}

/// What became of a challenge: the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Challenge {
    /// A device was asked whether it is where a packet came from.
    Asked,
    /// It was the first to answer, from there.
    Answered,
}

impl Challenge {
    /// Every result, in the order of the counters.
    pub const ALL: [Self; 2] = [Self::Asked, Self::Answered];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Answered => "answered",
        }
    }
}

/// What one ingest thread counted since it last published: plain numbers, so that a packet costs no atomic operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams by disposition.
    pub datagrams: [u64; Disposition::ALL.len()],
    /// Container entries by disposition.
    pub entries: [u64; Disposition::ALL.len()],
    /// Downlinks handed to the kernel, by kind.
    pub sent: [u64; DownlinkKind::ALL.len()],
    /// Downlinks the kernel did not take, by kind.
    pub send_failed: [u64; DownlinkKind::ALL.len()],
    /// What devices sent for a call and nothing was made of, by reason.
    pub answers_refused: [u64; RefusedAnswer::ALL.len()],
    /// Challenges by what became of them.
    pub challenges: [u64; Challenge::ALL.len()],
    /// Routes moved to another address.
    pub route_moves: u64,
    /// Acknowledgements that were asked for while nothing may be sealed.
    pub acks_held_back: u64,
    /// Authentic containers that end in a fault.
    pub malformed_containers: u64,
    /// Authentic TDF packets that end in a fault.
    pub malformed_tdf: u64,
    /// Receive calls that brought at least one datagram.
    pub receives: u64,
    /// Datagrams the kernel dropped because the receive buffer was full.
    pub kernel_drops: u64,
}

impl Tally {
    /// One datagram ended in `disposition`.
    pub fn datagram(&mut self, disposition: Disposition) {
        self.datagrams[disposition as usize] += 1;
    }

    /// One container entry ended in `disposition`.
    pub fn entry(&mut self, disposition: Disposition) {
        self.entries[disposition as usize] += 1;
    }

    /// One challenge came to this.
    pub const fn challenge(&mut self, result: Challenge) {
        self.challenges[result as usize] += 1;
    }

    /// Acknowledgements handed to the kernel.
    pub const fn acks_sent(&self) -> u64 {
        self.sent[DownlinkKind::Ack as usize]
    }

    /// Acknowledgements the kernel did not take.
    pub const fn acks_failed(&self) -> u64 {
        self.send_failed[DownlinkKind::Ack as usize]
    }
}

/// Bounds of [`Counters::batches`] and [`Counters::releases`]. A full batch takes about 30 microseconds, and several times that
/// with acknowledgements (docs/performance.md). What takes milliseconds was held up: by another process, a lock, or a log that
/// is not read.
pub const BATCH_BOUNDS: [Duration; 13] = [
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
];

macro_rules! counters {
    ($($field:ident),*; $($array:ident of $labels:ident),*) => {
        /// The published counters of one ingest thread.
        ///
        /// Only that thread writes them, once a batch; a scrape reads them. Aligned so that two threads never share a
        /// cache line.
        #[derive(Debug)]
        #[repr(align(128))]
        pub struct Counters {
            /// How long each received batch took, from the end of the receive call to the last answer. Written once a batch, by
            /// the same thread.
            pub batches: Histogram<{ BATCH_BOUNDS.len() }>,
            /// How long it took from the end of the receive call that brought a packet until what waited for its device was
            /// handed to the kernel. Written once a batch, by the same thread.
            pub releases: Histogram<{ BATCH_BOUNDS.len() }>,
            turns: AtomicU64,
            $($array: [AtomicU64; $labels::ALL.len()],)*
            $($field: AtomicU64,)*
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    batches: Histogram::new(&BATCH_BOUNDS),
                    releases: Histogram::new(&BATCH_BOUNDS),
                    turns: AtomicU64::new(0),
                    $($array: Default::default(),)*
                    $($field: Default::default(),)*
                }
            }
        }

        impl Counters {
            /// Adds `tally` and empties it. To be called by the owning thread only: the additions are not atomic.
            pub fn publish(&self, tally: &mut Tally) {
                let add = |to: &AtomicU64, more: u64| {
                    if more != 0 {
                        to.store(to.load(Ordering::Relaxed) + more, Ordering::Relaxed);
                    }
                };
                $(self.$array.iter().zip(tally.$array).for_each(|(to, more)| add(to, more));)*
                $(add(&self.$field, tally.$field);)*
                add(&self.turns, 1);
                *tally = Tally::default();
            }

            /// How often something was published: an ingest thread does so at least once a second, so one whose turns
            /// stand still hangs.
            pub fn turns(&self) -> u64 {
                self.turns.load(Ordering::Relaxed)
            }

            /// What was published so far.
            pub fn read(&self) -> Tally {
                let load = |from: &AtomicU64| from.load(Ordering::Relaxed);
                Tally {
                    $($array: self.$array.each_ref().map(load),)*
                    $($field: load(&self.$field),)*
                }
            }
        }

        impl std::iter::Sum for Tally {
            fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
                tallies.fold(Self::default(), |mut sum, more| {
                    $(sum.$array.iter_mut().zip(more.$array).for_each(|(to, more)| *to += more);)*
                    $(sum.$field += more.$field;)*
                    sum
                })
            }
        }
    };
}

counters!(
    route_moves, acks_held_back, malformed_containers, malformed_tdf, receives, kernel_drops;
    datagrams of Disposition, entries of Disposition, sent of DownlinkKind, send_failed of DownlinkKind,
    answers_refused of RefusedAnswer, challenges of Challenge
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_indexed_by_position() {
        for (index, disposition) in Disposition::ALL.into_iter().enumerate() {
            assert_eq!(disposition as usize, index);
            assert!(Disposition::ALL[..index].iter().all(|other| other.label() != disposition.label()));
        }
        assert_eq!(Disposition::ALL[Disposition::DATAGRAM], Disposition::BadVersion);
        for (index, kind) in DownlinkKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
        for (index, reason) in RefusedAnswer::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        assert_eq!(Challenge::ALL.map(|result| result as usize), [0, 1]);
    }

    #[test]
    fn publishing_adds_and_empties_the_tally() {
        let counters = Counters::default();
        for round in 1..=2 {
            let mut tally = Tally { route_moves: 3, ..Tally::default() };
            tally.datagram(Disposition::BadTag);
            tally.entry(Disposition::BadVersion);
            tally.sent[DownlinkKind::Data as usize] += 2;
            counters.publish(&mut tally);
            assert_eq!(tally, Tally::default());
            let read = counters.read();
            assert_eq!(read.datagrams[Disposition::BadTag as usize], round);
            assert_eq!(read.entries[Disposition::BadVersion as usize], round);
            assert_eq!((read.route_moves, read.sent), (3 * round, [0, 0, 0, 0, 2 * round]));
            assert_eq!([read.clone(), read].into_iter().sum::<Tally>().route_moves, 6 * round);
        }
    }
}
