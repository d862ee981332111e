//! The delivery stream, from the control plane's messages to what the data plane reads.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use signet_proto::v1;
use signet_proto::v1::from_sidecar::Message as Said;
use signet_proxy::decision::{DecisionId, DecisionSink};
use signet_proxy::state::{State, Wanted};
use signet_sidecar::control::heads::Kept;
use signet_sidecar::control::stream::{Discovery, MAX_ADDRESSES, MAX_NAMES, Parts};
use signet_sidecar::publish::Publisher;
use signet_sidecar::status::Status;
use support::{Plane, Sidecar, Stream};

const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// A sidecar that serves `web.shop`, dials `orders.shop` and has joined.
struct Joined {
    plane: Plane,
    sidecar: Sidecar,
    state: Arc<State>,
    status: Arc<Status>,
    sink: Arc<DecisionSink>,
    _folder: tempfile::TempDir,
    /// The process does not end while a test looks.
    _trigger: signet_daemon::Trigger,
}

async fn joined() -> Joined {
    let plane = Plane::start().await;
    let sidecar = plane.sidecar();
    soon(sidecar.identity.join(&plane.bundle)).await.unwrap();
    let (state, wishes) = State::new(sidecar.credentials.current().unwrap());
    sidecar.credentials.attach(state.clone());
    let names = |name: &str| BTreeSet::from([name.to_owned()]);
    let status = Status::new(
        plane.bundle.spiffe_id.to_string(),
        sidecar.credentials.clone(),
        &names("web.shop"),
        None,
    );
    let publisher =
        Publisher::new(state.clone(), sidecar.credentials.clone(), sidecar.identity.clone(), None);
    let (sink, decisions) = DecisionSink::new(16);
    let sink = Arc::new(sink);
    let (trigger, shutdown) = signet_daemon::shutdown::channel();
    let folder = tempfile::tempdir().unwrap();
    let discovery = Discovery::new(Parts {
        kept: Kept::of(folder.path()),
        shutdown,
        plane: sidecar.plane.clone(),
        credentials: sidecar.credentials.clone(),
        publisher: Arc::new(publisher),
        status: status.clone(),
        metrics: sidecar.metrics.clone(),
        wishes,
        decisions,
        hops: Arc::default(),
        sink: sink.clone(),
        dialled: names("orders.shop"),
        served: names("web.shop"),
    });
    tokio::spawn(discovery.run());
    Joined { plane, sidecar, state, status, sink, _folder: folder, _trigger: trigger }
}

impl Joined {
    async fn stream(&mut self) -> Stream {
        soon(self.plane.streams.recv()).await.expect("a stream")
    }
}

fn service(name: &str, version: &str) -> v1::Resource {
    let id = "spiffe://demo.signet/ns/shop/sa/orders";
    v1::Resource {
        name: format!("service/{name}"),
        version: version.to_owned(),
        body: Some(v1::resource::Body::Service(v1::Service {
            name: name.to_owned(),
            ports: vec![port()],
            identities: vec![id.to_owned()],
            endpoints: vec![v1::Endpoint {
                address: "127.0.0.1".to_owned(),
                ports: [("http".to_owned(), 8443)].into(),
                ..Default::default()
            }],
            addresses: vec!["10.96.0.7".to_owned()],
            ..Default::default()
        })),
    }
}

fn port() -> v1::ServicePort {
    v1::ServicePort {
        name: "http".to_owned(),
        port: 80,
        protocol: v1::Protocol::Http1.into(),
        request_timeout_ms: 15_000,
        ..Default::default()
    }
}

fn inbound(version: &str, spec: &str) -> v1::Resource {
    let json = format!(
        r#"{{"apiVersion":"signet.mesh/v1alpha1","kind":"MeshPolicy","metadata":{{"namespace":"shop","name":"anyone"}},"spec":{spec}}}"#
    );
    v1::Resource {
        name: "inbound/web.shop".to_owned(),
        version: version.to_owned(),
        body: Some(v1::resource::Body::Inbound(v1::Inbound {
            service: "web.shop".to_owned(),
            ports: vec![port()],
            policies: vec![v1::PolicyDocument { name: "anyone.shop".to_owned(), json, refused: Vec::new() }],
            ..Default::default()
        })),
    }
}

fn mesh() -> v1::Resource {
    v1::Resource {
        name: "mesh".to_owned(),
        version: "m1".to_owned(),
        body: Some(v1::resource::Body::Mesh(v1::Mesh {
            trust_domain: support::DOMAIN.to_owned(),
            ..Default::default()
        })),
    }
}

fn delta(nonce: u64, upserts: Vec<v1::Resource>) -> v1::Delta {
    v1::Delta { nonce, upserts, ..Default::default() }
}

#[tokio::test]
async fn what_is_delivered_is_acknowledged_and_published() {
    let mut joined = joined().await;
    let mut stream = joined.stream().await;
    let Said::Hello(hello) = soon(stream.next()).await else { panic!("expected a hello") };
    assert_eq!(
        (hello.services.as_slice(), hello.serves.as_slice()),
        (&["orders.shop".to_owned()][..], &["web.shop".to_owned()][..])
    );
    assert!(hello.have.is_empty());
    assert!(joined.status.ready().is_err());

    let permit = inbound("i1", r#"{"effect":"permit"}"#);
    stream.delta(delta(1, vec![mesh(), service("orders.shop", "s1"), permit])).await;
    assert_eq!(soon(stream.next()).await, Said::Ack(v1::Ack { nonce: 1 }));
    let view = joined.state.view();
    assert_eq!(view.endpoints.service("orders.shop").unwrap().port("http").unwrap().endpoints.len(), 1);
    assert!(view.routes.inbound("web.shop", "http").is_some());
    assert!(view.policy.of("web.shop").unwrap().policies.not_understood().is_empty());
    assert_eq!(&*view.keys.trust_domain, support::DOMAIN);
    soon(joined.status.complete()).await;
    assert_eq!(joined.status.ready(), Ok(()));
}

#[tokio::test]
async fn a_policy_with_an_unknown_field_makes_its_target_deny_and_is_reported() {
    let mut joined = joined().await;
    let mut stream = joined.stream().await;
    soon(stream.next()).await;
    stream.delta(delta(1, vec![mesh(), inbound("i1", r#"{"effect":"permit"}"#)])).await;
    soon(stream.next()).await;
    stream.delta(delta(2, vec![inbound("i2", r#"{"effect":"permit","weekday":"monday"}"#)])).await;
    let Said::Nack(nack) = soon(stream.next()).await else { panic!("expected a nack") };
    assert!(nack.rejected[0].reason.contains("weekday"), "{:?}", nack.rejected);
    let view = joined.state.view();
    let served = view.policy.of("web.shop").unwrap();
    assert_eq!(served.policies.not_understood().len(), 1, "the older, laxer one must not go on");
}

#[tokio::test]
async fn the_first_use_of_a_service_subscribes_to_it() {
    let mut joined = joined().await;
    let mut stream = joined.stream().await;
    soon(stream.next()).await;
    stream.delta(delta(1, vec![mesh()])).await;
    soon(stream.next()).await;
    let state = joined.state.clone();
    let request = tokio::spawn(async move {
        let mut view = state.view();
        state
            .first_use(
                &mut view,
                || Wanted::Service("inventory.shop".into()),
                |endpoints| endpoints.service("inventory.shop").cloned(),
            )
            .await
    });
    let Said::Subscribe(subscribe) = soon(stream.next()).await else { panic!("expected a subscription") };
    assert_eq!(subscribe.services, ["inventory.shop"]);
    stream.delta(delta(2, vec![service("inventory.shop", "v1")])).await;
    assert!(soon(request).await.unwrap().is_some());
}

#[tokio::test]
async fn an_address_that_was_asked_for_when_the_stream_broke_is_asked_for_again() {
    let mut joined = joined().await;
    let mut stream = joined.stream().await;
    soon(stream.next()).await;
    stream.delta(delta(1, vec![mesh()])).await;
    soon(stream.next()).await;
    joined.state.want(Wanted::Address(std::net::Ipv4Addr::new(10, 96, 0, 7).into()));
    let Said::Subscribe(asked) = soon(stream.next()).await else { panic!("expected a subscription") };
    assert_eq!(asked.addresses, ["10.96.0.7"]);
    drop(stream);
    let mut stream = joined.stream().await;
    let Said::Hello(_) = soon(stream.next()).await else { panic!("expected a hello") };
    assert_eq!(soon(stream.next()).await, Said::Subscribe(asked));
}

#[tokio::test]
async fn an_app_that_dials_at_random_does_not_cut_its_sidecar_off_from_news() {
    let mut joined = joined().await;
    let mut stream = joined.stream().await;
    soon(stream.next()).await;
    stream.delta(delta(1, vec![mesh()])).await;
    soon(stream.next()).await;
    let mut asked = 0;
    for number in 0..MAX_ADDRESSES as u32 + 50 {
        joined.state.want(Wanted::Address(std::net::Ipv4Addr::from(0x0b00_0000 + number).into()));
        if asked < MAX_ADDRESSES {
            let Said::Subscribe(subscribe) = soon(stream.next()).await else {
                panic!("expected a subscription")
            };
            asked += subscribe.addresses.len();
        }
    }
    assert_eq!(asked, MAX_ADDRESSES);
    // Nothing more is asked, and the stream lives: news still comes.
    stream.delta(delta(2, vec![service("orders.shop", "s1")])).await;
    assert_eq!(soon(stream.next()).await, Said::Ack(v1::Ack { nonce: 2 }));
}

#[tokio::test]
async fn names_that_an_app_looks_up_in_vain_are_refused_once_and_forgotten_and_have_a_bound_of_their_own() {
    let mut joined = joined().await;
    let mut stream = joined.stream().await;
    soon(stream.next()).await;
    let mut mesh = mesh();
    if let Some(v1::resource::Body::Mesh(mesh)) = &mut mesh.body {
        mesh.namespaces = vec!["shop".to_owned()];
    }
    stream.delta(delta(1, vec![mesh])).await;
    soon(stream.next()).await;
    assert!(joined.state.view().endpoints.is_namespace("shop"));
    assert!(!joined.state.view().endpoints.is_namespace("com"));
    let name = |number: usize| format!("name-{number}.shop");
    for number in 0..MAX_NAMES {
        joined.state.want(Wanted::Name(name(number).into()));
        let Said::Subscribe(asked) = soon(stream.next()).await else { panic!("expected a subscription") };
        assert_eq!(asked.services, [name(number)]);
        stream.refuse(&name(number)).await;
    }
    // Past the bound nothing is asked, and said at once.
    let refused = |name: String| {
        let state = joined.state.clone();
        async move {
            while state.view().endpoints.refusal(&name).is_none() {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
    };
    joined.state.want(Wanted::Name(name(MAX_NAMES).into()));
    soon(refused(name(MAX_NAMES))).await;
    // What was forgotten of it is said again without asking.
    joined.state.update_endpoints(|endpoints| endpoints.forget_refusals());
    joined.state.want(Wanted::Name(name(0).into()));
    soon(refused(name(0))).await;
    // Services are another matter.
    joined.state.want(Wanted::Service("inventory.shop".into()));
    let Said::Subscribe(asked) = soon(stream.next()).await else { panic!("expected a subscription") };
    assert_eq!(asked.services, ["inventory.shop"]);
    let report = serde_json::to_value(joined.status.report()).unwrap();
    assert_eq!(report["control"]["refused"], serde_json::json!({}), "nobody reads what was misspelt");
    // And the next stream does not ask for them again.
    drop(stream);
    let mut stream = joined.stream().await;
    let Said::Hello(hello) = soon(stream.next()).await else { panic!("expected a hello") };
    assert!(hello.services.iter().all(|service| !service.starts_with("name-")), "{:?}", hello.services);
}

#[tokio::test]
async fn a_broken_stream_keeps_everything_and_the_next_one_says_what_is_had() {
    let mut joined = joined().await;
    let mut stream = joined.stream().await;
    soon(stream.next()).await;
    stream
        .delta(delta(1, vec![mesh(), service("orders.shop", "s1"), inbound("i1", r#"{"effect":"permit"}"#)]))
        .await;
    soon(stream.next()).await;
    drop(stream);
    let mut stream = joined.stream().await;
    assert!(joined.state.view().endpoints.service("orders.shop").is_some());
    assert_eq!(joined.status.ready(), Ok(()), "what is known goes on");
    let Said::Hello(hello) = soon(stream.next()).await else { panic!("expected a hello") };
    let have: Vec<_> = hello.have.iter().map(|have| (have.name.as_str(), have.version.as_str())).collect();
    assert_eq!(have, [("inbound/web.shop", "i1"), ("mesh", "m1"), ("service/orders.shop", "s1")]);
}

#[tokio::test]
async fn a_renewed_certificate_moves_the_stream() {
    let mut joined = joined().await;
    let mut stream = joined.stream().await;
    soon(stream.next()).await;
    let before = joined.state.view().tls.generation.number();
    let term = soon(joined.sidecar.identity.join(&joined.plane.bundle)).await;
    term.unwrap();
    assert!(joined.state.view().tls.generation.number() > before, "the data plane has it at once");
    let mut moved = joined.stream().await;
    assert!(matches!(soon(moved.next()).await, Said::Hello(_)));
}

#[tokio::test]
async fn decisions_travel_in_batches_with_what_was_dropped() {
    let mut joined = joined().await;
    let mut stream = joined.stream().await;
    soon(stream.next()).await;
    for _ in 0..20 {
        joined.sink.record(DecisionId::random(), || r#"{"reason":"policy"}"#.to_owned());
    }
    let (mut records, mut dropped) = (0, 0);
    while records + dropped < 20 {
        let Said::Decisions(decisions) = soon(stream.next()).await else { panic!("expected decisions") };
        assert!(decisions.records.iter().all(|record| record.workload.ends_with("ns/shop/sa/web")));
        records += decisions.records.len() as u64;
        dropped += decisions.dropped;
    }
    assert!(records >= 16, "{records} records");
}
