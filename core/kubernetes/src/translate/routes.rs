//! Routes of the Gateway API, at the parents that are ours: services of the mesh, and gateways of our class.

use serde_json::Value;
use signet_model::{Earlier, InForce, Lenient, ObjectId, Resource, Stage, Stand, Verdict};

use super::conditions::list;
use super::custom::document_of;
use super::gateway::{ApiGateway, status_of};
use super::views::{Content, Metadata, Object};
use super::{CameTo, Condition, ObjectStatus, Offered, ParentStatus, Said, Work, id, what};
use crate::kinds::{GATEWAY, KindId, SIGNET};

const ROUTES: [KindId; 4] = [KindId::HttpRoute, KindId::GrpcRoute, KindId::TlsRoute, KindId::TcpRoute];

/// A route, and its parents that are ours.
pub(super) struct ApiRoute<'a> {
    kind: KindId,
    object: &'a Object,
    parents: Vec<Parent>,
}

struct Parent {
    written: Value,
    /// Its place among those that the model is told of, or why it is not told.
    at: Result<usize, (&'static str, String)>,
}

impl<'a> Work<'a> {
    pub(super) fn routes(&mut self, gateways: &[ApiGateway<'_>]) -> Vec<ApiRoute<'a>> {
        let snapshot = self.snapshot;
        let mut all = Vec::new();
        for kind in ROUTES {
            for object in snapshot.of(kind) {
                let (Content::Custom(custom), metadata) = (&object.content, &object.metadata) else {
                    continue;
                };
                if self.space(&metadata.namespace).is_none() {
                    continue;
                }
                let (mut parents, mut told) = (Vec::new(), Vec::new());
                let given = custom.spec.get("parentRefs").and_then(Value::as_array).into_iter().flatten();
                for written in given {
                    let Some(found) = self.parent(kind, metadata, written, gateways) else { continue };
                    let at = found.map(|()| told.len());
                    if at.is_ok() {
                        told.push(written.clone());
                    }
                    parents.push(Parent { written: written.clone(), at });
                }
                if !told.is_empty() {
                    let mut spec = custom.spec.clone();
                    if let Some(fields) = spec.as_object_mut() {
                        fields.insert("parentRefs".into(), told.into());
                    }
                    let name = kind.kind().kind;
                    let read = Resource::from_document(document_of(name, GATEWAY, metadata, &spec));
                    let of = Some((kind, &**object));
                    self.offer(id(name, metadata), metadata, read, (Stand::Nothing, Earlier::Kept), of);
                }
                all.push(ApiRoute { kind, object, parents });
            }
        }
        all
    }

    /// Whether a parent is ours; if so, whether the route can be told to the model there.
    fn parent(
        &self,
        kind: KindId,
        metadata: &Metadata,
        written: &Value,
        gateways: &[ApiGateway<'_>],
    ) -> Option<Result<(), (&'static str, String)>> {
        let text = |name: &str| written.get(name).and_then(Value::as_str);
        let name = text("name")?;
        let namespace = text("namespace").unwrap_or(&metadata.namespace);
        let is_offered = |kind: &'static str| {
            self.names.contains(&ObjectId { kind, namespace: namespace.into(), name: name.into() })
        };
        let asks = matches!(kind, KindId::HttpRoute | KindId::GrpcRoute);
        match (text("group").unwrap_or(GATEWAY), text("kind").unwrap_or("Gateway")) {
            ("" | "core", "Service") => is_offered("Service").then_some(Ok(())),
            (GATEWAY | SIGNET, "Gateway") => {
                let gateway = gateways.iter().find(|gateway| gateway.is(namespace, name));
                if gateway.is_none() && !(text("group") == Some(SIGNET) && is_offered("Gateway")) {
                    return None;
                }
                if asks {
                    let why = "requests from outside go by spec.routes of a Gateway of signet.mesh, which says by which \
                               credentials";
                    return Some(Err(("UnsupportedValue", why.into())));
                }
                match gateway.and_then(ApiGateway::refused) {
                    Some(why) => {
                        Some(Err(("NoMatchingParent", format!("the Gateway is not accepted: {why}"))))
                    }
                    None => Some(Ok(())),
                }
            }
            _ => None,
        }
    }
}

/// Of every route: also of one that has no parent of ours any more, whose entry then goes.
pub(super) fn statuses(routes: &[ApiRoute<'_>], came_to: &CameTo<'_>, made: &Lenient) -> Vec<ObjectStatus> {
    let of = |route: &ApiRoute<'_>| {
        let found = came_to.get(&(route.kind, route.object.key())).copied();
        let parents = route.parents.iter().map(|parent| {
            let conditions = match (&parent.at, found) {
                (Err((reason, why)), _) => vec![
                    Condition::no("Accepted", reason, why.clone()),
                    Condition::yes("ResolvedRefs", "ResolvedRefs"),
                ],
                (Ok(at), Some((offered, verdict))) => conditions(*at, offered, verdict, made),
                (Ok(_), None) => Vec::new(),
            };
            ParentStatus { parent: parent.written.clone(), conditions }
        });
        status_of(route.kind, route.object, Said::Parents(parents.collect()))
    };
    routes.iter().map(of).collect()
}

fn conditions(at: usize, offered: &Offered<'_>, verdict: &Verdict, made: &Lenient) -> Vec<Condition> {
    let here = format!("spec.parentRefs[{at}]");
    let (backends, others): (Vec<_>, Vec<_>) =
        verdict.problems.iter().cloned().partition(|it| it.field.contains(".backendRef"));
    let accepted = if verdict.in_force == InForce::AsWritten {
        Condition::yes("Accepted", "Accepted")
    } else {
        let here = others.iter().find(|it| it.field.starts_with(&here));
        let reason = match (verdict.stage, here) {
            (Stage::Read, _) => "UnsupportedValue",
            (_, Some(it)) if it.reason.contains("allowedRoutes") => "NotAllowedByListeners",
            (_, Some(it)) if it.reason.contains("spec.hostnames") => "NoMatchingListenerHostname",
            _ => "NoMatchingParent",
        };
        Condition::no("Accepted", reason, format!("{} ({})", list(&verdict.problems), what(verdict.in_force)))
    };
    let resolved = match &offered.offer.read {
        _ if !backends.is_empty() => Condition::no("ResolvedRefs", "BackendNotFound", list(&backends)),
        Ok(Resource::Route(route)) => {
            let refused: Vec<_> = route
                .backends()
                .into_iter()
                .filter(|(_, service, _)| !made.registry.lets_refer(route, service))
                .map(|(field, service, _)| format!("{field}: no ReferenceGrant lets it refer to `{service}`"))
                .collect();
            match refused.is_empty() {
                true => Condition::yes("ResolvedRefs", "ResolvedRefs"),
                false => Condition::no("ResolvedRefs", "RefNotPermitted", refused.join("; ")),
            }
        }
        _ => Condition::no("ResolvedRefs", "UnsupportedValue", "it cannot be read"),
    };
    vec![accepted, resolved]
}
