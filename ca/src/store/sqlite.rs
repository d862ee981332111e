//! The store as a file of the data directory: one process, one writer.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::sql::{Dialect, Pool};
use super::{Owner, StoreError, TURN, schema};

/// How long a statement waits for another process (an operator's `sqlite3`, a backup) that holds the file.
const BUSY: Duration = Duration::from_secs(5);

/// Opens the file, or makes it at the first start of the authority.
pub(super) async fn open(path: &Path, owner: &Owner<'_>) -> Result<Pool, StoreError> {
    if !crate::files::private_exists(path)? {
        if !owner.founding {
            return Err(StoreError::Missing { path: path.to_owned(), mesh: owner.mesh.to_string() });
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
    schema::migrator(Dialect::Sqlite).run(&writer).await?;
    let reader = SqlitePoolOptions::new()
        .max_connections(2)
        .acquire_timeout(TURN)
        .connect_with(options.read_only(true))
        .await?;
    Ok(Pool::Sqlite { writer, reader })
}
