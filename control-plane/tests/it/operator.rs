//! The operator's socket.

use std::os::unix::fs::PermissionsExt;

use signet_control_plane::listen::bootstrap::Limits;
use signet_control_plane::run;
use signet_proto::v1::{self, from_sidecar::Message as Say};
use tonic::Code;

use crate::harness::{ORDERS, Plane, REGISTRY, WEB, hello, soon};

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_status_says_what_runs() {
    let mut plane = Plane::start().await;
    let mode = std::fs::metadata(plane.dir.path().join("operator.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let status = plane.operator.status(v1::StatusRequest {}).await.unwrap().into_inner();
    let roles: Vec<_> = status.certificates.iter().map(|c| c.role.as_str()).collect();
    assert_eq!(roles, ["root", "issuer", "control-plane"]);
    assert_eq!((status.trust_domain.as_str(), status.dev), ("demo.signet", true));
    assert_eq!(status.issuers[0].alias, "demo-idp");
}

#[tokio::test]
async fn a_join_token_is_made_only_for_a_workload_of_the_registry_with_its_class() {
    let mut plane = Plane::start().await;
    let mut refused = async |id: &str, class: &str| {
        let request =
            v1::CreateJoinTokenRequest { spiffe_id: id.into(), peer_class: class.into(), ttl_seconds: 0 };
        plane.operator.create_join_token(request).await.unwrap_err()
    };
    let nobody = refused("spiffe://demo.signet/ns/shop/sa/nobody", "sidecar").await;
    assert_eq!(nobody.code(), Code::FailedPrecondition);
    assert!(nobody.message().contains("ns/shop/sa/nobody"), "{nobody}");
    let other = refused(WEB, "gateway").await;
    assert!(other.message().contains("class sidecar"), "{other}");
    for (id, class) in [
        ("spiffe://other.domain/ns/shop/sa/web", "sidecar"),
        ("not an id", "sidecar"),
        (WEB, "emperor"),
        (WEB, "control-plane"),
    ] {
        let code = refused(id, class).await.code();
        assert!(matches!(code, Code::InvalidArgument | Code::FailedPrecondition), "{id} {class}: {code:?}");
    }
}

#[tokio::test]
async fn a_bad_registry_shows_in_the_status_with_file_and_field_while_the_last_good_one_serves() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    plane.edit(&REGISTRY.replacen("spec: {class: sidecar}", "spec: {class: sidecar, surprise: 1}", 1));
    let errors = soon(async {
        loop {
            let status = plane.operator.status(v1::StatusRequest {}).await.unwrap().into_inner();
            if !status.registry_errors.is_empty() {
                return status.registry_errors;
            }
        }
    })
    .await;
    assert!(errors[0].contains("mesh.yaml") && errors[0].contains("surprise"), "{errors:?}");
    assert_eq!(plane.metric("signet_control_plane_registry_valid ").await, Some(0.0));
    let delta = web.stream(hello(&["orders.shop"], &[])).await.delta().await;
    assert!(crate::harness::names(&delta).contains(&"service/orders.shop"));
}

#[tokio::test]
async fn issuances_are_listed_and_watched_with_their_actor() {
    let mut plane = Plane::start().await;
    let watching = v1::WatchIssuancesRequest {};
    let mut watched = plane.operator.watch_issuances(watching).await.unwrap().into_inner();
    plane.join(WEB, "sidecar").await;
    let joined = soon(watched.message()).await.unwrap().unwrap();
    assert_eq!((joined.event.as_str(), joined.spiffe_id.as_str()), ("joined", WEB));
    assert!(joined.actor.starts_with("uid:"));
    let called = soon(watched.message()).await.unwrap().unwrap();
    assert_eq!((called.event.as_str(), &called.actor), ("operator-call", &joined.actor));
    assert!(called.reason.starts_with("join identity=") && called.reason.contains(": Ok, as security-admin"));
    let issued = soon(watched.message()).await.unwrap().unwrap();
    assert_eq!((issued.event.as_str(), issued.actor.as_str()), ("issued", "127.0.0.1"));
    let list =
        plane.operator.list_issuances(v1::ListIssuancesRequest { limit: 2 }).await.unwrap().into_inner();
    assert_eq!(list.records.last().unwrap().hash, issued.hash);
}

#[tokio::test]
async fn a_decision_is_explained_only_in_the_words_of_the_workload_that_made_it() {
    let mut plane = Plane::start().await;
    let orders = plane.join(ORDERS, "sidecar").await;
    let mut stream = orders.stream(hello(&[], &[])).await;
    stream.delta().await;
    let decision = |id: &str, workload: &str| v1::Decision {
        id: id.into(),
        at_ms: 5,
        workload: workload.into(),
        json: r#"{"allowed":false}"#.into(),
        beside: false,
    };
    let records = vec![decision("forged", WEB), decision("real", ORDERS)];
    stream.say(Say::Decisions(v1::Decisions { records, dropped: 3, hops: None })).await;
    let explained = soon(async {
        loop {
            match plane.operator.explain_decision(v1::ExplainDecisionRequest { id: "real".into() }).await {
                Ok(answer) => return answer.into_inner(),
                Err(status) => assert_eq!(status.code(), Code::NotFound),
            }
        }
    })
    .await;
    assert_eq!((explained.workload.as_str(), explained.json.as_str()), (ORDERS, r#"{"allowed":false}"#));
    let forged = plane.operator.explain_decision(v1::ExplainDecisionRequest { id: "forged".into() }).await;
    assert_eq!(forged.unwrap_err().code(), Code::NotFound);
    let list = plane.operator.list_decisions(v1::ListDecisionsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.decisions.len(), 1);
    assert_eq!(plane.metric("signet_control_plane_decisions_total{result=\"foreign\"} ").await, Some(1.0));
}

#[tokio::test]
async fn revocations_that_name_nothing_are_refused() {
    let mut plane = Plane::start().await;
    for what in [
        None,
        Some(v1::revoke_request::What::Serial("xyz".into())),
        Some(v1::revoke_request::What::SpiffeId("spiffe://other/ns/a/sa/b".into())),
        Some(v1::revoke_request::What::KeySha256("00".into())),
        Some(v1::revoke_request::What::Delegation("short".into())),
        Some(v1::revoke_request::What::Lineage("00".into())),
        Some(v1::revoke_request::What::Lineage("00112233445566778899aabbccddeeff".into())),
        Some(v1::revoke_request::What::Instance("no-cluster".into())),
    ] {
        let status =
            plane.operator.revoke(v1::RevokeRequest { what, reason: String::new() }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}

#[tokio::test]
async fn a_revoked_identity_is_reinstated_and_both_are_in_the_log() {
    use v1::{reinstate_request::What as Lifted, revoke_request::What};
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let lift = |what| v1::ReinstateRequest { what, reason: "found again".into() };
    let unknown = plane.operator.reinstate(lift(Some(Lifted::SpiffeId(WEB.into())))).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    for what in [
        (What::SpiffeId(WEB.into()), Lifted::SpiffeId(WEB.into())),
        (What::Serial("0123456789abcdef".into()), Lifted::Serial("0123456789abcdef".into())),
        (What::KeySha256("ab".repeat(32)), Lifted::KeySha256("ab".repeat(32))),
        (What::Delegation("A".repeat(43)), Lifted::Delegation("A".repeat(43))),
        (What::Instance("main/uid-1".into()), Lifted::Instance("main/uid-1".into())),
    ] {
        let revoke = v1::RevokeRequest { what: Some(what.0), reason: "lost".into() };
        let revoked = plane.operator.revoke(revoke).await.unwrap().into_inner().sequence;
        let lifted = plane.operator.reinstate(lift(Some(what.1))).await.unwrap().into_inner().sequence;
        assert!(lifted > revoked);
    }
    web.stream(hello(&[], &[])).await.delta().await;
    let log = v1::ListIssuancesRequest { limit: 4 };
    let records = plane.operator.list_issuances(log).await.unwrap().into_inner().records;
    let events: Vec<_> = records.iter().map(|r| r.event.as_str()).collect();
    assert_eq!(events, ["revoked", "operator-call", "reinstated", "operator-call"]);
    assert!(records[2].reason.ends_with("found again") && records[2].actor.starts_with("uid:"));
    let nothing = plane.operator.reinstate(lift(None)).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    let counted = "signet_control_plane_operator_calls_total{call=\"reinstate\",code=\"Ok\"} ";
    assert_eq!(plane.metric(counted).await, Some(5.0));
}

#[tokio::test]
async fn the_whole_log_is_verified_and_an_edit_is_data_loss() {
    let mut plane = Plane::start().await;
    plane.join(WEB, "sidecar").await;
    let verified = plane.operator.verify_log(v1::VerifyLogRequest {}).await.unwrap().into_inner();
    let log = v1::ListIssuancesRequest { limit: 1 };
    let last = plane.operator.list_issuances(log).await.unwrap().into_inner().records.remove(0);
    assert_eq!((verified.records, verified.head, verified.revocations), (last.sequence, last.hash, 0));
    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(plane.dir.path().join("data/authority.db"));
    let intruder = sqlx::SqlitePool::connect_with(options).await.unwrap();
    for sql in ["DROP TRIGGER log_is_append_only_update", "UPDATE log SET actor = 'x' WHERE sequence = 2"] {
        sqlx::query(sql).execute(&intruder).await.unwrap();
    }
    let status = plane.operator.verify_log(v1::VerifyLogRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    assert!(status.message().contains("record 2"), "{status}");
}

#[tokio::test]
async fn with_other_uids_listed_everybody_may_knock_and_only_they_come_in() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("registry")).unwrap();
    std::fs::write(dir.path().join("registry/mesh.yaml"), REGISTRY).unwrap();
    let mut config = crate::harness::config(dir.path());
    config.operator_uids = vec![4_294_967_294];
    let (_trigger, shutdown) = signet_daemon::shutdown::channel();
    let _running = run::start(&config, Limits::default(), shutdown).await.unwrap();
    let socket = config.operator_socket;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o666);
    // We are not on the list, and are hung up on though we own the socket.
    let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let mut heard = Vec::new();
    let _ = soon(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut heard)).await;
    assert!(heard.is_empty());
}
