//! The token keys: under one, delegations to gateways' own keys are believed.
//!
//! A gateway signs transaction tokens with a key that it made; what makes them believed is a short-lived
//! delegation, signed here and carried with the token. Sidecars hold the public half (the token roots)
//! before any token reaches them. They rotate as all keys do (`rotation`).

use signet_identity::{PeerClass, SpiffeId};
use signet_token::Delegation;

use crate::authorise::Stop;
use crate::authority::{Authority, Caller};
use crate::error::AuthorityError;
use crate::record::{Entry, Event};
use crate::refusal::Refusal;

impl Authority {
    /// The keys under which delegations to gateways are believed, a JWK set as JSON.
    pub fn token_roots_json(&self) -> String {
        self.inner.published.borrow().token_keys.clone()
    }

    /// Signs a delegation to a gateway's key, and records it. The caller has checked that the peer is listed
    /// as a gateway; refused here are a peer or key that was revoked, and another trust domain's.
    pub async fn sign_delegation(&self, terms: Delegation) -> Result<String, AuthorityError> {
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            let subject = SpiffeId::parse(&terms.subject)
                .map_err(|_| AuthorityError::Refused(Refusal::IdentityShape))?;
            let about = Some((subject.clone(), PeerClass::Gateway));
            let refused = {
                let revocations = inner.revocations.borrow();
                if !subject.is_in(&inner.rules.trust_domain) {
                    Some(Refusal::TrustDomain)
                } else if inner.rules.is_reserved(&subject) {
                    Some(Refusal::Reserved)
                } else if revocations.set.identities.contains(&subject) {
                    Some(Refusal::IdentityRevoked)
                } else if revocations.delegations.contains(terms.thumbprint()) {
                    Some(Refusal::KeyRevoked)
                } else {
                    None
                }
            };
            if let Some(refusal) = refused {
                return Err(inner
                    .refuse(Stop::Refused(refusal, about), Caller::Peer, subject.as_str(), now)
                    .await);
            }
            let signed = signet_token::delegation::issue(&*inner.view()?.token()?, &terms)?;
            let mut writer = inner.store.begin().await?;
            let mut entry = Entry::new(now, Event::Delegated, subject.as_str())
                .about(subject.as_str(), PeerClass::Gateway.as_str())
                .because(terms.thumbprint());
            entry.not_after = i64::try_from(terms.expires_at).ok();
            writer.record(entry).await?;
            writer.commit().await?;
            Ok(signed)
        })
        .await
    }
}
