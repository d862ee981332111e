//! People: how they log in, what each may do, and what is written down of it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Map, Value, json};
use signet_ca::login_nonce;
use signet_proto::v1::{
    self, attest_request::Evidence, audit_client::AuditClient, operator_client::OperatorClient,
    people_client::PeopleClient, reinstate_request, revoke_request::What, rotation_client::RotationClient,
};
use signet_token::{Jwks, SigningKey};
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{Member, ORDERS, Plane, WEB, attest_by, csr, hello, socket_channel, soon};

const GATEWAY: &str = crate::harness::GATEWAY;

/// A provider: its keys over HTTP, and whatever ID token a test wants.
struct Provider {
    url: String,
    key: SigningKey,
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("not an object: {value}") };
    map
}

impl Provider {
    async fn start() -> Self {
        let key = SigningKey::generate().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let keys = Jwks::of([key.public_jwk().clone()]).to_json();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let keys = keys.clone();
                let service = hyper::service::service_fn(move |_| {
                    let answer = Response::new(Full::new(Bytes::from(keys.clone())));
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { url, key }
    }

    /// Lines of configuration: this provider, and these roles and more.
    fn configured(&self, rest: &str) -> String {
        format!(
            "operators:\n  oidc: [{{name: corp, issuer: '{0}', jwksUri: '{0}/jwks', clientId: signet, algorithms: [ES256], groupsClaim: groups}}]\n{rest}",
            self.url
        )
    }

    /// An ID token of a login for this key.
    fn token(&self, person: &str, groups: &[&str], key: &KeyPair) -> String {
        self.token_with(person, groups, key, &json!({}), &json!({}))
    }

    fn token_with(
        &self,
        person: &str,
        groups: &[&str],
        key: &KeyPair,
        header: &Value,
        change: &Value,
    ) -> String {
        let now = u64::try_from(signet_control_plane::clock::unix_now()).unwrap();
        let mut claims = object(json!({
            "iss": self.url, "sub": format!("sub-{person}"), "aud": "signet", "iat": now, "exp": now + 300,
            "nonce": login_nonce(&key.subject_public_key_info()), "email": format!("{person}@example.com"),
            "email_verified": true, "name": person, "groups": groups,
        }));
        claims.extend(object(change.clone()));
        let mut header = object(header.clone());
        let typ = header.remove("typ").unwrap_or(json!("JWT"));
        self.key.sign(typ.as_str().unwrap(), header, &claims).unwrap()
    }
}

const ROLES: &str = "  roles:
    - {role: viewer, groups: ['corp|staff']}
    - {role: namespace-operator, groups: ['corp|shop-team'], namespaces: [shop]}
    - {role: operator, groups: ['corp|on-call']}
    - {role: security-admin, users: ['corp|ada@example.com', 'corp|bob@example.com']}
";

/// A mesh with people, and what their machines know of it.
struct Scene {
    plane: Plane,
    provider: Provider,
    settings: v1::JoinBundle,
}

/// Somebody who is logged in.
struct Person {
    operator: OperatorClient<Channel>,
    people: PeopleClient<Channel>,
    member: Member,
    token: String,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(ROLES).await
    }

    async fn start_with(rest: &str) -> Self {
        let provider = Provider::start().await;
        let plane = Plane::start_configured(&provider.configured(rest)).await;
        let mut people = PeopleClient::new(socket_channel(&plane.dir.path().join("operator.sock")).await);
        let told = people.login_settings(v1::LoginSettingsRequest {}).await.unwrap().into_inner();
        let settings = v1::JoinBundle {
            bootstrap_address: told.bootstrap_address,
            mesh_address: told.mesh_address,
            trust_domain: told.trust_domain,
            root_sha256: told.root_sha256,
            control_plane: told.control_plane,
            ..Default::default()
        };
        Self { plane, provider, settings }
    }

    async fn exchange(&self, token: &str, key: &KeyPair) -> Result<v1::IssuedSvid, Status> {
        let evidence = Evidence::Oidc(v1::OidcEvidence { id_token: token.to_owned() });
        attest_by(&self.settings, evidence, csr(key)).await
    }

    async fn log_in(&self, person: &str, groups: &[&str]) -> Person {
        let key = KeyPair::generate().unwrap();
        let token = self.provider.token(person, groups, &key);
        let issued = self.exchange(&token, &key).await.unwrap();
        let member = Member::new(&self.settings, issued, &key);
        let channel = member.channel().await;
        Person {
            operator: OperatorClient::new(channel.clone()),
            people: PeopleClient::new(channel),
            member,
            token,
        }
    }

    async fn log(&mut self, limit: u32) -> Vec<v1::IssuanceRecord> {
        let request = v1::ListIssuancesRequest { limit };
        self.plane.operator.list_issuances(request).await.unwrap().into_inner().records
    }
}

impl Person {
    async fn revoke(&mut self, what: What) -> Result<u64, Status> {
        let request = v1::RevokeRequest { what: Some(what), reason: "a test".into() };
        Ok(soon(self.operator.revoke(request)).await?.into_inner().sequence)
    }

    async fn join(&mut self, id: &str, class: &str) -> Result<v1::JoinBundle, Status> {
        let request =
            v1::CreateJoinTokenRequest { spiffe_id: id.into(), peer_class: class.into(), ttl_seconds: 0 };
        Ok(soon(self.operator.create_join_token(request)).await?.into_inner())
    }

    async fn approvals(&mut self) -> Vec<v1::Approval> {
        self.people.list_approvals(v1::ListApprovalsRequest {}).await.unwrap().into_inner().approvals
    }

    async fn approve(&mut self, id: &str, digest: &str) -> Result<v1::Approval, Status> {
        let request = v1::ApproveRequest { id: id.into(), digest: digest.into() };
        Ok(self.people.approve(request).await?.into_inner().approval.unwrap())
    }
}

fn serial(number: u8) -> What {
    What::Serial(format!("{number:032x}"))
}

#[tokio::test]
async fn a_person_who_logged_in_is_known_by_name_and_role_and_so_is_what_they_do() {
    let mut scene = Scene::start().await;
    let mut ada = scene.log_in("ada", &["staff"]).await;
    let me = ada.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((me.actor.as_str(), me.name.as_str()), ("oidc:corp|sub-ada", "ada"));
    assert_eq!((me.username.as_str(), me.role.as_str()), ("ada@example.com", "security-admin"));
    assert_eq!(me.not_after, ada.member.svid.not_after);
    assert!(me.spiffe_id.contains("/ns/signet-system/operator/"), "{}", me.spiffe_id);
    ada.operator.status(v1::StatusRequest {}).await.unwrap();
    ada.revoke(serial(7)).await.unwrap();
    ada.join(WEB, "sidecar").await.unwrap();
    let log = scene.log(100).await;
    let of_ada: Vec<_> = log.iter().filter(|it| it.actor == "oidc:corp|sub-ada").collect();
    let events: Vec<_> = of_ada.iter().map(|it| it.event.as_str()).collect();
    // The read is not in the chain, what changed something is, beside the act of the authority itself.
    assert_eq!(events, ["logged-in", "revoked", "operator-call", "joined", "operator-call"]);
    assert_eq!(
        of_ada[2].reason,
        format!(
            "ca-revoke serial=\"{:032x}\" reason=\"a test\": Ok, as security-admin, from 127.0.0.1, \"ada\"",
            7
        )
    );
    assert_eq!(
        (of_ada[2].spiffe_id.as_str(), of_ada[2].peer_class.as_str()),
        (me.spiffe_id.as_str(), "operator")
    );
    assert!(!of_ada[2].serial.is_empty());
    // Neither the ID token nor the join token that was made is anywhere in it.
    let texts: String = log.iter().map(|it| format!("{}{}{}", it.reason, it.actor, it.spiffe_id)).collect();
    let signature = ada.token.rsplit('.').next().unwrap();
    assert!(!texts.contains(signature) && !texts.contains("signet-join-"));
    scene.plane.operator.verify_log(v1::VerifyLogRequest {}).await.unwrap();
}

#[tokio::test]
async fn an_id_token_that_is_stolen_wrong_or_of_another_kind_brings_nobody_in() {
    let mut scene = Scene::start().await;
    let (honest, thief) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let other = Provider::start().await;
    let with = |header: Value, change: Value| {
        scene.provider.token_with("ada", &["staff"], &honest, &header, &change)
    };
    let good = with(json!({}), json!({}));
    let payload = good.split('.').nth(1).unwrap();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    let now = signet_control_plane::clock::unix_now();
    for (what, token, reason) in [
        ("another audience", with(json!({}), json!({"aud": "web"})), "login-token"),
        ("another party", with(json!({}), json!({"azp": "web"})), "login-token"),
        ("expired", with(json!({}), json!({"exp": now - 60})), "login-token"),
        ("old", with(json!({}), json!({"iat": now - 3600})), "login-token"),
        ("no nonce", with(json!({}), json!({"nonce": ""})), "login-token"),
        ("another nonce", with(json!({}), json!({"nonce": "n-0S6_WzA2Mj"})), "login-key"),
        ("alg none", unsigned, "login-token"),
        ("an access token", with(json!({"typ": "at+jwt"}), json!({})), "login-token"),
        ("another issuer", other.token("ada", &["staff"], &honest), "login-token"),
        (
            "another issuer's key",
            { other.token_with("ada", &["staff"], &honest, &json!({}), &json!({"iss": scene.provider.url})) },
            "login-token",
        ),
        ("not a token", "x".repeat(100), "login-token"),
    ] {
        let refused = scene.exchange(&token, &honest).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused}");
        assert_eq!(refused.message(), "the evidence is not accepted", "{what}");
        let last = scene.log(1).await.remove(0);
        assert_eq!((last.event.as_str(), last.reason.as_str()), ("refused", reason), "{what}");
    }
    // Stolen: genuine, and worth nothing without the key that it was made for.
    let refused = scene.exchange(&good, &thief).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let last = scene.log(1).await.remove(0);
    assert_eq!((last.reason.as_str(), last.actor.as_str()), ("login-key", "oidc:corp|sub-ada at 127.0.0.1"));
    scene.exchange(&good, &honest).await.unwrap();
    assert_eq!(scene.exchange(&good, &honest).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_person_without_a_role_and_a_mesh_without_a_provider_let_nobody_in() {
    let mut scene = Scene::start().await;
    let key = KeyPair::generate().unwrap();
    let token = scene.provider.token("eve", &["strangers"], &key);
    let refused = scene.exchange(&token, &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("no role names this person"), "{refused}");
    let last = scene.log(1).await.remove(0);
    assert_eq!((last.reason.as_str(), last.actor.as_str()), ("no-role", "oidc:corp|sub-eve at 127.0.0.1"));

    let mut plane = Plane::start().await;
    let bundle = plane.token(WEB, "sidecar").await;
    let evidence = Evidence::Oidc(v1::OidcEvidence { id_token: token });
    let refused = attest_by(&bundle, evidence, csr(&key)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn each_role_may_no_more_than_the_table_says() {
    let mut scene = Scene::start().await;
    let mut viewer = scene.log_in("vera", &["staff"]).await;
    viewer.operator.status(v1::StatusRequest {}).await.unwrap();
    viewer.operator.verify_log(v1::VerifyLogRequest {}).await.unwrap();
    for what in [serial(1), What::SpiffeId(WEB.into()), What::KeySha256("ab".repeat(32))] {
        let refused = viewer.revoke(what).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("you are viewer"), "{refused}");
    }
    let last = scene.log(1).await.remove(0);
    assert_eq!((last.event.as_str(), last.actor.as_str()), ("operator-call", "oidc:corp|sub-vera"));
    assert!(last.reason.contains(": PermissionDenied, refused, as viewer"), "{}", last.reason);
    let counted =
        "signet_control_plane_operator_calls_refused_total{call=\"ca-revoke\",code=\"PermissionDenied\"} ";
    assert_eq!(scene.plane.metric(counted).await, Some(3.0));

    let mut shop = scene.log_in("sam", &["shop-team"]).await;
    shop.operator.status(v1::StatusRequest {}).await.unwrap();
    shop.join(WEB, "sidecar").await.unwrap();
    assert_eq!(shop.join(GATEWAY, "gateway").await.unwrap_err().code(), Code::PermissionDenied);
    shop.revoke(What::SpiffeId(ORDERS.into())).await.unwrap();
    let lift = v1::ReinstateRequest {
        what: Some(reinstate_request::What::SpiffeId(ORDERS.into())),
        reason: "a test".into(),
    };
    shop.operator.reinstate(lift).await.unwrap();
    for what in [What::SpiffeId(GATEWAY.into()), serial(1), What::Delegation("A".repeat(43))] {
        assert_eq!(shop.revoke(what).await.unwrap_err().code(), Code::PermissionDenied);
    }

    let mut operator = scene.log_in("olga", &["on-call"]).await;
    operator.revoke(serial(2)).await.unwrap();
    operator.join(GATEWAY, "gateway").await.unwrap();
    let person = viewer.member.svid.spiffe_id.clone();
    assert_eq!(operator.revoke(What::SpiffeId(person)).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn whoever_reads_sees_authorities_and_the_log_and_security_admins_alone_rotate() {
    let mut scene = Scene::start().await;
    let viewer = scene.log_in("vera", &["staff"]).await;
    let mut looking = RotationClient::new(viewer.member.channel().await);
    let listed = looking.list_authorities(v1::ListAuthoritiesRequest {}).await.unwrap().into_inner();
    assert!(listed.authorities.iter().any(|one| one.kind == "root"), "{listed:?}");
    let mut audit = AuditClient::new(viewer.member.channel().await);
    audit.key(v1::AuditKeyRequest {}).await.unwrap();
    audit.search(v1::SearchLogRequest::default()).await.unwrap();
    let mut export = audit.export(v1::ExportLogRequest {}).await.unwrap().into_inner();
    assert!(export.message().await.unwrap().is_some());

    let id = listed.authorities[0].id.clone();
    for (person, groups) in [("vera", "staff"), ("sam", "shop-team"), ("olga", "on-call")] {
        let person = scene.log_in(person, &[groups]).await;
        let mut asking = RotationClient::new(person.member.channel().await);
        for refused in [
            asking.prepare_authority(v1::PrepareAuthorityRequest { kind: "jwt".into() }).await,
            asking.rotate_authority(v1::RotateAuthorityRequest { kind: "jwt".into() }).await,
            asking.activate_authority(v1::ActivateAuthorityRequest { id: id.clone(), force: true }).await,
            asking.taint_authority(v1::TaintAuthorityRequest { id: id.clone() }).await,
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
            assert!(refused.message().contains("security-admin"), "{refused}");
        }
    }
    let ada = scene.log_in("ada", &[]).await;
    let mut asking = RotationClient::new(ada.member.channel().await);
    asking.prepare_authority(v1::PrepareAuthorityRequest { kind: "jwt".into() }).await.unwrap();
    let log = scene.log(100).await;
    let of_ada = |event: &str| log.iter().find(|it| it.event == event && it.actor == "oidc:corp|sub-ada");
    assert!(of_ada("rotation-asked").is_some(), "{log:?}");
    let called = of_ada("operator-call").unwrap();
    assert!(called.reason.starts_with("ca-prepare kind=\"jwt\": Ok, as security-admin"), "{called:?}");
}

#[tokio::test]
async fn operators_get_nothing_that_workloads_get_and_workloads_nothing_that_operators_get() {
    let mut scene = Scene::start().await;
    let ada = scene.log_in("ada", &[]).await;
    let renewal = ada.member.renew(csr(&KeyPair::generate().unwrap())).await.unwrap_err();
    assert_eq!(renewal.code(), Code::Unimplemented);
    assert_eq!(ada.member.delegate("{}").await.unwrap_err().code(), Code::Unimplemented);
    let Err(stream) = ada.member.try_stream(hello(&[], &[])).await else { panic!("a delivery stream") };
    assert_eq!(stream.code(), Code::Unimplemented);

    let web = scene.plane.join(WEB, "sidecar").await;
    let mut operator = OperatorClient::new(web.channel().await);
    let refused = operator.status(v1::StatusRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let mut people = PeopleClient::new(web.channel().await);
    assert_eq!(people.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_person_who_is_shut_out_loses_open_connections_at_once_and_gets_no_other() {
    let scene = Scene::start().await;
    let mut ada = scene.log_in("ada", &[]).await;
    let mut olga = scene.log_in("olga", &["on-call"]).await;
    let mut watched = olga.operator.watch_issuances(v1::WatchIssuancesRequest {}).await.unwrap().into_inner();
    let id = olga.member.svid.spiffe_id.clone();
    ada.revoke(What::SpiffeId(id)).await.unwrap();
    soon(async { while let Ok(Some(_)) = watched.message().await {} }).await;
    soon(async {
        // Closed, or about to be.
        while olga.operator.status(v1::StatusRequest {}).await.is_ok() {}
    })
    .await;
    let mut again = OperatorClient::new(
        match crate::harness::dial(
            scene.settings.mesh_address.parse().unwrap(),
            Arc::clone(&olga.member.config),
        )
        .await
        {
            Ok(channel) => channel,
            Err(_) => return,
        },
    );
    assert!(soon(again.status(v1::StatusRequest {})).await.is_err());
    let key = KeyPair::generate().unwrap();
    let token = scene.provider.token("olga", &["on-call"], &key);
    assert_eq!(scene.exchange(&token, &key).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_session_ends_with_its_certificate() {
    let scene = Scene::start_with(&format!("{ROLES}  sessionSeconds: 10\n")).await;
    let mut ada = scene.log_in("ada", &[]).await;
    let left = ada.member.svid.not_after - signet_control_plane::clock::unix_now();
    assert!((1..=10).contains(&left), "{left}");
    let mut watched = ada.operator.watch_issuances(v1::WatchIssuancesRequest {}).await.unwrap().into_inner();
    soon(async { while let Ok(Some(_)) = watched.message().await {} }).await;
    assert!(signet_control_plane::clock::unix_now() >= ada.member.svid.not_after);
    assert!(soon(ada.operator.status(v1::StatusRequest {})).await.is_err());
    let ended = "signet_control_plane_connections_ended_total{reason=\"expired\"} ";
    assert_eq!(scene.plane.metric(ended).await, Some(1.0));
}

#[tokio::test]
async fn what_needs_a_second_person_is_made_once_after_another_approved_it() {
    let mut scene = Scene::start_with(&format!("{ROLES}  secondPerson: [ca-revoke]\n")).await;
    let (mut ada, mut bob) = (scene.log_in("ada", &[]).await, scene.log_in("bob", &[]).await);
    let mut vera = scene.log_in("vera", &["staff"]).await;
    let waits = ada.revoke(serial(1)).await.unwrap_err();
    assert_eq!(waits.code(), Code::FailedPrecondition);
    let id = waits.metadata().get("signet-approval").unwrap().to_str().unwrap().to_owned();
    assert!(waits.message().contains(&format!("signet approvals approve {id}")), "{waits}");
    let listed = bob.approvals().await.remove(0);
    assert_eq!((listed.id.as_str(), listed.actor.as_str()), (id.as_str(), "oidc:corp|sub-ada"));
    assert_eq!((listed.method.as_str(), listed.expires_at - listed.asked_at), ("ca-revoke", 900));
    assert!(listed.arguments.contains("serial="), "{}", listed.arguments);

    let own = ada.approve(&id, &listed.digest).await.unwrap_err();
    assert!(own.code() == Code::PermissionDenied && own.message().contains("another person"), "{own}");
    assert_eq!(vera.approve(&id, &listed.digest).await.unwrap_err().code(), Code::PermissionDenied);
    let changed = bob.approve(&id, &"00".repeat(32)).await.unwrap_err();
    assert_eq!(changed.code(), Code::FailedPrecondition, "{changed}");
    assert_eq!(ada.revoke(serial(1)).await.unwrap_err().code(), Code::FailedPrecondition, "still waits");
    bob.approve(&id, &listed.digest).await.unwrap();
    assert_eq!(bob.approve(&id, &listed.digest).await.unwrap_err().code(), Code::FailedPrecondition);

    // Neither other arguments, nor another person's same call; then the call itself, once.
    assert_eq!(ada.revoke(serial(2)).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(bob.revoke(serial(1)).await.unwrap_err().code(), Code::FailedPrecondition);
    ada.revoke(serial(1)).await.unwrap();
    assert_eq!(ada.revoke(serial(1)).await.unwrap_err().code(), Code::FailedPrecondition, "used up");

    let log = scene.log(100).await;
    let revoked: Vec<_> = log.iter().filter(|it| it.event == "revoked").collect();
    assert_eq!(revoked.len(), 1);
    let called = log.iter().find(|it| it.reason.contains("ca-revoke") && it.reason.contains(": Ok")).unwrap();
    assert!(called.reason.contains("approved by oidc:corp|sub-bob"), "{}", called.reason);
    assert!(log.iter().any(|it| it.reason.contains(&format!("waits as {id}"))));
    assert!(log.iter().any(|it| {
        it.actor == "oidc:corp|sub-bob" && it.reason.starts_with(&format!("approvals-approve id=\"{id}\""))
    }));
    // Taken away by who asked.
    let mine = ada.approvals().await.into_iter().find(|it| it.actor == "oidc:corp|sub-ada").unwrap();
    ada.people.deny(v1::DenyRequest { id: mine.id.clone() }).await.unwrap();
    let gone = bob.approve(&mine.id, &mine.digest).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn a_uid_on_the_socket_has_the_role_that_configuration_gives_it() {
    // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
    let uid = unsafe { libc::geteuid() };
    let roles = format!("operators: {{roles: [{{role: viewer, uids: [{uid}]}}]}}\n");
    let mut plane = Plane::start_configured(&roles).await;
    plane.operator.status(v1::StatusRequest {}).await.unwrap();
    let revoke = v1::RevokeRequest { what: Some(serial(1)), reason: String::new() };
    let refused = plane.operator.revoke(revoke).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let socket = plane.dir.path().join("operator.sock");
    let mut people = PeopleClient::new(socket_channel(Path::new(&socket)).await);
    let me = people.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((me.actor, me.role, me.not_after), (format!("uid:{uid}"), "viewer".into(), 0));
    let request = v1::ListIssuancesRequest { limit: 1 };
    let last = plane.operator.list_issuances(request).await.unwrap().into_inner().records.remove(0);
    assert!(last.reason.contains("from the socket"), "{}", last.reason);
}
