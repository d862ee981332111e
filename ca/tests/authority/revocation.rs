use signet_ca::{Event, Refusal, Revocation};
use signet_identity::{KeyId, Serial, Svid};
use signet_token::{Delegation, ScopeCeiling, SigningKey};

use crate::*;

#[tokio::test]
async fn a_revoked_identity_neither_joins_nor_renews_until_it_is_lifted() {
    let mesh = mesh().await;
    let issued = mesh.join("web").await;
    let token = mesh.token("web").await;
    let what = Revocation::Identity(id("web"));
    assert_eq!(mesh.authority.revoke(what.clone(), "stolen laptop", "uid:0").await.unwrap(), START as u64);
    assert_eq!(refusal(mesh.renew(&issued, &key()).await), Refusal::IdentityRevoked);
    assert_eq!(refusal(mesh.attest(&token, &csr(&key())).await), Refusal::IdentityRevoked);
    mesh.join("orders").await;

    let mesh = mesh.reopen().await;
    assert!(mesh.authority.revocations().borrow().set.identities.contains(&id("web")));
    mesh.clock.pass(400 * DAY);
    mesh.authority.maintain().await.unwrap();
    assert!(mesh.authority.revocations().borrow().set.identities.contains(&id("web")));

    assert!(mesh.authority.reinstate(what.clone(), "found", "uid:0").await.unwrap().is_some());
    let last = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!((last.event, last.reason.as_str()), (Event::Reinstated, "found"));
    assert_eq!(mesh.authority.reinstate(what, "found", "uid:0").await.unwrap(), None);
    assert!(mesh.authority.revocations().borrow().set.identities.is_empty());
    mesh.join("web").await;
}

#[tokio::test]
async fn a_revoked_serial_or_key_does_not_renew() {
    let mesh = mesh().await;
    let (web, orders) = (mesh.join("web").await, mesh.join("orders").await);
    mesh.authority.revoke(Revocation::Serial(web.serial), "", "uid:0").await.unwrap();
    let key_of_orders = Svid::parse(&orders.chain).unwrap().key;
    mesh.authority.revoke(Revocation::Key(key_of_orders), "", "uid:0").await.unwrap();
    assert_eq!(refusal(mesh.renew(&web, &key()).await), Refusal::SerialRevoked);
    assert_eq!(refusal(mesh.renew(&orders, &key()).await), Refusal::KeyRevoked);
}

#[tokio::test]
async fn a_key_that_was_revoked_before_it_was_ever_seen_is_not_certified() {
    let mesh = mesh().await;
    let stolen = key();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&stolen);
    mesh.authority.revoke(Revocation::Key(KeyId::of(&spki)), "found on a paste site", "uid:0").await.unwrap();
    let token = mesh.token("web").await;
    assert_eq!(refusal(mesh.attest(&token, &csr(&stolen)).await), Refusal::KeyRevoked);
}

#[tokio::test]
async fn a_revocation_is_published_and_kept_until_what_it_names_has_ended() {
    let mesh = mesh().await;
    let web = mesh.join("web").await;
    let mut feed = mesh.authority.revocations();
    assert_eq!(feed.borrow_and_update().set.sequence, 0);
    mesh.authority.revoke(Revocation::Serial(web.serial), "left", "uid:7").await.unwrap();
    feed.changed().await.unwrap();
    {
        let set = feed.borrow_and_update();
        assert_eq!((set.set.sequence, set.set.serials.contains(&web.serial)), (START as u64, true));
        assert!(set.set.revokes(&Svid::parse(&web.chain).unwrap()).is_some());
    }
    let record = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!(
        (record.event, record.reason.as_str(), record.actor.as_str()),
        (Event::Revoked, "left", "uid:7")
    );
    assert_eq!(record.serial, web.serial.to_string());

    mesh.clock.set(web.not_after);
    mesh.authority.maintain().await.unwrap();
    assert!(!feed.has_changed().unwrap());
    mesh.clock.set(web.not_after + 1);
    mesh.authority.maintain().await.unwrap();
    let set = feed.borrow_and_update();
    assert_eq!((set.set.sequence, set.set.is_empty()), (web.not_after as u64 + 1, true));
}

#[tokio::test]
async fn a_serial_of_another_replica_can_be_revoked_for_the_longest_life() {
    let mesh = mesh().await;
    let serial = Serial::random().unwrap();
    mesh.authority.revoke(Revocation::Serial(serial), "", "uid:0").await.unwrap();
    mesh.clock.pass(DAY);
    mesh.authority.maintain().await.unwrap();
    assert!(mesh.authority.revocations().borrow().set.serials.contains(&serial));
    mesh.clock.pass(2);
    mesh.authority.maintain().await.unwrap();
    assert!(mesh.authority.revocations().borrow().set.serials.is_empty());
}

#[tokio::test]
async fn the_control_plane_cannot_be_revoked_by_name() {
    let mesh = mesh().await;
    let what = Revocation::Identity(mesh.authority.control_plane_id().clone());
    assert_eq!(refusal(mesh.authority.revoke(what, "", "uid:0").await), Refusal::Reserved);
    let what = Revocation::Delegation("not a thumbprint".into());
    assert_eq!(refusal(mesh.authority.revoke(what, "", "uid:0").await), Refusal::Thumbprint);
}

fn terms(subject: &SpiffeId, key: &SigningKey) -> Delegation {
    Delegation {
        issuer: "demo.signet".into(),
        subject: subject.to_string(),
        issued_at: START as u64,
        expires_at: (START + HOUR) as u64,
        id: "1".into(),
        key: key.public_jwk().clone(),
        scope_ceiling: ScopeCeiling::Any,
        aliases: ["demo-idp".to_owned()].into(),
        credentials: ["jwt".to_owned()].into(),
    }
}

#[tokio::test]
async fn a_delegation_verifies_under_the_token_roots_and_is_recorded() {
    let mesh = mesh().await;
    let gateway_key = SigningKey::generate().unwrap();
    let signed = mesh.authority.sign_delegation(terms(&id("gw"), &gateway_key)).await.unwrap();
    let roots = signet_token::TokenRoots::parse(&mesh.authority.token_roots_json()).unwrap();
    let read = signet_token::delegation::verify(&signed, &roots, "demo.signet", START as u64).unwrap();
    assert_eq!(read.subject, id("gw").as_str());
    let last = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!((last.event, last.reason.as_str()), (Event::Delegated, gateway_key.thumbprint()));
}

#[tokio::test]
async fn a_revoked_delegation_or_gateway_gets_no_new_one() {
    let mesh = mesh().await;
    let gateway_key = SigningKey::generate().unwrap();
    let what = Revocation::Delegation(gateway_key.thumbprint().to_owned());
    mesh.authority.revoke(what, "", "uid:0").await.unwrap();
    assert!(mesh.authority.revocations().borrow().delegations.contains(gateway_key.thumbprint()));
    let result = mesh.authority.sign_delegation(terms(&id("gw"), &gateway_key)).await;
    assert_eq!(refusal(result), Refusal::KeyRevoked);
    mesh.authority.revoke(Revocation::Identity(id("gw")), "", "uid:0").await.unwrap();
    let result = mesh.authority.sign_delegation(terms(&id("gw"), &SigningKey::generate().unwrap())).await;
    assert_eq!(refusal(result), Refusal::IdentityRevoked);
    let foreign = SpiffeId::parse("spiffe://other.mesh/ns/edge/sa/gw").unwrap();
    let result = mesh.authority.sign_delegation(terms(&foreign, &SigningKey::generate().unwrap())).await;
    assert_eq!(refusal(result), Refusal::TrustDomain);
}
