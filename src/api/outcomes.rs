//! What becomes of messages: waiting for it, and following it.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hyper::Request;
use hyper::body::Incoming;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use uuid::Uuid;

use crate::dispatch::Outcome;
use crate::id::{DeviceId, EventId};

use super::Api;
use super::call::Call;
use super::events::{Followed, RESET, Told};
use super::format::Format;
use super::handlers::{Answer, query};
use super::messages::event_name;
use super::metrics_text::WaitOutcome;
use super::outgoing::Content;
use super::query::Query;
use super::rpc::Sort;
use super::views;
use super::waiting::{Ending, event_stream};
use super::wanted::comes_back;

impl Call {
    /// `GET /rpc/{id}?timeoutMs=` and `GET /downlink/{id}?timeoutMs=`.
    pub(super) async fn wait_for_outcome(&self, sort: Sort, id: Uuid, timeout: Duration) -> Answer {
        let mut ending = Ending::new(Arc::clone(&self.api), self.begun);
        let answer = self.outcome(sort, id, timeout, &mut ending).await;
        ending.settle(answer)
    }

    async fn outcome(&self, sort: Sort, id: Uuid, timeout: Duration, ending: &mut Ending) -> Answer {
        let message = self.visible_message(sort, id).await?;
        // What `HEAD` tells is not worth a wait.
        let timeout = if self.head { Duration::ZERO } else { timeout };
        let _place = self.places_for(timeout, 1)?;
        let deadline = self.deadline(timeout);
        let wait = Box::pin(self.api.dispatch.wait_for_outcome(message, deadline));
        let message = self.unless_interrupted(std::pin::pin!(wait), ending).await??;
        ending.set(if Instant::now() < deadline { WaitOutcome::Outcome } else { WaitOutcome::TimedOut });
        let message = message.filter(|message| self.sees_message(sort, message));
        self.shown(sort, &message.ok_or_else(|| sort.missing(id))?)
    }

    /// `GET /rpc` with `Accept: text/event-stream`.
    pub(super) async fn follow_outcomes(&self, request: Box<Request<Incoming>>) -> Answer {
        let mut ending = Ending::new(Arc::clone(&self.api), self.begun);
        let answer = self.outcomes(&request, &mut ending).await;
        ending.settle(answer)
    }

    async fn outcomes(&self, request: &Request<Incoming>, ending: &mut Ending) -> Answer {
        let (organisation, device) = followed(&query(request))?;
        let organisation = match self.whose_messages(organisation)? {
            Some(id) => Some(self.number_of(id).await?),
            None => None,
        };
        if self.head {
            ending.forget();
            return Ok(event_stream(Content::NoEvents));
        }
        let places = self.places(1)?;
        let outcomes = Outcomes::new(Arc::clone(&self.api), organisation, device, comes_back(request.headers()));
        self.events(Followed::Outcomes(Box::new(outcomes)), places, None, ending)
    }
}

/// The organisation and the device whose messages are followed. What else lists are limited by is refused: who counts on it
/// would be told more than he can use.
pub(super) fn followed(query: &Query<'_>) -> Result<(Option<Uuid>, Option<DeviceId>), super::error::ApiError> {
    query.goes_by_events()?;
    Ok((query.record("organisationId")?, query.device()?))
}

/// What happens to calls from now on, as one follower is told of it.
pub(super) struct Outcomes {
    api: Arc<Api>,
    organisation: Option<u32>,
    device: Option<DeviceId>,
    /// `None` in it: some were missed.
    happening: BoxStream<'static, Option<Outcome>>,
    /// The id of the last event.
    id: EventId,
    /// Whether those before are to be said to be missed.
    missed: bool,
    closed: bool,
}

impl Outcomes {
    /// Those of messages to the devices of `organisation`, or of all, and to `device`, or to all. `missed`: the follower was
    /// here before, and nobody knows what happened since.
    fn new(api: Arc<Api>, organisation: Option<u32>, device: Option<DeviceId>, missed: bool) -> Self {
        let happening = stream::unfold(api.dispatch.outcomes(), |mut outcomes| async move {
            match outcomes.recv().await {
                Ok(outcome) => Some((outcome, outcomes)),
                Err(RecvError::Lagged(_)) => Some((None, outcomes)),
                Err(RecvError::Closed) => None,
            }
        });
        let id = EventId { stream: fastrand::u64(..), n: 0 };
        Self { api, organisation, device, happening: happening.boxed(), id, missed, closed: false }
    }

    /// The id that comes before that of the first event.
    pub(super) const fn first_id(&self) -> EventId {
        self.id
    }

    /// From now on nothing more is told.
    pub(super) const fn close(&mut self) {
        self.closed = true;
    }

    /// The next event; `None` at the end.
    pub(super) fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<Option<(EventId, Told)>> {
        if std::mem::take(&mut self.missed) {
            return Poll::Ready(Some(self.reset()));
        }
        while !self.closed {
            let told = match self.happening.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => break,
                Poll::Ready(Some(None)) => Some(self.reset()),
                Poll::Ready(Some(Some(outcome))) => self.told(&outcome),
            };
            if told.is_some() {
                return Poll::Ready(told);
            }
        }
        Poll::Ready(None)
    }

    fn reset(&mut self) -> (EventId, Told) {
        (self.next_id(), (RESET, Format::Json.encode(&views::Missed { reset: true }).ok()))
    }

    /// `None` if the follower is not to be told of it.
    fn told(&mut self, outcome: &Outcome) -> Option<(EventId, Told)> {
        let Outcome { organisation, message, .. } = outcome;
        let concerns = self.organisation.is_none_or(|followed| followed == *organisation)
            && self.device.is_none_or(|followed| followed == message.device.device_id);
        let name = event_name(outcome).filter(|_| concerns)?;
        let view = self.api.call_view(message)?;
        Some((self.next_id(), (name, Format::Json.encode(&view).ok())))
    }

    const fn next_id(&mut self) -> EventId {
        self.id.n += 1;
        self.id
    }
}

impl fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outcomes({:?}, {:?})", self.organisation, self.device)
    }
}
