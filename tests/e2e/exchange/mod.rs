//! Transaction tokens that apps exchange: fewer scopes, transactions of their own, acting for somebody, and later.

mod scene;

use serde_json::{Value, json};
use signet_tests::client::{get, send, text};
use signet_tests::issuer::now;
use signet_tests::peers;
use signet_tests::process::PATIENCE;

use scene::{ACCESS, APP, DEFERRED, Scene, TXN, UNSIGNED, WORKER, ca, claims, exchange};

fn seen_user(seen: &Value) -> Value {
    use base64::Engine as _;
    let encoded = seen["headers"]["signet-user"][0].as_str().expect("a user");
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).expect("base64url");
    serde_json::from_slice(&raw).expect("claims in JSON")
}

#[tokio::test]
async fn an_app_narrows_the_token_that_it_serves_and_may_present_it_as_long_as_that_one() {
    let mut scene = Scene::start().await;
    let visit = scene.alice().await;
    let got = exchange(&scene.front, &[("subject_token", &visit.token), ("scope", "read")]).await;
    assert_eq!(got.status, 200, "{got:?}");
    assert_eq!(
        (got.body["token_type"].as_str(), got.body["issued_token_type"].as_str()),
        (Some("N_A"), Some(TXN))
    );
    assert!(got.body["expires_in"].as_u64().is_some_and(|left| (1..=60).contains(&left)), "{got:?}");
    assert_eq!((got.cache.as_str(), got.body["scope"].as_str()), ("no-store", Some("read")));
    let (held, next) = (claims(&visit.token), claims(&got.token()));
    for same in ["txn", "sub", "aud", "iss", "tctx"] {
        assert_eq!(held[same], next[same], "{same}");
    }
    assert_eq!((next["scope"].as_str(), held["scope"].as_str()), (Some("read"), Some("read write")));
    assert_eq!(next["req_wl"], "spiffe://test.signet/ns/shop/sa/front");
    assert_eq!(next["rctx"]["via"], json!(["spiffe://test.signet/ns/edge/sa/gw"]));

    assert_eq!(scene.call(&got.token()).await, 200);
    let user = seen_user(&scene.back.last());
    assert_eq!((user["sub"].as_str(), user["scope"].as_str()), (Some("idp|alice"), Some("read")));
    // Narrower still, of the one that was got.
    let none = exchange(&scene.front, &[("subject_token", &visit.token), ("scope", "write")]).await.token();
    assert_eq!(scene.call(&none).await, 403, "`back` wants the scope read");
    let wider = exchange(&scene.front, &[("subject_token", &none), ("scope", "read write")]).await;
    assert_eq!(wider.error(), (400, "invalid_scope"), "{wider:?}");
    // The worker's sidecar did not get it, so its app has nothing of it.
    let (stolen, token) = (got.token(), visit.token.clone());
    assert_eq!(scene.call_from(&scene.worker_to_back, &stolen).await, 403);
    for token in [&stolen, &token] {
        let other = exchange(&scene.worker, &[("subject_token", token)]).await;
        assert_eq!(other.error(), (400, "invalid_request"), "{other:?}");
    }

    // So many for one request, and no more.
    let mut last = exchange(&scene.front, &[("subject_token", &visit.token)]).await;
    let mut got = 3;
    while last.status == 200 && got < 100 {
        last = exchange(&scene.front, &[("subject_token", &visit.token)]).await;
        got += 1;
    }
    assert_eq!((last.error(), got), ((429, "slow_down"), 65), "{last:?}");

    assert_eq!(visit.end().await, 200);
    assert_eq!(scene.call(&stolen).await, 403, "the request that brought the first one has ended");
    for token in [&stolen, &token] {
        let late = exchange(&scene.front, &[("subject_token", token)]).await;
        assert_eq!(late.error(), (400, "invalid_request"), "{late:?}");
    }
    let log = ca(&scene.mesh, &["log"]).1;
    let record = log.lines().find(|line| line.contains("exchanged")).unwrap_or_else(|| panic!("{log}"));
    assert!(record.contains("idp|alice") && record.contains("ns/shop/sa/front"), "{record}");
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn what_the_standards_and_the_mesh_forbid_is_refused_with_their_errors() {
    let scene = Scene::start().await;
    let visit = scene.alice().await;
    let access = scene.users.token("alice", "read");
    let token = visit.token.as_str();
    let refresh = "urn:ietf:params:oauth:token-type:refresh_token";
    let with = |more: &[(&'static str, &'static str)]| {
        let mut all: Vec<(&str, String)> = vec![("subject_token", token.to_owned())];
        all.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
        all.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        all
    };
    type Form = Vec<(&'static str, String)>;
    let cases: Vec<(&str, Form, (u16, &str))> = vec![
        ("a scope that it has not", with(&[("scope", "admin")]), (400, "invalid_scope")),
        ("no scopes", with(&[("scope", "read  write")]), (400, "invalid_scope")),
        ("another audience", with(&[("audience", "other.example")]), (400, "invalid_target")),
        ("a resource", with(&[("resource", "https://example.com")]), (400, "invalid_target")),
        ("another grant", with(&[("grant_type", "password")]), (400, "unsupported_grant_type")),
        ("a refresh token", with(&[("subject_token_type", refresh)]), (400, "invalid_request")),
        ("a broken token", with(&[("subject_token", "a.b.c")]), (400, "invalid_request")),
        (
            "details of another's transaction",
            with(&[("request_details", "{\"a\":1}")]),
            (400, "invalid_request"),
        ),
        (
            "its own actor",
            with(&[("actor_token", "a.b.c"), ("actor_token_type", TXN)]),
            (400, "invalid_request"),
        ),
        (
            "an access token, of which no TokenExchange speaks",
            vec![("subject_token", access.clone()), ("subject_token_type", ACCESS.to_owned())],
            (400, "unauthorized_client"),
        ),
        (
            "a user on its word, without an actor",
            vec![
                ("subject_token", r#"{"sub":"idp|bob"}"#.to_owned()),
                ("subject_token_type", UNSIGNED.to_owned()),
            ],
            (400, "unauthorized_client"),
        ),
        (
            "a context for somebody who may not open it",
            with(&[("requested_token_type", DEFERRED), ("audience", "spiffe://test.signet/ns/shop/sa/back")]),
            (400, "invalid_target"),
        ),
    ];
    for (what, members, expected) in &cases {
        let members: Vec<(&str, &str)> =
            members.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let got = exchange(&scene.front, &members).await;
        assert_eq!(got.error(), *expected, "{what}: {got:?}");
        assert!(got.body["error_description"].as_str().is_some_and(|said| !said.contains("eyJ")), "{got:?}");
    }
    // Twice the same parameter, in one body.
    let twice = format!("subject_token={token}&scope=read&scope=write");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let answer = send("POST", &scene.front, "/txn", &[APP, form], twice).await;
    assert_eq!(answer.status(), 400, "{}", text(&answer));
    // Neither a page in a browser nor a name that leads here is the app.
    for headers in [
        &[form][..],
        &[APP, form, ("origin", "https://evil.example")],
        &[APP, form, ("host", "evil.example")],
    ] {
        let answer = send("POST", &scene.front, "/txn", headers, "").await;
        assert_eq!(answer.status(), 403, "{headers:?}");
        assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("access-control-")));
    }
    assert_eq!(get(&scene.front, "/txn", &[APP]).await.status(), 405);
    assert_eq!(send("POST", &scene.front, "/txn", &[APP, form], vec![b'a'; 40_000]).await.status(), 413);
    let log = ca(&scene.mesh, &["log"]).1;
    assert!(log.contains("no-token-exchange"), "{log}");
    visit.end().await;
    assert!(!scene.mesh.logs().contains("eyJ"));
}

#[tokio::test]
async fn a_workload_begins_a_transaction_for_the_users_that_its_grant_names_and_for_no_others() {
    let scene = Scene::start().await;
    let for_user = |user: &str| format!("{{\"sub\":\"{user}\"}}");
    let begin = async |user: &str, more: &[(&str, &str)]| {
        let subject = for_user(user);
        let members =
            [&[("subject_token", subject.as_str()), ("subject_token_type", UNSIGNED)], more].concat();
        exchange(&scene.worker, &members).await
    };
    let got = begin("idp|alice", &[("request_details", r#"{"job":"invoices"}"#)]).await;
    assert_eq!(got.status, 200, "{got:?}");
    let said = claims(&got.token());
    assert_eq!((said["sub"].as_str(), said["scope"].as_str()), (Some("idp|alice"), Some("read")));
    assert_eq!(
        (said["rctx"]["cred"].as_str(), said["tctx"]["route"].as_str()),
        (Some("workload"), Some("exchange/nightly"))
    );
    assert_eq!(said["tctx"]["details"]["job"], "invoices");
    assert_eq!(scene.call_from(&scene.worker_to_back, &got.token()).await, 200);
    assert_eq!(seen_user(&scene.back.last())["cred"], "workload");
    // It may hand in its own, and nobody else's sidecar lets it out.
    assert_eq!(exchange(&scene.worker, &[("subject_token", &got.token())]).await.status, 200);
    assert_eq!(scene.call(&got.token()).await, 403);
    for (user, expected) in [
        ("idp|mallory", "unauthorized_client"),
        ("staff|alice", "unauthorized_client"),
        ("alice", "unauthorized_client"),
        ("idp|alice\\u0000", "unauthorized_client"),
    ] {
        assert_eq!(begin(user, &[]).await.error(), (400, expected), "{user}");
    }
    assert_eq!(begin("idp|alice", &[("scope", "write")]).await.error(), (400, "invalid_scope"));

    let access = async |token: &str| {
        exchange(&scene.worker, &[("subject_token", token), ("subject_token_type", ACCESS)]).await
    };
    let more = json!({"email": "alice@example.com", "sid": "s-1", "jti": "t-1", "secret": "no"});
    let held = scene.users.token_with("alice", "read write", &more);
    let got = access(&held).await;
    assert_eq!(got.status, 200, "{got:?}");
    let said = claims(&got.token());
    assert_eq!(said["tctx"]["claims"], json!({"email": "alice@example.com"}), "only listed claims");
    assert_eq!((said["scope"].as_str(), said["rctx"]["src_jti"].as_str()), (Some("read"), Some("t-1")));
    let bad = [
        (
            "of a user whom the grant does not name",
            scene.users.token("mallory", "read"),
            "unauthorized_client",
        ),
        ("of an issuer whom the grant does not name", scene.staff.token("alice", "read"), "invalid_request"),
        ("expired", scene.users.token_with("alice", "read", &json!({"exp": now() - 120})), "invalid_request"),
        ("an ID token", scene.users.token_with("alice", "read", &json!({"nonce": "n"})), "invalid_request"),
        (
            "for another audience",
            scene.users.token_with("alice", "read", &json!({"aud": "x"})),
            "invalid_request",
        ),
    ];
    for (what, token, expected) in bad {
        assert_eq!(access(&token).await.error(), (400, expected), "{what}");
    }

    // Who is revoked is nobody's subject, and what was begun for them counts no more.
    assert_eq!(scene.call_from(&scene.worker_to_back, &got.token()).await, 200);
    for (kind, name) in [("--token", "idp|t-1"), ("--session", "idp|s-1"), ("--user", "idp|alice")] {
        let (good, told) = ca(&scene.mesh, &["revoke", kind, name, "--reason", "stolen", "--wait"]);
        assert!(good, "{told}");
        assert_eq!(access(&held).await.error(), (400, "invalid_request"), "{kind}");
    }
    assert_eq!(begin("idp|alice", &[]).await.error(), (400, "invalid_request"));
    assert_eq!(begin("idp|bob", &[]).await.status, 200);
    assert_eq!(scene.call_from(&scene.worker_to_back, &got.token()).await, 403);
    assert!(!scene.mesh.logs().contains("eyJ"));
}

#[tokio::test]
async fn a_support_agent_acts_for_a_user_and_either_of_them_revoked_ends_it() {
    let scene = Scene::start().await;
    let act = async |token: &str, user: &str| {
        let subject = format!("{{\"sub\":\"{user}\"}}");
        let members = [
            ("subject_token", subject.as_str()),
            ("subject_token_type", UNSIGNED),
            ("actor_token", token),
            ("actor_token_type", TXN),
        ];
        exchange(&scene.front, &members).await
    };
    let agent = scene.visit(&scene.staff.token("sam", "support read")).await;
    let got = act(&agent.token, "idp|alice").await;
    assert_eq!(got.status, 200, "{got:?}");
    let said = claims(&got.token());
    assert_eq!((said["sub"].as_str(), said["act"]["sub"].as_str()), (Some("idp|alice"), Some("staff|sam")));
    assert_eq!(scene.call(&got.token()).await, 200);
    let user = seen_user(&scene.back.last());
    assert_eq!((user["sub"].as_str(), user["act"]["sub"].as_str()), (Some("idp|alice"), Some("staff|sam")));
    let narrowed = exchange(&scene.front, &[("subject_token", &got.token())]).await.token();
    assert_eq!(claims(&narrowed)["act"]["sub"], "staff|sam", "no exchange takes the actor away");
    // Not everybody may, and not for everybody; and nobody acts for one who acts.
    assert_eq!(act(&agent.token, "staff|boss").await.error(), (400, "unauthorized_client"));
    assert_eq!(act(&got.token(), "idp|bob").await.error(), (400, "invalid_request"));
    let other = scene.visit(&scene.staff.token("tom", "read")).await;
    assert_eq!(
        act(&other.token, "idp|alice").await.error(),
        (400, "unauthorized_client"),
        "without the scope"
    );
    let user = scene.alice().await;
    assert_eq!(act(&user.token, "idp|bob").await.error(), (400, "unauthorized_client"), "no agent at all");
    other.end().await;
    user.end().await;

    agent.end().await;
    for revoked in ["staff|sam", "idp|alice"] {
        let agent = scene.visit(&scene.staff.token("sam", "support read")).await;
        let acting = act(&agent.token, "idp|alice").await.token();
        assert_eq!(scene.call(&acting).await, 200, "before {revoked} is revoked");
        let (good, told) = ca(&scene.mesh, &["revoke", "--user", revoked, "--reason", "x", "--wait"]);
        assert!(good, "{told}");
        assert_eq!(scene.call(&acting).await, 403, "{revoked}");
        assert_eq!(act(&agent.token, "idp|alice").await.error(), (400, "invalid_request"), "{revoked}");
        agent.end().await;
        let (good, told) = ca(&scene.mesh, &["reinstate", "--user", revoked, "--reason", "y"]);
        assert!(good, "{told}");
        // News take a moment.
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let agent = scene.asked(&scene.staff.token("sam", "support read")).await;
            let Some(agent) = agent else {
                assert!(std::time::Instant::now() < end);
                continue;
            };
            let again = act(&agent.token, "idp|alice").await.status;
            agent.end().await;
            if again == 200 {
                break;
            }
            assert!(std::time::Instant::now() < end, "{again}");
        }
    }
    let log = ca(&scene.mesh, &["log"]).1;
    assert!(log.contains("acted for by staff|sam"), "{log}");
}

#[tokio::test]
async fn a_context_is_put_off_for_one_workload_and_opened_once() {
    let scene = Scene::start().await;
    let visit = scene.alice().await;
    let defer = async |token: &str| {
        let members = [("subject_token", token), ("requested_token_type", DEFERRED), ("audience", WORKER)];
        exchange(&scene.front, &members).await
    };
    let got = defer(&visit.token).await;
    assert_eq!(got.status, 200, "{got:?}");
    assert_eq!(got.body["issued_token_type"], DEFERRED);
    assert!(got.body["expires_in"].as_u64().is_some_and(|left| left > 3500), "{got:?}");
    let sealed = got.token();
    assert!(!sealed.contains("alice") && !sealed.contains('.') && sealed.len() < 100, "{sealed}");
    let revoked = defer(&visit.token).await.token();
    let txn = claims(&visit.token)["txn"].clone();
    visit.end().await;

    let open = async |at: &str, sealed: &str| {
        exchange(at, &[("subject_token", sealed), ("subject_token_type", DEFERRED)]).await
    };
    assert_eq!(
        open(&scene.front, &sealed).await.error(),
        (400, "invalid_request"),
        "who put it off may not open it"
    );
    assert_eq!(open(&scene.worker, &sealed[..sealed.len() - 1]).await.error(), (400, "invalid_request"));
    let wider = [("subject_token", sealed.as_str()), ("subject_token_type", DEFERRED), ("scope", "write")];
    assert_eq!(exchange(&scene.worker, &wider).await.error(), (400, "invalid_scope"));
    let got = open(&scene.worker, &sealed).await;
    assert_eq!(got.status, 200, "what was refused did not use it up: {got:?}");
    let said = claims(&got.token());
    assert_eq!(
        (&said["txn"], said["sub"].as_str(), said["scope"].as_str()),
        (&txn, Some("idp|alice"), Some("read"))
    );
    assert_eq!(said["req_wl"], WORKER);
    assert_eq!(scene.call_from(&scene.worker_to_back, &got.token()).await, 200);
    assert_eq!(seen_user(&scene.back.last())["claims"]["email"], "alice@example.com");
    assert_eq!(open(&scene.worker, &sealed).await.error(), (400, "invalid_request"), "a second time");

    let (good, told) = ca(&scene.mesh, &["revoke", "--session", "idp|s-1", "--reason", "x", "--wait"]);
    assert!(good, "{told}");
    assert_eq!(
        open(&scene.worker, &revoked).await.error(),
        (400, "invalid_request"),
        "its session is revoked"
    );
    let log = ca(&scene.mesh, &["log"]).1;
    assert!(log.contains("deferred") && log.contains("not-its-context"), "{log}");
    let logs = scene.mesh.logs();
    assert!(!logs.contains("eyJ") && !logs.contains("signet-deferred-"));
}

#[tokio::test]
async fn a_library_verifies_the_token_that_an_app_gets_by_the_keys_beside_it() {
    let scene = Scene::start().await;
    let visit = scene.alice().await;
    let narrowed =
        exchange(&scene.front, &[("subject_token", &visit.token), ("scope", "read")]).await.token();
    let keys = get(&scene.front, "/jwks", &[]).await;
    assert_eq!(keys.status(), 200);
    assert_eq!(signet_tests::client::header(&keys, "content-type"), "application/jwk-set+json");
    let keys: Value = serde_json::from_slice(keys.body()).unwrap();
    let found = keys["keys"].as_array().unwrap();
    assert!(found.iter().all(|key| key.get("d").is_none()), "{keys}");
    for token in [&visit.token, &narrowed] {
        let kid = header_of(token)["kid"].clone();
        assert!(found.iter().any(|key| key["kid"] == kid), "{kid}: {keys}");
    }
    if let Some(python) = peers::python() {
        let mut command = std::process::Command::new(python);
        command.arg(peers::root().join("tests/interop/txn_token.py"));
        command.args([&scene.front, scene::TD, &visit.token, &narrowed]);
        let output = peers::run(command).await;
        assert!(output.status.success(), "{}", peers::said(&output));
        let said = peers::said(&output);
        assert!(said.contains(r#"{"sub": "idp|alice", "scope": "read write"}"#), "{said}");
        assert!(said.contains(r#"{"sub": "idp|alice", "scope": "read"}"#), "{said}");
    }
    // Keys of gateways that this sidecar has not met are none of the app's business.
    assert_eq!(get(&scene.worker, "/jwks", &[APP]).await.body(), &json!({"keys": []}).to_string());
    visit.end().await;
}

fn header_of(token: &str) -> Value {
    use base64::Engine as _;
    let raw =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice(&raw).unwrap()
}
