//! People who log in: what they get, what their ID token is good for, and what is written down.

use std::collections::BTreeSet;
use std::time::Duration;

use signet_ca::{
    AuthorityError, Event, Issued, OperatorCall, OperatorLogin, Person, Refusal, Revocation, login_nonce,
};
use signet_identity::{PeerClass, Svid};

use crate::{HOUR, Mesh, START, csr, key, mesh, refusal};

fn ada() -> Person {
    Person {
        provider: "corp".into(),
        issuer: "https://login.example.com".into(),
        subject: "u-1".into(),
        username: Some("ada@example.com".into()),
        name: Some("Ada Lovelace".into()),
        groups: BTreeSet::from(["mesh-admins".to_owned(), "staff".to_owned()]),
    }
}

fn login(key: &rcgen::KeyPair) -> OperatorLogin {
    let nonce = login_nonce(&rcgen::PublicKeyData::subject_public_key_info(key));
    OperatorLogin { person: ada(), nonce, life: Duration::from_secs(3600) }
}

async fn enter(mesh: &Mesh, login: OperatorLogin, csr: &[u8]) -> Result<Issued, AuthorityError> {
    mesh.authority.attest_operator(Ok(login), csr, "192.0.2.7").await
}

#[tokio::test]
async fn a_login_yields_one_certificate_of_class_operator_for_an_hour_and_no_renewal() {
    let mesh = mesh().await;
    let key = key();
    let issued = enter(&mesh, login(&key), &csr(&key)).await.unwrap();
    assert_eq!((issued.class, issued.not_after), (PeerClass::Operator, START + HOUR));
    assert_eq!(issued.lineage_ends_at, None);
    let svid = Svid::parse(&issued.chain).unwrap();
    assert!(svid.id.path().starts_with("/ns/signet-system/operator/"), "{}", svid.id);
    assert!(svid.dns_names.is_empty());
    assert!(mesh.authority.is_operator_id(&svid.id));
    let renewal = mesh.authority.renew(&issued.chain[0], &csr(&crate::key()), crate::anybody()).await;
    assert_eq!(refusal(renewal), Refusal::Reserved);
    // The same token and key again: a key is certified once.
    assert_eq!(refusal(enter(&mesh, login(&key), &csr(&key)).await), Refusal::KeyUsed);
    let last = mesh.authority.records(3).await.unwrap().remove(0);
    assert_eq!((last.event, last.actor.as_str()), (Event::LoggedIn, "oidc:corp|u-1"));
    assert_eq!(last.reason, "Ada Lovelace from 192.0.2.7");
}

#[tokio::test]
async fn a_session_never_lasts_longer_than_an_hour_whatever_is_asked() {
    let mesh = mesh().await;
    let key = key();
    let long = OperatorLogin { life: Duration::from_secs(86_400), ..login(&key) };
    assert_eq!(enter(&mesh, long, &csr(&key)).await.unwrap().not_after, START + HOUR);
}

#[tokio::test]
async fn a_stolen_id_token_is_worth_nothing_with_another_key() {
    let mesh = mesh().await;
    let (honest, thief) = (key(), key());
    let stolen = login(&honest);
    assert_eq!(refusal(enter(&mesh, stolen.clone(), &csr(&thief)).await), Refusal::LoginKey);
    // Nor with the honest request but without its key: a request is signed by its own.
    let mut changed = csr(&honest);
    let last = changed.len() - 1;
    changed[last] ^= 1;
    assert_eq!(refusal(enter(&mesh, stolen.clone(), &changed).await), Refusal::CsrBadSignature);
    enter(&mesh, stolen, &csr(&honest)).await.unwrap();
}

#[tokio::test]
async fn what_the_provider_said_is_kept_beside_the_certificate_across_a_restart() {
    let mesh = mesh().await;
    let key = key();
    let issued = enter(&mesh, login(&key), &csr(&key)).await.unwrap();
    let mesh = mesh.reopen().await;
    let session = mesh.authority.operator_session(issued.serial).await.unwrap().unwrap();
    assert_eq!((session.person, session.spiffe_id), (ada(), issued.spiffe_id));
    let web = mesh.join("web").await;
    assert_eq!(mesh.authority.operator_session(web.serial).await.unwrap(), None);
}

#[tokio::test]
async fn a_writer_of_the_store_cannot_give_itself_a_group() {
    let mesh = mesh().await;
    let key = key();
    let issued = enter(&mesh, login(&key), &csr(&key)).await.unwrap();
    sqlx::query("UPDATE operators SET group_names = '[\"root\"]'")
        .execute(&mesh.intruder().await)
        .await
        .unwrap();
    let error = mesh.authority.operator_session(issued.serial).await.unwrap_err();
    assert!(error.to_string().contains("operators does not carry the authority's mark"), "{error}");
}

#[tokio::test]
async fn a_person_who_was_shut_out_gets_no_certificate_until_reinstated() {
    let mesh = mesh().await;
    let id = mesh.authority.operator_id(&ada()).unwrap();
    mesh.authority.revoke(Revocation::Identity(id.clone()), "left", "uid:0").await.unwrap();
    let first = key();
    assert_eq!(refusal(enter(&mesh, login(&first), &csr(&first)).await), Refusal::IdentityRevoked);
    mesh.authority.reinstate(Revocation::Identity(id), "back", "uid:0").await.unwrap();
    enter(&mesh, login(&first), &csr(&first)).await.unwrap();
}

#[tokio::test]
async fn nobody_joins_as_an_operator_and_people_of_two_providers_never_share_an_identity() {
    let mesh = mesh().await;
    let id = mesh.authority.operator_id(&ada()).unwrap();
    for class in [PeerClass::Operator, PeerClass::Sidecar] {
        let made = mesh.authority.create_join_token(id.clone(), class, None, "uid:0").await;
        assert!(matches!(made, Err(AuthorityError::Refused(_))), "{class}");
    }
    let other = Person { issuer: "https://login.example.org".into(), ..ada() };
    assert_ne!(mesh.authority.operator_id(&other).unwrap(), id);
    // Renaming a provider in the configuration makes nobody another person.
    let renamed = Person { provider: "company".into(), ..ada() };
    assert_eq!(mesh.authority.operator_id(&renamed).unwrap(), id);
}

#[tokio::test]
async fn calls_are_recorded_in_words_and_a_flood_of_refusals_is_counted() {
    let mesh = mesh().await;
    let call = |refused| OperatorCall {
        actor: ada().actor(),
        certificate: None,
        words: "Revoke serial=01: Ok".into(),
        refused,
    };
    mesh.authority.record_operator_call(call(false)).await.unwrap();
    let record = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!((record.event, record.reason.as_str()), (Event::OperatorCall, "Revoke serial=01: Ok"));
    assert_eq!(record.actor, "oidc:corp|u-1");
    let before = mesh.authority.records(10_000).await.unwrap().len();
    for _ in 0..300 {
        mesh.authority.record_operator_call(call(true)).await.unwrap();
    }
    let after = mesh.authority.records(10_000).await.unwrap().len();
    assert_eq!(after - before, 100);
    mesh.clock.pass(60);
    mesh.authority.record_operator_call(call(true)).await.unwrap();
    assert_eq!(mesh.authority.records(1).await.unwrap()[0].suppressed, 200);
    mesh.authority.verify_chain().await.unwrap();
}
