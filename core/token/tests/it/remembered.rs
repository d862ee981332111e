//! Delegations are remembered between tokens, and believed no longer for it.

use std::time::Instant;

use signet_token::delegation::{self, Delegation};
use signet_token::txn::{self, Remembered, Trust};
use signet_token::{SigningKey, TokenCache, TokenRoots};

use crate::delegations::terms;
use crate::support::{Forger, NOW};
use crate::transactions::{Mesh, label, request};

fn ask(mesh: &Mesh, cache: &TokenCache<Delegation>, generation: u64) -> &'static str {
    let (token, _) = mesh.mint(request()).unwrap();
    let trust = Trust { remembered: Some(Remembered { cache, generation }), ..mesh.trust() };
    label(txn::verify(&token, &trust, NOW))
}

#[test]
fn a_second_token_of_a_gateway_is_judged_by_the_delegation_that_is_known() {
    let mut mesh = Mesh::new();
    let cache = TokenCache::new(8);
    assert_eq!(ask(&mesh, &cache, 1), "accepted");
    assert_eq!(cache.len(), 1);
    // The proof that it was not verified again: the root is gone, and the generation does not say so.
    mesh.roots = TokenRoots::of([SigningKey::generate().unwrap().public_jwk().clone()]);
    assert_eq!(ask(&mesh, &cache, 1), "accepted");
    // With the news it is forgotten.
    assert_eq!(ask(&mesh, &cache, 2), "txn_key_unknown");
    assert_eq!(cache.len(), 0);
}

#[test]
fn a_remembered_delegation_ends_in_time_and_when_it_is_revoked() {
    let mesh = Mesh::with(|terms| Delegation { expires_at: NOW + 20, ..terms });
    let cache = TokenCache::new(8);
    let (token, _) = mesh.mint(request()).unwrap();
    let trust = Trust { remembered: Some(Remembered { cache: &cache, generation: 1 }), ..mesh.trust() };
    assert_eq!(label(txn::verify(&token, &trust, NOW)), "accepted");
    let revoked = Trust { revoked: &|key| key == mesh.gateway.kid(), ..trust };
    assert_eq!(label(txn::verify(&token, &revoked, NOW)), "txn_delegation_revoked");
    let trust = Trust { revoked: &|_| false, ..revoked };
    assert_eq!(label(txn::verify(&token, &trust, NOW + 24)), "accepted");
    assert_eq!(label(txn::verify(&token, &trust, NOW + 25)), "txn_delegation_ended");
    assert_eq!(label(txn::verify(&token, &trust, NOW - 66)), "txn_delegation_ended");
}

#[test]
fn what_was_not_believed_is_not_remembered_and_what_is_remembered_lends_no_key() {
    let mesh = Mesh::new();
    let cache = TokenCache::new(8);
    let trust = Trust { remembered: Some(Remembered { cache: &cache, generation: 1 }), ..mesh.trust() };
    let thief = Forger::new();
    let own = delegation::issue(&thief.key, &terms(thief.key.public_jwk())).unwrap();
    assert_eq!(label(txn::verify(&mesh.signed_by(&thief, &own), &trust, NOW)), "txn_key_unknown");
    assert!(cache.is_empty());
    assert_eq!(ask(&mesh, &cache, 1), "accepted");
    assert_eq!(label(txn::verify(&mesh.signed_by(&thief, &mesh.delegation), &trust, NOW)), "txn_wrong_key");
}

/// `cargo nextest run -p signet-token --run-ignored only --no-capture time_of`
#[test]
#[ignore = "a measurement"]
fn time_of_a_new_token_with_and_without_the_memory() {
    const TOKENS: u32 = 500;
    let mesh = Mesh::new();
    let tokens: Vec<_> = (0..TOKENS).map(|_| mesh.mint(request()).unwrap().0).collect();
    let cache = TokenCache::new(8);
    let time = |remembered| {
        let trust = Trust { remembered, ..mesh.trust() };
        let began = Instant::now();
        for token in &tokens {
            txn::verify(token, &trust, NOW).unwrap();
        }
        began.elapsed() / TOKENS
    };
    let best = |remembered| (0..5).map(|_| time(remembered)).min().unwrap();
    let without = best(None);
    let with = best(Some(Remembered { cache: &cache, generation: 1 }));
    println!(
        "verified each time {without:?}, remembered {with:?}, {:.2} times",
        without.as_secs_f64() / with.as_secs_f64()
    );
    assert!(with < without);
}
