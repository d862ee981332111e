//! A registry is valid as a whole, or it is refused with every mistake in its place.

use std::path::Path;

use signet_model::{Options, Protocol, Registry, RegistryErrors, UserContext, WorkloadClass, parse_text};

const SHOP: &str = r#"
apiVersion: signet.mesh/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {defaultAction: deny}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: orders}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: edge, name: gw}
spec: {class: gateway}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders, labels: {team: a}}
spec:
  identities: [ns/shop/sa/orders]
  addresses: [10.96.0.7]
  ports:
    - {name: grpc, port: 50051, protocol: grpc, requestTimeout: 15s}
    - {name: db, port: 5432, protocol: tcp, idleTimeout: 5m, onExpiry: cut}
  endpoints:
    - {address: 127.0.0.1, ports: {grpc: 17102, db: 17103}, identity: ns/shop/sa/orders}
  userContext: original
---
apiVersion: signet.mesh/v1alpha1
kind: Issuer
metadata: {name: idp}
spec:
  issuer: "http://127.0.0.1:9000"
  jwksUri: "http://127.0.0.1:9000/jwks"
  audiences: [shop]
  algorithms: [ES256]
  claims: [email]
---
apiVersion: signet.mesh/v1alpha1
kind: Gateway
metadata: {namespace: edge, name: gw}
spec:
  identity: ns/edge/sa/gw
  routes:
    - {name: shop, hosts: ["*"], pathPrefix: /, service: orders.shop, port: grpc, auth: {jwt: {issuers: [idp]}}, txn: {claims: [email]}}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: gw-to-orders}
spec:
  effect: permit
  target: {service: orders}
  from: {workloads: [ns/edge/sa/gw]}
  user: {required: true, scopes: ["orders:read"], claims: {groups: {anyOf: [staff]}}}
  to: {ports: [grpc], grpc: [shop.v1.Orders/List]}
"#;

fn parse(text: &str) -> Result<Registry, RegistryErrors> {
    parse_text(Path::new("shop.yaml"), text, &Options::default())
}

/// The shop with one thing replaced.
fn with(from: &str, to: &str) -> Result<Registry, RegistryErrors> {
    assert!(SHOP.contains(from), "the shop has no `{from}`");
    parse(&SHOP.replacen(from, to, 1))
}

#[test]
fn a_valid_registry_is_read_with_its_defaults() {
    let registry = parse(SHOP).unwrap();
    let orders = registry.service(&"orders.shop".parse().unwrap()).unwrap();
    assert_eq!(orders.port("grpc").unwrap().protocol, Protocol::Grpc);
    assert_eq!(orders.port("grpc").unwrap().request_timeout.unwrap().seconds(), 15);
    assert_eq!(orders.spec.user_context, UserContext::Original);
    let issuer = registry.issuer("idp").unwrap();
    assert_eq!(issuer.spec.token_types, ["at+jwt"]);
    assert_eq!(issuer.spec.scope_claim, "scope");
    assert_eq!(issuer.spec.max_lifetime.seconds(), 86_400);
    let gateway = registry.gateway(&"gw.edge".parse().unwrap()).unwrap();
    assert_eq!(gateway.spec.routes[0].txn.ttl.seconds(), 60);
    let id = "ns/edge/sa/gw".parse().unwrap();
    assert_eq!(registry.workload(&id).unwrap().spec.class, WorkloadClass::Gateway);
    assert_eq!(registry.policies_for(&"orders.shop".parse().unwrap()).count(), 1);
    assert_eq!(registry.served_by(&"ns/shop/sa/orders".parse().unwrap()).count(), 1);
    assert_eq!(registry.served_by(&id).count(), 0);
    assert_eq!(registry.gateways_of(&id).count(), 1);
}

#[test]
fn an_empty_registry_is_a_mesh_that_denies() {
    for text in ["", "# nothing yet\n", "---\n", "---\n---\n"] {
        assert_eq!(parse(text).unwrap(), Registry::default(), "{text:?}");
    }
}

#[test]
fn each_mistake_is_refused_with_its_field_and_reason() {
    #[rustfmt::skip]
    let table: &[(&str, &str, &str, &str)] = &[
        // shape
        ("defaultAction: deny", "defaultAction: maybe", "spec.defaultAction", "unknown variant `maybe`"),
        ("defaultAction: deny", "defaultActoin: deny", "spec.defaultActoin", "unknown field `defaultActoin`"),
        ("spec: {defaultAction: deny}", "status: {}", "status", "unknown field `status`"),
        ("metadata: {name: default}", "metadata: {name: other}", "metadata.name", "the only mesh"),
        ("metadata: {name: default}", "metadata: {name: default, namespace: shop}", "metadata.namespace", "unknown field"),
        ("kind: Mesh\n", "kind: Meshes\n", "kind", "expected one of Mesh, Workload"),
        ("apiVersion: signet.mesh/v1alpha1\nkind: Mesh\n", "apiVersion: v1\nkind: Mesh\n", "apiVersion", "expected `signet.mesh/v1alpha1`"),
        ("spec: {class: sidecar}", "spec: {class: operator}", "spec.class", "unknown variant `operator`"),
        ("spec: {class: sidecar}", "spec: {}", "spec", "missing field `class`"),
        ("spec: {class: sidecar}", "spec:", "spec", "empty field"),
        ("name: orders, labels", "name: Orders, labels", "metadata.name", "expected a DNS subdomain"),
        ("name: orders, labels", "name: or.ders, labels", "metadata.name", "without dots"),
        ("name: orders, labels", "name: 7, labels", "metadata.name", "invalid type: integer `7`"),
        ("name: orders, labels: {team: a}", "name: orders, uid: x", "metadata.uid", "unknown field `uid`"),
        ("addresses: [10.96.0.7]", "addresses: [10.96.0.0/16]", "spec.addresses[0]", "address of one host"),
        ("addresses: [10.96.0.7]", "addresses: [orders]", "spec.addresses[0]", "address of one host"),
        ("addresses: [10.96.0.7]", "addresses: [0.0.0.0]", "spec.addresses[0]", "address of one host"),
        ("addresses: [10.96.0.7]", "addresses: [\"::ffff:10.96.0.7\"]", "spec.addresses[0]", "IPv4-mapped"),
        ("addresses: [10.96.0.7]", "addresses: [10.96.0.7, 10.96.0.7]", "spec.addresses[1]", "stands twice"),
        ("port: 50051", "port: 0", "spec.ports[0].port", "expected a port between 1 and 65535, got `0`"),
        ("port: 50051", "port: 65536", "spec.ports[0].port", "got `65536`"),
        ("port: 50051", "port: -1", "spec.ports[0].port", "got `-1`"),
        ("port: 50051", "port: \"http\"", "spec.ports[0].port", "expected a port"),
        ("port: 50051", "port: 5432", "spec.ports[1].port", "5432 twice"),
        ("name: db", "name: grpc", "spec.ports[1].name", "`grpc` twice"),
        ("protocol: grpc", "protocol: quic", "spec.ports[0].protocol", "unknown variant `quic`"),
        ("requestTimeout: 15s", "requestTimeout: 15", "spec.ports[0].requestTimeout", "expected a duration"),
        ("requestTimeout: 15s", "requestTimeout: 15 s", "spec.ports[0].requestTimeout", "expected a duration"),
        ("requestTimeout: 15s", "requestTimeout: 0s", "spec.ports[0].requestTimeout", "expected a duration"),
        ("idleTimeout: 5m", "requestTimeout: 5m", "spec.ports[1].requestTimeout", "use idleTimeout"),
        ("requestTimeout: 15s", "onExpiry: cut", "spec.ports[0].onExpiry", "only tcp and http1 ports"),
        ("onExpiry: cut", "onExpiry: never", "spec.ports[1].onExpiry", "unknown variant"),
        ("userContext: original", "userContext: both", "spec.userContext", "unknown variant"),
        ("audiences: [shop]", "audiences: []", "spec.audiences", "at least one item"),
        ("algorithms: [ES256]", "algorithms: [none]", "spec.algorithms[0]", "unknown variant `none`"),
        ("algorithms: [ES256]", "algorithms: [HS256]", "spec.algorithms[0]", "unknown variant `HS256`"),
        ("algorithms: [ES256]", "algorithms: [ES256, ES256]", "spec.algorithms[1]", "stands twice"),
        ("9000/jwks\"", "9000/jwks#x\"", "spec.jwksUri", "absolute https:// URL"),
        ("9000/jwks\"", "user@h/jwks\"", "spec.jwksUri", "absolute https:// URL"),
        ("hosts: [\"*\"]", "hosts: [\"a.*\"]", "spec.routes[0].hosts[0]", "a host name"),
        ("pathPrefix: /,", "pathPrefix: shop,", "spec.routes[0].pathPrefix", "begins with `/`"),
        ("auth: {jwt: {issuers: [idp]}}", "auth: {}", "spec.routes[0].auth", "got neither"),
        ("auth: {jwt: {issuers: [idp]}}, ", "", "spec.routes[0]", "missing field `auth`"),
        ("auth: {jwt: {issuers: [idp]}}", "scopes: [a], auth: {anonymous: true, jwt: {issuers: [idp]}}", "spec.routes[0].scopes", "scopes need a credential"),
        ("auth: {jwt: {issuers: [idp]}}", "auth: {anonymous: true, jwt: {issuers: [idp], bound: required}}", "spec.routes[0].auth.anonymous", "need a credential"),
        ("auth: {jwt: {issuers: [idp]}}", "auth: {anonymous: true, jwt: {issuers: [idp], maxAge: 5m}}", "spec.routes[0].auth.anonymous", "need a credential"),
        ("auth: {jwt: {issuers: [idp]}}", "forwardCredential: original, auth: {jwt: {issuers: [idp], bound: required}}", "spec.routes[0].forwardCredential", "worth nothing behind the gateway"),
        ("auth: {jwt: {issuers: [idp]}}", "auth: {jwt: {issuers: [idp], acrValues: ['two words']}}", "spec.routes[0].auth.jwt.acrValues[0]", "one value of `acr`"),
        ("txn: {claims: [email]}", "txn: {ttl: 10m}", "spec.routes[0].txn.ttl", "expected at most 5m, got 10m"),
        ("txn: {claims: [email]}", "txn: {claims: [email], tll: 1m}", "spec.routes[0].txn.tll", "unknown field `tll`"),
        // one object against itself
        ("identities: [ns/shop/sa/orders]", "identities: [ns/other/sa/orders]", "spec.identities[0]", "own namespace `shop`"),
        ("identities: [ns/shop/sa/orders]", "identities: [\"ns/shop/sa/*\"]", "spec.identities[0]", "expected"),
        ("identities: [ns/shop/sa/orders]", "identities: []", "spec.identities", "at least one identity"),
        ("identity: ns/shop/sa/orders", "identity: ns/edge/sa/gw", "spec.endpoints[0].identity", "one of the service's identities"),
        ("ports: {grpc: 17102,", "ports: {grcp: 17102,", "spec.endpoints[0].ports.grcp", "name of a port of this service"),
        ("db: 17103", "db: 17102", "spec.endpoints[0].ports.grpc", "17102 twice"),
        ("identity: ns/edge/sa/gw", "identity: ns/shop/sa/orders", "spec.identity", "own namespace `edge`"),
        // references
        ("identities: [ns/shop/sa/orders]", "identities: [ns/shop/sa/orders, ns/shop/sa/other]", "spec.identities[1]", "add a Workload `other`"),
        ("spec: {class: gateway}", "spec: {class: sidecar}", "spec.identity", "which is of class sidecar"),
        ("identity: ns/edge/sa/gw", "identity: ns/edge/sa/gv", "spec.identity", "no Workload"),
        ("service: orders.shop", "service: order.shop", "spec.routes[0].service", "got `order.shop`"),
        ("service: orders.shop", "service: orders", "spec.routes[0].service", "`name.namespace`"),
        ("port: grpc, auth", "port: http, auth", "spec.routes[0].port", "name of a port of `orders.shop`"),
        ("port: grpc, auth", "port: db, auth", "spec.routes[0].port", "speaks HTTP"),
        ("issuers: [idp]", "issuers: [idq]", "spec.routes[0].auth.jwt.issuers[0]", "name of an Issuer"),
        ("txn: {claims: [email]}", "txn: {claims: [groups]}", "spec.routes[0].txn.claims[0]", "Issuer `idp` lists"),
        ("target: {service: orders}", "target: {service: order}", "spec.target.service", "a service of namespace `shop`"),
        ("to: {ports: [grpc]", "to: {ports: [web]", "spec.to.ports[0]", "name of a port"),
        // reserved
        ("metadata: {namespace: shop, name: orders}\n", "metadata: {namespace: signet-system, name: signet-control-plane}\n", "metadata.name", "reserved"),
    ];
    for (from, to, field, reason) in table {
        let errors = with(from, to).expect_err(&format!("`{to}` was taken"));
        let found = errors.iter().any(|error| error.field == *field && error.reason.contains(reason));
        assert!(found, "`{to}` should fail at {field} with `{reason}`, not:\n{errors}");
        assert!(errors.iter().all(|error| error.line.is_some() && error.document.is_some()), "{errors}");
    }
}

#[test]
fn a_policy_that_nobody_can_mean_is_refused() {
    let policy = SHOP.split("---").last().unwrap().split("spec:").nth(1).unwrap();
    let with_spec = |spec: &str| parse(&SHOP.replace(policy, &format!(" {spec}\n")));
    with_spec("{effect: permit}").unwrap();
    with_spec("{effect: permit, user: {required: false}}").unwrap();
    with_spec("{effect: forbid, ifAbsent: skip, user: {scopes: [a]}}").unwrap();
    #[rustfmt::skip]
    let table: &[(&str, &str, &str)] = &[
        ("{}", "spec", "missing field `effect`"),
        ("{effect: allow}", "spec.effect", "unknown variant `allow`"),
        ("{effect: permit, ifAbsent: skip}", "spec.ifAbsent", "only a forbid"),
        ("{effect: permit, from: {}}", "spec.from", "missing field `workloads`"),
        ("{effect: permit, from: {workloads: []}}", "spec.from.workloads", "empty list"),
        ("{effect: permit, from: {workloads: [\"*\"]}}", "spec.from.workloads[0]", "no other wildcard"),
        ("{effect: permit, from: {workloads: [\"ns/*/sa/web\"]}}", "spec.from.workloads[0]", "no other wildcard"),
        ("{effect: permit, from: {workloads: [\"ns/shop/sa/w*\"]}}", "spec.from.workloads[0]", "no other wildcard"),
        ("{effect: permit, from: {workloads: [\"spiffe://td/ns/shop/sa/web\"]}}", "spec.from.workloads[0]", "there is no FederatedTrustDomain of `td`"),
        ("{effect: permit, user: {}}", "spec.user", "expected `required: true` or conditions"),
        ("{effect: permit, user: }", "spec.user", "empty field"),
        ("{effect: permit, user: null}", "spec.user", "empty field"),
        ("{effect: permit, user: {scopes: [~]}}", "spec.user.scopes[0]", "empty field"),
        ("{effect: permit, user: {scopes: []}}", "spec.user.scopes", "empty list"),
        ("{effect: permit, user: {scopes: [\"a b\"]}}", "spec.user.scopes[0]", "one scope"),
        ("{effect: permit, user: {required: no}}", "spec.user.required", "invalid type"),
        ("{effect: permit, user: {required: false, scopes: [a]}}", "spec.user.required", "expected true"),
        ("{effect: forbid, user: {required: true}}", "spec.user.required", "a forbid cannot require a user"),
        ("{effect: permit, user: {claims: {}}}", "spec.user.claims", "got none"),
        ("{effect: permit, user: {claims: {groups: {}}}}", "spec.user.claims.groups", "anyOf, allOf or equals"),
        ("{effect: permit, user: {claims: {groups: {noneOf: [a]}}}}", "spec.user.claims.groups.noneOf", "unknown field `noneOf`"),
        ("{effect: permit, user: {cred: [password]}}", "spec.user.cred[0]", "unknown variant"),
        ("{effect: permit, user: {context: [direct]}}", "spec.user.context[0]", "unknown variant"),
        ("{effect: permit, to: {}}", "spec.to", "leave `to` out"),
        ("{effect: permit, to: {methods: [get]}}", "spec.to.methods[0]", "upper case"),
        ("{effect: permit, to: {paths: [\"/v1/*\"]}}", "spec.to.paths[0]", "no other wildcard"),
        ("{effect: permit, to: {paths: [\"/v1/{id}x\"]}}", "spec.to.paths[0]", "canonical spelling"),
        ("{effect: permit, to: {grpc: [\"*\"]}}", "spec.to.grpc[0]", "package.Service/Method"),
        ("{effect: permit, to: {hosts: [a]}}", "spec.to.hosts", "unknown field `hosts`"),
        ("{effect: permit, when: \"yes\"}", "spec.when", "got `yes`, at line 1, column 1"),
        ("{effect: permit, unless: \"true\"}", "spec.unless", "unknown field `unless`"),
    ];
    for (spec, field, reason) in table {
        let errors = with_spec(spec).expect_err(&format!("`{spec}` was taken"));
        let found = errors.iter().any(|error| error.field == *field && error.reason.contains(reason));
        assert!(found, "`{spec}` should fail at {field} with `{reason}`, not:\n{errors}");
    }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = SHOP
        .replace("defaultAction: deny", "defaultAction: maybe")
        .replace("port: 50051", "port: 0")
        .replace("effect: permit", "effect: allow");
    let errors = parse(&text).unwrap_err();
    assert_eq!(errors.iter().map(|e| e.document.unwrap()).collect::<Vec<_>>(), [1, 4, 7], "{errors}");
    let port = &errors.0[1];
    assert_eq!(
        text.lines().nth(port.line.unwrap() as usize - 1).unwrap().trim().split(',').nth(1),
        Some(" port: 0")
    );
    assert_eq!(
        port.to_string(),
        format!(
            "shop.yaml:{} (document 4): spec.ports[0].port: expected a port between 1 and 65535, got `0`",
            port.line.unwrap()
        )
    );
}

#[test]
fn a_field_that_stands_twice_is_refused() {
    let errors = with("spec: {class: sidecar}", "spec: {class: sidecar, class: gateway}").unwrap_err();
    assert!(errors.to_string().contains("class"), "{errors}");
    assert_eq!(errors.0[0].line, Some(10));
}

#[test]
fn what_yaml_adds_to_values_is_not_used() {
    // Merge keys hide where a value comes from, and `no` is a word.
    let merge = "apiVersion: signet.mesh/v1alpha1\nkind: Workload\nmetadata: {namespace: a, name: b}\nspec:\n  <<: {class: sidecar}\n";
    assert!(parse(merge).unwrap_err().to_string().contains("merge"), "{}", parse(merge).unwrap_err());
    let no = "apiVersion: signet.mesh/v1alpha1\nkind: Workload\nmetadata: {namespace: no, name: on}\nspec: {class: sidecar}\n";
    parse(no).unwrap();
}

#[test]
fn the_same_object_twice_is_refused_and_the_first_is_named() {
    let again = "---\napiVersion: signet.mesh/v1alpha1\nkind: Workload\nmetadata: {namespace: shop, name: orders}\nspec: {class: gateway}\n";
    let errors = parse(&format!("{SHOP}{again}")).unwrap_err();
    assert!(errors.0[0].reason.contains("expected one Workload `orders.shop`"), "{errors}");
    assert!(errors.0[0].reason.contains("shop.yaml:7"), "{errors}");
    let mesh = "---\napiVersion: signet.mesh/v1alpha1\nkind: Mesh\nmetadata: {name: default}\nspec: {defaultAction: allow}\n";
    assert!(parse(&format!("{SHOP}{mesh}")).unwrap_err().to_string().contains("one Mesh `default`"));
}

#[test]
fn two_services_never_share_an_address_and_port() {
    let other = |port: u16| {
        format!(
            "{SHOP}---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {{namespace: other, name: thief}}\n\
             spec: {{addresses: [10.96.0.7], ports: [{{name: a, port: {port}, protocol: tcp}}]}}\n"
        )
    };
    parse(&other(50052)).unwrap();
    let errors = parse(&other(50051)).unwrap_err();
    assert!(errors.to_string().contains("10.96.0.7 port 50051"), "{errors}");
}

#[test]
fn two_issuers_never_share_an_iss() {
    let again = SHOP
        .split("---")
        .find(|doc| doc.contains("kind: Issuer"))
        .unwrap()
        .replace("name: idp", "name: other");
    let errors = parse(&format!("{SHOP}---{again}")).unwrap_err();
    assert_eq!(errors.0[0].field, "spec.issuer", "{errors}");
}

#[test]
fn keys_are_discovered_where_their_address_is_left_out() {
    let registry = with("  jwksUri: \"http://127.0.0.1:9000/jwks\"\n", "").unwrap();
    assert!(registry.issuer("idp").unwrap().spec.jwks_uri.is_none());
    let text = SHOP
        .replace("  jwksUri: \"http://127.0.0.1:9000/jwks\"\n", "")
        .replace("issuer: \"http://127.0.0.1:9000\"", "issuer: our-idp");
    let errors = parse(&text).unwrap_err();
    assert_eq!(errors.0[0].field, "spec.issuer");
    assert!(errors.0[0].reason.contains("add jwksUri"), "{errors}");
}

#[test]
fn a_service_with_endpoints_needs_somebody_who_may_answer() {
    // Left out, it is the account of the service's own name.
    with("  identities: [ns/shop/sa/orders]\n", "").unwrap();
    let text = SHOP
        .replace("name: orders, labels: {team: a}", "name: stock")
        .replace("  identities: [ns/shop/sa/orders]\n", "");
    let errors = parse(&text.replace("ns/shop/sa/orders}", "ns/shop/sa/stock}")).unwrap_err();
    assert!(errors.to_string().contains("list the identities that serve"), "{errors}");
}

#[test]
fn canonical_json_comes_back_the_same_and_does_not_depend_on_spelling() {
    let registry = parse(SHOP).unwrap();
    let policy = registry.policies().next().unwrap();
    let json = policy.canonical_json();
    assert_eq!(&signet_model::MeshPolicy::from_json(&json).unwrap(), policy);
    let gateway = registry.gateways().next().unwrap();
    assert_eq!(&signet_model::Gateway::from_json(&gateway.canonical_json()).unwrap(), gateway);
    let issuer = registry.issuers().next().unwrap();
    assert_eq!(&signet_model::Issuer::from_json(&issuer.canonical_json()).unwrap(), issuer);
    let service = registry.services().next().unwrap();
    assert_eq!(&signet_model::Service::from_json(&service.canonical_json()).unwrap(), service);

    // Another order of fields, another spelling of the same duration, labels: the same content.
    let other = SHOP
        .replace("effect: permit\n  target: {service: orders}", "target: {service: orders}\n  effect: permit")
        .replace("labels: {team: a}", "annotations: {x: y}")
        .replace("idleTimeout: 5m", "idleTimeout: 300s");
    let other = parse(&other).unwrap();
    assert_eq!(other.policies().next().unwrap().canonical_json(), json);
    assert_eq!(other.services().next().unwrap().canonical_json(), service.canonical_json());
    assert_eq!(
        json,
        r#"{"apiVersion":"signet.mesh/v1alpha1","kind":"MeshPolicy","metadata":{"name":"gw-to-orders","namespace":"shop"},"spec":{"effect":"permit","from":{"workloads":["ns/edge/sa/gw"]},"target":{"service":"orders"},"to":{"grpc":["shop.v1.Orders/List"],"ports":["grpc"]},"user":{"claims":{"groups":{"anyOf":["staff"]}},"required":true,"scopes":["orders:read"]}}}"#
    );
}

#[test]
fn a_reader_refuses_json_that_it_does_not_know_in_full() {
    let json = parse(SHOP).unwrap().policies().next().unwrap().canonical_json();
    #[rustfmt::skip]
    let table: &[(&str, &str, &str)] = &[
        (r#""effect":"permit""#, r#""effect":"permit","freshness":"1m""#, "unknown field `freshness`"),
        (r#""effect":"permit""#, r#""effect":"permit","effect":"forbid""#, "stands twice"),
        (r#""groups":{"anyOf":["staff"]}"#, r#""groups":{"anyOf":["staff"]},"groups":{"equals":"x"}"#, "stands twice"),
        (r#""required":true"#, r#""required":null"#, "empty field"),
        (r#""kind":"MeshPolicy""#, r#""kind":"Gateway""#, "expected MeshPolicy, got `Gateway`"),
        (r#""apiVersion":"signet.mesh/v1alpha1""#, r#""apiVersion":"signet.mesh/v2""#, "got `signet.mesh/v2`"),
        (r#""namespace":"shop""#, r#""uid":"1""#, "unknown field `uid`"),
        (r#"{"apiVersion""#, r#"[{"apiVersion""#, "expected a JSON document"),
    ];
    for (from, to, reason) in table {
        assert!(json.contains(from), "{from}");
        let error = signet_model::MeshPolicy::from_json(&json.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(reason), "`{to}` gave `{error}`");
    }
    for text in ["", "null", "[]", "1", "{}"] {
        signet_model::MeshPolicy::from_json(text).unwrap_err();
    }
}

#[test]
fn the_most_specific_route_wins_in_any_order() {
    let route = |name: &str, host: &str, prefix: &str| {
        format!(
            "{{name: {name}, hosts: [\"{host}\"], pathPrefix: {prefix}, service: orders.shop, port: grpc, auth: {{anonymous: true}}}}"
        )
    };
    let routes = [
        route("any", "*", "/"),
        route("any-shop", "*", "/shop"),
        route("suffix", "*.example.com", "/"),
        route("long-suffix", "*.eu.example.com", "/"),
        route("exact", "a.example.com", "/"),
        route("exact-deep", "a.example.com", "/shop/x"),
    ];
    let old = SHOP.lines().find(|line| line.contains("- {name: shop")).unwrap();
    let mut orders = vec![routes.to_vec()];
    orders.push(routes.iter().rev().cloned().collect());
    for order in orders {
        let lines: String = order.iter().map(|route| format!("    - {route}\n")).collect();
        let registry = parse(&SHOP.replace(&format!("{old}\n"), &lines)).unwrap();
        let gateway = registry.gateways().next().unwrap();
        for (host, path, name) in [
            ("other.org", "/", "any"),
            ("other.org", "/shop", "any-shop"),
            ("other.org", "/shop/1", "any-shop"),
            ("other.org", "/shopping", "any"),
            ("b.example.com", "/shop", "suffix"),
            ("b.eu.example.com", "/", "long-suffix"),
            ("example.com", "/", "any"),
            ("A.Example.com", "/shop", "exact"),
            ("a.example.com", "/shop/x/y", "exact-deep"),
        ] {
            assert_eq!(gateway.spec.route(host, path).unwrap().name, *name, "{host}{path}");
        }
    }
}

#[test]
fn two_routes_for_the_same_place_are_refused() {
    let old = SHOP.lines().find(|line| line.contains("- {name: shop")).unwrap();
    let errors =
        parse(&SHOP.replace(old, &format!("{old}\n{}", old.replace("name: shop", "name: two")))).unwrap_err();
    assert!(errors.to_string().contains("expected one route for host `*` and prefix `/`"), "{errors}");
}

#[test]
fn a_port_without_a_protocol_speaks_what_its_name_says() {
    for (name, protocol) in [
        ("http", Protocol::Http1),
        ("http-admin", Protocol::Http1),
        ("http2", Protocol::Http2),
        ("h2c", Protocol::Http2),
        ("grpc-web", Protocol::Grpc),
        ("https", Protocol::Tcp),
        ("redis-main", Protocol::Tcp),
        ("web", Protocol::Auto),
        ("httpx", Protocol::Auto),
    ] {
        let text = format!(
            "apiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {{namespace: shop, name: web}}\n\
             spec: {{ports: [{{name: {name}, port: 80}}]}}\n"
        );
        let registry = parse_text(Path::new("r.yaml"), &text, &Options::default()).unwrap();
        let service = registry.services().next().unwrap();
        assert_eq!(service.spec.ports[0].protocol, protocol, "{name}");
        // Written back it is said, so that no reader need guess.
        assert!(service.canonical_json().contains(&format!(r#""protocol":"{}""#, protocol.as_str())));
    }
}

/// A service of shop with one port and one endpoint, served by `orders`.
fn endpoint_of(name: &str, port: u16, address: &str) -> String {
    format!(
        "---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  \
         identities: [ns/shop/sa/orders]\n  ports: [{{name: main, port: {port}, protocol: http}}]\n  \
         endpoints: [{{address: '{address}', ports: {{main: 17200}}}}]\n"
    )
}

#[test]
fn an_endpoints_own_address_and_a_port_mean_one_service_and_the_second_is_named() {
    let two = |first: (u16, &str), second: (u16, &str)| {
        parse(
            &[SHOP, &endpoint_of("one", first.0, first.1), &endpoint_of("two", second.0, second.1)].concat(),
        )
    };
    two((80, "192.0.2.1"), (81, "192.0.2.1")).expect("the port decides");
    two((80, "192.0.2.1"), (80, "192.0.2.2")).expect("the address decides");
    two((80, "127.0.0.1"), (80, "127.0.0.1")).expect("nobody else's app dials a loopback address");
    for (first, second) in [("192.0.2.1", "192.0.2.1"), ("fd00::1", "fd00:0::1")] {
        let refused = two((80, first), (80, second)).unwrap_err().to_string();
        assert!(refused.contains("spec.endpoints[0].ports.main"), "{refused}");
        assert!(refused.contains("got 80, which is also `one.shop`'s"), "{refused}");
    }
    // Nor may it be another service's virtual address; its own, yes.
    let refused = two((50051, "10.96.0.7"), (80, "192.0.2.1")).unwrap_err().to_string();
    assert!(refused.contains("at 10.96.0.7 for no other service, got 50051"), "{refused}");
    with("address: 127.0.0.1", "address: 10.96.0.7").expect("the service's own address");
}

#[test]
fn a_port_is_permissive_only_until_a_date_and_only_where_nobody_asks_who_calls() {
    let db = "{name: db, port: 5432, protocol: tcp, idleTimeout: 5m, onExpiry: cut}";
    let permissive = |until: &str| db.replace("onExpiry: cut", &format!("permissive: {{{until}}}"));
    let date = "until: '2027-01-31T18:00:00Z'";
    // What asks is on another port; the users' own tokens are not taken.
    let shop = |more: &str| {
        let text =
            SHOP.replace(db, &permissive(date)).replace("userContext: original", "userContext: transaction");
        parse(&format!("{text}{more}"))
    };
    let registry = shop("").unwrap();
    let orders = registry.service(&"orders.shop".parse().unwrap()).unwrap();
    assert_eq!(orders.port("db").unwrap().permissive.unwrap().until.to_string(), "2027-01-31T18:00:00Z");
    assert!(orders.port("grpc").unwrap().permissive.is_none());

    let refused = with(db, &permissive(date)).unwrap_err().to_string();
    assert!(
        refused.contains("spec.ports[1].permissive") && refused.contains("userContext: original"),
        "{refused}"
    );
    for (field, reason) in [
        ("until: tomorrow", "RFC 3339"),
        ("", "missing field `until`"),
        ("until: '2027-01-31T18:00:00Z', for: everybody", "unknown field `for`"),
    ] {
        let refused = with(db, &permissive(field)).unwrap_err().to_string();
        assert!(refused.contains(reason), "{field}: {refused}");
    }
    let policy = |spec: &str| {
        format!(
            "---\napiVersion: signet.mesh/v1alpha1\nkind: MeshPolicy\nmetadata: {{namespace: shop, name: p}}\nspec: {spec}\n"
        )
    };
    for spec in [
        "{effect: permit}",
        "{effect: forbid, to: {ports: [grpc]}, from: {workloads: [ns/shop/sa/orders]}}",
        "{effect: permit, to: {ports: [db]}}",
    ] {
        shop(&policy(spec)).unwrap_or_else(|error| panic!("{spec}: {error}"));
    }
    for (spec, field) in [
        ("{effect: permit, from: {workloads: [ns/shop/sa/orders]}}", "spec.from"),
        (
            "{effect: forbid, target: {service: orders}, from: {workloads: [ns/edge/sa/gw]}, to: {ports: [db]}}",
            "spec.from",
        ),
        ("{effect: permit, mode: shadow, from: {workloads: [ns/edge/sa/gw]}}", "spec.from"),
        ("{effect: permit, user: {required: true}}", "spec.user"),
        ("{effect: forbid, user: {scopes: [x]}}", "spec.user"),
        ("{effect: permit, to: {methods: [GET]}}", "spec.to.methods"),
        ("{effect: permit, to: {paths: [/a], ports: [grpc, db]}}", "spec.to.paths"),
        ("{effect: permit, to: {grpc: [a.B/C]}}", "spec.to.grpc"),
    ] {
        let refused = shop(&policy(spec)).unwrap_err().to_string();
        assert!(refused.contains("spec.ports[1].permissive"), "{spec}: {refused}");
        assert!(
            refused.contains(&format!("of which MeshPolicy `p.shop` does by {field}")),
            "{spec}: {refused}"
        );
    }
    let federated = "---\napiVersion: signet.mesh/v1alpha1\nkind: FederatedTrustDomain\nmetadata: {name: partner}\n\
        spec: {trustDomain: partner.example, url: 'https://partner.example/b', profile: {https_web: {}}}\n\
        ---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {namespace: shop, name: theirs}\n\
        spec: {federatedIdentity: 'spiffe://partner.example/ns/a/sa/b', ports: [{name: p, port: 80, protocol: http, permissive: {until: '2027-01-31T18:00:00Z'}}]}\n";
    let refused = shop(federated).unwrap_err().to_string();
    assert!(refused.contains("expected none beside federatedIdentity"), "{refused}");
}
