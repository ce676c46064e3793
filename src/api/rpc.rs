//! Calls and other messages to devices: made, listed, read, waited for, followed and taken back.

use hyper::Request;
use hyper::body::{Bytes, Incoming};
use uuid::Uuid;

use crate::dispatch::SendError;
use crate::id::DeviceId;
use crate::records::message::{Message, NewMessage};
use crate::records::rpc::{NewDownlink, NewRpcMessage};
use crate::registry::messages::MessageFilter;

use super::access::Scope;
use super::call::Call;
use super::error::ApiError;
use super::handlers::{Answer, no_content, query, typed};
use super::messages::{created, new_call, new_downlink};

/// Bytes of a request to make a message: those of the longest data in base64, and as much again as other requests may have.
const MAX_BODY: usize = 2_500_000;

/// Data that a device sent.
const OCTETS: &str = "application/octet-stream";

/// Which of the two kinds of messages a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Calls.
    Call,
    /// All others.
    Plain,
}

impl Sort {
    const fn name(self) -> &'static str {
        match self {
            Self::Call => "RPC",
            Self::Plain => "downlink",
        }
    }

    fn has(self, message: &Message) -> bool {
        (self == Self::Call) == message.call.is_some()
    }

    /// That there is none with this id, or none of this kind, or none of the caller's.
    pub(super) fn missing(self, id: Uuid) -> ApiError {
        ApiError::no_record(self.name(), id)
    }
}

impl Call {
    /// `POST /rpc`.
    pub(super) async fn send_call(&self, request: Box<Request<Incoming>>) -> Answer {
        let new: NewRpcMessage = self.bounded_body(MAX_BODY, request).await?;
        if !self.sees(new.device_id) {
            return Err(SendError::UnknownDevice(new.device_id).into());
        }
        let new = new_call(new, &self.api.definitions, self.api.dispatch.request_id())?;
        self.created(&created(&self.send(new).await?))
    }

    /// `POST /device/deviceId/{deviceId}/downlink`.
    pub(super) async fn send_downlink(&self, id: DeviceId, request: Box<Request<Incoming>>) -> Answer {
        let new: NewDownlink = self.bounded_body(MAX_BODY, request).await?;
        self.visible_device_with_id(id).await?;
        self.created(&created(&self.send(new_downlink(id, new)?).await?))
    }

    async fn send(&self, new: NewMessage) -> Result<Message, ApiError> {
        let device = new.device;
        match self.api.dispatch.send(new).await {
            Ok(message) => Ok(message),
            Err(SendError::RouteMoved { cursor }) => {
                let snapshot = self.api.table.snapshot(device);
                Err(ApiError::route_moved(cursor, snapshot.and_then(|snapshot| snapshot.last_route)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// `GET /rpc`.
    pub(super) async fn calls(&self, request: Box<Request<Incoming>>) -> Answer {
        let query = query(&request);
        let (order, page) = (query.message_order()?, query.page_of_messages()?);
        let filter = query.messages()?;
        let filter = MessageFilter { organisation: self.whose_messages(filter.organisation)?, ..filter };
        let messages = self.api.registry.messages(&filter, order, page).await?;
        let api = self.api.clone();
        self.list(messages.len(), move || {
            messages.iter().filter_map(|message| api.call_view(message)).collect::<Vec<_>>()
        })
        .await
    }

    /// Whose messages the caller is told of, who asks for those of `asked`; `None`: of all.
    pub(super) fn whose_messages(&self, asked: Option<Uuid>) -> Result<Option<Uuid>, ApiError> {
        if let Some(asked) = asked {
            self.caller.reads_for(asked)?;
        }
        Ok(match self.caller.scope() {
            Scope::All => asked,
            Scope::Organisation { id, .. } => Some(id),
        })
    }

    /// `GET /rpc/{id}` and `GET /downlink/{id}`.
    pub(super) async fn message(&self, sort: Sort, id: Uuid) -> Answer {
        self.shown(sort, &self.visible_message(sort, id).await?)
    }

    /// A message as it is read at the path of its kind.
    pub(super) fn shown(&self, sort: Sort, message: &Message) -> Answer {
        match sort {
            Sort::Call => self.ok(&self.api.call_view(message).ok_or_else(|| sort.missing(message.id))?),
            Sort::Plain => self.ok(&self.api.downlink_view(message).ok_or_else(|| sort.missing(message.id))?),
        }
    }

    /// `DELETE /rpc/{id}` and `DELETE /downlink/{id}`.
    pub(super) async fn withdraw(&self, sort: Sort, id: Uuid) -> Answer {
        self.visible_message(sort, id).await?;
        match self.api.dispatch.withdraw(id).await? {
            Some(true) => Ok(no_content()),
            Some(false) => Err(ApiError::AlreadySent),
            None => Err(sort.missing(id)),
        }
    }

    /// `GET /rpc/{id}/data`.
    pub(super) async fn call_data(&self, id: Uuid) -> Answer {
        self.visible_message(Sort::Call, id).await?;
        let data = self.api.dispatch.data(id).await?.ok_or_else(|| ApiError::no_record("data of RPC", id))?;
        Ok(typed(OCTETS, Bytes::from_owner(data)))
    }

    /// A message that the caller may know of.
    pub(super) async fn visible_message(&self, sort: Sort, id: Uuid) -> Result<Message, ApiError> {
        let found = self.api.registry.message(id).await?;
        found.filter(|message| self.sees_message(sort, message)).ok_or_else(|| sort.missing(id))
    }

    /// Whether the caller may know of a message, at the path of this kind.
    pub(super) fn sees_message(&self, sort: Sort, message: &Message) -> bool {
        sort.has(message) && self.caller.sees(message.device.organisation_id, false)
    }
}
