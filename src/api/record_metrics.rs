//! The metrics of the keeping of records, as a scrape reads them.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::samples::Samples;
use crate::store::Stats;

/// Reads what the store counts.
#[derive(Debug)]
pub(super) struct RecordMetrics(pub(super) Arc<Stats>);

impl Collector for RecordMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut samples, stats) = (Samples(encoder), &self.0);
        let help = "Time it took to write down what changed, and to make it last.";
        samples.one("checkpoint_seconds", help, stats.times().read())?;
        for (name, help, value) in [
            ("checkpoints_failed", "Checkpoints that failed; they are tried again.", stats.failures()),
            ("records_written", "Records written down, and devices written down as forgotten.", stats.rows()),
            ("record_bytes_written", "Bytes of records written down.", stats.bytes()),
        ] {
            samples.one(name, help, ConstCounter::new(value))?;
        }
        let help = "Unix time at which the last checkpoint began that lasts; before the first one, that of the start.";
        samples.one("checkpoint_timestamp_seconds", help, ConstGauge::new(stats.last().0 as f64 / 1000.0))
    }
}
