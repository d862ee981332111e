//! The store as a file of the data directory: one process, one writer.
//!
//! A statement finds its pages in memory and takes microseconds, less than handing it to another thread would: it runs
//! where it is asked for. What may wait (for the disk at a commit, for another process at a beginning) or take long
//! (many rows) runs on a thread that may block. Chosen over the asynchronous driver after profiling: handing every
//! statement to a thread and back was more than half of what a certificate cost.

use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Statement, ffi};
use sqlx::error::{DatabaseError, ErrorKind};
use sqlx::migrate::{MigrateError, Migrator};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::sql::{Dialect, Pool, Value};
use super::{Owner, StoreError, TURN, schema};

/// How long a statement waits for another process (an operator's `sqlite3`, a backup) that holds the file.
const BUSY: Duration = Duration::from_secs(5);
/// Connections that read beside the writer.
const READERS: usize = 2;
/// Statements that a connection remembers: all that there are.
const STATEMENTS: usize = 128;

/// KiB of pages that a connection keeps.
const CACHE: i64 = 8 * 1024;
/// Pages in the write-ahead log, 4 KiB each, before they are brought into the file.
const CHECKPOINT: i64 = 4_000;

/// A value of a row.
pub(super) type Cell = rusqlite::types::Value;

/// Opens the file, or makes it at the first start of the authority.
pub(super) async fn open(path: &Path, owner: &Owner<'_>) -> Result<Pool, StoreError> {
    if !crate::files::private_exists(path)? {
        if !owner.founding {
            return Err(StoreError::Missing { path: path.to_owned(), mesh: owner.mesh.to_string() });
        }
        // Made here, so that it is 0600 from its first moment; SQLite gives its journals the same mode.
        crate::files::write_private(path, b"")?;
    }
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let mut writer = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        migrate(&mut writer, &schema::migrator(Dialect::Sqlite))
            .map_err(|error| StoreError::not_migrated(error, path.display().to_string()))?;
        let readers: Result<Vec<_>, StoreError> =
            (0..READERS).map(|_| connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)).collect();
        Ok::<_, StoreError>((writer, readers?))
    });
    let (writer, readers) = opened.await.map_err(interrupted)??;
    Ok(Pool::Sqlite { writer: Connections::of(vec![writer]), reader: Connections::of(readers) })
}

pub(super) fn connect(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let set_up = || {
        // No lock of its own: one at a time uses it anyway.
        let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        if !access.contains(OpenFlags::SQLITE_OPEN_READ_ONLY) {
            connection.pragma_update(None, "journal_mode", "WAL")?;
        }
        // What was answered must survive a power cut: a lost consumption would let a token in twice.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // The pages that a commit of many acts touches stay in memory; what they wrote goes into the file less often.
        connection.pragma_update(None, "cache_size", -CACHE)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
        // What an act that is taken back needs, and nothing that outlives it.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        Ok(connection)
    };
    set_up().map_err(|error| failed(error).into())
}

/// Brings the schema up to date, and keeps the same table of steps as on PostgreSQL.
fn migrate(connection: &mut Connection, migrator: &Migrator) -> Result<(), MigrateError> {
    let begun = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate);
    let tx = begun.map_err(|error| MigrateError::Execute(failed(error)))?;
    let done = || -> rusqlite::Result<Vec<(i64, bool, Vec<u8>)>> {
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, \
             checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)",
        )?;
        let mut read =
            tx.prepare("SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version")?;
        let rows = read.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    };
    let done = done().map_err(|error| MigrateError::Execute(failed(error)))?;
    for (version, success, checksum) in &done {
        let Some(step) = migrator.iter().find(|step| step.version == *version) else {
            return Err(MigrateError::VersionMissing(*version));
        };
        if !success {
            return Err(MigrateError::Dirty(*version));
        }
        if step.checksum.as_ref() != checksum.as_slice() {
            return Err(MigrateError::VersionMismatch(*version));
        }
    }
    for step in migrator.iter().filter(|step| !done.iter().any(|(version, ..)| *version == step.version)) {
        let run = || {
            tx.execute_batch(step.sql.as_str())?;
            tx.execute(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (?1, ?2, TRUE, ?3, 0)",
                (step.version, step.description.as_ref(), step.checksum.as_ref()),
            )
        };
        run().map_err(|error| MigrateError::ExecuteMigration(failed(error), step.version))?;
    }
    tx.commit().map_err(|error| MigrateError::Execute(failed(error)))
}

/// Some connections to the file, each used by one at a time.
#[derive(Clone)]
pub(super) struct Connections(Arc<Home>);

struct Home {
    idle: Mutex<Vec<Connection>>,
    places: Arc<Semaphore>,
    count: u32,
}

impl Connections {
    fn of(connections: Vec<Connection>) -> Connections {
        let places = Arc::new(Semaphore::new(connections.len()));
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        Connections(Arc::new(Home { idle: Mutex::new(connections), places, count }))
    }

    /// Waits for a connection.
    pub(super) async fn take(&self) -> Result<Held, sqlx::Error> {
        let places = Arc::clone(&self.0.places);
        let place = tokio::time::timeout(TURN, places.acquire_owned())
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?
            .map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.ok_or(sqlx::Error::PoolClosed)?;
        Ok(Held(Some(Loan { connection: Some(connection), home: Arc::clone(&self.0), _place: place })))
    }

    /// Waits for those in use, and closes all: the last one brings the write-ahead log into the file.
    pub(super) async fn close(&self) {
        let all = Arc::clone(&self.0.places).acquire_many_owned(self.0.count).await;
        self.0.places.close();
        let connections = std::mem::take(&mut *self.0.idle.lock().unwrap_or_else(PoisonError::into_inner));
        let closed = tokio::task::spawn_blocking(move || drop(connections)).await;
        if let Err(error) = closed {
            tracing::warn!(target: "signet::ca", %error, "the store was not closed in good order");
        }
        drop(all);
    }
}

/// A connection that goes back when it is dropped, without whatever was not committed.
struct Loan {
    connection: Option<Connection>,
    home: Arc<Home>,
    /// Given back last.
    _place: OwnedSemaphorePermit,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if !connection.is_autocommit()
            && let Err(error) = connection.execute_batch("ROLLBACK")
        {
            // Whoever begins next finds it so, and is refused by SQLite.
            tracing::error!(target: "signet::ca", %error, "a transaction could not be taken back");
        }
        self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

/// A connection, borrowed. None while a thread works with it; whoever is dropped then leaves it to that thread.
pub(super) struct Held(Option<Loan>);

impl Held {
    fn connection(&self) -> Result<&Connection, sqlx::Error> {
        self.0.as_ref().and_then(|loan| loan.connection.as_ref()).ok_or_else(gone)
    }

    /// Runs it on a thread that may wait.
    async fn waiting<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, sqlx::Error> {
        let loan = self.0.take().ok_or_else(gone)?;
        let worked = tokio::task::spawn_blocking(move || {
            let result = loan.connection.as_ref().map(work);
            (loan, result)
        });
        let (loan, result) = worked.await.map_err(interrupted)?;
        self.0 = Some(loan);
        result.ok_or_else(gone)?.map_err(failed)
    }

    /// Begins to write, or waits for the right to, so that nothing later can fail for want of it.
    pub(super) async fn begin_to_write(&mut self) -> Result<(), sqlx::Error> {
        self.waiting(|connection| connection.execute_batch("BEGIN IMMEDIATE")).await
    }

    /// One unchanging view.
    pub(super) fn begin_to_read(&mut self) -> Result<(), sqlx::Error> {
        self.connection()?.execute_batch("BEGIN").map_err(failed)
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.waiting(|connection| connection.execute_batch("COMMIT")).await
    }

    /// Rows changed.
    pub(super) fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, sqlx::Error> {
        let run = |connection: &Connection| {
            let mut statement = connection.prepare_cached(sql)?;
            fill(&mut statement, values)?;
            // A statement with RETURNING may be executed for its effect.
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
            Ok(connection.changes())
        };
        run(self.connection()?).map_err(failed)
    }

    pub(super) fn first(&mut self, sql: &str, values: &[Value]) -> Result<Option<Vec<Cell>>, sqlx::Error> {
        let run = |connection: &Connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let width = statement.column_count();
            fill(&mut statement, values)?;
            let mut rows = statement.raw_query();
            let first = rows.next()?.map(|row| cells(row, width)).transpose()?;
            // What changes rows and returns them is done when the last was read.
            while rows.next()?.is_some() {}
            Ok(first)
        };
        run(self.connection()?).map_err(failed)
    }

    /// There may be many.
    pub(super) async fn all(
        &mut self,
        sql: sqlx::SqlStr,
        values: Vec<Value>,
    ) -> Result<Vec<Vec<Cell>>, sqlx::Error> {
        self.waiting(move |connection| {
            let mut statement = connection.prepare_cached(sql.as_str())?;
            let width = statement.column_count();
            fill(&mut statement, &values)?;
            let mut rows = statement.raw_query();
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(cells(row, width)?);
            }
            Ok(all)
        })
        .await
    }
}

fn cells(row: &rusqlite::Row<'_>, width: usize) -> rusqlite::Result<Vec<Cell>> {
    (0..width).map(|column| row.get(column)).collect()
}

/// To `$1` the first value, wherever and however often it stands.
fn fill(statement: &mut Statement<'_>, values: &[Value]) -> rusqlite::Result<()> {
    for place in 1..=statement.parameter_count() {
        let number = statement.parameter_name(place).and_then(|name| name.get(1..)?.parse::<usize>().ok());
        let value = values.get(number.unwrap_or(place).wrapping_sub(1));
        let value = value.ok_or(rusqlite::Error::InvalidParameterCount(values.len(), place))?;
        statement.raw_bind_parameter(place, value)?;
    }
    Ok(())
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Number(Some(number)) => ValueRef::Integer(*number),
            Value::Text(Some(text)) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(Some(bytes)) => ValueRef::Blob(bytes),
            Value::Number(None) | Value::Text(None) | Value::Bytes(None) => ValueRef::Null,
        }))
    }
}

fn gone() -> sqlx::Error {
    sqlx::Error::InvalidArgument("the connection was given up while it worked".into())
}

fn interrupted(error: tokio::task::JoinError) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(error))
}

/// What SQLite says, as the other driver says it.
#[derive(Debug, thiserror::Error)]
#[error("{message} (code {code})")]
struct Failed {
    /// Extended: https://www.sqlite.org/rescode.html
    code: i32,
    message: String,
}

fn failed(error: rusqlite::Error) -> sqlx::Error {
    let (code, message) = match error {
        rusqlite::Error::SqliteFailure(why, message) => {
            (why.extended_code, message.unwrap_or_else(|| why.to_string()))
        }
        other => return sqlx::Error::Decode(Box::new(other)),
    };
    sqlx::Error::Database(Box::new(Failed { code, message }))
}

impl DatabaseError for Failed {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.code.to_string().into())
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        match self.code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => ErrorKind::UniqueViolation,
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => ErrorKind::ForeignKeyViolation,
            ffi::SQLITE_CONSTRAINT_NOTNULL => ErrorKind::NotNullViolation,
            ffi::SQLITE_CONSTRAINT_CHECK => ErrorKind::CheckViolation,
            _ => ErrorKind::Other,
        }
    }
}
