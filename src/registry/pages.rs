//! Pages of records, which are read one by one and no further than to a bound of bytes: each record may be long, and there
//! may be thousands.

use std::pin::pin;

use futures_util::{Stream, TryStreamExt};
use tokio::task::coop::consume_budget;

use super::RegistryError;
use super::database::Database;

/// Bytes of the records of a page: 6 KB for each of the most there may be.
pub(super) const PAGE: usize = 64 * 1024 * 1024;

/// Bytes of a record beside its texts, about: ids, times and the names of fields.
const RECORD: usize = 512;

/// The records that `record` makes of rows, each with the bytes of its texts. They are taken off `left`.
///
/// # Errors
/// The database does not answer, or there is not so much left.
pub(super) async fn collect<R, T>(
    database: &Database,
    left: &mut usize,
    rows: impl Stream<Item = Result<R, sqlx::Error>>,
    record: impl Fn(R) -> Result<(T, usize), sqlx::Error>,
) -> Result<Vec<T>, RegistryError> {
    let records = async {
        let (mut rows, mut records) = (pin!(rows), Vec::new());
        while let Some(row) = rows.try_next().await? {
            let (record, bytes) = record(row)?;
            let Some(rest) = left.checked_sub(bytes + RECORD) else { return Ok(None) };
            *left = rest;
            records.push(record);
            // Rows may come as fast as they are read here, and others want to go on.
            consume_budget().await;
        }
        Ok(Some(records))
    };
    database.read(records).await?.ok_or(RegistryError::PageTooLong)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BARE, Site};
    use super::super::{DeviceFilter, KindOrder, Page};
    use super::*;
    use crate::id::DeviceId;

    #[tokio::test]
    async fn a_page_of_too_many_bytes_is_refused_by_every_list() {
        let site = Site::new().await;
        let acme = site.organisation("acme").await;
        let board = site.board(&acme, "board", false).await;
        site.device(&board, DeviceId(1), BARE).await;
        site.network(&acme, "network", 7).await;
        let page = Page { limit: 2, offset: 0, descending: false };
        let lists = async || {
            let registry = &site.registry;
            [
                registry.devices(&DeviceFilter::default(), Default::default(), page).await.map(|found| found.len()),
                registry.devices_after(None, None, 2).await.map(|found| found.len()),
                registry.devices_numbered(&[1]).await.map(|found| found.len()),
                registry.boards(acme.id, false, KindOrder::Name, page).await.map(|found| found.len()),
                registry.networks(acme.id, false, KindOrder::Name, page).await.map(|found| found.len()),
            ]
        };
        assert_eq!(lists().await, [const { Ok(1) }; 5]);
        let mut change = site.registry.database.begin().await.unwrap();
        let long = "x".repeat(PAGE - RECORD + 1);
        for (update, text) in [
            ("UPDATE device SET metadata = $1", format!("{{\"a\":\"{long}\"}}")),
            ("UPDATE board SET description = $1", long.clone()),
            ("UPDATE network SET description = $1", long),
        ] {
            sqlx::query(update).bind(text).execute(&mut *change).await.unwrap();
        }
        change.commit(|| ()).await.unwrap();
        assert_eq!(lists().await, [const { Err(RegistryError::PageTooLong) }; 5]);
    }
}
