//! Waiting for packets: how a wait is held, and how it ends.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, Pending, pending};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Request, Response};
use tokio::time::Instant;
use uuid::Uuid;

use crate::id::DeviceId;
use crate::wait::many::{DeviceError, Devices, ManyWaited, Mode};
use crate::wait::stream::Origin;
use crate::wait::{WaitError, Waited};

use super::access::WaitPlaces;
use super::call::Call;
use super::connection::Peer;
use super::error::ApiError;
use super::events::{Events, Followed, Interrupted};
use super::format::EVENTS;
use super::handlers::{Answer, Reply, add_cursor, at_once, no_content};
use super::metrics_text::{Metrics, WaitOutcome};
use super::outgoing::Content;
use super::wanted::{Kind, WaitQuery, Wanted, Whose};
use super::{Api, views};

/// With the value `no` nginx passes events on as they come.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The wait of a request that does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// The greatest part of a time-out that is taken off, so that clients which began together do not come back together.
const JITTER: f64 = 0.1;

/// What a request asks for that waits for a packet of one device.
pub(super) fn wait_of(request: &Request<Incoming>) -> (Result<WaitQuery, ApiError>, Kind) {
    (WaitQuery::parse(request.uri().query().unwrap_or_default()), Kind::of(request.headers()))
}

impl Call {
    pub(super) fn wait_for_packet(
        &self,
        id: DeviceId,
        (query, kind): (Result<WaitQuery, ApiError>, Kind),
    ) -> BoxFuture<'_, Answer> {
        if self.head && matches!(kind, Kind::Events(_)) && self.sees(id) {
            // There is nothing to follow, so that nobody is said to have left either.
            return at_once(query.map(|_| event_stream(Content::NoEvents)));
        }
        let ending = Ending::new(Arc::clone(&self.api), self.begun);
        match (self.seen(id).and(query), kind) {
            (Ok(query), Kind::Answer) => self.wait(id, query, ending),
            (Ok(query), Kind::Events(origin)) => Box::pin(self.follow_one(id, query, origin, ending)),
            (Err(error), _) => at_once(ending.settle(Err(error))),
        }
    }

    pub(super) async fn wait_for_packets(&self, request: Box<Request<Incoming>>) -> Answer {
        let mut ending = Ending::new(Arc::clone(&self.api), self.begun);
        let answer = self.wait_for_many(request, &mut ending).await;
        ending.settle(answer)
    }

    /// No async function, so that no more is kept meanwhile than what is needed then.
    fn wait(&self, id: DeviceId, query: WaitQuery, mut ending: Ending) -> BoxFuture<'_, Answer> {
        // What `HEAD` tells is not worth a wait.
        let timeout = if self.head { Duration::ZERO } else { query.timeout.unwrap_or(DEFAULT_WAIT) };
        let place = match self.places_for(timeout, 1) {
            Ok(place) => place,
            Err(error) => return at_once(ending.settle(Err(error))),
        };
        let (after, deadline) = (query.after, self.deadline(timeout));
        Box::pin(async move {
            let wait = pin!(self.api.waits.wait_for_packet(id, after, deadline));
            let waited = self.unless_interrupted(wait, &mut ending).await;
            drop(place);
            let answer = waited.and_then(|waited| self.told_of_one(id, waited, &mut ending));
            ending.settle(answer)
        })
    }

    fn told_of_one(&self, id: DeviceId, waited: Result<Waited, WaitError>, ending: &mut Ending) -> Answer {
        let waited = waited.map_err(|error| DeviceError { device: id, error })?;
        ending.set(outcome(&waited));
        match view(id, &waited) {
            Some(view) => self.ok(&view),
            None => {
                let mut response = no_content();
                add_cursor(response.headers_mut(), waited.cursor())?;
                Ok(response)
            }
        }
    }

    async fn follow_one(&self, id: DeviceId, query: WaitQuery, origin: Origin, mut ending: Ending) -> Answer {
        let devices = Devices::from_iter([(id, query.after)]);
        let answer = self.follow(&devices, query.timeout, origin, &mut ending).await;
        ending.settle(answer)
    }

    async fn wait_for_many(&self, request: Box<Request<Incoming>>, ending: &mut Ending) -> Answer {
        let kind = Kind::of(request.headers());
        let wanted = {
            let (body, _room) = self.body_of_wait(request).await?;
            Wanted::of(body, self.api.config.max_devices_per_request)?
        };
        let (devices, mode) = match wanted.whose {
            Whose::Devices(devices, mode) => (devices, mode),
            Whose::Organisation(id, after) => {
                return Box::pin(self.wait_for_organisation(id, &after, wanted.timeout, kind, ending)).await;
            }
        };
        devices.iter().try_for_each(|(id, _)| self.seen(id))?;
        if let Kind::Events(origin) = kind {
            return Box::pin(self.follow(&devices, wanted.timeout, origin, ending)).await;
        }
        self.wait_for_devices(&devices, mode, wanted.timeout.unwrap_or(DEFAULT_WAIT), ending).await
    }

    async fn wait_for_devices(&self, devices: &Devices, mode: Mode, timeout: Duration, ending: &mut Ending) -> Answer {
        let _places = self.places_for(timeout, devices.len())?;
        let deadline = self.deadline(timeout);
        let wait = pin!(self.api.waits.wait_for_packets(devices, mode, deadline));
        let waited = self.unless_interrupted(wait, ending).await??;
        Box::pin(self.told_of_many(waited, ending)).await
    }

    async fn wait_for_organisation(
        &self,
        id: Uuid,
        after: &Devices,
        timeout: Option<Duration>,
        kind: Kind,
        ending: &mut Ending,
    ) -> Answer {
        self.caller.reads_for(id)?;
        let number = self.number_of(id).await?;
        if let Kind::Events(origin) = kind {
            return Box::pin(self.follow_organisation(id, number, after, timeout, origin, ending)).await;
        }
        let timeout = timeout.unwrap_or(DEFAULT_WAIT);
        let _place = self.places_for(timeout, 1)?;
        let deadline = self.deadline(timeout);
        let wait = pin!(self.api.waits.wait_for_organisation(number, after, deadline));
        let waited = self.unless_interrupted(wait, ending).await??;
        Box::pin(self.told_of_many(waited, ending)).await
    }

    pub(super) async fn number_of(&self, organisation: Uuid) -> Result<u32, ApiError> {
        let number = self.api.registry.organisation_number(organisation).await?;
        number.ok_or_else(|| ApiError::no_record("organisation", organisation))
    }

    async fn told_of_many(&self, waited: ManyWaited, ending: &mut Ending) -> Answer {
        ending.set(outcome_of_many(&waited));
        let len = waited.packets.len() + waited.pending.len();
        if waited.packets.is_empty() {
            return Ok(no_content());
        }
        let told = move || {
            let packets = waited.packets.iter().filter_map(|(id, waited)| view(*id, waited)).collect();
            views::ManyWaited { packets, pending: waited.pending, timed_out: waited.timed_out }
        };
        self.list(len, told).await
    }

    /// Begins a stream of events. Boxed by its callers, so that those who wait for an answer do not keep room for it.
    async fn follow(
        &self,
        devices: &Devices,
        timeout: Option<Duration>,
        origin: Origin,
        ending: &mut Ending,
    ) -> Answer {
        let places = self.places(devices.len())?;
        let following = self.api.streams.follow(devices, origin, self.caller.number() as u64).await?;
        self.events(Followed::Devices(following), places, timeout, ending)
    }

    /// As [`Self::follow`]. No event of an earlier stream is remembered: whoever comes back is told so.
    async fn follow_organisation(
        &self,
        id: Uuid,
        number: u32,
        after: &Devices,
        timeout: Option<Duration>,
        origin: Origin,
        ending: &mut Ending,
    ) -> Answer {
        let places = self.places(1)?;
        let listening = self.api.waits.listen(number, after, origin != Origin::Devices).await?;
        // It may have been deleted before there was a place: nobody dismisses that one.
        self.number_of(id).await?;
        self.events(Followed::Organisation(id, Box::new(listening)), places, timeout, ending)
    }

    pub(super) fn events(
        &self,
        followed: Followed,
        places: WaitPlaces,
        timeout: Option<Duration>,
        ending: &mut Ending,
    ) -> Answer {
        if *self.shutdown().borrow() {
            ending.set(WaitOutcome::ShutDown);
            return Err(ApiError::ShuttingDown);
        }
        let deadline = timeout.map_or_else(|| self.expiry(), |timeout| Some(self.deadline(timeout)));
        let events = Events::new(followed, places, ending.hand_over(), self.interruption(), deadline);
        Ok(event_stream(Content::Events(Box::new(events))))
    }

    /// Who does not wait needs no place.
    pub(super) fn places_for(&self, timeout: Duration, count: usize) -> Result<Option<WaitPlaces>, ApiError> {
        if timeout.is_zero() { Ok(None) } else { self.places(count).map(Some) }
    }

    pub(super) fn places(&self, count: usize) -> Result<WaitPlaces, ApiError> {
        let limit = self.api.config.waits_per_credential;
        self.caller.places_to_wait(count, limit).ok_or(ApiError::CredentialFull)
    }

    /// When a wait ends: no later than the caller's credentials are good.
    pub(super) fn deadline(&self, timeout: Duration) -> Instant {
        let deadline = self.begun + shortened(timeout, fastrand::f64());
        self.expiry().map_or(deadline, |expiry| expiry.min(deadline))
    }

    /// When the caller's credentials expire: not before they do. A moment that no clock reaches is none.
    fn expiry(&self) -> Option<Instant> {
        let left = self.caller.expires_at()?.0.saturating_sub(self.api.clock.now().0);
        Instant::now().checked_add(Duration::from_millis(left))
    }

    /// Waits unless the gateway shuts down, or the client leaves, before. What came is for callers whose credentials are still
    /// good. The wait is borrowed, so that it is not kept twice.
    #[allow(clippy::manual_async_fn, reason = "an async function keeps its arguments twice")]
    pub(super) fn unless_interrupted<'a, T>(
        &'a self,
        mut wait: Pin<&'a mut impl Future<Output = T>>,
        ending: &'a mut Ending,
    ) -> impl Future<Output = Result<T, ApiError>> {
        let mut shutdown = self.shutdown().clone();
        async move {
            tokio::select! {
                biased;
                waited = &mut wait => self.caller.is_still_good(self.api.clock.now()).map(|()| waited),
                _ = shutdown.wait_for(|down| *down) => {
                    ending.set(WaitOutcome::ShutDown);
                    Err(ApiError::ShuttingDown)
                }
                () = gone(self.peer(), self.http2) => Err(ApiError::HalfClosed),
            }
        }
    }

    /// The same for a stream, which outlives this call, and which ends when its credential is taken back.
    fn interruption(&self) -> Interrupted {
        let (mut shutdown, peer, http2) = (self.shutdown().clone(), Arc::clone(self.peer()), self.http2);
        let revoked = self.caller.revoked();
        Box::pin(async move {
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|down| *down) => WaitOutcome::ShutDown,
                () = revoked => WaitOutcome::Refused,
                () = gone(&peer, http2) => WaitOutcome::Abandoned,
            }
        })
    }
}

/// Returns once the client has left, where hyper does not notice: HTTP/2 ends the request itself when the client resets it or
/// leaves. Boxed, so that waits over HTTP/2 keep no room for it.
fn gone(peer: &Peer, http2: bool) -> Either<Pending<()>, BoxFuture<'_, ()>> {
    if http2 { Either::Left(pending()) } else { Either::Right(Box::pin(peer.gone())) }
}

/// Counts a wait when it ends: a client that leaves drops it at any moment.
pub(super) struct Ending {
    api: Arc<Api>,
    begun: Instant,
    /// `None` once another one counts it.
    outcome: Option<WaitOutcome>,
}

impl Ending {
    pub(super) fn new(api: Arc<Api>, begun: Instant) -> Self {
        Self { api, begun, outcome: Some(WaitOutcome::Abandoned) }
    }

    /// How the wait ends.
    pub(super) fn set(&mut self, outcome: WaitOutcome) {
        self.outcome = Some(outcome);
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.api.metrics
    }

    /// It was no wait.
    pub(super) const fn forget(&mut self) {
        self.outcome = None;
    }

    /// The wait goes on beyond its request: whoever has what is returned counts it.
    fn hand_over(&mut self) -> Self {
        Self { api: Arc::clone(&self.api), begun: self.begun, outcome: self.outcome.take() }
    }

    /// The wait ended with `answer`: whatever else it is, it was not abandoned.
    pub(super) fn settle(mut self, answer: Answer) -> Answer {
        if self.outcome == Some(WaitOutcome::Abandoned) && !matches!(answer, Err(ApiError::HalfClosed)) {
            self.set(WaitOutcome::Refused);
        }
        answer
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            self.api.metrics.wait(outcome, self.begun.elapsed());
        }
    }
}

/// A time-out less a tenth of it at most: `share` of that, from 0 to 1.
fn shortened(timeout: Duration, share: f64) -> Duration {
    timeout.mul_f64(1.0 - JITTER * share)
}

const fn outcome(waited: &Waited) -> WaitOutcome {
    match waited {
        Waited::Packet { .. } => WaitOutcome::Packet,
        Waited::Reset { .. } => WaitOutcome::Reset,
        Waited::TimedOut { .. } => WaitOutcome::TimedOut,
    }
}

/// A wait for all that got some is one that timed out, as its answer says.
fn outcome_of_many(waited: &ManyWaited) -> WaitOutcome {
    let mut outcomes = waited.packets.iter().map(|(_, waited)| outcome(waited));
    if waited.timed_out {
        WaitOutcome::TimedOut
    } else if outcomes.any(|outcome| outcome == WaitOutcome::Packet) {
        WaitOutcome::Packet
    } else {
        WaitOutcome::Reset
    }
}

/// What is told of a device; `None` if nothing came.
pub(super) fn view(id: DeviceId, waited: &Waited) -> Option<views::Waited> {
    match waited {
        Waited::Packet { snapshot, missed } => Some(views::Waited::packet(snapshot, *missed)),
        Waited::Reset { cursor, snapshot } => Some(views::Waited::reset(id, *cursor, snapshot.as_ref())),
        Waited::TimedOut { .. } => None,
    }
}

pub(super) fn event_stream(content: Content) -> Reply {
    let mut response = Response::new(content);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    response.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_is_shortened_by_a_tenth_at_most_and_never_lengthened() {
        let minute = Duration::from_secs(60);
        assert_eq!((shortened(minute, 0.0), shortened(Duration::ZERO, 0.7)), (minute, Duration::ZERO));
        let mut random = fastrand::Rng::with_seed(7);
        let waits: Vec<_> = (0..1000).map(|_| shortened(minute, random.f64())).collect();
        assert!(waits.iter().all(|wait| (Duration::from_secs(54)..=minute).contains(wait)), "{waits:?}");
        for second in 54..60 {
            let within = Duration::from_secs(second)..Duration::from_secs(second + 1);
            let share = waits.iter().filter(|wait| within.contains(wait)).count();
            assert!((100..250).contains(&share), "{share} of 1000 in second {second}, a sixth is even");
        }
    }
}
