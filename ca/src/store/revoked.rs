//! Which certificates of one issuer are revoked, and since when: what its revocation list says.

use std::collections::BTreeMap;

use super::members;
use super::revocations::{self, RevocationKind};
use super::sql::query;
use super::{Store, StoreError};

impl Store {
    /// Serials of certificates of this issuer that have not ended and are revoked by their serial, key,
    /// identity, lineage or instance, each with the second of its first revocation. One consistent view.
    pub(crate) async fn revoked_under(
        &self,
        issuer: &[u8],
        now: i64,
    ) -> Result<BTreeMap<Vec<u8>, i64>, StoreError> {
        let seen = self.set_seen();
        let mut tx = self.desk.pool.view().await?;
        let (_, rows) = revocations::read(&mut tx, &self.desk.mac, seen).await?;
        let mut revoked = BTreeMap::new();
        for stored in rows {
            if stored.row.expires_at.is_some_and(|end| end <= now) {
                continue;
            }
            let found = match stored.row.kind {
                RevocationKind::Serial => {
                    query("SELECT serial FROM svids WHERE serial = $1 AND issuer = $2 AND not_after >= $3")
                        .bind(&stored.row.value)
                }
                RevocationKind::Key => {
                    query("SELECT serial FROM svids WHERE key_hash = $1 AND issuer = $2 AND not_after >= $3")
                        .bind(&stored.row.value)
                }
                RevocationKind::Identity => {
                    let id = String::from_utf8(stored.row.value.clone()).map_err(|_| {
                        StoreError::Corrupt { table: "revocations", what: "text is not UTF-8" }
                    })?;
                    query("SELECT serial FROM svids WHERE spiffe_id = $1 AND issuer = $2 AND not_after >= $3")
                        .bind(id)
                }
                RevocationKind::Member => {
                    let serial = members::member_serial(&stored.row.value).unwrap_or_default();
                    query("SELECT serial FROM svids WHERE serial = $1 AND issuer = $2 AND not_after >= $3")
                        .bind(serial)
                }
                // No certificate has the first; of the others each certificate is a row of its own.
                RevocationKind::Delegation
                | RevocationKind::Lineage
                | RevocationKind::Instance
                | RevocationKind::User
                | RevocationKind::Logout
                | RevocationKind::Session
                | RevocationKind::Token => continue,
            };
            for row in found.bind(issuer).bind(now).fetch_all(&mut tx).await? {
                let since = revoked.entry(row.try_get::<Vec<u8>>(0)?).or_insert(stored.revoked_at);
                *since = stored.revoked_at.min(*since);
            }
        }
        Ok(revoked)
    }
}
