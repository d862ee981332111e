//! Tokens revoked and users logged out by who is no operator: the holder of a token, and the issuer.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signet_tests::apps::Echo;
use signet_tests::client::get;
use signet_tests::issuer::{Issuer, now};
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::PATIENCE;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

struct Scene {
    mesh: Mesh,
    issuer: Issuer,
    gateway: String,
    intake: String,
}

impl Scene {
    async fn start() -> Scene {
        let (app, issuer) = (Echo::start().await, Issuer::start().await);
        let (gateway, inbound, intake) = (free_address(), free_address(), free_address());
        let known = issuer
            .document("idp")
            .replace("scopeClaim: scope,", "scopeClaim: scope, logoutClients: [portal],");
        let mesh = Mesh::builder()
            .control_plane(&format!("intake: {{listen: '{intake}'}}\n"))
            .registry(service("front", "shop", "http", "http", &inbound))
            .registry(permit("edge-in", "shop", "front", "ns/edge/sa/gw", ""))
            .registry(known)
            .registry(
                "kind: Gateway\nmetadata: {namespace: edge, name: gw}\nspec:\n  identity: ns/edge/sa/gw\n  routes:\n  \
                 - {name: all, hosts: ['*'], pathPrefix: /, service: front.shop, port: http, auth: {jwt: {issuers: [idp]}}}\n",
            )
            .sidecar(Sidecar::new(
                "front.shop",
                format!(
                    "inbound: [{{service: front.shop, port: http, listen: '{inbound}', app: 'tcp:{}'}}]\n",
                    app.address
                ),
            ))
            .sidecar(Sidecar::gateway(
                "gw.edge",
                format!("gateway: {{resource: gw.edge, listeners: [{{listen: '{gateway}'}}]}}\n"),
            ))
            .start()
            .await;
        let scene = Scene { mesh, issuer, gateway, intake };
        scene.until(&scene.issuer.token("probe", "read"), 200).await;
        scene
    }

    async fn ask(&self, token: &str) -> u16 {
        get(&self.gateway, "/", &[("authorization", &format!("Bearer {token}"))]).await.status().as_u16()
    }

    /// News take a moment.
    async fn until(&self, token: &str, status: u16) {
        let end = Instant::now() + PATIENCE;
        loop {
            let had = self.ask(token).await;
            if had == status {
                return;
            }
            assert!(Instant::now() < end, "waited for {status}, got {had}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Hands a form in; the status and what was answered.
    fn hand_in(&self, path: &str, members: &[(&str, &str)]) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-sk", "-X", "POST", "-w", "\n%{http_code}"]);
        for (name, value) in members {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let done = curl.arg(format!("https://{}{path}", self.intake)).output().expect("curl runs");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let (body, status) = said.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }

    fn logout_token(&self, more: &Value) -> String {
        let now = now();
        let mut claims = json!({"iss": self.issuer.url, "aud": "portal", "iat": now, "exp": now + 120,
                                "jti": format!("l-{more}"), "events": {EVENT: {}}});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.issuer.sign(&json!({"typ": "logout+jwt", "alg": "ES256", "kid": "k1"}), &claims)
    }

    fn token(&self, user: &str, more: &Value) -> String {
        self.issuer.token_with(user, "read", more)
    }
}

#[tokio::test]
async fn the_holder_of_a_token_ends_it_and_no_other() {
    let mut scene = Scene::start().await;
    let (one, other) =
        (scene.token("alice", &json!({"jti": "t-1"})), scene.token("alice", &json!({"jti": "t-2"})));
    assert_eq!((scene.ask(&one).await, scene.ask(&other).await), (200, 200));
    // Of another client's token it is told so; what is no token of ours is none already (RFC 7009, 2.2).
    let (status, said) = scene.hand_in("/oauth2/revoke", &[("token", &one), ("client_id", "stranger")]);
    assert!(status == 400 && said.contains("unauthorized_client"), "{status} {said}");
    assert_eq!(scene.hand_in("/oauth2/revoke", &[("token", "nonsense")]).0, 200);
    let forged = format!("{}x", &one[..one.len() - 1]);
    assert_eq!(scene.hand_in("/oauth2/revoke", &[("token", &forged)]).0, 200);
    assert_eq!(scene.ask(&one).await, 200);

    let hint = ("token_type_hint", "access_token");
    assert_eq!(
        scene.hand_in("/oauth2/revoke", &[("token", &one), ("client_id", "cli"), hint]),
        (200, String::new())
    );
    scene.until(&one, 401).await;
    assert_eq!(scene.ask(&other).await, 200);
    assert_eq!(scene.hand_in("/oauth2/revoke", &[("token", &one)]).0, 200, "once more is no error");

    for (members, error) in [
        (&[][..], "invalid_request"),
        (&[("token", "")][..], "invalid_request"),
        (&[("token", "a"), ("token", "b")][..], "invalid_request"),
        (&[("token", "x".repeat(40_000).as_str())][..], "invalid_request"),
        (&[("token", scene.token("alice", &json!({"jti": null})).as_str())][..], ""),
    ] {
        let (status, said) = scene.hand_in("/oauth2/revoke", members);
        let expected = if error.is_empty() { 200 } else { 400 };
        assert!(status == expected && said.contains(error), "{status} {said}");
    }
    assert_eq!(scene.hand_in("/oauth2/token", &[("token", &one)]).0, 404);
    // Nobody reads a token in a log.
    for token in [&one, &other, &forged] {
        assert!(!scene.mesh.logs().contains(&token[token.len() - 40..]));
    }
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn an_issuer_logs_out_a_session_or_a_user_of_its_own() {
    let mut scene = Scene::start().await;
    let first = scene.token("alice", &json!({"sid": "s-1", "iat": now() - 2}));
    let second = scene.token("alice", &json!({"sid": "s-2", "iat": now() - 2}));
    let path = "/backchannel-logout";
    // What is no logout token logs nobody out.
    let bad = [
        first.clone(),
        scene.logout_token(&json!({"sid": "s-1", "aud": "shop"})),
        scene.logout_token(&json!({"sid": "s-1", "nonce": "n"})),
        scene.logout_token(&json!({"sid": "s-1", "iat": now() - 600, "exp": now() + 60})),
        scene.logout_token(&json!({})),
        Issuer::start().await.sign(
            &json!({"typ": "logout+jwt", "alg": "ES256", "kid": "k1"}),
            &json!({"iss": scene.issuer.url, "aud": "portal", "iat": now(), "exp": now() + 60, "jti": "x",
                    "sid": "s-1", "events": {EVENT: {}}}),
        ),
    ];
    for token in &bad {
        let (status, said) = scene.hand_in(path, &[("logout_token", token)]);
        assert!(status == 400 && said.contains("invalid_request"), "{status} {said}");
    }
    assert_eq!((scene.ask(&first).await, scene.ask(&second).await), (200, 200));

    let of_one = scene.logout_token(&json!({"sid": "s-1", "sub": "alice"}));
    assert_eq!(scene.hand_in(path, &[("logout_token", &of_one)]).0, 200);
    scene.until(&first, 401).await;
    assert_eq!(scene.ask(&second).await, 200, "another session");
    let of_all = scene.logout_token(&json!({"sub": "alice"}));
    assert_eq!(scene.hand_in(path, &[("logout_token", &of_all)]).0, 200);
    scene.until(&second, 401).await;
    let bob = scene.token("bob", &json!({"sid": "s-3"}));
    assert_eq!(scene.ask(&bob).await, 200);
    // She signs in again, and whoever kept the old logout token cannot end that.
    let again = scene.token("alice", &json!({"sid": "s-4", "iat": now() + 3}));
    scene.until(&again, 200).await;
    assert_eq!(scene.hand_in(path, &[("logout_token", &of_all)]).0, 200);
    let metrics = scene.mesh.metrics("cp").await;
    let counted = |result: &str| metrics.contains(&format!("endpoint=\"logout\",result=\"{result}\"}}"));
    assert!(counted("revoked") && counted("invalid_request") && counted("nothing"), "{metrics}");
    assert_eq!(scene.ask(&again).await, 200);
    scene.mesh.assert_unharmed();
}
