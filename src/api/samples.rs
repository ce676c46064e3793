//! Metrics on their way into the text: values that were read elsewhere, with at most one label.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::TypedMetric;

/// Writes metrics without labels, and families of one label.
pub(super) struct Samples<'e>(pub(super) DescriptorEncoder<'e>);

impl Samples<'_> {
    pub(super) fn one(&mut self, name: &str, help: &str, metric: impl EncodeMetric) -> fmt::Result {
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    pub(super) fn family<L: AsRef<str>, M: EncodeMetric + TypedMetric>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        metrics: impl IntoIterator<Item = (L, M)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, M::TYPE)?;
        for (value, metric) in metrics {
            metric.encode(family.encode_family(&[(label, value.as_ref())])?)?;
        }
        Ok(())
    }
}
