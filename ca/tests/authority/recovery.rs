//! A store that was restored from a copy, and a root whose key was stolen.

use std::path::PathBuf;

use signet_ca::{Clock, Kind, Phase, Recovery};

use crate::*;

/// The whole data directory, as an operator copies it while the control plane is stopped, and the database with it
/// where the store is one.
struct Copied {
    dir: TempDir,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
}

impl Copied {
    fn of(dir: &Path) -> Copied {
        let copied = Copied { dir: tempfile::tempdir().unwrap() };
        copy(&dir.join("data"), &copied.dir.path().join("data"));
        if let Some(server) = server() {
            server.dump(&server.database(dir), &copied.dir.path().join("store.dump"));
        }
        copied
    }

    fn put_back(&self, dir: &Path) {
        let data: PathBuf = dir.join("data");
        std::fs::remove_dir_all(&data).unwrap();
        copy(&self.dir.path().join("data"), &data);
        if let Some(server) = server() {
            server.restore(&server.database(dir), &self.dir.path().join("store.dump"));
        }
    }
}

/// The mesh, its directory set back to a copy that was made before `meanwhile`.
async fn restored<F: Future>(mesh: Mesh, meanwhile: impl FnOnce(Arc<Mesh>) -> F) -> (Mesh, F::Output) {
    let Mesh { authority, clock, dir } = mesh;
    authority.close().await;
    drop(authority);
    let copied = Copied::of(dir.path());
    let authority = Authority::open(config(dir.path()), clock.clone()).await.unwrap();
    let mesh = Arc::new(Mesh { authority, clock, dir });
    let told = meanwhile(Arc::clone(&mesh)).await;
    let Mesh { authority, clock, dir } = Arc::into_inner(mesh).unwrap();
    authority.close().await;
    drop(authority);
    copied.put_back(dir.path());
    clock.pass(60);
    let authority = Authority::open(config(dir.path()), clock.clone()).await.unwrap();
    (Mesh { authority, clock, dir }, told)
}

#[tokio::test]
async fn what_was_used_after_a_copy_was_made_is_of_no_use_after_a_recovery() {
    let mesh = mesh().await;
    let (token, late) = (mesh.token("web").await, mesh.token("late").await);
    let orders = mesh.join("orders").await;
    let orders_again = orders.clone();
    let (mesh, (renewed, sequences)) = restored(mesh, |mesh| async move {
        let web = mesh.attest(&token, &csr(&key())).await.unwrap();
        let renewed = mesh.renew(&orders_again, &key()).await.unwrap();
        let reason = "taken out".to_owned();
        let what = signet_ca::Revocation::Serial(web.serial);
        let sequence = mesh.authority.revoke(what, &reason, "uid:0").await.unwrap();
        ((token, renewed), (sequence, mesh.authority.bundle_sequence()))
    })
    .await;
    let (token, renewed) = renewed;
    // What the copy allows, and must not.
    assert_eq!(mesh.renew(&renewed, &key()).await.unwrap_err().refusal(), Some(Refusal::SerialUnknown));
    let done = mesh.authority.recover(Recovery::default(), "disk lost", "uid:0").await.unwrap();
    assert_eq!((done.tokens, done.lineages, done.tainted.len()), (2, 1, 0));
    for token in [&token, &late] {
        let error = mesh.attest(token, &csr(&key())).await.unwrap_err();
        assert_eq!(error.refusal(), Some(Refusal::TokenUsed));
    }
    let error = mesh.renew(&orders, &key()).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::LineageRevoked));
    // It is said, the log holds, and numbers go on above what was heard before.
    let records = mesh.authority.records(100).await.unwrap();
    let said = records.iter().find(|record| record.event.as_str() == "recovered").unwrap();
    assert!(
        said.reason.contains("2 join tokens and 1 chains of renewals ended: disk lost"),
        "{}",
        said.reason
    );
    assert_eq!(said.actor, "uid:0");
    mesh.authority.verify_chain().await.unwrap();
    let again = mesh.join("web").await;
    let what = signet_ca::Revocation::Serial(again.serial);
    let sequence = mesh.authority.revoke(what, "again", "uid:0").await.unwrap();
    assert!(sequence > sequences.0, "{sequence} after {}", sequences.0);
    mesh.authority.rotate(Kind::Root, "uid:0").await.unwrap();
    assert!(mesh.authority.bundle_sequence() > sequences.1);
    // A second time there is nothing left to end but what came since.
    let done = mesh.authority.recover(Recovery::default(), "again", "uid:0").await.unwrap();
    assert_eq!((done.tokens, done.lineages), (0, 1));
}

#[tokio::test]
async fn a_cut_replaces_what_signed_so_that_certificates_from_before_end() {
    let mesh = mesh_with(quick).await;
    let web = mesh.join("web").await;
    let plan = Recovery { root: false, issuers: true };
    let done = mesh.authority.recover(plan, "host lost", "uid:0").await.unwrap();
    assert_eq!(done.tainted.len(), 3, "issuer, token key and JWT key");
    let fresh = mesh.join("web").await;
    assert_ne!(issuer(&fresh), issuer(&web), "from here another one signs");
    mesh.clock.pass(1_001);
    mesh.authority.maintain().await.unwrap();
    mesh.authority.maintain().await.unwrap();
    let revoked = format!("{:?}", mesh.authority.revocations().borrow().clone());
    assert!(revoked.contains(&issuer(&web)), "{revoked}");
    assert!(!revoked.contains(&issuer(&fresh)), "{revoked}");
    let twice = mesh.authority.recover(Recovery::default(), "again", "uid:0").await.unwrap();
    assert!(twice.tainted.is_empty());
}

#[tokio::test]
async fn after_a_stolen_root_everybody_is_attested_again_under_another_and_the_stolen_one_leaves() {
    let mesh = mesh_with(quick).await;
    let (web, old) = (mesh.join("web").await, mesh.authority.root_sha256());
    acknowledge(&mesh, &web).await;
    let plan = Recovery { root: true, issuers: false };
    let done = mesh.authority.recover(plan, "laptop stolen", "uid:0").await.unwrap();
    assert_eq!((done.lineages, done.tainted.len()), (1, 1));
    assert_eq!(mesh.authority.published().borrow().tainted, [old]);
    acknowledge(&mesh, &web).await;
    assert_ne!(mesh.authority.root_sha256(), old, "the successor signs as soon as it is acknowledged");
    let error = mesh.renew(&web, &key()).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::LineageRevoked));
    let fresh = mesh.join("web").await;
    acknowledge(&mesh, &fresh).await;
    mesh.clock.pass(1_001);
    mesh.authority.maintain().await.unwrap();
    mesh.authority.maintain().await.unwrap();
    let roots = mesh.authority.trust_bundle().unwrap();
    assert_eq!(roots.roots().count(), 1, "{:?}", mesh.authority.authorities().await.unwrap());
    let all = mesh.authority.authorities().await.unwrap();
    assert!(all.iter().any(|one| one.kind == Kind::Root && one.phase == Phase::Removed));
    assert!(fresh.not_after > mesh.clock.unix_seconds());
}

fn issuer(issued: &Issued) -> String {
    signet_identity::Svid::parse(&issued.chain).unwrap().issuers[0].serial.to_string()
}

fn quick(config: &mut AuthorityConfig) {
    config.rotation.consumers_wait = Duration::from_secs(100);
    config.rotation.ack_deadline = Duration::from_secs(1_000);
}

async fn acknowledge(mesh: &Mesh, issued: &Issued) {
    let sequence = mesh.authority.bundle_sequence();
    let word = signet_ca::Acknowledged { serial: issued.serial.as_bytes().to_vec(), sequence };
    mesh.authority.heard_of(vec![word], Vec::new()).await.unwrap();
}
