//! What the registry says about an identity: may it have a certificate, and which names does it get?
//!
//! Asked at every issuance and every renewal, so that a workload that was taken out of the registry gets
//! no further certificate.

use std::sync::Arc;

use signet_ca::Registrar;
use signet_identity::{PeerClass, SpiffeId, TrustDomain, service_dns_name};
use signet_model::{WorkloadClass, WorkloadId};
use tokio::sync::watch;

use crate::registry::State;

/// The registry as the authority sees it.
#[derive(Clone)]
pub struct FromRegistry {
    pub trust_domain: TrustDomain,
    pub registry: watch::Receiver<State>,
}

impl Registrar for FromRegistry {
    fn dns_names(&self, id: &SpiffeId, class: PeerClass) -> Option<Vec<String>> {
        let registry = Arc::clone(&self.registry.borrow().registry);
        let workload = WorkloadId::of(id, &self.trust_domain)?;
        let listed = peer_class(registry.workload(&workload)?.spec.class);
        if listed != class {
            return None;
        }
        let name =
            |s: &signet_model::Service| service_dns_name(s.name.name.as_str(), s.name.namespace.as_str());
        Some(registry.served_by(&workload).map(name).collect())
    }
}

/// The class that a registered workload's certificates carry.
#[must_use]
pub fn peer_class(class: WorkloadClass) -> PeerClass {
    match class {
        WorkloadClass::Sidecar => PeerClass::Sidecar,
        WorkloadClass::Gateway => PeerClass::Gateway,
    }
}
