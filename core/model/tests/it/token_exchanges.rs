//! What a TokenExchange may say, and what it must refer to.

use std::path::Path;

use signet_model::{Options, Registry, parse_text};

const WORLD: &str = "\
apiVersion: signet.mesh/v1alpha1
kind: Issuer
metadata: {name: idp}
spec: {issuer: 'https://idp.example.com', audiences: [shop], algorithms: [ES256], claims: [email]}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: web}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: edge, name: gw}
spec: {class: gateway}
";

fn registry(spec: &str) -> Result<Registry, String> {
    let text = format!(
        "{WORLD}---\napiVersion: signet.mesh/v1alpha1\nkind: TokenExchange\nmetadata: {{name: x}}\nspec: {spec}\n"
    );
    parse_text(Path::new("t.yaml"), &text, &Options::default()).map_err(|errors| {
        errors.iter().map(|error| format!("{}: {}", error.field, error.reason)).collect::<Vec<_>>().join("\n")
    })
}

const WHO: &str = "workloads: [ns/shop/sa/web], issuers: [idp]";

#[test]
fn a_grant_has_its_defaults_and_is_for_whom_it_names() {
    let all =
        registry(&format!("{{{WHO}, subjectTokens: [accessToken, unsignedJson], claims: [email]}}")).unwrap();
    let web = "ns/shop/sa/web".parse().unwrap();
    let grant = all.exchanges_of(&web).next().unwrap();
    assert_eq!((grant.spec.ttl.seconds(), grant.spec.scopes.len()), (60, 0));
    assert!(
        grant.spec.is_for("idp|anybody") && !grant.spec.is_for("other|alice") && !grant.spec.is_for("idp")
    );
    assert_eq!(all.exchanges_of(&"ns/edge/sa/gw".parse().unwrap()).count(), 0);
    let some = registry(&format!("{{{WHO}, users: ['idp|a|b'], subjectTokens: [unsignedJson]}}")).unwrap();
    let grant = some.exchanges_of(&web).next().unwrap();
    assert!(grant.spec.is_for("idp|a|b") && !grant.spec.is_for("idp|a"));
    let later = registry(&format!("{{{WHO}, defer: {{to: [ns/shop/sa/web]}}}}")).unwrap();
    let defer = later.exchanges_of(&web).next().unwrap().spec.defer.clone().unwrap();
    assert_eq!((defer.within.seconds(), defer.openings), (86_400, 1));
}

#[test]
fn what_a_grant_cannot_say_is_refused_where_it_is_written() {
    for (spec, words) in [
        (format!("{{{WHO}}}"), "spec: expected subjectTokens or defer"),
        (format!("{{{WHO}, subjectTokens: []}}"), "spec.subjectTokens"),
        (format!("{{{WHO}, subjectTokens: [refreshToken]}}"), "unknown variant"),
        ("{workloads: [], issuers: [idp], subjectTokens: [accessToken]}".into(), "spec.workloads"),
        ("{workloads: [ns/shop/sa/web], issuers: [], subjectTokens: [accessToken]}".into(), "spec.issuers"),
        (
            "{workloads: [ns/shop/sa/web], issuers: [ipd], subjectTokens: [accessToken]}".into(),
            "an Issuer (`idp`)",
        ),
        (
            "{workloads: [ns/edge/sa/gw], issuers: [idp], subjectTokens: [accessToken]}".into(),
            "with a sidecar",
        ),
        (
            "{workloads: [ns/shop/sa/no], issuers: [idp], subjectTokens: [accessToken]}".into(),
            "with a sidecar",
        ),
        (
            format!("{{{WHO}, users: [alice], subjectTokens: [unsignedJson]}}"),
            "spec.users[0]: expected `<alias>|<sub>`",
        ),
        (format!("{{{WHO}, users: ['staff|a'], subjectTokens: [unsignedJson]}}"), "spec.users[0]"),
        (format!("{{{WHO}, subjectTokens: [unsignedJson], claims: [email]}}"), "spec.claims: expected none"),
        (
            format!("{{{WHO}, subjectTokens: [accessToken], claims: [groups]}}"),
            "spec.claims[0]: expected a claim that Issuer `idp` lists",
        ),
        (format!("{{{WHO}, subjectTokens: [accessToken], ttl: 6m}}"), "spec.ttl"),
        (
            format!("{{{WHO}, subjectTokens: [accessToken], actors: {{issuers: [staff]}}}}"),
            "spec.actors.issuers[0]",
        ),
        (format!("{{{WHO}, defer: {{to: [ns/shop/sa/web]}}, actors: {{issuers: [idp]}}}}"), "spec.actors"),
        (format!("{{{WHO}, defer: {{to: [ns/shop/sa/web], within: 200h}}}}"), "spec.defer.within"),
        (format!("{{{WHO}, defer: {{to: [ns/shop/sa/web], openings: 0}}}}"), "spec.defer.openings"),
        (format!("{{{WHO}, defer: {{to: [ns/shop/sa/no]}}}}"), "spec.defer.to[0]"),
        (format!("{{{WHO}, subjectTokens: [accessToken], colour: blue}}"), "unknown field"),
    ] {
        let said = registry(&spec).unwrap_err();
        assert!(said.contains(words), "{spec}\n{said}\n{words}");
    }
}
