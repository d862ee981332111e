//! The cluster itself: its version, its kinds, its clocks, and what the caller may do there.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use signet_kubernetes::kinds::{GATEWAY, KINDS, SIGNET};
use signet_kubernetes::rbac::{self, Right};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Level, Report, items, name_of, text};
use crate::cluster::Kubectl;

/// Tokens name the node of their pod from here on (1.30); newer than the last nobody has tried.
const OLDEST: u64 = 30;
const NEWEST: u64 = 37;
/// Certificates are dated by these clocks. What is a minute off refuses what is new.
const SKEW_WARNS: i64 = 10;
const SKEW_FAILS: i64 = 60;
/// A kubelet renews its Lease every ten seconds.
const SILENT: i64 = 60;

/// Whether there is an API server.
pub(super) fn version(kubectl: &Kubectl, report: &mut Report) -> bool {
    let found = match kubectl.get("/version") {
        Ok(found) => found,
        Err(error) => {
            report.unknown("kubernetes", "API server", &error);
            return false;
        }
    };
    let (version, minor) = (text(&found, "/gitVersion").to_owned(), minor(text(&found, "/minor")));
    match minor {
        Some(minor) if (OLDEST..=NEWEST).contains(&minor) => report.ok("kubernetes", "API server", version),
        Some(minor) if minor > NEWEST => report.add(
            "kubernetes",
            Level::Warning,
            "API server",
            format!("{version}: newer than 1.{NEWEST}, the last that was tried"),
            "a newer Signet may know it",
        ),
        _ => report.add(
            "kubernetes",
            Level::Failure,
            "API server",
            format!("{version}: expected 1.{OLDEST} or newer, which start sidecars before the app"),
            "upgrade the cluster",
        ),
    }
    true
}

/// `36`, or `36+` where somebody built their own.
fn minor(text: &str) -> Option<u64> {
    text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

pub(super) fn clocks(kubectl: &Kubectl, report: &mut Report) {
    let hint = "set the clocks by NTP: certificates are good between two moments";
    let here = OffsetDateTime::now_utc();
    let server = match kubectl.date() {
        Ok(Some(server)) => server,
        Ok(None) => {
            return report.unknown("clocks", "API server", &"its answer has no Date that kubectl shows");
        }
        Err(error) => return report.unknown("clocks", "API server", &error),
    };
    let skew = (server - here).whole_seconds();
    let level = match skew.abs() {
        skew if skew <= SKEW_WARNS => Level::Ok,
        skew if skew <= SKEW_FAILS => Level::Warning,
        _ => Level::Failure,
    };
    report.add("clocks", level, "API server", format!("{skew} s ahead of this machine"), hint);
    let leases = match kubectl.list("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", "") {
        Ok(leases) => leases,
        Err(error) => return report.unknown("clocks", "nodes", &error),
    };
    // The renewal is the node's own time; the comparison is good to the ten seconds between two.
    for lease in &leases {
        let renewed = OffsetDateTime::parse(text(lease, "/spec/renewTime"), &Rfc3339);
        let Ok(renewed) = renewed else { continue };
        let ahead = (renewed - server).whole_seconds();
        let subject = format!("node {}", text(lease, "/metadata/name"));
        if ahead > SKEW_WARNS {
            let level = if ahead > SKEW_FAILS { Level::Failure } else { Level::Warning };
            report.add("clocks", level, subject, format!("{ahead} s ahead of the API server"), hint);
        } else if ahead < -SILENT {
            report.add(
                "clocks",
                Level::Warning,
                subject,
                format!("its kubelet was last heard {} s ago: it is down, or its clock is behind", -ahead),
                hint,
            );
        }
    }
}

pub(super) fn nodes(kubectl: &Kubectl, report: &mut Report) {
    let nodes = match kubectl.list("/api/v1/nodes", "") {
        Ok(nodes) => nodes,
        Err(error) => return report.unknown("nodes", "nodes", &error),
    };
    let mut versions = BTreeSet::new();
    for node in &nodes {
        let version = text(node, "/status/nodeInfo/kubeletVersion");
        versions.insert(version.to_owned());
        let old = version.split('.').nth(1).and_then(minor).is_none_or(|minor| minor < OLDEST);
        if old {
            report.add(
                "nodes",
                Level::Failure,
                format!("node {}", name_of(node)),
                format!(
                    "kubelet {version}: expected 1.{OLDEST} or newer, which start sidecars before the app"
                ),
                "upgrade the node",
            );
        }
    }
    let versions: Vec<String> = versions.into_iter().collect();
    report.ok("nodes", "nodes", format!("{} with kubelet {}", nodes.len(), versions.join(", ")));
}

/// The resources that a group's version serves; none where it is not there.
fn served(kubectl: &Kubectl, group: &str, version: &str) -> anyhow::Result<Vec<String>> {
    let found = kubectl.find(&format!("/apis/{group}/{version}"))?.unwrap_or_default();
    Ok(items(&found, "/resources").map(|it| text(it, "/name").to_owned()).collect())
}

pub(super) fn gateway_kinds(kubectl: &Kubectl, report: &mut Report) {
    let mut missing = Vec::new();
    let mut present = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.group == GATEWAY) {
        let mut found = None;
        for version in kind.versions {
            match served(kubectl, GATEWAY, version) {
                Ok(resources) if resources.iter().any(|it| it == kind.resource) => {
                    found = Some(*version);
                    break;
                }
                Ok(_) => {}
                Err(error) => return report.unknown("gateway-api", GATEWAY, &error),
            }
        }
        match found {
            Some(version) => present.push(format!("{} {version}", kind.kind)),
            None => missing.push(kind.kind),
        }
    }
    if !present.is_empty() {
        report.ok("gateway-api", GATEWAY, present.join(", "));
    }
    if !missing.is_empty() {
        report.add(
            "gateway-api",
            Level::Warning,
            GATEWAY,
            format!("not there: {}", missing.join(", ")),
            "routes of these kinds cannot be written until the Gateway API's own definitions are installed; nothing else needs them",
        );
    }
}

pub(super) fn own_kinds(kubectl: &Kubectl, report: &mut Report) {
    let ours: Vec<_> = KINDS.iter().filter(|kind| kind.group == SIGNET).collect();
    let version = ours.first().and_then(|kind| kind.versions.first()).copied().unwrap_or_default();
    let found = match served(kubectl, SIGNET, version) {
        Ok(found) => found,
        Err(error) => return report.unknown("definitions", SIGNET, &error),
    };
    let is_missing = |kind: &&&signet_kubernetes::kinds::Kind| !found.iter().any(|it| it == kind.resource);
    let missing: Vec<_> = ours.iter().filter(is_missing).map(|kind| kind.kind).collect();
    match missing.is_empty() {
        true => report.ok("definitions", SIGNET, format!("{} kinds of {version}", ours.len())),
        false => report.add(
            "definitions",
            Level::Failure,
            SIGNET,
            format!("not served as {version}: {}", missing.join(", ")),
            "`signet upgrade` applies the definitions; the control plane waits for those that restrict",
        ),
    }
}

/// What an install makes: group, resource, and whether in the control plane's own namespace.
const MADE: &[(&str, &str, bool)] = &[
    ("", "namespaces", false),
    ("", "secrets", true),
    ("", "configmaps", true),
    ("", "services", true),
    ("", "serviceaccounts", true),
    ("apps", "statefulsets", true),
    ("apps", "daemonsets", true),
    ("policy", "poddisruptionbudgets", true),
    ("networking.k8s.io", "networkpolicies", true),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", false),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", false),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
];

/// What marks the class of claims that name none.
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The control plane's volumes name no class unless somebody says one.
pub(super) fn storage(kubectl: &Kubectl, report: &mut Report) {
    let classes = match kubectl.list("/apis/storage.k8s.io/v1/storageclasses", "") {
        Ok(classes) => classes,
        Err(error) => return report.unknown("storage", "StorageClass", &error),
    };
    let is_default = |class: &&Value| {
        let annotations = class.pointer("/metadata/annotations");
        DEFAULT_CLASS.iter().any(|name| annotations.and_then(|all| all.get(name)) == Some(&"true".into()))
    };
    match classes.iter().find(is_default) {
        Some(class) => report.ok("storage", "StorageClass", format!("{} is the default", name_of(class))),
        None => {
            let names: Vec<String> = classes.iter().map(name_of).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            report.add(
                "storage",
                Level::Warning,
                "StorageClass",
                format!(
                    "expected one that is the default, found {there}: a control plane with volumes waits for them for ever"
                ),
                "the chart's value persistence.storageClass names one; with PostgreSQL persistence.enabled: false does without",
            );
        }
    }
}

pub(super) fn rights(kubectl: &Kubectl, namespace: &str, report: &mut Report) {
    match may(kubectl, "*", "*", "*", "") {
        Ok(true) => return report.ok("rights", "you", "may do everything in this cluster"),
        Ok(false) => {}
        Err(error) => return report.unknown("rights", "you", &error),
    }
    let mut missing = Vec::new();
    for (group, resource, is_own) in MADE {
        for verb in ["create", "patch"] {
            match may(kubectl, verb, group, resource, if *is_own { namespace } else { "" }) {
                Ok(true) => {}
                Ok(false) => missing.push(format!("{verb} {resource}")),
                Err(error) => return report.unknown("rights", "you", &error),
            }
        }
    }
    // A role can be given by whoever has all of it, or may go beyond.
    let beyond = may(kubectl, "escalate", "rbac.authorization.k8s.io", "clusterroles", "");
    let mut asked = BTreeSet::new();
    for (whose, right) in granted().into_iter().filter(|_| !matches!(beyond, Ok(true))) {
        for verb in right.verbs {
            let scope = if right.own_namespace { namespace } else { "" };
            if !asked.insert((*verb, right.group, right.resource.clone(), scope)) {
                continue;
            }
            match may(kubectl, verb, right.group, &right.resource, scope) {
                Ok(true) => {}
                Ok(false) => missing.push(format!("{verb} {} (for {whose})", right.resource)),
                Err(error) => return report.unknown("rights", "you", &error),
            }
        }
    }
    match missing.is_empty() {
        true => report.ok("rights", "you", "may install"),
        false => report.add(
            "rights",
            Level::Failure,
            "you",
            format!("may not: {}", missing.join(", ")),
            "ask whoever runs the cluster, or let them install: a control plane needs rights in all of it",
        ),
    }
}

/// What the roles of the charts grant: the API server lets nobody grant what they do not have.
fn granted() -> Vec<(&'static str, Right)> {
    let tables = [
        ("the control plane's role", rbac::registry()),
        ("the control plane's role", rbac::attestation()),
        ("the control plane's role", rbac::roots()),
        ("the control plane's role with webhook.enabled", rbac::webhook()),
        ("the CNI agent's role with cni.enabled", rbac::agent()),
        ("the roles of namespaces' owners with aggregatedRoles.enabled", rbac::owners()),
    ];
    tables.into_iter().flat_map(|(whose, all)| all.into_iter().map(move |right| (whose, right))).collect()
}

fn may(kubectl: &Kubectl, verb: &str, group: &str, resource: &str, namespace: &str) -> anyhow::Result<bool> {
    let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
    let question: Value = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": verb, "group": group, "resource": resource, "subresource": sub,
                                        "namespace": namespace}},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = kubectl.create(path, question.to_string().as_bytes())?;
    Ok(answer.pointer("/status/allowed") == Some(&true.into()))
}
