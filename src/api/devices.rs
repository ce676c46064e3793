//! Devices: who may see and change which, and the answers about their records.

use hyper::Request;
use hyper::body::Incoming;
use uuid::Uuid;

use crate::id::DeviceId;
use crate::records::{Device, DeviceUpdate, GivenKey, NewDevice};
use crate::registry::{DeviceFilter, DeviceOrder, DeviceRecord, Page, Registrar, RegistryError};

use super::access::Scope;
use super::call::Call;
use super::error::ApiError;
use super::handlers::{Answer, created, no_content, query};
use super::router::Hardware;
use super::views;

const KIND: &str = "device";
/// The list of a batch, as its requests call it.
pub(super) const DEVICES: &str = "devices";

impl Call {
    pub(super) async fn devices(&self, request: Box<Request<Incoming>>) -> Answer {
        let query = query(&request);
        let (organisation, order, page) = (query.organisation()?, query.device_order()?, query.page()?);
        let (boards, metadata) = (query.boards()?, query.metadata()?);
        self.caller.reads_for(organisation)?;
        self.list_devices(&DeviceFilter { organisation: Some(organisation), boards, metadata }, order, page).await
    }

    pub(super) async fn list_devices(&self, filter: &DeviceFilter, order: DeviceOrder, page: Page) -> Answer {
        let records = self.api.registry.devices(filter, order, page).await?;
        self.list(records.len(), || devices(records)).await
    }

    pub(super) async fn create_device(&self, request: Box<Request<Incoming>>) -> Answer {
        let new: NewDevice = self.body(request).await?;
        self.caller.writes_for(new.organisation_id)?;
        self.created(&self.api.registry.create_device(&new, self.registrar()).await?.device)
    }

    /// All or none.
    pub(super) async fn create_devices(&self, request: Box<Request<Incoming>>) -> Answer {
        let views::NewDevices { devices: new } = self.batch_body(request).await?;
        for (index, device) in new.iter().enumerate() {
            self.caller.writes_for(device.organisation_id).map_err(|error| ApiError::entry(DEVICES, index, error))?;
        }
        match self.api.registry.create_devices(&new, self.registrar()).await {
            Ok(records) => self.list(records.len(), || devices(records)).await.map(created),
            // No fault of the entry.
            Err((_, error @ RegistryError::Unavailable(_))) => Err(error.into()),
            Err((index, error)) => Err(ApiError::entry(DEVICES, index, error)),
        }
    }

    pub(super) async fn device(&self, id: Uuid) -> Answer {
        self.ok(&self.visible_device(id).await?.device)
    }

    pub(super) async fn device_with_id(&self, id: DeviceId) -> Answer {
        self.ok(&self.visible_device_with_id(id).await?.device)
    }

    pub(super) async fn device_with_hardware(&self, hardware: Box<Hardware>) -> Answer {
        let Hardware { soc, mcu_id } = *hardware;
        let found = self.api.registry.device_with_hardware(&soc, &mcu_id).await?;
        let found = found.filter(|record| self.sees_record(record));
        let none = || ApiError::no_record(KIND, format!("with the mcuId {mcu_id:?} and the SoC {soc:?}"));
        self.ok(&found.ok_or_else(none)?.device)
    }

    pub(super) async fn update_device(&self, id: Uuid, request: Box<Request<Incoming>>) -> Answer {
        let update: DeviceUpdate = self.body(request).await?;
        self.visible_device(id).await?;
        self.ok(&self.api.registry.update_device(id, &update).await?.device)
    }

    pub(super) async fn delete_device(&self, id: Uuid) -> Answer {
        self.visible_device(id).await?;
        self.api.registry.delete_device(id).await?;
        Ok(no_content())
    }

    pub(super) async fn set_device_key(&self, id: DeviceId, request: Box<Request<Incoming>>) -> Answer {
        let key: GivenKey = self.body(request).await?;
        let record = self.visible_device_with_id(id).await?;
        self.api.registry.set_device_key(record.device.id, &key).await?;
        Ok(no_content())
    }

    /// For whom the caller registers devices.
    pub(super) fn registrar(&self) -> Registrar {
        match self.caller.scope() {
            Scope::All => Registrar::OfAll,
            Scope::Organisation { .. } => Registrar::OfOne,
        }
    }

    pub(super) async fn visible_device(&self, id: Uuid) -> Result<DeviceRecord, ApiError> {
        let found = self.api.registry.device(id).await?;
        found.filter(|record| self.sees_record(record)).ok_or_else(|| ApiError::no_record(KIND, id))
    }

    pub(super) async fn visible_device_with_id(&self, id: DeviceId) -> Result<DeviceRecord, ApiError> {
        let found = self.api.registry.device_with_id(id).await?;
        found.filter(|record| self.sees_record(record)).ok_or_else(|| ApiError::no_record(KIND, id))
    }

    /// Whether the caller may know of a device, and may change it if it may change anything.
    pub(super) fn sees_record(&self, record: &DeviceRecord) -> bool {
        self.caller.sees(record.device.organisation_id, false)
    }
}

fn devices(records: Vec<DeviceRecord>) -> Vec<Device> {
    records.into_iter().map(|record| record.device).collect()
}
