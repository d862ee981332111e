//! Processes of a host, each told apart by the kernel's word: real ones, of several users, under several names.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use signet_identity::testing::TestCa;
use signet_identity::{PeerClass, Svid, TrustBundle};
use signet_proto::envoy::service::discovery::v3::DiscoveryRequest;
use signet_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use signet_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use signet_proto::spiffe::{
    JwtBundlesRequest, JwtsvidRequest, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
};
use signet_proto::v1;
use signet_tests::caller::{Caller, PERL, User};
use signet_tests::mesh::{Mesh, Sidecar, permit, service};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};

const ORDERS: &str = "spiffe://test.signet/ns/shop/sa/orders";
const WEB: &str = "spiffe://test.signet/ns/shop/sa/web";

fn workload(name: &str) -> String {
    format!(
        "kind: Workload\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{class: sidecar, workloadApi: true}}\n"
    )
}

fn entry(name: &str, selector: &str, identity: &str) -> String {
    format!(
        "kind: Registration\nmetadata: {{name: {name}}}\n\
         spec: {{unix: {{agents: [ns/hosts/sa/host-a], {selector}}}, identity: ns/shop/sa/{identity}}}\n"
    )
}

/// A host with an agent, and these entries for it.
struct Host {
    mesh: Mesh,
    programs: tempfile::TempDir,
}

impl Host {
    async fn start(entries: &[String]) -> Self {
        let mesh = Mesh::builder()
            .registry([workload("orders"), workload("web")].join("---\n"))
            .sidecar(Sidecar::agent("host-a.hosts"))
            .start()
            .await;
        // A way to the socket for everybody.
        std::fs::set_permissions(mesh.path("."), std::fs::Permissions::from_mode(0o711)).unwrap();
        let programs = tempfile::tempdir().unwrap();
        std::fs::set_permissions(programs.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let host = Self { mesh, programs };
        host.entries(entries);
        host
    }

    fn entries(&self, entries: &[String]) {
        // A file without a document says nothing.
        let documents = match entries {
            [] => "kind: Workload\nmetadata: {namespace: shop, name: nobody}\nspec: {class: sidecar}\n"
                .to_owned(),
            entries => entries.join("---\n"),
        };
        self.mesh.write_registry("entries.yaml", &documents);
    }

    fn socket(&self) -> PathBuf {
        self.mesh.workload_socket("host-a")
    }

    /// Perl under a name of its own, with something behind its end.
    fn program(&self, name: &str, behind: &[u8]) -> PathBuf {
        let path = self.programs.path().join(name);
        let mut content = std::fs::read(PERL).unwrap();
        content.extend_from_slice(behind);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn run(&self, program: &Path, user: &User) -> Caller {
        Caller::start(program, user, &self.socket())
    }

    /// Who such a process is: its first identities, or the refusal. While the registry's change is on its way a refusal
    /// may still become an identity, so whoever expects one says so.
    async fn who(&self, program: &Path, user: &User, expected: Option<&str>) -> Result<Vec<String>, Status> {
        loop {
            let process = self.run(program, user);
            let answer = svids(&process).await.message().await;
            match answer {
                Ok(Some(answer)) => return Ok(ids(&answer)),
                Ok(None) => panic!("the stream ended without a word"),
                Err(status) if expected.is_none() || status.code() != Code::PermissionDenied => {
                    return Err(status);
                }
                Err(_) => {}
            }
        }
    }

    async fn is(&self, program: &Path, user: &User, expected: &str) {
        let who = self.who(program, user, Some(expected)).await.unwrap();
        assert_eq!(who, [expected], "{} as {user:?}", program.display());
    }

    async fn is_nobody(&self, program: &Path, user: &User) {
        let status = self.who(program, user, None).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{} as {user:?}: {status}", program.display());
        assert!(status.message().starts_with("no identity issued"), "{status}");
    }
}

fn ids(answer: &X509svidResponse) -> Vec<String> {
    answer.svids.iter().map(|svid| svid.spiffe_id.clone()).collect()
}

async fn channel(process: &Caller) -> Channel {
    let stream = Arc::new(Mutex::new(Some(process.connection())));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.lock().unwrap().take();
        async move {
            let stream = stream.ok_or_else(|| std::io::Error::other("one connection, once"))?;
            tokio::net::UnixStream::from_std(stream).map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.expect("the socket")
}

fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", AsciiMetadataValue::from_static("true"));
    request
}

async fn svids_on(channel: Channel) -> Streaming<X509svidResponse> {
    let mut client = SpiffeWorkloadApiClient::new(channel);
    client.fetch_x509svid(asked(X509svidRequest {})).await.expect("a stream").into_inner()
}

async fn svids(process: &Caller) -> Streaming<X509svidResponse> {
    svids_on(channel(process).await).await
}

async fn end(stream: &mut Streaming<X509svidResponse>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn two_users_of_one_host_are_two_workloads_and_a_third_is_nobody() {
    let entries = [entry("orders", "uid: 1001", "orders"), entry("web", "uid: 1002, gid: 1002", "web")];
    let mut host = Host::start(&entries).await;
    let perl = Path::new(PERL);
    host.is(perl, &User::new(1001), ORDERS).await;
    host.is(perl, &User::new(1002), WEB).await;
    host.is_nobody(perl, &User { gid: 1001, ..User::new(1002) }).await;
    host.is_nobody(perl, &User::new(1003)).await;
    let process = host.run(perl, &User::new(1001));
    let first = svids(&process).await.message().await.unwrap().unwrap();
    let svid = leaf(&first.svids[0].x509_svid);
    assert_eq!(svid.class, PeerClass::Workload);
    host.mesh.assert_unharmed();
}

#[tokio::test]
async fn processes_that_start_together_each_have_a_key_of_their_own() {
    let mut host = Host::start(&[entry("orders", "uid: 1001", "orders")]).await;
    host.is(Path::new(PERL), &User::new(1001), ORDERS).await;
    let processes: Vec<Caller> = (0..60).map(|_| host.run(Path::new(PERL), &User::new(1001))).collect();
    let firsts = processes.iter().map(async |process| svids(process).await.message().await);
    let mut keys = std::collections::BTreeSet::new();
    for first in futures_util::future::join_all(firsts).await {
        let first = first.unwrap().unwrap();
        let svid = leaf(&first.svids[0].x509_svid);
        assert_eq!(svid.id.as_str(), ORDERS);
        keys.insert(*svid.key.as_bytes());
    }
    assert_eq!(keys.len(), processes.len());
    host.mesh.assert_unharmed();
}

#[tokio::test]
async fn users_and_groups_are_named_and_a_process_has_the_identity_of_each_entry_that_means_it() {
    let entries = [
        entry("orders", "user: daemon, group: daemon, supplementaryGids: [3001, 3002]", "orders"),
        entry("web", "group: daemon", "web"),
    ];
    let host = Host::start(&entries).await;
    let perl = Path::new(PERL);
    // daemon is 1 on every Debian.
    host.is(perl, &User::new(1), WEB).await;
    host.is(perl, &User { groups: vec![3001], ..User::new(1) }, WEB).await;
    let user = User { groups: vec![3000, 3001, 3002], ..User::new(1) };
    let who = host.who(perl, &user, Some(ORDERS)).await.unwrap();
    assert_eq!(who, [ORDERS, WEB], "the entry that asks most comes first");
    host.is_nobody(perl, &User::new(1001)).await;
}

#[tokio::test]
async fn a_copy_under_another_path_is_another_program_and_a_changed_one_has_another_digest() {
    let host = Host::start(&[]).await;
    let (named, copy) = (host.program("orders", b""), host.program("copy", b""));
    let user = User::new(1001);
    let digest = ring::digest::digest(&ring::digest::SHA256, &std::fs::read(PERL).unwrap());
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();

    host.entries(&[entry("orders", &format!("uid: 1001, path: {}", named.display()), "orders")]);
    host.is(&named, &user, ORDERS).await;
    host.is_nobody(&copy, &user).await;
    host.is_nobody(&named, &User::new(1002)).await;

    host.entries(&[entry("web", &format!("sha256: {digest}"), "web")]);
    host.is(&copy, &user, WEB).await;
    host.is(&named, &user, WEB).await;
    let changed = host.program("changed", b"!");
    host.is_nobody(&changed, &user).await;
    // Under the same name as well: nothing that was remembered of the old file counts for the new one.
    std::fs::remove_file(&copy).unwrap();
    host.is_nobody(&host.program("copy", b"!"), &user).await;

    // A program that was deleted has no path, and is still the program that it is.
    let mut process = host.run(&named, &user);
    std::fs::remove_file(&named).unwrap();
    let first = svids(&process).await.message().await.unwrap().unwrap();
    assert_eq!(ids(&first), [WEB]);
    process.end();
}

#[tokio::test]
async fn a_connection_outlived_by_its_process_gets_nothing_whoever_holds_it() {
    let host = Host::start(&[entry("orders", "uid: 1001", "orders")]).await;
    let (perl, user) = (Path::new(PERL), User::new(1001));
    host.is(perl, &user, ORDERS).await;
    // It ends between connecting and asking: its number is free for anybody.
    let mut process = host.run(perl, &user);
    let held = channel(&process).await;
    process.end();
    let mut client = SpiffeWorkloadApiClient::new(held);
    match client.fetch_x509svid(asked(X509svidRequest {})).await {
        // It ended even before the agent took its connection.
        Err(status) => assert_ne!(status.code(), Code::Ok),
        Ok(stream) => {
            let status = stream.into_inner().message().await.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        }
    }
    // It ends while it is served: the stream ends with it.
    let mut process = host.run(perl, &user);
    let held = channel(&process).await;
    let mut stream = svids_on(held.clone()).await;
    stream.message().await.unwrap().expect("an identity");
    process.end();
    let status = end(&mut stream).await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued: the process has ended")
    );
    let mut client = SpiffeWorkloadApiClient::new(held);
    let request = asked(JwtsvidRequest { audience: vec!["db".into()], spiffe_id: String::new() });
    assert_eq!(client.fetch_jwtsvid(request).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_process_that_becomes_another_program_loses_what_it_had_and_gets_nothing_more() {
    let host = Host::start(&[entry("orders", "uid: 1001", "orders")]).await;
    let (perl, user) = (Path::new(PERL), User::new(1001));
    host.is(perl, &user, ORDERS).await;
    let mut process = host.run(perl, &user);
    let held = channel(&process).await;
    let mut stream = svids_on(held.clone()).await;
    stream.message().await.unwrap().expect("an identity");
    let mut client = SpiffeWorkloadApiClient::new(held);
    let request = || asked(JwtsvidRequest { audience: vec!["db".into()], spiffe_id: String::new() });
    let token = client.fetch_jwtsvid(request()).await.unwrap().into_inner();
    assert_eq!(token.svids[0].spiffe_id, ORDERS);
    process.becomes_another_program();
    // The same user, and by its entry the same identity: but not the program that connected.
    let status = client.fetch_jwtsvid(request()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("became another program"), "{status}");
    let status = end(&mut stream).await;
    assert!(status.message().contains("became another program"), "{status}");
}

#[tokio::test]
async fn an_entry_that_is_taken_back_ends_the_stream_and_one_that_comes_begins_another() {
    let entries = [entry("orders", "uid: 1001", "orders")];
    let host = Host::start(&entries).await;
    let (perl, user) = (Path::new(PERL), User::new(1001));
    host.is(perl, &user, ORDERS).await;
    let process = host.run(perl, &user);
    let held = channel(&process).await;
    let mut stream = svids_on(held.clone()).await;
    let first = stream.message().await.unwrap().expect("an identity");
    host.entries(&[]);
    let status = end(&mut stream).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("no Registration of this agent means this process"), "{status}");
    host.is_nobody(perl, &user).await;
    host.entries(&entries);
    host.is(perl, &user, ORDERS).await;
    // The process is still there, and its key is another one than that which was dropped.
    let again = loop {
        match svids_on(held.clone()).await.message().await {
            Ok(Some(again)) => break again,
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => assert_eq!(status.code(), Code::PermissionDenied, "{status}"),
        }
    };
    assert_ne!(first.svids[0].x509_svid_key, again.svids[0].x509_svid_key);
}

#[tokio::test]
async fn an_agent_that_is_revoked_serves_nobody_any_more() {
    let host = Host::start(&[entry("orders", "uid: 1001", "orders")]).await;
    let (perl, user) = (Path::new(PERL), User::new(1001));
    host.is(perl, &user, ORDERS).await;
    let process = host.run(perl, &user);
    let mut stream = svids(&process).await;
    let first = stream.message().await.unwrap().expect("an identity");
    let agent = "spiffe://test.signet/ns/hosts/sa/host-a".to_owned();
    let request =
        v1::RevokeRequest { what: Some(v1::revoke_request::What::SpiffeId(agent)), reason: "stolen".into() };
    host.mesh.operator().await.revoke(request).await.unwrap();
    let status = end(&mut stream).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    host.is_nobody(perl, &user).await;
    // What it vouched for is not believed any more either, though it has not ended.
    let serial = leaf(&first.svids[0].x509_svid).serial;
    let logs = host.mesh.logs();
    let revoked = logs.contains("vouched_for=") && !logs.contains("vouched_for=0");
    assert!(revoked, "{serial} was not revoked:\n{logs}");
}

/// A partner's trust domain, whose bundle is at hand; nobody answers at its endpoint.
fn partner() -> (String, TrustBundle) {
    let bundle = TestCa::new("partner.test").bundle();
    let keys = signet_token::Jwks::of([signet_token::SigningKey::generate().unwrap().public_jwk().clone()]);
    let document = signet_bundle::write(&bundle, &keys, 1, std::time::Duration::from_secs(60));
    let federated = format!(
        "kind: FederatedTrustDomain\nmetadata: {{name: partner}}\nspec:\n  trustDomain: partner.test\n  url: https://127.0.0.1:1/bundle\n  \
         profile:\n    https_spiffe:\n      endpointId: spiffe://partner.test/ns/a/sa/b\n      \
         initialBundle: {{inline: '{document}'}}\n"
    );
    (federated, bundle)
}

/// Until a message has, or has not, something of this trust domain.
async fn bundles_until(
    stream: &mut Streaming<X509BundlesResponse>,
    domain: &str,
    there: bool,
) -> Option<Vec<u8>> {
    loop {
        let told = stream.message().await.unwrap().expect("the stream goes on");
        assert!(told.bundles.contains_key("spiffe://test.signet"), "the own roots are always there");
        if told.bundles.contains_key(domain) == there {
            return told.bundles.get(domain).cloned();
        }
    }
}

#[tokio::test]
async fn a_process_is_given_the_bundle_of_a_partner_that_may_call_it_and_loses_it_with_the_policy() {
    let (federated, bundle) = partner();
    let host = Host::start(&[entry("orders", "uid: 1001", "orders")]).await;
    let (perl, user) = (Path::new(PERL), User::new(1001));
    host.is(perl, &user, ORDERS).await;
    let process = host.run(perl, &user);
    let channel = channel(&process).await;
    let mut client = SpiffeWorkloadApiClient::new(channel.clone());
    let told = client.fetch_x509_bundles(asked(X509BundlesRequest {})).await.expect("a stream");
    let mut told = told.into_inner();
    bundles_until(&mut told, "spiffe://partner.test", false).await;
    let served = service("orders", "shop", "main", "http", "127.0.0.1:15008");
    let may = permit("partner-may", "shop", "orders", "'spiffe://partner.test/ns/shop/sa/caller'", "");
    host.mesh.write_registry("partner.yaml", &[&*federated, &*served, &*may].join("---\n"));
    let given = bundles_until(&mut told, "spiffe://partner.test", true).await.expect("its roots");
    let root = bundle.roots().next().expect("a root");
    assert!(given == root.as_ref(), "the roots that the document has");

    // The same by Envoy's protocol, under the name of the trust domain.
    let mut sds = SecretDiscoveryServiceClient::new(channel);
    let ask = DiscoveryRequest {
        resource_names: vec!["spiffe://partner.test".into()],
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".into(),
        ..DiscoveryRequest::default()
    };
    let secrets = sds.fetch_secrets(ask.clone()).await.expect("its roots as a secret").into_inner();
    assert_eq!(secrets.resources.len(), 1);
    // And by tokens of its own.
    let keys = client.fetch_jwt_bundles(asked(JwtBundlesRequest {})).await.expect("a stream");
    let keys = keys.into_inner().message().await.unwrap().expect("keys");
    assert!(keys.bundles.contains_key("spiffe://partner.test"), "{:?}", keys.bundles.keys());

    host.mesh.write_registry("partner.yaml", &[&*federated, &*served].join("---\n"));
    bundles_until(&mut told, "spiffe://partner.test", false).await;
    let status = sds.fetch_secrets(ask).await.expect_err("a name that it may not have any more");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

/// The leaf of what the Workload API sends: certificates in DER, one behind the other, each longer than 255 bytes and
/// shorter than 64 KiB.
fn leaf(mut der: &[u8]) -> Svid {
    let mut chain = Vec::new();
    while let [0x30, 0x82, high, low, ..] = *der {
        let length = 4 + usize::from(u16::from_be_bytes([high, low]));
        let (one, rest) = der.split_at(length);
        chain.push(rustls_pki_types::CertificateDer::from(one.to_vec()));
        der = rest;
    }
    Svid::parse(&chain).expect("an SVID")
}
