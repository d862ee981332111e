//! What was revoked, kept until it would have ended by itself.
//!
//! Each row carries a MAC, and one marked head says how many rows there are and what they are together, for all
//! control planes of the store: a row that somebody deleted, changed or put back is noticed at the start, each minute
//! and before any change, and a count that is not the head's stops every issuance. Nothing is un-revoked in silence.
//! The set is changed only by who is alone with it ([`Store::begin_alone`]).

use std::sync::atomic::Ordering;

use ring::digest::{Context, SHA256};
use sqlx::AssertSqlSafe;

use super::changes::Change;
use super::log::number_of;
use super::mac::{Column, RowMac, optional_number};
use super::sql::{Row, Run, Tx, query};
use super::{Store, StoreError, Writer, tokens};

const TABLE: &str = "revocations";
const HEAD: &str = "revocation_head";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RevocationKind {
    Serial,
    Identity,
    Key,
    Delegation,
    /// A chain of renewals: its id.
    Lineage,
    /// What was attested, by [`instance_named`](super::instance_named).
    Instance,
    /// A certificate of a revoked lineage or instance: SHA-256 of what that is named, then the serial.
    Member,
    /// A user: `<alias>|<sub>`.
    User,
    /// What was issued to a user until it was revoked.
    Logout,
    /// A session: `<alias>|<sid>`.
    Session,
    /// An access token: `<alias>|<jti>`.
    Token,
}

impl RevocationKind {
    const ALL: [RevocationKind; 11] = [
        RevocationKind::Serial,
        RevocationKind::Identity,
        RevocationKind::Key,
        RevocationKind::Delegation,
        RevocationKind::Lineage,
        RevocationKind::Instance,
        RevocationKind::Member,
        RevocationKind::User,
        RevocationKind::Logout,
        RevocationKind::Session,
        RevocationKind::Token,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            RevocationKind::Serial => "serial",
            RevocationKind::Identity => "identity",
            RevocationKind::Key => "key",
            RevocationKind::Delegation => "delegation",
            RevocationKind::Lineage => "lineage",
            RevocationKind::Instance => "instance",
            RevocationKind::Member => "member",
            RevocationKind::User => "user",
            RevocationKind::Logout => "logout",
            RevocationKind::Session => "session",
            RevocationKind::Token => "token",
        }
    }

    fn parse(text: &str) -> Option<RevocationKind> {
        RevocationKind::ALL.into_iter().find(|kind| kind.as_str() == text)
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
    pub(super) row: RevocationRow,
    reason: String,
    pub(super) revoked_at: i64,
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

fn stored(mac: &RowMac, row: &Row) -> Result<StoredRow, StoreError> {
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

async fn all(on: &mut impl Run, mac: &RowMac) -> Result<Vec<StoredRow>, StoreError> {
    let sql = "SELECT kind, value, expires_at, reason, revoked_at, mac FROM revocations ORDER BY kind, value";
    let rows = query(sql).fetch_all(on).await?;
    rows.iter().map(|row| stored(mac, row)).collect()
}

fn head_columns(head: &SetHead) -> [Column<'_>; 3] {
    [
        Column::Number(number_of(head.sequence)),
        Column::Number(number_of(head.count)),
        Column::Bytes(&head.digest),
    ]
}

/// The set begins, empty.
pub(super) async fn found(tx: &mut Tx, mac: &RowMac) -> Result<(), StoreError> {
    let head = SetHead::of(0, &[]);
    query("INSERT INTO revocation_head (id, sequence, size, digest, mac) VALUES (1, $1, $2, $3, $4)")
        .bind(number_of(head.sequence))
        .bind(number_of(head.count))
        .bind(head.digest.as_slice())
        .bind(mac.tag(HEAD, &head_columns(&head)))
        .execute(tx)
        .await?;
    Ok(())
}

/// What the head says about the set, which was at `seen` at least.
async fn head(on: &mut impl Run, mac: &RowMac, seen: u64) -> Result<SetHead, StoreError> {
    let corrupt = |what| StoreError::Corrupt { table: HEAD, what };
    let row = query("SELECT sequence, size, digest, mac FROM revocation_head WHERE id = 1")
        .fetch_optional(on)
        .await?
        .ok_or(corrupt("it is missing"))?;
    let number = |value: i64| u64::try_from(value).map_err(|_| corrupt("a number is negative"));
    let head = SetHead {
        sequence: number(row.try_get(0)?)?,
        count: number(row.try_get(1)?)?,
        digest: tokens::hash(row.try_get(2)?, HEAD)?,
    };
    let tag: Vec<u8> = row.try_get(3)?;
    mac.check(HEAD, &head_columns(&head), &tag)?;
    if head.sequence < seen {
        return Err(StoreError::RevocationsSetBack { seen, found: head.sequence });
    }
    Ok(head)
}

/// The head and every row, if they are together what the head says.
pub(super) async fn read(
    on: &mut impl Run,
    mac: &RowMac,
    seen: u64,
) -> Result<(SetHead, Vec<StoredRow>), StoreError> {
    let head = head(on, mac, seen).await?;
    let rows = all(on, mac).await?;
    let found = SetHead::of(head.sequence, &rows);
    if found == head {
        return Ok((head, rows));
    }
    Err(StoreError::Revocations { sequence: head.sequence, expected: head.count, found: found.count })
}

impl Writer {
    /// Before the first change: what is there must be what was written, or the change would bless it.
    async fn check_set(&mut self) -> Result<(), StoreError> {
        if !self.set_checked().whole {
            let mac = self.mac.clone();
            read(self.tx(), &mac, 0).await?;
            self.set_checked().whole = true;
        }
        Ok(())
    }

    async fn revocation(
        &mut self,
        kind: RevocationKind,
        value: &[u8],
    ) -> Result<Option<StoredRow>, StoreError> {
        let sql = "SELECT kind, value, expires_at, reason, revoked_at, mac FROM revocations \
                   WHERE kind = $1 AND value = $2";
        let row = query(sql).bind(kind.as_str()).bind(value).fetch_optional(self.tx()).await?;
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
        self.set_checked().counted = None;
        let mut row = row.clone();
        if let Some(before) = self.revocation(row.kind, &row.value).await? {
            row.expires_at = before.row.expires_at.zip(row.expires_at).map(|(a, b)| a.max(b));
        }
        let mac = self.mac.tag(TABLE, &columns(&row, reason, now));
        query(
            "INSERT INTO revocations (kind, value, reason, revoked_at, expires_at, mac) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (kind, value) DO UPDATE SET \
             reason = $3, revoked_at = $4, expires_at = $5, mac = $6",
        )
        .bind(row.kind.as_str())
        .bind(&row.value)
        .bind(reason)
        .bind(now)
        .bind(row.expires_at)
        .bind(mac)
        .execute(self.tx())
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
        let done = query("DELETE FROM revocations WHERE kind = $1 AND value = $2")
            .bind(kind.as_str())
            .bind(value)
            .execute(self.tx())
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Forgets what has ended by itself; whether there was any.
    pub(crate) async fn sweep_revocations(&mut self, now: i64) -> Result<bool, StoreError> {
        self.check_set().await?;
        let done =
            query("DELETE FROM revocations WHERE expires_at <= $1").bind(now).execute(self.tx()).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Whether it is revoked.
    pub(crate) async fn is_revoked(
        &mut self,
        kind: RevocationKind,
        value: &[u8],
        now: i64,
    ) -> Result<bool, StoreError> {
        Ok(self.first_revoked(&[(kind, value)], now).await?.is_some())
    }

    /// Which of these is revoked, the first if several are. That the number of rows is the head's is looked at once in
    /// each transaction: a row that is not there may have been deleted.
    pub(crate) async fn first_revoked(
        &mut self,
        which: &[(RevocationKind, &[u8])],
        now: i64,
    ) -> Result<Option<RevocationKind>, StoreError> {
        let size = if let Some(size) = self.set_checked().counted {
            size
        } else {
            let mac = self.mac.clone();
            let SetHead { sequence, count: expected, .. } = head(self.tx(), &mac, 0).await?;
            let counted = query("SELECT count(*) FROM revocations").fetch_one(self.tx()).await?;
            let found = u64::try_from(counted.try_get::<i64>(0)?).unwrap_or(0);
            if found != expected {
                return Err(StoreError::Revocations { sequence, expected, found });
            }
            self.set_checked().counted = Some(found);
            found
        };
        if size == 0 {
            return Ok(None);
        }
        let places = (0..which.len()).map(|n| {
            format!("SELECT 1 FROM revocations WHERE kind = ${} AND value = ${}", 2 * n + 1, 2 * n + 2)
        });
        let sql = places.collect::<Vec<_>>().join(" UNION ALL ");
        let ask = which
            .iter()
            .fold(query(AssertSqlSafe(sql)), |ask, (kind, value)| ask.bind(kind.as_str()).bind(*value));
        // Nearly always there is none; only then is there more than one to look at.
        if ask.fetch_optional(self.tx()).await?.is_none() {
            return Ok(None);
        }
        for (kind, value) in which {
            let found = self.revocation(*kind, value).await?;
            if found.is_some_and(|found| found.row.expires_at.is_none_or(|end| end > now)) {
                return Ok(Some(*kind));
            }
        }
        Ok(None)
    }

    /// Marks the set as it is now in the head, under its next number. Numbers follow the clock, so that a
    /// store that was restored from an older copy goes on above what sidecars have heard already.
    pub(crate) async fn mark_revocations(&mut self, now: i64) -> Result<u64, StoreError> {
        let mac = self.mac.clone();
        let before = head(self.tx(), &mac, 0).await?;
        let rows = all(self.tx(), &mac).await?;
        let sequence = before.sequence.saturating_add(1).max(u64::try_from(now).unwrap_or(0));
        let head = SetHead::of(sequence, &rows);
        query("UPDATE revocation_head SET sequence = $1, size = $2, digest = $3, mac = $4 WHERE id = 1")
            .bind(number_of(head.sequence))
            .bind(number_of(head.count))
            .bind(head.digest.as_slice())
            .bind(mac.tag(HEAD, &head_columns(&head)))
            .execute(self.tx())
            .await?;
        self.announce(Change::Revocations);
        Ok(sequence)
    }
}

impl Store {
    /// The number of the set and all that is in force, in one consistent view. A set that is older than one that
    /// was read here before is an error.
    /// Each with when it was last revoked.
    pub(crate) async fn revocations(&self, now: i64) -> Result<(u64, Vec<(RevocationRow, i64)>), StoreError> {
        let seen = self.set_seen();
        let mut tx = self.desk.pool.view().await?;
        let (head, rows) = read(&mut tx, &self.desk.mac, seen).await?;
        self.set_seen.fetch_max(head.sequence, Ordering::SeqCst);
        let in_force = |stored: StoredRow| {
            let stands = stored.row.expires_at.is_none_or(|end| end > now);
            stands.then_some((stored.row, stored.revoked_at))
        };
        Ok((head.sequence, rows.into_iter().filter_map(in_force).collect()))
    }

    /// The number of the newest set that was read here.
    pub(super) fn set_seen(&self) -> u64 {
        self.set_seen.load(Ordering::SeqCst)
    }
}
