//! What carries many devices at once: the bodies of `POST /device/import` and `GET /device/export`, and their bounds.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Device;

/// Entries of one `POST /device/import`.
pub const MAX_IMPORT: usize = 10_000;

/// The answer of `POST /device/import`. Every entry is counted in one of the three, but for those after one that fails if the
/// request says `stopAtError`: `failed` has that one alone then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportOutcome {
    /// Devices that are new.
    pub created: u64,
    /// Devices that were registered already, exactly so.
    pub unchanged: u64,
    /// What was not registered, in the order of the request.
    pub failed: Vec<ImportFailure>,
}

/// Why an entry of an import was not registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportFailure {
    /// Its place in the request, from 0.
    pub index: usize,
    /// The status that `POST /device` would have answered.
    pub code: u16,
    /// The same in words. Names no key.
    pub message: String,
}

/// An entry of the answer of `GET /device/export`: a device, and the names that say the same of it to another gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExportedDevice {
    /// The record.
    #[serde(flatten)]
    pub device: Device,
    /// The name of its board.
    pub board: String,
    /// The system on chip of its board.
    pub soc: String,
    /// The name of its organisation.
    pub organisation: String,
}
