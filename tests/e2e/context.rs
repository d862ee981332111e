//! Who the user is, from the gateway to the last service.

use serde_json::{Value, json};
use signet_proto::v1::ExplainChainRequest;
use signet_tests::apps::Echo;
use signet_tests::client::{get, header, text};
use signet_tests::issuer::{Issuer, now};
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::{PATIENCE, binary};
use signet_tests::svid::Svid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// gateway → `front` → (its app calls) → `back`; both apps echo what they saw.
struct Chain {
    mesh: Mesh,
    front: Echo,
    back: Echo,
    issuer: Issuer,
    gateway: String,
    /// Where the front's app reaches `back`.
    to_back: String,
    /// Where the front's sidecar takes calls.
    front_in: String,
}

impl Chain {
    async fn start(user_context: &str) -> Self {
        let (front, back, issuer) = (Echo::start().await, Echo::start().await, Issuer::start().await);
        let (gateway, to_back) = (free_address(), free_address());
        let (front_in, back_in) = (free_address(), free_address());
        let with_context = |document: String| format!("{document}  userContext: {user_context}\n");
        let user = "  user: {required: true, scopes: [read]}\n";
        let forward = if user_context == "original" { "original" } else { "none" };
        let mesh = Mesh::builder()
            .registry(with_context(service("front", "shop", "http", "http", &front_in)))
            .registry(with_context(service("back", "shop", "http", "http", &back_in)))
            .registry(permit("edge-in", "shop", "front", "ns/edge/sa/gw", user))
            .registry(permit("front-to-back", "shop", "back", "ns/shop/sa/front", user))
            .registry(issuer.document("idp"))
            .registry(format!(
                "kind: Gateway\nmetadata: {{namespace: edge, name: gw}}\nspec:\n  identity: ns/edge/sa/gw\n  routes:\n  \
                 - {{name: all, hosts: ['*'], pathPrefix: /, service: front.shop, port: http, \
                 auth: {{jwt: {{issuers: [idp]}}}}, txn: {{claims: [email], ttl: 60s}}, forwardCredential: {forward}}}\n"
            ))
            .sidecar(Sidecar::new(
                "front.shop",
                format!(
                    "inbound: [{{service: front.shop, port: http, listen: '{front_in}', app: 'tcp:{}'}}]\n\
                     outbound: [{{listen: '{to_back}', service: back.shop, port: http}}]\n",
                    front.address
                ),
            ))
            .sidecar(Sidecar::new(
                "back.shop",
                format!("inbound: [{{service: back.shop, port: http, listen: '{back_in}', app: 'tcp:{}'}}]\n", back.address),
            ))
            .sidecar(Sidecar::gateway(
                "gw.edge",
                format!("gateway: {{resource: gw.edge, listeners: [{{listen: '{gateway}'}}]}}\n"),
            ))
            .start()
            .await;
        let chain = Self { mesh, front, back, issuer, gateway, to_back, front_in };
        chain.wait_for_keys().await;
        chain
    }

    /// Until the control plane has fetched and pushed the issuer's keys the gateway answers 503.
    async fn wait_for_keys(&self) {
        while self.ask(&self.issuer.token("probe", "read")).await.status() == 503 {}
    }

    async fn ask(&self, token: &str) -> http::Response<bytes::Bytes> {
        get(&self.gateway, "/", &[("authorization", &format!("Bearer {token}"))]).await
    }

    fn challenge(answer: &http::Response<bytes::Bytes>) -> &str {
        header(answer, "www-authenticate")
    }
}

fn seen_user(seen: &Value) -> Value {
    use base64::Engine as _;
    let Some(encoded) = seen["headers"]["signet-user"][0].as_str() else { return Value::Null };
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).expect("base64url");
    serde_json::from_slice(&raw).expect("claims in JSON")
}

#[tokio::test]
async fn the_user_reaches_the_app_verified_and_without_the_credential() {
    let chain = Chain::start("transaction").await;
    let token =
        chain.issuer.token_with("alice", "read", &json!({"email": "alice@example.com", "secret": "no"}));
    let answer = chain.ask(&token).await;
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    let seen = chain.front.last();
    let user = seen_user(&seen);
    assert_eq!(user["sub"], "idp|alice", "{seen}");
    assert_eq!(user["claims"]["email"], "alice@example.com");
    assert!(user["claims"].get("secret").is_none(), "a claim that nobody listed: {user}");
    assert!(
        seen["headers"].get("authorization").is_none(),
        "the consumed credential reached the app: {seen}"
    );
    assert_eq!(seen["headers"]["txn-token"].as_array().map(Vec::len), Some(1), "{seen}");
}

#[tokio::test]
async fn a_token_may_be_presented_only_while_its_request_is_open() {
    let chain = Chain::start("transaction").await;
    assert_eq!(chain.ask(&chain.issuer.token("alice", "read")).await.status(), 200);
    // The app kept the token, and uses it after the request that brought it has ended.
    let stolen = chain.front.last()["headers"]["txn-token"][0].as_str().unwrap().to_owned();
    let answer = get(&chain.to_back, "/", &[("txn-token", &stolen)]).await;
    assert_eq!(answer.status(), 403, "{}", text(&answer));
    assert_eq!(chain.back.seen(), 0);
    let why = chain.mesh.explain(header(&answer, "signet-decision-id")).await.to_string();
    assert!(why.contains("front-to-back"), "{why}");
}

#[tokio::test]
async fn every_bad_token_is_refused_alike_and_none_reaches_the_app() {
    let chain = Chain::start("transaction").await;
    let before = chain.front.seen();
    let good = chain.issuer.token("alice", "read");
    let header_of = |alg: &str, typ: &str| json!({"alg": alg, "typ": typ, "kid": "k1"});
    let claims = json!({"iss": chain.issuer.url, "aud": "shop", "sub": "alice", "client_id": "c", "iat": now(),
                        "exp": now() + 60, "scope": "read", "jti": "1"});
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        chain.issuer.sign(&header_of("ES256", "at+jwt"), &claims)
    };
    let bad = [
        ("expired", with("exp", json!(now() - 120))),
        ("not yet valid", with("nbf", json!(now() + 600))),
        ("from the future", with("iat", json!(now() + 600))),
        ("another audience", with("aud", json!("other"))),
        ("another issuer", with("iss", json!("https://idp.example.com"))),
        ("an ID token", with("nonce", json!("n"))),
        ("an expiry that is text", with("exp", json!("9999999999"))),
        ("alg none", chain.issuer.sign(&header_of("none", "at+jwt"), &claims)),
        ("alg HS256", chain.issuer.sign(&header_of("HS256", "at+jwt"), &claims)),
        ("typ JWT", chain.issuer.sign(&header_of("ES256", "JWT"), &claims)),
        ("a transaction token", chain.issuer.sign(&header_of("ES256", "txntoken+jwt"), &claims)),
        (
            "an unknown key",
            chain.issuer.sign(&json!({"alg": "ES256", "typ": "at+jwt", "kid": "k2"}), &claims),
        ),
        (
            "crit",
            chain.issuer.sign(&json!({"alg": "ES256", "typ": "at+jwt", "kid": "k1", "crit": ["x"]}), &claims),
        ),
        ("a broken signature", format!("{}A", &good[..good.len() - 1])),
        ("two parts", good.rsplit_once('.').unwrap().0.to_owned()),
        ("four parts", format!("{good}.x")),
    ];
    let mut descriptions = std::collections::BTreeSet::new();
    for (what, token) in bad {
        if token == good {
            continue;
        }
        let answer = chain.ask(&token).await;
        assert!([400, 401].contains(&answer.status().as_u16()), "{what}: {}", answer.status());
        if answer.status() == 401 {
            assert!(
                Chain::challenge(&answer).contains("error=\"invalid_token\""),
                "{what}: {}",
                Chain::challenge(&answer)
            );
            descriptions.insert(Chain::challenge(&answer).to_owned());
        }
    }
    assert_eq!(descriptions.len(), 1, "the answers tell bad tokens apart: {descriptions:?}");
    assert_eq!(chain.front.seen(), before, "a bad token reached the app");
}

#[tokio::test]
async fn missing_credentials_are_challenged_and_double_ones_refused() {
    let mut chain = Chain::start("transaction").await;
    let answer = get(&chain.gateway, "/", &[]).await;
    assert_eq!(answer.status(), 401);
    let challenge = Chain::challenge(&answer);
    assert!(challenge.starts_with("Bearer ") && !challenge.contains("error"), "{challenge}");
    let bearer = format!("Bearer {}", chain.issuer.token("alice", "read"));
    let answer = get(&chain.gateway, "/", &[("authorization", &bearer), ("authorization", &bearer)]).await;
    assert_eq!(answer.status(), 400);
    // RFC 9110 section 11.1: the scheme's case does not matter.
    let lower = bearer.replacen("Bearer", "bEARER", 1);
    assert_eq!(get(&chain.gateway, "/", &[("authorization", &lower)]).await.status(), 200);
    chain.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_user_without_the_scope_is_refused_with_an_id_and_no_reason() {
    let chain = Chain::start("transaction").await;
    let answer = chain.ask(&chain.issuer.token("bob", "write")).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(header(&answer, "signet-deny-reason"), "", "the reason is not for the outside");
    let why = chain.mesh.explain(header(&answer, "signet-decision-id")).await.to_string();
    assert!(why.contains("edge-in") && why.contains("read"), "{why}");
}

#[tokio::test]
async fn forged_identity_headers_are_stripped_in_every_spelling() {
    let chain = Chain::start("transaction").await;
    let bearer = format!("Bearer {}", chain.issuer.token("alice", "read"));
    let forged = [
        ("authorization", bearer.as_str()),
        ("signet-user", "mallory"),
        ("Signet_User", "mallory"),
        ("SIGNET-CONTEXT", "mallory"),
        ("txn_token", "mallory"),
        ("Txn-Token", "mallory"),
        ("X_Forwarded_Client_Cert", "mallory"),
        ("x-forwarded-client-cert", "mallory"),
        ("signet-anything", "mallory"),
        ("connection", "signet-user, txn-token, x-forwarded-client-cert"),
    ];
    let answer = get(&chain.gateway, "/", &forged).await;
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    let seen = chain.front.last();
    assert!(!seen.to_string().contains("mallory"), "{seen}");
    assert_eq!(seen_user(&seen)["sub"], "idp|alice");
    // An app cannot invent a user either.
    let answer = get(&chain.to_back, "/", &[("signet-user", "mallory"), ("txn-token", "mallory")]).await;
    assert_eq!(answer.status(), 403);
}

#[tokio::test]
async fn in_original_mode_the_jwt_itself_is_passed_and_verified_again() {
    let chain = Chain::start("original").await;
    let token = chain.issuer.token("alice", "read");
    let answer = chain.ask(&token).await;
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    let seen = chain.front.last();
    assert_eq!(seen["headers"]["authorization"][0], format!("Bearer {token}"), "{seen}");
    assert_eq!(seen_user(&seen)["sub"], "idp|alice");
    // The app hands it on, and the next sidecar verifies it by itself.
    let answer = get(&chain.to_back, "/", &[("authorization", &format!("Bearer {token}"))]).await;
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    let expired = chain.issuer.token_with("alice", "read", &json!({"exp": now() - 300}));
    let answer = get(&chain.to_back, "/", &[("authorization", &format!("Bearer {expired}"))]).await;
    assert_eq!(answer.status(), 403, "{}", text(&answer));
}

#[tokio::test]
async fn no_token_stands_in_any_log() {
    let chain = Chain::start("transaction").await;
    for _ in 0..3 {
        chain.ask(&chain.issuer.token("alice", "read")).await;
        chain.ask(&chain.issuer.token("bob", "none")).await;
        chain.ask("eyJub3QiOiJhIHRva2VuIn0.x.y").await;
    }
    let logs = chain.mesh.logs();
    assert!(!logs.contains("eyJ"), "{}", logs.lines().find(|line| line.contains("eyJ")).unwrap_or_default());
}

/// `signet ca …` with its words; what it said.
fn ca(chain: &Chain, words: &[&str]) -> (bool, String) {
    let mut command = std::process::Command::new(signet_tests::process::binary("signet"));
    command.arg("--socket").arg(chain.mesh.operator_socket("cp")).arg("ca").args(words);
    let done = command.output().expect("the CLI runs");
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn a_revoked_user_session_or_token_counts_nowhere_any_more_and_a_logout_only_until_the_next_sign_in() {
    let mut chain = Chain::start("transaction").await;
    let of = |jti: &str| json!({"sid": "s-1", "jti": jti});
    let token = chain.issuer.token_with("alice", "read", &of("t-1"));
    assert_eq!(chain.ask(&token).await.status(), 200);
    let kinds = [("--user", "idp|alice"), ("--session", "idp|s-1"), ("--token", "idp|t-1")];
    for (kind, name) in kinds {
        let (good, said) = ca(&chain, &["revoke", kind, name, "--reason", "stolen", "--wait"]);
        assert!(good, "{said}");
        let answer = chain.ask(&token).await;
        assert_eq!(answer.status(), 401, "{kind}: {}", text(&answer));
        assert!(Chain::challenge(&answer).contains("invalid_token"));
        assert_eq!(chain.ask(&chain.issuer.token("bob", "read")).await.status(), 200, "{kind}");
        let other = chain.issuer.token_with("alice", "read", &json!({"jti": "t-2"}));
        let expected = if kind == "--user" { 401 } else { 200 };
        assert_eq!(chain.ask(&other).await.status(), expected, "{kind}: another session of alice's");
        let (good, said) = ca(&chain, &["reinstate", kind, name, "--reason", "found"]);
        assert!(good, "{said}");
        while chain.ask(&token).await.status() != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    let (good, said) = ca(&chain, &["revoke", "--logout", "idp|alice", "--reason", "left", "--wait"]);
    assert!(good, "{said}");
    assert_eq!(chain.ask(&token).await.status(), 401);
    let next = chain.issuer.token_with("alice", "read", &json!({"iat": now() + 2}));
    assert_eq!(chain.ask(&next).await.status(), 200, "who signs in again");
    // An alias that is none would revoke nobody, and what is no name at all says what it should be.
    let (good, said) = ca(&chain, &["revoke", "--user", "ipd|alice", "--reason", "x"]);
    assert!(!good && said.contains("no Issuer `ipd`") && said.contains("idp"), "{said}");
    let (good, said) = ca(&chain, &["revoke", "--user", "alice", "--reason", "x"]);
    assert!(!good && said.contains("<alias of an Issuer>|"), "{said}");
    // The process logs name nobody; the issuance log does, to those who may read it.
    assert!(!chain.mesh.logs().lines().any(|line| line.contains("signet::ca") && line.contains("alice")));
    assert!(ca(&chain, &["log"]).1.contains("idp|alice"));
    chain.mesh.assert_unharmed();
}

#[tokio::test]
async fn what_a_revoked_user_has_open_through_the_gateway_ends_within_the_call_that_waits_for_it() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let chain = Chain::start("transaction").await;
    let mut open = Vec::new();
    for user in ["alice", "bob"] {
        let mut stream = tokio::net::TcpStream::connect(&chain.gateway).await.unwrap();
        let token = chain.issuer.token(user, "read");
        // The app answers when the body is whole, which it never is.
        let head = format!(
            "POST / HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        open.push(stream);
    }
    // Both have come as far as the front's sidecar.
    let context = "signet_user_context_total{";
    let inbound = || async {
        let metrics = chain.mesh.metrics("front").await;
        let lines = metrics.lines().filter(|line| {
            let all = [context, "direction=\"inbound\"", "via=\"forwarded\""];
            all.iter().all(|part| line.contains(part))
        });
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum::<u64>()
    };
    let before = chain.front.seen();
    while inbound().await < before as u64 + 2 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (good, said) = ca(&chain, &["revoke", "--user", "idp|alice", "--reason", "fired", "--wait"]);
    assert!(good, "{said}");
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(signet_tests::process::PATIENCE, open[0].read_to_end(&mut answer)).await;
    ended.expect("alice's request ends").ok();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 403"), "{}", String::from_utf8_lossy(&answer));
    open[1].write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    let read = tokio::time::timeout(signet_tests::process::PATIENCE, open[1].read_exact(&mut answer)).await;
    read.expect("bob is answered").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

/// What the control plane says of a transaction, once that is what is asked for.
async fn chain_of(mesh: &Mesh, txn: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let asked = async {
        loop {
            let request = ExplainChainRequest { txn: txn.to_owned() };
            if let Ok(answer) = mesh.operator().await.explain_chain(request).await {
                let chain = serde_json::from_str(&answer.into_inner().json).expect("a chain in JSON");
                if is_it(&chain) {
                    return chain;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("the chain was told")
}

#[tokio::test]
async fn the_calls_of_one_transaction_are_a_chain_and_a_replayed_token_is_no_part_of_it() {
    let mut chain = Chain::start("transaction").await;
    assert_eq!(chain.ask(&chain.issuer.token("alice", "read")).await.status(), 200);
    let seen = chain.front.last();
    let (txn, stolen) = (
        seen_user(&seen)["txn"].as_str().unwrap().to_owned(),
        seen["headers"]["txn-token"][0].as_str().unwrap().to_owned(),
    );
    // A compromised app replays it: its own sidecar drops it, so that nobody receives it.
    assert_eq!(get(&chain.to_back, "/", &[("txn-token", &stolen)]).await.status(), 403);
    let told = chain_of(&chain.mesh, &txn, |_| true).await;
    assert_eq!(told["verdict"], "possible", "{told}");
    assert_eq!(told["hops"].as_array().map(Vec::len), Some(1), "{told}");

    // One that holds a certificate of the mesh and a stolen token, and tells nobody anything.
    let attacker = Svid::join(&chain.mesh, "spiffe://test.signet/ns/shop/sa/back", "sidecar").await;
    let address = &chain.front_in;
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = "front.shop.signet.internal".try_into().unwrap();
    let config = attacker.foreign_client(&[b"signet-http/1.1"]);
    let mut tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nhost: front\r\nconnection: close\r\ntxn-token: {stolen}\r\nsignet-context: forwarded\r\n\r\n"
    );
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 403"), "{}", String::from_utf8_lossy(&answer));
    // The real sidecar of that identity is whole and never received it: one of the two lies.
    let told = chain_of(&chain.mesh, &txn, |chain| chain["verdict"] == "impossible").await;
    assert_eq!(told["hops"][1]["caller"], "spiffe://test.signet/ns/shop/sa/back", "{told}");
    assert_eq!(told["hops"][1]["refused"], true, "{told}");
    let mut command = std::process::Command::new(binary("signet"));
    command.arg("--socket").arg(chain.mesh.path("op.sock")).args(["authz", "chain", &txn]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("IMPOSSIBLE"), "{said}");
    chain.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_service_that_asks_for_proofs_gets_them_from_the_gateway() {
    let mut chain = Chain::start("transaction\n  requireHopProof: true").await;
    let answer = chain.ask(&chain.issuer.token("alice", "read")).await;
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    let seen = chain.front.last();
    assert!(seen["headers"].get("signet-hop").is_none(), "{seen}");
    let txn = seen_user(&seen)["txn"].as_str().unwrap().to_owned();
    let told = chain_of(&chain.mesh, &txn, |_| true).await;
    assert_eq!(told["hops"][0]["provenDepth"], 1, "{told}");
    chain.mesh.assert_unharmed();
}
