//! What each control plane says of how far revocations have come with its sidecars.

use super::sql::query;
use super::{Store, StoreError, Writer};
use crate::spread::SpreadNote;

/// What one control plane said, and when it was heard of last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpreadRow {
    pub(crate) replica: String,
    pub(crate) last_seen: i64,
    /// None: nothing, being of an earlier version.
    pub(crate) note: Option<SpreadNote>,
    /// It ended in good order.
    pub(crate) ended: bool,
}

impl Writer {
    pub(crate) async fn note_spread(&mut self, note: &SpreadNote, ended: bool) -> Result<(), StoreError> {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let replica = self.replica().to_owned();
        query(
            "INSERT INTO spread (replica, sequence, sidecars, behind, names, ended) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (replica) DO UPDATE SET sequence = $2, sidecars = $3, behind = $4, names = $5, ended = $6",
        )
        .bind(replica)
        .bind(number(note.sequence))
        .bind(number(note.sidecars))
        .bind(number(note.behind))
        .bind(serde_json::json!(note.names).to_string())
        .bind(i64::from(ended))
        .execute(self.tx())
        .await?;
        Ok(())
    }
}

impl Store {
    /// Of the other control planes of this store.
    pub(crate) async fn other_spreads(&self) -> Result<Vec<SpreadRow>, StoreError> {
        let sql = "SELECT replicas.name, replicas.last_seen, spread.sequence, spread.sidecars, spread.behind, \
                   spread.names, spread.ended \
                   FROM replicas LEFT JOIN spread ON spread.replica = replicas.name \
                   WHERE replicas.name <> $1 ORDER BY replicas.name";
        let own = self.desk.replica.to_string();
        let rows = query(sql).bind(own).fetch_all(&mut self.desk.pool.read().await?).await?;
        let number = |value: Option<i64>| u64::try_from(value.unwrap_or(0)).unwrap_or(0);
        rows.iter()
            .map(|row| {
                let sequence: Option<i64> = row.try_get(2)?;
                let names: Option<String> = row.try_get(5)?;
                let note = SpreadNote {
                    sequence: number(sequence),
                    sidecars: number(row.try_get(3)?),
                    behind: number(row.try_get(4)?),
                    names: serde_json::from_str(&names.unwrap_or_default()).unwrap_or_default(),
                };
                Ok(SpreadRow {
                    replica: row.try_get(0)?,
                    last_seen: row.try_get(1)?,
                    note: sequence.map(|_| note),
                    ended: row.try_get::<Option<i64>>(6)? == Some(1),
                })
            })
            .collect()
    }

    /// Whether other control planes may have the same store.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.desk.pool, super::sql::Pool::Postgres(_))
    }
}
