//! Boards and their devices: who may see and change which, and the answers about them.

use hyper::Request;
use hyper::body::Incoming;
use uuid::Uuid;

use crate::records::{Board, NewBoard};
use crate::registry::DeviceFilter;

use super::call::Call;
use super::error::ApiError;
use super::handlers::{Answer, no_content, query};

impl Call {
    pub(super) async fn boards(&self, request: Box<Request<Incoming>>) -> Answer {
        let query = query(&request);
        let (organisation, include_public) = (query.organisation()?, query.include_public()?);
        let (order, page) = (query.kind_order()?, query.page()?);
        self.caller.reads_for(organisation)?;
        let found = self.api.registry.boards(organisation, include_public, order, page).await?;
        self.list(found.len(), || found).await
    }

    pub(super) async fn create_board(&self, request: Box<Request<Incoming>>) -> Answer {
        let new: NewBoard = self.body(request).await?;
        self.caller.writes_for(new.organisation_id)?;
        self.created(&self.api.registry.create_board(&new).await?)
    }

    pub(super) async fn board(&self, id: Uuid) -> Answer {
        self.ok(&self.visible_board(id).await?)
    }

    pub(super) async fn delete_board(&self, id: Uuid) -> Answer {
        self.caller.writes_for(self.visible_board(id).await?.organisation_id)?;
        self.api.registry.delete_board(id).await?;
        Ok(no_content())
    }

    pub(super) async fn devices_of_board(&self, id: Uuid, request: Box<Request<Incoming>>) -> Answer {
        let query = query(&request);
        let (metadata, order, page) = (query.metadata()?, query.device_order()?, query.page()?);
        let board = self.visible_board(id).await?;
        // Those of other organisations may be of a public board, and stay theirs.
        let filter = DeviceFilter { organisation: self.only_organisation(), boards: vec![board.id], metadata };
        self.list_devices(&filter, order, page).await
    }

    async fn visible_board(&self, id: Uuid) -> Result<Board, ApiError> {
        let found = self.api.registry.board(id).await?;
        let found = found.filter(|board| self.caller.sees(board.organisation_id, board.public));
        found.ok_or_else(|| ApiError::no_record("board", id))
    }
}
