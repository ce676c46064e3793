//! The database: with the migrations, the one place that names the engine. Everything else in this folder is SQL that
//! PostgreSQL takes as well: `$1` for values, and no function that only one engine has.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::error::ErrorKind;
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _};
use tokio::sync::OwnedMutexGuard;

use super::error::{Conflict, OpenError, RegistryError};
use super::file::{exposed, make};
use super::forms::{FORMS, bring_to};
use super::lock::Lock;
use super::readers::{Reader, Readers};
use crate::clock::Timestamp;
use crate::id::DeviceId;

/// The engine.
pub(super) type Engine = sqlx::Sqlite;
/// Connections of it.
pub(super) type Pool = sqlx::Pool<Engine>;
/// One connection of it.
pub(super) type Connection = <Engine as sqlx::Database>::Connection;

/// The file in the data directory.
pub(super) const FILE: &str = "registry.sqlite3";

/// Connections that read at once, so that a long list does not hold up short reads. Each has a thread, and pages of its own
/// in memory.
const READERS: u32 = 4;

/// Pages in memory of one that reads, in KiB: the part of an index that the first 100 000 entries of a list take.
const READ_CACHE: &str = "-32768";

/// Pages in memory of the one that writes, in KiB. 10 000 devices added to a million change 100 MiB of pages: what finds no
/// room is written twice.
const WRITE_CACHE: &str = "-131072";

/// Pages in the write-ahead log, of 4 KiB, from which on a commit empties it: 256 MiB, three times the change that 10 000 new
/// devices make among a million, so that a page which each of them changes is written back once.
const LOG_PAGES: &str = "65536";

/// Bytes of the write-ahead log that stay when it is emptied.
const LOG_BYTES: &str = "67108864";

/// The query for the bytes that the database has in use.
pub(super) const SIZE: &str = "SELECT (page_count - freelist_count) * page_size \
                               FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()";

/// The text of the bytes in a column, as an expression of a query. Where there are none it is not to be asked for.
pub(super) fn hexadecimal(column: &str) -> String {
    format!("hex({column})")
}

/// How long a request waits for its turn and its answer. Far above what any takes; half of what a client has patience for.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long one connection waits for another that holds a lock, for example a backup.
const BUSY: Duration = Duration::from_secs(5);

/// A database that is open. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Database {
    readers: Arc<Readers>,
    /// One connection: changes happen one after the other, so what was read in a transaction still holds when it writes.
    writer: Pool,
    /// Whose turn it is to change something.
    turn: Arc<tokio::sync::Mutex<()>>,
    path: Arc<Path>,
    lock: Arc<Lock>,
}

impl Database {
    /// Opens the database in the locked directory or makes one for this user alone, and brings it to the present form.
    ///
    /// # Errors
    /// The database is of a later version, damaged, or cannot be opened.
    pub(super) async fn open(lock: Lock) -> Result<Self, OpenError> {
        let path = lock.directory().join(FILE);
        let mode = make(&path).map_err(|source| OpenError::File { path: path.clone(), source })?;
        if let Some(warning) = exposed(&path, mode) {
            tracing::warn!("{warning}");
        }
        let opened = connect(&path).await;
        let (readers, writer) = opened.map_err(|error| explain(&path, error))?;
        Ok(Self { readers: Arc::new(readers), writer, turn: Arc::default(), path: path.into(), lock: Arc::new(lock) })
    }

    /// A connection for queries that change nothing.
    pub(super) async fn reader(&self) -> Result<Reader, RegistryError> {
        self.read(self.readers.next()).await
    }

    /// As [`Self::reader`], for who has all the time and tells of errors otherwise.
    pub(super) async fn loader(&self) -> Result<Reader, sqlx::Error> {
        self.readers.next().await
    }

    /// The answer of a query on a [`Self::reader`], if it comes in time. One that is given up goes on to its next row.
    pub(super) async fn read<T>(
        &self,
        query: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, RegistryError> {
        let answer = tokio::time::timeout(PATIENCE, query).await;
        Ok(answer.unwrap_or(Err(sqlx::Error::PoolTimedOut))?)
    }

    /// Begins a change, when those before it are done. Record ids are made within, so that they rise with the numbers.
    pub(super) async fn begin(&self) -> Result<Change, RegistryError> {
        self.read(self.change()).await
    }

    /// As [`Self::begin`], for who has all the time and tells of errors otherwise.
    pub(super) async fn change(&self) -> Result<Change, sqlx::Error> {
        let turn = self.turn.clone().lock_owned().await;
        // Not the default, which locks at the first write only, and fails if something was written since it read.
        let transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Change { transaction, turn })
    }

    /// What to say of an error while the registry is loaded.
    pub(super) fn explain(&self, error: sqlx::Error) -> OpenError {
        explain(&self.path, error)
    }

    /// Closes every connection, the one that writes last so that it empties the write-ahead log, and lets go of the lock.
    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        self.lock.release();
    }
}

/// A change of all or nothing, in which queries run as on a connection. Dropped, it is undone.
#[derive(Debug)]
pub(super) struct Change {
    transaction: sqlx::Transaction<'static, Engine>,
    turn: OwnedMutexGuard<()>,
}

impl Change {
    /// Makes the change last, then does what puts it in force. Both happen even if whoever asked goes away meanwhile, and
    /// before the next change begins.
    pub(super) async fn commit<T: Send + 'static>(
        self,
        then: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RegistryError> {
        // A task ends early only with the process, or by a panic that has been reported.
        let both = tokio::spawn(self.finish(then)).await.unwrap_or(Err(sqlx::Error::WorkerCrashed));
        Ok(both?)
    }

    /// As [`Self::commit`], for who does not go away and tells of errors otherwise.
    pub(super) async fn finish<T>(self, then: impl FnOnce() -> T) -> Result<T, sqlx::Error> {
        let Self { transaction, turn } = self;
        transaction.commit().await?;
        let done = then();
        drop(turn);
        Ok(done)
    }
}

impl Deref for Change {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.transaction
    }
}

impl DerefMut for Change {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.transaction
    }
}

/// What no two records share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unique {
    OrganisationName,
    BoardName,
    NetworkName,
    NetworkId,
    DeviceId,
    Hardware,
    Metadata,
}

impl Unique {
    /// Each with what the engine calls it.
    const ALL: [(Self, &str); 7] = [
        (Self::OrganisationName, "organisation.name"),
        (Self::BoardName, "board.organisation, board.name"),
        (Self::NetworkName, "network.name"),
        (Self::NetworkId, "network.network_id"),
        (Self::DeviceId, "device.device_id"),
        (Self::Hardware, "device.soc, device.mcu_id"),
        (Self::Metadata, "device_metadata.board, device_metadata.name, device_metadata.value"),
    ];
}

/// What an error of the engine comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    /// A value is taken.
    Taken(Unique),
    /// Another connection or too many requests were in the way.
    Late,
    /// What is in the file cannot be right.
    Damaged,
    /// Anything else: no space, no rights, a defect.
    Other,
}

/// Reads an error: the only place that knows how the engine puts things.
fn problem(error: &sqlx::Error) -> Problem {
    let Some(error) = error.as_database_error() else {
        return if matches!(error, sqlx::Error::PoolTimedOut) { Problem::Late } else { Problem::Other };
    };
    let message = error.message();
    if error.kind() == ErrorKind::UniqueViolation {
        let columns = message.rsplit(": ").next().unwrap_or_default();
        let known = Unique::ALL.iter().find(|(_, name)| *name == columns);
        return known.map_or(Problem::Other, |(unique, _)| Problem::Taken(*unique));
    }
    match message {
        "database is locked" | "database table is locked" => Problem::Late,
        "file is not a database" => Problem::Damaged,
        _ if message.starts_with("database disk image is malformed") => Problem::Damaged,
        _ if message.starts_with("malformed database schema") => Problem::Damaged,
        _ => Problem::Other,
    }
}

/// A conflict in place of an error that a taken value makes: `name` says which value that is.
pub(super) fn taken(error: sqlx::Error, name: impl FnOnce(Unique) -> Conflict) -> RegistryError {
    match problem(&error) {
        Problem::Taken(unique) => name(unique).into(),
        _ => error.into(),
    }
}

impl From<sqlx::Error> for RegistryError {
    /// For an error that nobody who asks can do anything about. The log has it, without any value.
    fn from(error: sqlx::Error) -> Self {
        static LOGGED: Mutex<Option<Instant>> = Mutex::new(None);
        let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            *logged = Some(Instant::now());
            tracing::error!(%error, "the registry's database failed; further failures within a second are not logged");
        }
        Self::Unavailable(if problem(&error) == Problem::Late { "answer in time" } else { "use its database" })
    }
}

async fn connect(path: &Path) -> Result<(Readers, Pool), MigrateError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY)
        // Sorting needs no directory for temporary files.
        .pragma("temp_store", "MEMORY")
        .disable_statement_logging();
    // Connections to a file do not go stale.
    let pool = SqlitePoolOptions::new().acquire_timeout(PATIENCE).idle_timeout(None).max_lifetime(None);
    let durable = options
        .clone()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", WRITE_CACHE)
        .pragma("wal_autocheckpoint", LOG_PAGES)
        .pragma("journal_size_limit", LOG_BYTES);
    let pool = pool.after_release(|connection, _| Box::pin(is_done(connection)));
    let writer = pool.test_before_acquire(false).max_connections(1).connect_with(durable).await?;
    bring_to(&FORMS).run(&writer).await?;
    let reading = options.read_only(true).pragma("cache_size", READ_CACHE);
    let readers = Readers::open(reading, READERS).await?;
    Ok((readers, writer))
}

/// Whether the connection that writes can go on. When a change cannot be written, as without space, the engine undoes it by
/// itself, and the connection believes to be in that change for ever: another one takes its place.
async fn is_done(connection: &mut Connection) -> Result<bool, sqlx::Error> {
    // The answer comes after what is on its way, such as the undoing of a change that was dropped.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

fn explain(path: &Path, error: impl Into<MigrateError>) -> OpenError {
    let path = PathBuf::from(path);
    let known = FORMS[FORMS.len() - 1].0;
    match error.into() {
        MigrateError::VersionMissing(found) => OpenError::Later { path, found, known },
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)
            if problem(&error) == Problem::Damaged || is_unreadable(&error) =>
        {
            OpenError::Damaged { path, reason: reason(&error) }
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            OpenError::Database { path, reason: reason(&error) }
        }
        other => OpenError::Damaged { path, reason: other.to_string() },
    }
}

/// Whether a value was there that nothing here has written.
fn is_unreadable(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
}

fn reason(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// A moment as it is stored.
pub(super) fn from_time(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// A moment that was stored.
pub(super) fn to_time(stored: i64) -> Timestamp {
    Timestamp(u64::try_from(stored).unwrap_or_default())
}

/// A device id as it is stored: numbers with a sign then sort as device ids do.
pub(super) const fn from_device_id(id: DeviceId) -> i64 {
    (id.0 ^ (1 << 63)).cast_signed()
}

/// A device id that was stored.
pub(super) const fn to_device_id(stored: i64) -> DeviceId {
    DeviceId(stored.cast_unsigned() ^ (1 << 63))
}

/// The number of a record, for who keeps it in 32 bits.
pub(super) fn to_number(stored: i64) -> Result<u32, sqlx::Error> {
    u32::try_from(stored).map_err(|_| unreadable("a number of more than 32 bits"))
}

/// A value as JSON text.
pub(super) fn to_json(value: &impl Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// A value that was stored as JSON text.
pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    // Without the error, which may quote what was read.
    serde_json::from_str(text).map_err(|_| unreadable("a text that is not the JSON it should be"))
}

/// 32 bytes that were stored.
pub(super) fn to_32(stored: &[u8]) -> Result<[u8; 32], sqlx::Error> {
    stored.try_into().map_err(|_| unreadable("a key that has not 32 bytes"))
}

/// The error for a value that nothing here has written.
pub(super) fn unreadable(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn open(directory: &Path) -> Result<Database, OpenError> {
        Database::open(Lock::take(directory)?).await
    }

    const INSERT: &str = "INSERT INTO organisation (id, created_at, updated_at, name) VALUES ($1, $2, $2, $3)";

    async fn insert(database: &Database, id: &[u8], name: &str) -> Result<(), sqlx::Error> {
        let mut change = database.begin().await.unwrap();
        sqlx::query(INSERT).bind(id).bind(7_i64).bind(name).execute(&mut *change).await?;
        change.commit(|| ()).await.unwrap();
        Ok(())
    }

    async fn names(database: &Database) -> Vec<String> {
        let mut reader = database.reader().await.unwrap();
        let query = sqlx::query_scalar("SELECT name FROM organisation ORDER BY n").fetch_all(&mut reader);
        database.read(query).await.unwrap()
    }

    #[tokio::test]
    async fn every_file_is_for_its_owner_alone_and_what_was_written_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await.unwrap();
        insert(&database, &[1; 16], "acme").await.unwrap();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            found.push((entry.file_name().into_string().unwrap(), mode));
        }
        found.sort();
        let names_of = ["lock", "registry.sqlite3", "registry.sqlite3-shm", "registry.sqlite3-wal"];
        assert_eq!(found, names_of.map(|name| (name.to_owned(), 0o600)));
        database.close().await;
        assert!(!directory.path().join("registry.sqlite3-wal").exists(), "the log is emptied at the end");
        let again = open(directory.path()).await.unwrap();
        assert_eq!(names(&again).await, ["acme"]);
    }

    #[tokio::test]
    async fn a_second_process_is_refused_and_told_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path()).await.unwrap();
        let refused = open(directory.path()).await.unwrap_err().to_string();
        assert_eq!(
            refused,
            format!(
                "{} is in use by another process ({}); stop it, or name another --data-dir",
                directory.path().display(),
                std::process::id()
            )
        );
        first.close().await;
        open(directory.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_value_that_is_taken_is_told_from_every_other_error() {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await.unwrap();
        insert(&database, &[1; 16], "acme").await.unwrap();
        let error = insert(&database, &[2; 16], "acme").await.unwrap_err();
        assert_eq!(problem(&error), Problem::Taken(Unique::OrganisationName));
        // A record id that repeats is nothing that somebody who asks could change.
        let error = insert(&database, &[1; 16], "other").await.unwrap_err();
        assert_eq!(problem(&error), Problem::Other);
        assert_eq!(RegistryError::from(error), RegistryError::Unavailable("use its database"));
        assert_eq!(names(&database).await, ["acme"]);
    }

    #[tokio::test]
    async fn every_value_that_no_two_records_share_is_known_by_the_name_the_engine_gives_it() {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await.unwrap();
        insert(&database, &[1; 16], "acme").await.unwrap();
        let mut connection = database.writer.acquire().await.unwrap();
        let board = "INSERT INTO board VALUES (NULL, randomblob(16), 1, 1, 1, 'b', '', 'soc', 0, '[]')";
        let network = |name: &str, id: u32| {
            format!("INSERT INTO network VALUES (NULL, randomblob(16), 1, 1, 1, '{name}', '', {id}, 0, x'00')")
        };
        let device = |id: u32, mcu_id: &str| {
            let ids = format!("NULL, randomblob(16), 1, 1, 1, 1, {id}, 'soc', '{mcu_id}'");
            format!("INSERT INTO device VALUES ({ids}, '{{}}', NULL, '{{}}', 1, NULL, NULL, NULL, 0, NULL, NULL, 0, 0)")
        };
        let metadata = |device: u32| format!("INSERT INTO device_metadata VALUES ({device}, 1, 'a', 'b', 1)");
        for (first, second, unique) in [
            (board.to_owned(), board.to_owned(), Unique::BoardName),
            (network("a", 1), network("a", 2), Unique::NetworkName),
            (network("b", 3), network("c", 3), Unique::NetworkId),
            (device(1, "00"), device(1, "01"), Unique::DeviceId),
            (device(2, "02"), device(3, "02"), Unique::Hardware),
            (metadata(1), metadata(2), Unique::Metadata),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(first)).execute(&mut *connection).await.unwrap();
            let error = sqlx::query(sqlx::AssertSqlSafe(second)).execute(&mut *connection).await.unwrap_err();
            assert_eq!(problem(&error), Problem::Taken(unique), "{error}");
        }
    }

    #[tokio::test]
    async fn a_database_of_a_later_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await.unwrap();
        let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (9, 'later', 1, x'00', 0)";
        sqlx::query(later).execute(&database.writer).await.unwrap();
        database.close().await;
        let refused = open(directory.path()).await.unwrap_err().to_string();
        assert_eq!(
            refused,
            format!(
                "{} was made by a later version of lastroute: it has the form 9, this version knows up to 3; start that \
                 version, or name another --data-dir",
                directory.path().join(FILE).display()
            )
        );
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_refused_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::fs::write(&path, [0x55; 8192]).unwrap();
        let refused = open(directory.path()).await.unwrap_err().to_string();
        assert_eq!(
            refused,
            format!(
                "{} is damaged: file is not a database; put a copy of it back, or move it away to start with an empty \
                 registry",
                path.display()
            )
        );
        assert_eq!(std::fs::read(&path).unwrap(), [0x55; 8192]);
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_named_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let refused = open(&missing).await.unwrap_err().to_string();
        assert!(refused.starts_with(&format!("cannot use {}: No such file", missing.join("lock").display())));
    }

    #[tokio::test]
    async fn a_reader_cannot_write_and_a_dropped_change_is_undone() {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await.unwrap();
        let mut reader = database.reader().await.unwrap();
        let write = sqlx::query(INSERT).bind(&[1; 16][..]).bind(1_i64).bind("a").execute(&mut reader).await;
        assert!(write.unwrap_err().to_string().contains("readonly"));
        let mut change = database.begin().await.unwrap();
        sqlx::query(INSERT).bind(&[1; 16][..]).bind(1_i64).bind("a").execute(&mut *change).await.unwrap();
        drop(change);
        insert(&database, &[2; 16], "b").await.unwrap();
        assert_eq!(names(&database).await, ["b"]);
    }

    #[tokio::test]
    async fn after_a_change_that_the_engine_undid_by_itself_the_next_one_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await.unwrap();
        let mut change = database.begin().await.unwrap();
        sqlx::query(INSERT).bind(&[1; 16][..]).bind(1_i64).bind("a").execute(&mut *change).await.unwrap();
        // As the engine does when there is no space.
        sqlx::query("ROLLBACK").execute(&mut *change).await.unwrap();
        let failed = change.commit(|| panic!("it is not in force")).await;
        assert_eq!(failed, Err::<(), _>(RegistryError::Unavailable("use its database")));
        insert(&database, &[2; 16], "b").await.unwrap();
        let mut change = database.begin().await.unwrap();
        sqlx::query("ROLLBACK").execute(&mut *change).await.unwrap();
        drop(change);
        insert(&database, &[3; 16], "c").await.unwrap();
        assert_eq!(names(&database).await, ["b", "c"]);
    }

    #[tokio::test]
    async fn a_change_is_in_force_before_the_next_begins_and_also_if_who_asked_goes_away() {
        let directory = tempfile::tempdir().unwrap();
        let database = open(directory.path()).await.unwrap();
        let (told, heard) = std::sync::mpsc::channel();
        let mut change = database.begin().await.unwrap();
        sqlx::query(INSERT).bind(&[1; 16][..]).bind(1_i64).bind("a").execute(&mut *change).await.unwrap();
        // Asked for, and given up at once.
        tokio::select! {
            biased;
            _ = change.commit(move || told.send(()).unwrap()) => panic!("it takes a moment"),
            () = std::future::ready(()) => {}
        }
        drop(database.begin().await.unwrap());
        heard.try_recv().unwrap();
        assert_eq!(names(&database).await, ["a"]);
    }

    #[test]
    fn device_ids_sort_as_numbers_without_a_sign() {
        let ids = [0, 1, u64::MAX >> 1, 1 << 63, u64::MAX].map(DeviceId);
        let stored = ids.map(from_device_id);
        assert!(stored.is_sorted(), "{stored:?}");
        assert_eq!(stored.map(to_device_id), ids);
    }
}
