//! How an app reads of users is the service's to say, and nobody else's word under those names arrives.

use bytes::Bytes;
use http::{HeaderMap, Request};
use signet_identity::{Alpn, PeerClass};
use signet_proxy::Limits;
use signet_proxy::state::Protocol;

use crate::http2::peers;
use crate::support::app::echo;
use crate::support::caller::{Answer, Client, dial};
use crate::support::token::Mint;
use crate::support::{Pair, generation};

const CLAIMS: &[(&str, &str)] = &[("x-user-id", "sub"), ("x-groups", "groups"), ("x-email", "email")];

/// Every spelling of a name, as a caller may send it over HTTP/1.1.
fn spellings(name: &str) -> Vec<String> {
    let mixed = name.char_indices().map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c });
    vec![
        name.into(),
        name.to_uppercase(),
        name.replace('-', "_"),
        name.to_uppercase().replace('-', "_"),
        mixed.collect(),
    ]
}

fn lines<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let folded = |line: &str| line.split(": ").next().unwrap_or_default().to_lowercase().replace('_', "-");
    answer.text().lines().filter(|line| folded(line.trim_start_matches("trailer ")) == name).collect()
}

#[tokio::test]
async fn the_app_reads_of_users_by_the_names_that_its_service_chose() {
    let pair = Pair::http(echo().await);
    pair.orders.serves_to(Some("x-jwt-payload"), CLAIMS);
    let mint = Mint::new();
    mint.trusted_by(&pair.orders.state);
    let token = mint.token("alice", &["orders:read"]);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let mut client = peer(&pair, &web).await;
    let sent = [("txn-token", token.as_str()), ("signet-context", "forwarded")];
    let answer = client.request("/", &sent).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.echoed("signet-user"), None, "the other name is taken instead");
    assert!(answer.echoed("x-jwt-payload").is_some());
    assert_eq!(answer.echoed("x-user-id"), Some("idp|alice"));
    assert_eq!(answer.echoed("x-groups"), Some("staff"));
    assert_eq!(answer.echoed("x-email"), None, "an absent claim is an absent header");
}

async fn peer(
    pair: &Pair,
    caller: &std::sync::Arc<signet_identity::Generation>,
) -> Client<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let name = signet_identity::server_name(&pair.ca.id("ns/shop/sa/orders"));
    dial(pair.at, caller, Alpn::Http1, name).await.unwrap()
}

#[tokio::test]
async fn no_spelling_of_a_name_passes_over_http1_whoever_sends_it() {
    let pair = Pair::http(echo().await);
    pair.orders.serves_to(Some("x-jwt-payload"), CLAIMS);
    let mint = Mint::new();
    mint.trusted_by(&pair.orders.state);
    let token = mint.token("alice", &[]);
    let names = ["x-jwt-payload", "x-user-id", "x-groups", "x-email"];
    for class in [PeerClass::Sidecar, PeerClass::Gateway, PeerClass::Workload] {
        let caller = generation(&pair.ca, "ns/shop/sa/web", class);
        let mut client = peer(&pair, &caller).await;
        for name in names {
            for with_user in [false, true] {
                let forged = spellings(name);
                let mut sent: Vec<_> = forged.iter().map(|spelled| (spelled.as_str(), "forged")).collect();
                // Doubled, and named as if it were the connection's.
                sent.push((name, "forged"));
                sent.push(("Connection", name));
                if with_user {
                    sent.extend([("txn-token", token.as_str()), ("signet-context", "forwarded")]);
                }
                let answer = client.request("/", &sent).await;
                assert_eq!(answer.status, 200, "{name}");
                assert!(!answer.text().contains("forged"), "{name}: {}", answer.text());
                let is_told = with_user && class != PeerClass::Workload && name != "x-email";
                assert_eq!(lines(&answer, name).len(), usize::from(is_told), "{name} {class:?}");
            }
        }
        // In trailers.
        let mut text =
            "POST / HTTP/1.1\r\nhost: o\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n".to_owned();
        for spelled in names.iter().flat_map(|name| spellings(name)) {
            text += &format!("{spelled}: forged\r\n");
        }
        client.send(text + "x-kept: yes\r\n\r\n").await;
        let answer = client.answer().await;
        assert!(!answer.text().contains("forged"), "{}", answer.text());
        assert!(answer.text().contains("trailer x-kept: yes"), "{}", answer.text());
    }
    let stripped = pair.orders.counter("signet_stripped_headers_total", &[("direction", "inbound")]);
    assert!(stripped > 3 * 4 * 2 * 6, "{stripped}");
}

#[tokio::test]
async fn no_spelling_of_a_name_passes_over_http2_nor_in_trailers() {
    let (app, _) = peers::app(|request, mut respond| async move {
        let (head, body) = request.into_parts();
        let (_, trailers) = peers::drain(body).await.unwrap();
        let text = format!("{:?} {:?}", head.headers, trailers);
        peers::answer_ok(&mut respond, Bytes::from(text));
    })
    .await;
    let pair = Pair::new(Protocol::Http2, app, Limits::default());
    pair.orders.serves_to(Some("x-jwt-payload"), CLAIMS);
    let mut client = peers::connect(pair.out).await;
    let mut request = Request::post("http://orders.shop/").body(()).unwrap();
    let mut trailers = HeaderMap::new();
    for name in
        ["x-jwt-payload", "x_jwt_payload", "x-jwt_payload", "x-groups", "x_groups", "x-user_id", "x-email"]
    {
        request.headers_mut().append(name, "forged".parse().unwrap());
        request.headers_mut().append(name, "forged".parse().unwrap());
        trailers.append(name, "forged".parse().unwrap());
    }
    trailers.insert("x-kept", "yes".parse().unwrap());
    let (response, mut stream) = client.send_request(request, false).unwrap();
    peers::write(&mut stream, Bytes::from_static(b"hi"), false).await.unwrap();
    stream.send_trailers(trailers).unwrap();
    let answer = peers::answer(response).await.unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    assert!(!text.contains("forged") && text.contains("x-kept"), "{text}");
}

#[tokio::test]
async fn an_app_says_nothing_of_users_by_the_names_that_it_reads() {
    // What `web`'s app reads it may not send on, to whom it is not told by that name either.
    let pair = Pair::http(echo().await);
    pair.web.serves(Protocol::Http1, &[]);
    pair.web.serves_to(Some("x-jwt-payload"), CLAIMS);
    let mut client = Client::to(pair.out).await;
    let forged: Vec<_> = ["x-jwt-payload", "x-groups"].iter().flat_map(|name| spellings(name)).collect();
    let sent: Vec<_> = forged.iter().map(|name| (name.as_str(), "forged")).collect();
    let answer = client.request("/", &sent).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.text().contains("forged"), "{}", answer.text());
    let labels = [("direction", "outbound"), ("service", "orders.shop")];
    assert_eq!(pair.web.counter("signet_stripped_headers_total", &labels), 10);
    // And once it reads by other names, these are nobody's.
    pair.web.serves_to(None, &[]);
    assert!(client.request("/", &sent).await.text().contains("forged"));
}

#[test]
fn names_that_mean_something_are_not_to_be_had() {
    use signet_proxy::state::UserHeaders;
    for name in [
        "host",
        "authorization",
        "content-length",
        "connection",
        "te",
        "cookie",
        "signet-user",
        "txn-token",
        "x_user",
        "x-forwarded-for",
        "baggage",
        "traceparent",
        ":path",
        "",
        "bad name",
        "proxy-authorization",
        "upgrade",
    ] {
        assert!(UserHeaders::new(Some(name), []).is_err(), "{name}");
        assert!(UserHeaders::new(None, [(name, "sub")]).is_err(), "{name}");
    }
}
