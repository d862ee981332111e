//! The key fetcher against a server that misbehaves in every way that it must survive.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use signet_control_plane::issuers::Issuers;
use signet_control_plane::issuers::fetch::{Client, FetchError, Fetched, Source};
use tokio::net::TcpListener;

pub(crate) const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","use":"sig","alg":"ES256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

struct Idp {
    address: SocketAddr,
    hits: Arc<AtomicUsize>,
}

impl Idp {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hits = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&hits);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let counted = Arc::clone(&counted);
                let service = hyper::service::service_fn(move |request| {
                    let hit = counted.fetch_add(1, Ordering::SeqCst);
                    answer(request, address, hit)
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, hits }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn source(&self, path: &str) -> Source {
        Source { issuer: self.url(""), jwks_uri: Some(self.url(path)) }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

async fn answer(
    request: Request<Incoming>,
    me: SocketAddr,
    hit: usize,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let response = Response::builder();
    let redirect =
        |to: String| Response::builder().status(302).header("location", to).body(Full::default()).unwrap();
    let metadata =
        |issuer: &str| Full::from(format!(r#"{{"issuer":"{issuer}","jwks_uri":"http://{me}/jwks"}}"#));
    Ok(match request.uri().path() {
        "/jwks" if request.headers().get("if-none-match").is_some_and(|v| v == "\"v1\"") => {
            response.status(304).header("cache-control", "max-age=600").body(Full::default()).unwrap()
        }
        "/jwks" => response
            .header("etag", "\"v1\"")
            .header("cache-control", "public, max-age=900")
            .body(Full::from(JWKS))
            .unwrap(),
        "/once" if hit == 0 => response.body(Full::from(JWKS)).unwrap(),
        "/500" => response.status(StatusCode::INTERNAL_SERVER_ERROR).body(Full::from("no")).unwrap(),
        "/304" => response.status(304).body(Full::default()).unwrap(),
        "/large" => response.body(Full::from(vec![b' '; 256 * 1024 + 1])).unwrap(),
        "/garbage" => response.body(Full::from("{\"keys\":")).unwrap(),
        "/latin" => response.body(Full::from(vec![0xe9, 0x28])).unwrap(),
        "/hang" => std::future::pending().await,
        "/metadata" => redirect("http://169.254.169.254/latest/meta-data".into()),
        "/elsewhere" => redirect("http://127.0.0.1:1/jwks".into()),
        "/protocol-relative" => redirect("//169.254.169.254/jwks".into()),
        "/moved" => redirect("/jwks".into()),
        "/moved-absolute" => redirect(format!("http://{me}/jwks")),
        "/loop" => redirect("/loop".into()),
        "/.well-known/openid-configuration" => response.body(metadata(&format!("http://{me}"))).unwrap(),
        "/foreign/.well-known/openid-configuration" => {
            response.body(metadata("https://accounts.example")).unwrap()
        }
        _ => response.status(404).body(Full::default()).unwrap(),
    })
}

fn client() -> Client {
    Client::new(true, true, Duration::from_secs(5)).unwrap()
}

async fn fails(idp: &Idp, path: &str) -> FetchError {
    client().keys(&idp.source(path), None).await.unwrap_err()
}

#[tokio::test]
async fn keys_come_with_their_age_and_a_304_confirms_them() {
    let idp = Idp::start().await;
    let fetched = client().keys(&idp.source("/jwks"), None).await.unwrap();
    let Fetched::Keys { text, validator, max_age } = fetched else { panic!("{fetched:?}") };
    assert_eq!((text.as_str(), max_age), (JWKS, Some(Duration::from_secs(900))));
    let again = client().keys(&idp.source("/jwks"), validator.as_ref()).await.unwrap();
    assert_eq!(again, Fetched::NotModified { max_age: Some(Duration::from_secs(600)) });
}

#[tokio::test]
async fn a_304_to_nothing_and_a_500_are_failures() {
    let idp = Idp::start().await;
    assert_eq!(fails(&idp, "/304").await, FetchError::Status(304));
    assert_eq!(fails(&idp, "/500").await, FetchError::Status(500));
    assert_eq!(fails(&idp, "/absent").await, FetchError::Status(404));
}

#[tokio::test]
async fn an_oversized_answer_is_cut_off() {
    let idp = Idp::start().await;
    assert_eq!(fails(&idp, "/large").await, FetchError::TooLarge);
    assert_eq!(fails(&idp, "/latin").await, FetchError::NotText);
}

#[tokio::test]
async fn an_answer_that_never_comes_ends_at_the_timeout() {
    let idp = Idp::start().await;
    let hasty = Client::new(true, true, Duration::from_millis(50)).unwrap();
    let error = hasty.keys(&idp.source("/hang"), None).await.unwrap_err();
    assert_eq!(error.label(), "timeout");
}

#[tokio::test]
async fn a_redirect_stays_on_its_host() {
    let idp = Idp::start().await;
    for path in ["/metadata", "/elsewhere", "/protocol-relative"] {
        assert!(matches!(fails(&idp, path).await, FetchError::RedirectRefused(_)), "{path}");
    }
    assert_eq!(fails(&idp, "/loop").await, FetchError::TooManyRedirects);
    for path in ["/moved", "/moved-absolute"] {
        assert!(client().keys(&idp.source(path), None).await.is_ok(), "{path}");
    }
}

#[tokio::test]
async fn private_addresses_are_refused_before_anything_is_sent() {
    let idp = Idp::start().await;
    let strict = Client::new(false, true, Duration::from_secs(5)).unwrap();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let source = Source {
            issuer: "http://idp".into(),
            jwks_uri: Some(format!("http://{host}:{}/jwks", idp.address.port())),
        };
        let error = strict.keys(&source, None).await.unwrap_err();
        assert_eq!(error.label(), "address_refused", "{host}: {error}");
    }
    assert_eq!(idp.hits(), 0);
}

#[tokio::test]
async fn http_needs_the_development_setting_and_https_is_really_tls() {
    let idp = Idp::start().await;
    let strict = Client::new(true, false, Duration::from_secs(5)).unwrap();
    let error = strict.keys(&idp.source("/jwks"), None).await.unwrap_err();
    assert_eq!(error.label(), "url");
    let https = Source { issuer: String::new(), jwks_uri: Some(format!("https://{}/jwks", idp.address)) };
    assert_eq!(strict.keys(&https, None).await.unwrap_err().label(), "tls");
    assert_eq!(idp.hits(), 0);
}

#[tokio::test]
async fn discovery_finds_the_keys_and_believes_only_its_own_issuer() {
    let idp = Idp::start().await;
    let source = Source { issuer: idp.url(""), jwks_uri: None };
    assert!(matches!(client().keys(&source, None).await, Ok(Fetched::Keys { .. })));
    let foreign = Source { issuer: idp.url("/foreign"), jwks_uri: None };
    let error = client().keys(&foreign, None).await.unwrap_err();
    assert!(matches!(error, FetchError::ForeignIssuer { .. }), "{error}");
}

#[tokio::test]
async fn an_issuer_that_fails_does_not_touch_the_keys_of_another() {
    let idp = Idp::start().await;
    let dir = tempfile::tempdir().unwrap();
    let issuers = Issuers::new(client(), &dir.path().join("kept.json"));
    let mut states = issuers.subscribe();
    issuers.follow(&BTreeMap::from([
        ("good".to_owned(), idp.source("/jwks")),
        ("hangs".to_owned(), idp.source("/hang")),
        ("garbage".to_owned(), idp.source("/garbage")),
    ]));
    let settled = states
        .wait_for(|s| {
            s.get("good").is_some_and(|k| k.jwks.is_some())
                && s.get("garbage").is_some_and(|k| !k.error.is_empty())
        })
        .await
        .unwrap()
        .clone();
    assert_eq!(settled["good"].keys, 1);
    assert!(settled["good"].error.is_empty() && settled["good"].fetched_at > 0);
    assert_eq!(settled["garbage"].jwks, None, "there is no fallback key");
    assert_eq!(settled["hangs"], Default::default());
    issuers.follow(&BTreeMap::from([("good".to_owned(), idp.source("/jwks"))]));
    assert_eq!(issuers.states().keys().collect::<Vec<_>>(), ["good"]);
    assert!(issuers.states()["good"].jwks.is_some(), "an issuer that stays keeps its keys");
    issuers.follow(&BTreeMap::from([("good".to_owned(), idp.source("/500"))]));
    assert_eq!(issuers.states()["good"].jwks, None, "an issuer that moved is another one until it answers");
}

#[tokio::test]
async fn ten_thousand_unknown_keys_do_not_become_a_second_fetch() {
    let idp = Idp::start().await;
    let dir = tempfile::tempdir().unwrap();
    let issuers = Issuers::new(client(), &dir.path().join("kept.json"));
    let mut states = issuers.subscribe();
    issuers.follow(&BTreeMap::from([("idp".to_owned(), idp.source("/jwks"))]));
    states.wait_for(|s| s.get("idp").is_some_and(|k| k.jwks.is_some())).await.unwrap();
    for _ in 0..10_000 {
        issuers.want("idp");
        tokio::task::yield_now().await;
    }
    // A round trip of our own: had the herd caused a fetch, it would have arrived before it.
    let before = idp.hits();
    client().keys(&idp.source("/jwks"), None).await.unwrap();
    assert_eq!((before, idp.hits()), (1, 2));
}

#[tokio::test]
async fn a_restart_while_the_issuer_is_down_keeps_its_keys() {
    let idp = Idp::start().await;
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept.json");
    let source = Source { issuer: idp.url(""), jwks_uri: Some(idp.url("/once")) };
    let follow = async || {
        let issuers = Issuers::new(client(), &kept);
        let mut states = issuers.subscribe();
        issuers.follow(&BTreeMap::from([("idp".to_owned(), source.clone())]));
        let settled = |s: &signet_control_plane::issuers::Keys| {
            s.get("idp").is_some_and(|k| !k.error.is_empty() || k.jwks.is_some())
        };
        let state = states.wait_for(settled).await.unwrap()["idp"].clone();
        (issuers, state)
    };
    let (first, fetched) = follow().await;
    assert_eq!(fetched.keys, 1);
    while !kept.exists() {
        tokio::task::yield_now().await;
    }
    first.stop();
    let (_second, state) = follow().await;
    assert_eq!((state.jwks, state.fetched_at), (fetched.jwks, fetched.fetched_at));
}
