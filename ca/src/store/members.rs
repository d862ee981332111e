//! The certificates of a revoked lineage or instance.
//!
//! Nobody outside the authority knows of which lineage or instance a certificate is: it does not say so. So when one of
//! the two is revoked, each of its certificates that is still valid is written beside it, as a row of the revocations
//! like any other (marked, counted, in the head's digest), and to sidecars and revocation lists it is a serial. There
//! can be no further one: who is revoked is refused at issuance, and whoever issues waits for who revokes. Lifted, the
//! rows go together; a serial that an operator revoked by itself is another row, and stays.

use ring::digest::{Context, SHA256};

use super::revocations::{RevocationKind, RevocationRow};
use super::sql::query;
use super::{StoreError, Writer};

/// What the names of all members begin with.
const OF: usize = 32;

fn of(kind: RevocationKind, value: &[u8]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    context.update(kind.as_str().as_bytes());
    context.update(&[0]);
    context.update(value);
    context.finish().as_ref().to_vec()
}

/// The serial in a member's name.
pub(crate) fn member_serial(value: &[u8]) -> Option<&[u8]> {
    value.get(OF..).filter(|serial| !serial.is_empty())
}

impl Writer {
    /// Revokes what is valid now of this lineage or instance; how many certificates that are.
    pub(crate) async fn insert_members(
        &mut self,
        kind: RevocationKind,
        value: &[u8],
        reason: &str,
        now: i64,
    ) -> Result<usize, StoreError> {
        let live = match kind {
            RevocationKind::Lineage => {
                query("SELECT serial, not_after FROM svids WHERE lineage = $1 AND not_after >= $2")
                    .bind(value)
                    .bind(now)
                    .fetch_all(self.tx())
                    .await?
            }
            RevocationKind::Instance => {
                let name = std::str::from_utf8(value).unwrap_or_default();
                let Some((cluster, pod_uid)) = name.rsplit_once('/') else { return Ok(0) };
                query(
                    "SELECT svids.serial, svids.not_after FROM attested JOIN svids ON svids.serial = attested.serial \
                     WHERE attested.cluster = $1 AND attested.pod_uid = $2 AND svids.not_after >= $3",
                )
                .bind(cluster)
                .bind(pod_uid)
                .bind(now)
                .fetch_all(self.tx())
                .await?
            }
            _ => return Ok(0),
        };
        let of = of(kind, value);
        for row in &live {
            let serial: Vec<u8> = row.try_get(0)?;
            let not_after: i64 = row.try_get(1)?;
            let member = RevocationRow {
                kind: RevocationKind::Member,
                value: [of.as_slice(), &serial].concat(),
                // The last second of its validity still counts.
                expires_at: Some(not_after.saturating_add(1)),
            };
            self.insert_revocation(&member, reason, now).await?;
        }
        Ok(live.len())
    }

    /// Lifts what was revoked with this lineage or instance.
    pub(crate) async fn delete_members(
        &mut self,
        kind: RevocationKind,
        value: &[u8],
    ) -> Result<(), StoreError> {
        query("DELETE FROM revocations WHERE kind = $1 AND substr(value, 1, 32) = $2")
            .bind(RevocationKind::Member.as_str())
            .bind(of(kind, value))
            .execute(self.tx())
            .await?;
        Ok(())
    }
}
