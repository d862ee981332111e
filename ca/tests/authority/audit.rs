//! The log for those who look into it: kept for a time, signed, searched, and verified without the authority.

use signet_audit::{ExportError, Line, Report, verify};
use signet_ca::{Cursor, Event, Search};

use crate::*;

async fn export(mesh: &Mesh) -> Vec<Line> {
    let (to, mut from) = tokio::sync::mpsc::channel(16);
    let authority = mesh.authority.clone();
    let exporting = tokio::spawn(async move { authority.export(to).await });
    let mut lines = Vec::new();
    while let Some(line) = from.recv().await {
        lines.push(line);
    }
    exporting.await.unwrap().unwrap();
    lines
}

fn check(mesh: &Mesh, lines: &[Line]) -> Result<Report, ExportError> {
    let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
    verify(text.as_bytes(), &mesh.authority.audit_key(), Vec::new())
}

#[tokio::test]
async fn an_export_is_verified_with_nothing_but_the_audit_key() {
    let mesh = mesh().await;
    mesh.join("web").await;
    mesh.authority.beat().await.unwrap();
    mesh.join("orders").await;
    let lines = export(&mesh).await;
    let report = check(&mesh, &lines).unwrap();
    let log = report.replicas.values().next().unwrap();
    assert_eq!(
        (log.records, log.signed, log.last),
        (FOUNDING + 4, FOUNDING + 2, FOUNDING + 4),
        "what came after the signature is chained only"
    );
    let head = mesh.authority.signed_heads().await.unwrap().remove(0);
    assert_eq!((head.statement.sequence, head.statement.at), (FOUNDING + 2, START));
    // The key that is written down is the one.
    let pem = std::fs::read_to_string(mesh.dir.path().join("data/audit.pem")).unwrap();
    assert_eq!(pem, mesh.authority.audit_key().to_pem());
    // Cut off below what was signed.
    let cut: Vec<Line> = lines
        .into_iter()
        .filter(|line| !matches!(line, Line::Record(record) if record.sequence > 3))
        .collect();
    let error = check(&mesh, &cut).unwrap_err();
    assert!(matches!(error, ExportError::Cut { last: 3, signed, .. } if signed == FOUNDING + 2), "{error}");
}

#[tokio::test]
async fn old_records_go_in_segments_and_a_signed_checkpoint_stands_for_them() {
    let mesh = mesh().await;
    for n in 0..300 {
        mesh.token(&format!("w{n}")).await;
    }
    mesh.authority.beat().await.unwrap();
    mesh.clock.set(START + 6 * DAY);
    mesh.authority.maintain().await.unwrap();
    let whole = mesh.authority.verify_chain().await.unwrap().records;
    assert!(whole >= 302, "{whole}");
    mesh.clock.set(START + 90 * DAY);
    mesh.authority.maintain().await.unwrap();
    assert!(mesh.authority.verify_chain().await.unwrap().records >= whole, "not yet");
    mesh.clock.set(START + 90 * DAY + 1);
    mesh.authority.maintain().await.unwrap();
    let records = mesh.authority.records(1000).await.unwrap();
    assert_eq!(records[0].sequence, 257, "the first segment is gone, and no more than it");
    assert_eq!(records.last().unwrap().event, Event::LogTrimmed);
    mesh.authority.verify_chain().await.unwrap();
    let lines = export(&mesh).await;
    let report = check(&mesh, &lines).unwrap();
    assert_eq!(report.replicas.values().next().unwrap().removed, 256);
    // Without the checkpoint the rest proves nothing.
    let without: Vec<Line> = lines.into_iter().filter(|line| !matches!(line, Line::Checkpoint(_))).collect();
    assert!(matches!(check(&mesh, &without), Err(ExportError::Missing { expected: 1, found: 257, .. })));
    // It goes on, also after a restart.
    let mesh = mesh.reopen().await;
    mesh.join("web").await;
    mesh.authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn a_forged_checkpoint_is_noticed() {
    let mesh = mesh().await;
    for n in 0..4 {
        mesh.token(&format!("w{n}")).await;
    }
    let intruder = mesh.intruder().await;
    let of = if server().is_some() { "'\\x00'::bytea" } else { "x'00'" };
    let forge = format!(
        "INSERT INTO log_checkpoints SELECT replica, sequence, hash, at, {of} FROM log WHERE sequence = 3"
    );
    sqlx::query(sqlx::AssertSqlSafe(forge)).execute(&intruder).await.unwrap();
    sqlx::query("DELETE FROM log WHERE sequence <= 3").execute(&intruder).await.unwrap();
    let error = mesh.authority.verify_chain().await.unwrap_err();
    assert!(error.to_string().contains("checkpoint"), "{error}");
}

#[tokio::test]
async fn the_log_is_searched_by_identity_serial_event_and_time_page_by_page() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    mesh.clock.pass(60);
    let second = mesh.renew(&first, &key()).await.unwrap();
    mesh.join("orders").await;
    let search = async |wanted: Search| {
        let found = mesh.authority.search(wanted).await.unwrap();
        found.into_iter().map(|record| (record.event, record.serial)).collect::<Vec<_>>()
    };
    let web = Search { spiffe_id: id("web").to_string(), ..Search::default() };
    let found = search(web.clone()).await;
    let events: Vec<Event> = found.iter().map(|(event, _)| *event).collect();
    assert_eq!(events, [Event::Renewed, Event::Issued, Event::TokenMade]);
    let serial = Search { serial: second.serial.to_string(), ..Search::default() };
    assert_eq!(search(serial).await, [(Event::Renewed, second.serial.to_string())]);
    let issued = Search { event: "issued".into(), ..Search::default() };
    assert_eq!(search(issued.clone()).await.len(), 2);
    assert_eq!(search(Search { since: START + 60, ..issued.clone() }).await.len(), 1);
    assert_eq!(search(Search { until: START + 60, ..issued }).await.len(), 1);
    assert!(search(Search { spiffe_id: "' OR 1=1 --".into(), ..Search::default() }).await.is_empty());
    // One at a time.
    let (mut after, mut paged) = (None, Vec::new());
    loop {
        let wanted = Search { after: after.take(), limit: 1, ..web.clone() };
        let Some(record) = mesh.authority.search(wanted).await.unwrap().pop() else { break };
        after = Some(Cursor { at: record.at, replica: record.replica.clone(), sequence: record.sequence });
        paged.push((record.event, record.serial));
    }
    assert_eq!(paged, found);
}
