use signet_ca::{Event, Refusal};
use signet_identity::Svid;

use crate::*;

#[tokio::test]
async fn a_renewal_has_the_same_identity_a_new_key_and_the_same_end_of_lineage() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    mesh.clock.set(first.renew_at);
    let second = mesh.renew(&first, &key()).await.unwrap();
    assert_eq!((&second.spiffe_id, second.class), (&first.spiffe_id, first.class));
    assert_eq!(second.lineage_ends_at, first.lineage_ends_at);
    assert_eq!(second.not_after, first.renew_at + HOUR);
    let key_of = |issued: &Issued| Svid::parse(&issued.chain).unwrap().key;
    assert_ne!(key_of(&first), key_of(&second));
    let last = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!((last.event, last.actor.as_str()), (Event::Renewed, first.spiffe_id.as_str()));
}

#[tokio::test]
async fn a_lost_answer_is_given_again() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    let new = key();
    let request = csr(&new);
    let answer = mesh.authority.renew(&first.chain[0], &request, anybody()).await.unwrap();
    mesh.clock.pass(5);
    let again = mesh.authority.renew(&first.chain[0], &request, anybody()).await.unwrap();
    assert_eq!(again.chain, answer.chain);
    // A request signed anew by the same key is the same wish.
    assert_eq!(mesh.renew(&first, &new).await.unwrap().chain, answer.chain);
    assert_eq!(mesh.authority.records(1).await.unwrap()[0].event, Event::Resent);
    // The chain goes on from the answer.
    mesh.renew(&answer, &key()).await.unwrap();
}

#[tokio::test]
async fn a_lineage_that_renews_without_end_waits_out_the_minute_and_others_do_not() {
    let mesh = mesh().await;
    let bystander = mesh.join("orders").await;
    let mut last = mesh.join("web").await;
    for _ in 0..29 {
        last = mesh.renew(&last, &key()).await.unwrap();
    }
    // A lost answer that is asked for again and again writes to the log as well.
    let new = key();
    let answer = mesh.renew(&last, &new).await.unwrap();
    assert_eq!(refusal(mesh.renew(&last, &new).await), Refusal::TooManyAttempts);
    assert_eq!(refusal(mesh.renew(&answer, &key()).await), Refusal::TooManyAttempts);
    mesh.renew(&bystander, &key()).await.unwrap();
    mesh.clock.pass(60);
    assert_eq!(mesh.renew(&last, &new).await.unwrap().chain, answer.chain);
    mesh.renew(&answer, &key()).await.unwrap();
}

#[tokio::test]
async fn a_second_key_for_one_parent_revokes_the_lineage_and_raises_an_alert() {
    let mesh = mesh().await;
    let bystander = mesh.join("orders").await;
    let first = mesh.join("web").await;
    let second = mesh.renew(&first, &key()).await.unwrap();
    let mut revocations = mesh.authority.revocations();
    revocations.mark_unchanged();
    assert_eq!(refusal(mesh.renew(&first, &key()).await), Refusal::ParentReused);

    let records = mesh.authority.records(2).await.unwrap();
    assert_eq!([records[0].event, records[1].event], [Event::Alert, Event::Refused]);
    assert_eq!(records[0].serial, first.serial.to_string());
    assert_eq!(records[0].spiffe_id, first.spiffe_id.as_str());
    // Both holders are out, and sidecars hear of it.
    assert_eq!(refusal(mesh.renew(&second, &key()).await), Refusal::SerialRevoked);
    assert!(revocations.has_changed().unwrap());
    let set = revocations.borrow_and_update().clone();
    assert_eq!(set.set.serials, [first.serial, second.serial].into());
    // Nobody else is touched, and the workload may join again.
    mesh.renew(&bystander, &key()).await.unwrap();
    let joined = mesh.join("web").await;
    mesh.renew(&joined, &key()).await.unwrap();
}

#[tokio::test]
async fn a_revoked_lineage_stays_revoked_when_its_serials_are_reinstated() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    let second = mesh.renew(&first, &key()).await.unwrap();
    refusal(mesh.renew(&first, &key()).await);
    for serial in [first.serial, second.serial] {
        let what = signet_ca::Revocation::Serial(serial);
        mesh.authority.reinstate(what, "a mistake", "uid:0").await.unwrap().unwrap();
    }
    assert_eq!(refusal(mesh.renew(&second, &key()).await), Refusal::LineageRevoked);
    let intruder = mesh.intruder().await;
    // Un-revoking it by hand is noticed.
    sqlx::query("UPDATE lineages SET revoked_at = NULL").execute(&intruder).await.unwrap();
    assert_eq!(refusal(mesh.renew(&second, &key()).await), Refusal::RowTampered);
}

#[tokio::test]
async fn two_renewals_of_one_parent_at_once_leave_one_child_or_none_but_never_two() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    let renew = |key: rcgen::KeyPair| {
        let (authority, leaf, csr) = (mesh.authority.clone(), first.chain[0].clone(), csr(&key));
        tokio::spawn(async move { authority.renew(&leaf, &csr, anybody()).await })
    };
    let (a, b) = (renew(key()), renew(key()));
    let results = [a.await.unwrap(), b.await.unwrap()];
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let refused = results.into_iter().find_map(|result| result.err()).unwrap();
    assert_eq!(refused.refusal(), Some(Refusal::ParentReused));
    let intruder = mesh.intruder().await;
    let (children,): (i64,) = sqlx::query_as("SELECT count(*) FROM svids WHERE parent IS NOT NULL")
        .fetch_one(&intruder)
        .await
        .unwrap();
    assert_eq!(children, 1);
}

#[tokio::test]
async fn the_same_request_twice_at_once_is_one_certificate() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    let request = csr(&key());
    let renew = || {
        let (authority, leaf, csr) = (mesh.authority.clone(), first.chain[0].clone(), request.clone());
        tokio::spawn(async move { authority.renew(&leaf, &csr, anybody()).await.unwrap() })
    };
    let (a, b) = (renew(), renew());
    assert_eq!(a.await.unwrap().chain, b.await.unwrap().chain);
}

#[tokio::test]
async fn a_used_public_key_is_refused() {
    let mesh = mesh().await;
    let token = mesh.token("web").await;
    let old = key();
    let first = mesh.attest(&token, &csr(&old)).await.unwrap();
    assert_eq!(refusal(mesh.renew(&first, &old).await), Refusal::KeyUsed);
    let second = mesh.renew(&first, &key()).await.unwrap();
    assert_eq!(refusal(mesh.renew(&second, &old).await), Refusal::KeyUsed);
}

#[tokio::test]
async fn a_lineage_ends_and_the_last_leaf_does_not_outlive_it() {
    let mesh = mesh_with(|c| c.lineage_life = minutes(150)).await;
    let mut current = mesh.join("web").await;
    let end = START + 150 * 60;
    assert_eq!(current.lineage_ends_at, Some(end));
    mesh.clock.set(START + 50 * 60);
    current = mesh.renew(&current, &key()).await.unwrap();
    mesh.clock.set(START + 100 * 60);
    current = mesh.renew(&current, &key()).await.unwrap();
    assert_eq!(current.not_after, end);
    mesh.clock.set(end - 5);
    assert_eq!(refusal(mesh.renew(&current, &key()).await), Refusal::LineageEnded);
    mesh.clock.set(end + 1);
    assert_eq!(refusal(mesh.renew(&current, &key()).await), Refusal::SvidExpired);
}

#[tokio::test]
async fn a_certificate_that_was_not_issued_here_renews_nothing() {
    let mesh = mesh().await;
    let other = crate::mesh().await;
    let foreign = other.join("web").await;
    assert_eq!(refusal(mesh.renew(&foreign, &key()).await), Refusal::SerialUnknown);
    let garbage = rustls_pki_types::CertificateDer::from(b"garbage".to_vec());
    let result = mesh.authority.renew(&garbage, &csr(&key()), anybody()).await;
    assert_eq!(refusal(result), Refusal::PeerMismatch);
    // Our own serial in another certificate.
    let mine = mesh.join("web").await;
    let mut forged = mine.chain[0].to_vec();
    let at = forged.windows(3).position(|w| w == b"web").unwrap();
    forged[at..at + 3].copy_from_slice(b"wab");
    let result = mesh.authority.renew(&forged.into(), &csr(&key()), anybody()).await;
    assert_eq!(refusal(result), Refusal::PeerMismatch);
}

#[tokio::test]
async fn renewal_asks_the_registry_again() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    let result = mesh.authority.renew(&first.chain[0], &csr(&key()), nobody()).await;
    assert_eq!(refusal(result), Refusal::NotRegistered);
    let named: SharedRegistrar =
        Arc::new(|_: &SpiffeId, _: PeerClass| Some(vec!["web.shop.signet.internal".into()]));
    let second = mesh.authority.renew(&first.chain[0], &csr(&key()), named).await.unwrap();
    assert_eq!(Svid::parse(&second.chain).unwrap().dns_names, ["web.shop.signet.internal"]);
}

#[tokio::test]
async fn a_certificate_row_that_was_changed_renews_nothing() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    let intruder = mesh.intruder().await;
    mesh.clock.set(first.not_after + 1);
    assert_eq!(refusal(mesh.renew(&first, &key()).await), Refusal::SvidExpired);
    sqlx::query("UPDATE svids SET not_after = not_after + 3600").execute(&intruder).await.unwrap();
    assert_eq!(refusal(mesh.renew(&first, &key()).await), Refusal::RowTampered);
}

#[tokio::test]
async fn a_lineage_that_was_lengthened_by_hand_renews_nothing() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    let intruder = mesh.intruder().await;
    sqlx::query("UPDATE lineages SET ends_at = ends_at + 3600").execute(&intruder).await.unwrap();
    assert_eq!(refusal(mesh.renew(&first, &key()).await), Refusal::RowTampered);
}

#[tokio::test]
async fn the_last_day_of_a_lineage_is_counted_and_its_end_is_in_the_log() {
    let mesh = mesh_with(|config| config.lineage_life = Duration::from_secs(2 * DAY as u64)).await;
    let registry = prometheus::Registry::new();
    mesh.authority.register_metrics(&registry).unwrap();
    let ending = || {
        let family = registry.gather().into_iter().find(|f| f.name() == "signet_ca_lineage_ending_total");
        family.unwrap().get_metric()[0].get_counter().get_value()
    };
    let mut current = mesh.join("web").await;
    let reason = mesh.authority.records(1).await.unwrap().remove(0).reason;
    assert!(reason.ends_with(", renewable until 2026-01-03T00:00:00Z"), "{reason}");
    for (hour, warned) in [(1, 0.0), (2, 0.0)] {
        mesh.clock.set(START + hour * HOUR);
        current = mesh.renew(&current, &key()).await.unwrap();
        assert_eq!(ending(), warned);
    }
    while mesh.clock.unix_seconds() < START + DAY {
        mesh.clock.pass(HOUR);
        current = mesh.renew(&current, &key()).await.unwrap();
    }
    assert_eq!(ending(), 0.0, "a day is left");
    mesh.clock.pass(1);
    mesh.renew(&current, &key()).await.unwrap();
    assert_eq!(ending(), 1.0);
    let reason = mesh.authority.records(1).await.unwrap().remove(0).reason;
    assert!(reason.ends_with(", renewable until 2026-01-03T00:00:00Z"), "{reason}");
}
