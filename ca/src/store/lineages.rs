//! Lineages: one attestation and the renewals that follow from it.

use super::mac::{Column, optional_number};
use super::sql::query;
use super::{StoreError, Writer, fixed, tokens};
use crate::revoke::Revocation;

const TABLE: &str = "lineages";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LineageRow {
    pub(crate) id: [u8; 16],
    pub(crate) spiffe_id: String,
    pub(crate) class: String,
    /// What began it: the hash of a join token.
    pub(crate) origin: [u8; 32],
    pub(crate) started_at: i64,
    pub(crate) ends_at: i64,
    pub(crate) revoked_at: Option<i64>,
}

impl LineageRow {
    fn columns(&self) -> [Column<'_>; 7] {
        [
            Column::Bytes(&self.id),
            Column::Text(&self.spiffe_id),
            Column::Text(&self.class),
            Column::Bytes(&self.origin),
            Column::Number(self.started_at),
            Column::Number(self.ends_at),
            optional_number(self.revoked_at),
        ]
    }
}

impl Writer {
    pub(crate) async fn insert_lineage(&mut self, row: &LineageRow) -> Result<(), StoreError> {
        let mac = self.mac.tag(TABLE, &row.columns());
        query(
            "INSERT INTO lineages (id, spiffe_id, class, origin, started_at, ends_at, revoked_at, mac) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(row.id.as_slice())
        .bind(&row.spiffe_id)
        .bind(&row.class)
        .bind(row.origin.as_slice())
        .bind(row.started_at)
        .bind(row.ends_at)
        .bind(row.revoked_at)
        .bind(mac)
        .execute(self.tx())
        .await?;
        Ok(())
    }

    pub(crate) async fn lineage(&mut self, id: &[u8; 16]) -> Result<Option<LineageRow>, StoreError> {
        let found = query(
            "SELECT spiffe_id, class, origin, started_at, ends_at, revoked_at, mac FROM lineages WHERE id = $1",
        )
        .bind(id.as_slice())
        .fetch_optional(self.tx())
        .await?;
        let Some(found) = found else { return Ok(None) };
        let row = LineageRow {
            id: *id,
            spiffe_id: found.try_get(0)?,
            class: found.try_get(1)?,
            origin: tokens::hash(found.try_get(2)?, TABLE)?,
            started_at: found.try_get(3)?,
            ends_at: found.try_get(4)?,
            revoked_at: found.try_get(5)?,
        };
        let mac: Vec<u8> = found.try_get(6)?;
        self.mac.check(TABLE, &row.columns(), &mac)?;
        Ok(Some(row))
    }

    /// Ends the lineage, and returns what of it is still valid: serial and end of each certificate.
    pub(crate) async fn revoke_lineage(
        &mut self,
        row: &LineageRow,
        now: i64,
    ) -> Result<Vec<(Vec<u8>, i64)>, StoreError> {
        let revoked = LineageRow { revoked_at: Some(now), ..row.clone() };
        let mac = self.mac.tag(TABLE, &revoked.columns());
        query("UPDATE lineages SET revoked_at = $2, mac = $3 WHERE id = $1")
            .bind(row.id.as_slice())
            .bind(now)
            .bind(mac)
            .execute(self.tx())
            .await?;
        let live = query("SELECT serial, not_after FROM svids WHERE lineage = $1 AND not_after >= $2")
            .bind(row.id.as_slice())
            .bind(now)
            .fetch_all(self.tx())
            .await?;
        live.into_iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}

impl Writer {
    /// Ends every lineage that could be renewed; how many there were.
    pub(crate) async fn end_lineages(&mut self, now: i64) -> Result<u64, StoreError> {
        let sql = "SELECT id FROM lineages WHERE revoked_at IS NULL AND ends_at >= $1";
        let rows = query(sql).bind(now).fetch_all(self.tx()).await?;
        let mut ended = 0u64;
        for row in rows {
            let id = id(row.try_get(0)?, TABLE)?;
            if let Some(row) = self.lineage(&id).await? {
                self.revoke_lineage(&row, now).await?;
                ended = ended.saturating_add(1);
            }
        }
        Ok(ended)
    }

    /// What agents vouched for that this revokes, as far as it is still valid: serial and end of each certificate.
    pub(crate) async fn vouched_for(
        &mut self,
        revoked: &Revocation,
        now: i64,
    ) -> Result<Vec<(Vec<u8>, i64)>, StoreError> {
        let (whose, value) = match revoked {
            Revocation::Identity(agent) => ("lineages.spiffe_id = $2", agent.as_str().as_bytes().to_vec()),
            Revocation::Serial(serial) => (
                "lineages.id = (SELECT lineage FROM svids WHERE serial = $2 AND class = 'agent')",
                serial.as_bytes().to_vec(),
            ),
            Revocation::Key(key) => (
                "lineages.id = (SELECT lineage FROM svids WHERE key_hash = $2 AND class = 'agent')",
                key.as_bytes().to_vec(),
            ),
            // What is of these goes with them as it is.
            Revocation::Delegation(_) | Revocation::Lineage(_) | Revocation::Instance(_) => {
                return Ok(Vec::new());
            }
            // No agent vouches for users.
            Revocation::User(_) | Revocation::Logout(_) | Revocation::Session(_) | Revocation::Token(_) => {
                return Ok(Vec::new());
            }
        };
        let text = format!(
            "SELECT svids.serial, svids.not_after FROM svids JOIN lineages ON lineages.id = svids.lineage \
             WHERE lineages.class = 'agent' AND svids.class = 'workload' AND svids.not_after >= $1 AND {whose}"
        );
        let asked = query(sqlx::AssertSqlSafe(text)).bind(now);
        let asked = match revoked {
            Revocation::Identity(agent) => asked.bind(agent.as_str().to_owned()),
            _ => asked.bind(value),
        };
        let found = asked.fetch_all(self.tx()).await?;
        found.into_iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}

/// Reads a lineage's name.
pub(super) fn id(bytes: Vec<u8>, table: &'static str) -> Result<[u8; 16], StoreError> {
    fixed(bytes, table)
}
