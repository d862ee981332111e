//! Taking away what an earlier injection added, and nothing else.

use serde_json::{Map, Value};

use super::parts::VOLUMES;
use super::probes;
use super::refusal::Refusal;
use super::scrape;
use super::{CONFIG, INJECTED, ORIGINAL_SCRAPE, ORIGINALS, ProbeKey, is_ours, list, meta, name};

/// The key of an earlier injection.
pub(super) fn key(pod: &Value) -> Option<ProbeKey> {
    let config: Value = serde_json::from_str(meta(pod, "annotations", CONFIG)?).ok()?;
    config.pointer("/probes/key").and_then(Value::as_str).and_then(ProbeKey::read)
}

/// Takes it away. A pod that has nothing of it stays as it is, to the last field.
pub(super) fn strip(pod: &mut Value) -> Result<(), Refusal> {
    mounted(pod)?;
    probes::restore(pod)?;
    scrape::restore(pod);
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    without(spec, "initContainers", is_ours);
    without(spec, "volumes", |volume| VOLUMES.contains(&name(volume)));
    let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) else { return Ok(()) };
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        let before = annotations.len();
        for written in [INJECTED, CONFIG, ORIGINALS, ORIGINAL_SCRAPE] {
            annotations.remove(written);
        }
        if annotations.is_empty() && before > 0 {
            metadata.remove("annotations");
        }
    }
    Ok(())
}

/// That nobody but ours mounts what is ours: it could not be taken away, and must not stay.
fn mounted(pod: &Value) -> Result<(), Refusal> {
    for container in super::own_containers(pod) {
        let mounts = container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
        if let Some(volume) = mounts.map(name).find(|volume| VOLUMES.contains(volume)) {
            return Err(Refusal::Mount(name(container).to_owned(), volume.to_owned()));
        }
    }
    // Among the app's own containers the name would be somebody else's.
    match list(pod, "containers").iter().find(|container| is_ours(container)) {
        Some(container) => Err(Refusal::Name(name(container).to_owned())),
        None => Ok(()),
    }
}

/// A list without some, and no list where only those were in it.
fn without(spec: &mut Map<String, Value>, field: &str, ours: impl Fn(&Value) -> bool) {
    let Some(list) = spec.get_mut(field).and_then(Value::as_array_mut) else { return };
    let before = list.len();
    list.retain(|item| !ours(item));
    if list.is_empty() && before > 0 {
        spec.remove(field);
    }
}
