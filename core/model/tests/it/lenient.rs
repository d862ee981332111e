//! A registry of objects that are taken one by one: one mistake leaves the rest as it is, and opens nothing.

use serde_json::{Value, json};
use signet_model::{
    Effect, InForce, Kept, Lenient, ObjectId, Offer, Options, PolicyDocument, Registry, Resource, Stage,
    Stand, stands_for,
};

/// `kind namespace/name` and its spec; without a namespace of the whole mesh.
fn offer(what: &str, spec: Value) -> Offer {
    let (kind, name) = what.split_once(' ').unwrap();
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let api = match kind.ends_with("Route") {
        true => "gateway.networking.k8s.io/v1",
        false => "signet.mesh/v1alpha1",
    };
    let mut document = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec});
    if !namespace.is_empty() {
        document["metadata"]["namespace"] = namespace.into();
    }
    let stand = stands_for(kind, namespace, &document["spec"]);
    let kind: &'static str = Box::leak(kind.to_owned().into_boxed_str());
    let id = ObjectId { kind, namespace: namespace.into(), name: name.into() };
    Offer { id, uid: "1".into(), read: Resource::from_document(document), stand }
}

fn shop() -> Vec<Offer> {
    vec![
        offer("Workload shop/web", json!({"class": "sidecar"})),
        offer("Workload shop/orders", json!({"class": "sidecar"})),
        offer("Service shop/orders", json!({"ports": [{"name": "http", "port": 80, "protocol": "http"}]})),
        offer(
            "Service shop/stock",
            json!({"identities": ["ns/shop/sa/web"], "ports": [{"name": "http", "port": 80}]}),
        ),
        offer("MeshPolicy shop/web-may", json!({"effect": "permit", "target": {"service": "orders"}})),
    ]
}

fn build(offers: &[Offer], kept: &Kept) -> Lenient {
    Registry::build_lenient(offers, kept, &Options::default())
}

fn with(more: Offer) -> Vec<Offer> {
    let mut all = shop();
    all.retain(|it| it.id != more.id);
    all.push(more);
    all
}

/// Whether a request to the service is forbidden whatever it is.
fn is_denied(made: &Lenient, service: &str) -> bool {
    made.registry.governing(&service.parse().unwrap()).into_iter().any(|document| {
        let spec = match document {
            PolicyDocument::Policy(policy) => policy.spec,
            PolicyDocument::GuardRail(rail) => rail.as_policy().unwrap(),
        };
        spec.effect == Effect::Forbid && spec.from.is_none() && spec.to.is_none() && spec.when.is_none()
    })
}

fn last(made: &Lenient) -> (InForce, Stage) {
    let verdict = made.verdicts.last().unwrap();
    (verdict.in_force, verdict.stage)
}

#[test]
fn what_is_right_comes_to_what_a_folder_comes_to() {
    let whole = shop().into_iter().map(|it| (signet_model::Origin::new("x"), it.read.unwrap()));
    let whole = Registry::build(whole, &Options::default()).unwrap();
    let made = build(&shop(), &Kept::new());
    assert_eq!(made.registry, whole);
    assert!(made.verdicts.iter().all(signet_model::Verdict::is_right));
}

#[test]
fn one_broken_object_leaves_the_others_in_force() {
    for broken in [
        offer("Service shop/broken", json!({"ports": []})),
        offer("Workload shop/broken", json!({"class": "king"})),
        offer("Issuer broken", json!({"issuer": "https://idp.example.com"})),
        offer(
            "HTTPRoute shop/broken",
            json!({"parentRefs": [{"kind": "Service", "name": "none"}], "rules": [{}]}),
        ),
        offer("MeshPolicy shop/broken", json!({"effect": "permit", "surprise": 1})),
        offer(
            "Registration broken",
            json!({"identity": "ns/shop/sa/nobody", "kubernetes": {"namespace": "shop", "serviceAccount": "x"}}),
        ),
    ] {
        let id = broken.id.to_string();
        let made = build(&with(broken), &Kept::new());
        assert_eq!(made.registry, build(&shop(), &Kept::new()).registry, "{id}");
        assert_eq!(last(&made).0, InForce::Nothing, "{id}");
        assert!(!made.verdicts.last().unwrap().problems.is_empty(), "{id}");
    }
}

#[test]
fn what_restricts_and_never_was_right_makes_its_target_deny() {
    let forbid = |spec| offer("MeshPolicy shop/no", spec);
    for (broken, orders, stock, other) in [
        (
            forbid(json!({"effect": "forbid", "target": {"service": "orders"}, "surprise": 1})),
            true,
            false,
            false,
        ),
        (
            forbid(json!({"effect": "forbid", "target": {"service": "orders"}, "to": {"ports": ["none"]}})),
            true,
            false,
            false,
        ),
        (forbid(json!({"effect": "forbid", "target": {"service": 5}})), true, true, false),
        (forbid(json!({"effect": "forbid", "target": null})), true, true, false),
        (forbid(json!({"effect": "forbit"})), true, true, false),
        (forbid(json!({})), true, true, false),
        (forbid(Value::Null), true, true, false),
        (
            forbid(json!({"effect": "external", "provider": "none", "target": {"service": "stock"}})),
            false,
            true,
            false,
        ),
        (
            offer(
                "TrafficPolicy shop/limits",
                json!({"target": {"service": "orders"}, "rateLimits": [{"name": "x"}]}),
            ),
            true,
            false,
            false,
        ),
        (offer("TrafficPolicy shop/limits", json!("?")), true, true, false),
        (offer("GuardRail rail", json!({"namespaces": ["shop"], "forbidden": {}})), true, true, false),
        (offer("GuardRail rail", json!({"namespaces": ["other"], "forbid": 1})), false, false, true),
        (offer("GuardRail rail", json!({"namespaces": ["Shop!"], "forbid": {}})), true, true, true),
        (offer("GuardRail rail", json!({"forbid": {"surprise": 1}})), true, true, true),
        (offer("Mesh default", json!({"defaultAction": "perhaps"})), true, true, true),
        (offer("Mesh second", json!({"defaultAction": "allow"})), true, true, true),
    ] {
        let id = format!("{} {:?}", broken.id, broken.read);
        let made = build(&with(broken), &Kept::new());
        assert_eq!(last(&made).0, InForce::Denies, "{id}");
        let denied = ["orders.shop", "stock.shop", "x.other"].map(|service| is_denied(&made, service));
        assert_eq!(denied, [orders, stock, other], "{id}");
    }
}

#[test]
fn a_traffic_policy_without_limits_restricts_nothing() {
    let broken = offer(
        "TrafficPolicy shop/retry",
        json!({"target": {"service": "orders"}, "retry": {"attempts": 99}}),
    );
    let made = build(&with(broken), &Kept::new());
    assert_eq!(last(&made).0, InForce::Nothing);
    assert!(!is_denied(&made, "orders.shop"));
}

#[test]
fn what_was_right_stays_while_its_new_version_is_wrong_and_goes_with_the_object() {
    let good = offer(
        "MeshPolicy shop/no",
        json!({"effect": "forbid", "target": {"service": "orders"}, "from": {"workloads": ["ns/x/sa/y"]}}),
    );
    let before = build(&with(good.clone()), &Kept::new());
    let broken =
        offer("MeshPolicy shop/no", json!({"effect": "permit", "target": {"service": "orders"}, "frm": 1}));
    let made = build(&with(broken.clone()), &before.kept);
    assert_eq!(
        (made.registry.clone(), last(&made)),
        (before.registry.clone(), (InForce::Earlier, Stage::Read))
    );
    // Again, with what the second call gave back.
    assert_eq!(build(&with(broken.clone()), &made.kept).registry, before.registry);
    // Another object of the same name inherits nothing.
    let other = Offer { uid: "2".into(), ..broken };
    assert_eq!(last(&build(&with(other), &before.kept)).0, InForce::Nothing);
    assert!(!build(&shop(), &made.kept).kept.contains_key(&good.id), "gone with the object");
}

#[test]
fn a_forbid_stays_in_force_when_what_it_names_goes_away() {
    let forbid = offer(
        "MeshPolicy shop/no",
        json!({"effect": "forbid", "to": {"ports": ["http"]}, "target": {"service": "orders"}}),
    );
    let before = build(&with(forbid.clone()), &Kept::new());
    let mut offers = with(forbid);
    offers.retain(|it| !(it.id.kind == "Service" && it.id.name == "orders"));
    offers.retain(|it| it.id.name != "web-may");
    let made = build(&offers, &before.kept);
    assert!(made.registry.policy(&"no.shop".parse().unwrap()).is_some());
    assert_eq!(last(&made), (InForce::AsWritten, Stage::Refers));
    assert!(!is_denied(&made, "stock.shop"));
}

#[test]
fn a_permit_that_a_new_guard_rail_does_not_allow_goes() {
    let before = build(&shop(), &Kept::new());
    let rail = offer("GuardRail rail", json!({"permits": {"requireFrom": true}}));
    let made = build(&with(rail), &before.kept);
    assert!(made.registry.policy(&"web-may.shop".parse().unwrap()).is_none());
    assert_eq!(last(&made).0, InForce::AsWritten);
}

#[test]
fn a_service_is_what_it_was_while_it_is_wrong_and_what_names_it_stays() {
    let before = build(&shop(), &Kept::new());
    let broken = offer("Service shop/orders", json!({"ports": [{"name": "http", "port": 0}]}));
    let made = build(&with(broken), &before.kept);
    assert_eq!(made.registry, before.registry);
    assert_eq!(last(&made), (InForce::Earlier, Stage::Read));
    let never = build(&with(offer("Service shop/orders", json!({"ports": 1}))), &Kept::new());
    assert!(never.registry.service(&"orders.shop".parse().unwrap()).is_none());
}

#[test]
fn a_route_stays_when_one_backend_is_not_there_and_its_share_is_refused() {
    let route = offer(
        "HTTPRoute shop/split",
        json!({
            "parentRefs": [{"kind": "Service", "group": "", "name": "orders"}],
            "rules": [{"backendRefs": [{"name": "orders", "port": 80}, {"name": "next", "port": 80}, {"name": "stock", "port": 81}]}],
        }),
    );
    let made = build(&with(route), &Kept::new());
    assert_eq!(last(&made), (InForce::AsWritten, Stage::Refers));
    let route = made.registry.routes().next().unwrap();
    let refused: Vec<_> = made.registry.refused_to(route).iter().map(ToString::to_string).collect();
    assert_eq!(refused, ["next.shop", "stock.shop"]);
}

#[test]
fn a_null_is_not_read_as_absent() {
    let permit = offer("MeshPolicy shop/p", json!({"effect": "permit", "user": null}));
    assert!(permit.read.unwrap_err()[0].reason.contains("empty field"));
}

#[test]
fn every_kind_that_there_is_has_its_row_and_an_unknown_one_denies() {
    for kind in [
        "Workload",
        "Service",
        "ExternalService",
        "Issuer",
        "FederatedTrustDomain",
        "Gateway",
        "Registration",
        "AuthorizationProvider",
        "TokenExchange",
        "HTTPRoute",
        "GRPCRoute",
        "TLSRoute",
        "TCPRoute",
        "ReferenceGrant",
    ] {
        assert_eq!(stands_for(kind, "shop", &json!({})), Stand::Nothing, "{kind}");
    }
    assert_eq!(stands_for("Newer", "shop", &json!({})), Stand::Namespaces(Vec::new()));
}

#[test]
fn stand_ins_never_take_the_name_of_another_policy() {
    let long = "x".repeat(200);
    let mut offers = shop();
    offers.push(offer("MeshPolicy shop/refused-meshpolicy-a", json!({"effect": "permit"})));
    offers.push(offer(&format!("MeshPolicy shop/a.{long}"), json!({"effect": "forbid", "x": 1})));
    offers.push(offer("MeshPolicy shop/a", json!({"effect": "forbid", "x": 1})));
    let made = build(&offers, &Kept::new());
    assert_eq!(made.registry.policies().count(), 4);
    assert!(is_denied(&made, "stock.shop"));
}

#[test]
fn two_services_of_the_same_pods_are_both_called_and_an_endpoint_dialled_by_itself_means_neither() {
    let spec = |addresses: Value| {
        json!({"identities": ["ns/shop/sa/web"], "addresses": addresses, "ports": [{"name": "http", "port": 80}],
               "endpoints": [{"address": "10.1.0.1", "ports": {"http": 8080}}]})
    };
    let mut offers = shop();
    offers.push(offer("Service shop/one", spec(json!(["10.96.0.1"]))));
    offers.push(offer("Service shop/two", spec(json!([]))));
    let made = build(&offers, &Kept::new());
    assert_eq!(last(&made), (InForce::AsWritten, Stage::Refers));
    assert!(made.registry.service(&"one.shop".parse().unwrap()).is_some());
    // A virtual address is one service's alone.
    offers.pop();
    offers.push(offer("Service shop/two", spec(json!(["10.96.0.1"]))));
    assert_eq!(last(&build(&offers, &Kept::new())).0, InForce::Nothing);
}
