use signet_ca::{ChainError, Event, StoreError, Verified};
use tokio::sync::broadcast::error::TryRecvError;

use crate::*;

async fn with_history() -> Mesh {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    mesh.renew(&first, &key()).await.unwrap();
    let token = mesh.token("orders").await;
    refusal(mesh.attest(&token, b"junk").await);
    mesh
}

async fn as_intruder(mesh: &Mesh, statements: &'static [&'static str]) {
    let intruder = mesh.intruder().await;
    for sql in [without_trigger("update"), without_trigger("delete")].iter().chain(statements) {
        sqlx::query(*sql).execute(&intruder).await.unwrap();
    }
}

#[track_caller]
fn chain_error(result: Result<Verified, StoreError>) -> ChainError {
    match result {
        Err(StoreError::Chain(error)) => error,
        other => panic!("expected a broken chain, got {other:?}"),
    }
}

#[tokio::test]
async fn an_untouched_log_verifies_also_after_a_restart() {
    let mesh = with_history().await;
    assert_eq!(mesh.authority.verify_chain().await.unwrap().records, FOUNDING + 5);
    let mesh = mesh.reopen().await;
    assert_eq!(mesh.authority.verify_chain().await.unwrap().records, FOUNDING + 5);
    mesh.join("web").await;
    assert_eq!(mesh.authority.verify_chain().await.unwrap().records, FOUNDING + 7);
    let last = mesh.authority.records(2).await.unwrap();
    assert_eq!([last[0].sequence, last[1].sequence], [FOUNDING + 6, FOUNDING + 7]);
}

#[tokio::test]
async fn a_changed_record_is_detected() {
    let mesh = with_history().await;
    as_intruder(
        &mesh,
        &["UPDATE log SET spiffe_id = 'spiffe://demo.signet/ns/shop/sa/x' WHERE sequence = 4"],
    )
    .await;
    assert_eq!(chain_error(mesh.authority.verify_chain().await), ChainError::Changed(4));
}

#[tokio::test]
async fn a_removed_record_is_detected() {
    let mesh = with_history().await;
    as_intruder(&mesh, &["DELETE FROM log WHERE sequence = 3"]).await;
    assert_eq!(chain_error(mesh.authority.verify_chain().await), ChainError::Missing(3));
}

#[tokio::test]
async fn a_cut_end_is_detected_at_once_and_at_the_next_start() {
    let mesh = with_history().await;
    as_intruder(&mesh, &["DELETE FROM log WHERE sequence >= 6"]).await;
    assert_eq!(
        chain_error(mesh.authority.verify_chain().await),
        ChainError::Cut { found: 5, head: FOUNDING + 5 }
    );
    let error = mesh.reopen_with(|_| ()).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("records were cut off"), "{error}");
}

#[tokio::test]
async fn a_forged_head_stops_issuance() {
    let mesh = with_history().await;
    as_intruder(
        &mesh,
        &[
            "DELETE FROM log WHERE sequence >= 6",
            "UPDATE log_heads SET sequence = 5, hash = (SELECT hash FROM log WHERE sequence = 5)",
        ],
    )
    .await;
    assert_eq!(chain_error(mesh.authority.verify_chain().await), ChainError::Head);
    let result = mesh.authority.create_join_token(id("web"), PeerClass::Sidecar, None, "uid:0").await;
    assert!(matches!(result, Err(AuthorityError::Store(StoreError::Chain(ChainError::Head)))), "{result:?}");
}

#[tokio::test]
async fn a_log_that_was_set_back_under_a_running_authority_is_noticed() {
    let mesh = mesh().await;
    let intruder = mesh.intruder().await;
    let old: (i64, Vec<u8>, Vec<u8>) =
        sqlx::query_as("SELECT sequence, hash, mac FROM log_heads").fetch_one(&intruder).await.unwrap();
    drop(intruder);
    mesh.join("web").await;
    as_intruder(&mesh, &["DELETE FROM log WHERE sequence > 4"]).await;
    let intruder = mesh.intruder().await;
    sqlx::query("UPDATE log_heads SET sequence = $1, hash = $2, mac = $3")
        .bind(old.0)
        .bind(old.1)
        .bind(old.2)
        .execute(&intruder)
        .await
        .unwrap();
    let result = mesh.authority.self_issue(vec![]).await;
    let Err(AuthorityError::Store(StoreError::Chain(error))) = result else { panic!("{result:?}") };
    assert_eq!(error, ChainError::SetBack { written: FOUNDING + 2, found: FOUNDING });
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_issued() {
    let mesh = mesh().await;
    let token = mesh.token("web").await;
    let intruder = mesh.intruder().await;
    break_log(&intruder).await;
    let request = csr(&key());
    let result = mesh.attest(&token, &request).await;
    assert!(matches!(result, Err(AuthorityError::Store(_))), "{result:?}");
    mend_log(&intruder).await;
    // Nothing of the failed act is left: token and key are as before.
    mesh.attest(&token, &request).await.unwrap();
}

#[tokio::test]
async fn subscribers_see_every_record_once_in_the_order_of_the_log() {
    let mesh = mesh().await;
    let mut live = mesh.authority.subscribe();
    let mut joins = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (authority, csr) = (mesh.authority.clone(), csr(&key()));
        joins.spawn(async move {
            let id = crate::id(&format!("w{n}"));
            let token = authority.create_join_token(id, PeerClass::Sidecar, None, "uid:0").await.unwrap();
            authority.attest_join_token(token.text.expose(), &csr, "192.0.2.1", anybody()).await.unwrap();
        });
    }
    joins.join_all().await;
    let mut seen = Vec::new();
    loop {
        match live.try_recv() {
            Ok(record) => seen.push(record.sequence),
            Err(TryRecvError::Empty) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(seen, (FOUNDING + 1..=FOUNDING + 16).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_tear_an_act() {
    let mesh = mesh().await;
    let token = mesh.token("web").await;
    let mut live = mesh.authority.subscribe();
    let request = csr(&key());
    {
        let attest = mesh.attest(&token, &request);
        tokio::pin!(attest);
        // Polled once, so that it has begun, and dropped.
        tokio::select! {
            biased;
            _ = &mut attest => {}
            () = std::future::ready(()) => {}
        }
    }
    assert_eq!(live.recv().await.unwrap().event, Event::Issued);
    mesh.authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn counters_and_expiry_are_exported() {
    let mesh = mesh().await;
    let registry = prometheus::Registry::new();
    mesh.authority.register_metrics(&registry).unwrap();
    mesh.join("web").await;
    let token = mesh.token("web").await;
    refusal(mesh.attest(&token, b"junk").await);
    let families = registry.gather();
    let value = |name: &str, label: &str| {
        let family = families.iter().find(|f| f.name() == name).unwrap();
        let metric =
            family.get_metric().iter().find(|m| m.get_label().iter().any(|l| l.value() == label)).unwrap();
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    };
    assert_eq!(value("signet_ca_issued_total", "join-token"), 1.0);
    assert_eq!(value("signet_ca_refused_total", "csr-unreadable"), 1.0);
    assert_eq!(value("signet_ca_certificate_not_after_seconds", "issuer"), (START + 7 * DAY) as f64);
}

fn goes_on(config: &mut AuthorityConfig) {
    config.log_failure = signet_ca::LogFailure::Issue;
}

#[tokio::test]
async fn a_mesh_that_may_go_on_keeps_what_the_log_does_not_take_and_brings_it_in_later() {
    let mesh = mesh_with(goes_on).await;
    let intruder = mesh.intruder().await;
    let (kept, taken) =
        (mesh.dir.path().join("data/log-missed.jsonl"), mesh.dir.path().join("data/log-missed.taken.jsonl"));
    break_log(&intruder).await;
    let issued = mesh.join("web").await;
    mesh.authority.maintain().await.unwrap();
    mesh.join("orders").await;
    let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
    assert_eq!((lines(&taken), lines(&kept)), (2, 2), "a token and a certificate each");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    mend_log(&intruder).await;
    mesh.authority.maintain().await.unwrap();
    mesh.authority.maintain().await.unwrap();
    assert!(!kept.exists() && !taken.exists());
    let records = mesh.authority.records(20).await.unwrap();
    let late: Vec<_> = records.iter().filter(|it| it.reason.starts_with("late: ")).collect();
    assert_eq!(late.len(), 4);
    assert_eq!((late[1].event.as_str(), &*late[1].serial), ("issued", &*issued.serial.to_string()));
    mesh.authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn a_kept_record_that_somebody_wrote_becomes_an_alert() {
    let mesh = mesh_with(goes_on).await;
    let intruder = mesh.intruder().await;
    break_log(&intruder).await;
    mesh.join("web").await;
    let kept = mesh.dir.path().join("data/log-missed.jsonl");
    let text = std::fs::read_to_string(&kept).unwrap();
    std::fs::write(&kept, text.replace("/sa/web", "/sa/www")).unwrap();
    mend_log(&intruder).await;
    mesh.authority.maintain().await.unwrap();
    let events: Vec<_> = mesh.authority.records(2).await.unwrap().iter().map(|it| it.event).collect();
    assert_eq!(events, [signet_ca::Event::Alert, signet_ca::Event::Alert]);
    mesh.authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn what_can_be_kept_nowhere_is_not_issued() {
    let mesh = mesh_with(goes_on).await;
    let token = mesh.token("web").await;
    break_log(&mesh.intruder().await).await;
    std::fs::create_dir(mesh.dir.path().join("data/log-missed.jsonl")).unwrap();
    mesh.attest(&token, &csr(&key())).await.unwrap_err();
    mend_log(&mesh.intruder().await).await;
    std::fs::remove_dir(mesh.dir.path().join("data/log-missed.jsonl")).unwrap();
    mesh.attest(&token, &csr(&key())).await.unwrap();
}
