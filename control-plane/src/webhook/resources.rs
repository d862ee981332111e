//! Objects of ours as they are written: read as the registry reads them, so that an author hears at once what is wrong.
//!
//! What cannot be read, and what an object of its namespace may not say, is refused. What it refers to and is not there
//! yet is a warning: objects are written in any order. Nothing depends on this door: what comes past it
//! is read again, and one that is wrong opens nothing (see [`signet_model::Lenient`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use signet_kubernetes::inject::review::{Answer, Question};
use signet_kubernetes::kinds::{KINDS, Kind, KindId, SIGNET};
use signet_kubernetes::translate::judge::{Wrong, foreseen, judge};
use signet_kubernetes::translate::views::{Content, MESH_ADMIN, Object};
use signet_kubernetes::translate::{Settings, Snapshot};
use signet_model::{Label, Problem};
use tokio::sync::Semaphore;

use crate::cluster::api::Api;
use crate::cluster::store::Store;

/// The API server waits for three seconds.
const ASK: Duration = Duration::from_secs(1);
/// One namespace.
const LIMIT: usize = 2 * 1024 * 1024;
/// A look at the whole cluster takes a processor for its time: one at a time, and who waits longer is told less.
const LOOKS: usize = 1;
/// Questions at once. Beyond them nothing is said: nothing depends on it.
const QUESTIONS: usize = 16;
const TURN: Duration = Duration::from_millis(500);

/// See the module's story.
pub struct Resources {
    api: Arc<Api>,
    store: Arc<Store>,
    settings: Arc<Settings>,
    looks: Arc<Semaphore>,
    questions: Semaphore,
}

impl Resources {
    #[must_use]
    pub fn new(api: Arc<Api>, store: Arc<Store>, settings: Settings) -> Self {
        let (looks, questions) = (Arc::new(Semaphore::new(LOOKS)), Semaphore::new(QUESTIONS));
        Self { api, store, settings: Arc::new(settings), looks, questions }
    }

    /// What its author is told.
    pub async fn answer(&self, question: &Question) -> Answer {
        let (group, resource) = question.resource();
        let kind =
            KINDS.iter().find(|kind| kind.group == SIGNET && group == SIGNET && kind.resource == resource);
        let Some(kind) = kind.filter(|_| matches!(question.operation(), ("CREATE" | "UPDATE", ""))) else {
            return question.allowed("ignored", "", &[]);
        };
        let Ok(_one) = self.questions.try_acquire() else {
            let busy =
                "signet: too many are written at once, so that this one was not judged: see its status";
            return question.allowed("ignored", "", &[busy.to_owned()]);
        };
        let was = |pointer: &str| question.old_object.pointer(pointer);
        let is = |pointer: &str| question.object.pointer(pointer);
        // Whoever takes a finalizer or a label away does not answer for the rest.
        let unchanged = was("/spec").is_some() && was("/spec") == is("/spec");
        if unchanged || is("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null()) {
            return question.allowed("judged", "", &[]);
        }
        let object = match Object::read(kind.id, named(&question.object)) {
            Ok(object) => object,
            Err(error) => return refused(question, kind, &[Problem::new("", error)], UNREADABLE),
        };
        let snapshot = self.store.snapshot();
        match self.judged(kind, &object, snapshot).await {
            Ok(snapshot) => {
                let warnings = self.foreseen(snapshot, kind.id, object).await;
                let own = words_of(&question.object);
                let said = |warning: String| format!("signet: {}", discreet(&warning, &own));
                question.allowed("judged", "", &warnings.into_iter().map(said).collect::<Vec<_>>())
            }
            Err(Wrong::Unreadable(problems)) => refused(question, kind, &problems, UNREADABLE),
            Err(Wrong::Forbidden(problems)) => refused(question, kind, &problems, FORBIDDEN),
        }
    }

    /// Whether it is right in itself; with what there is, its namespace as it is now included.
    async fn judged(&self, kind: &Kind, object: &Object, mut snapshot: Snapshot) -> Result<Snapshot, Wrong> {
        let Content::Custom(custom) = &object.content else { return Ok(snapshot) };
        let namespace = &object.metadata.namespace;
        let judge = |is_admin| judge(kind, &object.metadata, &custom.spec, is_admin);
        let speaks = !kind.namespaced || *namespace == *self.settings.options.system_namespace.as_str();
        let known = snapshot.get(KindId::Namespace, &(String::new().into(), namespace.as_str().into()));
        match judge(speaks || known.is_some_and(|known| is_admin(known))) {
            Err(wrong @ Wrong::Forbidden(_)) => {
                // It may have been made, or labelled, a moment ago.
                let now = self.namespace(namespace).await.filter(is_admin).ok_or(wrong)?;
                snapshot.put(KindId::Namespace, now);
                judge(true).map(|()| snapshot)
            }
            other => other.map(|()| snapshot),
        }
    }

    async fn namespace(&self, name: &str) -> Option<Object> {
        // It goes into a path.
        let name: Label = name.parse().ok()?;
        let path = format!("/api/v1/namespaces/{name}");
        match self.api.get(&path, "application/json", LIMIT, ASK).await {
            Ok(body) => Object::read(KindId::Namespace, serde_json::from_slice(&body).ok()?).ok(),
            Err(error) => {
                tracing::debug!(target: "signet::webhook", %error, %name, "a namespace was not read");
                None
            }
        }
    }

    async fn foreseen(&self, snapshot: Snapshot, kind: KindId, object: Object) -> Vec<String> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.looks).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Vec::new() };
        let settings = Arc::clone(&self.settings);
        // It ends by itself when the caller has gone, and keeps its turn until then.
        let look = tokio::task::spawn_blocking(move || {
            let found = foreseen(&snapshot, &settings, kind, object);
            drop(turn);
            found
        });
        look.await.unwrap_or_default()
    }
}

/// Words of the model, which tell nothing of a mesh.
const VOCABULARY: [&str; 24] = [
    "ns",
    "sa",
    "signet",
    "mesh",
    "spec",
    "target",
    "to",
    "from",
    "ports",
    "port",
    "service",
    "services",
    "gateway",
    "sidecar",
    "agent",
    "egress",
    "http",
    "grpc",
    "tcp",
    "tls",
    "true",
    "false",
    "workloadApi",
    "claims",
];

/// The words that a question has in it.
fn words_of(object: &Value) -> HashSet<&str> {
    let mut words: HashSet<&str> = VOCABULARY.into_iter().collect();
    let mut rest = vec![object];
    while let Some(value) = rest.pop() {
        match value {
            Value::String(text) => words.extend(parts(text)),
            Value::Array(list) => rest.extend(list),
            Value::Object(fields) => {
                fields.keys().for_each(|name| words.extend(parts(name)));
                rest.extend(fields.values());
            }
            _ => {}
        }
    }
    words
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).filter(|part| !part.is_empty())
}

/// What is said, without a name that its author did not bring: nobody knows who asks, and whoever reaches the port may. The
/// status of the object, which only those see who may read it, names all.
fn discreet(warning: &str, own: &HashSet<&str>) -> String {
    let mut said = String::with_capacity(warning.len());
    for (at, piece) in warning.split('`').enumerate() {
        if at > 0 {
            said.push('`');
        }
        let is_name = at % 2 == 1;
        said.push_str(if is_name && !parts(piece).all(|part| own.contains(part)) { "…" } else { piece });
    }
    said
}

fn is_admin(namespace: &Object) -> bool {
    namespace.metadata.labels.get(MESH_ADMIN).is_some_and(|value| value == "true")
}

/// The object with a name: one that the server is still to make up stands for itself.
fn named(object: &Value) -> Value {
    let mut object = object.clone();
    let prefix =
        object.pointer("/metadata/generateName").and_then(Value::as_str).map(|it| format!("{it}new"));
    let has_name =
        object.pointer("/metadata/name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if let (false, Some(prefix)) = (has_name, prefix)
        && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.insert("name".into(), prefix.into());
    }
    object
}

/// Status, reason of the status, and the word for metrics.
type Why = (u16, &'static str, &'static str);
const UNREADABLE: Why = (422, "Invalid", "unreadable");
const FORBIDDEN: Why = (403, "Forbidden", "forbidden");

fn refused(question: &Question, kind: &Kind, problems: &[Problem], (code, reason, label): Why) -> Answer {
    let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let causes: Vec<Value> = problems
        .iter()
        .map(|problem| json!({"reason": "FieldValueInvalid", "field": problem.field, "message": problem.reason}))
        .collect();
    let name = question.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let status = json!({
        "code": code, "reason": reason, "message": format!("signet: {}", words.join("; ")),
        "details": {"group": SIGNET, "kind": kind.kind, "name": name, "causes": causes},
    });
    question.denied(status, label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_hears_no_name_that_it_did_not_bring() {
        let object = json!({"metadata": {"name": "may", "namespace": "shop"}, "spec": {"target": {"service": "orders"}, "from": {"workloads": ["ns/shop/sa/web"]}}});
        let own = words_of(&object);
        for (warning, said) in [
            ("spec.target.service: expected a service of namespace `shop`, got `orders`", None),
            ("expected a service of the registry, got `orders.shop`", None),
            ("got `ns/shop/sa/web`: add a Workload `web` in namespace `shop`", None),
            (
                "expected an Issuer (`corp`, `partner`), got `web`",
                Some("expected an Issuer (`…`, `…`), got `web`"),
            ),
            ("which is also `ledger.shop`'s", Some("which is also `…`'s")),
            ("got `secret-name.shop", Some("got `…")),
        ] {
            assert_eq!(discreet(warning, &own), said.unwrap_or(warning));
        }
    }
}
