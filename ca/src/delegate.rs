//! The token keys: under one, delegations to gateways' own keys are believed.
//!
//! A gateway signs transaction tokens with a key that it made; what makes them believed is a short-lived
//! delegation, signed here and carried with the token. Sidecars hold the public half (the token roots)
//! before any token reaches them. They rotate as all keys do (`rotation`).

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use signet_identity::PeerClass;
use signet_token::Delegation;

use crate::authorise::Stop;
use crate::authority::{Authority, Inner};
use crate::error::AuthorityError;
use crate::peer::Peer;
use crate::record::{Entry, Event};
use crate::refusal::Refusal;
use crate::store::{DelegationRow, RevocationKind};

impl Authority {
    /// The keys under which delegations to gateways are believed, a JWK set as JSON.
    pub fn token_roots_json(&self) -> String {
        self.inner.published.borrow().token_keys.clone()
    }

    /// Signs a delegation to a gateway's key, and records it. `presented` is the gateway's leaf, DER: the caller's TLS has
    /// verified it, and the caller has checked that its identity is listed as a gateway. Refused here is whoever may not
    /// ask for anything (unknown, ended, revoked in any way), is of another class or is not the subject; and a key that
    /// was revoked.
    pub async fn sign_delegation(
        &self,
        presented: &CertificateDer<'_>,
        terms: Delegation,
    ) -> Result<String, AuthorityError> {
        let act = move |inner: Arc<Inner>, peer: Arc<Peer>| async move {
            inner.sign_delegation(&peer, &terms).await
        };
        self.act_of_peer(presented, act).await
    }
}

impl Inner {
    async fn sign_delegation(&self, peer: &Peer, terms: &Delegation) -> Result<String, Stop> {
        let &Peer { leaf: ref presented, now, .. } = peer;
        // Whoever revokes is alone with the store: what is signed here was recorded before, or is refused.
        let mut writer = self.store.begin().await?;
        let holder = self.rules.holder(&mut writer, presented, now).await?;
        let refuse = |refusal| Stop::Refused(refusal, Some((holder.id.clone(), holder.class)));
        if holder.class != PeerClass::Gateway {
            return Err(refuse(Refusal::ClassNotAllowed));
        }
        if holder.id.as_str() != terms.subject {
            return Err(refuse(Refusal::PeerMismatch));
        }
        let thumbprint = terms.thumbprint();
        if writer.is_revoked(RevocationKind::Delegation, thumbprint.as_bytes(), now).await? {
            return Err(refuse(Refusal::KeyRevoked));
        }
        let key = self.view()?.token().map_err(AuthorityError::from)?;
        let signed = signet_token::delegation::issue(&key, terms).map_err(AuthorityError::from)?;
        let expires_at = i64::try_from(terms.expires_at).unwrap_or(i64::MAX);
        let row = DelegationRow {
            thumbprint: thumbprint.to_owned(),
            serial: holder.serial.as_bytes().to_vec(),
            spiffe_id: terms.subject.clone(),
            expires_at,
        };
        writer.insert_delegation(&row).await?;
        let mut entry = Entry::new(now, Event::Delegated, holder.id.as_str())
            .about(holder.id.as_str(), PeerClass::Gateway.as_str())
            .because(thumbprint);
        entry.not_after = Some(expires_at);
        writer.record(entry).await?;
        writer.commit().await?;
        Ok(signed)
    }
}
