//! The issuance log in the store: append, read, verify.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, Transaction};

use super::mac::{Column, RowMac};
use super::{Head, Store, StoreError, tokens};
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
    #[error("the head of the issuance log does not carry the authority's mark")]
    Head,
    #[error("the issuance log was set back: this process wrote record {written}, the store is at {found}")]
    SetBack { written: u64, found: u64 },
}

fn head_columns(replica: &str, head: &Head) -> ([u8; 8], [u8; 32], String) {
    (head.sequence.to_be_bytes(), head.hash, replica.to_owned())
}

fn head_tag(mac: &RowMac, replica: &str, head: &Head) -> Vec<u8> {
    let (sequence, hash, replica) = head_columns(replica, head);
    mac.tag(HEADS, &[Column::Text(&replica), Column::Bytes(&sequence), Column::Bytes(&hash)])
}

fn read_head(mac: &RowMac, replica: &str, row: Option<SqliteRow>) -> Result<Option<Head>, StoreError> {
    let Some(row) = row else { return Ok(None) };
    let head = Head { sequence: number(row.try_get(0)?)?, hash: tokens::hash(row.try_get(1)?, HEADS)? };
    let tag: Vec<u8> = row.try_get(2)?;
    let (sequence, hash, replica) = head_columns(replica, &head);
    mac.check(HEADS, &[Column::Text(&replica), Column::Bytes(&sequence), Column::Bytes(&hash)], &tag)
        .map_err(|_| ChainError::Head)?;
    Ok(Some(head))
}

const READ_HEAD: &str = "SELECT sequence, hash, mac FROM log_heads WHERE replica = ?1";

/// Appends to the log's end, which must be where this process (`known`) left it.
pub(super) async fn append(
    tx: &mut Transaction<'static, Sqlite>,
    mac: &RowMac,
    replica: &str,
    known: Option<Head>,
    entry: Entry,
) -> Result<(Record, Head), StoreError> {
    let row = sqlx::query(READ_HEAD).bind(replica).fetch_optional(&mut **tx).await?;
    let stored = read_head(mac, replica, row)?;
    if let Some(known) = known
        && stored != Some(known)
    {
        let found = stored.map_or(0, |head| head.sequence);
        return Err(ChainError::SetBack { written: known.sequence, found }.into());
    }
    let (sequence, previous) =
        stored.map_or((1, [0; 32]), |head| (head.sequence.saturating_add(1), head.hash));
    let record = entry.chain(replica, sequence, previous);
    sqlx::query(
        "INSERT INTO log (replica, sequence, at, event, spiffe_id, class, serial, not_after, reason, actor, \
         suppressed, previous, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )
    .bind(replica)
    .bind(signed(sequence))
    .bind(record.at)
    .bind(record.event.as_str())
    .bind(&record.spiffe_id)
    .bind(&record.class)
    .bind(&record.serial)
    .bind(record.not_after)
    .bind(&record.reason)
    .bind(&record.actor)
    .bind(signed(record.suppressed))
    .bind(record.previous.as_slice())
    .bind(record.hash.as_slice())
    .execute(&mut **tx)
    .await?;
    let head = Head { sequence, hash: record.hash };
    sqlx::query(
        "INSERT INTO log_heads (replica, sequence, hash, mac) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (replica) DO UPDATE SET sequence = ?2, hash = ?3, mac = ?4",
    )
    .bind(replica)
    .bind(signed(sequence))
    .bind(head.hash.as_slice())
    .bind(head_tag(mac, replica, &head))
    .execute(&mut **tx)
    .await?;
    Ok((record, head))
}

impl Store {
    /// The last records, oldest first.
    pub(crate) async fn records(&self, limit: u32) -> Result<Vec<Record>, StoreError> {
        let rows = sqlx::query(
            "SELECT sequence, at, event, spiffe_id, class, serial, not_after, reason, actor, suppressed, \
             previous, hash FROM log WHERE replica = ?1 ORDER BY sequence DESC LIMIT ?2",
        )
        .bind(&*self.replica)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        rows.iter().rev().map(record).collect()
    }

    /// Checks that the log ends where its marked head says; whether there is a log at all. Cheap, for every
    /// start; [`Store::verify_chain`] is the whole truth.
    pub(crate) async fn check_head(&self) -> Result<bool, StoreError> {
        let row = sqlx::query(READ_HEAD).bind(&*self.replica).fetch_optional(&self.reader).await?;
        let head = read_head(&self.mac, &self.replica, row)?;
        let last = self.records(1).await?.pop();
        match (head, last) {
            (None, None) => Ok(false),
            (Some(head), Some(last)) if (head.sequence, head.hash) == (last.sequence, last.hash) => Ok(true),
            (Some(head), last) => {
                let found = last.map_or(0, |record| record.sequence);
                Err(ChainError::Cut { found, head: head.sequence }.into())
            }
            (None, Some(_)) => Err(ChainError::Head.into()),
        }
    }

    /// Walks the whole chain up to its marked head; the number of records.
    pub(crate) async fn verify_chain(&self) -> Result<u64, StoreError> {
        let mut tx = self.reader.begin().await?;
        let row = sqlx::query(READ_HEAD).bind(&*self.replica).fetch_optional(&mut *tx).await?;
        let head = read_head(&self.mac, &self.replica, row)?;
        let (mut last, mut previous) = (0u64, [0u8; 32]);
        loop {
            let page = sqlx::query(
                "SELECT sequence, at, event, spiffe_id, class, serial, not_after, reason, actor, suppressed, \
                 previous, hash FROM log WHERE replica = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3",
            )
            .bind(&*self.replica)
            .bind(signed(last))
            .bind(PAGE)
            .fetch_all(&mut *tx)
            .await?;
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
                if !record.is_intact(&self.replica) {
                    return Err(ChainError::Changed(record.sequence).into());
                }
                last = record.sequence;
                previous = record.hash;
            }
        }
        match head {
            Some(head) if head.sequence != last => {
                Err(ChainError::Cut { found: last, head: head.sequence }.into())
            }
            Some(head) if head.hash != previous => Err(ChainError::Changed(last).into()),
            None if last != 0 => Err(ChainError::Head.into()),
            _ => Ok(last),
        }
    }
}

fn record(row: &SqliteRow) -> Result<Record, StoreError> {
    let event: String = row.try_get(2)?;
    Ok(Record {
        sequence: number(row.try_get(0)?)?,
        at: row.try_get(1)?,
        event: Event::parse(&event).ok_or(StoreError::Corrupt { table: TABLE, what: "an unknown event" })?,
        spiffe_id: row.try_get(3)?,
        class: row.try_get(4)?,
        serial: row.try_get(5)?,
        not_after: row.try_get(6)?,
        reason: row.try_get(7)?,
        actor: row.try_get(8)?,
        suppressed: number(row.try_get(9)?)?,
        previous: tokens::hash(row.try_get(10)?, TABLE)?,
        hash: tokens::hash(row.try_get(11)?, TABLE)?,
    })
}

fn number(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt { table: TABLE, what: "a number is negative" })
}

/// SQLite's integers are signed; a sequence never comes near the top.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
