//! The issuance log as operators look into it, and the schema as the command makes it.

use std::path::Path;

use hyper_util::rt::TokioIo;
use signet_control_plane::config::Config;
use signet_control_plane::run::{self, MigrateError};
use signet_proto::v1::{self, audit_client::AuditClient};
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::harness::Plane;

const WEB: &str = "spiffe://demo.signet/ns/shop/sa/web";

async fn audit(plane: &Plane) -> AuditClient<Channel> {
    let socket = crate::harness::config(plane.dir.path()).operator_socket;
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://operator").connect_with_connector(connector).await.unwrap();
    AuditClient::new(channel)
}

#[tokio::test]
async fn operators_search_the_log_and_take_an_export_that_verifies_by_itself() {
    let mut plane = Plane::start().await;
    plane.join(WEB, "sidecar").await;
    let mut audit = audit(&plane).await;
    let wanted = v1::SearchLogRequest { spiffe_id: WEB.into(), limit: 1, ..Default::default() };
    let first = audit.search(wanted.clone()).await.unwrap().into_inner();
    let record = first.records[0].record.clone().unwrap();
    assert_eq!((record.event.as_str(), first.records.len()), ("issued", 1));
    let next = v1::SearchLogRequest { page: first.next_page, ..wanted.clone() };
    let second = audit.search(next).await.unwrap().into_inner();
    assert_eq!(second.records[0].record.as_ref().unwrap().event, "joined");
    let bad = v1::SearchLogRequest { page: "x".into(), ..wanted };
    assert_eq!(audit.search(bad).await.unwrap_err().code(), Code::InvalidArgument);

    let pem = audit.key(v1::AuditKeyRequest {}).await.unwrap().into_inner().pem;
    let key = signet_audit::PublicKey::from_pem(&pem).unwrap();
    let export = async || {
        let mut lines = audit.clone().export(v1::ExportLogRequest {}).await.unwrap().into_inner();
        let mut text = String::new();
        while let Some(line) = lines.message().await.unwrap() {
            text.push_str(&line.json);
            text.push('\n');
        }
        text
    };
    // The first end is signed beside the start.
    let signed = async {
        loop {
            let text = export().await;
            match signet_audit::verify(text.as_bytes(), &key, Vec::new()) {
                Ok(report) => break (text, report),
                Err(signet_audit::ExportError::Origin) => panic!("{text}"),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let (text, report) = crate::harness::soon(signed).await;
    let log = report.replicas.values().next().unwrap();
    assert!(log.records > 3 && log.signed > 0, "{log:?}");
    let edited = text.replace("\"issued\"", "\"renewed\"");
    signet_audit::verify(edited.as_bytes(), &key, Vec::new()).unwrap_err();
}

#[tokio::test]
async fn only_postgres_has_a_schema_to_bring_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let config: Config = crate::harness::config(dir.path());
    let error = run::migrate(&config, Some(Path::new("/nowhere"))).await.unwrap_err();
    assert!(matches!(error, MigrateError::NotPostgres), "{error}");
}
