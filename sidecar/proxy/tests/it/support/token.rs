//! Transaction tokens of a test's gateway.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use signet_proxy::state::State;
use signet_token::txn::{Rctx, Request, Tctx};
use signet_token::{DelegatedMinter, Delegation, ScopeCeiling, SigningKey, TokenRoots, delegation};

const ISSUER: &str = "https://tokens.demo.signet";
const DOMAIN: &str = "demo.signet";

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A gateway's minter, and the roots that its delegation hangs from.
pub struct Mint {
    minter: DelegatedMinter,
    roots: Arc<TokenRoots>,
}

impl Mint {
    pub fn new() -> Mint {
        let root = SigningKey::generate().unwrap();
        let key = Arc::new(SigningKey::generate().unwrap());
        let terms = Delegation {
            issuer: DOMAIN.into(),
            subject: "spiffe://demo.signet/ns/edge/sa/gw".into(),
            issued_at: now() - 10,
            expires_at: now() + 3000,
            id: "d1".into(),
            key: key.public_jwk().clone(),
            scope_ceiling: ScopeCeiling::Any,
            aliases: BTreeSet::from(["idp".to_owned()]),
            credentials: BTreeSet::from(["jwt".to_owned()]),
        };
        let compact = delegation::issue(&root, &terms).unwrap();
        let minter = DelegatedMinter::new(key, &compact, ISSUER).unwrap();
        Mint { minter, roots: Arc::new(TokenRoots::of([root.public_jwk().clone()])) }
    }

    /// Makes a sidecar believe this gateway's tokens.
    pub fn trusted_by(&self, state: &State) {
        let roots = self.roots.clone();
        state.update_keys(|keys| {
            let mut keys = keys.next();
            keys.trust_domain = DOMAIN.into();
            keys.token_issuer = ISSUER.into();
            keys.roots = roots.clone();
            keys
        });
    }

    pub fn token(&self, user: &str, scopes: &[&str]) -> String {
        let claims = json!({"groups": ["staff"]}).as_object().unwrap().clone();
        let request = Request {
            issuer: ISSUER.into(),
            alias: "idp".into(),
            subject: user.into(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            ttl: 60,
            tctx: Tctx { route: "shop".into(), method: "GET".into(), claims, ..Tctx::default() },
            rctx: Rctx {
                cred: "jwt".into(),
                session_id: Some(format!("s-{user}")),
                src_jti: Some(format!("t-{user}")),
                src_iat: Some(now()),
                ..Rctx::default()
            },
        };
        self.minter.mint(request, now()).unwrap().token
    }
}
