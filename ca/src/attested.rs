//! Certificates for what was attested: somebody else vouches for who asks, here and now.
//!
//! The evidence (a service account's token, say) is judged by the caller before anything here is called:
//! asking a remote server has no place inside a transaction. What comes in is the result: an identity, a
//! class and the running instance that is meant. Such a certificate begins no lineage. It is never renewed;
//! its holder is attested again each time, with fresh evidence and a new key, so that what stopped being
//! true gets no further certificate.

use std::convert::Infallible;
use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

use signet_identity::{PeerClass, SpiffeId};

use crate::authorise::{SharedRegistrar, Stop};
use crate::authority::{Authority, Caller, Inner};
use crate::config::{MAX_SVID_TTL, MIN_DEV_SVID_TTL, seconds};
use crate::csr::bounded;
use crate::error::AuthorityError;
use crate::issue::{self, Issued};
use crate::limits::Holder;
use crate::refusal::Refusal;
use crate::store::Guarded;

/// The running thing that was attested. It is kept beside its certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The name that the configuration gives to the cluster.
    pub cluster: String,
    pub namespace: String,
    pub pod: String,
    /// Never used again by the cluster, unlike the pod's name.
    pub pod_uid: String,
    pub node: String,
}

/// In the words of the issuance log.
impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Instance { cluster, namespace, pod, pod_uid, node } = self;
        write!(f, "pod {namespace}/{pod} ({pod_uid}) on node {node} of cluster {cluster}")
    }
}

/// What the evidence came to.
#[derive(Debug, Clone)]
pub struct Attested {
    pub spiffe_id: SpiffeId,
    pub class: PeerClass,
    pub instance: Instance,
    /// Whether it goes on: its holder came with a certificate of this identity, and must go by a bundle in force.
    pub again: bool,
    /// How it was attested; labels a counter.
    pub by: &'static str,
    /// Another life than the configured one, at most a day.
    pub ttl: Option<Duration>,
}

impl Authority {
    /// Whether this source may bring evidence now: one whose evidence keeps being refused waits out the minute,
    /// before anybody is asked about it. The refusal is recorded.
    pub async fn admit_evidence(&self, source: &str) -> Result<(), AuthorityError> {
        let now = self.inner.clock.unix_seconds();
        if self.inner.attempts.lock().unwrap_or_else(PoisonError::into_inner).allows(source, now) {
            return Ok(());
        }
        Err(self.refuse_evidence(Refusal::TooManyAttempts, None, source).await)
    }

    /// Counts and records that evidence was refused, and hands back the error for whoever brought it.
    pub async fn refuse_evidence(
        &self,
        refusal: Refusal,
        about: Option<(SpiffeId, PeerClass)>,
        source: &str,
    ) -> AuthorityError {
        let source = source.to_owned();
        let refused = self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            let stop = Stop::Refused(refusal, about);
            Err::<Infallible, _>(inner.refuse_stranger(stop, &source, now).await)
        });
        match refused.await {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    /// Issues a certificate for what was attested. `source` is the caller's address, as for a join token.
    pub async fn issue_attested(
        &self,
        attested: Attested,
        csr: &[u8],
        source: &str,
        registrar: SharedRegistrar,
    ) -> Result<Issued, AuthorityError> {
        let csr = bounded(csr);
        let source = source.to_owned();
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            match inner.issue_attested(&attested, csr, &source, registrar, now).await {
                Ok(issued) => {
                    inner.issued(attested.by, &issued);
                    Ok(issued)
                }
                Err(stop) => Err(inner.refuse_stranger(stop, &source, now).await),
            }
        })
        .await
    }
}

impl Inner {
    async fn issue_attested(
        &self,
        attested: &Attested,
        csr: Result<Vec<u8>, Refusal>,
        source: &str,
        registrar: SharedRegistrar,
        now: i64,
    ) -> Result<Issued, Stop> {
        let about = || Some((attested.spiffe_id.clone(), attested.class));
        let refuse = |refusal| Stop::Refused(refusal, about());
        let key = self.key_of(&csr.map_err(refuse)?).map_err(refuse)?;
        let ttl = match attested.ttl {
            None => self.svid_ttl,
            Some(ttl) if (MIN_DEV_SVID_TTL..=MAX_SVID_TTL).contains(&ttl) => seconds(ttl),
            Some(_) => return Err(refuse(Refusal::Lifetime)),
        };
        let holders = [Holder::instance(&attested.instance), Holder::identity(&attested.spiffe_id)];
        self.admit(&holders, (&attested.spiffe_id, attested.class), now)?;
        let issuer = self.issuer(now).await?;
        let key_hash = key.sha256();
        let mut writer = self.store.begin_once(&[Guarded::Key(&key_hash)]).await?;
        let authorized = self.rules.by_attestation(&mut writer, attested, &key, &*registrar, now).await?;
        let issued = issue::issue(&mut writer, &authorized, &key, &issuer, (ttl, now), source).await?;
        writer.commit().await?;
        Ok(issued)
    }

    /// Refuses somebody who is nobody yet. A failed attempt counts against its source.
    pub(crate) async fn refuse_stranger(&self, stop: Stop, source: &str, now: i64) -> AuthorityError {
        if let Stop::Refused(refusal, _) = &stop
            && !matches!(refusal, Refusal::TooManyAttempts | Refusal::EvidenceInFlight)
        {
            self.attempts.lock().unwrap_or_else(PoisonError::into_inner).failed(source, now);
        }
        self.refuse(stop, Caller::Stranger, source, now).await
    }
}
