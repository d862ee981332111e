use std::collections::BTreeSet;

use serde_json::json;
use signet_token::delegation::{self, Delegation, ScopeCeiling, TokenRoots};
use signet_token::{DelegationError, Jwk, SigningKey};

use crate::support::{Forger, NOW, object};

pub(crate) const TD: &str = "demo.signet";
pub(crate) const GATEWAY: &str = "spiffe://demo.signet/ns/edge/sa/gw";

pub(crate) fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

pub(crate) fn terms(key: &Jwk) -> Delegation {
    Delegation {
        issuer: TD.into(),
        subject: GATEWAY.into(),
        issued_at: NOW - 60,
        expires_at: NOW + 3000,
        id: "d-1".into(),
        key: key.clone(),
        scope_ceiling: ScopeCeiling::Only(set(&["orders:read", "orders:write"])),
        aliases: set(&["idp"]),
        credentials: set(&["jwt"]),
    }
}

pub(crate) fn roots(root: &SigningKey) -> TokenRoots {
    TokenRoots::of([root.public_jwk().clone()])
}

fn label(result: Result<Delegation, DelegationError>) -> &'static str {
    match result {
        Ok(_) => "accepted",
        Err(error) => error.label(),
    }
}

#[test]
fn a_delegation_says_after_signing_what_it_said_before() {
    let (root, key) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    for ceiling in [ScopeCeiling::Any, ScopeCeiling::Only(set(&[])), ScopeCeiling::Only(set(&["a"]))] {
        let terms = Delegation { scope_ceiling: ceiling, ..terms(key.public_jwk()) };
        let token = delegation::issue(&root, &terms).unwrap();
        let read = delegation::verify(&token, &roots(&root), TD, NOW).unwrap();
        assert_eq!(read.thumbprint(), key.thumbprint());
        // The key comes back without the kid that its thumbprint already is.
        assert_eq!(Delegation { key: terms.key.clone(), ..read }, terms);
        assert_eq!(delegation::peek(&token).unwrap().subject, GATEWAY);
    }
}

#[test]
fn a_delegation_is_believed_only_under_our_roots_and_for_our_domain() {
    let (root, stranger) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let terms = terms(SigningKey::generate().unwrap().public_jwk());
    let good = delegation::issue(&root, &terms).unwrap();
    let check = |token: &str, roots: &TokenRoots, td: &str| label(delegation::verify(token, roots, td, NOW));
    assert_eq!(check(&good, &roots(&root), TD), "accepted");
    assert_eq!(check(&good, &roots(&root), "other.signet"), "wrong_issuer");
    assert_eq!(check(&good, &roots(&stranger), TD), "unknown_root");
    assert_eq!(check(&good, &TokenRoots::default(), TD), "no_roots");
    let (signed, _) = good.rsplit_once('.').unwrap();
    assert_eq!(check(&format!("{signed}.{}", "A".repeat(86)), &roots(&root), TD), "bad_signature");
    // A delegated key is no root: it cannot delegate further.
    let (gateway, deeper) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let chained =
        delegation::issue(&gateway, &Delegation { key: deeper.public_jwk().clone(), ..terms }).unwrap();
    assert_eq!(check(&chained, &roots(&root), TD), "unknown_root");
}

#[test]
fn a_delegation_holds_only_for_its_time() {
    let root = SigningKey::generate().unwrap();
    let terms = terms(SigningKey::generate().unwrap().public_jwk());
    let token = delegation::issue(&root, &terms).unwrap();
    let at = |now| label(delegation::verify(&token, &roots(&root), TD, now));
    assert_eq!(at(terms.issued_at - 5), "accepted");
    assert_eq!(at(terms.issued_at - 6), "not_valid_now");
    assert_eq!(at(terms.expires_at + 4), "accepted");
    assert_eq!(at(terms.expires_at + 5), "not_valid_now");

    let long = Delegation { expires_at: terms.issued_at + 3601, ..terms };
    assert!(matches!(delegation::issue(&root, &long), Err(DelegationError::TooLongLived { .. })));
}

#[test]
fn a_delegation_that_the_control_plane_would_not_write_is_refused() {
    let root = Forger::new();
    let key = SigningKey::generate().unwrap();
    let good = delegation::issue(&root.key, &terms(key.public_jwk())).unwrap();
    let claims = {
        use base64::Engine as _;
        let payload = good.split('.').nth(1).unwrap();
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
        object(serde_json::from_slice(&bytes).unwrap())
    };
    let signed = |typ: &str, claims| {
        let token = root.key.sign(typ, Default::default(), &claims).unwrap();
        label(delegation::verify(&token, &roots(&root.key), TD, NOW))
    };
    assert_eq!(signed(delegation::TYPE, claims.clone()), "accepted");
    for typ in ["JWT", "txntoken+jwt", "Signet-Delegation+jwt", ""] {
        assert_eq!(signed(typ, claims.clone()), "wrong_type", "{typ}");
    }
    for name in ["iss", "sub", "iat", "exp", "jti", "cnf", "scope_ceiling"] {
        let mut claims = claims.clone();
        claims.remove(name);
        assert_eq!(signed(delegation::TYPE, claims), "missing_claim", "{name}");
    }
    for (name, value) in [
        ("aliases", json!("idp")),
        ("creds", json!([1])),
        ("scope_ceiling", json!("**")),
        ("scope_ceiling", json!(null)),
        ("exp", json!("9")),
        ("cnf", json!("x")),
    ] {
        let mut claims = claims.clone();
        claims.insert(name.into(), value);
        assert_eq!(signed(delegation::TYPE, claims), "claim_type", "{name}");
    }
    let mut wide = claims.clone();
    wide.insert("iat".into(), (NOW - 3600).into());
    assert_eq!(signed(delegation::TYPE, wide), "too_long_lived");
    let mut symmetric = claims;
    symmetric.insert("cnf".into(), json!({"jwk": {"kty": "oct", "k": "AAAA"}}));
    assert_eq!(signed(delegation::TYPE, symmetric), "bad_key");
}
