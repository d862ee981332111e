use signet_ca::{Acknowledged, Kind, Phase, SlotStatus};
use signet_identity::{Bundles, Generation, GenerationOptions, OwnSvid, TrustBundle};

use crate::*;

/// Waits that a test can pass by its clock.
fn quick(config: &mut AuthorityConfig) {
    config.rotation.consumers_wait = Duration::from_secs(100);
    config.rotation.ack_deadline = Duration::from_secs(1_000);
}

async fn of(mesh: &Mesh, kind: Kind, phase: Phase) -> Vec<SlotStatus> {
    let all = mesh.authority.authorities().await.unwrap();
    all.into_iter().filter(|slot| slot.kind == kind && slot.phase == phase).collect()
}

async fn phase_of(mesh: &Mesh, id: &str) -> Phase {
    mesh.authority.authorities().await.unwrap().into_iter().find(|slot| slot.id == id).unwrap().phase
}

/// Passes on that the holder of this certificate goes by the bundle with this number.
async fn acknowledge(mesh: &Mesh, issued: &Issued, sequence: u64) {
    let word = Acknowledged { serial: issued.serial.as_bytes().to_vec(), sequence };
    mesh.authority.heard_of(vec![word], Vec::new()).await.unwrap();
}

fn sequence(mesh: &Mesh) -> u64 {
    mesh.authority.bundle_sequence()
}

/// Whether a peer that trusts these roots believes this chain.
fn is_believed(bundle: &TrustBundle, chain: &[rustls_pki_types::CertificateDer<'static>], now: i64) -> bool {
    let roots: Vec<_> = bundle.roots().cloned().collect();
    roots.iter().any(|root| {
        let anchor = webpki::anchor_from_trusted_cert(root).unwrap();
        let leaf = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
        let time = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().unwrap()));
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &chain[1..],
            time,
            webpki::KeyUsage::client_auth(),
            None,
            None,
        )
        .is_ok()
    })
}

#[tokio::test]
async fn a_root_rotates_when_its_sidecars_have_acknowledged_and_leaves_when_nothing_needs_it() {
    let mesh = mesh_with(quick).await;
    let (web, orders) = (mesh.join("web").await, mesh.join("orders").await);
    let first = sequence(&mesh);
    acknowledge(&mesh, &web, first).await;
    acknowledge(&mesh, &orders, first).await;
    let old = of(&mesh, Kind::Root, Phase::Active).await.remove(0);

    let new = mesh.authority.rotate(Kind::Root, "uid:0").await.unwrap();
    assert_eq!(phase_of(&mesh, &new).await, Phase::Published);
    let published = sequence(&mesh);
    assert!(published > first);
    assert_eq!(mesh.authority.trust_bundle().unwrap().roots().count(), 2);
    // Nothing is signed under it yet.
    assert_eq!(mesh.authority.root_sha256().to_string(), old.sha256);

    mesh.clock.pass(101);
    acknowledge(&mesh, &web, published).await;
    assert_eq!(phase_of(&mesh, &new).await, Phase::Published, "orders has not heard of it");
    acknowledge(&mesh, &orders, published).await;
    assert_eq!(phase_of(&mesh, &new).await, Phase::Active);
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Draining);
    assert_ne!(mesh.authority.root_sha256().to_string(), old.sha256);

    // What is issued from here is under the new root, what was issued before is still believed.
    let renewed = mesh.renew(&web, &key()).await.unwrap();
    let bundle = mesh.authority.trust_bundle().unwrap();
    let now = mesh.clock.unix_seconds();
    assert!(is_believed(&bundle, &renewed.chain, now) && is_believed(&bundle, &orders.chain, now));
    let only_old = TrustBundle::new(
        bundle.trust_domain().clone(),
        [bundle.roots().find(|r| signet_identity::KeyId::of(r).to_string() == old.sha256).unwrap().clone()],
    )
    .unwrap();
    assert!(!is_believed(&only_old, &renewed.chain, now));

    // Until the last certificate under it has ended, and clocks have agreed on that, the old root stays.
    mesh.clock.set(orders.not_after.max(web.not_after));
    mesh.authority.maintain().await.unwrap();
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Draining);
    mesh.clock.pass(121);
    mesh.authority.maintain().await.unwrap();
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Removed);
    assert_eq!(mesh.authority.trust_bundle().unwrap().roots().count(), 1);
    let data = mesh.dir.path().join("data");
    assert!(!data.join(format!("root-{}.sealed", old.id)).exists(), "its key is destroyed");

    let events: Vec<String> =
        mesh.authority.records(100).await.unwrap().iter().map(|r| r.event.to_string()).collect();
    for expected in ["rotation-asked", "published", "activated", "removed"] {
        assert!(events.iter().any(|event| event == expected), "{expected} in {events:?}");
    }
    mesh.authority.verify_chain().await.unwrap();
    mesh.reopen().await.join("later").await;
}

#[tokio::test]
async fn a_silent_sidecar_is_given_up_on_at_the_deadline_and_gets_nothing_until_it_acknowledges() {
    let mesh = mesh_with(quick).await;
    let (web, silent) = (mesh.join("web").await, mesh.join("silent").await);
    for issued in [&web, &silent] {
        acknowledge(&mesh, issued, sequence(&mesh)).await;
    }
    let mut given_up = mesh.authority.given_up();
    let new = mesh.authority.rotate(Kind::Root, "uid:0").await.unwrap();
    let published = sequence(&mesh);
    acknowledge(&mesh, &web, published).await;
    mesh.clock.pass(999);
    mesh.authority.maintain().await.unwrap();
    assert_eq!(phase_of(&mesh, &new).await, Phase::Published);
    mesh.clock.pass(1);
    mesh.authority.maintain().await.unwrap();
    assert_eq!(phase_of(&mesh, &new).await, Phase::Active);
    let lost = given_up.recv().await.unwrap();
    assert_eq!(lost.iter().map(|one| one.spiffe_id.as_str()).collect::<Vec<_>>(), [id("silent").as_str()]);

    let request = key();
    assert_eq!(refusal(mesh.renew(&silent, &request).await), Refusal::Stale);
    mesh.renew(&web, &key()).await.unwrap();
    // An older bundle than the one that it missed does not help.
    acknowledge(&mesh, &silent, published - 1).await;
    assert_eq!(refusal(mesh.renew(&silent, &request).await), Refusal::Stale);
    acknowledge(&mesh, &silent, sequence(&mesh)).await;
    mesh.renew(&silent, &request).await.unwrap();
}

#[tokio::test]
async fn a_sidecar_that_left_or_whose_certificate_ended_is_not_waited_for() {
    let mesh = mesh_with(quick).await;
    let (web, gone) = (mesh.join("web").await, mesh.join("gone").await);
    for issued in [&web, &gone] {
        acknowledge(&mesh, issued, sequence(&mesh)).await;
    }
    mesh.authority.heard_of(Vec::new(), vec![gone.serial.as_bytes().to_vec()]).await.unwrap();
    let new = mesh.authority.rotate(Kind::Root, "uid:0").await.unwrap();
    mesh.clock.pass(101);
    acknowledge(&mesh, &web, sequence(&mesh)).await;
    assert_eq!(phase_of(&mesh, &new).await, Phase::Active);
}

#[tokio::test]
async fn whoever_knows_only_the_old_root_still_finds_the_control_plane() {
    let mesh = mesh_with(quick).await;
    let before = mesh.authority.trust_bundle().unwrap();
    mesh.authority.rotate(Kind::Root, "uid:0").await.unwrap();
    mesh.clock.pass(101);
    mesh.authority.maintain().await.unwrap();
    let (own, _) = mesh.authority.self_issue(vec![]).await.unwrap();
    let now = mesh.clock.unix_seconds();
    let chain = own.chain().to_vec();
    assert_eq!(chain.len(), 3, "leaf, issuer, and the new root under the old");
    assert!(is_believed(&before, &chain, now));
    assert!(is_believed(&mesh.authority.trust_bundle().unwrap(), &chain, now));
    // Strictly read, as peers do.
    signet_identity::Svid::parse(&chain).unwrap();
}

#[tokio::test]
async fn a_tainted_root_is_replaced_at_once_and_leaves_when_nobody_holds_a_certificate_under_it() {
    let mesh = mesh_with(quick).await;
    let web = mesh.join("web").await;
    acknowledge(&mesh, &web, sequence(&mesh)).await;
    let old = of(&mesh, Kind::Root, Phase::Active).await.remove(0);
    mesh.authority.taint(&old.id[..8], "uid:0").await.unwrap();
    let told = mesh.authority.published().borrow().clone();
    assert!(told.tainted.iter().map(ToString::to_string).eq([old.sha256.clone()]));
    assert_eq!(told.roots.len(), 2);
    acknowledge(&mesh, &web, told.sequence).await;
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Draining, "no wait for those who only fetch");
    assert!(mesh.authority.published().borrow().cross.is_empty(), "its key certifies nothing any more");

    let renewed = mesh.renew(&web, &key()).await.unwrap();
    acknowledge(&mesh, &renewed, sequence(&mesh)).await;
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Removed);
    let bundle = mesh.authority.trust_bundle().unwrap();
    let now = mesh.clock.unix_seconds();
    assert!(is_believed(&bundle, &renewed.chain, now) && !is_believed(&bundle, &web.chain, now));
}

#[tokio::test]
async fn a_tainted_root_stays_for_who_has_only_just_joined_and_said_nothing_yet() {
    let mesh = mesh_with(quick).await;
    let web = mesh.join("web").await;
    let old = of(&mesh, Kind::Root, Phase::Active).await.remove(0);
    mesh.authority.taint(&old.id, "uid:0").await.unwrap();
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Draining, "its certificate is under it");
    let renewed = mesh.renew(&web, &key()).await.unwrap();
    mesh.authority.maintain().await.unwrap();
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Draining, "its new one may not have arrived");
    acknowledge(&mesh, &renewed, sequence(&mesh)).await;
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Removed);
}

#[tokio::test]
async fn who_joined_and_is_not_heard_of_for_a_minute_is_waited_for_no_longer() {
    let mesh = mesh_with(quick).await;
    mesh.join("web").await;
    let old = of(&mesh, Kind::Root, Phase::Active).await.remove(0);
    mesh.authority.taint(&old.id, "uid:0").await.unwrap();
    mesh.clock.pass(60);
    mesh.authority.maintain().await.unwrap();
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Draining);
    mesh.clock.pass(1);
    mesh.authority.maintain().await.unwrap();
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Removed);
}

#[tokio::test]
async fn the_newest_roots_come_first_even_if_they_were_made_in_one_second() {
    let mesh = mesh_with(|config| config.rotation.consumers_wait = Duration::ZERO).await;
    let mut newest_first = vec![mesh.authority.root()];
    for _ in 0..4 {
        mesh.authority.rotate(Kind::Root, "uid:0").await.unwrap();
        newest_first.insert(0, mesh.authority.root());
    }
    assert_eq!(mesh.authority.published().borrow().roots, newest_first);
}

#[tokio::test]
async fn a_word_of_the_stream_before_neither_undoes_a_renewal_nor_a_later_word() {
    let mesh = mesh_with(quick).await;
    let web = mesh.join("web").await;
    let joined = sequence(&mesh);
    let old = of(&mesh, Kind::Root, Phase::Active).await.remove(0);
    mesh.authority.taint(&old.id, "uid:0").await.unwrap();
    acknowledge(&mesh, &web, sequence(&mesh)).await;
    let renewed = mesh.renew(&web, &key()).await.unwrap();
    acknowledge(&mesh, &renewed, sequence(&mesh)).await;
    // What the connection under the certificate before had said arrives only now.
    acknowledge(&mesh, &web, joined).await;
    mesh.authority.maintain().await.unwrap();
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Removed);
    let next = mesh.authority.rotate(Kind::Token, "uid:0").await.unwrap();
    acknowledge(&mesh, &renewed, sequence(&mesh)).await;
    acknowledge(&mesh, &web, joined).await;
    assert_eq!(phase_of(&mesh, &next).await, Phase::Active);
}

#[tokio::test]
async fn a_tainted_issuer_is_replaced_and_revoked_once_its_holders_have_renewed() {
    let mesh = mesh_with(quick).await;
    let web = mesh.join("web").await;
    acknowledge(&mesh, &web, sequence(&mesh)).await;
    let old = of(&mesh, Kind::Issuer, Phase::Active).await.remove(0);
    mesh.authority.taint(&old.id, "uid:0").await.unwrap();
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Draining);
    let spki = signet_identity::Svid::parse(&web.chain).unwrap().issuers[0].key;
    assert_eq!(mesh.authority.published().borrow().tainted, [spki]);
    assert!(mesh.authority.revocations().borrow().set.is_empty(), "its holders can still renew");

    let renewed = mesh.renew(&web, &key()).await.unwrap();
    acknowledge(&mesh, &renewed, sequence(&mesh)).await;
    assert_eq!(phase_of(&mesh, &old.id).await, Phase::Removed);
    let revoked = mesh.authority.revocations().borrow().set.clone();
    assert!(revoked.revokes(&signet_identity::Svid::parse(&web.chain).unwrap()).is_some());
    assert!(revoked.revokes(&signet_identity::Svid::parse(&renewed.chain).unwrap()).is_none());
    assert!(mesh.authority.published().borrow().tainted.is_empty());
}

#[tokio::test]
async fn token_keys_are_published_before_they_sign_and_believed_after() {
    let mesh = mesh_with(quick).await;
    let keys = |mesh: &Mesh| {
        let set: serde_json::Value = serde_json::from_str(&mesh.authority.token_roots_json()).unwrap();
        set["keys"].as_array().unwrap().len()
    };
    let web = mesh.join("web").await;
    acknowledge(&mesh, &web, sequence(&mesh)).await;
    let old = of(&mesh, Kind::Token, Phase::Active).await.remove(0);
    let new = mesh.authority.rotate(Kind::Token, "uid:0").await.unwrap();
    assert_eq!((keys(&mesh), phase_of(&mesh, &new).await), (2, Phase::Published));
    acknowledge(&mesh, &web, sequence(&mesh)).await;
    assert_eq!(phase_of(&mesh, &new).await, Phase::Active);
    // Two hours: no delegation, and no token under one, is believed for longer.
    mesh.clock.pass(2 * HOUR + 120);
    mesh.authority.maintain().await.unwrap();
    assert_eq!((keys(&mesh), phase_of(&mesh, &old.id).await), (2, Phase::Draining));
    mesh.clock.pass(1);
    mesh.authority.maintain().await.unwrap();
    assert_eq!((keys(&mesh), phase_of(&mesh, &old.id).await), (1, Phase::Removed));
}

#[tokio::test]
async fn force_does_not_wait_and_a_prepared_root_waits_for_its_operator() {
    let mesh = mesh_with(|config| {
        quick(config);
        config.rotation.automatic = false;
    })
    .await;
    let web = mesh.join("web").await;
    acknowledge(&mesh, &web, sequence(&mesh)).await;
    let new = mesh.authority.prepare(Kind::Root, "uid:0").await.unwrap();
    acknowledge(&mesh, &web, sequence(&mesh)).await;
    mesh.clock.pass(3000);
    mesh.authority.maintain().await.unwrap();
    assert_eq!(phase_of(&mesh, &new).await, Phase::Acknowledged);
    assert_eq!(mesh.authority.prepare(Kind::Root, "uid:0").await.unwrap(), new, "there is one at a time");
    mesh.authority.activate(&new, false, "uid:0").await.unwrap();
    assert_eq!(phase_of(&mesh, &new).await, Phase::Active);
    assert_eq!(refusal(mesh.authority.activate(&new, false, "uid:0").await), Refusal::NotASuccessor);

    let forced = mesh.authority.prepare(Kind::Root, "uid:0").await.unwrap();
    assert_eq!(phase_of(&mesh, &forced).await, Phase::Published);
    mesh.authority.activate(&forced, true, "uid:0").await.unwrap();
    assert_eq!(phase_of(&mesh, &forced).await, Phase::Active);
    for unknown in ["", "12345", "zzzzzzzz"] {
        assert_eq!(refusal(mesh.authority.taint(unknown, "uid:0").await), Refusal::NotInTheJournal);
    }
}

#[tokio::test]
async fn the_schedule_rotates_a_root_by_itself_and_never_issues_past_its_parent() {
    let mesh = mesh_with(|config| {
        quick(config);
        config.root_life = Duration::from_secs(90 * DAY as u64);
        config.rotation.activate_cap = Duration::from_secs(20 * DAY as u64);
        config.rotation.prepare_cap = Duration::from_secs(30 * DAY as u64);
    })
    .await;
    let first = mesh.authority.root_sha256();
    let mut roots = std::collections::BTreeSet::from([first.to_string()]);
    for _ in 0..(180 * 24 / 6) {
        mesh.clock.pass(6 * HOUR);
        mesh.authority.maintain().await.unwrap();
        let issued = mesh.join("web").await;
        let bundle = mesh.authority.trust_bundle().unwrap();
        assert!((1..=2).contains(&bundle.roots().count()));
        assert!(is_believed(&bundle, &issued.chain, mesh.clock.unix_seconds()));
        assert_eq!(issued.not_after, mesh.clock.unix_seconds() + HOUR, "never clipped by its issuer");
        roots.insert(mesh.authority.root_sha256().to_string());
    }
    assert_eq!(roots.len(), 3, "a root of 90 days gives way 20 days before its end");
    mesh.authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn an_edited_or_emptied_journal_is_refused_and_no_new_mesh_is_begun() {
    for sql in [
        "DELETE FROM authorities",
        "UPDATE authorities SET phase = 'removed' WHERE kind = 'root'",
        "UPDATE authorities SET not_after = not_after + 1 WHERE kind = 'issuer'",
        "DELETE FROM authorities_head",
    ] {
        let mesh = mesh().await;
        let root = mesh.authority.root_sha256();
        let intruder = mesh.intruder().await;
        sqlx::query(sql).execute(&intruder).await.unwrap();
        intruder.close().await;
        let (dir, clock) = (&mesh.dir, mesh.clock.clone());
        mesh.authority.rotate(Kind::Root, "uid:0").await.unwrap_err();
        assert_eq!(mesh.authority.root_sha256(), root);
        mesh.authority.close().await;
        let config = config(dir.path());
        let Mesh { authority, dir: _keep, .. } = mesh;
        drop(authority);
        let error = Authority::open(config, clock).await.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("mark"), "{sql}: {error}");
    }
    let mesh = mesh().await;
    let intruder = mesh.intruder().await;
    for sql in ["DELETE FROM authorities", "DELETE FROM authorities_head"] {
        sqlx::query(sql).execute(&intruder).await.unwrap();
    }
    intruder.close().await;
    let error = mesh.reopen_with(|_| ()).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("mark"), "{error}");
}

#[tokio::test]
async fn an_issuer_that_the_journal_ended_signs_nothing_more() {
    let mesh = mesh().await;
    let intruder = mesh.intruder().await;
    // As another replica would: whatever this process still holds in memory.
    sqlx::query("UPDATE authorities SET phase = 'draining' WHERE kind = 'issuer'")
        .execute(&intruder)
        .await
        .unwrap();
    let token = mesh.token("web").await;
    let error = mesh.attest(&token, &csr(&key())).await.unwrap_err();
    assert!(error.to_string().contains("issuer"), "{error}");
}

#[tokio::test]
async fn a_generation_is_built_from_what_is_published() {
    let mesh = mesh_with(quick).await;
    mesh.authority.rotate(Kind::Root, "uid:0").await.unwrap();
    mesh.clock.pass(101);
    mesh.authority.maintain().await.unwrap();
    let (own, _): (OwnSvid, Issued) = mesh.authority.self_issue(vec![]).await.unwrap();
    let bundles = Arc::new(Bundles::from(mesh.authority.trust_bundle().unwrap()));
    let generation = Generation::build(1, own, bundles, GenerationOptions::default()).unwrap();
    let roots: Vec<_> =
        mesh.authority.published().borrow().roots.iter().map(|r| signet_identity::KeyId::of(r)).collect();
    assert!(roots.contains(&generation.own_root()));
}
