//! What apps have: certificates of class workload, and JWT-SVIDs.

use std::sync::Arc;

use rcgen::KeyPair;
use signet_ca::{Authority, Event, Issued, JwtSvid, MAX_CSR, Refusal, SharedRegistrar};
use signet_identity::{PeerClass, SpiffeId, Svid};
use signet_token::{Jwks, jwt_svid};

use crate::*;

/// A registry in which everybody is registered, and nobody's Workload opts in.
fn without_apps() -> SharedRegistrar {
    Arc::new(|_: &SpiffeId, class: PeerClass| (class != PeerClass::Workload).then(Vec::new))
}

async fn issue(mesh: &Mesh, parent: &Issued, key: &KeyPair) -> Result<Issued, AuthorityError> {
    mesh.authority.issue_workload(&parent.chain[0], &csr(key), anybody()).await
}

async fn jwt(mesh: &Mesh, parent: &Issued, audiences: &[&str]) -> Result<JwtSvid, AuthorityError> {
    let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
    mesh.authority.sign_jwt_svid(&parent.chain[0], audiences, None, anybody()).await
}

async fn last(authority: &Authority) -> signet_ca::Record {
    authority.records(1).await.unwrap().remove(0)
}

#[tokio::test]
async fn an_app_has_its_sidecars_identity_a_key_of_its_own_and_another_class() {
    let mesh = mesh().await;
    let parent = mesh.join("web").await;
    let issued = issue(&mesh, &parent, &key()).await.unwrap();
    let (app, sidecar) = (Svid::parse(&issued.chain).unwrap(), Svid::parse(&parent.chain).unwrap());
    assert_eq!((app.id.clone(), app.class), (id("web"), PeerClass::Workload));
    assert_eq!(sidecar.class, PeerClass::Sidecar);
    assert_ne!(app.key, sidecar.key);
    let record = last(&mesh.authority).await;
    assert_eq!((record.event, record.class.as_str()), (Event::Issued, "workload"));
    assert_eq!((record.spiffe_id.as_str(), record.actor.as_str()), (app.id.as_str(), app.id.as_str()));
    assert_eq!((record.serial, record.not_after), (app.serial.to_string(), Some(app.not_after)));
    mesh.authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn it_never_outlives_the_certificate_that_asked_for_it() {
    let mesh = mesh().await;
    let parent = mesh.join("web").await;
    mesh.clock.pass(HOUR / 2);
    let issued = issue(&mesh, &parent, &key()).await.unwrap();
    assert_eq!(issued.not_after, parent.not_after);
    mesh.clock.set(parent.not_after - 5);
    assert_eq!(refusal(issue(&mesh, &parent, &key()).await), Refusal::SvidExpired);
    mesh.clock.set(parent.not_after + 1);
    assert_eq!(refusal(issue(&mesh, &parent, &key()).await), Refusal::SvidExpired);
}

#[tokio::test]
async fn an_app_gets_nothing_until_its_workload_opts_in() {
    let mesh = mesh().await;
    let parent = mesh.join("web").await;
    let asked = mesh.authority.issue_workload(&parent.chain[0], &csr(&key()), without_apps()).await;
    assert_eq!(refusal(asked), Refusal::WorkloadApiOff);
    let asked = mesh.authority.sign_jwt_svid(&parent.chain[0], vec!["db".into()], None, without_apps()).await;
    assert_eq!(refusal(asked), Refusal::WorkloadApiOff);
    assert_eq!(last(&mesh.authority).await.reason, "workload-api-off");
    let asked = mesh.authority.issue_workload(&parent.chain[0], &csr(&key()), nobody()).await;
    assert_eq!(refusal(asked), Refusal::NotRegistered);
}

#[tokio::test]
async fn a_workload_leaf_can_neither_renew_nor_ask_for_anything() {
    let mesh = mesh().await;
    let parent = mesh.join("web").await;
    let app = issue(&mesh, &parent, &key()).await.unwrap();
    assert_eq!(refusal(mesh.renew(&app, &key()).await), Refusal::NotAProxy);
    assert_eq!(refusal(issue(&mesh, &app, &key()).await), Refusal::NotAProxy);
    assert_eq!(refusal(jwt(&mesh, &app, &["db"]).await), Refusal::NotAProxy);
    // And its parent renews as if it had never been.
    mesh.renew(&parent, &key()).await.unwrap();
}

#[tokio::test]
async fn an_app_never_gets_its_sidecars_key_certified() {
    let mesh = mesh().await;
    let token = mesh.token("web").await;
    let own = key();
    let parent = mesh.attest(&token, &csr(&own)).await.unwrap();
    assert_eq!(refusal(issue(&mesh, &parent, &own).await), Refusal::KeyUsed);
    let app = key();
    issue(&mesh, &parent, &app).await.unwrap();
    assert_eq!(refusal(issue(&mesh, &parent, &app).await), Refusal::KeyUsed);
    assert_eq!(refusal(mesh.renew(&parent, &app).await), Refusal::KeyUsed);
}

#[tokio::test]
async fn what_revokes_the_sidecars_lineage_revokes_its_apps_certificates() {
    let mesh = mesh().await;
    let parent = mesh.join("web").await;
    let app = issue(&mesh, &parent, &key()).await.unwrap();
    mesh.renew(&parent, &key()).await.unwrap();
    assert_eq!(refusal(mesh.renew(&parent, &key()).await), Refusal::ParentReused);
    assert!(mesh.authority.revocations().borrow().set.serials.contains(&app.serial));
    assert_eq!(refusal(issue(&mesh, &parent, &key()).await), Refusal::SerialRevoked);
    assert_eq!(refusal(jwt(&mesh, &parent, &["db"]).await), Refusal::SerialRevoked);
}

#[tokio::test]
async fn requests_that_no_honest_sidecar_makes_are_refused() {
    let mesh = mesh().await;
    let parent = mesh.join("web").await;
    let asked = mesh.authority.issue_workload(&parent.chain[0], &vec![0; MAX_CSR + 1], anybody()).await;
    assert_eq!(refusal(asked), Refusal::CsrTooLarge);
    let asked = mesh.authority.issue_workload(&parent.chain[1], &csr(&key()), anybody()).await;
    assert_eq!(refusal(asked), Refusal::SerialUnknown);
    let mut left = None;
    for _ in 0..31 {
        left = Some(issue(&mesh, &parent, &key()).await);
    }
    assert_eq!(refusal(left.unwrap()), Refusal::TooManyAttempts);
    mesh.clock.pass(60);
    issue(&mesh, &parent, &key()).await.unwrap();
}

#[tokio::test]
async fn a_jwt_svid_lives_five_minutes_and_verifies_under_the_published_keys() {
    let mesh = mesh().await;
    let parent = mesh.join("web").await;
    let svid = jwt(&mesh, &parent, &["db", "cache"]).await.unwrap();
    assert_eq!((svid.spiffe_id.clone(), svid.expires_at - svid.issued_at), (id("web"), 300));
    let keys = Jwks::parse(&mesh.authority.jwt_keys_json()).unwrap();
    let now = u64::try_from(START).unwrap();
    let read = jwt_svid::verify(&svid.token, "db", |_| Some(Some(&keys)), now).unwrap();
    assert_eq!(read.subject, id("web").as_str());
    assert_eq!(read.claims.len(), 4, "sub, aud, iat, exp: {:?}", read.claims);
    let record = last(&mesh.authority).await;
    assert_eq!((record.event, record.reason.as_str()), (Event::JwtIssued, "for db, cache"));
    assert_eq!(record.not_after, Some(svid.expires_at));
    // The token roots are other keys: neither vouches for the other's tokens.
    let roots = Jwks::parse(&mesh.authority.token_roots_json()).unwrap();
    assert!(jwt_svid::verify(&svid.token, "db", |_| Some(Some(&roots)), now).is_err());
    let keys = mesh.authority.jwt_keys_json();
    assert_eq!(mesh.reopen().await.authority.jwt_keys_json(), keys);
}

#[tokio::test]
async fn a_jwt_svid_is_for_the_caller_and_for_somebody() {
    let mesh = mesh().await;
    let parent = mesh.join("web").await;
    let ask = |wanted: &str| {
        let wanted = Some(wanted.to_owned());
        mesh.authority.sign_jwt_svid(&parent.chain[0], vec!["db".into()], wanted, anybody())
    };
    ask(id("web").as_str()).await.unwrap();
    assert_eq!(refusal(ask(id("orders").as_str()).await), Refusal::NotTheCaller);
    assert_eq!(refusal(jwt(&mesh, &parent, &[]).await), Refusal::Audience);
    assert_eq!(refusal(jwt(&mesh, &parent, &["a\0b"]).await), Refusal::Audience);
}
