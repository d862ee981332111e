//! A registry of objects that are taken one by one: one mistake leaves the rest as it is, and opens nothing.

use serde_json::{Value, json};
use signet_model::{
    Earlier, Effect, InForce, Kept, Lenient, ObjectId, Offer, Options, PolicyDocument, Registry, Stage,
    Stand, read_entries, stands_for,
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
    let (read, flaws) = read_entries(document);
    Offer {
        id,
        uid: "1".into(),
        read,
        stand,
        earlier: Earlier::Kept,
        created: String::new(),
        flaws,
        bare: None,
    }
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
fn what_is_there_stays_while_its_new_version_is_wrong_and_goes_with_the_object() {
    let good = offer("Workload shop/extra", json!({"class": "sidecar"}));
    let before = build(&with(good.clone()), &Kept::new());
    let broken = offer("Workload shop/extra", json!({"class": "sidecar", "clas": 1}));
    let made = build(&with(broken.clone()), &before.kept);
    assert_eq!(
        (made.registry.clone(), last(&made)),
        (before.registry.clone(), (InForce::Earlier, Stage::Read))
    );
    // Again, with what the second call gave back.
    assert_eq!(build(&with(broken.clone()), &made.kept).registry, before.registry);
    // Another object of the same name inherits nothing.
    let other = Offer { uid: "2".into(), ..broken.clone() };
    assert_eq!(last(&build(&with(other), &before.kept)).0, InForce::Nothing);
    assert!(!build(&shop(), &made.kept).kept.contains_key(&good.id), "gone with the object");
    // Nor what its author may not have any more.
    let forfeit = Offer { earlier: Earlier::Forfeit, ..broken };
    let made = build(&with(forfeit), &before.kept);
    assert_eq!(last(&made).0, InForce::Nothing);
    assert!(!made.kept.contains_key(&good.id));
}

#[test]
fn a_permit_that_is_changed_wrongly_lets_nobody_in_until_it_is_mended() {
    let permit = |to: serde_json::Value| {
        offer("MeshPolicy shop/yes", json!({"effect": "permit", "target": {"service": "orders"}, "to": to}))
    };
    let before = build(&with(permit(json!({"ports": ["http"]}))), &Kept::new());
    assert_eq!(last(&before), (InForce::AsWritten, Stage::Fits));
    // What cannot be read, and what names a port that is not there: the change may have been to end what it let in.
    for wrong in [json!({"prts": ["http"]}), json!({"ports": ["htpp"]})] {
        let made = build(&with(permit(wrong)), &before.kept);
        assert_eq!(last(&made).0, InForce::Nothing);
        assert!(made.registry.policy(&"yes.shop".parse().unwrap()).is_none());
        assert!(!is_denied(&made, "orders.shop"), "others may still come in");
        let mended = build(&with(permit(json!({"ports": ["http"]}))), &made.kept);
        assert_eq!(mended.registry, before.registry);
    }
}

#[test]
fn a_policy_that_asks_who_calls_leaves_a_permissive_service_where_it_is() {
    let until = "2100-01-01T00:00:00Z";
    let permissive = offer(
        "Service shop/orders",
        json!({"identities": ["ns/shop/sa/orders"],
               "ports": [{"name": "http", "port": 80, "protocol": "http", "permissive": {"until": until}}]}),
    );
    let mut offers = with(permissive);
    let asks = json!({"effect": "permit", "target": {"service": "orders"}, "from": {"workloads": ["ns/shop/sa/web"]}});
    offers.push(offer("MeshPolicy shop/who", asks));
    let made = build(&offers, &Kept::new());
    assert!(made.registry.service(&"orders.shop".parse().unwrap()).is_some());
    let verdict = &made.verdicts[offers.len() - 2];
    assert_eq!(verdict.in_force, InForce::AsWritten);
    assert!(verdict.problems.iter().any(|it| it.field.ends_with(".permissive")), "{:?}", verdict.problems);
}

#[test]
fn whoever_changes_what_restricts_and_does_so_wrongly_has_its_targets_denied_the_old_and_the_new() {
    let forbid = |spec| offer("MeshPolicy shop/no", spec);
    let lax = forbid(
        json!({"effect": "forbid", "target": {"service": "orders"}, "from": {"workloads": ["ns/x/sa/y"]}}),
    );
    let limits = offer(
        "TrafficPolicy shop/limits",
        json!({"target": {"service": "orders"}, "rateLimits": [{"name": "x", "requests": 1, "per": "1s"}]}),
    );
    let rail = offer(
        "GuardRail rail",
        json!({"namespaces": ["shop"], "forbid": {"from": {"workloads": ["ns/x/sa/y"]}}}),
    );
    for (was, wrong, orders, stock, other) in [
        (
            &lax,
            forbid(json!({"effect": "forbid", "target": {"service": "orders"}, "frm": 1})),
            true,
            false,
            false,
        ),
        (
            &lax,
            forbid(json!({"effect": "forbid", "target": {"service": "stock"}, "frm": 1})),
            true,
            true,
            false,
        ),
        (
            &lax,
            forbid(json!({"effect": "permit", "target": {"service": "stock"}, "frm": 1})),
            true,
            false,
            false,
        ),
        (
            &lax,
            forbid(json!({"effect": "forbid", "target": {"service": "orders"}, "to": {"ports": ["none"]}})),
            true,
            false,
            false,
        ),
        (
            &limits,
            offer("TrafficPolicy shop/limits", json!({"target": {"service": "orders"}, "retry": 1})),
            true,
            false,
            false,
        ),
        (&rail, offer("GuardRail rail", json!({"namespaces": ["other"], "forbid": 1})), true, true, true),
        (
            &offer("Mesh default", json!({"defaultAction": "deny"})),
            offer("Mesh default", json!({"defaultAction": 1})),
            true,
            true,
            true,
        ),
    ] {
        assert!(was.read.is_ok(), "{:?}", was.read);
        let before = build(&with(was.clone()), &Kept::new());
        assert_eq!(last(&before).0, InForce::AsWritten, "{:?}", before.verdicts.last());
        assert!(!is_denied(&before, "orders.shop"));
        let id = format!("{} {:?}", wrong.id, wrong.read);
        let made = build(&with(wrong.clone()), &before.kept);
        assert_eq!(last(&made).0, InForce::Denies, "{id}");
        let denied = ["orders.shop", "stock.shop", "x.other"].map(|service| is_denied(&made, service));
        assert_eq!(denied, [orders, stock, other], "{id}");
        // It stays so, and is over when it is mended.
        assert_eq!(build(&with(wrong), &made.kept).registry, made.registry, "{id}");
        assert_eq!(build(&with(was.clone()), &made.kept).registry, before.registry, "{id}");
    }
}

/// A gateway with these routes, and what it passes on.
fn gateway(routes: Value, passed_on: Value) -> Vec<Offer> {
    let mut offers = shop();
    offers.push(offer("Workload shop/edge", json!({"class": "gateway"})));
    let mut spec = json!({"identity": "ns/shop/sa/edge", "routes": routes});
    if !passed_on.is_null() {
        spec["eastWest"] = json!({"services": passed_on});
    }
    offers.push(offer("Gateway shop/gw", spec));
    offers
}

fn gateway_route(name: &str, path: &str, more: Value) -> Value {
    let mut route = json!({
        "name": name, "hosts": ["shop.example.com"], "pathPrefix": path, "service": "orders.shop", "port": "http",
        "auth": {"anonymous": true},
    });
    for (field, value) in more.as_object().unwrap() {
        route[field] = value.clone();
    }
    route
}

#[test]
fn a_route_of_a_gateway_that_is_wrong_leads_nowhere_and_its_others_go_on() {
    for wrong in [
        json!({"service": "missing.shop"}),
        json!({"port": "missing"}),
        json!({"auth": {"jwt": {"issuers": ["missing"]}}}),
        json!({"auth": {"jwt": {"issuers": ["missing"]}}, "forwardCredential": "original"}),
    ] {
        let routes =
            json!([gateway_route("all", "/", json!({})), gateway_route("admin", "/admin", wrong.clone())]);
        let offers = gateway(routes, Value::Null);
        assert!(offers.last().unwrap().read.is_ok(), "{:?}", offers.last().unwrap().read);
        let made = build(&offers, &Kept::new());
        assert_eq!(last(&made), (InForce::AsWritten, Stage::Refers), "{wrong}");
        let problems = &made.verdicts.last().unwrap().problems;
        assert!(problems.iter().any(|it| it.reason.contains("missing")), "{problems:?}");
        assert!(!problems.iter().any(|it| it.reason.contains("refused.route")), "{problems:?}");
        let gateway = made.registry.gateway(&"gw.shop".parse().unwrap()).unwrap();
        assert_eq!(gateway.spec.routes[0].service.to_string(), "orders.shop");
        // What it is for does not go by the other route, which asks for less.
        let admin = &gateway.spec.routes[1];
        assert_eq!((admin.path_prefix.as_str(), admin.hosts.len()), ("/admin", 1), "{wrong}");
        assert!(made.registry.service(&admin.service).is_none(), "{wrong}");
        assert!(admin.auth.jwt.is_none());
        // Nobody can make a service of that name.
        let mut more = offers.clone();
        let name = format!("Service shop/{}", admin.service.name);
        more.push(offer(&name, json!({"ports": [{"name": "http", "port": 80}]})));
        let hijacked = build(&more, &made.kept);
        assert!(hijacked.registry.service(&admin.service).is_none(), "{:?}", hijacked.verdicts.last());
    }
}

#[test]
fn an_entry_of_a_gateway_that_cannot_be_read_leads_nowhere_and_takes_no_other_along() {
    for wrong in
        [json!({"auht": {}}), json!({"auth": {"jwt": {}}}), json!({"port": null}), json!({"scopes": ["a"]})]
    {
        let routes = json!([
            gateway_route("all", "/", json!({})),
            gateway_route("admin", "/admin", wrong.clone()),
            gateway_route("more", "/more", json!({"service": "missing.shop"})),
        ]);
        let made = build(&gateway(routes, json!(["orders.shop", 7])), &Kept::new());
        assert_eq!(last(&made), (InForce::AsWritten, Stage::Refers), "{wrong}");
        let problems = &made.verdicts.last().unwrap().problems;
        for field in ["spec.routes[1]", "spec.routes[2]", "spec.eastWest.services[1]"] {
            assert!(problems.iter().any(|it| it.field.starts_with(field)), "{field}: {problems:?}");
        }
        assert!(!problems.iter().any(|it| it.reason.contains("refused")), "{problems:?}");
        let gateway = made.registry.gateway(&"gw.shop".parse().unwrap()).unwrap();
        assert_eq!(gateway.spec.routes[0].service.to_string(), "orders.shop");
        assert_eq!(gateway.spec.east_west.as_ref().unwrap().services.len(), 1);
        for route in &gateway.spec.routes[1..] {
            assert!(made.registry.service(&route.service).is_none(), "{wrong}");
        }
        assert_eq!(gateway.spec.route("shop.example.com", "/admin/x").unwrap().name.as_str(), "admin");
    }
    // Of these nobody knows what they are for.
    for wrong in [
        json!({"hosts": ["*", 1]}),
        json!({"pathPrefix": "admin"}),
        json!({"hosts": null}),
        json!({"pathPrefix": "/"}),
    ] {
        let routes =
            json!([gateway_route("all", "/", json!({})), gateway_route("admin", "/admin", wrong.clone())]);
        let made = build(&gateway(routes, Value::Null), &Kept::new());
        assert_eq!(last(&made), (InForce::Nothing, Stage::Read), "{wrong}");
        assert_eq!(made.registry.gateways().count(), 0, "{wrong}");
    }
}

#[test]
fn a_gateway_or_an_exchange_that_is_changed_wrongly_lets_in_nobody_that_it_let_in_before() {
    let routes = json!([gateway_route("all", "/", json!({}))]);
    let before = build(&gateway(routes.clone(), Value::Null), &Kept::new());
    assert_eq!(last(&before), (InForce::AsWritten, Stage::Fits));
    let mut offers = gateway(routes.clone(), Value::Null);
    offers.last_mut().unwrap().read =
        Err(vec![signet_model::Problem::new("spec", "unknown field `surprise`")]);
    let made = build(&offers, &before.kept);
    assert_eq!(last(&made), (InForce::Nothing, Stage::Read));
    assert_eq!(made.registry.gateways().count(), 0);
    assert_eq!(build(&gateway(routes, Value::Null), &made.kept).registry, before.registry, "mended");
}

#[test]
fn a_service_that_is_left_out_keeps_its_addresses_and_nobody_answers_there() {
    let spec = json!({"identities": ["ns/shop/sa/gone"], "addresses": ["10.96.0.7"], "ports": [{"name": "http", "port": 80}]});
    let bare = json!({"identities": [], "addresses": ["10.96.0.7"], "ports": [{"name": "http", "port": 80}]});
    let bare = Some(Box::new(offer("Service shop/lost", bare).read.unwrap()));
    let made =
        build(&with(Offer { bare: bare.clone(), ..offer("Service shop/lost", spec.clone()) }), &Kept::new());
    assert_eq!(last(&made), (InForce::Nothing, Stage::Refers));
    let lost = made.registry.service(&"lost.shop".parse().unwrap()).unwrap();
    assert!(lost.identities().is_empty() && lost.spec.addresses.len() == 1);
    // An address that is another's is that one's.
    let mut offers = with(Offer { bare, ..offer("Service shop/lost", spec) });
    offers[3] = offer(
        "Service shop/a",
        json!({"identities": ["ns/shop/sa/web"], "addresses": ["10.96.0.7"], "ports": [{"name": "x", "port": 80}]}),
    );
    let made = build(&offers, &Kept::new());
    assert!(made.registry.service(&"lost.shop".parse().unwrap()).is_none());
    assert!(made.registry.service(&"a.shop".parse().unwrap()).is_some());
}

#[test]
fn of_two_that_claim_one_target_or_one_place_the_older_one_has_it() {
    let aged =
        |what: &str, created: &str, spec: Value| Offer { created: created.into(), ..offer(what, spec) };
    let limits = json!({"target": {"service": "orders"}, "retry": {"attempts": 1, "onReset": true}});
    let place = json!({"hosts": ["example.org"], "ports": [{"name": "https", "port": 443}]});
    for (first, second, kept) in
        [("2026-01-01", "2026-01-02", "a"), ("2026-01-02", "2026-01-01", "b"), ("", "", "a")]
    {
        for (kind, spec) in [("TrafficPolicy", &limits), ("ExternalService", &place)] {
            let mut offers = shop();
            offers.push(aged(&format!("{kind} shop/a"), first, spec.clone()));
            offers.push(aged(&format!("{kind} shop/b"), second, spec.clone()));
            assert!(offers.iter().all(|it| it.read.is_ok()), "{:?}", offers.last().unwrap().read);
            let made = build(&offers, &Kept::new());
            let traffic = made.registry.traffic_policies().map(|it| it.name.name.to_string());
            let names: Vec<_> =
                traffic.chain(made.registry.external_services().map(|it| it.name.name.to_string())).collect();
            assert_eq!(names, [kept], "{kind}: {first} {second}");
        }
    }
}

#[test]
fn a_service_that_cannot_be_passed_on_to_is_left_out_and_the_others_are_passed_on() {
    let made = build(
        &gateway(json!([gateway_route("all", "/", json!({}))]), json!(["missing.shop", "orders.shop"])),
        &Kept::new(),
    );
    assert_eq!(last(&made), (InForce::AsWritten, Stage::Refers));
    let gateway = made.registry.gateway(&"gw.shop".parse().unwrap()).unwrap();
    let passed_on = &gateway.spec.east_west.as_ref().unwrap().services;
    assert_eq!(passed_on.iter().map(ToString::to_string).collect::<Vec<_>>(), ["orders.shop"]);
}

#[test]
fn an_entry_of_a_token_exchange_that_is_wrong_is_left_out_and_one_that_would_let_all_actors_in_is_not() {
    let issuer = json!({"issuer": "https://idp.example.com", "jwksUri": "https://idp.example.com/jwks", "audiences": ["shop"], "algorithms": ["ES256"]});
    let exchange = |workloads: Value, issuers: Value, actors: Value| {
        let mut offers = shop();
        offers.push(offer("Issuer idp", issuer.clone()));
        let mut spec = json!({"workloads": workloads, "issuers": issuers, "subjectTokens": ["unsignedJson"]});
        if !actors.is_null() {
            spec["actors"] = json!({"issuers": actors});
        }
        offers.push(offer("TokenExchange jobs", spec));
        build(&offers, &Kept::new())
    };
    let (web, gone) = ("ns/shop/sa/web", "ns/shop/sa/gone");
    let made = exchange(json!([gone, web]), json!(["idp", "none"]), json!(["none", "idp"]));
    assert_eq!(last(&made), (InForce::AsWritten, Stage::Refers), "{:?}", made.verdicts.last());
    let spec = &made.registry.token_exchanges().next().unwrap().spec;
    assert_eq!(
        (spec.workloads.len(), spec.issuers.len(), spec.actors.as_ref().unwrap().issuers.len()),
        (1, 1, 1)
    );
    for made in [
        exchange(json!([gone]), json!(["idp"]), Value::Null),
        exchange(json!([web]), json!(["none"]), Value::Null),
        exchange(json!([web]), json!(["idp"]), json!(["none"])),
    ] {
        assert_eq!(last(&made).0, InForce::Nothing);
        assert_eq!(made.registry.token_exchanges().count(), 0);
    }
}

#[test]
fn a_gateways_route_counts_only_the_routes_and_backends_that_its_requests_take() {
    let original = |name: &str| {
        offer(
            &format!("Service shop/{name}"),
            json!({"identities": ["ns/shop/sa/orders"], "userContext": "original", "ports": [{"name": "http", "port": 80, "protocol": "http"}]}),
        )
    };
    let issuer = json!({"issuer": "https://idp.example.com", "jwksUri": "https://idp.example.com/jwks", "audiences": ["shop"], "algorithms": ["ES256"]});
    let forwards = json!({"auth": {"jwt": {"issuers": ["idp"]}}, "forwardCredential": "original"});
    let mut offers = gateway(json!([gateway_route("all", "/", forwards)]), Value::Null);
    offers.retain(|it| !(it.id.kind == "Service" && it.id.name == "orders"));
    offers.insert(0, original("orders"));
    offers.insert(0, offer("Issuer idp", issuer));
    let leads = |route: Offer| {
        let mut offers = offers.clone();
        offers.insert(0, route);
        let made = build(&offers, &Kept::new());
        made.verdicts.last().unwrap().problems.is_empty()
    };
    let route = |namespace: &str, backend: Value| {
        offer(
            &format!("HTTPRoute {namespace}/split"),
            json!({"parentRefs": [{"kind": "Service", "group": "", "name": "orders", "namespace": "shop"}], "rules": [{"backendRefs": [backend]}]}),
        )
    };
    assert!(
        !leads(route("shop", json!({"name": "stock", "port": 80}))),
        "it leads to one that takes no original"
    );
    // Another namespace's callers go by its routes, and the gateway's do not.
    assert!(leads(route("tenant", json!({"name": "stock", "namespace": "shop", "port": 80}))));
    assert!(leads(route("shop", json!({"name": "stock", "port": 81}))), "nobody gets there");
}

#[test]
fn of_two_routes_that_claim_the_same_the_older_one_has_it() {
    let tcp = |name: &str, created: &str| Offer {
        created: created.into(),
        ..offer(
            &format!("TCPRoute shop/{name}"),
            json!({"parentRefs": [{"kind": "Service", "group": "", "name": "db"}], "rules": [{"backendRefs": [{"name": "db", "port": 5432}]}]}),
        )
    };
    let db =
        json!({"identities": ["ns/shop/sa/web"], "ports": [{"name": "db", "port": 5432, "protocol": "tcp"}]});
    for (first, second, kept) in [
        ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "a"),
        ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", "b"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "a"),
        ("", "2026-01-01T00:00:00Z", "b"),
        ("", "", "a"),
    ] {
        let mut offers = shop();
        offers.extend([offer("Service shop/db", db.clone()), tcp("a", first), tcp("b", second)]);
        let made = build(&offers, &Kept::new());
        let names: Vec<_> = made.registry.routes().map(|route| route.name().name.to_string()).collect();
        assert_eq!(names, [kept], "{first} {second}");
    }
    // Of requests both stay, and the older one's rules come first.
    let http = |name: &str, created: &str| Offer {
        created: created.into(),
        ..offer(
            &format!("HTTPRoute shop/{name}"),
            json!({"parentRefs": [{"kind": "Service", "group": "", "name": "orders"}], "rules": [{"backendRefs": [{"name": "orders", "port": 80}]}]}),
        )
    };
    let mut offers = shop();
    offers.extend([http("a", "2026-01-02T00:00:00Z"), http("b", "2026-01-01T00:00:00Z")]);
    let made = build(&offers, &Kept::new());
    let routes = made.registry.routes_for(&"orders.shop".parse().unwrap(), &"shop".parse().unwrap());
    assert_eq!(routes.iter().map(|route| route.name().name.to_string()).collect::<Vec<_>>(), ["b", "a"]);
}

#[test]
fn many_objects_that_are_refused_cost_no_more_each_than_one() {
    let long = "x".repeat(60);
    let broken = |number: usize| {
        offer(&format!("MeshPolicy shop/{long}-{number}"), json!({"effect": "forbid", "x": 1}))
    };
    let offers: Vec<_> = shop().into_iter().chain((0..20_000).map(broken)).collect();
    let begin = std::time::Instant::now();
    let made = build(&offers, &Kept::new());
    assert_eq!(made.registry.policies().count(), 20_001);
    // A search from the first name on would look at 200 million.
    assert!(begin.elapsed() < std::time::Duration::from_secs(20), "{:?}", begin.elapsed());
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
