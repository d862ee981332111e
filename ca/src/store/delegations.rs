//! Delegations that may still be believed, and whose they are.
//!
//! A delegation does not say by which certificate its gateway asked, and a renewed gateway goes on with the delegation of
//! before. So whatever revokes a certificate, its key, its lineage or its pod finds here what its holder mints with:
//! all delegations of that lineage or pod, with whichever of its certificates they were asked for.

use super::sql::{Value, query};
use super::{StoreError, Writer};
use crate::revoke::Revocation;

/// A gateway's delegation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DelegationRow {
    /// RFC 7638, of the delegated key.
    pub(crate) thumbprint: String,
    /// Of the certificate by which the gateway asked.
    pub(crate) serial: Vec<u8>,
    pub(crate) spiffe_id: String,
    pub(crate) expires_at: i64,
}

/// Whether a delegation was asked for by the certificate that is named, or by another one of its lineage or its pod; or
/// by one that is under it, where it is an issuer's.
const OF_HOLDER: &str = "delegations.serial = named.serial \
     OR EXISTS (SELECT 1 FROM svids own, svids other \
                WHERE own.serial = delegations.serial AND other.serial = named.serial \
                AND own.lineage = other.lineage AND own.class = other.class) \
     OR EXISTS (SELECT 1 FROM attested own, attested other \
                WHERE own.serial = delegations.serial AND other.serial = named.serial \
                AND own.cluster = other.cluster AND own.pod_uid = other.pod_uid) \
     OR EXISTS (SELECT 1 FROM svids own WHERE own.serial = delegations.serial AND own.issuer = named.serial)";

impl Writer {
    /// A key that was delegated to before is delegated to again under the newest terms.
    pub(crate) async fn insert_delegation(&mut self, row: &DelegationRow) -> Result<(), StoreError> {
        query(
            "INSERT INTO delegations (thumbprint, serial, spiffe_id, expires_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (thumbprint) DO UPDATE SET serial = $2, spiffe_id = $3, expires_at = $4",
        )
        .bind(&row.thumbprint)
        .bind(&row.serial)
        .bind(&row.spiffe_id)
        .bind(row.expires_at)
        .execute(self.tx())
        .await?;
        Ok(())
    }

    /// The delegated keys of whoever this revokes, by their thumbprints.
    pub(crate) async fn delegations_of(&mut self, revoked: &Revocation) -> Result<Vec<String>, StoreError> {
        let (of, value) = match revoked {
            // It is one.
            Revocation::Delegation(_) => return Ok(Vec::new()),
            // Users mint nothing.
            Revocation::User(_) | Revocation::Logout(_) | Revocation::Session(_) | Revocation::Token(_) => {
                return Ok(Vec::new());
            }
            Revocation::Identity(id) => ("spiffe_id = $1".to_owned(), Value::from(id.as_str().to_owned())),
            Revocation::Serial(serial) => (
                format!("EXISTS (SELECT 1 FROM (SELECT $1 AS serial) named WHERE {OF_HOLDER})"),
                Value::from(serial.as_bytes().to_vec()),
            ),
            Revocation::Key(key) => (
                format!("EXISTS (SELECT 1 FROM svids named WHERE named.key_hash = $1 AND ({OF_HOLDER}))"),
                Value::from(key.as_bytes().to_vec()),
            ),
            Revocation::Lineage(id) => (
                "EXISTS (SELECT 1 FROM svids own WHERE own.serial = delegations.serial AND own.lineage = $1)"
                    .to_owned(),
                Value::from(id.as_bytes().to_vec()),
            ),
            Revocation::Instance(name) => (
                "EXISTS (SELECT 1 FROM attested own WHERE own.serial = delegations.serial \
                 AND own.cluster || '/' || own.pod_uid = $1)"
                    .to_owned(),
                Value::from(name.as_str().to_owned()),
            ),
        };
        let text = format!("SELECT thumbprint FROM delegations WHERE {of}");
        let found = query(sqlx::AssertSqlSafe(text)).bind(value).fetch_all(self.tx()).await?;
        found.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Forgets those that ended before this.
    pub(crate) async fn sweep_delegations(&mut self, before: i64) -> Result<(), StoreError> {
        query("DELETE FROM delegations WHERE expires_at < $1").bind(before).execute(self.tx()).await?;
        Ok(())
    }
}
