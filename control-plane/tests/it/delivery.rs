//! One stream per sidecar: deltas, refusals, and the stream's end.

use signet_proto::v1::{self, from_sidecar::Message as Say, to_sidecar::Message as Told};
use tonic::Code;

use crate::harness::{GATEWAY, ORDERS, Plane, REGISTRY, WEB, hello, names, soon};

#[tokio::test]
async fn an_edit_of_the_registry_is_pushed_as_what_changed() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let mut stream = web.stream(hello(&["orders.shop"], &["web.shop"])).await;
    stream.delta().await;
    plane.edit(&REGISTRY.replace("17102", "17103"));
    let delta = stream.delta().await;
    assert_eq!((names(&delta), delta.removed.len()), (vec!["service/orders.shop"], 0));
}

#[tokio::test]
async fn a_service_that_leaves_is_removed_and_refused_from_then_on() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let mut stream = web.stream(hello(&["extra.shop"], &[])).await;
    let Told::Refused(refused) = stream.next().await.unwrap() else { panic!() };
    assert_eq!(refused.service, "extra.shop");
    stream.delta().await;
    let extra = "
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: extra}
spec: {ports: [{name: http, port: 80, protocol: http}]}
";
    plane.edit(&format!("{REGISTRY}{extra}"));
    assert_eq!(names(&stream.delta().await), ["service/extra.shop"], "refused once is not refused for ever");
    plane.edit(REGISTRY);
    let Told::Refused(refused) = stream.next().await.unwrap() else { panic!() };
    assert_eq!(refused.service, "extra.shop");
    assert_eq!(stream.delta().await.removed, ["service/extra.shop"]);
}

#[tokio::test]
async fn a_sidecar_that_reconnects_with_what_it_has_is_sent_nothing_again() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let first = web.stream(hello(&["orders.shop"], &[])).await.delta().await;
    let mut again = hello(&["orders.shop"], &[]);
    again.have =
        first.upserts.iter().map(|r| v1::Have { name: r.name.clone(), version: r.version.clone() }).collect();
    let delta = web.stream(again).await.delta().await;
    assert!(delta.upserts.is_empty() && delta.removed.is_empty(), "{delta:?}");
}

#[tokio::test]
async fn a_peer_may_not_serve_a_service_that_does_not_list_it() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let mut stream = web.stream(hello(&[], &["orders.shop"])).await;
    let Told::Refused(refused) = stream.next().await.unwrap() else { panic!() };
    assert!(refused.service == "orders.shop" && refused.reason.contains("identity"), "{refused:?}");
    let delta = stream.delta().await;
    assert!(!names(&delta).iter().any(|n| n.starts_with("inbound/")), "{delta:?}");
}

#[tokio::test]
async fn a_gateway_is_sent_its_configuration_its_issuers_and_its_services_unasked() {
    let mut plane = Plane::start().await;
    let gateway = plane.join(GATEWAY, "gateway").await;
    let delta = gateway.stream(hello(&[], &[])).await.delta().await;
    for name in ["gateway/gw.edge", "issuer/demo-idp", "service/web.shop"] {
        assert!(names(&delta).contains(&name), "{name}");
    }
}

#[tokio::test]
async fn a_rejected_resource_shows_in_the_list_of_sidecars() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let mut stream = web.stream(hello(&[], &["web.shop"])).await;
    let Told::Delta(delta) = stream.next().await.unwrap() else { panic!() };
    let rejected =
        vec![v1::Rejected { name: "inbound/web.shop".into(), reason: "a field I do not know".into() }];
    stream.say(Say::Nack(v1::Nack { nonce: delta.nonce, rejected })).await;
    let row = soon(async {
        loop {
            let list = plane.operator.list_sidecars(v1::ListSidecarsRequest {}).await.unwrap().into_inner();
            if let Some(row) = list.sidecars.into_iter().find(|s| !s.rejected.is_empty()) {
                return row;
            }
        }
    })
    .await;
    assert_eq!((row.spiffe_id.as_str(), row.peer_class.as_str(), row.acked_nonce), (WEB, "sidecar", 1));
    assert!(row.rejected[0].contains("a field I do not know"));
}

#[tokio::test]
async fn a_revoked_peer_loses_its_stream_and_cannot_come_back() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let orders = plane.join(ORDERS, "sidecar").await;
    let mut other = orders.stream(hello(&[], &[])).await;
    other.delta().await;
    let mut stream = web.stream(hello(&[], &[])).await;
    stream.delta().await;
    let what = Some(v1::revoke_request::What::SpiffeId(WEB.into()));
    plane.operator.revoke(v1::RevokeRequest { what, reason: "a test".into() }).await.unwrap();
    let status = stream.end().await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(names(&other.delta().await), ["revocations"], "and everybody else is told");
    let again = crate::harness::dial(plane.mesh, web.config.clone()).await;
    let refused = match again {
        Err(_) => true,
        // TLS 1.3: the client may think that it is in before the server's word comes.
        Ok(_) => web.try_stream(hello(&[], &[])).await.is_err(),
    };
    assert!(refused);
}

#[tokio::test]
async fn a_revocation_is_measured_when_the_last_connected_sidecar_has_acknowledged_it() {
    let mut plane = Plane::start().await;
    let (web, orders) = (plane.join(WEB, "sidecar").await, plane.join(ORDERS, "sidecar").await);
    let (mut quick, mut slow) = (web.stream(hello(&[], &[])).await, orders.stream(hello(&[], &[])).await);
    quick.delta().await;
    slow.delta().await;
    let (count, behind) =
        ("signet_control_plane_revocation_seconds_count", "signet_control_plane_revocation_behind_sidecars");
    let reaches = async |plane: &Plane, metric: &str, value: f64| {
        soon(async { while plane.metric(metric).await != Some(value) {} }).await;
    };
    reaches(&plane, behind, 0.0).await;
    let what = Some(v1::revoke_request::What::SpiffeId("spiffe://demo.signet/ns/shop/sa/gone".into()));
    plane.operator.revoke(v1::RevokeRequest { what, reason: "a test".into() }).await.unwrap();
    assert_eq!(names(&quick.delta().await), ["revocations"]);
    let Told::Delta(delta) = slow.next().await.unwrap() else { panic!() };
    reaches(&plane, behind, 1.0).await;
    assert_eq!(plane.metric(count).await, Some(0.0), "one has not said that it goes by it");
    slow.say(Say::Ack(v1::Ack { nonce: delta.nonce })).await;
    reaches(&plane, count, 1.0).await;
    reaches(&plane, behind, 0.0).await;
}

#[tokio::test]
async fn a_sidecar_is_told_where_the_log_ends_and_is_heard_when_it_remembers_another() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let mut stream = web.stream(hello(&[], &[])).await;
    stream.delta().await;
    let Told::LogHead(head) = stream.any().await.unwrap() else { panic!("expected the log's end") };
    let key = std::fs::read_to_string(plane.dir.path().join("data/audit.pem")).unwrap();
    assert_eq!(head.audit_key, key);
    let statement = signet_audit::Statement {
        kind: signet_audit::Kind::Head,
        trust_domain: "demo.signet".into(),
        replica: head.replica.clone(),
        sequence: head.sequence,
        hash: head.hash.as_slice().try_into().unwrap(),
        at: head.at,
    };
    let signed = signet_audit::Signed { statement, signature: head.signature.clone() };
    assert!(signet_audit::PublicKey::from_pem(&key).unwrap().verifies(&signed));
    for reason in ["fork", "\u{1b}[31mnonsense"] {
        let report = v1::LogContradiction { reason: reason.into(), held: None, told: Some(head.clone()) };
        stream.say(Say::LogContradiction(report)).await;
    }
    for reason in ["fork", "other"] {
        let line = format!("signet_control_plane_log_contradictions_total{{reason=\"{reason}\"}}");
        soon(async { while plane.metric(&line).await != Some(1.0) {} }).await;
    }
}

#[tokio::test]
async fn a_workload_that_leaves_the_registry_loses_its_stream_and_connection_at_once() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let orders = plane.join(ORDERS, "sidecar").await;
    let (mut gone, mut stays) =
        (web.stream(hello(&[], &[])).await, orders.stream(hello(&["web.shop"], &[])).await);
    gone.delta().await;
    stays.delta().await;
    let workload = "
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: web}
spec: {class: sidecar}
---";
    let without = REGISTRY.replacen(workload, "", 1);
    assert_ne!(without, REGISTRY);
    plane.edit(&without);
    let status = gone.end().await;
    assert_eq!((status.code(), status.message().contains("unregistered")), (Code::PermissionDenied, true));
    let ended = "signet_control_plane_connections_ended_total{reason=\"unregistered\"} ";
    assert_eq!(plane.metric(ended).await, Some(1.0), "the connection, not the stream alone");
    // Its certificate is good for an hour still, and of no use here.
    assert!(web.try_stream(hello(&[], &[])).await.is_err());
    assert!(web.renew(crate::harness::csr(&rcgen::KeyPair::generate().unwrap())).await.is_err());
    plane.edit(&without.replace("17102", "17103"));
    stays
        .say(Say::Subscribe(v1::Subscribe { services: vec!["orders.shop".into()], addresses: vec![] }))
        .await;
    assert!(names(&stays.delta().await).contains(&"service/orders.shop"), "nobody else is touched");
    plane.edit(REGISTRY);
    soon(async { while web.try_stream(hello(&[], &[])).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_lineage_with_two_keys_is_revoked_with_its_live_streams() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let mut stream = web.stream(hello(&[], &[])).await;
    stream.delta().await;
    let request = || crate::harness::csr(&rcgen::KeyPair::generate().unwrap());
    web.renew(request()).await.unwrap();
    let stolen = web.renew(request()).await.unwrap_err();
    assert_eq!(stolen.code(), Code::PermissionDenied);
    assert_eq!(stream.end().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_revoked_lineage_loses_its_streams_and_another_of_the_same_identity_does_not() {
    let mut plane = Plane::start().await;
    let (lost, kept) = (plane.join(WEB, "sidecar").await, plane.join(WEB, "sidecar").await);
    let log = v1::ListIssuancesRequest { limit: 50 };
    let records = plane.operator.list_issuances(log).await.unwrap().into_inner().records;
    let first = records.iter().find(|it| it.event == "issued" && it.spiffe_id == WEB).unwrap();
    let lineage = first.reason.strip_prefix("lineage ").and_then(|it| it.split(',').next()).unwrap();
    let (mut ends, mut stays) = (lost.stream(hello(&[], &[])).await, kept.stream(hello(&[], &[])).await);
    ends.delta().await;
    stays.delta().await;
    let what = Some(v1::revoke_request::What::Lineage(lineage.into()));
    plane.operator.revoke(v1::RevokeRequest { what, reason: "a test".into() }).await.unwrap();
    assert_eq!(ends.end().await.code(), Code::PermissionDenied);
    let told = stays.delta().await;
    let Some(v1::resource::Body::Revocations(set)) = &told.upserts[0].body else { panic!("{told:?}") };
    assert_eq!(set.serials.len(), 1, "sidecars of any version are told a serial");
    assert!(lost.try_stream(hello(&[], &[])).await.is_err());
    assert!(lost.renew(crate::harness::csr(&rcgen::KeyPair::generate().unwrap())).await.is_err());
    kept.renew(crate::harness::csr(&rcgen::KeyPair::generate().unwrap())).await.unwrap();
    let what = Some(v1::reinstate_request::What::Lineage(lineage.into()));
    plane.operator.reinstate(v1::ReinstateRequest { what, reason: "found".into() }).await.unwrap();
    soon(async { while lost.try_stream(hello(&[], &[])).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_drain_tells_streams_and_ends_the_process_in_order() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let mut stream = web.stream(hello(&[], &[])).await;
    stream.delta().await;
    let addresses = plane.dir.path().join("data/addresses.json");
    assert!(addresses.exists());
    plane.trigger.drain();
    assert_eq!(stream.end().await.code(), Code::Unavailable);
    soon(&mut plane.served).await.unwrap();
    assert!(!addresses.exists() && !plane.dir.path().join("operator.sock").exists());
}

#[tokio::test]
async fn an_answer_to_another_delta_ends_the_stream() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let mut stream = web.stream(hello(&[], &[])).await;
    let Told::Delta(delta) = stream.next().await.unwrap() else { panic!() };
    stream.say(Say::Ack(v1::Ack { nonce: delta.nonce + 7 })).await;
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_connection_has_one_stream() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let channel = web.channel().await;
    let mut first = web.stream_on(channel.clone(), hello(&[], &[])).await.unwrap();
    first.delta().await;
    let second = web.stream_on(channel, hello(&[], &[])).await.err().unwrap();
    assert_eq!(second.code(), Code::FailedPrecondition);
    plane.edit(&REGISTRY.replace("17102", "17103"));
    first
        .say(Say::Subscribe(v1::Subscribe { services: vec!["orders.shop".into()], addresses: vec![] }))
        .await;
    assert_eq!(names(&first.delta().await), ["service/orders.shop"]);
}

#[tokio::test]
async fn a_flood_of_subscriptions_ends_the_stream() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let names: Vec<String> = (0..5_000).map(|n| format!("s{n}.shop")).collect();
    let mut greeting = hello(&[], &[]);
    greeting.services = names;
    let stream = web.stream(greeting).await;
    assert_eq!(stream.end().await.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_stream_that_does_not_begin_with_a_hello_ends() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let stream = web.stream_saying(Say::Ack(v1::Ack { nonce: 1 })).await;
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);
}
