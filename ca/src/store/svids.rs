//! Issued certificates. A row never changes: that a certificate was renewed is said by its child.

use super::mac::{Column, optional_bytes};
use super::sql::{Row, query};
use super::{StoreError, Writer, lineages, tokens};

const TABLE: &str = "svids";
/// Rows that are forgotten at a time.
const SWEPT: u32 = 2_000;
const COLUMNS: &str = "SELECT serial, lineage, spiffe_id, class, parent, key_hash, issuer, certificate, not_after, mac FROM svids";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SvidRow {
    pub(crate) serial: Vec<u8>,
    /// None for what the authority issued to itself.
    pub(crate) lineage: Option<[u8; 16]>,
    pub(crate) spiffe_id: String,
    pub(crate) class: String,
    /// Serial of the certificate that this one renewed.
    pub(crate) parent: Option<Vec<u8>>,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub(crate) key_hash: [u8; 32],
    /// Serial of the issuer.
    pub(crate) issuer: Vec<u8>,
    /// DER.
    pub(crate) certificate: Vec<u8>,
    pub(crate) not_after: i64,
}

impl SvidRow {
    fn columns(&self) -> [Column<'_>; 9] {
        [
            Column::Bytes(&self.serial),
            optional_bytes(self.lineage.as_ref().map(|id| id.as_slice())),
            Column::Text(&self.spiffe_id),
            Column::Text(&self.class),
            optional_bytes(self.parent.as_deref()),
            Column::Bytes(&self.key_hash),
            Column::Bytes(&self.issuer),
            Column::Bytes(&self.certificate),
            Column::Number(self.not_after),
        ]
    }
}

impl Writer {
    pub(crate) async fn insert_svid(&mut self, row: &SvidRow) -> Result<(), StoreError> {
        let mac = self.mac.tag(TABLE, &row.columns());
        query(
            "INSERT INTO svids (serial, lineage, spiffe_id, class, parent, key_hash, issuer, certificate, \
             not_after, mac) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(&row.serial)
        .bind(row.lineage.as_ref().map(|id| id.as_slice()))
        .bind(&row.spiffe_id)
        .bind(&row.class)
        .bind(&row.parent)
        .bind(row.key_hash.as_slice())
        .bind(&row.issuer)
        .bind(&row.certificate)
        .bind(row.not_after)
        .bind(mac)
        .execute(self.tx())
        .await?;
        Ok(())
    }

    pub(crate) async fn svid(&mut self, serial: &[u8]) -> Result<Option<SvidRow>, StoreError> {
        let found = query(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE serial = $1")))
            .bind(serial)
            .fetch_optional(self.tx())
            .await?;
        self.read_svid(found)
    }

    /// The certificate that renewed this one, if any did.
    pub(crate) async fn child_of(&mut self, parent: &[u8]) -> Result<Option<SvidRow>, StoreError> {
        let found = query(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE parent = $1")))
            .bind(parent)
            .fetch_optional(self.tx())
            .await?;
        self.read_svid(found)
    }

    /// Whether a key was ever certified here, and until when at the latest.
    pub(crate) async fn key_certified_until(
        &mut self,
        key_hash: &[u8; 32],
    ) -> Result<Option<i64>, StoreError> {
        let found = query("SELECT not_after FROM svids WHERE key_hash = $1")
            .bind(key_hash.as_slice())
            .fetch_optional(self.tx())
            .await?;
        Ok(found.map(|row| row.try_get(0)).transpose()?)
    }

    pub(crate) async fn insert_issuer(
        &mut self,
        serial: &[u8],
        certificate: &[u8],
        not_after: i64,
    ) -> Result<bool, StoreError> {
        let done = query(
            "INSERT INTO issuers (serial, certificate, not_after) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        )
        .bind(serial)
        .bind(certificate)
        .bind(not_after)
        .execute(self.tx())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    pub(crate) async fn issuer_certificate(&mut self, serial: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = query("SELECT certificate FROM issuers WHERE serial = $1")
            .bind(serial)
            .fetch_optional(self.tx())
            .await?;
        Ok(found.map(|row| row.try_get(0)).transpose()?)
    }

    /// Forgets what was issued under an issuer that ended before this, and lineages that did: some of it, so that nobody
    /// waits long; the rest goes the next times. Keys of then could be certified again.
    pub(crate) async fn sweep_svids(&mut self, ended_before: i64) -> Result<(), StoreError> {
        let ended = query("SELECT serial FROM issuers WHERE not_after < $1 ORDER BY serial LIMIT 1")
            .bind(ended_before)
            .fetch_optional(self.tx())
            .await?;
        if let Some(ended) = ended {
            let issuer: Vec<u8> = ended.try_get(0)?;
            // The same for both: the second table is what they are picked from.
            for table in ["attested", "svids"] {
                let sql = format!(
                    "DELETE FROM {table} WHERE serial IN \
                     (SELECT serial FROM svids WHERE issuer = $1 ORDER BY serial LIMIT {SWEPT})"
                );
                query(sqlx::AssertSqlSafe(sql)).bind(&issuer).execute(self.tx()).await?;
            }
            let sql = "DELETE FROM issuers WHERE serial = $1 \
                       AND NOT EXISTS (SELECT 1 FROM svids WHERE issuer = $1)";
            query(sql).bind(&issuer).execute(self.tx()).await?;
        }
        let sql = format!(
            "DELETE FROM lineages WHERE id IN (SELECT id FROM lineages WHERE ends_at < $1 \
             AND NOT EXISTS (SELECT 1 FROM svids WHERE svids.lineage = lineages.id) ORDER BY id LIMIT {SWEPT})"
        );
        query(sqlx::AssertSqlSafe(sql)).bind(ended_before).execute(self.tx()).await?;
        Ok(())
    }

    fn read_svid(&self, found: Option<Row>) -> Result<Option<SvidRow>, StoreError> {
        let Some(found) = found else { return Ok(None) };
        let row = SvidRow {
            serial: found.try_get(0)?,
            lineage: found
                .try_get::<Option<Vec<u8>>>(1)?
                .map(|bytes| lineages::id(bytes, TABLE))
                .transpose()?,
            spiffe_id: found.try_get(2)?,
            class: found.try_get(3)?,
            parent: found.try_get(4)?,
            key_hash: tokens::hash(found.try_get(5)?, TABLE)?,
            issuer: found.try_get(6)?,
            certificate: found.try_get(7)?,
            not_after: found.try_get(8)?,
        };
        let mac: Vec<u8> = found.try_get(9)?;
        self.mac.check(TABLE, &row.columns(), &mac)?;
        Ok(Some(row))
    }
}
