//! What the control plane asks of an API server: the one table from which its role is made.
//!
//! A row is a right and where it is used. The client asks for nothing else, which a test sees in the log of an API
//! server; nothing else is to be granted.

use crate::kinds::{KINDS, Kind};

/// One right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub group: &'static str,
    /// With its subresource, as in `httproutes/status`.
    pub resource: String,
    pub verbs: &'static [&'static str],
    /// Only in the control plane's own namespace.
    pub own_namespace: bool,
    /// The part of the control plane that uses it.
    pub used_by: &'static str,
}

/// Every right that the registry from Kubernetes needs.
#[must_use]
pub fn registry() -> Vec<Right> {
    let follow = KINDS.iter().map(|kind| Right {
        group: kind.group,
        resource: kind.resource.to_owned(),
        verbs: &["list", "watch"],
        own_namespace: false,
        used_by: "cluster::reflect",
    });
    let status = KINDS.iter().filter(|kind| kind.has_status).map(status);
    let lease = [
        // The name of an object that is made is not known to the authorizer, so that `create` stands alone.
        Right {
            group: "coordination.k8s.io",
            resource: "leases".into(),
            verbs: &["create"],
            own_namespace: true,
            used_by: "cluster::lease",
        },
        Right {
            group: "coordination.k8s.io",
            resource: "leases".into(),
            verbs: &["get", "update"],
            own_namespace: true,
            used_by: "cluster::lease",
        },
    ];
    follow.chain(status).chain(lease).collect()
}

fn status(kind: &Kind) -> Right {
    Right {
        group: kind.group,
        resource: format!("{}/status", kind.resource),
        verbs: &["patch"],
        own_namespace: false,
        used_by: "cluster::status",
    }
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
        for right in registry() {
            assert!(!right.resource.contains("secret") && !right.resource.contains('*'), "{right:?}");
            let reads = right.verbs.iter().all(|verb| ["list", "watch"].contains(verb));
            assert!(reads || right.resource.ends_with("/status") || right.own_namespace, "{right:?}");
        }
    }
}
