//! Certificates for apps: a key of its own, the identity of its sidecar, class `workload`.
//!
//! The sidecar asks, by the certificate that it presents; its app gets the key. Such a certificate has no voice in
//! user context, ends no later than the one that asked for it, and opens nothing here: it is never renewed (the
//! next one is another), and belongs to its sidecar's lineage, so that what revokes that revokes it as well, or to the
//! pod that its sidecar was attested in. The registry's Workload has to opt in, and is asked each time.

use std::sync::PoisonError;

use rustls_pki_types::CertificateDer;

use crate::authorise::{Grant, SharedRegistrar, Stop};
use crate::authority::{Authority, Inner};
use crate::csr::bounded;
use crate::error::AuthorityError;
use crate::issue::{self, Issued};
use crate::limits::Holder;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::store::Guarded;

impl Authority {
    /// Issues a certificate of class `workload` to the key of this request, with the identity of the peer that
    /// presented `presented` (its leaf, DER). The caller's TLS has verified it and the peer's possession of its key.
    pub async fn issue_workload(
        &self,
        presented: &CertificateDer<'_>,
        csr: &[u8],
        registrar: SharedRegistrar,
    ) -> Result<Issued, AuthorityError> {
        let csr = bounded(csr);
        self.act_of_peer(presented, move |inner, peer| async move {
            let issued = inner.issue_workload(&peer, csr, registrar).await?;
            inner.issued("workload", &issued);
            Ok(issued)
        })
        .await
    }
}

impl Inner {
    async fn issue_workload(
        &self,
        peer: &Peer,
        csr: Result<Vec<u8>, Refusal>,
        registrar: SharedRegistrar,
    ) -> Result<Issued, Stop> {
        let &Peer { leaf: ref presented, ref actor, now } = peer;
        let refuse = |refusal| Stop::Refused(refusal, None);
        let key = self.key_of(&csr.map_err(refuse)?).map_err(refuse)?;
        let issuer = self.issuer(now).await?;
        let key_hash = key.sha256();
        let mut writer = self.store.begin_once(&[Guarded::Key(&key_hash)]).await?;
        let authorized = self.rules.by_proxy(&mut writer, presented, &key, &*registrar, now).await?;
        if let Grant::Workload { tie, .. } = authorized.grant()
            && !self.workloads.lock().unwrap_or_else(PoisonError::into_inner).admit(&[Holder::of(tie)], now)
        {
            let about = (authorized.id().clone(), authorized.class());
            return Err(Stop::Refused(Refusal::TooManyAttempts, Some(about)));
        }
        let issued =
            issue::issue(&mut writer, &authorized, &key, &issuer, (self.svid_ttl, now), actor).await?;
        writer.commit().await?;
        Ok(issued)
    }
}
