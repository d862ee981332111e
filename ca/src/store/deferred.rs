//! Contexts that were put off, each opened so many times by one workload.

use super::mac::Column;
use super::sql::query;
use super::{StoreError, Writer};

const TABLE: &str = "deferred";

#[derive(Debug, Clone)]
pub(crate) struct DeferredRow {
    pub(crate) id: [u8; 32],
    /// Who may open it.
    pub(crate) spiffe_id: String,
    /// Who put it off.
    pub(crate) producer: String,
    /// Encrypted.
    pub(crate) content: Vec<u8>,
    pub(crate) created_at: i64,
    pub(crate) ends_at: i64,
    /// How often it may be opened.
    pub(crate) allowed: i64,
}

impl DeferredRow {
    fn columns(&self) -> [Column<'_>; 7] {
        [
            Column::Bytes(&self.id),
            Column::Text(&self.spiffe_id),
            Column::Text(&self.producer),
            Column::Bytes(&self.content),
            Column::Number(self.created_at),
            Column::Number(self.ends_at),
            Column::Number(self.allowed),
        ]
    }
}

impl Writer {
    pub(crate) async fn insert_deferred(&mut self, row: &DeferredRow) -> Result<(), StoreError> {
        let mac = self.mac.tag(TABLE, &row.columns());
        query(
            "INSERT INTO deferred (id, spiffe_id, producer, content, created_at, ends_at, allowed, opened, mac) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8)",
        )
        .bind(row.id.as_slice())
        .bind(&row.spiffe_id)
        .bind(&row.producer)
        .bind(&row.content)
        .bind(row.created_at)
        .bind(row.ends_at)
        .bind(row.allowed)
        .bind(mac)
        .execute(self.tx())
        .await?;
        Ok(())
    }

    /// How many of a producer can still be opened.
    pub(crate) async fn deferred_by(&mut self, producer: &str, now: i64) -> Result<i64, StoreError> {
        let row =
            query("SELECT COUNT(*) FROM deferred WHERE producer = $1 AND ends_at > $2 AND opened < allowed")
                .bind(producer)
                .bind(now)
                .fetch_optional(self.tx())
                .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(0))
    }

    /// Opens one, if it is for this workload, has not ended, and was not opened as often as it may: one statement, so that
    /// two who try at once are not both let in.
    pub(crate) async fn open_deferred(
        &mut self,
        id: &[u8; 32],
        spiffe_id: &str,
        now: i64,
    ) -> Result<Option<DeferredRow>, StoreError> {
        let found = query(
            "UPDATE deferred SET opened = opened + 1 \
             WHERE id = $1 AND spiffe_id = $2 AND ends_at > $3 AND opened < allowed \
             RETURNING producer, content, created_at, ends_at, allowed, mac",
        )
        .bind(id.as_slice())
        .bind(spiffe_id)
        .bind(now)
        .fetch_optional(self.tx())
        .await?;
        let Some(found) = found else { return Ok(None) };
        let row = DeferredRow {
            id: *id,
            spiffe_id: spiffe_id.to_owned(),
            producer: found.try_get(0)?,
            content: found.try_get(1)?,
            created_at: found.try_get(2)?,
            ends_at: found.try_get(3)?,
            allowed: found.try_get(4)?,
        };
        let mac: Vec<u8> = found.try_get(5)?;
        self.mac.check(TABLE, &row.columns(), &mac)?;
        Ok(Some(row))
    }

    /// None can be opened any more.
    pub(crate) async fn end_deferred(&mut self) -> Result<(), StoreError> {
        query("DELETE FROM deferred").execute(self.tx()).await?;
        Ok(())
    }

    /// Forgets those that ended before this.
    pub(crate) async fn sweep_deferred(&mut self, before: i64) -> Result<(), StoreError> {
        query("DELETE FROM deferred WHERE ends_at < $1").bind(before).execute(self.tx()).await?;
        Ok(())
    }
}
