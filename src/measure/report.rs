//! A measurement as a person and as a program read it.

use std::fmt;

use serde::Serialize;

use super::cores::Cores;
use super::limits::{FULL_ENOUGH, Limit};
use super::{DATAGRAM, Measurement, Receiver, Run};

/// What a measurement comes to: medians over its rounds. Prints as text; serialises as JSON.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    version: &'static str,
    cores: Cores,
    /// In bytes.
    receive_buffer: usize,
    /// Datagrams that wait at most.
    queue: u64,
    devices: u32,
    rounds: usize,
    /// Of each receiver in each round.
    datagrams: u32,
    datagram_bytes: usize,
    ack_percent: u32,
    receivers: Vec<Row>,
    #[serde(serialize_with = "as_text")]
    limits: Vec<Limit>,
}

/// One receiver.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    receiver: Receiver,
    /// Processor time for each datagram.
    nanoseconds: Spread,
    /// Datagrams that one core receives in a second if it does nothing else.
    per_second: u64,
    /// The cost of the bare loop as a share of this one's, in the same round.
    bare_to_this: f64,
    datagrams_per_call: f64,
    /// The share of the time in which it ran.
    running: f64,
    /// Datagrams for it that the kernel dropped, in all its turns.
    dropped: u64,
    /// Whether it always found enough; `None`: a call for each datagram does not show it.
    saturated: Option<bool>,
}

/// Least, median and most of some values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub least: f64,
    /// The one in the middle, the greater of two.
    pub median: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of something that each run has; zeros of no runs.
    pub fn of(runs: &[Run], value: impl Fn(&Run) -> f64) -> Self {
        Self::of_values(runs.iter().map(value).collect())
    }

    fn of_values(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        match values[..] {
            [least, .., most] => Self { least, median: values[values.len() / 2], most },
            [only] => Self { least: only, median: only, most: only },
            [] => Self::default(),
        }
    }
}

impl Report {
    /// Of a measurement with at least one finished round.
    pub fn new(measurement: &Measurement) -> Self {
        let Measurement { config, cores, receive_buffer, queue, .. } = *measurement;
        Self {
            version: env!("CARGO_PKG_VERSION"),
            cores,
            receive_buffer,
            queue,
            devices: config.devices,
            rounds: measurement.rounds(),
            datagrams: config.datagrams,
            datagram_bytes: DATAGRAM,
            ack_percent: config.ack_percent,
            receivers: Receiver::ALL.map(|receiver| Row::new(receiver, measurement)).into(),
            limits: Limit::all(measurement),
        }
    }
}

impl Row {
    fn new(receiver: Receiver, measurement: &Measurement) -> Self {
        let (bare, own) = (&measurement.runs[0], &measurement.runs[receiver as usize]);
        let nanoseconds = Spread::of(own, |run| run.nanoseconds);
        let ratios = bare.iter().zip(own).map(|(bare, own)| bare.nanoseconds / own.nanoseconds).collect();
        let per_call = Spread::of(own, |run| run.datagrams_per_call);
        Self {
            receiver,
            nanoseconds,
            running: Spread::of(own, |run| run.running).median,
            dropped: own.iter().map(|run| run.dropped).sum(),
            per_second: (1e9 / nanoseconds.median) as u64,
            bare_to_this: Spread::of_values(ratios).median,
            datagrams_per_call: per_call.median,
            saturated: (receiver != Receiver::Tokio).then_some(per_call.least >= FULL_ENOUGH),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, cores, queue, rounds, datagram_bytes, ack_percent, .. } = self;
        let Cores { available, receiver, sender, .. } = cores;
        let cores = if *available == 1 { "1 core".to_owned() } else { format!("{available} cores") };
        writeln!(f, "lastroute {version} on {cores}: core {receiver} receives, core {sender} sends over loopback")?;
        writeln!(f, "  receive buffer of {}, up to {} datagrams wait", bytes(self.receive_buffer), grouped(*queue))?;
        writeln!(
            f,
            "  {}: turns of {} datagrams of {datagram_bytes} bytes from {} devices, {ack_percent} % ask for an acknowledgement",
            if *rounds == 1 { "1 round".to_owned() } else { format!("medians of {rounds} rounds") },
            grouped(self.datagrams.into()),
            grouped(self.devices.into()),
        )?;
        let columns = ["ns/datagram", "least..most", "on one core/s", "bare/this", "datagrams/call"];
        let [nanoseconds, spread, per_second, ratio, per_call] = columns;
        writeln!(f, "\n  {:<24}{nanoseconds:>11}{spread:>15}{per_second:>15}{ratio:>11}{per_call:>16}", "receiver")?;
        self.receivers.iter().try_for_each(|row| writeln!(f, "  {row}"))?;
        writeln!(f, "\nThe gateway's thread takes in {} such datagrams a second here.", self.gateway())?;
        match &self.limits[..] {
            [] => write!(f, "Nothing else limits it: the queue was never empty, and nothing was dropped."),
            limits => {
                write!(f, "What limits these figures:")?;
                limits.iter().try_for_each(|limit| write!(f, "\n  {limit}."))
            }
        }
    }
}

impl Report {
    fn gateway(&self) -> String {
        self.receivers.last().map_or_else(String::new, |row| grouped(row.per_second))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { least, median, most } = self.nanoseconds;
        let (name, per_second) = (self.receiver.name(), grouped(self.per_second));
        let (spread, ratio, per_call) = (format!("{least:.0}..{most:.0}"), self.bare_to_this, self.datagrams_per_call);
        write!(f, "{name:<24}{median:>11.0}{spread:>15}{per_second:>15}{ratio:>11.2}{per_call:>16.1}")
    }
}

/// A count with a space between each three digits.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A size, in MiB where that is a whole number.
pub(super) fn bytes(size: usize) -> String {
    match size >> 10 {
        kib if kib > 0 && kib.is_multiple_of(1 << 10) => format!("{} MiB", kib >> 10),
        kib => format!("{kib} KiB"),
    }
}

fn as_text<S: serde::Serializer>(limits: &[Limit], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(limits.iter().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::super::cores::Shared;
    use super::super::{Config, RECEIVE_BUFFER};
    use super::*;

    fn run(nanoseconds: f64, datagrams_per_call: f64) -> Run {
        Run { nanoseconds, datagrams_per_call, running: 1.0, sent: 1_100_000, dropped: 0 }
    }

    fn measurement() -> Measurement {
        Measurement {
            config: Config { devices: 100_000, rounds: 3, datagrams: 1_000_000, ack_percent: 10 },
            optimised: true,
            cores: Cores { available: 2, receiver: 0, sender: 1, shared: Shared::Nothing },
            receive_buffer: RECEIVE_BUFFER,
            queue: 24_576,
            cuts: true,
            runs: [
                vec![run(700.0, 64.0), run(800.0, 63.0), run(750.0, 63.5)],
                vec![run(1000.0, 1.0), run(1100.0, 1.0), run(1050.0, 1.0)],
                vec![run(1400.0, 64.0), run(1500.0, 62.0), run(1250.0, 63.8)],
            ],
        }
    }

    #[test]
    fn a_person_reads_a_table_of_medians_and_what_they_come_to() {
        assert_eq!(
            Report::new(&measurement()).to_string(),
            format!(
                "lastroute {} on 2 cores: core 0 receives, core 1 sends over loopback
  receive buffer of 64 MiB, up to 24 576 datagrams wait
  medians of 3 rounds: turns of 1 000 000 datagrams of 100 bytes from 100 000 devices, 10 % ask for an acknowledgement

  receiver                ns/datagram    least..most  on one core/s  bare/this  datagrams/call
  bare loop (recvmmsg)            750       700..800      1 333 333       1.00            63.5
  tokio loop (recv_from)         1050     1000..1100        952 380       0.71             1.0
  gateway, all rules on          1400     1250..1500        714 285       0.53            63.8

The gateway's thread takes in 714 285 such datagrams a second here.
Nothing else limits it: the queue was never empty, and nothing was dropped.",
                env!("CARGO_PKG_VERSION")
            )
        );
    }

    #[test]
    fn a_program_reads_the_same_with_the_limits_as_sentences() {
        let mut measurement = measurement();
        measurement.cores.shared = Shared::Core;
        measurement.runs[2][1].datagrams_per_call = 3.0;
        let report = Report::new(&measurement);
        let json = serde_json::to_value(&report).unwrap();
        let gateway = &json["receivers"][2];
        assert_eq!((&gateway["receiver"], &gateway["saturated"]), (&"gateway".into(), &false.into()));
        assert_eq!((&json["receivers"][1]["saturated"], &json["receiveBuffer"]), (&().into(), &(64 << 20).into()));
        assert_eq!(gateway["nanoseconds"]["median"], 1400.0);
        assert_eq!(json["cores"]["shared"], "core");
        let limits = json["limits"].as_array().unwrap();
        assert_eq!(limits.len(), 2);
        let text = report.to_string();
        assert!(limits.iter().all(|limit| text.contains(limit.as_str().unwrap())), "{text}");
        assert!(!text.contains("Nothing else"), "{text}");
    }

    #[test]
    fn counts_and_sizes_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!([4096, 212_992, 64 << 20].map(bytes), ["4 KiB", "208 KiB", "64 MiB"]);
    }

    #[test]
    fn a_spread_of_one_value_is_that_value() {
        let one = Spread { least: 3.0, median: 3.0, most: 3.0 };
        assert_eq!((Spread::of_values(vec![3.0]), Spread::of_values(vec![])), (one, Spread::default()));
    }
}
