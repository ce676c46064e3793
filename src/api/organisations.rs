//! Organisations: who may see which, and the answers about them.

use hyper::Request;
use hyper::body::Incoming;
use uuid::Uuid;

use crate::records::NewOrganisation;

use super::access::Scope;
use super::call::Call;
use super::error::ApiError;
use super::handlers::{Answer, no_content, query};

const KIND: &str = "organisation";

impl Call {
    pub(super) async fn organisations(&self, request: Box<Request<Incoming>>) -> Answer {
        let query = query(&request);
        let (order, page) = (query.organisation_order()?, query.page()?);
        let found = self.api.registry.organisations(self.only_organisation(), order, page).await?;
        self.list(found.len(), || found).await
    }

    pub(super) async fn create_organisation(&self, request: Box<Request<Incoming>>) -> Answer {
        let new: NewOrganisation = self.body(request).await?;
        self.created(&self.api.registry.create_organisation(&new).await?)
    }

    pub(super) async fn organisation(&self, id: Uuid) -> Answer {
        let found = self.api.registry.organisation(id).await?;
        let found = found.filter(|organisation| self.caller.sees(organisation.id, false));
        self.ok(&found.ok_or_else(|| ApiError::no_record(KIND, id))?)
    }

    pub(super) async fn organisation_named(&self, name: Box<str>) -> Answer {
        let found = self.api.registry.organisation_named(&name).await?;
        let found = found.filter(|organisation| self.caller.sees(organisation.id, false));
        self.ok(&found.ok_or_else(|| ApiError::no_record(KIND, format!("named {name:?}")))?)
    }

    pub(super) async fn delete_organisation(&self, id: Uuid) -> Answer {
        self.api.registry.delete_organisation(id).await?;
        Ok(no_content())
    }

    /// The one organisation whose private records the caller may see; `None`: all.
    pub(super) fn only_organisation(&self) -> Option<Uuid> {
        match self.caller.scope() {
            Scope::All => None,
            Scope::Organisation { id, .. } => Some(id),
        }
    }
}
