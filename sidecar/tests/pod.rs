//! A sidecar in a pod: its token and the roots come from files, each time anew.

mod support;

use std::time::Duration;

use signet_sidecar::identity::IdentityError;
use support::{Act, Plane, pem};
use tonic::Status;

const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

fn folder_with(token: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), token).unwrap();
    folder
}

#[tokio::test]
async fn a_pod_learns_who_it_is_and_renews_with_a_fresh_token_and_a_new_key() {
    let plane = Plane::with(true).await;
    let folder = folder_with("one\n");
    let sidecar = plane.pod(folder.path());
    let term = soon(sidecar.identity.arrive()).await.unwrap();
    let id = sidecar.credentials.current().unwrap().generation.own().svid().id.clone();
    assert_eq!(id, plane.bundle.spiffe_id);
    soon(sidecar.plane.link()).await.unwrap();
    // The kubelet replaces the token.
    std::fs::write(folder.path().join("token"), "two\n").unwrap();
    let before = sidecar.serial();
    let mut watch = sidecar.credentials.watch();
    watch.mark_unchanged();
    let identity = sidecar.identity.clone();
    let keeping = tokio::spawn(async move { identity.keep(term).await });
    soon(watch.changed()).await.unwrap();
    keeping.abort();
    assert_ne!(sidecar.serial(), before);
    assert_eq!(plane.mind.tokens.lock().unwrap().as_slice(), ["one", "two"]);
    let csrs = plane.csrs();
    assert_ne!(csrs[0], csrs[1], "a key is never used twice");
}

#[tokio::test]
async fn a_refusal_is_not_final_for_a_pod_and_a_lost_answer_costs_a_new_key() {
    let plane = Plane::start().await;
    plane.then([Act::Refuse(Status::unauthenticated("the evidence is not accepted")), Act::Lose, Act::Sign]);
    let folder = folder_with("token");
    let sidecar = plane.pod(folder.path());
    soon(sidecar.identity.arrive()).await.unwrap();
    let csrs = plane.csrs();
    assert_eq!(csrs.len(), 3);
    assert!(csrs[0] != csrs[1] && csrs[1] != csrs[2]);
    let refused = IdentityError::NotAttested {
        address: "cp:1".into(),
        code: tonic::Code::Unauthenticated,
        reason: "the evidence is not accepted".into(),
    };
    assert!(!refused.is_final());
    assert!(refused.to_string().contains("signet ca log"), "{refused}");
}

#[tokio::test]
async fn an_outage_of_who_judges_tokens_keeps_the_valid_certificate() {
    let plane = Plane::with(true).await;
    let folder = folder_with("token");
    let sidecar = plane.pod(folder.path());
    let term = soon(sidecar.identity.arrive()).await.unwrap();
    let away = || Act::Refuse(Status::unavailable("the evidence cannot be judged now; try again"));
    plane.then([away(), away(), Act::Sign]);
    let before = sidecar.serial();
    let mut watch = sidecar.credentials.watch();
    watch.mark_unchanged();
    let identity = sidecar.identity.clone();
    let keeping = tokio::spawn(async move { identity.keep(term).await });
    let changed = soon(watch.changed());
    tokio::pin!(changed);
    loop {
        tokio::select! {
            biased;
            () = async { (&mut changed).await.unwrap() } => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                assert!(sidecar.credentials.is_valid(signet_sidecar::clock::now()));
                assert!(plane.csrs().len() >= 3 || sidecar.serial() == before);
            }
        }
    }
    keeping.abort();
    assert_ne!(sidecar.serial(), before);
}

#[tokio::test]
async fn a_token_is_shown_to_nobody_whose_root_is_not_in_the_file() {
    let plane = Plane::start().await;
    let folder = folder_with("token");
    let sidecar = plane.pod(folder.path());
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, pem(plane.mind.stranger.root())).unwrap();
    let arriving = tokio::time::timeout(Duration::from_millis(1500), sidecar.identity.arrive());
    assert!(arriving.await.is_err(), "it goes on trying");
    assert!(plane.mind.tokens.lock().unwrap().is_empty());
    // Several roots may stand there: the file is read again, and one of them is right.
    let both = format!("{}{}", pem(plane.mind.stranger.root()), pem(plane.mind.ca.root()));
    std::fs::write(&roots, both).unwrap();
    soon(sidecar.identity.arrive()).await.unwrap();
}

#[tokio::test]
async fn files_that_come_late_are_waited_for() {
    let plane = Plane::start().await;
    let folder = tempfile::tempdir().unwrap();
    let sidecar = plane.pod(folder.path());
    let identity = sidecar.identity.clone();
    let arriving = tokio::spawn(async move { identity.arrive().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!arriving.is_finished() && plane.csrs().is_empty());
    std::fs::write(folder.path().join("token"), "token").unwrap();
    soon(arriving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_pod_does_not_become_somebody_else_while_it_runs() {
    let plane = Plane::with(true).await;
    let folder = folder_with("token");
    let sidecar = plane.pod(folder.path());
    let term = soon(sidecar.identity.arrive()).await.unwrap();
    plane.then([Act::SignFor("ns/shop/sa/bank"), Act::Sign]);
    let mut watch = sidecar.credentials.watch();
    watch.mark_unchanged();
    let identity = sidecar.identity.clone();
    let keeping = tokio::spawn(async move { identity.keep(term).await });
    soon(watch.changed()).await.unwrap();
    keeping.abort();
    let id = sidecar.credentials.current().unwrap().generation.own().svid().id.clone();
    assert_eq!(id, plane.bundle.spiffe_id);
    assert_eq!(plane.csrs().len(), 3);
}
