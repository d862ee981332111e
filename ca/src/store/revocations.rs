//! What was revoked, kept until it would have ended by itself.
//!
//! Each row carries a MAC, and the log's marked head says how many rows there are and what they are together: a
//! row that somebody deleted, changed or put back is noticed at the start, each minute and before any change, and
//! a count that is not the head's stops every issuance. Nothing is un-revoked in silence.

use ring::digest::{Context, SHA256};
use sqlx::{Row as _, SqliteConnection};

use super::mac::{Column, RowMac, optional_number};
use super::{Store, StoreError, Writer, log};

const TABLE: &str = "revocations";

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

/// What the head says about the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SetHead {
    /// Only grows.
    pub(super) sequence: u64,
    pub(super) count: u64,
    /// Over the rows' MACs, in the order of their key.
    pub(super) digest: [u8; 32],
}

impl SetHead {
    pub(super) fn empty() -> SetHead {
        SetHead::of(0, &[])
    }

    fn of(sequence: u64, rows: &[StoredRow]) -> SetHead {
        let mut context = Context::new(&SHA256);
        rows.iter().for_each(|row| context.update(&row.mac));
        let mut digest = [0u8; 32];
        digest.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        SetHead { sequence, count: u64::try_from(rows.len()).unwrap_or(u64::MAX), digest }
    }
}

/// A row with what is in it beside the revocation. Its MAC was checked.
pub(super) struct StoredRow {
    row: RevocationRow,
    reason: String,
    revoked_at: i64,
    mac: Vec<u8>,
}

fn columns<'a>(row: &'a RevocationRow, reason: &'a str, revoked_at: i64) -> [Column<'a>; 5] {
    [
        Column::Text(row.kind.as_str()),
        Column::Bytes(&row.value),
        Column::Text(reason),
        Column::Number(revoked_at),
        optional_number(row.expires_at),
    ]
}

fn stored(mac: &RowMac, row: &sqlx::sqlite::SqliteRow) -> Result<StoredRow, StoreError> {
    let kind: String = row.try_get(0)?;
    let stored = StoredRow {
        row: RevocationRow {
            kind: RevocationKind::parse(&kind)
                .ok_or(StoreError::Corrupt { table: TABLE, what: "an unknown kind" })?,
            value: row.try_get(1)?,
            expires_at: row.try_get(2)?,
        },
        reason: row.try_get(3)?,
        revoked_at: row.try_get(4)?,
        mac: row.try_get(5)?,
    };
    mac.check(TABLE, &columns(&stored.row, &stored.reason, stored.revoked_at), &stored.mac)?;
    Ok(stored)
}

async fn all(connection: &mut SqliteConnection, mac: &RowMac) -> Result<Vec<StoredRow>, StoreError> {
    let sql = "SELECT kind, value, expires_at, reason, revoked_at, mac FROM revocations ORDER BY kind, value";
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    rows.iter().map(|row| stored(mac, row)).collect()
}

/// Every row, if they are together what the head says.
pub(super) async fn read(
    connection: &mut SqliteConnection,
    mac: &RowMac,
    head: &SetHead,
) -> Result<Vec<StoredRow>, StoreError> {
    let rows = all(connection, mac).await?;
    let found = SetHead::of(head.sequence, &rows);
    if found == *head {
        return Ok(rows);
    }
    Err(StoreError::Revocations { sequence: head.sequence, expected: head.count, found: found.count })
}

impl Writer {
    /// What the head says about the set.
    async fn set_head(&mut self) -> Result<SetHead, StoreError> {
        let head = log::known_head(&mut self.tx, &self.mac, &self.replica, self.head).await?;
        Ok(head.map_or_else(SetHead::empty, |head| head.revocations))
    }

    /// Before the first change: what is there must be what was written, or the change would bless it.
    async fn check_set(&mut self) -> Result<(), StoreError> {
        if !self.set_checked {
            let head = self.set_head().await?;
            read(&mut self.tx, &self.mac, &head).await?;
            self.set_checked = true;
        }
        Ok(())
    }

    async fn revocation(
        &mut self,
        kind: RevocationKind,
        value: &[u8],
    ) -> Result<Option<StoredRow>, StoreError> {
        let sql = "SELECT kind, value, expires_at, reason, revoked_at, mac FROM revocations \
                   WHERE kind = ?1 AND value = ?2";
        let row = sqlx::query(sql).bind(kind.as_str()).bind(value).fetch_optional(&mut *self.tx).await?;
        row.map(|row| stored(&self.mac, &row)).transpose()
    }

    /// Revokes; a second revocation of the same thing keeps the later end. [`Writer::mark_revocations`] must
    /// follow in the same transaction, as after every change.
    pub(crate) async fn insert_revocation(
        &mut self,
        row: &RevocationRow,
        reason: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        self.check_set().await?;
        let mut row = row.clone();
        if let Some(before) = self.revocation(row.kind, &row.value).await? {
            row.expires_at = before.row.expires_at.zip(row.expires_at).map(|(a, b)| a.max(b));
        }
        let mac = self.mac.tag(TABLE, &columns(&row, reason, now));
        sqlx::query(
            "INSERT INTO revocations (kind, value, reason, revoked_at, expires_at, mac) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (kind, value) DO UPDATE SET \
             reason = ?3, revoked_at = ?4, expires_at = ?5, mac = ?6",
        )
        .bind(row.kind.as_str())
        .bind(&row.value)
        .bind(reason)
        .bind(now)
        .bind(row.expires_at)
        .bind(mac)
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
        self.check_set().await?;
        let done = sqlx::query("DELETE FROM revocations WHERE kind = ?1 AND value = ?2")
            .bind(kind.as_str())
            .bind(value)
            .execute(&mut *self.tx)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Forgets what has ended by itself; whether there was any.
    pub(crate) async fn sweep_revocations(&mut self, now: i64) -> Result<bool, StoreError> {
        self.check_set().await?;
        let done = sqlx::query("DELETE FROM revocations WHERE expires_at <= ?1")
            .bind(now)
            .execute(&mut *self.tx)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// The count is compared too: a row that is not there may have been deleted.
    pub(crate) async fn is_revoked(
        &mut self,
        kind: RevocationKind,
        value: &[u8],
        now: i64,
    ) -> Result<bool, StoreError> {
        if let Some(found) = self.revocation(kind, value).await? {
            return Ok(found.row.expires_at.is_none_or(|end| end > now));
        }
        let SetHead { sequence, count: expected, .. } = self.set_head().await?;
        let counted = sqlx::query("SELECT count(*) FROM revocations").fetch_one(&mut *self.tx).await?;
        let found = u64::try_from(counted.try_get::<i64, _>(0)?).unwrap_or(0);
        if found != expected {
            return Err(StoreError::Revocations { sequence, expected, found });
        }
        Ok(false)
    }

    /// Marks the set as it is now in the head, under its next number. Numbers follow the clock, so that a
    /// store that was restored from an older copy goes on above what sidecars have heard already.
    pub(crate) async fn mark_revocations(&mut self, now: i64) -> Result<u64, StoreError> {
        let head = log::known_head(&mut self.tx, &self.mac, &self.replica, self.head).await?;
        let mut head = head.ok_or(super::ChainError::Head)?;
        let rows = all(&mut self.tx, &self.mac).await?;
        let sequence = head.revocations.sequence.saturating_add(1).max(u64::try_from(now).unwrap_or(0));
        head.revocations = SetHead::of(sequence, &rows);
        log::write_head(&mut self.tx, &self.mac, &self.replica, &head).await?;
        self.head = Some(head);
        Ok(sequence)
    }
}

impl Store {
    /// The number of the set and all that is in force, in one consistent view.
    pub(crate) async fn revocations(&self, now: i64) -> Result<(u64, Vec<RevocationRow>), StoreError> {
        let mut tx = self.reader.begin().await?;
        let head = log::head(&mut tx, &self.mac, &self.replica).await?;
        let head = head.map_or_else(SetHead::empty, |head| head.revocations);
        let rows = read(&mut tx, &self.mac, &head).await?;
        let in_force =
            |stored: StoredRow| stored.row.expires_at.is_none_or(|end| end > now).then_some(stored.row);
        Ok((head.sequence, rows.into_iter().filter_map(in_force).collect()))
    }
}
