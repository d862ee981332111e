//! What a decision costs: `cargo run --release -p signet-policy --example decide`.
//!
//! Each line is measured over batches of 1,000 decisions, of which the median and the 99th percentile are printed, per
//! decision. The mesh of 10,000 policies is a registry of a hundred services with a hundred each; a sidecar is given
//! those of its own.

#![allow(clippy::print_stdout, reason = "what it measures is what it is for")]

use std::hint::black_box;
use std::time::Instant;

use serde_json::json;
use signet_identity::{PeerClass, SpiffeId, TrustDomain};
use signet_model::{Options, PolicyDocument, Protocol, Registry, parse_folder};
use signet_policy::{Context, Facts, PolicySet, User};

const BATCHES: usize = 2_000;
const BATCH: usize = 1_000;

/// `services` services of a namespace, each with a hundred policies as a large team might have.
fn registry(services: usize, when: bool) -> Registry {
    let folder = std::env::temp_dir().join(format!("signet-decide-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{error}"));
    for service in 0..services {
        let mut text = String::new();
        text.push_str(&format!(
            "---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {{namespace: shop, name: s{service}}}\n\
             spec: {{ports: [{{name: http, port: 80, protocol: http1}}]}}\n"
        ));
        for i in 0..100 {
            let from = match i % 5 {
                0 => "ns/shop/sa/web".to_owned(),
                1 => "\"ns/shop/sa/*\"".to_owned(),
                _ => format!("ns/team-{i}/sa/app"),
            };
            let effect = if i % 10 == 9 { "forbid\n  ifAbsent: skip" } else { "permit" };
            let when = if when {
                "\n  when: 'context.user.claims.groups.contains(\"staff\") && context.request.params.id != \"0\" && context.now > datetime(\"2026-01-01\")'"
            } else {
                ""
            };
            text.push_str(&format!(
                "---\napiVersion: signet.mesh/v1alpha1\nkind: MeshPolicy\nmetadata: {{namespace: shop, name: s{service}-p{i}}}\nspec:\n  \
                 effect: {effect}\n  target: {{service: s{service}}}\n  from: {{workloads: [{from}]}}\n  \
                 user: {{scopes: [\"orders:read\"]}}\n  \
                 to: {{methods: [GET, POST], paths: [\"/v1/things-{i}/{{id}}\", \"/v2/things-{i}/{{id}}/parts/{{part}}\"]}}{when}\n"
            ));
        }
        std::fs::write(folder.join(format!("{service}.yaml")), text)
            .unwrap_or_else(|error| panic!("{error}"));
    }
    let registry = parse_folder(&folder, &Options::default());
    let _ = std::fs::remove_dir_all(&folder);
    registry.unwrap_or_else(|error| panic!("{error}"))
}

/// What a sidecar of `s0` is given.
fn slice(registry: &Registry) -> PolicySet {
    let service = "s0.shop".parse().unwrap_or_else(|error| panic!("{error}"));
    let documents = registry.governing(&service);
    let own = TrustDomain::parse("demo.signet").unwrap_or_else(|error| panic!("{error}"));
    let documents = documents.iter().map(|it| (it.reported_name(), PolicyDocument::canonical_json(it)));
    PolicySet::compile(&own, &service, documents, false)
}

fn measure(name: &str, set: &PolicySet, facts: &Facts<'_>, allowed: bool) {
    assert_eq!(set.decide(facts).allowed, allowed, "{name}");
    let mut batches: Vec<u128> = (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..BATCH {
                black_box(set.decide(black_box(facts)));
            }
            start.elapsed().as_nanos()
        })
        .collect();
    batches.sort_unstable();
    let at = |percent: usize| batches[(BATCHES - 1) * percent / 100] as f64 / BATCH as f64 / 1000.0;
    println!("{name:<64} {:8.3} µs median {:8.3} µs p99", at(50), at(99));
}

fn main() {
    let web =
        SpiffeId::parse("spiffe://demo.signet/ns/shop/sa/web").unwrap_or_else(|error| panic!("{error}"));
    let user = User {
        sub: "idp|alice".into(),
        scopes: vec!["orders:read".into()],
        claims: json!({"groups": ["a", "b", "staff"]}).as_object().cloned().unwrap_or_default(),
        cred: "jwt".into(),
        context: Context::Forwarded,
        actor: None,
    };
    let facts = |path| Facts {
        peer: &web,
        peer_class: PeerClass::Sidecar,
        user: Some(&user),
        port: "http",
        protocol: Protocol::Http1,
        method: Some("GET"),
        path: Some(path),
        grpc: None,
        headers: None,
        now_ms: 1_795_341_600_000,
    };
    for (name, services, when) in [
        ("100 policies on the workload", 1, false),
        ("100 policies on the workload, 10,000 in the mesh", 100, false),
        ("100 policies on the workload, each with `when`", 1, true),
        ("100 policies on the workload, 10,000 in the mesh, with `when`", 100, true),
    ] {
        let set = slice(&registry(services, when));
        measure(name, &set, &facts("/v1/things-95/7"), true);
        measure(&format!("{name}, denied"), &set, &facts("/v1/other/7"), false);
    }
    // The dearest: every policy speaks of this request up to its `when`, and none permits it.
    let documents: Vec<_> = (0..100)
        .map(|i| {
            let spec = json!({"effect": "permit", "to": {"paths": ["/v1/orders/{id}"]},
                "when": format!("context.request.params.id == \"x{i}\" || context.user.claims.groups.containsAny([\"x\", \"y\", \"z{i}\"])")});
            let policy = json!({"apiVersion": "signet.mesh/v1alpha1", "kind": "MeshPolicy",
                "metadata": {"namespace": "shop", "name": format!("p{i}")}, "spec": spec});
            (format!("p{i}.shop"), policy.to_string())
        })
        .collect();
    let own = TrustDomain::parse("demo.signet").unwrap_or_else(|error| panic!("{error}"));
    let service = "s0.shop".parse().unwrap_or_else(|error| panic!("{error}"));
    let set = PolicySet::compile(&own, &service, documents, false);
    measure("100 conditions evaluated to their end, denied", &set, &facts("/v1/orders/7"), false);
}
