//! A control plane whose root comes from outside: what it does without one, and how it goes on when there is one.

use std::path::Path;
use std::process::Command;

use signet_control_plane::listen::bootstrap::Limits;
use signet_control_plane::run;
use signet_daemon::Trigger;
use signet_proto::v1::{self, roots_client::RootsClient, rotation_client::RotationClient};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::harness::*;

struct Starting {
    dir: tempfile::TempDir,
    metrics: std::net::SocketAddr,
    trigger: Trigger,
    start: JoinHandle<Result<run::Running, run::StartError>>,
}

/// A free port, so that probes find the process before it has written down its addresses.
fn free() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn start(hierarchy: impl FnOnce(&Path) -> String) -> Starting {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("registry")).unwrap();
    write_registry(dir.path(), REGISTRY);
    let mut config = config_with(dir.path(), &format!("hierarchy: {}", hierarchy(dir.path())));
    let metrics = free();
    config.metrics_listen = Some(metrics);
    let (trigger, shutdown) = signet_daemon::shutdown::channel();
    let start = tokio::spawn(async move { run::start(&config, Limits::default(), shutdown).await });
    Starting { dir, metrics, trigger, start }
}

impl Starting {
    /// When the operator's door is open.
    async fn channel(&self) -> tonic::transport::Channel {
        let socket = self.dir.path().join("operator.sock");
        soon(async {
            while tokio::net::UnixStream::connect(&socket).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        socket_channel(&socket).await
    }

    async fn ready(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    async fn plane(self) -> Plane {
        let running = soon(self.start).await.unwrap().unwrap();
        Plane::of(running, self.trigger, self.dir).await
    }
}

fn openssl(dir: &Path, line: &str) {
    let done = Command::new("openssl").args(line.split(' ')).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
}

const NEW_ROOT: &str = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls.key -out tls.crt \
                        -days 3650 -subj /CN=Example -addext keyUsage=critical,keyCertSign,cRLSign";

#[tokio::test]
async fn without_a_root_it_is_alive_and_not_ready_and_an_import_opens_its_doors() {
    let starting = start(|_| "{root: external}".into());
    let channel = starting.channel().await;
    let ready = starting.ready().await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("there is no root yet"), "{ready}");
    let mut roots = RootsClient::new(channel.clone());
    let asked = roots.request_root(v1::RequestRootRequest {}).await.unwrap().into_inner();
    let listed = RotationClient::new(channel)
        .list_authorities(v1::ListAuthoritiesRequest {})
        .await
        .unwrap()
        .into_inner();
    let waiting = listed.authorities.iter().find(|one| one.kind == "root").unwrap();
    assert_eq!((waiting.phase.as_str(), &waiting.id), ("requested", &asked.id));

    let offline = tempfile::tempdir().unwrap();
    let folder = offline.path();
    std::fs::write(folder.join("request.pem"), &asked.request_pem).unwrap();
    openssl(folder, NEW_ROOT);
    std::fs::write(
        folder.join("extensions"),
        "basicConstraints=critical,CA:true,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign\n\
         subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName=URI:spiffe://demo.signet\n",
    )
    .unwrap();
    openssl(
        folder,
        "x509 -req -in request.pem -CA tls.crt -CAkey tls.key -CAcreateserial -days 365 -extfile extensions -out signed.pem",
    );
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let refused =
        roots.import_root(v1::ImportRootRequest { chain_pem: read("signed.pem") }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("expected two certificates"), "{}", refused.message());
    let chain_pem = read("signed.pem") + &read("tls.crt");
    let imported = roots.import_root(v1::ImportRootRequest { chain_pem }).await.unwrap().into_inner();
    assert_eq!((imported.phase.as_str(), imported.id), ("active", asked.id));

    let mut plane = starting.plane().await;
    // Who joins pins the offline root, and finds it.
    let web = plane.join(WEB, "sidecar").await;
    assert_eq!(web.svid.chain_der.len(), 3);
    assert_eq!(plane.token(ORDERS, "sidecar").await.root_sha256, imported.root_sha256);
    assert_eq!(plane.metric("signet_ca_authorities{kind=\"root\",phase=\"active\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_folder_that_is_filled_later_opens_the_doors() {
    let starting = start(|dir| format!("{{root: folder, folder: {}/root}}", dir.display()));
    drop(starting.channel().await);
    assert!(starting.ready().await.starts_with("HTTP/1.1 503"));
    let folder = starting.dir.path().join("root");
    std::fs::create_dir(&folder).unwrap();
    openssl(&folder, NEW_ROOT);
    let mut plane = starting.plane().await;
    plane.join(WEB, "sidecar").await;
    assert_eq!(plane.metric("signet_ca_root_folder_good").await, Some(1.0));
}

#[tokio::test]
async fn one_that_waits_for_its_root_ends_in_order_when_it_is_told_to() {
    let starting = start(|_| "{root: external}".into());
    drop(starting.channel().await);
    starting.trigger.drain();
    starting.trigger.stop();
    let ended = soon(starting.start).await.unwrap();
    assert!(matches!(ended.err(), Some(run::StartError::Ended)));
    assert!(!starting.dir.path().join("operator.sock").exists());
}
