//! What was revoked, kept until it would have ended by itself.

use sqlx::Row as _;

use super::{Store, StoreError, Writer};

const COUNTER: &str = "revocations";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RevocationKind {
    Serial,
    Identity,
    Key,
    Delegation,
}

impl RevocationKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            RevocationKind::Serial => "serial",
            RevocationKind::Identity => "identity",
            RevocationKind::Key => "key",
            RevocationKind::Delegation => "delegation",
        }
    }

    fn parse(text: &str) -> Option<RevocationKind> {
        [RevocationKind::Serial, RevocationKind::Identity, RevocationKind::Key, RevocationKind::Delegation]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct RevocationRow {
    pub(crate) kind: RevocationKind,
    pub(crate) value: Vec<u8>,
    /// None: until lifted.
    pub(crate) expires_at: Option<i64>,
}

impl Writer {
    /// Revokes; a second revocation of the same thing keeps the later end.
    pub(crate) async fn insert_revocation(
        &mut self,
        row: &RevocationRow,
        reason: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO revocations (kind, value, reason, revoked_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (kind, value) DO UPDATE SET expires_at = \
             CASE WHEN expires_at IS NULL OR excluded.expires_at IS NULL THEN NULL \
             ELSE max(expires_at, excluded.expires_at) END",
        )
        .bind(row.kind.as_str())
        .bind(&row.value)
        .bind(reason)
        .bind(now)
        .bind(row.expires_at)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Whether something was there to lift.
    pub(crate) async fn delete_revocation(
        &mut self,
        kind: RevocationKind,
        value: &[u8],
    ) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM revocations WHERE kind = ?1 AND value = ?2")
            .bind(kind.as_str())
            .bind(value)
            .execute(&mut *self.tx)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Forgets what has ended by itself; whether there was any.
    pub(crate) async fn sweep_revocations(&mut self, now: i64) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM revocations WHERE expires_at <= ?1")
            .bind(now)
            .execute(&mut *self.tx)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    pub(crate) async fn is_revoked(
        &mut self,
        kind: RevocationKind,
        value: &[u8],
        now: i64,
    ) -> Result<bool, StoreError> {
        let found = sqlx::query(
            "SELECT 1 FROM revocations WHERE kind = ?1 AND value = ?2 AND (expires_at IS NULL OR expires_at > ?3)",
        )
        .bind(kind.as_str())
        .bind(value)
        .bind(now)
        .fetch_optional(&mut *self.tx)
        .await?;
        Ok(found.is_some())
    }

    /// The next number of the set.
    pub(crate) async fn next_revocation_sequence(&mut self) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "INSERT INTO counters (name, value) VALUES (?1, 1) \
             ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
        )
        .bind(COUNTER)
        .fetch_one(&mut *self.tx)
        .await?;
        Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0))
    }
}

impl Store {
    /// The number of the set and all that is in force, in one consistent view.
    pub(crate) async fn revocations(&self, now: i64) -> Result<(u64, Vec<RevocationRow>), StoreError> {
        let mut tx = self.reader.begin().await?;
        let sequence = sqlx::query("SELECT value FROM counters WHERE name = ?1")
            .bind(COUNTER)
            .fetch_optional(&mut *tx)
            .await?
            .map(|row| row.try_get::<i64, _>(0))
            .transpose()?
            .unwrap_or(0);
        let rows = sqlx::query(
            "SELECT kind, value, expires_at FROM revocations WHERE expires_at IS NULL OR expires_at > ?1 \
             ORDER BY kind, value",
        )
        .bind(now)
        .fetch_all(&mut *tx)
        .await?;
        let rows = rows.into_iter().map(|row| {
            let kind: String = row.try_get(0)?;
            Ok(RevocationRow {
                kind: RevocationKind::parse(&kind)
                    .ok_or(StoreError::Corrupt { table: "revocations", what: "an unknown kind" })?,
                value: row.try_get(1)?,
                expires_at: row.try_get(2)?,
            })
        });
        Ok((u64::try_from(sequence).unwrap_or(0), rows.collect::<Result<_, StoreError>>()?))
    }
}
