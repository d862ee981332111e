//! The token key: under it, delegations to gateways' own keys are believed.
//!
//! A gateway signs transaction tokens with a key that it made; what makes them believed is a short-lived
//! delegation, signed here and carried with the token. Sidecars hold the public half (the token roots)
//! before any token reaches them.

use signet_identity::{PeerClass, SpiffeId};
use signet_token::{Delegation, Jwk, SigningKey};

use crate::authorise::Stop;
use crate::authority::{Authority, Caller};
use crate::error::AuthorityError;
use crate::record::{Entry, Event};
use crate::refusal::Refusal;

impl Authority {
    /// The key under which delegations to gateways are believed: its public half.
    pub fn token_root(&self) -> &Jwk {
        self.inner.token_key.public_jwk()
    }

    /// The token roots as a JWK set, ready to be delivered.
    pub fn token_roots_json(&self) -> String {
        serde_json::json!({ "keys": [self.token_root().to_json()] }).to_string()
    }

    /// Signs with the token key, for tokens that the control plane itself issues.
    pub fn token_key(&self) -> &SigningKey {
        &self.inner.token_key
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
            let signed = signet_token::delegation::issue(&inner.token_key, &terms)?;
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
