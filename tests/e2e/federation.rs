//! Two meshes in two trust domains that federate, and a partner whose root changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{PeerClass, TrustBundle};
use signet_proto::v1::{ExportBundleRequest, FederatedStatus, ListFederatedRequest, RefreshFederatedRequest};
use signet_tests::apps::{Echo, greeter};
use signet_tests::client::{get, text};
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::PATIENCE;
use signet_tests::svid::Svid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const NAME: &str = "server.shop.signet.internal";

pub(crate) async fn exported(mesh: &Mesh) -> String {
    mesh.federation().await.export_bundle(ExportBundleRequest {}).await.unwrap().into_inner().document
}

async fn state(mesh: &Mesh, domain: &str) -> Option<FederatedStatus> {
    let listed = mesh.federation().await.list_federated(ListFederatedRequest {}).await.unwrap().into_inner();
    listed.domains.into_iter().find(|state| state.trust_domain == domain)
}

/// Waits until the mesh holds this many roots of a domain, confirmed by its endpoint.
pub(crate) async fn held(mesh: &Mesh, domain: &str, roots: usize) -> FederatedStatus {
    let end = Instant::now() + PATIENCE;
    loop {
        match state(mesh, domain).await {
            Some(state) if state.confirmed_at > 0 && state.roots_sha256.len() == roots => return state,
            other => assert!(Instant::now() < end, "{roots} roots of {domain}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn spiffe_endpoint(domain: &str, address: &str, initial: &str) -> String {
    format!(
        "kind: FederatedTrustDomain\nmetadata: {{name: partner}}\nspec:\n  trustDomain: {domain}\n  url: https://{address}/bundle\n  \
         profile:\n    https_spiffe:\n      endpointId: spiffe://{domain}/ns/signet-system/sa/signet-control-plane\n      \
         initialBundle: {{inline: '{initial}'}}\n"
    )
}

fn web_endpoint(domain: &str, address: &str, authorities: &str) -> String {
    format!(
        "kind: FederatedTrustDomain\nmetadata: {{name: partner}}\nspec: {{trustDomain: {domain}, url: 'https://{address}/bundle', \
         profile: {{https_web: {{caFile: {authorities}}}}}}}\n"
    )
}

async fn connect(config: Arc<rustls::ClientConfig>, address: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::try_from(NAME).unwrap(), tcp).await
}

/// What comes back for these bytes until the end; empty where the connection is refused.
async fn ask(config: &Arc<rustls::ClientConfig>, address: &str, request: &str) -> String {
    let mut answer = Vec::new();
    let talk = async {
        let mut tls = connect(config.clone(), address).await?;
        tls.write_all(request.as_bytes()).await?;
        tls.read_to_end(&mut answer).await
    };
    let _ = tokio::time::timeout(PATIENCE, talk).await.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Asks until the answer is what it should be: what was written into a registry takes a moment to arrive.
async fn until_answered(
    config: &Arc<rustls::ClientConfig>,
    address: &str,
    request: &str,
    status: &str,
) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = ask(config, address, request).await;
        if answer.starts_with(status) {
            return answer;
        }
        assert!(Instant::now() < end, "{status:?} was expected, came:\n{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `a.test` serves its bundle as a web site does, `b.test` by its own SVID.
struct Two {
    a: Mesh,
    b: Mesh,
    app: Echo,
    /// The client's listener in `a.test`, which leads to the server in `b.test`.
    entry: String,
    inbound: String,
    stream: String,
}

async fn two() -> Two {
    let folder = tempfile::tempdir().unwrap().keep();
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(params.clone(), &authority);
    let key = rcgen::KeyPair::generate().unwrap();
    let site = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let site = site.signed_by(&key, &issuer).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    std::fs::write(path("ca.pem"), params.self_signed(&authority).unwrap().pem()).unwrap();
    std::fs::write(path("site.pem"), site.pem()).unwrap();
    std::fs::write(path("site.key"), key.serialize_pem()).unwrap();
    std::fs::set_permissions(path("site.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::set_permissions(path("ca.pem"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();

    let app = Echo::start().await;
    let (entry, inbound, stream) = (free_address(), free_address(), free_address());
    let (bundle_a, bundle_b) = (free_address(), free_address());
    let allow = "federation: {allowPrivateAddresses: true}\n";
    let greeter = greeter().await;
    let (a, b) = tokio::join!(
        Mesh::builder()
            .trust_domain("a.test")
            .control_plane(&format!(
                "{allow}bundle: {{listen: '{bundle_a}', tls: {{certFile: {}, keyFile: {}}}}}\n",
                path("site.pem"),
                path("site.key")
            ))
            .registry("kind: Workload\nmetadata: {namespace: shop, name: insider}\nspec: {class: sidecar}\n")
            .registry("kind: Workload\nmetadata: {namespace: shop, name: stranger}\nspec: {class: sidecar}\n")
            .sidecar(Sidecar::new(
                "client.shop",
                format!("outbound: [{{listen: '{entry}', service: server.partners, port: main}}]\n"),
            ))
            .start(),
        Mesh::builder()
            .trust_domain("b.test")
            .default_action("allow")
            .control_plane(&format!("{allow}bundle: {{listen: '{bundle_b}', refreshHintSeconds: 60}}\n"))
            .registry(service("server", "shop", "main", "http", &inbound))
            .registry(
                service("stream", "shop", "main", "tcp", &stream)
                    .replace("sa/stream", "sa/server")
                    .replace("spec:\n", "spec:\n  identities: [ns/shop/sa/server]\n")
            )
            .sidecar(Sidecar::new(
                "server.shop",
                format!(
                    "inbound:\n- {{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}\n\
                     - {{service: stream.shop, port: main, listen: '{stream}', app: 'tcp:{greeter}'}}\n",
                    app.address
                ),
            ))
            .start(),
    );
    let initial = exported(&b).await;
    let (host, port) = inbound.rsplit_once(':').unwrap();
    a.write_registry(
        "federation.yaml",
        &format!(
            "{}---\nkind: Service\nmetadata: {{namespace: partners, name: server}}\nspec:\n  \
             federatedIdentity: spiffe://b.test/ns/shop/sa/server\n  ports: [{{name: main, port: 80, protocol: http}}]\n  \
             endpoints: [{{address: {host}, ports: {{main: {port}}}}}]\n",
            spiffe_endpoint("b.test", &bundle_b, &initial)
        ),
    );
    b.write_registry("federation.yaml", &web_endpoint("a.test", &bundle_a, &path("ca.pem")));
    held(&a, "b.test", 1).await;
    held(&b, "a.test", 1).await;
    Two { a, b, app, entry, inbound, stream }
}

fn partner_may() -> String {
    let from = "'spiffe://a.test/ns/shop/sa/client', 'spiffe://a.test/ns/shop/sa/insider'";
    format!(
        "{}---\n{}",
        permit("partner-may", "shop", "server", from, "  to: {paths: [/public, '/carry/{rest=**}']}\n"),
        permit("partner-streams", "shop", "stream", "'spiffe://a.test/ns/shop/sa/insider'", "")
    )
}

#[tokio::test]
async fn two_trust_domains_federate_over_both_profiles_and_policy_alone_lets_anybody_in() {
    let mut two = two().await;
    let insider = Svid::join(&two.a, "spiffe://a.test/ns/shop/sa/insider", "sidecar").await;
    let stranger = Svid::join(&two.a, "spiffe://a.test/ns/shop/sa/stranger", "sidecar").await;
    let native = Svid::join(&two.b, "spiffe://b.test/ns/shop/sa/server", "sidecar").await;
    let alpn: &[&[u8]] = &[b"signet-http/1.1"];
    let caller = insider.client_of(native.root(), alpn);
    let request =
        |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n");

    // Federated and nothing more: the sidecar was not even given the bundle, though the mesh's default is to allow.
    assert_eq!(ask(&caller, &two.inbound, &request("/public", "")).await, "");
    // A failure is counted after the close.
    let end = Instant::now() + PATIENCE;
    while !two.b.metrics("server").await.contains("reason=\"wrong_trust_domain\"") {
        assert!(Instant::now() < end, "the handshake failed for another reason");
    }
    two.b.write_registry("policy.yaml", &partner_may());
    let forged = "Txn-Token: forged\r\nSignet-User: e30\r\nX-Forwarded-Client-Cert: URI=spiffe://b.test/ns/shop/sa/admin\r\n";
    let answer = until_answered(&caller, &two.inbound, &request("/public", forged), "HTTP/1.1 200").await;
    // What it says of users and callers is dropped; who it is, is said by the sidecar.
    let seen = two.app.last();
    assert!(seen["headers"]["txn-token"].is_null() && seen["headers"]["signet-user"].is_null(), "{answer}");
    let xfcc = seen["headers"]["x-forwarded-client-cert"].to_string();
    assert!(xfcc.contains("URI=spiffe://a.test/ns/shop/sa/insider") && !xfcc.contains("admin"), "{xfcc}");
    // Known, and not named; named, and not for this.
    let denied = ask(&stranger.client_of(native.root(), alpn), &two.inbound, &request("/public", "")).await;
    assert!(denied.starts_with("HTTP/1.1 403"), "{denied}");
    let denied = ask(&caller, &two.inbound, &request("/private", "")).await;
    assert!(denied.starts_with("HTTP/1.1 403"), "{denied}");
    let id = denied.to_lowercase().split_once("signet-decision-id: ").unwrap().1[..32].to_owned();
    let told = two.b.explain(&id).await;
    assert_eq!(told["facts"]["peer"], "spiffe://a.test/ns/shop/sa/insider");

    // The other way through two sidecars: an app of a.test calls a service of b.test by its own sidecar.
    let end = Instant::now() + PATIENCE;
    let answer = loop {
        let answer = get(&two.entry, "/public", &[("txn-token", "forged")]).await;
        if answer.status() == 200 {
            break answer;
        }
        assert!(Instant::now() < end, "{} {}", answer.status(), text(&answer));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(text(&answer).contains("URI=spiffe://a.test/ns/shop/sa/client"), "{}", text(&answer));
    assert_eq!(get(&two.entry, "/private", &[]).await.status(), 403);

    // The end of the federation ends what is open, and lets nobody in again.
    let config = insider.client_of(native.root(), &[b"signet-tcp"]);
    let mut open = connect(config.clone(), &two.stream).await.unwrap();
    let mut hello = [0; 6];
    tokio::time::timeout(PATIENCE, open.read_exact(&mut hello)).await.unwrap().unwrap();
    assert_eq!(&hello, b"hello\n");
    std::fs::remove_file(two.b.path("registry/policy.yaml")).unwrap();
    std::fs::remove_file(two.b.path("registry/federation.yaml")).unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, open.read_to_end(&mut rest)).await.expect("the stream was closed");
    assert!(rest.is_empty());
    assert_eq!(ask(&caller, &two.inbound, &request("/public", "")).await, "");
    assert!(state(&two.b, "a.test").await.is_none());
    two.a.assert_unharmed();
    two.b.assert_unharmed();
}

/// A partner that is not Signet: an authority, and a server that hands out what it is told to.
struct Partner {
    address: String,
    document: Arc<std::sync::Mutex<String>>,
}

const PARTNER: &str = "partner.test";

impl Partner {
    async fn start(ca: &TestCa, document: String) -> Self {
        let options =
            SvidOptions::default().at_wall_clock().changed(|params| params.custom_extensions.clear());
        let (chain, key) = ca.chain(&format!("spiffe://{PARTNER}/bundle"), PeerClass::Workload, options);
        let config = rustls::ServerConfig::builder_with_provider(signet_identity::crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let document = Arc::new(std::sync::Mutex::new(document));
        let served = document.clone();
        tokio::spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else { return };
                let (acceptor, served) = (acceptor.clone(), served.clone());
                tokio::spawn(async move {
                    let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        if tls.read_exact(&mut byte).await.is_err() {
                            return;
                        }
                        head.push(byte[0]);
                    }
                    let text = served.lock().unwrap().clone();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                        text.len()
                    );
                    let _ = tls.write_all(answer.as_bytes()).await;
                    let _ = tls.shutdown().await;
                });
            }
        });
        Self { address, document }
    }
}

/// A client of the partner's, without a class of Signet's.
fn client(ca: &TestCa, root: &CertificateDer<'static>) -> Arc<rustls::ClientConfig> {
    let options = SvidOptions::default().at_wall_clock().changed(|params| params.custom_extensions.clear());
    let (chain, key) = ca.chain(&format!("spiffe://{PARTNER}/caller"), PeerClass::Workload, options);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

#[tokio::test]
async fn a_partners_new_root_arrives_within_its_hint_and_no_handshake_fails() {
    const HINT: Duration = Duration::from_secs(5);
    let (old, new) = (TestCa::new(PARTNER), TestCa::new(PARTNER));
    let write = |bundle: &TrustBundle, sequence| {
        signet_bundle::write(bundle, &signet_token::Jwks::default(), sequence, HINT)
    };
    let first = write(&old.bundle(), 1);
    let partner = Partner::start(&old, first.clone()).await;
    let (app, inbound) = (Echo::start().await, free_address());
    let mut mesh = Mesh::builder()
        .control_plane("federation: {allowPrivateAddresses: true}\n")
        .registry(service("server", "shop", "main", "http", &inbound))
        .registry(
            spiffe_endpoint(PARTNER, &partner.address, &first)
                .replace("ns/signet-system/sa/signet-control-plane", "bundle"),
        )
        .registry(permit("partner-may", "shop", "server", &format!("'spiffe://{PARTNER}/caller'"), ""))
        .registry("kind: Workload\nmetadata: {namespace: shop, name: probe}\nspec: {class: sidecar}\n")
        .sidecar(Sidecar::new(
            "server.shop",
            format!(
                "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
                app.address
            ),
        ))
        .start()
        .await;
    let probe = Svid::join(&mesh, "spiffe://test.signet/ns/shop/sa/probe", "sidecar").await;
    let root = probe.root();
    let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (by_old, by_new) = (client(&old, &root), client(&new, &root));
    held(&mesh, PARTNER, 1).await;
    until_answered(&by_old, &inbound, request, "HTTP/1.1 200").await;
    assert_eq!(ask(&by_new, &inbound, request).await, "", "nobody told of this root yet");

    // Whoever has a certificate under the old root goes on through all of it.
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let (config, address) = (by_old.clone(), inbound.clone());
    let traffic = tokio::spawn(async move {
        let (mut made, mut failed) = (0, 0);
        while !*stopped.borrow_and_update() {
            let good = ask(&config, &address, request).await.starts_with("HTTP/1.1 200");
            made += 1;
            failed += usize::from(!good);
        }
        (made, failed)
    });
    let both =
        TrustBundle::new(old.trust_domain().clone(), [old.root().clone(), new.root().clone()]).unwrap();
    *partner.document.lock().unwrap() = write(&both, 2);
    let published = Instant::now();
    let state = held(&mesh, PARTNER, 2).await;
    // The hint, and what two busy cores may add.
    assert!(published.elapsed() < HINT + Duration::from_secs(3), "{:?}", published.elapsed());
    assert_eq!(state.sequence, Some(2));
    // As the standard says: a new key is used three hints after it was published.
    tokio::time::sleep_until((published + HINT * 3).into()).await;
    for _ in 0..20 {
        let answer = ask(&by_new, &inbound, request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    stop.send(true).unwrap();
    let (made, failed) = traffic.await.unwrap();
    assert!(made > 20 && failed == 0, "{failed} of {made} failed");

    // The old root goes, and with it who is vouched for by it alone.
    *partner.document.lock().unwrap() = write(&new.bundle(), 3);
    let refresh = RefreshFederatedRequest { trust_domain: PARTNER.into() };
    mesh.federation().await.refresh_federated(refresh).await.unwrap();
    let end = Instant::now() + PATIENCE;
    while !ask(&by_old, &inbound, request).await.is_empty() {
        assert!(Instant::now() < end, "the old root is still believed");
    }
    assert!(ask(&by_new, &inbound, request).await.starts_with("HTTP/1.1 200"));
    mesh.assert_unharmed();
}
