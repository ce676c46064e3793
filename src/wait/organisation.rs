//! Waiting for a packet of any device of an organisation, once or for as long as somebody listens.
//!
//! An organisation may have millions of devices, so none is looked at before it speaks: which ones do is read from the feed of
//! the organisation, and what they said from the table. Whose registration ended, or is for another organisation by then, is
//! passed over.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::Stream;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use crate::id::{Cursor, DeviceId, EventId};
use crate::waiters::feeds::{KEPT, Listener, Read, Said};
use crate::waiters::{Ended, Full, Subject, Waiters};

use super::many::{DeviceError, Devices, ManyWaited};
use super::{PacketWaits, Waited};

/// Why nothing of an organisation can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrganisationError {
    /// A position is that of a device which is not registered for the organisation.
    #[error("device {0} is not registered for this organisation; leave it out of after")]
    NotOfIt(DeviceId),
    /// A position is none that the device has had.
    #[error(transparent)]
    Position(#[from] DeviceError),
    /// There is no place to wait.
    #[error(transparent)]
    Full(#[from] Full),
    /// The organisation was deleted meanwhile.
    #[error("the organisation was deleted while it was waited for")]
    Deleted,
}

impl From<Ended> for OrganisationError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Full(full) => Self::Full(full),
            Ended::Dismissed => Self::Deleted,
        }
    }
}

/// What somebody who listens to an organisation is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrganisationEvent {
    /// Where in the stream it is.
    pub id: EventId,
    /// A device and what came of it; never [`Waited::TimedOut`]. `None`: packets were lost, nobody knows whose. What comes
    /// after it is complete again.
    pub said: Option<(DeviceId, Waited)>,
}

/// Somebody who listens to an organisation: a stream of [`OrganisationEvent`]s that ends after [`Self::close`], and when the
/// organisation is deleted. Holds one place among the waiters; a drop gives it back.
pub struct Listening {
    waits: PacketWaits,
    listener: Listener,
    /// `None` once no more packets are waited for.
    place: Option<BoxFuture<'static, Ended>>,
    lost: bool,
    /// What there was to tell at the beginning.
    first: VecDeque<(DeviceId, Waited)>,
    /// What was told of devices before it was read in the feed.
    ahead: HashMap<DeviceId, Cursor>,
    last: EventId,
}

/// Devices that one answer tells of, unless positions of more were given. Half a megabyte of text; what more a listener of a
/// very busy organisation finds has spoken in the same moment.
const ANSWERED: usize = 1000;

/// Devices that are looked at in a row before others run.
const TURN: usize = 256;

impl PacketWaits {
    /// Waits until a packet of any device that is registered for the organisation is counted, of which [`Waiters::heard`] is
    /// told, and tells of all that have
    /// spoken by then, up to 1000 devices: of each its latest packet. Answers at once if a device of `after` is behind
    /// the position given for it, or that is of a former epoch. A packet that is counted in the moment of the call may be
    /// told. Nothing is ever pending.
    ///
    /// Holds one place among the waiters, whatever `after` names. Cancel-safe: a dropped future leaves nothing behind.
    pub async fn wait_for_organisation(
        &self,
        organisation: u32,
        after: &Devices,
        deadline: Instant,
    ) -> Result<ManyWaited, OrganisationError> {
        // Before any look at the table, so that no packet falls between.
        let mut listener = Listener::new(Arc::clone(&self.waiters), organisation);
        let mut packets = self.since_positions(organisation, after).await?;
        if packets.is_empty() && Instant::now() < deadline {
            let wait = self.waiters.wait(Subject::Organisation(organisation), || self.next_said(&mut listener));
            // What came in the last moment is read below.
            if let Ok(said) = timeout_at(deadline, wait).await {
                packets.push(said?);
            }
        }
        let mut told: HashSet<_> = packets.iter().map(|(id, _)| *id).collect();
        // Of a feed that is filled as fast as it is read, no more than it keeps.
        for _ in 0..KEPT {
            let Some((id, waited)) = self.next_said(&mut listener).filter(|_| packets.len() < ANSWERED) else { break };
            if told.insert(id) {
                packets.push((id, waited));
            }
        }
        Ok(ManyWaited { timed_out: packets.is_empty(), packets, pending: Vec::new() })
    }

    /// Begins to listen to the organisation, of whose devices a packet that is counted from now on is told, or lost with a
    /// word. Begins with what there is since the positions of `after`; or, where an earlier stream is `resumed`, with the
    /// word that packets were lost, whatever `after` says. Cancel-safe: a dropped future leaves nothing behind.
    pub async fn listen(
        &self,
        organisation: u32,
        after: &Devices,
        resumed: bool,
    ) -> Result<Listening, OrganisationError> {
        let listener = Listener::new(Arc::clone(&self.waiters), organisation);
        let mut place = watch(Arc::clone(&self.waiters), organisation).boxed();
        // Takes its place now, so that it is known whether there is one.
        if let Poll::Ready(ended) = place.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Err(ended.into());
        }
        let behind = self.since_positions(organisation, after).await?;
        let first = if resumed { VecDeque::new() } else { VecDeque::from(behind) };
        let ahead = first.iter().map(|(id, waited)| (*id, waited.cursor())).collect();
        let last = EventId { stream: fastrand::u64(..), n: 0 };
        Ok(Listening { waits: self.clone(), listener, place: Some(place), lost: resumed, first, ahead, last })
    }

    /// What there is since the positions that were given, in the order of the devices.
    async fn since_positions(
        &self,
        organisation: u32,
        after: &Devices,
    ) -> Result<Vec<(DeviceId, Waited)>, OrganisationError> {
        let mut behind = Vec::new();
        for (index, (id, position)) in (1..).zip(after.iter()) {
            if !self.is_of(id, organisation) {
                return Err(OrganisationError::NotOfIt(id));
            }
            if let Ok(found) = self.begin(id, position).map_err(|error| DeviceError { device: id, error })? {
                behind.push((id, found));
            }
            if usize::is_multiple_of(index, TURN) {
                yield_now().await;
            }
        }
        Ok(behind)
    }

    /// What comes next of a device, for one to whom lost packets do not matter.
    fn next_said(&self, listener: &mut Listener) -> Option<(DeviceId, Waited)> {
        loop {
            if let Read::Said(said) = listener.read()?
                && let Some(waited) = self.look_at(said, listener.organisation())
            {
                return Some((said.device, waited));
            }
        }
    }

    /// What there is of a device since it said this, that included.
    fn look_at(&self, said: Said, organisation: u32) -> Option<Waited> {
        let before = Cursor { n: said.cursor.n.saturating_sub(1), ..said.cursor };
        if self.is_of(said.device, organisation) { self.look(said.device, before).ok() } else { None }
    }

    fn is_of(&self, id: DeviceId, organisation: u32) -> bool {
        self.table.registration(id).is_some_and(|registration| registration.organisation == organisation)
    }
}

impl Listening {
    /// The id that one has who has heard no event yet.
    pub const fn first_id(&self) -> EventId {
        EventId { n: 0, ..self.last }
    }

    /// Waits for no more packets: what was said until now is told, then the stream ends.
    pub fn close(&mut self) {
        self.place = None;
    }

    /// What is to be told next, if there is anything.
    fn next_told(&mut self) -> Option<Option<(DeviceId, Waited)>> {
        if std::mem::take(&mut self.lost) {
            return Some(None);
        }
        if let Some(said) = self.first.pop_front() {
            return Some(Some(said));
        }
        loop {
            match self.listener.read()? {
                Read::Lost => {
                    // What is told twice for that does no harm; what is remembered for ever does.
                    self.ahead.clear();
                    return Some(None);
                }
                Read::Said(said) => {
                    if let Some(waited) = self.news(said) {
                        return Some(Some((said.device, waited)));
                    }
                }
            }
        }
    }

    /// What there is of a device that said this, unless it was told already. What is told is its latest packet, which may be
    /// ahead of what was read: what is read up to that one is no news, and counted among the missed ones.
    fn news(&mut self, said: Said) -> Option<Waited> {
        if let Some(told) = self.ahead.remove(&said.device)
            && told.epoch == said.cursor.epoch
            && told.n >= said.cursor.n
        {
            if told.n > said.cursor.n {
                self.ahead.insert(said.device, told);
            }
            return None;
        }
        let waited = self.waits.look_at(said, self.listener.organisation())?;
        if waited.cursor() != said.cursor {
            self.ahead.insert(said.device, waited.cursor());
        }
        Some(waited)
    }
}

impl Stream for Listening {
    type Item = OrganisationEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<OrganisationEvent>> {
        let this = self.get_mut();
        // First the waker, then the look: what the look misses wakes.
        if let Some(place) = &mut this.place
            && place.as_mut().poll(cx).is_ready()
        {
            this.place = None;
        }
        match this.next_told() {
            Some(said) => {
                this.last.n += 1;
                Poll::Ready(Some(OrganisationEvent { id: this.last, said }))
            }
            None if this.place.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listening({}, organisation {})", self.last.stream, self.listener.organisation())
    }
}

/// Waits for whatever is said in the organisation until it is deleted. Not timed, as no stream is.
async fn watch(waiters: Arc<Waiters>, organisation: u32) -> Ended {
    match waiters.wait_untimed(Subject::Organisation(organisation), || None::<Infallible>).await {
        Err(ended) => ended,
        Ok(never) => match never {},
    }
}

#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
#[path = "organisation_tests.rs"]
mod tests;
