//! Other control planes on the same store: heard of, and told that this one lives.

use std::sync::Weak;

use signet_audit::SignedLine;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::authority::{Authority, Inner};
use crate::error::AuthorityError;
use crate::store::{Change, Lead, ReplicaStatus, StoreError};

impl Authority {
    /// Every control plane that ever used this store.
    pub async fn replicas(&self) -> Result<Vec<ReplicaStatus>, AuthorityError> {
        Ok(self.inner.store.replicas().await?)
    }

    /// Becomes the one control plane that does what only one may do at a time; none if another is.
    pub async fn lead(&self) -> Result<Option<Lead>, AuthorityError> {
        self.act(|inner| async move { Ok(inner.store.lead().await?) }).await
    }

    /// Whether an act under this right would be let through: nobody else has led since.
    pub async fn leads(&self, lead: &Lead) -> Result<bool, AuthorityError> {
        let mut writer = self.inner.store.begin().await?;
        match writer.fenced(lead).await {
            Ok(()) => Ok(true),
            Err(StoreError::NotLeading { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Says that this control plane lives, and signs where its log ends, to the store and to the process's log. To be called every ten seconds.
    pub async fn beat(&self) -> Result<(), AuthorityError> {
        self.act(|inner| async move {
            let now = inner.clock.unix_seconds();
            let domain = inner.rules.trust_domain.as_str();
            if let Some(signed) = inner.store.beat(&inner.audit_key, domain, now).await? {
                let line = serde_json::json!(SignedLine::of(&signed));
                tracing::info!(target: "signet::audit", head = %line, "signed the end of the issuance log");
            }
            Ok(())
        })
        .await
    }
}

/// Hands out what others change, until the authority is gone.
pub(crate) async fn follow(mut changes: Receiver<Change>, authority: Weak<Inner>) {
    loop {
        let change = match changes.recv().await {
            Ok(change) => change,
            // What was missed may have been anything.
            Err(RecvError::Lagged(_)) => Change::Everything,
            Err(RecvError::Closed) => return,
        };
        let Some(inner) = authority.upgrade() else { return };
        let now = inner.clock.unix_seconds();
        if change != Change::Revocations
            && let Err(error) = inner.advance(now).await
        {
            inner.metrics.failures.inc();
            tracing::error!(target: "signet::ca", %error, "a step of a rotation could not be taken");
        }
        if change == Change::Rotation {
            continue;
        }
        if let Err(error) = inner.publish_revocations(now).await {
            inner.metrics.failures.inc();
            tracing::error!(target: "signet::ca", %error, "a change of the revocations could not be read");
        }
    }
}
