//! The socket from outside: real connections, real gRPC, a provider that does what a test tells it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prometheus::Registry;
use signet_daemon::{ManualClock, Trigger};
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Bundles as X509Bundles, PeerClass, RevocationList, Serial, SpiffeId, Svid};
use signet_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use signet_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use signet_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use signet_proto::spiffe::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
};
use signet_token::{Jwks, SigningKey, jwt_svid};
use signet_workload::{
    Bounds, Bundles, Caller, Identity, JwtBundle, JwtSvid, Listen, Metrics, Provider, Refused, Served, State,
};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request};

const NOW: i64 = 1_800_000_000;

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("nothing happened in time")
}

struct Fake {
    ours: TestCa,
    theirs: TestCa,
    key: SigningKey,
    state: watch::Sender<State>,
    callers: Mutex<Vec<Caller>>,
    /// Revocation lists, DER.
    lists: Mutex<Vec<Vec<u8>>>,
}

#[tonic::async_trait]
impl Provider for Fake {
    fn serve(&self, caller: &Caller) -> watch::Receiver<State> {
        self.callers.lock().unwrap().push(*caller);
        self.state.subscribe()
    }

    async fn jwt_svids(
        &self,
        _: &Caller,
        audiences: Vec<String>,
        wanted: Option<SpiffeId>,
    ) -> Result<Vec<JwtSvid>, Refused> {
        let spiffe_id = self.ours.id("ns/shop/sa/web");
        if wanted.is_some_and(|wanted| wanted != spiffe_id) {
            return Err(Refused::Denied("not yours".into()));
        }
        let now = u64::try_from(NOW).unwrap();
        let terms = jwt_svid::Terms {
            subject: spiffe_id.as_str(),
            audiences: &audiences,
            issued_at: now,
            expires_at: now + 300,
        };
        let token = jwt_svid::sign(&self.key, &terms).unwrap();
        Ok(vec![JwtSvid { spiffe_id, token, hint: String::new() }])
    }
}

impl Fake {
    fn new() -> Arc<Self> {
        let ours = TestCa::new("demo.signet");
        let fake = Self {
            lists: Mutex::new(vec![ours.revocation_list(&[])]),
            ours,
            theirs: TestCa::new("other.mesh"),
            key: SigningKey::generate().unwrap(),
            state: watch::Sender::new(State::Waiting),
            callers: Mutex::default(),
        };
        fake.rotate();
        Arc::new(fake)
    }

    /// A new certificate, with a new key.
    fn rotate(&self) {
        let id = self.ours.id("ns/shop/sa/web");
        let svid = self.ours.svid(&id, PeerClass::Workload, SvidOptions::default());
        let x509 = X509Bundles::new([self.ours.bundle(), self.theirs.bundle()]).unwrap();
        let keys = JwtBundle::new(&Jwks::of([self.key.public_jwk().clone()]));
        let jwt = BTreeMap::from([(self.ours.trust_domain().clone(), keys)]);
        let lists = self.lists.lock().unwrap().clone();
        let crls = lists.iter().map(|der| RevocationList::parse(der).unwrap()).collect();
        let served = Served {
            identities: vec![Identity { svid, hint: String::new() }],
            bundles: Bundles { x509: Arc::new(x509), jwt: Arc::new(jwt), crls },
        };
        self.state.send_replace(State::Served(Arc::new(served)));
    }
}

struct Server {
    fake: Arc<Fake>,
    path: PathBuf,
    registry: Registry,
    trigger: Trigger,
    _dir: tempfile::TempDir,
}

fn serve() -> Server {
    serve_with(|_| ())
}

fn serve_with(change: impl FnOnce(&mut Listen)) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("workload.sock");
    let listener = signet_daemon::bind_private_socket(&path).unwrap();
    let (fake, registry) = (Fake::new(), Registry::new());
    let (trigger, shutdown) = signet_daemon::shutdown::channel();
    let mut listen = Listen {
        provider: fake.clone(),
        clock: Arc::new(ManualClock::at(NOW)),
        metrics: Metrics::new(&registry).unwrap(),
        uids: None,
        bounds: Bounds::default(),
        shutdown,
    };
    change(&mut listen);
    tokio::spawn(signet_workload::listen(listener, listen));
    Server { fake, path, registry, trigger, _dir: dir }
}

impl Server {
    async fn try_channel(&self) -> Result<Channel, tonic::transport::Error> {
        let path = self.path.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connector).await
    }

    async fn api(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.try_channel().await.unwrap())
    }

    async fn sds(&self) -> SecretDiscoveryServiceClient<Channel> {
        SecretDiscoveryServiceClient::new(self.try_channel().await.unwrap())
    }

    fn count(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metrics = family.get_metric().iter();
        let of = metrics.filter(|metric| metric.get_label().iter().any(|pair| pair.value() == label));
        of.map(|metric| metric.get_counter().get_value()).sum()
    }
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", AsciiMetadataValue::from_static("true"));
    request
}

fn certificates(concatenated: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut all) = (concatenated, Vec::new());
    while let [0x30, 0x82, high, low, ..] = *rest {
        let length = 4 + usize::from(high) * 256 + usize::from(low);
        let (one, others) = rest.split_at(length);
        all.push(one.to_vec());
        rest = others;
    }
    assert!(rest.is_empty(), "DER certificates and nothing between");
    all
}

#[tokio::test]
async fn an_app_gets_its_identity_and_hears_of_its_rotation() {
    let server = serve();
    let mut api = server.api().await;
    let mut stream = soon(api.fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap().into_inner();
    let first = soon(stream.message()).await.unwrap().unwrap();
    let [svid] = first.svids.as_slice() else { panic!("one identity") };
    assert_eq!(svid.spiffe_id, "spiffe://demo.signet/ns/shop/sa/web");
    let chain = certificates(&svid.x509_svid);
    assert_eq!(chain.len(), 2, "leaf and issuer, no root");
    assert_eq!(
        Svid::parse(&chain.iter().map(|der| der.as_slice().into()).collect::<Vec<_>>()).unwrap().class,
        PeerClass::Workload
    );
    assert_eq!(certificates(&svid.bundle), [server.fake.ours.root().to_vec()]);
    assert_eq!(first.federated_bundles["spiffe://other.mesh"], server.fake.theirs.root().to_vec());
    assert_eq!(first.federated_bundles.len(), 1);
    assert_eq!(first.crl, *server.fake.lists.lock().unwrap());
    server.fake.rotate();
    let second = soon(stream.message()).await.unwrap().unwrap();
    assert_ne!(second.svids[0].x509_svid_key, svid.x509_svid_key);
    // What is told to everybody has not changed, and the stream of it is silent.
    let mut bundles =
        soon(api.fetch_x509_bundles(with_header(X509BundlesRequest {}))).await.unwrap().into_inner();
    assert_eq!(soon(bundles.message()).await.unwrap().unwrap().bundles.len(), 2);
    server.fake.rotate();
    soon(stream.message()).await.unwrap().unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(100), bundles.message()).await;
    assert!(silent.is_err(), "told again what did not change");
}

#[tokio::test]
async fn a_new_revocation_list_is_told_on_both_streams_as_it_was_signed() {
    let server = serve();
    let mut api = server.api().await;
    let mut svids = soon(api.fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap().into_inner();
    let mut bundles =
        soon(api.fetch_x509_bundles(with_header(X509BundlesRequest {}))).await.unwrap().into_inner();
    let before = server.fake.lists.lock().unwrap().clone();
    assert_eq!(soon(svids.message()).await.unwrap().unwrap().crl, before);
    assert_eq!(soon(bundles.message()).await.unwrap().unwrap().crl, before);
    // Two issuers of one authority have a list each.
    let list = |serials: &[Serial]| server.fake.ours.revocation_list(serials);
    let after = vec![list(&[Serial::fresh().unwrap()]), list(&[])];
    server.fake.lists.lock().unwrap().clone_from(&after);
    server.fake.rotate();
    assert_eq!(soon(svids.message()).await.unwrap().unwrap().crl, after);
    assert_eq!(soon(bundles.message()).await.unwrap().unwrap().crl, after);
}

#[tokio::test]
async fn the_header_is_wanted_exactly_once_and_true() {
    let server = serve();
    let mut api = server.api().await;
    for values in [&[][..], &["false"], &["TRUE"], &["true", "true"], &[""]] {
        let mut request = Request::new(X509svidRequest {});
        for value in values {
            request.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
        }
        let status = soon(api.fetch_x509svid(request)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{values:?}");
    }
    let status = soon(api.fetch_jwtsvid(JwtsvidRequest::default())).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = soon(api.validate_jwtsvid(ValidateJwtsvidRequest::default())).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_app_that_loses_its_right_is_told_so_and_its_stream_ends() {
    let server = serve();
    let mut api = server.api().await;
    let mut stream = soon(api.fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap().into_inner();
    soon(stream.message()).await.unwrap().unwrap();
    server.fake.state.send_replace(State::Refused("the registry says no"));
    let status = soon(stream.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "no identity issued: the registry says no");
    let mut again = soon(api.fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap().into_inner();
    assert_eq!(soon(again.message()).await.unwrap_err().code(), Code::PermissionDenied);
    let mut sds = server.sds().await;
    let status = soon(sds.fetch_secrets(DiscoveryRequest::default())).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn who_asks_before_there_is_anything_waits_a_little_and_is_told_to_come_back() {
    let server = serve_with(|listen| listen.bounds.first = Duration::from_millis(200));
    server.fake.state.send_replace(State::Waiting);
    let mut api = server.api().await;
    let mut stream = api.fetch_x509svid(with_header(X509svidRequest {})).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
    let status =
        api.validate_jwtsvid(with_header(ValidateJwtsvidRequest { audience: "db".into(), svid: "x".into() }));
    assert_eq!(status.await.unwrap_err().code(), Code::Unavailable);
    let mut stream = api.fetch_x509svid(with_header(X509svidRequest {})).await.unwrap().into_inner();
    server.fake.rotate();
    stream.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn tokens_are_fetched_and_judged() {
    let server = serve();
    let mut api = server.api().await;
    let ask = |audience: &[&str], id: &str| {
        let audience = audience.iter().map(|it| (*it).to_owned()).collect();
        with_header(JwtsvidRequest { audience, spiffe_id: id.into() })
    };
    let answer = soon(api.fetch_jwtsvid(ask(&["db"], ""))).await.unwrap().into_inner();
    let token = answer.svids[0].svid.clone();
    let mut bundles =
        soon(api.fetch_jwt_bundles(with_header(JwtBundlesRequest {}))).await.unwrap().into_inner();
    let bundles = soon(bundles.message()).await.unwrap().unwrap();
    let document = String::from_utf8(bundles.bundles["spiffe://demo.signet"].clone()).unwrap();
    assert_eq!(Jwks::parse(&document).unwrap().len(), 1);
    assert!(!document.contains("spiffe_"), "{document}");

    let validate = |audience: &str, svid: &str| {
        with_header(ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() })
    };
    let read = soon(api.validate_jwtsvid(validate("db", &token))).await.unwrap().into_inner();
    assert_eq!(read.spiffe_id, "spiffe://demo.signet/ns/shop/sa/web");
    let claims = read.claims.unwrap().fields;
    assert_eq!(claims.keys().collect::<Vec<_>>(), ["aud", "exp", "iat", "sub"]);
    for (audience, token) in
        [("cache", token.as_str()), ("", &token), ("db", ""), ("db", &token[..token.len() - 4])]
    {
        let status = soon(api.validate_jwtsvid(validate(audience, token))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{audience}");
    }
    for (audience, id, code) in [
        (&[][..], "", Code::InvalidArgument),
        (&["db", "db"], "", Code::InvalidArgument),
        (&["db"], "not an id", Code::InvalidArgument),
        (&["db"], "spiffe://demo.signet/ns/shop/sa/bank", Code::PermissionDenied),
    ] {
        let status = soon(api.fetch_jwtsvid(ask(audience, id))).await.unwrap_err();
        assert_eq!(status.code(), code, "{audience:?} {id}");
    }
}

#[tokio::test]
async fn a_jwt_svid_without_exp_is_refused() {
    let server = serve();
    let mut claims = serde_json::Map::new();
    claims.insert("sub".into(), "spiffe://demo.signet/ns/shop/sa/web".into());
    claims.insert("aud".into(), serde_json::json!(["db"]));
    let svid = server.fake.key.sign("JWT", serde_json::Map::new(), &claims).unwrap();
    let request = with_header(ValidateJwtsvidRequest { audience: "db".into(), svid });
    let status = soon(server.api().await.validate_jwtsvid(request)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "claim exp is missing"));
}

#[tokio::test]
async fn what_is_not_offered_is_unimplemented() {
    let server = serve();
    for path in [
        "/SpiffeWorkloadAPI/FetchWITSVID",
        "/SpiffeWorkloadAPI/FetchWITBundles",
        "/grpc.health.v1.Health/Check",
        "/signet.v1.Identity/Renew",
    ] {
        let mut client = tonic::client::Grpc::new(server.try_channel().await.unwrap());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<X509svidRequest, X509svidRequest>::default();
        let answer = client.unary(with_header(X509svidRequest {}), path.parse().unwrap(), codec);
        let answer: Result<tonic::Response<X509svidRequest>, _> = soon(answer).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn secrets_are_streamed_and_told_anew_when_they_change() {
    let server = serve();
    let mut sds = server.sds().await;
    let (say, said) = tokio::sync::mpsc::channel(4);
    let request = |names: &[&str], nonce: &str| DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    };
    let names = ["default", "ROOTCA"];
    say.send(request(&names, "")).await.unwrap();
    let said = tokio_stream::wrappers::ReceiverStream::new(said);
    let mut stream = soon(sds.stream_secrets(said)).await.unwrap().into_inner();
    let first = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(first.resources.len(), 2);
    say.send(request(&names, &first.nonce)).await.unwrap();
    server.fake.rotate();
    let second = soon(stream.message()).await.unwrap().unwrap();
    assert_ne!(first.version_info, second.version_info);
    say.send(request(&["spiffe://demo.signet/ns/shop/sa/bank"], &second.nonce)).await.unwrap();
    let status = soon(stream.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    let request = DeltaDiscoveryRequest::default();
    let stream = tokio_stream::iter([request]);
    // The client keeps its side open for as long as it listens.
    let stream = tokio_stream::StreamExt::chain(stream, tokio_stream::pending());
    let mut stream = soon(sds.delta_secrets(stream)).await.unwrap().into_inner();
    assert_eq!(soon(stream.message()).await.unwrap().unwrap().resources.len(), 3);
    server.fake.rotate();
    let changed = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(changed.resources.len(), 1, "only what changed");
}

#[tokio::test]
async fn the_kernel_says_who_calls() {
    let server = serve();
    let mut api = server.api().await;
    let mut stream = soon(api.fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap().into_inner();
    soon(stream.message()).await.unwrap().unwrap();
    // SAFETY: both take nothing, touch nothing and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let pid = i32::try_from(std::process::id()).ok();
    assert_eq!(server.fake.callers.lock().unwrap().as_slice(), [Caller { uid, gid, pid, connection: 1 }]);
}

#[tokio::test]
async fn a_peer_that_is_not_in_allowed_uids_is_hung_up_on() {
    // SAFETY: takes nothing, touches nothing and cannot fail.
    let own = unsafe { libc::geteuid() };
    let server = serve_with(|listen| listen.uids = Some(vec![own + 1]));
    let refused = match server.try_channel().await {
        Err(_) => true,
        Ok(channel) => {
            let mut api = SpiffeWorkloadApiClient::new(channel);
            soon(api.fetch_x509svid(with_header(X509svidRequest {}))).await.is_err()
        }
    };
    assert!(refused);
    assert!(server.count("signet_workload_connections_total", "uid_refused") >= 1.0);
    assert!(server.fake.callers.lock().unwrap().is_empty());
    let server = serve_with(|listen| listen.uids = Some(vec![own]));
    server.try_channel().await.unwrap();
}

/// A client that opens a stream and grants it a window of so many bytes.
async fn unread(server: &Server, window: u32) -> h2::client::Connection<UnixStream> {
    let socket = UnixStream::connect(&server.path).await.unwrap();
    let (mut send, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .handshake::<_, bytes::Bytes>(socket)
        .await
        .unwrap();
    let request = http::Request::post("http://localhost/SpiffeWorkloadAPI/FetchX509SVID")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("workload.spiffe.io", "true")
        .body(())
        .unwrap();
    let (response, mut body) = send.send_request(request, false).unwrap();
    body.send_data(bytes::Bytes::from_static(&[0, 0, 0, 0, 0]), true).unwrap();
    tokio::spawn(async move {
        let _kept = (send, response.await, std::future::pending::<()>().await);
    });
    connection
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_cut() {
    let server = serve_with(|listen| listen.bounds.unread = Duration::from_millis(200));
    // Nothing is taken, or the first message in part: the next ones wait, and the connection is cut.
    for window in [0, 10] {
        let connection = tokio::spawn(unread(&server, window).await);
        soon(async {
            while !connection.is_finished() {
                server.fake.rotate();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    // Whoever reads is served as before.
    let mut api = server.api().await;
    let mut stream = soon(api.fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap().into_inner();
    soon(stream.message()).await.unwrap().unwrap();
}

#[tokio::test]
async fn connections_and_messages_are_bounded() {
    let server = serve_with(|listen| listen.bounds.connections_of_uid = 2);
    let mut first = server.api().await;
    let mut second = server.api().await;
    for api in [&mut first, &mut second] {
        let mut stream =
            soon(api.fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap().into_inner();
        soon(stream.message()).await.unwrap().unwrap();
    }
    let third = match server.try_channel().await {
        Err(_) => true,
        Ok(channel) => {
            let mut api = SpiffeWorkloadApiClient::new(channel);
            soon(api.fetch_x509svid(with_header(X509svidRequest {}))).await.is_err()
        }
    };
    assert!(third, "a third connection of one uid");
    let long = JwtsvidRequest { audience: vec!["x".repeat(100_000)], spiffe_id: String::new() };
    let status = soon(first.fetch_jwtsvid(with_header(long))).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "not even decoded");
}

#[tokio::test]
async fn a_drain_ends_streams() {
    let server = serve();
    let mut api = server.api().await;
    let mut stream = soon(api.fetch_x509svid(with_header(X509svidRequest {}))).await.unwrap().into_inner();
    soon(stream.message()).await.unwrap().unwrap();
    server.trigger.drain();
    let ended = soon(stream.message()).await;
    assert!(!matches!(ended, Ok(Some(_))), "the stream goes on after the drain");
}
