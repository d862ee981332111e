//! What the authority remembers: join tokens, lineages, issued certificates, revocations, the log.
//!
//! SQLite in the data directory, mode 0600, write-ahead log; or PostgreSQL, with any number of control planes on it.
//! The SQL is one ([`sql`]), and so are the steps that make the schema ([`schema`]). All writing goes through a
//! [`Writer`]: one act, which holds the issuance log's end, so that an act and its record are one. No
//! private key or bearer secret is ever stored. Rows that grant or take back carry a MAC that is checked on every
//! read, and one row binds the store to its mesh's key for them: a store that is gone, empty or another's is refused.

mod attested;
mod authorities;
mod changes;
mod copy;
mod deferred;
mod delegations;
mod founded;
mod lead;
mod lineages;
mod log;
mod mac;
mod members;
mod missed;
mod operators;
mod postgres;
mod replicas;
mod revocations;
mod revoked;
mod schema;
mod sealed;
mod sidecars;
mod signed;
mod spread;
mod sql;
mod sqlite;
mod svids;
mod tokens;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus::IntCounter;
use signet_audit::{AuditKey, Signed};
use signet_identity::KeyId;
use sqlx::migrate::MigrateError;
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

use crate::record::Record;

pub(crate) use authorities::Journal;
pub(crate) use changes::Change;
pub(crate) use copy::Copier;
pub use copy::CopyError;
pub(crate) use deferred::DeferredRow;
pub(crate) use delegations::DelegationRow;
pub(crate) use lead::Lead;
pub(crate) use lineages::LineageRow;
pub use log::{ChainError, Verified};
pub(crate) use mac::{Column, RowMac};
pub(crate) use members::member_serial;
pub(crate) use missed::Missed;
pub(crate) use operators::OperatorRow;
use postgres::Way;
pub use postgres::{Login, PostgresConfig, PostgresError, Server, Tls};
pub(crate) use replicas::Replica;
pub use replicas::ReplicaStatus;
pub(crate) use revocations::{RevocationKind, RevocationRow};
pub(crate) use sealed::SealedTable;
pub(crate) use sidecars::instance_named;
pub use sidecars::{Acknowledged, GivenUp};
pub use signed::{Cursor, Search};
pub(crate) use spread::SpreadRow;
use sql::{Pool, query};
pub(crate) use svids::SvidRow;
pub(crate) use tokens::{Consumed, TokenRow};
use writer::{Desk, TURN};
pub(crate) use writer::{Guarded, Writer};

/// Records that a slow subscriber may lag behind before it loses some (it is told how many).
const LIVE_RECORDS: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store failed: {0}")]
    Sql(#[source] sqlx::Error),
    /// Another control plane did the same at the same moment.
    #[error("the store holds this {} already", .0.as_str())]
    Taken(Taken),
    /// An act that shared its transaction with others failed with it.
    #[error("{0}")]
    Shared(Arc<StoreError>),
    #[error("the store's schema could not be brought up to date: {0}")]
    Migrate(#[source] MigrateError),
    #[error(
        "{place} has the schema of step {found}, but this version knows {wanted} steps: start the newer version that wrote it, or restore the copy that was made before"
    )]
    Newer { place: String, found: i64, wanted: i64 },
    #[error("the store's file: {0}")]
    File(#[from] crate::files::FileError),
    #[error("a row of {table} does not carry the authority's mark: somebody else wrote to the store")]
    Tampered { table: &'static str },
    #[error("a row of {table} cannot be read: {what}")]
    Corrupt { table: &'static str, what: &'static str },
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(
        "{path} does not exist although row-mac.sealed does: expected the store of the mesh {mesh}; restore it from a backup (without it all revocations and the issuance log would be forgotten), or move the whole data directory away to begin a new mesh"
    )]
    Missing { path: PathBuf, mesh: String },
    #[error(
        "{place} is empty or was never finished: expected the store of the mesh {mesh}, to which row-mac.sealed belongs; restore it from a backup, or move the whole data directory away to begin a new mesh"
    )]
    Unbound { place: String, mesh: String },
    #[error(
        "{place} is another mesh's: expected the store of the mesh {mesh}, to which row-mac.sealed belongs, found that of the mesh {found}; restore the two of one backup together"
    )]
    Foreign { place: String, mesh: String, found: String },
    #[error(
        "the revocations are not those that the authority wrote: expected {expected} (list number {sequence}), found {found}, or the same number of others; somebody else wrote to the store: restore it from a backup"
    )]
    Revocations { sequence: u64, expected: u64, found: u64 },
    #[error(
        "the revocations were set back: this process has read list number {seen}, the store is at {found}; restore it from a newer backup, or restart if that is the newest"
    )]
    RevocationsSetBack { seen: u64, found: u64 },
    #[error("the store was busy for {} s", TURN.as_secs())]
    Busy,
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error("{} does not say who this control plane is: restore it from a backup", path.display())]
    ReplicaFile { path: PathBuf },
    #[error(
        "the configuration names this control plane {configured}, but its data directory is that of {found}: name it so, or give it a directory of its own"
    )]
    ReplicaName { configured: String, found: String },
    #[error(
        "another data directory has the name {name} in this store: give this control plane another (replica.name), or bring its own directory back"
    )]
    ReplicaTaken { name: String },
    #[error(
        "the store does not know {name}, which wrote to it before: it is another or an older one; restore it from a newer backup"
    )]
    ReplicaForgotten { name: String },
    #[error("the audit key: {0}")]
    Audit(#[from] signet_audit::KeyError),
    #[error("another control plane leads now: an act of epoch {epoch} is refused")]
    NotLeading { epoch: i64 },
}

/// What can be there once only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A certificate for this public key.
    Key,
    /// A renewal of this certificate.
    Parent,
    /// A lineage from this join token.
    Origin,
}

impl Taken {
    fn as_str(self) -> &'static str {
        match self {
            Taken::Key => "certificate's key",
            Taken::Parent => "renewal of the certificate",
            Taken::Origin => "lineage's beginning",
        }
    }

    /// From the name of the constraint (PostgreSQL) or column (SQLite).
    fn read(error: &dyn sqlx::error::DatabaseError) -> Option<Taken> {
        if !error.is_unique_violation() {
            return None;
        }
        let what = error.constraint().unwrap_or_else(|| error.message());
        match what {
            _ if what.contains("svids_key_hash") || what.contains("svids.key_hash") => Some(Taken::Key),
            _ if what.contains("svids_parent") || what.contains("svids.parent") => Some(Taken::Parent),
            _ if what.contains("lineages_origin") || what.contains("lineages.origin") => Some(Taken::Origin),
            _ => None,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        let Some(database) = error.as_database_error() else { return StoreError::Sql(error) };
        if let Some(taken) = Taken::read(database) {
            return StoreError::Taken(taken);
        }
        // PostgreSQL: a lock was not to be had in time, a deadlock, a statement or a pause that took too long.
        // SQLite: another process holds the file.
        match database.code().as_deref() {
            Some("55P03" | "40P01" | "57014" | "25P03" | "5") => StoreError::Busy,
            _ => StoreError::Sql(error),
        }
    }
}

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StoreConfig {
    /// A file in the data directory.
    #[default]
    Sqlite,
    Postgres(PostgresConfig),
}

/// Whose store it is.
pub(crate) struct Owner<'a> {
    pub(crate) mac: RowMac,
    pub(crate) replica: &'a Replica,
    /// The mesh's name, see [`RowMac::mesh`].
    pub(crate) mesh: KeyId,
    /// The first start has not been finished: the store may be made.
    pub(crate) founding: bool,
    /// PostgreSQL may be reached without TLS.
    pub(crate) dev: bool,
    /// Counts transactions.
    pub(crate) commits: IntCounter,
    /// Where records go that the log does not take; none: then nothing is done.
    pub(crate) missed: Option<Missed>,
}

pub(crate) struct Store {
    desk: Desk,
    /// Number of the newest set of revocations that was read here.
    set_seen: AtomicU64,
    /// Hears other control planes; none on SQLite.
    listener: Option<AbortHandle>,
    /// It was bound to the mesh by this process.
    made_here: bool,
}

impl StoreError {
    /// Why the steps were not made at `place`.
    fn not_migrated(error: MigrateError, place: String) -> StoreError {
        match error {
            MigrateError::VersionMissing(found) => {
                StoreError::Newer { place, found, wanted: schema::newest() }
            }
            error => StoreError::Migrate(error),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

impl Store {
    /// Opens the store. `file` is where SQLite's lies.
    pub(crate) async fn open(
        config: &StoreConfig,
        file: &Path,
        owner: Owner<'_>,
        now: i64,
    ) -> Result<Store, StoreError> {
        let (pool, place) = match config {
            StoreConfig::Sqlite => (sqlite::open(file, &owner).await?, file.display().to_string()),
            StoreConfig::Postgres(config) => {
                let way = Way::read(config)?;
                way.require_protected(owner.dev)?;
                (Pool::Postgres(postgres::open(&way, config.migrate).await?), way.place)
            }
        };
        let made_here = founded::check(&pool, &place, &owner).await?;
        replicas::join(&pool, &owner.mac, owner.replica, now).await?;
        let desk =
            Desk::new(pool, owner.mac, &owner.replica.name, (LIVE_RECORDS, owner.commits), owner.missed);
        let listener = match &desk.pool {
            Pool::Sqlite { .. } => None,
            Pool::Postgres(pool) => {
                Some(tokio::spawn(postgres::listen(pool.clone(), desk.changes.clone())).abort_handle())
            }
        };
        Ok(Store { desk, set_seen: AtomicU64::new(0), listener, made_here })
    }

    /// Waits for its turn and begins to write. Dropping the writer undoes everything that it did.
    pub(crate) async fn begin(&self) -> Result<Writer, StoreError> {
        self.desk.begin(false, &[]).await
    }

    /// The same for an act that may be done once only, whichever control plane does it.
    pub(crate) async fn begin_once(&self, guarded: &[Guarded<'_>]) -> Result<Writer, StoreError> {
        self.desk.begin(false, guarded).await
    }

    /// The same for an act that changes the revocations or the hierarchy: no other act is under way in any control
    /// plane until it is done.
    pub(crate) async fn begin_alone(&self) -> Result<Writer, StoreError> {
        self.desk.begin(true, &[]).await
    }

    /// Whether this process made it, as the first of the mesh.
    pub(crate) fn made_here(&self) -> bool {
        self.made_here
    }

    /// The mesh's name.
    pub(crate) fn mesh(&self) -> KeyId {
        self.desk.mac.mesh()
    }

    /// The mark of what the authority wrote.
    pub(crate) fn row_mac(&self) -> RowMac {
        self.desk.mac.clone()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> {
        self.desk.live.subscribe()
    }

    /// What changed, here or by another control plane. Whoever lags has missed something, and reads everything.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.desk.changes.subscribe()
    }

    /// Whether a join token with this hash was ever made here: a cheap look without the right to write, so
    /// that a flood of guesses does not queue up behind the writer.
    pub(crate) async fn knows_token(&self, hash: &[u8; 32]) -> Result<bool, StoreError> {
        let found = query("SELECT 1 FROM join_tokens WHERE hash = $1")
            .bind(hash.as_slice())
            .fetch_optional(&mut self.desk.pool.read().await?)
            .await?;
        Ok(found.is_some())
    }

    /// Says that this control plane is alive, and signs where its log ends.
    pub(crate) async fn beat(
        &self,
        key: &AuditKey,
        trust_domain: &str,
        now: i64,
    ) -> Result<Option<Signed>, StoreError> {
        let mut writer = self.begin().await?;
        let name = self.desk.replica.to_string();
        replicas::beat(writer.tx(), &name, now).await?;
        let signed = writer.sign_head(key, trust_domain, now).await?;
        writer.commit().await?;
        Ok(signed)
    }

    pub(crate) async fn close(&self) {
        self.desk.pool.close().await;
    }
}

/// Reads a blob of a fixed length.
fn fixed<const N: usize>(bytes: Vec<u8>, table: &'static str) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt { table, what: "a value has the wrong length" })
}

/// Makes the tables of a PostgreSQL store, as their owner, and lets `role` use them. Nothing else is touched.
pub async fn migrate(config: &PostgresConfig, role: Option<&str>, dev: bool) -> Result<(), StoreError> {
    let way = Way::read(config)?;
    way.require_protected(dev)?;
    postgres::bring_up_to_date(&way, role).await
}
