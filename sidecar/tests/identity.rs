//! How a sidecar becomes somebody and stays it, against a control plane with a scripted mind.

mod support;

use std::time::Duration;

use signet_sidecar::identity::IdentityError;
use support::{Act, Plane};
use tonic::Status;

/// Long enough for a loaded machine; no test waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

#[tokio::test]
async fn a_token_becomes_a_certificate_for_a_key_that_was_made_here() {
    let plane = Plane::start().await;
    let sidecar = plane.sidecar();
    assert!(sidecar.plane.link().await.is_err(), "nobody has no connection");
    soon(sidecar.identity.join(&plane.bundle)).await.unwrap();
    let tls = sidecar.credentials.current().unwrap();
    assert_eq!(tls.generation.number(), 1);
    assert_eq!(tls.generation.own().svid().id, plane.bundle.spiffe_id);
    assert_eq!(plane.mind.tokens.lock().unwrap().as_slice(), ["one-time"]);
    assert!(sidecar.credentials.is_valid(signet_sidecar::clock::now()));
    // And with it the mesh listener lets us in.
    soon(sidecar.plane.link()).await.unwrap();
}

#[tokio::test]
async fn a_refused_token_is_final_and_says_what_to_do() {
    let plane = Plane::start().await;
    plane.then([Act::Refuse(Status::unauthenticated("the join token is not accepted"))]);
    let sidecar = plane.sidecar();
    let error = soon(sidecar.identity.join(&plane.bundle)).await.unwrap_err();
    assert!(matches!(error, IdentityError::Refused { .. }), "{error:?}");
    let message = error.to_string();
    for word in ["not accepted", "sa/web", "new join bundle"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(plane.csrs().len(), 1, "no second attempt");
    assert!(sidecar.credentials.current().is_none());
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again_with_the_same_request() {
    let plane = Plane::start().await;
    plane.then([Act::Lose]);
    let sidecar = plane.sidecar();
    soon(sidecar.identity.join(&plane.bundle)).await.unwrap();
    let csrs = plane.csrs();
    assert_eq!(csrs.len(), 2);
    assert_eq!(csrs[0], csrs[1]);
}

#[tokio::test]
async fn a_control_plane_under_another_root_is_never_shown_the_token() {
    let mut plane = Plane::start().await;
    plane.bundle.root_sha256 = signet_identity::KeyId::of(plane.mind.stranger.root());
    let sidecar = plane.sidecar();
    let joining = tokio::time::timeout(Duration::from_secs(2), sidecar.identity.join(&plane.bundle));
    assert!(joining.await.is_err(), "it goes on trying");
    assert!(plane.mind.tokens.lock().unwrap().is_empty());
    assert!(sidecar.credentials.current().is_none());
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_not_taken() {
    let plane = Plane::start().await;
    plane.then([Act::SignFor("ns/shop/sa/bank"), Act::SignByStranger]);
    let sidecar = plane.sidecar();
    // Neither a wrong name nor a chain that our own verifier refuses; the third is right.
    soon(sidecar.identity.join(&plane.bundle)).await.unwrap();
    assert_eq!(plane.csrs().len(), 3);
    let tls = sidecar.credentials.current().unwrap();
    assert_eq!(
        (tls.generation.number(), tls.generation.own().svid().id.clone()),
        (1, plane.bundle.spiffe_id.clone())
    );
}

#[tokio::test]
async fn a_renewal_has_a_new_key_a_new_generation_and_a_new_connection() {
    let plane = Plane::with(true).await;
    let sidecar = plane.sidecar();
    let term = soon(sidecar.identity.join(&plane.bundle)).await.unwrap();
    let (before, (first, _)) = (sidecar.serial(), soon(sidecar.plane.link()).await.unwrap());
    let mut watch = sidecar.credentials.watch();
    watch.mark_unchanged();
    let identity = sidecar.identity.clone();
    let keeping = tokio::spawn(async move { identity.keep(term).await });
    soon(watch.changed()).await.unwrap();
    keeping.abort();
    assert_ne!(sidecar.serial(), before);
    let csrs = plane.csrs();
    assert_ne!(csrs[0], csrs[1], "a key is never used twice");
    let (second, _) = soon(sidecar.plane.link()).await.unwrap();
    assert!(second > first);
}

#[tokio::test]
async fn a_renewal_that_fails_keeps_the_valid_certificate() {
    let plane = Plane::with(true).await;
    let sidecar = plane.sidecar();
    let term = soon(sidecar.identity.join(&plane.bundle)).await.unwrap();
    plane.then([
        Act::Refuse(Status::permission_denied("the lineage is at its end")),
        Act::Lose,
        Act::SignByStranger,
        Act::Sign,
    ]);
    let before = sidecar.serial();
    let mut watch = sidecar.credentials.watch();
    watch.mark_unchanged();
    let identity = sidecar.identity.clone();
    let keeping = tokio::spawn(async move { identity.keep(term).await });
    let changed = soon(watch.changed());
    tokio::pin!(changed);
    // Whatever fails in between, the old one stays in force until the new one is.
    loop {
        tokio::select! {
            biased;
            () = async { (&mut changed).await.unwrap() } => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                assert!(sidecar.credentials.is_valid(signet_sidecar::clock::now()));
            }
        }
    }
    keeping.abort();
    assert_ne!(sidecar.serial(), before);
    let csrs = plane.csrs();
    // Refused: a new request. Lost: the same again. Answered with rubbish: a new one.
    assert_ne!(csrs[1], csrs[2]);
    assert_eq!(csrs[2], csrs[3]);
    assert_ne!(csrs[3], csrs[4]);
}
