//! What each live sidecar has acknowledged, so that a rotation waits for it, in whichever replica it is connected.
//!
//! Nothing here grants anything. Whoever writes to the store can make a rotation wait, or go on without a sidecar.

use super::sql::query;
use super::{Store, StoreError, SvidRow, Writer, log};
use crate::attested::Instance;

/// Within this a sidecar that joined says what it goes by; seconds.
const ARRIVAL: i64 = 60;

/// A sidecar's word, as its stream's replica passes it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Serial of the certificate that the stream was opened with, raw.
    pub serial: Vec<u8>,
    /// Number of the bundle that it goes by now.
    pub sequence: u64,
}

/// A sidecar that did not acknowledge in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    pub instance: String,
    pub spiffe_id: String,
    /// Number of the bundle that it missed.
    pub sequence: u64,
}

/// What stays the same from one certificate of a pod to the next. Never an id in hex, as a lineage's is.
pub(crate) fn instance_named(instance: &Instance) -> String {
    format!("{}/{}", instance.cluster, instance.pod_uid)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Writer {
    /// What stays the same from one certificate of a workload to the next: its lineage, or the pod it was attested in.
    pub(crate) async fn instance_of(&mut self, row: &SvidRow) -> Result<String, StoreError> {
        if let Some(lineage) = &row.lineage {
            return Ok(hex(lineage));
        }
        Ok(self.attested(&row.serial).await?.map_or_else(|| hex(&row.serial), |it| instance_named(&it)))
    }

    /// Writes down what a sidecar goes by, bundle and certificate; false where the certificate is not one of ours. Words
    /// may overtake each other: one of the stream before does not set it back (a later serial is a greater one). One that
    /// was given up on is taken back when it has the bundle that it missed.
    pub(crate) async fn acknowledged(&mut self, word: &Acknowledged, now: i64) -> Result<bool, StoreError> {
        let Some(svid) = self.svid(&word.serial).await? else { return Ok(false) };
        let instance = self.instance_of(&svid).await?;
        query(
            "INSERT INTO sidecars (instance, spiffe_id, serial, replica, sequence, seen_at, valid_until, given_up) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, NULL) ON CONFLICT (instance) DO UPDATE SET replica = $4, seen_at = $6, \
             serial = CASE WHEN sidecars.serial > $3 AND sidecars.serial <> $8 THEN sidecars.serial ELSE $3 END, \
             sequence = CASE WHEN sidecars.sequence > $5 THEN sidecars.sequence ELSE $5 END, \
             given_up = CASE WHEN sidecars.given_up > $5 THEN sidecars.given_up ELSE NULL END",
        )
        .bind(instance)
        .bind(&svid.spiffe_id)
        .bind(&svid.serial)
        .bind(self.replica())
        .bind(log::number_of(word.sequence))
        .bind(now)
        .bind(svid.not_after)
        // Two of one millisecond are in no order, and the one that renewed the other is the later.
        .bind(svid.parent.as_deref().unwrap_or_default())
        .execute(self.tx())
        .await?;
        Ok(true)
    }

    /// It has its first certificate, and has not said yet what it goes by. It serves and calls nobody before it has the
    /// newest bundle; but it could not come for that if the root behind its certificate were gone. Of one that is
    /// attested again, what it said last stands.
    pub(crate) async fn sidecar_joined(&mut self, svid: &SvidRow, now: i64) -> Result<(), StoreError> {
        let instance = self.instance_of(svid).await?;
        query(
            "INSERT INTO sidecars (instance, spiffe_id, serial, replica, sequence, seen_at, valid_until, given_up) \
             VALUES ($1, $2, $3, $4, 0, $5, $6, NULL) ON CONFLICT (instance) DO UPDATE SET seen_at = $5, valid_until = $6",
        )
        .bind(instance)
        .bind(&svid.spiffe_id)
        .bind(&svid.serial)
        .bind(self.replica())
        .bind(now)
        .bind(svid.not_after)
        .execute(self.tx())
        .await?;
        Ok(())
    }

    /// A sidecar that is known lives on. It goes by the new certificate when it says so on a stream that was opened
    /// with it: the answer to a renewal may be lost.
    pub(crate) async fn sidecar_renewed(&mut self, svid: &SvidRow) -> Result<(), StoreError> {
        let instance = self.instance_of(svid).await?;
        query("UPDATE sidecars SET valid_until = $2 WHERE instance = $1")
            .bind(instance)
            .bind(svid.not_after)
            .execute(self.tx())
            .await?;
        Ok(())
    }

    /// It ended in good order: nobody waits for it.
    pub(crate) async fn sidecar_left(&mut self, serial: &[u8]) -> Result<(), StoreError> {
        let Some(svid) = self.svid(serial).await? else { return Ok(()) };
        let instance = self.instance_of(&svid).await?;
        query("DELETE FROM sidecars WHERE instance = $1").bind(instance).execute(self.tx()).await?;
        Ok(())
    }

    /// Whether this one ([`Writer::instance_of`]) was given up on, and has not acknowledged since.
    pub(crate) async fn is_given_up(&mut self, instance: &str) -> Result<bool, StoreError> {
        let found = query("SELECT 1 FROM sidecars WHERE instance = $1 AND given_up IS NOT NULL")
            .bind(instance)
            .fetch_optional(self.tx())
            .await?;
        Ok(found.is_some())
    }

    /// Waits no longer for those that do not have this bundle.
    pub(crate) async fn give_up(&mut self, sequence: u64, now: i64) -> Result<Vec<GivenUp>, StoreError> {
        let rows = query(
            "UPDATE sidecars SET given_up = $1 WHERE sequence < $1 AND given_up IS NULL AND valid_until >= $2 \
             AND sequence > 0 RETURNING instance, spiffe_id",
        )
        .bind(log::number_of(sequence))
        .bind(now)
        .fetch_all(self.tx())
        .await?;
        rows.iter()
            .map(|row| {
                let (instance, spiffe_id) = (row.try_get(0)?, row.try_get(1)?);
                Ok(GivenUp { instance, spiffe_id, sequence })
            })
            .collect()
    }

    pub(crate) async fn sweep_sidecars(&mut self, ended_before: i64) -> Result<(), StoreError> {
        query("DELETE FROM sidecars WHERE valid_until < $1").bind(ended_before).execute(self.tx()).await?;
        Ok(())
    }
}

impl Store {
    /// The oldest bundle that a live sidecar goes by; those that were given up on, and those that have not said anything
    /// yet, left out.
    pub(crate) async fn oldest_acknowledged(&self, now: i64) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT min(sequence) FROM sidecars WHERE given_up IS NULL AND sequence > 0 AND valid_until >= $1";
        let row = query(sql).bind(now).fetch_one(&mut self.desk.pool.read().await?).await?;
        Ok(row.try_get::<Option<i64>>(0)?.and_then(|number| u64::try_from(number).ok()))
    }

    /// How many live sidecars go by a certificate of each issuer: its serial, their number. One that joined and was not
    /// heard of within [`ARRIVAL`] is none.
    pub(crate) async fn holders(&self, now: i64) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
        let rows = query(
            "SELECT v.issuer, count(*) FROM sidecars s JOIN svids v ON v.serial = s.serial \
             WHERE s.valid_until >= $1 AND (s.sequence > 0 OR s.seen_at >= $2) GROUP BY v.issuer",
        )
        .bind(now)
        .bind(now.saturating_sub(ARRIVAL))
        .fetch_all(&mut self.desk.pool.read().await?)
        .await?;
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        rows.iter().map(|row| Ok((row.try_get(0)?, count(row.try_get(1)?)))).collect()
    }

    /// By which certificates the sidecars of an identity are known that may be at work: those that were told anything, and
    /// whose certificates have not all ended.
    pub(crate) async fn sidecars_of(&self, spiffe_id: &str, now: i64) -> Result<Vec<Vec<u8>>, StoreError> {
        let sql = "SELECT serial FROM sidecars WHERE spiffe_id = $1 AND valid_until >= $2 AND sequence > 0";
        let rows = query(sql).bind(spiffe_id).bind(now).fetch_all(&mut self.desk.pool.read().await?).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// When the last certificate of an issuer ends; none where it issued none.
    pub(crate) async fn last_end(&self, issuer: &[u8]) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT max(not_after) FROM svids WHERE issuer = $1";
        let row = query(sql).bind(issuer).fetch_one(&mut self.desk.pool.read().await?).await?;
        Ok(row.try_get(0)?)
    }
}
