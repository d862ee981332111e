//! The right of a gateway to say who the user is, and its end: with the gateway, or with the root behind it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::ServerName;
use serde_json::Value;
use signet_proto::v1::reinstate_request::What as Lifted;
use signet_proto::v1::revoke_request::What;
use signet_proto::v1::{
    AwaitRevocationsRequest, ListAuthoritiesRequest, ListIssuancesRequest, ReinstateRequest, RevokeRequest,
    TaintAuthorityRequest, WatchIssuancesRequest,
};
use signet_tests::apps::Echo;
use signet_tests::client::{get, text};
use signet_tests::issuer::Issuer;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::PATIENCE;
use signet_tests::svid::Svid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const GATEWAY: &str = "spiffe://test.signet/ns/edge/sa/gw";

/// A gateway, a service behind it, and a peer that may call the service for a user.
struct Scene {
    mesh: Mesh,
    app: Echo,
    issuer: Issuer,
    gateway: String,
    inbound: String,
    peer: Svid,
}

impl Scene {
    async fn start() -> Self {
        let (app, issuer) = (Echo::start().await, Issuer::start().await);
        let (gateway, inbound) = (free_address(), free_address());
        let user = "  user: {required: true}\n";
        let mesh = Mesh::builder()
            .registry(service("web", "shop", "main", "http", &inbound))
            .registry(permit("edge-may", "shop", "web", "ns/edge/sa/gw", user))
            .registry(permit("peer-may", "shop", "web", "ns/shop/sa/peer", user))
            .registry("kind: Workload\nmetadata: {namespace: shop, name: peer}\nspec: {class: sidecar}\n")
            .registry(issuer.document("idp"))
            .registry(
                "kind: Gateway\nmetadata: {namespace: edge, name: gw}\nspec:\n  identity: ns/edge/sa/gw\n  routes:\n  \
                 - {name: all, hosts: ['*'], pathPrefix: /, service: web.shop, port: main, auth: {jwt: {issuers: [idp]}}}\n",
            )
            .sidecar(Sidecar::new(
                "web.shop",
                format!("inbound: [{{service: web.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n", app.address),
            ))
            .sidecar(Sidecar::gateway(
                "gw.edge",
                format!("gateway: {{resource: gw.edge, listeners: [{{listen: '{gateway}'}}]}}\n"),
            ))
            .start()
            .await;
        let peer = Svid::join(&mesh, "spiffe://test.signet/ns/shop/sa/peer", "sidecar").await;
        Self { mesh, app, issuer, gateway, inbound, peer }
    }

    /// The token that the gateway mints for a request now; asks until it is served.
    async fn minted(&self) -> String {
        let credential = format!("Bearer {}", self.issuer.token("alice", "read"));
        let asked = async {
            loop {
                let answer = get(&self.gateway, "/", &[("authorization", &credential)]).await;
                match answer.status().as_u16() {
                    200 => return,
                    503 | 502 | 403 => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                    _ => panic!("{}: {}", answer.status(), text(&answer)),
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("the gateway serves");
        self.app.last()["headers"]["txn-token"][0].as_str().expect("a token").to_owned()
    }

    /// What the service says to the peer when it brings this token.
    async fn present(&self, token: &str) -> String {
        let tcp = TcpStream::connect(&self.inbound).await.unwrap();
        let config = self.peer.foreign_client(&[b"signet-http/1.1"]);
        let name = ServerName::try_from("web.shop.signet.internal").unwrap();
        let mut tls = TlsConnector::from(config).connect(name, tcp).await.unwrap();
        let request = format!(
            "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\nsignet-context: forwarded\r\ntxn-token: {token}\r\n\r\n"
        );
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, tls.read_to_end(&mut answer)).await.expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The lineage of the gateway, as an operator finds it in the log.
    async fn lineage(&self) -> String {
        let records = self.mesh.operator().await.list_issuances(ListIssuancesRequest { limit: 1_000 }).await;
        let records = records.unwrap().into_inner().records;
        let issued = records.into_iter().find(|it| it.event == "issued" && it.spiffe_id == GATEWAY);
        let words = issued.expect("the gateway's certificate").reason;
        let words = words.strip_prefix("lineage ").expect("the lineage comes first");
        words.chars().take_while(char::is_ascii_hexdigit).collect()
    }
}

fn header_of(compact: &str) -> Value {
    let header = URL_SAFE_NO_PAD.decode(compact.split('.').next().unwrap()).expect("base64url");
    serde_json::from_slice(&header).expect("a header in JSON")
}

/// The key that a token was signed with, and the root behind the delegation in it.
fn signed_by(token: &str) -> (String, String) {
    let header = header_of(token);
    let root = header_of(header["dlg"].as_str().expect("a delegation"));
    (header["kid"].as_str().unwrap().to_owned(), root["kid"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn what_a_gateway_minted_is_refused_as_soon_as_it_is_revoked_and_let_in_again_it_mints_with_another_key()
 {
    let mut scene = Scene::start().await;
    let token = scene.minted().await;
    let answer = scene.present(&token).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let lineage = scene.lineage().await;
    let mut operator = scene.mesh.operator().await;
    let revoke =
        RevokeRequest { what: Some(What::Lineage(lineage.clone())), reason: "gateway taken over".into() };
    let sequence = operator.revoke(revoke).await.unwrap().into_inner().sequence;
    let within_ms = u32::try_from(PATIENCE.as_millis()).unwrap();
    let state = operator.await_revocations(AwaitRevocationsRequest { sequence, within_ms }).await.unwrap();
    assert_eq!(state.into_inner().behind, []);
    let answer = scene.present(&token).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("txn_delegation_revoked"), "{answer}");
    assert_eq!(scene.app.seen(), 2, "it never reached the app");

    let lift = ReinstateRequest { what: Some(Lifted::Lineage(lineage)), reason: "a drill".into() };
    operator.reinstate(lift).await.unwrap();
    let fresh = scene.minted().await;
    assert_ne!(signed_by(&fresh).0, signed_by(&token).0, "another key");
    let answer = scene.present(&fresh).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = scene.present(&token).await;
    assert!(answer.contains("txn_delegation_revoked"), "the old key stays revoked: {answer}");
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_gateway_asks_for_another_delegation_at_once_when_the_root_behind_its_own_is_tainted() {
    let mut scene = Scene::start().await;
    let (_, before) = signed_by(&scene.minted().await);
    let mut rotation = scene.mesh.rotation().await;
    let all = rotation.list_authorities(ListAuthoritiesRequest {}).await.unwrap().into_inner().authorities;
    let root = all.into_iter().find(|it| it.kind == "token" && it.phase == "active").expect("a token root");
    let records = scene.mesh.operator().await.watch_issuances(WatchIssuancesRequest {}).await;
    let mut records = records.unwrap().into_inner();
    rotation.taint_authority(TaintAuthorityRequest { id: root.id }).await.unwrap();
    // Half of a delegation's life would be half an hour.
    let mut activated = false;
    let again = async {
        loop {
            let record = records.message().await.unwrap().expect("the log goes on");
            activated |= record.event == "activated" && record.reason.starts_with("token ");
            if activated && record.event == "delegated" {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("a delegation under the new root");
    let token = loop {
        let token = scene.minted().await;
        if signed_by(&token).1 != before {
            break token;
        }
    };
    let answer = scene.present(&token).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    scene.mesh.assert_unharmed();
}
