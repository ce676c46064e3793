//! Connections that read: a few, each for one query at a time.
//!
//! The pool of the SQL crate would do, but asks each connection that comes back to it for a sign of life. To one in this
//! process that is another round trip to its thread, and doubles what a small query costs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, future, stream};
use sqlx::{ConnectOptions, Connection as _, Database, Either, Execute, Executor, SqlStr};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::database::{Connection, Engine};

/// What opens a connection.
type Options = <<Engine as Database>::Connection as sqlx::Connection>::Options;

/// All of them.
#[derive(Debug)]
pub(super) struct Readers {
    options: Options,
    /// Those that have nothing to do. The one that came back last is taken next: its thread and its pages are the warmest.
    /// There are at most as many as there are free places; for one that is lost another is
    /// opened when it is wanted.
    idle: Mutex<Vec<Connection>>,
    places: Arc<Semaphore>,
    count: u32,
}

/// One of them, for queries; drop it to give it back.
#[derive(Debug)]
pub(super) struct Reader {
    /// None only while it is dropped.
    held: Option<(Connection, OwnedSemaphorePermit)>,
    /// Whether a query was begun whose end was not seen: it was given up, or failed.
    is_asked: bool,
    readers: Arc<Readers>,
}

impl Readers {
    /// Opens `count` connections.
    ///
    /// # Errors
    /// What the engine says.
    pub(super) async fn open(options: Options, count: u32) -> Result<Self, sqlx::Error> {
        let mut idle = Vec::new();
        for _ in 0..count {
            idle.push(options.connect().await?);
        }
        Ok(Self { options, idle: Mutex::new(idle), places: Arc::new(Semaphore::new(count as usize)), count })
    }

    /// The next one that is free.
    ///
    /// # Errors
    /// They are closed, or what the engine says.
    pub(super) async fn next(self: &Arc<Self>) -> Result<Reader, sqlx::Error> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.idle().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        Ok(Reader { held: Some((connection, place)), is_asked: false, readers: Arc::clone(self) })
    }

    /// Closes them, each once it is free.
    pub(super) async fn close(&self) {
        // An error: they are closed already.
        let _all = self.places.acquire_many(self.count).await;
        self.places.close();
        let idle = std::mem::take(&mut *self.idle());
        for connection in idle {
            // It wrote nothing.
            let _ = connection.close().await;
        }
    }

    /// Gives back a connection that may still be at a query, when that has ended; one that does not answer is lost.
    async fn give_back(self: Arc<Self>, mut connection: Connection, place: OwnedSemaphorePermit) {
        match connection.ping().await {
            Ok(()) => self.idle().push(connection),
            Err(error) => {
                tracing::warn!(%error, "a connection of the registry's database is lost; another takes its place")
            }
        }
        drop(place);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'c> Executor<'c> for &'c mut Reader {
    type Database = Engine;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<<Engine as Database>::QueryResult, <Engine as Database>::Row>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Engine>,
    {
        self.is_asked = true;
        let Some((connection, _)) = &mut self.held else {
            return stream::once(future::ready(Err(sqlx::Error::PoolClosed))).boxed();
        };
        let is_asked = &mut self.is_asked;
        // Comes to nothing, after the last row.
        let end = stream::once(async move { *is_asked = false }).filter_map(|()| future::ready(None));
        connection.fetch_many(query).chain(end).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<<Engine as Database>::Row>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Engine>,
    {
        self.is_asked = true;
        let Some((connection, _)) = &mut self.held else { return future::ready(Err(sqlx::Error::PoolClosed)).boxed() };
        let (is_asked, asked) = (&mut self.is_asked, connection.fetch_optional(query));
        let found = async move {
            let found = asked.await;
            *is_asked = found.is_err();
            found
        };
        found.boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [<Engine as Database>::TypeInfo],
    ) -> BoxFuture<'e, Result<<Engine as Database>::Statement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.is_asked = true;
        match &mut self.held {
            Some((connection, _)) => connection.prepare_with(sql, parameters),
            None => future::ready(Err(sqlx::Error::PoolClosed)).boxed(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some((connection, place)) = self.held.take() else { return };
        let readers = Arc::clone(&self.readers);
        match Handle::try_current() {
            // Not in idle before it is idle: a small query would wait behind a long one that nobody wants any more.
            Ok(runtime) if self.is_asked => drop(runtime.spawn(readers.give_back(connection, place))),
            // Before the place is free, so that who takes that finds a connection.
            _ => readers.idle().push(connection),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes seconds, and has no row before its end.
    const LONG: &str =
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20000000) SELECT count(*) FROM c";

    async fn readers() -> Arc<Readers> {
        Arc::new(Readers::open(Options::new().in_memory(true), 2).await.unwrap())
    }

    async fn read(readers: &Arc<Readers>) -> i64 {
        let mut reader = readers.next().await.unwrap();
        sqlx::query_scalar("SELECT 7").fetch_one(&mut reader).await.unwrap()
    }

    #[tokio::test]
    async fn nobody_waits_behind_a_query_that_was_given_up() {
        let readers = readers().await;
        let mut reader = readers.next().await.unwrap();
        tokio::select! {
            biased;
            _ = sqlx::query(LONG).fetch_all(&mut reader) => panic!("it takes long"),
            () = tokio::task::yield_now() => {}
        }
        drop(reader);
        for _ in 0..4 {
            assert_eq!(read(&readers).await, 7);
        }
        assert_eq!((readers.places.available_permits(), readers.idle().len()), (1, 1), "the other one is still at it");
    }

    #[tokio::test]
    async fn a_connection_is_back_at_once_after_its_query_and_later_after_one_that_failed() {
        let readers = readers().await;
        assert_eq!(read(&readers).await, 7);
        let mut reader = readers.next().await.unwrap();
        let rows = sqlx::query("SELECT 1 UNION SELECT 2").fetch_all(&mut reader).await.unwrap();
        assert_eq!((rows.len(), reader.is_asked), (2, false));
        assert!(sqlx::query("SELECT 1").fetch_optional(&mut reader).await.unwrap().is_some());
        assert!(!reader.is_asked);
        assert!(sqlx::query("nonsense").fetch_optional(&mut reader).await.is_err());
        assert!(reader.is_asked);
        drop(reader);
        assert_eq!(readers.idle().len(), 1);
        // Two at once need both places.
        let both = [readers.next().await.unwrap(), readers.next().await.unwrap()];
        assert_eq!(readers.idle().len(), 0);
        drop(both);
        assert_eq!(readers.idle().len(), 2);
    }

    #[tokio::test]
    async fn for_a_connection_that_is_lost_another_is_opened() {
        let readers = readers().await;
        readers.idle().clear();
        let (mut one, mut other) = (readers.next().await.unwrap(), readers.next().await.unwrap());
        for reader in [&mut one, &mut other] {
            let answer: i64 = sqlx::query_scalar("SELECT 7").fetch_one(reader).await.unwrap();
            assert_eq!(answer, 7);
        }
        drop((one, other));
        assert_eq!(readers.idle().len(), 2);
        readers.close().await;
        assert!(matches!(readers.next().await, Err(sqlx::Error::PoolClosed)));
    }
}
