use std::collections::BTreeSet;

use serde_json::{Map, json};
use signet_token::txn::{self, Actor, Begin, ExchangeError, MAX_TTL, Source};
use signet_token::{DelegationError, MintError, TxnClaims, TxnError};

use crate::delegations::TD;
use crate::support::{Forger, NOW, claims, issuers, object, settings};
use crate::transactions::{Mesh, TTS, label, request};

const WEB: &str = "spiffe://demo.signet/ns/shop/sa/web";
const SOURCE_END: u64 = NOW + 300;

fn held() -> TxnClaims {
    Mesh::new().mint(request()).unwrap().1
}

fn replaced(held: &TxnClaims, scope: Option<&str>, now: u64) -> Result<TxnClaims, ExchangeError> {
    txn::replace(held, scope, WEB, 60, now)
}

#[test]
fn a_replacement_keeps_everything_but_scope_and_requester() {
    let held = held();
    let next = replaced(&held, Some("orders:read"), NOW + 10).unwrap();
    assert_eq!((next.scope.as_str(), next.req_wl.as_str()), ("orders:read", WEB));
    assert_eq!((next.issued_at, next.expires_at), (NOW + 10, NOW + 70));
    assert_eq!(next.rctx.via, [held.req_wl.as_str()]);
    assert_eq!(next.rctx.began, Some(NOW));
    let as_before = TxnClaims {
        scope: held.scope.clone(),
        req_wl: held.req_wl.clone(),
        issued_at: held.issued_at,
        expires_at: held.expires_at,
        rctx: txn::Rctx { via: Vec::new(), began: None, ..next.rctx.clone() },
        ..next
    };
    assert_eq!(as_before, held, "txn, sub, aud, tctx, rctx and the actor");
    assert_eq!(replaced(&held, None, NOW).unwrap().scope, held.scope);
    assert_eq!(replaced(&held, Some("orders:read orders:read"), NOW).unwrap().scope, "orders:read");
}

#[test]
fn no_replacement_has_a_scope_that_the_token_has_not() {
    let held = replaced(&held(), Some("orders:read"), NOW).unwrap();
    for wider in ["admin", "orders:read admin", "orders", "Orders:read", "orders:read:all"] {
        let error = replaced(&held, Some(wider), NOW).unwrap_err();
        assert!(matches!(error, ExchangeError::ScopeWidened { .. }), "{wider}: {error}");
    }
    for malformed in [" orders:read", "orders:read  ", "a\tb", "\"", "é"] {
        let error = replaced(&held, Some(malformed), NOW).unwrap_err();
        assert_eq!(error, ExchangeError::ScopeMalformed, "{malformed:?}");
    }
}

#[test]
fn no_replacement_is_made_of_an_expired_token_or_outlives_transaction_and_source() {
    let held = held();
    assert_eq!(replaced(&held, None, held.expires_at), Err(ExchangeError::Expired), "without leeway");
    let mut last = held;
    // Each replaces the one before in its last second.
    let ended = loop {
        let now = last.expires_at - 1;
        match replaced(&last, None, now) {
            Ok(next) => {
                assert!(next.expires_at <= NOW + MAX_TTL, "the transaction began at {NOW}");
                if next.expires_at <= last.expires_at {
                    break last;
                }
                last = next;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(ended.expires_at, NOW + MAX_TTL);
    let mut short = request();
    short.rctx.src_exp = Some(NOW + 20);
    let short = Mesh::new().mint(short).unwrap().1;
    assert_eq!(
        replaced(&short, None, NOW + 10).unwrap().expires_at,
        NOW + 20,
        "the user's credential ends then"
    );
}

#[test]
fn a_chain_of_replacements_has_an_end() {
    let mut last = held();
    for _ in 0..16 {
        last = replaced(&last, None, NOW).unwrap();
    }
    assert_eq!(last.rctx.via.len(), 16);
    assert_eq!(replaced(&last, None, NOW), Err(ExchangeError::ChainTooLong));
}

#[test]
fn a_replacement_verifies_under_the_requesters_delegation_and_no_other() {
    let (mesh, web) =
        (Mesh::new(), Mesh::with(|terms| signet_token::Delegation { subject: WEB.into(), ..terms }));
    let next = replaced(&mesh.mint(request()).unwrap().1, Some("orders:read"), NOW).unwrap();
    let terms = signet_token::delegation::peek(&web.delegation).unwrap();
    let (token, _) = txn::sign(&web.gateway.key, &web.delegation, &terms, next.clone(), NOW).unwrap();
    let read = web.verify(&token, NOW).unwrap();
    assert_eq!(read, next);
    // Under the gateway's delegation it would be the gateway's word.
    let terms = signet_token::delegation::peek(&mesh.delegation).unwrap();
    let (forged, _) = txn::sign(&mesh.gateway.key, &mesh.delegation, &terms, next, NOW).unwrap();
    assert_eq!(mesh.verify(&forged, NOW), Err(TxnError::WrongRequester));
    assert_eq!(mesh.verify(&token, NOW), Err(TxnError::Delegation(DelegationError::UnknownRoot)));
}

fn named(
    subject: &str,
    scope: Option<&str>,
    actor: Option<(Actor, Option<u64>)>,
) -> Result<TxnClaims, ExchangeError> {
    txn::begin(begin(Source::Named(subject), scope, actor), NOW)
}

fn begin<'a>(source: Source<'a>, scope: Option<&'a str>, actor: Option<(Actor, Option<u64>)>) -> Begin<'a> {
    Begin {
        source,
        actor,
        allowed: BTreeSet::from(["orders:read", "orders:list"]),
        scope,
        claims: &|name| name == "email",
        details: Map::new(),
        grant: "exchange/nightly",
        issuer: TTS,
        audience: TD,
        requester: WEB,
        ttl: 60,
    }
}

#[test]
fn a_transaction_that_a_workload_begins_has_the_scopes_of_its_grant_and_a_name_of_its_own() {
    let (one, two) = (named("idp|alice", None, None).unwrap(), named("idp|alice", None, None).unwrap());
    assert_ne!(one.txn, two.txn);
    assert_eq!((one.scope.as_str(), one.rctx.cred.as_str()), ("orders:list orders:read", "workload"));
    assert_eq!((one.expires_at, one.rctx.src_iat), (NOW + 60, Some(NOW)));
    assert!(one.tctx.claims.is_empty());
    let wider = named("idp|alice", Some("admin"), None).unwrap_err();
    assert!(matches!(wider, ExchangeError::ScopeWidened { .. }));
    for bad in ["alice", "|alice", "idp|", "", "idp|a\nb"] {
        assert_eq!(named(bad, None, None), Err(ExchangeError::SubjectMalformed), "{bad:?}");
    }
}

#[test]
fn an_access_token_gives_its_own_scopes_and_listed_claims_and_its_end() {
    let forger = Forger::new();
    let text = forger.token(&claims());
    let access = issuers(&forger, settings()).verify(&text, NOW).unwrap();
    let begun = txn::begin(begin(Source::Access(&access, &text), None, None), NOW).unwrap();
    assert_eq!((begun.subject.as_str(), begun.scope.as_str()), ("idp|248289761001", "orders:read"));
    assert_eq!(begun.tctx.claims.keys().collect::<Vec<_>>(), ["email"]);
    assert_eq!(begun.rctx.src_exp, Some(SOURCE_END));
    assert!(!begun.to_json().iter().any(|(_, value)| value.to_string().contains(&text)), "the token itself");
    // A scope of the grant that the user has not given is none.
    let wider = txn::begin(begin(Source::Access(&access, &text), Some("orders:list"), None), NOW);
    assert!(matches!(wider, Err(ExchangeError::ScopeWidened { .. })));
    let late = txn::begin(begin(Source::Access(&access, &text), None, None), SOURCE_END);
    assert_eq!(late, Err(ExchangeError::TransactionEnded));
}

#[test]
fn who_acts_for_a_user_stands_in_the_token_and_it_ends_with_the_actors_credential() {
    let agent = held();
    let actor = (Actor::of(&agent), Some(NOW + 30));
    let begun = named("idp|bob", Some("orders:read"), Some(actor)).unwrap();
    assert_eq!((begun.expires_at, begun.rctx.src_exp), (NOW + 30, Some(NOW + 30)));
    let with = |terms: signet_token::Delegation, aliases: &[&str]| signet_token::Delegation {
        subject: WEB.into(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        credentials: BTreeSet::from(["workload".to_owned()]),
        ..terms
    };
    let mesh = Mesh::with(|terms| with(terms, &["idp"]));
    let terms = signet_token::delegation::peek(&mesh.delegation).unwrap();
    let (token, _) = txn::sign(&mesh.gateway.key, &mesh.delegation, &terms, begun.clone(), NOW).unwrap();
    let read = mesh.verify(&token, NOW).unwrap();
    assert_eq!(read.actor.as_ref().map(|actor| actor.subject.as_str()), Some("idp|248289761001"));
    assert_eq!(read.subject, "idp|bob");
    assert_eq!(read.actor.unwrap().revocable().user, "idp|248289761001");
    // A delegation for the user's issuer is none for the actor's.
    let mut stranger = begun;
    stranger.actor = stranger.actor.map(|actor| Actor { subject: "staff|eve".into(), ..actor });
    let refused = txn::sign(&mesh.gateway.key, &mesh.delegation, &terms, stranger.clone(), NOW);
    assert_eq!(refused.unwrap_err(), MintError::AliasNotDelegated { alias: "staff".into() });
    let header = object(json!({ "dlg": mesh.delegation }));
    let forged = mesh.gateway.key.sign(txn::TYPE, header, &stranger.to_json()).unwrap();
    assert_eq!(label(mesh.verify(&forged, NOW)), "txn_alias_not_delegated");
}

#[test]
fn an_actor_stays_through_replacements_and_a_context_that_goes_on_later() {
    let begun = named("idp|bob", None, Some((Actor::of(&held()), None))).unwrap();
    let next = replaced(&begun, Some(""), NOW).unwrap();
    assert_eq!((next.actor.clone(), next.scope.as_str()), (begun.actor.clone(), ""));
    let later = txn::continued(&next, None, WEB, (60, NOW + 86_400), NOW + 3600).unwrap();
    assert_eq!((later.txn, later.subject, later.actor), (begun.txn, begun.subject, begun.actor));
    assert_eq!((later.issued_at, later.expires_at), (NOW + 3600, NOW + 3660));
    let ended = txn::continued(&next, None, WEB, (60, NOW + 100), NOW + 100);
    assert_eq!(ended, Err(ExchangeError::TransactionEnded), "past the end of what was put off");
    let wider = txn::continued(&next, Some("orders:read"), WEB, (60, NOW + 100), NOW);
    assert!(matches!(wider, Err(ExchangeError::ScopeWidened { .. })));
}

#[test]
fn what_is_sealed_reads_back_as_it_was() {
    let mut claims = named("idp|bob", None, Some((Actor::of(&held()), None))).unwrap();
    claims.tctx.details = object(json!({"job": 7}));
    claims.rctx.via = vec!["spiffe://demo.signet/ns/edge/sa/gw".into()];
    assert_eq!(TxnClaims::from_json(&claims.to_json()).unwrap(), claims);
}
