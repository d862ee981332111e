//! Routes of whole connections, and the listeners of a gateway: what may be written.

use std::path::Path;

use signet_model::{AnyRoute, Label, Options, Registry, RegistryErrors, parse_text};

const MESH: &str = r#"
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: db}
spec:
  ports:
    - {name: tls, port: 5432, protocol: tcp}
    - {name: web, port: 80, protocol: http}
    - {name: any, port: 9000, protocol: auto}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: db-v2}
spec: {ports: [{name: tls, port: 5432, protocol: tcp}]}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: edge, name: gw}
spec: {class: gateway}
"#;

/// Listeners that take routes of every namespace, and one that does not.
const LISTENERS: &str = "
  - {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}, hostname: '*.db.example.com', allowedRoutes: {namespaces: {from: All}}}
  - {name: own, port: 443, protocol: TLS, tls: {mode: Passthrough}, hostname: own.example.com}
  - {name: pg, port: 5432, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}
";

fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: signet.mesh/v1alpha1\nkind: Gateway\nmetadata: {{namespace: edge, name: gw}}\nspec:\n  \
         identity: ns/edge/sa/gw\n  listeners: {listeners}\n"
    )
}

fn registry(documents: &str) -> Result<Registry, RegistryErrors> {
    parse_text(Path::new("r.yaml"), &format!("{MESH}---\n{documents}"), &Options::default())
}

fn route(kind: &str, name: &str, spec: &str) -> String {
    let (name, namespace) = name.split_once('.').unwrap_or((name, "shop"));
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: {name}}}\n\
         spec: {spec}\n"
    )
}

const TO_DB: &str = "rules: [{backendRefs: [{name: db, namespace: shop, port: 5432}]}]";
const AT_DB: &str = "parentRefs: [{kind: Service, name: db, namespace: shop, port: 5432}]";
const AT_GATEWAY: &str = "parentRefs: [{name: gw, namespace: edge}]";

#[track_caller]
fn refused(documents: &str, field: &str, reason: &str) {
    let errors = registry(documents).expect_err("valid").to_string();
    assert!(errors.contains(field) && errors.contains(reason), "expected {field}: {reason}, got {errors}");
}

#[track_caller]
fn with_gateway(documents: &str) -> String {
    format!("{}{documents}", gateway(LISTENERS))
}

#[test]
fn routes_of_connections_are_read_and_written_back_the_same() {
    let documents = with_gateway(
        &[
            route(
                "TLSRoute",
                "db",
                "{parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw, namespace: edge, sectionName: tls}], \
                 hostnames: [a.db.example.com, '*.b.db.example.com'], \
                 rules: [{name: all, backendRefs: [{name: db, port: 5432, weight: 9}, {kind: Service, group: '', name: db-v2, port: 5432}]}]}",
            ),
            route("TCPRoute", "pg", &format!("{{parentRefs: [{{name: gw, namespace: edge, port: 5432}}], {TO_DB}}}")),
            route("TCPRoute", "db", &format!("{{{AT_DB}, {TO_DB}}}")),
        ]
        .concat(),
    );
    let read = registry(&documents).unwrap();
    assert_eq!(read.routes().count(), 3);
    for route in read.routes() {
        let json = route.canonical_json();
        assert_eq!(AnyRoute::from_json(&json).unwrap(), *route);
        assert!(route.rules().is_empty(), "nobody takes it for a rule of requests");
    }
    let gateway = "gw.edge".parse().unwrap();
    let attached: Vec<_> = read.routes_of_gateway(&gateway).map(|route| route.name().to_string()).collect();
    assert_eq!(attached, ["pg.shop", "db.shop"]);
    let json = read.gateway(&gateway).unwrap().canonical_json();
    assert_eq!(signet_model::Gateway::from_json(&json).unwrap(), *read.gateway(&gateway).unwrap());
}

#[test]
fn older_versions_of_the_standard_are_read_where_they_say_the_same() {
    for (kind, version) in [("TLSRoute", "v1alpha2"), ("TLSRoute", "v1alpha3"), ("TCPRoute", "v1alpha2")] {
        let hosts = if kind == "TLSRoute" { "hostnames: [a.example.com], " } else { "" };
        let text = route(kind, "r", &format!("{{{AT_DB}, {hosts}{TO_DB}}}"));
        let older = text.replace("k8s.io/v1\n", &format!("k8s.io/{version}\n"));
        let read = registry(&older).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(read.routes().next().unwrap().canonical_json().contains("k8s.io/v1\""), "{kind}");
        refused(
            &text.replace("k8s.io/v1\n", "k8s.io/v1beta9\n"),
            "apiVersion",
            "gateway.networking.k8s.io/v1",
        );
    }
}

#[test]
fn what_is_not_carried_out_is_refused_by_name() {
    let tls =
        |spec: &str| route("TLSRoute", "r", &format!("{{{AT_DB}, hostnames: [a.example.com], {spec}}}"));
    refused(
        &tls("rules: [{backendRefs: [{name: db, port: 5432, filters: []}]}]"),
        "filters",
        "unknown field",
    );
    refused(
        &tls("rules: [{backendRefs: [{name: db, port: 5432}], matches: []}]"),
        "matches",
        "unknown field",
    );
    refused(&tls("rules: [{backendRefs: []}]"), "backendRefs", "at least one");
    refused(
        &tls(&format!("{}, {{backendRefs: [{{name: db, port: 5432}}]}}]", &TO_DB[..TO_DB.len() - 1])),
        "spec.rules",
        "one rule",
    );
    for (host, reason) in [
        ("'*'", "got `*`"),
        ("10.0.0.1", "no hello says an address"),
        ("x.signet.internal", "outside the mesh"),
        ("'*.signet.internal'", "outside the mesh"),
    ] {
        refused(
            &route("TLSRoute", "r", &format!("{{{AT_DB}, hostnames: [{host}], {TO_DB}}}")),
            "spec.hostnames[0]",
            reason,
        );
    }
    refused(&route("TLSRoute", "r", &format!("{{{AT_DB}, {TO_DB}}}")), "hostnames", "missing field");
    refused(
        &route("TCPRoute", "r", &format!("{{{AT_DB}, hostnames: [a.example.com], {TO_DB}}}")),
        "hostnames",
        "unknown field",
    );
    refused(
        &tls("rules: [{backendRefs: [{name: db, port: 5432, weight: 1000001}]}]"),
        "weight",
        "0 to 1000000",
    );
    // Requests reach a gateway by its own routes, which say by which credentials.
    let http = "{parentRefs: [{name: gw, namespace: edge}], rules: [{backendRefs: [{name: db, port: 80}]}]}";
    refused(&with_gateway(&route("HTTPRoute", "r", http)), "spec.parentRefs[0].kind", "spec.routes");
    refused(
        &route(
            "TCPRoute",
            "r",
            &format!("{{parentRefs: [{{group: apps, kind: Service, name: db}}], {TO_DB}}}"),
        ),
        "group",
        "got `apps`",
    );
}

#[test]
fn parents_and_backends_are_there_and_carry_bytes() {
    let at = |parent: &str, backend: &str| {
        route("TCPRoute", "r", &format!("{{parentRefs: [{parent}], rules: [{{backendRefs: [{backend}]}}]}}"))
    };
    let (db, to_db) = ("{kind: Service, name: db}", "{name: db, port: 5432}");
    assert!(registry(&at(db, to_db)).is_ok());
    refused(&at("{kind: Service, name: gone}", to_db), "spec.parentRefs[0].name", "got `gone.shop`");
    for port in [80, 9000, 1] {
        refused(
            &at(&format!("{{kind: Service, name: db, port: {port}}}"), to_db),
            "spec.parentRefs[0]",
            "that is tcp",
        );
    }
    refused(&at("{name: gone, namespace: edge}", to_db), "spec.parentRefs[0].name", "expected a Gateway");
    refused(&at(db, "{name: gone, port: 5432}"), "backendRefs[0].name", "got `gone.shop`");
    refused(&at(db, "{name: db, port: 81}"), "backendRefs[0].port", "got 81");
    refused(&at(db, "{name: db, port: 80}"), "backendRefs[0].port", "speaks HTTP or may");
    refused(&at(db, "{name: db, port: 9000}"), "backendRefs[0].port", "speaks HTTP or may");
}

#[test]
fn a_route_attaches_where_the_listener_is_of_its_kind_and_lets_it() {
    let tls = |name: &str, parent: &str, host: &str| {
        with_gateway(&route(
            "TLSRoute",
            name,
            &format!("{{parentRefs: [{parent}], hostnames: [{host}], {TO_DB}}}"),
        ))
    };
    assert!(registry(&tls("r", "{name: gw, namespace: edge}", "a.db.example.com")).is_ok());
    assert!(registry(&tls("r.edge", "{name: gw, sectionName: own}", "own.example.com")).is_ok());
    refused(
        &tls("r", "{name: gw, namespace: edge, sectionName: own}", "own.example.com"),
        "spec.parentRefs[0]",
        "allowedRoutes.namespaces.from: All",
    );
    refused(
        &tls("r", "{name: gw, namespace: edge, sectionName: pg}", "a.db.example.com"),
        "spec.parentRefs[0]",
        "of protocol TLS",
    );
    refused(
        &tls("r", "{name: gw, namespace: edge, port: 444}", "a.db.example.com"),
        "spec.parentRefs[0]",
        "of protocol TLS",
    );
    refused(
        &tls("r", "{name: gw, namespace: edge}", "a.other.example.com"),
        "spec.parentRefs[0]",
        "meets spec.hostnames",
    );
    // A wider name than the listener's meets it.
    assert!(registry(&tls("r", "{name: gw, namespace: edge}", "'*.example.com'")).is_ok());
    let federated = "---\napiVersion: signet.mesh/v1alpha1\nkind: FederatedTrustDomain\nmetadata: {name: far}\n\
                     spec: {trustDomain: far.example, url: 'https://far.example/bundle', profile: {https_web: {}}}\n\
                     ---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {namespace: shop, name: far}\n\
                     spec: {federatedIdentity: 'spiffe://far.example/ns/a/sa/b', ports: [{name: tls, port: 5432, protocol: tcp}]}\n";
    let far = |parents: &str| {
        let spec = format!("{{{parents}, rules: [{{backendRefs: [{{name: far, port: 5432}}]}}]}}");
        with_gateway(&format!("{federated}{}", route("TCPRoute", "r", &spec)))
    };
    assert!(registry(&far(AT_DB)).is_ok());
    refused(&far(AT_GATEWAY), "backendRefs[0].name", "which is federated");
}

#[test]
fn no_two_routes_are_for_the_same_connections() {
    let tcp = |name: &str, parents: &str| route("TCPRoute", name, &format!("{{{parents}, {TO_DB}}}"));
    let tls = |name: &str, parents: &str, host: &str| {
        route("TLSRoute", name, &format!("{{{parents}, hostnames: [{host}], {TO_DB}}}"))
    };
    refused(
        &format!("{}{}", tcp("a", AT_DB), tcp("b", AT_DB)),
        "spec.parentRefs[0]",
        "a second one beside TCPRoute `a.shop`",
    );
    refused(
        &with_gateway(&format!("{}{}", tcp("a", AT_GATEWAY), tcp("b.edge", AT_GATEWAY))),
        "spec.parentRefs[0]",
        "listener `pg` of `gw.edge`",
    );
    let twice = format!("{}{}", tls("a", AT_DB, "x.example.com"), tls("b", AT_DB, "x.example.com"));
    refused(&twice, "spec.parentRefs[0]", "one route for `x.example.com`");
    refused(
        &format!("{}{}", tcp("a", AT_DB), tls("b", AT_DB, "x.example.com")),
        "spec.parentRefs[0]",
        "got both",
    );
    // Names that differ, and callers of another namespace, are told apart.
    assert!(
        registry(&format!("{}{}", tls("a", AT_DB, "x.example.com"), tls("b", AT_DB, "'*.example.com'")))
            .is_ok()
    );
    let mine = registry(&format!("{}{}", tcp("a", AT_DB), tcp("b.web", AT_DB))).unwrap();
    let names = |caller: &str| {
        let caller: Label = caller.parse().unwrap();
        let routes = mine.routes_for(&"db.shop".parse().unwrap(), &caller);
        routes.iter().map(|route| route.name().to_string()).collect::<Vec<_>>()
    };
    assert_eq!((names("web"), names("other")), (vec!["b.web".to_owned()], vec!["a.shop".to_owned()]));
}

#[test]
fn routes_of_requests_and_of_connections_do_not_stand_for_each_other() {
    let http = route(
        "HTTPRoute",
        "mine.web",
        "{parentRefs: [{kind: Service, name: db, namespace: shop, port: 80}], rules: [{backendRefs: [{name: db, namespace: shop, port: 80}]}]}",
    );
    let read =
        registry(&format!("{}{http}", route("TCPRoute", "a", &format!("{{{AT_DB}, {TO_DB}}}")))).unwrap();
    let routes = read.routes_for(&"db.shop".parse().unwrap(), &"web".parse().unwrap());
    assert_eq!(routes.len(), 2, "the service's own TCPRoute holds beside the caller's HTTPRoute");
}

#[test]
fn listeners_of_one_port_are_told_apart_by_what_a_hello_or_a_request_says() {
    let route = String::from(
        "  routes:\n  - {name: all, hosts: ['*'], pathPrefix: /, service: db.shop, port: web, auth: {anonymous: true}}\n",
    );
    let at = |listeners: &str| format!("{}{route}", gateway(listeners));
    let shared = "
  - {name: web, port: 443, protocol: HTTPS, hostname: web.example.com, tls: {mode: Terminate}}
  - {name: rest, port: 443, protocol: HTTPS}
  - {name: db, port: 443, protocol: TLS, hostname: db.example.com, tls: {mode: Passthrough}}
  - {name: plain, port: 80, protocol: HTTP, hostname: web.example.com}
  - {name: plain-rest, port: 80, protocol: HTTP}
  - {name: pg, port: 5432, protocol: TCP}";
    assert!(registry(&at(shared)).is_ok());
    for (listeners, field, reason) in [
        ("[{name: a, port: 443, protocol: TLS}]", "spec.listeners[0].tls.mode", "`Passthrough`"),
        ("[{name: a, port: 443, protocol: TLS, tls: {}}]", "spec.listeners[0].tls.mode", "`Passthrough`"),
        (
            "[{name: a, port: 443, protocol: HTTPS, tls: {mode: Passthrough}}]",
            "spec.listeners[0].tls.mode",
            "`Terminate`",
        ),
        (
            "[{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: []}}]",
            "certificateRefs",
            "unknown field",
        ),
        (
            "[{name: a, port: 80, protocol: HTTP, tls: {}}]",
            "spec.listeners[0].tls",
            "none with protocol HTTP",
        ),
        (
            "[{name: a, port: 80, protocol: TCP, hostname: a.example.com}]",
            "spec.listeners[0].hostname",
            "bytes say no name",
        ),
        ("[{name: a, port: 80, protocol: UDP}]", "protocol", "UDP"),
        (
            "[{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]",
            "spec.listeners[0].allowedRoutes",
            "spec.routes",
        ),
        (
            "[{name: a, port: 80, protocol: TCP, allowedRoutes: {namespaces: {from: Selector}}}]",
            "from",
            "Selector",
        ),
        ("[{name: a, port: 80, protocol: TCP, allowedRoutes: {kinds: []}}]", "kinds", "unknown field"),
        ("[{name: a, port: 443, protocol: HTTPS, hostname: '*'}]", "spec.listeners[0].hostname", "got `*`"),
        (
            "[{name: a, port: 80, protocol: TCP}, {name: a, port: 81, protocol: TCP}]",
            "spec.listeners[1].name",
            "twice",
        ),
        (
            "[{name: a, port: 80, protocol: TCP}, {name: b, port: 80, protocol: TCP}]",
            "spec.listeners[1].port",
            "TCP beside TCP",
        ),
        (
            "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTPS}]",
            "spec.listeners[1].port",
            "HTTPS beside HTTP",
        ),
        (
            "[{name: a, port: 443, protocol: HTTPS, hostname: a.example.com}, {name: b, port: 443, protocol: TLS, tls: {mode: Passthrough}, hostname: a.example.com}]",
            "spec.listeners[1].port",
            "`a.example.com`, which is listener `a`'s",
        ),
        (
            "[{name: a, port: 443, protocol: HTTPS}, {name: b, port: 443, protocol: TLS, tls: {mode: Passthrough}}]",
            "spec.listeners[1].port",
            "`(every other)`",
        ),
    ] {
        refused(&at(listeners), field, reason);
    }
    let at = |listeners: &str| gateway(listeners);
    refused(
        &at("[{name: a, port: 443, protocol: HTTPS}]"),
        "spec.listeners[0].protocol",
        "expected spec.routes",
    );
    refused(&at("[{name: a, port: 443, protocol: HTTPS}]"), "spec.routes", "would lead nowhere");
    assert!(registry(&at("[{name: a, port: 443, protocol: TCP}]")).is_ok());
}
