//! The gateway that is read or filled: what is asked of it, and patience with one that is busy or restarts.

use std::time::Duration;

use hyper::body::Bytes;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::console::Console;
use super::names::{Directory, NamedBoard};
use super::{TransferError, shown};
use crate::client::{Client, ClientError};
use crate::records::{ExportedDevice, ImportOutcome, Organisation};

/// How long one request may take: a gateway has a batch on its disk in a second, and a busy one in ten.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer: ten times that of an export of usual devices, and above the longest of boards.
const MAX_ANSWER: usize = 32 << 20;
/// Records of one page of a list.
const PAGE: usize = 100;
/// How long a gateway is asked again that does not answer, or not now: a restart with its start included takes less.
const PATIENCE: Duration = Duration::from_secs(300);
/// The pause before the second try; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A gateway, asked until it answers or patience ends. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Gateway {
    client: Client,
    console: Console,
    stopped: watch::Receiver<Wish>,
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// All of it.
    GoOn,
    /// What is on its way, and no more.
    Finish,
    /// Nothing.
    End,
}

impl Gateway {
    pub(super) fn new(client: Client, console: Console, stopped: watch::Receiver<Wish>) -> Self {
        Self { client: client.with_limits(TIMEOUT, MAX_ANSWER), console, stopped }
    }

    /// Registers the devices of a request of `POST /device/import`. Asked again, it finds them unchanged.
    pub(super) async fn import(&self, body: Bytes) -> Result<ImportOutcome, TransferError> {
        let path = "/device/import";
        let outcome = self.patiently(|| self.client.post_json(path, body.clone())).await?;
        outcome.ok_or_else(|| self.missing(path))
    }

    /// The devices that were made after the one with the record `after`, at most `limit`.
    pub(super) async fn export(
        &self,
        organisation: Option<Uuid>,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<ExportedDevice>, TransferError> {
        let mut path = format!("/device/export?limit={limit}");
        organisation.iter().for_each(|id| path += &format!("&organisationId={id}"));
        after.iter().for_each(|id| path += &format!("&after={id}"));
        let page = self.patiently(|| self.client.get_json(&path)).await?;
        page.ok_or_else(|| self.missing("/device/export"))
    }

    /// The organisation with this name or record id, which the gateway has.
    pub(super) async fn organisation(&self, named: &str) -> Result<Uuid, TransferError> {
        let found = self.patiently(|| self.client.organisation(named)).await?;
        found.ok_or_else(|| {
            let name = shown(named);
            TransferError::Name(format!(
                "--organisation: there is no organisation {name}, or this API key does not see it"
            ))
        })
    }

    /// All records of the list at `path`, which has a query.
    async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Option<Vec<T>>, TransferError> {
        let mut all = Vec::new();
        loop {
            let page = format!("{path}&limit={PAGE}&offset={}", all.len());
            let Some(page) = self.patiently(|| self.client.get_json::<Vec<T>>(&page)).await? else { return Ok(None) };
            let last = page.len() < PAGE;
            all.extend(page);
            if last {
                return Ok(Some(all));
            }
        }
    }

    /// Asks until there is an answer or a refusal that stays. Says so when it begins to ask again, and when that helped.
    async fn patiently<T, A>(&self, ask: impl Fn() -> A) -> Result<T, TransferError>
    where
        A: Future<Output = Result<T, ClientError>>,
    {
        let (mut pause, mut failing) = (FIRST_PAUSE, None);
        let mut stopped = self.stopped.clone();
        loop {
            let asked = tokio::select! {
                biased;
                _ = stopped.wait_for(|wish| *wish == Wish::End) => return Err(TransferError::Interrupted),
                asked = ask() => asked,
            };
            let error = match asked {
                Err(error) if passes(&error) => error,
                result => {
                    if result.is_ok() && failing.is_some() {
                        self.console.say("the gateway answers again");
                    }
                    return result.map_err(TransferError::Gateway);
                }
            };
            if *stopped.borrow() >= Wish::Finish {
                return Err(TransferError::Gateway(error));
            }
            let since = *failing.get_or_insert_with(|| {
                self.console.say(&format!("{error}; asked again for {} minutes at most", PATIENCE.as_secs() / 60));
                Instant::now()
            });
            if since.elapsed() + pause > PATIENCE {
                return Err(TransferError::Gateway(error));
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = stopped.wait_for(|wish| *wish >= Wish::Finish) => return Err(TransferError::Gateway(error)),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn missing(&self, path: &str) -> TransferError {
        let (address, path) = (self.client.address().to_owned(), path.to_owned());
        TransferError::Gateway(ClientError::Missing { address, path })
    }
}

/// Whether another try may help.
fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::TimedOut { .. } => true,
        ClientError::Status { status, .. } => matches!(status, 429 | 502 | 503 | 504),
        _ => false,
    }
}

/// The lists of a gateway, for a thread that is not of the runtime and may outlast it.
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) gateway: Gateway,
    pub(super) runtime: Handle,
}

impl Lists {
    /// All records of the list at `path`, which has a query; `None` if the gateway has no such list.
    fn all<T: DeserializeOwned + Send + 'static>(&self, path: String) -> Result<Option<Vec<T>>, TransferError> {
        self.wait(async move |gateway| gateway.list(&path).await)
    }

    /// What the gateway answers.
    fn wait<T, A>(&self, ask: impl FnOnce(Gateway) -> A) -> Result<T, TransferError>
    where
        T: Send + 'static,
        A: Future<Output = Result<T, TransferError>> + Send + 'static,
    {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let asked = ask(self.gateway.clone());
        self.runtime.spawn(async move {
            // Somebody waits for it, and there is room for one.
            let _ = tell.send(asked.await);
        });
        // The runtime ends where the user ends the import.
        told.recv().unwrap_or(Err(TransferError::Interrupted))
    }
}

impl Directory for Lists {
    fn organisation(&self, named: &str) -> Result<Uuid, TransferError> {
        let named = named.to_owned();
        self.wait(async move |gateway| gateway.organisation(&named).await)
    }

    fn organisations(&self) -> Result<Vec<Organisation>, TransferError> {
        let all = self.all("/organisation?orderBy=createdAt".to_owned())?;
        all.ok_or_else(|| self.gateway.missing("/organisation"))
    }

    fn boards(&self, organisation: Uuid) -> Result<Result<Vec<NamedBoard>, String>, TransferError> {
        let path = format!("/board?organisationId={organisation}&includePublic=true");
        let none = || Err(format!("the gateway shows no boards of organisation {organisation}"));
        match self.all(path) {
            Ok(all) => Ok(all.map_or_else(none, Ok)),
            // Another organisation's, or nobody's.
            Err(TransferError::Gateway(ClientError::Status { status: 400 | 403 | 422, message, .. })) => {
                Ok(Err(message))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn gateway() -> (Gateway, watch::Sender<Wish>) {
        let (stop, stopped) = watch::channel(Wish::GoOn);
        let client = Client::new("http://127.0.0.1:9", None).unwrap();
        (Gateway::new(client, Console::silent(), stopped), stop)
    }

    fn status(status: u16) -> ClientError {
        ClientError::Status { address: String::new(), path: String::new(), status, message: String::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_is_busy_is_asked_again_after_growing_pauses_and_given_up_at_last() {
        let (gateway, _stop) = gateway();
        let (begun, asked) = (Instant::now(), Cell::new(0));
        let ask = async || {
            asked.set(asked.get() + 1);
            if asked.get() < 4 { Err(status(503)) } else { Ok(7) }
        };
        assert_eq!(gateway.patiently(ask).await.unwrap(), 7);
        assert_eq!((asked.get(), begun.elapsed().as_millis()), (4, 3500));
        let begun = Instant::now();
        assert!(gateway.patiently(async || Err::<(), _>(status(429))).await.is_err());
        assert!((PATIENCE - LONGEST_PAUSE..=PATIENCE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_stays_is_told_at_once_and_a_pause_ends_with_the_wish_to_stop() {
        let (gateway, stop) = gateway();
        let begun = Instant::now();
        for refusal in [400, 401, 403, 404, 413, 500] {
            assert!(gateway.patiently(async || Err::<(), _>(status(refusal))).await.is_err());
        }
        stop.send_replace(Wish::Finish);
        assert!(gateway.patiently(async || Err::<(), _>(status(503))).await.is_err());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_finished_if_the_user_wants_to_stop_and_left_if_it_is_to_end_at_once() {
        let (gateway, stop) = gateway();
        stop.send_replace(Wish::Finish);
        let slow = gateway.patiently(async || {
            sleep(TIMEOUT).await;
            Ok(7)
        });
        assert_eq!(slow.await.unwrap(), 7);
        let hung = gateway.patiently(std::future::pending::<Result<(), ClientError>>);
        stop.send_replace(Wish::End);
        assert!(matches!(hung.await, Err(TransferError::Interrupted)));
    }
}
