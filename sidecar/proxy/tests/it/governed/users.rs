//! A user, a session or a token is revoked: requests for them are refused, what is under way for them ends at once, and
//! whatever is done for anybody else goes on, on the same connection too.

use std::sync::Arc;

use bytes::Bytes;
use signet_identity::{Alpn, PeerClass};
use signet_proxy::state::{Protocol, State};
use signet_token::RevokedUsers;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::scene::Carried;
use crate::http2::peers;
use crate::support::app::{echo, read_head, scripted};
use crate::support::caller::{Client, peer, within};
use crate::support::token::{Mint, now};
use crate::support::{Pair, generation};

type Caller = Client<TlsStream<TcpStream>>;

fn revoke(state: &State, fill: impl Fn(&mut RevokedUsers)) {
    let mut revoked = RevokedUsers::default();
    fill(&mut revoked);
    state.update_revoked_users(&Arc::new(revoked));
}

async fn web(pair: &Pair, alpn: Alpn) -> Caller {
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    peer(pair.at, &web, alpn, &pair.ca.id("ns/shop/sa/orders")).await.unwrap()
}

async fn asks(pair: &Pair, token: &str) -> (u16, Option<String>) {
    let mut client = web(pair, Alpn::Http1).await;
    let answer = client.request("/", &[("txn-token", token), ("signet-context", "forwarded")]).await;
    (answer.status, answer.header("signet-deny-reason").map(str::to_owned))
}

#[tokio::test]
async fn who_is_revoked_by_user_logout_session_or_token_is_refused_although_the_token_is_remembered() {
    let pair = Pair::http(echo().await);
    let mint = Mint::new();
    mint.trusted_by(&pair.orders.state);
    let (alice, bob) = (mint.token("alice", &[]), mint.token("bob", &[]));
    type Fill = fn(&mut RevokedUsers);
    let kinds: [(Fill, &str); 4] = [
        (|all| _ = all.users.insert("idp|alice".into()), "user_revoked"),
        (|all| _ = all.logouts.insert("idp|alice".into(), now()), "signed_out"),
        (|all| _ = all.sessions.insert("idp|s-alice".into()), "session_revoked"),
        (|all| _ = all.tokens.insert("idp|t-alice".into()), "token_revoked"),
    ];
    for (fill, reason) in kinds {
        assert_eq!(asks(&pair, &alice).await.0, 200, "not yet {reason}");
        revoke(&pair.orders.state, fill);
        assert_eq!(asks(&pair, &alice).await, (403, Some(reason.to_owned())));
        assert_eq!(asks(&pair, &mint.token("alice", &[])).await.0, 403, "{reason}, with another token");
        assert_eq!(asks(&pair, &bob).await.0, 200, "{reason}");
        // Nobody's user: the caller by itself is not meant.
        let mut client = web(&pair, Alpn::Http1).await;
        assert_eq!(client.get("/").await.status, 200);
        // It is lifted.
        revoke(&pair.orders.state, |_| {});
    }
    // Whoever signed in again after the logout.
    revoke(&pair.orders.state, |all| _ = all.logouts.insert("idp|alice".into(), now() - 60));
    assert_eq!(asks(&pair, &mint.token("alice", &[])).await.0, 200);
}

/// One exchange on a connection of its own, by which bytes go there and back.
async fn begun(pair: &Pair, carried: Carried, token: &str) -> Caller {
    let mut client = web(pair, Alpn::Http1).await;
    let user = format!("txn-token: {token}\r\nsignet-context: forwarded\r\n");
    let head = match carried {
        Carried::WebSocket => websocket(&user),
        _ => format!("POST / HTTP/1.1\r\nhost: o\r\n{user}transfer-encoding: chunked\r\n\r\n"),
    };
    client.send(head).await;
    assert!(carries(&mut client, carried).await);
    client
}

/// A WebSocket of which nothing was said yet.
async fn begun_websocket(pair: &Pair, token: &str) -> Caller {
    let mut client = web(pair, Alpn::Http1).await;
    client.send(websocket(&format!("txn-token: {token}\r\nsignet-context: forwarded\r\n"))).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    client
}

fn websocket(user: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nhost: o\r\n{user}connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: x\r\n\r\n"
    )
}

/// Whether a word goes there and back.
async fn carries(client: &mut Caller, carried: Carried) -> bool {
    let word: &[u8] = if carried == Carried::WebSocket { b"ping" } else { b"4\r\nping\r\n" };
    if client.stream.write_all(word).await.is_err() || client.stream.flush().await.is_err() {
        return false;
    }
    client.unread.clear();
    while !client.unread.windows(4).any(|four| four == b"ping") {
        match within(client.stream.read_buf(&mut client.unread)).await {
            Ok(1..) => {}
            _ => return false,
        }
    }
    true
}

#[tokio::test]
async fn an_exchange_and_a_websocket_of_a_revoked_user_end_and_those_of_others_go_on() {
    for carried in [Carried::Http1, Carried::WebSocket] {
        let pair = Pair::http(carried.app().await);
        let mint = Mint::new();
        mint.trusted_by(&pair.orders.state);
        let mut alice = begun(&pair, carried, &mint.token("alice", &[])).await;
        let mut bob = begun(&pair, carried, &mint.token("bob", &[])).await;
        revoke(&pair.orders.state, |all| _ = all.sessions.insert("idp|s-alice".into()));
        let mut rest = Vec::new();
        let _ = within(alice.stream.read_to_end(&mut rest)).await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{carried:?}: what was cut must not look whole");
        assert!(carries(&mut bob, carried).await, "{carried:?}");
    }
}

/// A frame with this word, as `length` says (RFC 6455, 5.2), to an app that sends everything back.
async fn framed(client: &mut Caller, length: u8, word: &[u8]) {
    client.send([&[0x82, length], word].concat()).await;
    let count = word.len() + 2;
    assert_eq!(client.take(count).await[2..], *word);
}

#[tokio::test]
async fn a_websocket_is_told_why_it_ends_between_two_frames_and_never_within_one() {
    let pair = Pair::http(Carried::WebSocket.app().await);
    let mint = Mint::new();
    mint.trusted_by(&pair.orders.state);
    let mut whole = begun_websocket(&pair, &mint.token("alice", &[])).await;
    let mut half = begun_websocket(&pair, &mint.token("alice", &[])).await;
    let mut closed = begun_websocket(&pair, &mint.token("alice", &[])).await;
    framed(&mut whole, 4, b"ping").await;
    framed(&mut half, 5, b"ping").await;
    closed.send([0x88, 0]).await;
    assert_eq!(closed.take(2).await, [0x88, 0]);
    revoke(&pair.orders.state, |all| _ = all.users.insert("idp|alice".into()));
    assert_eq!(whole.rest().await, b"\x88\x0e\x03\xf0user_revoked");
    for mut client in [half, closed] {
        let mut rest = Vec::new();
        let _ = within(client.stream.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"");
    }
}

#[tokio::test]
async fn of_the_calls_on_one_connection_only_those_for_the_revoked_user_end() {
    let pair = Pair::new(Protocol::Grpc, Carried::Grpc.app().await, signet_proxy::Limits::default());
    let mint = Mint::new();
    mint.trusted_by(&pair.orders.state);
    let (mut client, connection) = h2::client::handshake(web(&pair, Alpn::H2).await.stream).await.unwrap();
    tokio::spawn(connection);
    let mut calls = Vec::new();
    for user in ["alice", "bob"] {
        let mut call = peers::call("/shop.v1.Orders/Watch");
        let token = mint.token(user, &[]).parse().unwrap();
        call.headers_mut().insert("txn-token", token);
        call.headers_mut().insert("signet-context", "forwarded".parse().unwrap());
        client = client.ready().await.unwrap();
        let (answer, mut send) = client.send_request(call, false).unwrap();
        peers::write(&mut send, Bytes::from_static(b"ping"), false).await.unwrap();
        let mut body = within(answer).await.unwrap().into_body();
        assert_eq!(within(body.data()).await.unwrap().unwrap(), "ping");
        calls.push((send, body));
    }
    revoke(&pair.orders.state, |all| _ = all.users.insert("idp|alice".into()));
    let (mut of_bob, mut of_alice) = (calls.pop().unwrap(), calls.pop().unwrap());
    assert!(within(of_alice.1.data()).await.is_none(), "alice's call goes on");
    let trailers = within(of_alice.1.trailers()).await.unwrap().expect("a status");
    assert!(trailers["grpc-status"] == "16" && trailers["grpc-message"] == "user_revoked", "{trailers:?}");
    peers::write(&mut of_bob.0, Bytes::from_static(b"ping"), false).await.unwrap();
    assert_eq!(within(of_bob.1.data()).await.unwrap().unwrap(), "ping");
}

#[tokio::test]
async fn a_request_that_waits_for_its_answer_is_refused_and_the_connection_serves_on() {
    let (came, mut coming) = tokio::sync::mpsc::channel(1);
    let app = scripted(move |mut socket| {
        let came = came.clone();
        async move {
            let Some(head) = read_head(&mut socket).await else { return };
            if head.contains("/slow") {
                came.send(()).await.unwrap();
                // Until the sidecar goes.
                let _ = socket.read_u8().await;
            } else {
                socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    let pair = Pair::http(app);
    let mint = Mint::new();
    mint.trusted_by(&pair.orders.state);
    let mut client = web(&pair, Alpn::Http1).await;
    let token = mint.token("alice", &[]);
    client
        .send(format!(
            "GET /slow HTTP/1.1\r\nhost: o\r\ntxn-token: {token}\r\nsignet-context: forwarded\r\n\r\n"
        ))
        .await;
    coming.recv().await.unwrap();
    revoke(&pair.orders.state, |all| _ = all.tokens.insert("idp|t-alice".into()));
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (403, Some("token_revoked")));
    assert_eq!(client.get("/").await.status, 204, "the next request on it is somebody else's");
}
