use signet_ca::{Event, Outward, Refusal, Revocation, TOKEN_PREFIX};
use signet_identity::PeerClass;

use crate::*;

#[tokio::test]
async fn a_token_gives_exactly_the_identity_and_class_it_was_made_for() {
    let mesh = mesh().await;
    let token = mesh.authority.create_join_token(id("gw"), PeerClass::Gateway, None, "uid:0").await.unwrap();
    assert!(token.text.expose().starts_with(TOKEN_PREFIX));
    assert_eq!(token.expires_at, START + 600);
    assert!(!format!("{token:?}").contains(token.text.expose()));
    let issued = mesh.attest(&token, &csr(&key())).await.unwrap();
    assert_eq!((issued.spiffe_id, issued.class), (id("gw"), PeerClass::Gateway));
}

#[tokio::test]
async fn every_bad_token_gets_one_answer_and_its_own_recorded_reason() {
    let mesh = mesh().await;
    let used = mesh.token("web").await;
    mesh.attest(&used, &csr(&key())).await.unwrap();
    let expired = mesh.token("web").await;
    let other = crate::mesh().await;
    let foreign = other.token("web").await;
    mesh.clock.pass(600);
    let request = csr(&key());
    let cases = [
        (used.text.expose(), Refusal::TokenUsed),
        (expired.text.expose(), Refusal::TokenExpired),
        (foreign.text.expose(), Refusal::TokenUnknown),
        ("signet-join-short", Refusal::TokenMalformed),
        ("", Refusal::TokenMalformed),
    ];
    for (token, expected) in cases {
        let error =
            mesh.authority.attest_join_token(token, &request, "192.0.2.1", anybody()).await.unwrap_err();
        assert_eq!(error.to_string(), "the evidence is not accepted");
        assert_eq!(error.refusal(), Some(expected));
        assert_eq!(expected.outward(), Outward::Unauthenticated);
        let last = mesh.authority.records(1).await.unwrap().remove(0);
        assert_eq!((last.event, last.reason.as_str()), (Event::Refused, expected.label()));
        assert_eq!(last.actor, "192.0.2.1");
    }
}

#[tokio::test]
async fn one_token_used_by_many_at_once_joins_exactly_one() {
    let mesh = mesh().await;
    let token = Arc::new(mesh.token("web").await);
    let mut attempts = tokio::task::JoinSet::new();
    for n in 0..32 {
        let (authority, token, csr) = (mesh.authority.clone(), token.clone(), csr(&key()));
        attempts.spawn(async move {
            authority.attest_join_token(token.text.expose(), &csr, &format!("192.0.2.{n}"), anybody()).await
        });
    }
    let results = attempts.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for result in results {
        if let Err(error) = result {
            assert_eq!(error.refusal(), Some(Refusal::TokenUsed));
        }
    }
    assert_eq!(mesh.authority.verify_chain().await.unwrap().records, FOUNDING + 2 + 31);
}

#[tokio::test]
async fn the_store_holds_the_hash_of_a_token_and_never_the_token() {
    let mesh = mesh().await;
    let token = mesh.token("web").await;
    mesh.attest(&token, &csr(&key())).await.unwrap();
    let secret = token.text.expose().strip_prefix(TOKEN_PREFIX).unwrap().as_bytes();
    for entry in std::fs::read_dir(mesh.dir.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{}", path.display());
    }
}

#[tokio::test]
async fn a_row_written_by_somebody_else_joins_nobody() {
    let mesh = mesh().await;
    let token = mesh.token("web").await;
    let intruder = mesh.intruder().await;
    sqlx::query("UPDATE join_tokens SET spiffe_id = 'spiffe://demo.signet/ns/shop/sa/admin'")
        .execute(&intruder)
        .await
        .unwrap();
    assert_eq!(refusal(mesh.attest(&token, &csr(&key())).await), Refusal::RowTampered);
    sqlx::query("UPDATE join_tokens SET spiffe_id = 'spiffe://demo.signet/ns/shop/sa/web'")
        .execute(&intruder)
        .await
        .unwrap();
    mesh.attest(&token, &csr(&key())).await.unwrap();
    // Wiping the mark of use does not bring the token back.
    sqlx::query("UPDATE join_tokens SET used_at = NULL").execute(&intruder).await.unwrap();
    assert_eq!(refusal(mesh.attest(&token, &csr(&key())).await), Refusal::TokenUsed);
}

#[tokio::test]
async fn tokens_are_made_only_for_sidecars_and_gateways_of_this_mesh() {
    let mesh = mesh().await;
    let make = async |id: &str, class, ttl| {
        mesh.authority.create_join_token(SpiffeId::parse(id).unwrap(), class, ttl, "uid:0").await
    };
    let good = "spiffe://demo.signet/ns/shop/sa/web";
    for (id, class, ttl, expected) in [
        (good, PeerClass::ControlPlane, None, Refusal::ClassNotAllowed),
        (good, PeerClass::Operator, None, Refusal::ClassNotAllowed),
        ("spiffe://other.mesh/ns/shop/sa/web", PeerClass::Sidecar, None, Refusal::TrustDomain),
        ("spiffe://demo.signet", PeerClass::Sidecar, None, Refusal::IdentityShape),
        ("spiffe://demo.signet/web", PeerClass::Sidecar, None, Refusal::IdentityShape),
        ("spiffe://demo.signet/ns/signet-system/sa/web", PeerClass::Sidecar, None, Refusal::Reserved),
        ("spiffe://demo.signet/ns/signet-system/x", PeerClass::Gateway, None, Refusal::Reserved),
        (good, PeerClass::Sidecar, Some(minutes(0)), Refusal::Lifetime),
        (good, PeerClass::Sidecar, Some(minutes(24 * 60 + 1)), Refusal::Lifetime),
    ] {
        assert_eq!(refusal(make(id, class, ttl).await), expected, "{id} {class}");
    }
    assert_eq!(make(good, PeerClass::Sidecar, Some(minutes(60))).await.unwrap().expires_at, START + HOUR);
}

#[tokio::test]
async fn a_workload_that_is_not_registered_does_not_join_and_keeps_its_token() {
    let mesh = mesh().await;
    let token = mesh.token("web").await;
    let request = csr(&key());
    let refused =
        mesh.authority.attest_join_token(token.text.expose(), &request, "192.0.2.1", nobody()).await;
    assert_eq!(refusal(refused), Refusal::NotRegistered);
    mesh.attest(&token, &request).await.unwrap();
}

#[tokio::test]
async fn a_public_key_is_certified_once() {
    let mesh = mesh().await;
    let request = csr(&key());
    let (first, second) = (mesh.token("web").await, mesh.token("orders").await);
    mesh.attest(&first, &request).await.unwrap();
    let refused = refusal(mesh.attest(&second, &request).await);
    assert_eq!((refused, refused.outward()), (Refusal::KeyUsed, Outward::Precondition));
}

#[tokio::test]
async fn a_join_whose_answer_was_lost_is_answered_again_to_the_same_key_and_to_no_other() {
    let mesh = mesh().await;
    let (token, request) = (mesh.token("web").await, csr(&key()));
    let issued = mesh.attest(&token, &request).await.unwrap();
    let again = mesh.attest(&token, &request).await.unwrap();
    assert_eq!((&again.chain, again.serial), (&issued.chain, issued.serial));
    let last = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!((last.event, last.serial), (Event::Resent, issued.serial.to_string()));
    // Past its own end the token is used, as before.
    mesh.clock.pass(601);
    assert_eq!(mesh.attest(&token, &request).await.unwrap().chain, issued.chain);
    assert_eq!(refusal(mesh.attest(&token, &csr(&key())).await), Refusal::TokenUsed);
    // Another token does not find it, and whoever renewed it has had it.
    let other = mesh.token("web").await;
    assert_eq!(refusal(mesh.attest(&other, &request).await), Refusal::KeyUsed);
    mesh.renew(&issued, &key()).await.unwrap();
    assert_eq!(refusal(mesh.attest(&token, &request).await), Refusal::TokenUsed);
}

#[tokio::test]
async fn a_join_is_not_answered_again_once_it_is_revoked_unregistered_or_at_its_end() {
    let mesh = mesh().await;
    let (token, request) = (mesh.token("web").await, csr(&key()));
    let issued = mesh.attest(&token, &request).await.unwrap();
    let unregistered =
        mesh.authority.attest_join_token(token.text.expose(), &request, "192.0.2.1", nobody()).await;
    assert_eq!(refusal(unregistered), Refusal::TokenUsed);
    let serial = Revocation::Serial(issued.serial);
    mesh.authority.revoke(serial.clone(), "lost", "uid:0").await.unwrap();
    assert_eq!(refusal(mesh.attest(&token, &request).await), Refusal::TokenUsed);
    mesh.authority.reinstate(serial, "found", "uid:0").await.unwrap();
    mesh.attest(&token, &request).await.unwrap();
    mesh.clock.pass(2 * HOUR);
    assert_eq!(refusal(mesh.attest(&token, &request).await), Refusal::TokenUsed);
}

#[tokio::test]
async fn a_flood_of_guesses_costs_a_bounded_number_of_records() {
    let mesh = mesh_with(|c| c.failed_attempts_per_minute = 20).await;
    let before = mesh.authority.verify_chain().await.unwrap().records;
    let request = csr(&key());
    let guess = |n: u32| format!("{TOKEN_PREFIX}{n:0>43}");
    for n in 0..400 {
        let source = format!("192.0.2.{}", n % 10);
        let result = mesh.authority.attest_join_token(&guess(n), &request, &source, anybody()).await;
        let expected = if n < 200 { Refusal::TokenUnknown } else { Refusal::TooManyAttempts };
        assert_eq!(refusal(result), expected, "{n}");
    }
    let written = mesh.authority.verify_chain().await.unwrap().records - before;
    assert!(written <= 50, "{written}");
    // Another source is served meanwhile, and the next record says for how many it stands.
    mesh.clock.pass(1);
    let token = mesh.token("web").await;
    let result = mesh.authority.attest_join_token(&guess(7), &request, "198.51.100.1", anybody()).await;
    assert_eq!(refusal(result), Refusal::TokenUnknown);
    let last = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!(last.suppressed, 400 - written);
    mesh.authority.attest_join_token(token.text.expose(), &request, "198.51.100.1", anybody()).await.unwrap();
}

#[tokio::test]
async fn what_a_flood_left_uncounted_is_written_down_afterwards() {
    let mesh = mesh().await;
    let before = mesh.authority.verify_chain().await.unwrap().records;
    for n in 0..120 {
        let source = format!("192.0.2.{}", n % 10);
        refusal(mesh.authority.attest_join_token("junk", b"", &source, anybody()).await);
    }
    let written = mesh.authority.verify_chain().await.unwrap().records - before;
    mesh.authority.maintain().await.unwrap();
    let last = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!((last.reason.as_str(), last.suppressed), ("not-recorded", 120 - written));
    mesh.authority.maintain().await.unwrap();
    assert_eq!(mesh.authority.verify_chain().await.unwrap().records, before + written + 1);
}
