//! Which pod is whom: the most specific registration, and no tie.

use std::collections::BTreeMap;
use std::path::Path;

use signet_model::{Options, Registry, RegistryErrors, parse_text};

const WORKLOADS: &str = "
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: orders}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: canary}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: edge, name: gw}
spec: {class: gateway}
";

/// `name: pods -> identity`, pods as the fields of the selector.
fn registry(entries: &[(&str, &str, &str)]) -> Result<Registry, RegistryErrors> {
    let mut text = WORKLOADS.to_owned();
    for (name, pods, identity) in entries {
        text += &format!(
            "---\napiVersion: signet.mesh/v1alpha1\nkind: Registration\nmetadata: {{name: {name}}}\n\
             spec: {{kubernetes: {{{pods}}}, identity: {identity}}}\n"
        );
    }
    parse_text(Path::new("mesh.yaml"), &text, &Options::default())
}

fn refused(entries: &[(&str, &str, &str)], field: &str, word: &str) {
    let errors = registry(entries).unwrap_err();
    let found = errors.iter().any(|e| e.field == field && e.reason.contains(word));
    assert!(found, "expected {field} with {word:?}, got {errors}");
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

const ORDERS: &str = "namespace: shop, serviceAccount: orders";

#[test]
fn the_registration_that_asks_most_of_a_pod_wins_in_any_order() {
    let canary = format!("{ORDERS}, podLabels: {{track: canary}}");
    let entries = [("plain", ORDERS, "ns/shop/sa/orders"), ("canary", &canary, "ns/shop/sa/canary")];
    let mut turned = entries;
    turned.reverse();
    for entries in [entries, turned] {
        let registry = registry(&entries).unwrap();
        let who = |account: &str, pairs: &[(&str, &str)]| {
            let found = registry.registration_of(&account.parse().unwrap(), &labels(pairs));
            found.map(|entry| entry.spec.identity.to_string())
        };
        assert_eq!(who("ns/shop/sa/orders", &[]).as_deref(), Some("ns/shop/sa/orders"));
        assert_eq!(who("ns/shop/sa/orders", &[("track", "stable")]).as_deref(), Some("ns/shop/sa/orders"));
        let both = [("track", "canary"), ("app", "orders")];
        assert_eq!(who("ns/shop/sa/orders", &both).as_deref(), Some("ns/shop/sa/canary"));
        assert_eq!(who("ns/shop/sa/other", &[("track", "canary")]), None);
        assert_eq!(
            who("ns/other/sa/orders", &[]),
            None,
            "an account of another namespace is another account"
        );
        assert!(registry.needs_labels(&"ns/shop/sa/orders".parse().unwrap()));
        assert!(!registry.needs_labels(&"ns/edge/sa/gw".parse().unwrap()));
    }
}

#[test]
fn two_registrations_that_one_pod_could_meet_equally_are_refused_when_they_are_read() {
    refused(
        &[("a", ORDERS, "ns/shop/sa/orders"), ("b", ORDERS, "ns/shop/sa/canary")],
        "spec.kubernetes",
        "by `a`",
    );
    let (app, track) =
        (format!("{ORDERS}, podLabels: {{app: orders}}"), format!("{ORDERS}, podLabels: {{track: canary}}"));
    refused(
        &[("app", &app, "ns/shop/sa/orders"), ("track", &track, "ns/shop/sa/canary")],
        "spec.kubernetes",
        "one more label",
    );
}

#[test]
fn registrations_that_no_pod_can_meet_both_or_of_which_one_asks_more_are_taken() {
    let (canary, stable, both) = (
        format!("{ORDERS}, podLabels: {{track: canary}}"),
        format!("{ORDERS}, podLabels: {{track: stable}}"),
        format!("{ORDERS}, podLabels: {{track: canary, app: orders}}"),
    );
    registry(&[
        ("a", &canary, "ns/shop/sa/canary"),
        ("b", &stable, "ns/shop/sa/orders"),
        ("c", &both, "ns/shop/sa/orders"),
        ("d", ORDERS, "ns/shop/sa/orders"),
        ("e", "namespace: edge, serviceAccount: orders", "ns/edge/sa/gw"),
    ])
    .unwrap();
}

#[test]
fn a_registration_names_an_identity_that_may_join_and_no_pod_of_the_control_plane() {
    refused(&[("a", ORDERS, "ns/shop/sa/nobody")], "spec.identity", "add a Workload `nobody`");
    refused(&[("a", ORDERS, "ns/signet-system/sa/signet-control-plane")], "spec.identity", "reserved");
    refused(
        &[("a", "namespace: signet-system, serviceAccount: x", "ns/shop/sa/orders")],
        "spec.kubernetes.namespace",
        "control plane's own",
    );
}

#[test]
fn each_field_of_a_registration_is_checked() {
    for (pods, field, word) in [
        ("namespace: shop", "spec.kubernetes", "serviceAccount"),
        ("namespace: 'a.b', serviceAccount: orders", "spec.kubernetes.namespace", "DNS label"),
        ("namespace: shop, serviceAccount: '*'", "spec.kubernetes.serviceAccount", "DNS subdomain"),
        (
            "namespace: shop, serviceAccount: orders, podLabels: {}",
            "spec.kubernetes.podLabels",
            "leave the field out",
        ),
        (
            "namespace: shop, serviceAccount: orders, podLabels: {'a b': c}",
            "spec.kubernetes.podLabels",
            "label's key",
        ),
        ("namespace: shop, serviceAccount: orders, node: a", "spec.kubernetes.node", "unknown field"),
    ] {
        let errors = registry(&[("a", pods, "ns/shop/sa/orders")]).unwrap_err();
        let found = errors.iter().any(|e| e.field.starts_with(field) && e.reason.contains(word));
        assert!(found, "{pods}: {errors}");
    }
}
