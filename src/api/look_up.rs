//! The last route of a device, which is asked for most, as far as it can be told without what other requests need: to `GET`, in
//! JSON, to somebody who may know of the device. All else, and all that is no answer but an error, is as with other requests.
//!
//! It is looked up when hyper asks for the answer, so that over HTTP/2 requests that came in together do not fill the caches
//! with answers that nobody takes yet.

use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Version};

use super::Surface;
use super::access::Caller;
use super::call::{Outcome, caught, finish, refusal};
use super::connection::{InFlight, Peer};
use super::error::ApiError;
use super::format::Format;
use super::handlers::{LASTROUTE_CURSOR, LASTROUTE_TRUST, Reply, cursor_header, json};
use super::outgoing::{Outgoing, Whole};
use super::router::LAST_ROUTE;
use crate::id::DeviceId;
use crate::records::route::{UplinkRoute, direct_json};
use crate::table::route::Route;

/// What becomes of a request.
pub(super) enum Answering {
    /// The last route is looked up at once. `None`: it was told.
    LastRoute(Option<LookUp>),
    /// Anything else.
    Other(BoxFuture<'static, Outcome>),
}

/// A request for the last route of a device. It is kept where every request that waits has room for it: it is small.
pub(super) struct LookUp {
    surface: Arc<Surface>,
    in_flight: InFlight,
    id: DeviceId,
    http2: bool,
}

/// Headers of the answer with no values yet for those that depend on it: cheaper to copy than to put together. They have room for
/// those that hyper adds.
static HEADERS: LazyLock<HeaderMap> = LazyLock::new(headers);
/// The headers whose values depend on what is told, and how many there are before them.
const TOLD: [HeaderName; 2] = [LASTROUTE_CURSOR, LASTROUTE_TRUST];
const BEFORE_TOLD: usize = 1;
/// Headers of the answer, with the date and the length, which hyper adds.
const ALL_HEADERS: usize = 7;

impl LookUp {
    /// `None` if it takes more to answer.
    pub(super) fn of(
        surface: &Arc<Surface>,
        peer: &Arc<Peer>,
        id: DeviceId,
        caller: &Caller,
        request: &Request<Incoming>,
    ) -> Option<Self> {
        let plain = request.method() == Method::GET && request.body().is_end_stream();
        if !plain || Format::accepted(request.headers()) != Format::Json || !surface.api.sees(caller, id) {
            return None;
        }
        surface.api.table.fetch(id);
        let (surface, in_flight) = (Arc::clone(surface), peer.begin(request.version()));
        Some(Self { surface, in_flight, id, http2: request.version() == Version::HTTP_2 })
    }

    fn answer(self) -> Outcome {
        // Before the record is looked at, which may still be on its way from memory.
        let mut headers = HEADERS.clone();
        let metrics = &self.surface.api.metrics;
        match caught(|| self.look_up(&mut headers)) {
            Ok(body) => {
                metrics.last_route_told();
                let mut response = Response::new(Outgoing::whole(body, None, self.in_flight, self.http2));
                *response.headers_mut() = headers;
                Ok(response)
            }
            Err(error) => {
                let mut reply = refusal(&error, Format::Json, self.http2);
                metrics.request(LAST_ROUTE, reply.status());
                finish(&mut reply, false);
                Ok(reply.map(|body| Outgoing::new(body, None, self.in_flight, self.http2)))
            }
        }
    }

    /// The body; sets what is to be told beside it.
    fn look_up(&self, headers: &mut HeaderMap) -> Result<Whole, ApiError> {
        let (route, cursor) = self.surface.api.table.last_route(self.id).ok_or(ApiError::NeverHeard(self.id))?;
        let told = [cursor_header(cursor)?, HeaderValue::from_static(route.trust().name())];
        // In the order of the names.
        headers.values_mut().skip(BEFORE_TOLD).zip(told).for_each(|(value, told)| *value = told);
        Ok(match &route {
            Route::Direct(route) => Whole::Short(direct_json(route)),
            Route::Relayed(_) => Whole::Bytes(json(&UplinkRoute::from(&route))?.into()),
        })
    }
}

fn headers() -> HeaderMap {
    let mut reply = Reply::default();
    *reply.headers_mut() = HeaderMap::with_capacity(ALL_HEADERS);
    reply.headers_mut().insert(CONTENT_TYPE, Format::Json.content_type_header());
    for name in TOLD {
        reply.headers_mut().insert(name, const { HeaderValue::from_static("") });
    }
    finish(&mut reply, false);
    std::mem::take(reply.headers_mut())
}

impl Future for Answering {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.get_mut() {
            Self::LastRoute(look_up) => look_up.take().map_or(Poll::Pending, |look_up| Poll::Ready(look_up.answer())),
            Self::Other(answer) => answer.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_headers_are_those_of_every_answer_and_its_own_in_one_order() {
        let names: Vec<_> = HEADERS.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "lastroute-cursor", "lastroute-trust", "cache-control", "vary"]);
        assert_eq!(HEADERS.keys().skip(BEFORE_TOLD).take(2).collect::<Vec<_>>(), TOLD.each_ref());
        assert_eq!(
            (HEADERS["cache-control"].as_bytes(), HEADERS["vary"].as_bytes()),
            (&b"no-store"[..], &b"accept"[..])
        );
    }

    #[test]
    fn a_request_that_waits_takes_no_more_for_it() {
        assert!(size_of::<Answering>() <= 48, "{}", size_of::<Answering>());
    }
}
