//! Pods and namespaces: who should be in the mesh and is not, whose sidecar is of another version, and whether each
//! namespace has the roots.

use std::collections::BTreeMap;

use serde_json::Value;
use signet_kubernetes::inject::{Namespace, Outcome, ProbeKey, READY_PORT, SIDECAR, Settings, Skip, inject};

use super::{Cluster, Level, Report, items, label, name_of, text};

const INJECT: &str = "signet.mesh/inject";
const REVISION: &str = "signet.mesh/rev";

pub(super) fn look(
    cluster: &Cluster<'_>,
    settings: Option<&Settings>,
    roots: Option<&str>,
    report: &mut Report,
) {
    let Some(settings) = settings else { return };
    let asks: Vec<&Value> = cluster
        .namespaces
        .iter()
        .filter(|it| label(it, INJECT) == Some("enabled"))
        .filter(|it| label(it, REVISION).unwrap_or_default() == settings.revision)
        .collect();
    for odd in cluster
        .namespaces
        .iter()
        .filter(|it| !matches!(label(it, INJECT), None | Some("enabled" | "disabled")))
    {
        report.add(
            "namespaces",
            Level::Warning,
            name_of(odd),
            format!("{INJECT}: {:?} does nothing", label(odd, INJECT).unwrap_or_default()),
            "a namespace is injected with the value `enabled`, and with no other",
        );
    }
    namespaces(cluster, &asks, settings, roots, report);
    members(cluster, &asks, settings, report);
    versions(cluster, settings, report);
}

fn namespaces(
    cluster: &Cluster<'_>,
    asks: &[&Value],
    settings: &Settings,
    roots: Option<&str>,
    report: &mut Report,
) {
    let map = &settings.roots_config_map;
    let mut right = 0_usize;
    for namespace in asks {
        let name = name_of(namespace);
        let hint = "the control plane writes it within half a minute; its log (signet::webhook) says why it does not";
        match cluster.kubectl.find(&format!("/api/v1/namespaces/{name}/configmaps/{map}")) {
            Err(error) => report.unknown("roots", name, &error),
            Ok(None) => {
                let said = format!("no ConfigMap {map}: its pods wait for the roots, and do not start");
                report.add("roots", Level::Failure, name, said, hint);
            }
            Ok(Some(held)) => {
                let held = text(&held, "/data/roots.pem");
                if roots.is_some_and(|roots| roots.trim() != held.trim()) {
                    let said = format!("the ConfigMap {map} has other roots than the webhook's caBundle");
                    report.add("roots", Level::Failure, name, said, hint);
                } else {
                    right = right.saturating_add(1);
                }
            }
        }
    }
    report.ok("roots", "namespaces", format!("{right} of {} that are injected have the roots", asks.len()));
}

fn sidecar(pod: &Value) -> Option<&Value> {
    items(pod, "/spec/initContainers").find(|it| text(it, "/name") == SIDECAR)
}

fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn members(cluster: &Cluster<'_>, asks: &[&Value], settings: &Settings, report: &mut Report) {
    let (mut meshed, mut alone) = (0_usize, BTreeMap::<String, usize>::new());
    for pod in cluster.pods.iter().filter(|pod| !has_ended(pod)) {
        if sidecar(pod).is_some() {
            meshed = meshed.saturating_add(1);
            running(pod, report);
            continue;
        }
        let of = asks.iter().any(|it| text(it, "/metadata/name") == text(pod, "/metadata/namespace"));
        let is_own = matches!(label(pod, INJECT), Some("enabled" | "true"));
        if !(of || is_own) {
            continue;
        }
        let namespace = Namespace { name: text(pod, "/metadata/namespace").to_owned(), injects: of };
        match inject(pod, &namespace, settings, &ProbeKey::new(0)) {
            // By its own word or by the cluster's: it is as somebody wants it.
            Outcome::Skipped(skip @ (Skip::OtherMesh(_) | Skip::HostNetwork)) => {
                let hint = "callers of the mesh do not reach it, and nobody knows who it is";
                report.add("members", Level::Warning, name_of(pod), format!("not in the mesh: {skip}"), hint);
            }
            Outcome::Skipped(skip) => {
                let count = alone.entry(skip.to_string()).or_default();
                *count = count.saturating_add(1);
            }
            Outcome::Refused(refusal) => {
                let said = format!("not in the mesh, and would be refused: {refusal}");
                report.add("members", Level::Failure, name_of(pod), said, "mend the pod's template");
            }
            Outcome::Injected(_) => report.add(
                "members",
                Level::Failure,
                name_of(pod),
                "not in the mesh: it was made before its namespace was labelled, or while no webhook was there",
                "kubectl rollout restart of its workload",
            ),
        }
    }
    report.ok("members", "pods", format!("{meshed} have a sidecar"));
    for (why, count) in alone {
        report.ok("members", "pods", format!("{count} without: {why}"));
    }
}

/// A sidecar that is not ready keeps its app out.
fn running(pod: &Value, report: &mut Report) {
    let status = items(pod, "/status/initContainerStatuses").find(|it| text(it, "/name") == SIDECAR);
    let Some(status) = status else { return };
    if status.get("started") != Some(&false.into()) && status.get("ready") != Some(&false.into()) {
        return;
    }
    let restarts = status.get("restartCount").and_then(Value::as_u64).unwrap_or(0);
    let namespace = text(pod, "/metadata/namespace");
    report.add(
        "members",
        Level::Failure,
        name_of(pod),
        format!("its sidecar is not ready, after {restarts} restarts"),
        format!(
            "kubectl -n {namespace} logs {} -c {SIDECAR}; its port {READY_PORT} says what it waits for",
            text(pod, "/metadata/name")
        ),
    );
}

fn versions(cluster: &Cluster<'_>, settings: &Settings, report: &mut Report) {
    let mut others: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut same = 0_usize;
    for pod in cluster.pods.iter().filter(|pod| !has_ended(pod)) {
        let Some(image) = sidecar(pod).map(|it| text(it, "/image")) else { continue };
        if image == settings.image {
            same = same.saturating_add(1);
            continue;
        }
        let key = (text(pod, "/metadata/namespace").to_owned(), image.to_owned());
        let count = others.entry(key).or_default();
        *count = count.saturating_add(1);
    }
    report.ok("sidecars", "pods", format!("{same} run {}", settings.image));
    for ((namespace, image), count) in others {
        report.add(
            "sidecars",
            Level::Warning,
            &namespace,
            format!("{count} pods run {image}, new ones get {}", settings.image),
            format!("kubectl -n {namespace} rollout restart deployment"),
        );
    }
}
