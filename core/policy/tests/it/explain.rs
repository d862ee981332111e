//! An explanation says what would have been needed, and keeps what must not be kept out.

use crate::common::{doc, grpc, http, own, peer, set, set_with, tcp, user};
use serde_json::json;
use signet_policy::{Answer, Basis, Explanation, PolicySet, User};

#[test]
fn the_nearest_permit_comes_first_with_what_it_wanted_and_what_came() {
    let web = peer("ns/shop/sa/web");
    let user = user();
    let policies = set(&[
        json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/other"]}, "to": {"methods": ["PUT"]}}),
        json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/web"]}, "user": {"scopes": ["orders:write"]}}),
        json!({"effect": "forbid", "to": {"paths": ["/admin"]}}),
        json!({"effect": "permit", "mode": "shadow"}),
    ]);
    let told = policies.explain(&http(&web, Some(&user), "GET", "/v1/orders/7"));
    assert_eq!((told.verdict, told.basis, told.default_allow), (Answer::Deny, Basis::Default, false));
    assert_eq!(
        told.reason,
        "no policy permits this; nearest is p1.shop: user.scopes expected orders:write, \
         had orders:read orders:list"
    );
    assert!(told.deciding.is_empty());
    let nearest = &told.near_misses[0];
    assert_eq!(
        (nearest.policy.as_str(), nearest.failed.as_str(), nearest.expected.as_str(), nearest.had.as_str()),
        ("p1.shop", "user.scopes", "orders:write", "orders:read orders:list")
    );
    assert!(nearest.also_failed.is_empty());
    let second = &told.near_misses[1];
    assert_eq!(
        (second.failed.as_str(), second.expected.as_str(), second.had.as_str()),
        ("from.workloads", "ns/shop/sa/other", "ns/shop/sa/web")
    );
    assert_eq!(second.also_failed, ["to.methods"]);
    assert_eq!(told.near_misses.len(), 2, "forbids and shadows are no near misses");
    assert_eq!((told.shadow[0].policy.as_str(), told.shadow[0].would_allow), ("p3.shop", true));
    assert_eq!(told.facts.user.as_ref().unwrap().sub, "idp|alice");
    assert_eq!(told.facts.peer, "spiffe://demo.signet/ns/shop/sa/web");
    assert_eq!((told.facts.service.as_str(), told.facts.port.as_str()), ("orders.shop", "http"));
}

#[test]
fn a_policy_that_only_wanted_another_user_comes_before_those_on_other_requests() {
    let (gateway, bob) = (peer("ns/edge/sa/gateway"), User { scopes: vec!["profile".into()], ..user() });
    let from = json!({"workloads": ["ns/edge/sa/gateway"]});
    let policies = set(&[
        // One condition failed, and it speaks of other paths.
        json!({"effect": "permit", "from": from, "user": {"required": true}, "to": {"methods": ["GET"], "paths": ["/"]}}),
        json!({"effect": "permit", "from": {"workloads": ["ns/edge/sa/other"]}}),
        // Two failed, both on the user.
        json!({"effect": "permit", "from": from, "to": {"methods": ["GET"], "paths": ["/orders"]},
            "user": {"scopes": ["orders:read"], "claims": {"groups": {"anyOf": ["ops"]}}}}),
        json!({"effect": "permit", "from": from, "to": {"methods": ["POST"], "paths": ["/orders/{sku}"]},
            "user": {"scopes": ["orders:write"]}}),
        json!({"effect": "permit", "from": from, "to": {"paths": ["/orders"]}, "user": {"scopes": ["orders:list"]}}),
    ]);
    let told = policies.explain(&http(&gateway, Some(&bob), "GET", "/orders"));
    let order: Vec<_> = told.near_misses.iter().map(|miss| miss.policy.as_str()).collect();
    assert_eq!(order, ["p4.shop", "p2.shop", "p0.shop", "p1.shop", "p3.shop"]);
    assert_eq!(
        told.reason,
        "no policy permits this; nearest is p4.shop: user.scopes expected orders:list, had profile"
    );
}

#[test]
fn the_reason_is_one_sentence_whatever_decided() {
    let web = peer("ns/shop/sa/web");
    let request = http(&web, None, "GET", "/a\u{1b}[2J");
    let permit = json!({"effect": "permit"});
    let forbid = json!({"effect": "forbid", "user": {"scopes": ["a"]}});
    #[rustfmt::skip]
    let table = [
        (set(std::slice::from_ref(&permit)), Answer::Allow, "permitted by p0.shop"),
        (set(&[permit, forbid]), Answer::Deny, "forbidden by p1.shop (absent: user)"),
        (set_with(&[], true), Answer::Allow, "no policy matches, and the mesh's default is to allow"),
        (set(&[]), Answer::Deny, "no policy permits this; orders.shop has no permit at all"),
        (set(&[json!({"effect": "permit", "to": {"methods": ["PUT"], "paths": ["/b"]}})]), Answer::Deny,
            "no policy permits this; nearest is p0.shop: to.paths expected /b, had /a\\u{1b}[2J; also to.methods"),
    ];
    for (policies, verdict, reason) in table {
        let told = policies.explain(&request);
        assert_eq!((told.verdict, told.reason.as_str()), (verdict, reason));
    }
}

#[test]
fn each_condition_tells_what_it_wanted() {
    let web = peer("ns/shop/sa/web");
    let alice = user();
    let attached = User { context: signet_policy::Context::Attached, ..user() };
    let request = http(&web, Some(&alice), "GET", "/a");
    #[rustfmt::skip]
    let table = [
        (json!({"user": {"required": true}}), http(&web, None, "GET", "/a"), "user", "a user", "none"),
        (json!({"user": {"required": true}}), http(&web, Some(&attached), "GET", "/a"), "user.context", "forwarded", "attached"),
        (json!({"user": {"claims": {"groups": {"anyOf": ["ops", "sre"]}}}}), request, "user.claims.groups", "any of ops, sre", "[staff, support]"),
        (json!({"user": {"claims": {"tier": {"equals": "gold"}}}}), request, "user.claims.tier", "exactly gold", "no such claim"),
        (json!({"user": {"claims": {"level": {"allOf": ["3"]}}}}), request, "user.claims.level", "all of 3", "a claim that is neither a text nor a list of texts"),
        (json!({"to": {"ports": ["grpc"]}}), request, "to.ports", "grpc", "http"),
        (json!({"to": {"methods": ["PUT", "POST"]}}), request, "to.methods", "PUT or POST", "GET"),
        (json!({"to": {"paths": ["/b/{id}"]}}), request, "to.paths", "/b/{id}", "/a"),
        (json!({"to": {"paths": ["/b/{id}"]}}), tcp(&web), "to.paths", "/b/{id}", "none"),
        (json!({"to": {"grpc": ["a.B/C"]}}), request, "to.grpc", "a.B/C", "a request that is not gRPC"),
        (json!({"to": {"grpc": ["a.B/C"]}}), grpc(&web, None, "/a.B/D"), "to.grpc", "a.B/C", "a.B/D"),
        (json!({"to": {"methods": ["PUT"], "grpc": ["a.B/C"]}}), request, "to", "PUT or a.B/C", "GET /a"),
    ];
    for (part, facts, failed, expected, had) in table {
        let mut spec = json!({"effect": "permit"});
        spec.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        let told = set(&[spec]).explain(&facts);
        let miss = &told.near_misses[0];
        assert_eq!(
            (miss.failed.as_str(), miss.expected.as_str(), miss.had.as_str()),
            (failed, expected, had),
            "{part}"
        );
    }
    let foreign = signet_identity::SpiffeId::parse("spiffe://other.signet/ns/shop/sa/web").unwrap();
    let told = set(&[json!({"effect": "permit"})]).explain(&http(&foreign, None, "GET", "/"));
    assert_eq!(told.near_misses[0].expected, "a peer of the mesh's own trust domain");
}

#[test]
fn a_forbid_that_matched_by_absence_says_so() {
    let web = peer("ns/shop/sa/web");
    let told =
        set_with(&[json!({"effect": "forbid", "user": {"scopes": ["a"]}, "to": {"methods": ["PUT"]}})], true)
            .explain(&tcp(&web));
    assert_eq!(told.basis, Basis::Forbid);
    assert_eq!(told.deciding[0].by_absence, ["to.methods", "user"]);
    assert!(told.near_misses.is_empty());
}

#[test]
fn at_most_five_near_misses_are_told() {
    let web = peer("ns/shop/sa/web");
    let specs = vec![json!({"effect": "permit", "to": {"methods": ["PUT"]}}); 9];
    assert_eq!(set(&specs).explain(&http(&web, None, "GET", "/")).near_misses.len(), 5);
}

#[test]
fn a_document_that_was_not_understood_is_named_with_its_reason() {
    let web = peer("ns/shop/sa/web");
    let docs = [
        doc("newer", &json!({"effect": "permit", "freshness": "1m"})),
        doc("ok", &json!({"effect": "permit"})),
    ];
    let told = PolicySet::compile(&own(), &"orders.shop".parse().unwrap(), docs, true)
        .explain(&http(&web, None, "GET", "/"));
    assert_eq!((told.verdict, told.basis), (Answer::Deny, Basis::NotUnderstood));
    assert_eq!(told.not_understood[0].policy, "newer.shop");
    assert!(
        told.to_string()
            .contains("policy newer.shop cannot be read: spec.freshness: unknown field `freshness`"),
        "{told}"
    );
}

#[test]
fn an_explanation_travels_as_json_and_reads_as_text() {
    let web = peer("ns/shop/sa/web");
    let bob = User { sub: "idp|bob\u{1b}[31m".into(), ..user() };
    let told = set(&[json!({"effect": "permit", "user": {"scopes": ["orders:write"]}})]).explain(&http(
        &web,
        Some(&bob),
        "GET",
        "/v1/orders/7",
    ));
    let json = serde_json::to_string(&told).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), told);
    assert!(!json.contains("alice@example.com"), "claims that no policy compared are not kept");
    let text = told.to_string();
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert_eq!(
        text,
        "denied: no policy permits this; nearest is p0.shop: user.scopes expected orders:write, \
         had orders:read orders:list\n\
         GET /v1/orders/7 to orders.shop port http from spiffe://demo.signet/ns/shop/sa/web, \
         user idp|bob\\u{1b}[31m (jwt, forwarded)\n"
    );
}

#[test]
fn long_texts_of_callers_are_shortened() {
    let web = peer("ns/shop/sa/web");
    let path = format!("/{}", "ä".repeat(5000));
    let told =
        set(&[json!({"effect": "permit", "to": {"paths": ["/x"]}})]).explain(&http(&web, None, "GET", &path));
    assert!(told.facts.path.unwrap().chars().count() <= 201);
    assert!(told.near_misses[0].had.chars().count() <= 201);
}
