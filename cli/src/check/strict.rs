//! `--strict-ready`: which ports let plaintext in, until when, and who still comes so.
//!
//! Who came is what sidecars log of the first connection from each address (`signet::plaintext`); an address is a pod or
//! a node where one has it. A sidecar that was restarted has forgotten those before, which is said.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use signet_kubernetes::inject::{READY_PORT, SIDECAR};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Level, Report, items, name_of, text};
use crate::cluster::Kubectl;

const EXCLUDED: &str = "signet.mesh/exclude-inbound-ports";
const METRIC: &str = "signet_plaintext_connections_total";

/// Who came to a port, by address.
type Callers = BTreeMap<(String, String), BTreeSet<String>>;

pub(super) fn look(kubectl: &Kubectl, report: &mut Report) {
    let lists = kubectl.list("/api/v1/pods", "").and_then(|pods| {
        let services = match kubectl.list("/apis/signet.mesh/v1alpha1/services", "") {
            Err(error) if error.is_not_found() => Vec::new(),
            other => other?,
        };
        Ok((pods, services))
    });
    let (pods, services) = match lists {
        Ok(lists) => lists,
        Err(error) => return report.unknown("permissive", "pods and services", &error),
    };
    let nodes = kubectl.list("/api/v1/nodes", "").unwrap_or_default();
    let known = addresses(&pods, &nodes);
    let mut any = false;
    for service in &services {
        let ports: Vec<&Value> =
            items(service, "/spec/ports").filter(|it| it.get("permissive").is_some()).collect();
        if ports.is_empty() {
            continue;
        }
        any = true;
        let namespace = text(service, "/metadata/namespace");
        let members: Vec<&Value> = pods.iter().filter(|pod| is_member(pod, namespace)).collect();
        let (callers, counts, unread) = asked(kubectl, namespace, &members);
        for why in unread {
            report.unknown("permissive", format!("pods of {namespace}"), &why);
        }
        for port in ports {
            let full = format!("{}.{namespace}", text(service, "/metadata/name"));
            one(&full, port, &callers, &counts, &known, report);
        }
    }
    excluded(&pods, report);
    if !any {
        report.ok("permissive", "ports", "none lets plaintext in: every port of the mesh is strict");
    }
}

fn is_member(pod: &Value, namespace: &str) -> bool {
    text(pod, "/metadata/namespace") == namespace
        && items(pod, "/spec/initContainers").any(|it| text(it, "/name") == SIDECAR)
        && text(pod, "/status/phase") == "Running"
}

/// Whose an address is.
fn addresses(pods: &[Value], nodes: &[Value]) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    // A pod on the host's network has its node's address, and a node many of them.
    for pod in pods.iter().filter(|it| it.pointer("/spec/hostNetwork") != Some(&true.into())) {
        for address in items(pod, "/status/podIPs") {
            known.insert(text(address, "/ip").to_owned(), format!("pod {}", name_of(pod)));
        }
    }
    for node in nodes {
        for address in items(node, "/status/addresses") {
            let words = format!("node {} (the kubelet, or a pod on its network)", name_of(node));
            known.insert(text(address, "/address").to_owned(), words);
        }
    }
    known
}

/// What the sidecars of these pods know: who came, how often anybody did, and what could not be read.
fn asked(
    kubectl: &Kubectl,
    namespace: &str,
    members: &[&Value],
) -> (Callers, BTreeMap<(String, String), f64>, Vec<String>) {
    let (mut callers, mut counts, mut unread) = (Callers::new(), BTreeMap::new(), Vec::new());
    for pod in members {
        let name = text(pod, "/metadata/name");
        match kubectl.logs(namespace, name, SIDECAR) {
            Ok(log) => log.lines().filter_map(line).for_each(|(service, port, from)| {
                callers.entry((service, port)).or_default().insert(from);
            }),
            Err(error) => unread.push(format!("the log of {name}: {error}")),
        }
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{READY_PORT}/proxy/metrics");
        // Only a number beside the names, and a cluster may well keep the API server away from pods.
        if let Ok(metrics) = kubectl.get_text(&path) {
            for (key, count) in metrics.lines().filter_map(sample) {
                *counts.entry(key).or_default() += count;
            }
        }
    }
    (callers, counts, unread)
}

/// Service, port and address of a line of the log.
fn line(text: &str) -> Option<(String, String, String)> {
    let line: Value = serde_json::from_str(text).ok()?;
    if line.get("target")?.as_str()? != "signet::plaintext" {
        return None;
    }
    let field = |name: &str| Some(line.get(name)?.as_str()?.to_owned());
    Some((field("service")?, field("port")?, field("from")?))
}

/// `signet_plaintext_connections_total{port="http",service="orders.shop"} 3`
fn sample(line: &str) -> Option<((String, String), f64)> {
    let (labels, count) = line.strip_prefix(METRIC)?.strip_prefix('{')?.split_once("} ")?;
    let of = |name: &str| {
        let found = labels.split(',').find_map(|it| it.strip_prefix(name)?.strip_prefix("=\""));
        Some(found?.trim_end_matches('"').to_owned())
    };
    Some(((of("service")?, of("port")?), count.trim().parse().ok()?))
}

fn one(
    service: &str,
    port: &Value,
    callers: &Callers,
    counts: &BTreeMap<(String, String), f64>,
    known: &BTreeMap<String, String>,
    report: &mut Report,
) {
    let name = text(port, "/name");
    let until = text(port, "/permissive/until");
    let key = (service.to_owned(), name.to_owned());
    let subject = format!("{service}:{name}");
    let ends = OffsetDateTime::parse(until, &Rfc3339).ok();
    let is_over = ends.is_some_and(|ends| ends <= OffsetDateTime::now_utc());
    if is_over {
        let said = format!("strict again since {until}");
        return report.add("permissive", Level::Ok, subject, said, "take `permissive` out of the Service");
    }
    let count = counts.get(&key).map(|count| format!(", {count} connections in all")).unwrap_or_default();
    let Some(came) = callers.get(&key).filter(|came| !came.is_empty()) else {
        let said = format!(
            "lets plaintext in until {until}; nobody came so since its sidecars started{count}: it is ready to be strict"
        );
        return report.ok("permissive", subject, said);
    };
    for address in came {
        let who = known.get(address).cloned().unwrap_or_else(|| "outside the cluster, or gone".into());
        report.add(
            "permissive",
            Level::Failure,
            &subject,
            format!("{address}, {who}, speaks plaintext and would be refused from {until} on{count}"),
            "bring the caller into the mesh, lead it through a gateway, or exclude a port that is for probes alone",
        );
    }
}

/// Ports that no policy ever sees.
fn excluded(pods: &[Value], report: &mut Report) {
    let mut all: BTreeMap<(String, String), usize> = BTreeMap::new();
    for pod in
        pods.iter().filter(|pod| items(pod, "/spec/initContainers").any(|it| text(it, "/name") == SIDECAR))
    {
        let ports =
            pod.pointer("/metadata/annotations").and_then(|it| it.get(EXCLUDED)).and_then(Value::as_str);
        let Some(ports) = ports.filter(|ports| !ports.is_empty()) else { continue };
        let count = all.entry((text(pod, "/metadata/namespace").to_owned(), ports.to_owned())).or_default();
        *count = count.saturating_add(1);
    }
    for ((namespace, ports), count) in all {
        report.add(
            "excluded",
            Level::Warning,
            namespace,
            format!("{count} pods take the ports {ports} past their sidecar, in plaintext and without policy, for ever"),
            format!("the annotation {EXCLUDED}, where it is not needed any more"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_samples_of_sidecars_are_read_as_they_write_them() {
        let logged = r#"{"timestamp":"2026-11-27T00:00:00Z","level":"INFO","message":"a caller","from":"10.0.0.7","service":"orders.shop","port":"http","until":1,"target":"signet::plaintext"}"#;
        assert_eq!(line(logged), Some(("orders.shop".into(), "http".into(), "10.0.0.7".into())));
        assert_eq!(line(&logged.replace("signet::plaintext", "signet::other")), None);
        assert_eq!(line("no JSON"), None);
        let sampled = "signet_plaintext_connections_total{port=\"http\",service=\"orders.shop\"} 3";
        assert_eq!(sample(sampled), Some((("orders.shop".into(), "http".into()), 3.0)));
        assert_eq!(sample("# TYPE signet_plaintext_connections_total counter"), None);
    }
}
