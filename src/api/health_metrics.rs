//! The metrics of what is wrong while the gateway goes on serving.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::gauge::ConstGauge;

use super::samples::Samples;
use crate::clock::Clock;
use crate::health::{Health, Part};

/// Reads the troubles, and the clock, of which one is told.
#[derive(Debug)]
pub(super) struct HealthMetrics {
    pub(super) health: Arc<Health>,
    pub(super) clock: Clock,
}

impl Collector for HealthMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut samples = Samples(encoder);
        let troubles = self.health.troubles();
        let parts = Part::ALL.map(|part| (part.name(), ConstGauge::new(u32::from(troubles.contains_key(&part)))));
        samples.family("degraded", "1 while something is wrong with a part of the gateway, by part.", "part", parts)?;
        let help = "How far the system's clock is ahead of the gateway's, as long as it is not followed.";
        let ahead = self.clock.system_ahead() as f64 / 1000.0;
        samples.one("system_clock_ahead_seconds", help, ConstGauge::new(ahead))
    }
}
