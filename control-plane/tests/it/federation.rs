//! Federation against partners that misbehave in every way that it must survive, and our own bundle endpoint
//! against those who fetch from it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use signet_bundle::Document;
use signet_control_plane::federation::{DomainState, Federation};
use signet_control_plane::fetch::Client;
use signet_control_plane::metrics::Metrics;
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{
    Generation, GenerationOptions, PeerClass, TrustBundle, TrustDomain, bundle_client_config,
};
use signet_model::Registry;
use signet_proto::v1;
use signet_token::Jwks;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::harness::{ORDERS, Plane, soon};

const PARTNER: &str = "partner.example";

fn domain() -> TrustDomain {
    TrustDomain::parse(PARTNER).unwrap()
}

/// What the partner's endpoint does when it is asked.
#[derive(Clone)]
enum Does {
    Serve(String),
    Redirect(&'static str),
    Fail,
    Hang,
}

/// A partner's bundle endpoint under `https_spiffe`.
struct Partner {
    ca: TestCa,
    address: SocketAddr,
    does: Arc<Mutex<Does>>,
    hits: Arc<AtomicUsize>,
    /// The SVID that is presented.
    generation: Arc<Mutex<Arc<Generation>>>,
}

fn generation(ca: &TestCa) -> Arc<Generation> {
    let options = SvidOptions::default().at_wall_clock();
    let svid = ca.svid(&ca.id("ns/signet-system/sa/signet-control-plane"), PeerClass::ControlPlane, options);
    Generation::build(1, svid, ca.bundles(), GenerationOptions::default()).unwrap()
}

fn document(ca: &TestCa, sequence: u64) -> String {
    signet_bundle::write(&ca.bundle(), &Jwks::default(), sequence, Duration::from_secs(300))
}

impl Partner {
    async fn start() -> Self {
        let ca = TestCa::new(PARTNER);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let does = Arc::new(Mutex::new(Does::Serve(document(&ca, 10))));
        let hits = Arc::new(AtomicUsize::new(0));
        let presented = Arc::new(Mutex::new(generation(&ca)));
        let (doing, counted, presenting) = (Arc::clone(&does), Arc::clone(&hits), Arc::clone(&presented));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (doing, counted) = (Arc::clone(&doing), Arc::clone(&counted));
                let config = presenting.lock().unwrap().bundle_endpoint_config().unwrap();
                tokio::spawn(async move {
                    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |_: Request<hyper::body::Incoming>| {
                        counted.fetch_add(1, Ordering::SeqCst);
                        let does = doing.lock().unwrap().clone();
                        async move {
                            let response = Response::builder();
                            match does {
                                Does::Serve(text) => response.body(Full::new(Bytes::from(text))),
                                Does::Redirect(to) => {
                                    response.status(302).header("location", to).body(Full::default())
                                }
                                Does::Fail => response.status(500).body(Full::default()),
                                Does::Hang => std::future::pending().await,
                            }
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { ca, address, does, hits, generation: presented }
    }

    fn does(&self, what: Does) {
        *self.does.lock().unwrap() = what;
    }

    /// A registry that federates it, with this initial bundle.
    fn registry(&self, initial: &str) -> Registry {
        let yaml = format!(
            "apiVersion: signet.mesh/v1alpha1\nkind: FederatedTrustDomain\nmetadata: {{name: partner}}\nspec:\n  \
             trustDomain: {PARTNER}\n  url: https://{}/bundle\n  profile:\n    https_spiffe:\n      \
             endpointId: spiffe://{PARTNER}/ns/signet-system/sa/signet-control-plane\n      \
             initialBundle: {{inline: '{initial}'}}\n",
            self.address
        );
        signet_model::parse_text(Path::new("mesh.yaml"), &yaml, &Default::default()).unwrap()
    }
}

fn federation(kept: &Path) -> Arc<Federation> {
    let client = Client::new(true, false, Duration::from_secs(2)).unwrap();
    Federation::new(client, kept, Metrics::new().unwrap())
}

/// Follows the partner from its real bundle, and waits for the first attempt.
async fn federated(partner: &Partner, kept: &Path) -> (Arc<Federation>, DomainState) {
    let federation = federation(kept);
    federation.follow(&partner.registry(&document(&partner.ca, 1)));
    let state = soon(federation.refresh(&domain())).await.unwrap();
    (federation, state)
}

fn root_of(state: &DomainState) -> Option<TrustBundle> {
    state.held.as_ref()?.document.roots().cloned()
}

fn holds(state: &DomainState, ca: &TestCa) -> bool {
    root_of(state).is_some_and(|held| held.digests().eq(ca.bundle().digests()))
}

#[tokio::test]
async fn a_bundle_is_fetched_by_the_initial_one_and_then_by_itself() {
    let (partner, dir) = (Partner::start().await, tempfile::tempdir().unwrap());
    let (federation, state) = federated(&partner, &dir.path().join("kept.json")).await;
    assert!(state.error.is_empty() && holds(&state, &partner.ca), "{}", state.error);
    let held = state.held.unwrap();
    assert_eq!((held.document.sequence(), held.is_initial), (Some(10), false));
    assert!(state.confirmed_at > 0);
    // The partner changes its root: both are published, then the new one is used, then the old one goes.
    let new = TestCa::new(PARTNER);
    let both = TrustBundle::new(domain(), [partner.ca.root().clone(), new.root().clone()]).unwrap();
    let text = signet_bundle::write(&both, &Jwks::default(), 11, Duration::from_secs(300));
    partner.does(Does::Serve(text));
    let state = soon(federation.refresh(&domain())).await.unwrap();
    assert_eq!(root_of(&state).unwrap().roots().count(), 2);
    *partner.generation.lock().unwrap() = generation(&new);
    partner.does(Does::Serve(document(&new, 12)));
    let state = soon(federation.refresh(&domain())).await.unwrap();
    assert!(state.error.is_empty() && holds(&state, &new), "{}", state.error);
}

#[tokio::test]
async fn what_is_not_to_be_believed_is_refused_and_what_was_held_stays() {
    let (partner, dir) = (Partner::start().await, tempfile::tempdir().unwrap());
    let (federation, before) = federated(&partner, &dir.path().join("kept.json")).await;
    let confirmed = before.confirmed_at;
    let other = TestCa::new("other.example");
    let mut twice: String = document(&partner.ca, 11);
    twice.insert_str(1, r#""keys":[],"#);
    let table = [
        ("the document of another domain", Does::Serve(document(&other, 11)), "trust domain other.example"),
        ("a sequence that goes back", Does::Serve(document(&TestCa::new(PARTNER), 9)), "older than 10"),
        ("too large", Does::Serve(" ".repeat(257 * 1024)), "larger than"),
        ("no JSON", Does::Serve("<html>".into()), "unreadable"),
        ("a member twice", Does::Serve(twice), "one member twice"),
        ("no keys", Does::Serve(r#"{"spiffe_sequence": 11}"#.into()), "no array named"),
        ("a redirect inward", Does::Redirect("https://169.254.169.254/latest"), "redirected to"),
        ("a redirect elsewhere", Does::Redirect("https://127.0.0.1:1/bundle"), "redirected to"),
        ("an error", Does::Fail, "got 500"),
        ("no answer", Does::Hang, "no answer within"),
    ];
    for (name, does, reason) in table {
        partner.does(does);
        let state = soon(federation.refresh(&domain())).await.unwrap();
        assert!(state.error.contains(reason), "{name}: {}", state.error);
        assert!(holds(&state, &partner.ca), "{name}");
        assert_eq!(state.confirmed_at, confirmed, "{name}: its age is that of the last success");
    }
    partner.does(Does::Serve(document(&partner.ca, 11)));
    let state = soon(federation.refresh(&domain())).await.unwrap();
    assert!(state.error.is_empty(), "{}", state.error);
}

#[tokio::test]
async fn somebody_else_at_the_endpoint_is_not_even_asked() {
    let (partner, dir) = (Partner::start().await, tempfile::tempdir().unwrap());
    let (federation, _) = federated(&partner, &dir.path().join("kept.json")).await;
    let hits = partner.hits.load(Ordering::SeqCst);
    // Another authority of the same name, and another workload of the right one.
    let options = SvidOptions::default().at_wall_clock();
    let web = partner.ca.svid(&partner.ca.id("ns/shop/sa/web"), PeerClass::Sidecar, options);
    let web = Generation::build(1, web, partner.ca.bundles(), GenerationOptions::default()).unwrap();
    for (posing, reason) in
        [(generation(&TestCa::new(PARTNER)), "no root of trust domain"), (web, "but the peer is")]
    {
        *partner.generation.lock().unwrap() = posing;
        let state = soon(federation.refresh(&domain())).await.unwrap();
        assert!(state.error.contains(reason), "{}", state.error);
        assert!(holds(&state, &partner.ca));
    }
    assert_eq!(partner.hits.load(Ordering::SeqCst), hits);
}

#[tokio::test]
async fn an_outdated_initial_bundle_is_reported_and_a_new_one_mends_it() {
    let (partner, dir) = (Partner::start().await, tempfile::tempdir().unwrap());
    let federation = federation(&dir.path().join("kept.json"));
    let former = TestCa::new(PARTNER);
    federation.follow(&partner.registry(&document(&former, 1)));
    let state = soon(federation.refresh(&domain())).await.unwrap();
    assert!(state.error.contains("no root of trust domain"), "{}", state.error);
    assert!(state.held.as_ref().unwrap().is_initial && holds(&state, &former));
    federation.follow(&partner.registry(&document(&partner.ca, 1)));
    let state = soon(federation.refresh(&domain())).await.unwrap();
    assert!(state.error.is_empty() && holds(&state, &partner.ca), "{}", state.error);
}

#[tokio::test]
async fn what_was_fetched_survives_a_restart_and_is_what_the_endpoint_is_known_by() {
    let (partner, dir) = (Partner::start().await, tempfile::tempdir().unwrap());
    let kept = dir.path().join("kept.json");
    let initial = document(&partner.ca, 1);
    let (first, _) = federated(&partner, &kept).await;
    // By now the partner has another root, which no initial bundle knows.
    let new = TestCa::new(PARTNER);
    partner.does(Does::Serve(document(&new, 11)));
    let fetched = soon(first.refresh(&domain())).await.unwrap();
    let revision = fetched.held.unwrap().revision;
    while !std::fs::read_to_string(&kept).is_ok_and(|text| text.contains(&format!("\"revision\":{revision}")))
    {
        tokio::task::yield_now().await;
    }
    first.stop();
    *partner.generation.lock().unwrap() = generation(&new);
    let again = federation(&kept);
    again.follow(&partner.registry(&initial));
    let at_once = again.states()[&domain()].clone();
    assert!(holds(&at_once, &new) && at_once.confirmed_at > 0, "before the partner was asked");
    let state = soon(again.refresh(&domain())).await.unwrap();
    assert!(state.error.is_empty() && holds(&state, &new), "{}", state.error);
    // Another endpoint's bundle says nothing.
    let elsewhere = partner.registry(&initial);
    again.follow(&Registry::default());
    assert!(again.states().is_empty(), "who is no longer federated is forgotten");
    again.follow(&elsewhere);
    assert!(again.states()[&domain()].held.is_none(), "and begins anew");
}

#[tokio::test]
async fn a_bundle_that_trusts_nothing_is_believed() {
    let (partner, dir) = (Partner::start().await, tempfile::tempdir().unwrap());
    let (federation, _) = federated(&partner, &dir.path().join("kept.json")).await;
    partner.does(Does::Serve(r#"{"spiffe_sequence": 11, "keys": []}"#.into()));
    let state = soon(federation.refresh(&domain())).await.unwrap();
    assert!(state.error.is_empty() && root_of(&state).is_none());
    let state = soon(federation.refresh(&domain())).await.unwrap();
    assert!(state.error.contains("bring a new initial bundle"), "{}", state.error);
}

#[tokio::test]
async fn private_addresses_are_refused_unless_they_are_allowed() {
    let (partner, dir) = (Partner::start().await, tempfile::tempdir().unwrap());
    let client = Client::new(false, false, Duration::from_secs(2)).unwrap();
    let federation = Federation::new(client, &dir.path().join("kept.json"), Metrics::new().unwrap());
    federation.follow(&partner.registry(&document(&partner.ca, 1)));
    let state = soon(federation.refresh(&domain())).await.unwrap();
    assert!(state.error.contains("loopback"), "{}", state.error);
    assert_eq!(partner.hits.load(Ordering::SeqCst), 0);
}

// ---- our own endpoint ----

/// One request over TLS to our own endpoint, believed as `config` says.
async fn ask(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    method: &str,
    path: &str,
    tag: Option<&str>,
) -> Response<Bytes> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("bundle.demo.example").unwrap();
    let stream = TlsConnector::from(config).connect(name, tcp).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "bundle.demo.example");
    if let Some(tag) = tag {
        request = request.header("if-none-match", tag);
    }
    let answer = soon(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap())).await.unwrap();
    let (parts, body) = answer.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn our_bundle_is_served_to_anybody_and_nothing_else_is() {
    let mut plane =
        Plane::start_configured("bundle: {listen: '127.0.0.1:0', refreshHintSeconds: 60}\n").await;
    let member = plane.join(ORDERS, "sidecar").await;
    let ours = TrustDomain::parse("demo.signet").unwrap();
    let roots = member.svid.bundle.as_ref().unwrap().roots_der.iter().map(|der| der.as_slice().into());
    let roots = TrustBundle::new(ours.clone(), roots).unwrap();
    let config = bundle_client_config(roots.clone(), crate::harness::control_plane()).unwrap();
    let address = plane.bundle.unwrap();
    let get = async |method: &str, path: &str, tag: Option<&str>| {
        ask(address, Arc::clone(&config), method, path, tag).await
    };

    let answer = get("GET", "/bundle", None).await;
    let header = |answer: &Response<Bytes>, name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(
        (answer.status(), header(&answer, "content-type").as_str()),
        (StatusCode::OK, "application/json")
    );
    assert_eq!(header(&answer, "cache-control"), "no-cache");
    let read = Document::parse(&ours, answer.body()).unwrap();
    assert!(read.roots().unwrap().digests().eq(roots.digests()));
    assert_eq!(read.refresh_hint(), Some(Duration::from_secs(60)));
    assert!(read.sequence().is_some());

    let etag = header(&answer, "etag");
    let known = get("GET", "/bundle", Some(&etag)).await;
    assert_eq!((known.status(), known.body().len()), (StatusCode::NOT_MODIFIED, 0));
    let head = get("HEAD", "/bundle", None).await;
    assert_eq!((head.status(), head.body().len()), (StatusCode::OK, 0));
    assert_eq!(header(&head, "content-length"), answer.body().len().to_string());
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = get(method, "/bundle", None).await;
        assert_eq!(
            (refused.status(), header(&refused, "allow").as_str()),
            (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD")
        );
    }
    for path in ["/", "/bundle/", "/Bundle", "/crl/", "/crl/.crl", "/crl/00.crl", "/metrics"] {
        assert_eq!(get("GET", path, None).await.status(), StatusCode::NOT_FOUND, "{path}");
    }

    // The issuer's list, named by its serial, before and after a revocation.
    let issuer = signet_identity::Svid::parse(
        &member.svid.chain_der.iter().map(|der| der.as_slice().into()).collect::<Vec<_>>(),
    )
    .unwrap()
    .issuers[0]
        .serial;
    let list = get("GET", &format!("/crl/{issuer}.crl"), None).await;
    assert_eq!(
        (list.status(), header(&list, "content-type").as_str()),
        (StatusCode::OK, "application/pkix-crl")
    );
    let what = Some(v1::revoke_request::What::SpiffeId(ORDERS.into()));
    plane.operator.revoke(v1::RevokeRequest { what, reason: "test".into() }).await.unwrap();
    let longer = get("GET", &format!("/crl/{issuer}.crl"), None).await;
    assert!(longer.body().len() > list.body().len());
    assert_eq!(plane.metric("signet_control_plane_bundle_requests_total{code=\"304\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_flood_at_the_bundle_endpoint_is_limited_per_address() {
    let plane = Plane::start_configured("bundle: {listen: '127.0.0.1:0'}\n").await;
    let address = plane.bundle.unwrap();
    for _ in 0..80 {
        drop(TcpStream::connect(address).await.unwrap());
    }
    let limited = "signet_control_plane_connections_total{fate=\"address_limit\",listener=\"bundle\"}";
    while plane.metric(limited).await.is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn operators_see_what_is_held_and_export_our_own_document() {
    let (partner, plane) = (
        Partner::start().await,
        Plane::start_configured("federation: {allowPrivateAddresses: true}\n").await,
    );
    let initial = document(&partner.ca, 1);
    let federated = format!(
        "{}---\napiVersion: signet.mesh/v1alpha1\nkind: FederatedTrustDomain\nmetadata: {{name: partner}}\nspec:\n  \
         trustDomain: {PARTNER}\n  url: https://{}/bundle\n  profile:\n    https_spiffe:\n      \
         endpointId: spiffe://{PARTNER}/ns/signet-system/sa/signet-control-plane\n      \
         initialBundle: {{inline: '{initial}'}}\n",
        crate::harness::REGISTRY,
        partner.address
    );
    plane.edit(&federated);
    let mut client = plane.federation().await;
    let state = loop {
        let domains = client.list_federated(v1::ListFederatedRequest {}).await.unwrap().into_inner().domains;
        match domains.into_iter().next() {
            Some(state) if state.confirmed_at > 0 => break state,
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!(
        (state.trust_domain.as_str(), state.sequence, state.roots_sha256.len()),
        (PARTNER, Some(10), 1)
    );
    partner.does(Does::Fail);
    let request = |name: &str| v1::RefreshFederatedRequest { trust_domain: name.into() };
    let state = client.refresh_federated(request(PARTNER)).await.unwrap().into_inner();
    assert!(state.error.contains("got 500") && state.roots_sha256.len() == 1);
    let unknown = client.refresh_federated(request("nobody.example")).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    let line = format!(
        "signet_control_plane_federation_fetches_total{{result=\"status\",trust_domain=\"{PARTNER}\"}}"
    );
    assert_eq!(plane.metric(&line).await, Some(1.0));
    let exported = client.export_bundle(v1::ExportBundleRequest {}).await.unwrap().into_inner();
    let ours = TrustDomain::parse(&exported.trust_domain).unwrap();
    assert!(Document::parse(&ours, exported.document.as_bytes()).unwrap().roots().is_some());
    // No longer federated: gone at once.
    plane.edit(crate::harness::REGISTRY);
    while !client.list_federated(v1::ListFederatedRequest {}).await.unwrap().into_inner().domains.is_empty() {
        tokio::task::yield_now().await;
    }
    let up = format!("signet_control_plane_federation_up{{trust_domain=\"{PARTNER}\"}}");
    while plane.metric(&up).await.is_some() {
        tokio::task::yield_now().await;
    }
}
