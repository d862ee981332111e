//! Sealed keys that all control planes of one PostgreSQL store share.
//!
//! What lies here is opaque to the database: it was sealed before, bound to its name and to the trust domain. A change or
//! an exchange is therefore noticed by whoever opens it; what is gone is missed. The connection is one of its own, since a
//! key may be wanted while all others are held by acts that wait for it.
//!
//! Functions wait for the database: they belong on a thread that may block.

use std::fmt;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;

use super::postgres::{self, PostgresConfig, Way};
use super::sql::{Pool, query};
use super::{StoreConfig, StoreError};

/// The table `sealed_keys`.
#[derive(Clone)]
pub(crate) struct SealedTable {
    pool: Pool,
    place: String,
    runtime: Handle,
}

impl fmt::Debug for SealedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedTable").field("place", &self.place).finish_non_exhaustive()
    }
}

impl SealedTable {
    /// Connects, with a schema that fits. `None` where the store is a file, which is nobody else's.
    pub(crate) async fn open(store: &StoreConfig, dev: bool) -> Result<Option<SealedTable>, StoreError> {
        let StoreConfig::Postgres(config) = store else { return Ok(None) };
        Self::connect(config, dev).await.map(Some)
    }

    async fn connect(config: &PostgresConfig, dev: bool) -> Result<SealedTable, StoreError> {
        let way = Way::read(config)?;
        way.require_protected(dev)?;
        let pool = postgres::open_with(&way, config.migrate, 1).await?;
        Ok(SealedTable { pool: Pool::Postgres(pool), place: way.place, runtime: Handle::current() })
    }

    pub(crate) fn place(&self, name: &str) -> String {
        format!("{name} in PostgreSQL at {}", self.place)
    }

    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.wait(async {
            let row = query("SELECT content FROM sealed_keys WHERE name = $1")
                .bind(name)
                .fetch_optional(&mut self.pool.read().await?)
                .await?;
            Ok(row.map(|row| row.try_get(0)).transpose()?)
        })
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        self.wait(async {
            query(
                "INSERT INTO sealed_keys (name, content, written_at) VALUES ($1, $2, $3) \
                 ON CONFLICT (name) DO UPDATE SET content = excluded.content, written_at = excluded.written_at",
            )
            .bind(name)
            .bind(content)
            .bind(now())
            .execute(&mut self.pool.read().await?)
            .await?;
            Ok(())
        })
    }

    /// Keeps all of them at once, except where something has the name already.
    pub(crate) fn write_first(&self, rows: &[(&str, &[u8])]) -> Result<(), StoreError> {
        self.wait(async {
            let mut tx = self.pool.write().await?;
            for (name, content) in rows {
                query(
                    "INSERT INTO sealed_keys (name, content, written_at) VALUES ($1, $2, $3) \
                     ON CONFLICT (name) DO NOTHING",
                )
                .bind(*name)
                .bind(*content)
                .bind(now())
                .execute(&mut tx)
                .await?;
            }
            Ok(tx.commit().await?)
        })
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.wait(async {
            query("DELETE FROM sealed_keys WHERE name = $1")
                .bind(name)
                .execute(&mut self.pool.read().await?)
                .await?;
            Ok(())
        })
    }

    /// Names, and how long ago each was written.
    pub(crate) fn list(&self) -> Result<Vec<(String, Option<Duration>)>, StoreError> {
        self.wait(async {
            let rows = query("SELECT name, written_at FROM sealed_keys ORDER BY name")
                .fetch_all(&mut self.pool.read().await?)
                .await?;
            let now = now();
            rows.iter()
                .map(|row| {
                    let age = u64::try_from(now.saturating_sub(row.try_get::<i64>(1)?)).ok();
                    Ok((row.try_get(0)?, age.map(Duration::from_secs)))
                })
                .collect()
        })
    }

    /// In words the store that this is in, where a mesh was founded in it.
    pub(crate) fn bound(&self) -> Result<Option<String>, StoreError> {
        self.wait(async {
            let row = query("SELECT 1 FROM founded").fetch_optional(&mut self.pool.read().await?).await?;
            Ok(row.map(|_| format!("the store of a mesh in PostgreSQL at {}", self.place)))
        })
    }

    /// Closes the connection.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.runtime.block_on(answer)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
