//! Somebody else is asked about what policies permit, and everything but a plain yes is a no.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use signet_identity::{Alpn, PeerClass};
use signet_proto::envoy::service::auth::v3::{CheckRequest, CheckResponse, OkHttpResponse};
use signet_proxy::Limits;
use signet_proxy::state::{EndpointSpec, PortSpec, Protocol, ServiceSpec, Timeouts};
use tokio::io::AsyncReadExt as _;

use crate::http2::peers;
use crate::support::app::{counted_echo, echo};
use crate::support::authorizer::{
    Authorizer, Event, Says, header, message, no, no_with, provided, status, with, yes,
};
use crate::support::caller::{Answer, Client, peer, within};
use crate::support::token::Mint;
use crate::support::{Node, Pair, WEB, generation, inbound};

/// Everything that is permitted is asked about.
const ASK: &str = r#"{"effect":"external","provider":"asked"}"#;

/// A pair whose `orders` asks this authorizer on loopback.
async fn asking(authorizer: &Authorizer, rest: &str) -> (Pair, Arc<AtomicUsize>) {
    let (app, connections) = counted_echo().await;
    let pair = Pair::http(app);
    provided(&pair.orders, &format!(r#"{{"local":"{}"{rest}}}"#, authorizer.at));
    pair.orders.permits(&[WEB, ASK]);
    (pair, connections)
}

fn checks(node: &Node, outcome: &str) -> u64 {
    node.counter("signet_external_checks_total", &[("provider", "asked.shop"), ("outcome", outcome)])
}

fn refused(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.header("signet-deny-reason"))
}

#[tokio::test]
async fn a_request_passes_with_a_yes_and_a_no_never_reaches_the_app() {
    let mut authorizer = Authorizer::new(|asked| {
        let path = &asked.attributes.as_ref().unwrap().request.as_ref().unwrap().http.as_ref().unwrap().path;
        Says::Answer(if path == "/open?x=1" { yes() } else { no() })
    })
    .await;
    let (mut pair, connections) = asking(&authorizer, "").await;
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.get("/open?x=1").await.status, 200);
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    let answer = client.get("/shut").await;
    assert_eq!(refused(&answer), (403, Some("external")));
    let id = answer.header("signet-decision-id").unwrap();
    assert_eq!((checks(&pair.orders, "allowed"), checks(&pair.orders, "denied")), (1, 1));
    // The record names who said no, and has the id under which the provider was asked.
    let record = pair.orders.decisions.try_recv().unwrap();
    assert_eq!(record.id.to_string(), id);
    let told: serde_json::Value = serde_json::from_str(&record.json).unwrap();
    assert_eq!((&told["verdict"], &told["basis"]), (&"deny".into(), &"external".into()));
    assert_eq!(told["external"][0], serde_json::json!({"provider": "asked.shop", "outcome": "denied"}));
    assert_eq!(told["reason"], "permitted by p0.shop, and not by provider asked.shop: denied");
    authorizer.asked().unwrap();
    let asked = authorizer.asked().unwrap().attributes.unwrap().request.unwrap().http.unwrap();
    assert_eq!(asked.id, id);
    // The connection goes on.
    assert_eq!(client.get("/open?x=1").await.status, 200);
}

#[tokio::test]
async fn what_policy_denies_nobody_is_asked_about() {
    let mut authorizer = Authorizer::new(|_| Says::Answer(yes())).await;
    let (pair, connections) = asking(&authorizer, "").await;
    let intruder = generation(&pair.ca, "ns/shop/sa/intruder", PeerClass::Sidecar);
    let mut client = peer(pair.at, &intruder, Alpn::Http1, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    assert_eq!(refused(&client.get("/").await), (403, Some("policy")));
    pair.orders.permits(&[WEB, ASK, r#"{"effect":"forbid","to":{"paths":["/admin"]}}"#]);
    let mut client = Client::to(pair.out).await;
    assert_eq!(refused(&client.get("/admin").await), (403, Some("policy")));
    assert!(authorizer.asked().is_none());
    assert_eq!(connections.load(Ordering::Relaxed), 0);
    assert_eq!(client.get("/").await.status, 200);
    assert!(authorizer.asked().is_some());
}

#[tokio::test]
async fn only_what_the_policy_matches_is_asked_about_and_absence_spares_nobody() {
    let mut authorizer = Authorizer::new(|_| Says::Answer(yes())).await;
    let (pair, _) = asking(&authorizer, "").await;
    let mut client = Client::to(pair.out).await;
    pair.orders.permits(&[WEB, r#"{"effect":"external","provider":"asked","to":{"paths":["/admin"]}}"#]);
    for (path, is_asked) in [("/", false), ("/admin", true), ("/admin;x", true), ("/admin/x", false)] {
        assert_eq!(client.get(path).await.status, 200);
        assert_eq!(authorizer.asked().is_some(), is_asked, "{path}");
    }
    let groups = r#""user":{"claims":{"groups":{"anyOf":["ops"]}}}"#;
    pair.orders.permits(&[WEB, &format!(r#"{{"effect":"external","provider":"asked",{groups}}}"#)]);
    assert_eq!(client.get("/").await.status, 200);
    assert!(authorizer.asked().is_some(), "without a user");
    let skip = format!(r#"{{"effect":"external","provider":"asked","ifAbsent":"skip",{groups}}}"#);
    pair.orders.permits(&[WEB, &skip]);
    assert_eq!(client.get("/").await.status, 200);
    assert!(authorizer.asked().is_none());
}

#[tokio::test]
async fn whatever_is_not_plainly_a_yes_is_a_no() {
    let says = Arc::new(Mutex::new(Says::Nothing));
    let next = says.clone();
    let authorizer = Authorizer::new(move |_| next.lock().unwrap().clone()).await;
    let (pair, connections) = asking(&authorizer, r#","timeout":"300ms""#).await;
    let mut client = Client::to(pair.out).await;
    let ok = CheckResponse { http_response: None, ..yes() };
    let mixed = CheckResponse { status: status(0), ..no_with(403, vec![], "") };
    let other_way = CheckResponse { status: status(7), ..yes() };
    let long = with(OkHttpResponse { headers: vec![header("x", &"y".repeat(70_000))], ..Default::default() });
    let many = with(OkHttpResponse { headers: vec![header("x", "y"); 65], ..Default::default() });
    let mut twice = message(&yes());
    twice.extend(message(&yes()));
    let mut compressed = message(&yes());
    compressed[0] = 1;
    let whole = message(&yes());
    let cases: Vec<(&str, Says, &str)> = vec![
        ("no answer", Says::Nothing, "timeout"),
        ("a reset", Says::Reset, "unreachable"),
        ("no status", Says::Answer(CheckResponse { status: None, ..yes() }), "invalid"),
        ("an empty message", Says::Answer(CheckResponse::default()), "invalid"),
        ("OK without its HTTP part", Says::Answer(ok), "invalid"),
        ("OK with a denial", Says::Answer(mixed), "invalid"),
        ("a denial with OK's part", Says::Answer(other_way), "invalid"),
        ("a denial that is a redirect", Says::Answer(no_with(302, vec![], "")), "invalid"),
        ("a denial that is a 200", Says::Answer(no_with(200, vec![], "")), "invalid"),
        ("a denial with no status of HTTP", Says::Answer(no_with(-1, vec![], "")), "invalid"),
        ("too long", Says::Answer(long), "invalid"),
        ("too many headers", Says::Answer(many), "invalid"),
        ("no message", Says::Raw(vec![], Some("0")), "invalid"),
        ("garbage", Says::Raw(b"\0\0\0\0\x03\xff\xff\xff".to_vec(), Some("0")), "invalid"),
        ("half a message", Says::Raw(whole[..whole.len() - 1].to_vec(), Some("0")), "invalid"),
        ("two messages", Says::Raw(twice, Some("0")), "invalid"),
        ("compressed", Says::Raw(compressed, Some("0")), "invalid"),
        ("a yes and a gRPC error", Says::Raw(whole.clone(), Some("13")), "status"),
        ("a yes without trailers", Says::Raw(whole, None), "invalid"),
        ("an HTTP error", Says::Http(500, "application/grpc"), "status"),
        ("another content", Says::Http(200, "text/html"), "invalid"),
    ];
    for (what, answer, outcome) in cases {
        *says.lock().unwrap() = answer;
        let before = checks(&pair.orders, outcome);
        let answer = client.get("/").await;
        assert_eq!(refused(&answer), (503, Some("external-unavailable")), "{what}");
        assert_eq!(checks(&pair.orders, outcome), before + 1, "{what}");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 0);
    *says.lock().unwrap() = Says::Answer(yes());
    assert_eq!(client.get("/").await.status, 200, "and then a yes counts");
}

#[tokio::test]
async fn who_is_not_there_or_not_known_cannot_say_yes() {
    let authorizer = Authorizer::new(|_| Says::Answer(yes())).await;
    let (pair, connections) = asking(&authorizer, "").await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut client = Client::to(pair.out).await;
    for spec in [
        format!(r#"{{"local":"{closed}"}}"#),
        r#"{"local":"unix:/nonexistent/authz"}"#.to_owned(),
        r#"{"service":"authz.shop","port":"grpc"}"#.to_owned(),
    ] {
        provided(&pair.orders, &spec);
        assert_eq!(refused(&client.get("/").await), (503, Some("external-unavailable")), "{spec}");
    }
    pair.orders.state.update_policy(|policy| policy.with_providers([("asked.shop", None)]));
    assert_eq!(refused(&client.get("/").await), (503, Some("external-unavailable")));
    // Five of them, of which there is room for four: the set as a whole denies.
    let five: Vec<_> = (0..5).map(|at| format!(r#"{{"effect":"external","provider":"p{at}"}}"#)).collect();
    let docs = five.iter().enumerate().map(|(at, spec)| {
        let name = format!("p{at}");
        let json = format!(
            r#"{{"apiVersion":"signet.mesh/v1alpha1","kind":"MeshPolicy","metadata":{{"namespace":"shop","name":"{name}"}},"spec":{spec}}}"#
        );
        (name, json)
    });
    let domain = pair.ca.id("ns/shop/sa/web").trust_domain().clone();
    let set = signet_policy::PolicySet::compile(&domain, &"orders.shop".parse().unwrap(), docs, true);
    assert_eq!(set.not_understood().len(), 1);
    assert_eq!(connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_question_says_who_calls_for_whom_and_of_headers_only_what_is_listed() {
    let mut authorizer = Authorizer::new(|_| Says::Answer(yes())).await;
    let rest = r#","includeHeaders":["x-tenant","x-absent","cookie"],"context":{"environment":"test"}"#;
    let (pair, _) = asking(&authorizer, rest).await;
    let mint = Mint::new();
    mint.trusted_by(&pair.orders.state);
    let token = mint.token("alice", &["orders:read", "orders:write"]);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let mut client = peer(pair.at, &web, Alpn::Http1, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    let sent = [
        ("Txn-Token", token.as_str()),
        ("signet-context", "forwarded"),
        ("Authorization", "Bearer secret"),
        ("X-Tenant", "blue"),
        ("x-tenant", "red"),
        ("x_tenant", "green"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-other", "unseen"),
    ];
    assert_eq!(client.request("/orders/%37?q=%2f", &sent).await.status, 200);
    let asked = authorizer.asked().unwrap().attributes.unwrap();
    let printed = format!("{asked:?}");
    for secret in [&*token, "Bearer", "secret", "unseen", "green"] {
        assert!(!printed.contains(secret), "{secret}");
    }
    let (source, destination) = (asked.source.unwrap(), asked.destination.unwrap());
    assert_eq!(source.principal, "spiffe://demo.signet/ns/shop/sa/web");
    assert!(source.address.is_some() && destination.address.is_some());
    assert_eq!(destination.principal, "spiffe://demo.signet/ns/shop/sa/orders");
    assert_eq!(destination.service, "orders.shop");
    let request = asked.request.unwrap();
    assert!(request.time.is_some());
    let http = request.http.unwrap();
    assert_eq!((&*http.method, &*http.path, &*http.host), ("GET", "/orders/7?q=%2f", "orders"));
    assert_eq!((&*http.protocol, &*http.scheme, http.size), ("HTTP/1.1", "http", -1));
    let headers: Vec<_> = http.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(headers, [("cookie", "a=1; b=2"), ("x-tenant", "blue,red")]);
    let context = asked.context_extensions;
    assert_eq!((&*context["environment"], &*context["signet.service"]), ("test", "orders.shop"));
    assert_eq!(context["signet.port"], "main");
    let user = &asked.metadata_context.unwrap().filter_metadata["signet.user"];
    let shown = format!("{user:?}");
    for part in ["idp|alice", "orders:read", "orders:write", "staff", "forwarded"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[tokio::test]
async fn a_yes_changes_what_is_listed_and_nothing_of_the_meshs() {
    let removed = ["x-remove", "x-unlisted", "host", ":path", "authorization"];
    let mut append = header("x-roles", "two");
    append.append = Some(true);
    let mut absent = header("x-absent", "added");
    absent.append_action = 1;
    let mut present = header("x-tenant", "kept");
    present.append_action = 1;
    let headers = vec![
        header("X-Role", "admin"),
        append,
        absent,
        present,
        header("x-unlisted", "1"),
        header("txn-token", "forged"),
        header("Signet-User", "forged"),
        header("x-forwarded-client-cert", "forged"),
        header("content-length", "7"),
        header("x-mine", "1"),
        header("x-role", "a\r\nx-injected: 1"),
        header("bad name", "1"),
    ];
    let ok = OkHttpResponse {
        headers,
        headers_to_remove: removed.map(str::to_owned).to_vec(),
        response_headers_to_add: vec![header("x-verdict", "fine"), header("set-cookie", "stolen=1")],
        ..Default::default()
    };
    let authorizer = Authorizer::new(move |_| Says::Answer(with(ok.clone()))).await;
    let rest = r#","allowedUpstreamHeaders":["x-role","x-roles","x-absent","x-tenant","x-remove","x-mine"],"allowedDownstreamHeaders":["x-verdict"]"#;
    let (pair, _) = asking(&authorizer, rest).await;
    // By this name the app reads of users: it is the mesh's, whatever a list says.
    pair.orders.serves_to(Some("x-mine"), &[]);
    pair.orders.permits(&[WEB, ASK]);
    let mut client = Client::to(pair.out).await;
    let sent = [
        ("x-role", "user"),
        ("X_Role", "root"),
        ("x-roles", "one"),
        ("x-tenant", "blue"),
        ("x-remove", "1"),
        ("X_REMOVE", "2"),
        ("authorization", "Basic YTpi"),
    ];
    let answer = client.request("/", &sent).await;
    assert_eq!(answer.status, 200);
    let text = answer.text().to_lowercase();
    let lines = |name: &str| text.lines().filter(|line| line.starts_with(&format!("{name}: "))).count();
    assert_eq!((answer.echoed("x-role"), lines("x-role"), lines("x_role")), (Some("admin"), 1, 0));
    assert_eq!(lines("x-roles"), 2);
    assert_eq!((answer.echoed("x-absent"), answer.echoed("x-tenant")), (Some("added"), Some("blue")));
    assert_eq!((lines("x-remove"), lines("x_remove")), (0, 0));
    assert_eq!(answer.echoed("authorization"), Some("Basic YTpi"));
    assert!(!text.contains("forged") && !text.contains("x-injected"), "{text}");
    assert_eq!((lines("x-unlisted"), lines("x-mine")), (0, 0));
    assert_eq!((answer.header("x-verdict"), answer.header("set-cookie")), (Some("fine"), None));
    let dropped = |why| {
        pair.orders
            .counter("signet_external_headers_dropped_total", &[("provider", "asked.shop"), ("why", why)])
    };
    // host, :path; txn-token, signet-user, xfcc, content-length, x-mine.
    assert_eq!((dropped("protected"), dropped("unlisted"), dropped("malformed")), (7, 4, 2));
}

#[tokio::test]
async fn a_no_is_told_in_the_providers_words_within_limits() {
    let says = Arc::new(Mutex::new(no()));
    let next = says.clone();
    let authorizer = Authorizer::new(move |_| Says::Answer(next.lock().unwrap().clone())).await;
    let (pair, _) = asking(&authorizer, r#","allowedDownstreamHeaders":["x-why","content-type"]"#).await;
    let mut client = Client::to(pair.out).await;
    let headers = vec![
        header("X-Why", "unpaid"),
        header("signet-deny-reason", "policy"),
        header("signet-decision-id", "0000"),
        header("set-cookie", "a=1"),
        header("transfer-encoding", "chunked"),
    ];
    *says.lock().unwrap() = no_with(402, headers, "pay first");
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.text()), (402, "pay first"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!((answer.header("x-why"), answer.header("set-cookie")), (Some("unpaid"), None));
    assert_eq!(answer.header("signet-deny-reason"), Some("external"));
    assert_eq!(answer.header("signet-decision-id").unwrap().len(), 32);
    assert_eq!(answer.header("transfer-encoding"), None);
    let labels = [("direction", "inbound"), ("service", "orders.shop"), ("code", "4xx")];
    pair.orders.counts("signet_requests_total", &labels, 1).await;

    *says.lock().unwrap() = no_with(429, vec![header("content-type", "application/json")], "{}");
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.text()), (429, "{}"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    // Too much to say is not said, and is a no all the same.
    *says.lock().unwrap() = no_with(418, vec![], &"x".repeat(20_000));
    let answer = client.get("/").await;
    assert_eq!(answer.status, 418);
    assert!(answer.text().starts_with(r#"{"title":"I'm a teapot","status":418"#), "{}", answer.text());
    client.send("HEAD / HTTP/1.1\r\nhost: o\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 418"));
}

#[tokio::test]
async fn grpc_calls_are_asked_about_and_refused_in_their_own_terms() {
    let (app, _) = peers::app(|request, mut respond| async move {
        let (body, _) = peers::drain(request.into_body()).await.unwrap();
        peers::answer_ok(&mut respond, body);
    })
    .await;
    let mut authorizer = Authorizer::new(|asked| {
        let http = asked.attributes.as_ref().unwrap().request.as_ref().unwrap().http.as_ref().unwrap();
        Says::Answer(match &*http.path {
            "/s/Open" => yes(),
            "/s/Unpaid" => no_with(429, vec![], "slow down"),
            _ => no(),
        })
    })
    .await;
    let pair = Pair::new(Protocol::Grpc, app, Limits::default());
    provided(&pair.orders, &format!(r#"{{"local":"{}"}}"#, authorizer.at));
    pair.orders.permits(&[WEB, ASK]);
    let mut client = peers::connect(pair.out).await;
    let body = Bytes::from_static(b"\0\0\0\0\x02hi");
    for (path, status) in [("/s/Open", "0"), ("/s/Unpaid", "8"), ("/s/Shut", "7"), ("/s/Open", "0")] {
        let answer = peers::send(&mut client, peers::call(path), body.clone()).await.unwrap();
        let said = answer.trailer("grpc-status").or(answer.header("grpc-status"));
        assert_eq!((answer.status, said), (200, Some(status)), "{path}");
        let asked = authorizer.asked().unwrap().attributes.unwrap().request.unwrap().http.unwrap();
        assert_eq!((&*asked.protocol, &*asked.method), ("HTTP/2", "POST"));
    }
}

#[tokio::test]
async fn a_question_goes_away_with_its_caller() {
    let (app, _) = peers::app(|_, mut respond| async move { peers::answer_ok(&mut respond, "") }).await;
    let mut authorizer = Authorizer::new(|_| Says::Nothing).await;
    let pair = Pair::new(Protocol::Http2, app, Limits::default());
    provided(&pair.orders, &format!(r#"{{"local":"{}","timeout":"5s"}}"#, authorizer.at));
    pair.orders.permits(&[WEB, ASK]);
    let mut client = peers::connect(pair.out).await;
    let began = Instant::now();
    let request = Request::get("http://orders.shop/").body(()).unwrap();
    let (response, mut stream) = client.send_request(request, true).unwrap();
    assert!(matches!(within(authorizer.events.recv()).await, Some(Event::Asked(_))));
    stream.send_reset(h2::Reason::CANCEL);
    drop(response);
    assert!(matches!(within(authorizer.events.recv()).await, Some(Event::Gone)));
    assert!(began.elapsed() < Duration::from_secs(4), "and not only when its time was over");
}

#[tokio::test]
async fn a_slow_provider_has_so_many_open_questions_and_no_more() {
    let mut authorizer = Authorizer::new(|_| Says::Nothing).await;
    let (pair, _) = asking(&authorizer, r#","timeout":"1s","maxChecks":2"#).await;
    let ask = async |out| Client::to(out).await.get("/").await;
    let (one, two) = (tokio::spawn(ask(pair.out)), tokio::spawn(ask(pair.out)));
    for _ in 0..2 {
        within(authorizer.events.recv()).await.unwrap();
    }
    let began = Instant::now();
    let third = ask(pair.out).await;
    assert_eq!(refused(&third), (503, Some("external-unavailable")));
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(checks(&pair.orders, "overloaded"), 1);
    for waiting in [one, two] {
        assert_eq!(refused(&waiting.await.unwrap()), (503, Some("external-unavailable")));
    }
    assert_eq!(checks(&pair.orders, "timeout"), 2);
    // And the places are free again.
    let again = tokio::spawn(ask(pair.out));
    while !matches!(within(authorizer.events.recv()).await.unwrap(), Event::Asked(_)) {}
    again.await.unwrap();
    assert_eq!(checks(&pair.orders, "timeout"), 3);
}

/// Makes `orders` know `authz.shop` at this place under this identity.
fn knows_authz(pair: &Pair, at: std::net::SocketAddr, identity: &str) {
    let spec = ServiceSpec {
        name: "authz.shop".into(),
        ports: vec![PortSpec {
            name: "grpc".into(),
            port: 9191,
            protocol: Protocol::Grpc,
            timeouts: Timeouts::default(),
            requests_only: false,
        }],
        identities: vec![pair.ca.id(identity)],
        endpoints: vec![EndpointSpec {
            address: at.ip(),
            ports: [("grpc".to_owned(), at.port())].into(),
            identity: None,
            behind: None,
        }],
        ..Default::default()
    };
    pair.orders.state.update_endpoints(|endpoints| endpoints.apply([spec.clone()], [] as [&str; 0]));
}

#[tokio::test]
async fn a_provider_in_the_mesh_is_asked_over_mutual_tls_and_nobody_else_is() {
    let mut authorizer = Authorizer::new(|_| Says::Answer(yes())).await;
    let (app, connections) = counted_echo().await;
    let pair = Pair::http(app);
    // Its own sidecar, under the usual names of these tests, lets orders ask.
    let mut authz = Node::new(generation(&pair.ca, "ns/shop/sa/authz", PeerClass::Sidecar));
    authz.serves(Protocol::Grpc, &[r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/orders"]}}"#]);
    let at = authz.start(vec![inbound(authorizer.at)])[0];
    provided(&pair.orders, r#"{"service":"authz.shop","port":"grpc","timeout":"5s"}"#);
    pair.orders.permits(&[WEB, ASK]);
    let mut client = Client::to(pair.out).await;
    knows_authz(&pair, at, "ns/shop/sa/authz");
    assert_eq!(client.get("/").await.status, 200);
    assert!(authorizer.asked().is_some());
    // Whoever has its address and is somebody else is not asked.
    knows_authz(&pair, at, "ns/shop/sa/other");
    assert_eq!(refused(&client.get("/").await), (503, Some("external-unavailable")));
    assert_eq!(checks(&pair.orders, "identity"), 1);
    assert!(authorizer.asked().is_none());
    // Nor is somebody in plaintext.
    knows_authz(&pair, authorizer.at, "ns/shop/sa/authz");
    assert_eq!(refused(&client.get("/").await), (503, Some("external-unavailable")));
    assert!(authorizer.asked().is_none());
    // Where the provider's own policy does not let us ask, that is no yes.
    knows_authz(&pair, at, "ns/shop/sa/authz");
    authz.permits(&[WEB]);
    assert_eq!(refused(&client.get("/").await), (503, Some("external-unavailable")));
    assert_eq!(checks(&pair.orders, "status"), 1);
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_provider_that_was_restarted_is_asked_again() {
    let authorizer = Authorizer::new(|_| Says::Answer(yes())).await;
    // Between: connections that are cut at will.
    let through = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = through.local_addr().unwrap();
    let (cut, _) = tokio::sync::broadcast::channel::<()>(1);
    let cuts = cut.clone();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = through.accept().await {
            let mut to = tokio::net::TcpStream::connect(authorizer.at).await.unwrap();
            let mut cut = cuts.subscribe();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                    _ = cut.recv() => {}
                }
            });
        }
    });
    let pair = Pair::http(echo().await);
    provided(&pair.orders, &format!(r#"{{"local":"{at}","timeout":"5s"}}"#));
    pair.orders.permits(&[WEB, ASK]);
    let mut client = Client::to(pair.out).await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.status, 200);
        cut.send(()).unwrap();
    }
}

#[tokio::test]
async fn bytes_are_nothing_to_ask_about() {
    let mut authorizer = Authorizer::new(|_| Says::Answer(yes())).await;
    let (app, connections) = counted_echo().await;
    let pair = Pair::new(Protocol::Tcp, app, Limits::default());
    provided(&pair.orders, &format!(r#"{{"local":"{}"}}"#, authorizer.at));
    pair.orders.permits(&[WEB, ASK]);
    let mut client = Client::to(pair.out).await;
    client.send("GET / HTTP/1.1\r\nhost: o\r\n\r\n").await;
    let mut bytes = Vec::new();
    let _ = within(client.stream.read_to_end(&mut bytes)).await;
    assert_eq!((bytes.len(), connections.load(Ordering::Relaxed)), (0, 0));
    assert!(authorizer.asked().is_none());
}

#[tokio::test]
async fn an_upload_is_not_begun_before_the_answer() {
    let authorizer = Authorizer::new(|_| Says::Answer(no())).await;
    let (pair, connections) = asking(&authorizer, "").await;
    let mut client = Client::to(pair.out).await;
    client.send("POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 5\r\n\r\nhello").await;
    assert_eq!(refused(&client.answer().await), (403, Some("external")));
    assert_eq!(connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_permitted_sample_says_who_was_asked() {
    let authorizer = Authorizer::new(|_: &CheckRequest| Says::Answer(yes())).await;
    let (mut pair, _) = asking(&authorizer, "").await;
    pair.orders.samples(10);
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.get("/").await.status, 200);
    let record = pair.orders.decisions.try_recv().unwrap();
    assert!(record.beside, "{}", record.json);
    assert!(
        record.json.contains(r#""external":[{"provider":"asked.shop","outcome":"allowed"}]"#),
        "{}",
        record.json
    );
}

#[tokio::test]
async fn a_provider_on_a_unix_socket_is_asked() {
    let authorizer = Authorizer::new(|_| Says::Answer(yes())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("authz");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut to = tokio::net::TcpStream::connect(authorizer.at).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    });
    let pair = Pair::http(echo().await);
    provided(&pair.orders, &format!(r#"{{"local":"unix:{}"}}"#, path.display()));
    pair.orders.permits(&[WEB, ASK]);
    assert_eq!(Client::to(pair.out).await.get("/").await.status, 200);
}
