use std::path::Path;

use signet_ca::Revocations;
use signet_identity::{RevocationSet, SpiffeId, TrustDomain};

use super::*;
use crate::federation::held::accept;
use crate::federation::{DomainState, Federated};
use crate::issuers::KeyState;

const MESH: &str = r#"
apiVersion: signet.mesh/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {defaultAction: deny}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: web}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: orders}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: legacy}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: edge, name: gw}
spec: {class: gateway}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  ports: [{name: http, port: 80, protocol: http}]
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec:
  identities: [ns/shop/sa/orders]
  addresses: [10.96.0.7, "fd00::7"]
  ports: [{name: grpc, port: 50051, protocol: grpc, requestTimeout: 15s}]
  endpoints: [{address: 127.0.0.1, ports: {grpc: 17102}, identity: ns/shop/sa/orders}]
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: legacy}
spec:
  ports: [{name: http, port: 80, protocol: http}]
  userContext: original
---
apiVersion: signet.mesh/v1alpha1
kind: Issuer
metadata: {name: demo-idp}
spec: {issuer: "http://127.0.0.1:9000", jwksUri: "http://127.0.0.1:9000/jwks", audiences: [shop], algorithms: [ES256], claims: [email]}
---
apiVersion: signet.mesh/v1alpha1
kind: Issuer
metadata: {name: other-idp}
spec: {issuer: "http://127.0.0.1:9001", jwksUri: "http://127.0.0.1:9001/jwks", audiences: [shop], algorithms: [ES256]}
---
apiVersion: signet.mesh/v1alpha1
kind: Gateway
metadata: {namespace: edge, name: gw}
spec:
  identity: ns/edge/sa/gw
  routes:
    - {name: shop, hosts: ["*"], pathPrefix: /, service: web.shop, port: http, auth: {jwt: {issuers: [demo-idp]}}}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: web-to-orders}
spec: {effect: permit, target: {service: orders}, from: {workloads: [ns/shop/sa/web]}}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: web-only}
spec: {effect: permit, target: {service: web}}
"#;

fn domain() -> TrustDomain {
    TrustDomain::parse("demo.signet").unwrap()
}

fn authority() -> AuthorityState {
    AuthorityState {
        trust_domain: domain(),
        roots: Vec::new(),
        tainted: Vec::new(),
        bundle_sequence: 1,
        revocations: Arc::new(Revocations { set: Arc::new(RevocationSet::new(1)), ..Revocations::default() }),
        token_roots: r#"{"keys":[]}"#.into(),
        tainted_token_roots: Vec::new(),
        jwt_keys: r#"{"keys":[]}"#.into(),
        crls: Arc::default(),
    }
}

fn catalog_of(yaml: &str, keys: &Keys, authority: &AuthorityState) -> Catalog {
    let registry = signet_model::parse_text(Path::new("mesh.yaml"), yaml, &Default::default()).unwrap();
    Catalog::build(false, &registry, keys, &Federated::default(), authority)
}

/// With two federated trust domains, of which a policy of `orders` names one and a service of ours the other.
fn federated_catalog(held: &[&str]) -> Catalog {
    federated_catalog_of(MESH, held, "")
}

/// The same of another mesh, and with more documents.
fn federated_catalog_of(mesh: &str, held: &[&str], more: &str) -> Catalog {
    let document = |name: &str| {
        format!(
            "---\napiVersion: signet.mesh/v1alpha1\nkind: FederatedTrustDomain\nmetadata: {{name: {name}}}\n\
             spec: {{trustDomain: {name}.example, url: 'https://{name}.example/bundle', profile: {{https_web: {{}}}}}}\n"
        )
    };
    let yaml = format!(
        "{mesh}{}{}---\napiVersion: signet.mesh/v1alpha1\nkind: MeshPolicy\nmetadata: {{namespace: shop, name: partner}}\n\
         spec: {{effect: permit, target: {{service: orders}}, from: {{workloads: ['spiffe://caller.example/ns/a/sa/b']}}}}\n\
         ---\napiVersion: signet.mesh/v1alpha1\nkind: MeshPolicy\nmetadata: {{namespace: shop, name: not-them}}\n\
         spec: {{effect: forbid, target: {{service: web}}, from: {{workloads: ['spiffe://caller.example/ns/a/sa/*']}}}}\n\
         ---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {{namespace: shop, name: stock}}\n\
         spec: {{federatedIdentity: 'spiffe://called.example/ns/a/sa/b', addresses: [10.96.0.9], ports: [{{name: http, port: 80, protocol: http}}]}}\n{more}",
        document("caller"),
        document("called"),
    );
    let registry = signet_model::parse_text(Path::new("mesh.yaml"), &yaml, &Default::default()).unwrap();
    let state = |object: &signet_model::FederatedTrustDomain| {
        let domain = object.spec.trust_domain.clone();
        let held = held.contains(&domain.as_str()).then(|| {
            let bundle = signet_identity::testing::TestCa::new(domain.as_str()).bundle();
            let hint = std::time::Duration::from_secs(60);
            let keys =
                signet_token::Jwks::of([signet_token::SigningKey::generate().unwrap().public_jwk().clone()]);
            let text = signet_bundle::write(&bundle, &keys, 1, hint);
            Arc::new(accept(None, &domain, &text, 1_000).unwrap())
        });
        let state = DomainState::new(object.name.to_string(), object.spec.clone(), held, 1_000);
        (domain, state)
    };
    let federated: Federated = Arc::new(registry.federated().map(state).collect());
    Catalog::build(false, &registry, &Keys::default(), &federated, &authority())
}

fn catalog() -> Catalog {
    catalog_of(MESH, &Keys::default(), &authority())
}

fn workload(id: &str) -> WorkloadId {
    id.parse().unwrap()
}

fn asked(dials: &[&str], serves: &[&str]) -> Subscriptions {
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    Subscriptions { dials: set(dials), serves: set(serves), addresses: BTreeSet::new() }
}

fn names(granted: &Granted) -> Vec<&str> {
    let common = |n: &&str| !matches!(*n, "mesh" | "revocations" | "token-roots" | "bundle/demo.signet");
    granted.view.keys().map(String::as_str).filter(common).collect()
}

const WEB: &str = "ns/shop/sa/web";

#[test]
fn a_sidecar_is_given_the_policies_of_what_it_serves_and_of_nothing_else() {
    let more = "---\napiVersion: signet.mesh/v1alpha1\nkind: GuardRail\nmetadata: {name: shop-only}\n\
                spec: {namespaces: [shop], forbid: {from: {workloads: ['ns/lab/sa/*']}}}\n\
                ---\napiVersion: signet.mesh/v1alpha1\nkind: GuardRail\nmetadata: {name: elsewhere}\n\
                spec: {namespaces: [lab], forbid: {}}\n\
                ---\napiVersion: signet.mesh/v1alpha1\nkind: GuardRail\nmetadata: {name: limits}\n\
                spec: {namespaces: [lab], permits: {requireFrom: true}}\n\
                ---\napiVersion: signet.mesh/v1alpha1\nkind: MeshPolicy\nmetadata: {namespace: lab, name: theirs}\n\
                spec: {effect: permit, from: {workloads: ['ns/lab/sa/*']}}\n";
    let catalog = catalog_of(&format!("{MESH}{more}"), &Keys::default(), &authority());
    let given = |who: &str, serves: &str| -> Vec<String> {
        let view = catalog
            .view(&workload(who), PeerClass::Sidecar, &asked(&["web.shop", "orders.shop"], &[serves]))
            .view;
        let inbound = view.values().filter_map(|versioned| match &versioned.resource.body {
            Some(Body::Inbound(inbound)) => Some(inbound.policies.iter().map(|policy| policy.name.clone())),
            _ => None,
        });
        inbound.flatten().collect()
    };
    assert_eq!(given("ns/shop/sa/orders", "orders.shop"), ["guard-rail/shop-only", "web-to-orders.shop"]);
    assert_eq!(given(WEB, "web.shop"), ["guard-rail/shop-only", "web-only.shop"]);
    assert!(given(WEB, "orders.shop").is_empty(), "what it calls and does not serve has no policy for it");
}

#[test]
fn a_sidecar_that_serves_whatever_lists_it_is_given_that_and_nothing_of_others() {
    let more = "---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {namespace: shop, name: history}\n\
                spec: {identities: [ns/shop/sa/orders], ports: [{name: http, port: 81, protocol: http}]}\n";
    let catalog = catalog_of(&format!("{MESH}{more}"), &Keys::default(), &authority());
    let view = |who: &str| catalog.view(&workload(who), PeerClass::Sidecar, &asked(&[], &["*"]));
    // With what it serves comes where that is served, by which redirected connections are told.
    assert_eq!(
        names(&view("ns/shop/sa/orders")),
        ["inbound/history.shop", "inbound/orders.shop", "service/history.shop", "service/orders.shop"]
    );
    assert_eq!(names(&view(WEB)), ["inbound/web.shop", "service/web.shop"]);
    let nobody = view("ns/shop/sa/nobody");
    assert!(names(&nobody).is_empty() && nobody.refused.is_empty());
}

#[test]
fn a_federated_bundle_goes_to_whom_a_policy_opens_and_to_who_dials_there_and_to_nobody_else() {
    let catalog = federated_catalog(&["caller.example", "called.example"]);
    let orders = workload("ns/shop/sa/orders");
    let served = catalog.view(&orders, PeerClass::Sidecar, &asked(&[], &["orders.shop"]));
    assert_eq!(names(&served), ["bundle/caller.example", "inbound/orders.shop", "service/orders.shop"]);
    let web = catalog.view(&workload(WEB), PeerClass::Sidecar, &asked(&["orders.shop"], &["web.shop"]));
    assert_eq!(
        names(&web),
        ["inbound/web.shop", "service/orders.shop", "service/web.shop"],
        "a forbid lets nobody in"
    );
    let dials = catalog.view(&workload(WEB), PeerClass::Sidecar, &asked(&["stock.shop"], &[]));
    assert_eq!(names(&dials), ["bundle/called.example", "service/stock.shop"]);
    let mut by_address = Subscriptions::default();
    by_address.addresses.insert("10.96.0.9".parse().unwrap());
    let dials = catalog.view(&workload(WEB), PeerClass::Sidecar, &by_address);
    assert_eq!(names(&dials), ["bundle/called.example", "service/stock.shop"]);
    let Some(Body::Bundle(bundle)) = &dials.view["bundle/called.example"].resource.body else { panic!() };
    assert_eq!(
        (bundle.trust_domain.as_str(), bundle.roots_der.len(), bundle.sequence),
        ("called.example", 1, 1_000)
    );
    let keys = signet_token::Jwks::parse(&bundle.jwt_keys).unwrap();
    assert_eq!(keys.len(), 1, "apps verify its tokens: {}", bundle.jwt_keys);
    let Some(Body::Service(service)) = &dials.view["service/stock.shop"].resource.body else { panic!() };
    assert_eq!(service.identities, ["spiffe://called.example/ns/a/sa/b"]);
}

#[test]
fn an_agent_is_given_the_bundles_that_identities_of_its_processes_could_use_and_no_other() {
    let hosts: Vec<String> = ["serves", "dials", "idle"]
        .iter()
        .map(|name| {
            format!(
                "---\napiVersion: signet.mesh/v1alpha1\nkind: Workload\nmetadata: {{namespace: hosts, name: {name}}}\nspec: {{class: agent}}\n"
            )
        })
        .collect();
    let entry = |agent: &str, identity: &str| {
        format!(
            "---\napiVersion: signet.mesh/v1alpha1\nkind: Registration\nmetadata: {{name: {agent}}}\n\
             spec: {{unix: {{agents: [ns/hosts/sa/{agent}], uid: 1001}}, identity: {identity}}}\n"
        )
    };
    let more = [hosts.concat(), entry("serves", "ns/shop/sa/orders"), entry("dials", WEB)].concat();
    let apps = MESH.replace("spec: {class: sidecar}", "spec: {class: sidecar, workloadApi: true}");
    let catalog = federated_catalog_of(&apps, &["caller.example", "called.example"], &more);
    let given = |agent: &str| {
        let agent = workload(&format!("ns/hosts/sa/{agent}"));
        let granted = catalog.view(&agent, PeerClass::Agent, &Subscriptions::default());
        names(&granted)
            .into_iter()
            .filter_map(|name| name.strip_prefix("bundle/").map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert_eq!(given("serves"), ["called.example", "caller.example"]);
    assert_eq!(given("dials"), ["called.example"]);
    assert_eq!(given("idle"), Vec::<String>::new(), "it vouches for nobody");
    let posing = catalog.view(&workload("ns/hosts/sa/serves"), PeerClass::Sidecar, &Subscriptions::default());
    assert!(names(&posing).is_empty(), "the identity without the class");
}

#[test]
fn a_domain_of_which_nothing_is_held_has_no_bundle_and_our_own_is_never_mixed_with_one() {
    let catalog = federated_catalog(&[]);
    let orders = workload("ns/shop/sa/orders");
    let served = catalog.view(&orders, PeerClass::Sidecar, &asked(&["stock.shop"], &["orders.shop"]));
    assert_eq!(names(&served), ["inbound/orders.shop", "service/orders.shop", "service/stock.shop"]);
    let Some(Body::Bundle(own)) = &served.view["bundle/demo.signet"].resource.body else { panic!() };
    assert_eq!(own.trust_domain, "demo.signet");
}

#[test]
fn a_gateway_is_given_what_it_passes_on_to_and_a_caller_the_way_through_it() {
    let more = "---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: edge, name: west}
spec: {class: gateway}
---
apiVersion: signet.mesh/v1alpha1
kind: Gateway
metadata: {namespace: edge, name: west}
spec: {identity: ns/edge/sa/west, eastWest: {services: [orders.shop]}}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: far}
spec:
  identities: [ns/shop/sa/orders]
  ports: [{name: grpc, port: 50051, protocol: grpc}]
  endpoints: [{address: 192.0.2.7, ports: {grpc: 15443}, throughGateway: {service: orders.shop}}]
";
    let catalog = catalog_of(&format!("{MESH}{more}"), &Keys::default(), &authority());
    let west = workload("ns/edge/sa/west");
    let granted = catalog.view(&west, PeerClass::Gateway, &Subscriptions::default());
    assert_eq!(names(&granted), ["gateway/west.edge", "service/orders.shop"]);
    let posing = catalog.view(&west, PeerClass::Sidecar, &Subscriptions::default());
    assert!(names(&posing).is_empty(), "the identity without the class");
    let dials = catalog.view(&workload(WEB), PeerClass::Sidecar, &asked(&["far.shop", "orders.shop"], &[]));
    let endpoint = |name: &str| {
        let Some(Body::Service(service)) = &dials.view[name].resource.body else { panic!() };
        service.endpoints[0].clone()
    };
    assert_eq!(endpoint("service/far.shop").gateway_service, "orders.shop");
    assert_eq!(endpoint("service/orders.shop").gateway_service, "");
    // Who dials the gateway's address means nothing behind it.
    let mut by_address = Subscriptions::default();
    by_address.addresses.insert("192.0.2.7".parse().unwrap());
    let dialled = catalog.view(&workload(WEB), PeerClass::Sidecar, &by_address);
    assert_eq!(dialled.refused.iter().next().unwrap().1, NotGranted::UnknownAddress);
}

#[test]
fn everybody_is_told_mesh_bundle_revocations_and_token_roots_and_nothing_else_unasked() {
    let granted = catalog().view(&workload(WEB), PeerClass::Sidecar, &Subscriptions::default());
    assert_eq!(
        granted.view.keys().collect::<Vec<_>>(),
        ["bundle/demo.signet", "mesh", "revocations", "token-roots"]
    );
}

#[test]
fn revocation_lists_go_to_whoever_serves_apps_or_processes_and_to_nobody_else() {
    let object = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: signet.mesh/v1alpha1\nkind: Workload\nmetadata: {{namespace: hosts, name: {name}}}\nspec: {spec}\n"
        )
    };
    let app = object("app", "{class: sidecar, workloadApi: true}");
    let yaml =
        format!("{MESH}{app}{}{}", object("plain", "{class: sidecar}"), object("agent", "{class: agent}"));
    let list = |issuer: u8| {
        let issuer = signet_identity::Serial::from_bytes(&[issuer]).unwrap();
        let der = issuer.as_bytes().to_vec();
        let revoked = BTreeMap::new();
        Arc::new(signet_ca::Crl { issuer, number: 1, this_update: 0, next_update: 1, revoked, der })
    };
    let mut authority = authority();
    authority.crls = Arc::new(vec![list(7), list(3)]);
    let catalog = catalog_of(&yaml, &Keys::default(), &authority);
    let has = |name: &str, class| {
        let granted =
            catalog.view(&workload(&format!("ns/hosts/sa/{name}")), class, &Subscriptions::default());
        granted.view.get("revocation-lists").cloned()
    };
    assert!(has("plain", PeerClass::Sidecar).is_none());
    assert!(has("agent", PeerClass::Sidecar).is_none(), "the identity without the class");
    assert!(has("agent", PeerClass::Agent).is_some());
    let lists = has("app", PeerClass::Sidecar).unwrap();
    let Some(Body::RevocationLists(body)) = &lists.resource.body else { panic!() };
    assert_eq!(body.lists_der, [vec![3], vec![7]]);
}

#[test]
fn a_caller_is_told_where_a_service_is_and_not_its_policies() {
    let granted = catalog().view(&workload(WEB), PeerClass::Sidecar, &asked(&["orders.shop"], &[]));
    assert_eq!(names(&granted), ["service/orders.shop"]);
    let Some(Body::Service(service)) = &granted.view["service/orders.shop"].resource.body else { panic!() };
    assert_eq!(service.identities, ["spiffe://demo.signet/ns/shop/sa/orders"]);
    assert_eq!(service.addresses, ["10.96.0.7", "fd00::7"]);
    assert_eq!(service.endpoints[0].ports["grpc"], 17102);
    assert_eq!(service.ports[0].request_timeout_ms, 15_000);
}

#[test]
fn only_an_identity_that_the_service_lists_may_serve_it() {
    let catalog = catalog();
    let orders = workload("ns/shop/sa/orders");
    let granted = catalog.view(&orders, PeerClass::Sidecar, &asked(&[], &["orders.shop"]));
    assert_eq!(names(&granted), ["inbound/orders.shop", "service/orders.shop"]);
    let Some(Body::Inbound(inbound)) = &granted.view["inbound/orders.shop"].resource.body else { panic!() };
    assert_eq!(inbound.policies.len(), 1, "its own policies and no other service's");
    assert_eq!(inbound.policies[0].name, "web-to-orders.shop");
    assert!(inbound.issuer_aliases.is_empty());

    for (peer, class) in [(WEB, PeerClass::Sidecar), ("ns/edge/sa/gw", PeerClass::Gateway)] {
        let granted = catalog.view(&workload(peer), class, &asked(&[], &["orders.shop"]));
        assert!(!granted.view.contains_key("inbound/orders.shop"), "{peer}");
        assert_eq!(
            granted.refused,
            BTreeSet::from([("orders.shop".to_owned(), NotGranted::NotServedByPeer)])
        );
    }
}

#[test]
fn whoever_dials_a_service_is_given_its_routes_and_every_backend_and_those_of_its_own_namespace_instead() {
    let more = r#"---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders-v2}
spec: {ports: [{name: grpc, port: 50051, protocol: grpc}]}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: shadow}
spec: {ports: [{name: grpc, port: 50051, protocol: grpc}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {namespace: shop, name: orders}
spec:
  parentRefs: [{kind: Service, name: orders}]
  rules:
    - backendRefs: [{name: orders-v2, port: 50051}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 50051}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {namespace: batch, name: orders}
spec:
  parentRefs: [{kind: Service, name: orders, namespace: shop}]
  rules: [{backendRefs: [{name: orders, namespace: shop, port: 50051}]}]
---
apiVersion: signet.mesh/v1alpha1
kind: TrafficPolicy
metadata: {namespace: shop, name: orders}
spec: {target: {service: orders}, outlierDetection: {}}
"#;
    let catalog = catalog_of(&format!("{MESH}{more}"), &Keys::default(), &authority());
    let view = |id: &str| catalog.view(&workload(id), PeerClass::Sidecar, &asked(&["orders.shop"], &[]));
    let all = ["service/orders-v2.shop", "service/shadow.shop", "service/orders.shop", "routes/orders.shop"];
    let granted = view("ns/shop/sa/web");
    assert!(all.iter().all(|name| names(&granted).contains(name)), "{:?}", names(&granted));
    let granted = view("ns/batch/sa/job");
    let own = names(&granted);
    assert!(own.contains(&"routes/orders.shop") && !own.contains(&"service/orders-v2.shop"), "{own:?}");
    let documents = |id: &str| {
        let granted = view(id);
        match &granted.view["routes/orders.shop"].resource.body {
            Some(Body::Routes(routes)) => routes.routes.iter().map(|route| route.name.clone()).collect(),
            _ => Vec::new(),
        }
    };
    assert_eq!(documents("ns/shop/sa/web"), ["GRPCRoute/orders.shop"]);
    assert_eq!(documents("ns/batch/sa/job"), ["GRPCRoute/orders.batch"]);
    match &granted.view["service/orders.shop"].resource.body {
        Some(Body::Service(service)) => assert_eq!(service.traffic.len(), 1),
        _ => panic!("no service"),
    }
    // Who does not dial it is told nothing of it.
    let granted =
        catalog.view(&workload("ns/shop/sa/web"), PeerClass::Sidecar, &asked(&["legacy.shop"], &[]));
    assert!(!names(&granted).iter().any(|name| name.starts_with("routes/")));
}

#[test]
fn unknown_services_and_addresses_are_refused_by_name() {
    let mut subscriptions = asked(&["nothing.shop"], &["neither.shop"]);
    subscriptions.addresses.insert("10.96.0.99".parse().unwrap());
    let granted = catalog().view(&workload(WEB), PeerClass::Sidecar, &subscriptions);
    assert_eq!(
        granted.refused,
        BTreeSet::from([
            ("10.96.0.99".to_owned(), NotGranted::UnknownAddress),
            ("neither.shop".to_owned(), NotGranted::UnknownService),
            ("nothing.shop".to_owned(), NotGranted::UnknownService),
        ])
    );
}

#[test]
fn a_service_says_who_else_is_at_its_addresses_and_the_mesh_where_there_are_services() {
    let service = |name: &str, port: u16, address: &str| {
        format!(
            "---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  \
             identities: [ns/shop/sa/orders]\n  addresses: [{address}]\n  ports: [{{name: main, port: {port}, protocol: tcp}}]\n  \
             endpoints: [{{address: 10.1.0.5, ports: {{main: 15006}}}}]\n"
        )
    };
    let yaml = [MESH.to_owned(), service("db", 5432, "10.96.1.1"), service("cache", 6379, "10.96.1.2")];
    let catalog = catalog_of(&yaml.concat(), &Keys::default(), &authority());
    let view =
        catalog.view(&workload(WEB), PeerClass::Sidecar, &asked(&["db.shop", "orders.shop"], &[])).view;
    let sharing = |name: &str| match &view[name].resource.body {
        Some(Body::Service(service)) => service.sharing.clone().expect("it is said"),
        other => panic!("{other:?}"),
    };
    assert!(sharing("service/orders.shop").addresses.is_empty(), "nobody else is there");
    let [shared] = &sharing("service/db.shop").addresses[..] else { panic!("one address") };
    assert_eq!((shared.address.as_str(), &shared.services[..]), ("10.1.0.5", &["cache.shop".to_owned()][..]));
    let Some(Body::Mesh(mesh)) = &view["mesh"].resource.body else { panic!("the mesh") };
    assert_eq!(mesh.namespaces, ["shop"]);
    // On a host that everything runs on, a caller is not sent a list of all of it: it asks.
    let many = (0..300).map(|number| {
        service(&format!("s{number}"), 10_000 + number, &format!("10.97.{}.{}", number / 200, number % 200))
    });
    let catalog = catalog_of(&(MESH.to_owned() + &many.collect::<String>()), &Keys::default(), &authority());
    let view = catalog.view(&workload(WEB), PeerClass::Sidecar, &asked(&["s0.shop"], &[])).view;
    let Some(Body::Service(service)) = &view["service/s0.shop"].resource.body else { panic!("a service") };
    assert!(service.sharing.is_none());
}

#[test]
fn an_address_subscribes_the_service_that_has_it() {
    let mut subscriptions = Subscriptions::default();
    subscriptions.addresses.insert("10.96.0.7".parse().unwrap());
    let granted = catalog().view(&workload(WEB), PeerClass::Sidecar, &subscriptions);
    assert_eq!(names(&granted), ["service/orders.shop"]);
}

#[test]
fn a_gateways_configuration_goes_to_its_identity_with_its_class_only() {
    let catalog = catalog();
    let gw = workload("ns/edge/sa/gw");
    let granted = catalog.view(&gw, PeerClass::Gateway, &Subscriptions::default());
    assert_eq!(names(&granted), ["gateway/gw.edge", "issuer/demo-idp", "service/web.shop"]);
    let granted = catalog.view(&gw, PeerClass::Sidecar, &Subscriptions::default());
    assert!(names(&granted).is_empty(), "the identity without the class");
    let granted = catalog.view(&workload(WEB), PeerClass::Gateway, &Subscriptions::default());
    assert!(names(&granted).is_empty(), "the class without the identity");
}

#[test]
fn issuers_go_to_services_that_take_the_original_credential_and_to_nobody_else() {
    let catalog = catalog();
    let legacy = workload("ns/shop/sa/legacy");
    let granted = catalog.view(&legacy, PeerClass::Sidecar, &asked(&[], &["legacy.shop"]));
    assert_eq!(
        names(&granted),
        ["inbound/legacy.shop", "issuer/demo-idp", "issuer/other-idp", "service/legacy.shop"]
    );
    let granted = catalog.view(&legacy, PeerClass::Sidecar, &asked(&["legacy.shop"], &[]));
    assert_eq!(names(&granted), ["service/legacy.shop"]);
}

#[test]
fn a_version_is_a_digest_of_the_content_and_of_nothing_else() {
    let (one, two) = (catalog(), catalog());
    let view = |c: &Catalog| c.view(&workload(WEB), PeerClass::Sidecar, &asked(&["orders.shop"], &[])).view;
    assert_eq!(view(&one), view(&two));
    let changed = catalog_of(&MESH.replace("17102", "17103"), &Keys::default(), &authority());
    let (before, after) = (view(&one), view(&changed));
    for name in before.keys() {
        let same = before[name].version == after[name].version;
        assert_eq!(same, name != "service/orders.shop", "{name}");
    }
}

#[test]
fn revocations_and_keys_show_up_as_new_versions_of_their_own_resources() {
    let mut later = authority();
    let mut set = RevocationSet::new(2);
    set.identities.insert(SpiffeId::parse("spiffe://demo.signet/ns/shop/sa/web").unwrap());
    later.revocations = Arc::new(Revocations {
        set: Arc::new(set),
        delegations: ["thumb".to_owned()].into(),
        ..Default::default()
    });
    let fetched = KeyState { jwks: Some(r#"{"keys":[]}"#.into()), fetched_at: 5, ..KeyState::default() };
    let keys: Keys = Arc::new(BTreeMap::from([("demo-idp".to_owned(), fetched)]));
    let gw = workload("ns/edge/sa/gw");
    let view = |c: &Catalog| c.view(&gw, PeerClass::Gateway, &Subscriptions::default()).view;
    let (before, after) = (view(&catalog()), view(&catalog_of(MESH, &keys, &later)));
    let changed: Vec<_> =
        before.keys().filter(|n| before[*n].version != after[*n].version).map(String::as_str).collect();
    assert_eq!(changed, ["issuer/demo-idp", "revocations"]);
    let Some(Body::Revocations(revocations)) = &after["revocations"].resource.body else { panic!() };
    assert_eq!((revocations.sequence, revocations.delegations.len()), (2, 1));
    let Some(Body::Issuer(issuer)) = &after["issuer/demo-idp"].resource.body else { panic!() };
    assert_eq!((issuer.fetched_at, issuer.claims.as_slice()), (5, &["email".to_owned()][..]));
}

#[test]
fn an_endpoints_address_is_answered_with_every_service_that_is_there() {
    let service = |name: &str, port: u16, more: &str| {
        format!(
            "---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  \
             identities: [ns/shop/sa/orders]\n  ports: [{{name: main, port: {port}, protocol: tcp}}]\n{more}"
        )
    };
    let at = |ip: &str| format!("  endpoints: [{{address: {ip}, ports: {{main: 15006}}}}]\n");
    let yaml = [
        MESH.to_owned(),
        service("db", 5432, &at("10.1.0.5")),
        service("cache", 6379, &at("10.1.0.5").replace("15006", "15007")),
        service("mail", 25, "  addresses: [10.96.0.7]\n"),
    ];
    let catalog = catalog_of(&yaml.concat(), &Keys::default(), &authority());
    let asks = |address: &str| {
        let asked =
            Subscriptions { addresses: [address.parse().unwrap()].into(), ..Subscriptions::default() };
        catalog.view(&workload(WEB), PeerClass::Sidecar, &asked)
    };
    assert_eq!(names(&asks("10.1.0.5")), ["service/cache.shop", "service/db.shop"]);
    // Services that share a virtual address, by different ports, likewise.
    assert_eq!(names(&asks("10.96.0.7")), ["service/mail.shop", "service/orders.shop"]);
    for nobodys in ["10.1.0.6", "127.0.0.1"] {
        let granted = asks(nobodys);
        assert!(names(&granted).is_empty());
        let refused = granted.refused.into_iter().collect::<Vec<_>>();
        assert_eq!(refused, [(nobodys.to_owned(), NotGranted::UnknownAddress)], "{nobodys}");
    }
}

#[test]
fn who_serves_a_port_is_told_how_long_it_is_permissive_and_who_calls_it_is_not() {
    let yaml = MESH.replace(
        "---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {namespace: shop, name: web}\nspec:\n  ports: [{name: http, port: 80, protocol: http}]",
        "---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {namespace: shop, name: web}\nspec:\n  ports: [{name: http, port: 80, protocol: http, \
         permissive: {until: '2027-01-31T19:00:00+01:00'}}]",
    );
    assert_ne!(yaml, MESH);
    let catalog = catalog_of(&yaml, &Keys::default(), &authority());
    let granted = catalog.view(&workload(WEB), PeerClass::Sidecar, &asked(&["web.shop"], &["web.shop"]));
    let Some(Body::Inbound(inbound)) = &granted.view["inbound/web.shop"].resource.body else { panic!() };
    assert_eq!(inbound.ports[0].permissive_until, 1_801_418_400);
    let Some(Body::Service(service)) = &granted.view["service/web.shop"].resource.body else { panic!() };
    assert_eq!(service.ports[0].permissive_until, 0);
}

#[test]
fn a_gateway_is_told_of_the_routes_that_are_attached_to_it_and_where_they_lead() {
    let attached = r#"---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: db}
spec: {ports: [{name: tls, port: 5432, protocol: tcp}]}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: edge, name: doors}
spec: {class: gateway}
---
apiVersion: signet.mesh/v1alpha1
kind: Gateway
metadata: {namespace: edge, name: doors}
spec:
  identity: ns/edge/sa/doors
  listeners:
    - {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {namespace: shop, name: db}
spec:
  parentRefs: [{name: doors, namespace: edge}]
  hostnames: [db.example.com]
  rules: [{backendRefs: [{name: db, port: 5432}]}]
"#;
    let catalog = catalog_of(&format!("{MESH}{attached}"), &Keys::default(), &authority());
    let view = |account: &str, class| {
        let peer: WorkloadId = format!("ns/edge/sa/{account}").parse().unwrap();
        catalog.view(&peer, class, &Subscriptions::default()).view
    };
    let own = view("doors", PeerClass::Gateway);
    assert!(own.contains_key("service/db.shop"), "{:?}", own.keys());
    let Some(Body::Gateway(config)) = &own["gateway/doors.edge"].resource.body else { panic!("no gateway") };
    let names: Vec<_> = config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["TLSRoute/db.shop"]);
    for (account, class) in [("gw", PeerClass::Gateway), ("doors", PeerClass::Sidecar)] {
        assert!(!view(account, class).contains_key("gateway/doors.edge"), "{account}");
    }
    let other = view("gw", PeerClass::Gateway);
    assert!(!other.contains_key("service/db.shop"));
}

#[test]
fn a_caller_is_told_of_no_service_for_the_sake_of_a_route_that_may_not_refer_to_it() {
    let more = r#"---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: vault, name: keys}
spec: {ports: [{name: http, port: 80, protocol: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: orders}
spec:
  parentRefs: [{kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 80}, {name: keys, namespace: vault, port: 80}]}]
"#;
    let grant = "---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {namespace: vault, name: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: '', kind: Service, name: keys}]
";
    for (text, granted) in [(more.to_owned(), false), (format!("{more}{grant}"), true)] {
        let catalog = catalog_of(&format!("{MESH}{text}"), &Keys::default(), &authority());
        let view = catalog.view(&workload(WEB), PeerClass::Sidecar, &asked(&["web.shop"], &[])).view;
        assert_eq!(view.contains_key("service/keys.vault"), granted, "{:?}", view.keys());
        let Some(Body::Routes(routes)) = &view["routes/web.shop"].resource.body else { panic!("no routes") };
        let refused: &[&str] = if granted { &[] } else { &["keys.vault"] };
        assert_eq!(routes.routes[0].refused, refused);
    }
}

#[test]
fn a_provider_and_who_answers_for_it_go_to_whom_a_policy_has_ask_it_and_to_nobody_else() {
    let more = "---\napiVersion: signet.mesh/v1alpha1\nkind: Workload\nmetadata: {namespace: shop, name: authz}\nspec: {class: sidecar}\n\
                ---\napiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {namespace: shop, name: authz}\n\
                spec: {ports: [{name: grpc, port: 9191, protocol: grpc}], endpoints: [{address: 127.0.0.1, ports: {grpc: 17103}}]}\n\
                ---\napiVersion: signet.mesh/v1alpha1\nkind: AuthorizationProvider\nmetadata: {namespace: shop, name: asked}\n\
                spec: {service: authz.shop, port: grpc}\n\
                ---\napiVersion: signet.mesh/v1alpha1\nkind: AuthorizationProvider\nmetadata: {namespace: shop, name: unused}\n\
                spec: {local: '127.0.0.1:9191'}\n\
                ---\napiVersion: signet.mesh/v1alpha1\nkind: MeshPolicy\nmetadata: {namespace: shop, name: asks}\n\
                spec: {effect: external, provider: asked, target: {service: orders}}\n";
    let catalog = catalog_of(&format!("{MESH}{more}"), &Keys::default(), &authority());
    let orders = workload("ns/shop/sa/orders");
    let given = catalog.view(&orders, PeerClass::Sidecar, &asked(&[], &["orders.shop"]));
    assert_eq!(
        names(&given),
        ["inbound/orders.shop", "provider/asked.shop", "service/authz.shop", "service/orders.shop"]
    );
    let Some(Body::Provider(provider)) = &given.view["provider/asked.shop"].resource.body else { panic!() };
    let read = signet_model::AuthorizationProvider::from_json(&provider.json).unwrap();
    assert_eq!(read.spec.service.unwrap().to_string(), "authz.shop");
    let web = catalog.view(&workload(WEB), PeerClass::Sidecar, &asked(&["orders.shop"], &["web.shop"]));
    assert_eq!(names(&web), ["inbound/web.shop", "service/orders.shop", "service/web.shop"]);
}

#[test]
fn a_server_is_told_how_its_app_reads_of_users_and_its_callers_are_not() {
    let yaml = MESH.replace(
        "  identities: [ns/shop/sa/orders]\n",
        "  identities: [ns/shop/sa/orders]\n  userHeaders: {header: x-jwt-payload, claimHeaders: {x-groups: groups}}\n",
    );
    let catalog = catalog_of(&yaml, &Keys::default(), &authority());
    let view = catalog.view(
        &workload("ns/shop/sa/orders"),
        PeerClass::Sidecar,
        &asked(&["orders.shop"], &["orders.shop"]),
    );
    let Some(Body::Inbound(inbound)) = &view.view["inbound/orders.shop"].resource.body else { panic!() };
    let headers = inbound.ports[0].user_headers.as_ref().unwrap();
    assert_eq!((headers.header.as_str(), headers.claims["x-groups"].as_str()), ("x-jwt-payload", "groups"));
    let Some(Body::Service(service)) = &view.view["service/orders.shop"].resource.body else { panic!() };
    assert!(service.ports[0].user_headers.is_none());
}
