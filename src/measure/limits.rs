//! What keeps the figures of a measurement from being those of the gateway, and what can be done about it.

use std::fmt;

use super::cores::{Cores, Shared};
use super::report::{Spread, bytes, grouped};
use super::{Measurement, RECEIVE_BUFFER, Receiver};

/// Datagrams of a receive call on average from which a receiver counts as saturated: its batches hold 64.
pub const FULL_ENOUGH: f64 = 30.0;

/// The share of the time that a receiver with work must run, or somebody else uses its core.
const RUNNING: f64 = 0.9;

/// How far the slowest turn may be from the fastest before the machine counts as busy.
const UNSTEADY: f64 = 1.5;

/// One thing that limits it. Prints as a sentence with its remedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// The program is compiled for finding faults, not for speed.
    NotOptimised,
    /// The kernel gave a smaller receive buffer than asked for.
    Buffer {
        /// What it gave, in bytes.
        given: usize,
        /// Datagrams that fit.
        queue: u64,
    },
    /// Both sides use the same core, or threads of it.
    Cores(Cores),
    /// The kernel does not cut what is sent.
    NotCut,
    /// The sender does not keep the queue filled.
    Sender {
        /// Who found too little.
        receiver: Receiver,
        /// Datagrams of a call, in its emptiest turn.
        datagrams_per_call: f64,
    },
    /// Datagrams were lost.
    Lost {
        /// Who did not get them.
        receiver: Receiver,
        /// How many, in all turns.
        datagrams: u64,
        /// Of how many.
        sent: u64,
    },
    /// Something else used the core of the receiver.
    Interrupted {
        /// Who was kept from running most.
        receiver: Receiver,
        /// The share of the time in which it ran.
        running: f64,
    },
    /// The turns of a receiver differ.
    Unsteady {
        /// Whose.
        receiver: Receiver,
        /// The slowest to the fastest.
        ratio: f64,
    },
}

impl Limit {
    /// Everything that limits a measurement, what weighs most first.
    pub fn all(measurement: &Measurement) -> Vec<Self> {
        let Measurement { optimised, cores, receive_buffer, queue, cuts, .. } = *measurement;
        let of_site = [
            (!optimised).then_some(Self::NotOptimised),
            (cores.shared != Shared::Nothing).then_some(Self::Cores(cores)),
            (receive_buffer < RECEIVE_BUFFER).then_some(Self::Buffer { given: receive_buffer, queue }),
            (!cuts).then_some(Self::NotCut),
        ];
        let of_turns =
            [lost(measurement), starved(measurement), interrupted(measurement, cores), unsteady(measurement)];
        of_site.into_iter().chain(of_turns).flatten().collect()
    }
}

fn turns(measurement: &Measurement) -> impl Iterator<Item = (Receiver, &[super::Run])> {
    Receiver::ALL.into_iter().zip(measurement.runs.iter().map(Vec::as_slice)).filter(|(_, runs)| !runs.is_empty())
}

fn lost(measurement: &Measurement) -> Option<Limit> {
    let of_receiver = |(receiver, runs): (Receiver, &[super::Run])| {
        let sum = |of: fn(&super::Run) -> u64| runs.iter().map(of).sum();
        Limit::Lost { receiver, datagrams: sum(|run| run.dropped), sent: sum(|run| run.sent) }
    };
    let count = |limit: &Limit| if let Limit::Lost { datagrams, .. } = limit { *datagrams } else { 0 };
    turns(measurement).map(of_receiver).max_by_key(count).filter(|limit| count(limit) > 0)
}

/// A call for each datagram says nothing about how full the queue was.
fn starved(measurement: &Measurement) -> Option<Limit> {
    let batched = turns(measurement).filter(|(receiver, _)| *receiver != Receiver::Tokio);
    let emptiest = batched.map(|(receiver, runs)| (receiver, Spread::of(runs, |run| run.datagrams_per_call).least));
    let (receiver, datagrams_per_call) = emptiest.min_by(|one, other| one.1.total_cmp(&other.1))?;
    (datagrams_per_call < FULL_ENOUGH).then_some(Limit::Sender { receiver, datagrams_per_call })
}

/// Where both sides use the same core, that is said already.
fn interrupted(measurement: &Measurement, cores: Cores) -> Option<Limit> {
    let ran = turns(measurement).map(|(receiver, runs)| (receiver, Spread::of(runs, |run| run.running).median));
    let (receiver, running) = ran.min_by(|one, other| one.1.total_cmp(&other.1))?;
    (running < RUNNING && cores.shared != Shared::Everything).then_some(Limit::Interrupted { receiver, running })
}

fn unsteady(measurement: &Measurement) -> Option<Limit> {
    let differ = turns(measurement).map(|(receiver, runs)| {
        let spread = Spread::of(runs, |run| run.nanoseconds);
        (receiver, spread.most / spread.least)
    });
    let (receiver, ratio) = differ.max_by(|one, other| one.1.total_cmp(&other.1))?;
    (ratio > UNSTEADY).then_some(Limit::Unsteady { receiver, ratio })
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotOptimised => f.write_str(
                "Build: this program is not compiled for speed, which makes the gateway several times as slow. Take one built with \
                 cargo build --release",
            ),
            Self::Buffer { given, queue } => write!(
                f,
                "Receive buffer: the kernel gave {} of {}, in which {} datagrams wait at most. A gateway loses what comes faster \
                 for longer. As root, sysctl -w net.core.rmem_max={RECEIVE_BUFFER} raises the limit",
                bytes(given),
                bytes(RECEIVE_BUFFER),
                grouped(queue),
            ),
            Self::Cores(Cores { receiver, shared: Shared::Everything, .. }) => write!(
                f,
                "Cores: there is one, {receiver}, for sender and receiver. They push each other out of its caches, so that every \
                 figure is too high; only the ratios say something. Measure where there are two"
            ),
            Self::Cores(Cores { receiver, sender, .. }) => write!(
                f,
                "Cores: {receiver} and {sender} are two threads of one, which sender and receiver share, so that every figure is \
                 too high. Measure where there are two"
            ),
            Self::NotCut => f.write_str(
                "Sender: this kernel does not cut datagrams (UDP_SEGMENT, Linux 4.18), so that sending costs more than receiving, and \
                 receivers wait. Measure with a newer kernel",
            ),
            Self::Sender { receiver, datagrams_per_call } => write!(
                f,
                "Sender: it did not keep up: the {} found {datagrams_per_call:.1} datagrams a call, where {FULL_ENOUGH:.0} show \
                 saturation, so that its figure is that of waking up. Leave the machine alone meanwhile, or take one with more \
                 cores",
                receiver.name(),
            ),
            Self::Lost { receiver, datagrams, sent } => write!(
                f,
                "Drops: the {} lost {} of {} datagrams, as the receive buffer was full: it did not get to run in time. Leave the \
                 machine alone meanwhile, and raise net.core.rmem_max",
                receiver.name(),
                grouped(datagrams),
                grouped(sent),
            ),
            Self::Interrupted { receiver, running } => write!(
                f,
                "Others: the {} ran {:.0} % of the time although there was work; other programs or other machines on the same processor \
                 had the rest, and the caches. Leave the machine alone meanwhile",
                receiver.name(),
                running * 100.0,
            ),
            Self::Unsteady { receiver, ratio } => write!(
                f,
                "Noise: the slowest turn of the {} took {ratio:.1} times what the fastest did. Take more --rounds, and leave the machine \
                 alone meanwhile",
                receiver.name(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Run};
    use super::*;

    const GOOD: Run = Run { nanoseconds: 1000.0, datagrams_per_call: 63.9, running: 0.99, sent: 1_100_000, dropped: 0 };

    /// Of three rounds on two cores that share nothing, in which nothing was amiss.
    fn good() -> Measurement {
        let tokio = Run { datagrams_per_call: 1.0, ..GOOD };
        Measurement {
            config: Config { devices: 100_000, rounds: 3, datagrams: 1_000_000, ack_percent: 0 },
            optimised: true,
            cores: Cores { available: 2, receiver: 0, sender: 1, shared: Shared::Nothing },
            receive_buffer: RECEIVE_BUFFER,
            queue: 24_576,
            cuts: true,
            runs: [vec![GOOD; 3], vec![tokio; 3], vec![GOOD; 3]],
        }
    }

    /// What is said of a good measurement in which one thing is changed.
    fn told(change: impl FnOnce(&mut Measurement)) -> Vec<String> {
        let mut measurement = good();
        change(&mut measurement);
        Limit::all(&measurement).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_measurement_that_nothing_limits_says_nothing() {
        assert_eq!(told(|_| {}), Vec::<String>::new());
        assert_eq!(
            told(|measurement| measurement.runs = Default::default()),
            Vec::<String>::new(),
            "no round was finished"
        );
    }

    #[test]
    fn a_build_for_debugging_is_told() {
        let limits = told(|measurement| measurement.optimised = false);
        assert!(
            limits.len() == 1 && limits[0].starts_with("Build: this program is not compiled for speed"),
            "{limits:?}"
        );
    }

    #[test]
    fn a_small_receive_buffer_is_told_with_the_line_that_raises_the_limit() {
        let limits = told(|measurement| (measurement.receive_buffer, measurement.queue) = (212_992, 208));
        assert_eq!(
            limits,
            [
                "Receive buffer: the kernel gave 208 KiB of 64 MiB, in which 208 datagrams wait at most. A gateway loses what comes \
              faster for longer. As root, sysctl -w net.core.rmem_max=67108864 raises the limit"
            ]
        );
    }

    #[test]
    fn cores_that_the_sides_share_are_told() {
        let with = |sender, shared| {
            told(|measurement| measurement.cores = Cores { available: 1 + sender, receiver: 0, sender, shared })
        };
        let [one] = &with(0, Shared::Everything)[..] else { panic!() };
        assert!(one.starts_with("Cores: there is one, 0, for sender and receiver."), "{one}");
        let [threads] = &with(1, Shared::Core)[..] else { panic!() };
        assert!(threads.starts_with("Cores: 0 and 1 are two threads of one,"), "{threads}");
    }

    #[test]
    fn a_sender_that_does_not_keep_up_is_told_by_the_emptiest_turn_of_a_receiver_of_batches() {
        let limits = told(|measurement| {
            measurement.runs[0][1].datagrams_per_call = 29.9;
            measurement.runs[2][2].datagrams_per_call = 12.34;
        });
        assert_eq!(
            limits,
            [
                "Sender: it did not keep up: the gateway, all rules on found 12.3 datagrams a call, where 30 show saturation, so that \
              its figure is that of waking up. Leave the machine alone meanwhile, or take one with more cores"
            ]
        );
        assert_eq!(told(|measurement| measurement.runs[0][1].datagrams_per_call = 30.0), Vec::<String>::new());
        let [kernel] = &told(|measurement| measurement.cuts = false)[..] else { panic!() };
        assert!(kernel.starts_with("Sender: this kernel does not cut datagrams (UDP_SEGMENT, Linux 4.18)"), "{kernel}");
    }

    #[test]
    fn drops_are_told_of_who_lost_most_in_all_its_turns() {
        let limits = told(|measurement| {
            measurement.runs[0][0].dropped = 200;
            measurement.runs[1].iter_mut().for_each(|run| run.dropped = 100);
        });
        assert_eq!(
            limits,
            [
                "Drops: the tokio loop (recv_from) lost 300 of 3 300 000 datagrams, as the receive buffer was full: it did not get to \
              run in time. Leave the machine alone meanwhile, and raise net.core.rmem_max"
            ]
        );
    }

    #[test]
    fn a_receiver_that_does_not_get_to_run_and_turns_that_differ_are_told() {
        let [others] = &told(|measurement| measurement.runs[2].iter_mut().for_each(|run| run.running = 0.62))[..]
        else {
            panic!()
        };
        assert!(others.starts_with("Others: the gateway, all rules on ran 62 % of the time"), "{others}");
        assert_eq!(told(|measurement| measurement.runs[2][0].running = 0.62), Vec::<String>::new(), "once is no rule");
        let [noise] = &told(|measurement| measurement.runs[0][2].nanoseconds = 2100.0)[..] else { panic!() };
        assert!(noise.starts_with("Noise: the slowest turn of the bare loop (recvmmsg) took 2.1 times"), "{noise}");
    }
}
