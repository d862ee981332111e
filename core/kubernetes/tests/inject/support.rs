use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Value, json};
use signet_kubernetes::inject::review::{Answer, answer};
use signet_kubernetes::inject::{Injected, Namespace, Outcome, ProbeKey, Redirect, Settings, inject};

pub(crate) fn settings() -> Settings {
    let settings: Settings = serde_json::from_value(json!({
        "image": "registry.example.com/signet-sidecar:1",
        "redirectImage": "registry.example.com/signet-redirect:1",
        "bootstrapAddress": "signet-control-plane.signet-system.svc:8443",
        "meshAddress": "signet-control-plane.signet-system.svc:8444",
        "controlPlane": "spiffe://example.com/ns/signet-system/sa/signet-control-plane",
    }))
    .expect("settings");
    settings.check().expect("good settings");
    settings
}

/// Where the agent of the node redirects.
pub(crate) fn by_agent() -> Settings {
    Settings { redirect: Redirect::Cni, ..settings() }
}

pub(crate) fn key() -> ProbeKey {
    ProbeKey::new(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)
}

pub(crate) fn namespace() -> Namespace {
    Namespace { name: "shop".to_owned(), injects: true }
}

pub(crate) fn data(folder: &str) -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/admission").join(folder);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("recordings").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    let named = |file: PathBuf| {
        let text = std::fs::read(&file).expect("a recording");
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        (name.trim_end_matches(".json").to_owned(), serde_json::from_slice(&text).expect("JSON"))
    };
    files.into_iter().map(named).collect()
}

/// Reviews that the server sent.
pub(crate) fn reviews() -> Vec<(String, Value)> {
    data("requests").into_iter().filter(|(_, review)| review.get("request").is_some()).collect()
}

/// Pods that the server asked about when they were made.
pub(crate) fn pods() -> Vec<(String, Value)> {
    let created = reviews().into_iter().filter(|(_, review)| review["request"]["operation"] == "CREATE");
    created.map(|(name, review)| (name, review["request"]["object"].clone())).collect()
}

pub(crate) fn pod(name: &str) -> Value {
    pods().into_iter().find(|(known, _)| known == name).expect("recorded").1
}

pub(crate) fn injected(pod: &Value) -> Injected {
    match inject(pod, &namespace(), &settings(), &key()) {
        Outcome::Injected(done) => *done,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn refusal(pod: &Value) -> String {
    match inject(pod, &namespace(), &settings(), &key()) {
        Outcome::Refused(refusal) => refusal.to_string(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn skipped(pod: &Value) -> Option<&'static str> {
    match inject(pod, &namespace(), &settings(), &key()) {
        Outcome::Skipped(skip) => Some(skip.label()),
        _ => None,
    }
}

pub(crate) fn answered(review: &Value) -> Value {
    answered_by(review, &settings())
}

pub(crate) fn answered_by(review: &Value, settings: &Settings) -> Value {
    match answer(review.to_string().as_bytes(), settings, &key()) {
        Answer::Review { body, .. } => body,
        Answer::NoReview(text) => panic!("{text}"),
    }
}

pub(crate) fn patch_of(answer: &Value) -> Option<Vec<Value>> {
    let text = answer["response"]["patch"].as_str()?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    Some(serde_json::from_slice(&bytes).expect("a patch"))
}

/// Applies a patch as the API server does: a parent must be there, and what is removed too; a null is not there.
pub(crate) fn apply(document: &mut Value, operations: &[Value]) -> Result<(), String> {
    for operation in operations {
        let path = operation["path"].as_str().ok_or("no path")?;
        let (parent, last) = path.rsplit_once('/').ok_or("the document itself")?;
        let last = last.replace("~1", "/").replace("~0", "~");
        let value = operation.get("value").cloned();
        let holder = document.pointer_mut(parent).ok_or(format!("{parent} is missing"))?;
        match (operation["op"].as_str(), holder) {
            (Some("add" | "replace"), Value::Object(map)) => {
                map.insert(last, value.ok_or("no value")?);
            }
            (Some("remove"), Value::Object(map)) => {
                map.remove(&last).ok_or(format!("{path} is missing"))?;
            }
            (Some("add"), Value::Array(list)) => {
                let at = if last == "-" { list.len() } else { last.parse().map_err(|_| "no index")? };
                if at > list.len() {
                    return Err(format!("{path} is beyond the list"));
                }
                list.insert(at, value.ok_or("no value")?);
            }
            (Some("replace"), Value::Array(list)) => {
                let at: usize = last.parse().map_err(|_| "no index")?;
                *list.get_mut(at).ok_or("beyond")? = value.ok_or("no value")?;
            }
            (Some("remove"), Value::Array(list)) => {
                let at: usize = last.parse().map_err(|_| "no index")?;
                if at >= list.len() {
                    return Err(format!("{path} is missing"));
                }
                list.remove(at);
            }
            (op, holder) => return Err(format!("{op:?} at {path} in {holder}")),
        }
    }
    Ok(())
}

/// Whether our sidecar is in it.
pub(crate) fn is_injected(pod: &Value) -> bool {
    let all = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    all.into_iter().any(|container| container["name"] == "signet-proxy")
}
