//! Why a gateway does not answer as asked, in words that say what to do.

use std::time::Duration;

/// Why there is no answer. One line: which address, what happened, what to do. Never holds the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The address is none that can be asked.
    #[error("{address:?} is not the address of a gateway's API: {problem}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// The API key cannot be sent.
    #[error("the API key has characters that no request can carry; give the key as it stands in the gateway's file")]
    Key,
    /// No connection.
    #[error("cannot reach {address}: {reason}; is the gateway running there? name its API with --gateway-api")]
    Unreachable {
        /// The gateway.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// Not done in time.
    #[error("{address} did not answer within {timeout:?}; see that it is the address of the API and can be reached")]
    TimedOut {
        /// The gateway.
        address: String,
        /// The time it had.
        timeout: Duration,
    },
    /// The connection broke, or brought something else than HTTP.
    #[error("no whole answer from {address}: {reason}; see that it is the plain HTTP address of the gateway's API")]
    Broken {
        /// The gateway.
        address: String,
        /// What happened.
        reason: String,
    },
    /// 401: a key is missing or wrong.
    #[error("{address} {}", unauthorized(.refusal.as_deref()))]
    Unauthorized {
        /// The gateway.
        address: String,
        /// What it says of the key, if one was sent.
        refusal: Option<String>,
    },
    /// 404 of what every gateway of this version has.
    #[error(
        "{address} has no {path}; it is an older gateway, which knows only /metrics, or none: update it, or name \
         another with --gateway-api"
    )]
    Missing {
        /// The gateway.
        address: String,
        /// What was asked for.
        path: String,
    },
    /// Sends elsewhere.
    #[error("{address} redirects to {location:?}; redirects are not followed: name the gateway itself, without TLS")]
    Redirect {
        /// The gateway.
        address: String,
        /// Where to.
        location: String,
    },
    /// Any other status.
    #[error("{address}{path} answered {status}: {message}")]
    Status {
        /// The gateway.
        address: String,
        /// What was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What the gateway says of it.
        message: String,
    },
    /// More bytes than are read.
    #[error("{address}{path} answered more than {max} bytes; see that it is the address of a gateway's API")]
    TooLong {
        /// The gateway.
        address: String,
        /// What was asked for.
        path: String,
        /// Bytes that would have been read.
        max: usize,
    },
    /// A body of another form.
    #[error(
        "{address}{path} answered something else than expected: {reason}; use the gateway's own version of lastroute"
    )]
    Malformed {
        /// The gateway.
        address: String,
        /// What was asked for.
        path: String,
        /// Where the body differs.
        reason: String,
    },
}

fn unauthorized(refusal: Option<&str>) -> String {
    match refusal {
        Some(reason) => format!("refuses this API key: {reason}; give another with --api-key-file"),
        None => "asks for an API key; give one with --api-key-file".to_owned(),
    }
}
