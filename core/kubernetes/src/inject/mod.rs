//! What is added to a pod so that it is one of the mesh.
//!
//! [`inject()`] is a pure function of a pod, its namespace and the mesh's settings. It takes away whatever an earlier
//! injection left, and puts in place what these settings say; so a pod that is as it should be gets no patch, and one that was
//! changed or half undone is mended. Everything else in the pod stays as it is, fields that nobody here knows of too. It
//! either injects, or leaves the pod alone and says why, or refuses it and says why: a pod that would run beside its sidecar
//! without being governed by it is never let through.
//!
//! The order inside a pod: the redirection first, the sidecar right after it, then the pod's own init containers, so that
//! none of those can speak past the sidecar, and none is cut off. Where the CNI agent of the node redirects, the first is a
//! container that proves it, and that has no capabilities: the pod goes no further until it is so.

pub mod annotations;
mod parts;
pub mod patch;
mod probes;
mod refusal;
pub mod review;
mod scrape;
mod settings;
mod strip;
mod switch;
pub mod template;

use serde_json::{Map, Value};

use self::annotations::Wishes;
pub use self::parts::{PROBE_PORT, READY_PORT};
pub use self::patch::Operation;
pub use self::refusal::{Refusal, forbids_debugging, member};
pub use self::settings::{Redirect, Settings, SettingsError};
pub use self::switch::{Namespace, Skip};

/// The name of the sidecar's container.
pub const SIDECAR: &str = "signet-proxy";
/// The name of the container that sets the redirection up.
pub const REDIRECT: &str = "signet-redirect";
/// The name of the one that is there instead where the CNI agent does: it proves that the redirection is in force.
pub const CHECK: &str = "signet-check";
/// Says that a pod was injected.
pub const INJECTED: &str = "signet.mesh/injected";
/// The sidecar's configuration; the pod's own volume makes a file of it.
pub const CONFIG: &str = "signet.mesh/sidecar-config";
/// The handlers of probes and hooks as they were before.
pub const ORIGINALS: &str = "signet.mesh/original-probes";
/// Where the app's metrics were before.
pub const ORIGINAL_SCRAPE: &str = "signet.mesh/original-scrape";

/// 128 bits in hexadecimal that the caller drew, by which the kubelet is told from whoever else asks the probe port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeKey(String);

impl ProbeKey {
    /// Of random bytes.
    #[must_use]
    pub fn new(bytes: u128) -> Self {
        Self(format!("{bytes:032x}"))
    }

    /// As text that came from a pod; none unless it is one.
    fn read(text: &str) -> Option<Self> {
        let hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        (text.len() == 32 && hex).then(|| Self(text.to_owned()))
    }
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is one of the mesh.
    Injected(Box<Injected>),
    /// It is left alone.
    Skipped(Skip),
    /// It must not run like this.
    Refused(Refusal),
}

/// A pod of the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Injected {
    /// The whole pod.
    pub pod: Value,
    /// What makes it of the pod that came; empty where that was as it should be.
    pub patch: Vec<Operation>,
    /// What its owner should know.
    pub warnings: Vec<String>,
}

/// Makes a pod one of the mesh.
///
/// `pod` is an object with `metadata` and `spec`, as a `Pod` or the template of a workload has them. `key` is used unless
/// the pod has one from an earlier injection.
#[must_use]
pub fn inject(pod: &Value, namespace: &Namespace, settings: &Settings, key: &ProbeKey) -> Outcome {
    match attempt(pod, namespace, settings, key) {
        Ok(injected) => Outcome::Injected(Box::new(injected)),
        Err(Not::Wanted(skip)) => Outcome::Skipped(skip),
        Err(Not::Possible(refusal)) => Outcome::Refused(refusal),
    }
}

enum Not {
    Wanted(Skip),
    Possible(Refusal),
}

impl From<Refusal> for Not {
    fn from(refusal: Refusal) -> Self {
        Self::Possible(refusal)
    }
}

fn attempt(pod: &Value, namespace: &Namespace, settings: &Settings, key: &ProbeKey) -> Result<Injected, Not> {
    refusal::shape(pod)?;
    if let Some(skip) = switch::skip(pod, namespace, settings)? {
        return Err(Not::Wanted(skip));
    }
    let mut made = pod.clone();
    let kept = strip::key(&made);
    strip::strip(&mut made)?;
    let (wishes, mut warnings) = Wishes::read(&made)?;
    refusal::check(&made, settings)?;
    warnings.extend(refusal::warnings(&made));
    let key = kept.unwrap_or_else(|| key.clone());
    let probes = probes::rewrite(&mut made, &wishes, &key);
    warnings.extend(probes.warnings.iter().cloned());
    let scraped = scrape::take(&mut made, &wishes);
    warnings.extend(scraped.warnings.iter().cloned());
    let redirect = wishes.redirect.unwrap_or(settings.redirect_in(&namespace.name));
    parts::add(&mut made, settings, &wishes, redirect, &key, &probes, &scraped);
    parts::keep_order(&mut made, pod);
    let patch = patch::diff(pod, &made);
    Ok(Injected { pod: made, patch, warnings })
}

/// The command of the container that proves the redirection, without the program's name: what its pod is to be redirected by.
/// None: the pod is not redirected by the CNI agent. Empty: it is, and nobody can say how. A pod's containers cannot be changed,
/// but for their images.
#[must_use]
pub fn redirected_by_agent(pod: &Value) -> Option<Vec<&str>> {
    let check = list(pod, "initContainers").iter().find(|container| name(container) == CHECK)?;
    let words = check.get("command").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let words: Option<Vec<&str>> = words.iter().skip(1).map(Value::as_str).collect();
    Some(words.unwrap_or_default())
}

/// Gives back what a pod was before it was injected; one that never was comes back as it is.
///
/// # Errors
/// [`Refusal`]: it is no pod, or what it was before cannot be known.
pub fn uninject(pod: &Value) -> Result<Value, Refusal> {
    refusal::shape(pod)?;
    let mut made = pod.clone();
    strip::strip(&mut made)?;
    Ok(made)
}

/// A list of a pod's spec; nothing where there is none, or null.
fn list<'a>(pod: &'a Value, field: &str) -> &'a [Value] {
    pod.pointer("/spec").and_then(|spec| spec.get(field)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Containers that are the pod's own, of every kind.
fn own_containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let all = ["initContainers", "containers", "ephemeralContainers"];
    all.into_iter().flat_map(|field| list(pod, field)).filter(|container| !is_ours(container))
}

fn is_ours(container: &Value) -> bool {
    matches!(name(container), SIDECAR | REDIRECT | CHECK)
}

fn name(object: &Value) -> &str {
    object.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// An annotation or a label.
fn meta<'a>(pod: &'a Value, map: &str, name: &str) -> Option<&'a str> {
    pod.get("metadata")?.get(map)?.get(name)?.as_str()
}

/// The object at this key, made where there is none.
fn object<'a>(parent: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    let value = parent.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut()
}
