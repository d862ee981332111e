//! To whom a gateway may hand a caller's own JWT.

use std::path::Path;

use signet_model::{Options, parse_text};

fn registry(front: &str, more: &str) -> Result<(), String> {
    let text = format!(
        "apiVersion: signet.mesh/v1alpha1\nkind: Workload\nmetadata: {{namespace: edge, name: gw}}\nspec: {{class: gateway}}\n---\n\
         apiVersion: signet.mesh/v1alpha1\nkind: Issuer\nmetadata: {{name: idp}}\n\
         spec: {{issuer: 'https://idp.example.com', jwksUri: 'https://idp.example.com/jwks', audiences: [shop], algorithms: [ES256]}}\n---\n\
         apiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {{namespace: shop, name: front}}\n\
         spec: {{ports: [{{name: http, port: 80, protocol: http}}], userContext: {front}}}\n---\n\
         apiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {{namespace: shop, name: v2}}\n\
         spec: {{ports: [{{name: http, port: 80, protocol: http}}]}}\n---\n\
         apiVersion: signet.mesh/v1alpha1\nkind: Gateway\nmetadata: {{namespace: edge, name: gw}}\nspec:\n  identity: ns/edge/sa/gw\n  \
         routes: [{{name: all, hosts: ['*'], pathPrefix: /, service: front.shop, port: http, auth: {{jwt: {{issuers: [idp]}}}}, forwardCredential: original}}]\n\
         {more}"
    );
    parse_text(Path::new("r.yaml"), &text, &Options::default()).map(drop).map_err(|errors| errors.to_string())
}

fn route(rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{namespace: shop, name: r}}\n\
         spec: {{parentRefs: [{{kind: Service, name: front, port: 80}}], rules: [{rules}]}}\n"
    )
}

#[test]
fn a_route_hands_the_original_only_to_services_that_ask_for_it() {
    registry("original", "").unwrap();
    let refused = registry("transaction", "").unwrap_err();
    assert!(
        refused.contains("spec.routes[0].forwardCredential") && refused.contains("`front.shop`"),
        "{refused}"
    );
    // Where the service's own routes send requests counts, and a share of them is enough.
    let split =
        route("{backendRefs: [{name: front, port: 80, weight: 99}, {name: v2, port: 80, weight: 1}]}");
    let refused = registry("original", &split).unwrap_err();
    assert!(
        refused.contains("spec.routes[0].forwardCredential") && refused.contains("`v2.shop`"),
        "{refused}"
    );
    assert!(!refused.contains("`front.shop`"), "{refused}");
    // A copy carries no credential, whoever gets it.
    let copied = route(
        "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}], backendRefs: [{name: front, port: 80}]}",
    );
    registry("original", &copied).unwrap();
}
