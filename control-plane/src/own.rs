//! The control plane's own SVID, and the TLS generation made of it.
//!
//! A new key and certificate at a third of life, and whenever the roots or its issuer change, swapped in while serving: connections under way keep the
//! generation that they began with, new ones take the new one. On failure the certificate at hand goes on
//! and the next try comes sooner.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use signet_ca::{Authority, AuthorityError, Published};
use signet_identity::{
    BundleError, Bundles, Generation, GenerationError, GenerationOptions, service_dns_name,
};

use tokio::sync::watch;

use crate::clock::unix_now;
use crate::metrics::Metrics;

const RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A clock that jumps is noticed within this.
const LOOK_AT_CLOCK: u64 = 30;

/// Why there is no own SVID.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Generation(#[from] GenerationError),
}

/// The generation in use, and when the next is due.
pub struct Own {
    authority: Authority,
    dns_names: Vec<String>,
    number: u64,
    renew_at: i64,
    current: Arc<ArcSwap<Generation>>,
    published: watch::Receiver<Arc<Published>>,
    issuing: watch::Receiver<String>,
    metrics: Metrics,
}

impl Own {
    /// Issues the first one, under its own name and these beside it.
    ///
    /// # Errors
    /// [`OwnError`]: without it nothing can be served.
    pub async fn begin(
        authority: Authority,
        namespace: &str,
        beside: &[String],
        metrics: Metrics,
    ) -> Result<Self, OwnError> {
        let mut dns_names = vec![service_dns_name("signet-control-plane", namespace)];
        dns_names.extend_from_slice(beside);
        let (published, issuing) = (authority.published(), authority.issuing());
        let (generation, renew_at) = issue(&authority, &dns_names, 1, &metrics).await?;
        let current = Arc::new(ArcSwap::new(generation));
        Ok(Self { authority, dns_names, number: 1, renew_at, current, published, issuing, metrics })
    }

    /// The generation that new connections take.
    #[must_use]
    pub fn current(&self) -> Arc<ArcSwap<Generation>> {
        Arc::clone(&self.current)
    }

    /// Issues the next one now.
    ///
    /// # Errors
    /// [`OwnError`]; the current one stays.
    pub async fn renew(&mut self) -> Result<(), OwnError> {
        let number = self.number.saturating_add(1);
        let (generation, renew_at) = issue(&self.authority, &self.dns_names, number, &self.metrics).await?;
        tracing::info!(target: "signet::own", number, not_after = generation.own().svid().not_after, "own certificate renewed");
        self.current.store(generation);
        self.number = number;
        self.renew_at = renew_at;
        Ok(())
    }

    /// Renews for as long as it runs.
    pub async fn keep(mut self) {
        let mut pause = RETRY;
        loop {
            let left = u64::try_from(self.renew_at.saturating_sub(unix_now())).unwrap_or(0);
            if left > 0 {
                let nap = tokio::time::sleep(Duration::from_secs(left.min(LOOK_AT_CLOCK)));
                tokio::select! {
                    () = nap => {}
                    // Peers are verified by other roots from now on, and verify us by them.
                    changed = self.published.changed() => if changed.is_ok() {
                        self.renew_at = 0;
                    } else {
                        return;
                    },
                    // Those who join are shown the root that signs now.
                    changed = self.issuing.changed() => if changed.is_ok() {
                        self.renew_at = 0;
                    } else {
                        return;
                    },
                }
                continue;
            }
            match self.renew().await {
                Ok(()) => pause = RETRY,
                Err(error) => {
                    tracing::error!(target: "signet::own", %error, "own certificate not renewed; the present one goes on");
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(RETRY_MAX);
                }
            }
        }
    }
}

async fn issue(
    authority: &Authority,
    dns_names: &[String],
    number: u64,
    metrics: &Metrics,
) -> Result<(Arc<Generation>, i64), OwnError> {
    let (own, issued) = authority.self_issue(dns_names.to_vec()).await?;
    let bundles = Arc::new(Bundles::from(authority.trust_bundle()?));
    let generation = Generation::build(number, own, bundles, GenerationOptions::default())?;
    metrics.svid_not_after.set(issued.not_after);
    Ok((generation, issued.renew_at))
}

#[cfg(test)]
mod tests {
    use signet_ca::{AuthorityConfig, Kind, SealConfig, SystemClock};
    use signet_identity::{PeerClass, TrustDomain};

    use super::*;

    async fn authority(dir: &std::path::Path) -> Authority {
        let mut seal = SealConfig::key_file(dir.join("seal.key"));
        seal.create_if_missing = true;
        let domain = TrustDomain::parse("demo.signet").unwrap();
        let config = AuthorityConfig::new(domain, dir.join("data"), seal);
        Authority::open(config, Arc::new(SystemClock)).await.unwrap()
    }

    #[tokio::test]
    async fn it_is_renewed_as_soon_as_another_issuer_signs() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path()).await;
        let own = Own::begin(authority.clone(), "signet-system", &[], Metrics::new().unwrap()).await.unwrap();
        let doors = own.current();
        let before = doors.load().own().chain()[1].clone();
        let kept = tokio::spawn(own.keep());
        let bundle = authority.published().borrow().sequence;
        authority.rotate(Kind::Issuer, "uid:0").await.unwrap();
        authority.maintain().await.unwrap();
        assert_eq!(authority.published().borrow().sequence, bundle, "the roots are the same");
        let other = async {
            while doors.load().own().chain()[1] == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), other).await.expect("a certificate of the new issuer");
        kept.abort();
    }

    #[tokio::test]
    async fn a_renewal_is_swapped_in_with_a_new_key_and_a_new_generation() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path()).await;
        let metrics = Metrics::new().unwrap();
        let mut own = Own::begin(authority.clone(), "signet-system", &[], metrics.clone()).await.unwrap();
        let doors = own.current();
        let before = doors.load_full();
        let svid = before.own().svid();
        assert_eq!((&svid.id, svid.class), (authority.control_plane_id(), PeerClass::ControlPlane));
        assert_eq!(svid.dns_names, ["signet-control-plane.signet-system.signet.internal"]);
        assert!(own.renew_at > unix_now() && own.renew_at < svid.not_after);
        own.renew().await.unwrap();
        let after = doors.load_full();
        assert_eq!((before.number(), after.number()), (1, 2));
        assert_ne!(after.own().svid().key, before.own().svid().key);
        assert_eq!(metrics.svid_not_after.get(), after.own().svid().not_after);
    }
}
