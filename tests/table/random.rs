//! Random histories of a few devices, step by step against the oracle.
//!
//! The histories are the same in every run. `PROPTEST_RNG_SEED=<number> PROPTEST_CASES=<number>` tries others.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use lastroute::clock::Timestamp;
use lastroute::table::rules::{RouteChange, Step};
use lastroute::table::sending::Via;
use lastroute::wire::frame::{Flags, Level, PacketType};

use super::pair::Pair;
use super::{START, Sent, Way};

const DEVICES: u64 = 5;
const STEPS: usize = 120;

#[derive(Clone, Debug)]
enum Action {
    Send(Draft),
    /// An earlier packet once more, as it was or from another address.
    Again {
        back: usize,
        way: Option<Way>,
        answers: bool,
    },
    Register(u64),
    Deregister(u64),
    /// Another device reports what this one runs.
    Report(u64, u32),
    /// Something is put into the outbox for the device.
    Expect(u64),
    /// A device is asked at some place.
    Ask(u64, Way),
    Downlink(u64),
    Checkpoint,
    Restart {
        clean: bool,
        registered_first: bool,
    },
}

/// A packet whose time and sequence depend on what was before.
#[derive(Clone, Debug)]
struct Draft {
    sent: Sent,
    gps: Gps,
    sequence: Sequence,
    /// It carries the cookie for where it comes from, whether it was asked or not.
    answers: bool,
}

#[derive(Clone, Debug)]
enum Gps {
    /// Seconds added to the gateway's.
    Near(i32),
    /// Seconds added to the time of the device's packet before.
    Since(i32),
    NoTime(u32),
    Zero,
}

#[derive(Clone, Debug)]
enum Sequence {
    /// Added to the device's packet before.
    Since(i16),
    Boot,
    Any(u16),
}

fn way() -> impl Strategy<Value = Way> {
    let addresses = ["192.0.2.1:4000", "192.0.2.1:4001", "[2001:db8::1]:4000", "[::ffff:192.0.2.1]:4000"];
    let addresses = addresses.map(|text| text.parse::<SocketAddr>().unwrap());
    prop_oneof![
        8 => prop::sample::select(addresses.to_vec()).prop_map(Way::Direct),
        1 => (90..92u64).prop_map(Way::Relayed),
        1 => (90..92u64, level()).prop_map(|(relay, level)| Way::OnWordOf(relay, level)),
    ]
}

/// Most packets are of one device, so that its history is long.
fn device() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(1), 1 => 1..=DEVICES]
}

fn level() -> impl Strategy<Value = Level> {
    prop::sample::select(vec![Level::Network, Level::Device])
}

fn draft() -> impl Strategy<Value = Draft> {
    let gps = prop_oneof![
        10 => (-3..3i32).prop_map(Gps::Near),
        2 => prop::sample::select(vec![-302, -301, -300, -299, -120, -60, 119, 120, 121, 122]).prop_map(Gps::Near),
        1 => prop::sample::select(vec![-100_000, 100_000]).prop_map(Gps::Near),
        6 => (-7..3i32).prop_map(Gps::Since),
        2 => prop::sample::select(vec![-121, -120, -6, -5]).prop_map(Gps::Since),
        2 => (0..4u32).prop_map(Gps::NoTime),
        1 => Just(Gps::Zero),
    ];
    let sequence = prop_oneof![
        8 => Just(Sequence::Since(1)),
        4 => (-5..5i16).prop_map(Sequence::Since),
        3 => prop::sample::select(vec![-65, -64, -63, -62, -30, 30, 63, 64, 1023, 1024, 1025, i16::MIN])
            .prop_map(Sequence::Since),
        2 => Just(Sequence::Boot),
        2 => (0..6u16).prop_map(Sequence::Any),
        1 => any::<u16>().prop_map(Sequence::Any),
    ];
    let flags = prop::sample::select(vec![0, Flags::ACK_REQUEST, Flags::ALWAYS_RX, Flags::SINGLE_TX]);
    let rest = (device(), 0..3u16, level(), flags, way(), prop::bool::weighted(0.8), prop::option::of(1..9u32));
    let came = (0..3u16, (0..3u8).prop_map(Via), prop_oneof![38..200u16, 2000..2049u16]);
    let answers = prop::bool::weighted(0.2);
    (rest, came, gps, sequence, answers).prop_map(|(rest, (network, via, len), gps, sequence, answers)| {
        let (device, entropy, level, flags, way, may_move, application) = rest;
        let sent = Sent { device, entropy, level, flags, may_move, application, ..Sent::new(0, 0, way) };
        Draft { sent: Sent { network, via, len, ..sent }, gps, sequence, answers }
    })
}

fn step() -> impl Strategy<Value = (Duration, Action)> {
    let pause = prop_oneof![
        8 => 1..2000u64,
        1 => 1000..400_000u64,
        1 => prop::sample::select(vec![299_000, 300_000, 419_999, 420_000, 420_001]),
    ];
    let action = prop_oneof![
        24 => draft().prop_map(Action::Send),
        6 => (0..40usize, prop::option::of(way()), prop::bool::weighted(0.2))
            .prop_map(|(back, way, answers)| Action::Again { back, way, answers }),
        1 => (1..=DEVICES).prop_map(Action::Register),
        1 => (1..=DEVICES).prop_map(Action::Deregister),
        1 => (1..=DEVICES, 1..9u32).prop_map(|(device, application)| Action::Report(device, application)),
        2 => (1..=DEVICES).prop_map(Action::Expect),
        3 => (device(), way()).prop_map(|(device, way)| Action::Ask(device, way)),
        1 => (1..=DEVICES).prop_map(Action::Downlink),
        1 => Just(Action::Checkpoint),
        1 => any::<(bool, bool)>().prop_map(|(clean, registered_first)| Action::Restart { clean, registered_first }),
    ];
    (pause.prop_map(Duration::from_millis), action)
}

/// The table, the oracle, and what the next packets are made from.
struct Run {
    pair: Pair,
    sent: Vec<Sent>,
    last: HashMap<u64, Sent>,
}

impl Run {
    fn new(deny: bool, limit: usize) -> Self {
        Self { pair: Pair::new(deny, limit, Timestamp::from_gps(START)), sent: Vec::new(), last: HashMap::new() }
    }

    fn apply(&mut self, pause: Duration, action: &Action) -> Result<(), String> {
        self.pair.pass(pause.as_millis() as u64);
        match action {
            Action::Send(draft) => self.send(self.finish(draft), draft.answers)?,
            Action::Again { back, way, answers } => {
                let Some(index) = self.sent.len().checked_sub(1 + back) else { return Ok(()) };
                let sent = self.sent[index];
                let kind = |way: &Way| matches!(way, Way::Direct(_));
                let way = way.filter(|way| kind(way) == kind(&sent.way)).unwrap_or(sent.way);
                self.send(Sent { way, ..sent }, *answers)?;
            }
            Action::Register(device) => self.pair.register(*device),
            Action::Deregister(device) => self.pair.deregister(*device)?,
            Action::Report(device, id) => self.pair.report(*device, *id)?,
            Action::Expect(device) => self.pair.expect(*device),
            Action::Ask(device, way) => {
                self.pair.ask(*device, &Sent::new(0, 0, *way).place())?;
            }
            Action::Downlink(device) => self.pair.downlink(*device)?,
            Action::Checkpoint => self.pair.checkpoint()?,
            Action::Restart { clean, registered_first } => self.pair.restart(*clean, *registered_first)?,
        }
        if self.pair.now.0.is_multiple_of(8) { self.pair.compare_all() } else { Ok(()) }
    }

    fn finish(&self, draft: &Draft) -> Sent {
        let before = self.last.get(&draft.sent.device).copied();
        let (gps_before, sequence_before) = before.map_or((START, 0), |sent| (sent.gps_time, sent.sequence));
        let gps_time = match draft.gps {
            Gps::Near(seconds) => self.pair.now.gps().saturating_add_signed(seconds),
            Gps::Since(seconds) => gps_before.saturating_add_signed(seconds),
            Gps::NoTime(seconds) => 1_261_872_018 + seconds,
            Gps::Zero => 0,
        };
        let sent = Sent { gps_time, ..draft.sent };
        match draft.sequence {
            Sequence::Since(step) => Sent { sequence: sequence_before.wrapping_add_signed(step), ..sent },
            Sequence::Any(sequence) => Sent { sequence, ..sent },
            Sequence::Boot => Sent { packet_type: PacketType::KEY_IDS, ..sent.boot() },
        }
    }

    fn send(&mut self, sent: Sent, answers: bool) -> Result<(), String> {
        self.sent.push(sent);
        self.last.insert(sent.device, sent);
        let challenges = self.pair.take(&sent, answers)?.challenges;
        if challenges.source {
            self.pair.ask(sent.device, &sent.place())?;
        }
        if challenges.other
            && let Some(other) = self.pair.contested_with(sent.device, &sent.place())?
        {
            self.pair.ask(sent.device, &other)?;
        }
        Ok(())
    }
}

#[test]
fn random_histories_come_out_as_the_oracle_says() {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(2);
    }
    let histories = (any::<bool>(), 1..4usize, prop::collection::vec(step(), 1..STEPS));
    let reached = RefCell::new(HashSet::<String>::new());
    let result = TestRunner::new(config).run(&histories, |(deny, limit, steps)| {
        let mut run = Run::new(deny, limit);
        let result = steps.iter().try_for_each(|(pause, action)| run.apply(*pause, action));
        reached.borrow_mut().extend(run.pair.reached);
        result.map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let reached = reached.into_inner();
    for refused in [Step::ExactCopy, Step::BitSet, Step::TooOld] {
        assert!(reached.contains(&format!("{refused:?}")), "no history came to {refused:?}");
    }
    for release in ["Yes", "No", "Challenge"] {
        for expects in [true, false] {
            let wanted = format!("{release} {expects}");
            assert!(reached.contains(&wanted), "no history came to {wanted}");
        }
    }
    use RouteChange::{First, Kept, Moved, Refreshed};
    for (step, changes) in [
        (Step::NewSession, vec![First, Refreshed, Moved, Kept]),
        (Step::SameSession, vec![Refreshed, Moved, Kept]),
        (Step::Late, vec![Refreshed, Kept]),
        (Step::Pending, vec![Refreshed, Kept]),
        (Step::Unproven, vec![First, Refreshed, Kept]),
    ] {
        for change in changes {
            let wanted = format!("{step:?} {change:?}");
            assert!(reached.contains(&wanted), "no history came to {wanted}");
        }
    }
}
