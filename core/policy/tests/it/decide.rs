//! What policies permit and forbid, rule by rule.

use crate::common::{doc, grpc, http, own, peer, set, set_with, tcp, user};
use serde_json::{Value, json};
use signet_policy::{Basis, Context, Facts, PolicySet, Unproven};

fn allowed(specs: &[Value], facts: &Facts<'_>) -> bool {
    set(specs).decide(facts).allowed
}

#[test]
fn without_a_policy_the_default_decides() {
    let web = peer("ns/shop/sa/web");
    let denied = set(&[]);
    let denied = denied.decide(&http(&web, None, "GET", "/"));
    assert_eq!((denied.allowed, denied.basis, denied.deciding.len()), (false, Basis::Default, 0));
    let allowed = set_with(&[], true);
    let allowed = allowed.decide(&http(&web, None, "GET", "/"));
    assert_eq!((allowed.allowed, allowed.basis), (true, Basis::Default));
}

#[test]
fn a_permit_permits_and_a_forbid_wins() {
    let web = peer("ns/shop/sa/web");
    let facts = http(&web, None, "GET", "/");
    let permit = set(&[json!({"effect": "permit"})]);
    let verdict = permit.decide(&facts);
    assert_eq!((verdict.allowed, verdict.basis, &*verdict.deciding), (true, Basis::Permit, &["p0.shop"][..]));
    for default_allow in [false, true] {
        let both = set_with(&[json!({"effect": "permit"}), json!({"effect": "forbid"})], default_allow);
        let verdict = both.decide(&facts);
        assert_eq!(
            (verdict.allowed, verdict.basis, &*verdict.deciding),
            (false, Basis::Forbid, &["p1.shop"][..])
        );
    }
}

#[test]
fn identities_are_compared_whole_or_by_namespace() {
    let exact = [json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/web"]}})];
    let namespace = [json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/*"]}})];
    for (path, by_name, by_namespace) in [
        ("ns/shop/sa/web", true, true),
        ("ns/shop/sa/web2", false, true),
        ("ns/shop/sa/we", false, true),
        ("ns/shop/sa/WEB", false, true),
        ("ns/shop2/sa/web", false, false),
        ("ns/sho/sa/web", false, false),
        ("ns/other/sa/web", false, false),
        ("ns/shop/sa/web/x", false, false),
        ("x/ns/shop/sa/web", false, false),
        ("shop/web", false, false),
    ] {
        let peer = peer(path);
        assert_eq!(allowed(&exact, &http(&peer, None, "GET", "/")), by_name, "{path}");
        assert_eq!(allowed(&namespace, &http(&peer, None, "GET", "/")), by_namespace, "{path}");
    }
}

#[test]
fn a_peer_of_another_trust_domain_is_permitted_only_by_what_names_it_and_forbidden_by_what_names_nobody() {
    let foreign = signet_identity::SpiffeId::parse("spiffe://other.signet/ns/shop/sa/web").unwrap();
    let facts = http(&foreign, None, "GET", "/");
    assert!(!allowed(&[json!({"effect": "permit"})], &facts));
    assert!(!allowed(&[json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/web"]}})], &facts));
    assert!(!allowed(&[json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/*"]}})], &facts));
    let open = set_with(&[json!({"effect": "forbid", "from": {"workloads": ["ns/shop/sa/web"]}})], true);
    assert!(!open.decide(&facts).allowed, "the mesh's default to allow is for its own");
    assert!(!set_with(&[json!({"effect": "forbid"})], true).decide(&facts).allowed);
    let named = json!({"effect": "permit", "from": {"workloads": ["spiffe://other.signet/ns/shop/sa/web"]}});
    assert!(allowed(std::slice::from_ref(&named), &facts));
    let forbidden =
        json!({"effect": "forbid", "from": {"workloads": ["spiffe://other.signet/ns/shop/sa/*"]}});
    assert!(!allowed(&[named, forbidden], &facts));
}

#[test]
fn a_federated_identity_is_compared_whole_or_by_namespace_and_never_with_our_own() {
    let exact =
        [json!({"effect": "permit", "from": {"workloads": ["spiffe://other.signet/ns/shop/sa/web"]}})];
    let namespace =
        [json!({"effect": "permit", "from": {"workloads": ["spiffe://other.signet/ns/shop/sa/*"]}})];
    let odd = [json!({"effect": "permit", "from": {"workloads": ["spiffe://other.signet/spire/agent"]}})];
    for (id, by_name, by_namespace, by_odd) in [
        ("spiffe://other.signet/ns/shop/sa/web", true, true, false),
        ("spiffe://other.signet/ns/shop/sa/web2", false, true, false),
        ("spiffe://other.signet/ns/shop2/sa/web", false, false, false),
        ("spiffe://other.signet/ns/shop/sa/web/x", false, false, false),
        ("spiffe://other.signet/spire/agent", false, false, true),
        ("spiffe://third.signet/ns/shop/sa/web", false, false, false),
        ("spiffe://demo.signet/ns/shop/sa/web", false, false, false),
    ] {
        let peer = signet_identity::SpiffeId::parse(id).unwrap();
        let facts = http(&peer, None, "GET", "/");
        assert_eq!(allowed(&exact, &facts), by_name, "{id}");
        assert_eq!(allowed(&namespace, &facts), by_namespace, "{id}");
        assert_eq!(allowed(&odd, &facts), by_odd, "{id}");
    }
}

#[test]
fn a_refusal_of_a_federated_peer_names_it_whole() {
    let foreign = signet_identity::SpiffeId::parse("spiffe://other.signet/ns/shop/sa/web").unwrap();
    let set = set_with(&[json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/web"]}})], true);
    let told = set.explain(&http(&foreign, None, "GET", "/"));
    assert_eq!(
        told.reason,
        "no policy permits this; nearest is p0.shop: from.workloads expected ns/shop/sa/web, had \
         spiffe://other.signet/ns/shop/sa/web"
    );
    assert!(!told.default_allow);
}

#[test]
fn a_permit_that_asks_for_a_user_needs_one_that_was_forwarded() {
    let web = peer("ns/shop/sa/web");
    let required = [json!({"effect": "permit", "user": {"required": true}})];
    let either =
        [json!({"effect": "permit", "user": {"required": true, "context": ["forwarded", "attached"]}})];
    let attached_only = [json!({"effect": "permit", "user": {"context": ["attached"]}})];
    let optional = [json!({"effect": "permit", "user": {"required": false}})];
    let anyone = [json!({"effect": "permit"})];
    for (context, by_required, by_either, by_attached) in [
        (None, false, false, false),
        (Some(Context::Forwarded), true, true, false),
        (Some(Context::Direct), true, true, false),
        (Some(Context::Attached), false, true, true),
    ] {
        let user = context.map(|context| signet_policy::User { context, ..user() });
        let facts = http(&web, user.as_ref(), "GET", "/");
        assert_eq!(allowed(&required, &facts), by_required, "{context:?}");
        assert_eq!(allowed(&either, &facts), by_either, "{context:?}");
        assert_eq!(allowed(&attached_only, &facts), by_attached, "{context:?}");
        assert!(allowed(&optional, &facts) && allowed(&anyone, &facts), "{context:?}");
    }
}

#[test]
fn an_attached_user_does_not_slip_past_a_forbid() {
    let web = peer("ns/shop/sa/web");
    let forbid = |context: Value| {
        set_with(
            &[json!({"effect": "forbid", "user": {"scopes": ["orders:read"], "context": context}})],
            true,
        )
    };
    let any = set_with(&[json!({"effect": "forbid", "user": {"scopes": ["orders:read"]}})], true);
    let attached = signet_policy::User { context: Context::Attached, ..user() };
    let facts = http(&web, Some(&attached), "GET", "/");
    assert!(!any.decide(&facts).allowed);
    assert!(!forbid(json!(["attached"])).decide(&facts).allowed);
    assert!(forbid(json!(["forwarded"])).decide(&facts).allowed);
}

#[test]
fn conditions_on_the_user_compare_sets() {
    let web = peer("ns/shop/sa/web");
    let user = user();
    let facts = http(&web, Some(&user), "GET", "/");
    // What each condition comes to: in a permit, in a forbid, in a forbid that skips what is absent.
    #[rustfmt::skip]
    let table: &[(Value, bool, bool, bool)] = &[
        (json!({"scopes": ["orders:read"]}), true, true, true),
        (json!({"scopes": ["orders:read", "orders:list"]}), true, true, true),
        (json!({"scopes": ["orders:read", "orders:write"]}), false, false, false),
        (json!({"scopes": ["orders"]}), false, false, false),
        (json!({"cred": ["jwt"]}), true, true, true),
        (json!({"claims": {"groups": {"anyOf": ["staff", "ops"]}}}), true, true, true),
        (json!({"claims": {"groups": {"anyOf": ["ops"]}}}), false, false, false),
        (json!({"claims": {"groups": {"allOf": ["staff", "support"]}}}), true, true, true),
        (json!({"claims": {"groups": {"allOf": ["staff", "ops"]}}}), false, false, false),
        (json!({"claims": {"groups": {"equals": "staff"}}}), false, false, false),
        (json!({"claims": {"one": {"equals": "x"}}}), true, true, true),
        (json!({"claims": {"email": {"equals": "alice@example.com"}}}), true, true, true),
        (json!({"claims": {"email": {"equals": "ALICE@example.com"}}}), false, false, false),
        (json!({"claims": {"email": {"anyOf": ["alice"]}}}), false, false, false),
        (json!({"claims": {"groups": {"anyOf": ["staff"], "allOf": ["ops"]}}}), false, false, false),
        (json!({"claims": {"groups": {"anyOf": ["staff"]}, "email": {"anyOf": ["bob"]}}}), false, false, false),
        (json!({"claims": {"empty": {"anyOf": ["a"]}}}), false, false, false),
        (json!({"claims": {"empty": {"equals": "a"}}}), false, false, false),
        // absent or not comparable
        (json!({"claims": {"missing": {"anyOf": ["a"]}}}), false, true, false),
        (json!({"claims": {"level": {"equals": "3"}}}), false, true, false),
        (json!({"claims": {"none": {"equals": "null"}}}), false, true, false),
        (json!({"claims": {"mixed": {"anyOf": ["a"]}}}), false, true, false),
        (json!({"claims": {"missing": {"anyOf": ["a"]}, "email": {"equals": "bob"}}}), false, false, false),
    ];
    for (condition, permits, forbids, skips) in table {
        assert_eq!(
            allowed(&[json!({"effect": "permit", "user": condition})], &facts),
            *permits,
            "{condition}"
        );
        let forbid = set_with(&[json!({"effect": "forbid", "user": condition})], true);
        assert_eq!(!forbid.decide(&facts).allowed, *forbids, "{condition}");
        let skip = set_with(&[json!({"effect": "forbid", "ifAbsent": "skip", "user": condition})], true);
        assert_eq!(!skip.decide(&facts).allowed, *skips, "{condition}");
    }
    let other = signet_policy::User { cred: "api-key".into(), ..user.clone() };
    assert!(!allowed(
        &[json!({"effect": "permit", "user": {"cred": ["jwt"]}})],
        &http(&web, Some(&other), "GET", "/")
    ));
}

#[test]
fn a_forbid_on_a_user_catches_requests_without_one_unless_it_skips() {
    let web = peer("ns/shop/sa/web");
    let facts = http(&web, None, "GET", "/");
    let claims = json!({"claims": {"groups": {"anyOf": ["banned"]}}});
    assert!(!set_with(&[json!({"effect": "forbid", "user": claims})], true).decide(&facts).allowed);
    assert!(
        set_with(&[json!({"effect": "forbid", "ifAbsent": "skip", "user": claims})], true)
            .decide(&facts)
            .allowed
    );
    // Absence never widens a forbid beyond its other conditions.
    let other = [json!({"effect": "forbid", "from": {"workloads": ["ns/shop/sa/other"]}, "user": claims})];
    assert!(set_with(&other, true).decide(&facts).allowed);
    let path = [json!({"effect": "forbid", "user": claims, "to": {"paths": ["/admin"]}})];
    assert!(set_with(&path, true).decide(&facts).allowed);
}

#[test]
fn methods_and_paths_must_both_fit_and_grpc_is_another_way_to_fit() {
    let web = peer("ns/shop/sa/web");
    let both = [json!({"effect": "permit", "to": {
        "methods": ["GET"], "paths": ["/v1/orders/{id}"], "grpc": ["shop.v1.Orders/List"]}})];
    assert!(allowed(&both, &http(&web, None, "GET", "/v1/orders/1")));
    assert!(!allowed(&both, &http(&web, None, "POST", "/v1/orders/1")));
    assert!(!allowed(&both, &http(&web, None, "GET", "/v1/orders")));
    assert!(!allowed(&both, &http(&web, None, "get", "/v1/orders/1")));
    assert!(allowed(&both, &grpc(&web, None, "/shop.v1.Orders/List")));
    assert!(!allowed(&both, &grpc(&web, None, "/shop.v1.Orders/Delete")));
    let ports = [json!({"effect": "permit", "to": {"ports": ["grpc"]}})];
    assert!(
        allowed(&ports, &grpc(&web, None, "/a.B/C")) && !allowed(&ports, &http(&web, None, "GET", "/a.B/C"))
    );
}

#[test]
fn a_grpc_call_in_disguise_is_not_permitted_and_is_forbidden() {
    let web = peer("ns/shop/sa/web");
    let disguised = http(&web, None, "POST", "/shop.v1.Orders/Delete");
    let to = json!({"grpc": ["shop.v1.Orders/*"]});
    assert!(!allowed(&[json!({"effect": "permit", "to": to})], &disguised));
    for if_absent in ["match", "skip"] {
        let forbid = set_with(&[json!({"effect": "forbid", "ifAbsent": if_absent, "to": to})], true);
        assert!(!forbid.decide(&disguised).allowed);
        assert!(
            forbid.decide(&http(&web, None, "GET", "/v1/orders")).allowed,
            "a gRPC forbid is no HTTP forbid"
        );
    }
}

#[test]
fn path_parameters_do_not_hide_a_path_from_a_forbid() {
    let web = peer("ns/shop/sa/web");
    let forbid = |path: &str| {
        let specs = [
            json!({"effect": "permit", "to": {"paths": ["/{rest=**}"]}}),
            json!({"effect": "forbid", "to": {"paths": ["/admin", "/admin/{rest=**}", "/users/{id}/keys"]}}),
        ];
        !allowed(&specs, &http(&web, None, "GET", path))
    };
    for path in ["/admin", "/admin;x=1", "/admin;/keys", "/admin/x;y", "/users/7;a=b/keys;c"] {
        assert!(forbid(path), "{path}");
    }
    for path in ["/administrator", "/x;/admin", "/users/;a/keys2", "/users;admin"] {
        assert!(!forbid(path), "{path}");
    }
    let permit = [json!({"effect": "permit", "to": {"paths": ["/admin"]}})];
    assert!(!allowed(&permit, &http(&web, None, "GET", "/admin;x=1")), "a permit takes no other spelling");
}

#[test]
fn a_connection_of_bytes_is_permitted_by_workload_and_port_only() {
    let web = peer("ns/shop/sa/web");
    let facts = tcp(&web);
    assert!(allowed(&[json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/web"]}})], &facts));
    assert!(allowed(&[json!({"effect": "permit", "to": {"ports": ["db"]}})], &facts));
    assert!(!allowed(&[json!({"effect": "permit", "to": {"ports": ["http"]}})], &facts));
    for part in [
        json!({"to": {"methods": ["GET"]}}),
        json!({"to": {"paths": ["/{rest=**}"]}}),
        json!({"to": {"grpc": ["a.B/*"]}}),
        json!({"to": {"methods": ["GET"], "grpc": ["a.B/*"]}}),
        json!({"user": {"scopes": ["a"]}}),
        json!({"user": {"claims": {"a": {"equals": "b"}}}}),
        json!({"user": {"context": ["attached"]}}),
    ] {
        let with = |more: Value| {
            let mut spec = part.clone();
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        assert!(!allowed(&[with(json!({"effect": "permit"}))], &facts), "{part}");
        assert!(!set_with(&[with(json!({"effect": "forbid"}))], true).decide(&facts).allowed, "{part}");
        let skip = set_with(&[with(json!({"effect": "forbid", "ifAbsent": "skip"}))], true);
        assert!(skip.decide(&facts).allowed, "{part}");
    }
    let http_only = [json!({"effect": "forbid", "to": {"ports": ["http"], "methods": ["DELETE"]}})];
    assert!(set_with(&http_only, true).decide(&facts).allowed, "another port is not concerned");
}

#[test]
fn shadow_policies_are_reported_and_never_enforced() {
    let web = peer("ns/shop/sa/web");
    let facts = http(&web, None, "GET", "/");
    let permit = set(&[json!({"effect": "permit", "mode": "shadow"})]);
    let verdict = permit.decide(&facts);
    assert!(!verdict.allowed && verdict.shadow_allowed && verdict.basis == Basis::Default);
    assert_eq!((verdict.shadow[0].policy, verdict.shadow[0].would_allow), ("p0.shop", true));

    let forbid = set(&[json!({"effect": "permit"}), json!({"effect": "forbid", "mode": "shadow"})]);
    let verdict = forbid.decide(&facts);
    assert!(verdict.allowed && !verdict.shadow_allowed);
    assert_eq!((verdict.shadow.len(), verdict.shadow[0].would_allow), (1, false));

    let both = set(&[json!({"effect": "forbid"}), json!({"effect": "permit", "mode": "shadow"})]);
    let verdict = both.decide(&facts);
    assert!(!verdict.allowed && !verdict.shadow_allowed, "a shadow permit does not beat a forbid");
    let elsewhere = set(&[
        json!({"effect": "permit"}),
        json!({"effect": "forbid", "mode": "shadow", "to": {"methods": ["PUT"]}}),
    ]);
    let verdict = elsewhere.decide(&facts);
    assert!(verdict.allowed && verdict.shadow_allowed && verdict.shadow.is_empty());
}

#[test]
fn one_document_that_is_not_understood_denies_the_whole_target() {
    let web = peer("ns/shop/sa/web");
    let facts = http(&web, None, "GET", "/");
    let good = doc("good", &json!({"effect": "permit"}));
    let unknown = doc("newer", &json!({"effect": "permit", "freshness": "1m"}));
    let foreign = (
        "other.shop".to_owned(),
        doc("other", &json!({"effect": "permit", "target": {"service": "stock"}})).1,
    );
    let garbage = ("garbage.shop".to_owned(), "{".to_owned());
    for (bad, reason) in [
        (unknown, "unknown field `freshness`"),
        (foreign, "does not target `orders.shop`"),
        (garbage, "expected a JSON document"),
    ] {
        for docs in [vec![good.clone(), bad.clone()], vec![bad.clone(), good.clone()], vec![bad.clone()]] {
            for default_allow in [false, true] {
                let set =
                    PolicySet::compile(&own(), &"orders.shop".parse().unwrap(), docs.clone(), default_allow);
                let verdict = set.decide(&facts);
                assert_eq!((verdict.allowed, verdict.basis), (false, Basis::NotUnderstood));
                assert!(!verdict.shadow_allowed);
                assert_eq!(set.not_understood()[0].policy, bad.0);
                assert!(set.not_understood()[0].reason.contains(reason), "{:?}", set.not_understood());
            }
        }
    }
}

#[test]
fn a_workload_named_twice_finds_its_policy_once() {
    let web = peer("ns/shop/sa/web");
    let from = json!({"workloads": ["ns/shop/sa/web", "ns/shop/sa/*", "ns/shop/sa/web", "ns/shop/sa/*"]});
    let forbid = set(&[json!({"effect": "forbid", "from": from})]);
    assert_eq!(&*forbid.decide(&http(&web, None, "GET", "/")).deciding, &["p0.shop"]);
}

#[test]
fn a_verdict_names_four_policies_and_the_explanation_all() {
    let web = peer("ns/shop/sa/web");
    let forbids = set(&vec![json!({"effect": "forbid"}); 6]);
    let facts = http(&web, None, "GET", "/");
    assert_eq!(&*forbids.decide(&facts).deciding, &["p0.shop", "p1.shop", "p2.shop", "p3.shop"]);
    assert_eq!(forbids.explain(&facts).deciding.len(), 6);
}

#[test]
fn somebody_without_an_identity_is_let_in_only_where_no_policy_asks_who_calls() {
    let permit = json!({"effect": "permit"});
    let decided = |specs: &[Value], default_allow: bool| {
        let set = set_with(specs, default_allow);
        match set.decide_unproven("db") {
            Unproven::Permitted => "permitted".to_owned(),
            Unproven::Denied => "denied".to_owned(),
            Unproven::Asked { policy, field } => format!("{policy} {field}"),
            Unproven::NotUnderstood(policy) => format!("not understood: {policy}"),
        }
    };
    assert_eq!(decided(&[], false), "denied");
    assert_eq!(decided(&[], true), "permitted");
    assert_eq!(decided(std::slice::from_ref(&permit), false), "permitted");
    assert_eq!(decided(&[json!({"effect": "permit", "to": {"ports": ["http"]}})], false), "denied");
    assert_eq!(decided(&[json!({"effect": "permit", "to": {"ports": ["db", "http"]}})], false), "permitted");
    for default_allow in [false, true] {
        let forbid = json!({"effect": "forbid", "to": {"ports": ["db"]}});
        assert_eq!(decided(&[permit.clone(), forbid], default_allow), "denied");
    }
    let trial = json!({"effect": "forbid", "mode": "shadow"});
    assert_eq!(decided(&[permit.clone(), trial], false), "permitted", "a trial changes nothing");
    for (asks, field) in [
        (json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/web"]}}), "spec.from"),
        (json!({"effect": "forbid", "from": {"workloads": ["ns/shop/sa/*"]}}), "spec.from"),
        (json!({"effect": "forbid", "ifAbsent": "skip", "user": {"scopes": ["x"]}}), "spec.user"),
        (json!({"effect": "permit", "mode": "shadow", "user": {"required": true}}), "spec.user"),
        (json!({"effect": "permit", "to": {"paths": ["/a"], "ports": ["db"]}}), "spec.to.paths"),
        (json!({"effect": "permit", "to": {"methods": ["GET"]}}), "spec.to.methods"),
        (json!({"effect": "forbid", "to": {"grpc": ["a.B/*"]}}), "spec.to.grpc"),
    ] {
        assert_eq!(decided(&[permit.clone(), asks.clone()], true), format!("p1.shop {field}"), "{asks}");
        let mut elsewhere = asks;
        elsewhere["to"]["ports"] = json!(["http"]);
        assert_eq!(decided(&[permit.clone(), elsewhere], false), "permitted");
    }
    let newer = doc("newer", &json!({"effect": "permit", "newer": 1}));
    let set = PolicySet::compile(&own(), &"orders.shop".parse().unwrap(), [newer], true);
    assert_eq!(set.decide_unproven("db"), Unproven::NotUnderstood("newer.shop"));
}

#[test]
fn a_connection_is_good_for_nothing_when_no_request_on_it_could_be_permitted() {
    let web = peer("ns/shop/sa/web");
    let facts = tcp(&web);
    let may = |specs: &[Value], default: bool| set_with(specs, default).may_permit(&facts);
    let from_web = json!({"workloads": ["ns/shop/sa/web"]});
    let permit =
        json!({"effect": "permit", "from": from_web, "to": {"paths": ["/a"]}, "user": {"scopes": ["s"]}});
    let forbid_some = json!({"effect": "forbid", "from": from_web, "to": {"methods": ["POST"]}});
    let forbid_users = json!({"effect": "forbid", "user": {"scopes": ["banned"]}, "ifAbsent": "skip"});
    let forbid_all = json!({"effect": "forbid", "from": from_web});
    let of_other_port = |effect: &str| json!({"effect": effect, "to": {"ports": ["other"]}});
    assert!(!may(&[], false));
    assert!(may(&[], true));
    assert!(may(std::slice::from_ref(&permit), false), "some request of some user could be");
    assert!(may(&[permit.clone(), forbid_some.clone(), forbid_users], false));
    assert!(!may(&[permit.clone(), forbid_all.clone()], true));
    assert!(!may(&[forbid_some], false));
    assert!(!may(&[of_other_port("permit")], false));
    assert!(may(&[permit, of_other_port("forbid")], false));
    assert!(!may(&[json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/admin"]}})], false));
    let broken = PolicySet::compile(&own(), &"orders.shop".parse().unwrap(), [("p.shop", "{")], true);
    assert!(!broken.may_permit(&facts));
}
