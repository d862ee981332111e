//! Other control planes on the same store: heard of, and told that this one lives.

use std::sync::{Arc, Weak};

use signet_audit::{Signed, SignedLine};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::watch;

use crate::authority::{Authority, Inner};
use crate::error::AuthorityError;
use crate::store::{Change, Lead, ReplicaStatus};

impl Authority {
    /// Every control plane that ever used this store.
    pub async fn replicas(&self) -> Result<Vec<ReplicaStatus>, AuthorityError> {
        Ok(self.inner.store.replicas().await?)
    }

    /// The epoch under which this control plane does what only one may do at a time; none while another leads.
    pub async fn leading(&self) -> Option<i64> {
        let leading = self.inner.leading.lock().await;
        leading.as_ref().filter(|lead| !lead.is_lost()).map(Lead::epoch)
    }

    /// Where this control plane's log ended when it was signed last, and each time that it is; none before the first.
    pub fn log_head(&self) -> watch::Receiver<Option<Arc<Signed>>> {
        self.inner.head.subscribe()
    }

    /// By which certificates the sidecars and gateways of an identity are known that may be at work, at whichever control
    /// plane: of each the one under which it said last what it goes by.
    pub async fn sidecars_of(&self, spiffe_id: &str) -> Result<Vec<Vec<u8>>, AuthorityError> {
        let now = self.inner.clock.unix_seconds();
        Ok(self.inner.store.sidecars_of(spiffe_id, now).await?)
    }

    /// Says that this control plane lives, and signs where its log ends, to the store and to the process's log. To be called every ten seconds.
    pub async fn beat(&self) -> Result<(), AuthorityError> {
        self.act(|inner| async move {
            let now = inner.clock.unix_seconds();
            let domain = inner.rules.trust_domain.as_str();
            if let Some(signed) = inner.store.beat(&inner.audit_key, domain, now).await? {
                let line = serde_json::json!(SignedLine::of(&signed));
                tracing::info!(target: "signet::audit", head = %line, "signed the end of the issuance log");
                inner.head.send_replace(Some(Arc::new(signed)));
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
