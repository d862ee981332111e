//! A caller, two servers and a bystander, with bytes under way between them by whatever carries them.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Bundles, Generation, GenerationOptions, PeerClass, RevocationSet, TrustBundle};
use signet_proxy::listener::Kind;
use signet_proxy::state::{EndpointSpec, PortSpec, Protocol, ServiceSpec, Timeouts, UserContext};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::http2::peers;
use crate::support::app::{read_head, scripted};
use crate::support::caller::{Client, within};
use crate::support::{Node, WEB, inbound};

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Carried {
    /// A request whose body and answer are still coming.
    Http1,
    /// A gRPC call that streams both ways.
    Grpc,
    Tcp,
    WebSocket,
}

pub(super) const ALL: [Carried; 4] = [Carried::Http1, Carried::Grpc, Carried::Tcp, Carried::WebSocket];

impl Carried {
    pub(super) fn protocol(self) -> Protocol {
        match self {
            Carried::Http1 | Carried::WebSocket => Protocol::Http1,
            Carried::Grpc => Protocol::Grpc,
            Carried::Tcp => Protocol::Tcp,
        }
    }

    /// An app that echoes what comes, as it comes.
    pub(super) async fn app(self) -> SocketAddr {
        match self {
            Carried::Grpc => {
                peers::app(|request, mut respond| async move {
                    let head = http::Response::builder().header("content-type", "application/grpc");
                    let mut out = respond.send_response(head.body(()).unwrap(), false).unwrap();
                    let mut body = request.into_body();
                    while let Some(Ok(part)) = body.data().await {
                        let _ = body.flow_control().release_capacity(part.len());
                        if peers::write(&mut out, part, false).await.is_err() {
                            return;
                        }
                    }
                })
                .await
                .0
            }
            _ => {
                scripted(move |mut socket| async move {
                    if self != Carried::Tcp {
                        read_head(&mut socket).await;
                        let head = match self {
                            Carried::WebSocket => {
                                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
                            }
                            _ => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                        };
                        socket.write_all(head.as_bytes()).await.unwrap();
                    }
                    let mut buffer = [0; 64];
                    while let Ok(count @ 1..) = socket.read(&mut buffer).await {
                        if socket.write_all(&buffer[..count]).await.is_err() {
                            return;
                        }
                    }
                })
                .await
            }
        }
    }

    /// Begins at a caller's sidecar.
    pub(super) async fn begin(self, out: SocketAddr) -> Live {
        let mut live = match self {
            Carried::Grpc => {
                let mut client = peers::connect(out).await;
                let (answer, send) =
                    client.send_request(peers::call("/shop.v1.Orders/Watch"), false).unwrap();
                Live::Grpc { answer: Some(answer), body: None, send, _client: client }
            }
            Carried::Tcp => Live::Bytes(Client::to(out).await),
            Carried::Http1 => {
                let mut client = Client::to(out).await;
                client.send("POST / HTTP/1.1\r\nhost: o\r\ntransfer-encoding: chunked\r\n\r\n").await;
                Live::Chunks(client)
            }
            Carried::WebSocket => {
                let mut client = Client::to(out).await;
                client
                    .send(
                        "GET /ws HTTP/1.1\r\nhost: o\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\nsec-websocket-key: x\r\n\r\n",
                    )
                    .await;
                assert!(client.head().await.starts_with("HTTP/1.1 101"));
                Live::Bytes(client)
            }
        };
        assert!(live.carries().await, "{self:?} does not begin");
        live
    }
}

/// Something under way.
pub(super) enum Live {
    Bytes(Client<TcpStream>),
    /// Chunks of a body, after the head of the answer.
    Chunks(Client<TcpStream>),
    Grpc {
        answer: Option<h2::client::ResponseFuture>,
        body: Option<h2::RecvStream>,
        send: h2::SendStream<Bytes>,
        _client: h2::client::SendRequest<Bytes>,
    },
}

impl Live {
    /// Whether a word goes there and back.
    pub(super) async fn carries(&mut self) -> bool {
        within(self.word()).await.is_some()
    }

    pub(super) async fn word(&mut self) -> Option<()> {
        match self {
            Live::Bytes(client) => {
                client.stream.write_all(b"ping").await.ok()?;
                let mut back = [0; 4];
                client.stream.read_exact(&mut back).await.ok()?;
                assert_eq!(&back, b"ping");
            }
            Live::Chunks(client) => {
                client.stream.write_all(b"4\r\nping\r\n").await.ok()?;
                while !client.unread.windows(4).any(|four| four == b"ping") {
                    if client.stream.read_buf(&mut client.unread).await.ok()? == 0 {
                        return None;
                    }
                }
                client.unread.clear();
            }
            Live::Grpc { answer, body, send, .. } => {
                peers::write(send, Bytes::from_static(b"ping"), false).await.ok()?;
                if let Some(answer) = answer.take() {
                    let answer = answer.await.ok()?;
                    if answer.status() != 200 || answer.headers().contains_key("grpc-status") {
                        return None;
                    }
                    *body = Some(answer.into_body());
                }
                let part = body.as_mut()?.data().await?.ok()?;
                body.as_mut()?.flow_control().release_capacity(part.len()).ok()?;
            }
        }
        Some(())
    }

    /// Waits for its end, although nothing is said.
    pub(super) async fn ends(&mut self) {
        let quiet = async {
            match self {
                Live::Bytes(client) | Live::Chunks(client) => {
                    let mut rest = Vec::new();
                    let _ = client.stream.read_to_end(&mut rest).await;
                }
                Live::Grpc { body, .. } => while let Some(Ok(_)) = body.as_mut().unwrap().data().await {},
            }
        };
        within(quiet).await;
    }
}

/// web and admin call orders; web calls payments, too.
pub(super) struct Scene {
    pub(super) carried: Carried,
    pub(super) ca: TestCa,
    /// Another root of the same trust domain, which everybody has at the beginning.
    pub(super) other: TestCa,
    pub(super) web: Node,
    pub(super) admin: Node,
    pub(super) orders: Node,
    pub(super) payments: Node,
    pub(super) to_orders: SocketAddr,
    pub(super) by_admin: SocketAddr,
    pub(super) to_payments: SocketAddr,
}

pub(super) const ADMIN: &str = r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/admin"]}}"#;

impl Scene {
    pub(super) async fn of(carried: Carried) -> Scene {
        Scene::with(carried, Timeouts::default(), |_| {}).await
    }

    pub(super) async fn with(carried: Carried, timeouts: Timeouts, settle: impl Fn(&Node)) -> Scene {
        let (ca, other) = (TestCa::new("demo.signet"), TestCa::new("demo.signet"));
        let roots = [ca.root().clone(), other.root().clone()];
        let bundles: Arc<Bundles> =
            Arc::new(TrustBundle::new(ca.trust_domain().clone(), roots).unwrap().into());
        let node = |name: &str| Node::new(built(&ca, name, bundles.clone()));
        let (mut web, mut admin, mut orders, mut payments) =
            (node("web"), node("admin"), node("orders"), node("payments"));
        let mut at = Vec::new();
        for server in [&mut orders, &mut payments] {
            server.serves_with(carried.protocol(), &[WEB, ADMIN], timeouts, UserContext::Transaction);
            at.push(server.start(vec![inbound(carried.app().await)])[0]);
        }
        for caller in [&web, &admin] {
            knows(caller, &ca, carried, timeouts, &at);
        }
        let out = |service: &str| Kind::Outbound { service: service.into(), port: "main".into() };
        let outs = web.start(vec![out("orders.shop"), out("payments.shop")]);
        let by_admin = admin.start(vec![out("orders.shop")])[0];
        for node in [&web, &admin, &orders, &payments] {
            node.state.freshness.live();
            settle(node);
        }
        let (to_orders, to_payments) = (outs[0], outs[1]);
        Scene { carried, ca, other, web, admin, orders, payments, to_orders, by_admin, to_payments }
    }

    pub(super) async fn begin(&self) -> (Live, [Live; 2]) {
        let subject = self.carried.begin(self.to_orders).await;
        let bystanders =
            [self.carried.begin(self.by_admin).await, self.carried.begin(self.to_payments).await];
        (subject, bystanders)
    }
}

pub(super) fn built(ca: &TestCa, name: &str, bundles: Arc<Bundles>) -> Arc<Generation> {
    let own = ca.svid(
        &ca.id(&format!("ns/shop/sa/{name}")),
        PeerClass::Sidecar,
        SvidOptions::default().at_wall_clock(),
    );
    Generation::build(500, own, bundles, GenerationOptions::default()).unwrap()
}

pub(super) fn knows(node: &Node, ca: &TestCa, carried: Carried, timeouts: Timeouts, at: &[SocketAddr]) {
    let spec = |name: &str, at: SocketAddr| ServiceSpec {
        name: format!("{name}.shop"),
        ports: vec![PortSpec {
            name: "main".into(),
            port: 80,
            protocol: carried.protocol(),
            timeouts,
            requests_only: false,
        }],
        identities: vec![ca.id(&format!("ns/shop/sa/{name}"))],
        endpoints: vec![EndpointSpec {
            address: at.ip(),
            ports: [("main".to_owned(), at.port())].into(),
            identity: None,
            behind: None,
        }],
        ..ServiceSpec::default()
    };
    let specs = [spec("orders", at[0]), spec("payments", at[1])];
    node.state.update_endpoints(|endpoints| endpoints.apply(specs.clone(), [] as [&str; 0]));
}

pub(super) fn revoke(node: &Node, name: impl Fn(&mut RevocationSet) -> bool) {
    let mut set = RevocationSet::new(1);
    assert!(name(&mut set));
    let set = Arc::new(set);
    node.state.update_tls(|tls| tls.with_revoked(set.clone()));
}

/// The subject ends without a word of its own; bytes go on through both bystanders.
pub(super) async fn only_the_subject_ends(scene: &Scene, what: &str, event: impl AsyncFnOnce(&Scene)) {
    let (mut subject, mut bystanders) = scene.begin().await;
    event(scene).await;
    subject.ends().await;
    assert!(!subject.carries().await, "{what}: {:?} goes on", scene.carried);
    for (bystander, whose) in bystanders.iter_mut().zip(["admin's to orders", "web's to payments"]) {
        assert!(bystander.carries().await, "{what}: {:?} of {whose} was ended, too", scene.carried);
    }
}

pub(super) async fn all_live(scene: &Scene, what: &str, event: impl AsyncFnOnce(&Scene)) {
    let (mut subject, mut bystanders) = scene.begin().await;
    event(scene).await;
    assert!(subject.carries().await, "{what}: {:?} was ended", scene.carried);
    for bystander in &mut bystanders {
        assert!(bystander.carries().await, "{what}: a bystander of {:?} was ended", scene.carried);
    }
}
