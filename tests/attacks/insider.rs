//! Whoever is inside already: an app that runs beside its sidecar, and a holder of a valid certificate.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls_pki_types::ServerName;
use signet_proto::v1::{RevokeRequest, revoke_request};
use signet_tests::client::{get, header, send, text};
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::PATIENCE;
use signet_tests::svid::Svid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::scene::Scene;

const NAME: &str = "server.shop.signet.internal";
const ATTACKER: &str = "spiffe://test.signet/ns/shop/sa/attacker";

async fn connect(
    config: Arc<rustls::ClientConfig>,
    address: &str,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::try_from(name).unwrap(), tcp).await
}

/// What comes back for these bytes; as much as came, where the connection breaks.
async fn exchange(tls: &mut TlsStream<TcpStream>, bytes: &[u8]) -> String {
    let mut answer = Vec::new();
    let talk = async {
        tls.write_all(bytes).await?;
        tls.read_to_end(&mut answer).await
    };
    let _ = tokio::time::timeout(PATIENCE, talk).await.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

/// An app that keeps every byte that it is sent, and answers each connection once.
async fn recorder() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let keep = keep.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let ended = {
                        let mut kept = keep.lock().unwrap();
                        kept.extend_from_slice(&buffer[..read]);
                        kept.ends_with(b"\r\n\r\n") && kept.windows(5).any(|five| five == b"\r\n0\r\n")
                    };
                    if ended {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                        let _ = stream.write_all(answer).await;
                        return;
                    }
                }
            });
        }
    });
    (address, kept)
}

/// The app of one pod was told a token by the app of another, which has it by right.
#[tokio::test]
async fn a_token_of_another_pod_brings_no_user() {
    let mut scene = Scene::start().await;
    let credential = format!("Bearer {}", scene.issuer.token("alice", "read"));
    while get(&scene.gateway, "/", &[("authorization", &credential)]).await.status() == 503 {}
    let answer = get(&scene.gateway, "/", &[("authorization", &credential)]).await;
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    let token = scene.app.last()["headers"]["txn-token"][0].as_str().unwrap().to_owned();
    for name in ["txn-token", "Txn-Token", "TXN_TOKEN", "txn_token"] {
        let forged = [(name, token.as_str()), ("signet-context", "forwarded"), ("signet-user", "alice")];
        let answer = get(&scene.outbound, "/as-alice", &forged).await;
        assert_eq!(answer.status(), 200, "{}", text(&answer));
        let seen = scene.app.last();
        assert_eq!(seen["path"], "/as-alice");
        for identity in ["txn-token", "txn_token", "signet-user", "signet-context"] {
            assert!(seen["headers"].get(identity).is_none(), "{name}: {seen}");
        }
    }
    scene.assert_unharmed().await;
}

/// By head, by trailer, by a `Connection` header that names what is ours: as a peer and as an app.
#[tokio::test]
async fn forged_names_in_trailers_and_connection_headers_never_arrive() {
    let (app, kept) = recorder().await;
    let (inbound, outbound) = (free_address(), free_address());
    let mut mesh = Mesh::builder()
        .registry(service("server", "shop", "main", "http", &inbound))
        .registry(permit("client-may", "shop", "server", "ns/shop/sa/client", ""))
        .registry(permit("attacker-may", "shop", "server", "ns/shop/sa/attacker", ""))
        .registry("kind: Workload\nmetadata: {namespace: shop, name: attacker}\nspec: {class: sidecar}\n")
        .sidecar(Sidecar::new(
            "server.shop",
            format!(
                "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{app}'}}]\n"
            ),
        ))
        .sidecar(Sidecar::new(
            "client.shop",
            format!("outbound: [{{listen: '{outbound}', service: server.shop, port: main}}]\n"),
        ))
        .start()
        .await;
    let request = b"POST /forged HTTP/1.1\r\nhost: server\r\n\
        connection: close, x-forwarded-client-cert, signet-user, txn-token, signet-context\r\n\
        signet_user: mallory\r\nSIGNET-USER: mallory\r\nX_Forwarded_Client_Cert: mallory\r\n\
        transfer-encoding: chunked\r\ntrailer: signet-user, txn-token\r\n\r\n\
        5\r\nhello\r\n0\r\nSignet-User: mallory\r\ntxn_token: mallory\r\nTxn-Token: mallory\r\n\
        x-forwarded_client-cert: mallory\r\nSignet-Decision-Id: mallory\r\nauthorization: mallory\r\nx-kept: yes\r\n\r\n";
    let attacker = Svid::join(&mesh, ATTACKER, "sidecar").await;
    let mut tls = connect(attacker.foreign_client(&[b"signet-http/1.1"]), &inbound, NAME).await.unwrap();
    let answers = [exchange(&mut tls, request).await, {
        let answer = signet_tests::client::raw(&outbound, request).await;
        String::from_utf8_lossy(&answer).into_owned()
    }];
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200")), "{answers:?}");
    let kept = String::from_utf8_lossy(&kept.lock().unwrap()).into_owned();
    assert_eq!(kept.matches("POST /forged").count(), 2, "{kept}");
    assert_eq!(kept.matches("x-kept: yes").count(), 2, "what is nobody's passes: {kept}");
    assert!(!kept.contains("mallory"), "{kept}");
    for caller in ["/sa/attacker", "/sa/client"] {
        assert!(kept.contains(caller), "the caller is said by us: {kept}");
    }
    mesh.assert_unharmed();
}

/// A port for requests takes no bytes, no other HTTP, and skips no rule for a client that leaves the choice open.
#[tokio::test]
async fn the_protocol_that_a_peer_chooses_skips_no_rule() {
    let mut scene = Scene::start().await;
    let attacker = Svid::join(&scene.mesh, ATTACKER, "sidecar").await;
    let private = b"GET /private HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";
    for alpn in [&b"signet-tcp"[..], b"signet-h2", b"h2", b"http/1.0", b"signet-http/1.1 "] {
        let refused = match connect(attacker.foreign_client(&[alpn]), &scene.inbound, NAME).await {
            Err(_) => true,
            Ok(mut tls) => exchange(&mut tls, private).await.is_empty(),
        };
        assert!(refused, "{}", String::from_utf8_lossy(alpn));
    }
    let offers: [&[&[u8]]; 3] = [&[], &[b"signet-tcp", b"http/1.1"], &[b"h2", b"signet-http/1.1"]];
    for offer in offers {
        let mut tls = connect(attacker.foreign_client(offer), &scene.inbound, NAME).await.unwrap();
        let answer = exchange(&mut tls, private).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{offer:?}: {answer:?}");
        // HTTP/2 by prior knowledge on the same port is no request at all.
        let mut tls = connect(attacker.foreign_client(offer), &scene.inbound, NAME).await.unwrap();
        let answer = exchange(&mut tls, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        assert!(answer.starts_with("HTTP/1.1 505 "), "{offer:?}: {answer:?}");
    }
    // The name in the hello chooses nothing either: who answers is decided by the port.
    for name in ["other.shop.signet.internal", "victim.edge.signet.internal"] {
        let answer = match connect(attacker.foreign_client(&[b"signet-http/1.1"]), &scene.inbound, name).await
        {
            Err(_) => continue,
            Ok(mut tls) => exchange(&mut tls, private).await,
        };
        assert!(answer.starts_with("HTTP/1.1 403 ") || answer.is_empty(), "{name}: {answer:?}");
    }
    assert_eq!(scene.app.seen(), 0);
    scene.assert_unharmed().await;
}

/// The session of a full handshake is offered again after the certificate was revoked.
#[tokio::test]
async fn a_session_is_not_resumed_after_its_certificate_was_revoked() {
    let mut scene = Scene::start().await;
    let attacker = Svid::join(&scene.mesh, ATTACKER, "sidecar").await;
    let config = attacker.foreign_client(&[b"signet-http/1.1"]);
    let public = b"GET /public HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut tls = connect(config.clone(), &scene.inbound, NAME).await.unwrap();
        let answer = exchange(&mut tls, public).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        kinds.push(tls.get_ref().1.handshake_kind());
    }
    assert_eq!(kinds[1], Some(rustls::HandshakeKind::Resumed), "the attack needs a session: {kinds:?}");
    let what = revoke_request::What::SpiffeId(ATTACKER.into());
    let request = RevokeRequest { what: Some(what), reason: "test".into() };
    scene.mesh.operator().await.revoke(request).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "a revoked certificate is still served");
        let Ok(mut tls) = connect(config.clone(), &scene.inbound, NAME).await else { break };
        if exchange(&mut tls, public).await.is_empty() {
            break;
        }
    }
    let seen = scene.app.seen();
    for _ in 0..5 {
        if let Ok(mut tls) = connect(config.clone(), &scene.inbound, NAME).await {
            assert_eq!(exchange(&mut tls, public).await, "");
        }
    }
    assert_eq!(scene.app.seen(), seen);
    scene.assert_unharmed().await;
}

/// A header block that never ends, on a connection of a peer that is permitted.
#[tokio::test]
async fn a_header_block_without_an_end_is_cut() {
    let app = signet_tests::apps::Echo::start().await;
    let inbound = free_address();
    let mut mesh = Mesh::builder()
        .registry(service("server", "shop", "main", "http2", &inbound))
        .registry(permit("attacker-may", "shop", "server", "ns/shop/sa/attacker", ""))
        .registry("kind: Workload\nmetadata: {namespace: shop, name: attacker}\nspec: {class: sidecar}\n")
        .sidecar(Sidecar::new(
            "server.shop",
            format!(
                "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
                app.address
            ),
        ))
        .start()
        .await;
    let attacker = Svid::join(&mesh, ATTACKER, "sidecar").await;
    let tls = connect(attacker.foreign_client(&[b"signet-h2"]), &inbound, NAME).await.unwrap();
    let (mut read, mut write) = tokio::io::split(tls);
    let reader = tokio::spawn(async move {
        let mut heard = Vec::new();
        let _ = read.read_to_end(&mut heard).await;
        heard
    });
    // RFC 9113, 4.1: length, type, flags, stream. HEADERS without END_HEADERS, then CONTINUATION for ever, each with
    // one small literal field (RFC 7541, 6.2.2).
    write
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x82")
        .await
        .unwrap();
    let field = b"\0\0\x06\x09\0\0\0\0\x01\x00\x01a\x02bc";
    let mut sent = 0usize;
    let flood = async {
        while write.write_all(&field.repeat(64)).await.is_ok() {
            sent += 64;
            assert!(sent < 2_000_000, "the flood is taken without end");
        }
    };
    tokio::time::timeout(PATIENCE, flood).await.expect("the connection is cut");
    let heard = tokio::time::timeout(PATIENCE, reader).await.expect("an end").unwrap();
    assert!(heard.len() < 4096, "{} bytes were answered", heard.len());
    assert_eq!(app.seen(), 0);
    mesh.assert_unharmed();
}

/// What another user of the machine, or a scraper of metrics, may see and do.
#[tokio::test]
async fn nothing_secret_and_no_lever_lies_beside_the_processes() {
    let mut scene = Scene::start().await;
    // Over TCP there are metrics and readiness, and no lever.
    for process in ["server", "gw", "cp"] {
        let address = scene.mesh.addresses(process)["metrics"].as_str().unwrap().to_owned();
        for path in ["/config", "/loglevel", "/shutdown", "/debug/pprof", "/peers", "/metrics/../config", "/"]
        {
            for method in ["GET", "POST", "PUT"] {
                let answer = send(method, &address, path, &[], "trace").await;
                assert!(
                    (400..500).contains(&answer.status().as_u16()),
                    "{process} {method} {path}: {answer:?}"
                );
            }
        }
        let answer = send("POST", &address, "/metrics", &[], "").await;
        assert!(!answer.status().is_success(), "{process}");
        assert_eq!(get(&address, "/ready", &[]).await.status(), 200, "{process}");
        assert_eq!(header(&get(&address, "/metrics", &[]).await, "server"), "", "{process}");
    }
    // Nobody else may read what the processes wrote, and nobody may write to it.
    fn look(path: &Path, found: &mut Vec<String>) {
        let metadata = std::fs::symlink_metadata(path).unwrap();
        // The root certificate and the audit key's public half are for everybody to read.
        let closed = if path.ends_with("root.pem") || path.ends_with("audit.pem") { 0o022 } else { 0o077 };
        if metadata.permissions().mode() & closed != 0 {
            found.push(format!("{:o} {}", metadata.permissions().mode(), path.display()));
        }
        if metadata.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                look(&entry.unwrap().path(), found);
            }
        }
    }
    let mut found = Vec::new();
    for part in ["cp", "seal.key", "op.sock", "server/data", "server/admin.sock", "gw/data", "gw/admin.sock"]
    {
        look(&scene.mesh.path(part), &mut found);
    }
    assert!(found.is_empty(), "{found:#?}");
    // No secret in the process list or the environment, and no memory in a core file.
    let tokens: Vec<String> = ["server", "gw"]
        .map(|name| std::fs::read_to_string(scene.mesh.path(name).join("join.json")).unwrap())
        .iter()
        .map(|text| {
            serde_json::from_str::<serde_json::Value>(text).unwrap()["token"].as_str().unwrap().to_owned()
        })
        .collect();
    let processes = scene.mesh.sidecars.values().chain(&scene.mesh.control_plane);
    for process in processes {
        let folder = Path::new("/proc").join(process.pid().to_string());
        let read =
            |name: &str| String::from_utf8_lossy(&std::fs::read(folder.join(name)).unwrap()).into_owned();
        let told = read("cmdline") + &read("environ");
        assert!(tokens.iter().all(|token| !told.contains(token.as_str())), "{told}");
        let limits = read("limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        let log = process.log();
        assert!(tokens.iter().all(|token| !log.contains(token.as_str())), "a join token stands in a log");
        assert!(!log.contains("PRIVATE KEY"), "a key stands in a log");
    }
    scene.assert_unharmed().await;
}
