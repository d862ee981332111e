//! Objects of `signet.mesh`: they are the model's own resources, with what an API server adds taken away.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use signet_model::{API_VERSION, GATEWAY_API, ObjectId, Problem, Resource, stands_for};

use super::views::{Content, MESH_ADMIN, Metadata};
use super::{Work, id};
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
                let read = match problems.is_empty() {
                    true => {
                        Resource::from_document(document_of(kind.kind, kind.group, metadata, &custom.spec))
                    }
                    false => Err(problems),
                };
                let stand = stands_for(kind.kind, &metadata.namespace, &custom.spec);
                let of = kind.has_status.then_some((kind.id, &**object));
                self.offer(id(kind.kind, metadata), &metadata.uid, read, stand, of);
            }
        }
    }
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
        KindId::ExternalService if spec.get("from").is_some() => {
            problem(
                "spec.from",
                format!("expected none {admin}: a place is listed there for its own namespace"),
            );
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
