//! One request from its head to its answer: what it asks for and who asks, and what goes back, whatever becomes of it.

use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use futures_util::future::BoxFuture;
use hyper::body::{Body, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderValue, VARY};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::access::{Admission, Bearer, Caller};
use super::connection::{InFlight, Peer};
use super::error::{self, ApiError};
use super::format::Format;
use super::handlers::{Answer, Reply, encoded};
use super::look_up::{Answering, LookUp};
use super::outgoing::{Content, Outgoing, Room, Taken};
use super::router::{Endpoint, Matched, Needs, UNMATCHED};
use super::waiting::wait_of;
use super::{Api, Surface, origin};

/// What hyper gets for a request.
pub(super) type Outcome = Result<Response<Outgoing>, Infallible>;

/// A request that is routed, with what its answer depends on.
pub(super) struct Call {
    pub(super) api: Arc<Api>,
    surface: Arc<Surface>,
    in_flight: InFlight,
    /// Anyone, until the request is admitted.
    pub(super) caller: Caller,
    template: &'static str,
    needs: Needs,
    pub(super) format: Format,
    pub(super) http2: bool,
    /// Whether only the headers are asked for, by `HEAD`.
    pub(super) head: bool,
    has_body: bool,
    pub(super) begun: Instant,
    /// Room for the body, which what became of it needs until the answer.
    pub(super) held: OnceLock<Taken>,
}

impl Surface {
    /// Answers a request. Who waits may do so by the hundred thousand: all futures on the way are boxed, each no larger than
    /// what it still needs, and the request is given up before the wait begins.
    pub(super) fn respond(self: Arc<Self>, peer: &Arc<Peer>, request: Request<Incoming>) -> Answering {
        // All this runs as part of the connection: over HTTP/2 a panic would end other requests, too.
        let (template, needs, endpoint) = self.routed(&request);
        if let Ok(Endpoint::LastRoute(id)) = &endpoint {
            self.api.table.aim(*id);
        }
        let admitted = caught(|| self.admit(needs, &request));
        if let (Ok(Endpoint::LastRoute(id)), Ok(Admission::Caller(caller))) = (&endpoint, &admitted)
            && caller.meets(needs).is_ok()
            && let Ok(Some(look_up)) = caught(|| Ok(LookUp::of(&self, peer, *id, caller, &request)))
        {
            return Answering::LastRoute(Some(look_up));
        }
        let call = Call::new(self, peer, template, needs, &request);
        Answering::Other(match admitted {
            Ok(Admission::Caller(caller)) => call.admitted(caller, endpoint, request),
            Ok(Admission::Token(bearer)) => Box::pin(call.of_bearer(bearer, endpoint, Box::new(request))),
            Err(error) => Box::pin(ready(call.finish(Err(error)))),
        })
    }

    fn routed(&self, request: &Request<Incoming>) -> (&'static str, Needs, Result<Endpoint, ApiError>) {
        match caught(|| Ok(self.router.resolve(request.method(), request.uri().path()))) {
            Ok(Matched { template, needs, endpoint }) => (template, needs, endpoint.map_err(ApiError::from)),
            Err(error) => (UNMATCHED, Needs::Read, Err(error)),
        }
    }

    /// Whom the request comes from, if it is all right so far.
    fn admit(&self, needs: Needs, request: &Request<Incoming>) -> Result<Admission, ApiError> {
        let (len, max) = (head_len(request), self.api.config.max_head);
        if len > max {
            return Err(ApiError::HeadTooLarge { len, max });
        }
        if self.open || needs == Needs::Nothing {
            return Ok(Admission::Caller(Caller::anyone()));
        }
        if let Some(everybody) = self.api.access.everybody() {
            origin::check(request)?;
            return Ok(Admission::Caller(everybody));
        }
        self.api.access.admit(request.headers(), self.api.clock.now())
    }

    async fn bearer(&self, bearer: Bearer) -> Result<Caller, ApiError> {
        let number = self.api.registry.organisation_number(bearer.organisation()).await?;
        bearer.of(number)
    }

    fn with_room(&self, reply: Reply) -> Result<(Reply, Option<Taken>), ApiError> {
        let room = self.room.take_for_answer(reply.body().len().unwrap_or(0)).ok_or(ApiError::NoRoom)?;
        Ok((reply, room))
    }

    /// What was done is told in any case: in the room that the body had, if there is no other.
    fn with_room_after_change(&self, reply: Reply, held: Option<Taken>) -> (Reply, Option<Taken>) {
        let room = self.room.take_for_answer(reply.body().len().unwrap_or(0)).unwrap_or(held);
        (reply, room)
    }
}

impl Call {
    pub(super) fn new(
        surface: Arc<Surface>,
        peer: &Arc<Peer>,
        template: &'static str,
        needs: Needs,
        request: &Request<impl Body>,
    ) -> Self {
        Self {
            api: Arc::clone(&surface.api),
            surface,
            in_flight: peer.begin(request.version()),
            caller: Caller::anyone(),
            template,
            needs,
            format: Format::accepted(request.headers()),
            http2: request.version() == Version::HTTP_2,
            head: request.method() == Method::HEAD,
            has_body: !request.body().is_end_stream(),
            begun: Instant::now(),
            held: OnceLock::new(),
        }
    }

    pub(super) fn peer(&self) -> &Arc<Peer> {
        self.in_flight.peer()
    }

    pub(super) fn room(&self) -> &Room {
        &self.surface.room
    }

    /// Whether the gateway shuts down.
    pub(super) fn shutdown(&self) -> &watch::Receiver<bool> {
        &self.surface.shutdown
    }

    async fn of_bearer(
        self,
        bearer: Bearer,
        endpoint: Result<Endpoint, ApiError>,
        request: Box<Request<Incoming>>,
    ) -> Outcome {
        let by = self.begun + self.api.config.request_timeout;
        let caller = timeout_at(by, self.surface.bearer(bearer)).await.unwrap_or(Err(ApiError::Slow));
        let answered = match caller {
            Ok(caller) => self.admitted(caller, endpoint, *request),
            Err(error) => return self.finish(Err(error)),
        };
        answered.await
    }

    fn admitted(
        mut self,
        caller: Caller,
        endpoint: Result<Endpoint, ApiError>,
        request: Request<Incoming>,
    ) -> BoxFuture<'static, Outcome> {
        self.caller = caller;
        match endpoint.and_then(|endpoint| self.caller.meets(self.needs).map(|()| endpoint)) {
            // These come by the hundred, and nothing of them is kept until their tasks run.
            Ok(Endpoint::WaitForPacket(id)) => {
                let wanted = Box::new(wait_of(&request));
                Box::pin(self.answered(move |call: &Self| call.wait_for_packet(id, *wanted)))
            }
            Ok(endpoint) => {
                let request = Box::new(request);
                Box::pin(self.answered(move |call: &Self| call.answer(endpoint, request)))
            }
            Err(error) => Box::pin(ready(self.finish(Err(error)))),
        }
    }

    #[allow(clippy::manual_async_fn, reason = "an async function keeps its arguments twice")]
    fn answered<B>(self, begin: B) -> impl Future<Output = Outcome> + Send
    where
        B: FnOnce(&Self) -> BoxFuture<'_, Answer> + Send,
    {
        async move {
            let answer = unwound(|| begin(&self)).await;
            self.finish(answer)
        }
    }

    fn finish(self, answer: Answer) -> Outcome {
        let Self { surface, in_flight, template, needs, format, http2, head, held, .. } = self;
        if self.has_body && answer.is_err() {
            in_flight.peer().refuse_body();
        }
        let held = held.into_inner();
        let with_room = match answer {
            Ok(reply) if needs.changes() => Ok(surface.with_room_after_change(reply, held)),
            Err(ApiError::Slow) if needs.changes() => Err(ApiError::SlowChange),
            answer => {
                drop(held);
                answer.and_then(|reply| surface.with_room(reply))
            }
        };
        let (mut reply, room) = with_room.unwrap_or_else(|error| (refusal(&error, format, http2), None));
        surface.api.metrics.request(template, reply.status());
        finish(&mut reply, head);
        Ok(reply.map(|body| Outgoing::new(body, room, in_flight, http2)))
    }
}

/// Bytes of the parts of a request that name things: path and query, header names and values.
fn head_len(request: &Request<Incoming>) -> usize {
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    target + headers.sum::<usize>()
}

pub(super) fn refusal(error: &ApiError, format: Format, http2: bool) -> Reply {
    let mut reply = encoded(format, &error.view()).unwrap_or_default();
    *reply.status_mut() = error.status();
    error.add_headers(reply.headers_mut());
    if error.ends_connection() && !http2 {
        let (name, value) = error::CLOSE;
        reply.headers_mut().insert(name, value);
    }
    reply
}

/// Headers of every answer, and the empty body of an answer to `HEAD`.
pub(super) fn finish(reply: &mut Reply, head: bool) {
    reply.headers_mut().insert(CACHE_CONTROL, const { HeaderValue::from_static("no-store") });
    reply.headers_mut().insert(VARY, const { HeaderValue::from_static("accept") });
    if head && reply.status() != StatusCode::NO_CONTENT {
        if let Some(len) = reply.body().len() {
            reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
        }
        *reply.body_mut() = Content::default();
    }
}

/// Runs a handler; one that panics fails alone, whether it does so when it begins or later.
fn unwound<'a, T: Send + 'a>(
    begin: impl FnOnce() -> BoxFuture<'a, Result<T, ApiError>>,
) -> impl Future<Output = Result<T, ApiError>> {
    let mut handler = caught(|| Ok(begin())).unwrap_or_else(|error| Box::pin(ready(Err(error))));
    poll_fn(move |cx| match caught(|| Ok(handler.as_mut().poll(cx))) {
        Ok(polled) => polled,
        Err(error) => Poll::Ready(Err(error)),
    })
}

/// What takes no waiting, in the same way.
pub(super) fn caught<T>(work: impl FnOnce() -> Result<T, ApiError>) -> Result<T, ApiError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> ApiError {
    tracing::error!("a request handler panicked; the message is on standard error");
    ApiError::Internal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_waits_takes_little() {
        type Begin = fn(&Call) -> BoxFuture<'_, Answer>;
        fn size<F: Future>(_: impl Fn(Call, Begin) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(Call::answered::<Begin>);
        assert!(size <= 320, "{size} bytes");
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_an_internal_failure() {
        let at_once = || if std::hint::black_box(true) { panic!("as intended") } else { later() };
        fn later() -> BoxFuture<'static, Result<(), ApiError>> {
            Box::pin(async {
                tokio::task::yield_now().await;
                assert!(std::hint::black_box(false), "as intended");
                Ok(())
            })
        }
        assert_eq!(unwound(at_once).await, Err(ApiError::Internal));
        assert_eq!(unwound(later).await, Err(ApiError::Internal));
        assert_eq!(unwound(|| Box::pin(ready(Ok(7)))).await, Ok(7));
    }
}
