//! What the cluster has to know of the mesh's roots: the `caBundle` by which the API server verifies our webhooks, and in each
//! namespace with pods of the mesh the ConfigMap from which those take the roots.
//!
//! Looked at every half minute, whenever the roots change, and as soon as another namespace has such pods; what is as
//! it should be is not written. Every control plane does so, and none undoes what another did: what it writes
//! carries the number of the roots, which all of one mesh count alike, and roots of a higher number are left alone by
//! one that has not heard of them yet. Roots are public: who changes them here keeps pods out, and lets nobody in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use http::Method;
use serde_json::{Value, json};
use signet_ca::Authority;
use signet_kubernetes::kinds::KindId;
use signet_kubernetes::translate::views::{Content, INJECT, Object};
use tokio::sync::watch;

use crate::cluster::api::{Api, ApiError};
use crate::cluster::reflect::query;
use crate::cluster::store::{Changes, Store};

const EVERY: Duration = Duration::from_secs(30);
/// After a look that failed: pods may be waiting.
const AGAIN: Duration = Duration::from_secs(5);
/// Changes that come closer together are taken together.
const QUIET: Duration = Duration::from_millis(250);
/// Who wrote a higher number would have told us by then: it is of a mesh that was, or was restored to an earlier state.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two tries where a namespace does not take the roots.
const LONGEST: Duration = Duration::from_secs(1800);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Twenty of the largest objects that anybody would make of them.
const LIMIT: usize = 32 * 1024 * 1024;
const PAGE: usize = 20;
const JSON: &str = "application/json";
/// Who owns the fields.
const MANAGER: &str = "signet-control-plane";
/// The mesh, and how often its published keys had changed.
const NUMBER: &str = "signet.mesh/roots-number";
const KINDS: [&str; 2] = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];

/// Keeps both.
pub struct Publisher {
    pub api: Arc<Api>,
    pub authority: Authority,
    /// The configuration of our own webhooks whose `caBundle` is kept; none: there is none, or somebody else does.
    pub configuration: Option<String>,
    /// The ConfigMap of each namespace.
    pub config_map: String,
    /// The cluster as it is known; none where the registry is not the cluster's.
    pub store: Option<Arc<Store>>,
}

/// What is to be known.
struct Roots {
    pem: String,
    mesh: String,
    number: u64,
}

/// Since when higher numbers than ours are seen. Others that come meanwhile, each higher than the last, do not make it wait
/// longer: in a namespace anybody of it may write them.
#[derive(Default)]
struct Newer(HashMap<String, Instant>);

/// Namespaces that do not take the roots, as where somebody made the ConfigMap immutable: until when each is left alone, and
/// for how long the next time.
#[derive(Default)]
struct Unwilling(HashMap<String, (Instant, Duration)>);

impl Unwilling {
    fn rests(&self, namespace: &str, now: Instant) -> bool {
        self.0.get(namespace).is_some_and(|(until, _)| *until > now)
    }

    /// How often it refused in a row, as a pause that grows; whether that is news.
    fn refused(&mut self, namespace: &str, now: Instant, longest: Duration) -> bool {
        let first = !self.0.contains_key(namespace);
        let pause = self.0.get(namespace).map_or(EVERY, |(_, pause)| pause.saturating_mul(2).min(longest));
        self.0.insert(namespace.to_owned(), (now.checked_add(pause).unwrap_or(now), pause));
        first
    }
}

/// What is remembered from look to look.
#[derive(Default)]
struct Memory {
    newer: Newer,
    unwilling: Unwilling,
}

impl Newer {
    /// Whether what is there is to be replaced by ours, though its content is another.
    fn yields(&mut self, what: &str, held: Option<&str>, ours: &Roots, now: Instant) -> bool {
        let held = held.and_then(|held| held.split_once('/')).filter(|(mesh, _)| *mesh == ours.mesh);
        let number = held.and_then(|(_, number)| number.parse::<u64>().ok()).unwrap_or(0);
        if number <= ours.number {
            self.0.remove(what);
            return true;
        }
        let since = *self.0.entry(what.to_owned()).or_insert(now);
        now.saturating_duration_since(since) >= PATIENCE
    }

    /// What is there is ours.
    fn settled(&mut self, what: &str) {
        self.0.remove(what);
    }
}

impl Roots {
    fn of(authority: &Authority) -> Self {
        // The number first: content that is newer than its number is written again, and never the other way round.
        let number = authority.published().borrow().sequence;
        Self { pem: authority.root_pem(), mesh: authority.mesh().to_string(), number }
    }

    fn text(&self) -> String {
        format!("{}/{}", self.mesh, self.number)
    }
}

impl Publisher {
    /// Does so for as long as it runs.
    pub async fn keep(self) {
        let mut published = self.authority.published();
        let mut changes = self.store.as_ref().map(|store| store.subscribe());
        let mut memory = Memory::default();
        loop {
            let roots = Roots::of(&self.authority);
            let (served, well) = self.look(&roots, &mut memory).await;
            tokio::select! {
                () = tokio::time::sleep(if well { EVERY } else { AGAIN }) => {}
                () = self.another(&mut changes, &served), if well => {}
                changed = published.changed() => if changed.is_err() { return },
            }
        }
    }

    /// One look at everything: the namespaces that have the roots, and whether all went well.
    async fn look(&self, roots: &Roots, memory: &mut Memory) -> (BTreeSet<String>, bool) {
        let mut well = true;
        for kind in KINDS {
            let Some(name) = &self.configuration else { break };
            if let Err(error) = bundle(&self.api, (kind, name), roots, &mut memory.newer).await {
                tracing::warn!(target: "signet::webhook", %error, kind, name, "the caBundle cannot be kept");
                well = false;
            }
        }
        let served = match self.config_maps(roots, memory).await {
            Ok((served, all)) => {
                well &= all;
                served
            }
            Err(error) => {
                tracing::warn!(target: "signet::webhook", %error, "the roots cannot be given to namespaces");
                well = false;
                BTreeSet::new()
            }
        };
        (served, well)
    }

    /// Returns when a namespace has pods of the mesh that had none.
    async fn another(&self, changes: &mut Option<watch::Receiver<Changes>>, served: &BTreeSet<String>) {
        while let (Some(store), Some(changes)) = (&self.store, changes.as_mut()) {
            if changes.changed().await.is_err() {
                break;
            }
            tokio::time::sleep(QUIET).await;
            changes.borrow_and_update();
            if !meshed(store).is_subset(served) {
                return;
            }
        }
        std::future::pending().await
    }

    async fn config_maps(
        &self,
        roots: &Roots,
        memory: &mut Memory,
    ) -> Result<(BTreeSet<String>, bool), ApiError> {
        let name = &self.config_map;
        let wanted = match &self.store {
            Some(store) => meshed(store),
            None => self.labelled().await?,
        };
        let mut held: BTreeMap<String, (bool, Option<String>)> = BTreeMap::new();
        let path = format!(
            "/api/v1/configmaps?limit={PAGE}{}",
            query("fieldSelector", &format!("metadata.name={name}"))
        );
        self.each(&path, |item| {
            let namespace = text(item, "/metadata/namespace").unwrap_or_default();
            let is_ours = text(item, "/data/roots.pem") == Some(&roots.pem);
            let number = item.pointer("/metadata/annotations").and_then(|all| all.get(NUMBER)?.as_str());
            held.insert(namespace.to_owned(), (is_ours, number.map(str::to_owned)));
        })
        .await?;
        let (mut served, mut well, now) = (BTreeSet::new(), true, Instant::now());
        memory.unwilling.0.retain(|namespace, _| wanted.contains(namespace));
        for namespace in wanted {
            let write = match held.get(&namespace) {
                Some((true, _)) => {
                    memory.newer.settled(&namespace);
                    memory.unwilling.0.remove(&namespace);
                    false
                }
                Some((false, number)) => {
                    memory.newer.yields(&namespace, number.as_deref(), roots, now)
                        && !memory.unwilling.rests(&namespace, now)
                }
                None => !memory.unwilling.rests(&namespace, now),
            };
            if write {
                match config_map(&self.api, &namespace, name, roots).await {
                    Ok(()) => drop(memory.unwilling.0.remove(&namespace)),
                    // One that somebody closed does not keep the others waiting, and neither does one that is going away.
                    // Forbidden is what a quota and a policy of the namespace say, too; those change without our hearing of
                    // it, and pods are waiting, so that the pause does not grow.
                    Err(error) if matches!(error.code(), Some(400 | 403 | 409 | 422)) => {
                        let longest = if error.code() == Some(403) { EVERY } else { LONGEST };
                        if memory.unwilling.refused(&namespace, now, longest) {
                            tracing::warn!(target: "signet::webhook", %error, namespace, name, "a namespace does not take the roots: its pods do not come into the mesh");
                        }
                    }
                    Err(error) => {
                        tracing::debug!(target: "signet::webhook", %error, namespace, "no roots for this namespace");
                        well &= matches!(error.code(), Some(404));
                    }
                }
            }
            served.insert(namespace);
        }
        Ok((served, well))
    }

    /// The namespaces with the label, where nobody else knows them.
    async fn labelled(&self) -> Result<BTreeSet<String>, ApiError> {
        let mut found = BTreeSet::new();
        let path = format!(
            "/api/v1/namespaces?limit={PAGE}{}",
            query("labelSelector", &format!("{INJECT}=enabled"))
        );
        self.each(&path, |item| found.extend(text(item, "/metadata/name").map(str::to_owned))).await?;
        Ok(found)
    }

    /// Every item of a list, page by page.
    async fn each(&self, path: &str, mut act: impl FnMut(&Value)) -> Result<(), ApiError> {
        let mut next = String::new();
        loop {
            let page = format!("{path}{}", query("continue", &next));
            let page = read(&self.api.get(&page, JSON, LIMIT, TIMEOUT).await?)?;
            page.get("items").and_then(Value::as_array).into_iter().flatten().for_each(&mut act);
            match text(&page, "/metadata/continue") {
                Some(more) if !more.is_empty() => more.clone_into(&mut next),
                _ => return Ok(()),
            }
        }
    }
}

/// The namespaces whose pods are injected, those of single pods that are, and those where a pod of ours runs by an object
/// that says so: a gateway's Workload, a Registration.
fn meshed(store: &Store) -> BTreeSet<String> {
    let snapshot = store.snapshot();
    let spec = |object: &'_ Arc<Object>, pointer: &str| match &object.content {
        Content::Custom(custom) => custom.spec.pointer(pointer).and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let gateways =
        snapshot.of(KindId::Workload).filter(|it| spec(it, "/class").as_deref() == Some("gateway"));
    let registered = snapshot.of(KindId::Registration).filter_map(|it| spec(it, "/kubernetes/namespace"));
    let named: BTreeSet<String> =
        gateways.map(|it| it.metadata.namespace.clone()).chain(registered).collect();
    let pods = snapshot.of(KindId::Pod);
    let with_pods: BTreeSet<&str> = pods
        .filter(|it| matches!(&it.content, Content::Pod(pod) if pod.meshed && !pod.ended))
        .map(|it| it.metadata.namespace.as_str())
        .collect();
    let namespaces = snapshot.of(KindId::Namespace).map(|it| &it.metadata);
    let meshed = namespaces.filter(|it| {
        let labelled = it.labels.get(INJECT).is_some_and(|value| value == "enabled");
        let has = labelled || with_pods.contains(it.name.as_str()) || named.contains(&it.name);
        it.deletion_timestamp.is_none() && has
    });
    meshed.map(|it| it.name.clone()).collect()
}

async fn bundle(
    api: &Api,
    (kind, name): (&str, &str),
    roots: &Roots,
    newer: &mut Newer,
) -> Result<(), ApiError> {
    let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}/{name}");
    let found = match api.get(&path, JSON, LIMIT, TIMEOUT).await {
        Ok(body) => read(&body)?,
        // Nobody asks us for that.
        Err(error) if error.code() == Some(404) && kind != KINDS[0] => return Ok(()),
        Err(error) => return Err(error),
    };
    let wanted = base64::engine::general_purpose::STANDARD.encode(&roots.pem);
    let held = found.pointer("/metadata/annotations").and_then(|all| all.get(NUMBER)?.as_str());
    let patch = patch(&found, &wanted, &roots.text());
    if !patch.is_empty() && newer.yields(&path, held, roots, Instant::now()) {
        let body = Value::Array(patch).to_string();
        let path = format!("{path}?fieldManager={MANAGER}");
        api.send_as(Method::PATCH, &path, "application/json-patch+json", body, LIMIT, TIMEOUT).await?;
        tracing::info!(target: "signet::webhook", kind, name, "the caBundle is the mesh's roots again");
    }
    Ok(())
}

/// What is to be done about webhooks with another bundle. Each is named, so that a list that changed in between is left alone.
fn patch(configuration: &Value, wanted: &str, number: &str) -> Vec<Value> {
    let hooks = configuration.get("webhooks").and_then(Value::as_array).into_iter().flatten().enumerate();
    let others = hooks
        .filter(|(_, hook)| hook.pointer("/clientConfig/caBundle").and_then(Value::as_str) != Some(wanted));
    let mut operations: Vec<Value> = others
        .flat_map(|(at, hook)| {
            let name = hook.get("name").cloned().unwrap_or_default();
            [
                json!({"op": "test", "path": format!("/webhooks/{at}/name"), "value": name}),
                json!({"op": "add", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": wanted}),
            ]
        })
        .collect();
    if !operations.is_empty() {
        if !configuration.pointer("/metadata/annotations").is_some_and(Value::is_object) {
            operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
        }
        let path = format!("/metadata/annotations/{}", NUMBER.replace('/', "~1"));
        operations.push(json!({"op": "add", "path": path, "value": number}));
    }
    operations
}

async fn config_map(api: &Api, namespace: &str, name: &str, roots: &Roots) -> Result<(), ApiError> {
    let body = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": MANAGER},
            "annotations": {NUMBER: roots.text()},
        },
        "data": {"roots.pem": roots.pem},
    });
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}?fieldManager={MANAGER}&force=true");
    api.send_as(Method::PATCH, &path, "application/apply-patch+yaml", body.to_string(), LIMIT, TIMEOUT)
        .await
        .map(drop)
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn read(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|_| ApiError::Unreadable("expected JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_webhooks_with_another_bundle_are_changed_and_each_by_its_name() {
        let mut found = json!({"webhooks": [
            {"name": "a", "clientConfig": {"caBundle": "old"}},
            {"name": "b", "clientConfig": {"caBundle": "new"}},
            {"name": "c", "clientConfig": {"service": {}}},
        ]});
        let paths = |found: &Value| -> Vec<String> {
            let all = patch(found, "new", "m/1");
            all.iter().map(|operation| operation["path"].as_str().unwrap().to_owned()).collect()
        };
        let hooks = [
            "/webhooks/0/name",
            "/webhooks/0/clientConfig/caBundle",
            "/webhooks/2/name",
            "/webhooks/2/clientConfig/caBundle",
        ];
        let number = "/metadata/annotations/signet.mesh~1roots-number";
        assert_eq!(paths(&found), [&hooks[..], &["/metadata/annotations", number]].concat());
        found["metadata"]["annotations"] = json!({"a": "b"});
        assert_eq!(paths(&found), [&hooks[..], &[number]].concat(), "others' annotations stay");
        assert!(paths(&json!({"webhooks": null})).is_empty());
    }

    #[test]
    fn a_namespace_that_refuses_is_asked_ever_less_often() {
        let (mut unwilling, mut now) = (Unwilling::default(), Instant::now());
        let mut tries = 0;
        let end = now + Duration::from_secs(24 * 3600);
        while now < end {
            if !unwilling.rests("a", now) {
                assert_eq!(unwilling.refused("a", now, LONGEST), tries == 0, "said once");
                tries += 1;
            }
            assert!(!unwilling.rests("b", now));
            now += EVERY;
        }
        assert!((50..60).contains(&tries), "{tries}");
    }

    #[test]
    fn newer_roots_are_left_alone_until_nobody_tells_of_them() {
        let ours = Roots { pem: String::new(), mesh: "m".into(), number: 5 };
        let (mut newer, now) = (Newer::default(), Instant::now());
        for held in [None, Some("m/5"), Some("m/4"), Some("other/9"), Some("what")] {
            assert!(newer.yields("a", held, &ours, now), "{held:?}");
        }
        assert!(!newer.yields("a", Some("m/6"), &ours, now));
        let later = now + PATIENCE - Duration::from_secs(1);
        assert!(!newer.yields("a", Some("m/6"), &ours, later));
        assert!(
            newer.yields("a", Some("m/7"), &ours, later + Duration::from_secs(2)),
            "another one buys no time"
        );
        newer.settled("a");
        assert!(!newer.yields("a", Some("m/8"), &ours, later + Duration::from_secs(2)));
    }
}
