//! Networks: who may see and change which, and the answers about them.

use hyper::Request;
use hyper::body::Incoming;
use uuid::Uuid;

use crate::records::{Network, NewNetwork};

use super::access::Scope;
use super::call::Call;
use super::error::ApiError;
use super::handlers::{Answer, no_content, query};

impl Call {
    pub(super) async fn networks(&self, request: Box<Request<Incoming>>) -> Answer {
        let query = query(&request);
        let (organisation, include_public) = (query.organisation()?, query.include_public()?);
        let (order, page) = (query.kind_order()?, query.page()?);
        self.caller.reads_for(organisation)?;
        let found = self.api.registry.networks(organisation, include_public, order, page).await?;
        self.list(found.len(), || found).await
    }

    pub(super) async fn create_network(&self, request: Box<Request<Incoming>>) -> Answer {
        let new: NewNetwork = self.body(request).await?;
        self.caller.writes_for(new.organisation_id)?;
        if new.public && self.caller.scope() != Scope::All {
            return Err(ApiError::PublicNetwork);
        }
        self.created(&self.api.registry.create_network(&new).await?)
    }

    pub(super) async fn network(&self, id: Uuid) -> Answer {
        self.ok(&self.visible_network(id).await?)
    }

    pub(super) async fn delete_network(&self, id: Uuid) -> Answer {
        self.caller.writes_for(self.visible_network(id).await?.organisation_id)?;
        self.api.registry.delete_network(id).await?;
        Ok(no_content())
    }

    async fn visible_network(&self, id: Uuid) -> Result<Network, ApiError> {
        let found = self.api.registry.network(id).await?;
        let found = found.filter(|network| self.caller.sees(network.organisation_id, network.public));
        found.ok_or_else(|| ApiError::no_record("network", id))
    }
}
