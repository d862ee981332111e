//! Renewal by lineage, for workloads that no orchestrator vouches for.
//!
//! The chain of certificates that began with one join token is a lineage with an end. Each certificate
//! renews once. The same key asking again gets the same answer, so a lost answer costs nothing; another key
//! means that the private key behind the parent is in two hands, and nobody can tell which one is honest:
//! the lineage is revoked with everything of it that is still valid, and an alert is recorded.

use std::sync::PoisonError;

use rustls_pki_types::CertificateDer;
use signet_identity::{PeerClass, Serial, SpiffeId};

use crate::authorise::{Grant, Renewal, SharedRegistrar, Stop};
use crate::authority::{Authority, Inner};
use crate::csr::bounded;
use crate::error::AuthorityError;
use crate::issue::{self, Issued, renew_at};
use crate::limits::Holder;
use crate::peer::Peer;
use crate::record::{Entry, Event};
use crate::refusal::Refusal;
use crate::revoke::{self, LineageId, Revocation};
use crate::store::{Guarded, LineageRow, RevocationKind, RevocationRow, StoreError, SvidRow, Writer};

/// How long before a lineage's end each renewal is a warning.
const DAY: i64 = 24 * 3600;

impl Authority {
    /// Renews the certificate that the peer presented in its handshake (its leaf, DER). The caller's TLS has
    /// verified it and the peer's possession of its key; who the peer is is read from it alone.
    pub async fn renew(
        &self,
        presented: &CertificateDer<'_>,
        csr: &[u8],
        registrar: SharedRegistrar,
    ) -> Result<Issued, AuthorityError> {
        let csr = bounded(csr);
        self.act_of_peer(presented, move |inner, peer| async move {
            let (by, issued) = inner.renew(&peer, csr, registrar).await?;
            inner.issued(by, &issued);
            inner.warn_of_end(&issued, peer.now);
            Ok(issued)
        })
        .await
    }
}

impl Inner {
    async fn renew(
        &self,
        peer: &Peer,
        csr: Result<Vec<u8>, Refusal>,
        registrar: SharedRegistrar,
    ) -> Result<(&'static str, Issued), Stop> {
        let &Peer { leaf: ref presented, ref actor, now } = peer;
        let refuse = |refusal| Stop::Refused(refusal, None);
        let key = self.key_of(&csr.map_err(refuse)?).map_err(refuse)?;
        let issuer = self.issuer(now).await?;
        let (parent, key_hash) = (serial_of(presented), key.sha256());
        let parent = parent.as_ref().map_or(&[][..], Serial::as_bytes);
        let mut writer = self.store.begin_once(&[Guarded::Parent(parent), Guarded::Key(&key_hash)]).await?;
        match self.rules.by_renewal(&mut writer, presented, &key, &*registrar, now).await? {
            Renewal::Granted(authorized) => {
                if let Grant::Renewal { lineage, .. } = authorized.grant() {
                    let holders = [Holder::Lineage(lineage.id), Holder::identity(authorized.id())];
                    self.admit(&holders, (authorized.id(), authorized.class()), now)?;
                }
                let issued =
                    issue::issue(&mut writer, &authorized, &key, &issuer, (self.svid_ttl, now), actor)
                        .await?;
                writer.commit().await?;
                Ok(("renewal", issued))
            }
            Renewal::Again(row) => Ok(("resent", self.again(writer, row, actor, now).await?)),
            Renewal::Reused(_) => {
                drop(writer);
                // Whoever changes the revocations is alone with them: so it is looked at again.
                let mut writer = self.store.begin_alone().await?;
                match self.rules.by_renewal(&mut writer, presented, &key, &*registrar, now).await? {
                    Renewal::Reused(lineage) => {
                        let about = self.revoke_lineage(writer, &lineage, presented, actor, now).await?;
                        Err(Stop::Refused(Refusal::ParentReused, about))
                    }
                    Renewal::Granted(_) | Renewal::Again(_) => Err(refuse(Refusal::Contended)),
                }
            }
        }
    }

    /// A workload whose chain of renewals is about to end must be joined again by somebody, soon.
    fn warn_of_end(&self, issued: &Issued, now: i64) {
        let Some(ends_at) = issued.lineage_ends_at.filter(|end| end.saturating_sub(now) < DAY) else {
            return;
        };
        self.metrics.lineages_ending.inc();
        tracing::warn!(
            target: "signet::ca", id = %issued.spiffe_id, serial = %issued.serial, lineage_ends_at = ends_at,
            left_seconds = ends_at.saturating_sub(now),
            "less than a day is left of this chain of renewals: make a new join bundle and restart the sidecar with it"
        );
    }

    /// Gives an answer that was lost once more, and records it.
    pub(crate) async fn again(
        &self,
        mut writer: Writer,
        row: SvidRow,
        actor: &str,
        now: i64,
    ) -> Result<Issued, Stop> {
        if let (Some(lineage), Ok(id), Ok(class)) =
            (row.lineage, SpiffeId::parse(&row.spiffe_id), row.class.parse())
        {
            self.admit(&[Holder::Lineage(lineage), Holder::identity(&id)], (&id, class), now)?;
        }
        let issued = again(&mut writer, row, actor, now).await?;
        writer.commit().await?;
        Ok(issued)
    }

    /// Counts a certificate of these holders.
    pub(crate) fn admit(
        &self,
        holders: &[Holder],
        about: (&SpiffeId, PeerClass),
        now: i64,
    ) -> Result<(), Stop> {
        if self.signing.lock().unwrap_or_else(PoisonError::into_inner).admit(holders, now) {
            return Ok(());
        }
        Err(Stop::Refused(Refusal::TooManyAttempts, Some((about.0.clone(), about.1))))
    }

    /// Ends a lineage of which one private key is in two hands.
    async fn revoke_lineage(
        &self,
        mut writer: Writer,
        lineage: &LineageRow,
        presented: &CertificateDer<'_>,
        actor: &str,
        now: i64,
    ) -> Result<Option<(SpiffeId, signet_identity::PeerClass)>, Stop> {
        let reason = "its lineage had two keys for one parent";
        for (serial, not_after) in writer.revoke_lineage(lineage, now).await? {
            let row = RevocationRow {
                kind: RevocationKind::Serial,
                value: serial,
                // The last second of its validity still counts.
                expires_at: Some(not_after.saturating_add(1)),
            };
            writer.insert_revocation(&row, reason, now).await?;
        }
        let all_of_it = Revocation::Lineage(LineageId::of(lineage.id));
        revoke::end_delegations(&mut writer, &all_of_it, reason, now).await?;
        writer.mark_revocations(now).await?;
        let parent = serial_of(presented).map_or_else(String::new, |serial| serial.to_string());
        let mut entry = Entry::new(now, Event::Alert, actor)
            .about(&lineage.spiffe_id, &lineage.class)
            .because(Refusal::ParentReused.label());
        entry.serial = parent;
        writer.record(entry).await?;
        writer.commit().await?;
        self.metrics.alerts.inc();
        tracing::error!(
            target: "signet::ca", id = lineage.spiffe_id, actor,
            "a certificate was renewed twice with different keys: its lineage is revoked, the workload must join again"
        );
        self.publish_revocations(now).await?;
        Ok(SpiffeId::parse(&lineage.spiffe_id).ok().zip(lineage.class.parse().ok()))
    }
}

/// The answer that was given before.
async fn again(writer: &mut Writer, row: SvidRow, actor: &str, now: i64) -> Result<Issued, AuthorityError> {
    let corrupt = |what| StoreError::Corrupt { table: "svids", what };
    let issuer = writer.issuer_certificate(&row.issuer).await?.ok_or(corrupt("its issuer is missing"))?;
    let not_before = crate::check::parse(&row.certificate)?.validity().not_before.timestamp();
    let lineage = match row.lineage {
        Some(id) => writer.lineage(&id).await?,
        None => None,
    };
    let serial = Serial::from_bytes(&row.serial).map_err(|_| corrupt("its serial is bad"))?;
    let entry = Entry::new(now, Event::Resent, actor)
        .about(&row.spiffe_id, &row.class)
        .certificate(&serial.to_string(), row.not_after)
        .because(&lineage.as_ref().map(issue::lineage_words).unwrap_or_default());
    writer.record(entry).await?;
    Ok(Issued {
        spiffe_id: SpiffeId::parse(&row.spiffe_id).map_err(|_| corrupt("its identity is bad"))?,
        class: row.class.parse().map_err(|_| corrupt("its class is bad"))?,
        serial,
        chain: vec![CertificateDer::from(row.certificate), CertificateDer::from(issuer)],
        not_before,
        not_after: row.not_after,
        renew_at: renew_at(now, row.not_after),
        lineage_ends_at: lineage.map(|lineage| lineage.ends_at),
    })
}

fn serial_of(certificate: &CertificateDer<'_>) -> Option<Serial> {
    let parsed = crate::check::parse(certificate).ok()?;
    Serial::from_der_integer(parsed.raw_serial()).ok()
}
