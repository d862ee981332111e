//! Probes of the kubelet, which has no identity in the mesh: they go to the sidecar's probe port, which asks the app.
//!
//! Each declared handler gets an index in a table of the sidecar's configuration; what is not in there is never asked. Hooks by
//! HTTP go the same way. What runs a command in the container is left alone, and so is what names a host, because the kubelet dials
//! that from the node, and a port that callers reach directly.

use serde_json::{Map, Value, json};

use super::annotations::Wishes;
use super::parts::PROBE_PORT;
use super::refusal::Refusal;
use super::{ORIGINALS, ProbeKey, is_ours, meta, name};

/// Where handlers are in a container.
const PLACES: [&[&str]; 5] = [
    &["livenessProbe"],
    &["readinessProbe"],
    &["startupProbe"],
    &["lifecycle", "postStart"],
    &["lifecycle", "preStop"],
];
/// The kinds of handlers that come by the network.
const KINDS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];
/// A pod's grace when it says none.
const GRACE: u64 = 30;

/// What became of the pod's probes.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    /// The table, in the order of its indices.
    pub(super) declared: Vec<Value>,
    /// The handlers as they were, by container and place.
    pub(super) originals: Map<String, Value>,
    pub(super) warnings: Vec<String>,
}

/// Leads the probes to the sidecar.
pub(super) fn rewrite(pod: &mut Value, wishes: &Wishes, key: &ProbeKey) -> Rewritten {
    let mut done = Rewritten::default();
    if wishes.leave_probes {
        return done;
    }
    let grace = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(GRACE);
    for container in containers(pod) {
        for place in PLACES {
            let seconds = match place {
                ["lifecycle", ..] => grace.clamp(1, 3600),
                _ => handler(container, place)
                    .and_then(|probe| probe.get("timeoutSeconds"))
                    .and_then(Value::as_u64)
                    .unwrap_or(1)
                    .clamp(1, 3600),
            };
            let at = format!("{}/{}", called(container), place.join("/"));
            let declared = match handler(container, place).map(|found| declare(container, found)) {
                Some(Found::Network { port, entry }) if !wishes.is_direct(port) => entry,
                Some(Found::Lost(why)) => {
                    done.warnings.push(format!("signet: the probe {at} stays as it is: {why}"));
                    continue;
                }
                _ => continue,
            };
            let Some(found) = handler_mut(container, place) else { continue };
            let mut original = Map::new();
            for kind in KINDS {
                if let Some(before) = found.remove(kind) {
                    original.insert(kind.to_owned(), before);
                }
            }
            let path = format!("/probe/{}/{}", key.0, done.declared.len());
            found.insert("httpGet".to_owned(), json!({"path": path, "port": PROBE_PORT, "scheme": "HTTP"}));
            let mut entry = declared;
            entry.insert("timeoutSeconds".to_owned(), seconds.into());
            done.declared.push(Value::Object(entry));
            done.originals.insert(at, Value::Object(original));
        }
    }
    done
}

/// Puts back the handlers of an earlier injection.
pub(super) fn restore(pod: &mut Value) -> Result<(), Refusal> {
    let originals = meta(pod, "annotations", ORIGINALS).and_then(|text| serde_json::from_str(text).ok());
    let originals: Map<String, Value> = originals.unwrap_or_default();
    for container in containers(pod) {
        for place in PLACES {
            let at = format!("{}/{}", called(container), place.join("/"));
            let Some(found) = handler_mut(container, place) else { continue };
            if !found.get("httpGet").is_some_and(leads_here) {
                continue;
            }
            let original = originals.get(&at).and_then(Value::as_object);
            let original =
                original.filter(|map| !map.is_empty() && map.keys().all(|key| KINDS.contains(&key.as_str())));
            let Some(original) = original.cloned() else { return Err(Refusal::ProbeLost(at)) };
            found.remove("httpGet");
            found.extend(original);
        }
    }
    Ok(())
}

fn leads_here(http: &Value) -> bool {
    let path = http.get("path").and_then(Value::as_str).unwrap_or_default();
    http.get("port").and_then(Value::as_u64) == Some(u64::from(PROBE_PORT)) && path.starts_with("/probe/")
}

fn containers(pod: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut);
    let lists = spec.into_iter().flat_map(|spec| spec.iter_mut());
    let lists = lists.filter(|(field, _)| matches!(field.as_str(), "containers" | "initContainers"));
    let all = lists.filter_map(|(_, list)| list.as_array_mut()).flatten();
    all.filter(|container| !is_ours(container)).filter_map(Value::as_object_mut)
}

fn called(container: &Map<String, Value>) -> &str {
    container.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn handler<'a>(container: &'a Map<String, Value>, place: &[&str]) -> Option<&'a Map<String, Value>> {
    let (first, rest) = place.split_first()?;
    let found = rest.iter().try_fold(container.get(*first)?, |value, part| value.get(*part))?;
    found.as_object()
}

fn handler_mut<'a>(
    container: &'a mut Map<String, Value>,
    place: &[&str],
) -> Option<&'a mut Map<String, Value>> {
    let (first, rest) = place.split_first()?;
    let found = rest.iter().try_fold(container.get_mut(*first)?, |value, part| value.get_mut(*part))?;
    found.as_object_mut()
}

enum Found {
    /// What the sidecar is told.
    Network {
        port: u16,
        entry: Map<String, Value>,
    },
    /// Not by the network, or not to the pod.
    Elsewhere,
    Lost(String),
}

fn declare(container: &Map<String, Value>, found: &Map<String, Value>) -> Found {
    let Some((kind, handler)) = KINDS.iter().find_map(|kind| Some((*kind, found.get(*kind)?.as_object()?)))
    else {
        return Found::Elsewhere;
    };
    let text = |field: &str| handler.get(field).and_then(Value::as_str).unwrap_or_default();
    if !text("host").is_empty() {
        return Found::Elsewhere;
    }
    let Some(port) = port(container, handler.get("port")) else {
        let got = handler.get("port").map_or_else(|| "nothing".to_owned(), Value::to_string);
        return Found::Lost(format!("expected a port of the container, got {got}"));
    };
    if kind == "httpGet" && leads_here(&Value::Object(handler.clone())) {
        return Found::Elsewhere;
    }
    let asked = match kind {
        "httpGet" => {
            let path = if text("path").is_empty() { "/" } else { text("path") };
            let headers = handler.get("httpHeaders").filter(|headers| headers.is_array());
            json!({"http": {
                "port": port,
                "path": if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
                "https": text("scheme") == "HTTPS",
                "headers": headers.cloned().unwrap_or_else(|| json!([])),
            }})
        }
        "tcpSocket" => json!({"tcp": {"port": port}}),
        _ => json!({"grpc": {"port": port, "service": text("service")}}),
    };
    match asked {
        Value::Object(entry) => Found::Network { port, entry },
        _ => Found::Elsewhere,
    }
}

/// A number, a number as text, or the name of a port of this container.
fn port(container: &Map<String, Value>, wanted: Option<&Value>) -> Option<u16> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    let wanted = wanted?;
    let found = number(wanted).or_else(|| {
        let wanted = wanted.as_str()?;
        let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
        let mut named = ports.filter(|port| name(port) == wanted);
        named.next().map_or_else(|| wanted.parse().ok(), |port| number(port.get("containerPort")?))
    });
    found.filter(|port| *port != 0)
}
