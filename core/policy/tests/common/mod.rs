//! Short ways to write policies, users and facts.
#![allow(dead_code)] // each test binary uses its part

use serde_json::{Value, json};
use signet_identity::{PeerClass, SpiffeId, TrustDomain};
use signet_model::Protocol;
use signet_policy::{Context, Facts, PolicySet, User};

/// 2026-11-22T10:00:00Z
pub(crate) const NOW: i64 = 1_795_341_600_000;

pub(crate) fn own() -> TrustDomain {
    TrustDomain::parse("demo.signet").unwrap()
}

pub(crate) fn peer(path: &str) -> SpiffeId {
    SpiffeId::parse(format!("spiffe://demo.signet/{path}")).unwrap()
}

/// A policy of namespace `shop` as JSON.
pub(crate) fn doc(name: &str, spec: &Value) -> (String, String) {
    let json = json!({
        "apiVersion": "signet.mesh/v1alpha1", "kind": "MeshPolicy",
        "metadata": {"namespace": "shop", "name": name}, "spec": spec,
    });
    (format!("{name}.shop"), json.to_string())
}

/// The policies of `orders.shop`, named p0, p1, …; the mesh's default is to deny.
pub(crate) fn set(specs: &[Value]) -> PolicySet {
    set_with(specs, false)
}

pub(crate) fn set_with(specs: &[Value], default_allow: bool) -> PolicySet {
    let docs: Vec<_> = specs.iter().enumerate().map(|(i, spec)| doc(&format!("p{i}"), spec)).collect();
    let set = PolicySet::compile(&own(), &"orders.shop".parse().unwrap(), docs, default_allow);
    assert!(set.not_understood().is_empty(), "{:?}", set.not_understood());
    set
}

pub(crate) fn user() -> User {
    let claims = json!({"groups": ["staff", "support"], "email": "alice@example.com", "level": 3, "none": null,
        "mixed": ["a", 1], "empty": [], "one": ["x"]});
    User {
        sub: "idp|alice".into(),
        scopes: vec!["orders:read".into(), "orders:list".into()],
        claims: claims.as_object().unwrap().clone(),
        cred: "jwt".into(),
        context: Context::Forwarded,
        actor: None,
    }
}

pub(crate) fn http<'a>(
    peer: &'a SpiffeId,
    user: Option<&'a User>,
    method: &'a str,
    path: &'a str,
) -> Facts<'a> {
    Facts {
        peer,
        peer_class: PeerClass::Sidecar,
        user,
        port: "http",
        protocol: Protocol::Http1,
        method: Some(method),
        path: Some(path),
        grpc: None,
        headers: None,
        now_ms: NOW,
    }
}

/// `path` with its first slash.
pub(crate) fn grpc<'a>(peer: &'a SpiffeId, user: Option<&'a User>, path: &'a str) -> Facts<'a> {
    Facts {
        port: "grpc",
        protocol: Protocol::Grpc,
        grpc: path.strip_prefix('/'),
        ..http(peer, user, "POST", path)
    }
}

pub(crate) fn tcp(peer: &SpiffeId) -> Facts<'_> {
    Facts {
        peer,
        peer_class: PeerClass::Sidecar,
        user: None,
        port: "db",
        protocol: Protocol::Tcp,
        method: None,
        path: None,
        grpc: None,
        headers: None,
        now_ms: NOW,
    }
}
