//! A peer that is revoked by more than its name: its lineage, or the pod that was attested. Whatever it holds open at a
//! sidecar ends, by every protocol, and it gets nothing new; another holder of the same identity goes on. With two
//! control planes on one store it does not matter which of them is told.

use std::process::Command;

use rustls_pki_types::ServerName;
use signet_identity::{Serial, Svid as Facts};
use signet_proto::v1::attest_request::Evidence;
use signet_proto::v1::revoke_request::What;
use signet_proto::v1::{
    AttestRequest, KubernetesEvidence, ListIssuancesRequest, ListSidecarsRequest, RevokeRequest,
};
use signet_tests::apiserver::{ApiServer, PodOf};
use signet_tests::apps::{Echo, greeter};
use signet_tests::mesh::{Mesh, MeshBuilder, Sidecar, free_address, permit};
use signet_tests::peers::{run, said};
use signet_tests::postgres::Postgres;
use signet_tests::process::{PATIENCE, binary};
use signet_tests::svid::{Svid, bootstrap, request_for};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Connection = TlsStream<TcpStream>;

/// What a peer speaks, how it is named in the handshake, and the first words of it.
const PROTOCOLS: [(&str, &[u8], &[u8]); 3] = [
    ("http1", b"signet-http/1.1", b"GET /first HTTP/1.1\r\nhost: web\r\n\r\n"),
    ("http2", b"signet-h2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    ("tcp", b"signet-tcp", b"x"),
];

/// A service with an inbound of each protocol.
struct Door {
    name: &'static str,
    inbounds: [String; 3],
    /// What the registry says of it.
    documents: String,
    sidecar: Sidecar,
}

/// The apps behind all doors, and the API server of the cluster where pods run.
struct Scene {
    echo: Echo,
    bytes: String,
    api: ApiServer,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self {
            echo: Echo::start().await,
            bytes: greeter().await,
            api: ApiServer::start().await,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A mesh where `lost` and `pod` may call these services.
    fn mesh(&self, doors: &[&Door]) -> MeshBuilder {
        let workload = |name| {
            format!("kind: Workload\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{class: sidecar}}\n")
        };
        let callers = ["lost", "pod"].map(workload);
        let servers = doors.iter().flat_map(|door| [workload(door.name), door.documents.clone()]);
        let documents: Vec<String> = callers.into_iter().chain(servers).collect();
        Mesh::builder()
            .registry(documents.join("---\n"))
            .control_plane(&self.api.configuration(self.folder.path(), ""))
    }

    fn door(&self, name: &'static str) -> Door {
        let inbounds = [free_address(), free_address(), free_address()];
        let ports: Vec<_> = (80..)
            .zip(PROTOCOLS)
            .map(|(number, (it, ..))| format!("{{name: {it}, port: {number}, protocol: {it}}}"))
            .collect();
        let each = PROTOCOLS.iter().zip(&inbounds);
        let numbers: Vec<_> =
            each.clone().map(|((it, ..), at)| format!("{it}: {}", at.rsplit_once(':').unwrap().1)).collect();
        let service = format!(
            "kind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  ports: [{}]\n  \
             endpoints: [{{address: 127.0.0.1, ports: {{{}}}, identity: ns/shop/sa/{name}}}]\n",
            ports.join(", "),
            numbers.join(", ")
        );
        let may = permit(&format!("{name}-open"), "shop", name, "ns/shop/sa/*", "");
        let listeners: Vec<_> = each
            .map(|((it, ..), at)| {
                let app = if *it == "tcp" { &self.bytes } else { &self.echo.address };
                format!("{{service: {name}.shop, port: {it}, listen: '{at}', app: 'tcp:{app}'}}")
            })
            .collect();
        let config = format!("inbound: [{}]\n", listeners.join(", "));
        let sidecar = Sidecar::new(&format!("{name}.shop"), config);
        Door { name, inbounds, documents: [service, may].join("---\n"), sidecar }
    }

    /// A certificate for a pod, by its token.
    async fn arrive(&self, mesh: &Mesh, pod: &PodOf) -> Svid {
        self.api.run(pod);
        // Where to go and whom to expect is the same for all.
        let bundle = mesh.join_bundle("spiffe://test.signet/ns/shop/sa/lost", "sidecar").await;
        let key = rcgen::KeyPair::generate().unwrap();
        let token = self.api.token(pod, "signet-ca");
        let evidence = Some(Evidence::Kubernetes(KubernetesEvidence { token }));
        let request = AttestRequest { csr_der: request_for(&key), evidence };
        let issued =
            bootstrap(&bundle).await.attest(request).await.expect("a pod's certificate").into_inner();
        Svid { key, issued }
    }
}

/// A live connection of a peer to one door.
enum Held {
    /// HTTP/1.1 between two requests, or a stream of bytes.
    Plain(Box<Connection>, &'static [u8]),
    /// HTTP/2 with a request under way.
    Http2 {
        sender: h2::client::SendRequest<bytes::Bytes>,
        _open: h2::SendStream<bytes::Bytes>,
        end: JoinHandle<()>,
    },
}

impl Held {
    /// Fails the test unless the connection carries one more exchange.
    async fn goes_on(&mut self) {
        match self {
            Self::Plain(connection, words) => {
                connection.write_all(words).await.expect("the connection is open");
                assert!(read(connection).await > 0, "the connection is open");
            }
            Self::Http2 { sender, .. } => assert_eq!(ask(sender).await, 200),
        }
    }

    async fn ends(self) {
        let end = async {
            match self {
                Self::Plain(mut connection, _) => while read(&mut connection).await > 0 {},
                Self::Http2 { end, .. } => end.await.expect("it ends in order"),
            }
        };
        timeout(PATIENCE, end).await.expect("the connection of a revoked peer ends");
    }
}

/// How many bytes came; none at the end, however it comes.
async fn read(connection: &mut Connection) -> usize {
    timeout(PATIENCE, connection.read(&mut [0; 4096])).await.expect("an answer or an end").unwrap_or(0)
}

async fn ask(sender: &mut h2::client::SendRequest<bytes::Bytes>) -> u16 {
    let request = http::Request::get("http://web/first").body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).expect("room for a request");
    timeout(PATIENCE, answer).await.expect("an answer").expect("an answer").status().as_u16()
}

async fn dial(svid: &Svid, door: &Door, protocol: usize) -> std::io::Result<Connection> {
    let (_, alpn, _) = PROTOCOLS[protocol];
    let name = ServerName::try_from(format!("{}.shop.signet.internal", door.name)).unwrap();
    let tcp = TcpStream::connect(&door.inbounds[protocol]).await?;
    TlsConnector::from(svid.foreign_client(&[alpn])).connect(name, tcp).await
}

/// A connection by each protocol, each of them used once.
async fn hold(svid: &Svid, door: &Door) -> Vec<Held> {
    let mut all = Vec::new();
    for (protocol, (name, _, words)) in PROTOCOLS.into_iter().enumerate() {
        let connection = dial(svid, door, protocol).await.expect("a handshake");
        let mut held = match name {
            "http2" => {
                let (mut sender, connection) = h2::client::handshake(connection).await.expect("HTTP/2");
                let end = tokio::spawn(async move {
                    let _ = connection.await;
                });
                let request = http::Request::post("http://web/open").body(()).unwrap();
                let (_, open) = sender.send_request(request, false).expect("room for a request");
                Held::Http2 { sender, _open: open, end }
            }
            _ => Held::Plain(Box::new(connection), words),
        };
        held.goes_on().await;
        all.push(held);
    }
    all
}

/// Whether each door lets this peer in once more, protocol by protocol.
async fn is_let_in(svid: &Svid, door: &Door) -> [bool; 3] {
    let mut answers = [false; 3];
    for (protocol, (_, _, words)) in PROTOCOLS.into_iter().enumerate() {
        let Ok(mut connection) = dial(svid, door, protocol).await else { continue };
        // The client is done with the handshake before the server has judged it.
        let _ = connection.write_all(words).await;
        answers[protocol] = read(&mut connection).await > 0;
    }
    answers
}

fn serial(svid: &Svid) -> Serial {
    Facts::parse(&svid.chain()).unwrap().serial
}

/// The lineage of a certificate, as an operator finds it in the log.
async fn lineage_of(mesh: &Mesh, svid: &Svid) -> What {
    let serial = serial(svid).to_string();
    let records = mesh.operator().await.list_issuances(ListIssuancesRequest { limit: 1_000 }).await;
    let records = records.unwrap().into_inner().records;
    let issued =
        records.into_iter().find(|it| it.event == "issued" && it.serial == serial).expect("its record");
    let words = issued.reason.strip_prefix("lineage ").expect("the lineage comes first");
    What::Lineage(words.chars().take_while(char::is_ascii_hexdigit).collect())
}

fn because(what: What) -> RevokeRequest {
    RevokeRequest { what: Some(what), reason: "taken over".into() }
}

/// Every connection of theirs ends, and none begins; whoever is not meant notices nothing.
async fn is_cut_off(revoked: (&Svid, Vec<Held>), doors: &[&Door], other: (&Svid, &mut Vec<Held>)) {
    for held in revoked.1 {
        held.ends().await;
    }
    for door in doors {
        assert_eq!(is_let_in(revoked.0, door).await, [false; 3], "{}", door.name);
        assert_eq!(is_let_in(other.0, door).await, [true; 3], "{}", door.name);
    }
    for held in other.1 {
        held.goes_on().await;
    }
}

async fn hold_at(svid: &Svid, doors: &[&Door]) -> Vec<Held> {
    let mut all = Vec::new();
    for door in doors {
        all.extend(hold(svid, door).await);
    }
    all
}

const LOST: &str = "spiffe://test.signet/ns/shop/sa/lost";

#[tokio::test]
async fn a_revoked_lineage_and_a_revoked_pod_lose_every_connection_and_get_no_new_one() {
    let scene = Scene::new().await;
    let web = scene.door("web");
    let mut mesh = scene.mesh(&[&web]).start().await;
    mesh.join(web.sidecar.clone()).await;
    let (lost, other) = (Svid::join(&mesh, LOST, "sidecar").await, Svid::join(&mesh, LOST, "sidecar").await);
    let (pod, beside) = (PodOf::new("pod.shop"), PodOf::new("pod.shop").named("pod-2"));
    let (in_pod, in_other) = (scene.arrive(&mesh, &pod).await, scene.arrive(&mesh, &beside).await);
    let mut operator = mesh.operator().await;
    let doors = [&web];

    let mut kept = hold_at(&other, &doors).await;
    let held = hold_at(&lost, &doors).await;
    operator.revoke(because(lineage_of(&mesh, &lost).await)).await.unwrap();
    is_cut_off((&lost, held), &doors, (&other, &mut kept)).await;

    let mut kept = hold_at(&in_other, &doors).await;
    let held = hold_at(&in_pod, &doors).await;
    operator.revoke(because(What::Instance(format!("main/{}", pod.uid)))).await.unwrap();
    is_cut_off((&in_pod, held), &doors, (&in_other, &mut kept)).await;
    mesh.assert_unharmed();
}

/// Two control planes on one store, and a door at a sidecar of each.
struct Two {
    // Ended before its database: fields are dropped in this order.
    mesh: Mesh,
    web: Door,
    store: Door,
    scene: Scene,
    _postgres: Postgres,
}

impl Two {
    /// None where there is no PostgreSQL.
    async fn start() -> Option<Self> {
        let postgres = Postgres::start().await?;
        let scene = Scene::new().await;
        let (web, store) = (scene.door("web"), scene.door("store"));
        let builder = scene.mesh(&[&web, &store]).control_plane(&postgres.configuration());
        let mut mesh = builder.start().await;
        mesh.start_replica("second").await;
        mesh.join(web.sidecar.clone()).await;
        mesh.join_at("second", store.sidecar.clone()).await;
        Some(Self { mesh, web, store, scene, _postgres: postgres })
    }
}

#[tokio::test]
async fn a_revocation_given_at_one_control_plane_closes_connections_at_the_sidecars_of_the_other() {
    let Some(Two { mut mesh, web, store, scene, _postgres }) = Two::start().await else { return };
    for (mut operator, own) in [(mesh.operator().await, "web"), (mesh.operator_of("second").await, "store")] {
        let connected = operator.list_sidecars(ListSidecarsRequest {}).await.unwrap().into_inner().sidecars;
        let ids: Vec<_> = connected.iter().map(|it| it.spiffe_id.rsplit('/').next().unwrap()).collect();
        assert_eq!(ids, [own], "each control plane has its own sidecar");
    }
    let (lost, other) = (Svid::join(&mesh, LOST, "sidecar").await, Svid::join(&mesh, LOST, "sidecar").await);
    let pod = PodOf::new("pod.shop");
    let in_pod = scene.arrive(&mesh, &pod).await;
    let doors = [&web, &store];
    let mut kept = hold_at(&other, &doors).await;

    let held = hold_at(&lost, &doors).await;
    let what = because(lineage_of(&mesh, &lost).await);
    mesh.operator_of("second").await.revoke(what).await.unwrap();
    is_cut_off((&lost, held), &doors, (&other, &mut kept)).await;

    let held = hold_at(&in_pod, &doors).await;
    let what = because(What::Instance(format!("main/{}", pod.uid)));
    mesh.operator().await.revoke(what).await.unwrap();
    is_cut_off((&in_pod, held), &doors, (&other, &mut kept)).await;
    mesh.assert_unharmed();
}

/// `signet ca revoke` of this pod at the first control plane; whether it ended well, and what it said.
async fn revoke_and_wait(mesh: &Mesh, pod: &str, wait: &str) -> (bool, String) {
    let mut command = Command::new(binary("signet"));
    command.arg("--socket").arg(mesh.path("op.sock")).args(["ca", "revoke", "--instance", pod]);
    command.args(["--reason", "taken over"]).arg(format!("--wait={wait}"));
    let output = run(command).await;
    (output.status.success(), said(&output))
}

#[tokio::test]
async fn revoke_waits_for_the_sidecars_of_every_control_plane_and_names_those_that_are_behind() {
    let Some(Two { mut mesh, web, store, scene, _postgres }) = Two::start().await else { return };
    let pods = ["pod-1", "pod-2"].map(|name| PodOf::new("pod.shop").named(name));
    let [first, second] = pods.each_ref().map(|pod| format!("main/{}", pod.uid));
    let in_pod = scene.arrive(&mesh, &pods[0]).await;
    let (good, told) = revoke_and_wait(&mesh, &first, "1m").await;
    assert!(
        good && told.contains("every connected sidecar goes by it (2 sidecars, 2 control planes)"),
        "{told}"
    );
    // What it said is so: there is nothing left to wait for.
    for door in [&web, &store] {
        assert_eq!(is_let_in(&in_pod, door).await, [false; 3], "{}", door.name);
    }

    let in_pod = scene.arrive(&mesh, &pods[1]).await;
    mesh.sidecar("store").signal(libc::SIGSTOP);
    let (good, told) = revoke_and_wait(&mesh, &second, "1s").await;
    assert!(!good && told.contains("The revocation stands"), "{told}");
    assert!(
        told.contains("sidecars of control plane second: spiffe://test.signet/ns/shop/sa/store"),
        "{told}"
    );
    assert!(!told.contains("this control plane"), "its own are not behind: {told}");
    assert_eq!(is_let_in(&in_pod, &web).await, [false; 3]);
    mesh.sidecar("store").signal(libc::SIGCONT);
    // Told again, it is the same revocation.
    let (good, told) = revoke_and_wait(&mesh, &second, "1m").await;
    assert!(good, "{told}");
    assert_eq!(is_let_in(&in_pod, &store).await, [false; 3]);

    // A control plane that ends in good order has no sidecars any more, and nobody waits for it.
    let mut replica = mesh.replicas.remove("second").expect("a replica");
    replica.terminate();
    assert!(replica.wait().await.success());
    let (good, told) = revoke_and_wait(&mesh, &first, "1m").await;
    assert!(good && told.contains("(1 sidecar, 1 control plane)"), "{told}");
    mesh.assert_unharmed();
}
