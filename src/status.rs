//! What a gateway says of itself at `GET /gateway`, for programs and for people who watch it. The API writes it; the
//! terminal view and the simulator read it.
//!
//! Counters only rise, from the start of the process on. Names are those of the metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;

use jiff::tz::Offset;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::text::Text;

/// The body of `GET /gateway`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Version of the program.
    pub version: String,
    /// When the process started. Counters of another start are not to be compared.
    pub started_at: Time,
    /// The gateway's clock.
    pub now: Time,
    /// Datagrams by disposition; every disposition a datagram can end in is there.
    pub datagrams: BTreeMap<String, u64>,
    /// Container entries by disposition.
    pub entries: BTreeMap<String, u64>,
    /// Datagrams the kernel dropped because a receive buffer was full.
    pub kernel_drops: u64,
    /// Routes moved to another address.
    pub route_moves: u64,
    /// Acknowledgements handed to the kernel.
    pub acks_sent: u64,
    /// Acknowledgements the kernel did not take.
    pub acks_failed: u64,
    /// What is wrong while the gateway goes on serving, by its part. Empty while nothing is.
    #[serde(default)]
    pub degraded: BTreeMap<String, String>,
    /// Devices with a record.
    pub devices: Devices,
    /// Who waits.
    pub waiters: Waiting,
    /// HTTP connections open now.
    pub connections: u64,
    /// The routes that moved last, the latest first.
    pub latest_moves: Vec<RouteMove>,
}

/// Devices with a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Devices {
    /// All of them.
    pub total: u64,
    /// Those among them that are not registered.
    pub unregistered: u64,
    /// How many were heard lately.
    pub heard: Heard,
}

/// Devices by how long ago their last packet was counted. They are counted one by one, so seldom when they are many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Heard {
    /// When they were counted.
    pub counted_at: Time,
    /// In the 5 minutes before that.
    pub within_5m: u64,
    /// In the hour before.
    pub within_1h: u64,
    /// In the 24 hours before.
    pub within_24h: u64,
}

/// Who waits for packets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Waiters now, one for each device a request names.
    pub now: u64,
    /// Wake-ups so far.
    pub woken: u64,
}

/// A route that moved to another address. Of a route through a relay, both addresses are those of relays' datagrams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteMove {
    /// Whose.
    pub device_id: DeviceId,
    /// When.
    pub at: Time,
    /// Where it was heard before.
    #[schema(value_type = String)]
    pub from: SocketAddr,
    /// Where it is heard now.
    #[schema(value_type = String)]
    pub to: SocketAddr,
    /// What proved the packet that moved it: `network` or `device`.
    pub trust: String,
}

/// A moment, as RFC 3339 text in UTC with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Time {}

impl Time {
    /// Bytes of its text.
    pub const LEN: usize = 24;

    /// Adds its text.
    pub fn add_to<const N: usize>(self, text: &mut Text<N>) {
        // After the year 9999 there is no such text.
        let millis = i64::try_from(self.0.0).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
        let (time, part) = (Offset::UTC.to_datetime(time), |number: i8| u64::from(number.unsigned_abs()));
        text.digits(time.year().unsigned_abs().into(), 4).add("-");
        text.digits(part(time.month()), 2).add("-").digits(part(time.day()), 2).add("T");
        text.digits(part(time.hour()), 2).add(":").digits(part(time.minute()), 2).add(":");
        text.digits(part(time.second()), 2).add(".").digits(time.millisecond().unsigned_abs().into(), 3).add("Z");
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = Text::<{ Self::LEN }>::new();
        self.add_to(&mut text);
        serializer.serialize_str(str::from_utf8(text.as_bytes()).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl FromStr for Time {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        let time: jiff::Timestamp = text.parse()?;
        // Before 1970 there was no device.
        Ok(Self(Timestamp(u64::try_from(time.as_millisecond()).unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_is_read_back_as_it_was_written() {
        let written = serde_json::to_string(&Time(Timestamp(1_795_402_800_123))).unwrap();
        assert_eq!(written, "\"2026-11-23T03:00:00.123Z\"");
        assert_eq!(serde_json::from_str::<Time>(&written).unwrap(), Time(Timestamp(1_795_402_800_123)));
        assert_eq!(serde_json::to_string(&Time(Timestamp(u64::MAX))).unwrap(), "\"9999-12-30T22:00:00.999Z\"");
        assert_eq!(serde_json::from_str::<Time>("\"1969-12-31T23:00:00Z\"").unwrap(), Time(Timestamp(0)));
        assert!(serde_json::from_str::<Time>("\"yesterday\"").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_time_is_written_as_rfc_3339_says(millis in 0..=253_402_207_200_999_i64) {
            let written = serde_json::to_string(&Time(Timestamp(millis as u64))).unwrap();
            let time = jiff::Timestamp::from_millisecond(millis).unwrap();
            prop_assert_eq!(written, format!("\"{time:.3}\""));
        }
    }
}
