//! Routes and traffic policies: what they mean is in the proxy; here, what may be written.

use std::path::Path;

use signet_model::{AnyRoute, Options, Registry, RegistryErrors, TrafficPolicy, parse_text};

const SERVICES: &str = r#"
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec:
  ports:
    - {name: http, port: 80, protocol: http}
    - {name: grpc, port: 50051, protocol: grpc}
    - {name: db, port: 5432, protocol: tcp}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders-v2}
spec:
  ports:
    - {name: http, port: 8080, protocol: http}
    - {name: grpc, port: 50051, protocol: grpc}
"#;

fn registry(documents: &str) -> Result<Registry, RegistryErrors> {
    parse_text(Path::new("r.yaml"), &format!("{SERVICES}---\n{documents}"), &Options::default())
}

fn route(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{namespace: shop, name: r}}\nspec: {spec}\n"
    )
}

fn traffic(spec: &str) -> String {
    format!(
        "apiVersion: signet.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{namespace: shop, name: t}}\nspec: {spec}\n"
    )
}

const TO_ORDERS: &str = "parentRefs: [{kind: Service, name: orders, port: 80}]";
const ORDERS: &str = "backendRefs: [{name: orders, port: 80}]";

#[test]
fn a_route_is_read_and_written_back_the_same() {
    let text = route(
        "HTTPRoute",
        r#"
  parentRefs: [{group: "", kind: Service, name: orders, port: 80}]
  hostnames: [orders.shop, "*.example.com"]
  rules:
    - name: canary
      matches:
        - {path: {type: Exact, value: /v1}, method: GET, headers: [{name: X-A, value: b}], queryParams: [{name: q, value: "1"}]}
      filters:
        - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-b, value: c}], add: [{name: x-c, value: d}], remove: [x-d]}}
        - {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /v2}}}
        - {type: RequestMirror, requestMirror: {backendRef: {name: orders-v2, port: 8080}, fraction: {numerator: 1, denominator: 4}}}
      backendRefs: [{name: orders, port: 80, weight: 9}, {name: orders-v2, namespace: shop, port: 8080}]
      timeouts: {request: 1m30s, backendRequest: 500ms}
      retry: {codes: [503], attempts: 2, backoff: 10ms}
    - matches: [{path: {value: /old}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example.com, statusCode: 301}}]
"#,
    );
    let registry = registry(&text).unwrap();
    let read = registry.routes().next().unwrap();
    let json = read.canonical_json();
    assert_eq!(AnyRoute::from_json(&json).unwrap(), *read);
    assert!(json.starts_with(r#"{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute""#), "{json}");
    assert_eq!(AnyRoute::from_json(&json).unwrap().canonical_json(), json);
    let names: Vec<_> = read.backends().into_iter().map(|(_, name, _)| name.to_string()).collect();
    assert_eq!(names, ["orders.shop", "orders-v2.shop", "orders-v2.shop"]);
}

#[test]
fn a_callers_own_routes_stand_instead_of_the_services() {
    let producer = route("HTTPRoute", &format!("{{{TO_ORDERS}, rules: [{{{ORDERS}}}]}}"));
    let consumer = producer
        .replace("namespace: shop, name: r", "namespace: web, name: own")
        .replace("name: orders", "name: orders, namespace: shop");
    let registry = registry(&format!("{producer}---\n{consumer}")).unwrap();
    let orders = "orders.shop".parse().unwrap();
    let names = |caller: &str| -> Vec<String> {
        let routes = registry.routes_for(&orders, &caller.parse().unwrap());
        routes.iter().map(|route| route.name().to_string()).collect()
    };
    assert_eq!(names("shop"), ["r.shop"]);
    assert_eq!(names("batch"), ["r.shop"]);
    assert_eq!(names("web"), ["own.web"]);
}

#[test]
fn what_a_route_cannot_mean_is_refused_in_its_place() {
    let http = |rest: &str| route("HTTPRoute", &format!("{{{TO_ORDERS}, rules: [{{{rest}}}]}}"));
    for (text, field, reason) in [
        (http("backendRefs: []"), "spec.rules[0].backendRefs", "at least one backend"),
        (
            http("backendRefs: [{name: orders, port: 81}]"),
            "spec.rules[0].backendRefs[0].port",
            "a port that callers",
        ),
        (
            http("backendRefs: [{name: orders, port: 5432}]"),
            "spec.rules[0].backendRefs[0].port",
            "speaks HTTP",
        ),
        (
            http("backendRefs: [{name: orders, port: 50051}]"),
            "spec.rules[0].backendRefs[0].port",
            "speaks HTTP/1.1",
        ),
        (http("backendRefs: [{name: nobody, port: 80}]"), "spec.rules[0].backendRefs[0].name", "nobody.shop"),
        (
            http(&format!("{ORDERS}, matches: [{{path: {{type: RegularExpression, value: /a}}}}]")),
            "spec.rules[0].matches[0].path.type",
            "RegularExpression",
        ),
        (
            http(&format!("{ORDERS}, matches: [{{path: {{value: /a/../b}}}}]")),
            "spec.rules[0].matches[0].path.value",
            "`.`",
        ),
        (
            http(&format!("{ORDERS}, filters: [{{type: URLRewrite}}]")),
            "spec.rules[0].filters[0].urlRewrite",
            "got nothing",
        ),
        (
            http(&format!(
                "{ORDERS}, filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: Txn_Token, value: x}}]}}}}]"
            )),
            "spec.rules[0].filters[0].requestHeaderModifier",
            "txn_token",
        ),
        (
            http(&format!(
                "{ORDERS}, filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{remove: [Content-Length]}}}}]"
            )),
            "spec.rules[0].filters[0].requestHeaderModifier",
            "content-length",
        ),
        (
            http(&format!(
                "{ORDERS}, filters: [{{type: RequestRedirect, requestRedirect: {{statusCode: 301}}}}]"
            )),
            "spec.rules[0].filters[0].requestRedirect",
            "a redirect to itself",
        ),
        (
            http(&format!(
                "{ORDERS}, matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /b}}}}}}]"
            )),
            "spec.rules[0].filters",
            "PathPrefix",
        ),
        (http(&format!("{ORDERS}, retry: {{codes: [200]}}")), "spec.rules[0].retry.codes[0]", "400 to 599"),
        (
            http(&format!("{ORDERS}, timeouts: {{request: 1d}}")),
            "spec.rules[0].timeouts.request",
            "a duration",
        ),
        (
            http(&format!("{ORDERS}, sessionPersistence: {{}}")),
            "spec.rules[0].sessionPersistence",
            "unknown field",
        ),
        (
            route(
                "HTTPRoute",
                &format!(
                    "{{parentRefs: [{{kind: Service, name: orders, port: 5432}}], rules: [{{{ORDERS}}}]}}"
                ),
            ),
            "spec.parentRefs[0]",
            "speaks HTTP",
        ),
        (
            route(
                "HTTPRoute",
                &format!("{{parentRefs: [{{kind: Service, name: orders}}], rules: [{{{ORDERS}}}]}}"),
            ),
            "spec.parentRefs[0]",
            "one version of HTTP",
        ),
        (
            route("GRPCRoute", &format!("{{{TO_ORDERS}, rules: [{{{ORDERS}}}]}}")),
            "spec.parentRefs[0]",
            "speaks gRPC",
        ),
        (
            route(
                "GRPCRoute",
                "{parentRefs: [{kind: Service, name: orders, sectionName: grpc}], rules: [{matches: [{method: {}}], backendRefs: [{name: orders, port: 50051}]}]}",
            ),
            "spec.rules[0].matches[0].method",
            "neither",
        ),
    ] {
        let errors = registry(&text).expect_err(&text);
        let found = errors.iter().any(|error| error.field == field && error.reason.contains(reason));
        assert!(found, "{field} {reason}: {errors}");
        assert!(errors.iter().all(|error| error.line.is_some()), "{errors}");
    }
}

#[test]
fn a_route_is_of_the_gateway_api_and_a_traffic_policy_is_ours() {
    let ours = route("HTTPRoute", &format!("{{{TO_ORDERS}, rules: [{{{ORDERS}}}]}}"))
        .replace("gateway.networking.k8s.io/v1", "signet.mesh/v1alpha1");
    let errors = registry(&ours).unwrap_err();
    assert!(errors.to_string().contains("expected `gateway.networking.k8s.io/v1`"), "{errors}");
    let theirs = traffic("{target: {service: orders}}")
        .replace("signet.mesh/v1alpha1", "gateway.networking.k8s.io/v1");
    assert!(registry(&theirs).unwrap_err().to_string().contains("expected `signet.mesh/v1alpha1`"));
}

#[test]
fn a_traffic_policy_is_read_with_its_defaults_and_written_back() {
    let text = traffic(
        r#"
  target: {service: orders, port: http}
  retry: {statuses: [502, 503], grpcCodes: [UNAVAILABLE], onReset: true}
  outlierDetection: {}
  timeouts: {stream: 1h}
  rateLimits:
    - {name: each, key: [workload, user], requests: 100, per: 1s, burst: 200, to: {methods: [GET]}}
  faults:
    - {to: {paths: ["/v1/{id}"]}, delay: {percent: 10, time: 100ms}, abort: {percent: 1, status: 503}}
"#,
    );
    let registry = registry(&text).unwrap();
    let policy = registry.traffic_policies().next().unwrap();
    let retry = policy.spec.retry.as_ref().unwrap();
    assert_eq!((retry.attempts, retry.max_body_bytes, retry.budget.percent), (2, 65_536, 20));
    let outlier = policy.spec.outlier_detection.as_ref().unwrap();
    assert_eq!((outlier.consecutive_failures, outlier.max_ejected_percent), (5, 50));
    assert_eq!(TrafficPolicy::from_json(&policy.canonical_json()).unwrap(), *policy);
    assert_eq!(registry.traffic_for(&"orders.shop".parse().unwrap()).count(), 1);
    assert_eq!(registry.traffic_for(&"orders-v2.shop".parse().unwrap()).count(), 0);
}

#[test]
fn what_a_traffic_policy_cannot_mean_is_refused_in_its_place() {
    let of = |rest: &str| traffic(&format!("{{target: {{service: orders}}, {rest}}}"));
    for (text, field, reason) in [
        (traffic("{target: {service: nobody}}"), "spec.target.service", "nobody"),
        (traffic("{target: {service: orders, port: db}}"), "spec.target.port", "tcp"),
        (of("retry: {attempts: 3}"), "spec.retry.", "nothing would ever be tried again"),
        (of("retry: {statuses: [503], attempts: 11}"), "spec.retry.attempts", "1 to 10"),
        (of("retry: {statuses: [503], maxBodyBytes: 1048577}"), "spec.retry.maxBodyBytes", "at most"),
        (of("retry: {grpcCodes: [OK]}"), "spec.retry.grpcCodes[0]", "OK"),
        (
            of("outlierDetection: {baseEjection: 10s, maxEjection: 1s}"),
            "spec.outlierDetection.maxEjection",
            "at least baseEjection",
        ),
        (of("rateLimits: [{name: a, requests: 0, per: 1s}]"), "spec.rateLimits[0].requests", "1 to"),
        (
            of("rateLimits: [{name: a, requests: 1, per: 1s, to: {ports: [db]}}]"),
            "spec.rateLimits[0].to.ports[0]",
            "tcp",
        ),
        (
            of("rateLimits: [{name: a, key: [user, user], requests: 1, per: 1s}]"),
            "spec.rateLimits[0].key[1]",
            "once",
        ),
        (of("faults: [{to: {methods: [GET]}}]"), "spec.faults[0]", "a delay or an abort"),
        (of("faults: [{abort: {percent: 101, status: 500}}]"), "spec.faults[0].abort.percent", "0 to 100"),
        (of("faults: [{abort: {percent: 1, status: 200}}]"), "spec.faults[0].abort.status", "400 to 599"),
    ] {
        let errors = registry(&text).expect_err(&text);
        let found = errors.iter().any(|error| error.field == field && error.reason.contains(reason));
        assert!(found, "{field} {reason}: {errors}");
    }
    let two = format!(
        "{}---\n{}",
        traffic("{target: {service: orders}}"),
        traffic("{target: {service: orders}}").replace("name: t", "name: u")
    );
    assert!(registry(&two).unwrap_err().to_string().contains("one TrafficPolicy for it"));
}
