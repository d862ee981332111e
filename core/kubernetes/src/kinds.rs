//! The kinds of a cluster that the control plane follows, and what the API server calls them.

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub id: KindId,
    /// Empty is Kubernetes' own group.
    pub group: &'static str,
    /// The newest first; a cluster may serve an older one only.
    pub versions: &'static [&'static str],
    /// As in a path.
    pub resource: &'static str,
    /// As in `kind` of an object.
    pub kind: &'static str,
    pub namespaced: bool,
    /// Whether a cluster may be without it. One of ours that restricts must be there: without it nobody could say
    /// whether something was forbidden.
    pub optional: bool,
    /// Whether we write its status.
    pub has_status: bool,
}

/// Which kind it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KindId {
    Namespace,
    ServiceAccount,
    Pod,
    CoreService,
    EndpointSlice,
    GatewayClass,
    ApiGateway,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    ReferenceGrant,
    Mesh,
    Workload,
    Service,
    ExternalService,
    Issuer,
    FederatedTrustDomain,
    Gateway,
    MeshPolicy,
    GuardRail,
    Registration,
    TrafficPolicy,
    AuthorizationProvider,
    TokenExchange,
}

/// Our own group.
pub const SIGNET: &str = "signet.mesh";
/// The group of the Gateway API.
pub const GATEWAY: &str = "gateway.networking.k8s.io";

const fn core(id: KindId, resource: &'static str, kind: &'static str, namespaced: bool) -> Kind {
    Kind { id, group: "", versions: &["v1"], resource, kind, namespaced, optional: false, has_status: false }
}

const fn gateway(
    id: KindId,
    versions: &'static [&'static str],
    resource: &'static str,
    kind: &'static str,
    has_status: bool,
) -> Kind {
    let namespaced = !matches!(id, KindId::GatewayClass);
    Kind { id, group: GATEWAY, versions, resource, kind, namespaced, optional: true, has_status }
}

const fn ours(
    id: KindId,
    resource: &'static str,
    kind: &'static str,
    namespaced: bool,
    optional: bool,
) -> Kind {
    Kind {
        id,
        group: SIGNET,
        versions: &["v1alpha1"],
        resource,
        kind,
        namespaced,
        optional,
        has_status: true,
    }
}

/// Every kind, in the order in which they are listed.
pub const KINDS: &[Kind] = &[
    core(KindId::Namespace, "namespaces", "Namespace", false),
    core(KindId::ServiceAccount, "serviceaccounts", "ServiceAccount", true),
    core(KindId::Pod, "pods", "Pod", true),
    core(KindId::CoreService, "services", "Service", true),
    Kind {
        group: "discovery.k8s.io",
        ..core(KindId::EndpointSlice, "endpointslices", "EndpointSlice", true)
    },
    gateway(KindId::GatewayClass, &["v1"], "gatewayclasses", "GatewayClass", true),
    gateway(KindId::ApiGateway, &["v1"], "gateways", "Gateway", true),
    gateway(KindId::HttpRoute, &["v1"], "httproutes", "HTTPRoute", true),
    gateway(KindId::GrpcRoute, &["v1"], "grpcroutes", "GRPCRoute", true),
    gateway(KindId::TlsRoute, &["v1", "v1alpha3", "v1alpha2"], "tlsroutes", "TLSRoute", true),
    gateway(KindId::TcpRoute, &["v1", "v1alpha2"], "tcproutes", "TCPRoute", true),
    gateway(KindId::ReferenceGrant, &["v1", "v1beta1"], "referencegrants", "ReferenceGrant", false),
    ours(KindId::Mesh, "meshes", "Mesh", false, false),
    ours(KindId::Workload, "workloads", "Workload", true, true),
    ours(KindId::Service, "services", "Service", true, true),
    ours(KindId::ExternalService, "externalservices", "ExternalService", true, true),
    ours(KindId::Issuer, "issuers", "Issuer", false, true),
    ours(KindId::FederatedTrustDomain, "federatedtrustdomains", "FederatedTrustDomain", false, true),
    ours(KindId::Gateway, "gateways", "Gateway", true, true),
    ours(KindId::MeshPolicy, "meshpolicies", "MeshPolicy", true, false),
    ours(KindId::GuardRail, "guardrails", "GuardRail", false, false),
    ours(KindId::Registration, "registrations", "Registration", false, true),
    ours(KindId::TrafficPolicy, "trafficpolicies", "TrafficPolicy", true, false),
    ours(KindId::AuthorizationProvider, "authorizationproviders", "AuthorizationProvider", true, true),
    ours(KindId::TokenExchange, "tokenexchanges", "TokenExchange", false, true),
];

impl KindId {
    /// Its row.
    #[must_use]
    pub fn kind(self) -> &'static Kind {
        // Each id has its row, which a test says; the first stands in for none.
        const FIRST: Kind = core(KindId::Namespace, "namespaces", "Namespace", false);
        KINDS.iter().find(|kind| kind.id == self).unwrap_or(&FIRST)
    }
}

impl Kind {
    /// The path of all objects of the cluster, in one of the versions.
    #[must_use]
    pub fn path(&self, version: &str) -> String {
        match self.group {
            "" => format!("/api/{version}/{}", self.resource),
            group => format!("/apis/{group}/{version}/{}", self.resource),
        }
    }

    /// The path of one object.
    #[must_use]
    pub fn path_of(&self, version: &str, namespace: &str, name: &str) -> String {
        let group = match self.group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        match self.namespaced {
            true => format!("{group}/namespaces/{namespace}/{}/{name}", self.resource),
            false => format!("{group}/{}/{name}", self.resource),
        }
    }

    /// For messages and labels: `meshpolicies.signet.mesh`, `pods`.
    #[must_use]
    pub fn long_name(&self) -> String {
        match self.group {
            "" => self.resource.to_owned(),
            group => format!("{}.{group}", self.resource),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_row_and_paths_as_the_api_server_has_them() {
        let mut ids: Vec<_> = KINDS.iter().map(|kind| kind.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), KINDS.len());
        KINDS.iter().for_each(|kind| assert_eq!(kind.id.kind(), kind));
        assert_eq!(KindId::Pod.kind().path("v1"), "/api/v1/pods");
        let policy = KindId::MeshPolicy.kind();
        assert_eq!(policy.path("v1alpha1"), "/apis/signet.mesh/v1alpha1/meshpolicies");
        assert_eq!(
            policy.path_of("v1alpha1", "shop", "web"),
            "/apis/signet.mesh/v1alpha1/namespaces/shop/meshpolicies/web"
        );
        assert_eq!(
            KindId::Mesh.kind().path_of("v1alpha1", "", "default"),
            "/apis/signet.mesh/v1alpha1/meshes/default"
        );
        assert_eq!(KindId::EndpointSlice.kind().path("v1"), "/apis/discovery.k8s.io/v1/endpointslices");
    }

    #[test]
    fn what_restricts_must_be_there_before_anything_is_served() {
        let needed: Vec<_> = KINDS
            .iter()
            .filter(|kind| kind.group == SIGNET && !kind.optional)
            .map(|kind| kind.kind)
            .collect();
        assert_eq!(needed, ["Mesh", "MeshPolicy", "GuardRail", "TrafficPolicy"]);
    }
}
