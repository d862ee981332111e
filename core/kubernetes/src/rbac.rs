//! What the control plane and the CNI agent ask of an API server: the one table from which their roles are made.
//!
//! A row is a right and where it is used. The client asks for nothing else, which tests see in the log of an API
//! server; nothing else is granted, which a test of the chart sees.

use crate::kinds::{KINDS, Kind, SIGNET};

/// One right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub group: &'static str,
    /// With its subresource, as in `httproutes/status`.
    pub resource: String,
    pub verbs: &'static [&'static str],
    /// Only in the own namespace.
    pub own_namespace: bool,
    /// Only objects of this name; none: all.
    pub named: Option<Named>,
    /// The part of the program that uses it.
    pub used_by: &'static str,
}

/// Objects that are known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// By which one control plane of several does what only one may.
    Lease,
    /// The mesh's roots in a namespace.
    Roots,
    /// The configurations of our own webhooks.
    Webhooks,
    /// The DaemonSet of the CNI agent.
    Agent,
    /// The own namespace, which is an object as well.
    Namespace,
}

/// What the fast attestation reads beside objects: the cluster's keys.
pub const KEY_PATHS: [&str; 2] = ["/.well-known/openid-configuration", "/openid/v1/jwks"];

const fn right(
    group: &'static str,
    resource: String,
    verbs: &'static [&'static str],
    used_by: &'static str,
) -> Right {
    Right { group, resource, verbs, own_namespace: false, named: None, used_by }
}

/// Every right that the registry from Kubernetes needs.
#[must_use]
pub fn registry() -> Vec<Right> {
    let follow = KINDS
        .iter()
        .map(|kind| right(kind.group, kind.resource.to_owned(), &["list", "watch"], "cluster::reflect"));
    let status = KINDS.iter().filter(|kind| kind.has_status).map(status);
    let group = "coordination.k8s.io";
    let lease = [
        // The name of an object that is made is not known to the authorizer, so that `create` stands alone.
        Right { own_namespace: true, ..right(group, "leases".into(), &["create"], "cluster::lease") },
        Right {
            own_namespace: true,
            named: Some(Named::Lease),
            ..right(group, "leases".into(), &["get", "update"], "cluster::lease")
        },
    ];
    let events = right("events.k8s.io", "events".into(), &["create"], "cluster::members");
    follow.chain(status).chain(lease).chain([events]).collect()
}

fn status(kind: &Kind) -> Right {
    right(kind.group, format!("{}/status", kind.resource), &["patch"], "cluster::status")
}

/// What it takes to know whose token a pod shows.
#[must_use]
pub fn attestation() -> Vec<Right> {
    vec![
        right("authentication.k8s.io", "tokenreviews".into(), &["create"], "attest::review"),
        right("", "pods".into(), &["get"], "attest::kubernetes"),
    ]
}

/// What it takes to give the mesh's roots to namespaces, whoever injects their pods.
#[must_use]
pub fn roots() -> Vec<Right> {
    vec![
        // A list is granted by name, too, where it asks for that name alone.
        Right {
            named: Some(Named::Roots),
            ..right("", "configmaps".into(), &["list", "patch"], "webhook::publish")
        },
        right("", "configmaps".into(), &["create"], "webhook::publish"),
    ]
}

/// What the webhook needs beside what the registry has.
#[must_use]
pub fn webhook() -> Vec<Right> {
    let (group, both) = ("admissionregistration.k8s.io", &["get", "patch"]);
    let ours = |resource: &str| Right {
        named: Some(Named::Webhooks),
        ..right(group, resource.into(), both, "webhook::publish")
    };
    vec![
        ours("mutatingwebhookconfigurations"),
        ours("validatingwebhookconfigurations"),
        right("", "namespaces".into(), &["get"], "webhook::resources"),
    ]
}

/// What owners of namespaces are granted about objects of ours, by the roles `view`, `edit` and `admin` of the cluster: to read
/// all, and to change those of their namespaces.
#[must_use]
pub fn owners() -> Vec<Right> {
    let ours = || KINDS.iter().filter(|kind| kind.group == SIGNET);
    let of = |kind: &Kind, verbs| right(kind.group, kind.resource.to_owned(), verbs, "");
    let read = ours().map(|kind| of(kind, &READ));
    read.chain(ours().filter(|kind| kind.namespaced).map(|kind| of(kind, &CHANGE))).collect()
}

/// By the role `view`.
pub const READ: [&str; 3] = ["get", "list", "watch"];
/// By the roles `edit` and `admin`.
pub const CHANGE: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// What the CNI agent of a node needs, which nobody else has.
#[must_use]
pub fn agent() -> Vec<Right> {
    let own = |group: &'static str, resource: &str, named: Named| Right {
        own_namespace: true,
        named: Some(named),
        ..right(group, resource.into(), &["get"], "agent::cluster")
    };
    vec![
        // Which pod that is, and which of the node's wait. A role cannot say "of this node".
        right("", "pods".into(), &["get", "list", "watch"], "agent::cluster"),
        // Whether another agent will come after this one.
        own("apps", "daemonsets", Named::Agent),
        own("", "namespaces", Named::Namespace),
    ]
}

/// The verb, group and resource of a request, as the API server's authorizer sees it; with the namespace if it names one.
#[must_use]
pub fn asked(method: &str, path_and_query: &str) -> Option<(&'static str, String, String, Option<String>)> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let mut parts = path.trim_matches('/').split('/').peekable();
    let group = match parts.next()? {
        "api" => String::new(),
        "apis" => parts.next()?.to_owned(),
        _ => return None,
    };
    parts.next()?;
    let mut namespace = None;
    let mut resource = parts.next()?;
    if resource == "namespaces" && parts.peek().is_some() {
        let name = parts.next()?;
        match parts.next() {
            None => return Some((verb(method, true, query)?, group, "namespaces".into(), None)),
            Some(inner) => {
                namespace = Some(name.to_owned());
                resource = inner;
            }
        }
    }
    let name = parts.next();
    let resource = match parts.next() {
        Some(sub) => format!("{resource}/{sub}"),
        None => resource.to_owned(),
    };
    Some((verb(method, name.is_some(), query)?, group, resource, namespace))
}

fn verb(method: &str, named: bool, query: &str) -> Option<&'static str> {
    let watches = query.split('&').any(|it| it == "watch=true" || it == "watch=1");
    Some(match method {
        "GET" if watches => "watch",
        "GET" if named => "get",
        "GET" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_seen_as_the_authorizer_sees_it() {
        let seen = |method, path| {
            let (verb, group, resource, namespace) = asked(method, path).unwrap();
            format!("{verb} {group} {resource} {}", namespace.unwrap_or_default())
        };
        assert_eq!(seen("GET", "/api/v1/pods?limit=250"), "list  pods ");
        assert_eq!(seen("GET", "/api/v1/namespaces?watch=true&resourceVersion=5"), "watch  namespaces ");
        assert_eq!(seen("GET", "/api/v1/namespaces/shop"), "get  namespaces ");
        assert_eq!(
            seen(
                "PATCH",
                "/apis/signet.mesh/v1alpha1/namespaces/shop/meshpolicies/web/status?fieldManager=x"
            ),
            "patch signet.mesh meshpolicies/status shop"
        );
        assert_eq!(
            seen("POST", "/apis/coordination.k8s.io/v1/namespaces/signet-system/leases"),
            "create coordination.k8s.io leases signet-system"
        );
        assert!(asked("GET", "/healthz").is_none());
    }

    #[test]
    fn no_right_to_secrets_and_none_to_change_what_others_own() {
        for right in [registry(), attestation(), roots(), webhook(), agent()].concat() {
            assert!(!right.resource.contains("secret") && !right.resource.contains('*'), "{right:?}");
            let reads = right.verbs.iter().all(|verb| ["get", "list", "watch"].contains(verb));
            let made_only = right.verbs == ["create"]
                && ["tokenreviews", "configmaps", "leases", "events"].contains(&&*right.resource);
            let is_ours = right.resource.ends_with("/status") || right.named.is_some();
            assert!(reads || made_only || is_ours, "{right:?}");
        }
    }
}
