//! A real OpenID provider as issuer.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use signet_tests::apps::Echo;
use signet_tests::client::{get, send, text};
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::peers::{node_modules, root, run, said};
use signet_tests::provider::Provider;

struct Scene {
    provider: Provider,
    mesh: Mesh,
    app: Echo,
    gateway: String,
}

/// A service behind a gateway that takes the provider's tokens.
async fn scene() -> Option<Scene> {
    let provider = Provider::start()?;
    let address = provider.address.clone();

    let app = Echo::start().await;
    let (gateway, inbound) = (free_address(), free_address());
    let mesh = Mesh::builder()
        .registry(service("front", "shop", "http", "http", &inbound))
        .registry(permit("edge-in", "shop", "front", "ns/edge/sa/gw", "  user: {required: true, scopes: [read]}\n"))
        // No jwksUri: the keys are found by the issuer's metadata.
        .registry(format!(
            "kind: Issuer\nmetadata: {{name: op}}\nspec: {{issuer: 'http://{address}', audiences: ['https://shop.example.com'], \
             algorithms: [ES256], tokenTypes: [at+jwt]}}\n"
        ))
        .registry(
            "kind: Gateway\nmetadata: {namespace: edge, name: gw}\nspec:\n  identity: ns/edge/sa/gw\n  routes:\n  \
             - {name: all, hosts: ['*'], pathPrefix: /, service: front.shop, port: http, auth: {jwt: {issuers: [op]}}}\n",
        )
        .sidecar(Sidecar::new(
            "front.shop",
            format!("inbound: [{{service: front.shop, port: http, listen: '{inbound}', app: 'tcp:{}'}}]\n", app.address),
        ))
        .sidecar(Sidecar::gateway("gw.edge", format!("gateway: {{resource: gw.edge, listeners: [{{listen: '{gateway}'}}]}}\n")))
        .start()
        .await;
    Some(Scene { provider, mesh, app, gateway })
}

#[tokio::test]
async fn tokens_of_a_real_openid_provider_are_accepted_by_discovery() {
    let Some(Scene { provider, mut mesh, app, gateway }) = scene().await else { return };
    let address = provider.address.clone();
    let basic = format!("Basic {}", STANDARD.encode("batch:batch-secret-of-a-test"));
    let form = [("authorization", basic.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    let answer = send("POST", &address, "/token", &form, "grant_type=client_credentials&scope=read").await;
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    let answer: Value = serde_json::from_slice(answer.body()).unwrap();
    let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());

    let answer = loop {
        let answer = get(&gateway, "/", &[("authorization", &bearer)]).await;
        if answer.status() != 503 {
            break answer;
        }
    };
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    assert!(app.last()["headers"]["signet-user"].is_array(), "{}", app.last());
    // A token of the same provider without the scope.
    let answer = send("POST", &address, "/token", &form, "grant_type=client_credentials&scope=write").await;
    let answer: Value = serde_json::from_slice(answer.body()).unwrap();
    let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
    assert_eq!(get(&gateway, "/", &[("authorization", &bearer)]).await.status(), 403);
    mesh.assert_unharmed();
}

#[tokio::test]
async fn bound_tokens_of_a_real_openid_provider_are_taken_from_their_client_alone() {
    let Some(Scene { provider, mut mesh, app, gateway }) = scene().await else { return };
    let folder = node_modules().expect("the provider's packages");
    let script = folder.join("dpop_client.mjs");
    std::fs::copy(root().join("tests/interop/dpop_client.mjs"), &script).expect("the script");
    let mut node = Command::new("node");
    node.arg(script).arg(format!("{}/token", provider.url())).arg(format!("http://{gateway}/orders"));
    let output = run(node).await;
    assert!(output.status.success(), "{}", said(&output));
    let results: Value = serde_json::from_slice(&output.stdout).expect("its results");
    for good in ["own", "another", "EdDSA", "ES384", "RS256", "PS256"] {
        assert_eq!(results[good][0], 200, "{good}: {results}");
    }
    for (bad, error) in [
        ("again", "DPoP realm=\"test.signet\", error=\"invalid_dpop_proof\""),
        ("bearer", "Bearer realm=\"test.signet\", error=\"invalid_token\""),
        ("thief", "DPoP realm=\"test.signet\", error=\"invalid_dpop_proof\""),
        ("elsewhere", "DPoP realm=\"test.signet\", error=\"invalid_dpop_proof\""),
    ] {
        assert_eq!(results[bad][0], 401, "{bad}: {results}");
        assert!(results[bad][1].as_str().is_some_and(|it| it.starts_with(error)), "{bad}: {results}");
    }
    let headers = &app.last()["headers"];
    assert!(headers["authorization"].is_null() && headers["dpop"].is_null(), "{headers}");
    mesh.assert_unharmed();
}
