//! Revocation lists, read by openssl.

use std::sync::Arc;

use signet_ca::{Crl, Issued, Revocation};
use signet_identity::{Serial, Svid};

use crate::*;

fn lists(mesh: &Mesh) -> Vec<Arc<Crl>> {
    mesh.authority.crls().borrow().to_vec()
}

/// The list of whoever signed this certificate.
fn list_for(mesh: &Mesh, issued: &Issued) -> Arc<Crl> {
    let issuer = Svid::parse(&issued.chain).unwrap().issuers[0].serial;
    lists(mesh).into_iter().find(|list| list.issuer == issuer).expect("the issuer has a list")
}

/// What openssl says of a certificate with its issuer's list at hand.
fn openssl_verifies(mesh: &Mesh, issued: &Issued, now: i64) -> Result<(), String> {
    let dir = mesh.dir.path();
    let [leaf, issuer] = [&issued.chain[0], &issued.chain[1]].map(|der| pem(der));
    for (name, text) in [("leaf.pem", leaf), ("issuer.pem", issuer), ("root.pem", mesh.authority.root_pem())]
    {
        std::fs::write(dir.join(name), text).unwrap();
    }
    std::fs::write(dir.join("list.der"), &list_for(mesh, issued).der).unwrap();
    openssl(dir, &["crl", "-inform", "DER", "-in", "list.der", "-CAfile", "issuer.pem", "-out", "list.pem"]);
    let at = now.to_string();
    let output = std::process::Command::new("openssl")
        .args(["verify", "-x509_strict", "-crl_check", "-attime", &at, "-CAfile", "root.pem", "-untrusted"])
        .args(["issuer.pem", "-CRLfile", "list.pem", "leaf.pem"])
        .current_dir(dir)
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[tokio::test]
async fn openssl_refuses_what_the_list_names_and_nothing_else() {
    let mesh = mesh().await;
    let (web, orders) = (mesh.join("web").await, mesh.join("orders").await);
    assert_eq!(openssl_verifies(&mesh, &web, START), Ok(()), "an empty list revokes nobody");
    let mut feed = mesh.authority.crls();
    feed.mark_unchanged();
    mesh.authority.revoke(Revocation::Serial(web.serial), "stolen", "uid:0").await.unwrap();
    assert!(feed.has_changed().unwrap(), "a revocation is listed when the command returns");
    let refused = openssl_verifies(&mesh, &web, START).unwrap_err();
    assert!(refused.contains("certificate revoked"), "{refused}");
    assert_eq!(openssl_verifies(&mesh, &orders, START), Ok(()));
    let text =
        String::from_utf8(openssl(mesh.dir.path(), &["crl", "-in", "list.pem", "-noout", "-text"])).unwrap();
    assert!(text.contains("CRL Number") && text.contains("Authority Key Identifier"), "{text}");
}

#[tokio::test]
async fn every_live_certificate_of_a_revoked_identity_or_key_is_listed_until_it_is_lifted() {
    let mesh = mesh().await;
    let (first, second, orders) = (mesh.join("web").await, mesh.join("web").await, mesh.join("orders").await);
    let listed = |mesh: &Mesh| list_for(mesh, &first).revoked.keys().copied().collect::<Vec<Serial>>();
    assert_eq!(listed(&mesh), []);
    mesh.authority.revoke(Revocation::Identity(id("web")), "", "uid:0").await.unwrap();
    let mut both = vec![first.serial, second.serial];
    both.sort();
    assert_eq!(listed(&mesh), both);
    let key = Svid::parse(&orders.chain).unwrap().key;
    mesh.authority.revoke(Revocation::Key(key), "", "uid:0").await.unwrap();
    assert_eq!(listed(&mesh).len(), 3);
    mesh.authority.reinstate(Revocation::Identity(id("web")), "", "uid:0").await.unwrap();
    assert_eq!(listed(&mesh), [orders.serial]);
}

#[tokio::test]
async fn a_list_is_made_anew_every_hour_and_forgets_what_has_ended() {
    let mesh = mesh().await;
    let web = mesh.join("web").await;
    mesh.authority.revoke(Revocation::Serial(web.serial), "", "uid:0").await.unwrap();
    let first = list_for(&mesh, &web);
    assert!(first.this_update <= START && first.next_update == START + DAY, "{first:?}");
    mesh.clock.pass(HOUR / 2);
    mesh.authority.maintain().await.unwrap();
    assert_eq!(list_for(&mesh, &web), first, "what did not change is not signed again");
    mesh.clock.pass(HOUR / 2);
    mesh.authority.maintain().await.unwrap();
    let second = list_for(&mesh, &web);
    assert!(second.number > first.number && second.next_update > first.next_update, "{second:?}");
    mesh.clock.pass(HOUR);
    mesh.authority.maintain().await.unwrap();
    assert!(list_for(&mesh, &web).revoked.is_empty(), "it has ended by itself");
}

#[tokio::test]
async fn numbers_grow_across_a_restart_and_what_was_revoked_stays_listed() {
    let mesh = mesh().await;
    let web = mesh.join("web").await;
    mesh.authority.revoke(Revocation::Serial(web.serial), "", "uid:0").await.unwrap();
    let before = list_for(&mesh, &web);
    mesh.clock.pass(5);
    let mesh = mesh.reopen().await;
    let after = list_for(&mesh, &web);
    assert!(after.number > before.number);
    assert_eq!(after.revoked, before.revoked);
}

#[tokio::test]
async fn an_issuer_that_was_replaced_still_lists_what_it_signed_after_a_restart_too() {
    const LIFE: Duration = Duration::from_secs(3 * 24 * 3600);
    fn lives(config: &mut AuthorityConfig) {
        config.issuer_life = LIFE;
        config.svid_ttl = Duration::from_secs(4 * 3600);
    }
    let mesh = mesh_with(lives).await;
    mesh.clock.pass(DAY + 23 * HOUR);
    let old = mesh.join("web").await;
    mesh.clock.pass(HOUR + HOUR / 2);
    let new = mesh.join("orders").await;
    mesh.authority.maintain().await.unwrap();
    assert_ne!(list_for(&mesh, &old).issuer, list_for(&mesh, &new).issuer, "the issuer was due");
    mesh.authority.revoke(Revocation::Identity(id("web")), "", "uid:0").await.unwrap();
    mesh.authority.revoke(Revocation::Serial(new.serial), "", "uid:0").await.unwrap();
    assert_eq!(list_for(&mesh, &new).revoked.keys().copied().collect::<Vec<_>>(), [new.serial]);
    let now = START + DAY + 24 * HOUR + HOUR / 2;
    assert!(openssl_verifies(&mesh, &new, now).unwrap_err().contains("certificate revoked"));
    let mesh = mesh.reopen_with(lives).await.unwrap();
    assert_eq!(lists(&mesh).len(), 2, "its key is there until nothing that it signed is valid");
    assert_eq!(list_for(&mesh, &old).revoked.keys().copied().collect::<Vec<_>>(), [old.serial]);
    assert!(openssl_verifies(&mesh, &old, now).unwrap_err().contains("certificate revoked"));
    mesh.clock.pass(DAY + HOUR);
    mesh.authority.maintain().await.unwrap();
    assert_eq!(lists(&mesh).len(), 1, "the old one has ended, and so has all that it signed");
}
