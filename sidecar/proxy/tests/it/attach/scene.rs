//! `web` calls `orders`, whose app is the test: it sees what arrives, calls `next` as it likes, and answers when it likes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use signet_identity::testing::TestCa;
use signet_identity::{Alpn, Generation, PeerClass};
use signet_proxy::listener::Kind;
use signet_proxy::state::Protocol;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::client::TlsStream;

use crate::support::app::{echo, read_head, scripted};
use crate::support::caller::{Client, peer, within};
use crate::support::token::Mint;
use crate::support::{Node, WEB, generation, inbound, outbound};

pub(super) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// What `orders` may do at the service that it calls.
pub(super) const ORDERS: &str = r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/orders"]}}"#;

pub(super) type Caller = Client<TlsStream<TcpStream>>;

/// A request as it reached the app, which has not answered it.
pub(super) struct Arrived {
    pub(super) head: String,
    answer: oneshot::Sender<String>,
}

impl Arrived {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(super) fn handle(&self) -> String {
        let baggage = self.header("baggage").expect("baggage");
        let rest = baggage.strip_prefix("signet.ctx=").expect("a handle first");
        rest.split(',').next().unwrap().to_owned()
    }

    /// Its handle as a library sends it on.
    pub(super) fn baggage(&self) -> String {
        format!("signet.ctx={}", self.handle())
    }

    pub(super) async fn answer(self) {
        self.answer_with("").await;
    }

    pub(super) async fn answer_with(self, lines: &str) {
        let answer = format!("HTTP/1.1 200 OK\r\n{lines}content-length: 2\r\n\r\nok");
        self.answer.send(answer).expect("somebody waits for the answer");
    }
}

pub(super) struct Scene {
    pub(super) ca: TestCa,
    pub(super) mint: Mint,
    pub(super) orders: Node,
    pub(super) next: Node,
    pub(super) web: Arc<Generation>,
    /// Of `web`, to `orders`.
    pub(super) caller: Caller,
    others: Vec<Caller>,
    pub(super) at: SocketAddr,
    pub(super) out: SocketAddr,
    arrivals: mpsc::Receiver<Arrived>,
}

impl Scene {
    /// With handles of this grace, or without any.
    pub(super) async fn new(grace: Option<Duration>) -> Scene {
        Scene::with(grace, vec![outbound()]).await.0
    }

    /// The same with these listeners for the app's calls; their addresses.
    pub(super) async fn with(grace: Option<Duration>, calls: Vec<Kind>) -> (Scene, Vec<SocketAddr>) {
        let (arrive, arrivals) = mpsc::channel(16);
        let app = scripted(move |socket| serve(socket, arrive.clone())).await;
        let (ca, mint) = (TestCa::new("demo.signet"), Mint::new());
        let mut next = Node::new(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar));
        mint.trusted_by(&next.state);
        next.serves(Protocol::Http1, &[ORDERS]);
        let next_at = next.start(vec![inbound(echo().await)])[0];
        let mut orders = Node::new(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar));
        mint.trusted_by(&orders.state);
        orders.serves(Protocol::Http1, &[WEB, ORDERS]);
        orders.knows(&ca, Protocol::Http1, &[next_at]);
        if let Some(grace) = grace {
            orders.shared.handles.enable(grace);
        }
        let mut kinds = vec![inbound(app)];
        kinds.extend(calls);
        let addresses = orders.start(kinds);
        let web = generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar);
        let caller = peer(addresses[0], &web, Alpn::Http1, &ca.id("ns/shop/sa/orders")).await.unwrap();
        let (at, out) = (addresses[0], addresses[1]);
        let scene = Scene { ca, mint, orders, next, web, caller, others: Vec::new(), at, out, arrivals };
        (scene, addresses[1..].to_vec())
    }

    pub(super) async fn connect(&self) -> Caller {
        peer(self.at, &self.web, Alpn::Http1, &self.ca.id("ns/shop/sa/orders")).await.unwrap()
    }

    /// The caller goes away, and comes anew.
    pub(super) async fn reconnect(&mut self) {
        self.others.clear();
        self.caller = self.connect().await;
    }

    /// A request of a sidecar for this user reaches the app; the caller waits for its answer.
    pub(super) async fn arrives(&mut self, token: &str, headers: &[(&str, &str)]) -> Arrived {
        self.arrives_as(token, "forwarded", headers).await
    }

    pub(super) async fn arrives_as(&mut self, token: &str, how: &str, headers: &[(&str, &str)]) -> Arrived {
        let mut text = "GET / HTTP/1.1\r\nhost: o\r\n".to_owned();
        if !token.is_empty() {
            text += &format!("txn-token: {token}\r\nsignet-context: {how}\r\n");
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        let fresh = self.connect().await;
        let waiting = std::mem::replace(&mut self.caller, fresh);
        self.others.push(waiting);
        self.caller.send(text + "\r\n").await;
        self.next_arrival().await
    }

    pub(super) async fn next_arrival(&mut self) -> Arrived {
        within(self.arrivals.recv()).await.unwrap()
    }

    pub(super) fn outbound(&self, via: &str, carrier: &str) -> u64 {
        let labels = [("direction", "outbound"), ("via", via), ("carrier", carrier)];
        self.orders.counter("signet_user_context_total", &labels)
    }

    pub(super) fn next_inbound(&self, via: &str) -> u64 {
        let labels = [("direction", "inbound"), ("via", via), ("carrier", "header")];
        self.next.counter("signet_user_context_total", &labels)
    }
}

async fn serve(mut socket: TcpStream, arrive: mpsc::Sender<Arrived>) {
    while let Some(head) = read_head(&mut socket).await {
        let (answer, answered) = oneshot::channel();
        if arrive.send(Arrived { head, answer }).await.is_err() {
            return;
        }
        let Ok(answer) = answered.await else { return };
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
