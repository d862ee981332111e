//! Guard rails, exceptions with an end, and shadow policies beside what is enforced.

use crate::common::{NOW, doc, http, own, peer, tcp, user};
use serde_json::{Value, json};
use signet_model::PolicyDocument;
use signet_policy::{Answer, Explanation, Facts, PolicySet, Replayed};

fn rail(name: &str, spec: &Value) -> (String, String) {
    let json = json!({"apiVersion": "signet.mesh/v1alpha1", "kind": "GuardRail", "metadata": {"name": name}, "spec": spec});
    (format!("guard-rail/{name}"), json.to_string())
}

fn compiled(docs: Vec<(String, String)>) -> PolicySet {
    let set = PolicySet::compile(&own(), &"orders.shop".parse().unwrap(), docs, false);
    assert!(set.not_understood().is_empty(), "{:?}", set.not_understood());
    set
}

/// 2026-11-22T10:00:00Z is `NOW`.
fn exception(until: &str, more: &Value) -> Value {
    let mut exception = json!({"owner": "team-orders <orders@example.com>", "reason": "moving", "until": until,
        "from": {"workloads": ["ns/shop/sa/web"]}});
    exception.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    exception
}

#[test]
fn no_permit_of_a_namespace_lifts_a_guard_rail() {
    let everything = doc("all", &json!({"effect": "permit"}));
    let set = compiled(vec![
        everything,
        rail("no-jobs", &json!({"forbid": {"from": {"workloads": ["ns/jobs/sa/*"]}}})),
    ]);
    let (web, jobs) = (peer("ns/shop/sa/web"), peer("ns/jobs/sa/nightly"));
    assert!(set.decide(&http(&web, None, "GET", "/")).allowed);
    let told = set.explain(&http(&jobs, None, "GET", "/"));
    assert_eq!(told.reason, "forbidden by guard-rail/no-jobs");
    assert!(!set.may_permit(&http(&jobs, None, "GET", "/")));
}

#[test]
fn a_guard_rail_speaks_of_its_namespaces_only_and_in_shadow_of_none() {
    let forbid = json!({"from": {"workloads": ["ns/shop/sa/web"]}});
    let other = rail("other", &json!({"namespaces": ["payments"], "forbid": forbid}));
    let set = PolicySet::compile(&own(), &"orders.shop".parse().unwrap(), [other], true);
    assert_eq!(
        set.not_understood()[0].reason,
        "it does not target `orders.shop`",
        "a mistake of delivery denies"
    );
    let trial = rail("trial", &json!({"mode": "shadow", "namespaces": ["shop"], "forbid": forbid}));
    let set = compiled(vec![doc("all", &json!({"effect": "permit"})), trial]);
    let web = peer("ns/shop/sa/web");
    let verdict = set.decide(&http(&web, None, "GET", "/"));
    assert!(verdict.allowed && !verdict.shadow_allowed);
    assert_eq!((verdict.shadow[0].policy, verdict.shadow[0].changes), ("guard-rail/trial", true));
    // One that only limits permits has nothing to decide.
    let limits = rail("limits", &json!({"permits": {"requireFrom": true}}));
    assert!(
        compiled(vec![doc("all", &json!({"effect": "permit"})), limits])
            .decide(&http(&web, None, "GET", "/"))
            .allowed
    );
}

#[test]
fn an_exception_spares_whom_it_names_until_its_end_by_the_deciders_clock() {
    let spec = json!({"forbid": {}, "exceptions": [exception("2026-11-22T10:00:01Z", &json!({}))]});
    let set = compiled(vec![doc("all", &json!({"effect": "permit"})), rail("closed", &spec)]);
    let (web, other) = (peer("ns/shop/sa/web"), peer("ns/shop/sa/other"));
    let at = |peer, now_ms| Facts { now_ms, ..http(peer, None, "GET", "/") };
    let verdict = set.decide(&at(&web, NOW + 999));
    assert!(verdict.allowed);
    assert_eq!(&*verdict.excepted, ["guard-rail/closed"]);
    assert!(!set.decide(&at(&web, NOW + 1000)).allowed, "over");
    assert!(!set.decide(&at(&other, NOW)).allowed, "somebody else");
    let told = set.explain(&at(&web, NOW));
    assert_eq!(told.reason, "permitted by all.shop");
    let spared = &told.excepted[0];
    assert_eq!(
        (spared.policy.as_str(), spared.until.as_str()),
        ("guard-rail/closed", "2026-11-22T10:00:01Z")
    );
    assert!(
        told.to_string()
            .contains("guard-rail/closed spares this until 2026-11-22T10:00:01Z, says team-orders")
    );
    // The same of a connection that is open: it is asked again, and ends.
    assert!(set.depends_on_time());
    let stream = |now_ms| Facts { now_ms, ..tcp(&web) };
    assert!(set.decide(&stream(NOW)).allowed && set.may_permit(&stream(NOW)));
    assert!(!set.decide(&stream(NOW + 1000)).allowed && !set.may_permit(&stream(NOW + 1000)));
}

#[test]
fn an_exception_permits_nothing_by_itself_and_takes_nobody_by_what_is_absent() {
    let until = "2030-01-01T00:00:00Z";
    let (web, user) = (peer("ns/shop/sa/web"), user());
    let set =
        compiled(vec![rail("closed", &json!({"forbid": {}, "exceptions": [exception(until, &json!({}))]}))]);
    assert!(!set.decide(&http(&web, None, "GET", "/")).allowed, "no permit");
    let more = json!({"user": {"scopes": ["orders:read"]}, "to": {"methods": ["GET"]}, "when": "context.user.claims.level == 3"});
    let forbid = json!({"effect": "forbid", "exceptions": [exception(until, &more)]});
    let set = compiled(vec![doc("all", &json!({"effect": "permit"})), doc("no", &forbid)]);
    assert!(set.decide(&http(&web, Some(&user), "GET", "/")).allowed);
    assert!(!set.decide(&http(&web, None, "GET", "/")).allowed);
    assert!(!set.decide(&http(&web, Some(&user), "PUT", "/")).allowed);
    let low = signet_policy::User { claims: serde_json::Map::new(), ..user.clone() };
    assert!(!set.decide(&http(&web, Some(&low), "GET", "/")).allowed);
    // A request that could be spared keeps its connection.
    assert!(set.may_permit(&http(&web, None, "GET", "/")));
    assert!(!set.decide(&tcp(&web)).allowed);
}

#[test]
fn an_exception_of_one_forbid_is_none_of_another() {
    let forbid = json!({"effect": "forbid", "exceptions": [exception("2030-01-01T00:00:00Z", &json!({}))]});
    let set = compiled(vec![
        doc("all", &json!({"effect": "permit"})),
        doc("a", &forbid),
        doc("b", &json!({"effect": "forbid"})),
    ]);
    let web = peer("ns/shop/sa/web");
    let told = set.explain(&http(&web, None, "GET", "/"));
    assert_eq!((told.verdict, told.reason.as_str()), (Answer::Deny, "forbidden by b.shop"));
}

#[test]
fn every_shadow_policy_is_heard_of_with_what_it_would_have_changed() {
    let shadow = |effect: &str| json!({"effect": effect, "mode": "shadow"});
    let mut docs: Vec<_> = (0..6)
        .map(|i| doc(&format!("s{i}"), &shadow(if i % 2 == 0 { "forbid" } else { "permit" })))
        .collect();
    let web = peer("ns/shop/sa/web");
    let heard = |set: &PolicySet| {
        let mut heard = Vec::new();
        set.decide_beside(&http(&web, None, "GET", "/"), |shadow| {
            heard.push((shadow.would_allow, shadow.changes))
        });
        heard
    };
    let denied = heard(&compiled(docs.clone()));
    assert_eq!(
        denied,
        [(false, false), (true, true), (false, false), (true, true), (false, false), (true, true)]
    );
    docs.push(doc("all", &json!({"effect": "permit"})));
    let allowed = heard(&compiled(docs.clone()));
    assert_eq!(
        allowed,
        [(false, true), (true, false), (false, true), (true, false), (false, true), (true, false)]
    );
    docs.push(doc("none", &json!({"effect": "forbid"})));
    let forbidden = heard(&compiled(docs));
    assert!(
        forbidden.iter().all(|(_, changes)| !changes),
        "what is forbidden stays forbidden: {forbidden:?}"
    );
}

#[test]
fn a_recorded_decision_is_decided_again_and_what_was_not_recorded_is_not_guessed() {
    let (web, user) = (peer("ns/shop/sa/web"), user());
    let staff = json!({"effect": "permit", "user": {"claims": {"groups": {"anyOf": ["staff"]}}}});
    let then = compiled(vec![doc("p", &staff)]);
    let told = then.explain(&http(&web, Some(&user), "GET", "/v1/orders/7"));
    let stored: Explanation = serde_json::from_str(&serde_json::to_string(&told).unwrap()).unwrap();
    assert_eq!(
        stored.facts.user.as_ref().unwrap().claims.len(),
        1,
        "of the claims only those that a policy reads"
    );
    let replay = |spec: &Value| compiled(vec![doc("p", spec)]).replay(&stored, NOW);
    assert_eq!(replay(&staff), Replayed::Unchanged);
    assert_eq!(
        replay(&json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/web"]}})),
        Replayed::Unchanged
    );
    let ops = json!({"effect": "permit", "user": {"claims": {"groups": {"anyOf": ["ops"]}}}});
    assert!(matches!(replay(&ops), Replayed::Flipped { to: Answer::Deny, .. }));
    let level = json!({"effect": "permit", "when": "context.user.claims.level == 3"});
    assert_eq!(replay(&level), Replayed::Undecidable("the claim `level` was not recorded".into()));
    let header = json!({"effect": "permit", "when": "context.request.headers has \"x-tenant\""});
    assert_eq!(replay(&header), Replayed::Undecidable("the header `x-tenant` was not recorded".into()));
    let night = json!({"effect": "permit", "when": "context.now < datetime(\"2026-11-22T10:00:00Z\")"});
    assert!(matches!(replay(&night), Replayed::Flipped { .. }), "as at its own time");
    let long = format!("/{}", "x".repeat(500));
    let stored = then.explain(&http(&web, Some(&user), "GET", &long));
    assert!(matches!(then.replay(&stored, NOW), Replayed::Undecidable(_)));
}

#[test]
fn a_document_of_neither_kind_is_not_understood() {
    let read = |json: &str| PolicyDocument::from_json(json).map_err(|error| error.to_string());
    assert_eq!(
        read(
            r#"{"apiVersion":"signet.mesh/v1alpha1","kind":"Mesh","metadata":{"name":"default"},"spec":{}}"#
        )
        .unwrap_err(),
        "kind: expected MeshPolicy, got `Mesh`"
    );
    assert!(read(&rail("x", &json!({"forbid": {}, "later": 1})).1).unwrap_err().contains("later"));
}
