//! What only one control plane may do at a time.
//!
//! The leader holds a lock of the database for as long as its connection lives, and a number that only grows: its
//! epoch. Every act of the leader looks in its own transaction whether the epoch is still the newest, so that one who
//! lost the lock without knowing can do nothing. The server ends a leader's session that was silent for half a
//! minute. On SQLite the only process is the leader.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::sql::{Dialect, Pool, query};
use super::{Store, StoreError, Writer};

/// How often the leader is heard of. Three may be lost before the server gives up on it.
const PULSE: Duration = Duration::from_secs(8);
const SILENCE: &str = "SET idle_session_timeout = '30s'";

/// The right to lead, until it is dropped or lost.
#[derive(Debug)]
pub(crate) struct Lead {
    epoch: i64,
    lost: watch::Receiver<bool>,
    pulse: Option<AbortHandle>,
}

impl Lead {
    /// The fencing number: larger than that of every leader before.
    pub(crate) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Whether the connection that holds the lock is known to be gone. Acts are refused whether or not it is known.
    pub(crate) fn is_lost(&self) -> bool {
        *self.lost.borrow() || self.lost.has_changed().is_err() && self.pulse.is_some()
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(pulse) = &self.pulse {
            pulse.abort();
        }
    }
}

impl Store {
    /// Becomes the leader, if nobody is.
    pub(crate) async fn lead(&self) -> Result<Option<Lead>, StoreError> {
        let mut lock = None;
        if let Pool::Postgres(pool) = &self.desk.pool {
            let mut connection = pool.acquire().await?.detach();
            sqlx::query(SILENCE).execute(&mut connection).await?;
            let (got,): (bool,) =
                sqlx::query_as("SELECT pg_try_advisory_lock(1, 2)").fetch_one(&mut connection).await?;
            if !got {
                connection.close().await?;
                return Ok(None);
            }
            lock = Some(connection);
        }
        let mut writer = self.begin_alone().await?;
        let sql = "INSERT INTO leadership (id, epoch, holder) VALUES (1, 1, $1) \
                   ON CONFLICT (id) DO UPDATE SET epoch = leadership.epoch + 1, holder = $1 RETURNING epoch";
        let replica = self.desk.replica.to_string();
        let row = query(sql).bind(replica).fetch_one(writer.tx()).await?;
        let epoch = row.try_get(0)?;
        writer.commit().await?;
        let (gone, lost) = watch::channel(false);
        let pulse = lock.map(|connection| tokio::spawn(keep(connection, gone)).abort_handle());
        Ok(Some(Lead { epoch, lost, pulse }))
    }
}

impl Writer {
    /// Refuses the act if another leader came since. Until this act is over, none can come.
    pub(crate) async fn fenced(&mut self, lead: &Lead) -> Result<(), StoreError> {
        let sql = match self.tx().dialect() {
            Dialect::Postgres => "SELECT epoch FROM leadership WHERE id = 1 FOR SHARE",
            Dialect::Sqlite => "SELECT epoch FROM leadership WHERE id = 1",
        };
        let row = query(sql).fetch_optional(self.tx()).await?;
        let newest = row.map(|row| row.try_get::<i64>(0)).transpose()?;
        if newest == Some(lead.epoch) { Ok(()) } else { Err(StoreError::NotLeading { epoch: lead.epoch }) }
    }
}

/// Keeps the session that holds the lock alive, and says when it is not.
async fn keep(mut connection: PgConnection, gone: watch::Sender<bool>) {
    loop {
        tokio::time::sleep(PULSE).await;
        match tokio::time::timeout(PULSE, connection.ping()).await {
            Ok(Ok(())) => {}
            _ => {
                tracing::warn!(target: "signet::ca", "the lock of the leading control plane is lost");
                gone.send_replace(true);
                return;
            }
        }
    }
}
