//! What a `when` comes to: values, absence, types, and values that can be read in two ways.

use crate::common::{NOW, http, peer, set, tcp, user};
use serde_json::{Value, json};
use signet_identity::SpiffeId;
use signet_policy::{Context, Facts, Headers, PolicySet, User};

#[derive(Debug)]
struct Lines(&'static [(&'static str, &'static [u8])]);

impl Headers for Lines {
    fn any_line(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.iter().filter(|(had, _)| *had == name).any(|(_, value)| test(value))
    }
}

fn permit(when: &str) -> PolicySet {
    set(&[json!({"effect": "permit", "to": {"paths": ["/v1/orders/{id}"]}, "when": when})])
}

/// A forbid beside a permit of everything.
fn forbid(when: &str) -> PolicySet {
    set(&[
        json!({"effect": "permit"}),
        json!({"effect": "forbid", "to": {"paths": ["/v1/orders/{id}"]}, "when": when}),
    ])
}

fn ask<'a>(web: &'a SpiffeId, user: Option<&'a User>, path: &'a str, headers: &'a Lines) -> Facts<'a> {
    Facts { headers: Some(headers), ..http(web, user, "GET", path) }
}

#[test]
fn every_attribute_has_the_value_of_the_request() {
    let (web, user) = (peer("ns/shop/sa/web"), user());
    let headers = Lines(&[("x-tenant", b"blue"), ("x-tenant", b"green")]);
    let facts = ask(&web, Some(&user), "/v1/orders/7", &headers);
    for (when, holds) in [
        ("principal.id == \"spiffe://demo.signet/ns/shop/sa/web\"", true),
        ("principal.trustDomain == \"demo.signet\" && principal.class == \"sidecar\"", true),
        ("principal.namespace == \"shop\" && principal.account == \"web\"", true),
        (
            "resource.service == \"orders\" && resource.namespace == \"shop\" && resource.port == \"http\"",
            true,
        ),
        ("action == Action::\"request\"", true),
        ("action != Action::\"request\"", false),
        ("context.request.method == \"GET\" && context.request.params.id == \"7\"", true),
        ("context.request.headers[\"x-tenant\"].containsAll([\"green\", \"blue\"])", true),
        ("context.request.headers[\"x-tenant\"] == [\"green\", \"blue\"]", true),
        ("context.request.headers[\"x-tenant\"].contains(\"blue,green\")", false),
        ("context.request.headers has \"x-other\"", false),
        (
            "context.user.sub == \"idp|alice\" && context.user.cred == \"jwt\" && context.user.context == \"forwarded\"",
            true,
        ),
        ("context.user.scopes.containsAny([\"orders:write\", \"orders:list\"])", true),
        (
            "context.user.claims.groups.contains(\"staff\") && context.user.claims.email like \"*@example.com\"",
            true,
        ),
        ("context.user.claims.email.contains(\"alice@example.com\")", true),
        (
            "context.user.claims.level == 3 && context.user.claims.level < 4 && context.user.claims.level >= 3",
            true,
        ),
        ("context.user.claims.empty.isEmpty() && !(context.user.claims.groups.isEmpty())", true),
        ("context has user.claims.groups && !(context.user.claims has nothing)", true),
        (
            "context.now == datetime(\"2026-11-22T10:00:00Z\") && context.now.toTime() == duration(\"10h\")",
            true,
        ),
        ("context.now < datetime(\"2026-11-22\")", false),
    ] {
        assert_eq!(permit(when).decide(&facts).allowed, holds, "{when}");
        assert_eq!(!forbid(when).decide(&facts).allowed, holds, "forbid {when}");
        assert!(permit(when).decide(&facts).failed.is_empty(), "{when}");
    }
    assert_eq!(facts.now_ms, NOW);
}

#[test]
fn what_cannot_be_evaluated_permits_nothing_and_forbids() {
    let (web, user) = (peer("ns/shop/sa/web"), user());
    let headers = Lines(&[("x-tenant", b"\xff\xfe")]);
    let facts = ask(&web, Some(&user), "/v1/orders/7", &headers);
    for (when, why) in [
        ("context.user.claims.nothing == \"x\"", "absent"),
        ("!(context.user.claims.nothing == \"x\")", "absent"),
        ("context.user.claims.level == \"3\"", "type"),
        ("context.user.claims.email == 3", "type"),
        ("context.user.claims.mixed.contains(\"a\")", "type"),
        ("context.user.claims.none == \"x\"", "type"),
        ("context.request.headers[\"x-other\"].isEmpty()", "absent"),
        ("context.request.headers[\"x-tenant\"].isEmpty()", "type"),
    ] {
        let set = permit(when);
        let verdict = set.decide(&facts);
        assert!(!verdict.allowed, "{when}");
        assert_eq!(verdict.failed[0].policy, "p0.shop");
        assert_eq!(verdict.failed[0].why, why, "{when}");
        let set = forbid(when);
        let verdict = set.decide(&facts);
        assert!(!verdict.allowed, "{when}");
        assert_eq!(verdict.failed[0].why, why);
        let skip = set_with_skip(when);
        assert!(skip.decide(&facts).allowed, "ifAbsent: skip {when}");
    }
    // From left to right: what is settled before is not evaluated.
    assert!(permit("true || context.user.claims.nothing == \"x\"").decide(&facts).allowed);
    assert!(!permit("context.user.claims.nothing == \"x\" || true").decide(&facts).allowed);
}

fn set_with_skip(when: &str) -> PolicySet {
    set(&[
        json!({"effect": "permit"}),
        json!({"effect": "forbid", "ifAbsent": "skip", "when": when,
        "to": {"paths": ["/v1/orders/{id}"]}}),
    ])
}

#[test]
fn a_user_who_is_only_attached_is_none_to_a_permit_that_does_not_take_one() {
    let web = peer("ns/shop/sa/web");
    let attached = User { context: Context::Attached, ..user() };
    let facts = http(&web, Some(&attached), "GET", "/v1/orders/7");
    let staff = "context.user.claims.groups.contains(\"staff\")";
    assert!(!permit(staff).decide(&facts).allowed);
    assert!(!forbid(staff).decide(&facts).allowed, "a forbid speaks of any user");
    let takes = set(&[json!({"effect": "permit", "user": {"context": ["attached"]}, "when": staff})]);
    assert!(takes.decide(&facts).allowed);
}

#[test]
fn who_acts_for_a_user_can_be_asked_for_and_is_absent_where_nobody_does() {
    let web = peer("ns/shop/sa/web");
    let (own, acted) = (user(), User { actor: Some("staff|sam".into()), ..user() });
    let ask =
        |user: &User, set: &PolicySet| set.decide(&http(&web, Some(user), "GET", "/v1/orders/7")).allowed;
    let nobody_acts = forbid("context has user && context.user has actor");
    assert!(ask(&own, &nobody_acts) && !ask(&acted, &nobody_acts));
    let sam = permit("context.user.actor == \"staff|sam\"");
    assert!(!ask(&own, &sam) && ask(&acted, &sam));
    assert!(!ask(&own, &forbid("context.user.actor == \"staff|sam\"")), "what cannot be evaluated forbids");
    let said = nobody_acts.explain(&http(&web, Some(&acted), "GET", "/v1/orders/7"));
    assert!(said.to_string().contains("staff|sam acts"), "{said}");
    let json = serde_json::to_value(&said).unwrap();
    assert_eq!(json["facts"]["user"]["actor"], "staff|sam");
}

#[test]
fn a_value_with_two_readings_must_hold_in_both_for_a_permit_and_in_one_for_a_forbid() {
    let web = peer("ns/shop/sa/web");
    let admin = "context.request.headers[\"x-role\"].contains(\"admin\")";
    let not_admin = "!(context.request.headers[\"x-role\"].contains(\"admin\"))";
    let two = Lines(&[("x-role", b"user, admin")]);
    let lines = Lines(&[("x-role", b"user"), ("x-role", b"admin")]);
    let facts = ask(&web, None, "/v1/orders/7", &two);
    assert!(!permit(admin).decide(&facts).allowed);
    assert!(!permit(not_admin).decide(&facts).allowed);
    assert!(!forbid(admin).decide(&facts).allowed);
    assert!(!forbid(not_admin).decide(&facts).allowed);
    let facts = ask(&web, None, "/v1/orders/7", &lines);
    assert!(permit(admin).decide(&facts).allowed);
    assert!(!permit(not_admin).decide(&facts).allowed);
    // The same of `;parameters` in a path.
    let seven = "context.request.params.id == \"7\"";
    let facts = http(&web, None, "GET", "/v1/orders/7;v=1");
    assert!(!permit(seven).decide(&facts).allowed);
    assert!(!forbid(seven).decide(&facts).allowed);
    assert!(!forbid("context.request.params.id != \"7\"").decide(&facts).allowed);
    assert!(forbid("context.request.params.id == \"8\"").decide(&facts).allowed);
}

#[test]
fn a_connection_has_no_request_and_no_user() {
    let backup = peer("ns/shop/sa/backup");
    let facts = tcp(&backup);
    let decide = |effect: &str, when: &str| {
        set(&[json!({"effect": "permit"}), json!({"effect": effect, "when": when})]).decide(&facts).allowed
    };
    assert!(
        set(&[json!({"effect": "permit", "when": "principal.account == \"backup\""})]).decide(&facts).allowed
    );
    assert!(!decide("forbid", "context.request.method == \"GET\""), "absent: the forbid matches");
    assert!(decide("forbid", "context has request && context.request.method == \"GET\""));
    assert!(decide("forbid", "action == Action::\"request\""));
    assert!(!decide("forbid", "!(context has user)"));
}

#[test]
fn a_connection_ends_when_its_time_is_over() {
    let backup = peer("ns/shop/sa/backup");
    let night =
        set(&[json!({"effect": "permit", "when": "context.now < datetime(\"2026-11-22T10:00:00Z\")"})]);
    assert!(night.depends_on_time());
    let at = |now_ms: i64| Facts { now_ms, ..tcp(&backup) };
    assert!(night.decide(&at(NOW - 1)).allowed && night.may_permit(&at(NOW - 1)));
    assert!(!night.decide(&at(NOW)).allowed && !night.may_permit(&at(NOW)));
    // Nothing is known of the requests that are still to come: the connection stays.
    let request = set(&[json!({"effect": "permit", "when": "context.request.method == \"GET\""})]);
    assert!(request.may_permit(&at(NOW)) && !request.depends_on_time());
    let forbid = set(&[
        json!({"effect": "permit"}),
        json!({"effect": "forbid", "when": "principal.account == \"backup\""}),
    ]);
    assert!(!forbid.may_permit(&at(NOW)));
    let other = set(&[
        json!({"effect": "permit"}),
        json!({"effect": "forbid", "when": "principal.account == \"web\""}),
    ]);
    assert!(other.may_permit(&at(NOW)));
}

#[test]
fn an_explanation_says_what_the_condition_read() {
    let (web, user) = (peer("ns/shop/sa/web"), user());
    let facts = http(&web, Some(&user), "GET", "/v1/orders/7");
    let reason = |when: &str| permit(when).explain(&facts).reason;
    assert_eq!(
        reason("context.user.claims.groups.contains(\"ops\") &&\n  context.request.params.id == \"8\""),
        "no policy permits this; nearest is p0.shop: when expected context.user.claims.groups.contains(\"ops\") && \
         context.request.params.id == \"8\", had context.user.claims[\"groups\"] [`staff`, `support`], \
         context.request.params.id `7`"
    );
    assert_eq!(
        reason("context.user.claims.level == \"3\""),
        "no policy permits this; nearest is p0.shop: when expected context.user.claims.level == \"3\", had \
         context.user.claims[\"level\"] is not a text"
    );
    let told = forbid("context.user.claims.nothing == \"x\"").explain(&facts);
    assert_eq!(told.reason, "forbidden by p1.shop (absent: when)");
}

#[test]
fn who_is_nobody_is_not_let_in_where_a_condition_asks() {
    let set = set(&[json!({"effect": "permit"}), json!({"effect": "forbid", "when": "context has user"})]);
    assert!(matches!(set.decide_unproven("http"), signet_policy::Unproven::Asked { field: "spec.when", .. }));
}

#[test]
fn a_condition_that_cannot_be_read_makes_the_service_deny() {
    let doc = |when: &str| -> Value {
        json!({"apiVersion": "signet.mesh/v1alpha1", "kind": "MeshPolicy",
            "metadata": {"namespace": "shop", "name": "p"}, "spec": {"effect": "permit", "when": when}})
    };
    let docs = [("p.shop", doc("context.later.attribute == 1").to_string())];
    let set = PolicySet::compile(&crate::common::own(), &"orders.shop".parse().unwrap(), docs, true);
    let web = peer("ns/shop/sa/web");
    assert!(!set.decide(&http(&web, None, "GET", "/")).allowed);
    assert!(set.not_understood()[0].reason.contains("got `later`"), "{:?}", set.not_understood());
}
