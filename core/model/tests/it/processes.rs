//! Registrations of processes: what is taken, what is refused, and whom they mean.

use std::path::Path;

use signet_model::{ProcessFacts, Registry, RegistryErrors, WorkloadId, parse_text};

const WORKLOADS: &str = "
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: hosts, name: one}
spec: {class: agent}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: orders}
spec: {class: sidecar, workloadApi: true}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: closed}
spec: {class: sidecar}
";

fn read(spec: &str) -> Result<Registry, RegistryErrors> {
    let text = format!(
        "{WORKLOADS}---\napiVersion: signet.mesh/v1alpha1\nkind: Registration\nmetadata: {{name: r}}\nspec: {spec}\n"
    );
    parse_text(Path::new("r.yaml"), &text, &Default::default())
}

fn refused(spec: &str) -> String {
    read(spec).expect_err(spec).to_string()
}

#[test]
fn everything_that_is_written_must_be_true_and_what_is_not_known_is_not_so() {
    let digest = "ab".repeat(32);
    let all = format!(
        "{{unix: {{agents: [ns/hosts/sa/one], uid: 1000, user: shop, gid: 100, group: users, supplementaryGids: [4, 24], \
         path: /usr/bin/orders, sha256: {digest}}}, identity: ns/shop/sa/orders}}"
    );
    let registry = read(&all).unwrap();
    let agent: WorkloadId = "ns/hosts/sa/one".parse().unwrap();
    let (entry, selector) = registry.vouched_by(&agent).next().unwrap();
    assert_eq!((entry.spec.identity.to_string().as_str(), selector.specificity()), ("ns/shop/sa/orders", 8));
    assert!(registry.vouched_by(&"ns/hosts/sa/two".parse().unwrap()).next().is_none());
    let facts = ProcessFacts {
        uid: 1000,
        gid: 100,
        user: Some("shop".into()),
        group: Some("users".into()),
        supplementary_gids: vec![24, 4, 27],
        path: Some("/usr/bin/orders".into()),
        sha256: Some([0xab; 32]),
    };
    assert!(selector.takes(&facts));
    let others: [fn(&mut ProcessFacts); 12] = [
        |facts| facts.uid = 1001,
        |facts| facts.gid = 101,
        |facts| facts.user = Some("shopper".into()),
        |facts| facts.user = None,
        |facts| facts.group = Some("user".into()),
        |facts| facts.group = None,
        |facts| facts.supplementary_gids = vec![24],
        |facts| facts.supplementary_gids.clear(),
        |facts| facts.path = Some("/usr/bin/orders2".into()),
        |facts| facts.path = None,
        |facts| facts.sha256 = Some([0xac; 32]),
        |facts| facts.sha256 = None,
    ];
    for (number, change) in others.into_iter().enumerate() {
        let mut other = facts.clone();
        change(&mut other);
        assert!(!selector.takes(&other), "{number}: {other:?}");
    }
    let json = entry.canonical_json();
    assert_eq!(&signet_model::Registration::from_json(&json).unwrap(), entry);
    let newer = json.replace("\"uid\"", "\"cgroup\":\"x\",\"uid\"");
    assert!(signet_model::Registration::from_json(&newer).is_err(), "a condition of the future is noticed");
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_field_and_what_to_do() {
    for (spec, words) in [
        ("{identity: ns/shop/sa/orders}", "expected one of kubernetes and unix, got neither"),
        (
            "{unix: {agents: [ns/hosts/sa/one], uid: 1}, kubernetes: {namespace: a, serviceAccount: b}, identity: ns/shop/sa/orders}",
            "got both",
        ),
        ("{unix: {agents: [ns/hosts/sa/one]}, identity: ns/shop/sa/orders}", "every process of the host"),
        ("{unix: {agents: [], uid: 1}, identity: ns/shop/sa/orders}", "spec.unix.agents"),
        (
            "{unix: {agents: [ns/hosts/sa/one, ns/hosts/sa/one], uid: 1}, identity: ns/shop/sa/orders}",
            "stands twice",
        ),
        ("{unix: {agents: [ns/hosts/sa/two], uid: 1}, identity: ns/shop/sa/orders}", "of class agent"),
        ("{unix: {agents: [ns/shop/sa/orders], uid: 1}, identity: ns/shop/sa/orders}", "of class agent"),
        ("{unix: {agents: [ns/hosts/sa/one], uid: 1}, identity: ns/shop/sa/closed}", "workloadApi: true"),
        ("{unix: {agents: [ns/hosts/sa/one], uid: 1}, identity: ns/hosts/sa/one}", "workloadApi: true"),
        ("{unix: {agents: [ns/hosts/sa/one], uid: -1}, identity: ns/shop/sa/orders}", "uid"),
        ("{unix: {agents: [ns/hosts/sa/one], path: bin/x}, identity: ns/shop/sa/orders}", "absolute path"),
        ("{unix: {agents: [ns/hosts/sa/one], sha256: abc}, identity: ns/shop/sa/orders}", "64 hexadecimal"),
        ("{unix: {agents: [ns/hosts/sa/one], pid: 1}, identity: ns/shop/sa/orders}", "pid"),
    ] {
        let said = refused(spec);
        assert!(said.contains(words), "{spec}: {said}");
    }
    let agent = WORKLOADS.replace("{class: agent}", "{class: agent, workloadApi: true}");
    let said = parse_text(Path::new("r.yaml"), &agent, &Default::default()).unwrap_err().to_string();
    assert!(said.contains("spec.workloadApi"), "{said}");
}
