//! What has to run as long as messages are accepted, and how it begins and ends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::counters::MessageCounters;
use super::expiry::Deadlines;
use super::outcomes::Outcomes;
use super::writer::Writer;
use super::{Dispatch, Inner, Parts, intents, keys};
use crate::auth::Authenticator;
use crate::clock::Timestamp;
use crate::registry::RegistryError;
use crate::status::Time;

/// Messages that are read at once at the start.
const PAGE: u32 = 1000;

/// How often the registry is measured: in between there is no bound but that on what waits in memory.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// After so many times, data of calls that have expired is forgotten.
const FORGET_DATA_EVERY: u32 = 60;

/// How often old messages are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// What has to run beside a [`Dispatch`], on the thread that opened it: writing down what happened, expiry on time, reserving
/// time, checking keys, forgetting.
#[derive(Debug)]
pub struct Work {
    inner: Arc<Inner>,
    writer: Writer,
    answers: mpsc::Receiver<keys::ToCheck>,
}

impl Dispatch {
    /// Takes up where the last process ended: what waits in the registry waits for packets, in order, and time is reserved for
    /// what is to be sent. To be called on the runtime on which [`Work::run`] runs.
    ///
    /// # Errors
    /// The registry does not answer.
    pub async fn open(parts: Parts) -> Result<(Self, Work), RegistryError> {
        let Parts { registry, table, downlinks, posts, keys, cloud_keys, nonces, events, clock, config } = parts;
        let inner = Arc::new(Inner {
            registry,
            table,
            downlinks,
            posts,
            keys,
            cloud_keys,
            nonces,
            clock,
            config,
            counters: MessageCounters::default(),
            outcomes: Outcomes::default(),
            deadlines: Deadlines::default(),
            immediate: Mutex::default(),
            withdrawing: Mutex::default(),
            authenticator: Mutex::new(Authenticator::default()),
            clock_turns: AtomicU32::new(0),
            stored: AtomicU64::new(0),
            next_request_id: AtomicU32::new(random_u32()),
            runtime: Handle::current(),
        });
        inner.load().await?;
        // Not before: loading a million takes longer than what is reserved.
        inner.begin_reserving().await?;
        let (to_check, answers) = mpsc::channel(keys::WAITING);
        let writer = Writer::new(Arc::clone(&inner), events, to_check);
        Ok((Self(Arc::clone(&inner)), Work { inner, writer, answers }))
    }
}

impl Inner {
    async fn load(&self) -> Result<(), RegistryError> {
        let (mut after, mut loaded, mut refused) = (0, 0_u64, 0_u64);
        loop {
            let page = self.registry.messages_to_send(after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = last.n;
            for (message, data) in page {
                let device = message.device.device_id;
                let (intent, outbox) = (intents::of(&message, data), &self.downlinks.outbox);
                let waits = match (message.level, message.sent_at) {
                    (Some(level), Some(Time(at))) => outbox.resume(device, intent, level, at),
                    _ => outbox.add(device, intent),
                };
                match waits {
                    Ok(()) => loaded += 1,
                    Err(_) => refused += 1,
                }
                self.table.expect(device);
            }
        }
        if loaded > 0 {
            tracing::info!(messages = loaded, "waiting for their devices");
        }
        if refused > 0 {
            tracing::warn!(
                messages = refused,
                "there is no room for messages that wait; they are taken up at the next start"
            );
        }
        Ok(())
    }

    /// Looks how much the registry has, and has it forget data of calls that have expired.
    async fn measure(&self) {
        for count in 0_u32.. {
            match self.registry.size().await {
                Ok(size) => self.stored.store(size, Ordering::Relaxed),
                Err(error) => tracing::debug!(%error, "nobody knows how much the registry has"),
            }
            if count.is_multiple_of(FORGET_DATA_EVERY)
                && let Err(error) = self.registry.forget_unsent_data().await
            {
                tracing::warn!(%error, "cannot forget data of calls that have expired; trying again in a minute");
            }
            sleep(MEASURE_EVERY).await;
        }
    }

    async fn forget(&self) {
        let mut due = interval(FORGET_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let kept = u64::try_from(self.config.message_retention.as_millis()).unwrap_or(u64::MAX);
            let before = Timestamp(self.clock.now().0.saturating_sub(kept));
            match self.registry.forget_messages(before).await {
                Ok(0) => {}
                Ok(messages) => tracing::info!(messages, "forgotten, since they are old"),
                Err(error) => tracing::warn!(%error, "cannot forget old messages; trying again in an hour"),
            }
        }
    }
}

impl Work {
    /// Until told to stop; nobody must send then any more. What has happened until then is written down, and the time that was
    /// reserved and not used is given back.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { inner, mut writer, answers } = self;
        let others = async {
            tokio::join!(
                inner.expire(),
                inner.check_keys(answers),
                inner.forget(),
                inner.keep_reserving(),
                inner.measure()
            )
        };
        tokio::select! {
            () = writer.run(stop) => {}
            _ = others => {}
        }
        if let Err(error) = writer.finish().await {
            tracing::error!(%error, "what happened to messages last is not written down: those that were sent may be sent again");
            return;
        }
        if let Err(error) = inner.end_reserving().await {
            tracing::warn!(%error, "the next start will wait some seconds before it sends anything");
        }
    }
}

/// Where request ids begin: not where those of the last process did.
fn random_u32() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) as u32
}
