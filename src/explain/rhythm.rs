//! How often a device speaks, and when it is overdue. Only what came by its routes has a say, and what nobody but the device can
//! have sent: a recording that is sent again and again keeps no dead device alive.

use std::time::Duration;

use super::{Known, between};
use crate::clock::Timestamp;
use crate::ingest::trace::Decision;
use crate::table::rules::RouteChange;
use crate::table::sending::DIRECT_FOR;

/// Fewer packets than this say nothing of how often a device speaks.
const LEAST_PACKETS: u64 = 3;
/// A device that is known for less than this has hardly done more than boot, when it says several things at once.
const LEAST_TIME: Duration = Duration::from_secs(30);
/// Packets that are less far apart are of one wake.
const ONE_WAKE: Duration = Duration::from_secs(10);
/// A device is overdue after so many of its usual silences,
const USUAL_SILENCES: u32 = 3;
/// and after no less than this: a device that speaks each second is not gone because a network is down for five.
const LEAST_SILENCE: Duration = Duration::from_secs(60);

/// How often a device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rhythm {
    /// Since it was heard last.
    pub(super) age: Duration,
    /// From one packet to the next, on average over all; `None`: it was heard too seldom.
    pub(super) average: Option<Duration>,
    /// From one wake to the next of late, as far as ingest remembers them, or else the average; `None`: too little to tell.
    pub(super) usual: Option<Duration>,
    /// The longest silence that ingest remembers.
    pub(super) longest: Option<Duration>,
}

impl Rhythm {
    pub(super) fn of(known: &Known) -> Option<Self> {
        let snapshot = known.snapshot.as_ref()?;
        let (first, last) = (snapshot.first_packet_at?, known.heard_at()?);
        let (known_for, count) = (between(first, last), snapshot.cursor.n);
        let average = (count >= LEAST_PACKETS).then(|| known_for.div_f64((count - 1) as f64));
        let silences = Silences::of(known);
        let usual = average.filter(|_| known_for >= LEAST_TIME).map(|average| silences.usual().unwrap_or(average));
        Some(Self { age: between(last, known.now), average, usual, longest: silences.0.iter().max().copied() })
    }

    /// Silent for so much longer than usual that something is wrong; `None`: that cannot be said.
    pub(super) fn is_overdue(&self) -> Option<bool> {
        match self.average.filter(|_| self.usual.is_some()) {
            Some(average) => {
                let silence = average.max(self.longest.unwrap_or_default());
                Some(self.age > LEAST_SILENCE.max(silence.saturating_mul(USUAL_SILENCES)))
            }
            // Spoken to directly for as long, whatever is known of it.
            None => (self.age <= DIRECT_FOR).then_some(false),
        }
    }
}

/// The silences between the wakes that ingest remembers, and the time from the first to the last of these packets.
struct Silences(Vec<Duration>, Duration);

impl Silences {
    fn of(known: &Known) -> Self {
        let is_on_route =
            |decision| matches!(decision, Decision::Counted { change, .. } if change != RouteChange::Kept);
        let heard: Vec<Timestamp> =
            known.packets.iter().filter(|packet| is_on_route(packet.decision)).map(|packet| packet.at).collect();
        let silences = heard.windows(2).map(|pair| between(pair[1], pair[0])).filter(|silence| *silence >= ONE_WAKE);
        let span = heard.last().zip(heard.first()).map_or(Duration::ZERO, |(first, last)| between(*first, *last));
        Self(silences.collect(), span)
    }

    /// Their average, if there are several and they are most of the time: a device that speaks every few seconds has silences
    /// only where something was lost.
    fn usual(&self) -> Option<Duration> {
        let Self(silences, span) = self;
        let sum: Duration = silences.iter().sum();
        let number = u32::try_from(silences.len()).ok().filter(|number| *number >= 2)?;
        (sum.saturating_mul(2) >= *span).then(|| sum / number)
    }
}
