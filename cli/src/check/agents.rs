//! The CNI agent, on each node where pods are redirected by it: they wait where it is not ready.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use signet_kubernetes::inject::{CHECK, Redirect, Settings};

use super::{Cluster, Level, Report, items, label, planes::is_ready, text};

const AGENT: &str = "signet-cni";

pub(super) fn look(cluster: &Cluster<'_>, settings: Option<&Settings>, report: &mut Report) {
    let is_agent = |pod: &&Value| label(pod, "app.kubernetes.io/name") == Some(AGENT);
    let ready: BTreeSet<&str> = cluster
        .pods
        .iter()
        .filter(is_agent)
        .filter(|pod| is_ready(pod))
        .map(|pod| text(pod, "/spec/nodeName"))
        .collect();
    let by_agent = |pod: &&Value| items(pod, "/spec/initContainers").any(|it| text(it, "/name") == CHECK);
    let lives = |pod: &&Value| !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in cluster.pods.iter().filter(by_agent).filter(lives) {
        let count = nodes.entry(text(pod, "/spec/nodeName")).or_default();
        *count = count.saturating_add(1);
    }
    // Not placed yet.
    nodes.remove("");
    let hint = format!(
        "kubectl get pods -A -l app.kubernetes.io/name={AGENT} -o wide, and their logs; the chart has it by cni.enabled"
    );
    let wanted = settings.is_some_and(|it| it.redirect == Redirect::Cni || !it.cni_namespaces.is_empty());
    if wanted && !cluster.pods.iter().any(|pod| is_agent(&pod)) {
        let said = "new pods are to be redirected by the CNI agent, and there is none: they wait";
        report.add("cni", Level::Failure, AGENT, said, &hint);
    }
    for (node, count) in nodes.iter().filter(|(node, _)| !ready.contains(*node)) {
        let said = format!(
            "the CNI agent is not ready, by which {count} pods are redirected: those that start wait"
        );
        report.add("cni", Level::Failure, format!("node {node}"), said, &hint);
    }
    if !nodes.is_empty() || !ready.is_empty() {
        let count = nodes.keys().filter(|node| ready.contains(*node)).count();
        let said = format!(
            "ready on {} nodes, among them {count} of {} whose pods it redirects",
            ready.len(),
            nodes.len()
        );
        report.ok("cni", AGENT, said);
    }
}
