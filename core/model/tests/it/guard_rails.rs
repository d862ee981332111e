//! What a namespace may permit, and what guard rails and exceptions have to say of themselves.

use std::path::Path;

use signet_model::{Options, Registry, parse_text};

const WORLD: &str = "\
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec: {ports: [{name: http, port: 80, protocol: http1}]}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: lab, name: toys}
spec: {ports: [{name: http, port: 80, protocol: http1}]}
";

fn registry(rail: &str, policy: &str) -> Result<Registry, String> {
    let text = format!(
        "{WORLD}---
apiVersion: signet.mesh/v1alpha1
kind: GuardRail
metadata: {{name: rail}}
spec: {rail}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {{namespace: shop, name: p}}
spec: {policy}
"
    );
    parse_text(Path::new("t.yaml"), &text, &Options::default()).map_err(|errors| {
        errors.iter().map(|error| format!("{}: {}", error.field, error.reason)).collect::<Vec<_>>().join("\n")
    })
}

const ANY: &str = "{effect: permit}";

#[test]
fn a_permit_wider_than_the_guard_rails_is_refused_where_it_is_written() {
    for (rail, policy, message) in [
        (
            "{permits: {requireFrom: true}}",
            ANY,
            "spec.from: expected `from`, as it is required of permits here, got none (GuardRail `rail`)",
        ),
        (
            "{permits: {requireUser: true}}",
            "{effect: permit, user: {required: false}}",
            "spec.user: expected `user`, as it is required of permits here, got none (GuardRail `rail`)",
        ),
        (
            "{permits: {requireUser: true}}",
            "{effect: permit, mode: shadow}",
            "spec.user: expected `user`, as it is required of permits here, got none (GuardRail `rail`)",
        ),
        (
            "{permits: {fromNamespaces: [edge]}}",
            "{effect: permit, from: {workloads: [ns/shop/sa/a, ns/edge/sa/b, \"ns/lab/sa/*\"]}}",
            "spec.from.workloads[2]: expected somebody of its own namespace or of edge, got `ns/lab/sa/*` (GuardRail `rail`)",
        ),
        (
            "{permits: {fromNamespaces: [edge]}}",
            ANY,
            "spec.from: expected `from`, as callers are limited by namespace here, got none (GuardRail `rail`)",
        ),
    ] {
        assert_eq!(registry(rail, policy).unwrap_err(), message, "{rail}");
        // Of another namespace it says nothing, and of a forbid neither.
        let elsewhere = rail.replacen('{', "{namespaces: [lab], ", 1);
        registry(&elsewhere, policy).unwrap();
        registry(rail, "{effect: forbid}").unwrap();
    }
    registry(
        "{permits: {requireFrom: true, requireUser: true, fromNamespaces: [edge]}}",
        "{effect: permit, from: {workloads: [ns/edge/sa/gateway]}, user: {required: true}}",
    )
    .unwrap();
    let foreign = registry(
        "{permits: {ownTrustDomain: true}}",
        "{effect: permit, from: {workloads: [\"spiffe://partner.example/ns/a/sa/b\"]}}",
    );
    assert!(foreign.unwrap_err().contains("expected an identity of the mesh's own trust domain"));
}

#[test]
fn a_guard_rail_that_nobody_can_mean_is_refused() {
    let exception =
        "{owner: team, reason: why, until: 2030-01-01T00:00:00Z, from: {workloads: [ns/shop/sa/web]}}";
    for (rail, message) in [
        ("{}", "spec: expected `forbid` or `permits`, got neither"),
        (
            "{permits: {}}",
            "spec.permits: expected requireFrom, requireUser, ownTrustDomain or fromNamespaces, got none",
        ),
        (
            "{mode: shadow, permits: {requireFrom: true}}",
            "spec.mode: shadow is for `forbid`, of which there is none: `permits` is checked when the registry is loaded",
        ),
        (
            &format!("{{permits: {{requireFrom: true}}, exceptions: [{exception}]}}"),
            "spec.exceptions: expected `forbid` beside exceptions, got none",
        ),
        (
            "{forbid: {when: \"context.who\"}}",
            "spec.forbid.when: expected now, request or user of `context`, got `who`, at line 1, column 9",
        ),
        (
            "{forbid: {to: {}}}",
            "spec.forbid.to: expected ports, methods, paths or grpc, got none: leave `to` out for any request",
        ),
        (
            "{forbid: {user: {required: true}}}",
            "spec.forbid.user.required: a forbid cannot require a user: requests without one are refused by permits that require one",
        ),
        (
            "{namespaces: [], forbid: {}}",
            "spec.namespaces: expected at least one item, got an empty list: leave the field out instead",
        ),
        (
            "{forbid: {}, exceptions: [{owner: team, reason: why, until: 2030-01-01T00:00:00Z}]}",
            "spec.exceptions[0]: missing field `from`",
        ),
        (
            "{forbid: {}, exceptions: [{owner: team, reason: why, until: tomorrow, from: {workloads: [ns/shop/sa/web]}}]}",
            "spec.exceptions[0].until: expected a date and time with its offset and without a fraction (RFC 3339), as in `2027-01-31T18:00:00Z`, got `tomorrow`",
        ),
        (
            "{forbid: {}, exceptions: [{owner: \"\", reason: why, until: 2030-01-01T00:00:00Z, from: {workloads: [ns/shop/sa/web]}}]}",
            "spec.exceptions[0].owner: expected a line of at most 200 characters without control characters, blanks at neither end, got ``",
        ),
        (
            &format!("{{forbid: {{}}, exceptions: [{}]}}", exception.replace("from:", "to: {}, from:")),
            "spec.exceptions[0].to: expected ports, methods, paths or grpc, got none: leave `to` out for any request",
        ),
        (
            &format!(
                "{{forbid: {{}}, exceptions: [{}]}}",
                exception.replace("ns/shop/sa/web", "\"spiffe://td/ns/a/sa/b\"")
            ),
            "spec.exceptions[0].from.workloads[0]: expected an identity of a federated trust domain: there is no FederatedTrustDomain of `td`",
        ),
    ] {
        assert_eq!(registry(rail, ANY).unwrap_err(), message, "{rail}");
    }
}

#[test]
fn a_permit_has_no_exceptions_and_a_forbid_names_ports_that_there_are() {
    let exception = "[{owner: team, reason: why, until: 2030-01-01T00:00:00Z, from: {workloads: [ns/shop/sa/web]}, to: {ports: [grpc]}}]";
    let with = |effect: &str| {
        registry(
            "{forbid: {from: {workloads: [ns/lab/sa/web]}}}",
            &format!("{{effect: {effect}, exceptions: {exception}}}"),
        )
        .unwrap_err()
    };
    assert_eq!(
        with("permit"),
        "spec.exceptions: only a forbid can have exceptions; whom a permit shall not take, it does not name"
    );
    assert_eq!(
        with("forbid"),
        "spec.exceptions[0].to.ports[0]: expected the name of a port of the services that it targets, got `grpc`"
    );
}

#[test]
fn guard_rails_govern_the_services_of_their_namespaces() {
    let registry = registry("{namespaces: [lab], forbid: {}}", ANY).unwrap();
    let names = |service: &str| -> Vec<String> {
        let governing = registry.governing(&service.parse().unwrap());
        governing.iter().map(signet_model::PolicyDocument::reported_name).collect()
    };
    assert_eq!(names("toys.lab"), ["guard-rail/rail"]);
    assert_eq!(names("orders.shop"), ["p.shop"]);
}

#[test]
fn a_permissive_port_takes_no_guard_rail_that_asks_who_calls() {
    let text = "\
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec: {ports: [{name: db, port: 80, protocol: tcp, permissive: {until: 2030-01-01T00:00:00Z}}]}
---
apiVersion: signet.mesh/v1alpha1
kind: GuardRail
metadata: {name: rail}
spec: {forbid: {from: {workloads: [ns/lab/sa/web]}}}
";
    let errors = parse_text(Path::new("t.yaml"), text, &Options::default()).unwrap_err().to_string();
    assert!(errors.contains("of which GuardRail `rail` does by spec.from"), "{errors}");
}
