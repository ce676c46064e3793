//! Waiting for packets: what a request asks for, and how its wait ends.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use crate::id::{Cursor, DeviceId};
use crate::wait::Waited;

use super::error::ApiError;
use super::handlers::{Answer, Call, add_cursor};
use super::metrics_text::WaitOutcome;
use super::{Api, views};

/// The longest wait: longer ones end at every proxy in between.
const MAX_WAIT_MS: u64 = 600_000;
/// The wait of a request that does not say.
const DEFAULT_WAIT_MS: u64 = 60_000;

impl Call<'_> {
    pub(super) async fn wait_for_packet(
        &self,
        id: DeviceId,
        query: Result<WaitQuery, ApiError>,
        http2: bool,
    ) -> Answer {
        let mut ending = Ending { api: self.api, outcome: WaitOutcome::Abandoned, begun: self.begun };
        let answer = self.wait(id, query, http2, &mut ending).await;
        if ending.outcome == WaitOutcome::Abandoned && !matches!(answer, Err(ApiError::HalfClosed)) {
            ending.outcome = WaitOutcome::Refused;
        }
        answer
    }

    async fn wait(
        &self,
        id: DeviceId,
        query: Result<WaitQuery, ApiError>,
        http2: bool,
        ending: &mut Ending<'_>,
    ) -> Answer {
        let query = query?;
        let limit = self.api.config.waits_per_credential;
        let _place = self.caller.place_to_wait(limit).ok_or(ApiError::CredentialFull)?;
        let mut shutdown = self.shutdown.clone();
        let gone = async {
            // HTTP/2 ends the request itself when the client resets it or leaves.
            if http2 { std::future::pending().await } else { self.peer.gone().await }
        };
        let waited = tokio::select! {
            biased;
            waited = self.api.waits.wait_for_packet(id, query.after, self.begun + query.timeout) => waited?,
            _ = shutdown.wait_for(|down| *down) => {
                ending.outcome = WaitOutcome::ShutDown;
                return Err(ApiError::ShuttingDown);
            }
            () = gone => return Err(ApiError::HalfClosed),
        };
        let (outcome, view) = match &waited {
            Waited::TimedOut { cursor } => {
                ending.outcome = WaitOutcome::TimedOut;
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::NO_CONTENT;
                add_cursor(response.headers_mut(), *cursor)?;
                return Ok(response);
            }
            Waited::Packet { snapshot, missed } => (WaitOutcome::Packet, views::Waited::packet(snapshot, *missed)),
            Waited::Reset { cursor, snapshot } => {
                (WaitOutcome::Reset, views::Waited::reset(id, *cursor, snapshot.as_ref()))
            }
        };
        ending.outcome = outcome;
        self.ok(&view)
    }
}

/// Counts a wait when it ends: a client that leaves drops it at any moment.
struct Ending<'a> {
    api: &'a Api,
    outcome: WaitOutcome,
    begun: Instant,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.api.metrics.wait(self.outcome, self.begun.elapsed());
    }
}

/// The query of a wait. Parameters this gateway does not know are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WaitQuery {
    timeout: Duration,
    after: Option<Cursor>,
}

impl WaitQuery {
    pub(super) fn parse(query: &str) -> Result<Self, ApiError> {
        let (mut timeout_ms, mut after) = (None, None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = || percent_decode_str(value).decode_utf8_lossy();
            match &*percent_decode_str(name).decode_utf8_lossy() {
                "timeoutMs" => once("timeoutMs", &mut timeout_ms, wait_ms(&value())?)?,
                "after" => once("after", &mut after, value().parse().map_err(ApiError::QueryCursor)?)?,
                _ => {}
            }
        }
        Ok(Self { timeout: Duration::from_millis(timeout_ms.unwrap_or(DEFAULT_WAIT_MS)), after })
    }
}

fn once<T>(name: &'static str, to: &mut Option<T>, value: T) -> Result<(), ApiError> {
    if to.replace(value).is_some() { Err(ApiError::QueryTwice { name }) } else { Ok(()) }
}

fn wait_ms(text: &str) -> Result<u64, ApiError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|value| digits && *value <= MAX_WAIT_MS);
    value.ok_or(ApiError::QueryTimeout { max: MAX_WAIT_MS })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IdError;

    fn parsed(query: &str) -> Result<(u128, Option<Cursor>), ApiError> {
        WaitQuery::parse(query).map(|query| (query.timeout.as_millis(), query.after))
    }

    #[test]
    fn a_wait_takes_60_s_unless_it_says_otherwise() {
        let cursor = Some(Cursor { epoch: 7, n: 42 });
        for (query, expected) in [
            ("", (60_000, None)),
            ("&&", (60_000, None)),
            ("timeoutMs=0", (0, None)),
            ("timeoutMs=600000&after=7-42", (600_000, cursor)),
            ("after=7%2D42&timeout%4ds=5", (5, cursor)),
            ("unknown=1&unknown=2&timeoutms=x", (60_000, None)),
        ] {
            assert_eq!(parsed(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn a_bad_query_is_refused_by_name() {
        for bad in ["timeoutMs", "timeoutMs=", "timeoutMs=-1", "timeoutMs=+1", "timeoutMs=600001", "timeoutMs=1.5"] {
            assert_eq!(parsed(bad), Err(ApiError::QueryTimeout { max: MAX_WAIT_MS }), "{bad}");
        }
        for bad in ["after", "after=", "after=7", "after=%ff"] {
            assert_eq!(parsed(bad), Err(ApiError::QueryCursor(IdError::Cursor)), "{bad}");
        }
        assert_eq!(parsed("timeoutMs=1&timeoutMs=1"), Err(ApiError::QueryTwice { name: "timeoutMs" }));
        assert_eq!(parsed("after=1-1&after=1-1"), Err(ApiError::QueryTwice { name: "after" }));
    }
}
