//! What is known of devices beyond their records: their states, alone and in lists.

use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use uuid::Uuid;

use crate::id::DeviceId;
use crate::records::NewDeviceState;
use crate::registry::DeviceRecord;
use crate::table::RouteTable;

use super::call::Call;
use super::error::ApiError;
use super::handlers::{Answer, query};
use super::query::StateOrder;
use super::views;

impl Call {
    pub(super) async fn state_of_record(&self, id: Uuid) -> Answer {
        self.ok(&self.state_view(&self.visible_device(id).await?))
    }

    pub(super) async fn set_state(&self, id: Uuid, request: Box<Request<Incoming>>) -> Answer {
        let state: NewDeviceState = self.body(request).await?;
        self.visible_device(id).await?;
        self.ok(&self.state_view(&self.api.registry.set_device_state(id, &state).await?))
    }

    /// Also of a device that only the configuration names.
    pub(super) async fn state(&self, id: DeviceId) -> Answer {
        let record = self.api.registry.device_with_id(id).await?;
        // After the registry is read, so that it holds of what is shown: the device may have become another organisation's.
        self.seen(id)?;
        match record {
            Some(record) if self.sees_record(&record) => self.ok(&self.state_view(&record)),
            Some(_) => Err(ApiError::UnseenDevice(id)),
            None => {
                let registered = self.api.table.registered_since(id).ok_or(ApiError::NotRegistered(id))?;
                self.ok(&views::DeviceState::new(registered, self.api.table.snapshot(id).as_ref()))
            }
        }
    }

    pub(super) async fn devices_and_states(&self, request: Box<Request<Incoming>>) -> Answer {
        let query = query(&request);
        let (organisation, heard, page) = (query.organisation()?, query.heard()?, query.page()?);
        let order = query.state_order()?;
        self.caller.reads_for(organisation)?;
        let registry = &self.api.registry;
        let records = match order {
            StateOrder::Record(order) => registry.devices_heard(organisation, heard, order, page).await?,
            StateOrder::Heard(order) => registry.devices_by_heard(organisation, heard, order, page).await?,
        };
        let (len, table) = (records.len(), Arc::clone(&self.api.table));
        let with_state = move |record: DeviceRecord| {
            let state = state_view(&table, &record);
            views::DeviceAndState { device: record.device, state }
        };
        self.list(len, || records.into_iter().map(with_state).collect::<Vec<_>>()).await
    }

    fn state_view(&self, record: &DeviceRecord) -> views::DeviceState {
        state_view(&self.api.table, record)
    }
}

fn state_view(table: &RouteTable, record: &DeviceRecord) -> views::DeviceState {
    views::DeviceState::of_record(record, table.snapshot(record.device.device_id).as_ref())
}
