//! Metrics of the app, for a Prometheus that has no identity in the mesh.
//!
//! A pod says by the annotations `prometheus.io/scrape`, `port` and `path` where its metrics are. Its ports are strict, so the
//! sidecar asks there, beside its own metrics, and the annotations lead to it. What they were before stands in an annotation
//! of ours.

use serde_json::{Map, Value};

use super::annotations::{AppMetrics, Wishes};
use super::parts::{OUR_PORTS, READY_PORT};
use super::{ORIGINAL_SCRAPE, list, meta, object};

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";
/// All of them.
const NAMES: [&str; 4] = [SCRAPE, PORT, PATH, SCHEME];
/// Where metrics are when nobody says otherwise, the sidecar's own included.
pub(super) const USUAL: &str = "/metrics";
/// As the sidecar takes it.
const MAX_PATH: usize = 1024;

/// What the sidecar asks, and what its owner should know.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) app: Option<(u16, String)>,
    pub(super) warnings: Vec<String>,
}

/// Leads Prometheus to the sidecar, and the sidecar to the app.
pub(super) fn take(pod: &mut Value, wishes: &Wishes) -> Taken {
    match &wishes.app_metrics {
        // Whoever says where asks nobody to be led anywhere: a PodMonitor finds the sidecar's port by its name.
        Some(AppMetrics::At(port, path)) => Taken { app: Some((*port, path.clone())), warnings: Vec::new() },
        Some(AppMetrics::Disabled) => Taken::default(),
        None => annotated(pod, wishes),
    }
}

fn annotated(pod: &mut Value, wishes: &Wishes) -> Taken {
    let said = |name| meta(pod, "annotations", name).map(str::trim);
    if said(SCRAPE) != Some("true") {
        return Taken::default();
    }
    let lost = |why: String| {
        let warning = format!(
            "signet: the app's metrics are not taken over, and refused to whoever asks for them in plaintext: {why}"
        );
        Taken { app: None, warnings: vec![warning] }
    };
    if said(SCHEME).is_some_and(|scheme| !scheme.eq_ignore_ascii_case("http")) {
        return lost(format!("{SCHEME}: expected http, got {:?}", said(SCHEME).unwrap_or_default()));
    }
    let port = match said(PORT) {
        Some(text) => text.parse().ok().filter(|port| *port != 0),
        None => only_port(pod),
    };
    let Some(port) = port else {
        let got = said(PORT).map_or_else(
            || "none, and not one port of the containers".to_owned(),
            |text| format!("{text:?}"),
        );
        return lost(format!("{PORT}: expected a port, got {got}"));
    };
    // Somebody wants the sidecar's alone, or callers reach the port as it is.
    if OUR_PORTS.contains(&port) || wishes.is_direct(port) {
        return Taken::default();
    }
    let path = said(PATH).filter(|path| !path.is_empty()).unwrap_or(USUAL);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if !is_path(&path) {
        return lost(format!("{PATH}: expected a path of at most {MAX_PATH} bytes, got {:?}", cut(&path)));
    }
    let metadata = pod.as_object_mut().and_then(|pod| object(pod, "metadata"));
    let Some(annotations) = metadata.and_then(|metadata| object(metadata, "annotations")) else {
        return Taken::default();
    };
    let mut originals = Map::new();
    for name in NAMES {
        if let Some(before) = annotations.remove(name) {
            originals.insert(name.to_owned(), before);
        }
    }
    for (name, value) in [(SCRAPE, "true"), (PORT, READY_PORT.to_string().as_str()), (PATH, USUAL)] {
        annotations.insert(name.to_owned(), value.into());
    }
    annotations.insert(ORIGINAL_SCRAPE.to_owned(), Value::Object(originals).to_string().into());
    Taken { app: Some((port, path)), warnings: Vec::new() }
}

/// Puts back the annotations of an earlier injection. Where somebody has changed them since, that stands.
pub(super) fn restore(pod: &mut Value) {
    let originals =
        meta(pod, "annotations", ORIGINAL_SCRAPE).and_then(|text| serde_json::from_str(text).ok());
    let Some(originals) = originals else { return };
    let originals: Map<String, Value> = originals;
    let ours = meta(pod, "annotations", PORT) == Some(READY_PORT.to_string().as_str());
    let annotations = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let Some(annotations) = annotations.filter(|_| ours) else { return };
    for name in NAMES {
        annotations.remove(name);
        if let Some(before) = originals.get(name).filter(|before| before.is_string()) {
            annotations.insert(name.to_owned(), before.clone());
        }
    }
}

/// The one port that the pod's own containers declare, if it is one.
fn only_port(pod: &Value) -> Option<u16> {
    let containers = list(pod, "containers").iter();
    let ports = containers.filter_map(|container| container.get("ports")?.as_array()).flatten();
    let is_tcp = |port: &&Value| port.get("protocol").is_none_or(|protocol| protocol == "TCP");
    let mut ports = ports.filter(is_tcp).filter_map(|port| port.get("containerPort")?.as_u64());
    let only = ports.next().filter(|_| ports.next().is_none())?;
    u16::try_from(only).ok().filter(|port| *port != 0)
}

/// Whether the sidecar can ask for it.
pub(super) fn is_path(text: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_graphic()
            && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    };
    text.starts_with('/') && text.len() <= MAX_PATH && text.bytes().all(plain)
}

fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}
