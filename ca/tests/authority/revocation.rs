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
    let serial = Serial::fresh().unwrap();
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

/// A gateway with its first certificate.
async fn gateway(mesh: &Mesh, name: &str) -> Issued {
    let token = mesh.authority.create_join_token(id(name), PeerClass::Gateway, None, "uid:0").await.unwrap();
    mesh.attest(&token, &csr(&key())).await.unwrap()
}

/// Delegates to a new key of this gateway, and says which.
pub(crate) async fn delegate(mesh: &Mesh, gateway: &Issued) -> Result<String, AuthorityError> {
    let key = SigningKey::generate().unwrap();
    let terms = terms(&gateway.spiffe_id, &key);
    mesh.authority.sign_delegation(&gateway.chain[0], terms).await.map(|_| key.thumbprint().to_owned())
}

fn delegations(mesh: &Mesh) -> std::collections::HashSet<String> {
    mesh.authority.revocations().borrow().delegations.clone()
}

#[tokio::test]
async fn a_delegation_verifies_under_the_token_roots_and_is_recorded() {
    let mesh = mesh().await;
    let (gw, gateway_key) = (gateway(&mesh, "gw").await, SigningKey::generate().unwrap());
    let signed = mesh.authority.sign_delegation(&gw.chain[0], terms(&id("gw"), &gateway_key)).await.unwrap();
    let roots = signet_token::TokenRoots::parse(&mesh.authority.token_roots_json()).unwrap();
    let read = signet_token::delegation::verify(&signed, &roots, "demo.signet", START as u64).unwrap();
    assert_eq!(read.subject, id("gw").as_str());
    let last = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!((last.event, last.reason.as_str()), (Event::Delegated, gateway_key.thumbprint()));
}

#[tokio::test]
async fn a_revoked_delegation_or_gateway_gets_no_new_one() {
    let mesh = mesh().await;
    let (gw, gateway_key) = (gateway(&mesh, "gw").await, SigningKey::generate().unwrap());
    let what = Revocation::Delegation(gateway_key.thumbprint().to_owned());
    mesh.authority.revoke(what, "", "uid:0").await.unwrap();
    assert!(mesh.authority.revocations().borrow().delegations.contains(gateway_key.thumbprint()));
    let leaf = &gw.chain[0];
    let result = mesh.authority.sign_delegation(leaf, terms(&id("gw"), &gateway_key)).await;
    assert_eq!(refusal(result), Refusal::KeyRevoked);
    mesh.authority.revoke(Revocation::Identity(id("gw")), "", "uid:0").await.unwrap();
    assert_eq!(refusal(delegate(&mesh, &gw).await), Refusal::IdentityRevoked);
}

#[tokio::test]
async fn a_delegation_is_for_the_gateway_that_asks_and_for_nobody_else() {
    let mesh = mesh().await;
    let (gw, web) = (gateway(&mesh, "gw").await, mesh.join("web").await);
    for other in ["spiffe://other.mesh/ns/shop/sa/gw", "spiffe://demo.signet/ns/shop/sa/web"] {
        let terms = terms(&SpiffeId::parse(other).unwrap(), &SigningKey::generate().unwrap());
        let result = mesh.authority.sign_delegation(&gw.chain[0], terms).await;
        assert_eq!(refusal(result), Refusal::PeerMismatch, "{other}");
    }
    assert_eq!(refusal(delegate(&mesh, &web).await), Refusal::ClassNotAllowed);
    let strange = gateway(&super::mesh().await, "gw").await;
    assert_eq!(refusal(delegate(&mesh, &strange).await), Refusal::SerialUnknown);
    mesh.clock.set(gw.not_after + 1);
    assert_eq!(refusal(delegate(&mesh, &gw).await), Refusal::SvidExpired);
}

#[tokio::test]
async fn whatever_revokes_a_gateway_revokes_the_keys_that_it_mints_with_and_no_others() {
    type Names = fn(&Issued, &Issued, signet_ca::LineageId) -> Revocation;
    let ways: [(&str, Names); 6] = [
        ("identity", |gw, _, _| Revocation::Identity(gw.spiffe_id.clone())),
        ("lineage", |_, _, lineage| Revocation::Lineage(lineage)),
        ("first serial", |first, _, _| Revocation::Serial(first.serial)),
        ("last serial", |_, last, _| Revocation::Serial(last.serial)),
        ("first key", |first, _, _| Revocation::Key(Svid::parse(&first.chain).unwrap().key)),
        ("last key", |_, last, _| Revocation::Key(Svid::parse(&last.chain).unwrap().key)),
    ];
    for (way, name) in ways {
        let mesh = mesh().await;
        let first = gateway(&mesh, "gw").await;
        let lineage = lineage_of(&mesh.authority.records(1).await.unwrap().remove(0).reason);
        let other = gateway(&mesh, "other").await;
        let mut of_gw = vec![delegate(&mesh, &first).await.unwrap()];
        let last = mesh.renew(&first, &key()).await.unwrap();
        of_gw.push(delegate(&mesh, &last).await.unwrap());
        let of_other = delegate(&mesh, &other).await.unwrap();

        let what = name(&first, &last, lineage);
        mesh.authority.revoke(what.clone(), "gateway taken over", "uid:0").await.unwrap();
        let revoked = delegations(&mesh);
        assert!(of_gw.iter().all(|key| revoked.contains(key)), "{way}");
        assert!(!revoked.contains(&of_other), "{way}: another gateway goes on");
        mesh.authority.verify_chain().await.unwrap();
        // It makes another key when it is let in again.
        mesh.authority.reinstate(what, "found", "uid:0").await.unwrap().unwrap();
        assert_eq!(delegations(&mesh), revoked, "{way}");
        let new = delegate(&mesh, &last).await.unwrap();
        assert!(!delegations(&mesh).contains(&new), "{way}");
        mesh.clock.pass(2 * HOUR + 1);
        mesh.authority.maintain().await.unwrap();
        assert!(delegations(&mesh).is_empty(), "{way}: they have ended by themselves");
    }
}

#[tokio::test]
async fn a_gateway_whose_certificate_is_in_two_hands_mints_no_more() {
    let mesh = mesh().await;
    let first = gateway(&mesh, "gw").await;
    let delegated = delegate(&mesh, &first).await.unwrap();
    mesh.renew(&first, &key()).await.unwrap();
    assert_eq!(refusal(mesh.renew(&first, &key()).await), Refusal::ParentReused);
    assert!(delegations(&mesh).contains(&delegated));
}

fn lineage_of(reason: &str) -> signet_ca::LineageId {
    let id = reason.strip_prefix("lineage ").and_then(|rest| rest.split([',', ' ']).next()).unwrap();
    id.parse().unwrap()
}

#[tokio::test]
async fn a_revoked_lineage_ends_each_of_its_certificates_and_does_not_renew_until_it_is_lifted() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    let lineage = lineage_of(&mesh.authority.records(1).await.unwrap().remove(0).reason);
    let second = mesh.renew(&first, &key()).await.unwrap();
    let renewed = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!(lineage_of(&renewed.reason), lineage, "the log names the lineage at each step");
    let other = mesh.join("web").await;

    let what = Revocation::Lineage(lineage);
    mesh.authority.revoke(what.clone(), "host lost", "uid:0").await.unwrap();
    let record = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!((record.event, record.reason), (Event::Revoked, format!("lineage {lineage}: host lost")));
    let revoked = |mesh: &Mesh, issued: &signet_ca::Issued| {
        let svid = Svid::parse(&issued.chain).unwrap();
        mesh.authority.revocations().borrow().set.revokes(&svid).is_some()
    };
    assert!(revoked(&mesh, &first) && revoked(&mesh, &second), "sidecars hear of every certificate of it");
    assert!(!revoked(&mesh, &other), "another lineage of the same identity goes on");
    assert_eq!(refusal(mesh.renew(&second, &key()).await), Refusal::LineageRevoked);
    mesh.renew(&other, &key()).await.unwrap();
    let listed: Vec<Serial> =
        mesh.authority.crls().borrow().iter().flat_map(|list| list.revoked.keys().copied()).collect();
    assert!(listed.contains(&first.serial) && listed.contains(&second.serial) && listed.len() == 2);
    mesh.authority.verify_chain().await.unwrap();

    let mesh = mesh.reopen().await;
    assert!(revoked(&mesh, &second));
    // One of its certificates is revoked by itself as well: that stays.
    mesh.authority.revoke(Revocation::Serial(first.serial), "", "uid:0").await.unwrap();
    assert!(mesh.authority.reinstate(what.clone(), "found", "uid:0").await.unwrap().is_some());
    assert_eq!(mesh.authority.reinstate(what, "found", "uid:0").await.unwrap(), None);
    assert!(revoked(&mesh, &first) && !revoked(&mesh, &second));
    mesh.renew(&second, &key()).await.unwrap();
    mesh.authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn a_revoked_lineage_is_forgotten_when_its_chain_of_renewals_has_ended() {
    let mesh = mesh().await;
    mesh.join("web").await;
    let lineage = lineage_of(&mesh.authority.records(1).await.unwrap().remove(0).reason);
    mesh.authority.revoke(Revocation::Lineage(lineage), "", "uid:0").await.unwrap();
    mesh.clock.pass(6 * DAY);
    mesh.authority.maintain().await.unwrap();
    assert!(mesh.authority.revocations().borrow().set.is_empty(), "no certificate of it is left");
    assert_eq!(mesh.authority.verify_chain().await.unwrap().revocations, 1, "but it still may not renew");
    mesh.clock.pass(DAY + 2);
    mesh.authority.maintain().await.unwrap();
    assert_eq!(mesh.authority.verify_chain().await.unwrap().revocations, 0);
}

#[tokio::test]
async fn a_lineage_that_was_never_begun_is_not_revoked() {
    let mesh = mesh().await;
    let what = Revocation::Lineage("00112233445566778899aabbccddeeff".parse().unwrap());
    assert_eq!(refusal(mesh.authority.revoke(what, "", "uid:0").await), Refusal::LineageUnknown);
    for bad in ["", "0011", "00112233445566778899aabbccddeefg", "+0112233445566778899aabbccddeeff"] {
        assert!(bad.parse::<signet_ca::LineageId>().is_err(), "{bad}");
    }
    for bad in ["", "main", "/uid", "main/", "main/u id"] {
        assert!(bad.parse::<signet_ca::InstanceName>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_certificate_that_somebody_takes_out_of_a_revoked_lineage_stops_every_issuance() {
    let mesh = mesh().await;
    let web = mesh.join("web").await;
    let lineage = lineage_of(&mesh.authority.records(1).await.unwrap().remove(0).reason);
    let orders = mesh.join("orders").await;
    mesh.authority.revoke(Revocation::Lineage(lineage), "", "uid:0").await.unwrap();
    let intruder = mesh.intruder().await;
    sqlx::query("DELETE FROM revocations WHERE kind = 'member'").execute(&intruder).await.unwrap();
    assert!(mesh.renew(&orders, &key()).await.is_err());
    assert!(mesh.authority.verify_chain().await.is_err());
    let svid = Svid::parse(&web.chain).unwrap();
    assert!(
        mesh.authority.revocations().borrow().set.revokes(&svid).is_some(),
        "what was read stays in force"
    );
}
