//! What the audit key signed: where each replica's log ended, and what stands for records that were removed.

use signet_audit::{AuditKey, Kind, Signed, Statement};
use sqlx::AssertSqlSafe;

use super::log::{RECORD, number_of, record};
use super::sql::{Dialect, Query, Row, Run, Value, query};
use super::{Store, StoreError, Writer, tokens};
use crate::record::{Entry, Event, Record};

const HEADS: &str = "log_signed_heads";
const CHECKPOINTS: &str = "log_checkpoints";
/// Records are removed in segments of so many, so that checkpoints are few.
const SEGMENT: u64 = 256;

fn read(row: &Row, kind: Kind, trust_domain: &str, table: &'static str) -> Result<Signed, StoreError> {
    let sequence = u64::try_from(row.try_get::<i64>(1)?);
    let statement = Statement {
        kind,
        trust_domain: trust_domain.to_owned(),
        replica: row.try_get(0)?,
        sequence: sequence.map_err(|_| StoreError::Corrupt { table, what: "a number is negative" })?,
        hash: tokens::hash(row.try_get(2)?, table)?,
        at: row.try_get(3)?,
    };
    Ok(Signed { statement, signature: row.try_get(4)? })
}

/// The newest checkpoint of a replica's log. Its signature is not checked here.
pub(super) async fn checkpoint(
    on: &mut impl Run,
    replica: &str,
    trust_domain: &str,
) -> Result<Option<Signed>, StoreError> {
    let sql = "SELECT replica, sequence, hash, at, signature FROM log_checkpoints WHERE replica = $1 \
               ORDER BY sequence DESC LIMIT 1";
    let row = query(sql).bind(replica).fetch_optional(on).await?;
    row.map(|row| read(&row, Kind::Checkpoint, trust_domain, CHECKPOINTS)).transpose()
}

impl Store {
    /// The newest signed end of every replica's log.
    pub(crate) async fn signed_heads(&self, trust_domain: &str) -> Result<Vec<Signed>, StoreError> {
        let sql = "SELECT replica, sequence, hash, at, signature FROM log_signed_heads ORDER BY replica";
        let rows = query(sql).fetch_all(&mut self.desk.pool.read().await?).await?;
        rows.iter().map(|row| read(row, Kind::Head, trust_domain, HEADS)).collect()
    }

    /// The checkpoint of every replica's log that has one.
    pub(crate) async fn checkpoints(&self, trust_domain: &str) -> Result<Vec<Signed>, StoreError> {
        let mut connection = self.desk.pool.read().await?;
        let names = query("SELECT DISTINCT replica FROM log_checkpoints ORDER BY replica")
            .fetch_all(&mut connection)
            .await?;
        let mut out = Vec::new();
        for name in names {
            let name: String = name.try_get(0)?;
            out.extend(checkpoint(&mut connection, &name, trust_domain).await?);
        }
        Ok(out)
    }

    /// Records of one replica after a place in its log, in order.
    pub(crate) async fn records_after(
        &self,
        replica: &str,
        sequence: u64,
        limit: u32,
    ) -> Result<Vec<Record>, StoreError> {
        let sql = format!("{RECORD} WHERE replica = $1 AND sequence > $2 ORDER BY sequence LIMIT $3");
        let rows = query(AssertSqlSafe(sql))
            .bind(replica)
            .bind(number_of(sequence))
            .bind(i64::from(limit))
            .fetch_all(&mut self.desk.pool.read().await?)
            .await?;
        rows.iter().map(record).collect()
    }

    /// What is asked for in all logs, newest first.
    pub(crate) async fn search(&self, wanted: &Search) -> Result<Vec<Record>, StoreError> {
        let mut sql = format!("{RECORD} WHERE at >= $1 AND at < $2");
        let mut values = vec![Value::from(wanted.since), Value::from(wanted.until)];
        let mut also = |condition: &str, value: Value| {
            values.push(value);
            sql.push_str(&condition.replace('?', &format!("${}", values.len())));
        };
        for (condition, text) in [
            (" AND spiffe_id = ?", &wanted.spiffe_id),
            (" AND serial = ?", &wanted.serial),
            (" AND event = ?", &wanted.event),
        ] {
            if !text.is_empty() {
                also(condition, Value::from(text));
            }
        }
        if let Some(after) = &wanted.after {
            also(" AND (at < ?", Value::from(after.at));
            also(" OR (at = ?", Value::from(after.at));
            also(" AND (replica < ?", Value::from(&after.replica));
            also(" OR (replica = ?", Value::from(&after.replica));
            also(" AND sequence < ?))))", Value::from(number_of(after.sequence)));
        }
        also(" ORDER BY at DESC, replica DESC, sequence DESC LIMIT ?", Value::from(i64::from(wanted.limit)));
        let rows = values
            .into_iter()
            .fold(query(AssertSqlSafe(sql)), Query::bind)
            .fetch_all(&mut self.desk.pool.read().await?)
            .await?;
        rows.iter().map(record).collect()
    }
}

/// What of the log is wanted. Empty texts match everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    pub spiffe_id: String,
    /// Hex, as in the log.
    pub serial: String,
    pub event: String,
    /// Seconds since the epoch: from `since` on, before `until`.
    pub since: i64,
    pub until: i64,
    /// Go on after this record.
    pub after: Option<Cursor>,
    pub limit: u32,
}

impl Default for Search {
    fn default() -> Self {
        Search {
            spiffe_id: String::new(),
            serial: String::new(),
            event: String::new(),
            since: 0,
            until: i64::MAX,
            after: None,
            limit: 100,
        }
    }
}

/// A record as a place to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub at: i64,
    pub replica: String,
    pub sequence: u64,
}

impl Writer {
    /// Signs where this replica's log ends now; none if there is no log.
    pub(crate) async fn sign_head(
        &mut self,
        key: &AuditKey,
        trust_domain: &str,
        now: i64,
    ) -> Result<Option<Signed>, StoreError> {
        let Some(head) = self.log_head().await? else { return Ok(None) };
        let replica = self.replica().to_owned();
        let signed = key.sign(Statement {
            kind: Kind::Head,
            trust_domain: trust_domain.to_owned(),
            replica: replica.clone(),
            sequence: head.sequence,
            hash: head.hash,
            at: now,
        })?;
        query(
            "INSERT INTO log_signed_heads (replica, sequence, hash, at, signature) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (replica) DO UPDATE SET sequence = $2, hash = $3, at = $4, signature = $5",
        )
        .bind(replica)
        .bind(number_of(head.sequence))
        .bind(head.hash.as_slice())
        .bind(now)
        .bind(&signed.signature)
        .execute(self.tx())
        .await?;
        Ok(Some(signed))
    }

    /// Removes whole segments of this replica's log in which every record is older than `before`, leaving a signed
    /// checkpoint and a record that says so. Returns the last record removed.
    pub(crate) async fn trim_log(
        &mut self,
        key: &AuditKey,
        trust_domain: &str,
        (before, now): (i64, i64),
    ) -> Result<Option<u64>, StoreError> {
        let replica = self.replica().to_owned();
        // The oldest record that stays; times follow the clock, which may have been set back in between.
        let kept = query("SELECT min(sequence) FROM log WHERE replica = $1 AND at >= $2")
            .bind(&replica)
            .bind(before)
            .fetch_one(self.tx())
            .await?
            .try_get::<Option<i64>>(0)?;
        let Some(head) = self.log_head().await? else { return Ok(None) };
        // The end itself always stays.
        let first_kept = kept.and_then(|kept| u64::try_from(kept).ok()).unwrap_or(head.sequence);
        let last = first_kept.saturating_sub(1) / SEGMENT * SEGMENT;
        let done = checkpoint(self.tx(), &replica, trust_domain).await?;
        if last == 0 || done.is_some_and(|done| done.statement.sequence >= last) {
            return Ok(None);
        }
        let row = query("SELECT hash FROM log WHERE replica = $1 AND sequence = $2")
            .bind(&replica)
            .bind(number_of(last))
            .fetch_optional(self.tx())
            .await?
            .ok_or(super::ChainError::Missing(last))?;
        let hash = tokens::hash(row.try_get(0)?, "log")?;
        let signed = key.sign(Statement {
            kind: Kind::Checkpoint,
            trust_domain: trust_domain.to_owned(),
            replica: replica.clone(),
            sequence: last,
            hash,
            at: now,
        })?;
        query("INSERT INTO log_checkpoints (replica, sequence, hash, at, signature) VALUES ($1, $2, $3, $4, $5)")
            .bind(&replica)
            .bind(number_of(last))
            .bind(hash.as_slice())
            .bind(now)
            .bind(&signed.signature)
            .execute(self.tx())
            .await?;
        let remove = match self.tx().dialect() {
            Dialect::Sqlite => "DELETE FROM log WHERE replica = $1 AND sequence <= $2",
            Dialect::Postgres => "SELECT log_forget($1, $2)",
        };
        query(remove).bind(&replica).bind(number_of(last)).execute(self.tx()).await?;
        let entry = Entry::new(now, Event::LogTrimmed, "authority");
        self.record(
            entry.because(&format!("records up to {last} were removed; a checkpoint stands for them")),
        )
        .await?;
        // An end that was signed before the records that went would be nowhere.
        self.sign_head(key, trust_domain, now).await?;
        Ok(Some(last))
    }
}
