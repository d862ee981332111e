//! Join tokens: made by an operator, consumed by one statement.

use super::mac::Column;
use super::sql::query;
use super::{StoreError, Writer, fixed};

const TABLE: &str = "join_tokens";

#[derive(Debug, Clone)]
pub(crate) struct TokenRow {
    pub(crate) hash: [u8; 32],
    pub(crate) spiffe_id: String,
    pub(crate) class: String,
    pub(crate) created_at: i64,
    pub(crate) expires_at: i64,
    pub(crate) created_by: String,
}

/// What became of the attempt to consume.
#[derive(Debug)]
pub(crate) enum Consumed {
    Yes(TokenRow),
    Unknown,
    Used,
    Expired,
}

impl TokenRow {
    fn columns(&self) -> [Column<'_>; 6] {
        [
            Column::Bytes(&self.hash),
            Column::Text(&self.spiffe_id),
            Column::Text(&self.class),
            Column::Number(self.created_at),
            Column::Number(self.expires_at),
            Column::Text(&self.created_by),
        ]
    }
}

impl Writer {
    pub(crate) async fn insert_token(&mut self, row: &TokenRow) -> Result<(), StoreError> {
        let mac = self.mac.tag(TABLE, &row.columns());
        query(
            "INSERT INTO join_tokens (hash, spiffe_id, class, created_at, expires_at, created_by, mac) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(row.hash.as_slice())
        .bind(&row.spiffe_id)
        .bind(&row.class)
        .bind(row.created_at)
        .bind(row.expires_at)
        .bind(&row.created_by)
        .bind(mac)
        .execute(self.tx())
        .await?;
        Ok(())
    }

    /// Consumes the token, once: whoever sees the row returned has it, everybody else sees none.
    pub(crate) async fn consume_token(&mut self, hash: &[u8; 32], now: i64) -> Result<Consumed, StoreError> {
        let consumed = query(
            "UPDATE join_tokens SET used_at = $2 WHERE hash = $1 AND used_at IS NULL AND expires_at > $2 \
             RETURNING spiffe_id, class, created_at, expires_at, created_by, mac",
        )
        .bind(hash.as_slice())
        .bind(now)
        .fetch_optional(self.tx())
        .await?;
        if let Some(found) = consumed {
            let row = TokenRow {
                hash: *hash,
                spiffe_id: found.try_get(0)?,
                class: found.try_get(1)?,
                created_at: found.try_get(2)?,
                expires_at: found.try_get(3)?,
                created_by: found.try_get(4)?,
            };
            let mac: Vec<u8> = found.try_get(5)?;
            self.mac.check(TABLE, &row.columns(), &mac)?;
            // The same token by way of a row whose `used_at` was wiped.
            let before = query("SELECT 1 FROM lineages WHERE origin = $1")
                .bind(hash.as_slice())
                .fetch_optional(self.tx())
                .await?;
            return Ok(if before.is_some() { Consumed::Used } else { Consumed::Yes(row) });
        }
        // Nothing was granted; what follows only finds the reason for the log.
        let state = query("SELECT used_at FROM join_tokens WHERE hash = $1")
            .bind(hash.as_slice())
            .fetch_optional(self.tx())
            .await?;
        Ok(match state {
            None => Consumed::Unknown,
            Some(row) if row.try_get::<Option<i64>>(0)?.is_some() => Consumed::Used,
            Some(_) => Consumed::Expired,
        })
    }

    /// The first certificate that this token brought, if it was for this key: its serial.
    pub(crate) async fn joined_by(
        &mut self,
        hash: &[u8; 32],
        key_hash: &[u8; 32],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let found = query(
            "SELECT svids.serial FROM svids JOIN lineages ON lineages.id = svids.lineage \
             WHERE svids.key_hash = $2 AND svids.parent IS NULL AND lineages.origin = $1",
        )
        .bind(hash.as_slice())
        .bind(key_hash.as_slice())
        .fetch_optional(self.tx())
        .await?;
        Ok(found.map(|row| row.try_get(0)).transpose()?)
    }

    /// Nobody can use a token any more that was made before; how many could have been.
    pub(crate) async fn end_tokens(&mut self, now: i64) -> Result<u64, StoreError> {
        let sql = "UPDATE join_tokens SET used_at = $1 WHERE used_at IS NULL AND expires_at > $1";
        Ok(query(sql).bind(now).execute(self.tx()).await?.rows_affected())
    }

    /// Forgets tokens that ended long ago.
    pub(crate) async fn sweep_tokens(&mut self, ended_before: i64) -> Result<(), StoreError> {
        query("DELETE FROM join_tokens WHERE expires_at < $1").bind(ended_before).execute(self.tx()).await?;
        Ok(())
    }
}

/// Reads a 32-byte hash column.
pub(super) fn hash(bytes: Vec<u8>, table: &'static str) -> Result<[u8; 32], StoreError> {
    fixed(bytes, table)
}
