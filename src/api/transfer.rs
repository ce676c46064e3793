//! Many devices at once: `POST /device/import`, where each entry stands for itself, and `GET /device/export`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use hyper::Request;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Array, Object, Schema, SchemaType};
use uuid::Uuid;

use crate::records::{ExportedDevice, ImportFailure, ImportOutcome, NewDevice};
use crate::registry::{DeviceRecord, Imported};

use super::call::Call;
use super::error::ApiError;
use super::format::Format;
use super::handlers::{Answer, query};
use super::strict::{self, Bounds, Unfit};

/// Values in an entry, on the average, where it is told apart in MessagePack.
const VALUES: usize = 100;

/// The request of `POST /device/import`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ImportedDevices)]
#[serde(rename_all = "camelCase")]
pub(super) struct Import<T> {
    /// The devices.
    #[schema(schema_with = described_entries)]
    devices: Vec<T>,
    /// Whether to register none after one that fails.
    #[serde(default)]
    #[schema(default = false)]
    stop_at_error: bool,
}

/// What comes of an entry before the registry sees it.
pub(super) type Parsed = Result<NewDevice, ApiError>;

impl<T> Import<T> {
    fn map<U>(self, each: impl FnMut(T) -> U) -> Import<U> {
        Import { devices: self.devices.into_iter().map(each).collect(), stop_at_error: self.stop_at_error }
    }
}

impl Call {
    /// Each entry for itself.
    pub(super) async fn import_devices(&self, request: Box<Request<Incoming>>) -> Answer {
        let max = self.api.config.max_devices_per_request;
        let import = self.batch(request, move |format, bytes| import(format, bytes, max)).await?;
        let (mut places, mut new, mut outcome) = (Vec::new(), Vec::new(), ImportOutcome::default());
        let Import { devices, stop_at_error } = import;
        for (index, entry) in devices.into_iter().enumerate() {
            match entry.and_then(|new| self.caller.writes_for(new.organisation_id).map(|()| new)) {
                Ok(device) => {
                    places.push(index);
                    new.push(device);
                }
                Err(error) => {
                    outcome.failed.push(failure(index, &error));
                    if stop_at_error {
                        break;
                    }
                }
            }
        }
        let results = self.api.registry.import_devices(&new, self.registrar(), stop_at_error).await?;
        for (index, result) in places.into_iter().zip(results) {
            match result {
                Ok(Imported::Created) => outcome.created += 1,
                Ok(Imported::Unchanged) => outcome.unchanged += 1,
                Err(error) => outcome.failed.push(failure(index, &error.into())),
            }
        }
        outcome.failed.sort_unstable_by_key(|failure| failure.index);
        if stop_at_error {
            // The registry may stop before the one that ends the list.
            outcome.failed.truncate(1);
        }
        self.list(outcome.failed.len(), || outcome).await
    }

    /// A page in the order in which devices were made. Without an organisation, of all that the caller may see.
    pub(super) async fn export_devices(&self, request: Box<Request<Incoming>>) -> Answer {
        let query = query(&request);
        let (organisation, after, limit) = (query.record("organisationId")?, query.record("after")?, query.limit()?);
        query.goes_by_after()?;
        organisation.map_or(Ok(()), |organisation| self.caller.reads_for(organisation))?;
        let organisation = organisation.or_else(|| self.only_organisation());
        let records = self.api.registry.devices_after(organisation, after, limit).await?;
        let mut names = Names::default();
        let mut devices = Vec::with_capacity(records.len());
        for DeviceRecord { device, .. } in records {
            let named = (
                self.board_of(&mut names, device.board_id).await?,
                self.owner_of(&mut names, device.organisation_id).await?,
            );
            // Neither can go before the device does; a device of which one is gone was deleted meanwhile.
            if let (Some((board, soc)), Some(organisation)) = named {
                devices.push(ExportedDevice { device, board, soc, organisation });
            }
        }
        self.list(devices.len(), || devices).await
    }

    /// The name and the system on chip of a board.
    async fn board_of(&self, names: &mut Names, id: Uuid) -> Result<Option<(String, String)>, ApiError> {
        Ok(match names.boards.entry(id) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(unknown) => {
                let board = self.api.registry.board(id).await?;
                unknown.insert(board.map(|board| (board.name, board.soc))).clone()
            }
        })
    }

    /// The name of an organisation.
    async fn owner_of(&self, names: &mut Names, id: Uuid) -> Result<Option<String>, ApiError> {
        Ok(match names.organisations.entry(id) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(unknown) => {
                let organisation = self.api.registry.organisation(id).await?;
                unknown.insert(organisation.map(|organisation| organisation.name)).clone()
            }
        })
    }
}

/// Names that a page was found to need.
#[derive(Debug, Default)]
struct Names {
    boards: HashMap<Uuid, Option<(String, String)>>,
    organisations: HashMap<Uuid, Option<String>>,
}

/// The request in a body, with at most `max` entries. Each one that is no device fails by itself.
pub(super) fn import(format: Format, bytes: &[u8], max: usize) -> Result<Import<Parsed>, ApiError> {
    let bounds = Bounds::of_lists(max);
    // The usual case is read once.
    let error = match format.decode::<Import<NewDevice>>(bytes, bounds) {
        Ok(import) => return Ok(import.map(Ok)),
        Err(error) => error,
    };
    let parsed = match apart(format, bytes, bounds) {
        Ok(parsed) => parsed,
        Err(too_many @ Unfit::TooMany { .. }) => return Err(too_many.into()),
        Err(Unfit::Malformed(_)) => return Err(error.into()),
    };
    if parsed.devices.iter().all(Result::is_ok) { Err(error.into()) } else { Ok(parsed) }
}

/// Each entry of a body by itself.
fn apart(format: Format, bytes: &[u8], bounds: Bounds) -> Result<Import<Parsed>, Unfit> {
    let parsed: Import<Result<_, Unfit>> = match format {
        Format::Json => {
            let import = format.decode::<Import<Box<RawValue>>>(bytes, bounds)?;
            import.map(|raw| format.decode(raw.get().as_bytes(), bounds))
        }
        Format::MessagePack(_) => {
            // Unlike text, what is read here takes many times the room of its bytes.
            let all = bounds.list.saturating_mul(VALUES);
            let import = format.decode::<Import<Value>>(bytes, Bounds { all, ..bounds })?;
            import.map(|entry| strict::decode(entry, bounds))
        }
    };
    Ok(parsed.map(|entry| entry.map_err(ApiError::from)))
}

fn failure(index: usize, error: &ApiError) -> ImportFailure {
    ImportFailure { index, code: error.status().as_u16(), message: error.to_string() }
}

/// Anything may be an entry, as one that is no device is not refused but answered.
fn described_entries() -> Schema {
    let entry = Object::builder().schema_type(SchemaType::AnyValue).description(Some("The request of `POST /device`."));
    let mut entries = Array::new(entry.build());
    entries.max_items = Some(10_000);
    Schema::Array(entries)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DEVICE: &str = r#"{"mcuId":"00aa","organisationId":"0198c0de-0000-7000-8000-000000000001",
        "boardId":"0198c0de-0000-7000-8000-000000000002"}"#;

    fn parsed(body: &str) -> Result<Vec<Option<String>>, String> {
        let import = import(Format::Json, body.as_bytes(), 3).map_err(|error| error.to_string())?;
        Ok(import.devices.into_iter().map(|entry| entry.err().map(|error| error.to_string())).collect())
    }

    #[test]
    fn an_entry_that_is_no_device_fails_by_itself() {
        assert_eq!(parsed(r#"{"devices":[]}"#), Ok(vec![]));
        assert_eq!(parsed(&format!(r#"{{"devices":[{DEVICE},{DEVICE}]}}"#)), Ok(vec![None, None]));
        let found = parsed(&format!(r#"{{"devices":[{{"mcuId":"x"}},{DEVICE},7]}}"#)).unwrap();
        assert!(found[0].as_ref().unwrap().contains("mcuId: an MCU id is pairs of hex digits"), "{found:?}");
        assert!(found[1].is_none() && found[2].is_some(), "{found:?}");
    }

    #[test]
    fn what_is_wrong_around_the_entries_fails_all() {
        for body in [
            "".to_owned(),
            "{}".to_owned(),
            "[]".to_owned(),
            "[[7]]".to_owned(),
            format!("[[{DEVICE}]]"),
            r#"{"devices":{}}"#.to_owned(),
            r#"{"devices":[7"#.to_owned(),
            r#"{"devices":[7]} x"#.to_owned(),
            r#"{"devices":[7],"devices":[7]}"#.to_owned(),
            r#"{"x":1,"x":1,"devices":[7]}"#.to_owned(),
        ] {
            assert!(parsed(&body).unwrap_err().starts_with("the body does not fit"), "{body}");
        }
        let many = parsed(r#"{"devices":[1,2,3,4]}"#).unwrap_err();
        assert_eq!(many, "devices has more than 3 entries; send at most 3 at once");
    }

    #[test]
    fn an_entry_in_message_pack_fails_by_itself_as_well() {
        let format = Format::MessagePack("application/msgpack");
        let device: Value = serde_json::from_str(DEVICE).unwrap();
        let packed = |body: Value| format.encode(&body).unwrap();
        let found = import(format, &packed(json!({"devices": [7, device, [device]]})), 3).unwrap();
        assert_eq!(found.devices.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false], "{found:?}");
        assert!(import(format, &packed(json!([[device]])), 3).is_err());
        // No list is too long in the second, but all are together.
        let entry = json!(vec![vec![vec![[0; 3]; 3]; 3]; 3]);
        for (devices, said) in [
            (json!([7, 7, 7, 7]), "devices has more than 3 entries; send at most 3 at once"),
            (json!([entry, entry, entry]), "the body has more than 300 entries; send at most 300 at once"),
        ] {
            let refused = import(format, &packed(json!({"devices": devices})), 3).unwrap_err();
            assert_eq!(refused.to_string(), said);
        }
    }
}
