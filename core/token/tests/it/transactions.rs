use std::sync::Arc;

use serde_json::{Map, Value, json};
use signet_token::delegation::{self, Delegation, ScopeCeiling, TokenRoots};
use signet_token::txn::{self, Rctx, Request, Tctx, Trust};
use signet_token::{DelegatedMinter, DelegationError, MintError, SigningKey, TxnClaims, TxnError};

use crate::delegations::{GATEWAY, TD, roots, set, terms};
use crate::support::{Forger, NOW, object};

pub(crate) const TTS: &str = "https://tts.demo.signet";

/// A control plane's root, and a gateway under it.
pub(crate) struct Mesh {
    pub(crate) root: SigningKey,
    pub(crate) gateway: Forger,
    pub(crate) delegation: String,
    pub(crate) roots: TokenRoots,
}

impl Mesh {
    pub(crate) fn new() -> Mesh {
        Mesh::with(|terms| terms)
    }

    pub(crate) fn with(change: impl FnOnce(Delegation) -> Delegation) -> Mesh {
        let (root, gateway) = (SigningKey::generate().unwrap(), Forger::new());
        let terms = change(terms(gateway.key.public_jwk()));
        let delegation = delegation::issue(&root, &terms).unwrap();
        let roots = roots(&root);
        Mesh { root, gateway, delegation, roots }
    }

    fn terms(&self) -> Delegation {
        delegation::peek(&self.delegation).unwrap()
    }

    pub(crate) fn mint(&self, request: Request) -> Result<(String, TxnClaims), MintError> {
        txn::mint(&self.gateway.key, &self.delegation, &self.terms(), request, NOW)
    }

    pub(crate) fn verify(&self, token: &str, now: u64) -> Result<TxnClaims, TxnError> {
        self.verify_unless(token, now, &|_| false)
    }

    fn verify_unless(
        &self,
        token: &str,
        now: u64,
        revoked: &dyn Fn(&str) -> bool,
    ) -> Result<TxnClaims, TxnError> {
        txn::verify(token, &Trust { revoked, ..self.trust() }, now)
    }

    pub(crate) fn trust(&self) -> Trust<'_> {
        Trust { trust_domain: TD, issuer: TTS, roots: &self.roots, revoked: &|_| false, remembered: None }
    }

    /// A token whose claims the gateway's key signed, though our minting would not have made them.
    fn forged(&self, name: &str, value: Value) -> Result<TxnClaims, TxnError> {
        let mut claims = self.claims();
        match name.split_once('.') {
            Some((outer, inner)) => claims[outer][inner] = value,
            None => _ = claims.insert(name.into(), value),
        }
        self.verify(&self.sign(txn::TYPE, &claims), NOW)
    }

    fn claims(&self) -> Map<String, Value> {
        use base64::Engine as _;
        let (token, _) = self.mint(request()).unwrap();
        let payload = token.split('.').nth(1).unwrap();
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
        object(serde_json::from_slice(&bytes).unwrap())
    }

    /// Our claims under this key and delegation.
    pub(crate) fn signed_by(&self, signer: &Forger, delegation: &str) -> String {
        let header = json!({"typ": txn::TYPE, "alg": "ES256", "kid": signer.kid(), "dlg": delegation});
        signer.raw(&header.to_string(), &Value::Object(self.claims()).to_string())
    }

    fn sign(&self, typ: &str, claims: &Map<String, Value>) -> String {
        let header = object(json!({ "dlg": self.delegation }));
        self.gateway.key.sign(typ, header, claims).unwrap()
    }
}

pub(crate) fn request() -> Request {
    Request {
        issuer: TTS.into(),
        alias: "idp".into(),
        subject: "248289761001".into(),
        scopes: vec!["admin".into(), "orders:read".into()],
        ttl: 60,
        tctx: Tctx {
            route: "shop".into(),
            method: "GET".into(),
            claims: object(json!({"email": "alice@example.com", "groups": ["staff"]})),
            ..Tctx::default()
        },
        rctx: Rctx {
            cred: "jwt".into(),
            issuer: Some("https://idp.example".into()),
            client_id: Some("web".into()),
            src_exp: Some(NOW + 300),
            amr: vec!["pwd".into()],
            ..Rctx::default()
        },
    }
}

pub(crate) fn label(result: Result<TxnClaims, TxnError>) -> &'static str {
    match result {
        Ok(_) => "accepted",
        Err(error) => error.label(),
    }
}

#[test]
fn a_minted_token_says_to_the_receiver_what_the_gateway_put_in() {
    let mesh = Mesh::new();
    let (token, minted) = mesh.mint(request()).unwrap();
    let claims = mesh.verify(&token, NOW).unwrap();
    assert_eq!(claims, minted);
    assert_eq!(claims.subject, "idp|248289761001");
    assert_eq!((claims.audience.as_str(), claims.issuer.as_str()), (TD, TTS));
    assert_eq!(claims.req_wl, GATEWAY);
    // A scope above the ceiling was left out.
    assert_eq!(claims.scope, "orders:read");
    assert_eq!(claims.expires_at, NOW + 60);
    assert_eq!(claims.rctx, request().rctx);
    assert_eq!(claims.tctx, request().tctx);
    assert!(token.len() < 2048, "{} bytes travel with every request", token.len());
}

#[test]
fn a_token_ends_with_its_time_its_source_or_its_delegation_whichever_is_first() {
    let mesh = Mesh::new();
    let ends = |mesh: &Mesh, ttl, src_exp| {
        let mut request = Request { ttl, ..request() };
        request.rctx.src_exp = src_exp;
        mesh.mint(request).unwrap().1.expires_at - NOW
    };
    assert_eq!(ends(&mesh, 60, None), 60);
    assert_eq!(ends(&mesh, 0, None), 15);
    assert_eq!(ends(&mesh, 9999, None), 300);
    assert_eq!(ends(&mesh, 60, Some(NOW + 7)), 7);
    let late = Mesh::with(|terms| Delegation { expires_at: NOW + 20, ..terms });
    assert_eq!(ends(&late, 60, None), 20);
}

#[test]
fn what_the_delegation_does_not_allow_is_not_minted() {
    let mesh = Mesh::new();
    let refused = |change: fn(&mut Request)| {
        let mut request = request();
        change(&mut request);
        mesh.mint(request).unwrap_err()
    };
    let error = refused(|r| r.alias = "other".into());
    assert_eq!((error.label(), error.is_unavailable()), ("alias_not_delegated", false));
    assert_eq!(refused(|r| r.rctx.cred = "key".into()).label(), "credential_not_delegated");
    assert_eq!(refused(|r| r.rctx.src_exp = Some(NOW)).label(), "source_ended");
    let large = refused(|r| _ = r.tctx.claims.insert("bio".into(), "x".repeat(4000).into()));
    assert_eq!(large.label(), "too_large");

    let ended = Mesh::with(|terms| Delegation { expires_at: NOW, ..terms });
    let error = ended.mint(request()).unwrap_err();
    assert_eq!((error.label(), error.is_unavailable()), ("delegation_ended", true));
    let other = SigningKey::generate().unwrap();
    let error = txn::mint(&other, &mesh.delegation, &mesh.terms(), request(), NOW).unwrap_err();
    assert_eq!(error.label(), "wrong_key");
}

#[test]
fn a_token_is_good_to_the_second() {
    let mesh = Mesh::new();
    let (token, _) = mesh.mint(request()).unwrap();
    assert_eq!(label(mesh.verify(&token, NOW + 64)), "accepted");
    assert_eq!(label(mesh.verify(&token, NOW + 65)), "txn_expired");
    assert_eq!(label(mesh.verify(&token, NOW - 5)), "accepted");
    assert_eq!(label(mesh.verify(&token, NOW - 6)), "txn_issued_in_future");
}

#[test]
fn a_revoked_delegation_ends_its_tokens_at_once() {
    let mesh = Mesh::new();
    let (token, _) = mesh.mint(request()).unwrap();
    let thumbprint = mesh.gateway.kid().to_owned();
    assert_eq!(label(mesh.verify_unless(&token, NOW, &|key| key == thumbprint)), "txn_delegation_revoked");
}

#[test]
fn a_gateways_key_cannot_speak_outside_its_delegation() {
    let mesh = Mesh::new();
    let cases = [
        ("req_wl", json!("spiffe://demo.signet/ns/edge/sa/other"), "txn_wrong_requester"),
        ("scope", json!("orders:read admin"), "txn_scope_ceiling"),
        ("scope", json!("orders:read\torders:write"), "txn_bad_scope"),
        ("sub", json!("corp|1"), "txn_alias_not_delegated"),
        ("sub", json!("248289761001"), "txn_alias_not_delegated"),
        ("sub", json!("idp"), "txn_alias_not_delegated"),
        ("rctx.cred", json!("key"), "txn_credential_not_delegated"),
        ("aud", json!("other.signet"), "txn_wrong_audience"),
        ("iss", json!("https://tts.other.signet"), "txn_wrong_issuer"),
        ("exp", json!(NOW + 301), "txn_too_long_lived"),
        ("exp", json!(NOW + 3001), "txn_outside_delegation"),
        ("iat", json!(NOW - 66), "txn_outside_delegation"),
        ("rctx.src_exp", json!(NOW + 59), "txn_outlives_source"),
    ];
    for (name, value, expected) in cases {
        assert_eq!(label(mesh.forged(name, value.clone())), expected, "{name}: {value}");
    }
}

#[test]
fn every_claim_has_its_type() {
    let mesh = Mesh::new();
    let wrong = [json!(null), json!([]), json!({}), json!(1.5), json!(true), json!([TD])];
    for name in ["iss", "aud", "txn", "sub", "scope", "req_wl", "iat", "exp", "rctx.cred", "tctx.route"] {
        for value in &wrong {
            assert_eq!(label(mesh.forged(name, value.clone())), "txn_bad_claims", "{name}: {value}");
        }
        if !name.contains('.') {
            let mut claims = mesh.claims();
            claims.remove(name);
            let token = mesh.sign(txn::TYPE, &claims);
            assert_eq!(label(mesh.verify(&token, NOW)), "txn_bad_claims", "{name} missing");
        }
    }
    for name in ["tctx", "rctx", "tctx.claims"] {
        for value in [json!(null), json!("x"), json!([])] {
            assert_eq!(label(mesh.forged(name, value.clone())), "txn_bad_claims", "{name}: {value}");
        }
    }
    // No scope at all is a user without scopes; that is said, not left out.
    assert_eq!(label(mesh.forged("scope", json!(""))), "accepted");
}

#[test]
fn no_other_kind_of_token_passes_for_a_transaction_token() {
    let mesh = Mesh::new();
    for typ in
        ["JWT", "at+jwt", "txn_token", "TxnToken+JWT", "application/txntoken+jwt", "signet-delegation+jwt"]
    {
        assert_eq!(label(mesh.verify(&mesh.sign(typ, &mesh.claims()), NOW)), "txn_wrong_type", "{typ}");
    }
    assert_eq!(label(mesh.verify(&mesh.delegation, NOW)), "txn_wrong_type");
    // And the reverse is refused by issuers, which cannot even be configured for it.
    assert_eq!(label(mesh.verify("", NOW)), "txn_malformed");
    assert_eq!(label(mesh.verify(&"x".repeat(4097), NOW)), "txn_too_large");
}

#[test]
fn the_key_is_the_delegations_and_no_other() {
    let mesh = Mesh::new();
    let claims = Value::Object(mesh.claims()).to_string();
    let header =
        |kid: &str, dlg: &str| json!({"typ": txn::TYPE, "alg": "ES256", "kid": kid, "dlg": dlg}).to_string();
    let thief = Forger::new();
    // Someone else's key under a copied delegation.
    let token = thief.raw(&header(mesh.gateway.kid(), &mesh.delegation), &claims);
    assert_eq!(label(mesh.verify(&token, NOW)), "txn_bad_signature");
    let token = thief.raw(&header(thief.kid(), &mesh.delegation), &claims);
    assert_eq!(label(mesh.verify(&token, NOW)), "txn_wrong_key");
    // The right key under a wrong name, or none.
    let token = mesh.gateway.raw(&header("k", &mesh.delegation), &claims);
    assert_eq!(label(mesh.verify(&token, NOW)), "txn_wrong_key");
    let unnamed = json!({"typ": txn::TYPE, "alg": "ES256", "dlg": mesh.delegation}).to_string();
    assert_eq!(label(mesh.verify(&mesh.gateway.raw(&unnamed, &claims), NOW)), "txn_wrong_key");
    // A delegation that the thief signed for itself.
    let own = delegation::issue(&thief.key, &terms(thief.key.public_jwk())).unwrap();
    assert_eq!(label(mesh.verify(&thief.raw(&header(thief.kid(), &own), &claims), NOW)), "txn_key_unknown");
    // No delegation.
    let bare = json!({"typ": txn::TYPE, "alg": "ES256", "kid": mesh.gateway.kid()}).to_string();
    assert_eq!(label(mesh.verify(&mesh.gateway.raw(&bare, &claims), NOW)), "txn_malformed");
    // The control plane's own key signs delegations, never tokens.
    let direct = object(json!({ "dlg": mesh.delegation }));
    let token = mesh.root.sign(txn::TYPE, direct, &mesh.claims()).unwrap();
    assert_eq!(label(mesh.verify(&token, NOW)), "txn_wrong_key");
}

#[test]
fn one_gateways_key_cannot_borrow_anothers_delegation() {
    let mesh = Mesh::new();
    let other = Forger::new();
    let theirs = Delegation {
        subject: "spiffe://demo.signet/ns/edge/sa/other".into(),
        ..terms(other.key.public_jwk())
    };
    let theirs = delegation::issue(&mesh.root, &theirs).unwrap();
    let header = object(json!({ "dlg": theirs }));
    let token = mesh.gateway.key.sign(txn::TYPE, header, &mesh.claims()).unwrap();
    assert_eq!(label(mesh.verify(&token, NOW)), "txn_wrong_key");
}

#[test]
fn without_roots_the_fault_is_not_the_tokens() {
    let mut mesh = Mesh::new();
    let (token, _) = mesh.mint(request()).unwrap();
    mesh.roots = TokenRoots::default();
    let error = mesh.verify(&token, NOW).unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert_eq!(error.label(), "txn_no_roots");
}

#[test]
fn a_minter_holds_one_key_and_its_own_delegation() {
    let mesh = Mesh::with(|terms| Delegation {
        scope_ceiling: ScopeCeiling::Any,
        credentials: set(&["jwt"]),
        ..terms
    });
    let key = Arc::new(SigningKey::generate().unwrap());
    assert!(matches!(
        DelegatedMinter::new(key.clone(), &mesh.delegation, TTS),
        Err(DelegationError::WrongKey)
    ));
    assert!(DelegatedMinter::new(key.clone(), "junk", TTS).is_err());

    let delegation = delegation::issue(&mesh.root, &terms(key.public_jwk())).unwrap();
    let minter = DelegatedMinter::new(key, &delegation, TTS).unwrap();
    let minted = minter.mint(request(), NOW).unwrap();
    assert_eq!(mesh.verify(&minted.token, NOW).unwrap(), minted.claims);
    assert!(!format!("{minted:?}").contains("eyJ"));
}
