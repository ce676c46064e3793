//! The only place where an error of the core, or of a request, becomes a status, headers and a public message.

use std::ops::RangeInclusive;

use hyper::StatusCode;
use hyper::header::{ALLOW, CONNECTION, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};

use crate::id::{DeviceId, IdError};
use crate::wait::WaitError;
use crate::wait::many::DeviceError;
use crate::waiters::Full;

use super::router::Unroutable;
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
        allow: &'static str,
    },
    /// The path names no device.
    #[error("the path names no device: {0}")]
    PathDevice(IdError),
    /// No key, or none that is known.
    #[error(
        "credentials are missing or wrong; send Authorization: ApiKey <key>, Authorization: Bearer <key> or x-api-key: <key>"
    )]
    Unauthorized,
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
    /// A list of ids is too long.
    #[error("deviceIds names {len} devices; name at most {max} at once")]
    TooManyDevices {
        /// Ids named.
        len: usize,
        /// Ids allowed.
        max: usize,
    },
    /// A query parameter that is given twice.
    #[error("query parameter {name} is given more than once; give it once")]
    QueryTwice {
        /// The parameter.
        name: &'static str,
    },
    /// A list of ids is empty.
    #[error("deviceIds is empty; name at least one device")]
    NoDevices,
    /// Devices are named in both ways, or in none.
    #[error("name the devices either in deviceIds or by organisationId")]
    DevicesOrOrganisation,
    /// There is no registry.
    #[error("this gateway keeps no organisations yet; name the devices in deviceIds")]
    NoOrganisations,
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
    /// The device is not registered.
    #[error(
        "device {0} is not registered; add a [[device]] block with its id to the configuration and restart the gateway"
    )]
    NotRegistered(DeviceId),
    /// There is nothing to wait for, or no place to wait.
    #[error(transparent)]
    Wait(#[from] DeviceError),
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
    /// The gateway is shutting down.
    #[error("the gateway is shutting down; try again, or elsewhere")]
    ShuttingDown,
    /// A defect of the gateway.
    #[error("internal failure; the gateway's log says more")]
    Internal,
}

impl ApiError {
    /// A body that a parser refused for the reason `message`.
    pub fn body(message: String) -> Self {
        Self::Body(quoted(message))
    }

    /// A key of `after` that is no id.
    pub fn after_device(name: String, error: IdError) -> Self {
        Self::AfterDevice { name: quoted(name), error }
    }

    /// A mode that is none.
    pub fn mode(name: String) -> Self {
        Self::Mode(quoted(name))
    }

    /// The HTTP status.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Wait(DeviceError { error, .. }) => status_of_wait(error),
            Self::PathDevice(_)
            | Self::BodyBroken
            | Self::Body(_)
            | Self::BodyDevice { .. }
            | Self::QueryTwice { .. }
            | Self::TimeoutMs { .. }
            | Self::QueryCursor(_)
            | Self::NoDevices
            | Self::DevicesOrOrganisation
            | Self::AfterDevice { .. }
            | Self::AfterUnnamed(_)
            | Self::AfterTwice(_)
            | Self::AfterCursor { .. }
            | Self::Mode(_)
            | Self::HalfClosed => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NoSuchPath | Self::NeverHeard(_) | Self::NotRegistered(_) | Self::NoOrganisations => {
                StatusCode::NOT_FOUND
            }
            Self::WrongMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooManyDevices { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::CredentialFull => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TooManyConnections | Self::NoRoom | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The body.
    pub fn view(&self) -> views::Error {
        views::Error { code: self.status().as_u16(), message: self.to_string() }
    }

    /// Adds the headers that belong to the status.
    pub fn add_headers(&self, headers: &mut HeaderMap) {
        match self {
            Self::WrongMethod { allow } => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            Self::Unauthorized => {
                let schemes = r#"ApiKey realm="lastroute", Bearer realm="lastroute""#;
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(schemes));
            }
            Self::TooManyConnections
            | Self::NoRoom
            | Self::CredentialFull
            | Self::Wait(DeviceError { error: WaitError::Full(_), .. }) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_BOUND_SECONDS));
            }
            Self::ShuttingDown => {
                headers.insert(RETRY_AFTER, HeaderValue::from(fastrand::u16(RETRY_SHUTDOWN_SECONDS)));
            }
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
        WaitError::NotRegistered => StatusCode::NOT_FOUND,
        WaitError::Full(Full::Device) => StatusCode::TOO_MANY_REQUESTS,
        WaitError::Full(Full::Total) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// As much of a text as is passed on.
fn quoted(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_QUOTED));
    text
}

/// The header that announces the end of an HTTP/1.1 connection.
pub(super) const CLOSE: (hyper::header::HeaderName, HeaderValue) = (CONNECTION, HeaderValue::from_static("close"));

impl From<Unroutable> for ApiError {
    fn from(unroutable: Unroutable) -> Self {
        match unroutable {
            Unroutable::Path => Self::NoSuchPath,
            Unroutable::Method { allow } => Self::WrongMethod { allow },
            Unroutable::Device(error) => Self::PathDevice(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_code_of_the_body_is_the_status() {
        let wait = |error| ApiError::from(DeviceError { device: DeviceId(7), error });
        for (error, code) in [
            (ApiError::from(Unroutable::Path), 404),
            (ApiError::from(Unroutable::Method { allow: "POST" }), 405),
            (ApiError::from(Unroutable::Device(IdError::Device)), 400),
            (wait(WaitError::NotRegistered), 404),
            (wait(WaitError::Full(Full::Device)), 429),
            (wait(WaitError::Full(Full::Total)), 503),
            (ApiError::CredentialFull, 429),
            (ApiError::NoRoom, 503),
            (ApiError::ShuttingDown, 503),
        ] {
            let view = error.view();
            assert_eq!((view.code, error.status().as_u16()), (code, code), "{error}");
            let mut headers = HeaderMap::new();
            error.add_headers(&mut headers);
            assert_eq!(headers.contains_key(RETRY_AFTER), code == 429 || code == 503, "{error}");
        }
    }

    #[test]
    fn those_told_of_a_shutdown_come_back_at_different_times() {
        let seconds = (0..200).map(|_| {
            let mut headers = HeaderMap::new();
            ApiError::ShuttingDown.add_headers(&mut headers);
            headers[RETRY_AFTER].to_str().unwrap().to_owned()
        });
        assert_eq!(seconds.collect::<BTreeSet<_>>(), ["1", "2", "3", "4", "5"].map(str::to_owned).into());
    }

    #[test]
    fn a_parser_cannot_quote_a_whole_body() {
        let ApiError::Body(message) = ApiError::body("\u{e4}".repeat(5000)) else { panic!() };
        assert_eq!(message.len(), MAX_QUOTED);
    }
}
