//! Finding devices.

use std::collections::HashMap;

use uuid::Uuid;

use super::database::from_device_id;
use super::device_rows::{self, CHUNK, Query, push_list, select};
use super::{DeviceFilter, DeviceOrder, DeviceRecord, Page, Registry, RegistryError, pages};
use crate::id::DeviceId;
use crate::records::McuId;

impl Registry {
    /// The device with this record id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn device(&self, id: Uuid) -> Result<Option<DeviceRecord>, RegistryError> {
        let mut query = select();
        query.push("d.id = ").push_bind(id);
        self.one(query).await
    }

    /// The device whose packets carry this id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn device_with_id(&self, device_id: DeviceId) -> Result<Option<DeviceRecord>, RegistryError> {
        let mut query = select();
        query.push("d.device_id = ").push_bind(from_device_id(device_id));
        self.one(query).await
    }

    /// The device with this hardware: the system on chip of its board as it is written there, and its MCU id without regard
    /// to case. A text that is no MCU id is none's.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn device_with_hardware(&self, soc: &str, mcu_id: &str) -> Result<Option<DeviceRecord>, RegistryError> {
        let Ok(mcu_id) = mcu_id.parse::<McuId>() else { return Ok(None) };
        let mut query = select();
        query.push("d.soc = ").push_bind(soc).push(" AND d.mcu_id = ").push_bind(mcu_id.as_str());
        self.one(query).await
    }

    /// A part of the list of the devices that `filter` lets through. With an organisation, the order by organisation is
    /// that of creation.
    ///
    /// # Errors
    /// The database does not answer, or the devices are too long for one page.
    pub async fn devices(
        &self,
        filter: &DeviceFilter,
        order: DeviceOrder,
        page: Page,
    ) -> Result<Vec<DeviceRecord>, RegistryError> {
        self.many(device_rows::page(filter, order, page)).await
    }

    /// Devices in the order they were made, after the one with this record id, which may be gone; for exports. To go
    /// through all devices of one organisation this way takes time in proportion to the devices of all.
    ///
    /// # Errors
    /// As [`Self::devices`].
    pub async fn devices_after(
        &self,
        organisation: Option<Uuid>,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeviceRecord>, RegistryError> {
        let mut query = select();
        query.push("d.n IN (SELECT n FROM device WHERE id > ").push_bind(after.unwrap_or(Uuid::nil()));
        if let Some(organisation) = organisation {
            // The sum keeps the engine from sorting all that the organisation has for each part.
            query.push(" AND organisation + 0 = (SELECT n FROM organisation WHERE id = ");
            query.push_bind(organisation).push(")");
        }
        query.push(" ORDER BY id LIMIT ").push_bind(i64::from(limit)).push(") ORDER BY d.id");
        self.many(query).await
    }

    /// The records with these numbers, in this order, as far as they are there.
    pub(super) async fn devices_numbered(&self, numbers: &[i64]) -> Result<Vec<DeviceRecord>, RegistryError> {
        let mut found = HashMap::with_capacity(numbers.len());
        let (mut reader, mut left) = (self.database.reader().await?, pages::PAGE);
        for numbers in numbers.chunks(CHUNK) {
            let mut query = select();
            query.push("d.n IN ");
            push_list(&mut query, numbers.iter().copied());
            let rows = query.build().fetch(&mut reader);
            let records = pages::collect(&self.database, &mut left, rows, |row| device_rows::measured(&row)).await?;
            found.extend(records.into_iter().map(|stored| (stored.n, stored.record)));
        }
        Ok(numbers.iter().filter_map(|n| found.remove(n)).collect())
    }

    async fn one(&self, mut query: Query) -> Result<Option<DeviceRecord>, RegistryError> {
        let mut reader = self.database.reader().await?;
        let row = self.database.read(query.build().fetch_optional(&mut reader)).await?;
        Ok(row.as_ref().map(device_rows::stored).transpose()?.map(|stored| stored.record))
    }

    async fn many(&self, mut query: Query) -> Result<Vec<DeviceRecord>, RegistryError> {
        let mut reader = self.database.reader().await?;
        let record = |row| device_rows::measured(&row).map(|(stored, bytes)| (stored.record, bytes));
        pages::collect(&self.database, &mut { pages::PAGE }, query.build().fetch(&mut reader), record).await
    }
}
