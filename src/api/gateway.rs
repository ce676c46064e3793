//! What the gateway says of itself: the same counters as the metrics, with what only people want to know.

use std::collections::BTreeMap;

use crate::ingest::moves::Move;
use crate::metrics::Disposition;
use crate::status::{Devices, GatewayStatus, Heard, RouteMove, Time, Waiting};

use super::Api;
use super::error::ApiError;

impl Api {
    /// The body of `GET /gateway`.
    pub(super) async fn status(&self) -> Result<GatewayStatus, ApiError> {
        let counted = self.census.count().await.ok_or(ApiError::Internal)?;
        let sum = self.metrics.ingest();
        let (total, unregistered) = self.table.devices();
        Ok(GatewayStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Time(self.metrics.started()),
            now: Time(self.clock.now()),
            datagrams: by_label(&sum.datagrams[..Disposition::DATAGRAM]),
            entries: by_label(&sum.entries),
            kernel_drops: sum.kernel_drops,
            route_moves: sum.route_moves,
            acks_sent: sum.acks_sent(),
            acks_failed: sum.acks_failed(),
            degraded: self.health.by_name(),
            devices: Devices {
                total: total as u64,
                unregistered: unregistered as u64,
                heard: Heard {
                    counted_at: Time(counted.at),
                    within_5m: counted.ages.within_5m,
                    within_1h: counted.ages.within_1h,
                    within_24h: counted.ages.within_24h,
                },
            },
            waiters: Waiting { now: self.waiters.waiting() as u64, woken: self.waiters.woken() },
            connections: u64::try_from(self.metrics.connections().get()).unwrap_or_default(),
            latest_moves: self.moves.latest().into_iter().map(RouteMove::from).collect(),
        })
    }
}

fn by_label(counts: &[u64]) -> BTreeMap<String, u64> {
    Disposition::ALL.iter().zip(counts).map(|(disposition, count)| (disposition.label().to_owned(), *count)).collect()
}

impl From<Move> for RouteMove {
    fn from(moved: Move) -> Self {
        let Move { device_id, at, from, to, trust } = moved;
        Self { device_id, at: Time(at), from, to, trust: trust.name().to_owned() }
    }
}
