//! Copies the SQLite store while it is written to.
//!
//! A connection of its own takes hold of one view of the file; what is committed later goes into the write-ahead log,
//! and is not brought into the file, for as long as that view is held. Chosen over `VACUUM INTO`, which takes its view at the
//! moment at which it begins to copy: other files could not be read at that same moment.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::sql::Pool;
use super::{Store, StoreError, sqlite};

/// Pages, 4 KiB each, that are copied before it is asked whether to go on.
const STEP: i32 = 256;

#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("something else holds the copy")]
    Held,
    #[error("the control plane is stopping: the copy was given up")]
    Stopping,
    #[error("the copy is damaged, as is the store then: {0}")]
    Damaged(String),
}

/// A connection that will take hold of a view.
pub(crate) struct Copier(Connection);

/// A view, held.
pub(crate) struct View(Connection);

impl Store {
    /// Gets ready to copy; none where the store is no file of ours.
    pub(crate) async fn copier(&self, file: &Path) -> Result<Option<Copier>, StoreError> {
        if matches!(self.desk.pool, Pool::Postgres(_)) {
            return Ok(None);
        }
        let path = file.to_owned();
        let opened =
            tokio::task::spawn_blocking(move || sqlite::connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY));
        Ok(Some(Copier(opened.await.map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))??)))
    }
}

impl Copier {
    /// From now on it sees what is committed now.
    pub(crate) fn hold(self) -> Result<View, CopyError> {
        // The view begins with the first reading, not with the transaction.
        self.0.execute_batch("BEGIN; SELECT id FROM founded")?;
        Ok(View(self.0))
    }
}

impl View {
    /// Writes it into a new file, and reads that again.
    pub(crate) fn write(self, path: &Path, stopping: &AtomicBool) -> Result<(), CopyError> {
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let writable = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut copy = Connection::open_with_flags(path, writable)?;
        // It is flushed when it is whole; until then nobody needs it.
        copy.pragma_update(None, "journal_mode", "OFF")?;
        copy.pragma_update(None, "synchronous", "OFF")?;
        let backup = Backup::new(&self.0, &mut copy)?;
        loop {
            if stopping.load(Ordering::Acquire) {
                return Err(CopyError::Stopping);
            }
            match backup.step(STEP)? {
                StepResult::Done => break,
                StepResult::More => {}
                _ => return Err(CopyError::Held),
            }
        }
        drop(backup);
        drop(copy);
        // The log of what comes is given back as soon as can be.
        drop(self);
        let copy = Connection::open_with_flags(path, writable)?;
        // One file, without a write-ahead log beside it.
        copy.pragma_update(None, "journal_mode", "DELETE")?;
        let found: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found != "ok" {
            return Err(CopyError::Damaged(found));
        }
        copy.close().map_err(|(_, error)| error)?;
        Ok(())
    }
}
