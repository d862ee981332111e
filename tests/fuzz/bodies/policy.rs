//! Policies: a condition that is read says what it was read from, and decides without a panic, so that what is explained is
//! what was decided. A document of any shape is a policy or a reason.

use std::str::FromStr;

use signet_identity::{PeerClass, SpiffeId, TrustDomain};
use signet_model::{PolicyDocument, Protocol, When};
use signet_policy::{Answer, Context, Facts, Headers, PolicySet, User};

#[derive(Debug)]
struct Lines;

impl Headers for Lines {
    fn any_line(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let lines: &[&[u8]] = match name {
            "x-tenant" => &[b"blue", b"red, green"],
            "x-bytes" => &[b"\xff"],
            _ => &[],
        };
        lines.iter().any(|line| test(line))
    }
}

pub(crate) fn body(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(document) = PolicyDocument::from_json(text) {
        let again = PolicyDocument::from_json(&document.canonical_json());
        assert_eq!(again.expect("what we write, we read"), document);
    }
    let Ok(when) = When::from_str(text) else { return };
    assert_eq!(when.to_string(), text);
    let spec =
        serde_json::json!({"effect": "permit", "to": {"paths": ["/v1/{a}/{b}/{c}/{id}"]}, "when": text});
    let own = TrustDomain::parse("demo.signet").expect("a trust domain");
    let user = User {
        sub: "idp|alice".into(),
        scopes: vec!["orders:read".into()],
        claims: serde_json::json!({"groups": ["staff", "ops"], "level": 3, "email": "alice@example.com", "verified": true})
            .as_object()
            .cloned()
            .unwrap_or_default(),
        cred: "jwt".into(),
        context: Context::Direct,
        actor: None,
    };
    let peer = SpiffeId::parse("spiffe://demo.signet/ns/shop/sa/web").expect("an ID");
    for effect in ["permit", "forbid"] {
        let mut spec = spec.clone();
        spec["effect"] = effect.into();
        let document = |name: &str, spec: &serde_json::Value| {
            let policy = serde_json::json!({"apiVersion": "signet.mesh/v1alpha1", "kind": "MeshPolicy",
                "metadata": {"namespace": "shop", "name": name}, "spec": spec});
            (format!("{name}.shop"), policy.to_string())
        };
        let mut documents = vec![document("it", &spec)];
        if effect == "forbid" {
            documents.push(document("all", &serde_json::json!({"effect": "permit"})));
        }
        let service = "orders.shop".parse().expect("a name");
        let set = PolicySet::compile(&own, &service, documents, false);
        for (method, path) in
            [(Some("GET"), Some("/v1/a/b;x/c/7;v=1")), (Some("PUT"), Some("/other")), (None, None)]
        {
            let facts = Facts {
                peer: &peer,
                peer_class: PeerClass::Sidecar,
                user: method.map(|_| &user),
                port: "http",
                protocol: Protocol::Auto,
                method,
                path,
                grpc: None,
                headers: method.is_some().then_some(&Lines),
                now_ms: 1_795_341_600_000,
            };
            let verdict = set.decide(&facts);
            let told = set.explain(&facts);
            assert_eq!(told.verdict == Answer::Allow, verdict.allowed);
            assert!(!verdict.allowed || set.may_permit(&facts), "what is permitted keeps its connection");
        }
    }
}
