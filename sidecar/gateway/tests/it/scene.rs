//! A gateway over real sockets, services behind it, each with its sidecar, and callers from outside.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::Registry;
use serde_json::{Value, json};
use signet_daemon::ManualClock;
use signet_gateway::{Compiled, Edge};
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Generation, GenerationOptions, PeerClass, RevocationSet};
use signet_model::{AnyRoute, Gateway, GivenRoutes, ObjectName};
use signet_policy::PolicySet;
use signet_proxy::decision::DecisionSink;
use signet_proxy::listener::{Bind, Kind, ListenerSpec};
use signet_proxy::stage::NoEdge;
use signet_proxy::state::{
    App, AppAddress, Calls, Doors, EndpointSpec, InboundPort, PortSpec, Protocol, Served, ServiceSpec, State,
    Timeouts, Tls, UserContext,
};
use signet_proxy::{Limits, Proxy, Running, Shared};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Longer than anything here takes; a hang fails.
const PATIENCE: Duration = Duration::from_secs(10);
static NUMBER: AtomicU64 = AtomicU64::new(1);

pub(crate) async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("it took too long")
}

fn generation(ca: &TestCa, short: &str, class: PeerClass) -> Arc<Generation> {
    let own = ca.svid(&ca.id(short), class, SvidOptions::default().at_wall_clock());
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Generation::build(number, own, ca.bundles(), GenerationOptions::default()).unwrap()
}

fn shared(ca: &TestCa, short: &str, class: PeerClass, limits: Limits) -> (Arc<Shared>, Registry) {
    let tls = Tls { generation: generation(ca, short, class), revoked: Arc::new(RevocationSet::new(0)) };
    let (state, _wishes) = State::new(tls);
    let (sink, _decisions) = DecisionSink::new(8);
    let registry = Registry::new();
    (Shared::new(state, limits, Arc::new(sink), &registry).unwrap(), registry)
}

fn address(bind: &Bind) -> SocketAddr {
    match bind {
        Bind::Tcp(address) => *address,
        Bind::Unix(path) => panic!("{path:?}"),
    }
}

/// A service's sidecar.
pub(crate) struct Behind {
    pub(crate) shared: Arc<Shared>,
    name: String,
}

impl Behind {
    /// From now on its policy permits these.
    pub(crate) fn permits(&self, from: &[&str]) {
        let permit = json!({
            "apiVersion": "signet.mesh/v1alpha1", "kind": "MeshPolicy",
            "metadata": {"namespace": "shop", "name": "in"},
            "spec": {"effect": "permit", "from": {"workloads": from}},
        });
        let document = permit.to_string();
        let documents: Vec<_> = if from.is_empty() { vec![] } else { vec![("in.shop", document.as_str())] };
        let view = self.shared.state.view();
        let own = view.tls.generation.own().svid().id.trust_domain();
        let service: ObjectName = self.name.parse().unwrap();
        self.shared.state.update_policy(|policy| {
            let set = PolicySet::compile(own, &service, documents.iter().copied(), false);
            policy.with_served(&self.name, Some(Served { policies: set, issuer_aliases: vec![], samples: 0 }))
        });
    }
}

pub(crate) struct Scene {
    ca: TestCa,
    pub(crate) outside: TestCa,
    pub(crate) shared: Arc<Shared>,
    registry: Registry,
    behind: Vec<ServiceSpec>,
    /// The gateway, and the sidecars behind it.
    running: Vec<Running>,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Scene::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Scene {
        let ca = TestCa::new("demo.signet");
        let (shared, registry) = shared(&ca, "ns/edge/sa/gw", PeerClass::Gateway, limits);
        let outside = TestCa::new("outside.example");
        Scene { ca, outside, shared, registry, behind: Vec::new(), running: Vec::new() }
    }

    /// A service `name.shop` with one port `main`, number 80, before this app.
    pub(crate) fn serves(&mut self, name: &str, protocol: Protocol, app: SocketAddr) -> Behind {
        let (shared, _) =
            shared(&self.ca, &format!("ns/shop/sa/{name}"), PeerClass::Sidecar, Limits::default());
        let full = format!("{name}.shop");
        let port = InboundPort {
            hop_proof: false,
            service: full.as_str().into(),
            name: "main".into(),
            port: 80,
            protocol,
            timeouts: Timeouts::default(),
            user_context: UserContext::Transaction,
            user_headers: Arc::default(),
            permissive_until: None,
        };
        shared.state.update_routes(|routes| routes.with_inbound(&full, vec![port.clone()]));
        let kind = Kind::Inbound {
            service: full.as_str().into(),
            port: "main".into(),
            app: App::new(AppAddress::Tcp(app)),
        };
        let proxy = Proxy::<NoEdge> { shared: shared.clone(), edge: None, workers: 1 };
        let listener = ListenerSpec { bind: Bind::Tcp("127.0.0.1:0".parse().unwrap()), kind };
        let running = proxy.start(vec![listener]).unwrap();
        let at = address(&running.addresses()[0]);
        let spec = ServiceSpec {
            name: full.clone(),
            ports: vec![PortSpec {
                name: "main".into(),
                port: 80,
                protocol,
                timeouts: Timeouts::default(),
                requests_only: false,
            }],
            identities: vec![self.ca.id(&format!("ns/shop/sa/{name}"))],
            endpoints: vec![EndpointSpec {
                address: at.ip(),
                ports: BTreeMap::from([("main".to_owned(), at.port())]),
                identity: None,
                behind: None,
            }],
            ..ServiceSpec::default()
        };
        self.behind.push(spec.clone());
        self.shared.state.update_endpoints(|known| known.apply([spec.clone()], [""; 0]));
        self.running.push(running);
        let behind = Behind { shared, name: full };
        behind.permits(&["ns/edge/sa/gw"]);
        behind
    }

    /// The same service, called so from now on.
    pub(crate) fn traffic(&self, name: &str, traffic: Value) {
        let document = json!({
            "apiVersion": "signet.mesh/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"namespace": "shop", "name": name}, "spec": traffic,
        });
        let policy = signet_model::TrafficPolicy::from_json(&document.to_string()).unwrap();
        let mut spec = self.behind.iter().find(|spec| spec.name == format!("{name}.shop")).unwrap().clone();
        spec.traffic = vec![policy.spec];
        self.shared.state.update_endpoints(|known| known.apply([spec.clone()], [""; 0]));
    }

    /// Requests to the service `name.shop` go by this HTTPRoute.
    pub(crate) fn calls(&self, name: &str, spec: Value) {
        let service: ObjectName = format!("{name}.shop").parse().unwrap();
        let routes = vec![route("HTTPRoute", name, spec)];
        let calls = Arc::new(Calls::compile(&service, &routes.into()));
        self.shared
            .state
            .update_endpoints(|known| known.with_calls(&service.to_string(), Some(calls.clone())));
    }

    /// The gateway's resource, and the routes that are attached to it.
    pub(crate) fn is(&self, listeners: Value, requests: Value, routes: &[AnyRoute]) {
        self.is_given(listeners, requests, &routes.to_vec().into());
    }

    /// The same, with what its routes may refer to.
    pub(crate) fn is_given(&self, listeners: Value, requests: Value, routes: &GivenRoutes) {
        let gateway = json!({
            "apiVersion": "signet.mesh/v1alpha1", "kind": "Gateway",
            "metadata": {"name": "gw", "namespace": "edge"},
            "spec": {"identity": "ns/edge/sa/gw", "listeners": listeners, "routes": requests},
        });
        let gateway = Gateway::from_json(&gateway.to_string()).unwrap_or_else(|error| panic!("{error}"));
        let compiled = Compiled::new(gateway.clone());
        self.shared.state.update_routes(|known| {
            known.with_gateway(Some(compiled.clone())).with_doors(Doors::compile(&gateway, routes))
        });
        self.shared.state.decide_again();
    }

    /// Listeners of the process: the gateway's port that each is, what it speaks, and the name of its certificate.
    pub(crate) fn start(&mut self, listeners: &[(u16, Protocol, Option<&str>)]) -> Vec<SocketAddr> {
        let specs = listeners.iter().map(|(port, protocol, name)| {
            let alpn: &[u8] = if *protocol == Protocol::Http1 { b"http/1.1" } else { b"h2" };
            let tls = name.map(|name| server(&self.outside, name, &[alpn]));
            ListenerSpec {
                bind: Bind::Tcp("127.0.0.1:0".parse().unwrap()),
                kind: Kind::Edge { protocol: *protocol, port: *port, tls },
            }
        });
        let clock = Arc::new(ManualClock::at(1_700_000_000));
        let edge = Arc::new(Edge::new(self.shared.clone(), clock, &self.registry).unwrap());
        let proxy = Proxy { shared: self.shared.clone(), edge: Some(edge), workers: 1 };
        let running = proxy.start(specs.collect()).unwrap();
        let addresses = running.addresses().iter().map(address).collect();
        self.running.push(running);
        addresses
    }

    pub(crate) fn counter(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let families = self.registry.gather();
        let Some(family) = families.iter().find(|family| family.name() == name) else { return 0 };
        let found = family.get_metric().iter().find(|metric| {
            labels.iter().all(|(name, value)| {
                metric.get_label().iter().any(|label| label.name() == *name && label.value() == *value)
            })
        });
        found.map_or(0, |metric| metric.get_counter().get_value() as u64)
    }

    /// Waits until a counter has this value: things are counted just after a caller sees them.
    async fn counts(&self, name: &str, labels: &[(&str, &str)], value: u64) {
        let counted = async {
            while self.counter(name, labels) != value {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, counted).await;
        assert!(waited.is_ok(), "{name} {labels:?} is {}, not {value}", self.counter(name, labels));
    }

    pub(crate) async fn refused(&self, reason: &str, count: u64) {
        self.counts("signet_refusals_total", &[("direction", "edge"), ("reason", reason)], count).await;
    }

    pub(crate) async fn failed(&self, reason: &str, count: u64) {
        let labels = [("direction", "edge"), ("reason", reason)];
        self.counts("signet_handshake_failures_total", &labels, count).await;
    }

    /// TLS from outside by this name, believing the outside's authority.
    pub(crate) async fn dial(
        &self,
        at: SocketAddr,
        name: &str,
    ) -> std::io::Result<Caller<TlsStream<TcpStream>>> {
        let socket = within(TcpStream::connect(at)).await?;
        let connector = TlsConnector::from(client(&self.outside));
        let stream = within(connector.connect(name.to_owned().try_into().unwrap(), socket)).await?;
        Ok(Caller(stream))
    }
}

/// A route of namespace `edge` for streams, `shop` for requests.
pub(crate) fn route(kind: &str, name: &str, spec: Value) -> AnyRoute {
    let namespace = if kind == "HTTPRoute" { "shop" } else { "edge" };
    let document = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    });
    AnyRoute::from_json(&document.to_string()).unwrap_or_else(|error| panic!("{error}"))
}

/// A TLSRoute for these names to these services with weights.
pub(crate) fn by_name(name: &str, hosts: &[&str], to: &[(&str, u32)]) -> AnyRoute {
    let backends: Vec<_> = to.iter().map(|(name, weight)| backend(name, *weight)).collect();
    route(
        "TLSRoute",
        name,
        json!({"parentRefs": [{"name": "gw"}], "hostnames": hosts, "rules": [{"backendRefs": backends}]}),
    )
}

pub(crate) fn backend(name: &str, weight: u32) -> Value {
    json!({"name": name, "namespace": "shop", "port": 80, "weight": weight})
}

pub(crate) fn client(outside: &TestCa) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(outside.root().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A config with a certificate of the outside world for this name.
pub(crate) fn server(outside: &TestCa, name: &str, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
    let options = SvidOptions { dns: vec![name.to_owned()], ..Default::default() }.at_wall_clock();
    let own = outside.svid(&outside.id("ns/web/sa/site"), PeerClass::Workload, options);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.private_key_pkcs8().to_vec());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(own.chain().to_vec(), key.into())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// An app that ends TLS itself: to each read it answers `<label> <server name>\n`. With a count of what was accepted.
pub(crate) async fn site(
    label: &'static str,
    config: Arc<rustls::ServerConfig>,
) -> (SocketAddr, Arc<AtomicUsize>) {
    scripted(move |socket| {
        let config = config.clone();
        async move {
            let Ok(mut stream) = TlsAcceptor::from(config).accept(socket).await else { return };
            let mut buffer = [0; 1024];
            while let Ok(1..) = stream.read(&mut buffer).await {
                let name = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
                if stream.write_all(format!("{label} {name}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// An app of bytes that says this and then what it hears.
pub(crate) async fn greeter(greeting: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    scripted(move |mut socket| async move {
        let _ = socket.write_all(greeting.as_bytes()).await;
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = socket.read(&mut buffer).await {
            if socket.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// An app that takes every connection and never says a word.
pub(crate) async fn silent() -> SocketAddr {
    let holds = |socket| async move {
        std::future::pending::<()>().await;
        drop(socket);
    };
    scripted(holds).await.0
}

/// An HTTP/1.1 app: `script` turns a head into a whole answer.
pub(crate) async fn web(
    script: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let script = Arc::new(script);
    scripted(move |socket| {
        let script = script.clone();
        async move {
            let mut caller = Caller(socket);
            while let Some(head) = caller.head().await {
                if caller.0.write_all(script(&head).as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn scripted<F, Fut>(script: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (script, count) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let script = script.clone();
            tokio::spawn(async move { script(socket).await });
        }
    });
    (address, count)
}

/// Somebody at one end of a connection.
pub(crate) struct Caller<S>(pub(crate) S);

impl Caller<TcpStream> {
    pub(crate) async fn to(at: SocketAddr) -> Self {
        let socket = match within(TcpStream::connect(at)).await {
            // Taken, and reset before `connect` had returned: whoever reads finds its end.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => ended().await,
            connected => connected.unwrap(),
        };
        socket.set_nodelay(true).unwrap();
        Caller(socket)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Caller<S> {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.0.write_all(bytes.as_ref())).await.unwrap();
        within(self.0.flush()).await.unwrap();
    }

    /// Up to the end of the line.
    pub(crate) async fn line(&mut self) -> String {
        let mut all = Vec::new();
        while !all.ends_with(b"\n") {
            let byte = within(self.0.read_u8()).await;
            all.push(
                byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&all))),
            );
        }
        String::from_utf8(all).unwrap().trim_end().to_owned()
    }

    /// A head, without its last empty line; none at the end.
    pub(crate) async fn head(&mut self) -> Option<String> {
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n\r\n") {
            all.push(self.0.read_u8().await.ok()?);
        }
        Some(String::from_utf8(all).unwrap())
    }

    /// The status and body of the answer to a GET, and its head.
    pub(crate) async fn get(&mut self, host: &str, path: &str) -> (u16, String, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await
    }

    pub(crate) async fn ask(&mut self, request: &str) -> (u16, String, String) {
        self.send(request).await;
        let head = within(self.head()).await.expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        within(self.0.read_exact(&mut body)).await.unwrap();
        (status, String::from_utf8(body).unwrap(), head)
    }

    /// All that comes until the other side ends or breaks.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = within(self.0.read_to_end(&mut all)).await;
        all
    }
}

/// A connection whose other side has gone.
async fn ended() -> TcpStream {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    drop(listener.accept().await.unwrap());
    socket
}
