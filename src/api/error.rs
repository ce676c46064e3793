//! The only place where an error of the core, or of a request, becomes a status, headers and a public message.

use std::ops::RangeInclusive;

use hyper::StatusCode;
use hyper::header::{ALLOW, CONNECTION, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use uuid::Uuid;

use crate::definitions::DefinitionError;
use crate::dispatch::SendError;
use crate::downlink::outbox::Full as NoRoom;
use crate::id::{Cursor, DeviceId, IdError};
use crate::quote::one_line;
use crate::registry::RegistryError;
use crate::table::route::Route;
use crate::wait::WaitError;
use crate::wait::many::DeviceError;
use crate::wait::organisation::OrganisationError;
use crate::waiters::{Ended, Full};

use super::messages::UnfitMessage;
use super::query::RECORD_ID;
use super::router::Unroutable;
use super::strict::Unfit;
use super::tokens::TokenError;
use super::views;

/// Seconds after which a bound is worth another try: every packet, time-out and answer sent frees a place.
const RETRY_BOUND_SECONDS: u16 = 1;
/// Seconds after which another gateway, or this one restarted, takes requests: any of these, so that not all who waited come
/// back at once. The greatest is the time a shutdown may take.
const RETRY_SHUTDOWN_SECONDS: RangeInclusive<u16> = 1..=5;
/// Longest text of a parser that is passed on, in bytes: parsers quote what they were given.
const MAX_QUOTED: usize = 200;

/// Why a request is not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// See [`Unroutable::Path`].
    #[error("no such path; paths are exact, also in case and in slashes")]
    NoSuchPath,
    /// See [`Unroutable::Method`].
    #[error("this path does not have that method; it has {allow}")]
    WrongMethod {
        /// The methods it has.
        allow: String,
    },
    /// The path names no device.
    #[error("the path names no device: {0}")]
    PathDevice(IdError),
    /// See [`Unroutable::Record`].
    #[error("the path has no record id where one should be, for example 0198c0de-0000-7000-8000-00000000002a")]
    PathRecord,
    /// See [`Unroutable::Text`].
    #[error(
        "the path has a part that is no UTF-8 text, which nothing here is named; encode it as UTF-8, then by percents"
    )]
    PathText,
    /// No key, or none that is known.
    #[error(
        "credentials are missing or wrong; send Authorization: ApiKey <key>, Authorization: Bearer <key> or x-api-key: <key>"
    )]
    Unauthorized,
    /// A stored key after its time.
    #[error("this API key has expired; ask an administrator for another")]
    ExpiredKey,
    /// A token that is not believed.
    #[error("this token is not accepted: {0}")]
    Token(#[from] TokenError),
    /// Credentials that were good when the wait began.
    #[error("these credentials have expired, or were taken back, since this wait began; get others")]
    NoLongerGood,
    /// An open API is not asked by its address.
    #[error(
        "this API asks for no credentials, so that it is to be asked by its IP address or as localhost and not by another name, \
         which a web page might use; do so, or give it an api-key-file or a jwt-key-file"
    )]
    HostName,
    /// An open API is asked by a page of another site.
    #[error(
        "this API asks for no credentials, so that it does not answer web pages of other sites; leave out Origin, or give it \
         an api-key-file or a jwt-key-file"
    )]
    OtherOrigin,
    /// A token that says for whom nothing.
    #[error("this token lets its bearer do nothing: it needs the claim organisationId, or allOrganisations: true")]
    TokenForNothing,
    /// A token for an organisation that is not there.
    #[error("there is no organisation {0}, for which this token is; get one for an organisation of this gateway")]
    TokenOrganisation(Uuid),
    /// The caller may only look.
    #[error("these credentials may only read; ask an administrator for some that may write")]
    ReadOnly,
    /// The caller is for one organisation, where all are concerned.
    #[error("these credentials are for one organisation, and this concerns all; use some that are for all")]
    OfOneOrganisation,
    /// The caller is for one organisation, and would speak for the devices of all.
    #[error(
        "a public network speaks for the devices of all organisations, and these credentials are for one; leave public out, \
         or use some that are for all"
    )]
    PublicNetwork,
    /// The caller is for another organisation.
    #[error("these credentials are not for organisation {0}; name the organisation they are for")]
    ForeignOrganisation(Uuid),
    /// Whether there is such a device or not, it is none of the caller's.
    #[error("the organisation of these credentials has no device {0}; register it, or name another")]
    UnseenDevice(DeviceId),
    /// Request line and headers are too long.
    #[error("the path and the headers of the request take {len} bytes, more than {max}; send fewer or shorter ones")]
    HeadTooLarge {
        /// Bytes sent.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The body is too long.
    #[error("the body of the request is longer than {max} bytes; ask for less at once")]
    BodyTooLarge {
        /// Bytes allowed.
        max: usize,
    },
    /// The body did not come in time.
    #[error("the body of the request did not arrive in time; send it at once")]
    BodyTimeout,
    /// The connection broke within the body.
    #[error("the body of the request ended early or in a malformed chunk; send as many bytes as announced")]
    BodyBroken,
    /// The body is in no form known.
    #[error("Content-Type must be application/json or application/msgpack")]
    MediaType,
    /// The body is not what it should be.
    #[error("the body does not fit: {0}")]
    Body(String),
    /// An entry of a list of ids is none.
    #[error("deviceIds[{index}]: {error}")]
    BodyDevice {
        /// Its place in the list, from 0.
        index: usize,
        /// What is wrong with it.
        error: IdError,
    },
    /// A query parameter that is given twice.
    #[error("query parameter {name} is given more than once; give it once")]
    QueryTwice {
        /// The parameter.
        name: &'static str,
    },
    /// A query parameter that is no text.
    #[error("query parameter {name} is no UTF-8 text; encode it as UTF-8, then by percents")]
    QueryText {
        /// The parameter.
        name: &'static str,
    },
    /// A query parameter of other lists, where pages go by `after`.
    #[error(
        "query parameter {name} is not for this list; leave it out, and give the last record of each page as after"
    )]
    QueryUnfit {
        /// The parameter.
        name: &'static str,
    },
    /// A query parameter that has to be there is not.
    #[error("query parameter {name} is missing; give {expected}")]
    QueryMissing {
        /// The parameter.
        name: &'static str,
        /// What it is.
        expected: &'static str,
    },
    /// A query parameter has a value that it may not have.
    #[error("query parameter {name} is {value:?}; it must be {expected}")]
    QueryValue {
        /// The parameter.
        name: &'static str,
        /// Its value, as far as it is passed on.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// The registry does not do it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The registry does not do it because of one entry of a list.
    #[error("{list}[{index}]: {error}")]
    Entry {
        /// The list, as the request calls it.
        list: &'static str,
        /// The place of the entry, from 0.
        index: usize,
        /// What is wrong with it.
        error: Box<ApiError>,
    },
    /// A list or an object of the body is too long.
    #[error("{what} has more than {max} entries; send at most {max} at once")]
    TooManyEntries {
        /// The list or object, as the request calls it, as far as that is passed on.
        what: String,
        /// Entries allowed.
        max: usize,
    },
    /// A list of ids is empty.
    #[error("deviceIds is empty; name at least one device")]
    NoDevices,
    /// Devices are named in both ways, or in none.
    #[error("name the devices either in deviceIds or by organisationId")]
    DevicesOrOrganisation,
    /// The organisation is no record id.
    #[error("organisationId must be {RECORD_ID}")]
    OrganisationId,
    /// All devices of an organisation are waited for.
    #[error("mode all needs deviceIds: of an organisation the first device that speaks is an answer; leave mode out")]
    AllOfOrganisation,
    /// Too many positions.
    #[error("after names {len} devices; name at most {max}")]
    TooManyPositions {
        /// Devices named.
        len: usize,
        /// Devices allowed.
        max: usize,
    },
    /// A key of `after` is no id.
    #[error("after has the key {name:?}: {error}")]
    AfterDevice {
        /// The key, as far as it is passed on.
        name: String,
        /// What is wrong with it.
        error: IdError,
    },
    /// A key of `after` is not in the list of ids.
    #[error("after has the key {0}, which deviceIds does not name; name it there too")]
    AfterUnnamed(DeviceId),
    /// Two keys of `after` are the same id.
    #[error("after has the device {0} twice, spelt in two ways; name it once")]
    AfterTwice(DeviceId),
    /// A value of `after` is no cursor.
    #[error("after of device {device}: {error}")]
    AfterCursor {
        /// The key.
        device: DeviceId,
        /// What is wrong with its value.
        error: IdError,
    },
    /// `mode` is none.
    #[error("mode is {0:?}; write any or all")]
    Mode(String),
    /// `timeoutMs` is out of range.
    #[error("timeoutMs must be a whole number of milliseconds from 0 to {max}")]
    TimeoutMs {
        /// The greatest value.
        max: u64,
    },
    /// `after` is no cursor.
    #[error("query parameter after: {0}")]
    QueryCursor(IdError),
    /// Nothing was heard of the device.
    #[error("nothing was heard of device {0} yet; its first packet can be waited for with waitForPacket")]
    NeverHeard(DeviceId),
    /// There is nothing to explain of the device.
    #[error("device {0} is not registered, was never heard, and nothing claims to be it; check the id")]
    UnknownDevice(DeviceId),
    /// The device is not registered.
    #[error(
        "device {0} is not registered; register it with POST /device, or with a [[device]] block in the configuration"
    )]
    NotRegistered(DeviceId),
    /// There is nothing to wait for, or no place to wait.
    #[error(transparent)]
    Wait(#[from] DeviceError),
    /// The same of an organisation.
    #[error(transparent)]
    WaitForOrganisation(#[from] OrganisationError),
    /// The credential has as many waits as it may, or all together where there are none.
    #[error("too many waits with the same credentials, or with none; end some, or try again later")]
    CredentialFull,
    /// The sender of a wait closed its side of the connection.
    #[error("a wait ends when the client closes its side of the connection; keep it open")]
    HalfClosed,
    /// As many connections are open as may be.
    #[error("too many connections; close some, share them, or try again later")]
    TooManyConnections,
    /// Bodies of as many bytes are on their way as may be.
    #[error("too many large requests and answers are on their way; try again later, or ask for less at once")]
    NoRoom,
    /// The answer is not there in time.
    #[error("the gateway is too busy to answer in time; try again later")]
    Slow,
    /// The same of a change, which may be made yet.
    #[error("the gateway is too busy to answer in time; see whether what was to be changed is, before you try again")]
    SlowChange,
    /// A request makes no message.
    #[error(transparent)]
    UnfitMessage(#[from] UnfitMessage),
    /// Parameters of a call cannot be packed.
    #[error("rpc.params: {0}")]
    Definition(#[from] DefinitionError),
    /// A message is not accepted.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The route that a message is bound to has moved.
    #[error("{}", SendError::RouteMoved { cursor: *cursor })]
    RouteMoved {
        /// The present position.
        cursor: Cursor,
        /// The present route.
        route: Option<Box<Route>>,
    },
    /// A message cannot be taken back any more.
    #[error("the message was sent already; only one that waits, or has expired, can be taken back")]
    AlreadySent,
    /// The gateway is shutting down.
    #[error("the gateway is shutting down; try again, or elsewhere")]
    ShuttingDown,
    /// A defect of the gateway.
    #[error("internal failure; the gateway's log says more")]
    Internal,
}

impl ApiError {
    /// A key of `after` that is no id.
    pub fn after_device(name: String, error: IdError) -> Self {
        Self::AfterDevice { name: quoted(name), error }
    }

    /// A query parameter with the value `text`, which it may not have.
    pub fn query(name: &'static str, text: &str, expected: String) -> Self {
        Self::QueryValue { name, value: quoted(text), expected }
    }

    /// What is wrong with the entry `index` of `list`.
    pub fn entry(list: &'static str, index: usize, error: impl Into<Self>) -> Self {
        Self::Entry { list, index, error: Box::new(error.into()) }
    }

    /// There is no such record; `id` is what the request calls it.
    pub fn no_record(kind: &'static str, id: impl ToString) -> Self {
        Self::Registry(RegistryError::NotFound { kind, id: quoted(id.to_string()) })
    }

    /// The route that a message is bound to has moved, and is `route` now.
    pub fn route_moved(cursor: Cursor, route: Option<Route>) -> Self {
        Self::RouteMoved { cursor, route: route.map(Box::new) }
    }

    /// A mode that is none.
    pub fn mode(name: String) -> Self {
        Self::Mode(quoted(name))
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Wait(DeviceError { error, .. }) => status_of_wait(error),
            Self::WaitForOrganisation(error) => status_of_organisation(error),
            Self::Registry(error) => status_of_registry(error),
            Self::Send(error) => status_of_send(error),
            Self::Entry { error, .. } => error.status(),
            Self::PathDevice(_)
            | Self::PathRecord
            | Self::BodyBroken
            | Self::Body(_)
            | Self::BodyDevice { .. }
            | Self::QueryTwice { .. }
            | Self::QueryText { .. }
            | Self::QueryUnfit { .. }
            | Self::QueryMissing { .. }
            | Self::QueryValue { .. }
            | Self::TimeoutMs { .. }
            | Self::QueryCursor(_)
            | Self::NoDevices
            | Self::DevicesOrOrganisation
            | Self::OrganisationId
            | Self::AllOfOrganisation
            | Self::AfterDevice { .. }
            | Self::AfterUnnamed(_)
            | Self::AfterTwice(_)
            | Self::AfterCursor { .. }
            | Self::Mode(_)
            | Self::UnfitMessage(_)
            | Self::Definition(_)
            | Self::HalfClosed => StatusCode::BAD_REQUEST,
            Self::Unauthorized | Self::ExpiredKey | Self::NoLongerGood | Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::HostName
            | Self::OtherOrigin
            | Self::TokenForNothing
            | Self::TokenOrganisation(_)
            | Self::ReadOnly
            | Self::OfOneOrganisation
            | Self::PublicNetwork
            | Self::ForeignOrganisation(_) => StatusCode::FORBIDDEN,
            Self::NoSuchPath
            | Self::PathText
            | Self::NeverHeard(_)
            | Self::UnknownDevice(_)
            | Self::NotRegistered(_)
            | Self::UnseenDevice(_) => StatusCode::NOT_FOUND,
            Self::WrongMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::RouteMoved { .. } | Self::AlreadySent => StatusCode::CONFLICT,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooManyPositions { .. } | Self::TooManyEntries { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::CredentialFull => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TooManyConnections | Self::NoRoom | Self::Slow | Self::SlowChange | Self::ShuttingDown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The body.
    pub fn view(&self) -> views::Error {
        let (cursor, last_route) = match self {
            Self::RouteMoved { cursor, route } => (Some(*cursor), route.as_deref().map(views::UplinkRoute::from)),
            _ => (None, None),
        };
        views::Error { code: self.status().as_u16(), message: self.to_string(), cursor, last_route }
    }

    /// Adds the headers that belong to the status.
    pub fn add_headers(&self, headers: &mut HeaderMap) {
        match self {
            Self::WrongMethod { allow } => {
                let allow = HeaderValue::from_str(allow).ok();
                headers.extend(allow.map(|allow| (ALLOW, allow)));
            }
            Self::Unauthorized | Self::ExpiredKey | Self::NoLongerGood | Self::Token(_) => {
                let schemes = r#"ApiKey realm="lastroute", Bearer realm="lastroute""#;
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(schemes));
            }
            Self::TooManyConnections
            | Self::NoRoom
            | Self::Slow
            | Self::CredentialFull
            | Self::Registry(RegistryError::Unavailable(_))
            | Self::Send(
                SendError::Full(_)
                | SendError::Stored
                | SendError::Busy
                | SendError::Registry(RegistryError::Unavailable(_)),
            )
            | Self::WaitForOrganisation(OrganisationError::Full(_))
            | Self::Wait(DeviceError { error: WaitError::Ended(Ended::Full(_)), .. }) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_BOUND_SECONDS));
            }
            Self::ShuttingDown => {
                headers.insert(RETRY_AFTER, HeaderValue::from(fastrand::u16(RETRY_SHUTDOWN_SECONDS)));
            }
            Self::Entry { error, .. } => error.add_headers(headers),
            _ => {}
        }
    }

    /// Whether the rest of the request cannot be read, so that the connection ends with this answer. HTTP/1.1 only:
    /// HTTP/2 ends a request alone.
    pub fn ends_connection(&self) -> bool {
        matches!(self, Self::BodyTooLarge { .. } | Self::BodyTimeout | Self::BodyBroken | Self::HalfClosed)
    }
}

const fn status_of_wait(error: &WaitError) -> StatusCode {
    match error {
        WaitError::AheadOfPresent { .. } => StatusCode::BAD_REQUEST,
        WaitError::NotRegistered | WaitError::Ended(Ended::Dismissed) => StatusCode::NOT_FOUND,
        WaitError::Ended(Ended::Full(full)) => status_of_full(*full),
    }
}

const fn status_of_organisation(error: &OrganisationError) -> StatusCode {
    match error {
        OrganisationError::NotOfIt(_) | OrganisationError::Deleted => StatusCode::NOT_FOUND,
        OrganisationError::Position(DeviceError { error, .. }) => status_of_wait(error),
        OrganisationError::Full(full) => status_of_full(*full),
    }
}

const fn status_of_send(error: &SendError) -> StatusCode {
    match error {
        // The client of the contract has no 404 here.
        SendError::UnknownDevice(_)
        | SendError::OfDevices(_)
        | SendError::NoRoute(_)
        | SendError::NoNetwork(_)
        | SendError::NoKey(_)
        | SendError::TooLong { .. } => StatusCode::BAD_REQUEST,
        SendError::RouteMoved { .. } => StatusCode::CONFLICT,
        SendError::Full(NoRoom::Device) => StatusCode::TOO_MANY_REQUESTS,
        SendError::Full(NoRoom::Total | NoRoom::Data) | SendError::Stored | SendError::Busy => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        SendError::Registry(error) => status_of_registry(error),
    }
}

const fn status_of_full(full: Full) -> StatusCode {
    match full {
        Full::Device | Full::Organisation => StatusCode::TOO_MANY_REQUESTS,
        Full::Total => StatusCode::SERVICE_UNAVAILABLE,
    }
}

const fn status_of_registry(error: &RegistryError) -> StatusCode {
    match error {
        RegistryError::NotFound { .. } => StatusCode::NOT_FOUND,
        RegistryError::Conflict(_) => StatusCode::CONFLICT,
        RegistryError::Rule(_) => StatusCode::UNPROCESSABLE_ENTITY,
        // Of the parameter `limit`.
        RegistryError::PageTooLong => StatusCode::BAD_REQUEST,
        RegistryError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// As much of a text as is passed on.
fn quoted(text: impl AsRef<str>) -> String {
    let mut text = one_line(text.as_ref());
    text.truncate(text.floor_char_boundary(MAX_QUOTED));
    text
}

/// The header that announces the end of an HTTP/1.1 connection.
pub(super) const CLOSE: (hyper::header::HeaderName, HeaderValue) = (CONNECTION, HeaderValue::from_static("close"));

impl From<Unfit> for ApiError {
    /// Parsers quote what they were given.
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Malformed(message) => Self::Body(quoted(message)),
            Unfit::TooMany { what, max } => Self::TooManyEntries { what: quoted(what), max },
        }
    }
}

impl From<Unroutable> for ApiError {
    fn from(unroutable: Unroutable) -> Self {
        match unroutable {
            Unroutable::Path => Self::NoSuchPath,
            Unroutable::Method { allow } => Self::WrongMethod { allow },
            Unroutable::Device(error) => Self::PathDevice(error),
            Unroutable::Record => Self::PathRecord,
            Unroutable::Text => Self::PathText,
        }
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
