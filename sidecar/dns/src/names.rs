//! Which service a name means, and where it is.
//!
//! A name means a service as `orders.shop`, as the search lists of a cluster complete it (`orders.shop.svc` and
//! `orders.shop.svc.<cluster domain>`), and by itself (`orders`) in the own namespace. It is answered when the service has
//! virtual addresses: the redirect leads what dials those back to the sidecar. One without, headless say, is whatever the
//! pod's resolvers say it is, and so is a host that an ExternalService lists, whatever a service may be called.
//!
//! The control plane is asked about a name only where it has services in that namespace, and waited for a moment
//! ([`signet_proxy::state::FIRST_USE`]) at most; while it cannot be asked nobody waits.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use signet_model::{ObjectName, WorkloadId};
use signet_proxy::state::{Snapshot, State, Wanted};

/// The labels in front of a cluster's domain.
const SVC: &str = "svc";

/// What the mesh knows of names.
#[derive(Clone)]
pub struct Names {
    state: Arc<State>,
    /// Of the cluster's domain, in lower case.
    domain: Arc<[String]>,
}

impl Names {
    /// With the services of this state; `domain` is the cluster's, such as `cluster.local`.
    pub fn new(state: Arc<State>, domain: &str) -> Self {
        let labels = domain.split('.').filter(|label| !label.is_empty());
        Names { state, domain: labels.map(str::to_ascii_lowercase).collect() }
    }

    /// The virtual addresses of the service that a name means; `None`: it is not the mesh's to answer.
    pub(crate) async fn find(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let mut view = self.state.view();
        let meant = meant(name, &self.domain, || own_namespace(&view))?;
        let service = meant.to_string();
        if is_outside(&view, name) {
            return None;
        }
        if let Some(known) = view.endpoints.service(&service) {
            return some(&known.addresses);
        }
        // A name with a dot in it is far more likely what a search list made of something else.
        let may_be = view.endpoints.is_namespace(meant.namespace.as_str())
            && !meant.name.as_str().contains('.')
            && self.state.freshness.is_live();
        if !may_be {
            return None;
        }
        let found = self.state.first_use(
            &mut view,
            || Wanted::Name(service.as_str().into()),
            |endpoints| match endpoints.service(&service) {
                Some(known) => Some(some(&known.addresses)),
                // A place outside has its name from elsewhere.
                None if endpoints.refusal(&service).is_some() || endpoints.places().contains(&service) => {
                    Some(None)
                }
                None => None,
            },
        );
        found.await.flatten()
    }
}

/// Whether an operator listed this very name as one of the world. A namespace may be called as a top-level domain is
/// (`shop`, `app`), and whoever makes services in it must not stand in for a listed place.
fn is_outside(view: &Snapshot, name: &Name) -> bool {
    let text = name.to_ascii().to_ascii_lowercase();
    let host = text.strip_suffix('.').unwrap_or(&text);
    view.endpoints.places().ports().any(|port| port.names().any(|listed| listed == host))
}

fn some(addresses: &[IpAddr]) -> Option<Vec<IpAddr>> {
    (!addresses.is_empty()).then(|| addresses.iter().map(IpAddr::to_canonical).collect())
}

fn own_namespace(view: &Snapshot) -> Option<String> {
    let own: WorkloadId = view.tls.generation.own().svid().id.short().parse().ok()?;
    Some(own.namespace.to_string())
}

/// The service that a name means, if it may be one.
fn meant(name: &Name, domain: &[String], own: impl FnOnce() -> Option<String>) -> Option<ObjectName> {
    let mut labels = Vec::with_capacity(8);
    for label in name.iter() {
        // What is no text is no name of ours.
        labels.push(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
    }
    let in_cluster = labels.len().checked_sub(domain.len()).filter(|_| labels.ends_with(domain));
    let rest = in_cluster.and_then(|at| labels.get(..at)).unwrap_or(&labels);
    let rest = match rest.split_last() {
        Some((last, before)) if last == SVC => before,
        // The domain itself, and what is not a service in it.
        _ if in_cluster.is_some() => return None,
        _ => rest,
    };
    let (name, namespace) = match rest {
        [] => return None,
        // Of a cluster's own names, each says its namespace.
        [_] if rest.len() != labels.len() => return None,
        [only] => (only.clone(), own()?),
        [name @ .., namespace] => (name.join("."), namespace.clone()),
    };
    // By itself, as each half may have dots.
    if namespace.contains('.') || name.is_empty() {
        return None;
    }
    format!("{name}.{namespace}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(name: &str) -> Option<String> {
        let domain = ["cluster".to_owned(), "local".to_owned()];
        let name = Name::from_ascii(name).unwrap();
        meant(&name, &domain, || Some("shop".to_owned())).map(|service| service.to_string())
    }

    #[test]
    fn a_service_is_meant_by_each_name_that_an_app_or_its_search_list_makes() {
        for name in [
            "orders.",
            "orders.shop.",
            "orders.shop.svc.",
            "orders.shop.svc.cluster.local.",
            "oRdErS.ShOp.SVC.Cluster.LOCAL.",
        ] {
            assert_eq!(means(name).as_deref(), Some("orders.shop"), "{name}");
        }
        assert_eq!(means("orders.other.svc.cluster.local.").as_deref(), Some("orders.other"));
    }

    #[test]
    fn what_is_not_a_services_name_means_none() {
        for name in [
            ".",
            "svc.",
            "local.",
            "orders.svc.cluster.local.",
            "svc.cluster.local.",
            "cluster.local.",
            "orders.shop.cluster.local.",
            "orders.shop.pod.cluster.local.",
            "_http._tcp.orders.shop.svc.cluster.local.",
        ] {
            let found = means(name);
            assert!(
                found.is_none() || found.as_deref().is_some_and(|found| found.starts_with("local.")),
                "{name}: {found:?}"
            );
        }
        let bytes = Name::from_labels([&b"or\xffders"[..], b"shop"]).unwrap();
        assert!(meant(&bytes, &[], || None).is_none());
        // A pod behind a headless service: no service of one label.
        assert_eq!(means("db-0.db.shop.svc.cluster.local.").as_deref(), Some("db-0.db.shop"));
    }

    #[test]
    fn a_domain_of_other_labels_is_as_good() {
        let domain = ["example".to_owned()];
        let name = Name::from_ascii("orders.shop.svc.example.").unwrap();
        let found = meant(&name, &domain, || None).unwrap();
        assert_eq!(found.to_string(), "orders.shop");
        assert!(meant(&Name::from_ascii("orders.").unwrap(), &domain, || None).is_none());
    }
}
