//! ReferenceGrants: who may refer to the services of another namespace.

use std::path::Path;

use signet_model::{AnyRoute, GivenRoutes, Options, ReferenceGrant, Registry, RegistryErrors, parse_text};

const MESH: &str = "apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec: {ports: [{name: http, port: 80, protocol: http}, {name: pg, port: 5432, protocol: tcp}]}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: returns}
spec: {ports: [{name: http, port: 80, protocol: http}]}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: checkout, name: basket}
spec: {ports: [{name: http, port: 80, protocol: http}]}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: edge, name: gw}
spec: {class: gateway}
---
apiVersion: signet.mesh/v1alpha1
kind: Gateway
metadata: {namespace: edge, name: gw}
spec:
  identity: ns/edge/sa/gw
  listeners: [{name: pg, port: 5432, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}]
";

fn registry(documents: &str) -> Result<Registry, RegistryErrors> {
    parse_text(Path::new("r.yaml"), &format!("{MESH}{documents}"), &Options::default())
}

fn grant(spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{namespace: shop, name: g}}\nspec: {spec}\n"
    )
}

fn route(kind: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: r}}\nspec: {spec}\n"
    )
}

const BASKET_TO_SHOP: &str = "{parentRefs: [{kind: Service, name: basket}], rules: [{backendRefs: [{name: basket, port: 80}, \
    {name: orders, namespace: shop, port: 80}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: returns, \
    namespace: shop, port: 80}}}]}]}";

const LETS: &str = "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: checkout}], to: [{group: '', kind: Service}]}";

fn refused(documents: &str) -> Vec<String> {
    let read = registry(documents).unwrap_or_else(|errors| panic!("{errors}"));
    let route = read.routes().next().unwrap();
    read.refused_to(route).iter().map(ToString::to_string).collect()
}

#[test]
fn a_route_leads_into_another_namespace_only_where_that_one_lets_it() {
    let route = route("HTTPRoute", "checkout", BASKET_TO_SHOP);
    assert_eq!(refused(&route), ["orders.shop", "returns.shop"], "a copy is a reference too");
    assert!(refused(&format!("{route}{}", grant(LETS))).is_empty());
    let one = LETS.replace("kind: Service", "kind: Service, name: orders");
    assert_eq!(refused(&format!("{route}{}", grant(&one))), ["returns.shop"]);
    for other in [
        LETS.replace("kind: HTTPRoute", "kind: GRPCRoute"),
        LETS.replace("namespace: checkout", "namespace: edge"),
        LETS.replace("group: gateway.networking.k8s.io", "group: example.com"),
        LETS.replace("kind: Service", "kind: Secret"),
        LETS.replace("group: ''", "group: example.com"),
        LETS.replace("kind: Service", "kind: Service, name: order"),
    ] {
        assert_eq!(refused(&format!("{route}{}", grant(&other))), ["orders.shop", "returns.shop"], "{other}");
    }
    // A namespace speaks for itself alone.
    let elsewhere = grant(LETS).replace("namespace: shop, name: g", "namespace: checkout, name: g");
    assert_eq!(refused(&format!("{route}{elsewhere}")), ["orders.shop", "returns.shop"]);
}

#[test]
fn a_route_inside_the_mesh_may_lead_where_its_callers_went_and_at_a_gateway_may_not() {
    let rules = "rules: [{backendRefs: [{name: orders, namespace: shop, port: 5432}]}]";
    let service = "{kind: Service, name: orders, namespace: shop, port: 5432}";
    let gateway = "{name: gw, namespace: edge}";
    let of = |parents: &str| {
        refused(&route("TCPRoute", "checkout", &format!("{{parentRefs: [{parents}], {rules}}}")))
    };
    assert!(of(service).is_empty());
    assert_eq!(of(gateway), ["orders.shop"]);
    assert_eq!(of(&format!("{service}, {gateway}")), ["orders.shop"], "not by a parent of both kinds either");
}

#[test]
fn what_is_refused_is_said_in_words_and_the_registry_is_in_force() {
    let read = registry(&route("HTTPRoute", "checkout", BASKET_TO_SHOP)).unwrap();
    let warnings = read.warnings();
    assert_eq!(warnings.len(), 2);
    assert_eq!(
        warnings[0],
        "HTTPRoute `r.checkout`: spec.rules[0].backendRefs[1]: expected a ReferenceGrant in namespace `shop` that lets each HTTPRoute \
         of `checkout` refer to Service `orders`, got none: its share gets nothing"
    );
    assert!(warnings[1].contains("spec.rules[0].filters[0].requestMirror.backendRef"), "{}", warnings[1]);
}

#[test]
fn a_grant_is_read_and_written_back_and_what_is_wrong_in_it_is_said() {
    let text = grant(LETS);
    for version in ["v1", "v1beta1"] {
        registry(&text.replace("k8s.io/v1\n", &format!("k8s.io/{version}\n"))).unwrap();
    }
    let json = r#"{"apiVersion":"gateway.networking.k8s.io/v1","kind":"ReferenceGrant","metadata":{"name":"g","namespace":"shop"},"spec":{"from":[{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","namespace":"checkout"}],"to":[{"group":"","kind":"Service"}]}}"#;
    assert_eq!(ReferenceGrant::from_json(json).unwrap().canonical_json(), json);
    let of_gateways =
        LETS.replace("kind: HTTPRoute", "kind: Gateway").replace("kind: Service", "kind: Secret");
    registry(&grant(&of_gateways)).expect("a grant for other programs");
    for (from, to, reason) in [
        (
            "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: checkout}]",
            "from: []",
            "spec.from",
        ),
        ("to: [{group: '', kind: Service}]", "to: []", "spec.to"),
        ("kind: HTTPRoute", "kind: httproute", "spec.from[0].kind: expected a kind"),
        ("kind: HTTPRoute", "kind: 'HTTP Route'", "got `HTTP Route`"),
        ("namespace: checkout", "namespace: Checkout", "spec.from[0].namespace"),
        ("namespace: checkout", "namespace: checkout, name: r", "unknown field"),
        ("group: ''", "group: 'a/b'", "spec.to[0].group: expected a group"),
        ("kind: Service}]", "kind: Service, namespace: shop}]", "unknown field"),
    ] {
        assert!(LETS.contains(from), "{from}");
        let errors = registry(&grant(&LETS.replace(from, to))).expect_err(to).to_string();
        assert!(errors.contains(reason), "{to}: {errors}");
    }
    let many = vec!["{group: '', kind: Service}"; 17].join(", ");
    let errors =
        registry(&grant(&LETS.replace("{group: '', kind: Service}", &many))).expect_err("17").to_string();
    assert!(errors.contains("spec.to: expected at most 16, got 17"), "{errors}");
    let twice = registry(&format!("{text}{text}")).expect_err("twice").to_string();
    assert!(twice.contains("expected one ReferenceGrant"), "{twice}");
}

#[test]
fn a_reader_knows_of_each_route_what_it_was_refused() {
    let json = |name: &str| {
        let text = format!(
            r#"{{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{{"name":"{name}","namespace":"shop"}},"spec":{{"parentRefs":[{{"kind":"Service","name":"orders"}}],"rules":[{{"backendRefs":[{{"name":"orders","port":80}}]}}]}}}}"#
        );
        AnyRoute::from_json(&text).unwrap()
    };
    let mut given = GivenRoutes::default();
    given.add(json("a"), ["orders.shop".parse().unwrap()]);
    given.add(json("b"), []);
    let refused: Vec<_> = given.iter().map(|route| route.refuses(&"orders.shop".parse().unwrap())).collect();
    assert_eq!(refused, [true, false]);
}
