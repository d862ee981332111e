//! HTTP/1.1 through a pair of sidecars: nothing is lost, added or reordered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use signet_proxy::Limits;
use signet_proxy::state::{Protocol, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::app::{counted_echo, echo, fixed, read_head, scripted};
use crate::support::caller::{Client, within};
use crate::support::{Node, Pair, inbound, outbound};

#[tokio::test]
async fn a_request_arrives_and_its_answer_returns_over_kept_connections() {
    let (app, connections) = counted_echo().await;
    let pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    for number in 0..20 {
        let answer = client.request(&format!("/items/{number}?q=1"), &[("x-tag", "a b")]).await;
        assert_eq!(answer.status, 200);
        assert!(answer.text().starts_with(&format!("GET /items/{number}?q=1\n")), "{}", answer.text());
        assert_eq!(answer.echoed("x-tag"), Some("a b"));
        assert_eq!(answer.echoed("host"), Some("orders"));
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    let count = pair.orders.counter(
        "signet_requests_total",
        &[("direction", "inbound"), ("service", "orders.shop"), ("code", "2xx")],
    );
    // The last answer is counted after it was sent.
    assert!((19..=20).contains(&count), "{count}");
}

#[tokio::test]
async fn bodies_of_any_framing_pass_unchanged() {
    let pair = Pair::http(echo().await);
    let mut client = Client::to(pair.out).await;
    client.send("POST /a HTTP/1.1\r\nhost: o\r\ncontent-length: 11\r\n\r\nhello there").await;
    assert!(client.answer().await.text().ends_with("\n\nhello there"));

    client
        .send("POST /b HTTP/1.1\r\nhost: o\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n6\r\n there\r\n0\r\nx-sum: 42\r\nsignet-user: me\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert!(answer.text().contains("\n\nhello there"), "{}", answer.text());
    assert!(answer.text().contains("trailer x-sum: 42\n"), "{}", answer.text());
    assert!(!answer.text().contains("signet-user"), "{}", answer.text());

    // In pieces, with pauses in unlucky places.
    for piece in [
        "PO",
        "ST /c HTTP/1.1\r\nhost: o\r\ntransfer-enc",
        "oding: chunked\r\n\r\n",
        "3",
        "\r\nab",
        "c\r\n0\r",
        "\n\r\n",
    ] {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert!(client.answer().await.text().ends_with("\n\nabc"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let pair = Pair::http(echo().await);
    let mut client = Client::to(pair.out).await;
    let mut all = String::new();
    for number in 0..10 {
        all += &format!("POST /{number} HTTP/1.1\r\nhost: o\r\ncontent-length: 2\r\n\r\n{number}!");
    }
    client.send(all).await;
    for number in 0..10 {
        let answer = client.answer().await;
        assert!(answer.text().starts_with(&format!("POST /{number}\n")));
        assert!(answer.text().ends_with(&format!("\n\n{number}!")));
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once_unharmed() {
    let pair = Pair::http(echo().await);
    let client = Client::to(pair.out).await;
    let body: Vec<u8> = (0..8_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = client.stream.into_split();
    let sent = body.clone();
    let send = tokio::spawn(async move {
        let head = format!("POST /big HTTP/1.1\r\nhost: o\r\ncontent-length: {}\r\n\r\n", sent.len());
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&sent).await.unwrap();
        write
    });
    let mut got = Vec::new();
    within(async {
        let mut buffer = vec![0; 65536];
        while !got.ends_with(&body[body.len() - 1000..]) || got.len() < body.len() {
            let count = read.read(&mut buffer).await.unwrap();
            assert!(count > 0);
            got.extend_from_slice(&buffer[..count]);
        }
    })
    .await;
    assert!(got.windows(4).any(|four| four == b"\r\n\r\n"));
    assert!(got.ends_with(&body));
    drop(send.await.unwrap());
}

#[tokio::test]
async fn a_chunked_answer_keeps_its_chunks_and_loses_only_protected_trailers() {
    let app = fixed(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nsignet-decision-id: forged\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\nsignet-deny-reason: forged\r\n\r\n",
    )
    .await;
    let pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    let answer = client.get("/").await;
    assert_eq!(answer.header("signet-decision-id"), None);
    assert_eq!(answer.text(), "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n");
}

#[tokio::test]
async fn an_old_client_gets_the_bare_content_and_a_close() {
    let app =
        fixed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
    let pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    client.send("GET / HTTP/1.0\r\nhost: o\r\n\r\n").await;
    let head = client.head().await;
    assert!(!head.contains("chunked"), "{head}");
    assert_eq!(client.rest().await, b"abcde");
}

#[tokio::test]
async fn an_answer_until_close_arrives_whole_and_closes() {
    let app = scripted(|mut socket| async move {
        read_head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nfirst ").await.unwrap();
        tokio::task::yield_now().await;
        socket.write_all(b"last").await.unwrap();
    })
    .await;
    let pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    client.send("GET / HTTP/1.1\r\nhost: o\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(client.rest().await, b"first last");
}

#[tokio::test]
async fn an_answer_that_is_cut_is_a_reset_and_never_looks_whole() {
    let app = scripted(|mut socket| async move {
        read_head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await.unwrap();
    })
    .await;
    let pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    client.send("GET / HTTP/1.1\r\nhost: o\r\n\r\n").await;
    let mut rest = Vec::new();
    assert!(
        within(client.stream.read_to_end(&mut rest)).await.is_err(),
        "{:?}",
        String::from_utf8_lossy(&rest)
    );
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it_from_the_app() {
    let pair = Pair::http(echo().await);
    let mut client = Client::to(pair.out).await;
    client.send("POST / HTTP/1.1\r\nhost: o\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 100"));
    client.send("body").await;
    assert!(client.answer().await.text().ends_with("\n\nbody"));
    assert_eq!(client.get("/next").await.status, 200);
}

#[tokio::test]
async fn a_refused_upload_is_answered_before_it_is_sent() {
    let app = scripted(|mut socket| async move {
        read_head(&mut socket).await;
        let answer = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        socket.write_all(answer).await.unwrap();
        let mut rest = [0; 1024];
        while socket.read(&mut rest).await.is_ok_and(|count| count > 0) {}
    })
    .await;
    let pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    client
        .send("POST / HTTP/1.1\r\nhost: o\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 413);
}

#[tokio::test]
async fn the_answer_to_head_has_a_length_and_no_body() {
    let app = fixed(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
    let pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nhost: o\r\n\r\n").await;
        assert!(client.head().await.contains("content-length: 1000"));
    }
}

#[tokio::test]
async fn a_websocket_is_bytes_after_the_apps_101() {
    let app = scripted(|mut socket| async move {
        let head = read_head(&mut socket).await.unwrap();
        assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhello";
        socket.write_all(answer).await.unwrap();
        let mut buffer = [0; 64];
        loop {
            let count = socket.read(&mut buffer).await.unwrap();
            if count == 0 {
                socket.write_all(b"bye").await.unwrap();
                return;
            }
            socket.write_all(&buffer[..count]).await.unwrap();
        }
    })
    .await;
    let pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    client
        .send("GET /ws HTTP/1.1\r\nhost: o\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: x\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    assert_eq!(client.take(5).await, b"hello");
    client.send("ping").await;
    assert_eq!(client.take(4).await, b"ping");
    within(client.stream.shutdown()).await.unwrap();
    assert_eq!(client.rest().await, b"bye");
}

#[tokio::test]
async fn other_upgrades_are_ignored() {
    let pair = Pair::http(echo().await);
    let mut client = Client::to(pair.out).await;
    let answer = client
        .request(
            "/",
            &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")],
        )
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.echoed("upgrade"), None);
    assert_eq!(answer.echoed("http2-settings"), None);
}

#[tokio::test]
async fn requests_that_two_readers_could_read_differently_are_refused() {
    let pair = Pair::http(echo().await);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: o\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: o\r\nauthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n", 400),
        ("GET / HTTP/1.1\nhost: o\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("CONNECT o:80 HTTP/1.1\r\nhost: o:80\r\n\r\n", 405),
    ] {
        let mut client = Client::to(pair.out).await;
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{request:?}");
        assert!(answer.header("signet-decision-id").is_some());
        assert_eq!(client.ended().await, Some(true));
    }
    let mut client = Client::to(pair.out).await;
    client.send(format!("GET / HTTP/1.1\r\nhost: o\r\nx: {}\r\n\r\n", "y".repeat(40_000))).await;
    assert_eq!(client.answer().await.status, 431);
}

#[tokio::test]
async fn a_slow_head_ends_in_408() {
    let limits = Limits { head_time: Duration::from_millis(200), ..Limits::default() };
    let pair = Pair::new(Protocol::Http1, echo().await, limits);
    let mut client = Client::to(pair.out).await;
    client.send("GET / HT").await;
    assert_eq!(client.answer().await.status, 408);
    assert_eq!(client.ended().await, Some(true));
}

#[tokio::test]
async fn a_slow_answer_ends_in_504_and_the_next_request_works() {
    let first = Arc::new(AtomicUsize::new(0));
    let app = scripted(move |mut socket| {
        let first = first.clone();
        async move {
            while read_head(&mut socket).await.is_some() {
                if first.fetch_add(1, Ordering::Relaxed) == 0 {
                    std::future::pending::<()>().await;
                }
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    let pair = Pair::http(app);
    let timeouts = Timeouts { request: Some(Duration::from_millis(200)), ..Default::default() };
    pair.web.knows_as(&pair.ca, Protocol::Http1, &[pair.at], "ns/shop/sa/orders", timeouts);
    let mut client = Client::to(pair.out).await;
    let answer = client.get("/").await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.header("signet-deny-reason"), Some("upstream-timeout"));
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_reused_connection_that_died_costs_a_safe_request_nothing() {
    // Closes without a word after each answer, as servers do whose idle time has passed.
    let app = scripted(|mut socket| async move {
        read_head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        // The next request is read and dropped.
        read_head(&mut socket).await;
    })
    .await;
    let pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(pair.orders.counter("signet_upstream_retries_total", &[]) >= 5);
    // Whether a POST was carried out nobody knows: it is not sent twice.
    client.send("POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 2\r\n\r\nhi").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("signet-deny-reason"), Some("upstream-reset"));
}

#[tokio::test]
async fn a_dead_app_is_a_503_with_its_reason() {
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let mut pair = Pair::http(gone);
    let mut client = Client::to(pair.out).await;
    let answer = client.get("/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("signet-deny-reason"), Some("connect-failed"));
    let id = answer.header("signet-decision-id").unwrap();
    let record = pair.orders.decisions.try_recv().unwrap();
    assert_eq!(record.id.to_string(), id);
}

#[tokio::test]
async fn the_client_that_leaves_takes_its_request_with_it() {
    let (told, mut left) = tokio::sync::mpsc::channel(1);
    let app = scripted(move |mut socket| {
        let told = told.clone();
        async move {
            read_head(&mut socket).await;
            told.send("came").await.unwrap();
            let mut byte = [0];
            let _ = socket.read(&mut byte).await;
            told.send("left").await.unwrap();
        }
    })
    .await;
    let pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    client.send("GET /slow HTTP/1.1\r\nhost: o\r\n\r\n").await;
    assert_eq!(within(left.recv()).await, Some("came"));
    // As a client does that is killed. A mere end of its half would say: no more requests.
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(within(left.recv()).await, Some("left"));
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_is_dead() {
    let pair = Pair::http(echo().await);
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    pair.web.knows(&pair.ca, Protocol::Http1, &[dead, pair.at]);
    for _ in 0..10 {
        let mut client = Client::to(pair.out).await;
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn several_workers_serve_one_address() {
    let ca = signet_identity::testing::TestCa::new("demo.signet");
    let class = signet_identity::PeerClass::Sidecar;
    let mut orders = Node::new(crate::support::generation(&ca, "ns/shop/sa/orders", class));
    orders.serves(Protocol::Http1, &[crate::support::WEB]);
    let at = orders.start_workers(vec![inbound(echo().await)], 3)[0];
    let mut web = Node::new(crate::support::generation(&ca, "ns/shop/sa/web", class));
    web.knows(&ca, Protocol::Http1, &[at]);
    let out = web.start_workers(vec![outbound()], 3)[0];
    let mut clients = Vec::new();
    for _ in 0..24 {
        clients.push(Client::to(out).await);
    }
    for client in &mut clients {
        assert_eq!(client.get("/").await.status, 200);
    }
    drop(clients);
    assert_eq!(web.drain(Duration::from_secs(5)).await, 0);
    assert_eq!(orders.drain(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn a_client_that_ends_its_half_gets_every_answer_that_it_asked_for() {
    let pair = Pair::http(echo().await);
    let mut client = Client::to(pair.out).await;
    for number in 0..5 {
        client.send(format!("GET /{number} HTTP/1.1\r\nhost: o\r\n\r\n")).await;
    }
    within(client.stream.shutdown()).await.unwrap();
    for number in 0..5 {
        assert!(client.answer().await.text().starts_with(&format!("GET /{number}\n")));
    }
    assert_eq!(client.ended().await, Some(true));
}
