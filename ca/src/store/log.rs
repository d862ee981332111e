//! The issuance log in the store: append, read, verify.

use signet_audit::PublicKey;
use sqlx::AssertSqlSafe;

use super::mac::{Column, RowMac};
use super::sql::{Row, Run, Tx, query};
use super::writer::Known;
use super::{Store, StoreError, revocations, signed, tokens};
use crate::record::{Entry, Event, Record};

const HEADS: &str = "log_heads";
const TABLE: &str = "log";
/// Records that are read at a time while the chain is walked.
const PAGE: i64 = 512;

/// The log is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("record {0} of the issuance log was changed: its content does not have its hash")]
    Changed(u64),
    #[error("record {0} of the issuance log does not follow the one before it")]
    Broken(u64),
    #[error("record {0} of the issuance log is missing")]
    Missing(u64),
    #[error("the issuance log ends at record {found}, but its head says {head}: records were cut off")]
    Cut { found: u64, head: u64 },
    #[error("the checkpoint of the issuance log at record {0} does not carry the audit key's signature")]
    Checkpoint(u64),
    #[error("the head of the issuance log does not carry the authority's mark")]
    Head,
    #[error("the issuance log was set back: this process wrote record {written}, the store is at {found}")]
    SetBack { written: u64, found: u64 },
}

/// What a walk over the whole log found to be as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    pub records: u64,
    /// The last record's hash.
    pub head: [u8; 32],
    /// Revocations in the store, all of them the authority's.
    pub revocations: u64,
}

/// The end of a replica's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) sequence: u64,
    pub(super) hash: [u8; 32],
}

fn head_columns<'a>(replica: &'a str, head: &'a Head) -> [Column<'a>; 3] {
    [Column::Text(replica), Column::Number(number_of(head.sequence)), Column::Bytes(&head.hash)]
}

/// The marked head.
pub(super) async fn head(on: &mut impl Run, mac: &RowMac, replica: &str) -> Result<Option<Head>, StoreError> {
    let row = query("SELECT sequence, hash, mac FROM log_heads WHERE replica = $1")
        .bind(replica)
        .fetch_optional(on)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let head = Head { sequence: number(row.try_get(0)?)?, hash: tokens::hash(row.try_get(1)?, HEADS)? };
    let tag: Vec<u8> = row.try_get(2)?;
    mac.check(HEADS, &head_columns(replica, &head), &tag).map_err(|_| ChainError::Head)?;
    Ok(Some(head))
}

pub(super) async fn write_head(
    tx: &mut Tx,
    mac: &RowMac,
    replica: &str,
    head: &Head,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO log_heads (replica, sequence, hash, mac) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (replica) DO UPDATE SET sequence = $2, hash = $3, mac = $4",
    )
    .bind(replica)
    .bind(number_of(head.sequence))
    .bind(head.hash.as_slice())
    .bind(mac.tag(HEADS, &head_columns(replica, head)))
    .execute(tx)
    .await?;
    Ok(())
}

/// Appends to the log's end, which is `head`. The new end must be written before the transaction is committed.
pub(super) async fn append(
    tx: &mut Tx,
    replica: &str,
    head: Option<Head>,
    entry: Entry,
) -> Result<(Record, Head), StoreError> {
    let (sequence, previous) = head.map_or((1, [0; 32]), |head| (head.sequence.saturating_add(1), head.hash));
    let record = entry.chain(replica, sequence, previous);
    query(
        "INSERT INTO log (replica, sequence, at, event, spiffe_id, class, serial, not_after, reason, actor, \
         suppressed, previous, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(replica)
    .bind(number_of(sequence))
    .bind(record.at)
    .bind(record.event.as_str())
    .bind(&record.spiffe_id)
    .bind(&record.class)
    .bind(&record.serial)
    .bind(record.not_after)
    .bind(&record.reason)
    .bind(&record.actor)
    .bind(number_of(record.suppressed))
    .bind(record.previous.as_slice())
    .bind(record.hash.as_slice())
    .execute(tx)
    .await?;
    let head = Head { sequence, hash: record.hash };
    Ok((record, head))
}

pub(super) const RECORD: &str = "SELECT replica, sequence, at, event, spiffe_id, class, serial, not_after, reason, actor, \
                               suppressed, previous, hash FROM log";

impl super::Writer {
    /// Where this control plane's log ends: number and hash of its last record.
    pub(crate) async fn log_end(&mut self) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        Ok(self.log_head().await?.map(|head| (head.sequence, head.hash)))
    }
}

impl Store {
    /// The last records of this replica, oldest first.
    pub(crate) async fn records(&self, limit: u32) -> Result<Vec<Record>, StoreError> {
        let sql = format!("{RECORD} WHERE replica = $1 ORDER BY sequence DESC LIMIT $2");
        let rows = query(AssertSqlSafe(sql))
            .bind(&*self.desk.replica)
            .bind(i64::from(limit))
            .fetch_all(&mut self.desk.pool.read().await?)
            .await?;
        rows.iter().rev().map(record).collect()
    }

    /// Checks that the log ends where its marked head says; whether there is a log at all, which only a
    /// replica's first start may do without. Cheap, for every start; [`Store::verify_chain`] is the whole truth.
    pub(crate) async fn check_head(&self, fresh: bool) -> Result<bool, StoreError> {
        let head = head(&mut self.desk.pool.read().await?, &self.desk.mac, &self.desk.replica).await?;
        let last = self.records(1).await?.pop();
        match (head, last) {
            (None, None) if fresh => Ok(false),
            (Some(head), Some(last)) if (head.sequence, head.hash) == (last.sequence, last.hash) => {
                self.desk.turn.lock().await.known = Known::at(head);
                Ok(true)
            }
            (Some(head), last) => {
                let found = last.map_or(0, |record| record.sequence);
                Err(ChainError::Cut { found, head: head.sequence }.into())
            }
            (None, _) => Err(ChainError::Head.into()),
        }
    }

    /// Walks the chain of every replica from its checkpoint up to its marked head, and counts the revocations.
    pub(crate) async fn verify_chain(
        &self,
        key: &PublicKey,
        trust_domain: &str,
    ) -> Result<Verified, StoreError> {
        let seen = self.set_seen();
        let mut tx = self.desk.pool.view().await?;
        let names = query("SELECT replica FROM log_heads UNION SELECT replica FROM log ORDER BY 1")
            .fetch_all(&mut tx)
            .await?;
        let (mut records, mut own) = (0u64, None);
        for name in names {
            let name: String = name.try_get(0)?;
            let (count, head) = walk(&mut tx, &self.desk.mac, (&name, trust_domain), key).await?;
            records = records.saturating_add(count);
            if *name == *self.desk.replica {
                own = Some(head);
            }
        }
        let Some(head) = own else { return Err(ChainError::Head.into()) };
        let (_, revocations) = revocations::read(&mut tx, &self.desk.mac, seen).await?;
        let revocations = u64::try_from(revocations.len()).unwrap_or(u64::MAX);
        Ok(Verified { records, head: head.hash, revocations })
    }
}

/// One replica's chain: how many records there are, and its head.
async fn walk(
    tx: &mut Tx,
    mac: &RowMac,
    (replica, trust_domain): (&str, &str),
    key: &PublicKey,
) -> Result<(u64, Head), StoreError> {
    let head = head(tx, mac, replica).await?;
    let (mut last, mut previous) = (0u64, [0u8; 32]);
    if let Some(checkpoint) = signed::checkpoint(tx, replica, trust_domain).await? {
        if !key.verifies(&checkpoint) {
            return Err(ChainError::Checkpoint(checkpoint.statement.sequence).into());
        }
        (last, previous) = (checkpoint.statement.sequence, checkpoint.statement.hash);
    }
    let mut count = 0u64;
    loop {
        let sql = format!("{RECORD} WHERE replica = $1 AND sequence > $2 ORDER BY sequence LIMIT $3");
        let page =
            query(AssertSqlSafe(sql)).bind(replica).bind(number_of(last)).bind(PAGE).fetch_all(tx).await?;
        if page.is_empty() {
            break;
        }
        for row in &page {
            let record = record(row)?;
            let expected = last.saturating_add(1);
            if record.sequence != expected {
                return Err(ChainError::Missing(expected).into());
            }
            if record.previous != previous {
                return Err(ChainError::Broken(record.sequence).into());
            }
            if !record.is_intact() {
                return Err(ChainError::Changed(record.sequence).into());
            }
            last = record.sequence;
            previous = record.hash;
            count = count.saturating_add(1);
        }
    }
    let Some(head) = head else { return Err(ChainError::Head.into()) };
    if head.sequence != last {
        return Err(ChainError::Cut { found: last, head: head.sequence }.into());
    }
    if head.hash != previous {
        return Err(ChainError::Changed(last).into());
    }
    Ok((count, head))
}

pub(super) fn record(row: &Row) -> Result<Record, StoreError> {
    let event: String = row.try_get(3)?;
    Ok(Record {
        replica: row.try_get(0)?,
        sequence: number(row.try_get(1)?)?,
        at: row.try_get(2)?,
        event: Event::parse(&event).ok_or(StoreError::Corrupt { table: TABLE, what: "an unknown event" })?,
        spiffe_id: row.try_get(4)?,
        class: row.try_get(5)?,
        serial: row.try_get(6)?,
        not_after: row.try_get(7)?,
        reason: row.try_get(8)?,
        actor: row.try_get(9)?,
        suppressed: number(row.try_get(10)?)?,
        previous: tokens::hash(row.try_get(11)?, TABLE)?,
        hash: tokens::hash(row.try_get(12)?, TABLE)?,
    })
}

fn number(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt { table: TABLE, what: "a number is negative" })
}

/// SQLite's integers are signed; a sequence never comes near the top.
pub(super) fn number_of(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
