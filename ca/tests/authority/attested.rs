//! Certificates for what was attested elsewhere.

use std::sync::Arc;
use std::time::Duration;

use signet_ca::{
    Acknowledged, Attested, AuthorityError, Event, Instance, Issued, Kind, MAX_SVID_TTL, Outward, Refusal,
};
use signet_identity::{PeerClass, SpiffeId, Svid};

use crate::{HOUR, Mesh, START, anybody, csr, id, key, mesh, mesh_with, nobody, refusal};

const SOURCE: &str = "192.0.2.7";

fn pod(uid: &str) -> Instance {
    Instance {
        cluster: "main".into(),
        namespace: "shop".into(),
        pod: "web-1".into(),
        pod_uid: uid.into(),
        node: "node1".into(),
    }
}

fn attested(id: SpiffeId, class: PeerClass) -> Attested {
    Attested { spiffe_id: id, class, instance: pod("uid-1"), again: false, by: "kubernetes", ttl: None }
}

async fn issue(mesh: &Mesh, attested: Attested) -> Result<Issued, AuthorityError> {
    mesh.authority.issue_attested(attested, &csr(&key()), SOURCE, anybody()).await
}

#[tokio::test]
async fn what_was_attested_gets_a_certificate_without_lineage_and_the_log_says_which_pod() {
    let mesh = mesh().await;
    let issued = issue(&mesh, attested(id("web"), PeerClass::Sidecar)).await.unwrap();
    assert_eq!((issued.lineage_ends_at, issued.not_after), (None, START + HOUR));
    let svid = Svid::parse(&issued.chain).unwrap();
    assert_eq!((svid.id, svid.class), (id("web"), PeerClass::Sidecar));
    let records = mesh.authority.records(1).await.unwrap();
    let last = records.last().unwrap();
    assert_eq!((last.event, last.serial.as_str()), (Event::Issued, issued.serial.to_string().as_str()));
    assert_eq!(last.reason, "pod shop/web-1 (uid-1) on node node1 of cluster main");
    assert_eq!(last.actor, SOURCE);
    mesh.authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn an_attested_certificate_is_not_renewed_but_attested_again_with_a_new_key() {
    let mesh = mesh().await;
    let first = issue(&mesh, attested(id("web"), PeerClass::Sidecar)).await.unwrap();
    let refused = refusal(mesh.renew(&first, &key()).await);
    assert_eq!(refused, Refusal::AttestAgain);
    assert_eq!(refused.outward(), Outward::Precondition);
    assert!(refused.to_string().contains("present fresh evidence"), "the holder is told why: {refused}");
    let second = issue(&mesh, attested(id("web"), PeerClass::Sidecar)).await.unwrap();
    assert_ne!(first.serial, second.serial);
    let same = key();
    let again =
        || mesh.authority.issue_attested(attested(id("web"), PeerClass::Sidecar), &[], SOURCE, anybody());
    assert_eq!(refusal(again().await), Refusal::CsrUnreadable);
    let request = csr(&same);
    let with = |csr: Vec<u8>| {
        let authority = mesh.authority.clone();
        async move {
            authority.issue_attested(attested(id("web"), PeerClass::Sidecar), &csr, SOURCE, anybody()).await
        }
    };
    with(request.clone()).await.unwrap();
    assert_eq!(refusal(with(request).await), Refusal::KeyUsed);
}

#[tokio::test]
async fn evidence_gives_no_reserved_foreign_or_unregistered_identity_and_no_class_of_our_own() {
    let mesh = mesh().await;
    let spiffe = |text: &str| SpiffeId::parse(text).unwrap();
    for (id, class, expected) in [
        (
            "spiffe://demo.signet/ns/signet-system/sa/signet-control-plane",
            PeerClass::Sidecar,
            Refusal::EvidenceReserved,
        ),
        ("spiffe://demo.signet/ns/signet-system/sa/default", PeerClass::Workload, Refusal::EvidenceReserved),
        ("spiffe://other.signet/ns/shop/sa/web", PeerClass::Sidecar, Refusal::TrustDomain),
        ("spiffe://demo.signet/shop/web", PeerClass::Sidecar, Refusal::IdentityShape),
        ("spiffe://demo.signet/ns/shop/sa/web", PeerClass::ControlPlane, Refusal::ClassNotAllowed),
        ("spiffe://demo.signet/ns/shop/sa/web", PeerClass::Operator, Refusal::ClassNotAllowed),
        ("spiffe://demo.signet/ns/shop/sa/web", PeerClass::Agent, Refusal::ClassNotAllowed),
    ] {
        assert_eq!(refusal(issue(&mesh, attested(spiffe(id), class)).await), expected, "{id} {class}");
    }
    let unlisted = mesh
        .authority
        .issue_attested(attested(id("web"), PeerClass::Sidecar), &csr(&key()), SOURCE, nobody())
        .await;
    assert_eq!(refusal(unlisted), Refusal::NotRegistered);
    assert_eq!(mesh.authority.records(1).await.unwrap()[0].reason, "not-registered");
}

#[tokio::test]
async fn a_revoked_identity_is_not_helped_by_evidence() {
    let mesh = mesh().await;
    let web = id("web");
    mesh.authority.revoke(signet_ca::Revocation::Identity(web.clone()), "gone", "uid:0").await.unwrap();
    assert_eq!(refusal(issue(&mesh, attested(web, PeerClass::Sidecar)).await), Refusal::IdentityRevoked);
}

#[tokio::test]
async fn a_longer_life_is_given_where_it_is_asked_and_never_past_a_day() {
    let mesh = mesh().await;
    let asked = |ttl| Attested { ttl: Some(ttl), ..attested(id("web"), PeerClass::Workload) };
    let issued = issue(&mesh, asked(MAX_SVID_TTL)).await.unwrap();
    assert_eq!(issued.not_after, START + 24 * HOUR);
    for ttl in [Duration::from_secs(1), MAX_SVID_TTL + Duration::from_secs(1)] {
        assert_eq!(refusal(issue(&mesh, asked(ttl)).await), Refusal::Lifetime);
    }
}

#[tokio::test]
async fn one_pod_gets_thirty_certificates_a_minute_and_another_one_of_its_identity_its_own() {
    let mesh = mesh().await;
    let of = |uid: &str| Attested { instance: pod(uid), ..attested(id("web"), PeerClass::Sidecar) };
    for _ in 0..30 {
        issue(&mesh, of("one")).await.unwrap();
    }
    assert_eq!(refusal(issue(&mesh, of("one")).await), Refusal::TooManyAttempts);
    issue(&mesh, of("two")).await.unwrap();
    mesh.clock.pass(60);
    issue(&mesh, of("one")).await.unwrap();
}

#[tokio::test]
async fn a_source_whose_evidence_keeps_being_refused_waits_out_the_minute() {
    let mesh = mesh_with(|config| config.failed_attempts_per_minute = 3).await;
    for _ in 0..3 {
        mesh.authority.admit_evidence(SOURCE).await.unwrap();
        let refused = mesh.authority.refuse_evidence(Refusal::EvidenceAudience, None, SOURCE).await;
        assert_eq!(refused.refusal(), Some(Refusal::EvidenceAudience));
    }
    assert_eq!(refusal(mesh.authority.admit_evidence(SOURCE).await), Refusal::TooManyAttempts);
    mesh.authority.admit_evidence("192.0.2.8").await.unwrap();
    let reasons: Vec<String> =
        mesh.authority.records(4).await.unwrap().into_iter().map(|record| record.reason).collect();
    assert_eq!(reasons, ["evidence-audience", "evidence-audience", "evidence-audience", "too-many-attempts"]);
    mesh.clock.pass(60);
    mesh.authority.admit_evidence(SOURCE).await.unwrap();
}

#[tokio::test]
async fn which_pod_a_certificate_is_of_survives_a_restart_and_cannot_be_edited() {
    let mesh = mesh().await;
    let issued = issue(&mesh, attested(id("web"), PeerClass::Sidecar)).await.unwrap();
    let mesh = mesh.reopen().await;
    assert_eq!(refusal(mesh.renew(&issued, &key()).await), Refusal::AttestAgain);
    let store = mesh.intruder().await;
    sqlx::query("UPDATE attested SET pod_uid = 'another'").execute(&store).await.unwrap();
    assert_eq!(refusal(mesh.renew(&issued, &key()).await), Refusal::RowTampered);
}

#[tokio::test]
async fn the_registry_gives_an_attested_workload_its_names() {
    let mesh = mesh().await;
    let names: signet_ca::SharedRegistrar =
        Arc::new(|_: &SpiffeId, _: PeerClass| Some(vec!["web.shop.signet.internal".to_owned()]));
    let issued = mesh
        .authority
        .issue_attested(attested(id("web"), PeerClass::Sidecar), &csr(&key()), SOURCE, names)
        .await
        .unwrap();
    assert_eq!(Svid::parse(&issued.chain).unwrap().dns_names, ["web.shop.signet.internal"]);
}

async fn acknowledge(mesh: &Mesh, issued: &Issued, sequence: u64) {
    let word = Acknowledged { serial: issued.serial.as_bytes().to_vec(), sequence };
    mesh.authority.heard_of(vec![word], Vec::new()).await.unwrap();
}

#[tokio::test]
async fn a_pod_is_one_sidecar_to_a_rotation_whichever_of_its_certificates_it_came_with() {
    let mesh = mesh_with(|config| {
        config.rotation.consumers_wait = Duration::from_secs(100);
        config.rotation.ack_deadline = Duration::from_secs(1_000);
    })
    .await;
    let web = || attested(id("web"), PeerClass::Sidecar);
    let first = issue(&mesh, web()).await.unwrap();
    acknowledge(&mesh, &first, mesh.authority.bundle_sequence()).await;
    let second = issue(&mesh, web()).await.unwrap();
    // An app of the same pod is not what its sidecar goes by.
    issue(&mesh, attested(id("web"), PeerClass::Workload)).await.unwrap();
    let mut given_up = mesh.authority.given_up();
    mesh.authority.rotate(Kind::Root, "uid:0").await.unwrap();
    mesh.clock.pass(1_000);
    mesh.authority.maintain().await.unwrap();
    let lost = given_up.recv().await.unwrap();
    let lost: Vec<_> = lost.iter().map(|one| (one.instance.as_str(), one.spiffe_id.as_str())).collect();
    assert_eq!(lost, [("main/uid-1", id("web").as_str())]);

    // It does not go on, nor does it get anything for its app, until it has the bundle; who begins anew is given that.
    let again = || Attested { again: true, ..web() };
    assert_eq!(refusal(issue(&mesh, again()).await), Refusal::Stale);
    let app = mesh.authority.issue_workload(&second.chain[0], &csr(&key()), anybody()).await;
    assert_eq!(refusal(app), Refusal::Stale);
    issue(&mesh, Attested { instance: pod("uid-2"), ..again() }).await.unwrap();
    issue(&mesh, web()).await.unwrap();
    acknowledge(&mesh, &second, mesh.authority.bundle_sequence()).await;
    issue(&mesh, again()).await.unwrap();
}

#[tokio::test]
async fn what_was_attested_asks_for_its_app_as_others_do() {
    let mesh = mesh().await;
    let parent = issue(&mesh, attested(id("web"), PeerClass::Sidecar)).await.unwrap();
    mesh.clock.pass(HOUR / 2);
    let app = mesh.authority.issue_workload(&parent.chain[0], &csr(&key()), anybody()).await.unwrap();
    assert_eq!((app.class, app.not_after), (PeerClass::Workload, parent.not_after));
    let record = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!(record.reason, "pod shop/web-1 (uid-1) on node node1 of cluster main");
    let token = mesh.authority.sign_jwt_svid(&parent.chain[0], vec!["db".into()], None, anybody()).await;
    assert_eq!(token.unwrap().spiffe_id, id("web"));
    // The app's own certificate opens nothing.
    let asked = mesh.authority.issue_workload(&app.chain[0], &csr(&key()), anybody()).await;
    assert_eq!(refusal(asked), Refusal::NotAProxy);
    assert_eq!(refusal(mesh.renew(&app, &key()).await), Refusal::AttestAgain);
    let mut left = Ok(app);
    for _ in 0..30 {
        left = mesh.authority.issue_workload(&parent.chain[0], &csr(&key()), anybody()).await;
    }
    assert_eq!(refusal(left), Refusal::TooManyAttempts, "counted for the pod");
    mesh.authority.revoke(signet_ca::Revocation::Serial(parent.serial), "lost", "uid:0").await.unwrap();
    let asked = mesh.authority.issue_workload(&parent.chain[0], &csr(&key()), anybody()).await;
    assert_eq!(refusal(asked), Refusal::SerialRevoked);
}

#[tokio::test]
async fn a_revoked_pod_of_a_gateway_mints_no_more_and_another_one_goes_on() {
    let mesh = mesh().await;
    let gw = || attested(id("gw"), PeerClass::Gateway);
    let (first, second) = (issue(&mesh, gw()).await.unwrap(), issue(&mesh, gw()).await.unwrap());
    let neighbour = issue(&mesh, Attested { instance: pod("uid-2"), ..gw() }).await.unwrap();
    let mut keys = Vec::new();
    for holder in [&first, &second, &neighbour] {
        keys.push(crate::revocation::delegate(&mesh, holder).await.unwrap());
    }
    let revoked = |mesh: &Mesh| -> Vec<bool> {
        let set = mesh.authority.revocations().borrow().clone();
        keys.iter().map(|key| set.delegations.contains(key)).collect()
    };
    let serial = signet_ca::Revocation::Serial(second.serial);
    mesh.authority.revoke(serial, "", "uid:0").await.unwrap();
    assert_eq!(revoked(&mesh), [true, true, false], "the pod goes on with what it asked for before");
    let what = signet_ca::Revocation::Instance("main/uid-2".parse().unwrap());
    mesh.authority.revoke(what, "taken over", "uid:0").await.unwrap();
    assert_eq!(revoked(&mesh), [true; 3]);
}

#[tokio::test]
async fn a_revoked_pod_loses_its_certificates_and_is_not_attested_again_until_it_is_lifted() {
    let mesh = mesh().await;
    let web = || attested(id("web"), PeerClass::Sidecar);
    let other = || Attested { instance: pod("uid-2"), ..web() };
    let (first, second) = (issue(&mesh, web()).await.unwrap(), issue(&mesh, web()).await.unwrap());
    let neighbour = issue(&mesh, other()).await.unwrap();
    let what = signet_ca::Revocation::Instance("main/uid-1".parse().unwrap());
    mesh.authority.revoke(what.clone(), "taken over", "uid:0").await.unwrap();
    let last = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!((last.event, last.reason.as_str()), (Event::Revoked, "instance main/uid-1: taken over"));
    let revoked = |issued: &Issued| {
        let svid = Svid::parse(&issued.chain).unwrap();
        mesh.authority.revocations().borrow().set.revokes(&svid).is_some()
    };
    assert!(revoked(&first) && revoked(&second) && !revoked(&neighbour));
    let refused = refusal(issue(&mesh, web()).await);
    assert_eq!((refused, refused.outward()), (Refusal::InstanceRevoked, Outward::Denied));
    issue(&mesh, other()).await.unwrap();
    // Nor does it get anything for its app.
    let app = mesh.authority.issue_workload(&first.chain[0], &csr(&key()), anybody()).await;
    assert_eq!(refusal(app), Refusal::InstanceRevoked);
    assert!(mesh.authority.reinstate(what, "a drill", "uid:0").await.unwrap().is_some());
    assert!(!revoked(&first));
    issue(&mesh, web()).await.unwrap();
    mesh.authority.verify_chain().await.unwrap();
}
