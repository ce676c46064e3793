//! The metrics of messages to devices, as a scrape reads them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::samples::Samples;
use crate::dispatch::Dispatch;

/// Reads what dispatch counts.
#[derive(Debug)]
pub(super) struct MessageMetrics(pub(super) Dispatch);

impl Collector for MessageMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut samples = Samples(encoder);
        let counters = self.0.counters();
        let counted = |(label, count)| (label, ConstCounter::new(count));
        let help = "Messages to devices, by what happened to them.";
        samples.family("messages", help, "event", counters.messages().map(counted))?;
        let help = "Answers that nobody waited for in memory any more, by what came of them.";
        samples.family("late_answers", help, "result", counters.late_answers().map(counted))?;
        let help = "Answers of devices to the question for their keys, by what came of them.";
        samples.family("key_answers", help, "result", counters.key_answers().map(counted))?;
        for (name, help, value) in [
            ("messages_waiting", "Messages that wait for their devices.", self.0.waiting()),
            (
                "calls_unanswered",
                "Calls that were sent and are not answered, while they are remembered.",
                self.0.calls(),
            ),
        ] {
            samples.one(name, help, ConstGauge::new(value as f64))?;
        }
        let help = "Answers and reports of devices that were not looked at for want of room.";
        samples.one("events_lost", help, ConstCounter::new(self.0.lost()))
    }
}
