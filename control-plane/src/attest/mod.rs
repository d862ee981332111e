//! Who workloads are, by the word of the platform that runs them.
//!
//! A pod shows its service account's token; [`kubernetes`] finds out who holds it, from the cluster's API server
//! ([`review`] is what is asked and what the answer means, [`api`] how it is asked, [`circuit`] whether at all) or,
//! in the [`fast`] mode, from its [`keys`] and a [`watch`] of its [`pods`]. The registry says which identity that pod is
//! ([`identify`]); the authority issues, and asks the registry whether that identity may have a certificate.
//!
//! What it never does: believe a token for another audience, take an identity from a request, hold a lock or a
//! transaction while it waits for the API server, or take the server's silence for an answer. The caller hears
//! one text for all that is wrong with its evidence; the reason goes to the issuance log.

pub mod circuit;
pub mod config;
pub mod fast;
pub mod keys;
pub mod kubernetes;
pub mod metrics;
pub mod pods;
pub mod review;
pub mod token;
pub mod watch;

pub use crate::cluster::api;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use signet_ca::{Attested, Authority, AuthorityError, Issued, Refusal, SharedRegistrar};
use signet_identity::{PeerClass, SpiffeId, TrustDomain};
use signet_model::{Registry, WorkloadId};
use tokio::sync::watch::Receiver;

use self::kubernetes::{Failure, Kubernetes, Proven};
use crate::registrar::peer_class;
use crate::registry::State;

/// Why there is no certificate.
#[derive(Debug)]
pub enum Denied {
    /// The authority refuses or fails.
    Authority(AuthorityError),
    /// Whoever must be asked about the evidence does not answer.
    Unavailable,
}

impl From<AuthorityError> for Denied {
    fn from(error: AuthorityError) -> Self {
        Self::Authority(error)
    }
}

/// Evidence, and what is asked for it.
pub struct Ask<'a> {
    pub token: &'a str,
    pub audience: &'a str,
    /// PKCS #10, DER.
    pub csr_der: &'a [u8],
    pub address: IpAddr,
    pub want: Want<'a>,
}

/// What for.
pub enum Want<'a> {
    /// A certificate for one of our own programs.
    Ours,
    /// The same for whoever came with a certificate of this identity: the evidence must be about it.
    Again(&'a SpiffeId, PeerClass),
    /// A key held by an app; of itself, or of another workload of its node.
    Apps { of: Option<&'a WorkloadId>, ttl: Option<Duration>, node_accounts: &'a [WorkloadId] },
}

impl Want<'_> {
    /// The class of what is asked for, as far as that is known beforehand.
    fn class(&self) -> PeerClass {
        match self {
            Want::Ours => PeerClass::Sidecar,
            Want::Again(_, class) => *class,
            Want::Apps { .. } => PeerClass::Workload,
        }
    }
}

/// Who asks, and for which class; for the record.
#[derive(Clone, Copy)]
struct Source<'a> {
    address: &'a str,
    class: PeerClass,
}

/// Attests, and has the authority issue.
#[derive(Clone)]
pub struct Attestation {
    pub authority: Authority,
    pub kubernetes: Arc<Kubernetes>,
    pub registry: Receiver<State>,
    pub trust_domain: TrustDomain,
    /// Says which of our own programs get a certificate.
    pub ours: SharedRegistrar,
    /// Says which apps do.
    pub apps: SharedRegistrar,
}

/// Who a pod is: the registration that asks most of it, else its service account as a sidecar.
#[must_use]
pub fn identify(registry: &Registry, pod: &Proven) -> (WorkloadId, PeerClass) {
    let entry = registry.registration_of(&pod.account, &pod.labels);
    let found = entry.and_then(|entry| registry.workload(&entry.spec.identity).map(|w| (entry, w)));
    match found {
        Some((entry, workload)) => (entry.spec.identity.clone(), peer_class(workload.spec.class)),
        None => (pod.account.clone(), PeerClass::Sidecar),
    }
}

impl Attestation {
    /// Judges the evidence and issues.
    ///
    /// # Errors
    /// [`Denied`]; refusals are recorded by then.
    pub async fn issue(&self, ask: Ask<'_>) -> Result<Issued, Denied> {
        let source = ask.address.to_canonical().to_string();
        let from = Source { address: &source, class: ask.want.class() };
        self.authority.admit_evidence(&source).await?;
        let registry = Arc::clone(&self.registry.borrow().registry);
        let needs_labels = |account: &WorkloadId| registry.needs_labels(account);
        let proven = match self.kubernetes.attest(ask.token, ask.audience, ask.address, needs_labels).await {
            Ok(proven) => proven,
            Err(failure) => return Err(self.failed(failure, from).await),
        };
        let system = self.authority.control_plane_id().namespace();
        if Some(proven.account.namespace.as_str()) == system {
            return Err(self.refuse(Refusal::EvidenceReserved, Some(&proven.account), from).await);
        }
        let (id, class) = identify(&registry, &proven);
        let again = matches!(ask.want, Want::Again(..));
        let (id, class, ttl) = match ask.want {
            Want::Ours => (id, class, None),
            Want::Again(expected, peer) => {
                if id.spiffe_id(&self.trust_domain).ok().as_ref() != Some(expected) || class != peer {
                    return Err(self.refuse(Refusal::EvidenceIdentity, Some(&id), from).await);
                }
                (id, class, None)
            }
            Want::Apps { of: None, ttl, .. } => (id, PeerClass::Workload, ttl),
            Want::Apps { of: Some(other), ttl, node_accounts } => {
                let listed = node_accounts.contains(&proven.account);
                let runs = match listed {
                    true => self.kubernetes.runs_on(other, &proven.instance.node).await,
                    false => Ok(false),
                };
                match runs {
                    Ok(true) => (other.clone(), PeerClass::Workload, ttl),
                    Ok(false) => {
                        return Err(self.refuse(Refusal::Impersonation, Some(other), from).await);
                    }
                    Err(failure) => return Err(self.failed(failure, from).await),
                }
            }
        };
        let Ok(spiffe_id) = id.spiffe_id(&self.trust_domain) else {
            return Err(self.refuse(Refusal::IdentityShape, None, from).await);
        };
        let (by, registrar) = match class {
            PeerClass::Workload => ("istio", &self.apps),
            _ => ("kubernetes", &self.ours),
        };
        let attested = Attested { spiffe_id, class, instance: proven.instance, again, by, ttl };
        Ok(self.authority.issue_attested(attested, ask.csr_der, &source, registrar.clone()).await?)
    }

    async fn failed(&self, failure: Failure, source: Source<'_>) -> Denied {
        match failure {
            Failure::Refused(refusal, about) => self.refuse(refusal, about.as_ref(), source).await,
            Failure::Unavailable => Denied::Unavailable,
        }
    }

    async fn refuse(&self, refusal: Refusal, about: Option<&WorkloadId>, source: Source<'_>) -> Denied {
        let about = about.and_then(|id| id.spiffe_id(&self.trust_domain).ok()).map(|id| (id, source.class));
        self.authority.refuse_evidence(refusal, about, source.address).await.into()
    }
}
