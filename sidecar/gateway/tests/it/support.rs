//! An edge with one service behind it, one issuer before it, and a clock that stands still.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::BytesMut;
use prometheus::Registry;
use serde_json::{Map, Value, json};
use signet_daemon::ManualClock;
use signet_gateway::{Compiled, Edge};
use signet_identity::testing::{TestCa, test_now};
use signet_identity::{PeerClass, RevocationSet};
use signet_model::Gateway;
use signet_proxy::answer::{Answer, Audience, Dialect, Refusal};
use signet_proxy::decision::DecisionSink;
use signet_proxy::stage::{ConnContext, Direction, Entered, Forward, Role, Stage};
use signet_proxy::state::{
    EndpointSpec, Keys, PortSpec, Protocol, ServiceSpec, State, Timeouts, Tls, UserContext, Wanted,
};
use signet_proxy::{Limits, Shared};
use signet_token::delegation::{self, Delegation, ScopeCeiling, TokenRoots};
use signet_token::txn::{self, Trust};
use signet_token::{DelegatedMinter, IssuerKeys, IssuerSettings, Issuers, Jwks, SigningKey, TxnClaims};
use signet_wire::RequestView;
use signet_wire::h1::{RequestHead, RequestParser};
use tokio::sync::mpsc;

pub(crate) const TD: &str = "demo.signet";
pub(crate) const TTS: &str = "https://tts.demo.signet";
pub(crate) const ISSUER: &str = "https://idp.example";
const GATEWAY: &str = "spiffe://demo.signet/ns/edge/sa/gw";

pub(crate) fn now() -> u64 {
    test_now().as_secs()
}

pub(crate) struct World {
    pub(crate) edge: Edge,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) registry: Registry,
    pub(crate) wishes: mpsc::Receiver<Wanted>,
    pub(crate) idp: SigningKey,
    pub(crate) root: SigningKey,
    pub(crate) gateway: Arc<SigningKey>,
}

impl World {
    /// With these routes; everything else is there and works.
    pub(crate) fn new(routes: Value) -> World {
        let ca = TestCa::new(TD);
        let tls = Tls {
            generation: ca.generation("ns/edge/sa/gw", PeerClass::Gateway),
            revoked: Arc::new(RevocationSet::default()),
        };
        let (state, wishes) = State::new(tls);
        let registry = Registry::new();
        let (decisions, _) = DecisionSink::new(8);
        let shared = Shared::new(state, Limits::default(), Arc::new(decisions), &registry).unwrap();
        let clock = Arc::new(ManualClock::at(now() as i64));
        let edge = Edge::new(shared.clone(), clock.clone(), &registry).unwrap();
        let key = || SigningKey::generate().unwrap();
        let world = World {
            edge,
            shared,
            clock,
            registry,
            wishes,
            idp: key(),
            root: key(),
            gateway: Arc::new(key()),
        };
        world.route(routes);
        world.keys(|keys| keys);
        world.serves(&ca, UserContext::Transaction);
        world
    }

    /// The service asks for the caller's own JWT.
    pub(crate) fn serves_original(&self) {
        self.serves(&TestCa::new(TD), UserContext::Original);
    }

    fn serves(&self, ca: &TestCa, user_context: UserContext) {
        let service = ServiceSpec {
            hop_proof: false,
            name: "web.shop".into(),
            ports: vec![PortSpec {
                name: "http".into(),
                port: 80,
                protocol: Protocol::Http1,
                timeouts: Timeouts::default(),
                requests_only: false,
            }],
            identities: vec![ca.id("ns/shop/sa/web")],
            endpoints: vec![EndpointSpec {
                address: [127, 0, 0, 1].into(),
                ports: BTreeMap::from([("http".to_owned(), 17101)]),
                identity: None,
                behind: None,
            }],
            addresses: Vec::new(),
            user_context,
            traffic: vec![],
            sharing: None,
        };
        self.shared.state.update_endpoints(|known| known.apply([service.clone()], [""; 0]));
    }

    pub(crate) fn route(&self, routes: Value) {
        let gateway = json!({
            "apiVersion": "signet.mesh/v1alpha1", "kind": "Gateway",
            "metadata": {"name": "gw", "namespace": "edge"},
            "spec": {"identity": "ns/edge/sa/gw", "routes": routes},
        });
        let compiled = Compiled::new(Gateway::from_json(&gateway.to_string()).unwrap());
        self.shared.state.update_routes(|routes| routes.with_gateway(Some(compiled.clone())));
    }

    /// Publishes keys, the good ones changed by `change`.
    pub(crate) fn keys(&self, change: impl Fn(Keys) -> Keys) {
        self.shared.state.update_keys(|before| {
            let issuers = [self.issuer("idp", ISSUER).with_keys(self.idp_keys(), now() - 60)];
            change(Keys {
                trust_domain: TD.into(),
                token_issuer: TTS.into(),
                roots: Arc::new(TokenRoots::of([self.root.public_jwk().clone()])),
                issuers: Arc::new(Issuers::new(issuers)),
                revoked_delegations: Arc::new(HashSet::new()),
                refuse_users: None,
                minter: Some(self.minter(|terms| terms)),
                ..before.next()
            })
        });
    }

    pub(crate) fn issuer(&self, alias: &str, issuer: &str) -> IssuerKeys {
        let settings = IssuerSettings {
            alias: alias.into(),
            issuer: issuer.into(),
            audiences: vec!["shop".into()],
            claims: vec!["email".into(), "groups".into(), "tenant".into()],
            ..IssuerSettings::default()
        };
        IssuerKeys::new(settings).unwrap()
    }

    pub(crate) fn idp_keys(&self) -> Arc<Jwks> {
        Arc::new(Jwks::of([self.idp.public_jwk().clone()]))
    }

    pub(crate) fn minter(&self, change: impl FnOnce(Delegation) -> Delegation) -> Arc<DelegatedMinter> {
        let terms = change(Delegation {
            issuer: TD.into(),
            subject: GATEWAY.into(),
            issued_at: now() - 60,
            expires_at: now() + 3000,
            id: "d-1".into(),
            key: self.gateway.public_jwk().clone(),
            scope_ceiling: ScopeCeiling::Any,
            aliases: ["idp".to_owned()].into(),
            credentials: ["jwt".to_owned()].into(),
        });
        let delegation = delegation::issue(&self.root, &terms).unwrap();
        Arc::new(DelegatedMinter::new(self.gateway.clone(), &delegation, TTS).unwrap())
    }

    /// A good token, with these claims added or replaced.
    pub(crate) fn token(&self, change: Value) -> String {
        self.signed("at+jwt", change)
    }

    pub(crate) fn signed(&self, typ: &str, change: Value) -> String {
        let mut claims = object(json!({
            "iss": ISSUER, "sub": "alice", "aud": "shop", "exp": now() + 300, "iat": now() - 5, "client_id": "web",
            "scope": "orders:read", "email": "alice@example.com", "groups": ["staff"], "tenant": "t1",
        }));
        claims.extend(object(change));
        self.idp.sign(typ, Map::new(), &claims).unwrap()
    }

    /// The decision about a request whose lines after `Host` are these.
    pub(crate) async fn ask(&self, request_line: &str, lines: &str) -> Decided {
        let head = parse(&format!("{request_line} HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n"));
        self.decide(head).await
    }

    pub(crate) async fn decide(&self, head: RequestHead) -> Decided {
        let conn = ConnContext {
            direction: Direction::Edge,
            role: Role::Edge(Entered::default()),
            protocol: Protocol::Http1,
            peer: None,
            remote: Some("203.0.113.7:4711".parse().unwrap()),
            local: None,
            tls: true,
            xfcc: None,
            metrics: self.shared.metrics.route(Direction::Edge, &"gw.edge".into()),
        };
        let mut view = self.shared.state.view();
        let outcome = self.edge.admit(&conn, &mut view, RequestView::H1(&head)).await;
        Decided { head, outcome }
    }

    pub(crate) async fn get(&self, authorization: &str) -> Decided {
        self.ask("GET /v1/orders", &format!("Authorization: {authorization}\r\n")).await
    }

    /// What a sidecar reads in the minted token.
    pub(crate) fn believe(&self, token: &str) -> TxnClaims {
        let view = self.shared.state.view();
        let trust = Trust {
            trust_domain: TD,
            issuer: TTS,
            roots: &view.keys.roots,
            revoked: &|_| false,
            remembered: None,
        };
        txn::verify(token, &trust, now()).unwrap()
    }

    /// The counted attempts as `method outcome reason` with their number.
    pub(crate) fn attempts(&self) -> Vec<(String, u64)> {
        let families = self.registry.gather();
        let Some(family) = families.iter().find(|family| family.name() == "signet_gateway_auth_total") else {
            return Vec::new();
        };
        let counted = family.get_metric().iter().map(|metric| {
            let label = |name| {
                metric.get_label().iter().find(|label| label.name() == name).unwrap().value().to_owned()
            };
            let labels = ["method", "outcome", "reason"].map(label).join(" ");
            (labels, metric.get_counter().get_value() as u64)
        });
        counted.collect()
    }
}

pub(crate) struct Decided {
    head: RequestHead,
    pub(crate) outcome: Result<Forward, Refusal>,
}

impl Decided {
    /// The head as it goes into the mesh, names in lower case.
    pub(crate) fn forwarded(&self) -> Vec<(String, String)> {
        let forward = self.outcome.as_ref().unwrap_or_else(|refusal| panic!("refused: {refusal}"));
        let mut out = BytesMut::new();
        self.head.write(&forward.edits, &Default::default(), &mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        let lines = text.lines().skip(1).take_while(|line| !line.is_empty());
        lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect()
    }

    /// The values of one forwarded header, joined by `|`.
    pub(crate) fn header(&self, name: &str) -> String {
        let values: Vec<String> =
            self.forwarded().into_iter().filter(|(n, _)| n == name).map(|(_, v)| v).collect();
        values.join("|")
    }

    pub(crate) fn refusal(&self) -> &Refusal {
        self.outcome.as_ref().expect_err("admitted")
    }

    pub(crate) fn answer(&self) -> Answer {
        self.refusal().answer(Audience::Outside, Dialect::Http)
    }

    /// Status and challenge.
    pub(crate) fn told(&self) -> (u16, String) {
        let answer = self.answer();
        let challenge = answer.headers.iter().find(|(name, _)| *name == "www-authenticate");
        (answer.status, challenge.map(|(_, value)| value.clone()).unwrap_or_default())
    }

    /// All challenges.
    pub(crate) fn challenges(&self) -> Vec<String> {
        let headers = self.answer().headers;
        headers.into_iter().filter(|(name, _)| name == "www-authenticate").map(|(_, value)| value).collect()
    }

    pub(crate) fn is_admitted(&self) -> bool {
        self.outcome.is_ok()
    }
}

pub(crate) fn parse(text: &str) -> RequestHead {
    let mut input = BytesMut::from(text);
    RequestParser::new(Default::default()).parse(&mut input).unwrap().unwrap()
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

/// One route to the service, for everything; `change` adds or replaces its fields.
pub(crate) fn one_route(change: Value) -> Value {
    let mut route = object(json!({
        "name": "shop", "hosts": ["*"], "pathPrefix": "/", "service": "web.shop", "port": "http",
        "auth": {"jwt": {"issuers": ["idp"]}}, "txn": {"claims": ["email", "groups"], "ttl": "60s"},
    }));
    route.extend(object(change));
    json!([route])
}
