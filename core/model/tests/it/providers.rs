//! Who is asked besides policies, and how users are told: what the registry refuses, and where it says so.

use std::path::Path;

use signet_model::{Options, Registry, parse_text};

fn parse(text: &str) -> Result<Registry, String> {
    let text = text.replace("kind: ", "apiVersion: signet.mesh/v1alpha1\nkind: ");
    parse_text(Path::new("t.yaml"), &text, &Options::default()).map_err(|errors| {
        errors.iter().map(|error| format!("{}: {}", error.field, error.reason)).collect::<Vec<_>>().join("\n")
    })
}

const WORLD: &str = "\
kind: Service
metadata: {namespace: shop, name: orders}
spec: {ports: [{name: http, port: 80, protocol: http1}, {name: db, port: 5432, protocol: tcp}]}
---
kind: Service
metadata: {namespace: shop, name: authz}
spec: {ports: [{name: grpc, port: 9191, protocol: grpc}, {name: http, port: 80, protocol: http1}]}
";

fn registry(provider: &str, policy: &str) -> Result<Registry, String> {
    parse(&format!(
        "{WORLD}---\nkind: AuthorizationProvider\nmetadata: {{namespace: shop, name: asked}}\nspec: {provider}\n\
         ---\nkind: MeshPolicy\nmetadata: {{namespace: shop, name: p}}\nspec: {policy}\n"
    ))
}

const ASKED: &str = "{service: authz.shop, port: grpc}";
const ASKS: &str = "{effect: external, provider: asked, target: {service: orders}, to: {ports: [http]}}";

#[test]
fn a_provider_has_one_place_and_lists_nothing_that_is_not_its_to_see_or_set() {
    let registry_ok = registry(ASKED, ASKS).unwrap();
    let provider = registry_ok.providers().next().unwrap();
    assert_eq!(provider.spec.timeout.to_string(), "200ms");
    assert_eq!(registry_ok.providers_of(&"orders.shop".parse().unwrap()).count(), 1);
    assert_eq!(registry_ok.providers_of(&"authz.shop".parse().unwrap()).count(), 0);
    let again = signet_model::AuthorizationProvider::from_json(&provider.canonical_json()).unwrap();
    assert_eq!(again, *provider);
    for good in [
        "{local: '127.0.0.1:9191'}",
        "{local: '[::1]:9191'}",
        "{local: 'unix:/run/authz/socket', timeout: 5s, maxChecks: 4096, includeHeaders: [authorization, x-tenant]}",
    ] {
        registry(good, ASKS).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    for (provider, message) in [
        ("{}", "spec: expected either `service` and `port`, or `local`"),
        (
            "{service: authz.shop}",
            "spec.port: expected the name of the service's port that speaks gRPC, got nothing",
        ),
        ("{service: authz.shop, port: grpc, local: '127.0.0.1:1'}", "spec: expected either"),
        (
            "{service: none.shop, port: grpc}",
            "spec.service: expected a service of the registry, got `none.shop`",
        ),
        (
            "{service: authz.shop, port: none}",
            "spec.port: expected the name of a port of `authz.shop`, got `none`",
        ),
        (
            "{service: authz.shop, port: http}",
            "spec.port: expected a port that speaks gRPC, got `http`, which is http1",
        ),
        ("{local: '10.0.0.1:9191'}", "expected a loopback address with a port"),
        ("{local: '127.0.0.1:0'}", "expected a loopback address with a port"),
        ("{local: 'unix:run/x'}", "expected a loopback address with a port"),
        ("{local: 'unix:/run/../x'}", "expected a loopback address with a port"),
        ("{local: '127.0.0.1:1', timeout: 6s}", "spec.timeout: expected at most 5s, got 6s"),
        ("{local: '127.0.0.1:1', maxChecks: 0}", "spec.maxChecks: expected 1 to 4096, got 0"),
        (
            "{local: '127.0.0.1:1', includeHeaders: [Txn_Token]}",
            "spec.includeHeaders[0]: expected another header than `txn_token`",
        ),
        ("{local: '127.0.0.1:1', includeHeaders: [a, a]}", "spec.includeHeaders[1]: `a` stands twice"),
        (
            "{local: '127.0.0.1:1', allowedUpstreamHeaders: [a, signet-user]}",
            "spec.allowedUpstreamHeaders[1]: expected another header",
        ),
        (
            "{local: '127.0.0.1:1', allowedUpstreamHeaders: [Host]}",
            "it belongs to the message or its connection",
        ),
        (
            "{local: '127.0.0.1:1', allowedDownstreamHeaders: [transfer-encoding]}",
            "it belongs to the message or its connection",
        ),
        ("{local: '127.0.0.1:1', failOpen: true}", "unknown field"),
    ] {
        let said = registry(provider, ASKS).expect_err(provider);
        assert!(said.contains(message), "{provider}: {said}");
    }
}

#[test]
fn a_policy_asks_somebody_who_is_there_about_requests_and_nobody_about_itself() {
    for (policy, message) in [
        (
            "{effect: external}",
            "spec.provider: expected the name of an AuthorizationProvider of this namespace, got nothing",
        ),
        ("{effect: permit, provider: asked}", "spec.provider: expected none"),
        ("{effect: forbid, provider: asked}", "spec.provider: expected none"),
        (
            "{effect: external, provider: none, target: {service: orders}, to: {ports: [http]}}",
            "spec.provider: expected an AuthorizationProvider of namespace `shop`, got `none`",
        ),
        (
            "{effect: external, provider: asked, target: {service: orders}}",
            "spec.to.ports: expected ports that speak HTTP, got `db` of `orders.shop`, which is tcp",
        ),
        (
            "{effect: external, provider: asked, to: {ports: [http]}}",
            "expected a provider that does not ask about itself, got `asked`",
        ),
        (
            "{effect: external, provider: asked, mode: shadow, target: {service: orders}, to: {ports: [http]}}",
            "spec.mode: expected enforce",
        ),
        (
            "{effect: external, provider: asked, target: {service: orders}, to: {ports: [http]}, user: {required: true}}",
            "spec.user.required: expected none",
        ),
    ] {
        let said = registry(ASKED, policy).expect_err(policy);
        assert!(said.contains(message), "{policy}: {said}");
    }
    // By way of another.
    let around = format!(
        "{WORLD}---\nkind: Service\nmetadata: {{namespace: shop, name: other}}\nspec: {{ports: [{{name: grpc, port: 9192, protocol: grpc}}]}}\n\
         ---\nkind: AuthorizationProvider\nmetadata: {{namespace: shop, name: a}}\nspec: {ASKED}\n\
         ---\nkind: AuthorizationProvider\nmetadata: {{namespace: shop, name: b}}\nspec: {{service: other.shop, port: grpc}}\n\
         ---\nkind: MeshPolicy\nmetadata: {{namespace: shop, name: p}}\nspec: {{effect: external, provider: a, target: {{service: other}}}}\n\
         ---\nkind: MeshPolicy\nmetadata: {{namespace: shop, name: q}}\nspec: {{effect: external, provider: b, target: {{service: authz}}}}\n"
    );
    assert!(parse(&around).unwrap_err().contains("does not ask about itself"));
    let permissive = WORLD.replace(
        "protocol: http1}, {name: db",
        "protocol: http1, permissive: {until: 2036-01-01T00:00:00Z}}, {name: db",
    );
    let text = format!(
        "{permissive}---\nkind: AuthorizationProvider\nmetadata: {{namespace: shop, name: asked}}\nspec: {ASKED}\n---\nkind: MeshPolicy\nmetadata: {{namespace: shop, name: p}}\nspec: {ASKS}\n"
    );
    let said = parse(&text).unwrap_err();
    assert!(
        said.contains("spec.ports[0].permissive: expected a port on which no policy asks who calls"),
        "{said}"
    );
}

#[test]
fn users_are_told_by_names_that_mean_nothing_else() {
    let service = |headers: &str| {
        parse(&format!(
            "kind: Service\nmetadata: {{namespace: shop, name: orders}}\nspec:\n  ports: [{{name: http, port: 80, protocol: http1}}]\n  userHeaders: {headers}\n"
        ))
    };
    let registry = service("{header: X-JWT-Payload, claimHeaders: {X-Groups: groups, x-id: sub}}").unwrap();
    let headers = &registry.services().next().unwrap().spec.user_headers;
    assert_eq!(headers.header.as_ref().unwrap().as_str(), "x-jwt-payload");
    assert_eq!(headers.claim_headers.len(), 2);
    for (headers, message) in [
        ("{header: host}", "spec.userHeaders.header: expected another header than `host`"),
        ("{header: x_user}", "with `_`, which many servers take for `-` or drop"),
        ("{header: signet-user}", "it is the mesh's own already"),
        (
            "{claimHeaders: {authorization: sub}}",
            "spec.userHeaders.claimHeaders.authorization: expected another header",
        ),
        ("{claimHeaders: {x-forwarded-for: ip}}", "it has a meaning of its own"),
        ("{claimHeaders: {content-length: n}}", "expected another header"),
        ("{header: x-a, claimHeaders: {x-a: b}}", "expected another header than the one that has everything"),
        ("{claimHeaders: {}}", "claimHeaders"),
        ("{claimHeaders: {'a b': c}}", "expected the name of a header"),
    ] {
        let said = service(headers).expect_err(headers);
        assert!(said.contains(message), "{headers}: {said}");
    }
}
