//! What the registry says about an identity: may it have a certificate, and which names does it get?
//!
//! Asked at every issuance and every renewal, so that a workload that was taken out of the registry gets
//! no further certificate; its connections to the control plane end at once.

use std::sync::Arc;

use signet_ca::Registrar;
use signet_identity::{PeerClass, SpiffeId, TrustDomain, service_dns_name};
use signet_model::{Registry, WorkloadClass, WorkloadId};
use tokio::sync::watch;

use crate::registry::State;

/// The registry as the authority sees it.
#[derive(Clone)]
pub struct FromRegistry {
    pub trust_domain: TrustDomain,
    pub registry: watch::Receiver<State>,
    /// Whether somebody whom the registry does not know may be a sidecar.
    pub allow_unregistered: bool,
}

impl Registrar for FromRegistry {
    fn dns_names(&self, id: &SpiffeId, class: PeerClass) -> Option<Vec<String>> {
        let registry = Arc::clone(&self.registry.borrow().registry);
        let workload = WorkloadId::of(id, &self.trust_domain)?;
        let is_listed = match class {
            // No class that a Workload has: what its app may have, where it opts in.
            PeerClass::Workload => {
                registry.workload(&workload).is_some_and(|listed| listed.spec.workload_api)
            }
            class => may_be(&registry, id, class, &self.trust_domain, self.allow_unregistered),
        };
        if !is_listed {
            return None;
        }
        let name =
            |s: &signet_model::Service| service_dns_name(s.name.name.as_str(), s.name.namespace.as_str());
        Some(registry.served_by(&workload).map(name).collect())
    }
}

/// Whether the registry has a Workload with this identity and class.
#[must_use]
pub fn is_listed(registry: &Registry, id: &SpiffeId, class: PeerClass, trust_domain: &TrustDomain) -> bool {
    WorkloadId::of(id, trust_domain)
        .and_then(|workload| registry.workload(&workload))
        .is_some_and(|listed| peer_class(listed.spec.class) == class)
}

/// As [`is_listed`]; where `unregistered` says so, whoever the registry does not know may be a sidecar.
#[must_use]
pub fn may_be(
    registry: &Registry,
    id: &SpiffeId,
    class: PeerClass,
    trust_domain: &TrustDomain,
    unregistered: bool,
) -> bool {
    let unknown =
        || WorkloadId::of(id, trust_domain).is_some_and(|workload| registry.workload(&workload).is_none());
    is_listed(registry, id, class, trust_domain) || (unregistered && class == PeerClass::Sidecar && unknown())
}

/// What the registry says about keys that apps hold: whoever may be a sidecar may have one, under its
/// identity alone.
#[derive(Clone)]
pub struct ForApps(pub FromRegistry);

impl Registrar for ForApps {
    fn dns_names(&self, id: &SpiffeId, class: PeerClass) -> Option<Vec<String>> {
        if class != PeerClass::Workload {
            return None;
        }
        self.0.dns_names(id, PeerClass::Sidecar).map(|_| Vec::new())
    }
}

/// The class that a registered workload's certificates carry.
#[must_use]
pub fn peer_class(class: WorkloadClass) -> PeerClass {
    match class {
        WorkloadClass::Sidecar => PeerClass::Sidecar,
        WorkloadClass::Gateway => PeerClass::Gateway,
        WorkloadClass::Agent => PeerClass::Agent,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const REGISTRY: &str = "
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: web}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: apps}
spec: {class: sidecar, workloadApi: true}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: web}
spec: {ports: [{name: http, port: 80, protocol: http}]}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: storefront}
spec: {identities: [ns/shop/sa/web], ports: [{name: http, port: 80, protocol: http}]}
";

    fn ask(id: &str, class: PeerClass) -> Option<Vec<String>> {
        registrar(false).dns_names(&SpiffeId::parse(id).unwrap(), class)
    }

    fn registrar(allow_unregistered: bool) -> FromRegistry {
        let registry =
            signet_model::parse_text(Path::new("mesh.yaml"), REGISTRY, &Default::default()).unwrap();
        let state = State {
            registry: Arc::new(registry),
            loaded_at: 0,
            errors: Vec::new(),
            warnings: Vec::new(),
            refused: 0,
        };
        let (_, registry) = watch::channel(state);
        let trust_domain = TrustDomain::parse("demo.signet").unwrap();
        FromRegistry { trust_domain, registry, allow_unregistered }
    }

    #[test]
    fn a_workload_gets_the_names_of_every_service_that_lists_it() {
        let names = ask("spiffe://demo.signet/ns/shop/sa/web", PeerClass::Sidecar).unwrap();
        assert_eq!(names, ["storefront.shop.signet.internal", "web.shop.signet.internal"]);
    }

    #[test]
    fn an_app_has_certificates_of_its_own_only_where_its_workload_opts_in() {
        assert_eq!(ask("spiffe://demo.signet/ns/shop/sa/apps", PeerClass::Workload), Some(Vec::new()));
        assert_eq!(ask("spiffe://demo.signet/ns/shop/sa/web", PeerClass::Workload), None);
    }

    #[test]
    fn where_anybody_may_join_an_unknown_one_is_a_sidecar_and_a_known_one_what_it_is() {
        let ask = |id: &str, class| registrar(true).dns_names(&SpiffeId::parse(id).unwrap(), class);
        assert_eq!(ask("spiffe://demo.signet/ns/shop/sa/nobody", PeerClass::Sidecar), Some(vec![]));
        assert!(ask("spiffe://demo.signet/ns/shop/sa/web", PeerClass::Sidecar).is_some());
        for (id, class) in [
            ("spiffe://demo.signet/ns/shop/sa/nobody", PeerClass::Gateway),
            ("spiffe://demo.signet/ns/shop/sa/nobody", PeerClass::Workload),
            ("spiffe://demo.signet/ns/shop/sa/web", PeerClass::Gateway),
            ("spiffe://other.signet/ns/shop/sa/nobody", PeerClass::Sidecar),
        ] {
            assert_eq!(ask(id, class), None, "{id} {class}");
        }
    }

    #[test]
    fn an_app_gets_its_identity_and_no_name_of_a_service() {
        let apps = ForApps(registrar(false));
        let ask = |id: &str, class| apps.dns_names(&SpiffeId::parse(id).unwrap(), class);
        assert_eq!(ask("spiffe://demo.signet/ns/shop/sa/web", PeerClass::Workload), Some(vec![]));
        assert_eq!(ask("spiffe://demo.signet/ns/shop/sa/web", PeerClass::Sidecar), None);
        assert_eq!(ask("spiffe://demo.signet/ns/shop/sa/nobody", PeerClass::Workload), None);
    }

    #[test]
    fn another_class_another_domain_and_an_unknown_workload_get_nothing() {
        for (id, class) in [
            ("spiffe://demo.signet/ns/shop/sa/web", PeerClass::Gateway),
            ("spiffe://demo.signet/ns/shop/sa/web", PeerClass::ControlPlane),
            ("spiffe://other.signet/ns/shop/sa/web", PeerClass::Sidecar),
            ("spiffe://demo.signet/ns/shop/sa/nobody", PeerClass::Sidecar),
            ("spiffe://demo.signet/web", PeerClass::Sidecar),
        ] {
            assert_eq!(ask(id, class), None, "{id} {class}");
        }
    }
}
