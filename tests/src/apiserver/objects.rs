//! The objects of the server's cluster, of every kind: lists in pages, watches, writes with versions, and what goes wrong
//! with them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Method, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Body, SyncLines, object, status};

/// Namespace and name of an object, and the path of all of its kind.
type Id = (String, String, String);

#[derive(Default)]
struct Known {
    objects: BTreeMap<Id, Value>,
    version: u64,
    /// What happened, as it goes to watches: version, path of the kind, line.
    history: Vec<(u64, String, String)>,
    /// Older versions are forgotten.
    forgotten: u64,
    /// Kinds that the cluster does not have, by path.
    absent: BTreeSet<String>,
    /// For requests whose method and path contain the words, once each.
    faults: VecDeque<(&'static str, String, super::Fault)>,
    /// Lists in pages of this size, whatever is asked.
    page: Option<usize>,
}

/// Cheap to copy.
#[derive(Clone)]
pub(super) struct Objects {
    known: Arc<Mutex<Known>>,
    /// Grows with each event; the second number with each time that all watches are cut.
    events: watch::Sender<(u64, u64)>,
}

impl Default for Objects {
    fn default() -> Self {
        Self { known: Arc::default(), events: watch::Sender::new((0, 0)) }
    }
}

/// The path of all objects of a kind.
fn path_of(object: &Value) -> String {
    let (version, kind) = (object["apiVersion"].as_str(), object["kind"].as_str());
    let (version, kind) = (version.expect("apiVersion"), kind.expect("kind"));
    let mut plural = kind.to_lowercase();
    if let Some(stem) = plural.strip_suffix('y').filter(|stem| !stem.ends_with("wa")) {
        plural = format!("{stem}ies");
    } else if plural.ends_with('s') || plural.ends_with('h') {
        plural += "es";
    } else {
        plural += "s";
    }
    match version.contains('/') {
        true => format!("/apis/{version}/{plural}"),
        false => format!("/api/{version}/{plural}"),
    }
}

fn id_of(object: &Value) -> Id {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (path_of(object), text("namespace"), text("name"))
}

/// What a path names: all of a kind, or one object, or a part of one.
struct Asked {
    kind: String,
    namespace: Option<String>,
    name: Option<String>,
    sub: Option<String>,
}

fn asked(path: &str) -> Option<Asked> {
    let mut parts: VecDeque<&str> = path.trim_matches('/').split('/').collect();
    let prefix: Vec<&str> = match *parts.front()? {
        "api" => parts.drain(..2.min(parts.len())).collect(),
        "apis" => parts.drain(..3.min(parts.len())).collect(),
        _ => return None,
    };
    let mut namespace = None;
    if parts.front() == Some(&"namespaces") && parts.len() > 2 {
        parts.pop_front();
        namespace = parts.pop_front().map(str::to_owned);
    }
    let resource = parts.pop_front()?;
    let mut rest = parts.into_iter().map(str::to_owned);
    Some(Asked {
        kind: format!("/{}/{resource}", prefix.join("/")),
        namespace,
        name: rest.next(),
        sub: rest.next(),
    })
}

impl Objects {
    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn happened(&self, known: &mut Known, kind: &str, id: &Id, mut object: Value) {
        known.version += 1;
        object["metadata"]["resourceVersion"] = known.version.to_string().into();
        let line = json!({"type": kind, "object": object}).to_string();
        known.history.push((known.version, id.0.clone(), line));
        match kind {
            "DELETED" => drop(known.objects.remove(id)),
            _ => drop(known.objects.insert(id.clone(), object)),
        }
        self.events.send_modify(|events| events.0 += 1);
    }

    /// Makes an object, or gives one another spec: as a user would, so that the status stays.
    pub(super) fn put(&self, mut object: Value) {
        let id = id_of(&object);
        self.with(|known| {
            let before = known.objects.get(&id).cloned();
            let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
            let uid = match &before {
                Some(before) => before["metadata"]["uid"].clone(),
                None => format!("uid-{}-{}", id.2, known.version).into(),
            };
            let same = before.as_ref().is_some_and(|before| before["spec"] == object["spec"]);
            let generation =
                before.as_ref().and_then(|it| it["metadata"]["generation"].as_u64()).unwrap_or(0);
            let metadata = object["metadata"].as_object_mut().expect("metadata");
            metadata.entry("uid").or_insert(uid);
            metadata.insert("generation".into(), (generation + u64::from(!same)).into());
            if let (None, Some(status)) =
                (object.get("status"), before.as_ref().and_then(|it| it.get("status")))
            {
                object["status"] = status.clone();
            }
            self.happened(known, kind, &id, object);
        });
    }

    pub(super) fn remove(&self, object: &Value) {
        let id = id_of(object);
        self.with(|known| {
            let gone = known.objects.get(&id).cloned().expect("an object that is there");
            self.happened(known, "DELETED", &id, gone);
        });
    }

    pub(super) fn get(&self, object: &Value) -> Option<Value> {
        self.with(|known| known.objects.get(&id_of(object)).cloned())
    }

    pub(super) fn all(&self, path: &str) -> Vec<Value> {
        self.with(|known| {
            let of = known.objects.iter().filter(|((kind, ..), _)| kind == path);
            of.map(|(_, object)| object.clone()).collect()
        })
    }

    pub(super) fn absent(&self, path: &str, absent: bool) {
        self.with(|known| match absent {
            true => known.absent.insert(path.to_owned()),
            false => known.absent.remove(path),
        });
    }

    pub(super) fn when(&self, method: &'static str, words: &str, fault: super::Fault) {
        self.with(|known| known.faults.push_back((method, words.to_owned(), fault)));
    }

    pub(super) fn page(&self, size: usize) {
        self.with(|known| known.page = Some(size));
    }

    /// Breaks every watch in the middle, as a server that is killed does.
    pub(super) fn cut(&self) {
        self.events.send_modify(|events| events.1 += 1);
    }

    /// Everything older than now is forgotten; watches from there are told so.
    pub(super) fn forget(&self) {
        self.with(|known| known.forgotten = known.version);
    }

    /// Every watch of a kind is sent a bookmark, with an object as the real server writes it.
    pub(super) fn bookmark(&self, path: &str, mut object: Value) {
        self.with(|known| {
            object["metadata"]["resourceVersion"] = known.version.to_string().into();
            let line = json!({"type": "BOOKMARK", "object": object}).to_string();
            known.history.push((known.version, path.to_owned(), line));
            self.events.send_modify(|events| events.0 += 1);
        });
    }

    pub(super) fn fault(&self, method: &str, path: &str) -> Option<super::Fault> {
        self.with(|known| {
            let at = known
                .faults
                .iter()
                .position(|(of, words, _)| *of == method && path.contains(words.as_str()))?;
            known.faults.remove(at).map(|(.., fault)| fault)
        })
    }

    /// The answer, if the path is one of objects.
    pub(super) fn answer(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        content: &str,
        body: &[u8],
    ) -> Option<Response<Body>> {
        if *method == Method::GET
            && let Some(answer) = super::discovery::answer(path, &self.all(DEFINITIONS))
        {
            let is_absent =
                |known: &mut Known| known.absent.iter().any(|it| it.starts_with(&format!("{path}/")));
            // A group of which a kind is missing is missing as a whole.
            if !self.with(is_absent) {
                return Some(answer);
            }
        }
        let asked = asked(path)?;
        if self.with(|known| known.absent.contains(&asked.kind)) {
            // Plain text, as for every path that nobody serves.
            return Some(super::plain(404, "404 page not found\n"));
        }
        let value = |name: &str| {
            query.split('&').find_map(|it| it.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        let watches = value("watch").as_deref() == Some("true");
        let body: Value = super::protobuf::secret(body)
            .unwrap_or_else(|| serde_json::from_slice(body).unwrap_or(Value::Null));
        let labels = value("labelSelector").map(|it| decoded(&it));
        Some(match (method, &asked.name) {
            (&Method::GET, None) if watches => {
                self.watch(asked.kind, value("resourceVersion").and_then(|it| it.parse().ok()).unwrap_or(0))
            }
            (&Method::GET, None) => {
                let named = value("fieldSelector")
                    .and_then(|it| it.strip_prefix("metadata.name%3D").map(str::to_owned));
                let asked = Asked { name: named, ..asked };
                self.list(&asked, labels.as_deref(), value("limit"), value("continue"))
            }
            (&Method::GET, Some(_)) => match self.with(|known| known.objects.get(&asked.id()).cloned()) {
                Some(found) => object(200, &found),
                None => status(404, &format!("{} not found", asked.kind)),
            },
            (&Method::POST, None) => self.create(&asked, body),
            (&Method::DELETE, Some(_)) => self.delete(&asked),
            (&Method::PATCH, Some(_)) if content.starts_with("application/apply-patch+yaml") => {
                self.apply(&asked, body)
            }
            (&Method::PATCH, Some(_)) if asked.sub.is_none() && content.contains("merge-patch+json") => {
                let patched = |mut present: Value| {
                    merge(&mut present, &body);
                    present
                };
                self.write(&asked, patched, &json!({}))
            }
            (&Method::PUT, Some(_)) => self.write(&asked, |_| body.clone(), &body),
            (&Method::PATCH, Some(_)) => {
                if asked.sub.as_deref() != Some("status") {
                    return Some(self.patch(&asked, &body));
                }
                let patched = |mut present: Value| {
                    let mut status = present.get("status").cloned().unwrap_or_else(|| json!({}));
                    merge(&mut status, &body["status"]);
                    present["status"] = status;
                    present
                };
                self.write(&asked, patched, &body)
            }
            _ => status(405, "the server does not allow this method on the requested resource"),
        })
    }

    /// A JSON patch.
    fn patch(&self, asked: &Asked, body: &Value) -> Response<Body> {
        let operations = body.as_array().expect("a JSON patch is a list");
        let patched = |mut present: Value| {
            for operation in operations {
                let path = operation["path"].as_str().expect("a path");
                let value = &operation["value"];
                if operation["op"] == "test" {
                    assert_eq!(present.pointer(path), Some(value), "a test operation");
                    continue;
                }
                let (parent, last) = path.rsplit_once('/').expect("a path");
                let parent = present.pointer_mut(parent).expect("a parent that is there");
                parent[last.replace("~1", "/")] = value.clone();
            }
            present
        };
        self.write(asked, patched, &Value::Null)
    }

    fn list(
        &self,
        asked: &Asked,
        labels: Option<&str>,
        limit: Option<String>,
        from: Option<String>,
    ) -> Response<Body> {
        self.with(|known| {
            let mut token = from.as_deref().unwrap_or("0-0").split('-');
            let mut number = || token.next().and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
            let (version, start) = (number(), usize::try_from(number()).expect("a place"));
            if from.is_some() && version < known.forgotten {
                return status(
                    410,
                    "The provided continue parameter is too old to display a consistent list result.",
                );
            }
            let all = known.objects.iter().filter(|((kind, namespace, _), _)| {
                *kind == asked.kind && asked.namespace.as_ref().is_none_or(|it| it == namespace)
            });
            let all = all.filter(|((_, _, name), object)| {
                asked.name.as_ref().is_none_or(|it| it == name)
                    && labels.is_none_or(|labels| selects(labels, object))
            });
            let all: Vec<&Value> = all.map(|(_, object)| object).collect();
            let limit = known.page.or_else(|| limit.and_then(|it| it.parse().ok())).unwrap_or(usize::MAX);
            let end = start.saturating_add(limit).min(all.len());
            let items = all.get(start..end).unwrap_or_default();
            let mut metadata = json!({"resourceVersion": known.version.to_string()});
            if end < all.len() {
                metadata["continue"] = format!("{}-{end}", known.version).into();
            }
            // Go writes no items as null.
            let items = if items.is_empty() { Value::Null } else { json!(items) };
            // Typed clients take a list of their own kind only.
            let of = all.first().and_then(|it| it["kind"].as_str()).unwrap_or_default();
            let kind = format!("{of}List");
            object(200, &json!({"kind": kind, "apiVersion": "v1", "metadata": metadata, "items": items}))
        })
    }

    fn create(&self, asked: &Asked, mut body: Value) -> Response<Body> {
        if let Some(namespace) = &asked.namespace {
            body["metadata"]["namespace"] = namespace.as_str().into();
        }
        let id = id_of(&body);
        super::discovery::looked_after(&mut body);
        self.with(|known| {
            let uid = format!("uid-{}-{}", id.2, known.version);
            body["metadata"].as_object_mut().expect("metadata").entry("uid").or_insert(uid.into());
            if known.objects.contains_key(&id) {
                return status(409, &format!("{} \"{}\" already exists", id.0, id.2));
            }
            self.happened(known, "ADDED", &id, body);
            object(201, known.objects.get(&id).expect("just made"))
        })
    }

    /// As the server does with what one owner says of all its fields: what is not there is made.
    fn apply(&self, asked: &Asked, body: Value) -> Response<Body> {
        let id = asked.id();
        match self.with(|known| known.objects.contains_key(&id)) {
            false => self.create(asked, body),
            true => {
                let applied = |mut present: Value| {
                    merge(&mut present, &body);
                    super::discovery::looked_after(&mut present);
                    present
                };
                self.write(asked, applied, &body)
            }
        }
    }

    fn delete(&self, asked: &Asked) -> Response<Body> {
        let id = asked.id();
        self.with(|known| match known.objects.get(&id).cloned() {
            None => status(404, &format!("{} \"{}\" not found", id.0, id.2)),
            Some(gone) => {
                // What a definition defines goes with it.
                let of = gone["spec"]["names"]["plural"].as_str().filter(|_| id.0 == DEFINITIONS);
                let ends = of.map(|plural| (gone["spec"]["group"].clone(), format!("/{plural}")));
                if let Some((group, plural)) = ends {
                    let group = format!("/apis/{}/", group.as_str().expect("a group"));
                    let with_it = |(kind, ..): &&Id| kind.starts_with(&group) && kind.ends_with(&plural);
                    let all: Vec<Id> = known.objects.keys().filter(with_it).cloned().collect();
                    all.iter().for_each(|id| drop(known.objects.remove(id)));
                }
                self.happened(known, "DELETED", &id, gone);
                object(
                    200,
                    &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
                )
            }
        })
    }

    fn write(&self, asked: &Asked, change: impl FnOnce(Value) -> Value, body: &Value) -> Response<Body> {
        let id = asked.id();
        self.with(|known| {
            let Some(present) = known.objects.get(&id).cloned() else {
                return status(404, &format!("{} \"{}\" not found", id.0, id.2));
            };
            let wanted = &body["metadata"]["resourceVersion"];
            if !wanted.is_null() && *wanted != present["metadata"]["resourceVersion"] {
                return status(
                    409,
                    "the object has been modified; please apply your changes to the latest version",
                );
            }
            let mut changed = change(present.clone());
            changed["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"].clone();
            if present["immutable"] == true && changed["data"] != present["data"] {
                return status(422, "data: Forbidden: field is immutable when `immutable` is set");
            }
            if changed != present {
                self.happened(known, "MODIFIED", &id, changed);
            }
            object(200, known.objects.get(&id).expect("still there"))
        })
    }

    fn watch(&self, kind: String, from: u64) -> Response<Body> {
        if self.with(|known| from < known.forgotten) {
            let gone = json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410,
                              "reason": "Expired", "message": format!("too old resource version: {from} (9)")}});
            return super::plain(200, &format!("{gone}\n"));
        }
        let place =
            self.with(|known| known.history.iter().take_while(|(version, ..)| *version <= from).count());
        let mut events = self.events.subscribe();
        let cuts = events.borrow_and_update().1;
        let known = Arc::clone(&self.known);
        let lines = stream::unfold((place, events), move |(mut place, mut events)| {
            let (known, kind) = (Arc::clone(&known), kind.clone());
            async move {
                loop {
                    if events.borrow_and_update().1 != cuts {
                        return Some((Err(std::io::Error::other("cut")), (usize::MAX, events)));
                    }
                    let line = {
                        let known = known.lock().unwrap_or_else(PoisonError::into_inner);
                        let mut found = None;
                        while let Some((_, of, line)) = known.history.get(place) {
                            place += 1;
                            if *of == kind {
                                found = Some(line.clone());
                                break;
                            }
                        }
                        found
                    };
                    if let Some(line) = line {
                        return Some((Ok(Frame::data(Bytes::from(line + "\n"))), (place, events)));
                    }
                    if events.changed().await.is_err() {
                        return None;
                    }
                }
            }
        });
        Response::new(BodyExt::boxed(StreamBody::new(SyncLines(Mutex::new(Box::pin(lines))))))
    }
}

impl Asked {
    fn id(&self) -> Id {
        (self.kind.clone(), self.namespace.clone().unwrap_or_default(), self.name.clone().unwrap_or_default())
    }
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Percent signs of a query.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at(2);
        plain.push(char::from(u8::from_str_radix(code, 16).expect("two digits")));
        plain.push_str(rest);
    }
    plain
}

/// Whether a selector (`a=b,c!=d,e in (f,g)`, as far as clients of the tests write it) means an object.
fn selects(selector: &str, object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    selector.split(',').filter(|part| !part.is_empty()).all(|part| match part.split_once('=') {
        Some((name, value)) => match name.strip_suffix('!') {
            Some(name) => labels[name] != value,
            None => labels[name] == value.trim_start_matches('='),
        },
        None => !labels[part].is_null(),
    })
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(target.as_object_mut().expect("an object").remove(name)),
            value => merge(&mut target[name], value),
        }
    }
}
