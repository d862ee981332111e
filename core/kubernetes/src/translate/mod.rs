//! A cluster's objects as resources of the registry.
//!
//! [`translate`] is a function of what is in the cluster and of what was right before. Kubernetes' own objects say who
//! may join (service accounts), what is called (Services) and where it is (EndpointSlices of pods that have a sidecar);
//! routes come as the Gateway API has them, everything else as objects of `signet.mesh`. What each object came to goes out
//! as conditions; one that is wrong holds up no other one, see [`signet_model::Lenient`].
//!
//! What it never does: take an address or an identity from whoever only says so. An endpoint counts where a pod of the
//! Service's own namespace, that its selector means, has that address; and what an object says counts in its own namespace,
//! unless whoever runs the mesh lets that namespace speak for others ([`views::MESH_ADMIN`]).

mod conditions;
mod custom;
mod gateway;
pub mod judge;
pub mod members;
mod routes;
mod services;
mod sharing;
pub mod views;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use signet_model::{
    Earlier, InForce, Kept, ObjectId, Offer, Options, Problem, Registry, Resource, Stand, Verdict,
};

pub use conditions::{Condition, ListenerStatus, ObjectStatus, ParentStatus, Reason, Said, merged};
use views::{Content, INJECT, Key, MESH_ADMIN, Object, Pod};

use crate::kinds::KindId;

/// By which we are named in the Gateway API.
pub const CONTROLLER: &str = "signet.mesh/gateway-controller";

/// Objects of one kind.
pub type Objects = BTreeMap<Key, Arc<Object>>;

/// What is in a cluster. Cheap to copy: kinds are shared until one changes.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    kinds: BTreeMap<KindId, Arc<Objects>>,
}

impl Snapshot {
    /// All objects of a kind, in the order of their names.
    pub fn of(&self, kind: KindId) -> impl Iterator<Item = &Arc<Object>> {
        self.kinds.get(&kind).into_iter().flat_map(|objects| objects.values())
    }

    #[must_use]
    pub fn get(&self, kind: KindId, key: &Key) -> Option<&Arc<Object>> {
        self.kinds.get(&kind)?.get(key)
    }

    /// How many there are of a kind.
    #[must_use]
    pub fn count(&self, kind: KindId) -> usize {
        self.kinds.get(&kind).map_or(0, |objects| objects.len())
    }

    /// Puts one in, or in the place of an earlier version; what was there.
    pub fn put(&mut self, kind: KindId, object: Object) -> Option<Arc<Object>> {
        let key = object.key();
        Arc::make_mut(self.kinds.entry(kind).or_default()).insert(key, Arc::new(object))
    }

    pub fn remove(&mut self, kind: KindId, key: &Key) -> Option<Arc<Object>> {
        Arc::make_mut(self.kinds.get_mut(&kind)?).remove(key)
    }

    /// What there is of a kind is this and nothing else.
    pub fn replace(&mut self, kind: KindId, objects: Objects) -> Arc<Objects> {
        self.kinds.insert(kind, Arc::new(objects)).unwrap_or_default()
    }
}

/// What is not in the cluster.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub options: Options,
    /// Only these namespaces; empty is all.
    pub namespaces: BTreeSet<String>,
    /// Not these.
    pub excluded: BTreeSet<String>,
    /// Which of several control planes this is.
    pub revision: String,
}

/// What a cluster comes to.
#[derive(Debug)]
pub struct Translation {
    pub registry: Registry,
    /// For the next time.
    pub kept: Kept,
    /// What is to stand in the status of each object of ours, and of those of the Gateway API that are for us.
    pub statuses: Vec<ObjectStatus>,
    /// What is right and perhaps not as it was meant, in words.
    pub warnings: Vec<String>,
    /// Objects that are not, or not as written, in force, in words.
    pub refused: Vec<String>,
    /// What came of each object that was offered to the model.
    pub verdicts: Vec<(ObjectId, Verdict)>,
}

/// An object's place in what is offered to the model.
struct Offered<'a> {
    offer: Offer,
    /// Whose status says what came of it; none where Kubernetes keeps no status for it.
    of: Option<(KindId, &'a Object)>,
}

/// What came of each object of which a status says it.
type CameTo<'a> = HashMap<(KindId, Key), (&'a Offered<'a>, &'a Verdict)>;

/// One cluster on its way.
struct Work<'a> {
    snapshot: &'a Snapshot,
    settings: &'a Settings,
    kept: &'a Kept,
    /// Of each namespace that counts, its labels.
    namespaces: BTreeMap<&'a str, Space<'a>>,
    offered: Vec<Offered<'a>>,
    /// Kind, namespace and name of what was offered.
    names: HashSet<ObjectId>,
    warnings: Vec<String>,
}

/// A namespace.
struct Space<'a> {
    injects: bool,
    /// Its objects may concern others.
    is_admin: bool,
    pods: Vec<(&'a str, &'a Pod)>,
    /// The pods, by their places, that have a label: each Service looks at few of them.
    labelled: HashMap<(&'a str, &'a str), Vec<usize>>,
    /// Service accounts of pods that have a sidecar.
    meshed: BTreeSet<&'a str>,
}

impl<'a> Space<'a> {
    /// Pods that a selector means, which says something.
    fn selected(&self, selector: &BTreeMap<String, String>) -> Vec<(&'a str, &'a Pod)> {
        let lists = selector.iter().map(|(name, value)| self.labelled.get(&(name.as_str(), value.as_str())));
        let lists: Option<Vec<_>> = lists.collect();
        let shortest = lists.unwrap_or_default().into_iter().min_by_key(|list| list.len());
        let pods = shortest.into_iter().flatten().filter_map(|place| self.pods.get(*place).copied());
        let means = |pod: &Pod| selector.iter().all(|(name, value)| pod.labels.get(name) == Some(value));
        pods.filter(|(_, pod)| means(pod)).collect()
    }
}

/// Makes a registry of a cluster.
#[must_use]
pub fn translate(snapshot: &Snapshot, settings: &Settings, kept: &Kept) -> Translation {
    let mut work = Work {
        snapshot,
        settings,
        kept,
        namespaces: namespaces(snapshot, settings),
        offered: Vec::new(),
        names: HashSet::new(),
        warnings: Vec::new(),
    };
    work.accounts();
    work.services();
    work.customs();
    let gateways = work.gateways();
    let routes = work.routes(&gateways);
    let offers: Vec<Offer> = work.offered.iter().map(|offered| offered.offer.clone()).collect();
    let made = Registry::build_lenient(&offers, kept, &settings.options);
    let mut refused = Vec::new();
    for (offered, verdict) in work.offered.iter().zip(&made.verdicts) {
        if verdict.is_right() {
            continue;
        }
        let problems: Vec<_> = verdict.problems.iter().map(ToString::to_string).collect();
        refused.push(format!("{}: {} ({})", offered.offer.id, problems.join("; "), what(verdict.in_force)));
    }
    let mut statuses = conditions::of_customs(&work.offered, &made.verdicts);
    let came_to: CameTo<'_> = work
        .offered
        .iter()
        .zip(&made.verdicts)
        .filter_map(|(offered, verdict)| Some(((offered.of?.0, offered.of?.1.key()), (offered, verdict))))
        .collect();
    statuses.extend(gateway::statuses(&gateways, &came_to, &made));
    statuses.extend(gateway::classes(snapshot));
    statuses.extend(routes::statuses(&routes, &came_to, &made));
    work.warnings.extend(members::words(snapshot, settings));
    work.warnings.extend(sharing::words(&made.registry));
    let verdicts = offers.into_iter().map(|offer| offer.id).zip(made.verdicts).collect();
    Translation {
        registry: made.registry,
        kept: made.kept,
        statuses,
        warnings: work.warnings,
        refused,
        verdicts,
    }
}

/// What is in force of an object that is not right, in words.
#[must_use]
pub fn what(in_force: InForce) -> &'static str {
    match in_force {
        InForce::AsWritten => "it stays in force",
        InForce::Earlier => "the last version that was right stays in force",
        InForce::Denies => "until it is mended everything that it may be for is denied",
        InForce::Nothing => "it is left out",
    }
}

fn namespaces<'a>(snapshot: &'a Snapshot, settings: &Settings) -> BTreeMap<&'a str, Space<'a>> {
    let counts = |name: &str| {
        (settings.namespaces.is_empty() || settings.namespaces.contains(name))
            && !settings.excluded.contains(name)
    };
    let mut all: BTreeMap<&str, Space<'_>> = snapshot
        .of(KindId::Namespace)
        .filter(|object| counts(&object.metadata.name))
        .map(|object| {
            let label = |name: &str| object.metadata.labels.get(name).map(String::as_str);
            let space = Space {
                injects: label(INJECT) == Some("enabled"),
                is_admin: label(MESH_ADMIN) == Some("true")
                    || object.metadata.name == settings.options.system_namespace.as_str(),
                pods: Vec::new(),
                labelled: HashMap::new(),
                meshed: BTreeSet::new(),
            };
            (object.metadata.name.as_str(), space)
        })
        .collect();
    for object in snapshot.of(KindId::Pod) {
        let Content::Pod(pod) = &object.content else { continue };
        if let Some(space) = all.get_mut(object.metadata.namespace.as_str()).filter(|_| !pod.ended) {
            for (name, value) in &pod.labels {
                space.labelled.entry((name, value)).or_default().push(space.pods.len());
            }
            if pod.meshed {
                space.meshed.insert(&pod.account);
            }
            space.pods.push((&object.metadata.name, pod));
        }
    }
    all
}

impl<'a> Work<'a> {
    /// A namespace that counts.
    fn space(&self, name: &str) -> Option<&Space<'a>> {
        self.namespaces.get(name)
    }

    fn offer(
        &mut self,
        id: ObjectId,
        metadata: &views::Metadata,
        read: Result<Resource, Vec<Problem>>,
        (stand, earlier): (Stand, Earlier),
        of: Option<(KindId, &'a Object)>,
    ) {
        let (uid, created) = (metadata.uid.clone(), metadata.creation_timestamp.clone().unwrap_or_default());
        self.names.insert(id.clone());
        self.offered.push(Offered {
            offer: Offer { id, uid, read, stand, earlier, created, flaws: Vec::new(), bare: None },
            of,
        });
    }

    /// The last version of an object that was right.
    fn kept(&self, id: &ObjectId, uid: &str) -> Option<&'a Resource> {
        self.kept.get(id).filter(|(own, _)| own == uid).map(|(_, resource)| resource)
    }

    /// Whether an object of ours of this name is there, which then says more than Kubernetes does.
    fn has(&self, kind: KindId, metadata: &views::Metadata) -> bool {
        let key = (metadata.namespace.as_str().into(), metadata.name.as_str().into());
        self.snapshot.get(kind, &key).is_some()
    }

    /// Service accounts whose pods have a sidecar, or are to have one, may join as such.
    fn accounts(&mut self) {
        let snapshot = self.snapshot;
        for object in snapshot.of(KindId::ServiceAccount) {
            let metadata = &object.metadata;
            let Some(space) = self.space(&metadata.namespace) else { continue };
            if metadata.namespace == self.settings.options.system_namespace.as_str() {
                continue;
            }
            let runs = space.meshed.contains(metadata.name.as_str());
            if !(space.injects || runs) || self.has(KindId::Workload, metadata) {
                continue;
            }
            let document = serde_json::json!({
                "apiVersion": signet_model::API_VERSION, "kind": "Workload",
                "metadata": {"name": metadata.name, "namespace": metadata.namespace},
                "spec": {"class": "sidecar"},
            });
            self.offer(
                id("Workload", metadata),
                metadata,
                Resource::from_document(document),
                (Stand::Nothing, Earlier::Kept),
                None,
            );
        }
    }
}

/// The spec of a resource as its author may have written it.
fn spec_of(resource: &Resource) -> serde_json::Value {
    let mut document: serde_json::Value =
        serde_json::from_str(&resource.canonical_json()).unwrap_or_default();
    document.get_mut("spec").map(serde_json::Value::take).unwrap_or_default()
}

fn id(kind: &'static str, metadata: &views::Metadata) -> ObjectId {
    ObjectId { kind, namespace: metadata.namespace.clone(), name: metadata.name.clone() }
}
