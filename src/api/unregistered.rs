//! Devices that are heard and not registered.

use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use tokio::task::spawn_blocking;

use super::call::Call;
use super::error::ApiError;
use super::handlers::{Answer, query};
use super::views;

impl Call {
    pub(super) async fn unregistered_devices(&self, request: Box<Request<Incoming>>) -> Answer {
        let page = query(&request).page()?;
        let table = Arc::clone(&self.api.table);
        // More than there can be is none.
        let offset = usize::try_from(page.offset).unwrap_or(usize::MAX);
        let devices = spawn_blocking(move || table.unregistered_devices(page.limit as usize, offset)).await;
        let devices = devices.map_err(|_| ApiError::Internal)?;
        let known = move || devices.iter().filter_map(views::Unregistered::of).collect::<Vec<_>>();
        self.list(page.limit as usize, known).await
    }
}
