//! A receiver dies of SIGKILL under load, or its app does: what a crash costs.
//!
//! Two receivers of one service, each a sidecar process before an app. Clients keep their connections and send GET and
//! POST in turn, each POST under a number of its own; both apps write down which they carried out. A crash may cost a POST
//! that was under way at that moment, since nobody can know whether it was carried out. It may cost nothing else: no GET,
//! no POST from before or after, and nothing is carried out twice.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit};
use signet_tests::process::until;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

/// Requests that are under way at any time.
const CLIENTS: usize = 8;

/// How often each numbered request was carried out, by both apps together.
type Carried = Arc<Mutex<HashMap<String, u32>>>;

/// An app in a runtime of its own, which ends at once with all its sockets, as a process does that is killed.
struct App {
    address: String,
    runtime: Option<tokio::runtime::Runtime>,
    accepting: tokio::task::JoinHandle<()>,
    served: Arc<AtomicUsize>,
}

impl App {
    fn start(address: Option<&str>, carried: &Carried, together: &Arc<Barrier>) -> App {
        let listener = std::net::TcpListener::bind(address.unwrap_or("127.0.0.1:0")).expect("an app's port");
        listener.set_nonblocking(true).expect("a listener for tokio");
        let address = listener.local_addr().expect("its address").to_string();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let served = Arc::new(AtomicUsize::new(0));
        let (carried, together, count) = (carried.clone(), together.clone(), served.clone());
        let accepting = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let (carried, together, count) = (carried.clone(), together.clone(), count.clone());
                stream.set_nodelay(true).expect("a socket option");
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        carry_out(request, carried.clone(), together.clone(), count.clone())
                    });
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        App { address, runtime: Some(runtime), accepting, served }
    }

    /// Ends it, wherever it is; returns when its sockets are closed. The one that it listens at goes first, as it was the first
    /// that it had: no further connection is taken by an app that is gone.
    async fn kill(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        let runtime = self.runtime.take().expect("it runs");
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10)))
            .await
            .expect("ending the app");
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn carry_out(
    request: Request<Incoming>,
    carried: Carried,
    together: Arc<Barrier>,
    served: Arc<AtomicUsize>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/together" {
        together.wait().await;
    } else {
        let name = format!("{} {}", request.method(), request.uri().path());
        *carried.lock().expect("what was carried out").entry(name).or_default() += 1;
        served.fetch_add(1, Ordering::SeqCst);
        // So long that a few are under way at any moment.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let _ = request.into_body().collect().await;
    Ok(Response::new(Full::new(Bytes::from_static(b"done"))))
}

/// A client's connection.
enum Sender {
    One(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn open(entry: &str, protocol: &str) -> Sender {
        let stream = TcpStream::connect(entry).await.expect("the caller's own sidecar");
        stream.set_nodelay(true).expect("a socket option");
        let stream = TokioIo::new(stream);
        if protocol == "http" {
            let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            return Sender::One(sender);
        }
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        Sender::Two(sender)
    }

    /// Whether it was answered 200.
    async fn send(&mut self, method: &str, path: &str) -> Result<(), String> {
        let body = if method == "POST" { Bytes::from_static(b"some body") } else { Bytes::new() };
        let request = Request::builder().method(method).uri(format!("http://server.shop{path}"));
        let request = request.header("host", "server.shop").body(Full::new(body)).unwrap();
        let answer = match self {
            Sender::One(sender) => {
                sender.ready().await.map_err(|error| error.to_string())?;
                sender.send_request(request).await
            }
            Sender::Two(sender) => sender.send_request(request).await,
        };
        let answer = answer.map_err(|error| error.to_string())?;
        let (status, reason) = (answer.status(), answer.headers().get("signet-deny-reason").cloned());
        answer.into_body().collect().await.map_err(|error| format!("its body: {error}"))?;
        if status == 200 { Ok(()) } else { Err(format!("{status} {reason:?}")) }
    }
}

/// One request, as its client saw it.
struct Seen {
    name: String,
    began: Instant,
    ended: Instant,
    failure: Option<String>,
}

/// Clients that send until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Vec<Seen>>>,
}

impl Load {
    fn start(entry: &str, protocol: &'static str) -> Load {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let number = Arc::new(AtomicU64::new(0));
        let client = |_| {
            let (entry, stop, done, number) = (entry.to_owned(), stop.clone(), done.clone(), number.clone());
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut sender = Sender::open(&entry, protocol).await;
                while !stop.load(Ordering::SeqCst) {
                    let number = number.fetch_add(1, Ordering::SeqCst);
                    let (method, path) = (if number % 2 == 0 { "GET" } else { "POST" }, format!("/{number}"));
                    let began = Instant::now();
                    let failure = sender.send(method, &path).await.err();
                    if failure.is_some() {
                        sender = Sender::open(&entry, protocol).await;
                    }
                    seen.push(Seen {
                        name: format!("{method} {path}"),
                        began,
                        ended: Instant::now(),
                        failure,
                    });
                    done.fetch_add(1, Ordering::SeqCst);
                }
                seen
            })
        };
        Load { clients: (0..CLIENTS).map(client).collect(), stop, done }
    }

    async fn goes_on(&self, requests: usize) {
        let goal = self.done.load(Ordering::SeqCst) + requests;
        until("requests to go on", || (self.done.load(Ordering::SeqCst) >= goal).then_some(())).await;
    }

    async fn end(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        let mut seen = Vec::new();
        for client in self.clients {
            seen.extend(client.await.expect("a client"));
        }
        seen
    }
}

struct Scene {
    mesh: Mesh,
    apps: [App; 2],
    carried: Carried,
    together: Arc<Barrier>,
    entry: String,
    receivers: [Sidecar; 2],
}

impl Scene {
    /// `client.shop` calls `server.shop`, which `one.shop` and `two.shop` serve; every connection that the load will need
    /// has served a request.
    async fn start(protocol: &'static str) -> Scene {
        let carried = Carried::default();
        // Held until as many are there as may ever be under way at each of the two.
        let together = Arc::new(Barrier::new(2 * CLIENTS));
        let apps = [(); 2].map(|()| App::start(None, &carried, &together));
        let (entry, inbound) = (free_address(), [free_address(), free_address()]);
        let endpoint = |name: &str, at: &str| {
            let (host, port) = at.rsplit_once(':').expect("host:port");
            format!("{{address: {host}, ports: {{main: {port}}}, identity: ns/shop/sa/{name}}}")
        };
        let receiver = |name: &str, at: &str, app: &str| {
            let listener = format!("{{service: server.shop, port: main, listen: '{at}', app: 'tcp:{app}'}}");
            Sidecar::new(&format!("{name}.shop"), format!("inbound: [{listener}]\n"))
        };
        let receivers =
            [receiver("one", &inbound[0], &apps[0].address), receiver("two", &inbound[1], &apps[1].address)];
        let mesh = Mesh::builder()
            .registry(format!(
                "kind: Service\nmetadata: {{namespace: shop, name: server}}\nspec:\n  \
                 identities: [ns/shop/sa/one, ns/shop/sa/two]\n  \
                 ports: [{{name: main, port: 80, protocol: {protocol}}}]\n  endpoints: [{}, {}]\n",
                endpoint("one", &inbound[0]),
                endpoint("two", &inbound[1])
            ))
            .registry(permit("client-may", "shop", "server", "ns/shop/sa/client", ""))
            .sidecar(receivers[0].clone())
            .sidecar(receivers[1].clone())
            .sidecar(Sidecar::new(
                "client.shop",
                format!("outbound: [{{listen: '{entry}', service: server.shop, port: main}}]\n"),
            ))
            .start()
            .await;
        let warm = (0..2 * CLIENTS).map(|_| {
            let entry = entry.clone();
            tokio::spawn(async move { Sender::open(&entry, protocol).await.send("GET", "/together").await })
        });
        for request in warm.collect::<Vec<_>>() {
            request.await.unwrap().expect("a request before the crash");
        }
        Scene { mesh, apps, carried, together, entry, receivers }
    }

    /// What a crash between these two moments may have cost, and what it must not.
    fn judge(&self, seen: &[Seen], from: Instant, to: Instant) {
        let carried = self.carried.lock().unwrap();
        let mut lost = Vec::new();
        for Seen { name, began, ended, failure } in seen {
            let times = carried.get(name).copied().unwrap_or(0);
            let is_get = name.starts_with("GET");
            match failure {
                Some(failure) => {
                    assert!(!is_get, "{name}: {failure}");
                    let after = began.saturating_duration_since(to);
                    assert!(
                        *began <= to && *ended >= from,
                        "{name} was lost ({failure}), begun {after:?} after the crash\n{}",
                        self.mesh.logs()
                    );
                    assert!(times <= 1, "{name} was carried out {times} times");
                    lost.push(failure);
                }
                None if is_get => assert!(times >= 1, "{name} was answered by nobody"),
                None => assert_eq!(times, 1, "how often {name} was carried out"),
            }
        }
        assert!(lost.len() <= CLIENTS, "more than were under way: {lost:?}");
        eprintln!("{} requests, {} of them lost: {lost:?}", seen.len(), lost.len());
    }
}

async fn a_receivers_sidecar_is_killed(protocol: &'static str) {
    let mut scene = Scene::start(protocol).await;
    let load = Load::start(&scene.entry, protocol);
    load.goes_on(400).await;
    let mut killed = scene.mesh.sidecars.remove("one").unwrap();
    let from = Instant::now();
    killed.signal(libc::SIGKILL);
    killed.wait().await;
    let to = Instant::now();
    load.goes_on(400).await;
    // One that comes back where it was is called again.
    let before = scene.apps[0].served.load(Ordering::SeqCst);
    scene.mesh.join(scene.receivers[0].clone()).await;
    until("the one that is back to be called", || {
        (scene.apps[0].served.load(Ordering::SeqCst) >= before + 20).then_some(())
    })
    .await;
    let seen = load.end().await;
    scene.judge(&seen, from, to);
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_killed_sidecar_costs_only_posts_that_were_under_way_there() {
    a_receivers_sidecar_is_killed("http").await;
}

#[tokio::test]
async fn a_killed_sidecar_costs_only_posts_that_were_under_way_there_over_http2() {
    a_receivers_sidecar_is_killed("http2").await;
}

async fn an_app_is_killed(protocol: &'static str) {
    let mut scene = Scene::start(protocol).await;
    let load = Load::start(&scene.entry, protocol);
    load.goes_on(400).await;
    let from = Instant::now();
    scene.apps[0].kill().await;
    let to = Instant::now();
    load.goes_on(400).await;
    let address = scene.apps[0].address.clone();
    scene.apps[0] = App::start(Some(&address), &scene.carried, &scene.together);
    until("the app that is back to be called", || {
        (scene.apps[0].served.load(Ordering::SeqCst) >= 20).then_some(())
    })
    .await;
    let seen = load.end().await;
    scene.judge(&seen, from, to);
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_killed_app_costs_only_posts_that_were_under_way_there() {
    an_app_is_killed("http").await;
}

#[tokio::test]
async fn a_killed_app_costs_only_posts_that_were_under_way_there_over_http2() {
    an_app_is_killed("http2").await;
}
