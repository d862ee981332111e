//! The user's own JWT leads to the services that name it, and never out of the mesh.

use std::sync::Arc;

use signet_identity::PeerClass;
use signet_identity::testing::TestCa;
use signet_model::ExternalService;
use signet_proxy::listener::Kind;
use signet_proxy::state::{
    EndpointSpec, PlaceSpec, PortSpec, Protocol, ServiceSpec, State, Timeouts, UserContext,
};
use signet_token::{IssuerKeys, IssuerSettings, Issuers, Jwks, SigningKey};

use crate::support::app::echo;
use crate::support::caller::Client;
use crate::support::{Node, Pair, WEB, generation, token};

/// An issuer, and a token of it.
struct Idp(SigningKey);

impl Idp {
    fn known_to(&self, state: &State) {
        let settings = IssuerSettings {
            alias: "idp".into(),
            issuer: "https://idp.example".into(),
            audiences: vec!["shop".into()],
            ..Default::default()
        };
        let jwks = Arc::new(Jwks::of([self.0.public_jwk().clone()]));
        let keys = IssuerKeys::new(settings).unwrap().with_keys(jwks, token::now());
        let issuers = Arc::new(Issuers::new([keys]));
        state.update_keys(|keys| {
            let mut keys = keys.next();
            keys.issuers = issuers.clone();
            keys
        });
    }

    fn bearer(&self, user: &str) -> String {
        let claims = serde_json::json!({
            "iss": "https://idp.example", "aud": "shop", "sub": user, "client_id": "web", "jti": "1",
            "iat": token::now(), "exp": token::now() + 60, "scope": "orders:read",
        });
        let signed = self.0.sign("at+jwt", Default::default(), claims.as_object().unwrap()).unwrap();
        format!("Bearer {signed}")
    }
}

/// Makes `web` know orders as a service that takes this.
fn knows(pair: &Pair, user_context: UserContext) {
    let spec = ServiceSpec {
        name: "orders.shop".into(),
        ports: vec![PortSpec {
            name: "main".into(),
            port: 80,
            protocol: Protocol::Http1,
            timeouts: Timeouts::default(),
            requests_only: false,
        }],
        identities: vec![pair.ca.id("ns/shop/sa/orders")],
        endpoints: vec![EndpointSpec {
            address: pair.at.ip(),
            ports: [("main".to_owned(), pair.at.port())].into(),
            identity: None,
            behind: None,
        }],
        user_context,
        ..Default::default()
    };
    pair.web.state.update_endpoints(|endpoints| endpoints.apply([spec.clone()], [] as [&str; 0]));
}

#[tokio::test]
async fn the_original_jwt_is_passed_on_to_services_that_name_it_and_to_no_other() {
    let pair = Pair::http(echo().await);
    let idp = Idp(SigningKey::generate().unwrap());
    idp.known_to(&pair.web.state);
    idp.known_to(&pair.orders.state);
    let jwt = idp.bearer("alice");
    let mut client = Client::to(pair.out).await;
    let echoed = async |client: &mut Client<_>, value: &str| {
        let answer = client.request("/", &[("Authorization", value)]).await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        answer.echoed("authorization").map(str::to_owned)
    };
    knows(&pair, UserContext::Transaction);
    assert_eq!(echoed(&mut client, &jwt).await, None);
    let lower = jwt.replacen("Bearer", "bearer", 1);
    assert_eq!(echoed(&mut client, &lower).await, None, "the scheme in any case");
    // What is no user's is the app's own.
    let strangers = Idp(SigningKey::generate().unwrap()).bearer("alice");
    for own in ["Basic YTpi", "Bearer opaque", &strangers] {
        assert_eq!(echoed(&mut client, own).await.as_deref(), Some(own));
    }
    pair.orders.serves_with(Protocol::Http1, &[WEB], Timeouts::default(), UserContext::Original);
    knows(&pair, UserContext::Original);
    assert_eq!(echoed(&mut client, &jwt).await.as_deref(), Some(&*jwt));
    let labels = [("direction", "outbound"), ("service", "orders.shop")];
    assert_eq!(pair.web.counter("signet_stripped_headers_total", &labels), 2);
}

#[tokio::test]
async fn the_original_jwt_never_leaves_the_mesh() {
    let ca = TestCa::new("demo.signet");
    let mut web = Node::new(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar));
    let idp = Idp(SigningKey::generate().unwrap());
    idp.known_to(&web.state);
    let site = echo().await;
    let document = serde_json::json!({
        "apiVersion": "signet.mesh/v1alpha1", "kind": "ExternalService",
        "metadata": {"namespace": "shop", "name": "pay"},
        "spec": {"hosts": ["api.example.com"], "addresses": [site.ip()],
            "ports": [{"name": "main", "port": 80, "targetPort": site.port(), "protocol": "http1"}]},
    });
    let place = PlaceSpec::new(ExternalService::from_json(&document.to_string()).unwrap(), None).unwrap();
    web.state.update_endpoints(|endpoints| endpoints.with_places([("pay.shop", Some(place.clone()))]));
    let out = web.start(vec![Kind::Outbound { service: "pay.shop".into(), port: "main".into() }])[0];
    let mut client = Client::to(out).await;
    let jwt = idp.bearer("alice");
    for (value, passes) in [(jwt.as_str(), false), ("Bearer sk_live_1", true), ("Basic YTpi", true)] {
        client
            .send(format!("GET / HTTP/1.1\r\nhost: api.example.com\r\nauthorization: {value}\r\n\r\n"))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        assert_eq!(answer.echoed("authorization").is_some(), passes, "{value}");
    }
}
