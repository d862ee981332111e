//! Objects of `signet.mesh`: they are the model's own resources, with what an API server adds taken away.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use signet_model::{
    API_VERSION, Earlier, GATEWAY_API, Network, ObjectId, Problem, Resource, read_entries, stands_for,
};

use super::views::{Content, MESH_ADMIN, Metadata};
use super::{Work, id, spec_of};
use crate::kinds::{GATEWAY, KINDS, KindId, SIGNET};

impl Work<'_> {
    pub(super) fn is_admin(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some_and(|space| space.is_admin)
    }

    /// Ours, and the grants of the Gateway API.
    pub(super) fn customs(&mut self) {
        let snapshot = self.snapshot;
        // A Service that Kubernetes has as well was offered with it.
        let offered: BTreeSet<ObjectId> =
            self.offered.iter().filter(|it| it.of.is_some()).map(|it| it.offer.id.clone()).collect();
        let kinds = KINDS.iter().filter(|kind| kind.group == SIGNET || kind.id == KindId::ReferenceGrant);
        for kind in kinds {
            for object in snapshot.of(kind.id) {
                let Content::Custom(custom) = &object.content else { continue };
                let metadata = &object.metadata;
                let counts = !kind.namespaced || self.space(&metadata.namespace).is_some();
                if !counts || offered.contains(&id(kind.kind, metadata)) {
                    continue;
                }
                let problems = limits(kind.id, &custom.spec, self.is_admin(&metadata.namespace));
                let (read, flaws) = match problems.is_empty() {
                    true => read_entries(document_of(kind.kind, kind.group, metadata, &custom.spec)),
                    false => (Err(problems), Vec::new()),
                };
                let stand = stands_for(kind.kind, &metadata.namespace, &custom.spec);
                let of = kind.has_status.then_some((kind.id, &**object));
                let id = id(kind.kind, metadata);
                // What the namespace may not say any more is over at once, whatever the present version is.
                let earlier = match self.kept(&id, &metadata.uid) {
                    Some(kept)
                        if !limits(kind.id, &spec_of(kept), self.is_admin(&metadata.namespace))
                            .is_empty() =>
                    {
                        Earlier::Forfeit
                    }
                    Some(kept) if kind.id == KindId::Service => {
                        let strict = strict(spec_of(kept));
                        let document = document_of(kind.kind, kind.group, metadata, &strict);
                        Resource::from_document(document)
                            .map_or(Earlier::Kept, |it| Earlier::Is(Box::new(it)))
                    }
                    _ => Earlier::Kept,
                };
                self.offer(id, metadata, read, (stand, earlier), of);
                if let Some(last) = self.offered.last_mut() {
                    last.offer.flaws = flaws;
                }
            }
        }
    }
}

/// What a Service said before, without the callers in plaintext that it let in: its change may have been to end that.
pub(super) fn strict(mut spec: Value) -> Value {
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
    ports.filter_map(Value::as_object_mut).for_each(|port| drop(port.remove("permissive")));
    spec
}

/// The document as its author wrote it.
pub(super) fn document_of(kind: &str, group: &str, metadata: &Metadata, spec: &Value) -> Value {
    let version = if group == GATEWAY { GATEWAY_API } else { API_VERSION };
    let mut names = json!({"name": metadata.name});
    if let (false, Some(names)) = (metadata.namespace.is_empty(), names.as_object_mut()) {
        names.insert("namespace".into(), metadata.namespace.as_str().into());
    }
    json!({"apiVersion": version, "kind": kind, "metadata": names, "spec": spec})
}

/// What an object of a namespace says of others, where that namespace may not: whoever may write objects there would
/// otherwise speak for users, call places for others, or take addresses that are somebody else's.
pub(super) fn limits(kind: KindId, spec: &Value, is_admin: bool) -> Vec<Problem> {
    if is_admin {
        return Vec::new();
    }
    let admin = format!("in a namespace without the label `{MESH_ADMIN}: \"true\"`");
    let mut problems = Vec::new();
    let mut problem = |field: &str, reason: String| problems.push(Problem::new(field, reason));
    match kind {
        KindId::Workload => {
            let class = spec.get("class").and_then(Value::as_str).unwrap_or("sidecar");
            if class != "sidecar" {
                problem("spec.class", format!("expected `sidecar` {admin}, got `{class}`"));
            }
        }
        KindId::Gateway => {
            problem("spec", format!("expected no Gateway {admin}: a gateway speaks for users"))
        }
        KindId::ExternalService => {
            if spec.get("from").is_some() {
                problem(
                    "spec.from",
                    format!("expected none {admin}: a place is listed there for its own namespace"),
                );
            }
            if spec.get("through").is_some() {
                problem("spec.through", format!("expected none {admin}: the gateway calls for others, too"));
            }
            for (field, written) in ["addresses", "networks"].into_iter().flat_map(|field| {
                let list = spec.get(field).and_then(Value::as_array).into_iter().flatten().enumerate();
                list.map(move |(at, value)| (format!("spec.{field}[{at}]"), value))
            }) {
                let range = written.as_str().and_then(range_of);
                let inside = range.and_then(|range| INSIDE.iter().find(|(inside, _)| meet(range, inside)));
                if let Some((_, what)) = inside {
                    let got = written.as_str().unwrap_or_default();
                    problem(
                        &field,
                        format!(
                            "expected a place on the public internet {admin}, got `{got}`, which meets {what}"
                        ),
                    );
                }
            }
        }
        KindId::Service => {
            if spec.get("addresses").is_some() {
                problem("spec.addresses", format!("expected none {admin}: they may be somebody else's"));
            }
            let endpoints = spec.get("endpoints").and_then(Value::as_array).into_iter().flatten();
            for (index, endpoint) in endpoints.enumerate() {
                if endpoint.get("throughGateway").is_none() {
                    problem(
                        &format!("spec.endpoints[{index}]"),
                        format!("expected `throughGateway` {admin}: the address may be somebody else's"),
                    );
                }
            }
        }
        _ => {}
    }
    problems
}

/// Ranges that are nobody's place outside: the host's own, the provider's of the cloud, and those of clusters and other
/// private networks, in which pods, Services, nodes and the API server are.
const INSIDE: [(&str, &str); 16] = [
    ("0.0.0.0/8", "this host (0.0.0.0/8)"),
    ("127.0.0.0/8", "loopback (127.0.0.0/8)"),
    ("169.254.0.0/16", "link-local addresses, the cloud's metadata among them (169.254.0.0/16)"),
    ("10.0.0.0/8", "private networks (10.0.0.0/8)"),
    ("172.16.0.0/12", "private networks (172.16.0.0/12)"),
    ("192.168.0.0/16", "private networks (192.168.0.0/16)"),
    ("100.64.0.0/10", "shared addresses (100.64.0.0/10)"),
    ("198.18.0.0/15", "benchmarking addresses (198.18.0.0/15)"),
    ("192.0.0.0/24", "addresses of protocols (192.0.0.0/24)"),
    ("224.0.0.0/3", "multicast and reserved addresses (224.0.0.0/3)"),
    ("::/96", "this host (::/96)"),
    ("64:ff9b::/32", "IPv4 behind a translator (64:ff9b::/32)"),
    ("2002::/16", "IPv4 behind a relay (2002::/16)"),
    ("fc00::/7", "private networks (fc00::/7)"),
    ("fe80::/9", "link-local and site-local addresses (fe80::/9)"),
    ("ff00::/8", "multicast addresses (ff00::/8)"),
];

/// An address or a range; an IPv4 one that is written as IPv6 is what it means.
fn range_of(text: &str) -> Option<Network> {
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        return Some(Network::host(ip.to_canonical()));
    }
    text.parse().ok()
}

/// Whether two ranges have an address in common: then one begins in the other.
fn meet(range: Network, inside: &str) -> bool {
    let Ok(inside) = inside.parse::<Network>() else { return true };
    // The whole of IPv4 in IPv6.
    let mapped: Option<Network> = "::ffff:0:0/96".parse().ok();
    inside.contains(range.ip())
        || range.contains(inside.ip())
        || mapped.is_some_and(|mapped| range.contains(mapped.ip()) || mapped.contains(range.ip()))
}
