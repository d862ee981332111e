//! What the authority remembers: join tokens, lineages, issued certificates, revocations, the log.
//!
//! SQLite in the data directory, mode 0600, write-ahead log. All writing goes through a [`Writer`]: one
//! transaction at a time, which holds the issuance log's end, so that an act and its record are one. No
//! private key or bearer secret is ever stored. Rows that grant or take back carry a MAC that is checked on every
//! read, and one row binds the store to its authority's root: a store that is gone, empty or another's is refused.

mod founded;
mod lineages;
mod log;
mod mac;
mod revocations;
mod svids;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqlSafeStr as _, Sqlite, SqlitePool, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard, broadcast};

use crate::record::{Entry, Record};
use signet_identity::KeyId;

pub(crate) use lineages::LineageRow;
pub use log::{ChainError, Verified};
pub(crate) use mac::RowMac;
use revocations::SetHead;
pub(crate) use revocations::{RevocationKind, RevocationRow};
pub(crate) use svids::SvidRow;
pub(crate) use tokens::{Consumed, TokenRow};

/// How long a statement waits for another process (an operator's `sqlite3`, a backup) that holds the file.
const BUSY: Duration = Duration::from_secs(5);
/// How long an act waits for its turn to write.
const TURN: Duration = Duration::from_secs(10);
/// Records that a slow subscriber may lag behind before it loses some (it is told how many).
const LIVE_RECORDS: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store failed: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("the store's schema could not be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("the store's file: {0}")]
    File(#[from] crate::files::FileError),
    #[error("a row of {table} does not carry the authority's mark: somebody else wrote to the store")]
    Tampered { table: &'static str },
    #[error("a row of {table} cannot be read: {what}")]
    Corrupt { table: &'static str, what: &'static str },
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(
        "{path} does not exist although root.sealed does: expected the store of the root {root}; restore it from a backup (without it all revocations and the issuance log would be forgotten), or move the whole data directory away to begin a new mesh"
    )]
    Missing { path: PathBuf, root: String },
    #[error(
        "{path} is empty or was never finished: expected the store of the root {root}, which root.sealed holds; restore it from a backup, or move the whole data directory away to begin a new mesh"
    )]
    Unbound { path: PathBuf, root: String },
    #[error(
        "{path} is another authority's: expected the store of the root {root}, which root.sealed holds, found that of the root {found}; restore the two of one backup together"
    )]
    Foreign { path: PathBuf, root: String, found: String },
    #[error(
        "the revocations are not those that the authority wrote: expected {expected} (list number {sequence}), found {found}, or the same number of others; somebody else wrote to the store: restore it from a backup"
    )]
    Revocations { sequence: u64, expected: u64, found: u64 },
    #[error("the store was busy for {} s", TURN.as_secs())]
    Busy,
}

/// The end of the issuance log as this process last wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    sequence: u64,
    hash: [u8; 32],
    revocations: SetHead,
}

/// Whose store it is.
pub(crate) struct Owner<'a> {
    pub(crate) mac: RowMac,
    pub(crate) replica: &'a str,
    /// SHA-256 of the root certificate.
    pub(crate) root: KeyId,
    /// The first start has not been finished: the store may be made.
    pub(crate) founding: bool,
}

pub(crate) struct Store {
    writer: SqlitePool,
    reader: SqlitePool,
    mac: RowMac,
    replica: Arc<str>,
    /// Held for as long as a transaction writes. Holds the last head written, so that a log that was set
    /// back under a running process is noticed.
    turn: Arc<Mutex<Option<Head>>>,
    live: broadcast::Sender<Arc<Record>>,
}

impl Store {
    pub(crate) async fn open(path: &Path, owner: Owner<'_>) -> Result<Store, StoreError> {
        if !crate::files::private_exists(path)? {
            if !owner.founding {
                return Err(StoreError::Missing { path: path.to_owned(), root: owner.root.to_string() });
            }
            // Made here, so that it is 0600 from its first moment; SQLite gives its journals the same mode.
            crate::files::write_private(path, b"")?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            // What was answered must survive a power cut: a lost consumption would let a token in twice.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(TURN)
            .connect_with(options.clone())
            .await?;
        migrator().run(&writer).await?;
        founded::check(&writer, path, &owner).await?;
        let reader = SqlitePoolOptions::new()
            .max_connections(2)
            .acquire_timeout(TURN)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Store {
            writer,
            reader,
            mac: owner.mac,
            replica: owner.replica.into(),
            turn: Arc::new(Mutex::new(None)),
            live: broadcast::channel(LIVE_RECORDS).0,
        })
    }

    /// Waits for its turn and begins to write. Dropping the writer undoes everything.
    pub(crate) async fn begin(&self) -> Result<Writer, StoreError> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.turn).lock_owned())
            .await
            .map_err(|_| StoreError::Busy)?;
        let tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Writer {
            tx,
            mac: self.mac.clone(),
            replica: Arc::clone(&self.replica),
            head: *turn,
            turn,
            pending: Vec::new(),
            set_checked: false,
            live: self.live.clone(),
        })
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> {
        self.live.subscribe()
    }

    /// Whether a join token with this hash was ever made here: a cheap look without the right to write, so
    /// that a flood of guesses does not queue up behind the writer.
    pub(crate) async fn knows_token(&self, hash: &[u8; 32]) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT 1 FROM join_tokens WHERE hash = ?1")
            .bind(hash.as_slice())
            .fetch_optional(&self.reader)
            .await?;
        Ok(found.is_some())
    }

    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// One transaction. What it writes and records happens as a whole, at [`Writer::commit`].
pub(crate) struct Writer {
    tx: Transaction<'static, Sqlite>,
    mac: RowMac,
    replica: Arc<str>,
    head: Option<Head>,
    pending: Vec<Arc<Record>>,
    /// The revocations were found to be what the head says, before this transaction changed them.
    set_checked: bool,
    live: broadcast::Sender<Arc<Record>>,
    turn: OwnedMutexGuard<Option<Head>>,
}

impl Writer {
    /// Adds a record to the log, as part of this transaction.
    pub(crate) async fn record(&mut self, entry: Entry) -> Result<(), StoreError> {
        let (record, head) = log::append(&mut self.tx, &self.mac, &self.replica, self.head, entry).await?;
        self.head = Some(head);
        self.pending.push(Arc::new(record));
        Ok(())
    }

    /// Makes it so, then tells the subscribers, in the order of the log.
    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        self.tx.commit().await?;
        *self.turn = self.head;
        for record in self.pending {
            // Nobody listening is no error.
            let _ = self.live.send(record);
        }
        Ok(())
    }
}

fn migrator() -> Migrator {
    let steps = [(1, "first form", include_str!("../../migrations/0001_first_form.sql"))];
    Migrator::with_migrations(
        steps
            .into_iter()
            .map(|(version, name, sql)| {
                Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
            })
            .collect(),
    )
}

/// Reads a blob of a fixed length.
fn fixed<const N: usize>(bytes: Vec<u8>, table: &'static str) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt { table, what: "a value has the wrong length" })
}
