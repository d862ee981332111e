//! JWT-SVIDs, for what cannot do mutual TLS.
//!
//! A bearer token that nothing takes back, so it lives for minutes and says the least: who (`sub`), for whom (`aud`),
//! until when. It is signed with a key of its own, and only for the identity of the sidecar that asks, whose
//! Workload has opted in. Each one is a line of the issuance log.

use std::fmt;
use std::sync::PoisonError;

use rustls_pki_types::CertificateDer;
use signet_identity::{PeerClass, SpiffeId};
use signet_token::jwt_svid;

use crate::authorise::{SharedRegistrar, Stop, Tie};
use crate::authority::{Authority, Inner};
use crate::error::AuthorityError;
use crate::limits::Holder;
use crate::peer::Peer;
use crate::record::{Entry, Event};
use crate::refusal::Refusal;
use crate::store::Writer;

/// A JWT-SVID, to be sent and never logged, and what it says.
#[derive(Clone)]
pub struct JwtSvid {
    /// Compact JWS.
    pub token: String,
    pub spiffe_id: SpiffeId,
    /// Seconds since the epoch.
    pub issued_at: i64,
    pub expires_at: i64,
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

/// Whose token it is, when it ends at the latest, and why it is made; for the log.
pub(crate) struct Bearer {
    pub(crate) id: SpiffeId,
    pub(crate) ends_at: i64,
    pub(crate) words: String,
}

impl Authority {
    /// The keys under which JWT-SVIDs are believed, a JWK set as JSON: of every replica, and of those that just signed.
    pub fn jwt_keys_json(&self) -> String {
        self.inner.published.borrow().jwt_keys.clone()
    }

    /// Signs a JWT-SVID for the peer that presented this certificate (its leaf, DER), and records it. `wanted` is the
    /// identity that it asked for, if it named one.
    pub async fn sign_jwt_svid(
        &self,
        presented: &CertificateDer<'_>,
        audiences: Vec<String>,
        wanted: Option<String>,
        registrar: SharedRegistrar,
    ) -> Result<JwtSvid, AuthorityError> {
        self.act_of_peer(presented, move |inner, peer| async move {
            let svid = inner.jwt_svid(&peer, &audiences, wanted, registrar).await?;
            inner.jwt_issued(&svid, &audiences);
            Ok(svid)
        })
        .await
    }
}

impl Inner {
    async fn jwt_svid(
        &self,
        peer: &Peer,
        audiences: &[String],
        wanted: Option<String>,
        registrar: SharedRegistrar,
    ) -> Result<JwtSvid, Stop> {
        let &Peer { leaf: ref presented, ref actor, now } = peer;
        if !jwt_svid::are_audiences(audiences) {
            return Err(Stop::Refused(Refusal::Audience, None));
        }
        let mut writer = self.store.begin().await?;
        let holder = self.rules.proxy(&mut writer, presented, &*registrar, now).await?;
        let class = PeerClass::Workload;
        let refuse = |refusal| Stop::Refused(refusal, Some((holder.id.clone(), class)));
        if wanted.is_some_and(|wanted| wanted != holder.id.as_str()) {
            return Err(refuse(Refusal::NotTheCaller));
        }
        if registrar.dns_names(&holder.id, class).is_none() {
            return Err(refuse(Refusal::WorkloadApiOff));
        }
        let counted = [Holder::of(&holder.tie)];
        if !self.jwt_svids.lock().unwrap_or_else(PoisonError::into_inner).admit(&counted, now) {
            return Err(refuse(Refusal::TooManyAttempts));
        }
        let ends_at = match &holder.tie {
            Tie::Lineage(lineage) => lineage.ends_at,
            Tie::Instance(_) => i64::MAX,
        };
        let bearer = Bearer { id: holder.id, ends_at, words: format!("for {}", audiences.join(", ")) };
        self.bearer_token(writer, bearer, audiences, actor, now).await
    }

    /// Signs the token of whoever was found to have the right to it, and records it in the same transaction.
    pub(crate) async fn bearer_token(
        &self,
        mut writer: Writer,
        bearer: Bearer,
        audiences: &[String],
        actor: &str,
        now: i64,
    ) -> Result<JwtSvid, Stop> {
        let Bearer { id, ends_at, words } = bearer;
        let expires_at = now.saturating_add(self.jwt_svid_ttl).min(ends_at);
        let terms = jwt_svid::Terms {
            subject: id.as_str(),
            audiences,
            issued_at: u64::try_from(now).unwrap_or(0),
            expires_at: u64::try_from(expires_at).unwrap_or(0),
        };
        let key = self.view()?.jwt().map_err(AuthorityError::from)?;
        let token = jwt_svid::sign(&key, &terms).map_err(AuthorityError::from)?;
        let mut entry = Entry::new(now, Event::JwtIssued, actor)
            .about(id.as_str(), PeerClass::Workload.as_str())
            .because(&words);
        entry.not_after = Some(expires_at);
        writer.record(entry).await?;
        writer.commit().await?;
        Ok(JwtSvid { token, spiffe_id: id, issued_at: now, expires_at })
    }

    /// Counts one that was signed, and says so.
    pub(crate) fn jwt_issued(&self, svid: &JwtSvid, audiences: &[String]) {
        self.metrics.issued.with_label_values(&["jwt-svid", PeerClass::Workload.as_str()]).inc();
        tracing::info!(
            target: "signet::ca", id = %svid.spiffe_id, ?audiences, expires_at = svid.expires_at, "signed a JWT-SVID"
        );
    }
}
