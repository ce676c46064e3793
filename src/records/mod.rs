//! The records of the registry as the REST contract shows them, and the requests that make and change them: data and its
//! text forms, no rules. The registry keeps them, the API and the tools pass them on.
//!
//! An absent value is left out: `null` breaks clients, and is refused where it comes in.

mod described;
pub mod message;
pub mod route;
pub mod rpc;
mod text;
mod transfer;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::id::DeviceId;
use crate::status::Time;
use crate::wire::tdf::Version;
use described::DeviceMetadata;
pub(crate) use described::{one_of, route_type};
pub use text::{Base64, Key32, McuId, NetworkId, TextError};
pub use transfer::{ExportedDevice, ImportFailure, ImportOutcome, MAX_IMPORT};

/// Free names with a text each.
pub type Metadata = BTreeMap<String, String>;

/// An owner of boards, networks and devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Organisation {
    /// The record.
    pub id: Uuid,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// Its name, which no other organisation has.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
}

/// The request of `POST /organisation`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewOrganisation {
    /// Its name.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
}

/// What the devices of a board may and must say of themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetadataField {
    /// The name of the field.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// Whether every device of the board has it.
    pub required: bool,
    /// Whether no two devices of the board share a value.
    pub unique: bool,
}

/// A kind of device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Board {
    /// The record.
    pub id: Uuid,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// Its name, which no other board of the organisation has.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// What it is.
    #[schema(max_length = 4096)]
    pub description: String,
    /// Its system on chip, for example `nRF9151`.
    #[schema(min_length = 1, max_length = 64)]
    pub soc: String,
    /// Its owner.
    pub organisation_id: Uuid,
    /// Whether devices of other organisations may be of this board.
    pub public: bool,
    /// Rules for the metadata of its devices.
    #[schema(max_items = 64)]
    pub metadata_fields: Vec<MetadataField>,
}

/// The request of `POST /board`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewBoard {
    /// Its name.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// What it is.
    #[schema(max_length = 4096)]
    pub description: String,
    /// Its system on chip.
    #[schema(min_length = 1, max_length = 64)]
    pub soc: String,
    /// Its owner.
    pub organisation_id: Uuid,
    /// Whether devices of other organisations may be of this board.
    #[schema(default = false)]
    #[serde(default)]
    pub public: bool,
    /// Rules for the metadata of its devices.
    #[schema(max_items = 64)]
    #[serde(default)]
    pub metadata_fields: Vec<MetadataField>,
}

/// A network of devices that share a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// The record.
    pub id: Uuid,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// Its name, which no other network has.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// What it is.
    #[schema(max_length = 4096)]
    pub description: String,
    /// Its root key.
    pub key: Key32,
    /// Its owner.
    pub organisation_id: Uuid,
    /// Whether other organisations see it and relay for it.
    pub public: bool,
    /// What its packets carry as their key id; no other network has it.
    pub network_id: NetworkId,
}

/// The request of `POST /network`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewNetwork {
    /// Its name.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// What it is.
    #[schema(max_length = 4096)]
    pub description: String,
    /// Its root key.
    pub key: Key32,
    /// Its owner.
    pub organisation_id: Uuid,
    /// Whether other organisations see it and relay for it.
    #[schema(default = false)]
    pub public: bool,
    /// What its packets carry as their key id.
    pub network_id: NetworkId,
}

/// An algorithm that runs on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Algorithm {
    /// Which one.
    #[schema(maximum = 4_294_967_295_u32)]
    pub id: u32,
    /// Its version.
    #[schema(maximum = 4_294_967_295_u32)]
    pub version: u32,
}

/// The version of the application that runs on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationVersion {
    /// First part.
    #[schema(maximum = 255)]
    pub major: u8,
    /// Second part.
    #[schema(maximum = 255)]
    pub minor: u8,
    /// Third part.
    #[schema(maximum = 65535)]
    pub revision: u16,
    /// Number of the build.
    #[schema(maximum = 4_294_967_295_u32)]
    pub build_num: u32,
}

impl From<Version> for ApplicationVersion {
    fn from(version: Version) -> Self {
        let Version { major, minor, revision, build } = version;
        Self { major, minor, revision, build_num: build }
    }
}

/// What is said of a device before it says so itself: `initialDeviceState`, and the request of `PUT /device/id/{id}/state`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewDeviceState {
    /// The application.
    #[schema(maximum = 4_294_967_295_u32)]
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub application_id: Option<u32>,
    /// Its version.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub application_version: Option<ApplicationVersion>,
    /// What runs beside it.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub algorithms: Option<Vec<Algorithm>>,
}

/// A registered device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// The record.
    pub id: Uuid,
    /// When it was made.
    pub created_at: Time,
    /// When the record was last changed; packets do not change it.
    pub updated_at: Time,
    /// Its hardware, which no other device of the same system on chip has.
    pub mcu_id: McuId,
    /// Its kind.
    pub board_id: Uuid,
    /// Its owner.
    pub organisation_id: Uuid,
    /// What its packets carry; no other device has it.
    pub device_id: DeviceId,
    /// What is said of it.
    #[schema(value_type = DeviceMetadata)]
    pub metadata: Metadata,
    /// What was said of its state when it was registered.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub initial_device_state: Option<NewDeviceState>,
}

/// The request of `POST /device`, and an entry of `POST /device/batch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewDevice {
    /// Its hardware.
    pub mcu_id: McuId,
    /// Its kind.
    pub board_id: Uuid,
    /// Its owner.
    pub organisation_id: Uuid,
    /// What its packets carry. Without it the gateway makes one.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// What is said of it.
    #[schema(value_type = DeviceMetadata)]
    #[serde(default)]
    pub metadata: Metadata,
    /// What is said of its state.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub initial_device_state: Option<NewDeviceState>,
    /// The public key of a device whose firmware holds this gateway's: beside `deviceRootKey` as a second one (rule R12).
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub device_public_key: Option<Key32>,
    /// The secret that the device shares with somebody else's cloud.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub device_root_key: Option<Key32>,
}

/// The request of `PUT /device/deviceId/{deviceId}/key`: one of the two, or both if the firmware holds this gateway's public key
/// beside that of another cloud (rule R12).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GivenKey {
    /// The public key of a device whose firmware holds this gateway's.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub device_public_key: Option<Key32>,
    /// The secret that the device shares with somebody else's cloud.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub device_root_key: Option<Key32>,
}

/// The request of `PUT /device/id/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceUpdate {
    /// What becomes of the metadata; without it nothing changes.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub metadata: Option<MetadataUpdate>,
}

/// A change of metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceMetadataUpdate)]
#[serde(rename_all = "camelCase")]
pub struct MetadataUpdate {
    /// Whether fields that are not given stay.
    pub operation: MetadataOperation,
    /// The fields.
    #[schema(value_type = DeviceMetadata)]
    pub value: Metadata,
}

/// What happens to metadata that is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum MetadataOperation {
    /// It stays.
    Patch,
    /// It goes.
    Replace,
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AccessLevel {
    /// Look and wait.
    Read,
    /// Also make, change and delete.
    Write,
}

/// An API key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// The record.
    pub id: Uuid,
    /// When it was made.
    pub created_at: Time,
    /// What it is for.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// The organisation it is for; without one, for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organisation_id: Option<Uuid>,
    /// What it may do.
    pub access: AccessLevel,
    /// From when on it is worthless; without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

/// The request of `POST /apiKey`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewApiKey {
    /// What it is for.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// The organisation it is for; without one, for all.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub organisation_id: Option<Uuid>,
    /// What it may do.
    pub access: AccessLevel,
    /// From when on it is worthless; without it, never.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

/// A value that is there: `null` is refused, as the contract has none.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
